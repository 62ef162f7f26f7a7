//! Everything a shard can ask for: one closed list. What promises durability to somebody never enters it before the
//! journal has said so; see `Committed` in [`super::slot`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::format::frame::Frame;
use crate::format::message::StoredMessage;
use crate::format::packet::HeaderFlags;
use crate::ids::{LinkConn, Place, SessionId, ShardId, SlotId};

use super::event::ApiAnswer;
use super::metadata::Cluster;

/// One wish. The shell carries them out in order.
#[derive(Debug)]
pub enum Effect {
    /// Encode, encipher and write a packet.
    Send {
        /// To whom; a session that is gone is no error.
        session: SessionId,
        /// What.
        packet: ServerPacket,
    },
    /// Close after everything queued for it is written (or soon if the client does not read).
    Close {
        /// Which. [`super::event::Event::Closed`] follows.
        session: SessionId,
    },
    /// The session's home is led by another shard of this node: move the socket and its CONNECT there, where it
    /// appears as `Opened { handed_over: true }` and the same `Connect`. No `Closed` follows here.
    HandOver {
        /// Which.
        session: SessionId,
        /// Where to.
        to: ShardId,
    },
    /// Stop or go on reading a session's socket. What was read already still comes as events.
    Reading {
        /// Which.
        session: SessionId,
        /// True: paused.
        paused: bool,
    },
    /// Frames for another shard: of this node over the mesh, of another over a link.
    Frames {
        /// Where to.
        to: Place,
        /// In order.
        frames: Vec<Frame>,
    },
    /// Write to the journal and sync. One at a time.
    JournalWrite(JournalWrite),
    /// Make a segment: pre-written with zeroes or recycled. One of that name that exists is replaced.
    JournalSegment {
        /// Its number.
        segment: u32,
    },
    /// Segments below this number are no longer needed: delete or recycle.
    JournalTrim {
        /// First that stays.
        first: u32,
    },
    /// Read back from the journal.
    Read {
        /// Named in the answer.
        ticket: u64,
        /// Which segment.
        segment: u32,
        /// Where, in bytes; not aligned.
        offset: u32,
        /// How many bytes; may reach behind the end of the segment.
        length: u32,
    },
    /// Write a slot's checkpoint under its name, atomically.
    Checkpoint {
        /// Whose.
        slot: SlotId,
        /// Contents.
        bytes: Vec<u8>,
    },
    /// A slot is no longer hosted here: its checkpoint goes.
    RemoveCheckpoint {
        /// Whose.
        slot: SlotId,
    },
    /// Connect to a shard of another node. [`super::event::Event::LinkDialed`] follows, within a few seconds.
    Dial {
        /// Its number from now on.
        conn: LinkConn,
        /// Where to.
        to: SocketAddr,
    },
    /// Write to a connection between nodes, after what was written before. A connection that is gone is no error.
    LinkWrite {
        /// Which.
        conn: LinkConn,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close one, after what is queued for it is written or a moment has passed. [`super::event::Event::LinkClosed`] follows.
    Hangup {
        /// Which.
        conn: LinkConn,
    },
    /// Send a gossip datagram. It may get lost.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The cluster has changed: tell the other shards of this node.
    Cluster(Arc<Cluster>),
    /// Something the operator should read.
    Report {
        /// It needs a hand.
        warning: bool,
        /// One line.
        line: String,
    },
    /// Answer an API request.
    Answer {
        /// Which.
        ticket: u64,
        /// What.
        answer: ApiAnswer,
    },
    /// After [`super::event::Event::Stop`]: everything is flushed and no session is left.
    Stopped,
}

/// One journal write.
#[derive(Debug, PartialEq, Eq)]
pub struct JournalWrite {
    /// Rising number, named in the answer.
    pub flush: u64,
    /// Which segment.
    pub segment: u32,
    /// Where; a multiple of the journal's block.
    pub offset: u32,
    /// What; a multiple of the journal's block long.
    pub bytes: Vec<u8>,
}

/// What the gateway writes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerPacket {
    /// Answer to CONNECT. On success the gateway adds version, key and salt.
    Connack {
        /// A [`crate::format::packet::Reason`].
        reason: u8,
        /// Server clock minus client clock.
        time_diff_ms: i64,
        /// This node.
        node_id: u64,
    },
    /// Answer to SEND.
    Sendack {
        /// Echo.
        flags: HeaderFlags,
        /// 0 when refused.
        message_id: i64,
        /// Echo.
        client_seq: u32,
        /// 0 when refused or not stored.
        message_seq: u32,
        /// A [`crate::format::packet::Reason`].
        reason: u8,
    },
    /// A message.
    Recv {
        /// The message.
        message: StoredMessage,
        /// Its position, 0 when not stored.
        seq: u32,
        /// The receiver is its sender (another device): the channel is `to`, and the red dot is cleared. Otherwise the channel
        /// is `from`.
        own: bool,
    },
    /// Answer to PING.
    Pong,
    /// Kick notice.
    Disconnect {
        /// A [`crate::format::packet::Reason`].
        reason: u8,
        /// For people.
        text: Box<str>,
    },
    /// Answer to SUB.
    Suback {
        /// The SUB.
        sub: Box<super::event::SubPacket>,
        /// A [`crate::format::packet::Reason`].
        reason: u8,
    },
}

/// Wishes of one turn. The shell drains it; the vector keeps its memory.
#[derive(Debug, Default)]
pub struct Effects {
    /// In the order in which they were made.
    pub list: Vec<Effect>,
}

impl Effects {
    /// Adds one.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }
}
