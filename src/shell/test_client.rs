//! A blocking client for the shell's tests: a loopback socket and a client pipeline. Every wait has an end. Only in tests.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::format::client_pipeline::{ClientOptions, ClientPipeline, FromServer};
use crate::format::packet::{Connect, HeaderFlags, Packet, Recvack, Send, Setting};
use crate::format::pipeline::{Scratch, Transport};

use super::seed::kernel_seed;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What came, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Heard {
    Connack { reason: u8 },
    Sendack { client_seq: u32, message_id: i64, message_seq: u64, reason: u8 },
    Recv { from: String, payload: Vec<u8>, message_id: i64, message_seq: u64 },
    Pong,
    Disconnect { reason: u8 },
    Other(String),
}

/// One connection.
pub struct TestClient {
    stream: TcpStream,
    pipeline: ClientPipeline,
    scratch: Scratch,
    heard: VecDeque<Heard>,
    pub ended: bool,
}

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    pub address: SocketAddr,
    pub transport: Transport,
    pub plain: bool,
}

impl TestClient {
    /// Connects and sends CONNECT, without waiting for the answer.
    pub fn open(dial: Dial, uid: &str) -> TestClient {
        let mut stream = TcpStream::connect(dial.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let options = ClientOptions {
            transport: dial.transport,
            plain: dial.plain,
            host: "localhost",
            secret: kernel_seed().unwrap(),
        };
        let connect = Connect {
            version: 5,
            device_flag: 0,
            device_id: "device",
            uid,
            token: "",
            client_timestamp_ms: 0,
            client_key: "",
        };
        let mut out = Vec::new();
        let pipeline = ClientPipeline::open(&options, &connect, &mut out);
        stream.write_all(&out).unwrap();
        TestClient { stream, pipeline, scratch: Scratch::default(), heard: VecDeque::new(), ended: false }
    }

    /// Connects and waits for the acceptance.
    pub fn connect(dial: Dial, uid: &str) -> TestClient {
        let mut client = TestClient::open(dial, uid);
        assert_eq!(client.hear("CONNACK"), Heard::Connack { reason: 1 });
        client
    }

    /// Sends to a user.
    pub fn send(&mut self, to: &str, client_seq: u32, payload: &[u8]) {
        let number = format!("n-{client_seq}");
        let send = Send {
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0),
            client_seq,
            client_msg_no: &number,
            stream_no: "",
            channel_id: to,
            channel_type: 1,
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        };
        let mut out = Vec::new();
        self.pipeline.encode_send(&send, &mut self.scratch, &mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// Acknowledges a RECV.
    pub fn acknowledge(&mut self, message_id: i64, message_seq: u64) {
        self.say(&Packet::Recvack(Recvack { flags: HeaderFlags(0), message_id, message_seq }));
    }

    /// Sends a packet that needs no cipher.
    pub fn say(&mut self, packet: &Packet<'_>) {
        let mut out = Vec::new();
        self.pipeline.encode(packet, &mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// Sends bytes as they are.
    pub fn say_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads once if there is something within a few milliseconds.
    pub fn poll(&mut self) {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(length) => self.take(&bytes[..length]),
            // Interrupted: a ring of the same thread has work.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => self.ended = true,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let (mut reply, heard) = (Vec::new(), &mut self.heard);
        let outcome = self.pipeline.feed(bytes, &mut self.scratch, &mut reply, &mut |packet| {
            heard.push_back(match packet {
                FromServer::Connack(ack) => Heard::Connack { reason: ack.reason },
                FromServer::Sendack(ack) => Heard::Sendack {
                    client_seq: ack.client_seq,
                    message_id: ack.message_id,
                    message_seq: ack.message_seq,
                    reason: ack.reason,
                },
                FromServer::Recv(recv) => Heard::Recv {
                    from: recv.from_uid.to_owned(),
                    payload: recv.payload.to_vec(),
                    message_id: recv.message_id,
                    message_seq: recv.message_seq,
                },
                FromServer::Pong => Heard::Pong,
                FromServer::Disconnect(kick) => Heard::Disconnect { reason: kick.reason },
                other => Heard::Other(format!("{other:?}")),
            });
        });
        self.stream.write_all(&reply).unwrap();
        if outcome.is_err() {
            self.ended = true;
        }
    }

    /// What was heard and not asked for yet.
    pub fn try_hear(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// The next thing, or a panic that names what was expected.
    pub fn hear(&mut self, expected: &str) -> Heard {
        let began = Instant::now();
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            assert!(!self.ended, "the connection ended; expected {expected}");
            assert!(began.elapsed() < PATIENCE, "waited in vain for {expected}");
            self.poll();
        }
    }

    /// Waits for the server's close; what comes before it stays to be heard.
    pub fn hear_end(&mut self) {
        let began = Instant::now();
        while !self.ended {
            assert!(began.elapsed() < PATIENCE, "the server did not close");
            self.poll();
        }
    }
}
