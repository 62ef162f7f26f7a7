//! A channel's log as this replica knows it: how long it is, where each message lies in the journal, which sends it
//! has seen lately, and the newest bodies. Does not know who may write, who must be told, or how bytes are read back.
//!
//! ```text
//!  append ──► last_seq + 1 ──► index (8 bytes a message) ──► dropped by retention
//!                │                 fingerprints (8 bytes a message, the last `window` of them)
//!                └───────────────► recent bodies, shared with the raft entry ──► evicted by the shard's budget
//! ```

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

use super::journal::Position;
use crate::format::message::StoredMessage;

/// Positions in one sealed piece of the index.
const CHUNK: usize = 64;

/// Names a (sender, `client_msg_no`) within its channel. Part of the replicated state, so its function never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Of nothing: a message without a number is never a repeat.
    pub const NONE: Fingerprint = Fingerprint(0);

    /// Of a send. An empty number gives [`Fingerprint::NONE`].
    #[must_use]
    pub fn new(from: &str, client_msg_no: &str) -> Fingerprint {
        if client_msg_no.is_empty() {
            return Fingerprint::NONE;
        }
        let mut joined = [0u8; 400];
        let length = from.len() + 1 + client_msg_no.len();
        let hash = if length <= joined.len() {
            joined[..from.len()].copy_from_slice(from.as_bytes());
            joined[from.len() + 1..length].copy_from_slice(client_msg_no.as_bytes());
            xxhash_rust::xxh3::xxh3_64(&joined[..length])
        } else {
            let mut hasher = Xxh3::new();
            hasher.update(from.as_bytes());
            hasher.update(&[0]);
            hasher.update(client_msg_no.as_bytes());
            hasher.digest()
        };
        Fingerprint(hash.max(1))
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is message `seq`.
    Stored(u32),
    /// It was message `seq` already.
    Repeat(u32),
    /// The channel has all 2^32 - 1 messages that its numbers can count.
    Exhausted,
}

/// Positions of messages, oldest first, in pieces so that growing never copies what is sealed.
#[derive(Clone, Debug, Default)]
struct Index {
    sealed: VecDeque<Box<[u64; CHUNK]>>,
    open: Vec<u64>,
    /// Entries of the first sealed piece that retention has dropped.
    dropped: usize,
}

fn pack(position: Position) -> u64 {
    (u64::from(position.segment) << 32) | u64::from(position.offset)
}

fn unpack(packed: u64) -> Position {
    Position { segment: (packed >> 32) as u32, offset: packed as u32 }
}

impl Index {
    fn len(&self) -> usize {
        self.sealed.len() * CHUNK + self.open.len() - self.dropped
    }

    fn push(&mut self, position: Position) {
        if self.open.len() == self.open.capacity() {
            // Grow in small steps: most channels hold a handful of messages.
            self.open.reserve_exact(if self.open.is_empty() { 4 } else { CHUNK.min(self.open.len()) });
        }
        self.open.push(pack(position));
        if self.open.len() == CHUNK {
            let piece: Box<[u64; CHUNK]> =
                self.open.as_slice().try_into().map(Box::new).expect("the open piece has CHUNK entries");
            self.sealed.push_back(piece);
            self.open.clear();
        }
    }

    fn at(&self, place: usize) -> Position {
        let place = place + self.dropped;
        match self.sealed.get(place / CHUNK) {
            Some(piece) => unpack(piece[place % CHUNK]),
            None => unpack(self.open[place - self.sealed.len() * CHUNK]),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Position> + '_ {
        let sealed = self.sealed.iter().flat_map(|piece| piece.iter());
        sealed.chain(&self.open).skip(self.dropped).map(|packed| unpack(*packed))
    }

    fn set(&mut self, place: usize, position: Position) {
        let place = place + self.dropped;
        let sealed = self.sealed.len() * CHUNK;
        match self.sealed.get_mut(place / CHUNK) {
            Some(piece) => piece[place % CHUNK] = pack(position),
            None => self.open[place - sealed] = pack(position),
        }
    }

    fn drop_first(&mut self) {
        self.dropped += 1;
        if !self.sealed.is_empty() && self.dropped == CHUNK {
            self.sealed.pop_front();
            self.dropped = 0;
        } else if self.sealed.is_empty() && self.dropped == self.open.len() {
            self.open.clear();
            self.dropped = 0;
        }
    }
}

/// The fingerprints of the last messages, their lowest sixteen bits apart from the others: a lookup scans 2 bytes a message.
#[derive(Clone, Debug, Default)]
struct Window {
    low: VecDeque<u16>,
    rest: VecDeque<[u16; 3]>,
}

impl Window {
    fn push(&mut self, fingerprint: Fingerprint, bound: usize) {
        while self.low.len() >= bound {
            self.low.pop_front();
            self.rest.pop_front();
        }
        if self.low.len() == self.low.capacity() {
            let more = (self.low.len() / 4).max(4);
            self.low.reserve_exact(more);
            self.rest.reserve_exact(more);
        }
        let (low, rest) = parts_of(fingerprint);
        self.low.push_back(low);
        self.rest.push_back(rest);
    }

    /// Place of a fingerprint, counted from the oldest kept.
    fn find(&self, fingerprint: Fingerprint) -> Option<usize> {
        if fingerprint == Fingerprint::NONE {
            return None;
        }
        let (low, rest) = parts_of(fingerprint);
        let (first, second) = self.low.as_slices();
        scan(first, low, |place| self.rest[place] == rest)
            .or_else(|| scan(second, low, |place| self.rest[first.len() + place] == rest).map(|p| p + first.len()))
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = Fingerprint> + '_ {
        self.low.iter().zip(&self.rest).map(|(low, [a, b, c])| {
            Fingerprint([*low, *a, *b, *c].into_iter().rev().fold(0, |whole, part| whole << 16 | u64::from(part)))
        })
    }
}

fn parts_of(Fingerprint(whole): Fingerprint) -> (u16, [u16; 3]) {
    (whole as u16, [(whole >> 16) as u16, (whole >> 32) as u16, (whole >> 48) as u16])
}

/// Looks for `wanted` 32 at a time, which the compiler turns into vector compares: a miss over 4096 numbers, the
/// normal case, costs a tenth of a microsecond instead of two.
fn scan(numbers: &[u16], wanted: u16, confirm: impl Fn(usize) -> bool) -> Option<usize> {
    let mut pieces = numbers.chunks_exact(32);
    let mut base = 0;
    for piece in pieces.by_ref() {
        let hit = piece.iter().fold(false, |hit, number| hit | (*number == wanted));
        if hit && let Some(place) = piece.iter().enumerate().position(|(i, n)| *n == wanted && confirm(base + i)) {
            return Some(base + place);
        }
        base += 32;
    }
    let rest = pieces.remainder();
    rest.iter().enumerate().position(|(i, n)| *n == wanted && confirm(base + i)).map(|place| base + place)
}

/// One channel.
#[derive(Debug, Default)]
pub struct Channel {
    last_seq: u32,
    last_message_id: i64,
    index: Index,
    window: Window,
    recent: VecDeque<StoredMessage>,
    /// Journal segments below this one are gone.
    first_segment: u32,
    /// Every member's home covers the channel up to here.
    announced_seq: u32,
    /// Positions may not rise: one was set anew, by a repair.
    unordered: bool,
}

/// Where a message lies whose body was never got: segments begin with 1. It cannot be read, may be repaired, and is dropped with the
/// first that retention takes.
pub const HOLE: Position = Position { segment: 0, offset: 0 };

impl Channel {
    /// A channel as a checkpoint describes it.
    #[must_use]
    pub fn restore(parts: ChannelParts) -> Channel {
        let mut channel = Channel {
            last_seq: parts.last_seq,
            last_message_id: parts.last_message_id,
            announced_seq: parts.announced_seq,
            ..Channel::default()
        };
        let mut before = HOLE;
        for position in parts.positions {
            channel.index.push(position);
            channel.unordered |= position < before && position != HOLE;
            before = before.max(position);
        }
        for fingerprint in parts.fingerprints {
            channel.window.push(fingerprint, usize::MAX);
        }
        channel
    }

    /// Takes the next message, unless the same send is remembered.
    pub fn append(
        &mut self,
        message: &StoredMessage,
        position: Position,
        fingerprint: Fingerprint,
        dedupe_window: usize,
    ) -> Appended {
        if let Some(place) = self.window.find(fingerprint) {
            let behind = (self.window.low.len() - 1 - place) as u32;
            return Appended::Repeat(self.last_seq - behind);
        }
        let Some(seq) = self.last_seq.checked_add(1) else {
            return Appended::Exhausted;
        };
        self.last_seq = seq;
        self.last_message_id = message.message_id();
        self.index.push(position);
        self.window.push(fingerprint, dedupe_window);
        self.recent.push_back(message.clone());
        assert!(self.recent.len() <= self.index.len(), "every recent message has a position");
        Appended::Stored(seq)
    }

    /// Number of the last message; 0 when there is none.
    #[must_use]
    pub fn last_seq(&self) -> u32 {
        self.last_seq
    }

    /// The first message that can still be read; one past the last when none can.
    #[must_use]
    pub fn first_seq(&self) -> u32 {
        self.last_seq - (self.index.len() as u32) + 1
    }

    /// Messages that can be read.
    #[must_use]
    pub fn readable(&self) -> usize {
        self.index.len()
    }

    /// Where a message lies.
    #[must_use]
    pub fn position(&self, seq: u32) -> Option<Position> {
        (seq >= self.first_seq() && seq <= self.last_seq).then(|| self.index.at((seq - self.first_seq()) as usize))
    }

    /// A message has come to lie elsewhere: what was damaged was written anew. False when it is not readable any more.
    pub fn set_position(&mut self, seq: u32, position: Position) -> bool {
        if self.position(seq).is_none() {
            return false;
        }
        self.index.set((seq - self.first_seq()) as usize, position);
        self.unordered = true;
        true
    }

    /// A message still in memory.
    #[must_use]
    pub fn recent(&self, seq: u32) -> Option<&StoredMessage> {
        let first = self.last_seq - (self.recent.len() as u32) + 1;
        self.recent.get(seq.checked_sub(first)? as usize)
    }

    /// Forgets the oldest body in memory. Returns how many messages are gone for good with it: one whose place in the journal
    /// was given up while it was still in memory.
    pub fn evict_oldest(&mut self) -> usize {
        self.recent.pop_front();
        if self.recent.is_empty() {
            // An empty queue must not hold on to the memory of a busy past.
            self.recent = VecDeque::new();
        }
        self.drop_unreadable()
    }

    /// Forgets all bodies in memory, and what was readable only there.
    pub fn forget_bodies(&mut self) {
        self.recent = VecDeque::new();
        self.drop_unreadable();
    }

    /// Drops what lies in segments below `segment` and is not in memory either; returns how many messages that were.
    pub fn drop_below(&mut self, segment: u32) -> usize {
        self.first_segment = self.first_segment.max(segment);
        let mut dropped = 0;
        if self.unordered {
            // A message that was written anew must not keep those after it, which lay where they were.
            let readable = self.index.len() - self.recent.len();
            let gone = |place: usize| (1..self.first_segment).contains(&self.index.at(place).segment);
            let upto = (0..readable).rev().find(|place| gone(*place)).map_or(0, |place| place + 1);
            for _ in 0..upto {
                self.index.drop_first();
            }
            dropped = upto;
        }
        dropped + self.drop_unreadable()
    }

    fn drop_unreadable(&mut self) -> usize {
        let mut dropped = 0;
        while self.index.len() > self.recent.len() && self.index.at(0).segment < self.first_segment {
            self.index.drop_first();
            dropped += 1;
        }
        dropped
    }

    /// Every member's home covers the channel up to here.
    #[must_use]
    pub fn announced_seq(&self) -> u32 {
        self.announced_seq
    }

    /// The homes cover the channel up to `seq`; it only rises.
    pub fn announced(&mut self, seq: u32) {
        assert!(seq <= self.last_seq, "nobody can be told of a message that does not exist");
        self.announced_seq = self.announced_seq.max(seq);
    }

    /// Id of the last message; 0 when there is none.
    #[must_use]
    pub fn last_message_id(&self) -> i64 {
        self.last_message_id
    }

    /// Where the readable messages lie, oldest first; the last is that of `last_seq`.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.index.iter()
    }

    /// Of the last messages, oldest first; the last is that of `last_seq`.
    pub fn fingerprints(&self) -> impl ExactSizeIterator<Item = Fingerprint> + '_ {
        self.window.iter()
    }

    /// As it is now, but for the bodies in memory.
    #[must_use]
    pub fn without_bodies(&self) -> Channel {
        let (index, window) = (self.index.clone(), self.window.clone());
        let Channel { last_seq, last_message_id, first_segment, announced_seq, unordered, .. } = *self;
        let recent = VecDeque::new();
        Channel { last_seq, last_message_id, index, window, recent, first_segment, announced_seq, unordered }
    }

    /// What a checkpoint keeps.
    #[must_use]
    pub fn parts(&self) -> ChannelParts {
        ChannelParts {
            last_seq: self.last_seq,
            last_message_id: self.last_message_id,
            announced_seq: self.announced_seq,
            positions: self.positions().collect(),
            fingerprints: self.fingerprints().collect(),
        }
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        assert!(self.announced_seq <= self.last_seq);
        assert!(self.index.len() as u64 <= u64::from(self.last_seq));
        assert!(self.recent.len() <= self.index.len());
        assert_eq!(self.window.low.len(), self.window.rest.len());
        assert!(self.window.low.len() as u64 <= u64::from(self.last_seq));
    }
}

/// A channel taken apart for a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelParts {
    /// Number of the last message.
    pub last_seq: u32,
    /// Its id.
    pub last_message_id: i64,
    /// The homes cover the channel up to here.
    pub announced_seq: u32,
    /// Of the readable messages, oldest first; the last is that of `last_seq`.
    pub positions: Vec<Position>,
    /// Of the last messages, oldest first; the last is that of `last_seq`.
    pub fingerprints: Vec<Fingerprint>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::message::MessageFields;
    use crate::format::packet::{HeaderFlags, Setting};
    use bytes::Bytes;

    fn message(id: i64) -> StoredMessage {
        let mut out = Vec::new();
        let fields = MessageFields {
            message_id: id,
            unix_ms: 0,
            expire_s: 0,
            flags: HeaderFlags(0),
            setting: Setting(0),
            device_tag: 0,
            from: "a",
            to: "b",
            client_msg_no: "",
            topic: "",
            payload: b"x",
        };
        fields.encode(&mut out);
        StoredMessage::trusted(Bytes::from(out))
    }

    fn at(n: u32) -> Position {
        Position { segment: 1 + n / 100, offset: n % 100 * 64 }
    }

    #[test]
    fn numbers_are_dense_and_repeats_are_recognised_within_the_window() {
        let mut channel = Channel::default();
        for n in 1..=1000u32 {
            let print = Fingerprint::new("a", &n.to_string());
            assert_eq!(channel.append(&message(i64::from(n)), at(n), print, 100), Appended::Stored(n));
            assert_eq!(channel.append(&message(9999), at(n), print, 100), Appended::Repeat(n));
        }
        let old = Fingerprint::new("a", "901");
        assert_eq!(channel.append(&message(1), at(1), old, 100), Appended::Repeat(901));
        let forgotten = Fingerprint::new("a", "900");
        assert_eq!(channel.append(&message(1), at(1001), forgotten, 100), Appended::Stored(1001));
        for n in 1..=1001u32 {
            assert_eq!(channel.position(n), Some(at(n)));
        }
        assert_eq!((channel.position(0), channel.position(1002)), (None, None));
        channel.check_invariants();
    }

    #[test]
    fn a_checkpoint_brings_everything_back_but_bodies() {
        let mut channel = Channel::default();
        for n in 1..=300u32 {
            channel.append(&message(i64::from(n)), at(n), Fingerprint::new("a", &n.to_string()), 64);
        }
        channel.announced(250);
        while channel.recent(300).is_some() {
            channel.evict_oldest();
        }
        assert_eq!(channel.drop_below(2), 99);
        let parts = channel.parts();
        let back = Channel::restore(parts.clone());
        assert_eq!(back.parts(), parts);
        assert_eq!((back.first_seq(), back.last_seq(), back.announced_seq()), (100, 300, 250));
        assert_eq!(back.position(100), Some(at(100)));
        assert_eq!(back.recent(300), None);
    }

    #[test]
    fn a_message_written_anew_is_found_there_and_does_not_keep_those_after_it() {
        let mut channel = Channel::default();
        for n in 1..=300u32 {
            channel.append(&message(i64::from(n)), at(n), Fingerprint::NONE, 64);
        }
        while channel.recent(300).is_some() {
            channel.evict_oldest();
        }
        for seq in [10, 299] {
            assert!(channel.set_position(seq, Position { segment: 9, offset: seq }));
            assert_eq!(channel.position(seq), Some(Position { segment: 9, offset: seq }));
        }
        assert!(!channel.set_position(301, at(1)) && !channel.set_position(0, at(1)));
        assert_eq!((channel.position(9), channel.position(11)), (Some(at(9)), Some(at(11))));
        // As it comes back from a checkpoint, it is the same.
        let mut back = Channel::restore(channel.parts());
        for channel in [&mut channel, &mut back] {
            assert_eq!((channel.drop_below(2), channel.first_seq()), (99, 100));
            assert_eq!(channel.drop_below(3), 100);
            assert_eq!(channel.drop_below(5), 101, "the last of segment 4 is message 300");
            channel.check_invariants();
        }
    }

    #[test]
    fn a_message_whose_segment_is_gone_is_readable_as_long_as_it_is_in_memory() {
        let mut channel = Channel::default();
        for n in 1..=3u32 {
            channel.append(&message(i64::from(n)), at(n * 100 - 100), Fingerprint::NONE, 8);
        }
        assert_eq!(channel.drop_below(3), 0);
        assert_eq!(channel.first_seq(), 1);
        assert_eq!(channel.evict_oldest(), 1);
        assert_eq!((channel.first_seq(), channel.readable()), (2, 2));
        assert_eq!((channel.evict_oldest(), channel.evict_oldest()), (1, 0));
        assert_eq!((channel.first_seq(), channel.readable()), (3, 1), "the last one's segment is still there");
    }

    #[test]
    fn sends_without_a_number_are_never_repeats() {
        let mut channel = Channel::default();
        for n in 1..=3 {
            let print = Fingerprint::new("a", "");
            assert_eq!(channel.append(&message(1), at(n), print, 8), Appended::Stored(n));
        }
    }
}
