//! The program: runs a node, asks something of a running cluster, or runs the small chat client, as the command line says. Everything else is
//! in the library.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod command_line;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use command_line::{Arguments, Command};
use jindou::chat;
use jindou::config::{self, Config, LogFormat};
use jindou::operator;
use jindou::profile::{self, ProfileOptions, Question};
use jindou::shell::{node, probe};
use tracing_subscriber::EnvFilter;

/// Message bodies live long and die in order, which makes the system allocator walk cold memory at every turn: with
/// this one a message costs less CPU (figures with their date in benches/results).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong arguments or configuration; the same as clap's own.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_config_table {
        print!("{}", config::config_table_markdown());
        return ExitCode::SUCCESS;
    }
    if arguments.print_config_file {
        print!("{}", config::config_file_text());
        return ExitCode::SUCCESS;
    }
    match arguments.command {
        Some(Command::Chat(given)) => {
            return match chat::run(&given.into()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            };
        }
        Some(Command::Cluster(given)) => {
            return match operator::run(&given.into(), &mut std::io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), error.exit_code()),
            };
        }
        Some(Command::Profile { nodes, seconds, watch }) => {
            return answer(nodes.ask(Question::Profile { span: Duration::from_secs(seconds), watch }));
        }
        Some(Command::Trace { nodes, uid, next, within }) => {
            let (next, within) = (usize::from(next), Duration::from_secs(within));
            return answer(nodes.ask(Question::Trace { uid, next, within }));
        }
        Some(Command::Top { nodes, every, once }) => {
            return answer(nodes.ask(Question::Top { every: Duration::from_secs(every), once }));
        }
        Some(Command::Probe(given)) => {
            let span = Duration::from_millis(given.milliseconds);
            return match probe::run(&given.data, span, &mut std::io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            };
        }
        None => {}
    }
    let config = arguments.settings().and_then(|flags| {
        Config::load(arguments.config.as_deref(), environment(), &flags).map_err(|error| error.to_string())
    });
    let config = match config {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    if arguments.check_config {
        println!("the configuration is right");
        return ExitCode::SUCCESS;
    }
    begin_log(&config);
    match node::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn answer(options: ProfileOptions) -> ExitCode {
    match profile::run(&options, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), error.exit_code()),
    }
}

/// The environment as text; what is not UTF-8 cannot name one of our keys or hold one of our values.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Diagnostics go to standard error; standard output has the banner only.
fn begin_log(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log.level));
    let coloured = match config.log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Plain => false,
        LogFormat::Colour => true,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(coloured).init();
}

fn fail(line: &str, code: u8) -> ExitCode {
    eprintln!("jindou: {line}");
    ExitCode::from(code)
}
