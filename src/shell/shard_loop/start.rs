//! From a thread to a shard that can serve: the executor, the shard's disk read back, the gateway, the links. What
//! can go wrong here is said in one line, for the person who started the node.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};

use crate::engine::shard::{Recovery, Shard, ShardConfig};
use crate::shell::clock::Clock;
use crate::shell::gateway::{Gateway, GatewayLimits};
use crate::shell::journal_file::{JournalFiles, Segments};
use crate::shell::link_sockets::{ClusterSockets, LinkSockets};
use crate::shell::mesh::MeshEndpoint;
use crate::shell::socket_ring::{RingConfig, SocketRing};

use super::{Ready, ShardRuntimeConfig};

/// The kernel gives locked memory of a process that has just ended back a moment later; a quick restart waits for it.
const MEMLOCK_TRIES: u32 = 20;
const MEMLOCK_PAUSE: Duration = Duration::from_millis(100);

/// Requests that glommio's rings hold: a few reads, the knock.
const GLOMMIO_RING_DEPTH: usize = 128;

pub(super) fn executor(config: &ShardRuntimeConfig) -> Result<LocalExecutor, String> {
    let mut tries = 0;
    loop {
        let placement = config.cpu.map_or(Placement::Unbound, Placement::Fixed);
        // The preempt timer stays at its default and no queue is latency-bound: shorter ones can park the executor with
        // runnable tasks.
        let made = LocalExecutorBuilder::new(placement)
            .name("shard")
            .io_memory(config.io_memory_bytes)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .make();
        match made {
            Ok(executor) => return Ok(executor),
            Err(error) => {
                let error = io::Error::from(error);
                tries += 1;
                if error.raw_os_error() == Some(libc::ENOMEM) && tries < MEMLOCK_TRIES {
                    std::thread::sleep(MEMLOCK_PAUSE);
                    continue;
                }
                return Err(explain(&error));
            }
        }
    }
}

fn explain(error: &io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error() == Some(libc::ENOMEM) || text.contains("MemLockLimit") || text.contains("memlock") {
        return format!("not enough locked memory for io_uring: raise RLIMIT_MEMLOCK (ulimit -l) ({text})");
    }
    format!("the shard's executor cannot start: {text}")
}

/// Reads the shard's disk and gives the shard as it was.
pub(super) async fn recover(
    config: &ShardConfig,
    directory: &std::path::Path,
    clock: Clock,
) -> Result<(Shard, JournalFiles, Ready), String> {
    let began = clock.nanos();
    let disk = |what: &'static str| move |error: io::Error| format!("{}: {what}: {error}", directory.display());
    let files = JournalFiles::open(directory, config.geometry, config.durability)
        .await
        .map_err(disk("the journal cannot be opened"))?;
    let mut recovery = Recovery::new(config.clone());
    for (slot, bytes) in files.read_checkpoints_blocking().map_err(disk("checkpoints cannot be read"))? {
        recovery.checkpoint(slot, &bytes).map_err(|what| format!("{}: {what}", directory.display()))?;
    }
    let segments = files
        .segments_blocking(recovery.first_segment())
        .map_err(disk("the journal's segments do not fit together"))?;
    let mut replayed_bytes = 0;
    if let Some(Segments { replay_first, last, .. }) = segments {
        let mut bytes = Vec::new();
        for segment in replay_first..=last {
            files.read_segment_blocking(segment, &mut bytes).map_err(disk("a journal segment cannot be read"))?;
            replayed_bytes += bytes.len() as u64;
            recovery.segment(segment, &bytes).map_err(|what| format!("{}: {what}", directory.display()))?;
        }
    }
    let shard = recovery
        .finish(clock.now(), segments.map(|segments| segments.oldest))
        .map_err(|what| format!("{}: {what}", directory.display()))?;
    let ready = Ready {
        shard: config.place.shard,
        messages: shard.view().messages_indexed,
        replayed_bytes,
        took: Duration::from_nanos(clock.nanos() - began),
        waits: true,
    };
    Ok((shard, files, ready))
}

/// The gateway, whose ring hears the doorbell and knocks.
pub(super) fn gateway(config: &ShardRuntimeConfig, mesh: &MeshEndpoint, knock: RawFd) -> Result<Gateway, String> {
    let limits = GatewayLimits {
        sessions_max: config.engine.limits.sessions_max,
        sessions_per_address_max: config.sessions_per_address_max,
        events_max: config.engine.limits.events_per_step_max,
        shard_count: config.engine.shard_count,
    };
    // They name sessions.
    let first_generation = config.engine.first_number() as u32;
    let ring = RingConfig { first_generation, ..RingConfig::PRODUCTION };
    let mut gateway = patiently(|| Gateway::new(limits, ring, knock))?;
    // SAFETY: the endpoint holds the descriptor open for longer than this call.
    let doorbell = unsafe { BorrowedFd::borrow_raw(mesh.doorbell.raw()) };
    let own = doorbell.try_clone_to_owned().map_err(|error| format!("no descriptor for the doorbell: {error}"))?;
    gateway.ring().listen_to(own);
    Ok(gateway)
}

pub(super) fn links(sockets: ClusterSockets, mesh: &MeshEndpoint) -> Result<LinkSockets, String> {
    let ring = patiently(|| SocketRing::new(RingConfig::LINKS, mesh.doorbell.raw()))?;
    LinkSockets::new(ring, sockets).map_err(|error| format!("the cluster's sockets cannot be served: {error}"))
}

/// Makes something with a ring in it.
fn patiently<T>(mut make: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let mut tries = 0;
    loop {
        match make() {
            Err(_) if tries < MEMLOCK_TRIES => tries += 1,
            outcome => return outcome,
        }
        std::thread::sleep(MEMLOCK_PAUSE);
    }
}
