//! A slot has at most one leader in a term, for ever: whoever says that it leads is remembered.

use std::collections::BTreeMap;

use jindou::ids::{Place, SlotId};

/// Who has led what.
#[derive(Default)]
pub struct Leaders {
    led: BTreeMap<(SlotId, u64), Place>,
    /// Each slot's latest term that had a leader, and since when.
    newest: BTreeMap<SlotId, (u64, u64)>,
    /// How often a slot got a leader of a later term.
    pub changes: u64,
}

impl Leaders {
    /// Somebody leads.
    pub fn leads(&mut self, at_ns: u64, slot: SlotId, term: u64, place: Place) -> Result<(), String> {
        let known = *self.led.entry((slot, term)).or_insert(place);
        if known != place {
            return Err(format!("slot {slot} is led in term {term} by {known:?} and by {place:?}"));
        }
        let newest = self.newest.entry(slot).or_default();
        if term > newest.0 {
            *newest = (term, at_ns);
            self.changes += 1;
        }
        Ok(())
    }

    /// Since when a slot has had the leader of its latest term.
    pub fn since_ns(&self, slot: SlotId) -> Option<u64> {
        self.newest.get(&slot).map(|(_, since_ns)| *since_ns)
    }
}
