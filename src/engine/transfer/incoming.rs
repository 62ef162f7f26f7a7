//! The replica's end: states of slots on their way into this shard. Bodies go to the journal as they come, and where they lie is kept
//! until the whole state is put to use: a transfer that is cut off goes on where it was, whoever leads by then. Writes nothing itself,
//! replaces nothing itself.
//!
//! ```text
//!  (nothing) ──offer──► receiving ──last part──► whole ──all durable──► installing ──checkpoint written──► (nothing)
//!      ▲                  │  ▲                     │                        │
//!      │   lost, silent,  ▼  │ offer               │                        │ not written, not wanted any more
//!      └──(given up)── left behind ◄───────────────┴────────────────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::state::State;
use super::{Body, Part, read_part};
use crate::engine::channel::{Channel, HOLE};
use crate::format::frame::{SnapshotOffer, SnapshotPart, SnapshotTaken, SnapshotWant};
use crate::format::message::MESSAGE_BYTES_MAX;
use crate::format::raft_message::RaftMessage;
use crate::format::record::Position;
use crate::ids::{ChannelKey, Place, ReplicaId, SlotId};
use crate::limits::Limits;
use crate::time::Instant;

/// Channels named in one [`SnapshotWant`], so that it fits in a frame: two MiB. Those behind it are sent whole.
const HAVE_MAX: usize = 1 << 19;

/// A receiver waits so many times `transfer_patience` for the next part: its sender's pace is bounded by what it reads and may say.
const PATIENCE_TIMES: u32 = 4;

/// What staging one message costs.
const STAGED_BYTES: usize = std::mem::size_of::<(u32, Position)>();

/// Puts bodies into the journal for a replica: where the first byte lies, and which flush carries them.
pub type Append<'f> = dyn FnMut(ReplicaId, &[u8]) -> (Position, u64) + 'f;

/// The replica's own channels by index.
pub type OwnChannels<'f, 'a> = dyn Fn(usize) -> Option<(&'a ChannelKey, &'a Channel)> + 'f;

/// Where an answer goes.
pub type Answer = (Place, SnapshotTaken);

#[derive(Debug)]
struct Running {
    transfer: u64,
    message: RaftMessage,
    /// Number of the next part.
    next: u32,
    /// Channel and seq of the last body.
    last_body: Option<(u32, u32)>,
    /// Number of the last message that was there before, by channel.
    have: Vec<u32>,
    state: Vec<u8>,
    /// Parts without an answer, each with the flush that carries it.
    unanswered: VecDeque<(u64, u32)>,
    whole: bool,
    installing: bool,
    heard_at: Instant,
}

impl Running {
    fn leader(&self) -> Place {
        self.message.from.place()
    }

    fn answer(&self, number: u32, good: bool) -> Answer {
        let (transfer, slot, from) = (self.transfer, self.message.slot, self.message.to);
        (self.leader(), SnapshotTaken { transfer, slot, from, number, good })
    }
}

#[derive(Debug)]
struct Staged {
    replica: ReplicaId,
    /// The last split or merge in the state that is offered.
    plan: u64,
    /// Seqs and where they lie, ascending, by channel index. Nothing that the replica's own state has.
    bodies: BTreeMap<u32, Vec<(u32, Position)>>,
    messages: usize,
    running: Option<Running>,
    /// Rises with every offer: the smallest gives way at the limit.
    touched: u64,
}

impl Staged {
    fn bytes(&self) -> usize {
        self.messages * STAGED_BYTES + self.running.as_ref().map_or(0, |running| running.state.len())
    }

    /// Own messages are not staged.
    fn drop_own(&mut self, own: &[u32]) {
        for (channel, last) in own.iter().enumerate() {
            if let Some(bodies) = self.bodies.get_mut(&(channel as u32)) {
                bodies.retain(|(seq, _)| seq > last);
            }
        }
        self.bodies.retain(|_, bodies| !bodies.is_empty());
        self.messages = self.bodies.values().map(Vec::len).sum();
    }

    /// Puts bodies into the journal, as many in one piece as fit; the flush that carries the last.
    fn take_bodies(&mut self, bodies: &[Body], part: &[u8], run_bytes_max: usize, append: &mut Append<'_>) -> u64 {
        let (mut run, mut flush) = (None, 0);
        for (index, body) in bodies.iter().enumerate() {
            let end = body.at + body.length;
            let in_run = run.filter(|(from, _): &(u32, Position)| (end - from) as usize <= run_bytes_max);
            let (from, start) = in_run.unwrap_or_else(|| {
                let (start, carried) = append(self.replica, &part[run_of(&bodies[index..], run_bytes_max)]);
                flush = carried;
                (body.at, start)
            });
            run = Some((from, start));
            let position = Position { offset: start.offset + (body.at - from), ..start };
            let list = self.bodies.entry(body.channel).or_default();
            // What lies behind `HAVE_MAX` comes again after a resumption.
            if list.last().is_none_or(|(seq, _)| *seq < body.seq) {
                list.push((body.seq, position));
                self.messages += 1;
            }
        }
        flush
    }

    /// The last message of each channel, own or staged.
    fn have(&self, own: &[u32]) -> Vec<u32> {
        let mut have = own.to_vec();
        for (channel, bodies) in &self.bodies {
            let channel = *channel as usize;
            let last = bodies.last().map_or(0, |(seq, _)| *seq);
            if channel < HAVE_MAX {
                have.resize(have.len().max(channel + 1), 0);
                have[channel] = have[channel].max(last);
            }
        }
        have.truncate(HAVE_MAX);
        have
    }
}

/// As many bodies, in one piece, as a segment of the journal takes; the first one fits.
fn run_of(bodies: &[Body], run_bytes_max: usize) -> std::ops::Range<usize> {
    let first = bodies.first().map_or(0, |body| body.at);
    let ends = bodies.iter().map(|body| body.at + body.length);
    let last = ends.take_while(|end| (end - first) as usize <= run_bytes_max).last().unwrap_or(first);
    first as usize..last as usize
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub enum Took {
    /// It is taken, or was before.
    Fine,
    /// Nobody waits for it. Say so.
    Stray,
    /// It makes no sense: everything of this transfer is void. Say so; what is wrong is for people.
    Void(Answer, String),
}

/// A whole state, to be read and put to use.
#[derive(Debug)]
pub struct Whole {
    /// Which slot.
    pub slot: SlotId,
    /// raft's.
    pub message: RaftMessage,
    /// For [`super::state::read`].
    pub state: Vec<u8>,
}

/// States on their way in.
#[derive(Debug, Default)]
pub struct Incoming {
    slots: BTreeMap<SlotId, Staged>,
    offers: u64,
}

impl Incoming {
    /// How many are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.values().filter(|staged| staged.running.is_some()).count()
    }

    /// Memory used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.slots.values().map(Staged::bytes).sum()
    }

    /// Somebody offers a state for a replica that is here and can use it; `own` is the last message of each channel that it has already. What
    /// is to be answered.
    pub fn handle_offer(&mut self, now: Instant, offer: SnapshotOffer, own: &[u32], limits: &Limits) -> SnapshotWant {
        let SnapshotOffer { message, transfer, plan, .. } = offer;
        let (slot, from) = (message.slot, message.to);
        let others = self.slots.iter().filter(|(other, staged)| **other != slot && staged.running.is_some()).count();
        let refused = SnapshotWant { transfer, slot, from, have: Vec::new(), accepted: false };
        let known = self.slots.get(&slot).and_then(|staged| staged.running.as_ref());
        let busy = known.is_some_and(|running| running.installing || running.message.term > message.term);
        if others >= limits.transfers_max || busy {
            return refused;
        }
        self.offers += 1;
        let fresh = || Staged {
            replica: from,
            plan,
            bodies: BTreeMap::new(),
            messages: 0,
            running: None,
            touched: self.offers,
        };
        let staged = self.slots.entry(slot).or_insert_with(fresh);
        // After a split channels have other numbers: what has come before does not count.
        if staged.replica != from || staged.plan != plan {
            *staged = fresh();
        }
        staged.touched = self.offers;
        staged.drop_own(own);
        let have = staged.have(own);
        staged.running = Some(Running {
            transfer,
            message,
            next: 0,
            last_body: None,
            have: have.clone(),
            state: Vec::new(),
            unanswered: VecDeque::new(),
            whole: false,
            installing: false,
            heard_at: now,
        });
        SnapshotWant { have, accepted: true, ..refused }
    }

    /// A part has come from `from`. `append` puts bodies into the journal for a replica, at most `run_bytes_max` at once, and says where
    /// the first byte lies and which flush carries them.
    pub fn handle_part(
        &mut self,
        now: Instant,
        (from, part): (Place, &SnapshotPart),
        limits: &Limits,
        run_bytes_max: usize,
        append: &mut Append<'_>,
    ) -> Took {
        let Some(staged) = self.slots.get_mut(&part.slot) else {
            return Took::Stray;
        };
        let known = |running: &&mut Running| running.transfer == part.transfer && running.leader() == from;
        let Some(running) = staged.running.as_mut().filter(known) else {
            return Took::Stray;
        };
        running.heard_at = now;
        if part.number < running.next {
            return Took::Fine;
        }
        if part.number > running.next || running.whole {
            let what = format!("part {} follows part {}", part.number, running.next.wrapping_sub(1));
            return self.void(part, &what);
        }
        if part.body.len() > limits.transfer_part_bytes + MESSAGE_BYTES_MAX + 64 {
            return self.void(part, "a part that is larger than any may be");
        }
        running.next += 1;
        let read = read_part(&part.body).and_then(|read| {
            check_order(running, &read)?;
            Ok(read)
        });
        match read {
            Ok(Part::Bodies(bodies)) => {
                if bodies.iter().any(|body| body.length as usize > run_bytes_max) {
                    return self.void(part, "a message that is longer than a segment of this journal");
                }
                let flush = staged.take_bodies(&bodies, &part.body, run_bytes_max, append);
                if let Some(running) = &mut staged.running {
                    running.unanswered.push_back((flush, part.number));
                }
            }
            Ok(Part::State(piece)) => {
                running.state.extend_from_slice(&piece);
                let flush = running.unanswered.back().map_or(0, |(flush, _)| *flush);
                running.unanswered.push_back((flush, part.number));
            }
            Err(what) => return self.void(part, what),
        }
        if let Some(running) = &mut staged.running {
            running.whole = part.last;
        }
        if self.make_room(part.slot, limits) {
            return Took::Fine;
        }
        self.void(part, "this shard has no memory for so large a state")
    }

    /// Everything of a transfer is thrown away.
    fn void(&mut self, part: &SnapshotPart, what: &str) -> Took {
        let staged = self.slots.remove(&part.slot).and_then(|staged| staged.running);
        let running = staged.expect("the part belongs to a transfer that runs");
        let text = format!("state of slot {} from replica {}: {what}", part.slot, running.message.from);
        Took::Void(running.answer(part.number, false), text)
    }

    /// Gives up what was left behind longest ago, but not `kept`, until the limit is kept. False when that is not enough.
    fn make_room(&mut self, kept: SlotId, limits: &Limits) -> bool {
        while self.bytes() > limits.transfer_staged_bytes_max {
            let idle = self.slots.iter().filter(|(slot, staged)| **slot != kept && staged.running.is_none());
            let Some(oldest) = idle.min_by_key(|(_, staged)| staged.touched).map(|(slot, _)| *slot) else {
                return false;
            };
            self.slots.remove(&oldest);
        }
        true
    }

    /// The journal is durable up to `flush`: what is to be said about it. The answer to a last part waits for the checkpoint.
    pub fn handle_durable(&mut self, flush: u64) -> Vec<Answer> {
        let mut answers = Vec::new();
        for running in self.slots.values_mut().filter_map(|staged| staged.running.as_mut()) {
            while let Some((carried, number)) = running.unanswered.front().copied() {
                let last = running.whole && running.unanswered.len() == 1;
                if carried > flush || last {
                    break;
                }
                running.unanswered.pop_front();
                answers.push(running.answer(number, true));
            }
        }
        answers
    }

    /// A state that is whole and durable; it is being installed from now on, until [`Incoming::installed`].
    pub fn take_whole(&mut self, flush: u64) -> Option<Whole> {
        let mut all = self.slots.iter_mut().filter_map(|(slot, staged)| Some((*slot, staged.running.as_mut()?)));
        let (slot, running) = all.find(|(_, running)| {
            let durable = running.unanswered.back().is_none_or(|(carried, _)| *carried <= flush);
            running.whole && !running.installing && durable
        })?;
        running.installing = true;
        Some(Whole { slot, message: running.message.clone(), state: std::mem::take(&mut running.state) })
    }

    /// The channels of a whole state with places for their messages: the replica's own (`own`, by channel index), then what was staged.
    /// Where the leader had a message that never came there is a hole.
    ///
    /// # Errors
    /// The state contradicts what the replica has: not the same group's, or somebody's mistake.
    pub fn assemble<'a>(
        &self,
        slot: SlotId,
        state: &mut State,
        own: &OwnChannels<'_, 'a>,
        limits: &Limits,
    ) -> Result<Vec<(ChannelKey, Channel)>, String> {
        let mut channels = Vec::with_capacity(state.channels.len());
        let nothing = Vec::new();
        let mut holes = 0;
        if let Some((key, _)) = own(state.channels.len()) {
            return Err(format!("it lacks channel {}, which is here", key.id));
        }
        for (index, known) in state.channels.drain(..).enumerate() {
            let mut parts = known.parts;
            let own = own(index).map(|(key, channel)| {
                let same = *key == known.key && channel.last_seq() <= parts.last_seq;
                same.then_some(channel)
                    .ok_or_else(|| format!("its channel {} is not the one that is here", known.key.id))
            });
            let own = own.transpose()?;
            let staged = self.slots.get(&slot).and_then(|staged| staged.bodies.get(&(index as u32)));
            let bounds = (known.first_seq, parts.last_seq);
            holes += fill(&mut parts.positions, bounds, own, staged.unwrap_or(&nothing));
            if holes * STAGED_BYTES > limits.transfer_staged_bytes_max {
                return Err("more messages are missing than this shard has memory for".into());
            }
            channels.push((known.key, Channel::restore(parts)));
        }
        Ok(channels)
    }

    /// The state that [`Incoming::take_whole`] gave out is in use (`good`), or cannot be used.
    pub fn installed(&mut self, slot: SlotId, good: bool) -> Option<Answer> {
        let staged = self.slots.get_mut(&slot)?;
        let running = staged.running.take_if(|running| running.installing)?;
        if good {
            self.slots.remove(&slot);
        }
        Some(running.answer(running.next - 1, good))
    }

    /// The replica of this slot is no more.
    pub fn forget_slot(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
    }

    /// The link to a shard was reset: its transfers will not go on. What has come stays.
    pub fn abandon_place(&mut self, place: Place) {
        for staged in self.slots.values_mut() {
            staged.running.take_if(|running| running.leader() == place && !running.installing);
        }
    }

    /// Gives up transfers that have been silent for too long. What has come stays.
    pub fn sweep(&mut self, now: Instant, limits: &Limits) {
        let patience = limits.transfer_patience * PATIENCE_TIMES;
        for staged in self.slots.values_mut() {
            staged.running.take_if(|running| !running.whole && now.since(running.heard_at) >= patience);
        }
        self.slots.retain(|_, staged| staged.running.is_some() || staged.messages > 0);
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self, limits: &Limits) {
        assert!(self.count() <= limits.transfers_max, "more transfers than the limit");
        assert!(self.bytes() <= limits.transfer_staged_bytes_max, "more is staged than the limit");
        for staged in self.slots.values() {
            assert_eq!(staged.messages, staged.bodies.values().map(Vec::len).sum::<usize>());
            assert!(staged.bodies.values().all(|bodies| bodies.is_sorted_by(|a, b| a.0 < b.0)));
        }
    }
}

/// Bodies come in order, and none that is here already.
fn check_order(running: &mut Running, part: &Part) -> Result<(), &'static str> {
    let Part::Bodies(bodies) = part else {
        return Ok(());
    };
    if !running.state.is_empty() {
        return Err("bodies behind the beginning of the state");
    }
    for body in bodies {
        let place = (body.channel, body.seq);
        let had = running.have.get(body.channel as usize).copied().unwrap_or(0);
        if running.last_body.is_some_and(|last| last >= place) || body.seq <= had {
            return Err("bodies that are not in order, or were not asked for");
        }
        running.last_body = Some(place);
    }
    Ok(())
}

/// Places for the messages of a channel up to `last`: from the first one on behind which the replica lacks nothing that the leader, who
/// could read from `first` on, did not lack too. Returns how many holes there are.
fn fill(
    positions: &mut Vec<Position>,
    (first, last): (u32, u32),
    own: Option<&Channel>,
    staged: &[(u32, Position)],
) -> usize {
    let own_last = own.map_or(0, Channel::last_seq);
    let mut staged = staged.iter().filter(|(seq, _)| *seq > own_last && *seq <= last).peekable();
    let mut start = first;
    if let Some(own) = own
        && own.readable() > 0
        && own_last >= first - 1
    {
        start = own.first_seq();
    } else {
        // Bodies of an earlier transfer may reach further back.
        let mut run = None;
        for (seq, _) in staged.clone().take_while(|(seq, _)| *seq <= first) {
            run = run.filter(|(_, end)| *end + 1 == *seq).map_or(Some((*seq, *seq)), |(begin, _)| Some((begin, *seq)));
        }
        if let Some((begin, end)) = run
            && end >= first - 1
        {
            start = begin;
        }
    }
    let mut holes = 0;
    for seq in start..=last {
        let kept = own.and_then(|own| own.position(seq));
        while staged.peek().is_some_and(|(known, _)| *known < seq) {
            staged.next();
        }
        let got = staged.peek().filter(|(known, _)| *known == seq).map(|(_, position)| *position);
        let position = kept.or(got).unwrap_or(HOLE);
        holes += usize::from(position == HOLE);
        positions.push(position);
    }
    holes
}

/// For a part that nobody waits for: its sender is to stop.
#[must_use]
pub fn stray(part: &SnapshotPart, replica: ReplicaId) -> SnapshotTaken {
    SnapshotTaken { transfer: part.transfer, slot: part.slot, from: replica, number: part.number, good: false }
}
