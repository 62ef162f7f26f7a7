//! Tables from fixed JSON, and orders carried out against a node that answers by a script.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

/// A cluster of three of which the third is to be emptied.
fn picture(moving: bool) -> Value {
    let member = |node: u16, state: &str, slots: u32| {
        json!({"node": node, "state": state, "alive": true, "silent_ms": 120, "shards": 2,
            "cluster_addr": format!("10.0.0.{node}:5300"), "http_addr": format!("10.0.0.{node}:5001"),
            "tcp_addr": "", "slots": slots, "preferred": slots / 2, "leads": slots / 2, "sessions": slots * 100, "table_version": 41})
    };
    let step = json!({"slot": 1, "from": ["n1/s0", "n3/s0"], "to": ["n1/s0", "n2/s0"], "percent": 40,
        "under_way_ms": 900, "remaining_ms": 1300, "stage": "n2/s0 is catching up"});
    json!({
        "id": "00000000000000ab", "name": "east", "version": 41, "at_rest": !moving, "complete": true,
        "told_by": "n1/s0", "replicas_wanted": 3,
        "metadata": {"leader": 1, "term": 4, "voters": [1, 2]},
        "members": [member(1, "serving", 4), member(2, "serving", 4), member(3, "draining", if moving { 2 } else { 0 })],
        "slots": {"total": 4, "leaderless": 0, "led_elsewhere": u8::from(moving), "short_of_replicas": 0, "reshaping": 0, "lost": []},
        "moves": {"under_way": u8::from(moving), "waiting": 0, "remaining_ms": if moving { 1300 } else { 0 },
            "list": if moving { vec![step] } else { vec![] }},
        "waits": [], "waits_omitted": 0, "rows": [], "next": null,
    })
}

#[test]
fn the_picture_reads_well_in_a_hundred_columns() {
    let mut data = picture(true);
    data["members"][1]["sessions"] = Value::Null;
    data["waits"] = json!([{"slot": 2, "node": null, "why": "n2 receives 2 slots already"},
        {"slot": null, "node": 3, "why": "x".repeat(200)}]);
    data["rows"] = json!([{"slot": 1, "depth": 2, "epoch": 3, "replicas": ["n1/s0", "n3/s0"], "target": ["n1/s0", "n2/s0"],
        "preferred": "n1/s0", "leader": "n3/s0", "stage": "n2/s0 is catching up"}]);
    let text = picture::whole(&data);
    let expected = "\
cluster east, version 41: at work (told by n1/s0)
metadata: led by n1 in term 4, voters n1 n2
slots: 4, 3 replicas each; 1 led elsewhere than preferred
now: 1 moves under way, 1 slots led elsewhere than preferred, about 1.3 s left, n2 receives 2 slots…

NODE  STATE     HEARD  SLOTS  LEADS  SHOULD  SESSIONS  TABLE  HTTP           CLUSTER
n1    serving   yes        4      2       2       400     41  10.0.0.1:5001  10.0.0.1:5300
n2    serving   yes        4      2       2         ?     41  10.0.0.2:5001  10.0.0.2:5300
n3    draining  yes        2      1       1       200     41  10.0.0.3:5001  10.0.0.3:5300

SLOT  FROM         TO           READ    FOR   LEFT  STAGE
   1  n1/s0 n3/s0  n1/s0 n2/s0   40%  0.9 s  1.3 s  n2/s0 is catching up

WAITS
slot 2: n2 receives 2 slots already
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with(
        "SLOT  BITS  EPOCH  LEADER  PREFERRED  REPLICAS     STAGE\n   1     2      3  n3/s0   n1/s0      n1/s0 n3/s0  to n1/s0 n2/s0: n2/s0 is catching up\n"
    ));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert_eq!(picture::progress(&picture(false)), "at rest");
    assert!(picture::whole(&Value::Null).contains("cluster ?"), "a stranger's answer is shown as far as it goes");
}

#[test]
fn times_are_said_as_people_say_them() {
    let said: Vec<String> = [0, 1_250, 11_000, 180_000, 7_200_000].into_iter().map(picture::span).collect();
    assert_eq!(said, ["0.0 s", "1.2 s", "11 s", "3 min", "2 h"]);
}

#[test]
fn how_to_join_names_a_free_number_and_seeds() {
    let text = how_to_join(&picture(false)).unwrap();
    assert!(text.contains("id = 4\n") && text.contains("name = \"east\""), "{text}");
    assert!(text.contains("seeds = [\"10.0.0.1:5300\", \"10.0.0.2:5300\", \"10.0.0.3:5300\"]"), "{text}");
}

#[test]
fn nobody_is_told_to_join_a_node_that_has_no_address_for_others() {
    let mut alone = picture(false);
    for member in alone["members"].as_array_mut().unwrap() {
        member["cluster_addr"] = "0.0.0.0:0".into();
    }
    let refused = how_to_join(&alone).unwrap_err();
    assert!(refused.exit_code() == 1 && refused.to_string().contains("cluster.listen"), "{refused}");
    alone["members"][1]["cluster_addr"] = "10.0.0.2:5300".into();
    assert!(how_to_join(&alone).unwrap().contains("seeds = [\"10.0.0.2:5300\"]"));
}

/// Answers one connection after the other; gives what was asked.
fn node(answers: Vec<(u16, Value)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut raw = Vec::new();
            let mut buffer = [0; 4096];
            while !is_whole(&raw) {
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "the request ends early");
                raw.extend_from_slice(&buffer[..count]);
            }
            let text = String::from_utf8(raw).unwrap();
            let (head, sent) = text.split_once("\r\n\r\n").unwrap();
            asked.push(format!("{} {sent}", head.lines().next().unwrap().trim_end_matches(" HTTP/1.1")));
            let body = body.to_string();
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
        asked
    };
    (api, std::thread::spawn(serve))
}

fn is_whole(raw: &[u8]) -> bool {
    let text = String::from_utf8_lossy(raw);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    body.len() >= length.parse::<usize>().unwrap()
}

fn data(data: Value) -> (u16, Value) {
    (200, json!({"status": 200, "data": data}))
}

fn run_against(
    answers: Vec<(u16, Value)>,
    order: Order,
    wait: bool,
) -> (Result<(), OperatorError>, String, Vec<String>) {
    let (api, served) = node(answers);
    let wait = wait.then(|| Duration::from_secs(30));
    let mut out = Vec::new();
    let outcome = run(&OperatorOptions { api, token: String::new(), wait, order }, &mut out);
    (outcome, String::from_utf8(out).unwrap(), served.join().unwrap())
}

#[test]
fn a_status_without_a_leader_of_the_metadata_is_shown_and_ends_with_3() {
    let mut partial = picture(false);
    partial["complete"] = json!(false);
    let order = || Order::Status { watch: false, json: false, slots: false };
    let (outcome, shown, _) = run_against(vec![data(partial)], order(), false);
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(shown.contains("NODE") && error.to_string().contains("gossip"), "{shown}{error}");
    assert!(run_against(vec![data(picture(false))], order(), false).0.is_ok());
}

#[test]
fn a_drain_waits_until_the_node_is_empty_and_all_is_at_rest() {
    let look = |moving| data(picture(moving));
    let answers = vec![
        (200, json!({"status": 200})),
        look(true),
        look(false),
        (503, json!({"msg": "no leader"})),
        look(false),
        look(false),
    ];
    let (outcome, said, asked) = run_against(answers, Order::Drain { node: 3 }, true);
    assert_eq!(outcome, Ok(()));
    assert!(said.starts_with("n3 is to hold nothing"), "{said}");
    assert_eq!(asked[0], r#"POST /cluster/drain {"node":3}"#);
    assert!(asked[1..].iter().all(|line| line == "GET /cluster/status "), "{asked:?}");
}

#[test]
fn a_split_of_all_names_the_bits_that_are_wanted() {
    let mut first = picture(false);
    first["rows"] = json!([{"slot": 0, "depth": 2}, {"slot": 1, "depth": 3}]);
    first["next"] = json!(2);
    let mut second = picture(false);
    second["rows"] = json!([{"slot": 2, "depth": 2}]);
    let answers = vec![data(first), data(second), (200, json!({"status": 200}))];
    let (outcome, _, asked) = run_against(answers, Order::Split { slot: None, depth: None }, false);
    assert_eq!(outcome, Ok(()));
    assert_eq!(asked[1], "GET /cluster/status?from=2&max=1024 ");
    assert_eq!(asked[2], r#"POST /cluster/split {"depth":3,"slots":[]}"#);
}

#[test]
fn a_drain_waits_for_sessions_too_and_says_what_is_left() {
    let agreed = || (200, json!({"status": 200}));
    let look = |sessions: Value| {
        let mut picture = picture(false);
        picture["members"][2]["sessions"] = sessions;
        data(picture)
    };
    let drain = Order::Drain { node: 3 };
    // An unknown number is not none.
    let answers = vec![agreed(), look(json!(7)), look(json!(null)), look(json!(0)), look(json!(0)), look(json!(0))];
    assert_eq!(run_against(answers, drain.clone(), true).0, Ok(()));
    let replace = Order::Replace { node: 3, by: 2 };
    let answers = vec![look(json!(7)), agreed(), look(json!(7)), look(json!(0)), look(json!(0)), look(json!(0))];
    assert_eq!(run_against(answers, replace, true).0, Ok(()));
    // Nobody is served by a node that is not heard.
    let mut gone = picture(false);
    gone["members"][2]["alive"] = json!(false);
    gone["members"][2]["sessions"] = json!(null);
    let gone = || data(gone.clone());
    assert_eq!(run_against(vec![agreed(), gone(), gone(), gone()], drain.clone(), true).0, Ok(()));
    let (api, served) = node(vec![agreed(), look(json!(7))]);
    let options = OperatorOptions { api, token: String::new(), wait: Some(Duration::ZERO), order: drain };
    let error = run(&options, &mut Vec::new()).unwrap_err();
    let why = "not done after 0 s: n3 has 7 sessions left; at rest";
    assert_eq!((error.to_string().as_str(), error.exit_code()), (why, 4));
    served.join().unwrap();
}

/// Slot 7, as the cluster at rest shows it.
fn slot_7(preferred: &str, leader: &str) -> (u16, Value) {
    let mut picture = picture(false);
    picture["rows"] = json!([{"slot": 6, "preferred": "n2/s0", "leader": "n2/s0"},
        {"slot": 7, "preferred": preferred, "leader": leader}]);
    data(picture)
}

#[test]
fn a_transfer_waits_until_the_slot_is_led_by_whom_it_was_given_to() {
    let order = Order::Transfer { slot: 7, node: 2 };
    let agreed = || (200, json!({"status": 200}));
    // A node whose name begins likewise is another one.
    let before = || slot_7("n2/s1", "n21/s0");
    let after = || slot_7("n2/s1", "n2/s1");
    let answers = vec![agreed(), before(), after(), after(), after()];
    let (outcome, said, asked) = run_against(answers, order.clone(), true);
    assert_eq!(outcome, Ok(()));
    assert!(said.contains("n2 is to lead slot 7; everything is at rest"), "{said}");
    assert_eq!(asked[0], r#"POST /cluster/transfer {"node":2,"slot":7}"#);
    assert_eq!(asked[1], "GET /cluster/status?from=0&max=1024 ");

    // Evened out again: it is not waited for what will not come.
    let back = || slot_7("n1/s0", "n1/s0");
    let (outcome, said, _) = run_against(vec![agreed(), back(), back(), back()], order.clone(), true);
    let error = outcome.unwrap_err();
    let why = "slot 7 is to be led by n1/s0, not by n2: leaders are kept evenly spread";
    assert_eq!((error.to_string().as_str(), error.exit_code(), said.as_str()), (why, 1, ""));
    let gone = || data(picture(false));
    let (outcome, ..) = run_against(vec![agreed(), gone(), gone(), gone()], order, true);
    assert_eq!(outcome.unwrap_err().exit_code(), 1);
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let refused = (409, json!({"msg": "n9 is no member of this cluster", "status": 409}));
    let (outcome, ..) = run_against(vec![refused], Order::Drain { node: 9 }, false);
    let error = outcome.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("refused: n9 is no member of this cluster", 1));
    let (outcome, ..) = run_against(vec![(503, json!({"msg": "later"}))], Order::Rebalance, false);
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
    let options =
        |api: &str, wait| OperatorOptions { api: api.into(), token: String::new(), wait, order: Order::Rebalance };
    assert_eq!(run(&options("https://h:1", None), &mut Vec::new()).unwrap_err().exit_code(), 2);
    assert_eq!(run(&options("127.0.0.1:1", None), &mut Vec::new()).unwrap_err().exit_code(), 3);
    let (api, served) = node(vec![(200, json!({"status": 200})), data(picture(true))]);
    let outcome = run(&options(&api, Some(Duration::ZERO)), &mut Vec::new());
    assert_eq!(outcome.unwrap_err().exit_code(), 4);
    served.join().unwrap();
}
