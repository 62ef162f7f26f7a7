//! What can be asked of the agreed state, and whether it adds up at all. Nothing here changes anything.

use std::collections::BTreeMap;

use super::{
    COUNT_MAX, Cluster, METADATA_VOTERS_MAX, Member, MemberState, REPLICAS_MAX, Reshape, SHARDS_MAX, SLOT_DEPTH_MAX,
    SlotRow,
};
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};

impl Cluster {
    /// Members in a state, by number.
    pub fn members_in(&self, state: MemberState) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(move |(_, member)| member.state == state).map(|(node, _)| *node)
    }

    /// The member's data directory is another one since this replica was numbered, or the member is gone.
    #[must_use]
    pub fn is_lost(&self, replica: ReplicaId) -> bool {
        self.members.get(&replica.place().node).is_none_or(|member| replica.number() < member.since)
    }

    pub(super) fn could_vote(&self, replica: ReplicaId) -> bool {
        replica.number() > 0 && replica.number() < self.next_replica && self.members.contains_key(&replica.place().node)
    }

    /// Rows without any replica that still has its disk. Their content is gone; only an operator can decide what now.
    pub fn lost_rows(&self) -> impl Iterator<Item = SlotId> + '_ {
        let lost = |row: &SlotRow| row.replicas.iter().all(|replica| self.is_lost(*replica));
        self.rows.iter().filter(move |(_, row)| lost(row)).map(|(slot, _)| *slot)
    }

    /// The rows that name a place (among replicas, targets or planned children), with its replica there. A shard hosts these.
    pub fn replicas_at(&self, place: Place) -> impl Iterator<Item = (SlotId, ReplicaId)> + '_ {
        self.rows.iter().flat_map(move |(slot, row)| {
            let here = row.voters_and_target().filter(move |replica| replica.place() == place);
            here.map(|replica| (*slot, replica))
        })
    }

    /// How many rows have a replica at each place, targets not counted.
    #[must_use]
    pub fn replicas_per_place(&self) -> BTreeMap<Place, usize> {
        let mut counts = BTreeMap::new();
        for replica in self.rows.values().flat_map(|row| &row.replicas) {
            *counts.entry(replica.place()).or_insert(0) += 1;
        }
        counts
    }

    /// Who should vote in the metadata group: the first five serving members in the order in which they joined, fewer to make the
    /// number odd. Never empty in a founded cluster.
    #[must_use]
    pub fn metadata_voters_wanted(&self) -> Vec<ReplicaId> {
        let serving = self.members.values().filter(|member| member.state == MemberState::Serving);
        let mut voters: Vec<ReplicaId> = serving.map(|member| member.metadata_replica).collect();
        voters.sort_by_key(|replica| replica.number());
        voters.truncate(METADATA_VOTERS_MAX);
        if voters.len().is_multiple_of(2) {
            voters.pop();
        }
        assert!(
            voters.len() % 2 == 1 || voters.is_empty(),
            "an even number would need as many for a majority as the odd one above"
        );
        voters
    }

    /// What does not add up; `None` for every state that commands can reach. Bytes from outside are asked this.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        if self.members.is_empty() {
            return (*self != Cluster::default()).then_some("there are no members");
        }
        if self.replicas_wanted == 0 || self.next_replica == 0 || self.id == 0 || self.version >= COUNT_MAX {
            return Some("a number is out of its range");
        }
        if !self.members.iter().all(|(node, member)| member.is_sound(*node, self.next_replica)) {
            return Some("a member does not add up");
        }
        let mut covered = 0u32;
        for (slot, row) in &self.rows {
            if !row.is_sound(*slot, self.next_replica) {
                return Some("a slot's row does not add up");
            }
            if !self.reshape_is_sound(*slot, row) {
                return Some("a split or merge does not add up");
            }
            // A shorter name of the same low bits would have the same keys.
            if (0..row.depth).any(|depth| self.rows.get(&slot.at(depth)).is_some_and(|other| other.depth <= depth)) {
                return Some("two slots overlap");
            }
            covered += 1 << (SLOT_DEPTH_MAX - row.depth);
        }
        (covered != 1 << SLOT_DEPTH_MAX).then_some("the slots do not cover every key")
    }
}

impl Member {
    pub(super) fn is_sound(&self, node: NodeId, next_replica: u32) -> bool {
        let place = Place { node, shard: ShardId(0) };
        let number = self.metadata_replica.number();
        node.0 > 0
            && (1..=SHARDS_MAX).contains(&self.shards)
            && self.metadata_replica.place() == place
            && number >= self.since
            && number > 0
            && number < next_replica
    }
}

impl SlotRow {
    /// Voters, and who shall become one.
    pub fn voters_and_target(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let coming = self.target.iter().flatten().filter(|replica| !self.replicas.contains(replica));
        self.replicas.iter().chain(coming).copied()
    }

    /// A move is under way, or was given up: others than those that are named may vote, and lead.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.settling || self.target.is_some()
    }

    /// Every replica that the row names, those of a planned child and of a sibling that was taken in too.
    pub fn named(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let children = match &self.reshape {
            Some(Reshape::Split { replicas, .. } | Reshape::Digest { replicas, .. }) => replicas.as_slice(),
            _ => &[],
        };
        self.voters_and_target().chain(children.iter().copied())
    }

    /// Where the replicas are or, while a move is under way, shall be.
    #[must_use]
    pub fn places_wanted(&self) -> Vec<Place> {
        self.target.as_ref().unwrap_or(&self.replicas).iter().map(|replica| replica.place()).collect()
    }

    pub(super) fn is_sound(&self, slot: SlotId, next_replica: u32) -> bool {
        let count = |replicas: &[ReplicaId]| (1..=usize::from(REPLICAS_MAX)).contains(&replicas.len());
        let numbered = |replica: ReplicaId| replica.number() > 0 && replica.number() < next_replica;
        self.depth <= SLOT_DEPTH_MAX
            && self.epoch < COUNT_MAX
            && slot.at(self.depth) == slot
            && (1..=2 * usize::from(REPLICAS_MAX)).contains(&self.replicas.len())
            && self.target.as_deref().is_none_or(count)
            && self.replicas.contains(&self.preferred)
            && self.named().all(numbered)
    }
}
