//! Where some messages were, and when: one mark for each point that a message passes on this shard. A few of all messages are marked (the same
//! ones on every shard, by their id), for the profile; and every one of a user who is watched, for a trace. Whoever asks puts the marks of
//! all shards together; here nothing is compared and nothing is decided about messages.
//!
//! ```text
//!  sender's shard     channel's leader                         recipient's home     recipient's shard
//!  Taken ───────────► Arrived ► Proposed ► Durable ► Committed ─► Noticed ─────────► Delivered ► Acknowledged
//!  Answered ◄─────────────────────────────────────────┘
//!                     other replicas:               Applied
//! ```
//! Bounded: the oldest mark gives way. Times are those of the shard's steps, so what happens within one step takes no time here.

use std::collections::VecDeque;

use crate::ids::Uid;
use crate::time::Instant;

/// Marks kept for whoever asks; the oldest gives way. Some seconds of a busy shard.
pub const MARKS_MAX: usize = 16_384;

/// Messages of watched users whose names are kept; the oldest gives way.
pub const NAMED_MAX: usize = 256;

/// Users watched at a time. One more is refused.
pub const WATCHES_MAX: usize = 4;

/// A point on a message's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The sender's shard took the SEND.
    Taken,
    /// The channel's leader has it.
    Arrived,
    /// It is in the leader's log.
    Proposed,
    /// It is on the leader's disk.
    Durable,
    /// A majority has it, and the leader has applied it.
    Committed,
    /// Another replica has applied it.
    Applied,
    /// The sender's shard was told: SENDACK.
    Answered,
    /// The recipient's home knows.
    Noticed,
    /// A RECV leaves.
    Delivered,
    /// A device has acknowledged.
    Acknowledged,
}

impl Point {
    /// All, in the order of their values.
    pub const ALL: [Point; 10] = [
        Point::Taken,
        Point::Arrived,
        Point::Proposed,
        Point::Durable,
        Point::Committed,
        Point::Applied,
        Point::Answered,
        Point::Noticed,
        Point::Delivered,
        Point::Acknowledged,
    ];

    /// As operators read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Point::Taken => "taken",
            Point::Arrived => "arrived",
            Point::Proposed => "proposed",
            Point::Durable => "durable",
            Point::Committed => "committed",
            Point::Applied => "applied",
            Point::Answered => "answered",
            Point::Noticed => "noticed",
            Point::Delivered => "delivered",
            Point::Acknowledged => "acknowledged",
        }
    }
}

/// A message was somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which message.
    pub message_id: i64,
    /// When.
    pub at: Instant,
    /// Where.
    pub point: Point,
    /// One of those that are marked whoever sends them.
    pub sampled: bool,
}

/// Whose message it was, for traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which message.
    pub message_id: i64,
    /// Its place in its channel.
    pub seq: u32,
    /// Bytes of its payload.
    pub payload_bytes: usize,
    /// The sender.
    pub from: String,
    /// What the sender named.
    pub to: String,
}

/// As many users are watched as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWatches;

/// A message's name, and its members for watches.
#[derive(Clone, Copy, Debug)]
pub struct Marked<'a> {
    /// Which.
    pub message_id: i64,
    /// The sender.
    pub from: &'a str,
    /// The recipient.
    pub to: &'a str,
}

/// The marks of one shard.
#[derive(Debug)]
pub struct Marks {
    /// Hashes up to here are sampled; `None`: none are.
    sampled_below: Option<u32>,
    marks: VecDeque<Mark>,
    /// Serial number of the first of `marks`.
    first: u64,
    named: VecDeque<Named>,
    watches: Vec<(Uid, Instant)>,
}

impl Marks {
    /// One of so many messages is marked, 0: none.
    #[must_use]
    pub fn new(one_in: u32) -> Marks {
        Marks {
            sampled_below: (one_in > 0).then(|| u32::MAX / one_in),
            marks: VecDeque::new(),
            first: 0,
            named: VecDeque::new(),
            watches: Vec::new(),
        }
    }

    fn samples(&self, message_id: i64) -> bool {
        // Ids of one slot rise by small steps; a product's upper half is spread evenly (Knuth, TAOCP 3, 6.4).
        let hash = ((message_id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        self.sampled_below.is_some_and(|below| hash <= below)
    }

    fn watches(&self, at: Instant, from: &str, to: &str) -> bool {
        self.watches.iter().any(|(uid, until)| at < *until && (uid.as_str() == from || uid.as_str() == to))
    }

    /// Whether anything is to be said about a message.
    #[must_use]
    pub fn wants(&self, at: Instant, message: Marked<'_>) -> bool {
        self.samples(message.message_id) || (!self.watches.is_empty() && self.watches(at, message.from, message.to))
    }

    /// False: nothing is to be said about a message of this id, whosever it is.
    #[must_use]
    pub fn may_want(&self, message_id: i64) -> bool {
        !self.watches.is_empty() || self.samples(message_id)
    }

    /// A message passes a point, if it is one of those that matter.
    pub fn mark(&mut self, at: Instant, point: Point, message: Marked<'_>) {
        if self.wants(at, message) {
            self.push(at, point, message.message_id);
        }
    }

    /// A message that is wanted passed a point.
    pub fn push(&mut self, at: Instant, point: Point, message_id: i64) {
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
            self.first += 1;
        }
        self.marks.push_back(Mark { message_id, at, point, sampled: self.samples(message_id) });
    }

    /// Says what a message is called, if somebody watches its sender or recipient.
    pub fn name(&mut self, at: Instant, message: Marked<'_>, seq: u32, payload_bytes: usize) {
        if self.watches.is_empty() || !self.watches(at, message.from, message.to) {
            return;
        }
        if self.named.len() >= NAMED_MAX {
            self.named.pop_front();
        }
        let Marked { message_id, from, to } = message;
        self.named.push_back(Named { message_id, seq, payload_bytes, from: from.to_owned(), to: to.to_owned() });
    }

    /// Watches a user's messages until then; again, it is until the later time.
    ///
    /// # Errors
    /// Too many are watched already.
    pub fn watch(&mut self, now: Instant, uid: Uid, until: Instant) -> Result<(), TooManyWatches> {
        self.watches.retain(|(_, until)| now < *until);
        if let Some((_, known)) = self.watches.iter_mut().find(|(known, _)| *known == uid) {
            *known = until.max(*known);
            return Ok(());
        }
        if self.watches.len() >= WATCHES_MAX {
            return Err(TooManyWatches);
        }
        self.watches.push((uid, until));
        Ok(())
    }

    /// Marks from serial number `from` on, and the number after the last. What was asked for and has given way is not there.
    #[must_use]
    pub fn since(&self, from: u64) -> (Vec<Mark>, u64) {
        let skip = from.saturating_sub(self.first).min(self.marks.len() as u64) as usize;
        (self.marks.range(skip..).copied().collect(), self.first + self.marks.len() as u64)
    }

    /// The names of watched users' messages, oldest first.
    #[must_use]
    pub fn named(&self) -> Vec<Named> {
        self.named.iter().cloned().collect()
    }
}

/// When the entries under way of one slot were proposed and durable. Emptied as they are applied.
#[derive(Debug, Default)]
pub struct Flights {
    /// By index, rising: proposed at, durable at.
    under_way: VecDeque<(u64, Instant, Option<Instant>)>,
}

impl Flights {
    /// An entry was proposed.
    pub fn proposed(&mut self, index: u64, now: Instant) {
        self.under_way.push_back((index, now, None));
    }

    /// Everything up to `index` is on this disk.
    pub fn durable(&mut self, index: u64, now: Instant) {
        for (_, _, durable) in self.under_way.iter_mut().take_while(|(at, ..)| *at <= index) {
            durable.get_or_insert(now);
        }
    }

    /// An entry is applied: when it was proposed and durable here. One that was agreed on by others before it was durable here has no
    /// second time.
    pub fn applied(&mut self, index: u64) -> Option<(Instant, Option<Instant>)> {
        while let Some((at, proposed, durable)) = self.under_way.front().copied().filter(|(at, ..)| *at <= index) {
            self.under_way.pop_front();
            if at == index {
                return Some((proposed, durable));
            }
        }
        None
    }

    /// Nobody leads here any more.
    pub fn forget(&mut self) {
        self.under_way.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(message_id: i64) -> Marked<'static> {
        Marked { message_id, from: "alice", to: "bob" }
    }

    fn uid(name: &str) -> Uid {
        Uid::parse(name).unwrap()
    }

    #[test]
    fn about_one_in_so_many_is_sampled_and_the_same_ones_everywhere() {
        let (here, there) = (Marks::new(64), Marks::new(64));
        let ids = (0..64_000).map(|at| (1 << 40) + at * 2);
        let sampled: Vec<i64> = ids.filter(|id| here.samples(*id)).collect();
        assert!((800..1200).contains(&sampled.len()), "{}", sampled.len());
        assert!(sampled.iter().all(|id| there.samples(*id)));
        assert!((0..1000).all(|id| !Marks::new(0).samples(id)) && (0..1000).all(|id| Marks::new(1).samples(id)));
    }

    #[test]
    fn who_is_watched_is_marked_for_as_long_as_was_asked() {
        let mut marks = Marks::new(0);
        marks.mark(Instant(1), Point::Taken, named(1));
        assert_eq!(marks.since(0), (Vec::new(), 0));
        marks.watch(Instant(1), uid("bob"), Instant(10)).unwrap();
        marks.watch(Instant(1), uid("bob"), Instant(20)).unwrap();
        marks.mark(Instant(15), Point::Noticed, named(2));
        marks.name(Instant(15), named(2), 7, 3);
        marks.mark(Instant(20), Point::Delivered, named(2));
        marks.mark(Instant(15), Point::Noticed, Marked { message_id: 3, from: "carol", to: "dave" });
        let mark = Mark { message_id: 2, at: Instant(15), point: Point::Noticed, sampled: false };
        assert_eq!(marks.since(0), (vec![mark], 1));
        assert_eq!(marks.since(1), (Vec::new(), 1));
        assert_eq!((marks.named()[0].seq, marks.named()[0].from.as_str()), (7, "alice"));
    }

    #[test]
    fn only_so_many_are_watched_and_old_watches_make_room() {
        let mut marks = Marks::new(0);
        for at in 0..WATCHES_MAX {
            marks.watch(Instant(1), uid(&format!("u{at}")), Instant(10)).unwrap();
        }
        assert_eq!(marks.watch(Instant(1), uid("one_more"), Instant(10)), Err(TooManyWatches));
        marks.watch(Instant(10), uid("one_more"), Instant(20)).unwrap();
    }

    #[test]
    fn the_oldest_marks_give_way() {
        let mut marks = Marks::new(1);
        for at in 0..MARKS_MAX as i64 + 10 {
            marks.mark(Instant(at as u64), Point::Taken, named(at));
        }
        let (kept, next) = marks.since(5);
        assert_eq!((kept.len(), kept[0].message_id, next), (MARKS_MAX, 10, MARKS_MAX as u64 + 10));
        assert_eq!(marks.since(next - 1).0.len(), 1);
        for at in 0..NAMED_MAX as i64 + 10 {
            marks.watch(Instant(0), uid("bob"), Instant(1)).unwrap();
            marks.name(Instant(0), named(at), 1, 1);
        }
        assert_eq!((marks.named().len(), marks.named()[0].message_id), (NAMED_MAX, 10));
    }

    #[test]
    fn an_entry_keeps_its_times_until_it_is_applied() {
        let mut flights = Flights::default();
        for index in 1..=4 {
            flights.proposed(index, Instant(index));
        }
        flights.durable(2, Instant(9));
        flights.durable(3, Instant(11));
        assert_eq!(flights.applied(2), Some((Instant(2), Some(Instant(9)))));
        assert_eq!(flights.applied(3), Some((Instant(3), Some(Instant(11)))));
        assert_eq!(flights.applied(4), Some((Instant(4), None)));
        assert_eq!(flights.applied(5), None);
        flights.proposed(6, Instant(1));
        flights.forget();
        assert_eq!(flights.applied(6), None);
    }
}
