//! What a ring remembers of one socket, and how a request to the kernel names it. The states are drawn in the ring's head.
//! No system call but the shutdown that wakes what waits in the kernel.

use std::os::fd::OwnedFd;

use super::event::EndReason;

/// Generations have 28 bits in a request's user data.
pub(super) const GENERATION_MASK: u32 = (1 << 28) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    Flushing,
    Lingering,
    Leaving,
    Draining,
}

/// A recv that is wanted, or in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Nothing,
    Once,
    Many,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: Option<OwnedFd>,
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) wanted: Reading,
    pub(super) in_flight: Reading,
    pub(super) cancelling: bool,
    pub(super) sending: bool,
    pub(super) end_of_stream: bool,
    pub(super) full: bool,
    /// Listed in `SocketRing::attention`.
    pub(super) attention: bool,
    pub(super) sweeps_left: u8,
    pub(super) why: EndReason,
    /// Where to, as long as the kernel has not answered the connect.
    pub(super) dialed: Option<Box<socket2::SockAddr>>,
    pub(super) sent: u32,
    pub(super) flight: Vec<u8>,
    pub(super) queue: Vec<u8>,
}

impl Socket {
    pub(super) fn vacant(generation: u32) -> Socket {
        Socket {
            fd: None,
            generation,
            phase: Phase::Draining,
            wanted: Reading::Nothing,
            in_flight: Reading::Nothing,
            cancelling: false,
            sending: false,
            end_of_stream: false,
            full: false,
            attention: false,
            sweeps_left: 0,
            why: EndReason::Closed,
            dialed: None,
            sent: 0,
            flight: Vec::new(),
            queue: Vec::new(),
        }
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.flight.len() - self.sent as usize + self.queue.len()
    }

    pub(super) fn drain(&mut self, why: EndReason) {
        if self.phase != Phase::Draining {
            self.phase = Phase::Draining;
            self.why = why;
            // A connect under way is cancelled instead: the kernel may take a shutdown for a reason to begin anew.
            if let Some(fd) = self.fd.as_ref().filter(|_| self.dialed.is_none()) {
                // Wakes a recv and a send that wait in the kernel, so no cancel is needed. An error means that the
                // connection is gone already.
                let _ = socket2::SockRef::from(fd).shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Accept,
    Recv,
    Send,
    Cancel,
    Timer,
    Connect,
    Watch,
    FileWrite,
    Doorbell,
}

pub(super) fn user_data(request: Request, generation: u32, index: u32) -> u64 {
    ((request as u64) << 60) | (u64::from(generation & GENERATION_MASK) << 32) | u64::from(index)
}

pub(super) fn request_of(user_data: u64) -> (Request, u32, u32) {
    let request = match user_data >> 60 {
        0 => Request::Accept,
        1 => Request::Recv,
        2 => Request::Send,
        3 => Request::Cancel,
        4 => Request::Timer,
        5 => Request::Connect,
        6 => Request::Watch,
        7 => Request::FileWrite,
        _ => Request::Doorbell,
    };
    (request, (user_data >> 32) as u32 & GENERATION_MASK, user_data as u32)
}
