//! Who should hold what, and where a key lives: the plan for 16 384 slots over 100 nodes, the lookup, and a table of what joins and leaves
//! move in clusters of up to 1000 nodes, so that growth past the machines at hand is on paper. The table is written when
//! `PLACEMENT_TABLE` names a file: `PLACEMENT_TABLE=placement.md cargo bench --bench jindou -- placement`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use jindou::engine::metadata::{Cluster, MemberState, SlotRow};
use jindou::engine::placement::{Holding, NodeShape, plan};
use jindou::engine::routes::{Routes, Table};
use jindou::ids::{KeyHash, NodeId, Place, ReplicaId, ShardId, SlotId};

const DEPTH: u8 = 14;
const SHARDS: u16 = 8;
const REPLICAS: u8 = 3;

fn shape(node: u16) -> NodeShape {
    NodeShape { node: NodeId(node), shards: SHARDS, state: MemberState::Serving }
}

fn founded() -> Vec<Holding> {
    let place = |slot: u16| Place { node: NodeId(1), shard: ShardId(slot % SHARDS) };
    (0..1u16 << DEPTH).map(|slot| (SlotId(slot), vec![place(slot)], place(slot))).collect()
}

/// Carries the plan out. Answers how many replicas moved and how long planning took.
fn settle(nodes: &[NodeShape], rows: &mut [Holding]) -> (usize, Duration) {
    let began = Instant::now();
    let plan = plan(nodes, rows, REPLICAS);
    let took = began.elapsed();
    let mut moved = 0;
    for one in plan.moves {
        let row = &mut rows[usize::from(one.slot.0)];
        moved += one.to.iter().filter(|to| !row.1.contains(to)).count();
        row.1 = one.to;
    }
    for (slot, place) in plan.prefer {
        rows[usize::from(slot.0)].2 = place;
    }
    (moved, took)
}

/// Most minus least over nodes: replicas, leaders.
fn imbalance(nodes: &[NodeShape], rows: &[Holding]) -> (usize, usize) {
    let mut counts: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
    for (_, places, preferred) in rows {
        places.iter().for_each(|place| counts.entry(place.node).or_default().0 += 1);
        counts.entry(preferred.node).or_default().1 += 1;
    }
    let serving = nodes.iter().filter(|shape| shape.state == MemberState::Serving);
    let of: Vec<(usize, usize)> = serving.map(|shape| counts.get(&shape.node).copied().unwrap_or_default()).collect();
    let spread = |each: &dyn Fn(&(usize, usize)) -> usize| {
        of.iter().map(each).max().unwrap_or(0) - of.iter().map(each).min().unwrap_or(0)
    };
    (spread(&|one| one.0), spread(&|one| one.1))
}

fn cluster(rows: &[Holding]) -> Cluster {
    let mut number = 1;
    let mut row = |places: &[Place], preferred: Place| {
        let mut replica = |place: &Place| {
            number += 1;
            ReplicaId::new(*place, number)
        };
        let replicas: Vec<ReplicaId> = places.iter().map(&mut replica).collect();
        let led = replicas.iter().find(|replica| replica.place() == preferred);
        let preferred = *led.expect("a plan prefers one of the places");
        SlotRow {
            depth: DEPTH,
            epoch: 1,
            replicas,
            preferred,
            target: None,
            founded: true,
            settling: false,
            reshape: None,
        }
    };
    let rows = rows.iter().map(|(slot, places, preferred)| (*slot, row(places, *preferred))).collect();
    Cluster { version: 1, rows, ..Cluster::default() }
}

/// One line per size: what a join and then a leave move, of what bound, and what the table takes.
fn simulate() -> String {
    let mut out = String::from(
        "| nodes | join moves | bound | leave moves | were there | replicas max - min | leaders max - min | \
         slowest plan ms | table bytes | agreed state bytes |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for size in [1u16, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000] {
        let mut nodes: Vec<NodeShape> = (1..=size).map(shape).collect();
        let mut rows = founded();
        let (_, mut slowest) = settle(&nodes, &mut rows);
        nodes.push(shape(size + 1));
        let (joined, took) = settle(&nodes, &mut rows);
        slowest = slowest.max(took);
        let even = imbalance(&nodes, &rows);
        let wanted = usize::from(REPLICAS).min(nodes.len());
        let bound = (rows.len() * wanted).div_ceil(nodes.len());
        let there = rows.iter().filter(|row| row.1.iter().any(|place| place.node == NodeId(1))).count();
        nodes[0].state = MemberState::Draining;
        let (left, took) = settle(&nodes, &mut rows);
        slowest = slowest.max(took);
        let after = imbalance(&nodes, &rows);
        let cluster = cluster(&rows);
        let bytes = (Table::new(&cluster).memory_bytes(), cluster.encode().len());
        let (replicas, leaders) = (even.0.max(after.0), even.1.max(after.1));
        let slowest = slowest.as_millis();
        writeln!(
            out,
            "| {size} | {joined} | {bound} | {left} | {there} | {replicas} | {leaders} | {slowest} | {} | {} |",
            bytes.0, bytes.1
        )
        .expect("a string takes everything");
    }
    out
}

/// Planning and looking up.
pub fn benches(criterion: &mut Criterion) {
    if let Ok(path) = std::env::var("PLACEMENT_TABLE") {
        std::fs::write(&path, simulate()).expect("PLACEMENT_TABLE names a file that can be written");
    }
    let mut group = criterion.benchmark_group("placement");
    group.sample_size(10);
    let mut nodes: Vec<NodeShape> = (1..=100).map(shape).collect();
    let mut rows = founded();
    group.bench_function("16384 slots, one node to 100", |bencher| {
        bencher.iter(|| plan(black_box(&nodes), black_box(&rows), REPLICAS));
    });
    settle(&nodes, &mut rows);
    group.bench_function("16384 slots, 100 nodes at rest", |bencher| {
        bencher.iter(|| plan(black_box(&nodes), black_box(&rows), REPLICAS));
    });
    nodes.push(shape(101));
    group.bench_function("16384 slots, the 101st node joins", |bencher| {
        bencher.iter(|| plan(black_box(&nodes), black_box(&rows), REPLICAS));
    });
    let cluster = cluster(&rows);
    group.bench_function("table of 16384 slots", |bencher| bencher.iter(|| Table::new(black_box(&cluster))));
    group.throughput(Throughput::Elements(1));
    let routes = Routes::new(Table::new(&cluster).into());
    let mut key = 0u64;
    group.bench_function("slot and leader of a key", |bencher| {
        bencher.iter(|| {
            key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
            routes.guess(routes.slot(KeyHash(black_box(key))))
        });
    });
    group.finish();
}
