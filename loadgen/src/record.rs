//! What is kept of runs: the JSON file. The schema is stable: fields are added, never renamed or given another meaning; what breaks that
//! gets another number in [`SCHEMA`]. Times are microseconds unless the name says otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::figures::{Latency, Phase};
use crate::machine::Machine;
use crate::outage::Outage;
use crate::verdict::Verdict;
use crate::verify::Faults;

/// Name and version of the schema.
pub const SCHEMA: &str = "jindou-loadgen/1";

/// Points of a percentile curve for each halving of the distance to 100 %.
const CURVE_TICKS: u32 = 4;

/// A file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it was made, UTC.
    pub made_at: String,
    /// Version of the generator.
    pub loadgen: String,
    /// Where it was made.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// The servers, each with its runs.
    pub servers: Vec<ServerRecord>,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerRecord {
    /// How tables name it.
    pub name: String,
    /// Which of several kinds of work; empty when there is one.
    #[serde(default)]
    pub work: String,
    /// What it is and how it was set, as far as it is known.
    pub note: String,
    /// Where it is.
    pub target: String,
    /// What was spoken.
    pub protocol: String,
    /// The server's own word on its version; empty where it says none.
    #[serde(default)]
    pub version: String,
    /// Options of the runs, the seed included, as they stood after profile and defaults.
    pub options: BTreeMap<String, serde_json::Value>,
    /// Runs with these options, oldest first.
    pub runs: Vec<RunRecord>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// When it began, UTC.
    pub began_at: String,
    /// Measured time in seconds.
    pub seconds: f64,
    /// Users, sessions and streams.
    pub users: usize,
    /// Connections.
    pub sessions: usize,
    /// Sender and recipient pairs.
    pub streams: usize,
    /// Those between two addresses.
    pub streams_crossing: usize,
    /// Within the measured time.
    pub sent: u64,
    /// Within the measured time.
    pub acknowledged: u64,
    /// Within the measured time, copies to further devices included.
    pub delivered: u64,
    /// Acknowledged per second.
    pub acknowledged_per_second: f64,
    /// Delivered per second.
    pub delivered_per_second: f64,
    /// Send → acknowledgement.
    pub ack: Percentiles,
    /// Send → delivery to a device that was there.
    pub delivery: Percentiles,
    /// Lag of the generator's own schedule (open loop).
    pub lag: Percentiles,
    /// Handshakes.
    pub connect: Percentiles,
    /// From the first connection to all of them open, in seconds.
    pub connect_seconds: f64,
    /// Deliveries of what was sent while the recipient was away.
    pub delivered_late: u64,
    /// Copies after a reconnect, which are allowed.
    pub redelivered: u64,
    /// Sends whose connection broke before an answer: they may or may not have arrived.
    pub unknown: u64,
    /// Due, and not sent until the end for want of room.
    pub unsent: u64,
    /// What went wrong.
    pub faults: Faults,
    /// What went wrong first.
    pub trouble: Option<String>,
    /// Step by step.
    pub steps: Vec<StepRecord>,
    /// Second by second.
    pub time_line: Vec<Second>,
    /// What the server used, if it is known.
    pub server: Option<ServerUse>,
    /// What the generator used.
    pub generator: GeneratorUse,
    /// Only with `--watch-outage`.
    pub outage: Option<Outage>,
    /// Sessions that answered a ping in the end; only where nothing is sent.
    pub alive: Option<usize>,
    /// The judgement.
    pub verdict: Verdict,
}

/// One step of an open loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    /// Intended messages per second at its begin and end; none in a closed loop.
    pub intended: Option<(f64, f64)>,
    /// Acknowledged per second.
    pub acknowledged_per_second: f64,
    /// Send → acknowledgement.
    pub ack: Percentiles,
    /// Send → delivery.
    pub delivery: Percentiles,
}

/// About a second of the time line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Second {
    /// Begin, in seconds from the beginning.
    pub at_s: f64,
    /// Length in seconds; the last, while what was sent arrives, has none.
    pub seconds: f64,
    /// What it belongs to.
    pub phase: Phase,
    /// Sent.
    pub sent: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Delivered.
    pub delivered: u64,
    /// Send → delivery, of what was measured: p50.
    pub delivery_p50: f64,
    /// p99.
    pub delivery_p99: f64,
    /// Maximum.
    pub delivery_max: f64,
    /// Send → acknowledgement: p99.
    pub ack_p99: f64,
    /// The schedule's lag: p99.
    pub lag_p99: f64,
}

/// What the server's processes used in the measured time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ServerUse {
    /// CPU seconds in programs.
    pub user_seconds: f64,
    /// CPU seconds in the kernel on their behalf; unknown (0) where only the sum is told.
    pub system_seconds: f64,
    /// CPU microseconds for each delivery.
    pub cpu_per_message: f64,
    /// Resident bytes at the end.
    pub resident_bytes: u64,
    /// Anonymous resident bytes at the end; 0 where it is not told.
    pub anonymous_bytes: u64,
    /// Resident bytes that each session cost, from before the first to when all were open.
    pub resident_per_session: f64,
    /// The same of anonymous bytes.
    pub anonymous_per_session: f64,
}

/// What the generator used in the measured time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct GeneratorUse {
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// CPU microseconds for each delivery.
    pub cpu_per_message: f64,
    /// The largest share of the time that a thread ran.
    pub busy_share: f64,
    /// The largest share of the time that a thread waited for a core.
    pub starved_share: f64,
}

/// A distribution.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// 99.99 %.
    pub p99_99: f64,
    /// Largest.
    pub max: f64,
    /// (quantile, microseconds), denser towards 1.
    pub curve: Vec<(f64, f64)>,
}

impl Percentiles {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Latency) -> Percentiles {
        if histogram.is_empty() {
            return Percentiles::default();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        let rounded = |value: f64, digits: f64| (value * digits).round() / digits;
        let curve = histogram
            .iter_quantiles(CURVE_TICKS)
            .map(|step| (rounded(step.quantile(), 1e7), us(step.value_iterated_to())));
        Percentiles {
            count: histogram.len(),
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: us(histogram.max()),
            curve: curve.collect(),
        }
    }
}

impl Record {
    /// Around these servers, made here and now.
    pub fn new(servers: Vec<ServerRecord>, machine: Machine) -> Record {
        Record {
            schema: SCHEMA.to_owned(),
            made_at: crate::machine::utc_now(),
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            command: command_line(),
            servers,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// One sentence: it is not there, or not of this schema.
    pub fn read(path: &Path) -> Result<Record, String> {
        let text = fs::read_to_string(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
        Record::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Record, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|fault| format!("it is no JSON: {fault}"))?;
        match value.get("schema").and_then(|schema| schema.as_str()) {
            Some(SCHEMA) => serde_json::from_value(value).map_err(|fault| format!("it is no {SCHEMA}: {fault}")),
            Some(other) => Err(format!("its schema is {other}, this generator reads {SCHEMA}")),
            None => Err(format!("it names no schema; {SCHEMA} is wanted")),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// One sentence.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|fault| fault.to_string())?;
        fs::write(path, text + "\n").map_err(|fault| format!("{}: {fault}", path.display()))
    }
}

/// The program without its folder, and its arguments.
fn command_line() -> String {
    let mut arguments: Vec<String> = std::env::args().collect();
    if let Some(program) = arguments.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    arguments.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let record = Record::new(Vec::new(), Machine::here());
        let text = serde_json::to_string(&record).expect("it has no maps with strange keys");
        assert_eq!(Record::parse(&text).expect("it is ours").machine, record.machine);
        let fault = |text: &str| Record::parse(text).expect_err("it is not ours");
        assert!(fault("x").contains("no JSON") && fault("{}").contains("names no schema"));
        assert!(fault(r#"{"schema":"jindou-loadgen/2"}"#).contains("this generator reads"));
        assert!(fault(r#"{"schema":"jindou-loadgen/1"}"#).contains("missing field"));
    }

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        let mut histogram = crate::figures::latency();
        (1..=10_000u64).for_each(|us| histogram.saturating_record(us * 1000));
        let percentiles = Percentiles::of(&histogram);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(percentiles.p50, 5000.0) && near(percentiles.p99, 9900.0) && near(percentiles.p99_99, 9999.0));
        assert!(near(percentiles.max, 10_000.0) && near(percentiles.mean, 5000.5) && percentiles.min <= 1.0);
        assert!(percentiles.curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(Percentiles::of(&crate::figures::latency()).count, 0);
    }
}
