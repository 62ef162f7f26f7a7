//! What two people expect: messages both ways over either transport at every version, offline messages in order, repeats
//! recognised, other devices kept in step, transient and command messages.

use std::time::Duration;

use jindou::format::packet::Setting;
use jindou::format::packet::{HeaderFlags, Packet, Sub};

use crate::client::{Client, Login, Received, SOON, Said};
use crate::node::Node;

const PLAIN: HeaderFlags = HeaderFlags::RED_DOT;

/// Sends so many messages and checks both sides' view of each.
fn exchange(sender: &mut Client, receiver: &mut Client, count: usize, first: u64) {
    for index in 0..count {
        let number = format!("{}-{}-{first}-{index}", sender.uid, receiver.uid);
        let payload = format!("message {index} – 筋斗").into_bytes();
        let client_seq = sender.send(&receiver.uid.clone(), &number, &payload, PLAIN).expect("the connection lives");
        let ack = sender.ack();
        assert_eq!((ack.client_seq, ack.reason, ack.flags), (client_seq, 1, PLAIN.0));
        assert_eq!(ack.message_seq, first + index as u64, "message_seq is dense");
        assert!(ack.message_id > 0);
        let got = receiver.received();
        let expected = Received {
            message_id: ack.message_id,
            message_seq: ack.message_seq,
            from: sender.uid.clone(),
            channel: sender.uid.clone(),
            number,
            payload,
            flags: PLAIN.0,
        };
        assert_eq!(got, expected);
    }
}

#[test]
fn two_users_talk_both_ways_over_tcp_and_websocket() {
    let node = Node::start("both_ways", &["node.shards=2"]);
    let transports = [(Login::tcp as fn(&str) -> Login, "t"), (Login::ws, "w")];
    for (left, left_name) in transports {
        for (right, right_name) in transports {
            let mut ana = Client::connect(&node, &left(&format!("ana-{left_name}{right_name}")));
            let mut bo = Client::connect(&node, &right(&format!("bo-{left_name}{right_name}")));
            exchange(&mut ana, &mut bo, 20, 1);
            exchange(&mut bo, &mut ana, 20, 21);
            ana.receives_nothing_for(Duration::from_millis(20));
            bo.receives_nothing_for(Duration::from_millis(20));
        }
    }
}

#[test]
fn every_protocol_version_is_spoken() {
    let node = Node::start("versions", &[]);
    for version in 1..=5 {
        let mut ana = Client::connect(&node, &Login { version, ..Login::tcp(&format!("ana-{version}")) });
        let mut bo = Client::connect(&node, &Login { version: 6 - version, ..Login::ws(&format!("bo-{version}")) });
        if version > 3 {
            assert_eq!(ana.version(), version, "the session's version is the client's");
        }
        exchange(&mut ana, &mut bo, 3, 1);
        exchange(&mut bo, &mut ana, 3, 4);
    }
}

#[test]
fn a_burst_is_acknowledged_and_delivered_in_order() {
    let node = Node::start("burst", &["node.shards=2"]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::ws("bo"));
    let mut out = Vec::new();
    for index in 0..500 {
        ana.encode_send("bo", &format!("n{index}"), &[b'x'; 300], PLAIN, &mut out);
    }
    ana.say_raw(&out).expect("the connection lives");
    for index in 0..500u32 {
        let ack = ana.ack();
        assert_eq!((ack.client_seq, ack.reason, ack.message_seq), (index + 1, 1, u64::from(index) + 1));
    }
    for index in 0..500u64 {
        let got = bo.received();
        assert_eq!((got.message_seq, got.number), (index + 1, format!("n{index}")));
    }
}

#[test]
fn what_came_while_offline_is_pushed_in_order_even_after_a_restart() {
    let mut node = Node::start("offline", &["limits.recv_window=16"]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut cy = Client::connect(&node, &Login::tcp("cy"));
    // A device family that was never seen begins where the others are: this one must be known before.
    drop(Client::connect(&node, &Login::tcp("bo")));
    for index in 0..100 {
        ana.send("bo", &format!("a{index}"), b"from ana", PLAIN).expect("the connection lives");
        assert_eq!(ana.ack().reason, 1);
    }
    for index in 0..5 {
        cy.send("bo", &format!("c{index}"), b"from cy", PLAIN).expect("the connection lives");
        assert_eq!(cy.ack().reason, 1);
    }
    let read = |node: &Node| {
        let mut bo = Client::connect(node, &Login::tcp("bo"));
        let all: Vec<Received> = (0..105).map(|_| bo.received()).collect();
        for from in ["ana", "cy"] {
            let seqs: Vec<u64> = all.iter().filter(|got| got.from == from).map(|got| got.message_seq).collect();
            let expected: Vec<u64> = (1..=if from == "ana" { 100 } else { 5 }).collect();
            assert_eq!(seqs, expected, "from {from}");
        }
        bo.receives_nothing_for(Duration::from_millis(100));
    };
    // Another family reads everything, which must not move the first one's place.
    let mut web = Client::connect(&node, &Login { flag: 1, device: "web".to_owned(), ..Login::ws("bo") });
    for _ in 0..105 {
        web.received();
    }
    node.kill();
    node.launch();
    node.wait_ready();
    read(&node);
    std::thread::sleep(Duration::from_millis(300));
    let mut again = Client::connect(&node, &Login::tcp("bo"));
    again.receives_nothing_for(Duration::from_millis(300));
}

#[test]
fn a_repeat_gets_the_same_answer_and_another_payload_a_conflict() {
    let node = Node::start("dedupe", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    ana.send("bo", "same", b"first", PLAIN).expect("the connection lives");
    let first = ana.ack();
    assert_eq!(bo.received().message_id, first.message_id);

    let client_seq = ana.send("bo", "same", b"first", PLAIN).expect("the connection lives");
    let again = ana.ack();
    assert_eq!((again.client_seq, again.reason), (client_seq, 1));
    assert_eq!((again.message_id, again.message_seq), (first.message_id, first.message_seq));

    ana.send("bo", "same", b"other", PLAIN).expect("the connection lives");
    assert_eq!(ana.ack().reason, 28, "the number was used for something else");

    // Over a new connection too, as clients resend after a reconnect.
    drop(ana);
    let mut ana = Client::connect(&node, &Login::ws("ana"));
    ana.send("bo", "same", b"first", PLAIN).expect("the connection lives");
    assert_eq!(ana.ack().message_id, first.message_id);
    bo.receives_nothing_for(Duration::from_millis(100));

    // The other direction has its own numbers.
    bo.send("ana", "same", b"other", PLAIN).expect("the connection lives");
    assert_eq!(bo.ack().message_seq, 2);
}

#[test]
fn a_transient_message_reaches_who_is_there_and_is_not_kept() {
    let node = Node::start("transient", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let flags = HeaderFlags::NO_PERSIST;
    ana.send("bo", "typing", b"typing", flags).expect("the connection lives");
    let ack = ana.ack();
    assert_eq!((ack.reason, ack.message_seq, ack.flags), (1, 0, flags.0));
    let got = bo.received();
    assert_eq!((got.message_seq, got.payload.as_slice(), got.flags), (0, &b"typing"[..], flags.0));
    drop(bo);
    ana.send("bo", "typing again", b"typing", flags).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    bo.receives_nothing_for(Duration::from_millis(200));
    ana.send("bo", "kept", b"kept", PLAIN).expect("the connection lives");
    assert_eq!(bo.received().message_seq, 1, "transient messages took no number");
}

#[test]
fn a_command_message_goes_through_the_users_queue() {
    let node = Node::start("command", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let flags = HeaderFlags::SYNC_ONCE;
    ana.send("bo", "cmd", br#"{"type":99,"cmd":"x"}"#, flags).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let got = bo.received();
    assert_eq!((got.from.as_str(), got.channel.as_str(), got.flags), ("ana", "ana", flags.0));
    ana.send("bo", "kept", b"kept", PLAIN).expect("the connection lives");
    assert_eq!(ana.ack().message_seq, 1, "a command takes no number of the conversation");
}

#[test]
fn the_senders_other_devices_see_the_message_and_the_sending_one_does_not() {
    let node = Node::start("devices", &["node.shards=2"]);
    let mut phone = Client::connect(&node, &Login::tcp("ana"));
    let mut web = Client::connect(&node, &Login { flag: 1, device: "web".to_owned(), ..Login::ws("ana") });
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    phone.send("bo", "n", b"hello", PLAIN).expect("the connection lives");
    let ack = phone.ack();
    let own = web.received();
    assert_eq!((own.message_id, own.from.as_str(), own.channel.as_str()), (ack.message_id, "ana", "bo"));
    assert_eq!(own.flags & HeaderFlags::RED_DOT.0, 0, "nobody has unread messages from oneself");
    assert_eq!(bo.received().message_id, ack.message_id);
    phone.receives_nothing_for(Duration::from_millis(100));
}

#[test]
fn a_ping_is_answered_and_so_is_a_subscription() {
    let node = Node::start("ping", &[]);
    for login in [Login::tcp("ana"), Login::ws("bo")] {
        let mut client = Client::connect(&node, &login);
        client.lives();
        let sub = Sub { setting: Setting(0), sub_no: "1", channel_id: "news", channel_type: 7, action: 0, param: "" };
        client.say(&Packet::Sub(sub)).expect("the connection lives");
        let (channel, reason) = client.wanted("a SUBACK", |said| match said {
            Said::Suback(channel, reason) => Some((channel.clone(), *reason)),
            _ => None,
        });
        assert_eq!(channel, "news");
        assert!(reason == 1 || reason == 23, "reason {reason}");
        client.lives();
    }
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    let node = Node::start("redelivery", &["limits.redeliver_after=1s", "limits.idle_timeout=5s"]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    bo.acknowledges = false;
    ana.send("bo", "n", b"hello", PLAIN).expect("the connection lives");
    let first = bo.received();
    let again = bo.received();
    assert_eq!((again.message_id, again.payload), (first.message_id, first.payload));
    bo.acknowledges = true;
    bo.received();
    bo.receives_nothing_for(Duration::from_millis(2500));
    assert!(SOON > Duration::from_millis(2500), "the waits above are shorter than any timeout of the client");
}
