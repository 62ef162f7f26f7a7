//! What a socket ring is told once and what it reports. Values only.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::file_write::FileWritten;

/// Names one socket of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Dense and small.
    pub index: u32,
    /// Distinguishes successive users of one index.
    pub generation: u32,
}

/// Shape and bounds of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Submission entries. More requests in one turn cost one more system call.
    pub entries: u32,
    /// Completion entries; the kernel keeps what does not fit.
    pub completions: u32,
    /// Shared read buffers, a power of two. When they run out, reads are armed again after the turn returned them.
    pub read_buffers: u16,
    /// Bytes of each.
    pub read_buffer_bytes: u32,
    /// Unsent bytes of one socket. Over it the socket is closed.
    pub outbound_bytes_max: usize,
    /// Unsent bytes of one socket from which it is reported as backlogged.
    pub outbound_high_bytes: usize,
    /// And down to which it is reported as drained.
    pub outbound_low_bytes: usize,
    /// Sockets' generations begin here; the lower 28 bits count.
    pub first_generation: u32,
}

impl RingConfig {
    /// What a shard serves its clients with. Read buffers: 8 KiB takes a burst of 32 SENDs of 128 bytes (about 6 KiB) in one completion; 256 of
    /// them (2 MiB) are far more than one turn reaps, and as they are used in a circle, fewer stay warmer in the cache.
    pub const PRODUCTION: RingConfig = RingConfig {
        entries: 1024,
        completions: 4096,
        read_buffers: 256,
        read_buffer_bytes: 8 * 1024,
        outbound_bytes_max: 1 << 20,
        outbound_high_bytes: 256 * 1024,
        outbound_low_bytes: 64 * 1024,
        first_generation: 0,
    };

    /// What a shard's links run with: few sockets that carry much. 64 read buffers of 32 KiB (2 MiB) bound what one turn
    /// brings. Unsent bytes: the link machine keeps at most 8 MiB that are not acknowledged and 4 MiB that may be lost, and
    /// sends the former again on each new connection; what is above 32 MiB belongs to a link that is of no use any more.
    /// Nobody looks at the marks.
    pub const LINKS: RingConfig = RingConfig {
        entries: 256,
        completions: 1024,
        read_buffers: 64,
        read_buffer_bytes: 32 * 1024,
        outbound_bytes_max: 32 << 20,
        outbound_high_bytes: 32 << 20,
        outbound_low_bytes: 16 << 20,
        first_generation: 0,
    };
}

/// What happened.
#[derive(Debug)]
pub enum RingEvent<'a> {
    /// A listener has a connection. Dropping `fd` closes it; [`super::SocketRing::adopt`] takes it in.
    Accepted {
        /// As [`super::SocketRing::listen`] numbered it.
        listener: u16,
        /// The socket.
        fd: OwnedFd,
        /// Who.
        peer: IpAddr,
    },
    /// A connection that was dialed stands.
    Connected {
        /// Which.
        token: Token,
    },
    /// A watched descriptor can be read; [`super::SocketRing::watch_again`] after that.
    Readable {
        /// As [`super::SocketRing::watch`] numbered it.
        watched: u16,
    },
    /// A [`super::SocketRing::write_file`] was answered.
    FileWritten(FileWritten),
    /// Bytes arrived.
    Received {
        /// From whom.
        token: Token,
        /// What; gone after the call.
        bytes: &'a [u8],
    },
    /// A send was completed.
    Sent {
        /// To whom.
        token: Token,
    },
    /// Unsent bytes passed a mark.
    Backlogged {
        /// Whose.
        token: Token,
        /// True: the high one. False: the low one.
        full: bool,
    },
    /// After [`super::SocketRing::detach`]: the socket is the caller's. The token is void.
    Detached {
        /// Which.
        token: Token,
        /// The socket.
        fd: OwnedFd,
    },
    /// The socket is closed. The token is void.
    Ended {
        /// Which.
        token: Token,
        /// Why.
        why: EndReason,
    },
}

/// Why a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// [`super::SocketRing::close`] was carried out.
    Closed,
    /// The peer closed its side.
    PeerClosed,
    /// The peer reads too slowly: more than `outbound_bytes_max` unsent.
    TooSlow,
    /// The kernel said no, with the errno; `ETIMEDOUT` also when a connect took too long.
    Failed(i32),
}

/// What the ring has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct RingCounters {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub writes: u64,
    pub closed_slow: u64,
    pub read_buffers_exhausted: u64,
}
