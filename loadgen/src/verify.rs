//! What a message carries so that its receiver can judge it, and the judgement: nothing lost, doubled, reordered or damaged. Pure.
//!
//! ```text
//! 0 u32 check over the rest   4 u32 stream   8 u64 sequence from 1   16 u64 nanoseconds when it was (to be) sent   24.. filling
//! ```
//!
//! A stream is one user's messages to another. Its sequence has no gaps, so what is missing is known exactly.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Smallest payload that holds the marks.
pub const PAYLOAD_BYTES_MIN: usize = 24;

/// Marks of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who sent it to whom.
    pub stream: u32,
    /// Which of its messages.
    pub sequence: u64,
    /// When, on the generator's clock; in open mode when it was meant to be sent.
    pub at_ns: u64,
}

impl Mark {
    /// Writes the marks and the filling over a whole payload.
    pub fn write(self, payload: &mut [u8]) {
        payload[4..8].copy_from_slice(&self.stream.to_le_bytes());
        payload[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        payload[16..24].copy_from_slice(&self.at_ns.to_le_bytes());
        payload[PAYLOAD_BYTES_MIN..].fill((self.sequence as u8).wrapping_mul(31) ^ self.stream as u8);
        let check = check_of(payload);
        payload[0..4].copy_from_slice(&check);
    }

    /// Reads the marks; `None` when the payload is not one of ours or damaged.
    pub fn read(payload: &[u8]) -> Option<Mark> {
        let head = payload.get(..PAYLOAD_BYTES_MIN)?;
        let mark = Mark {
            stream: u32::from_le_bytes(head[4..8].try_into().ok()?),
            sequence: u64::from_le_bytes(head[8..16].try_into().ok()?),
            at_ns: u64::from_le_bytes(head[16..24].try_into().ok()?),
        };
        (head[0..4] == check_of(payload) && mark.sequence > 0).then_some(mark)
    }
}

fn check_of(payload: &[u8]) -> [u8; 4] {
    (xxh3_64(&payload[4..]) as u32).to_le_bytes()
}

/// What went wrong, counted. Any of it fails a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Acknowledged, never delivered.
    pub lost: u64,
    /// Delivered again on the same connection.
    pub doubled: u64,
    /// Delivered after a later one.
    pub reordered: u64,
    /// Not what was sent, or not to whom it was sent.
    pub damaged: u64,
    /// The server's own numbers do not rise.
    pub misnumbered: u64,
    /// Sends that were refused.
    pub refused: u64,
    /// Sends that were never answered, though their connection lived.
    pub unanswered: u64,
    /// Connections that broke, or that the server ended, without being asked for.
    pub disconnected: u64,
}

impl Faults {
    /// True when everything is as promised.
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.misnumbered += other.misnumbered;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.disconnected += other.disconnected;
    }
}

/// What a sender knows of one stream at the end.
#[derive(Clone, Debug, Default)]
pub struct SentSide {
    /// Messages sent; their sequences are 1 to this.
    pub sent: u64,
    /// Those of them that need not arrive: refused, or with an unknown outcome because their connection broke.
    pub excepted: Vec<u64>,
}

/// One device's view of one stream.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    next: u64,
    missing: BTreeSet<u64>,
    last_order: (u64, i64),
    /// What had arrived before the present connection: of that, copies are allowed, because the receipt may have been lost.
    before_connection: u64,
    redelivered: u64,
    /// What came after a later one.
    late: Vec<u64>,
    faults: Faults,
}

impl Receiver {
    /// Nothing received yet.
    pub fn new() -> Receiver {
        Receiver { next: 1, ..Receiver::default() }
    }

    /// The device has connected again.
    pub fn reconnected(&mut self) {
        self.before_connection = self.next - 1;
    }

    /// Judges one delivery; true when it counts as one. `order` is the server's own number and id, where it has them.
    pub fn take(&mut self, mark: Mark, order: Option<(u64, i64)>) -> bool {
        let sequence = mark.sequence;
        if sequence < self.next {
            if self.missing.remove(&sequence) {
                self.late.push(sequence);
                return true;
            }
            if sequence <= self.before_connection {
                self.redelivered += 1;
            } else {
                self.faults.doubled += 1;
            }
            return false;
        }
        if let Some(order) = order {
            if order.0 <= self.last_order.0 || order.1 <= self.last_order.1 {
                self.faults.misnumbered += 1;
            }
            self.last_order = order;
        }
        self.missing.extend(self.next..sequence);
        self.next = sequence + 1;
        true
    }

    /// How many are known to be missing now.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Copies that were allowed.
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// The whole judgement, once it is known what was sent. A send with unknown outcome has no promised place in the order: whoever sends
    /// it again does not know either.
    pub fn judge(&self, side: &SentSide) -> Faults {
        let behind = self.next..=side.sent;
        let missing = self.missing.iter().copied().filter(|sequence| *sequence <= side.sent);
        let gone = missing.clone().count() as u64 + (side.sent + 1).saturating_sub(self.next);
        let excused: BTreeSet<u64> = side.excepted.iter().copied().collect();
        let reordered = self.late.iter().filter(|one| !excused.contains(one)).count() as u64;
        let excused = excused.iter().filter(|one| self.missing.contains(one) || behind.contains(one)).count() as u64;
        Faults { lost: gone.saturating_sub(excused), reordered, ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { stream: 7, sequence, at_ns: 5 }
    }

    fn received(sequences: &[u64]) -> Receiver {
        let mut receiver = Receiver::new();
        for (index, sequence) in sequences.iter().enumerate() {
            receiver.take(mark(*sequence), Some((index as u64 + 1, index as i64 + 1)));
        }
        receiver
    }

    fn sent(sent: u64, excepted: &[u64]) -> SentSide {
        SentSide { sent, excepted: excepted.to_vec() }
    }

    #[test]
    fn what_is_in_order_and_whole_is_no_fault() {
        assert_eq!(received(&[1, 2, 3]).judge(&sent(3, &[])), Faults::default());
        assert_eq!(
            received(&[1, 2, 3]).judge(&sent(3, &[3, 3])),
            Faults::default(),
            "an unknown outcome may be a delivery"
        );
        assert_eq!(received(&[1, 3]).judge(&sent(5, &[2, 4, 5])), Faults::default(), "or not");
        assert_eq!(received(&[1, 3, 2]).judge(&sent(3, &[2])), Faults::default(), "or a late one");
    }

    #[test]
    fn each_fault_is_seen() {
        assert_eq!(received(&[1, 3]).judge(&sent(3, &[])), Faults { lost: 1, ..Faults::default() });
        assert_eq!(received(&[1, 2]).judge(&sent(4, &[3])), Faults { lost: 1, ..Faults::default() });
        assert_eq!(received(&[]).judge(&sent(4, &[])), Faults { lost: 4, ..Faults::default() });
        assert_eq!(received(&[1, 2, 2]).judge(&sent(2, &[])), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(received(&[1, 3, 2]).judge(&sent(3, &[])), Faults { reordered: 1, ..Faults::default() });
        let mut receiver = received(&[1]);
        receiver.take(mark(2), Some((1, 9)));
        assert_eq!(receiver.judge(&sent(2, &[])), Faults { misnumbered: 1, ..Faults::default() });
    }

    #[test]
    fn a_copy_is_allowed_only_of_what_an_earlier_connection_got() {
        let mut receiver = received(&[1, 2]);
        receiver.reconnected();
        for sequence in [2, 3, 3] {
            receiver.take(mark(sequence), None);
        }
        assert_eq!(receiver.judge(&sent(3, &[])), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(receiver.redelivered(), 1);
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let mut payload = vec![0; 64];
        mark(9).write(&mut payload);
        assert_eq!(Mark::read(&payload), Some(mark(9)));
        for at in 0..payload.len() {
            let mut bad = payload.clone();
            bad[at] ^= 1;
            assert_eq!(Mark::read(&bad), None, "byte {at}");
        }
        assert_eq!(Mark::read(&payload[..63]), None);
        assert_eq!(Mark::read(&payload[..20]), None);
    }
}
