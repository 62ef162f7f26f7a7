//! (being written)

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::shard::ShardConfig;
use crate::ids::ShardId;

use super::clock::Clock;
use super::gateway::{GatewayLimits, Listener};
use super::mesh::MeshEndpoint;

/// What one shard's thread is told.
#[derive(Debug)]
pub struct ShardRuntimeConfig {
    /// For the engine.
    pub engine: ShardConfig,
    /// Bounds of the gateway.
    pub gateway: GatewayLimits,
    /// The processor to pin the thread to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Memory that glommio registers with each of its three rings, 64 KiB to 4 MiB. Counts against RLIMIT_MEMLOCK three times.
    pub io_memory_bytes: usize,
    /// The shard's own directory: journal segments and checkpoints. Exists.
    pub directory: PathBuf,
    /// The node's clock.
    pub clock: Clock,
}

/// A shard has read its disk and serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub shard: ShardId,
    /// Messages that can be read back.
    pub messages: u64,
    /// Bytes of journal that were replayed.
    pub replayed_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Starts a shard's thread. It recovers from its directory, says `ready` (once: either that it serves, or one line
/// why it cannot), serves until [`super::mesh::MeshMessage::Stop`], and ends within five seconds after it.
/// A panic in it ends the process: the journal is the truth, a limping shard is not.
///
/// # Errors
/// When the thread cannot be started.
pub fn run_shard(
    config: ShardRuntimeConfig,
    mesh: MeshEndpoint,
    listeners: Vec<Listener>,
    ready: flume::Sender<Result<Ready, String>>,
) -> std::io::Result<JoinHandle<()>> {
    let _ = (config, mesh, listeners, ready);
    Err(std::io::Error::other("being written"))
}
