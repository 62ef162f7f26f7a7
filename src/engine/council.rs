//! This node's replica of the metadata group, on the node's first shard: takes commands in, agrees on them with the others, applies them to the
//! cluster's state. What the commands mean is the state's affair ([`super::metadata`]); which ones are proposed is the
//! steward's and the operators'.
//!
//! ```text
//!  propose ──► log, majority ──► apply ──► Proposed to who asked
//!                                   └────► (commit index on disk) ──► published: the node's shards act by it
//! ```
//!
//! A state is published only when a restart would find it again: shards that have acted on a table must never see an older one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::chance::Chance;
use super::journal::Journal;
use super::metadata::{Cluster, MetadataCommand};
use super::outbox::Outbox;
use super::raft_group::{CommittedEntry, GroupState, MemberChange, NotTaken, Proposed, RaftGroup};
use super::steering::{self, Sight, Step};
use crate::format::frame::{self, Frame, ProposeOutcome};
use crate::format::raft_message::RaftMessage;
use crate::ids::{NodeId, Place, ReplicaId, SlotId};
use crate::limits::ENTRY_BYTES_MAX;

/// Commands that wait for their agreement. At it: further ones are sent back.
const WAITING_MAX: usize = 1024;

/// Applied commands kept for members that lack them.
const LOG_TAIL_BYTES_MAX: usize = 1 << 20;

/// Who waits for a command.
type Asker = Option<(Place, u64)>;

/// The replica.
pub struct Council {
    group: RaftGroup,
    cluster: Arc<Cluster>,
    pending: VecDeque<(Vec<u8>, Asker)>,
    waiting: VecDeque<(Proposed, Asker)>,
    committed: Vec<CommittedEntry>,
    led_term: Option<u64>,
    changed: bool,
    /// The flush that makes the last applied entry findable after a restart.
    publish_after: u64,
    refusals: Vec<String>,
    /// Version and applied entry at which nothing was left to steer.
    rested_at: Option<(u64, u64)>,
}

impl Council {
    /// The replica as the disk remembers it, or a new one.
    #[must_use]
    pub fn restore(group: GroupState, cluster: Cluster, chance: Chance) -> Council {
        Council {
            group: RaftGroup::restore(SlotId::METADATA, group, LOG_TAIL_BYTES_MAX, chance),
            changed: cluster.version > 0,
            cluster: Arc::new(cluster),
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            committed: Vec::new(),
            led_term: None,
            publish_after: 0,
            refusals: Vec::new(),
            rested_at: None,
        }
    }

    /// The state as applied, which may be ahead of what is published.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// The term in which it leads.
    #[must_use]
    pub fn led_term(&self) -> Option<u64> {
        self.led_term
    }

    /// Where the leader is, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<Place> {
        self.group.leader().map(ReplicaId::place)
    }

    /// True when [`Council::turn`] has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.pending.is_empty() || self.group.has_work()
    }

    /// Takes a command in. Who asks hears what became of it.
    pub fn propose(&mut self, command: Vec<u8>, asker: Asker, out: &mut Outbox) {
        if self.led_term.is_none() || self.pending.len() + self.waiting.len() >= WAITING_MAX {
            tell(asker, ProposeOutcome::NotLeader, out);
            return;
        }
        // What cannot be read must not reach the log: every replica would trip over it. Nor what fits into nobody's journal.
        if command.len() > ENTRY_BYTES_MAX {
            tell(asker, ProposeOutcome::Refused("the command is longer than an entry may be".into()), out);
            return;
        }
        match MetadataCommand::decode(&command) {
            Ok(_) => self.pending.push_back((command, asker)),
            Err(bad) => tell(asker, ProposeOutcome::Refused(bad.to_string().into()), out),
        }
    }

    /// Another replica says something.
    pub fn step(&mut self, message: RaftMessage) {
        // A message that is not for this replica is one for a predecessor of it: it has no one to reach.
        let _ = self.group.step(message);
    }

    /// One beat of raft's clock.
    pub fn tick(&mut self) {
        self.group.tick();
    }

    /// A node is said to be down.
    pub fn hurry(&mut self, node: NodeId) {
        self.group.hurry(node);
    }

    /// The journal is durable up to here.
    pub fn handle_durable(&mut self, flush: u64, messages: &mut Vec<RaftMessage>) {
        self.group.handle_durable(flush, messages);
    }

    /// Proposes what is pending, hands entries to the journal, applies what was agreed on. Returns the flush whose durability is now waited
    /// for.
    pub fn turn(&mut self, journal: &mut Journal, messages: &mut Vec<RaftMessage>, out: &mut Outbox) -> Option<u64> {
        while let Some((command, asker)) = self.pending.pop_front() {
            match self.group.propose(command) {
                Ok(proposed) => self.waiting.push_back((proposed, asker)),
                Err(NotTaken::Later(command)) => {
                    self.pending.push_front((command, asker));
                    break;
                }
                Err(NotTaken::NotLeader | NotTaken::Senseless) => tell(asker, ProposeOutcome::NotLeader, out),
            }
        }
        let mut committed = std::mem::take(&mut self.committed);
        let mut waits_for = self.group.drain(journal, &mut committed, messages);
        while !committed.is_empty() {
            for entry in committed.drain(..) {
                self.apply(&entry, out);
                self.group.applied_to(entry.index, entry.term);
            }
            self.publish_after = self.group.write_commit(journal);
            waits_for = Some(self.publish_after);
            waits_for = self.group.drain(journal, &mut committed, messages).or(waits_for);
        }
        self.committed = committed;
        self.follow_leadership(out);
        waits_for
    }

    fn apply(&mut self, entry: &CommittedEntry, out: &mut Outbox) {
        let asker = self.asker_of(entry, out);
        if entry.data.is_empty() {
            return;
        }
        let command = MetadataCommand::decode(&entry.data).expect("only what could be read was proposed");
        let mut next = Cluster::clone(&self.cluster);
        let outcome = match next.apply(&command) {
            Ok(_) => {
                self.changed |= next.version != self.cluster.version;
                let version = next.version;
                self.cluster = Arc::new(next);
                ProposeOutcome::Applied(version)
            }
            Err(refusal) => {
                if self.refusals.len() < WAITING_MAX {
                    self.refusals.push(refusal.to_string());
                }
                ProposeOutcome::Refused(refusal.to_string().into())
            }
        };
        tell(asker, outcome, out);
    }

    fn asker_of(&mut self, entry: &CommittedEntry, out: &mut Outbox) -> Asker {
        while let Some((proposed, _)) = self.waiting.front() {
            if proposed.index > entry.index {
                break;
            }
            let (proposed, asker) = self.waiting.pop_front().expect("it was just seen");
            if proposed.index == entry.index && proposed.term == entry.term {
                return asker;
            }
            tell(asker, ProposeOutcome::NotLeader, out);
        }
        None
    }

    fn follow_leadership(&mut self, out: &mut Outbox) {
        let leads = self.group.leads().then(|| self.group.term());
        if leads == self.led_term {
            return;
        }
        self.led_term = leads;
        self.rested_at = None;
        let pending = std::mem::take(&mut self.pending).into_iter().map(|(_, asker)| asker);
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(_, asker)| asker);
        for asker in pending.chain(waiting) {
            tell(asker, ProposeOutcome::NotLeader, out);
        }
    }

    /// The state, if it has changed since the last call and a restart would find it.
    pub fn take_published(&mut self, durable_flush: u64) -> Option<Arc<Cluster>> {
        if !self.changed || durable_flush < self.publish_after {
            return None;
        }
        self.changed = false;
        Some(Arc::clone(&self.cluster))
    }

    /// True when [`Council::take_published`] has something.
    #[must_use]
    pub fn is_publishable(&self, durable_flush: u64) -> bool {
        self.changed && durable_flush >= self.publish_after
    }

    /// What became of a snapshot that was sent.
    pub fn report_snapshot(&mut self, replica: ReplicaId, arrived: bool) {
        self.group.report_snapshot(replica, arrived);
    }

    /// A snapshot is complete: what its checkpoint is to say of the group. `None`: there is no need of it.
    pub fn prepare_install(&mut self, message: &RaftMessage, journal: &mut Journal) -> Option<GroupState> {
        self.group.prepare_install(message.snapshot.as_ref()?, journal)
    }

    /// Its checkpoint could not be written.
    pub fn abandon_install(&mut self) {
        self.group.abandon_install();
    }

    /// Its checkpoint is on disk: the state is the snapshot's.
    pub fn install(&mut self, message: RaftMessage, cluster: Cluster) {
        if self.group.install(message).is_ok() && cluster.version > self.cluster.version {
            self.cluster = Arc::new(cluster);
            self.changed = true;
        }
    }

    /// Commands that were agreed on and refused, for the operator's log.
    pub fn take_refusals(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refusals)
    }

    /// A leader sees to it that every member follows and that those vote that should. One step at a time.
    pub fn steer(&mut self) {
        let now = (self.cluster.version, self.group.applied());
        if self.led_term.is_none() || self.cluster.members.is_empty() || self.rested_at == Some(now) {
            return;
        }
        let members = self.group.members().clone();
        let everybody: Vec<ReplicaId> = self.cluster.members.values().map(|member| member.metadata_replica).collect();
        let wanted = self.cluster.metadata_voters_wanted();
        let follows = |replica: &ReplicaId| members.voters.contains(replica) || members.learners.contains(replica);
        if members.voters_outgoing.is_empty()
            && let Some(missing) = everybody.iter().find(|replica| !follows(replica))
        {
            self.change(MemberChange::AddLearner(*missing));
            return;
        }
        let standings = self.group.progress();
        let last_index = self.group.last_index();
        let leader = self.group.replica();
        // Members that are not to vote stay as learners: they are wanted too, only not as voters.
        let strays = GroupLearners { members: &members, everybody: &everybody }.strays();
        let preferred = if wanted.contains(&leader) { leader } else { wanted.first().copied().unwrap_or(leader) };
        let mut seen = members.clone();
        seen.learners.retain(|learner| strays.contains(learner) || wanted.contains(learner));
        let sight = Sight { leader, members: &seen, wanted: &wanted, preferred, standings: &standings, last_index };
        match sight.step() {
            Step::Rest => self.rested_at = Some(now),
            Step::Wait => {}
            Step::AddLearner(replica) => self.change(MemberChange::AddLearner(replica)),
            Step::RemoveLearner(replica) => self.change(MemberChange::RemoveLearner(replica)),
            Step::Vote(voters) => self.change(MemberChange::Replace { voters }),
            Step::HandOver(heir) => self.group.transfer(heir),
        }
    }

    /// Whose part in the group is not as the members want it, and what that node does. As long as there is something, the disk of a voter less may be one
    /// too few.
    #[must_use]
    pub fn unrest(&self) -> Option<(NodeId, &'static str)> {
        let members = self.group.members();
        let wanted = self.cluster.metadata_voters_wanted();
        let node = |replica: &ReplicaId| replica.place().node;
        let follows = |replica: &&ReplicaId| members.voters.contains(replica) || members.learners.contains(replica);
        if let Some(leaving) = members.voters_outgoing.iter().find(|replica| !members.voters.contains(replica)) {
            return Some((node(leaving), "is giving its vote on the metadata back"));
        }
        if let Some(other) = members.voters.iter().find(|replica| !wanted.contains(replica)) {
            return Some((node(other), "has a vote on the metadata that is yet to be given up"));
        }
        let everybody = || self.cluster.members.values().map(|member| &member.metadata_replica);
        if let Some(missing) = everybody().find(|replica| !follows(replica)) {
            return Some((node(missing), "does not follow the metadata group yet"));
        }
        let silent = wanted.iter().find(|replica| !members.voters.contains(replica));
        silent.map(|replica| (node(replica), "has no vote on the metadata yet"))
    }

    fn change(&mut self, change: MemberChange) {
        // Not taken now: the next beat tries again.
        let _ = self.group.propose_members(&change);
    }

    /// The node is about to stop: another one leads.
    pub fn hand_over(&mut self) {
        if let Some(heir) = self.heir().filter(|_| self.led_term.is_some()) {
            self.group.transfer(heir);
        }
    }

    /// Who could lead instead.
    #[must_use]
    pub fn heir(&self) -> Option<ReplicaId> {
        steering::heir(&self.group, self.group.replica(), |_| true)
    }

    /// Snapshots that raft wants sent: the state is small and goes with the message.
    pub fn take_snapshots(&mut self) -> Vec<RaftMessage> {
        let mut wishes = self.group.take_snapshot_wishes();
        for message in &mut wishes {
            if let Some(head) = &mut message.snapshot {
                head.data = self.cluster.encode().into();
            }
        }
        wishes
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        assert!(self.pending.len() + self.waiting.len() <= WAITING_MAX, "too many commands wait");
        assert!(self.led_term.is_some() || self.pending.is_empty(), "only a leader takes commands");
        let rises = self.waiting.iter().zip(self.waiting.iter().skip(1)).all(|(a, b)| a.0.index < b.0.index);
        assert!(rises, "commands wait in the order of the log");
        assert!(self.committed.is_empty(), "what is agreed on is applied at once");
        assert!(self.refusals.len() <= WAITING_MAX, "refusals are told");
        let own = |member: &super::metadata::Member| member.metadata_replica.place().shard.0 == 0;
        assert!(self.cluster.members.values().all(own), "metadata lives on first shards");
        let numbered = |replica: &ReplicaId| replica.number() < self.cluster.next_replica;
        let named = self.cluster.rows.values().flat_map(|row| &row.replicas);
        assert!(named.into_iter().all(numbered), "every replica was numbered");
        self.group.check_invariants();
        assert_eq!(self.cluster.fault(), None, "the agreed state does not add up");
    }
}

struct GroupLearners<'a> {
    members: &'a crate::format::raft_message::GroupMembers,
    everybody: &'a [ReplicaId],
}

impl GroupLearners<'_> {
    /// Learners that are no member's.
    fn strays(&self) -> Vec<ReplicaId> {
        self.members.learners.iter().copied().filter(|learner| !self.everybody.contains(learner)).collect()
    }
}

fn tell(asker: Asker, outcome: ProposeOutcome, out: &mut Outbox) {
    if let Some((place, ticket)) = asker {
        out.frame(place, Frame::Proposed(frame::Proposed { ticket, outcome }));
    }
}
