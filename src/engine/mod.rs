//! The router: pure, no I/O, no clock, no thread, no global randomness.
pub mod chance;
pub mod channel;
pub mod checkpoint;
pub mod command;
pub mod counters;
pub mod delivery;
pub mod devices;
pub mod effect;
pub mod event;
pub mod home;
pub mod journal;
pub mod raft_group;
pub mod session;
pub mod shard;
pub mod slot;
pub mod slot_table;
