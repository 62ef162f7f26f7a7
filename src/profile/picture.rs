//! A profile as tables for people: what a shard's turns are made of, how long messages were on each part of their way, who owns the tail, the
//! longest turn, and what waits where.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::look::{NodeLook, ShardLook, TurnLook};
use super::spans::{At, SPANS, Ways, counted, percentiles};
use crate::operator::picture::{line, table};

/// Parts of a turn, in the order in which it goes through them.
const TURN_STAGES: [&str; 10] =
    ["read", "decode", "decipher", "step", "journal_wait", "mesh_hop", "encode", "encipher", "write", "turn"];

/// Gauges that say what waits.
const DEPTHS: [(&str, &str); 8] = [
    ("outbound_bytes", "to clients, B"),
    ("submits_waiting", "sends for leaders"),
    ("journal_pending_bytes", "for the journal, B"),
    ("disk_under_way", "disk under way"),
    ("reads_waiting", "reads waiting"),
    ("asks_waiting", "asks for leaders"),
    ("link_unacknowledged_bytes", "links un-acked, B"),
    ("link_outbound_bytes", "to nodes, B"),
];

/// Owners of the tail that are named.
const OWNERS_SHOWN: usize = 4;

/// The whole page.
pub(super) fn profile(before: &[NodeLook], now: &[NodeLook], ways: &Ways) -> String {
    let mut text = String::new();
    let pairs = shards(before, now);
    head(&mut text, before, now, &pairs);
    text.push_str("\nTURNS OF EACH SHARD'S LOOP (every one is timed)\n");
    let mut rows = vec![["SHARD", "STAGE", "COUNT", "P50", "P99", "P99.9", "MAX", "OF WALL TIME"].map(str::to_owned)];
    for (at, before, now, nanos) in &pairs {
        for stage in TURN_STAGES {
            let buckets = now.recorded(before, stage);
            let sum: u64 = buckets.iter().map(|(value, count)| value * count).sum();
            let share = format!("{:.1} %", sum as f64 * 100.0 / (*nanos).max(1) as f64);
            let aside = matches!(stage, "journal_wait" | "mesh_hop" | "write");
            rows.extend(row(*at, stage, &buckets, if aside { "waits".to_owned() } else { share }));
        }
    }
    text.push_str(&table(&rows, &[2, 3, 4, 5, 6, 7]));
    text.push_str(&way(ways));
    text.push_str(&tail(ways));
    text.push_str(&longest(&pairs));
    text.push_str(&depths(&pairs));
    text.push_str(&links(&pairs));
    text
}

/// A shard with both looks at it, and the time between them.
type Pair<'a> = (At, &'a ShardLook, &'a ShardLook, u64);

pub(super) fn shards<'a>(before: &'a [NodeLook], now: &'a [NodeLook]) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for node in now {
        let Some(earlier) = before.iter().find(|earlier| earlier.node == node.node) else { continue };
        let nanos = node.unix_ns.saturating_sub(earlier.unix_ns);
        for shard in &node.shards {
            if let Some(earlier) = earlier.shards.iter().find(|earlier| earlier.shard == shard.shard) {
                pairs.push(((node.node, shard.shard), earlier, shard, nanos));
            }
        }
    }
    pairs
}

pub(super) fn place((node, shard): At) -> String {
    format!("n{node}/{shard}")
}

pub(super) fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn head(text: &mut String, before: &[NodeLook], now: &[NodeLook], pairs: &[Pair<'_>]) {
    let nanos = pairs.iter().map(|(.., nanos)| *nanos).max().unwrap_or(0);
    let gained = |name: &str| pairs.iter().map(|(_, before, now, _)| now.gained(before, name)).sum::<u64>();
    let rate = |count: u64| count as f64 * 1e9 / nanos.max(1) as f64;
    let cpu: u64 = pairs.iter().map(|(_, before, now, _)| now.cpu_ns.saturating_sub(before.cpu_ns)).sum();
    let sends = gained("sends");
    let (nodes, shards, seconds) = (plural(now.len(), "node"), plural(pairs.len(), "shard"), nanos as f64 / 1e9);
    let [sent, received, stored] = [sends, gained("recvs"), gained("messages_stored")].map(rate);
    line(
        text,
        &format!("{nodes}, {shards}, {seconds:.1} s: {sent:.0} SENDs/s, {received:.0} RECVs/s, {stored:.0} stored/s"),
    );
    let each = cpu.checked_div(sends).map_or(String::new(), |each| format!(", {} per SEND", time(each)));
    line(
        text,
        &format!("CPU of the shards' threads: {:.0} % of a core{each}", cpu as f64 * 100.0 / nanos.max(1) as f64),
    );
    let silent = now.iter().filter(|node| !before.iter().any(|earlier| earlier.node == node.node)).count();
    if silent > 0 {
        line(text, &format!("{} came while this was measured and are left out", plural(silent, "node")));
    }
}

fn row(at: At, stage: &str, buckets: &[(u64, u64)], last: String) -> Option<[String; 8]> {
    let count: u64 = buckets.iter().map(|(_, count)| count).sum();
    if count == 0 {
        return None;
    }
    let [p50, p99, p999, max] = percentiles(buckets).map(time);
    Some([place(at), stage.replace('_', " "), count.to_string(), p50, p99, p999, max, last])
}

fn way(ways: &Ways) -> String {
    let mut text = format!(
        "\nA MESSAGE'S WAY ({} followed; within one turn no time passes)\n",
        plural(ways.messages.len(), "message")
    );
    let mut by: BTreeMap<(usize, At), Vec<u64>> = BTreeMap::new();
    for span in ways.spans() {
        let order = SPANS.iter().position(|name| *name == span.name).unwrap_or(SPANS.len());
        by.entry((order, span.at)).or_default().push(span.nanos);
    }
    if by.is_empty() {
        text.push_str("none: nothing was sent, or limits.profile_one_in is 0\n");
        return text;
    }
    let mut rows = vec![["SHARD", "PART", "COUNT", "P50", "P99", "P99.9", "MAX", ""].map(str::to_owned)];
    for ((order, at), values) in by {
        rows.extend(row(at, SPANS[order], &counted(values), String::new()));
    }
    text.push_str(&table(&rows, &[2, 3, 4, 5, 6]));
    text
}

fn tail(ways: &Ways) -> String {
    let Some(tail) = ways.tail() else { return String::new() };
    let mut words = Vec::new();
    for (name, at, share) in tail.owners.iter().take(OWNERS_SHOWN).filter(|(.., share)| *share >= 0.01) {
        words.push(format!("{:.0} % {name} at {}", share * 100.0, place(*at)));
    }
    let count = plural(tail.messages, "message");
    format!("tail: the slowest 1 % ({count}, from {} on) spent\n      {}\n", time(tail.from_nanos), words.join(", "))
}

fn longest(pairs: &[Pair<'_>]) -> String {
    let mut text = String::from("\nLONGEST TURN OF EACH SHARD\n");
    for (at, _, now, nanos) in pairs {
        let last = now.turns.iter().map(|turn| turn.unix_ns).max().unwrap_or(0);
        let recent = now.turns.iter().filter(|turn| turn.unix_ns + nanos + 1_000_000_000 >= last);
        if let Some(turn) = recent.max_by_key(|turn| turn.whole_ns) {
            let (parts, ran) = turn_words(turn);
            line(&mut text, &format!("{}: {parts}", place(*at)));
            if !ran.is_empty() {
                line(&mut text, &format!("      {ran}"));
            }
        }
    }
    text
}

/// Its parts, and what ran in it.
fn turn_words(turn: &TurnLook) -> (String, String) {
    let parts = format!(
        "{} (taking in {}, step {}, carrying out {})",
        time(turn.whole_ns),
        time(turn.gather_ns),
        time(turn.step_ns),
        time(turn.carry_ns)
    );
    let mut ran = Vec::new();
    for (count, word) in [
        (turn.sends, "SENDs"),
        (turn.recvacks, "RECVACKs"),
        (turn.frames_received, "frames"),
        (turn.messages_stored, "stored"),
        (turn.recvs, "RECVs"),
        (turn.journal_bytes, "B to the journal"),
        (turn.checkpoint_bytes, "B of checkpoints"),
    ] {
        if count > 0 {
            ran.push(format!("{count} {word}"));
        }
    }
    (parts, ran.join(", "))
}

fn depths(pairs: &[Pair<'_>]) -> String {
    let mut text = String::from("\nWHAT WAITS\n");
    for (at, _, now, _) in pairs {
        let waits: Vec<String> = DEPTHS
            .iter()
            .filter(|(name, _)| now.gauge(name) > 0)
            .map(|(name, words)| format!("{words} {}", now.gauge(name)))
            .collect();
        let words = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
        line(&mut text, &format!("{}: {words}", place(*at)));
    }
    text
}

fn links(pairs: &[Pair<'_>]) -> String {
    let mut rows = vec![["LINK", "STATE", "UN-ACKED", "BATCHES", "ROUND TRIP"].map(str::to_owned)];
    for (at, _, now, _) in pairs {
        for link in &now.links {
            rows.push([
                format!("{} - {}", place(*at), link.peer),
                if link.up { "up" } else { "down" }.to_owned(),
                format!("{} B", link.unacknowledged_bytes),
                link.unacknowledged_batches.to_string(),
                link.round_trip_ns.map_or("-".to_owned(), time),
            ]);
        }
    }
    if rows.len() == 1 {
        return String::new();
    }
    let mut text = String::from("\nLINKS (a round trip has the other side's delay before it acknowledges in it)\n");
    text.push_str(&table(&rows, &[2, 3, 4]));
    text
}

/// A time with three digits or so.
pub(super) fn time(nanos: u64) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = match nanos {
        0..1_000 => write!(text, "{nanos} ns"),
        1_000..100_000 => write!(text, "{:.1} us", nanos as f64 / 1e3),
        100_000..1_000_000 => write!(text, "{} us", nanos / 1_000),
        1_000_000..100_000_000 => write!(text, "{:.1} ms", nanos as f64 / 1e6),
        100_000_000..10_000_000_000 => write!(text, "{} ms", nanos / 1_000_000),
        _ => write!(text, "{} s", nanos / 1_000_000_000),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::super::look::StageLook;
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [0, 999, 1_500, 250_000, 2_000_000, 250_000_000, 12_000_000_000].map(time);
        assert_eq!(shown, ["0 ns", "999 ns", "1.5 us", "250 us", "2.0 ms", "250 ms", "12 s"]);
    }

    fn look(unix_ns: u64, buckets: &[(u64, u64)], sends: u64) -> NodeLook {
        let turn = TurnLook { unix_ns, whole_ns: 3_000_000, step_ns: 2_000_000, sends: 12, ..TurnLook::default() };
        let marks = [("taken", 100), ("arrived", 110), ("proposed", 110), ("durable", 900), ("committed", 950)];
        let marks = marks.iter().map(|(point, at)| (9, (*point).to_owned(), *at, true)).collect();
        let shard = ShardLook {
            stages: vec![StageLook { stage: "step".to_owned(), buckets: buckets.to_vec() }],
            counters: [("sends".to_owned(), sends)].into(),
            gauges: [("reads_waiting".to_owned(), 3)].into(),
            turns: vec![turn],
            marks,
            cpu_ns: unix_ns / 2,
            ..ShardLook::default()
        };
        NodeLook { node: 4, unix_ns, shards: vec![shard] }
    }

    #[test]
    fn the_page_says_what_was_measured() {
        let (before, now) = (look(1_000_000_000, &[(10_000, 1)], 5), look(3_000_000_000, &[(10_000, 101)], 205));
        let mut ways = Ways::default();
        ways.add(std::slice::from_ref(&now), true);
        let page = profile(&[before], &[now], &ways);
        for wanted in [
            "1 node, 1 shard, 2.0 s: 100 SENDs/s",
            "CPU of the shards' threads: 50 % of a core, 5.0 ms per SEND",
            "n4/0   step     100  10.0 us  10.0 us  10.0 us  10.0 us         0.1 %",
            "journal wait",
            "n4/0: 3.0 ms (taking in 0 ns, step 2.0 ms, carrying out 0 ns)\n      12 SENDs",
            "n4/0: reads waiting 3",
        ] {
            assert!(page.contains(wanted), "{wanted:?} is missing in\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    }

    #[test]
    fn nothing_to_follow_is_said() {
        let page = profile(&[look(1, &[], 0)], &[look(2, &[], 0)], &Ways::default());
        assert!(page.contains("none: nothing was sent, or limits.profile_one_in is 0"), "{page}");
    }
}
