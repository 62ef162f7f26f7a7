//! One slot's raft group: raft-rs behind the few calls that the slot needs, so that its pitfalls live in one file.
//! Decides nothing about messages or users; does not know what an entry contains.
//!
//! ```text
//!  propose ──► unstable ──ready()──► journal buffer + log ──handle_durable()──► committed ──► apply ──► compacted
//! ```
//!
//! What it takes care of:
//! * `ready` and `advance_append_async` always come as a pair with nothing between them on the same node;
//! * an entry is readable in the log before the group is told that it went out;
//! * `on_persist_ready` only after the journal has said that the flush carrying the entries is durable;
//! * the election timeout, which raft-rs draws from a global random source, is replaced by one from [`Chance`] after
//!   every call that may have drawn it: the same seed gives the same history;
//! * a commit index alone is not journalled: it is found again from the log.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{Config, GetEntriesContext, RaftState, RawNode, StateRole, Storage, StorageError};

use super::chance::Chance;
use super::journal::{Journal, Position};
use crate::ids::SlotId;

/// Raft's own number for the replica on this node while there is only one.
const REPLICA: u64 = 1;

const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 2;

/// Largest proposal kept uncommitted, in bytes. Over it raft refuses: the journal's own limits bite long before.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

/// Bytes of committed entries handed out at once, so that one turn stays short.
const COMMITTED_BYTES_PER_READY_MAX: u64 = 1 << 20;

/// An entry that the group has agreed on.
#[derive(Debug)]
pub struct CommittedEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Commands; empty for raft's own.
    pub data: Bytes,
    /// Where the data lies in the journal.
    pub position: Position,
}

/// Where a proposal stands in the log; it is ours when the entry applied at `index` has `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The group cannot take a proposal now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken;

/// What the disk remembered of a group.
#[derive(Debug, Default)]
pub struct GroupState {
    /// Applied index of the checkpoint, 0 without one.
    pub applied: u64,
    /// Term of that entry.
    pub applied_term: u64,
    /// Last term seen.
    pub term: u64,
    /// Vote in that term, 0 for none.
    pub vote: u64,
    /// Entries after the checkpoint, without holes.
    pub tail: VecDeque<LogEntry>,
}

/// An entry and where its data lies.
#[derive(Debug)]
pub struct LogEntry {
    entry: Entry,
    position: Position,
}

impl GroupState {
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
        entry.set_entry_type(if kind == 0 { EntryType::EntryNormal } else { EntryType::EntryConfChangeV2 });
        self.tail.push_back(LogEntry { entry, position });
        Ok(())
    }
}

/// The log raft-rs reads: everything not yet applied, in memory.
#[derive(Debug)]
struct Log {
    /// Entries up to here are compacted.
    compacted: u64,
    compacted_term: u64,
    hard_state: HardState,
    entries: VecDeque<LogEntry>,
}

impl Log {
    fn append(&mut self, entry: Entry, position: Position) {
        assert!(entry.index > self.compacted, "raft rewrote a compacted entry");
        self.entries.truncate((entry.index - self.compacted - 1) as usize);
        assert_eq!(self.compacted + self.entries.len() as u64 + 1, entry.index, "raft left a hole in its log");
        self.entries.push_back(LogEntry { entry, position });
    }

    fn position(&self, index: u64) -> Position {
        self.entries[(index - self.compacted - 1) as usize].position
    }

    fn compact(&mut self, index: u64) {
        while self.compacted < index {
            let first = self.entries.pop_front().expect("only what is in the log is compacted");
            self.compacted = first.entry.index;
            self.compacted_term = first.entry.term;
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState { voters: vec![REPLICA], ..ConfState::default() };
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state })
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

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// The group.
pub struct RaftGroup {
    slot: SlotId,
    node: RawNode<Log>,
    chance: Chance,
    /// (term, role) for which the election timeout was last set.
    timed: (u64, StateRole),
    /// Readies whose flush is not durable yet: (flush, ready number), both rising.
    awaiting: VecDeque<(u64, u64)>,
    applied: u64,
    applied_term: u64,
    alone: bool,
}

impl RaftGroup {
    /// Brings the group back (or begins it, from an empty state) and stands for election where it is alone.
    ///
    /// # Panics
    /// When raft-rs refuses its configuration: a bug of ours.
    #[must_use]
    pub fn restore(slot: SlotId, state: GroupState, chance: Chance) -> RaftGroup {
        let term = state.term.max(state.applied_term);
        let hard_state = HardState { term, vote: state.vote, commit: state.applied, ..HardState::default() };
        let log = Log { compacted: state.applied, compacted_term: state.applied_term, hard_state, entries: state.tail };
        let config = Config {
            id: REPLICA,
            applied: state.applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            pre_vote: true,
            check_quorum: true,
            batch_append: true,
            skip_bcast_commit: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).expect("the configuration above is valid");
        let mut group = RaftGroup {
            slot,
            timed: (u64::MAX, StateRole::Follower),
            node,
            chance,
            awaiting: VecDeque::new(),
            applied: state.applied,
            applied_term: state.applied_term,
            alone: true,
        };
        group.set_election_timeout();
        group.node.campaign().expect("a replica that is alone may always stand");
        group.set_election_timeout();
        group
    }

    fn set_election_timeout(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if now != self.timed {
            self.timed = now;
            let ticks = self.chance.between(ELECTION_TICKS as u64, 2 * ELECTION_TICKS as u64);
            self.node.raft.set_randomized_election_timeout(ticks as usize);
        }
    }

    /// True when this replica leads and has applied everything of earlier terms: it may propose and answer.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.applied_term == self.node.raft.term
    }

    /// A node is said to be down.
    pub fn hurry(&mut self, _node: crate::ids::NodeId) {}

    /// Current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Applied index.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Term of the applied index.
    #[must_use]
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// Current term and the vote in it.
    #[must_use]
    pub fn term_and_vote(&self) -> (u64, u64) {
        (self.node.raft.term, self.node.raft.vote)
    }

    /// The first journal segment that replay needs beside a checkpoint made now. Not simply where the next record would
    /// go: a crash may lose the batches before it, and then records of the next run come to lie in an earlier segment.
    #[must_use]
    pub fn replay_segment(&self, journal: &Journal) -> u32 {
        let first = self.node.store().entries.front();
        first.map_or(u32::MAX, |stored| stored.position.segment).min(journal.written_segment())
    }

    /// Puts one entry into the log.
    ///
    /// # Errors
    /// Not the leader, or too much uncommitted.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<Proposed, NotTaken> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotTaken);
        }
        self.node.propose(Vec::new(), data).map_err(|_| NotTaken)?;
        Ok(Proposed { index: self.node.raft.raft_log.last_index(), term: self.node.raft.term })
    }

    /// One beat of raft's clock. A leader that is alone has nobody to send a heartbeat to and nobody to lose.
    pub fn tick(&mut self) {
        if self.alone && self.node.raft.state == StateRole::Leader {
            return;
        }
        self.node.tick();
        self.set_election_timeout();
    }

    /// True when [`RaftGroup::drain`] has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.node.has_ready()
    }

    /// Hands entries to the journal and takes out what was agreed. Afterwards the caller applies the entries in order
    /// and says so with [`RaftGroup::applied_to`].
    ///
    /// Returns the flush whose durability this group now waits for, if it is a new one.
    pub fn drain(&mut self, journal: &mut Journal, committed: &mut Vec<CommittedEntry>) -> Option<u64> {
        let mut waits_for = None;
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let persist = ready.must_sync();
            for entry in ready.take_entries() {
                let kind = u8::from(entry.get_entry_type() != EntryType::EntryNormal);
                let position = journal.append_entry(self.slot, entry.term, entry.index, kind, &entry.data);
                self.node.mut_store().append(entry, position);
            }
            if let Some(hard_state) = ready.hs() {
                if persist {
                    journal.append_hard_state(self.slot, hard_state.term, hard_state.vote, 0);
                }
                self.node.mut_store().hard_state = hard_state.clone();
            }
            for entry in ready.take_committed_entries() {
                let position = self.node.store().position(entry.index);
                committed.push(CommittedEntry { index: entry.index, term: entry.term, data: entry.data, position });
            }
            let number = ready.number();
            self.node.advance_append_async(ready);
            if persist {
                let flush = journal.next_flush();
                self.awaiting.push_back((flush, number));
                waits_for = Some(flush);
            } else if self.awaiting.is_empty() {
                self.node.on_persist_ready(number);
            } else if let Some(last) = self.awaiting.back_mut() {
                last.1 = number;
            }
        }
        waits_for
    }

    /// Everything up to `flush` is durable.
    pub fn handle_durable(&mut self, flush: u64) {
        let mut newest = None;
        while let Some(&(waiting, number)) = self.awaiting.front() {
            if waiting > flush {
                break;
            }
            newest = Some(number);
            self.awaiting.pop_front();
        }
        if let Some(number) = newest {
            self.node.on_persist_ready(number);
            self.set_election_timeout();
        }
    }

    /// The slot has applied everything up to this entry; the log may forget it.
    pub fn applied_to(&mut self, index: u64, term: u64) {
        assert!(index > self.applied, "entries are applied once, in order");
        self.applied = index;
        self.applied_term = term;
        self.node.advance_apply_to(index);
        self.node.mut_store().compact(index);
    }
}
