//! Tests of the simulator's own parts, without a router: a fake disk that loses what it should keep, or a checker that sees
//! nothing, would make every other test worthless.

use jindou::engine::effect::JournalWrite;
use jindou::engine::event::Event;
use jindou::engine::shard::JournalGeometry;
use jindou::ids::SlotId;

use crate::chance::Chance;
use crate::checkers::ids::Ids;
use crate::checkers::kicks::{Due, Kicks};
use crate::checkers::limits::Window;
use crate::checkers::once::Once;
use crate::checkers::{order, presence, same_answer::SameAnswer};
use crate::disk::{Disk, Request, SECTOR_BYTES, Wounds};
use crate::faults::{Plan, tiny};
use crate::ledger::{self, LogKey};
use crate::trace::Trace;

/// All of them by name.
pub const ALL: [(&str, fn()); 9] = [
    ("chance-is-by-purpose", chance_is_by_purpose),
    ("numbers-are-found-in-bytes", numbers_are_found_in_bytes),
    ("a-finished-write-survives", a_finished_write_survives),
    ("an-unfinished-write-tears-by-sectors", an_unfinished_write_tears_by_sectors),
    ("a-full-disk-writes-nothing", a_full_disk_writes_nothing),
    ("a-removed-segment-may-be-back", a_removed_segment_may_be_back),
    ("checkers-see", checkers_see),
    ("windows-are-counted", windows_are_counted),
    ("a-history-has-one-number", a_history_has_one_number),
];

const GEOMETRY: JournalGeometry = JournalGeometry { identity: 1, block_bytes: 512, segment_bytes: 16 << 10 };

fn disk_with_segments(count: u32) -> Disk {
    let mut disk = Disk::new(GEOMETRY);
    let mut chance = Chance::new(1, "disk");
    for segment in 0..count {
        let request = Request::Segment(segment);
        disk.begin(&request);
        let event = disk.complete(request, &mut chance);
        assert!(matches!(event, Event::SegmentReady { result: Ok(()), .. }));
    }
    disk
}

fn write(flush: u64, segment: u32, offset: u32, bytes: Vec<u8>) -> Request {
    Request::Write(JournalWrite { flush, segment, offset, bytes })
}

fn chance_is_by_purpose() {
    let (mut one, mut same) = (Chance::new(7, "disk"), Chance::new(7, "disk"));
    let mut other = Chance::new(7, "network");
    let drawn: Vec<u64> = (0..8).map(|_| one.number()).collect();
    assert_eq!(drawn, (0..8).map(|_| same.number()).collect::<Vec<_>>());
    assert_ne!(drawn, (0..8).map(|_| other.number()).collect::<Vec<_>>());
    assert!((0..1000).all(|_| (3..=5).contains(&one.between(3, 5))));
    let plan = format!("{:?}", Plan::draw(3, None));
    assert_eq!(plan, format!("{:?}", Plan::draw(3, None)), "a plan follows from its seed");
}

fn numbers_are_found_in_bytes() {
    let mut bytes = vec![b'J'; 30];
    bytes.extend_from_slice(ledger::number_text(0xbeef).as_bytes());
    bytes.extend_from_slice(b"JDN-0000zzzz");
    bytes.extend_from_slice(ledger::number_text(1).as_bytes());
    let mut found = std::collections::BTreeSet::new();
    ledger::find_numbers(&bytes, &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [1, 0xbeef]);
    assert_ne!(ledger::payload(1, 60, false), ledger::payload(1, 60, true));
    assert_ne!(ledger::payload(1, 60, false), ledger::payload(2, 60, false));
}

fn a_finished_write_survives() {
    let mut chance = Chance::new(2, "disk");
    let mut disk = disk_with_segments(1);
    let mut bytes = ledger::number_text(5).into_bytes();
    bytes.resize(1024, 7);
    let request = write(1, 0, 512, bytes.clone());
    disk.begin(&request);
    assert!(!disk.holds(5), "nothing is durable before it has finished");
    disk.complete(request, &mut chance);
    assert!(disk.holds(5));
    for _ in 0..20 {
        disk.crash(Wounds { tear: true, flip: true, unremove: true }, &mut chance);
    }
    assert_eq!(disk.segments()[&0][512..1536], bytes);
}

fn an_unfinished_write_tears_by_sectors() {
    let mut chance = Chance::new(3, "disk");
    let (mut none, mut some, mut all) = (0, 0, 0);
    for flush in 0..200 {
        let mut disk = disk_with_segments(1);
        let mut bytes = vec![9; 4 * SECTOR_BYTES];
        let number = ledger::number_text(5);
        bytes[..number.len()].copy_from_slice(number.as_bytes());
        disk.begin(&write(flush, 0, 0, bytes));
        disk.crash(Wounds { tear: true, flip: false, unremove: false }, &mut chance);
        let segment = &disk.segments()[&0];
        let kept = segment[..4 * SECTOR_BYTES].chunks(SECTOR_BYTES).filter(|sector| {
            let last = sector[SECTOR_BYTES - 1];
            assert!(sector[16..].iter().all(|byte| *byte == last), "a sector is whole or absent");
            last == 9
        });
        let kept = kept.count();
        assert_eq!(disk.holds(5), kept == 4, "what is left whole is durable, and nothing else");
        match kept {
            0 => none += 1,
            4 => all += 1,
            _ => some += 1,
        }
        assert!(segment[4 * SECTOR_BYTES..].iter().all(|byte| *byte == 0));
    }
    assert!(none > 10 && some > 10 && all > 10, "every way to tear happens: {none}, {some}, {all}");
}

fn a_full_disk_writes_nothing() {
    let mut chance = Chance::new(4, "disk");
    let mut disk = disk_with_segments(1);
    disk.full = true;
    let request = write(1, 0, 0, vec![1; 512]);
    disk.begin(&request);
    let event = disk.complete(request, &mut chance);
    assert!(matches!(event, Event::JournalWritten { result: Err(_), .. }));
    assert!(disk.segments()[&0].iter().all(|byte| *byte == 0));
    let request = Request::Segment(1);
    disk.begin(&request);
    assert!(matches!(disk.complete(request, &mut chance), Event::SegmentReady { result: Err(_), .. }));
}

fn a_removed_segment_may_be_back() {
    let mut chance = Chance::new(5, "disk");
    let mut came_back = 0;
    for _ in 0..50 {
        let mut disk = disk_with_segments(4);
        disk.trim(2);
        assert_eq!(disk.segments().len(), 2);
        disk.crash(Wounds { tear: false, flip: false, unremove: true }, &mut chance);
        let numbers: Vec<u32> = disk.segments().keys().copied().collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no holes: {numbers:?}");
        came_back += usize::from(numbers.len() > 2);
    }
    assert!(came_back > 5);
}

fn checkers_see() {
    let log = LogKey::Pair(0, 1);
    let mut ids = Ids::default();
    assert!(ids.placed(log, 1, 10, 1).is_ok());
    assert!(ids.placed(log, 2, 11, 2).is_ok());
    assert!(ids.placed(log, 3, 5, 3).is_err(), "falling");
    assert!(Ids::default().placed(log, 1, -1, 1).is_err(), "negative");
    let mut once = Once::new(64);
    assert!(once.placed(log, 1, 10, 1).is_ok());
    assert!(once.placed(log, 1, 11, 2).is_err(), "twice");
    let mut answers = SameAnswer::new(64);
    assert!(answers.accepted(1, 10, 1).is_ok() && answers.accepted(1, 10, 1).is_ok());
    assert!(answers.accepted(1, 10, 2).is_err());
    assert!(order::dense(log, &[(1, 10, 1), (3, 11, 2)], false).is_err(), "a hole");
    assert!(order::dense(log, &[(2, 10, 1), (3, 11, 2)], true).is_ok(), "a beginning that was dropped");
    assert!(presence::agree(vec![(0, 0)], vec![(0, 1)]).is_err());
    let due = |newcomer: usize, notice| {
        let order = newcomer as u64;
        Due { at_ns: 100, notice, newcomer, order, since_ns: 50, user: 0, slot: SlotId(0), master: true }
    };
    let mut kicks = Kicks::default();
    kicks.expect(3, due(4, true));
    assert!(kicks.overdue(101).is_err() && kicks.overdue(99).is_ok());
    assert!(kicks.closed(3).is_err(), "without notice");
    for (first, second) in [(false, true), (true, false)] {
        kicks.expect(3, due(4, first));
        kicks.expect(3, due(5, second));
        assert_eq!(kicks.closed(3).is_err(), first, "who came first decides");
        kicks.expect(3, due(5, second));
        kicks.expect(3, due(4, first));
        assert_eq!(kicks.closed(3).is_err(), first, "and not who was written to first");
        kicks.expect(3, due(4, first));
        kicks.expect(3, due(5, second));
        kicks.release(4);
        assert!(kicks.overdue(101).is_err(), "the other one is there");
        assert_eq!(kicks.closed(3).is_err(), second);
    }
    kicks.expect(3, due(4, true));
    kicks.release(4);
    assert!(kicks.overdue(101).is_ok() && kicks.closed(3).is_ok(), "nobody came");
}

fn windows_are_counted() {
    let limits = tiny();
    let mut window = Window::default();
    let again_ns = limits.redeliver_after.as_nanos() as u64;
    for id in 0..i64::from(limits.recv_window) {
        assert!(window.write(0, 1, id, 10, &limits).is_ok());
        assert!(window.check(&limits).is_ok());
    }
    assert!(window.write(5, 1, 0, 10, &limits).is_err(), "again too early");
    assert!(window.write(again_ns + 5, 1, 1, 10, &limits).is_ok(), "again in time");
    let second = |count: u64| count * 1_000_000_000;
    let acked_ns = second(10);
    window.ack(acked_ns, 1, 2);
    // When the home's leader came, when the repeat is written, and whether it may be.
    let cases = [
        (None, second(11), false),
        (Some(acked_ns + second(1)), second(12), true),
        (Some(acked_ns - second(1)), second(12), true),
        (Some(acked_ns + second(1)), second(17), false),
        (Some(acked_ns + second(3)), second(14), false),
    ];
    for (led_anew_ns, at_ns, may) in cases {
        (window.led_anew_ns, window.well_since_ns) = (led_anew_ns, 0);
        let verdict = window.write(at_ns, 3, 1, 10, &limits);
        assert_eq!(verdict.is_ok(), may, "again after its acknowledgement: {led_anew_ns:?}, {at_ns}");
    }
    let mut window = Window::default();
    for id in 0..=i64::from(limits.recv_window) {
        assert!(window.write(0, 1, id, 10, &limits).is_ok());
    }
    assert!(window.check(&limits).is_err(), "one too many");
}

fn a_history_has_one_number() {
    let (mut one, mut other) = (Trace::new(false), Trace::new(false));
    one.record(1, "in", 2, b"x");
    other.record(1, "in", 2, b"x");
    assert_eq!(one.digest(), other.digest());
    other.record(2, "in", 2, b"x");
    assert_ne!(one.digest(), other.digest());
}
