//! Bytes of a gossip datagram: our envelope (seal, sequence number, rumours) around foca's message. Says only whether the
//! bytes are well formed and sealed with the cluster's secret; what they mean is judged elsewhere. All numbers are big
//! endian, because foca writes its own counts so.
//!
//! ```text
//! seal 16 | version 1 | sequence 8 | rumours 1 | rumour 31 each | sender identity | nothing: a farewell
//!                                                                                 | rest of foca's header, members
//! identity: node 2 | boot 8 | renewal 4 | kind 1 (4 or 6) | ip 4 or 16 | port 2
//! rumour:   node 2 | boot 8 | stamp 4 | leaving 1 | table version 8 | slots led 4 | sessions 4
//! ```

use std::fmt;
use std::net::SocketAddr;

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::identity::Identity;
use crate::ids::NodeId;

/// Largest datagram, in bytes: below the usual 1 500 of Ethernet with room for tunnels. Longer ones are dropped.
pub const DATAGRAM_BYTES_MAX: usize = 1400;

/// Rumours in one datagram, our own included. Over it: the others wait for the next one.
pub const RUMOURS_PER_DATAGRAM_MAX: usize = 8;

/// Bytes of the seal in front.
pub const SEAL_BYTES: usize = 16;

/// First byte after the seal.
pub const VERSION: u8 = 1;

const RUMOUR_BYTES: usize = 31;
const ENVELOPE_BYTES_MAX: usize = SEAL_BYTES + 1 + 8 + 1 + RUMOURS_PER_DATAGRAM_MAX * RUMOUR_BYTES;

/// Largest message of foca.
pub const SWIM_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES_MAX;

/// Salt of the key derivation, so that the same secret seals nothing else with the same key.
const KEY_PURPOSE: &[u8] = b"jindou gossip key 1";

/// What a node says about itself and others pass on. Of one node the highest (boot, stamp) is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rumour {
    /// About whom.
    pub node: NodeId,
    /// About which of its processes.
    pub boot: u64,
    /// Counted by the node itself.
    pub stamp: u32,
    /// It stops in good order.
    pub leaving: bool,
    /// The newest table it has.
    pub table_version: u64,
    /// Slots it leads.
    pub slots_led: u32,
    /// Sessions it holds.
    pub sessions: u32,
}

/// A datagram without its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Counted by the sending process, never used twice.
    pub sequence: u64,
    /// What is passed on.
    pub rumours: Vec<Rumour>,
    /// Who sent it.
    pub sender: Identity,
    /// Whom its message speaks of, sender not counted.
    pub named: Vec<NodeId>,
    /// Foca's message, which begins with the sender's identity; absent from a farewell.
    pub swim: Option<&'a [u8]>,
}

/// Why bytes are refused; the fault is the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Ends too early.
    Short,
    /// Goes on after its end.
    Long,
    /// Of another version of this format.
    Version,
    /// A byte that stands for one of few things stands for none of them, or a node is 0.
    Value,
    /// No room left to write: foca tries with less.
    Full,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Short => "the datagram ends too early",
            Malformed::Long => "the datagram goes on after its end",
            Malformed::Version => "the datagram is of another version",
            Malformed::Value => "the datagram holds a value without a meaning",
            Malformed::Full => "no room left in the datagram",
        })
    }
}

impl std::error::Error for Malformed {}

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Malformed {
        Malformed::Short
    }
}

/// Seals and opens with a key derived from the cluster's secret; the cluster's name is under the seal too, so that two
/// clusters that share a secret by accident do not mix.
pub struct Seal {
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    assert!(key.len() <= 64, "a key of one block at most is padded with zeros, as HMAC says");
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    Hmac::<Sha256>::new(&block.into())
}

impl Seal {
    /// The seal of one cluster.
    #[must_use]
    pub fn new(secret: &[u8], cluster_name: &str) -> Seal {
        let key = keyed(KEY_PURPOSE).chain_update(secret).finalize().into_bytes();
        let length = (cluster_name.len() as u64).to_be_bytes();
        Seal { keyed: keyed(&key).chain_update(length).chain_update(cluster_name.as_bytes()) }
    }

    /// Fills the first [`SEAL_BYTES`] of `datagram` from the rest.
    pub fn close(&self, datagram: &mut [u8]) {
        let (seal, body) = datagram.split_at_mut(SEAL_BYTES);
        let mac = self.keyed.clone().chain_update(body).finalize().into_bytes();
        seal.copy_from_slice(&mac[..SEAL_BYTES]);
    }

    /// The rest, when the seal is right.
    #[must_use]
    pub fn open<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (seal, body) = datagram.split_at_checked(SEAL_BYTES)?;
        self.keyed.clone().chain_update(body).verify_truncated_left(seal).ok()?;
        Some(body)
    }
}

/// Writes everything in front of foca's message; the seal's place is left empty.
pub fn write_envelope(sequence: u64, rumours: &[Rumour], out: &mut Vec<u8>) {
    assert!(rumours.len() <= RUMOURS_PER_DATAGRAM_MAX, "the caller picks as many as fit");
    out.resize(SEAL_BYTES, 0);
    out.put_u8(VERSION);
    out.put_u64(sequence);
    out.put_u8(rumours.len() as u8);
    for rumour in rumours {
        out.put_u16(rumour.node.0);
        out.put_u64(rumour.boot);
        out.put_u32(rumour.stamp);
        out.put_u8(u8::from(rumour.leaving));
        out.put_u64(rumour.table_version);
        out.put_u32(rumour.slots_led);
        out.put_u32(rumour.sessions);
    }
}

/// Reads a datagram whose seal has been taken off, to its last byte.
///
/// # Errors
/// Says what is wrong with it.
pub fn decode(mut body: &[u8]) -> Result<Datagram<'_>, Malformed> {
    if body.try_get_u8()? != VERSION {
        return Err(Malformed::Version);
    }
    let sequence = body.try_get_u64()?;
    let count = usize::from(body.try_get_u8()?);
    if count > RUMOURS_PER_DATAGRAM_MAX {
        return Err(Malformed::Value);
    }
    let mut rumours = Vec::with_capacity(count);
    for _ in 0..count {
        rumours.push(read_rumour(&mut body)?);
    }
    let swim = body;
    let mut rest = swim;
    let sender = read_identity(&mut rest)?;
    if rest.is_empty() {
        return Ok(Datagram { sequence, rumours, sender, named: Vec::new(), swim: None });
    }
    let mut rest = swim;
    let header = read_header(&mut rest)?;
    let mut named = Vec::new();
    match header.message {
        Message::PingReq { target: other, .. }
        | Message::IndirectPing { origin: other, .. }
        | Message::IndirectAck { target: other, .. }
        | Message::ForwardedAck { origin: other, .. } => named.push(other.node),
        _ => {}
    }
    if !rest.is_empty() {
        if matches!(header.message, Message::Announce | Message::TurnUndead | Message::Broadcast) {
            return Err(Malformed::Long);
        }
        let members = rest.try_get_u16()?;
        for _ in 0..members {
            named.push(read_member(&mut rest)?.id().node);
        }
        if !rest.is_empty() {
            return Err(Malformed::Long);
        }
    }
    Ok(Datagram { sequence, rumours, sender, named, swim: Some(swim) })
}

fn read_rumour(body: &mut impl Buf) -> Result<Rumour, Malformed> {
    Ok(Rumour {
        node: read_node(body)?,
        boot: body.try_get_u64()?,
        stamp: body.try_get_u32()?,
        leaving: match body.try_get_u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Value),
        },
        table_version: body.try_get_u64()?,
        slots_led: body.try_get_u32()?,
        sessions: body.try_get_u32()?,
    })
}

fn read_node(body: &mut impl Buf) -> Result<NodeId, Malformed> {
    match body.try_get_u16()? {
        0 => Err(Malformed::Value),
        node => Ok(NodeId(node)),
    }
}

/// An identity that may be "whoever listens there".
fn read_destination(body: &mut impl Buf) -> Result<Identity, Malformed> {
    let node = NodeId(body.try_get_u16()?);
    let (boot, renewal) = (body.try_get_u64()?, body.try_get_u32()?);
    let address = match body.try_get_u8()? {
        4 => {
            let ip = body.try_get_u32()?.to_be_bytes();
            SocketAddr::from((ip, body.try_get_u16()?))
        }
        6 => {
            let ip = body.try_get_u128()?.to_be_bytes();
            SocketAddr::from((ip, body.try_get_u16()?))
        }
        _ => return Err(Malformed::Value),
    };
    Ok(Identity { node, boot, renewal, address })
}

fn read_identity(body: &mut impl Buf) -> Result<Identity, Malformed> {
    let identity = read_destination(body)?;
    if identity.node.0 == 0 { Err(Malformed::Value) } else { Ok(identity) }
}

/// Writes an identity.
///
/// # Errors
/// No room left; nothing is written then.
pub fn write_identity(identity: &Identity, out: &mut impl BufMut) -> Result<(), Malformed> {
    room(out, identity_bytes(identity))?;
    out.put_u16(identity.node.0);
    out.put_u64(identity.boot);
    out.put_u32(identity.renewal);
    match identity.address {
        SocketAddr::V4(address) => {
            out.put_u8(4);
            out.put_slice(&address.ip().octets());
        }
        SocketAddr::V6(address) => {
            out.put_u8(6);
            out.put_slice(&address.ip().octets());
        }
    }
    out.put_u16(identity.address.port());
    Ok(())
}

fn identity_bytes(identity: &Identity) -> usize {
    2 + 8 + 4 + 1 + if identity.address.is_ipv4() { 4 } else { 16 } + 2
}

fn room(out: &impl BufMut, bytes: usize) -> Result<(), Malformed> {
    if out.remaining_mut() < bytes { Err(Malformed::Full) } else { Ok(()) }
}

fn read_header(body: &mut impl Buf) -> Result<Header<Identity>, Malformed> {
    let src = read_identity(body)?;
    let src_incarnation = body.try_get_u16()?;
    let dst = read_destination(body)?;
    let message = match body.try_get_u8()? {
        1 => Message::Ping(body.try_get_u8()?),
        2 => Message::Ack(body.try_get_u8()?),
        3 => Message::PingReq { target: read_identity(body)?, probe_number: body.try_get_u8()? },
        4 => Message::IndirectPing { origin: read_identity(body)?, probe_number: body.try_get_u8()? },
        5 => Message::IndirectAck { target: read_identity(body)?, probe_number: body.try_get_u8()? },
        6 => Message::ForwardedAck { origin: read_identity(body)?, probe_number: body.try_get_u8()? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        _ => return Err(Malformed::Value),
    };
    if dst.node.0 == 0 && message != Message::Announce {
        return Err(Malformed::Value);
    }
    Ok(Header { src, src_incarnation, dst, message })
}

fn write_header(header: &Header<Identity>, out: &mut impl BufMut) -> Result<(), Malformed> {
    write_identity(&header.src, out)?;
    room(out, 2)?;
    out.put_u16(header.src_incarnation);
    write_identity(&header.dst, out)?;
    room(out, 2)?;
    let (kind, number) = match &header.message {
        Message::Ping(number) => (1, Some((None, *number))),
        Message::Ack(number) => (2, Some((None, *number))),
        Message::PingReq { target, probe_number } => (3, Some((Some(target), *probe_number))),
        Message::IndirectPing { origin, probe_number } => (4, Some((Some(origin), *probe_number))),
        Message::IndirectAck { target, probe_number } => (5, Some((Some(target), *probe_number))),
        Message::ForwardedAck { origin, probe_number } => (6, Some((Some(origin), *probe_number))),
        Message::Announce => (7, None),
        Message::Feed => (8, None),
        Message::Gossip => (9, None),
        Message::Broadcast => (10, None),
        Message::TurnUndead => (11, None),
    };
    out.put_u8(kind);
    if let Some((other, number)) = number {
        if let Some(other) = other {
            write_identity(other, out)?;
        }
        room(out, 1)?;
        out.put_u8(number);
    }
    Ok(())
}

fn read_member(body: &mut impl Buf) -> Result<Member<Identity>, Malformed> {
    let identity = read_identity(body)?;
    let incarnation = body.try_get_u16()?;
    let state = match body.try_get_u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(Malformed::Value),
    };
    Ok(Member::new(identity, incarnation, state))
}

/// What foca reads and writes with.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// Whom an announcement to "whoever listens there" reaches.
    pub here: NodeId,
}

impl foca::Codec<Identity> for Codec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Identity>, mut buf: impl BufMut) -> Result<(), Malformed> {
        write_header(header, &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Malformed> {
        let mut header = read_header(&mut buf)?;
        if header.dst.node.0 == 0 {
            header.dst.node = self.here;
        }
        Ok(header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut buf: impl BufMut) -> Result<(), Malformed> {
        room(&buf, identity_bytes(member.id()) + 3)?;
        write_identity(member.id(), &mut buf)?;
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Malformed> {
        read_member(&mut buf)
    }
}
