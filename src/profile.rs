//! `jindou profile`, `jindou trace` and `jindou top`: where the time goes in nodes that run, seen over their HTTP API. Tables on standard
//! output, what is waited for on standard error. It changes nothing in a node but whom it watches for a trace.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::operator::OperatorError;
use look::{NodeLook, Nodes};
use spans::Ways;

mod look;
mod picture;
mod spans;
mod top;
mod trace;

/// Between two looks while marks are gathered: a busy shard keeps some seconds of them.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A node watches a user for so long after it was asked; it is asked again in time.
const WATCH_SECONDS: u64 = 60;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where the time of all messages goes.
    Profile {
        /// Looks so long.
        span: Duration,
        /// Again and again.
        watch: bool,
    },
    /// Where the time of one user's next messages goes.
    Trace {
        /// Whose.
        uid: String,
        /// How many.
        next: usize,
        /// At most so long.
        within: Duration,
    },
    /// What every shard does now.
    Top {
        /// Between two pictures.
        every: Duration,
        /// One picture.
        once: bool,
    },
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileOptions {
    /// `http://HOST:PORT` of a node.
    pub api: String,
    /// What `http.token` says there; empty when nothing.
    pub token: String,
    /// Every node of its cluster, not only this one.
    pub all: bool,
    /// What.
    pub question: Question,
}

/// Answers it.
///
/// # Errors
/// What to say, and with which code to end.
pub fn run(options: &ProfileOptions, out: &mut impl Write) -> Result<(), OperatorError> {
    let mut nodes = Nodes::find(&options.api, &options.token, options.all)?;
    match &options.question {
        Question::Profile { span, watch } => loop {
            let text = profile(&mut nodes, *span)?;
            show(out, &text, *watch)?;
            if !watch {
                return Ok(());
            }
        },
        Question::Top { every, once } => top(&mut nodes, *every, *once, out),
        Question::Trace { uid, next, within } => trace::follow(&mut nodes, uid, *next, *within, out),
    }
}

/// A terminal is wiped before a picture that others follow; elsewhere one follows the other.
fn show(out: &mut impl Write, text: &str, again: bool) -> Result<(), OperatorError> {
    let wipe = if again && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    write!(out, "{wipe}{text}").and_then(|()| out.flush()).map_err(OperatorError::of_output)
}

fn profile(nodes: &mut Nodes, span: Duration) -> Result<String, OperatorError> {
    let before = nodes.look()?;
    let began = Instant::now();
    let mut ways = Ways::default();
    eprintln!("looking at {} for {} s …", picture::plural(nodes.count(), "node"), span.as_secs_f64());
    loop {
        let left = span.saturating_sub(began.elapsed());
        std::thread::sleep(left.min(LOOK_EVERY));
        let now = nodes.look()?;
        ways.add(&now, true);
        if left <= LOOK_EVERY {
            return Ok(picture::profile(&before, &now, &ways));
        }
    }
}

fn top(nodes: &mut Nodes, every: Duration, once: bool, out: &mut impl Write) -> Result<(), OperatorError> {
    let mut before: Vec<NodeLook> = nodes.look()?;
    loop {
        std::thread::sleep(every);
        let now = nodes.look()?;
        show(out, &top::picture(&before, &now), !once)?;
        if once {
            return Ok(());
        }
        before = now;
    }
}
