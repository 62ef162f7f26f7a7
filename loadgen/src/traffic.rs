//! One thread's messages: what each of its users has sent and each of its devices has got, judged and timed. It holds no connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use crate::chance::Chance;
use crate::figures::{Figures, Phase};
use crate::process::ThreadTime;
use crate::session::Flight;
use crate::setup::{Counters, Setup, Tick};
use crate::verify::{Faults, Mark, Receiver, SentSide};

const NOT_HERE: u32 = u32::MAX;

/// Milliseconds of the time line that is kept for outages.
pub const OUTAGE_LINE_MS_MAX: usize = 3_600_000;

/// What a thread hands over at its end.
#[derive(Default)]
pub struct Harvest {
    /// Streams whose sender is here.
    pub sent: Vec<(u32, SentSide)>,
    /// Streams whose recipient is here, one entry for each device.
    pub received: Vec<(u32, Receiver)>,
    /// What belongs to no stream.
    pub faults: Faults,
    /// Sends with unknown outcome: their connection broke.
    pub unknown: u64,
    /// Due, and never sent.
    pub unsent: u64,
    /// Connections that broke while outages are watched.
    pub broken: u64,
    /// Time that this thread ran, and waited for a core, within the measured time.
    pub busy: Option<ThreadTime>,
    /// Handshakes, in nanoseconds.
    pub connects: Vec<u64>,
    /// Answered sends in each millisecond from the beginning.
    pub line: Vec<u32>,
    /// Milliseconds from the beginning when something failed first.
    pub first_failure_ms: Option<u64>,
    /// What the first trouble was.
    pub trouble: Option<String>,
}

/// The messages of one thread.
pub struct Traffic {
    setup: Arc<Setup>,
    ticks: Sender<Tick>,
    figures: Box<Figures>,
    interval: usize,
    start_ns: u64,
    measured_ns: (u64, u64),
    next_edge_ns: u64,
    sides: Vec<SentSide>,
    /// First receiver of a stream whose recipient is here; its devices follow each other.
    inbound: Vec<u32>,
    /// The same for copies to the sender's own further devices.
    own: Vec<u32>,
    receivers: Vec<(u32, Receiver)>,
    chance: Chance,
    payload: Vec<u8>,
    time_before: Option<ThreadTime>,
    missing: usize,
    due: u64,
    delivered: u64,
    acknowledged: u64,
    excepted: u64,
    /// Everything that is only looked at in the end.
    pub harvest: Harvest,
}

impl Traffic {
    /// Of this thread.
    pub fn new(setup: Arc<Setup>, thread: usize, ticks: Sender<Tick>) -> Traffic {
        let streams = &setup.conversations.streams;
        let is_here = |user: u32| (user as usize) < setup.present && setup.thread_of(user as usize) == thread;
        let (mut inbound, mut own) = (vec![NOT_HERE; streams.len()], Vec::new());
        let mut receivers = Vec::new();
        for (number, _) in streams.iter().enumerate().filter(|(_, stream)| is_here(stream.to)) {
            inbound[number] = receivers.len() as u32;
            receivers.extend((0..setup.devices).map(|_| (number as u32, Receiver::new())));
        }
        if setup.devices > 1 && setup.target.protocol.copies_to_own_devices() {
            own = vec![NOT_HERE; streams.len()];
            for (number, _) in streams.iter().enumerate().filter(|(_, stream)| is_here(stream.from)) {
                own[number] = receivers.len() as u32;
                receivers.extend((1..setup.devices).map(|_| (number as u32, Receiver::new())));
            }
        }
        Traffic {
            ticks,
            figures: Box::new(Figures::new()),
            interval: 0,
            start_ns: 0,
            measured_ns: (u64::MAX, u64::MAX),
            next_edge_ns: u64::MAX,
            sides: vec![SentSide::default(); streams.len()],
            inbound,
            own,
            receivers,
            chance: Chance::new(setup.seed, 10 + thread as u64),
            payload: Vec::new(),
            time_before: None,
            missing: 0,
            due: 0,
            delivered: 0,
            acknowledged: 0,
            excepted: 0,
            harvest: Harvest::default(),
            setup,
        }
    }

    /// The run begins then.
    pub fn started(&mut self, start_ns: u64) {
        let at = |seconds: f64| start_ns + (seconds * 1e9) as u64;
        let intervals = &self.setup.intervals;
        self.start_ns = start_ns;
        self.measured_ns = (at(intervals.measured_from_s()), at(intervals.measured_to_s()));
        self.next_edge_ns = intervals.begins.get(1).map_or(u64::MAX, |(from, _)| at(*from));
        if intervals.begins[0].1 != Phase::WarmUp {
            self.time_before = ThreadTime::now();
        }
    }

    /// When the measured time ends.
    pub fn measured_to_ns(&self) -> u64 {
        self.measured_ns.1
    }

    /// Closes the intervals that are over.
    pub fn roll(&mut self, now: u64) {
        while now >= self.next_edge_ns {
            self.close_interval();
            let begins = &self.setup.intervals.begins;
            let is_measured = |index: usize| matches!(begins[index].1, Phase::Step(_));
            match (is_measured(self.interval - 1), is_measured(self.interval)) {
                (false, true) => self.time_before = ThreadTime::now(),
                (true, false) => {
                    self.harvest.busy = self.time_before.zip(ThreadTime::now()).map(|(from, to)| to.since(from));
                }
                _ => {}
            }
            self.next_edge_ns =
                begins.get(self.interval + 1).map_or(u64::MAX, |(from, _)| self.start_ns + (from * 1e9) as u64);
        }
    }

    fn close_interval(&mut self) {
        let figures = std::mem::replace(&mut self.figures, Box::new(Figures::new()));
        // Nobody listens only when the run has failed already.
        let _ = self.ticks.send(Tick { interval: self.interval, figures });
        self.interval += 1;
    }

    /// One of the streams of a user, drawn evenly; `None` when it has none.
    pub fn pick(&mut self, user: u32) -> Option<u32> {
        let streams = self.setup.conversations.of(user);
        match streams.len() {
            0 => None,
            1 => Some(streams.start as u32),
            count => Some((streams.start + self.chance.below(count)) as u32),
        }
    }

    /// An index below `count`, for whoever needs chance.
    pub fn draw(&mut self, count: usize) -> usize {
        self.chance.below(count)
    }

    /// Makes the next message of a stream.
    pub fn next_message(&mut self, stream: u32, at_ns: u64) -> (Flight, &[u8]) {
        let side = &mut self.sides[stream as usize];
        side.sent += 1;
        let sequence = side.sent;
        let size = self.setup.sizes.draw(&mut self.chance);
        self.payload.resize(size, 0);
        Mark { stream, sequence, at_ns }.write(&mut self.payload);
        self.figures.sent += 1;
        (Flight { at_ns, stream, sequence }, &self.payload)
    }

    /// How late the generator looked at something that was due.
    pub fn lagged(&mut self, due_ns: u64, now: u64) {
        if self.is_measured(due_ns) {
            self.figures.lag.saturating_record(now.saturating_sub(due_ns).max(1));
        }
    }

    fn is_measured(&self, at_ns: u64) -> bool {
        (self.measured_ns.0..self.measured_ns.1).contains(&at_ns)
    }

    /// The server has it.
    pub fn acknowledged(&mut self, flight: Flight, now: u64) {
        self.acknowledged += 1;
        self.figures.acknowledged += 1;
        self.due += self.copies(flight.stream);
        if self.is_measured(flight.at_ns) {
            self.figures.ack.saturating_record(now.saturating_sub(flight.at_ns).max(1));
        }
        if self.setup.watch_outage
            && let Some(ms) = self.ms_of(now)
        {
            if self.harvest.line.len() <= ms {
                self.harvest.line.resize(ms + 1, 0);
            }
            self.harvest.line[ms] += 1;
        }
    }

    fn ms_of(&self, now: u64) -> Option<usize> {
        let ms = (now.checked_sub(self.start_ns)? / 1_000_000) as usize;
        (self.start_ns > 0 && ms < OUTAGE_LINE_MS_MAX).then_some(ms)
    }

    fn copies(&self, stream: u32) -> u64 {
        let setup = &self.setup;
        let present = (setup.conversations.streams[stream as usize].to as usize) < setup.present;
        let recipients = if present { setup.devices } else { 0 };
        let own = if setup.target.protocol.copies_to_own_devices() { setup.devices - 1 } else { 0 };
        (recipients + own) as u64
    }

    /// The server does not want it.
    pub fn refused(&mut self, flight: Flight, reason: u16, now: u64) {
        self.harvest.faults.refused += 1;
        self.except(flight);
        self.failed(now, || format!("a send was refused with code {reason}"));
    }

    /// Its connection broke before it was answered.
    pub fn unknown(&mut self, flight: Flight) {
        self.harvest.unknown += 1;
        self.except(flight);
    }

    /// It was not answered until the end, though its connection lived.
    pub fn unanswered(&mut self, flight: Flight) {
        self.harvest.faults.unanswered += 1;
        self.except(flight);
    }

    fn except(&mut self, flight: Flight) {
        self.excepted += 1;
        self.sides[flight.stream as usize].excepted.push(flight.sequence);
    }

    /// Something went wrong; the first time is kept.
    pub fn failed(&mut self, now: u64, what: impl FnOnce() -> String) {
        if self.harvest.first_failure_ms.is_none() {
            self.harvest.first_failure_ms = self.ms_of(now).map(|ms| ms as u64);
            self.harvest.trouble = Some(what());
        }
    }

    /// A delivery to one of the devices here, open since then.
    pub fn delivered(
        &mut self,
        device: (u32, u8),
        open_since_ns: u64,
        order: Option<(u64, i64)>,
        payload: &[u8],
        now: u64,
    ) {
        let Some((mark, place)) =
            Mark::read(payload).and_then(|mark| Some((mark, self.place_of(mark.stream, device)?)))
        else {
            self.damaged();
            return;
        };
        let receiver = &mut self.receivers[place].1;
        let missing = receiver.missing();
        let counts = receiver.take(mark, order);
        self.missing = self.missing + receiver.missing() - missing;
        if !counts {
            return;
        }
        self.delivered += 1;
        self.figures.delivered += 1;
        if mark.at_ns < open_since_ns {
            self.figures.waited += 1;
        } else if self.is_measured(mark.at_ns) {
            self.figures.delivery.saturating_record(now.saturating_sub(mark.at_ns).max(1));
        }
    }

    fn place_of(&self, stream: u32, (user, device): (u32, u8)) -> Option<usize> {
        let ends = self.setup.conversations.streams.get(stream as usize)?;
        if ends.to == user {
            return Some(self.inbound[stream as usize] as usize + usize::from(device));
        }
        (ends.from == user && device > 0 && !self.own.is_empty())
            .then(|| self.own[stream as usize] as usize + usize::from(device) - 1)
    }

    /// Something came that cannot be read, or is for somebody else.
    pub fn damaged(&mut self) {
        self.harvest.faults.damaged += 1;
    }

    /// A device has connected again.
    pub fn reconnected(&mut self, device: (u32, u8)) {
        for number in 0..self.receivers.len() {
            let stream = self.receivers[number].0;
            if self.place_of(stream, device) == Some(number) {
                self.receivers[number].1.reconnected();
            }
        }
    }

    /// Never sent, because there was no room until the end: it has waited at least so long.
    pub fn unsent(&mut self, due_ns: u64, now: u64) {
        self.harvest.unsent += 1;
        if self.is_measured(due_ns) {
            self.figures.ack.saturating_record(now.saturating_sub(due_ns).max(1));
            self.figures.delivery.saturating_record(now.saturating_sub(due_ns).max(1));
        }
    }

    /// Tells how far it is.
    pub fn publish(&self, counters: &Counters) {
        counters.due.store(self.due, Ordering::Relaxed);
        counters.delivered.store(self.delivered, Ordering::Relaxed);
        counters.acknowledged.store(self.acknowledged, Ordering::Relaxed);
        counters.excepted.store(self.excepted, Ordering::Relaxed);
        counters.missing.store(self.missing as u64, Ordering::Relaxed);
    }

    /// Hands everything over.
    pub fn finish(mut self) -> Harvest {
        self.close_interval();
        let sides = self.sides.into_iter().enumerate().filter(|(_, side)| side.sent > 0);
        self.harvest.sent = sides.map(|(stream, side)| (stream as u32, side)).collect();
        self.harvest.received = self.receivers;
        self.harvest
    }
}
