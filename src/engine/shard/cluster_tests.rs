//! Leaders that are forgotten, and what waits for them meanwhile.

use std::sync::Arc;

use super::super::tests::Bench;
use super::*;
use crate::engine::event::ApiRequest;
use crate::engine::metadata::{Cluster, MetadataCommand, NewMember};
use crate::format::frame::{Addresses, Ask, Origin, SendBody, Submitted};
use crate::format::packet::{HeaderFlags, Setting};
use crate::ids::{ChannelKey, ReplicaId, SessionId, Uid};

const SLOT: SlotId = SlotId(2);

fn place(node: u16) -> Place {
    Place { node: NodeId(node), shard: ShardId(0) }
}

/// The shard hears that the row has changed, in a cluster that has the nodes 2 and 3 too.
fn adopt(bench: &mut Bench, nodes: &[u16], settling: bool) {
    let mut cluster = Cluster::clone(bench.shard.cluster.as_ref().expect("a node alone has founded"));
    for node in [2, 3] {
        let [tcp, ws, wss, http] = [(); 4].map(|()| "".into());
        let addresses = Addresses { cluster: "127.0.0.1:5300".parse().unwrap(), tcp, ws, wss, http };
        let member = NewMember { node: NodeId(node), identity: u64::from(node), shards: 1, addresses };
        cluster.apply(&MetadataCommand::AddMember(member)).unwrap();
    }
    let row = cluster.rows.get_mut(&SLOT).unwrap();
    row.replicas = nodes.iter().map(|node| ReplicaId::new(place(*node), 20 + u32::from(*node))).collect();
    (row.preferred, row.settling) = (row.replicas[0], settling);
    (cluster.next_replica, cluster.version) = (cluster.next_replica.max(30), cluster.version + 1);
    bench.shard.adopt_cluster(bench.now, Arc::new(cluster));
    said(bench);
}

/// What the shard has said to other nodes.
fn said(bench: &mut Bench) -> Vec<(Place, Frame)> {
    bench.shard.out.flush(&mut 0, &mut Effects::default());
    let said = bench.shard.out.take_remote().into_iter();
    said.flat_map(|(to, frames)| frames.into_iter().map(move |frame| (to, frame))).collect()
}

/// Whom the shard asks who leads when the time has come for it.
fn asked(bench: &mut Bench) -> Vec<Place> {
    bench.shard.check_invariants();
    bench.shard.chase_leaders(bench.now, &mut Effects::default());
    let asks =
        |(to, frame): (Place, Frame)| matches!(frame, Frame::WhoLeads(asked) if asked.slot == SLOT).then_some(to);
    said(bench).into_iter().filter_map(asks).collect()
}

fn learn(bench: &mut Bench, term: u64, node: u16) {
    let known = vec![LeaderOf { slot: SLOT, term, place: Some(place(node)) }];
    let leaders = Leaders { known, relay: false, announced: true };
    bench.shard.handle_leaders(leaders, &mut Effects::default());
}

/// A message comes. Its ticket, and where what the shard sent for it went.
fn submit(bench: &mut Bench) -> Option<(Place, u64)> {
    let uid = Uid::parse("ana").unwrap();
    let submit = Submit {
        place: bench.shard.config.place,
        ticket: 0,
        channel: ChannelKey::command(&uid),
        from: uid.clone(),
        to: uid,
        device_tag: 0,
        fingerprint: 0,
        flags: HeaderFlags(0),
        setting: Setting(0),
        expire_s: 0,
        body: SendBody::new("", "", b"hi"),
    };
    bench.shard.submit(bench.now, Origin::Nobody, SLOT, submit);
    sent(bench).pop()
}

/// Messages that the shard has sent.
fn sent(bench: &mut Bench) -> Vec<(Place, u64)> {
    let ticket = |(to, frame): (Place, Frame)| match frame {
        Frame::Submit(submission) => Some((to, submission.submit.ticket)),
        _ => None,
    };
    said(bench).into_iter().filter_map(ticket).collect()
}

fn answer(bench: &mut Bench, ticket: u64, (term, reason): (u64, Reason)) {
    let submitted = Submitted { ticket, term, message_id: 0, message_seq: 0, reason: reason as u8 };
    bench.shard.handle_frame(bench.now, place(2), Frame::Submitted(submitted), &mut Effects::default());
}

#[test]
fn a_leader_is_looked_for_however_it_was_forgotten() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[2, 3], false);
    learn(&mut bench, 7, 2);
    let (to, first) = submit(&mut bench).expect("its leader is known");
    assert_eq!((to, asked(&mut bench)), (place(2), vec![]));
    // The answer is on its way when the table says that its leader is no replica any more.
    adopt(&mut bench, &[3], false);
    assert_eq!(asked(&mut bench), [place(3)]);
    assert_eq!((submit(&mut bench), asked(&mut bench)), (None, vec![place(3)]), "nor is what comes now forgotten");
    learn(&mut bench, 8, 3);
    let again = sent(&mut bench);
    assert_eq!((again.len(), again[0]), (2, (place(3), first)));
    assert_eq!(asked(&mut bench), []);
}

#[test]
fn what_comes_after_everything_was_answered_looks_for_a_forgotten_leader_too() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[2, 3], false);
    learn(&mut bench, 8, 3);
    let (_, ticket) = submit(&mut bench).expect("its leader is known");
    answer(&mut bench, ticket, (8, Reason::Success));
    // Nothing waits when the leader is forgotten.
    adopt(&mut bench, &[2], false);
    assert_eq!(asked(&mut bench), []);
    assert_eq!(submit(&mut bench), None);
    assert_eq!(asked(&mut bench), [place(2)]);
    learn(&mut bench, 8, 3);
    assert_eq!(sent(&mut bench).len(), 1);
}

#[test]
fn who_says_that_it_does_not_lead_is_asked_about() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[2, 3], false);
    learn(&mut bench, 7, 2);
    let (_, ticket) = submit(&mut bench).unwrap();
    answer(&mut bench, ticket, (6, Reason::NodeNotMatch));
    assert_eq!(asked(&mut bench), [], "that is said of an earlier term");
    answer(&mut bench, ticket, (7, Reason::NodeNotMatch));
    assert_eq!(asked(&mut bench), [place(2), place(3)]);
    learn(&mut bench, 8, 3);
    assert_eq!((sent(&mut bench), asked(&mut bench)), (vec![(place(3), ticket)], vec![]));
}

#[test]
fn a_leader_whose_move_was_given_up_is_known_until_the_row_names_it_again() {
    let mut bench = Bench::new();
    let known = bench.shard.routes.leader(SLOT);
    assert_eq!(known.map(|(_, place)| place), Some(place(1)));
    let replica = bench.shard.hosted[bench.shard.place_of(SLOT).unwrap()].slot.replica();
    adopt(&mut bench, &[2, 3], true);
    assert_eq!(bench.shard.hosted[bench.shard.place_of(SLOT).unwrap()].slot.replica(), replica, "it may have a vote");
    bench.shard.check_invariants();
    bench.shard.tell_leader(SLOT, place(2));
    let (term, here) = known.unwrap();
    let leader = LeaderOf { slot: SLOT, term, place: Some(here) };
    let told = Frame::Leaders(Leaders { known: vec![leader], relay: false, announced: false });
    assert_eq!(said(&mut bench), [(place(2), told)]);
}

#[test]
fn who_is_online_is_not_said_before_a_gateway_whose_link_was_reset_has_spoken() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[1], false);
    let complete = |bench: &Bench| {
        let led = bench.shard.hosted.iter().filter(|hosted| hosted.slot.leads());
        let complete: Vec<bool> = led.map(|hosted| hosted.rollcall.is_complete(bench.now.instant)).collect();
        complete.iter().all(|one| *one) && !complete.is_empty()
    };
    assert!(complete(&bench));
    bench.shard.handle_link_reset(bench.now, place(2), &mut Effects::default());
    assert!(!complete(&bench));
    bench.now.instant = bench.now.instant + bench.shard.config.limits.rollcall_patience;
    assert!(complete(&bench), "nor waited for for ever");
}

#[test]
fn what_was_asked_in_another_term_is_not_carried_out() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[1], false);
    let led = bench.shard.hosted.iter().find_map(|hosted| hosted.slot.led_term().map(|term| (hosted.slot.id(), term)));
    let (slot, term) = led.expect("it leads the others");
    for (asked_in, carried_out) in [(term - 1, false), (term + 1, false), (term, true)] {
        let request = ApiRequest::OnlineStatus { uids: vec![] };
        let ask = Ask { place: place(2), ticket: 5, slot, term: asked_in, request };
        bench.shard.handle_ask(bench.now, ask, &mut Effects::default());
        let told = said(&mut bench);
        let answered = told.iter().find_map(|(_, frame)| match frame {
            Frame::Answered(answered) => Some(answered.answer.is_some()),
            _ => None,
        });
        assert_eq!(answered, Some(carried_out), "{asked_in} of {term}");
        let who_leads = told.iter().any(|(_, frame)| matches!(frame, Frame::Leaders(_)));
        assert_eq!(who_leads, !carried_out, "it is asked again in the right one");
    }
}

#[test]
fn a_gateway_that_was_given_up_by_gossip_is_asked_again_when_its_link_is_back() {
    let mut bench = Bench::new();
    adopt(&mut bench, &[1], false);
    bench.shard.hear_of_node(NodeId(2), false);
    assert!(bench.shard.nodes_down.contains(&NodeId(2)));
    said(&mut bench);
    bench.shard.handle_link_up(bench.now, place(2), false);
    assert!(!bench.shard.nodes_down.contains(&NodeId(2)) && bench.shard.nodes_doubted.contains(&NodeId(2)));
    let asks =
        |(to, frame): &(Place, Frame)| *to == place(2) && matches!(frame, Frame::Leaders(told) if told.announced);
    assert!(said(&mut bench).iter().any(asks), "whoever is connected there is named again");
    bench.shard.check_invariants();
}

#[test]
fn words_of_a_slot_that_was_taken_in_by_its_sibling_are_of_the_past() {
    let mut bench = Bench::new();
    bench.connect(0, "ana", "d");
    let id = SessionId { index: 0, generation: 1 };
    let home = bench.shard.session(id).and_then(|session| session.identity.as_ref()).expect("it is in").slot;
    let (upper, late) = (SlotId(9), 1_000);
    assert!(!bench.shard.is_outdated(id, home, late));
    assert!(!bench.shard.is_outdated(id, upper, late), "it may be about to split off");
    let session = bench.shard.session(id).expect("it is in");
    session.identity.as_deref_mut().expect("it is in").taken_in = Some(upper);
    assert!(bench.shard.is_outdated(id, upper, late) && !bench.shard.is_outdated(id, home, late));
}
