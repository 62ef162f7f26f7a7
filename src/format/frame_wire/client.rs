//! The frames that carry clients' affairs: messages on their way to their channel, to their homes and to sessions, and
//! sessions' registrations. The API's requests are in [`super::api`].

use std::sync::Arc;

use bytes::Bytes;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

use super::{
    BadValue, Each, WireAddress, WireChannel, WireMessage, WirePlace, WireSendBody, WireSession, clip, device_level,
    device_level_byte, each, message, reason, slot, text, uid,
};
use crate::format::frame::{
    Backlog, BacklogRow, Deliver, Fetch, Fetched, Kick, KickNotice, Notified, Notify, Present, PresentSession, Pusher,
    Received, Register, Registered, Resume, Submission, Submit, Submitted, Unregister, Whereabouts,
};
use crate::format::message::StoredMessage;
use crate::format::packet::{HeaderFlags, Setting};
use crate::ids::{DeviceFlag, SessionAddress, SlotId};
use crate::limits::{DEVICE_ID_BYTES_MAX, FRAME_TEXT_BYTES_MAX, TOKEN_BYTES_MAX};

// Messages and rows.

#[derive(Archive, Serialize)]
pub(super) struct WireSubmit<'a> {
    term: u64,
    ticket: u64,
    device_tag: u64,
    fingerprint: u64,
    place: WirePlace,
    expire_s: u32,
    #[rkyv(with = InlineAsBox)]
    from: &'a str,
    #[rkyv(with = InlineAsBox)]
    to: &'a str,
    channel: WireChannel<'a>,
    body: WireSendBody<'a>,
    slot: u16,
    flags: u8,
    setting: u8,
}

impl<'a> From<&'a Submission> for WireSubmit<'a> {
    fn from(submission: &'a Submission) -> WireSubmit<'a> {
        let frame = &*submission.submit;
        WireSubmit {
            term: submission.term,
            ticket: frame.ticket,
            device_tag: frame.device_tag,
            fingerprint: frame.fingerprint,
            place: (&frame.place).into(),
            expire_s: frame.expire_s,
            from: frame.from.as_str(),
            to: frame.to.as_str(),
            channel: (&frame.channel).into(),
            body: (&frame.body).into(),
            slot: submission.slot.0,
            flags: frame.flags.0,
            setting: frame.setting.0,
        }
    }
}

impl ArchivedWireSubmit<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Submission, BadValue> {
        let submit = Submit {
            place: self.place.read()?,
            ticket: self.ticket.to_native(),
            channel: self.channel.read()?,
            from: uid(&self.from)?,
            to: uid(&self.to)?,
            device_tag: self.device_tag.to_native(),
            fingerprint: self.fingerprint.to_native(),
            flags: HeaderFlags(self.flags),
            setting: Setting(self.setting),
            expire_s: self.expire_s.to_native(),
            body: self.body.read(buffer)?,
        };
        Ok(Submission { slot: slot(self.slot.to_native())?, term: self.term.to_native(), submit: Arc::new(submit) })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSubmitted {
    ticket: u64,
    term: u64,
    message_id: i64,
    message_seq: u32,
    reason: u8,
}

impl From<&Submitted> for WireSubmitted {
    fn from(frame: &Submitted) -> WireSubmitted {
        WireSubmitted {
            ticket: frame.ticket,
            term: frame.term,
            message_id: frame.message_id,
            message_seq: frame.message_seq,
            reason: frame.reason,
        }
    }
}

impl ArchivedWireSubmitted {
    pub(super) fn read(&self) -> Result<Submitted, BadValue> {
        Ok(Submitted {
            ticket: self.ticket.to_native(),
            term: self.term.to_native(),
            message_id: self.message_id.to_native(),
            message_seq: self.message_seq.to_native(),
            reason: if self.reason == Submitted::MOVED { Submitted::MOVED } else { reason(self.reason)? },
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireNotify<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    channel: WireChannel<'a>,
    seq: u32,
    pusher: u32,
    #[rkyv(with = Map<InlineAsBox>)]
    message: Option<&'a [u8]>,
}

impl<'a> From<&'a Notify> for WireNotify<'a> {
    fn from(frame: &'a Notify) -> WireNotify<'a> {
        WireNotify {
            uid: frame.uid.as_str(),
            channel: (&frame.channel).into(),
            seq: frame.seq,
            pusher: frame.pusher.number(),
            message: frame.message.as_ref().map(|message| &message.bytes()[..]),
        }
    }
}

impl ArchivedWireNotify<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Notify, BadValue> {
        Ok(Notify {
            uid: uid(&self.uid)?,
            channel: self.channel.read()?,
            seq: self.seq.to_native(),
            pusher: Pusher::of_number(self.pusher.to_native()),
            message: self.message.as_ref().map(|raw| message(raw, buffer)).transpose()?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireNotified<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    channel: WireChannel<'a>,
    seq: u32,
}

impl<'a> From<&'a Notified> for WireNotified<'a> {
    fn from(frame: &'a Notified) -> WireNotified<'a> {
        WireNotified { uid: frame.uid.as_str(), channel: (&frame.channel).into(), seq: frame.seq }
    }
}

impl ArchivedWireNotified<'_> {
    pub(super) fn read(&self) -> Result<Notified, BadValue> {
        Ok(Notified { uid: uid(&self.uid)?, channel: self.channel.read()?, seq: self.seq.to_native() })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireWhereabouts<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    channel: WireChannel<'a>,
    mark: u32,
    away: Each<'a, SessionAddress, WireAddress>,
    others: bool,
}

impl<'a> From<&'a Whereabouts> for WireWhereabouts<'a> {
    fn from(frame: &'a Whereabouts) -> WireWhereabouts<'a> {
        WireWhereabouts {
            uid: frame.uid.as_str(),
            channel: (&frame.channel).into(),
            mark: frame.mark,
            away: Each::new(&frame.away),
            others: frame.others,
        }
    }
}

impl ArchivedWireWhereabouts<'_> {
    pub(super) fn read(&self) -> Result<Whereabouts, BadValue> {
        Ok(Whereabouts {
            uid: uid(&self.uid)?,
            channel: self.channel.read()?,
            mark: self.mark.to_native(),
            away: each(&self.away, |address| address.read())?,
            others: self.others,
        })
    }
}

// Sessions and their homes.

#[derive(Archive, Serialize)]
pub(super) struct WireRegister<'a> {
    address: WireAddress,
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    flag: u8,
    #[rkyv(with = InlineAsBox)]
    device_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    token: &'a str,
}

impl<'a> From<&'a Register> for WireRegister<'a> {
    fn from(frame: &'a Register) -> WireRegister<'a> {
        WireRegister {
            address: frame.address.into(),
            uid: frame.uid.as_str(),
            flag: frame.flag.0,
            device_id: &frame.device_id,
            token: &frame.token,
        }
    }
}

impl ArchivedWireRegister<'_> {
    pub(super) fn read(&self) -> Result<Register, BadValue> {
        Ok(Register {
            address: self.address.read()?,
            uid: uid(&self.uid)?,
            flag: DeviceFlag(self.flag),
            device_id: text(&self.device_id, DEVICE_ID_BYTES_MAX)?,
            token: text(&self.token, TOKEN_BYTES_MAX)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireRegistered {
    order: u64,
    session: WireSession,
    reason: u8,
    /// 0 slave, 1 master.
    level: u8,
}

impl From<&Registered> for WireRegistered {
    fn from(frame: &Registered) -> WireRegistered {
        WireRegistered {
            order: frame.order,
            session: frame.session.into(),
            reason: frame.reason,
            level: device_level_byte(frame.level),
        }
    }
}

impl ArchivedWireRegistered {
    pub(super) fn read(&self) -> Result<Registered, BadValue> {
        Ok(Registered {
            session: self.session.read(),
            reason: reason(self.reason)?,
            level: device_level(self.level)?,
            order: self.order.to_native(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireUnregister<'a> {
    address: WireAddress,
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
}

impl<'a> From<&'a Unregister> for WireUnregister<'a> {
    fn from(frame: &'a Unregister) -> WireUnregister<'a> {
        WireUnregister { address: frame.address.into(), uid: frame.uid.as_str() }
    }
}

impl ArchivedWireUnregister<'_> {
    pub(super) fn read(&self) -> Result<Unregister, BadValue> {
        Ok(Unregister { address: self.address.read()?, uid: uid(&self.uid)? })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireResume<'a> {
    address: WireAddress,
    question: u32,
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
}

impl<'a> From<&'a Resume> for WireResume<'a> {
    fn from(frame: &'a Resume) -> WireResume<'a> {
        WireResume { address: frame.address.into(), question: frame.question, uid: frame.uid.as_str() }
    }
}

impl ArchivedWireResume<'_> {
    pub(super) fn read(&self) -> Result<Resume, BadValue> {
        Ok(Resume { address: self.address.read()?, uid: uid(&self.uid)?, question: self.question.to_native() })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireKick<'a> {
    session: WireSession,
    notice: Option<WireNotice<'a>>,
}

#[derive(Archive, Serialize)]
pub(super) struct WireNotice<'a> {
    #[rkyv(with = InlineAsBox)]
    text: &'a str,
    reason: u8,
}

impl<'a> From<&'a Kick> for WireKick<'a> {
    fn from(frame: &'a Kick) -> WireKick<'a> {
        let notice = |notice: &'a KickNotice| WireNotice {
            text: clip(&notice.text, FRAME_TEXT_BYTES_MAX),
            reason: notice.reason,
        };
        WireKick { session: frame.session.into(), notice: frame.notice.as_ref().map(notice) }
    }
}

impl ArchivedWireKick<'_> {
    pub(super) fn read(&self) -> Result<Kick, BadValue> {
        let notice = |wire: &ArchivedWireNotice<'_>| {
            Ok(KickNotice { reason: reason(wire.reason)?, text: text(&wire.text, FRAME_TEXT_BYTES_MAX)? })
        };
        Ok(Kick { session: self.session.read(), notice: self.notice.as_ref().map(notice).transpose()? })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WirePresent<'a> {
    place: WirePlace,
    slots: Each<'a, (SlotId, u64), WireSlotTerm>,
    sessions: Each<'a, PresentSession, WirePresentSession<'a>>,
    first: bool,
    last: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct WireSlotTerm {
    term: u64,
    slot: u16,
}

#[derive(Archive, Serialize)]
pub(super) struct WirePresentSession<'a> {
    order: u64,
    session: WireSession,
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    #[rkyv(with = InlineAsBox)]
    device_id: &'a str,
    flag: u8,
    level: u8,
}

impl From<&(SlotId, u64)> for WireSlotTerm {
    fn from((slot, term): &(SlotId, u64)) -> WireSlotTerm {
        WireSlotTerm { term: *term, slot: slot.0 }
    }
}

impl<'a> From<&'a PresentSession> for WirePresentSession<'a> {
    fn from(session: &'a PresentSession) -> WirePresentSession<'a> {
        WirePresentSession {
            order: session.order,
            session: session.session.into(),
            uid: session.uid.as_str(),
            device_id: &session.device_id,
            flag: session.flag.0,
            level: device_level_byte(session.level),
        }
    }
}

impl<'a> From<&'a Present> for WirePresent<'a> {
    fn from(frame: &'a Present) -> WirePresent<'a> {
        WirePresent {
            place: (&frame.place).into(),
            slots: Each::new(&frame.slots),
            sessions: Each::new(&frame.sessions),
            first: frame.first,
            last: frame.last,
        }
    }
}

impl ArchivedWirePresent<'_> {
    pub(super) fn read(&self) -> Result<Present, BadValue> {
        let session = |wire: &ArchivedWirePresentSession<'_>| {
            Ok(PresentSession {
                session: wire.session.read(),
                uid: uid(&wire.uid)?,
                flag: DeviceFlag(wire.flag),
                level: device_level(wire.level)?,
                device_id: text(&wire.device_id, DEVICE_ID_BYTES_MAX)?,
                order: wire.order.to_native(),
            })
        };
        Ok(Present {
            place: self.place.read()?,
            slots: each(&self.slots, |wire| Ok((slot(wire.slot.to_native())?, wire.term.to_native())))?,
            sessions: each(&self.sessions, session)?,
            first: self.first,
            last: self.last,
        })
    }
}

// Delivery.

#[derive(Archive, Serialize)]
pub(super) struct WireDeliver<'a> {
    session: WireSession,
    channel: WireChannel<'a>,
    seq: u32,
    cursor: Option<u32>,
    slot: u16,
    term: u64,
    #[rkyv(with = Map<InlineAsBox>)]
    message: Option<&'a [u8]>,
}

impl<'a> From<&'a Deliver> for WireDeliver<'a> {
    fn from(frame: &'a Deliver) -> WireDeliver<'a> {
        WireDeliver {
            session: frame.session.into(),
            channel: (&frame.channel).into(),
            seq: frame.seq,
            cursor: frame.cursor,
            slot: frame.slot.0,
            term: frame.term,
            message: frame.message.as_ref().map(|message| &message.bytes()[..]),
        }
    }
}

impl ArchivedWireDeliver<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Deliver, BadValue> {
        Ok(Deliver {
            session: self.session.read(),
            channel: self.channel.read()?,
            seq: self.seq.to_native(),
            cursor: self.cursor.as_ref().map(|cursor| cursor.to_native()),
            slot: slot(self.slot.to_native())?,
            term: self.term.to_native(),
            message: self.message.as_ref().map(|raw| message(raw, buffer)).transpose()?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireReceived<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    flag: u8,
    channel: WireChannel<'a>,
    seq: u32,
}

impl<'a> From<&'a Received> for WireReceived<'a> {
    fn from(frame: &'a Received) -> WireReceived<'a> {
        WireReceived { uid: frame.uid.as_str(), flag: frame.flag.0, channel: (&frame.channel).into(), seq: frame.seq }
    }
}

impl ArchivedWireReceived<'_> {
    pub(super) fn read(&self) -> Result<Received, BadValue> {
        Ok(Received {
            uid: uid(&self.uid)?,
            flag: DeviceFlag(self.flag),
            channel: self.channel.read()?,
            seq: self.seq.to_native(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireBacklog<'a> {
    session: WireSession,
    rows: Each<'a, BacklogRow, WireRow<'a>>,
    question: u32,
    slot: u16,
    more: bool,
    term: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct WireRow<'a> {
    channel: WireChannel<'a>,
    cursor: u32,
    last_seq: u32,
}

impl<'a> From<&'a BacklogRow> for WireRow<'a> {
    fn from(row: &'a BacklogRow) -> WireRow<'a> {
        WireRow { channel: (&row.channel).into(), cursor: row.cursor, last_seq: row.last_seq }
    }
}

impl<'a> From<&'a Backlog> for WireBacklog<'a> {
    fn from(frame: &'a Backlog) -> WireBacklog<'a> {
        WireBacklog {
            session: frame.session.into(),
            rows: Each::new(&frame.rows),
            question: frame.question,
            more: frame.more,
            slot: frame.slot.0,
            term: frame.term,
        }
    }
}

impl ArchivedWireBacklog<'_> {
    pub(super) fn read(&self) -> Result<Backlog, BadValue> {
        let row = |wire: &ArchivedWireRow<'_>| {
            Ok(BacklogRow {
                channel: wire.channel.read()?,
                cursor: wire.cursor.to_native(),
                last_seq: wire.last_seq.to_native(),
            })
        };
        let rows = each(&self.rows, row)?;
        let (question, term) = (self.question.to_native(), self.term.to_native());
        let slot = slot(self.slot.to_native())?;
        Ok(Backlog { session: self.session.read(), rows, more: self.more, question, term, slot })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireFetch<'a> {
    address: WireAddress,
    channel: WireChannel<'a>,
    from_seq: u32,
    messages_max: u32,
}

impl<'a> From<&'a Fetch> for WireFetch<'a> {
    fn from(frame: &'a Fetch) -> WireFetch<'a> {
        WireFetch {
            address: frame.address.into(),
            channel: (&frame.channel).into(),
            from_seq: frame.from_seq,
            messages_max: frame.messages_max,
        }
    }
}

impl ArchivedWireFetch<'_> {
    pub(super) fn read(&self) -> Result<Fetch, BadValue> {
        Ok(Fetch {
            address: self.address.read()?,
            channel: self.channel.read()?,
            from_seq: self.from_seq.to_native(),
            messages_max: self.messages_max.to_native(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireFetched<'a> {
    session: WireSession,
    channel: WireChannel<'a>,
    messages: Each<'a, (u32, StoredMessage), WireMessage<'a>>,
    next_seq: u32,
    last_seq: u32,
}

impl<'a> From<&'a Fetched> for WireFetched<'a> {
    fn from(frame: &'a Fetched) -> WireFetched<'a> {
        WireFetched {
            session: frame.session.into(),
            channel: (&frame.channel).into(),
            messages: Each::new(&frame.messages),
            next_seq: frame.next_seq,
            last_seq: frame.last_seq,
        }
    }
}

impl ArchivedWireFetched<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Fetched, BadValue> {
        Ok(Fetched {
            session: self.session.read(),
            channel: self.channel.read()?,
            messages: each(&self.messages, |wire| wire.read(buffer))?,
            next_seq: self.next_seq.to_native(),
            last_seq: self.last_seq.to_native(),
        })
    }
}
