//! Who seems to be alive, which table they have and how loaded they are: hints, spread from node to node in datagrams (SWIM
//! with suspicion, by foca). Never decides who is a member, who leads or where anything lives: the metadata group and each
//! slot's raft group do. Opens no socket and reads no clock.
//!
//! ```text
//!            announce answered              probe and helpers unanswered            1.0 s (more above 31 nodes)
//!  (unknown) ────────────────► Up ───────────────────────────────────────► Suspect ────────────────────────────► Down
//!                              ▲ │ ▲                                          │                                    │
//!                              │ │ └──────────── it says that it lives ───────┘                                    │
//!                              │ └──── it says that it stops ────► Left                                            │
//!                              └────────── a later boot, or the same process with its next identity ───────────────┘
//! ```
//!
//! Every 250 ms one member is probed; one that has not answered within 80 ms is probed through three others. News travels
//! on probes and answers, and every 100 ms to three members while there is some. Each datagram carries the sender's load.
//!
//! Measured in the mini-simulation beside this file (`figures` and `bytes_per_node` of its tests print it), 0.1 to 20 ms of
//! delay and 5 % loss; from the kill of a process until each other node tells `Down`, all in milliseconds:
//!
//! | nodes | p50 | p99 | longest | healed halves all up, longest |
//! |---|---|---|---|---|
//! | 3 | 1387 | 1966 | 1992 of 200 runs | 850 of 50 runs |
//! | 5 | 1423 | 2046 | 2210 of 200 runs | 800 of 50 runs |
//! | 20 | 1509 | 2594 | 3082 of 200 runs | 1500 of 50 runs |
//! | 50 | 1803 | 2394 | 2494 of 30 runs | 1150 of 10 runs |
//!
//! With pauses of 200 ms besides (each node every ten seconds) no node was called down by mistake in 30 minutes each of 3, 5
//! and 10 nodes and 5 minutes each of 20 and 50. An idle node sends 8.1 datagrams and 848 (3 nodes) to 882 (400 nodes) bytes
//! per second: four probes and four answers, whatever the size of the cluster. Loads that change cost up to 31 bytes for each
//! pass of each change, at most seven others' in a datagram; the same load then takes longer to reach everybody.
//!
//! Two cures of what foca leaves open: while somebody whom the metadata group names is not up (or nobody is), announcements go
//! to a few of the missing and to a seed every second, because a healed partition can otherwise stay silent for ever; and when
//! [`Gossip::fire`] comes much too late, this process did not run, so all its timers move instead of taking unread answers
//! for missing ones. The shell should hand in the datagrams that wait before it fires.

mod identity;
#[cfg(test)]
mod mini_simulation;
mod outbox;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Foca, Member, NoCustomBroadcast, PeriodicParams, State};

use self::identity::{Draws, Identity};
use self::outbox::{Outbox, Timers, Window};
use self::wire::{Codec, DATAGRAM_BYTES_MAX, Datagram, Malformed, RUMOURS_PER_DATAGRAM_MAX, Rumour, Seal};
use super::chance::Chance;
use crate::ids::NodeId;
use crate::time::Instant;

/// Announcements to missing members in one round. The others wait for a later round.
const MISSING_PER_ROUND: usize = 3;
/// Announcements to seeds in one round while nobody is up; one while somebody is.
const SEEDS_PER_ROUND: usize = 3;
/// A round of announcements comes so often, give or take a quarter.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// A timer that is served so much later than it was due says that this process did not run.
const PAUSE_NOTICED: Duration = Duration::from_millis(100);
/// After a pause, how long the answers that came meanwhile have to be read.
const PAUSE_GRACE: Duration = Duration::from_millis(50);
/// Timers served in one call. Those beyond it are still due right afterwards.
const FIRES_MAX: usize = 64;

/// Who we are in the gossip and whom we may talk to.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// This node.
    pub here: NodeId,
    /// This process; must be larger than at any earlier start of this node, or the others take it for an earlier process.
    pub boot: u64,
    /// Where others reach our socket.
    pub address: SocketAddr,
    /// Where to ask first. At most [`GossipLimits::seeds_max`] are used.
    pub seeds: Vec<SocketAddr>,
    /// Datagrams of other clusters are dropped.
    pub cluster_name: String,
    /// Shared by all nodes, any length.
    pub secret: Vec<u8>,
    /// Bounds.
    pub limits: GossipLimits,
}

/// Bounds of the gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GossipLimits {
    /// Nodes remembered in any state. Over it: those that nobody needs are forgotten, then datagrams that name new ones are
    /// dropped and counted.
    pub members_max: usize,
    /// Seeds used; the rest are ignored.
    pub seeds_max: usize,
    /// Datagrams waiting to be drained. Over it: dropped and counted, as if the network had lost them.
    pub datagrams_max: usize,
    /// News waiting to be drained. Over it: the oldest, a load if there is one, is dropped and counted; `view` has the truth.
    pub news_max: usize,
    /// Timers under way. Over it: the last due is given up, which only keeps a node remembered as down.
    pub timers_max: usize,
}

impl GossipLimits {
    /// What a node runs with.
    pub const PRODUCTION: GossipLimits =
        GossipLimits { members_max: 1024, seeds_max: 16, datagrams_max: 4096, news_max: 8192, timers_max: 8192 };

    /// What the simulator runs with, which has up to six nodes.
    pub const TINY: GossipLimits =
        GossipLimits { members_max: 8, seeds_max: 1, datagrams_max: 8, news_max: 4, timers_max: 32 };
}

/// What the shell, or the shard around it, shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GossipWish {
    /// Send it; losing it is no harm.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// At most [`DATAGRAM_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Something changed.
    News(GossipNews),
}

/// A change in what seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GossipNews {
    /// It answers.
    Up {
        /// Who.
        node: NodeId,
        /// Which process of it.
        boot: u64,
        /// Where its gossip socket listens.
        address: SocketAddr,
    },
    /// It does not answer any more, or another process took its place.
    Down {
        /// Who.
        node: NodeId,
        /// Which process of it.
        boot: u64,
    },
    /// It stopped in good order. Comes instead of `Down`, rarely after it.
    Left {
        /// Who.
        node: NodeId,
        /// Which process of it.
        boot: u64,
    },
    /// What a node that is up says about itself.
    Load {
        /// Who.
        node: NodeId,
        /// The newest table it has.
        table_version: u64,
        /// Slots it leads.
        slots_led: u32,
        /// Sessions it holds.
        sessions: u32,
    },
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It answers.
    Up,
    /// It did not answer somebody lately.
    Suspect,
    /// It seems to be dead.
    Down,
    /// It said that it stops.
    Left,
}

/// A node as we see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GossipMember {
    /// Who.
    pub node: NodeId,
    /// How it stands.
    pub state: MemberState,
    /// Where its gossip socket listens.
    pub address: SocketAddr,
    /// Which process of it.
    pub boot: u64,
    /// What that process last said about itself.
    pub load: Option<Rumour>,
    /// When it last became up, down or left.
    pub since: Instant,
}

impl GossipMember {
    /// It answers, or has not failed to for long enough.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state, MemberState::Up | MemberState::Suspect)
    }
}

/// What was done and what was refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipCounters {
    /// Datagrams taken.
    pub taken: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Dropped: longer than a datagram may be.
    pub too_long: u64,
    /// Dropped: not sealed with our secret and our cluster's name.
    pub forged: u64,
    /// Dropped: of another version of the format.
    pub other_version: u64,
    /// Dropped: sealed but malformed.
    pub malformed: u64,
    /// Dropped: seen before, too old to tell, or of an earlier process.
    pub repeated: u64,
    /// Dropped: our own, or of a process that uses our node id.
    pub own: u64,
    /// Dropped: names nodes beyond [`GossipLimits::members_max`].
    pub full: u64,
    /// From another address than the sender says it has: a wrong `address` in somebody's configuration, or NAT.
    pub from_elsewhere: u64,
    /// Refused by foca; happens when messages cross.
    pub refused: u64,
    /// Ours that were given up because nobody drained.
    pub datagrams_lost: u64,
    /// News given up because nobody drained.
    pub news_lost: u64,
    /// Times this process was found not to have run.
    pub pauses: u64,
}

/// What is kept about a node.
#[derive(Debug, Default)]
struct Known {
    /// As last told: its identity, how it stands, since when. `None` until it was up once.
    told: Option<(Identity, MemberState, Instant)>,
    load: Option<Rumour>,
    /// How often its load is still to be passed on.
    passes_left: u8,
    /// The metadata group took it out.
    gone: bool,
    window: Window,
}

impl Known {
    fn up(&self) -> Option<Identity> {
        self.told.filter(|(_, state, _)| *state == MemberState::Up).map(|(identity, ..)| identity)
    }

    fn load_of(&self, boot: u64) -> Option<Rumour> {
        self.load.filter(|load| load.boot == boot)
    }
}

/// The gossip of one node.
pub struct Gossip {
    config: GossipConfig,
    seal: Seal,
    foca: Foca<Identity, Codec, Draws, NoCustomBroadcast>,
    chance: Chance,
    outbox: Outbox,
    timers: Timers,
    wishes: VecDeque<GossipWish>,
    datagrams_waiting: usize,
    nodes: BTreeMap<NodeId, Known>,
    /// Nodes whose `passes_left` is not zero.
    passing: BTreeSet<NodeId>,
    expected: BTreeMap<NodeId, SocketAddr>,
    own: Rumour,
    sequence: u64,
    tuned_for: usize,
    announce_at: Instant,
    now: Instant,
    paused: bool,
    left: bool,
    counters: GossipCounters,
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("here", &self.config.here).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(number.saturating_sub(1))
}

/// How often each piece of news is passed on in a cluster of so many nodes. Foca's own sum gives 3 for five nodes, with
/// which news misses nodes; logarithmic, as the theory of epidemics wants.
fn passes(nodes: usize) -> u8 {
    6 + (nodes.max(1).ilog2() as u8)
}

/// Foca's numbers for so many nodes. Only those that depend on the size may change while it runs.
fn tuned(nodes: usize) -> foca::Config {
    let every = |frequency, members| Some(PeriodicParams { frequency, num_members: at_least_one(members) });
    // A refutation needs a few rounds more with each doubling.
    let doublings_above_31 = (nodes / 16).max(1).ilog2();
    foca::Config {
        probe_period: Duration::from_millis(250),
        probe_rtt: Duration::from_millis(80),
        num_indirect_probes: at_least_one(3),
        max_transmissions: NonZeroU8::MIN.saturating_add(passes(nodes) - 1),
        suspect_to_down_after: Duration::from_millis(1000) + Duration::from_millis(250) * doublings_above_31,
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: at_least_one(wire::SWIM_BYTES_MAX),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(10), 1),
        periodic_gossip: every(Duration::from_millis(100), 3),
    }
}

impl Gossip {
    /// A node that knows nobody yet. It wants to fire at once.
    ///
    /// # Panics
    /// When `here` is no node.
    #[must_use]
    pub fn new(mut config: GossipConfig, mut chance: Chance) -> Gossip {
        assert!(config.here.0 != 0, "0 is never a node");
        assert!(config.limits.members_max > 0 && config.limits.news_max > 0, "a bound of nothing lets nothing through");
        config.seeds.truncate(config.limits.seeds_max);
        // A scope or flow label is not in the datagrams, and our own identity must be equal to what others say.
        if let SocketAddr::V6(address) = config.address {
            config.address = SocketAddr::from((address.ip().octets(), address.port()));
        }
        let mut seed = [0u8; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&chance.number().to_le_bytes());
        }
        let identity = Identity { node: config.here, boot: config.boot, renewal: 0, address: config.address };
        let own = Rumour {
            node: config.here,
            boot: config.boot,
            stamp: 0,
            leaving: false,
            table_version: 0,
            slots_led: 0,
            sessions: 0,
        };
        Gossip {
            seal: Seal::new(&config.secret, &config.cluster_name),
            foca: Foca::new(identity, tuned(1), Draws(chance), Codec { here: config.here }),
            chance: Chance::new(seed, 1),
            outbox: Outbox::default(),
            timers: Timers::new(config.limits.timers_max),
            wishes: VecDeque::new(),
            datagrams_waiting: 0,
            nodes: BTreeMap::new(),
            passing: BTreeSet::new(),
            expected: BTreeMap::new(),
            own,
            sequence: 0,
            tuned_for: 1,
            announce_at: Instant(0),
            now: Instant(0),
            paused: false,
            left: false,
            counters: GossipCounters::default(),
            config,
        }
    }

    /// Bytes from the socket. `from` is not believed: answers go where the sealed identity says; a difference is counted.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.now = self.now.max(now);
        if self.left {
            return;
        }
        if bytes.len() > DATAGRAM_BYTES_MAX {
            self.counters.too_long += 1;
            return;
        }
        let Some(body) = self.seal.open(bytes) else {
            self.counters.forged += 1;
            return;
        };
        match wire::decode(body) {
            Ok(datagram) => {
                self.counters.from_elsewhere += u64::from(datagram.sender.address != from);
                self.take(&datagram);
            }
            Err(Malformed::Version) => self.counters.other_version += 1,
            Err(_) => self.counters.malformed += 1,
        }
    }

    fn take(&mut self, datagram: &Datagram<'_>) {
        let sender = datagram.sender;
        if sender.node == self.config.here {
            self.counters.own += 1;
            return;
        }
        if !self.admit(datagram) {
            self.counters.full += 1;
            return;
        }
        let known = self.nodes.entry(sender.node).or_default();
        if !known.window.admit(sender.boot, datagram.sequence) {
            self.counters.repeated += 1;
            return;
        }
        self.counters.taken += 1;
        // Rumours first: who says good-bye shall not be seen as dead because foca's news of it is in the same datagram.
        self.hear(&datagram.rumours);
        if let Some(swim) = datagram.swim {
            let result = self.foca.handle_data(swim, &mut self.outbox);
            self.counters.refused += u64::from(result.is_err());
            self.settle();
        }
    }

    /// Makes room for the nodes that a datagram names.
    fn admit(&mut self, datagram: &Datagram<'_>) -> bool {
        let here = self.config.here;
        let rumoured = datagram.rumours.iter().map(|rumour| rumour.node);
        let named = datagram.named.iter().copied().chain(rumoured).chain([datagram.sender.node]);
        let new: BTreeSet<NodeId> = named.filter(|node| *node != here && !self.nodes.contains_key(node)).collect();
        if new.is_empty() {
            return true;
        }
        if self.nodes.len() + new.len() > self.config.limits.members_max {
            let held: BTreeSet<NodeId> = self.foca.iter_membership_state().map(|member| member.id().node).collect();
            let expected = &self.expected;
            self.nodes.retain(|node, _| held.contains(node) || expected.contains_key(node));
            let nodes = &self.nodes;
            self.passing.retain(|node| nodes.contains_key(node));
        }
        if self.nodes.len() + new.len() > self.config.limits.members_max {
            return false;
        }
        self.nodes.extend(new.into_iter().map(|node| (node, Known::default())));
        true
    }

    fn hear(&mut self, rumours: &[Rumour]) {
        assert!(rumours.len() <= RUMOURS_PER_DATAGRAM_MAX, "the decoder refuses more");
        for rumour in rumours {
            let passes_left = passes(self.tuned_for);
            let Some(known) = self.nodes.get_mut(&rumour.node) else { continue };
            let rank = |rumour: &Rumour| (rumour.boot, rumour.stamp);
            let process = known.told.map(|(identity, ..)| identity.boot);
            let newer = known.load.as_ref().is_none_or(|held| rank(rumour) > rank(held));
            if !newer || process.is_some_and(|boot| boot > rumour.boot) {
                continue;
            }
            let worth = |load: &Rumour| (load.table_version, load.slots_led, load.sessions);
            let changed = known.load_of(rumour.boot).as_ref().map(worth) != Some(worth(rumour));
            known.load = Some(*rumour);
            known.passes_left = passes_left;
            self.passing.insert(rumour.node);
            if process != Some(rumour.boot) {
                continue;
            }
            if rumour.leaving {
                self.part(rumour.node);
            } else if changed && known.up().is_some() {
                self.tell_load(rumour);
            }
        }
    }

    /// A node said that it stops.
    fn part(&mut self, node: NodeId) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        match known.told {
            Some((identity, MemberState::Up, _)) => {
                let down = std::iter::once(Member::down(identity));
                let result = self.foca.apply_many(down, true, &mut self.outbox);
                self.counters.refused += u64::from(result.is_err());
                self.settle();
            }
            Some((identity, MemberState::Down, since)) => {
                known.told = Some((identity, MemberState::Left, since));
                self.tell(GossipNews::Left { node, boot: identity.boot });
            }
            _ => {}
        }
    }

    /// Carries on what foca wanted in the call that has just ended.
    fn settle(&mut self) {
        let outbox = std::mem::take(&mut self.outbox);
        assert!(self.nodes.len() <= self.config.limits.members_max, "whoever a datagram names was admitted first");
        for (timer, after) in outbox.started {
            self.timers.start(self.now + after, timer);
        }
        for node in &outbox.touched {
            self.compare(*node);
        }
        if !outbox.touched.is_empty() {
            self.tune();
        }
        for (to, swim) in outbox.sent {
            self.send(to.address, &swim);
        }
    }

    /// Tells how what foca now thinks of a node differs from what was told.
    fn compare(&mut self, node: NodeId) {
        if node == self.config.here {
            return;
        }
        let held = self.foca.iter_membership_state().find(|member| member.id().node == node);
        let alive = held.filter(|member| member.state() != State::Down).map(|member| *member.id());
        let now = self.now;
        let known = self.nodes.entry(node).or_default();
        let was = known.up();
        if let (Some(was), Some(alive)) = (was, alive)
            && (was.boot, was.address) == (alive.boot, alive.address)
        {
            known.told = Some((alive, MemberState::Up, known.told.map_or(now, |(.., since)| since)));
            return;
        }
        let mut load = None;
        if let Some(was) = was {
            let left = known.load_of(was.boot).is_some_and(|load| load.leaving);
            let state = if left { MemberState::Left } else { MemberState::Down };
            known.told = Some((was, state, now)).filter(|_| !known.gone);
            let boot = was.boot;
            self.tell(if left { GossipNews::Left { node, boot } } else { GossipNews::Down { node, boot } });
        }
        if let Some(alive) = alive {
            let known = self.nodes.entry(node).or_default();
            known.told = Some((alive, MemberState::Up, now));
            load = known.load_of(alive.boot);
            self.tell(GossipNews::Up { node, boot: alive.boot, address: alive.address });
        }
        match load {
            // Its farewell was faster than older news that it lives.
            Some(load) if load.leaving => self.part(node),
            Some(load) => self.tell_load(&load),
            None => {}
        }
    }

    /// Foca's numbers follow the size of the cluster.
    fn tune(&mut self) {
        let nodes = self.expected.len().max(self.foca.num_members() + 1);
        if nodes.ilog2() != self.tuned_for.ilog2() {
            self.tuned_for = nodes;
            let result = self.foca.set_config(tuned(nodes));
            assert!(result.is_ok(), "only numbers that may change do");
        }
    }

    /// What we tell about ourselves. Cheap when nothing changed; sparse changes are kinder to the network.
    pub fn set_load(&mut self, table_version: u64, slots_led: u32, sessions: u32) {
        let same =
            (self.own.table_version, self.own.slots_led, self.own.sessions) == (table_version, slots_led, sessions);
        if self.left || same && self.own.stamp > 0 {
            return;
        }
        // The highest stamp is kept for the farewell.
        self.own.stamp = (self.own.stamp + 1).min(u32::MAX - 1);
        (self.own.table_version, self.own.slots_led, self.own.sessions) = (table_version, slots_led, sessions);
    }

    /// Who belongs to the cluster, as the metadata group says, with the addresses of their gossip sockets. Those who are
    /// gone are forgotten as soon as they are not up.
    pub fn set_members(&mut self, members: &[(NodeId, SocketAddr)]) {
        let before = std::mem::take(&mut self.expected);
        let others = members.iter().filter(|(node, _)| *node != self.config.here && node.0 != 0);
        self.expected = others.take(self.config.limits.members_max).copied().collect();
        for node in before.keys().filter(|node| !self.expected.contains_key(node)) {
            if let Some(known) = self.nodes.get_mut(node) {
                known.gone = true;
                known.told = known.told.filter(|_| known.up().is_some());
            }
        }
        for node in self.expected.keys() {
            if let Some(known) = self.nodes.get_mut(node) {
                known.gone = false;
            }
        }
        self.tune();
    }

    /// Serves what is due.
    pub fn fire(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.left {
            return;
        }
        let late = self.timers.next().map_or(Duration::ZERO, |due| self.now.since(due));
        if late > PAUSE_NOTICED && !self.paused {
            // Once in a row, so that a process that is always late still moves on.
            self.paused = true;
            self.counters.pauses += 1;
            self.timers.delay(late + PAUSE_GRACE);
        }
        for _ in 0..FIRES_MAX {
            let Some(timer) = self.timers.pop(self.now) else { break };
            self.paused = false;
            let result = self.foca.handle_timer(timer, &mut self.outbox);
            self.counters.refused += u64::from(result.is_err());
            self.settle();
        }
        if self.now >= self.announce_at {
            let every = ANNOUNCE_EVERY.as_nanos() as u64;
            self.announce_at = self.now + Duration::from_nanos(self.chance.between(every * 3 / 4, every * 5 / 4));
            self.announce();
        }
    }

    /// When to fire next; `None` after leaving.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        Some(self.timers.next().map_or(self.announce_at, |at| at.min(self.announce_at)))
    }

    /// Asks a few of those who should be there and are not.
    fn announce(&mut self) {
        let is_up = |node: &NodeId| self.nodes.get(node).is_some_and(|known| known.up().is_some());
        let mut missing: Vec<Identity> = self
            .expected
            .iter()
            .filter(|(node, _)| !is_up(node))
            .map(|(node, address)| Identity::unknown(*node, *address))
            .collect();
        let alone = self.foca.num_members() == 0;
        if missing.is_empty() && !alone {
            return;
        }
        let known: BTreeSet<SocketAddr> = self.nodes.values().filter_map(Known::up).map(|up| up.address).collect();
        let mut seeds: Vec<Identity> = self
            .config
            .seeds
            .iter()
            .filter(|seed| **seed != self.config.address && !known.contains(seed))
            .map(|seed| Identity::unknown(NodeId(0), *seed))
            .collect();
        let mut chosen = self.some_of(&mut missing, MISSING_PER_ROUND);
        chosen.extend(self.some_of(&mut seeds, if alone { SEEDS_PER_ROUND } else { 1 }));
        for to in chosen {
            let result = self.foca.announce(to, &mut self.outbox);
            self.counters.refused += u64::from(result.is_err());
        }
        self.settle();
    }

    fn some_of(&mut self, all: &mut Vec<Identity>, count: usize) -> Vec<Identity> {
        let mut chosen = Vec::new();
        while chosen.len() < count && !all.is_empty() {
            let index = self.chance.between(0, all.len() as u64) as usize;
            chosen.push(all.swap_remove(index));
        }
        chosen
    }

    /// Takes leave of everybody who is up; nothing is sent or taken afterwards.
    pub fn leave(&mut self) {
        if self.left {
            return;
        }
        self.own.stamp = u32::MAX;
        self.own.leaving = true;
        let mut farewell = Vec::new();
        let written = wire::write_identity(self.foca.identity(), &mut farewell);
        assert!(written.is_ok(), "a vector always has room");
        let others: Vec<SocketAddr> = self.nodes.values().filter_map(Known::up).map(|up| up.address).collect();
        for to in others {
            self.send(to, &farewell);
        }
        self.left = true;
    }

    /// Puts the envelope around a message.
    fn send(&mut self, to: SocketAddr, swim: &[u8]) {
        if self.datagrams_waiting >= self.config.limits.datagrams_max {
            self.counters.datagrams_lost += 1;
            return;
        }
        let mut rumours = Vec::with_capacity(RUMOURS_PER_DATAGRAM_MAX);
        if self.own.stamp > 0 {
            rumours.push(self.own);
        }
        self.pick_rumours(&mut rumours);
        assert!(!self.left, "who has left is silent, or the others would hear the dead");
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        wire::write_envelope(self.sequence, &rumours, &mut bytes);
        bytes.extend_from_slice(swim);
        assert!(bytes.len() <= DATAGRAM_BYTES_MAX, "foca was told how much room it has");
        self.seal.close(&mut bytes);
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes.len() as u64;
        self.datagrams_waiting += 1;
        self.wishes.push_back(GossipWish::Datagram { to, bytes });
    }

    /// The rumours that were passed on least, while there is room.
    fn pick_rumours(&mut self, rumours: &mut Vec<Rumour>) {
        let left = |node: &NodeId| self.nodes.get(node).map_or(0, |known| known.passes_left);
        let mut waiting: Vec<(u8, NodeId)> = self.passing.iter().map(|node| (left(node), *node)).collect();
        waiting.sort_unstable_by_key(|(left, node)| (std::cmp::Reverse(*left), *node));
        waiting.truncate(RUMOURS_PER_DATAGRAM_MAX - rumours.len());
        assert!(self.passing.len() <= self.nodes.len(), "only what is known is passed on");
        for (_, node) in waiting {
            let Some(known) = self.nodes.get_mut(&node) else { continue };
            rumours.extend(known.load);
            known.passes_left = known.passes_left.saturating_sub(1);
            if known.passes_left == 0 {
                self.passing.remove(&node);
            }
        }
    }

    fn tell_load(&mut self, load: &Rumour) {
        let Rumour { node, table_version, slots_led, sessions, .. } = *load;
        self.tell(GossipNews::Load { node, table_version, slots_led, sessions });
    }

    fn tell(&mut self, news: GossipNews) {
        if self.wishes.len() - self.datagrams_waiting >= self.config.limits.news_max {
            // What a node says of itself it says again; who is there is said once.
            let is_load = |wish: &GossipWish| matches!(wish, GossipWish::News(GossipNews::Load { .. }));
            let oldest = self.wishes.iter().position(|wish| matches!(wish, GossipWish::News(_)));
            let given_up = self.wishes.iter().position(is_load);
            if given_up.is_none() && matches!(news, GossipNews::Load { .. }) {
                self.counters.news_lost += 1;
                return;
            }
            given_up.or(oldest).map(|index| self.wishes.remove(index));
            self.counters.news_lost += 1;
        }
        self.wishes.push_back(GossipWish::News(news));
        let limits = &self.config.limits;
        assert!(self.wishes.len() <= limits.news_max + limits.datagrams_max, "both kinds are bounded");
    }

    /// Moves what is wanted to the end of `wishes`, in order.
    pub fn drain(&mut self, wishes: &mut Vec<GossipWish>) {
        wishes.extend(self.wishes.drain(..));
        self.datagrams_waiting = 0;
    }

    /// Everybody of whom something is known, in the order of their numbers; this node is not among them.
    #[must_use]
    pub fn view(&self) -> Vec<GossipMember> {
        let suspects: BTreeSet<NodeId> = self
            .foca
            .iter_members()
            .filter(|member| member.state() == State::Suspect)
            .map(|member| member.id().node)
            .collect();
        let told = self.nodes.iter().filter_map(|(node, known)| Some((*node, known, known.told?)));
        told.map(|(node, known, (identity, state, since))| GossipMember {
            node,
            state: if state == MemberState::Up && suspects.contains(&node) { MemberState::Suspect } else { state },
            address: identity.address,
            boot: identity.boot,
            load: known.load_of(identity.boot),
            since,
        })
        .collect()
    }

    /// As far as is known it answers.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.up().is_some())
    }

    /// What was done and refused so far.
    #[must_use]
    pub fn counters(&self) -> GossipCounters {
        self.counters
    }
}
