//! The way from the API to the shards: which shard a key belongs to, how long an answer may take, and what its absence means
//! to the caller. What carries the request is behind the trait, so that tests answer without shards.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::metrics::ShardPicture;
use super::shapes::ApiError;
use super::Api;
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::engine::shard::shard_of;
use crate::ids::{ChannelKey, ShardId, Uid};

/// A shard answers within this, or the caller gets 503. Sends wait for the disk, which may be slow but not this slow.
pub const SHARD_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How the API reaches the shards of its node.
pub trait ShardDoor: Send + Sync + 'static {
    /// How many there are.
    fn shard_count(&self) -> u16;
    /// Puts a request into a shard's queue. `None` when the queue is full or the shard is gone.
    fn ask(&self, shard: ShardId, request: ApiRequest) -> Option<flume::Receiver<ApiAnswer>>;
    /// What the shard last said about itself; `None` before it is ready.
    fn picture(&self, shard: ShardId) -> Option<Arc<ShardPicture>>;
}

fn unavailable(why: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

impl Api {
    /// The shard of a user's home.
    pub(super) fn home_shard(&self, uid: &Uid) -> ShardId {
        shard_of(uid, self.slot_depth, self.door.shard_count())
    }

    /// The shard that leads a channel.
    pub(super) fn channel_shard(&self, channel: &ChannelKey) -> ShardId {
        ShardId(channel.key_hash().slot(self.slot_depth).0 % self.door.shard_count())
    }

    /// Asks a shard and waits. A refusal comes back as an error with the shard's own words.
    pub(super) async fn ask(&self, shard: ShardId, request: ApiRequest) -> Result<ApiAnswer, ApiError> {
        let answer = self.door.ask(shard, request).ok_or_else(|| unavailable("the shard takes no requests now"))?;
        match tokio::time::timeout(SHARD_ANSWERS_WITHIN, answer.recv_async()).await {
            Err(_) => Err(unavailable("the shard did not answer in time; the request may still be carried out")),
            Ok(Err(_)) => Err(unavailable("the shard has stopped")),
            Ok(Ok(ApiAnswer::Busy)) => Err(unavailable("too many requests are under way; try again")),
            Ok(Ok(ApiAnswer::Refused { reason, text })) => {
                Err(ApiError::new(StatusCode::BAD_REQUEST, format!("{text} (reason {reason})")))
            }
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}
