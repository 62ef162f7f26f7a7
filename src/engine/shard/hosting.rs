//! Which replicas live on this shard: made and ended as the agreed table says, steered towards what it wants, reported to the metadata leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::effect::{Effect, Effects};
use crate::engine::metadata::{Cluster, SlotRow};
use crate::engine::raft_group::{GroupState, MemberChange, RaftGroup, Role};
use crate::engine::routes::Table;
use crate::engine::slot::{Reshaped, Slot, SlotState};
use crate::engine::steering::{self, Sight, Step};
use crate::format::frame::{Frame, SlotReport, SlotReports};
use crate::format::raft_message::GroupMembers;
use crate::format::record::Position;
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};
use crate::time::Now;

use super::reshapes::{names, planned_at};
use super::{Hosted, Shard, chance_of};

/// Replicas that have ended here.
#[derive(Default)]
pub(super) struct Ended {
    /// Where the journal says so, until that is on disk.
    ends: Vec<(Position, SlotId)>,
    /// Slots with a checkpoint of an ended one on its way to the disk. What becomes of it must not be taken for an answer to a successor:
    /// none is asked for before. At most one a slot.
    checkpointing: BTreeSet<SlotId>,
}

impl Ended {
    /// Whoever ended here in an earlier process, which may have gone before it removed their checkpoints.
    pub(super) fn found(lifeless: Vec<SlotId>, written: Position) -> Ended {
        Ended { ends: lifeless.into_iter().map(|slot| (written, slot)).collect(), ..Ended::default() }
    }

    /// A checkpoint was written, or not: true when it was that of a replica that has ended.
    pub(super) fn checkpoint_ended(&mut self, slot: SlotId) -> bool {
        self.checkpointing.remove(&slot)
    }

    pub(super) fn check_invariants(&self, end: Position) {
        assert!(self.ends.iter().all(|(at, _)| *at <= end), "an end that is remembered is in the journal");
    }

    /// The disk is still busy with the checkpoint of a predecessor.
    pub(super) fn keeps_disk_busy(&self, slot: SlotId) -> bool {
        self.checkpointing.contains(&slot)
    }
}

impl Shard {
    /// The cluster has changed: keys, nodes and replicas follow.
    pub(super) fn adopt_cluster(&mut self, now: Now, cluster: Arc<Cluster>) {
        if self.cluster.as_ref().is_some_and(|known| known.version >= cluster.version) {
            return;
        }
        let before = Arc::clone(self.routes.table());
        let own = self.led_here();
        self.routes.update(Arc::new(Table::new(&cluster)), |leader| own.contains(&leader));
        let members = cluster.members.iter();
        let newcomers: Vec<NodeId> =
            cluster.members.keys().filter(|node| !self.node_shards.contains_key(node)).copied().collect();
        self.node_shards = members.clone().map(|(node, member)| (*node, member.shards)).collect();
        self.nodes_down.retain(|node| cluster.members.contains_key(node));
        self.nodes_doubted.retain(|node| cluster.members.contains_key(node));
        self.tell_links(&cluster);
        self.cluster = Some(cluster);
        let own = self.config.place.node;
        newcomers.into_iter().filter(|node| *node != own).for_each(|node| self.meet(node));
        self.host_what_is_ours(now);
        self.follow_table(&before);
        self.hurry_merges(now);
    }

    pub(super) fn host_what_is_ours(&mut self, now: Now) {
        let Some(cluster) = self.cluster.clone() else { return };
        let here = self.config.place;
        // Another data directory has this node's number now: nothing here is ours any more.
        if cluster.members.get(&here.node).is_none_or(|member| member.identity != self.config.cluster.identity) {
            return;
        }
        let rows = cluster.replicas_at(here).map(|(slot, replica)| (slot, replica, cluster.rows[&slot].depth));
        let ours: Vec<(SlotId, ReplicaId, u8)> = rows.chain(planned_at(&cluster, here)).collect();
        for (slot, replica, depth) in ours {
            if cluster.is_lost(replica) {
                continue;
            }
            match self.place_of(slot).map(|place| self.hosted[place].slot.replica()) {
                Some(hosted) if hosted.number() >= replica.number() => {}
                Some(_) if self.is_nursing(slot) => {}
                Some(_) => {
                    self.end_replica(now, slot);
                    self.begin_replica(now, slot, replica, depth);
                }
                None => self.begin_replica(now, slot, replica, depth),
            }
        }
        let gone = self.hosted.iter().map(|hosted| (hosted.slot.id(), hosted.slot.replica()));
        // One that is newer than the table stays: the table catches up.
        let gone = gone.filter(|(slot, replica)| {
            // What has split off from it and is nowhere else yet would go with it.
            let newer = replica.number() >= cluster.next_replica || self.is_nursing(*slot);
            !newer && !names(&cluster, *slot, *replica)
        });
        for (slot, _) in gone.collect::<Vec<_>>() {
            self.end_replica(now, slot);
        }
    }

    /// Slots hosted here that nobody is known to lead, and one more before the cluster is known.
    pub(super) fn slots_waiting(&self) -> usize {
        // A child that is only planned has no keys yet.
        let rows = self.hosted.iter().filter(|hosted| self.routes.table().row(hosted.slot.id()).is_some());
        // A voter whose group has no leader knows better than what was said last. One that has yet to be sent its state knows nothing.
        let unled = rows.filter(|hosted| {
            let group = hosted.slot.group();
            let vacant = group.leader().is_none() && group.members().voters.contains(&group.replica());
            vacant || self.routes.leader(hosted.slot.id()).is_none()
        });
        unled.count() + usize::from(self.cluster.is_none())
    }

    /// A replica's life begins here: with its founders and an empty log, or knowing nobody until it is sent a snapshot.
    fn begin_replica(&mut self, now: Now, id: SlotId, replica: ReplicaId, depth: u8) {
        let row = self.routes.table().row(id);
        let founds = row.filter(|row| row.founded && row.replicas.contains(&replica));
        let voters = founds.map_or(Vec::new(), |row| row.replicas.clone());
        self.journal.append_begin(id, depth, replica, &voters);
        let group = GroupState::begin(replica, &voters);
        let reshaped = Reshaped::default();
        let state = SlotState { group, message_ids_last: 0, reshaped, channels: Vec::new(), homes: Vec::new() };
        let (tail, chance) = (self.config.limits.log_tail_bytes_max, chance_of(&self.config, id));
        let slot =
            Slot::restore(id, state, self.map_state, tail, chance).expect("an empty state has nothing wrong in it");
        let segment = self.journal.written_segment();
        self.add_hosted(Hosted::new(slot, depth, segment));
        let place = self.hosted.len() - 1;
        self.hosted[place].checkpoint_mark = self.journal_mark();
        self.with_slot(place, now, |_, _, _| {});
    }

    fn add_hosted(&mut self, hosted: Hosted) {
        let slot = hosted.slot.id();
        assert!(self.place_of(slot).is_none(), "one replica of a slot on a shard");
        let place = self.hosted.len() as u32;
        self.places[usize::from(slot.0)] = place;
        // It is born with work to do.
        self.dirty_slots.push(place);
        self.hosted.push(hosted);
    }

    /// A replica's life ends here: nothing of it is found again.
    pub(super) fn end_replica(&mut self, now: Now, id: SlotId) {
        let Some(place) = self.place_of(id) else { return };
        let replica = self.hosted[place].slot.replica();
        self.journal.append_end(id, replica);
        // Not before its end is on disk: a restart that finds neither checkpoint nor end would not know what the records are about.
        self.ended.ends.push((self.journal.position(), id));
        if self.hosted[place].checkpointing.is_some() && !self.checkpoints.forget(id) {
            self.ended.checkpointing.insert(id);
        }
        let last = self.hosted.len() - 1;
        self.with_slot(place, now, |slot, _, around| slot.dismiss(around));
        self.drop_endings(place);
        self.routes_cached -= self.hosted[place].routes_counted;
        self.hosted.swap_remove(place);
        self.places[usize::from(id.0)] = u32::MAX;
        if place != last {
            let moved = self.hosted[place].slot.id();
            self.places[usize::from(moved.0)] = place as u32;
        }
        let renumber = |number: u32| match number as usize {
            number if number == place => None,
            number if number == last => Some(place as u32),
            number => Some(number as u32),
        };
        self.dirty_slots = self.dirty_slots.drain(..).filter_map(renumber).collect();
        self.row_slots = self.row_slots.drain(..).filter_map(renumber).collect();
        self.awaiting.retain(|(_, slot)| *slot != id);
        self.leadership_changes.retain(|(slot, _)| *slot != id);
        self.forget_transfers(id);
    }

    /// Checkpoints of replicas that have ended go once that is on disk. Where another replica of the slot has begun since, its own checkpoint
    /// takes the file's place.
    pub(super) fn remove_checkpoints(&mut self, effects: &mut Effects) {
        let written = self.journal.written();
        let due = self.ended.ends.extract_if(.., |(at, _)| *at <= written).map(|(_, slot)| slot);
        let due: Vec<SlotId> = due.collect();
        for slot in due.into_iter().filter(|slot| self.place_of(*slot).is_none()) {
            effects.push(Effect::RemoveCheckpoint { slot });
        }
    }

    /// Leaders see to it that their groups become as the table wants them.
    pub(super) fn steer_groups(&mut self, now: Now) {
        let table = Arc::clone(self.routes.table());
        for place in 0..self.hosted.len() {
            let hosted = &self.hosted[place];
            let row = table.row(hosted.slot.id()).filter(|_| hosted.slot.leads());
            if let Some(row) = row.filter(|row| self.stopping || !is_steady(hosted.slot.group(), row)) {
                self.steer_group(place, row, now);
            }
        }
    }

    /// Before it has stopped, a node hands over what it leads; for so long, should nobody take it. Then its sessions go.
    pub(super) fn leave_groups(&mut self, now: Now, effects: &mut Effects) {
        if self.left || !self.stopping {
            return;
        }
        let until = *self.leave_until.get_or_insert(now.instant + self.config.limits.leave_patience);
        let clings = |hosted: &Hosted| {
            let group = hosted.slot.group();
            if group.role() == Role::Leader {
                return self.heir(group, group.replica()).is_some();
            }
            // Who was asked to lead may need this replica's vote, and that it has what the new leader says first.
            hosted.bequeathed && group.leader().is_none()
        };
        let waits = self.hosted.iter().any(clings) || self.council_must_be_left();
        self.left = !waits || now.instant >= until;
        if self.left {
            let open: Vec<_> = self.sessions.iter().flatten().map(|session| session.id).collect();
            open.into_iter().for_each(|id| self.close(id, effects));
        }
    }

    /// Who could lead a group that is led here, and can be told so.
    fn heir(&self, group: &RaftGroup, preferred: ReplicaId) -> Option<ReplicaId> {
        let can_be_told = |replica: ReplicaId| {
            let place = replica.place();
            place.node != self.config.place.node && self.links.hears(place.node) && !self.links.is_broken(place)
        };
        steering::heir(group, preferred, can_be_told)
    }

    fn steer_group(&mut self, place: usize, row: &SlotRow, now: Now) {
        if self.steer_split(place, now, row) || (!self.stopping && self.steer_merge(place, now, row)) {
            return;
        }
        let group = self.hosted[place].slot.group();
        let standings = group.progress();
        // Without a target the voters stay who they are: a move that was given up may have ended already, and whoever it removed has
        // forgotten its log.
        // A split or merge comes first, and it is for those that the row names.
        let at_rest = if row.is_busy() { &row.replicas } else { &group.members().voters };
        let wanted = row.target.as_deref().filter(|_| !row.is_busy()).unwrap_or(at_rest);
        let sight = Sight {
            leader: group.replica(),
            members: group.members(),
            wanted,
            preferred: row.preferred,
            standings: &standings,
            last_index: group.last_index(),
        };
        let step = if self.stopping {
            self.heir(group, row.preferred).map_or(Step::Rest, Step::HandOver)
        } else {
            sight.step()
        };
        let change = match step {
            Step::Rest | Step::Wait => return,
            Step::AddLearner(replica) => MemberChange::AddLearner(replica),
            Step::RemoveLearner(replica) => MemberChange::RemoveLearner(replica),
            Step::Vote(voters) => MemberChange::Replace { voters },
            Step::HandOver(heir) => {
                if self.stopping || now.instant >= self.hosted[place].hand_over_at {
                    self.hosted[place].bequeathed |= self.stopping;
                    self.hosted[place].hand_over_at = now.instant + self.config.limits.hand_over_every;
                    self.out.counters.hand_overs += 1;
                    self.with_slot(place, now, |slot, _, _| slot.hand_over(heir));
                }
                return;
            }
        };
        self.with_slot(place, now, |slot, _, _| slot.change_members(&change));
    }

    /// How the groups led here stand: those that are to change, and now and then all of them. To the node's first shard, which knows who leads
    /// the metadata group.
    pub(super) fn report_slots(&mut self, everything: bool) {
        let table = Arc::clone(self.routes.table());
        let led = self.hosted.iter().filter(|hosted| hosted.slot.leads());
        let due = led.filter(|hosted| {
            let row = table.row(hosted.slot.id());
            everything
                || row.is_some_and(|row| {
                    row.target.is_some()
                        || row.settling
                        || row.reshape.is_some()
                        || !same(&row.replicas, hosted.slot.group().members())
                })
        });
        let reports: Vec<SlotReport> = due.filter_map(|hosted| self.report_of(hosted)).collect();
        let place = self.config.place;
        let first = Place { shard: ShardId(0), ..place };
        for some in reports.chunks(self.config.limits.leaders_per_frame_max) {
            self.out.frame(first, Frame::SlotReports(SlotReports { place, reports: some.to_vec() }));
        }
    }

    fn report_of(&self, hosted: &Hosted) -> Option<SlotReport> {
        let slot = hosted.slot.id();
        let group = hosted.slot.group();
        let members = group.members();
        let mut voters = members.voters.clone();
        voters.extend(members.voters_outgoing.iter().filter(|replica| !members.voters.contains(replica)));
        Some(SlotReport {
            slot,
            epoch: self.routes.table().row(slot)?.epoch,
            term: group.term(),
            voters,
            learners: members.learners.clone(),
            joint: !members.voters_outgoing.is_empty() || group.is_changing(),
            committed: group.committed(),
            matched: group.progress().iter().map(|progress| (progress.replica, progress.matched)).collect(),
            bytes: hosted.slot.messages() * 200,
        })
    }
}

/// The group is as it should be and led by who should lead it: nothing to look at, which is so nearly always.
fn is_steady(group: &RaftGroup, row: &SlotRow) -> bool {
    row.target.is_none()
        && row.reshape.is_none()
        && group.replica() == row.preferred
        && group.members().learners.is_empty()
        && group.members().voters_outgoing.is_empty()
}

pub(super) fn same(replicas: &[ReplicaId], members: &GroupMembers) -> bool {
    members.voters_outgoing.is_empty()
        && members.learners.is_empty()
        && members.voters.len() == replicas.len()
        && members.voters.iter().all(|voter| replicas.contains(voter))
}

#[cfg(test)]
#[path = "hosting_tests.rs"]
mod tests;
