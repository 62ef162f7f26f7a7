//! NATS JetStream: one stream for the run, one durable push consumer for each device, explicit acknowledgements. A send is answered by the
//! stream itself, at a reply subject that carries its number. What was pushed to a connection that closed comes again after three seconds
//! (the default of thirty would count it as lost).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::nats::{CONNECT, Said, publish, read};
use super::{Driver, Heard, Identity, Outgoing, Scratch};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The subscription for messages, and the one for answers.
const MESSAGES: &str = "1";
const ANSWERS: &str = "2";

enum State {
    Greeted,
    Subscribing,
    Open,
}

/// One connection.
pub struct JetStream {
    prefix: String,
    user: String,
    consumer: String,
    inbox: String,
    known: bool,
    state: State,
}

impl JetStream {
    /// Not connected yet; `known` when the consumer was made by an earlier connection.
    pub fn new(identity: &Identity, known: bool) -> JetStream {
        let consumer = format!("{}-d{}", identity.user, identity.device);
        JetStream {
            prefix: identity.prefix.clone(),
            user: identity.user.clone(),
            inbox: format!("_INBOX.{consumer}."),
            consumer,
            known,
            state: State::Greeted,
        }
    }

    fn subscribe(&self, out: &mut Vec<u8>) {
        let JetStream { consumer, inbox, prefix, user, .. } = self;
        write!(out, "SUB _DELIVER.{consumer} {MESSAGES}\r\nSUB {inbox}* {ANSWERS}\r\n")
            .expect("writing to memory cannot fail");
        if self.known {
            out.extend_from_slice(b"PING\r\n");
            return;
        }
        let stream = stream_of(prefix);
        let config = format!(
            "{{\"stream_name\":\"{stream}\",\"config\":{{\"durable_name\":\"{consumer}\",\"deliver_subject\":\"_DELIVER.{consumer}\",\
             \"filter_subject\":\"loadgen.{prefix}.{user}\",\"ack_policy\":\"explicit\",\"ack_wait\":3000000000,\"deliver_policy\":\"all\",\
             \"replay_policy\":\"instant\"}}}}"
        );
        let subject = ["$JS.API.CONSUMER.DURABLE.CREATE.", &stream, ".", consumer];
        publish(&subject, &[inbox, "made"], config.as_bytes(), out);
    }

    fn answered<'a>(&mut self, subject: &str, payload: &[u8]) -> Result<Heard<'a>, String> {
        let refused = error_of(payload);
        let what = subject.strip_prefix(&self.inbox).unwrap_or("");
        if what == "made" {
            return match refused {
                Some(why) => Err(format!("the server makes no consumer: {why}")),
                None => {
                    self.state = State::Open;
                    Ok(Heard::Open)
                }
            };
        }
        let number = what.parse().map_err(|_| format!("an answer to nothing: {subject}"))?;
        Ok(match refused {
            Some(_) => Heard::Refused { number, reason: code_of(payload) },
            None => Heard::Acknowledged(number),
        })
    }
}

fn stream_of(prefix: &str) -> String {
    format!("LOADGEN-{prefix}")
}

/// The description of an error, if the answer is one.
fn error_of(payload: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(payload);
    let rest = &text[text.find("\"error\":")?..];
    let described = rest.split("\"description\":\"").nth(1).and_then(|rest| rest.split('"').next());
    Some(described.unwrap_or(rest).to_owned())
}

fn code_of(payload: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(payload);
    let digits = text.split("\"code\":").nth(1).unwrap_or("");
    let end = digits.find(|one: char| !one.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// The stream's own number of a message, from the reply subject `$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIME.PENDING`
/// (or the longer form with domain and account hash in front of the stream).
fn stream_seq(reply: &str) -> Option<i64> {
    let tokens = reply.split('.').count();
    reply.split('.').nth(if tokens > 9 { 7 } else { 5 })?.parse().ok()
}

impl Driver for JetStream {
    /// The server speaks first.
    fn hello(&mut self, _: &mut Vec<u8>) {}

    fn send(&mut self, message: Outgoing<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        use std::fmt::Write as _;
        scratch.number.clear();
        write!(scratch.number, "{}", message.number).expect("writing to a string cannot fail");
        let subject = ["loadgen.", &self.prefix, ".", message.to];
        publish(&subject, &[&self.inbox, &scratch.number], message.payload, out);
    }

    fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        _: &'a mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some((taken, said)) = read(bytes)? else {
            return Ok(None);
        };
        let heard = match said {
            Said::Info if matches!(self.state, State::Greeted) => {
                out.extend_from_slice(CONNECT);
                self.subscribe(out);
                self.state = State::Subscribing;
                Heard::Other
            }
            Said::Pong if matches!(self.state, State::Subscribing) => {
                self.state = State::Open;
                Heard::Open
            }
            Said::Pong => Heard::Pong,
            Said::Ping => {
                out.extend_from_slice(b"PONG\r\n");
                Heard::Other
            }
            Said::Message { subject, sid: ANSWERS, payload, .. } => self.answered(subject, payload)?,
            Said::Message { reply, payload, .. } => {
                let reply = reply.ok_or("a message of a consumer has nowhere for its receipt")?;
                publish(&[reply], &[], b"", out);
                let order = stream_seq(reply).map(|seq| (seq.unsigned_abs(), seq));
                Heard::Message { order, payload }
            }
            Said::Info | Said::Ok => Heard::Other,
        };
        Ok(Some((taken, heard)))
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PING\r\n");
    }
}

/// Makes the run's stream: on files, without limits, one replica.
pub fn create_stream(address: SocketAddr, prefix: &str) -> Result<(), String> {
    let stream = stream_of(prefix);
    let config = format!(
        "{{\"name\":\"{stream}\",\"subjects\":[\"loadgen.{prefix}.*\"],\"storage\":\"file\",\"retention\":\"limits\",\"num_replicas\":1}}"
    );
    ask(address, &["$JS.API.STREAM.CREATE.", &stream], config.as_bytes())
        .map_err(|why| format!("nats+js://{address}: no stream: {why}"))
}

/// Removes it with its consumers.
pub fn delete_stream(address: SocketAddr, prefix: &str) -> Result<(), String> {
    ask(address, &["$JS.API.STREAM.DELETE.", &stream_of(prefix)], b"")
}

/// One question to the server, and a good answer.
fn ask(address: SocketAddr, subject: &[&str], question: &[u8]) -> Result<(), String> {
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_WITHIN).map_err(|fault| fault.to_string())?;
    socket.set_read_timeout(Some(ANSWER_WITHIN)).map_err(|fault| fault.to_string())?;
    let mut out = CONNECT.to_vec();
    out.extend_from_slice(b"SUB _INBOX.loadgen-asks 1\r\n");
    publish(subject, &["_INBOX.loadgen-asks"], question, &mut out);
    out.extend_from_slice(b"PING\r\n");
    socket.write_all(&out).map_err(|fault| fault.to_string())?;
    let (mut inbox, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Some((taken, said)) = read(&inbox)? {
            if let Said::Message { payload, .. } = said {
                // Nobody there is an empty answer with headers off, or none at all.
                return error_of(payload).map_or(Ok(()), Err);
            }
            inbox.drain(..taken);
        }
        match socket.read(&mut chunk) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(bytes) => inbox.extend_from_slice(&chunk[..bytes]),
            Err(_) => return Err(format!("no answer within {} s: is JetStream on?", ANSWER_WITHIN.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let good = br#"{"stream":"S","seq":5}"#;
        let bad = br#"{"error":{"code":503,"err_code":10076,"description":"insufficient resources"}}"#;
        assert_eq!(error_of(good), None);
        assert_eq!((error_of(bad).as_deref(), code_of(bad)), (Some("insufficient resources"), 503));
        let identity = Identity { user: "u".into(), device: 0, prefix: "p".into(), secret: 1 };
        let mut driver = JetStream::new(&identity, false);
        assert_eq!(driver.answered("_INBOX.u-d0.made", good), Ok(Heard::Open));
        assert_eq!(driver.answered("_INBOX.u-d0.17", good), Ok(Heard::Acknowledged(17)));
        assert_eq!(driver.answered("_INBOX.u-d0.18", bad), Ok(Heard::Refused { number: 18, reason: 503 }));
        assert!(driver.answered("_INBOX.other.1", good).is_err());
    }

    #[test]
    fn the_streams_number_is_found_in_both_forms() {
        assert_eq!(stream_seq("$JS.ACK.S.C.1.42.7.1700000000.0"), Some(42));
        assert_eq!(stream_seq("$JS.ACK._.HASH.S.C.1.43.7.1700000000.0.token"), Some(43));
        assert_eq!(stream_seq("elsewhere"), None);
    }
}
