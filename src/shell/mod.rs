//! The only folder that touches the kernel: sockets, files, clocks, threads. It carries out what the engine decides.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

pub mod clock;
pub mod cluster_settings;
pub mod data_directory;
mod file_thread;
pub mod gateway;
pub mod gossip_socket;
pub mod http;
pub mod journal_file;
pub mod link_sockets;
pub mod listen;
pub mod machine;
pub mod mesh;
pub mod metronome;
pub mod node;
pub mod probe;
pub mod readiness;
pub mod seed;
pub mod shard_loop;
pub mod socket_ring;
pub mod stages;
#[cfg(test)]
mod test_client;
pub mod turns;
