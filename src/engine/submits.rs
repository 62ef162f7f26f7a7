//! Messages that wait for their slot's leader to say what became of them: the gateway's half of "acknowledged is stored once, in order,
//! whoever leads". Knows no sessions and no channels, and does not know how to reach anybody.
//!
//! ```text
//!  add ──► waiting ──(leader of a term known)──► sent ──Submitted──► (gone)
//!             ▲                                    │
//!             └──(a later term's leader is known)──┘   all of the slot again, in order, as the way there has room
//!                                                  └──(submit_give_up_after)──► given up: outcome unknown
//! ```
//!
//! Why nothing is overtaken: a leader takes only what was sent to it in its own term, links keep the order, and whenever the term changes
//! everything of the slot is sent again from the oldest on. What an earlier leader had stored already is recognised by its fingerprint.
//! A message that is not stored has no fingerprint to be recognised by: once sent it is sent again only when it certainly was
//! not taken.
//!
//! Why nothing waits for ever: whose leader has to be looked for is asked of who knows the leaders, each time, and remembered nowhere here. However
//! a leader came to be forgotten, what waits for it is looked after.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::frame::{Origin, Submission, Submit, Submitted};
use crate::format::packet::{HeaderFlags, Reason};
use crate::ids::SlotId;
use crate::time::Instant;

const SLOT_SHIFT: u32 = 48;
const TICKET_MASK: u64 = (1 << SLOT_SHIFT) - 1;

/// What a message takes beside its body: two uids, its channel's name and numbers.
const SUBMIT_BYTES: usize = 640;

#[derive(Debug)]
struct Waiting {
    /// `None` once answered out of order.
    submit: Option<Arc<Submit>>,
    origin: Origin,
    since: Instant,
    /// It was sent to somebody.
    sent: bool,
    /// Certainly not taken by the leader it was sent to last.
    returned: bool,
    ticket: u64,
}

#[derive(Debug, Default)]
struct Desk {
    /// The term to whose leader everything in `waiting` was sent; 0: to none.
    sent_term: u64,
    waiting: VecDeque<Waiting>,
    /// The leader of `sent_term` has said that it does not lead (any more).
    refused: bool,
    /// The last ones have not been sent yet: there was no room on the way. Nothing overtakes them.
    held: bool,
}

/// Desks by the number of their slot: at most one for each slot that there can be. Every message looks for its own twice.
#[derive(Debug, Default)]
struct Desks(Vec<Option<Box<Desk>>>);

impl Desks {
    fn desk(&self, slot: SlotId) -> Option<&Desk> {
        self.0.get(usize::from(slot.0))?.as_deref()
    }

    fn desk_mut(&mut self, slot: SlotId) -> Option<&mut Desk> {
        self.0.get_mut(usize::from(slot.0))?.as_deref_mut()
    }

    fn desk_or_new(&mut self, slot: SlotId) -> &mut Desk {
        let place = usize::from(slot.0);
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place].get_or_insert_default()
    }

    fn iter(&self) -> impl Iterator<Item = (SlotId, &Desk)> {
        self.0.iter().enumerate().filter_map(|(place, desk)| Some((SlotId(place as u16), desk.as_deref()?)))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut Desk)> {
        self.0.iter_mut().enumerate().filter_map(|(place, desk)| Some((SlotId(place as u16), desk.as_deref_mut()?)))
    }
}

/// A shard's messages under way, by slot.
#[derive(Debug, Default)]
pub struct Submits {
    desks: Desks,
    count: usize,
    last: u64,
}

/// What an answer means to who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Tell them.
    Final(Origin),
    /// It will be sent again.
    Again,
    /// Nobody waits for it (any more).
    Stale,
}

impl Submits {
    /// None under way; tickets are numbered from here, which no earlier process of this place did.
    #[must_use]
    pub fn new(first_number: u64) -> Submits {
        assert!(first_number <= TICKET_MASK / 2, "there is room for as many again");
        Submits { last: first_number, ..Submits::default() }
    }

    /// A number for the next message of a slot. Rises within the slot.
    pub fn ticket(&mut self, slot: SlotId) -> u64 {
        self.last += 1;
        u64::from(slot.0) << SLOT_SHIFT | self.last
    }

    /// The slot that a ticket was made for.
    #[must_use]
    pub fn slot_of(ticket: u64) -> SlotId {
        SlotId((ticket >> SLOT_SHIFT) as u16)
    }

    /// Messages under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// None under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keeps a message until it is answered. Returns what to send at once when the leader of `term` is known, everything before it was
    /// sent to the same, and there is room on the way.
    pub fn add(
        &mut self,
        now: Instant,
        origin: Origin,
        submit: Submit,
        (term, room): (Option<u64>, bool),
    ) -> Option<Submission> {
        let slot = Submits::slot_of(submit.ticket);
        let desk = self.desks.desk_or_new(slot);
        let submit = Arc::new(submit);
        if desk.waiting.is_empty() {
            (desk.sent_term, desk.refused, desk.held) = (term.unwrap_or(0), false, false);
        }
        let direct = term.filter(|term| *term == desk.sent_term && !desk.refused && !desk.held);
        desk.held |= direct.is_some() && !room;
        let direct = direct.filter(|_| room);
        let ticket = submit.ticket;
        assert!(desk.waiting.back().is_none_or(|last| last.ticket < ticket), "tickets of a slot rise");
        desk.waiting.push_back(Waiting {
            submit: Some(Arc::clone(&submit)),
            origin,
            since: now,
            sent: direct.is_some(),
            returned: false,
            ticket,
        });
        self.count += 1;
        direct.map(|term| Submission { slot, term, submit })
    }

    /// A leader of a later term is known, or the link to the leader has lost what was on its way: everything of the slot is to be sent (again),
    /// in order, as far as there is `room`, which shrinks. What is not stored and may have been taken is given back to be answered as failed.
    pub fn send_again(
        &mut self,
        slot: SlotId,
        (term, room): (u64, &mut usize),
        send: &mut Vec<Submission>,
        failed: &mut Vec<Origin>,
    ) {
        let Some(desk) = self.desks.desk_mut(slot) else {
            return;
        };
        (desk.sent_term, desk.refused) = (term, false);
        for waiting in &mut desk.waiting {
            let Some(submit) = &waiting.submit else { continue };
            let transient = submit.flags.contains(HeaderFlags::NO_PERSIST);
            if transient && waiting.sent && !waiting.returned {
                waiting.submit = None;
                self.count -= 1;
                failed.push(waiting.origin);
                continue;
            }
            (waiting.sent, waiting.returned) = (false, false);
        }
        desk.trim();
        self.send_more(slot, room, send);
    }

    /// Sends what was held back for want of room, in order, as far as there is room now.
    pub fn send_more(&mut self, slot: SlotId, room: &mut usize, send: &mut Vec<Submission>) {
        let Some(desk) = self.desks.desk_mut(slot) else {
            return;
        };
        let term = desk.sent_term;
        desk.held = false;
        for waiting in desk.waiting.iter_mut().filter(|waiting| !waiting.sent) {
            let Some(submit) = &waiting.submit else { continue };
            let weight = weight(submit);
            if weight > *room {
                desk.held = true;
                return;
            }
            *room -= weight;
            waiting.sent = true;
            send.push(Submission { slot, term, submit: Arc::clone(submit) });
        }
    }

    /// Slots with messages that were held back for want of room, and the term to whose leader they go.
    pub fn held(&self) -> impl Iterator<Item = (SlotId, u64)> + '_ {
        let held = self.desks.iter().filter(|(_, desk)| desk.held && !desk.refused && !desk.waiting.is_empty());
        held.map(|(slot, desk)| (slot, desk.sent_term))
    }

    /// An answer came.
    pub fn answer(&mut self, submitted: &Submitted) -> Answer {
        let slot = Submits::slot_of(submitted.ticket);
        let Some(desk) = self.desks.desk_mut(slot) else {
            return Answer::Stale;
        };
        let Some(waiting) = desk.find(submitted.ticket) else {
            return Answer::Stale;
        };
        if submitted.reason == Submitted::MOVED {
            waiting.returned = true;
            return Answer::Again;
        }
        if submitted.reason == Reason::NodeNotMatch as u8 {
            waiting.returned = true;
            desk.refused |= submitted.term == desk.sent_term;
            return Answer::Again;
        }
        waiting.submit = None;
        let origin = waiting.origin;
        self.count -= 1;
        desk.trim();
        Answer::Final(origin)
    }

    /// What an answer is about, if it is still waited for, and since when.
    #[must_use]
    pub fn asked(&self, ticket: u64) -> Option<(&Submit, Instant)> {
        let desk = self.desks.desk(Submits::slot_of(ticket))?;
        let at = desk.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        let waiting = desk.waiting.get(at)?;
        Some((waiting.submit.as_deref()?, waiting.since))
    }

    /// Slots whose messages wait for a leader to be found: nobody is known to lead, or who is has said that it does not.
    pub fn leaderless(&self, is_led: impl Fn(SlotId) -> bool) -> impl Iterator<Item = SlotId> {
        let waiting = self.desks.iter().filter(|(_, desk)| !desk.waiting.is_empty());
        waiting.filter(move |(slot, desk)| desk.refused || !is_led(*slot)).map(|(slot, _)| slot)
    }

    /// The term to whose leader a slot's messages were sent, when there are any.
    #[must_use]
    pub fn sent_term(&self, slot: SlotId) -> Option<u64> {
        self.desks.desk(slot).filter(|desk| !desk.waiting.is_empty()).map(|desk| desk.sent_term)
    }

    /// Gives up what has waited since before `since`: what became of it is unknown.
    pub fn give_up(&mut self, since: Instant, failed: &mut Vec<Origin>) {
        for (_, desk) in self.desks.iter_mut() {
            for waiting in &mut desk.waiting {
                if waiting.since < since && waiting.submit.take().is_some() {
                    self.count -= 1;
                    failed.push(waiting.origin);
                }
            }
            desk.trim();
        }
    }

    /// Takes out what belongs to other slots since the table has changed, each slot's in its order, with the time since which it waits. What is not
    /// stored, was sent and did not come back may have been taken: it stays and waits for its answer.
    pub fn move_out(&mut self, slot_of: impl Fn(&Submit) -> SlotId) -> Vec<(Origin, Arc<Submit>, Instant)> {
        let mut moved = Vec::new();
        for (slot, desk) in self.desks.iter_mut() {
            for waiting in &mut desk.waiting {
                let under_way = waiting.sent && !waiting.returned;
                let moves = |submit: &mut Arc<Submit>| {
                    let taken = under_way && submit.flags.contains(HeaderFlags::NO_PERSIST);
                    !taken && slot_of(submit) != slot
                };
                if let Some(submit) = waiting.submit.take_if(moves) {
                    moved.push((waiting.origin, submit, waiting.since));
                }
            }
            desk.trim();
        }
        self.count -= moved.len();
        moved
    }

    /// Asserts what must hold between steps, when these are the terms of the leaders that are known.
    pub fn check_invariants(&self, led_term: impl Fn(SlotId) -> Option<u64>) {
        let waiting = self.desks.iter().flat_map(|(_, desk)| &desk.waiting);
        assert_eq!(waiting.filter(|waiting| waiting.submit.is_some()).count(), self.count);
        for (slot, desk) in self.desks.iter() {
            let own = |waiting: &Waiting| {
                Submits::slot_of(waiting.ticket) == slot && waiting.ticket & TICKET_MASK <= self.last
            };
            assert!(desk.waiting.iter().all(own), "a ticket names its slot, and was dealt out");
            let whole =
                |waiting: &Waiting| waiting.submit.as_ref().is_none_or(|submit| submit.ticket == waiting.ticket);
            assert!(desk.waiting.iter().all(whole), "a message carries its ticket");
            assert!(
                desk.waiting.iter().flat_map(|waiting| &waiting.submit).all(|submit| submit.fingerprint != 0),
                "every message has a name"
            );
            let rises = desk.waiting.iter().zip(desk.waiting.iter().skip(1)).all(|(a, b)| a.ticket < b.ticket);
            assert!(rises, "a slot's messages keep their order");
            assert!(desk.waiting.front().is_none_or(|first| first.submit.is_some()), "answered ones do not pile up");
            let Some(term) = led_term(slot).filter(|_| !desk.waiting.is_empty()) else { continue };
            assert_eq!(desk.sent_term, term, "everything of a slot is the known leader's");
            let sent = desk.waiting.iter().filter(|waiting| waiting.submit.is_some()).all(|waiting| waiting.sent);
            assert!(sent || desk.held || desk.refused, "what is not sent waits for something");
        }
    }
}

/// About how many bytes a message takes on its way.
#[must_use]
pub fn weight(submit: &Submit) -> usize {
    SUBMIT_BYTES + submit.body.bytes.len()
}

impl Desk {
    /// The one with this ticket that is not answered: nearly always the oldest.
    fn find(&mut self, ticket: u64) -> Option<&mut Waiting> {
        let at = match self.waiting.front() {
            Some(first) if first.ticket == ticket => 0,
            _ => self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?,
        };
        self.waiting.get_mut(at).filter(|waiting| waiting.submit.is_some())
    }

    fn trim(&mut self) {
        while self.waiting.front().is_some_and(|first| first.submit.is_none()) {
            self.waiting.pop_front();
        }
    }
}
