//! Queues between the shards of one node, and the way in for the node's plain threads (HTTP, signals, metronome).
//! One bounded inbox per shard; an element is a batch, so that a queue operation is paid once per turn and
//! destination, not once per frame. Nothing here waits: a full inbox gives the message back and the sender keeps it.
//!
//! It deliberately knows nothing of what the messages mean, and does not cross to other nodes.
//!
//! Waking: an idle shard sleeps on its doorbell (an eventfd). A sender rings it only when the shard says that it sleeps,
//! because the write costs more than everything else here. The handshake that loses no message:
//!
//! ```text
//!   shard                                sender
//!   awake ─ asleep := true               push into the inbox
//!     │     fence                        fence
//!     │     inbox empty? ── no → awake   asleep? ── yes → asleep := false, ring
//!     ▼ yes
//!   sleeps until the bell rings
//! ```
//! With both fences sequentially consistent, either the shard sees the message or the sender sees the sleeper.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};
use std::time::Duration;

use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::engine::metadata::Cluster;
use crate::format::frame::Frame;
use crate::ids::{Place, ShardId, Uid};

use super::clock::Clock;
use super::gateway::HandOver;
use super::stages::{ShardProfile, ShardSnapshot};

/// Batches one inbox holds. A shard sends each other shard at most one batch per turn, so this is some turns of every
/// shard of a large node. When it is full a shard keeps its batch and merges the next turn's frames into it; a plain
/// thread gets its message back.
pub const INBOX_BATCHES_MAX: usize = 1024;

/// Interrupts a system call and does nothing else. Its usual sense (urgent bytes on a socket) is used by nobody here.
pub const NUDGE_SIGNAL: i32 = libc::SIGURG;

/// What reaches a shard from inside its node.
#[derive(Debug)]
pub enum MeshMessage {
    /// Frames of another shard, in the order in which they were sent.
    Frames {
        /// From where.
        from: Place,
        /// What.
        frames: Vec<Frame>,
        /// When it was sent, by the node's clock.
        sent_nanos: u64,
    },
    /// A client's socket whose home is here.
    HandOver(Box<HandOver>),
    /// A request over HTTP whose key lives here.
    Api {
        /// What is asked.
        request: ApiRequest,
        /// Where to answer. `Busy` comes at once when the shard has too many under way.
        reply: flume::Sender<ApiAnswer>,
    },
    /// The metrics page wants the shard's numbers.
    Snapshot {
        /// Where to.
        reply: flume::Sender<Box<ShardSnapshot>>,
    },
    /// The same with histograms, long turns and marks from serial number `after` on.
    Profile {
        /// See [`crate::engine::marks::Marks::since`].
        after: u64,
        /// Where to.
        reply: flume::Sender<Box<ShardProfile>>,
    },
    /// Every message of a user is to be marked for so long.
    Watch {
        /// Whose.
        uid: Uid,
        /// How long from now.
        span: Duration,
        /// False when too many are watched.
        reply: flume::Sender<bool>,
    },
    /// The cluster as the node's first shard knows it now. Only the newest counts.
    Cluster(Arc<Cluster>),
    /// Every shard of the node leads its slots: listen. Not sooner, as a user may be served by one shard and talk to
    /// somebody whose slot is another's.
    Serve {
        /// One line when a listener cannot be had.
        reply: flume::Sender<Result<(), String>>,
    },
    /// The metronome's beat.
    Tick,
    /// The node stops.
    Stop,
}

/// Why a message was not taken; it comes back.
#[derive(Debug)]
pub enum NotSent {
    /// The inbox is full: the shard is behind. Try again later.
    Full(MeshMessage),
    /// The shard has ended.
    Gone(MeshMessage),
}

/// How one shard is woken.
#[derive(Debug)]
pub struct Doorbell {
    eventfd: OwnedFd,
    asleep: AtomicBool,
    /// Turns the shard has made, for the watchdog.
    turns: AtomicU64,
    /// The shard's thread as the kernel numbers it; 0 while there is none.
    thread: AtomicI32,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Doorbell> {
        // SAFETY: plain system call without pointers; the result is checked before it is owned.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just made and nobody else knows it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Doorbell { eventfd, asleep: AtomicBool::new(false), turns: AtomicU64::new(0), thread: AtomicI32::new(0) })
    }

    /// The eventfd: the clients' ring listens to it, the links' ring is registered with it.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Wakes the shard if it sleeps. To be called after the message is in the inbox.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.ring();
        }
    }

    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes are given with their length. A write to an eventfd fails only if its counter would
        // overflow 2^64, which takes more wakes than there is time for; a failure cannot be repaired here, and the
        // metronome rings again.
        unsafe { libc::write(self.raw(), one.as_ptr().cast(), one.len()) };
    }

    /// The shard is about to sleep. Look at the inbox after this, then sleep or call [`Doorbell::awake`].
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is up, whoever woke it.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// The calling thread is the shard's from now on.
    pub fn enter_thread(&self) {
        // SAFETY: no arguments; it cannot fail.
        self.thread.store(unsafe { libc::gettid() }, Ordering::Release);
    }

    /// The shard's thread is about to end.
    pub fn leave_thread(&self) {
        self.thread.store(0, Ordering::Release);
    }

    fn nudge(&self) {
        self.ring();
        let thread = self.thread.load(Ordering::Acquire);
        if thread != 0 {
            // SAFETY: numbers only. The signal has a handler that does nothing (the metronome's), or is ignored by default; should
            // the thread have ended just now and its number be another's of this process, nothing happens to that.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, NUDGE_SIGNAL) };
        }
    }

    /// The shard has made a turn.
    pub fn count_turn(&self) {
        // Only the shard writes it, so a load and a store are enough and cheaper than an atomic addition.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Turns so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Way {
    inbox: flume::Sender<MeshMessage>,
    doorbell: Arc<Doorbell>,
}

/// Sends to any shard of the node, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MeshSender {
    ways: Arc<[Way]>,
}

impl MeshSender {
    /// Shards of this node.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.ways.len()).expect("made from a u16")
    }

    /// Puts a message into a shard's inbox and wakes the shard if it sleeps. Never waits.
    ///
    /// # Errors
    /// Gives the message back.
    pub fn send(&self, to: ShardId, message: MeshMessage) -> Result<(), NotSent> {
        let Some(way) = self.ways.get(usize::from(to.0)) else {
            return Err(NotSent::Gone(message));
        };
        match way.inbox.try_send(message) {
            Ok(()) => {
                way.doorbell.wake();
                Ok(())
            }
            Err(flume::TrySendError::Full(message)) => {
                way.doorbell.wake();
                Err(NotSent::Full(message))
            }
            Err(flume::TrySendError::Disconnected(message)) => Err(NotSent::Gone(message)),
        }
    }

    /// As [`MeshSender::send`], for what must arrive (a hand-over, the stop) and for threads that may wait: tries for
    /// `patience`.
    ///
    /// # Errors
    /// Gives the message back when the inbox stayed full.
    pub fn send_within(&self, to: ShardId, message: MeshMessage, patience: std::time::Duration) -> Result<(), NotSent> {
        let Some(way) = self.ways.get(usize::from(to.0)) else {
            return Err(NotSent::Gone(message));
        };
        let outcome = way.inbox.send_timeout(message, patience);
        way.doorbell.wake();
        outcome.map_err(|error| match error {
            flume::SendTimeoutError::Timeout(message) => NotSent::Full(message),
            flume::SendTimeoutError::Disconnected(message) => NotSent::Gone(message),
        })
    }

    /// How often a shard has turned; the watchdog's evidence.
    #[must_use]
    pub fn turns(&self, shard: ShardId) -> u64 {
        self.ways.get(usize::from(shard.0)).map_or(0, |way| way.doorbell.turns())
    }

    /// Wakes a shard if it sleeps, for something that it finds when it looks. To be called after that is there.
    pub fn wake(&self, shard: ShardId) {
        if let Some(way) = self.ways.get(usize::from(shard.0)) {
            way.doorbell.wake();
        }
    }

    /// Wakes a shard whatever it says of itself, by interrupting the system call in which it waits. The bell is not enough: an
    /// executor that parks with runnable tasks may have the bell's reader among them. Nor is a waker from another
    /// thread: when the executor parks so in its first pass, no task has been run that could lend one.
    pub fn nudge(&self, shard: ShardId) {
        if let Some(way) = self.ways.get(usize::from(shard.0)) {
            way.doorbell.nudge();
        }
    }
}

/// What one shard owns of the mesh.
#[derive(Debug)]
pub struct MeshEndpoint {
    /// Whose.
    pub shard: ShardId,
    /// What arrives.
    pub inbox: flume::Receiver<MeshMessage>,
    /// The bell.
    pub doorbell: Arc<Doorbell>,
    /// To the others (and to itself).
    pub sender: MeshSender,
}

/// Makes the queues of a node: one endpoint per shard, each to be moved to its thread.
///
/// # Errors
/// When the kernel gives no eventfd (too many open files).
pub fn build_mesh(shard_count: u16) -> io::Result<Vec<MeshEndpoint>> {
    let mut ways = Vec::new();
    let mut inboxes = Vec::new();
    for _ in 0..shard_count {
        let (sender, receiver) = flume::bounded(INBOX_BATCHES_MAX);
        ways.push(Way { inbox: sender, doorbell: Arc::new(Doorbell::new()?) });
        inboxes.push(receiver);
    }
    let sender = MeshSender { ways: Arc::from(ways) };
    Ok(inboxes
        .into_iter()
        .enumerate()
        .map(|(index, inbox)| MeshEndpoint {
            shard: ShardId(u16::try_from(index).expect("counted from a u16")),
            inbox,
            doorbell: sender.ways[index].doorbell.clone(),
            sender: sender.clone(),
        })
        .collect())
}

/// Frames, and news of the cluster, that are on their way out of a shard, by destination shard. Frames are bounded by the engine's windows (un-acked sends,
/// deliveries and announcements), not by a number of its own: what is in here is work that somebody has been promised.
#[derive(Debug)]
pub struct Outbox {
    here: Place,
    waiting: Vec<Vec<Frame>>,
    /// One at a time: what is newer replaces what has not left.
    news: Vec<Option<Arc<Cluster>>>,
}

impl Outbox {
    /// For the shard `here` of a node with `shard_count`.
    #[must_use]
    pub fn new(here: Place, shard_count: u16) -> Outbox {
        let waiting = (0..shard_count).map(|_| Vec::new()).collect();
        Outbox { here, waiting, news: vec![None; usize::from(shard_count)] }
    }

    /// Tells every other shard of the node of the cluster as it is now.
    pub fn tell_others(&mut self, cluster: &Arc<Cluster>) {
        for (index, news) in self.news.iter_mut().enumerate() {
            if index != usize::from(self.here.shard.0) {
                *news = Some(Arc::clone(cluster));
            }
        }
    }

    /// Adds frames behind those that wait for the same shard.
    pub fn push(&mut self, to: ShardId, mut frames: Vec<Frame>) {
        let waiting = &mut self.waiting[usize::from(to.0)];
        if waiting.is_empty() {
            *waiting = frames;
        } else {
            waiting.append(&mut frames);
        }
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(Vec::is_empty) && self.news.iter().all(Option::is_none)
    }

    /// Sends one batch to each shard for which frames wait, and the news behind it. True when nothing is left; what met a full inbox stays, in
    /// order, for the next turn.
    pub fn flush(&mut self, mesh: &MeshSender, clock: Clock) -> bool {
        let mut all_gone = true;
        for (index, waiting) in self.waiting.iter_mut().enumerate() {
            if waiting.is_empty() {
                continue;
            }
            let to = ShardId(u16::try_from(index).expect("counted from a u16"));
            let frames = std::mem::take(waiting);
            let sent_nanos = clock.nanos();
            match mesh.send(to, MeshMessage::Frames { from: self.here, frames, sent_nanos }) {
                Ok(()) => {}
                Err(NotSent::Full(MeshMessage::Frames { frames, .. })) => {
                    *waiting = frames;
                    all_gone = false;
                }
                // The shard has ended, so the node is stopping: its clients will be told by their closed sockets.
                Err(_) => {}
            }
        }
        for (index, news) in self.news.iter_mut().enumerate() {
            let Some(cluster) = news.take() else { continue };
            let to = ShardId(u16::try_from(index).expect("counted from a u16"));
            if let Err(NotSent::Full(MeshMessage::Cluster(cluster))) = mesh.send(to, MeshMessage::Cluster(cluster)) {
                *news = Some(cluster);
                all_gone = false;
            }
        }
        all_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Resume;
    use crate::ids::{NodeId, SessionAddress, SessionId, Uid};
    use std::time::{Duration, Instant};

    fn frame(number: u32) -> Frame {
        let place = Place { node: NodeId(1), shard: ShardId(0) };
        let session = SessionId { index: number, generation: 0 };
        Frame::Resume(Resume {
            address: SessionAddress { place, session },
            uid: Uid::parse("u").expect("a good uid"),
            question: 1,
        })
    }

    fn number(frame: &Frame) -> u32 {
        match frame {
            Frame::Resume(resume) => resume.address.session.index,
            _ => panic!("only resumes are sent here"),
        }
    }

    #[test]
    fn a_full_inbox_keeps_order_and_loses_nothing() {
        let endpoints = build_mesh(2).unwrap();
        let here = Place { node: NodeId(1), shard: ShardId(0) };
        let mut outbox = Outbox::new(here, 2);
        let clock = Clock::start();
        let total = INBOX_BATCHES_MAX as u32 + 50;
        let mut refused = 0;
        for n in 0..total {
            outbox.push(ShardId(1), vec![frame(n)]);
            if !outbox.flush(&endpoints[0].sender, clock) {
                refused += 1;
            }
        }
        assert_eq!(refused, 50, "exactly what the inbox cannot hold stays outside");
        let mut seen = Vec::new();
        loop {
            while let Ok(message) = endpoints[1].inbox.try_recv() {
                let MeshMessage::Frames { from, frames, .. } = message else { panic!("only frames are sent") };
                assert_eq!(from, here);
                seen.extend(frames.iter().map(number));
            }
            if outbox.flush(&endpoints[0].sender, clock) && endpoints[1].inbox.is_empty() {
                break;
            }
        }
        assert_eq!(seen, (0..total).collect::<Vec<_>>());
    }

    fn cluster(version: u64) -> Arc<Cluster> {
        let nobody = (Default::default(), Default::default());
        let (members, rows) = nobody;
        Arc::new(Cluster { id: 1, name: "c".into(), version, replicas_wanted: 3, members, rows, next_replica: 1 })
    }

    #[test]
    fn news_reach_the_others_and_only_the_newest_counts() {
        let endpoints = build_mesh(3).unwrap();
        let here = Place { node: NodeId(1), shard: ShardId(0) };
        let (mut outbox, clock) = (Outbox::new(here, 3), Clock::start());
        for _ in 0..INBOX_BATCHES_MAX {
            endpoints[0].sender.send(ShardId(1), MeshMessage::Tick).unwrap();
        }
        for version in 1..=3 {
            outbox.tell_others(&cluster(version));
            assert!(!outbox.flush(&endpoints[0].sender, clock) && !outbox.is_empty(), "shard 1 is full");
        }
        let versions = |shard: usize| -> Vec<u64> {
            let messages = endpoints[shard].inbox.try_iter();
            messages.filter_map(|m| if let MeshMessage::Cluster(c) = m { Some(c.version) } else { None }).collect()
        };
        assert!(versions(1).is_empty());
        assert!(outbox.flush(&endpoints[0].sender, clock) && outbox.is_empty());
        assert_eq!((versions(0), versions(1), versions(2)), (vec![], vec![3], vec![1, 2, 3]));
    }

    /// A sleeper that follows the protocol is never left asleep with a message in its inbox. The bell is read with a
    /// limit, so a lost wake fails the test instead of hanging it.
    #[test]
    fn no_wake_is_lost() {
        let mut endpoints = build_mesh(1).unwrap();
        let endpoint = endpoints.remove(0);
        let sender = endpoint.sender.clone();
        let total = 30_000u32;
        let sending = std::thread::spawn(move || {
            for n in 0..total {
                while let Err(NotSent::Full(_)) = sender.send(ShardId(0), MeshMessage::Tick) {
                    std::thread::yield_now();
                }
                if n % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut received = 0;
        let began = Instant::now();
        while received < total {
            while endpoint.inbox.try_recv().is_ok() {
                received += 1;
            }
            if received == total {
                break;
            }
            endpoint.doorbell.lie_down();
            if endpoint.inbox.is_empty() {
                let mut poll = libc::pollfd { fd: endpoint.doorbell.raw(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one valid pollfd is given with the count 1.
                let ready = unsafe { libc::poll(&mut poll, 1, 5_000) };
                assert_eq!(ready, 1, "asleep for 5 s with {received} of {total} received: a wake was lost");
                let mut counter = [0u8; 8];
                // SAFETY: eight writable bytes are given with their length; poll has said that the read will not wait.
                unsafe { libc::read(endpoint.doorbell.raw(), counter.as_mut_ptr().cast(), 8) };
            }
            endpoint.doorbell.awake();
            assert!(began.elapsed() < Duration::from_secs(60));
        }
        sending.join().unwrap();
    }

    #[test]
    fn an_ended_shard_gives_messages_back() {
        let mut endpoints = build_mesh(2).unwrap();
        drop(endpoints.remove(1));
        assert!(matches!(
            endpoints[0].sender.send(ShardId(1), MeshMessage::Stop),
            Err(NotSent::Gone(MeshMessage::Stop))
        ));
        assert!(matches!(
            endpoints[0].sender.send(ShardId(9), MeshMessage::Stop),
            Err(NotSent::Gone(MeshMessage::Stop))
        ));
    }
}
