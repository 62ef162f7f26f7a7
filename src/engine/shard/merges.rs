//! The shard's side of two slots that become one: who writes what down when, how neighbours find each other, and who must go on living until
//! everybody has what they need. What a merge does to a slot's state is `engine::slot::merge`'s affair.
//!
//! ```text
//!  rows: Absorb, Yield ─(moves)─► gathered: the upper one's replicas stand beside the lower one's
//!   upper leader: beside the lower one's leader, or after BESIDE_WITHIN: freeze ─► log ─► applied: nothing more is taken
//!   lower leader: its neighbour is frozen: absorb ─► log ─► applied: its keys are led here ─► MergeDone ─► one row: Digest
//!   any replica of the lower one: absorb agreed on ─► stalled until its neighbour is frozen ─► takes its state in ─► checkpoint
//!                                                                                                 ─► MergeDigested
//!  row at rest: the upper one's replicas end
//! ```
//!
//! Why nothing is lost or doubled, whoever dies when:
//!
//! * The absorb is written down only beside a frozen neighbour. That one has applied the freeze, so its group has agreed on it; nothing that the upper
//!   group agrees on later changes its state. So every replica of the lower slot takes in the same, whenever it does, and before the absorb
//!   counts nobody else has those keys: what came too late was told "moved", and waits at its gateway for the new table.
//! * Both are in the log, so a crash of anybody leaves them to whoever leads next. A leader that finds a plan in its row does the step that
//!   is missing; a step that comes again does nothing, because the state remembers the last plan.
//! * When the absorb is written down, the lower group's members are exactly its row's, and nothing moves since the plan was gathered; so every
//!   replica to which the absorb comes by the log has a neighbour. Whoever joins the group later comes by a snapshot from behind it.
//! * A replica that lags finds its neighbour as long as the row names the upper group, and that is until every replica of the row has said that it
//!   has the whole in a checkpoint (or has left the row). Until then the upper group lives on without keys, elects leaders that announce
//!   nothing, and brings its own replicas forward. After a crash a replica finds what it had: its checkpoint, its log with the
//!   absorb in it, and its neighbour, whose own checkpoint and log bring it to the freeze again.
//! * Once the absorb is in the lower one's checkpoint here, the neighbour here may end: the bodies stay where they lie in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::engine::home::Online;
use crate::engine::metadata::{MetadataCommand, Reshape, SlotRow};
use crate::engine::slot::MergeNews;
use crate::format::frame::{Frame, Propose};
use crate::ids::{Place, ShardId, SlotId};
use crate::time::{Instant, Now};

use super::hosting::same;
use super::{Hosted, Shard};

/// What was written into a log, or said to the metadata group, and shows no effect is written or said again after this: harmless.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// So long a leader that is to stop waits for being beside the leader that takes it in, which makes the stop short.
const BESIDE_WITHIN: Duration = Duration::from_secs(5);

/// Everything about merges that a shard keeps. Each has at most one place for each slot that there can be.
#[derive(Default)]
pub(super) struct Merges {
    /// Slots whose next agreed entry waits for a neighbour.
    stalled: BTreeSet<SlotId>,
    /// Entries that were written down: the leader's term, and when.
    proposed: BTreeMap<SlotId, (u64, Instant)>,
    /// Leaders that are to stop: by which plan, and since when.
    beside: BTreeMap<SlotId, (u64, Instant)>,
    /// What replicas have said to the metadata group: about which plan, and when.
    said: BTreeMap<SlotId, (u64, Instant)>,
}

/// True when something (of this term or plan) was done lately; if not, it counts as done now.
fn lately(done: &mut BTreeMap<SlotId, (u64, Instant)>, slot: SlotId, mark: u64, now: Instant) -> bool {
    let known = done.get(&slot);
    if known.is_some_and(|(then, at)| *then == mark && now.since(*at) < AGAIN_AFTER) {
        return true;
    }
    done.insert(slot, (mark, now));
    false
}

impl Shard {
    fn is_frozen_by(&self, slot: SlotId, plan: u64) -> bool {
        self.place_of(slot).is_some_and(|place| {
            let reshaped = self.hosted[place].slot.reshaped();
            reshaped.frozen.is_some() && reshaped.plan == plan
        })
    }

    /// Tells the metadata group. Nobody waits for the answer: the row says it, and until it does this is said again.
    fn say_to_council(&mut self, command: &MetadataCommand) {
        let first = Place { shard: ShardId(0), ..self.config.place };
        let command = Bytes::from(command.encode());
        self.out.frame(first, Frame::Propose(Propose { place: first, ticket: 0, command }));
    }

    // ---- leaders ----

    /// The row wants the group to merge. True: nothing else is to be done to its members now.
    pub(super) fn steer_merge(&mut self, place: usize, now: Now, row: &SlotRow) -> bool {
        match row.reshape {
            Some(Reshape::Absorb { gathered: true, .. }) => self.steer_absorb(place, now, row),
            Some(Reshape::Yield { plan, sibling, gathered: true }) => {
                self.steer_freeze(place, now, row, (plan, sibling))
            }
            _ => false,
        }
    }

    fn steer_freeze(&mut self, place: usize, now: Now, row: &SlotRow, (plan, low): (u64, SlotId)) -> bool {
        let hosted = &self.hosted[place];
        let (slot, group) = (hosted.slot.id(), hosted.slot.group());
        if hosted.slot.reshaped().plan >= plan {
            return true;
        }
        if !same(&row.replicas, group.members()) || group.is_changing() || hosted.slot.depth() != row.depth {
            return false;
        }
        let since = match self.merges.beside.get(&slot) {
            Some((known, since)) if *known == plan => *since,
            _ => now.instant,
        };
        self.merges.beside.insert(slot, (plan, since));
        let beside = self.leading(low).is_some();
        let late = now.instant.since(since) >= BESIDE_WITHIN && self.routes.leader(low).is_some();
        if !beside && !late {
            return false;
        }
        let term = group.term();
        if !lately(&mut self.merges.proposed, slot, term, now.instant) {
            let limits = self.config.limits;
            self.with_slot(place, now, |slot, _, _| slot.propose_freeze(plan, &limits));
        }
        true
    }

    fn steer_absorb(&mut self, place: usize, now: Now, row: &SlotRow) -> bool {
        let Some(Reshape::Absorb { plan, sibling, gathered: true }) = row.reshape else { return false };
        let hosted = &self.hosted[place];
        let (slot, group) = (hosted.slot.id(), hosted.slot.group());
        if hosted.slot.reshaped().plan >= plan {
            self.report_merge(slot, plan);
            return true;
        }
        let fits = same(&row.replicas, group.members()) && !group.is_changing() && hosted.slot.depth() == row.depth;
        if !fits || !self.is_frozen_by(sibling, plan) {
            return false;
        }
        let term = group.term();
        if !lately(&mut self.merges.proposed, slot, term, now.instant) {
            self.with_slot(place, now, |slot, _, _| slot.propose_absorb(plan));
        }
        true
    }

    fn report_merge(&mut self, slot: SlotId, plan: u64) {
        self.say_to_council(&MetadataCommand::MergeDone { slot, plan });
    }

    /// Slots led here whose neighbours are frozen take them in at once: meanwhile nobody has those keys.
    pub(super) fn hurry_merges(&mut self, now: Now) {
        let table = std::sync::Arc::clone(self.routes.table());
        for place in 0..self.hosted.len() {
            let hosted = &self.hosted[place];
            let Some(row) = table.row(hosted.slot.id()).filter(|_| hosted.slot.leads()) else { continue };
            if matches!(row.reshape, Some(Reshape::Absorb { gathered: true, .. })) {
                self.steer_absorb(place, now, row);
            }
        }
    }

    // ---- every replica ----

    /// A slot has had its turn: what a merge did to it, or waits for.
    pub(super) fn follow_merges(&mut self, place: usize, now: Now) {
        let slot = self.hosted[place].slot.id();
        if self.hosted[place].slot.stalled().is_some() {
            self.merges.stalled.insert(slot);
        }
        match self.hosted[place].slot.take_merge_news() {
            None => {}
            Some(MergeNews::Froze) => {
                self.merges.proposed.remove(&slot);
                self.merges.beside.remove(&slot);
                self.hurry_merges(now);
            }
            Some(MergeNews::Absorbed) => self.follow_absorbed(place, now),
        }
    }

    /// Slots that wait for their neighbours get what those hold, once they are frozen.
    pub(super) fn feed_stalled(&mut self, now: Now) {
        if self.merges.stalled.is_empty() {
            return;
        }
        for slot in std::mem::take(&mut self.merges.stalled) {
            let Some(place) = self.place_of(slot) else { continue };
            let Some(plan) = self.hosted[place].slot.stalled() else { continue };
            let sibling = slot.sibling(self.hosted[place].slot.depth());
            let frozen = self.place_of(sibling).filter(|_| self.is_frozen_by(sibling, plan));
            match frozen.and_then(|place| self.hosted[place].slot.portion()) {
                Some(portion) => self.with_slot(place, now, |slot, _, _| slot.give(portion)),
                None => {
                    self.merges.stalled.insert(slot);
                }
            }
        }
    }

    fn follow_absorbed(&mut self, place: usize, now: Now) {
        let (slot, depth) = (self.hosted[place].slot.id(), self.hosted[place].slot.depth());
        self.hosted[place].depth = depth;
        // Retention may have given up segments since the portion was copied.
        self.hosted[place].slot.drop_below(self.journal.segments().0);
        self.merges.proposed.remove(&slot);
        self.out.counters.merges += 1;
        self.transfers.outgoing.abandon_slot(slot, None);
        self.transfers.forget_arrivals(slot);
        if self.hosted[place].slot.leads() {
            self.welcome(place, slot.sibling(depth + 1), now);
            self.report_merge(slot, self.hosted[place].slot.reshaped().plan);
        }
    }

    /// Users whose homes have come with the sibling: who of them is online its leader knew, if it led here; else everybody is asked. Every gateway names
    /// its sessions once more when it sees the new table, and what their devices have taken: the sibling's leader may have known more of that than its
    /// group, and what came while it was frozen nobody took. Until then a session is not told what lags.
    fn welcome(&mut self, place: usize, sibling: SlotId, now: Now) {
        let beside = self.leading(sibling).map(|place| &self.hosted[place]);
        let known = beside.filter(|hosted| hosted.rollcall.is_complete(now.instant));
        let Some((everybody, watched)) =
            known.map(|hosted| (hosted.slot.everybody_online(), hosted.slot.watched_rows()))
        else {
            let gateways: Vec<Place> = self.gateways().collect();
            let until = now.instant + self.config.limits.rollcall_patience;
            return self.hosted[place].rollcall.begin(gateways.into_iter(), until);
        };
        let slot = &mut self.hosted[place].slot;
        for (uid, sessions, past_masters) in everybody {
            slot.home_or_new(&uid).take_in_masters(&past_masters);
            for online in sessions {
                slot.observe_order(online.order);
                slot.home_or_new(&uid).register(Online { named: false, ..online });
            }
        }
        self.with_slot(place, now, |slot, _, around| slot.go_on_watching(watched, around));
    }

    // ---- afterwards ----

    /// The plan of a merge of which this replica has yet to say that its part is safe here.
    fn undigested(&self, hosted: &Hosted) -> Option<u64> {
        match &self.routes.table().row(hosted.slot.id())?.reshape {
            Some(Reshape::Digest { plan, waits, .. }) if waits.contains(&hosted.slot.replica()) => {
                (hosted.slot.reshaped().plan >= *plan).then_some(*plan)
            }
            _ => None,
        }
    }

    /// A checkpoint is due for the sake of a merge.
    pub(super) fn owes_checkpoint(&self, hosted: &Hosted) -> bool {
        self.undigested(hosted).is_some_and(|plan| hosted.checkpoint_plan < plan)
    }

    /// Says which merges are in checkpoints here.
    pub(super) fn report_digested(&mut self, now: Now) {
        for place in 0..self.hosted.len() {
            let hosted = &self.hosted[place];
            let Some(plan) = self.undigested(hosted).filter(|plan| hosted.checkpoint_plan >= *plan) else { continue };
            let (slot, replica) = (hosted.slot.id(), hosted.slot.replica());
            if !lately(&mut self.merges.said, slot, plan, now.instant) {
                self.say_to_council(&MetadataCommand::MergeDigested { slot, plan, replica });
            }
        }
    }

    /// What must hold between steps.
    pub(super) fn check_merges(&self) {
        for hosted in &self.hosted {
            let (slot, reshaped) = (&hosted.slot, hosted.slot.reshaped());
            assert!(hosted.checkpoint_plan <= reshaped.plan, "no checkpoint is ahead of the state");
            assert!(slot.stalled().is_none() || self.merges.stalled.contains(&slot.id()), "who waits is in the list");
            assert!(slot.stalled().is_none() || slot.led_term().is_none(), "a leader never waits for its neighbour");
            assert_eq!(hosted.depth, slot.depth(), "a slot's depth is known");
            let Some(since) = reshaped.frozen else { continue };
            assert!(slot.depth() > 0 && slot.id().sibling(slot.depth()) < slot.id(), "only an upper sibling is frozen");
            let low = self.place_of(slot.id().at(slot.depth() - 1)).map(|place| &self.hosted[place].slot);
            if let Some(low) = low.filter(|low| low.depth() < slot.depth() && low.reshaped().plan >= reshaped.plan) {
                // Whoever connects to the lower one comes after everybody who was here.
                let lifted = low.group().applied_term() + low.reshaped().term_lift;
                assert!(lifted > since, "terms go on rising over a merge");
            }
        }
    }
}
