//! Frames as rkyv lays them out: a private mirror of [`super::frame`], borrowed when it is written and read where it
//! lies. The mirror exists so that ids and frames need not know of rkyv, and so that nothing from a peer becomes a
//! [`Frame`] unchecked: rkyv's validation says that the layout is sound, this file that the values are. Where an archive
//! lies and how it is guarded is [`super::frame_codec`]'s.
//!
//! Payloads and messages come out as slices of the buffer they arrived in; names are copied. Fields are as in the
//! frame of the same name. The order of [`WireFrame`]'s variants and of fields is the wire's: a change of it is a new
//! version in [`super::frame_codec`].

use std::sync::Arc;

use bytes::Bytes;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

use super::frame::{
    Backlog, BacklogRow, Deliver, Fetch, Fetched, Frame, Kick, KickNotice, Notified, Notify, Received, Register,
    Registered, Resume, SendBody, Submission, Submit, Submitted, Unregister,
};
use super::message::StoredMessage;
use super::packet::{HeaderFlags, Setting};
use crate::ids::{
    BadUid, ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, NodeId, Place, SessionAddress, SessionId, ShardId,
    SlotId, Uid,
};

/// A value that no honest peer sends. Says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadValue {
    /// A uid, or one in a channel's name.
    Uid(BadUid),
    /// A channel of a kind we do not know.
    ChannelKind,
    /// A device level that is neither.
    DeviceLevel,
    /// Bounds of a SEND's texts that lie outside it, or texts that are not UTF-8.
    SendBody,
    /// A message that fails its own checks.
    Message,
}

#[derive(Archive, Serialize)]
pub(super) enum WireFrame<'a> {
    Submit(WireSubmit<'a>),
    Submitted(WireSubmitted),
    Notify(WireNotify<'a>),
    Notified(WireNotified<'a>),
    Register(WireRegister<'a>),
    Registered(WireRegistered),
    Unregister(WireUnregister<'a>),
    Deliver(WireDeliver<'a>),
    Received(WireReceived<'a>),
    Resume(WireResume<'a>),
    Backlog(WireBacklog<'a>),
    Fetch(WireFetch<'a>),
    Fetched(WireFetched<'a>),
    Kick(WireKick<'a>),
}

impl<'a> From<&'a Frame> for WireFrame<'a> {
    fn from(frame: &'a Frame) -> WireFrame<'a> {
        match frame {
            Frame::Submit(frame) => WireFrame::Submit(frame.into()),
            Frame::Submitted(frame) => WireFrame::Submitted(frame.into()),
            Frame::Notify(frame) => WireFrame::Notify(frame.into()),
            Frame::Notified(frame) => WireFrame::Notified(frame.into()),
            Frame::Register(frame) => WireFrame::Register(frame.as_ref().into()),
            Frame::Registered(frame) => WireFrame::Registered(frame.into()),
            Frame::Unregister(frame) => WireFrame::Unregister(frame.into()),
            Frame::Deliver(frame) => WireFrame::Deliver(frame.into()),
            Frame::Received(frame) => WireFrame::Received(frame.into()),
            Frame::Resume(frame) => WireFrame::Resume(frame.into()),
            Frame::Backlog(frame) => WireFrame::Backlog(frame.into()),
            Frame::Fetch(frame) => WireFrame::Fetch(frame.into()),
            Frame::Fetched(frame) => WireFrame::Fetched(frame.into()),
            Frame::Kick(frame) => WireFrame::Kick(frame.into()),
            other => panic!("not on the wire yet: {other:?}"),
        }
    }
}

impl ArchivedWireFrame<'_> {
    /// The frame, its values checked. `buffer` holds the archive; what is read may be slices of it.
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Frame, BadValue> {
        Ok(match self {
            ArchivedWireFrame::Submit(wire) => Frame::Submit(wire.read(buffer)?),
            ArchivedWireFrame::Submitted(wire) => Frame::Submitted(wire.read()),
            ArchivedWireFrame::Notify(wire) => Frame::Notify(wire.read(buffer)?),
            ArchivedWireFrame::Notified(wire) => Frame::Notified(wire.read()?),
            ArchivedWireFrame::Register(wire) => Frame::Register(Box::new(wire.read()?)),
            ArchivedWireFrame::Registered(wire) => Frame::Registered(wire.read()?),
            ArchivedWireFrame::Unregister(wire) => Frame::Unregister(wire.read()?),
            ArchivedWireFrame::Deliver(wire) => Frame::Deliver(wire.read(buffer)?),
            ArchivedWireFrame::Received(wire) => Frame::Received(wire.read()?),
            ArchivedWireFrame::Resume(wire) => Frame::Resume(wire.read()?),
            ArchivedWireFrame::Backlog(wire) => Frame::Backlog(wire.read()?),
            ArchivedWireFrame::Fetch(wire) => Frame::Fetch(wire.read()?),
            ArchivedWireFrame::Fetched(wire) => Frame::Fetched(wire.read(buffer)?),
            ArchivedWireFrame::Kick(wire) => Frame::Kick(wire.read()),
        })
    }
}

// What several frames are made of.

#[derive(Archive, Serialize)]
pub(super) struct WirePlace {
    node: u16,
    shard: u16,
}

impl From<Place> for WirePlace {
    fn from(place: Place) -> WirePlace {
        WirePlace { node: place.node.0, shard: place.shard.0 }
    }
}

impl ArchivedWirePlace {
    fn read(&self) -> Place {
        Place { node: NodeId(self.node.to_native()), shard: ShardId(self.shard.to_native()) }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSession {
    index: u32,
    generation: u32,
}

impl From<SessionId> for WireSession {
    fn from(session: SessionId) -> WireSession {
        WireSession { index: session.index, generation: session.generation }
    }
}

impl ArchivedWireSession {
    fn read(&self) -> SessionId {
        SessionId { index: self.index.to_native(), generation: self.generation.to_native() }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireAddress {
    place: WirePlace,
    session: WireSession,
}

impl From<SessionAddress> for WireAddress {
    fn from(address: SessionAddress) -> WireAddress {
        WireAddress { place: address.place.into(), session: address.session.into() }
    }
}

impl ArchivedWireAddress {
    fn read(&self) -> SessionAddress {
        SessionAddress { place: self.place.read(), session: self.session.read() }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireChannel<'a> {
    kind: u8,
    #[rkyv(with = InlineAsBox)]
    id: &'a str,
}

impl<'a> From<&'a ChannelKey> for WireChannel<'a> {
    fn from(channel: &'a ChannelKey) -> WireChannel<'a> {
        WireChannel { kind: channel.kind as u8, id: &channel.id }
    }
}

impl ArchivedWireChannel<'_> {
    fn read(&self) -> Result<ChannelKey, BadValue> {
        let kind = ChannelKind::from_byte(self.kind).ok_or(BadValue::ChannelKind)?;
        let checked = match (kind, self.id.split_once('@')) {
            (ChannelKind::Command, _) => Uid::check(&self.id),
            (ChannelKind::Pair, Some((first, second))) => Uid::check(first).and(Uid::check(second)),
            (ChannelKind::Pair, None) => Err(BadUid::Empty),
        };
        checked.map_err(BadValue::Uid)?;
        Ok(ChannelKey { kind, id: Arc::from(&*self.id) })
    }
}

fn uid(text: &str) -> Result<Uid, BadValue> {
    Uid::parse(text).map_err(BadValue::Uid)
}

/// The message that fills `archived`, as a slice of the buffer.
fn message(archived: &[u8], buffer: &Bytes) -> Result<StoredMessage, BadValue> {
    let message = StoredMessage::take(&buffer.slice_ref(archived)).map_err(|_| BadValue::Message)?;
    if message.bytes().len() == archived.len() { Ok(message) } else { Err(BadValue::Message) }
}

// Messages and rows.

#[derive(Archive, Serialize)]
pub(super) struct WireSubmit<'a> {
    slot: u16,
    term: u64,
    place: WirePlace,
    ticket: u64,
    channel: WireChannel<'a>,
    #[rkyv(with = InlineAsBox)]
    from: &'a str,
    #[rkyv(with = InlineAsBox)]
    to: &'a str,
    device_tag: u64,
    fingerprint: u64,
    flags: u8,
    setting: u8,
    expire_s: u32,
    #[rkyv(with = InlineAsBox)]
    body: &'a [u8],
    client_msg_no_end: u16,
    topic_end: u16,
}

impl<'a> From<&'a Submission> for WireSubmit<'a> {
    fn from(submission: &'a Submission) -> WireSubmit<'a> {
        let frame = &*submission.submit;
        WireSubmit {
            slot: submission.slot.0,
            term: submission.term,
            place: frame.place.into(),
            ticket: frame.ticket,
            channel: (&frame.channel).into(),
            from: frame.from.as_str(),
            to: frame.to.as_str(),
            device_tag: frame.device_tag,
            fingerprint: frame.fingerprint,
            flags: frame.flags.0,
            setting: frame.setting.0,
            expire_s: frame.expire_s,
            body: &frame.body.bytes,
            client_msg_no_end: frame.body.client_msg_no_end,
            topic_end: frame.body.topic_end,
        }
    }
}

impl ArchivedWireSubmit<'_> {
    fn read(&self, buffer: &Bytes) -> Result<Submission, BadValue> {
        let submit = Submit {
            place: self.place.read(),
            ticket: self.ticket.to_native(),
            channel: self.channel.read()?,
            from: uid(&self.from)?,
            to: uid(&self.to)?,
            device_tag: self.device_tag.to_native(),
            fingerprint: self.fingerprint.to_native(),
            flags: HeaderFlags(self.flags),
            setting: Setting(self.setting),
            expire_s: self.expire_s.to_native(),
            body: self.read_body(buffer)?,
        };
        Ok(Submission { slot: SlotId(self.slot.to_native()), term: self.term.to_native(), submit: Arc::new(submit) })
    }

    fn read_body(&self, buffer: &Bytes) -> Result<SendBody, BadValue> {
        let (client_msg_no_end, topic_end) = (self.client_msg_no_end.to_native(), self.topic_end.to_native());
        let (number, topic) = (usize::from(client_msg_no_end), usize::from(topic_end));
        let bytes: &[u8] = &self.body;
        let is_text = |part: Option<&[u8]>| part.is_some_and(|raw| std::str::from_utf8(raw).is_ok());
        if !is_text(bytes.get(..number)) || !is_text(bytes.get(number..topic)) {
            return Err(BadValue::SendBody);
        }
        Ok(SendBody { bytes: buffer.slice_ref(bytes), client_msg_no_end, topic_end })
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
    fn read(&self) -> Submitted {
        Submitted {
            ticket: self.ticket.to_native(),
            term: self.term.to_native(),
            message_id: self.message_id.to_native(),
            message_seq: self.message_seq.to_native(),
            reason: self.reason,
        }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireNotify<'a> {
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
    channel: WireChannel<'a>,
    seq: u32,
    #[rkyv(with = Map<InlineAsBox>)]
    message: Option<&'a [u8]>,
}

impl<'a> From<&'a Notify> for WireNotify<'a> {
    fn from(frame: &'a Notify) -> WireNotify<'a> {
        WireNotify {
            uid: frame.uid.as_str(),
            channel: (&frame.channel).into(),
            seq: frame.seq,
            message: frame.message.as_ref().map(|message| &message.bytes()[..]),
        }
    }
}

impl ArchivedWireNotify<'_> {
    fn read(&self, buffer: &Bytes) -> Result<Notify, BadValue> {
        Ok(Notify {
            uid: uid(&self.uid)?,
            channel: self.channel.read()?,
            seq: self.seq.to_native(),
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
    fn read(&self) -> Result<Notified, BadValue> {
        Ok(Notified { uid: uid(&self.uid)?, channel: self.channel.read()?, seq: self.seq.to_native() })
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
    fn read(&self) -> Result<Register, BadValue> {
        Ok(Register {
            address: self.address.read(),
            uid: uid(&self.uid)?,
            flag: DeviceFlag(self.flag),
            device_id: Box::from(&*self.device_id),
            token: Box::from(&*self.token),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireRegistered {
    session: WireSession,
    reason: u8,
    /// 0 slave, 1 master.
    level: u8,
}

impl From<&Registered> for WireRegistered {
    fn from(frame: &Registered) -> WireRegistered {
        WireRegistered {
            session: frame.session.into(),
            reason: frame.reason,
            level: match frame.level {
                DeviceLevel::Slave => 0,
                DeviceLevel::Master => 1,
            },
        }
    }
}

impl ArchivedWireRegistered {
    fn read(&self) -> Result<Registered, BadValue> {
        Ok(Registered {
            session: self.session.read(),
            reason: self.reason,
            level: match self.level {
                0 => DeviceLevel::Slave,
                1 => DeviceLevel::Master,
                _ => return Err(BadValue::DeviceLevel),
            },
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
    fn read(&self) -> Result<Unregister, BadValue> {
        Ok(Unregister { address: self.address.read(), uid: uid(&self.uid)? })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireResume<'a> {
    address: WireAddress,
    #[rkyv(with = InlineAsBox)]
    uid: &'a str,
}

impl<'a> From<&'a Resume> for WireResume<'a> {
    fn from(frame: &'a Resume) -> WireResume<'a> {
        WireResume { address: frame.address.into(), uid: frame.uid.as_str() }
    }
}

impl ArchivedWireResume<'_> {
    fn read(&self) -> Result<Resume, BadValue> {
        Ok(Resume { address: self.address.read(), uid: uid(&self.uid)? })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireKick<'a> {
    session: WireSession,
    notice: Option<WireNotice<'a>>,
}

#[derive(Archive, Serialize)]
pub(super) struct WireNotice<'a> {
    reason: u8,
    #[rkyv(with = InlineAsBox)]
    text: &'a str,
}

impl<'a> From<&'a Kick> for WireKick<'a> {
    fn from(frame: &'a Kick) -> WireKick<'a> {
        let notice = |notice: &'a KickNotice| WireNotice { reason: notice.reason, text: &notice.text };
        WireKick { session: frame.session.into(), notice: frame.notice.as_ref().map(notice) }
    }
}

impl ArchivedWireKick<'_> {
    fn read(&self) -> Kick {
        let notice = |wire: &ArchivedWireNotice<'_>| KickNotice { reason: wire.reason, text: Box::from(&*wire.text) };
        Kick { session: self.session.read(), notice: self.notice.as_ref().map(notice) }
    }
}

// Delivery.

#[derive(Archive, Serialize)]
pub(super) struct WireDeliver<'a> {
    session: WireSession,
    channel: WireChannel<'a>,
    seq: u32,
    cursor: u32,
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
            message: frame.message.as_ref().map(|message| &message.bytes()[..]),
        }
    }
}

impl ArchivedWireDeliver<'_> {
    fn read(&self, buffer: &Bytes) -> Result<Deliver, BadValue> {
        Ok(Deliver {
            session: self.session.read(),
            channel: self.channel.read()?,
            seq: self.seq.to_native(),
            cursor: self.cursor.to_native(),
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
    fn read(&self) -> Result<Received, BadValue> {
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
    rows: Vec<WireRow<'a>>,
    more: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct WireRow<'a> {
    channel: WireChannel<'a>,
    cursor: u32,
    last_seq: u32,
}

impl<'a> From<&'a Backlog> for WireBacklog<'a> {
    fn from(frame: &'a Backlog) -> WireBacklog<'a> {
        let row = |row: &'a BacklogRow| WireRow {
            channel: (&row.channel).into(),
            cursor: row.cursor,
            last_seq: row.last_seq,
        };
        WireBacklog { session: frame.session.into(), rows: frame.rows.iter().map(row).collect(), more: frame.more }
    }
}

impl ArchivedWireBacklog<'_> {
    fn read(&self) -> Result<Backlog, BadValue> {
        let row = |wire: &ArchivedWireRow<'_>| {
            Ok(BacklogRow {
                channel: wire.channel.read()?,
                cursor: wire.cursor.to_native(),
                last_seq: wire.last_seq.to_native(),
            })
        };
        Ok(Backlog {
            session: self.session.read(),
            rows: self.rows.iter().map(row).collect::<Result<_, _>>()?,
            more: self.more,
        })
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
    fn read(&self) -> Result<Fetch, BadValue> {
        Ok(Fetch {
            address: self.address.read(),
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
    messages: Vec<WireMessage<'a>>,
    next_seq: u32,
    last_seq: u32,
}

#[derive(Archive, Serialize)]
pub(super) struct WireMessage<'a> {
    seq: u32,
    #[rkyv(with = InlineAsBox)]
    bytes: &'a [u8],
}

impl<'a> From<&'a Fetched> for WireFetched<'a> {
    fn from(frame: &'a Fetched) -> WireFetched<'a> {
        let message = |(seq, message): &'a (u32, StoredMessage)| WireMessage { seq: *seq, bytes: message.bytes() };
        WireFetched {
            session: frame.session.into(),
            channel: (&frame.channel).into(),
            messages: frame.messages.iter().map(message).collect(),
            next_seq: frame.next_seq,
            last_seq: frame.last_seq,
        }
    }
}

impl ArchivedWireFetched<'_> {
    fn read(&self, buffer: &Bytes) -> Result<Fetched, BadValue> {
        let pair = |wire: &ArchivedWireMessage<'_>| Ok((wire.seq.to_native(), message(&wire.bytes, buffer)?));
        Ok(Fetched {
            session: self.session.read(),
            channel: self.channel.read()?,
            messages: self.messages.iter().map(pair).collect::<Result<_, _>>()?,
            next_seq: self.next_seq.to_native(),
            last_seq: self.last_seq.to_native(),
        })
    }
}
