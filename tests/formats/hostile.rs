//! Input that nobody should send: refused, never a panic.

use super::*;

/// Feeds bytes in chunks to servers and clients of every kind, fresh ones and ones that have agreed with each other.
fn feed_everything(bytes: &[u8], chunk: usize) {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        for plain in [true, false] {
            feed_server(ServerPipeline::new(transport, plain), bytes, chunk);
            let (client, server) = agreed(transport, plain);
            feed_server(server, bytes, chunk);
            feed_client(client, bytes, chunk);
        }
    }
}

fn feed_server(mut server: ServerPipeline, bytes: &[u8], chunk: usize) {
    let (mut scratch, mut reply) = (Scratch::default(), Vec::new());
    for piece in bytes.chunks(chunk) {
        if server.feed(piece, &mut scratch, &mut reply, &mut |_| {}).is_err() {
            break;
        }
        assert!(server.held_bytes() <= jindou::limits::PACKET_BYTES_MAX + chunk);
    }
}

fn feed_client(mut client: ClientPipeline, bytes: &[u8], chunk: usize) {
    let (mut scratch, mut reply) = (Scratch::default(), Vec::new());
    for piece in bytes.chunks(chunk) {
        if client.feed(piece, &mut scratch, &mut reply, &mut |_| {}).is_err() {
            break;
        }
    }
}

/// Two ends behind their CONNACK. The secrets are fixed, so a packet sealed by one such client opens at any such server.
fn agreed(transport: Transport, plain: bool) -> (ClientPipeline, ServerPipeline) {
    let options = ClientOptions { transport, plain, host: "localhost", secret: [7; 32] };
    let connect = Connect {
        version: 5,
        device_flag: 0,
        device_id: "d",
        uid: "u",
        token: "",
        client_timestamp_ms: 0,
        client_key: "",
    };
    let (mut scratch, mut up, mut down) = (Scratch::default(), Vec::new(), Vec::new());
    let mut client = ClientPipeline::open(&options, &connect, &mut up);
    let mut server = ServerPipeline::new(transport, plain);
    for _ in 0..2 {
        server.feed(&std::mem::take(&mut up), &mut scratch, &mut down, &mut |_| {}).unwrap();
        client.feed(&std::mem::take(&mut down), &mut scratch, &mut up, &mut |_| {}).unwrap();
    }
    let answer = ConnackAnswer { reason: 1, time_diff_ms: 0, node_id: 1, secret: [8; 32], salt: [b'x'; 16] };
    assert_eq!(server.encode_connack(&answer, &mut down), 1);
    client.feed(&down, &mut scratch, &mut up, &mut |_| {}).unwrap();
    (client, server)
}

fn damaged(bytes: &[u8], flips: &[(usize, u8)], cut: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.truncate(bytes.len() - cut % (bytes.len() + 1));
    for (at, mask) in flips {
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] ^= mask;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), version in 0u8..=7, chunk in 1usize..50) {
        let _ = decode(&bytes, version);
        for role in [Role::Server, Role::Client] {
            let _ = FrameReader::new(role).feed(&bytes, [1; 4], &mut Vec::new(), &mut Vec::new());
        }
        let _ = websocket_upgrade::accept(&bytes, &mut Vec::new());
        let _ = websocket_upgrade::check_answer(&bytes, [0; 16]);
        let _ = StoredMessage::take(&Bytes::from(bytes.clone()));
        feed_everything(&bytes, chunk);
    }

    #[test]
    fn random_bytes_that_begin_well(
        bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..16, version in 0u8..=7,
    ) {
        // A header that fits the rest, so that fields are reached.
        let mut packet = vec![kind << 4];
        let length = bytes.len();
        if length < 128 {
            packet.push(length as u8);
        } else {
            packet.extend([length as u8 | 0x80, (length >> 7) as u8]);
        }
        packet.extend(&bytes);
        if let Ok(Decoded::Packet(parsed, taken)) = decode(&packet, version) {
            prop_assert!(taken <= packet.len());
            // What was understood can be said again and means the same.
            let again = encoded(&parsed, version);
            prop_assert_eq!(decoded(&again, version), parsed);
        }
    }

    #[test]
    fn cut_and_flipped_packets(
        parts in parts(), version in 1u8..=6, which in 0usize..12,
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), cut in 0usize..4,
    ) {
        let bytes = damaged(&encoded(&parts.packets(version)[which], version), &flips, cut);
        let _ = decode(&bytes, version);
        feed_everything(&bytes, 4096);
    }

    #[test]
    fn cut_and_flipped_upgrades(
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..3), cut in 0usize..200,
    ) {
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        websocket_upgrade::request("localhost", "/", [1; 16], &mut request);
        websocket_upgrade::accept(&request, &mut answer).unwrap();
        let _ = websocket_upgrade::accept(&damaged(&request, &flips, cut), &mut Vec::new());
        let _ = websocket_upgrade::check_answer(&damaged(&answer, &flips, cut), [1; 16]);
        feed_everything(&damaged(&request, &flips, cut), 64);
    }

    #[test]
    fn damaged_frames_and_sends_at_an_agreed_server(
        parts in parts(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), chunk in 1usize..300,
    ) {
        for transport in [Transport::Tcp, Transport::WebSocket] {
            let (mut client, server) = agreed(transport, false);
            let mut bytes = Vec::new();
            client.encode_send(&parts.send(5), &mut Scratch::default(), &mut bytes);
            for packet in parts.packets(5) {
                client.encode(&packet, &mut bytes);
            }
            feed_server(server, &damaged(&bytes, &flips, 0), chunk);
        }
    }
}
