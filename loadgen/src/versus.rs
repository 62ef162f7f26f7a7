//! `loadgen versus`: several servers under the same work, in turn and round by round, so that what the machine does meanwhile hits all
//! of them; then the table of ratios. It starts no server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::commands::{Ending, Output, keep, server_record};
use crate::compare::median;
use crate::machine::Machine;
use crate::options::{RunOptions, read_toml};
use crate::progress::Progress;
use crate::record::{Record, RunRecord, ServerRecord};
use crate::run::run;
use crate::table::time;
use crate::verdict::Kind;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// How often each server has its turn.
    #[serde(default = "default_rounds")]
    rounds: usize,
    /// Options common to all.
    #[serde(default)]
    run: RunOptions,
    /// Kinds of work; none is one without a name.
    #[serde(default)]
    work: Vec<Work>,
    /// The servers; ratios are to the first.
    server: Vec<Server>,
}

fn default_rounds() -> usize {
    5
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    name: String,
    #[serde(default)]
    run: RunOptions,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    name: String,
    /// How it is set.
    #[serde(default)]
    note: String,
    /// File with its process ids; its own path is relative to the profile.
    pid_file: Option<PathBuf>,
    /// Options of its own, above all the target.
    run: RunOptions,
}

impl Server {
    fn options(&self, plan: &Plan, work: &Work, folder: &Path) -> Result<RunOptions, String> {
        let options = self.run.clone().or(work.run.clone()).or(plan.run.clone());
        let Some(file) = &self.pid_file else { return Ok(options) };
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|fault| format!("{}: {fault}", path.display()))?;
        let pids = text.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
        let pids = pids.map_err(|_| format!("{}: process ids are wanted", path.display()))?;
        Ok(RunOptions { pids: Some(pids), ..options })
    }
}

/// Runs the profile.
///
/// # Errors
/// One sentence: the profile is wrong, or a server is not there.
pub fn run_all(profile: &Path, output: &Output) -> Result<Ending, String> {
    let mut plan: Plan = read_toml(profile)?;
    if plan.server.is_empty() || plan.rounds == 0 {
        return Err(format!("{}: at least one server and one round are wanted", profile.display()));
    }
    if plan.work.is_empty() {
        plan.work.push(Work::default());
    }
    let folder = profile.parent().unwrap_or(Path::new(""));
    let machine = Machine::here();
    let mut servers = Vec::new();
    for work in &plan.work {
        for server in &plan.server {
            let options = server.options(&plan, work, folder)?;
            let setup = options.setup().map_err(|why| format!("{}: {why}", server.name))?;
            let record = server_record(&setup, &options, server.name.clone(), server.note.clone());
            servers.push(ServerRecord { work: work.name.clone(), ..record });
        }
    }
    let count = plan.server.len();
    for round in 0..plan.rounds {
        for (number, work) in plan.work.iter().enumerate() {
            for turn in 0..count {
                // Another one begins in each round.
                let place = (turn + round) % count;
                let server = &plan.server[place];
                let options = server.options(&plan, work, folder)?;
                let setup = options.numbered((round * plan.work.len() + number) * count + turn + 1).setup()?;
                let label = format!("round {}/{}  {} {}  ", round + 1, plan.rounds, work.name, server.name);
                let record = run(setup, &options.watch(), Progress::new(&label, output.progress))
                    .map_err(|why| format!("{}: {why}", server.name))?;
                eprintln!("{label}{:.0} msg/s, {:?}", record.acknowledged_per_second, record.verdict.kind);
                servers[number * count + place].runs.push(record);
            }
        }
    }
    let record = Record::new(servers, machine);
    print!("{}", ratios(&record));
    keep(&record, output)?;
    Ok(Ending::of_runs(record.servers.iter().flat_map(|server| &server.runs)))
}

/// The table in markdown, one for each kind of work: medians of the good runs, and in parentheses the ratio to the first server.
pub fn ratios(record: &Record) -> String {
    let mut text = String::new();
    let mut works: Vec<&str> = record.servers.iter().map(|server| server.work.as_str()).collect();
    works.dedup();
    for work in works {
        let servers: Vec<&ServerRecord> = record.servers.iter().filter(|server| server.work == work).collect();
        // Writing into a string cannot fail.
        let _ = write!(text, "\n{}", if work.is_empty() { String::new() } else { format!("### {work}\n\n") });
        let _ = writeln!(text, "| {} |\n|{}", COLUMNS.join(" | "), " --- |".repeat(COLUMNS.len()));
        for server in &servers {
            let _ = writeln!(text, "| {} |", row(server, servers[0]).join(" | "));
        }
    }
    text
}

/// Heads of [`row`].
pub const COLUMNS: [&str; 7] = [
    "server",
    "good runs",
    "msg/s",
    "from … to",
    "send → ack p50 / p99",
    "send → delivery p50 / p99",
    "server CPU µs/message",
];

/// Medians of a server's good runs, with their ratios to the first server's.
pub fn row(server: &ServerRecord, first: &ServerRecord) -> [String; 7] {
    let values = |server: &ServerRecord, figure: fn(&RunRecord) -> Option<f64>| {
        let good = server.runs.iter().filter(|run| run.verdict.kind == Kind::Good);
        good.filter_map(figure).collect::<Vec<f64>>()
    };
    let with_ratio = |figure: fn(&RunRecord) -> Option<f64>, write: fn(f64) -> String| {
        let (own, other) = (values(server, figure), values(first, figure));
        let base = median(&other);
        match (own.is_empty(), base > 0.0) {
            (true, _) => "–".to_owned(),
            (_, false) => write(median(&own)),
            _ => format!("{} ({:.2}×)", write(median(&own)), median(&own) / base),
        }
    };
    let rates = values(server, |run| Some(run.acknowledged_per_second));
    let (least, most) =
        rates.iter().fold((f64::MAX, 0.0), |(least, most): (f64, f64), rate| (least.min(*rate), most.max(*rate)));
    let spread = if rates.is_empty() { "–".to_owned() } else { format!("{least:.0} … {most:.0}") };
    let both = |one: String, other: String| format!("{one} / {other}");
    [
        server.name.clone(),
        format!("{} of {}", rates.len(), server.runs.len()),
        with_ratio(|run| Some(run.acknowledged_per_second), |rate| format!("{rate:.0}")),
        spread,
        both(with_ratio(|run| Some(run.ack.p50), time), with_ratio(|run| Some(run.ack.p99), time)),
        both(with_ratio(|run| Some(run.delivery.p50), time), with_ratio(|run| Some(run.delivery.p99), time)),
        with_ratio(
            |run| run.server.map(|server| server.cpu_per_message).filter(|cpu| *cpu > 0.0),
            |cpu| format!("{cpu:.2}"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_that_is_shipped_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/versus.toml");
        let plan: Plan = read_toml(&path).unwrap_or_else(|why| panic!("{why}"));
        for server in &plan.server {
            let without_file = Server { pid_file: None, ..server.clone() };
            for work in &plan.work {
                let mut options = without_file.options(&plan, work, Path::new("")).expect("no file is read");
                options.cores = None; // This machine may have but one.
                options.setup().unwrap_or_else(|why| panic!("{}: {why}", server.name));
            }
        }
        assert!(plan.server.len() >= 4 && plan.work.len() >= 2);
    }

    #[test]
    fn ratios_are_to_the_first_server_and_of_good_runs_only() {
        let server = |name: &str, rates: &[(f64, Kind)]| {
            let run = |(rate, kind): &(f64, Kind)| {
                let text = RUN
                    .replace("RATE", &rate.to_string())
                    .replace("NONE", NONE)
                    .replace("KIND", &format!("{kind:?}").to_lowercase());
                serde_json::from_str(&text).expect("it has every field")
            };
            ServerRecord {
                name: name.to_owned(),
                work: String::new(),
                note: String::new(),
                target: String::new(),
                protocol: String::new(),
                version: String::new(),
                options: std::collections::BTreeMap::new(),
                runs: rates.iter().map(run).collect(),
            }
        };
        let one =
            server("one", &[(100.0, Kind::Good), (200.0, Kind::Good), (300.0, Kind::Good), (9000.0, Kind::Invalid)]);
        let other = server("other", &[(50.0, Kind::Good), (1.0, Kind::Faulty)]);
        let text = ratios(&Record::new(vec![one, other], Machine::default()));
        assert!(text.contains("| one | 3 of 4 | 200 (1.00×) | 100 … 300 |"), "{text}");
        assert!(text.contains("| other | 1 of 2 | 50 (0.25×) | 50 … 50 |"), "{text}");
    }

    /// A run with nothing in it: also what the schema looks like, so that a renamed field is noticed.
    const RUN: &str = r#"{"began_at":"","seconds":1,"users":2,"sessions":2,"streams":2,"streams_crossing":0,"sent":0,"acknowledged":0,
        "delivered":0,"acknowledged_per_second":RATE,"delivered_per_second":RATE,"ack":NONE,"delivery":NONE,"lag":NONE,"connect":NONE,
        "connect_seconds":0,"delivered_late":0,"redelivered":0,"unknown":0,"unsent":0,"faults":{"lost":0,"doubled":0,"reordered":0,
        "damaged":0,"misnumbered":0,"refused":0,"unanswered":0,"disconnected":0},"trouble":null,"steps":[],"time_line":[],"server":null,
        "generator":{"cpu_seconds":0,"cpu_per_message":0,"busy_share":0,"starved_share":0},"outage":null,"alive":null,
        "verdict":{"kind":"KIND","reasons":[]}}"#;

    const NONE: &str =
        r#"{"count":0,"min":0,"mean":0,"p50":0,"p90":0,"p99":0,"p99_9":0,"p99_99":0,"max":0,"curve":[]}"#;

    #[test]
    fn options_of_a_server_win_over_those_of_the_work_and_of_all() {
        let text = r#"
            [run]
            users = 8
            size = "100"
            [[work]]
            name = "small"
            run = { size = "64", seconds = 2.0 }
            [[server]]
            name = "one"
            run = { target = "nats://127.0.0.1:4222", users = 16 }
        "#;
        let plan: Plan = toml::from_str(text).expect("it is right");
        let options = plan.server[0].options(&plan, &plan.work[0], Path::new("")).expect("no file is named");
        assert_eq!((options.users, options.size.as_deref(), options.seconds), (Some(16), Some("64"), Some(2.0)));
        assert_eq!(plan.rounds, 5);
        assert!(toml::from_str::<Plan>("[[server]]\nname = \"x\"\nport = 1").is_err());
    }
}
