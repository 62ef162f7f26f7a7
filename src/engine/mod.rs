//! The router: pure, no I/O, no clock, no thread, no global randomness.
pub mod counters;
pub mod effect;
pub mod event;
pub mod shard;
