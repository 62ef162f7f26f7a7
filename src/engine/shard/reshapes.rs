//! The shard's side of slots that become two: what splits off here begins its own life here, the table is told, and what waits at this gateway
//! follows its keys.
//!
//! ```text
//!  row: Split ─► every named place begins the child: blank, as one that waits for a snapshot
//!            └─► the parent's leader writes the split down ─► applied everywhere:
//!      half ─► nursery ─► journal: "a state for entry 1 comes" ─► checkpoint ─► the child takes part ─► SplitDone ─► two rows
//! ```
//!
//! Why no crash loses or doubles anything. The half that splits off is to the child what a snapshot of entry 1 is to any blank
//! replica, and is installed in the same way: the child's state is its checkpoint, and before that is on disk the child is
//! blank and was never more. The parent's state is its last checkpoint and the log behind it. So:
//!
//! * a crash before the child's checkpoint: the child is blank, the parent applies the split anew, because none of its checkpoints says
//!   otherwise: none is written while a half of it is in the nursery, and its life does not end meanwhile;
//! * a crash after it: the parent applies the split anew, the half finds the child's log further than entry 1 and is dropped;
//! * the child has gone on, was moved away, and has ended here: the table does not name it any more. A half waits for a table that knows
//!   of the plan, and without a replica named there it is dropped: no one comes back to life;
//! * the parent comes by a snapshot from behind the split: no half, and the child waits for a snapshot of its own group;
//! * the split again (two leaders wrote it down): the parent is too deep for it.
//!
//! Until its half is in place the child here hears nothing from its group: a leader that asked how far it is would send it over the network what
//! is about to be here anyway. It may answer elections blank, as any new replica may: it never was in a majority.
//!
//! The way back is `engine::shard::merges`'. What a gateway does when the table has other slots than before is here for both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::engine::command::SplitCommand;
use crate::engine::event::ApiRequest;
use crate::engine::metadata::{Cluster, MetadataCommand, Reshape, SLOT_DEPTH_MAX, SlotRow};
use crate::engine::raft_group::Role;
use crate::engine::reads::{Purpose, RangeRead};
use crate::engine::routes::Table;
use crate::engine::session::Phase;
use crate::engine::slot::Half;
use crate::format::frame::{Answered, Frame, Propose, Submitted};
use crate::format::raft_message::{GroupMembers, RaftMessage, SnapshotHead};
use crate::ids::{ChannelKey, KeyHash, Place, ReplicaId, ShardId, SlotId};
use crate::time::{Instant, Now};

use super::{Shard, chance_of};

/// A split that was written into the log and not applied is written down again after this: harmless, should it have been lost.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// So long a child's first replica tries to be elected at every beat of raft's clock; after that as any replica does.
const EAGER_FOR: Duration = Duration::from_secs(5);

/// Splits of slots led here that are under way at a time: while its half is written to disk nobody serves it, and every half is written by
/// every replica's shard. At it: a slot waits, and is served.
const SPLITS_AT_ONCE: usize = 2;

/// Words for a child that is not in place that are kept. Beyond it the oldest are lost, as words of raft may be.
const HELD_MAX: usize = 16;

/// Who already stands asks again only every so many beats.
const BEATS_OF_CANDIDATE: u32 = 3;

/// What has split off and has no place yet.
struct Newborn {
    parent: SlotId,
    half: Half,
}

/// Everything about splits that a shard keeps. Each list has at most one place for each slot that there can be.
#[derive(Default)]
pub(super) struct Nursery {
    newborns: Vec<Newborn>,
    /// Splits that were written down: the leader's term, and when.
    proposed: BTreeMap<SlotId, (u64, Instant)>,
    /// Children that are to lead at once: until when, and beats so far.
    eager: BTreeMap<SlotId, (Instant, u32)>,
    /// What children were told before they were in place: the latest of it.
    held: BTreeMap<SlotId, VecDeque<RaftMessage>>,
    /// A split is done: the next may begin.
    split_next: bool,
    /// How much of the halves may still be put together in this step.
    room: usize,
}

impl Nursery {
    /// A half is to be put together further: at once.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let unfinished = self.newborns.iter().any(|newborn| !newborn.half.is_done());
        unfinished.then_some(Instant(0))
    }
}

/// What becomes of a half.
enum Fate {
    /// Its replica is here and blank.
    Take(usize),
    /// Not known yet, or not now.
    Wait,
    /// Nobody needs it.
    Drop,
}

fn head_of(half: &Half) -> SnapshotHead {
    let mut voters = half.split.replicas.clone();
    voters.sort_unstable();
    let members = GroupMembers { voters, ..GroupMembers::default() };
    SnapshotHead { index: 1, term: half.term, members, data: Bytes::new() }
}

/// Children that are planned at a place, with their replicas there and their depths.
pub(super) fn planned_at(cluster: &Cluster, place: Place) -> impl Iterator<Item = (SlotId, ReplicaId, u8)> + '_ {
    let here = move |replicas: &[ReplicaId]| replicas.iter().copied().find(|replica| replica.place() == place);
    cluster.rows.values().filter_map(move |row| match &row.reshape {
        Some(Reshape::Split { child, replicas, .. }) => Some((*child, here(replicas)?, row.depth + 1)),
        // Who hears of the slot only now that it is being taken in has yet to get what it held.
        Some(Reshape::Digest { sibling, replicas, waits, .. }) if here(waits).is_some() => {
            Some((*sibling, here(replicas)?, row.depth + 1))
        }
        _ => None,
    })
}

/// The agreed state names this replica, in its slot's row or as that of a planned child.
pub(super) fn names(cluster: &Cluster, slot: SlotId, replica: ReplicaId) -> bool {
    // While a group changes, one that is not named (any more) may have a vote that the others cannot do without.
    if cluster.rows.get(&slot).is_some_and(SlotRow::is_changing) {
        return true;
    }
    let names = |row: &SlotRow| row.named().any(|named| named == replica);
    cluster.rows.get(&slot).map_or_else(|| cluster.rows.values().any(names), names)
}

impl Shard {
    // ---- whose key it is ----

    /// The slot led here that a key belongs to. The groups may be ahead of the table by a split or merge.
    pub(super) fn leading_of(&self, key: KeyHash) -> Option<usize> {
        let slot = self.routes.slot(key);
        let owner = |place: &usize| self.hosted[*place].slot.owns(key);
        let usual = self.leading(slot);
        if usual.as_ref().is_some_and(owner) {
            return usual;
        }
        let others = (0..=SLOT_DEPTH_MAX).filter_map(|depth| self.leading(key.slot(depth)));
        others.filter(|place| self.hosted[*place].slot.id() != slot).find(owner)
    }

    /// What is asked is about keys of this slot only.
    pub(super) fn owns_request(&self, place: usize, request: &ApiRequest) -> bool {
        let slot = &self.hosted[place].slot;
        match request {
            ApiRequest::OnlineStatus { uids } => uids.iter().all(|uid| slot.owns(uid.key_hash())),
            ApiRequest::SetToken { uid, .. } | ApiRequest::QuitDevice { uid, .. } => slot.owns(uid.key_hash()),
            ApiRequest::MessageSync { login, peer, .. } => slot.owns(ChannelKey::pair(login, peer).key_hash()),
            _ => true,
        }
    }

    // ---- the parent's part ----

    /// The row wants the group to split. True: nothing else is to be done to its members now.
    pub(super) fn steer_split(&mut self, place: usize, now: Now, row: &SlotRow) -> bool {
        let Some(Reshape::Split { plan, child, replicas }) = &row.reshape else {
            return false;
        };
        let slot = self.hosted[place].slot.id();
        if self.hosted[place].slot.depth() > row.depth {
            self.report_split(slot);
            return true;
        }
        let group = self.hosted[place].slot.group();
        if !super::hosting::same(&row.replicas, group.members()) {
            return false;
        }
        let term = group.term();
        let known = self.nursery.proposed.get(&slot);
        if known.is_some_and(|(then, at)| *then == term && now.instant.since(*at) < PROPOSE_AGAIN_AFTER) {
            return true;
        }
        let recent = |at: &Instant| now.instant.since(*at) < PROPOSE_AGAIN_AFTER;
        let proposed = self.nursery.proposed.values().filter(|(_, at)| recent(at)).count();
        if proposed + self.nursery.newborns.len() + self.transfers.newborns() >= SPLITS_AT_ONCE {
            return true;
        }
        self.nursery.proposed.insert(slot, (term, now.instant));
        let split = SplitCommand { plan: *plan, depth: row.depth, child: *child, replicas: replicas.clone() };
        let limits = self.config.limits;
        self.with_slot(place, now, |slot, _, _| slot.propose_split(&split, &limits));
        true
    }

    /// Says to the metadata group that a split is done, if this replica leads and its own half is safe.
    fn report_split(&mut self, slot: SlotId) {
        let row = self.routes.table().row(slot);
        let Some((Reshape::Split { plan, .. }, depth)) = row.and_then(|row| Some((row.reshape.as_ref()?, row.depth)))
        else {
            return;
        };
        let plan = *plan;
        let done = self.leading(slot).is_some_and(|place| self.hosted[place].slot.depth() > depth);
        if !done || self.is_nursing(slot) {
            return;
        }
        let first = Place { shard: ShardId(0), ..self.config.place };
        let command = Bytes::from(MetadataCommand::SplitDone { slot, plan }.encode());
        // Nobody waits for the answer: the row says it, and until it does this is said again.
        self.out.frame(first, Frame::Propose(Propose { place: first, ticket: 0, command }));
    }

    /// A half of this slot is not safe on disk yet.
    pub(super) fn is_nursing(&self, parent: SlotId) -> bool {
        self.nursery.newborns.iter().any(|newborn| newborn.parent == parent) || self.transfers.is_nursing(parent)
    }

    /// A slot has had its turn: if it has split, what it knew by numbers of channels is put right, and its halves wait for their places.
    pub(super) fn follow_splits(&mut self, place: usize) {
        let halves = self.hosted[place].slot.take_halves();
        if halves.is_empty() {
            return;
        }
        let parent = self.hosted[place].slot.id();
        self.hosted[place].depth = self.hosted[place].slot.depth();
        self.nursery.proposed.remove(&parent);
        self.drop_endings(place);
        self.out.counters.splits += halves.len() as u64;
        self.transfers.outgoing.abandon_slot(parent, None);
        self.transfers.forget_arrivals(parent);
        let mut ranges = self.reads.forget_slot(parent);
        ranges.extend(self.repairs.forget_slot(parent));
        for range in ranges {
            self.redirect_range(parent, range, &halves);
        }
        self.nursery.newborns.extend(halves.into_iter().map(|half| Newborn { parent, half }));
    }

    /// Somebody was reading a channel by its number before the split.
    fn redirect_range(&mut self, parent: SlotId, range: RangeRead, halves: &[Half]) {
        match range.purpose {
            // Asked again at once: of whoever has the channel now.
            Purpose::Fetch(fetch) => self.out.frame(self.config.place, Frame::Fetch(fetch)),
            Purpose::Transfer(_) => {}
            Purpose::Api { asker, ticket, .. } => {
                self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
            }
            Purpose::Repeat(mut check) => {
                let number = |channel: u32, half: &Half| half.numbers.get(channel as usize).copied().flatten();
                let now = halves.iter().try_fold(check.channel, number);
                if let Some(channel) = now {
                    check.channel = channel;
                    self.queue_repeat_check(parent, *check);
                } else {
                    let (ticket, term, reason) = (check.asker.ticket, check.asker.term, Submitted::MOVED);
                    let moved = Submitted { ticket, term, message_id: 0, message_seq: 0, reason };
                    self.out.frame(check.asker.place, Frame::Submitted(moved));
                }
            }
            Purpose::Repair { .. } => self.repairs.end_answer(),
        }
    }

    // ---- the child's part ----

    /// Halves get their places.
    pub(super) fn turn_nursery(&mut self) {
        for newborn in &mut self.nursery.newborns {
            self.nursery.room = self.nursery.room.saturating_sub(newborn.half.go_on(self.nursery.room));
        }
        let mut at = 0;
        while at < self.nursery.newborns.len() {
            match self.fate_of(&self.nursery.newborns[at]) {
                Fate::Wait => at += 1,
                Fate::Drop => {
                    let newborn = self.nursery.newborns.swap_remove(at);
                    self.report_split(newborn.parent);
                }
                Fate::Take(place) => {
                    let newborn = self.nursery.newborns.swap_remove(at);
                    self.begin_life(place, newborn);
                }
            }
        }
    }

    /// A step begins: so much of what splits off may be put together in it.
    pub(super) fn begin_portion(&mut self) {
        self.nursery.room = self.config.limits.state_portion;
    }

    fn fate_of(&self, newborn: &Newborn) -> Fate {
        if !newborn.half.is_done() {
            return Fate::Wait;
        }
        let split = &newborn.half.split;
        let Some(replica) = split.replicas.iter().find(|replica| replica.place() == self.config.place) else {
            return Fate::Drop;
        };
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.version >= split.plan) else {
            return Fate::Wait;
        };
        match self.place_of(split.child) {
            Some(place) if self.hosted[place].slot.replica() == *replica => {
                let group = self.hosted[place].slot.group();
                if !group.needs(&head_of(&newborn.half)) {
                    Fate::Drop
                } else if group.is_installing() {
                    Fate::Wait
                } else {
                    Fate::Take(place)
                }
            }
            _ if names(cluster, split.child, *replica) => Fate::Wait,
            _ => Fate::Drop,
        }
    }

    fn begin_life(&mut self, place: usize, newborn: Newborn) {
        let Newborn { parent, half } = newborn;
        let head = head_of(&half);
        let replay_segment = self.journal.written_segment();
        let Some(group) = self.hosted[place].slot.group_mut().prepare_install(&head, &mut self.journal) else {
            // Something has come in that is not drained yet: soon.
            self.nursery.newborns.push(Newborn { parent, half });
            return;
        };
        let (tail, chance) = (self.config.limits.log_tail_bytes_max, chance_of(&self.config, half.split.child));
        let mut whole = half.into_slot(group, self.map_state, tail, chance);
        whole.drop_below(self.journal.segments().0);
        let announced = self.journal.position();
        self.transfers.expect_own(whole, (head, parent), announced, replay_segment);
    }

    /// The half is in place and on disk: its replica takes part from now on.
    pub(super) fn begin_to_take_part(&mut self, now: Now, child: SlotId, parent: SlotId) {
        if self.leading(parent).is_some() {
            self.nursery.eager.insert(child, (now.instant + EAGER_FOR, 0));
            self.urge_children(now);
        }
        self.report_split(parent);
        self.host_what_is_ours(now);
        self.tell_children(now);
        self.nursery.split_next = true;
    }

    /// A split is done, and the next one may begin before the clock says so.
    pub(super) fn follow_done_splits(&mut self, now: Now) {
        if std::mem::take(&mut self.nursery.split_next) {
            self.steer_groups(now);
        }
    }

    /// What a child is told while its half is not in place waits for that: said again it would be only at the next heartbeat.
    pub(super) fn hold_for_child(&mut self, message: RaftMessage) {
        let held = self.nursery.held.entry(message.slot).or_default();
        if held.len() == HELD_MAX {
            held.pop_front();
        }
        held.push_back(message);
    }

    fn tell_children(&mut self, now: Now) {
        for (child, messages) in std::mem::take(&mut self.nursery.held) {
            let Some(place) = self.place_of(child) else { continue };
            if self.waits_for_half(place) || self.transfers.is_newborn(child) {
                self.nursery.held.insert(child, messages);
                continue;
            }
            let replica = self.hosted[place].slot.replica();
            for message in messages.into_iter().filter(|message| message.to == replica) {
                self.with_slot(place, now, |slot, _, _| slot.step(message));
            }
        }
    }

    /// Children that were born beside their parents' leaders lead, too, so that messages wait a moment only: their companions may not
    /// be there yet when they are asked first.
    pub(super) fn urge_children(&mut self, now: Now) {
        self.tell_children(now);
        let mut eager = std::mem::take(&mut self.nursery.eager);
        eager.retain(|child, (until, beats)| {
            let Some(place) = self.place_of(*child).filter(|_| now.instant < *until) else {
                return false;
            };
            let group = self.hosted[place].slot.group();
            if group.leader().is_some() {
                return false;
            }
            *beats += 1;
            if group.role() == Role::Follower || beats.is_multiple_of(BEATS_OF_CANDIDATE) {
                self.with_slot(place, now, |slot, _, _| slot.group_mut().campaign());
            }
            true
        });
        self.nursery.eager = eager;
    }

    /// A blank child whose parent's replica here has yet to apply the split: what its group says has to wait.
    pub(super) fn waits_for_half(&self, place: usize) -> bool {
        let hosted = &self.hosted[place];
        let (child, depth) = (hosted.slot.id(), hosted.slot.depth());
        if depth == 0 || hosted.slot.group().applied() > 0 || child.at(depth - 1) == child {
            return false;
        }
        let parent = self.place_of(child.at(depth - 1)).map(|place| &self.hosted[place].slot);
        let before = parent.is_some_and(|parent| parent.depth() < depth && parent.group().applied() > 0);
        before || self.nursery.newborns.iter().any(|newborn| newborn.half.split.child == child)
    }

    // ---- the gateway's part ----

    /// The table has other slots than before: whatever waits here goes where its key is now.
    pub(super) fn follow_table(&mut self, before: &Table) {
        let table = Arc::clone(self.routes.table());
        let unchanged = |slot: SlotId, depth: u8| before.row(slot).is_some_and(|row| row.depth == depth);
        let same =
            table.slot_count() == before.slot_count() && table.iter().all(|(slot, row)| unchanged(slot, row.depth));
        if same || before.slot_count() == 0 {
            return;
        }
        let mut asking = Vec::new();
        for session in self.sessions.iter_mut().flatten() {
            session.forget_routes();
            let registering = session.phase == Phase::Registering;
            let Some(identity) = session.identity.as_deref_mut() else { continue };
            let slot = table.slot(identity.uid.key_hash());
            if identity.slot != slot {
                // The lower of two siblings is the one that goes on.
                let before = std::mem::replace(&mut identity.slot, slot);
                identity.taken_in = (slot < before).then_some(before);
                asking.extend(registering.then_some(session.id));
            }
        }
        asking.into_iter().for_each(|id| self.ask_home(id));
        // Who has keys that it did not have is to hear who is here.
        let grown = |slot: SlotId, depth: u8| before.row(slot).is_none_or(|row| row.depth > depth);
        let grown = table.iter().filter(|(slot, row)| grown(*slot, row.depth)).map(|(slot, _)| slot);
        for slot in grown.filter(|slot| self.routes.leader(*slot).is_some()) {
            self.to_greet.insert(slot);
        }
        self.move_submits();
        let mut asks = std::mem::take(&mut self.asks);
        let moved = asks.reroute(|request| self.parts_of(request));
        self.asks = asks;
        moved.into_iter().for_each(|number| self.send_ask(number));
    }

    /// Messages that wait in the name of a slot that their channel is not in any more wait for the other one, in their order. They keep
    /// their names within the channel: one that was stored before the split is recognised.
    pub(super) fn move_submits(&mut self) {
        let routes = &self.routes;
        let moved = self.submits.move_out(|submit| routes.slot(submit.channel.key_hash()));
        for (origin, submit, since) in moved {
            let mut submit = Arc::unwrap_or_clone(submit);
            let slot = self.routes.slot(submit.channel.key_hash());
            submit.ticket = self.submits.ticket(slot);
            let leader = self.routes.leader(slot);
            let room = leader.is_none_or(|(_, place)| self.takes_submit(place, &submit));
            let direct = self.submits.add(since, origin, submit, (leader.map(|(term, _)| term), room));
            if let (Some(submission), Some((_, place))) = (direct, leader) {
                self.out.frame(place, Frame::Submit(submission));
            }
        }
    }
}
