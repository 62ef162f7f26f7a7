//! `jindou chat`: a small terminal client, so that the first five minutes need nothing else. Lines typed go to one user;
//! whatever arrives is printed. Standard output carries messages and acknowledgements, standard error what happens to the
//! connection, so scripts can read the first.
//!
//! ```text
//!          ┌──────────────── lost: wait, twice as long each time ───────────────┐
//!          ▼                                                                    │
//!   Apart ──connect──▶ Connecting ──CONNACK──▶ Agreed: everything unanswered is sent again under its old number
//!                          └── refused for good, or kicked later ──▶ ends with an error
//! ```
//! One thread owns the state and waits for events of two others: one reads lines, one reads the socket. It deliberately keeps
//! no history and knows no groups.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::format::client_pipeline::FromServer;
use crate::format::packet::{Reason, Recv, Sendack};
use crate::ids::Uid;
use crate::limits::PAYLOAD_BYTES_MAX;

use connection::{Connection, Received};

mod connection;
mod words;

/// Lines sent and not answered. At it no further line is read.
const UNANSWERED_MAX: usize = 64;

/// Message ids remembered, to print a message that is delivered again only once.
const SEEN_MAX: usize = 4096;

/// Events that wait for the chat's own thread; at it the others wait.
const EVENTS_MAX: usize = 1024;

/// Between two PINGs; servers close what is silent for three minutes.
const PING_EVERY: Duration = Duration::from_secs(45);

/// Without a byte from the server for so long, PONGs included, the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(100);

/// The first wait after a lost connection, and the longest.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// After the end of the input, so long is waited for acknowledgements.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Who you are.
    pub uid: String,
    /// Whom lines go to.
    pub to: String,
    /// The node, `HOST:PORT`.
    pub server: String,
    /// The token that a backend has stored for this user; empty where the node asks for none.
    pub token: String,
    /// Over WebSocket.
    pub ws: bool,
    /// Without the cipher: the node's listener must be plain too.
    pub plain: bool,
    /// After the end of the input, goes on receiving for so long.
    pub wait: Duration,
}

/// Why a chat ended, in one line.
#[derive(Debug)]
pub struct ChatError(String);

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Chats between standard input and standard output.
///
/// # Errors
/// Refused, kicked, or something was left unacknowledged.
pub fn run(options: &ChatOptions) -> Result<(), ChatError> {
    let input = io::BufReader::new(io::stdin());
    chat(options, input, &mut io::stdout(), &mut io::stderr())
}

/// What the thread that owns the state waits for.
enum Event {
    Line(String),
    InputEnded,
    /// Of the connection of this number.
    Network(u64, Received),
}

fn chat(
    options: &ChatOptions,
    input: impl BufRead + Send + 'static,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), ChatError> {
    for (name, uid) in [("--as", &options.uid), ("--to", &options.to)] {
        Uid::parse(uid).map_err(|why| ChatError(format!("{name} {uid:?} is not allowed: {why}")))?;
    }
    let mut chance = File::open("/dev/urandom").map_err(no_chance)?;
    let (events, arriving) = sync_channel(EVENTS_MAX);
    let (credit, answered) = sync_channel(UNANSWERED_MAX);
    read_lines(input, events.clone(), credit);
    let chat = Chat {
        options,
        device_id: format!("chat-{:016x}", u64::from_le_bytes(drawn(&mut chance).map_err(no_chance)?)),
        chance,
        events,
        answered,
        connection: None,
        connections: 0,
        retry_at: Instant::now(),
        retry_after: RETRY_AFTER[0],
        unanswered: BTreeMap::new(),
        last_seq: 0,
        seen: VecDeque::new(),
        refused: 0,
        ending: None,
        out,
        notes,
    };
    chat.run(&arriving)
}

fn no_chance(error: io::Error) -> ChatError {
    ChatError(format!("the kernel gives no random bytes: {error}"))
}

fn drawn<const N: usize>(chance: &mut File) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    chance.read_exact(&mut bytes).map(|()| bytes)
}

/// Reads lines on a thread of its own. It ends with the input, or with the process. Each line takes a credit first, which comes
/// back when the line is answered.
fn read_lines(mut input: impl BufRead + Send + 'static, events: SyncSender<Event>, credit: SyncSender<()>) {
    std::thread::spawn(move || {
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            if text == "/quit" {
                break;
            }
            if text.is_empty() {
                continue;
            }
            if credit.send(()).is_err() || events.send(Event::Line(text.to_owned())).is_err() {
                return;
            }
        }
        let _ = events.send(Event::InputEnded);
    });
}

/// A line under way.
struct Unanswered {
    client_msg_no: String,
    text: String,
}

struct Chat<'a, O, N> {
    options: &'a ChatOptions,
    device_id: String,
    chance: File,
    events: SyncSender<Event>,
    answered: Receiver<()>,
    connection: Option<Connection>,
    /// So many were opened: the number of the present one.
    connections: u64,
    retry_at: Instant,
    retry_after: Duration,
    /// By client_seq, so that they are sent again in their order.
    unanswered: BTreeMap<u32, Unanswered>,
    last_seq: u32,
    seen: VecDeque<i64>,
    refused: u32,
    /// When the input has ended: how long to go on receiving, and how long to wait for answers.
    ending: Option<[Instant; 2]>,
    out: &'a mut O,
    notes: &'a mut N,
}

impl<O: Write, N: Write> Chat<'_, O, N> {
    fn run(mut self, arriving: &Receiver<Event>) -> Result<(), ChatError> {
        loop {
            if self.connection.is_none() && Instant::now() >= self.retry_at {
                self.connect()?;
            }
            if self.is_over() {
                return self.farewell();
            }
            match arriving.recv_timeout(self.wake_at().saturating_duration_since(Instant::now())) {
                Ok(Event::Line(text)) => self.take_line(text)?,
                Ok(Event::InputEnded) => {
                    let now = Instant::now();
                    let wait = self.options.wait;
                    self.ending = Some([now + wait, now + wait.max(ANSWERS_WITHIN)]);
                }
                Ok(Event::Network(number, received)) if number == self.connections => {
                    self.take_received(received)?;
                }
                // The last words of a connection that was given up already.
                Ok(Event::Network(..)) => {}
                Err(_) => self.take_time(),
            }
        }
    }

    fn is_over(&self) -> bool {
        let Some([receive_until, answers_until]) = self.ending else {
            return false;
        };
        let now = Instant::now();
        now >= answers_until || (now >= receive_until && self.unanswered.is_empty())
    }

    fn farewell(mut self) -> Result<(), ChatError> {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        match (self.unanswered.len(), self.refused) {
            (0, 0) => Ok(()),
            (0, refused) => Err(ChatError(format!("{refused} messages were refused"))),
            (left, _) => Err(ChatError(format!("{left} messages were not acknowledged"))),
        }
    }

    /// When to look around even if nothing happens.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let mut at = match &self.connection {
            None => self.retry_at,
            Some(connection) => (connection.pinged + PING_EVERY).min(connection.heard + SILENCE_MAX),
        };
        if let Some([receive_until, answers_until]) = self.ending {
            at = at.min(if now < receive_until { receive_until } else { answers_until });
        }
        at.min(now + Duration::from_secs(60))
    }

    fn connect(&mut self) -> Result<(), ChatError> {
        self.connections += 1;
        let (events, number) = (self.events.clone(), self.connections);
        let deliver = move |received| events.send(Event::Network(number, received)).is_ok();
        let secret = drawn(&mut self.chance).map_err(no_chance)?;
        match Connection::open(self.options, &self.device_id, secret, deliver) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => self.lose(&error.to_string()),
        }
        Ok(())
    }

    /// The connection is gone, or could not be made.
    fn lose(&mut self, why: &str) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        self.note(&format!("not connected: {why}; trying again in {:.1} s", self.retry_after.as_secs_f32()));
        self.retry_at = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(RETRY_AFTER[1]);
    }

    fn note(&mut self, text: &str) {
        // A terminal that cannot be written to is no reason to stop a conversation.
        let _ = writeln!(self.notes, "-- {text}");
    }

    fn print(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
        let _ = self.out.flush();
    }

    fn take_line(&mut self, text: String) -> Result<(), ChatError> {
        let payload = words::payload_of(&text);
        if payload.len() > PAYLOAD_BYTES_MAX {
            self.note("that line is too long and was not sent");
            self.refused += 1;
            let _ = self.answered.try_recv();
            return Ok(());
        }
        self.last_seq += 1;
        let client_msg_no = format!("{:032x}", u128::from_le_bytes(drawn(&mut self.chance).map_err(no_chance)?));
        self.unanswered.insert(self.last_seq, Unanswered { client_msg_no, text });
        self.send(self.last_seq);
        Ok(())
    }

    /// Sends one line if there is a connection to send it over; otherwise it goes out when there is.
    fn send(&mut self, seq: u32) {
        let (Some(line), Some(connection)) = (self.unanswered.get(&seq), &mut self.connection) else {
            return;
        };
        if !connection.agreed {
            return;
        }
        let payload = words::payload_of(&line.text);
        if let Err(error) = connection.send(seq, &line.client_msg_no, &self.options.to, &payload) {
            self.lose(&error.to_string());
        }
    }

    fn take_time(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if connection.heard.elapsed() >= SILENCE_MAX {
            self.lose("the node is silent");
        } else if connection.pinged.elapsed() >= PING_EVERY
            && let Err(error) = connection.ping()
        {
            self.lose(&error.to_string());
        }
    }

    fn take_received(&mut self, received: Received) -> Result<(), ChatError> {
        let bytes = match received {
            Received::Lost(why) => {
                self.lose(&why);
                return Ok(());
            }
            Received::Bytes(bytes) => bytes,
        };
        let Some(mut connection) = self.connection.take() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        let mut later = None;
        let mut agreed = false;
        let fed = connection.feed(&bytes, |packet, acks| match packet {
            FromServer::Connack(connack) if connack.reason == Reason::Success as u8 => agreed = true,
            FromServer::Connack(connack) if words::passes(connack.reason) => {
                later = Some(words::connack_refusal(connack.reason));
            }
            FromServer::Connack(connack) => outcome = Err(words::connack_refusal(connack.reason)),
            FromServer::Disconnect(disconnect) => {
                outcome = Err(words::printable(&format!("the node ended this session: {}", disconnect.text)));
            }
            FromServer::Sendack(sendack) => self.take_sendack(&sendack),
            FromServer::Recv(recv) => {
                acks.push((recv.flags, recv.message_id, recv.message_seq));
                self.take_recv(&recv);
            }
            FromServer::BadRecv { message_id, .. } => {
                self.note(&format!("message {message_id} arrived damaged; it will come again"));
            }
            _ => {}
        });
        if let Err(why) = outcome {
            connection.close();
            return Err(ChatError(why));
        }
        self.connection = Some(connection);
        if let Some(why) = later.or(fed.err().map(|error| error.to_string())) {
            self.lose(&why);
        } else if agreed {
            self.take_agreement();
        }
        Ok(())
    }

    fn take_agreement(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.agreed = true;
        }
        self.retry_after = RETRY_AFTER[0];
        self.note(&format!("connected as {}; lines go to {}; /quit or Ctrl-D ends", self.options.uid, self.options.to));
        let left: Vec<u32> = self.unanswered.keys().copied().collect();
        for seq in left {
            self.send(seq);
        }
    }

    fn take_sendack(&mut self, sendack: &Sendack) {
        let Some(line) = self.unanswered.remove(&sendack.client_seq) else {
            return;
        };
        let _ = self.answered.try_recv();
        if sendack.reason == Reason::Success as u8 {
            self.print(&format!("\u{2713} {} {}", sendack.message_seq, words::printable(&line.text)));
        } else {
            self.refused += 1;
            let why = words::sendack_refusal(sendack.reason);
            self.print(&format!("\u{2717} {} (not sent: {why})", words::printable(&line.text)));
        }
    }

    fn take_recv(&mut self, recv: &Recv<'_>) {
        if self.seen.contains(&recv.message_id) {
            return;
        }
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(recv.message_id);
        let time = words::time_of_day(recv.timestamp_s);
        let text = words::text_of(recv.payload);
        let from = words::printable(recv.from_uid);
        if recv.from_uid == self.options.uid {
            // Sent from another device of ours.
            self.print(&format!("{time} {from} \u{2192} {}: {text}", words::printable(recv.channel_id)));
        } else {
            self.print(&format!("{time} {from}: {text}"));
        }
    }
}

#[cfg(test)]
mod tests;
