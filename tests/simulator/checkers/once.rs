//! A device sees each message once, after it has dropped repeats by message id: so no message may come under two ids,
//! unless its sender repeated it so late that the dedupe window had passed. A device never gets back what it sent. What is sent
//! again on one connection before its time, or after it was acknowledged, is judged where RECVs are written (`limits`).

use std::collections::{BTreeMap, BTreeSet};

use super::Seen;
use crate::ledger::{LogKey, Number};

/// Sightings so far.
pub struct Once {
    dedupe_window: usize,
    by_device: BTreeMap<usize, BTreeSet<(i64, Number)>>,
    places: BTreeMap<(LogKey, Number), (i64, u32)>,
}

impl Once {
    /// Nothing seen.
    pub fn new(dedupe_window: usize) -> Once {
        Once { dedupe_window, by_device: BTreeMap::new(), places: BTreeMap::new() }
    }

    /// Whether the device has not seen the id before.
    pub fn is_first(&self, seen: &Seen) -> bool {
        !self.by_device.get(&seen.device).is_some_and(|ids| ids.contains(&(seen.message_id, seen.number)))
    }

    /// A device took a RECV.
    pub fn seen(&mut self, seen: &Seen) -> Result<(), String> {
        let again = !self.by_device.entry(seen.device).or_default().insert((seen.message_id, seen.number));
        if again && seen.seq == 0 {
            return Err(format!("device {} got the transient message {} twice", seen.device, seen.number));
        }
        Ok(())
    }

    /// A message has this id and position somewhere.
    pub fn placed(&mut self, log: LogKey, number: Number, message_id: i64, seq: u32) -> Result<(), String> {
        let here = (message_id, seq);
        let known = *self.places.entry((log, number)).or_insert(here);
        if known == here {
            return Ok(());
        }
        // Of a transient message nothing is remembered, so a repeat is another one.
        if seq == 0 && known.1 == 0 {
            return Ok(());
        }
        if known.1.abs_diff(seq) as usize >= self.dedupe_window {
            return Ok(());
        }
        Err(format!("message {number} of {log:?} exists as {known:?} and as {here:?}"))
    }
}
