//! The page of a record: one file that needs nothing else, with the plots, the figures and how they came about. Pure.

use std::fmt::Write as _;

use crate::plot::{Across, Line, Up, colour, svg};
use crate::record::{Record, RunRecord, ServerRecord};
use crate::table;
use crate::verdict::Kind;
use crate::versus::{COLUMNS, row};

const STYLE: &str = "
:root { --ink: #1b1f27; --soft: #5b6472; --line: #e1e5eb; --paper: #ffffff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #9aa4b2; --line: #2c333e; --paper: #12151a; --card: #1a1f27; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
.soft { color: var(--soft); } svg { width: 100%; height: auto; background: var(--card); border-radius: 8px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } .up { text-anchor: end; } .across { text-anchor: middle; }
.grid { stroke: var(--line); } .line { fill: none; stroke-width: 1.6; stroke-opacity: .85; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; } th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } pre { background: var(--card); padding: .8rem; border-radius: 8px; overflow-x: auto; font-size: .8rem; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin: 0 .35rem 0 1rem; vertical-align: -1px; }
.verdict { padding: .1rem .5rem; border-radius: 4px; color: #fff; } .good { background: #1f9d6b; } .faulty { background: #c0362c; } .invalid { background: #b07c00; }
details { margin: .6rem 0; } summary { cursor: pointer; }
";

/// The whole page.
pub fn page(record: &Record) -> String {
    let machine = &record.machine;
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>loadgen</title><style>";
    out += STYLE;
    out += "</style></head><body>\n<h1>Load test</h1>\n";
    let _ = writeln!(
        out,
        "<p class=\"soft\">{} · {} · {} cores, {} · governor: {} · load average before: {:.2}<br><code>{}</code></p>",
        escaped(&record.made_at),
        escaped(&machine.kernel),
        machine.cores,
        escaped(&machine.cpu),
        escaped(&machine.governor),
        machine.load_average,
        escaped(&record.command)
    );
    let mut works: Vec<&str> = record.servers.iter().map(|server| server.work.as_str()).collect();
    works.dedup();
    for work in works {
        let servers: Vec<&ServerRecord> = record.servers.iter().filter(|server| server.work == work).collect();
        of_work(work, &servers, &mut out);
    }
    out += "</body></html>\n";
    out
}

fn of_work(work: &str, servers: &[&ServerRecord], out: &mut String) {
    if !work.is_empty() {
        let _ = writeln!(out, "<h2>{}</h2>", escaped(work));
    }
    *out += "<p>";
    for (number, server) in servers.iter().enumerate() {
        let _ = write!(
            out,
            "<span class=\"key\" style=\"background:{}\"></span>{} <span class=\"soft\">{} {}</span>",
            colour(number),
            escaped(&server.name),
            escaped(&server.protocol),
            escaped(&server.version)
        );
    }
    *out += "</p>\n";
    if servers.len() > 1 {
        let cells = |tag: &str, cells: &[String]| -> String {
            let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
            format!("<tr>{cells}</tr>")
        };
        let rows: String = servers.iter().map(|server| cells("td", &row(server, servers[0]))).collect();
        let _ = writeln!(out, "<table>{}{rows}</table>", cells("th", &COLUMNS.map(str::to_owned)));
        *out += "<p class=\"soft\">Medians of the good runs, and in parentheses the ratio to the first server.</p>\n";
    }
    let runs =
        || servers.iter().enumerate().flat_map(|(number, server)| server.runs.iter().map(move |run| (number, run)));
    let lines = |dashed: bool, points: &dyn Fn(&RunRecord) -> Vec<(f64, f64)>| -> Vec<Line> {
        runs().map(|(colour, run)| Line { colour, dashed, points: points(run) }).collect()
    };
    let mut plot = |heading: &str, lines: &[Line], across, up| {
        if lines.iter().any(|line| !line.points.is_empty()) {
            let _ = writeln!(out, "<h3>{heading}</h3>\n{}", svg(heading, lines, across, up));
        }
    };
    let mut curves = lines(false, &|run| curve(&run.delivery.curve));
    curves.extend(lines(true, &|run| curve(&run.ack.curve)));
    plot("Latency by percentile: send → delivery, and dashed send → ack", &curves, Across::Quantiles, Up::Time);
    let rate = lines(false, &|run| over_time(run, |second| second.acknowledged as f64 / second.seconds));
    plot("Acknowledged messages per second", &rate, Across::Seconds, Up::Rate);
    let mut times = lines(false, &|run| over_time(run, |second| second.delivery_p99));
    times.extend(lines(true, &|run| over_time(run, |second| second.delivery_p50)));
    plot("Send → delivery over time: p99, and dashed p50", &times, Across::Seconds, Up::Time);
    let lag = lines(false, &|run| over_time(run, |second| second.lag_p99));
    plot("The generator's own lag, p99", &lag, Across::Seconds, Up::Time);
    for server in servers {
        of_server(server, out);
    }
}

fn curve(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|(quantile, us)| *quantile < 1.0 && *us > 0.0).collect()
}

/// Only what was measured for a whole while: in the last moments of a drain a rate means nothing.
fn over_time(run: &RunRecord, value: impl Fn(&crate::record::Second) -> f64) -> Vec<(f64, f64)> {
    let seconds = run.time_line.iter().filter(|second| second.seconds >= 0.2);
    seconds
        .map(|second| (second.at_s + second.seconds / 2.0, value(second)))
        .filter(|(_, value)| *value > 0.0)
        .collect()
}

fn of_server(server: &ServerRecord, out: &mut String) {
    let _ = writeln!(out, "<h3>{}</h3>", escaped(&server.name));
    if !server.note.is_empty() {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(&server.note));
    }
    *out += "<table><tr><th>run</th><th>msg/s</th><th>ack p50</th><th>ack p99</th><th>delivery p50</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th><th>server µs/msg</th><th>verdict</th></tr>\n";
    for (number, run) in server.runs.iter().enumerate() {
        let cells = [
            run.ack.p50,
            run.ack.p99,
            run.delivery.p50,
            run.delivery.p99,
            run.delivery.p99_9,
            run.delivery.p99_99,
            run.delivery.max,
        ];
        let cells: String = cells.iter().map(|us| format!("<td>{}</td>", table::time(*us))).collect();
        let cpu = run.server.map_or("–".to_owned(), |server| format!("{:.2}", server.cpu_per_message));
        let (class, said) = match run.verdict.kind {
            Kind::Good => ("good", "good"),
            Kind::Faulty => ("faulty", "faulty"),
            Kind::Invalid => ("invalid", "invalid"),
        };
        let why = escaped(&run.verdict.reasons.join("; "));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{:.0}</td>{cells}<td>{cpu}</td><td><span class=\"verdict {class}\" title=\"{why}\">{said}</span></td></tr>",
            number + 1,
            run.acknowledged_per_second
        );
    }
    *out += "</table>\n";
    for (number, run) in server.runs.iter().enumerate() {
        let text = table::of_run(&format!("{} at {}", server.protocol, server.target), run);
        let _ = writeln!(
            out,
            "<details><summary>everything of run {}</summary><pre>{}</pre></details>",
            number + 1,
            escaped(&text)
        );
    }
    let options = serde_json::to_string_pretty(&server.options).unwrap_or_default();
    let _ = writeln!(out, "<details><summary>options</summary><pre>{}</pre></details>", escaped(&options));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn a_page_is_whole_and_nothing_in_it_is_markup_by_accident() {
        let server = ServerRecord {
            name: "<b>&\"".to_owned(),
            work: String::new(),
            note: "a note".to_owned(),
            target: "t".to_owned(),
            protocol: "p".to_owned(),
            version: String::new(),
            options: std::collections::BTreeMap::new(),
            runs: Vec::new(),
        };
        let page = page(&Record::new(vec![server.clone(), server], Machine::default()));
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("<th>server</th>"), "several servers are set side by side");
        assert!(page.contains("&lt;b&gt;&amp;&quot;") && !page.contains("<b>&"));
        assert!(!page.contains("http"), "it needs nothing else");
    }
}
