//! Links that are not to be: what is said to the other end and to people, in which words, and how often. Does not decide
//! who is refused: [`super::handshake`] does.

use std::net::SocketAddr;

use super::{LinkNews, LinkWish, Links};
use crate::engine::tellings::Tellings;
use crate::format::link_hello::{LINK_VERSION, LinkFacts, RefusedWhy, encode_refuse, shown_version};
use crate::ids::{LinkConn, Place};

/// Who is on the other side, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkParty {
    /// Whom we dialed, or who it says it is.
    pub place: Option<Place>,
    /// What we dialed.
    pub address: Option<SocketAddr>,
    /// From where it dialed us, at port 0: that is another one each time, and says nothing.
    pub from: Option<SocketAddr>,
}

impl std::fmt::Display for LinkParty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some(place) => write!(f, "node {}", place.node.0)?,
            None if self.address.is_none() && self.from.is_none() => return f.write_str("somebody unknown"),
            None => f.write_str("whoever is")?,
        }
        match (self.address, self.from) {
            (Some(address), _) => write!(f, " at {address}"),
            (None, Some(from)) => write!(f, " at {}", from.ip()),
            (None, None) => Ok(()),
        }
    }
}

/// What was told: with whom, why, and whether we refused.
pub(super) type Refusals = Tellings<(LinkParty, RefusedWhy, bool)>;

impl Links {
    /// We do not want this socket, and say why.
    pub(super) fn refuse(&mut self, conn: LinkConn, facts: Option<&LinkFacts>, why: RefusedWhy) {
        let text = match (why, facts) {
            (RefusedWhy::ClusterName, Some(facts)) => {
                let (here, ours) = (self.config.here.node.0, &self.config.cluster_name);
                let (there, theirs) = (facts.place.node.0, &facts.cluster_name);
                format!("{why}: node {here} says {ours:?}, node {there} says {theirs:?}")
            }
            (RefusedWhy::ClusterId, Some(facts)) => {
                let (here, there) = (self.config.here.node.0, facts.place.node.0);
                format!(
                    "{why}, {:?}: if node {here} or node {there} was to join the other one's, stop it, set its data directory aside \
                     and start it again",
                    facts.cluster_name
                )
            }
            _ => why.to_string(),
        };
        self.refuse_saying(conn, facts.map(|facts| facts.place), why, text);
    }

    /// The other end is another program.
    pub(super) fn refuse_version(&mut self, conn: LinkConn, version: u16) {
        let (here, program) = (self.config.here.node.0, env!("CARGO_PKG_VERSION"));
        let (ours, theirs) = (shown_version(LINK_VERSION), shown_version(version));
        let why = RefusedWhy::Version;
        let text = format!("{why}: node {here} (jindou {program}) speaks {ours}, the other one {theirs}");
        self.refuse_saying(conn, None, why, text);
    }

    fn refuse_saying(&mut self, conn: LinkConn, from: Option<Place>, why: RefusedWhy, text: String) {
        let Some(who) = self.party(conn, from) else { return };
        if why != RefusedWhy::NotLink {
            self.write(conn, encode_refuse(why, &text));
        }
        self.tell_refused(who, why, true, text.into());
        self.give_up(conn, why);
    }

    /// They do not want us.
    pub(super) fn refused(&mut self, conn: LinkConn, from: Option<Place>, why: RefusedWhy, text: Box<str>) {
        let Some(who) = self.party(conn, from) else { return };
        self.tell_refused(who, why, false, text);
        self.give_up(conn, why);
    }

    fn party(&self, conn: LinkConn, said: Option<Place>) -> Option<LinkParty> {
        let connection = self.connections.get(&conn)?;
        let from = connection.from.map(|from| SocketAddr::new(from.ip(), 0));
        Some(LinkParty { place: said.or(connection.link), address: connection.address, from })
    }

    /// Hangs up; a dial that was refused for good is tried again as late as any.
    fn give_up(&mut self, conn: LinkConn, why: RefusedWhy) {
        let place = self.connections.get(&conn).and_then(|connection| connection.link);
        if let Some(link) = place.and_then(|place| self.links.get_mut(&place)).filter(|_| !why.is_usual()) {
            link.attempts = u32::MAX / 2;
        }
        self.wishes.push(LinkWish::Hangup { conn });
        self.lost(conn);
    }

    fn tell_refused(&mut self, who: LinkParty, why: RefusedWhy, ours: bool, text: Box<str>) {
        if why.is_usual() {
            return;
        }
        if ours {
            self.counters.refused += 1;
        } else {
            self.counters.refused_by_others += 1;
        }
        if self.refusals.is_due(self.now, (who, why, ours)) {
            self.news.push(LinkNews::Refused { who, why, ours, text });
        }
    }
}
