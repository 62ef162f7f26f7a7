//! One thread of the generator: its sessions, their sockets, the turns. What is sent and what came is [`Traffic`]'s to know.
//!
//! ```text
//! turn: write what is queued ─► wait for sockets ─► read, answer, judge ─► send what is due ─► sessions that come and go
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::drivers::{Heard, Identity, Outgoing, Scratch, driver};
use crate::schedule::{Arrivals, Mode};
use crate::session::{Session, State};
use crate::setup::{Coordination, Setup, Tick};
use crate::traffic::{Harvest, Traffic};
use crate::wire::Wire;

/// Open loop: between two looks at the schedule. A generator that spins takes its core from the kernel threads that finish the server's disk
/// writes, and then measures the scheduler's tick. What falls due meanwhile counts from its intended time.
const OPEN_PACE_NS: u64 = 50_000;

/// The longest wait for sockets; timers are looked at in between.
const WAIT_NS_MAX: u64 = 10_000_000;

/// The kernel's waits are whole milliseconds; below this a sleep is more exact.
const WAIT_NS_MIN: u64 = 1_500_000;

/// Handshakes of one thread at a time: below any usual accept queue.
const CONNECTING_AT_ONCE: usize = 256;

/// How long a handshake may take.
const HANDSHAKE_NS: u64 = 10_000_000_000;

/// Before a broken connection is tried again.
const RETRY_NS: u64 = 50_000_000;

/// What a connect that is under way reports on Linux.
const EINPROGRESS: i32 = 115;

/// Connections from one source address: well below the kernel's range of about 28 000 ports and jindou's default bound of 10 000
/// connections per address.
const CONNECTIONS_PER_ADDRESS: usize = 4000;

/// A thread at work.
pub struct Worker {
    setup: Arc<Setup>,
    shared: Arc<Coordination>,
    thread: usize,
    poll: Poll,
    events: Events,
    sessions: Vec<Session>,
    scratch: Scratch,
    traffic: Traffic,
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    arrivals: Option<Arrivals>,
    quota: Option<u64>,
    next_user: usize,
    to_open: VecDeque<usize>,
    opened: usize,
    connecting: usize,
    in_flight: u64,
    waiting: u64,
    deadlines: VecDeque<(u64, usize, u32)>,
    comebacks: BinaryHeap<Reverse<(u64, usize)>>,
    churn_due_ns: u64,
    storms: VecDeque<(u64, usize)>,
    ping_round: u32,
    began_ns: u64,
    draining: bool,
}

/// Runs one thread to its end.
pub fn run(
    setup: Arc<Setup>,
    shared: Arc<Coordination>,
    thread: usize,
    ticks: Sender<Tick>,
) -> Result<Harvest, String> {
    if let Some(core) = setup.cores.get(thread % setup.cores.len().max(1))
        && !core_affinity::set_for_current(core_affinity::CoreId { id: *core })
    {
        return Err(format!("cannot pin a thread to core {core}"));
    }
    let mut worker = Worker::new(setup, shared, thread, ticks).map_err(|fault| format!("no poll: {fault}"))?;
    while !worker.shared.is_stopped() {
        worker.turn()?;
    }
    Ok(worker.finish())
}

impl Worker {
    fn new(setup: Arc<Setup>, shared: Arc<Coordination>, thread: usize, ticks: Sender<Tick>) -> io::Result<Worker> {
        let users = (0..setup.present).filter(|user| setup.thread_of(*user) == thread);
        let window = |device: usize, user: usize| {
            if device == 0 && !setup.conversations.of(user as u32).is_empty() { setup.window } else { 0 }
        };
        let session = |user: usize, device: usize| Session::new(user as u32, device as u8, window(device, user));
        let sessions: Vec<Session> = users
            .flat_map(|user| (0..setup.devices).map(move |device| (user, device)))
            .map(|(u, d)| session(u, d))
            .collect();
        let arrivals = matches!(setup.mode, Mode::Open { .. })
            .then(|| Arrivals::new(setup.schedule.clone(), thread, setup.threads, setup.spacing, setup.seed));
        let share = |of: u64| of / setup.threads as u64 + u64::from((of % setup.threads as u64) > thread as u64);
        Ok(Worker {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            scratch: Scratch::default(),
            traffic: Traffic::new(setup.clone(), thread, ticks),
            dirty: Vec::new(),
            is_dirty: vec![false; sessions.len()],
            arrivals,
            quota: setup.messages.map(share),
            next_user: 0,
            to_open: (0..sessions.len()).collect(),
            opened: 0,
            connecting: 0,
            in_flight: 0,
            waiting: 0,
            deadlines: VecDeque::new(),
            comebacks: BinaryHeap::new(),
            churn_due_ns: u64::MAX,
            storms: VecDeque::new(),
            ping_round: 0,
            began_ns: shared.now_ns(),
            draining: false,
            sessions,
            setup,
            shared,
            thread,
        })
    }

    fn turn(&mut self) -> Result<(), String> {
        self.flush_dirty()?;
        let wait = self.wait();
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            outcome => outcome.map_err(|fault| format!("poll: {fault}"))?,
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
            if event.is_writable() {
                self.mark_dirty(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(index)?;
            }
        }
        events.clear();
        self.events = events;
        let now = self.shared.now_ns();
        if let Some(start_ns) = self.shared.started_ns() {
            if self.traffic.measured_to_ns() == u64::MAX {
                self.begin(start_ns);
            }
            self.traffic.roll(now);
            if now >= start_ns {
                self.move_on(now)?;
            }
        }
        self.come_back(now)?;
        self.open_some(now)?;
        self.answer_pings();
        self.publish();
        Ok(())
    }

    /// How long to wait for sockets; a short pause that the poll cannot make is slept here.
    fn wait(&self) -> Duration {
        let scheduled = self.arrivals.as_ref().filter(|_| !self.draining).and_then(Arrivals::due_ns);
        let (Some(due), Some(start)) = (scheduled, self.shared.started_ns()) else {
            return Duration::from_nanos(WAIT_NS_MAX);
        };
        let until = (start + due).saturating_sub(self.shared.now_ns());
        if until >= WAIT_NS_MIN {
            return Duration::from_millis((until.min(WAIT_NS_MAX) / 1_000_000).max(1));
        }
        std::thread::sleep(Duration::from_nanos(until.clamp(OPEN_PACE_NS / 5, OPEN_PACE_NS)));
        Duration::ZERO
    }

    fn mark_dirty(&mut self, index: usize) {
        if !self.is_dirty[index] {
            self.is_dirty[index] = true;
            self.dirty.push(index);
        }
    }

    fn flush_dirty(&mut self) -> Result<(), String> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.is_dirty[index] = false;
            if let Some(wire) = &mut self.sessions[index].wire
                && let Err(why) = wire.flush()
            {
                self.broken(index, &why)?;
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        Ok(())
    }

    fn begin(&mut self, start_ns: u64) {
        self.traffic.started(start_ns);
        let threads = self.setup.threads;
        if let Some(churn) = self.setup.churn {
            self.churn_due_ns = start_ns + (threads as f64 / churn.per_second * 1e9) as u64;
        }
        let share = |sessions: usize| sessions / threads + usize::from(sessions % threads > self.thread);
        let mut storms: Vec<_> = self
            .setup
            .storms
            .iter()
            .map(|storm| (start_ns + storm.at.as_nanos() as u64, share(storm.sessions)))
            .collect();
        storms.sort_unstable();
        self.storms = storms.into();
        if matches!(self.setup.mode, Mode::Closed { .. }) {
            (0..self.sessions.len()).for_each(|index| self.refill(index, self.shared.now_ns().max(start_ns)));
        }
    }

    /// Sends what is due, lets sessions go, and turns to draining when the time is over.
    fn move_on(&mut self, now: u64) -> Result<(), String> {
        if self.draining {
            return Ok(());
        }
        let over = now >= self.traffic.measured_to_ns() || self.shared.is_sending_over();
        self.send_due(now.min(self.traffic.measured_to_ns()), now);
        if over {
            self.draining = true;
            let comebacks = std::mem::take(&mut self.comebacks);
            self.to_open.extend(comebacks.into_iter().map(|Reverse((_, index))| index));
            return Ok(());
        }
        while now >= self.churn_due_ns {
            let Some(churn) = self.setup.churn else { break };
            self.churn_due_ns += (self.setup.threads as f64 / churn.per_second * 1e9) as u64;
            let index = self.traffic.draw(self.sessions.len());
            self.leave(index, churn.away.as_nanos() as u64)?;
        }
        while self.storms.front().is_some_and(|(at, _)| now >= *at) {
            let (_, count) = self.storms.pop_front().unwrap_or_default();
            for index in 0..count.min(self.sessions.len()) {
                self.leave(index, 0)?;
            }
        }
        Ok(())
    }

    /// Open loop: everything that is due by now, at its intended time. A full window makes it wait, and the wait counts.
    fn send_due(&mut self, until: u64, now: u64) {
        let Some(start) = self.shared.started_ns() else { return };
        while let Some(due) = self.arrivals.as_ref().and_then(Arrivals::due_ns).map(|due| start + due) {
            if due > until {
                return;
            }
            if let Some(arrivals) = &mut self.arrivals {
                arrivals.advance();
            }
            self.traffic.lagged(due, now);
            let Some(index) = self.next_sender() else { continue };
            let Some(stream) = self.traffic.pick(self.sessions[index].user) else { continue };
            if self.sessions[index].waiting.is_empty() && self.sessions[index].has_room() {
                self.send(index, stream, due);
            } else {
                self.sessions[index].waiting.push_back((due, stream));
                self.waiting += 1;
            }
        }
    }

    /// The users in turn; one that is away on purpose is passed over while another is there.
    fn next_sender(&mut self) -> Option<usize> {
        let (devices, count) = (self.setup.devices, self.sessions.len());
        let first = self.next_user;
        for offset in 0..count / devices {
            let index = (first + offset * devices) % count;
            if !self.sessions[index].is_leaving() {
                self.next_user = (index + devices) % count;
                return Some(index);
            }
        }
        self.next_user = (first + devices) % count.max(1);
        (first < count).then_some(first)
    }

    fn send(&mut self, index: usize, stream: u32, at_ns: u64) {
        let Worker { sessions, scratch, traffic, setup, .. } = self;
        let session = &mut sessions[index];
        let Some(wire) = &mut session.wire else { return };
        let (flight, payload) = traffic.next_message(stream, at_ns);
        let number = session.flights.begin(flight);
        let to = &setup.users[setup.conversations.streams[stream as usize].to as usize].name;
        self.in_flight += 1;
        wire.send(scratch, Outgoing { number, to, sequence: flight.sequence, payload });
        self.mark_dirty(index);
    }

    /// There may be room again: first what waits, then, in a closed loop, the next message.
    fn refill(&mut self, index: usize, now: u64) {
        let closed = matches!(self.setup.mode, Mode::Closed { .. });
        while self.sessions[index].has_room() && !self.shared.is_sending_over() {
            if let Some((due, stream)) = self.sessions[index].waiting.pop_front() {
                self.waiting -= 1;
                self.send(index, stream, due);
                continue;
            }
            let started = self.shared.started_ns().is_some() && now < self.traffic.measured_to_ns();
            let leaves = self.sessions[index].is_leaving();
            if !closed || !started || leaves || self.draining || self.quota == Some(0) {
                return;
            }
            let Some(stream) = self.traffic.pick(self.sessions[index].user) else { return };
            self.quota = self.quota.map(|quota| quota - 1);
            self.send(index, stream, now);
        }
    }

    fn read(&mut self, index: usize) -> Result<(), String> {
        loop {
            let filled = match &mut self.sessions[index].wire {
                None => return Ok(()),
                Some(wire) => wire.fill(),
            };
            let now = self.shared.now_ns();
            let drained = match filled {
                Ok(drained) => drained,
                Err(why) => return self.broken(index, &why),
            };
            loop {
                match self.take_next(index, now) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => return self.broken(index, &why),
                }
            }
            let has_output = self.sessions[index].wire.as_ref().is_some_and(Wire::has_output);
            if has_output {
                self.mark_dirty(index);
            }
            if drained {
                return self.close_if_left(index);
            }
        }
    }

    /// Handles one thing that was heard; `false` when none is whole.
    fn take_next(&mut self, index: usize, now: u64) -> Result<bool, String> {
        let Worker { sessions, scratch, traffic, .. } = self;
        let session = &mut sessions[index];
        let Some(wire) = &mut session.wire else { return Ok(false) };
        let Some(heard) = wire.next(scratch)? else { return Ok(false) };
        match heard {
            Heard::Message { order, payload } => {
                let since = if session.connections > 1 { session.since_ns } else { 0 };
                traffic.delivered((session.user, session.device), since, order, payload, now);
            }
            Heard::Acknowledged(number) => {
                if let Some(flight) = session.flights.end(number) {
                    traffic.acknowledged(flight, now);
                    self.in_flight -= 1;
                }
                self.refill(index, now);
            }
            Heard::AcknowledgedUpTo(number) => {
                while let Some(flight) = session.flights.end_up_to(number) {
                    traffic.acknowledged(flight, now);
                    self.in_flight -= 1;
                }
                self.refill(index, now);
            }
            Heard::Refused { number, reason } => {
                if let Some(flight) = session.flights.end(number) {
                    traffic.refused(flight, reason, now);
                    self.in_flight -= 1;
                }
                self.refill(index, now);
            }
            Heard::Open => self.opened(index, now),
            Heard::Damaged => traffic.damaged(),
            Heard::Pong => {
                self.shared.counters[self.thread].pongs.fetch_add(1, Ordering::Relaxed);
            }
            Heard::Other => {}
        }
        Ok(true)
    }

    fn opened(&mut self, index: usize, now: u64) {
        let session = &mut self.sessions[index];
        if session.state != State::Connecting {
            return;
        }
        self.traffic.harvest.connects.push(now.saturating_sub(session.since_ns));
        session.state = State::Open;
        session.since_ns = now;
        self.connecting -= 1;
        self.opened += 1;
        self.refill(index, now);
    }

    /// Asks a session to go once everything is answered; one that is not open is left alone.
    fn leave(&mut self, index: usize, away_ns: u64) -> Result<(), String> {
        if self.sessions[index].state == State::Open {
            self.sessions[index].state = State::Leaving { away_ns };
            self.close_if_left(index)?;
        }
        Ok(())
    }

    fn close_if_left(&mut self, index: usize) -> Result<(), String> {
        let session = &mut self.sessions[index];
        let State::Leaving { away_ns } = session.state else { return Ok(()) };
        if !session.has_left_nothing() {
            return Ok(());
        }
        if let Some(wire) = &mut session.wire {
            wire.goodbye();
            // Whether the last words arrive makes no difference: receipts that are lost make allowed copies.
            let _ = wire.flush();
        }
        session.wire = None;
        session.state = State::Away { planned: true };
        self.opened -= 1;
        let back = self.shared.now_ns() + away_ns;
        if self.draining || away_ns == 0 {
            self.to_open.push_back(index);
        } else {
            self.comebacks.push(Reverse((back, index)));
        }
        Ok(())
    }

    /// A connection is gone that should not be.
    fn broken(&mut self, index: usize, why: &str) -> Result<(), String> {
        let now = self.shared.now_ns();
        let session = &mut self.sessions[index];
        let user = &self.setup.users[session.user as usize];
        let text = || format!("{} at {}: {why}", user.name, user.address);
        if self.shared.started_ns().is_none() {
            return Err(text());
        }
        let was = session.state;
        session.wire = None;
        session.state = State::Away { planned: false };
        let lost = session.flights.give_up();
        match was {
            State::Connecting => self.connecting -= 1,
            State::Open | State::Leaving { .. } => {
                self.opened -= 1;
                if self.setup.watch_outage {
                    self.traffic.harvest.broken += 1;
                } else {
                    self.traffic.harvest.faults.disconnected += 1;
                }
                self.traffic.failed(now, text);
            }
            State::Away { .. } => {}
        }
        self.in_flight -= lost.len() as u64;
        lost.into_iter().for_each(|flight| self.traffic.unknown(flight));
        self.comebacks.push(Reverse((now + RETRY_NS, index)));
        Ok(())
    }

    fn come_back(&mut self, now: u64) -> Result<(), String> {
        while self.comebacks.peek().is_some_and(|Reverse((at, _))| now >= *at) {
            if let Some(Reverse((_, index))) = self.comebacks.pop() {
                self.to_open.push_back(index);
            }
        }
        while self.deadlines.front().is_some_and(|(at, _, _)| now >= *at) {
            let Some((_, index, connections)) = self.deadlines.pop_front() else { break };
            let session = &self.sessions[index];
            if session.state == State::Connecting && session.connections == connections {
                self.broken(index, "no answer to the handshake")?;
            }
        }
        Ok(())
    }

    fn open_some(&mut self, now: u64) -> Result<(), String> {
        while self.connecting < CONNECTING_AT_ONCE && !self.to_open.is_empty() {
            if let Some(rate) = self.setup.connect_rate.filter(|_| self.shared.started_ns().is_none()) {
                let allowed = (now - self.began_ns) as f64 / 1e9 * rate / self.setup.threads as f64;
                if (self.opened + self.connecting) as f64 > allowed {
                    return Ok(());
                }
            }
            let Some(index) = self.to_open.pop_front() else { return Ok(()) };
            if let Err(fault) = self.open(index, now) {
                self.broken(index, &fault.to_string())?;
            }
        }
        Ok(())
    }

    fn open(&mut self, index: usize, now: u64) -> io::Result<()> {
        let setup = &self.setup;
        let session = &mut self.sessions[index];
        let user = &setup.users[session.user as usize];
        let again = session.connections > 0;
        let retry = if session.state == (State::Away { planned: false }) { session.connections as usize } else { 0 };
        let addresses = &setup.target.addresses;
        let home = addresses.iter().position(|address| *address == user.address).unwrap_or(0);
        let number = session.user as usize * setup.devices + usize::from(session.device);
        session.connections += 1;
        session.state = State::Connecting;
        session.since_ns = now;
        self.connecting += 1;
        self.deadlines.push_back((now + HANDSHAKE_NS, index, session.connections));
        let mut socket = open_socket(addresses[(home + retry) % addresses.len()], number)?;
        self.poll.registry().register(&mut socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let secret = number as u64 + u64::from(session.connections) * setup.sessions() as u64;
        let identity =
            Identity { user: user.name.clone(), device: session.device, prefix: setup.prefix.clone(), secret };
        session.wire = Some(Wire::new(socket, driver(setup.target.protocol, &identity, again)));
        if again {
            self.traffic.reconnected((session.user, session.device));
        }
        self.mark_dirty(index);
        Ok(())
    }

    fn answer_pings(&mut self) {
        let round = self.shared.ping_round();
        if round == self.ping_round {
            return;
        }
        self.ping_round = round;
        self.shared.counters[self.thread].pongs.store(0, Ordering::Relaxed);
        for index in 0..self.sessions.len() {
            if self.sessions[index].state == State::Open
                && let Some(wire) = &mut self.sessions[index].wire
            {
                wire.ping();
                self.mark_dirty(index);
            }
        }
    }

    fn publish(&self) {
        let counters = &self.shared.counters[self.thread];
        self.traffic.publish(counters);
        counters.open.store(self.opened, Ordering::Relaxed);
        counters.in_flight.store(self.in_flight, Ordering::Relaxed);
        counters.waiting.store(self.waiting, Ordering::Relaxed);
        counters.done.store(self.draining || self.quota == Some(0), Ordering::Release);
    }

    fn finish(mut self) -> Harvest {
        let now = self.shared.now_ns();
        for session in &mut self.sessions {
            let left = session.flights.give_up();
            left.into_iter().for_each(|flight| self.traffic.unanswered(flight));
            session.waiting.drain(..).for_each(|(due, _)| self.traffic.unsent(due, now));
        }
        self.traffic.finish()
    }
}

fn open_socket(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let group = number / CONNECTIONS_PER_ADDRESS;
    if group > 0 && address.ip().is_loopback() && address.is_ipv4() {
        let source = Ipv4Addr::new(127, 0, 1 + (group / 250) as u8, 1 + (group % 250) as u8);
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(fault) if fault.kind() != io::ErrorKind::WouldBlock && fault.raw_os_error() != Some(EINPROGRESS) => {
            return Err(fault);
        }
        _ => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}
