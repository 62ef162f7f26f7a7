//! NATS core: a user is a subject, its devices subscribe to it. Nothing is stored and no message is answered: a PING goes behind what is
//! written at once, and its PONG says that the server has read it. The protocol is lines of text, read here without a crate.

use std::io::Write as _;

use super::{Driver, Heard, Identity, Outgoing, PingMarks, Scratch};

/// Longest line that a server may send: INFO of a big cluster.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What the client says of itself.
pub const CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\"name\":\"loadgen\",\"protocol\":1,\"headers\":false}\r\n";

/// One thing that a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The greeting.
    Info,
    /// A message.
    Message {
        /// Where it was sent.
        subject: &'a str,
        /// Which subscription it is for.
        sid: &'a str,
        /// Where an answer goes.
        reply: Option<&'a str>,
        /// What it carries.
        payload: &'a [u8],
    },
    /// Wants a PONG.
    Ping,
    /// Answer to a PING.
    Pong,
    /// Only with `verbose`.
    Ok,
}

/// Reads one thing and how many bytes it took; `None` when it is not whole.
pub fn read(bytes: &[u8]) -> Result<Option<(usize, Said<'_>)>, String> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() > LINE_BYTES_MAX {
            Err("what came is no NATS: a line without end".to_owned())
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "what came is no NATS: a line is no text".to_owned())?;
    let line = line.trim_end_matches('\r');
    let taken = end + 1;
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let said = match word {
        "MSG" => {
            let mut parts = rest.split_ascii_whitespace();
            let (subject, sid) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let (reply, length) = match (parts.next(), parts.next()) {
                (Some(length), None) => (None, length),
                (reply, Some(length)) => (reply, length),
                _ => return Err(format!("what came is no NATS: {line}")),
            };
            let length: usize = length.parse().map_err(|_| format!("what came is no NATS: {line}"))?;
            let Some(payload) = bytes[taken..].get(..length) else {
                return Ok(None);
            };
            if bytes.len() < taken + length + 2 {
                return Ok(None);
            }
            return Ok(Some((taken + length + 2, Said::Message { subject, sid, reply, payload })));
        }
        "INFO" => Said::Info,
        "PING" => Said::Ping,
        "PONG" => Said::Pong,
        "+OK" => Said::Ok,
        "-ERR" => return Err(format!("the server says {rest}")),
        _ => return Err(format!("what came is no NATS: {line}")),
    };
    Ok(Some((taken, said)))
}

/// Appends a PUB.
pub fn publish(subject: &[&str], reply: &[&str], payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"PUB ");
    subject.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.push(b' ');
    if !reply.is_empty() {
        reply.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.push(b' ');
    }
    write!(out, "{}\r\n", payload.len()).expect("writing to memory cannot fail");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// One connection.
pub struct Nats {
    user: String,
    open: bool,
    marks: PingMarks,
}

impl Nats {
    /// Not connected yet.
    pub fn new(identity: &Identity) -> Nats {
        Nats { user: identity.user.clone(), open: false, marks: PingMarks::default() }
    }
}

impl Driver for Nats {
    /// The server speaks first.
    fn hello(&mut self, _: &mut Vec<u8>) {}

    fn send(&mut self, message: Outgoing<'_>, _: &mut Scratch, out: &mut Vec<u8>) {
        publish(&["loadgen.", message.to], &[], message.payload, out);
        self.marks.sent(message.number);
    }

    fn before_flush(&mut self, out: &mut Vec<u8>) {
        if self.marks.before_flush() {
            out.extend_from_slice(b"PING\r\n");
        }
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
            Said::Info if !self.open => {
                out.extend_from_slice(CONNECT);
                write!(out, "SUB loadgen.{} 1\r\nPING\r\n", self.user).expect("writing to memory cannot fail");
                Heard::Other
            }
            Said::Pong if !self.open => {
                self.open = true;
                Heard::Open
            }
            Said::Pong => self.marks.ponged(),
            Said::Ping => {
                out.extend_from_slice(b"PONG\r\n");
                Heard::Other
            }
            Said::Message { payload, .. } => Heard::Message { order: None, payload },
            Said::Info | Said::Ok => Heard::Other,
        };
        Ok(Some((taken, heard)))
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        self.marks.pinged();
        out.extend_from_slice(b"PING\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        let whole = b"MSG loadgen.u 1 inbox.7 5\r\nhe\r\no\r\nPING\r\n";
        let expected = Said::Message { subject: "loadgen.u", sid: "1", reply: Some("inbox.7"), payload: b"he\r\no" };
        assert_eq!(read(whole), Ok(Some((34, expected))));
        (0..34).for_each(|bytes| assert_eq!(read(&whole[..bytes]), Ok(None), "{bytes} bytes"));
        assert_eq!(read(&whole[34..]), Ok(Some((6, Said::Ping))));
    }

    #[test]
    fn an_error_of_the_server_and_another_protocol_are_told() {
        assert_eq!(read(b"-ERR 'Slow Consumer'\r\n"), Err("the server says 'Slow Consumer'".to_owned()));
        assert!(read(b"HTTP/1.1 400 Bad Request\r\n").expect_err("it is no NATS").contains("no NATS"));
        assert!(read(b"MSG a\r\n").is_err() && read(b"MSG a 1 x\r\n").is_err());
    }

    #[test]
    fn what_is_published_reads_as_it_should() {
        let mut out = Vec::new();
        publish(&["a.", "b"], &[], b"xy", &mut out);
        publish(&["a"], &["r.", "1"], b"", &mut out);
        assert_eq!(out, b"PUB a.b 2\r\nxy\r\nPUB a r.1 0\r\n\r\n");
    }
}
