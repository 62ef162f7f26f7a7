//! The frames by which an HTTP request reaches its key's leader, and its answer comes back.

use std::borrow::Cow;

use bytes::Bytes;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::operators::{StatusApart, WireClusterRequest, WireUserRoute};
use super::{
    BadValue, Each, WireMessage, WirePlace, WireSendBody, clip, device_level, device_level_byte, each, reason, slot,
    text, uid,
};
use crate::format::cluster_status::{ClusterStatus, UserRoute};
use crate::format::frame::{Answered, Ask};
use crate::format::message::StoredMessage;
use crate::format::packet::{HeaderFlags, Setting};
use crate::format::request::{ApiAnswer, ApiRequest};
use crate::ids::{DeviceFlag, Uid};
use crate::limits::{FRAME_TEXT_BYTES_MAX, TOKEN_BYTES_MAX};

#[derive(Archive, Serialize)]
pub(super) struct WireAsk<'a> {
    ticket: u64,
    place: WirePlace,
    request: WireRequest<'a>,
    term: u64,
    slot: u16,
}

#[derive(Archive, Serialize)]
pub(super) enum WireRequest<'a> {
    SetToken {
        #[rkyv(with = InlineAsBox)]
        uid: &'a str,
        #[rkyv(with = InlineAsBox)]
        token: &'a str,
        flag: u8,
        level: u8,
    },
    QuitDevice {
        #[rkyv(with = InlineAsBox)]
        uid: &'a str,
        flag: Option<u8>,
    },
    OnlineStatus {
        uids: Each<'a, Uid, WireUid<'a>>,
    },
    Send {
        #[rkyv(with = InlineAsBox)]
        from: &'a str,
        #[rkyv(with = InlineAsBox)]
        to: &'a str,
        body: WireSendBody<'a>,
        expire_s: u32,
        flags: u8,
        setting: u8,
    },
    MessageSync {
        #[rkyv(with = InlineAsBox)]
        login: &'a str,
        #[rkyv(with = InlineAsBox)]
        peer: &'a str,
        start_seq: u32,
        end_seq: u32,
        limit: u32,
        newer: bool,
    },
    Route {
        uids: Each<'a, Uid, WireUid<'a>>,
    },
    Cluster(WireClusterRequest<'a>),
}

#[derive(Archive, Serialize)]
pub(super) struct WireUid<'a>(#[rkyv(with = InlineAsBox)] &'a str);

impl<'a> From<&'a Uid> for WireUid<'a> {
    fn from(uid: &'a Uid) -> WireUid<'a> {
        WireUid(uid.as_str())
    }
}

impl<'a> From<&'a ApiRequest> for WireRequest<'a> {
    fn from(request: &'a ApiRequest) -> WireRequest<'a> {
        match request {
            ApiRequest::SetToken { uid, flag, level, token } => {
                WireRequest::SetToken { uid: uid.as_str(), token, flag: flag.0, level: device_level_byte(*level) }
            }
            ApiRequest::QuitDevice { uid, flag } => {
                WireRequest::QuitDevice { uid: uid.as_str(), flag: flag.map(|flag| flag.0) }
            }
            ApiRequest::OnlineStatus { uids } => WireRequest::OnlineStatus { uids: Each::new(uids) },
            ApiRequest::Send { from, to, flags, setting, expire_s, body } => WireRequest::Send {
                from: from.as_str(),
                to: to.as_str(),
                body: body.into(),
                expire_s: *expire_s,
                flags: flags.0,
                setting: setting.0,
            },
            ApiRequest::MessageSync { login, peer, start_seq, end_seq, limit, newer } => WireRequest::MessageSync {
                login: login.as_str(),
                peer: peer.as_str(),
                start_seq: *start_seq,
                end_seq: *end_seq,
                limit: *limit,
                newer: *newer,
            },
            ApiRequest::Route { uids } => WireRequest::Route { uids: Each::new(uids) },
            ApiRequest::Cluster(request) => WireRequest::Cluster(request.into()),
        }
    }
}

impl<'a> From<&'a Ask> for WireAsk<'a> {
    fn from(frame: &'a Ask) -> WireAsk<'a> {
        WireAsk {
            ticket: frame.ticket,
            place: (&frame.place).into(),
            request: (&frame.request).into(),
            slot: frame.slot.0,
            term: frame.term,
        }
    }
}

impl ArchivedWireAsk<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Ask, BadValue> {
        Ok(Ask {
            place: self.place.read()?,
            ticket: self.ticket.to_native(),
            slot: slot(self.slot.to_native())?,
            term: self.term.to_native(),
            request: self.request.read(buffer)?,
        })
    }
}

impl ArchivedWireRequest<'_> {
    fn read(&self, buffer: &Bytes) -> Result<ApiRequest, BadValue> {
        Ok(match self {
            ArchivedWireRequest::SetToken { uid: who, token, flag, level } => {
                if token.is_empty() {
                    return Err(BadValue::Text);
                }
                let token = text(token, TOKEN_BYTES_MAX)?;
                let (flag, level) = (DeviceFlag(*flag), device_level(*level)?);
                ApiRequest::SetToken { uid: uid(who)?, flag, level, token }
            }
            ArchivedWireRequest::QuitDevice { uid: who, flag } => {
                ApiRequest::QuitDevice { uid: uid(who)?, flag: flag.as_ref().map(|flag| DeviceFlag(*flag)) }
            }
            ArchivedWireRequest::OnlineStatus { uids } => {
                ApiRequest::OnlineStatus { uids: each(uids, |wire| uid(&wire.0))? }
            }
            ArchivedWireRequest::Send { from, to, body, expire_s, flags, setting } => ApiRequest::Send {
                from: uid(from)?,
                to: uid(to)?,
                flags: HeaderFlags(*flags),
                setting: Setting(*setting),
                expire_s: expire_s.to_native(),
                body: body.read(buffer)?,
            },
            ArchivedWireRequest::MessageSync { login, peer, start_seq, end_seq, limit, newer } => {
                ApiRequest::MessageSync {
                    login: uid(login)?,
                    peer: uid(peer)?,
                    start_seq: start_seq.to_native(),
                    end_seq: end_seq.to_native(),
                    limit: limit.to_native(),
                    newer: *newer,
                }
            }
            ArchivedWireRequest::Route { uids } => ApiRequest::Route { uids: each(uids, |wire| uid(&wire.0))? },
            ArchivedWireRequest::Cluster(request) => ApiRequest::Cluster(request.read()?),
        })
    }
}

// Answers.

#[derive(Archive, Serialize)]
pub(super) struct WireAnswered<'a> {
    ticket: u64,
    answer: Option<WireAnswer<'a>>,
}

#[derive(Archive, Serialize)]
pub(super) enum WireAnswer<'a> {
    Done,
    Online(Each<'a, (Uid, DeviceFlag), WireOnline<'a>>),
    Sent {
        message_id: i64,
        message_seq: u32,
    },
    Messages {
        messages: Each<'a, (u32, StoredMessage), WireMessage<'a>>,
        more: bool,
    },
    Routes(Each<'a, UserRoute, WireUserRoute<'a>>),
    Cluster(#[rkyv(with = StatusApart<'a>)] &'a ClusterStatus),
    Refused {
        #[rkyv(with = InlineAsBox)]
        text: &'a str,
        reason: u8,
    },
    Busy,
}

#[derive(Archive, Serialize)]
pub(super) struct WireOnline<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    flag: u8,
}

impl<'a> From<&'a (Uid, DeviceFlag)> for WireOnline<'a> {
    fn from((uid, flag): &'a (Uid, DeviceFlag)) -> WireOnline<'a> {
        WireOnline { uid: uid.as_str(), flag: flag.0 }
    }
}

impl<'a> From<&'a ApiAnswer> for WireAnswer<'a> {
    fn from(answer: &'a ApiAnswer) -> WireAnswer<'a> {
        match answer {
            ApiAnswer::Done => WireAnswer::Done,
            ApiAnswer::Online(online) => WireAnswer::Online(Each::new(online)),
            ApiAnswer::Sent { message_id, message_seq } => {
                WireAnswer::Sent { message_id: *message_id, message_seq: *message_seq }
            }
            ApiAnswer::Messages { messages, more } => {
                WireAnswer::Messages { messages: Each::new(messages), more: *more }
            }
            ApiAnswer::Routes(routes) => WireAnswer::Routes(Each::new(routes)),
            ApiAnswer::Cluster(status) => WireAnswer::Cluster(status),
            ApiAnswer::Refused { reason, text } => {
                WireAnswer::Refused { text: clip(text, FRAME_TEXT_BYTES_MAX), reason: *reason }
            }
            ApiAnswer::Busy => WireAnswer::Busy,
        }
    }
}

impl<'a> From<&'a Answered> for WireAnswered<'a> {
    fn from(frame: &'a Answered) -> WireAnswered<'a> {
        WireAnswered { ticket: frame.ticket, answer: frame.answer.as_ref().map(WireAnswer::from) }
    }
}

impl ArchivedWireAnswered<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Answered, BadValue> {
        let answer = self.answer.as_ref().map(|wire| wire.read(buffer)).transpose()?;
        Ok(Answered { ticket: self.ticket.to_native(), answer })
    }
}

impl ArchivedWireAnswer<'_> {
    fn read(&self, buffer: &Bytes) -> Result<ApiAnswer, BadValue> {
        Ok(match self {
            ArchivedWireAnswer::Done => ApiAnswer::Done,
            ArchivedWireAnswer::Online(online) => {
                ApiAnswer::Online(each(online, |wire| Ok((uid(&wire.uid)?, DeviceFlag(wire.flag))))?)
            }
            ArchivedWireAnswer::Sent { message_id, message_seq } => {
                ApiAnswer::Sent { message_id: message_id.to_native(), message_seq: message_seq.to_native() }
            }
            ArchivedWireAnswer::Messages { messages, more } => {
                ApiAnswer::Messages { messages: each(messages, |wire| wire.read(buffer))?, more: *more }
            }
            ArchivedWireAnswer::Routes(routes) => ApiAnswer::Routes(each(routes, |wire| wire.read())?),
            ArchivedWireAnswer::Cluster(status) => ApiAnswer::Cluster(Box::new(status.read()?)),
            ArchivedWireAnswer::Refused { text: words, reason: byte } => ApiAnswer::Refused {
                reason: reason(*byte)?,
                text: Cow::Owned(text(words, FRAME_TEXT_BYTES_MAX)?.into_string()),
            },
            ArchivedWireAnswer::Busy => ApiAnswer::Busy,
        })
    }
}
