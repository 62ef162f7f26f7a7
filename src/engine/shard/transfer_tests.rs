//! Two shards on two nodes, joined by hand: a slot's state goes from the one that leads it to the one that has nothing, and copies of
//! damaged messages come back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::engine::event::{ApiAnswer, ApiRequest, DiskFault};
use crate::engine::raft_group::{GroupState, MemberChange};
use crate::engine::slot::SlotState;
use crate::engine::transfer::state;
use crate::format::frame::{Frame, SendBody};
use crate::format::message::StoredMessage;
use crate::format::packet::{HeaderFlags, Setting};
use crate::ids::{ChannelKey, ReplicaId};
use crate::time::UnixMillis;

const SEGMENT_BYTES: u32 = 64 << 10;

fn config(node: u16) -> ShardConfig {
    ShardConfig {
        place: Place { node: NodeId(node), shard: ShardId(0) },
        shard_count: 1,
        slot_depth: 1,
        limits: Limits { api_requests_max: 1000, fetch_messages_max: 64, ..Limits::TINY },
        token_auth: false,
        offline: OfflineMode::Push,
        durability: Durability::Fsync,
        geometry: JournalGeometry { identity: 7, block_bytes: 512, segment_bytes: SEGMENT_BYTES },
        retention: Retention { bytes: 0, age_ms: 0 },
        seed: [3 + node as u8; 32],
        boot: 5,
    }
}

/// A shard with a disk that answers at once.
struct Node {
    config: ShardConfig,
    shard: Shard,
    events: EventBatch,
    segments: BTreeMap<u32, Vec<u8>>,
    checkpoints: BTreeMap<SlotId, Vec<u8>>,
    /// Checkpoints to come that the disk refuses.
    refused: usize,
    answers: Vec<ApiAnswer>,
    reports: Vec<String>,
}

impl Node {
    fn new(node: u16, now: Now) -> Node {
        let config = config(node);
        let shard = Recovery::new(config.clone()).finish(now, None).expect("nothing on disk is nothing wrong");
        let (segments, checkpoints) = (BTreeMap::new(), BTreeMap::new());
        let (events, answers, reports) = (Vec::new(), Vec::new(), Vec::new());
        Node { config, shard, events, segments, checkpoints, refused: 0, answers, reports }
    }

    /// What a crash leaves.
    fn restarted(&self, now: Now) -> Shard {
        let mut recovery = Recovery::new(self.config.clone());
        for (slot, bytes) in &self.checkpoints {
            recovery.checkpoint(*slot, bytes).expect("a sound checkpoint");
        }
        let first = recovery.first_segment();
        for (segment, bytes) in self.segments.iter().filter(|(segment, _)| **segment >= first) {
            recovery.segment(*segment, bytes).expect("a sound journal");
        }
        recovery.finish(now, self.segments.keys().next().copied()).expect("a sound disk")
    }

    /// One step; what it says to others.
    fn step(&mut self, now: Now) -> Vec<(Place, Frame)> {
        let mut effects = Effects::default();
        self.shard.step(now, &mut self.events, &mut effects);
        self.shard.check_invariants();
        let mut said = Vec::new();
        for effect in effects.list {
            match effect {
                Effect::JournalWrite(write) => {
                    let bytes = self.segments.get_mut(&write.segment).expect("it was made");
                    bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
                    let (flush, bytes) = (write.flush, write.bytes);
                    self.events.push(Event::JournalWritten { flush, bytes, result: Ok(()) });
                }
                Effect::JournalSegment { segment } => {
                    self.segments.insert(segment, vec![0; SEGMENT_BYTES as usize]);
                    self.events.push(Event::SegmentReady { segment, result: Ok(()) });
                }
                Effect::Read { ticket, segment, offset, length } => {
                    let bytes = &self.segments[&segment];
                    let end = bytes.len().min((offset + length) as usize);
                    let result = Ok(Bytes::copy_from_slice(&bytes[offset as usize..end]));
                    self.events.push(Event::ReadDone { ticket, result });
                }
                Effect::Checkpoint { slot, bytes } => {
                    let result = if self.refused > 0 { Err(DiskFault::Io(5)) } else { Ok(()) };
                    self.refused = self.refused.saturating_sub(1);
                    if result.is_ok() {
                        self.checkpoints.insert(slot, bytes);
                    }
                    self.events.push(Event::CheckpointWritten { slot, result });
                }
                Effect::Frames { to, frames } => said.extend(frames.into_iter().map(|frame| (to, frame))),
                Effect::Answer { answer, .. } => self.answers.push(answer),
                Effect::Report { line, .. } => self.reports.push(line),
                other => panic!("nobody expects {other:?}"),
            }
        }
        said
    }

    fn slot(&self, slot: SlotId) -> &Slot {
        &self.shard.hosted[self.shard.place_of(slot).expect("it lives here")].slot
    }

    fn stored(&self, slot: SlotId, channel: usize, seq: u32) -> Option<StoredMessage> {
        let position = self.slot(slot).channels()[channel].channel.position(seq)?;
        let bytes = &self.segments.get(&position.segment)?[position.offset as usize..];
        StoredMessage::take(&Bytes::copy_from_slice(bytes)).ok()
    }

    fn damage(&mut self, slot: SlotId, channel: usize, seq: u32) {
        let position = self.slot(slot).channels()[channel].channel.position(seq).expect("it is there");
        let bytes = self.segments.get_mut(&position.segment).expect("it is there");
        bytes[position.offset as usize + 20] ^= 1;
    }
}

struct Pair {
    now: Now,
    nodes: [Node; 2],
    frames: u64,
}

const SLOT: SlotId = SlotId(0);

impl Pair {
    fn new() -> Pair {
        let now = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        let mut pair = Pair { now, nodes: [Node::new(1, now), Node::new(2, now)], frames: 0 };
        pair.run(10);
        pair
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for n in 0..2 {
                for (to, frame) in self.nodes[n].step(self.now) {
                    self.carry(n, to, frame);
                }
            }
            self.now.instant = self.now.instant + Duration::from_millis(5);
            self.now.unix.0 += 5;
        }
    }

    fn carry(&mut self, n: usize, to: Place, frame: Frame) {
        self.frames += 1;
        let from = self.nodes[n].config.place;
        let other = usize::from(to.node.0) - 1;
        if let Frame::Raft(message) = frame {
            let now = self.now;
            let shard = &mut self.nodes[other].shard;
            if let Some(place) = shard.place_of(message.slot) {
                shard.with_slot(place, now, |slot, _, _| {
                    let _ = slot.group_mut().step(*message);
                });
            }
            return;
        }
        self.nodes[other].events.push(Event::Frames { from, frames: vec![frame] });
    }

    fn send(&mut self, from: usize, to: usize, text: &str) {
        let request = ApiRequest::Send {
            from: Uid::parse(&format!("u{from}")).unwrap(),
            to: Uid::parse(&format!("u{to}")).unwrap(),
            flags: HeaderFlags(0),
            setting: Setting(0),
            expire_s: 0,
            body: SendBody::new("", "", text.as_bytes()),
        };
        self.nodes[0].events.push(Event::Api { ticket: 1, request });
    }

    fn talk(&mut self, messages: usize) {
        for n in 0..messages {
            self.send(n % 7, n % 7 + 1 + n % 2, &format!("{n:0width$}", width = n % 200));
            self.run(1);
        }
        self.run(20);
    }

    /// The second node gets an empty replica of the slot, which the first one's group is told to take in.
    fn add_replica(&mut self) -> ReplicaId {
        let replica = ReplicaId::new(self.nodes[1].config.place, 77);
        let (config, now) = (self.nodes[1].config.clone(), self.now);
        let shard = &mut self.nodes[1].shard;
        let place = shard.place_of(SLOT).expect("it lives here");
        let old = shard.hosted[place].slot.group().replica();
        shard.journal.append_end(SLOT, old);
        shard.journal.append_begin(SLOT, config.slot_depth, replica, &[]);
        let group = GroupState::begin(replica, &[]);
        let empty = SlotState { group, message_ids_last: 0, channels: Vec::new(), homes: Vec::new() };
        let map_state = Chance::new(config.seed, 1).map_state();
        let tail_max = config.limits.log_tail_bytes_max;
        shard.hosted[place].slot = Slot::restore(SLOT, empty, map_state, tail_max, chance_of(&config, SLOT)).unwrap();
        let shard = &mut self.nodes[0].shard;
        let place = shard.place_of(SLOT).expect("it lives here");
        let change = MemberChange::AddLearner(replica);
        shard.with_slot(place, now, |slot, _, _| slot.group_mut().propose_members(&change)).expect("it leads");
        replica
    }

    fn received(&self) -> u64 {
        self.nodes[1].shard.view().counters.transfers_received
    }

    fn assert_equal(&self) {
        let [leader, replica] = &self.nodes;
        let (ours, theirs) = (leader.slot(SLOT), replica.slot(SLOT));
        assert_eq!(ours.group().applied(), theirs.group().applied());
        assert_eq!(ours.channels().len(), theirs.channels().len());
        for (n, (mine, other)) in ours.channels().iter().zip(theirs.channels()).enumerate() {
            assert_eq!(mine.key, other.key);
            let (mut parts, mut others) = (mine.channel.parts(), other.channel.parts());
            for parts in [&mut parts, &mut others] {
                // Positions are each one's own; how far homes know of a channel, its leader knows first.
                (parts.announced_seq, parts.positions) = (0, Vec::new());
            }
            assert_eq!(parts, others);
            assert_eq!(mine.channel.first_seq(), other.channel.first_seq());
            for seq in mine.channel.first_seq()..=mine.channel.last_seq() {
                let stored = replica.stored(SLOT, n, seq);
                assert!(stored.is_some() && stored == leader.stored(SLOT, n, seq), "message {seq} of channel {n}");
            }
        }
        for (uid, home) in ours.sorted_homes() {
            let rows = |home: &crate::engine::home::Home| -> Vec<_> {
                home.agreed_rows()
                    .into_iter()
                    .map(|(key, row)| (key.clone(), row.settled_seq, row.agreed_cursors().collect::<Vec<_>>()))
                    .collect()
            };
            let other = theirs.home(uid);
            assert_eq!(other.map_or(Vec::new(), rows), rows(home), "{uid}");
            assert_eq!(other.map_or(&[][..], |home| home.devices()), home.devices());
        }
    }
}

#[test]
fn a_new_replica_gets_everything_and_keeps_up_and_comes_back() {
    let mut pair = Pair::new();
    let (uid, flag) = (Uid::parse("u3").unwrap(), crate::ids::DeviceFlag(1));
    let token = ApiRequest::SetToken { uid, flag, level: crate::ids::DeviceLevel::Slave, token: "t".into() };
    pair.nodes[0].events.push(Event::Api { ticket: 2, request: token });
    pair.talk(300);
    assert!(pair.nodes[0].slot(SLOT).channels().len() > 3, "too little to send");
    pair.add_replica();
    // It goes on growing meanwhile.
    pair.talk(100);
    for _ in 0..200 {
        if pair.received() > 0 {
            break;
        }
        pair.run(10);
    }
    assert_eq!((pair.received(), pair.nodes[0].shard.view().counters.transfers_sent), (1, 1));
    pair.talk(60);
    pair.run(200);
    pair.assert_equal();
    assert_eq!(pair.nodes[0].reports.len() + pair.nodes[1].reports.len(), 0);
    let before = state::freeze(pair.nodes[1].slot(SLOT), 1);
    pair.nodes[1].shard = pair.nodes[1].restarted(pair.now);
    pair.nodes[1].events.clear();
    pair.run(400);
    pair.assert_equal();
    assert_eq!(state::freeze(pair.nodes[1].slot(SLOT), 1).ranges, before.ranges);
    assert_eq!(pair.received(), 0, "the disk remembers it");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_state_and_raft_asks_again() {
    let mut pair = Pair::new();
    pair.talk(60);
    pair.nodes[1].refused = 2;
    pair.add_replica();
    let mut failed = 0;
    for _ in 0..600 {
        pair.run(5);
        let counters = pair.nodes[1].shard.view().counters;
        if counters.transfers_failed > failed && counters.transfers_received == 0 {
            failed = counters.transfers_failed;
            assert_eq!(pair.nodes[1].slot(SLOT).channels().len(), 0, "the old state");
            assert_eq!(pair.nodes[1].slot(SLOT).group().applied(), 0);
        }
        if counters.transfers_received > 0 {
            break;
        }
    }
    assert_eq!((failed, pair.received()), (2, 1));
    pair.run(200);
    pair.assert_equal();
}

#[test]
fn damaged_messages_come_back_from_another_replica() {
    let mut pair = Pair::new();
    pair.talk(150);
    pair.add_replica();
    pair.run(800);
    assert_eq!(pair.received(), 1);
    pair.assert_equal();
    let pairs = |slot: &Slot| {
        let long = slot.channels().iter().position(|entry| entry.channel.last_seq() > 10);
        long.map(|n| (n, slot.channels()[n].key.clone())).expect("some channel is long")
    };
    let (n, key): (usize, ChannelKey) = pairs(pair.nodes[0].slot(SLOT));
    // The first one only here, the third one everywhere.
    pair.nodes[0].damage(SLOT, n, 1);
    pair.nodes[0].damage(SLOT, n, 3);
    pair.nodes[1].damage(SLOT, n, 3);
    assert_eq!(pair.nodes[0].stored(SLOT, n, 1), None);
    let (login, peer) = key.members();
    let (login, peer) = (Uid::parse(login).unwrap(), Uid::parse(peer).unwrap());
    let request = ApiRequest::MessageSync { login, peer, start_seq: 1, end_seq: 5, limit: 10, newer: true };
    pair.nodes[0].answers.clear();
    pair.nodes[0].events.push(Event::Api { ticket: 3, request });
    pair.run(50);
    let Some(ApiAnswer::Messages { messages, .. }) = pair.nodes[0].answers.pop() else { panic!("no answer") };
    assert_eq!(messages.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 4]);
    let counters = pair.nodes[0].shard.view().counters;
    assert_eq!((counters.messages_repaired, counters.messages_damaged), (1, 1));
    assert_eq!(pair.nodes[0].stored(SLOT, n, 1), pair.nodes[1].stored(SLOT, n, 1));
    assert!(pair.nodes[0].stored(SLOT, n, 1).is_some(), "it is whole here again");
}
