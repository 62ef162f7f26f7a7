//! The way from the API to the shards: which shard is asked, how long an answer may take, and what its absence means
//! to the caller. It goes through the same inboxes as everything else that reaches a shard from inside its node.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;

use super::Api;
use super::shapes::ApiError;
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::ids::{KeyHash, ShardId};
use crate::shell::mesh::MeshMessage;
use crate::shell::metronome::Watch;
use crate::shell::stages::ShardSnapshot;

/// A shard answers within this, or the caller gets 503. Sends wait for the disk, which may be slow but not this slow.
pub const SHARD_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A shard shows its numbers within this, or the metrics page goes without them.
const SHARD_SHOWS_WITHIN: Duration = Duration::from_secs(1);

/// What the rest of the node tells the API while it starts and runs.
#[derive(Debug)]
pub struct NodeState {
    ready: Vec<AtomicBool>,
    watch: OnceLock<std::sync::Arc<Watch>>,
}

impl NodeState {
    /// Nothing is ready.
    #[must_use]
    pub fn new(shard_count: u16) -> NodeState {
        NodeState { ready: (0..shard_count).map(|_| AtomicBool::new(false)).collect(), watch: OnceLock::new() }
    }

    /// A shard serves, or serves no more.
    pub fn set_ready(&self, shard: ShardId, ready: bool) {
        if let Some(flag) = self.ready.get(usize::from(shard.0)) {
            flag.store(ready, Ordering::Release);
        }
    }

    /// Whether it serves.
    #[must_use]
    pub fn is_ready(&self, shard: ShardId) -> bool {
        self.ready.get(usize::from(shard.0)).is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// The metronome has begun; what its watchdog sees goes into the metrics.
    pub fn set_watch(&self, watch: std::sync::Arc<Watch>) {
        // A second metronome does not exist; were there one, the first one's numbers stay.
        let _ = self.watch.set(watch);
    }

    /// Times a shard was found standing still.
    pub(super) fn stalls(&self, shard: ShardId) -> u64 {
        self.watch.get().map_or(0, |watch| watch.stalls(shard))
    }
}

fn unavailable(why: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

impl Api {
    /// All of them.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.mesh.shard_count()).map(ShardId)
    }

    /// The shard that is asked about a key. Any would do, they pass it on to whoever leads the slot; this spreads the work, and is that very
    /// one on a node that was founded alone.
    pub(super) fn shard_for(&self, key: KeyHash) -> ShardId {
        ShardId(key.slot(self.slot_depth).0 % self.mesh.shard_count())
    }

    /// Asks a shard and waits. A refusal comes back as an error with the shard's own words.
    pub(super) async fn ask(&self, shard: ShardId, request: ApiRequest) -> Result<ApiAnswer, ApiError> {
        match self.ask_anything(shard, request).await? {
            ApiAnswer::Refused { reason, text } => Err(ApiError::bad(format!("{text} (reason {reason})"))),
            answer => Ok(answer),
        }
    }

    /// Asks for something that concerns the whole cluster.
    pub(super) async fn operate(&self, request: ApiRequest) -> Result<ApiAnswer, ApiError> {
        match self.ask_anything(ShardId(0), request).await? {
            ApiAnswer::Refused { text, .. } => Err(ApiError::new(StatusCode::CONFLICT, text)),
            answer => Ok(answer),
        }
    }

    async fn ask_anything(&self, shard: ShardId, request: ApiRequest) -> Result<ApiAnswer, ApiError> {
        if !self.node.is_ready(shard) {
            return Err(unavailable("the shard is not ready"));
        }
        let (reply, answer) = flume::bounded(1);
        if self.mesh.send(shard, MeshMessage::Api { request, reply }).is_err() {
            return Err(unavailable("the shard takes no requests now"));
        }
        match tokio::time::timeout(SHARD_ANSWERS_WITHIN, answer.recv_async()).await {
            Err(_) => Err(unavailable("the shard did not answer in time; the request may still be carried out")),
            Ok(Err(_)) => Err(unavailable("the shard has stopped")),
            Ok(Ok(ApiAnswer::Busy)) => Err(unavailable("too many requests are under way; try again later")),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    /// Every shard's numbers, without those that do not show them in time.
    pub(super) async fn snapshots(&self) -> Vec<ShardSnapshot> {
        let shown = self.ask_shards(|_, reply| MeshMessage::Snapshot { reply }).await;
        shown.into_iter().map(|snapshot| *snapshot).collect()
    }

    /// Asks every shard that is ready, and leaves out those that do not answer in time.
    pub(super) async fn ask_shards<T>(&self, message: impl Fn(ShardId, flume::Sender<T>) -> MeshMessage) -> Vec<T> {
        let asked: Vec<_> = self
            .shards()
            .filter(|shard| self.node.is_ready(*shard))
            .filter_map(|shard| {
                let (reply, answer) = flume::bounded(1);
                let sent = self.mesh.send(shard, message(shard, reply));
                sent.is_ok().then_some(answer)
            })
            .collect();
        let deadline = tokio::time::Instant::now() + SHARD_SHOWS_WITHIN;
        let mut shown = Vec::with_capacity(asked.len());
        for answer in asked {
            if let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, answer.recv_async()).await {
                shown.push(answer);
            }
        }
        shown
    }
}
