//! What an outage was like for those who sent: when it began, when the rate was back, the longest silence. Pure.

use serde::{Deserialize, Serialize};

/// A silence shorter than this is none.
const SILENCE_MS_MIN: usize = 50;

/// The rate is back when it holds for so long.
const BACK_FOR_MS: usize = 1000;

/// Share of the rate before.
const BACK_SHARE: f64 = 0.99;

/// An outage, in milliseconds from the beginning of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// The first broken connection or refusal, or begin of the first silence.
    pub first_failure_ms: Option<u64>,
    /// From then until the rate was back at 99 % for a second; none if it never was.
    pub back_after_ms: Option<u64>,
    /// The longest time in which nothing was answered.
    pub longest_gap_ms: u64,
    /// Answers per second before the failure.
    pub rate_before: f64,
    /// Connections that broke.
    pub connections_broken: u64,
}

/// What is known besides the answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The first broken connection or refusal.
    pub failed_ms: Option<u64>,
    /// Connections that broke.
    pub connections_broken: u64,
    /// Messages per second that were meant to be sent, in an open loop: more before the failure was only catching up.
    pub intended: Option<f64>,
}

/// Looks at answers per millisecond; only `from_ms..to_ms` counts.
pub fn analyse(line: &[u32], from_ms: usize, to_ms: usize, known: Known) -> Outage {
    let Known { failed_ms, connections_broken, intended } = known;
    let line = &line[..line.len().min(to_ms)];
    let from_ms = from_ms.min(line.len());
    let (mut longest, mut first_silence, mut began) = (0, None, from_ms);
    for (at, _) in line.iter().enumerate().skip(from_ms).filter(|(_, answers)| **answers > 0) {
        let gap = at - began;
        if gap >= SILENCE_MS_MIN && first_silence.is_none() {
            first_silence = Some(began as u64);
        }
        longest = longest.max(gap);
        began = at + 1;
    }
    let tail = to_ms.saturating_sub(began);
    if tail >= SILENCE_MS_MIN && first_silence.is_none() {
        first_silence = Some(began as u64);
    }
    longest = longest.max(tail);
    let first = [failed_ms, first_silence].into_iter().flatten().min();
    let until = first.map_or(line.len(), |at| (at as usize).clamp(from_ms, line.len()));
    let sum = |from: usize, to: usize| line[from..to].iter().map(|answers| f64::from(*answers)).sum::<f64>();
    let per_ms = if until > from_ms { sum(from_ms, until) / (until - from_ms) as f64 } else { 0.0 };
    let per_ms = intended.map_or(per_ms, |intended| per_ms.min(intended / 1000.0));
    let back = first.and_then(|first| {
        let wanted = per_ms * BACK_FOR_MS as f64 * BACK_SHARE;
        let last = line.len().checked_sub(BACK_FOR_MS)?;
        let found = (until..=last).find(|at| line[*at] > 0 && sum(*at, at + BACK_FOR_MS) >= wanted)?;
        Some(found as u64 - first.min(found as u64))
    });
    Outage {
        first_failure_ms: first,
        back_after_ms: back,
        longest_gap_ms: longest as u64,
        rate_before: per_ms * 1000.0,
        connections_broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_found_and_the_way_back() {
        let mut line = vec![10; 6000];
        line[2000..2300].fill(0);
        line[2300..2800].fill(5);
        let outage = analyse(&line, 1000, 6000, Known { failed_ms: Some(2010), connections_broken: 3, intended: None });
        assert_eq!((outage.first_failure_ms, outage.longest_gap_ms, outage.connections_broken), (Some(2000), 300, 3));
        assert!((outage.rate_before - 10_000.0).abs() < 1e-6);
        // 99 % of a second's 10 000 may lack 100: the last 20 ms of the slow part.
        assert_eq!(outage.back_after_ms, Some(780));
        let slower =
            analyse(&line, 1000, 6000, Known { failed_ms: None, connections_broken: 0, intended: Some(5000.0) });
        assert_eq!((slower.rate_before, slower.back_after_ms), (5000.0, Some(300)), "half as much was wanted");
    }

    #[test]
    fn without_an_outage_there_is_none() {
        let outage = analyse(&[3; 3000], 0, 3000, Known::default());
        assert_eq!((outage.first_failure_ms, outage.back_after_ms, outage.longest_gap_ms), (None, None, 0));
    }

    #[test]
    fn what_never_comes_back_is_told() {
        let mut line = vec![10; 3000];
        line.truncate(2000);
        let outage = analyse(&line, 0, 3000, Known::default());
        assert_eq!((outage.first_failure_ms, outage.back_after_ms, outage.longest_gap_ms), (Some(2000), None, 1000));
        assert_eq!(analyse(&[], 0, 100, Known::default()).longest_gap_ms, 100);
    }
}
