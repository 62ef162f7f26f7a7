//! JSON as it goes in and out. Callers are written in Go: they send every field, many of them empty or `null`, and read
//! numbers strictly, so absent and `null` mean the same on the way in, and on the way out `message_id` is an integer. Unknown
//! fields are ignored.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::format::message::StoredMessage;
use crate::format::packet::HeaderFlags;
use crate::ids::Uid;

/// The sender of messages whose caller named none. Shown to callers as "".
pub const SYSTEM_UID: &str = "____system";

/// Channel type of a person channel on the wire.
pub const PERSON: u8 = 1;

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    msg: String,
}

impl ApiError {
    pub fn new(status: StatusCode, msg: impl Into<String>) -> ApiError {
        ApiError { status, msg: msg.into() }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The caller's fault.
    pub fn bad(msg: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, msg)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    msg: &'a str,
    status: u16,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { msg: &self.msg, status: self.status.as_u16() };
        (self.status, Reply(body)).into_response()
    }
}

/// A JSON body going out.
pub struct Reply<T>(pub T);

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// `{"status":200}`.
#[derive(Serialize)]
pub struct Done {
    status: u16,
}

pub const DONE: Reply<Done> = Reply(Done { status: 200 });

/// `{"status":200,"data":…}`.
#[derive(Serialize)]
pub struct DoneWith<T> {
    pub status: u16,
    pub data: T,
}

/// A JSON body coming in, whatever its content type says.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Asked<T>, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            let msg = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than 1 MiB".to_owned(),
                _ => format!("the body could not be read: {}", rejection.body_text()),
            };
            ApiError::new(rejection.status(), msg)
        })?;
        serde_json::from_slice(&body)
            .map(Asked)
            .map_err(|error| ApiError::bad(format!("the body is not the JSON this path expects: {error}")))
    }
}

/// `null` and absent are the default.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Takes a uid out of a field.
pub fn uid(field: &str, text: &str) -> Result<Uid, ApiError> {
    Uid::parse(text).map_err(|why| ApiError::bad(format!("{field} {text:?} is not allowed: {why}")))
}

/// Takes a device flag out of a field.
pub fn device_flag(field: &str, number: i64) -> Result<crate::ids::DeviceFlag, ApiError> {
    u8::try_from(number)
        .map(crate::ids::DeviceFlag)
        .map_err(|_| ApiError::bad(format!("{field} {number} is not allowed; allowed: 0 to 255")))
}

/// Refuses everything that is not a person channel.
pub fn person_channel(channel_type: u8) -> Result<(), ApiError> {
    match channel_type {
        PERSON => Ok(()),
        2 => Err(ApiError::bad("channel_type 2 (group) is not served by this version; person channels (1) are")),
        other => Err(ApiError::bad(format!("channel_type {other} is not served; person channels (1) are"))),
    }
}

/// Header bits as callers write them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "or_default")]
    pub no_persist: i64,
    #[serde(deserialize_with = "or_default")]
    pub red_dot: i64,
    #[serde(deserialize_with = "or_default")]
    pub sync_once: i64,
}

impl Header {
    /// As a packet carries them.
    pub fn flags(self) -> HeaderFlags {
        let bits = [
            (self.no_persist, HeaderFlags::NO_PERSIST),
            (self.red_dot, HeaderFlags::RED_DOT),
            (self.sync_once, HeaderFlags::SYNC_ONCE),
        ];
        bits.into_iter().filter(|(set, _)| *set != 0).fold(HeaderFlags::default(), |all, (_, bit)| all.with(bit))
    }

    fn from_flags(flags: HeaderFlags) -> Header {
        Header {
            no_persist: i64::from(flags.contains(HeaderFlags::NO_PERSIST)),
            red_dot: i64::from(flags.contains(HeaderFlags::RED_DOT)),
            sync_once: i64::from(flags.contains(HeaderFlags::SYNC_ONCE)),
        }
    }
}

/// A message as callers read it.
#[derive(Debug, Serialize)]
pub struct MessageObject {
    header: Header,
    setting: u8,
    message_id: i64,
    message_idstr: String,
    client_msg_no: String,
    message_seq: u32,
    from_uid: String,
    channel_id: String,
    channel_type: u8,
    #[serde(skip_serializing_if = "String::is_empty")]
    topic: String,
    expire: u32,
    timestamp: i32,
    payload: String,
}

impl MessageObject {
    /// Of a person channel: the channel is named by the participant who is not the sender, whoever asks.
    pub fn of_person(seq: u32, message: &StoredMessage) -> MessageObject {
        let from = message.from();
        MessageObject {
            header: Header::from_flags(message.flags()),
            setting: message.setting().0,
            message_id: message.message_id(),
            message_idstr: message.message_id().to_string(),
            client_msg_no: message.client_msg_no().to_owned(),
            message_seq: seq,
            from_uid: if from == SYSTEM_UID { String::new() } else { from.to_owned() },
            channel_id: message.to().to_owned(),
            channel_type: PERSON,
            topic: message.topic().to_owned(),
            expire: message.expire_s(),
            timestamp: i32::try_from(message.unix_ms() / 1000).unwrap_or(i32::MAX),
            payload: STANDARD.encode(message.payload()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_absent_and_unknown_are_all_fine() {
        for text in [r#"{}"#, r#"{"red_dot":null,"new":[1]}"#] {
            assert_eq!(serde_json::from_str::<Header>(text).unwrap(), Header::default());
        }
        let header: Header = serde_json::from_str(r#"{"no_persist":1,"red_dot":1,"sync_once":1}"#).unwrap();
        assert_eq!(header.flags(), HeaderFlags(7));
        assert_eq!(Header::from_flags(HeaderFlags(7)), header);
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(
            uid("from_uid", "a@b").unwrap_err().msg,
            "from_uid \"a@b\" is not allowed: uid contains '@', '#', '&' or a control character"
        );
        assert!(person_channel(2).unwrap_err().msg.contains("group"));
        assert!(device_flag("device_flag", 256).is_err());
    }
}
