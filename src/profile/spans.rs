//! From marks to spans: how long messages were on each part of their way, and which part owns the tail. Pure arithmetic on what nodes have
//! shown.
//!
//! ```text
//!  taken ─route─► arrived ─propose─► proposed ─journal─► durable ─replicate─► committed ─┬─answer─► answered
//!                                        └───────────────commit──────────────►           └─notify─► noticed ─deliver─► delivered
//!                                                                                           ─device─► acknowledged
//! ```
//! Where a majority was faster than the leader's own disk there is no durable mark in time, and the journal's part counts as all of the commit.

use std::collections::BTreeMap;

use super::look::NodeLook;

/// A node and one of its shards.
pub(super) type At = (u16, u16);

/// Parts of a message's way.
pub(super) const SPANS: [&str; 9] =
    ["route", "propose", "journal wait", "replicate", "commit", "answer", "notify", "deliver", "device"];

/// Of those, the ones that make up the way from SEND to RECV, without overlap.
const WAY: [&str; 6] = ["route", "propose", "journal wait", "replicate", "notify", "deliver"];

/// Messages whose marks are kept while they may still be incomplete; the oldest ids give way.
const MESSAGES_MAX: usize = 200_000;

/// A mark with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: At,
    pub(super) point: String,
    pub(super) unix_ns: u64,
}

/// Marks by message.
#[derive(Default)]
pub(super) struct Ways {
    pub(super) messages: BTreeMap<i64, Vec<Seen>>,
}

/// A part of one message's way: which, where it ended, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) name: &'static str,
    pub(super) at: At,
    pub(super) nanos: u64,
}

/// Who makes the slowest messages slow.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tail {
    /// The slowest ones.
    pub(super) messages: usize,
    /// From this many nanoseconds on.
    pub(super) from_nanos: u64,
    /// Parts by their share of the slowest messages' time, largest first; the share is of 1.
    pub(super) owners: Vec<(&'static str, At, f64)>,
}

impl Ways {
    /// Adds what a look has shown; with `sampled` only messages that are marked whoever sends them.
    pub(super) fn add(&mut self, looks: &[NodeLook], sampled: bool) {
        for node in looks {
            for shard in &node.shards {
                for (message, point, unix_ns, of_sample) in &shard.marks {
                    if *of_sample || !sampled {
                        let seen = Seen { at: (node.node, shard.shard), point: point.clone(), unix_ns: *unix_ns };
                        self.messages.entry(*message).or_default().push(seen);
                    }
                }
            }
        }
        while self.messages.len() > MESSAGES_MAX {
            self.messages.pop_first();
        }
    }

    /// Every part of every message's way that both ends were seen of.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.messages.values().flat_map(|marks| spans_of(marks)).collect()
    }

    /// From SEND to the first RECV, or where nobody received, to SENDACK.
    pub(super) fn tail(&self) -> Option<Tail> {
        let whole = |marks: &Vec<Seen>| {
            let taken = first(marks, "taken")?;
            let end = first(marks, "delivered").or_else(|| first(marks, "answered"))?;
            Some(end.unix_ns.saturating_sub(taken.unix_ns))
        };
        let mut wholes: Vec<(u64, &Vec<Seen>)> =
            self.messages.values().filter_map(|marks| Some((whole(marks)?, marks))).collect();
        wholes.sort_by_key(|(nanos, _)| std::cmp::Reverse(*nanos));
        wholes.truncate(wholes.len().div_ceil(100));
        let from_nanos = wholes.last()?.0;
        let mut shares: BTreeMap<(&'static str, At), u64> = BTreeMap::new();
        for (_, marks) in &wholes {
            let spans = spans_of(marks);
            for name in WAY {
                // Of several homes and devices the first: with it the message was there.
                if let Some(span) = spans.iter().filter(|span| span.name == name).min_by_key(|span| span.nanos) {
                    *shares.entry((name, span.at)).or_default() += span.nanos;
                }
            }
        }
        let sum: u64 = wholes.iter().map(|(nanos, _)| nanos).sum();
        let share = |((name, at), nanos): ((&'static str, At), u64)| (name, at, nanos as f64 / sum.max(1) as f64);
        let mut owners: Vec<_> = shares.into_iter().map(share).collect();
        owners.sort_by(|a, b| b.2.total_cmp(&a.2));
        Some(Tail { messages: wholes.len(), from_nanos, owners })
    }
}

fn first<'a>(marks: &'a [Seen], point: &str) -> Option<&'a Seen> {
    marks.iter().filter(|seen| seen.point == point).min_by_key(|seen| seen.unix_ns)
}

/// A message may be on its way twice (a leader was lost): the first passing of each point counts, and a part that would end before it
/// began, as clocks of two nodes differ, took nothing.
fn spans_of(marks: &[Seen]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut push = |name: &'static str, from: Option<&Seen>, to: Option<&Seen>| {
        if let (Some(from), Some(to)) = (from, to) {
            spans.push(Span { name, at: to.at, nanos: to.unix_ns.saturating_sub(from.unix_ns) });
        }
    };
    let point = |name: &str| first(marks, name);
    let (proposed, durable, committed) = (point("proposed"), point("durable"), point("committed"));
    push("route", point("taken"), point("arrived"));
    push("propose", point("arrived"), proposed);
    push("journal wait", proposed, durable.or(committed));
    push("replicate", durable, committed);
    push("commit", proposed, committed);
    push("answer", committed, point("answered"));
    // A message that is not stored has no commit: its way goes on where it arrived.
    let known = committed.or_else(|| point("arrived"));
    for noticed in marks.iter().filter(|seen| seen.point == "noticed") {
        push("notify", known, Some(noticed));
    }
    let noticed = point("noticed");
    for delivered in marks.iter().filter(|seen| seen.point == "delivered") {
        // What the channel's leader sends straight to a session does not wait for the home.
        let by_home = noticed.filter(|noticed| noticed.unix_ns <= delivered.unix_ns);
        push("deliver", by_home.or(known), Some(delivered));
        let taken =
            |seen: &&Seen| seen.point == "acknowledged" && seen.at == delivered.at && seen.unix_ns >= delivered.unix_ns;
        push("device", Some(delivered), marks.iter().filter(taken).min_by_key(|seen| seen.unix_ns));
    }
    spans
}

/// Percentiles of counted values, ascending by value: p50, p99, p99.9 and the largest.
pub(super) fn percentiles(buckets: &[(u64, u64)]) -> [u64; 4] {
    let sum: u64 = buckets.iter().map(|(_, count)| count).sum();
    let at = |quantile: f64| {
        let wanted = ((sum as f64 * quantile).ceil() as u64).max(1);
        let mut so_far = 0;
        let reached = |(_, count): &&(u64, u64)| {
            so_far += count;
            so_far >= wanted
        };
        buckets.iter().find(reached).map_or(0, |(value, _)| *value)
    };
    [at(0.5), at(0.99), at(0.999), buckets.last().map_or(0, |(value, _)| *value)]
}

/// Single values as counted ones.
pub(super) fn counted(mut values: Vec<u64>) -> Vec<(u64, u64)> {
    values.sort_unstable();
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    for value in values {
        match buckets.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => buckets.push((value, 1)),
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::super::look::ShardLook;
    use super::*;

    fn looks(node: u16, shard: u16, marks: &[(i64, &str, u64)]) -> NodeLook {
        let marks = marks.iter().map(|(message, point, at)| (*message, (*point).to_owned(), *at, true)).collect();
        NodeLook { node, shards: vec![ShardLook { shard, marks, ..ShardLook::default() }], ..NodeLook::default() }
    }

    #[test]
    fn a_message_that_crosses_nodes_is_one_way() {
        let mut ways = Ways::default();
        ways.add(
            &[
                looks(1, 0, &[(7, "taken", 100), (7, "answered", 900)]),
                looks(2, 1, &[(7, "arrived", 150), (7, "proposed", 160), (7, "durable", 500), (7, "committed", 800)]),
                looks(
                    3,
                    0,
                    &[(7, "noticed", 850), (7, "delivered", 860), (7, "acknowledged", 960), (7, "applied", 870)],
                ),
            ],
            true,
        );
        let spans: Vec<(&str, At, u64)> = ways.spans().iter().map(|span| (span.name, span.at, span.nanos)).collect();
        let expected = [
            ("route", (2, 1), 50),
            ("propose", (2, 1), 10),
            ("journal wait", (2, 1), 340),
            ("replicate", (2, 1), 300),
            ("commit", (2, 1), 640),
            ("answer", (1, 0), 100),
            ("notify", (3, 0), 50),
            ("deliver", (3, 0), 10),
            ("device", (3, 0), 100),
        ];
        assert_eq!(spans, expected);
        let tail = ways.tail().unwrap();
        assert_eq!((tail.messages, tail.from_nanos), (1, 760));
        assert_eq!((tail.owners[0].0, tail.owners[0].1), ("journal wait", (2, 1)));
        let shares: f64 = tail.owners.iter().map(|(.., share)| share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "the parts of the way are the way: {shares}");
    }

    #[test]
    fn what_was_not_seen_is_left_out_and_clocks_may_differ() {
        let mut ways = Ways::default();
        ways.add(&[looks(1, 0, &[(1, "taken", 100), (2, "arrived", 5)])], true);
        assert_eq!((ways.spans(), ways.tail()), (Vec::new(), None));
        ways.add(&[looks(2, 0, &[(1, "arrived", 90)])], true);
        assert_eq!(ways.spans(), [Span { name: "route", at: (2, 0), nanos: 0 }]);
    }

    #[test]
    fn the_slowest_hundredth_has_an_owner() {
        let mut ways = Ways::default();
        for message in 0..200 {
            let slow = if message < 2 { 9000 } else { 0 };
            let marks = [
                (message, "taken", 100),
                (message, "arrived", 200),
                (message, "proposed", 200),
                (message, "committed", 300 + slow),
                (message, "noticed", 300 + slow),
                (message, "delivered", 310 + slow),
            ];
            ways.add(&[looks(1, 0, &marks)], true);
        }
        let tail = ways.tail().unwrap();
        assert_eq!((tail.messages, tail.from_nanos, tail.owners[0].0), (2, 9210, "journal wait"));
        assert!(tail.owners[0].2 > 0.95, "{tail:?}");
    }

    #[test]
    fn percentiles_are_of_all_values() {
        let values = counted((1..=1000).rev().collect());
        assert_eq!(percentiles(&values), [500, 990, 999, 1000]);
        assert_eq!((percentiles(&[]), percentiles(&[(5, 1)])), ([0; 4], [5; 4]));
        assert_eq!(counted(vec![3, 1, 3]), [(1, 1), (3, 2)]);
    }
}
