//! What a run is, in full, for all of its threads; and the few numbers through which they talk to the one that leads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::conversations::Conversations;
use crate::figures::{Figures, Intervals};
use crate::schedule::{Mode, Schedule, Spacing};
use crate::sizes::Sizes;
use crate::spread::Placed;
use crate::target::Target;

/// Sessions that leave and come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// So many leave per second.
    pub per_second: f64,
    /// So long they are away.
    pub away: Duration,
}

/// Sessions that leave all at once and come back at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storm {
    /// When, from the beginning.
    pub at: Duration,
    /// How many.
    pub sessions: usize,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The server.
    pub target: Target,
    /// All users; those behind `present` have no sessions.
    pub users: Vec<Placed>,
    /// Users that connect.
    pub present: usize,
    /// Sessions of each.
    pub devices: usize,
    /// Who talks to whom.
    pub conversations: Conversations,
    /// Payloads.
    pub sizes: Sizes,
    /// What drives the sending.
    pub mode: Mode,
    /// Unanswered sends of one user.
    pub window: usize,
    /// Times of an open loop.
    pub schedule: Arc<Schedule>,
    /// Their spacing.
    pub spacing: Spacing,
    /// Of all chance.
    pub seed: u64,
    /// Beginning of all names.
    pub prefix: String,
    /// Time line.
    pub intervals: Intervals,
    /// Threads.
    pub threads: usize,
    /// Cores to pin them to, in turn; none leaves them alone.
    pub cores: Vec<usize>,
    /// New sessions per second at the beginning; none is as fast as they are answered.
    pub connect_rate: Option<f64>,
    /// Coming and going.
    pub churn: Option<Churn>,
    /// Storms.
    pub storms: Vec<Storm>,
    /// Broken connections are what is measured, not a fault.
    pub watch_outage: bool,
    /// Stop after so many messages.
    pub messages: Option<u64>,
}

impl Setup {
    /// Sessions of all threads.
    pub fn sessions(&self) -> usize {
        self.present * self.devices
    }

    /// The thread that a user belongs to; pairs stay together.
    pub fn thread_of(&self, user: usize) -> usize {
        user / 2 % self.threads
    }
}

/// What one thread says of itself after each turn.
#[derive(Default)]
pub struct Counters {
    /// Sessions that are open.
    pub open: AtomicUsize,
    /// Sends without answer.
    pub in_flight: AtomicU64,
    /// Due, but not sent for want of room.
    pub waiting: AtomicU64,
    /// Deliveries that acknowledged sends make.
    pub due: AtomicU64,
    /// Deliveries, each counted once.
    pub delivered: AtomicU64,
    /// Sends answered.
    pub acknowledged: AtomicU64,
    /// Refused, or with unknown outcome.
    pub excepted: AtomicU64,
    /// Known to be missing at this moment: later ones are here.
    pub missing: AtomicU64,
    /// Answers to the present round of pings.
    pub pongs: AtomicUsize,
    /// The schedule of an open loop, or the number of messages, is through.
    pub done: AtomicBool,
}

/// What the threads share.
pub struct Coordination {
    clock: Instant,
    start_ns: AtomicU64,
    stop_sending: AtomicBool,
    stop: AtomicBool,
    ping_round: AtomicU32,
    /// By thread.
    pub counters: Vec<Counters>,
}

impl Coordination {
    /// For so many threads.
    pub fn new(threads: usize) -> Coordination {
        Coordination {
            clock: Instant::now(),
            start_ns: AtomicU64::new(0),
            stop_sending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            ping_round: AtomicU32::new(0),
            counters: (0..threads).map(|_| Counters::default()).collect(),
        }
    }

    /// Nanoseconds on the clock of all threads.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets the run begin.
    pub fn start_at(&self, at_ns: u64) {
        self.start_ns.store(at_ns, Ordering::Release);
    }

    /// When the run begins, once that is known.
    pub fn started_ns(&self) -> Option<u64> {
        Some(self.start_ns.load(Ordering::Acquire)).filter(|start| *start > 0)
    }

    /// What is still waiting is not sent any more.
    pub fn stop_sending(&self) {
        self.stop_sending.store(true, Ordering::Release);
    }

    /// True after that.
    pub fn is_sending_over(&self) -> bool {
        self.stop_sending.load(Ordering::Acquire)
    }

    /// Ends all threads.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// True after that.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Has every session pinged.
    pub fn ping_all(&self) {
        self.ping_round.fetch_add(1, Ordering::AcqRel);
    }

    /// Which round of pings it is.
    pub fn ping_round(&self) -> u32 {
        self.ping_round.load(Ordering::Acquire)
    }

    /// The sum of one of the counters.
    pub fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|one| counter(one).load(Ordering::Relaxed)).sum()
    }

    /// The same for those that count sessions.
    pub fn sessions(&self, counter: impl Fn(&Counters) -> &AtomicUsize) -> usize {
        self.counters.iter().map(|one| counter(one).load(Ordering::Relaxed)).sum()
    }

    /// True when every thread has nothing more to send.
    pub fn all_done(&self) -> bool {
        self.counters.iter().all(|one| one.done.load(Ordering::Relaxed))
    }
}

/// A thread's figures of one interval.
pub struct Tick {
    /// Which interval.
    pub interval: usize,
    /// What happened in it.
    pub figures: Box<Figures>,
}
