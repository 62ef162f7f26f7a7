//! The client against a server made of the other end's pipeline, over loopback.

use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::format::message::{MessageFields, StoredMessage};
use crate::format::packet::{HeaderFlags, Packet, Setting};
use crate::format::pipeline::{ConnackAnswer, Inbound, Scratch, ServerPipeline, Transport};

fn options(server: &str, ws: bool, plain: bool) -> ChatOptions {
    ChatOptions {
        uid: "alice".to_owned(),
        to: "bob".to_owned(),
        server: server.to_owned(),
        token: String::new(),
        ws,
        plain,
        wait: Duration::ZERO,
    }
}

/// What the server does with a SEND.
#[derive(Clone, Copy)]
enum Answer {
    Acknowledge,
    Refuse(u8),
    Hang,
}

fn message(payload: &[u8]) -> StoredMessage {
    let mut bytes = Vec::new();
    MessageFields {
        message_id: 77,
        unix_ms: 1_700_000_000_000,
        expire_s: 0,
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        from: "bob",
        device_tag: 0,
        to: "alice",
        client_msg_no: "b1",
        topic: "",
        payload,
    }
    .encode(&mut bytes);
    StoredMessage::take(&bytes::Bytes::from(bytes)).unwrap()
}

/// One connection: answers until the client closes, or hangs up at the first SEND. Gives the (number, payload) of SENDs
/// and the positions of RECVACKs.
fn serve(
    stream: &mut TcpStream,
    transport: Transport,
    plain: bool,
    connack: u8,
    answer: Answer,
) -> (Vec<(String, String)>, Vec<u64>) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut pipeline = ServerPipeline::new(transport, plain);
    let mut scratch = Scratch::default();
    let (mut sends, mut acks) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return (sends, acks),
            Ok(count) => count,
        };
        let (mut out, mut opened, mut sent) = (Vec::new(), false, Vec::new());
        pipeline
            .feed(&buffer[..count], &mut scratch, &mut out, &mut |packet| match packet {
                Inbound::Connect { .. } => opened = true,
                Inbound::Send(send) => {
                    sent.push(send.client_seq);
                    let payload = String::from_utf8(send.payload.to_vec()).unwrap();
                    sends.push((send.client_msg_no.to_owned(), payload));
                }
                Inbound::Recvack(recvack) => acks.push(recvack.message_seq),
                Inbound::Ping | Inbound::Disconnect(_) => {}
                other => panic!("{other:?}"),
            })
            .unwrap();
        if opened {
            let success = connack == Reason::Success as u8;
            let answer = ConnackAnswer {
                reason: connack,
                time_diff_ms: 0,
                node_id: 1,
                secret: [3; 32],
                salt: *b"0123456789abcdef",
            };
            pipeline.encode_connack(&answer, &mut out);
            if success {
                // Twice: a message that is delivered again is printed once and acknowledged each time.
                let message = message(br#"{"type":1,"content":"hello"}"#);
                pipeline.encode_recv(&message, 5, false, &mut scratch, &mut out);
                pipeline.encode_recv(&message, 5, false, &mut scratch, &mut out);
            }
        }
        for client_seq in sent {
            let (reason, message_seq) = match answer {
                Answer::Acknowledge => (Reason::Success as u8, 10 + u64::from(client_seq)),
                Answer::Refuse(reason) => (reason, 0),
                Answer::Hang => return (sends, acks),
            };
            let sendack = Sendack {
                flags: HeaderFlags::RED_DOT,
                message_id: 1,
                client_seq,
                client_msg_no: "",
                message_seq,
                reason,
            };
            pipeline.encode(&Packet::Sendack(sendack), &mut out);
        }
        stream.write_all(&out).unwrap();
    }
}

/// Runs a chat of these lines; gives its outcome and what it printed.
fn run_chat(options: &ChatOptions, lines: &str) -> (Result<(), String>, String, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let outcome = chat(options, Cursor::new(lines.to_owned().into_bytes()), &mut out, &mut notes);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (outcome.map_err(|error| error.to_string()), text(out), text(notes))
}

#[test]
fn lines_are_sent_acknowledged_and_answers_printed_over_every_transport() {
    for (transport, plain) in
        [(Transport::Tcp, false), (Transport::Tcp, true), (Transport::WebSocket, false), (Transport::WebSocket, true)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, transport, plain, 1, Answer::Acknowledge)
        });
        let options =
            ChatOptions { wait: Duration::from_secs(1), ..options(&server, transport == Transport::WebSocket, plain) };
        let (outcome, out, notes) = run_chat(&options, "one\n\ntwo\n/quit\nthree\n");
        outcome.unwrap();
        assert!(notes.contains("connected as alice"), "{notes}");
        let mut printed: Vec<&str> = out.lines().collect();
        printed.sort_unstable();
        assert_eq!(printed, ["22:13:20Z bob: hello", "\u{2713} 11 one", "\u{2713} 12 two"]);
        let (sends, acks) = serving.join().unwrap();
        let payloads: Vec<&str> = sends.iter().map(|(_, payload)| payload.as_str()).collect();
        assert_eq!(payloads, [r#"{"content":"one","type":1}"#, r#"{"content":"two","type":1}"#]);
        assert_eq!(acks, [5, 5]);
    }
}

#[test]
fn after_a_lost_connection_what_is_unanswered_goes_again_under_its_number() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (first, _) = serve(&mut stream, Transport::Tcp, false, 1, Answer::Hang);
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let (second, _) = serve(&mut stream, Transport::Tcp, false, 1, Answer::Acknowledge);
        (first, second)
    });
    let (outcome, out, notes) = run_chat(&options(&server, false, false), "one\n");
    outcome.unwrap();
    assert!(notes.contains("trying again in 0.2 s"), "{notes}");
    assert!(out.contains("\u{2713} 11 one"));
    assert_eq!(out.matches("bob: hello").count(), 1);
    let (first, second) = serving.join().unwrap();
    assert_eq!(first, second);
    assert_eq!(first.len(), 1);
}

#[test]
fn refusals_are_told_in_words_and_fail_the_chat() {
    for (connack, answer, wanted, error) in [
        (1, Answer::Refuse(22), "too fast", "1 messages were refused"),
        (2, Answer::Acknowledge, "", "not let in: wrong token, or a key that the node does not take (reason 2)"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, Transport::Tcp, false, connack, answer)
        });
        let (outcome, out, _) = run_chat(&options(&server, false, false), "one\n");
        assert_eq!(outcome.unwrap_err(), error);
        assert!(out.contains(wanted));
        serving.join().unwrap();
    }
    let bad = ChatOptions { to: "b@b".to_owned(), ..options("127.0.0.1:1", false, false) };
    assert!(run_chat(&bad, "").0.unwrap_err().contains("--to \"b@b\""));
}
