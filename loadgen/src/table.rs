//! What is printed at the end of a run. Scripts read some of these lines: `delivered`, `server CPU`, `faults` keep their form.

use std::fmt::Write as _;

use crate::record::{Percentiles, RunRecord};
use crate::verdict::Kind;

const MIB: f64 = 1_048_576.0;

/// The lines of one run. `head` says what was run.
pub fn of_run(head: &str, run: &RunRecord) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{name:<17}{text}");
    };
    line("run", head.to_owned());
    let crossing = if run.streams_crossing > 0 {
        format!(", {} of them between two addresses", run.streams_crossing)
    } else {
        String::new()
    };
    line(
        "sessions",
        format!(
            "{}, {} conversations{crossing}; all open after {:.2} s",
            run.sessions, run.streams, run.connect_seconds
        ),
    );
    if run.streams > 0 {
        if run.delivery.count > 0 || run.delivered > 0 {
            line("delivered", format!("{} messages, {:.0} msg/s", run.delivered, run.delivered_per_second));
        }
        line("acknowledged", format!("{} messages, {:.0} msg/s", run.acknowledged, run.acknowledged_per_second));
        line("", format!("{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", "p50", "p90", "p99", "p99.9", "p99.99", "max"));
        line("send to ack", latencies(&run.ack));
        if run.delivery.count > 0 {
            line("send to delivery", latencies(&run.delivery));
        }
        if run.lag.count > 0 {
            line("own lag", latencies(&run.lag));
        }
    }
    line("handshake", latencies(&run.connect));
    if run.steps.len() > 1 {
        for step in &run.steps {
            let (from, to) = step.intended.unwrap_or_default();
            let rate = if from == to { format!("{from:.0}/s") } else { format!("{from:.0}..{to:.0}/s") };
            let (acknowledged, p50, p99) =
                (step.acknowledged_per_second, time(step.delivery.p50), time(step.delivery.p99));
            line(
                "step",
                format!("{rate}: {acknowledged:.0} msg/s acknowledged, send to delivery p50 {p50}, p99 {p99}"),
            );
        }
    }
    of_resources(run, &mut line);
    of_checks(run, &mut line);
    out
}

fn of_resources(run: &RunRecord, line: &mut impl FnMut(&str, String)) {
    if let Some(server) = &run.server {
        let all = server.user_seconds + server.system_seconds;
        if run.streams > 0 {
            line(
                "server CPU",
                format!(
                    "{:.2} µs per message{}, {:.2} cores; resident {:.1} MiB, anonymous {:.1} MiB",
                    server.cpu_per_message,
                    // Metrics tell only the sum.
                    if server.system_seconds > 0.0 {
                        format!(" ({:.0} % user)", server.user_seconds * 100.0 / all)
                    } else {
                        String::new()
                    },
                    all / run.seconds,
                    server.resident_bytes as f64 / MIB,
                    server.anonymous_bytes as f64 / MIB
                ),
            );
        } else {
            line(
                "server memory",
                format!(
                    "{:.0} bytes per session (resident), {:.0} anonymous; {:.1} MiB in all; {:.3} cores",
                    server.resident_per_session,
                    server.anonymous_per_session,
                    server.resident_bytes as f64 / MIB,
                    all / run.seconds
                ),
            );
        }
    }
    let own = &run.generator;
    if run.streams > 0 {
        line(
            "generator CPU",
            format!(
                "{:.2} µs per message, {:.2} cores; busiest thread {:.0} %, longest without a core {:.0} %",
                own.cpu_per_message,
                own.cpu_seconds / run.seconds,
                own.busy_share * 100.0,
                own.starved_share * 100.0
            ),
        );
    }
}

fn of_checks(run: &RunRecord, line: &mut impl FnMut(&str, String)) {
    let faults = &run.faults;
    if let Some(alive) = run.alive {
        line("alive", format!("{alive} of {} sessions answer a ping", run.sessions));
    }
    line(
        "faults",
        format!(
            "lost {}, doubled {}, reordered {}, damaged {}, misnumbered {}, refused {}, unanswered {}, disconnected {}",
            faults.lost,
            faults.doubled,
            faults.reordered,
            faults.damaged,
            faults.misnumbered,
            faults.refused,
            faults.unanswered,
            faults.disconnected
        ),
    );
    if run.unknown + run.unsent + run.redelivered + run.delivered_late > 0 {
        line(
            "apart",
            format!(
                "{} sends with unknown outcome, {} due but never sent, {} copies after a reconnect, {} deliveries to who was away",
                run.unknown, run.unsent, run.redelivered, run.delivered_late
            ),
        );
    }
    if let Some(outage) = &run.outage {
        let at = outage.first_failure_ms.map_or("none".to_owned(), |at| format!("at {at} ms"));
        let back = match (outage.first_failure_ms, outage.back_after_ms) {
            (None, _) => String::new(),
            (_, Some(after)) => format!(", back at 99 % of {:.0} msg/s after {after} ms", outage.rate_before),
            (_, None) => format!(", not back at 99 % of {:.0} msg/s", outage.rate_before),
        };
        let (gap, broken) = (outage.longest_gap_ms, outage.connections_broken);
        line("outage", format!("first failure {at}{back}; longest silence {gap} ms; {broken} connections broken"));
    }
    if let Some(trouble) = &run.trouble {
        line("first trouble", trouble.clone());
    }
    let verdict = match run.verdict.kind {
        Kind::Good => "good".to_owned(),
        Kind::Faulty => format!("FAULTY: {}", run.verdict.reasons.join("; ")),
        Kind::Invalid => format!("INVALID: {}", run.verdict.reasons.join("; ")),
    };
    line("verdict", verdict);
}

fn latencies(percentiles: &Percentiles) -> String {
    let all =
        [percentiles.p50, percentiles.p90, percentiles.p99, percentiles.p99_9, percentiles.p99_99, percentiles.max];
    all.map(|us| format!("{:>9}", time(us))).join(" ")
}

/// Microseconds as people read them.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1000.0),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1000.0),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_short_to_read() {
        assert_eq!([12.4, 1234.0, 56_789.0, 2_345_678.0].map(time), ["12 µs", "1.23 ms", "56.8 ms", "2.35 s"]);
    }
}
