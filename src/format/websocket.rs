//! RFC 6455 for both ends: the frames of an open connection. The HTTP upgrade before it is [`super::websocket_upgrade`].
//! Pure: bytes in, bytes out.
//!
//! A connection is a stream of bytes to us: what binary messages carry is passed on as it arrives, unmasked, without
//! waiting for the end of a frame or a message, because clients pack several packets into one message or split one.
//! Text messages are refused (nothing here speaks JSON-RPC). No extensions, no subprotocols.
//!
//! ```text
//! Header ──whole header, data──▶ Data ──last byte──▶ Header
//!    └─────whole header, control─▶ Control ──last byte: pong, or close echo and the end──▶ Header
//! ```

use std::fmt;

use crate::limits::PACKET_BYTES_MAX;

/// Bytes of one inbound message over all its fragments. The JS SDK packs up to 5 SENDs into one. Over it: close 1009.
pub const MESSAGE_BYTES_MAX: usize = PACKET_BYTES_MAX * 8;

/// Payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Two fixed bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// What a frame is (low nibble of its first byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are RFC 6455's
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Which end we are: a client masks what it sends and a server demands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that accepted.
    Server,
    /// The side that asked.
    Client,
}

/// Close codes (RFC 6455, section 7.4.1).
mod status {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const UNSUPPORTED: u16 = 1003;
    pub const NOT_TEXT: u16 = 1007;
    pub const TOO_LARGE: u16 = 1009;
}

/// Why no frames come any more. The close frame that answers it has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed in good order.
    Closed,
    /// The peer broke the protocol.
    Violation(&'static str),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ended::Closed => "websocket closed by the peer",
            Ended::Violation(what) => what,
        })
    }
}

/// Status and words of a violation, before its close frame is written.
struct Broken(u16, &'static str);

const fn protocol_error(what: &'static str) -> Broken {
    Broken(status::PROTOCOL_ERROR, what)
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    fin: bool,
    opcode: Opcode,
    length: usize,
    mask: Option<[u8; 4]>,
}

#[derive(Debug)]
enum State {
    /// Waiting for a whole header.
    Header,
    /// Passing payload on.
    Data { fin: bool, left: usize, mask: [u8; 4] },
    /// Gathering a control frame.
    Control { opcode: Opcode, left: usize, mask: [u8; 4], payload: Vec<u8> },
}

/// Reads one direction of a connection. Holds no payload but that of a control frame that is cut.
#[derive(Debug)]
pub struct FrameReader {
    role: Role,
    state: State,
    /// The beginning of a header that is cut.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: u8,
    /// Bytes so far of a message whose last fragment has not come.
    message_bytes: Option<usize>,
}

impl FrameReader {
    /// For the end that we are.
    #[must_use]
    pub fn new(role: Role) -> FrameReader {
        FrameReader { role, state: State::Header, head: [0; HEADER_BYTES_MAX], head_bytes: 0, message_bytes: None }
    }

    /// Takes bytes as they were read. What binary messages carry is appended to `stream`; answers (pong, close) to
    /// `reply`, masked with `reply_mask` if we are the client.
    ///
    /// # Errors
    /// The connection is over: write `reply`, then close. What was appended to `stream` before is good.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        reply_mask: [u8; 4],
        stream: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<(), Ended> {
        let mask = match self.role {
            Role::Server => None,
            Role::Client => Some(reply_mask),
        };
        let mut rest = bytes;
        let mut ended = Ok(());
        while !rest.is_empty() && ended.is_ok() {
            ended = match self.state {
                State::Header => self.take_header(&mut rest, stream),
                State::Data { .. } => {
                    self.take_data(&mut rest, stream);
                    Ok(())
                }
                State::Control { .. } => self.take_control(&mut rest),
            };
            if ended.is_ok()
                && let State::Control { opcode, left: 0, ref payload, .. } = self.state
            {
                let answered = answer_control(opcode, payload, mask, reply);
                self.state = State::Header;
                match answered {
                    Ok(None) => {}
                    Ok(Some(closed)) => return Err(closed),
                    Err(broken) => ended = Err(broken),
                }
            }
        }
        ended.map_err(|Broken(status, what)| {
            put_close(status, mask, reply);
            Ended::Violation(what)
        })
    }

    /// Gathers header bytes until the header is whole.
    fn take_header(&mut self, rest: &mut &[u8], stream: &mut Vec<u8>) -> Result<(), Broken> {
        let held = usize::from(self.head_bytes);
        let taken = rest.len().min(HEADER_BYTES_MAX - held);
        self.head[held..held + taken].copy_from_slice(&rest[..taken]);
        let Some((header, header_bytes)) = parse_header(&self.head[..held + taken], self.role)? else {
            self.head_bytes = (held + taken) as u8;
            *rest = &rest[taken..];
            return Ok(());
        };
        // A header that was cut before is not cut behind the bytes held: it would have been whole then.
        *rest = &rest[header_bytes - held..];
        self.head_bytes = 0;
        self.begin_frame(header)?;
        if matches!(self.state, State::Data { left: 0, .. }) {
            self.take_data(rest, stream);
        }
        Ok(())
    }

    fn begin_frame(&mut self, header: Header) -> Result<(), Broken> {
        let mask = header.mask.unwrap_or([0; 4]);
        let before = match (header.opcode, self.message_bytes) {
            (Opcode::Text, _) => return Err(Broken(status::UNSUPPORTED, "websocket text message")),
            (Opcode::Binary, None) => 0,
            (Opcode::Binary, Some(_)) => {
                return Err(protocol_error("websocket message begins inside another"));
            }
            (Opcode::Continuation, Some(before)) => before,
            (Opcode::Continuation, None) => {
                return Err(protocol_error("websocket continuation of nothing"));
            }
            (opcode, _) => {
                self.state = State::Control { opcode, left: header.length, mask, payload: Vec::new() };
                return Ok(());
            }
        };
        if header.length > MESSAGE_BYTES_MAX - before {
            return Err(Broken(status::TOO_LARGE, "websocket message is larger than the limit"));
        }
        self.message_bytes = Some(before + header.length);
        self.state = State::Data { fin: header.fin, left: header.length, mask };
        Ok(())
    }

    fn take_data(&mut self, rest: &mut &[u8], stream: &mut Vec<u8>) {
        let State::Data { fin, left, mask } = &mut self.state else {
            return;
        };
        take_payload(rest, left, mask, stream);
        if *left == 0 {
            if *fin {
                self.message_bytes = None;
            }
            self.state = State::Header;
        }
    }

    fn take_control(&mut self, rest: &mut &[u8]) -> Result<(), Broken> {
        if let State::Control { left, mask, payload, .. } = &mut self.state {
            take_payload(rest, left, mask, payload);
        }
        Ok(())
    }
}

/// Moves what there is of a payload, unmasked; turns the mask so that it fits the next byte.
fn take_payload(rest: &mut &[u8], left: &mut usize, mask: &mut [u8; 4], out: &mut Vec<u8>) {
    let taken = rest.len().min(*left);
    let start = out.len();
    out.extend_from_slice(&rest[..taken]);
    apply_mask(&mut out[start..], *mask);
    mask.rotate_left(taken % 4);
    *left -= taken;
    *rest = &rest[taken..];
}

/// Masks or unmasks in place, from the mask's first byte on.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    if wide == 0 {
        return;
    }
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// Answers a whole control frame. `Some` when it was a close.
fn answer_control(
    opcode: Opcode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
    reply: &mut Vec<u8>,
) -> Result<Option<Ended>, Broken> {
    match opcode {
        Opcode::Ping => {
            put_frame(Opcode::Pong, payload, mask, reply);
            Ok(None)
        }
        Opcode::Close => {
            put_close(close_status(payload)?, mask, reply);
            Ok(Some(Ended::Closed))
        }
        _ => Ok(None),
    }
}

/// The status to echo.
fn close_status(payload: &[u8]) -> Result<u16, Broken> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(status::NORMAL)
        } else {
            Err(protocol_error("websocket close with half a status"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol_error("websocket close with an impossible status"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Broken(status::NOT_TEXT, "websocket close with a reason that is not UTF-8"));
    }
    Ok(code)
}

/// Reads a header; `None` while it is cut. Gives its length.
fn parse_header(bytes: &[u8], role: Role) -> Result<Option<(Header, usize)>, Broken> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(protocol_error("websocket frame uses reserved bits"));
    }
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(protocol_error("websocket opcode is unknown")),
    };
    let fin = first & 0x80 != 0;
    let masked = second & 0x80 != 0;
    match (role, masked) {
        (Role::Server, false) => {
            return Err(protocol_error("websocket frame of a client is not masked"));
        }
        (Role::Client, true) => {
            return Err(protocol_error("websocket frame of a server is masked"));
        }
        _ => {}
    }
    let Some((length, length_bytes)) = parse_length(second & 0x7f, rest)? else {
        return Ok(None);
    };
    let control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
    if control && (!fin || length > CONTROL_BYTES_MAX) {
        return Err(protocol_error("websocket control frame is fragmented or too long"));
    }
    let rest = &rest[length_bytes..];
    let mask = if masked {
        let Some((mask, _)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        Some(*mask)
    } else {
        None
    };
    let header_bytes = 2 + length_bytes + if masked { 4 } else { 0 };
    Ok(Some((Header { fin, opcode, length, mask }, header_bytes)))
}

/// The payload's length and how many bytes behind the second one said so.
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(usize, usize)>, Broken> {
    let not_shortest = || protocol_error("websocket length is not in its shortest form");
    match short {
        126 => match rest.split_first_chunk::<2>() {
            None => Ok(None),
            Some((raw, _)) => match u16::from_be_bytes(*raw) {
                0..126 => Err(not_shortest()),
                length => Ok(Some((usize::from(length), 2))),
            },
        },
        127 => match rest.split_first_chunk::<8>() {
            None => Ok(None),
            Some((raw, _)) => match u64::from_be_bytes(*raw) {
                0..0x1_0000 => Err(not_shortest()),
                length => match usize::try_from(length) {
                    Ok(length) if length <= MESSAGE_BYTES_MAX => Ok(Some((length, 8))),
                    _ => Err(Broken(status::TOO_LARGE, "websocket message is larger than the limit")),
                },
            },
        },
        length => Ok(Some((usize::from(length), 0))),
    }
}

/// Appends the header of an unfragmented frame; the caller appends the payload, masked if `mask` is given.
pub fn put_header(opcode: Opcode, payload_bytes: usize, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode as u8);
    match payload_bytes {
        0..126 => out.push(masked | payload_bytes as u8),
        126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// Appends an unfragmented frame.
pub fn put_frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    put_header(opcode, payload.len(), mask, out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

/// Appends a close frame with a status and no words.
pub fn put_close(status: u16, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    put_frame(Opcode::Close, &status.to_be_bytes(), mask, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(bytes: &[u8]) -> (Vec<u8>, Vec<u8>, Result<(), Ended>) {
        let (mut stream, mut reply) = (Vec::new(), Vec::new());
        let ended = FrameReader::new(Role::Server).feed(bytes, [0; 4], &mut stream, &mut reply);
        (stream, reply, ended)
    }

    /// A masked frame with a free first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(Opcode::Binary, payload, Some([1, 2, 3, 4]), &mut out);
        out[0] = first;
        out
    }

    #[test]
    fn the_example_of_the_rfc_is_unmasked() {
        let (stream, _, ended) = server(&[0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!((stream.as_slice(), ended), (&b"Hello"[..], Ok(())));
    }

    #[test]
    fn fragments_and_a_ping_between_them_at_every_cut() {
        let mut bytes = frame(0x02, b"abc");
        bytes.extend(frame(0x89, b"are you there"));
        bytes.extend(frame(0x00, b""));
        bytes.extend(frame(0x80, &[b'x'; 300]));
        bytes.extend(frame(0x82, b"next"));
        let mut expected = b"abc".to_vec();
        expected.extend([b'x'; 300]);
        expected.extend(b"next");
        for cut in 0..bytes.len() {
            let mut reader = FrameReader::new(Role::Server);
            let (mut stream, mut reply) = (Vec::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                assert_eq!(reader.feed(part, [0; 4], &mut stream, &mut reply), Ok(()));
            }
            assert_eq!(stream, expected, "cut at {cut}");
            let mut pong = Vec::new();
            put_frame(Opcode::Pong, b"are you there", None, &mut pong);
            assert_eq!(reply, pong);
        }
    }

    #[test]
    fn a_close_is_echoed_with_its_status_and_ends_the_connection() {
        let mut bytes = frame(0x82, b"last words");
        bytes.extend(frame(0x88, &[0x03, 0xe9, b'b', b'y', b'e']));
        bytes.extend(frame(0x82, b"unheard"));
        let (stream, reply, ended) = server(&bytes);
        assert_eq!(stream, b"last words");
        assert_eq!(reply, [0x88, 2, 0x03, 0xe9]);
        assert_eq!(ended, Err(Ended::Closed));
        assert_eq!(server(&frame(0x88, b"")).1, [0x88, 2, 0x03, 0xe8]);
    }

    #[test]
    fn violations_are_named_and_answered_with_their_status() {
        let closes = |bytes: &[u8], status: u16| {
            let (_, reply, ended) = server(bytes);
            assert!(matches!(ended, Err(Ended::Violation(_))), "{bytes:02x?}");
            assert_eq!(reply, [&[0x88, 2][..], &status.to_be_bytes()].concat(), "{bytes:02x?}");
        };
        closes(&[0x82, 0x01, b'a'], 1002); // not masked
        closes(&frame(0xc2, b""), 1002); // reserved bit
        closes(&frame(0x83, b""), 1002); // unknown opcode
        closes(&frame(0x80, b"a"), 1002); // continuation of nothing
        closes(&[frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002); // begins inside another
        closes(&frame(0x09, b""), 1002); // fragmented control
        closes(&frame(0x89, &[0; 126]), 1002); // long control
        closes(&[0x82, 0xfe, 0, 125, 0, 0, 0, 0], 1002); // not the shortest length
        closes(&frame(0x81, b"{}"), 1003); // text
        closes(&frame(0x88, &[3]), 1002); // half a status
        closes(&frame(0x88, &[3, 0xed]), 1002); // 1005 is never on the wire
        closes(&frame(0x88, &[3, 0xe8, 0xff]), 1007); // reason is not text
        closes(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0], 1009); // one MiB
        let half = vec![0; MESSAGE_BYTES_MAX];
        closes(&[frame(0x02, &half), frame(0x80, b"a")].concat(), 1009);
    }

    #[test]
    fn a_client_masks_its_answers_and_refuses_masked_frames() {
        let mut ping = Vec::new();
        put_frame(Opcode::Ping, b"hi", None, &mut ping);
        let (mut stream, mut reply) = (Vec::new(), Vec::new());
        let mut reader = FrameReader::new(Role::Client);
        assert_eq!(reader.feed(&ping, [9, 8, 7, 6], &mut stream, &mut reply), Ok(()));
        assert_eq!(reply, [0x8a, 0x82, 9, 8, 7, 6, b'h' ^ 9, b'i' ^ 8]);
        assert!(reader.feed(&frame(0x82, b"a"), [0; 4], &mut stream, &mut reply).is_err());
    }
}
