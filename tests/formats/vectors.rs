//! Bytes of the vectors file: what other people's codecs made (the file says which).

use super::*;
use md5::{Digest, Md5};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../wkproto_vectors.json")).expect("the vectors are JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hex") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn raw_32(text: &str) -> [u8; 32] {
    unhex(text).try_into().expect("32 bytes")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is text"))
}

/// The session that all vectors share, as the server agrees on it.
fn cipher(vectors: &Value) -> SessionCipher {
    let keys = &vectors["keys"];
    let salt: [u8; 16] = text(keys, "salt_ascii").as_bytes().try_into().unwrap();
    let client = parse_public_key(text(keys, "client_public_base64")).unwrap();
    KeyPair::new(raw_32(text(keys, "server_private_unclamped_hex"))).agree(&client, salt).unwrap()
}

fn send_of(payload: &[u8]) -> Send<'_> {
    Send {
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        client_seq: 1,
        client_msg_no: "0123456789abcdef0123456789abcdef_0_3",
        stream_no: "",
        channel_id: "bob",
        channel_type: 1,
        expire: 0,
        msg_key: "3e3054275c19e227860da3293647de34",
        topic: "",
        payload,
    }
}

#[test]
fn both_ends_agree_on_the_key() {
    let vectors = vectors();
    let keys = &vectors["keys"];
    let server = KeyPair::new(raw_32(text(keys, "server_private_unclamped_hex")));
    let client = KeyPair::new(raw_32(text(keys, "client_seed_hex")));
    assert_eq!(server.public_text().as_str(), text(keys, "server_public_base64"));
    assert_eq!(client.public_text().as_str(), text(keys, "client_public_base64"));
    let salt: [u8; 16] = text(keys, "salt_ascii").as_bytes().try_into().unwrap();
    let server_key = parse_public_key(text(keys, "server_public_base64")).unwrap();
    let agreed = client.agree(&server_key, salt).unwrap();
    // The client's end opens what the vectors sealed, so its key is the one they name.
    let wire = text(&vectors["payload_encryption"][0], "wire_base64");
    let mut plain = Vec::new();
    let send = send_of(wire.as_bytes());
    agreed.open_send(&send, &mut CipherScratch::default(), &mut plain).unwrap();
    assert_eq!(plain, text(&vectors["payload_encryption"][0], "plain_utf8").as_bytes());
}

#[test]
fn payloads_are_enciphered_as_given() {
    let vectors = vectors();
    let cipher = cipher(&vectors);
    let cases = vectors["payload_encryption"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let mut wire = Vec::new();
        cipher.seal_payload(&unhex(text(case, "plain_hex")), &mut CipherScratch::default(), &mut wire);
        assert_eq!(String::from_utf8(wire).unwrap(), text(case, "wire_base64"));
    }
}

#[test]
fn one_flipped_bit_in_what_the_tag_covers_is_refused() {
    let vectors = vectors();
    let cipher = cipher(&vectors);
    let wire = text(&vectors["payload_encryption"][0], "wire_base64").as_bytes();
    let mut scratch = CipherScratch::default();
    let mut refused = |send: Send<'_>| {
        let mut plain = b"before".to_vec();
        assert!(cipher.open_send(&send, &mut scratch, &mut plain).is_err(), "{send:?}");
        assert_eq!(plain, b"before");
    };
    for at in 0..wire.len() {
        let mut bad = wire.to_vec();
        bad[at] ^= 1;
        refused(send_of(&bad));
    }
    refused(Send { client_seq: 2, ..send_of(wire) });
    refused(Send { channel_id: "boc", ..send_of(wire) });
    refused(Send { channel_type: 2, ..send_of(wire) });
    refused(Send { msg_key: "3e3054275c19e227860da3293647de35", ..send_of(wire) });
    refused(Send { msg_key: "", ..send_of(wire) });
}

/// A packet's value for the name that the vectors use, as text; `None` for names that are no field.
fn field(packet: &Packet<'_>, name: &str) -> Option<String> {
    let bytes = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    Some(match (packet, name) {
        (Packet::Connect(p), "version") => p.version.to_string(),
        (Packet::Connect(p), "device_flag") => p.device_flag.to_string(),
        (Packet::Connect(p), "device_id") => p.device_id.into(),
        (Packet::Connect(p), "uid") => p.uid.into(),
        (Packet::Connect(p), "token") => p.token.into(),
        (Packet::Connect(p), "client_timestamp_ms") => p.client_timestamp_ms.to_string(),
        (Packet::Connect(p), "client_key") => p.client_key.into(),
        (Packet::Connack(p), "has_server_version") => p.server_version.is_some().to_string(),
        (Packet::Connack(p), "server_version") => p.server_version?.to_string(),
        (Packet::Connack(p), "time_diff_ms") => p.time_diff_ms.to_string(),
        (Packet::Connack(p), "reason_code") => p.reason.to_string(),
        (Packet::Connack(p), "server_key") => p.server_key.into(),
        (Packet::Connack(p), "salt") => p.salt.into(),
        (Packet::Connack(p), "node_id") => p.node_id.to_string(),
        (Packet::Send(p), "setting") => p.setting.0.to_string(),
        (Packet::Send(p), "client_seq") => p.client_seq.to_string(),
        (Packet::Send(p), "client_msg_no") => p.client_msg_no.into(),
        (Packet::Send(p), "stream_no") => p.stream_no.into(),
        (Packet::Send(p), "channel_id") => p.channel_id.into(),
        (Packet::Send(p), "channel_type") => p.channel_type.to_string(),
        (Packet::Send(p), "expire") => p.expire.to_string(),
        (Packet::Send(p), "msg_key") => p.msg_key.into(),
        (Packet::Send(p), "topic") => p.topic.into(),
        (Packet::Send(p), "payload_wire") => bytes(p.payload),
        (Packet::Sendack(p), "message_id") => p.message_id.to_string(),
        (Packet::Sendack(p), "client_seq") => p.client_seq.to_string(),
        (Packet::Sendack(p), "message_seq") => p.message_seq.to_string(),
        (Packet::Sendack(p), "reason_code") => p.reason.to_string(),
        (Packet::Sendack(p), "client_msg_no_tail") => p.client_msg_no.into(),
        (Packet::Recv(p), name) => return recv_field(p, name),
        (Packet::Recvack(p), "message_id") => p.message_id.to_string(),
        (Packet::Recvack(p), "message_seq") => p.message_seq.to_string(),
        (Packet::Disconnect(p), "reason_code") => p.reason.to_string(),
        (Packet::Disconnect(p), "reason") => p.text.into(),
        (Packet::Sub(p), "setting") => p.setting.0.to_string(),
        (Packet::Sub(p), "sub_no") => p.sub_no.into(),
        (Packet::Sub(p), "channel_id") => p.channel_id.into(),
        (Packet::Sub(p), "channel_type") => p.channel_type.to_string(),
        (Packet::Sub(p), "action") => p.action.to_string(),
        (Packet::Sub(p), "param") => p.param.into(),
        (Packet::Suback(p), "sub_no") => p.sub_no.into(),
        (Packet::Suback(p), "channel_id") => p.channel_id.into(),
        (Packet::Suback(p), "channel_type") => p.channel_type.to_string(),
        (Packet::Suback(p), "action") => p.action.to_string(),
        (Packet::Suback(p), "reason_code") => p.reason.to_string(),
        (Packet::Event(p), "id") => p.id.into(),
        (Packet::Event(p), "type") => p.kind.into(),
        (Packet::Event(p), "timestamp") => p.timestamp_ms.to_string(),
        (Packet::Event(p), "data") => bytes(p.data),
        _ => return None,
    })
}

fn recv_field(recv: &Recv<'_>, name: &str) -> Option<String> {
    Some(match name {
        "setting" => recv.setting.0.to_string(),
        "msg_key" => recv.msg_key.into(),
        "from_uid" => recv.from_uid.into(),
        "channel_id" => recv.channel_id.into(),
        "channel_type" => recv.channel_type.to_string(),
        "expire" => recv.expire.to_string(),
        "client_msg_no" => recv.client_msg_no.into(),
        "stream_flag" => recv.stream?.stream_flag.to_string(),
        "stream_no" => recv.stream?.stream_no.into(),
        "stream_id" => recv.stream?.stream_id.to_string(),
        "message_id" => recv.message_id.to_string(),
        "message_seq" => recv.message_seq.to_string(),
        "timestamp" => recv.timestamp_s.to_string(),
        "topic" => recv.topic.into(),
        "payload_wire" => String::from_utf8_lossy(recv.payload).into_owned(),
        _ => return None,
    })
}

fn flags(packet: &Packet<'_>) -> HeaderFlags {
    match packet {
        Packet::Send(p) => p.flags,
        Packet::Sendack(p) => p.flags,
        Packet::Recv(p) => p.flags,
        Packet::Recvack(p) => p.flags,
        _ => HeaderFlags(0),
    }
}

/// Compares a decoded packet with what the vector says of it; gives how many fields were compared.
fn check_fields(name: &str, packet: &Packet<'_>, fields: &Value) -> usize {
    let mut compared = 0;
    for (key, value) in fields.as_object().unwrap() {
        if value.is_null() || key == "payload_plain" {
            continue;
        }
        compared += 1;
        if key == "flags" {
            let words = value.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
            let expected = words.fold(0, |bits, word| {
                bits | match word.split(' ').next() {
                    Some("noPersist") => 1,
                    Some("redDot") => 2,
                    Some("syncOnce") => 4,
                    other => panic!("flag {other:?}"),
                }
            });
            assert_eq!(flags(packet), HeaderFlags(expected), "{name} flags");
            continue;
        }
        let mut expected = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let Some(digits) = expected.strip_prefix("0x") {
            expected = u8::from_str_radix(digits, 16).unwrap().to_string();
        }
        assert_eq!(field(packet, key), Some(expected), "{name} {key}");
    }
    compared
}

/// Opens a SEND or RECV, compares the plain payload if the vector has it, and seals it again to the same bytes.
fn check_secrecy(name: &str, packet: &Packet<'_>, fields: &Value, cipher: &SessionCipher) {
    let mut scratch = CipherScratch::default();
    let mut plain = Vec::new();
    let (opened, wire) = match packet {
        Packet::Send(send) => (cipher.open_send(send, &mut scratch, &mut plain), send.payload),
        Packet::Recv(recv) => (cipher.open_recv(recv, &mut scratch, &mut plain), recv.payload),
        _ => return,
    };
    assert_eq!(opened, Ok(()), "{name} opens");
    if let Some(expected) = fields["payload_plain"].as_str() {
        assert_eq!(plain, expected.as_bytes(), "{name} payload");
    }
    let mut again = Vec::new();
    cipher.seal_payload(&plain, &mut scratch, &mut again);
    assert_eq!(again, wire, "{name} payload again");
    let (key, again) = match packet {
        Packet::Send(send) => (send.msg_key, cipher.send_msg_key(send, wire, &mut scratch)),
        Packet::Recv(recv) => (recv.msg_key, cipher.recv_msg_key(recv, wire, &mut scratch)),
        _ => return,
    };
    assert_eq!(key.as_bytes(), again, "{name} msg_key again");
}

#[test]
fn every_frame_decodes_to_its_fields_and_encodes_to_its_bytes() {
    let vectors = vectors();
    let cipher = cipher(&vectors);
    let frames = vectors["frames"].as_object().unwrap();
    assert_eq!(frames.len(), 40);
    let (mut frames_seen, mut fields_seen) = (0, 0);
    for (name, frame) in frames.iter().filter(|(name, _)| *name != "RECV_v5_long") {
        let bytes = unhex(text(frame, "hex"));
        assert_eq!(bytes.len() as u64, frame["len"].as_u64().unwrap(), "{name}");
        let version = frame["proto_version"].as_u64().unwrap_or(5) as u8;
        let packet = decoded(&bytes, version);
        fields_seen += check_fields(name, &packet, &frame["fields"]);
        check_secrecy(name, &packet, &frame["fields"], &cipher);
        assert_eq!(encoded(&packet, version), bytes, "{name}");
        assert_eq!(encoded_bytes(&packet, version), bytes.len(), "{name}");
        for cut in 0..bytes.len() {
            match decode(&bytes[..cut], version) {
                Ok(Decoded::Incomplete { need }) => assert!(cut < need && need <= bytes.len(), "{name} at {cut}"),
                other => panic!("{name} cut at {cut}: {other:?}"),
            }
        }
        frames_seen += 1;
    }
    assert_eq!(frames_seen, 39, "the fortieth has its own test");
    assert_eq!(fields_seen, 240, "a field of the vectors went unread");
}

#[test]
fn the_long_recv_is_sealed_to_its_bytes() {
    let vectors = vectors();
    let cipher = cipher(&vectors);
    let frame = &vectors["frames"]["RECV_v5_long"];
    let plain = format!("{{\"type\":1,\"content\":\"{}\"}}", "x".repeat(20_000));
    assert_eq!(plain.len() as u64, frame["payload_plain_len"].as_u64().unwrap());
    let mut scratch = CipherScratch::default();
    let mut wire = Vec::new();
    cipher.seal_payload(plain.as_bytes(), &mut scratch, &mut wire);
    let recv = Recv {
        flags: HeaderFlags(0),
        setting: Setting(0),
        msg_key: "",
        from_uid: "alice",
        channel_id: "alice",
        channel_type: 1,
        expire: 0,
        client_msg_no: "long",
        stream: None,
        message_id: 1_739_276_343_111_221_252,
        message_seq: 10,
        timestamp_s: 1_700_000_004,
        topic: "",
        payload: &wire,
    };
    let key = cipher.recv_msg_key(&recv, &wire, &mut scratch);
    let recv = Recv { msg_key: std::str::from_utf8(&key).unwrap(), ..recv };
    let bytes = encoded(&Packet::Recv(recv), 5);
    assert_eq!(bytes.len() as u64, frame["frame_len"].as_u64().unwrap());
    assert_eq!(bytes[..16], unhex(text(frame, "first_16_bytes_hex")));
    assert_eq!(Md5::digest(&bytes)[..], unhex(text(frame, "md5_of_frame")));
    assert_eq!(decoded(&bytes, 5), Packet::Recv(recv));
}

#[test]
fn remaining_lengths_are_as_given() {
    for case in vectors()["remaining_length"].as_array().unwrap() {
        let value = case["value"].as_u64().unwrap() as usize;
        // An EVENT with empty texts has 12 bytes before its data.
        let Some(data_bytes) = value.checked_sub(12) else { continue };
        let data = vec![b' '; data_bytes];
        let event = Packet::Event(EventPacket { id: "", kind: "", timestamp_ms: 0, data: &data });
        let bytes = encoded(&event, 5);
        let length = unhex(text(case, "hex"));
        assert_eq!(bytes[1..=length.len()], length);
        assert_eq!(decode(&bytes, 5).is_ok(), value <= jindou::limits::PACKET_BYTES_MAX);
    }
}
