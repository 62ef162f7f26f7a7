//! One shard: every machine of one core behind one function. [`Shard::step`] hands each event to one machine, lets the
//! machines talk until they are at rest, and says what is to be done. Decides the order of things, not the things
//! themselves: those are in the machines' own files.
//!
//! ```text
//!  events ─► sessions, reads, journal ─► frames to this shard ─► slots: propose, apply ─┐
//!                   ▲                              ▲                                    │ until at rest,
//!                   └──────────────────────────────┴────────────────────────────────────┘ bounded
//!  then: journal flush ─► effects
//! ```

mod api;
mod checkpoints;
mod clients;
mod cluster;
mod deliveries;
mod endings;
mod frames;
mod greetings;
mod hints;
mod hosting;
mod inspect;
mod invariants;
mod left_out;
mod links;
mod membership;
mod mending;
mod merges;
mod metadata_disk;
mod operators;
mod reshapes;
mod settings;
mod transfers;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::asks::Asks;
use super::chance::{Chance, MapState};
use super::counters::Counters;
use super::delivery::Push;
use super::effect::{Effect, Effects, ServerPacket};
use super::event::{Event, EventBatch};
use super::journal::Journal;
use super::link::{LinkWish, Links};
use super::marks::{Marks, TooManyWatches};
use super::metadata::Cluster;
use super::outbox::Outbox;
use super::reads::Reads;
use super::recent::Recent;
use super::recovery::{Recovered, RecoveredSlot};
use super::repairs::Repairs;
use super::rollcall::Rollcall;
use super::routes::{Routes, Table};
use super::session::Session;
use super::slot::{Slot, Surroundings};
use super::submits::Submits;
use crate::format::raft_message::RaftMessage;
use crate::ids::{NodeId, Place, SLOT_COUNT_MAX, SessionId, ShardId, SlotId, Uid};
use crate::time::{Instant, Now};

use checkpoints::{Checkpoints, Pledge};
use endings::Endings;
use greetings::Greetings;
use hosting::Ended;
use left_out::LeftOut;
use membership::Office;
use merges::Merges;
use operators::Leaving;
use reshapes::Nursery;
use transfers::Transfers;

pub use super::recovery::Recovery;
pub use inspect::ReplicaView;
pub use settings::{
    ClusterSettings, ClusterView, Durability, JournalGeometry, OfflineMode, Retention, ShardConfig, ShardView,
};

/// Rounds of talk between the machines in one step. A message needs four (submit, apply, notify, deliver); what is not at
/// rest after this many goes on in the next step.
const ROUNDS_MAX: usize = 16;

/// Frames to this shard taken in one round, so that a step stays short.
const LOOPBACK_PER_ROUND_MAX: usize = 65_536;

/// A hosted slot and what the shard keeps beside it.
pub(super) struct Hosted {
    pub(super) slot: Slot,
    /// Bits of the hash that name it.
    pub(super) depth: u8,
    /// Not before then is leadership handed over (again).
    hand_over_at: Instant,
    /// Its node stops, and somebody else was asked to lead.
    bequeathed: bool,
    /// In the list of slots with work.
    dirty: bool,
    /// In the queue of slots with changed rows.
    rows_listed: bool,
    /// Of the shard's cached routes, so many are this slot's.
    routes_counted: usize,
    /// Journal bytes written when its last checkpoint was made.
    checkpoint_mark: u64,
    /// First segment that replay needs beside the checkpoint on disk.
    pub(super) replay_segment: u32,
    /// Sessions that its homes have ended, and whose gateways have not said so.
    endings: Endings,
    /// Who has said which sessions are there, since this replica leads.
    pub(super) rollcall: Rollcall,
    /// It has a checkpoint on disk. One without is found by those of the others, which ask for what it needs too.
    checkpointed: bool,
    /// First segment that the checkpoint on disk asks a restart to begin with, for others' sake too.
    kept_segment: u32,
    /// The last plan of a split or merge that is in the checkpoint on disk.
    checkpoint_plan: u64,
    /// Being encoded or written.
    checkpointing: Option<Pledge>,
}

impl Hosted {
    pub(super) fn new(mut slot: Slot, depth: u8, replay_segment: u32) -> Hosted {
        slot.set_depth(depth);
        Hosted {
            slot,
            depth,
            hand_over_at: Instant(0),
            bequeathed: false,
            dirty: true,
            rows_listed: false,
            routes_counted: 0,
            checkpoint_mark: 0,
            replay_segment,
            endings: Endings::default(),
            rollcall: Rollcall::default(),
            checkpointed: false,
            kept_segment: replay_segment,
            checkpoint_plan: 0,
            checkpointing: None,
        }
    }
}

/// One core's share of the router.
pub struct Shard {
    config: ShardConfig,
    routes: Routes,
    submits: Submits,
    asks: Asks,
    /// Position in `hosted` by slot number; `u32::MAX` for slots that live elsewhere.
    places: Vec<u32>,
    hosted: Vec<Hosted>,
    sessions: Vec<Option<Box<Session>>>,
    session_count: usize,
    live_count: usize,
    journal: Journal,
    /// (flush, hosted slot) that waits for it; flushes rise.
    awaiting: VecDeque<(u64, SlotId)>,
    dirty_slots: Vec<u32>,
    /// Slots that are led here since this term, or no longer.
    leadership_changes: Vec<(SlotId, Option<u64>)>,
    /// Slots whose leaders are to hear which sessions are here.
    to_greet: BTreeSet<SlotId>,
    greetings: Greetings,
    /// As last agreed and published on this node.
    cluster: Option<Arc<Cluster>>,
    /// Of the node's first shard: what it does for the whole node.
    office: Option<Office>,
    /// Who leads the metadata group, as far as known, and in which term.
    metadata_leader: (u64, Option<Place>),
    ended: Ended,
    links: Links,
    link_wishes: Vec<LinkWish>,
    /// Bytes of messages that may still go to other nodes' shards in this step.
    submit_rooms: BTreeMap<Place, usize>,
    /// What raft wants said to other nodes.
    raft_out: Vec<RaftMessage>,
    left_out: LeftOut,
    /// Cached routes of all slots.
    routes_cached: usize,
    map_state: MapState,
    chance: Chance,
    /// The cluster's nodes and their shards.
    node_shards: BTreeMap<NodeId, u16>,
    /// Those that are said to be down.
    nodes_down: BTreeSet<NodeId>,
    /// Those that gossip believes to be down, and that are heard all the same.
    nodes_doubted: BTreeSet<NodeId>,
    row_slots: VecDeque<u32>,
    dirty_sessions: Vec<u32>,
    recent: Recent,
    reads: Reads,
    repairs: Repairs,
    transfers: Transfers,
    checkpoints: Checkpoints,
    nursery: Nursery,
    merges: Merges,
    out: Outbox,
    pushes: Vec<Push>,
    /// RECVs of this round, written after it.
    recvs: Vec<(SessionId, ServerPacket)>,
    api_open: usize,
    tick_at: Instant,
    sweep_at: Instant,
    retry_at: Instant,
    chase_at: Instant,
    /// When every slot led here is reported again.
    report_at: Instant,
    /// Of a shard that is not the first: slots led and sessions, as the first was told last.
    said_part: (u32, u32),
    /// While this node is to be emptied: sessions that are to go.
    leaving: Option<Leaving>,
    /// Not everything was done in the last step.
    restless: bool,
    stopping: bool,
    /// Of a node that stops: its groups have other leaders, and this shard will not lead any more.
    left: bool,
    /// When that is so at the latest.
    leave_until: Option<Instant>,
    stopped: bool,
    /// When each closed segment was closed, by the wall clock.
    segment_times: VecDeque<(u32, u64)>,
    /// Retention wants to be rid of every segment before this one.
    segment_wanted: u32,
}

impl Shard {
    /// Everything recovered; see [`Recovery::finish`].
    pub(super) fn assemble(
        config: ShardConfig,
        Recovered { slots, metadata, lifeless, journal }: Recovered,
        map_state: MapState,
        now: Now,
    ) -> Result<Shard, String> {
        let (hosted, places) = host(slots);
        let mut shard = Shard {
            places,
            dirty_slots: (0..hosted.len() as u32).collect(),
            hosted,
            map_state,
            chance: Chance::new(config.seed, 2),
            sessions: Vec::new(),
            session_count: 0,
            live_count: 0,
            awaiting: VecDeque::new(),
            leadership_changes: Vec::new(),
            to_greet: BTreeSet::new(),
            greetings: Greetings::default(),
            cluster: None,
            office: if config.place.shard == ShardId(0) { Some(Office::open(&config, metadata)?) } else { None },
            metadata_leader: (0, None),
            ended: Ended::found(lifeless, journal.written()),
            links: Links::new(config.links(), Chance::new(config.seed, 3)),
            link_wishes: Vec::new(),
            submit_rooms: BTreeMap::new(),
            raft_out: Vec::new(),
            left_out: LeftOut::default(),
            routes_cached: 0,
            node_shards: BTreeMap::new(),
            nodes_down: BTreeSet::new(),
            nodes_doubted: BTreeSet::new(),
            row_slots: VecDeque::new(),
            dirty_sessions: Vec::new(),
            recent: Recent::new(config.limits.recent_bytes_max),
            reads: Reads::default(),
            repairs: Repairs::default(),
            transfers: Transfers::new(config.boot),
            checkpoints: Checkpoints::new(),
            nursery: Nursery::default(),
            merges: Merges::default(),
            out: Outbox::new(config.place, Marks::new(config.limits.marked_one_in)),
            pushes: Vec::new(),
            recvs: Vec::new(),
            api_open: 0,
            tick_at: now.instant + config.limits.raft_tick,
            sweep_at: now.instant + config.limits.sweep_every,
            retry_at: now.instant + config.limits.announce_retry_after,
            chase_at: now.instant + config.limits.chase_every,
            report_at: now.instant,
            said_part: (0, 0),
            leaving: None,
            restless: true,
            stopping: false,
            left: false,
            leave_until: None,
            stopped: false,
            segment_times: closed_segments(journal.segments(), now),
            segment_wanted: 0,
            journal,
            routes: Routes::new(Arc::new(Table::new(&Cluster::default()))),
            submits: Submits::new(config.first_number()),
            asks: Asks::new(config.first_number()),
            config,
        };
        shard.count_replay_from_here();
        shard.found_or_wait();
        Ok(shard)
    }

    /// One turn: takes everything that happened, says everything to be done. Never waits; bounded by the batch and the
    /// limits named above.
    pub fn step(&mut self, now: Now, events: &mut EventBatch, effects: &mut Effects) {
        self.begin_portion();
        for event in events.drain(..) {
            self.handle_event(now, event, effects);
        }
        self.take_link_news(now, effects);
        self.fire_timers(now, effects);
        self.come_to_rest(now, effects);
        self.go_on_checkpoints(now.instant, effects);
        while let Some((slot, channel)) = self.recent.pop_excess(self.journal.written()) {
            if let Some(place) = self.place_of(slot) {
                self.hosted[place].slot.evict_oldest(channel);
            }
        }
        self.send_raft(now);
        self.out.flush(&mut self.api_open, effects);
        self.flush_links(now, effects);
        self.leave_groups(now, effects);
        let settled = self.left && self.row_slots.is_empty() && self.journal.pending_bytes() == 0;
        if self.stopping && !self.stopped && self.session_count == 0 && settled {
            self.stopped = true;
            self.take_leave(effects);
            effects.push(Effect::Stopped);
        }
    }

    fn handle_event(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Opened(opened) => self.handle_opened(now, opened, effects),
            Event::Packet { session, packet } => self.handle_packet(now, session, packet, effects),
            Event::Malformed { session, .. } => self.handle_malformed(session, effects),
            Event::Closed { session } => self.handle_closed(session),
            Event::Backlogged { session, full } => self.handle_backlogged(now, session, full),
            Event::Frames { from, frames } => {
                self.out.counters.frames_received += frames.len() as u64;
                self.out.loopback.extend(frames.into_iter().map(|frame| (from, frame)));
            }
            Event::JournalWritten { flush, bytes, result } => self.handle_written(now, flush, bytes, result),
            Event::SegmentReady { segment, result } => self.journal.handle_segment_ready(now.instant, segment, result),
            Event::ReadDone { ticket, result } => self.handle_read_done(ticket, &result, effects),
            Event::CheckpointWritten { slot, .. } if self.ended.checkpoint_ended(slot) => {}
            Event::CheckpointWritten { slot, result } => {
                self.handle_checkpoint_written(slot, result.is_ok());
                self.follow_install(now, slot, result.is_ok(), effects);
            }
            Event::Api { ticket, request } => self.handle_api(now, ticket, request, effects),
            Event::Stop => self.handle_stop(),
            Event::LinkDialed { conn, made } => self.links.handle_dialed(now.instant, conn, made),
            Event::LinkAccepted { conn, from } => self.links.handle_accepted(now.instant, conn, from),
            Event::LinkBytes { conn, bytes } => self.links.handle_bytes(now.instant, conn, bytes),
            Event::LinkClosed { conn } => self.links.handle_closed(now.instant, conn),
            Event::Datagram { from, bytes } => self.handle_datagram(now, from, &bytes),
            Event::Cluster(cluster) => self.adopt_cluster(now, cluster),
        }
    }

    /// Lets the machines talk until nobody has anything to say, then flushes the journal.
    fn come_to_rest(&mut self, now: Now, effects: &mut Effects) {
        self.restless = false;
        for round in 0..ROUNDS_MAX {
            self.take_loopback(now, effects);
            self.settle_sessions(now, effects);
            self.turn_slots(now);
            self.feed_stalled(now);
            self.turn_council(now, effects);
            self.follow_leaderships(now, effects);
            self.greet_leaders(now);
            self.go_on_greeting();
            self.start_queued_reads(effects);
            self.turn_nursery();
            self.turn_transfers(now, effects);
            let at_rest = self.out.loopback.is_empty()
                && self.dirty_slots.is_empty()
                && self.dirty_sessions.is_empty()
                && !self.greetings.goes_on
                && !self.council_has_work();
            if at_rest {
                self.journal.flush(now.instant, effects);
                if !self.take_durable(now) {
                    return;
                }
            } else if round + 1 == ROUNDS_MAX {
                self.journal.flush(now.instant, effects);
            }
        }
        self.restless = true;
    }

    fn take_loopback(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..LOOPBACK_PER_ROUND_MAX {
            let Some((from, frame)) = self.out.loopback.pop_front() else {
                break;
            };
            self.handle_frame(now, from, frame, effects);
        }
    }

    fn turn_slots(&mut self, now: Now) {
        for place in std::mem::take(&mut self.dirty_slots) {
            self.hosted[place as usize].dirty = false;
            let waits_for = self.with_slot(place as usize, now, |slot, journal, around| slot.turn(journal, around));
            if let Some(flush) = waits_for {
                self.awaiting.push_back((flush, self.hosted[place as usize].slot.id()));
            }
            self.follow_quits(place as usize);
            self.follow_splits(place as usize);
            self.follow_merges(place as usize, now);
            self.start_transfers(place as usize, now);
            if let Some(led) = self.hosted[place as usize].slot.take_leadership_change() {
                self.drop_endings(place as usize);
                self.transfers.outgoing.abandon_slot(self.hosted[place as usize].slot.id(), led);
                self.leadership_changes.push((self.hosted[place as usize].slot.id(), led));
                // Who has just come to lead does so for a while: its predecessor may be about to stop.
                self.hosted[place as usize].hand_over_at = now.instant + self.config.limits.hand_over_every;
            }
            for check in self.hosted[place as usize].slot.take_repeats() {
                self.queue_repeat_check(self.hosted[place as usize].slot.id(), check);
            }
        }
    }

    /// Lends a slot everything it needs and notes what it has to do afterwards.
    fn with_slot<R>(
        &mut self,
        place: usize,
        now: Now,
        work: impl FnOnce(&mut Slot, &mut Journal, &mut Surroundings<'_>) -> R,
    ) -> R {
        let mut around = Surroundings {
            now,
            limits: &self.config.limits,
            routes: &self.routes,
            out: &mut self.out,
            raft_out: &mut self.raft_out,
            recent: &mut self.recent,
        };
        let hosted = &mut self.hosted[place];
        hosted.slot.allow_routes(self.config.limits.cached_routes_shard_max - self.routes_cached);
        let result = work(&mut hosted.slot, &mut self.journal, &mut around);
        self.routes_cached = self.routes_cached - hosted.routes_counted + hosted.slot.routes_known();
        hosted.routes_counted = hosted.slot.routes_known();
        if hosted.slot.has_work() && !hosted.dirty {
            hosted.dirty = true;
            self.dirty_slots.push(place as u32);
        }
        if hosted.slot.rows_due().is_some() && !hosted.rows_listed {
            hosted.rows_listed = true;
            self.row_slots.push_back(place as u32);
        }
        result
    }

    fn place_of(&self, slot: SlotId) -> Option<usize> {
        let place = *self.places.get(usize::from(slot.0))?;
        (place != u32::MAX).then_some(place as usize)
    }

    /// The hosted slot that leads a key, if it is here and leads.
    fn leading(&self, slot: SlotId) -> Option<usize> {
        self.place_of(slot).filter(|place| self.hosted[*place].slot.leads())
    }

    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        let session = self.sessions.get_mut(id.index as usize)?.as_deref_mut()?;
        (session.id == id).then_some(session)
    }

    /// When to call [`Shard::step`] at the latest, even with no event.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        if self.restless {
            return Some(Instant(0));
        }
        let rows = self.row_slots.front().and_then(|place| self.hosted[*place as usize].slot.rows_due());
        let fixed = self.tick_at.min(self.sweep_at).min(self.retry_at).min(self.chase_at);
        let others = [
            rows,
            self.journal.deadline(),
            self.links.next_deadline(),
            self.office_deadline(),
            self.transfers_deadline(),
            self.checkpoints.deadline(),
            self.nursery.deadline(),
        ];
        Some(others.into_iter().flatten().fold(fixed, Instant::min))
    }

    /// Where some messages were, and when.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.out.marks
    }

    /// Marks every message of a user until then.
    ///
    /// # Errors
    /// Too many are watched already.
    pub fn watch(&mut self, now: Instant, uid: Uid, until: Instant) -> Result<(), TooManyWatches> {
        self.out.marks.watch(now, uid, until)
    }

    /// Its totals.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.out.counters
    }

    /// What others may see, its totals aside.
    #[must_use]
    pub fn view(&self) -> ShardView {
        ShardView {
            sessions: self.session_count,
            sessions_live: self.live_count,
            slots_hosted: self.hosted.len(),
            slots_led: self.hosted.iter().filter(|hosted| hosted.slot.leads()).count(),
            slots_waiting: self.slots_waiting(),
            channels: self.hosted.iter().map(|hosted| hosted.slot.channels().len()).sum(),
            homes: self.hosted.iter().map(|hosted| hosted.slot.home_count()).sum(),
            messages_indexed: self.hosted.iter().map(|hosted| hosted.slot.messages()).sum(),
            recent_bytes: self.recent.bytes(),
            journal_pending_bytes: self.journal.pending_bytes(),
            journal_segments: self.journal.segments(),
            reads_waiting: self.reads.waiting(),
            writable: self.journal.writable(),
        }
    }
}

/// The shard of a user's home on a node that was founded alone. In a cluster any shard may be asked, and passes it on.
#[must_use]
pub fn shard_of(uid: &Uid, slot_depth: u8, shard_count: u16) -> ShardId {
    ShardId(uid.key_hash().slot(slot_depth).0 % shard_count)
}

/// Nobody knows when these were closed: it counts as now.
fn closed_segments((first, last): (u32, u32), now: Now) -> VecDeque<(u32, u64)> {
    (first..last).map(|segment| (segment, now.unix.0)).collect()
}

/// Recovered slots, and where each is by its number.
fn host(slots: Vec<RecoveredSlot>) -> (Vec<Hosted>, Vec<u32>) {
    let hosted = slots.into_iter().map(|found| Hosted {
        checkpointed: found.checkpointed,
        checkpoint_plan: if found.checkpointed { found.slot.reshaped().plan } else { 0 },
        ..Hosted::new(found.slot, found.depth, found.replay_segment)
    });
    let hosted: Vec<Hosted> = hosted.collect();
    let mut places = vec![u32::MAX; SLOT_COUNT_MAX];
    for (place, hosted) in hosted.iter().enumerate() {
        places[usize::from(hosted.slot.id().0)] = place as u32;
    }
    (hosted, places)
}

/// The stream of chance for one slot's group.
pub(super) fn chance_of(config: &ShardConfig, slot: SlotId) -> Chance {
    Chance::new(config.seed, 16 + u64::from(slot.0))
}

#[cfg(test)]
mod meeting_tests;
#[cfg(test)]
mod operator_tests;
#[cfg(test)]
mod tests;
