//! The links of one shard: one long-lived socket to each shard of another node that it has something to say to. Frames go in,
//! bytes come out, and the other way round. Does not move the bytes (the shell does), does not read frames, and does not
//! know which nodes there should be: it is told.
//!
//! ```text
//!             send, or a member's            dial, connect,
//!             socket was lost                hello, welcome, proof
//!  (none) ------------------------> Waiting ---------------------> Dialing
//!                                   ^  ^  \                        /  |
//!                  closed, silent,  |  |   \ accepted, their proof/   | first batch
//!                  overflow         |  |    `-------> Up <-------'----'
//!                                   |  `- refused, timed out -- Dialing
//!                                   `--------------- Up
//! ```
//! # What is promised
//! Reliable frames arrive in order and exactly once, over any number of sockets, as long as both processes live and the
//! window is not overrun: the frames of one *epoch*. When one of these ends, the link is reset: both ends are told
//! ([`LinkNews::Reset`], or [`LinkNews::Up`] with `fresh` where nothing was known before), what was under way is lost, and nothing
//! of before is delivered after. Lossy frames are written at most once, and dropped when the socket does not take them.
//!
//! # Bounds
//! [`LinkLimits`]. A member that cannot be reached costs one window and one dial at a time.

mod entry;
mod gather;
mod handshake;
#[cfg(test)]
mod network;
mod refusals;
#[cfg(test)]
mod tests;
mod traffic;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use self::entry::{Connection, Link, Stage};
use self::gather::Gather;
pub use self::refusals::LinkParty;
use self::refusals::Refusals;
pub use self::traffic::Rank;
use super::chance::Chance;
use crate::format::frame::Frame;
use crate::format::frame_codec::FRAMES_BODY_BYTES_MAX;
use crate::format::link_hello::LinkKey;
pub use crate::format::link_hello::RefusedWhy;
use crate::ids::{LinkConn, NodeId, Place};
use crate::time::Instant;

/// Dials to mere addresses at a time. At it: a further one is not made; whoever wants it asks again.
const ADDRESS_DIALS_MAX: usize = 64;

/// Who this shard is, for its links.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// This shard.
    pub here: Place,
    /// As configured; other names are refused.
    pub cluster_name: Box<str>,
    /// Any length; both ends prove that they know it.
    pub secret: Box<str>,
    /// Of the data directory.
    pub identity: u64,
    /// Of the process; another one for each start.
    pub boot: u64,
    /// Bounds.
    pub limits: LinkLimits,
}

/// Bounds of the links of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Reliable bytes of one link that are not acknowledged. Over it: the link is reset.
    pub window_bytes: usize,
    /// Bytes of one batch; a larger frame travels alone. At most half of [`FRAMES_BODY_BYTES_MAX`].
    pub batch_bytes: usize,
    /// Lossy bytes of one link that are not known to have arrived. Over it: dropped and counted. While half of it is free any frame is
    /// taken: one that is larger than all of it would never go. The last eighth is for what goes first.
    pub lossy_queue_bytes: usize,
    /// Frames that arrive before an acknowledgement goes by itself.
    pub ack_after_frames: usize,
    /// Bytes that do.
    pub ack_after_bytes: usize,
    /// Time that does.
    pub ack_after: Duration,
    /// From the socket to the link. Over it: hung up.
    pub handshake_timeout: Duration,
    /// From the dial to the socket. Over it: given up.
    pub dial_timeout: Duration,
    /// Before the second dial; doubles each time, and chance takes up to half of it.
    pub redial_least: Duration,
    /// At most so long.
    pub redial_most: Duration,
    /// Nothing to write for so long: an empty batch. Nothing heard for twice as long: another process may take the place.
    pub silent_after: Duration,
    /// Nothing heard for so long: hung up.
    pub dead_after: Duration,
    /// From the first bytes of a batch to its last. Over it: hung up. 4 MiB in that time is the slowest network that will do.
    pub batch_timeout: Duration,
    /// Links. At it: no further one is made or let in.
    pub links_max: usize,
    /// Accepted sockets whose handshake is not over. At it: a further one is hung up.
    pub handshakes_max: usize,
}

impl LinkLimits {
    /// What a node runs with.
    pub const PRODUCTION: LinkLimits = LinkLimits {
        window_bytes: 8 << 20,
        batch_bytes: 256 << 10,
        lossy_queue_bytes: 4 << 20,
        ack_after_frames: 64,
        ack_after_bytes: 64 << 10,
        ack_after: Duration::from_millis(2),
        handshake_timeout: Duration::from_secs(2),
        dial_timeout: Duration::from_secs(3),
        redial_least: Duration::from_millis(20),
        redial_most: Duration::from_secs(1),
        silent_after: Duration::from_secs(1),
        dead_after: Duration::from_secs(3),
        batch_timeout: Duration::from_secs(10),
        links_max: 4096,
        handshakes_max: 256,
    };

    /// What the simulator runs with.
    pub const TINY: LinkLimits = LinkLimits {
        window_bytes: 16 << 10,
        batch_bytes: 1 << 10,
        lossy_queue_bytes: 4 << 10,
        ack_after_frames: 4,
        ack_after_bytes: 2 << 10,
        links_max: 16,
        handshakes_max: 4,
        ..LinkLimits::PRODUCTION
    };

    const fn hold_together(&self) -> bool {
        self.batch_bytes <= FRAMES_BODY_BYTES_MAX / 2
            && self.batch_bytes <= self.window_bytes
            && self.ack_after_bytes * 2 <= self.window_bytes
            && self.silent_after.as_millis() * 2 < self.dead_after.as_millis()
            && self.redial_least.as_nanos() > 1
            && self.redial_least.as_nanos() <= self.redial_most.as_nanos()
    }
}

const _: () = assert!(LinkLimits::PRODUCTION.hold_together());
const _: () = assert!(LinkLimits::TINY.hold_together());

/// What the links want done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkWish {
    /// Connect; [`Links::handle_dialed`] follows.
    Dial {
        /// Its name from now on.
        conn: LinkConn,
        /// Where to.
        to: SocketAddr,
    },
    /// Write behind what was written before.
    Write {
        /// Where.
        conn: LinkConn,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close, also a dial under way, after what was written before (or soon). The name is not used again and nothing need follow.
    Hangup {
        /// Which.
        conn: LinkConn,
    },
}

/// What the links have to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// Something has arrived: reliable frames in order and each once, lossy ones whenever.
    Frames {
        /// Who says it.
        from: Place,
        /// It is the member of that number; another is a newcomer, who may ask to join and no more.
        member: bool,
        /// What.
        frames: Vec<Frame>,
    },
    /// The link has a socket.
    Up {
        /// To whom.
        peer: Place,
        /// It is the member of that number.
        member: bool,
        /// Of its data directory.
        identity: u64,
        /// Of its process.
        boot: u64,
        /// Nothing that was said to or by it before holds on, except frames that wait here and never had a socket.
        fresh: bool,
    },
    /// The socket is lost. What is under way is kept; a member is dialed again.
    Down {
        /// To whom.
        peer: Place,
    },
    /// What was under way is lost, in both directions.
    Reset {
        /// With whom.
        peer: Place,
    },
    /// No link, and why. Told once a minute.
    Refused {
        /// With whom.
        who: LinkParty,
        /// Why.
        why: RefusedWhy,
        /// We refused; else they did.
        ours: bool,
        /// In the words of who refused.
        text: Box<str>,
    },
}

/// Why frames were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// The window is full, or a frame is larger than a batch may be. The link was reset.
    Overflow,
    /// No member lives there, and no link is up.
    NoSuchPlace,
    /// At [`LinkLimits::links_max`].
    TooManyLinks,
}

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No socket; dials soon.
    Waiting,
    /// A socket is being made.
    Dialing,
    /// Frames pass.
    Up,
}

/// One link, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// To whom.
    pub peer: Place,
    /// It is the member of that number.
    pub member: bool,
    /// How it stands.
    pub state: LinkState,
    /// Since when.
    pub since: Instant,
    /// Reliable bytes that are not acknowledged.
    pub unacknowledged_bytes: usize,
    /// In so many batches.
    pub unacknowledged_batches: usize,
    /// Lossy bytes that are not known to have arrived.
    pub lossy_bytes: usize,
    /// There and back with the other's delay before it acknowledges, smoothed.
    pub round_trip: Option<Duration>,
    /// Dials that came to nothing.
    pub attempts: u32,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Read from sockets.
    pub bytes_in: u64,
    /// Given to sockets.
    pub bytes_out: u64,
    /// Frames that arrived, without duplicates.
    pub frames_in: u64,
    /// Frames written the first time.
    pub frames_out: u64,
    /// Reliable frames written again after a socket was lost.
    pub frames_resent: u64,
    /// Reliable batches that had arrived before.
    pub batches_duplicate: u64,
    /// Lossy frames that were not written when they were given, each time.
    pub lossy_dropped: u64,
    /// Runs of reliable frames that ended with something lost.
    pub resets: u64,
    /// Of those, because the window was full.
    pub overflows: u64,
    /// Dials made.
    pub dials: u64,
    /// Handshakes that we refused, but for the usual ones.
    pub refused: u64,
    /// Handshakes that others refused, but for the usual ones.
    pub refused_by_others: u64,
    /// Accepted sockets that were hung up because too many had no link yet.
    pub handshakes_over_limit: u64,
    /// Dials and handshakes that took too long.
    pub timed_out: u64,
    /// Sockets hung up because nothing whole was heard.
    pub silent: u64,
    /// Sockets hung up because of bytes that make no sense.
    pub broken: u64,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    identity: u64,
    address: SocketAddr,
    shards: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Connection(LinkConn),
    Link(Place),
}

/// All links of one shard.
#[derive(Debug)]
pub struct Links {
    config: LinksConfig,
    key: LinkKey,
    chance: Chance,
    now: Instant,
    cluster_id: u64,
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<Place, Link>,
    connections: BTreeMap<LinkConn, Connection>,
    dials: u64,
    handshakes: usize,
    timers: BTreeSet<(Instant, Timer)>,
    dirty: Vec<Place>,
    wishes: Vec<LinkWish>,
    news: Vec<LinkNews>,
    refusals: Refusals,
    counters: LinkCounters,
}

impl Links {
    /// None yet.
    ///
    /// # Panics
    /// When the limits contradict each other.
    #[must_use]
    pub fn new(config: LinksConfig, chance: Chance) -> Links {
        assert!(config.limits.hold_together(), "the limits of links contradict each other");
        Links {
            key: LinkKey::new(&config.secret),
            config,
            chance,
            now: Instant(0),
            cluster_id: 0,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            dials: 0,
            handshakes: 0,
            timers: BTreeSet::new(),
            dirty: Vec::new(),
            wishes: Vec::new(),
            news: Vec::new(),
            refusals: Refusals::default(),
            counters: LinkCounters::default(),
        }
    }

    /// Known from now on; other ones are refused. 0: not known.
    pub fn set_cluster_id(&mut self, id: u64) {
        self.cluster_id = id;
    }

    /// The members: number, identity, address of shard 0, shards. Links to one that is gone are reset and dropped; a new address
    /// is dialed the next time.
    pub fn set_nodes(&mut self, nodes: &[(NodeId, u64, SocketAddr, u16)]) {
        let row = |(node, identity, address, shards): &(NodeId, u64, SocketAddr, u16)| {
            (*node, Node { identity: *identity, address: *address, shards: *shards })
        };
        let before = std::mem::replace(&mut self.nodes, nodes.iter().map(row).collect());
        let mut gone = Vec::new();
        for (place, link) in &mut self.links {
            let (Some(old), new) = (before.get(&place.node), self.nodes.get(&place.node)) else { continue };
            let was_member = link.identity == 0 || link.identity == old.identity;
            let stays = new.is_some_and(|new| new.identity == old.identity && place.shard.0 < new.shards);
            if was_member && !stays {
                gone.push(*place);
            } else if link.state == LinkState::Waiting && new.is_some_and(|new| new.address != old.address) {
                link.dial_at = self.now;
                link.attempts = 0;
            }
        }
        for place in gone {
            self.reset(place);
            self.remove(place);
        }
        // What a newcomer said before it was known to be a member is lost, and it does not know: who it leads, for one.
        let unwelcome = |(place, link): (&Place, &Link)| link.unwelcome && self.is_member(*place, link.identity);
        let heard: Vec<Place> = self.links.iter().filter(|row| unwelcome(*row)).map(|(place, _)| *place).collect();
        heard.into_iter().for_each(|place| self.reset(place));
        let waiting: Vec<Place> = self.links.keys().copied().collect();
        for place in waiting {
            self.mark(place);
        }
    }

    /// Frames that have come from a shard were not taken, as its node is no member. Should it become one, or have become one since they came, the
    /// link is reset.
    pub fn note_unwelcome(&mut self, from: Place) {
        let Some(link) = self.links.get_mut(&from) else { return };
        link.unwelcome = true;
        let identity = link.identity;
        if self.is_member(from, identity) {
            self.reset(from);
        }
    }

    /// Dials an address whose node is not known: a seed. The first frame can be sent after [`LinkNews::Up`]; if that does not
    /// come, ask again. Whoever belongs to a cluster itself gets no link so with somebody who belongs to none.
    pub fn dial_address(&mut self, now: Instant, to: SocketAddr) {
        self.step(now);
        let pending = self.connections.values().filter(|connection| connection.link.is_none());
        let mut pending = pending.filter_map(|connection| connection.address);
        if pending.clone().any(|address| address == to) || pending.by_ref().count() >= ADDRESS_DIALS_MAX {
            return;
        }
        self.dial(None, to);
    }

    /// Gives frames to a shard, in order and once. A member that has no link gets one.
    ///
    /// # Errors
    /// The frames are lost.
    pub fn send(&mut self, to: Place, frames: Vec<Frame>) -> Result<(), LinkFault> {
        if frames.is_empty() {
            return Ok(());
        }
        let link = self.link_to(to)?;
        if link.window.push(frames).is_ok() {
            self.mark(to);
            return Ok(());
        }
        self.counters.overflows += 1;
        self.reset(to);
        Err(LinkFault::Overflow)
    }

    /// Reliable bytes that [`Links::send`] still takes. A frame takes its payload and a few hundred bytes.
    #[must_use]
    pub fn room(&self, to: Place) -> usize {
        self.links.get(&to).map_or(self.config.limits.window_bytes, |link| link.window.room())
    }

    /// A dial has a socket, or will not get one.
    pub fn handle_dialed(&mut self, now: Instant, conn: LinkConn, made: bool) {
        self.step(now);
        match (self.connections.contains_key(&conn), made) {
            (true, true) => self.say_hello(conn),
            (true, false) => self.lost(conn),
            // Given up while it was made.
            (false, true) => self.wishes.push(LinkWish::Hangup { conn }),
            (false, false) => {}
        }
    }

    /// Somebody dialed us, from there if that is known.
    pub fn handle_accepted(&mut self, now: Instant, conn: LinkConn, from: Option<SocketAddr>) {
        self.step(now);
        debug_assert!(conn.is_accepted(), "dialed ones come by handle_dialed");
        if self.handshakes >= self.config.limits.handshakes_max {
            self.counters.handshakes_over_limit += 1;
            self.wishes.push(LinkWish::Hangup { conn });
            return;
        }
        self.handshakes += 1;
        let (stage, gather) = (Stage::Silent, Gather::default());
        let connection = Connection { stage, link: None, address: None, from, deadline: None, gather };
        self.connections.insert(conn, connection);
        self.restart_handshake(conn, Stage::Silent);
    }

    /// A socket has brought something.
    pub fn handle_bytes(&mut self, now: Instant, conn: LinkConn, bytes: Bytes) {
        self.step(now);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        self.counters.bytes_in += bytes.len() as u64;
        connection.gather.feed(bytes);
        if !matches!(connection.stage, Stage::Up) {
            self.take_messages(conn);
        }
        self.take_batches(conn);
    }

    /// A socket is gone.
    pub fn handle_closed(&mut self, now: Instant, conn: LinkConn) {
        self.step(now);
        self.lost(conn);
    }

    /// What there is to tell since the last time, in order.
    pub fn take_news(&mut self) -> Vec<LinkNews> {
        std::mem::take(&mut self.news)
    }

    /// As [`Links::take_news`], into a vector that keeps its memory.
    pub fn drain_news(&mut self, into: &mut Vec<LinkNews>) {
        into.append(&mut self.news);
    }

    /// End of a step: what is due by now, as wishes.
    pub fn flush(&mut self, now: Instant, wishes: &mut Vec<LinkWish>) {
        self.step(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Connection(conn) => self.timed_out(conn),
                Timer::Link(place) => {
                    if let Some(link) = self.links.get_mut(&place) {
                        link.timer = None;
                    }
                    self.mark(place);
                }
            }
        }
        // A link that is looked at is not marked again before its time.
        while let Some(place) = self.dirty.pop() {
            self.look_at(place);
        }
        wishes.append(&mut self.wishes);
    }

    /// When [`Links::flush`] has something to do again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.dirty.is_empty() || !self.wishes.is_empty() {
            return Some(self.now);
        }
        self.timers.first().map(|(at, _)| *at)
    }

    /// Totals.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Every link, by place.
    #[must_use]
    pub fn rows(&self) -> Vec<LinkRow> {
        let row = |(peer, link): (&Place, &Link)| LinkRow {
            peer: *peer,
            member: self.is_member(*peer, link.identity),
            state: link.state,
            since: link.since,
            unacknowledged_bytes: link.window.weight(),
            unacknowledged_batches: link.window.batches(),
            lossy_bytes: link.lossy.under_way(),
            round_trip: link.round_trip,
            attempts: link.attempts,
        };
        self.links.iter().map(row).collect()
    }

    /// What must always hold between two calls.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        let limits = &self.config.limits;
        assert!(self.links.len() <= limits.links_max, "links are bounded");
        self.refusals.check_invariants();
        for (place, link) in &self.links {
            link.window.check_invariants();
            assert_eq!(link.state == LinkState::Waiting, link.conn.is_none(), "{place}: a waiting link has no socket");
            let most = limits.lossy_queue_bytes.max(limits.lossy_queue_bytes / 2 + FRAMES_BODY_BYTES_MAX);
            assert!(link.lossy.under_way() <= most + limits.batch_bytes, "{place}: lossy bytes");
            assert!(link.dirty || link.state == LinkState::Dialing || link.timer.is_some(), "{place}: forgotten");
            if let Some(timer) = link.timer {
                assert!(self.timers.contains(&(timer, Timer::Link(*place))), "{place}: a timer that does not ring");
            }
            let Some(conn) = link.conn else { continue };
            let connection = self.connections.get(&conn).expect("a link's socket is known");
            assert_eq!(connection.link, Some(*place), "the socket knows its link");
            assert_eq!(link.state == LinkState::Up, matches!(connection.stage, Stage::Up), "{place}: stages differ");
        }
        let mut handshakes = 0;
        for (conn, connection) in &self.connections {
            let up = matches!(connection.stage, Stage::Up);
            handshakes += usize::from(conn.is_accepted() && !up);
            assert_eq!(up, connection.deadline.is_none(), "a handshake ends");
            if let Some(deadline) = connection.deadline {
                assert!(self.timers.contains(&(deadline, Timer::Connection(*conn))), "and its timer rings");
            }
            assert!(connection.gather.held_bytes() <= FRAMES_BODY_BYTES_MAX + 64, "at most one batch is gathered");
        }
        assert_eq!(handshakes, self.handshakes, "handshakes are counted");
        assert!(handshakes <= limits.handshakes_max, "handshakes are bounded");
        let members = self.links.len() + self.connections.len();
        assert!(self.timers.len() <= members, "timers are bounded");
    }

    /// Time does not go back.
    fn step(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn is_member(&self, place: Place, identity: u64) -> bool {
        self.nodes.get(&place.node).is_some_and(|node| node.identity == identity)
    }

    /// Where a member's shard listens.
    fn address(&self, place: Place) -> Option<SocketAddr> {
        let node = self.nodes.get(&place.node).filter(|node| place.shard.0 < node.shards)?;
        let port = node.address.port().checked_add(place.shard.0)?;
        Some(SocketAddr::new(node.address.ip(), port))
    }

    /// The link to a shard, made if there may be one.
    fn link_to(&mut self, to: Place) -> Result<&mut Link, LinkFault> {
        if !self.links.contains_key(&to) {
            if to.node == self.config.here.node || self.address(to).is_none() {
                return Err(LinkFault::NoSuchPlace);
            }
            if self.links.len() >= self.config.limits.links_max {
                return Err(LinkFault::TooManyLinks);
            }
            self.links.insert(to, Link::new(self.now, &self.config.limits));
            self.mark(to);
        }
        self.links.get_mut(&to).ok_or(LinkFault::NoSuchPlace)
    }

    /// A link wants to be looked at by the next flush.
    fn mark(&mut self, place: Place) {
        if let Some(link) = self.links.get_mut(&place).filter(|link| !link.dirty) {
            link.dirty = true;
            self.dirty.push(place);
        }
    }

    fn write(&mut self, conn: LinkConn, bytes: Vec<u8>) {
        self.counters.bytes_out += bytes.len() as u64;
        self.wishes.push(LinkWish::Write { conn, bytes });
    }

    fn dial(&mut self, link: Option<Place>, to: SocketAddr) -> LinkConn {
        self.dials += 1;
        self.counters.dials += 1;
        let conn = LinkConn::dialed(self.dials);
        let deadline = self.now + self.config.limits.dial_timeout;
        let gather = Gather::default();
        let connection =
            Connection { stage: Stage::Dialing, link, address: Some(to), from: None, deadline: Some(deadline), gather };
        self.connections.insert(conn, connection);
        self.timers.insert((deadline, Timer::Connection(conn)));
        self.wishes.push(LinkWish::Dial { conn, to });
        conn
    }

    /// The handshake's time begins.
    fn restart_handshake(&mut self, conn: LinkConn, stage: Stage) {
        let deadline = self.now + self.config.limits.handshake_timeout;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.stage = stage;
        if let Some(old) = connection.deadline.replace(deadline) {
            self.timers.remove(&(old, Timer::Connection(conn)));
        }
        self.timers.insert((deadline, Timer::Connection(conn)));
    }

    /// The handshake is over, well or not.
    fn leave_handshake(&mut self, conn: LinkConn) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(deadline) = connection.deadline.take() {
            self.timers.remove(&(deadline, Timer::Connection(conn)));
            self.handshakes -= usize::from(conn.is_accepted());
        }
    }

    fn timed_out(&mut self, conn: LinkConn) {
        self.counters.timed_out += 1;
        self.wishes.push(LinkWish::Hangup { conn });
        self.lost(conn);
    }

    /// Closes and forgets a socket. Its link is not told.
    fn hang_up(&mut self, conn: LinkConn) {
        self.leave_handshake(conn);
        if self.connections.remove(&conn).is_some() {
            self.wishes.push(LinkWish::Hangup { conn });
        }
    }

    /// A socket is gone, and its link with it for now.
    fn lost(&mut self, conn: LinkConn) {
        self.leave_handshake(conn);
        let Some(place) = self.connections.remove(&conn).and_then(|connection| connection.link) else { return };
        let Some(link) = self.links.get_mut(&place).filter(|link| link.conn == Some(conn)) else { return };
        link.conn = None;
        self.wait(place);
        // Whoever is no member is not dialed, and may come back as a stranger.
        if self.address(place).is_none() {
            if self.links.get(&place).is_some_and(Link::holds_state) {
                self.reset(place);
            }
            self.remove(place);
        }
    }

    /// No socket any more: dial again after a while.
    fn wait(&mut self, place: Place) {
        let (now, limits) = (self.now, &self.config.limits);
        let Some(link) = self.links.get_mut(&place) else { return };
        debug_assert!(link.conn.is_none(), "a waiting link has no socket");
        if link.state == LinkState::Up {
            self.news.push(LinkNews::Down { peer: place });
            if now.since(link.since) >= limits.redial_most {
                link.attempts = 0;
            }
        }
        let most = limits.redial_most.as_nanos() as u64;
        let pause = (limits.redial_least.as_nanos() as u64).saturating_mul(1 << link.attempts.min(32)).min(most);
        link.attempts = link.attempts.saturating_add(1);
        let pause = self.chance.between(pause / 2, pause + 1);
        link.dial_at = now + Duration::from_nanos(pause);
        self.counters.lossy_dropped += link.lossy.pending.len() as u64;
        link.lossy = entry::Lossy::default();
        link.enter(LinkState::Waiting, now);
        self.mark(place);
    }

    /// Ends the run of reliable frames here; the other end learns it from the next handshake.
    fn reset(&mut self, place: Place) {
        let Some(link) = self.links.get_mut(&place) else { return };
        link.forget();
        self.counters.resets += 1;
        if let Some(conn) = link.conn.take() {
            self.hang_up(conn);
            self.wait(place);
        }
        self.news.push(LinkNews::Reset { peer: place });
    }

    fn remove(&mut self, place: Place) {
        let Some(link) = self.links.remove(&place) else { return };
        debug_assert!(link.conn.is_none(), "its socket was hung up");
        if let Some(timer) = link.timer {
            self.timers.remove(&(timer, Timer::Link(place)));
        }
        self.dirty.retain(|dirty| *dirty != place);
    }
}
