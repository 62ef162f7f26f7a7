//! Bytes ↔ [`Packet`] in both directions, at the version that a session has agreed on. Nothing is allocated when
//! decoding: texts and payloads are borrowed from the buffer. Does not decipher ([`super::packet_cipher`]), does not
//! gather bytes into whole packets ([`super::pipeline`]), and does not judge what a packet asks for.
//!
//! ```text
//! byte 0      type (high nibble), flags (low nibble)
//! byte 1..    remaining length: 7 bits a byte, least significant first, at most 4 bytes; absent for PING and PONG
//! then        the body, big-endian; text is a u16 length and as many bytes of UTF-8
//! ```
//! What differs by version: stream fields from 2 to 4, `expire` from 3, `node_id` from 4, 64-bit `message_seq` from 6.

use std::fmt;

use super::packet::{
    Connack, Connect, Disconnect, EventPacket, HeaderFlags, Packet, Recv, Recvack, Send, Sendack, Setting,
    StreamFields, Sub, Suback,
};
use crate::limits::PACKET_BYTES_MAX;

/// Longest text on the wire: every other codec reads the length as a signed 16-bit number.
pub const TEXT_BYTES_MAX: usize = 32_767;

/// The newest version that we speak to clients. 6 is understood here for the sake of the vectors only.
pub const VERSION_MAX: u8 = 5;

/// First byte of a CONNACK carries this bit when a server version follows.
const HAS_SERVER_VERSION: u8 = 1;

/// Bytes that are no packet; the peer's fault. Says what is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What the beginning of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole packet, and how many bytes it took.
    Packet(Packet<'a>, usize),
    /// The beginning of one.
    Incomplete {
        /// The buffer must hold at least this many bytes before it is worth trying again.
        need: usize,
    },
}

/// Packet types, the high nibble of byte 0.
mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const SEND: u8 = 3;
    pub const SENDACK: u8 = 4;
    pub const RECV: u8 = 5;
    pub const RECVACK: u8 = 6;
    pub const PING: u8 = 7;
    pub const PONG: u8 = 8;
    pub const DISCONNECT: u8 = 9;
    pub const SUB: u8 = 10;
    pub const SUBACK: u8 = 11;
    pub const EVENT: u8 = 12;
}

/// Reads the packet at the beginning of `bytes`.
///
/// # Errors
/// When no continuation of the bytes could be a packet at this version.
#[inline]
pub fn decode(bytes: &[u8], version: u8) -> Result<Decoded<'_>, Malformed> {
    let Some(&first) = bytes.first() else {
        return Ok(Decoded::Incomplete { need: 1 });
    };
    let flags = first & 0x0f;
    match first >> 4 {
        0 => return Err(Malformed("packet type 0 is reserved")),
        kind::PING => return Ok(Decoded::Packet(Packet::Ping, 1)),
        kind::PONG => return Ok(Decoded::Packet(Packet::Pong, 1)),
        kind::CONNECT..=kind::EVENT => {}
        _ => return Err(Malformed("packet type is unknown")),
    }
    let Some((body_bytes, body_at)) = remaining_length(bytes)? else {
        return Ok(Decoded::Incomplete { need: bytes.len() + 1 });
    };
    let end = body_at + body_bytes;
    if bytes.len() < end {
        return Ok(Decoded::Incomplete { need: end });
    }
    let mut body = Body { rest: &bytes[body_at..end] };
    let packet = decode_body(first >> 4, HeaderFlags(flags), &mut body, version)?;
    if !body.rest.is_empty() {
        return Err(Malformed("packet is longer than its fields"));
    }
    Ok(Decoded::Packet(packet, end))
}

/// The remaining length and where the body begins; `None` when it is cut.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0usize;
    for index in 0..4 {
        let Some(&byte) = bytes.get(1 + index) else {
            return Ok(None);
        };
        value |= usize::from(byte & 0x7f) << (7 * index);
        if value > PACKET_BYTES_MAX {
            return Err(Malformed("packet claims to be larger than the limit"));
        }
        if byte & 0x80 == 0 {
            return Ok(Some((value, 2 + index)));
        }
    }
    Err(Malformed("remaining length takes more than 4 bytes"))
}

/// What is left of a packet's body.
struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Malformed("packet ends in the middle of a field"));
        };
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        if length > TEXT_BYTES_MAX {
            return Err(Malformed("text is longer than 32767 bytes"));
        }
        let Some((head, rest)) = self.rest.split_at_checked(length) else {
            return Err(Malformed("text ends behind its packet"));
        };
        self.rest = rest;
        std::str::from_utf8(head).map_err(|_| Malformed("text is not UTF-8"))
    }

    fn message_seq(&mut self, version: u8) -> Result<u64, Malformed> {
        if version < 6 { self.u32().map(u64::from) } else { self.u64() }
    }

    /// The end of the body, which is all that is left.
    fn payload(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

fn has_stream_fields(setting: Setting, version: u8) -> bool {
    (2..5).contains(&version) && setting.0 & Setting::STREAM != 0
}

fn decode_body<'a>(kind: u8, flags: HeaderFlags, body: &mut Body<'a>, version: u8) -> Result<Packet<'a>, Malformed> {
    Ok(match kind {
        kind::CONNECT => Packet::Connect(decode_connect(body)?),
        kind::CONNACK => Packet::Connack(decode_connack(flags, body, version)?),
        kind::SEND => Packet::Send(decode_send(flags, body, version)?),
        kind::SENDACK => Packet::Sendack(Sendack {
            flags,
            message_id: body.i64()?,
            client_seq: body.u32()?,
            message_seq: body.message_seq(version)?,
            reason: body.u8()?,
            client_msg_no: if body.rest.is_empty() { "" } else { body.text()? },
        }),
        kind::RECV => Packet::Recv(decode_recv(flags, body, version)?),
        kind::RECVACK => {
            Packet::Recvack(Recvack { flags, message_id: body.i64()?, message_seq: body.message_seq(version)? })
        }
        kind::DISCONNECT => Packet::Disconnect(Disconnect { reason: body.u8()?, text: body.text()? }),
        kind::SUB => Packet::Sub(Sub {
            setting: Setting(body.u8()?),
            sub_no: body.text()?,
            channel_id: body.text()?,
            channel_type: body.u8()?,
            action: body.u8()?,
            param: body.text()?,
        }),
        kind::SUBACK => Packet::Suback(Suback {
            sub_no: body.text()?,
            channel_id: body.text()?,
            channel_type: body.u8()?,
            action: body.u8()?,
            reason: body.u8()?,
        }),
        kind::EVENT => Packet::Event(EventPacket {
            id: body.text()?,
            kind: body.text()?,
            timestamp_ms: body.i64()?,
            data: body.payload(),
        }),
        _ => return Err(Malformed("packet type is unknown")),
    })
}

fn decode_connect<'a>(body: &mut Body<'a>) -> Result<Connect<'a>, Malformed> {
    Ok(Connect {
        version: body.u8()?,
        device_flag: body.u8()?,
        device_id: body.text()?,
        uid: body.text()?,
        token: body.text()?,
        client_timestamp_ms: body.i64()?,
        client_key: body.text()?,
    })
}

fn decode_connack<'a>(flags: HeaderFlags, body: &mut Body<'a>, version: u8) -> Result<Connack<'a>, Malformed> {
    let server_version = if flags.0 & HAS_SERVER_VERSION != 0 { Some(body.u8()?) } else { None };
    let mut connack = Connack {
        server_version,
        time_diff_ms: body.i64()?,
        reason: body.u8()?,
        server_key: body.text()?,
        salt: body.text()?,
        node_id: 0,
    };
    // A server that names no version may be older than the version we asked for, and then sends no node id.
    let older = server_version.is_none() && body.rest.is_empty();
    if server_version.unwrap_or(version) >= 4 && !older {
        connack.node_id = body.u64()?;
    }
    Ok(connack)
}

fn decode_send<'a>(flags: HeaderFlags, body: &mut Body<'a>, version: u8) -> Result<Send<'a>, Malformed> {
    let setting = Setting(body.u8()?);
    Ok(Send {
        flags,
        setting,
        client_seq: body.u32()?,
        client_msg_no: body.text()?,
        stream_no: if has_stream_fields(setting, version) { body.text()? } else { "" },
        channel_id: body.text()?,
        channel_type: body.u8()?,
        expire: if version >= 3 { body.u32()? } else { 0 },
        msg_key: body.text()?,
        topic: if setting.has_topic() { body.text()? } else { "" },
        payload: body.payload(),
    })
}

fn decode_recv<'a>(flags: HeaderFlags, body: &mut Body<'a>, version: u8) -> Result<Recv<'a>, Malformed> {
    let setting = Setting(body.u8()?);
    Ok(Recv {
        flags,
        setting,
        msg_key: body.text()?,
        from_uid: body.text()?,
        channel_id: body.text()?,
        channel_type: body.u8()?,
        expire: if version >= 3 { body.u32()? } else { 0 },
        client_msg_no: body.text()?,
        stream: if has_stream_fields(setting, version) {
            Some(StreamFields { stream_flag: body.u8()?, stream_no: body.text()?, stream_id: body.u64()? })
        } else {
            None
        },
        message_id: body.i64()?,
        message_seq: body.message_seq(version)?,
        timestamp_s: i32::from_be_bytes(body.take()?),
        topic: if setting.has_topic() { body.text()? } else { "" },
        payload: body.payload(),
    })
}

/// Bytes that [`encode`] will append.
#[must_use]
pub fn encoded_bytes(packet: &Packet<'_>, version: u8) -> usize {
    let mut body = Counted(0);
    put_body(packet, version, &mut body);
    header_bytes(packet, body.0) + body.0
}

/// Appends a packet.
///
/// # Panics
/// When a text is longer than [`TEXT_BYTES_MAX`]: whoever makes packets keeps their parts within the named limits.
pub fn encode(packet: &Packet<'_>, version: u8, out: &mut Vec<u8>) {
    let mut body = Counted(0);
    put_body(packet, version, &mut body);
    out.reserve(5 + body.0);
    put_header(packet, body.0, out);
    put_body(packet, version, out);
}

/// A RECV or SEND whose payload is still to be written behind its other fields: for sealing in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where in `out` the text of `msg_key` begins.
    pub msg_key_at: usize,
}

/// Bytes that [`begin`] and `payload_bytes` of payload make together.
#[must_use]
pub fn begun_bytes(packet: &Packet<'_>, version: u8, payload_bytes: usize) -> usize {
    let mut body = Counted(0);
    put_body(packet, version, &mut body);
    let body_bytes = body.0 + payload_bytes;
    header_bytes(packet, body_bytes) + body_bytes
}

/// Appends a RECV or SEND that has an empty payload in `packet`, but promises `payload_bytes` of it: the caller must
/// append exactly as many.
///
/// # Panics
/// As [`encode`].
pub fn begin(packet: &Packet<'_>, version: u8, payload_bytes: usize, out: &mut Vec<u8>) -> Begun {
    let mut body = Counted(0);
    put_body(packet, version, &mut body);
    out.reserve(5 + body.0 + payload_bytes);
    put_header(packet, body.0 + payload_bytes, out);
    let msg_key_at = put_body(packet, version, out);
    Begun { msg_key_at }
}

fn type_and_flags(packet: &Packet<'_>) -> u8 {
    let (kind, flags) = match packet {
        Packet::Connect(_) => (kind::CONNECT, 0),
        Packet::Connack(connack) => (kind::CONNACK, u8::from(connack.server_version.is_some()) * HAS_SERVER_VERSION),
        Packet::Send(send) => (kind::SEND, send.flags.0),
        Packet::Sendack(sendack) => (kind::SENDACK, sendack.flags.0),
        Packet::Recv(recv) => (kind::RECV, recv.flags.0),
        Packet::Recvack(recvack) => (kind::RECVACK, recvack.flags.0),
        Packet::Ping => (kind::PING, 0),
        Packet::Pong => (kind::PONG, 0),
        Packet::Disconnect(_) => (kind::DISCONNECT, 0),
        Packet::Sub(_) => (kind::SUB, 0),
        Packet::Suback(_) => (kind::SUBACK, 0),
        Packet::Event(_) => (kind::EVENT, 0),
    };
    kind << 4 | flags & 0x0f
}

fn is_one_byte(packet: &Packet<'_>) -> bool {
    matches!(packet, Packet::Ping | Packet::Pong)
}

/// Bytes of type, flags and remaining length.
fn header_bytes(packet: &Packet<'_>, body_bytes: usize) -> usize {
    if is_one_byte(packet) {
        return 1;
    }
    match body_bytes {
        0..0x80 => 2,
        0x80..0x4000 => 3,
        0x4000..0x20_0000 => 4,
        _ => 5,
    }
}

fn put_header(packet: &Packet<'_>, body_bytes: usize, out: &mut Vec<u8>) {
    out.push(type_and_flags(packet));
    if is_one_byte(packet) {
        return;
    }
    let mut left = body_bytes;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Where a body goes: into a buffer, or only into its count, so that length and bytes cannot disagree.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
    fn position(&self) -> usize;

    fn put_text(&mut self, text: &str) {
        assert!(text.len() <= TEXT_BYTES_MAX, "a text of a packet is over the limit");
        self.put(&(text.len() as u16).to_be_bytes());
        self.put(text.as_bytes());
    }

    fn put_message_seq(&mut self, seq: u64, version: u8) {
        if version < 6 {
            self.put(&u32::try_from(seq).unwrap_or(u32::MAX).to_be_bytes());
        } else {
            self.put(&seq.to_be_bytes());
        }
    }
}

struct Counted(usize);

impl Sink for Counted {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn position(&self) -> usize {
        self.0
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn position(&self) -> usize {
        self.len()
    }
}

/// Writes a body; for SEND and RECV gives the place of the text of `msg_key`, else 0.
#[inline]
fn put_body(packet: &Packet<'_>, version: u8, out: &mut impl Sink) -> usize {
    match packet {
        Packet::Send(send) => return put_send(send, version, out),
        Packet::Recv(recv) => return put_recv(recv, version, out),
        Packet::Connect(connect) => put_connect(connect, out),
        Packet::Connack(connack) => put_connack(connack, version, out),
        Packet::Sendack(sendack) => {
            out.put(&sendack.message_id.to_be_bytes());
            out.put(&sendack.client_seq.to_be_bytes());
            out.put_message_seq(sendack.message_seq, version);
            out.put(&[sendack.reason]);
            if !sendack.client_msg_no.is_empty() {
                out.put_text(sendack.client_msg_no);
            }
        }
        Packet::Recvack(recvack) => {
            out.put(&recvack.message_id.to_be_bytes());
            out.put_message_seq(recvack.message_seq, version);
        }
        Packet::Ping | Packet::Pong => {}
        Packet::Disconnect(disconnect) => {
            out.put(&[disconnect.reason]);
            out.put_text(disconnect.text);
        }
        Packet::Sub(sub) => {
            out.put(&[sub.setting.0]);
            out.put_text(sub.sub_no);
            out.put_text(sub.channel_id);
            out.put(&[sub.channel_type, sub.action]);
            out.put_text(sub.param);
        }
        Packet::Suback(suback) => {
            out.put_text(suback.sub_no);
            out.put_text(suback.channel_id);
            out.put(&[suback.channel_type, suback.action, suback.reason]);
        }
        Packet::Event(event) => {
            out.put_text(event.id);
            out.put_text(event.kind);
            out.put(&event.timestamp_ms.to_be_bytes());
            out.put(event.data);
        }
    }
    0
}

fn put_connect(connect: &Connect<'_>, out: &mut impl Sink) {
    out.put(&[connect.version, connect.device_flag]);
    out.put_text(connect.device_id);
    out.put_text(connect.uid);
    out.put_text(connect.token);
    out.put(&connect.client_timestamp_ms.to_be_bytes());
    out.put_text(connect.client_key);
}

fn put_connack(connack: &Connack<'_>, version: u8, out: &mut impl Sink) {
    if let Some(server_version) = connack.server_version {
        out.put(&[server_version]);
    }
    out.put(&connack.time_diff_ms.to_be_bytes());
    out.put(&[connack.reason]);
    out.put_text(connack.server_key);
    out.put_text(connack.salt);
    if connack.server_version.unwrap_or(version) >= 4 {
        out.put(&connack.node_id.to_be_bytes());
    }
}

#[inline]
fn put_send(send: &Send<'_>, version: u8, out: &mut impl Sink) -> usize {
    out.put(&[send.setting.0]);
    out.put(&send.client_seq.to_be_bytes());
    out.put_text(send.client_msg_no);
    if has_stream_fields(send.setting, version) {
        out.put_text(send.stream_no);
    }
    out.put_text(send.channel_id);
    out.put(&[send.channel_type]);
    if version >= 3 {
        out.put(&send.expire.to_be_bytes());
    }
    let msg_key_at = out.position() + 2;
    out.put_text(send.msg_key);
    if send.setting.has_topic() {
        out.put_text(send.topic);
    }
    out.put(send.payload);
    msg_key_at
}

#[inline]
fn put_recv(recv: &Recv<'_>, version: u8, out: &mut impl Sink) -> usize {
    out.put(&[recv.setting.0]);
    let msg_key_at = out.position() + 2;
    out.put_text(recv.msg_key);
    out.put_text(recv.from_uid);
    out.put_text(recv.channel_id);
    out.put(&[recv.channel_type]);
    if version >= 3 {
        out.put(&recv.expire.to_be_bytes());
    }
    out.put_text(recv.client_msg_no);
    if has_stream_fields(recv.setting, version) {
        let stream = recv.stream.unwrap_or(StreamFields { stream_flag: 0, stream_no: "", stream_id: 0 });
        out.put(&[stream.stream_flag]);
        out.put_text(stream.stream_no);
        out.put(&stream.stream_id.to_be_bytes());
    }
    out.put(&recv.message_id.to_be_bytes());
    out.put_message_seq(recv.message_seq, version);
    out.put(&recv.timestamp_s.to_be_bytes());
    if recv.setting.has_topic() {
        out.put_text(recv.topic);
    }
    out.put(recv.payload);
    msg_key_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_vectors_and_five_bytes_are_refused() {
        for (value, text) in [
            (1usize, &[0x01u8][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
        ] {
            let mut out = Vec::new();
            let event = Packet::Event(EventPacket { id: "", kind: "", timestamp_ms: 0, data: &[] });
            put_header(&event, value, &mut out);
            assert_eq!(&out[1..], text);
            assert_eq!(out.len(), header_bytes(&event, value));
            assert_eq!(remaining_length(&out), Ok(Some((value, out.len()))));
        }
        assert!(remaining_length(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert!(remaining_length(&[0x30, 0x80, 0x80, 0x40]).is_err(), "one MiB is over our limit");
    }

    #[test]
    fn a_packet_longer_than_its_fields_is_refused() {
        let bytes = [0x90, 0x04, 0x0c, 0x00, 0x00, 0x55];
        assert_eq!(decode(&bytes, 5), Err(Malformed("packet is longer than its fields")));
        assert_eq!(decode(&bytes[..3], 5), Ok(Decoded::Incomplete { need: 6 }));
    }
}
