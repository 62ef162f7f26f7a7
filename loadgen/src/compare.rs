//! `loadgen compare`: is one record better or worse than another, beyond what runs of the same thing differ among themselves? Pure.
//!
//! For each figure the runs of both are ranked together, and it is counted how many ways of dealing the same ranks out would look at least as
//! different (the exact rank-sum test, ties as they fall). With three or fewer runs of each that can never be rare enough.

use std::fmt::Write as _;

use crate::commands::Ending;
use crate::record::{Record, RunRecord, ServerRecord};
use crate::verdict::Kind;

/// A difference that chance would make less often than this counts.
const CHANCE_MAX: f64 = 0.05;

/// A smaller difference does not matter, however certain it is.
const DIFFERENCE_MIN: f64 = 0.02;

/// Runs of each that are looked at; more would take the exact count too long.
const RUNS_MAX: usize = 10;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

type Figure = (&'static str, Better, fn(&RunRecord) -> Option<f64>);

/// What is compared.
const FIGURES: &[Figure] = &[
    ("acknowledged msg/s", Better::Higher, |run| Some(run.acknowledged_per_second)),
    ("send → ack p50, µs", Better::Lower, |run| timed(run.ack.count, run.ack.p50)),
    ("send → ack p99, µs", Better::Lower, |run| timed(run.ack.count, run.ack.p99)),
    ("send → delivery p50, µs", Better::Lower, |run| timed(run.delivery.count, run.delivery.p50)),
    ("send → delivery p99, µs", Better::Lower, |run| timed(run.delivery.count, run.delivery.p99)),
    ("send → delivery p99.9, µs", Better::Lower, |run| timed(run.delivery.count, run.delivery.p99_9)),
    ("server CPU µs/message", Better::Lower, |run| {
        run.server.map(|server| server.cpu_per_message).filter(|cpu| *cpu > 0.0)
    }),
];

fn timed(count: u64, value: f64) -> Option<f64> {
    (count > 0).then_some(value)
}

/// What is said of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Better,
    Worse,
    /// A certain difference is too small to matter, or none is certain although it could be.
    Same,
    /// It looks different, and there are too few runs to tell.
    Unsure,
}

/// Both as a table, and how it ends.
///
/// # Errors
/// One sentence: a record has nothing to compare.
pub fn compare(a: &Record, b: &Record) -> Result<(String, Ending), String> {
    let (a, b) = (only_server(a)?, only_server(b)?);
    let mut text = String::new();
    let different: Vec<_> = a
        .options
        .iter()
        .filter(|(key, value)| {
            !matches!(key.as_str(), "target" | "pids" | "prefix" | "metrics") && b.options.get(*key) != Some(value)
        })
        .map(|(key, value)| format!("{key}: {value} and {}", b.options.get(key).unwrap_or(&serde_json::Value::Null)))
        .collect();
    if !different.is_empty() {
        let _ = writeln!(text, "The options differ: {}.", different.join("; "));
    }
    let (good_a, good_b) = (good(a), good(b));
    let _ = writeln!(
        text,
        "A: {}, {} good runs of {}. B: {}, {} of {}.",
        a.name,
        good_a.len(),
        a.runs.len(),
        b.name,
        good_b.len(),
        b.runs.len()
    );
    if good_a.is_empty() || good_b.is_empty() {
        let _ = writeln!(text, "Nothing can be compared without good runs of both.");
        return Ok((text, Ending::Undecided));
    }
    let _ = writeln!(text, "\n{:<28} {:>12} {:>12} {:>8}  verdict", "median", "A", "B", "B/A");
    let mut findings = Vec::new();
    for (name, better, figure) in FIGURES {
        let values =
            |runs: &[&RunRecord]| runs.iter().filter_map(|run| figure(run)).take(RUNS_MAX).collect::<Vec<f64>>();
        let (in_a, in_b) = (values(&good_a), values(&good_b));
        if in_a.is_empty() || in_b.is_empty() {
            continue;
        }
        let (finding, chance) = judge(*better, &in_a, &in_b);
        let (of_a, of_b) = (median(&in_a), median(&in_b));
        let said = match finding {
            Finding::Better => format!("better (chance {chance:.3})"),
            Finding::Worse => format!("WORSE (chance {chance:.3})"),
            Finding::Same => "the same within the noise".to_owned(),
            Finding::Unsure => "too few runs to tell it from noise".to_owned(),
        };
        let _ = writeln!(text, "{name:<28} {of_a:>12.1} {of_b:>12.1} {:>8.3}  {said}", of_b / of_a);
        findings.push(finding);
    }
    let has = |finding| findings.contains(&finding);
    let (said, ending) = if has(Finding::Worse) && has(Finding::Better) {
        ("B is better in some and worse in others.", Ending::Bad)
    } else if has(Finding::Worse) {
        ("B is worse.", Ending::Bad)
    } else if has(Finding::Unsure) {
        ("It cannot be told: make at least four runs of each (run --repeat 5), best in turn.", Ending::Undecided)
    } else if has(Finding::Better) {
        ("B is better.", Ending::Good)
    } else {
        ("B is the same within the noise.", Ending::Good)
    };
    let _ = writeln!(text, "\n{said}");
    Ok((text, ending))
}

fn only_server(record: &Record) -> Result<&ServerRecord, String> {
    match &record.servers[..] {
        [one] => Ok(one),
        several => Err(format!("a comparison is of one server; the record has {}", several.len())),
    }
}

fn good(server: &ServerRecord) -> Vec<&RunRecord> {
    server.runs.iter().filter(|run| run.verdict.kind == Kind::Good).collect()
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn judge(better: Better, a: &[f64], b: &[f64]) -> (Finding, f64) {
    let chance = chance_of(a, b);
    let ratio = median(b) / median(a).max(f64::MIN_POSITIVE);
    let matters = (ratio - 1.0).abs() >= DIFFERENCE_MIN;
    let rises = ratio > 1.0;
    let finding = if matters && chance <= CHANCE_MAX {
        if rises == (better == Better::Higher) { Finding::Better } else { Finding::Worse }
    } else if matters && rarest(a.len(), b.len()) > CHANCE_MAX {
        Finding::Unsure
    } else {
        Finding::Same
    };
    (finding, chance)
}

/// The smallest chance that so many runs can show.
fn rarest(a: usize, b: usize) -> f64 {
    let ways = (1..=a).fold(1.0, |ways, step| ways * (b + step) as f64 / step as f64);
    2.0 / ways
}

/// How often chance alone would set both apart at least as far: the exact two-sided rank-sum test.
fn chance_of(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    // Twice the mean rank of equal values, so that it is whole.
    let rank = |value: f64| {
        let below = all.partition_point(|other| *other < value);
        let up_to = all.partition_point(|other| *other <= value);
        below + up_to + 1
    };
    let ranks: Vec<usize> = all.iter().map(|value| rank(*value)).collect();
    let seen: usize = a.iter().map(|value| rank(*value)).sum();
    let total: usize = ranks.iter().sum();
    // ways[k][s]: how many choices of k values have the rank sum s.
    let mut ways = vec![vec![0.0f64; total + 1]; a.len() + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for taken in (0..a.len()).rev() {
            for sum in (0..=total - rank).rev() {
                let more = ways[taken][sum];
                ways[taken + 1][sum + rank] += more;
            }
        }
    }
    let sums = &ways[a.len()];
    let all_ways: f64 = sums.iter().sum();
    let expected = total as f64 * a.len() as f64 / (a.len() + b.len()) as f64;
    let distance = (seen as f64 - expected).abs() - 1e-9;
    let as_far: f64 = sums
        .iter()
        .enumerate()
        .filter(|(sum, _)| (*sum as f64 - expected).abs() >= distance)
        .map(|(_, ways)| ways)
        .sum();
    as_far / all_ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_counts_exactly() {
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        assert!(near(chance_of(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1), "2 of 20 ways");
        assert!(near(chance_of(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]), 2.0 / 70.0));
        assert!(near(chance_of(&[1.0, 3.0], &[2.0, 4.0]), 4.0 / 6.0));
        assert!(near(chance_of(&[5.0; 4], &[5.0; 4]), 1.0), "nothing differs");
        assert!(near(rarest(4, 4), 2.0 / 70.0));
    }

    #[test]
    fn a_difference_counts_when_it_is_certain_and_matters() {
        let four = |from: f64, step: f64| (0..4).map(|index| from + step * f64::from(index)).collect::<Vec<f64>>();
        let finding = |a: &[f64], b: &[f64]| judge(Better::Lower, a, b).0;
        assert_eq!(finding(&four(100.0, 1.0), &four(120.0, 1.0)), Finding::Worse);
        assert_eq!(finding(&four(120.0, 1.0), &four(100.0, 1.0)), Finding::Better);
        assert_eq!(finding(&four(100.0, 0.1), &four(101.0, 0.1)), Finding::Same, "one percent does not matter");
        assert_eq!(finding(&four(100.0, 30.0), &four(110.0, 30.0)), Finding::Same, "they overlap");
        assert_eq!(finding(&[100.0], &[200.0]), Finding::Unsure);
        assert_eq!(judge(Better::Higher, &four(100.0, 1.0), &four(120.0, 1.0)).0, Finding::Better);
    }
}
