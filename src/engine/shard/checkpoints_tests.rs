//! A large slot's checkpoint beside a slot that goes on.

use std::time::Duration;

use super::super::tests::Bench;
use super::*;
use crate::engine::checkpoint::{self, CheckpointState};
use crate::engine::event::Event;
use crate::limits::Limits;

const USERS: u32 = 60;
const LIMITS: Limits =
    Limits { replay_bytes_max: 2, state_portion: 16, state_rest: Duration::from_millis(1), ..Limits::PRODUCTION };

/// A shard whose slots have users, and no checkpoint yet.
fn peopled() -> Bench {
    let mut bench = Bench::with(Limits { replay_bytes_max: 1 << 40, ..LIMITS });
    for index in 0..USERS {
        bench.connect(index, &format!("user{index}"), "d");
    }
    bench.shard.config.limits = LIMITS;
    bench
}

/// Channels and homes of a slot's checkpoints that were asked for since the last call.
fn asked(bench: &mut Bench) -> Vec<(SlotId, usize)> {
    let map_state = bench.shard.map_state;
    let mut asked = Vec::new();
    for effect in std::mem::take(&mut bench.others) {
        if let Effect::Checkpoint { slot, bytes } = effect
            && let Ok(CheckpointState::Slot(state)) = checkpoint::decode(slot, &bytes, map_state).map(|read| read.state)
        {
            asked.push((slot, state.channels.len() + state.homes.len()));
            bench.events.push(Event::CheckpointWritten { slot, result: Ok(()) });
        }
    }
    asked
}

#[test]
fn no_step_encodes_more_than_a_portion() {
    let mut bench = peopled();
    let (mut entries, mut most, mut steps) = (0, 0, 0);
    let mut slots = Vec::new();
    bench.wait(LIMITS.sweep_every);
    for _ in 0..4000 {
        let step = bench.shard.checkpoints.last_step;
        (entries, most, steps) = (entries + step, most.max(step), steps + usize::from(step > 0));
        slots.extend(asked(&mut bench));
        bench.step_once(Duration::from_millis(1));
    }
    let held: usize = slots.iter().map(|(_, held)| held).sum();
    assert!(slots.len() >= 4 && held >= USERS as usize, "{slots:?}");
    assert!(most <= LIMITS.state_portion && entries >= held, "{most} at once, {entries} of {held}");
    assert!(steps >= held / LIMITS.state_portion, "{steps} steps");
}

#[test]
fn a_replica_that_ends_takes_its_half_encoded_checkpoint_along() {
    let mut bench = peopled();
    bench.wait(LIMITS.sweep_every);
    let slot = bench.shard.checkpoints.current.as_ref().map(|(slot, _)| *slot).expect("one is being encoded");
    bench.shard.end_replica(bench.now, slot);
    assert!(bench.shard.checkpoints.current.is_none());
    assert!(!bench.shard.ended.keeps_disk_busy(slot), "the disk knows nothing of it");
    bench.run();
}
