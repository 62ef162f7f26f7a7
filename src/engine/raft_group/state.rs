//! What a replica's disk remembers of its group: a checkpoint's words, and what the journal adds to them at a start. Reads nothing itself;
//! which records belong to which life is `engine::recovery`'s affair.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::Entry;

use super::convert::entry_type;
use super::log::LogEntry;
use crate::format::raft_message::GroupMembers;
use crate::format::record::Position;
use crate::ids::ReplicaId;

/// What the disk remembered of a replica, and what a new one begins with.
#[derive(Debug, Default)]
pub struct GroupState {
    /// Which replica.
    pub replica: ReplicaId,
    /// The group's members as of `applied`. Nobody: the replica waits for a snapshot.
    pub members: GroupMembers,
    /// Applied index of the checkpoint, 0 without one.
    pub applied: u64,
    /// Term of that entry.
    pub applied_term: u64,
    /// Last term seen.
    pub term: u64,
    /// Vote in that term, 0 for none.
    pub vote: u64,
    /// Agreed for certain up to here; may be behind `applied`. Also ahead of the tail, when the disk got this checkpoint before the
    /// entries: then nobody has been told anything that rests on it.
    pub commit: u64,
    /// Entries after the checkpoint, without holes.
    pub tail: VecDeque<LogEntry>,
    /// An entry that follows on none: the last one before it, its index, its place.
    pub hole: Option<(u64, u64, Position)>,
}

impl GroupState {
    /// A replica that has just begun: one of the group's founders, all of which begin with each other as voters and an empty log; or,
    /// without founders, one that waits for a snapshot.
    ///
    /// Founders begin as if one entry had been applied already. So no log leads from nothing to somewhere, and one that begins later
    /// can only be brought up by a snapshot: who the founders were is in no entry.
    #[must_use]
    pub fn begin(replica: ReplicaId, founders: &[ReplicaId]) -> GroupState {
        let mut voters = founders.to_vec();
        voters.sort_unstable();
        let members = GroupMembers { voters, ..GroupMembers::default() };
        let founded = u64::from(!members.voters.is_empty());
        GroupState { replica, members, applied: founded, applied_term: founded, term: founded, ..GroupState::default() }
    }

    /// Takes an entry found in the journal. One at or below the checkpoint is skipped; each replaces everything from its index on.
    /// One that leaves a hole was overwritten later, or the journal is damaged: [`GroupState::check`] knows in the end.
    pub fn replay_entry(&mut self, index: u64, term: u64, kind: u8, data: &[u8], position: Position) {
        let next = self.applied + 1 + self.tail.len() as u64;
        if index > next {
            self.hole.get_or_insert((next - 1, index, position));
            return;
        }
        self.hole = None;
        if index <= self.applied {
            self.tail.clear();
            return;
        }
        self.tail.truncate((index - self.applied - 1) as usize);
        let mut entry = Entry { index, term, data: Bytes::copy_from_slice(data), ..Entry::default() };
        entry.set_entry_type(entry_type(kind));
        self.tail.push_back(LogEntry { entry, position });
    }

    /// Takes a hard state found in the journal.
    pub fn replay_hard_state(&mut self, term: u64, vote: u64, commit: u64) {
        if term >= self.term {
            (self.term, self.vote) = (term, vote);
        }
        self.commit = self.commit.max(commit);
    }

    /// A checkpoint with the state up to `index` was about to be written here. If it was, the log before it is of no use.
    pub fn replay_install(&mut self, index: u64) {
        if self.applied >= index {
            self.forget_tail();
        }
    }

    /// What was read of the log was not this replica's, or is of no use.
    pub fn forget_tail(&mut self) {
        self.tail.clear();
        self.hole = None;
    }

    /// Everything was replayed.
    ///
    /// # Errors
    /// What cannot be: the disk's fault.
    pub fn check(&self) -> Result<(), String> {
        if let Some((last, index, position)) = self.hole {
            return Err(format!("entry {index} at {position} follows entry {last}: entries between them are missing"));
        }
        if self.replica == ReplicaId(0) { Err("the replica has no number".into()) } else { Ok(()) }
    }
}
