//! Message ids of one slot: positive, rising, unique over all slots. 41 bits of milliseconds since 2020, 14 bits of slot,
//! 7 bits of counter, 1 bit for messages that are not stored. The milliseconds may run ahead of the clock when more than
//! 128 messages come within one, and never go back.
//!
//! The last bit is there because a message that is not stored leaves no trace: after a crash and a clock set back its
//! number could be dealt out again, and then it must not be that of a stored one.

use crate::ids::SlotId;
use crate::time::UnixMillis;

/// 2020-01-01T00:00:00Z. 41 bits last until 2089.
const EPOCH_MS: u64 = 1_577_836_800_000;

const SLOT_BITS: u32 = 14;
const COUNTER_BITS: u32 = 7;
const TRANSIENT_BITS: u32 = 1;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

/// Deals out ids.
#[derive(Clone, Copy, Debug)]
pub struct MessageIds {
    slot: SlotId,
    /// Milliseconds and counter of the last id.
    last: u64,
}

impl MessageIds {
    /// None dealt out yet.
    #[must_use]
    pub fn new(slot: SlotId) -> MessageIds {
        MessageIds { slot, last: 0 }
    }

    /// The next id.
    pub fn next(&mut self, now: UnixMillis, transient: bool) -> i64 {
        let clock = now.0.saturating_sub(EPOCH_MS) << COUNTER_BITS;
        self.last = clock.max(self.last + 1);
        let (ms, counter) = (self.last >> COUNTER_BITS, self.last & COUNTER_MASK);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_over_a_merge_into_a_lower_number() {
        let clock = UnixMillis(1_700_000_000_000);
        let (mut upper, mut lower) = (MessageIds::new(SlotId(5)), MessageIds::new(SlotId(1)));
        let before = [upper.next(clock, false), lower.next(clock, false)];
        lower.resume_beyond(upper.last());
        let after = lower.next(UnixMillis(0), false);
        assert!(before.iter().all(|id| *id < after), "{before:?} {after}");
    }

    #[test]
    fn ids_rise_whatever_the_clock_does() {
        let mut ids = MessageIds::new(SlotId(16_383));
        let mut last = 0;
        for ms in [1_700_000_000_000u64, 1_600_000_000_000, 0, 1_700_000_000_001] {
            for _ in 0..1000 {
                let id = ids.next(UnixMillis(ms), false);
                assert!(id > last);
                assert_eq!((id >> 8) & 0x3fff, 16_383);
                last = id;
            }
        }
        let transient = ids.next(UnixMillis(0), true);
        assert!(transient > last && transient & 1 == 1 && last & 1 == 0);
        let mut after_restart = MessageIds::new(SlotId(16_383));
        after_restart.observe(last);
        assert!(after_restart.next(UnixMillis(0), false) > last);
    }
}
