//! Message ids are positive and unique over everything, name one message at one position, and rise with the position in a
//! log. Fed from answers, from what devices see and from logs that are read.

use std::collections::BTreeMap;

use crate::ledger::{LogKey, Number};

/// What is known of ids so far.
#[derive(Default)]
pub struct Ids {
    by_id: BTreeMap<i64, (LogKey, u32, Number)>,
    logs: BTreeMap<LogKey, BTreeMap<u32, (i64, Number)>>,
    /// A wall clock has gone back: ids of transient messages, of which nothing is on disk, may come again after a restart.
    pub clock_went_back: bool,
}

impl Ids {
    /// A message was seen with this id at this position (0: not stored).
    pub fn placed(&mut self, log: LogKey, number: Number, message_id: i64, seq: u32) -> Result<(), String> {
        if message_id <= 0 {
            return Err(format!("message {number} of {log:?} has id {message_id}"));
        }
        let here = (log, seq, number);
        let known = *self.by_id.entry(message_id).or_insert(here);
        if known != here {
            if self.clock_went_back && (known.1 == 0 || seq == 0) {
                return Ok(());
            }
            return Err(format!("id {message_id} names both {known:?} and {here:?}"));
        }
        if seq == 0 {
            return Ok(());
        }
        let positions = self.logs.entry(log).or_default();
        let at = *positions.entry(seq).or_insert((message_id, number));
        if at != (message_id, number) {
            return Err(format!("position {seq} of {log:?} holds both {at:?} and {:?}", (message_id, number)));
        }
        let before = positions.range(..seq).next_back();
        let after = positions.range(seq + 1..).next();
        let falls =
            before.is_some_and(|(_, (id, _))| *id >= message_id) || after.is_some_and(|(_, (id, _))| *id <= message_id);
        if falls {
            return Err(format!("ids of {log:?} do not rise: {before:?}, then {message_id} at {seq}, then {after:?}"));
        }
        Ok(())
    }
}
