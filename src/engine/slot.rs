//! A hosted slot: its raft group and the state the group agrees on, channels and homes. Here the machines meet: a
//! submit becomes a command, a command that was agreed becomes a stored message, its answer and its notices. Does not know
//! sessions, sockets or the disk.
//!
//! ```text
//!  Submit ─► command ─► proposal ─► (journal, majority) ─► apply ─┬─► Submitted to the sender
//!                                                                ├─► Notify to each member's home ─► Notified
//!  Notify ─► row dirty ─(row_flush_after)─► command ─► … ─► apply ─┴─► Notified to the channel's slot
//! ```

mod applying;
mod homes;
mod merge;
mod moment;
mod split;
mod straight;
mod taking;
mod telling;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::chance::{Chance, MapState, SeededMap};
use super::channel::{Appended, Channel, Fingerprint};
use super::command::{self, Command, Commands, RowCommand};
use super::event::ApiAnswer;
use super::home::{Home, Noticed, Online, Row, Watch};
use super::journal::Journal;
use super::marks::{Flights, Marked, Marks, Point};
use super::message_ids::MessageIds;
use super::outbox::Outbox;
use super::raft_group::{CommittedEntry, GroupState, MemberChange, NotTaken, Proposed, RaftGroup};
use super::recent::Recent;
use super::route_cache::{Member, RouteCache};
use super::routes::Routes;
use crate::format::frame::{
    Answered, Frame, Notified, Notify, Register, Registered, Resume, Submission, Submit, Submitted,
};
use crate::format::message::{MessageFields, StoredMessage};
use crate::format::packet::{HeaderFlags, Reason};
use crate::format::raft_message::RaftMessage;
use crate::format::record::Position;
use crate::ids::{
    ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, KeyHash, NodeId, Place, ReplicaId, SessionAddress, SlotId, Uid,
};
use crate::limits::Limits;
use crate::time::{Instant, Now};

pub use merge::{MergeNews, Portion, Reshaped};
pub use moment::{MomentId, MomentReader, ReadOn};
pub use split::Half;
pub use taking::Quit;

use homes::Homes;
use moment::Moments;

/// Connections that one leader can number.
const ORDER_TERM_SHIFT: u32 = 32;

/// Proof that something was agreed by the group, and so is durable on a majority. Only [`Slot::apply`] can make one;
/// what promises durability to a client asks for it.
#[derive(Debug)]
pub struct Committed(());

/// What a shard lends its slots for one call.
pub struct Surroundings<'a> {
    /// Clocks.
    pub now: Now,
    /// Bounds.
    pub limits: &'a Limits,
    /// Who leads what.
    pub routes: &'a Routes,
    /// What is to be said.
    pub out: &'a mut Outbox,
    /// What raft wants said.
    pub raft_out: &'a mut Vec<RaftMessage>,
    /// Bodies in memory.
    pub recent: &'a mut Recent,
}

/// A channel with what its leader knows beyond the agreed state.
#[derive(Debug)]
pub struct ChannelEntry {
    /// Its name.
    pub key: ChannelKey,
    /// The agreed state.
    pub channel: Channel,
    members: [Uid; 2],
    /// The members' hashes: a notice finds its shard without hashing again.
    hashes: [KeyHash; 2],
    /// How far each member's home has confirmed.
    confirmed: [u32; 2],
    /// In the list of channels that wait for confirmation.
    listed: bool,
    noticed_at: Instant,
}

impl ChannelEntry {
    fn new(key: ChannelKey, channel: Channel) -> Option<ChannelEntry> {
        let (first, second) = key.members();
        let members = [Uid::parse(first).ok()?, Uid::parse(second).ok()?];
        let hashes = [members[0].key_hash(), members[1].key_hash()];
        let confirmed = [channel.announced_seq(); 2];
        Some(ChannelEntry { key, channel, members, hashes, confirmed, listed: false, noticed_at: Instant(0) })
    }

    /// As its channel comes to another slot: without what only the leader here knew, and without bodies, which are read where they lie.
    fn forget_what_is_local(&mut self) {
        self.channel.forget_bodies();
        self.confirmed = [self.channel.announced_seq(); 2];
        (self.listed, self.noticed_at) = (false, Instant(0));
    }

    fn member_count(&self) -> usize {
        if self.members[0] == self.members[1] { 1 } else { 2 }
    }
}

/// Who waits for what became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The shard.
    pub place: Place,
    /// Its number for it.
    pub ticket: u64,
    /// The term in which it asked.
    pub term: u64,
}

/// Who waits for one command.
#[derive(Debug)]
enum Waiter {
    Append(Asker),
    Row(Uid, ChannelKey),
    Api(Place, u64),
    Register(Box<Register>),
    Nobody,
}

/// Commands on their way into one entry.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    waiters: Vec<Waiter>,
}

/// A repeat whose first body is no longer in memory: it must be read to be compared.
#[derive(Debug)]
pub struct RepeatCheck {
    /// Who waits.
    pub asker: Asker,
    /// Index of the channel within its slot.
    pub channel: u32,
    /// The message it repeats.
    pub seq: u32,
    /// The repeat.
    pub message: StoredMessage,
}

/// A hosted slot.
pub struct Slot {
    id: SlotId,
    /// Bits of the hash that name it; 0 as long as nobody has said.
    depth: u8,
    /// What splits and merges have left in the agreed state.
    reshaped: Reshaped,
    /// What has split off and is not hosted yet.
    halves: Vec<Half>,
    /// What its sibling held, for the entry that takes it in.
    portion: Option<Portion>,
    /// Not told yet.
    merge_news: Option<MergeNews>,
    group: RaftGroup,
    map_state: MapState,
    channels_by_key: SeededMap<ChannelKey, u32>,
    channels: Vec<ChannelEntry>,
    homes: Homes,
    /// Moments of its agreed state that are being read.
    moments: Moments,
    message_ids: MessageIds,
    pending: VecDeque<Pending>,
    in_flight: VecDeque<(Proposed, Vec<Waiter>)>,
    /// Their times.
    flights: Flights,
    dirty_rows: Vec<(Uid, ChannelKey)>,
    rows_due: Option<Instant>,
    unannounced: Vec<u32>,
    /// Where members' sessions are.
    route_cache: RouteCache,
    /// Whose homes are to hear at the end of the turn what went straight.
    notices: Vec<Member>,
    /// Rows of homes here whose messages went straight, and when to look whether they have come.
    watched: VecDeque<(Instant, Uid, ChannelKey)>,
    /// The last name given to who is online of a home here.
    marks: u32,
    led_term: Option<u64>,
    leadership_changed: bool,
    /// The largest that a connection was accepted with, as far as it is known here.
    order_last: u64,
    /// Agreed on and not applied: only while the first of them waits for what the sibling held.
    committed: Vec<CommittedEntry>,
    /// What the group wants said to its other replicas.
    raft_messages: Vec<RaftMessage>,
    repeats: Vec<RepeatCheck>,
    /// What was agreed on about devices that quit, and whoever asked for it.
    quits: Vec<Quit>,
    /// Sessions that ask what lags, while the group has not agreed on what they have reported. One a session.
    resumes: Vec<Resume>,
    /// What is pending waits for the next beat.
    held_back: bool,
    messages: u64,
}

/// What a checkpoint brings back.
pub struct SlotState {
    /// The group.
    pub group: GroupState,
    /// Last message id, in [`MessageIds`]' form.
    pub message_ids_last: u64,
    /// What splits and merges have left.
    pub reshaped: Reshaped,
    /// Channels.
    pub channels: Vec<(ChannelKey, Channel)>,
    /// Homes.
    pub homes: Vec<(Uid, Home)>,
}

impl Slot {
    /// A slot as the disk remembers it. `map_state` seeds its maps and those of its homes.
    ///
    /// # Errors
    /// A channel whose name does not name users: the disk's fault, or a bug.
    pub fn restore(
        id: SlotId,
        state: SlotState,
        map_state: MapState,
        log_tail_bytes_max: usize,
        chance: Chance,
    ) -> Result<Slot, String> {
        let SlotState { group, message_ids_last, reshaped, channels, homes } = state;
        group.check()?;
        let mut slot = Slot::empty(id, group, (message_ids_last, reshaped), map_state, (log_tail_bytes_max, chance));
        for (key, channel) in channels {
            slot.add_channel(ChannelEntry::new(key, channel).ok_or("a channel is not named after users")?);
        }
        slot.homes = Homes::of(homes, map_state);
        Ok(slot)
    }

    /// One without channels and homes.
    fn empty(
        id: SlotId,
        group: GroupState,
        (message_ids_last, reshaped): (u64, Reshaped),
        map_state: MapState,
        (log_tail_bytes_max, chance): (usize, Chance),
    ) -> Slot {
        let mut slot = Slot {
            id,
            depth: 0,
            reshaped,
            halves: Vec::new(),
            portion: None,
            merge_news: None,
            group: RaftGroup::restore(id, group, log_tail_bytes_max, chance),
            map_state,
            channels_by_key: SeededMap::with_hasher(map_state),
            channels: Vec::new(),
            homes: Homes::new(map_state),
            moments: Moments::default(),
            message_ids: MessageIds::new(id),
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            flights: Flights::default(),
            dirty_rows: Vec::new(),
            rows_due: None,
            unannounced: Vec::new(),
            route_cache: RouteCache::new(map_state),
            notices: Vec::new(),
            watched: VecDeque::new(),
            marks: 0,
            led_term: None,
            leadership_changed: false,
            order_last: 0,
            committed: Vec::new(),
            raft_messages: Vec::new(),
            repeats: Vec::new(),
            quits: Vec::new(),
            resumes: Vec::new(),
            held_back: false,
            messages: 0,
        };
        slot.message_ids.resume(message_ids_last);
        slot
    }

    /// A channel that was not here before.
    fn add_channel(&mut self, entry: ChannelEntry) {
        self.messages += entry.channel.readable() as u64;
        self.channels_by_key.insert(entry.key.clone(), self.channels.len() as u32);
        self.channels.push(entry);
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// True when it can take commands and answer questions.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.led_term.is_some()
    }

    /// The term in which it leads.
    #[must_use]
    pub fn led_term(&self) -> Option<u64> {
        self.led_term
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// Its group, to be told how sending a snapshot ended, or that one is to be installed.
    pub fn group_mut(&mut self) -> &mut RaftGroup {
        &mut self.group
    }

    /// A snapshot's state takes the place of this one's; `whole` was made of it with [`Slot::restore`]. The group is told by the caller.
    ///
    /// # Panics
    /// When this replica leads: it has nothing to learn from a snapshot.
    pub fn replace_state(&mut self, whole: Slot) {
        assert!(self.led_term.is_none() && self.unannounced.is_empty(), "a leader's state is never replaced");
        assert_eq!(self.id, whole.id, "a state belongs to its slot");
        self.map_state = whole.map_state;
        self.channels_by_key = whole.channels_by_key;
        self.channels = whole.channels;
        self.homes = whole.homes;
        self.moments.forget();
        self.messages = whole.messages;
        self.depth = whole.depth;
        self.reshaped = whole.reshaped;
        // What waited for the sibling is in the new state, or comes again.
        self.committed.clear();
        self.portion = None;
        self.message_ids.resume(whole.message_ids.last());
        self.dirty_rows.clear();
        self.rows_due = None;
    }

    /// A message of this slot lies elsewhere now. False when it is not readable any more.
    pub fn set_position(&mut self, channel: u32, seq: u32, position: Position) -> bool {
        self.channels.get_mut(channel as usize).is_some_and(|entry| entry.channel.set_position(seq, position))
    }

    /// Its message ids.
    #[must_use]
    pub fn message_ids(&self) -> &MessageIds {
        &self.message_ids
    }

    /// Channels, in the order in which they appeared.
    #[must_use]
    pub fn channels(&self) -> &[ChannelEntry] {
        &self.channels
    }

    /// Homes, in an order that is the same on every replica.
    pub fn sorted_homes(&self) -> impl Iterator<Item = (&Uid, &Home)> {
        self.homes.iter()
    }

    /// Number of homes.
    #[must_use]
    pub fn home_count(&self) -> usize {
        self.homes.len()
    }

    /// Messages that can be read back.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// A channel's index within this slot.
    #[must_use]
    pub fn channel_index(&self, key: &ChannelKey) -> Option<u32> {
        self.channels_by_key.get(key).copied()
    }

    /// A user's home.
    #[must_use]
    pub fn home(&self, uid: &Uid) -> Option<&Home> {
        self.homes.home(uid.as_str())
    }

    /// A user's home, made if it is not there.
    pub fn home_or_new(&mut self, uid: &Uid) -> &mut Home {
        let map_state = self.map_state;
        self.homes.home_or(uid, || Home::new(map_state))
    }

    /// Forgets a home that holds nothing.
    pub fn forget_empty_home(&mut self, uid: &Uid) {
        self.homes.forget_empty(uid);
    }

    /// Repeats that must be compared with what is on disk.
    pub fn take_repeats(&mut self) -> Vec<RepeatCheck> {
        std::mem::take(&mut self.repeats)
    }

    /// Proposes what is pending and hands new entries to the journal; applies what was agreed. Returns the flush whose
    /// durability is now waited for.
    pub fn turn(&mut self, journal: &mut Journal, around: &mut Surroundings<'_>) -> Option<u64> {
        self.held_back = false;
        while let Some(pending) = self.pending.pop_front() {
            match self.group.propose(pending.bytes) {
                Ok(proposed) => {
                    around.out.counters.proposals += 1;
                    self.flights.proposed(proposed.index, around.now.instant);
                    self.in_flight.push_back((proposed, pending.waiters));
                }
                Err(NotTaken::Later(bytes)) => {
                    // Leadership is being handed over, or too much is under way: it stays first in line until the next beat.
                    self.pending.push_front(Pending { bytes, waiters: pending.waiters });
                    self.held_back = true;
                    break;
                }
                Err(NotTaken::NotLeader | NotTaken::Senseless) => self.refuse(pending.waiters, around),
            }
        }
        let mut committed = std::mem::take(&mut self.committed);
        let mut waits_for = self.group.drain(journal, &mut committed, &mut self.raft_messages);
        loop {
            let ready = committed.iter().position(|entry| command::absorb_of(&entry.data).is_some());
            let mut count = ready.unwrap_or(committed.len());
            committed.drain(..count).for_each(|entry| self.apply_and_count(&entry, around));
            if committed.first().is_some_and(|entry| self.can_apply(&entry.data)) {
                let entry = committed.remove(0);
                self.apply_and_count(&entry, around);
                count += 1;
            }
            if count == 0 {
                break;
            }
            waits_for = self.group.drain(journal, &mut committed, &mut self.raft_messages).or(waits_for);
        }
        self.committed = committed;
        self.send_notices(around);
        around.raft_out.append(&mut self.raft_messages);
        self.follow_leadership(around);
        waits_for
    }

    fn apply_and_count(&mut self, entry: &CommittedEntry, around: &mut Surroundings<'_>) {
        self.apply(entry, around);
        self.group.applied_to(entry.index, entry.term);
    }

    /// Notices that this replica has begun to lead, or no longer does.
    fn follow_leadership(&mut self, around: &mut Surroundings<'_>) {
        let leads = self.group.leads().then(|| self.group.term());
        if leads == self.led_term {
            return;
        }
        if self.led_term.is_some() {
            self.cease_leading(around);
        }
        self.led_term = leads;
        if leads.is_some() {
            self.begin_leading();
        }
        self.leadership_changed = true;
    }

    /// Whatever waits for this slot's group here will not hear from it: what is in the log may be agreed on yet or not.
    fn cease_leading(&mut self, around: &mut Surroundings<'_>) {
        self.flights.forget();
        let pending = std::mem::take(&mut self.pending).into_iter().map(|pending| pending.waiters);
        let in_flight = std::mem::take(&mut self.in_flight).into_iter().map(|(_, waiters)| waiters);
        for waiters in pending.chain(in_flight).collect::<Vec<_>>() {
            self.refuse(waiters, around);
        }
        self.dirty_rows.clear();
        self.resumes.clear();
        self.route_cache.clear();
        self.watched.clear();
        self.rows_due = None;
        for index in std::mem::take(&mut self.unannounced) {
            self.channels[index as usize].listed = false;
        }
        self.homes.change_all(Home::cease_leading);
    }

    /// The term in which this replica leads, when that has changed since the last call.
    pub fn take_leadership_change(&mut self) -> Option<Option<u64>> {
        std::mem::take(&mut self.leadership_changed).then_some(self.led_term)
    }

    /// The journal is durable up to here.
    pub fn handle_durable(&mut self, flush: u64, now: Instant) {
        self.group.handle_durable(flush, &mut self.raft_messages);
        self.flights.durable(self.group.durable_index(), now);
    }

    /// One beat of raft's clock.
    pub fn tick(&mut self) {
        self.held_back = false;
        self.group.tick();
    }

    /// Another replica says something.
    pub fn step(&mut self, message: RaftMessage) {
        // One that no honest replica says, or that was meant for another life, is as good as lost.
        let _ = self.group.step(message);
    }

    /// Another replica is to lead.
    pub fn hand_over(&mut self, heir: ReplicaId) {
        self.group.transfer(heir);
    }

    /// The group's members are to change.
    pub fn change_members(&mut self, change: &MemberChange) {
        // Not taken now: asked again when they are looked at next.
        let _ = self.group.propose_members(change);
    }

    /// This replica's life ends: whoever waits for it asks elsewhere.
    pub fn dismiss(&mut self, around: &mut Surroundings<'_>) {
        self.cease_leading(around);
    }

    /// Which replica it is.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.group.replica()
    }

    fn refuse(&mut self, waiters: Vec<Waiter>, around: &mut Surroundings<'_>) {
        for waiter in waiters {
            match waiter {
                Waiter::Append(asker) => refuse(asker, Reason::NodeNotMatch, around.out),
                Waiter::Row(uid, channel) => {
                    if let Some(home) = self.homes.home_mut(uid.as_str()) {
                        home.mark_dirty(&channel);
                    }
                    self.row_dirtied(&uid, &channel, around.now.instant, around.limits);
                }
                Waiter::Api(place, ticket) => {
                    around.out.frame(place, Frame::Answered(Box::new(Answered { ticket, answer: None })));
                }
                Waiter::Register(register) => {
                    let session = register.address.session;
                    let refused =
                        Registered { session, reason: Reason::NodeNotMatch as u8, level: DeviceLevel::Slave, order: 0 };
                    around.out.frame(register.address.place, Frame::Registered(refused));
                }
                Waiter::Nobody => {}
            }
        }
    }

    // ---- bodies ----

    /// Forgets the oldest body of a channel.
    pub fn evict_oldest(&mut self, channel: u32) {
        self.messages -= self.channels[channel as usize].channel.evict_oldest() as u64;
    }

    /// Drops what lies in journal segments that are gone.
    pub fn drop_below(&mut self, segment: u32) {
        for entry in &mut self.channels {
            self.messages -= entry.channel.drop_below(segment) as u64;
        }
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self) {
        assert_eq!(self.channels.len(), self.channels_by_key.len());
        for entry in &self.channels {
            entry.channel.check_invariants();
            assert!(entry.confirmed.iter().all(|seq| *seq <= entry.channel.last_seq()));
        }
        self.homes.check_invariants();
        self.moments.check_invariants(self.channels.len());
        for home in self.homes.values() {
            home.check_invariants();
        }
        let readable: usize = self.channels.iter().map(|entry| entry.channel.readable()).sum();
        assert_eq!(readable as u64, self.messages);
        assert_eq!(self.rows_due.is_some(), !self.dirty_rows.is_empty());
        self.group.check_invariants();
        assert!(self.leads() || self.in_flight.is_empty(), "only a leader waits for what it has proposed");
        let rises = self.in_flight.iter().zip(self.in_flight.iter().skip(1)).all(|(a, b)| a.0.index < b.0.index);
        assert!(rises, "proposals wait in the order of the log");
        let waits = self.stalled().is_some() || self.portion.is_some();
        assert!(self.committed.is_empty() || waits, "what is agreed on is applied at once");
        assert!(self.portion.is_none() || !self.committed.is_empty(), "nobody holds what was taken in already");
        assert!(!self.is_frozen() || self.dirty_rows.is_empty(), "a frozen slot takes nothing");
        let listed = self.channels.iter().filter(|entry| entry.listed).count();
        assert_eq!(listed, self.unannounced.len(), "who waits to be announced is in the list");
        assert!(self.leads() || self.unannounced.is_empty(), "only a leader announces");
        assert!(
            self.leads() || self.homes.values().all(|home| home.online().is_empty()),
            "only a leader knows who is online"
        );
    }
}

/// For marks: which message, and whose.
fn marked(message: &StoredMessage) -> Marked<'_> {
    Marked { message_id: message.message_id(), from: message.from(), to: message.to() }
}

/// A stored message passes a point. Whose it is is read out of it only when somebody may want to know.
pub fn mark(marks: &mut Marks, at: Instant, point: Point, message: &StoredMessage) {
    if marks.may_want(message.message_id()) {
        marks.mark(at, point, marked(message));
    }
}

/// The message is stored: says so to whoever waits.
fn submitted(_proof: &Committed, asker: Option<Asker>, stored: (i64, u32), out: &mut Outbox) {
    if let Some(asker) = asker {
        tell(asker, stored, Reason::Success, out);
    }
}

fn tell(asker: Asker, (message_id, message_seq): (i64, u32), reason: Reason, out: &mut Outbox) {
    let Asker { place, ticket, term } = asker;
    let reason = reason as u8;
    out.frame(place, Frame::Submitted(Submitted { ticket, term, message_id, message_seq, reason }));
}

/// A row covers its channel: the channel's slot is told, wherever it is led by now.
fn tell_settled(notified: Notified, around: &mut Surroundings<'_>) {
    let to = around.routes.guess(around.routes.slot(notified.channel.key_hash()));
    around.out.frame(to, Frame::Notified(notified));
}

/// The message was stored before: the same answer if it is the same, else a conflict.
fn answer_repeat(
    proof: &Committed,
    asker: Asker,
    (first, seq): (&StoredMessage, u32),
    repeat: &StoredMessage,
    out: &mut Outbox,
) {
    if first.payload() == repeat.payload() {
        submitted(proof, Some(asker), (first.message_id(), seq), out);
    } else {
        refuse(asker, Reason::IdempotencyConflict, out);
    }
}

/// Answers a repeat whose first body was read back from the disk, where it lay committed. When the body is gone (retention, or
/// damage that was reported) the fingerprint still proves that it was stored: the answer names its position, and no id.
pub fn answer_checked_repeat(check: &RepeatCheck, first: Option<&StoredMessage>, out: &mut Outbox) {
    let proof = Committed(());
    match first {
        Some(first) => answer_repeat(&proof, check.asker, (first, check.seq), &check.message, out),
        None => submitted(&proof, Some(check.asker), (0, check.seq), out),
    }
}

/// The message is not taken.
pub fn refuse(asker: Asker, reason: Reason, out: &mut Outbox) {
    tell(asker, (0, 0), reason, out);
}

fn answer(waiter: &Waiter, out: &mut Outbox) {
    if let Waiter::Api(place, ticket) = *waiter {
        out.frame(place, Frame::Answered(Box::new(Answered { ticket, answer: Some(ApiAnswer::Done) })));
    }
}
