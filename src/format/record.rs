//! What a journal segment holds: batches of records, as bytes. Pure layout: building a batch in a buffer, and reading one
//! out of a slice without trusting a single byte of it. Does not decide where a batch goes, which batches of a segment
//! belong to the log, or when anything is written: that is `engine::journal`.
//!
//! ```text
//! segment file (a fixed number of bytes, each written once before use)
//! +---------+-------------------+---------+------+-----------------------------+
//! | batch 7 | batch 8           | batch 9 | 10   | zeroes or a former segment  |
//! +---------+-------------------+---------+------+-----------------------------+
//! ^ each batch begins on a block                 ^ the next batch goes here
//!
//! batch (one write, one sync)
//! +-------------+----------+----------+-----+----------+----------------------+
//! | header, 48  | record 1 | record 2 | ... | record n | zeroes to next block |
//! +-------------+----------+----------+-----+----------+----------------------+
//!
//! header, little endian
//!  0 magic u32      4 crc32 u32 (of byte 8 to the end of the last record)
//!  8 body u32      12 records u32        bytes of the records; how many
//! 16 identity u64                        which journal; random, never leaves the node
//! 24 segment u32   28 link u32           where it lies; crc32 of the batch before it
//! 32 flush u64     40 synced u64         its number; the highest number that was on disk before this write began
//!
//! record, begins at a multiple of 8
//!  entry       0 tag=1 u8   1 kind u8   2 slot u16   4 data u32   8 term u64   16 index u64   24 data, zeroes to 8
//!  hard state  0 tag=2 u8   1 zero u8   2 slot u16   4 zero u32   8 term u64   16 vote u64    24 commit u64
//!  begin       0 tag=3 u8   1 depth u8  2 slot u16   4 count u32  8 replica u64  16 zero u64  24 count founders, u64 each
//!  end         0 tag=4 u8   1 zero u8   2 slot u16   4 zero u32   8 replica u64  16 zero u64
//!  body        0 tag=5 u8   1 zero u8   2 slot u16   4 data u32   8 replica u64  16 zero u64  24 data, zeroes to 8
//!  install     0 tag=6 u8   1 zero u8   2 slot u16   4 zero u32   8 replica u64  16 index u64
//! ```
//!
//! The life of a replica in a journal is what lies between its begin and its end; numbers of replicas are never used twice. Entries
//! and hard states carry no replica: they belong to the life they lie in. An install says that a checkpoint with the state up to
//! `index` is about to replace the log: once it is there, entries of this life before this record count no more.
//!
//! # Commit
//! A batch counts when all of it is on the medium. There is no second place that says so: the checksum is the commit
//! mark, so one write and one sync are enough. A batch never rewrites a block that holds another batch; so a write
//! that tears can only hurt what was not promised yet. The price is up to one block of padding for each sync.
//!
//! # Rules of reading
//! A slice holds a *valid* batch when magic, identity, segment, lengths, checksum and every record are right. It
//! *continues* the log when, besides, its number is one above the last and its link is the last one's checksum. The
//! links make a chain: the log's tail says which bytes may follow it, and no others can.
//!
//! # Failure cases
//! 1. *Power is cut during a write.* Any subset of the sectors is new, the rest is what was there. The checksum is
//!    wrong: the log ends before it. Nothing in it was promised.
//! 2. *Power is cut after the write and before its answer.* The batch is valid and is taken. It was not promised, but
//!    nothing speaks against it either.
//! 3. *The place of a torn batch is used again.* The new batch overwrites the header block. If it is shorter, blocks of
//!    the torn one lie behind it; none of them can be valid, since a client that wanted to plant a batch in its payload
//!    would have to know `identity`.
//! 4. *A segment is a recycled file.* Its old batches carry a lower segment number: not valid here.
//! 5. *Writes without sync (`durability = "memory"`), then a power cut.* Batch 9 may be lost and 10 and 11 be there. All
//!    of them say `synced` = 8: nobody promised 9, so the log ends before it. Batches 10 and 11 stay on disk, but the
//!    next run's batch 9 has another checksum than the lost one, so the old 10 does not link to it. In later segments,
//!    where a segment's first batch may be read without the one before it, such leftovers are made away with before
//!    the segment is used (`engine::journal` asks for it anew).
//! 6. *A bit flips in a batch that was promised, and later batches are there.* One of those says `synced` at or above
//!    the flipped one's number. That is corruption: an error with segment and offset, never a shorter log.
//! 7. *A bit flips in the very last batch.* Cannot be told from case 1; the log ends before it. This is the one
//!    promise a single node cannot keep on a medium that forgets; replicas do.
//! 8. *A batch was written to the wrong place, or a write was swallowed.* Link and number do not match: as case 6.
//!
//! # What is assumed of the medium
//! A sync that succeeded means that the bytes are there after a power cut. A write touches no sector outside its range
//! (so the block is the physical sector, 4096 bytes, unless the device is known to be finer). A bad read fails or
//! returns bytes whose checksum is wrong.

use std::fmt;

use crate::ids::{ReplicaId, SlotId};

/// First bytes of every batch.
pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"jdB\x01");

/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 48;

/// Bytes of an entry before its data; the other records with something behind the head have one as long.
pub const ENTRY_HEADER_BYTES: usize = 24;

/// Bytes of a hard state.
pub const HARD_STATE_BYTES: usize = 32;

/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;

const TAG_ENTRY: u8 = 1;
const TAG_HARD_STATE: u8 = 2;
const TAG_BEGIN: u8 = 3;
const TAG_END: u8 = 4;
const TAG_BODY: u8 = 5;
const TAG_INSTALL: u8 = 6;

/// One byte of the journal, by segment and offset. Ordered as the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which segment.
    pub segment: u32,
    /// Where in it, in bytes.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.segment, self.offset)
    }
}

/// One thing in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry of a slot's raft log. One with an index that was there before replaces it and all above it.
    Entry {
        /// Whose.
        slot: SlotId,
        /// Raft's term.
        term: u64,
        /// Raft's index.
        index: u64,
        /// What raft says of `data`; opaque here.
        kind: u8,
        /// Opaque here.
        data: &'a [u8],
    },
    /// What raft must remember besides entries. The last one counts.
    HardState {
        /// Whose.
        slot: SlotId,
        /// Current term.
        term: u64,
        /// Voted for in this term; 0 is nobody.
        vote: u64,
        /// Known committed index, or 0: a commit index is found again from the log, except one that covers a change of members.
        commit: u64,
    },
    /// A replica's life begins here.
    Begin {
        /// Whose.
        slot: SlotId,
        /// Bits of the hash that name the slot.
        depth: u8,
        /// Which replica.
        replica: ReplicaId,
        /// Who founds the group; nobody when the replica waits for a snapshot.
        founders: Founders<'a>,
    },
    /// A replica's life ends here: it is of no use any more.
    End {
        /// Whose.
        slot: SlotId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// Message bodies that came with a snapshot; found by their place.
    Body {
        /// Whose.
        slot: SlotId,
        /// For which replica.
        replica: ReplicaId,
        /// Opaque here.
        data: &'a [u8],
    },
    /// A checkpoint with the state up to `index` follows, if the disk holds out: with it there, the log begins anew here.
    Install {
        /// Whose.
        slot: SlotId,
        /// Which replica.
        replica: ReplicaId,
        /// Last entry that the state covers.
        index: u64,
    },
}

/// The founders in a begin record, not copied out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founders<'a>(&'a [u8]);

impl Founders<'_> {
    /// Each in order.
    pub fn iter(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let (founders, _) = self.0.as_chunks::<8>();
        founders.iter().map(|founder| ReplicaId(u64::from_le_bytes(*founder)))
    }
}

impl Record<'_> {
    /// Whose it is.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        match *self {
            Record::Entry { slot, .. }
            | Record::HardState { slot, .. }
            | Record::Begin { slot, .. }
            | Record::End { slot, .. }
            | Record::Body { slot, .. }
            | Record::Install { slot, .. } => slot,
        }
    }
}

/// What a batch says of itself, beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Which journal.
    pub identity: u64,
    /// Which segment it was made for.
    pub segment: u32,
    /// Its number; rises by one.
    pub flush: u64,
    /// The highest number that was certainly on disk before this one was written.
    pub synced: u64,
    /// Checksum of the batch before it; 0 for the first of a journal.
    pub link: u32,
}

/// Bytes that an entry with so much data takes.
#[must_use]
pub const fn entry_bytes(data_bytes: usize) -> usize {
    (ENTRY_HEADER_BYTES + data_bytes).next_multiple_of(RECORD_ALIGN)
}

/// Bytes that a begin with so many founders takes.
#[must_use]
pub const fn begin_bytes(founders: usize) -> usize {
    ENTRY_HEADER_BYTES + 8 * founders
}

/// Bytes of an end or an install.
pub const MARK_BYTES: usize = ENTRY_HEADER_BYTES;

/// Makes room for the header in an empty buffer.
pub fn begin_batch(bytes: &mut Vec<u8>) {
    assert!(bytes.is_empty(), "a batch begins in an empty buffer");
    bytes.resize(BATCH_HEADER_BYTES, 0);
}

/// Appends an entry and returns where its data begins, counted from the batch's first byte.
pub fn push_entry(bytes: &mut Vec<u8>, slot: SlotId, term: u64, index: u64, kind: u8, data: &[u8]) -> usize {
    assert!(bytes.len() >= BATCH_HEADER_BYTES && bytes.len().is_multiple_of(RECORD_ALIGN));
    let data_bytes = u32::try_from(data.len()).expect("an entry is smaller than a segment, whose size is a u32");
    bytes.reserve(entry_bytes(data.len()));
    bytes.push(TAG_ENTRY);
    bytes.push(kind);
    bytes.extend_from_slice(&slot.0.to_le_bytes());
    bytes.extend_from_slice(&data_bytes.to_le_bytes());
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    let start = bytes.len();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
    start
}

/// Appends a hard state and returns where it begins, counted from the batch's first byte.
pub fn push_hard_state(bytes: &mut Vec<u8>, slot: SlotId, term: u64, vote: u64, commit: u64) -> usize {
    assert!(bytes.len() >= BATCH_HEADER_BYTES && bytes.len().is_multiple_of(RECORD_ALIGN));
    let start = bytes.len();
    bytes.extend_from_slice(&[TAG_HARD_STATE, 0]);
    bytes.extend_from_slice(&slot.0.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.extend_from_slice(&vote.to_le_bytes());
    bytes.extend_from_slice(&commit.to_le_bytes());
    start
}

/// Appends a begin and returns where it lies, counted from the batch's first byte.
pub fn push_begin(bytes: &mut Vec<u8>, slot: SlotId, depth: u8, replica: ReplicaId, founders: &[ReplicaId]) -> usize {
    let count = u32::try_from(founders.len()).expect("a group has a handful of founders");
    let start = push_head(bytes, (TAG_BEGIN, depth), slot, count, replica, 0);
    for founder in founders {
        bytes.extend_from_slice(&founder.0.to_le_bytes());
    }
    start
}

/// Appends an end and returns where it lies, counted from the batch's first byte.
pub fn push_end(bytes: &mut Vec<u8>, slot: SlotId, replica: ReplicaId) -> usize {
    push_head(bytes, (TAG_END, 0), slot, 0, replica, 0)
}

/// Appends an install and returns where it lies, counted from the batch's first byte.
pub fn push_install(bytes: &mut Vec<u8>, slot: SlotId, replica: ReplicaId, index: u64) -> usize {
    push_head(bytes, (TAG_INSTALL, 0), slot, 0, replica, index)
}

/// Appends a body and returns where its data begins, counted from the batch's first byte.
pub fn push_body(bytes: &mut Vec<u8>, slot: SlotId, replica: ReplicaId, data: &[u8]) -> usize {
    let data_bytes = u32::try_from(data.len()).expect("a body is smaller than a segment, whose size is a u32");
    let start = push_head(bytes, (TAG_BODY, 0), slot, data_bytes, replica, 0) + ENTRY_HEADER_BYTES;
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
    start
}

fn push_head(
    bytes: &mut Vec<u8>,
    (tag, second): (u8, u8),
    slot: SlotId,
    count: u32,
    replica: ReplicaId,
    last: u64,
) -> usize {
    assert!(bytes.len() >= BATCH_HEADER_BYTES && bytes.len().is_multiple_of(RECORD_ALIGN));
    let start = bytes.len();
    bytes.extend_from_slice(&[tag, second]);
    bytes.extend_from_slice(&slot.0.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&replica.0.to_le_bytes());
    bytes.extend_from_slice(&last.to_le_bytes());
    start
}

/// Fills in the header, pads to the block and returns the batch's checksum, which the next one links to.
pub fn seal_batch(bytes: &mut Vec<u8>, header: &BatchHeader, records: u32, block_bytes: u32) -> u32 {
    assert!(bytes.len() > BATCH_HEADER_BYTES && records > 0, "an empty batch is never written");
    let body = u32::try_from(bytes.len() - BATCH_HEADER_BYTES).expect("a batch is smaller than a segment");
    bytes[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    bytes[8..12].copy_from_slice(&body.to_le_bytes());
    bytes[12..16].copy_from_slice(&records.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.identity.to_le_bytes());
    bytes[24..28].copy_from_slice(&header.segment.to_le_bytes());
    bytes[28..32].copy_from_slice(&header.link.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.flush.to_le_bytes());
    bytes[40..48].copy_from_slice(&header.synced.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(block_bytes as usize), 0);
    crc
}

/// Why a slice holds no valid batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBatch {
    /// No batch of this journal and segment begins here: zeroes, a former segment, the middle of something.
    Absent,
    /// A header of this journal and segment, but lengths that cannot be.
    Length,
    /// A header of this journal and segment, but the checksum is wrong: torn or damaged.
    Checksum,
    /// The checksum is right and the records make no sense: written by something else than this format.
    Records,
}

/// A valid batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What it says of itself.
    pub header: BatchHeader,
    /// Its checksum; the next batch's link.
    pub crc: u32,
    body: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Bytes up to the end of the last record, without the padding.
    #[must_use]
    pub fn length(&self) -> usize {
        BATCH_HEADER_BYTES + self.body.len()
    }

    /// Each record in order with its place counted from the batch's first byte: of the data for entries and bodies, of the
    /// record itself for the others.
    pub fn records(&self) -> impl Iterator<Item = (Record<'a>, usize)> {
        let body = self.body;
        let mut at = 0usize;
        std::iter::from_fn(move || {
            if at == body.len() {
                return None;
            }
            let (record, place, next) =
                parse_record(body, at).expect("every record was checked when the batch was read");
            at = next;
            Some((record, BATCH_HEADER_BYTES + place))
        })
    }
}

/// Reads the batch that begins with `bytes`, if there is a valid one of this journal and segment. `bytes` may go on
/// behind it.
///
/// # Errors
/// What is wrong; nothing of the batch is to be used then.
pub fn read_batch(bytes: &[u8], identity: u64, segment: u32) -> Result<Batch<'_>, BadBatch> {
    let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
        return Err(BadBatch::Absent);
    };
    let header = BatchHeader {
        identity: u64_at(head, 16),
        segment: u32_at(head, 24),
        link: u32_at(head, 28),
        flush: u64_at(head, 32),
        synced: u64_at(head, 40),
    };
    if u32_at(head, 0) != BATCH_MAGIC || header.identity != identity || header.segment != segment {
        return Err(BadBatch::Absent);
    }
    let body_bytes = u32_at(head, 8) as usize;
    let records = u32_at(head, 12);
    let Some(body) = bytes[BATCH_HEADER_BYTES..].get(..body_bytes) else {
        return Err(BadBatch::Length);
    };
    let crc = u32_at(head, 4);
    if crc32fast::hash(&bytes[8..BATCH_HEADER_BYTES + body_bytes]) != crc {
        return Err(BadBatch::Checksum);
    }
    let mut at = 0;
    let mut seen = 0u32;
    while at < body.len() {
        let (_, _, next) = parse_record(body, at).ok_or(BadBatch::Records)?;
        debug_assert!(next > at);
        at = next;
        seen += 1;
    }
    if seen != records || records == 0 || header.synced >= header.flush {
        return Err(BadBatch::Records);
    }
    Ok(Batch { header, crc, body })
}

/// The record at `at`, where its data (or itself) begins, and where the next one begins. `None` when it makes no sense.
fn parse_record(body: &[u8], at: usize) -> Option<(Record<'_>, usize, usize)> {
    let head = body.get(at..)?.first_chunk::<ENTRY_HEADER_BYTES>()?;
    let slot = SlotId(u16::from_le_bytes([head[2], head[3]]));
    let term = u64_at(head, 8);
    match head[0] {
        TAG_ENTRY => {
            let start = at + ENTRY_HEADER_BYTES;
            let data_bytes = u32_at(head, 4) as usize;
            let data = body.get(start..start.checked_add(data_bytes)?)?;
            let next = at + entry_bytes(data_bytes);
            if next > body.len() {
                return None;
            }
            let record = Record::Entry { slot, term, index: u64_at(head, 16), kind: head[1], data };
            Some((record, start, next))
        }
        TAG_HARD_STATE => {
            let whole = body.get(at..)?.first_chunk::<HARD_STATE_BYTES>()?;
            let record = Record::HardState { slot, term, vote: u64_at(whole, 16), commit: u64_at(whole, 24) };
            Some((record, at, at + HARD_STATE_BYTES))
        }
        tag => {
            let start = at + ENTRY_HEADER_BYTES;
            let replica = ReplicaId(term);
            let count = u32_at(head, 4) as usize;
            match tag {
                TAG_BEGIN => {
                    let end = start.checked_add(count.checked_mul(8)?)?;
                    let founders = Founders(body.get(start..end)?);
                    Some((Record::Begin { slot, depth: head[1], replica, founders }, at, end))
                }
                TAG_END => Some((Record::End { slot, replica }, at, start)),
                TAG_BODY => {
                    let data = body.get(start..start.checked_add(count)?)?;
                    let next = at + entry_bytes(count);
                    (next <= body.len()).then_some((Record::Body { slot, replica, data }, start, next))
                }
                TAG_INSTALL => Some((Record::Install { slot, replica, index: u64_at(head, 16) }, at, start)),
                _ => None,
            }
        }
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: BatchHeader = BatchHeader { identity: 0xfeed, segment: 3, flush: 9, synced: 8, link: 77 };

    fn sealed(entries: &[Vec<u8>], block_bytes: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        begin_batch(&mut bytes);
        for (n, data) in entries.iter().enumerate() {
            let start = push_entry(&mut bytes, SlotId(n as u16), 5, n as u64, 2, data);
            assert_eq!(&bytes[start..start + data.len()], &data[..]);
            push_hard_state(&mut bytes, SlotId(n as u16), 6, 1, n as u64);
        }
        seal_batch(&mut bytes, &HEADER, entries.len() as u32 * 2, block_bytes);
        bytes
    }

    #[test]
    fn a_life_is_read_as_it_was_written() {
        let (slot, replica) = (SlotId(0x0102), ReplicaId(0x0001_0000_0000_0007));
        let founders = [replica, ReplicaId(0x0002_0000_0000_0008)];
        let mut bytes = Vec::new();
        begin_batch(&mut bytes);
        push_begin(&mut bytes, slot, 8, replica, &founders);
        let body = push_body(&mut bytes, slot, replica, b"hello");
        push_install(&mut bytes, slot, replica, 99);
        push_end(&mut bytes, slot, replica);
        seal_batch(&mut bytes, &HEADER, 4, 512);
        // Fixed for ever, as below.
        let begin = [
            3, 8, 2, 1, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0,
            0, 2, 0,
        ];
        assert_eq!(&bytes[48..88], &begin[..]);
        assert_eq!(&bytes[88..96], &[5, 0, 2, 1, 5, 0, 0, 0]);
        assert_eq!(&bytes[120..144], &[6, 0, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 99, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[144..152], &[4, 0, 2, 1, 0, 0, 0, 0]);
        let batch = read_batch(&bytes, 0xfeed, 3).expect("valid");
        let records: Vec<_> = batch.records().collect();
        assert_eq!(records.len(), 4);
        let (Record::Begin { depth: 8, founders: read, .. }, 48) = records[0] else { panic!("{:?}", records[0]) };
        assert_eq!(read.iter().collect::<Vec<_>>(), founders);
        assert_eq!(records[1], (Record::Body { slot, replica, data: b"hello" }, body));
        assert_eq!(records[2], (Record::Install { slot, replica, index: 99 }, 120));
        assert_eq!(records[3], (Record::End { slot, replica }, 144));
        assert!(records.iter().all(|(record, _)| record.slot() == slot));
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        begin_batch(&mut bytes);
        push_entry(&mut bytes, SlotId(0x0102), 5, 6, 7, b"hello");
        let crc = seal_batch(&mut bytes, &HEADER, 1, 512);
        assert_eq!(bytes.len(), 512);
        let mut expected = b"jdB\x01".to_vec();
        expected.extend_from_slice(&crc.to_le_bytes());
        expected.extend_from_slice(&[32, 0, 0, 0, 1, 0, 0, 0, 0xed, 0xfe, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[3, 0, 0, 0, 77, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 7, 2, 1, 5, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"hello\0\0\0");
        assert_eq!(&bytes[..80], &expected[..]);
        assert!(bytes[80..].iter().all(|byte| *byte == 0));
        // Fixed for ever: a journal written by an older version is read by a newer one.
        assert_eq!(crc, crc32fast::hash(&expected[8..]));
    }

    #[test]
    fn a_right_checksum_over_nonsense_is_refused() {
        for (at, wrong) in [(BATCH_HEADER_BYTES, 9u8), (BATCH_HEADER_BYTES + 4, 200), (12, 7), (40, 9)] {
            let mut bytes = sealed(&[b"abc".to_vec()], 512);
            let end = BATCH_HEADER_BYTES + entry_bytes(3) + HARD_STATE_BYTES;
            bytes[at] = wrong;
            let crc = crc32fast::hash(&bytes[8..end]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(read_batch(&bytes, 0xfeed, 3).err(), Some(BadBatch::Records), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_read(
            entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
            behind in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = sealed(&entries, 512);
            prop_assert!(bytes.len().is_multiple_of(512));
            bytes.extend_from_slice(&behind);
            let batch = read_batch(&bytes, 0xfeed, 3).expect("valid");
            prop_assert_eq!(batch.header, HEADER);
            let records: Vec<_> = batch.records().collect();
            prop_assert_eq!(records.len(), entries.len() * 2);
            for (n, data) in entries.iter().enumerate() {
                let (slot, index) = (SlotId(n as u16), n as u64);
                let (record, place) = records[2 * n];
                prop_assert_eq!(record, Record::Entry { slot, term: 5, index, kind: 2, data: data.as_slice() });
                prop_assert_eq!(&bytes[place..place + data.len()], &data[..]);
                prop_assert_eq!(records[2 * n + 1].0, Record::HardState { slot, term: 6, vote: 1, commit: index });
            }
            prop_assert_eq!(read_batch(&bytes, 0xfeee, 3).err(), Some(BadBatch::Absent));
            prop_assert_eq!(read_batch(&bytes, 0xfeed, 4).err(), Some(BadBatch::Absent));
        }

        #[test]
        fn a_flipped_or_cut_batch_is_never_valid(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut bytes = sealed(std::slice::from_ref(&data), 512);
            let end = BATCH_HEADER_BYTES + entry_bytes(data.len()) + HARD_STATE_BYTES;
            let at = at.index(end);
            prop_assert!(read_batch(&bytes[..at], 0xfeed, 3).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(read_batch(&bytes, 0xfeed, 3).is_err());
        }

        #[test]
        fn random_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            likely in any::<bool>(),
            body in 0u32..400,
        ) {
            if likely && bytes.len() >= BATCH_HEADER_BYTES {
                // As far as the checksum can take it: everything before the records is right.
                bytes[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
                bytes[8..12].copy_from_slice(&body.to_le_bytes());
                bytes[16..24].copy_from_slice(&0xfeedu64.to_le_bytes());
                bytes[24..28].copy_from_slice(&3u32.to_le_bytes());
                if let Some(covered) = bytes.get(8..BATCH_HEADER_BYTES + body as usize) {
                    let crc = crc32fast::hash(covered);
                    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                }
            }
            if let Ok(batch) = read_batch(&bytes, 0xfeed, 3) {
                prop_assert!(batch.records().count() > 0);
            }
        }
    }
}
