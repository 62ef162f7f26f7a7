//! Everything that can happen to a shard: one closed list. The shell (or the simulator) fills a batch and hands it to
//! [`super::shard::Shard::step`].

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::metadata::Cluster;
use crate::format::frame::{Frame, SendBody};
use crate::format::packet::{HeaderFlags, Setting};
pub use crate::format::request::{ApiAnswer, ApiRequest};
use crate::ids::{LinkConn, Place, SessionId, SlotId};

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A client's socket is here: accepted, or handed over by another shard.
    Opened(Opened),
    /// A packet arrived, was decoded and deciphered.
    Packet {
        /// From whom.
        session: SessionId,
        /// What.
        packet: ClientPacket,
    },
    /// Bytes arrived that are not a packet of the protocol, or too large: the client's fault.
    Malformed {
        /// From whom.
        session: SessionId,
        /// Said in the log and counted.
        what: &'static str,
    },
    /// The socket is gone: the client's close, an error, or ours carried out. The index may be used again after.
    Closed {
        /// Which.
        session: SessionId,
    },
    /// How many bytes wait to be written for a session after it passed a mark in either direction.
    Backlogged {
        /// Which.
        session: SessionId,
        /// True: too many, hold RECVs back. False: drained.
        full: bool,
    },
    /// Frames from another shard, in the order they were sent.
    Frames {
        /// From where.
        from: Place,
        /// What; drained by the step.
        frames: Vec<Frame>,
    },
    /// A journal write has finished.
    JournalWritten {
        /// The write's number.
        flush: u64,
        /// The write's bytes, back for the next batch or another try.
        bytes: Vec<u8>,
        /// `Err` leaves it to be tried again by the engine's word.
        result: Result<(), DiskFault>,
    },
    /// A segment asked for is ready: pre-written, empty, named.
    SegmentReady {
        /// Its number.
        segment: u32,
        /// Why not.
        result: Result<(), DiskFault>,
    },
    /// A disk read has finished.
    ReadDone {
        /// Of [`super::effect::Effect::Read`].
        ticket: u64,
        /// What was read, at least one byte unless the range lies behind the end.
        result: Result<Bytes, DiskFault>,
    },
    /// A checkpoint is on disk under its name.
    CheckpointWritten {
        /// Whose.
        slot: SlotId,
        /// Why not.
        result: Result<(), DiskFault>,
    },
    /// A request over HTTP whose key lives on this shard.
    Api {
        /// To be named in the answer.
        ticket: u64,
        /// What is asked.
        request: ApiRequest,
    },
    /// A connection to another node's shard that was asked for is made, or cannot be.
    LinkDialed {
        /// As [`super::effect::Effect::Dial`] numbered it.
        conn: LinkConn,
        /// False: nobody there, refused, or too slow. The number is void then.
        made: bool,
    },
    /// Another node's shard has connected to this one.
    LinkAccepted {
        /// Its number from now on.
        conn: LinkConn,
        /// From where, if that is known: only to be told to people.
        from: Option<SocketAddr>,
    },
    /// Bytes from the other end of a connection, in order, cut anywhere.
    LinkBytes {
        /// Which.
        conn: LinkConn,
        /// What. Begins at a multiple of 8 in memory.
        bytes: Bytes,
    },
    /// A connection is gone: the other end's close, an error, or ours carried out. Its number is void.
    LinkClosed {
        /// Which.
        conn: LinkConn,
    },
    /// A gossip datagram has arrived. Only the node's first shard gets them.
    Datagram {
        /// Who claims to have sent it.
        from: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The cluster as this node's copy of the metadata group knows it now: from the node's first shard.
    Cluster(Arc<Cluster>),
    /// The node is stopping: refuse what is new, close sessions, flush.
    Stop,
}

/// What the disk said no to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No space: will pass when space is made.
    Full,
    /// Anything else, with the errno.
    Io(i32),
}

/// A new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its name from now on.
    pub session: SessionId,
    /// True when it came from another shard of this node after CONNECT: it stays here.
    pub handed_over: bool,
}

/// A client's packet as the engine sees it: owned, checked for form, deciphered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPacket {
    /// First packet.
    Connect(Box<ConnectPacket>),
    /// A message.
    Send(SendPacket),
    /// A SEND whose msgKey was wrong or whose payload could not be deciphered: answered with reason 9.
    BadSend {
        /// Echoed.
        client_seq: u32,
        /// Echoed.
        flags: HeaderFlags,
    },
    /// A RECV was taken.
    Recvack {
        /// Of the RECV.
        message_id: i64,
        /// Of the RECV.
        message_seq: u64,
    },
    /// Answered with PONG.
    Ping,
    /// Answered with SUBACK.
    Sub(Box<SubPacket>),
    /// The client says farewell.
    Disconnect,
    /// A type the protocol knows but a client has no business sending.
    Unexpected,
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectPacket {
    /// Not yet checked.
    pub uid: Box<str>,
    /// Not yet checked.
    pub device_id: Box<str>,
    /// Device family.
    pub device_flag: u8,
    /// May be empty.
    pub token: Box<str>,
    /// Client's clock, milliseconds.
    pub client_timestamp_ms: i64,
    /// State of the client's public key.
    pub key: ClientKey,
}

pub use crate::format::packet_cipher::ClientKey;

/// SEND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendPacket {
    /// Header bits.
    pub flags: HeaderFlags,
    /// First body byte.
    pub setting: Setting,
    /// Echoed.
    pub client_seq: u32,
    /// 1 person, …
    pub channel_type: u8,
    /// Seconds.
    pub expire_s: u32,
    /// Person: the peer's uid. Not yet checked.
    pub channel_id: Bytes,
    /// The rest, plain.
    pub body: SendBody,
}

/// SUB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPacket {
    /// Echoed.
    pub sub_no: Box<str>,
    /// Echoed.
    pub channel_id: Box<str>,
    /// Echoed.
    pub channel_type: u8,
    /// Echoed.
    pub action: u8,
}

/// Events of one turn. The vector is drained by the step and keeps its memory.
pub type EventBatch = Vec<Event>;
