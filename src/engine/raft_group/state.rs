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
    /// Agreed for certain up to here; may be behind `applied`.
    pub commit: u64,
    /// Entries after the checkpoint, without holes.
    pub tail: VecDeque<LogEntry>,
}

impl GroupState {
    /// A replica that has just begun: one of the group's founders, all of which begin with each other as voters and nothing in
    /// their logs; or, without founders, one that waits for a snapshot.
    #[must_use]
    pub fn begin(replica: ReplicaId, founders: &[ReplicaId]) -> GroupState {
        let mut voters = founders.to_vec();
        voters.sort_unstable();
        let members = GroupMembers { voters, ..GroupMembers::default() };
        GroupState { replica, members, ..GroupState::default() }
    }

    /// Takes an entry found in the journal. One at or below the checkpoint is skipped; one that was overwritten
    /// by a later leader replaces everything from its index on.
    ///
    /// # Errors
    /// When the entry leaves a hole: the journal is damaged.
    pub fn replay_entry(
        &mut self,
        index: u64,
        term: u64,
        kind: u8,
        data: &[u8],
        position: Position,
    ) -> Result<(), String> {
        if index <= self.applied {
            return Ok(());
        }
        let next = self.applied + 1 + self.tail.len() as u64;
        if index > next {
            return Err(format!("entry {index} follows entry {}: entries between them are missing", next - 1));
        }
        self.tail.truncate((index - self.applied - 1) as usize);
        let mut entry = Entry { index, term, data: Bytes::copy_from_slice(data), ..Entry::default() };
        entry.set_entry_type(entry_type(kind));
        self.tail.push_back(LogEntry { entry, position });
        Ok(())
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
            self.tail.clear();
        }
    }

    /// Everything was replayed.
    ///
    /// # Errors
    /// What cannot be: the disk's fault.
    pub fn check(&self) -> Result<(), String> {
        let last = self.applied + self.tail.len() as u64;
        if self.commit > last {
            return Err(format!("entries up to {} were agreed on, but only those up to {last} are there", self.commit));
        }
        if self.replica == ReplicaId(0) { Err("the replica has no number".into()) } else { Ok(()) }
    }
}
