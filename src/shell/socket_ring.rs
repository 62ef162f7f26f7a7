//! TCP sockets of one shard on an io_uring of their own: multishot accept, connect, multishot recv into shared read buffers, one
//! SEND in flight per socket with everything appended meanwhile going into the next, one `io_uring_enter` per turn. A shard
//! has one ring for its clients and, in a cluster, one for its links.
//! The caller says what it wants of a socket; [`SocketRing::turn`] tells the kernel and reports what happened.
//!
//! One write to a file may ride along (`file_write`): the shard's journal.
//!
//! It deliberately knows nothing of packets, frames, sessions or time (what must end is counted in sweeps).
//! One thread only. Sockets are named by [`Token`]s; an index is used again only after the kernel has answered the last
//! request for it, so no completion can reach the wrong socket.
//!
//! ```text
//! dial ─→ Connecting ── refused, too long, close ─────────────────────────────────────────────────────────→ Draining
//!             └─ made ─┐
//! adopt ────────────→ Open ── close ──→ Flushing ── all written: FIN ──→ Lingering ── peer's FIN, or too long ──┐
//!           │ │                  └───────── error ────────────────────────────────────────────────────┤
//!           │ └─ end of stream, error, too much unsent ──────────────────────────────────────────────→ Draining ─→ Ended
//!           └── detach ──→ Leaving ── read cancelled, all written ──→ Detached (the caller owns the socket)
//!                             └─ close ──→ Flushing; error, or too long ──→ Draining
//! ```
//! Reading is paused by cancelling the multishot recv; what it had taken is still reported.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use read_buffers::ReadBuffers;
use socket::{GENERATION_MASK, Phase, Reading, Request, Socket, request_of, user_data};

pub use event::{EndReason, RingConfig, RingCounters, RingEvent, Token};
pub use file_write::{AlignedBytes, FileWrite, FileWritten};

mod answers;
mod event;
mod file_write;
mod read_buffers;
mod socket;
#[cfg(test)]
mod tests;
mod wishes;

/// Sweeps that a socket that is closed or given up may take to write what is queued, and again to wait for the peer's FIN. At the
/// metronome's 50 ms that is two seconds each.
const LINGER_SWEEPS: u8 = 40;

/// Sweeps that a connect may take: three seconds.
const DIAL_SWEEPS: u8 = 60;

/// Unsent bytes that are kept for reuse after a send, and how many such buffers.
const SPARE_BYTES_MAX: usize = 64 * 1024;
const SPARE_COUNT_MAX: usize = 128;

#[derive(Debug)]
struct ListenerSocket {
    fd: Option<OwnedFd>,
    armed: bool,
}

/// A descriptor of which only it is to be known when it can be read.
#[derive(Debug)]
struct Watched {
    fd: OwnedFd,
    armed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// The sockets of one shard.
pub struct SocketRing {
    ring: IoUring,
    /// `None` only while dropping.
    buffers: Option<ReadBuffers>,
    config: RingConfig,
    sockets: Vec<Socket>,
    free: Vec<u32>,
    listeners: Vec<ListenerSocket>,
    /// Sockets whose wishes changed since the last turn.
    attention: Vec<u32>,
    attending: Vec<u32>,
    /// Sockets that close or leave, whose time is limited.
    lingering: Vec<Token>,
    /// Sockets that may still be connecting, whose time is limited too.
    dialing: Vec<Token>,
    watched: Vec<Watched>,
    doorbell: Option<OwnedFd>,
    /// Under way.
    file_write: Option<FileWrite>,
    /// Reaped and not yet handled.
    completed: Vec<Completion>,
    handled: usize,
    spare: Vec<Vec<u8>>,
    /// Requests that the kernel has not answered for good.
    outstanding: usize,
    timer: Timer,
    counters: RingCounters,
}

impl std::fmt::Debug for SocketRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketRing").field("sockets", &self.len()).finish_non_exhaustive()
    }
}

/// The one deadline the kernel knows.
#[derive(Debug, Default)]
struct Timer {
    /// Read by the kernel during the submit that follows.
    span: Box<Timespec>,
    armed_nanos: Option<u64>,
    generation: u32,
}

fn build_ring(config: RingConfig) -> Result<IoUring, String> {
    let build = |deferred: bool| {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(config.completions).setup_submit_all().setup_taskrun_flag();
        builder.setup_single_issuer();
        if deferred {
            builder.setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        builder.build(config.entries)
    };
    build(true).or_else(|_| build(false)).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM) => "not enough locked memory for io_uring: raise RLIMIT_MEMLOCK (ulimit -l)".to_owned(),
        Some(libc::EPERM) => {
            "io_uring is forbidden here: see the sysctl kernel.io_uring_disabled and the container's seccomp profile"
                .to_owned()
        }
        Some(libc::ENOSYS | libc::EINVAL) => "io_uring of Linux 6.1 or newer is needed".to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    })
}

impl SocketRing {
    /// A ring of the calling thread, which rings `eventfd` when it has completions and [`SocketRing::prepare_sleep`] was the
    /// last word. [`SocketRing::wait`] needs no eventfd.
    ///
    /// # Errors
    /// One line for people: the kernel is too old, forbids io_uring, or has too little memory for it.
    pub fn new(config: RingConfig, eventfd: RawFd) -> Result<SocketRing, String> {
        let ring = build_ring(config)?;
        let buffers = ReadBuffers::register(&ring, config.read_buffers, config.read_buffer_bytes)
            .map_err(|error| format!("io_uring of Linux 6.1 or newer is needed (buffer ring: {error})"))?;
        ring.submitter()
            .register_eventfd(eventfd)
            .map_err(|error| format!("io_uring does not take an eventfd: {error}"))?;
        let mut ring = SocketRing {
            ring,
            buffers: Some(buffers),
            config,
            sockets: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            attention: Vec::new(),
            attending: Vec::new(),
            lingering: Vec::new(),
            dialing: Vec::new(),
            watched: Vec::new(),
            doorbell: None,
            file_write: None,
            completed: Vec::new(),
            handled: 0,
            spare: Vec::new(),
            outstanding: 0,
            timer: Timer::default(),
            counters: RingCounters::default(),
        };
        ring.ring.completion().disable_eventfd();
        Ok(ring)
    }

    /// Accepts on a bound socket from the next turn on; its number is the count of those before it.
    ///
    /// # Errors
    /// When the kernel does not listen on it.
    pub fn listen(&mut self, fd: OwnedFd) -> io::Result<u16> {
        let socket = socket2::SockRef::from(&fd);
        // Accepted sockets inherit it, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        socket.listen(4096)?;
        self.listeners.push(ListenerSocket { fd: Some(fd), armed: false });
        let number = self.listeners.len() - 1;
        self.arm_accept(number);
        Ok(u16::try_from(number).expect("a node has few listeners"))
    }

    /// Stops accepting and closes the listeners.
    pub fn stop_listening(&mut self) {
        for number in 0..self.listeners.len() {
            if self.listeners[number].armed {
                let target = user_data(Request::Accept, 0, number as u32);
                self.cancel(target);
            }
            // The request holds the kernel's own reference until it is cancelled.
            self.listeners[number].fd = None;
        }
    }

    /// Takes a connected socket in. Nothing is read until it is asked for.
    pub fn adopt(&mut self, fd: OwnedFd) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(Socket::vacant(self.config.first_generation & GENERATION_MASK));
            (self.sockets.len() - 1) as u32
        });
        let socket = &mut self.sockets[index as usize];
        let generation = socket.generation;
        *socket = Socket { fd: Some(fd), phase: Phase::Open, ..Socket::vacant(generation) };
        Token { index, generation }
    }

    /// Takes a socket in and connects it. [`RingEvent::Connected`] follows, or [`RingEvent::Ended`] within a few seconds. What is
    /// appended or asked for meanwhile is done when it stands.
    pub fn dial(&mut self, fd: OwnedFd, to: SocketAddr) -> Token {
        let token = self.adopt(fd);
        let socket = &mut self.sockets[token.index as usize];
        socket.phase = Phase::Connecting;
        socket.sweeps_left = DIAL_SWEEPS;
        socket.dialed = Some(Box::new(to.into()));
        self.dialing.push(token);
        self.connect(token.index as usize);
        token
    }

    /// Reports [`RingEvent::Readable`] once something can be read from this descriptor; its number is the count of those before
    /// it.
    pub fn watch(&mut self, fd: OwnedFd) -> u16 {
        self.watched.push(Watched { fd, armed: false });
        let number = u16::try_from(self.watched.len() - 1).expect("a shard watches few descriptors");
        self.watch_again(number);
        number
    }

    /// Reports it once more: to be called after everything was read.
    pub fn watch_again(&mut self, number: u16) {
        let watched = &mut self.watched[usize::from(number)];
        if !watched.armed {
            watched.armed = true;
            let entry = opcode::PollAdd::new(Fd(watched.fd.as_raw_fd()), libc::POLLIN as u32)
                .build()
                .user_data(user_data(Request::Watch, 0, u32::from(number)));
            self.push(&entry);
        }
    }

    /// Ends [`SocketRing::wait`] whenever something is written to this eventfd, which nobody else is to read and which must
    /// not be a blocking one. To be called once.
    pub fn listen_to(&mut self, doorbell: OwnedFd) {
        self.doorbell = Some(doorbell);
        self.arm_doorbell();
    }

    /// Sockets that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Unsent bytes of all sockets; costs a look at each.
    #[must_use]
    pub fn outbound_bytes(&self) -> usize {
        self.sockets.iter().map(Socket::unsent_bytes).sum()
    }

    /// Reads once, in order to decide after that where the socket belongs.
    pub fn read_once(&mut self, token: Token) {
        self.want(token, Reading::Once);
    }

    /// Reads for good.
    pub fn read_on(&mut self, token: Token) {
        self.want(token, Reading::Many);
    }

    /// Stops reading. What the kernel has taken already is still reported.
    pub fn pause(&mut self, token: Token) {
        self.want(token, Reading::Nothing);
    }

    /// Where to append what shall be sent with the next turn. `None` when the socket is gone or takes nothing more.
    pub fn outbound(&mut self, token: Token) -> Option<&mut Vec<u8>> {
        let index = self.find(token)?;
        if !matches!(self.sockets[index].phase, Phase::Open | Phase::Connecting) {
            return None;
        }
        self.attend_to(index);
        let socket = &mut self.sockets[index];
        if socket.queue.capacity() == 0 {
            socket.queue = self.spare.pop().unwrap_or_default();
        }
        Some(&mut socket.queue)
    }

    /// Appends what is already in a vector of its own; a long one is not copied when nothing waits before it.
    pub fn append(&mut self, token: Token, bytes: Vec<u8>) {
        // A socket that is gone takes nothing, and its end is reported.
        let Some(queue) = self.outbound(token) else { return };
        if queue.is_empty() && bytes.len() > SPARE_BYTES_MAX {
            *queue = bytes;
        } else {
            queue.extend_from_slice(&bytes);
        }
    }

    /// Closes after everything queued is written, or when that takes too long. [`RingEvent::Ended`] follows.
    pub fn close(&mut self, token: Token) {
        let Some(index) = self.find(token) else {
            return;
        };
        if self.sockets[index].phase == Phase::Connecting {
            return self.abort(token);
        }
        if matches!(self.sockets[index].phase, Phase::Open | Phase::Leaving) {
            self.sockets[index].why = EndReason::Closed;
            self.limit_time(token, index, Phase::Flushing);
        }
    }

    /// Closes without waiting for anything. [`RingEvent::Ended`] follows.
    pub fn abort(&mut self, token: Token) {
        if let Some(index) = self.find(token) {
            self.sockets[index].drain(EndReason::Closed);
            self.attend_to(index);
        }
    }

    /// Gives the socket up to the caller: reading stops, what is queued is written, [`RingEvent::Detached`] follows (or
    /// `Ended` if the peer left meanwhile, or takes too long to read). Bytes that had been taken are reported before it.
    pub fn detach(&mut self, token: Token) {
        let Some(index) = self.find(token) else {
            return;
        };
        if self.sockets[index].phase == Phase::Open {
            self.limit_time(token, index, Phase::Leaving);
        }
    }

    /// What the socket is to do in its new phase needs its peer, who may never do its part.
    fn limit_time(&mut self, token: Token, index: usize, phase: Phase) {
        if !has_limited_time(&self.sockets[index]) {
            self.lingering.push(token);
        }
        self.sockets[index].phase = phase;
        self.sockets[index].sweeps_left = LINGER_SWEEPS;
        self.attend_to(index);
    }

    /// Wakes a sleeping shard after `span` at the latest, counted from the next turn or sleep. One deadline: a later one than the one
    /// that is armed changes nothing.
    pub fn wake_within(&mut self, now_nanos: u64, span: Duration) {
        let at = now_nanos.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        if self.timer.armed_nanos.is_some_and(|armed| armed <= at && armed > now_nanos) {
            return;
        }
        if !self.ring.submission().is_empty() {
            // An earlier request may still have to read the span below.
            self.submit();
        }
        if self.timer.armed_nanos.is_some() {
            let target = user_data(Request::Timer, self.timer.generation, 0);
            self.push(&opcode::TimeoutRemove::new(target).build().user_data(user_data(Request::Cancel, 0, 0)));
        }
        self.timer.generation = (self.timer.generation + 1) & GENERATION_MASK;
        self.timer.armed_nanos = Some(at);
        *self.timer.span = Timespec::from(span);
        let entry = opcode::Timeout::new(&raw const *self.timer.span).build().user_data(user_data(
            Request::Timer,
            self.timer.generation,
            0,
        ));
        self.push(&entry);
    }

    /// To be called once per beat of the metronome: closes what lingers or connects too long, accepts again after an error.
    pub fn sweep(&mut self) {
        for number in 0..self.listeners.len() {
            if !self.listeners[number].armed && self.listeners[number].fd.is_some() {
                self.arm_accept(number);
            }
        }
        let mut lingering = std::mem::take(&mut self.lingering);
        lingering.retain(|&token| {
            let Some(index) = self.find(token) else {
                return false;
            };
            let socket = &mut self.sockets[index];
            socket.sweeps_left = socket.sweeps_left.saturating_sub(1);
            if socket.sweeps_left == 0 {
                socket.drain(EndReason::Closed);
                self.attend_to(index);
            }
            has_limited_time(&self.sockets[index])
        });
        self.lingering = lingering;
        let mut dialing = std::mem::take(&mut self.dialing);
        dialing.retain(|&token| {
            let Some(index) = self.find(token).filter(|index| self.sockets[*index].phase == Phase::Connecting) else {
                return false;
            };
            let socket = &mut self.sockets[index];
            socket.sweeps_left = socket.sweeps_left.saturating_sub(1);
            if socket.sweeps_left == 0 {
                socket.drain(EndReason::Failed(libc::ETIMEDOUT));
                self.attend_to(index);
            }
            true
        });
        self.dialing = dialing;
    }

    /// True when a turn has something to do without waiting for the kernel.
    #[must_use]
    pub fn has_work(&mut self) -> bool {
        !self.attention.is_empty() || !self.ring.submission().is_empty() || self.has_news()
    }

    /// True when the kernel has answered something that no turn has handled.
    #[must_use]
    pub fn has_news(&mut self) -> bool {
        self.handled < self.completed.len() || !self.ring.completion().is_empty() || self.kernel_has_work()
    }

    /// Tells the kernel every wish, what follows from them to `sink`. False: the kernel has answered something, or the sink
    /// wants nothing more: do not sleep.
    pub fn prepare_wait(&mut self, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        self.attend_all(sink) && self.attention.is_empty() && !self.has_news()
    }

    /// Submits what is wanted and sleeps until the kernel has answered something, the doorbell that it listens to has rung,
    /// or a signal has come.
    pub fn wait(&mut self) {
        self.enter(1);
    }

    /// Lets the eventfd ring for completions. False: there is work already, do not sleep. After waking call
    /// [`SocketRing::awake`].
    pub fn prepare_sleep(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // Either the kernel sees that the bell is on, or the look below sees its completion.
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.awake();
            return false;
        }
        true
    }

    /// The shard is up: no bell needed.
    pub fn awake(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// One turn: tells the kernel every wish since the last one, takes what has completed, and reports it to `sink` until
    /// that returns false (the rest stays for the next turn). True when anything was reported or handled.
    pub fn turn(&mut self, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        let mut go_on = self.attend_all(sink);
        if !self.ring.submission().is_empty() || self.kernel_has_work() {
            self.submit();
        }
        if self.handled == self.completed.len() {
            self.completed.clear();
            self.handled = 0;
            self.reap();
        }
        let before = self.handled;
        while go_on && self.handled < self.completed.len() {
            let completion = self.completed[self.handled];
            self.handled += 1;
            go_on = self.handle(completion, sink);
        }
        if self.handled > before {
            self.buffers().publish();
        }
        self.handled > before
    }

    fn reap(&mut self) {
        self.completed.extend(self.ring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    fn buffers(&mut self) -> &mut ReadBuffers {
        self.buffers.as_mut().expect("taken only by drop")
    }

    fn kernel_has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn find(&self, token: Token) -> Option<usize> {
        let socket = self.sockets.get(token.index as usize)?;
        (socket.generation == token.generation && socket.fd.is_some()).then_some(token.index as usize)
    }

    fn attend_to(&mut self, index: usize) {
        if !self.sockets[index].attention {
            self.sockets[index].attention = true;
            self.attention.push(index as u32);
        }
    }

    fn want(&mut self, token: Token, wanted: Reading) {
        if let Some(index) = self.find(token)
            && self.sockets[index].wanted != wanted
        {
            self.sockets[index].wanted = wanted;
            self.attend_to(index);
        }
    }

    /// Tells the kernel what is wanted, and waits for nothing.
    pub fn submit(&mut self) {
        self.enter(0);
    }

    fn enter(&mut self, answers_min: u32) {
        let to_submit = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed, so there is no pointer to be wrong. What the queued requests point to lives in
        // `sockets` (send buffers, unchanged while `sending`, and addresses in boxes, kept while connecting), `timer`,
        // `buffers` and `file_write`, until they have completed.
        let outcome =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(to_submit, answers_min, ENTER_GETEVENTS, None) };
        if let Err(error) = outcome {
            // Busy: completions must be taken first. Again, interrupted: the next turn submits the rest.
            let passing = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR));
            assert!(passing, "the kernel refuses our ring: {error}");
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: see `submit`: whatever an entry points to outlives its request.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit();
            // A full completion queue would keep the kernel from taking more.
            self.reap();
        }
        self.outstanding += 1;
    }

    fn cancel(&mut self, target: u64) {
        let entry = opcode::AsyncCancel::new(target).build().user_data(user_data(Request::Cancel, 0, 0));
        self.push(&entry);
    }

    /// Each write to the doorbell is one answer, until the kernel ends the request: it does when another ring has rung. What was
    /// counted until then is taken, or the new request would be answered at once.
    fn arm_doorbell(&mut self) {
        let Some(doorbell) = &self.doorbell else { return };
        let mut counter = [0u8; 8];
        // SAFETY: eight writable bytes are given with their length. It does not wait; that there was nothing is fine.
        unsafe { libc::read(doorbell.as_raw_fd(), counter.as_mut_ptr().cast(), counter.len()) };
        let entry = opcode::PollAdd::new(Fd(doorbell.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(user_data(Request::Doorbell, 0, 0));
        self.push(&entry);
    }

    fn arm_accept(&mut self, number: usize) {
        let Some(fd) = &self.listeners[number].fd else {
            return;
        };
        let entry = opcode::AcceptMulti::new(Fd(fd.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(user_data(Request::Accept, 0, number as u32));
        self.listeners[number].armed = true;
        self.push(&entry);
    }
}

/// Of `io_uring_enter`: run what the kernel has deferred to us and post its completions.
const ENTER_GETEVENTS: u32 = 1;

fn has_limited_time(socket: &Socket) -> bool {
    matches!(socket.phase, Phase::Flushing | Phase::Lingering | Phase::Leaving)
}

impl Drop for SocketRing {
    /// The kernel must not touch our memory after it is freed: every request is cancelled and answered first. Should
    /// one not be answered, the memory is leaked instead.
    fn drop(&mut self) {
        for index in 0..self.sockets.len() {
            self.sockets[index].drain(EndReason::Closed);
        }
        self.submit();
        let patience = Timespec::new().nsec(500_000_000);
        // An error says that nothing was left to cancel, or that time is up: the loop below finds out which.
        let _ = self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
        for _ in 0..100 {
            self.submit();
            self.reap();
            for completion in self.completed.drain(self.handled..) {
                if !cqueue::more(completion.flags) {
                    self.outstanding -= 1;
                }
                if request_of(completion.user_data).0 == Request::Accept && completion.result >= 0 {
                    // SAFETY: a connection accepted at the last moment: made for us, known to nobody else.
                    drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
                }
            }
            if self.outstanding == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!(outstanding = self.outstanding, "socket requests outlive their ring; their memory is left");
        std::mem::forget(self.buffers.take());
        std::mem::forget(std::mem::take(&mut self.sockets));
        std::mem::forget(self.file_write.take());
    }
}
