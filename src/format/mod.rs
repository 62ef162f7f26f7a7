//! Bytes that leave the process or outlive it. Pure.
pub mod frame;
pub mod message;
pub mod packet;
