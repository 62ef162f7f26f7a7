//! One client connection's layers of bytes put together, as the server sees them: transport (plain TCP or
//! WebSocket), packets, cipher. Bytes go in as they were read, packets come out; what a session wants to say goes in
//! and bytes to write come out. Pure. The other end is [`super::client_pipeline`].
//!
//! Does not judge packets (that is the engine's), does not hold output, and holds input only while a packet is cut.
//! A pipeline is a plain value: moving it to another shard moves the connection's state, with the bytes held.
//!
//! ```text
//! Fresh ──CONNECT──▶ Offered ──CONNACK with success──▶ Agreed
//!   │ any other         │ SEND comes out as BadSend       │ a second CONNECT comes out as Unexpected
//!   └─▶ fault           └─ CONNACK that refuses: stays; the caller closes
//! ```

use std::fmt;

use super::message::StoredMessage;
use super::packet::{Connack, Connect, Disconnect, HeaderFlags, Packet, Reason, Recv, Recvack, Send, Setting, Sub};
use super::packet_cipher::{
    CipherScratch, ClientKey, KeyPair, MSG_KEY_BYTES, SALT_BYTES, SessionCipher, parse_public_key, sealed_bytes,
};
use super::packet_codec::{self, Decoded, Malformed};
use super::websocket::{self, Ended, FrameReader, Opcode, Role};
use super::websocket_upgrade::{self, Refused};

/// Text of a `msg_key` until the real one is known.
pub(super) const MSG_KEY_PLACEHOLDER: &str = "00000000000000000000000000000000";

/// WKProto's number of a person channel.
const CHANNEL_TYPE_PERSON: u8 = 1;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Packets one after the other.
    Tcp,
    /// RFC 6455, one packet per message out.
    WebSocket,
}

/// Buffers that pipelines work in; the caller owns one per shard, so that an idle connection holds none.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A payload that has been opened.
    pub(super) plain: Vec<u8>,
    /// What WebSocket frames carried.
    pub(super) stream: Vec<u8>,
    /// The cipher's.
    pub(super) cipher: CipherScratch,
}

/// Why a connection cannot go on. The caller writes what is in `reply`, then closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose doing.
    pub kind: FaultKind,
    /// One line for the log.
    pub what: &'static str,
}

/// Whose doing a [`Fault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nobody's: the peer closed its WebSocket in good order.
    Closed,
    /// The peer's: bytes that are no WebSocket, no packet, or out of order.
    Malformed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl Fault {
    pub(super) const fn malformed(what: &'static str) -> Fault {
        Fault { kind: FaultKind::Malformed, what }
    }
}

impl From<Malformed> for Fault {
    fn from(Malformed(what): Malformed) -> Fault {
        Fault::malformed(what)
    }
}

impl From<Refused> for Fault {
    fn from(Refused(what): Refused) -> Fault {
        Fault::malformed(what)
    }
}

impl From<Ended> for Fault {
    fn from(ended: Ended) -> Fault {
        match ended {
            Ended::Closed => Fault { kind: FaultKind::Closed, what: "websocket closed by the peer" },
            Ended::Violation(what) => Fault::malformed(what),
        }
    }
}

/// A packet from a client, borrowed for the length of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound<'a> {
    /// The first packet, and what it offers for the key agreement.
    Connect {
        /// As sent.
        connect: Connect<'a>,
        /// Whether [`ServerPipeline::encode_connack`] can succeed.
        key: ClientKey,
    },
    /// A message, its payload plain.
    Send(Send<'a>),
    /// A SEND whose `msg_key` or payload is wrong, or which came before the keys were agreed.
    BadSend {
        /// Echoed in SENDACK.
        client_seq: u32,
        /// Echoed in SENDACK.
        flags: HeaderFlags,
    },
    /// A RECV was taken.
    Recvack(Recvack),
    /// To be answered with PONG.
    Ping,
    /// To be answered with SUBACK.
    Sub(Sub<'a>),
    /// Farewell.
    Disconnect(Disconnect<'a>),
    /// A type that the protocol knows but a client has no business sending now.
    Unexpected,
}

/// What CONNACK says and what a success needs.
#[derive(Clone, Copy)]
pub struct ConnackAnswer {
    /// A [`Reason`].
    pub reason: u8,
    /// Server clock minus client clock.
    pub time_diff_ms: i64,
    /// This node.
    pub node_id: u64,
    /// 32 random bytes, used on success unless the listener is plain.
    pub secret: [u8; 32],
    /// 16 random characters of `[A-Za-z0-9]`, used likewise.
    pub salt: [u8; SALT_BYTES],
}

/// How far the key agreement is.
enum Agreement {
    /// Waiting for CONNECT.
    Fresh,
    /// Waiting for CONNACK.
    Offered { key: Result<[u8; 32], ClientKey> },
    /// Done; `None` on a plain listener.
    Agreed(Option<SessionCipher>),
}

/// What is between the socket and the stream of packets.
pub(super) enum Layer {
    Tcp,
    /// HTTP first.
    Upgrade,
    Frames(FrameReader),
}

/// One connection. See the head of this file.
pub struct ServerPipeline {
    layer: Layer,
    plain: bool,
    /// Of the session, once CONNECT has come; before it, anything, as CONNECT is the same in all.
    version: u8,
    agreement: Agreement,
    /// Bytes of an upgrade request or a packet that is cut. Without memory when empty.
    held: Vec<u8>,
}

impl ServerPipeline {
    /// For a socket just accepted.
    #[must_use]
    pub fn new(transport: Transport, plain: bool) -> ServerPipeline {
        ServerPipeline {
            layer: match transport {
                Transport::Tcp => Layer::Tcp,
                Transport::WebSocket => Layer::Upgrade,
            },
            plain,
            version: packet_codec::VERSION_MAX,
            agreement: Agreement::Fresh,
            held: Vec::new(),
        }
    }

    /// The session's protocol version; of use once CONNECT has come.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version
    }

    /// True when payloads are enciphered as soon as keys are agreed on.
    #[must_use]
    pub fn enciphers(&self) -> bool {
        !self.plain
    }

    /// Bytes held because a packet is cut.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Takes bytes as they were read and calls `sink` for each whole packet. What must be written at once (answer to the
    /// upgrade, WebSocket pong or close) is appended to `reply`.
    ///
    /// # Errors
    /// The connection cannot go on: write `reply`, then close. Packets before the fault have come out.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        reply: &mut Vec<u8>,
        sink: &mut impl FnMut(Inbound<'_>),
    ) -> Result<(), Fault> {
        match self.layer {
            Layer::Tcp => self.feed_packets(bytes, scratch, sink),
            Layer::Frames(_) => self.feed_frames(bytes, scratch, reply, sink),
            Layer::Upgrade => {
                self.held.extend_from_slice(bytes);
                let Some(request_bytes) = websocket_upgrade::accept(&self.held, reply)? else {
                    return Ok(());
                };
                self.layer = Layer::Frames(FrameReader::new(Role::Server));
                let request = std::mem::take(&mut self.held);
                self.feed_frames(&request[request_bytes..], scratch, reply, sink)
            }
        }
    }

    fn feed_packets(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FnMut(Inbound<'_>),
    ) -> Result<(), Fault> {
        if self.held.is_empty() {
            let taken = self.take_packets(bytes, scratch, sink)?;
            self.held.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let taken = self.take_packets(&held, scratch, sink)?;
        self.held = without_front(held, taken);
        Ok(())
    }

    fn feed_frames(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        reply: &mut Vec<u8>,
        sink: &mut impl FnMut(Inbound<'_>),
    ) -> Result<(), Fault> {
        let Layer::Frames(reader) = &mut self.layer else {
            return Ok(());
        };
        // A packet that is cut grows where it lies; otherwise the shard's buffer serves.
        let borrowed = self.held.is_empty();
        let mut stream = std::mem::take(if borrowed { &mut scratch.stream } else { &mut self.held });
        let ended = reader.feed(bytes, [0; 4], &mut stream, reply);
        let taken = self.take_packets(&stream, scratch, sink);
        if borrowed {
            if let Ok(taken) = taken {
                self.held.extend_from_slice(&stream[taken..]);
            }
            stream.clear();
            scratch.stream = stream;
        } else if let Ok(taken) = taken {
            self.held = without_front(stream, taken);
        }
        taken?;
        Ok(ended?)
    }

    /// Takes whole packets from the front and gives how many bytes they were.
    fn take_packets(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FnMut(Inbound<'_>),
    ) -> Result<usize, Fault> {
        let mut taken = 0;
        while let Decoded::Packet(packet, packet_bytes) = packet_codec::decode(&bytes[taken..], self.version)? {
            taken += packet_bytes;
            match packet {
                Packet::Connect(connect) if matches!(self.agreement, Agreement::Fresh) => {
                    let key = self.take_connect(&connect);
                    sink(Inbound::Connect { connect, key });
                }
                _ if matches!(self.agreement, Agreement::Fresh) => {
                    return Err(Fault::malformed("first packet is not CONNECT"));
                }
                Packet::Send(send) => self.take_send(send, scratch, sink),
                Packet::Recvack(recvack) => sink(Inbound::Recvack(recvack)),
                Packet::Ping => sink(Inbound::Ping),
                Packet::Sub(sub) => sink(Inbound::Sub(sub)),
                Packet::Disconnect(disconnect) => sink(Inbound::Disconnect(disconnect)),
                _ => sink(Inbound::Unexpected),
            }
        }
        Ok(taken)
    }

    fn take_connect(&mut self, connect: &Connect<'_>) -> ClientKey {
        self.version = match connect.version {
            0 => packet_codec::VERSION_MAX,
            version => version.min(packet_codec::VERSION_MAX),
        };
        let key = parse_public_key(connect.client_key);
        self.agreement = Agreement::Offered { key };
        match key {
            Err(fault) if !self.plain => fault,
            _ => ClientKey::Usable,
        }
    }

    #[inline]
    fn take_send(&self, send: Send<'_>, scratch: &mut Scratch, sink: &mut impl FnMut(Inbound<'_>)) {
        let bad = Inbound::BadSend { client_seq: send.client_seq, flags: send.flags };
        match &self.agreement {
            Agreement::Agreed(None) => sink(Inbound::Send(send)),
            Agreement::Agreed(Some(cipher)) => {
                scratch.plain.clear();
                match cipher.open_send(&send, &mut scratch.cipher, &mut scratch.plain) {
                    Ok(()) => sink(Inbound::Send(Send { payload: &scratch.plain, ..send })),
                    Err(_) => sink(bad),
                }
            }
            // SDKs send with old keys between a new socket and its CONNACK.
            Agreement::Fresh | Agreement::Offered { .. } => sink(bad),
        }
    }

    /// Appends CONNACK and, on success, agrees on the keys. Gives the reason that was written: a success that the
    /// client's key does not allow (the engine was told so with CONNECT) is turned into a refusal, and the caller closes.
    pub fn encode_connack(&mut self, answer: &ConnackAnswer, out: &mut Vec<u8>) -> u8 {
        let mut connack = Connack {
            server_version: (self.version > 3).then_some(self.version),
            time_diff_ms: answer.time_diff_ms,
            reason: answer.reason,
            server_key: "",
            salt: "",
            node_id: answer.node_id,
        };
        let success = Reason::Success as u8;
        let pair;
        let public;
        let mut cipher = None;
        if answer.reason == success && !self.plain {
            pair = KeyPair::new(answer.secret);
            public = pair.public_text();
            match self.agree(&pair, answer.salt) {
                Ok(agreed) => {
                    connack.server_key = public.as_str();
                    connack.salt = std::str::from_utf8(&answer.salt).expect("the salt is ASCII by contract");
                    cipher = Some(agreed);
                }
                Err(reason) => connack.reason = reason as u8,
            }
        }
        self.encode(&Packet::Connack(connack), out);
        if connack.reason == success {
            self.agreement = Agreement::Agreed(cipher);
        }
        connack.reason
    }

    fn agree(&self, pair: &KeyPair, salt: [u8; SALT_BYTES]) -> Result<SessionCipher, Reason> {
        match self.agreement {
            Agreement::Offered { key: Ok(key) } => pair.agree(&key, salt).ok_or(Reason::AuthFailed),
            Agreement::Offered { key: Err(ClientKey::Missing) } => Err(Reason::ClientKeyEmpty),
            _ => Err(Reason::AuthFailed),
        }
    }

    /// Appends a packet that needs no cipher: SENDACK, PONG, DISCONNECT, SUBACK.
    pub fn encode(&self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        if let Layer::Frames(_) = self.layer {
            let bytes = packet_codec::encoded_bytes(packet, self.version);
            websocket::put_header(Opcode::Binary, bytes, None, out);
        }
        packet_codec::encode(packet, self.version, out);
    }

    /// Appends a RECV of a stored message. `seq` is 0 when it is not stored; `own` says that the receiver is the
    /// sender's other device.
    pub fn encode_recv(&self, message: &StoredMessage, seq: u32, own: bool, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let flags = message.flags().without(HeaderFlags::DUP);
        let cipher = match &self.agreement {
            Agreement::Agreed(cipher) => cipher.as_ref(),
            // Nothing is delivered before CONNACK; a plain RECV would be dropped by the client.
            Agreement::Fresh | Agreement::Offered { .. } => None,
        };
        let recv = Recv {
            flags: if own { flags.without(HeaderFlags::RED_DOT) } else { flags },
            setting: Setting(message.setting().0 & Setting::FAN_OUT_MASK),
            msg_key: if cipher.is_some() { MSG_KEY_PLACEHOLDER } else { "" },
            from_uid: message.from(),
            channel_id: if own { message.to() } else { message.from() },
            channel_type: CHANNEL_TYPE_PERSON,
            expire: message.expire_s(),
            client_msg_no: message.client_msg_no(),
            stream: None,
            message_id: message.message_id(),
            message_seq: u64::from(seq),
            timestamp_s: i32::try_from(message.unix_ms() / 1000).unwrap_or(i32::MAX),
            topic: message.topic(),
            payload: &[],
        };
        let payload = message.payload();
        let payload_bytes = if cipher.is_some() { sealed_bytes(payload.len()) } else { payload.len() };
        let packet = Packet::Recv(recv);
        if let Layer::Frames(_) = self.layer {
            let bytes = packet_codec::begun_bytes(&packet, self.version, payload_bytes);
            websocket::put_header(Opcode::Binary, bytes, None, out);
        }
        let begun = packet_codec::begin(&packet, self.version, payload_bytes, out);
        match cipher {
            None => out.extend_from_slice(payload),
            Some(cipher) => {
                let payload_at = out.len();
                cipher.seal_payload(payload, &mut scratch.cipher, out);
                let msg_key = cipher.recv_msg_key(&recv, &out[payload_at..], &mut scratch.cipher);
                out[begun.msg_key_at..begun.msg_key_at + MSG_KEY_BYTES].copy_from_slice(&msg_key);
            }
        }
    }
}

/// What is left behind the first `taken` bytes, in no more memory than it needs.
pub(super) fn without_front(bytes: Vec<u8>, taken: usize) -> Vec<u8> {
    if taken == 0 { bytes } else { bytes[taken..].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small_and_can_move() {
        fn can_move<T: std::marker::Send>() {}
        can_move::<ServerPipeline>();
        assert!(size_of::<ServerPipeline>() <= 192, "{} bytes", size_of::<ServerPipeline>());
    }
}
