//! A client that verifies: jindou's own client pipeline over a blocking socket, TCP or WebSocket, with the cipher. It keeps what
//! the server said in order, acknowledges RECVs unless told not to, and panics with a sentence when something is missing.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jindou::format::client_pipeline::{ClientOptions, ClientPipeline, FromServer};
use jindou::format::packet::{Connect, HeaderFlags, Packet, Recvack, Send, Setting};
use jindou::format::pipeline::{Scratch, Transport};

use crate::node::Node;

/// How long anything may take that should happen at once. Generous, because tests share two cores.
pub const SOON: Duration = Duration::from_secs(10);

static NEXT_SECRET: AtomicU64 = AtomicU64::new(1);

/// Something the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Answer to CONNECT.
    Connack(u8),
    /// Answer to SEND.
    Sendack(Ack),
    /// A message.
    Recv(Received),
    /// A message that does not decipher.
    BadRecv,
    /// Answer to PING.
    Pong,
    /// Kick notice.
    Disconnect(u8, String),
    /// Answer to SUB: channel and reason.
    Suback(String, u8),
    /// Anything else.
    Other,
}

/// A SENDACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the SEND.
    pub client_seq: u32,
    /// Server's id.
    pub message_id: i64,
    /// Position.
    pub message_seq: u64,
    /// 1 is success.
    pub reason: u8,
    /// Echo.
    pub flags: u8,
}

/// A RECV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Server's id.
    pub message_id: i64,
    /// Position.
    pub message_seq: u64,
    /// Sender.
    pub from: String,
    /// As this user sees it.
    pub channel: String,
    /// As the sender gave it.
    pub number: String,
    /// Plain.
    pub payload: Vec<u8>,
    /// Header bits.
    pub flags: u8,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who.
    pub uid: String,
    /// Device family.
    pub flag: u8,
    /// Device.
    pub device: String,
    /// Token.
    pub token: String,
    /// Protocol version.
    pub version: u8,
    /// TCP or WebSocket.
    pub transport: Transport,
}

impl Login {
    /// Version 5 over TCP from an app.
    pub fn tcp(uid: &str) -> Login {
        let (device, token) = (format!("device-of-{uid}"), String::new());
        Login { uid: uid.to_owned(), flag: 0, device, token, version: 5, transport: Transport::Tcp }
    }

    /// The same over WebSocket.
    pub fn ws(uid: &str) -> Login {
        Login { transport: Transport::WebSocket, ..Login::tcp(uid) }
    }
}

/// One connection.
pub struct Client {
    /// Who.
    pub uid: String,
    socket: TcpStream,
    pipeline: ClientPipeline,
    scratch: Scratch,
    heard: VecDeque<Said>,
    client_seq: u32,
    /// Whether RECVs are acknowledged as they come.
    pub acknowledges: bool,
}

impl Client {
    /// Connects and demands a good CONNACK.
    pub fn connect(node: &Node, login: &Login) -> Client {
        let mut client =
            Client::open(node, login).unwrap_or_else(|fault| panic!("{}: {fault}\n{}", login.uid, node.log()));
        match client.next(SOON) {
            Some(Said::Connack(1)) => client,
            other => panic!("{}: instead of a good CONNACK: {other:?}\n{}", login.uid, node.log()),
        }
    }

    /// Says CONNECT and does not wait.
    pub fn open(node: &Node, login: &Login) -> io::Result<Client> {
        let address = if login.transport == Transport::Tcp { node.tcp() } else { node.ws() };
        Client::open_at(address, login)
    }

    /// The same by address.
    pub fn open_at(address: SocketAddr, login: &Login) -> io::Result<Client> {
        Client::open_within(address, login, SOON)
    }

    /// The same, when the address may not answer at all.
    pub fn open_within(address: SocketAddr, login: &Login, within: Duration) -> io::Result<Client> {
        let mut socket = TcpStream::connect_timeout(&address, within)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(SOON))?;
        let mut secret = [0x21; 32];
        secret[..8].copy_from_slice(&NEXT_SECRET.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let options = ClientOptions { transport: login.transport, plain: false, host: "test", secret };
        let connect = Connect {
            version: login.version,
            device_flag: login.flag,
            device_id: &login.device,
            uid: &login.uid,
            token: &login.token,
            client_timestamp_ms: 1_700_000_000_000,
            client_key: "",
        };
        let mut out = Vec::new();
        let pipeline = ClientPipeline::open(&options, &connect, &mut out);
        socket.write_all(&out)?;
        Ok(Client {
            uid: login.uid.clone(),
            socket,
            pipeline,
            scratch: Scratch::default(),
            heard: VecDeque::new(),
            client_seq: 0,
            acknowledges: true,
        })
    }

    /// The session's version.
    pub fn version(&self) -> u8 {
        self.pipeline.version()
    }

    /// Sends to a person; returns the SEND's number.
    pub fn send(&mut self, to: &str, number: &str, payload: &[u8], flags: HeaderFlags) -> io::Result<u32> {
        let mut out = Vec::new();
        let client_seq = self.encode_send(to, number, payload, flags, &mut out);
        self.socket.write_all(&out)?;
        Ok(client_seq)
    }

    /// Appends a SEND to `out`, for sending several at once.
    pub fn encode_send(
        &mut self,
        to: &str,
        number: &str,
        payload: &[u8],
        flags: HeaderFlags,
        out: &mut Vec<u8>,
    ) -> u32 {
        self.client_seq += 1;
        let send = self.plain_send(to, number, payload, flags);
        self.pipeline.encode_send(&send, &mut self.scratch, out);
        self.client_seq
    }

    fn plain_send<'a>(&self, to: &'a str, number: &'a str, payload: &'a [u8], flags: HeaderFlags) -> Send<'a> {
        Send {
            flags,
            setting: Setting(0),
            client_seq: self.client_seq,
            client_msg_no: number,
            stream_no: "",
            channel_id: to,
            channel_type: 1,
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        }
    }

    /// A SEND as it is given, not enciphered: its msgKey is the caller's.
    pub fn send_unsealed(&mut self, to: &str, number: &str, msg_key: &str, payload: &[u8]) -> io::Result<u32> {
        self.client_seq += 1;
        let send = Send { msg_key, ..self.plain_send(to, number, payload, HeaderFlags::RED_DOT) };
        self.say(&Packet::Send(send))?;
        Ok(self.client_seq)
    }

    /// Writes a packet that needs no cipher.
    pub fn say(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        self.pipeline.encode(packet, &mut out);
        self.socket.write_all(&out)
    }

    /// Writes bytes as they are.
    pub fn say_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The next thing the server says; `None` when nothing comes in time or the connection is gone.
    pub fn next(&mut self, within: Duration) -> Option<Said> {
        self.try_next(within).ok().flatten()
    }

    /// The next thing the server says; `Ok(None)` when nothing comes in time.
    pub fn try_next(&mut self, within: Duration) -> io::Result<Option<Said>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(said) = self.heard.pop_front() {
                return Ok(Some(said));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.read_once(left)?;
        }
    }

    fn read_once(&mut self, within: Duration) -> io::Result<()> {
        let mut chunk = [0u8; 64 * 1024];
        self.socket.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        let bytes = match self.socket.read(&mut chunk) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
            }
            Ok(bytes) => bytes,
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        let mut reply = Vec::new();
        let mut acks = Vec::new();
        let heard = &mut self.heard;
        let outcome = self.pipeline.feed(&chunk[..bytes], &mut self.scratch, &mut reply, &mut |packet| {
            if let FromServer::Recv(recv) = packet {
                let (message_id, message_seq) = (recv.message_id, recv.message_seq);
                acks.push(Recvack { flags: recv.flags, message_id, message_seq });
            }
            heard.push_back(owned(packet));
        });
        if self.acknowledges {
            for ack in acks {
                self.pipeline.encode(&Packet::Recvack(ack), &mut reply);
            }
        }
        self.socket.write_all(&reply)?;
        outcome.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault.to_string()))
    }

    /// The next SENDACK; other things stay in their order.
    pub fn ack(&mut self) -> Ack {
        self.wanted("a SENDACK", |said| match said {
            Said::Sendack(ack) => Some(*ack),
            _ => None,
        })
    }

    /// The next RECV; other things stay in their order.
    pub fn received(&mut self) -> Received {
        self.wanted("a RECV", |said| match said {
            Said::Recv(received) => Some(received.clone()),
            _ => None,
        })
    }

    /// The next thing that `pick` picks; other things stay in their order.
    pub fn wanted<T>(&mut self, what: &str, pick: impl Fn(&Said) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(at) = self.heard.iter().position(|said| pick(said).is_some()) {
                let said = self.heard.remove(at).expect("its position was just found");
                return pick(&said).expect("it was just picked");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: {what} did not come within {SOON:?}; there is {:?}", self.uid, self.heard);
            if let Err(fault) = self.read_once(left) {
                panic!("{}: {what} did not come: {fault}; there is {:?}", self.uid, self.heard);
            }
        }
    }

    /// Demands that no RECV comes for a while.
    pub fn receives_nothing_for(&mut self, span: Duration) {
        let deadline = Instant::now() + span;
        while Instant::now() < deadline {
            self.read_once(deadline.saturating_duration_since(Instant::now())).expect("the connection lives");
        }
        let received: Vec<&Said> = self.heard.iter().filter(|said| matches!(said, Said::Recv(_))).collect();
        assert!(received.is_empty(), "{}: nothing should have come, but {received:?}", self.uid);
    }

    /// Demands an answer to a PING.
    pub fn lives(&mut self) {
        self.say(&Packet::Ping).unwrap_or_else(|fault| panic!("{}: the connection is gone: {fault}", self.uid));
        self.wanted("a PONG", |said| matches!(said, Said::Pong).then_some(()));
    }

    /// Demands that the server closes the connection in time; returns what it said before.
    pub fn is_closed_within(&mut self, within: Duration) -> Vec<Said> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: still open after {within:?}; there is {:?}", self.uid, self.heard);
            if self.read_once(left).is_err() {
                return self.heard.drain(..).collect();
            }
        }
    }
}

fn owned(packet: FromServer<'_>) -> Said {
    match packet {
        FromServer::Connack(connack) => Said::Connack(connack.reason),
        FromServer::Sendack(ack) => Said::Sendack(Ack {
            client_seq: ack.client_seq,
            message_id: ack.message_id,
            message_seq: ack.message_seq,
            reason: ack.reason,
            flags: ack.flags.0,
        }),
        FromServer::Recv(recv) => Said::Recv(Received {
            message_id: recv.message_id,
            message_seq: recv.message_seq,
            from: recv.from_uid.to_owned(),
            channel: recv.channel_id.to_owned(),
            number: recv.client_msg_no.to_owned(),
            payload: recv.payload.to_vec(),
            flags: recv.flags.0,
        }),
        FromServer::BadRecv { .. } => Said::BadRecv,
        FromServer::Pong => Said::Pong,
        FromServer::Disconnect(end) => Said::Disconnect(end.reason, end.text.to_owned()),
        FromServer::Suback(suback) => Said::Suback(suback.channel_id.to_owned(), suback.reason),
        FromServer::Event(_) | FromServer::Unexpected => Said::Other,
    }
}
