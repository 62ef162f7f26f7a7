//! What the generator says to a server, one driver for each protocol behind one trait: bytes in, bytes out, no sockets, no clock. A
//! driver does the protocol's duties by itself (handshake, subscription, receipts) and tells what it heard.
//!
//! ```text
//! hello ──► bytes out ──► … next: Open ──► send / next: Acknowledged, Message … ──► goodbye
//! ```

mod jetstream;
mod mqtt;
mod nats;
#[cfg(test)]
mod tests;
mod wk;

use std::net::SocketAddr;
use std::time::Duration;

use jindou::format::packet_cipher::CipherScratch;

use crate::target::Protocol;

/// What a thread's sessions share.
#[derive(Default)]
pub struct Scratch {
    /// Of WKProto's cipher.
    pub cipher: CipherScratch,
    /// What it made.
    pub sealed: Vec<u8>,
    /// What it opened.
    pub plain: Vec<u8>,
    /// Text of a message's number.
    pub number: String,
}

/// Who a session is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Unique among users and runs.
    pub user: String,
    /// Which of the user's devices.
    pub device: u8,
    /// Beginning of all users' names in this run.
    pub prefix: String,
    /// Different for each session.
    pub secret: u64,
}

/// One message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The connection's own number of it, from 1.
    pub number: u32,
    /// The recipient's name.
    pub to: &'a str,
    /// Its number in the conversation.
    pub sequence: u64,
    /// What it carries.
    pub payload: &'a [u8],
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// The session is ready: it may send, and gets what is sent to its user.
    Open,
    /// The server has this send.
    Acknowledged(u32),
    /// The server has this send and all earlier ones.
    AcknowledgedUpTo(u32),
    /// It does not want it.
    Refused {
        /// Which send.
        number: u32,
        /// The server's code.
        reason: u16,
    },
    /// A message; its receipt is written already.
    Message {
        /// The server's own number and id, which must rise within a conversation.
        order: Option<(u64, i64)>,
        /// Plain.
        payload: &'a [u8],
    },
    /// A message that cannot be deciphered.
    Damaged,
    /// The answer to a ping.
    Pong,
    /// Nothing of interest.
    Other,
}

/// What went out and came in, as one protocol has it. An error is one sentence and ends the connection.
pub trait Driver: Send {
    /// The first bytes, if the client speaks first.
    fn hello(&mut self, out: &mut Vec<u8>);
    /// One message.
    fn send(&mut self, message: Outgoing<'_>, scratch: &mut Scratch, out: &mut Vec<u8>);
    /// Called before sent messages are written to the socket: where a protocol answers no sends, a ping goes behind them.
    fn before_flush(&mut self, _out: &mut Vec<u8>) {}
    /// The next whole thing in `bytes`, and how many bytes it took; `None` when none is whole.
    fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Heard<'a>)>, String>;
    /// Asks for a sign of life.
    fn ping(&mut self, out: &mut Vec<u8>);
    /// The last bytes.
    fn goodbye(&mut self, _out: &mut Vec<u8>) {}
}

/// A driver for one connection of a session.
pub fn driver(protocol: Protocol, identity: &Identity, absent_before: bool) -> Box<dyn Driver> {
    match protocol {
        Protocol::Wk { plain } => Box::new(wk::Wk::new(identity, plain)),
        Protocol::Mqtt { qos } => Box::new(mqtt::Mqtt::new(identity, qos)),
        Protocol::Nats => Box::new(nats::Nats::new(identity)),
        Protocol::JetStream => Box::new(jetstream::JetStream::new(identity, absent_before)),
    }
}

/// Makes what a server needs before the first session, such as a stream.
///
/// # Errors
/// The server is not there, or does not want it.
pub fn prepare(protocol: Protocol, address: SocketAddr, prefix: &str) -> Result<(), String> {
    match protocol {
        Protocol::JetStream => jetstream::create_stream(address, prefix),
        _ => Ok(()),
    }
}

/// What an MQTT broker says of its version within `patience`; nothing where it says none.
pub fn mqtt_version(address: SocketAddr, patience: Duration) -> Option<String> {
    mqtt::broker_version(address, patience)
}

/// Removes it again. What cannot be removed stays.
pub fn tidy_up(protocol: Protocol, address: SocketAddr, prefix: &str) {
    if protocol == Protocol::JetStream {
        let _ = jetstream::delete_stream(address, prefix);
    }
}

/// Pings behind sends, for protocols that do not answer sends: which sends each outstanding ping covers.
#[derive(Debug, Default)]
struct PingMarks {
    sent: u32,
    marked: u32,
    outstanding: std::collections::VecDeque<u32>,
}

impl PingMarks {
    fn sent(&mut self, number: u32) {
        self.sent = number;
    }

    /// True when a ping is to be written now.
    fn before_flush(&mut self) -> bool {
        if self.sent == self.marked {
            return false;
        }
        self.marked = self.sent;
        self.outstanding.push_back(self.sent);
        true
    }

    /// A ping for its own sake.
    fn pinged(&mut self) {
        self.outstanding.push_back(0);
    }

    fn ponged<'a>(&mut self) -> Heard<'a> {
        match self.outstanding.pop_front() {
            Some(0) => Heard::Pong,
            Some(number) => Heard::AcknowledgedUpTo(number),
            None => Heard::Other,
        }
    }
}
