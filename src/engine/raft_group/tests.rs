//! Whole groups in one thread: real journals over disks that forget what was not written, real recovery, messages that are lost, doubled,
//! late and out of order, hosts that crash, members that come and go. What a seed does it does again.

use std::collections::BTreeMap;

use super::mini_cluster::{self as cluster, Cluster, Troubles};
use super::*;
use crate::engine::checkpoint::{self, Cover};
use crate::engine::effect::{Effect, Effects};
use crate::engine::recovery::Recovery;
use crate::format::raft_message::RaftEntry;
use crate::ids::{Place, ShardId};
use crate::time::Instant;

#[test]
fn three_replicas_agree_whatever_happens() {
    for seed in 0..150 {
        let mut cluster = Cluster::new(seed, 3, 0);
        cluster.trouble(Troubles { crashes: true, network: true, ..Troubles::default() }, 4000);
        cluster.converge();
    }
}

#[test]
fn five_replicas_agree_whatever_happens() {
    for seed in 1000..1060 {
        let mut cluster = Cluster::new(seed, 5, 0);
        cluster.trouble(Troubles { crashes: true, network: true, ..Troubles::default() }, 3000);
        cluster.converge();
    }
}

#[test]
fn members_come_and_go_in_bad_times() {
    let (mut replaced, mut installed) = (0, 0);
    for seed in 2000..2150 {
        let mut cluster = Cluster::new(seed, 3, 2);
        cluster.trouble(Troubles { crashes: true, network: true, members: true }, 6000);
        cluster.converge();
        replaced += cluster.replaced;
        installed += cluster.installed;
    }
    assert!(replaced > 100, "voters were replaced {replaced} times");
    assert!(installed > 100, "snapshots were installed {installed} times");
}

#[test]
fn a_new_member_is_brought_up_by_a_snapshot_and_takes_over() {
    let mut cluster = Cluster::new(7, 3, 1);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    for _ in 0..100 {
        cluster.propose();
        cluster.run(5);
    }
    let new = cluster.begin_spare(3);
    cluster.run_until("the learner", |cluster| {
        cluster.change(&MemberChange::AddLearner(new));
        cluster.members().learners == [new]
    });
    cluster.run_until("the snapshot", |cluster| cluster.installed > 0 && cluster.caught_up(new));
    let mut voters = cluster.members().voters;
    let leader = cluster.leader().expect("there is one");
    let leader = cluster.replica(leader);
    let gone = *voters.iter().find(|voter| **voter != leader).expect("there are three");
    voters.retain(|voter| *voter != gone);
    voters.push(new);
    voters.sort_unstable();
    cluster.run_until("the new voters", |cluster| {
        cluster.change(&MemberChange::Replace { voters: voters.clone() });
        let members = cluster.members();
        members.voters == voters && members.voters_outgoing.is_empty() && members.learners.is_empty()
    });
    cluster.run_until("the new leader", |cluster| {
        cluster.transfer(new);
        cluster.leader() == Some(3)
    });
    cluster.converge();
}

#[test]
fn when_the_leaders_node_is_said_to_be_down_another_leads_at_once() {
    let mut ticks = 0;
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, 0);
        cluster.run_until("a leader", |cluster| cluster.leader().is_some());
        cluster.run(100);
        let leader = cluster.leader().expect("there is one");
        cluster.crash(leader, 100_000);
        cluster.hurry(leader);
        let began = cluster.now;
        cluster.run_until("another leader", |cluster| cluster.leader().is_some_and(|other| other != leader));
        ticks += (cluster.now - began) / cluster::STEPS_PER_TICK;
    }
    // Without being told they would wait ten ticks at least.
    assert!(ticks < 20 * 9, "{ticks} ticks in 20 elections");
}

#[test]
fn a_leader_that_loses_its_vote_leads_no_longer() {
    let mut cluster = Cluster::new(3, 3, 0);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let old = cluster.leader().expect("there is one");
    let gone = cluster.replica(old);
    let voters: Vec<ReplicaId> = cluster.members().voters.into_iter().filter(|voter| *voter != gone).collect();
    cluster.change(&MemberChange::Replace { voters: voters.clone() });
    cluster.run_until("another leader", |cluster| {
        cluster.leader().is_some_and(|leader| leader != old) && cluster.members().voters == voters
    });
    cluster.converge();
}

#[test]
fn nonsense_is_refused() {
    let mut cluster = Cluster::new(5, 3, 0);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("there is one");
    let follower = (leader + 1) % 3;
    let (leads, follows) = (cluster.replica(leader), cluster.replica(follower));
    let stranger = ReplicaId(99);
    let group = cluster.group(leader);
    assert_eq!(group.propose_members(&MemberChange::AddLearner(follows)), Err(NotTaken::Senseless));
    assert_eq!(group.propose_members(&MemberChange::RemoveLearner(follows)), Err(NotTaken::Senseless));
    assert_eq!(group.propose_members(&MemberChange::Replace { voters: Vec::new() }), Err(NotTaken::Senseless));
    assert_eq!(group.propose_members(&MemberChange::Replace { voters: vec![stranger] }), Err(NotTaken::Senseless));
    group.transfer(follows);
    assert_eq!(group.propose(vec![1, 2, 3]), Err(NotTaken::Later(vec![1, 2, 3])), "the bytes come back");
    let slot = SlotId::METADATA;
    let heartbeat = |kind: MessageType| {
        let kind = kind as u8;
        RaftMessage { slot, kind, from: leads, to: follows, term: 99, ..RaftMessage::default() }
    };
    let group = cluster.group(follower);
    assert_eq!(group.propose(vec![1]), Err(NotTaken::NotLeader));
    let term = group.term();
    for kind in
        [MessageType::MsgPropose, MessageType::MsgHup, MessageType::MsgReadIndex, MessageType::MsgTransferLeader]
    {
        assert_eq!(group.step(heartbeat(kind)), Err(NotForUs));
    }
    let fine = heartbeat(MessageType::MsgHeartbeat);
    assert_eq!(group.step(RaftMessage { to: stranger, ..fine.clone() }), Err(NotForUs));
    assert_eq!(group.step(RaftMessage { slot: SlotId(0), ..fine.clone() }), Err(NotForUs));
    assert_eq!(group.step(RaftMessage { from: follows, ..fine.clone() }), Err(NotForUs));
    assert_eq!(group.step(RaftMessage { term: 0, ..fine.clone() }), Err(NotForUs));
    assert_eq!(group.term(), term, "a message for somebody else changes nothing");
    assert_eq!(group.step(fine), Ok(()));
    assert_eq!(group.term(), 99);
}

#[test]
fn a_commit_of_new_members_is_remembered() {
    // A change of members is agreed on and not applied when the power goes: whoever restarts knows that it counts.
    let mut cluster = Cluster::new(11, 3, 1);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let new = cluster.begin_spare(3);
    cluster.run_until("the learner", |cluster| {
        cluster.change(&MemberChange::AddLearner(new));
        cluster.members().learners == [new]
    });
    cluster.run(500);
    for host in 0..3 {
        cluster.crash(host, 1);
    }
    cluster.run(2);
    for host in 0..3 {
        assert_eq!(cluster.group(host).members().learners, [new], "host {host} has no checkpoint, and yet it knows");
    }
    cluster.converge();
}

#[test]
fn what_was_lost_is_noticed_and_sent_again() {
    // As with `durability = "memory"` and a power cut: entries that were acknowledged are gone from one disk.
    let mut cluster = Cluster::new(13, 3, 0);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    cluster.run(200);
    let leader = cluster.leader().expect("there is one");
    let follower = (leader + 1) % 3;
    let image = cluster.disk_image(follower);
    for _ in 0..10 {
        cluster.propose();
        cluster.run(20);
    }
    cluster.crash(follower, 50);
    cluster.set_disk(follower, image);
    cluster.converge();
}

/// On three nodes.
fn three_replicas() -> [ReplicaId; 3] {
    [1, 2, 3].map(|node| ReplicaId::new(Place { node: NodeId(node), shard: ShardId(0) }, u32::from(node)))
}

/// One replica of a group by itself, whose life has just begun, with its journal and the files of that.
fn begun(slot: SlotId, own: ReplicaId, founders: &[ReplicaId]) -> (Journal, BTreeMap<u32, Vec<u8>>, RaftGroup) {
    let mut journal = cluster::empty_journal();
    journal.append_begin(slot, 0, own, founders);
    let group = RaftGroup::restore(slot, GroupState::begin(own, founders), 1 << 20, Chance::new([1; 32], 0));
    (journal, BTreeMap::new(), group)
}

/// Writes all that a journal has to write.
fn write_out(journal: &mut Journal, segments: &mut BTreeMap<u32, Vec<u8>>) {
    let (now, mut effects) = (Instant(0), Effects::default());
    loop {
        journal.flush(now, &mut effects);
        if effects.list.is_empty() {
            return;
        }
        for effect in effects.list.drain(..) {
            match effect {
                Effect::JournalSegment { segment } => {
                    segments.insert(segment, vec![0; cluster::config().geometry.segment_bytes as usize]);
                    journal.handle_segment_ready(now, segment, Ok(()));
                }
                Effect::JournalWrite(write) => {
                    let begin = write.offset as usize;
                    let file = segments.get_mut(&write.segment).expect("only prepared segments are written to");
                    file[begin..begin + write.bytes.len()].copy_from_slice(&write.bytes);
                    journal.handle_written(now, write.flush, write.bytes, Ok(()));
                }
                other => panic!("a journal does not ask for {other:?}"),
            }
        }
    }
}

#[test]
fn what_was_overwritten_stays_until_what_took_its_place_is_on_disk() {
    // Entries 2 to 4 lie across two segments, and 2 is overwritten. A checkpoint is written before that is on disk, and the power goes: the
    // second segment alone would have an entry 4 that follows nothing.
    let replicas = three_replicas();
    let [own, first, second] = replicas;
    let slot = SlotId::METADATA;
    let (mut journal, mut segments, mut group) = begun(slot, own, &replicas);
    let says = |from: ReplicaId, term: u64, indexes: std::ops::RangeInclusive<u64>, commit: u64| {
        let data = Bytes::from(vec![7; 6000]);
        let entries = indexes.map(|index| RaftEntry { term, index, kind: 0, data: data.clone() }).collect();
        let kind = MessageType::MsgAppend as u8;
        let (index, log_term) = (1, 1);
        RaftMessage { slot, kind, from, to: own, term, log_term, index, commit, entries, ..RaftMessage::default() }
    };
    let (mut committed, mut out) = (Vec::new(), Vec::new());
    group.step(says(first, 2, 2..=4, 1)).unwrap();
    group.drain(&mut journal, &mut committed, &mut out);
    write_out(&mut journal, &mut segments);
    group.handle_durable(journal.durable_flush(), &mut out);
    group.step(says(second, 3, 2..=2, 2)).unwrap();
    group.drain(&mut journal, &mut committed, &mut out);
    assert_eq!((group.last_index(), committed.len()), (2, 0));
    let replay_segment = group.replay_segment(&journal);
    let bytes = checkpoint::encode_metadata(&group.state(), Cover { depth: 0, replay_segment }, b"state");
    let mut recovery = Recovery::new(cluster::config());
    recovery.checkpoint(slot, &bytes).unwrap();
    for (segment, bytes) in segments.range(recovery.first_segment()..) {
        recovery.segment(*segment, bytes).unwrap();
    }
    let (state, ..) = recovery.settle(Some(1)).unwrap().metadata.unwrap();
    state.check().unwrap();
    let found: Vec<(u64, u64)> = state.tail.iter().map(|stored| (stored.entry.index, stored.entry.term)).collect();
    assert_eq!(found, [(2, 2), (3, 2), (4, 2)]);
    write_out(&mut journal, &mut segments);
    group.handle_durable(journal.durable_flush(), &mut out);
    group.drain(&mut journal, &mut committed, &mut out);
    assert_eq!(committed.len(), 1);
    group.applied_to(2, 3);
    assert_eq!((replay_segment, group.replay_segment(&journal)), (1, 2), "and is let go of then");
}

#[test]
fn a_vote_on_its_way_to_the_disk_outlives_the_state_that_is_installed_meanwhile() {
    let [own, candidate, other] = three_replicas();
    let slot = SlotId(0);
    let (mut journal, mut segments, mut group) = begun(slot, own, &[]);
    let members = GroupMembers { voters: vec![own, candidate, other], ..GroupMembers::default() };
    let head = SnapshotHead { index: 1, term: 1, members, data: Bytes::new() };
    group.prepare_install(&head, &mut journal).unwrap();
    let kind = MessageType::MsgRequestVote as u8;
    let (from, to, term, log_term, index) = (candidate, own, 2, 1, 1);
    let asks = RaftMessage { slot, kind, from, to, term, log_term, index, ..RaftMessage::default() };
    let kind = MessageType::MsgRequestPreVote as u8;
    let asks_before = RaftMessage { kind, from: other, term: 3, ..asks.clone() };
    let (mut committed, mut out) = (Vec::new(), Vec::new());
    group.step(asks).unwrap();
    group.step(asks_before).unwrap();
    group.drain(&mut journal, &mut committed, &mut out);
    group.install_own(&head);
    assert!(out.is_empty(), "nothing is promised that is not on disk");
    write_out(&mut journal, &mut segments);
    group.handle_durable(journal.durable_flush(), &mut out);
    let said: Vec<_> = out.iter().map(|message| (message.kind, message.to, message.term, message.reject)).collect();
    let vote = (MessageType::MsgRequestVoteResponse as u8, candidate, 2, false);
    let before = (MessageType::MsgRequestPreVoteResponse as u8, other, 3, false);
    assert_eq!(said, [vote, before]);
}

#[test]
fn an_entry_does_not_keep_what_it_came_with() {
    let replicas = three_replicas();
    let [own, from, _] = replicas;
    let slot = SlotId::METADATA;
    let (mut journal, mut segments, mut group) = begun(slot, own, &replicas);
    let batch = Bytes::from(vec![7; 60_000]);
    let entries = vec![RaftEntry { term: 2, index: 2, kind: 0, data: batch.slice(100..300) }];
    let (kind, to, term) = (MessageType::MsgAppend as u8, own, 2);
    let (index, log_term, commit) = (1, 1, 2);
    let (mut committed, mut out) = (Vec::new(), Vec::new());
    let says = RaftMessage { slot, kind, from, to, term, log_term, index, commit, entries, ..RaftMessage::default() };
    group.step(says).unwrap();
    group.drain(&mut journal, &mut committed, &mut out);
    write_out(&mut journal, &mut segments);
    group.handle_durable(journal.durable_flush(), &mut out);
    group.drain(&mut journal, &mut committed, &mut out);
    assert_eq!(committed.len(), 1);
    group.applied_to(2, 2);
    assert_eq!((committed[0].data.len(), group.last_index()), (200, 2), "it is in the log, and handed out");
    assert!(batch.is_unique(), "and the batch is not needed for it");
}
