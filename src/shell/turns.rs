//! The longest turn of a shard's loop in each of the last seconds, and what ran in it: where to look when the tail is the node's own.
//!
//! It deliberately keeps one turn a second: the others of that second were shorter.

use std::collections::VecDeque;

use crate::engine::counters::Counters;

/// Seconds that are kept; the oldest gives way.
pub const SECONDS_KEPT: usize = 60;

/// One turn of a shard's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnPicture {
    /// When it began, by the node's clock in nanoseconds.
    pub began_nanos: u64,
    /// From its beginning to its end.
    pub whole_nanos: u64,
    /// Of that: taking what had come, decoding it.
    pub gather_nanos: u64,
    /// Of that: the engine's step.
    pub step_nanos: u64,
    /// Events that the step was given.
    pub events: usize,
    /// Wishes that the step had.
    pub effects: usize,
    /// Of the journal's bytes: those that the step handed over to be written.
    pub journal_bytes: usize,
    /// Bytes of checkpoints that the step handed over.
    pub checkpoint_bytes: usize,
    /// What the step counted.
    pub work: Work,
}

impl TurnPicture {
    /// The rest of it: encoding, handing things to kernel, disk and other shards.
    #[must_use]
    pub fn carry_nanos(&self) -> u64 {
        self.whole_nanos.saturating_sub(self.gather_nanos).saturating_sub(self.step_nanos)
    }
}

/// What a step did, in the engine's own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each is `Counters`' of that name
pub struct Work {
    pub sends: u64,
    pub messages_stored: u64,
    pub recvs: u64,
    pub recvacks: u64,
    pub frames_received: u64,
    pub proposals: u64,
}

impl Work {
    /// The totals now.
    #[must_use]
    pub fn so_far(counters: &Counters) -> Work {
        let &Counters { sends, messages_stored, recvs, recvacks, frames_received, proposals, .. } = counters;
        Work { sends, messages_stored, recvs, recvacks, frames_received, proposals }
    }

    /// What has come to it since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Work) -> Work {
        Work {
            sends: self.sends - earlier.sends,
            messages_stored: self.messages_stored - earlier.messages_stored,
            recvs: self.recvs - earlier.recvs,
            recvacks: self.recvacks - earlier.recvacks,
            frames_received: self.frames_received - earlier.frames_received,
            proposals: self.proposals - earlier.proposals,
        }
    }
}

/// The longest turn of each of the last seconds.
#[derive(Debug, Default)]
pub struct LongTurns {
    seconds: VecDeque<TurnPicture>,
}

impl LongTurns {
    /// A turn ended.
    pub fn note(&mut self, turn: TurnPicture) {
        let second = |turn: &TurnPicture| turn.began_nanos / 1_000_000_000;
        match self.seconds.back_mut() {
            Some(last) if second(last) == second(&turn) => {
                if turn.whole_nanos > last.whole_nanos {
                    *last = turn;
                }
            }
            _ => {
                if self.seconds.len() >= SECONDS_KEPT {
                    self.seconds.pop_front();
                }
                self.seconds.push_back(turn);
            }
        }
    }

    /// Oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<TurnPicture> {
        self.seconds.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(began_ms: u64, whole_nanos: u64) -> TurnPicture {
        TurnPicture { began_nanos: began_ms * 1_000_000, whole_nanos, ..TurnPicture::default() }
    }

    #[test]
    fn each_second_keeps_its_longest_turn_and_old_seconds_give_way() {
        let mut turns = LongTurns::default();
        for (began_ms, whole_nanos) in [(100, 5), (900, 9), (950, 7), (1000, 1), (3100, 4)] {
            turns.note(turn(began_ms, whole_nanos));
        }
        let kept: Vec<u64> = turns.kept().iter().map(|turn| turn.whole_nanos).collect();
        assert_eq!(kept, [9, 1, 4]);
        (10..200).for_each(|second| turns.note(turn(second * 1000, second)));
        assert_eq!((turns.kept().len(), turns.kept()[0].whole_nanos), (SECONDS_KEPT, 140));
    }

    #[test]
    fn a_turn_is_the_sum_of_its_parts() {
        let turn = TurnPicture { whole_nanos: 100, gather_nanos: 30, step_nanos: 50, ..TurnPicture::default() };
        assert_eq!(turn.carry_nanos(), 20);
        let later = Work { sends: 5, recvs: 9, ..Work::default() };
        assert_eq!(later.since(Work { sends: 2, recvs: 9, ..Work::default() }), Work { sends: 3, ..Work::default() });
    }
}
