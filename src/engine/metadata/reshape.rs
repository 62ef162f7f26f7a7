//! Splits and merges in the agreed state. Both are planned here first, then carried out by the slots' own groups with an entry in their
//! own logs, then reported back here; each step names its plan, so that whoever comes after a crash anywhere finds in the rows what
//! is under way and can do the next step again without harm.
//!
//! ```text
//!  split:  Split ─► parent's row: Split{child's replicas, numbered} ─► parent's log: split ─► SplitDone: two rows, one deeper
//!  merge:  Merge ─► lower row: Absorb, upper row: Yield, both not gathered: moves bring the upper one to where the lower one is
//!               ─► MergeBegin, when nothing of both moves and their places are the same: gathered, nothing moves any more
//!               ─► upper's log: its last entry ─► lower's log: absorb ─► MergeDone: one row, one shallower, Digest
//!               ─► MergeDigested by every replica of the row ─► at rest; the upper one's group ends
//! ```
//! A planned split is never given up: its parent's leader may have written it down already, and it needs no more than the majority that
//! the parent needs anyway. A disk lost meanwhile sets a target, but a row's reshaping comes before its move. Nor is a merge given up:
//! until it begins both slots are moved as any others (the upper one to where the lower one is), from then on it needs the majorities that
//! both groups need anyway. Why a row that has merged names the group of its sibling for a while is said in `engine::shard::merges`.

use super::{Cluster, Refusal, Reshape, SLOT_DEPTH_MAX, SlotRow, refuse};
use crate::ids::{Place, ReplicaId, SlotId};

impl Cluster {
    pub(super) fn plan_split(&mut self, slot: SlotId, epoch: u64) -> Result<bool, Refusal> {
        let row = self.resting(slot, epoch)?;
        if row.depth >= SLOT_DEPTH_MAX {
            return refuse(format!("the operator asks too much: slot {slot} is as small as slots can be"));
        }
        let (child, places) = (slot.sibling(row.depth + 1), places(row));
        assert!(child > slot, "the child has the bit that the parent has not");
        self.check_numbers(places.len())?;
        let replicas = places.into_iter().map(|place| self.number(place)).collect();
        let plan = self.version + 1;
        self.rows.entry(slot).and_modify(|row| row.reshape = Some(Reshape::Split { plan, child, replicas }));
        Ok(true)
    }

    pub(super) fn split_done(&mut self, slot: SlotId, plan: u64) -> Result<bool, Refusal> {
        let Some(row) = self.rows.get(&slot) else { return no_slot(slot) };
        let Some(Reshape::Split { plan: planned, child, replicas }) = row.reshape.clone() else {
            return not_planned(slot, plan);
        };
        if planned != plan {
            return not_planned(slot, plan);
        }
        let led = row.replicas.iter().position(|replica| *replica == row.preferred).unwrap_or(0);
        let preferred = replicas.get(led).or(replicas.first()).copied().unwrap_or_default();
        // A disk may have been lost since the child was numbered.
        let lost = replicas.iter().filter(|replica| self.is_lost(**replica)).count();
        self.check_numbers(replicas.len())?;
        let renewed = lost > 0 && lost < replicas.len();
        let target = renewed.then(|| self.renumbered(replicas.clone()));
        let (depth, epoch) = row_mut(self, slot, |row| {
            row.depth += 1;
            row.epoch += 1;
            row.reshape = None;
            (row.depth, row.epoch)
        });
        // Not founded: what the child begins with splits off from its parent, on each disk by itself. Its epochs go on from those of its parent: what is
        // late of an earlier slot of its number, merged away since, is of a lower one.
        let row = SlotRow { depth, epoch, replicas, preferred, target, founded: false, settling: false, reshape: None };
        let before = self.rows.insert(child, row);
        assert!(before.is_none(), "rows never overlap");
        Ok(true)
    }

    pub(super) fn plan_merge(&mut self, low: SlotId, low_epoch: u64, high_epoch: u64) -> Result<bool, Refusal> {
        let row = self.resting(low, low_epoch)?;
        let depth = row.depth;
        if depth == 0 {
            return refuse(format!("the operator asks too much: slot {low} is the only one"));
        }
        let high = low.sibling(depth);
        if high < low {
            return refuse(format!(
                "the operator is wrong: slot {low} is the upper sibling of slot {high}, name that one"
            ));
        }
        let sibling = self.resting(high, high_epoch)?;
        if sibling.depth != depth {
            return refuse(format!("the operator is too early: slot {high} is split further than slot {low}"));
        }
        assert!(low < high, "the lower one takes the upper one in");
        let plan = self.version + 1;
        let (absorb, gives) = (
            Reshape::Absorb { plan, sibling: high, gathered: false },
            Reshape::Yield { plan, sibling: low, gathered: false },
        );
        row_mut(self, low, |row| row.reshape = Some(absorb));
        row_mut(self, high, |row| row.reshape = Some(gives));
        Ok(true)
    }

    /// Siblings that are to merge can begin with it: where one is the other is, and nothing of them moves.
    #[must_use]
    pub fn is_gathered(&self, low: &SlotRow, high: &SlotRow) -> bool {
        let rests = |row: &SlotRow| !row.is_changing();
        let (mut here, mut there) = (places(low), places(high));
        here.sort_unstable();
        there.sort_unstable();
        rests(low) && rests(high) && here == there
    }

    pub(super) fn begin_merge(&mut self, low: SlotId, plan: u64) -> Result<bool, Refusal> {
        let (high, gathered) = self.absorbing(low, plan)?;
        if gathered {
            return Ok(false);
        }
        let (Some(row), Some(sibling)) = (self.rows.get(&low), self.rows.get(&high)) else { return no_slot(high) };
        if !self.is_gathered(row, sibling) {
            return refuse(format!("the sender is too early: slots {low} and {high} are not in the same places"));
        }
        let place = row.preferred.place();
        let beside = sibling.replicas.iter().copied().find(|replica| replica.place() == place);
        let (absorb, gives) = (
            Reshape::Absorb { plan, sibling: high, gathered: true },
            Reshape::Yield { plan, sibling: low, gathered: true },
        );
        row_mut(self, low, |row| row.reshape = Some(absorb));
        row_mut(self, high, |row| {
            row.reshape = Some(gives);
            // Side by side the leaders hear of each other at once.
            row.preferred = beside.unwrap_or(row.preferred);
        });
        Ok(true)
    }

    pub(super) fn merge_done(&mut self, low: SlotId, plan: u64) -> Result<bool, Refusal> {
        let reported = self.rows.get(&low).and_then(|row| row.reshape.as_ref());
        if matches!(reported, Some(Reshape::Digest { plan: done, .. }) if *done == plan) {
            return Ok(false);
        }
        let (high, gathered) = self.absorbing(low, plan)?;
        if !gathered {
            return refuse(format!("slot {low}'s leader is wrong: its merge has not begun"));
        }
        let Some(taken) = self.rows.remove(&high) else { return no_slot(high) };
        row_mut(self, low, |row| {
            assert!(row.depth > 0, "only siblings are merged, and the only slot has none");
            row.depth -= 1;
            row.epoch = row.epoch.max(taken.epoch) + 1;
            let (replicas, waits) = (taken.replicas, row.replicas.clone());
            row.reshape = Some(Reshape::Digest { plan, sibling: high, replicas, waits });
        });
        Ok(true)
    }

    pub(super) fn merge_digested(&mut self, slot: SlotId, plan: u64, replica: ReplicaId) -> Result<bool, Refusal> {
        let Some(row) = self.rows.get_mut(&slot) else { return no_slot(slot) };
        match &row.reshape {
            Some(Reshape::Digest { plan: planned, waits, .. }) if *planned == plan => {
                let waited = waits.contains(&replica);
                row.digest_without(|waits| *waits == replica);
                Ok(waited)
            }
            // Said again, because the table that says so was late.
            _ => Ok(false),
        }
    }

    /// Children and siblings are who they must be, and both siblings speak of the same plan.
    pub(super) fn reshape_is_sound(&self, slot: SlotId, row: &SlotRow) -> bool {
        let partner = |depth: u8, sibling: SlotId| {
            let other = self
                .rows
                .get(&sibling)
                .filter(|other| depth > 0 && slot.sibling(depth) == sibling && other.depth == depth);
            other.and_then(|other| other.reshape.as_ref())
        };
        match &row.reshape {
            None => true,
            Some(Reshape::Split { child, replicas, .. }) => {
                row.depth < SLOT_DEPTH_MAX && *child == slot.sibling(row.depth + 1) && !replicas.is_empty()
            }
            Some(Reshape::Absorb { plan, sibling, gathered }) => {
                let back = Reshape::Yield { plan: *plan, sibling: slot, gathered: *gathered };
                partner(row.depth, *sibling) == Some(&back)
            }
            Some(Reshape::Yield { plan, sibling, gathered }) => {
                let back = Reshape::Absorb { plan: *plan, sibling: slot, gathered: *gathered };
                partner(row.depth, *sibling) == Some(&back)
            }
            Some(Reshape::Digest { sibling, replicas, waits, .. }) => {
                let waiting = !waits.is_empty() && waits.iter().all(|one| row.replicas.contains(one));
                row.depth < SLOT_DEPTH_MAX && *sibling == slot.sibling(row.depth + 1) && !replicas.is_empty() && waiting
            }
        }
    }

    fn absorbing(&self, low: SlotId, plan: u64) -> Result<(SlotId, bool), Refusal> {
        let Some(row) = self.rows.get(&low) else { return no_slot(low) };
        match row.reshape {
            Some(Reshape::Absorb { plan: planned, sibling, gathered }) if planned == plan => Ok((sibling, gathered)),
            _ => not_planned(low, plan),
        }
    }
}

impl Reshape {
    /// Its plan's number.
    #[must_use]
    pub fn plan(&self) -> u64 {
        match self {
            Reshape::Split { plan, .. }
            | Reshape::Absorb { plan, .. }
            | Reshape::Yield { plan, .. }
            | Reshape::Digest { plan, .. } => *plan,
        }
    }
}

impl SlotRow {
    /// Its group has something to do that comes before moves.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self.reshape {
            None | Some(Reshape::Digest { .. }) => false,
            Some(Reshape::Split { .. }) => true,
            Some(Reshape::Absorb { gathered, .. } | Reshape::Yield { gathered, .. }) => gathered,
        }
    }

    /// Nobody waits any more for those replicas to have digested a merge; when nobody is left, it is over.
    pub(super) fn digest_without(&mut self, gone: impl Fn(&ReplicaId) -> bool) {
        if let Some(Reshape::Digest { waits, .. }) = &mut self.reshape {
            waits.retain(|replica| !gone(replica));
            self.reshape.take_if(|reshape| matches!(reshape, Reshape::Digest { waits, .. } if waits.is_empty()));
        }
    }
}

fn places(row: &SlotRow) -> Vec<Place> {
    row.replicas.iter().copied().map(ReplicaId::place).collect()
}

fn row_mut<T: Default>(cluster: &mut Cluster, slot: SlotId, change: impl FnOnce(&mut SlotRow) -> T) -> T {
    cluster.rows.get_mut(&slot).map(change).unwrap_or_default()
}

fn no_slot<T>(slot: SlotId) -> Result<T, Refusal> {
    refuse(format!("the sender is late: there is no slot {slot}"))
}

fn not_planned<T>(slot: SlotId, plan: u64) -> Result<T, Refusal> {
    refuse(format!("the sender is late: slot {slot} has no plan {plan} under way"))
}
