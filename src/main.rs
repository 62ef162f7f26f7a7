//! The command line: says what a node is told, or runs the small chat client. Everything else is in the library.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jindou::chat::{self, ChatOptions};
use jindou::config::{self, Config, LogFormat};
use jindou::shell::node;
use tracing_subscriber::EnvFilter;

/// Message bodies live long and die in order, which makes the system allocator walk cold memory at every turn: with
/// this one a message costs less CPU (figures with their date in benches/results).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong arguments or configuration; the same as clap's own.
const EXIT_USAGE: u8 = 2;

/// A clustered instant-messaging router. Without arguments it runs a node that keeps its data in ./data and listens on
/// TCP 5100, WebSocket 5200 and HTTP 5001.
///
/// Try it: start `jindou`, then in two other terminals `jindou chat --as alice --to bob` and `jindou chat --as bob --to
/// alice`.
#[derive(Parser)]
#[command(name = "jindou", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML); see tuning/jindou.toml for every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the data [default: ./data].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address for clients over TCP [default: 0.0.0.0:5100].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_tcp: Option<String>,
    /// Address for clients over WebSocket [default: 0.0.0.0:5200].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_ws: Option<String>,
    /// Address of the HTTP API [default: 0.0.0.0:5001].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_http: Option<String>,
    /// Number of shards, one pinned thread each [default: auto, one per core].
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// What a SENDACK promises: fsync (on disk) or memory [default: fsync].
    #[arg(long, value_name = "WHAT")]
    durability: Option<String>,
    /// Sets any key of the configuration; may be repeated. Wins over the file and the environment (JINDOU_SECTION_KEY).
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Checks the configuration and ends: exit 0 when it is right, 2 with one line when it is not.
    #[arg(long)]
    check_config: bool,
    /// Prints the table of settings for the README.
    #[arg(long, hide = true)]
    print_config_table: bool,
    /// Prints tuning/jindou.toml.
    #[arg(long, hide = true)]
    print_config_file: bool,
}

#[derive(Subcommand)]
enum Command {
    /// A small terminal client: lines typed are sent, messages that arrive are printed.
    Chat(ChatArguments),
}

#[derive(Args)]
struct ChatArguments {
    /// Who you are.
    #[arg(long = "as", value_name = "UID")]
    uid: String,
    /// Whom lines go to.
    #[arg(long, value_name = "UID")]
    to: String,
    /// The node [default: 127.0.0.1:5100, with --ws 127.0.0.1:5200].
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The token that a backend has stored for you; needed where the node asks for it.
    #[arg(long, default_value = "", hide_default_value = true)]
    token: String,
    /// Over WebSocket.
    #[arg(long)]
    ws: bool,
    /// Without the cipher: the node's listener must be plain too.
    #[arg(long)]
    plain: bool,
    /// After the end of the input, goes on receiving for so long (at most a day).
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
}

impl From<ChatArguments> for ChatOptions {
    fn from(given: ChatArguments) -> ChatOptions {
        let usual = if given.ws { "127.0.0.1:5200" } else { "127.0.0.1:5100" };
        ChatOptions {
            uid: given.uid,
            to: given.to,
            server: given.server.unwrap_or_else(|| usual.to_owned()),
            token: given.token,
            ws: given.ws,
            plain: given.plain,
            wait: Duration::from_secs(given.wait),
        }
    }
}

impl Arguments {
    /// The flags that set keys, in the order in which they win.
    fn settings(&self) -> Result<Vec<(String, String)>, String> {
        let named = [
            ("node.data_dir", &self.data),
            ("listen.tcp", &self.listen_tcp),
            ("listen.ws", &self.listen_ws),
            ("listen.http", &self.listen_http),
            ("node.shards", &self.shards),
            ("journal.durability", &self.durability),
        ];
        let mut settings: Vec<(String, String)> =
            named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect();
        for set in &self.sets {
            let (key, value) = set
                .split_once('=')
                .ok_or_else(|| format!("the command line: --set {set:?} is not allowed; allowed: SECTION.KEY=VALUE"))?;
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(settings)
    }
}

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
    if let Some(Command::Chat(given)) = arguments.command {
        return match chat::run(&given.into()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), 1),
        };
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
