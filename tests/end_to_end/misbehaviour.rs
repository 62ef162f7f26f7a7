//! Clients that do wrong: wrong tokens, wrong keys, bytes that are no packets, too much of everything. Each gets what the protocol
//! says, and a bystander on the same node never notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use jindou::format::packet::HeaderFlags;
use serde_json::json;

use crate::client::{Client, Login, SOON, Said};
use crate::http;
use crate::node::Node;

fn give_token(node: &Node, uid: &str, flag: u8, level: u8, token: &str) {
    let body = json!({ "uid": uid, "token": token, "device_flag": flag, "device_level": level });
    let answer = http::post(node.http(), "/user/token", &body).expect("the API answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_wrong_token_is_refused_and_a_right_one_is_not() {
    let node = Node::start("token", &["auth.token=true"]);
    give_token(&node, "ana", 0, 0, "secret");
    let right = Login { token: "secret".to_owned(), ..Login::tcp("ana") };
    let mut ana = Client::connect(&node, &right);
    let wrong = [
        Login { token: "wrong".to_owned(), ..Login::tcp("ana") },
        Login { token: String::new(), ..Login::ws("ana") },
        Login { flag: 1, ..right.clone() },
        Login { token: "secret".to_owned(), ..Login::tcp("nobody") },
    ];
    for login in wrong {
        let mut client = Client::open(&node, &login).expect("the node accepts");
        let said = client.is_closed_within(SOON);
        assert_eq!(said.first(), Some(&Said::Connack(2)), "{login:?}");
    }
    ana.lives();
}

#[test]
fn a_master_device_ends_the_older_one_with_a_notice() {
    let node = Node::start("kick", &["auth.token=true", "node.shards=2"]);
    give_token(&node, "ana", 0, 1, "secret");
    give_token(&node, "ana", 1, 0, "web secret");
    let login = |device: &str| Login { token: "secret".to_owned(), device: device.to_owned(), ..Login::tcp("ana") };
    let web = Login { flag: 1, token: "web secret".to_owned(), ..Login::ws("ana") };
    let mut web = Client::connect(&node, &web);
    let mut older = Client::connect(&node, &login("older"));
    let mut newer = Client::connect(&node, &login("newer"));
    let reason = older.wanted("DISCONNECT", |said| match said {
        Said::Disconnect(reason, _) => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, 12);
    older.is_closed_within(SOON);
    newer.lives();
    web.lives();

    // The backend can do the same.
    let answer = http::post(node.http(), "/user/device_quit", &json!({ "uid": "ana", "device_flag": -1 }));
    assert_eq!(answer.expect("the API answers").status, 200);
    for client in [&mut newer, &mut web] {
        let said = client.is_closed_within(SOON);
        assert!(said.iter().any(|said| matches!(said, Said::Disconnect(12, _))), "{said:?}");
    }
    let mut back = Client::open(&node, &login("newer")).expect("the node accepts");
    assert_eq!(back.is_closed_within(SOON).first(), Some(&Said::Connack(2)), "a blank token logs nobody in");
}

#[test]
fn a_wrong_msg_key_gets_reason_9_and_the_connection_lives() {
    let node = Node::start("msg_key", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let wrong_key = "0".repeat(32);
    for (number, key, payload) in [("a", wrong_key.as_str(), "aGVsbG8="), ("b", "", "hello"), ("c", "short", "")] {
        let client_seq = ana.send_unsealed("bo", number, key, payload.as_bytes()).expect("the connection lives");
        let ack = ana.ack();
        assert_eq!((ack.client_seq, ack.reason, ack.message_seq), (client_seq, 9, 0), "{number}");
    }
    ana.send("bo", "good", b"good", HeaderFlags::RED_DOT).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    assert_eq!(bo.received().number, "good");
}

#[test]
fn what_cannot_be_sent_is_refused_by_name() {
    let node = Node::start("refused", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let too_large = vec![b'x'; jindou::limits::PAYLOAD_BYTES_MAX + 1];
    let long_number = "n".repeat(jindou::limits::CLIENT_MSG_NO_BYTES_MAX + 1);
    for (to, number, payload) in
        [("bo", "a", &too_large[..]), ("bo", long_number.as_str(), b"x"), ("", "b", b"x"), ("b#o", "c", b"x")]
    {
        ana.send(to, number, payload, HeaderFlags::RED_DOT).expect("the connection lives");
        let ack = ana.ack();
        assert!(ack.reason != 1 && ack.message_seq == 0, "to {to:?}: {ack:?}");
    }
    let largest = vec![b'x'; jindou::limits::PAYLOAD_BYTES_MAX];
    let mut bo = Client::connect(&node, &Login::ws("bo"));
    ana.send("bo", "largest", &largest, HeaderFlags::RED_DOT).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    assert_eq!(bo.received().payload, largest);
}

/// Writes bytes to a fresh connection and demands that the node closes it.
fn is_thrown_out(node: &Node, websocket: bool, bytes: &[u8], what: &str) {
    let address = if websocket { node.ws() } else { node.tcp() };
    let mut socket = TcpStream::connect_timeout(&address, SOON).expect("the node accepts");
    socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    socket.write_all(bytes).ok(); // It may be closed before everything is written.
    let mut answer = [0u8; 4096];
    loop {
        match socket.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(fault) if fault.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(fault) => panic!("{what}: still open: {fault}"),
        }
    }
}

#[test]
fn what_is_no_packet_closes_its_connection_and_hurts_nobody() {
    let node = Node::start("malformed", &[]);
    let mut bystander = Client::connect(&node, &Login::tcp("bystander"));
    let upgrade = "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let unmasked = [upgrade.as_bytes(), &[0x82, 0x01, 0x70]].concat();
    let huge_frame = [upgrade.as_bytes(), &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
    let cases: [(bool, &[u8], &str); 9] = [
        (false, &[0x00, 0x01, 0x02], "reserved type"),
        (false, &[0xf0, 0x01, 0x02], "unknown type"),
        (false, &[0x32, 0x80, 0x80, 0x40], "a packet of 1 MiB"),
        (false, &[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f], "a length of five bytes"),
        (false, &[0x32, 0x05, 0, 0, 0, 0, 0], "SEND before CONNECT"),
        (false, &[0x10, 0x05, 5, 0, 0xff, 0xff, 0], "CONNECT with a text longer than itself"),
        (true, b"hello, is this a web server?\r\n\r\n", "no upgrade"),
        (true, &unmasked, "a frame without a mask"),
        (true, &huge_frame, "a frame of 4 GiB"),
    ];
    for (websocket, bytes, what) in cases {
        is_thrown_out(&node, websocket, bytes, what);
        bystander.lives();
    }
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    ana.say_raw(&[0x00, 0x00]).expect("the connection lives");
    ana.is_closed_within(SOON);
    bystander.lives();
}

#[test]
fn silence_is_not_waited_for() {
    let node = Node::start("silence", &["limits.connect_timeout=1s", "limits.idle_timeout=4s"]);
    let mut talker = Client::connect(&node, &Login::tcp("talker"));
    let mut idle = Client::connect(&node, &Login::ws("idle"));
    is_thrown_out(&node, false, &[], "no CONNECT");
    talker.lives();
    is_thrown_out(&node, true, b"GET / HT", "half an upgrade");
    for _ in 0..8 {
        talker.lives();
        std::thread::sleep(Duration::from_millis(500));
    }
    idle.is_closed_within(SOON);
    talker.lives();
}
