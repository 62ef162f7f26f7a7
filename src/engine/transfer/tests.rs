//! Both ends joined by hand: a leader's slot, a replica's, a wire that may break anywhere, and a disk that becomes durable when told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::incoming::{Incoming, Took, Whole};
use super::outgoing::{Move, Outgoing};
use super::state::{self, Freezing, Frozen};
use super::{BODIES, STATE};
use crate::engine::chance::Chance;
use crate::engine::channel::{Channel, Fingerprint, HOLE};
use crate::engine::home::{Home, Row};
use crate::engine::raft_group::GroupState;
use crate::engine::slot::{ReadOn, Reshaped, Slot, SlotState};
use crate::format::frame::{Frame, SnapshotPart, SnapshotTaken};
use crate::format::message::{MessageFields, StoredMessage};
use crate::format::packet::{HeaderFlags, Setting};
use crate::format::raft_message::RaftMessage;
use crate::format::record::Position;
use crate::ids::{ChannelKey, DeviceFlag, DeviceLevel, NodeId, Place, ReplicaId, ShardId, SlotId, Uid};
use crate::limits::Limits;
use crate::time::Instant;

const SLOT: SlotId = SlotId(3);
const RESHAPED: Reshaped = Reshaped { plan: 12, term_lift: 300, frozen: Some(7) };

/// Takes several messages, and not a whole part.
const RUN_BYTES_MAX: usize = 600;

fn replica(node: u16) -> ReplicaId {
    ReplicaId::new(Place { node: NodeId(node), shard: ShardId(0) }, u32::from(node))
}

fn freeze(slot: &mut Slot, depth: u8) -> Frozen {
    let mut freezing = Freezing::begin(slot, depth);
    assert!(matches!(freezing.go_on(slot, usize::MAX), ReadOn::All(_)));
    freezing.finish()
}

fn uid(n: usize) -> Uid {
    Uid::parse(&format!("u{n}")).unwrap()
}

fn key(n: usize) -> ChannelKey {
    if n % 5 == 4 { ChannelKey::command(&uid(n)) } else { ChannelKey::pair(&uid(n), &uid(n + 1)) }
}

/// Message `seq` of channel `n`: the same on every replica.
fn message(n: usize, seq: u32) -> StoredMessage {
    let mut out = Vec::new();
    let (from, to, payload) = (uid(n), uid(n + 1), vec![seq as u8; (n * 7 + seq as usize * 13) % 300]);
    let fields = MessageFields {
        message_id: i64::from(seq) * 1000 + n as i64,
        unix_ms: 5,
        expire_s: 0,
        flags: HeaderFlags(0),
        setting: Setting(0),
        device_tag: 1,
        from: from.as_str(),
        to: to.as_str(),
        client_msg_no: "",
        topic: "",
        payload: &payload,
    };
    fields.encode(&mut out);
    StoredMessage::trusted(Bytes::from(out))
}

/// A slot that has applied so many messages of each channel; with what every replica knows of the homes by then.
fn slot_with(lengths: &[u32], node: u16, place: &mut dyn FnMut(usize, u32) -> Position) -> Slot {
    let map_state = Chance::new([node as u8; 32], 1).map_state();
    let mut channels = Vec::new();
    let mut homes = Vec::new();
    for (n, length) in lengths.iter().enumerate() {
        let mut channel = Channel::default();
        for seq in 1..=*length {
            channel.append(&message(n, seq), place(n, seq), Fingerprint((u64::from(seq) << 33) | (n as u64 + 1)), 16);
        }
        channel.announced(length / 2);
        while channel.recent(*length).is_some() {
            channel.evict_oldest();
        }
        channels.push((key(n), channel));
        let mut home = Home::new(map_state);
        home.apply_token(DeviceFlag(0), DeviceLevel::Master, &format!("token {n}"));
        home.apply_new_flag(DeviceFlag(1));
        let row = Row::agreed_on(*length, length / 4, &[(DeviceFlag(1), length / 3)]);
        home.apply_row(key(n), &row, 9);
        homes.push((uid(n), home));
    }
    let group = GroupState::begin(replica(node), &[replica(node)]);
    let state = SlotState { group, message_ids_last: 77 + lengths.len() as u64, reshaped: RESHAPED, channels, homes };
    Slot::restore(SLOT, state, map_state, 0, Chance::new([1; 32], 2)).expect("a sound state")
}

/// The replica's disk: what was appended, and how much of it is durable.
#[derive(Default)]
struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    flush: u64,
    durable: u64,
}

impl Disk {
    fn append(&mut self, data: &[u8]) -> (Position, u64) {
        self.flush += 1;
        let segment = 1 + (self.flush / 10) as u32;
        let bytes = self.segments.entry(segment).or_default();
        let position = Position { segment, offset: bytes.len() as u32 };
        bytes.extend_from_slice(data);
        (position, self.flush)
    }

    fn read(&self, position: Position) -> Option<StoredMessage> {
        let bytes = self.segments.get(&position.segment)?.get(position.offset as usize..)?;
        StoredMessage::take(&Bytes::copy_from_slice(bytes)).ok()
    }
}

struct Bench {
    limits: Limits,
    now: Instant,
    term: u64,
    leader: Slot,
    /// What the leader cannot read.
    lost: BTreeSet<(usize, u32)>,
    outgoing: Outgoing,
    incoming: Incoming,
    replica: Slot,
    disk: Disk,
    to_replica: VecDeque<Frame>,
    to_leader: VecDeque<Frame>,
    ended: Vec<bool>,
    bodies_sent: usize,
    parts: Vec<SnapshotPart>,
    wholes: Vec<Whole>,
}

impl Bench {
    fn new(limits: Limits, leader: &[u32], own: &[u32]) -> Bench {
        let mut disk = Disk::default();
        let own = slot_with(own, 2, &mut |n, seq| disk.append(message(n, seq).bytes()).0);
        disk.durable = disk.flush;
        let mut bench = Bench {
            limits,
            now: Instant(1_000_000_000),
            term: 1,
            leader: slot_with(&[], 1, &mut |_, _| HOLE),
            lost: BTreeSet::new(),
            outgoing: Outgoing::new(9),
            incoming: Incoming::default(),
            replica: own,
            disk,
            to_replica: VecDeque::new(),
            to_leader: VecDeque::new(),
            ended: Vec::new(),
            bodies_sent: 0,
            parts: Vec::new(),
            wholes: Vec::new(),
        };
        bench.lead_with(leader);
        bench
    }

    /// A leader that has applied this much takes over.
    fn lead_with(&mut self, lengths: &[u32]) {
        self.term += 1;
        self.leader = slot_with(lengths, 1, &mut |n, seq| Position { segment: 1, offset: n as u32 * 1000 + seq });
        self.outgoing = Outgoing::new(self.term);
    }

    fn offer(&mut self) {
        let message =
            RaftMessage { slot: SLOT, from: replica(1), to: replica(2), term: self.term, ..RaftMessage::default() };
        let transfer = self.outgoing.begin(self.now, message, &self.limits);
        let frozen = freeze(&mut self.leader, 2);
        let (place, frame) = self.outgoing.offer(self.now, transfer, frozen).expect("it is wanted");
        assert_eq!(place, replica(2).place());
        self.to_replica.push_back(frame);
    }

    /// The link breaks: what is under way is gone.
    fn reset(&mut self) {
        self.to_replica.clear();
        self.to_leader.clear();
        self.outgoing.abandon_place(replica(2).place());
        self.incoming.abandon_place(replica(1).place());
        self.lead();
    }

    fn lead(&mut self) {
        while let Some(next) = self.outgoing.next(self.now, &self.limits) {
            match next {
                Move::Say(_, frame) => {
                    if let Frame::SnapshotPart(part) = &frame {
                        self.parts.push(part.clone());
                    }
                    self.to_replica.push_back(frame);
                }
                Move::Read { transfer, channel, range, .. } => {
                    let end = *range.end();
                    let there = |seq: &u32| !self.lost.contains(&(channel as usize, *seq));
                    // A few at a time, as from a disk.
                    let some: Vec<u32> = range.take(3).collect();
                    let next = some.last().map_or(end, |last| last + 1);
                    let messages: Vec<_> =
                        some.into_iter().filter(there).map(|seq| (seq, message(channel as usize, seq))).collect();
                    self.bodies_sent += messages.len();
                    self.outgoing.handle_read(transfer, &messages, next, &self.limits);
                }
                Move::End { ok, .. } => self.ended.push(ok),
            }
        }
        self.outgoing.check_invariants(&self.limits);
    }

    fn follow(&mut self, frame: Frame) -> Took {
        let from = replica(1).place();
        let mut took = Took::Fine;
        match frame {
            Frame::SnapshotOffer(offer) => {
                let own: Vec<u32> = self.replica.channels().iter().map(|entry| entry.channel.last_seq()).collect();
                let want = self.incoming.handle_offer(self.now, *offer, &own, &self.limits);
                self.to_leader.push_back(Frame::SnapshotWant(want));
            }
            Frame::SnapshotPart(part) => {
                let disk = &mut self.disk;
                took = self.incoming.handle_part(
                    self.now,
                    (from, &part),
                    &self.limits,
                    RUN_BYTES_MAX,
                    &mut |owner, data| {
                        assert_eq!(owner, replica(2));
                        disk.append(data)
                    },
                );
                if let Took::Void((place, taken), _) = &took {
                    assert_eq!(*place, from);
                    self.to_leader.push_back(Frame::SnapshotTaken(*taken));
                }
            }
            other => panic!("nobody says {other:?} to a replica"),
        }
        self.incoming.check_invariants(&self.limits);
        took
    }

    fn sync(&mut self) {
        self.disk.durable = self.disk.flush;
        for (_, taken) in self.incoming.handle_durable(self.disk.durable) {
            self.to_leader.push_back(Frame::SnapshotTaken(taken));
        }
        while let Some(whole) = self.incoming.take_whole(self.disk.durable) {
            self.wholes.push(whole);
        }
    }

    fn hear(&mut self, frame: Frame) {
        match frame {
            Frame::SnapshotWant(want) => self.outgoing.handle_want(self.now, want),
            Frame::SnapshotTaken(taken) => self.outgoing.handle_taken(self.now, taken).expect("a sound answer"),
            other => panic!("nobody says {other:?} to a leader"),
        }
    }

    /// One exchange; the clock moves on a little.
    fn round(&mut self) {
        self.lead();
        if let Some(frame) = self.to_replica.pop_front() {
            self.follow(frame);
        }
        self.sync();
        if let Some(frame) = self.to_leader.pop_front() {
            self.hear(frame);
        }
        self.now = self.now + Duration::from_millis(2);
    }

    /// Until the state is whole or the leader gives up.
    fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.wholes.is_empty() || !self.ended.is_empty() {
                return;
            }
            self.round();
        }
        panic!("it never ends");
    }

    fn install(&mut self, written: bool) {
        let whole = self.wholes.pop().expect("a whole state");
        let map_state = Chance::new([2; 32], 1).map_state();
        let mut read = state::read(&whole.state, map_state).expect("a sound state");
        assert_eq!(read.depth, 2);
        let replica_slot = &self.replica;
        let own = |index: usize| replica_slot.channels().get(index).map(|entry| (&entry.key, &entry.channel));
        let channels = self.incoming.assemble(SLOT, &mut read, &own, &self.limits).expect("the same group");
        if written {
            let group = GroupState::begin(replica(2), &[replica(2)]);
            let state = SlotState {
                group,
                message_ids_last: read.message_ids_last,
                reshaped: read.reshaped,
                channels,
                homes: read.homes,
            };
            self.replica = Slot::restore(SLOT, state, map_state, 0, Chance::new([1; 32], 2)).expect("sound");
        }
        let (_, taken) = self.incoming.installed(SLOT, written).expect("it was being installed");
        self.hear(Frame::SnapshotTaken(taken));
        self.lead();
    }

    /// The replica is what its leader is, and can read what its leader could.
    fn assert_equal(&mut self) {
        assert_eq!(freeze(&mut self.replica, 2).state, freeze(&mut self.leader, 2).state);
        for (n, entry) in self.replica.channels().iter().enumerate() {
            let theirs = &self.leader.channels()[n];
            assert_eq!((&entry.key, entry.channel.last_seq()), (&theirs.key, theirs.channel.last_seq()));
            for seq in entry.channel.first_seq()..=entry.channel.last_seq() {
                let position = entry.channel.position(seq).expect("it is readable");
                match self.disk.read(position) {
                    Some(read) => assert!(read == message(n, seq), "message {seq} of channel {n}"),
                    None => assert!(position == HOLE && self.lost.contains(&(n, seq)), "message {seq} of channel {n}"),
                }
            }
        }
        self.replica.check_invariants();
    }
}

const LENGTHS: &[u32] = &[40, 1, 0, 130, 7, 64, 65, 3];

#[test]
fn a_replica_with_nothing_becomes_what_its_leader_is() {
    for limits in [Limits::TINY, Limits::PRODUCTION] {
        let mut bench = Bench::new(limits, LENGTHS, &[]);
        bench.offer();
        bench.run();
        bench.install(true);
        assert_eq!(bench.ended, [true]);
        bench.assert_equal();
        assert_eq!(bench.bodies_sent as u32, LENGTHS.iter().sum::<u32>());
        assert_eq!((bench.incoming.bytes(), bench.outgoing.count()), (0, 0));
    }
}

#[test]
fn only_what_is_missing_is_sent_and_own_messages_stay_where_they_are() {
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[40, 1, 0, 100]);
    let before = bench.replica.channels()[3].channel.position(100);
    bench.offer();
    bench.run();
    bench.install(true);
    bench.assert_equal();
    assert_eq!(bench.bodies_sent, 30 + 7 + 64 + 65 + 3);
    assert_eq!(bench.replica.channels()[3].channel.position(100), before);
}

#[test]
fn a_transfer_goes_on_where_it_was_cut_off_even_under_a_later_leader() {
    for cut in [1, 5, 20, 40] {
        let mut bench = Bench::new(Limits::TINY, LENGTHS, &[10]);
        bench.offer();
        for _ in 0..cut {
            bench.round();
        }
        bench.reset();
        assert_eq!(bench.ended, [false]);
        let staged = bench.incoming.bytes() / 12;
        assert!(cut < 20 || staged > 0, "nothing had come in {cut} rounds");
        bench.ended.clear();
        // Channels have grown in between, and there are new ones.
        let later: Vec<u32> = LENGTHS.iter().map(|length| length + 9).chain([12, 2]).collect();
        bench.lead_with(&later);
        bench.bodies_sent = 0;
        bench.offer();
        bench.run();
        bench.install(true);
        bench.assert_equal();
        assert_eq!(bench.bodies_sent + staged + 10, later.iter().sum::<u32>() as usize, "nothing was sent twice");
    }
}

#[test]
fn a_link_that_breaks_again_and_again_only_delays() {
    let mut chance = Chance::new([4; 32], 0);
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[3, 1]);
    let mut resets = 0;
    while bench.wholes.is_empty() {
        bench.ended.clear();
        if bench.outgoing.count() == 0 {
            bench.offer();
        }
        for _ in 0..chance.between(5, 40) {
            bench.round();
        }
        if bench.wholes.is_empty() {
            bench.reset();
            resets += 1;
        }
    }
    bench.install(true);
    bench.assert_equal();
    assert!(resets > 3, "only {resets}");
}

#[test]
fn a_checkpoint_that_was_not_written_leaves_everything_as_it_was() {
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[5]);
    let before = freeze(&mut bench.replica, 2).state;
    bench.offer();
    bench.run();
    bench.install(false);
    assert_eq!(bench.ended, [false]);
    assert_eq!(freeze(&mut bench.replica, 2).state, before);
    (bench.bodies_sent, bench.ended) = (0, Vec::new());
    bench.offer();
    bench.run();
    bench.install(true);
    bench.assert_equal();
    assert_eq!(bench.bodies_sent, 0, "the bodies were there already");
}

#[test]
fn what_the_leader_cannot_read_is_a_hole() {
    let mut bench = Bench::new(Limits::TINY, &[20, 30], &[4]);
    bench.lost = [(0, 5), (0, 6), (0, 11), (0, 20), (1, 1), (1, 2)].into_iter().collect();
    bench.offer();
    bench.run();
    bench.install(true);
    bench.assert_equal();
    let mut channel = Channel::restore(bench.replica.channels()[1].channel.parts());
    assert_eq!((channel.first_seq(), channel.position(2)), (1, Some(HOLE)));
    assert_eq!(channel.drop_below(1), 2, "holes at the beginning go with the first that retention takes");
    assert_eq!(channel.first_seq(), 3);
}

#[test]
fn own_messages_before_a_gap_that_retention_made_are_dropped() {
    let mut bench = Bench::new(Limits::TINY, &[90, 40], &[10, 40]);
    // The leader can read from 30 on.
    let mut parts = bench.leader.channels()[0].channel.parts();
    parts.positions.drain(..29);
    let channels =
        vec![(key(0), Channel::restore(parts)), (key(1), Channel::restore(bench.leader.channels()[1].channel.parts()))];
    let map_state = Chance::new([1; 32], 1).map_state();
    let group = GroupState::begin(replica(1), &[replica(1)]);
    let state = SlotState { group, message_ids_last: 79, reshaped: RESHAPED, channels, homes: Vec::new() };
    bench.leader = Slot::restore(SLOT, state, map_state, 0, Chance::new([1; 32], 2)).unwrap();
    bench.offer();
    bench.run();
    bench.install(true);
    bench.assert_equal();
    assert_eq!(bench.replica.channels()[0].channel.first_seq(), 30);
    assert_eq!(bench.replica.channels()[1].channel.first_seq(), 1);
}

#[test]
fn parts_again_are_no_harm_and_parts_that_make_no_sense_name_their_sender() {
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[]);
    bench.offer();
    while bench.parts.len() < 6 {
        bench.round();
    }
    let (first, mut ahead) = (bench.parts[0].clone(), bench.parts[5].clone());
    let bytes = bench.incoming.bytes();
    assert_eq!(bench.follow(Frame::SnapshotPart(first)), Took::Fine);
    assert_eq!(bench.incoming.bytes(), bytes);
    ahead.number += 3;
    let Took::Void((_, taken), text) = bench.follow(Frame::SnapshotPart(ahead.clone())) else { panic!("it is ahead") };
    assert!(!taken.good && text.contains("replica n1/s0#1"), "{text}");
    assert_eq!(bench.follow(Frame::SnapshotPart(ahead)), Took::Stray);
    bench.to_replica.clear();
    while bench.ended.is_empty() {
        bench.round();
    }
    assert_eq!(bench.ended, [false]);
    bench.ended.clear();
    bench.offer();
    bench.run();
    bench.install(true);
    bench.assert_equal();
}

#[test]
fn no_bytes_of_a_part_can_do_harm() {
    let mut chance = Chance::new([8; 32], 0);
    let (mut void, mut fine) = (0, 0);
    for _ in 0..400 {
        let mut bench = Bench::new(Limits::TINY, &[6, 3], &[]);
        bench.offer();
        bench.round();
        bench.lead();
        bench.to_replica.clear();
        let mut part = bench.parts[0].clone();
        let mut body = part.body.to_vec();
        match chance.between(0, 4) {
            0 => body.truncate(chance.between(0, body.len() as u64) as usize),
            1 => body = (0..chance.between(0, 60)).map(|_| chance.number() as u8).collect(),
            2 => body[0] = chance.between(0, 3) as u8,
            _ => {
                let at = chance.between(0, body.len() as u64) as usize;
                body[at] ^= 1 << chance.between(0, 8);
            }
        }
        (part.body, part.number, part.last) = (Bytes::from(body), 0, chance.between(0, 2) == 0);
        match bench.follow(Frame::SnapshotPart(part)) {
            Took::Void(..) => void += 1,
            _ => fine += 1,
        }
        bench.sync();
        for whole in std::mem::take(&mut bench.wholes) {
            assert!(state::read(&whole.state, Chance::new([2; 32], 1).map_state()).is_err());
        }
    }
    assert!(void > 100 && fine > 3, "{void} {fine}");
}

#[test]
fn a_state_of_another_group_is_refused() {
    let mut bench = Bench::new(Limits::TINY, &[3, 3], &[2, 2]);
    bench.offer();
    bench.run();
    let whole = bench.wholes.pop().unwrap();
    let map_state = Chance::new([2; 32], 1).map_state();
    let keys = [key(0), key(3)];
    let channels: Vec<Channel> = [2, 9]
        .iter()
        .map(|last| Channel::restore(slot_with(&[*last], 2, &mut |_, _| HOLE).channels()[0].channel.parts()))
        .collect();
    for (names, lengths) in [([0, 1], [0, 0]), ([0, 0], [1, 0])] {
        let mut read = state::read(&whole.state, map_state).unwrap();
        let own = |n: usize| (n < 1).then(|| (&keys[names[n]], &channels[lengths[n]]));
        assert_eq!(bench.incoming.assemble(SLOT, &mut read, &own, &bench.limits).is_err(), lengths[0] == 1);
    }
    let mut read = state::read(&whole.state, map_state).unwrap();
    let own = |_: usize| Some((&keys[1], &channels[0]));
    assert!(bench.incoming.assemble(SLOT, &mut read, &own, &bench.limits).is_err());
    let damaged = [&whole.state[..10], &[0; 10]].concat();
    assert!(state::read(&damaged, map_state).is_err() && state::read(&[], map_state).is_err());
}

#[test]
fn silence_ends_it_at_both_ends() {
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[]);
    bench.offer();
    bench.lead();
    let deadline = bench.outgoing.deadline(&bench.limits).expect("it waits for an answer");
    assert_eq!(deadline, bench.now + bench.limits.transfer_patience);
    bench.now = deadline;
    bench.lead();
    assert_eq!(bench.ended, [false], "nobody answered the offer");
    bench.ended.clear();
    bench.to_replica.clear();
    bench.offer();
    for _ in 0..20 {
        bench.round();
    }
    bench.to_leader.clear();
    bench.to_replica.clear();
    bench.now = bench.now + bench.limits.transfer_patience;
    bench.lead();
    assert_eq!(bench.ended, [false], "nobody answered a part");
    assert_eq!(bench.incoming.count(), 1);
    bench.now = bench.now + bench.limits.transfer_patience * 4;
    bench.incoming.sweep(bench.now, &bench.limits);
    assert!(bench.incoming.count() == 0 && bench.incoming.bytes() > 0, "what has come stays");
    bench.incoming.forget_slot(SLOT);
    assert_eq!(bench.incoming.bytes(), 0);
}

#[test]
fn a_leader_that_is_none_any_more_stops_and_answers_to_nothing_end_it() {
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[]);
    bench.offer();
    bench.outgoing.abandon_slot(SLOT, Some(bench.term));
    bench.lead();
    assert!(bench.ended.is_empty());
    bench.outgoing.abandon_slot(SLOT, Some(bench.term + 1));
    bench.lead();
    assert_eq!(bench.ended, [false]);
    bench.offer();
    let transfer = bench.term << 32 | 2;
    let taken = SnapshotTaken { transfer, slot: SLOT, from: replica(2), number: 7, good: true };
    let text = bench.outgoing.handle_taken(bench.now, taken).expect_err("nothing was said yet");
    assert!(text.contains("replica n2/s0#2"), "{text}");
    bench.lead();
    assert_eq!(bench.ended, [false, false]);
}

#[test]
fn a_replica_takes_so_many_at_once_and_keeps_so_much() {
    let limits = Limits { transfer_staged_bytes_max: 12 * 100, ..Limits::TINY };
    let mut bench = Bench::new(limits, &[60, 20], &[]);
    bench.offer();
    for _ in 0..40 {
        bench.round();
    }
    let Some(Frame::SnapshotOffer(mut other)) = ({
        bench.outgoing = Outgoing::new(50);
        bench.to_replica.clear();
        bench.offer();
        bench.to_replica.pop_front()
    }) else {
        panic!("an offer")
    };
    other.message.slot = SlotId(1);
    bench.follow(Frame::SnapshotOffer(other.clone()));
    let Some(Frame::SnapshotWant(want)) = bench.to_leader.pop_back() else { panic!("an answer") };
    assert!(!want.accepted, "one is under way");
    // Left behind, it gives way to another one.
    bench.incoming.abandon_place(replica(1).place());
    let staged = bench.incoming.bytes();
    assert!(staged > 0);
    bench.follow(Frame::SnapshotOffer(other));
    let body = Bytes::from([vec![STATE], vec![0; 1100]].concat());
    let mut part = SnapshotPart { transfer: 50 << 32 | 1, slot: SlotId(1), number: 0, last: false, body };
    assert_eq!(bench.follow(Frame::SnapshotPart(part.clone())), Took::Fine);
    assert_eq!(bench.incoming.bytes(), 1100, "{staged} gave way");
    part.number = 1;
    assert!(matches!(bench.follow(Frame::SnapshotPart(part)), Took::Void(..)), "the limit");
    assert_eq!(bench.incoming.bytes(), 0);
    assert_ne!(BODIES, STATE);
}

#[test]
fn parts_go_out_no_faster_than_the_limit() {
    let limits = Limits { transfer_bytes_per_second: 10_000, ..Limits::TINY };
    let mut bench = Bench::new(limits, &[400], &[]);
    let begin = bench.now;
    bench.offer();
    let mut waits = 0;
    while bench.wholes.is_empty() {
        bench.lead();
        while let Some(frame) = bench.to_replica.pop_front() {
            bench.follow(frame);
        }
        bench.sync();
        while let Some(frame) = bench.to_leader.pop_front() {
            bench.hear(frame);
        }
        bench.lead();
        if bench.to_replica.is_empty() && bench.wholes.is_empty() {
            waits += 1;
            let deadline = bench.outgoing.deadline(&limits).expect("it waits for the clock");
            assert!(deadline > bench.now && deadline < bench.now + limits.transfer_patience);
            bench.now = deadline;
        }
    }
    let bytes: usize = bench.parts.iter().map(|part| part.body.len()).sum();
    let at_least = Duration::from_millis((bytes as u64 - 2048) / 10);
    let took = bench.now.since(begin);
    assert!(waits > 10 && took >= at_least && took < at_least * 2, "{bytes} bytes in {took:?}");
}

#[test]
fn a_state_that_nobody_wants_any_more_is_not_offered() {
    let message = || RaftMessage { slot: SLOT, from: replica(1), to: replica(2), term: 1, ..RaftMessage::default() };
    let mut bench = Bench::new(Limits::TINY, LENGTHS, &[5]);
    for give_up in [Outgoing::abandon, |outgoing: &mut Outgoing, _| outgoing.abandon_slot(SLOT, Some(2))] {
        let transfer = bench.outgoing.begin(bench.now, message(), &bench.limits);
        assert!(bench.outgoing.wants_state(transfer));
        assert_eq!(bench.outgoing.next(bench.now, &bench.limits), None, "nothing before it is frozen");
        assert_eq!(bench.outgoing.deadline(&bench.limits), None, "and nobody is waited for");
        give_up(&mut bench.outgoing, transfer);
        assert!(!bench.outgoing.wants_state(transfer));
        assert_eq!(bench.outgoing.offer(bench.now, transfer, freeze(&mut bench.leader, 2)), None);
        let end = Move::End { slot: SLOT, to: replica(2), ok: false };
        assert_eq!(bench.outgoing.next(bench.now, &bench.limits), Some(end), "raft is told");
    }
}
