//! `GET /metrics` in Prometheus' text form. Names end in their unit, totals in `_total`; every number of a shard has the
//! label `shard`. The numbers are the shards' own, copied at the moment of asking; nothing is counted here but this API's
//! answers.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::engine::link::LinkCounters;
use crate::shell::stages::ShardSnapshot;

/// The page.
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let snapshots = api.snapshots().await;
    let mut page = Page::default();
    node_metrics(&api, &mut page);
    engine_metrics(&snapshots, &mut page);
    cluster_metrics(&snapshots, &mut page);
    shell_metrics(&snapshots, &mut page);
    stage_metrics(&snapshots, &mut page);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.text).into_response()
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a family: its lines must follow each other.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.trim();
        // Writing into a string cannot fail.
        let _ = write!(self.text, "# HELP jindou_{name} {help}\n# TYPE jindou_{name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.text, "jindou_{name}");
        for (at, (label, content)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{content}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

fn node_metrics(api: &Api, page: &mut Page) {
    page.family("info", "gauge", "What runs here.");
    page.line("info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    page.family("uptime_seconds", "gauge", "Time since the start.");
    page.line("uptime_seconds", &[], api.started.elapsed().as_secs());
    if let Some((cpu_seconds, resident_bytes)) = process_use() {
        page.family("process_cpu_seconds_total", "counter", "CPU time of this process, user and system.");
        page.line("process_cpu_seconds_total", &[], cpu_seconds);
        page.family("process_resident_bytes", "gauge", "Resident memory of this process.");
        page.line("process_resident_bytes", &[], resident_bytes);
    }
    page.family("shard_ready", "gauge", "1 when the shard has its data back and serves.");
    for shard in api.shards() {
        let ready = u8::from(api.node.is_ready(shard));
        page.line("shard_ready", &[("shard", &shard.0)], ready);
    }
    page.family("shard_stalls_total", "counter", "Times the watchdog found the shard standing still.");
    for shard in api.shards() {
        page.line("shard_stalls_total", &[("shard", &shard.0)], api.node.stalls(shard));
    }
    page.family("http_responses_total", "counter", "Answers of the HTTP API by class of status.");
    for (at, count) in api.responses.iter().enumerate() {
        let class = format!("{}xx", at + 1);
        page.line("http_responses_total", &[("class", &class)], count.load(Ordering::Relaxed));
    }
}

/// CPU seconds and resident bytes of this process, from /proc.
fn process_use() -> Option<(f64, u64)> {
    /// The kernel's unit (USER_HZ) on every architecture that jindou runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let mut ticks = stat[stat.rfind(')')? + 2..].split(' ').skip(11).map(|field| field.parse::<f64>().ok());
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(((ticks.next()?? + ticks.next()??) / TICKS_PER_SECOND, kib * 1024))
}

/// One number that every shard shows.
fn per_shard(page: &mut Page, snapshots: &[ShardSnapshot], name: &str, value: impl Fn(&ShardSnapshot) -> u64) {
    for snapshot in snapshots {
        page.line(name, &[("shard", &snapshot.shard.0)], value(snapshot));
    }
}

fn engine_metrics(snapshots: &[ShardSnapshot], page: &mut Page) {
    let mut counters = Vec::new();
    crate::engine::counters::Counters::default().each(|name, help, _| counters.push((name, help)));
    for (at, (name, help)) in counters.into_iter().enumerate() {
        let name = format!("{name}_total");
        page.family(&name, "counter", help);
        per_shard(page, snapshots, &name, |snapshot| {
            let mut values = Vec::new();
            snapshot.counters.each(|_, _, value| values.push(value));
            values[at]
        });
    }
    for (name, help, value) in GAUGES {
        page.family(name, "gauge", help);
        per_shard(page, snapshots, name, value);
    }
}

pub(super) type Gauge = (&'static str, &'static str, fn(&ShardSnapshot) -> u64);

/// Present values that every shard has.
pub(super) const GAUGES: [Gauge; 19] = [
    ("sessions", "Connections in whatever state.", |s| s.engine.sessions as u64),
    ("sessions_live", "Connections that passed CONNECT.", |s| s.engine.sessions_live as u64),
    ("slots_led", "Slots led here.", |s| s.engine.slots_led as u64),
    ("slots_waiting", "Slots hosted here that nobody is known to lead.", |s| s.engine.slots_waiting as u64),
    ("slots_hosted", "Slots with a replica here.", |s| s.engine.slots_hosted as u64),
    ("reads_waiting", "Disk reads that wait for room.", |s| s.engine.reads_waiting as u64),
    ("channels", "Channels known here.", |s| s.engine.channels as u64),
    ("homes", "Users known here.", |s| s.engine.homes as u64),
    ("messages_indexed", "Messages that can be read back.", |s| s.engine.messages_indexed),
    ("recent_bytes", "Bytes of message bodies in memory.", |s| s.engine.recent_bytes as u64),
    ("journal_pending_bytes", "Bytes waiting for the journal.", |s| s.engine.journal_pending_bytes as u64),
    ("journal_segments", "Segments of the journal.", |s| {
        u64::from(s.engine.journal_segments.1.saturating_sub(s.engine.journal_segments.0)) + 1
    }),
    ("journal_writable", "0 while the disk refuses writes.", |s| u64::from(s.engine.writable)),
    ("table_version", "Version of the slot table that the shard goes by.", |s| s.cluster.table_version),
    ("submits_waiting", "Messages that wait for their slot's leader.", |s| s.cluster.submits_waiting as u64),
    ("asks_waiting", "Parts of API requests that wait for their slot's leader.", |s| s.cluster.asks_waiting as u64),
    ("transfers", "Slots' states on their way out or in.", |s| s.cluster.transfers as u64),
    ("links_up", "Links with shards of other nodes that stand.", |s| s.cluster.links_up as u64),
    ("link_unacknowledged_bytes", "Bytes sent over links and not acknowledged.", |s| {
        s.cluster.links_unacknowledged_bytes as u64
    }),
];

/// Links' totals, and what the node knows of the whole cluster: from the shard that knows the newest table.
fn cluster_metrics(snapshots: &[ShardSnapshot], page: &mut Page) {
    for (name, help, value) in LINK_TOTALS {
        page.family(name, "counter", help);
        per_shard(page, snapshots, name, |snapshot| value(&snapshot.cluster.links));
    }
    let Some(newest) = snapshots.iter().max_by_key(|snapshot| snapshot.cluster.table_version) else { return };
    let cluster = &newest.cluster;
    page.family("cluster_members", "gauge", "Members of the cluster by state, as agreed.");
    let members =
        [("serving", cluster.members_serving), ("draining", cluster.members_draining), ("dead", cluster.members_dead)];
    for (state, count) in members {
        page.line("cluster_members", &[("state", &state)], count);
    }
    page.family("cluster_moves", "gauge", "Slots of the cluster whose replicas are to move.");
    page.line("cluster_moves", &[], cluster.moves);
    page.family("cluster_reshapes", "gauge", "Slots of the cluster that are to split or to merge.");
    page.line("cluster_reshapes", &[], cluster.reshapes);
}

type LinkTotal = (&'static str, &'static str, fn(&LinkCounters) -> u64);

const LINK_TOTALS: [LinkTotal; 7] = [
    ("link_resets_total", "Links whose run of frames ended with something lost.", |links| links.resets),
    ("link_overflows_total", "Of those, because the window was full.", |links| links.overflows),
    ("link_frames_resent_total", "Frames written again after a socket was lost.", |links| links.frames_resent),
    ("link_lossy_dropped_total", "Raft messages that found no room on a link.", |links| links.lossy_dropped),
    ("link_dials_total", "Dials of other nodes.", |links| links.dials),
    ("link_refusals_total", "Handshakes that either side refused.", |links| links.refused + links.refused_by_others),
    ("link_silences_total", "Links hung up because nothing was heard.", |links| links.silent + links.timed_out),
];

fn shell_metrics(snapshots: &[ShardSnapshot], page: &mut Page) {
    let mut numbers = Vec::new();
    crate::shell::stages::ShellCounters::default().each(|name, help, total, _| numbers.push((name, help, total)));
    for (at, (name, help, total)) in numbers.into_iter().enumerate() {
        // The unit stands last in a metric's name.
        let name = match name.strip_prefix("bytes_") {
            Some(rest) => format!("{rest}_bytes"),
            None => name.to_owned(),
        };
        let (name, kind) = if total { (format!("{name}_total"), "counter") } else { (name, "gauge") };
        page.family(&name, kind, help);
        per_shard(page, snapshots, &name, |snapshot| {
            let mut values = Vec::new();
            snapshot.shell.each(|_, _, _, value| values.push(value));
            values[at]
        });
    }
}

fn stage_metrics(snapshots: &[ShardSnapshot], page: &mut Page) {
    page.family("stage_seconds", "summary", "Time of each stage of a message's way through a shard, since the start.");
    for snapshot in snapshots {
        let shard = snapshot.shard.0;
        for stage in &snapshot.stages {
            let name = stage.stage.name();
            for (quantile, value) in
                [("0.5", stage.p50), ("0.9", stage.p90), ("0.99", stage.p99), ("0.999", stage.p999)]
            {
                let labels: [(&str, &dyn Display); 3] = [("shard", &shard), ("stage", &name), ("quantile", &quantile)];
                page.line("stage_seconds", &labels, value.as_secs_f64());
            }
            let labels: [(&str, &dyn Display); 2] = [("shard", &shard), ("stage", &name)];
            page.line("stage_seconds_sum", &labels, stage.sum.as_secs_f64());
            page.line("stage_seconds_count", &labels, stage.count);
        }
    }
    page.family("stage_max_seconds", "gauge", "Longest time of each stage since the start.");
    for snapshot in snapshots {
        for stage in &snapshot.stages {
            let labels: [(&str, &dyn Display); 2] = [("shard", &snapshot.shard.0), ("stage", &stage.stage.name())];
            page.line("stage_max_seconds", &labels, stage.max.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use openmetrics_parser::prometheus::parse_prometheus;
    use openmetrics_parser::{PrometheusType, PrometheusValue};

    use super::super::fake::{Fake, get_text};

    /// Each has few values: none is drawn from users, addresses of clients or messages.
    const LABELS_ALLOWED: [&str; 7] = ["shard", "stage", "quantile", "class", "state", "version", "peer"];

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let fake = Fake::default();
        let (status, page) = get_text(&fake, "/metrics");
        assert_eq!(status, 200);
        let read = parse_prometheus(&page).unwrap_or_else(|error| panic!("{error}\n{page}"));
        assert_eq!(read.families.len(), page.matches("# TYPE ").count(), "no family appears twice");
        for (name, family) in &read.families {
            assert!(family.help.contains(' '), "{name} explains nothing");
            assert_eq!(family.family_type == PrometheusType::Counter, name.ends_with("_total"), "{name}");
            assert!(family.family_type != PrometheusType::Unknown, "{name} has no type");
            for odd in ["_ms", "_millis", "_nanos", "_micros", "_kb", "_kib"] {
                assert!(!name.trim_end_matches("_total").ends_with(odd), "{name} is not in seconds or bytes");
            }
            assert!(family.get_label_names().iter().all(|label| LABELS_ALLOWED.contains(&label.as_str())), "{name}");
        }
        let sends = &read.families["jindou_sends_total"];
        let values: Vec<f64> = sends
            .iter_samples()
            .map(|sample| match &sample.value {
                PrometheusValue::Counter(counter) => counter.value.as_f64(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values, [11.0, 12.0]);
        for wanted in [
            "jindou_sends_total{shard=\"0\"} 11",
            "jindou_sends_total{shard=\"1\"} 12",
            "jindou_read_bytes_total{shard=\"0\"} 0",
            "jindou_sessions{shard=\"1\"} 3",
            "jindou_journal_writable{shard=\"0\"} 1",
            "jindou_table_version{shard=\"1\"} 7",
            "jindou_cluster_members{state=\"serving\"} 3",
            "jindou_link_resets_total{shard=\"0\"} 0",
            "jindou_leaderships_total{shard=\"0\"} 0",
            "jindou_stage_seconds_count{shard=\"0\",stage=\"step\"} 1",
            "jindou_shard_ready{shard=\"1\"} 1",
        ] {
            assert!(page.lines().any(|line| line == wanted), "{wanted} is missing in\n{page}");
        }
        let (_, resident) = super::process_use().expect("/proc is there");
        assert!(resident > 1 << 20 && page.contains("jindou_process_cpu_seconds_total "), "{resident}");
    }

    #[test]
    fn the_dashboard_shows_only_what_is_on_the_page() {
        let (_, page) = get_text(&Fake::default(), "/metrics");
        let read = parse_prometheus(&page).unwrap();
        let dashboard = include_str!("../../../tuning/grafana.json");
        let names: std::collections::BTreeSet<&str> = dashboard
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("jindou_"))
            .collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            let family = name.strip_suffix("_sum").unwrap_or(name);
            assert!(read.families.contains_key(family), "{name} is not on the page");
        }
    }

    #[test]
    fn a_shard_that_is_not_ready_is_left_out() {
        let fake = Fake { ready: 1, ..Fake::default() };
        let (_, page) = get_text(&fake, "/metrics");
        assert!(page.contains("jindou_sends_total{shard=\"0\"}"));
        assert!(!page.contains("jindou_sends_total{shard=\"1\"}"));
        assert!(page.contains("jindou_shard_ready{shard=\"1\"} 0"));
    }
}
