//! The order in which message bodies came into memory, over all slots of a shard: the oldest gives way when the budget is
//! used up. Holds no bodies; channels do.

use std::collections::VecDeque;

use crate::ids::SlotId;

/// What a body costs beside its bytes: the handle in its channel and the place in this queue.
const OVERHEAD_BYTES: usize = 64;

/// Bodies in memory.
#[derive(Debug)]
pub struct Recent {
    order: VecDeque<(SlotId, u32, u32)>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    /// None yet.
    #[must_use]
    pub fn new(bytes_max: usize) -> Recent {
        Recent { order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// A body came into a channel.
    pub fn push(&mut self, slot: SlotId, channel: u32, bytes: usize) {
        self.order.push_back((slot, channel, bytes as u32));
        self.bytes += bytes + OVERHEAD_BYTES;
    }

    /// The channel whose oldest body must go, while the budget is exceeded.
    pub fn pop_excess(&mut self) -> Option<(SlotId, u32)> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        let (slot, channel, bytes) = self.order.pop_front()?;
        self.bytes -= bytes as usize + OVERHEAD_BYTES;
        Some((slot, channel))
    }

    /// Bytes held, with what they cost.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
