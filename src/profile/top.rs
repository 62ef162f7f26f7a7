//! What every shard does now, one line each.

use super::look::NodeLook;
use super::picture::{place, shards, time};
use super::spans::percentiles;
use crate::operator::picture::table;

/// From two looks, the difference.
pub(super) fn picture(before: &[NodeLook], now: &[NodeLook]) -> String {
    let mut rows = vec![
        [
            "SHARD",
            "CPU",
            "SEND/S",
            "STORED/S",
            "RECV/S",
            "SESSIONS",
            "LEADS",
            "JOURNAL/S",
            "SYNCS/S",
            "LINKS",
            "ACK P99",
            "TURN MAX",
        ]
        .map(str::to_owned),
    ];
    for (at, before, now, nanos) in shards(before, now) {
        let rate = |count: u64| (count as f64 * 1e9 / nanos.max(1) as f64).round();
        let per_second = |name: &str| format!("{}", rate(now.gained(before, name)));
        let cpu = now.cpu_ns.saturating_sub(before.cpu_ns) as f64 * 100.0 / nanos.max(1) as f64;
        let whole = now.recorded(before, "whole_path");
        let ack = if whole.is_empty() { "-".to_owned() } else { time(percentiles(&whole)[1]) };
        let turns = now.recorded(before, "turn");
        rows.push([
            place(at),
            format!("{cpu:.0} %"),
            per_second("sends"),
            per_second("messages_stored"),
            per_second("recvs"),
            now.gauge("sessions_live").to_string(),
            now.gauge("slots_led").to_string(),
            bytes(rate(now.gained(before, "journal_bytes"))),
            per_second("journal_flushes"),
            now.gauge("links_up").to_string(),
            ack,
            turns.last().map_or("-".to_owned(), |(nanos, _)| time(*nanos)),
        ]);
    }
    table(&rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
}

fn bytes(count: f64) -> String {
    match count {
        c if c < 10e3 => format!("{c:.0} B"),
        c if c < 10e6 => format!("{:.0} kB", c / 1e3),
        c => format!("{:.0} MB", c / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::{ShardLook, StageLook};
    use super::*;

    fn look(unix_ns: u64, sends: u64) -> NodeLook {
        let counters = [("sends".to_owned(), sends), ("journal_bytes".to_owned(), sends * 100)].into();
        let gauges = [("sessions_live".to_owned(), 7)].into();
        let stages = vec![StageLook { stage: "whole_path".to_owned(), buckets: vec![(1_500_000, sends)] }];
        NodeLook {
            node: 2,
            unix_ns,
            shards: vec![ShardLook { shard: 1, cpu_ns: unix_ns / 4, counters, gauges, stages, ..ShardLook::default() }],
        }
    }

    #[test]
    fn a_line_says_what_the_shard_has_done_since_the_last_look() {
        let page = picture(&[look(1_000_000_000, 10)], &[look(2_000_000_000, 2010)]);
        let line: Vec<&str> = page.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["n2/1", "25", "%", "2000", "0", "0", "7", "0", "200", "kB", "0", "0", "1.5", "ms", "-"]);
        assert_eq!(page.lines().count(), 2);
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!([0.0, 9_999.0, 123_456.0, 52_000_000.0].map(bytes), ["0 B", "9999 B", "123 kB", "52 MB"]);
    }
}
