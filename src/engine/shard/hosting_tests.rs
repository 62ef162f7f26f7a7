//! A slot's replica that ends while its checkpoint is on its way to the disk.

use std::time::Duration;

use super::super::tests::Bench;
use super::*;
use crate::engine::event::Event;
use crate::limits::Limits;
use crate::time::{Instant, UnixMillis};

/// Time goes by, and all checkpoints of other slots are written. How many of this slot's were asked for.
fn asked(bench: &mut Bench, slot: SlotId) -> usize {
    let mut count = 0;
    for _ in 0..8 {
        bench.wait(Duration::from_secs(60));
        for effect in std::mem::take(&mut bench.others) {
            match effect {
                Effect::Checkpoint { slot: asked, .. } if asked == slot => count += 1,
                Effect::Checkpoint { slot, .. } => bench.events.push(Event::CheckpointWritten { slot, result: Ok(()) }),
                _ => {}
            }
        }
    }
    count
}

#[test]
fn a_predecessors_checkpoint_is_no_answer_to_its_successor() {
    let mut bench = Bench::with(Limits { replay_bytes_max: 2, ..Limits::PRODUCTION });
    let slot = SlotId(1);
    assert_eq!(asked(&mut bench, slot), 1);
    let now = Now { instant: Instant(481_000_000_000), unix: UnixMillis(1_700_000_481_000) };
    bench.shard.end_replica(now, slot);
    let replica = ReplicaId::new(bench.shard.config.place, 999);
    bench.shard.begin_replica(now, slot, replica, 2);
    assert_eq!(asked(&mut bench, slot), 0, "one at a time");
    let checkpointed = |bench: &Bench| bench.shard.hosted[bench.shard.place_of(slot).unwrap()].checkpointed;
    bench.events.push(Event::CheckpointWritten { slot, result: Ok(()) });
    bench.run();
    assert!(!checkpointed(&bench), "that was its predecessor's");
    assert_eq!(asked(&mut bench, slot), 1);
    bench.events.push(Event::CheckpointWritten { slot, result: Ok(()) });
    bench.run();
    assert!(checkpointed(&bench));
}
