//! Reading a channel's messages back, a range at a time: from memory where they are still there, else from the journal, within
//! a bound of reads under way. Decides what to read and checks what came; whom the messages are for is the shard's
//! affair.
//!
//! ```text
//!  queued ──(a read is free)──► collecting ──all in memory──► done
//!                                  │  ▲
//!                                  ▼  │ ReadDone
//!                                waiting for the disk
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::channel::{Channel, HOLE};
use super::effect::{Effect, Effects};
use super::event::DiskFault;
use super::slot::RepeatCheck;
use crate::format::frame::Fetch;
use crate::format::message::{BadMessage, MESSAGE_BYTES_MAX, StoredMessage};
use crate::format::record::Position;
use crate::ids::{ChannelKey, ChannelKind, Place, SlotId};
use crate::limits::Limits;

/// Whom a range is for.
#[derive(Debug)]
pub enum Purpose {
    /// A session that lags.
    Fetch(Fetch),
    /// An API request; `more` is what to say when everything was read.
    Api {
        /// The shard that waits.
        asker: Place,
        /// Its number for it.
        ticket: u64,
        /// There are messages beyond the range.
        more: bool,
        /// If not all can be told, then the newest; else the oldest.
        newest: bool,
    },
    /// A repeat that must be compared with the first.
    Repeat(Box<RepeatCheck>),
    /// A slot's state that is being sent.
    Transfer(u64),
    /// Another replica whose copies are damaged.
    Repair {
        /// Who waits.
        asker: Place,
        /// For which messages.
        seqs: Vec<u32>,
    },
}

/// Messages `next..=until` of one channel.
#[derive(Debug)]
pub struct RangeRead {
    /// The channel's slot.
    pub slot: SlotId,
    /// Its index within the slot.
    pub channel: u32,
    /// The next one wanted.
    pub next: u32,
    /// The last one wanted.
    pub until: u32,
    /// What was read.
    pub messages: Vec<(u32, StoredMessage)>,
    /// Stop after one trip to the disk: a session's window, or a part, is better served by what is there.
    pub one_trip: bool,
    /// Whom it is for.
    pub purpose: Purpose,
    /// Messages that could not be read back.
    pub damaged: Vec<u32>,
    /// Others were asked for those already, up to here; 0: for none.
    pub repaired_to: u32,
    /// Not all of them have answered.
    pub unsure: bool,
    /// The disk has refused too often: what could not be read may be whole, and counts as damaged here.
    pub gave_up: bool,
    /// Times the disk has refused to read for this range.
    pub refusals: u8,
}

impl RangeRead {
    /// A range of a channel, named by its slot and its index there. One for a session stops after one trip to the disk.
    #[must_use]
    pub fn new((slot, channel): (SlotId, u32), range: RangeInclusive<u32>, purpose: Purpose) -> RangeRead {
        RangeRead {
            slot,
            channel,
            next: *range.start(),
            until: *range.end(),
            messages: Vec::new(),
            one_trip: matches!(purpose, Purpose::Fetch(_) | Purpose::Transfer(_)),
            purpose,
            damaged: Vec::new(),
            repaired_to: 0,
            unsure: false,
            gave_up: false,
            refusals: 0,
        }
    }

    /// What was damaged may be whole by now: reads on from there.
    #[must_use]
    pub fn again(mut self) -> RangeRead {
        if let Some(first) = self.damaged.iter().min().copied() {
            self.messages.retain(|(seq, _)| *seq < first);
            self.next = first;
        }
        self.damaged.clear();
        self
    }

    /// Leaves out what is beyond so many bytes, but never everything. True when something was.
    pub fn cut(&mut self, bytes_max: usize, newest: bool) -> bool {
        let mut bytes = 0;
        let mut fits = |(_, message): &&(u32, StoredMessage)| {
            bytes += message.bytes().len();
            bytes <= bytes_max
        };
        let count = self.messages.len();
        if newest {
            let kept = self.messages.iter().rev().take_while(&mut fits).count().max(1);
            self.messages.drain(..count.saturating_sub(kept));
        } else {
            let kept = self.messages.iter().take_while(&mut fits).count().max(1);
            self.messages.truncate(kept);
        }
        self.messages.len() < count
    }

    /// So much is in memory that the rest can wait: only a transfer's ranges are that long.
    fn is_full(&self, limits: &Limits) -> bool {
        matches!(self.purpose, Purpose::Transfer(_))
            && self.messages.iter().map(|(_, message)| message.bytes().len()).sum::<usize>()
                >= limits.fetch_bytes_max as usize
    }
}

/// One trip to the disk.
#[derive(Debug)]
struct Trip {
    range: RangeRead,
    /// First byte read.
    base: Position,
    /// Messages hoped for: up to here.
    last: u32,
}

/// What became of a range.
#[derive(Debug)]
pub enum Progress {
    /// Everything wanted is there, or gone.
    Done(RangeRead),
    /// It waits for the disk or for its turn.
    Waiting,
}

/// The disk may refuse a session's range so often in a row, a sweep apart, before its messages count as damaged: one bad moment
/// must not make a device pass over what it was promised, one bad sector must not hold back everything after it.
const FETCH_REFUSALS_MAX: u8 = 10;

/// Somebody waits for the answer to the other ranges: after so many refusals in all they get what could be read.
const ANSWER_REFUSALS_MAX: u8 = 3;

/// Reads under way and waiting.
#[derive(Debug, Default)]
pub struct Reads {
    /// Refused by the disk; they wait for the next sweep.
    refused: Vec<RangeRead>,
    trips: BTreeMap<u64, Trip>,
    queue: VecDeque<RangeRead>,
    next_ticket: u64,
}

impl Reads {
    /// Ranges that wait for a turn or for the disk.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.trips.len() + self.queue.len() + self.refused.len()
    }

    /// A range that waits for its turn.
    pub fn queue(&mut self, range: RangeRead) {
        self.queue.push_back(range);
    }

    /// Ranges that the disk refused are tried again from now on.
    pub fn retry_refused(&mut self) {
        self.queue.extend(self.refused.drain(..));
    }

    /// A queued range whose turn has come.
    pub fn take_queued(&mut self, limits: &Limits) -> Option<RangeRead> {
        if self.trips.len() < limits.reads_max { self.queue.pop_front() } else { None }
    }

    /// Goes on with a range as far as memory allows, then asks the disk. What is not before `written_end` is not on disk yet
    /// (durability in memory runs ahead of it): that waits for a later turn.
    pub fn advance(
        &mut self,
        mut range: RangeRead,
        channel: &Channel,
        written_end: Position,
        limits: &Limits,
        effects: &mut Effects,
    ) -> Progress {
        range.next = range.next.max(channel.first_seq());
        range.until = range.until.min(channel.last_seq());
        while range.next <= range.until && !range.is_full(limits) {
            match channel.recent(range.next) {
                Some(message) => range.messages.push((range.next, message.clone())),
                None if channel.position(range.next) == Some(HOLE) => range.damaged.push(range.next),
                None => break,
            }
            range.next += 1;
        }
        let enough = range.one_trip && !range.messages.is_empty();
        if range.next > range.until || enough {
            return Progress::Done(range);
        }
        let unwritten = channel.position(range.next).is_some_and(|position| position >= written_end);
        if unwritten || self.trips.len() >= limits.reads_max {
            self.queue.push_back(range);
            return Progress::Waiting;
        }
        self.ask(range, channel, written_end, limits, effects);
        Progress::Waiting
    }

    fn ask(
        &mut self,
        range: RangeRead,
        channel: &Channel,
        written_end: Position,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let first = channel.position(range.next).expect("the range was cut to what is readable");
        let mut last = range.next;
        let mut end = first.offset;
        while last < range.until {
            let Some(position) = channel.position(last + 1) else {
                break;
            };
            let near = position.offset.saturating_sub(first.offset) <= limits.fetch_bytes_max;
            // A message that was repaired may lie anywhere.
            let there = position.segment == first.segment
                && (end..written_end_of(first, written_end)).contains(&position.offset);
            if !there || !near || channel.recent(last + 1).is_some() {
                break;
            }
            last += 1;
            end = position.offset;
        }
        self.next_ticket += 1;
        effects.push(Effect::Read {
            ticket: self.next_ticket,
            segment: first.segment,
            offset: first.offset,
            length: end - first.offset + MESSAGE_BYTES_MAX as u32,
        });
        self.trips.insert(self.next_ticket, Trip { range, base: first, last });
    }

    /// A slot's messages lie elsewhere now, or nowhere: its ranges, for whom nothing more will be read. What the disk still says of them
    /// is heard by nobody.
    pub fn forget_slot(&mut self, slot: SlotId) -> Vec<RangeRead> {
        let tickets: Vec<u64> =
            self.trips.iter().filter(|(_, trip)| trip.range.slot == slot).map(|(t, _)| *t).collect();
        let mut forgotten: Vec<RangeRead> =
            tickets.iter().filter_map(|ticket| self.trips.remove(ticket)).map(|trip| trip.range).collect();
        for range in std::mem::take(&mut self.queue) {
            if range.slot == slot { forgotten.push(range) } else { self.queue.push_back(range) }
        }
        forgotten.extend(self.refused.extract_if(.., |range| range.slot == slot));
        forgotten
    }

    /// The channel of a trip, so that the caller can lend it to [`Reads::handle_done`].
    #[must_use]
    pub fn channel_of(&self, ticket: u64) -> Option<(SlotId, u32)> {
        self.trips.get(&ticket).map(|trip| (trip.range.slot, trip.range.channel))
    }

    /// The disk has answered: takes what is good; what is not is gone and counted. Nothing unchecked is ever served.
    pub fn handle_done(
        &mut self,
        ticket: u64,
        result: &Result<Bytes, DiskFault>,
        key: &ChannelKey,
        channel: &Channel,
    ) -> Option<RangeRead> {
        let Trip { mut range, base, last } = self.trips.remove(&ticket)?;
        if result.is_err() {
            range.refusals = range.refusals.saturating_add(1);
            let fetch = matches!(range.purpose, Purpose::Fetch(_));
            if range.refusals < if fetch { FETCH_REFUSALS_MAX } else { ANSWER_REFUSALS_MAX } {
                self.refused.push(range);
                return None;
            }
            range.gave_up = true;
        }
        for seq in range.next..=last {
            range.next = seq + 1;
            // Retention may have taken it while the disk was busy.
            let Some(position) = channel.position(seq) else {
                continue;
            };
            if position.segment != base.segment || position.offset < base.offset {
                // It was repaired meanwhile: to be read where it lies now.
                range.next = seq;
                break;
            }
            let taken = match result {
                Ok(bytes) if (position.offset - base.offset) as usize <= bytes.len() => {
                    StoredMessage::take(&bytes.slice((position.offset - base.offset) as usize..))
                }
                _ => Err(BadMessage::Cut { need: None }),
            };
            match taken {
                Ok(message) if belongs(&message, key) => range.messages.push((seq, own_copy(&message))),
                _ => range.damaged.push(seq),
            }
        }
        Some(range)
    }
}

/// The end of what is written, as an offset within a position's segment.
fn written_end_of(within: Position, written_end: Position) -> u32 {
    if within.segment < written_end.segment { u32::MAX } else { written_end.offset }
}

/// Right bytes at the wrong place are as bad as wrong bytes.
pub(super) fn belongs(message: &StoredMessage, key: &ChannelKey) -> bool {
    let (first, second) = key.members();
    match key.kind {
        ChannelKind::Pair => {
            (message.from() == first && message.to() == second) || (message.from() == second && message.to() == first)
        }
        ChannelKind::Command => message.to() == first || message.from() == first,
    }
}

/// A copy that does not hold the whole read in memory while the message waits for its RECVACK.
fn own_copy(message: &StoredMessage) -> StoredMessage {
    StoredMessage::trusted(Bytes::copy_from_slice(message.bytes()))
}
