//! Whole groups in one thread: real journals over disks that forget what was not written, real recovery, messages that are lost, doubled,
//! late and out of order, hosts that crash, members that come and go. What a seed does it does again.

use super::mini_cluster::{self as cluster, Cluster, Troubles};
use super::*;

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
