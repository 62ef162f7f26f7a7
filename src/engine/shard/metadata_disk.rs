//! What of the metadata group is on disk: its checkpoints, and snapshots of it that come in, which count when they are in one. What its replica
//! does otherwise is [`super::membership`]'s affair.
//!
//! ```text
//!  a snapshot comes ─► installing ─(its entries are in the journal, no other checkpoint is under way)─► checkpoint ─► raft is told
//!                                                                                                  └─(the disk refuses)─► given up
//! ```

use crate::engine::checkpoint::{self, Cover};
use crate::engine::effect::{Effect, Effects};
use crate::engine::metadata::Cluster;
use crate::engine::raft_group::GroupState;
use crate::format::raft_message::RaftMessage;
use crate::format::record::Position;
use crate::ids::SlotId;

use super::Shard;

/// A checkpoint on its way to the disk.
pub(super) struct Checkpointing {
    /// The first segment that it needs itself, and the one that it asks a restart to begin with.
    replay_segment: u32,
    kept_segment: u32,
    mark: u64,
    /// It has the snapshot's state. One that was begun before the snapshot came has not, and says nothing of it when it is done.
    installs: bool,
}

/// A snapshot on its way in.
pub(super) struct Installing {
    message: RaftMessage,
    cluster: Cluster,
    group: GroupState,
    /// The checkpoint is asked for when the journal is written up to here.
    after: Position,
    /// What is journalled from here on, a vote perhaps, is not in `group`.
    replay_segment: u32,
}

impl Shard {
    /// Another replica of the metadata group says something.
    pub(super) fn council_step(&mut self, message: RaftMessage, effects: &mut Effects) {
        let Some(office) = &mut self.office else { return };
        let Some(council) = &mut office.council else { return };
        let Some(head) = &message.snapshot else {
            council.step(message);
            return;
        };
        if office.installing.is_some() || message.to != council.group().replica() {
            return;
        }
        // The new state is to be on disk before raft is told that it counts.
        let Ok(cluster) = Cluster::decode(&head.data) else {
            let line = format!("{} sends metadata that cannot be read: it is at fault", message.from);
            effects.push(Effect::Report { warning: true, line });
            return;
        };
        let replay_segment = self.journal.written_segment();
        let Some(group) = council.prepare_install(&message, &mut self.journal) else {
            council.step(message);
            return;
        };
        let after = self.journal.position();
        office.installing = Some(Installing { message, cluster, group, after, replay_segment });
    }

    /// Asks for the metadata's checkpoints: of a snapshot that has come in, or because the last one is long ago. One at a time.
    pub(super) fn checkpoint_council(&mut self, effects: &mut Effects) {
        let mark = self.journal_mark();
        let Some(office) = &mut self.office else { return };
        let Some(council) = &office.council else { return };
        if office.checkpointing.is_some() {
            return;
        }
        let others = self.hosted.iter().filter(|hosted| !hosted.checkpointed);
        let others = others.map(|hosted| hosted.replay_segment).min().unwrap_or(u32::MAX);
        let due = mark - office.checkpoint_mark >= self.config.limits.replay_bytes_max / 2
            || (office.kept_segment < self.segment_wanted
                && office.kept_segment < council.group().replay_segment(&self.journal).min(others));
        let cover = |own: u32| Cover { depth: 0, replay_segment: own.min(others) };
        let (own, bytes, installs) = match &office.installing {
            Some(installing) if self.journal.written() >= installing.after => {
                let own = installing.replay_segment;
                let state = installing.cluster.encode();
                (own, checkpoint::encode_metadata(&installing.group, cover(own), &state), true)
            }
            None if due => {
                let own = council.group().replay_segment(&self.journal);
                let state = council.cluster().encode();
                (own, checkpoint::encode_metadata(&council.group().state(), cover(own), &state), false)
            }
            _ => return,
        };
        let kept_segment = cover(own).replay_segment;
        office.checkpointing = Some(Checkpointing { replay_segment: own, kept_segment, mark, installs });
        effects.push(Effect::Checkpoint { slot: SlotId::METADATA, bytes });
    }

    /// The metadata's checkpoint is on disk, or not.
    pub(super) fn council_checkpointed(&mut self, written: bool) {
        let Some(office) = &mut self.office else { return };
        let Some(Checkpointing { replay_segment, kept_segment, mark, installs }) = office.checkpointing.take() else {
            return;
        };
        if written {
            (office.replay_segment, office.kept_segment, office.checkpoint_mark) = (replay_segment, kept_segment, mark);
            office.checkpointed = true;
        }
        if !installs {
            return;
        }
        let Some(council) = &mut office.council else { return };
        match office.installing.take() {
            Some(installing) if written => council.install(installing.message, installing.cluster),
            Some(_) => council.abandon_install(),
            None => {}
        }
    }

    /// The first journal segment that the metadata's replay needs, while it has no checkpoint.
    pub(super) fn council_without_checkpoint(&self) -> Option<u32> {
        let office = self.office.as_ref().filter(|office| !office.checkpointed)?;
        office.council.as_ref().map(|_| office.replay_segment)
    }

    /// The first journal segment that the metadata's next restart needs, for others' sake too.
    pub(super) fn council_keeps_segment(&self) -> Option<u32> {
        let office = self.office.as_ref()?;
        office.council.as_ref().map(|_| office.kept_segment.min(office.replay_segment))
    }
}

#[cfg(test)]
#[path = "metadata_disk_tests.rs"]
mod tests;
