//! Three shards on three nodes with nothing around them: sessions are numbers, disks and links answer a turn later, time moves when told to. Carries
//! messages of pairs whose recipients have their home elsewhere than their conversation, by the homes and straight, on two such clusters
//! in turn, and prints what a message costs: the thread's own CPU time, bytes and frames between nodes, turns from SEND to RECV.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use criterion::Criterion;
use jindou::engine::counters::Counters;
use jindou::engine::effect::{Effect, Effects, ServerPacket};
use jindou::engine::event::{ClientKey, ClientPacket, ConnectPacket, Event, EventBatch, Opened};
use jindou::engine::shard::{
    ClusterSettings, Durability, JournalGeometry, OfflineMode, Recovery, Retention, Shard, ShardConfig,
};
use jindou::format::frame::Addresses;
use jindou::ids::{ChannelKey, LinkConn, NodeId, Place, SessionId, ShardId, Uid};
use jindou::limits::Limits;
use jindou::time::{Instant, Now, UnixMillis};

use super::one_shard::send;

const NODES: usize = 3;
const PORT: u16 = 7000;
const SLOT_DEPTH: u8 = 5;
const PAIRS: usize = 24;

/// Time between two turns: about a journal write, and about a hop.
const TURN_NS: u64 = 100_000;

/// Turns in which something must have happened: a minute of the cluster's time while it forms.
const TURNS_MAX: usize = 120_000;

/// Where the recipient's session is, as seen from its home and from the conversation's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Home,
    Leader,
    Third,
}

struct Node {
    shard: Shard,
    events: EventBatch,
    /// What comes with the next turn.
    inbox: Vec<Event>,
    effects: Effects,
    connections: BTreeMap<LinkConn, (usize, LinkConn)>,
    accepted: u64,
    sessions: u32,
}

struct ThreeNodes {
    nodes: Vec<Node>,
    now_ns: u64,
    /// Sender's node and session, recipient's uid.
    pairs: Vec<(usize, u32, String)>,
    sent: u32,
    link_bytes: u64,
    delivered: u64,
    acknowledged: u64,
    live: usize,
    turn: u64,
    /// Turn of the last RECV.
    last_recv: u64,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT + node as u16))
}

fn config(node: usize, cached_routes_max: usize) -> ShardConfig {
    let nothing = || Box::<str>::from("");
    let identity = node as u64 + 1;
    let cluster = ClusterSettings {
        secret: "of-the-benchmarks".into(),
        address: Some(address(node)),
        seeds: if node == 0 { Vec::new() } else { vec![address(0)] },
        addresses: Addresses { cluster: address(node), tcp: nothing(), ws: nothing(), wss: nothing(), http: nothing() },
        ..ClusterSettings::alone(identity)
    };
    ShardConfig {
        place: Place { node: NodeId(node as u16 + 1), shard: ShardId(0) },
        shard_count: 1,
        slot_depth: SLOT_DEPTH,
        limits: Limits {
            sends_per_second: 1_000_000_000,
            send_window: 4096,
            recv_window: 4096,
            recv_window_bytes: 16 << 20,
            cached_routes_max,
            ..Limits::PRODUCTION
        },
        token_auth: false,
        offline: OfflineMode::Push,
        durability: Durability::Fsync,
        geometry: JournalGeometry { identity, block_bytes: 4096, segment_bytes: 16 << 20 },
        retention: Retention { bytes: 128 << 20, age_ms: 0 },
        seed: [node as u8 + 1; 32],
        boot: identity,
        cluster,
    }
}

fn now(now_ns: u64) -> Now {
    Now { instant: Instant(now_ns), unix: UnixMillis(1_700_000_000_000 + now_ns / 1_000_000) }
}

impl ThreeNodes {
    fn formed(cached_routes_max: usize) -> ThreeNodes {
        let node = |number: usize| Node {
            shard: Recovery::new(config(number, cached_routes_max))
                .finish(now(1), None)
                .expect("an empty journal is no damage"),
            events: Vec::new(),
            inbox: Vec::new(),
            effects: Effects::default(),
            connections: BTreeMap::new(),
            accepted: 0,
            sessions: 0,
        };
        let mut three = ThreeNodes {
            nodes: (0..NODES).map(node).collect(),
            now_ns: 1,
            pairs: Vec::new(),
            sent: 0,
            link_bytes: 0,
            delivered: 0,
            acknowledged: 0,
            live: 0,
            turn: 0,
            last_recv: 0,
        };
        three.until("the cluster is whole", 500_000, |three| {
            let share = (1 << SLOT_DEPTH) / NODES;
            three.nodes.iter().all(|node| {
                let cluster = node.shard.cluster_view();
                let led = node.shard.view().slots_led;
                cluster.members_serving == NODES && cluster.moves == 0 && (share..=share + 1).contains(&led)
            })
        });
        three
    }

    fn until(&mut self, what: &str, span_ns: u64, reached: impl Fn(&ThreeNodes) -> bool) {
        for _ in 0..TURNS_MAX {
            if reached(self) {
                return;
            }
            self.turn(span_ns);
        }
        panic!("it never came to this: {what}");
    }

    /// One turn of every node; what they say to each other arrives with the next.
    fn turn(&mut self, span_ns: u64) {
        self.now_ns += span_ns;
        self.turn += 1;
        for node in &mut self.nodes {
            std::mem::swap(&mut node.events, &mut node.inbox);
        }
        for number in 0..NODES {
            let node = &mut self.nodes[number];
            node.shard.step(now(self.now_ns), &mut node.events, &mut node.effects);
            let mut wishes = std::mem::take(&mut node.effects.list);
            for wish in wishes.drain(..) {
                self.carry_out(number, wish);
            }
            self.nodes[number].effects.list = wishes;
        }
    }

    fn carry_out(&mut self, number: usize, wish: Effect) {
        let node = &mut self.nodes[number];
        match wish {
            Effect::Send { session, packet: ServerPacket::Recv { message, seq, .. } } => {
                self.delivered += 1;
                self.last_recv = self.turn;
                let packet = ClientPacket::Recvack { message_id: message.message_id(), message_seq: u64::from(seq) };
                node.inbox.push(Event::Packet { session, packet });
            }
            Effect::Send { packet: ServerPacket::Sendack { reason: 1, .. }, .. } => self.acknowledged += 1,
            Effect::Send { packet: ServerPacket::Sendack { reason, .. }, .. } => panic!("refused with reason {reason}"),
            Effect::Send { packet: ServerPacket::Connack { reason: 1, .. }, .. } => self.live += 1,
            Effect::JournalWrite(write) => {
                node.inbox.push(Event::JournalWritten { flush: write.flush, bytes: write.bytes, result: Ok(()) });
            }
            Effect::JournalSegment { segment } => node.inbox.push(Event::SegmentReady { segment, result: Ok(()) }),
            Effect::Checkpoint { slot, .. } => node.inbox.push(Event::CheckpointWritten { slot, result: Ok(()) }),
            Effect::Read { .. } => panic!("everything is recent here"),
            Effect::Dial { conn, to } => self.dial(number, conn, usize::from(to.port() - PORT)),
            Effect::LinkWrite { conn, bytes } => {
                self.link_bytes += bytes.len() as u64;
                if let Some((other, conn)) = node.connections.get(&conn).copied() {
                    self.nodes[other].inbox.push(Event::LinkBytes { conn, bytes: Bytes::from(bytes) });
                }
            }
            Effect::Hangup { conn } => {
                if let Some((other, conn)) = node.connections.remove(&conn) {
                    self.nodes[other].connections.remove(&conn);
                    self.nodes[other].inbox.push(Event::LinkClosed { conn });
                }
                self.nodes[number].inbox.push(Event::LinkClosed { conn });
            }
            Effect::Datagram { to, bytes } => {
                self.nodes[usize::from(to.port() - PORT)].inbox.push(Event::Datagram { from: address(number), bytes });
            }
            _ => {}
        }
    }

    fn dial(&mut self, number: usize, conn: LinkConn, to: usize) {
        let there = LinkConn::accepted(self.nodes[to].accepted);
        self.nodes[to].accepted += 1;
        self.nodes[to].connections.insert(there, (number, conn));
        self.nodes[number].connections.insert(conn, (to, there));
        self.nodes[to].inbox.push(Event::LinkAccepted { conn: there, from: None });
        self.nodes[number].inbox.push(Event::LinkDialed { conn, made: true });
    }

    fn leader(&self, uid: &str) -> usize {
        let slot = Uid::parse(uid).expect("a good uid").key_hash().slot(SLOT_DEPTH);
        let leads = |node: &Node| node.shard.led().any(|(led, _)| led == slot);
        self.nodes.iter().position(leads).expect("every slot is led")
    }

    fn connect(&mut self, node: usize, uid: &str) -> u32 {
        let target = &mut self.nodes[node];
        let index = target.sessions;
        target.sessions += 1;
        let session = SessionId { index, generation: 1 };
        target.inbox.push(Event::Opened(Opened { session, handed_over: false }));
        let connect = ConnectPacket {
            uid: uid.into(),
            device_id: uid.into(),
            device_flag: 0,
            token: "".into(),
            client_timestamp_ms: 0,
            key: ClientKey::Usable,
        };
        let packet = ClientPacket::Connect(Box::new(connect));
        target.inbox.push(Event::Packet { session, packet });
        index
    }

    /// Pairs whose senders sit at their home, which is where the conversation is led; the recipients' homes are elsewhere.
    fn seat_pairs(&mut self, seat: Seat) {
        for pair in 0..PAIRS {
            let named = |again: usize, side: char| format!("{seat:?}-{pair}-{again}-{side}");
            let (one, other, leader, home) = (0..)
                .map(|again| (named(again, 'a'), named(again, 'b')))
                .find_map(|(one, other)| {
                    let uid = |name: &str| Uid::parse(name).expect("a good uid");
                    let (leader, home) = (self.leader(&one), self.leader(&other));
                    let first = ChannelKey::pair(&uid(&one), &uid(&other)).members().0 == one;
                    (first && leader == pair % NODES && leader != home).then_some((one, other, leader, home))
                })
                .expect("some names fit");
            let at = match seat {
                Seat::Home => home,
                Seat::Leader => leader,
                Seat::Third => 3 - home - leader,
            };
            let session = self.connect(leader, &one);
            self.connect(at, &other);
            self.pairs.push((leader, session, other));
        }
        let wanted = self.live + 2 * PAIRS;
        self.until("everybody is in", TURN_NS, |three| three.live == wanted);
    }

    /// Every sender of the last pairs sends so many; returns after how many turns the last one was received.
    fn carry(&mut self, each: usize) -> u64 {
        let wanted = (each * PAIRS) as u64;
        let (delivered, acknowledged, began) = (self.delivered, self.acknowledged, self.turn);
        for pair in self.pairs.len() - PAIRS..self.pairs.len() {
            for _ in 0..each {
                self.sent += 1;
                let (node, index, to) = &self.pairs[pair];
                let packet = send(self.sent, to);
                let session = SessionId { index: *index, generation: 1 };
                self.nodes[*node].inbox.push(Event::Packet { session, packet });
            }
        }
        self.until("all is delivered", TURN_NS, |three| {
            three.delivered == delivered + wanted && three.acknowledged == acknowledged + wanted
        });
        let turns = self.last_recv - began;
        // Rows and cursors are agreed on before the next batch.
        (0..250).for_each(|_| self.turn(TURN_NS));
        turns
    }

    fn counted(&self, which: fn(&Counters) -> u64) -> u64 {
        self.nodes.iter().map(|node| which(node.shard.counters())).sum()
    }
}

/// What this thread has used of a core, in nanoseconds; wall time says little on a machine that others use.
fn used_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[derive(Default)]
struct Cost {
    used_ns: Vec<u64>,
    messages: u64,
    bytes: u64,
    turns: u64,
    frames: u64,
    straight: u64,
}

impl Cost {
    fn add(&mut self, three: &mut ThreeNodes, each: usize, batches: usize) {
        let before =
            (three.link_bytes, three.counted(|all| all.frames_sent), three.counted(|all| all.deliveries_straight));
        let began = used_ns();
        for _ in 0..batches {
            self.turns += three.carry(each);
        }
        self.used_ns.push(used_ns() - began);
        self.messages += (each * batches * PAIRS) as u64;
        self.bytes += three.link_bytes - before.0;
        self.frames += three.counted(|all| all.frames_sent) - before.1;
        self.straight += three.counted(|all| all.deliveries_straight) - before.2;
    }

    fn row(&mut self, what: &str, each: usize, batches: usize) {
        self.used_ns.sort_unstable();
        let per = |sum: u64| sum as f64 / self.messages as f64;
        let (rounds, round) = (self.used_ns.len(), (each * batches * PAIRS) as f64);
        let (median, least) = (self.used_ns[rounds / 2] as f64 / round, self.used_ns[0] as f64 / round);
        println!(
            "| {what} | {each} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {:.1} |",
            median / 1e3,
            least / 1e3,
            per(self.bytes),
            per(self.frames),
            per(self.straight),
            self.turns as f64 / (rounds * batches) as f64
        );
    }
}

/// Not timed by criterion: two clusters are compared in turn.
pub fn benches(_: &mut Criterion) {
    let wanted = std::env::args().filter(|word| !word.starts_with('-')).nth(1);
    if wanted.is_some_and(|wanted| !"three nodes".contains(&wanted)) {
        return;
    }
    let test = std::env::args().any(|word| word == "--test");
    let (rounds, messages) = if test { (1, 64) } else { (11, 4096) };
    let (mut by_homes, mut straight) = (ThreeNodes::formed(0), ThreeNodes::formed(1024));
    println!(
        "| three nodes: recipient's session | messages at once, of each pair | CPU µs, median | least | bytes between nodes | frames | gone straight | turns to RECV |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for seat in [Seat::Home, Seat::Leader, Seat::Third] {
        by_homes.seat_pairs(seat);
        straight.seat_pairs(seat);
        for each in [1, 8, 64] {
            let batches = (messages / PAIRS / each).max(1);
            let mut costs = [Cost::default(), Cost::default()];
            for cost in [&mut by_homes, &mut straight] {
                for _ in 0..3 {
                    cost.carry(1);
                }
            }
            for _ in 0..rounds {
                costs[0].add(&mut by_homes, each, batches);
                costs[1].add(&mut straight, each, batches);
            }
            costs[0].row(&format!("{seat:?}, by homes"), each, batches);
            costs[1].row(&format!("{seat:?}, as it is"), each, batches);
        }
    }
}
