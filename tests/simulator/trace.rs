//! One number for a whole history: everything that is dispatched goes in, with its virtual time. Two runs of a seed
//! must end with the same number; when they do not, something drew from outside. Keeps a short tail of the history in
//! words as well, for the report of a failure.

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

/// Lines of history kept for a failure's report.
const TAIL_LINES: usize = 120;

/// The history so far.
pub struct Trace {
    hash: Xxh3,
    verbose: bool,
    tail: VecDeque<String>,
}

impl Trace {
    /// Empty; `verbose` prints every line as it comes.
    pub fn new(verbose: bool) -> Trace {
        Trace { hash: Xxh3::new(), verbose, tail: VecDeque::with_capacity(TAIL_LINES) }
    }

    /// Takes an event of the given kind, who it concerns and its bytes.
    pub fn record(&mut self, at_ns: u64, kind: &str, who: u64, bytes: &[u8]) {
        self.hash.update(&at_ns.to_le_bytes());
        self.hash.update(kind.as_bytes());
        self.hash.update(&who.to_le_bytes());
        self.hash.update(bytes);
    }

    /// Takes a line for people; built only when somebody will read it.
    pub fn say(&mut self, at_ns: u64, line: impl FnOnce() -> String) {
        let line = format!("{:>12.6} {}", at_ns as f64 / 1e9, line());
        if self.verbose {
            println!("{line}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &String> {
        self.tail.iter()
    }

    /// The number.
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }
}
