//! The next messages of one user, point by point: nodes are asked to mark them, and what they show is laid in the order of time.
//!
//! ```text
//!  nodes watch the user ─► look, look, … ─► a message is shown when a device has acknowledged it, or nothing was heard of it for a second
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

use super::look::{NamedLook, Nodes};
use super::picture::{place, plural, time};
use super::spans::{Seen, Ways};
use super::{LOOK_EVERY, WATCH_SECONDS};
use crate::operator::OperatorError;

/// A message of which nothing was heard for so long is shown as it is.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// A message that was heard of so soon and never arrived was under way when the nodes began to watch: it is none of the next ones, and
/// half of its way was not seen.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(1);

/// Shows the next messages of a user.
pub(super) fn follow(
    nodes: &mut Nodes,
    uid: &str,
    next: usize,
    within: Duration,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    nodes.look()?;
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut desk = Desk::default();
    let asks_again = Duration::from_secs(WATCH_SECONDS / 2);
    let who = format!("{} of {}", plural(next, "message"), uid);
    loop {
        if asked.is_none_or(|asked| asked.elapsed() >= asks_again) {
            nodes.watch(uid, WATCH_SECONDS)?;
            if asked.is_none() {
                eprintln!("waiting for {who} at {} …", plural(nodes.count(), "node"));
            }
            asked = Some(Instant::now());
        }
        std::thread::sleep(LOOK_EVERY);
        desk.take(&nodes.look()?, Instant::now());
        for text in desk.settled(Instant::now(), next) {
            write!(out, "{text}").and_then(|()| out.flush()).map_err(OperatorError::of_output)?;
        }
        if desk.shown.len() >= next {
            return Ok(());
        }
        if began.elapsed() >= within {
            let seen = desk.shown.len();
            return Err(OperatorError::NotYet(format!("{seen} of {who} came within {} s", within.as_secs())));
        }
    }
}

/// What is known of the watched user's messages.
#[derive(Default)]
struct Desk {
    ways: Ways,
    named: BTreeMap<i64, NamedLook>,
    /// When the first look was taken after the nodes had been asked.
    began: Option<Instant>,
    /// Marks of a message, when something was heard of it for the first time, and when something new.
    heard: BTreeMap<i64, (usize, Instant, Instant)>,
    shown: BTreeSet<i64>,
}

impl Desk {
    fn take(&mut self, looks: &[super::look::NodeLook], now: Instant) {
        self.began.get_or_insert(now);
        self.ways.add(looks, false);
        for named in looks.iter().flat_map(|node| &node.shards).flat_map(|shard| &shard.named) {
            self.named.insert(named.message_id, named.clone());
        }
        // Others' messages are marked too, for the profile.
        self.ways.messages.retain(|message, _| self.named.contains_key(message) || !self.heard.contains_key(message));
        for (message, marks) in &self.ways.messages {
            let heard = self.heard.entry(*message).or_insert((0, now, now));
            if heard.0 != marks.len() {
                *heard = (marks.len(), heard.1, now);
            }
        }
    }

    fn settled(&mut self, now: Instant, most: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for (message, named) in &self.named {
            let Some(marks) = self.ways.messages.get(message) else { continue };
            let (Some((_, first, last)), Some(began)) = (self.heard.get(message), self.began) else { continue };
            let quiet = now.saturating_duration_since(*last) >= SETTLED_AFTER;
            let early = first.saturating_duration_since(began) < UNDER_WAY_WITHIN;
            if early && !marks.iter().any(|seen| seen.point == "arrived") {
                continue;
            }
            if self.shown.len() < most && quiet && self.shown.insert(*message) {
                texts.push(picture(named, marks));
            }
        }
        texts
    }
}

fn picture(named: &NamedLook, marks: &[Seen]) -> String {
    let NamedLook { message_id, seq, payload_bytes, from, to } = named;
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut text =
        format!("message {message_id}: number {seq} from {} to {}, {payload_bytes} bytes\n", clean(from), clean(to));
    let mut marks: Vec<&Seen> = marks.iter().collect();
    marks.sort_by_key(|seen| seen.unix_ns);
    let Some(first) = marks.first() else { return text };
    let (began, mut last) = (first.unix_ns, first.unix_ns);
    for seen in &marks {
        let (since, step) = (seen.unix_ns - began, seen.unix_ns - last);
        last = seen.unix_ns;
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "  {:>9} ms  {:>9}  {:<8} {:<12} {}",
            format!("{:.3}", since as f64 / 1e6),
            if step == 0 { String::new() } else { format!("+{}", time(step)) },
            place(seen.at),
            seen.point,
            meaning(&seen.point)
        );
    }
    let nodes: BTreeSet<u16> = marks.iter().map(|seen| seen.at.0).collect();
    if nodes.len() > 1 {
        text.push_str("  (times of several nodes are as good as their clocks agree)\n");
    }
    text.push('\n');
    text
}

fn meaning(point: &str) -> &'static str {
    match point {
        "taken" => "the sender's shard took the SEND",
        "arrived" => "the channel's leader has it",
        "proposed" => "in the leader's log",
        "durable" => "on the leader's disk",
        "committed" => "a majority has it on disk; applied",
        "applied" => "another replica has applied it",
        "answered" => "SENDACK leaves",
        "noticed" => "the home of sender or recipient knows",
        "delivered" => "a RECV leaves",
        "acknowledged" => "a device has sent RECVACK",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::{NodeLook, ShardLook};
    use super::*;

    fn look(marks: &[(i64, &str, u64)], named: &[i64]) -> NodeLook {
        let marks = marks.iter().map(|(message, point, at)| (*message, (*point).to_owned(), *at, false)).collect();
        let name = |message_id: &i64| NamedLook {
            message_id: *message_id,
            seq: 3,
            from: "a\x1b".to_owned(),
            to: "b".to_owned(),
            ..NamedLook::default()
        };
        let named = named.iter().map(name).collect();
        NodeLook { node: 1, shards: vec![ShardLook { marks, named, ..ShardLook::default() }], ..NodeLook::default() }
    }

    #[test]
    fn a_message_is_shown_once_when_it_has_come_to_rest() {
        let mut desk = Desk::default();
        let began = Instant::now();
        desk.take(&[look(&[(5, "arrived", 1_000_000), (5, "committed", 3_500_000)], &[5])], began);
        assert!(desk.settled(began, 2).is_empty(), "more may come");
        let later = began + SETTLED_AFTER;
        desk.take(&[look(&[(5, "delivered", 3_600_000)], &[5])], later);
        assert!(desk.settled(later, 2).is_empty(), "something came just now");
        let shown = desk.settled(later + SETTLED_AFTER, 2);
        assert_eq!(shown.len(), 1);
        let lines: Vec<&str> = shown[0].lines().collect();
        assert!(lines[0].contains("number 3 from a  to b"), "what nodes say does not steer a terminal: {}", lines[0]);
        assert!(
            lines[2].contains("2.500 ms") && lines[2].contains("+2.5 ms") && lines[2].contains("committed"),
            "{}",
            lines[2]
        );
        assert!(lines[3].contains("2.600 ms") && lines[3].contains("+100 us"), "{}", lines[3]);
        assert!(desk.settled(later + SETTLED_AFTER, 2).is_empty(), "it was shown");
    }

    #[test]
    fn what_was_under_way_when_the_watch_began_is_none_of_the_next() {
        let mut desk = Desk::default();
        let began = Instant::now();
        desk.take(&[look(&[(5, "committed", 1)], &[5])], began);
        assert!(desk.settled(began + SETTLED_AFTER, 9).is_empty(), "its beginning was not seen");
        // The node of its channel's leader may be one that was not asked: better half of a way than none.
        desk.take(&[look(&[(6, "applied", 2)], &[6])], began + UNDER_WAY_WITHIN);
        assert_eq!(desk.settled(began + UNDER_WAY_WITHIN + SETTLED_AFTER, 9).len(), 1);
    }

    #[test]
    fn messages_of_others_are_forgotten() {
        let mut desk = Desk::default();
        let now = Instant::now();
        desk.take(&[look(&[(5, "arrived", 1), (6, "arrived", 1)], &[5])], now);
        desk.take(&[look(&[], &[5])], now);
        assert_eq!(desk.ways.messages.keys().copied().collect::<Vec<_>>(), [5]);
        assert_eq!(desk.settled(now + SETTLED_AFTER, 1).len(), 1);
    }
}
