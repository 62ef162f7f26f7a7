//! A device sees the messages of a log for the first time in rising order, and a log has no holes. Where a crash may set a device back, that
//! is so on each of its connections.

use std::collections::BTreeMap;

use super::Seen;
use crate::ledger::{LogKey, Number};

/// The earliest position a device has seen of a log, the highest, and on which connection it last saw one.
#[derive(Clone, Copy)]
struct Span {
    lowest: u32,
    highest: u32,
    connection: Option<usize>,
}

/// First sightings of each device in each log.
#[derive(Default)]
pub struct Order {
    spans: BTreeMap<(usize, usize, LogKey), Span>,
    /// A node has crashed. A new family begins where the user's furthest device is, and a crash may set that back: then it
    /// also gets what is older than its beginning, though it was not promised to it.
    pub crashed: bool,
    /// History is dropped by plan, or was damaged: what a device passed over because it was gone may be back after a crash
    /// (a segment whose removal was not on disk, a bit that was mended; or the next leader has it still, since each replica drops for itself).
    pub gaps: bool,
}

impl Order {
    /// A device saw a stored message for the first time.
    pub fn first_sight(&mut self, seen: &Seen) -> Result<(), String> {
        let fresh = Span { lowest: seen.seq, highest: 0, connection: seen.connection };
        let span = self.spans.entry((seen.device, seen.seat, seen.log)).or_insert(fresh);
        let comes_again = span.connection != seen.connection;
        span.connection = seen.connection;
        let set_back = self.crashed && comes_again && (self.gaps || seen.seq < span.lowest);
        if seen.seq <= span.highest && !set_back {
            return Err(format!(
                "device {} saw message {} at {} of {:?} after it had seen {}",
                seen.device, seen.number, seen.seq, seen.log, span.highest
            ));
        }
        span.highest = seen.seq;
        Ok(())
    }
}

/// A log that was read as a whole counts 1, 2, 3…; one that forgets may begin later.
pub fn dense(log: LogKey, found: &[(u32, i64, Number)], forgets: bool) -> Result<(), String> {
    let first = match found.first() {
        Some((first, ..)) if forgets => *first,
        _ => 1,
    };
    for (expected, (seq, message_id, number)) in (first..).zip(found) {
        if *seq != expected {
            return Err(format!(
                "{log:?} goes on at {seq} (message {number}, id {message_id}) where {expected} was due"
            ));
        }
    }
    Ok(())
}
