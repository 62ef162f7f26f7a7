//! What has happened over many simulations, in the shards' own counters and in the simulator's: a fault that never strikes or a
//! path that is never taken proves nothing. The usual seeds must have met everything that is named here.

use std::collections::BTreeMap;

use jindou::engine::counters::Counters;

/// What the usual seeds must meet at least once.
const MUST_HAPPEN: [&str; 39] = [
    "checkpoints",
    "connects_refused",
    "counted crashes",
    "counted damages named",
    "counted disk refusals",
    "counted kicks",
    "counted messages abandoned",
    "counted moves to another shard",
    "counted orderly stops",
    "counted read errors",
    "counted torn writes",
    "deliveries_checked",
    "deliveries_deferred",
    "deliveries_stale",
    "deliveries_straight",
    "deliveries_strayed",
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
    "sends",
    "sends_refused",
    "sends_repeated",
    "sessions_handed_over",
    "sessions_idle_closed",
    "sessions_kicked",
    "sessions_opened",
    "api_requests",
    "counted segments removed",
];

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

    /// Adds something by name.
    pub fn add(&mut self, name: &'static str, value: u64) {
        *self.counts.entry(name).or_default() += value;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Coverage) {
        other.counts.iter().for_each(|(name, value)| self.add(name, *value));
    }

    /// Says what never happened.
    ///
    /// # Errors
    /// The names.
    pub fn complete(&self) -> Result<String, String> {
        let happened = |name: &&str| self.counts.get(*name).is_some_and(|value| *value > 0);
        let missing: Vec<&str> = MUST_HAPPEN.into_iter().filter(|name| !happened(name)).collect();
        if missing.is_empty() {
            return Ok(format!("all of {} kinds of things happened", MUST_HAPPEN.len()));
        }
        Err(format!("never happened: {}", missing.join(", ")))
    }

    /// Everything, a line each.
    pub fn print(&self) {
        self.counts.iter().for_each(|(name, value)| println!("{value:>12}  {name}"));
    }
}
