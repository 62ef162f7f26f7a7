//! What a slot's group agrees on: commands, several in one raft entry. The layout is our own so that no byte from a
//! peer reaches a general parser; integers are little-endian.
//!
//! ```text
//! 1 Append    u8 kind, u16 id length, id, u32 announced, u64 fingerprint, stored message
//! 2 Row       u8 uid length, uid, u8 kind, u16 id length, id, u32 last, u32 read, u8 cursors, (u8 flag, u32 seq)…
//! 3 Token     u8 uid length, uid, u8 flag, u8 level, u16 token length, token
//! 4 Quit      u8 uid length, uid, u8 flag (255: all)
//! 5 NewFlag   u8 uid length, uid, u8 flag
//! 6 Split     u64 plan, u8 depth, u16 child, u8 replicas, u64…
//! 7 Freeze    u64 plan, u8 depth
//! 8 Absorb    u64 plan, u8 depth; always the first of its entry
//! ```

use bytes::Bytes;

use crate::format::message::{MESSAGE_BYTES_MAX, StoredMessage};
use crate::ids::{ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, ReplicaId, SlotId};
use crate::limits::{ENTRY_BYTES_MAX, TOKEN_BYTES_MAX, UID_BYTES_MAX};

/// What there may be beside the longest message, or instead of one: names, a token, a cursor of every flag, a slot's replicas. Checked where it
/// is encoded: counts are bytes, and who takes names in bounds them.
const WORDS_BYTES_MAX: usize = 4 * UID_BYTES_MAX + TOKEN_BYTES_MAX + 256 * 8 + 64;

// A command is never more than an entry may be.
const _: () = assert!(MESSAGE_BYTES_MAX + WORDS_BYTES_MAX <= ENTRY_BYTES_MAX);

/// One command, its texts borrowed from the entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Put a message at the end of a channel.
    Append {
        /// What kind of channel.
        kind: ChannelKind,
        /// Its id.
        id: &'a str,
        /// Every member's home covers the channel up to here.
        announced: u32,
        /// Two appends of a channel with the same one are the same message.
        fingerprint: u64,
        /// Where the message begins within the entry.
        at: u32,
        /// The message.
        message: StoredMessage,
    },
    /// Raise a user's row. Each number only rises, so repeats are harmless.
    Row(RowCommand<'a>),
    /// Store a device's token and level.
    Token {
        /// Whose.
        uid: &'a str,
        /// Device family.
        flag: DeviceFlag,
        /// Stored with it.
        level: DeviceLevel,
        /// Empty never logs in.
        token: &'a str,
    },
    /// Blank the tokens of a device or of all.
    Quit {
        /// Whose.
        uid: &'a str,
        /// `None` is all.
        flag: Option<DeviceFlag>,
    },
    /// A device family was seen for the first time: it begins where the user's others are, as far as that is agreed on.
    NewFlag {
        /// Whose.
        uid: &'a str,
        /// Device family.
        flag: DeviceFlag,
    },
    /// Keys whose next bit is set go to another slot.
    Split(SplitCommand),
    /// Nothing more is taken: the lower sibling takes the slot in.
    Freeze(MergeCommand),
    /// The upper sibling is taken in, as it was frozen.
    Absorb(MergeCommand),
}

/// Either half of a merge as an entry carries it. One that comes again finds that its plan was carried out already and does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeCommand {
    /// Of the metadata group.
    pub plan: u64,
    /// Both slots' depth before.
    pub depth: u8,
}

/// A split as an entry carries it. One that comes again finds that its plan was carried out already and does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitCommand {
    /// Of the metadata group.
    pub plan: u64,
    /// The slot's depth before.
    pub depth: u8,
    /// Who takes the other half.
    pub child: SlotId,
    /// Its group.
    pub replicas: Vec<ReplicaId>,
}

/// A row as an entry carries it.
#[derive(Debug, PartialEq, Eq)]
pub struct RowCommand<'a> {
    /// Whose.
    pub uid: &'a str,
    /// What kind of channel.
    pub kind: ChannelKind,
    /// Its id.
    pub id: &'a str,
    /// Last message.
    pub last_seq: u32,
    /// Read up to here.
    pub read_seq: u32,
    /// Delivered up to here, by device flag.
    pub cursors: Vec<(DeviceFlag, u32)>,
}

/// An entry that does not parse. The journal and the link check sums, so this is our own bug or a forged peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCommand;

/// Appends the head of an Append; the stored message must follow.
pub fn encode_append_head(channel: &ChannelKey, announced: u32, fingerprint: u64, out: &mut Vec<u8>) {
    out.push(1);
    out.push(channel.kind as u8);
    put_u16_text(&channel.id, out);
    out.extend_from_slice(&announced.to_le_bytes());
    out.extend_from_slice(&fingerprint.to_le_bytes());
}

/// Appends a Row.
pub fn encode_row(row: &RowCommand<'_>, out: &mut Vec<u8>) {
    out.push(2);
    put_u8_text(row.uid, out);
    out.push(row.kind as u8);
    put_u16_text(row.id, out);
    out.extend_from_slice(&row.last_seq.to_le_bytes());
    out.extend_from_slice(&row.read_seq.to_le_bytes());
    out.push(u8::try_from(row.cursors.len()).expect("one cursor a device flag, and a flag is a byte"));
    for (flag, seq) in &row.cursors {
        out.push(flag.0);
        out.extend_from_slice(&seq.to_le_bytes());
    }
}

/// Appends a Token.
pub fn encode_token(uid: &str, flag: DeviceFlag, level: DeviceLevel, token: &str, out: &mut Vec<u8>) {
    out.push(3);
    put_u8_text(uid, out);
    out.push(flag.0);
    out.push(u8::from(level == DeviceLevel::Master));
    put_u16_text(token, out);
}

/// Appends a Quit.
pub fn encode_quit(uid: &str, flag: Option<DeviceFlag>, out: &mut Vec<u8>) {
    out.push(4);
    put_u8_text(uid, out);
    out.push(flag.map_or(255, |flag| flag.0));
}

/// Appends a NewFlag.
pub fn encode_new_flag(uid: &str, flag: DeviceFlag, out: &mut Vec<u8>) {
    out.push(5);
    put_u8_text(uid, out);
    out.push(flag.0);
}

/// Appends a Split.
pub fn encode_split(split: &SplitCommand, out: &mut Vec<u8>) {
    out.push(6);
    out.extend_from_slice(&split.plan.to_le_bytes());
    out.push(split.depth);
    out.extend_from_slice(&split.child.0.to_le_bytes());
    out.push(u8::try_from(split.replicas.len()).expect("a slot has a handful of replicas"));
    for replica in &split.replicas {
        out.extend_from_slice(&replica.0.to_le_bytes());
    }
}

const FREEZE: u8 = 7;
const ABSORB: u8 = 8;

/// Appends a Freeze.
pub fn encode_freeze(merge: MergeCommand, out: &mut Vec<u8>) {
    put_merge(FREEZE, merge, out);
}

/// Appends an Absorb, which must be the first of its entry.
pub fn encode_absorb(merge: MergeCommand, out: &mut Vec<u8>) {
    assert!(out.is_empty(), "who applies an entry sees at once whether it needs a sibling for it");
    put_merge(ABSORB, merge, out);
}

fn put_merge(tag: u8, merge: MergeCommand, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&merge.plan.to_le_bytes());
    out.push(merge.depth);
}

/// The Absorb that an entry begins with.
#[must_use]
pub fn absorb_of(entry: &Bytes) -> Option<MergeCommand> {
    if entry.first() != Some(&ABSORB) {
        return None;
    }
    match Commands::new(entry).next() {
        Some(Ok(Command::Absorb(merge))) => Some(merge),
        _ => None,
    }
}

fn put_u8_text(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).expect("uid limit is below 256"));
    out.extend_from_slice(text.as_bytes());
}

fn put_u16_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("ids and tokens are below 64 KiB").to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Walks the commands of an entry.
#[derive(Debug)]
pub struct Commands<'a> {
    entry: &'a Bytes,
    at: usize,
}

impl<'a> Commands<'a> {
    /// All commands of an entry.
    #[must_use]
    pub fn new(entry: &'a Bytes) -> Commands<'a> {
        Commands { entry, at: 0 }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BadCommand> {
        let end = self.at.checked_add(count).ok_or(BadCommand)?;
        let taken = self.entry.get(self.at..end).ok_or(BadCommand)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, BadCommand> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, BadCommand> {
        let raw = self.take(2)?;
        Ok(u16::from_le_bytes([raw[0], raw[1]]))
    }

    fn u32(&mut self) -> Result<u32, BadCommand> {
        let raw = self.take(4)?;
        Ok(u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]))
    }

    fn u64(&mut self) -> Result<u64, BadCommand> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, BadCommand> {
        std::str::from_utf8(self.take(length)?).map_err(|_| BadCommand)
    }

    fn short_text(&mut self) -> Result<&'a str, BadCommand> {
        let length = self.u8()?;
        self.text(usize::from(length))
    }

    fn long_text(&mut self) -> Result<&'a str, BadCommand> {
        let length = self.u16()?;
        self.text(usize::from(length))
    }

    fn kind(&mut self) -> Result<ChannelKind, BadCommand> {
        ChannelKind::from_byte(self.u8()?).ok_or(BadCommand)
    }

    fn append(&mut self) -> Result<Command<'a>, BadCommand> {
        let kind = self.kind()?;
        let id = self.long_text()?;
        let announced = self.u32()?;
        let fingerprint = u64::from(self.u32()?) | u64::from(self.u32()?) << 32;
        let at = self.at;
        let rest = self.entry.slice(at..);
        let message = StoredMessage::take(&rest).map_err(|_| BadCommand)?;
        self.at += message.bytes().len();
        Ok(Command::Append { kind, id, announced, fingerprint, at: at as u32, message })
    }

    fn row(&mut self) -> Result<Command<'a>, BadCommand> {
        let uid = self.short_text()?;
        let kind = self.kind()?;
        let id = self.long_text()?;
        let (last_seq, read_seq) = (self.u32()?, self.u32()?);
        let count = self.u8()?;
        let mut cursors = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            cursors.push((DeviceFlag(self.u8()?), self.u32()?));
        }
        Ok(Command::Row(RowCommand { uid, kind, id, last_seq, read_seq, cursors }))
    }

    fn split(&mut self) -> Result<Command<'a>, BadCommand> {
        let (plan, depth, child) = (self.u64()?, self.u8()?, SlotId(self.u16()?));
        let count = self.u8()?;
        let mut replicas = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            replicas.push(ReplicaId(self.u64()?));
        }
        Ok(Command::Split(SplitCommand { plan, depth, child, replicas }))
    }

    fn merge(&mut self) -> Result<MergeCommand, BadCommand> {
        Ok(MergeCommand { plan: self.u64()?, depth: self.u8()? })
    }

    fn parse(&mut self) -> Result<Command<'a>, BadCommand> {
        match self.u8()? {
            1 => self.append(),
            2 => self.row(),
            3 => {
                let uid = self.short_text()?;
                let flag = DeviceFlag(self.u8()?);
                let level = if self.u8()? == 1 { DeviceLevel::Master } else { DeviceLevel::Slave };
                Ok(Command::Token { uid, flag, level, token: self.long_text()? })
            }
            4 => {
                let uid = self.short_text()?;
                let flag = self.u8()?;
                Ok(Command::Quit { uid, flag: (flag != 255).then_some(DeviceFlag(flag)) })
            }
            5 => Ok(Command::NewFlag { uid: self.short_text()?, flag: DeviceFlag(self.u8()?) }),
            6 => self.split(),
            FREEZE => Ok(Command::Freeze(self.merge()?)),
            ABSORB => Ok(Command::Absorb(self.merge()?)),
            _ => Err(BadCommand),
        }
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, BadCommand>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.entry.len() {
            return None;
        }
        let parsed = self.parse();
        if parsed.is_err() {
            self.at = self.entry.len();
        }
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::message::MessageFields;
    use crate::format::packet::{HeaderFlags, Setting};

    fn split() -> SplitCommand {
        SplitCommand { plan: 1 << 40, depth: 3, child: SlotId(9), replicas: vec![ReplicaId(7), ReplicaId(1 << 60)] }
    }

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let pair = ChannelKey { kind: ChannelKind::Pair, id: "bob@alice".into() };
        encode_append_head(&pair, 3, 77, &mut out);
        MessageFields {
            message_id: 5,
            unix_ms: 9,
            expire_s: 0,
            flags: HeaderFlags::RED_DOT,
            setting: Setting(0),
            device_tag: 1,
            from: "alice",
            to: "bob",
            client_msg_no: "n",
            topic: "",
            payload: b"hi",
        }
        .encode(&mut out);
        let cursors = vec![(DeviceFlag(1), 3)];
        let row = RowCommand { uid: "bob", kind: ChannelKind::Command, id: "bob", last_seq: 4, read_seq: 1, cursors };
        encode_row(&row, &mut out);
        encode_token("bob", DeviceFlag(0), DeviceLevel::Master, "secret", &mut out);
        encode_quit("bob", None, &mut out);
        encode_new_flag("bob", DeviceFlag(2), &mut out);
        encode_split(&split(), &mut out);
        encode_freeze(MergeCommand { plan: 1 << 41, depth: 4 }, &mut out);
        out
    }

    #[test]
    fn an_entry_comes_back_command_by_command() {
        let entry = Bytes::from(sample());
        let commands: Vec<_> = Commands::new(&entry).map(|command| command.unwrap()).collect();
        assert_eq!(commands.len(), 7);
        assert_eq!(commands[6], Command::Freeze(MergeCommand { plan: 1 << 41, depth: 4 }));
        assert_eq!(commands[5], Command::Split(split()));
        let Command::Append { id, announced, fingerprint, at, message, .. } = &commands[0] else {
            panic!("not an append")
        };
        assert_eq!((*id, *announced, *fingerprint, message.payload()), ("bob@alice", 3, 77, &b"hi"[..]));
        assert_eq!(&entry[*at as usize..][..message.bytes().len()], &message.bytes()[..]);
        let Command::Row(row) = &commands[1] else { panic!("not a row") };
        assert_eq!((row.uid, row.last_seq, &row.cursors[..]), ("bob", 4, &[(DeviceFlag(1), 3)][..]));
        assert_eq!(commands[3], Command::Quit { uid: "bob", flag: None });
        assert_eq!(commands[4], Command::NewFlag { uid: "bob", flag: DeviceFlag(2) });
    }

    #[test]
    fn an_absorb_is_seen_before_its_entry_is_applied() {
        let absorb = MergeCommand { plan: 9, depth: 2 };
        let mut raw = Vec::new();
        encode_absorb(absorb, &mut raw);
        encode_quit("bob", None, &mut raw);
        assert_eq!(absorb_of(&Bytes::from(raw.clone())), Some(absorb));
        assert_eq!(Commands::new(&Bytes::from(raw)).filter_map(Result::ok).count(), 2);
        assert_eq!(absorb_of(&Bytes::from(sample())), None);
        assert_eq!(absorb_of(&Bytes::from_static(&[ABSORB, 1])), None);
    }

    #[test]
    fn cut_and_flipped_entries_are_errors_not_panics() {
        let raw = sample();
        for end in 0..raw.len() {
            for command in Commands::new(&Bytes::copy_from_slice(&raw[..end])) {
                let _ = command;
            }
        }
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 0xff;
            for command in Commands::new(&Bytes::from(bad)) {
                let _ = command;
            }
        }
    }
}
