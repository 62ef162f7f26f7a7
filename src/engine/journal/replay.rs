//! The journal read back at a start: segments in, records out, and where writing goes on. Decides where the log ends and
//! what is damage; why that can be told is in [`crate::format::record`]. Does not repair and does not read files.

use std::fmt;

use crate::engine::shard::JournalGeometry;
use crate::format::record::{Batch, Position, Record, read_batch};

/// Largest number of batches in a segment: 1 GiB of 512-byte blocks. Gives every segment its own range of flush numbers
/// for the case that nothing before it can be asked; see [`first_flush_of`].
const BATCHES_PER_SEGMENT_MAX: u64 = 1 << 21;

/// The lowest flush number that no segment before this one can have used.
const fn first_flush_of(segment: u32) -> u64 {
    (segment as u64).saturating_sub(1) * BATCHES_PER_SEGMENT_MAX + 1
}

/// Where writing goes on after a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Where the next batch goes.
    pub position: Position,
    /// Its number.
    pub flush: u64,
    /// Checksum of the batch before it.
    pub link: u32,
    /// The oldest segment that exists. The replay knows only of those it was given: correct it if there are older ones.
    pub first_segment: u32,
    /// Every segment up to this one can be written to. 0: not even the first exists.
    pub ready_segment: u32,
}

/// The journal contradicts itself: what was promised to be on disk is not there. Never repaired by guessing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalDamage {
    /// Where the log cannot be followed any further.
    pub position: Position,
    /// What is wrong.
    pub what: DamageKind,
}

/// How it contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Nothing usable is there, although a later batch says that it was on disk.
    Hole {
        /// Where that later batch lies.
        witness: Position,
        /// Its number.
        flush: u64,
    },
    /// The segment's file is missing between two others.
    SegmentMissing,
}

impl fmt::Display for JournalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal is damaged at {}: ", self.position)?;
        match self.what {
            DamageKind::Hole { witness, flush } => write!(
                f,
                "no valid batch begins there, but batch {flush} at {witness} was written after it was on disk"
            ),
            DamageKind::SegmentMissing => {
                write!(f, "the segment's file is missing, but there are later ones")
            }
        }
    }
}

/// The reading side: segments in, records out. Give it every segment file from the first that is needed to the last
/// that exists, in order; the last ones are usually prepared and empty.
///
/// ```text
/// following ──(the log ends, or a segment begins with nothing that continues it)──► ended ──► finish
///     └────────────────── a batch further on that says the end was on disk ──────────► damage
/// ```
#[derive(Debug)]
pub struct Replay {
    geometry: JournalGeometry,
    first_segment: Option<u32>,
    last_segment: u32,
    /// Number and checksum of the last batch taken.
    last: Option<(u64, u32)>,
    /// Behind the last batch taken.
    end: Position,
    /// The log ended before the last segment given.
    ended: bool,
    /// The first segment behind the end that holds batches which are not part of the log.
    leftover: Option<u32>,
}

impl Replay {
    /// Nothing read yet.
    #[must_use]
    pub fn new(geometry: JournalGeometry) -> Replay {
        let end = Position { segment: 1, offset: 0 };
        Replay { geometry, first_segment: None, last_segment: 0, last: None, end, ended: false, leftover: None }
    }

    /// Reads the next segment; `sink` gets each record with its place (of the data for entries). `bytes` may be shorter
    /// than a segment: the rest counts as empty.
    ///
    /// # Errors
    /// What is damaged and where. Records given to `sink` before are good, but the log must not be gone on with.
    pub fn segment(
        &mut self,
        segment: u32,
        bytes: &[u8],
        sink: &mut dyn FnMut(Record<'_>, Position),
    ) -> Result<(), JournalDamage> {
        if self.first_segment.is_none() {
            self.first_segment = Some(segment);
            self.end = Position { segment, offset: 0 };
        } else if segment != self.last_segment + 1 {
            let position = Position { segment: self.last_segment + 1, offset: 0 };
            return Err(JournalDamage { position, what: DamageKind::SegmentMissing });
        }
        self.last_segment = segment;
        let mut at = 0;
        while !self.ended {
            let Some(batch) = self.continuing(segment, bytes, at) else {
                break;
            };
            for (record, place) in batch.records() {
                sink(record, position(segment, at + place));
            }
            self.last = Some((batch.header.flush, batch.crc));
            at += batch.length().next_multiple_of(self.geometry.block_bytes as usize);
            self.end = position(segment, at);
        }
        self.ended |= at == 0;
        self.search(segment, bytes, at)
    }

    /// Everything is read: where writing goes on.
    #[must_use]
    pub fn finish(self) -> ResumePoint {
        let (flush, link) = match self.last {
            Some((flush, link)) => (flush + 1, link),
            None => (first_flush_of(self.end.segment), 0),
        };
        // Leftovers could be taken for the log's own by a later replay that begins right at their segment. So the
        // segment is made anew before it is used.
        let ready_segment = self.leftover.map_or(self.last_segment, |leftover| leftover - 1);
        ResumePoint { position: self.end, flush, link, first_segment: self.first_segment.unwrap_or(1), ready_segment }
    }

    /// The batch at `at` if it is the next of the log.
    fn continuing<'a>(&self, segment: u32, bytes: &'a [u8], at: usize) -> Option<Batch<'a>> {
        let batch = read_batch(bytes.get(at..)?, self.geometry.identity, segment).ok()?;
        let header = batch.header;
        let good = match self.last {
            // Nothing before it was given: it may have any number.
            None => at == 0,
            Some((flush, link)) => {
                let next = header.flush == flush + 1 && header.link == link;
                // A start that needed nothing before this segment, and found it empty, began numbering anew.
                let anew = at == 0 && header.link == 0 && header.flush == first_flush_of(segment);
                next || anew
            }
        };
        good.then_some(batch)
    }

    /// Looks behind the end of the log for a batch that says more had been on disk.
    fn search(&mut self, segment: u32, bytes: &[u8], from: usize) -> Result<(), JournalDamage> {
        for at in (from..bytes.len()).step_by(self.geometry.block_bytes as usize) {
            let Ok(batch) = read_batch(&bytes[at..], self.geometry.identity, segment) else {
                continue;
            };
            let header = batch.header;
            let missed = match self.last {
                Some((flush, _)) => header.synced > flush,
                None => header.synced + 1 == header.flush,
            };
            if missed {
                let what = DamageKind::Hole { witness: position(segment, at), flush: header.flush };
                return Err(JournalDamage { position: self.end, what });
            }
            if segment > self.end.segment && self.leftover.is_none() {
                self.leftover = Some(segment);
            }
        }
        Ok(())
    }
}

/// A place in a segment whose size is a u32.
fn position(segment: u32, at: usize) -> Position {
    Position { segment, offset: u32::try_from(at).expect("a segment's size is a u32") }
}
