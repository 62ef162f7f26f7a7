//! One run: starts the threads, lets them begin together, follows them, waits for what is under way, and puts together what they hand over.
//!
//! ```text
//! connecting ─► all open ─► warm-up ─► steps ─► drain: until everything has arrived, or nothing moves any more ─► judged
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::drivers;
use crate::figures::{Figures, Phase, latency};
use crate::machine::utc_now;
use crate::options::Watch;
use crate::outage;
use crate::process::Cpu;
use crate::progress::Progress;
use crate::record::{GeneratorUse, Percentiles, RunRecord, Second, ServerUse, StepRecord};
use crate::schedule::Mode;
use crate::setup::{Coordination, Counters, Setup, Tick};
use crate::traffic::Harvest;
use crate::verdict::{Evidence, judge};
use crate::verify::{Faults, SentSide};
use crate::watch::Reading;
use crate::worker;

/// Between two looks at the threads.
const LOOK: Duration = Duration::from_millis(5);

/// From all sessions open to the beginning.
const LEAD_NS: u64 = 20_000_000;

/// Without a new open session for so long, connecting has failed.
const CONNECTING_QUIET_NS: u64 = 15_000_000_000;

/// After the end, without anything arriving for so long, what is missing counts as lost.
const QUIET_NS: u64 = 5_000_000_000;

/// The same when some outcomes are unknown and nobody can say what is still to come.
const QUIET_UNKNOWN_NS: u64 = 1_000_000_000;

/// After the end, what still waits for room is sent for so long.
const SEND_ON_NS: u64 = 10_000_000_000;

/// After the end, however much still arrives.
const DRAIN_NS_MAX: u64 = 120_000_000_000;

/// Clients in the field ping once a minute.
const PING_EVERY_NS: u64 = 60_000_000_000;

/// Idle sessions: the server may still be tidying up after the last handshake.
const SETTLE: Duration = Duration::from_secs(2);

/// Answers to the last round of pings.
const PONGS_WITHIN_NS: u64 = 10_000_000_000;

struct Leader<'a> {
    setup: Arc<Setup>,
    shared: Arc<Coordination>,
    watch: &'a Watch,
    ticks: Receiver<Tick>,
    threads: Vec<JoinHandle<Result<Harvest, String>>>,
    pending: BTreeMap<usize, (usize, Figures)>,
    time_line: Vec<Second>,
    steps: Vec<Figures>,
    measured: Figures,
    progress: Progress,
    memory: [Option<Reading>; 2],
    server: [Option<Reading>; 2],
    own: [Cpu; 2],
    connect_seconds: f64,
    began_at: String,
    alive: Option<usize>,
    /// Where the measured time did not last until its end: how long it was.
    ended_early_s: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// One sentence: the server is not there, or this machine does not allow it.
pub fn run(setup: Setup, watch: &Watch, progress: Progress) -> Result<RunRecord, String> {
    watch.check()?;
    allow_open_files(setup.sessions() as u64 + 64 * setup.threads as u64)?;
    let (protocol, address) = (setup.target.protocol, setup.target.addresses[0]);
    let prefix = setup.prefix.clone();
    drivers::prepare(protocol, address, &prefix)?;
    let (sender, ticks) = channel();
    let mut leader = Leader::new(setup, watch, ticks, progress);
    let outcome = leader.start(&sender).and_then(|()| {
        drop(sender);
        leader.all()
    });
    leader.shared.stop();
    let harvests = leader.join();
    drivers::tidy_up(protocol, address, &prefix);
    outcome?;
    Ok(leader.assemble(harvests?))
}

impl<'a> Leader<'a> {
    fn new(setup: Setup, watch: &'a Watch, ticks: Receiver<Tick>, progress: Progress) -> Leader<'a> {
        Leader {
            shared: Arc::new(Coordination::new(setup.threads)),
            ticks,
            threads: Vec::new(),
            pending: BTreeMap::new(),
            time_line: Vec::new(),
            steps: (0..setup.mode.steps()).map(|_| Figures::new()).collect(),
            measured: Figures::new(),
            progress,
            memory: [watch.read(), None],
            server: [None; 2],
            own: [Cpu::default(); 2],
            connect_seconds: 0.0,
            began_at: utc_now(),
            alive: None,
            ended_early_s: None,
            setup: Arc::new(setup),
            watch,
        }
    }

    fn start(&mut self, ticks: &Sender<Tick>) -> Result<(), String> {
        for thread in 0..self.setup.threads {
            let (setup, shared, ticks) = (self.setup.clone(), self.shared.clone(), ticks.clone());
            let builder = std::thread::Builder::new().name(format!("loadgen-{thread}"));
            let started = builder.spawn(move || worker::run(setup, shared, thread, ticks));
            self.threads.push(started.map_err(|fault| format!("no thread: {fault}"))?);
        }
        Ok(())
    }

    fn all(&mut self) -> Result<(), String> {
        self.connect()?;
        let start = self.shared.now_ns() + LEAD_NS;
        self.shared.start_at(start);
        let at = |seconds: f64| start + (seconds * 1e9) as u64;
        let (from, to) = (at(self.setup.intervals.measured_from_s()), at(self.setup.intervals.measured_to_s()));
        self.follow_until(from)?;
        self.read_use(0);
        let ended = self.follow_until(to)?;
        self.read_use(1);
        if ended < to {
            self.ended_early_s = Some((ended - from) as f64 / 1e9);
        }
        if self.setup.conversations.streams.is_empty() {
            return self.count_the_living();
        }
        self.drain(ended)
    }

    fn read_use(&mut self, which: usize) {
        self.server[which] = self.watch.read();
        self.own[which] = Cpu::of("self").unwrap_or_default();
    }

    fn connect(&mut self) -> Result<(), String> {
        let sessions = self.setup.sessions();
        let (mut open, mut moved) = (0, self.shared.now_ns());
        while open < sessions {
            self.look()?;
            let now = self.shared.now_ns();
            let opened = self.shared.sessions(|counters| &counters.open);
            if opened > open {
                (open, moved) = (opened, now);
            }
            if now > moved + CONNECTING_QUIET_NS {
                let target = &self.setup.target.text;
                return Err(format!("{target}: {open} of {sessions} sessions are open, and no more open"));
            }
            self.progress.connecting(open, sessions);
        }
        self.connect_seconds = self.shared.now_ns() as f64 / 1e9;
        if self.setup.conversations.streams.is_empty() {
            std::thread::sleep(SETTLE);
        }
        self.memory[1] = self.watch.read();
        Ok(())
    }

    /// Takes what the threads have finished; fails when one of them has.
    fn look(&mut self) -> Result<(), String> {
        match self.ticks.recv_timeout(LOOK) {
            Ok(tick) => self.take(tick),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
        }
        if let Some(at) = self.threads.iter().position(JoinHandle::is_finished) {
            let finished = self.threads.swap_remove(at).join();
            return Err(match finished {
                Ok(Err(why)) => why,
                Ok(Ok(_)) => "a thread ended before its time".to_owned(),
                Err(_) => "a thread of the generator has failed".to_owned(),
            });
        }
        Ok(())
    }

    /// Until then, or until every thread has sent its share and has its answers.
    fn follow_until(&mut self, until: u64) -> Result<u64, String> {
        let mut ping_at = self.shared.now_ns() + PING_EVERY_NS;
        loop {
            self.look()?;
            let now = self.shared.now_ns();
            if now >= until {
                return Ok(now);
            }
            if self.setup.messages.is_some()
                && self.shared.all_done()
                && self.shared.sum(|counters| &counters.in_flight) == 0
            {
                self.shared.stop_sending();
                return Ok(now);
            }
            if now >= ping_at {
                ping_at = now + PING_EVERY_NS;
                self.shared.ping_all();
            }
            self.progress.running(&self.shared, &self.time_line);
        }
    }

    fn drain(&mut self, ended: u64) -> Result<(), String> {
        let (mut moved, mut before) = (ended, 0);
        loop {
            self.look()?;
            let now = self.shared.now_ns();
            let sum = |counter: fn(&Counters) -> &AtomicU64| self.shared.sum(counter);
            let (delivered, due) = (sum(|counters| &counters.delivered), sum(|counters| &counters.due));
            let excepted = sum(|counters| &counters.excepted);
            let state = delivered + excepted + sum(|counters| &counters.acknowledged);
            if state != before {
                (before, moved) = (state, now);
            }
            let answered = sum(|counters| &counters.in_flight) == 0 && sum(|counters| &counters.waiting) == 0;
            let open = self.shared.sessions(|counters| &counters.open) == self.setup.sessions();
            let arrived = if excepted == 0 { delivered >= due } else { now > moved + QUIET_UNKNOWN_NS };
            if self.shared.all_done() && answered && open && arrived
                || now > moved + QUIET_NS
                || now > ended + DRAIN_NS_MAX
            {
                return Ok(());
            }
            if now > ended + SEND_ON_NS {
                self.shared.stop_sending();
            }
            self.progress.draining(&self.shared);
        }
    }

    fn count_the_living(&mut self) -> Result<(), String> {
        self.shared.ping_all();
        let until = self.shared.now_ns() + PONGS_WITHIN_NS;
        let mut alive = 0;
        while alive < self.setup.sessions() && self.shared.now_ns() < until {
            self.look()?;
            alive = self.shared.sessions(|counters| &counters.pongs);
        }
        self.alive = Some(alive.min(self.setup.sessions()));
        Ok(())
    }

    fn take(&mut self, tick: Tick) {
        let entry = self.pending.entry(tick.interval).or_insert_with(|| (0, Figures::new()));
        entry.0 += 1;
        entry.1 += &tick.figures;
        if entry.0 == self.setup.threads {
            self.close(tick.interval);
        }
    }

    fn close(&mut self, interval: usize) {
        let Some((_, figures)) = self.pending.remove(&interval) else { return };
        let (at_s, phase) = self.setup.intervals.begins[interval];
        let us =
            |histogram: &hdrhistogram::Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        self.time_line.push(Second {
            at_s,
            seconds: self.setup.intervals.length_s(interval),
            phase,
            sent: figures.sent,
            acknowledged: figures.acknowledged,
            delivered: figures.delivered,
            delivery_p50: us(&figures.delivery, 0.5),
            delivery_p99: us(&figures.delivery, 0.99),
            delivery_max: figures.delivery.max() as f64 / 1000.0,
            ack_p99: us(&figures.ack, 0.99),
            lag_p99: us(&figures.lag, 0.99),
        });
        let last = self.steps.len() - 1;
        match phase {
            Phase::Step(step) => {
                self.steps[step] += &figures;
                self.measured += &figures;
            }
            // What arrives after the end was sent before it: its latency counts, but it is no throughput.
            Phase::Drain | Phase::WarmUp => {
                let only_latency = Figures { sent: 0, acknowledged: 0, delivered: 0, ..figures };
                self.measured += &only_latency;
                if phase == Phase::Drain {
                    self.steps[last] += &only_latency;
                }
            }
        }
    }

    fn join(&mut self) -> Result<Vec<Harvest>, String> {
        let join = |thread: JoinHandle<Result<Harvest, String>>| {
            thread.join().map_err(|_| "a thread of the generator has failed".to_owned())?
        };
        let harvests = std::mem::take(&mut self.threads).into_iter().map(join).collect();
        while let Ok(tick) = self.ticks.try_recv() {
            self.take(tick);
        }
        let left: Vec<usize> = self.pending.keys().copied().collect();
        left.into_iter().for_each(|interval| self.close(interval));
        self.time_line.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
        harvests
    }

    fn assemble(mut self, harvests: Vec<Harvest>) -> RunRecord {
        self.progress.end();
        let setup = self.setup.clone();
        let seconds =
            self.ended_early_s.unwrap_or_else(|| setup.intervals.measured_to_s() - setup.intervals.measured_from_s());
        let (faults, redelivered) = total_faults(&harvests);
        let generator = self.generator_use(&harvests, seconds);
        let mut connects = latency();
        harvests.iter().flat_map(|harvest| &harvest.connects).for_each(|ns| connects.saturating_record(*ns));
        let sum = |field: fn(&Harvest) -> u64| harvests.iter().map(field).sum::<u64>();
        let is_open = matches!(setup.mode, Mode::Open { .. });
        let figures = &self.measured;
        let delivery = Percentiles::of(&figures.delivery);
        let lag = Percentiles::of(&figures.lag);
        let verdict = judge(&Evidence {
            faults,
            talks: !setup.conversations.streams.is_empty(),
            // Also what was answered only after the end.
            answered: figures.acknowledged + figures.ack.len(),
            alive: self.alive.map(|alive| (setup.sessions(), alive)),
            lag_p99_us: is_open.then_some(lag.p99),
            latency_p99_us: delivery.p99,
            busy_share: generator.busy_share,
            starved_share: generator.starved_share,
        });
        RunRecord {
            began_at: self.began_at.clone(),
            seconds,
            users: setup.present,
            sessions: setup.sessions(),
            streams: setup.conversations.streams.len(),
            streams_crossing: setup.conversations.crossing(&setup.users),
            sent: figures.sent,
            acknowledged: figures.acknowledged,
            delivered: figures.delivered,
            acknowledged_per_second: figures.acknowledged as f64 / seconds,
            delivered_per_second: figures.delivered as f64 / seconds,
            ack: Percentiles::of(&figures.ack),
            delivery,
            lag,
            connect: Percentiles::of(&connects),
            connect_seconds: self.connect_seconds,
            delivered_late: figures.waited,
            redelivered,
            unknown: sum(|harvest| harvest.unknown),
            unsent: sum(|harvest| harvest.unsent),
            faults,
            trouble: harvests.iter().find_map(|harvest| harvest.trouble.clone()),
            steps: self.step_records(),
            time_line: std::mem::take(&mut self.time_line),
            server: self.server_use(),
            generator,
            outage: setup.watch_outage.then(|| outage_of(&setup, &harvests)),
            alive: self.alive,
            verdict,
        }
    }

    fn step_records(&self) -> Vec<StepRecord> {
        let per_step = self.setup.intervals.measured_to_s() - self.setup.intervals.measured_from_s();
        let per_step = self.ended_early_s.unwrap_or(per_step) / self.steps.len() as f64;
        let record = |(step, figures): (usize, &Figures)| StepRecord {
            intended: match &self.setup.mode {
                Mode::Open { steps } => steps.get(step).copied(),
                Mode::Closed { .. } => None,
            },
            acknowledged_per_second: figures.acknowledged as f64 / per_step,
            ack: Percentiles::of(&figures.ack),
            delivery: Percentiles::of(&figures.delivery),
        };
        self.steps.iter().enumerate().map(record).collect()
    }

    fn server_use(&self) -> Option<ServerUse> {
        let [Some(from), Some(to)] = self.server else { return None };
        let per_session = |field: fn(&Reading) -> f64| match self.memory {
            [Some(before), Some(after)] => (field(&after) - field(&before)) / self.setup.sessions() as f64,
            _ => 0.0,
        };
        let (user, system) = (to.user - from.user, to.system - from.system);
        Some(ServerUse {
            user_seconds: user,
            system_seconds: system,
            cpu_per_message: self.per_message(user + system),
            resident_bytes: to.resident as u64,
            anonymous_bytes: to.anonymous as u64,
            resident_per_session: per_session(|reading| reading.resident),
            anonymous_per_session: per_session(|reading| reading.anonymous),
        })
    }

    /// Microseconds for each delivery, or for each answered send where nobody is there to get it; 0 when there was none.
    fn per_message(&self, seconds: f64) -> f64 {
        match self.measured.delivered.max(self.measured.acknowledged) {
            0 => 0.0,
            messages => seconds * 1e6 / messages as f64,
        }
    }

    fn generator_use(&self, harvests: &[Harvest], seconds: f64) -> GeneratorUse {
        let cpu = self.own[1].since(self.own[0]).total();
        let most = |field: fn(&crate::process::ThreadTime) -> f64| {
            harvests.iter().filter_map(|harvest| harvest.busy.as_ref()).map(field).fold(0.0, f64::max) / seconds
        };
        GeneratorUse {
            cpu_seconds: cpu,
            cpu_per_message: self.per_message(cpu),
            busy_share: most(|time| time.running),
            starved_share: most(|time| time.starved),
        }
    }
}

/// Every stream judged, at every device; and how many copies were allowed.
fn total_faults(harvests: &[Harvest]) -> (Faults, u64) {
    let sent: BTreeMap<u32, &SentSide> =
        harvests.iter().flat_map(|harvest| &harvest.sent).map(|(stream, side)| (*stream, side)).collect();
    let (mut faults, mut redelivered, nothing) = (Faults::default(), 0, SentSide::default());
    for harvest in harvests {
        faults += harvest.faults;
        for (stream, receiver) in &harvest.received {
            faults += receiver.judge(sent.get(stream).copied().unwrap_or(&nothing));
            redelivered += receiver.redelivered();
        }
    }
    (faults, redelivered)
}

fn outage_of(setup: &Setup, harvests: &[Harvest]) -> outage::Outage {
    let mut line = Vec::new();
    for one in harvests.iter().map(|harvest| &harvest.line) {
        line.resize(one.len().max(line.len()), 0u32);
        line.iter_mut().zip(one).for_each(|(sum, answers)| *sum += answers);
    }
    let ms = |seconds: f64| (seconds * 1000.0) as usize;
    let known = outage::Known {
        failed_ms: harvests.iter().filter_map(|harvest| harvest.first_failure_ms).min(),
        connections_broken: harvests.iter().map(|harvest| harvest.broken).sum(),
        intended: match &setup.mode {
            Mode::Open { steps } => steps.iter().map(|(from, to)| from.min(*to)).reduce(f64::min),
            Mode::Closed { .. } => None,
        },
    };
    let (from, to) = (setup.intervals.measured_from_s(), setup.intervals.measured_to_s());
    outage::analyse(&line, ms(from), ms(to), known)
}

fn allow_open_files(wanted: u64) -> Result<(), String> {
    let fault = |fault: std::io::Error| format!("{wanted} open files are needed: {fault}");
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).map_err(fault)?;
    if soft >= wanted {
        return Ok(());
    }
    rlimit::setrlimit(rlimit::Resource::NOFILE, wanted, hard.max(wanted))
        .map_err(|fault| format!("{wanted} open files are needed, {hard} are allowed: {fault}"))
}
