//! What the gossip promises, tried in the mini-simulation. The figures of the module's comment come from `figures`.

use std::time::Duration;

use super::mini_simulation::{CALM, ROUGH, World, address, detection_millis, false_alarms, idle_rate, node_id};
use super::*;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn heal_millis(count: usize, seed: u64, weather: Weather) -> u64 {
    let mut world = World::acquainted(count, seed, weather);
    world.part(count / 2);
    world.run(Duration::from_secs(12));
    for index in 0..count {
        let side = if index < count / 2 { count / 2 } else { count - count / 2 };
        assert_eq!(world.up_at(index), side - 1, "node {index} sees its own side only; seed {seed}");
    }
    world.cut.clear();
    let healed = world.now;
    while !world.all_up() {
        assert!(world.now.since(healed) < Duration::from_secs(60), "{count} nodes are stuck; seed {seed}");
        world.run(millis(50));
    }
    world.now.since(healed).as_millis() as u64
}

use super::mini_simulation::Weather;

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
                mark(&each, 500), mark(&each, 900), mark(&each, 990), each[0], mark(&each, 1000)
            );
        }
        let runs = if count > 10 { 5 } else { 30 };
        let alarms: usize = (0..runs).map(|seed| false_alarms(count, seed, ROUGH, 60)).sum();
        println!("{count} nodes: {alarms} false Downs in {runs} minutes of 5 % loss and 200 ms pauses");
        let mut heals: Vec<u64> = (0..if count > 20 { 10 } else { 50 }).map(|seed| heal_millis(count, seed, ROUGH)).collect();
        heals.sort_unstable();
        println!("{count} nodes: heal p50 {} p99 {} max {} ms", mark(&heals, 500), mark(&heals, 990), mark(&heals, 1000));
    }
}

#[test]
#[ignore = "prints bytes per node per second"]
fn bytes_per_node() {
    for count in [3, 5, 10, 20, 50, 100, 200] {
        let (datagrams, bytes) = idle_rate(count, 1);
        println!("{count} nodes idle: {datagrams:.1} datagrams and {bytes:.0} bytes per node per second");
    }
}
