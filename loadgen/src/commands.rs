//! The command line: what can be asked for, and how each ends. The exit code tells scripts: 0 good, 1 the server broke a promise (or is worse,
//! in a comparison), 2 it could not be run, 3 nothing can be said, because the generator was the bottleneck or there is too much noise.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::machine::Machine;
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::record::{Record, RunRecord, ServerRecord};
use crate::run::run;
use crate::setup::Setup;
use crate::verdict::Kind;
use crate::watch::version;
use crate::{capacity, compare, page, table, versus};

/// Load generator for jindou, MQTT and NATS: checks every message, doubts itself
///
/// Exit code: 0 good; 1 something was lost, doubled, reordered, damaged, refused or unanswered, or is worse; 2 it could not be run; 3 the
/// generator was the bottleneck, or there is too much noise to tell.
#[derive(Parser)]
#[command(name = "loadgen", version, args_override_self = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where results go.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Write the record, which `compare` and `plot` read
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots, which needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show the progress line even where standard error is no terminal
    #[arg(long)]
    pub progress: bool,
    /// What the server is and how it is set, for the record
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub note: String,
}

/// Of an option that is given twice, the last one counts, so that scripts can have defaults.
#[derive(Subcommand)]
#[command(args_override_self = true)]
enum Command {
    /// Users send to each other; every message is checked and timed
    Run {
        /// Options in a TOML file, such as loadgen/profiles/chat.toml; those of the command line win
        #[arg(long, value_name = "FILE")]
        profile: Option<PathBuf>,
        #[command(flatten)]
        options: RunOptions,
        /// The same run so many times, for `compare`
        #[arg(long, default_value_t = 1)]
        repeat: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Sessions that say nothing: what each costs the server, how fast they open, whether all still answer at the end
    Idle {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
        #[command(flatten)]
        options: RunOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Stores messages as fast as possible for users that are away
    Fill {
        /// How many
        #[arg(long, default_value_t = 5_000_000)]
        messages: u64,
        #[command(flatten)]
        options: RunOptions,
        #[command(flatten)]
        output: Output,
    },
    /// The highest rate at which p99 of send → delivery stays within a bound and nothing is lost
    Capacity {
        /// Options in a TOML file; those of the command line win. The mode is this command's own
        #[arg(long, value_name = "FILE")]
        profile: Option<PathBuf>,
        #[command(flatten)]
        options: RunOptions,
        #[command(flatten)]
        search: capacity::Search,
        #[command(flatten)]
        output: Output,
    },
    /// Is B better or worse than A? Wants several runs of each (`run --repeat`), and says when there is too much noise
    Compare {
        /// Record of before
        a: PathBuf,
        /// Record of after
        b: PathBuf,
    },
    /// Several servers in turn, round by round, and the table of their ratios; see loadgen/profiles/versus.toml
    Versus {
        /// What is common to all, and the servers
        profile: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Makes the page with plots from a record
    Plot {
        /// The record
        json: PathBuf,
        /// The page
        html: PathBuf,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Everything as promised.
    Good,
    /// Nothing can be said.
    Undecided,
    /// A promise was broken, or it is worse.
    Bad,
    /// It could not be run.
    CannotRun,
}

impl Ending {
    /// For the shell.
    pub fn code(self) -> u8 {
        match self {
            Ending::Good => 0,
            Ending::Bad => 1,
            Ending::CannotRun => 2,
            Ending::Undecided => 3,
        }
    }

    /// The worst of some runs.
    pub fn of_runs<'a>(runs: impl Iterator<Item = &'a RunRecord>) -> Ending {
        let ending = |run: &RunRecord| match run.verdict.kind {
            Kind::Good => Ending::Good,
            Kind::Faulty => Ending::Bad,
            Kind::Invalid => Ending::Undecided,
        };
        runs.map(ending).max().unwrap_or(Ending::Good)
    }
}

/// Does what was asked for.
///
/// # Errors
/// One sentence: it could not be run.
pub fn carry_out(arguments: Arguments) -> Result<Ending, String> {
    match arguments.command {
        Command::Run { profile, options, repeat, output } => {
            let options = options.with_profile(profile.as_ref())?;
            several(&options, repeat.max(1), &output, RunOptions::setup)
        }
        Command::Idle { sessions, options, output } => {
            let options = RunOptions { seconds: options.seconds.or(Some(5.0)), warm_up: Some(0.0), ..options };
            several(&options, 1, &output, |options| options.silent_setup(sessions))
        }
        Command::Fill { messages, options, output } => {
            let mode = options.mode.clone().or_else(|| Some(format!("closed:{}", options.window.unwrap_or(64))));
            let options = RunOptions { mode, seconds: Some(86_400.0), warm_up: Some(0.0), ..options };
            several(&options, 1, &output, |options| options.one_way_setup(messages))
        }
        Command::Capacity { profile, options, search, output } => {
            let options = options.with_profile(profile.as_ref())?;
            capacity::find(&options, &search, &output)
        }
        Command::Compare { a, b } => {
            let (a, b) = (Record::read(&a)?, Record::read(&b)?);
            let (text, ending) = compare::compare(&a, &b)?;
            print!("{text}");
            Ok(ending)
        }
        Command::Versus { profile, output } => versus::run_all(&profile, &output),
        Command::Plot { json, html } => {
            let record = Record::read(&json)?;
            write_page(&record, &html)?;
            Ok(Ending::Good)
        }
    }
}

/// What a table says at its top.
pub fn head_of(setup: &Setup, options: &RunOptions) -> String {
    let size = options.size.as_deref().unwrap_or("128");
    let pattern = options.pattern.as_deref().unwrap_or("pairs");
    let devices = if setup.devices > 1 { format!(" with {} devices each", setup.devices) } else { String::new() };
    let protocol = setup.target.protocol.describe();
    let acknowledged =
        if setup.target.protocol.answers_each_send() { "" } else { "; ack is the answer to a ping behind the send" };
    match (setup.conversations.streams.is_empty(), setup.messages) {
        (true, _) => format!("{} idle sessions, {protocol}", setup.sessions()),
        (_, Some(messages)) => format!(
            "{messages} messages of {size} bytes from {} users to users that are away, {protocol}",
            setup.present
        ),
        _ => format!(
            "{} users{devices}, {pattern}, {size}-byte payloads, {}, {protocol}{acknowledged}",
            setup.present,
            setup.mode.describe()
        ),
    }
}

fn several(
    options: &RunOptions,
    repeat: usize,
    output: &Output,
    make: impl Fn(&RunOptions) -> Result<Setup, String>,
) -> Result<Ending, String> {
    let machine = Machine::here();
    let mut server: Option<ServerRecord> = None;
    for number in 1..=repeat {
        let setup = make(&options.numbered(number))?;
        let head = head_of(&setup, options);
        let server = server
            .get_or_insert_with(|| server_record(&setup, options, setup.target.text.clone(), output.note.clone()));
        let label = if repeat > 1 { format!("{number}/{repeat}  ") } else { String::new() };
        let record = run(setup, &options.watch(), Progress::new(&label, output.progress))?;
        println!("{}", table::of_run(&head, &record));
        server.runs.push(record);
    }
    let ending = Ending::of_runs(server.iter().flat_map(|server| &server.runs));
    keep(&Record::new(server.into_iter().collect(), machine), output)?;
    Ok(ending)
}

/// A server without runs.
pub fn server_record(setup: &Setup, options: &RunOptions, name: String, note: String) -> ServerRecord {
    ServerRecord {
        name,
        work: String::new(),
        note,
        target: setup.target.text.clone(),
        protocol: setup.target.protocol.describe().to_owned(),
        version: version(&setup.target, &options.watch()),
        options: options.as_map(setup),
        runs: Vec::new(),
    }
}

/// Writes what is to be written.
///
/// # Errors
/// One sentence: which file, and why not.
pub fn keep(record: &Record, output: &Output) -> Result<(), String> {
    if let Some(path) = &output.json {
        record.write(path)?;
    }
    output.html.as_ref().map_or(Ok(()), |path| write_page(record, path))
}

fn write_page(record: &Record, path: &PathBuf) -> Result<(), String> {
    std::fs::write(path, page::page(record)).map_err(|fault| format!("{}: {fault}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let parse = |text: &str| Arguments::try_parse_from(text.split(' '));
        assert!(parse("loadgen run --plain --users 4 --target 127.0.0.1:5 --core 1 --pid 7").is_ok());
        assert!(parse("loadgen run --users 4 --users 6").is_ok(), "the last one counts");
        assert!(parse("loadgen run --users many").is_err());
        assert!(parse("loadgen compare a.json").is_err());
    }

    #[test]
    fn the_worst_run_decides() {
        assert!(Ending::Bad > Ending::Undecided && Ending::Undecided > Ending::Good);
        assert_eq!([Ending::Good, Ending::Bad, Ending::CannotRun, Ending::Undecided].map(Ending::code), [0, 1, 2, 3]);
    }
}
