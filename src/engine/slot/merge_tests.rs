//! A slot that has split and takes its other half in again, with and without others' entries behind the freeze, once and again.

use super::super::Half;
use super::super::split::tests::{Bench, filled, keys, uid};
use super::*;
use crate::engine::chance::Chance;
use crate::engine::command::SplitCommand;
use crate::engine::raft_group::GroupState;
use crate::ids::{NodeId, Place, ReplicaId, ShardId};

fn replica() -> ReplicaId {
    ReplicaId::new(Place { node: NodeId(1), shard: ShardId(0) }, 9)
}

/// The half in a slot of its own.
fn hatch(half: Half) -> Bench {
    let group = GroupState::begin(replica(), &[]);
    let (term, map_state) = (half.term, Chance::new([3; 32], 0).map_state());
    let mut bench = Bench::new();
    bench.slot = half.into_slot(group, map_state, 0, Chance::new([4; 32], 1));
    bench.term = term;
    bench
}

fn two() -> (Bench, Bench) {
    let mut low = filled();
    let half = low.split(0).pop().expect("it splits");
    (low, hatch(half))
}

fn freeze(bench: &mut Bench, plan: u64) {
    let mut data = Vec::new();
    command::encode_freeze(MergeCommand { plan, depth: bench.slot.depth() }, &mut data);
    bench.apply(data);
    bench.slot.check_invariants();
}

fn absorb(bench: &mut Bench, plan: u64, depth: u8) {
    let mut data = Vec::new();
    command::encode_absorb(MergeCommand { plan, depth }, &mut data);
    bench.apply(data);
    bench.slot.check_invariants();
}

fn merge(low: &mut Bench, high: &mut Bench, plan: u64) {
    freeze(high, plan);
    low.slot.give(high.slot.portion().expect("it is frozen"));
    let depth = low.slot.depth();
    absorb(low, plan, depth);
}

fn parts(slot: &Slot, key: &ChannelKey) -> Option<crate::engine::channel::ChannelParts> {
    slot.channel_index(key).map(|index| slot.channels()[index as usize].channel.parts())
}

#[test]
fn what_has_split_and_merges_again_holds_what_it_held() {
    let whole = filled();
    let (mut low, mut high) = two();
    merge(&mut low, &mut high, 20);
    assert_eq!((low.slot.depth(), low.slot.take_merge_news()), (0, Some(MergeNews::Absorbed)));
    assert_eq!((low.slot.messages(), low.slot.home_count()), (whole.slot.messages(), whole.slot.home_count()));
    for key in keys() {
        assert_eq!(parts(&low.slot, &key), parts(&whole.slot, &key), "{key:?}");
        low.append(&key, 1 + keys().iter().position(|known| *known == key).expect("its own") as u64);
        assert_eq!(parts(&low.slot, &key), parts(&whole.slot, &key), "a repeat is recognised: {key:?}");
    }
    for n in 0..20 {
        let devices = |slot: &Slot| slot.home(&uid(n)).map(|home| home.devices().to_vec());
        assert_eq!(devices(&low.slot), devices(&whole.slot));
    }
    assert!(high.slot.is_frozen() && keys().iter().all(|key| !high.slot.owns(key.key_hash())));
    assert!(keys().iter().all(|key| low.slot.owns(key.key_hash())));
}

#[test]
fn nothing_changes_a_frozen_slot() {
    let (_, mut high) = two();
    assert!(high.slot.portion().is_none(), "who is not frozen hands out nothing");
    freeze(&mut high, 20);
    assert_eq!(high.slot.take_merge_news(), Some(MergeNews::Froze));
    let held = |slot: &Slot| {
        let Portion { message_ids_last, channels, term, plan, .. } = slot.portion().expect("it is frozen");
        let channels: Vec<_> = channels.into_iter().map(|(key, channel)| (key, channel.parts())).collect();
        (message_ids_last, channels, term, plan)
    };
    let before = held(&high.slot);
    for (n, key) in keys().iter().enumerate() {
        high.append(key, 2000 + n as u64);
    }
    high.term += 40;
    freeze(&mut high, 20);
    freeze(&mut high, 21);
    assert!(high.split(1).is_empty(), "nor does it split");
    assert_eq!(held(&high.slot), before);
    assert_eq!(high.slot.take_merge_news(), None);
}

#[test]
fn each_plan_is_carried_out_once() {
    let (mut low, mut high) = two();
    merge(&mut low, &mut high, 20);
    let whole: Vec<_> = keys().iter().map(|key| parts(&low.slot, key)).collect();
    absorb(&mut low, 20, 1);
    assert_eq!(low.slot.depth(), 0);
    // A leader that knew no better writes down a split that was carried out long ago.
    assert!(low.split(0).is_empty(), "its plan is older than the merge");
    let mut data = Vec::new();
    let split = SplitCommand { plan: 30, depth: 0, child: SlotId(1), replicas: vec![replica()] };
    command::encode_split(&split, &mut data);
    low.apply(data);
    let mut high = hatch(low.slot.take_halves().pop().expect("a newer plan"));
    absorb(&mut low, 20, 1);
    assert_eq!(low.slot.depth(), 1, "an absorb of the old plan finds the right depth and does nothing");
    merge(&mut low, &mut high, 40);
    let again: Vec<_> = keys().iter().map(|key| parts(&low.slot, key)).collect();
    assert_eq!(again, whole);
}

#[test]
fn an_absorb_waits_for_the_portion_of_its_own_plan() {
    let (mut low, mut high) = two();
    let entry = |plan| {
        let mut data = Vec::new();
        command::encode_absorb(MergeCommand { plan, depth: 1 }, &mut data);
        bytes::Bytes::from(data)
    };
    assert!(!low.slot.can_apply(&entry(20)), "it has none");
    assert!(low.slot.can_apply(&entry(2)), "an old one does nothing anyway");
    freeze(&mut high, 19);
    low.slot.give(high.slot.portion().expect("it is frozen"));
    assert!(!low.slot.can_apply(&entry(20)), "that is another plan's");
    assert!(low.slot.can_apply(&entry(19)));
}

#[test]
fn what_terms_order_goes_on_rising() {
    let (mut low, mut high) = two();
    high.term = 900;
    high.slot.led_term = Some(900);
    let upper = high.slot.next_order();
    high.slot.led_term = None;
    merge(&mut low, &mut high, 20);
    for led in [low.term, low.term + 1, low.term + 7] {
        low.slot.led_term = Some(led);
        assert!(low.slot.next_order() > upper, "in term {led}");
        low.slot.order_last = 0;
    }
    low.slot.led_term = None;
    let mut data = Vec::new();
    let split = SplitCommand { plan: 30, depth: 0, child: SlotId(1), replicas: vec![replica()] };
    command::encode_split(&split, &mut data);
    low.apply(data);
    let half = low.slot.take_halves().pop().expect("it splits");
    assert!(half.term > 900, "the number's terms rise: {}", half.term);
    let mut high = hatch(half);
    high.slot.led_term = Some(high.term);
    assert!(high.slot.next_order() > upper);
}
