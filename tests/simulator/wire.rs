//! The real codecs at both ends, with owned values: what the gateway makes of bytes, and what a device makes of them. Also the
//! simulator's own ways to write a SEND wrongly.

use jindou::engine::effect::ServerPacket;
use jindou::engine::event::{ClientKey, ClientPacket, ConnectPacket, SendPacket, SubPacket};
use jindou::format::client_pipeline::{ClientOptions, ClientPipeline, FromServer};
use jindou::format::frame::SendBody;
use jindou::format::message::StoredMessage;
use jindou::format::packet::{Connect, Disconnect, HeaderFlags, Packet, Recvack, Send, Sendack, Setting, Suback};
use jindou::format::packet_cipher;
use jindou::format::pipeline::{ConnackAnswer, Inbound, Scratch, ServerPipeline};

pub use jindou::format::pipeline::Transport;

use bytes::Bytes;

use crate::chance::Chance;
use crate::client::{Oddity, Outgoing};
use crate::ledger::{self, Kind};

/// The node's end of a connection.
pub struct ServerWire {
    pipeline: ServerPipeline,
}

impl ServerWire {
    /// For a socket just accepted.
    pub fn new(transport: Transport, plain: bool) -> ServerWire {
        ServerWire { pipeline: ServerPipeline::new(transport, plain) }
    }

    /// Takes bytes; gives the packets, what to write at once, and whether the connection can go on.
    pub fn feed(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> (Vec<ClientPacket>, Result<(), &'static str>) {
        let mut packets = Vec::new();
        let mut scratch = Scratch::default();
        let result = self.pipeline.feed(bytes, &mut scratch, reply, &mut |inbound| packets.push(own(inbound)));
        (packets, result.map_err(|fault| fault.what))
    }

    /// Writes a packet; gives the reason of a CONNACK as it was written.
    pub fn encode(&mut self, packet: &ServerPacket, chance: &mut Chance, out: &mut Vec<u8>) -> u8 {
        let plain = match packet {
            ServerPacket::Connack { reason, time_diff_ms, node_id } => {
                let mut salt = [0u8; packet_cipher::SALT_BYTES];
                salt.iter_mut().for_each(|letter| *letter = b'a' + chance.below(26) as u8);
                let answer = ConnackAnswer {
                    reason: *reason,
                    time_diff_ms: *time_diff_ms,
                    node_id: *node_id,
                    secret: chance.bytes32(),
                    salt,
                };
                return self.pipeline.encode_connack(&answer, out);
            }
            ServerPacket::Recv { message, seq, own } => {
                self.recv(message, *seq, *own, out);
                return 0;
            }
            ServerPacket::Sendack { flags, message_id, client_seq, message_seq, reason } => Packet::Sendack(Sendack {
                flags: *flags,
                message_id: *message_id,
                client_seq: *client_seq,
                message_seq: u64::from(*message_seq),
                reason: *reason,
                client_msg_no: "",
            }),
            ServerPacket::Pong => Packet::Pong,
            ServerPacket::Disconnect { reason, text } => Packet::Disconnect(Disconnect { reason: *reason, text }),
            ServerPacket::Suback { sub, reason } => Packet::Suback(Suback {
                sub_no: &sub.sub_no,
                channel_id: &sub.channel_id,
                channel_type: sub.channel_type,
                action: sub.action,
                reason: *reason,
            }),
        };
        self.pipeline.encode(&plain, out);
        0
    }

    fn recv(&self, message: &StoredMessage, seq: u32, own: bool, out: &mut Vec<u8>) {
        self.pipeline.encode_recv(message, seq, own, &mut Scratch::default(), out);
    }
}

fn own(inbound: Inbound<'_>) -> ClientPacket {
    match inbound {
        Inbound::Connect { connect, key } => ClientPacket::Connect(Box::new(ConnectPacket {
            uid: connect.uid.into(),
            device_id: connect.device_id.into(),
            device_flag: connect.device_flag,
            token: connect.token.into(),
            client_timestamp_ms: connect.client_timestamp_ms,
            key: match key {
                packet_cipher::ClientKey::Usable => ClientKey::Usable,
                packet_cipher::ClientKey::Missing => ClientKey::Missing,
                packet_cipher::ClientKey::Bad => ClientKey::Bad,
            },
        })),
        Inbound::Send(send) => ClientPacket::Send(SendPacket {
            flags: send.flags,
            setting: send.setting,
            client_seq: send.client_seq,
            channel_type: send.channel_type,
            expire_s: send.expire,
            channel_id: Bytes::copy_from_slice(send.channel_id.as_bytes()),
            body: SendBody::new(send.client_msg_no, send.topic, send.payload),
        }),
        Inbound::BadSend { client_seq, flags } => ClientPacket::BadSend { client_seq, flags },
        Inbound::Recvack(recvack) => {
            ClientPacket::Recvack { message_id: recvack.message_id, message_seq: recvack.message_seq }
        }
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

/// A RECV as a device took it.
#[derive(Clone, Debug)]
pub struct TakenRecv {
    /// Header bits.
    pub flags: HeaderFlags,
    /// Sender.
    pub from: String,
    /// The channel as this device sees it.
    pub channel: String,
    /// As the sender gave it.
    pub client_msg_no: String,
    /// Server's id.
    pub message_id: i64,
    /// Position.
    pub seq: u64,
    /// Plain.
    pub payload: Vec<u8>,
}

/// What a node told a device.
#[derive(Clone, Debug)]
pub enum Told {
    /// Answer to CONNECT.
    Connack {
        /// 1 is success.
        reason: u8,
    },
    /// Answer to SEND.
    Sendack {
        /// Echo.
        client_seq: u32,
        /// 1 is success.
        reason: u8,
    },
    /// A message.
    Recv(TakenRecv),
    /// Answer to PING.
    Pong,
    /// Kick notice.
    Disconnect {
        /// 12 is kicked.
        reason: u8,
    },
    /// Anything that a device must never get.
    Wrong(String),
}

/// A device's end of a connection.
pub struct ClientWire {
    pipeline: ClientPipeline,
    scratch: Scratch,
}

/// What CONNECT says.
pub struct Introduction<'a> {
    /// Protocol version.
    pub version: u8,
    /// Who.
    pub uid: &'a str,
    /// Device family.
    pub flag: u8,
    /// Which device.
    pub device_id: &'a str,
    /// May be empty.
    pub token: &'a str,
    /// Client's clock.
    pub client_timestamp_ms: i64,
}

impl ClientWire {
    /// Begins a connection: the first bytes are appended to `out`.
    pub fn open(
        transport: Transport,
        plain: bool,
        introduction: &Introduction<'_>,
        chance: &mut Chance,
        out: &mut Vec<u8>,
    ) -> ClientWire {
        let options = ClientOptions { transport, plain, host: "node", secret: chance.bytes32() };
        let connect = Connect {
            version: introduction.version,
            device_flag: introduction.flag,
            device_id: introduction.device_id,
            uid: introduction.uid,
            token: introduction.token,
            client_timestamp_ms: introduction.client_timestamp_ms,
            client_key: "",
        };
        ClientWire { pipeline: ClientPipeline::open(&options, &connect, out), scratch: Scratch::default() }
    }

    /// Takes bytes as they were read; answers of the transport are appended to `out`.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Vec<Told> {
        let mut told = Vec::new();
        let result = self.pipeline.feed(bytes, &mut self.scratch, out, &mut |from| told.push(hear(from)));
        if let Err(fault) = result
            && fault.kind == jindou::format::pipeline::FaultKind::Malformed
        {
            told.push(Told::Wrong(fault.what.to_owned()));
        }
        told
    }

    /// Writes a SEND.
    pub fn send(&mut self, outgoing: &Outgoing, peer: &str, out: &mut Vec<u8>) {
        let number = ledger::number_text(outgoing.number);
        let payload = ledger::payload(outgoing.number, outgoing.payload_bytes, outgoing.conflict);
        let (channel_id, channel_type) = match outgoing.odd {
            Some(Oddity::GroupChannel) => (peer, 2),
            Some(Oddity::BadPeer) => ("not@a#uid", 1),
            _ => (peer, 1),
        };
        let flags = match outgoing.kind {
            Kind::Stored => HeaderFlags::RED_DOT,
            Kind::Transient => HeaderFlags::NO_PERSIST,
            Kind::Command => HeaderFlags::SYNC_ONCE,
        };
        let send = Send {
            flags,
            setting: Setting(0),
            client_seq: outgoing.client_seq,
            client_msg_no: &number,
            stream_no: "",
            channel_id,
            channel_type,
            expire: 0,
            msg_key: "",
            topic: "",
            payload: &payload,
        };
        let start = out.len();
        self.pipeline.encode_send(&send, &mut self.scratch, out);
        if outgoing.odd == Some(Oddity::WrongKey) {
            // The last byte is the payload's; with the cipher it is covered by the tag, on a plain listener nothing is.
            let last = out.len() - 1;
            if last > start {
                out[last] ^= 1;
            }
        }
    }

    /// Writes a RECVACK.
    pub fn recvack(&mut self, message_id: i64, seq: u64, flags: HeaderFlags, out: &mut Vec<u8>) {
        self.pipeline.encode(&Packet::Recvack(Recvack { flags, message_id, message_seq: seq }), out);
    }

    /// Writes a PING.
    pub fn ping(&mut self, out: &mut Vec<u8>) {
        self.pipeline.encode(&Packet::Ping, out);
    }
}

fn hear(from: FromServer<'_>) -> Told {
    match from {
        FromServer::Connack(connack) => Told::Connack { reason: connack.reason },
        FromServer::Sendack(sendack) => Told::Sendack { client_seq: sendack.client_seq, reason: sendack.reason },
        FromServer::Recv(recv) => Told::Recv(TakenRecv {
            flags: recv.flags,
            from: recv.from_uid.to_owned(),
            channel: recv.channel_id.to_owned(),
            client_msg_no: recv.client_msg_no.to_owned(),
            message_id: recv.message_id,
            seq: recv.message_seq,
            payload: recv.payload.to_vec(),
        }),
        FromServer::BadRecv { message_id, .. } => Told::Wrong(format!("RECV {message_id} fails its tag")),
        FromServer::Pong => Told::Pong,
        FromServer::Disconnect(disconnect) => Told::Disconnect { reason: disconnect.reason },
        FromServer::Suback(_) => Told::Wrong("SUBACK without SUB".to_owned()),
        FromServer::Event(_) => Told::Wrong("EVENT".to_owned()),
        FromServer::Unexpected => Told::Wrong("a packet that no server sends".to_owned()),
    }
}
