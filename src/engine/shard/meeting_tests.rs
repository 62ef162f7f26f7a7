//! Nodes of one shard each that meet over a network without faults: who is let in, who is not, and what each side says of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::format::frame::{Addresses, Alive, Frame, Join, Joined};
use crate::ids::{LinkConn, ReplicaId};
use crate::time::UnixMillis;

/// One step of everybody.
const STEP: Duration = Duration::from_millis(5);

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, node as u8], 5300))
}

pub(super) struct Party {
    pub(super) shard: Shard,
    inbox: EventBatch,
    wires: BTreeMap<LinkConn, (usize, LinkConn)>,
    accepted: u64,
    dials: u64,
    pub(super) said: Vec<String>,
    pub(super) stopped: bool,
}

impl Party {
    fn members(&self) -> Vec<u16> {
        let cluster = self.shard.cluster.as_ref();
        cluster.map_or(Vec::new(), |cluster| cluster.members.keys().map(|node| node.0).collect())
    }

    /// Lines with this in them.
    pub(super) fn lines(&self, words: &str) -> usize {
        self.said.iter().filter(|line| line.contains(words)).count()
    }
}

/// All nodes, the first one with number 1. Disks are perfect and instant.
pub(super) struct Meeting {
    pub(super) parties: Vec<Party>,
    pub(super) now: Now,
    chance: Chance,
}

impl Meeting {
    pub(super) fn new(seed: u8) -> Meeting {
        let now = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        Meeting { parties: Vec::new(), now, chance: Chance::new([seed; 32], 77) }
    }

    /// A further node: it founds when it is given no seeds.
    pub(super) fn comes(&mut self, seeds: &[u16], name: &str) -> usize {
        let node = self.parties.len() as u16 + 1;
        let mut cluster = ClusterSettings::alone(u64::from(node) + 900);
        cluster.address = Some(address(node));
        cluster.addresses.cluster = address(node);
        (cluster.secret, cluster.name) = ("known to all of them".into(), name.into());
        cluster.seeds = seeds.iter().map(|seed| address(*seed)).collect();
        let mut dice = [node as u8; 32];
        dice[1] = self.chance.number() as u8;
        let config = ShardConfig {
            place: Place { node: NodeId(node), shard: ShardId(0) },
            seed: dice,
            boot: u64::from(node) + 50,
            cluster,
            ..super::tests::config()
        };
        let shard = Recovery::new(config).finish(self.now, None).expect("nothing on disk is nothing wrong");
        let (inbox, wires, said) = (Vec::new(), BTreeMap::new(), Vec::new());
        self.parties.push(Party { shard, inbox, wires, accepted: 0, dials: 0, said, stopped: false });
        usize::from(node) - 1
    }

    /// One that has founded a cluster, as if it was started again with these seeds.
    fn founder_with(&mut self, seeds: &[u16], name: &str) -> usize {
        let party = self.comes(&[], name);
        self.run(Duration::from_millis(500));
        let shard = &mut self.parties[party].shard;
        assert!(shard.is_cluster_by_itself());
        shard.config.cluster.seeds = seeds.iter().map(|seed| address(*seed)).collect();
        party
    }

    pub(super) fn run(&mut self, span: Duration) {
        let until = self.now.instant + span;
        while self.now.instant < until {
            for party in 0..self.parties.len() {
                if !self.parties[party].stopped {
                    self.step(party);
                }
            }
            self.now.instant = self.now.instant + STEP;
            self.now.unix.0 += STEP.as_millis() as u64;
        }
    }

    fn step(&mut self, number: usize) {
        let mut effects = Effects::default();
        let party = &mut self.parties[number];
        let mut inbox = std::mem::take(&mut party.inbox);
        party.shard.step(self.now, &mut inbox, &mut effects);
        party.shard.check_invariants();
        for effect in effects.list {
            self.carry_out(number, effect);
        }
    }

    fn carry_out(&mut self, number: usize, effect: Effect) {
        let party = &mut self.parties[number];
        match effect {
            Effect::JournalWrite(write) => {
                let (flush, bytes) = (write.flush, write.bytes);
                party.inbox.push(Event::JournalWritten { flush, bytes, result: Ok(()) });
            }
            Effect::JournalSegment { segment } => party.inbox.push(Event::SegmentReady { segment, result: Ok(()) }),
            Effect::Checkpoint { slot, .. } => party.inbox.push(Event::CheckpointWritten { slot, result: Ok(()) }),
            Effect::Report { line, .. } => party.said.push(line),
            Effect::Dial { conn, to } => self.dial(number, conn, to),
            Effect::LinkWrite { conn, bytes } => {
                if let Some((other, conn)) = party.wires.get(&conn).copied() {
                    self.parties[other].inbox.push(Event::LinkBytes { conn, bytes: Bytes::from(bytes) });
                }
            }
            Effect::Hangup { conn } => {
                if let Some((other, conn)) = party.wires.remove(&conn) {
                    self.parties[other].wires.remove(&conn);
                    self.parties[other].inbox.push(Event::LinkClosed { conn });
                }
            }
            Effect::Stopped => {
                party.stopped = true;
                for (other, conn) in std::mem::take(&mut party.wires).into_values() {
                    self.parties[other].wires.remove(&conn);
                    self.parties[other].inbox.push(Event::LinkClosed { conn });
                }
            }
            Effect::Datagram { to, bytes } => {
                if let Some(other) = self.at(to) {
                    let from = address(number as u16 + 1);
                    self.parties[other].inbox.push(Event::Datagram { from, bytes });
                }
            }
            _ => {}
        }
    }

    fn at(&self, to: SocketAddr) -> Option<usize> {
        (0..self.parties.len()).find(|party| address(*party as u16 + 1) == to && !self.parties[*party].stopped)
    }

    fn dial(&mut self, number: usize, conn: LinkConn, to: SocketAddr) {
        self.parties[number].dials += 1;
        let Some(other) = self.at(to) else {
            return self.parties[number].inbox.push(Event::LinkDialed { conn, made: false });
        };
        let there = LinkConn::accepted(self.parties[other].accepted);
        self.parties[other].accepted += 1;
        self.parties[other].wires.insert(there, (number, conn));
        self.parties[number].wires.insert(conn, (other, there));
        let from = Some(SocketAddr::new(address(number as u16 + 1).ip(), 40_000));
        self.parties[other].inbox.push(Event::LinkAccepted { conn: there, from });
        self.parties[number].inbox.push(Event::LinkDialed { conn, made: true });
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn who_founded_its_own_cluster_and_has_seeds_of_another_says_so_and_so_do_they() {
    let mut meeting = Meeting::new(1);
    let first = meeting.comes(&[], "east");
    let second = meeting.comes(&[1], "east");
    // Until nothing moves any more.
    meeting.run(seconds(20));
    assert_eq!(meeting.parties[first].members(), [1, 2]);
    let third = meeting.founder_with(&[1, 2], "east");
    let table = |meeting: &Meeting, party: usize| meeting.parties[party].shard.cluster.clone();
    let before = [first, second, third].map(|party| table(&meeting, party));
    meeting.run(seconds(5));
    let other =
        "this node is a cluster by itself, and whoever is at 127.0.0.1:5300 belongs to another one named \"east\"";
    let aside = "set its data directory aside";
    assert_eq!(meeting.parties[third].lines(other), 1, "{:?}", meeting.parties[third].said);
    for party in [first, second] {
        let said = &meeting.parties[party];
        let line = said.said.iter().find(|line| line.contains(aside)).expect("it says what to do");
        assert!(line.starts_with("this node refuses a link with node 3 at 127.0.0.3: "), "{line}");
        assert!(line.contains("different clusters of the same name, \"east\""), "{line}");
        assert_eq!(said.lines(aside), 1, "{:?}", said.said);
    }
    assert_eq!([first, second, third].map(|party| table(&meeting, party)), before, "nothing has changed");
    meeting.run(seconds(50));
    assert_eq!(
        [first, third].map(|party| meeting.parties[party].lines("cluster")),
        [2, 3],
        "it is not said again and again"
    );
    meeting.run(seconds(60));
    assert_eq!(
        (meeting.parties[third].lines(other), meeting.parties[first].lines(aside)),
        (2, 2),
        "but once in a while"
    );
    assert!((150..400).contains(&meeting.parties[third].dials), "{} dials", meeting.parties[third].dials);
}

#[test]
fn a_founder_with_seeds_that_are_not_there_yet_is_silent_and_lets_them_in() {
    for seed in 0..20 {
        let mut meeting = Meeting::new(seed);
        let first = meeting.founder_with(&[1, 2, 3], "east");
        meeting.run(seconds(10));
        assert_eq!(meeting.parties[first].said.len(), 1, "alone so far: {:?}", meeting.parties[first].said);
        let late = Duration::from_millis(meeting.chance.between(0, 1000));
        meeting.run(late);
        // Each dials all others, and the founder dials them.
        meeting.comes(&[1, 3], "east");
        meeting.comes(&[1, 2], "east");
        meeting.run(seconds(4));
        for party in &meeting.parties {
            assert_eq!(party.members(), [1, 2, 3], "{:?}", party.said);
            assert_eq!(party.lines("refuse"), 0, "{:?}", party.said);
        }
        let dials = meeting.parties[first].dials;
        meeting.run(seconds(10));
        assert!(meeting.parties[first].dials <= dials + 2, "who is not alone does not look for others");
    }
}

/// Somebody who was to join the others stands in the list of one who is a cluster by itself by mistake.
#[test]
fn a_newcomer_joins_whom_it_was_told_to_and_not_whoever_dials_it() {
    let mut meeting = Meeting::new(5);
    let astray = meeting.founder_with(&[2], "east");
    let newcomer = meeting.comes(&[3], "east");
    meeting.run(seconds(5));
    assert!(meeting.parties[newcomer].members().is_empty(), "whom it is to ask is not there yet");
    meeting.comes(&[], "east");
    meeting.run(seconds(5));
    assert_eq!(meeting.parties[newcomer].members(), [2, 3]);
    assert_eq!(meeting.parties[astray].members(), [1]);
    assert_eq!(meeting.parties[newcomer].lines("different clusters"), 1, "{:?}", meeting.parties[newcomer].said);
}

#[test]
fn a_node_alone_takes_the_name_that_its_configuration_gives_the_cluster() {
    let mut meeting = Meeting::new(6);
    let first = meeting.founder_with(&[], "jindou");
    // As if it was started again with another configuration.
    meeting.parties[first].shard.config.cluster.name = "east".into();
    meeting.run(seconds(1));
    let cluster = meeting.parties[first].shard.cluster.clone().expect("it has founded");
    assert_eq!(&*cluster.name, "east");
    assert_eq!(meeting.parties[first].lines("called \"east\" now, and was \"jindou\""), 1);
    meeting.run(seconds(5));
    let later = meeting.parties[first].shard.cluster.as_ref().map(|cluster| cluster.version);
    assert_eq!(later, Some(cluster.version), "agreed on once");
}

#[test]
fn a_node_that_stops_in_order_is_not_waited_for() {
    let mut meeting = Meeting::new(9);
    meeting.comes(&[], "east");
    for _ in 0..2 {
        meeting.comes(&[1], "east");
    }
    meeting.run(seconds(20));
    assert_eq!(meeting.parties[0].members(), [1, 2, 3]);
    meeting.parties[1].inbox.push(Event::Stop);
    for _ in 0..1000 {
        if meeting.parties[1].stopped {
            break;
        }
        assert_eq!(meeting.parties[0].lines("node 2 is not there any more"), 0, "it is there until it has stopped");
        meeting.run(STEP);
    }
    assert!(meeting.parties[1].stopped);
    // Who does not answer is missed after more than a second.
    meeting.run(Duration::from_millis(100));
    for party in [0, 2] {
        assert_eq!(
            meeting.parties[party].lines("node 2 is not there any more"),
            1,
            "{:?}",
            meeting.parties[party].said
        );
    }
}

#[test]
fn a_newcomer_of_another_version_is_named() {
    let mut meeting = Meeting::new(10);
    let first = meeting.comes(&[], "east");
    meeting.run(seconds(1));
    let (now, from) = (meeting.now, Place { node: NodeId(2), shard: ShardId(0) });
    let shard = &mut meeting.parties[first].shard;
    let mut addresses = shard.config.cluster.addresses.clone();
    addresses.cluster = address(2);
    for version in ["9.9.9", "9.9.9", env!("CARGO_PKG_VERSION")] {
        let (addresses, version) = (addresses.clone(), version.into());
        shard.handle_join(
            now,
            from,
            Join { node: 2, identity: 902, boot: 1, shards: 1, belongs: false, addresses, version },
        );
    }
    meeting.run(Duration::from_millis(50));
    let said = &meeting.parties[first];
    assert_eq!(said.lines("node 2 asks to be let in and runs jindou \"9.9.9\""), 1, "{:?}", said.said);
    assert_eq!(said.members(), [1, 2], "it is let in all the same");
}

#[test]
fn a_number_that_is_taken_is_refused_and_both_sides_hear_of_it() {
    let mut meeting = Meeting::new(7);
    let first = meeting.comes(&[], "east");
    meeting.comes(&[1], "east");
    meeting.run(seconds(3));
    let cluster = meeting.parties[first].shard.cluster.clone().expect("they are two");
    let known = &cluster.members[&NodeId(2)];
    let (now, from) = (meeting.now, Place { node: NodeId(2), shard: ShardId(0) });
    let shard = &mut meeting.parties[first].shard;
    let alive = Alive { node: 2, boot: 52, table_version: 1, slots_led: 0, sessions: 0, stopping: false };
    shard.handle_alive(now, from, alive);
    let mut addresses = known.addresses.clone();
    addresses.cluster = address(9);
    for _ in 0..3 {
        let (addresses, version) = (addresses.clone(), env!("CARGO_PKG_VERSION").into());
        shard.handle_join(
            now,
            from,
            Join { node: 2, identity: 666, boot: 1, shards: 1, belongs: false, addresses, version },
        );
    }
    meeting.run(Duration::from_millis(50));
    let words = "node 2 at 127.0.0.9:5300 is not let into the cluster: node id n2 belongs to a node that is alive, at 127.0.0.2:5300";
    assert_eq!(meeting.parties[first].lines(words), 1, "{:?}", meeting.parties[first].said);
    assert_eq!(meeting.parties[first].members(), [1, 2]);

    // The newcomer's side says it once in a while too, however often it asks.
    let mut meeting = Meeting::new(8);
    let newcomer = meeting.comes(&[9], "east");
    for _ in 0..10 {
        let why = "node id n1 belongs to somebody".into();
        meeting.parties[newcomer].inbox.push(Event::Frames {
            from: Place { node: NodeId(1), shard: ShardId(1) },
            frames: vec![Frame::Joined(Box::new(Joined::Refused { why }))],
        });
        meeting.run(seconds(2));
    }
    assert_eq!(meeting.parties[newcomer].lines("not let into the cluster: node id n1"), 1);
}

#[test]
fn a_number_is_not_taken_back_by_whoever_had_it_nor_by_a_stranger_while_nobody_was_heard_yet() {
    let mut meeting = Meeting::new(9);
    let first = meeting.comes(&[], "east");
    meeting.comes(&[1], "east");
    meeting.run(seconds(5));
    // The second one is silent, however long.
    meeting.parties[1].stopped = true;
    meeting.run(seconds(30));
    let (now, from) = (meeting.now, Place { node: NodeId(2), shard: ShardId(0) });
    let shard = &mut meeting.parties[first].shard;
    let known = shard.cluster.clone().expect("they are two").members[&NodeId(2)].identity;
    let mut joins = |node: u16, belongs: bool| {
        let addresses = Addresses { cluster: address(9), ..shard.config.cluster.addresses.clone() };
        let version = env!("CARGO_PKG_VERSION").into();
        shard.handle_join(now, from, Join { node, identity: 666, boot: 1, shards: 1, belongs, addresses, version });
        shard.office.as_ref().expect("it is the first shard").joins_waiting()
    };
    assert_eq!(joins(2, true), 0, "it was a member before the one who is");
    assert_eq!(joins(7, true), 0, "it was removed, and has its old disk");
    assert_eq!(joins(2, false), 1, "a lost disk");
    assert_eq!(joins(7, false), 2, "a newcomer");
    assert_ne!(known, 666);
    // A newcomer is not what somebody else was let in as.
    let mut meeting = Meeting::new(10);
    let newcomer = meeting.comes(&[9], "east");
    let accepted = Joined::Accepted { cluster: 5, identity: 1, replica: ReplicaId::new(from, 77) };
    meeting.parties[newcomer].shard.handle_joined(meeting.now, accepted);
    let office = meeting.parties[newcomer].shard.office.as_ref().expect("it is the first shard");
    assert!(office.council.is_none());
}
