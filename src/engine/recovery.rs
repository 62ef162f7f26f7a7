//! A shard being brought back from disk: checkpoints first, then the journal after them, then it begins. Reads no files: the
//! shell does, in the order that this asks for.
//!
//! ```text
//!  new ─► checkpoint … ─► (first_segment) ─► segment … ─► finish ─► Shard
//! ```

use std::collections::BTreeMap;

use super::chance::{Chance, MapState};
use super::checkpoint;
use super::journal::{Journal, Replay};
use super::raft_group::GroupState;
use super::routes::Table;
use super::shard::{Hosted, Shard, ShardConfig, chance_of};
use super::slot::{Slot, SlotState};
use crate::format::record::Record;
use crate::ids::SlotId;
use crate::time::Now;

/// See the file's head. Order: every checkpoint, then every segment from [`Recovery::first_segment`] upwards, then
/// [`Recovery::finish`].
pub struct Recovery {
    config: ShardConfig,
    table: Table,
    map_state: MapState,
    slots: BTreeMap<SlotId, (SlotState, u32)>,
    replay: Replay,
    started: bool,
    problem: Option<String>,
}

impl Recovery {
    /// Nothing read yet.
    #[must_use]
    pub fn new(config: ShardConfig) -> Recovery {
        let table = Table::alone(config.place.node, config.shard_count, config.slot_depth);
        let map_state = Chance::new(config.seed, 1).map_state();
        let empty =
            || SlotState { group: GroupState::default(), message_ids_last: 0, channels: Vec::new(), homes: Vec::new() };
        let slots = table.preferred_at(config.place).map(|slot| (slot, (empty(), 0))).collect();
        let replay = Replay::new(config.geometry);
        Recovery { config, table, map_state, slots, replay, started: false, problem: None }
    }

    /// Slots that this shard hosts: whose checkpoints are wanted.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotId> {
        self.slots.keys().copied().collect()
    }

    /// Takes a slot's checkpoint.
    ///
    /// # Errors
    /// What is wrong with it; the disk's fault.
    pub fn checkpoint(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), String> {
        assert!(!self.started, "checkpoints come before segments");
        let Some(known) = self.slots.get_mut(&slot) else {
            return Err(format!("slot {slot} is not hosted by this shard"));
        };
        *known = checkpoint::decode(slot, bytes, self.map_state)
            .map_err(|what| format!("checkpoint of slot {slot}: {what}"))?;
        Ok(())
    }

    /// The first journal segment that must be replayed, after all checkpoints were given; 0 when all of them must.
    #[must_use]
    pub fn first_segment(&self) -> u32 {
        self.slots.values().map(|(_, segment)| *segment).min().unwrap_or(0)
    }

    /// Replays one segment.
    ///
    /// # Errors
    /// What is damaged and where.
    pub fn segment(&mut self, segment: u32, bytes: &[u8]) -> Result<(), String> {
        self.started = true;
        let (slots, problem) = (&mut self.slots, &mut self.problem);
        let replayed = self.replay.segment(segment, bytes, &mut |record, position| {
            let Some((state, _)) = slots.get_mut(&record.slot()) else {
                problem.get_or_insert_with(|| format!("slot {} is not hosted by this shard", record.slot()));
                return;
            };
            match record {
                Record::Entry { term, index, kind, data, .. } => {
                    let taken = state.group.replay_entry(index, term, kind, data, position);
                    if let Err(what) = taken {
                        problem.get_or_insert_with(|| format!("slot {}, at {position}: {what}", record.slot()));
                    }
                }
                Record::HardState { term, vote, .. } => {
                    if term >= state.group.term {
                        (state.group.term, state.group.vote) = (term, vote);
                    }
                }
            }
        });
        replayed.map_err(|damage| damage.to_string())?;
        self.problem.take().map_or(Ok(()), Err)
    }

    /// Everything is read: the shard begins. `first_segment` is the oldest that exists, if any.
    ///
    /// # Errors
    /// A checkpoint that names things that cannot be.
    pub fn finish(self, now: Now, first_segment: Option<u32>) -> Result<Shard, String> {
        if first_segment.is_some() && !self.started {
            return Err("the journal has segments but none was replayed".into());
        }
        let mut resume = self.replay.finish();
        if let Some(first) = first_segment {
            resume.first_segment = resume.first_segment.min(first);
        }
        let config = self.config;
        let mut hosted = Vec::new();
        for (id, (state, replay_segment)) in self.slots {
            let mut slot = Slot::restore(id, state, self.map_state, chance_of(&config, id))?;
            // A checkpoint may be older than the last time that retention gave segments up.
            slot.drop_below(resume.first_segment);
            hosted.push(Hosted::new(slot, replay_segment));
        }
        let journal = Journal::resume(config.geometry, &config.limits, config.durability, resume);
        Ok(Shard::assemble(config, self.table, hosted, journal, now))
    }
}
