//! The leader's end: states of slots on their way out of this shard. Says what to read and what to send next; reads nothing itself, and
//! keeps no more of a channel in memory than the part being filled and the one waiting.
//!
//! ```text
//!  begin ──(frozen)──► offered ──SnapshotWant──► sending ⇄ reading ──all said──► waiting for the last answer ──► End(true)
//!    └──────────────────────┴──(refused, void, nothing heard for too long, link reset, no longer leading)────────► End(false)
//! ```

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use super::state::Frozen;
use super::{STATE, push_body};
use crate::format::frame::{Frame, SnapshotOffer, SnapshotPart, SnapshotTaken, SnapshotWant};
use crate::format::message::StoredMessage;
use crate::format::raft_message::RaftMessage;
use crate::ids::{Place, ReplicaId, SlotId};
use crate::limits::Limits;
use crate::time::Instant;

/// Messages asked for in one read. What counts is bytes: this only bounds the work for tiny messages.
const READ_MESSAGES_MAX: u32 = 1024;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Move {
    /// Say this.
    Say(Place, Frame),
    /// Read these and give them to [`Outgoing::handle_read`], sooner or later. Some of them will do.
    Read {
        /// Whose.
        transfer: u64,
        /// Which slot.
        slot: SlotId,
        /// Index of the channel.
        channel: u32,
        /// Which messages.
        range: RangeInclusive<u32>,
    },
    /// It is over: raft is to be told.
    End {
        /// Which slot.
        slot: SlotId,
        /// Who was sent to.
        to: ReplicaId,
        /// It has everything.
        ok: bool,
    },
}

#[derive(Debug)]
struct Sending {
    transfer: u64,
    slot: SlotId,
    term: u64,
    to: ReplicaId,
    /// For who takes the state; it goes with the offer.
    message: Option<RaftMessage>,
    frozen: Frozen,
    /// Number of the last message that is there, by channel; `None` before the answer to the offer.
    have: Option<Vec<u32>>,
    /// Where the next read begins.
    channel: u32,
    seq: u32,
    reading: bool,
    bodies_done: bool,
    state_at: usize,
    building: Vec<u8>,
    ready: VecDeque<Bytes>,
    said: u32,
    taken: u32,
    /// When the peer was last heard, or had nothing to answer.
    heard_at: Instant,
    end: Option<bool>,
}

/// Bytes that may be said now. Fills with time; a part may overdraw it, and the next one waits.
#[derive(Debug)]
struct Bucket {
    bytes: i64,
    filled_at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant, limits: &Limits) {
        let rate = u128::from(limits.transfer_bytes_per_second);
        let more = now.since(self.filled_at).as_nanos() * rate / 1_000_000_000;
        if more == 0 {
            return;
        }
        // No more than a window at once, or a sixteenth of a second's worth.
        let most = (limits.transfer_part_bytes as i64 * i64::from(limits.transfer_window)).max((rate / 16) as i64);
        self.bytes = (i128::from(self.bytes) + more as i128).min(i128::from(most)) as i64;
        self.filled_at = now;
    }

    /// When there is something in it again.
    fn due(&self, limits: &Limits) -> Instant {
        let missing = u128::from(self.bytes.min(0).unsigned_abs()) + 1;
        let nanos = missing * 1_000_000_000 / u128::from(limits.transfer_bytes_per_second) + 1;
        self.filled_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// States on their way out.
#[derive(Debug)]
pub struct Outgoing {
    sendings: Vec<Sending>,
    next_transfer: u64,
    bucket: Bucket,
}

impl Outgoing {
    /// None yet. `boot` names this process, so that numbers of an earlier one are never taken for those of this one.
    #[must_use]
    pub fn new(boot: u64) -> Outgoing {
        Outgoing { sendings: Vec::new(), next_transfer: boot << 32, bucket: Bucket { bytes: 0, filled_at: Instant(0) } }
    }

    /// How many are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sendings.len()
    }

    /// Another one to this replica may begin.
    #[must_use]
    pub fn has_room(&self, slot: SlotId, to: ReplicaId, limits: &Limits) -> bool {
        !self.is_sending(slot, to) && self.sendings.len() < limits.transfers_max
    }

    /// One to this replica is under way.
    #[must_use]
    pub fn is_sending(&self, slot: SlotId, to: ReplicaId) -> bool {
        self.sendings.iter().any(|sending| sending.slot == slot && sending.to == to)
    }

    /// A state is to be sent once it is frozen; [`Outgoing::has_room`] was asked. `message` is raft's, for who takes the state. Returns the number
    /// for [`Outgoing::offer`].
    pub fn begin(&mut self, now: Instant, message: RaftMessage, limits: &Limits) -> u64 {
        assert!(self.has_room(message.slot, message.to, limits), "there was room");
        self.next_transfer += 1;
        self.sendings.push(Sending {
            transfer: self.next_transfer,
            slot: message.slot,
            term: message.term,
            to: message.to,
            message: Some(message),
            frozen: Frozen::default(),
            have: None,
            channel: 0,
            seq: 0,
            reading: false,
            bodies_done: false,
            state_at: 0,
            building: Vec::new(),
            ready: VecDeque::new(),
            said: 0,
            taken: 0,
            heard_at: now,
            end: None,
        });
        self.next_transfer
    }

    /// Its state is still wanted.
    #[must_use]
    pub fn wants_state(&self, transfer: u64) -> bool {
        let wants = |sending: &Sending| sending.transfer == transfer && sending.end.is_none();
        self.sendings.iter().any(wants)
    }

    /// The state is frozen: it is offered. `None`: nobody wants it any more.
    pub fn offer(&mut self, now: Instant, transfer: u64, frozen: Frozen) -> Option<(Place, Frame)> {
        let sending = self.sendings.iter_mut().find(|sending| sending.transfer == transfer && sending.end.is_none())?;
        let message = sending.message.take()?;
        let (messages, plan) = (frozen.messages(), frozen.plan);
        (sending.frozen, sending.heard_at) = (frozen, now);
        let offer = SnapshotOffer { message, transfer, messages, plan };
        Some((sending.to.place(), Frame::SnapshotOffer(Box::new(offer))))
    }

    /// The state could not be frozen: its slot is not what it was.
    pub fn abandon(&mut self, transfer: u64) {
        for sending in self.sendings.iter_mut().filter(|sending| sending.transfer == transfer) {
            sending.end = Some(false);
        }
    }

    fn find(&mut self, transfer: u64, slot: SlotId, from: ReplicaId) -> Option<&mut Sending> {
        let known = |sending: &&mut Sending| (sending.transfer, sending.slot, sending.to) == (transfer, slot, from);
        self.sendings.iter_mut().find(known)
    }

    /// The answer to an offer. One that nobody waits for is no error.
    pub fn handle_want(&mut self, now: Instant, want: SnapshotWant) {
        let Some(sending) = self.find(want.transfer, want.slot, want.from) else {
            return;
        };
        if !want.accepted {
            sending.end = Some(false);
        } else if sending.have.is_none() && sending.message.is_none() {
            sending.have = Some(want.have);
            sending.heard_at = now;
        }
    }

    /// The answer to a part. One that nobody waits for is no error.
    ///
    /// # Errors
    /// An answer to what was never said: the replica's mistake. The transfer is given up.
    pub fn handle_taken(&mut self, now: Instant, taken: SnapshotTaken) -> Result<(), String> {
        let Some(sending) = self.find(taken.transfer, taken.slot, taken.from) else {
            return Ok(());
        };
        sending.heard_at = now;
        if !taken.good {
            sending.end = Some(false);
        } else if taken.number >= sending.said {
            sending.end = Some(false);
            return Err(format!(
                "replica {} of slot {} answers part {}, but only {} were sent: its fault",
                taken.from, taken.slot, taken.number, sending.said
            ));
        } else {
            sending.taken = sending.taken.max(taken.number + 1);
        }
        Ok(())
    }

    /// What was read for a transfer; the next read begins with `next`. What is missing before that cannot be read.
    pub fn handle_read(&mut self, transfer: u64, messages: &[(u32, StoredMessage)], next: u32, limits: &Limits) {
        let Some(sending) = self.sendings.iter_mut().find(|sending| sending.transfer == transfer) else {
            return;
        };
        assert!(sending.reading, "nothing was asked for");
        sending.reading = false;
        let channel = sending.channel;
        let last = sending.frozen.ranges[channel as usize].1;
        let wanted = sending.seq..=last;
        for (seq, message) in messages.iter().filter(|(seq, _)| wanted.contains(seq)) {
            let fits = sending.building.len() + message.bytes().len() <= limits.transfer_part_bytes;
            if !fits {
                sending.close_part();
            }
            push_body(channel, *seq, message, &mut sending.building);
        }
        sending.seq = sending.seq.max(next);
    }

    /// This slot's state is not to be sent (any more): its replica here no longer leads, in this term or at all.
    pub fn abandon_slot(&mut self, slot: SlotId, led_term: Option<u64>) {
        for sending in self.sendings.iter_mut().filter(|sending| sending.slot == slot) {
            if Some(sending.term) != led_term {
                sending.end = Some(false);
            }
        }
    }

    /// The link to a shard was reset: what was said may be lost.
    pub fn abandon_place(&mut self, place: Place) {
        for sending in self.sendings.iter_mut().filter(|sending| sending.to.place() == place) {
            sending.end = Some(false);
        }
    }

    /// What is to be done next; `None`: nothing before something is heard, read, or [`Outgoing::deadline`].
    pub fn next(&mut self, now: Instant, limits: &Limits) -> Option<Move> {
        self.bucket.fill(now, limits);
        for place in 0..self.sendings.len() {
            let next = self.sendings[place].next(now, limits, &mut self.bucket);
            if let Some(Move::End { .. }) = next {
                self.sendings.remove(place);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// When [`Outgoing::next`] has something to do although nothing happened.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<Instant> {
        self.sendings.iter().filter_map(|sending| sending.deadline(limits, &self.bucket)).min()
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self, limits: &Limits) {
        assert!(self.sendings.len() <= limits.transfers_max);
        for sending in &self.sendings {
            assert!(sending.taken <= sending.said && sending.said - sending.taken <= limits.transfer_window);
            assert!(sending.channel as usize <= sending.frozen.ranges.len());
        }
    }
}

impl Sending {
    fn close_part(&mut self) {
        if !self.building.is_empty() {
            self.ready.push_back(Bytes::from(std::mem::take(&mut self.building)));
        }
    }

    /// Everything that there is to say is said.
    fn all_said(&self) -> bool {
        self.bodies_done && self.state_at == self.frozen.state.len() && self.ready.is_empty()
    }

    fn patience(&self, limits: &Limits) -> Duration {
        if self.all_said() { limits.transfer_install_patience } else { limits.transfer_patience }
    }

    /// The peer owes an answer.
    fn owed(&self) -> bool {
        self.message.is_none() && (self.have.is_none() || self.said > self.taken)
    }

    fn next(&mut self, now: Instant, limits: &Limits, bucket: &mut Bucket) -> Option<Move> {
        if self.end.is_none() && self.owed() && now.since(self.heard_at) >= self.patience(limits) {
            self.end = Some(false);
        }
        if self.all_said() && self.taken == self.said {
            self.end.get_or_insert(true);
        }
        if let Some(ok) = self.end {
            return Some(Move::End { slot: self.slot, to: self.to, ok });
        }
        self.have.as_ref()?;
        if self.ready.is_empty() && !self.reading {
            if let Some(range) = self.next_range() {
                self.reading = true;
                return Some(Move::Read { transfer: self.transfer, slot: self.slot, channel: self.channel, range });
            }
            self.prepare_state(limits);
        }
        self.say(now, limits, bucket)
    }

    fn say(&mut self, now: Instant, limits: &Limits, bucket: &mut Bucket) -> Option<Move> {
        if self.said - self.taken >= limits.transfer_window || bucket.bytes <= 0 {
            return None;
        }
        let body = self.ready.pop_front()?;
        bucket.bytes -= body.len() as i64;
        if self.said == self.taken {
            self.heard_at = now;
        }
        let number = self.said;
        self.said += 1;
        let part = SnapshotPart { transfer: self.transfer, slot: self.slot, number, last: self.all_said(), body };
        Some(Move::Say(self.to.place(), Frame::SnapshotPart(part)))
    }

    /// The next messages to read, while there are any.
    fn next_range(&mut self) -> Option<RangeInclusive<u32>> {
        let have = self.have.as_deref().unwrap_or_default();
        while let Some((first, last)) = self.frozen.ranges.get(self.channel as usize).copied() {
            let there = have.get(self.channel as usize).copied().unwrap_or(0);
            let from = first.max(there.saturating_add(1)).max(self.seq);
            if there < last && self.seq <= last && from <= last {
                self.seq = from;
                return Some(from..=last.min(from.saturating_add(READ_MESSAGES_MAX - 1)));
            }
            self.channel += 1;
            self.seq = 0;
        }
        None
    }

    /// All bodies are read: the rest is the last part of them, then the state piece by piece.
    fn prepare_state(&mut self, limits: &Limits) {
        self.bodies_done = true;
        self.close_part();
        if self.ready.is_empty() && self.state_at < self.frozen.state.len() {
            let end = self.frozen.state.len().min(self.state_at + limits.transfer_part_bytes);
            let mut part = Vec::with_capacity(1 + end - self.state_at);
            part.push(STATE);
            part.extend_from_slice(&self.frozen.state[self.state_at..end]);
            self.state_at = end;
            self.ready.push_back(Bytes::from(part));
        }
    }

    fn deadline(&self, limits: &Limits, bucket: &Bucket) -> Option<Instant> {
        if self.end.is_some() {
            return Some(Instant(0));
        }
        let patience = self.owed().then(|| self.heard_at + self.patience(limits));
        let room = self.said - self.taken < limits.transfer_window;
        let bytes = (room && !self.ready.is_empty()).then(|| bucket.due(limits));
        patience.into_iter().chain(bytes).min()
    }
}
