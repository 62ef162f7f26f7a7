//! The network between nodes: connections of shards with shards as byte streams, and datagrams. Late, in arbitrary pieces, slow, cut in
//! one direction or both, reset at both ends or at one only. What the bytes mean is not known here, and time is the world's:
//! what is due later goes to `due`, what a shard is to hear goes to `heard`.
//!
//! ```text
//!  dial ──knock──► accepted ──answer──► open ──┬─ hang up: what was written still arrives, then the end
//!     │               (RST) ◄── nobody there   ├─ reset: what is under way is lost, one end or both hear of it
//!     └─ too slow: not made                    └─ cut: bytes wait; the writer gives up after a while and hears of it,
//!                                                 the other end does not (half-open), until it writes itself
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use jindou::engine::event::Event;
use jindou::ids::LinkConn;

use crate::chance::Chance;
use crate::world::HostRef;

/// Port of the first shard of every node.
const PORT: u16 = 7_000;

/// A dial that nobody answers ends after so long.
const DIAL_PATIENCE_NS: (u64, u64) = (1_000_000_000, 2_500_000_000);

/// A first packet that got lost is sent again after so long.
const KNOCK_AGAIN_NS: u64 = 500_000_000;

/// A writer whose bytes are not acknowledged hears that the connection is gone after so long.
const WRITE_PATIENCE_NS: (u64, u64) = (2_000_000_000, 6_000_000_000);

/// After hanging up, the own end is gone so much later at most.
const HANG_UP_NS: u64 = 5_000_000;

/// Where a node is.
pub fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8 + 1)), PORT)
}

/// Which shard listens there.
pub fn listener(address: SocketAddr) -> Option<HostRef> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let node = usize::from(ip.octets()[3]).checked_sub(1)?;
    Some(HostRef { node, shard: usize::from(address.port().checked_sub(PORT)?) })
}

/// What is due later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// A dial reaches the other node.
    Knock(usize),
    /// The dialer hears what became of it.
    Answer(usize, bool),
    /// A dial has lasted long enough.
    DialOverdue(usize),
    /// Bytes of a flow up to a number have crossed the network.
    Arrive(usize, usize, u64),
    /// An end hears that the connection is gone.
    Lost(usize, usize),
    /// A writer has waited long enough for something it wrote at that time.
    Unacknowledged(usize, usize, u64),
    /// A datagram arrives.
    Datagram(HostRef, SocketAddr, Vec<u8>),
}

/// A machine as the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// A process listens.
    Up,
    /// Nobody listens: who knocks is refused at once.
    Refuses,
    /// The power is off: nothing comes back.
    Dark,
}

/// How the network is drawn.
#[derive(Clone, Copy, Debug)]
pub struct LinkPlan {
    /// Least and most latency, microseconds.
    pub us: (u64, u64),
    /// Bytes arrive in arbitrary pieces.
    pub split: bool,
    /// Bytes per millisecond of a connection that is clogged.
    pub clogged_bytes_per_ms: u64,
    /// Datagrams lost, of a thousand.
    pub lose_permille: u32,
    /// Datagrams that come twice, of a thousand.
    pub double_permille: u32,
    /// Datagrams that take up to ten times as long, of a thousand.
    pub late_permille: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The dialer waits; the other end does not exist yet.
    Opening,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct End {
    host: HostRef,
    life: u64,
    conn: LinkConn,
    stage: Stage,
}

/// One direction of a connection: from end 0 to end 1, or back.
#[derive(Debug, Default)]
struct Flow {
    /// Written and not delivered.
    bytes: VecDeque<u8>,
    written: u64,
    /// Has crossed the network as far as it could.
    arrived: u64,
    delivered: u64,
    /// The writer has hung up after this much.
    end_at: Option<u64>,
    /// When the last piece arrives.
    last_ns: u64,
    /// Since when something waits for a network that is cut, or for an acknowledgement that cannot come.
    stuck_ns: Option<u64>,
}

#[derive(Debug)]
struct Socket {
    to: SocketAddr,
    ends: [Option<End>; 2],
    flows: [Flow; 2],
}

/// All connections between nodes, and the state of the network.
pub struct Links {
    /// How it is drawn.
    pub plan: LinkPlan,
    /// Steps for later.
    pub due: Vec<(u64, LinkStep)>,
    /// What shards hear now.
    pub heard: Vec<(HostRef, Event)>,
    /// Most bytes that waited in one direction of a connection.
    pub queued_most: usize,
    /// What has happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    machines: Vec<(Machine, u64, bool)>,
    sockets: Vec<Socket>,
    by_conn: BTreeMap<(HostRef, LinkConn), (usize, usize)>,
    /// How often a machine has moved.
    moved: BTreeMap<usize, u8>,
    accepted: u64,
    cuts: BTreeMap<(usize, usize), u32>,
    clogs: BTreeMap<(usize, usize), u32>,
}

impl Links {
    /// No connections; nobody is up.
    pub fn new(plan: LinkPlan, nodes: usize) -> Links {
        Links {
            plan,
            due: Vec::new(),
            heard: Vec::new(),
            queued_most: 0,
            counts: BTreeMap::new(),
            machines: vec![(Machine::Refuses, 0, false); nodes],
            sockets: Vec::new(),
            by_conn: BTreeMap::new(),
            moved: BTreeMap::new(),
            accepted: 0,
            cuts: BTreeMap::new(),
            clogs: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    fn latency_ns(&self, from: usize, to: usize, chance: &mut Chance) -> u64 {
        let (low, high) = self.plan.us;
        let spread = if self.clogs.contains_key(&(from, to)) { 20 } else { 1 };
        chance.between(low * 1_000, high * 1_000 * spread)
    }

    /// A process has begun; who has waited for the machine finds that out.
    pub fn process_begins(&mut self, now_ns: u64, node: usize, life: u64) {
        self.machines[node] = (Machine::Up, life, false);
        self.look_again(now_ns, |_, to| to == node);
    }

    /// A process takes no turns, or goes on; its kernel takes connections and acknowledges bytes meanwhile.
    pub fn set_hung(&mut self, node: usize, hung: bool, now_ns: u64) {
        self.machines[node].2 = hung;
        if !hung {
            self.look_again(now_ns, |from, to| from == node || to == node);
        }
    }

    /// Cuts one direction, once more. Each cut is mended by itself.
    pub fn cut(&mut self, from: usize, to: usize) {
        *self.cuts.entry((from, to)).or_default() += 1;
        self.count("link cuts");
    }

    /// Mends one cut of a direction.
    pub fn mend(&mut self, from: usize, to: usize, now_ns: u64) {
        let count = self.cuts.entry((from, to)).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.cuts.remove(&(from, to));
            // Acknowledgements come the other way.
            self.look_again(now_ns, |a, b| (a, b) == (from, to) || (b, a) == (from, to));
        }
    }

    /// One direction becomes slow, or a little less so.
    pub fn clog(&mut self, from: usize, to: usize, begins: bool, now_ns: u64) {
        let count = self.clogs.entry((from, to)).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.clogs.remove(&(from, to));
            self.hurry(now_ns, from, to);
        }
    }

    /// What has waited in a slow direction crosses now.
    fn hurry(&mut self, now_ns: u64, from: usize, to: usize) {
        for index in 0..self.sockets.len() {
            for flow in 0..2 {
                let concerned = self.nodes_of(index, flow) == Some((from, to));
                let pending = &mut self.sockets[index].flows[flow];
                if concerned && pending.last_ns > now_ns + 1_000 {
                    pending.last_ns = now_ns + 1_000;
                    let upto = pending.written;
                    self.due.push((pending.last_ns, LinkStep::Arrive(index, flow, upto)));
                }
            }
        }
    }

    /// Flows that were stuck try again.
    fn look_again(&mut self, now_ns: u64, concerned: impl Fn(usize, usize) -> bool) {
        for index in 0..self.sockets.len() {
            for flow in 0..2 {
                let Some((from, to)) = self.nodes_of(index, flow) else { continue };
                let pending = &mut self.sockets[index].flows[flow];
                if concerned(from, to) && (pending.arrived > pending.delivered || pending.stuck_ns.is_some()) {
                    pending.stuck_ns = None;
                    let upto = pending.arrived;
                    self.due.push((now_ns + 1_000, LinkStep::Arrive(index, flow, upto)));
                }
            }
        }
    }

    fn nodes_of(&self, index: usize, flow: usize) -> Option<(usize, usize)> {
        let ends = &self.sockets[index].ends;
        Some((ends[flow]?.host.node, ends[1 - flow]?.host.node))
    }

    /// `Effect::Dial`.
    pub fn dial(&mut self, now_ns: u64, host: HostRef, conn: LinkConn, to: SocketAddr, chance: &mut Chance) {
        let life = self.machines[host.node].1;
        let index = self.sockets.len();
        let end = End { host, life, conn, stage: Stage::Opening };
        self.sockets.push(Socket { to, ends: [Some(end), None], flows: Default::default() });
        let before = self.by_conn.insert((host, conn), (index, 0));
        assert!(before.is_none(), "a connection's number is used once: {conn:?}");
        let latency_ns = self.latency_ns(host.node, host.node, chance);
        self.due.push((now_ns + latency_ns, LinkStep::Knock(index)));
        let patience_ns = chance.between(DIAL_PATIENCE_NS.0, DIAL_PATIENCE_NS.1);
        self.due.push((now_ns + patience_ns, LinkStep::DialOverdue(index)));
        self.count("link dials");
    }

    /// `Effect::LinkWrite`. Returns how many bytes wait in this direction.
    pub fn write(&mut self, now_ns: u64, host: HostRef, conn: LinkConn, bytes: &[u8], chance: &mut Chance) -> usize {
        let Some(&(index, from)) = self.by_conn.get(&(host, conn)) else { return 0 };
        let socket = &mut self.sockets[index];
        if socket.ends[from].is_none_or(|end| end.stage != Stage::Open) || bytes.is_empty() {
            return 0;
        }
        socket.flows[from].bytes.extend(bytes);
        let start = socket.flows[from].written;
        let upto = start + bytes.len() as u64;
        socket.flows[from].written = upto;
        let waiting = socket.flows[from].bytes.len();
        self.queued_most = self.queued_most.max(waiting);
        let mut ends = vec![upto];
        if self.plan.split && chance.one_in(3) {
            for _ in 0..chance.between(1, 3) {
                ends.push(start + chance.below(bytes.len() as u64));
            }
            ends.sort_unstable();
            ends.dedup();
        }
        for upto in ends.into_iter().filter(|upto| *upto > start) {
            self.send_on(now_ns, index, from, upto, chance);
        }
        waiting
    }

    /// Plans the arrival of a flow's bytes up to a number.
    fn send_on(&mut self, now_ns: u64, index: usize, flow: usize, upto: u64, chance: &mut Chance) {
        let Some((from, to)) = self.nodes_of(index, flow) else { return };
        let latency_ns = self.latency_ns(from, to, chance);
        let clogged = self.clogs.contains_key(&(from, to));
        let per_ms = self.plan.clogged_bytes_per_ms.max(1);
        let pending = &mut self.sockets[index].flows[flow];
        let slow_ns = if clogged { (pending.bytes.len() as u64 * 1_000_000) / per_ms } else { 0 };
        pending.last_ns = pending.last_ns.max(now_ns + latency_ns + slow_ns);
        self.due.push((pending.last_ns, LinkStep::Arrive(index, flow, upto)));
    }

    /// `Effect::Hangup`.
    pub fn hang_up(&mut self, now_ns: u64, host: HostRef, conn: LinkConn, chance: &mut Chance) {
        let Some(&(index, which)) = self.by_conn.get(&(host, conn)) else { return };
        let Some(end) = self.sockets[index].ends[which].as_mut() else { return };
        if end.stage == Stage::Closed {
            return;
        }
        let opened = end.stage == Stage::Open;
        end.stage = Stage::Closed;
        self.due.push((now_ns + chance.below(HANG_UP_NS), LinkStep::Lost(index, which)));
        if opened {
            let upto = self.sockets[index].flows[which].written;
            self.sockets[index].flows[which].end_at = Some(upto);
            self.send_on(now_ns, index, which, upto, chance);
        }
    }

    /// Where a node is now: it may have moved between two of its starts.
    pub fn address_of(&self, node: usize) -> SocketAddr {
        let here = address(node);
        let moved = self.moved.get(&node).copied().unwrap_or(0);
        let IpAddr::V4(ip) = here.ip() else { return here };
        let [a, b, _, d] = ip.octets();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, moved, d)), here.port())
    }

    /// From its next start on a node is elsewhere.
    pub fn move_machine(&mut self, node: usize) {
        *self.moved.entry(node).or_insert(0) += 1;
    }

    fn listener(&self, address: SocketAddr) -> Option<HostRef> {
        let target = listener(address).filter(|target| target.node < self.machines.len())?;
        (self.address_of(target.node).ip() == address.ip()).then_some(target)
    }

    /// `Effect::Datagram`.
    pub fn datagram(&mut self, now_ns: u64, host: HostRef, to: SocketAddr, bytes: &[u8], chance: &mut Chance) {
        self.count("datagrams");
        let Some(target) = self.listener(to) else { return };
        if target.shard != 0 || self.is_cut(host.node, target.node) || chance.permille(self.plan.lose_permille) {
            self.count("fault: datagram lost");
            return;
        }
        let copies = if chance.permille(self.plan.double_permille) { 2 } else { 1 };
        if copies > 1 {
            self.count("fault: datagram doubled");
        }
        for _ in 0..copies {
            let mut latency_ns = self.latency_ns(host.node, target.node, chance);
            if chance.permille(self.plan.late_permille) {
                latency_ns *= chance.between(2, 10);
                self.count("fault: datagram late");
            }
            let step = LinkStep::Datagram(target, self.address_of(host.node), bytes.to_vec());
            self.due.push((now_ns + latency_ns, step));
        }
    }

    /// Something is due.
    pub fn step(&mut self, now_ns: u64, step: LinkStep, chance: &mut Chance) {
        match step {
            LinkStep::Knock(index) => self.knock(now_ns, index, chance),
            LinkStep::Answer(index, made) => self.answer(now_ns, index, made, chance),
            LinkStep::DialOverdue(index) => self.dialed(index, false),
            LinkStep::Arrive(index, flow, upto) => self.arrive(now_ns, index, flow, upto, chance),
            LinkStep::Lost(index, which) => self.lost(index, which),
            LinkStep::Unacknowledged(index, flow, since_ns) => {
                if self.sockets[index].flows[flow].stuck_ns == Some(since_ns) {
                    self.give_up(index, flow);
                }
            }
            LinkStep::Datagram(target, from, bytes) => {
                let (machine, _, hung) = self.machines[target.node];
                if machine == Machine::Up && !hung {
                    self.heard.push((target, Event::Datagram { from, bytes }));
                }
            }
        }
    }

    fn knock(&mut self, now_ns: u64, index: usize, chance: &mut Chance) {
        let Some(dialer) = self.sockets[index].ends[0] else { return };
        let Some(target) = self.listener(self.sockets[index].to) else { return };
        if dialer.stage != Stage::Opening || self.sockets[index].ends[1].is_some() {
            return;
        }
        let (machine, life, _) = self.machines[target.node];
        if self.is_cut(dialer.host.node, target.node) || machine == Machine::Dark {
            self.due.push((now_ns + KNOCK_AGAIN_NS, LinkStep::Knock(index)));
            return;
        }
        let latency_ns = self.latency_ns(target.node, dialer.host.node, chance);
        if machine == Machine::Refuses {
            self.due.push((now_ns + latency_ns, LinkStep::Answer(index, false)));
            return;
        }
        self.accepted += 1;
        let conn = LinkConn::accepted(self.accepted);
        self.sockets[index].ends[1] = Some(End { host: target, life, conn, stage: Stage::Open });
        self.by_conn.insert((target, conn), (index, 1));
        let from = Some(self.address_of(dialer.host.node));
        self.heard.push((target, Event::LinkAccepted { conn, from }));
        self.sockets[index].flows[1].last_ns = now_ns + latency_ns;
        self.due.push((now_ns + latency_ns, LinkStep::Answer(index, true)));
    }

    fn answer(&mut self, now_ns: u64, index: usize, made: bool, chance: &mut Chance) {
        let Some(dialer) = self.sockets[index].ends[0] else { return };
        let target = self.sockets[index].ends[1];
        let back_cut = target.is_some_and(|target| self.is_cut(target.host.node, dialer.host.node));
        if back_cut && dialer.stage == Stage::Opening {
            self.due.push((now_ns + KNOCK_AGAIN_NS, LinkStep::Answer(index, made)));
            return;
        }
        let alive = self.is_alive(&dialer) && dialer.stage == Stage::Opening;
        if alive {
            self.dialed(index, made);
            let upto = self.sockets[index].flows[1].arrived;
            if made && upto > 0 {
                self.arrive(now_ns, index, 1, upto, chance);
            }
        } else if target.is_some() {
            self.due.push((now_ns + 1_000, LinkStep::Lost(index, 1)));
        }
    }

    /// Tells the dialer, if it still waits.
    fn dialed(&mut self, index: usize, made: bool) {
        let Some(end) = self.sockets[index].ends[0].as_mut().filter(|end| end.stage == Stage::Opening) else { return };
        end.stage = if made { Stage::Open } else { Stage::Closed };
        let end = *end;
        if !made {
            self.forget(&end, (index, 0));
        }
        if self.is_alive(&end) {
            self.count(if made { "links made" } else { "dials in vain" });
            self.heard.push((end.host, Event::LinkDialed { conn: end.conn, made }));
        }
    }

    /// Nobody speaks of this end any more. False when that was so already: the number may be that of another connection by now.
    fn forget(&mut self, end: &End, at: (usize, usize)) -> bool {
        let known = self.by_conn.get(&(end.host, end.conn)) == Some(&at);
        if known {
            self.by_conn.remove(&(end.host, end.conn));
        }
        known
    }

    fn is_alive(&self, end: &End) -> bool {
        let (machine, life, _) = self.machines[end.host.node];
        machine == Machine::Up && life == end.life
    }

    /// Bytes have crossed the network, unless it is cut now.
    fn arrive(&mut self, now_ns: u64, index: usize, flow: usize, upto: u64, chance: &mut Chance) {
        let (Some(writer), Some(reader)) = (self.sockets[index].ends[flow], self.sockets[index].ends[1 - flow]) else {
            return;
        };
        let pending = &mut self.sockets[index].flows[flow];
        pending.arrived = pending.arrived.max(upto);
        let (from, to) = (writer.host.node, reader.host.node);
        let (machine, _, hung) = self.machines[to];
        if self.is_cut(from, to) || machine == Machine::Dark {
            return self.stuck(now_ns, index, flow, chance);
        }
        if !self.is_alive(&reader) || reader.stage == Stage::Closed {
            return self.refuse(now_ns, index, flow, chance);
        }
        // A dialer that has not heard yet, or a process that hangs: the kernel holds the bytes.
        if reader.stage == Stage::Opening || hung {
            return;
        }
        // What is followed at once by more may be read together with it.
        let pending = &mut self.sockets[index].flows[flow];
        if pending.arrived < pending.written && self.plan.split && chance.one_in(4) {
            return;
        }
        let count = (pending.arrived - pending.delivered) as usize;
        if count > 0 {
            let bytes: Vec<u8> = pending.bytes.drain(..count.min(pending.bytes.len())).collect();
            pending.delivered = pending.arrived;
            let bytes = Bytes::from(bytes);
            assert_eq!(bytes.as_ptr() as usize % 8, 0, "the allocator aligns what it gives");
            self.heard.push((reader.host, Event::LinkBytes { conn: reader.conn, bytes }));
        }
        if self.is_cut(to, from) {
            // The bytes are there, and the writer never hears of it.
            self.stuck(now_ns, index, flow, chance);
        } else {
            self.sockets[index].flows[flow].stuck_ns = None;
        }
        let pending = &self.sockets[index].flows[flow];
        if pending.end_at == Some(pending.delivered) {
            self.lost(index, 1 - flow);
        }
    }

    fn stuck(&mut self, now_ns: u64, index: usize, flow: usize, chance: &mut Chance) {
        let pending = &mut self.sockets[index].flows[flow];
        if pending.stuck_ns.is_none() {
            pending.stuck_ns = Some(now_ns);
            let patience_ns = chance.between(WRITE_PATIENCE_NS.0, WRITE_PATIENCE_NS.1);
            self.due.push((now_ns + patience_ns, LinkStep::Unacknowledged(index, flow, now_ns)));
        }
    }

    /// Bytes for an end that is gone: the writer hears of it, unless the reader's own farewell is under way.
    fn refuse(&mut self, now_ns: u64, index: usize, flow: usize, chance: &mut Chance) {
        let Some((from, to)) = self.nodes_of(index, flow) else { return };
        let farewell = &self.sockets[index].flows[1 - flow];
        let on_its_way = farewell.end_at.is_some_and(|end| farewell.delivered < end || end == 0);
        let pending = &mut self.sockets[index].flows[flow];
        (pending.delivered, pending.arrived) = (pending.written, pending.written);
        pending.bytes.clear();
        if self.is_cut(to, from) {
            return self.stuck(now_ns, index, flow, chance);
        }
        if !on_its_way {
            let latency_ns = self.latency_ns(to, from, chance);
            self.due.push((now_ns + latency_ns, LinkStep::Lost(index, flow)));
        }
    }

    /// A writer hears that nothing of what it wrote arrives; the other end hears nothing.
    fn give_up(&mut self, index: usize, flow: usize) {
        let pending = &mut self.sockets[index].flows[flow];
        pending.stuck_ns = None;
        pending.bytes.clear();
        (pending.delivered, pending.arrived, pending.end_at) = (pending.written, pending.written, None);
        self.count("links given up");
        self.lost(index, flow);
    }

    /// An end hears that the connection is gone.
    fn lost(&mut self, index: usize, which: usize) {
        let Some(end) = self.sockets[index].ends[which].as_mut() else { return };
        end.stage = Stage::Closed;
        let end = *end;
        if self.forget(&end, (index, which)) && self.is_alive(&end) {
            self.count("links lost");
            self.heard.push((end.host, Event::LinkClosed { conn: end.conn }));
        }
    }

    /// A node's process is gone. Its kernel says so to the others, unless the power is off.
    pub fn process_ends(&mut self, now_ns: u64, node: usize, machine: Machine, life: u64, chance: &mut Chance) {
        self.machines[node] = (machine, life, false);
        for index in 0..self.sockets.len() {
            for which in 0..2 {
                let Some(end) = self.sockets[index].ends[which].filter(|end| end.host.node == node) else { continue };
                self.forget(&end, (index, which));
                if end.stage == Stage::Closed {
                    continue;
                }
                let opened = end.stage == Stage::Open;
                self.sockets[index].ends[which] = Some(End { stage: Stage::Closed, ..end });
                let written = self.sockets[index].flows[which].written;
                if machine == Machine::Dark {
                    let pending = &mut self.sockets[index].flows[which];
                    pending.bytes.clear();
                    (pending.delivered, pending.arrived) = (written, written);
                } else if opened {
                    self.sockets[index].flows[which].end_at = Some(written);
                    self.send_on(now_ns, index, which, written, chance);
                }
            }
        }
    }

    /// A connection breaks: what is under way is lost, both ends hear of it or one only. False when there is none.
    pub fn reset_one(&mut self, now_ns: u64, chance: &mut Chance) -> bool {
        let open = |socket: &Socket| socket.ends.iter().all(|end| end.is_some_and(|end| end.stage == Stage::Open));
        let alive: Vec<usize> = (0..self.sockets.len()).filter(|index| open(&self.sockets[*index])).collect();
        if alive.is_empty() {
            return false;
        }
        let index = *chance.pick(&alive);
        for pending in &mut self.sockets[index].flows {
            pending.bytes.clear();
            (pending.delivered, pending.arrived) = (pending.written, pending.written);
        }
        // One that only one end knows of: the other hears of it when it writes.
        let who: &[usize] = [&[0, 1][..], &[0], &[1]][chance.below(3) as usize];
        for which in who {
            if let Some(end) = self.sockets[index].ends[*which].as_mut() {
                end.stage = Stage::Closed;
            }
            let latency_ns = chance.between(1_000, 2_000_000);
            self.due.push((now_ns + latency_ns, LinkStep::Lost(index, *which)));
        }
        self.count("fault: link reset");
        true
    }
}
