//! What a gateway says to leaders that are new or that ask: which sessions are here, and what these have taken. Said piece by piece, as the way
//! there has room: a quarter of a million sessions are more than a link ever takes at once. Does not know who leads
//! (`engine::routes`), nor what a leader makes of it (`engine::rollcall`).
//!
//! ```text
//!  to greet ──► statement to one leader about some of its slots: first piece ─► … ─► last piece ──► (gone)
//!                   ▲                                            │
//!                   └── the slot has another leader, or the link was reset: all of it anew
//! ```
//!
//! A statement keeps no list of sessions, only how far it has come in the shard's own: whoever comes later than that registers by itself,
//! behind what was said before. A session that is being let in when it is passed asks once more, because the leader forgets
//! at the first piece whom it had of this shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::engine::delivery::Push;
use crate::engine::routes::Table;
use crate::engine::session::Phase;
use crate::format::frame::{Frame, Present, PresentSession};
use crate::ids::{Place, SessionId, SlotId};
use crate::time::Now;

use super::Shard;

/// What naming a session, or letting it ask again, takes beside its names.
const WORD_BYTES: usize = 256;

/// A piece is at least this large, where the way has so much room: less is waited for.
const PIECE_BYTES_MIN: usize = 2 << 10;

/// What a slot and its term take.
const SLOT_BYTES: usize = 12;

/// Sessions looked at for one leader in one round. The others follow in the next.
const LOOKED_AT_MAX: usize = 16_384;

/// What one leader is told.
#[derive(Debug)]
struct Statement {
    slots: Vec<(SlotId, u64)>,
    /// The next session to look at.
    next: usize,
}

/// Statements that are not finished, in order for each leader. A slot is in one of them at most.
#[derive(Debug, Default)]
pub(super) struct Greetings {
    to: BTreeMap<Place, VecDeque<Statement>>,
    /// Bytes that may still go to other nodes' shards in this step.
    pub(super) rooms: BTreeMap<Place, usize>,
    /// One of them goes on without waiting for room.
    pub(super) goes_on: bool,
}

impl Greetings {
    /// What was being said about a slot is of no use any more.
    fn forget(&mut self, slots: &BTreeSet<SlotId>) {
        for statements in self.to.values_mut() {
            for statement in statements.iter_mut() {
                statement.slots.retain(|(slot, _)| !slots.contains(slot));
            }
        }
    }

    pub(super) fn check_invariants(&self) {
        let named = || self.to.values().flatten().flat_map(|statement| &statement.slots);
        let slots: BTreeSet<SlotId> = named().map(|(slot, _)| *slot).collect();
        assert_eq!(slots.len(), named().count(), "a slot is greeted once at a time");
    }
}

impl Shard {
    /// Leaders that are new, or that ask, will hear which sessions are here; what was asked of their predecessors is asked again.
    pub(super) fn greet_leaders(&mut self, now: Now) {
        if self.to_greet.is_empty() {
            return;
        }
        // A leader may be known before the slot is: which sessions are its own only the table says.
        let table = Arc::clone(self.routes.table());
        let (slots, later): (BTreeSet<SlotId>, BTreeSet<SlotId>) =
            std::mem::take(&mut self.to_greet).into_iter().partition(|slot| table.row(*slot).is_some());
        self.to_greet = later;
        if slots.is_empty() {
            return;
        }
        self.greetings.forget(&slots);
        let mut statements: BTreeMap<Place, Vec<(SlotId, u64)>> = BTreeMap::new();
        for slot in &slots {
            if let Some((term, place)) = self.routes.leader(*slot) {
                statements.entry(place).or_default().push((*slot, term));
            }
        }
        for (leader, slots) in statements {
            self.greetings.to.entry(leader).or_default().push_back(Statement { slots, next: 0 });
        }
        let ids: Vec<SessionId> = self.sessions.iter().flatten().map(|session| session.id).collect();
        for id in ids {
            self.fetch_again(now, id, &slots, &table);
        }
        for place in 0..self.hosted.len() {
            self.with_slot(place, now, |slot, _, around| slot.announce_to_slots(&slots, around));
        }
    }

    /// A session's fetches from channels of these slots went to somebody who does not lead any more.
    fn fetch_again(&mut self, now: Now, id: SessionId, slots: &BTreeSet<SlotId>, table: &Table) {
        let limits = self.config.limits;
        if !self.session(id).and_then(|session| session.live()).is_some_and(|identity| identity.delivery.waits()) {
            return;
        }
        self.push_with(id, |delivery, out| {
            delivery.fetch_again(now.instant, &limits, |key| slots.contains(&table.slot(key.key_hash())), out);
        });
    }

    /// Statements go on, as far as there is room.
    pub(super) fn go_on_greeting(&mut self) {
        self.greetings.goes_on = false;
        let leaders: Vec<Place> = self.greetings.to.keys().copied().collect();
        for leader in leaders {
            let routes = &self.routes;
            let statements = self.greetings.to.get_mut(&leader);
            let Some(statement) = statements.and_then(|statements| statements.front_mut()) else { continue };
            statement.slots.retain(|(slot, term)| routes.leader(*slot) == Some((*term, leader)));
            let slots = statement.slots.clone();
            let next = if slots.is_empty() { Some(None) } else { self.say_piece(leader, slots) };
            let statements = self.greetings.to.get_mut(&leader).expect("it was just there");
            match next {
                None => continue,
                Some(None) => drop(statements.pop_front()),
                Some(Some(next)) => statements[0].next = next,
            }
            if statements.is_empty() {
                self.greetings.to.remove(&leader);
            } else {
                self.greetings.goes_on = true;
            }
        }
    }

    /// Bytes of statements that may go to a shard in this step: what is free of the first half of its link's window. The other half
    /// is for whoever has more urgent things to say.
    fn greeting_room(&self, to: Place) -> usize {
        if to.node == self.config.place.node {
            return usize::MAX;
        }
        let half = self.config.cluster.links.window_bytes / 2;
        self.greetings.rooms.get(&to).copied().unwrap_or_else(|| self.links.room(to).saturating_sub(half))
    }

    /// One piece of a statement. Returns where the next one begins, or that this was the last; nothing when there is no room.
    fn say_piece(&mut self, leader: Place, slots: Vec<(SlotId, u64)>) -> Option<Option<usize>> {
        let statement = &self.greetings.to[&leader][0];
        let (from, first) = (statement.next, statement.next == 0);
        let room = self.greeting_room(leader);
        // Each piece names all slots. What there can ever be is enough, or nothing would ever be said.
        let most = self.config.cluster.links.window_bytes / 2;
        let enough = (PIECE_BYTES_MIN + 2 * SLOT_BYTES * slots.len()).min(most);
        if room < enough {
            return None;
        }
        let concerned: BTreeSet<SlotId> = slots.iter().map(|(slot, _)| *slot).collect();
        let (mut named, mut asking, mut weight) = (Vec::new(), Vec::new(), SLOT_BYTES * slots.len());
        let mut at = from;
        let until = self.sessions.len().min(from + LOOKED_AT_MAX);
        while at < until && named.len() < self.config.limits.present_sessions_max && weight + WORD_BYTES < room {
            let index = at;
            at += 1;
            let Some(session) = self.sessions[index].as_deref() else { continue };
            let (id, phase, Some(identity)) = (session.id, session.phase, session.identity.as_deref()) else {
                continue;
            };
            if !concerned.contains(&identity.slot) {
                continue;
            }
            weight += WORD_BYTES + identity.uid.as_str().len() + identity.device_id.len();
            match phase {
                Phase::Registering => {
                    weight += identity.token.len();
                    asking.push(id);
                }
                Phase::Live => {
                    named.push(PresentSession {
                        session: id,
                        uid: identity.uid.clone(),
                        flag: identity.flag,
                        level: identity.level,
                        device_id: identity.device_id.clone(),
                        order: identity.order,
                    });
                    weight += self.report_again(id);
                }
                Phase::Fresh | Phase::Closing => {}
            }
        }
        let last = at >= self.sessions.len();
        let place = self.config.place;
        let present = Present { place, slots, sessions: named, first, last };
        self.out.frame(leader, Frame::Present(Box::new(present)));
        asking.into_iter().for_each(|id| self.ask_home(id));
        if leader.node != place.node {
            self.greetings.rooms.insert(leader, room.saturating_sub(weight));
        }
        Some((!last).then_some(at))
    }

    /// What a session's devices have taken. Returns about how many bytes that takes.
    fn report_again(&mut self, id: SessionId) -> usize {
        let mut weight = 0;
        self.push_with(id, |delivery, out| {
            let before = out.len();
            delivery.report_again(out);
            let names = out[before..].iter().map(|push| match push {
                Push::Report { channel, .. } => channel.id.len(),
                _ => 0,
            });
            weight = names.map(|name| WORD_BYTES + name).sum();
        });
        weight
    }
}
