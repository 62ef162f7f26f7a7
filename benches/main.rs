//! Benches of what every message goes through, from its bytes to its place on disk. `cargo bench` measures; `cargo bench --
//! --test` runs each once, as CI does, so that none rots. Kept runs are in `benches/results/`. They time parts; what a
//! whole node does is `loadgen`'s to say.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod frames;
mod journal;
mod links;
mod machines;
mod one_shard;
mod packets;
mod placement;
mod step;
mod three_nodes;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    all,
    packets::benches,
    frames::benches,
    machines::benches,
    placement::benches,
    links::benches,
    journal::benches,
    step::benches,
    three_nodes::benches
);
criterion_main!(all);
