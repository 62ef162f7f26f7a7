//! A shard's journal: what is written together, when, and where. What a restart makes of it is in [`Replay`]. Every slot of the shard
//! appends here, so that a step's records are one write and one sync. Knows nothing of what the records mean, keeps no
//! entries (a slot remembers their [`Position`]s) and touches no file: it asks through effects and is told the outcome.
//! How bytes look, and why no crash can make old ones look new, is in [`crate::format::record`].
//!
//! ```text
//! append ──► open batch ──(full, or the segment's end, or it is its turn)──► closed batches ──► in flight ──► durable
//!                                                                              (in order)       │    ▲
//!                                                                                        fault  ▼    │ after 1 s: same
//!                                                                                              failed┘ bytes, same place
//!
//! next segment:  wanted ──JournalSegment──► asked ──ready──► there        asked ──fault──► refused ──1 s──► wanted
//! ```
//!
//! When it is an open batch's turn: with [`Durability::Fsync`] at once, unless the write before it carried several records. Then
//! more are on their way, and the disk rests as long as it has worked, so that they share a write: each costs a system call, an
//! interrupt and a wake-up. Who is alone never waits. With [`Durability::Memory`] nobody waits for the disk, and writes begin
//! some milliseconds apart. A full batch waits for neither.
//!
//! Two buffers in the usual case: one in flight, one being filled. Where a record lies is decided when it is appended,
//! because the place and the end of everything before it are known by then. So a batch is closed when the next record
//! would cross the segment's end or the largest wished size of a write, and another one is begun behind it.

use std::collections::VecDeque;
use std::time::Duration;

use super::effect::{Effect, Effects, JournalWrite};
use super::event::DiskFault;
use super::shard::{Durability, JournalGeometry};
use crate::format::record::{
    BATCH_HEADER_BYTES, BatchHeader, ENTRY_HEADER_BYTES, HARD_STATE_BYTES, MARK_BYTES, RECORD_ALIGN, begin_batch,
    begin_bytes, entry_bytes, push_begin, push_body, push_end, push_entry, push_hard_state, push_install, seal_batch,
};
pub use crate::format::record::{Position, Record};
use crate::ids::{ReplicaId, SlotId};
use crate::limits::Limits;
use crate::time::Instant;

#[cfg(test)]
mod crash_tests;
mod replay;
#[cfg(test)]
mod tests;

pub use replay::{DamageKind, JournalDamage, Replay, ResumePoint};

/// How long after a fault the disk is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Emptied buffers kept for the next batches: one in flight, one being filled, one between the two.
const BUFFERS_KEPT_MAX: usize = 3;

/// Largest data of one entry: what fits in a segment alone.
#[must_use]
pub const fn entry_data_bytes_max(geometry: &JournalGeometry) -> usize {
    geometry.segment_bytes as usize - BATCH_HEADER_BYTES - ENTRY_HEADER_BYTES - RECORD_ALIGN
}

/// A batch that is not in flight yet. Empty `bytes`: none.
#[derive(Debug)]
struct Pending {
    flush: u64,
    place: Position,
    records: u32,
    bytes: Vec<u8>,
}

/// What became of the write that was last asked for.
#[derive(Debug)]
enum Writing {
    /// Nothing in flight.
    Idle,
    /// Asked for at `since`, not answered; `again` after a fault.
    InFlight { flush: u64, place: Position, length: usize, shared: bool, since: Instant, again: bool },
    /// Answered with a fault; the same again from then on.
    Failed { flush: u64, place: Position, bytes: Vec<u8>, retry_at: Instant },
}

/// What became of the segment that was last asked for.
#[derive(Clone, Copy, Debug)]
enum Preparing {
    /// Nothing asked.
    Idle,
    /// Asked for, not answered; `again` after a fault.
    Asked { again: bool },
    /// Answered with a fault; asked again from then on.
    Refused { retry_at: Instant },
}

/// The writing side.
#[derive(Debug)]
pub struct Journal {
    geometry: JournalGeometry,
    flush_bytes_max: usize,
    write_rest_max: Duration,
    memory_write_every: Duration,
    durability: Durability,
    /// Being filled.
    open: Pending,
    /// Sealed, in order, waiting for the write before them or for their segment.
    closed: VecDeque<Pending>,
    writing: Writing,
    /// Until then the disk rests, and an open batch gathers.
    rest_until: Instant,
    preparing: Preparing,
    /// The number of the open batch, or of the next one begun.
    next_flush: u64,
    /// The last one answered well.
    written_flush: u64,
    /// Where the last one lies that was answered well: a log cut short by a crash goes on there at the earliest.
    written: Position,
    /// All up to this one were on disk when this process began.
    replayed_flush: u64,
    /// Checksum of the last sealed batch.
    link: u32,
    /// Where the open batch lies, or where the next one may begin.
    head: Position,
    /// The oldest segment that exists.
    first_segment: u32,
    /// Every segment up to this one exists.
    ready_segment: u32,
    /// Bytes of batches that are not written yet.
    pending_bytes: usize,
    /// Emptied buffers.
    buffers: Vec<Vec<u8>>,
}

impl Journal {
    /// Goes on where a replay ended. A new journal is the replay of nothing.
    #[must_use]
    pub fn resume(geometry: JournalGeometry, limits: &Limits, durability: Durability, from: ResumePoint) -> Journal {
        assert!(geometry.block_bytes.is_power_of_two() && (512..=4096).contains(&geometry.block_bytes));
        assert!(geometry.segment_bytes.is_multiple_of(geometry.block_bytes));
        assert!(geometry.segment_bytes > geometry.block_bytes && geometry.segment_bytes <= 1 << 30);
        assert!(from.position.offset.is_multiple_of(geometry.block_bytes), "a batch begins on a block");
        Journal {
            geometry,
            flush_bytes_max: limits.flush_bytes_max,
            write_rest_max: limits.write_rest_max,
            memory_write_every: limits.memory_write_every,
            durability,
            open: Pending { flush: from.flush, place: from.position, records: 0, bytes: Vec::new() },
            closed: VecDeque::new(),
            writing: Writing::Idle,
            rest_until: Instant(0),
            preparing: Preparing::Idle,
            next_flush: from.flush,
            written_flush: from.flush - 1,
            written: from.position,
            replayed_flush: from.flush - 1,
            link: from.link,
            head: from.position,
            first_segment: from.first_segment,
            ready_segment: from.ready_segment,
            pending_bytes: 0,
            buffers: Vec::new(),
        }
    }

    /// Appends a raft entry and says where the first byte of `data` will lie.
    ///
    /// `data` must not be longer than [`entry_data_bytes_max`]: whoever makes entries ends them before ([`Limits::entry_bytes_max`]), and what other
    /// nodes send is not taken when it is longer.
    pub fn append_entry(&mut self, slot: SlotId, term: u64, index: u64, kind: u8, data: &[u8]) -> Position {
        assert!(data.len() <= entry_data_bytes_max(&self.geometry), "an entry must fit in a segment");
        self.make_room(entry_bytes(data.len()));
        let before = self.open.bytes.len();
        let start = push_entry(&mut self.open.bytes, slot, term, index, kind, data);
        self.count_record(before);
        self.at(start)
    }

    /// Appends what raft must remember besides entries.
    pub fn append_hard_state(&mut self, slot: SlotId, term: u64, vote: u64, commit: u64) {
        self.make_room(HARD_STATE_BYTES);
        let before = self.open.bytes.len();
        push_hard_state(&mut self.open.bytes, slot, term, vote, commit);
        self.count_record(before);
    }

    /// Appends the beginning of a replica's life. Everything that follows for this slot is its own, up to its end.
    pub fn append_begin(&mut self, slot: SlotId, depth: u8, replica: ReplicaId, founders: &[ReplicaId]) {
        self.make_room(begin_bytes(founders.len()));
        let before = self.open.bytes.len();
        push_begin(&mut self.open.bytes, slot, depth, replica, founders);
        self.count_record(before);
    }

    /// Appends the end of a replica's life. Its checkpoint may go when this is written and not before: without a checkpoint, what
    /// lies here of a life that has not ended is damage.
    pub fn append_end(&mut self, slot: SlotId, replica: ReplicaId) {
        self.make_room(MARK_BYTES);
        let before = self.open.bytes.len();
        push_end(&mut self.open.bytes, slot, replica);
        self.count_record(before);
    }

    /// Appends message bodies that came with a snapshot and says where the first byte of `data` will lie. No longer than
    /// [`entry_data_bytes_max`].
    pub fn append_body(&mut self, slot: SlotId, replica: ReplicaId, data: &[u8]) -> Position {
        assert!(data.len() <= entry_data_bytes_max(&self.geometry), "bodies must fit in a segment");
        self.make_room(entry_bytes(data.len()));
        let before = self.open.bytes.len();
        let start = push_body(&mut self.open.bytes, slot, replica, data);
        self.count_record(before);
        self.at(start)
    }

    /// Appends that a checkpoint with the state up to `index` is to replace the log so far. It counts when that checkpoint is there,
    /// and so is to be written first.
    pub fn append_install(&mut self, slot: SlotId, replica: ReplicaId, index: u64) {
        self.make_room(MARK_BYTES);
        let before = self.open.bytes.len();
        push_install(&mut self.open.bytes, slot, replica, index);
        self.count_record(before);
    }

    /// The number of the flush that carries what was appended last, or what is appended next when nothing waits. Ask
    /// after appending: an append may close a batch and begin the next.
    #[must_use]
    pub fn next_flush(&self) -> u64 {
        self.next_flush
    }

    /// What lies before this place is on disk and can be read back, whatever durability was asked for.
    #[must_use]
    pub fn written(&self) -> Position {
        self.written
    }

    /// Everything up to this flush is on disk; with [`Durability::Memory`], everything that was accepted.
    #[must_use]
    pub fn durable_flush(&self) -> u64 {
        match self.durability {
            Durability::Fsync => self.written_flush,
            Durability::Memory => self.next_flush,
        }
    }

    /// Everything up to this flush is on disk.
    #[must_use]
    pub fn written_flush(&self) -> u64 {
        self.written_flush
    }

    /// Asks for what is due: the next write when none is in flight, the next segment when there is no spare one. To be
    /// called at the end of each step.
    pub fn flush(&mut self, now: Instant, effects: &mut Effects) {
        self.ask_for_segment(now, effects);
        match &mut self.writing {
            Writing::InFlight { .. } => return,
            Writing::Failed { flush, place, bytes, retry_at } => {
                if now >= *retry_at {
                    let batch = Pending { flush: *flush, place: *place, records: 0, bytes: std::mem::take(bytes) };
                    self.write(now, batch, true, effects);
                }
                return;
            }
            Writing::Idle => {}
        }
        if self.open_due_at().is_some_and(|due| due <= now) {
            self.close();
        }
        let due = |batch: &Pending| batch.place.segment <= self.ready_segment;
        if self.closed.front().is_some_and(due)
            && let Some(batch) = self.closed.pop_front()
        {
            self.write(now, batch, false, effects);
        }
    }

    /// A write has finished. `bytes` are those of the write: kept for the next batch, or for trying again.
    pub fn handle_written(&mut self, now: Instant, flush: u64, bytes: Vec<u8>, result: Result<(), DiskFault>) {
        let Writing::InFlight { flush: asked, place, length, since, shared, .. } = self.writing else {
            panic!("the answer to a journal write that was not asked for: flush {flush}");
        };
        assert_eq!(asked, flush, "writes are answered one by one");
        assert_eq!(length, bytes.len(), "a write's bytes come back as they were");
        match result {
            Ok(()) => {
                assert_eq!(self.written_flush + 1, flush, "flushes become durable in order");
                self.written_flush = flush;
                self.written = Position { offset: place.offset + length as u32, ..place };
                self.pending_bytes -= length;
                self.writing = Writing::Idle;
                if shared && matches!(self.durability, Durability::Fsync) {
                    self.rest_until = (now + now.since(since)).min(since + self.write_rest_max);
                }
                self.keep_buffer(bytes);
            }
            Err(_) => self.writing = Writing::Failed { flush, place, bytes, retry_at: now + RETRY_AFTER },
        }
    }

    /// A segment that was asked for is there, or cannot be made now.
    pub fn handle_segment_ready(&mut self, now: Instant, segment: u32, result: Result<(), DiskFault>) {
        assert!(matches!(self.preparing, Preparing::Asked { .. }), "a segment that was not asked for: {segment}");
        assert_eq!(segment, self.ready_segment + 1, "segments are made in order");
        self.preparing = match result {
            Ok(()) => {
                self.ready_segment = segment;
                Preparing::Idle
            }
            Err(_) => Preparing::Refused { retry_at: now + RETRY_AFTER },
        };
    }

    /// When [`Journal::flush`] has something to write or to try again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let write = match self.writing {
            Writing::Failed { retry_at, .. } => Some(retry_at),
            Writing::Idle => self.open_due_at(),
            Writing::InFlight { .. } => None,
        };
        let segment = match self.preparing {
            Preparing::Refused { retry_at } => Some(retry_at),
            Preparing::Idle | Preparing::Asked { .. } => None,
        };
        match (write, segment) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    /// False from a fault until the disk takes the same again. A retry under way still counts as a fault.
    #[must_use]
    pub fn writable(&self) -> bool {
        let write_faulty = matches!(self.writing, Writing::Failed { .. } | Writing::InFlight { again: true, .. });
        let segment_faulty = matches!(self.preparing, Preparing::Refused { .. } | Preparing::Asked { again: true });
        !write_faulty && !segment_faulty
    }

    /// Bytes that are appended and not written yet, those in flight included.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Lets go of the segments below `first_needed`. Those that are still to be written stay in any case, and so does the
    /// last file: a restart without any would number segments from the beginning.
    pub fn trim(&mut self, first_needed: u32, effects: &mut Effects) {
        let first = first_needed.min(self.written_end().segment).min(self.ready_segment);
        if first > self.first_segment {
            self.first_segment = first;
            effects.push(Effect::JournalTrim { first });
        }
    }

    /// The oldest segment that exists and the one that takes the next record.
    #[must_use]
    pub fn segments(&self) -> (u32, u32) {
        (self.first_segment, self.head.segment)
    }

    /// Where the log would go on at the earliest after a crash now: what is appended later never lies in a segment before it,
    /// even if everything that is not on disk is lost and the place of it is used again.
    #[must_use]
    pub fn written_segment(&self) -> u32 {
        self.written.segment
    }

    /// The end of everything appended so far: nothing appended later lies before it.
    #[must_use]
    pub fn position(&self) -> Position {
        let open = u32::try_from(self.open.bytes.len()).expect("a batch is smaller than a segment");
        Position { segment: self.head.segment, offset: self.head.offset + open }
    }

    /// Asserts what must hold between calls.
    pub fn check_invariants(&self) {
        assert!(self.first_segment <= self.head.segment.max(1));
        assert!(self.head.offset <= self.geometry.segment_bytes);
        assert!(self.head.offset.is_multiple_of(self.geometry.block_bytes));
        assert_eq!(self.open.records > 0, self.open.bytes.len() > BATCH_HEADER_BYTES);
        let in_flight = match &self.writing {
            Writing::Idle => 0,
            Writing::InFlight { length, .. } => *length,
            Writing::Failed { bytes, .. } => bytes.len(),
        };
        let closed: usize = self.closed.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(self.pending_bytes, in_flight + closed + self.open.bytes.len());
        let unwritten = u64::from(in_flight > 0) + self.closed.len() as u64;
        assert_eq!(self.written_flush + unwritten + 1, self.next_flush, "no number is skipped");
    }

    /// Sees to it that the open batch can take so many bytes more without crossing its bounds.
    fn make_room(&mut self, record_bytes: usize) {
        let block = self.geometry.block_bytes as usize;
        let segment = self.geometry.segment_bytes as usize;
        if self.open.records > 0 {
            let after = self.open.bytes.len() + record_bytes;
            let fits = self.open.place.offset as usize + after.next_multiple_of(block) <= segment;
            if fits && after <= self.flush_bytes_max {
                return;
            }
            self.close();
        }
        let whole = (BATCH_HEADER_BYTES + record_bytes).next_multiple_of(block);
        assert!(whole <= segment, "a record must fit in a segment");
        if self.head.offset as usize + whole > segment {
            let next = self.head.segment.checked_add(1).expect("four thousand million segments are never reached");
            self.head = Position { segment: next, offset: 0 };
        }
        let mut bytes = self.buffers.pop().unwrap_or_default();
        begin_batch(&mut bytes);
        self.pending_bytes += bytes.len();
        self.open = Pending { flush: self.next_flush, place: self.head, records: 0, bytes };
    }

    /// After a record was pushed to the open batch, which was `before` bytes long.
    fn count_record(&mut self, before: usize) {
        self.pending_bytes += self.open.bytes.len() - before;
        self.open.records += 1;
    }

    /// A place in the open batch as a place in the journal.
    fn at(&self, start: usize) -> Position {
        let start = u32::try_from(start).expect("a batch is smaller than a segment");
        Position { segment: self.open.place.segment, offset: self.open.place.offset + start }
    }

    /// Seals the open batch. The next one gets the next number and begins behind it.
    fn close(&mut self) {
        assert!(self.open.records > 0, "an empty batch is never closed");
        let flush = self.next_flush;
        let synced = match self.durability {
            Durability::Fsync => flush - 1,
            Durability::Memory => self.replayed_flush,
        };
        let place = self.open.place;
        let header =
            BatchHeader { identity: self.geometry.identity, segment: place.segment, flush, synced, link: self.link };
        let mut bytes = std::mem::take(&mut self.open.bytes);
        self.pending_bytes -= bytes.len();
        self.link = seal_batch(&mut bytes, &header, self.open.records, self.geometry.block_bytes);
        self.pending_bytes += bytes.len();
        let length = u32::try_from(bytes.len()).expect("a batch is smaller than a segment");
        self.head.offset += length;
        assert!(self.head.offset <= self.geometry.segment_bytes, "a batch never crosses its segment's end");
        self.closed.push_back(Pending { flush, place, records: self.open.records, bytes });
        self.open.records = 0;
        self.next_flush += 1;
    }

    fn write(&mut self, now: Instant, batch: Pending, again: bool, effects: &mut Effects) {
        let Pending { flush, place, records, bytes } = batch;
        self.writing = Writing::InFlight { flush, place, length: bytes.len(), shared: records > 1, since: now, again };
        if matches!(self.durability, Durability::Memory) {
            self.rest_until = now + self.memory_write_every;
        }
        let Position { segment, offset } = place;
        effects.push(Effect::JournalWrite(JournalWrite { flush, segment, offset, bytes }));
    }

    /// When the open batch is to be closed and written, if nothing but time is in its way.
    fn open_due_at(&self) -> Option<Instant> {
        let in_turn = matches!(self.writing, Writing::Idle) && self.closed.is_empty();
        let there = self.open.records > 0 && self.open.place.segment <= self.ready_segment;
        (in_turn && there).then_some(self.rest_until)
    }

    /// There is always to be one segment ready behind the one being filled.
    fn ask_for_segment(&mut self, now: Instant, effects: &mut Effects) {
        let again = match self.preparing {
            Preparing::Asked { .. } => return,
            Preparing::Refused { retry_at } if now < retry_at => return,
            Preparing::Refused { .. } => true,
            Preparing::Idle => false,
        };
        if self.ready_segment <= self.head.segment {
            self.preparing = Preparing::Asked { again };
            effects.push(Effect::JournalSegment { segment: self.ready_segment + 1 });
        }
    }

    /// Where the oldest batch lies that is not written: everything before it can be read back.
    #[must_use]
    pub fn written_end(&self) -> Position {
        match &self.writing {
            Writing::InFlight { place, .. } | Writing::Failed { place, .. } => *place,
            Writing::Idle => self.closed.front().map_or(self.head, |batch| batch.place),
        }
    }

    /// Empties a buffer and keeps it, unless it is one of a burst: memory at rest stays bounded.
    fn keep_buffer(&mut self, mut bytes: Vec<u8>) {
        let block = self.geometry.block_bytes as usize;
        if self.buffers.len() < BUFFERS_KEPT_MAX && bytes.capacity() <= 2 * self.flush_bytes_max.max(block) {
            bytes.clear();
            self.buffers.push(bytes);
        }
    }
}
