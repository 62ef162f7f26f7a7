//! How a socket becomes a link's: hello, welcome, proof, and the decisions in between. Moves no frames.
//!
//! # Who goes on from where
//! Both ends name the run of reliable frames (the epoch) they have with this process of the other. The dialer decides: the same
//! run on both sides goes on; anything else begins a new one, and both forget what they had. The acceptor takes the new run when
//! the Proof is right, the dialer when the first batch comes back. If that batch is lost the dialer still knows what it
//! proposed, and the next handshake goes on with it.
//!
//! # Who dials
//! Both may. While both do, the socket that the smaller place dialed wins: the smaller refuses the other as busy, the larger gives
//! up its own. A dial that has no socket yet gives way, so one blocked direction does no harm. A peer of the same process that
//! dials while the link is up has lost the socket: the new one replaces it.

use bytes::Bytes;

use super::entry::{AckDue, Connection, Link, Lossy, Stage};
use super::{LinkNews, LinkState, Links};
use crate::format::link_hello::{
    self, BadHello, LinkFacts, LinkMessage, LinkProof, LinkResume, Nonce, RefusedWhy, encode_hello, encode_proof,
    encode_welcome, verify_proof, verify_welcome,
};
use crate::ids::{LinkConn, Place};

/// A handshake that came to its end.
struct Settled<'a> {
    facts: &'a LinkFacts,
    proof: LinkProof,
    /// What the peer has of us in this run.
    received: u64,
}

impl Links {
    /// Our dial has a socket: introduce ourselves.
    pub(super) fn say_hello(&mut self, conn: LinkConn) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let facts = self.facts(connection.link);
        let hello = encode_hello(&facts);
        self.write(conn, hello.clone());
        self.restart_handshake(conn, Stage::Hello { hello });
    }

    fn facts(&mut self, wanted: Option<Place>) -> LinkFacts {
        let mut nonce = Nonce::default();
        nonce[..8].copy_from_slice(&self.chance.number().to_le_bytes());
        nonce[8..].copy_from_slice(&self.chance.number().to_le_bytes());
        LinkFacts {
            cluster_name: self.config.cluster_name.clone(),
            cluster_id: self.cluster_id,
            place: self.config.here,
            identity: self.config.identity,
            boot: self.config.boot,
            wanted,
            nonce,
        }
    }

    /// Takes messages until the handshake is over or wants more bytes.
    pub(super) fn take_messages(&mut self, conn: LinkConn) {
        while let Some(connection) = self.connections.get_mut(&conn) {
            let frames_next = connection.gather.first_byte().is_some_and(|byte| byte != link_hello::LINK_MAGIC as u8);
            match connection.stage {
                Stage::Up => return,
                // The peer took our proof and sends frames: those are its answer.
                Stage::Proved { .. } if frames_next => return self.take_first_batch(conn),
                _ => {}
            }
            match connection.gather.next_message() {
                Ok(None) => return,
                Ok(Some((message, raw))) => self.take_message(conn, message, &raw),
                Err(BadHello::Version(version)) => self.refuse_version(conn, version),
                Err(_) => self.refuse(conn, None, RefusedWhy::NotLink),
            }
        }
    }

    fn take_message(&mut self, conn: LinkConn, message: LinkMessage, raw: &Bytes) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let stage = std::mem::replace(&mut connection.stage, Stage::Silent);
        match (stage, message) {
            (Stage::Welcomed { facts, .. } | Stage::Proved { facts, .. }, LinkMessage::Refuse(why, text)) => {
                self.refused(conn, Some(facts.place), why, text);
            }
            (_, LinkMessage::Refuse(why, text)) => self.refused(conn, None, why, text),
            (Stage::Silent, LinkMessage::Hello(facts)) if conn.is_accepted() => self.take_hello(conn, facts, raw),
            (Stage::Hello { hello }, LinkMessage::Welcome(facts, resume)) => {
                let settled = self.judge_welcome(conn, &hello, &facts, resume, raw);
                self.unless_refused(conn, &facts, settled);
            }
            (Stage::Welcomed { hello, welcome, facts, offered }, LinkMessage::Proof(proof)) => {
                let known = verify_proof(&self.key, &hello, &welcome, raw);
                let settled =
                    if known { self.judge_proof(conn, &facts, offered, proof) } else { Err(RefusedWhy::Secret) };
                self.unless_refused(conn, &facts, settled);
            }
            _ => self.refuse(conn, None, RefusedWhy::NotLink),
        }
    }

    fn unless_refused(&mut self, conn: LinkConn, from: &LinkFacts, outcome: Result<(), RefusedWhy>) {
        if let Err(why) = outcome {
            self.refuse(conn, Some(from), why);
        }
    }

    /// A stranger still: nothing of ours changes by it.
    fn take_hello(&mut self, conn: LinkConn, facts: LinkFacts, raw: &Bytes) {
        if let Err(why) = self.judge_names(&facts) {
            return self.refuse(conn, Some(&facts), why);
        }
        let offered = self.resume_with(&facts);
        let ours = self.facts(Some(facts.place));
        let welcome = encode_welcome(&self.key, raw, &ours, offered);
        self.write(conn, welcome.clone());
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.stage = Stage::Welcomed { hello: raw.to_vec(), welcome, facts: Box::new(facts), offered };
        }
    }

    fn judge_welcome(
        &mut self,
        conn: LinkConn,
        hello: &[u8],
        facts: &LinkFacts,
        theirs: LinkResume,
        raw: &Bytes,
    ) -> Result<(), RefusedWhy> {
        if !verify_welcome(&self.key, hello, raw) {
            return Err(RefusedWhy::Secret);
        }
        self.judge_names(facts)?;
        let wanted = self.connections.get(&conn).and_then(|connection| connection.link);
        if wanted.is_some_and(|wanted| wanted != facts.place) {
            return Err(RefusedWhy::WrongTarget);
        }
        self.judge_process(facts)?;
        // A seed that belongs to no cluster yet: it asks by itself whom it was told to ask, not whoever dials it.
        if wanted.is_none() && self.cluster_id != 0 && facts.cluster_id == 0 {
            return Err(RefusedWhy::Busy);
        }
        let link = self.links.get(&facts.place);
        if wanted.is_none() && link.is_some_and(|link| link.state == LinkState::Up && link.boot == facts.boot) {
            return Err(RefusedWhy::Busy);
        }
        let ours = self.resume_with(facts);
        let same = ours.epoch != 0 && ours.epoch == theirs.epoch;
        let fresh = !(same && link.is_some_and(|link| link.window.covers(theirs.received)));
        let resume = if fresh { LinkResume { epoch: self.chance.number().max(1), received: 0 } } else { ours };
        let proof = LinkProof { resume, fresh };
        self.write(conn, encode_proof(&self.key, hello, raw, proof));
        let received = if fresh { 0 } else { theirs.received };
        if fresh {
            self.propose(facts, resume.epoch);
        }
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.stage = Stage::Proved { facts: Box::new(facts.clone()), proof, received };
        }
        Ok(())
    }

    /// A run that the peer does not know has come to its end, whatever becomes of the new one.
    fn propose(&mut self, facts: &LinkFacts, epoch: u64) {
        let Some(link) = self.links.get_mut(&facts.place) else { return };
        if link.adopted {
            link.forget();
            self.counters.resets += 1;
            self.news.push(LinkNews::Reset { peer: facts.place });
        }
        link.epoch = epoch;
        (link.identity, link.boot) = (facts.identity, facts.boot);
    }

    fn judge_proof(
        &mut self,
        conn: LinkConn,
        facts: &LinkFacts,
        offered: LinkResume,
        proof: LinkProof,
    ) -> Result<(), RefusedWhy> {
        self.judge_process(facts)?;
        let here = self.config.here;
        if let Some(link) = self.links.get(&facts.place) {
            let own_dial = link.conn.filter(|_| link.state == LinkState::Dialing);
            let own_socket = own_dial
                .and_then(|dial| self.connections.get(&dial))
                .is_some_and(|dial| !matches!(dial.stage, Stage::Dialing));
            if own_socket && here < facts.place {
                return Err(RefusedWhy::Busy);
            }
        }
        // The run that it answers to may be gone meanwhile.
        if self.resume_with(facts).epoch != offered.epoch {
            return Err(RefusedWhy::Busy);
        }
        let received = proof.resume.received;
        if !proof.fresh {
            let covered = self.links.get(&facts.place).is_some_and(|link| link.window.covers(received));
            if proof.resume.epoch != offered.epoch || !covered {
                self.reset(facts.place);
                return Err(RefusedWhy::Busy);
            }
        }
        let received = if proof.fresh { 0 } else { received };
        self.settle(conn, &Settled { facts, proof, received })
    }

    /// The dialer's end: the peer has taken our proof.
    fn take_first_batch(&mut self, conn: LinkConn) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match connection.gather.next_frames() {
            Ok(None) => {}
            Err(_) => self.broken(conn),
            Ok(Some(batch)) => {
                let Stage::Proved { facts, proof, received } = std::mem::replace(&mut connection.stage, Stage::Silent)
                else {
                    return;
                };
                let place = facts.place;
                let settled = self
                    .judge_process(&facts)
                    .and_then(|()| self.settle(conn, &Settled { facts: &facts, proof, received }));
                match settled {
                    Ok(()) => self.take_batch(place, batch),
                    Err(why) => self.refuse(conn, Some(&facts), why),
                }
            }
        }
    }

    /// What is written on the outside: whether the other belongs here and wants us.
    fn judge_names(&self, facts: &LinkFacts) -> Result<(), RefusedWhy> {
        let here = self.config.here;
        if facts.cluster_name != self.config.cluster_name {
            return Err(RefusedWhy::ClusterName);
        }
        if facts.cluster_id != 0 && self.cluster_id != 0 && facts.cluster_id != self.cluster_id {
            return Err(RefusedWhy::ClusterId);
        }
        if facts.place.node == here.node {
            let itself = facts.identity == self.config.identity && facts.boot == self.config.boot;
            return Err(if itself { RefusedWhy::Itself } else { RefusedWhy::DoubleId });
        }
        if facts.wanted.is_some_and(|wanted| wanted != here) {
            return Err(RefusedWhy::WrongTarget);
        }
        Ok(())
    }

    /// Whether a live link speaks against this process: a copied data directory, or a node id given out twice. A member is not
    /// kept out by somebody who only uses its id.
    fn judge_process(&self, facts: &LinkFacts) -> Result<(), RefusedWhy> {
        let Some(link) = self.links.get(&facts.place) else {
            return if self.links.len() < self.config.limits.links_max { Ok(()) } else { Err(RefusedWhy::Full) };
        };
        let limits = &self.config.limits;
        let alive = link.state == LinkState::Up && self.now.since(link.heard) < limits.silent_after * 2;
        let only_member = self.is_member(facts.place, facts.identity) && !self.is_member(facts.place, link.identity);
        if alive && link.boot != facts.boot && !only_member {
            return Err(RefusedWhy::DoubleId);
        }
        Ok(())
    }

    /// The run that we have with this process of the peer.
    fn resume_with(&self, facts: &LinkFacts) -> LinkResume {
        let link = self.links.get(&facts.place).filter(|link| link.epoch != 0 && link.boot == facts.boot);
        link.map_or(LinkResume::default(), |link| LinkResume { epoch: link.epoch, received: link.received })
    }

    /// The link has a socket.
    fn settle(&mut self, conn: LinkConn, settled: &Settled<'_>) -> Result<(), RefusedWhy> {
        let facts = settled.facts;
        let (place, now) = (facts.place, self.now);
        if !self.links.contains_key(&place) {
            if self.links.len() >= self.config.limits.links_max {
                return Err(RefusedWhy::Full);
            }
            self.links.insert(place, Link::new(now, &self.config.limits));
        }
        let covered = self.links.get(&place).is_some_and(|link| link.window.covers(settled.received));
        if !settled.proof.fresh && !covered {
            return Err(RefusedWhy::Busy);
        }
        self.drop_rivals(conn, place);
        let member = self.is_member(place, facts.identity);
        let known = self.nodes.contains_key(&place.node);
        let Some(link) = self.links.get_mut(&place) else { return Err(RefusedWhy::Full) };
        let fresh = !link.adopted || link.epoch != settled.proof.resume.epoch;
        if fresh {
            // What was never sent to anybody is still good, unless it was meant for another than this.
            if link.adopted || (!link.window.is_empty() && known && !member) {
                link.forget();
                self.counters.resets += 1;
                self.news.push(LinkNews::Reset { peer: place });
            }
            link.received = 0;
        }
        let rewound = link.window.rewind(settled.received, now);
        debug_assert_eq!(rewound, Ok(()), "a new window covers 0, the present one was looked at");
        link.epoch = settled.proof.resume.epoch;
        link.adopted = true;
        (link.identity, link.boot) = (facts.identity, facts.boot);
        link.conn = Some(conn);
        link.enter(LinkState::Up, now);
        (link.heard, link.wrote) = (now, now);
        let Lossy { pending, pending_weight, .. } = std::mem::take(&mut link.lossy);
        link.lossy = Lossy { pending, pending_weight, ..Lossy::default() };
        link.cut_since = None;
        // The first batch of the acceptor is what the dialer waits for.
        link.ack = AckDue { now: true, ..AckDue::default() };
        self.leave_handshake(conn);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.stage = Stage::Up;
            connection.link = Some(place);
        }
        let (identity, boot) = (facts.identity, facts.boot);
        self.news.push(LinkNews::Up { peer: place, member, identity, boot, fresh });
        self.mark(place);
        Ok(())
    }

    /// Every other socket of this pair goes: the one that was up, our own dial, and handshakes that began before.
    fn drop_rivals(&mut self, conn: LinkConn, place: Place) {
        let of_place = |connection: &Connection| match &connection.stage {
            Stage::Welcomed { facts, .. } | Stage::Proved { facts, .. } => facts.place == place,
            _ => connection.link == Some(place),
        };
        let rivals = self.connections.iter().filter(|(other, connection)| **other != conn && of_place(connection));
        let rivals: Vec<LinkConn> = rivals.map(|(other, _)| *other).collect();
        for rival in rivals {
            self.hang_up(rival);
        }
        let Some(link) = self.links.get_mut(&place) else { return };
        if link.state == LinkState::Up {
            self.news.push(LinkNews::Down { peer: place });
        }
        link.conn = None;
    }
}
