//! Where keys live: the slot table as last agreed, and who is known to lead each slot. The first comes from the metadata group and is
//! the same everywhere at one version; the second is a hint that only raft's terms order. Looking up is local, pure and without
//! hashing. Decides nothing, and does not know who is alive.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::metadata::{Cluster, SLOT_DEPTH_MAX, SlotRow};
use crate::format::frame::LeaderOf;
use crate::ids::{KeyHash, NodeId, Place, ReplicaId, SLOT_COUNT_MAX, ShardId, SlotId};

const ABSENT: u16 = u16::MAX;
const _: () = assert!(SLOT_COUNT_MAX < ABSENT as usize);

/// slot → row, as agreed. Never changes; a newer one replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    version: u64,
    /// As many low bits of a hash as the deepest slot has.
    mask: u64,
    /// Those bits → slot.
    slots: Vec<SlotId>,
    /// Slot → index in `rows`, [`ABSENT`] where none has that number.
    positions: Vec<u16>,
    /// Slot → who should lead it.
    preferred: Vec<Place>,
    rows: Vec<(SlotId, SlotRow)>,
}

impl Table {
    /// The table of an agreed state. That of a cluster that was not founded has no row, and every key in slot 0.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Table {
        Table::of(cluster.version, cluster.rows.clone())
    }

    /// The table of a node that is alone: slot `s` on shard `s` modulo the shards.
    ///
    /// # Panics
    /// When there is no shard or more slots than 2^14; the configuration was checked before.
    #[must_use]
    pub fn alone(node: NodeId, shard_count: u16, depth: u8) -> Table {
        assert!(shard_count > 0, "a node has at least one shard");
        assert!(depth <= SLOT_DEPTH_MAX, "a message id has 14 bits for the slot");
        let row = |slot: u16| {
            let replica = ReplicaId::new(Place { node, shard: ShardId(slot % shard_count) }, u32::from(slot) + 1);
            let (replicas, target, reshape) = (vec![replica], None, None);
            SlotRow { depth, epoch: 1, replicas, preferred: replica, target, founded: true, settling: false, reshape }
        };
        Table::of(1, (0..1 << depth).map(|slot| (SlotId(slot), row(slot))).collect())
    }

    fn of(version: u64, rows: BTreeMap<SlotId, SlotRow>) -> Table {
        let depth = rows.values().map(|row| row.depth).max().unwrap_or(0);
        let size = 1usize << depth;
        let nowhere = ReplicaId::default().place();
        let mut table = Table {
            version,
            mask: size as u64 - 1,
            slots: vec![SlotId(0); size],
            positions: vec![ABSENT; size],
            preferred: vec![nowhere; size],
            rows: Vec::with_capacity(rows.len()),
        };
        for (slot, row) in rows {
            let first = usize::from(slot.0);
            assert!(first < 1 << row.depth, "a slot is named by as many bits as it has");
            table.positions[first] = table.rows.len() as u16;
            table.preferred[first] = row.preferred.place();
            table.slots[first..].iter_mut().step_by(1 << row.depth).for_each(|named| *named = slot);
            table.rows.push((slot, row));
        }
        table
    }

    /// Rises with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of slots.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.rows.len()
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: KeyHash) -> SlotId {
        self.slots[(key.0 & self.mask) as usize]
    }

    /// What is agreed about a slot; `None` when there is none of that number (any more, or yet).
    #[must_use]
    pub fn row(&self, slot: SlotId) -> Option<&SlotRow> {
        let position = self.positions.get(usize::from(slot.0))?;
        self.rows.get(usize::from(*position)).map(|(_, row)| row)
    }

    /// Who should lead a slot. For one that does not exist: whoever should lead slot 0, which knows better.
    #[must_use]
    pub fn preferred(&self, slot: SlotId) -> Place {
        let known = self.positions.get(usize::from(slot.0)).is_some_and(|position| *position != ABSENT);
        self.preferred[if known { usize::from(slot.0) } else { 0 }]
    }

    /// Every slot, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &SlotRow)> + '_ {
        self.rows.iter().map(|(slot, row)| (*slot, row))
    }

    /// The slots that a place should lead, ascending.
    pub fn preferred_at(&self, place: Place) -> impl Iterator<Item = SlotId> + '_ {
        self.iter().filter(move |(_, row)| row.preferred.place() == place).map(|(slot, _)| slot)
    }

    /// How much memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let replicas = |row: &SlotRow| row.replicas.capacity() + row.target.as_ref().map_or(0, Vec::capacity);
        let per_bits = size_of::<SlotId>() + size_of::<u16>() + size_of::<Place>();
        size_of::<Table>()
            + self.slots.len() * per_bits
            + self.rows.len() * size_of::<(SlotId, SlotRow)>()
            + self.rows.iter().map(|(_, row)| replicas(row)).sum::<usize>() * size_of::<ReplicaId>()
    }
}

/// What a word about a slot's leader changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known, or is older than what is.
    Nothing,
    /// There is a leader now that was not known.
    NewLeader,
    /// A later term, and nobody known to lead in it.
    Vacant,
    /// Two leaders of one term: raft's promise is broken. The first one stays.
    Conflict,
}

/// The table and the leaders.
#[derive(Clone, Debug)]
pub struct Routes {
    table: Arc<Table>,
    /// Slot → the latest term heard of, and who leads in it. Grows to the highest slot that anybody named.
    leaders: Vec<(u64, Option<Place>)>,
}

impl Routes {
    /// Nobody known to lead anything.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Routes {
        let leaders = vec![(0, None); table.positions.len()];
        Routes { table, leaders }
    }

    /// The slot table.
    #[must_use]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// A key's slot.
    #[must_use]
    pub fn slot(&self, key: KeyHash) -> SlotId {
        self.table.slot(key)
    }

    /// Who is known to lead a slot, and in which term.
    #[must_use]
    pub fn leader(&self, slot: SlotId) -> Option<(u64, Place)> {
        let (term, place) = self.leaders.get(usize::from(slot.0))?;
        place.map(|place| (*term, place))
    }

    /// Who leads a slot, or should.
    #[must_use]
    pub fn guess(&self, slot: SlotId) -> Place {
        self.leader(slot).map_or_else(|| self.table.preferred(slot), |(_, place)| place)
    }

    /// The latest term that was heard of; 0 before any.
    #[must_use]
    pub fn term(&self, slot: SlotId) -> u64 {
        self.leaders.get(usize::from(slot.0)).map_or(0, |(term, _)| *term)
    }

    /// The slots that a place is known to lead, ascending.
    #[must_use]
    pub fn led_at(&self, place: Place) -> Vec<SlotId> {
        let led = self.leaders.iter().enumerate().filter(|(_, (_, leader))| *leader == Some(place));
        led.map(|(slot, _)| SlotId(slot as u16)).collect()
    }

    /// Somebody says who leads. A slot that the table does not have yet is remembered too: its leader may be quicker than the table.
    pub fn learn(&mut self, slot: SlotId, term: u64, place: Option<Place>) -> Learned {
        let index = usize::from(slot.0);
        if index >= SLOT_COUNT_MAX {
            return Learned::Nothing;
        }
        if index >= self.leaders.len() {
            self.leaders.resize(index + 1, (0, None));
        }
        let known = &mut self.leaders[index];
        if term < known.0 || (term == known.0 && place.is_none()) {
            return Learned::Nothing;
        }
        if term == known.0 && known.1.is_some() {
            return if known.1 == place { Learned::Nothing } else { Learned::Conflict };
        }
        *known = (term, place);
        if place.is_some() { Learned::NewLeader } else { Learned::Vacant }
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        assert!(self.leaders.len() <= SLOT_COUNT_MAX, "no more leaders than slots can be");
        assert!(self.leaders.iter().all(|(term, place)| place.is_none() || *term > 0), "a leader has a term");
        assert_eq!(self.table.slots.len() as u64, self.table.mask + 1, "every key has a slot");
    }

    /// A newer table. Leaders stay known where they may still be replicas, terms in any case: also those of a slot that is merged away and of one
    /// that has split off again, because the terms of whoever has that number go on rising. An older table changes nothing.
    ///
    /// A leader says only once of itself that it leads. Whoever has forgotten it can ask, but not if the leader itself has: what `is_sure` is known
    /// whatever the table says, which may be older than the group.
    pub fn update(&mut self, table: Arc<Table>, is_sure: impl Fn(LeaderOf) -> bool) {
        if table.version <= self.table.version && self.table.slot_count() > 0 {
            return;
        }
        let length = self.leaders.len().max(table.positions.len());
        self.leaders.resize(length, (0, None));
        for (slot, (term, place)) in self.leaders.iter_mut().enumerate() {
            let slot = SlotId(slot as u16);
            match (self.table.row(slot), table.row(slot)) {
                (_, Some(new)) => {
                    let named = |place: Place| new.voters_and_target().any(|replica| replica.place() == place);
                    let sure = |place: Place| is_sure(LeaderOf { slot, term: *term, place: Some(place) });
                    *place = place.filter(|place| new.is_changing() || named(*place) || sure(*place));
                }
                // Who leads what is about to split off may be known before the table.
                (None, None) => {}
                (Some(_), None) => *place = None,
            }
        }
        assert!(self.leaders.len() >= table.positions.len(), "every slot has its leader's place");
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metadata::{MetadataCommand, NewMember, Reshape};
    use crate::format::frame::Addresses;

    fn member(node: u16) -> NewMember {
        let addresses = Addresses {
            cluster: "127.0.0.1:5000".parse().unwrap(),
            tcp: "".into(),
            ws: "".into(),
            wss: "".into(),
            http: "".into(),
        };
        NewMember { node: NodeId(node), identity: 1, shards: 2, addresses }
    }

    fn founded(slot_depth: u8) -> Cluster {
        let mut cluster = Cluster::default();
        let found =
            MetadataCommand::Found { id: 1, name: "t".into(), replicas_wanted: 3, slot_depth, member: member(1) };
        cluster.apply(&found).unwrap();
        cluster
    }

    fn split(cluster: &mut Cluster, slot: u16) {
        let slot = SlotId(slot);
        let epoch = cluster.rows[&slot].epoch;
        cluster.apply(&MetadataCommand::Split { slots: vec![(slot, epoch)] }).unwrap();
        let plan = cluster.rows[&slot].reshape.as_ref().unwrap().plan();
        cluster.apply(&MetadataCommand::SplitDone { slot, plan }).unwrap();
    }

    fn merge(cluster: &mut Cluster, low: u16, high: u16) {
        let (low, high) = (SlotId(low), SlotId(high));
        let slots = vec![(low, cluster.rows[&low].epoch, cluster.rows[&high].epoch)];
        cluster.apply(&MetadataCommand::Merge { slots }).unwrap();
        let plan = cluster.rows[&low].reshape.as_ref().map(Reshape::plan).unwrap();
        cluster.apply(&MetadataCommand::MergeBegin { slots: vec![(low, plan)] }).unwrap();
        cluster.apply(&MetadataCommand::MergeDone { slot: low, plan }).unwrap();
        for replica in cluster.rows[&low].replicas.clone() {
            cluster.apply(&MetadataCommand::MergeDigested { slot: low, plan, replica }).unwrap();
        }
    }

    fn place(node: u16, shard: u16) -> Place {
        Place { node: NodeId(node), shard: ShardId(shard) }
    }

    #[test]
    fn every_key_has_the_one_slot_that_names_it() {
        let mut cluster = founded(2);
        for slot in [1, 5, 2, 13, 1] {
            split(&mut cluster, slot);
        }
        let table = Table::new(&cluster);
        assert_eq!((table.slot_count(), table.version()), (9, cluster.version));
        for low in 0..1u64 << 7 {
            let key = KeyHash(low | 0xabc0_0000);
            let named: Vec<SlotId> =
                table.iter().filter(|(slot, row)| key.slot(row.depth) == *slot).map(|(slot, _)| slot).collect();
            assert_eq!(named, [table.slot(key)]);
        }
        for (slot, row) in table.iter() {
            assert_eq!(table.row(slot), cluster.rows.get(&slot));
            assert_eq!(table.preferred(slot), row.preferred.place());
        }
        let led: usize = (0..2).map(|shard| table.preferred_at(place(1, shard)).count()).sum();
        assert_eq!(led, 9);
        assert!(table.row(SlotId(3 + 4)).is_none() && table.row(SlotId::METADATA).is_none());
    }

    #[test]
    fn slots_are_dealt_out_evenly() {
        for shards in 1..=7 {
            let table = Table::alone(NodeId(1), shards, 8);
            let counts: Vec<usize> = (0..shards).map(|shard| table.preferred_at(place(1, shard)).count()).collect();
            assert_eq!(counts.iter().sum::<usize>(), 256);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    #[test]
    fn a_cluster_not_founded_has_a_table_too() {
        let table = Table::new(&Cluster::default());
        assert_eq!((table.slot(KeyHash(99)), table.slot_count()), (SlotId(0), 0));
        assert_eq!(Routes::new(Arc::new(table)).guess(SlotId(0)), place(0, 0));
    }

    #[test]
    fn terms_order_what_is_said_about_leaders() {
        let mut routes = Routes::new(Arc::new(Table::new(&founded(2))));
        let slot = SlotId(1);
        assert_eq!((routes.leader(slot), routes.guess(slot), routes.term(slot)), (None, place(1, 1), 0));
        assert_eq!(routes.learn(slot, 5, Some(place(2, 0))), Learned::NewLeader);
        assert_eq!(routes.learn(slot, 5, Some(place(2, 0))), Learned::Nothing);
        assert_eq!(routes.learn(slot, 5, Some(place(3, 0))), Learned::Conflict);
        assert_eq!(routes.learn(slot, 5, None), Learned::Nothing);
        assert_eq!(routes.learn(slot, 4, Some(place(3, 0))), Learned::Nothing);
        assert_eq!((routes.leader(slot), routes.guess(slot)), (Some((5, place(2, 0))), place(2, 0)));
        assert_eq!(routes.learn(slot, 6, None), Learned::Vacant);
        assert_eq!((routes.leader(slot), routes.term(slot)), (None, 6));
        assert_eq!(routes.learn(slot, 6, Some(place(3, 0))), Learned::NewLeader);
        assert_eq!(routes.learn(SlotId::METADATA, 6, Some(place(3, 0))), Learned::Nothing);
        assert_eq!(routes.learn(SlotId(900), 2, Some(place(3, 1))), Learned::NewLeader, "ahead of the table");
    }

    #[test]
    fn a_newer_table_keeps_what_still_holds() {
        let mut cluster = founded(2);
        cluster.apply(&MetadataCommand::AddMember(member(2))).unwrap();
        split(&mut cluster, 0);
        let mut routes = Routes::new(Arc::new(Table::new(&cluster)));
        let old = routes.table().clone();
        for slot in 0..5 {
            routes.learn(SlotId(slot), 7, Some(place(1, slot % 2)));
        }
        let moves = vec![(SlotId(1), 1, vec![place(2, 0)]), (SlotId(2), 1, vec![place(1, 0), place(2, 1)])];
        cluster.apply(&MetadataCommand::SetTargets { moves }).unwrap();
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        assert!((0..5).all(|slot| routes.leader(SlotId(slot)) == Some((7, place(1, slot % 2)))));
        let voters = cluster.rows[&SlotId(1)].target.clone().unwrap();
        cluster.apply(&MetadataCommand::Settled { slot: SlotId(1), epoch: 1, voters }).unwrap();
        merge(&mut cluster, 0, 4);
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        let leaders: Vec<bool> = (0..5).map(|slot| routes.leader(SlotId(slot)).is_some()).collect();
        let terms: Vec<u64> = (0..5).map(|slot| routes.term(SlotId(slot))).collect();
        assert_eq!((leaders, terms), (vec![true, false, true, true, false], vec![7, 7, 7, 7, 7]));
        routes.update(old, |_| false);
        assert_eq!(routes.table().version(), cluster.version, "an older table changes nothing");
        // Merged and split again between two tables: another group of the same name, whose terms go on.
        routes.learn(SlotId(2), 9, None);
        split(&mut cluster, 3);
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        routes.learn(SlotId(7), 30, Some(place(1, 1)));
        merge(&mut cluster, 3, 7);
        split(&mut cluster, 3);
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        assert_eq!((routes.term(SlotId(7)), routes.term(SlotId(3)), routes.term(SlotId(2))), (30, 7, 9));
        assert_eq!(routes.learn(SlotId(7), 29, Some(place(1, 0))), Learned::Nothing, "a word of the group that was");
    }

    #[test]
    fn a_row_that_changes_does_not_say_who_may_lead() {
        let mut cluster = founded(1);
        cluster.apply(&MetadataCommand::AddMember(member(2))).unwrap();
        let slot = SlotId(1);
        let mut routes = Routes::new(Arc::new(Table::new(&cluster)));
        let newcomer = Some((7, place(2, 0)));
        routes.learn(slot, 7, Some(place(2, 0)));
        let moves = vec![(slot, 1, vec![place(2, 0)])];
        cluster.apply(&MetadataCommand::SetTargets { moves }).unwrap();
        let voters = cluster.rows[&slot].target.clone().unwrap();
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        assert_eq!(routes.leader(slot), newcomer);
        // Given up after the group has changed over: the row names only who was there before.
        cluster.apply(&MetadataCommand::CancelTarget { slot, epoch: 1 }).unwrap();
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        assert_eq!(routes.leader(slot), newcomer);
        cluster.apply(&MetadataCommand::Settled { slot, epoch: 2, voters }).unwrap();
        routes.update(Arc::new(Table::new(&cluster)), |_| false);
        assert_eq!(routes.leader(slot), newcomer);
        // A table that is older than a group says nothing to its leader.
        let leader = LeaderOf { slot: SlotId(0), term: 9, place: Some(place(2, 1)) };
        routes.learn(leader.slot, leader.term, leader.place);
        let mut later = |is_sure: bool| {
            cluster.version += 1;
            routes.update(Arc::new(Table::new(&cluster)), |asked| is_sure && asked == leader);
            routes.leader(leader.slot)
        };
        assert_eq!((later(true), later(false)), (Some((9, place(2, 1))), None));
        assert_eq!(routes.learn(leader.slot, leader.term, leader.place), Learned::NewLeader, "its word counts again");
    }
}
