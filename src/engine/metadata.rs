//! What the metadata group agrees on: members, the slot table with its epochs, planned moves and reshapings. Every node holds a copy.
//! Decides nothing: [`super::steward`] does; this says what a command changes and refuses one that no longer makes sense. Every
//! replica applies the same commands in the same order, so nothing here may depend on anything but the state and the command. A
//! refused command changes nothing, not even the version. Bytes are `codec`'s affair, splits and merges `reshape`'s, what can be asked `questions`'.
//!
//! ```text
//!  a row:  at rest ──SetTargets──► moving (target) ──Settled──► at rest, epoch + 1
//!             │  ▲                    └────CancelTarget────► settling (the group stays as it stands) ──Settled──► at rest, epoch + 1
//!             │  └──SplitDone, MergeDone (epoch + 1)──┐
//!             └──Split, Merge──► reshaping ───────────┘   (`reshape` says in how many steps)
//!  a member:  AddMember ─► Serving ⇄ Draining, Dead ─(no row names it)─► RemoveMember
//! ```
//! A member that comes with another identity has lost its disk: its replicas there are gone for good, and it counts as new.

mod codec;
mod questions;
mod reshape;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::format::frame::Addresses;
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};

/// Deepest slot: a message id has 14 bits for it. A split at it is refused.
pub const SLOT_DEPTH_MAX: u8 = 14;

/// Members at most. At it a newcomer is refused.
pub const MEMBERS_MAX: usize = 4096;

/// Shards of one node at most: their ports follow each other. More are refused.
pub const SHARDS_MAX: u16 = 1024;

/// Replicas of one slot at most. More are refused: each further one costs every message a copy.
pub const REPLICAS_MAX: u8 = 7;

/// Voters of the metadata group at most; further members follow it as learners.
pub const METADATA_VOTERS_MAX: usize = 5;

/// Longest name of a cluster, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest address that a node tells its clients, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Versions and epochs stay below this, so that counting up is always possible: at a change each nanosecond for three days.
const COUNT_MAX: u64 = 1 << 48;

/// The agreed state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Drawn when the cluster was founded; never changes.
    pub id: u64,
    /// The operator's name for it.
    pub name: Box<str>,
    /// Rises with every change.
    pub version: u64,
    /// Replicas a slot is to have when there are as many nodes.
    pub replicas_wanted: u8,
    /// Everybody, those that are gone for good left out.
    pub members: BTreeMap<NodeId, Member>,
    /// Every slot.
    pub rows: BTreeMap<SlotId, SlotRow>,
    /// The next replica's number.
    pub next_replica: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Names its data directory: another one under the same number is another node.
    pub identity: u64,
    /// Replicas numbered below this were those of a data directory that is lost.
    pub since: u32,
    /// How many shards it has.
    pub shards: u16,
    /// Where it is.
    pub addresses: Addresses,
    /// Its replica of the metadata group.
    pub metadata_replica: ReplicaId,
    /// Whether it may hold slots.
    pub state: MemberState,
}

/// Whether a node may hold slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Holds its share.
    Serving,
    /// An operator wants it empty.
    Draining,
    /// Judged dead: its replicas are rebuilt elsewhere.
    Dead,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Bits of the hash that name it.
    pub depth: u8,
    /// Rises with every change of `replicas` and of `depth`.
    pub epoch: u64,
    /// Who votes, as last agreed.
    pub replicas: Vec<ReplicaId>,
    /// Who should lead when it can.
    pub preferred: ReplicaId,
    /// Who shall vote instead, while a move is under way.
    pub target: Option<Vec<ReplicaId>>,
    /// `replicas` began together, with each other as voters and nothing in their logs. False: each later one begins empty and is sent a
    /// snapshot.
    pub founded: bool,
    /// A move was given up: `replicas` may not be who votes. Until the group has said who does, nobody who might is to end.
    pub settling: bool,
    /// Its group is to split or to merge, or has just merged. While [`SlotRow::is_busy`] its group works at this first, and no move is planned.
    pub reshape: Option<Reshape>,
}

/// A change of a slot's share of the keys, planned and not yet reported as done. The plan's number is what makes each step
/// repeatable: the group remembers in its own state which plan it has carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reshape {
    /// The row's group shall write the split into its log; from there on `child` has the keys whose next bit is set.
    Split {
        /// Never used twice.
        plan: u64,
        /// The other half.
        child: SlotId,
        /// The child's group: at the places of the row's, in its order.
        replicas: Vec<ReplicaId>,
    },
    /// The row's group shall take in its sibling, once that has stopped.
    Absorb {
        /// Of both siblings.
        plan: u64,
        /// Who is taken in.
        sibling: SlotId,
        /// Both are in the same places, and stay there until it is done. False: they are still brought together by moves.
        gathered: bool,
    },
    /// The row's group shall write into its log that nothing comes after.
    Yield {
        /// Of both siblings.
        plan: u64,
        /// Who takes it in.
        sibling: SlotId,
        /// As the sibling says.
        gathered: bool,
    },
    /// The row's group has taken in its sibling. The sibling's group lives on, without keys, for those replicas of the row's that have not
    /// got that far yet.
    Digest {
        /// Of both siblings.
        plan: u64,
        /// Who was taken in.
        sibling: SlotId,
        /// Its group.
        replicas: Vec<ReplicaId>,
        /// Replicas of the row's that have not said yet that what they took in is in their checkpoints.
        waits: Vec<ReplicaId>,
    },
}

/// A change that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataCommand {
    /// The first of all: one member, every slot on it.
    Found {
        /// The cluster's number.
        id: u64,
        /// The operator's name for it.
        name: Box<str>,
        /// As [`Cluster::replicas_wanted`].
        replicas_wanted: u8,
        /// 2^depth slots.
        slot_depth: u8,
        /// Who founds.
        member: NewMember,
    },
    /// A newcomer; a member that moved; or a member whose disk was lost (the caller has made sure that the old process is gone).
    AddMember(NewMember),
    /// Whether a member may hold slots.
    SetMemberState {
        /// Whom.
        node: NodeId,
        /// What it becomes.
        state: MemberState,
    },
    /// Forget a member that holds nothing.
    RemoveMember {
        /// Whom.
        node: NodeId,
    },
    /// Plan moves. Rows that changed meanwhile are skipped, the others applied.
    SetTargets {
        /// Slot, the row's epoch, where its replicas shall be.
        moves: Vec<(SlotId, u64, Vec<Place>)>,
    },
    /// A group stands as wanted.
    Settled {
        /// Which.
        slot: SlotId,
        /// The row's.
        epoch: u64,
        /// Who votes now.
        voters: Vec<ReplicaId>,
    },
    /// Give a move up (the epoch rises). The group stays with the voters that it has, reports them, and [`MetadataCommand::Settled`] writes
    /// them down.
    CancelTarget {
        /// Which.
        slot: SlotId,
        /// The row's.
        epoch: u64,
    },
    /// Who should lead. Rows without that replica are skipped.
    Prefer {
        /// Slot and replica.
        choices: Vec<(SlotId, ReplicaId)>,
    },
    /// How many replicas a slot is to have.
    SetReplicasWanted {
        /// At least 1.
        replicas: u8,
    },
    /// What the operator calls the cluster by now.
    Rename {
        /// 1 to [`NAME_BYTES_MAX`] bytes.
        name: Box<str>,
    },
    /// Plan splits. Rows that changed meanwhile are skipped, the others applied.
    Split {
        /// Slot and the row's epoch.
        slots: Vec<(SlotId, u64)>,
    },
    /// The parent's group has carried the split out.
    SplitDone {
        /// The parent.
        slot: SlotId,
        /// Which one.
        plan: u64,
    },
    /// Plan merges, each of a slot with its sibling. Rows that changed meanwhile are skipped, the others applied.
    Merge {
        /// The lower sibling with its row's epoch, and the epoch of the upper one.
        slots: Vec<(SlotId, u64, u64)>,
    },
    /// Siblings that are to merge are in the same places now: their groups begin. Those that are not are skipped.
    MergeBegin {
        /// The lower sibling and which one.
        slots: Vec<(SlotId, u64)>,
    },
    /// The lower sibling's group has taken the upper one in.
    MergeDone {
        /// The lower sibling.
        slot: SlotId,
        /// Which one.
        plan: u64,
    },
    /// A replica of a slot that has merged has what it took in in its checkpoint, or came later.
    MergeDigested {
        /// The slot.
        slot: SlotId,
        /// Which one.
        plan: u64,
        /// Who.
        replica: ReplicaId,
    },
}

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its number.
    pub node: NodeId,
    /// Names its data directory.
    pub identity: u64,
    /// How many shards it has.
    pub shards: u16,
    /// Where it is.
    pub addresses: Addresses,
}

/// Why a command changed nothing: one sentence that names whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Box<str>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a command did, where that is not plain from the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows of the command that were left alone, and why.
    pub skipped: Vec<(SlotId, Refusal)>,
}

/// Bytes that are no command or no state: the disk's or the sender's fault, or that of a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMetadata(pub &'static str);

impl fmt::Display for BadMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(text.into().into_boxed_str()))
}

/// A handler's answer.
struct Change {
    changed: bool,
    skipped: Vec<(SlotId, Refusal)>,
}

impl From<bool> for Change {
    fn from(changed: bool) -> Change {
        Change { changed, skipped: Vec::new() }
    }
}

impl Cluster {
    /// Carries a command out.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn apply(&mut self, command: &MetadataCommand) -> Result<Applied, Refusal> {
        if self.members.is_empty() != matches!(command, MetadataCommand::Found { .. }) {
            return refuse(if self.members.is_empty() {
                "the sender is wrong: the cluster has not been founded yet".to_owned()
            } else {
                format!("the sender is wrong: the cluster {:?} has been founded already", self.name)
            });
        }
        let change = match command {
            MetadataCommand::Found { id, name, replicas_wanted, slot_depth, member } => {
                self.found(*id, name, *replicas_wanted, *slot_depth, member)?.into()
            }
            MetadataCommand::AddMember(member) => self.add_member(member)?.into(),
            MetadataCommand::SetMemberState { node, state } => self.set_member_state(*node, *state)?.into(),
            MetadataCommand::RemoveMember { node } => self.remove_member(*node)?.into(),
            MetadataCommand::SetTargets { moves } => self.each(
                moves,
                |row| row.0,
                |cluster, (slot, epoch, places)| cluster.set_target(*slot, *epoch, places),
            )?,
            MetadataCommand::Settled { slot, epoch, voters } => self.settled(*slot, *epoch, voters)?.into(),
            MetadataCommand::CancelTarget { slot, epoch } => self.cancel_target(*slot, *epoch)?.into(),
            MetadataCommand::Prefer { choices } => {
                self.each(choices, |row| row.0, |cluster, (slot, replica)| cluster.prefer(*slot, *replica))?
            }
            MetadataCommand::SetReplicasWanted { replicas } => self.set_replicas_wanted(*replicas)?.into(),
            MetadataCommand::Rename { name } => self.rename(name)?.into(),
            MetadataCommand::Split { slots } => {
                self.each(slots, |row| row.0, |cluster, (slot, epoch)| cluster.plan_split(*slot, *epoch))?
            }
            MetadataCommand::SplitDone { slot, plan } => self.split_done(*slot, *plan)?.into(),
            MetadataCommand::Merge { slots } => {
                self.each(slots, |row| row.0, |cluster, (slot, low, high)| cluster.plan_merge(*slot, *low, *high))?
            }
            MetadataCommand::MergeBegin { slots } => {
                self.each(slots, |row| row.0, |cluster, (slot, plan)| cluster.begin_merge(*slot, *plan))?
            }
            MetadataCommand::MergeDone { slot, plan } => self.merge_done(*slot, *plan)?.into(),
            MetadataCommand::MergeDigested { slot, plan, replica } => {
                self.merge_digested(*slot, *plan, *replica)?.into()
            }
        };
        if change.changed {
            self.version += 1;
            debug_assert_eq!(self.fault(), None, "after {command:?}");
        }
        Ok(Applied { skipped: change.skipped })
    }

    /// Row by row. Refused when no row could be applied.
    fn each<T>(
        &mut self,
        rows: &[T],
        slot: impl Fn(&T) -> SlotId,
        mut one: impl FnMut(&mut Cluster, &T) -> Result<bool, Refusal>,
    ) -> Result<Change, Refusal> {
        let mut skipped = Vec::new();
        let mut changed = false;
        for row in rows {
            match one(self, row) {
                Ok(change) => changed |= change,
                Err(why) => skipped.push((slot(row), why)),
            }
        }
        match skipped.first() {
            Some((_, why)) if skipped.len() == rows.len() => Err(why.clone()),
            _ => Ok(Change { changed, skipped }),
        }
    }

    fn found(
        &mut self,
        id: u64,
        name: &str,
        replicas_wanted: u8,
        depth: u8,
        member: &NewMember,
    ) -> Result<bool, Refusal> {
        if id == 0 || name.is_empty() || name.len() > NAME_BYTES_MAX {
            return refuse("the founder is wrong: a cluster has a number and a name of 1 to 64 bytes");
        }
        if depth > SLOT_DEPTH_MAX {
            return refuse(format!("the configuration is wrong: slot depth {depth} is over {SLOT_DEPTH_MAX}"));
        }
        check_replicas(replicas_wanted)?;
        check_member(member)?;
        *self = Cluster { id, name: name.into(), replicas_wanted, next_replica: 1, ..Cluster::default() };
        self.admit(member, MemberState::Serving);
        for slot in 0..1u16 << depth {
            let replica = self.number(Place { node: member.node, shard: ShardId(slot % member.shards) });
            let row = SlotRow {
                depth,
                epoch: 1,
                replicas: vec![replica],
                preferred: replica,
                target: None,
                founded: true,
                settling: false,
                reshape: None,
            };
            self.rows.insert(SlotId(slot), row);
        }
        assert_eq!(self.rows.len(), 1 << depth, "every slot has its row");
        Ok(true)
    }

    /// A replica that never was. Callers ask [`Cluster::check_numbers`] first.
    fn number(&mut self, place: Place) -> ReplicaId {
        assert!(self.next_replica > 0 && self.next_replica < u32::MAX, "numbers are never used twice; callers check");
        let replica = ReplicaId::new(place, self.next_replica);
        self.next_replica += 1;
        replica
    }

    fn check_numbers(&self, count: usize) -> Result<(), Refusal> {
        if count as u64 >= u64::from(u32::MAX - self.next_replica) {
            return refuse("nobody is at fault: the cluster has used up its 2^32 replica numbers");
        }
        Ok(())
    }

    fn admit(&mut self, member: &NewMember, state: MemberState) {
        let since = self.next_replica;
        let metadata_replica = self.number(Place { node: member.node, shard: ShardId(0) });
        assert!(since <= metadata_replica.number(), "its own replica is none of those that are lost");
        let NewMember { node, identity, shards, addresses } = member.clone();
        self.members.insert(node, Member { identity, since, shards, addresses, metadata_replica, state });
    }

    fn add_member(&mut self, new: &NewMember) -> Result<bool, Refusal> {
        check_member(new)?;
        let node = new.node;
        let Some(member) = self.members.get_mut(&node) else {
            if self.members.len() >= MEMBERS_MAX {
                return refuse(format!("{node} comes too late: the cluster has {MEMBERS_MAX} members already"));
            }
            self.check_numbers(1)?;
            self.admit(new, MemberState::Serving);
            return Ok(true);
        };
        if member.identity != new.identity {
            self.check_numbers(1 + 2 * self.rows.len())?;
            self.replace_disk(new);
            return Ok(true);
        }
        if member.shards != new.shards {
            return refuse(format!(
                "{node}'s configuration is wrong: its data directory was made for {} shards, not {}",
                member.shards, new.shards
            ));
        }
        let changed = member.addresses != new.addresses;
        member.addresses.clone_from(&new.addresses);
        Ok(changed)
    }

    /// A member's disk is another one: what was there gets new numbers at the same place and is rebuilt from the other replicas. A row
    /// that had nothing anywhere else stays, see [`Cluster::lost_rows`].
    fn replace_disk(&mut self, new: &NewMember) {
        let draining = self.members.get(&new.node).is_some_and(|member| member.state == MemberState::Draining);
        self.admit(new, if draining { MemberState::Draining } else { MemberState::Serving });
        let slots: Vec<SlotId> = self.rows.keys().copied().collect();
        for slot in slots {
            let Some(row) = self.rows.get(&slot) else { continue };
            let wanted = row.target.as_ref().unwrap_or(&row.replicas);
            let all_lost = row.replicas.iter().all(|replica| self.is_lost(*replica));
            if all_lost || !wanted.iter().any(|replica| self.is_lost(*replica)) {
                continue;
            }
            let target = self.renumbered(wanted.clone());
            if let Some(row) = self.rows.get_mut(&slot) {
                row.target = Some(target);
                row.settling = false;
            }
        }
    }

    /// The same places, and new numbers for those replicas whose disk is lost.
    fn renumbered(&mut self, replicas: Vec<ReplicaId>) -> Vec<ReplicaId> {
        let mut renewed = Vec::with_capacity(replicas.len());
        for replica in replicas {
            let shards = self.members.get(&replica.place().node).map_or(1, |member| member.shards);
            let lost = self.is_lost(replica);
            let shard = ShardId(replica.place().shard.0 % shards);
            renewed.push(if lost { self.number(Place { shard, ..replica.place() }) } else { replica });
        }
        assert!(renewed.iter().all(|replica| !self.is_lost(*replica)), "what is numbered anew is not lost");
        renewed
    }

    fn set_member_state(&mut self, node: NodeId, state: MemberState) -> Result<bool, Refusal> {
        let last = self.members_in(MemberState::Serving).all(|other| other == node);
        let Some(member) = self.members.get_mut(&node) else {
            return refuse(format!("the sender is wrong: {node} is not a member"));
        };
        if last && state != MemberState::Serving {
            return refuse(format!("the operator asks too much: {node} is the last member that may hold slots"));
        }
        let changed = member.state != state;
        member.state = state;
        Ok(changed)
    }

    fn remove_member(&mut self, node: NodeId) -> Result<bool, Refusal> {
        let Some(member) = self.members.get(&node) else {
            return refuse(format!("the sender is wrong: {node} is not a member"));
        };
        if member.state == MemberState::Serving {
            return refuse(format!("the operator is too early: {node} is serving, drain it first"));
        }
        // Who votes in a settling row is not known here.
        let holds = |row: &&SlotRow| row.settling || row.named().any(|replica| replica.place().node == node);
        let holding = self.rows.values().filter(holds).count();
        if holding > 0 {
            return refuse(format!("the operator is too early: {node} still holds {holding} slots"));
        }
        self.members.remove(&node);
        Ok(true)
    }

    fn set_target(&mut self, slot: SlotId, epoch: u64, places: &[Place]) -> Result<bool, Refusal> {
        let row = self.movable(slot, epoch)?;
        check_count(slot, places.len())?;
        let nodes: BTreeSet<NodeId> = places.iter().map(|place| place.node).collect();
        if nodes.len() < places.len() {
            return refuse(format!("the planner is wrong: two replicas of slot {slot} would be on one node"));
        }
        let mut wanted: Vec<Result<ReplicaId, Place>> = Vec::with_capacity(places.len());
        for place in places {
            let old = row.replicas.iter().find(|old| old.place() == *place && !self.is_lost(**old));
            if old.is_none() {
                match self.members.get(&place.node) {
                    Some(member) if member.state == MemberState::Serving && place.shard.0 < member.shards => {}
                    _ => return refuse(format!("the planner is wrong: {place} takes no replica of slot {slot}")),
                }
            }
            wanted.push(old.copied().ok_or(*place));
        }
        let unchanged = wanted.len() == row.replicas.len() && wanted.iter().all(Result::is_ok);
        if unchanged {
            return refuse(format!("the planner is late: slot {slot} is there already"));
        }
        self.check_numbers(wanted.len())?;
        let target = wanted.into_iter().map(|one| one.unwrap_or_else(|place| self.number(place))).collect();
        self.rows.entry(slot).and_modify(|row| row.target = Some(target));
        Ok(true)
    }

    fn settled(&mut self, slot: SlotId, epoch: u64, voters: &[ReplicaId]) -> Result<bool, Refusal> {
        let row = self.row(slot, epoch)?;
        if row.is_busy() {
            return refuse(format!("slot {slot}'s leader is too early: its split or merge comes first"));
        }
        // Of a move that was given up half way both sides may vote.
        check_count(slot, voters.len().div_ceil(2))?;
        let stands: BTreeSet<ReplicaId> = voters.iter().copied().collect();
        if let Some(target) = &row.target {
            if stands.len() != voters.len() || stands != target.iter().copied().collect() {
                return refuse(format!("slot {slot}'s leader is too early: its group does not stand as its target"));
            }
        } else if stands.len() != voters.len() || !voters.iter().all(|replica| self.could_vote(*replica)) {
            return refuse(format!("slot {slot}'s leader is wrong: it names a replica that nobody numbered"));
        } else if !row.settling && stands == row.replicas.iter().copied().collect() {
            return refuse(format!("slot {slot}'s leader is late: that is what the row says"));
        }
        self.rows.entry(slot).and_modify(|row| {
            row.replicas = voters.to_vec();
            row.target = None;
            row.founded = false;
            row.settling = false;
            row.epoch += 1;
            if !voters.contains(&row.preferred) {
                row.preferred = voters[0];
            }
            assert!(row.replicas.contains(&row.preferred), "who should lead votes");
            row.digest_without(|waits| !voters.contains(waits));
        });
        Ok(true)
    }

    fn cancel_target(&mut self, slot: SlotId, epoch: u64) -> Result<bool, Refusal> {
        if self.row(slot, epoch)?.target.is_none() {
            return refuse(format!("the sender is late: slot {slot} has no move under way"));
        }
        // Another epoch, so that no report from before this counts.
        self.rows.entry(slot).and_modify(|row| (row.target, row.settling, row.epoch) = (None, true, row.epoch + 1));
        Ok(true)
    }

    fn prefer(&mut self, slot: SlotId, replica: ReplicaId) -> Result<bool, Refusal> {
        let Some(row) = self.rows.get_mut(&slot) else {
            return refuse(format!("the sender is wrong: there is no slot {slot}"));
        };
        if !row.replicas.contains(&replica) {
            return refuse(format!("the sender is late: {replica} is no replica of slot {slot}"));
        }
        let changed = row.preferred != replica;
        row.preferred = replica;
        Ok(changed)
    }

    fn set_replicas_wanted(&mut self, replicas: u8) -> Result<bool, Refusal> {
        check_replicas(replicas)?;
        let changed = self.replicas_wanted != replicas;
        self.replicas_wanted = replicas;
        Ok(changed)
    }

    fn rename(&mut self, name: &str) -> Result<bool, Refusal> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return refuse("the configuration is wrong: a cluster has a name of 1 to 64 bytes");
        }
        let changed = *self.name != *name;
        self.name = name.into();
        Ok(changed)
    }

    fn row(&self, slot: SlotId, epoch: u64) -> Result<&SlotRow, Refusal> {
        match self.rows.get(&slot) {
            None => refuse(format!("the sender is wrong: there is no slot {slot}")),
            Some(row) if row.epoch != epoch => {
                refuse(format!("the sender is late: slot {slot} is at epoch {}, not {epoch}", row.epoch))
            }
            Some(row) => Ok(row),
        }
    }

    /// A row of that epoch to which nothing is happening.
    fn resting(&self, slot: SlotId, epoch: u64) -> Result<&SlotRow, Refusal> {
        let row = self.movable(slot, epoch)?;
        if row.reshape.is_some() {
            return refuse(format!("the sender is too early: slot {slot} has a split or merge under way"));
        }
        if row.replicas.iter().all(|replica| self.is_lost(*replica)) {
            return refuse(format!(
                "slot {slot} can neither be split nor merged: every disk that had a replica of it is lost"
            ));
        }
        Ok(row)
    }

    /// A row of that epoch that may be moved.
    fn movable(&self, slot: SlotId, epoch: u64) -> Result<&SlotRow, Refusal> {
        let row = self.row(slot, epoch)?;
        if row.target.is_some() {
            return refuse(format!("the sender is too early: slot {slot} has a move under way"));
        }
        if row.settling {
            return refuse(format!(
                "the sender is too early: slot {slot} had a move that was given up, and has not settled"
            ));
        }
        if row.is_busy() {
            return refuse(format!("the sender is too early: slot {slot} has a split or merge under way"));
        }
        Ok(row)
    }
}

fn check_replicas(replicas: u8) -> Result<(), Refusal> {
    if replicas == 0 || replicas > REPLICAS_MAX {
        return refuse(format!("the configuration is wrong: {replicas} replicas are not 1 to {REPLICAS_MAX}"));
    }
    Ok(())
}

fn check_count(slot: SlotId, replicas: usize) -> Result<(), Refusal> {
    if replicas == 0 || replicas > usize::from(REPLICAS_MAX) {
        return refuse(format!("the sender is wrong: slot {slot} cannot have {replicas} replicas"));
    }
    Ok(())
}

fn check_member(member: &NewMember) -> Result<(), Refusal> {
    let NewMember { node, shards, addresses, .. } = member;
    if node.0 == 0 {
        return refuse("the configuration is wrong: a node's number is not 0");
    }
    if *shards == 0 || *shards > SHARDS_MAX {
        return refuse(format!("{node}'s configuration is wrong: {shards} shards are not 1 to {SHARDS_MAX}"));
    }
    if addresses.cluster.port().checked_add(shards - 1).is_none() {
        return refuse(format!("{node}'s configuration is wrong: its shards' ports would go beyond 65535"));
    }
    if [&addresses.tcp, &addresses.ws, &addresses.wss, &addresses.http]
        .iter()
        .any(|text| text.len() > ADDRESS_BYTES_MAX)
    {
        return refuse(format!("{node}'s configuration is wrong: an address is longer than {ADDRESS_BYTES_MAX} bytes"));
    }
    Ok(())
}
