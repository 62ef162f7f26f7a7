//! The shard's side of states on their way from leaders to replicas that are too far behind: it hands raft's wishes and the frames to the
//! machines of [`crate::engine::transfer`], reads and writes what they ask for, and puts a whole state to use.
//!
//! ```text
//!  whole ──► assembled, journal says so ──(that is on disk)──► checkpoint asked for ──(written)──► state replaced, raft told
//!                                                                                └──(not written)──► old state goes on
//! ```

use crate::engine::checkpoint::{Cover, Encoding};
use crate::engine::effect::{Effect, Effects};
use crate::engine::event::ApiAnswer;
use crate::engine::journal::entry_data_bytes_max;
use crate::engine::raft_group::Role;
use crate::engine::reads::{Purpose, RangeRead};
use crate::engine::slot::{self, Slot, SlotState};
use crate::engine::transfer::incoming::{self, Took, Whole};
use crate::engine::transfer::outgoing::{Move, Outgoing};
use crate::engine::transfer::{incoming::Incoming, state};
use crate::format::frame::{Answered, Frame, SnapshotOffer, SnapshotPart, SnapshotTaken, SnapshotWant};
use crate::format::packet::Reason;
use crate::format::raft_message::{RaftMessage, SnapshotHead};
use crate::format::record::Position;
use crate::ids::{Place, SlotId};
use crate::time::{Instant, Now};

use std::time::Duration;

use super::{Shard, chance_of};

/// A half whose checkpoint the disk refused is offered to it again after this.
const OWN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A state that is being put to use.
struct Install {
    /// The new state, in a slot of its own that nothing else knows.
    whole: Slot,
    /// Where it comes from.
    origin: Origin,
    /// The journal says that it comes when it is written up to here.
    announced: Position,
    /// Where a replay begins that needs only what follows it.
    replay_segment: u32,
    /// The checkpoint is asked for.
    asked: bool,
    /// Not before then: the disk has just refused it.
    not_before: Instant,
}

/// Where a state comes from.
enum Origin {
    /// From the group's leader: raft's message.
    Leader(RaftMessage),
    /// It split off here: what raft is told of it, and the slot that it split off from.
    Split(SnapshotHead, SlotId),
}

/// Everything about transfers that a shard keeps.
pub(super) struct Transfers {
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// At most one a slot, and `transfers_max`.
    installs: Vec<Install>,
}

impl Transfers {
    pub(super) fn new(boot: u64) -> Transfers {
        Transfers { outgoing: Outgoing::new(boot), incoming: Incoming::default(), installs: Vec::new() }
    }

    /// A state that split off here is to be put to use; the journal says so when it is written up to `announced`.
    pub(super) fn expect_own(
        &mut self,
        whole: Slot,
        (head, parent): (SnapshotHead, SlotId),
        announced: Position,
        replay_segment: u32,
    ) {
        let origin = Origin::Split(head, parent);
        let install = Install { whole, origin, announced, replay_segment, asked: false, not_before: Instant(0) };
        self.installs.push(install);
    }

    /// Something that split off from this slot is not on disk yet.
    pub(super) fn is_nursing(&self, parent: SlotId) -> bool {
        let of = |install: &Install| matches!(install.origin, Origin::Split(_, from) if from == parent);
        self.installs.iter().any(of)
    }

    /// Halves of slots that are not on disk yet.
    pub(super) fn newborns(&self) -> usize {
        self.installs.iter().filter(|install| matches!(install.origin, Origin::Split(..))).count()
    }

    /// This slot is such a half.
    pub(super) fn is_newborn(&self, child: SlotId) -> bool {
        let born = |install: &Install| matches!(install.origin, Origin::Split(..)) && install.whole.id() == child;
        self.installs.iter().any(born)
    }

    /// The state that is to be installed in this slot and is on its way into a checkpoint.
    pub(super) fn state_to_install(&mut self, slot: SlotId) -> Option<&mut Slot> {
        let asked = |install: &&mut Install| install.asked && install.whole.id() == slot;
        self.installs.iter_mut().find(asked).map(|install| &mut install.whole)
    }

    /// What has come for this slot so far has other numbers of channels than the slot.
    pub(super) fn forget_arrivals(&mut self, slot: SlotId) {
        if self.installs.iter().all(|install| install.whole.id() != slot) {
            self.incoming.forget_slot(slot);
        }
    }
}

impl Shard {
    // ---- sending ----

    /// A group has members that need a snapshot.
    pub(super) fn start_transfers(&mut self, place: usize, now: Now) {
        for wish in self.hosted[place].slot.group_mut().take_snapshot_wishes() {
            let hosted = &mut self.hosted[place];
            let (slot, to) = (hosted.slot.id(), wish.to);
            let outgoing = &mut self.transfers.outgoing;
            // Also while a new leader has agreed on nothing yet: it may never, without the one who needs this.
            if hosted.slot.group().role() != Role::Leader || !outgoing.has_room(slot, to, &self.config.limits) {
                // Asked for again by and by. One that is under way already says itself how it ends.
                if !outgoing.is_sending(slot, to) {
                    hosted.slot.group_mut().report_snapshot(to, false);
                }
                continue;
            }
            let head = hosted.slot.group().snapshot_head();
            hosted.slot.group_mut().begin_catch_up(to, head.index);
            let message = RaftMessage { snapshot: Some(head), ..wish };
            let freezing = state::Freezing::begin(&mut hosted.slot, hosted.depth);
            let transfer = outgoing.begin(now.instant, message, &self.config.limits);
            self.checkpoints.freeze(transfer, slot, freezing);
        }
    }

    /// Does what the machines want done, as long as they want something.
    pub(super) fn turn_transfers(&mut self, now: Now, effects: &mut Effects) {
        while let Some(next) = self.transfers.outgoing.next(now.instant, &self.config.limits) {
            match next {
                Move::Say(to, frame) => self.out.frame(to, frame),
                Move::Read { transfer, slot, channel, range } => {
                    let range = RangeRead::new((slot, channel), range, Purpose::Transfer(transfer));
                    self.advance_range(range, effects);
                }
                Move::End { slot, to, ok } => {
                    self.out.counters.transfers_sent += u64::from(ok);
                    self.out.counters.transfers_failed += u64::from(!ok);
                    if let Some(place) = self.place_of(slot) {
                        self.with_slot(place, now, |slot, _, _| slot.group_mut().report_snapshot(to, ok));
                    }
                }
            }
        }
        // Where memory is durable enough, only the disk says when there is room for more.
        let full = self.journal_is_full();
        let durable = if full { self.journal.written_flush() } else { self.journal.durable_flush() };
        for (to, taken) in self.transfers.incoming.handle_durable(durable) {
            self.out.frame(to, Frame::SnapshotTaken(taken));
        }
        while let Some(whole) = self.transfers.incoming.take_whole(durable) {
            let slot = whole.slot;
            if let Err(what) = self.begin_install(whole) {
                self.end_install(slot, false);
                if let Some(line) = what {
                    effects.push(Effect::Report { warning: true, line });
                    self.transfers.incoming.forget_slot(slot);
                }
            }
        }
        self.turn_repairs(now, effects);
    }

    pub(super) fn handle_snapshot_want(&mut self, now: Now, from: Place, want: SnapshotWant) {
        if want.from.place() == from {
            self.transfers.outgoing.handle_want(now.instant, want);
        }
    }

    pub(super) fn handle_snapshot_taken(&mut self, now: Now, from: Place, taken: SnapshotTaken, effects: &mut Effects) {
        if taken.from.place() != from {
            return;
        }
        if let Err(line) = self.transfers.outgoing.handle_taken(now.instant, taken) {
            effects.push(Effect::Report { warning: true, line });
        }
    }

    // ---- receiving ----

    /// A state is offered. Where the log has no need of it, raft is told so that it says how far this replica is.
    pub(super) fn handle_snapshot_offer(&mut self, now: Now, from: Place, offer: SnapshotOffer) {
        let SnapshotOffer { message, transfer, .. } = &offer;
        let (slot, to) = (message.slot, message.to);
        let refused = SnapshotWant { transfer: *transfer, slot, from: to, have: Vec::new(), accepted: false };
        let place = self.place_of(slot).filter(|place| {
            let group = self.hosted[*place].slot.group();
            group.replica() == to && message.from.place() == from && message.term >= group.term()
        });
        let head = message.snapshot.clone();
        let (Some(place), Some(head)) = (place, head) else {
            self.out.frame(from, Frame::SnapshotWant(refused));
            return;
        };
        if !self.hosted[place].slot.group().needs(&head) {
            self.with_slot(place, now, |slot, _, _| {
                // What raft makes of it needs no answer of ours.
                let _ = slot.group_mut().step(offer.message);
            });
            self.out.frame(from, Frame::SnapshotWant(refused));
            return;
        }
        let channels = self.hosted[place].slot.channels();
        // On the other side of a split or merge channels have other numbers: nothing of what is here helps.
        let channels = if self.hosted[place].slot.reshaped().plan == offer.plan { channels } else { &[] };
        let own: Vec<u32> = channels.iter().map(|entry| entry.channel.last_seq()).collect();
        let want = self.transfers.incoming.handle_offer(now.instant, offer, &own, &self.config.limits);
        self.out.frame(from, Frame::SnapshotWant(want));
    }

    pub(super) fn handle_snapshot_part(&mut self, now: Now, from: Place, part: &SnapshotPart, effects: &mut Effects) {
        let slot = part.slot;
        let journal = &mut self.journal;
        let took = self.transfers.incoming.handle_part(
            now.instant,
            (from, part),
            &self.config.limits,
            entry_data_bytes_max(&self.config.geometry),
            &mut |replica, body| {
                let position = journal.append_body(slot, replica, body);
                (position, journal.next_flush())
            },
        );
        match took {
            Took::Fine => {}
            Took::Stray => {
                if let Some(place) = self.place_of(slot) {
                    let replica = self.hosted[place].slot.group().replica();
                    self.out.frame(from, Frame::SnapshotTaken(incoming::stray(part, replica)));
                }
            }
            Took::Void((to, taken), line) => {
                self.out.counters.transfers_failed += 1;
                effects.push(Effect::Report { warning: true, line });
                self.out.frame(to, Frame::SnapshotTaken(taken));
            }
        }
    }

    /// Makes a slot of a state that has come whole, and says in the journal that it is to replace what is there. An error without a text:
    /// nobody needs it any more.
    fn begin_install(&mut self, whole: Whole) -> Result<(), Option<String>> {
        let Whole { slot, message, state } = whole;
        let blame = |what: String| Some(format!("state of slot {slot} from replica {}: {what}", message.from));
        let place = self.place_of(slot).ok_or(None)?;
        let head: &SnapshotHead = message.snapshot.as_ref().ok_or(None)?;
        let map_state = self.map_state;
        let mut read = state::read(&state, map_state).map_err(blame)?;
        let depth = read.depth;
        let same = read.reshaped.plan == self.hosted[place].slot.reshaped().plan;
        let entries = if same { self.hosted[place].slot.channels() } else { &[] };
        let own = |index: usize| entries.get(index).map(|entry| (&entry.key, &entry.channel));
        let incoming = &self.transfers.incoming;
        let channels = incoming.assemble(slot, &mut read, &own, &self.config.limits).map_err(blame)?;
        let replay_segment = self.journal.written_segment();
        let group = self.hosted[place].slot.group_mut().prepare_install(head, &mut self.journal).ok_or(None)?;
        let announced = self.journal.position();
        let state = SlotState {
            group,
            message_ids_last: read.message_ids_last,
            reshaped: read.reshaped,
            channels,
            homes: read.homes,
        };
        let (tail_max, chance) = (self.config.limits.log_tail_bytes_max, chance_of(&self.config, slot));
        let mut whole = match Slot::restore(slot, state, map_state, tail_max, chance) {
            Ok(whole) => whole,
            Err(what) => {
                self.hosted[place].slot.group_mut().abandon_install();
                return Err(blame(what));
            }
        };
        whole.set_depth(depth);
        whole.drop_below(self.journal.segments().0);
        let origin = Origin::Leader(message);
        let install = Install { whole, origin, announced, replay_segment, asked: false, not_before: Instant(0) };
        self.transfers.installs.push(install);
        Ok(())
    }

    /// The next state whose announcement is on disk is to become a checkpoint, one at a time for each slot.
    pub(super) fn begin_install_checkpoint(&mut self, now: Instant) -> Option<(SlotId, Encoding)> {
        let written = self.journal.written();
        let ready = |install: &Install| {
            let slot = install.whole.id();
            let place = self.place_of(slot).filter(|place| self.hosted[*place].checkpointing.is_none());
            place.is_some()
                && !self.ended.keeps_disk_busy(slot)
                && !install.asked
                && install.announced <= written
                && now >= install.not_before
                && !self.is_nursing(slot)
        };
        let index = self.transfers.installs.iter().position(ready)?;
        let install = &self.transfers.installs[index];
        let place = self.place_of(install.whole.id())?;
        let pledge = self.pledge(place, Some((install.replay_segment, install.whole.reshaped().plan)));
        let cover = Cover { depth: install.whole.depth(), replay_segment: pledge.kept_segment };
        let install = &mut self.transfers.installs[index];
        install.asked = true;
        self.hosted[place].checkpointing = Some(pledge);
        let group = install.whole.group().state();
        Some((install.whole.id(), Encoding::begin(&mut install.whole, &group, cover)))
    }

    /// The first segment that some other replica of this shard needs that has no checkpoint: a restart reads on from what those
    /// that are there ask for.
    pub(super) fn replay_segment_of_others(&self, place: usize) -> u32 {
        let others = self.hosted.iter().enumerate().filter(|(other, hosted)| *other != place && !hosted.checkpointed);
        others
            .map(|(_, hosted)| hosted.replay_segment)
            .chain(self.council_without_checkpoint())
            .min()
            .unwrap_or(u32::MAX)
    }

    /// A checkpoint was written, or not: if it was that of a new state, the slot becomes what it says.
    pub(super) fn follow_install(&mut self, now: Now, slot: SlotId, written: bool, effects: &mut Effects) {
        let asked = |install: &Install| install.asked && install.whole.id() == slot;
        let Some(index) = self.transfers.installs.iter().position(asked) else {
            return;
        };
        let mut install = self.transfers.installs.swap_remove(index);
        let Some(place) = self.place_of(slot) else {
            return;
        };
        if !written && matches!(install.origin, Origin::Split(..)) {
            // Nobody sends it again: it stays until the disk takes it.
            (install.asked, install.not_before) = (false, now.instant + OWN_AGAIN_AFTER);
            self.transfers.installs.push(install);
            return;
        }
        if !written {
            self.with_slot(place, now, |slot, _, _| slot.group_mut().abandon_install());
            self.end_install(slot, false);
            return;
        }
        self.forget_places(slot);
        let Install { mut whole, origin, .. } = install;
        whole.drop_below(self.journal.segments().0);
        self.hosted[place].depth = whole.depth();
        let message = match origin {
            Origin::Leader(message) => message,
            Origin::Split(head, parent) => {
                self.with_slot(place, now, |slot, _, _| {
                    slot.replace_state(whole);
                    slot.group_mut().install_own(&head);
                });
                self.begin_to_take_part(now, slot, parent);
                return;
            }
        };
        let leader = message.from;
        let installed = self.with_slot(place, now, |slot, _, _| {
            slot.replace_state(whole);
            slot.group_mut().install(message)
        });
        if installed.is_err() {
            let line = format!("state of slot {slot} from replica {leader}: raft does not take it");
            effects.push(Effect::Report { warning: true, line });
        }
        self.end_install(slot, true);
    }

    fn end_install(&mut self, slot: SlotId, good: bool) {
        self.out.counters.transfers_received += u64::from(good);
        self.out.counters.transfers_failed += u64::from(!good);
        if let Some((to, taken)) = self.transfers.incoming.installed(slot, good) {
            self.out.frame(to, Frame::SnapshotTaken(taken));
        }
    }

    /// A slot's messages lie elsewhere now, or nowhere: what was about to read them, and their bodies in memory, go.
    fn forget_places(&mut self, slot: SlotId) {
        self.recent.forget_slot(slot);
        let mut ranges = self.reads.forget_slot(slot);
        ranges.extend(self.repairs.forget_slot(slot));
        for range in ranges {
            match range.purpose {
                // A session asks again when it hears who leads. A transfer is one of a leader, which this replica is not.
                Purpose::Fetch(_) | Purpose::Transfer(_) => {}
                Purpose::Api { asker, ticket, .. } => {
                    self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None::<ApiAnswer> })));
                }
                Purpose::Repeat(check) => slot::refuse(check.asker, Reason::NodeNotMatch, &mut self.out),
                Purpose::Repair { .. } => self.repairs.end_answer(),
            }
        }
    }

    // ---- what ends it ----

    /// The replica of a slot that lived here is no more, or is about to be.
    pub(super) fn forget_transfers(&mut self, slot: SlotId) {
        self.transfers.outgoing.abandon_slot(slot, None);
        self.checkpoints.forget_freezing(slot);
        self.transfers.incoming.forget_slot(slot);
        self.transfers.installs.retain(|install| install.whole.id() != slot);
        self.forget_places(slot);
    }

    /// What was on its way to and from a shard of another node is lost.
    pub(super) fn reset_transfers(&mut self, peer: Place) {
        self.transfers.outgoing.abandon_place(peer);
        self.transfers.incoming.abandon_place(peer);
        self.repairs.abandon_place(peer);
    }

    /// When there is something to do although nothing happened.
    pub(super) fn transfers_deadline(&self) -> Option<Instant> {
        let outgoing = self.transfers.outgoing.deadline(&self.config.limits);
        outgoing.into_iter().chain(self.repairs.deadline()).min()
    }

    pub(super) fn check_transfers(&self) {
        let limits = &self.config.limits;
        self.transfers.outgoing.check_invariants(limits);
        self.transfers.incoming.check_invariants(limits);
        self.repairs.check_invariants(limits);
        let from_leaders = |install: &&Install| matches!(install.origin, Origin::Leader(_));
        assert!(self.transfers.installs.iter().filter(from_leaders).count() <= limits.transfers_max);
    }
}
