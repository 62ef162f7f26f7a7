//! Message ids of one slot: positive, rising, unique over all slots. 41 bits of milliseconds since 2020, 14 bits of slot,
//! 7 bits of counter, 1 bit for messages that are not stored. The milliseconds may run ahead of the clock when more than
//! 128 messages come within one, and never go back.
//!
//! The last bit is there because a message that is not stored leaves no trace: after a crash and a clock set back its
//! number could be dealt out again, and then it must not be that of a stored one. Nor that of another one only because the slot's next leader has
//! a slower clock: such messages are counted by themselves, eight in a millisecond, and the counter's other four bits are those of the leader's term.

use crate::ids::SlotId;
use crate::time::UnixMillis;

/// 2020-01-01T00:00:00Z. 41 bits last until 2089.
const EPOCH_MS: u64 = 1_577_836_800_000;

const SLOT_BITS: u32 = 14;
const COUNTER_BITS: u32 = 7;
const TRANSIENT_BITS: u32 = 1;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

/// Of a message that is not stored: the counter's upper bits.
const TERM_BITS: u32 = 4;
const TERM_MASK: u64 = (1 << TERM_BITS) - 1;
const TRANSIENT_COUNTER_BITS: u32 = COUNTER_BITS - TERM_BITS;
const TRANSIENT_COUNTER_MASK: u64 = (1 << TRANSIENT_COUNTER_BITS) - 1;

/// Deals out ids.
#[derive(Clone, Copy, Debug)]
pub struct MessageIds {
    slot: SlotId,
    /// Milliseconds and counter of the last id of a stored message.
    last: u64,
    /// The same of those that are not stored, as far as this process has dealt them out.
    last_transient: u64,
}

impl MessageIds {
    /// None dealt out yet.
    #[must_use]
    pub fn new(slot: SlotId) -> MessageIds {
        MessageIds { slot, last: 0, last_transient: 0 }
    }

    /// The next id of a message that is to be stored.
    pub fn next(&mut self, now: UnixMillis) -> i64 {
        self.last = since_epoch(now, COUNTER_BITS).max(self.last + 1);
        self.id(self.last >> COUNTER_BITS, self.last & COUNTER_MASK, false)
    }

    /// The next id of one that is not, dealt out by the leader of this term.
    pub fn next_transient(&mut self, now: UnixMillis, term: u64) -> i64 {
        self.last_transient = since_epoch(now, TRANSIENT_COUNTER_BITS).max(self.last_transient + 1);
        let counter = (term & TERM_MASK) << TRANSIENT_COUNTER_BITS | (self.last_transient & TRANSIENT_COUNTER_MASK);
        self.id(self.last_transient >> TRANSIENT_COUNTER_BITS, counter, true)
    }

    fn id(&self, ms: u64, counter: u64, transient: bool) -> i64 {
        assert!(ms < 1 << 41, "the clock is past 2089");
        let numbered = (((ms << SLOT_BITS) | u64::from(self.slot.0)) << COUNTER_BITS) | counter;
        ((numbered << TRANSIENT_BITS) | u64::from(transient)) as i64
    }

    /// An id of this slot was found in the log: later ones are larger.
    pub fn observe(&mut self, message_id: i64) {
        let numbered = message_id as u64 >> TRANSIENT_BITS;
        let known = (numbered >> (SLOT_BITS + COUNTER_BITS)) << COUNTER_BITS | (numbered & COUNTER_MASK);
        self.last = self.last.max(known);
    }

    /// For a checkpoint.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The slot takes in another one whose last one this is: whatever slot a channel comes from, its ids go on rising. They lie by the slot's
    /// number within a millisecond, so that a later one is begun.
    pub fn resume_beyond(&mut self, last: u64) {
        self.last = self.last.max(last | COUNTER_MASK);
    }

    /// From a checkpoint.
    pub fn resume(&mut self, last: u64) {
        self.last = self.last.max(last);
    }
}

fn since_epoch(now: UnixMillis, counter_bits: u32) -> u64 {
    now.0.saturating_sub(EPOCH_MS) << counter_bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_over_a_merge_into_a_lower_number() {
        let clock = UnixMillis(1_700_000_000_000);
        let (mut upper, mut lower) = (MessageIds::new(SlotId(5)), MessageIds::new(SlotId(1)));
        let before = [upper.next(clock), lower.next(clock)];
        lower.resume_beyond(upper.last());
        let after = lower.next(UnixMillis(0));
        assert!(before.iter().all(|id| *id < after), "{before:?} {after}");
    }

    #[test]
    fn ids_rise_whatever_the_clock_does() {
        let mut ids = MessageIds::new(SlotId(16_383));
        let mut last = 0;
        for ms in [1_700_000_000_000u64, 1_600_000_000_000, 0, 1_700_000_000_001] {
            for _ in 0..1000 {
                let id = ids.next(UnixMillis(ms));
                assert!(id > last);
                assert_eq!((id >> 8) & 0x3fff, 16_383);
                last = id;
            }
        }
        assert_eq!(last & 1, 0);
        let mut after_restart = MessageIds::new(SlotId(16_383));
        after_restart.observe(last);
        assert!(after_restart.next(UnixMillis(0)) > last);
    }

    #[test]
    fn what_is_not_stored_has_an_id_of_its_own_whoever_leads_next() {
        let clock = 1_700_000_000_000;
        let mut dealt = std::collections::BTreeSet::new();
        for (leader, term) in (0..16).zip(21..) {
            // Each has a slower clock than the one before, and knows what is stored only.
            let mut ids = MessageIds::new(SlotId(3));
            let stored = ids.next(UnixMillis(clock));
            dealt.insert(stored);
            for _ in 0..1000 {
                let id = ids.next_transient(UnixMillis(clock - leader), term);
                assert!(id > 0 && id & 1 == 1 && (id >> 8) & 0x3fff == 3);
                assert!(dealt.insert(id), "{id} in term {term}");
            }
        }
        let mut ids = MessageIds::new(SlotId(3));
        let (one, other) = (ids.next_transient(UnixMillis(clock), 1), ids.next_transient(UnixMillis(0), 1));
        assert!(one < other, "whatever the clock does");
    }
}
