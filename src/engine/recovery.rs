//! A shard being brought back from disk: checkpoints first, then the journal after them, then it begins. Reads no files: the
//! shell does, in the order that this asks for. Which replicas live here is what the disk says: their checkpoints, and the beginnings
//! and ends in the journal.
//!
//! ```text
//!  new ─► checkpoint … ─► (first_segment) ─► segment … ─► finish ─► Shard
//!
//!  one slot:   nobody ──Begin──► a life ──End──► nobody      a checkpoint is the state of one life, whichever comes
//! ```
//!
//! Where a replay begins, the records may still be those of an earlier life than the checkpoint's: then that one's End follows, and
//! the Begin of the checkpoint's. So a Begin forgets everything that was read for its slot before, the checkpoint of that very
//! replica excepted. And a checkpoint of a life whose End was read is a file that should be gone.

use std::collections::{BTreeMap, BTreeSet};

use super::chance::{Chance, MapState};
use super::checkpoint::{self, Checkpoint, CheckpointState, Cover};
use super::journal::{Journal, Replay};
use super::raft_group::GroupState;
use super::shard::{Shard, ShardConfig, chance_of};
use super::slot::{Reshaped, Slot, SlotState};
use crate::format::record::{Position, Record};
use crate::ids::{ReplicaId, SlotId};
use crate::time::Now;

/// A replica as far as it was read.
struct Life {
    depth: u8,
    /// The first segment that its checkpoint on disk asks for, or the one it begins in.
    replay_segment: u32,
    state: CheckpointState,
    /// Term, vote and commit of the checkpoint.
    at_first: (u64, u64, u64),
    /// It has a checkpoint.
    checkpointed: bool,
}

impl Life {
    fn of(checkpoint: Checkpoint, checkpointed: bool) -> Life {
        let Checkpoint { cover: Cover { depth, replay_segment }, state } = checkpoint;
        let mut life = Life { depth, replay_segment, state, at_first: (0, 0, 0), checkpointed };
        let group = life.group();
        life.at_first = (group.term, group.vote, group.commit);
        life
    }

    fn begin(slot: SlotId, depth: u8, replay_segment: u32, group: GroupState) -> Life {
        let state = if slot == SlotId::METADATA {
            CheckpointState::Metadata(group, Vec::new())
        } else {
            let (channels, homes) = (Vec::new(), Vec::new());
            let reshaped = Reshaped::default();
            CheckpointState::Slot(SlotState { group, message_ids_last: 0, reshaped, channels, homes })
        };
        Life::of(Checkpoint { cover: Cover { depth, replay_segment }, state }, false)
    }

    fn group(&mut self) -> &mut GroupState {
        match &mut self.state {
            CheckpointState::Slot(state) => &mut state.group,
            CheckpointState::Metadata(group, _) => group,
        }
    }

    /// Back to what the checkpoint says: what was read so far belonged to somebody else.
    fn forget_records(&mut self) {
        let (term, vote, commit) = self.at_first;
        let group = self.group();
        (group.term, group.vote, group.commit) = (term, vote, commit);
        group.forget_tail();
    }
}

/// One slot as far as it was read.
#[derive(Default)]
struct Found {
    /// Whose records are being read.
    current: Option<Life>,
    /// A life known by its checkpoint, when the records are those of an earlier one.
    later: Option<Life>,
}

impl Found {
    fn begin(&mut self, slot: SlotId, depth: u8, segment: u32, group: GroupState) {
        self.later = self.current.take_if(|life| life.checkpointed).or(self.later.take());
        self.current = match self.later.take_if(|life| life.group().replica == group.replica) {
            Some(mut life) => {
                life.forget_records();
                Some(life)
            }
            None => Some(Life::begin(slot, depth, segment, group)),
        };
    }

    fn end(&mut self, replica: ReplicaId) {
        self.current.take_if(|life| life.group().replica == replica);
        self.later.take_if(|life| life.group().replica == replica);
    }
}

/// See the file's head. Order: every checkpoint, then every segment from [`Recovery::first_segment`] upwards, then
/// [`Recovery::finish`].
pub struct Recovery {
    config: ShardConfig,
    map_state: MapState,
    slots: BTreeMap<SlotId, Found>,
    first_segment: Option<u32>,
    replay: Replay,
    started: bool,
    /// Slots with records of a life whose beginning was not read. Its end must follow.
    orphans: BTreeSet<SlotId>,
}

/// What lives on a shard.
pub struct Recovered {
    /// Slots, ascending.
    pub slots: Vec<RecoveredSlot>,
    /// The metadata group's replica: its group, its state as it was given to the checkpoint (empty without one), and the first
    /// segment that must stay for its next restart.
    pub metadata: Option<(GroupState, Vec<u8>, u32)>,
    /// Slots without a replica here any more: their checkpoints, should they still be there, ask for segments that nobody keeps.
    pub lifeless: Vec<SlotId>,
    /// Goes on where it ended.
    pub journal: Journal,
}

/// A slot that lives here.
pub struct RecoveredSlot {
    /// As it was.
    pub slot: Slot,
    /// Bits of the hash that name it.
    pub depth: u8,
    /// The first journal segment that must stay for its next restart.
    pub replay_segment: u32,
    /// It has a checkpoint of its own: a restart does not need those of others to find it.
    pub checkpointed: bool,
}

impl Recovery {
    /// Nothing read yet.
    #[must_use]
    pub fn new(config: ShardConfig) -> Recovery {
        let map_state = Chance::new(config.seed, 1).map_state();
        let replay = Replay::new(config.geometry);
        let (slots, orphans) = (BTreeMap::new(), BTreeSet::new());
        Recovery { config, map_state, slots, first_segment: None, replay, started: false, orphans }
    }

    /// Takes a checkpoint. Every one that is there is wanted.
    ///
    /// # Errors
    /// What is wrong with it; the disk's fault.
    pub fn checkpoint(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), String> {
        assert!(!self.started, "checkpoints come before segments");
        let checkpoint = checkpoint::decode(slot, bytes, self.map_state)
            .map_err(|what| format!("checkpoint of slot {slot}: {what}{}", self.way_on()))?;
        let segment = checkpoint.cover.replay_segment;
        self.first_segment = Some(self.first_segment.map_or(segment, |first| first.min(segment)));
        let current = Some(Life::of(checkpoint, true));
        self.slots.insert(slot, Found { current, later: None });
        Ok(())
    }

    /// The first journal segment that must be replayed, after all checkpoints were given; 0 when all of them must.
    #[must_use]
    pub fn first_segment(&self) -> u32 {
        self.first_segment.unwrap_or(0)
    }

    /// Replays one segment.
    ///
    /// # Errors
    /// What is damaged and where.
    pub fn segment(&mut self, segment: u32, bytes: &[u8]) -> Result<(), String> {
        self.started = true;
        let (slots, orphans) = (&mut self.slots, &mut self.orphans);
        let replayed = self.replay.segment(segment, bytes, &mut |record, position| {
            take_record(slots, orphans, record, position);
        });
        replayed.map_err(|damage| format!("{damage}{}", self.way_on()))
    }

    /// What the operator of a node whose disk is damaged can do, beside mending it.
    fn way_on(&self) -> &'static str {
        if self.config.cluster.address.is_none() {
            return "";
        }
        ". Nothing was changed. If other nodes hold replicas of its slots: move the data directory away and start the node anew with a member as \
         seed; it is rebuilt from them as after the loss of a disk"
    }

    /// Everything is read: the shard begins. `first_segment` is the oldest that exists, if any.
    ///
    /// # Errors
    /// A configuration that does not hold together, a checkpoint that names things that cannot be, or records that contradict it.
    pub fn finish(self, now: Now, first_segment: Option<u32>) -> Result<Shard, String> {
        let (config, map_state) = (self.config.clone(), self.map_state);
        config.check()?;
        let recovered = self.settle(first_segment)?;
        Shard::assemble(config, recovered, map_state, now)
    }

    /// Everything is read: what lives here.
    ///
    /// # Errors
    /// As [`Recovery::finish`].
    pub fn settle(self, first_segment: Option<u32>) -> Result<Recovered, String> {
        if first_segment.is_some() && !self.started {
            return Err("the journal has segments but none was replayed".into());
        }
        if let Some(slot) = self.orphans.first() {
            return Err(format!(
                "the journal has records of slot {slot}, whose beginning is not there and no checkpoint"
            ));
        }
        let mut resume = self.replay.finish();
        if let Some(first) = first_segment {
            resume.first_segment = resume.first_segment.min(first);
        }
        let config = self.config;
        let (mut slots, mut metadata, mut lifeless) = (Vec::new(), None, Vec::new());
        for (id, found) in self.slots {
            let Some(life) = found.current.or(found.later) else {
                lifeless.push(id);
                continue;
            };
            let Life { depth, replay_segment, state, checkpointed, .. } = life;
            match state {
                CheckpointState::Metadata(group, state) => {
                    group.check().map_err(|what| format!("the metadata group: {what}"))?;
                    metadata = Some((group, state, replay_segment));
                }
                CheckpointState::Slot(state) => {
                    let (tail_max, chance) = (config.limits.log_tail_bytes_max, chance_of(&config, id));
                    let mut slot = Slot::restore(id, state, self.map_state, tail_max, chance)
                        .map_err(|what| format!("slot {id}: {what}"))?;
                    // A checkpoint may be older than the last time that retention gave segments up.
                    slot.drop_below(resume.first_segment);
                    slots.push(RecoveredSlot { slot, depth, replay_segment, checkpointed });
                }
            }
        }
        let journal = Journal::resume(config.geometry, &config.limits, config.durability, resume);
        Ok(Recovered { slots, metadata, lifeless, journal })
    }
}

fn take_record(
    slots: &mut BTreeMap<SlotId, Found>,
    orphans: &mut BTreeSet<SlotId>,
    record: Record<'_>,
    position: Position,
) {
    let slot = record.slot();
    let found = slots.entry(slot).or_default();
    match record {
        Record::Begin { depth, replica, founders, .. } => {
            orphans.remove(&slot);
            let founders: Vec<ReplicaId> = founders.iter().collect();
            found.begin(slot, depth, position.segment, GroupState::begin(replica, &founders));
            return;
        }
        Record::End { replica, .. } => {
            orphans.remove(&slot);
            found.end(replica);
            return;
        }
        _ => {}
    }
    let Some(life) = &mut found.current else {
        orphans.insert(slot);
        return;
    };
    match record {
        Record::Entry { term, index, kind, data, .. } => {
            life.group().replay_entry(index, term, kind, data, position);
        }
        Record::HardState { term, vote, commit, .. } => life.group().replay_hard_state(term, vote, commit),
        Record::Install { replica, index, .. } if life.group().replica == replica => {
            life.group().replay_install(index);
        }
        _ => {}
    }
}
