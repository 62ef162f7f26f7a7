//! Checkpoints of the metadata and snapshots of it that come in meanwhile.

use std::time::Duration;

use raft::eraftpb::MessageType;

use super::super::membership::council_of;
use super::super::tests::Bench;
use super::*;
use crate::engine::checkpoint::CheckpointState;
use crate::engine::council::Council;
use crate::engine::event::{DiskFault, Event};
use crate::engine::metadata::{MetadataCommand, NewMember};
use crate::format::frame::Addresses;
use crate::format::raft_message::{GroupMembers, SnapshotHead};
use crate::ids::NodeId;
use crate::limits::Limits;

const SLOT: SlotId = SlotId::METADATA;

/// Applied entries of the metadata's checkpoints that were asked for since the last call.
fn asked(bench: &mut Bench) -> Vec<u64> {
    let map_state = bench.shard.map_state;
    let mut applied = Vec::new();
    for effect in std::mem::take(&mut bench.others) {
        if let Effect::Checkpoint { slot: SLOT, bytes } = effect {
            match checkpoint::decode(SLOT, &bytes, map_state).unwrap().state {
                CheckpointState::Metadata(group, _) => applied.push(group.applied),
                CheckpointState::Slot(_) => panic!("the metadata is no slot"),
            }
        }
    }
    applied
}

fn applied(bench: &Bench) -> u64 {
    council_of(&bench.shard.office).unwrap().group().applied()
}

/// What another member would send: one member more, and seven entries.
fn snapshot(council: &Council) -> RaftMessage {
    let address = "127.0.0.2:5300".parse().unwrap();
    let name = || "n2:1".into();
    let addresses = Addresses { cluster: address, tcp: name(), ws: name(), wss: name(), http: name() };
    let mut cluster = Cluster::clone(council.cluster());
    let member = NewMember { node: NodeId(2), identity: 2, shards: 1, addresses };
    cluster.apply(&MetadataCommand::AddMember(member)).unwrap();
    let (to, from) = (council.group().replica(), cluster.members[&NodeId(2)].metadata_replica);
    let (index, term) = (council.group().applied() + 7, council.group().term() + 1);
    let members = GroupMembers { voters: vec![to, from], ..GroupMembers::default() };
    let snapshot = Some(SnapshotHead { index, term, members, data: cluster.encode().into() });
    let kind = MessageType::MsgSnapshot as u8;
    RaftMessage { slot: SLOT, kind, from, to, term, snapshot, ..RaftMessage::default() }
}

#[test]
fn a_snapshot_counts_when_its_own_checkpoint_is_on_disk() {
    for first in [Ok(()), Err(DiskFault::Full)] {
        let mut bench = Bench::with(Limits { replay_bytes_max: 2, ..Limits::PRODUCTION });
        bench.wait(Duration::from_secs(60));
        let before = applied(&bench);
        assert_eq!(asked(&mut bench), [before], "one for the time that has passed");
        let message = snapshot(council_of(&bench.shard.office).unwrap());
        bench.shard.council_step(message, &mut Effects::default());
        bench.run();
        assert!(asked(&mut bench).is_empty(), "one at a time");
        bench.events.push(Event::CheckpointWritten { slot: SLOT, result: first });
        bench.run();
        assert_eq!(applied(&bench), before, "the snapshot is on no disk");
        assert_eq!(asked(&mut bench), [before + 7]);
        bench.events.push(Event::CheckpointWritten { slot: SLOT, result: Ok(()) });
        bench.run();
        assert_eq!(applied(&bench), before + 7);
    }
}
