//! Packets as a node handles them: bytes of a client to a packet and back, without and with the cipher, through the same
//! pipelines that the gateway uses. One 128-byte message is the unit.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use jindou::format::client_pipeline::{ClientOptions, ClientPipeline};
use jindou::format::message::{MessageFields, StoredMessage};
use jindou::format::packet::{Connect, HeaderFlags, Packet, Reason, Send, Setting};
use jindou::format::packet_codec;
use jindou::format::pipeline::{ConnackAnswer, Inbound, Scratch, ServerPipeline, Transport};

/// Payload of every message here.
pub const PAYLOAD: [u8; 128] = [b'x'; 128];

/// The SEND that is timed.
fn send() -> Send<'static> {
    Send {
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        client_seq: 7,
        client_msg_no: "0123456789abcdef0123456789abcdef_0_3",
        stream_no: "",
        channel_id: "bob",
        channel_type: 1,
        expire: 0,
        msg_key: "",
        topic: "",
        payload: &PAYLOAD,
    }
}

/// A stored message with this id.
pub fn stored(message_id: i64) -> StoredMessage {
    let number = format!("number-{message_id}");
    let fields = MessageFields {
        message_id,
        unix_ms: 1_700_000_000_000,
        expire_s: 0,
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        from: "alice",
        to: "bob",
        client_msg_no: &number,
        topic: "",
        payload: &PAYLOAD,
        device_tag: 0,
    };
    let mut raw = Vec::new();
    fields.encode(&mut raw);
    StoredMessage::take(&Bytes::from(raw)).expect("what was just encoded")
}

/// Both ends of a connection after CONNACK.
fn connected(plain: bool) -> (ClientPipeline, ServerPipeline, Scratch) {
    let mut scratch = Scratch::default();
    let options = ClientOptions { transport: Transport::Tcp, plain, host: "", secret: [7; 32] };
    let connect = Connect {
        version: 5,
        device_flag: 0,
        device_id: "device",
        uid: "alice",
        token: "",
        client_timestamp_ms: 0,
        client_key: "",
    };
    let (mut up, mut down, mut reply) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = ClientPipeline::open(&options, &connect, &mut up);
    let mut server = ServerPipeline::new(Transport::Tcp, plain);
    server.feed(&up, &mut scratch, &mut reply, &mut |_| {}).expect("a good CONNECT");
    let answer = ConnackAnswer {
        reason: Reason::Success as u8,
        time_diff_ms: 0,
        node_id: 1,
        secret: [9; 32],
        salt: *b"aB3dE6gH9jK2mN5p",
    };
    server.encode_connack(&answer, &mut down);
    client.feed(&down, &mut scratch, &mut reply, &mut |_| {}).expect("a good CONNACK");
    (client, server, scratch)
}

/// Codec alone, then the whole pipeline in both modes.
pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Elements(1));
    let mut bytes = Vec::new();
    packet_codec::encode(&Packet::Send(send()), 5, &mut bytes);
    group.bench_function("decode SEND", |bencher| bencher.iter(|| packet_codec::decode(black_box(&bytes), 5)));
    let mut out = Vec::new();
    group.bench_function("encode SEND", |bencher| {
        bencher.iter(|| {
            out.clear();
            packet_codec::encode(&Packet::Send(black_box(send())), 5, &mut out);
        });
    });
    for (mode, plain) in [("plain", true), ("cipher", false)] {
        let (mut client, mut server, mut scratch) = connected(plain);
        let mut packet = Vec::new();
        client.encode_send(&send(), &mut scratch, &mut packet);
        let mut reply = Vec::new();
        group.bench_function(format!("pipeline SEND in, {mode}"), |bencher| {
            bencher.iter(|| {
                let mut taken = 0;
                let mut sink = |packet: Inbound<'_>| taken += usize::from(matches!(packet, Inbound::Send(_)));
                server.feed(black_box(&packet), &mut scratch, &mut reply, &mut sink).expect("a good SEND");
                assert_eq!(taken, 1, "the SEND was read");
            });
        });
        let message = stored(1);
        group.bench_function(format!("pipeline RECV out, {mode}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                server.encode_recv(black_box(&message), 9, false, &mut scratch, &mut out);
            });
        });
    }
    group.finish();
}
