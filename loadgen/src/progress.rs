//! The progress line on standard error while a run runs: rate, p99, in flight, lost so far. It is rewritten in place on a terminal and left out
//! where there is none, unless it is asked for.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::record::Second;
use crate::setup::Coordination;

const EVERY: Duration = Duration::from_millis(1000);

/// The line.
pub struct Progress {
    label: String,
    shown: bool,
    in_place: bool,
    last: Option<Instant>,
    answered: (u64, Option<Instant>),
}

impl Progress {
    /// `wanted` shows it even where there is no terminal.
    pub fn new(label: &str, wanted: bool) -> Progress {
        let in_place = std::io::stderr().is_terminal();
        Progress { label: label.to_owned(), shown: wanted || in_place, in_place, last: None, answered: (0, None) }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let mut out = std::io::stderr().lock();
        // Nobody can be told that standard error is gone.
        let _ = if self.in_place {
            write!(out, "\r\x1b[K{}{}", self.label, text()).and_then(|()| out.flush())
        } else {
            writeln!(out, "{}{}", self.label, text())
        };
    }

    /// While sessions open.
    pub fn connecting(&mut self, open: usize, sessions: usize) {
        self.show(|| format!("connecting: {open} of {sessions}"));
    }

    /// While messages flow.
    pub fn running(&mut self, shared: &Coordination, time_line: &[Second]) {
        let acknowledged = shared.sum(|counters| &counters.acknowledged);
        let (before, since) = self.answered;
        let due = self.last.is_none_or(|last| last.elapsed() >= EVERY);
        let rate = since.map_or(0.0, |since| (acknowledged - before) as f64 / since.elapsed().as_secs_f64().max(1e-9));
        let p99 = time_line.last().map_or(0.0, |second| second.delivery_p99 / 1000.0);
        let in_flight = shared.sum(|counters| &counters.in_flight);
        let waiting = shared.sum(|counters| &counters.waiting);
        let missing = shared.sum(|counters| &counters.missing);
        let at = shared.now_ns().saturating_sub(shared.started_ns().unwrap_or(u64::MAX)) as f64 / 1e9;
        self.show(|| {
            format!("{at:5.0} s  {rate:9.0} msg/s  p99 {p99:8.2} ms  in flight {in_flight}, waiting {waiting}  lost so far {missing}")
        });
        if due {
            self.answered = (acknowledged, Some(Instant::now()));
        }
    }

    /// While the rest arrives.
    pub fn draining(&mut self, shared: &Coordination) {
        let (delivered, due) = (shared.sum(|counters| &counters.delivered), shared.sum(|counters| &counters.due));
        self.show(|| format!("waiting for what is under way: {delivered} of {due} deliveries"));
    }

    /// Clears the line.
    pub fn end(&mut self) {
        if self.shown && self.in_place {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
