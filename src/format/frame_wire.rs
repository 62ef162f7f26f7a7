//! Frames as rkyv lays them out: a private mirror of [`super::frame`], borrowed when it is written and read where it
//! lies. The mirror exists so that ids and frames need not know of rkyv, and so that nothing from a peer becomes a
//! [`Frame`] unchecked: rkyv's validation says that the layout is sound, this module that the values are. Where an archive
//! lies and how it is guarded is [`super::frame_codec`]'s.
//!
//! Payloads, messages and raft's entries come out as slices of the buffer they arrived in; names are copied. Fields are those
//! of the frame of the same name, the widest first, so that little is lost between them. The order of `WireFrame`'s
//! variants and of fields is the wire's: a change of it is a new version in [`super::frame_codec`].
//!
//! What can be checked without knowing the cluster is checked here: names, kinds, reasons, bounds of texts, numbers
//! that are never 0. Lists are bounded by the batch that they came in: validation refuses overlapping ones. Who may say
//! what, and whether it is true, is for the frame's receiver.

mod api;
mod client;
mod cluster;
mod operators;
mod raft;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, InlineAsBox, SerializeWith};
use rkyv::{Archive, Serialize};

use self::api::{WireAnswered, WireAsk};
use self::client::{
    WireBacklog, WireDeliver, WireFetch, WireFetched, WireKick, WireNotified, WireNotify, WirePresent, WireReceived,
    WireRegister, WireRegistered, WireResume, WireSubmit, WireSubmitted, WireUnregister, WireWhereabouts,
};
use self::cluster::{
    WireAlive, WireJoin, WireJoined, WireLeaders, WirePropose, WireProposed, WireRumour, WireSlotReports, WireWhoLeads,
};
use self::raft::{
    WireRaft, WireRepair, WireRepaired, WireSnapshotOffer, WireSnapshotPart, WireSnapshotTaken, WireSnapshotWant,
};
use super::frame::{
    Alive, Answered, Ask, Backlog, Deliver, Fetch, Fetched, Frame, Join, Joined, Kick, Leaders, Notified, Notify,
    Present, Propose, Proposed, Received, Register, Registered, Repair, Repaired, Resume, Rumour, SendBody,
    SlotReports, SnapshotOffer, SnapshotPart, SnapshotTaken, SnapshotWant, Submission, Submitted, Unregister,
    Whereabouts, WhoLeads,
};
use super::message::StoredMessage;
use super::packet::Reason;
use super::raft_message::RaftMessage;
use crate::ids::{
    BadUid, ChannelKey, ChannelKind, DeviceLevel, NodeId, Place, ReplicaId, SLOT_COUNT_MAX, SessionAddress, SessionId,
    ShardId, SlotId, Uid,
};
use crate::limits::{CLIENT_MSG_NO_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};

/// A value that no honest peer sends. Says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadValue {
    /// A uid, or one in a channel's name.
    Uid(BadUid),
    /// A channel of a kind we do not know.
    ChannelKind,
    /// A device level that is neither.
    DeviceLevel,
    /// Parts of a SEND that lie outside it or are longer than they may be, or texts that are not UTF-8.
    SendBody,
    /// A message that fails its own checks.
    Message,
    /// A node with the number 0.
    Node,
    /// A node without shards.
    Shards,
    /// A replica with the number 0.
    Replica,
    /// A slot beyond [`SLOT_COUNT_MAX`] that is not the metadata group either.
    Slot,
    /// A reason that is none of [`Reason`].
    Reason,
    /// A text that is longer than it may be, or empty and must not be.
    Text,
    /// An address of a family that is neither 4 nor 6.
    SocketAddress,
    /// Raft entries of an unknown kind, or with holes between them.
    Entries,
    /// A member that is neither serving nor draining nor dead.
    Standing,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadValue::Uid(bad) => return write!(f, "a bad uid: {bad}"),
            BadValue::ChannelKind => "an unknown kind of channel",
            BadValue::DeviceLevel => "an unknown device level",
            BadValue::SendBody => "a SEND whose parts are out of bounds or not text",
            BadValue::Message => "a stored message that fails its checks",
            BadValue::Node => "node number 0",
            BadValue::Shards => "a node that has no shards",
            BadValue::Replica => "replica number 0",
            BadValue::Slot => "a slot that cannot be",
            BadValue::Reason => "an unknown reason",
            BadValue::Text => "a text that is too long or missing",
            BadValue::SocketAddress => "an address of an unknown family",
            BadValue::Entries => "raft entries of an unknown kind or with holes between them",
            BadValue::Standing => "a member of an unknown standing",
        })
    }
}

/// Written for each frame in a batch: which one, and where the rest lies. Each frame lies apart, so that small ones do not take the
/// room of the largest.
#[derive(Archive, Serialize)]
pub(super) enum WireFrame<'a> {
    Submit(#[rkyv(with = Apart<WireSubmit<'a>>)] &'a Submission),
    Submitted(#[rkyv(with = Apart<WireSubmitted>)] &'a Submitted),
    Notify(#[rkyv(with = Apart<WireNotify<'a>>)] &'a Notify),
    Notified(#[rkyv(with = Apart<WireNotified<'a>>)] &'a Notified),
    Register(#[rkyv(with = Apart<WireRegister<'a>>)] &'a Register),
    Registered(#[rkyv(with = Apart<WireRegistered>)] &'a Registered),
    Unregister(#[rkyv(with = Apart<WireUnregister<'a>>)] &'a Unregister),
    Deliver(#[rkyv(with = Apart<WireDeliver<'a>>)] &'a Deliver),
    Received(#[rkyv(with = Apart<WireReceived<'a>>)] &'a Received),
    Resume(#[rkyv(with = Apart<WireResume<'a>>)] &'a Resume),
    Backlog(#[rkyv(with = Apart<WireBacklog<'a>>)] &'a Backlog),
    Fetch(#[rkyv(with = Apart<WireFetch<'a>>)] &'a Fetch),
    Fetched(#[rkyv(with = Apart<WireFetched<'a>>)] &'a Fetched),
    Kick(#[rkyv(with = Apart<WireKick<'a>>)] &'a Kick),
    Raft(#[rkyv(with = Apart<WireRaft<'a>>)] &'a RaftMessage),
    Leaders(#[rkyv(with = Apart<WireLeaders<'a>>)] &'a Leaders),
    WhoLeads(#[rkyv(with = Apart<WireWhoLeads>)] &'a WhoLeads),
    Present(#[rkyv(with = Apart<WirePresent<'a>>)] &'a Present),
    Rumour(#[rkyv(with = Apart<WireRumour>)] &'a Rumour),
    Ask(#[rkyv(with = Apart<WireAsk<'a>>)] &'a Ask),
    Answered(#[rkyv(with = Apart<WireAnswered<'a>>)] &'a Answered),
    Join(#[rkyv(with = Apart<WireJoin<'a>>)] &'a Join),
    Joined(#[rkyv(with = Apart<WireJoined<'a>>)] &'a Joined),
    Propose(#[rkyv(with = Apart<WirePropose<'a>>)] &'a Propose),
    Proposed(#[rkyv(with = Apart<WireProposed<'a>>)] &'a Proposed),
    SlotReports(#[rkyv(with = Apart<WireSlotReports<'a>>)] &'a SlotReports),
    Alive(#[rkyv(with = Apart<WireAlive>)] &'a Alive),
    SnapshotOffer(#[rkyv(with = Apart<WireSnapshotOffer<'a>>)] &'a SnapshotOffer),
    SnapshotWant(#[rkyv(with = Apart<WireSnapshotWant<'a>>)] &'a SnapshotWant),
    SnapshotPart(#[rkyv(with = Apart<WireSnapshotPart<'a>>)] &'a SnapshotPart),
    SnapshotTaken(#[rkyv(with = Apart<WireSnapshotTaken>)] &'a SnapshotTaken),
    Repair(#[rkyv(with = Apart<WireRepair<'a>>)] &'a Repair),
    Repaired(#[rkyv(with = Apart<WireRepaired<'a>>)] &'a Repaired),
    Whereabouts(#[rkyv(with = Apart<WireWhereabouts<'a>>)] &'a Whereabouts),
}

impl<'a> From<&'a Frame> for WireFrame<'a> {
    fn from(frame: &'a Frame) -> WireFrame<'a> {
        match frame {
            Frame::Submit(frame) => WireFrame::Submit(frame),
            Frame::Submitted(frame) => WireFrame::Submitted(frame),
            Frame::Notify(frame) => WireFrame::Notify(frame),
            Frame::Notified(frame) => WireFrame::Notified(frame),
            Frame::Register(frame) => WireFrame::Register(frame),
            Frame::Registered(frame) => WireFrame::Registered(frame),
            Frame::Unregister(frame) => WireFrame::Unregister(frame),
            Frame::Deliver(frame) => WireFrame::Deliver(frame),
            Frame::Received(frame) => WireFrame::Received(frame),
            Frame::Resume(frame) => WireFrame::Resume(frame),
            Frame::Backlog(frame) => WireFrame::Backlog(frame),
            Frame::Fetch(frame) => WireFrame::Fetch(frame),
            Frame::Fetched(frame) => WireFrame::Fetched(frame),
            Frame::Kick(frame) => WireFrame::Kick(frame),
            Frame::Raft(frame) => WireFrame::Raft(frame),
            Frame::Leaders(frame) => WireFrame::Leaders(frame),
            Frame::WhoLeads(frame) => WireFrame::WhoLeads(frame),
            Frame::Present(frame) => WireFrame::Present(frame),
            Frame::Rumour(frame) => WireFrame::Rumour(frame),
            Frame::Ask(frame) => WireFrame::Ask(frame),
            Frame::Answered(frame) => WireFrame::Answered(frame),
            Frame::Join(frame) => WireFrame::Join(frame),
            Frame::Joined(frame) => WireFrame::Joined(frame),
            Frame::Propose(frame) => WireFrame::Propose(frame),
            Frame::Proposed(frame) => WireFrame::Proposed(frame),
            Frame::SlotReports(frame) => WireFrame::SlotReports(frame),
            Frame::Alive(frame) => WireFrame::Alive(frame),
            Frame::SnapshotOffer(frame) => WireFrame::SnapshotOffer(frame),
            Frame::SnapshotWant(frame) => WireFrame::SnapshotWant(frame),
            Frame::SnapshotPart(frame) => WireFrame::SnapshotPart(frame),
            Frame::SnapshotTaken(frame) => WireFrame::SnapshotTaken(frame),
            Frame::Repair(frame) => WireFrame::Repair(frame),
            Frame::Repaired(frame) => WireFrame::Repaired(frame),
            Frame::Whereabouts(frame) => WireFrame::Whereabouts(frame),
        }
    }
}

impl ArchivedWireFrame<'_> {
    /// The frame, its values checked. `buffer` holds the archive; what is read may be slices of it.
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Frame, BadValue> {
        Ok(match self {
            ArchivedWireFrame::Submit(wire) => Frame::Submit(wire.read(buffer)?),
            ArchivedWireFrame::Submitted(wire) => Frame::Submitted(wire.read()?),
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
            ArchivedWireFrame::Kick(wire) => Frame::Kick(wire.read()?),
            ArchivedWireFrame::Raft(wire) => Frame::Raft(wire.read(buffer)?),
            ArchivedWireFrame::Leaders(wire) => Frame::Leaders(wire.read()?),
            ArchivedWireFrame::WhoLeads(wire) => Frame::WhoLeads(wire.read()?),
            ArchivedWireFrame::Present(wire) => Frame::Present(Box::new(wire.read()?)),
            ArchivedWireFrame::Rumour(wire) => Frame::Rumour(wire.read()?),
            ArchivedWireFrame::Ask(wire) => Frame::Ask(Box::new(wire.read(buffer)?)),
            ArchivedWireFrame::Answered(wire) => Frame::Answered(Box::new(wire.read(buffer)?)),
            ArchivedWireFrame::Join(wire) => Frame::Join(Box::new(wire.read()?)),
            ArchivedWireFrame::Joined(wire) => Frame::Joined(Box::new(wire.read()?)),
            ArchivedWireFrame::Propose(wire) => Frame::Propose(wire.read(buffer)?),
            ArchivedWireFrame::Proposed(wire) => Frame::Proposed(wire.read()?),
            ArchivedWireFrame::SlotReports(wire) => Frame::SlotReports(wire.read()?),
            ArchivedWireFrame::Alive(wire) => Frame::Alive(wire.read()?),
            ArchivedWireFrame::SnapshotOffer(wire) => Frame::SnapshotOffer(Box::new(wire.read(buffer)?)),
            ArchivedWireFrame::SnapshotWant(wire) => Frame::SnapshotWant(wire.read()?),
            ArchivedWireFrame::SnapshotPart(wire) => Frame::SnapshotPart(wire.read(buffer)?),
            ArchivedWireFrame::SnapshotTaken(wire) => Frame::SnapshotTaken(wire.read()?),
            ArchivedWireFrame::Repair(wire) => Frame::Repair(wire.read()?),
            ArchivedWireFrame::Repaired(wire) => Frame::Repaired(wire.read(buffer)?),
            ArchivedWireFrame::Whereabouts(wire) => Frame::Whereabouts(Box::new(wire.read()?)),
        })
    }
}

/// A batch as it is written. Read as a vector of [`ArchivedWireFrame`].
pub(super) fn batch(frames: &[Frame]) -> Each<'_, Frame, WireFrame<'_>> {
    Each::new(frames)
}

/// Writes what a reference names as its mirror `W`, apart, with only the place of it here.
pub(super) struct Apart<W>(PhantomData<W>);

impl<'a, T, W: Archive + From<&'a T>> ArchiveWith<&'a T> for Apart<W> {
    type Archived = ArchivedBox<W::Archived>;
    type Resolver = BoxResolver;

    fn resolve_with(_: &&'a T, resolver: BoxResolver, out: rkyv::Place<Self::Archived>) {
        ArchivedBox::resolve_from_raw_parts(resolver, (), out);
    }
}

impl<'a, T, W, S> SerializeWith<&'a T, S> for Apart<W>
where
    W: Serialize<S> + From<&'a T>,
    S: Fallible + Writer + ?Sized,
{
    fn serialize_with(field: &&'a T, serializer: &mut S) -> Result<BoxResolver, S::Error> {
        ArchivedBox::serialize_from_ref(&W::from(*field), serializer)
    }
}

/// Writes a list as a vector of its items' mirrors `W`, which are made one at a time.
pub(super) struct Each<'a, T, W> {
    items: &'a [T],
    mirror: PhantomData<fn() -> W>,
}

impl<'a, T, W> Each<'a, T, W> {
    fn new(items: &'a [T]) -> Each<'a, T, W> {
        Each { items, mirror: PhantomData }
    }
}

impl<'a, T, W: Archive + From<&'a T>> Archive for Each<'a, T, W> {
    type Archived = ArchivedVec<W::Archived>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: rkyv::Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.items.len(), resolver, out);
    }
}

impl<'a, T, W, S> Serialize<S> for Each<'a, T, W>
where
    W: Serialize<S> + From<&'a T>,
    S: Fallible + Allocator + Writer + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_iter::<W, _, _>(self.items.iter().map(W::from), serializer)
    }
}

// What several frames are made of.

#[derive(Archive, Serialize)]
pub(super) struct WirePlace {
    node: u16,
    shard: u16,
}

impl From<&Place> for WirePlace {
    fn from(place: &Place) -> WirePlace {
        WirePlace { node: place.node.0, shard: place.shard.0 }
    }
}

impl ArchivedWirePlace {
    fn read(&self) -> Result<Place, BadValue> {
        Ok(Place { node: node(self.node.to_native())?, shard: ShardId(self.shard.to_native()) })
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

impl From<&SessionAddress> for WireAddress {
    fn from(address: &SessionAddress) -> WireAddress {
        WireAddress::from(*address)
    }
}

impl From<SessionAddress> for WireAddress {
    fn from(address: SessionAddress) -> WireAddress {
        WireAddress { place: (&address.place).into(), session: address.session.into() }
    }
}

impl ArchivedWireAddress {
    fn read(&self) -> Result<SessionAddress, BadValue> {
        Ok(SessionAddress { place: self.place.read()?, session: self.session.read() })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireChannel<'a> {
    #[rkyv(with = InlineAsBox)]
    id: &'a str,
    kind: u8,
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

/// A message and its position.
#[derive(Archive, Serialize)]
pub(super) struct WireMessage<'a> {
    seq: u32,
    #[rkyv(with = InlineAsBox)]
    bytes: &'a [u8],
}

impl<'a> From<&'a (u32, StoredMessage)> for WireMessage<'a> {
    fn from((seq, message): &'a (u32, StoredMessage)) -> WireMessage<'a> {
        WireMessage { seq: *seq, bytes: message.bytes() }
    }
}

impl ArchivedWireMessage<'_> {
    fn read(&self, buffer: &Bytes) -> Result<(u32, StoredMessage), BadValue> {
        Ok((self.seq.to_native(), message(&self.bytes, buffer)?))
    }
}

/// A SEND's texts and payload.
#[derive(Archive, Serialize)]
pub(super) struct WireSendBody<'a> {
    #[rkyv(with = InlineAsBox)]
    bytes: &'a [u8],
    client_msg_no_end: u16,
    topic_end: u16,
}

impl<'a> From<&'a SendBody> for WireSendBody<'a> {
    fn from(body: &'a SendBody) -> WireSendBody<'a> {
        let SendBody { bytes, client_msg_no_end, topic_end } = body;
        WireSendBody { bytes, client_msg_no_end: *client_msg_no_end, topic_end: *topic_end }
    }
}

impl ArchivedWireSendBody<'_> {
    /// Within the bounds of what a gateway takes from a client: the leader makes a stored message of it, which has a bound.
    fn read(&self, buffer: &Bytes) -> Result<SendBody, BadValue> {
        let (client_msg_no_end, topic_end) = (self.client_msg_no_end.to_native(), self.topic_end.to_native());
        let (number, topic) = (usize::from(client_msg_no_end), usize::from(topic_end));
        let bytes: &[u8] = &self.bytes;
        let is_text = |part: Option<&[u8]>, bytes_max: usize| {
            part.is_some_and(|raw| raw.len() <= bytes_max && std::str::from_utf8(raw).is_ok())
        };
        let good = is_text(bytes.get(..number), CLIENT_MSG_NO_BYTES_MAX)
            && is_text(bytes.get(number..topic), TOPIC_BYTES_MAX)
            && bytes.len() - topic <= PAYLOAD_BYTES_MAX;
        if !good {
            return Err(BadValue::SendBody);
        }
        Ok(SendBody { bytes: buffer.slice_ref(bytes), client_msg_no_end, topic_end })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireReplica(u64);

impl From<&ReplicaId> for WireReplica {
    fn from(replica: &ReplicaId) -> WireReplica {
        WireReplica(replica.0)
    }
}

impl ArchivedWireReplica {
    fn read(&self) -> Result<ReplicaId, BadValue> {
        if self.0 == 0 { Err(BadValue::Replica) } else { Ok(ReplicaId(self.0.to_native())) }
    }
}

/// What IPv6 knows beside address and port stays behind: it means something only on the machine that says it.
#[derive(Archive, Serialize)]
pub(super) struct WireSocket {
    ip: [u8; 16],
    port: u16,
    /// 4 (then only the first four bytes of `ip` count) or 6.
    family: u8,
}

impl From<&SocketAddr> for WireSocket {
    fn from(address: &SocketAddr) -> WireSocket {
        let mut ip = [0; 16];
        let family = match address {
            SocketAddr::V4(address) => {
                ip[..4].copy_from_slice(&address.ip().octets());
                4
            }
            SocketAddr::V6(address) => {
                ip = address.ip().octets();
                6
            }
        };
        WireSocket { ip, port: address.port(), family }
    }
}

impl ArchivedWireSocket {
    fn read(&self) -> Result<SocketAddr, BadValue> {
        let (ip, port) = (self.ip, self.port.to_native());
        match self.family {
            4 => Ok(SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port))),
            6 => Ok(SocketAddr::from((ip, port))),
            _ => Err(BadValue::SocketAddress),
        }
    }
}

/// Every item of a list, in order, or what is wrong with the first bad one.
pub(super) fn each<W, T>(list: &[W], read: impl Fn(&W) -> Result<T, BadValue>) -> Result<Vec<T>, BadValue> {
    // With room for all of them from the start, which a collected iterator of results would not make.
    let mut items = Vec::with_capacity(list.len());
    for wire in list {
        items.push(read(wire)?);
    }
    Ok(items)
}

fn node(number: u16) -> Result<NodeId, BadValue> {
    if number == 0 { Err(BadValue::Node) } else { Ok(NodeId(number)) }
}

fn slot(number: u16) -> Result<SlotId, BadValue> {
    let slot = SlotId(number);
    if usize::from(number) < SLOT_COUNT_MAX || slot == SlotId::METADATA { Ok(slot) } else { Err(BadValue::Slot) }
}

/// A byte that is a [`Reason`]. Success counts.
fn reason(byte: u8) -> Result<u8, BadValue> {
    Reason::from_byte(byte).map(|reason| reason as u8).ok_or(BadValue::Reason)
}

fn device_level_byte(level: DeviceLevel) -> u8 {
    match level {
        DeviceLevel::Slave => 0,
        DeviceLevel::Master => 1,
    }
}

fn device_level(byte: u8) -> Result<DeviceLevel, BadValue> {
    match byte {
        0 => Ok(DeviceLevel::Slave),
        1 => Ok(DeviceLevel::Master),
        _ => Err(BadValue::DeviceLevel),
    }
}

/// A text of at most so many bytes.
fn text(raw: &str, bytes_max: usize) -> Result<Box<str>, BadValue> {
    if raw.len() > bytes_max { Err(BadValue::Text) } else { Ok(Box::from(raw)) }
}

/// As much of a text for people as the other end takes.
fn clip(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
