//! When messages are to be sent. A closed loop sends whenever there is room in its window; an open loop has a time for each message, which
//! does not depend on what the server does. Pure: it reads no clock.

use std::str::FromStr;
use std::sync::Arc;

use crate::chance::Chance;

/// What drives the sending.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// So many unanswered sends per user, always.
    Closed {
        /// How many.
        window: usize,
    },
    /// Messages per second of all users together, one pair (at its beginning, at its end) for each step.
    Open {
        /// The steps.
        steps: Vec<(f64, f64)>,
    },
}

impl Mode {
    /// Steps that are measured one by one.
    pub fn steps(&self) -> usize {
        match self {
            Mode::Closed { .. } => 1,
            Mode::Open { steps } => steps.len(),
        }
    }

    /// How a report names it.
    pub fn describe(&self) -> String {
        match self {
            Mode::Closed { window } => format!("closed loop, window {window}"),
            Mode::Open { steps } => {
                let step = |(from, to): &(f64, f64)| {
                    if from == to { format!("{from:.0}") } else { format!("{from:.0}..{to:.0}") }
                };
                format!("open loop at {} msg/s", steps.iter().map(step).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let fault = || {
            format!(
                "--mode {text}: write closed:WINDOW, open:RATE, open:RATE,RATE,… for steps or open:FROM..TO for a ramp"
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(fault)?;
        let rate = |text: &str| {
            text.trim().parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite()).ok_or_else(fault)
        };
        match kind {
            "closed" => match rest.parse() {
                Ok(0) => Err(format!("--mode {text}: with a window of 0 nothing would ever be sent")),
                Ok(window) if window <= WINDOW_MAX => Ok(Mode::Closed { window }),
                Ok(_) => Err(format!("--mode {text}: the window may be {WINDOW_MAX} at most")),
                Err(_) => Err(fault()),
            },
            "open" => {
                let step = |one: &str| match one.split_once("..") {
                    Some((from, to)) => Ok((rate(from)?, rate(to)?)),
                    None => rate(one).map(|rate| (rate, rate)),
                };
                Ok(Mode::Open { steps: rest.split(',').map(step).collect::<Result<_, String>>()? })
            }
            _ => Err(fault()),
        }
    }
}

/// Most unanswered sends of one user.
pub const WINDOW_MAX: usize = 4096;

/// Whether arrivals are evenly spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly.
    Constant,
    /// As independent users would.
    Poisson,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    from_s: f64,
    length_s: f64,
    rate_from: f64,
    rate_to: f64,
    /// Arrivals before it.
    before: f64,
}

impl Piece {
    fn arrivals(&self) -> f64 {
        (self.rate_from + self.rate_to) / 2.0 * self.length_s
    }
}

/// The intended rate over time.
#[derive(Clone, Debug)]
pub struct Schedule {
    pieces: Vec<Piece>,
}

impl Schedule {
    /// The warm-up has the rate at which the first step begins; each step is `step_s` long.
    pub fn new(steps: &[(f64, f64)], warm_up_s: f64, step_s: f64) -> Schedule {
        let mut schedule = Schedule { pieces: Vec::new() };
        let first = steps.first().map_or(0.0, |step| step.0);
        let warm_up = ((first, first), warm_up_s);
        for ((rate_from, rate_to), length_s) in std::iter::once(warm_up).chain(steps.iter().map(|step| (*step, step_s)))
        {
            let last = schedule.pieces.last();
            let from_s = last.map_or(0.0, |piece| piece.from_s + piece.length_s);
            let before = last.map_or(0.0, |piece| piece.before + piece.arrivals());
            if length_s > 0.0 {
                schedule.pieces.push(Piece { from_s, length_s, rate_from, rate_to, before });
            }
        }
        schedule
    }

    /// When so many have arrived, in nanoseconds from the beginning; `None` when the schedule is over by then.
    pub fn due_ns(&self, arrivals: f64) -> Option<u64> {
        let index = self.pieces.partition_point(|piece| piece.before <= arrivals).checked_sub(1)?;
        let piece = &self.pieces[index];
        let wanted = arrivals - piece.before;
        if wanted >= piece.arrivals() {
            return None;
        }
        // rate_from t + slope t²/2 = wanted, in the form that does not cancel.
        let slope = (piece.rate_to - piece.rate_from) / piece.length_s;
        let root = (piece.rate_from * piece.rate_from + 2.0 * slope * wanted).max(0.0).sqrt();
        let t = if wanted > 0.0 { 2.0 * wanted / (piece.rate_from + root) } else { 0.0 };
        Some(((piece.from_s + t) * 1e9) as u64)
    }
}

/// One thread's share of the arrivals.
#[derive(Clone, Debug)]
pub struct Arrivals {
    schedule: Arc<Schedule>,
    at: f64,
    stride: f64,
    chance: Option<Chance>,
}

impl Arrivals {
    /// Of `threads`, this is number `thread`.
    pub fn new(schedule: Arc<Schedule>, thread: usize, threads: usize, spacing: Spacing, seed: u64) -> Arrivals {
        let mut chance = (spacing == Spacing::Poisson).then(|| Chance::new(seed, 1000 + thread as u64));
        let stride = threads as f64;
        let at = chance.as_mut().map_or(thread as f64, |chance| chance.exponential() * stride);
        Arrivals { schedule, at, stride, chance }
    }

    /// The next one's time; `None` when there are no more.
    pub fn due_ns(&self) -> Option<u64> {
        self.schedule.due_ns(self.at)
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.at += self.stride * self.chance.as_mut().map_or(1.0, Chance::exponential);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: &Schedule, thread: usize, threads: usize, spacing: Spacing) -> Vec<u64> {
        let mut arrivals = Arrivals::new(Arc::new(schedule.clone()), thread, threads, spacing, 5);
        let mut times = Vec::new();
        while let Some(due) = arrivals.due_ns() {
            times.push(due);
            arrivals.advance();
        }
        times
    }

    #[test]
    fn a_constant_rate_is_evenly_spaced_whoever_sends() {
        let schedule = Schedule::new(&[(10.0, 10.0)], 0.0, 2.0);
        let one = times(&schedule, 0, 1, Spacing::Constant);
        assert_eq!((one.len(), one[0], one[19]), (20, 0, 1_900_000_000));
        let mut both = times(&schedule, 0, 2, Spacing::Constant);
        both.extend(times(&schedule, 1, 2, Spacing::Constant));
        both.sort_unstable();
        assert_eq!(both, one);
    }

    #[test]
    fn steps_and_ramps_have_the_arrivals_that_they_should() {
        let steps = times(&Schedule::new(&[(10.0, 10.0), (100.0, 100.0)], 1.0, 2.0), 0, 1, Spacing::Constant);
        let within = |from: u64, to: u64| steps.iter().filter(|at| (from..to).contains(*at)).count();
        assert_eq!((within(0, 1_000_000_000), within(1_000_000_000, 3_000_000_000), steps.len()), (10, 20, 230));
        let ramp = times(&Schedule::new(&[(0.001, 100.0)], 0.0, 2.0), 0, 1, Spacing::Constant);
        assert!((99..=101).contains(&ramp.len()), "{}", ramp.len());
        let first_half = ramp.iter().filter(|at| **at < 1_000_000_000).count();
        assert!((24..=26).contains(&first_half), "a quarter is in the first half: {first_half}");
        assert!(ramp.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_are_not_even() {
        let times = times(&Schedule::new(&[(1000.0, 1000.0)], 0.0, 20.0), 1, 2, Spacing::Poisson);
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 200_000).count();
        assert!(short > 500, "gaps a tenth of the mean are common: {short}");
    }

    #[test]
    fn modes_are_read_and_bad_ones_refused() {
        assert_eq!("closed:32".parse(), Ok(Mode::Closed { window: 32 }));
        assert_eq!("open:5,1..9".parse(), Ok(Mode::Open { steps: vec![(5.0, 5.0), (1.0, 9.0)] }));
        for text in ["closed", "closed:0", "closed:99999", "open:0", "open:-1", "open:1..x", "half:3"] {
            assert!(text.parse::<Mode>().expect_err("it is wrong").contains("--mode"), "{text}");
        }
    }
}
