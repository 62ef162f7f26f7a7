//! Changes of a group's members, and what raft calls them. Decides which make sense; not when one is due.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use crate::format::raft_message::GroupMembers;
use crate::ids::ReplicaId;

/// A change of the group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Somebody new, who follows and does not vote.
    AddLearner(ReplicaId),
    /// One who does not vote leaves.
    RemoveLearner(ReplicaId),
    /// These vote, who are voters or learners now, and the voters that are not among them leave.
    Replace {
        /// All who vote afterwards.
        voters: Vec<ReplicaId>,
    },
}

impl MemberChange {
    /// In raft's words, if it can be done to the members there are.
    pub(super) fn as_conf_change(&self, members: &GroupMembers) -> Option<ConfChangeV2> {
        let single = |replica: ReplicaId, kind: ConfChangeType| {
            let mut single = ConfChangeSingle { node_id: replica.0, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        };
        let votes = |replica: &ReplicaId| members.voters.contains(replica);
        let learns = |replica: &ReplicaId| members.learners.contains(replica);
        let changes = match self {
            MemberChange::AddLearner(replica) => {
                let new = *replica != ReplicaId(0) && !votes(replica) && !learns(replica);
                vec![new.then(|| single(*replica, ConfChangeType::AddLearnerNode))?]
            }
            MemberChange::RemoveLearner(replica) => {
                vec![learns(replica).then(|| single(*replica, ConfChangeType::RemoveNode))?]
            }
            MemberChange::Replace { voters } => {
                if voters.is_empty() || !voters.iter().all(|voter| votes(voter) || learns(voter)) {
                    return None;
                }
                let mut coming: Vec<ReplicaId> = voters.iter().copied().filter(learns).collect();
                coming.sort_unstable();
                coming.dedup();
                let going = members.voters.iter().filter(|voter| !voters.contains(voter));
                let coming = coming.into_iter().map(|voter| single(voter, ConfChangeType::AddNode));
                coming.chain(going.map(|voter| single(*voter, ConfChangeType::RemoveNode))).collect()
            }
        };
        // raft takes several at once through a time in which both majorities count, and leaves that time by itself.
        (!changes.is_empty()).then(|| ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() })
    }
}
