//! A batch of frames as one node sends it to another: a header that guards, then an rkyv archive of the frames
//! ([`super::frame_wire`]). Does not keep sequences or windows, and does not gather bytes from a socket: it says how
//! many a whole batch takes.
//!
//! ```text
//!  0 u32 magic       8 u32 body bytes                        16 u64 link sequence
//!  4 u16 version    12 u32 crc32 of bytes 0..12 and 16..end  24 u64 acknowledged      32 body
//!  6 u16 zero                                                                           then zeroes to a multiple of 8
//! ```
//! Integers are little-endian. Thanks to the zeroes every batch behind an aligned one is aligned too.
//!
//! # Alignment
//! rkyv reads an archive where it lies, and needs it at a multiple of [`ALIGN_BYTES`]. The header is a multiple of that, so a
//! batch read into the beginning of a buffer of its own is right (allocators give 16). A batch that lies elsewhere in
//! a larger buffer by luck, or crookedly: then its body is copied once into an aligned buffer, never refused.
//!
//! # Trust
//! The checksum is compared before anything else is read: it tells damage. rkyv's validation and the checks of values tell a
//! peer that is wrong or hostile. Nothing is allocated in proportion to a number that was not checked.

use std::fmt;

use bytes::Bytes;
use rkyv::api::low::access;
use rkyv::api::serialize_using;
use rkyv::rancor;
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::util::{AlignedVec, with_arena};
use rkyv::vec::ArchivedVec;

use super::frame::Frame;
use super::frame_wire::{self, ArchivedWireFrame, BadValue};

/// First bytes of every batch.
pub const FRAMES_MAGIC: u32 = u32::from_le_bytes(*b"jdF\x01");

/// Of the layout of header and body. Nodes of different versions do not link.
pub const FRAMES_VERSION: u16 = 2;

/// Bytes before the body.
pub const FRAMES_HEADER_BYTES: usize = 32;

/// Largest body. A fetch answer is the largest frame: `fetch_bytes_max` and one message; a link batches far less than
/// this. Over it: the link is broken off.
pub const FRAMES_BODY_BYTES_MAX: usize = 4 << 20;

/// What a batch takes beside its frames' weights, at most.
pub const FRAMES_EMPTY_BYTES_MAX: usize = 64;

/// Where an archive must lie. The widest fields are 64-bit.
pub const ALIGN_BYTES: usize = 8;

/// Bytes that the checksum skips because they hold it.
const CRC_AT: usize = 12;

/// A link's own numbers, which travel with each batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkNumbers {
    /// Of this batch.
    pub sequence: u64,
    /// Everything up to here has arrived from the other end.
    pub acknowledged: u64,
}

/// A batch as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameBatch {
    /// The link's.
    pub numbers: LinkNumbers,
    /// In order.
    pub frames: Vec<Frame>,
    /// How many bytes it took; the next batch follows.
    pub batch_bytes: usize,
}

/// Why bytes are no batch. But for [`BadFrames::Cut`] the peer's or the network's fault, and the link is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrames {
    /// The beginning of one: the buffer must hold at least `need` bytes before it is worth trying again.
    Cut {
        /// From the batch's first byte.
        need: usize,
    },
    /// Other bytes than a batch begins with.
    NotFrames,
    /// A peer of another version.
    Version(u16),
    /// Larger than [`FRAMES_BODY_BYTES_MAX`].
    TooLarge,
    /// The checksum does not match.
    Checksum,
    /// The checksum is right and the archive is not: the peer made it wrong.
    Layout,
    /// The archive is right and a value in it is not.
    Value(BadValue),
}

impl fmt::Display for BadFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFrames::Cut { need } => write!(f, "frames are cut short, {need} bytes are needed"),
            BadFrames::NotFrames => f.write_str("peer sends something else than frames"),
            BadFrames::Version(version) => write!(f, "peer sends frames of version {version}, not {FRAMES_VERSION}"),
            BadFrames::TooLarge => f.write_str("peer sends a batch of frames over the limit"),
            BadFrames::Checksum => f.write_str("frames fail their checksum"),
            BadFrames::Layout => f.write_str("peer sends frames with an impossible layout"),
            BadFrames::Value(value) => write!(f, "peer sends a frame with {value}"),
        }
    }
}

/// Writes an archive behind what a buffer holds, with positions counted from the archive's beginning.
struct Body<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl Positional for Body<'_> {
    fn pos(&self) -> usize {
        self.out.len() - self.start
    }
}

impl Writer<rancor::Failure> for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), rancor::Failure> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends a batch.
///
/// # Panics
/// When the body exceeds [`FRAMES_BODY_BYTES_MAX`]: whoever batches frames stops long before.
pub fn encode(frames: &[Frame], numbers: LinkNumbers, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAMES_HEADER_BYTES]);
    let body = Body { start: out.len(), out };
    with_arena(|arena| {
        // Nothing is shared within an archive, so nothing keeps track of what is.
        let mut serializer = Serializer::new(body, arena.acquire(), ());
        serialize_using::<_, rancor::Failure>(&frame_wire::batch(frames), &mut serializer)
            .expect("a vector takes every byte");
    });
    let body_bytes = out.len() - start - FRAMES_HEADER_BYTES;
    assert!(body_bytes <= FRAMES_BODY_BYTES_MAX, "a batch of frames is over the limit");
    out.resize(start + batch_bytes(body_bytes), 0);
    let header = &mut out[start..start + FRAMES_HEADER_BYTES];
    header[0..4].copy_from_slice(&FRAMES_MAGIC.to_le_bytes());
    header[4..6].copy_from_slice(&FRAMES_VERSION.to_le_bytes());
    header[8..12].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    header[16..24].copy_from_slice(&numbers.sequence.to_le_bytes());
    header[24..32].copy_from_slice(&numbers.acknowledged.to_le_bytes());
    let crc = checksum(&out[start..]);
    out[start + CRC_AT..start + CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the batch at the beginning of `bytes`. Messages and payloads come out as slices of it (or of an aligned copy).
///
/// # Errors
/// See [`BadFrames`].
pub fn decode(bytes: &Bytes) -> Result<FrameBatch, BadFrames> {
    let body_bytes = body_bytes(bytes)?;
    let batch_bytes = batch_bytes(body_bytes);
    if bytes.len() < batch_bytes {
        return Err(BadFrames::Cut { need: batch_bytes });
    }
    if checksum(&bytes[..batch_bytes]) != u32_at(bytes, CRC_AT) {
        return Err(BadFrames::Checksum);
    }
    let body = aligned(bytes.slice(FRAMES_HEADER_BYTES..FRAMES_HEADER_BYTES + body_bytes));
    // Without what keeps track of shared values: there are none.
    let archive =
        access::<ArchivedVec<ArchivedWireFrame<'_>>, rancor::Failure>(&body).map_err(|_| BadFrames::Layout)?;
    let frames = frame_wire::each(archive, |wire| wire.read(&body)).map_err(BadFrames::Value)?;
    Ok(FrameBatch {
        numbers: LinkNumbers { sequence: u64_at(bytes, 16), acknowledged: u64_at(bytes, 24) },
        frames,
        batch_bytes,
    })
}

/// Bytes of a batch with a body of this many.
fn batch_bytes(body_bytes: usize) -> usize {
    (FRAMES_HEADER_BYTES + body_bytes).next_multiple_of(ALIGN_BYTES)
}

/// What the header says of the body, after everything in it that can be wrong is checked.
fn body_bytes(bytes: &[u8]) -> Result<usize, BadFrames> {
    let magic = FRAMES_MAGIC.to_le_bytes();
    if bytes.iter().zip(magic).any(|(byte, expected)| *byte != expected) {
        return Err(BadFrames::NotFrames);
    }
    if bytes.len() < FRAMES_HEADER_BYTES {
        return Err(BadFrames::Cut { need: FRAMES_HEADER_BYTES });
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != FRAMES_VERSION {
        return Err(BadFrames::Version(version));
    }
    let body_bytes = u32_at(bytes, 8) as usize;
    if body_bytes > FRAMES_BODY_BYTES_MAX {
        return Err(BadFrames::TooLarge);
    }
    Ok(body_bytes)
}

/// The body itself if it lies well, else a copy that does.
fn aligned(body: Bytes) -> Bytes {
    if body.as_ptr().addr().is_multiple_of(ALIGN_BYTES) {
        return body;
    }
    let mut copy = AlignedVec::<ALIGN_BYTES>::with_capacity(body.len());
    copy.extend_from_slice(&body);
    Bytes::from_owner(copy)
}

/// Over a whole batch but the checksum itself.
fn checksum(batch: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&batch[..CRC_AT]);
    hasher.update(&batch[CRC_AT + 4..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
