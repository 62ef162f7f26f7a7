//! What a message carries so that its receiver can judge it, and the judgement: nothing lost, doubled, reordered or damaged.
//!
//! ```text
//! 0 u32 sender's number   4 u64 sequence from 1   12 u64 nanoseconds when it was (to be) sent   20.. filling
//! ```

use std::collections::BTreeSet;

/// Smallest payload that holds the marks.
pub const PAYLOAD_BYTES_MIN: usize = 20;

/// Marks of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who sent it.
    pub sender: u32,
    /// Which of its messages.
    pub sequence: u64,
    /// When, on the generator's clock; in open mode when it was meant to be sent.
    pub at_ns: u64,
}

impl Mark {
    /// Writes the marks and the filling over a whole payload.
    pub fn write(self, payload: &mut [u8]) {
        payload[0..4].copy_from_slice(&self.sender.to_le_bytes());
        payload[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        payload[12..20].copy_from_slice(&self.at_ns.to_le_bytes());
        payload[PAYLOAD_BYTES_MIN..].fill(self.filling());
    }

    /// Reads the marks; `None` when the payload is not one of ours or damaged.
    pub fn read(payload: &[u8]) -> Option<Mark> {
        let (head, filling) = payload.split_at_checked(PAYLOAD_BYTES_MIN)?;
        let mark = Mark {
            sender: u32::from_le_bytes(head[0..4].try_into().ok()?),
            sequence: u64::from_le_bytes(head[4..12].try_into().ok()?),
            at_ns: u64::from_le_bytes(head[12..20].try_into().ok()?),
        };
        filling.iter().all(|byte| *byte == mark.filling()).then_some(mark)
    }

    fn filling(self) -> u8 {
        (self.sequence as u8).wrapping_mul(31) ^ self.sender as u8
    }
}

/// What went wrong, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Acknowledged, never delivered.
    pub lost: u64,
    /// Delivered again.
    pub doubled: u64,
    /// Delivered after a later one.
    pub reordered: u64,
    /// Not what was sent, or not from whom it should be.
    pub damaged: u64,
    /// The server's own numbers (message_seq, message_id) do not rise.
    pub misnumbered: u64,
    /// SENDs that were refused.
    pub refused: u64,
}

impl Faults {
    /// True when everything is as promised.
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }

    /// Adds another's.
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.misnumbered += other.misnumbered;
        self.refused += other.refused;
    }
}

/// One receiver's view of its partner's messages.
#[derive(Debug)]
pub struct Receiver {
    partner: u32,
    next: u64,
    missing: BTreeSet<u64>,
    last_message: (u64, i64),
    faults: Faults,
}

impl Receiver {
    /// Nothing received yet.
    pub fn new(partner: u32) -> Receiver {
        Receiver { partner, next: 1, missing: BTreeSet::new(), last_message: (0, 0), faults: Faults::default() }
    }

    /// Judges one delivery; `None` when it does not count as one.
    pub fn take(&mut self, message_seq: u64, message_id: i64, payload: &[u8]) -> Option<Mark> {
        let Some(mark) = Mark::read(payload).filter(|mark| mark.sender == self.partner) else {
            self.faults.damaged += 1;
            return None;
        };
        if mark.sequence < self.next {
            if self.missing.remove(&mark.sequence) {
                self.faults.reordered += 1;
                return Some(mark);
            }
            self.faults.doubled += 1;
            return None;
        }
        if message_seq <= self.last_message.0 || message_id <= self.last_message.1 {
            self.faults.misnumbered += 1;
        }
        self.last_message = (message_seq, message_id);
        self.missing.extend(self.next..mark.sequence);
        self.next = mark.sequence + 1;
        Some(mark)
    }

    /// A delivery that could not be deciphered.
    pub fn damaged(&mut self) {
        self.faults.damaged += 1;
    }

    /// How many of the partner's messages are here.
    pub fn count(&self) -> u64 {
        self.next - 1 - self.missing.len() as u64
    }

    /// The whole judgement, once the partner is known to have had its first `acknowledged` messages acknowledged.
    pub fn judge(&self, acknowledged: u64) -> Faults {
        let behind = (acknowledged + 1).saturating_sub(self.next);
        let lost = self.missing.range(..=acknowledged).count() as u64 + behind;
        Faults { lost, ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        Mark { sender: 7, sequence, at_ns: 5 }.write(&mut payload);
        payload
    }

    fn received(sequences: &[u64]) -> Receiver {
        let mut receiver = Receiver::new(7);
        for (index, sequence) in sequences.iter().enumerate() {
            receiver.take(index as u64 + 1, index as i64 + 1, &payload(*sequence));
        }
        receiver
    }

    #[test]
    fn what_is_in_order_and_whole_is_no_fault() {
        let receiver = received(&[1, 2, 3]);
        assert_eq!((receiver.count(), receiver.judge(3)), (3, Faults::default()));
        assert_eq!(received(&[1, 2, 3]).judge(2), Faults::default(), "delivered before it was acknowledged");
    }

    #[test]
    fn each_fault_is_seen() {
        assert_eq!(received(&[1, 3]).judge(3), Faults { lost: 1, ..Faults::default() });
        assert_eq!(received(&[1, 2]).judge(4), Faults { lost: 2, ..Faults::default() });
        assert_eq!(received(&[1, 2, 2]).judge(2), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(received(&[1, 3, 2]).judge(3), Faults { reordered: 1, ..Faults::default() });
        let mut receiver = received(&[1]);
        let mut bad = payload(2);
        bad[40] ^= 1;
        assert_eq!(receiver.take(2, 2, &bad), None);
        assert_eq!(receiver.judge(1), Faults { damaged: 1, ..Faults::default() });
        let mut receiver = received(&[1]);
        receiver.take(1, 9, &payload(2));
        assert_eq!(receiver.judge(2), Faults { misnumbered: 1, ..Faults::default() });
    }
}
