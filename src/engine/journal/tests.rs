//! The journal alone: what it asks for, when, and what it says is durable. Crashes are in `crash_tests`.

use super::*;

/// Small enough that a few records fill it.
pub(super) const GEOMETRY: JournalGeometry =
    JournalGeometry { block_bytes: 512, segment_bytes: 8192, identity: 0x6a69_6e64_6f75 };

/// The journal alone, with a write answered at once.
fn plain(durability: Durability) -> Journal {
    let limits = Limits { flush_bytes_max: 2048, ..Limits::TINY };
    let mut journal = Journal::resume(GEOMETRY, &limits, durability, Replay::new(GEOMETRY).finish());
    let mut effects = Effects::default();
    for segment in 1..=2 {
        journal.flush(Instant(0), &mut effects);
        assert!(matches!(effects.list.pop(), Some(Effect::JournalSegment { segment: asked }) if asked == segment));
        journal.handle_segment_ready(Instant(0), segment, Ok(()));
    }
    journal.flush(Instant(0), &mut effects);
    assert!(effects.list.is_empty(), "nothing waits and a spare is there");
    journal
}

fn the_write(effects: &mut Effects) -> JournalWrite {
    match effects.list.pop() {
        Some(Effect::JournalWrite(write)) => write,
        other => panic!("a write was due, not {other:?}"),
    }
}

#[test]
fn nothing_is_durable_before_its_write_is_answered() {
    let mut journal = plain(Durability::Fsync);
    let mut effects = Effects::default();
    let place = journal.append_entry(SlotId(3), 1, 1, 0, b"one");
    assert_eq!(place, Position { segment: 1, offset: 48 + 24 });
    assert_eq!((journal.next_flush(), journal.durable_flush()), (1, 0));
    journal.flush(Instant(0), &mut effects);
    let write = the_write(&mut effects);
    assert_eq!((write.flush, write.segment, write.offset, write.bytes.len()), (1, 1, 0, 512));
    assert_eq!((journal.next_flush(), journal.durable_flush()), (2, 0));

    // The next batch fills while the first is in flight, and waits for it.
    let place = journal.append_entry(SlotId(3), 1, 2, 0, b"two");
    assert_eq!(place, Position { segment: 1, offset: 512 + 48 + 24 });
    journal.flush(Instant(0), &mut effects);
    assert!(effects.list.is_empty());
    journal.handle_written(Instant(0), 1, write.bytes, Ok(()));
    assert_eq!(journal.durable_flush(), 1);
    journal.flush(Instant(0), &mut effects);
    assert_eq!(the_write(&mut effects).flush, 2);
}

/// Appends so many records at a moment and flushes; answers the write, if one was asked for, after so many microseconds.
fn busy(journal: &mut Journal, at_us: u64, records: u64, works_us: u64) -> bool {
    let micros = |us: u64| Instant(us * 1000);
    for _ in 0..records {
        journal.append_entry(SlotId(3), 1, at_us + 1, 0, b"x");
    }
    let mut effects = Effects::default();
    journal.flush(micros(at_us), &mut effects);
    let Some(Effect::JournalWrite(write)) = effects.list.pop() else { return false };
    journal.handle_written(micros(at_us + works_us), write.flush, write.bytes, Ok(()));
    journal.check_invariants();
    true
}

#[test]
fn after_a_shared_write_the_disk_rests_as_long_as_it_worked() {
    let mut journal = plain(Durability::Fsync);
    assert!(busy(&mut journal, 1000, 2, 150));
    assert_eq!(journal.deadline(), None, "nothing to write, nothing to wait for");
    assert!(!busy(&mut journal, 1200, 1, 150), "the disk rests from 1150 to 1300");
    assert_eq!(journal.deadline(), Some(Instant(1_300_000)));
    assert!(!busy(&mut journal, 1299, 1, 150));
    assert!(busy(&mut journal, 1300, 0, 150), "both go together");
}

#[test]
fn who_is_alone_does_not_wait_and_neither_does_who_writes_to_a_slow_disk() {
    let mut journal = plain(Durability::Fsync);
    assert!(busy(&mut journal, 1000, 1, 150));
    assert!(busy(&mut journal, 1151, 1, 150), "one record is no crowd");
    assert!(busy(&mut journal, 2000, 2, 400));
    assert!(!busy(&mut journal, 2499, 2, 400));
    assert!(busy(&mut journal, 2500, 0, 400), "half a millisecond after the last began, a write begins in any case");
    assert!(busy(&mut journal, 4000, 2, 3000));
    assert!(busy(&mut journal, 7000, 2, 3000), "a slow disk is never at rest");
}

#[test]
fn a_full_batch_waits_for_nothing() {
    for durability in [Durability::Fsync, Durability::Memory] {
        let mut journal = plain(durability);
        assert!(busy(&mut journal, 1000, 2, 150));
        for index in 0..3 {
            journal.append_entry(SlotId(3), 1, index, 0, &[7; 900]);
        }
        assert!(busy(&mut journal, 1151, 0, 10), "one batch is full, the next has begun");
    }
}

#[test]
fn in_memory_writes_begin_some_milliseconds_apart() {
    let mut journal = plain(Durability::Memory);
    assert!(busy(&mut journal, 10_000, 1, 150), "the first after a pause at once");
    assert!(!busy(&mut journal, 10_200, 1, 150));
    assert_eq!(journal.durable_flush(), journal.next_flush(), "nobody waits for it");
    assert_eq!(journal.deadline(), Some(Instant(15_000_000)));
    assert!(busy(&mut journal, 15_000, 1, 150));
}

#[test]
fn a_failed_write_is_tried_again_with_the_same_bytes_at_the_same_place() {
    let mut journal = plain(Durability::Fsync);
    let mut effects = Effects::default();
    journal.append_hard_state(SlotId(1), 1, 1, 0);
    journal.flush(Instant(0), &mut effects);
    let first = the_write(&mut effects);
    let copy = JournalWrite { bytes: first.bytes.clone(), ..first };
    journal.handle_written(Instant(5), 1, first.bytes, Err(DiskFault::Full));
    assert!(!journal.writable());
    assert_eq!(journal.durable_flush(), 0);
    let retry_at = Instant(5) + RETRY_AFTER;
    assert_eq!(journal.deadline(), Some(retry_at));
    journal.append_hard_state(SlotId(1), 2, 1, 0);
    journal.flush(Instant(retry_at.0 - 1), &mut effects);
    assert!(effects.list.is_empty());
    journal.flush(retry_at, &mut effects);
    let again = the_write(&mut effects);
    assert_eq!(again, copy);
    assert!(!journal.writable(), "a retry under way has not succeeded yet");
    journal.handle_written(retry_at, 1, again.bytes, Ok(()));
    assert!(journal.writable());
    assert_eq!(journal.durable_flush(), 1);
    journal.flush(retry_at, &mut effects);
    assert_eq!(the_write(&mut effects).flush, 2, "what came meanwhile");
    assert_eq!(journal.deadline(), None);
}

#[test]
fn no_segment_means_no_write_and_a_retry() {
    let mut journal = Journal::resume(GEOMETRY, &Limits::TINY, Durability::Fsync, Replay::new(GEOMETRY).finish());
    let mut effects = Effects::default();
    journal.append_hard_state(SlotId(1), 1, 1, 0);
    journal.flush(Instant(0), &mut effects);
    assert!(matches!(effects.list.as_slice(), [Effect::JournalSegment { segment: 1 }]));
    effects.list.clear();
    assert!(journal.writable());
    journal.handle_segment_ready(Instant(0), 1, Err(DiskFault::Full));
    assert!(!journal.writable());
    journal.flush(Instant(0), &mut effects);
    assert!(effects.list.is_empty());
    journal.flush(Instant(0) + RETRY_AFTER, &mut effects);
    assert!(matches!(effects.list.as_slice(), [Effect::JournalSegment { segment: 1 }]));
    assert!(!journal.writable());
    effects.list.clear();
    journal.handle_segment_ready(Instant(0), 1, Ok(()));
    assert!(journal.writable());
    journal.flush(Instant(0), &mut effects);
    assert!(matches!(effects.list.as_slice(), [Effect::JournalSegment { segment: 2 }, Effect::JournalWrite(_)]));
}

#[test]
fn memory_promises_what_was_accepted() {
    let mut journal = plain(Durability::Memory);
    journal.append_hard_state(SlotId(1), 1, 1, 0);
    assert!(journal.durable_flush() >= journal.next_flush());
}

#[test]
fn a_batch_never_crosses_a_segment_or_the_wished_size() {
    let mut journal = plain(Durability::Fsync);
    let mut places = Vec::new();
    for index in 0..20 {
        places.push(journal.append_entry(SlotId(1), 1, index, 0, &[7; 700]));
    }
    // (48 + 2 × 724 padded to 728) is under 2048; a third entry would not be. 1504 bytes take 3 blocks, 5 batches fill
    // 15 of 16 blocks, and the next two entries go to the next segment.
    assert_eq!(journal.next_flush(), 10);
    assert_eq!(places[9].segment, 1);
    assert_eq!(places[10], Position { segment: 2, offset: 72 });
    let mut effects = Effects::default();
    let mut writes = 0;
    while journal.pending_bytes() > 0 {
        journal.flush(Instant(0), &mut effects);
        for effect in effects.list.drain(..) {
            match effect {
                Effect::JournalWrite(write) => {
                    assert!(write.bytes.len() <= 2048 && write.offset as usize + write.bytes.len() <= 8192);
                    journal.handle_written(Instant(0), write.flush, write.bytes, Ok(()));
                    writes += 1;
                }
                Effect::JournalSegment { segment } => journal.handle_segment_ready(Instant(0), segment, Ok(())),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(writes, 10);
}

#[test]
fn at_rest_the_same_buffers_go_round() {
    let limits = Limits { flush_bytes_max: 1 << 20, ..Limits::PRODUCTION };
    let geometry = JournalGeometry { block_bytes: 4096, segment_bytes: 64 << 20, identity: 1 };
    let mut journal = Journal::resume(geometry, &limits, Durability::Fsync, Replay::new(geometry).finish());
    let mut effects = Effects::default();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..2000u64 {
        for _ in 0..10 {
            journal.append_entry(SlotId(1), 1, round, 0, &[1; 256]);
        }
        journal.flush(Instant(0), &mut effects);
        for effect in effects.list.drain(..) {
            match effect {
                Effect::JournalWrite(write) => {
                    // The first rounds grow the buffers; from then on no other may appear.
                    if round >= 10 {
                        seen.insert(write.bytes.as_ptr() as usize);
                    }
                    journal.handle_written(Instant(0), write.flush, write.bytes, Ok(()));
                }
                Effect::JournalSegment { segment } => journal.handle_segment_ready(Instant(0), segment, Ok(())),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(seen.len() <= BUFFERS_KEPT_MAX, "{} buffers", seen.len());
}

#[test]
fn trim_keeps_what_is_still_to_be_written() {
    let mut journal = plain(Durability::Fsync);
    let mut effects = Effects::default();
    for index in 0..40 {
        journal.append_entry(SlotId(1), 1, index, 0, &[7; 700]);
    }
    assert_eq!(journal.segments(), (1, 4));
    journal.trim(4, &mut effects);
    assert!(effects.list.is_empty(), "its first batch is not even in flight");
    journal.flush(Instant(0), &mut effects);
    journal.trim(4, &mut effects);
    assert!(!effects.list.iter().any(|effect| matches!(effect, Effect::JournalTrim { .. })), "it is in flight");
}

#[test]
#[should_panic(expected = "an entry must fit in a segment")]
fn an_entry_larger_than_a_segment_is_the_callers_mistake() {
    let mut journal = plain(Durability::Fsync);
    journal.append_entry(SlotId(1), 1, 1, 0, &vec![0; entry_data_bytes_max(&GEOMETRY) + 1]);
}
