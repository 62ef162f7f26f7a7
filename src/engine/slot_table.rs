//! Which shard leads which slot. A lookup is local and pure. One node deals its slots out over its shards in turn;
//! the table has a version so that a newer one can replace it.

use crate::ids::{KeyHash, NodeId, Place, ShardId, SlotId};

/// slot → leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    version: u64,
    depth: u8,
    leaders: Vec<Place>,
}

impl SlotTable {
    /// The table of a node that is alone: slot `s` on shard `s` modulo the shards.
    ///
    /// # Panics
    /// When there is no shard or more slots than 2^14; the configuration was checked before.
    #[must_use]
    pub fn alone(node: NodeId, shard_count: u16, depth: u8) -> SlotTable {
        assert!(shard_count > 0, "a node has at least one shard");
        assert!(depth <= 14, "a message id has 14 bits for the slot");
        let leaders = (0..1u16 << depth).map(|slot| Place { node, shard: ShardId(slot % shard_count) }).collect();
        SlotTable { version: 1, depth, leaders }
    }

    /// Rises with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of slots.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.leaders.len()
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: KeyHash) -> SlotId {
        key.slot(self.depth)
    }

    /// Who leads a slot.
    #[must_use]
    pub fn leader(&self, slot: SlotId) -> Place {
        self.leaders[usize::from(slot.0)]
    }

    /// Where a slot's replicas are.
    pub fn replicas(&self, slot: SlotId) -> impl Iterator<Item = Place> + '_ {
        std::iter::once(self.leader(slot))
    }

    /// The slots led by one place, ascending.
    pub fn led_by(&self, place: Place) -> impl Iterator<Item = SlotId> + '_ {
        let slots = (0..self.leaders.len()).map(|slot| SlotId(slot as u16));
        slots.filter(move |slot| self.leader(*slot) == place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dealt_out_evenly() {
        for shards in 1..=7 {
            let table = SlotTable::alone(NodeId(1), shards, 8);
            let counts: Vec<usize> = (0..shards)
                .map(|shard| table.led_by(Place { node: NodeId(1), shard: ShardId(shard) }).count())
                .collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert_eq!(counts.iter().sum::<usize>(), 256);
            assert!(most - least <= 1, "{counts:?}");
        }
    }
}
