//! One shard: every machine of one core behind one function.

use super::counters::Counters;
use super::effect::Effects;
use super::event::EventBatch;
use crate::ids::{Place, ShardId, SlotId, Uid};
use crate::limits::Limits;
use crate::time::{Instant, Now};

/// What a shard is told once.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub place: Place,
    /// Shards of this node.
    pub shard_count: u16,
    /// log2 of the slot count.
    pub slot_depth: u8,
    /// Bounds.
    pub limits: Limits,
    /// Whether CONNECT needs the stored token.
    pub token_auth: bool,
    /// Whether what was missed is pushed at CONNECT.
    pub offline: OfflineMode,
    /// What a SENDACK promises.
    pub durability: Durability,
    /// Shape of the journal.
    pub geometry: JournalGeometry,
    /// How much history is kept.
    pub retention: Retention,
    /// Root of all chance in this shard.
    pub seed: [u8; 32],
}

/// What happens with messages that came while a device was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineMode {
    /// Pushed at CONNECT, in order, inside the session's window.
    Push,
    /// Only over HTTP.
    Sync,
}

/// What a SENDACK promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk on a majority.
    Fsync,
    /// In memory on a majority; a power cut of all loses the last moments.
    Memory,
}

/// Shape of the journal on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalGeometry {
    /// Unit of writing, a power of two from 512 to 4096.
    pub block_bytes: u32,
    /// Size of a segment, a multiple of the block, at most 1 GiB.
    pub segment_bytes: u32,
    /// Which journal: random, one for each shard of a node, never leaves it. What carries another is not this journal's.
    pub identity: u64,
}

/// How much history is kept; whole segments at a time. Zero means no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Journal bytes per shard.
    pub bytes: u64,
    /// Age of the newest message of a segment, milliseconds.
    pub age_ms: u64,
}

/// What others may see of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardView<'a> {
    /// Totals.
    pub counters: &'a Counters,
    /// Live connections, in whatever state.
    pub sessions: usize,
    /// Connections that passed CONNECT.
    pub sessions_live: usize,
    /// Slots led here.
    pub slots_led: usize,
    /// Channels known here.
    pub channels: usize,
    /// Homes known here.
    pub homes: usize,
    /// Messages that can be read back.
    pub messages_indexed: u64,
    /// Bytes of message bodies in memory.
    pub recent_bytes: usize,
    /// Bytes waiting for the journal.
    pub journal_pending_bytes: usize,
    /// Segments of the journal, first and last.
    pub journal_segments: (u32, u32),
    /// False while the disk refuses writes.
    pub writable: bool,
}

/// A shard being brought back from disk. Order: every checkpoint, then every segment from [`Recovery::first_segment`]
/// upwards, then [`Recovery::finish`].
pub struct Recovery {
    _config: ShardConfig,
}

impl Recovery {
    /// Nothing read yet.
    #[must_use]
    pub fn new(config: ShardConfig) -> Recovery {
        Recovery { _config: config }
    }

    /// Slots that this shard hosts: whose checkpoints are wanted.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotId> {
        unimplemented!()
    }

    /// Takes a slot's checkpoint.
    ///
    /// # Errors
    /// What is wrong with it; the disk's fault.
    pub fn checkpoint(&mut self, _slot: SlotId, _bytes: &[u8]) -> Result<(), String> {
        unimplemented!()
    }

    /// The first journal segment that must be replayed, after all checkpoints were given.
    #[must_use]
    pub fn first_segment(&self) -> u32 {
        unimplemented!()
    }

    /// Replays one segment; `last` for the highest-numbered one, where a torn tail is no damage.
    ///
    /// # Errors
    /// What is damaged and where.
    pub fn segment(&mut self, _segment: u32, _bytes: &[u8], _last: bool) -> Result<(), String> {
        unimplemented!()
    }

    /// Everything is read: the shard begins. `segments` are the first and last that exist, if any.
    #[must_use]
    pub fn finish(self, _now: Now, _segments: Option<(u32, u32)>) -> Shard {
        unimplemented!()
    }
}

/// One core's share of the router.
pub struct Shard {
    _counters: Counters,
}

impl Shard {
    /// One turn: takes everything that happened, says everything to be done. Never waits; bounded by the batch.
    pub fn step(&mut self, _now: Now, _events: &mut EventBatch, _effects: &mut Effects) {
        unimplemented!()
    }

    /// When to call [`Shard::step`] at the latest, even with no event.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// Asserts what must hold between steps. Costs time in the order of the state: the simulator calls it always, the
    /// shell never.
    pub fn check_invariants(&self) {
        unimplemented!()
    }

    /// What others may see.
    #[must_use]
    pub fn view(&self) -> ShardView<'_> {
        unimplemented!()
    }
}

/// The shard of this node that leads a user's slot: for HTTP, which must ask the right one.
#[must_use]
pub fn shard_of(uid: &Uid, slot_depth: u8, shard_count: u16) -> ShardId {
    ShardId(uid.key_hash().slot(slot_depth).0 % shard_count)
}
