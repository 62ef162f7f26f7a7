//! `loadgen capacity`: the highest rate at which a server keeps its promises and a bound of latency. It doubles the rate until one is too
//! high, then halves the distance. Each try is a run of its own with fresh users.

use clap::Args;

use crate::commands::{Ending, Output, head_of, keep, server_record};
use crate::machine::Machine;
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::record::{Record, RunRecord, ServerRecord};
use crate::run::run;
use crate::table;
use crate::verdict::Kind;

/// Tries at most, whatever the precision asked for.
const TRIES_MAX: usize = 40;

/// When this rate is too high, no rate holds.
const RATE_MIN: f64 = 1.0;

/// At the intended rate, so large a share must be answered within the time.
const RATE_SHARE_MIN: f64 = 0.99;

/// How it is searched.
#[derive(Args, Clone, Copy, Debug)]
pub struct Search {
    /// p99 of send → delivery must stay within so many milliseconds
    #[arg(long, default_value_t = 10.0, value_name = "MS")]
    pub p99: f64,
    /// First rate that is tried, in messages per second
    #[arg(long, default_value_t = 1000.0)]
    pub from: f64,
    /// No rate above this is tried
    #[arg(long, default_value_t = 10_000_000.0)]
    pub to: f64,
    /// Good enough when the distance is so large a share of the rate
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub precision: f64,
    /// A rate counts as too high when it fails so many times in a row
    #[arg(long, default_value_t = 2)]
    pub tries: usize,
}

/// What became of one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// It held.
    Held,
    /// The server did not hold it.
    TooHigh,
    /// The generator could not make it.
    BeyondGenerator,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The highest rate that held; 0 when none did.
    pub rate: f64,
    /// The server may do more: the generator, or the bound of the search, was the limit.
    pub at_least: bool,
}

/// The search alone.
///
/// # Errors
/// Those of `attempt`.
pub fn search(search: &Search, mut attempt: impl FnMut(f64) -> Result<Try, String>) -> Result<Found, String> {
    let (mut held, mut failed, mut limit) = (0.0, None, Try::TooHigh);
    let mut rate = search.from.min(search.to);
    for _ in 0..TRIES_MAX {
        match attempt(rate)? {
            Try::Held => held = rate,
            other => (failed, limit) = (Some(rate), other),
        }
        rate = match failed {
            None if held >= search.to => return Ok(Found { rate: held, at_least: true }),
            None => (held * 2.0).min(search.to),
            Some(failed) if failed - held <= failed * search.precision || failed < RATE_MIN => break,
            Some(failed) => f64::midpoint(held, failed),
        };
    }
    Ok(Found { rate: held, at_least: limit == Try::BeyondGenerator })
}

fn judge(run: &RunRecord, rate: f64, p99_ms: f64) -> Try {
    match run.verdict.kind {
        Kind::Faulty => Try::TooHigh,
        Kind::Invalid => Try::BeyondGenerator,
        Kind::Good => {
            let fast = run.delivery.p99 <= p99_ms * 1000.0;
            if fast && run.acknowledged_per_second >= rate * RATE_SHARE_MIN { Try::Held } else { Try::TooHigh }
        }
    }
}

/// Searches, and prints what was found.
///
/// # Errors
/// One sentence: it could not be run.
pub fn find(options: &RunOptions, how: &Search, output: &Output) -> Result<Ending, String> {
    if !(how.from > 0.0 && how.to >= how.from && how.p99 > 0.0 && how.precision > 0.0) {
        return Err("--from, --to, --p99 and --precision are more than 0, and --to is not below --from".to_owned());
    }
    let machine = Machine::here();
    let mut server = None;
    let mut last_held: Option<(String, RunRecord)> = None;
    let found = search(how, |rate| {
        let mut outcome = Try::TooHigh;
        for _ in 0..how.tries.max(1) {
            let seconds = options.seconds.or(Some(5.0));
            let options = RunOptions { mode: Some(format!("open:{rate}")), seconds, ..options.clone() };
            let number = server.as_ref().map_or(0, |server: &ServerRecord| server.runs.len()) + 1;
            let setup = options.numbered(number).setup()?;
            let head = head_of(&setup, &options);
            let server = server
                .get_or_insert_with(|| server_record(&setup, &options, setup.target.text.clone(), output.note.clone()));
            let record = run(setup, &options.watch(), Progress::new(&format!("{rate:.0}/s  "), output.progress))?;
            outcome = judge(&record, rate, how.p99);
            println!(
                "{rate:>10.0} msg/s  p99 {:>9}  acknowledged {:>10.0} msg/s  {}",
                table::time(record.delivery.p99),
                record.acknowledged_per_second,
                match outcome {
                    Try::Held => "held".to_owned(),
                    Try::TooHigh if record.verdict.kind == Kind::Faulty =>
                        format!("too high: {}", record.verdict.reasons.join("; ")),
                    Try::TooHigh => "too high".to_owned(),
                    Try::BeyondGenerator => record.verdict.reasons.join("; "),
                }
            );
            server.runs.push(record.clone());
            if outcome == Try::Held {
                last_held = Some((head, record));
                break;
            }
        }
        Ok(outcome)
    })?;
    let (rate, p99) = (found.rate, how.p99);
    let ending = match (&last_held, found.at_least) {
        (None, true) => {
            println!("\ncapacity         cannot be told: the generator was the bottleneck at every rate");
            Ending::Undecided
        }
        (None, false) => {
            println!("\ncapacity         none: {:.0} msg/s is too much already", how.from);
            Ending::Bad
        }
        (Some((head, record)), at_least) => {
            println!("\n{}", table::of_run(head, record));
            let at_least = if at_least { "at least " } else { "" };
            println!("capacity         {at_least}{rate:.0} msg/s with p99 ≤ {p99} ms, nothing lost");
            if found.at_least { Ending::Undecided } else { Ending::Good }
        }
    };
    keep(&Record::new(server.into_iter().collect(), machine), output)?;
    Ok(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(from: f64, to: f64) -> Search {
        Search { p99: 1.0, from, to, precision: 0.05, tries: 1 }
    }

    fn found(limit: f64, generator: f64, from: f64, to: f64) -> (Found, usize) {
        let mut tries = 0;
        let attempt = |rate: f64| {
            tries += 1;
            Ok(if rate > generator {
                Try::BeyondGenerator
            } else if rate > limit {
                Try::TooHigh
            } else {
                Try::Held
            })
        };
        let found = search(&how(from, to), attempt).expect("no try fails");
        (found, tries)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for from in [100.0, 7000.0, 1_000_000.0] {
            let (found, tries) = found(7000.0, f64::MAX, from, 1e9);
            assert!(
                found.rate <= 7000.0 && found.rate > 6600.0 && !found.at_least && tries < 20,
                "{found:?} in {tries}"
            );
        }
    }

    #[test]
    fn a_limit_that_is_not_the_servers_is_told() {
        assert_eq!(found(1e9, f64::MAX, 100.0, 5000.0).0, Found { rate: 5000.0, at_least: true });
        let (found, _) = found(1e9, 5000.0, 100.0, 1e9);
        assert!(found.at_least && found.rate <= 5000.0 && found.rate > 4700.0, "{found:?}");
    }

    #[test]
    fn nothing_held_is_no_capacity() {
        let (found, tries) = found(0.0, f64::MAX, 100.0, 1e9);
        assert!(found.rate == 0.0 && tries < 10, "{found:?} in {tries}");
    }
}
