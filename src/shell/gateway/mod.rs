//! (being written)

use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// A client's socket on its way from the shard that accepted it to the shard of its home.
#[derive(Debug)]
pub struct HandOver {
    fd: OwnedFd,
    peer: IpAddr,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// WKProto over TCP.
    Tcp,
    /// WKProto in WebSocket messages.
    WebSocket,
}

/// A socket that is bound (listening or not yet), to be served by one shard. Made with SO_REUSEPORT where several shards
/// serve one address.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// What it speaks.
    pub kind: ListenerKind,
    /// True: no key agreement and no cipher, for trusted networks and for measuring.
    pub plain: bool,
}

/// Bounds of one shard's gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Sockets of this shard. At it: an accepted one is closed at once.
    pub sessions_max: usize,
    /// Sockets of this shard from one address, loopback excepted or not as the configuration says. 0 is no bound.
    pub sessions_per_address_max: u32,
}
