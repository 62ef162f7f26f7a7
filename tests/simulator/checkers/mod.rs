//! What the router promises, one checker each. They see what leaves the shards and what devices see; none of them asks the
//! router whether it was right. The first violation ends the simulation. A canary mutes all but the checker that it is for.

pub mod endings;
pub mod ids;
pub mod intact;
pub mod kicks;
pub mod leaders;
pub mod limits;
pub mod lost;
pub mod once;
pub mod order;
pub mod presence;
pub mod replicas;
pub mod same_answer;
pub mod tables;

use crate::ledger::{Ledger, LogKey, Number};

/// The promises by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What was acknowledged reaches every device it is for.
    AckedNeverLost,
    /// No device sees a message under two names, or again for no reason; nothing is stored twice.
    Once,
    /// A device sees a log's messages in rising order; a log has no holes.
    Order,
    /// A repeated SEND gets the answer of the first.
    SameAnswer,
    /// Message ids are positive, unique, and rise with the position.
    Ids,
    /// No acknowledgement leaves before its message is on disk.
    Durable,
    /// Windows and queues keep their bounds.
    Limits,
    /// Every request is answered.
    Endings,
    /// Who is said to be online is.
    Presence,
    /// A master ends the other connections of its family, with notice.
    Kicks,
    /// What arrives is what was sent, and nothing else does.
    Intact,
    /// After everything has healed, the node comes to rest.
    Rest,
    /// After any crash a node starts again from what its disks hold.
    Recovery,
    /// A slot has one leader in a term.
    OneLeader,
    /// Replicas agree.
    Replicas,
    /// What is known of the cluster neither forks nor goes back.
    Table,
    /// The same seed gives the same history.
    Replay,
    /// A shard finds nothing amiss with itself: it asserts so after every step, and panics else.
    Soundness,
}

impl Promise {
    /// As canaries and reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Promise::AckedNeverLost => "acked-never-lost",
            Promise::Once => "once",
            Promise::Order => "order",
            Promise::SameAnswer => "same-answer",
            Promise::Ids => "ids",
            Promise::Durable => "durable",
            Promise::Limits => "limits",
            Promise::Endings => "endings",
            Promise::Presence => "presence",
            Promise::Kicks => "kicks",
            Promise::Intact => "intact",
            Promise::Rest => "rest",
            Promise::Recovery => "recovery",
            Promise::OneLeader => "one-leader",
            Promise::Replicas => "replicas",
            Promise::Table => "table",
            Promise::Replay => "replay",
            Promise::Soundness => "soundness",
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What was seen.
    pub text: String,
    /// When.
    pub at_ns: u64,
}

/// What a device saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at_ns: u64,
    /// Which device, by index.
    pub device: usize,
    /// Whose log.
    pub log: LogKey,
    /// Server's id.
    pub message_id: i64,
    /// Position, 0 for transient.
    pub seq: u32,
    /// What was sent.
    pub number: Number,
    /// This very device sent it, so that it knows it already.
    pub own: bool,
    /// What has an order of its own: the device (0), or each of its connections when it shares its family's cursor with
    /// another device or is not pushed what it missed. A crash may set the cursor back, and then it sees what it had not
    /// seen before.
    pub seat: usize,
    /// On which of the device's connections.
    pub connection: Option<usize>,
}

/// All checkers and the first violation.
pub struct Checkers {
    only: Option<Promise>,
    /// Found first.
    pub violation: Option<Violation>,
    /// See the module.
    pub ids: ids::Ids,
    /// See the module.
    pub once: once::Once,
    /// See the module.
    pub order: order::Order,
    /// See the module.
    pub same_answer: same_answer::SameAnswer,
    /// See the module.
    pub kicks: kicks::Kicks,
    /// See the module.
    pub limits: limits::Peaks,
    /// See the module.
    pub leaders: leaders::Leaders,
    /// See the module.
    pub replicas: replicas::Replicas,
    /// See the module.
    pub tables: tables::Tables,
    /// Positions of logs that were read at rest.
    pub positions_read: u64,
}

impl Checkers {
    /// Nothing seen; `only` mutes the others.
    pub fn new(only: Option<Promise>, dedupe_window: usize) -> Checkers {
        Checkers {
            only,
            violation: None,
            ids: ids::Ids::default(),
            once: once::Once::new(dedupe_window),
            order: order::Order::default(),
            same_answer: same_answer::SameAnswer::new(dedupe_window),
            kicks: kicks::Kicks::default(),
            limits: limits::Peaks::default(),
            leaders: leaders::Leaders::default(),
            replicas: replicas::Replicas::default(),
            tables: tables::Tables::default(),
            positions_read: 0,
        }
    }

    /// Takes a verdict.
    pub fn judge(&mut self, promise: Promise, at_ns: u64, verdict: Result<(), String>) {
        let muted = self.only.is_some_and(|only| only != promise);
        if let Err(text) = verdict
            && !muted
            && self.violation.is_none()
        {
            self.violation = Some(Violation { promise, text, at_ns });
        }
    }

    /// A success answer left a shard.
    pub fn accepted(&mut self, at_ns: u64, log: LogKey, number: Number, message_id: i64, seq: u32) {
        let verdict = self.same_answer.accepted(number, message_id, seq);
        self.judge(Promise::SameAnswer, at_ns, verdict);
        self.placed(at_ns, log, number, message_id, seq);
    }

    /// A device took a RECV. True when it had not seen it before.
    pub fn seen(&mut self, seen: &Seen) -> bool {
        let first = self.once.is_first(seen);
        if seen.seq != 0 && first && !seen.own {
            let verdict = self.order.first_sight(seen);
            self.judge(Promise::Order, seen.at_ns, verdict);
        }
        let verdict = self.once.seen(seen);
        self.judge(Promise::Once, seen.at_ns, verdict);
        self.placed(seen.at_ns, seen.log, seen.number, seen.message_id, seen.seq);
        first
    }

    /// A log was read: the whole of it, ascending.
    pub fn log_read(&mut self, at_ns: u64, log: LogKey, found: &[(u32, i64, Number)], forgets: bool) {
        self.positions_read += found.len() as u64;
        let verdict = order::dense(log, found, forgets);
        self.judge(Promise::Order, at_ns, verdict);
        for (seq, message_id, number) in found {
            self.placed(at_ns, log, *number, *message_id, *seq);
        }
    }

    /// Accepted messages of a log must be in what was read of it.
    pub fn log_complete(&mut self, at_ns: u64, log: LogKey, found: &[(u32, i64, Number)], ledger: &Ledger) {
        let verdict = lost::in_log(log, found, ledger);
        self.judge(Promise::AckedNeverLost, at_ns, verdict);
    }

    fn placed(&mut self, at_ns: u64, log: LogKey, number: Number, message_id: i64, seq: u32) {
        let verdict = self.once.placed(log, number, message_id, seq);
        self.judge(Promise::Once, at_ns, verdict);
        let verdict = self.ids.placed(log, number, message_id, seq);
        self.judge(Promise::Ids, at_ns, verdict);
    }
}
