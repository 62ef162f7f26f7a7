//! What the gossip promises, tried in the mini-simulation. The figures of the module's comment come from `figures`.

use std::time::Duration;

use super::mini_simulation::{
    CALM, ROUGH, Weather, World, address, detection_millis, false_alarms, node_id, send_rate,
};
use super::*;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Parts the cluster in halves until each side sees only itself, heals it, and says how long it took until all were up.
fn heal_millis(count: usize, seed: u64, weather: Weather) -> u64 {
    let mut world = World::acquainted(count, seed, weather);
    world.part(count / 2);
    let parted = world.now;
    let side = |index: usize| if index < count / 2 { count / 2 } else { count - count / 2 };
    while (0..count).any(|index| world.up_at(index) != side(index) - 1) {
        assert!(world.now.since(parted) < Duration::from_secs(60), "{count} nodes do not see the cut; seed {seed}");
        world.run(millis(50));
    }
    world.run(Duration::from_secs(5));
    world.cut.clear();
    let healed = world.now;
    while !world.all_up() {
        assert!(world.now.since(healed) < Duration::from_secs(60), "{count} nodes are stuck; seed {seed}");
        world.run(millis(50));
    }
    world.now.since(healed).as_millis() as u64
}

#[test]
#[ignore = "prints figures; minutes"]
fn figures() {
    let mark = |sorted: &[u64], share: usize| sorted[(sorted.len() - 1) * share / 1000];
    for count in [3, 5, 10, 20, 50] {
        let runs = if count > 20 { 30 } else { 200 };
        for (name, weather) in [("calm", CALM), ("rough", ROUGH)] {
            let mut each: Vec<u64> = (0..runs).flat_map(|seed| detection_millis(count, seed, weather)).collect();
            each.sort_unstable();
            println!(
                "{count} nodes {name}: Down at each other after p50 {} p90 {} p99 {} min {} max {} ms, {runs} runs",
                mark(&each, 500),
                mark(&each, 900),
                mark(&each, 990),
                each[0],
                mark(&each, 1000)
            );
        }
        let runs = if count > 10 { 5 } else { 30 };
        let alarms: usize = (0..runs).map(|seed| false_alarms(count, seed, ROUGH, 60)).sum();
        println!("{count} nodes: {alarms} false Downs in {runs} minutes of 5 % loss and 200 ms pauses");
        let mut heals: Vec<u64> =
            (0..if count > 20 { 10 } else { 50 }).map(|seed| heal_millis(count, seed, ROUGH)).collect();
        heals.sort_unstable();
        println!(
            "{count} nodes: heal p50 {} p99 {} max {} ms",
            mark(&heals, 500),
            mark(&heals, 990),
            mark(&heals, 1000)
        );
    }
}

#[test]
#[ignore = "prints bytes per node per second"]
fn bytes_per_node() {
    for count in [3, 10, 50, 100, 200, 400] {
        let (datagrams, bytes) = send_rate(count, 1, None);
        println!("{count} nodes idle: {datagrams:.1} datagrams and {bytes:.0} bytes per node per second");
    }
}

#[test]
#[ignore = "prints bytes per node per second while loads change"]
fn bytes_per_node_while_loads_change() {
    for count in [3, 10, 50, 100, 200, 400] {
        let (datagrams, bytes) = send_rate(count, 1, Some(5));
        println!(
            "{count} nodes, loads change every 5 s: {datagrams:.1} datagrams and {bytes:.0} bytes per node per second"
        );
    }
}

#[test]
fn a_dead_node_is_seen_by_all_in_time() {
    for (count, runs, low, high) in [(3, 40, 900, 2600), (5, 40, 900, 2800), (20, 10, 900, 3600), (50, 3, 1100, 4200)] {
        for seed in 0..runs {
            let millis = detection_millis(count, seed, if seed % 2 == 0 { CALM } else { ROUGH });
            assert!(millis[0] >= low, "{count} nodes, seed {seed}: {millis:?}");
            assert!(millis[millis.len() - 1] <= high, "{count} nodes, seed {seed}: {millis:?}");
        }
    }
}

#[test]
fn loss_and_pauses_raise_no_false_alarm() {
    for (count, seconds) in [(3, 120), (5, 120), (20, 30)] {
        assert_eq!(false_alarms(count, 1, ROUGH, seconds), 0, "{count} nodes");
    }
}

#[test]
fn a_healed_cluster_finds_itself_again() {
    for (count, runs) in [(3, 40), (5, 60), (20, 8), (50, 2)] {
        for seed in 0..runs {
            let millis = heal_millis(count, seed, if seed % 2 == 0 { CALM } else { ROUGH });
            assert!(millis <= 5000, "{count} nodes, seed {seed}: {millis} ms");
        }
    }
}

#[test]
fn a_node_that_starts_again_takes_its_own_place() {
    for (seed, gap) in [(1, 0), (2, 100), (3, 5_000), (4, 20_000)] {
        let mut world = World::acquainted(5, seed, ROUGH);
        world.kill(3);
        world.run(millis(gap));
        world.start(3);
        world.tell_members();
        world.run(Duration::from_secs(4));
        assert!(world.all_up(), "seed {seed}");
        for index in [0, 1, 2, 4] {
            let of_three: Vec<GossipNews> = world
                .news
                .iter()
                .filter(|(_, at, _)| *at == index)
                .map(|(.., news)| *news)
                .filter(|news| matches!(news, GossipNews::Up { node, .. } | GossipNews::Down { node, .. } if *node == node_id(3)))
                .collect();
            let down = GossipNews::Down { node: node_id(3), boot: 1 };
            let up = GossipNews::Up { node: node_id(3), boot: 2, address: address(3) };
            assert_eq!(of_three, [down, up], "at {index}, seed {seed}");
        }
    }
}

#[test]
fn one_direction_cut_between_two_is_helped_around() {
    let mut world = World::acquainted(5, 1, CALM);
    world.cut.insert((0, 1));
    world.cut.insert((2, 3));
    world.run(Duration::from_secs(60));
    let downs = world.news.iter().filter(|(.., news)| matches!(news, GossipNews::Down { .. })).count();
    assert_eq!(downs, 0, "{:?}", world.news);
    assert!(world.all_up());
}

#[test]
fn a_node_that_nobody_hears_comes_back_when_heard() {
    for seed in 0..20 {
        let mut world = World::acquainted(5, seed, CALM);
        world.cut.extend((0..4).map(|other| (4, other)));
        world.run(Duration::from_secs(10));
        for index in 0..4 {
            assert_eq!(world.up_at(index), 3, "at {index}, seed {seed}");
        }
        world.cut.clear();
        world.run(Duration::from_secs(5));
        assert!(world.all_up(), "seed {seed}");
    }
}

#[test]
fn good_bye_is_told_at_once_and_is_not_death() {
    for seed in 0..20 {
        let mut world = World::acquainted(20, seed, ROUGH);
        world.nodes[7].as_mut().expect("it lives").leave();
        world.drain(7);
        assert_eq!(world.nodes[7].as_ref().and_then(Gossip::next_deadline), None);
        let said = world.now;
        world.run(millis(10));
        world.kill(7);
        world.run(Duration::from_secs(10));
        let left = GossipNews::Left { node: node_id(7), boot: 1 };
        let told: Vec<_> = world.news.iter().filter(|(.., news)| *news == left).collect();
        assert_eq!(told.len(), 19, "seed {seed}");
        assert!(told.iter().all(|(at, ..)| at.since(said) < Duration::from_secs(1)), "seed {seed}: {told:?}");
        let down = |news: &GossipNews| matches!(news, GossipNews::Down { .. });
        assert!(!world.news.iter().any(|(.., news)| down(news)), "seed {seed}");
        let view = world.nodes[0].as_ref().map(Gossip::view).unwrap_or_default();
        assert_eq!(view.iter().find(|member| member.node == node_id(7)).map(|it| it.state), Some(MemberState::Left));
    }
}

#[test]
fn loads_reach_everybody_and_the_newest_wins() {
    let mut world = World::acquainted(20, 3, ROUGH);
    for step in 1..=3 {
        world.nodes[5].as_mut().expect("it lives").set_load(step, 10, 100 * step as u32);
        world.run(millis(300));
    }
    world.run(Duration::from_secs(4));
    for index in (0..20).filter(|index| *index != 5) {
        let view = world.nodes[index].as_ref().map(Gossip::view).unwrap_or_default();
        let load = view.iter().find(|member| member.node == node_id(5)).and_then(|member| member.load);
        assert_eq!(load.map(|load| (load.table_version, load.slots_led, load.sessions)), Some((3, 10, 300)), "{index}");
        let told: Vec<u64> = world
            .news
            .iter()
            .filter_map(|(_, at, news)| match news {
                GossipNews::Load { table_version, .. } if *at == index => Some(*table_version),
                _ => None,
            })
            .collect();
        assert!(told.is_sorted() && told.last() == Some(&3), "{index}: {told:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut world = World::acquainted(8, seed, ROUGH);
        world.kill(2);
        world.run(Duration::from_secs(3));
        world.start(2);
        world.part(4);
        world.run(Duration::from_secs(5));
        world.cut.clear();
        world.run(Duration::from_secs(5));
        world.trace
    };
    assert_eq!(history(11), history(11));
    assert_ne!(history(11), history(12));
}

#[test]
fn strangers_and_replays_change_nothing() {
    let mut world = World::acquainted(5, 9, CALM);
    world.tape = Some(Vec::new());
    world.kill(4);
    world.run(Duration::from_secs(6));
    world.start(4);
    world.tell_members();
    world.run(Duration::from_secs(6));
    world.kill(4);
    world.run(Duration::from_secs(6));
    let tape = world.tape.take().unwrap_or_default();
    world.news.clear();
    let before = world.nodes[0].as_ref().map(Gossip::counters).unwrap_or_default();
    for (from, to, bytes) in &tape {
        world.hand_in(*from, *to, bytes);
        world.hand_in(*from, 0, bytes);
        let mut bent = bytes.clone();
        let bit = world.draw(bent.len() as u64 * 8) as usize;
        bent[bit / 8] ^= 1 << (bit % 8);
        world.hand_in(*from, 0, &bent);
        world.hand_in(*from, 0, &bytes[..bit / 8]);
    }
    world.run(Duration::from_secs(6));
    assert_eq!(world.news, [], "nothing comes of it");
    let after = world.nodes[0].as_ref().map(Gossip::counters).unwrap_or_default();
    assert_eq!(after.forged - before.forged, 2 * tape.len() as u64);
    assert!(after.repeated - before.repeated > tape.len() as u64 / 8);
    assert!(world.up_at(0) == 3);
}

#[test]
fn other_secrets_and_other_clusters_are_not_understood() {
    let sealed = |secret: &[u8], cluster: &str| {
        let mut bytes = Vec::new();
        wire::write_envelope(1, &[], &mut bytes);
        let identity = Identity::unknown(NodeId(9), address(9));
        wire::write_identity(&identity, &mut bytes).expect("a vector has room");
        Seal::new(secret, cluster).close(&mut bytes);
        bytes
    };
    let mut world = World::new(1, 1, CALM);
    let now = world.now;
    let gossip = world.nodes[0].as_mut().expect("it lives");
    for (secret, cluster) in [(&b"another"[..], "test"), (b"a secret", "tess"), (b"a secret", "test\0"), (b"", "")] {
        gossip.handle_datagram(now, address(9), &sealed(secret, cluster));
    }
    gossip.handle_datagram(now, address(9), &[0; DATAGRAM_BYTES_MAX + 1]);
    gossip.handle_datagram(now, address(9), b"");
    let counters = gossip.counters();
    assert_eq!((counters.forged, counters.too_long, counters.taken), (5, 1, 0));
    gossip.handle_datagram(now, address(9), &sealed(b"a secret", "test"));
    assert_eq!(gossip.counters().taken, 1);
}

#[test]
fn members_and_wishes_are_bounded() {
    let limits = GossipLimits { members_max: 4, seeds_max: 1, datagrams_max: 5, news_max: 2, timers_max: 16 };
    let config = |here, limits| GossipConfig {
        here: NodeId(here),
        boot: 1,
        address: address(usize::from(here)),
        seeds: vec![address(1)],
        cluster_name: "test".to_owned(),
        secret: Vec::new(),
        limits,
    };
    let mut small = Gossip::new(config(1, limits), Chance::new([1; 32], 0));
    let mut now = Instant(0);
    for here in 2..40 {
        let mut other = Gossip::new(config(here, GossipLimits::PRODUCTION), Chance::new([here as u8; 32], 0));
        other.fire(now);
        let mut wishes = Vec::new();
        other.drain(&mut wishes);
        for wish in wishes {
            if let GossipWish::Datagram { bytes, .. } = wish {
                small.handle_datagram(now, address(usize::from(here)), &bytes);
            }
        }
        now = now + millis(10);
        small.fire(now);
    }
    assert_eq!(small.view().len(), 4);
    let counters = small.counters();
    assert_eq!(counters.full, 34);
    assert!(counters.datagrams_lost > 0 && counters.news_lost == 2, "{counters:?}");
    let mut wishes = Vec::new();
    small.drain(&mut wishes);
    assert_eq!(wishes.len(), 7);
}

#[test]
fn who_is_taken_out_of_the_cluster_is_forgotten() {
    let mut world = World::acquainted(5, 2, CALM);
    let members: Vec<_> = (0..4).map(|index| (node_id(index), address(index))).collect();
    world.nodes.iter_mut().flatten().for_each(|node| node.set_members(&members));
    world.run(Duration::from_secs(2));
    assert_eq!(world.up_at(0), 4, "it still answers");
    world.kill(4);
    world.run(Duration::from_secs(6));
    let view = world.nodes[0].as_ref().map(Gossip::view).unwrap_or_default();
    assert_eq!(view.len(), 3, "{view:?}");
}

#[test]
fn a_node_that_did_not_run_accuses_nobody() {
    for seed in 0..30 {
        let mut world = World::acquainted(3, seed, CALM);
        world.pause(0, Duration::from_secs(1));
        world.run(millis(1100));
        let accused = world.nodes[0].as_ref().map(Gossip::view).unwrap_or_default();
        assert!(accused.iter().all(|member| member.state == MemberState::Up), "seed {seed}: {accused:?}");
        assert!(world.nodes[0].as_ref().is_some_and(|node| node.counters().pauses == 1), "seed {seed}");
    }
}

#[test]
fn idle_traffic_does_not_grow_with_the_cluster() {
    for count in [3, 20, 50] {
        let (datagrams, bytes) = send_rate(count, 1, None);
        println!("{count} nodes idle: {datagrams:.1} datagrams and {bytes:.0} bytes per node per second");
        assert!(datagrams < 10.0 && bytes < 1100.0, "{count} nodes: {datagrams} datagrams, {bytes} bytes");
    }
}
