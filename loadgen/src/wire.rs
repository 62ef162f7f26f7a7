//! One client connection as bytes: what is to be written, what was read, and the packets in between, with or without the
//! cipher. It uses the codec and the cipher of jindou directly, because a generator that allocates per message measures
//! itself. It does not know what the messages are about.

use std::io::{self, Read, Write};
use std::time::Duration;

use jindou::format::packet::{Connect, HeaderFlags, Packet, Recvack, Send, Setting};
use jindou::format::packet_cipher::{CipherScratch, KeyPair, SALT_BYTES, SessionCipher, parse_public_key};
use jindou::format::packet_codec::{self, Decoded};
use mio::net::TcpStream;

/// The protocol version that the generator speaks.
const VERSION: u8 = 5;

/// What an inbox begins with: enough for an idle session. It doubles whenever a read fills it.
const INBOX_BYTES: usize = 2048;

/// How long a CONNACK may take.
const CONNACK_WITHIN: Duration = Duration::from_secs(10);

/// What one shard-like thread of the generator shares between its connections.
#[derive(Default)]
pub struct Scratch {
    cipher: CipherScratch,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

/// A connected client.
pub struct Wire {
    /// The socket; registered with the poll by its owner.
    pub socket: TcpStream,
    cipher: Option<SessionCipher>,
    inbox: Vec<u8>,
    inbox_from: usize,
    inbox_to: usize,
    outbox: Vec<u8>,
    outbox_written: usize,
    client_seq: u32,
}

/// A client that has said CONNECT.
pub struct Connecting {
    socket: std::net::TcpStream,
    keys: Option<KeyPair>,
}

impl Connecting {
    /// Waits for a good CONNACK; the socket is non-blocking afterwards.
    pub fn finish(mut self) -> io::Result<Wire> {
        let mut inbox = Vec::new();
        let (cipher, inbox_from) = read_connack(&mut self.socket, &mut inbox, self.keys.as_ref())?;
        let inbox_to = inbox.len();
        inbox.resize(INBOX_BYTES.max(inbox_to), 0);
        self.socket.set_nonblocking(true)?;
        Ok(Wire {
            socket: TcpStream::from_std(self.socket),
            cipher,
            inbox,
            inbox_from,
            inbox_to,
            outbox: Vec::new(),
            outbox_written: 0,
            client_seq: 0,
        })
    }
}

/// What the server said.
pub enum Heard<'a> {
    /// Answer to the SEND with this number.
    Sendack {
        /// Of the SEND.
        client_seq: u32,
        /// 1 is success.
        reason: u8,
    },
    /// A message.
    Recv {
        /// Server's id.
        message_id: i64,
        /// Position in the channel.
        message_seq: u64,
        /// Plain.
        payload: &'a [u8],
    },
    /// A message that does not decipher.
    Damaged,
    /// PONG and the like.
    Other,
    /// The server ends the session.
    Disconnected(u8),
}

impl Wire {
    /// Says CONNECT on a blocking socket.
    pub fn begin(mut socket: std::net::TcpStream, uid: &str, secret: Option<[u8; 32]>) -> io::Result<Connecting> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(CONNACK_WITHIN))?;
        let keys = secret.map(KeyPair::new);
        let public = keys.as_ref().map(KeyPair::public_text);
        let connect = Connect {
            version: VERSION,
            device_flag: 0,
            device_id: "loadgen",
            uid,
            token: "",
            client_timestamp_ms: 0,
            client_key: public.as_ref().map_or("", |text| text.as_str()),
        };
        let mut bytes = Vec::new();
        packet_codec::encode(&Packet::Connect(connect), VERSION, &mut bytes);
        socket.write_all(&bytes)?;
        Ok(Connecting { socket, keys })
    }

    /// Queues a SEND; returns its number.
    pub fn send(&mut self, scratch: &mut Scratch, to: &str, client_msg_no: &str, payload: &[u8]) -> u32 {
        self.client_seq = self.client_seq.wrapping_add(1);
        let mut send = Send {
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0),
            client_seq: self.client_seq,
            client_msg_no,
            stream_no: "",
            channel_id: to,
            channel_type: 1,
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        };
        let Some(cipher) = &self.cipher else {
            packet_codec::encode(&Packet::Send(send), VERSION, &mut self.outbox);
            return self.client_seq;
        };
        scratch.sealed.clear();
        cipher.seal_payload(payload, &mut scratch.cipher, &mut scratch.sealed);
        let key = cipher.send_msg_key(&send, &scratch.sealed, &mut scratch.cipher);
        send.payload = &scratch.sealed;
        send.msg_key = std::str::from_utf8(&key).unwrap_or("");
        packet_codec::encode(&Packet::Send(send), VERSION, &mut self.outbox);
        self.client_seq
    }

    /// Queues a RECVACK.
    pub fn recvack(&mut self, message_id: i64, message_seq: u64) {
        let recvack = Recvack { flags: HeaderFlags(0), message_id, message_seq };
        packet_codec::encode(&Packet::Recvack(recvack), VERSION, &mut self.outbox);
    }

    /// Queues a PING.
    pub fn ping(&mut self) {
        packet_codec::encode(&Packet::Ping, VERSION, &mut self.outbox);
    }

    /// Reads what the socket has; `false` when there may be more.
    pub fn fill(&mut self) -> io::Result<bool> {
        self.inbox.copy_within(self.inbox_from..self.inbox_to, 0);
        self.inbox_to -= self.inbox_from;
        self.inbox_from = 0;
        if self.inbox_to == self.inbox.len() {
            self.inbox.resize(self.inbox.len() * 2, 0);
        }
        let room = self.inbox.len() - self.inbox_to;
        match self.socket.read(&mut self.inbox[self.inbox_to..]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(bytes) => {
                self.inbox_to += bytes;
                if bytes == room && room < 64 * 1024 {
                    self.inbox.resize(self.inbox.len() * 2, 0);
                }
                Ok(bytes < room)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(fault) => Err(fault),
        }
    }

    /// The next whole packet of what was read.
    pub fn next<'a>(&'a mut self, scratch: &'a mut Scratch) -> io::Result<Option<Heard<'a>>> {
        let decoded = packet_codec::decode(&self.inbox[self.inbox_from..self.inbox_to], VERSION)
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault.to_string()))?;
        let Decoded::Packet(packet, bytes) = decoded else {
            return Ok(None);
        };
        self.inbox_from += bytes;
        Ok(Some(match packet {
            Packet::Sendack(ack) => Heard::Sendack { client_seq: ack.client_seq, reason: ack.reason },
            Packet::Recv(recv) => {
                let (message_id, message_seq) = (recv.message_id, recv.message_seq);
                let Some(cipher) = &self.cipher else {
                    return Ok(Some(Heard::Recv { message_id, message_seq, payload: recv.payload }));
                };
                scratch.plain.clear();
                match cipher.open_recv(&recv, &mut scratch.cipher, &mut scratch.plain) {
                    Ok(()) => Heard::Recv { message_id, message_seq, payload: &scratch.plain },
                    Err(_) => Heard::Damaged,
                }
            }
            Packet::Disconnect(end) => Heard::Disconnected(end.reason),
            _ => Heard::Other,
        }))
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.outbox_written < self.outbox.len() {
            match self.socket.write(&self.outbox[self.outbox_written..]) {
                Ok(bytes) => self.outbox_written += bytes,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
        self.outbox.clear();
        self.outbox_written = 0;
        Ok(())
    }
}

/// Reads until a CONNACK is whole; returns the cipher and how many bytes it took.
fn read_connack(
    socket: &mut std::net::TcpStream,
    inbox: &mut Vec<u8>,
    keys: Option<&KeyPair>,
) -> io::Result<(Option<SessionCipher>, usize)> {
    let refuse = |text: String| Err(io::Error::other(text));
    loop {
        let mut chunk = [0u8; 4096];
        let bytes = socket.read(&mut chunk)?;
        if bytes == 0 {
            return refuse("the server closed the connection before its CONNACK".to_owned());
        }
        inbox.extend_from_slice(&chunk[..bytes]);
        let decoded = match packet_codec::decode(inbox, VERSION) {
            Ok(decoded) => decoded,
            Err(fault) => return refuse(format!("what came is no CONNACK: {fault}")),
        };
        let Decoded::Packet(packet, taken) = decoded else {
            continue;
        };
        let Packet::Connack(connack) = packet else {
            return refuse(format!("the first packet is no CONNACK: {packet:?}"));
        };
        if connack.reason != 1 {
            return refuse(format!("CONNACK with reason {}", connack.reason));
        }
        let Some(keys) = keys else {
            if !connack.server_key.is_empty() {
                return refuse("the listener wants the cipher: leave out --plain".to_owned());
            }
            return Ok((None, taken));
        };
        let salt: Option<[u8; SALT_BYTES]> = connack.salt.as_bytes().try_into().ok();
        let agreed = parse_public_key(connack.server_key).ok().zip(salt).and_then(|(key, salt)| keys.agree(&key, salt));
        let Some(cipher) = agreed else {
            return refuse("CONNACK without a usable key: is the listener in plain mode? Try --plain".to_owned());
        };
        return Ok((Some(cipher), taken));
    }
}
