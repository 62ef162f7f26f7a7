//! `POST /channel/messagesync`: the history of a person channel, by position. A long range is read from the shard in
//! pages, so that no step of a shard is long and no answer larger than its bound: what does not fit is announced by `more`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::messages::internal;
use super::shapes::{ApiError, Asked, MessageObject, Reply, or_default, person_channel, uid};
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::format::message::StoredMessage;
use crate::ids::{ChannelKey, Uid};

/// Messages of one call at most; a larger limit is taken as this.
const LIMIT_MAX: u32 = 10_000;

/// Messages of a call that names no limit.
const LIMIT_DEFAULT: u32 = 100;

/// Messages asked of a shard at a time.
const PAGE_MESSAGES: u32 = 128;

/// Bytes of messages in one answer; reached, the answer ends with `more`.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Body of the call.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SyncRequest {
    #[serde(deserialize_with = "or_default")]
    login_uid: String,
    #[serde(deserialize_with = "or_default")]
    channel_id: String,
    #[serde(deserialize_with = "or_default")]
    channel_type: u8,
    #[serde(deserialize_with = "or_default")]
    start_message_seq: u32,
    #[serde(deserialize_with = "or_default")]
    end_message_seq: u32,
    #[serde(deserialize_with = "or_default")]
    limit: i64,
    #[serde(deserialize_with = "or_default")]
    pull_mode: i64,
}

#[derive(Serialize)]
struct SyncAnswer {
    start_message_seq: u32,
    end_message_seq: u32,
    more: u8,
    messages: Vec<MessageObject>,
}

/// What is still to be read.
struct Reading {
    login: Uid,
    peer: Uid,
    start_seq: u32,
    end_seq: u32,
    left: u32,
    newer: bool,
}

type Page = Vec<(u32, StoredMessage)>;

impl Reading {
    async fn page(&self, api: &Api) -> Result<(Page, bool), ApiError> {
        let shard = api.shard_for(ChannelKey::pair(&self.login, &self.peer).key_hash());
        let request = ApiRequest::MessageSync {
            login: self.login.clone(),
            peer: self.peer.clone(),
            start_seq: self.start_seq,
            end_seq: self.end_seq,
            limit: self.left.min(PAGE_MESSAGES),
            newer: self.newer,
        };
        match api.ask(shard, request).await? {
            ApiAnswer::Messages { messages, more } => Ok((messages, more)),
            _ => Err(internal()),
        }
    }

    /// Moves behind a page. False when nothing is left to be read.
    fn advance(&mut self, page: &Page, more: bool) -> bool {
        let (Some(lowest), Some(highest)) = (page.first(), page.last()) else {
            return false;
        };
        self.left = self.left.saturating_sub(u32::try_from(page.len()).unwrap_or(u32::MAX));
        if self.start_seq == 0 && self.end_seq == 0 {
            // The newest were asked for, which are read backwards whatever the mode says.
            self.newer = false;
        }
        self.start_seq = if self.newer { highest.0.saturating_add(1) } else { lowest.0.saturating_sub(1) };
        more && self.left > 0 && self.start_seq > 0
    }

    async fn everything(mut self, api: &Api) -> Result<(Page, bool), ApiError> {
        let mut all: Page = Vec::new();
        let mut bytes = 0;
        loop {
            let (page, more) = self.page(api).await?;
            bytes += page.iter().map(|(_, message)| message.bytes().len()).sum::<usize>();
            let go_on = self.advance(&page, more) && bytes < ANSWER_BYTES_MAX;
            if self.newer {
                all.extend(page);
            } else {
                all.splice(0..0, page);
            }
            if !go_on {
                return Ok((all, more));
            }
        }
    }
}

/// The call.
pub async fn message_sync(State(api): State<Arc<Api>>, Asked(asked): Asked<SyncRequest>) -> Result<Response, ApiError> {
    person_channel(asked.channel_type)?;
    let login = uid("login_uid", &asked.login_uid)?;
    let peer = uid("channel_id", &asked.channel_id)?;
    let newer = match asked.pull_mode {
        0 => false,
        1 => true,
        other => {
            return Err(ApiError::bad(format!("pull_mode {other} is not allowed; allowed: 0 (older) or 1 (newer)")));
        }
    };
    let limit = match asked.limit {
        ..=0 => LIMIT_DEFAULT,
        more => u32::try_from(more).unwrap_or(LIMIT_MAX).min(LIMIT_MAX),
    };
    let reading =
        Reading { login, peer, start_seq: asked.start_message_seq, end_seq: asked.end_message_seq, left: limit, newer };
    let (messages, more) = reading.everything(&api).await?;
    let messages = messages.iter().map(|(seq, message)| MessageObject::of_person(*seq, message)).collect();
    Ok(Reply(SyncAnswer {
        start_message_seq: asked.start_message_seq,
        end_message_seq: asked.end_message_seq,
        more: u8::from(more),
        messages,
    })
    .into_response())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, log_answer, post};
    use crate::engine::event::ApiRequest;
    use serde_json::json;

    /// A shard that holds a log of 300 messages.
    fn log() -> Fake {
        Fake { answer: |_, request| log_answer(300, request), ..Fake::default() }
    }

    fn seqs(fake: &Fake, start: u32, end: u32, limit: i64, mode: u8) -> (Vec<u64>, u64) {
        let body = json!({
            "login_uid": "alice", "device_uuid": "d", "channel_id": "bob", "channel_type": 1,
            "start_message_seq": start, "end_message_seq": end, "limit": limit, "pull_mode": mode,
        });
        let (status, answer) = post(fake, "/channel/messagesync", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        let messages = answer["messages"].as_array().unwrap();
        let seqs = messages.iter().map(|m| m["message_seq"].as_u64().unwrap()).collect();
        (seqs, answer["more"].as_u64().unwrap())
    }

    fn range(from: u64, to: u64) -> Vec<u64> {
        (from..=to).collect()
    }

    #[test]
    fn ranges_come_ascending_whatever_the_direction() {
        let fake = log();
        assert_eq!(seqs(&fake, 0, 0, 30, 0), (range(271, 300), 1));
        assert_eq!(seqs(&fake, 0, 0, 30, 1), (range(271, 300), 1));
        assert_eq!(seqs(&fake, 50, 0, 20, 0), (range(31, 50), 1));
        assert_eq!(seqs(&fake, 50, 45, 20, 0), (range(46, 50), 0));
        assert_eq!(seqs(&fake, 50, 0, 20, 1), (range(50, 69), 1));
        assert_eq!(seqs(&fake, 290, 0, 20, 1), (range(290, 300), 0));
        assert_eq!(seqs(&fake, 10, 13, 20, 1), (range(10, 12), 0));
    }

    #[test]
    fn long_ranges_are_read_in_pages_without_holes() {
        let fake = log();
        assert_eq!(seqs(&fake, 0, 0, 10_000, 0), (range(1, 300), 0));
        let limits: Vec<u32> = fake
            .requests()
            .iter()
            .map(|(_, request)| match request {
                ApiRequest::MessageSync { limit, .. } => *limit,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(limits, [128, 128, 128]);
        assert_eq!(seqs(&fake, 0, 0, 10_000, 1), (range(1, 300), 0));
        assert_eq!(seqs(&fake, 1, 0, 10_000, 1), (range(1, 300), 0));
        assert_eq!(seqs(&fake, 5, 0, 200, 1), (range(5, 204), 1));
        assert_eq!(seqs(&fake, 0, 0, 0, 0).0.len(), 100);
    }

    #[test]
    fn a_message_is_shown_as_callers_know_it() {
        let fake = log();
        let body = r#"{"login_uid":"alice","channel_id":"bob","channel_type":1,"start_message_seq":2,"end_message_seq":3,
            "limit":1,"pull_mode":1}"#;
        let (_, answer) = post(&fake, "/channel/messagesync", body);
        let message = json!({
            "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0}, "setting": 0,
            "message_id": 7_000_000_000_000_000_002i64, "message_idstr": "7000000000000000002",
            "client_msg_no": "n2", "message_seq": 2, "from_uid": "", "channel_id": "bob", "channel_type": 1,
            "expire": 0, "timestamp": 1_700_000_002, "payload": "aGk=",
        });
        assert_eq!(answer, json!({"start_message_seq": 2, "end_message_seq": 3, "more": 0, "messages": [message]}));
    }

    #[test]
    fn groups_and_bad_forms_are_refused() {
        let fake = log();
        for (body, word) in [
            (r#"{"login_uid":"a","channel_id":"g","channel_type":2}"#, "group"),
            (r#"{"login_uid":"","channel_id":"b","channel_type":1}"#, "login_uid"),
            (r#"{"login_uid":"a","channel_id":"","channel_type":1}"#, "channel_id"),
            (r#"{"login_uid":"a","channel_id":"b","channel_type":1,"pull_mode":2}"#, "pull_mode 2"),
        ] {
            let (status, answer) = post(&fake, "/channel/messagesync", body);
            assert_eq!(status, 400);
            assert!(answer["msg"].as_str().unwrap().contains(word), "{answer}");
        }
        assert!(fake.requests().is_empty());
    }
}
