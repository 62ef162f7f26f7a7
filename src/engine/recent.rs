//! The order in which message bodies came into memory, over all slots of a shard: the oldest gives way when the budget is
//! used up. Holds no bodies; channels do.

use std::collections::VecDeque;

use crate::ids::SlotId;

/// What a body costs beside its bytes: the handle in its channel and the place in this queue.
const OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Body {
    slot: SlotId,
    channel: u32,
    bytes: u32,
    flush: u64,
}

/// Bodies in memory.
#[derive(Debug)]
pub struct Recent {
    order: VecDeque<Body>,
    /// Bodies that come now are on disk when this flush is.
    flush: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    /// None yet.
    #[must_use]
    pub fn new(bytes_max: usize) -> Recent {
        Recent { order: VecDeque::new(), flush: 0, bytes: 0, bytes_max }
    }

    /// Bodies that come from now on can be read back once this flush is written. 0: at once, because what is applied is on
    /// disk; that is so unless durability is `memory`.
    pub fn written_with(&mut self, flush: u64) {
        self.flush = flush;
    }

    /// A body came into a channel.
    pub fn push(&mut self, slot: SlotId, channel: u32, bytes: usize) {
        self.order.push_back(Body { slot, channel, bytes: bytes as u32, flush: self.flush });
        self.bytes += bytes + OVERHEAD_BYTES;
    }

    /// The channel whose oldest body must go, while the budget is exceeded and the body can be read back.
    pub fn pop_excess(&mut self, written_flush: u64) -> Option<(SlotId, u32)> {
        if self.bytes <= self.bytes_max || self.order.front()?.flush > written_flush {
            return None;
        }
        let body = self.order.pop_front()?;
        self.bytes -= body.bytes as usize + OVERHEAD_BYTES;
        Some((body.slot, body.channel))
    }

    /// Bytes held, with what they cost.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
