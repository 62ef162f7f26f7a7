//! What the operator is told when the cluster changes: who has come, who has gone, who is somewhere else now. One line each,
//! from two states of the cluster that follow each other. It deliberately says nothing about slots, which move often, and
//! remembers nothing. Who is not heard is no change of the cluster, but what an operator looks for first.

use std::fmt;

use crate::engine::metadata::{Cluster, Member, MemberState};
use crate::ids::NodeId;

/// One line for each thing that an operator would want to know, as seen from a node that knew one state and knows the next.
#[must_use]
pub fn lines(here: NodeId, known: Option<&Cluster>, next: &Cluster) -> Vec<String> {
    let is_in = |cluster: &Cluster| cluster.members.contains_key(&here);
    match known.filter(|known| is_in(known)) {
        Some(known) => changes(known, next),
        None if is_in(next) => vec![belongs(here, next)],
        // It hears of others before it is let in itself.
        None => Vec::new(),
    }
}

/// A node that founded its own cluster has met a seed of its that belongs to another one.
#[must_use]
pub fn two_clusters(seed: &impl fmt::Display, name: &str) -> String {
    format!(
        "this node is a cluster by itself, and {seed} belongs to another one named {name:?}: neither is changed. If this node was to join \
         that one, stop it, set its data directory (node.data_dir) aside and start it again"
    )
}

/// What the configuration asks for and nobody heeds any more, said once: when a node learns of the cluster that it is in.
#[must_use]
pub fn other_replicas(here: NodeId, known: Option<&Cluster>, next: &Cluster, configured: u8) -> Option<String> {
    let is_in = |cluster: &Cluster| cluster.members.contains_key(&here);
    let agreed = next.replicas_wanted;
    (is_in(next) && !known.is_some_and(is_in) && agreed != configured).then(|| {
        format!(
            "the cluster keeps {agreed} replicas of each slot: cluster.replicas = {configured} counts only when one is founded, \
             `jindou cluster replicas {configured}` asks for it now"
        )
    })
}

/// A member is there, or is not: gossip or a link that breaks says so before anything is agreed on.
#[must_use]
pub fn presence(node: NodeId, there: bool) -> String {
    let node = node.0;
    if there {
        format!("node {node} is there again")
    } else {
        format!("node {node} is not there any more: others lead what it led")
    }
}

fn belongs(here: NodeId, cluster: &Cluster) -> String {
    let others: Vec<String> =
        cluster.members.keys().filter(|node| **node != here).map(|node| node.0.to_string()).collect();
    let with = if others.is_empty() { "alone so far".to_owned() } else { format!("with nodes {}", others.join(", ")) };
    format!("this node is a member of cluster {:?}, {with}", cluster.name)
}

fn changes(known: &Cluster, next: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    if known.name != next.name {
        lines.push(format!("the cluster is called {:?} now, and was {:?}", next.name, known.name));
    }
    for (node, member) in &next.members {
        match known.members.get(node) {
            None => lines.push(format!("node {} has joined, at {}", node.0, member.addresses.cluster)),
            Some(before) => lines.extend(change_of(*node, before, member)),
        }
    }
    let gone = known.members.keys().filter(|node| !next.members.contains_key(node));
    lines.extend(gone.map(|node| format!("node {} is no member any more", node.0)));
    lines
}

fn change_of(node: NodeId, before: &Member, now: &Member) -> Option<String> {
    let node = node.0;
    if before.identity != now.identity {
        return Some(format!("node {node} comes with an empty disk, and is filled again from the others"));
    }
    if before.state != now.state {
        return Some(match now.state {
            MemberState::Serving => format!("node {node} takes its share of the slots"),
            MemberState::Draining => format!("node {node} is being emptied"),
            MemberState::Dead => format!("node {node} is given up: its replicas are rebuilt on others"),
        });
    }
    (before.addresses.cluster != now.addresses.cluster)
        .then(|| format!("node {node} is at {} now", now.addresses.cluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Addresses;
    use crate::ids::{Place, ReplicaId, ShardId};

    fn member(node: u16, state: MemberState) -> Member {
        let cluster = format!("192.0.2.{node}:5300").parse().unwrap();
        let text = || Box::<str>::from("");
        Member {
            identity: u64::from(node),
            since: 0,
            shards: 1,
            addresses: Addresses { cluster, tcp: text(), ws: text(), wss: text(), http: text() },
            metadata_replica: ReplicaId::new(Place { node: NodeId(node), shard: ShardId(0) }, 1),
            state,
        }
    }

    fn cluster(members: &[Member]) -> Cluster {
        let numbered = members.iter().map(|member| (member.metadata_replica.place().node, member.clone()));
        Cluster { name: "town".into(), members: numbered.collect(), ..Cluster::default() }
    }

    #[test]
    fn each_change_is_one_line() {
        let (one, two) = (member(1, MemberState::Serving), member(2, MemberState::Serving));
        let mut known = None;
        let mut after = |members: &[Member]| {
            let before = known.replace(cluster(members));
            lines(NodeId(1), before.as_ref(), &cluster(members)).join("; ")
        };
        assert_eq!(after(std::slice::from_ref(&two)), "", "not let in yet");
        assert_eq!(after(std::slice::from_ref(&one)), "this node is a member of cluster \"town\", alone so far");
        assert_eq!(after(&[one.clone(), two.clone()]), "node 2 has joined, at 192.0.2.2:5300");
        assert_eq!(after(&[one.clone(), two.clone()]), "");
        let mut changed = two.clone();
        changed.state = MemberState::Draining;
        assert_eq!(after(&[one.clone(), changed.clone()]), "node 2 is being emptied");
        changed.addresses.cluster = "192.0.2.9:5300".parse().unwrap();
        assert_eq!(after(&[one.clone(), changed.clone()]), "node 2 is at 192.0.2.9:5300 now");
        changed.identity = 77;
        let line = after(&[one.clone(), changed]);
        assert_eq!(line, "node 2 comes with an empty disk, and is filled again from the others");
        assert_eq!(after(std::slice::from_ref(&one)), "node 2 is no member any more");
        let both = cluster(&[one, two]);
        let line = lines(NodeId(1), None, &both).join("; ");
        assert_eq!(line, "this node is a member of cluster \"town\", with nodes 2");
        let renamed = Cluster { name: "city".into(), ..both.clone() };
        let line = lines(NodeId(1), Some(&both), &renamed).join("; ");
        assert_eq!(line, "the cluster is called \"city\" now, and was \"town\"");
    }

    #[test]
    fn replicas_that_are_not_heeded_are_told_of_once() {
        let agreed = Cluster { replicas_wanted: 3, ..cluster(&[member(1, MemberState::Serving)]) };
        let line = other_replicas(NodeId(1), None, &agreed, 5).unwrap_or_default();
        assert!(line.contains("keeps 3 replicas") && line.contains("`jindou cluster replicas 5`"), "{line}");
        assert_eq!(other_replicas(NodeId(1), None, &agreed, 3), None);
        assert_eq!(other_replicas(NodeId(1), Some(&agreed), &agreed, 5), None, "it was told when it began");
        assert_eq!(other_replicas(NodeId(2), None, &agreed, 5), None, "not let in yet");
    }
}
