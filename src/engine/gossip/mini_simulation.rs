//! A small world for tests: gossiping nodes on virtual time with a network that loses, doubles, delays, reorders and cuts,
//! and nodes that pause, die and start again. One seed is one history. Not the project's simulator: only gossip lives here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Gossip, GossipConfig, GossipLimits, GossipNews, GossipWish, MemberState};
use crate::engine::chance::Chance;
use crate::ids::NodeId;
use crate::time::Instant;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub lost_per_mille: u64,
    pub doubled_per_mille: u64,
    pub delay_micros: (u64, u64),
}

pub const CALM: Weather = Weather { lost_per_mille: 0, doubled_per_mille: 0, delay_micros: (100, 900) };
pub const ROUGH: Weather = Weather { lost_per_mille: 50, doubled_per_mille: 20, delay_micros: (100, 20_000) };

/// A datagram under way: sender, receiver, bytes.
type Flight = (usize, usize, Vec<u8>);

/// All of it.
pub struct World {
    pub now: Instant,
    pub weather: Weather,
    /// One-way: nothing from the first reaches the second.
    pub cut: BTreeSet<(usize, usize)>,
    pub nodes: Vec<Option<Gossip>>,
    pub news: Vec<(Instant, usize, GossipNews)>,
    /// Everything ever sent, when kept.
    pub tape: Option<Vec<Flight>>,
    /// A hash over all that was sent and told.
    pub trace: u64,
    boots: Vec<u64>,
    paused_until: Vec<Instant>,
    flights: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    chance: Chance,
    secret: Vec<u8>,
}

pub fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + index as u16))
}

pub fn node_id(index: usize) -> NodeId {
    NodeId(index as u16 + 1)
}

impl World {
    /// So many nodes, not yet acquainted; the first is everybody's seed.
    pub fn new(count: usize, seed: u64, weather: Weather) -> World {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut world = World {
            now: Instant(1_000_000_000),
            weather,
            cut: BTreeSet::new(),
            nodes: Vec::new(),
            news: Vec::new(),
            tape: None,
            trace: seed,
            boots: vec![0; count],
            paused_until: vec![Instant(0); count],
            flights: BTreeMap::new(),
            sent: 0,
            chance: Chance::new(bytes, 0),
            secret: b"a secret".to_vec(),
        };
        world.nodes.resize_with(count, || None);
        for index in 0..count {
            world.start(index);
        }
        world
    }

    /// Everybody knows from the metadata group who belongs to the cluster, and has met.
    pub fn acquainted(count: usize, seed: u64, weather: Weather) -> World {
        let mut world = World::new(count, seed, CALM);
        world.tell_members();
        let limit = world.now + Duration::from_secs(60);
        while !world.all_up() {
            assert!(world.now < limit, "{count} nodes did not meet within a minute; seed {seed}");
            world.run(Duration::from_millis(100));
        }
        // What is left of the news of the beginning dies down.
        world.run(Duration::from_secs(5));
        world.weather = weather;
        world.news.clear();
        world
    }

    pub fn start(&mut self, index: usize) {
        self.boots[index] += 1;
        let config = GossipConfig {
            here: node_id(index),
            boot: self.boots[index],
            address: address(index),
            seeds: vec![address(0), address(1)],
            cluster_name: "test".to_owned(),
            secret: self.secret.clone(),
            limits: GossipLimits::PRODUCTION,
        };
        let mut seed = [0u8; 32];
        seed[..8].copy_from_slice(&self.chance.number().to_le_bytes());
        self.nodes[index] = Some(Gossip::new(config, Chance::new(seed, 0)));
    }

    pub fn boot(&self, index: usize) -> u64 {
        self.boots[index]
    }

    pub fn tell_members(&mut self) {
        let members: Vec<_> = (0..self.nodes.len()).map(|index| (node_id(index), address(index))).collect();
        self.nodes.iter_mut().flatten().for_each(|node| node.set_members(&members));
    }

    pub fn kill(&mut self, index: usize) {
        self.nodes[index] = None;
    }

    pub fn pause(&mut self, index: usize, span: Duration) {
        self.paused_until[index] = self.now + span;
    }

    /// Cuts the first `count` nodes off from the others, both ways.
    pub fn part(&mut self, count: usize) {
        for one in 0..count {
            for other in count..self.nodes.len() {
                self.cut.insert((one, other));
                self.cut.insert((other, one));
            }
        }
    }

    pub fn up_at(&self, index: usize) -> usize {
        let view = self.nodes[index].as_ref().map(Gossip::view).unwrap_or_default();
        view.iter().filter(|member| matches!(member.state, MemberState::Up | MemberState::Suspect)).count()
    }

    /// All that live see all others that live, and nobody else.
    pub fn all_up(&self) -> bool {
        let living = self.nodes.iter().flatten().count();
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()).all(|index| self.up_at(index) == living - 1)
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
            let fire = self.next_fire();
            let next = match (flight, fire) {
                (Some(flight), Some((fire, _))) => flight.min(fire),
                (Some(at), None) | (None, Some((at, _))) => at,
                (None, None) => end,
            };
            if next >= end {
                break;
            }
            self.now = self.now.max(next);
            if flight.is_some_and(|at| at <= self.now) {
                self.land();
            } else if let Some((_, index)) = fire {
                if let Some(node) = &mut self.nodes[index] {
                    node.fire(self.now);
                }
                self.drain(index);
            }
        }
        self.now = end;
    }

    fn next_fire(&self) -> Option<(Instant, usize)> {
        let due = |index: usize| Some((self.nodes[index].as_ref()?.next_deadline()?, index));
        (0..self.nodes.len()).filter_map(due).map(|(at, index)| (at.max(self.paused_until[index]), index)).min()
    }

    fn land(&mut self) {
        let Some(((_, number), (from, to, bytes))) = self.flights.pop_first() else { return };
        if self.paused_until[to] > self.now {
            self.flights.insert((self.paused_until[to], number), (from, to, bytes));
            return;
        }
        self.hand_in(from, to, &bytes);
    }

    pub fn hand_in(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if let Some(node) = &mut self.nodes[to] {
            node.handle_datagram(self.now, address(from), bytes);
        }
        self.drain(to);
    }

    pub fn drain(&mut self, index: usize) {
        let mut wishes = Vec::new();
        if let Some(node) = &mut self.nodes[index] {
            node.drain(&mut wishes);
        }
        for wish in wishes {
            match wish {
                GossipWish::News(news) => {
                    self.trace = xxh3_64_with_seed(format!("{index} {news:?}").as_bytes(), self.trace ^ self.now.0);
                    self.news.push((self.now, index, news));
                }
                GossipWish::Datagram { to, bytes } => {
                    assert!(bytes.len() <= super::DATAGRAM_BYTES_MAX);
                    self.trace = xxh3_64_with_seed(&bytes, self.trace ^ self.now.0);
                    let to = usize::from(to.port()) - 10_000;
                    self.send(index, to, bytes);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if let Some(tape) = &mut self.tape {
            tape.push((from, to, bytes.clone()));
        }
        let copies = 1 + u64::from(self.chance.between(0, 1000) < self.weather.doubled_per_mille);
        for _ in 0..copies {
            let lost = self.chance.between(0, 1000) < self.weather.lost_per_mille;
            let (low, high) = self.weather.delay_micros;
            let at = self.now + Duration::from_micros(self.chance.between(low, high));
            if !lost && !self.cut.contains(&(from, to)) {
                self.sent += 1;
                self.flights.insert((at, self.sent), (from, to, bytes.clone()));
            }
        }
    }

    /// Draws from the world's chance.
    pub fn draw(&mut self, below: u64) -> u64 {
        self.chance.between(0, below)
    }
}

/// Kills one node and says after how long each of the others told so, in milliseconds, sorted.
pub fn detection_millis(count: usize, seed: u64, weather: Weather) -> Vec<u64> {
    let mut world = World::acquainted(count, seed, weather);
    let wait = world.draw(1_000);
    world.run(Duration::from_millis(wait));
    world.news.clear();
    let dead = world.draw(count as u64) as usize;
    let killed = world.now;
    world.kill(dead);
    world.run(Duration::from_secs(20));
    let down = GossipNews::Down { node: node_id(dead), boot: world.boot(dead) };
    let told = world.news.iter().filter(|(_, _, news)| *news == down);
    let mut millis: Vec<u64> = told.map(|(at, ..)| at.since(killed).as_millis() as u64).collect();
    millis.sort_unstable();
    assert_eq!(millis.len(), count - 1, "each tells once; seed {seed}");
    millis
}

/// Pauses of 200 ms, one of each node every ten seconds on average, in that weather; how many false `Down`s come of it.
pub fn false_alarms(count: usize, seed: u64, weather: Weather, seconds: u64) -> usize {
    let mut world = World::acquainted(count, seed, weather);
    for _ in 0..seconds * 10 {
        for index in 0..count {
            if world.draw(100) == 0 {
                world.pause(index, Duration::from_millis(200));
            }
        }
        world.run(Duration::from_millis(100));
    }
    world.news.iter().filter(|(_, _, news)| matches!(news, GossipNews::Down { .. })).count()
}

/// Datagrams and bytes that each node sends per second: idle, or with everybody's load changing every so many seconds.
pub fn send_rate(count: usize, seed: u64, load_every: Option<u64>) -> (f64, f64) {
    const SECONDS: u64 = 60;
    let mut world = World::acquainted(count, seed, CALM);
    world.nodes.iter_mut().flatten().for_each(|node| node.set_load(7, 100, 1000));
    // Until all loads have been passed on as often as they are.
    world.run(Duration::from_secs(10 + count as u64 / 2));
    let sums = |world: &World| {
        let counters = world.nodes.iter().flatten().map(Gossip::counters);
        counters.fold((0, 0), |sum, counters| (sum.0 + counters.sent, sum.1 + counters.sent_bytes))
    };
    let before = sums(&world);
    for second in 0..SECONDS {
        if load_every.is_some_and(|every| second % every == 0) {
            world.nodes.iter_mut().flatten().for_each(|node| node.set_load(8, 100, second as u32));
        }
        world.run(Duration::from_secs(1));
    }
    let after = sums(&world);
    let per_node = |sum: u64| sum as f64 / count as f64 / SECONDS as f64;
    (per_node(after.0 - before.0), per_node(after.1 - before.1))
}
