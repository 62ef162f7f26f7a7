//! HTTP requests that wait for their key's leader, on the shard that took them. Each is sent to whoever leads, and again when it is known that
//! someone else does, until it is answered or given up: all of them may be carried out twice without harm, one right after the other. Each names
//! the term in which the asked one leads, so that what lay on a broken way meanwhile does not undo what came later. Knows nothing of what they ask.
//!
//! ```text
//!  open ──► waiting ──(leader known)──► sent ──Answered(some)──► (gone)
//!              ▲                          │
//!              └──(Answered(none), or another leader)──┘──(give up)──► Busy
//! ```

use std::collections::BTreeMap;

use crate::format::frame::Ask;
use crate::format::request::{ApiAnswer, ApiRequest};
use crate::ids::{DeviceFlag, Place, SlotId, Uid};
use crate::time::Instant;

/// A part of a request: what one slot's leader is asked.
#[derive(Debug)]
struct Part {
    request: u64,
    slot: SlotId,
    what: ApiRequest,
    /// Nobody has it at the moment.
    idle: bool,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    parts: usize,
    online: Vec<(Uid, DeviceFlag)>,
}

/// Requests under way.
#[derive(Debug, Default)]
pub struct Asks {
    open: BTreeMap<u64, Open>,
    parts: BTreeMap<u64, Part>,
    last: u64,
}

impl Asks {
    /// None under way; they are numbered from here, which no earlier process of this place did.
    #[must_use]
    pub fn new(first_number: u64) -> Asks {
        Asks { last: first_number, ..Asks::default() }
    }

    /// Begins a request of `ticket`: one part a slot.
    pub fn begin(&mut self, now: Instant, ticket: u64, parts: Vec<(SlotId, ApiRequest)>) -> Vec<u64> {
        self.open.insert(ticket, Open { since: now, parts: parts.len(), online: Vec::new() });
        let numbered = parts.into_iter().map(|(slot, what)| {
            self.last += 1;
            self.parts.insert(self.last, Part { request: ticket, slot, what, idle: true });
            self.last
        });
        numbered.collect()
    }

    /// What to send for a part that nobody has, to who leads in this term.
    pub fn send(&mut self, number: u64, place: Place, term: u64) -> Option<Ask> {
        let part = self.parts.get_mut(&number)?;
        part.idle = false;
        Some(Ask { place, ticket: number, slot: part.slot, term, request: part.what.clone() })
    }

    /// The slot of a part.
    #[must_use]
    pub fn slot_of(&self, number: u64) -> Option<SlotId> {
        self.parts.get(&number).map(|part| part.slot)
    }

    /// Parts for a slot, whoever has them: its leader is another one now, or the link to it has lost what was on its way.
    #[must_use]
    pub fn of_slot(&self, slot: SlotId) -> Vec<u64> {
        self.parts.iter().filter(|(_, part)| part.slot == slot).map(|(number, _)| *number).collect()
    }

    /// The slots of all parts, whoever has them, some of them more than once.
    pub fn slots(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.parts.values().map(|part| part.slot)
    }

    /// Parts under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// None under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Parts that nobody has.
    #[must_use]
    pub fn idle(&self) -> Vec<u64> {
        self.parts.iter().filter(|(_, part)| part.idle).map(|(number, _)| *number).collect()
    }

    /// An answer came. Returns the request and its answer when that was the last part.
    pub fn answer(&mut self, number: u64, answer: Option<ApiAnswer>) -> Option<(u64, ApiAnswer)> {
        let part = self.parts.get_mut(&number)?;
        let Some(answer) = answer else {
            part.idle = true;
            return None;
        };
        let request = part.request;
        self.parts.remove(&number);
        let open = self.open.get_mut(&request)?;
        open.parts -= 1;
        let answer = match answer {
            ApiAnswer::Online(online) => {
                open.online.extend(online);
                if open.parts > 0 {
                    return None;
                }
                ApiAnswer::Online(std::mem::take(&mut open.online))
            }
            other => other,
        };
        self.end(request);
        Some((request, answer))
    }

    /// Slots are not what they were: parts are put together anew. Returns those that nobody has.
    pub fn reroute(&mut self, parts_of: impl Fn(ApiRequest) -> Vec<(SlotId, ApiRequest)>) -> Vec<u64> {
        let mut moved = Vec::new();
        for number in self.parts.keys().copied().collect::<Vec<_>>() {
            let Some(part) = self.parts.get(&number) else { continue };
            let (request, anew) = (part.request, parts_of(part.what.clone()));
            if anew.is_empty() || anew.iter().all(|(slot, _)| *slot == part.slot) {
                continue;
            }
            self.parts.remove(&number);
            if let Some(open) = self.open.get_mut(&request) {
                open.parts += anew.len() - 1;
            }
            for (slot, what) in anew {
                self.last += 1;
                self.parts.insert(self.last, Part { request, slot, what, idle: true });
                moved.push(self.last);
            }
        }
        moved
    }

    /// Forgets the requests that have waited since before `since`; they are to be told that the node is busy.
    pub fn give_up(&mut self, since: Instant) -> Vec<u64> {
        let late: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.since < since).map(|(ticket, _)| *ticket).collect();
        late.iter().for_each(|ticket| self.end(*ticket));
        late
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        for (ticket, open) in &self.open {
            let parts = self.parts.values().filter(|part| part.request == *ticket).count();
            assert_eq!(parts, open.parts, "every part that is missing is under way");
            assert!(parts > 0, "a request ends with its last part");
        }
        assert!(self.parts.values().all(|part| self.open.contains_key(&part.request)), "a part is of a request");
        assert!(self.parts.keys().all(|number| *number <= self.last), "numbers rise");
    }

    fn end(&mut self, request: u64) {
        self.open.remove(&request);
        self.parts.retain(|_, part| part.request != request);
    }
}
