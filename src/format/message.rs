//! A message as it is stored: one self-describing run of bytes, written by the leader of the channel's slot when
//! it proposes, never changed after. It lies inside a raft entry inside a journal record, and is what fetches read
//! back. The position in its channel (`message_seq`) is not in it: it is known only when the group has agreed.
//!
//! ```text
//!  0 u32 length of the whole     16 u64 unix ms        28 u8  header flags   32 u16 client_msg_no bytes
//!  4 u32 crc32 of bytes 8..len   24 u32 expire s       29 u8  setting        34 u16 topic bytes
//!  8 i64 message id                                    30 u8  from bytes     36 u64 device tag
//!                                                      31 u8  to bytes       44 from, to, client_msg_no, topic, payload
//! ```
//! Integers are little-endian. `to` is what the sender named: the peer's uid. The device tag names the device that sent
//! it, so that it is never delivered back there.

use std::fmt;

use bytes::Bytes;

use super::packet::{HeaderFlags, Setting};
use crate::ids::Uid;

const FIXED_BYTES: usize = 44;

/// The largest stored message: 32 767 payload bytes and every string at its limit, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 36 * 1024;

/// What a stored message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of SEND and of `StoredMessage`'s accessors
pub struct MessageFields<'a> {
    pub message_id: i64,
    pub unix_ms: u64,
    pub expire_s: u32,
    pub flags: HeaderFlags,
    pub setting: Setting,
    pub device_tag: u64,
    pub from: &'a str,
    pub to: &'a str,
    pub client_msg_no: &'a str,
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl MessageFields<'_> {
    /// Appends the stored form to `out`.
    ///
    /// # Panics
    /// When a string is longer than its length field; the session has refused such a SEND long before.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let total = FIXED_BYTES
            + self.from.len()
            + self.to.len()
            + self.client_msg_no.len()
            + self.topic.len()
            + self.payload.len();
        assert!(total <= MESSAGE_BYTES_MAX, "a message over the limit reached the log");
        let mut head = [0u8; FIXED_BYTES];
        head[0..4].copy_from_slice(&(total as u32).to_le_bytes());
        head[8..16].copy_from_slice(&self.message_id.to_le_bytes());
        head[16..24].copy_from_slice(&self.unix_ms.to_le_bytes());
        head[24..28].copy_from_slice(&self.expire_s.to_le_bytes());
        head[28] = self.flags.0;
        head[29] = self.setting.0;
        head[30] = u8::try_from(self.from.len()).expect("uid limit is below 256");
        head[31] = u8::try_from(self.to.len()).expect("uid limit is below 256");
        head[32..34].copy_from_slice(&(self.client_msg_no.len() as u16).to_le_bytes());
        head[34..36].copy_from_slice(&(self.topic.len() as u16).to_le_bytes());
        head[36..44].copy_from_slice(&self.device_tag.to_le_bytes());
        out.reserve(total);
        out.extend_from_slice(&head);
        out.extend_from_slice(self.from.as_bytes());
        out.extend_from_slice(self.to.as_bytes());
        out.extend_from_slice(self.client_msg_no.as_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.payload);
        let crc = crc32fast::hash(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A stored message, checked once when it was taken; clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredMessage(Bytes);

/// Why bytes are not a stored message. The disk's or the network's fault, never a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMessage {
    /// Fewer bytes than the length says; `need` is the whole length if it could be read.
    Cut {
        /// Bytes that a whole message takes here, if known.
        need: Option<usize>,
    },
    /// Lengths that contradict each other or exceed the limit.
    Malformed,
    /// The checksum does not match.
    Checksum,
    /// A string is not UTF-8.
    NotText,
}

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMessage::Cut { .. } => f.write_str("stored message is cut short"),
            BadMessage::Malformed => f.write_str("stored message has impossible lengths"),
            BadMessage::Checksum => f.write_str("stored message fails its checksum"),
            BadMessage::NotText => f.write_str("stored message holds text that is not UTF-8"),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0u8; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

impl StoredMessage {
    /// Length of the message that begins at `bytes`, checked for plausibility only.
    ///
    /// # Errors
    /// [`BadMessage::Cut`] or [`BadMessage::Malformed`].
    pub fn length(bytes: &[u8]) -> Result<usize, BadMessage> {
        if bytes.len() < 4 {
            return Err(BadMessage::Cut { need: None });
        }
        let length = u32_at(bytes, 0) as usize;
        if !(FIXED_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(BadMessage::Malformed);
        }
        if bytes.len() < length {
            return Err(BadMessage::Cut { need: Some(length) });
        }
        Ok(length)
    }

    /// Takes the message at the beginning of `bytes` after checking lengths, checksum and text; bytes behind it
    /// are left out.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn take(bytes: &Bytes) -> Result<StoredMessage, BadMessage> {
        let length = StoredMessage::length(bytes)?;
        if crc32fast::hash(&bytes[8..length]) != u32_at(bytes, 4) {
            return Err(BadMessage::Checksum);
        }
        let text = usize::from(bytes[30]) + usize::from(bytes[31]) + u16_at(bytes, 32) + u16_at(bytes, 34);
        if FIXED_BYTES + text > length {
            return Err(BadMessage::Malformed);
        }
        let message = StoredMessage(bytes.slice(..length));
        let bounds = message.bounds();
        let mut from = FIXED_BYTES;
        for to in bounds {
            if std::str::from_utf8(&bytes[from..to]).is_err() {
                return Err(BadMessage::NotText);
            }
            from = to;
        }
        Ok(message)
    }

    /// Takes the message at the beginning of bytes that this process has just encoded or checked.
    #[must_use]
    pub fn trusted(bytes: Bytes) -> StoredMessage {
        debug_assert!(StoredMessage::take(&bytes).is_ok());
        let length = u32_at(&bytes, 0) as usize;
        assert!(length <= bytes.len(), "a trusted message is whole");
        StoredMessage(bytes.slice(..length))
    }

    /// Ends of from, to, client_msg_no and topic.
    fn bounds(&self) -> [usize; 4] {
        let from = FIXED_BYTES + usize::from(self.0[30]);
        let to = from + usize::from(self.0[31]);
        let number = to + u16_at(&self.0, 32);
        [from, to, number, number + u16_at(&self.0, 34)]
    }

    fn text(&self, from: usize, to: usize) -> &str {
        std::str::from_utf8(&self.0[from..to]).expect("text was checked when the message was taken")
    }

    /// The whole stored form.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Unique over the cluster, rising within a slot.
    #[must_use]
    pub fn message_id(&self) -> i64 {
        u64_at(&self.0, 8) as i64
    }

    /// When the leader took it, milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        u64_at(&self.0, 16)
    }

    /// Lifetime in seconds, 0 is for ever; only carried.
    #[must_use]
    pub fn expire_s(&self) -> u32 {
        u32_at(&self.0, 24)
    }

    /// Header bits of the SEND.
    #[must_use]
    pub fn flags(&self) -> HeaderFlags {
        HeaderFlags(self.0[28])
    }

    /// Setting byte of the SEND.
    #[must_use]
    pub fn setting(&self) -> Setting {
        Setting(self.0[29])
    }

    /// Names the device that sent it; 0 when it came over HTTP.
    #[must_use]
    pub fn device_tag(&self) -> u64 {
        u64_at(&self.0, 36)
    }

    /// Sender's uid.
    #[must_use]
    pub fn from(&self) -> &str {
        self.text(FIXED_BYTES, self.bounds()[0])
    }

    /// The same in memory of its own.
    #[must_use]
    pub fn apart(&self) -> StoredMessage {
        StoredMessage(Bytes::copy_from_slice(&self.0))
    }

    /// Whether that user sent it.
    #[must_use]
    pub fn is_from(&self, uid: &Uid) -> bool {
        self.0[FIXED_BYTES..self.bounds()[0]] == *uid.as_str().as_bytes()
    }

    /// What the sender named: the peer's uid.
    #[must_use]
    pub fn to(&self) -> &str {
        let bounds = self.bounds();
        self.text(bounds[0], bounds[1])
    }

    /// As the sender gave it.
    #[must_use]
    pub fn client_msg_no(&self) -> &str {
        let bounds = self.bounds();
        self.text(bounds[1], bounds[2])
    }

    /// Empty when there is none.
    #[must_use]
    pub fn topic(&self) -> &str {
        let bounds = self.bounds();
        self.text(bounds[2], bounds[3])
    }

    /// Plain bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[self.bounds()[3]..]
    }
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} {}→{} {:?}", self.message_id(), self.from(), self.to(), self.client_msg_no())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_and_damage_is_seen() {
        let fields = MessageFields {
            message_id: 7,
            unix_ms: 1_700_000_000_123,
            expire_s: 60,
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0x88),
            device_tag: 99,
            from: "alice",
            to: "bob",
            client_msg_no: "n-1",
            topic: "t",
            payload: b"hello",
        };
        let mut raw = Vec::new();
        fields.encode(&mut raw);
        let length = raw.len();
        raw.extend_from_slice(b"behind");
        let message = StoredMessage::take(&Bytes::from(raw.clone())).unwrap();
        assert_eq!(message.bytes().len(), length);
        assert_eq!((message.from(), message.to()), ("alice", "bob"));
        assert_eq!((message.client_msg_no(), message.topic()), ("n-1", "t"));
        assert_eq!(message.payload(), b"hello");
        assert_eq!((message.message_id(), message.unix_ms(), message.expire_s()), (7, 1_700_000_000_123, 60));
        for at in 0..length {
            let mut bad = raw.clone();
            bad[at] ^= 0x40;
            bad.truncate(length);
            assert!(StoredMessage::take(&Bytes::from(bad)).is_err(), "flip at {at} went unseen");
        }
    }
}
