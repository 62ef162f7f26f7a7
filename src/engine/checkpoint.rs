//! A group's state as one file: what replay needs instead of the journal before it. Encoding and decoding only; when one is
//! written is the shard's affair, where it goes the shell's.
//!
//! ```text
//!  magic u32 · version u8 · crc32 u32 of the rest · body
//!  body: slot · depth · replay segment · replica
//!        applied, its term · term, vote · commit
//!        voters · learners · outgoing voters · next learners (each a count, then u64 LE) · auto leave
//!        of a slot:    last message id · last plan, term lift, term of the freeze (0: none)
//!                      channels: kind, id, last seq, last id, announced, positions (delta), fingerprints
//!                      homes:    uid, flags, devices, rows
//!        of metadata:  whatever it is, to the end
//! ```
//! Numbers are LEB128 except replicas and fingerprints (u64 LE). Positions rise, so a message costs two or three bytes. The count of homes has
//! bytes to spare: it is known when the last home was read. Homes about which nothing is agreed on are left out.
//!
//! A slot is read in portions, as it was at one moment (`engine::slot::moment`):
//!
//! ```text
//!  Encoding::begin ──► go_on ──(more)──► go_on ──► … ──► finish
//!                        └──(void: the slot was split, merged or replaced)──► forgotten
//! ```

use super::chance::MapState;
use super::channel::{Channel, ChannelParts, Fingerprint};
use super::home::{Home, Row};
use super::raft_group::GroupState;
use super::slot::{MomentId, MomentReader, ReadOn, Reshaped, Slot, SlotState};
use crate::format::raft_message::GroupMembers;
use crate::format::record::Position;
use crate::ids::{ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, ReplicaId, SlotId, Uid};

const MAGIC: u32 = 0x4a44_434b;
const VERSION: u8 = 3;
const HEAD_BYTES: usize = 9;

/// Bytes of a count that is filled in later.
const COUNT_BYTES: usize = 5;

/// What a checkpoint says beside the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Bits of the hash that name the slot.
    pub depth: u8,
    /// The first journal segment that a restart needs beside the checkpoints that are there when this one is: no later than what
    /// this state needs, and no later than what any other replica of the shard needs, be it one that has no checkpoint yet.
    pub replay_segment: u32,
}

/// A checkpoint read back.
pub struct Checkpoint {
    /// See there.
    pub cover: Cover,
    /// The state.
    pub state: CheckpointState,
}

/// Whose state it is.
pub enum CheckpointState {
    /// A slot's.
    Slot(SlotState),
    /// The metadata group's, and its state as it was given.
    Metadata(GroupState, Vec<u8>),
}

/// Bytes that come in portions, with a checksum before them of all that is behind it, and a count of homes that is known at the end.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) out: Vec<u8>,
    head_bytes: usize,
    /// The checksum of what comes before the count of homes, and of what comes behind it.
    sums: [crc32fast::Hasher; 2],
    /// How far `out` is in one of them.
    summed: usize,
    /// Where the count of homes is, once all channels were read, and how many there are so far.
    homes: Option<(usize, u64)>,
}

impl Growing {
    /// A slot's state behind what `out` has; its checksum is to be the last of so many bytes.
    pub(super) fn new(mut out: Vec<u8>, head_bytes: usize, slot: &Slot) -> Growing {
        put(slot.message_ids().last(), &mut out);
        put_reshaped(slot.reshaped(), &mut out);
        put(slot.channels().len() as u64, &mut out);
        // Memory that is never touched costs nothing, and growing a large piece would take its time.
        let names = (slot.channels().len() + slot.home_count()) * 128;
        out.reserve(names + slot.messages() as usize * 12);
        let sums = [crc32fast::Hasher::new(), crc32fast::Hasher::new()];
        Growing { out, head_bytes, sums, summed: head_bytes, homes: None }
    }

    /// A home follows.
    pub(super) fn home(&mut self, uid: &Uid, home: &Home) {
        let (at, count) = self.begin_homes();
        self.homes = Some((at, count + 1));
        put_home(uid, home, &mut self.out);
    }

    /// Has the checksum follow what has come: work of the portion that brought it.
    pub(super) fn sum_up(&mut self) {
        self.sums[usize::from(self.homes.is_some())].update(&self.out[self.summed..]);
        self.summed = self.out.len();
    }

    /// All channels have come.
    fn begin_homes(&mut self) -> (usize, u64) {
        if let Some(homes) = self.homes {
            return homes;
        }
        self.sum_up();
        let at = self.out.len();
        self.out.extend_from_slice(&[0; COUNT_BYTES]);
        self.summed = self.out.len();
        *self.homes.insert((at, 0))
    }

    /// That was all.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (at, count) = self.begin_homes();
        self.sum_up();
        fill_in(&mut self.out[at..at + COUNT_BYTES], count);
        let [mut sum, behind] = self.sums;
        sum.update(&self.out[at..at + COUNT_BYTES]);
        sum.combine(&behind);
        self.out[self.head_bytes - 4..self.head_bytes].copy_from_slice(&sum.finalize().to_le_bytes());
        self.out
    }
}

/// A slot's checkpoint on its way into bytes.
pub struct Encoding {
    moment: MomentId,
    bytes: Growing,
    /// Channels and homes so far.
    entries: usize,
}

impl Encoding {
    /// Of the slot as it is now. `group` is usually the slot's own; for a snapshot about to be installed it is what the group will be then.
    #[must_use]
    pub fn begin(slot: &mut Slot, group: &GroupState, cover: Cover) -> Encoding {
        let bytes = Growing::new(begin(slot.id(), group, cover), HEAD_BYTES, slot);
        Encoding { moment: slot.begin_moment(), bytes, entries: 0 }
    }

    /// Encodes more of the same slot, about so much; see [`Slot::read_moment`].
    pub fn go_on(&mut self, slot: &mut Slot, work: usize) -> ReadOn {
        let read = slot.read_moment(self.moment, work, self);
        self.bytes.sum_up();
        read
    }

    /// Channels and homes that it has so far.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// It was all read.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes.finish()
    }
}

impl MomentReader for Encoding {
    fn channel(&mut self, key: &ChannelKey, channel: &Channel) {
        self.entries += 1;
        put_channel(key, channel, &mut self.bytes.out);
    }

    fn home(&mut self, uid: &Uid, home: &Home) {
        self.entries += 1;
        self.bytes.home(uid, home);
    }
}

/// A count in as many bytes as there are.
fn fill_in(bytes: &mut [u8], mut count: u64) {
    let Some((last, before)) = bytes.split_last_mut() else { return };
    for byte in before {
        *byte = count as u8 | 0x80;
        count >>= 7;
    }
    assert!(count < 0x80, "a count that fits");
    *last = count as u8;
}

/// A slot's checkpoint in one go.
#[must_use]
pub fn encode(slot: &mut Slot, group: &GroupState, cover: Cover) -> Vec<u8> {
    let mut encoding = Encoding::begin(slot, group, cover);
    let read = encoding.go_on(slot, usize::MAX);
    assert!(matches!(read, ReadOn::All(_)), "nothing happens meanwhile");
    encoding.finish()
}

/// The metadata group's checkpoint; what its state looks like is its own affair.
#[must_use]
pub fn encode_metadata(group: &GroupState, cover: Cover, state: &[u8]) -> Vec<u8> {
    let mut out = begin(SlotId::METADATA, group, cover);
    out.extend_from_slice(state);
    seal(out)
}

fn begin(slot: SlotId, group: &GroupState, cover: Cover) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    put(u64::from(slot.0), &mut out);
    out.push(cover.depth);
    put(u64::from(cover.replay_segment), &mut out);
    out.extend_from_slice(&group.replica.0.to_le_bytes());
    for number in [group.applied, group.applied_term, group.term, group.vote, group.commit] {
        put(number, &mut out);
    }
    let members = &group.members;
    for replicas in [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next] {
        put(replicas.len() as u64, &mut out);
        for replica in replicas {
            out.extend_from_slice(&replica.0.to_le_bytes());
        }
    }
    out.push(u8::from(members.auto_leave));
    out
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out[HEAD_BYTES..]);
    out[5..9].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a checkpoint.
///
/// # Errors
/// What is wrong with the file: the disk's fault, or that of a newer version.
pub fn decode(expected: SlotId, bytes: &[u8], map_state: MapState) -> Result<Checkpoint, String> {
    if bytes.len() < HEAD_BYTES || bytes[..4] != MAGIC.to_le_bytes() {
        return Err("it is not a checkpoint".into());
    }
    if bytes[4] != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", bytes[4]));
    }
    if crc32fast::hash(&bytes[HEAD_BYTES..]).to_le_bytes() != bytes[5..9] {
        return Err("its checksum does not match".into());
    }
    let mut input = Input { bytes: &bytes[HEAD_BYTES..] };
    let state = input.checkpoint(expected, map_state);
    state.ok_or_else(|| "its content does not add up although the checksum matches".into())
}

pub(super) fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_reshaped(reshaped: Reshaped, out: &mut Vec<u8>) {
    for number in [reshaped.plan, reshaped.term_lift, reshaped.frozen.unwrap_or(0)] {
        put(number, out);
    }
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_key(key: &ChannelKey, out: &mut Vec<u8>) {
    out.push(key.kind as u8);
    put_text(&key.id, out);
}

fn put_channel(key: &ChannelKey, channel: &Channel, out: &mut Vec<u8>) {
    put_key(key, out);
    put(u64::from(channel.last_seq()), out);
    put(channel.last_message_id() as u64, out);
    put(u64::from(channel.announced_seq()), out);
    put(channel.readable() as u64, out);
    let mut segment = 0;
    let mut offset = 0;
    for position in channel.positions() {
        // An even number: so many bytes on in the same segment. An odd one: so many segments on, then the offset.
        if position.segment == segment && position.offset >= offset {
            put(u64::from(position.offset - offset) << 1, out);
        } else {
            let on = i64::from(position.segment) - i64::from(segment);
            put((((on << 1) ^ (on >> 63)) as u64) << 1 | 1, out);
            put(u64::from(position.offset), out);
        }
        (segment, offset) = (position.segment, position.offset);
    }
    put_fingerprints(channel, out);
}

pub(super) fn put_fingerprints(channel: &Channel, out: &mut Vec<u8>) {
    let fingerprints = channel.fingerprints();
    put(fingerprints.len() as u64, out);
    out.reserve(fingerprints.len() * 8);
    for fingerprint in fingerprints {
        out.extend_from_slice(&fingerprint.0.to_le_bytes());
    }
}

pub(super) fn put_home(uid: &Uid, home: &Home, out: &mut Vec<u8>) {
    put_text(uid.as_str(), out);
    put(home.flags().len() as u64, out);
    out.extend(home.flags().iter().map(|flag| flag.0));
    put(home.devices().len() as u64, out);
    for device in home.devices() {
        out.push(device.flag.0);
        out.push(u8::from(device.level == DeviceLevel::Master));
        put_text(&device.token, out);
    }
    let rows = home.agreed_rows();
    put(rows.len() as u64, out);
    for (channel, row) in rows {
        put_key(channel, out);
        // Not what the leader knows beyond its group: other replicas could never be asked for it again.
        let settled = row.settled_seq;
        put(u64::from(settled), out);
        put(u64::from(row.read_seq.min(settled)), out);
        put(row.agreed_cursors().count() as u64, out);
        for (flag, seq) in row.agreed_cursors() {
            out.push(flag.0);
            put(u64::from(seq.min(settled)), out);
        }
    }
}

pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(..count)?;
        self.bytes = &self.bytes[count..];
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn reshaped(&mut self) -> Option<Reshaped> {
        let (plan, term_lift, frozen) = (self.number()?, self.number()?, self.number()?);
        // Terms are counted on: what no group reaches must not come from outside.
        let plausible = term_lift < u64::MAX / 4 && frozen < u64::MAX / 4;
        plausible.then_some(Reshaped { plan, term_lift, frozen: (frozen > 0).then_some(frozen) })
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    /// How many of something follow: never more than there are bytes, so a wrong count cannot ask for much memory.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.bytes.len()).then_some(count)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    pub(super) fn key(&mut self) -> Option<ChannelKey> {
        let kind = ChannelKind::from_byte(self.byte()?)?;
        Some(ChannelKey { kind, id: self.text()?.into() })
    }

    fn replica(&mut self) -> Option<ReplicaId> {
        let raw = self.take(8)?;
        Some(ReplicaId(u64::from_le_bytes(raw.try_into().ok()?)))
    }

    fn replicas(&mut self) -> Option<Vec<ReplicaId>> {
        let mut replicas = Vec::new();
        for _ in 0..self.count()? {
            replicas.push(self.replica()?);
        }
        Some(replicas)
    }

    fn checkpoint(&mut self, expected: SlotId, map_state: MapState) -> Option<Checkpoint> {
        if self.number()? != u64::from(expected.0) {
            return None;
        }
        let cover = Cover { depth: self.byte()?, replay_segment: self.small()? };
        let group = GroupState {
            replica: self.replica()?,
            applied: self.number()?,
            applied_term: self.number()?,
            term: self.number()?,
            vote: self.number()?,
            commit: self.number()?,
            members: GroupMembers {
                voters: self.replicas()?,
                learners: self.replicas()?,
                voters_outgoing: self.replicas()?,
                learners_next: self.replicas()?,
                auto_leave: self.byte()? != 0,
            },
            ..GroupState::default()
        };
        if expected == SlotId::METADATA {
            return Some(Checkpoint { cover, state: CheckpointState::Metadata(group, self.bytes.to_vec()) });
        }
        let message_ids_last = self.number()?;
        let reshaped = self.reshaped()?;
        let mut channels = Vec::new();
        for _ in 0..self.count()? {
            channels.push(self.channel()?);
        }
        let mut homes = Vec::new();
        for _ in 0..self.count()? {
            homes.push(self.home(map_state)?);
        }
        let state = CheckpointState::Slot(SlotState { group, message_ids_last, reshaped, channels, homes });
        self.bytes.is_empty().then_some(Checkpoint { cover, state })
    }

    fn channel(&mut self) -> Option<(ChannelKey, Channel)> {
        let key = self.key()?;
        let mut parts = ChannelParts {
            last_seq: self.small()?,
            last_message_id: self.number()? as i64,
            announced_seq: self.small()?,
            ..ChannelParts::default()
        };
        let mut position = Position { segment: 0, offset: 0 };
        for _ in 0..self.count()? {
            position = self.position(position)?;
            parts.positions.push(position);
        }
        for _ in 0..self.count()? {
            let raw = self.take(8)?;
            parts.fingerprints.push(Fingerprint(u64::from_le_bytes(raw.try_into().ok()?)));
        }
        let last = parts.last_seq as usize;
        let plausible =
            parts.positions.len() <= last && parts.fingerprints.len() <= last && parts.announced_seq <= parts.last_seq;
        plausible.then(|| (key, Channel::restore(parts)))
    }

    fn position(&mut self, before: Position) -> Option<Position> {
        let step = self.number()?;
        if step & 1 == 0 {
            let offset = before.offset.checked_add(u32::try_from(step >> 1).ok()?)?;
            return Some(Position { segment: before.segment, offset });
        }
        let folded = step >> 1;
        let on = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        let segment = u32::try_from(i64::from(before.segment).checked_add(on)?).ok()?;
        Some(Position { segment, offset: self.small()? })
    }

    pub(super) fn home(&mut self, map_state: MapState) -> Option<(Uid, Home)> {
        let uid = Uid::parse(self.text()?).ok()?;
        let mut home = Home::new(map_state);
        let count = self.count()?;
        let flags: Vec<DeviceFlag> = self.take(count)?.iter().map(|flag| DeviceFlag(*flag)).collect();
        for _ in 0..self.count()? {
            let flag = DeviceFlag(self.byte()?);
            let level = if self.byte()? == 1 { DeviceLevel::Master } else { DeviceLevel::Slave };
            home.apply_token(flag, level, self.text()?);
        }
        // Flags before rows: a flag that comes new to a home with rows would move their cursors.
        for flag in flags {
            home.apply_new_flag(flag);
        }
        for _ in 0..self.count()? {
            let channel = self.key()?;
            let (last_seq, read_seq, count) = (self.small()?, self.small()?, self.count()?);
            let mut cursors = Vec::new();
            for _ in 0..count {
                cursors.push((DeviceFlag(self.byte()?), self.small()?));
            }
            if cursors.iter().any(|(_, seq)| *seq > last_seq) {
                return None;
            }
            home.restore_row(channel, Row::agreed_on(last_seq, read_seq, &cursors));
        }
        Some((uid, home))
    }
}
