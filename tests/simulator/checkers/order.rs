//! A device sees the messages of a log for the first time in rising order, and a log has no holes.

use std::collections::BTreeMap;

use super::Seen;
use crate::ledger::{LogKey, Number};

/// The highest first sighting of each device in each log.
#[derive(Default)]
pub struct Order {
    highest: BTreeMap<(usize, usize, LogKey), u32>,
}

impl Order {
    /// A device saw a stored message for the first time.
    pub fn first_sight(&mut self, seen: &Seen) -> Result<(), String> {
        let highest = self.highest.entry((seen.device, seen.seat, seen.log)).or_insert(0);
        if seen.seq <= *highest {
            return Err(format!(
                "device {} saw message {} at {} of {:?} after it had seen {}",
                seen.device, seen.number, seen.seq, seen.log, highest
            ));
        }
        *highest = seen.seq;
        Ok(())
    }
}

/// A log that was read as a whole counts 1, 2, 3…; one that forgets may begin later.
pub fn dense(log: LogKey, found: &[(u32, i64, Number)], forgets: bool) -> Result<(), String> {
    let mut expected = match found.first() {
        Some((first, ..)) if forgets => *first,
        _ => 1,
    };
    for (seq, message_id, number) in found {
        if *seq != expected {
            return Err(format!(
                "{log:?} goes on at {seq} (message {number}, id {message_id}) where {expected} was due"
            ));
        }
        expected += 1;
    }
    Ok(())
}
