//! Clusters of real processes: they form, grow, lose nodes in every way that one machine can give them, and what their users
//! were promised is checked all the while. Each test has a cluster of its own; only one runs at a time, because on two cores
//! one cluster is load enough. The table of faults with many repetitions is [`faults`], run only when asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jindou::format::link_hello::{self, LinkFacts, LinkMessage, RefusedWhy};
use jindou::format::packet::HeaderFlags;
use jindou::ids::{NodeId, Place, ShardId, uid_hash};
use serde_json::{Value, json};

use crate::client::{Client, Login};
use crate::http;
use crate::node::Node;
use ensemble::{Ensemble, SLOTS, node_of};
use presence::Sitters;
use talkers::{Talk, Verdict};

#[path = "cluster/commands.rs"]
mod commands;
#[path = "cluster/ensemble.rs"]
mod ensemble;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/presence.rs"]
mod presence;
#[path = "cluster/separate.rs"]
mod separate;
#[path = "cluster/talkers.rs"]
mod talkers;

/// Users of a talk, and how often each says something.
const USERS: usize = 8;
const PACE: Duration = Duration::from_millis(20);

/// After a fault, how long until everybody is answered again. Not a measurement: tests share their cores.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// Says it in the ordinary test command too, which shows only of tests that fail what they print.
fn tell(what: &str) {
    // Whoever reads along may be gone; that fails no test.
    let _ = writeln!(io::stderr(), "{what}");
}

fn tell_counts(what: &str, verdict: &Verdict) {
    tell(&format!("{what}: {:?}", verdict.counts));
}

#[test]
fn three_nodes_form_and_any_user_talks_to_any_other() {
    let _alone = alone();
    let cluster = Ensemble::form("form", 3);
    let talk = Talk::begin("form", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    // The same user's device, moved by its owner from node to node.
    let (mut number, mut seen) = (0, BTreeSet::new());
    for from in cluster.ids() {
        for to in cluster.ids() {
            let mut ana = Client::connect(cluster.node(from), &Login::tcp("ana"));
            let mut bo = Client::connect(cluster.node(to), &Login::ws("bo"));
            number += 1;
            ana.send("bo", &number.to_string(), b"hello", HeaderFlags::RED_DOT).expect("the connection lives");
            let ack = ana.ack();
            assert_eq!((ack.reason, ack.message_seq), (1, number), "from node {from} to node {to}");
            // What the device acknowledged in the moment before it moved may come again to where it is now.
            let received =
                std::iter::repeat_with(|| bo.received()).find(|received| !seen.contains(&received.message_id));
            let received = received.expect("it goes on until there is one");
            seen.insert(received.message_id);
            assert_eq!(
                (received.message_id, received.message_seq),
                (ack.message_id, number),
                "from node {from} to node {to}"
            );
        }
    }
    routes_name_the_leader(&cluster);
    let verdict = talk.end();
    tell_counts("three nodes", &verdict);
    verdict.must_be_good(|| cluster.logs());
}

/// Demands that every node sends each user to the node that leads its home.
fn routes_name_the_leader(cluster: &Ensemble) {
    let rows = cluster.rows();
    let users: Vec<String> = (0..24).map(|at| format!("somebody-{at}")).collect();
    let led = |uid: &String| {
        let slot = uid_hash(uid).slot(SLOTS.trailing_zeros() as u8);
        node_of(&rows[&u64::from(slot.0)]["leader"])
    };
    let wanted: BTreeMap<String, u64> = users.iter().map(|uid| (uid.clone(), led(uid))).collect();
    let nodes: BTreeSet<u64> = wanted.values().copied().collect();
    assert_eq!(nodes.len(), 3, "their homes are led everywhere: {wanted:?}");
    let leads_to = |answer: &Value| {
        let is_it = |id: &usize| answer["tcp_addr"] == cluster.node(*id).tcp().to_string();
        cluster.ids().find(is_it).map(|id| id as u64)
    };
    for asked in cluster.ids() {
        let api = cluster.node(asked).http();
        for (uid, node) in &wanted {
            let answer = http::get(api, &format!("/route?uid={uid}")).expect("the node answers");
            assert_eq!((answer.status, leads_to(&answer.json())), (200, Some(*node)), "node {asked}: {answer:?}");
        }
        let answer = http::post(api, "/route/batch", &json!(users)).expect("the node answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        let groups = answer.json();
        let mut told = BTreeMap::new();
        for group in groups.as_array().expect("groups") {
            let uids = group["uids"].as_array().into_iter().flatten().filter_map(Value::as_str);
            told.extend(uids.map(|uid| (uid.to_owned(), leads_to(group).expect("a node of the cluster"))));
        }
        assert_eq!(told, wanted, "node {asked}: {groups}");
        let (groups, named) = (groups.as_array().map_or(0, Vec::len), answer.body.matches("somebody-").count());
        assert_eq!((groups, named), (3, users.len()), "one group a node, and each user once");
    }
}

#[test]
fn one_node_grows_to_three_and_the_first_may_go() {
    let _alone = alone();
    let mut cluster = Ensemble::found("grow");
    let stored: u64 = 200;
    let mut ana = Client::connect(cluster.node(1), &Login::tcp("ana"));
    let mut acks = Vec::new();
    for number in 1..=stored {
        ana.send("bo", &number.to_string(), format!("before {number}").as_bytes(), HeaderFlags::RED_DOT)
            .expect("the connection lives");
        acks.push(ana.ack());
    }
    drop(ana);
    let talk = Talk::begin("grow", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    for _ in 0..2 {
        let id = cluster.join();
        talk.add(cluster.node(id).tcp());
    }
    cluster.wait_whole();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.node_mut(1).kill();
    talk.wait_answers(ANSWERED_WITHIN);
    let mut bo = Client::connect(cluster.node(2), &Login::tcp("bo"));
    for (number, ack) in (1..).zip(&acks) {
        let received = bo.received();
        assert_eq!(received.number, number.to_string(), "what was stored on one node comes from the others");
        assert_eq!((received.message_id, received.message_seq), (ack.message_id, ack.message_seq), "message {number}");
        assert_eq!(received.payload, format!("before {number}").as_bytes());
    }
    let verdict = talk.end();
    tell_counts("one node grows to three", &verdict);
    verdict.must_be_good(|| cluster.logs());
}

/// What `jindou cluster join` prints, and its exit code.
fn ask_how_to_join(node: &Node) -> (Option<i32>, String) {
    let api = format!("http://{}", node.http());
    let output = crate::node::binary().args(["cluster", "join", "--api", &api]).output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// As the README's first five minutes leave it: no `[cluster]` at all. Then it gets one, and two others join as `cluster join` says.
#[test]
fn a_node_without_a_cluster_gets_one_and_two_others_join_it() {
    let _alone = alone();
    let mut plain = Node::start("plain", &[]);
    let mut ana = Client::connect(&plain, &Login::tcp("ana"));
    let mut acks = Vec::new();
    for number in 1..=100 {
        let to = if number % 2 == 0 { "bo" } else { "cy" };
        ana.send(to, &number.to_string(), format!("plain {number}").as_bytes(), HeaderFlags::RED_DOT)
            .expect("the connection lives");
        acks.push((to, number, ana.ack()));
    }
    drop(ana);
    let (code, said) = ask_how_to_join(&plain);
    assert!(code == Some(1) && said.contains("nobody can join yet"), "{said}");
    assert!(plain.terminate(Duration::from_secs(12)).is_some_and(|status| status.success()), "{}", plain.log());

    let mut cluster = Ensemble::around("plain", plain);
    cluster.node_mut(1).set("cluster.name", "east");
    cluster.node_mut(1).set("cluster.replicas", "2");
    cluster.restart(1);
    let renamed: &[&str] = &["the cluster is called \"east\" now, and was \"jindou\""];
    say([
        (cluster.node(1), &["the cluster keeps 3 replicas of each slot: cluster.replicas = 2 counts only"]),
        (cluster.node(1), renamed),
    ]);
    let talk = Talk::begin("plain", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    for id in 2..=3 {
        let deadline = Instant::now() + ANSWERED_WITHIN;
        let file = loop {
            match ask_how_to_join(cluster.node(1)) {
                (Some(0), file) => break file,
                (_, said) => assert!(Instant::now() < deadline, "{said}"),
            }
        };
        let value = |key: &str| {
            let line = file.lines().find_map(|line| line.trim().strip_prefix(&format!("{key} = ")));
            line.unwrap_or_else(|| panic!("no {key} in {file}")).trim_matches(['[', ']', '"']).replace('"', "")
        };
        assert_eq!(cluster.prepare(), id);
        let node = cluster.node_mut(id);
        for (key, setting) in [("id", "node.id"), ("name", "cluster.name"), ("seeds", "cluster.seeds")] {
            node.set(setting, &value(key).replace(", ", ","));
        }
        node.launch();
        node.wait_ready();
        talk.add(cluster.node(id).tcp());
    }
    cluster.wait_whole();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.node_mut(1).kill();
    talk.wait_answers(ANSWERED_WITHIN);
    for (uid, node) in [("bo", 2), ("cy", 3)] {
        let mut friend = Client::connect(cluster.node(node), &Login::tcp(uid));
        for (_, number, ack) in acks.iter().filter(|(to, ..)| *to == uid) {
            let received = friend.received();
            assert_eq!(received.number, number.to_string(), "what was stored without a cluster comes from the others");
            assert_eq!((received.message_id, received.message_seq), (ack.message_id, ack.message_seq));
            assert_eq!(received.payload, format!("plain {number}").as_bytes());
        }
    }
    let verdict = talk.end();
    tell_counts("a node without a cluster grows to three", &verdict);
    verdict.must_be_good(|| cluster.logs());
}

#[test]
fn nodes_are_killed_hung_and_restarted_in_turn() {
    let _alone = alone();
    let mut cluster = Ensemble::form("faults", 3);
    let talk = Talk::begin("faults", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    let mut sitters = Sitters::begin("faults", &cluster);
    for id in cluster.ids() {
        sitters.touch(id);
        cluster.node_mut(id).kill();
        talk.wait_answers(ANSWERED_WITHIN);
        cluster.restart(id);
        cluster.wait_whole();
        sitters.back(&cluster, id);
    }
    let told = cluster.node(1).log();
    assert!(told.contains("node 2 is not there any more") && told.contains("node 2 is there again"), "{told}");
    for id in cluster.ids() {
        sitters.touch(id);
        cluster.stop(id);
        talk.wait_answers(ANSWERED_WITHIN);
        cluster.restart(id);
        cluster.wait_whole();
        sitters.back(&cluster, id);
    }
    sitters.touch(2);
    cluster.node(2).signal("STOP");
    std::thread::sleep(Duration::from_secs(3));
    cluster.node(2).signal("CONT");
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.wait_whole();
    sitters.back(&cluster, 2);
    sitters.end(|| cluster.logs());
    let verdict = talk.end();
    tell_counts("killed, restarted, hung", &verdict);
    verdict.must_be_good(|| cluster.logs());
}

#[test]
fn a_fourth_node_joins_a_lost_disk_is_filled_again_slots_split_and_merge_and_a_node_is_drained() {
    let _alone = alone();
    let mut cluster = Ensemble::form("fourth", 3);
    let talk = Talk::begin("fourth", cluster.addresses(), USERS, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    let id = cluster.join();
    talk.add(cluster.node(id).tcp());
    cluster.wait_whole();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.node_mut(3).kill();
    cluster.wipe(3);
    cluster.restart(3);
    cluster.wait_whole();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.split_all();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.merge_all();
    cluster.transfer_all();
    talk.wait_answers(ANSWERED_WITHIN);
    cluster.drain(id);
    cluster.forget_last();
    talk.forget_last();
    cluster.wait_whole();
    talk.wait_answers(ANSWERED_WITHIN);
    let verdict = talk.end();
    tell_counts("a fourth node, a lost disk, splits, merges, a drain", &verdict);
    verdict.must_be_good(|| cluster.logs());
}

/// Waits until each node has said its words, in one line.
fn say(nodes: [(&Node, &[&str]); 2]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for (node, words) in nodes {
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        while !node.log().lines().any(said) {
            assert!(Instant::now() < deadline, "no line with {words:?}\n{}", node.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What another program of the same name would be told, and what this one says when it is refused by such a one.
fn version_is_checked(member: &Node, newcomer: impl FnOnce(SocketAddr) -> Node) {
    let other_version = |bytes: Vec<u8>| {
        let mut bytes = bytes;
        bytes[4..6].copy_from_slice(&0x0907_u16.to_le_bytes());
        bytes
    };
    let place = |node: u16| Place { node: NodeId(node), shard: ShardId(0) };
    let facts = LinkFacts {
        cluster_name: "jindou".into(),
        cluster_id: 0,
        place: place(9),
        identity: 9,
        boot: 9,
        wanted: None,
        nonce: [0; 16],
    };
    let mut dialer = TcpStream::connect(member.cluster()).expect("a member listens");
    dialer.set_read_timeout(Some(Duration::from_secs(10))).expect("a time above nothing");
    dialer.write_all(&other_version(link_hello::encode_hello(&facts))).expect("it reads");
    let mut said = Vec::new();
    dialer.read_to_end(&mut said).expect("it hangs up");
    let Ok((LinkMessage::Refuse(why, text), _)) = link_hello::decode(&said) else { panic!("no refusal: {said:?}") };
    assert!(why == RefusedWhy::Version && text.contains("speaks") && text.contains("9.7"), "{text}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let seed = listener.local_addr().expect("it is bound");
    let node = newcomer(seed);
    let (mut link, _) = listener.accept().expect("it dials its seed");
    let mut hello = [0u8; 16];
    link.read_exact(&mut hello).expect("it says hello");
    link.write_all(&other_version(link_hello::encode_refuse(why, &text))).expect("it reads");
    let seed = seed.to_string();
    say([
        (member, &["refuses a link with whoever is at 127.0.0.1: ", "different versions of the link protocol", "9.7"]),
        (&node, &[&seed, "refuses a link with this node", "different versions of the link protocol", "9.7"]),
    ]);
}

#[test]
fn who_does_not_belong_is_not_let_in_and_both_sides_say_why() {
    let _alone = alone();
    let mut cluster = Ensemble::form("refused", 2);
    let stranger = |id: usize, seeds: &[SocketAddr], key: &str, value: &str| {
        let mut node = Ensemble::node_with("stranger", id, seeds);
        node.set(key, value);
        node.launch();
        node
    };
    let seeds = [cluster.node(1).cluster()];
    let founder = |words: &'static [&'static str]| (cluster.node(1), words);

    let node = stranger(3, &seeds, "cluster.secret", "another secret of tests");
    say([founder(&["node 3", "different cluster secrets"]), (&node, &["refuses a link", "different cluster secrets"])]);
    drop(node);
    let node = stranger(3, &seeds, "cluster.name", "another");
    say([founder(&["node 3", "different names"]), (&node, &["refuses a link", "different names"])]);
    drop(node);
    let node = stranger(2, &seeds, "log.level", "info");
    say([founder(&["node 2", "same node id"]), (&node, &["refuses a link", "same node id"])]);
    drop(node);
    let version = cluster.node(1).metric("jindou_cluster_members");
    assert!(version.is_none_or(|members| members == 2), "nobody was let in");

    // One that has founded a cluster of its own, and then gets seeds.
    let mut apart = stranger(3, &[], "log.level", "info");
    apart.wait_ready();
    assert!(apart.terminate(Duration::from_secs(12)).is_some_and(|status| status.success()), "{}", apart.log());
    apart.set("cluster.seeds", &seeds[0].to_string());
    apart.launch();
    apart.wait_ready();
    let here = seeds[0].to_string();
    say([
        founder(&[
            "refuses a link with node 3 at 127.",
            "different clusters of the same name",
            "set its data directory aside",
        ]),
        (&apart, &["this node is a cluster by itself", &here, "set its data directory", "aside"]),
    ]);
    apart.wait_ready();
    assert_eq!(apart.metric("jindou_cluster_members"), Some(1));
    drop(apart);
    version_is_checked(cluster.node(1), |seed| stranger(3, &[seed], "log.level", "info"));

    // The second node's directory, copied while it runs: the copy is another process under the same name.
    cluster.stop(2);
    let mut copy = Ensemble::node_with("copy", 2, &seeds);
    let copied = std::process::Command::new("cp").arg("-r").arg(cluster.node(2).data()).arg(copy.data()).status();
    assert!(copied.is_ok_and(|status| status.success()), "a directory can be copied");
    cluster.restart(2);
    cluster.wait_whole();
    copy.launch();
    say([(cluster.node(1), &["node 2", "same node id"]), (&copy, &["same node id"])]);
    drop(copy);
    cluster.wait_whole();

    // A directory remembers whose it is.
    let foreign = Ensemble::node_with("foreign", 4, &seeds);
    cluster.stop(2);
    let data = format!("node.data_dir={}", cluster.node(2).data().display());
    let output = foreign.command().arg("--set").arg(data).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is that of node 2, and node.id = 4"), "{said}");
    cluster.restart(2);
    cluster.wait_whole();
    let talk = Talk::begin("refused", cluster.addresses(), 4, PACE);
    talk.wait_answers(ANSWERED_WITHIN);
    talk.end().must_be_good(|| cluster.logs());
}
