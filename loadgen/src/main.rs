//! Load generator and verifier for a jindou node: one thread, one core. It speaks WKProto with jindou's own codec and checks
//! every message it gets back; it knows nothing of the inside of a node. What it does: [`run`], [`idle`], [`fill`].

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod fill;
mod fleet;
mod idle;
mod process;
mod run;
mod verify;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::fleet::Target;
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
    /// The node's client address.
    #[arg(long, default_value = "127.0.0.1:5100")]
    target: SocketAddr,
    /// Do without the cipher; the listener must be in plain mode.
    #[arg(long)]
    plain: bool,
    /// The node's process id, for CPU and memory figures.
    #[arg(long)]
    pid: Option<u32>,
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
    fn begin(&self) -> Result<(Target, String), String> {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            return Err(format!("cannot pin to core {core}"));
        }
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let prefix = self.prefix.clone().unwrap_or_else(|| format!("u{millis:x}"));
        Ok((Target { address: self.target, plain: self.plain }, prefix))
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
        Command::Run { place, users, window, size, seconds, warm_up, open } => {
            checked(users, window, size)?;
            let (target, prefix) = place.begin()?;
            run::run(run::Plan {
                target,
                users,
                window,
                size,
                measured: Duration::from_secs_f64(seconds),
                warm_up: Duration::from_secs_f64(warm_up),
                rate: open,
                pid: place.pid,
                prefix,
            })
        }
        Command::Idle { place, sessions, seconds } => {
            let (target, prefix) = place.begin()?;
            let hold = Duration::from_secs_f64(seconds);
            idle::run(&idle::Plan { target, sessions, hold, pid: place.pid, prefix })
        }
        Command::Fill { place, messages, users, window, size } => {
            checked(users, window, size)?;
            let (target, prefix) = place.begin()?;
            fill::run(&fill::Plan { target, messages, users, window, size, prefix })
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
