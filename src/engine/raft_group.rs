//! One slot's raft group: raft-rs behind the few calls that the slot needs, so that its pitfalls live in one file.
//! Decides nothing about messages or users; does not know what an entry contains, sends nothing and writes nothing but the journal.
//!
//! ```text
//!  propose ──► unstable ──ready()──► journal buffer + log ──handle_durable()──► committed ──► apply ──► compacted
//!                            │                                   │
//!                            └ a leader's messages, at once      └ votes and acknowledgements, when they are true on disk
//!
//!  a follower too far behind:  prepare_install (log frozen) ──► the caller writes a checkpoint ──► install (log begins anew)
//! ```
//!
//! What it takes care of:
//! * `ready` and `advance_append_async` always come as a pair with nothing between them on the same node;
//! * an entry is readable in the log before the group is told that it went out;
//! * `on_persist_ready` only after the journal has said that the flush carrying the entries is durable;
//! * the election timeout, which raft-rs draws from a global random source, is replaced by one from [`Chance`] after
//!   every call that may have drawn it: the same seed gives the same history;
//! * a commit index alone is not journalled: it is found again from the log. Except one that covers a change of members: a replica
//!   that forgot it would, after a restart, count votes among those who were members before. It is on disk before anything
//!   later is acknowledged, and raft does not stand for election before it has applied such a change;
//! * a change of members counts from the moment its entry is applied, in step with the slot's own state;
//! * raft's messages about snapshots are kept aside ([`RaftGroup::take_snapshot_wishes`]): state travels by other means;
//! * messages with entries are not merged: several may be stepped between two Readies, and then raft-rs 0.7 may merge what does not
//!   follow on each other, so that a follower acknowledges entries that it does not have;
//! * a message is for exactly one replica, of a kind that travels; a proposal is never forwarded.

mod catch_up;
mod change;
mod convert;
mod install;
mod log;
mod state;

use std::collections::VecDeque;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, ProgressState, RawNode, Ready, SnapshotStatus, StateRole};

use self::catch_up::{CATCH_UP_TAILS, CatchUp};
pub use self::change::MemberChange;
use self::convert::{answers_candidate, entry_kind, group_members, inward, kind_of, outward, travels};
pub use self::convert::{brings_entries, is_of_election, makes_leader};
use self::log::Log;
pub use self::log::LogEntry;
pub use self::state::GroupState;
use super::chance::Chance;
use super::journal::{Journal, Position};
use crate::format::raft_message::{GroupMembers, RaftMessage, SnapshotHead};
use crate::ids::{NodeId, ReplicaId, SlotId};

const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 2;

/// A follower whose leader is said to be down stands after one to so many ticks.
const HURRY_TICKS_MAX: u64 = 3;

/// Largest proposal kept uncommitted, in bytes. Over it raft refuses: the journal's own limits bite long before.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

/// Bytes of committed entries handed out at once, so that one turn stays short.
const COMMITTED_BYTES_PER_READY_MAX: u64 = 1 << 20;

/// Bytes of entries in one message, in tails of a log: what a shard's journal takes beyond its bound.
pub const MESSAGE_TAILS_MAX: usize = 4;

/// Messages with entries under way to one member; more wait for its answers.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;

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
    /// The group's members change with it; there are no commands then. [`RaftGroup::applied_to`] does it.
    pub members_changed: bool,
}

/// Where a proposal stands in the log; it is ours when the entry applied at `index` has `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The group does not take a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Somebody else leads, or nobody.
    NotLeader,
    /// Not now: leadership is being handed over, too much is uncommitted, or members are changing. With what was to be proposed.
    Later(Vec<u8>),
    /// The members are not such that this could be done to them.
    Senseless,
}

/// A message is not for this replica, or no replica may say such a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotForUs;

/// What a replica is in its group just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has no vote.
    Learner,
    /// Follows, or waits for somebody to lead.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// How far a member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// Who.
    pub replica: ReplicaId,
    /// It has everything up to here.
    pub matched: u64,
    /// It was heard of within the last election timeout or two.
    pub active: bool,
    /// It gets nothing before a snapshot has arrived or was reported as failed.
    pub snapshot_pending: bool,
}

/// A Ready whose flush is not durable yet.
#[derive(Debug)]
struct Awaiting {
    flush: u64,
    /// raft's number for it.
    ready: u64,
    /// What may be said then.
    messages: Vec<RaftMessage>,
}

/// The group.
pub struct RaftGroup {
    slot: SlotId,
    replica: ReplicaId,
    node: RawNode<Log>,
    chance: Chance,
    /// (term, role) for which the election timeout was last set.
    timed: (u64, StateRole),
    /// Oldest first: flushes and numbers rise.
    awaiting: VecDeque<Awaiting>,
    applied: u64,
    applied_term: u64,
    /// As of `applied`.
    members: GroupMembers,
    /// Changes of members that are agreed on and not applied. `None`: one that nobody understands.
    changes: VecDeque<(u64, Option<ConfChangeV2>)>,
    /// Who needs a snapshot.
    wishes: Vec<RaftMessage>,
    /// Term and vote as the journal has them.
    journalled: (u64, u64),
    /// The last commit index in the journal.
    journalled_commit: u64,
    log_tail_bytes_max: usize,
    /// Members that are being sent a state, or were just now.
    catch_up: CatchUp,
    /// The log is about to be replaced by the state up to this index: nothing goes into it.
    installing: Option<u64>,
}

fn new_node(slot: SlotId, replica: ReplicaId, applied: u64, log: Log, tail_bytes_max: usize) -> RawNode<Log> {
    let config = Config {
        id: replica.0,
        applied,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        pre_vote: true,
        check_quorum: true,
        // raft-rs 0.7 would put entries behind an empty message that is not sent yet without looking whether they follow it.
        batch_append: false,
        // A slot's followers hear with the next entry or heartbeat what is agreed on. Members wait for what the metadata group agrees on.
        skip_bcast_commit: slot != SlotId::METADATA,
        max_size_per_msg: (MESSAGE_TAILS_MAX * tail_bytes_max) as u64,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, log, &logger).expect("the configuration above is valid")
}

impl RaftGroup {
    /// Brings the replica back (or begins it), and stands for election where it is alone. The log keeps up to
    /// `log_tail_bytes_max` of applied entries for members that lack them.
    ///
    /// # Panics
    /// When the state was not checked, or raft-rs refuses its configuration: a bug of ours.
    #[must_use]
    pub fn restore(slot: SlotId, state: GroupState, log_tail_bytes_max: usize, chance: Chance) -> RaftGroup {
        let GroupState { replica, members, applied, applied_term, vote, .. } = state;
        let term = state.term.max(applied_term);
        let commit = state.commit.max(applied).min(applied + state.tail.len() as u64);
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let log = Log::new((applied, applied_term), members.clone(), hard_state, state.tail);
        let mut group = RaftGroup {
            slot,
            replica,
            node: new_node(slot, replica, applied, log, log_tail_bytes_max),
            chance,
            timed: (u64::MAX, StateRole::Follower),
            awaiting: VecDeque::new(),
            applied,
            applied_term,
            members,
            changes: VecDeque::new(),
            wishes: Vec::new(),
            journalled: (term, vote),
            journalled_commit: commit,
            log_tail_bytes_max,
            catch_up: CatchUp::default(),
            installing: None,
        };
        group.set_election_timeout();
        if group.votes_alone() {
            group.campaign();
        }
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

    /// Nobody else has a vote.
    fn votes_alone(&self) -> bool {
        self.members.voters == [self.replica] && self.members.voters_outgoing.is_empty()
    }

    /// Nobody else is in the group.
    fn alone(&self) -> bool {
        self.votes_alone() && self.members.learners.is_empty()
    }

    /// A replica with the only vote wins within the call that makes it stand; raft then insists that all it has is on disk.
    fn may_stand(&self) -> bool {
        let settled = self.awaiting.is_empty() && !self.node.has_ready();
        self.installing.is_none() && (settled || !self.votes_alone())
    }

    // ---- what it is ----

    /// True when this replica leads and has applied everything of earlier terms: it may propose and answer.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.applied_term == self.node.raft.term
    }

    /// What this replica is.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.node.raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        }
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        let leader = self.node.raft.leader_id;
        (leader != 0).then_some(ReplicaId(leader))
    }

    /// This replica.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Who is in the group as of the applied index.
    #[must_use]
    pub fn members(&self) -> &GroupMembers {
        &self.members
    }

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

    /// Agreed up to here, as far as this replica knows.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The last entry of this replica's log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// What a checkpoint made now remembers: everything but the entries that are not applied.
    #[must_use]
    pub fn state(&self) -> GroupState {
        GroupState {
            replica: self.replica,
            members: self.members.clone(),
            applied: self.applied,
            applied_term: self.applied_term,
            term: self.journalled.0,
            vote: self.journalled.1,
            commit: self.journalled_commit,
            tail: VecDeque::new(),
            hole: None,
        }
    }

    /// The first journal segment that replay needs beside a checkpoint made now. Not simply where the next record would
    /// go: a crash may lose the batches before it, and then records of the next run come to lie in an earlier segment.
    #[must_use]
    pub fn replay_segment(&self, journal: &Journal) -> u32 {
        let first = self.node.store().first_segment();
        first.unwrap_or(u32::MAX).min(journal.written_segment())
    }

    /// What a snapshot of the state applied here says of itself.
    #[must_use]
    pub fn snapshot_head(&self) -> SnapshotHead {
        let members = self.members.clone();
        SnapshotHead { index: self.applied, term: self.applied_term, members, data: Bytes::new() }
    }

    /// How far the others are; nothing unless this replica leads. Ascending.
    #[must_use]
    pub fn progress(&self) -> Vec<ReplicaProgress> {
        if self.node.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let others = self.node.raft.prs().iter().filter(|(id, _)| **id != self.replica.0);
        let mut progress: Vec<ReplicaProgress> = others
            .map(|(id, progress)| ReplicaProgress {
                replica: ReplicaId(*id),
                matched: progress.matched,
                active: progress.recent_active,
                snapshot_pending: progress.state == ProgressState::Snapshot,
            })
            .collect();
        progress.sort_unstable_by_key(|progress| progress.replica);
        progress
    }

    // ---- what comes in ----

    /// Puts one entry into the log.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn propose(&mut self, data: Vec<u8>) -> Result<Proposed, NotTaken> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotTaken::NotLeader);
        }
        // The caller gets its bytes back if raft drops them: raft's copy is gone then.
        let data = Bytes::from(data);
        let entry = Entry { data: data.clone(), ..Entry::default() };
        self.propose_entry(entry).map_err(|()| NotTaken::Later(Vec::from(data)))
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<Proposed, ()> {
        let mut message = Message { from: self.replica.0, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        self.node.raft.step(message).map_err(|_| ())?;
        Ok(Proposed { index: self.last_index(), term: self.node.raft.term })
    }

    /// Puts a change of members into the log. One at a time: until it is applied, and the group has left the time in which old and
    /// new voters both count, the next has to wait.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn propose_members(&mut self, change: &MemberChange) -> Result<Proposed, NotTaken> {
        let raft = &self.node.raft;
        if !self.leads() {
            return Err(NotTaken::NotLeader);
        }
        let changing = raft.has_pending_conf() || !self.members.voters_outgoing.is_empty();
        if changing || raft.lead_transferee.is_some() {
            return Err(NotTaken::Later(Vec::new()));
        }
        let change = change.as_conf_change(&self.members).ok_or(NotTaken::Senseless)?;
        let data = change.write_to_bytes().map_err(|_| NotTaken::Senseless)?;
        self.propose_conf(data.into()).map_err(|()| NotTaken::Later(Vec::new()))
    }

    fn propose_conf(&mut self, data: Bytes) -> Result<Proposed, ()> {
        let mut entry = Entry { data, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.propose_entry(entry)
    }

    /// Takes what another replica says. A snapshot is taken by [`RaftGroup::install`], or here when the log has no need of it.
    ///
    /// # Errors
    /// When it is not for this replica, or nothing that replicas say to each other.
    pub fn step(&mut self, message: RaftMessage) -> Result<(), NotForUs> {
        let kind = kind_of(&message).ok_or(NotForUs)?;
        let addressed = message.to == self.replica && message.slot == self.slot && message.from != self.replica;
        if !addressed || message.from == ReplicaId(0) || message.term == 0 {
            return Err(NotForUs);
        }
        match kind {
            // Whoever answers elections does not touch the log.
            MessageType::MsgHeartbeat | MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {}
            // raft says the rest again when the log has been replaced.
            _ if self.installing.is_some() => return Ok(()),
            MessageType::MsgSnapshot => match &message.snapshot {
                Some(head) if !self.needs(head) => {}
                _ => return Err(NotForUs),
            },
            MessageType::MsgTimeoutNow if !self.may_stand() => return Ok(()),
            _ => {}
        }
        let kind = if kind == MessageType::MsgHeartbeat && message.commit > self.last_index() {
            // The leader counts on entries that this disk has lost. It goes back only for a new term: so there must be one.
            if message.term < self.term() || !self.may_stand() {
                return Ok(());
            }
            MessageType::MsgTimeoutNow
        } else {
            kind
        };
        let stepped = self.node.step(inward(kind, message));
        self.set_election_timeout();
        stepped.map_err(|_| NotForUs)
    }

    /// One beat of raft's clock. A leader that is alone has nobody to send a heartbeat to and nobody to lose.
    pub fn tick(&mut self) {
        let leader = self.node.raft.state == StateRole::Leader;
        if (leader && self.alone()) || (!leader && !self.may_stand()) {
            return;
        }
        self.node.tick();
        self.set_election_timeout();
        if leader && self.node.store().applied_bytes() > 0 {
            self.compact();
        }
    }

    /// A node is said to be down. If the leader is there, this replica waits for it no longer: it stands within a few ticks, and
    /// grants others its vote at once. When the leader is alive after all, its next heartbeat ends the hurry.
    pub fn hurry(&mut self, node: NodeId) {
        let follows = self.node.raft.state == StateRole::Follower;
        if follows && self.leader().is_some_and(|leader| leader.place().node == node) {
            let ticks = self.chance.between(1, HURRY_TICKS_MAX + 1) as usize;
            self.node.raft.election_elapsed = ELECTION_TICKS;
            self.node.raft.set_randomized_election_timeout(ELECTION_TICKS + ticks);
        }
    }

    /// Nothing has been heard of a leader for longer than its heartbeats take.
    #[must_use]
    pub fn misses_leader(&self) -> bool {
        let raft = &self.node.raft;
        raft.state != StateRole::Leader && raft.election_elapsed > 2 * HEARTBEAT_TICKS
    }

    /// A change of its members is in the log, or may be, and has not been applied.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Stands for election now, if it has a vote and nobody it can hear leads.
    pub fn campaign(&mut self) {
        if self.may_stand() && self.node.raft.promotable() {
            // Refused only while a change of members waits to be applied; the clock tries again.
            let _ = self.node.campaign();
            self.set_election_timeout();
        }
    }

    /// Hands leadership to another voter; given up after an election timeout. Meanwhile proposals have to wait, and nobody else can be
    /// named.
    pub fn transfer(&mut self, to: ReplicaId) {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && raft.lead_transferee.is_none();
        if leads && to != self.replica && self.members.voters.contains(&to) {
            self.node.transfer_leader(to.0);
            self.set_election_timeout();
        }
    }

    /// The others hear at once what is agreed on.
    pub fn tell_commit(&mut self) {
        self.node.ping();
    }

    /// Messages to a member get lost: it is asked how far it is before more is sent.
    pub fn report_unreachable(&mut self, replica: ReplicaId) {
        self.node.report_unreachable(replica.0);
    }

    /// How sending a snapshot to a member ended. Until this, or its acknowledgement, it gets nothing: whoever takes a wish sees to it
    /// that this is said in the end.
    pub fn report_snapshot(&mut self, replica: ReplicaId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(replica.0, status);
        self.end_catch_up(replica, arrived);
    }

    /// raft's messages to members that lag so far that only a snapshot helps. The state may be sent as of a later index than the
    /// wish names, with the head of that moment ([`RaftGroup::snapshot_head`]).
    pub fn take_snapshot_wishes(&mut self) -> Vec<RaftMessage> {
        let mut wishes = std::mem::take(&mut self.wishes);
        let (leads, term) = (self.node.raft.state == StateRole::Leader, self.node.raft.term);
        wishes.retain(|wish| leads && wish.term == term);
        wishes
    }

    // ---- what goes out ----

    /// True when [`RaftGroup::drain`] has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.node.has_ready()
    }

    /// Hands entries to the journal and takes out what was agreed and what is to be said at once. Afterwards the caller applies the
    /// entries in order and says so with [`RaftGroup::applied_to`].
    ///
    /// Returns the flush whose durability this group now waits for, if it is a new one.
    pub fn drain(
        &mut self,
        journal: &mut Journal,
        committed: &mut Vec<CommittedEntry>,
        out: &mut Vec<RaftMessage>,
    ) -> Option<u64> {
        let mut waits_for = None;
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let journalled = self.journal_ready(&mut ready, journal);
            for entry in ready.take_committed_entries() {
                committed.push(self.committed_entry(entry));
            }
            for message in ready.take_messages() {
                self.sort_out(message, out);
            }
            let mut held = Vec::new();
            for message in ready.take_persisted_messages() {
                self.sort_out(message, &mut held);
            }
            let number = ready.number();
            self.node.advance_append_async(ready);
            if journalled {
                let flush = journal.next_flush();
                self.awaiting.push_back(Awaiting { flush, ready: number, messages: held });
                waits_for = Some(flush);
            } else if let Some(last) = self.awaiting.back_mut() {
                last.ready = number;
                last.messages.append(&mut held);
            } else {
                self.node.on_persist_ready(number);
                out.append(&mut held);
            }
        }
        waits_for
    }

    /// Puts into the journal and the log what a Ready wants remembered. True when something has to become durable.
    fn journal_ready(&mut self, ready: &mut Ready, journal: &mut Journal) -> bool {
        let must_sync = ready.must_sync();
        let came_by_link = self.node.raft.state != StateRole::Leader;
        for mut entry in ready.take_entries() {
            let kind = entry_kind(&entry);
            let position = journal.append_entry(self.slot, entry.term, entry.index, kind, &entry.data);
            if came_by_link {
                // It lies in a batch with those of many slots, and all of that would stay as long as a quiet slot keeps this one.
                entry.data = Bytes::copy_from_slice(&entry.data);
            }
            self.node.mut_store().append(entry, position);
        }
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().hard_state = hard_state.clone();
        }
        let store = self.node.store();
        let HardState { term, vote, commit, .. } = store.hard_state;
        let members_agreed = store.change_covered_by(commit) > self.journalled_commit;
        if members_agreed || self.journalled != (term, vote) {
            journal.append_hard_state(self.slot, term, vote, if members_agreed { commit } else { 0 });
            self.journalled = (term, vote);
            if members_agreed {
                self.journalled_commit = commit;
            }
            return true;
        }
        must_sync
    }

    fn committed_entry(&mut self, entry: Entry) -> CommittedEntry {
        let (position, data) = self.node.store().stored(entry.index);
        let members_changed = entry.get_entry_type() != EntryType::EntryNormal;
        let Entry { index, term, .. } = entry;
        if members_changed {
            self.changes.push_back((index, ConfChangeV2::parse_from_bytes(&data).ok()));
        }
        let data = if members_changed { Bytes::new() } else { data };
        CommittedEntry { index, term, data, position, members_changed }
    }

    fn sort_out(&mut self, message: Message, out: &mut Vec<RaftMessage>) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.wishes.push(outward(self.slot, message));
        } else if travels(&message) {
            out.push(outward(self.slot, message));
        }
    }

    /// Everything up to `flush` is durable: what waited for it may be said.
    pub fn handle_durable(&mut self, flush: u64, out: &mut Vec<RaftMessage>) {
        let mut newest = None;
        while let Some(first) = self.awaiting.front_mut().filter(|first| first.flush <= flush) {
            newest = Some(first.ready);
            out.append(&mut first.messages);
            self.awaiting.pop_front();
        }
        if let Some(number) = newest {
            self.node.on_persist_ready(number);
            self.set_election_timeout();
        }
    }

    /// Entries up to here are on this replica's disk.
    #[must_use]
    pub fn durable_index(&self) -> u64 {
        self.node.raft.raft_log.persisted
    }

    /// Remembers on disk that everything applied is agreed on, for a state that a restart must not show older than it was seen. Returns
    /// the flush that carries it.
    pub fn write_commit(&mut self, journal: &mut Journal) -> u64 {
        let (term, vote) = self.journalled;
        journal.append_hard_state(self.slot, term, vote, self.applied);
        self.journalled_commit = self.journalled_commit.max(self.applied);
        journal.next_flush()
    }

    /// The slot has applied everything up to this entry. Changes of members count from now on.
    pub fn applied_to(&mut self, index: u64, term: u64) {
        assert!(index > self.applied, "entries are applied once, in order");
        (self.applied, self.applied_term) = (index, term);
        self.node.mut_store().set_applied(index, term);
        while self.changes.front().is_some_and(|(at, _)| *at <= index) {
            let change = self.changes.pop_front().and_then(|(_, change)| change);
            // One that does not fit is refused by every member alike.
            if let Some(Ok(state)) = change.map(|change| self.node.apply_conf_change(&change)) {
                self.members = group_members(&state);
                self.node.mut_store().set_members(self.members.clone());
            }
        }
        self.node.advance_apply_to(index);
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // A leader that is no voter any more would go on leading and take no proposals.
            let term = raft.term;
            raft.become_follower(term, 0);
        }
        self.leave_lingering_change();
        self.compact();
        self.set_election_timeout();
    }

    /// raft leaves the time of two majorities by itself, but not if the leader that began it was another one.
    fn leave_lingering_change(&mut self) {
        let lingers = self.members.auto_leave && !self.members.voters_outgoing.is_empty();
        if lingers && self.leads() && !self.node.raft.has_pending_conf() {
            // Dropped while leadership is handed over; the next entry that is applied tries again.
            let _ = self.propose_conf(Bytes::new());
        }
    }

    /// Asserts what must hold between calls.
    pub fn check_invariants(&self) {
        let raft_log = &self.node.raft.raft_log;
        assert!(self.applied <= raft_log.committed && raft_log.committed <= raft_log.last_index());
        let pairs = self.awaiting.iter().zip(self.awaiting.iter().skip(1));
        assert!(pairs.into_iter().all(|(a, b)| a.flush <= b.flush && a.ready < b.ready));
        let store = self.node.store();
        store.check_invariants();
        let tails = if self.catch_up.is_empty() { 1 } else { CATCH_UP_TAILS };
        assert!(store.applied_bytes() <= tails * self.log_tail_bytes_max);
    }
}

#[cfg(test)]
mod mini_cluster;
#[cfg(test)]
mod tests;
