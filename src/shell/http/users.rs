//! Calls about users: their device tokens and who is online.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::messages::internal;
use super::shapes::{ApiError, Asked, DONE, Reply, SYSTEM_UID, device_flag, or_default, uid};
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::ids::{DeviceFlag, DeviceLevel, Uid};
use crate::limits::TOKEN_BYTES_MAX;

/// Uids in one question about who is online.
const ONLINE_UIDS_MAX: usize = 1000;

/// Body of `/user/token`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct TokenRequest {
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    token: String,
    #[serde(deserialize_with = "or_default")]
    device_flag: i64,
    #[serde(deserialize_with = "or_default")]
    device_level: i64,
}

/// `POST /user/token`: stores a device's token and level.
pub async fn set_token(State(api): State<Arc<Api>>, Asked(asked): Asked<TokenRequest>) -> Result<Response, ApiError> {
    let uid = uid("uid", &asked.uid)?;
    if uid.as_str() == SYSTEM_UID {
        return Err(ApiError::bad(format!("uid {SYSTEM_UID:?} is not allowed: it is the node's own")));
    }
    if asked.token.is_empty() || asked.token.len() > TOKEN_BYTES_MAX {
        return Err(ApiError::bad(format!("token is not allowed; allowed: 1 to {TOKEN_BYTES_MAX} bytes")));
    }
    let level = match asked.device_level {
        0 => DeviceLevel::Slave,
        1 => DeviceLevel::Master,
        other => {
            return Err(ApiError::bad(format!(
                "device_level {other} is not allowed; allowed: 0 (slave) or 1 (master)"
            )));
        }
    };
    let flag = device_flag("device_flag", asked.device_flag)?;
    let shard = api.shard_for(uid.key_hash());
    api.ask(shard, ApiRequest::SetToken { uid, flag, level, token: asked.token.into() }).await?;
    Ok(DONE.into_response())
}

/// Body of `/user/device_quit`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct QuitRequest {
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    device_flag: i64,
}

/// `POST /user/device_quit`: blanks tokens and ends connections. A device that never was is a success.
pub async fn quit_device(State(api): State<Arc<Api>>, Asked(asked): Asked<QuitRequest>) -> Result<Response, ApiError> {
    let uid = uid("uid", &asked.uid)?;
    let flag = match asked.device_flag {
        -1 => None,
        number => Some(device_flag("device_flag", number)?),
    };
    let shard = api.shard_for(uid.key_hash());
    api.ask(shard, ApiRequest::QuitDevice { uid, flag }).await?;
    Ok(DONE.into_response())
}

#[derive(Serialize)]
struct OnlineDevice {
    uid: String,
    device_flag: u8,
    online: u8,
}

/// `POST /user/onlinestatus`: who of a list is online, one entry per live connection, those offline absent.
pub async fn online_status(
    State(api): State<Arc<Api>>,
    Asked(asked): Asked<Option<Vec<String>>>,
) -> Result<Response, ApiError> {
    let asked = asked.unwrap_or_default();
    if asked.len() > ONLINE_UIDS_MAX {
        return Err(ApiError::bad(format!("{} uids in one call; allowed: {ONLINE_UIDS_MAX}", asked.len())));
    }
    let uids: Vec<Uid> =
        asked.iter().enumerate().map(|(at, text)| uid(&format!("uids[{at}]"), text)).collect::<Result<_, _>>()?;
    let Some(first) = uids.first() else { return Ok(Reply(Vec::<OnlineDevice>::new()).into_response()) };
    // One shard asks all nodes and puts their answers together.
    let shard = api.shard_for(first.key_hash());
    let ApiAnswer::Online(devices) = api.ask(shard, ApiRequest::OnlineStatus { uids }).await? else {
        return Err(internal());
    };
    let device =
        |(uid, flag): (Uid, DeviceFlag)| OnlineDevice { uid: uid.as_str().to_owned(), device_flag: flag.0, online: 1 };
    Ok(Reply(devices.into_iter().map(device).collect::<Vec<_>>()).into_response())
}

#[cfg(test)]
mod tests {
    use super::super::fake::shard_of;
    use super::super::fake::{Fake, post};
    use crate::engine::event::{ApiAnswer, ApiRequest};
    use crate::ids::{DeviceFlag, DeviceLevel, Uid};
    use serde_json::json;

    fn u(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    #[test]
    fn a_token_reaches_the_home_of_its_user() {
        let fake = Fake::default();
        let body = r#"{"uid":"u1","token":"t","device_level":1,"device_flag":2,"new":null}"#;
        assert_eq!(post(&fake, "/user/token", body), (200, json!({"status": 200})));
        let wanted =
            ApiRequest::SetToken { uid: u("u1"), flag: DeviceFlag(2), level: DeviceLevel::Master, token: "t".into() };
        assert_eq!(fake.requests(), [(shard_of(u("u1").key_hash()), wanted)]);
    }

    #[test]
    fn a_token_in_bad_form_is_refused_by_name() {
        let fake = Fake::default();
        for (body, word) in [
            (r#"{"uid":"","token":"t"}"#, "uid \"\""),
            (r#"{"uid":"a#b","token":"t"}"#, "uid \"a#b\""),
            (r#"{"uid":"____system","token":"t"}"#, "____system"),
            (r#"{"uid":"u"}"#, "token"),
            (r#"{"uid":"u","token":"t","device_level":2}"#, "device_level 2"),
            (r#"{"uid":"u","token":"t","device_flag":-1}"#, "device_flag -1"),
        ] {
            let (status, answer) = post(&fake, "/user/token", body);
            assert_eq!(status, 400, "{body}");
            assert!(answer["msg"].as_str().unwrap().contains(word), "{answer}");
        }
        assert!(fake.requests().is_empty());
    }

    #[test]
    fn quitting_names_one_flag_or_all() {
        let fake = Fake::default();
        assert_eq!(post(&fake, "/user/device_quit", r#"{"uid":"u1","device_flag":-1}"#).0, 200);
        assert_eq!(post(&fake, "/user/device_quit", r#"{"uid":"u1","device_flag":1}"#).0, 200);
        let flags: Vec<_> = fake
            .requests()
            .into_iter()
            .map(|(_, request)| match request {
                ApiRequest::QuitDevice { flag, .. } => flag,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(flags, [None, Some(DeviceFlag(1))]);
    }

    #[test]
    fn online_status_is_asked_of_one_shard_that_gathers_it() {
        let fake = Fake {
            answer: |_, request| match request {
                ApiRequest::OnlineStatus { uids } => ApiAnswer::Online(
                    uids.iter().filter(|uid| uid.as_str() != "u3").map(|uid| (uid.clone(), DeviceFlag(1))).collect(),
                ),
                _ => ApiAnswer::Busy,
            },
            ..Fake::default()
        };
        let (status, answer) = post(&fake, "/user/onlinestatus", r#"["u1","u2","u3","u4","u5","u6"]"#);
        assert_eq!(status, 200);
        let mut online: Vec<_> = answer.as_array().unwrap().clone();
        online.sort_by_key(|entry| entry["uid"].as_str().unwrap().to_owned());
        assert_eq!(online.len(), 5);
        assert_eq!(online[0], json!({"uid": "u1", "device_flag": 1, "online": 1}));
        assert_eq!(fake.requests().len(), 1);
        assert_eq!(post(&fake, "/user/onlinestatus", "[]"), (200, json!([])));
        let many = serde_json::to_string(&vec!["u"; 1001]).unwrap();
        assert_eq!(post(&fake, "/user/onlinestatus", &many).0, 400);
    }

    #[test]
    fn a_shard_that_is_busy_or_gone_is_503() {
        let fake = Fake { answer: |_, _| ApiAnswer::Busy, ..Fake::default() };
        assert_eq!(post(&fake, "/user/device_quit", r#"{"uid":"u1"}"#).0, 503);
        let fake = Fake { gone: true, ..Fake::default() };
        let (status, answer) = post(&fake, "/user/device_quit", r#"{"uid":"u1"}"#);
        assert_eq!((status, &answer["status"]), (503, &json!(503)));
    }
}
