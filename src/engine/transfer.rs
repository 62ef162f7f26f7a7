//! A slot's state on its way from its group's leader to a replica that is too far behind for the log: message bodies first, then what the
//! group agreed on about them, in parts. What is here: the layout of parts. The two ends are machines of their own, the frozen state
//! a third file. None of them reads a disk, and none knows raft: the shard hands out what they ask for.
//!
//! ```text
//!  leader                                                   replica
//!  freeze ──► SnapshotOffer ─────────────────────────────► what is here already?
//!             ┌───────────────────── SnapshotWant{have} ◄──┘
//!             ▼
//!        read ──► SnapshotPart 0, 1, … (a window of them) ─► journal ──(durable)──► SnapshotTaken
//!             └─► SnapshotPart, the state, `last` ────────► checkpoint ──(written)─► state replaced, SnapshotTaken
//! ```
//!
//! A part is one byte that says what it holds, then for
//! * bodies: channel index u32, seq u32, length u32, stored message, again and again; channels ascend over all parts, seqs within them;
//! * state: the next piece of [`state`]'s bytes.
//!
//! Integers are little-endian. Bodies that the leader cannot read (retention, damage) are left out.

pub mod incoming;
pub mod outgoing;
pub mod state;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::format::message::StoredMessage;

/// First byte of a part with bodies.
const BODIES: u8 = 0;

/// First byte of a part with a piece of the state.
const STATE: u8 = 1;

/// Bytes before a message within a part.
const BODY_HEAD_BYTES: usize = 12;

fn push_body(channel: u32, seq: u32, message: &StoredMessage, out: &mut Vec<u8>) {
    if out.is_empty() {
        out.push(BODIES);
    }
    let length = u32::try_from(message.bytes().len()).expect("a message is bounded by MESSAGE_BYTES_MAX");
    for number in [channel, seq, length] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(message.bytes());
}

/// A message within a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Body {
    channel: u32,
    seq: u32,
    /// Where the stored message begins, counted from the part's first byte.
    at: u32,
    /// Its bytes.
    length: u32,
}

/// What a part holds.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Bodies(Vec<Body>),
    State(Bytes),
}

/// Reads a part without trusting a byte of it: every message in it is whole and its checksum holds.
fn read_part(body: &Bytes) -> Result<Part, &'static str> {
    match body.first() {
        Some(&STATE) => Ok(Part::State(body.slice(1..))),
        Some(&BODIES) => read_bodies(body).map(Part::Bodies),
        _ => Err("a part that is neither bodies nor state"),
    }
}

fn read_bodies(body: &Bytes) -> Result<Vec<Body>, &'static str> {
    let mut bodies = Vec::new();
    let mut at = 1;
    while at < body.len() {
        let Some(head) = body[at..].first_chunk::<BODY_HEAD_BYTES>() else {
            return Err("a part that ends within a message's head");
        };
        let number = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
        at += BODY_HEAD_BYTES;
        let length = number(8) as usize;
        let Some(end) = at.checked_add(length).filter(|end| *end <= body.len()) else {
            return Err("a part that ends within a message");
        };
        let whole = StoredMessage::take(&body.slice(at..end)).is_ok_and(|message| message.bytes().len() == length);
        if !whole {
            return Err("a part with a message whose checksum or lengths do not hold");
        }
        let place = u32::try_from(at).map_err(|_| "a part of more than 4 GiB")?;
        bodies.push(Body { channel: number(0), seq: number(4), at: place, length: number(8) });
        at = end;
    }
    Ok(bodies)
}
