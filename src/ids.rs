//! Names of things: nodes, shards, slots, sessions, users, channels. Newtypes so that two numbers of
//! one kind cannot be swapped by accident. Pure values; hashing of a key to its slot is here too,
//! because a key's path must be the same function everywhere. Does not know who leads what
//! (`engine::routes`).

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// One machine (one process) of the cluster. 0 is never a valid node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// One pinned thread of a node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A hash partition of the key space, one raft group each. At most [`SLOT_COUNT_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u16);

/// 14 bits of every message id name the slot.
pub const SLOT_COUNT_MAX: usize = 1 << 14;

impl SlotId {
    /// The group that decides about the cluster itself. Outside every slot count, so it shares the slots' journal and frames.
    pub const METADATA: SlotId = SlotId(u16::MAX);

    /// The slot that has this one's keys where slots have only so many bits of the hash.
    #[must_use]
    pub fn at(self, depth: u8) -> SlotId {
        debug_assert!(depth <= 14);
        SlotId(self.0 & ((1u16 << depth) - 1))
    }

    /// The slot that differs in the last of so many bits: both were one before a split.
    #[must_use]
    pub fn sibling(self, depth: u8) -> SlotId {
        debug_assert!((1..=14).contains(&depth));
        SlotId(self.0 ^ 1 << (depth - 1))
    }
}

/// Where something lives: one shard of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The shard of that node.
    pub shard: ShardId,
}

/// One replica of one slot's group for its whole life, which is also raft's number for it: it says where it lives, and a
/// number from the metadata group makes sure that it is never used twice, so a replica that lost its disk comes back as
/// another one. Never 0.
///
/// ```text
///  63      48 47      32 31       0
/// |  node   |  shard   |  number  |
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// The replica that the metadata group numbered so.
    #[must_use]
    pub fn new(place: Place, number: u32) -> ReplicaId {
        ReplicaId(u64::from(place.node.0) << 48 | u64::from(place.shard.0) << 32 | u64::from(number))
    }

    /// Where it lives.
    #[must_use]
    pub fn place(self) -> Place {
        Place { node: NodeId((self.0 >> 48) as u16), shard: ShardId((self.0 >> 32) as u16) }
    }

    /// What the metadata group numbered it.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 as u32
    }
}

/// One connection between this shard and a shard of another node, unique for the life of the process. Both the engine (for
/// those it asks for) and the shell (for those it accepts) number them; one bit keeps them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkConn(pub u64);

impl LinkConn {
    const ACCEPTED: u64 = 1 << 63;

    /// The `count`th one that the engine asked for.
    #[must_use]
    pub fn dialed(count: u64) -> LinkConn {
        LinkConn(count & !LinkConn::ACCEPTED)
    }

    /// The `count`th one that the shell accepted.
    #[must_use]
    pub fn accepted(count: u64) -> LinkConn {
        LinkConn(count | LinkConn::ACCEPTED)
    }

    /// The other side asked for it.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        self.0 & LinkConn::ACCEPTED != 0
    }
}

/// One live client connection, unique on its shard for the life of the process: the shell's table
/// index plus a generation, so a late event for a closed connection finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// Index in the gateway's table; dense and small, the engine uses it as an array index too.
    pub index: u32,
    /// Distinguishes successive users of one index.
    pub generation: u32,
}

/// A session seen from anywhere in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionAddress {
    /// The gateway shard that owns the socket.
    pub place: Place,
    /// The session on that shard.
    pub session: SessionId,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.shard)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.place(), self.number())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// A user's id as clients send it: UTF-8, 1 to [`crate::limits::UID_BYTES_MAX`] bytes, without `@`, `#`, `&`
/// (WKProto sheet, section 5.3). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    /// Checks and takes a uid.
    ///
    /// # Errors
    /// Says what is wrong with it; the fault is the sender's.
    pub fn parse(text: &str) -> Result<Uid, BadUid> {
        Uid::check(text)?;
        Ok(Uid(Arc::from(text)))
    }

    /// Checks a uid without taking it.
    ///
    /// # Errors
    /// As [`Uid::parse`].
    pub fn check(text: &str) -> Result<(), BadUid> {
        if text.is_empty() {
            return Err(BadUid::Empty);
        }
        if text.len() > crate::limits::UID_BYTES_MAX {
            return Err(BadUid::TooLong);
        }
        if text.bytes().any(|b| matches!(b, b'@' | b'#' | b'&') || b < 0x20 || b == 0x7f) {
            return Err(BadUid::ForbiddenCharacter);
        }
        Ok(())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash that names this user's slot.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        KeyHash(xxh3_64(self.0.as_bytes()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Uid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a uid is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadUid {
    /// Nothing there.
    Empty,
    /// Longer than the limit.
    TooLong,
    /// Holds `@`, `#`, `&` or a control character.
    ForbiddenCharacter,
}

impl fmt::Display for BadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadUid::Empty => "uid is empty",
            BadUid::TooLong => "uid is longer than 128 bytes",
            BadUid::ForbiddenCharacter => "uid contains '@', '#', '&' or a control character",
        })
    }
}

/// `xxh3_64` of a key; its low `depth` bits are the slot, so a split by the next bit keeps one half in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The slot at a uniform depth.
    #[must_use]
    pub fn slot(self, depth: u8) -> SlotId {
        debug_assert!(depth <= 14);
        SlotId((self.0 & ((1u64 << depth) - 1)) as u16)
    }
}

/// The hash that names the slot of the user of this name.
#[must_use]
pub fn uid_hash(uid: &str) -> KeyHash {
    KeyHash(xxh3_64(uid.as_bytes()))
}

/// What kind of log a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChannelKind {
    /// Two users; id `A@B`, larger CRC-32 first.
    Pair = 1,
    /// One user's queue of command (`syncOnce`) messages; id is the uid.
    Command = 2,
}

impl ChannelKind {
    /// The kind of a stored byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<ChannelKind> {
        match byte {
            1 => Some(ChannelKind::Pair),
            2 => Some(ChannelKind::Command),
            _ => None,
        }
    }
}

/// A channel's name inside the cluster. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    /// What kind of log.
    pub kind: ChannelKind,
    /// Its id within the kind.
    pub id: Arc<str>,
}

impl ChannelKey {
    /// The log shared by two users (WKProto sheet, section 5.3): the uid with the larger CRC-32 (IEEE)
    /// first; equal checksums put the bytewise larger uid first.
    #[must_use]
    pub fn pair(a: &Uid, b: &Uid) -> ChannelKey {
        let rank = |uid: &Uid| (crc32fast::hash(uid.as_str().as_bytes()), uid.clone());
        let (first, second) = if rank(a) >= rank(b) { (a, b) } else { (b, a) };
        let mut id = String::with_capacity(first.as_str().len() + second.as_str().len() + 1);
        id.push_str(first.as_str());
        id.push('@');
        id.push_str(second.as_str());
        ChannelKey { kind: ChannelKind::Pair, id: Arc::from(id) }
    }

    /// A user's queue of command messages.
    #[must_use]
    pub fn command(uid: &Uid) -> ChannelKey {
        ChannelKey { kind: ChannelKind::Command, id: uid.0.clone() }
    }

    /// Both uids of a pair, or the one of a command queue twice.
    #[must_use]
    pub fn members(&self) -> (&str, &str) {
        match self.kind {
            ChannelKind::Pair => self.id.split_once('@').unwrap_or((&self.id, &self.id)),
            ChannelKind::Command => (&self.id, &self.id),
        }
    }

    /// The hash that names the channel's slot: that of a pair's **first** uid, so one of the two homes is always
    /// in the slot of the log; that of the user for a command queue.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        KeyHash(xxh3_64(self.members().0.as_bytes()))
    }
}

/// What an app calls a device family: 0 app, 1 web, 2 PC, 99 system. (uid, flag) is a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceFlag(pub u8);

/// 0 slave, 1 master; belongs to the stored device row, never on the client wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceLevel {
    /// Several may be live at once.
    Slave,
    /// A new one ends the others of its flag.
    Master,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_ids_match_the_sheet() {
        let pair = |a: &str, b: &str| {
            let key = ChannelKey::pair(&Uid::parse(a).unwrap(), &Uid::parse(b).unwrap());
            key.id.to_string()
        };
        assert_eq!(pair("alice", "bob"), "bob@alice");
        assert_eq!(pair("bob", "alice"), "bob@alice");
        assert_eq!(pair("u1", "u2"), "u2@u1");
        assert_eq!(pair("1001", "1002"), "1001@1002");
        assert_eq!(pair("u_10000", "u1"), "u_10000@u1");
        assert_eq!(pair("____system", "u1"), "u1@____system");
        assert_eq!(pair("fileHelper", "u_10000"), "fileHelper@u_10000");
    }

    #[test]
    fn bad_uids_are_refused() {
        assert_eq!(Uid::parse(""), Err(BadUid::Empty));
        assert_eq!(Uid::parse("a@b"), Err(BadUid::ForbiddenCharacter));
        assert_eq!(Uid::parse(&"x".repeat(129)), Err(BadUid::TooLong));
        assert!(Uid::parse("49").is_ok());
    }

    #[test]
    fn a_replica_says_where_it_lives() {
        let place = Place { node: NodeId(65_535), shard: ShardId(31) };
        let replica = ReplicaId::new(place, u32::MAX);
        assert_eq!((replica.place(), replica.number()), (place, u32::MAX));
        assert_eq!(replica.to_string(), "n65535/s31#4294967295");
    }

    #[test]
    fn a_split_keeps_one_half_in_place() {
        for n in 0..1000u64 {
            let hash = KeyHash(xxh3_64(&n.to_le_bytes()));
            let parent = hash.slot(8).0;
            let child = hash.slot(9).0;
            assert!(child == parent || child == parent + 256);
        }
    }
}
