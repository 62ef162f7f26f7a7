//! Both ends of a connection talking through each other's bytes, cut anywhere.

use super::*;

/// What a pipeline gave out, owned.
type Heard = Vec<String>;

struct Talk {
    client: ClientPipeline,
    server: ServerPipeline,
    scratch: Scratch,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    chunk: usize,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    transport: Transport,
    plain: bool,
    version: u8,
    chunk: usize,
}

fn shape() -> impl Strategy<Value = Shape> {
    (any::<bool>(), any::<bool>(), 0u8..=5, prop_oneof![1usize..30, 1000usize..100_000]).prop_map(
        |(tcp, plain, version, chunk)| Shape {
            transport: if tcp { Transport::Tcp } else { Transport::WebSocket },
            plain,
            version,
            chunk,
        },
    )
}

fn connect(version: u8) -> Connect<'static> {
    Connect {
        version,
        device_flag: 1,
        device_id: "device",
        uid: "alice",
        token: "token",
        client_timestamp_ms: 1_700_000_000_000,
        client_key: "",
    }
}

const ANSWER: ConnackAnswer =
    ConnackAnswer { reason: 1, time_diff_ms: -5, node_id: 9, secret: [3; 32], salt: *b"0123456789abcdef" };

impl Talk {
    fn open(shape: Shape) -> Talk {
        let options =
            ClientOptions { transport: shape.transport, plain: shape.plain, host: "localhost", secret: [7; 32] };
        let mut to_server = Vec::new();
        Talk {
            client: ClientPipeline::open(&options, &connect(shape.version), &mut to_server),
            server: ServerPipeline::new(shape.transport, shape.plain),
            scratch: Scratch::default(),
            to_server,
            to_client: Vec::new(),
            chunk: shape.chunk,
        }
    }

    /// Carries everything that is on its way to the server, in chunks.
    fn at_server(&mut self) -> Heard {
        let mut heard = Vec::new();
        for piece in std::mem::take(&mut self.to_server).chunks(self.chunk) {
            let fed = self.server.feed(piece, &mut self.scratch, &mut self.to_client, &mut |inbound| {
                heard.push(format!("{inbound:?}"));
            });
            assert_eq!(fed, Ok(()));
        }
        heard
    }

    fn at_client(&mut self) -> Heard {
        let mut heard = Vec::new();
        for piece in std::mem::take(&mut self.to_client).chunks(self.chunk) {
            let fed = self.client.feed(piece, &mut self.scratch, &mut self.to_server, &mut |packet| {
                heard.push(format!("{packet:?}"));
            });
            assert_eq!(fed, Ok(()));
        }
        heard
    }

    /// Up to a CONNACK that both ends accepted.
    fn agree(&mut self, shape: Shape) {
        if shape.transport == Transport::WebSocket {
            assert!(self.at_server().is_empty());
            assert!(self.at_client().is_empty());
        }
        assert_eq!(self.at_server().len(), 1);
        assert_eq!(self.server.encode_connack(&ANSWER, &mut self.to_client), 1);
        let heard = self.at_client();
        assert!(heard.len() == 1 && heard[0].starts_with("Connack"), "{heard:?}");
        assert_eq!(self.client.version(), self.server.version());
        assert_eq!(self.server.version(), if shape.version == 0 { 5 } else { shape.version });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sends_arrive_plain_in_any_pieces(shape in shape(), parts in prop::collection::vec(parts(), 1..5)) {
        let mut talk = Talk::open(shape);
        talk.agree(shape);
        let version = talk.server.version();
        let mut expected = Vec::new();
        for (index, parts) in parts.iter().enumerate() {
            let send = Send { client_seq: index as u32, msg_key: "", ..parts.send(version) };
            talk.client.encode_send(&send, &mut talk.scratch, &mut talk.to_server);
            talk.client.encode(&Packet::Ping, &mut talk.to_server);
            expected.push(send);
        }
        let mut heard = 0;
        for piece in talk.to_server.chunks(talk.chunk) {
            let fed = talk.server.feed(piece, &mut talk.scratch, &mut talk.to_client, &mut |inbound| {
                match inbound {
                    // The tag is the client's; everything else is as it was given.
                    Inbound::Send(send) => assert_eq!(Send { msg_key: "", ..send }, expected[heard / 2]),
                    other => assert_eq!((other, heard % 2), (Inbound::Ping, 1)),
                }
                heard += 1;
            });
            prop_assert_eq!(fed, Ok(()));
        }
        prop_assert_eq!(heard, expected.len() * 2);
        prop_assert_eq!(talk.server.held_bytes(), 0);
    }

    #[test]
    fn recvs_arrive_as_the_receiver_sees_them(shape in shape(), parts in parts(), own in any::<bool>()) {
        let mut talk = Talk::open(shape);
        talk.agree(shape);
        let fields = MessageFields {
            message_id: parts.numbers[0] as i64,
            unix_ms: 1_700_000_000_999,
            expire_s: 60,
            flags: HeaderFlags(15),
            setting: Setting(0xff),
            device_tag: 1,
            from: "alice",
            to: "bob",
            client_msg_no: parts.text(0),
            topic: parts.text(1),
            payload: &parts.payload,
        };
        let mut bytes = Vec::new();
        fields.encode(&mut bytes);
        let message = StoredMessage::take(&Bytes::from(bytes)).unwrap();
        talk.server.encode_recv(&message, 77, own, &mut talk.scratch, &mut talk.to_client);
        let sendack = Sendack {
            flags: HeaderFlags(2), message_id: 5, client_seq: 6, message_seq: 7, reason: 1, client_msg_no: "",
        };
        talk.server.encode(&Packet::Sendack(sendack), &mut talk.to_client);
        let version = talk.client.version();
        let mut seen = 0;
        let bytes = std::mem::take(&mut talk.to_client);
        for piece in bytes.chunks(talk.chunk) {
            talk.client.feed(piece, &mut talk.scratch, &mut talk.to_server, &mut |packet| {
                seen += 1;
                match packet {
                    FromServer::Recv(recv) => assert_eq!(recv, Recv {
                        flags: HeaderFlags(if own { 5 } else { 7 }),
                        setting: Setting(0x88),
                        msg_key: recv.msg_key,
                        from_uid: "alice",
                        channel_id: if own { "bob" } else { "alice" },
                        channel_type: 1,
                        expire: if version >= 3 { 60 } else { 0 },
                        client_msg_no: parts.text(0),
                        stream: None,
                        message_id: parts.numbers[0] as i64,
                        message_seq: 77,
                        timestamp_s: 1_700_000_000,
                        topic: parts.text(1),
                        payload: &parts.payload,
                    }),
                    FromServer::Sendack(got) => assert_eq!(got, sendack),
                    other => panic!("{other:?}"),
                }
            }).unwrap();
        }
        prop_assert_eq!(seen, 2);
    }
}

const PLAIN_TCP: Shape = Shape { transport: Transport::Tcp, plain: true, version: 5, chunk: 1 << 20 };

#[test]
fn each_websocket_message_out_is_one_packet() {
    let shape = Shape { transport: Transport::WebSocket, plain: false, version: 4, chunk: 1 << 20 };
    let mut talk = Talk::open(shape);
    talk.agree(shape);
    let mut out = Vec::new();
    talk.server.encode(&Packet::Pong, &mut out);
    talk.server.encode(&Packet::Disconnect(Disconnect { reason: 12, text: "" }), &mut out);
    assert_eq!(out, [0x82, 1, 0x80, 0x82, 5, 0x90, 3, 12, 0, 0]);
}

#[test]
fn a_send_before_connack_is_bad_but_forgiven() {
    let mut talk = Talk::open(Shape { plain: false, ..PLAIN_TCP });
    assert_eq!(talk.at_server().len(), 1);
    let send = Send { flags: HeaderFlags(2), client_seq: 41, msg_key: "", ..no_send() };
    talk.client.encode_send(&send, &mut talk.scratch, &mut talk.to_server);
    assert_eq!(talk.at_server(), ["BadSend { client_seq: 41, flags: HeaderFlags(2) }"]);
    assert_eq!(talk.server.encode_connack(&ANSWER, &mut talk.to_client), 1);
    assert_eq!(talk.at_client().len(), 1);
    talk.client.encode_send(&send, &mut talk.scratch, &mut talk.to_server);
    assert!(talk.at_server()[0].starts_with("Send(Send { flags: HeaderFlags(2)"));
}

fn no_send() -> Send<'static> {
    Send {
        flags: HeaderFlags(0),
        setting: Setting(0),
        client_seq: 0,
        client_msg_no: "n",
        stream_no: "",
        channel_id: "bob",
        channel_type: 1,
        expire: 0,
        msg_key: "",
        topic: "",
        payload: b"{}",
    }
}

/// Feeds a fresh server; gives what came out and the fault.
fn fresh(plain: bool, bytes: &[u8]) -> (Heard, ServerPipeline, Result<(), &'static str>) {
    let mut server = ServerPipeline::new(Transport::Tcp, plain);
    let mut heard = Vec::new();
    let fed = server.feed(bytes, &mut Scratch::default(), &mut Vec::new(), &mut |inbound| {
        heard.push(format!("{inbound:?}"));
    });
    (heard, server, fed.map_err(|fault| fault.what))
}

#[test]
fn only_connect_may_come_first_and_a_second_one_is_unexpected() {
    assert_eq!(fresh(true, &[0x70]).2, Err("first packet is not CONNECT"));
    assert_eq!(fresh(true, &[0x00]).2, Err("packet type 0 is reserved"));
    let once = encoded(&Packet::Connect(connect(5)), 5);
    let (heard, _, fed) = fresh(true, &[once.clone(), once, vec![0x80]].concat());
    assert_eq!(fed, Ok(()));
    assert_eq!(heard[1..], ["Unexpected", "Unexpected"]);
}

#[test]
fn connack_refuses_a_client_whose_key_is_missing_or_bad() {
    for (client_key, state, reason) in [
        ("", "key: Missing", 21),
        ("nonsense", "key: Bad", 2),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "key: Bad", 2),
    ] {
        let first = encoded(&Packet::Connect(Connect { client_key, ..connect(5) }), 5);
        let (heard, mut server, _) = fresh(false, &first);
        assert!(heard[0].contains(state), "{heard:?}");
        let mut out = Vec::new();
        assert_eq!(server.encode_connack(&ANSWER, &mut out), reason);
        let refused =
            Connack { server_version: Some(5), time_diff_ms: -5, reason, server_key: "", salt: "", node_id: 9 };
        assert_eq!(decoded(&out, 5), Packet::Connack(refused));
        let (heard, _, _) = fresh(true, &first);
        assert!(heard[0].contains("key: Usable"), "a plain listener needs no key");
    }
}

#[test]
fn a_client_and_a_server_that_differ_about_the_cipher_part() {
    for plain in [true, false] {
        let mut talk = Talk::open(Shape { plain, ..PLAIN_TCP });
        talk.server = ServerPipeline::new(Transport::Tcp, !plain);
        assert_eq!(talk.at_server().len(), 1);
        let reason = talk.server.encode_connack(&ANSWER, &mut talk.to_client);
        let fed = talk.client.feed(&talk.to_client, &mut talk.scratch, &mut talk.to_server, &mut |_| {});
        // A plain client has no key to offer; an enciphering one finds no key in the answer.
        assert_eq!((reason, fed.is_err()), if plain { (21, false) } else { (1, true) });
    }
}
