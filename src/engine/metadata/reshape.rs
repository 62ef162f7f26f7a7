//! Splits and merges in the agreed state. Both are planned here first, then carried out by the slots' own groups with an entry in their
//! own logs, then reported back here; each step names its plan, so that whoever comes after a crash anywhere finds in the rows what
//! is under way and can do the next step again without harm.
//!
//! ```text
//!  split:  Split ─► parent's row: Split{child's replicas, numbered} ─► parent's log: split ─► SplitDone: two rows, one deeper
//!  merge:  Merge ─► lower row: Absorb, upper row: Yield ─► upper's log: its last entry ─► MergeFrozen: Absorb{frozen_at}
//!               ─► each lower replica waits for its neighbour up to there ─► lower's log: absorb ─► MergeDone: one row, one shallower
//!          CancelMerge before MergeFrozen; the log of the metadata group says which of the two came first, and the lower group
//!          takes nothing in before it has seen MergeFrozen.
//! ```
//! A planned split is never given up: its parent's leader may have written it down already, and it needs no more than the majority that
//! the parent needs anyway. A disk lost meanwhile sets a target, but a row's reshaping comes before its move.

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
        let depth = row_mut(self, slot, |row| {
            row.depth += 1;
            row.epoch += 1;
            row.reshape = None;
            row.depth
        });
        // Not founded: what the child begins with splits off from its parent, on each disk by itself.
        let row =
            SlotRow { depth, epoch: 1, replicas, preferred, target, founded: false, settling: false, reshape: None };
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
        let (mut here, mut there) = (places(row), places(sibling));
        here.sort_unstable();
        there.sort_unstable();
        if here != there {
            return refuse(format!("the operator is too early: slots {low} and {high} are not in the same places"));
        }
        let plan = self.version + 1;
        self.rows
            .entry(low)
            .and_modify(|row| row.reshape = Some(Reshape::Absorb { plan, sibling: high, frozen_at: None }));
        self.rows.entry(high).and_modify(|row| row.reshape = Some(Reshape::Yield { plan, sibling: low }));
        Ok(true)
    }

    pub(super) fn merge_frozen(&mut self, high: SlotId, plan: u64, index: u64) -> Result<bool, Refusal> {
        let Some(row) = self.rows.get(&high) else { return no_slot(high) };
        let low = match row.reshape {
            Some(Reshape::Yield { plan: planned, sibling }) if planned == plan => sibling,
            _ => return not_planned(high, plan),
        };
        let absorb = self.rows.get_mut(&low).and_then(|row| row.reshape.as_mut());
        let Some(Reshape::Absorb { frozen_at, .. }) = absorb else { return not_planned(low, plan) };
        if frozen_at.is_some_and(|before| before != index) {
            return refuse(format!("slot {high}'s leader is wrong: its last entry cannot be two"));
        }
        let changed = frozen_at.is_none();
        *frozen_at = Some(index);
        Ok(changed)
    }

    pub(super) fn merge_done(&mut self, low: SlotId, plan: u64) -> Result<bool, Refusal> {
        let (high, frozen_at) = self.absorbing(low, plan)?;
        if frozen_at.is_none() {
            return refuse(format!("slot {low}'s leader is wrong: slot {high} was not frozen yet"));
        }
        self.rows.remove(&high);
        row_mut(self, low, |row| {
            assert!(row.depth > 0, "only siblings are merged, and the only slot has none");
            row.depth -= 1;
            row.epoch += 1;
            row.reshape = None;
        });
        Ok(true)
    }

    pub(super) fn cancel_merge(&mut self, low: SlotId, plan: u64) -> Result<bool, Refusal> {
        let (high, frozen_at) = self.absorbing(low, plan)?;
        if frozen_at.is_some() {
            return refuse(format!("the operator is too late: slot {high} is frozen, the merge goes on"));
        }
        for slot in [low, high] {
            row_mut(self, slot, |row| row.reshape = None);
        }
        Ok(true)
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
            Some(Reshape::Absorb { plan, sibling, .. }) => {
                let other = partner(row.depth, *sibling);
                matches!(other, Some(Reshape::Yield { plan: same, sibling: back }) if same == plan && *back == slot)
            }
            Some(Reshape::Yield { plan, sibling }) => {
                let other = partner(row.depth, *sibling);
                matches!(other, Some(Reshape::Absorb { plan: same, sibling: back, .. }) if same == plan && *back == slot)
            }
        }
    }

    fn absorbing(&self, low: SlotId, plan: u64) -> Result<(SlotId, Option<u64>), Refusal> {
        let Some(row) = self.rows.get(&low) else { return no_slot(low) };
        match row.reshape {
            Some(Reshape::Absorb { plan: planned, sibling, frozen_at }) if planned == plan => Ok((sibling, frozen_at)),
            _ => not_planned(low, plan),
        }
    }
}

impl Reshape {
    /// Its plan's number.
    #[must_use]
    pub fn plan(&self) -> u64 {
        match self {
            Reshape::Split { plan, .. } | Reshape::Absorb { plan, .. } | Reshape::Yield { plan, .. } => *plan,
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
