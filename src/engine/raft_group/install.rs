//! A group at the receiving end of a snapshot: its log is frozen while the new state is put on disk, and begins anew behind it. The state
//! itself travels by other means and is not looked at here.
//!
//! ```text
//!  needs ──► prepare_install (frozen) ──► the caller writes a checkpoint ──┬─► install: the log begins behind the snapshot
//!                                                                         └─► abandon_install: it goes on where it was
//! ```

use super::*;

impl RaftGroup {
    /// True when only a snapshot brings this replica forward: its log does not lead to where the snapshot ends.
    #[must_use]
    pub fn needs(&self, head: &SnapshotHead) -> bool {
        let members = &head.members;
        let known = [&members.voters, &members.learners, &members.voters_outgoing].into_iter().flatten();
        let raft = &self.node.raft;
        known.into_iter().any(|member| *member == self.replica)
            && head.index > raft.raft_log.committed
            && !raft.raft_log.match_term(head.index, head.term)
    }

    /// The snapshot's state is complete and what belongs to it is in the journal. Says so there, and gives what the checkpoint with the
    /// new state says of the group; nothing goes into the log until [`RaftGroup::install`] or [`RaftGroup::abandon_install`].
    ///
    /// The checkpoint is to be asked for when [`Journal::written`] has reached what was [`Journal::position`] after this call.
    /// A crash before it is on disk leaves the old state, one after it the new one.
    ///
    /// `None`: the log has no need of it (any more), or entries have just come in that were not drained.
    pub fn prepare_install(&mut self, head: &SnapshotHead, journal: &mut Journal) -> Option<GroupState> {
        let undrained = !self.node.raft.raft_log.unstable_entries().is_empty();
        if self.installing.is_some() || undrained || !self.needs(head) {
            return None;
        }
        if self.node.raft.state != StateRole::Follower {
            // Others have agreed on what this replica does not have: it leads nobody.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, 0);
            self.set_election_timeout();
        }
        self.installing = Some(head.index);
        journal.append_install(self.slot, self.replica, head.index);
        Some(self.installed_state(head))
    }

    fn installed_state(&self, head: &SnapshotHead) -> GroupState {
        // What is not journalled yet nobody was told either; it may be forgotten.
        let (term, vote) = self.journalled;
        let (applied, applied_term) = (head.index, head.term);
        let (term, vote) = if applied_term > term { (applied_term, 0) } else { (term, vote) };
        let members = head.members.clone();
        GroupState {
            replica: self.replica,
            members,
            applied,
            applied_term,
            term,
            vote,
            commit: applied,
            tail: VecDeque::new(),
            hole: None,
        }
    }

    /// A state is about to take the log's place.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// The checkpoint could not be written: the log goes on where it was.
    pub fn abandon_install(&mut self) {
        self.installing = None;
    }

    /// The checkpoint is on disk and the slot's state is the snapshot's: the log begins behind it, and the leader is told.
    ///
    /// # Errors
    /// When the message is no snapshot for this replica, or nothing was prepared.
    pub fn install(&mut self, message: RaftMessage) -> Result<(), NotForUs> {
        let snapshot = kind_of(&message) == Some(MessageType::MsgSnapshot) && message.to == self.replica;
        let prepared = |head: &&SnapshotHead| snapshot && self.installing == Some(head.index);
        let Some(head) = message.snapshot.as_ref().filter(prepared) else {
            return Err(NotForUs);
        };
        self.begin_behind(head);
        self.step(message)
    }

    /// As [`RaftGroup::install`], where the state came from nobody: it split off from another slot's, here.
    ///
    /// # Panics
    /// When nothing of the kind was prepared.
    pub fn install_own(&mut self, head: &SnapshotHead) {
        assert_eq!(self.installing, Some(head.index), "only what was prepared is installed");
        self.begin_behind(head);
    }

    fn begin_behind(&mut self, head: &SnapshotHead) {
        let state = self.installed_state(head);
        let GroupState { applied, applied_term, term, vote, .. } = state;
        let hard_state = HardState { term, vote, commit: applied, ..HardState::default() };
        let log = Log::new((applied, applied_term), state.members.clone(), hard_state, VecDeque::new());
        self.node = new_node(self.slot, self.replica, applied, log, self.log_tail_bytes_max);
        self.timed = (u64::MAX, StateRole::Follower);
        (self.applied, self.applied_term, self.members) = (applied, applied_term, state.members);
        (self.journalled, self.journalled_commit) = ((term, vote), applied);
        self.changes.clear();
        self.wishes.clear();
        // A vote may still be on its way to the disk: whatever is said from now on is said after it, and so is the vote, for which a
        // candidate waits that would not ask again soon. A vote before the vote is of the term to come.
        let barrier = self.awaiting.back().map(|last| last.flush);
        let held = self.awaiting.drain(..).flat_map(|one| one.messages);
        let messages = held.filter(|message| message.term >= term && answers_candidate(message)).collect();
        self.awaiting.extend(barrier.map(|flush| Awaiting { flush, ready: 0, messages }));
        self.installing = None;
        self.set_election_timeout();
    }
}
