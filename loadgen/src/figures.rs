//! What is counted and timed, in intervals of about a second: each thread fills its own, and they are added up afterwards. Latencies are of
//! messages that were (to be) sent within the measured time, whenever they arrive; counts are of what happened in the interval. Pure.

use std::ops::AddAssign;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Nanoseconds, three significant digits, up to 100 s; what is longer counts as that.
pub type Latency = Histogram<u64>;

/// An empty one.
pub fn latency() -> Latency {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds are fixed and legal")
}

/// Of one interval, or of all.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Sends written or queued for the socket.
    pub sent: u64,
    /// Sends that the server has said it has.
    pub acknowledged: u64,
    /// Deliveries, copies to further devices included.
    pub delivered: u64,
    /// Deliveries of what was sent while the recipient was away; their latency is in no histogram.
    pub waited: u64,
    /// Send → acknowledgement.
    pub ack: Latency,
    /// Send → delivery.
    pub delivery: Latency,
    /// Open loop: from the intended time until the generator looked. This is the generator's fault, not the server's.
    pub lag: Latency,
}

impl Figures {
    /// Nothing yet.
    pub fn new() -> Figures {
        Figures {
            sent: 0,
            acknowledged: 0,
            delivered: 0,
            waited: 0,
            ack: latency(),
            delivery: latency(),
            lag: latency(),
        }
    }
}

impl AddAssign<&Figures> for Figures {
    fn add_assign(&mut self, other: &Figures) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.waited += other.waited;
        for (own, other) in
            [(&mut self.ack, &other.ack), (&mut self.delivery, &other.delivery), (&mut self.lag, &other.lag)]
        {
            own.add(other).expect("all have the same bounds");
        }
    }
}

/// What an interval belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before anything counts.
    WarmUp,
    /// A measured step, by number.
    Step(usize),
    /// After the end: what was sent arrives.
    Drain,
}

/// The run cut into intervals.
#[derive(Clone, Debug)]
pub struct Intervals {
    /// Begin of each in seconds, and what it belongs to. The last one has no end.
    pub begins: Vec<(f64, Phase)>,
}

impl Intervals {
    /// Each phase begins with a new interval; none is longer than a second.
    pub fn new(warm_up_s: f64, steps: usize, step_s: f64) -> Intervals {
        let mut begins = Vec::new();
        let mut from = 0.0;
        let phases =
            std::iter::once((Phase::WarmUp, warm_up_s)).chain((0..steps).map(|step| (Phase::Step(step), step_s)));
        for (phase, length) in phases {
            let whole = length.ceil() as usize;
            begins.extend((0..whole).map(|second| (from + second as f64, phase)));
            from += length;
        }
        begins.push((from, Phase::Drain));
        Intervals { begins }
    }

    /// When the measured time begins, in seconds.
    pub fn measured_from_s(&self) -> f64 {
        self.begins.iter().find(|(_, phase)| *phase != Phase::WarmUp).map_or(0.0, |(from, _)| *from)
    }

    /// When it ends.
    pub fn measured_to_s(&self) -> f64 {
        self.begins.last().map_or(0.0, |(from, _)| *from)
    }

    /// Length of one in seconds; 0 for the last.
    pub fn length_s(&self, index: usize) -> f64 {
        self.begins.get(index + 1).map_or(0.0, |next| next.0 - self.begins[index].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_keep_phases_apart() {
        let intervals = Intervals::new(0.5, 2, 1.5);
        let expected = [
            (0.0, Phase::WarmUp),
            (0.5, Phase::Step(0)),
            (1.5, Phase::Step(0)),
            (2.0, Phase::Step(1)),
            (3.0, Phase::Step(1)),
            (3.5, Phase::Drain),
        ];
        assert_eq!(intervals.begins, expected);
        assert_eq!((intervals.measured_from_s(), intervals.measured_to_s()), (0.5, 3.5));
        assert_eq!((intervals.length_s(2), intervals.length_s(5)), (0.5, 0.0));
        assert_eq!(Intervals::new(0.0, 1, 1.0).measured_from_s(), 0.0);
    }

    #[test]
    fn figures_add_up() {
        let mut one = Figures::new();
        let mut other = Figures::new();
        (one.sent, other.sent) = (1, 2);
        one.delivery.saturating_record(5);
        other.delivery.saturating_record(500_000_000_000);
        one += &other;
        assert_eq!((one.sent, one.delivery.len(), one.delivery.min()), (3, 2, 5));
        assert!(one.delivery.max() >= 100_000_000_000, "what is too long counts as the longest");
    }
}
