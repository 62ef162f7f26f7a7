//! The fake disk of one shard: journal segments as byte vectors, checkpoints as whole files, and one write at a time that
//! is durable only when it has finished. A crash drops what had not finished, or leaves any subset of its 512-byte
//! sectors, with flipped bits among those that are left if the plan says so.
//!
//! The contract of faults: what had finished is never lost by a crash. Bits in finished data flip only through
//! [`Disk::damage`], which is a fault with its own expectation (recovery names it, or the message is reported damaged).
//! A full disk and an error report themselves; an error may leave a part of the write behind. A removed segment may be back
//! after a crash, because removing it is not synced; never with a hole before it.
//!
//! Deliberately not here: time. The world draws when a request finishes and calls [`Disk::complete`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jindou::engine::effect::JournalWrite;
use jindou::engine::event::{DiskFault, Event};
use jindou::engine::shard::JournalGeometry;
use jindou::ids::SlotId;

use crate::chance::Chance;
use crate::ledger::{self, Number};

/// What is written or not written as one.
pub const SECTOR_BYTES: usize = 512;

/// Something that a shard asked of its disk.
#[derive(Debug)]
pub enum Request {
    /// See `Effect::JournalWrite`.
    Write(JournalWrite),
    /// See `Effect::JournalSegment`.
    Segment(u32),
    /// See `Effect::Read`.
    Read {
        /// Named in the answer.
        ticket: u64,
        /// Which segment.
        segment: u32,
        /// Where.
        offset: u32,
        /// How much.
        length: u32,
    },
    /// See `Effect::Checkpoint`.
    Checkpoint(SlotId, Vec<u8>),
}

/// How a crash treats what was under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wounds {
    /// A write under way may leave some of its sectors.
    pub tear: bool,
    /// Bits may flip in what it leaves.
    pub flip: bool,
    /// Removed segments may be back.
    pub unremove: bool,
}

/// What the simulator itself does wrong with a write, for a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// None.
    Honest,
    /// Says that a write is done and never does it.
    Forget,
}

/// One shard's disk.
pub struct Disk {
    geometry: JournalGeometry,
    segments: BTreeMap<u32, Vec<u8>>,
    removed: BTreeMap<u32, Vec<u8>>,
    checkpoints: BTreeMap<SlotId, Vec<u8>>,
    writing: Option<JournalWrite>,
    making: BTreeSet<u32>,
    checkpointing: BTreeMap<SlotId, Vec<u8>>,
    /// Numbers of messages seen in journal writes that have finished, or were left whole by a crash.
    durable: BTreeSet<Number>,
    /// Writes are refused for lack of space.
    pub full: bool,
    /// Removed segments are used again as they are.
    pub recycles: bool,
    /// The next write fails with an I/O error after having done a part of it.
    pub fail_next: bool,
    /// Of a thousand reads: fail with an I/O error.
    pub read_error_permille: u32,
    /// For canaries.
    pub lie: Lie,
    /// Finished writes.
    pub writes: u64,
    /// Bytes of those.
    pub bytes_written: u64,
    /// Requests refused or failed on purpose.
    pub refusals: u64,
    /// Writes that a crash or an error cut.
    pub torn: u64,
    /// Segments removed.
    pub trimmed: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

impl Disk {
    /// An empty one.
    pub fn new(geometry: JournalGeometry) -> Disk {
        Disk {
            geometry,
            segments: BTreeMap::new(),
            removed: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            writing: None,
            making: BTreeSet::new(),
            checkpointing: BTreeMap::new(),
            durable: BTreeSet::new(),
            full: false,
            recycles: false,
            fail_next: false,
            read_error_permille: 0,
            lie: Lie::Honest,
            writes: 0,
            bytes_written: 0,
            refusals: 0,
            torn: 0,
            trimmed: 0,
            read_errors: 0,
        }
    }

    /// What is on it, on another one.
    pub fn copy(&self) -> Disk {
        let (segments, checkpoints) = (self.segments.clone(), self.checkpoints.clone());
        Disk { segments, checkpoints, durable: self.durable.clone(), ..Disk::new(self.geometry) }
    }

    /// Another one, empty, is in its place. What was on it was there when it counted: an acknowledgement may be on its way, and whoever leads may have
    /// been told already.
    pub fn lose(&mut self, geometry: JournalGeometry) {
        *self = Disk { durable: std::mem::take(&mut self.durable), ..Disk::new(geometry) };
    }

    /// Takes a request; it is under way until [`Disk::complete`].
    ///
    /// # Panics
    /// When the engine breaks its side of the contract: two writes at once, an unaligned one, one outside of its segment.
    pub fn begin(&mut self, request: &Request) {
        match request {
            Request::Write(write) => {
                assert!(self.writing.is_none(), "one journal write at a time");
                let block = self.geometry.block_bytes as usize;
                assert!(
                    (write.offset as usize).is_multiple_of(block),
                    "journal write at {} is not aligned",
                    write.offset
                );
                assert!(!write.bytes.is_empty(), "journal write of nothing");
                assert!(write.bytes.len() % block == 0, "journal write of {} bytes", write.bytes.len());
                let segment = self.segments.get(&write.segment);
                let segment = segment.unwrap_or_else(|| panic!("journal write to absent segment {}", write.segment));
                let end = write.offset as usize + write.bytes.len();
                assert!(end <= segment.len(), "journal write ends at {end}, behind its segment");
                self.writing = Some(JournalWrite {
                    flush: write.flush,
                    segment: write.segment,
                    offset: write.offset,
                    bytes: write.bytes.clone(),
                });
            }
            Request::Segment(segment) => {
                // One that exists may be asked for anew: what a former run left in it is to be made away with.
                assert!(self.making.insert(*segment), "segment {segment} was asked for twice");
            }
            Request::Checkpoint(slot, bytes) => {
                self.checkpointing.insert(*slot, bytes.clone());
            }
            Request::Read { segment, .. } => {
                assert!(self.segments.contains_key(segment), "read of segment {segment}, which was given up");
            }
        }
    }

    /// Finishes a request and says so as the engine will hear it.
    pub fn complete(&mut self, request: Request, chance: &mut Chance) -> Event {
        match request {
            Request::Write(write) => {
                self.writing = None;
                let result = self.finish_write(&write, chance);
                Event::JournalWritten { flush: write.flush, bytes: write.bytes, result }
            }
            Request::Segment(segment) => {
                self.making.remove(&segment);
                if self.full {
                    self.refusals += 1;
                    return Event::SegmentReady { segment, result: Err(DiskFault::Full) };
                }
                let made = self.make_segment(segment);
                self.segments.insert(segment, made);
                Event::SegmentReady { segment, result: Ok(()) }
            }
            Request::Checkpoint(slot, bytes) => {
                // One that was given up meanwhile stays away.
                let wanted = self.checkpointing.remove(&slot).is_some();
                if self.full {
                    self.refusals += 1;
                    return Event::CheckpointWritten { slot, result: Err(DiskFault::Full) };
                }
                if wanted {
                    self.checkpoints.insert(slot, bytes);
                }
                Event::CheckpointWritten { slot, result: Ok(()) }
            }
            Request::Read { ticket, segment, offset, length } => {
                let fails = chance.permille(self.read_error_permille);
                self.read_errors += u64::from(fails);
                let result = if fails { Err(DiskFault::Io(5)) } else { self.read(segment, offset, length) };
                Event::ReadDone { ticket, result }
            }
        }
    }

    /// Zeroes, or a removed segment under a new name. One that is asked for anew is never given back as it was.
    fn make_segment(&mut self, segment: u32) -> Vec<u8> {
        self.removed.remove(&segment);
        let old = if self.recycles { self.removed.pop_first() } else { None };
        old.map_or_else(|| vec![0; self.geometry.segment_bytes as usize], |(_, bytes)| bytes)
    }

    fn finish_write(&mut self, write: &JournalWrite, chance: &mut Chance) -> Result<(), DiskFault> {
        if self.full {
            self.refusals += 1;
            return Err(DiskFault::Full);
        }
        if std::mem::take(&mut self.fail_next) {
            self.refusals += 1;
            self.leave_sectors(write, Wounds { tear: true, flip: false, unremove: false }, chance);
            return Err(DiskFault::Io(5));
        }
        if self.lie == Lie::Forget {
            return Ok(());
        }
        let segment = self.segments.get_mut(&write.segment).expect("checked when it began");
        let from = write.offset as usize;
        segment[from..from + write.bytes.len()].copy_from_slice(&write.bytes);
        self.note_durable(write);
        self.writes += 1;
        self.bytes_written += write.bytes.len() as u64;
        Ok(())
    }

    /// Counts what a write held as durable, if all of it is there unharmed: it is one batch, which is believed whole or not
    /// at all.
    fn note_durable(&mut self, write: &JournalWrite) {
        let Some(segment) = self.segments.get(&write.segment) else { return };
        let (from, to) = (write.offset as usize, write.offset as usize + write.bytes.len());
        if segment[from..to] == write.bytes[..] {
            // A number may lie across the seam of two writes: look from a little before.
            let look_from = from.saturating_sub(ledger::NUMBER_TEXT_BYTES);
            ledger::find_numbers(&segment[look_from..to], &mut self.durable);
        }
    }

    /// Leaves what a crash or an error leaves of a write. If that is all of it, nobody was told, yet it is as durable as a
    /// finished one: the next run finds it, syncs it before it believes it, and may acknowledge it.
    fn leave_sectors(&mut self, write: &JournalWrite, wounds: Wounds, chance: &mut Chance) {
        let Some(segment) = self.segments.get_mut(&write.segment) else { return };
        self.torn += 1;
        // None, all, a prefix, or any subset: each as likely as the others.
        let style = chance.below(4);
        let sectors = write.bytes.len() / SECTOR_BYTES;
        let prefix = chance.below(sectors as u64 + 1) as usize;
        for sector in 0..sectors {
            let kept = match style {
                0 => false,
                1 => true,
                2 => sector < prefix,
                _ => chance.one_in(2),
            };
            if !kept {
                continue;
            }
            let from = sector * SECTOR_BYTES;
            let at = write.offset as usize + from;
            let new = &write.bytes[from..from + SECTOR_BYTES];
            // What was there before and is written again unchanged is finished data: its bits do not flip.
            let old = &segment[at..at + SECTOR_BYTES];
            let fresh: Vec<usize> = (0..SECTOR_BYTES).filter(|byte| old[*byte] != new[*byte]).collect();
            segment[at..at + SECTOR_BYTES].copy_from_slice(new);
            if wounds.flip && !fresh.is_empty() && chance.one_in(4) {
                segment[at + *chance.pick(&fresh)] ^= 1 << chance.below(8);
            }
        }
        self.note_durable(write);
    }

    fn read(&self, segment: u32, offset: u32, length: u32) -> Result<Bytes, DiskFault> {
        let bytes = self.segments.get(&segment).ok_or(DiskFault::Io(2))?;
        let from = (offset as usize).min(bytes.len());
        let to = (from + length as usize).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[from..to]))
    }

    /// Removes segments below `first`, as `Effect::JournalTrim` asks.
    pub fn trim(&mut self, first: u32) {
        let kept = self.segments.split_off(&first);
        self.trimmed += self.segments.len() as u64;
        self.removed.append(&mut self.segments);
        self.segments = kept;
        while self.removed.len() > 4 {
            self.removed.pop_first();
        }
    }

    /// The power goes.
    pub fn crash(&mut self, wounds: Wounds, chance: &mut Chance) {
        if let Some(write) = self.writing.take()
            && wounds.tear
        {
            self.leave_sectors(&write, wounds, chance);
        }
        for segment in std::mem::take(&mut self.making) {
            // Made under another name first, so it is there whole or not at all; never behind a gap.
            let next = self.segments.keys().next_back().is_none_or(|last| last + 1 == segment);
            if next && chance.one_in(2) {
                let made = self.make_segment(segment);
                self.segments.insert(segment, made);
            }
        }
        for (slot, bytes) in std::mem::take(&mut self.checkpointing) {
            if chance.one_in(2) {
                self.checkpoints.insert(slot, bytes);
            }
        }
        if wounds.unremove {
            self.unremove(chance);
        }
        self.fail_next = false;
    }

    fn unremove(&mut self, chance: &mut Chance) {
        let mut back = chance.below(self.removed.len() as u64 + 1);
        while back > 0 {
            let Some((segment, bytes)) = self.removed.pop_last() else { break };
            let joins = self.segments.keys().next().is_none_or(|first| segment + 1 == *first);
            if !joins {
                break;
            }
            self.segments.insert(segment, bytes);
            back -= 1;
        }
        self.removed.clear();
    }

    /// Flips one bit in finished data of a segment; says where, so that it can be mended.
    pub fn damage(&mut self, chance: &mut Chance) -> Option<Damage> {
        // The last finished write cannot be told from one that tore, so something must lie behind the damage.
        let last = self.segments.iter().rev().find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))?.0;
        let older: Vec<u32> = self.segments.range(..*last).map(|(segment, _)| *segment).collect();
        if older.is_empty() {
            return None;
        }
        let segment = *chance.pick(&older);
        let bytes = self.segments.get_mut(&segment)?;
        let used = bytes.iter().rposition(|byte| *byte != 0)?;
        let damage = Damage { segment, at: chance.below(used as u64 + 1) as usize, mask: 1 << chance.below(8) };
        bytes[damage.at] ^= damage.mask;
        Some(damage)
    }

    /// Undoes a damage, as a copy from a backup would.
    pub fn mend(&mut self, damage: Damage) {
        if let Some(bytes) = self.segments.get_mut(&damage.segment) {
            bytes[damage.at] ^= damage.mask;
        }
    }

    /// Journal segments in order.
    pub fn segments(&self) -> &BTreeMap<u32, Vec<u8>> {
        &self.segments
    }

    /// Every checkpoint that is there.
    pub fn checkpoints(&self) -> &BTreeMap<SlotId, Vec<u8>> {
        &self.checkpoints
    }

    /// A slot's checkpoint goes. Removing is synced before anything that follows from it.
    pub fn remove_checkpoint(&mut self, slot: SlotId) {
        self.checkpoints.remove(&slot);
        self.checkpointing.remove(&slot);
    }

    /// Whether a write that is on the disk whole, or was until the disk was lost, held this message.
    pub fn holds(&self, number: Number) -> bool {
        self.durable.contains(&number)
    }

    /// Whether something is under way that changes it.
    pub fn under_way(&self) -> Option<String> {
        let writing = self.writing.as_ref().map(|write| {
            let at = (write.segment, write.offset);
            format!("writes {} bytes at {at:?}", write.bytes.len())
        });
        let making = || self.making.first().map(|segment| format!("makes segment {segment}"));
        let checkpointing =
            || self.checkpointing.keys().next().map(|slot| format!("writes the checkpoint of slot {slot}"));
        writing.or_else(making).or_else(checkpointing)
    }
}

/// One flipped bit.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    /// In which segment.
    pub segment: u32,
    /// At which byte.
    pub at: usize,
    mask: u8,
}
