//! The shard's side of checkpoints: which slot's is due, and encoding it in portions, so that no step stands still for a large one. States that are to
//! be sent to other replicas are encoded here as well.
//! What a checkpoint looks like is [`crate::engine::checkpoint`]'s affair, what is read of a slot that goes on meanwhile that of
//! `engine::slot::moment`.
//!
//! ```text
//!  sweep ─► due ─(its turn)─► encoding, a portion a step ─► asked of the disk ─► written, or not: due again by and by
//!            a state that is to be installed ───┘   └─(the slot was split, merged, or ended)─► forgotten
//! ```
//!
//! A checkpoint is of the moment at which its encoding begins, whenever the disk gets it: what it asks a restart to replay is what was needed then,
//! and segments stay because the checkpoint before it still counts. One slot of the shard is encoded at a time, and beside it one state that
//! is to be installed: that goes first, because nobody serves its keys.

use std::collections::VecDeque;

use crate::engine::checkpoint::{Cover, Encoding};
use crate::engine::effect::{Effect, Effects};
use crate::engine::slot::{ReadOn, Slot};
use crate::engine::transfer::state::Freezing;
use crate::ids::SlotId;

use super::{Hosted, Shard};
use crate::time::Instant;

/// What a checkpoint costs beside what is in it, so that a step does not make very many small ones.
const WORK_OF_ONE: usize = 8;

/// What a checkpoint that is under way will have settled when it is on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pledge {
    /// The first segment that this state needs.
    pub(super) replay_segment: u32,
    /// The first one that it asks a restart to begin with, for others' sake too.
    pub(super) kept_segment: u32,
    /// Journal bytes written when it was begun.
    pub(super) mark: u64,
    /// The last plan of a split or merge in it.
    pub(super) plan: u64,
}

/// Checkpoints that are not at the disk yet.
pub(super) struct Checkpoints {
    /// Whose turn comes, those first that have waited longest; at most a quarter of the slots.
    due: VecDeque<SlotId>,
    /// A slot's.
    current: Option<(SlotId, Encoding)>,
    /// States that are to be sent, with the numbers of their transfers.
    freezing: VecDeque<(u64, SlotId, Freezing)>,
    /// That of a state to be installed.
    install: Option<(SlotId, Encoding)>,
    /// Slots are not encoded on before: others have their turn.
    rests_until: Instant,
    /// Channels and homes that were encoded in the last step.
    last_step: usize,
}

impl Checkpoints {
    pub(super) fn new() -> Checkpoints {
        Checkpoints {
            due: VecDeque::new(),
            current: None,
            freezing: VecDeque::new(),
            install: None,
            rests_until: Instant(0),
            last_step: 0,
        }
    }

    /// When there is more to encode.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = !self.due.is_empty() || !self.freezing.is_empty() || self.current.is_some();
        self.install.is_some().then_some(Instant(0)).or(waits.then_some(self.rests_until))
    }

    /// A state is to be sent.
    pub(super) fn freeze(&mut self, transfer: u64, slot: SlotId, freezing: Freezing) {
        self.freezing.push_back((transfer, slot, freezing));
    }

    /// What was to be sent of this slot is gone.
    pub(super) fn forget_freezing(&mut self, slot: SlotId) {
        self.freezing.retain(|(_, of, _)| *of != slot);
    }

    /// A replica of this slot has ended. True when a checkpoint of it was not at the disk yet, and never will be.
    pub(super) fn forget(&mut self, slot: SlotId) -> bool {
        let of = |encoding: &mut (SlotId, Encoding)| encoding.0 == slot;
        self.due.retain(|due| *due != slot);
        let current = self.current.take_if(of).is_some();
        self.install.take_if(of).is_some() || current
    }
}

impl Shard {
    /// Slots whose last checkpoint is oldest are due, so that a replay never reads more than `replay_bytes_max`: begun at half
    /// of it, or when one keeps segments that retention wants to give up; a quarter of the slots in a sweep at most.
    pub(super) fn choose_checkpoints(&mut self) {
        let at_once = self.hosted.len() / 4 + 1;
        let under_way = self.hosted.iter().filter(|hosted| hosted.checkpointing.is_some()).count();
        let mark = self.journal_mark();
        let due = self.hosted.iter().filter(|hosted| self.is_due(hosted, mark));
        let mut due: Vec<(u64, SlotId)> = due.map(|hosted| (hosted.checkpoint_mark, hosted.slot.id())).collect();
        due.sort_unstable();
        let due = due.into_iter().take(at_once.saturating_sub(under_way)).map(|(_, slot)| slot);
        self.checkpoints.due = due.collect();
    }

    fn is_due(&self, hosted: &Hosted, mark: u64) -> bool {
        let half = self.config.limits.replay_bytes_max / 2;
        let long_ago = mark - hosted.checkpoint_mark >= half;
        let keeps = hosted.kept_segment < self.segment_wanted
            && hosted.kept_segment < hosted.slot.group().replay_segment(&self.journal);
        let free = hosted.checkpointing.is_none() && !self.ended.keeps_disk_busy(hosted.slot.id());
        let wanted = free && (long_ago || keeps || self.owes_checkpoint(hosted));
        wanted && !self.is_nursing(hosted.slot.id())
    }

    /// Encodes on: at most one portion in a step. Between portions of slots that are served there is a rest; a state to be installed is waited
    /// for.
    pub(super) fn go_on_checkpoints(&mut self, now: Instant, effects: &mut Effects) {
        let portion = self.config.limits.state_portion;
        let rested = now >= self.checkpoints.rests_until;
        let mut done = 0;
        self.checkpoints.last_step = 0;
        while done < portion {
            if self.checkpoints.install.is_none() {
                self.checkpoints.install = self.begin_install_checkpoint(now);
            }
            if let Some((slot, encoding)) = self.checkpoints.install.take() {
                done += self.go_on_install(slot, encoding, portion - done, effects);
            } else if !rested {
                break;
            } else if let Some((transfer, slot, freezing)) = self.checkpoints.freezing.pop_front() {
                done += self.go_on_freezing((transfer, slot, freezing), portion - done, now);
            } else if let Some((slot, encoding)) = self.checkpoints.current.take() {
                done += self.go_on_current(slot, encoding, portion - done, effects);
            } else if let Some(slot) = self.checkpoints.due.pop_front() {
                self.begin_checkpoint(slot);
            } else {
                break;
            }
        }
        if done > 0 && rested {
            self.checkpoints.rests_until = now + self.config.limits.state_rest;
        }
    }

    fn begin_checkpoint(&mut self, slot: SlotId) {
        let mark = self.journal_mark();
        let place = self.place_of(slot).filter(|place| self.is_due(&self.hosted[*place], mark));
        let Some(place) = place else { return };
        let pledge = self.pledge(place, None);
        let hosted = &mut self.hosted[place];
        hosted.checkpointing = Some(pledge);
        let group = hosted.slot.group().state();
        let cover = Cover { depth: hosted.depth, replay_segment: pledge.kept_segment };
        self.checkpoints.current = Some((slot, Encoding::begin(&mut hosted.slot, &group, cover)));
    }

    /// What a checkpoint begun now will settle; of a state that is to be installed it is known from where on it needs the journal, and its plan.
    pub(super) fn pledge(&self, place: usize, install: Option<(u32, u64)>) -> Pledge {
        let slot = &self.hosted[place].slot;
        let own = || (slot.group().replay_segment(&self.journal), slot.reshaped().plan);
        let (replay_segment, plan) = install.unwrap_or_else(own);
        // A replica that has no checkpoint yet is found by those of the others.
        let kept_segment = replay_segment.min(self.replay_segment_of_others(place));
        Pledge { replay_segment, kept_segment, mark: self.journal_mark(), plan }
    }

    fn go_on_current(&mut self, slot: SlotId, encoding: Encoding, work: usize, effects: &mut Effects) -> usize {
        let place = self.place_of(slot).expect("whose replica ends is forgotten here");
        let Some((went, done)) = go_on(&mut self.hosted[place].slot, encoding, work, effects) else {
            // The slot is not what it was: a later sweep begins anew.
            self.hosted[place].checkpointing = None;
            return WORK_OF_ONE;
        };
        self.checkpoints.current = went.rest.map(|rest| (slot, rest));
        self.checkpoints.last_step += went.entries;
        done
    }

    fn go_on_freezing(
        &mut self,
        (transfer, slot, mut freezing): (u64, SlotId, Freezing),
        work: usize,
        now: Instant,
    ) -> usize {
        let place = self.place_of(slot).expect("whose replica ends is forgotten here");
        if !self.transfers.outgoing.wants_state(transfer) {
            freezing.forget(&mut self.hosted[place].slot);
            return WORK_OF_ONE;
        }
        let before = freezing.channels();
        let read = freezing.go_on(&mut self.hosted[place].slot, work);
        self.checkpoints.last_step += freezing.channels() - before;
        match read {
            ReadOn::More(done) => {
                self.checkpoints.freezing.push_front((transfer, slot, freezing));
                done
            }
            ReadOn::All(done) => {
                if let Some((to, offer)) = self.transfers.outgoing.offer(now, transfer, freezing.finish()) {
                    self.out.frame(to, offer);
                }
                done + WORK_OF_ONE
            }
            ReadOn::Void => {
                self.transfers.outgoing.abandon(transfer);
                WORK_OF_ONE
            }
        }
    }

    fn go_on_install(&mut self, slot: SlotId, encoding: Encoding, work: usize, effects: &mut Effects) -> usize {
        let whole = self.transfers.state_to_install(slot).expect("a state stays until its replica ends");
        let went = go_on(whole, encoding, work, effects);
        let (went, done) = went.expect("nobody changes a state that nothing knows yet");
        self.checkpoints.install = went.rest.map(|rest| (slot, rest));
        self.checkpoints.last_step += went.entries;
        done
    }

    pub(super) fn handle_checkpoint_written(&mut self, slot: SlotId, written: bool) {
        if slot == SlotId::METADATA {
            self.council_checkpointed(written);
            return;
        }
        let Some(place) = self.place_of(slot) else {
            return;
        };
        let hosted = &mut self.hosted[place];
        let Some(Pledge { replay_segment, kept_segment, mark, plan }) = hosted.checkpointing.take() else {
            return;
        };
        if written {
            hosted.replay_segment = replay_segment;
            hosted.kept_segment = kept_segment;
            hosted.checkpointed = true;
            hosted.checkpoint_mark = mark;
            hosted.checkpoint_plan = plan;
            self.out.counters.checkpoints += 1;
        }
    }

    /// What must hold between steps.
    pub(super) fn check_checkpoints(&self) {
        let Checkpoints { due, current, install, freezing, last_step, .. } = &self.checkpoints;
        assert!(due.len() <= self.hosted.len() / 4 + 1, "no more checkpoints are due than are made in a sweep");
        assert!(freezing.iter().all(|(_, slot, _)| self.place_of(*slot).is_some()), "what is frozen is here");
        for (slot, _) in current.iter().chain(install) {
            let place = self.place_of(*slot).expect("what is encoded is here");
            assert!(self.hosted[place].checkpointing.is_some(), "what is encoded is under way");
        }
        assert!(*last_step <= self.config.limits.state_portion, "a step encodes a portion at most");
    }
}

/// How far an encoding went.
struct Went {
    /// Channels and homes that were encoded.
    entries: usize,
    /// To go on with.
    rest: Option<Encoding>,
}

/// Encodes on, and asks the disk when that was all. Also returned: the work done. `None`: it is of no use any more.
fn go_on(slot: &mut Slot, mut encoding: Encoding, work: usize, effects: &mut Effects) -> Option<(Went, usize)> {
    let before = encoding.entries();
    let read = encoding.go_on(slot, work);
    let entries = encoding.entries() - before;
    match read {
        ReadOn::More(done) => Some((Went { entries, rest: Some(encoding) }, done)),
        ReadOn::All(done) => {
            effects.push(Effect::Checkpoint { slot: slot.id(), bytes: encoding.finish() });
            Some((Went { entries, rest: None }, done + WORK_OF_ONE))
        }
        ReadOn::Void => None,
    }
}

#[cfg(test)]
#[path = "checkpoints_tests.rs"]
mod tests;
