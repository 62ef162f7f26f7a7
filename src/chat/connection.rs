//! One connection of the chat client: the socket, its bytes' layers, and the thread that reads it. Decides nothing: what
//! the server says goes to the chat, and a failure is an error for it to judge.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ChatOptions;
use crate::format::client_pipeline::{ClientOptions, ClientPipeline, FromServer};
use crate::format::packet::{Connect, HeaderFlags, Packet, Recvack, Send, Setting};
use crate::format::pipeline::{Scratch, Transport};

/// WKProto's newest version.
const VERSION: u8 = 5;

/// A PC, in WKProto's numbering of device families.
const DEVICE_FLAG_PC: u8 = 2;

/// WKProto's number of a person channel.
const CHANNEL_TYPE_PERSON: u8 = 1;

/// For one address of the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that takes no bytes for so long is as good as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the reading thread brings.
pub(super) enum Received {
    Bytes(Vec<u8>),
    /// Nothing more comes, and why.
    Lost(String),
}

/// Flags, id and position of messages to be acknowledged.
pub(super) type Acks = Vec<(HeaderFlags, i64, u64)>;

pub(super) struct Connection {
    stream: TcpStream,
    pipeline: ClientPipeline,
    scratch: Scratch,
    /// CONNACK has come.
    pub(super) agreed: bool,
    /// When a byte last came.
    pub(super) heard: Instant,
    /// When a PING last went.
    pub(super) pinged: Instant,
}

impl Connection {
    /// Connects and says CONNECT. `deliver` gets what arrives, on a thread of its own, until it says no.
    pub(super) fn open(
        options: &ChatOptions,
        device_id: &str,
        secret: [u8; 32],
        deliver: impl Fn(Received) -> bool + std::marker::Send + 'static,
    ) -> io::Result<Connection> {
        let stream = dial(&options.server)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let client = ClientOptions {
            transport: if options.ws { Transport::WebSocket } else { Transport::Tcp },
            plain: options.plain,
            host: &options.server,
            secret,
        };
        let connect = Connect {
            version: VERSION,
            device_flag: DEVICE_FLAG_PC,
            device_id,
            uid: &options.uid,
            token: &options.token,
            client_timestamp_ms: unix_ms(),
            client_key: "",
        };
        let mut first = Vec::new();
        let pipeline = ClientPipeline::open(&client, &connect, &mut first);
        let mut reading = stream.try_clone()?;
        std::thread::spawn(move || read_all(&mut reading, deliver));
        (&stream).write_all(&first)?;
        let now = Instant::now();
        Ok(Connection { stream, pipeline, scratch: Scratch::default(), agreed: false, heard: now, pinged: now })
    }

    /// Takes bytes, gives packets to `sink`, and acknowledges what it asks to.
    pub(super) fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(FromServer<'_>, &mut Acks)) -> io::Result<()> {
        self.heard = Instant::now();
        let mut reply = Vec::new();
        let mut acks = Acks::new();
        let fed = self.pipeline.feed(bytes, &mut self.scratch, &mut reply, &mut |packet| sink(packet, &mut acks));
        for (flags, message_id, message_seq) in acks {
            self.pipeline.encode(&Packet::Recvack(Recvack { flags, message_id, message_seq }), &mut reply);
        }
        if !reply.is_empty() {
            self.stream.write_all(&reply)?;
        }
        fed.map_err(|fault| io::Error::other(fault.to_string()))
    }

    pub(super) fn send(&mut self, seq: u32, client_msg_no: &str, to: &str, payload: &[u8]) -> io::Result<()> {
        let send = Send {
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0),
            client_seq: seq,
            client_msg_no,
            stream_no: "",
            channel_id: to,
            channel_type: CHANNEL_TYPE_PERSON,
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        };
        let mut out = Vec::new();
        self.pipeline.encode_send(&send, &mut self.scratch, &mut out);
        self.stream.write_all(&out)
    }

    pub(super) fn ping(&mut self) -> io::Result<()> {
        self.pinged = Instant::now();
        let mut out = Vec::new();
        self.pipeline.encode(&Packet::Ping, &mut out);
        self.stream.write_all(&out)
    }

    /// Ends the reading thread too.
    pub(super) fn close(self) {
        // Already closed by the other side is just as well.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// This machine's clock; zero when it is before 1970.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The first address that answers.
fn dial(server: &str) -> io::Result<TcpStream> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{server}: {error}"));
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{server} has no address"));
    for address in server.to_socket_addrs().map_err(named)? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = named(error),
        }
    }
    Err(last)
}

fn read_all(stream: &mut TcpStream, deliver: impl Fn(Received) -> bool) {
    let mut buffer = vec![0; 16 * 1024];
    let why = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "the node closed the connection".to_owned(),
            Ok(count) => {
                if !deliver(Received::Bytes(buffer[..count].to_vec())) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error.to_string(),
        }
    };
    deliver(Received::Lost(why));
}
