//! What operators ask, of the agreed state alone and of a shard that leads the metadata group.

use std::sync::Arc;
use std::time::Duration;

use super::operators::command_of;
use super::tests::Bench;
use crate::engine::effect::Effect;
use crate::engine::event::{ApiAnswer, ApiRequest, Event};
use crate::engine::metadata::{Cluster, MemberState, MetadataCommand, NewMember, Reshape};
use crate::format::cluster_status::{ClusterRequest, ClusterStatus, MemberStanding};
use crate::format::frame::{Addresses, Alive, Frame};
use crate::ids::{NodeId, Place, ShardId, SlotId, Uid};
use crate::limits::Limits;

fn member(node: u16) -> NewMember {
    let addresses = Addresses {
        cluster: format!("127.0.0.{node}:5300").parse().unwrap(),
        tcp: format!("n{node}:5100").into(),
        ws: format!("ws://n{node}:5200").into(),
        wss: "".into(),
        http: format!("n{node}:5001").into(),
    };
    NewMember { node: NodeId(node), identity: u64::from(node), shards: 1, addresses }
}

/// Four slots on three nodes, all on node 1 but for slot 2, which is on nodes 1 and 2.
fn three() -> Cluster {
    let mut cluster = Cluster::default();
    let found =
        MetadataCommand::Found { id: 1, name: "t".into(), replicas_wanted: 2, slot_depth: 2, member: member(1) };
    cluster.apply(&found).unwrap();
    for node in [2, 3] {
        cluster.apply(&MetadataCommand::AddMember(member(node))).unwrap();
    }
    let to = [1, 2].map(|node| Place { node: NodeId(node), shard: ShardId(0) });
    cluster.apply(&MetadataCommand::SetTargets { moves: vec![(SlotId(2), 1, to.to_vec())] }).unwrap();
    let voters = cluster.rows[&SlotId(2)].target.clone().unwrap();
    cluster.apply(&MetadataCommand::Settled { slot: SlotId(2), epoch: 1, voters }).unwrap();
    cluster
}

fn n(node: u16) -> NodeId {
    NodeId(node)
}

/// Applies what a request becomes, and says what that was.
fn carry_out(cluster: &mut Cluster, request: &ClusterRequest) -> Result<Option<MetadataCommand>, String> {
    let command = command_of(cluster, request, |node| node != n(3))?;
    if let Some(command) = &command {
        cluster.apply(command).map_err(|refusal| refusal.to_string())?;
    }
    Ok(command)
}

#[test]
fn asking_twice_changes_nothing_more() {
    let all = |depth| (ClusterRequest::Split { slots: vec![], depth }, ClusterRequest::Merge { slots: vec![], depth });
    for request in [
        ClusterRequest::Drain { node: n(3) },
        ClusterRequest::Serve { node: n(3) },
        ClusterRequest::Replace { node: n(1), by: n(2) },
        ClusterRequest::SetReplicas { replicas: 3 },
        ClusterRequest::Transfer { slot: SlotId(2), node: n(2) },
        all(3).0,
        ClusterRequest::Split { slots: vec![SlotId(1)], depth: 3 },
        ClusterRequest::Merge { slots: vec![SlotId(3)], depth: 1 },
        all(2).0,
        all(2).1,
    ] {
        let mut cluster = three();
        carry_out(&mut cluster, &request).unwrap_or_else(|why| panic!("{request:?}: {why}"));
        let once = cluster.clone();
        assert_eq!(carry_out(&mut cluster, &request), Ok(None), "{request:?}");
        assert_eq!(cluster, once);
    }
    let mut cluster = three();
    carry_out(&mut cluster, &ClusterRequest::Drain { node: n(3) }).unwrap();
    let remove = ClusterRequest::Remove { node: n(3) };
    assert!(carry_out(&mut cluster, &remove).unwrap().is_some());
    assert_eq!(carry_out(&mut cluster, &remove), Ok(None), "it is gone already");
}

#[test]
fn what_cannot_be_is_refused_in_a_sentence_that_names_it() {
    for (request, words) in [
        (ClusterRequest::Drain { node: n(9) }, "n9 is no member"),
        (ClusterRequest::Serve { node: n(9) }, "n9 is no member"),
        (ClusterRequest::Remove { node: n(3) }, "drain it first"),
        (ClusterRequest::Replace { node: n(1), by: n(1) }, "by itself"),
        (ClusterRequest::Replace { node: n(1), by: n(9) }, "n9 is no member yet"),
        (ClusterRequest::Replace { node: n(1), by: n(3) }, "n3 is not heard"),
        (ClusterRequest::SetReplicas { replicas: 9 }, "9 replicas"),
        (ClusterRequest::Split { slots: vec![SlotId(9)], depth: 3 }, "no slot 9"),
        (ClusterRequest::Split { slots: vec![], depth: 15 }, "15 bits"),
        (ClusterRequest::Transfer { slot: SlotId(2), node: n(3) }, "it has them on n1, n2"),
        (ClusterRequest::Transfer { slot: SlotId(9), node: n(1) }, "no slot 9"),
    ] {
        let mut cluster = three();
        let before = cluster.clone();
        let why = carry_out(&mut cluster, &request).expect_err("it cannot be");
        assert!(why.contains(words), "{request:?}: {why}");
        assert_eq!(cluster, before);
    }
    let mut cluster = three();
    for node in [2, 3] {
        carry_out(&mut cluster, &ClusterRequest::Drain { node: n(node) }).unwrap();
    }
    assert!(carry_out(&mut cluster, &ClusterRequest::Drain { node: n(1) }).unwrap_err().contains("last member"));
    let by_draining = ClusterRequest::Replace { node: n(1), by: n(2) };
    assert!(carry_out(&mut cluster, &by_draining).unwrap_err().contains("does not serve"));
}

#[test]
fn only_those_that_need_it_are_split_or_merged() {
    let mut cluster = three();
    let split = ClusterRequest::Split { slots: vec![SlotId(0)], depth: 3 };
    carry_out(&mut cluster, &split).unwrap();
    let Some(Reshape::Split { plan, .. }) = cluster.rows[&SlotId(0)].reshape else { panic!("it was planned") };
    cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
    assert_eq!(carry_out(&mut cluster, &split), Ok(None), "it has the bits already");
    let all = command_of(&cluster, &ClusterRequest::Split { slots: vec![], depth: 3 }, |_| true).unwrap();
    let Some(MetadataCommand::Split { slots }) = all else { panic!("three are left") };
    assert_eq!(slots.iter().map(|(slot, _)| slot.0).collect::<Vec<_>>(), [1, 2, 3]);
    let back = command_of(&cluster, &ClusterRequest::Merge { slots: vec![], depth: 2 }, |_| true).unwrap();
    assert!(matches!(back, Some(MetadataCommand::Merge { slots }) if slots.len() == 1 && slots[0].0 == SlotId(0)));
    let named = ClusterRequest::Merge { slots: vec![SlotId(4)], depth: 2 };
    assert!(carry_out(&mut cluster, &named).unwrap().is_some(), "named by the upper one");
}

fn ask(bench: &mut Bench, request: ApiRequest) -> ApiAnswer {
    bench.others.clear();
    bench.events.push(Event::Api { ticket: 77, request });
    bench.run();
    let answers = bench.others.drain(..).filter_map(|effect| match effect {
        Effect::Answer { ticket: 77, answer } => Some(answer),
        _ => None,
    });
    let answers: Vec<ApiAnswer> = answers.collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.into_iter().next().expect("it was just counted")
}

fn operate(bench: &mut Bench, request: ClusterRequest) -> ApiAnswer {
    ask(bench, ApiRequest::Cluster(request))
}

fn status(bench: &mut Bench, from: u16, max: u16, here: bool) -> ClusterStatus {
    match operate(bench, ClusterRequest::Status { from: SlotId(from), max, here }) {
        ApiAnswer::Cluster(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_of_one_shows_itself_page_by_page() {
    let mut bench = Bench::new();
    bench.wait(Duration::from_secs(6));
    let whole = status(&mut bench, 0, u16::MAX, false);
    assert!(whole.is_at_rest(), "{whole:?}");
    assert_eq!((whole.slots_total, whole.slots.len(), whole.next), (4, 4, None));
    assert_eq!(whole.metadata_leader, Some(Place { node: n(1), shard: ShardId(0) }));
    assert_eq!(whole.metadata_voters, [n(1)]);
    let own = &whole.members[0];
    assert_eq!((own.standing, own.alive, own.leads, own.preferred), (MemberStanding::Serving, Some(true), 4, 4));
    let first = status(&mut bench, 0, 3, false);
    assert_eq!((first.slots.len(), first.next), (3, Some(SlotId(3))));
    let second = status(&mut bench, 3, 3, false);
    assert_eq!((second.slots.len(), second.next), (1, None));
    let none = status(&mut bench, 0, 0, false);
    assert_eq!((none.slots.len(), none.next), (0, None));
    let here = status(&mut bench, 0, 0, true);
    assert_eq!((here.complete, here.is_at_rest(), here.members[0].alive), (false, false, Some(true)));
}

#[test]
fn wishes_are_agreed_on_by_the_metadata_group_or_refused_by_it() {
    let mut bench = Bench::new();
    let here = Place { node: n(1), shard: ShardId(0) };
    bench.shard.propose_for_operator((here, 0), &MetadataCommand::AddMember(member(2)));
    bench.run();
    assert_eq!(operate(&mut bench, ClusterRequest::SetReplicas { replicas: 2 }), ApiAnswer::Done);
    assert_eq!(operate(&mut bench, ClusterRequest::Drain { node: n(2) }), ApiAnswer::Done);
    let state = |bench: &Bench| bench.shard.cluster.as_ref().map(|cluster| cluster.members[&n(2)].state);
    assert_eq!(state(&bench), Some(MemberState::Draining));
    assert_eq!(bench.shard.cluster.as_ref().map(|cluster| cluster.replicas_wanted), Some(2));
    let refused = operate(&mut bench, ClusterRequest::Drain { node: n(1) });
    assert!(matches!(&refused, ApiAnswer::Refused { text, .. } if text.contains("last member")), "{refused:?}");
    assert_eq!(operate(&mut bench, ClusterRequest::Serve { node: n(2) }), ApiAnswer::Done);
    assert_eq!(state(&bench), Some(MemberState::Serving));
    assert_eq!(operate(&mut bench, ClusterRequest::Rebalance), ApiAnswer::Done);
    let counters = *bench.shard.counters();
    assert_eq!(counters.operator_requests, 5);
}

#[test]
fn a_cluster_is_not_at_rest_while_somebody_is_to_vote_on_its_metadata_and_does_not() {
    let mut bench = Bench::new();
    let here = Place { node: n(1), shard: ShardId(0) };
    for newcomer in [2, 3] {
        bench.shard.propose_for_operator((here, 0), &MetadataCommand::AddMember(member(newcomer)));
        bench.run();
    }
    (0..5).for_each(|_| bench.wait(Duration::from_secs(1)));
    let whole = status(&mut bench, 0, 0, false);
    let why = "n2 has no vote on the metadata yet";
    let told = whole.waits.iter().find(|wait| &*wait.why == why).unwrap_or_else(|| panic!("{:?}", whole.waits));
    assert_eq!((told.slot, told.node), (None, Some(n(2))));
    assert!(!whole.is_at_rest());
    let here = status(&mut bench, 0, 0, true);
    assert!(here.waits.is_empty(), "who is not asked as the leader does not speak for it");
}

#[test]
fn users_are_grouped_by_the_node_that_leads_their_home() {
    let mut bench = Bench::new();
    let uids: Vec<Uid> = (0..9).map(|n| Uid::parse(&format!("u{n}")).unwrap()).collect();
    let ApiAnswer::Routes(routes) = ask(&mut bench, ApiRequest::Route { uids: uids.clone() }) else {
        panic!("routes were asked")
    };
    assert_eq!((routes.len(), routes[0].node, routes[0].users.len()), (1, Some(n(1)), 9));
    // Slot 2 is led elsewhere now, and its users go there.
    let cluster = three();
    let elsewhere = Place { node: n(2), shard: ShardId(0) };
    bench.shard.routes.learn(SlotId(2), 99, Some(elsewhere));
    bench.shard.cluster = Some(Arc::new(cluster));
    let routes = bench.shard.routes_of(&uids);
    let led: Vec<u32> = (0..9).filter(|at| uids[*at as usize].key_hash().slot(2) == SlotId(2)).collect();
    assert!(!led.is_empty() && led.len() < 9, "the names are well chosen");
    assert_eq!((routes.len(), &routes[1].users, &*routes[1].tcp), (2, &led, "n2:5100"));
    assert_eq!(routes[0].users.len() + led.len(), 9);
}

#[test]
fn sessions_are_counted_over_all_shards_of_a_node_and_not_of_one_that_is_silent() {
    let mut bench = Bench::new();
    bench.shard.config.shard_count = 2;
    for index in 0..5 {
        bench.connect(index, &format!("u{index}"), "d");
    }
    let here = Place { node: n(1), shard: ShardId(0) };
    bench.shard.propose_for_operator((here, 0), &MetadataCommand::AddMember(member(2)));
    bench.run();
    let sessions = |bench: &mut Bench, here| -> Vec<Option<u32>> {
        status(bench, 0, 0, here).members.iter().map(|member| member.sessions).collect()
    };
    assert_eq!(sessions(&mut bench, false), [Some(5), None], "nothing was heard of the second node");
    for (from, sessions) in [(Place { shard: ShardId(1), ..here }, 7), (Place { node: n(2), ..here }, 3)] {
        let alive = Alive { node: from.node.0, boot: 1, table_version: 1, slots_led: 2, sessions, stopping: false };
        bench.events.push(Event::Frames { from, frames: vec![Frame::Alive(alive)] });
        bench.run();
    }
    assert_eq!(sessions(&mut bench, false), [Some(12), Some(3)]);
    assert_eq!(sessions(&mut bench, true), [Some(12), None], "who does not lead knows of nobody else");
    let said = bench.shard.node_alive();
    assert_eq!((said.sessions, said.slots_led), (12, 6), "that is what the others are told");
    bench.wait(Duration::from_secs(6));
    assert_eq!(sessions(&mut bench, false), [Some(12), None], "the second node is silent");
}

#[test]
fn a_node_to_be_emptied_lets_its_sessions_go_a_few_a_second() {
    let mut bench = Bench::with(Limits { drain_sessions_per_second: 2, ..Limits::PRODUCTION });
    for index in 0..5 {
        bench.connect(index, &format!("u{index}"), "d");
    }
    let mut cluster = three();
    cluster.version = 1000;
    cluster.apply(&MetadataCommand::SetMemberState { node: n(1), state: MemberState::Draining }).unwrap();
    bench.shard.cluster = Some(Arc::new(cluster));
    let closed = |bench: &mut Bench| {
        let closes = bench.others.iter().filter(|effect| matches!(effect, Effect::Close { .. })).count();
        bench.others.clear();
        closes
    };
    bench.wait(Duration::from_secs(2));
    assert_eq!(closed(&mut bench), 0, "it still leads");
    for slot in (0..4).map(SlotId) {
        bench.shard.routes.learn(slot, 99, Some(Place { node: n(2), shard: ShardId(0) }));
    }
    bench.wait(Duration::from_millis(200));
    // Whoever comes now was sent here, and stays.
    bench.connect(9, "late", "d");
    let mut each_second = Vec::new();
    for _ in 0..4 {
        let mut closes = 0;
        for _ in 0..5 {
            bench.wait(Duration::from_millis(200));
            closes += closed(&mut bench);
        }
        each_second.push(closes);
    }
    assert_eq!(each_second.iter().sum::<usize>(), 5, "{each_second:?}");
    assert!(each_second.iter().all(|closes| *closes <= 2), "{each_second:?}");
    assert_eq!(bench.shard.counters().sessions_drained, 5);
}
