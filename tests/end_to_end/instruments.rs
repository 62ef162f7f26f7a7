//! What `jindou profile`, `trace` and `top` say of a real node under a little load.

use std::process::Stdio;
use std::time::{Duration, Instant};

use jindou::format::packet::HeaderFlags;

use crate::client::{Client, Login};
use crate::node::{Node, binary};

/// Two users talk until the command ends; returns what it printed.
fn ask(node: &Node, arguments: &[&str]) -> String {
    let mut ana = Client::connect(node, &Login::tcp("ana"));
    let mut bo = Client::connect(node, &Login::ws("bo"));
    let api = format!("http://{}", node.http());
    let mut child = binary()
        .args(arguments)
        .args(["--api", &api])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let began = Instant::now();
    for index in 0u64.. {
        let number = format!("{arguments:?}-{index}");
        ana.send("bo", &number, b"hello", HeaderFlags::RED_DOT).expect("the connection lives");
        assert_eq!(ana.ack().reason, 1);
        assert_eq!(bo.received().payload, b"hello");
        if child.try_wait().expect("a child can be asked").is_some() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it has ended");
    let (text, why) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{arguments:?}: {why}\n{text}");
    text
}

#[test]
fn a_running_node_says_where_the_time_goes() {
    let node = Node::start("instruments", &["node.shards=2", "limits.profile_one_in=1"]);
    let page = ask(&node, &["profile", "--seconds", "2"]);
    for part in ["read", "decode", "decipher", "step", "journal wait", "encode", "encipher", "write", "turn"] {
        assert!(
            page.lines().any(|line| line.starts_with("n1/") && line.contains(part)),
            "{part} is missing in\n{page}"
        );
    }
    for part in ["route", "propose", "replicate", "commit", "answer", "notify", "deliver", "device"] {
        let way = page.split("A MESSAGE'S WAY").nth(1).expect("the second table");
        assert!(way.lines().any(|line| line.starts_with("n1/") && line.contains(part)), "{part} is missing in\n{page}");
    }
    assert!(page.contains("tail: the slowest 1 %") && page.contains("LONGEST TURN"), "{page}");
    let top = ask(&node, &["top", "--once"]);
    assert_eq!(top.lines().filter(|line| line.starts_with("n1/")).count(), 2, "{top}");
}

#[test]
fn a_users_messages_are_traced_point_by_point() {
    let node = Node::start("trace", &["node.shards=2", "limits.profile_one_in=0"]);
    let text = ask(&node, &["trace", "--uid", "bo", "--next", "2", "--within", "20"]);
    let messages: Vec<&str> = text.split("message ").filter(|one| !one.is_empty()).collect();
    assert_eq!(messages.len(), 2, "{text}");
    for message in messages {
        let mut points =
            message.lines().skip(1).filter_map(|line| line.split_whitespace().find(|word| ALL.contains(word)));
        let seen: Vec<&str> = points.by_ref().collect();
        assert!(message.contains("from ana to bo, 5 bytes"), "{text}");
        for point in
            ["taken", "arrived", "proposed", "durable", "committed", "answered", "noticed", "delivered", "acknowledged"]
        {
            assert!(seen.contains(&point), "{point} is missing in\n{text}");
        }
        let position = |point: &str| seen.iter().position(|seen| *seen == point);
        assert!(
            position("taken") < position("committed") && position("committed") < position("acknowledged"),
            "{text}"
        );
    }
    let output = binary()
        .args(["trace", "--uid", "nobody", "--within", "1", "--api", &format!("http://{}", node.http())])
        .output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(4), "fewer came than were asked for");
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 of 1 message of nobody came within 1 s"));
}

const ALL: [&str; 10] = [
    "taken",
    "arrived",
    "proposed",
    "durable",
    "committed",
    "applied",
    "answered",
    "noticed",
    "delivered",
    "acknowledged",
];
