//! What nodes show of themselves, as it is read from their HTTP API: one look at every shard of every node that is asked. Computes
//! nothing but differences between two looks.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::operator::{Desk, OperatorError};

/// One node at one moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeLook {
    pub(super) node: u16,
    pub(super) unix_ns: u64,
    pub(super) shards: Vec<ShardLook>,
}

/// One shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ShardLook {
    pub(super) shard: u16,
    pub(super) cpu_ns: u64,
    pub(super) stages: Vec<StageLook>,
    pub(super) turns: Vec<TurnLook>,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) gauges: BTreeMap<String, u64>,
    pub(super) links: Vec<LinkLook>,
    pub(super) marks_next: u64,
    /// Message, point, when, sampled.
    pub(super) marks: Vec<(i64, String, u64, bool)>,
    pub(super) named: Vec<NamedLook>,
}

/// A stage's histogram.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StageLook {
    pub(super) stage: String,
    pub(super) buckets: Vec<(u64, u64)>,
}

/// A long turn.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TurnLook {
    pub(super) unix_ns: u64,
    pub(super) whole_ns: u64,
    pub(super) gather_ns: u64,
    pub(super) step_ns: u64,
    pub(super) carry_ns: u64,
    pub(super) journal_bytes: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) sends: u64,
    pub(super) messages_stored: u64,
    pub(super) recvs: u64,
    pub(super) recvacks: u64,
    pub(super) frames_received: u64,
}

/// A link.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LinkLook {
    pub(super) peer: String,
    pub(super) up: bool,
    pub(super) unacknowledged_bytes: u64,
    pub(super) unacknowledged_batches: u64,
    pub(super) round_trip_ns: Option<u64>,
}

/// A watched user's message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedLook {
    pub(super) message_id: i64,
    pub(super) seq: u32,
    pub(super) payload_bytes: u64,
    pub(super) from: String,
    pub(super) to: String,
}

impl ShardLook {
    pub(super) fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    pub(super) fn gauge(&self, name: &str) -> u64 {
        self.gauges.get(name).copied().unwrap_or(0)
    }

    /// What a counter has gained since an earlier look at the same shard. A process that began anew begins at zero.
    pub(super) fn gained(&self, earlier: &ShardLook, name: &str) -> u64 {
        self.counter(name).saturating_sub(earlier.counter(name))
    }

    /// What a stage has recorded since an earlier look.
    pub(super) fn recorded(&self, earlier: &ShardLook, stage: &str) -> Vec<(u64, u64)> {
        let of = |look: &ShardLook| -> BTreeMap<u64, u64> {
            let found = look.stages.iter().find(|one| one.stage == stage);
            found.map(|one| one.buckets.iter().copied().collect()).unwrap_or_default()
        };
        let (now, before) = (of(self), of(earlier));
        let gained =
            |(nanos, count): (u64, u64)| (nanos, count.saturating_sub(before.get(&nanos).copied().unwrap_or(0)));
        now.into_iter().map(gained).filter(|(_, count)| *count > 0).collect()
    }
}

/// The nodes that are looked at.
pub(super) struct Nodes {
    desks: Vec<Desk>,
    /// By node: the serial numbers behind the marks seen so far, by shard.
    seen: BTreeMap<u16, Vec<u64>>,
}

impl Nodes {
    /// The node of this API, and with `all` every other member that is alive.
    pub(super) fn find(api: &str, token: &str, all: bool) -> Result<Nodes, OperatorError> {
        let desk = Desk::open(api, token)?;
        let mut desks = Vec::new();
        if all {
            let status = desk.ask("/cluster/status", None)?;
            let first: NodeLook = parse(desk.ask("/profile", None)?)?;
            let members = status["data"]["members"].as_array().cloned().unwrap_or_default();
            for member in members {
                let own = member["node"].as_u64() == Some(u64::from(first.node));
                if own || member["alive"] == false {
                    continue;
                }
                if let Some(address) = member["http_addr"].as_str() {
                    desks.push(Desk::open(address, token)?);
                }
            }
        }
        desks.insert(0, desk);
        Ok(Nodes { desks, seen: BTreeMap::new() })
    }

    /// Looks at all of them. One that does not answer is left out, unless none does.
    pub(super) fn look(&mut self) -> Result<Vec<NodeLook>, OperatorError> {
        let (mut looks, mut failed) = (Vec::new(), None);
        for (at, desk) in self.desks.iter().enumerate() {
            let after: Vec<String> =
                self.seen.get(&(at as u16)).map(|seen| seen.iter().map(u64::to_string).collect()).unwrap_or_default();
            match desk.ask(&format!("/profile?after={}", after.join(",")), None).and_then(parse) {
                Ok(look) => {
                    let mut seen =
                        vec![u64::MAX; look.shards.iter().map(|shard| shard.shard as usize + 1).max().unwrap_or(0)];
                    look.shards.iter().for_each(|shard| seen[shard.shard as usize] = shard.marks_next);
                    self.seen.insert(at as u16, seen);
                    looks.push(look);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if looks.is_empty() => Err(error),
            _ => Ok(looks),
        }
    }

    /// Asks all of them to mark a user's messages.
    pub(super) fn watch(&self, uid: &str, seconds: u64) -> Result<(), OperatorError> {
        let body = serde_json::json!({"uid": uid, "seconds": seconds}).to_string();
        self.desks.iter().try_for_each(|desk| desk.ask("/profile/watch", Some(&body)).map(|_| ()))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.desks.len()
    }
}

fn parse(mut answer: serde_json::Value) -> Result<NodeLook, OperatorError> {
    serde_json::from_value(answer["data"].take())
        .map_err(|error| OperatorError::Refused(format!("the node's profile cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(buckets: &[(u64, u64)], sends: u64) -> ShardLook {
        ShardLook {
            stages: vec![StageLook { stage: "step".to_owned(), buckets: buckets.to_vec() }],
            counters: [("sends".to_owned(), sends)].into(),
            ..ShardLook::default()
        }
    }

    #[test]
    fn only_what_was_recorded_between_two_looks_counts() {
        let (before, now) = (look(&[(10, 5), (20, 1)], 7), look(&[(10, 5), (20, 4), (30, 2)], 9));
        assert_eq!(now.recorded(&before, "step"), [(20, 3), (30, 2)]);
        assert_eq!(now.recorded(&before, "no such stage"), []);
        assert_eq!((now.gained(&before, "sends"), before.gained(&now, "sends")), (2, 0));
    }
}
