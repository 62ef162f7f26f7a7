//! Whether a run counts: the server kept its promises, and what was measured was the server. Pure.

use serde::{Deserialize, Serialize};

use crate::verify::Faults;

/// Lag of the schedule that is never held against a run.
const LAG_ALLOWED_US: f64 = 1000.0;

/// Above it, lag is held against a run when it is more than this share of the latency that was measured.
const LAG_SHARE_MAX: f64 = 0.5;

/// A thread that runs for more than this share of the time has no reserve: the server may be faster than it shows.
const BUSY_SHARE_MAX: f64 = 0.95;

/// A thread that waits for a core for more than this share of the time measures the scheduler.
const STARVED_SHARE_MAX: f64 = 0.10;

/// The judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It counts.
    Good,
    /// The server did not do what it promised.
    Faulty,
    /// The generator was the bottleneck: the figures say nothing about the server.
    Invalid,
}

/// The judgement with its reasons, each one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it is.
    pub kind: Kind,
    /// Why, when it is not good.
    pub reasons: Vec<String>,
}

/// What it is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Of all threads.
    pub faults: Faults,
    /// Messages were to be sent.
    pub talks: bool,
    /// How many the server has answered.
    pub answered: u64,
    /// Sessions, and how many of them were alive at the end.
    pub alive: Option<(usize, usize)>,
    /// Percentile 99 of the schedule's lag, in an open loop.
    pub lag_p99_us: Option<f64>,
    /// Percentile 99 of send → delivery.
    pub latency_p99_us: f64,
    /// The largest share of the time that a thread ran.
    pub busy_share: f64,
    /// The largest share of the time that a thread waited for a core.
    pub starved_share: f64,
}

/// Judges.
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut faults = Vec::new();
    if !evidence.faults.is_none() {
        faults.push("messages were not delivered once, whole and in order, or not answered: see the faults".to_owned());
    }
    if evidence.talks && evidence.answered == 0 {
        faults.push("nothing was answered at all".to_owned());
    }
    if let Some((sessions, alive)) = evidence.alive.filter(|(sessions, alive)| alive < sessions) {
        faults.push(format!("{} of {sessions} sessions do not answer any more", sessions - alive));
    }
    if !faults.is_empty() {
        return Verdict { kind: Kind::Faulty, reasons: faults };
    }
    let mut doubts = Vec::new();
    if !evidence.talks {
        return Verdict { kind: Kind::Good, reasons: doubts };
    }
    let allowed = LAG_ALLOWED_US.max(evidence.latency_p99_us * LAG_SHARE_MAX);
    if let Some(lag) = evidence.lag_p99_us.filter(|lag| *lag > allowed) {
        doubts.push(format!(
            "the generator looked at its own schedule {lag:.0} µs late at p99, {allowed:.0} are allowed"
        ));
    }
    let share = |share: f64| share * 100.0;
    if evidence.busy_share > BUSY_SHARE_MAX {
        let busy = share(evidence.busy_share);
        doubts
            .push(format!("a thread of the generator was busy for {busy:.0} % of the time: the server may be faster"));
    }
    if evidence.starved_share > STARVED_SHARE_MAX {
        let starved = share(evidence.starved_share);
        doubts.push(format!("a thread of the generator waited for a core for {starved:.0} % of the time"));
    }
    let kind = if doubts.is_empty() { Kind::Good } else { Kind::Invalid };
    Verdict { kind, reasons: doubts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            talks: true,
            answered: 1,
            lag_p99_us: Some(900.0),
            latency_p99_us: 500.0,
            busy_share: 0.9,
            ..Evidence::default()
        }
    }

    fn kind(change: impl Fn(&mut Evidence)) -> Kind {
        let mut evidence = evidence();
        change(&mut evidence);
        let verdict = judge(&evidence);
        assert_eq!(verdict.reasons.is_empty(), verdict.kind == Kind::Good);
        verdict.kind
    }

    #[test]
    fn what_the_server_did_wrong_is_faulty_and_wins() {
        assert_eq!(kind(|_| {}), Kind::Good);
        assert_eq!(kind(|evidence| evidence.faults.lost = 1), Kind::Faulty);
        assert_eq!(kind(|evidence| evidence.answered = 0), Kind::Faulty);
        assert_eq!(kind(|evidence| evidence.alive = Some((10, 9))), Kind::Faulty);
        assert_eq!(kind(|evidence| evidence.alive = Some((10, 10))), Kind::Good);
        assert_eq!(
            kind(|evidence| {
                evidence.busy_share = 1.0;
                evidence.faults.doubled = 1;
            }),
            Kind::Faulty
        );
    }

    #[test]
    fn a_generator_without_reserve_makes_a_run_invalid() {
        assert_eq!(kind(|evidence| evidence.busy_share = 0.97), Kind::Invalid);
        assert_eq!(kind(|evidence| evidence.starved_share = 0.2), Kind::Invalid);
        assert_eq!(kind(|evidence| evidence.lag_p99_us = Some(1100.0)), Kind::Invalid);
        assert_eq!(
            kind(|evidence| (evidence.talks, evidence.busy_share) = (false, 1.0)),
            Kind::Good,
            "nothing is timed"
        );
        let slow = |evidence: &mut Evidence| (evidence.lag_p99_us, evidence.latency_p99_us) = (Some(1100.0), 5000.0);
        assert_eq!(kind(slow), Kind::Good, "the lag is small beside what was measured");
    }
}
