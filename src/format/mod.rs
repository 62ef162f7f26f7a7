//! Bytes that leave the process or outlive it. Pure.
pub mod client_pipeline;
pub mod cluster_status;
pub mod frame;
pub mod frame_codec;
mod frame_weight;
pub mod frame_wire;
pub mod link_hello;
pub mod message;
pub mod packet;
pub mod packet_cipher;
pub mod packet_codec;
pub mod pipeline;
pub mod raft_message;
pub mod record;
pub mod request;
pub mod websocket;
pub mod websocket_upgrade;
