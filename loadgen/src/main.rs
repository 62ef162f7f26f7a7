//! Load generator for jindou and its peers, which checks every message and doubts itself. It speaks the clients' protocols and knows
//! nothing of the inside of a server. What it does: [`commands`].
//!
//! ```text
//! options ─► setup ─► run: threads of worker ─(sessions, wire, drivers)─► traffic ─► record ─► table, JSON, HTML
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod capacity;
mod chance;
mod commands;
mod compare;
mod conversations;
mod drivers;
mod figures;
mod machine;
#[cfg(test)]
mod made_up_server;
mod options;
mod outage;
mod page;
mod plot;
mod process;
mod progress;
mod record;
mod run;
mod schedule;
mod session;
mod setup;
mod sizes;
mod spread;
mod table;
mod target;
mod traffic;
mod verdict;
mod verify;
mod versus;
mod watch;
mod wire;
mod worker;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::carry_out(commands::Arguments::parse()) {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(text) => {
            eprintln!("loadgen: {text}");
            ExitCode::from(commands::Ending::CannotRun.code())
        }
    }
}
