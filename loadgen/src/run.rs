//! `loadgen run`: users in pairs, each sending to its partner with a bounded number of unanswered SENDs, or at a fixed rate
//! (open loop). Every delivery is verified; latency is kept as two histograms. It reports and judges, it never retries: a
//! refused message is a fault of the run.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::fleet::Fleet;
use crate::process::{Cpu, Memory};
use crate::spread::Placed;
use crate::verify::{Faults, Mark, Receiver};
use crate::wire::Heard;

/// Open loop: between two looks at the schedule.
const OPEN_PACE: Duration = Duration::from_micros(100);

/// After the end of the measured time, how long without a delivery before what is missing counts as lost.
const QUIET_NS: u64 = 5_000_000_000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pairs of users, and where.
    pub users: Vec<Placed>,
    /// Without the cipher.
    pub plain: bool,
    /// Unanswered SENDs per user.
    pub window: usize,
    /// Payload bytes.
    pub size: usize,
    /// Measured time.
    pub measured: Duration,
    /// Time before it.
    pub warm_up: Duration,
    /// Messages per second of all users together; `None` is a closed loop.
    pub rate: Option<f64>,
    /// The servers' processes.
    pub pids: Vec<u32>,
}

struct User {
    name: String,
    sent: u64,
    acknowledged: u64,
    sent_at: Vec<u64>,
    waiting: VecDeque<u64>,
    receiver: Receiver,
}

/// Counters of the measured time.
struct Measured {
    ack: Histogram<u64>,
    delivery: Histogram<u64>,
    delivered: u64,
    began_ns: u64,
    ended_ns: u64,
    server: [Option<Cpu>; 2],
    own: [Cpu; 2],
}

struct Run {
    plan: Plan,
    clock: Instant,
    fleet: Fleet,
    users: Vec<User>,
    measured: Measured,
    recording: bool,
    stopped: bool,
    refused: u64,
    last_progress_ns: u64,
    scheduled: u64,
    payload: Vec<u8>,
    number: String,
}

/// Runs the plan; `Ok(true)` when nothing is wrong.
pub fn run(plan: Plan) -> io::Result<bool> {
    let mut run = Run::prepare(plan)?;
    run.all_turns()?;
    Ok(run.report())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds are fixed and legal")
}

impl Run {
    fn prepare(plan: Plan) -> io::Result<Run> {
        let fleet = Fleet::connect(&plan.users, plan.plain)?;
        let ring = (plan.window * 2).next_power_of_two();
        let user = |number: usize| User {
            name: plan.users[number].name.clone(),
            sent: 0,
            acknowledged: 0,
            sent_at: vec![0; ring],
            waiting: VecDeque::new(),
            receiver: Receiver::new(partner_of(number) as u32),
        };
        let users = (0..plan.users.len()).map(user).collect();
        Ok(Run {
            clock: Instant::now(),
            fleet,
            users,
            measured: Measured {
                ack: histogram(),
                delivery: histogram(),
                delivered: 0,
                began_ns: 0,
                ended_ns: 0,
                server: [None; 2],
                own: [Cpu::default(); 2],
            },
            recording: false,
            stopped: false,
            refused: 0,
            last_progress_ns: 0,
            scheduled: 0,
            payload: vec![0; plan.size],
            number: String::new(),
            plan,
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn all_turns(&mut self) -> io::Result<()> {
        self.clock = Instant::now();
        let warm_ns = u64::try_from(self.plan.warm_up.as_nanos()).unwrap_or(u64::MAX);
        let end_ns = warm_ns + u64::try_from(self.plan.measured.as_nanos()).unwrap_or(u64::MAX);
        if self.plan.rate.is_none() {
            for number in 0..self.users.len() {
                for _ in 0..self.plan.window {
                    self.send(number, self.now_ns());
                }
            }
        }
        loop {
            let now = self.now_ns();
            if !self.recording && !self.stopped && now >= warm_ns {
                self.recording = true;
                self.measured.began_ns = now;
                self.read_cpu(0);
            }
            if !self.stopped && now >= end_ns {
                self.recording = false;
                self.stopped = true;
                self.measured.ended_ns = now;
                self.read_cpu(1);
                self.last_progress_ns = now;
            }
            if self.stopped && (self.is_complete() || now > self.last_progress_ns + QUIET_NS) {
                return Ok(());
            }
            self.send_scheduled(now);
            let scheduled = self.plan.rate.is_some() && !self.stopped;
            if scheduled {
                // A generator that spins takes its core from the kernel threads that finish the node's disk writes, and then measures
                // the scheduler's tick. What falls due meanwhile counts from its intended time.
                std::thread::sleep(OPEN_PACE);
            }
            let wait = if scheduled { 0 } else { 50 };
            let ready = self.fleet.turn(Duration::from_millis(wait))?;
            for number in &ready {
                self.read(*number)?;
            }
            self.fleet.turned(ready);
        }
    }

    fn read_cpu(&mut self, which: usize) {
        self.measured.server[which] = Cpu::of_all(&self.plan.pids);
        self.measured.own[which] = Cpu::of("self").unwrap_or_default();
    }

    fn is_complete(&self) -> bool {
        self.users.iter().enumerate().all(|(number, user)| {
            let delivered = self.users[partner_of(number)].receiver.count();
            user.acknowledged + self.refused >= user.sent && delivered >= user.acknowledged
        })
    }

    /// Open loop: everything that is due by now, at its intended time. A full window makes it wait, and the wait counts.
    fn send_scheduled(&mut self, now: u64) {
        let Some(rate) = self.plan.rate.filter(|_| !self.stopped) else {
            return;
        };
        loop {
            let due = (self.scheduled as f64 * 1e9 / rate) as u64;
            if due > now {
                return;
            }
            let number = (self.scheduled % self.users.len() as u64) as usize;
            self.scheduled += 1;
            let user = &mut self.users[number];
            if user.sent - user.acknowledged < self.plan.window as u64 {
                self.send(number, due);
            } else {
                user.waiting.push_back(due);
            }
        }
    }

    fn send(&mut self, number: usize, at_ns: u64) {
        let partner = partner_of(number);
        let user = &mut self.users[number];
        user.sent += 1;
        Mark { sender: number as u32, sequence: user.sent, at_ns }.write(&mut self.payload);
        self.number.clear();
        write!(self.number, "{:x}", user.sent).expect("writing to a string cannot fail");
        let to = &self.users[partner].name;
        let fleet = &mut self.fleet;
        let client_seq = fleet.wires[number].send(&mut fleet.scratch, to, &self.number, &self.payload);
        fleet.mark_dirty(number);
        let sent_at = &mut self.users[number].sent_at;
        let slot = client_seq as usize & (sent_at.len() - 1);
        sent_at[slot] = at_ns;
    }

    fn read(&mut self, number: usize) -> io::Result<()> {
        loop {
            let drained = self.fleet.wires[number].fill()?;
            let now = self.now_ns();
            while self.take_packet(number, now)? {}
            if drained {
                return Ok(());
            }
        }
    }

    /// Handles one packet; `false` when none is whole.
    fn take_packet(&mut self, number: usize, now: u64) -> io::Result<bool> {
        let fleet = &mut self.fleet;
        let user = &mut self.users[number];
        match fleet.wires[number].next(&mut fleet.scratch)? {
            None => return Ok(false),
            Some(Heard::Sendack { client_seq, reason }) => self.acknowledged(number, client_seq, reason, now),
            Some(Heard::Recv { message_id, message_seq, payload }) => {
                let mark = user.receiver.take(message_seq, message_id, payload);
                fleet.wires[number].recvack(message_id, message_seq);
                fleet.mark_dirty(number);
                self.last_progress_ns = now;
                if let Some(mark) = mark.filter(|_| self.recording) {
                    self.measured.delivered += 1;
                    self.measured.delivery.saturating_record(now.saturating_sub(mark.at_ns));
                }
            }
            Some(Heard::Damaged) => user.receiver.damaged(),
            Some(Heard::Other) => {}
            Some(Heard::Disconnected(reason)) => {
                return Err(io::Error::other(format!("{}: DISCONNECT with reason {reason}", user.name)));
            }
        }
        Ok(true)
    }

    fn acknowledged(&mut self, number: usize, client_seq: u32, reason: u8, now: u64) {
        let user = &mut self.users[number];
        self.last_progress_ns = now;
        if reason == 1 {
            user.acknowledged += 1;
        } else {
            self.refused += 1;
        }
        if self.recording {
            let slot = client_seq as usize & (user.sent_at.len() - 1);
            self.measured.ack.saturating_record(now.saturating_sub(user.sent_at[slot]));
        }
        if self.stopped {
            return;
        }
        if self.plan.rate.is_none() {
            self.send(number, now);
        } else if let Some(due) = user.waiting.pop_front() {
            self.send(number, due);
        }
    }

    fn report(&self) -> bool {
        let plan = &self.plan;
        let seconds = (self.measured.ended_ns - self.measured.began_ns) as f64 / 1e9;
        let delivered = self.measured.delivered;
        let per_message = |cpu: Cpu| cpu.total() * 1e6 / delivered.max(1) as f64;
        let mode = if plan.plain { "plain" } else { "cipher" };
        let pace = plan.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate:.0} msg/s"));
        println!(
            "{} users in pairs, window {}, {}-byte payloads, {mode}, {pace}, {seconds:.1} s measured",
            plan.users.len(),
            plan.window,
            plan.size
        );
        let crossing = plan.users.chunks(2).filter(|pair| pair[0].address != pair[1].address).count();
        if plan.users.iter().any(|user| user.address != plan.users[0].address) {
            println!("pairs            {crossing} on two nodes, {} on one", plan.users.len() / 2 - crossing);
        }
        println!("delivered        {delivered} messages, {:.0} msg/s", delivered as f64 / seconds);
        print_latency("send to ack", &self.measured.ack);
        print_latency("send to delivery", &self.measured.delivery);
        if let [Some(from), Some(to)] = self.measured.server {
            let cpu = to.since(from);
            let memory = Memory::of_all(&plan.pids).unwrap_or_default();
            println!(
                "server CPU       {:.2} µs per message ({:.0} % user), {:.2} cores; resident {:.1} MiB, anonymous {:.1} MiB",
                per_message(cpu),
                cpu.user * 100.0 / cpu.total().max(0.001),
                cpu.total() / seconds,
                memory.resident as f64 / 1048576.0,
                memory.anonymous as f64 / 1048576.0
            );
        }
        let own = self.measured.own[1].since(self.measured.own[0]);
        println!("generator CPU    {:.2} µs per message, {:.2} cores", per_message(own), own.total() / seconds);
        if plan.rate.is_none() && own.total() / seconds > 0.95 {
            println!("note             the generator was busy all the time: the server may be faster than this says");
        }
        let faults = self.faults();
        println!(
            "faults           lost {}, doubled {}, reordered {}, damaged {}, misnumbered {}, refused {}",
            faults.lost, faults.doubled, faults.reordered, faults.damaged, faults.misnumbered, faults.refused
        );
        let unanswered: u64 = self.users.iter().map(|user| user.sent - user.acknowledged).sum::<u64>() - self.refused;
        if unanswered > 0 {
            println!("unanswered       {unanswered} SENDs");
        }
        faults.is_none() && unanswered == 0 && delivered > 0
    }

    fn faults(&self) -> Faults {
        let mut all = Faults { refused: self.refused, ..Faults::default() };
        for (number, user) in self.users.iter().enumerate() {
            all.add(user.receiver.judge(self.users[partner_of(number)].acknowledged));
        }
        all
    }
}

fn partner_of(number: usize) -> usize {
    number ^ 1
}

fn print_latency(name: &str, histogram: &Histogram<u64>) {
    let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{name:<17}p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
        us(0.5),
        us(0.99),
        us(0.999),
        histogram.max() as f64 / 1000.0
    );
}
