//! A slot with channels and homes that becomes two, once and again, with and without others' entries behind the split.

use std::sync::Arc;

use super::*;
use crate::engine::chance::Chance;
use crate::engine::checkpoint;
use crate::engine::marks::Marks;
use crate::engine::raft_group::GroupState;
use crate::engine::routes::Table;
use crate::engine::slot::{ReadOn, Reshaped, SlotState};
use crate::format::message::MessageFields;
use crate::format::packet::{HeaderFlags, Setting};
use crate::format::record::Position;
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId, Uid};
use crate::time::{Instant, Now, UnixMillis};

use super::super::{CommittedEntry, Outbox, Recent, Routes};

const PLACE: Place = Place { node: NodeId(1), shard: ShardId(0) };

pub(in crate::engine::slot) struct Bench {
    pub slot: Slot,
    out: Outbox,
    recent: Recent,
    routes: Routes,
    index: u64,
    pub term: u64,
}

impl Bench {
    pub fn new() -> Bench {
        let map_state = Chance::new([3; 32], 0).map_state();
        let group = GroupState::begin(ReplicaId::new(PLACE, 1), &[]);
        let state = SlotState {
            group,
            message_ids_last: 7,
            reshaped: Reshaped::default(),
            channels: Vec::new(),
            homes: Vec::new(),
        };
        let mut slot = Slot::restore(SlotId(0), state, map_state, 0, Chance::new([4; 32], 0)).unwrap();
        slot.set_depth(0);
        let routes = Routes::new(Arc::new(Table::alone(NodeId(1), 1, 0)));
        Bench { slot, out: Outbox::new(PLACE, Marks::new(0)), recent: Recent::new(1 << 20), routes, index: 1, term: 5 }
    }

    pub fn apply(&mut self, data: Vec<u8>) {
        self.index += 1;
        let position = Position { segment: 1, offset: self.index as u32 * 64 };
        let data = data.into();
        let entry = CommittedEntry { index: self.index, term: self.term, data, position, members_changed: false };
        let now = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        let (limits, raft_out) = (Limits::TINY, &mut Vec::new());
        let (routes, out, recent) = (&self.routes, &mut self.out, &mut self.recent);
        let mut around = Surroundings { now, limits: &limits, routes, out, raft_out, recent };
        self.slot.apply(&entry, &mut around);
    }

    pub fn append(&mut self, key: &ChannelKey, number: u64) {
        let (first, second) = key.members();
        let mut data = Vec::new();
        command::encode_append_head(key, 0, number, &mut data);
        let fields = MessageFields {
            message_id: (number as i64) << 22,
            unix_ms: 1,
            expire_s: 0,
            flags: HeaderFlags(0),
            setting: Setting(0),
            device_tag: 1,
            from: first,
            to: second,
            client_msg_no: "",
            topic: "",
            payload: b"x",
        };
        fields.encode(&mut data);
        self.apply(data);
    }

    pub fn split(&mut self, depth: u8) -> Vec<Half> {
        let mut data = Vec::new();
        let replicas = vec![ReplicaId::new(PLACE, 9)];
        command::encode_split(
            &SplitCommand { plan: 3 + u64::from(depth), depth, child: SlotId(1 << depth), replicas },
            &mut data,
        );
        self.apply(data);
        self.slot.check_invariants();
        self.slot.take_halves()
    }
}

pub(in crate::engine::slot) fn uid(n: usize) -> Uid {
    Uid::parse(&format!("user{n}")).unwrap()
}

pub(in crate::engine::slot) fn keys() -> Vec<ChannelKey> {
    let pairs = (0..20).map(|n| ChannelKey::pair(&uid(n), &uid(n + 1)));
    pairs.chain((0..20).map(|n| ChannelKey::command(&uid(n)))).collect()
}

pub(in crate::engine::slot) fn filled() -> Bench {
    let mut bench = Bench::new();
    for round in 0..3 {
        for (n, key) in keys().iter().enumerate() {
            bench.append(key, 1 + round * 100 + n as u64);
        }
    }
    for n in 0..20 {
        bench.slot.home_or_new(&uid(n)).apply_token(crate::ids::DeviceFlag(0), DeviceLevel::Master, "t");
    }
    bench
}

#[test]
fn every_key_is_in_exactly_one_half_and_keeps_what_it_had() {
    let (mut bench, whole) = (filled(), filled());
    let halves = bench.split(0);
    let [half] = &halves[..] else { panic!("one half") };
    assert_eq!((bench.slot.depth(), half.term, half.split.child), (1, 5, SlotId(1)));
    let parts = |slot: &Slot, key: &ChannelKey| {
        slot.channel_index(key).map(|index| slot.channels()[index as usize].channel.parts())
    };
    for key in keys() {
        let gone = half.channels.iter().find(|entry| entry.key == key).map(|entry| entry.channel.parts());
        let stayed = parts(&bench.slot, &key);
        assert_eq!((gone.is_some(), stayed.is_some()), (key.key_hash().0 & 1 == 1, key.key_hash().0 & 1 == 0));
        assert_eq!(gone.or(stayed), parts(&whole.slot, &key));
    }
    for n in 0..20 {
        let gone = half.homes.left().iter().any(|(name, home)| *name == uid(n) && home.devices().len() == 1);
        assert_eq!(
            (gone, bench.slot.home(&uid(n)).is_some()),
            match uid(n).key_hash().0 & 1 {
                1 => (true, false),
                _ => (false, true),
            }
        );
    }
    assert_eq!(half.message_ids_last, bench.slot.message_ids().last());
    let readable: usize = half.channels.iter().map(|entry| entry.channel.readable()).sum();
    assert_eq!(readable as u64 + bench.slot.messages(), whole.slot.messages());
    let order = |channels: &mut dyn Iterator<Item = &ChannelKey>| {
        let places = channels.map(|key| keys().iter().position(|known| known == key));
        places.collect::<Vec<_>>().is_sorted()
    };
    assert!(order(&mut half.channels.iter().map(|entry| &entry.key)), "channels keep their order");
    assert!(order(&mut bench.slot.channels().iter().map(|entry| &entry.key)));
}

#[test]
fn a_half_is_put_together_in_portions() {
    let (mut one, mut other) = (filled().split(0).remove(0), filled().split(0).remove(0));
    let (mut done, mut portions) = (0, 0);
    while !one.is_done() {
        let (found, left) = (one.channels_by_key.len(), one.homes.left().len());
        let work = one.go_on(3);
        let moved = one.channels_by_key.len() - found + left - one.homes.left().len();
        assert!(moved > 0 && moved <= 3, "{moved} at once");
        (done, portions) = (done + work, portions + 1);
    }
    assert_eq!((one.go_on(3), done), (0, other.go_on(usize::MAX)));
    assert!(portions >= done / 4, "{portions} portions of {done}");
    let slots = [one, other].map(|half| {
        let group = || GroupState::begin(ReplicaId::new(PLACE, 9), &[]);
        let map_state = Chance::new([3; 32], 0).map_state();
        let mut slot = half.into_slot(group(), map_state, 0, Chance::new([4; 32], 0));
        slot.check_invariants();
        checkpoint::encode(&mut slot, &group(), checkpoint::Cover { depth: 1, replay_segment: 1 })
    });
    assert!(slots[0] == slots[1]);
}

#[test]
fn bodies_in_memory_keep_their_channels() {
    let mut bench = filled();
    let before = bench.recent.bytes();
    bench.split(0);
    assert!(bench.recent.bytes() > 0 && bench.recent.bytes() < before);
    for entry in bench.slot.channels() {
        assert!((1..=3).all(|seq| entry.channel.recent(seq).is_some()), "what stays is still in memory");
    }
}

#[test]
fn a_split_that_comes_again_does_nothing() {
    let mut bench = filled();
    assert_eq!(bench.split(0).len(), 1);
    let channels = bench.slot.channels().len();
    assert!(bench.split(0).is_empty());
    assert_eq!((bench.slot.depth(), bench.slot.channels().len()), (1, channels));
    let [next] = &bench.split(1)[..] else { panic!("the next bit") };
    assert_eq!((next.split.child, bench.slot.depth()), (SlotId(2), 2));
    assert!(next.channels.iter().all(|entry| entry.key.key_hash().0 & 3 == 2));
}

#[test]
fn what_was_written_behind_the_split_for_gone_keys_is_passed_over() {
    let mut bench = filled();
    bench.split(0);
    let before = bench.slot.channels().len();
    for (n, key) in keys().iter().enumerate() {
        bench.append(key, 1000 + n as u64);
    }
    assert_eq!(bench.slot.channels().len(), before);
    for entry in bench.slot.channels() {
        assert_eq!((entry.key.key_hash().0 & 1, entry.channel.last_seq()), (0, 4));
    }
    bench.slot.check_invariants();
}

#[test]
fn a_replica_that_is_deeper_from_the_start_comes_out_the_same() {
    let mut late = Bench::new();
    late.slot.set_depth(1);
    let mut early = filled();
    early.split(0);
    for round in 0..3 {
        for (n, key) in keys().iter().enumerate() {
            late.append(key, 1 + round * 100 + n as u64);
        }
    }
    assert!(late.split(0).is_empty());
    let logs = |slot: &Slot| {
        let logs = slot.channels().iter().map(|entry| (entry.key.clone(), entry.channel.parts()));
        logs.collect::<Vec<_>>()
    };
    assert_eq!(logs(&late.slot), logs(&early.slot));
}

#[test]
fn ids_of_a_channel_rise_over_a_split() {
    use crate::engine::message_ids::MessageIds;
    let clock = UnixMillis(1_700_000_000_000);
    let mut parent = MessageIds::new(SlotId(0));
    let last = (0..500).map(|_| parent.next(clock)).last().unwrap();
    let mut child = MessageIds::new(SlotId(1));
    child.resume(parent.last());
    assert!(child.next(UnixMillis(0)) > last, "whatever the clock of the child's leader says");
}

/// How long the portions of a checkpoint take: all together, and the longest.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
fn in_portions(slot: &mut Slot, group: &GroupState, cover: checkpoint::Cover) -> (String, usize) {
    let mut portions = Vec::new();
    let began = std::time::Instant::now();
    let mut encoding = checkpoint::Encoding::begin(slot, group, cover);
    portions.push(began.elapsed());
    loop {
        let began = std::time::Instant::now();
        let read = encoding.go_on(slot, Limits::PRODUCTION.state_portion);
        portions.push(began.elapsed());
        if matches!(read, ReadOn::All(_)) {
            break;
        }
    }
    let began = std::time::Instant::now();
    let bytes = encoding.finish().len();
    portions.push(began.elapsed());
    let (all, count) = (portions.iter().sum::<std::time::Duration>(), portions.len());
    portions.sort_unstable();
    let (middle, longest) = (portions[count / 2], portions[count - 1]);
    (format!("{all:?} in {count} portions, of {middle:?} as a rule and {longest:?} at most"), bytes)
}

/// What a shard does in one step for a slot of so many users, each with two channels.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // It measures, and decides nothing.
#[test]
#[ignore = "measures"]
fn how_long_a_big_slot_stands_still() {
    const USERS: u64 = 100_000;
    let mut bench = Bench::new();
    let user = |number: u64| Uid::parse(&format!("user-{:05}-of-many-who-talk", number % USERS)).unwrap();
    for number in 0..USERS {
        let key = ChannelKey::pair(&user(number), &user(number + 1));
        for message in 0..8 {
            bench.append(&key, number * 8 + message + 1);
        }
        for uid in [user(number), user(number + 1)] {
            let row = command::RowCommand {
                uid: uid.as_str(),
                kind: key.kind,
                id: &key.id,
                last_seq: 8,
                read_seq: 0,
                cursors: Vec::new(),
            };
            let mut data = Vec::new();
            command::encode_row(&row, &mut data);
            bench.apply(data);
        }
    }
    let group = bench.slot.group().state();
    let cover = checkpoint::Cover { depth: 0, replay_segment: 1 };
    let (encoded, bytes) = in_portions(&mut bench.slot, &group, cover);
    let mut data = Vec::new();
    let split = SplitCommand { plan: 3, depth: 0, child: SlotId(1), replicas: vec![ReplicaId::new(PLACE, 9)] };
    command::encode_split(&split, &mut data);
    let began = std::time::Instant::now();
    bench.apply(data);
    let halved = began.elapsed();
    let half = bench.slot.take_halves().remove(0);
    let began = std::time::Instant::now();
    let map_state = Chance::new([3; 32], 0).map_state();
    let begun = GroupState::begin(ReplicaId::new(PLACE, 9), &[]);
    let mut half = half;
    let (mut longest, mut portions) = (std::time::Duration::ZERO, 0);
    while !half.is_done() {
        let began = std::time::Instant::now();
        half.go_on(Limits::PRODUCTION.state_portion);
        (longest, portions) = (longest.max(began.elapsed()), portions + 1);
    }
    let mut child = half.into_slot(begun, map_state, 0, Chance::new([4; 32], 0));
    let restored = began.elapsed();
    let (child_encoded, child_bytes) = in_portions(&mut child, &group, cover);
    println!(
        "checkpoint of {USERS} users: {encoded}, {bytes} bytes; split {halved:?}; the half put together {restored:?} in {portions} portions of {longest:?} at \
         most, its \
         checkpoint {child_encoded}, {child_bytes} bytes"
    );
}
