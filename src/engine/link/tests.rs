//! Links against a network that does its worst.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::network::{Network, config, frame, place};
use super::{LinkFault, LinkLimits, LinkNews, LinkState, LinkWish, Links, RefusedWhy};
use crate::engine::chance::Chance;
use crate::format::link_hello::{LINK_VERSION, LinkFacts, encode_hello, shown_version};
use crate::ids::LinkConn;
use crate::time::Instant;

const TINY: LinkLimits = LinkLimits::TINY;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn ups(network: &Network, end: usize) -> usize {
    network.count(end, |news| matches!(news, LinkNews::Up { .. }))
}

fn resets(network: &Network, end: usize) -> usize {
    network.count(end, |news| matches!(news, LinkNews::Reset { .. }))
}

fn refusals(network: &Network, end: usize) -> Vec<(RefusedWhy, bool)> {
    let refused = network.ends[end].news.iter().filter_map(|news| match news {
        LinkNews::Refused { why, ours, .. } => Some((*why, *ours)),
        _ => None,
    });
    refused.collect()
}

/// Sends both ways and sees that it arrives.
fn talk(network: &mut Network) {
    let ends = network.ends.len();
    for (from, to) in (0..ends).flat_map(|a| (0..ends).map(move |b| (a, b))) {
        if from != to {
            assert!(network.send(from, to, 3, 20));
        }
    }
    network.run(millis(100));
    network.assert_all_arrived();
}

#[test]
fn frames_go_both_ways_over_one_socket_and_are_acknowledged() {
    let mut network = Network::members(1, 2, LinkLimits::PRODUCTION);
    assert!(network.send(0, 1, 500, 1000));
    network.run(millis(50));
    assert!(network.send(1, 0, 100, 10));
    network.run(millis(50));
    network.assert_all_arrived();
    assert_eq!((network.wires(), ups(&network, 0), ups(&network, 1)), (1, 1, 1));
    for end in 0..2 {
        let row = network.ends[end].links.rows()[0];
        assert_eq!((row.state, row.unacknowledged_bytes, row.member), (LinkState::Up, 0, true));
        assert!(row.round_trip.is_none_or(|trip| trip < millis(10)), "{row:?}");
    }
    assert!(network.ends[0].links.rows()[0].round_trip.is_some());
}

#[test]
fn an_idle_link_lives_and_a_silent_one_is_replaced() {
    let mut network = Network::members(2, 2, TINY);
    talk(&mut network);
    let wires = network.wires();
    network.run(Duration::from_secs(60));
    assert_eq!((network.wires(), network.open_wires()), (wires, 1));
    network.hold(wires - 1, 0, Duration::from_secs(1000));
    network.run(Duration::from_secs(10));
    assert!(network.ends[1].links.counters().silent + network.ends[0].links.counters().silent > 0);
    assert_eq!(network.open_wires(), 1);
    assert_eq!(resets(&network, 0) + resets(&network, 1), 0);
    talk(&mut network);
}

#[test]
fn who_lives_is_heard_all_the_time_and_who_is_cut_off_is_not() {
    let mut network = Network::members(2, 2, TINY);
    talk(&mut network);
    let hears = |network: &Network, end: usize| network.ends[end].links.hears(place(2 - end as u16).node);
    for _ in 0..40 {
        network.run(millis(250));
        assert!(hears(&network, 0) && hears(&network, 1), "nothing to say is said once a second");
    }
    let wire = network.wires() - 1;
    (0..2).for_each(|side| network.hold(wire, side, Duration::from_secs(1000)));
    network.run(millis(2_800));
    assert!(!hears(&network, 0) && !hears(&network, 1), "silence is noticed before the socket is given up");
    assert_eq!(network.open_wires(), 1);
}

#[test]
fn simultaneous_dials_come_to_one_link() {
    for seed in 0..300 {
        let mut network = Network::members(seed, 3, TINY);
        talk(&mut network);
        network.run(millis(2000));
        assert_eq!(network.open_wires(), 3, "seed {seed}");
        assert_eq!((0..3).map(|end| resets(&network, end)).sum::<usize>(), 0, "seed {seed}");
        assert!((0..3).all(|end| ups(&network, end) == 2), "seed {seed}: nobody goes up twice");
        assert!((0..3).all(|end| refusals(&network, end).is_empty()), "seed {seed}");
    }
}

#[test]
fn a_lost_socket_loses_nothing_at_any_byte() {
    for seed in 0..200 {
        let mut network = Network::members(seed, 2, TINY);
        for round in 0..10 {
            network.send(0, 1, 1 + round % 3, 50);
            network.send(1, 0, 1, 400);
            let span = Duration::from_micros(network.chance.between(0, 3000));
            network.run(span);
            for wire in 0..network.wires() {
                network.cut(wire);
            }
        }
        network.run(Duration::from_secs(3));
        network.assert_all_arrived();
        assert_eq!(resets(&network, 0) + resets(&network, 1), 0, "seed {seed}");
    }
}

#[test]
fn a_restart_resets_the_other_end() {
    let mut network = Network::members(4, 2, TINY);
    talk(&mut network);
    network.restart(1);
    network.run(Duration::from_secs(3));
    assert_eq!((resets(&network, 0), resets(&network, 1)), (1, 0));
    let fresh = |news: &LinkNews| matches!(news, LinkNews::Up { fresh: true, .. });
    assert_eq!((network.count(0, fresh), network.count(1, fresh)), (2, 2));
    talk(&mut network);
}

#[test]
fn overflow_resets_both_ends() {
    let mut network = Network::members(5, 2, TINY);
    talk(&mut network);
    for side in 0..2 {
        network.hold(network.wires() - 1, side, Duration::from_secs(1));
    }
    while network.send(0, 1, 3, 300) {}
    assert_eq!(resets(&network, 0), 1);
    network.run(Duration::from_secs(5));
    assert_eq!((resets(&network, 0), resets(&network, 1)), (1, 1));
    assert_eq!(network.ends[0].links.counters().overflows, 1);
    talk(&mut network);
}

#[test]
fn a_changed_address_is_dialed() {
    let mut network = Network::members(6, 2, TINY);
    let old = network.ends[1].address;
    network.ends[1].address = SocketAddr::from(([127, 0, 0, 9], 7));
    network.send(0, 1, 1, 1);
    network.run(Duration::from_secs(5));
    assert_eq!(ups(&network, 0), 0, "nobody lives at {old}");
    network.introduce();
    network.run(millis(100));
    assert_eq!((ups(&network, 0), resets(&network, 0)), (1, 0));
    network.assert_all_arrived();
}

#[test]
fn a_seed_is_dialed_by_address_and_stays_a_newcomer() {
    let mut network = Network::members(7, 2, TINY);
    network.ends[1].links.set_nodes(&[]);
    network.ends[0].links.set_nodes(&[]);
    let (now, own, seed) = (network.now, network.ends[1].address, network.ends[0].address);
    network.ends[1].links.dial_address(now, seed);
    network.ends[1].links.dial_address(now, own);
    network.step(1);
    network.run(millis(100));
    assert!(network.send(1, 0, 2, 5) && network.send(0, 1, 2, 5));
    network.run(millis(100));
    network.assert_all_arrived();
    for end in 0..2 {
        assert_eq!(network.count(end, |news| matches!(news, LinkNews::Frames { member: false, .. })), 1);
        assert_eq!(refusals(&network, end), [], "to dial oneself is no fault");
    }
    // A second time there is nothing to do.
    network.ends[1].links.dial_address(network.now, seed);
    network.step(1);
    network.run(millis(100));
    assert_eq!((network.open_wires(), ups(&network, 1)), (1, 1));
    network.introduce();
    talk(&mut network);
    let member = |news: &LinkNews| matches!(news, LinkNews::Frames { member: true, .. });
    assert!(network.count(0, member) > 0, "it has joined, on the same link");
    assert_eq!(resets(&network, 0) + resets(&network, 1), 0);
}

#[test]
fn what_a_newcomer_said_too_early_resets_its_link_when_it_is_a_member() {
    let mut network = Network::members(7, 2, TINY);
    network.ends[0].links.set_nodes(&[]);
    network.step(0);
    assert!(network.send(1, 0, 2, 5));
    network.run(millis(500));
    assert_eq!(network.count(0, |news| matches!(news, LinkNews::Frames { member: false, .. })), 1);
    network.ends[0].links.note_unwelcome(place(2));
    let before = resets(&network, 0) + resets(&network, 1);
    network.introduce();
    network.run(Duration::from_secs(2));
    assert_eq!(resets(&network, 0) + resets(&network, 1), before + 2, "both ends say again what matters");
    network.introduce();
    network.run(Duration::from_secs(2));
    assert_eq!(resets(&network, 0) + resets(&network, 1), before + 2, "once");
    // In one turn it was heard, and became a member before that was noted.
    network.ends[0].links.note_unwelcome(place(2));
    network.run(Duration::from_secs(2));
    assert_eq!(resets(&network, 0) + resets(&network, 1), before + 4, "at once");
}

#[test]
fn a_node_that_is_gone_is_forgotten() {
    let mut network = Network::members(8, 2, TINY);
    talk(&mut network);
    network.ends[0].links.set_nodes(&[]);
    network.step(0);
    assert!(network.ends[0].links.rows().is_empty());
    assert_eq!(resets(&network, 0), 1);
    assert_eq!(network.ends[0].links.send(place(2), vec![frame(0, 0, 0, false)]), Err(LinkFault::NoSuchPlace));
    network.run(Duration::from_secs(2));
    let row = network.ends[0].links.rows()[0];
    assert!(!row.member, "the other still dials, as a newcomer");
}

/// Two ends of which the second is set up by `change`; what both say of it.
fn refused(change: impl Fn(&mut super::LinksConfig)) -> [Vec<(RefusedWhy, bool)>; 2] {
    let mut second = config(2, TINY);
    change(&mut second);
    let mut network = Network::new(9, vec![config(1, TINY), second]);
    network.ends[0].links.set_cluster_id(5);
    let (now, to) = (network.now, network.ends[0].address);
    network.ends[1].links.dial_address(now, to);
    network.step(1);
    network.run(millis(100));
    assert_eq!(network.open_wires(), 0);
    assert!(network.ends.iter().all(|end| end.links.rows().is_empty()), "nothing is kept of it");
    [refusals(&network, 0), refusals(&network, 1)]
}

#[test]
fn wrong_ones_are_refused_and_both_ends_say_so() {
    let both = |why: RefusedWhy, first: bool| [vec![(why, first)], vec![(why, !first)]];
    assert_eq!(refused(|second| second.cluster_name = "other".into()), both(RefusedWhy::ClusterName, true));
    assert_eq!(refused(|second| second.secret = "b".into()), both(RefusedWhy::Secret, false));
    assert_eq!(refused(|second| second.here = place(1)), both(RefusedWhy::DoubleId, true));
}

/// What an end has told of refusals, as people read it.
fn told(news: &[LinkNews]) -> Vec<String> {
    let lines = news.iter().filter_map(|news| match news {
        LinkNews::Refused { who, ours, text, .. } => {
            Some(format!("{who}, {}: {text}", if *ours { "we" } else { "they" }))
        }
        _ => None,
    });
    lines.collect()
}

#[test]
fn a_refusal_names_who_is_refused_and_from_where() {
    let mut second = config(2, TINY);
    second.cluster_name = "other".into();
    let mut network = Network::new(9, vec![config(1, TINY), second]);
    let (now, to) = (network.now, network.ends[0].address);
    network.ends[1].links.dial_address(now, to);
    network.step(1);
    network.run(millis(100));
    let names = "the two nodes are configured for clusters of different names: \
                 node 1 says \"test\", node 2 says \"other\"";
    let from = network.ends[1].address.ip();
    assert_eq!(told(&network.ends[0].news), [format!("node 2 at {from}, we: {names}")]);
    assert_eq!(told(&network.ends[1].news), [format!("whoever is at {to}, they: {names}")]);
}

/// The version in the header of a message.
fn of_version(mut message: Vec<u8>, version: u16) -> Bytes {
    message[4..6].copy_from_slice(&version.to_le_bytes());
    Bytes::from(message)
}

/// What a step of one end has written.
fn written(links: &mut Links) -> Vec<u8> {
    let mut wishes = Vec::new();
    links.flush(Instant(9), &mut wishes);
    links.check_invariants();
    let mut writes = wishes.into_iter().filter_map(|wish| match wish {
        LinkWish::Write { bytes, .. } => Some(bytes),
        _ => None,
    });
    writes.next().expect("it has something to say")
}

#[test]
fn another_version_is_refused_and_both_ends_name_both_versions() {
    let [mut older, mut newer] = [1, 2].map(|node| Links::new(config(node, TINY), Chance::new([node as u8; 32], 0)));
    let (dialed, accepted) = (LinkConn::dialed(1), LinkConn::accepted(1));
    let address: SocketAddr = "192.0.2.2:5300".parse().unwrap();
    older.dial_address(Instant(9), address);
    older.handle_dialed(Instant(9), dialed, true);
    let hello = of_version(written(&mut older), (3 << 8) | 7);
    newer.handle_accepted(Instant(9), accepted, "192.0.2.1:4711".parse().ok());
    newer.handle_bytes(Instant(9), accepted, hello);
    let refusal = of_version(written(&mut newer), (9 << 8) | 9);
    older.handle_bytes(Instant(9), dialed, refusal);
    let ours = shown_version(LINK_VERSION);
    let words = format!(
        "the two nodes speak different versions of the link protocol: \
         node 2 (jindou {}) speaks {ours}, the other one 3.7",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(told(&newer.take_news()), [format!("whoever is at 192.0.2.1, we: {words}")]);
    assert_eq!(told(&older.take_news()), [format!("whoever is at {address}, they: {words}")]);
    assert!(newer.rows().is_empty() && older.rows().is_empty(), "nothing is kept of it");
    assert_eq!((newer.counters().refused, older.counters().refused_by_others), (1, 1));
}

#[test]
fn another_cluster_id_and_another_place_are_refused() {
    let mut network = Network::members(10, 2, TINY);
    network.ends[0].links.set_cluster_id(5);
    network.ends[1].links.set_cluster_id(6);
    network.send(0, 1, 1, 1);
    network.run(millis(15));
    assert_eq!(refusals(&network, 0), [(RefusedWhy::ClusterId, false)]);
    assert_eq!(refusals(&network, 1), [(RefusedWhy::ClusterId, true)]);
    network.run(Duration::from_secs(30));
    assert_eq!(refusals(&network, 0).len(), 1, "told once a minute");
    assert!((20..60).contains(&network.ends[0].links.counters().dials), "and dialed about once a second");
    network.ends[1].links.set_cluster_id(5);
    network.run(Duration::from_secs(2));
    network.assert_all_arrived();

    let mut network = Network::members(11, 3, TINY);
    let rows = [(place(2).node, 1002, network.ends[2].address, 1)];
    network.ends[0].links.set_nodes(&rows);
    network.send(0, 1, 1, 1);
    network.run(millis(15));
    assert_eq!(refusals(&network, 0), [(RefusedWhy::WrongTarget, false)]);
}

#[test]
fn a_copied_data_directory_is_refused_while_the_other_lives() {
    let mut copy = config(2, TINY);
    copy.boot = 77;
    let mut network = Network::new(12, vec![config(1, TINY), config(2, TINY), copy]);
    for end in 0..2 {
        let rows = [0, 1].map(|end| (place(end as u16 + 1).node, 1001 + end as u64, network.ends[end].address, 1));
        network.ends[end].links.set_nodes(&rows);
    }
    network.send(1, 0, 1, 1);
    network.run(millis(50));
    let (now, to) = (network.now, network.ends[0].address);
    network.ends[2].links.dial_address(now, to);
    network.step(2);
    network.run(millis(50));
    assert_eq!(refusals(&network, 0), [(RefusedWhy::DoubleId, true)]);
    assert_eq!(refusals(&network, 2), [(RefusedWhy::DoubleId, false)]);
    assert_eq!((ups(&network, 2), resets(&network, 0), resets(&network, 1)), (0, 0, 0), "nobody else notices");
}

#[test]
fn a_member_drives_out_a_newcomer_with_its_number() {
    let mut wrong = config(2, TINY);
    wrong.identity = 666;
    wrong.boot = 5;
    let mut network = Network::new(13, vec![config(1, TINY), config(2, TINY), wrong]);
    let rows = [0, 1].map(|end| (place(end as u16 + 1).node, 1001 + end as u64, network.ends[end].address, 1));
    network.ends[0].links.set_nodes(&rows);
    let (now, to) = (network.now, network.ends[0].address);
    network.ends[2].links.dial_address(now, to);
    network.step(2);
    network.run(millis(20));
    assert_eq!(network.count(0, |news| matches!(news, LinkNews::Up { member: false, identity: 666, .. })), 1);
    network.ends[1].links.dial_address(network.now, to);
    network.step(1);
    network.run(millis(20));
    assert_eq!(network.count(0, |news| matches!(news, LinkNews::Up { member: true, identity: 1002, .. })), 1);
    network.ends[2].links.dial_address(network.now, to);
    network.step(2);
    network.run(millis(20));
    assert_eq!(refusals(&network, 2), [(RefusedWhy::DoubleId, false)]);
}

#[test]
fn lossy_frames_stop_at_their_limit_and_go_on_when_they_arrive() {
    let mut network = Network::members(14, 2, TINY);
    network.send_lossy(0, 1, 10);
    network.run(millis(50));
    let first = (network.lossy_from(1, 0), network.ends[0].links.counters().lossy_dropped);
    assert_eq!(first, (1, 0), "it waits for the first socket");
    for _ in 0..200 {
        network.send_lossy(0, 1, 100);
        network.run(millis(1));
    }
    network.run(millis(10));
    assert_eq!((network.lossy_from(1, 0), network.ends[0].links.counters().lossy_dropped), (201, 0));
    network.hold(network.wires() - 1, 0, Duration::from_secs(1));
    for _ in 0..200 {
        network.send_lossy(0, 1, 100);
    }
    assert!(network.ends[0].links.counters().lossy_dropped > 100, "the socket is stuck");
    network.run(Duration::from_secs(2));
    network.send_lossy(0, 1, 100);
    network.run(millis(10));
    let arrived = network.lossy_from(1, 0) as u64;
    assert_eq!(arrived + network.ends[0].links.counters().lossy_dropped, 402);
}

#[test]
fn strangers_are_bounded_and_change_nothing() {
    let mut links = Links::new(config(1, TINY), Chance::new([3; 32], 0));
    let mut wishes = Vec::new();
    let facts = LinkFacts {
        cluster_name: "test".into(),
        cluster_id: 0,
        place: place(2),
        identity: 1002,
        boot: 1,
        wanted: Some(place(1)),
        nonce: [0; 16],
    };
    for count in 0..6 {
        links.handle_accepted(Instant(5), LinkConn::accepted(count), None);
        links.handle_bytes(Instant(5), LinkConn::accepted(count), Bytes::from(encode_hello(&facts)));
        links.check_invariants();
    }
    links.flush(Instant(5), &mut wishes);
    let welcomes = wishes.iter().filter(|wish| matches!(wish, LinkWish::Write { .. })).count();
    assert_eq!((welcomes, links.counters().handshakes_over_limit), (4, 2));
    assert!(links.rows().is_empty() && links.take_news().is_empty());
    wishes.clear();
    links.flush(Instant(5) + TINY.handshake_timeout, &mut wishes);
    let timed_out = links.counters().timed_out;
    assert_eq!((wishes.len(), timed_out, links.next_deadline()), (4, 4, None), "all are hung up");
    let mut chance = Chance::new([4; 32], 0);
    for count in 10..2000 {
        let conn = LinkConn::accepted(count);
        links.handle_accepted(Instant(9), conn, None);
        let mut bytes = encode_hello(&facts);
        for _ in 0..chance.between(1, 9) {
            let at = chance.between(0, bytes.len() as u64) as usize;
            bytes[at] = chance.number() as u8;
        }
        links.handle_bytes(Instant(9), conn, Bytes::from(bytes));
        links.handle_closed(Instant(9), conn);
        links.flush(Instant(9), &mut wishes);
        links.check_invariants();
    }
    assert!(links.rows().is_empty() && links.take_news().len() <= 64);
}

/// One schedule of everything at once, then peace.
fn storm(seed: u64) -> Vec<super::LinkCounters> {
    let mut network = Network::members(seed, 2 + (seed % 2) as u16, TINY);
    let ends = network.ends.len() as u64;
    network.bend_one_in = if seed.is_multiple_of(3) { 300 } else { 0 };
    for _ in 0..250 {
        let from = network.chance.between(0, ends) as usize;
        let to = (from + network.chance.between(1, ends) as usize) % ends as usize;
        let size = network.chance.between(0, 500) as usize;
        let wire = |network: &mut Network| match network.wires() as u64 {
            0 => None,
            wires => Some(network.chance.between(wires.saturating_sub(4), wires) as usize),
        };
        match network.chance.between(0, 100) {
            0..60 => {
                let count = network.chance.between(1, 8) as u32;
                network.send(from, to, count, size);
            }
            60..75 => network.send_lossy(from, to, size),
            75..88 => {
                if let Some(wire) = wire(&mut network) {
                    network.cut(wire);
                }
            }
            88..95 => {
                let (side, span) = (network.chance.between(0, 2) as usize, network.chance.between(1, 5000));
                if let Some(wire) = wire(&mut network) {
                    network.hold(wire, side, millis(span));
                }
            }
            95..97 => network.restart(from),
            97..98 => {
                let port = network.chance.between(2000, 60_000) as u16;
                network.ends[from].address.set_port(port);
                network.introduce();
            }
            _ => network.run(millis(2500)),
        }
        let span = [10, 300, 3000, 60_000][network.chance.between(0, 4) as usize];
        let span = Duration::from_micros(network.chance.between(0, span));
        network.run(span);
    }
    network.bend_one_in = 0;
    network.run(Duration::from_secs(20));
    network.assert_all_arrived();
    let quiet: Vec<usize> = (0..network.ends.len()).map(|end| resets(&network, end)).collect();
    talk(&mut network);
    network.run(Duration::from_secs(20));
    let still: Vec<usize> = (0..network.ends.len()).map(|end| resets(&network, end)).collect();
    assert_eq!(quiet, still, "seed {seed}: no reset without a cause");
    network.ends.iter().map(|end| end.links.counters()).collect()
}

#[test]
fn storms_break_no_promise() {
    let seeds = 0..300;
    let counters: Vec<_> = seeds.flat_map(storm).collect();
    let sum = |count: fn(&super::LinkCounters) -> u64| counters.iter().map(count).sum::<u64>();
    // Weather worth the name: everything that can go wrong did.
    assert!(sum(|counters| counters.frames_resent) > 100);
    assert!(sum(|counters| counters.overflows) > 10);
    assert!(sum(|counters| counters.resets) > 100);
    assert!(sum(|counters| counters.broken) > 10);
    assert!(sum(|counters| counters.silent) > 10);
    assert!(sum(|counters| counters.lossy_dropped) > 10);
}
