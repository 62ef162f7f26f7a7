//! `POST /message/send`: what a backend sends in somebody's name, or in the node's own. Four forms, told apart by two
//! header bits and by who is named:
//!
//! | `sync_once` | `no_persist` | names | what happens |
//! | --- | --- | --- | --- |
//! | 0 | 0 | channel | an ordinary message: stored in the pair's log, delivered, a position |
//! | 0 | 1 | channel | shown to who is online, not stored |
//! | 1 | 0 | channel or `subscribers` | a command: kept in each recipient's command queue, delivered |
//! | 1 | 1 | channel or `subscribers` | a passing command: shown to who is online, not stored |
//!
//! The answer comes when the message is as safe as a SENDACK would promise.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::Api;
use super::shapes::{ApiError, Asked, DoneWith, Header, PERSON, Reply, SYSTEM_UID, or_default, person_channel, uid};
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::format::frame::SendBody;
use crate::format::packet::{HeaderFlags, Setting};
use crate::ids::{ChannelKey, ShardId, Uid};
use crate::limits::{CLIENT_MSG_NO_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};

/// Uids in `subscribers` of one call. Over it: 400; the caller splits.
const SUBSCRIBERS_MAX: usize = 1000;

/// Of those, how many are under way at a time: enough to share a disk write, few enough to leave the shards' room for API
/// requests to others.
const SUBSCRIBERS_AT_ONCE: usize = 64;

/// Body of the call. Everything may be absent or `null`; what must be there is checked by name.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    #[serde(deserialize_with = "or_default")]
    header: Header,
    #[serde(deserialize_with = "or_default")]
    setting: u8,
    #[serde(deserialize_with = "or_default")]
    client_msg_no: String,
    #[serde(deserialize_with = "or_default")]
    from_uid: String,
    #[serde(deserialize_with = "or_default")]
    channel_id: String,
    #[serde(deserialize_with = "or_default")]
    channel_type: u8,
    #[serde(deserialize_with = "or_default")]
    expire: u32,
    #[serde(deserialize_with = "or_default")]
    topic: String,
    #[serde(deserialize_with = "or_default")]
    subscribers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    payload: String,
}

#[derive(Serialize)]
struct Sent {
    message_id: i64,
    client_msg_no: String,
    message_seq: u32,
}

/// A call after its form was checked.
struct Outgoing {
    from: Uid,
    flags: HeaderFlags,
    setting: Setting,
    expire_s: u32,
    body: SendBody,
}

impl Outgoing {
    fn check(asked: &SendRequest, client_msg_no: &str) -> Result<Outgoing, ApiError> {
        let from = if asked.from_uid.is_empty() { SYSTEM_UID } else { &asked.from_uid };
        let from = uid("from_uid", from)?;
        let payload = STANDARD
            .decode(&asked.payload)
            .map_err(|error| ApiError::bad(format!("payload is not standard base64: {error}")))?;
        if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ApiError::bad(format!(
                "payload has {} bytes; allowed: 1 to {PAYLOAD_BYTES_MAX}",
                payload.len()
            )));
        }
        for (field, text, most) in
            [("client_msg_no", client_msg_no, CLIENT_MSG_NO_BYTES_MAX), ("topic", &asked.topic, TOPIC_BYTES_MAX)]
        {
            if text.len() > most {
                return Err(ApiError::bad(format!("{field} is longer than {most} bytes")));
            }
        }
        // Of the caller's setting only the receipt bit means something to receivers; the topic bit follows the topic.
        let topic_bit = if asked.topic.is_empty() { 0 } else { Setting::TOPIC };
        Ok(Outgoing {
            from,
            flags: asked.header.flags(),
            setting: Setting((asked.setting & Setting::RECEIPT) | topic_bit),
            expire_s: asked.expire,
            body: SendBody::new(client_msg_no, &asked.topic, &payload),
        })
    }

    fn request(&self, to: &Uid) -> ApiRequest {
        ApiRequest::Send {
            from: self.from.clone(),
            to: to.clone(),
            flags: self.flags,
            setting: self.setting,
            expire_s: self.expire_s,
            body: self.body.clone(),
        }
    }

    /// A command goes to the queue of its recipient, anything else to the log of the pair.
    fn shard(&self, api: &Api, to: &Uid) -> ShardId {
        if self.flags.contains(HeaderFlags::SYNC_ONCE) {
            api.shard_for(ChannelKey::command(to).key_hash())
        } else {
            api.shard_for(ChannelKey::pair(&self.from, to).key_hash())
        }
    }
}

/// The call.
pub async fn send(State(api): State<Arc<Api>>, Asked(asked): Asked<SendRequest>) -> Result<Response, ApiError> {
    let client_msg_no =
        if asked.client_msg_no.is_empty() { api.fresh_client_msg_no() } else { asked.client_msg_no.clone() };
    let outgoing = Arc::new(Outgoing::check(&asked, &client_msg_no)?);
    let recipients = recipients(&asked, &outgoing)?;
    let (message_id, message_seq) = send_to_all(&api, &outgoing, recipients).await?;
    let data = Sent { message_id, client_msg_no, message_seq };
    Ok(Reply(DoneWith { status: 200, data }).into_response())
}

/// Who gets it; the first is the one whose id and position are told to the caller.
fn recipients(asked: &SendRequest, outgoing: &Outgoing) -> Result<Vec<Uid>, ApiError> {
    let command = outgoing.flags.contains(HeaderFlags::SYNC_ONCE);
    match (asked.channel_id.is_empty(), asked.subscribers.is_empty()) {
        (true, true) => Err(ApiError::bad("channel_id and subscribers are both empty")),
        (false, false) => Err(ApiError::bad("channel_id and subscribers exclude each other")),
        (true, false) => {
            if !command {
                return Err(ApiError::bad("subscribers needs header.sync_once = 1"));
            }
            subscribers(&asked.subscribers)
        }
        (false, true) => {
            person_channel(asked.channel_type)?;
            let to = uid("channel_id", &asked.channel_id)?;
            let mut recipients = vec![to];
            // Both sides' devices take a command, each from its own queue; the node itself has no devices.
            if command && outgoing.from != recipients[0] && outgoing.from.as_str() != SYSTEM_UID {
                recipients.push(outgoing.from.clone());
            }
            Ok(recipients)
        }
    }
}

/// Checks a list and drops repeats.
fn subscribers(texts: &[String]) -> Result<Vec<Uid>, ApiError> {
    if texts.len() > SUBSCRIBERS_MAX {
        return Err(ApiError::bad(format!("{} subscribers in one call; allowed: {SUBSCRIBERS_MAX}", texts.len())));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut uids = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let uid = uid(&format!("subscribers[{at}]"), text)?;
        if seen.insert(uid.clone()) {
            uids.push(uid);
        }
    }
    Ok(uids)
}

/// One request per recipient, some at a time. Returns id and position of the first. When some fail the caller gets the
/// first failure and may repeat the call with the same `client_msg_no`: those who have it do not get it twice.
async fn send_to_all(api: &Arc<Api>, outgoing: &Arc<Outgoing>, recipients: Vec<Uid>) -> Result<(i64, u32), ApiError> {
    let mut first = None;
    let mut failure = None;
    let mut under_way = JoinSet::new();
    let mut waiting = recipients.into_iter().enumerate();
    loop {
        while failure.is_none() && under_way.len() < SUBSCRIBERS_AT_ONCE {
            let Some((at, to)) = waiting.next() else {
                break;
            };
            let (api, outgoing) = (api.clone(), outgoing.clone());
            under_way.spawn(async move { (at, api.ask(outgoing.shard(&api, &to), outgoing.request(&to)).await) });
        }
        match under_way.join_next().await {
            None => break,
            Some(Ok((at, Ok(answer)))) => {
                if at == 0 {
                    first = Some(answer);
                }
            }
            Some(Ok((_, Err(error)))) => failure = failure.or(Some(error)),
            Some(Err(_)) => failure = failure.or_else(|| Some(internal())),
        }
    }
    match (failure, first) {
        (Some(error), _) => Err(error),
        (None, Some(ApiAnswer::Sent { message_id, message_seq })) => Ok((message_id, message_seq)),
        (None, _) => Err(internal()),
    }
}

/// An answer of another kind than the question's: our own fault.
pub(super) fn internal() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the shard's answer does not fit the request")
}

// The type on the wire is the only one that this file builds keys for.
const _: () = assert!(PERSON == 1);

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, post};
    use super::*;
    use serde_json::json;

    fn u(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn shard_of_channel(key: &ChannelKey) -> ShardId {
        ShardId(key.key_hash().slot(super::super::fake::SLOT_DEPTH).0 % 2)
    }

    /// Sender, recipient and header bits of what reached shards, in order of recipients.
    fn sends(fake: &Fake) -> Vec<(ShardId, String, String, u8, String)> {
        let mut sends: Vec<_> = fake
            .requests()
            .into_iter()
            .map(|(shard, request)| match request {
                ApiRequest::Send { from, to, flags, body, .. } => {
                    (shard, from.to_string(), to.to_string(), flags.0, body.client_msg_no().to_owned())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        sends.sort_by(|a, b| a.2.cmp(&b.2));
        sends
    }

    #[test]
    fn an_ordinary_message_goes_to_the_log_of_the_pair() {
        let fake = Fake::default();
        let body = r#"{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"setting":192,"from_uid":"alice",
            "channel_id":"bob","channel_type":1,"stream_no":"","subscribers":null,"payload":"aGk=","client_msg_no":"n1"}"#;
        let data = json!({"message_id": 7_000_000_000_000_000_001i64, "client_msg_no": "n1", "message_seq": 9});
        assert_eq!(post(&fake, "/message/send", body), (200, json!({"status": 200, "data": data})));
        let shard = shard_of_channel(&ChannelKey::pair(&u("alice"), &u("bob")));
        assert_eq!(
            fake.requests(),
            [(
                shard,
                ApiRequest::Send {
                    from: u("alice"),
                    to: u("bob"),
                    flags: HeaderFlags::RED_DOT,
                    setting: Setting(0x80),
                    expire_s: 0,
                    body: SendBody::new("n1", "", b"hi"),
                }
            )]
        );
    }

    #[test]
    fn without_a_sender_it_is_the_nodes_own_and_gets_a_number() {
        let fake = Fake::default();
        let body = r#"{"from_uid":"","channel_id":"bob","channel_type":1,"payload":"aGk="}"#;
        let (status, first) = post(&fake, "/message/send", body);
        let (_, second) = post(&fake, "/message/send", body);
        assert_eq!(status, 200);
        let number = first["data"]["client_msg_no"].as_str().unwrap();
        assert_eq!(number.len(), 33);
        assert_ne!(first["data"]["client_msg_no"], second["data"]["client_msg_no"]);
        assert_eq!(sends(&fake)[0].1, "____system");
    }

    #[test]
    fn a_command_goes_to_the_queues_of_both_sides() {
        for (header, bits) in [(r#"{"sync_once":1}"#, 4), (r#"{"sync_once":1,"no_persist":1}"#, 5)] {
            let fake = Fake::default();
            let body = format!(
                r#"{{"header":{header},"from_uid":"alice","channel_id":"bob","channel_type":1,"payload":"aGk=","client_msg_no":"n"}}"#
            );
            assert_eq!(post(&fake, "/message/send", &body).0, 200);
            let home = |name: &str| shard_of_channel(&ChannelKey::command(&u(name)));
            let wanted: Vec<_> = ["alice", "bob"]
                .iter()
                .map(|to| (home(to), "alice".to_owned(), (*to).to_owned(), bits, "n".to_owned()))
                .collect();
            assert_eq!(sends(&fake), wanted);
        }
        let fake = Fake::default();
        let body = r#"{"header":{"sync_once":1},"channel_id":"bob","channel_type":1,"payload":"aGk="}"#;
        assert_eq!(post(&fake, "/message/send", body).0, 200);
        assert_eq!(sends(&fake).len(), 1, "the node itself has no queue");
    }

    #[test]
    fn subscribers_get_one_each_and_repeats_none() {
        let fake = Fake::default();
        let uids: Vec<String> = (0..200).map(|n| format!("u{}", n % 150)).collect();
        let body = json!({"header": {"sync_once": 1}, "subscribers": uids, "payload": "aGk=", "client_msg_no": "n"});
        assert_eq!(post(&fake, "/message/send", &body.to_string()).0, 200);
        let sends = sends(&fake);
        assert_eq!(sends.len(), 150);
        for (shard, _, to, bits, _) in sends {
            assert_eq!((shard, bits), (shard_of_channel(&ChannelKey::command(&u(&to))), 4));
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_name_and_reaches_no_shard() {
        let fake = Fake::default();
        let big = STANDARD.encode(vec![b'x'; PAYLOAD_BYTES_MAX + 1]);
        let many = vec!["u"; 1001];
        for (body, word) in [
            (json!({"channel_id": "bob", "channel_type": 2, "payload": "aGk="}), "group"),
            (json!({"channel_id": "bob", "channel_type": 9, "payload": "aGk="}), "channel_type 9"),
            (json!({"channel_id": "b@b", "channel_type": 1, "payload": "aGk="}), "channel_id"),
            (json!({"from_uid": "a&", "channel_id": "b", "channel_type": 1, "payload": "aGk="}), "from_uid"),
            (json!({"channel_id": "bob", "channel_type": 1, "payload": "a"}), "payload"),
            (json!({"channel_id": "bob", "channel_type": 1}), "payload"),
            (json!({"channel_id": "bob", "channel_type": 1, "payload": big}), "payload"),
            (
                json!({"channel_id": "bob", "channel_type": 1, "payload": "aGk=", "client_msg_no": "n".repeat(257)}),
                "client_msg_no",
            ),
            (json!({"payload": "aGk="}), "channel_id and subscribers"),
            (json!({"subscribers": ["u"], "payload": "aGk="}), "sync_once"),
            (json!({"subscribers": ["u"], "channel_id": "c", "channel_type": 1, "payload": "aGk="}), "exclude"),
            (json!({"subscribers": many, "header": {"sync_once": 1}, "payload": "aGk="}), "1001"),
            (json!({"subscribers": ["u", ""], "header": {"sync_once": 1}, "payload": "aGk="}), "subscribers[1]"),
        ] {
            let (status, answer) = post(&fake, "/message/send", &body.to_string());
            assert_eq!((status, &answer["status"]), (400, &json!(400)), "{word}");
            assert!(answer["msg"].as_str().unwrap().contains(word), "{answer} without {word}");
        }
        assert!(fake.requests().is_empty());
    }

    #[test]
    fn a_refusal_is_400_in_the_shards_words_and_a_full_shard_503() {
        let fake = Fake {
            answer: |_, _| ApiAnswer::Refused { reason: 28, text: "another payload under this number".into() },
            ..Fake::default()
        };
        let body = r#"{"channel_id":"bob","channel_type":1,"payload":"aGk="}"#;
        let msg = "another payload under this number (reason 28)";
        assert_eq!(post(&fake, "/message/send", body), (400, json!({"msg": msg, "status": 400})));
        let fake = Fake { answer: |_, _| ApiAnswer::Busy, ..Fake::default() };
        assert_eq!(post(&fake, "/message/send", body).0, 503);
    }
}
