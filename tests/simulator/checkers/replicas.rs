//! What a group has agreed on is the same everywhere: two replicas that have applied the same entry hold the same logs, whenever that
//! was and on whichever disk, also one replica before and after a restart.

use std::collections::BTreeMap;

use jindou::ids::{Place, SlotId};

/// What was held after which entry, and who was seen with it first.
#[derive(Default)]
pub struct Replicas {
    held: BTreeMap<(SlotId, u64, u64), (u64, Place)>,
    /// How often two were compared.
    pub compared: u64,
}

impl Replicas {
    /// A replica has applied an entry and holds logs with this number. A slot that was merged away and has split off again is another group: it
    /// comes from another plan.
    pub fn holds(&mut self, place: Place, (slot, plan): (SlotId, u64), applied: u64, logs: u64) -> Result<(), String> {
        let (known, first) = *self.held.entry((slot, plan, applied)).or_insert((logs, place));
        self.compared += u64::from(first != place);
        if known == logs {
            return Ok(());
        }
        Err(format!(
            "after entry {applied} of slot {slot}, {first:?} held {known:016x} and {place:?} holds {logs:016x}"
        ))
    }
}
