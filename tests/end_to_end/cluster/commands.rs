//! `jindou cluster …` as an operator types it, against a cluster of real processes with two shards each: the exit code, what is said, and what
//! has become of the cluster. Users talk across it all the while. What the commands mean is tested where it is decided.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ensemble::{Ensemble, node_of};
use super::talkers::Talk;
use super::{ANSWERED_WITHIN, PACE, alone, tell_counts};
use crate::client::{Client, Login};
use crate::http;
use crate::node::binary;

/// What every command that waits is given at most.
const WITHIN: &str = "60";

/// Fewer than elsewhere, as all of them change again and again; each node leads two or three.
const SLOTS: u64 = 8;

/// Users who talk: one begins at each node, and one more.
const USERS: usize = 4;

/// Clients who come to a drained node all the same.
const LATE: usize = 6;

/// What a command did.
struct Did {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Did {
    fn of(output: Output) -> Did {
        Did {
            code: output.status.code(),
            said: String::from_utf8_lossy(&output.stdout).into_owned(),
            complained: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Demands this exit code, and these words on standard output (0) or in the last line on standard error.
    fn must(&self, code: i32, words: &str) {
        let Did { said, complained, .. } = self;
        let told = if code == 0 { said } else { complained.trim_end().lines().last().unwrap_or_default() };
        assert!(
            self.code == Some(code) && told.contains(words),
            "{:?} instead of {code} with {words:?}\n{said}\n{complained}",
            self.code
        );
    }
}

fn command(cluster: &Ensemble, asked: usize, words: &str) -> Command {
    let mut command = binary();
    let api = format!("http://{}", cluster.node(asked).http());
    command.arg("cluster").args(words.split(' ')).arg("--api").arg(api).stdin(Stdio::null());
    command
}

/// Asks one node; commands that wait do so for a bounded time.
fn operate(cluster: &Ensemble, asked: usize, words: &str) -> Did {
    let mut command = command(cluster, asked, words);
    if words.ends_with("--wait") {
        command.args(["--within", WITHIN]);
    }
    Did::of(command.output().expect("the binary was built and can be started"))
}

/// The same, in the background.
fn begin(cluster: &Ensemble, asked: usize, words: &str) -> Child {
    let mut command = command(cluster, asked, words);
    command.args(["--within", WITHIN]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary was built and can be started")
}

fn status(cluster: &Ensemble) -> Value {
    let did = operate(cluster, 1, "status --json --slots");
    did.must(0, "\"members\"");
    serde_json::from_str(&did.said).unwrap_or_else(|fault| panic!("no JSON: {fault}: {}", did.said))
}

fn member(status: &Value, node: usize) -> &Value {
    let mut members = status["members"].as_array().into_iter().flatten();
    members.find(|member| member["node"] == node).unwrap_or_else(|| panic!("no member {node}: {status}"))
}

/// Demands that a node has nothing and serves nobody, as the cluster says it and as it says itself.
fn holds_nothing(cluster: &Ensemble, node: usize) {
    let status = status(cluster);
    let member = member(&status, node);
    let numbers = ["slots", "leads", "preferred", "sessions"].map(|what| member[what].as_u64());
    assert_eq!((numbers, &member["state"]), ([Some(0); 4], &Value::from("draining")), "{member}");
    assert_eq!(cluster.node(node).metric("jindou_sessions_live"), Some(0), "node {node} serves nobody");
    assert_eq!(cluster.node(node).metric("jindou_slots_led"), Some(0), "node {node} leads nothing");
}

/// Looks again and again.
fn wait<T>(what: &str, look: impl Fn() -> Result<T, String>) -> T {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "{what}: not within {ANSWERED_WITHIN:?}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A slot and another node that may lead it so that all lead as many as they should: nothing is evened out afterwards. None before all lead
/// two or three.
fn a_transfer(rows: &BTreeMap<u64, Value>) -> Option<(u64, u64)> {
    let (mut by_node, mut by_place) = (BTreeMap::new(), BTreeMap::new());
    for row in rows.values() {
        *by_node.entry(node_of(&row["leader"])).or_insert(0) += 1;
        *by_place.entry(row["leader"].to_string()).or_insert(0) += 1;
    }
    let leads = |place: &Value| (by_node[&node_of(place)], by_place.get(&place.to_string()).copied().unwrap_or(0));
    if by_node.values().any(|leads| !(2..=3).contains(leads)) {
        return None;
    }
    for (slot, row) in rows {
        let from = leads(&row["leader"]);
        let to = row["replicas"].as_array().into_iter().flatten().find(|place| {
            let to = leads(place);
            to.0 < from.0 && to.1 < from.1
        });
        if let Some(to) = to {
            return Some((*slot, node_of(to)));
        }
    }
    None
}

/// Links between shards that are not the first, which have ports of their own.
fn second_shards_are_linked(cluster: &Ensemble) {
    let up = |link: &&Value| {
        let to_second = link["peer"].as_str().is_some_and(|peer| peer.ends_with("/s1"));
        link["shard"] == 1 && link["state"] == "up" && to_second
    };
    for id in cluster.ids() {
        wait("second shards are linked", || {
            let links = http::get(cluster.node(id).http(), "/cluster/links").expect("it answers").json();
            let count = links["data"].as_array().into_iter().flatten().filter(up).count();
            if count == cluster.addresses().len() - 1 { Ok(()) } else { Err(format!("node {id}: {links}")) }
        });
    }
}

fn wrong_requests_are_refused(cluster: &Ensemble) {
    operate(cluster, 1, "drain 9 --wait").must(1, "refused: n9 is no member of this cluster");
    operate(cluster, 2, "transfer --slot 99 --to 1 --wait").must(1, "refused: there is no slot 99");
    operate(cluster, 3, "replace 2 --by 2").must(1, "by itself");
    assert_eq!(operate(cluster, 1, "drain three").code, Some(2), "no number");
    let nobody = binary().args(["cluster", "rebalance", "--api", "127.0.0.1:1"]).output().expect("it starts");
    Did::of(nobody).must(3, "cannot reach");
}

/// Each says what has become of the slots' leaders and replicas.
fn slots_obey(cluster: &Ensemble) {
    let (slot, node) = wait("two or three slots are led by each", || {
        let rows = cluster.rows();
        a_transfer(&rows).ok_or_else(|| format!("{rows:?}"))
    });
    operate(cluster, 2, &format!("transfer --slot {slot} --to {node} --wait")).must(0, "everything is at rest");
    assert_eq!(node_of(&cluster.rows()[&slot]["leader"]), node, "slot {slot} is led by whom it was given to");

    operate(cluster, 3, "split --all --wait").must(0, "everything is at rest");
    let depths = |cluster: &Ensemble| cluster.rows().values().map(|row| row["depth"].clone()).collect::<Vec<_>>();
    assert_eq!(depths(cluster), vec![Value::from(4); 16]);
    operate(cluster, 1, "merge --all --wait").must(0, "everything is at rest");
    assert_eq!(depths(cluster), vec![Value::from(3); 8]);

    for (asked, count) in [(2, 2), (3, 3)] {
        operate(cluster, asked, &format!("replicas {count}")).must(0, &format!("to have {count} replicas"));
        wait("each slot has so many", || {
            let rows = cluster.rows();
            let has = |row: &Value| row["replicas"].as_array().is_some_and(|replicas| replicas.len() == count);
            if rows.values().all(has) { Ok(()) } else { Err(format!("{count}: {rows:?}")) }
        });
    }
}

/// The third node's share is the fourth's, and back again.
fn nodes_are_exchanged(cluster: &mut Ensemble, talk: &Talk) {
    let replacing = begin(cluster, 1, "replace 3 --by 4 --wait");
    let id = cluster.join();
    talk.add(cluster.node(id).tcp());
    Did::of(replacing.wait_with_output().expect("our own child")).must(0, "n4 takes the share of n3");
    holds_nothing(cluster, 3);
    assert!(member(&status(cluster), 4)["slots"].as_u64() > Some(0));
    talk.wait_answers(ANSWERED_WITHIN);
    operate(cluster, 2, "serve 3").must(0, "n3 is to hold its share");
    cluster.wait_whole();
}

/// A node with sessions is emptied, and somebody comes late.
fn a_node_is_emptied(cluster: &Ensemble, talk: &Talk) {
    talk.spread();
    talk.wait_answers(ANSWERED_WITHIN);
    assert!(cluster.node(4).metric("jindou_sessions_live") > Some(0), "somebody is there to be let go");
    operate(cluster, 1, "drain 4 --wait").must(0, "n4 is to hold nothing");
    holds_nothing(cluster, 4);
    let late: Vec<Client> =
        (0..LATE).map(|at| Client::connect(cluster.node(4), &Login::tcp(&format!("late-{at}")))).collect();
    // What is told of sessions may be a second old.
    wait("those who came late are counted", || {
        let shown = status(cluster);
        if member(&shown, 4)["sessions"] == LATE { Ok(()) } else { Err(shown.to_string()) }
    });
    operate(cluster, 2, "drain 4 --wait --within 3").must(4, &format!("n4 has {LATE} sessions left"));
    drop(late);
    operate(cluster, 1, "rebalance").must(0, "everything is planned anew");
    operate(cluster, 2, "remove 4").must(0, "n4 is no member any more");
}

#[test]
fn what_an_operator_types_is_done_on_nodes_of_two_shards() {
    let _alone = alone();
    let began = Instant::now();
    let mut cluster = Ensemble::form_of("commands", 3, 2, SLOTS);
    let talk = Talk::begin("commands", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    let shown = operate(&cluster, 3, "status");
    shown.must(0, ": at rest (told by n");
    assert!(["n1 ", "n2 ", "n3 "].iter().all(|node| shown.said.lines().any(|line| line.starts_with(node))));
    wait("everybody is counted", || {
        let shown = status(&cluster);
        let sessions: Option<u64> = (1..=3).map(|node| member(&shown, node)["sessions"].as_u64()).sum();
        if sessions == Some(USERS as u64) { Ok(()) } else { Err(shown.to_string()) }
    });
    second_shards_are_linked(&cluster);
    wrong_requests_are_refused(&cluster);
    slots_obey(&cluster);
    nodes_are_exchanged(&mut cluster, &talk);
    a_node_is_emptied(&cluster, &talk);
    cluster.forget_last();
    talk.forget_last();
    cluster.wait_whole();
    let verdict = talk.end();
    tell_counts(&format!("operators' commands, two shards a node, {:.0} s", began.elapsed().as_secs_f64()), &verdict);
    verdict.must_be_good(|| cluster.logs());
}
