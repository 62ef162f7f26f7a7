//! What the leader of the metadata group proposes next. It hears who is alive and how the slots' groups stand, looks at the agreed state
//! and names a few commands; whether they are agreed on, it sees in the next state. It keeps nothing that a successor needs: everything
//! here can be heard or planned again. Where replicas should be is [`super::placement`]'s, what a command means
//! [`super::metadata`]'s affair. Splits and merges are asked for by operators and reported by their groups; siblings that are to merge are
//! brought together here, and begin when they are.
//!
//! ```text
//!  a move:    planned ─(room, best first)─► SetTargets ─► the slot's leader works ─(its report)─► Settled ─► Prefer
//!                                               └─(a newcomer died)─► CancelTarget ─► planned anew
//!  a member:  Serving ─(silent for replace_after, others can take over)─► Dead ─(heard again)─► Serving
//! ```
//! A new leader waits one round of Alive before it calls anybody silent; its clock of silence begins when it became leader.

mod progress;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::metadata::{Cluster, MemberState, MetadataCommand, Reshape, SlotRow};
use super::placement::{self, Holding, NodeShape};
use crate::format::frame::SlotReport;
use crate::ids::{NodeId, Place, ReplicaId, SlotId};
use crate::time::Instant;

pub use progress::{MemberProgress, MoveProgress, Progress, Waiting};

/// Bounds of the steward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StewardLimits {
    /// Moves under way at a time. At it: the others wait for one to settle.
    pub moves_under_way_max: usize,
    /// Of those, so many may bring a replica to one node. At it: other nodes' moves go first.
    pub moves_into_node_max: usize,
    /// A serving member that was silent so long is judged dead.
    pub replace_after: Duration,
    /// A member that was silent so long is not counted on: nothing new is begun with it.
    pub silent_after: Duration,
    /// How long a new leader listens before it judges anybody.
    pub listen_first: Duration,
    /// A proposal that changed nothing is made again after this.
    pub propose_again_after: Duration,
    /// Merges under way at a time, those included that some replica has yet to digest. At it: the others wait.
    pub merges_under_way_max: usize,
    /// Commands of one decision. At it: the rest comes with the next.
    pub commands_max: usize,
    /// Leaders chosen in one command. At it: the rest comes with the next.
    pub choices_max: usize,
    /// Reasons named in one [`Progress`]; further ones are only counted.
    pub waits_max: usize,
}

impl StewardLimits {
    /// What runs.
    pub const PRODUCTION: StewardLimits = StewardLimits {
        moves_under_way_max: 32,
        moves_into_node_max: 8,
        replace_after: Duration::from_secs(300),
        silent_after: Duration::from_secs(5),
        // Longer than leaders at rest wait between two reports.
        listen_first: Duration::from_secs(7),
        propose_again_after: Duration::from_secs(1),
        merges_under_way_max: 16,
        commands_max: 32,
        choices_max: 256,
        waits_max: 64,
    };

    /// What the simulator runs with: everything comes one after the other.
    pub const TINY: StewardLimits = StewardLimits {
        moves_under_way_max: 2,
        moves_into_node_max: 1,
        commands_max: 2,
        choices_max: 1,
        merges_under_way_max: 1,
        waits_max: 2,
        ..StewardLimits::PRODUCTION
    };
}

/// What was heard from a node.
#[derive(Clone, Copy, Debug)]
struct Heard {
    boot: u64,
    at: Instant,
    /// Gossip says that it is gone; its own word is stronger.
    doubted: bool,
}

/// What the plan follows from, rows aside. Another basis, another plan.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    nodes: Vec<(NodeShape, u32)>,
    replicas_wanted: u8,
    slots: usize,
}

#[derive(Clone, Debug)]
struct Planned {
    basis: Basis,
    /// Of the state that it was made from.
    version: u64,
    moves: BTreeMap<SlotId, Vec<Place>>,
    prefer: BTreeMap<SlotId, Place>,
}

/// A move that this steward saw begin.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    epoch: u64,
}

/// The machine. Made anew by whoever becomes leader of the metadata group.
#[derive(Debug)]
pub struct Steward {
    limits: StewardLimits,
    since: Instant,
    /// At most one per member.
    heard: BTreeMap<NodeId, Heard>,
    /// At most one per slot.
    reports: BTreeMap<SlotId, SlotReport>,
    planned: Option<Planned>,
    /// The version that the last proposals were made from, and when.
    proposed: Option<(u64, Instant)>,
    begun: BTreeMap<SlotId, Begun>,
    /// How long a move takes, of those that were seen from beginning to end; the last ones count most.
    move_takes: Option<Duration>,
}

impl Steward {
    /// This node leads the metadata group from now on.
    #[must_use]
    pub fn new(limits: StewardLimits, now: Instant) -> Steward {
        assert!(limits.moves_under_way_max > 0 && limits.moves_into_node_max > 0, "nothing would ever move");
        Steward {
            limits,
            since: now,
            heard: BTreeMap::new(),
            reports: BTreeMap::new(),
            planned: None,
            proposed: None,
            begun: BTreeMap::new(),
            move_takes: None,
        }
    }

    /// A node says that it is alive. Each node that is not a member is forgotten with the next decision.
    pub fn alive(&mut self, node: NodeId, boot: u64, now: Instant) {
        self.heard.insert(node, Heard { boot, at: now, doubted: false });
    }

    /// True when this process of a node is heard from.
    #[must_use]
    pub fn hears(&self, node: NodeId, now: Instant) -> bool {
        self.heard.contains_key(&node) && self.is_alive(node, now)
    }

    /// Gossip believes that a process is gone, or back. Never a reason to judge, only not to count on it.
    pub fn hint(&mut self, node: NodeId, boot: u64, is_up: bool) {
        if let Some(heard) = self.heard.get_mut(&node).filter(|heard| heard.boot == boot) {
            heard.doubted = !is_up;
        }
    }

    /// How a slot's group stands, by its leader. That of an earlier term or epoch changes nothing.
    pub fn report(&mut self, report: SlotReport) {
        let order = |report: &SlotReport| (report.term, report.epoch, report.committed);
        if self.reports.get(&report.slot).is_none_or(|known| order(known) <= order(&report)) {
            self.reports.insert(report.slot, report);
        }
    }

    /// An operator wants everything planned anew: the next decision does.
    pub fn plan_anew(&mut self) {
        (self.planned, self.proposed) = (None, None);
    }

    /// What to propose now. Asked after each change of the state and once in a while; empty when there is nothing to do, or when what was
    /// proposed last has not shown its effect yet.
    pub fn decide(&mut self, now: Instant, cluster: &Cluster) -> Vec<MetadataCommand> {
        if cluster.members.is_empty() {
            return Vec::new();
        }
        self.forget(now, cluster);
        let again_after = self.limits.propose_again_after;
        if self.proposed.is_some_and(|(version, at)| version == cluster.version && now.since(at) < again_after) {
            return Vec::new();
        }
        let mut commands = Vec::new();
        commands.extend(self.judge(now, cluster));
        commands.extend(self.settled(now, cluster));
        if commands.is_empty() {
            commands.extend(self.give_up(cluster));
        }
        self.plan(now, cluster);
        let moves = self.begin(now, cluster);
        let begins: BTreeSet<SlotId> = moves.iter().flatten().map(|(slot, ..)| *slot).collect();
        commands.extend(moves.map(|moves| MetadataCommand::SetTargets { moves }));
        commands.extend(self.begin_merges(now, cluster, &begins));
        if commands.is_empty() {
            commands.extend(self.prefer(now, cluster));
        }
        commands.truncate(self.limits.commands_max);
        assert!(commands.len() <= self.limits.commands_max, "the rest comes with the next");
        self.proposed = (!commands.is_empty()).then_some((cluster.version, now));
        commands
    }

    /// Drops what is about nodes and slots that are no more, and measures the moves that have ended.
    fn forget(&mut self, now: Instant, cluster: &Cluster) {
        self.heard.retain(|node, _| cluster.members.contains_key(node));
        // An epoch from the future is that of an earlier slot of this number, merged away since.
        self.reports.retain(|slot, report| cluster.rows.get(slot).is_some_and(|row| report.epoch <= row.epoch));
        let mut took = Vec::new();
        self.begun.retain(|slot, begun| match cluster.rows.get(slot) {
            Some(row) if row.target.is_some() && row.epoch == begun.epoch => true,
            Some(row) if row.epoch > begun.epoch => {
                took.push(now.since(begun.at));
                false
            }
            _ => false,
        });
        for took in took {
            self.move_takes = Some(self.move_takes.map_or(took, |before| (before * 3 + took) / 4));
        }
        for (slot, row) in cluster.rows.iter().filter(|(_, row)| row.target.is_some()) {
            self.begun.entry(*slot).or_insert(Begun { at: now, epoch: row.epoch });
        }
    }

    /// How long a member has said nothing, as far as this leader can know.
    fn silence(&self, node: NodeId, now: Instant) -> Duration {
        now.since(self.heard.get(&node).map_or(self.since, |heard| heard.at.max(self.since)))
    }

    fn is_alive(&self, node: NodeId, now: Instant) -> bool {
        let doubted = self.heard.get(&node).is_some_and(|heard| heard.doubted);
        !doubted && self.silence(node, now) < self.limits.silent_after
    }

    pub fn has_listened(&self, now: Instant) -> bool {
        now.since(self.since) >= self.limits.listen_first
    }

    /// One member at a time: what follows from it is to be seen first.
    fn judge(&self, now: Instant, cluster: &Cluster) -> Option<MetadataCommand> {
        if !self.has_listened(now) {
            return None;
        }
        let back = cluster
            .members_in(MemberState::Dead)
            .find(|node| self.heard.contains_key(node) && self.is_alive(*node, now));
        if let Some(node) = back {
            return Some(MetadataCommand::SetMemberState { node, state: MemberState::Serving });
        }
        let silent = cluster.members_in(MemberState::Serving).find(|node| {
            self.silence(*node, now) >= self.limits.replace_after && self.not_judged(*node, now, cluster).is_none()
        });
        silent.map(|node| MetadataCommand::SetMemberState { node, state: MemberState::Dead })
    }

    /// Why a silent member is not judged dead.
    fn not_judged(&self, node: NodeId, now: Instant, cluster: &Cluster) -> Option<&'static str> {
        let alive = cluster.members.keys().filter(|other| **other != node && self.is_alive(**other, now)).count();
        if alive * 2 <= cluster.members.len() {
            return Some("no majority of the members is alive");
        }
        let serving = cluster.members_in(MemberState::Serving).count();
        let could =
            cluster.members_in(MemberState::Serving).filter(|other| *other != node && self.is_alive(*other, now));
        (could.count() < serving.min(usize::from(cluster.replicas_wanted)))
            .then_some("no other node could take its replicas; drain it if it will not come back")
    }

    /// Groups that stand as wanted, or whose move was given up after they had changed over.
    fn settled(&self, now: Instant, cluster: &Cluster) -> Vec<MetadataCommand> {
        let stands = |report: &&SlotReport| {
            let Some(row) = cluster.rows.get(&report.slot) else { return false };
            row.epoch == report.epoch
                && !row.is_busy()
                && !report.joint
                && report.learners.is_empty()
                && match &row.target {
                    Some(target) => same(target, &report.voters),
                    // A leader that is one no more may have been heard first.
                    None => self.has_listened(now) && (row.settling || !same(&row.replicas, &report.voters)),
                }
        };
        let settle = |report: &SlotReport| MetadataCommand::Settled {
            slot: report.slot,
            epoch: report.epoch,
            voters: report.voters.clone(),
        };
        self.reports.values().filter(stands).take(self.limits.commands_max).map(settle).collect()
    }

    /// Moves towards a node that serves no more cannot end, nor can those after which most would be dead.
    fn give_up(&self, cluster: &Cluster) -> Vec<MetadataCommand> {
        let serves = |replica: &ReplicaId| {
            let member = cluster.members.get(&replica.place().node);
            member.is_some_and(|member| member.state == MemberState::Serving)
        };
        let hopeless = |row: &SlotRow| {
            let coming = row.target.iter().flatten().filter(|replica| !row.replicas.contains(replica));
            let target = row.target.as_deref().unwrap_or_default();
            let is_dead = |replica: &&ReplicaId| {
                let member = cluster.members.get(&replica.place().node);
                member.is_none_or(|member| member.state == MemberState::Dead)
            };
            let silenced = !target.is_empty() && target.iter().filter(is_dead).count() * 2 >= target.len();
            !row.is_busy() && (silenced || coming.into_iter().any(|replica| !serves(replica)))
        };
        let rows = cluster.rows.iter().filter(|(_, row)| hopeless(row)).take(self.limits.commands_max);
        rows.map(|(slot, row)| MetadataCommand::CancelTarget { slot: *slot, epoch: row.epoch }).collect()
    }

    /// Plans anew when members have changed, or when the last plan is carried out and something has happened since.
    fn plan(&mut self, now: Instant, cluster: &Cluster) {
        let nodes = cluster.members.iter().map(|(node, member)| {
            (NodeShape { node: *node, shards: member.shards, state: member.state }, member.since)
        });
        let basis =
            Basis { nodes: nodes.collect(), replicas_wanted: cluster.replicas_wanted, slots: cluster.rows.len() };
        if let Some(planned) = self.planned.as_mut().filter(|planned| planned.basis == basis) {
            planned.moves.retain(|slot, to| cluster.rows.get(slot).is_some_and(|row| !is_there(row, to, cluster)));
            if !planned.moves.is_empty() || planned.version == cluster.version {
                return;
            }
        }
        // A plan is carried out to its end: leaderships change places in turns, and half of a turn is uneven for another plan, which might
        // take it back.
        if self.planned.as_ref().is_some_and(|planned| planned.basis == basis) && !self.choices(now, cluster).is_empty()
        {
            return;
        }
        // A row whose disks are all lost has nothing that could move.
        let lost: BTreeSet<SlotId> = cluster.lost_rows().collect();
        let rows: Vec<Holding> = cluster
            .rows
            .iter()
            .map(|(slot, row)| (*slot, places_counted(row, cluster), row.preferred.place()))
            .collect();
        let shapes: Vec<NodeShape> = basis.nodes.iter().map(|(shape, _)| *shape).collect();
        let plan = placement::plan(&shapes, &rows, cluster.replicas_wanted);
        let moves = plan.moves.into_iter().filter(|one| !lost.contains(&one.slot)).map(|one| (one.slot, one.to));
        let mut moves: BTreeMap<SlotId, Vec<Place>> = moves.collect();
        gather(cluster, &mut moves);
        // Where it counts they are right already, and those on lost disks vote all the same: they are to leave.
        for (slot, row) in cluster.rows.iter().filter(|(slot, row)| names_lost(row, cluster) && !lost.contains(slot)) {
            moves.entry(*slot).or_insert_with(|| places_counted(row, cluster));
        }
        self.planned =
            Some(Planned { basis, version: cluster.version, moves, prefer: plan.prefer.into_iter().collect() });
    }

    /// Replicas of a row that can be counted on.
    fn live_replicas(&self, row: &SlotRow, now: Instant, cluster: &Cluster) -> usize {
        let live = |replica: &&ReplicaId| !cluster.is_lost(**replica) && self.is_alive(replica.place().node, now);
        row.replicas.iter().filter(live).count()
    }

    fn has_majority(&self, row: &SlotRow, now: Instant, cluster: &Cluster) -> bool {
        self.live_replicas(row, now, cluster) * 2 > row.replicas.len()
    }

    /// Moves under way that can go on, and how many of all bring something to each node.
    fn under_way(&self, now: Instant, cluster: &Cluster) -> (usize, BTreeMap<NodeId, usize>) {
        let mut count = 0;
        let mut into = BTreeMap::new();
        for row in cluster.rows.values().filter(|row| row.target.is_some()) {
            count += usize::from(self.has_majority(row, now, cluster));
            for replica in row.target.iter().flatten().filter(|replica| !row.replicas.contains(replica)) {
                *into.entry(replica.place().node).or_insert(0) += 1;
            }
        }
        (count, into)
    }

    /// The next moves, those with the fewest live replicas first.
    fn begin(&self, now: Instant, cluster: &Cluster) -> Option<Vec<(SlotId, u64, Vec<Place>)>> {
        let planned = self.planned.as_ref().filter(|_| self.has_listened(now))?;
        let (mut count, mut into) = self.under_way(now, cluster);
        let mut waiting: Vec<(usize, SlotId)> = Vec::new();
        for slot in planned.moves.keys() {
            let rests = |row: &&SlotRow| !row.is_changing() && !row.is_busy();
            if let Some(row) = cluster.rows.get(slot).filter(rests) {
                waiting.push((self.live_replicas(row, now, cluster), *slot));
            }
        }
        waiting.sort_unstable();
        let mut moves = Vec::new();
        for (_, slot) in waiting {
            if count >= self.limits.moves_under_way_max {
                break;
            }
            let (Some(row), Some(to)) = (cluster.rows.get(&slot), planned.moves.get(&slot)) else { continue };
            if self.why_not_yet(row, to, &into, now, cluster).is_some() {
                continue;
            }
            coming(row, to, cluster).for_each(|place| *into.entry(place.node).or_insert(0) += 1);
            count += 1;
            moves.push((slot, row.epoch, to.clone()));
        }
        assert!(moves.len() <= self.limits.moves_under_way_max, "a few at a time");
        (!moves.is_empty()).then_some(moves)
    }

    /// Merges whose siblings have come together, those of which one begins to move with this decision left out.
    fn begin_merges(&self, now: Instant, cluster: &Cluster, moving: &BTreeSet<SlotId>) -> Option<MetadataCommand> {
        let under_way = |row: &&SlotRow| match row.reshape {
            Some(Reshape::Absorb { gathered, .. }) => gathered,
            Some(Reshape::Digest { .. }) => true,
            _ => false,
        };
        let count = cluster.rows.values().filter(under_way).count();
        let ready = cluster.rows.iter().filter_map(|(slot, row)| {
            let Some(Reshape::Absorb { plan, sibling, gathered: false }) = row.reshape else { return None };
            let other = cluster.rows.get(&sibling)?;
            let ready = |slot, row| self.has_majority(row, now, cluster) && !moving.contains(&slot);
            (cluster.is_gathered(row, other) && ready(*slot, row) && ready(sibling, other)).then_some((*slot, plan))
        });
        let slots: Vec<(SlotId, u64)> = ready.take(self.limits.merges_under_way_max.saturating_sub(count)).collect();
        (!slots.is_empty()).then_some(MetadataCommand::MergeBegin { slots })
    }

    /// What a planned move waits for, the number of moves under way aside.
    fn why_not_yet(
        &self,
        row: &SlotRow,
        to: &[Place],
        into: &BTreeMap<NodeId, usize>,
        now: Instant,
        cluster: &Cluster,
    ) -> Option<String> {
        if row.target.is_some() {
            return Some("an earlier move of it is under way".into());
        }
        if row.settling {
            return Some("an earlier move of it was given up and has not settled".into());
        }
        if row.is_busy() {
            return Some("a split or merge of it is under way".into());
        }
        if !self.has_majority(row, now, cluster) {
            return Some("most of its replicas are silent".into());
        }
        for place in coming(row, to, cluster) {
            if !self.is_alive(place.node, now) {
                return Some(format!("{} is silent", place.node));
            }
            let busy = into.get(&place.node).copied().unwrap_or(0);
            if busy >= self.limits.moves_into_node_max {
                return Some(format!("{} receives {busy} slots already", place.node));
            }
        }
        None
    }

    /// Once nothing moves any more, leadership is evened out.
    fn prefer(&self, now: Instant, cluster: &Cluster) -> Option<MetadataCommand> {
        let choices = self.choices(now, cluster);
        assert!(choices.len() <= self.limits.choices_max, "the rest comes with the next");
        (!choices.is_empty()).then_some(MetadataCommand::Prefer { choices })
    }

    /// Leaders that the plan wants elsewhere, and that can be there now.
    fn choices(&self, now: Instant, cluster: &Cluster) -> Vec<(SlotId, ReplicaId)> {
        let Some(planned) = self.planned.as_ref().filter(|planned| planned.moves.is_empty()) else { return Vec::new() };
        let choice = |(slot, place): (&SlotId, &Place)| {
            let row = cluster.rows.get(slot).filter(|row| row.target.is_none() && !row.is_busy())?;
            let replica = row.replicas.iter().find(|replica| replica.place() == *place)?;
            (*replica != row.preferred && self.is_alive(place.node, now)).then_some((*slot, *replica))
        };
        planned.prefer.iter().filter_map(choice).take(self.limits.choices_max).collect()
    }
}

/// Siblings that are to merge: the lower one stays where it is, if it may, and the upper one comes beside it.
fn gather(cluster: &Cluster, moves: &mut BTreeMap<SlotId, Vec<Place>>) {
    let serving: BTreeSet<NodeId> = cluster.members_in(MemberState::Serving).collect();
    let wanted = serving.len().min(usize::from(cluster.replicas_wanted));
    for (slot, row) in &cluster.rows {
        let Some(Reshape::Absorb { sibling, gathered: false, .. }) = row.reshape else { continue };
        let Some(other) = cluster.rows.get(&sibling) else { continue };
        let here = places_counted(row, cluster);
        if here.len() == wanted && here.iter().all(|place| serving.contains(&place.node)) {
            moves.remove(slot);
        }
        let to = moves.get(slot).unwrap_or(&here).clone();
        let there = places_counted(other, cluster);
        moves.remove(&sibling);
        if to.len() != there.len() || !to.iter().all(|place| there.contains(place)) {
            moves.insert(sibling, to);
        }
    }
}

/// Where the replicas of a row are or shall be, those on lost disks left out.
fn places_counted(row: &SlotRow, cluster: &Cluster) -> Vec<Place> {
    let named = row.target.as_ref().unwrap_or(&row.replicas).iter();
    named.filter(|replica| !cluster.is_lost(**replica)).map(|replica| replica.place()).collect()
}

/// Somebody who votes, or shall, has lost its disk: it will never say anything again.
fn names_lost(row: &SlotRow, cluster: &Cluster) -> bool {
    row.target.as_ref().unwrap_or(&row.replicas).iter().any(|replica| cluster.is_lost(*replica))
}

/// A move has nothing to do any more: its replicas are in these places or on their way there, and nobody else votes afterwards.
fn is_there(row: &SlotRow, to: &[Place], cluster: &Cluster) -> bool {
    let wanted = places_counted(row, cluster);
    wanted.len() == to.len() && to.iter().all(|place| wanted.contains(place)) && !names_lost(row, cluster)
}

/// Where a move brings something that is not there: a lost disk holds nothing.
fn coming<'a>(row: &'a SlotRow, to: &'a [Place], cluster: &'a Cluster) -> impl Iterator<Item = Place> + 'a {
    let holds =
        |place: Place| row.replicas.iter().any(|replica| replica.place() == place && !cluster.is_lost(*replica));
    to.iter().copied().filter(move |place| !holds(*place))
}

fn same(some: &[ReplicaId], others: &[ReplicaId]) -> bool {
    some.len() == others.len() && some.iter().all(|replica| others.contains(replica))
}
