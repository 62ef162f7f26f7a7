//! The order in which message bodies came into memory, over all slots of a shard: the oldest gives way when the budget is
//! used up. Holds no bodies; channels do.

use std::collections::VecDeque;

use crate::format::record::Position;
use crate::ids::SlotId;

/// What a body costs beside its bytes: the handle in its channel and the place in this queue.
const OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Body {
    slot: SlotId,
    channel: u32,
    bytes: u32,
    position: Position,
}

/// Bodies in memory.
#[derive(Debug)]
pub struct Recent {
    order: VecDeque<Body>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    /// None yet.
    #[must_use]
    pub fn new(bytes_max: usize) -> Recent {
        Recent { order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// A body came into a channel; it lies in the journal at `position`.
    pub fn push(&mut self, slot: SlotId, channel: u32, bytes: usize, position: Position) {
        self.order.push_back(Body { slot, channel, bytes: bytes as u32, position });
        self.bytes += bytes + OVERHEAD_BYTES;
    }

    /// The channel whose oldest body must go, while the budget is exceeded and the body can be read back: with durability
    /// `memory` a message is applied before it is written.
    pub fn pop_excess(&mut self, written: Position) -> Option<(SlotId, u32)> {
        if self.bytes <= self.bytes_max || self.order.front()?.position >= written {
            return None;
        }
        let body = self.order.pop_front()?;
        self.bytes -= body.bytes as usize + OVERHEAD_BYTES;
        Some((body.slot, body.channel))
    }

    /// A slot's channels are numbered anew; bodies of those that have no number any more are gone.
    pub fn renumber(&mut self, slot: SlotId, number: impl Fn(u32) -> Option<u32>) {
        let bytes = &mut self.bytes;
        self.order.retain_mut(|body| {
            if body.slot != slot {
                return true;
            }
            let stays = number(body.channel);
            match stays {
                Some(channel) => body.channel = channel,
                None => *bytes -= body.bytes as usize + OVERHEAD_BYTES,
            }
            stays.is_some()
        });
    }

    /// A slot's bodies are gone.
    pub fn forget_slot(&mut self, slot: SlotId) {
        let bytes = &mut self.bytes;
        self.order.retain(|body| {
            let stays = body.slot != slot;
            *bytes -= if stays { 0 } else { body.bytes as usize + OVERHEAD_BYTES };
            stays
        });
    }

    /// Bytes held, with what they cost.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
