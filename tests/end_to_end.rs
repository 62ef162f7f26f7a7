//! End to end: the real binary, its sockets and its disk, seen from outside by clients that verify. Each test starts a node of
//! its own, or a cluster, on loopback addresses of its own; nothing is shared, everything is bounded in time. What happens inside a node under
//! every fault imaginable is the simulator's part.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

#[path = "end_to_end/api.rs"]
mod api;
#[path = "end_to_end/client.rs"]
mod client;
#[path = "end_to_end/cluster.rs"]
mod cluster;
#[path = "end_to_end/conversations.rs"]
mod conversations;
#[path = "end_to_end/http.rs"]
mod http;
#[path = "end_to_end/instruments.rs"]
mod instruments;
#[path = "end_to_end/misbehaviour.rs"]
mod misbehaviour;
#[path = "end_to_end/node.rs"]
mod node;
#[path = "end_to_end/operations.rs"]
mod operations;
#[path = "end_to_end/plug.rs"]
mod plug;
