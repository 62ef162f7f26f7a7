//! Each driver against bytes of a server that is made up here: handshake, a send, its answer, a message and its receipt.

use super::*;

fn identity() -> Identity {
    Identity { user: "p-1".into(), device: 0, prefix: "p".into(), secret: 3 }
}

/// What a driver makes of some bytes: what it heard (as text), and what it wrote.
fn hear(driver: &mut dyn Driver, bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
    let (mut scratch, mut out, mut heard, mut from) = (Scratch::default(), Vec::new(), Vec::new(), 0);
    while let Some((taken, one)) = driver.next(&bytes[from..], &mut scratch, &mut out).expect("the bytes are legal") {
        heard.push(format!("{one:?}"));
        from += taken;
    }
    assert_eq!(from, bytes.len(), "everything was read");
    (heard, out)
}

fn sent(driver: &mut dyn Driver, number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    driver.send(Outgoing { number, to: "p-2", sequence: 9, payload: b"hello" }, &mut Scratch::default(), &mut out);
    driver.before_flush(&mut out);
    out
}

fn refused(protocol: Protocol, bytes: &[u8]) -> String {
    let mut driver = driver(protocol, &identity(), false);
    driver.next(bytes, &mut Scratch::default(), &mut Vec::new()).expect_err("it is refused")
}

#[test]
fn wkproto_plain() {
    use jindou::format::packet::{Connack, HeaderFlags, Packet, Recv, Sendack, Setting};
    use jindou::format::packet_codec::{Decoded, decode, encode};
    let mut driver = driver(Protocol::Wk { plain: true }, &identity(), false);
    let mut hello = Vec::new();
    driver.hello(&mut hello);
    let Ok(Decoded::Packet(Packet::Connect(connect), _)) = decode(&hello, 5) else { panic!("it says CONNECT") };
    assert_eq!((connect.uid, connect.client_key), ("p-1", ""));
    let connack = |reason| {
        let mut bytes = Vec::new();
        let connack =
            Connack { server_version: Some(5), time_diff_ms: 0, reason, server_key: "", salt: "", node_id: 1 };
        encode(&Packet::Connack(connack), 5, &mut bytes);
        bytes
    };
    assert_eq!(hear(&mut *driver, &connack(1)).0, ["Open"]);
    assert!(refused(Protocol::Wk { plain: true }, &connack(2)).contains("reason 2"));
    assert!(refused(Protocol::Wk { plain: true }, &connack(21)).contains("wants the cipher"));
    assert!(refused(Protocol::Wk { plain: false }, &connack(1)).contains("--plain"));
    let send = sent(&mut *driver, 7);
    let Ok(Decoded::Packet(Packet::Send(send), _)) = decode(&send, 5) else { panic!("it says SEND") };
    assert_eq!((send.client_seq, send.channel_id, send.client_msg_no, send.payload), (7, "p-2", "9", &b"hello"[..]));
    let mut bytes = Vec::new();
    for reason in [1, 15] {
        let ack =
            Sendack { flags: HeaderFlags(0), message_id: 1, client_seq: 7, message_seq: 1, reason, client_msg_no: "" };
        encode(&Packet::Sendack(ack), 5, &mut bytes);
    }
    let recv = Recv {
        flags: HeaderFlags(0),
        setting: Setting(0),
        msg_key: "",
        from_uid: "p-2",
        channel_id: "p-2",
        channel_type: 1,
        expire: 0,
        client_msg_no: "1",
        stream: None,
        message_id: 4,
        message_seq: 3,
        timestamp_s: 0,
        topic: "",
        payload: b"x",
    };
    encode(&Packet::Recv(recv), 5, &mut bytes);
    let (heard, out) = hear(&mut *driver, &bytes);
    let message = "Message { order: Some((3, 4)), payload: [120] }";
    assert_eq!(heard, ["Acknowledged(7)", "Refused { number: 7, reason: 15 }", message]);
    let Ok(Decoded::Packet(Packet::Recvack(ack), _)) = decode(&out, 5) else { panic!("it says RECVACK") };
    assert_eq!((ack.message_id, ack.message_seq), (4, 3));
}

#[test]
fn mqtt_quality_1() {
    let mut driver = driver(Protocol::Mqtt { qos: 1 }, &identity(), false);
    let mut hello = Vec::new();
    driver.hello(&mut hello);
    // CONNECT, MQTT 4, no clean session, no keep alive, the client's name.
    assert_eq!(hello, b"\x10\x12\x00\x04MQTT\x04\x00\x00\x00\x00\x06p-1-d0");
    let (heard, out) = hear(&mut *driver, &[0x20, 2, 0, 0]);
    assert_eq!((heard, &out[..]), (vec!["Other".to_owned()], &b"\x82\x10\x00\x01\x00\x0bloadgen/p-1\x01"[..]));
    assert_eq!(hear(&mut *driver, &[0x90, 3, 0, 1, 1]).0, ["Open"]);
    assert_eq!(sent(&mut *driver, 1), b"\x32\x14\x00\x0bloadgen/p-2\x00\x02hello");
    let (heard, out) = hear(&mut *driver, b"\x40\x02\x00\x02\x32\x10\x00\x0bloadgen/p-1\x00\x09x");
    assert_eq!(heard, ["Acknowledged(1)", "Message { order: None, payload: [120] }"]);
    assert_eq!(out, [0x40, 2, 0, 9], "the message is answered");
    assert!(refused(Protocol::Mqtt { qos: 1 }, &[0x20, 2, 0, 5]).contains("CONNACK"));
    assert!(refused(Protocol::Mqtt { qos: 1 }, &[0x90, 3, 0, 1, 0x80]).contains("subscription"));
}

#[test]
fn mqtt_quality_0_is_answered_by_the_ping_behind_it() {
    let mut driver = driver(Protocol::Mqtt { qos: 0 }, &identity(), false);
    hear(&mut *driver, &[0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    assert_eq!(sent(&mut *driver, 1), b"\x30\x12\x00\x0bloadgen/p-2hello\xc0\x00");
    let mut more = Vec::new();
    driver.before_flush(&mut more);
    driver.ping(&mut more);
    assert_eq!(more, b"\xc0\x00", "nothing new was sent: only the ping that was asked for");
    assert_eq!(hear(&mut *driver, &[0xd0, 0, 0xd0, 0]).0, ["AcknowledgedUpTo(1)", "Pong"]);
}

#[test]
fn nats_core() {
    let mut driver = driver(Protocol::Nats, &identity(), false);
    let (heard, out) = hear(&mut *driver, b"INFO {\"x\":1}\r\n");
    assert_eq!(heard, ["Other"]);
    assert!(out.starts_with(b"CONNECT {") && out.ends_with(b"SUB loadgen.p-1 1\r\nPING\r\n"));
    assert_eq!(hear(&mut *driver, b"PONG\r\n").0, ["Open"]);
    assert_eq!(sent(&mut *driver, 1), b"PUB loadgen.p-2 5\r\nhello\r\nPING\r\n");
    let (heard, out) = hear(&mut *driver, b"MSG loadgen.p-1 1 1\r\nx\r\nPONG\r\nPING\r\n");
    assert_eq!(heard, ["Message { order: None, payload: [120] }", "AcknowledgedUpTo(1)", "Other"]);
    assert_eq!(out, b"PONG\r\n");
    assert!(refused(Protocol::Nats, b"-ERR 'Authorization Violation'\r\n").contains("Authorization"));
}

#[test]
fn jetstream() {
    let mut driver = driver(Protocol::JetStream, &identity(), false);
    let (_, out) = hear(&mut *driver, b"INFO {}\r\n");
    let text = String::from_utf8(out).expect("it is text");
    assert!(
        text.contains("SUB _DELIVER.p-1-d0 1\r\n") && text.contains("$JS.API.CONSUMER.DURABLE.CREATE.LOADGEN-p.p-1-d0")
    );
    assert_eq!(hear(&mut *driver, b"MSG _INBOX.p-1-d0.made 2 2\r\n{}\r\n").0, ["Open"]);
    assert_eq!(sent(&mut *driver, 3), b"PUB loadgen.p.p-2 _INBOX.p-1-d0.3 5\r\nhello\r\n");
    let message = b"MSG _INBOX.p-1-d0.3 2 2\r\n{}\r\nMSG loadgen.p.p-1 1 $JS.ACK.S.C.1.42.7.1.0 1\r\nx\r\n";
    let (heard, out) = hear(&mut *driver, message);
    assert_eq!(heard, ["Acknowledged(3)", "Message { order: Some((42, 42)), payload: [120] }"]);
    assert_eq!(out, b"PUB $JS.ACK.S.C.1.42.7.1.0 0\r\n\r\n");
    let mut again = super::driver(Protocol::JetStream, &identity(), true);
    let (_, out) = hear(&mut *again, b"INFO {}\r\n");
    assert!(out.ends_with(b"PING\r\n"), "the consumer is known: nothing is made");
    assert_eq!(hear(&mut *again, b"PONG\r\n").0, ["Open"]);
}
