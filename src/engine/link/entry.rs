//! One link and one socket, as values: what is known of each, and when each wants to be looked at again. What happens to
//! them is decided in [`super`] and in [`super::handshake`].

use super::gather::Gather;
use super::window::{FRAME_WEIGHT_MAX, Window};
use super::{LinkLimits, LinkState};
use crate::format::frame::Frame;
use crate::format::link_hello::{LinkFacts, LinkProof, LinkResume};
use crate::ids::{LinkConn, Place};
use crate::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// How far a socket has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Asked for, not there yet.
    Dialing,
    /// Our Hello is out.
    Hello { hello: Vec<u8> },
    /// Their Welcome is right and our Proof is out. The first batch tells that they took it.
    Proved { facts: Box<LinkFacts>, proof: LinkProof, received: u64 },
    /// Accepted, nothing is known.
    Silent,
    /// Accepted, our Welcome is out; the Proof must go on from what it offered.
    Welcomed { hello: Vec<u8>, welcome: Vec<u8>, facts: Box<LinkFacts>, offered: LinkResume },
    /// The link's socket.
    Up,
}

/// One socket, or the wish for one.
#[derive(Debug)]
pub(super) struct Connection {
    pub stage: Stage,
    /// Whose it is. `None` while only an address is known, or nothing.
    pub link: Option<Place>,
    /// What was dialed.
    pub address: Option<SocketAddr>,
    /// From where it was accepted.
    pub from: Option<SocketAddr>,
    /// The handshake's end, unless it has come to one.
    pub deadline: Option<Instant>,
    pub gather: Gather,
}

/// What has arrived and is not acknowledged.
#[derive(Debug, Default)]
pub(super) struct AckDue {
    pub frames: usize,
    pub bytes: usize,
    pub since: Option<Instant>,
    /// Without waiting: the other end is waiting for it or has lost one.
    pub now: bool,
}

impl AckDue {
    pub fn is_due(&self, now: Instant, limits: &LinkLimits) -> bool {
        self.now
            || self.frames >= limits.ack_after_frames
            || self.bytes >= limits.ack_after_bytes
            || self.since.is_some_and(|since| since + limits.ack_after <= now)
    }
}

/// Frames that may be lost. What the socket has swallowed is known by the marks that were acknowledged behind it.
#[derive(Debug, Default)]
pub(super) struct Lossy {
    pub pending: Vec<Frame>,
    pub pending_weight: usize,
    /// Bytes given to this socket since it is up.
    pub written: u64,
    /// Of those, before the last numbered batch.
    pub marked: u64,
    /// Of those, known to have arrived.
    pub arrived: u64,
}

impl Lossy {
    pub fn under_way(&self) -> usize {
        self.pending_weight + (self.written - self.arrived) as usize
    }

    /// Whether a frame of this weight may be added.
    pub fn takes(&self, weight: usize, limit: usize) -> bool {
        let under_way = self.under_way();
        weight <= FRAME_WEIGHT_MAX && (under_way + weight <= limit || under_way <= limit / 2)
    }
}

/// Everything about one pair of shards.
#[derive(Debug)]
pub(super) struct Link {
    pub state: LinkState,
    pub since: Instant,
    /// Its socket, or the one that is being made.
    pub conn: Option<LinkConn>,
    /// Dials since it was last up for a while.
    pub attempts: u32,
    /// When to dial, while waiting.
    pub dial_at: Instant,
    /// Of the peer's data directory and process, once known.
    pub identity: u64,
    pub boot: u64,
    /// Names the present run of reliable frames; 0: none.
    pub epoch: u64,
    /// The run has begun here. Before, it is what we proposed as a dialer, and perhaps the peer never heard of it.
    pub adopted: bool,
    pub window: Window,
    /// Last reliable batch that arrived in this run.
    pub received: u64,
    pub ack: AckDue,
    pub lossy: Lossy,
    /// Frames of it were not taken, because it was no member yet.
    pub unwelcome: bool,
    /// Last bytes from and to the peer.
    pub heard: Instant,
    pub wrote: Instant,
    pub round_trip: Option<Duration>,
    /// The beginning of a batch has come and its end has not.
    pub cut_since: Option<Instant>,
    /// It is in the list of links to look at.
    pub dirty: bool,
    /// It is in the timers under this time.
    pub timer: Option<Instant>,
}

impl Link {
    pub fn new(now: Instant, limits: &LinkLimits) -> Link {
        Link {
            state: LinkState::Waiting,
            since: now,
            conn: None,
            attempts: 0,
            dial_at: now,
            identity: 0,
            boot: 0,
            epoch: 0,
            adopted: false,
            window: Window::new(limits.window_bytes, limits.batch_bytes),
            received: 0,
            unwelcome: false,
            ack: AckDue::default(),
            lossy: Lossy::default(),
            heard: now,
            wrote: now,
            round_trip: None,
            cut_since: None,
            dirty: false,
            timer: None,
        }
    }

    /// When it wants to be looked at again. A dial ends by its own deadline.
    pub fn deadline(&self, limits: &LinkLimits) -> Option<Instant> {
        match self.state {
            LinkState::Waiting => Some(self.dial_at),
            LinkState::Dialing => None,
            LinkState::Up => {
                let mut kept = (self.wrote + limits.silent_after).min(self.heard + limits.dead_after);
                kept = self.cut_since.map_or(kept, |since| kept.min(since + limits.batch_timeout));
                Some(self.ack.since.map_or(kept, |since| kept.min(since + limits.ack_after)))
            }
        }
    }

    /// What is given to it goes out now, or with the first socket: nobody knows yet whether that can be made. Whoever was not reached
    /// gets nothing that may be lost until there is a socket.
    pub fn may_bring(&self) -> bool {
        self.state == LinkState::Up || self.attempts == 0
    }

    /// Nothing comes any more, or nothing that comes to an end.
    pub fn is_dead(&self, now: Instant, limits: &LinkLimits) -> bool {
        let cut = self.cut_since.is_some_and(|since| now.since(since) >= limits.batch_timeout);
        cut || now.since(self.heard) >= limits.dead_after
    }

    /// No run of reliable frames holds any more, and nothing waits.
    pub fn forget(&mut self) {
        self.window.reset();
        self.epoch = 0;
        self.adopted = false;
        self.received = 0;
        self.ack = AckDue::default();
        self.lossy = Lossy::default();
        self.unwelcome = false;
    }

    /// Something of the past or the future would be lost by forgetting.
    pub fn holds_state(&self) -> bool {
        self.adopted || !self.window.is_empty()
    }

    pub fn enter(&mut self, state: LinkState, now: Instant) {
        self.state = state;
        self.since = now;
    }
}
