//! What has happened over many simulations, in the shards' own counters and in the simulator's: a fault that never strikes or a
//! path that is never taken proves nothing. The usual seeds must have met everything that is named here.
//!
//! Names of the simulator's own begin with what they are: `fault: ` was done to the router, `checked ` was compared with what is true, `seen ` it
//! did by itself. Those without such a word are the router's counters.

use std::collections::BTreeMap;

use jindou::engine::counters::Counters;
use jindou::engine::link::LinkCounters;
use jindou::engine::metadata::{Cluster, MemberState};

/// What the usual seeds must meet at least once.
const MUST_HAPPEN: &[&str] = &[
    "api_requests",
    "checkpoints",
    "connects_refused",
    "deliveries_deferred",
    "fetches_disk",
    "fetches_recent",
    "frames_received",
    "frames_sent",
    "journal_faults",
    "journal_flushes",
    "messages_stored",
    "messages_transient",
    "packets_malformed",
    "payloads_bad",
    "recvacks",
    "recvs",
    "recvs_abandoned",
    "recvs_redelivered",
    "seen damages named",
    "seen kicks",
    "seen messages abandoned",
    "seen moves to another shard",
    "seen segments removed",
    "sends",
    "sends_refused",
    "sends_repeated",
    "sessions_handed_over",
    "sessions_idle_closed",
    "sessions_kicked",
    "sessions_opened",
];

/// What must besides with several nodes.
const MUST_HAPPEN_IN_CLUSTERS: &[&str] = &[
    "bodies_left",
    "deliveries_checked",
    "deliveries_stale",
    "deliveries_straight",
    "deliveries_strayed",
    "fetches_put_off",
    "frames_unwelcome",
    "hand_overs",
    "leaderships",
    "link frames sent again",
    "link resets",
    "link silences",
    "link windows full",
    "merges",
    "messages_repaired",
    "operator_requests",
    "raft_stray",
    "rollcall_answers",
    "seen changes of leaders",
    "seen leaders preferred anew",
    "seen members come back to life",
    "seen members drained",
    "seen members judged dead",
    "seen members let in",
    "seen moves begun",
    "seen moves ended",
    "seen moves given up",
    "seen orders to join",
    "seen orders of replicas",
    "seen orders to merge",
    "seen orders to replace",
    "seen orders to split",
    "seen orders to transfer",
    "seen wishes agreed on",
    "seen wishes refused",
    "sessions_drained",
    "splits",
    "submits_sent_again",
    "transfers_failed",
    "transfers_received",
    "transfers_sent",
];

/// Faults that must strike.
const MUST_STRIKE: &[&str] = &[
    "fault: client gone without a word",
    "fault: clock jump",
    "fault: clock that drifts",
    "fault: clogged direction",
    "fault: crash",
    "fault: cut in one direction",
    "fault: datagram doubled",
    "fault: datagram late",
    "fault: datagram lost",
    "fault: disk error",
    "fault: disk request refused",
    "fault: flapping",
    "fault: flipped bit",
    "fault: full disk",
    "fault: hung node",
    "fault: isolated node",
    "fault: link reset",
    "fault: orderly stop",
    "fault: power cut",
    "fault: read error",
    "fault: rubbish from a stranger",
    "fault: site without power",
    "fault: slow disk",
    "fault: torn write",
    "fault: two nodes apart",
    "fault: wiped disk",
];

/// How a fault's name begins.
const FAULT: &str = "fault: ";

/// Totals by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Adds what a shard has counted in its life.
    pub fn add_counters(&mut self, counters: &Counters) {
        counters.each(|name, _, value| self.add(name, value));
    }

    /// Adds what a shard's links have counted.
    pub fn add_links(&mut self, links: &LinkCounters) {
        self.add("link frames sent again", links.frames_resent);
        self.add("link lossy frames dropped", links.lossy_dropped);
        self.add("link resets", links.resets);
        self.add("link silences", links.silent);
        self.add("link windows full", links.overflows);
    }

    /// Adds what has become of the cluster between two states of it.
    pub fn note_cluster(&mut self, before: &Cluster, after: &Cluster) {
        for (node, member) in &after.members {
            let was = before.members.get(node).map(|member| member.state);
            match (was, member.state) {
                (None, _) => self.add("seen members let in", 1),
                (Some(MemberState::Serving), MemberState::Dead) => self.add("seen members judged dead", 1),
                (Some(MemberState::Serving), MemberState::Draining) => self.add("seen members drained", 1),
                (Some(MemberState::Dead), MemberState::Serving) => self.add("seen members come back to life", 1),
                _ => {}
            }
        }
        for (slot, row) in &after.rows {
            let Some(was) = before.rows.get(slot) else { continue };
            let ended = was.target.is_some() && row.target.is_none();
            self.add("seen moves begun", u64::from(was.target.is_none() && row.target.is_some()));
            self.add("seen moves ended", u64::from(ended && was.replicas != row.replicas));
            self.add("seen moves given up", u64::from(ended && was.replicas == row.replicas));
            self.add("seen leaders preferred anew", u64::from(was.preferred != row.preferred));
        }
    }

    /// Adds something by name.
    pub fn add(&mut self, name: &'static str, value: u64) {
        *self.counts.entry(name).or_default() += value;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Coverage) {
        other.counts.iter().for_each(|(name, value)| self.add(name, *value));
    }

    /// How often something happened.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Says what never happened.
    ///
    /// # Errors
    /// The names.
    pub fn complete(&self) -> Result<String, String> {
        let all = [MUST_HAPPEN, MUST_HAPPEN_IN_CLUSTERS, MUST_STRIKE].concat();
        let missing: Vec<&str> = all.iter().copied().filter(|name| self.count(name) == 0).collect();
        if missing.is_empty() {
            return Ok(format!("all of {} kinds of things happened", all.len()));
        }
        Err(format!("never happened: {}", missing.join(", ")))
    }

    /// Everything, a line each.
    pub fn print(&self) {
        self.counts.iter().for_each(|(name, value)| println!("{value:>12}  {name}"));
    }

    /// Faults by kind with how often each struck, the most frequent first.
    pub fn faults(&self) -> String {
        let faults = self.counts.iter().filter_map(|(name, count)| Some((name.strip_prefix(FAULT)?, *count)));
        let mut faults: Vec<(&str, u64)> = faults.filter(|(_, count)| *count > 0).collect();
        faults.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let total: u64 = faults.iter().map(|(_, count)| count).sum();
        let named: Vec<String> = faults.into_iter().map(|(name, count)| format!("{count} × {name}")).collect();
        format!("{total} faults: {}", named.join(", "))
    }
}
