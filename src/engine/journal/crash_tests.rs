//! The journal over a tiny disk that can be cut off at any write, tears at 512 bytes, fills up, fails and forgets.
//! Everything appended carries a serial number, so that "what is replayed is what was appended" is compared exactly.

use std::collections::BTreeMap;

use super::tests::GEOMETRY;
use super::*;

const SECTOR: usize = 512;

/// Numbers by chance from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A segment's file: what a reader sees, and what a power cut is sure to leave.
#[derive(Clone)]
struct SegmentFile {
    seen: Vec<u8>,
    safe: Vec<u8>,
}

struct Disk {
    segments: BTreeMap<u32, SegmentFile>,
    retired: Vec<SegmentFile>,
}

impl Disk {
    fn prepare(&mut self, segment: u32, bytes: usize) {
        let file = self.retired.pop().unwrap_or_else(|| SegmentFile { seen: vec![0; bytes], safe: vec![0; bytes] });
        self.segments.insert(segment, file);
    }

    fn write(&mut self, write: &JournalWrite, synced: bool) {
        let file = self.segments.get_mut(&write.segment).expect("only prepared segments are written to");
        let range = write.offset as usize..write.offset as usize + write.bytes.len();
        file.seen[range.clone()].copy_from_slice(&write.bytes);
        if synced {
            file.safe[range.clone()].copy_from_slice(&write.bytes);
        }
    }

    fn trim(&mut self, first: u32) {
        while let Some(entry) = self.segments.first_entry().filter(|entry| *entry.key() < first) {
            let mut file = entry.remove();
            file.safe.clone_from(&file.seen);
            self.retired.push(file);
        }
        self.retired.truncate(2);
    }

    /// Each sector that was not synced is on disk or not, by chance.
    fn cut_power(&mut self, dice: &mut Dice) {
        let kept_in_ten = dice.below(11);
        for file in self.segments.values_mut() {
            for at in (0..file.seen.len()).step_by(SECTOR) {
                let sector = at..at + SECTOR;
                if file.seen[sector.clone()] != file.safe[sector.clone()] && dice.below(10) < kept_in_ten {
                    file.safe[sector.clone()].copy_from_slice(&file.seen[sector]);
                }
            }
            file.seen.clone_from(&file.safe);
        }
    }

    /// What a start does before it believes what it reads.
    fn sync(&mut self) {
        for file in self.segments.values_mut() {
            file.safe.clone_from(&file.seen);
        }
    }
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Entry { slot: SlotId, term: u64, index: u64, kind: u8, data: Vec<u8> },
    HardState { slot: SlotId, term: u64, vote: u64, commit: u64 },
}

impl Owned {
    fn of(record: Record<'_>) -> Owned {
        match record {
            Record::Entry { slot, term, index, kind, data } => {
                Owned::Entry { slot, term, index, kind, data: data.to_vec() }
            }
            Record::HardState { slot, term, vote, commit } => Owned::HardState { slot, term, vote, commit },
            other => panic!("nobody appended {other:?} here"),
        }
    }
}

/// What was appended, and the flush that carries it.
#[derive(Clone, Debug)]
struct Appended {
    flush: u64,
    segment: u32,
    /// Of an entry's data.
    place: Option<Position>,
    record: Owned,
}

/// A journal, its disk, and all that the world knows of both.
struct World {
    dice: Dice,
    disk: Disk,
    geometry: JournalGeometry,
    limits: Limits,
    durability: Durability,
    journal: Journal,
    history: Vec<Appended>,
    /// Records that the journal has called durable, from the beginning of `history`.
    promised: usize,
    serial: u64,
    /// Everything before this segment is covered by checkpoints: a start reads from here.
    needed: u32,
    now: Instant,
    /// The one write in flight.
    in_flight: Option<JournalWrite>,
    asked: Option<u32>,
    /// One in so many operations fails; 0 is never.
    faults: usize,
    /// Faults that happened, retries that repaired them.
    faulted: usize,
}

impl World {
    fn new(seed: u64, durability: Durability, faults: usize) -> World {
        let geometry = GEOMETRY;
        let limits = Limits { flush_bytes_max: 2048, ..Limits::TINY };
        let journal = Journal::resume(geometry, &limits, durability, Replay::new(geometry).finish());
        World {
            dice: Dice(seed),
            disk: Disk { segments: BTreeMap::new(), retired: Vec::new() },
            geometry,
            limits,
            durability,
            journal,
            history: Vec::new(),
            promised: 0,
            serial: 0,
            needed: 1,
            now: Instant::default(),
            in_flight: None,
            asked: None,
            faults,
            faulted: 0,
        }
    }

    fn append(&mut self) {
        self.serial += 1;
        let slot = SlotId(self.dice.below(4) as u16);
        let (record, place) = if self.dice.one_in(4) {
            let record = Owned::HardState { slot, term: self.serial, vote: self.dice.next(), commit: 7 };
            let Owned::HardState { term, vote, commit, .. } = record else { unreachable!() };
            self.journal.append_hard_state(slot, term, vote, commit);
            (record, None)
        } else {
            let length = match self.dice.below(20) {
                0 => entry_data_bytes_max(&self.geometry) - self.dice.below(600),
                1..4 => self.dice.below(3000),
                _ => self.dice.below(200),
            };
            let data: Vec<u8> = (0..length).map(|at| (at as u64 ^ self.serial) as u8).collect();
            let (term, index, kind) = (self.serial, self.serial * 3, (self.serial % 5) as u8);
            let place = self.journal.append_entry(slot, term, index, kind, &data);
            (Owned::Entry { slot, term, index, kind, data }, Some(place))
        };
        let segment = self.journal.position().segment;
        let flush = self.journal.next_flush();
        if self.history.last().is_some_and(|last| last.flush > flush) {
            panic!("flush numbers only rise");
        }
        self.history.push(Appended { flush, segment, place, record });
    }

    fn turn(&mut self) {
        for _ in 0..self.dice.below(6) {
            self.append();
        }
        let mut effects = Effects::default();
        // Some of the times that a batch may gather for.
        self.now = self.now + Duration::from_millis(3);
        self.journal.flush(self.now, &mut effects);
        self.carry_out(effects);
        self.journal.check_invariants();
        self.note_promises();
    }

    fn carry_out(&mut self, effects: Effects) {
        for effect in effects.list {
            match effect {
                Effect::JournalWrite(write) => {
                    assert!(self.in_flight.is_none(), "one write at a time");
                    assert!(write.bytes.len().is_multiple_of(self.geometry.block_bytes as usize));
                    self.in_flight = Some(write);
                }
                Effect::JournalSegment { segment } => {
                    assert!(self.asked.is_none(), "one segment at a time");
                    self.asked = Some(segment);
                }
                Effect::JournalTrim { first } => self.disk.trim(first),
                other => panic!("not the journal's business: {other:?}"),
            }
        }
    }

    fn fault(&mut self) -> Option<DiskFault> {
        if self.faults == 0 || !self.dice.one_in(self.faults) {
            return None;
        }
        self.faulted += 1;
        Some(if self.dice.one_in(2) { DiskFault::Full } else { DiskFault::Io(5) })
    }

    fn answer_write(&mut self) {
        let Some(write) = self.in_flight.take() else {
            return;
        };
        let fault = self.fault();
        if fault.is_none() || self.dice.one_in(2) {
            // A write that failed may still have reached the disk.
            self.disk.write(&write, self.durability == Durability::Fsync && fault.is_none());
        }
        self.journal.handle_written(self.now, write.flush, write.bytes, fault.map_or(Ok(()), Err));
        if fault.is_some() {
            assert!(!self.journal.writable());
            let retry_at = self.now + RETRY_AFTER;
            assert!(self.journal.deadline().is_some_and(|at| at <= retry_at));
        }
        self.note_promises();
    }

    fn answer_segment(&mut self) {
        let Some(segment) = self.asked.take() else {
            return;
        };
        let fault = self.fault();
        if fault.is_none() {
            self.disk.prepare(segment, self.geometry.segment_bytes as usize);
        }
        self.journal.handle_segment_ready(self.now, segment, fault.map_or(Ok(()), Err));
        assert_eq!(self.journal.writable(), fault.is_none() && !self.write_faulty());
    }

    fn write_faulty(&self) -> bool {
        matches!(self.journal.writing, Writing::Failed { .. } | Writing::InFlight { again: true, .. })
    }

    fn note_promises(&mut self) {
        if self.durability == Durability::Fsync {
            let durable = self.journal.durable_flush();
            self.promised = self.promised.max(self.history.partition_point(|appended| appended.flush <= durable));
        }
    }

    /// Power off at this instant, and on again. Returns the damage if the replay says so.
    fn crash(&mut self) -> Result<(), JournalDamage> {
        if let Some(write) = self.in_flight.take() {
            self.disk.write(&write, false);
        }
        if self.asked.take().is_some_and(|_| self.dice.one_in(2)) {
            // A prepared file may have appeared although nobody was told.
            let segment = self.journal.ready_segment + 1;
            self.disk.prepare(segment, self.geometry.segment_bytes as usize);
        }
        self.disk.cut_power(&mut self.dice);
        self.restart()
    }

    fn restart(&mut self) -> Result<(), JournalDamage> {
        if let (Some(oldest), Some(newest)) = (self.disk.segments.keys().next(), self.disk.segments.keys().last()) {
            let reached = self.journal.position().segment.min(*newest);
            self.needed = self.needed.max(*oldest);
            if self.dice.one_in(2) {
                self.needed += self.dice.below((reached - self.needed + 1) as usize) as u32;
            }
        }
        let (found, resume) = self.replay(Some(self.needed))?;
        self.compare(self.needed, &found);
        self.disk.sync();
        self.promised = self.history.len();
        self.journal = Journal::resume(self.geometry, &self.limits, self.durability, resume);
        self.journal.check_invariants();
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    fn replay(&self, from: Option<u32>) -> Result<(Vec<(Owned, Position)>, ResumePoint), JournalDamage> {
        let mut replay = Replay::new(self.geometry);
        let mut found = Vec::new();
        for (segment, file) in self.disk.segments.range(from.unwrap_or(1)..) {
            replay.segment(*segment, &file.seen, &mut |record, place| found.push((Owned::of(record), place)))?;
        }
        Ok((found, replay.finish()))
    }

    /// What was promised is there; what is there is a beginning of what was appended; and it lies where it was said.
    fn compare(&mut self, first: u32, found: &[(Owned, Position)]) {
        let skipped = self.history.partition_point(|appended| appended.segment < first);
        let known = &self.history[skipped..];
        assert!(found.len() <= known.len(), "more is replayed than was appended");
        for (appended, (record, place)) in known.iter().zip(found) {
            assert_eq!(&appended.record, record, "something else is replayed than was appended");
            assert!(appended.place.is_none_or(|appended| appended == *place), "an entry lies where its append said");
            if let (Owned::Entry { data, .. }, at) = (record, place.offset as usize) {
                assert_eq!(&self.disk.segments[&place.segment].seen[at..at + data.len()], data);
            }
        }
        assert!(skipped + found.len() >= self.promised, "something promised is gone");
        self.history.truncate(skipped + found.len());
    }
}

fn live(seed: u64, durability: Durability, faults: usize, crashes: usize) -> World {
    let mut world = World::new(seed, durability, faults);
    for _ in 0..crashes {
        for _ in 0..world.dice.below(60) {
            world.turn();
            if world.dice.one_in(2) {
                world.answer_write();
            }
            if world.dice.one_in(2) {
                world.answer_segment();
            }
            if world.dice.one_in(20) {
                let (first, last) = world.journal.segments();
                let first = first + world.dice.below((last - first + 2) as usize) as u32;
                let mut effects = Effects::default();
                world.journal.trim(first, &mut effects);
                world.carry_out(effects);
            }
            world.now = world.now + Duration::from_millis(world.dice.below(700) as u64);
        }
        world.crash().unwrap_or_else(|damage| panic!("seed {seed}: {damage}"));
    }
    world
}

#[test]
fn what_was_promised_survives_any_crash() {
    let mut replayed = 0;
    let mut segments = 0;
    for seed in 0..400 {
        let world = live(seed, Durability::Fsync, 0, 8);
        replayed += world.history.len();
        segments += u64::from(world.journal.segments().1);
    }
    assert!(replayed > 20_000 && segments > 2_000, "the test did little: {replayed} records, {segments} segments");
}

#[test]
fn faults_and_full_disks_delay_and_lose_nothing() {
    let mut faulted = 0;
    for seed in 1000..1300 {
        faulted += live(seed, Durability::Fsync, 5, 6).faulted;
    }
    assert!(faulted > 1000, "the test met few faults: {faulted}");
}

#[test]
fn without_sync_a_power_cut_leaves_a_beginning_and_never_a_mixture() {
    for seed in 2000..2600 {
        live(seed, Durability::Memory, 0, 10);
    }
    for seed in 2600..2800 {
        live(seed, Durability::Memory, 6, 10);
    }
}

#[test]
fn changing_the_durability_between_runs_is_no_damage() {
    for seed in 3000..3300 {
        let mut world = live(seed, Durability::Memory, 0, 2);
        for round in 0..6 {
            world.durability = if round % 2 == 0 { Durability::Fsync } else { Durability::Memory };
            world.restart().unwrap_or_else(|damage| panic!("seed {seed}: {damage}"));
            for _ in 0..30 {
                world.turn();
                world.answer_write();
                world.answer_segment();
            }
            world.crash().unwrap_or_else(|damage| panic!("seed {seed}: {damage}"));
        }
    }
}

/// Runs without crash and comes to rest.
fn filled(seed: u64, records: usize) -> World {
    let mut world = World::new(seed, Durability::Fsync, 0);
    while world.history.len() < records {
        world.turn();
        world.answer_segment();
        world.answer_write();
    }
    settle(&mut world);
    world
}

fn settle(world: &mut World) {
    while world.journal.pending_bytes() > 0 || world.asked.is_some() {
        let mut effects = Effects::default();
        world.now = world.now + Limits::TINY.memory_write_every;
        world.journal.flush(world.now, &mut effects);
        world.carry_out(effects);
        world.answer_segment();
        world.answer_write();
    }
    assert_eq!(world.promised, world.history.len());
}

#[test]
fn a_flipped_bit_is_damage_unless_it_is_in_the_last_batch() {
    let (mut damaged, mut shortened, mut harmless) = (0, 0, 0);
    for seed in 0..600 {
        let mut world = filled(seed, 100);
        let end = world.journal.position();
        let last = world.history.last().map_or(0, |appended| appended.flush);
        let before_last = world.history.partition_point(|appended| appended.flush < last);
        let segment = 1 + world.dice.below(end.segment as usize) as u32;
        let bound = if segment == end.segment { end.offset } else { world.geometry.segment_bytes };
        let at = world.dice.below(bound as usize);
        let bit = world.dice.below(8);
        if let Some(file) = world.disk.segments.get_mut(&segment) {
            file.seen[at] ^= 1 << bit;
        }
        match world.replay(Some(1)) {
            Err(damage) => {
                damaged += 1;
                let offset = at as u32;
                assert!(damage.position <= Position { segment, offset }, "{damage}");
                assert!(damage.position.segment + 1 >= segment, "{damage}");
                assert!(damage.to_string().contains("was written after it was on disk"));
            }
            Ok((found, _)) if found.len() == world.history.len() => harmless += 1,
            Ok((found, _)) => {
                shortened += 1;
                assert_eq!(found.len(), before_last, "only the last batch may be taken for torn");
            }
        }
    }
    assert!(damaged > 100 && shortened > 3 && harmless > 100, "{damaged} {shortened} {harmless}");
}

#[test]
fn a_lost_segment_or_a_hole_is_damage() {
    let mut world = filled(7, 150);
    let whole = world.disk.segments.clone();
    world.disk.segments.remove(&3);
    let damage = world.replay(Some(1)).expect_err("a file is missing");
    assert_eq!(damage.position, Position { segment: 3, offset: 0 });
    assert_eq!(
        damage.to_string(),
        "the journal is damaged at segment 3 offset 0: the segment's file is missing, but there are later ones"
    );

    for emptied in 1..world.journal.segments().1 {
        world.disk.segments.clone_from(&whole);
        if let Some(file) = world.disk.segments.get_mut(&emptied) {
            file.seen.fill(0);
        }
        world.replay(Some(1)).expect_err("what was promised is zeroes");
    }
}

#[test]
fn another_journals_segments_are_not_ours() {
    let mut world = filled(8, 60);
    world.geometry.identity += 1;
    let (found, resume) = world.replay(Some(1)).expect("nothing of this journal is there");
    assert!(found.is_empty());
    assert_eq!((resume.position, resume.flush), (Position { segment: 1, offset: 0 }, 1));
}

#[test]
fn a_replay_may_begin_at_any_segment_and_even_at_the_empty_spare() {
    for seed in 0..50 {
        let mut world = filled(seed, 100);
        let (all, _) = world.replay(Some(1)).expect("sound");
        let spare = *world.disk.segments.keys().last().expect("there is a spare");
        for first in 1..spare {
            let (found, resume) = world.replay(Some(first)).expect("sound");
            let rest: Vec<_> = all.iter().filter(|(_, place)| place.segment >= first).cloned().collect();
            assert_eq!(found, rest);
            assert_eq!(resume.flush, world.journal.next_flush());
        }
        // Everything before the spare is covered by checkpoints: numbering begins anew there, and a later replay may
        // begin before it or at it.
        let (found, resume) = world.replay(Some(spare)).expect("sound");
        assert!(found.is_empty());
        assert_eq!(resume.position, Position { segment: spare, offset: 0 });
        assert!(resume.flush > world.journal.next_flush());
        world.promised = 0;
        world.journal = Journal::resume(world.geometry, &world.limits, world.durability, resume);
        let before = world.history.len();
        for _ in 0..20 {
            world.turn();
            world.answer_segment();
            world.answer_write();
        }
        settle(&mut world);
        let (from_spare, _) = world.replay(Some(spare)).expect("sound");
        assert_eq!(from_spare.len(), world.history.len() - before);
        let (found, _) = world.replay(Some(1)).expect("sound");
        assert_eq!(found.len(), world.history.len());
    }
}
