//! One client connection as the gateway keeps it, the parcel in which it travels to another shard, and the translation
//! between the packets of its pipeline and those of the engine. No sockets here: bytes go through `Vec`s.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::engine::effect::ServerPacket;
use crate::engine::event::{ClientPacket, ConnectPacket, SendPacket, SubPacket};
use crate::format::frame::SendBody;
use crate::format::packet::{self, Packet};
use crate::format::pipeline::{Inbound, Scratch, ServerPipeline};
use crate::ids::ShardId;
use crate::limits::{CLIENT_MSG_NO_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};

/// Where a connection is on its way to a place on this shard.
///
/// ```text
/// Fresh ── CONNECT, and the engine keeps it ──→ Settled
///   │ └── CONNECT, and its home is elsewhere ──→ Leaving ──→ (a HandOver, Settled on arrival)
///   └──── fault, from here or from Settled ────→ Deaf
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Read one buffer at a time: it may have to move.
    Fresh,
    /// Stays here.
    Settled,
    /// Moves to another shard as soon as the ring lets go of it. The engine no longer knows it.
    Leaving(ShardId),
    /// Nothing it says is heard any more; it will be closed.
    Deaf,
}

/// One connection. Idle ones are many: what is seldom there is boxed.
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// The engine wants no reads.
    pub(super) paused: bool,
    pub(super) peer: IpAddr,
    pub(super) pipeline: ServerPipeline,
    pub(super) early: Option<Box<Early>>,
}

/// What a connection has said while it may still have to move.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Its CONNECT, given to the engine already.
    pub(super) connect: Option<Box<ConnectPacket>>,
    /// Packets behind CONNECT, not given to the engine yet.
    pub(super) packets: Vec<ClientPacket>,
    /// Bytes read after the decision to move.
    pub(super) bytes: Vec<u8>,
}

/// A client's socket on its way from the shard that accepted it to the shard of its home.
pub struct HandOver {
    pub(super) fd: OwnedFd,
    pub(super) peer: IpAddr,
    pub(super) pipeline: ServerPipeline,
    pub(super) connect: Box<ConnectPacket>,
    pub(super) packets: Vec<ClientPacket>,
    pub(super) bytes: Vec<u8>,
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").field("peer", &self.peer).field("uid", &self.connect.uid).finish_non_exhaustive()
    }
}

/// The engine's form of a packet.
pub(super) fn client_packet(inbound: Inbound<'_>) -> ClientPacket {
    match inbound {
        Inbound::Connect { connect, key } => ClientPacket::Connect(Box::new(ConnectPacket {
            uid: connect.uid.into(),
            device_id: connect.device_id.into(),
            device_flag: connect.device_flag,
            token: connect.token.into(),
            client_timestamp_ms: connect.client_timestamp_ms,
            key,
        })),
        Inbound::Send(send) => send_packet(&send),
        Inbound::BadSend { client_seq, flags } => ClientPacket::BadSend { client_seq, flags },
        Inbound::Recvack(ack) => ClientPacket::Recvack { message_id: ack.message_id, message_seq: ack.message_seq },
        Inbound::Ping => ClientPacket::Ping,
        Inbound::Sub(sub) => ClientPacket::Sub(Box::new(SubPacket {
            sub_no: sub.sub_no.into(),
            channel_id: sub.channel_id.into(),
            channel_type: sub.channel_type,
            action: sub.action,
        })),
        Inbound::Disconnect(_) => ClientPacket::Disconnect,
        Inbound::Unexpected => ClientPacket::Unexpected,
    }
}

fn send_packet(send: &packet::Send<'_>) -> ClientPacket {
    if send.client_msg_no.len() > CLIENT_MSG_NO_BYTES_MAX
        || send.topic.len() > TOPIC_BYTES_MAX
        || send.payload.len() > PAYLOAD_BYTES_MAX
    {
        return ClientPacket::BadSend { client_seq: send.client_seq, flags: send.flags };
    }
    ClientPacket::Send(SendPacket {
        flags: send.flags,
        setting: send.setting,
        client_seq: send.client_seq,
        channel_type: send.channel_type,
        expire_s: send.expire,
        channel_id: Bytes::copy_from_slice(send.channel_id.as_bytes()),
        body: SendBody::new(send.client_msg_no, send.topic, send.payload),
    })
}

/// Appends what a client is told; CONNACK, which needs secrets, is the gateway's own affair.
pub(super) fn encode(pipeline: &ServerPipeline, packet: &ServerPacket, scratch: &mut Scratch, out: &mut Vec<u8>) {
    match packet {
        ServerPacket::Connack { .. } => unreachable!("the gateway encodes CONNACK"),
        ServerPacket::Recv { message, seq, own } => pipeline.encode_recv(message, *seq, *own, scratch, out),
        &ServerPacket::Sendack { flags, message_id, client_seq, message_seq, reason } => {
            let message_seq = u64::from(message_seq);
            let client_msg_no = "";
            let ack = packet::Sendack { flags, message_id, client_seq, message_seq, reason, client_msg_no };
            pipeline.encode(&Packet::Sendack(ack), out);
        }
        ServerPacket::Pong => pipeline.encode(&Packet::Pong, out),
        ServerPacket::Disconnect { reason, text } => {
            pipeline.encode(&Packet::Disconnect(packet::Disconnect { reason: *reason, text }), out);
        }
        ServerPacket::Suback { sub, reason } => {
            let ack = packet::Suback {
                sub_no: &sub.sub_no,
                channel_id: &sub.channel_id,
                channel_type: sub.channel_type,
                action: sub.action,
                reason: *reason,
            };
            pipeline.encode(&Packet::Suback(ack), out);
        }
    }
}
