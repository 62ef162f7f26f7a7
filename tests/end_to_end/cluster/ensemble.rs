//! Several nodes as one cluster: forming, losing and getting back nodes, and knowing when the cluster is whole again. Nothing
//! here knows what a message is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::separate::Separate;
use super::tell;
use crate::http;
use crate::node::Node;

/// The slots of a cluster under test: few, so that moves are soon done on two cores.
pub const SLOTS: u64 = 16;

/// How long a cluster may take until every slot has all its replicas and a leader. Generous, as tests share two cores.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// From SIGTERM to the end of the process.
const ENDS_WITHIN: Duration = Duration::from_secs(12);

/// What the nodes prove to each other.
pub const SECRET: &str = "a secret of the tests";

/// Nodes of one cluster, numbered from 1 in the order in which they came.
pub struct Ensemble {
    test: String,
    nodes: Vec<Node>,
    /// Bits of a slot's name.
    depth: u32,
    /// Of each node, beside what every node of a test is told.
    settings: Vec<(&'static str, String)>,
}

impl Ensemble {
    /// One node that has founded a cluster.
    pub fn found(test: &str) -> Ensemble {
        let mut ensemble = Ensemble::empty(test);
        ensemble.join();
        ensemble
    }

    fn empty(test: &str) -> Ensemble {
        let depth = SLOTS.trailing_zeros();
        Ensemble { test: test.to_owned(), nodes: Vec::new(), depth, settings: Vec::new() }
    }

    /// A node that ran without others is the first of a cluster from its next start on.
    pub fn around(test: &str, first: Node) -> Ensemble {
        let nodes = vec![Ensemble::told(first, 1, &[])];
        Ensemble { nodes, ..Ensemble::empty(test) }
    }

    /// `count` nodes, whole.
    pub fn form(test: &str, count: usize) -> Ensemble {
        Ensemble::found(test).grow_to(count)
    }

    /// The same, with so many shards each and so many slots.
    pub fn form_of(test: &str, count: usize, shards: u16, slots: u64) -> Ensemble {
        let mut ensemble = Ensemble::empty(test);
        ensemble.depth = slots.trailing_zeros();
        ensemble.settings = vec![("node.shards", shards.to_string()), ("node.slots", slots.to_string())];
        ensemble.join();
        ensemble.grow_to(count)
    }

    /// The same, each node in a network of its own.
    pub fn form_in(network: &Separate, count: usize) -> Ensemble {
        let mut ensemble = Ensemble::empty("separate");
        for id in 1..=count {
            let node = Node::prepare_at("separate", network.address(id), network.wrapper(id), &[]);
            let node = Ensemble::told(node, id, &ensemble.cluster_addresses());
            ensemble.nodes.push(node);
        }
        ensemble.node_mut(1).launch();
        ensemble.node_mut(1).wait_ready();
        ensemble.grow_to(count)
    }

    fn grow_to(self, count: usize) -> Ensemble {
        let mut ensemble = self;
        while ensemble.nodes.len() < count {
            ensemble.prepare();
        }
        for node in &mut ensemble.nodes[1..] {
            node.launch();
        }
        ensemble.all_ready();
        ensemble.wait_whole();
        ensemble
    }

    /// A node with the next number, not started.
    pub fn prepare(&mut self) -> usize {
        let id = self.nodes.len() + 1;
        let mut node = Ensemble::node_with(&self.test, id, &self.cluster_addresses());
        self.settings.iter().for_each(|(key, value)| node.set(key, value));
        self.nodes.push(node);
        id
    }

    /// A node that would join with this number, and belongs to nobody yet.
    pub fn node_with(test: &str, id: usize, seeds: &[SocketAddr]) -> Node {
        Ensemble::told(Node::prepare(test, &[]), id, seeds)
    }

    fn told(mut node: Node, id: usize, seeds: &[SocketAddr]) -> Node {
        node.set("node.id", &id.to_string());
        node.set("cluster.secret", SECRET);
        let (slots, own) = (SLOTS.to_string(), node.cluster().to_string());
        node.set("node.slots", &slots);
        node.set("cluster.listen", &own);
        node.set("cluster.seeds", &listed(seeds));
        node
    }

    /// A further node: starts it and waits until it serves.
    pub fn join(&mut self) -> usize {
        let id = self.prepare();
        let node = self.node_mut(id);
        node.launch();
        node.wait_ready();
        id
    }

    /// Where the nodes find each other.
    pub fn cluster_addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::cluster).collect()
    }

    /// Where clients find the nodes.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::tcp).collect()
    }

    /// By number.
    pub fn node(&self, id: usize) -> &Node {
        &self.nodes[id - 1]
    }

    /// By number.
    pub fn node_mut(&mut self, id: usize) -> &mut Node {
        &mut self.nodes[id - 1]
    }

    /// Every number.
    pub fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// Waits until every node serves.
    pub fn all_ready(&mut self) {
        for node in &mut self.nodes {
            node.wait_ready();
        }
    }

    /// SIGTERM, and demands a clean end.
    pub fn stop(&mut self, id: usize) {
        let status = self.node_mut(id).terminate(ENDS_WITHIN);
        let status = status.unwrap_or_else(|| panic!("node {id} did not stop\n{}", self.node(id).log()));
        assert!(status.success(), "node {id}: {status}\n{}", self.node(id).log());
    }

    /// Starts it again, on its own data.
    pub fn restart(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.launch();
        node.wait_ready();
    }

    /// Takes away the disk of a node that has ended. It asks the others to be let in at its next start.
    pub fn wipe(&mut self, id: usize) {
        let others: Vec<SocketAddr> =
            self.ids().filter(|other| *other != id).map(|other| self.node(other).cluster()).collect();
        let node = self.node_mut(id);
        std::fs::remove_dir_all(node.data()).expect("the node has ended and its data can be removed");
        node.set("cluster.seeds", &listed(&others));
    }

    /// Waits until each slot has its replicas, three where there are as many nodes, and one leader, and every node leads some.
    pub fn wait_whole(&mut self) {
        let deadline = Instant::now() + WHOLE_WITHIN;
        while let Err(why) = self.is_whole() {
            for node in &mut self.nodes {
                node.still_runs();
            }
            if Instant::now() > deadline {
                let logs: Vec<String> = self.nodes.iter().map(Node::log).collect();
                panic!("not whole within {WHOLE_WITHIN:?}: {why}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_whole(&self) -> Result<(), String> {
        for node in &self.nodes {
            let ready = http::get(node.http(), "/readyz").map_err(|fault| fault.to_string())?;
            if ready.status != 200 {
                return Err(ready.body);
            }
        }
        let answer = http::get(self.node(1).http(), "/cluster/status").map_err(|fault| fault.to_string())?;
        let status = &answer.json()["data"];
        let slots = &status["slots"];
        let settled = ["leaderless", "led_elsewhere", "short_of_replicas", "reshaping"];
        let alive = status["members"].as_array().into_iter().flatten().filter(|member| member["alive"] == true).count();
        let is_whole = status["at_rest"] == true
            && status["complete"] == true
            && settled.iter().all(|what| slots[what] == 0)
            && alive == self.nodes.len();
        if !is_whole {
            return Err(answer.body);
        }
        let led: Vec<Option<u64>> = self.nodes.iter().map(|node| node.metric("jindou_slots_led")).collect();
        let fair = led.iter().all(|led| led.is_some_and(|led| led > 0));
        if fair && led.iter().flatten().sum::<u64>() == slots["total"] {
            Ok(())
        } else {
            Err(format!("slots are led by {led:?}"))
        }
    }

    /// An operator's wish, as the HTTP API takes it; the first node passes it on.
    pub fn ask(&self, path: &str, wish: &Value) {
        let answer = http::post(self.node(1).http(), path, wish).unwrap_or_else(|fault| panic!("{path}: {fault}"));
        assert_eq!(answer.status, 200, "{path} {wish}: {}", answer.body);
    }

    /// Waits until `done` is true of what the first node says about the cluster.
    fn wait_status(&self, what: &str, done: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + WHOLE_WITHIN;
        loop {
            let answer = http::get(self.node(1).http(), "/cluster/status");
            if answer.as_ref().is_ok_and(|answer| answer.status == 200 && done(&answer.json()["data"])) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what} within {WHOLE_WITHIN:?}: {answer:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks a node to give up its share, and waits until it holds nothing.
    pub fn drain(&self, id: usize) {
        self.ask("/cluster/drain", &json!({ "node": id }));
        self.wait_status("drained", |status| {
            let mut members = status["members"].as_array().into_iter().flatten();
            members.any(|member| member["node"] == id && member["slots"] == 0) && status["at_rest"] == true
        });
    }

    /// Forgets the last node, which holds nothing any more, and ends it.
    pub fn forget_last(&mut self) {
        let id = self.nodes.len();
        self.ask("/cluster/remove", &json!({ "node": id }));
        self.nodes.pop();
    }

    /// Splits every slot in two, and waits until it is so.
    pub fn split_all(&mut self) {
        self.depth += 1;
        let depth = self.depth;
        self.ask("/cluster/split", &json!({ "slots": [], "depth": depth }));
        self.wait_status("split", |status| status["slots"]["total"] == 1u64 << depth);
        self.wait_whole();
    }

    /// Merges every slot with its sibling, and waits until it is so.
    pub fn merge_all(&mut self) {
        self.depth -= 1;
        let depth = self.depth;
        self.ask("/cluster/merge", &json!({ "slots": [], "depth": depth }));
        self.wait_status("merge", |status| status["slots"]["total"] == 1u64 << depth);
        self.wait_whole();
    }

    /// Every slot's row, by its number, as the leader of the metadata group shows it.
    pub fn rows(&self) -> BTreeMap<u64, Value> {
        let answer = http::get(self.node(1).http(), "/cluster/status?from=0&max=1024").expect("the first node answers");
        let data = answer.json()["data"].take();
        let rows = data["rows"].as_array().into_iter().flatten();
        let rows: BTreeMap<u64, Value> = rows.filter_map(|row| Some((row["slot"].as_u64()?, row.clone()))).collect();
        assert_eq!(data["slots"]["total"], rows.len(), "every slot is on the page: {data}");
        rows
    }

    /// Asks that every slot be led by the replica that comes after its leader, and waits until the cluster rests. Leaders are kept evenly
    /// spread meanwhile, which takes some back: demands that at least half of the slots are led by the node that they were given to, and
    /// that those who lead them now are others than before.
    pub fn transfer_all(&mut self) {
        let before = self.rows();
        let mut wanted = BTreeMap::new();
        for (slot, row) in &before {
            let replicas: Vec<u64> = row["replicas"].as_array().into_iter().flatten().map(node_of).collect();
            let leads = replicas.iter().position(|replica| *replica == node_of(&row["leader"]));
            let leads = leads.unwrap_or_else(|| panic!("a replica leads: {row}"));
            wanted.insert(*slot, replicas[(leads + 1) % replicas.len()]);
        }
        for (slot, node) in &wanted {
            self.ask("/cluster/transfer", &json!({ "slot": slot, "node": node }));
        }
        self.wait_whole();
        let after = self.rows();
        let obeyed = wanted.iter().filter(|(slot, node)| node_of(&after[*slot]["leader"]) == **node).count();
        let changed = before.iter().filter(|(slot, row)| after[*slot]["leader"] != row["leader"]).count();
        let least = before.len() / 2;
        assert!(
            obeyed >= least && changed >= least,
            "of {} transfers {obeyed} stand, {changed} slots are led by others than before\n{}",
            before.len(),
            self.logs()
        );
        tell(&format!("transfers: of {}, {obeyed} stand, {changed} slots have another leader", before.len()));
    }

    /// What one of them has said so far.
    pub fn logs(&self) -> String {
        let logs: Vec<String> = self.ids().map(|id| format!("node {id}: {}", self.node(id).log())).collect();
        logs.join("\n")
    }
}

/// The node of a place, which is written `n2/s0`.
pub fn node_of(place: &Value) -> u64 {
    let node = place.as_str().and_then(|place| place.strip_prefix('n')?.split_once('/')?.0.parse().ok());
    node.unwrap_or_else(|| panic!("no place: {place}"))
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}
