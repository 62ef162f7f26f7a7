//! A SEND that is repeated gets the id and the position of the first; the same number with another payload is refused.

use std::collections::BTreeMap;

use crate::ledger::Number;

/// The first success answer of each message.
pub struct SameAnswer {
    dedupe_window: usize,
    first: BTreeMap<Number, (i64, u32)>,
}

impl SameAnswer {
    /// Nothing answered.
    pub fn new(dedupe_window: usize) -> SameAnswer {
        SameAnswer { dedupe_window, first: BTreeMap::new() }
    }

    /// A success answer to the right payload. Transient messages (position 0) are not remembered by the router.
    pub fn accepted(&mut self, number: Number, message_id: i64, seq: u32) -> Result<(), String> {
        if seq == 0 {
            return Ok(());
        }
        let first = *self.first.entry(number).or_insert((message_id, seq));
        // So many messages later the router may have forgotten it, and stores it again.
        if first == (message_id, seq) || first.1.abs_diff(seq) as usize >= self.dedupe_window {
            Ok(())
        } else {
            Err(format!("message {number} was answered as {first:?} and as {:?}", (message_id, seq)))
        }
    }
}

/// A success answer to another payload under a number that was accepted before.
pub fn conflict(number: Number) -> Result<(), String> {
    Err(format!("another payload under the number of message {number} was taken"))
}
