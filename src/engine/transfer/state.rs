//! A slot's state as its group agreed on it, without anything that is one replica's own: no positions, no terms, no votes. Two
//! replicas that have applied the same entries encode the same bytes, except for how far back their messages can be read.
//!
//! ```text
//!  crc32 u32 of the rest · version u8 · slot depth u8 · last message id · last plan, term lift, term of the freeze (0: none)
//!  channels: kind, id, first readable, last seq, last id, announced, fingerprints (u64 LE)
//!  homes:    as in a checkpoint, those that hold something agreed on
//! ```
//! Numbers are LEB128, as in checkpoints.

use bytes::Bytes;

use crate::engine::chance::MapState;
use crate::engine::channel::{Channel, ChannelParts, Fingerprint};
use crate::engine::checkpoint::{self, Growing, Input, put};
use crate::engine::home::Home;
use crate::engine::slot::{MomentId, MomentReader, ReadOn, Reshaped, Slot};
use crate::ids::{ChannelKey, Uid};

const VERSION: u8 = 2;
const HEAD_BYTES: usize = 4;

/// The state of a slot at one moment, and which messages go with it.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    /// See the file's head.
    pub state: Bytes,
    /// The last plan of a split or merge in it.
    pub plan: u64,
    /// First readable and last seq by channel index; first is one past last where nothing can be read.
    pub ranges: Vec<(u32, u32)>,
}

impl Frozen {
    /// Messages at most that go with it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| u64::from(*last) + 1 - u64::from(*first)).sum()
    }
}

/// The state of a slot on its way into bytes, in portions.
#[derive(Debug)]
pub struct Freezing {
    moment: MomentId,
    bytes: Growing,
    plan: u64,
    ranges: Vec<(u32, u32)>,
}

impl Freezing {
    /// Of the slot as far as it is applied now.
    #[must_use]
    pub fn begin(slot: &mut Slot, depth: u8) -> Freezing {
        let mut out = vec![0; HEAD_BYTES];
        out.extend_from_slice(&[VERSION, depth]);
        let bytes = Growing::new(out, HEAD_BYTES, slot);
        let ranges = Vec::with_capacity(slot.channels().len());
        Freezing { moment: slot.begin_moment(), bytes, plan: slot.reshaped().plan, ranges }
    }

    /// Reads more of the same slot, about so much; see [`Slot::read_moment`].
    pub fn go_on(&mut self, slot: &mut Slot, work: usize) -> ReadOn {
        let read = slot.read_moment(self.moment, work, self);
        self.bytes.sum_up();
        read
    }

    /// Channels that it has so far.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.ranges.len()
    }

    /// It was all read.
    #[must_use]
    pub fn finish(self) -> Frozen {
        Frozen { state: Bytes::from(self.bytes.finish()), plan: self.plan, ranges: self.ranges }
    }

    /// Nobody wants it any more.
    pub fn forget(self, slot: &mut Slot) {
        slot.end_moment(self.moment);
    }
}

impl MomentReader for Freezing {
    fn channel(&mut self, key: &ChannelKey, channel: &Channel) {
        let out = &mut self.bytes.out;
        let (first, last) = (channel.first_seq(), channel.last_seq());
        checkpoint::put_key(key, out);
        for number in [first, last] {
            put(u64::from(number), out);
        }
        put(channel.last_message_id() as u64, out);
        put(u64::from(channel.announced_seq()), out);
        checkpoint::put_fingerprints(channel, out);
        self.ranges.push((first, last));
    }

    fn home(&mut self, uid: &Uid, home: &Home) {
        self.bytes.home(uid, home);
    }
}

/// A channel as its group knows it.
#[derive(Debug)]
pub struct ChannelState {
    /// Its name.
    pub key: ChannelKey,
    /// The first message that the leader could read; one past the last when it could read none.
    pub first_seq: u32,
    /// Without positions.
    pub parts: ChannelParts,
}

/// A state read back.
pub struct State {
    /// log2 of the slot count.
    pub depth: u8,
    /// Last message id, in [`crate::engine::message_ids::MessageIds`]' form.
    pub message_ids_last: u64,
    /// What splits and merges have left.
    pub reshaped: Reshaped,
    /// In the order in which they appeared.
    pub channels: Vec<ChannelState>,
    /// Homes.
    pub homes: Vec<(Uid, Home)>,
}

/// Reads a state.
///
/// # Errors
/// What is wrong with it; the sender's fault, or that of a newer version.
pub fn read(bytes: &[u8], map_state: MapState) -> Result<State, String> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err("its state is cut short".into());
    };
    if crc32fast::hash(rest).to_le_bytes() != *head {
        return Err("its state's checksum does not hold".into());
    }
    match rest.first() {
        Some(&VERSION) => {}
        Some(version) => return Err(format!("its state has version {version}, this program reads {VERSION}")),
        None => return Err("its state is empty".into()),
    }
    let mut input = Input { bytes: &rest[1..] };
    read_body(&mut input, map_state).ok_or_else(|| "its state does not add up although the checksum holds".into())
}

fn read_body(input: &mut Input<'_>, map_state: MapState) -> Option<State> {
    let depth = input.byte()?;
    let message_ids_last = input.number()?;
    let reshaped = input.reshaped()?;
    let mut channels = Vec::new();
    for _ in 0..input.count()? {
        channels.push(read_channel(input)?);
    }
    let mut homes = Vec::new();
    for _ in 0..input.count()? {
        homes.push(input.home(map_state)?);
    }
    input.bytes.is_empty().then_some(State { depth, message_ids_last, reshaped, channels, homes })
}

fn read_channel(input: &mut Input<'_>) -> Option<ChannelState> {
    let key = input.key()?;
    let first_seq = input.small()?;
    let mut parts = ChannelParts {
        last_seq: input.small()?,
        last_message_id: input.number()? as i64,
        announced_seq: input.small()?,
        ..ChannelParts::default()
    };
    for _ in 0..input.count()? {
        let raw = input.take(8)?;
        parts.fingerprints.push(Fingerprint(u64::from_le_bytes(raw.try_into().ok()?)));
    }
    let last = parts.last_seq;
    let plausible = first_seq >= 1
        && u64::from(first_seq) <= u64::from(last) + 1
        && parts.fingerprints.len() <= last as usize
        && parts.announced_seq <= last;
    plausible.then_some(ChannelState { key, first_seq, parts })
}
