//! The log that raft-rs reads, all of it in memory: what is not applied yet, and behind it as much as members that lag may still ask
//! for. Does not write anything: entries come here when they have gone to the journal.
//!
//! ```text
//!  compacted │ applied, kept for members that lack it │ not applied │ (raft's own unstable part)
//!            ^ popped from here when everybody has it, or over the budget
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::convert::conf_state;
use crate::format::raft_message::GroupMembers;
use crate::format::record::Position;
use crate::ids::ReplicaId;

/// What an entry costs beside its data.
const ENTRY_COST_BYTES: usize = 128;

/// An entry and where its data lies.
#[derive(Debug)]
pub struct LogEntry {
    pub(super) entry: Entry,
    pub(super) position: Position,
}

impl LogEntry {
    fn cost_bytes(&self) -> usize {
        self.entry.data.len() + ENTRY_COST_BYTES
    }

    pub(super) fn changes_members(&self) -> bool {
        self.entry.get_entry_type() != EntryType::EntryNormal
    }
}

#[derive(Debug)]
pub(super) struct Log {
    /// Entries up to here are gone.
    compacted: u64,
    compacted_term: u64,
    entries: VecDeque<LogEntry>,
    /// Indexes of those entries that change the members.
    changes: VecDeque<u64>,
    /// Up to here the slot has applied.
    applied: u64,
    applied_term: u64,
    /// Entries that were overwritten: the last index from which on that happened, and the first segment they lie in. Until what took
    /// their place is applied it may not be on disk, and then a restart finds them, and needs all of them.
    overwritten: Option<(u64, u32)>,
    /// What the applied entries that are still here cost.
    applied_bytes: usize,
    /// As of `applied`.
    members: GroupMembers,
    pub(super) hard_state: HardState,
}

impl Log {
    pub(super) fn new(
        (applied, applied_term): (u64, u64),
        members: GroupMembers,
        hard_state: HardState,
        entries: VecDeque<LogEntry>,
    ) -> Log {
        let changing = entries.iter().filter(|stored| stored.changes_members());
        Log {
            compacted: applied,
            compacted_term: applied_term,
            changes: changing.map(|stored| stored.entry.index).collect(),
            entries,
            applied,
            applied_term,
            overwritten: None,
            applied_bytes: 0,
            members,
            hard_state,
        }
    }

    pub(super) fn append(&mut self, entry: Entry, position: Position) {
        assert!(entry.index > self.applied, "raft rewrote an applied entry");
        let kept = (entry.index - self.compacted - 1) as usize;
        if let Some(first) = self.entries.get(kept) {
            let (index, segment) = self.overwritten.unwrap_or((0, u32::MAX));
            self.overwritten = Some((index.max(entry.index), segment.min(first.position.segment)));
        }
        self.entries.truncate(kept);
        assert_eq!(self.compacted + self.entries.len() as u64 + 1, entry.index, "raft left a hole in its log");
        while self.changes.back().is_some_and(|index| *index >= entry.index) {
            self.changes.pop_back();
        }
        let stored = LogEntry { entry, position };
        if stored.changes_members() {
            self.changes.push_back(stored.entry.index);
        }
        self.entries.push_back(stored);
    }

    /// Where an entry lies, and its data as it is kept here.
    pub(super) fn stored(&self, index: u64) -> (Position, Bytes) {
        let stored = &self.entries[(index - self.compacted - 1) as usize];
        (stored.position, stored.entry.data.clone())
    }

    /// The first segment with entries that a restart beside the state applied here may find and must find whole.
    pub(super) fn first_segment(&self) -> Option<u32> {
        let unapplied = self.entries.get((self.applied - self.compacted) as usize);
        let overwritten = self.overwritten.map(|(_, segment)| segment);
        unapplied.map(|stored| stored.position.segment).into_iter().chain(overwritten).min()
    }

    /// The last change of members that a commit index covers, as far as it is still here; 0 for none.
    pub(super) fn change_covered_by(&self, commit: u64) -> u64 {
        self.changes.iter().rev().copied().find(|index| *index <= commit).unwrap_or(0)
    }

    pub(super) fn set_applied(&mut self, index: u64, term: u64) {
        let (from, to) = ((self.applied - self.compacted) as usize, (index - self.compacted) as usize);
        self.applied_bytes += self.entries.range(from..to).map(LogEntry::cost_bytes).sum::<usize>();
        (self.applied, self.applied_term) = (index, term);
        self.overwritten.take_if(|(at, _)| *at <= index);
    }

    pub(super) fn set_members(&mut self, members: GroupMembers) {
        self.members = members;
    }

    pub(super) fn applied_bytes(&self) -> usize {
        self.applied_bytes
    }

    /// Forgets applied entries: those up to `known`, which everybody has, and the oldest over the budget. What comes behind an index that is
    /// `held` for somebody has the larger budget beside it.
    pub(super) fn compact(&mut self, known: u64, bytes_max: usize, held: Option<(u64, usize)>) {
        let (held, held_bytes_max) = held.unwrap_or((u64::MAX, bytes_max));
        while self.compacted < self.applied {
            let over = self.applied_bytes > if self.compacted < held { bytes_max } else { held_bytes_max };
            if self.compacted >= known && !over {
                break;
            }
            let first = self.entries.pop_front().expect("what is between compacted and applied is in the log");
            self.applied_bytes -= first.cost_bytes();
            self.compacted = first.entry.index;
            self.compacted_term = first.entry.term;
        }
        while self.changes.front().is_some_and(|index| *index <= self.compacted) {
            self.changes.pop_front();
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.compacted <= self.applied && self.applied <= self.compacted + self.entries.len() as u64);
        let kept = (self.applied - self.compacted) as usize;
        assert_eq!(self.applied_bytes, self.entries.range(..kept).map(LogEntry::cost_bytes).sum::<usize>());
        for (stored, index) in self.entries.iter().zip(self.compacted + 1..) {
            assert_eq!(stored.entry.index, index);
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: conf_state(&self.members) })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let from = (low - self.compacted - 1) as usize;
        let to = (high - self.compacted - 1) as usize;
        let bound = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut taken = Vec::new();
        for stored in self.entries.range(from..to) {
            bytes += stored.entry.data.len() as u64 + 16;
            if bytes > bound && !taken.is_empty() {
                break;
            }
            taken.push(stored.entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted {
            return Ok(self.compacted_term);
        }
        if index < self.compacted {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.entries.get((index - self.compacted - 1) as usize) {
            Some(stored) => Ok(stored.entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.compacted + self.entries.len() as u64)
    }

    /// Only what a snapshot of the state applied so far would say of itself; the state travels apart. A receiver takes none
    /// that does not know it as a member.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let to = ReplicaId(to);
        let members = &self.members;
        let known = [&members.voters, &members.learners, &members.voters_outgoing].into_iter().flatten();
        if self.applied == 0 || self.applied < request_index || !known.into_iter().any(|member| *member == to) {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let head = snapshot.mut_metadata();
        head.index = self.applied;
        head.term = self.applied_term;
        let conf_state: ConfState = conf_state(members);
        head.set_conf_state(conf_state);
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL_BYTES: usize = 4_000;

    fn log() -> Log {
        let mut log = Log::new((0, 0), GroupMembers::default(), HardState::default(), VecDeque::new());
        for index in 1..=100 {
            let entry =
                Entry { index, term: 1, data: Bytes::from(vec![0; 1_000 - ENTRY_COST_BYTES]), ..Entry::default() };
            log.append(entry, Position { segment: 1, offset: index as u32 });
        }
        log.set_applied(100, 1);
        log
    }

    #[test]
    fn what_comes_behind_a_state_on_its_way_stays_as_far_as_it_may() {
        let first_after = |known: u64, held: Option<(u64, usize)>| {
            let mut log = log();
            log.compact(known, TAIL_BYTES, held);
            log.check_invariants();
            log.first_index().unwrap()
        };
        assert_eq!(first_after(0, None), 97, "the usual tail");
        assert_eq!(first_after(99, None), 100, "everybody has the others");
        assert_eq!(first_after(0, Some((50, 80_000))), 51, "what follows the state stays");
        assert_eq!(first_after(0, Some((50, 20_000))), 81, "as far as that is not too much");
        assert_eq!(first_after(0, Some((99, 80_000))), 97, "and the usual tail stays in any case");
    }
}
