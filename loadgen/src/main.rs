//! Load generator and verifier for a jindou node: one thread, one core. It speaks WKProto with jindou's own codec and checks
//! every message it gets back; it knows nothing of the inside of a node. What it does: [`run`], [`idle`], [`fill`].

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod fill;
mod fleet;
mod idle;
mod process;
mod run;
mod spread;
mod verify;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::spread::Nodes;
use crate::verify::PAYLOAD_BYTES_MIN;

/// Load generator and verifier for jindou.
#[derive(Parser)]
#[command(name = "loadgen", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Where {
    /// The nodes' client addresses; users are spread over them.
    #[arg(long, default_value = "127.0.0.1:5100", value_delimiter = ',')]
    target: Vec<SocketAddr>,
    /// Do without the cipher; the listener must be in plain mode.
    #[arg(long)]
    plain: bool,
    /// The nodes' process ids, for CPU and memory figures.
    #[arg(long, alias = "pids", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Pin this process to a core.
    #[arg(long)]
    core: Option<usize>,
    /// Beginning of all user names. Default: one that no earlier run has used.
    #[arg(long)]
    prefix: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Users in pairs send to each other; every message is verified.
    Run {
        #[command(flatten)]
        place: Where,
        /// Users, an even number.
        #[arg(long, default_value_t = 64)]
        users: usize,
        /// Unanswered SENDs per user.
        #[arg(long, default_value_t = 32)]
        window: usize,
        /// Payload bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
        /// Measured time.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Time before it that does not count.
        #[arg(long, default_value_t = 1.0)]
        warm_up: f64,
        /// Open loop: so many messages per second in all, latency from the intended time.
        #[arg(long)]
        open: Option<f64>,
        /// Several targets: share of the pairs whose two users are on different nodes.
        #[arg(long, default_value_t = 0.5)]
        cross: f64,
        /// HTTP API of one of the nodes: users are named so that the node they connect to leads their conversation.
        #[arg(long)]
        http: Option<SocketAddr>,
        /// Slots of the cluster; needed with --http.
        #[arg(long, default_value_t = 256)]
        slots: u32,
    },
    /// Many sessions that do nothing: what each costs the server.
    Idle {
        #[command(flatten)]
        place: Where,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
        /// How long to hold them.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Stores messages as fast as possible for users that are away.
    Fill {
        #[command(flatten)]
        place: Where,
        /// How many.
        #[arg(long, default_value_t = 5_000_000)]
        messages: u64,
        /// Senders; each fills one channel.
        #[arg(long, default_value_t = 256)]
        users: usize,
        /// Unanswered SENDs per sender.
        #[arg(long, default_value_t = 64)]
        window: usize,
        /// Payload bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
    },
}

impl Where {
    /// Pins the process and names the users.
    fn begin(&self) -> Result<(Nodes, String), String> {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            return Err(format!("cannot pin to core {core}"));
        }
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let prefix = self.prefix.clone().unwrap_or_else(|| format!("u{millis:x}"));
        Ok((Nodes { targets: self.target.clone(), http: None, slots: 1 }, prefix))
    }
}

fn checked(users: usize, window: usize, size: usize) -> Result<(), String> {
    if users < 2 || users % 2 == 1 {
        return Err(format!("--users {users}: users come in pairs"));
    }
    if window == 0 {
        return Err("--window 0: nothing would ever be sent".to_owned());
    }
    let most = jindou::limits::PAYLOAD_BYTES_MAX;
    if !(PAYLOAD_BYTES_MIN..=most).contains(&size) {
        return Err(format!("--size {size}: allowed are {PAYLOAD_BYTES_MIN} to {most}"));
    }
    Ok(())
}

fn carry_out(command: Command) -> Result<bool, String> {
    let done = match command {
        Command::Run { place, users, window, size, seconds, warm_up, open, cross, http, slots } => {
            checked(users, window, size)?;
            if !(0.0..=1.0).contains(&cross) || !slots.is_power_of_two() {
                return Err("--cross is a share from 0 to 1, --slots a power of two".to_owned());
            }
            let (nodes, prefix) = place.begin()?;
            let nodes = Nodes { http, slots, ..nodes };
            run::run(run::Plan {
                users: nodes.pairs(&prefix, users, cross).map_err(|fault| fault.to_string())?,
                plain: place.plain,
                window,
                size,
                measured: Duration::from_secs_f64(seconds),
                warm_up: Duration::from_secs_f64(warm_up),
                rate: open,
                pids: place.pid,
            })
        }
        Command::Idle { place, sessions, seconds } => {
            let (nodes, prefix) = place.begin()?;
            let hold = Duration::from_secs_f64(seconds);
            let sessions = nodes.deal(&prefix, sessions);
            idle::run(&idle::Plan { sessions, plain: place.plain, hold, pids: place.pid })
        }
        Command::Fill { place, messages, users, window, size } => {
            checked(users, window, size)?;
            let (nodes, prefix) = place.begin()?;
            let users = nodes.deal(&prefix, users);
            fill::run(&fill::Plan { users, plain: place.plain, messages, window, size })
        }
    };
    done.map_err(|fault| fault.to_string())
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("loadgen: {text}");
            ExitCode::FAILURE
        }
    }
}
