//! What the simulation knows to be true: every message that a client or a backend tried to send, what it was answered, and
//! which device has seen it. Checkers judge by it; the router never sees it. A message is named by a number that is in
//! its `client_msg_no`, and its payload follows from the number, so damage is visible in any copy.

use std::collections::{BTreeMap, BTreeSet};

/// Names a message.
pub type Number = u32;

/// Bytes of a number as text.
pub const NUMBER_TEXT_BYTES: usize = 12;

const PREFIX: &[u8; 4] = b"JDN-";

/// The `client_msg_no` of a number.
pub fn number_text(number: Number) -> String {
    format!("JDN-{number:08x}")
}

/// The number of a `client_msg_no`.
pub fn parse_number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix("JDN-")?;
    if digits.len() == 8 { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// Puts every number that occurs in `bytes` into `found`.
pub fn find_numbers(bytes: &[u8], found: &mut BTreeSet<Number>) {
    let mut at = 0;
    while at + NUMBER_TEXT_BYTES <= bytes.len() {
        if bytes[at] == b'J' && &bytes[at..at + 4] == PREFIX {
            let text = std::str::from_utf8(&bytes[at..at + NUMBER_TEXT_BYTES]).unwrap_or("");
            if let Some(number) = parse_number(text) {
                found.insert(number);
            }
        }
        at += 1;
    }
}

/// The payload of a number: begins with `{`, so that a cut one is seen, and no two are alike.
pub fn payload(number: Number, bytes: usize, other: bool) -> Vec<u8> {
    let mut out = format!("{{\"type\":1,\"n\":{number},\"o\":{}}}", u8::from(other)).into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9) | 1;
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        out.push(b'a' + (state % 26) as u8);
    }
    out
}

/// A user by index.
pub type UserIndex = usize;

/// A device family of a user: what owns a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Whose.
    pub user: UserIndex,
    /// Device flag.
    pub flag: u8,
}

/// What kind of log holds a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogKey {
    /// Two users, the smaller index first.
    Pair(UserIndex, UserIndex),
    /// A user's command queue.
    Command(UserIndex),
}

/// How a message is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Stored in the pair's log.
    Stored,
    /// Reaches who is online, not stored.
    Transient,
    /// Stored in the recipient's command queue.
    Command,
}

/// A success answer: what the router says the message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Server's id.
    pub message_id: i64,
    /// Position.
    pub seq: u32,
    /// When the answer left the shard.
    pub at_ns: u64,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Sender.
    pub from: UserIndex,
    /// Recipient.
    pub to: UserIndex,
    /// How it is meant.
    pub kind: Kind,
    /// Length of its payload.
    pub payload_bytes: usize,
    /// The sending device, by index; `None` for a backend.
    pub device: Option<usize>,
    /// The first success answer that came back to the sender.
    pub accepted: Option<Accepted>,
    /// Families that must see it, fixed when it was first sent.
    pub wanted_by: BTreeSet<Family>,
    /// Families that have seen it.
    pub seen_by: BTreeSet<Family>,
    /// Families for which the router gave up after its last try, as it may.
    pub abandoned_by: BTreeSet<Family>,
}

impl Sent {
    /// The log it belongs to.
    pub fn log(&self) -> LogKey {
        match self.kind {
            Kind::Command => LogKey::Command(self.to),
            _ => pair_log(self.from, self.to),
        }
    }
}

/// The log of two users.
pub fn pair_log(a: UserIndex, b: UserIndex) -> LogKey {
    LogKey::Pair(a.min(b), a.max(b))
}

/// Everything sent.
#[derive(Default)]
pub struct Ledger {
    /// By number.
    pub sent: BTreeMap<Number, Sent>,
    /// Families that had a successful CONNECT, and since when.
    pub families: BTreeMap<Family, u64>,
    next_number: Number,
}

impl Ledger {
    /// A fresh number.
    pub fn next_number(&mut self) -> Number {
        self.next_number += 1;
        self.next_number
    }

    /// Notes a message at its first sending and fixes who must see it: every family that exists now, of the recipient and of the
    /// sender, except the sending one. A sender sees copies of ordinary stored messages only.
    pub fn note_sent(&mut self, number: Number, mut sent: Sent, sending_flag: Option<u8>) {
        if sent.kind != Kind::Transient {
            for family in self.families.keys() {
                let recipient = family.user == sent.to;
                let own = family.user == sent.from && Some(family.flag) != sending_flag;
                if (recipient && (sent.from != sent.to || Some(family.flag) != sending_flag))
                    || (own && sent.kind == Kind::Stored)
                {
                    sent.wanted_by.insert(*family);
                }
            }
        }
        let before = self.sent.insert(number, sent);
        assert!(before.is_none(), "a number names one message");
    }

    /// Accepted, stored messages that a family must still see.
    pub fn missing(&self) -> impl Iterator<Item = (Number, &Sent, Family)> {
        self.sent.iter().filter(|(_, sent)| sent.accepted.is_some()).flat_map(|(number, sent)| {
            let open = sent.wanted_by.iter().filter(|family| !sent.seen_by.contains(family));
            open.filter(|family| !sent.abandoned_by.contains(family)).map(move |family| (*number, sent, *family))
        })
    }
}
