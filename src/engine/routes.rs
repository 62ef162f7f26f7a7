//! Where keys live: the slot table as last agreed, and who is known to lead each slot. The first comes from the metadata group, the second
//! is a hint that only terms order. Decides nothing.

use std::sync::Arc;

use crate::ids::{KeyHash, Place, SlotId};

use super::slot_table::SlotTable;

/// What a word about a slot's leader changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known, or is older than what is.
    Nothing,
    /// There is a leader now that was not known.
    NewLeader,
    /// A later term, and nobody known to lead in it.
    Vacant,
    /// Two leaders of one term: raft's promise is broken.
    Conflict,
}

/// The table and the leaders.
#[derive(Clone, Debug)]
pub struct Routes {
    table: Arc<SlotTable>,
    leaders: Vec<(u64, Option<Place>)>,
}

impl Routes {
    /// Nobody known to lead anything.
    #[must_use]
    pub fn new(table: Arc<SlotTable>) -> Routes {
        let leaders = vec![(0, None); table.slot_count()];
        Routes { table, leaders }
    }

    /// The slot table.
    #[must_use]
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// A key's slot.
    #[must_use]
    pub fn slot(&self, key: KeyHash) -> SlotId {
        self.table.slot(key)
    }

    /// Who is known to lead a slot, and since which term.
    #[must_use]
    pub fn leader(&self, slot: SlotId) -> Option<(u64, Place)> {
        let (term, place) = self.leaders.get(usize::from(slot.0))?;
        place.map(|place| (*term, place))
    }

    /// Who leads a slot, or should.
    #[must_use]
    pub fn guess(&self, slot: SlotId) -> Place {
        self.leader(slot).map_or_else(|| self.table.leader(slot), |(_, place)| place)
    }

    /// The latest term that was heard of.
    #[must_use]
    pub fn term(&self, slot: SlotId) -> u64 {
        self.leaders.get(usize::from(slot.0)).map_or(0, |(term, _)| *term)
    }

    /// Slots that are led at a place, as far as known.
    #[must_use]
    pub fn led_at(&self, place: Place) -> Vec<SlotId> {
        let led = self.leaders.iter().enumerate().filter(|(_, (_, leader))| *leader == Some(place));
        led.map(|(slot, _)| SlotId(slot as u16)).collect()
    }

    /// Somebody says who leads.
    pub fn learn(&mut self, slot: SlotId, term: u64, place: Option<Place>) -> Learned {
        let Some(known) = self.leaders.get_mut(usize::from(slot.0)) else {
            return Learned::Nothing;
        };
        if term < known.0 || (term == known.0 && place.is_none()) {
            return Learned::Nothing;
        }
        if term == known.0 && known.1.is_some() {
            return if known.1 == place { Learned::Nothing } else { Learned::Conflict };
        }
        *known = (term, place);
        if place.is_some() { Learned::NewLeader } else { Learned::Vacant }
    }
}
