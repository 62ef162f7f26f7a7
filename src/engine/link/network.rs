//! A made-up network for the tests: links of several shards, sockets that lose, delay and hold back bytes, and a witness who
//! knows what was sent and complains when something else arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{LinkLimits, LinkNews, LinkWish, Links, LinksConfig, Rank};
use crate::engine::chance::Chance;
use crate::format::frame::{Frame, Propose};
use crate::ids::{LinkConn, NodeId, Place, ShardId};
use crate::time::Instant;

const LOSSY: u8 = b'l';

pub fn place(node: u16) -> Place {
    Place { node: NodeId(node), shard: ShardId(0) }
}

/// A frame that the witness can tell from others.
pub fn frame(tag: u32, index: u32, text_bytes: usize, lossy: bool) -> Frame {
    let mut command = vec![if lossy { LOSSY } else { b'r' }];
    command.resize(text_bytes + 1, b'x');
    Frame::Propose(Propose {
        place: place(1),
        ticket: u64::from(tag) << 32 | u64::from(index),
        command: command.into(),
    })
}

/// What one end has sent to another since it was last told of a reset.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    tag: u32,
    frames: u32,
}

/// What one end has received from another.
#[derive(Debug, Default)]
struct Got {
    run: Option<(u32, u32)>,
    tags: BTreeSet<u32>,
    lossy: BTreeSet<(u32, u32)>,
}

pub struct End {
    pub links: Links,
    pub config: LinksConfig,
    pub address: SocketAddr,
    incarnation: u64,
    pub news: Vec<LinkNews>,
    sent: BTreeMap<Place, Sent>,
    got: BTreeMap<Place, Got>,
    wake: Option<Instant>,
}

/// One socket; side 0 dialed.
struct Wire {
    ends: [(usize, u64, LinkConn); 2],
    closed: [bool; 2],
    cut: bool,
    /// Nothing from side n arrives before.
    held: [Instant; 2],
}

enum Happening {
    Dialed { end: usize, incarnation: u64, conn: LinkConn, to: SocketAddr },
    Bytes { wire: usize, from: usize, bytes: Vec<u8> },
    Closed { wire: usize, from: usize },
    Wake { end: usize },
}

pub struct Network {
    pub now: Instant,
    pub ends: Vec<End>,
    pub chance: Chance,
    wires: Vec<Wire>,
    happenings: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
    tags: u32,
    /// Bits of bytes that arrive are flipped, once per so many reads; 0: never.
    pub bend_one_in: u64,
}

pub fn config(node: u16, limits: LinkLimits) -> LinksConfig {
    LinksConfig {
        here: place(node),
        cluster_name: "test".into(),
        secret: "a secret".into(),
        identity: 1000 + u64::from(node),
        boot: 1,
        limits,
    }
}

impl Network {
    pub fn new(seed: u64, configs: Vec<LinksConfig>) -> Network {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut network = Network {
            now: Instant(1_000_000),
            ends: Vec::new(),
            chance: Chance::new(bytes, 0),
            wires: Vec::new(),
            happenings: BTreeMap::new(),
            counter: 0,
            tags: 0,
            bend_one_in: 0,
        };
        for config in configs {
            let chance = Chance::new(bytes, network.ends.len() as u64 + 1);
            network.ends.push(End {
                links: Links::new(config.clone(), chance),
                address: SocketAddr::from(([127, 0, 0, 1], 1000 + 100 * network.ends.len() as u16)),
                config,
                incarnation: 0,
                news: Vec::new(),
                sent: BTreeMap::new(),
                got: BTreeMap::new(),
                wake: None,
            });
        }
        network
    }

    /// So many members that know each other.
    pub fn members(seed: u64, count: u16, limits: LinkLimits) -> Network {
        let mut network = Network::new(seed, (1..=count).map(|node| config(node, limits)).collect());
        network.introduce();
        network
    }

    /// Everybody knows where everybody is.
    pub fn introduce(&mut self) {
        for end in 0..self.ends.len() {
            self.introduce_to(end);
        }
    }

    pub fn introduce_to(&mut self, end: usize) {
        let row = |end: &End| (end.config.here.node, end.config.identity, end.address, 1);
        let nodes: Vec<_> = self.ends.iter().map(row).collect();
        self.ends[end].links.set_nodes(&nodes);
        self.step(end);
    }

    pub fn restart(&mut self, end: usize) {
        for wire in 0..self.wires.len() {
            if self.wires[wire].ends.iter().any(|(of, _, _)| *of == end) {
                self.cut(wire);
            }
        }
        let seed = self.chance.number();
        let old = &mut self.ends[end];
        old.incarnation += 1;
        old.config.boot += 1;
        let chance = Chance::new([seed as u8; 32], old.incarnation);
        old.links = Links::new(old.config.clone(), chance);
        (old.sent, old.got) = (BTreeMap::new(), BTreeMap::new());
        self.introduce_to(end);
    }

    /// Sends frames that the witness knows. False: overflow.
    pub fn send(&mut self, from: usize, to: usize, count: u32, text_bytes: usize) -> bool {
        let peer = self.ends[to].config.here;
        let sent = self.sent(from, peer);
        let frames = (0..count).map(|more| frame(sent.tag, sent.frames + more, text_bytes, false)).collect();
        let taken = self.ends[from].links.send(peer, frames).is_ok();
        if let Some(sent) = self.ends[from].sent.get_mut(&peer).filter(|_| taken) {
            sent.frames += count;
        }
        self.step(from);
        taken
    }

    pub fn send_lossy(&mut self, from: usize, to: usize, text_bytes: usize) {
        self.counter += 1;
        let lossy = frame(from as u32, self.counter as u32, text_bytes, true);
        let peer = self.ends[to].config.here;
        // What finds no room is counted by the links.
        let _ = self.ends[from].links.send_lossy(peer, lossy, Rank::Usual);
        self.step(from);
    }

    fn sent(&mut self, from: usize, peer: Place) -> Sent {
        let tags = &mut self.tags;
        *self.ends[from].sent.entry(peer).or_insert_with(|| {
            *tags += 1;
            Sent { tag: *tags, frames: 0 }
        })
    }

    pub fn wires(&self) -> usize {
        self.wires.len()
    }

    pub fn open_wires(&self) -> usize {
        self.wires.iter().filter(|wire| !wire.cut && wire.closed == [false, false]).count()
    }

    /// The socket breaks; what is under way is lost.
    pub fn cut(&mut self, wire: usize) {
        if !std::mem::replace(&mut self.wires[wire].cut, true) {
            for from in 0..2 {
                self.after(Duration::from_micros(50), Happening::Closed { wire, from });
            }
        }
    }

    /// Nothing from one side arrives for a while.
    pub fn hold(&mut self, wire: usize, from: usize, span: Duration) {
        // Never less than before, or bytes would overtake others.
        let held = &mut self.wires[wire].held[from];
        *held = (*held).max(self.now + span);
    }

    /// Time passes, and what is due happens.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        let mut happened = 0;
        while let Some(entry) = self.happenings.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
            happened += 1;
            assert!(happened < 2_000_000, "it never comes to rest");
        }
        self.now = until;
    }

    fn after(&mut self, span: Duration, happening: Happening) {
        self.at(self.now + span, happening);
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.counter += 1;
        self.happenings.insert((at, self.counter), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { end } => {
                if self.ends[end].wake.is_some_and(|wake| wake <= self.now) {
                    self.ends[end].wake = None;
                }
                self.step(end);
            }
            Happening::Dialed { end, incarnation, conn, to } => self.connect(end, incarnation, conn, to),
            Happening::Bytes { wire, from, bytes } => self.arrive(wire, from, bytes),
            Happening::Closed { wire, from } => {
                let (end, incarnation, conn) = self.wires[wire].ends[1 - from];
                self.wires[wire].closed = [true; 2];
                if self.ends[end].incarnation == incarnation {
                    self.ends[end].links.handle_closed(self.now, conn);
                    self.step(end);
                }
            }
        }
    }

    fn connect(&mut self, end: usize, incarnation: u64, conn: LinkConn, to: SocketAddr) {
        if self.ends[end].incarnation != incarnation {
            return;
        }
        let other = self.ends.iter().position(|end| end.address == to);
        self.ends[end].links.handle_dialed(self.now, conn, other.is_some());
        if let Some(other) = other {
            let accepted = LinkConn::accepted(self.wires.len() as u64);
            let ends = [(end, incarnation, conn), (other, self.ends[other].incarnation, accepted)];
            self.wires.push(Wire { ends, closed: [false; 2], cut: false, held: [self.now; 2] });
            let from = Some(self.ends[end].address);
            self.ends[other].links.handle_accepted(self.now, accepted, from);
            self.step(other);
        }
        self.step(end);
    }

    fn arrive(&mut self, wire: usize, from: usize, mut bytes: Vec<u8>) {
        let held = self.wires[wire].held[from];
        if held > self.now {
            return self.at(held, Happening::Bytes { wire, from, bytes });
        }
        let (end, incarnation, conn) = self.wires[wire].ends[1 - from];
        if self.wires[wire].cut || self.wires[wire].closed[1 - from] || self.ends[end].incarnation != incarnation {
            return;
        }
        if self.bend_one_in != 0 && self.chance.between(0, self.bend_one_in) == 0 {
            let at = self.chance.between(0, bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.chance.between(0, 8);
        }
        self.ends[end].links.handle_bytes(self.now, conn, Bytes::from(bytes));
        self.step(end);
    }

    /// The end of a step of one end: news to the witness, wishes to the network.
    pub fn step(&mut self, end: usize) {
        let mut wishes = Vec::new();
        let now = self.now;
        self.ends[end].links.flush(now, &mut wishes);
        self.ends[end].links.check_invariants();
        for news in self.ends[end].links.take_news() {
            self.witness(end, &news);
            self.ends[end].news.push(news);
        }
        for wish in wishes {
            self.grant(end, wish);
        }
        let Some(deadline) = self.ends[end].links.next_deadline() else { return };
        assert!(deadline > now, "everything due was done");
        if self.ends[end].wake.is_none_or(|wake| wake > deadline) {
            self.ends[end].wake = Some(deadline);
            self.at(deadline, Happening::Wake { end });
        }
    }

    fn grant(&mut self, end: usize, wish: LinkWish) {
        let incarnation = self.ends[end].incarnation;
        let find = |wires: &[Wire], conn: LinkConn| {
            let mut wires = wires.iter().enumerate().rev();
            wires.find_map(|(at, wire)| {
                wire.ends.iter().position(|side| *side == (end, incarnation, conn)).map(|side| (at, side))
            })
        };
        match wish {
            LinkWish::Dial { conn, to } => {
                let delay = Duration::from_micros(self.chance.between(20, 400));
                self.after(delay, Happening::Dialed { end, incarnation, conn, to });
            }
            LinkWish::Write { conn, bytes } => {
                assert!(!bytes.is_empty(), "nothing is written for nothing");
                let Some((wire, from)) = find(&self.wires, conn) else { return };
                let mut rest = VecDeque::from(bytes);
                // In pieces, which all take the same time, so that they stay in order.
                while !rest.is_empty() {
                    let most = [1, 7, 40, 600, 1 << 20][self.chance.between(0, 5) as usize];
                    let length = (self.chance.between(0, most) as usize + 1).min(rest.len());
                    let bytes = rest.drain(..length).collect();
                    self.after(Duration::from_micros(100), Happening::Bytes { wire, from, bytes });
                }
            }
            LinkWish::Hangup { conn } => {
                let Some((wire, from)) = find(&self.wires, conn) else { return };
                self.wires[wire].closed[from] = true;
                self.after(Duration::from_micros(100), Happening::Closed { wire, from });
            }
        }
    }

    fn witness(&mut self, end: usize, news: &LinkNews) {
        match news {
            LinkNews::Frames { from, frames, .. } => {
                let got = self.ends[end].got.entry(*from).or_default();
                for frame in frames {
                    let Frame::Propose(said) = frame else { panic!("nobody sent {frame:?}") };
                    let (tag, index) = ((said.ticket >> 32) as u32, said.ticket as u32);
                    if said.command.first() == Some(&LOSSY) {
                        assert!(got.lossy.insert((tag, index)), "a lossy frame came twice");
                        continue;
                    }
                    if got.run.is_none() {
                        assert!(got.tags.insert(tag), "frames of before a reset came after it");
                    }
                    let (run, next) = got.run.unwrap_or((tag, 0));
                    assert_eq!((tag, index), (run, next), "from {from}: in order, each once, none left out");
                    got.run = Some((run, next + 1));
                }
            }
            LinkNews::Up { peer, fresh: true, .. } => {
                self.ends[end].got.entry(*peer).or_default().run = None;
            }
            LinkNews::Reset { peer } => {
                self.ends[end].got.entry(*peer).or_default().run = None;
                self.ends[end].sent.remove(peer);
            }
            _ => {}
        }
    }

    /// Everything that was sent since the last reset has arrived.
    pub fn assert_all_arrived(&self) {
        for from in &self.ends {
            for (peer, sent) in from.sent.iter().filter(|(_, sent)| sent.frames > 0) {
                let to = self.ends.iter().find(|end| end.config.here == *peer).expect("frames go to somebody");
                let got = to.got.get(&from.config.here).and_then(|got| got.run);
                let rows = (from.links.rows(), to.links.rows());
                assert_eq!(got, Some((sent.tag, sent.frames)), "{} to {peer}: {rows:?}", from.config.here);
            }
        }
    }

    pub fn lossy_from(&self, end: usize, from: usize) -> usize {
        self.ends[end].got.get(&self.ends[from].config.here).map_or(0, |got| got.lossy.len())
    }

    pub fn count(&self, end: usize, matches: impl Fn(&LinkNews) -> bool) -> usize {
        self.ends[end].news.iter().filter(|news| matches(news)).count()
    }
}
