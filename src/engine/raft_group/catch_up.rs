//! How much of the log a leader keeps: what members lack that lag a little, and what comes behind a state that a member is being sent. Without the
//! second, a busy slot's log would always be gone by the time the state has arrived, and the state would be sent again for ever.
//!
//! ```text
//!  (none) ──state on its way──► held from there on ──arrived──► held from where it is ──what it lacks fits in the usual tail──► (none)
//!                                      └──failed, no member any more, not led here any more──────────────────────────────────► (none)
//! ```

use std::collections::BTreeMap;

use raft::StateRole;

use super::RaftGroup;
use crate::ids::ReplicaId;

/// The log behind a state on its way may be so many times as long as the usual tail. Beyond it the state is sent again.
pub(super) const CATCH_UP_TAILS: usize = 64;

#[derive(Debug)]
struct Held {
    /// It has, or is being sent, everything up to here.
    index: u64,
    arrived: bool,
}

/// Members that are being brought up. At most as many as states are sent at once, and those of which one has just arrived.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    held: BTreeMap<ReplicaId, Held>,
}

impl CatchUp {
    /// The log is to be kept behind this; `None`: nobody is being brought up.
    fn from(&self) -> Option<u64> {
        self.held.values().map(|held| held.index).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl RaftGroup {
    /// A member is being sent the state as of `index`.
    pub fn begin_catch_up(&mut self, replica: ReplicaId, index: u64) {
        self.catch_up.held.insert(replica, Held { index, arrived: false });
    }

    pub(super) fn end_catch_up(&mut self, replica: ReplicaId, arrived: bool) {
        if !arrived {
            self.catch_up.held.remove(&replica);
            self.compact();
        } else if let Some(held) = self.catch_up.held.get_mut(&replica) {
            held.arrived = true;
        }
    }

    /// Forgets of the log what nobody will ask for.
    pub(super) fn compact(&mut self) {
        let leader = self.node.raft.state == StateRole::Leader;
        if !leader {
            self.catch_up.held.clear();
        }
        let tail = self.log_tail_bytes_max;
        let (known, bytes_max) = if self.alone() {
            (self.applied, 0)
        } else if leader {
            let others = self.node.raft.prs().iter().filter(|(id, _)| **id != self.replica.0);
            let least = others.map(|(_, progress)| progress.matched).min();
            (least.unwrap_or(self.applied), tail)
        } else {
            (0, tail / 2)
        };
        let prs = self.node.raft.prs();
        self.catch_up.held.retain(|replica, held| {
            let progress = prs.get(replica.0);
            held.index = progress.map_or(0, |progress| progress.matched).max(held.index);
            progress.is_some()
        });
        let held = self.catch_up.from().map(|index| (index, tail * CATCH_UP_TAILS));
        self.node.mut_store().compact(known, bytes_max, held);
        if self.node.store().applied_bytes() <= tail {
            self.catch_up.held.retain(|_, held| !held.arrived);
        }
    }
}
