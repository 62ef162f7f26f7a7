//! The other end of [`super::pipeline`]: one connection's layers of bytes as a client sees them. The terminal client,
//! the load generator and the simulator are made of it. Pure; does not resend, count or answer anything by itself but
//! WebSocket pings and closes.
//!
//! ```text
//! Upgrade (WebSocket only) ──101──▶ Connecting ──CONNACK with success──▶ Agreed
//!                                        └─ CONNACK that refuses comes out; the server closes
//! ```

use super::packet::{
    Connack, Connect, Disconnect, EventPacket, HeaderFlags, Packet, Reason, Recv, Send, Sendack, Suback,
};
use super::packet_cipher::{KeyPair, MSG_KEY_BYTES, SALT_BYTES, SessionCipher, parse_public_key, sealed_bytes};
use super::packet_codec::{self, Decoded};
use super::pipeline::{Fault, Layer, MSG_KEY_PLACEHOLDER, Scratch, Transport, without_front};
use super::websocket::{self, FrameReader, Opcode, Role};
use super::websocket_upgrade;
use sha1::{Digest, Sha1};

/// A packet from the server, borrowed for the length of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// Answer to CONNECT; see its `reason`.
    Connack(Connack<'a>),
    /// Answer to SEND.
    Sendack(Sendack<'a>),
    /// A message, its payload plain and its `msg_key` checked.
    Recv(Recv<'a>),
    /// A RECV whose `msg_key` or payload is wrong.
    BadRecv {
        /// Its id.
        message_id: i64,
        /// Its flags.
        flags: HeaderFlags,
    },
    /// Answer to PING.
    Pong,
    /// Kick notice.
    Disconnect(Disconnect<'a>),
    /// Answer to SUB.
    Suback(Suback<'a>),
    /// Server event.
    Event(EventPacket<'a>),
    /// A type that a server has no business sending.
    Unexpected,
}

/// Two numbers that go over the wire openly and tell nothing about the secret they come from.
fn drawn(secret: &[u8; 32]) -> [[u8; 16]; 2] {
    [b"masks", b"nonce"].map(|purpose| {
        let digest = Sha1::new().chain_update(secret).chain_update(purpose).finalize();
        let mut drawn = [0; 16];
        drawn.copy_from_slice(&digest[..16]);
        drawn
    })
}

/// What a client brings to a connection.
#[derive(Clone, Copy)]
pub struct ClientOptions<'a> {
    /// How bytes travel.
    pub transport: Transport,
    /// No cipher: the server's listener is plain too.
    pub plain: bool,
    /// For the `Host` field of the upgrade; only WebSocket.
    pub host: &'a str,
    /// 32 random bytes: the key agreement's secret; masks and the upgrade's key are drawn from them too.
    pub secret: [u8; 32],
}

enum Agreement {
    Connecting(Box<KeyPair>),
    Agreed(Option<SessionCipher>),
}

/// One connection. See the head of this file.
pub struct ClientPipeline {
    layer: Layer,
    plain: bool,
    version: u8,
    agreement: Agreement,
    held: Vec<u8>,
    /// CONNECT as a packet, until it is sent.
    connect: Vec<u8>,
    upgrade_key: [u8; 16],
    /// Where the next mask comes from.
    masks: u64,
}

impl ClientPipeline {
    /// Appends the first bytes to write to `out`. `connect.client_key` is filled in here; `connect.version` is that of the
    /// connection (1 to 5).
    #[must_use]
    pub fn open(options: &ClientOptions<'_>, connect: &Connect<'_>, out: &mut Vec<u8>) -> ClientPipeline {
        let pair = KeyPair::new(options.secret);
        let public = pair.public_text();
        let client_key = if options.plain { "" } else { public.as_str() };
        let mut packet = Vec::new();
        packet_codec::encode(&Packet::Connect(Connect { client_key, ..*connect }), connect.version, &mut packet);
        let [mask_seed, upgrade_key] = drawn(&options.secret);
        let mut pipeline = ClientPipeline {
            layer: Layer::Tcp,
            plain: options.plain,
            version: match connect.version {
                0 => packet_codec::VERSION_MAX,
                version => version,
            },
            agreement: Agreement::Connecting(Box::new(pair)),
            held: Vec::new(),
            connect: Vec::new(),
            // The generator stands still at zero.
            masks: (u128::from_le_bytes(mask_seed) as u64) | 1,
            upgrade_key,
        };
        match options.transport {
            Transport::Tcp => out.extend_from_slice(&packet),
            Transport::WebSocket => {
                pipeline.layer = Layer::Upgrade;
                pipeline.connect = packet;
                websocket_upgrade::request(options.host, "/", pipeline.upgrade_key, out);
            }
        }
        pipeline
    }

    /// The session's version: the server's answer once CONNACK has come.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Takes bytes as they were read and calls `sink` for each whole packet. What must be written at once (CONNECT
    /// after the upgrade, WebSocket pong or close) is appended to `reply`.
    ///
    /// # Errors
    /// The connection cannot go on: write `reply`, then close.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        reply: &mut Vec<u8>,
        sink: &mut impl FnMut(FromServer<'_>),
    ) -> Result<(), Fault> {
        match self.layer {
            Layer::Tcp => {
                let mut held = std::mem::take(&mut self.held);
                if held.is_empty() {
                    let taken = self.take_packets(bytes, scratch, sink)?;
                    held.extend_from_slice(&bytes[taken..]);
                    self.held = held;
                } else {
                    held.extend_from_slice(bytes);
                    let taken = self.take_packets(&held, scratch, sink)?;
                    self.held = without_front(held, taken);
                }
                Ok(())
            }
            Layer::Frames(_) => self.feed_frames(bytes, scratch, reply, sink),
            Layer::Upgrade => {
                self.held.extend_from_slice(bytes);
                let Some(answer_bytes) = websocket_upgrade::check_answer(&self.held, self.upgrade_key)? else {
                    return Ok(());
                };
                self.layer = Layer::Frames(FrameReader::new(Role::Client));
                let answer = std::mem::take(&mut self.held);
                let connect = std::mem::take(&mut self.connect);
                let mask = self.next_mask();
                websocket::put_frame(Opcode::Binary, &connect, Some(mask), reply);
                self.feed_frames(&answer[answer_bytes..], scratch, reply, sink)
            }
        }
    }

    fn feed_frames(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        reply: &mut Vec<u8>,
        sink: &mut impl FnMut(FromServer<'_>),
    ) -> Result<(), Fault> {
        let mask = self.next_mask();
        let Layer::Frames(reader) = &mut self.layer else {
            return Ok(());
        };
        let mut stream = std::mem::take(&mut self.held);
        let ended = reader.feed(bytes, mask, &mut stream, reply);
        let taken = self.take_packets(&stream, scratch, sink)?;
        self.held = without_front(stream, taken);
        Ok(ended?)
    }

    fn take_packets(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FnMut(FromServer<'_>),
    ) -> Result<usize, Fault> {
        let mut taken = 0;
        while let Decoded::Packet(packet, packet_bytes) = packet_codec::decode(&bytes[taken..], self.version)? {
            taken += packet_bytes;
            match packet {
                Packet::Connack(connack) => {
                    self.take_connack(&connack)?;
                    sink(FromServer::Connack(connack));
                }
                Packet::Recv(recv) => self.take_recv(recv, scratch, sink),
                Packet::Sendack(sendack) => sink(FromServer::Sendack(sendack)),
                Packet::Pong => sink(FromServer::Pong),
                Packet::Disconnect(disconnect) => sink(FromServer::Disconnect(disconnect)),
                Packet::Suback(suback) => sink(FromServer::Suback(suback)),
                Packet::Event(event) => sink(FromServer::Event(event)),
                _ => sink(FromServer::Unexpected),
            }
        }
        Ok(taken)
    }

    fn take_connack(&mut self, connack: &Connack<'_>) -> Result<(), Fault> {
        let Agreement::Connecting(pair) = &self.agreement else {
            return Err(Fault::malformed("a second CONNACK"));
        };
        if connack.reason != Reason::Success as u8 {
            return Ok(());
        }
        // Only a server that knows version 4 names its version.
        self.version = self.version.min(connack.server_version.unwrap_or(3));
        let cipher = match (self.plain, connack.server_key) {
            (true, "") => None,
            (true, _) => {
                return Err(Fault::malformed("server wants a cipher, this client has none"));
            }
            (false, text) => {
                let key = parse_public_key(text).map_err(|_| Fault::malformed("server's key is empty or bad"))?;
                let salt: [u8; SALT_BYTES] = (connack.salt.as_bytes().get(..SALT_BYTES))
                    .and_then(|salt| salt.try_into().ok())
                    .ok_or(Fault::malformed("server's salt is too short"))?;
                let cipher = pair.agree(&key, salt);
                Some(cipher.ok_or(Fault::malformed("server's key is of small order"))?)
            }
        };
        self.agreement = Agreement::Agreed(cipher);
        Ok(())
    }

    fn take_recv(&self, recv: Recv<'_>, scratch: &mut Scratch, sink: &mut impl FnMut(FromServer<'_>)) {
        match &self.agreement {
            Agreement::Agreed(None) => sink(FromServer::Recv(recv)),
            Agreement::Agreed(Some(cipher)) => {
                scratch.plain.clear();
                match cipher.open_recv(&recv, &mut scratch.cipher, &mut scratch.plain) {
                    Ok(()) => sink(FromServer::Recv(Recv { payload: &scratch.plain, ..recv })),
                    Err(_) => sink(FromServer::BadRecv { message_id: recv.message_id, flags: recv.flags }),
                }
            }
            Agreement::Connecting(_) => sink(FromServer::Unexpected),
        }
    }

    /// Appends a SEND. `send.payload` is plain; `msg_key` is filled in here. Before CONNACK the payload goes out plain
    /// with an empty `msg_key`, which a server answers with reason 9.
    pub fn encode_send(&mut self, send: &Send<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let mask = self.frame_mask();
        let cipher = match &self.agreement {
            Agreement::Agreed(cipher) => cipher.as_ref(),
            Agreement::Connecting(_) => None,
        };
        let head = Send { msg_key: if cipher.is_some() { MSG_KEY_PLACEHOLDER } else { "" }, payload: &[], ..*send };
        let payload_bytes = if cipher.is_some() { sealed_bytes(send.payload.len()) } else { send.payload.len() };
        let packet = Packet::Send(head);
        if mask.is_some() {
            let bytes = packet_codec::begun_bytes(&packet, self.version, payload_bytes);
            websocket::put_header(Opcode::Binary, bytes, mask, out);
        }
        let start = out.len();
        let begun = packet_codec::begin(&packet, self.version, payload_bytes, out);
        match cipher {
            None => out.extend_from_slice(send.payload),
            Some(cipher) => {
                let payload_at = out.len();
                cipher.seal_payload(send.payload, &mut scratch.cipher, out);
                let msg_key = cipher.send_msg_key(&head, &out[payload_at..], &mut scratch.cipher);
                out[begun.msg_key_at..begun.msg_key_at + MSG_KEY_BYTES].copy_from_slice(&msg_key);
            }
        }
        if let Some(mask) = mask {
            websocket::apply_mask(&mut out[start..], mask);
        }
    }

    /// Appends a packet that needs no cipher: RECVACK, PING, SUB, DISCONNECT.
    pub fn encode(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let mask = self.frame_mask();
        if mask.is_some() {
            let bytes = packet_codec::encoded_bytes(packet, self.version);
            websocket::put_header(Opcode::Binary, bytes, mask, out);
        }
        let start = out.len();
        packet_codec::encode(packet, self.version, out);
        if let Some(mask) = mask {
            websocket::apply_mask(&mut out[start..], mask);
        }
    }

    /// A mask for the next frame; `None` on plain TCP.
    fn frame_mask(&mut self) -> Option<[u8; 4]> {
        if let Layer::Tcp = self.layer { None } else { Some(self.next_mask()) }
    }

    /// Marsaglia's xorshift: masks need to differ, and are not secret from the server.
    fn next_mask(&mut self) -> [u8; 4] {
        self.masks ^= self.masks << 13;
        self.masks ^= self.masks >> 7;
        self.masks ^= self.masks << 17;
        let [a, b, c, d, ..] = self.masks.to_le_bytes();
        [a, b, c, d]
    }
}
