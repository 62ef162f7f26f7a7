//! The HTTP API as backends see it: every path that a single node serves, with the shapes that strict decoders expect.

use std::time::Duration;

use jindou::format::packet::HeaderFlags;
use serde_json::{Value, json};

use crate::client::{Client, Login};
use crate::http::{self, Answer};
use crate::node::Node;

fn get(node: &Node, path: &str) -> Answer {
    http::get(node.http(), path).unwrap_or_else(|fault| panic!("{path}: {fault}\n{}", node.log()))
}

fn post(node: &Node, path: &str, body: &Value) -> Answer {
    http::post(node.http(), path, body).unwrap_or_else(|fault| panic!("{path}: {fault}\n{}", node.log()))
}

/// "hello" in base64.
const HELLO: &str = "aGVsbG8=";

#[test]
fn probes_metrics_and_routes() {
    let node = Node::start("probes", &["external.tcp_addr=im.example:5100", "external.ws_addr=ws://im.example:5200"]);
    assert_eq!(get(&node, "/healthz").status, 200);
    assert_eq!(get(&node, "/readyz").status, 200);
    let metrics = get(&node, "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("# TYPE jindou_"), "{}", metrics.body);
    let addresses = json!({ "tcp_addr": "im.example:5100", "ws_addr": "ws://im.example:5200", "wss_addr": "" });
    let route = get(&node, "/route?uid=ana");
    assert_eq!((route.status, route.json()), (200, addresses.clone()));
    let batch = post(&node, "/route/batch", &json!(["ana", "bo"]));
    assert_eq!(batch.status, 200);
    let batch = batch.json();
    let groups = batch.as_array().expect("an array");
    let uids: usize = groups.iter().map(|group| group["uids"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(uids, 2, "{batch}");
    assert!(groups.iter().all(|group| group["tcp_addr"] == addresses["tcp_addr"]), "{batch}");
}

#[test]
fn unknown_paths_and_bad_bodies_are_json_too() {
    let node = Node::start("bad_requests", &[]);
    let missing = get(&node, "/no/such/path");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["status"], 404);
    assert!(missing.json()["msg"].is_string());
    for (path, body) in [
        ("/user/token", json!({ "uid": "", "token": "t", "device_flag": 0, "device_level": 0 })),
        ("/user/token", json!({ "uid": "a@b", "token": "t", "device_flag": 0, "device_level": 0 })),
        (
            "/message/send",
            json!({ "from_uid": "ana", "channel_id": "bo", "channel_type": 1, "payload": "not base64!" }),
        ),
        ("/channel/messagesync", json!("nonsense")),
    ] {
        let answer = post(&node, path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert!(answer.json()["msg"].is_string(), "{}", answer.body);
    }
}

#[test]
fn who_is_online() {
    let node = Node::start("online", &["node.shards=2"]);
    let _phone = Client::connect(&node, &Login::tcp("ana"));
    let _web = Client::connect(&node, &Login { flag: 1, device: "web".to_owned(), ..Login::ws("ana") });
    let bo = Client::connect(&node, &Login::tcp("bo"));
    let online = || {
        let answer = post(&node, "/user/onlinestatus", &json!(["ana", "bo", "nobody"]));
        assert_eq!(answer.status, 200);
        let mut list: Vec<(String, i64)> = (answer.json().as_array().expect("an array").iter())
            .map(|entry| (entry["uid"].as_str().unwrap_or("").to_owned(), entry["device_flag"].as_i64().unwrap_or(-1)))
            .collect();
        list.sort();
        list
    };
    let entry = |uid: &str, flag| (uid.to_owned(), flag);
    assert_eq!(online(), [entry("ana", 0), entry("ana", 1), entry("bo", 0)]);
    drop(bo);
    let mut left = online();
    for _ in 0..100 {
        if left.len() == 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        left = online();
    }
    assert_eq!(left, [entry("ana", 0), entry("ana", 1)]);
}

#[test]
fn a_backend_sends_and_reads_back() {
    let node = Node::start("api_send", &["node.shards=2"]);
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let mut body = json!({
        "header": { "no_persist": 0, "red_dot": 1, "sync_once": 0 }, "setting": 0, "from_uid": "ana", "channel_id": "bo",
        "channel_type": 1, "stream_no": "", "subscribers": null, "payload": HELLO,
    });
    let sent = post(&node, "/message/send", &body);
    assert_eq!(sent.status, 200, "{}", sent.body);
    let data = sent.json()["data"].clone();
    let message_id = data["message_id"].as_i64().expect("a whole number");
    assert!(message_id > 0 && !data["client_msg_no"].as_str().unwrap_or("").is_empty());
    let got = bo.received();
    assert_eq!((got.message_id, got.message_seq, got.from.as_str()), (message_id, 1, "ana"));
    assert_eq!(got.payload, b"hello");

    body["header"] = json!({ "no_persist": 1, "red_dot": 0, "sync_once": 1 });
    assert_eq!(post(&node, "/message/send", &body).status, 200);
    let got = bo.received();
    assert_eq!((got.message_seq, got.flags), (0, HeaderFlags::NO_PERSIST.0 | HeaderFlags::SYNC_ONCE.0));
}

#[test]
fn history_is_read_by_number() {
    let node = Node::start("api_history", &["node.shards=2"]);
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let mut ids = Vec::new();
    for number in ["first", "second"] {
        bo.send("ana", number, b"hello", HeaderFlags::RED_DOT).expect("the connection lives");
        ids.push(bo.ack().message_id);
    }
    let ask = |peer: &str, start: u32, end: u32, limit: u32, mode: u8| {
        let body = json!({
            "login_uid": "ana", "device_uuid": "", "channel_id": peer, "channel_type": 1, "start_message_seq": start,
            "end_message_seq": end, "limit": limit, "pull_mode": mode,
        });
        let answer = post(&node, "/channel/messagesync", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let messages = answer.json()["messages"].as_array().expect("an array").clone();
        for message in &messages {
            let index = message["message_seq"].as_u64().expect("a whole number") as usize - 1;
            assert_eq!(message["message_id"], ids[index]);
            assert_eq!((&message["payload"], &message["from_uid"]), (&json!(HELLO), &json!("bo")));
            assert_eq!(message["client_msg_no"], ["first", "second"][index]);
        }
        let seqs = messages.iter().map(|message| message["message_seq"].as_i64());
        seqs.map(|seq| seq.expect("a whole number")).collect::<Vec<i64>>()
    };
    assert_eq!(ask("bo", 0, 0, 10, 0), [1, 2], "the newest");
    assert_eq!(ask("bo", 0, 0, 1, 0), [2], "the newest one");
    assert_eq!(ask("bo", 2, 0, 1, 1), [2], "upwards from 2");
    assert_eq!(ask("bo", 1, 0, 10, 0), [1], "downwards from 1");
    assert_eq!(ask("stranger", 0, 0, 10, 1), [0i64; 0], "nothing was ever said");
}
