//! What is encoded comes back, whole or in pieces.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_packet_at_every_version(parts in parts(), version in 1u8..=6) {
        for packet in parts.packets(version) {
            let bytes = encoded(&packet, version);
            prop_assert_eq!(encoded_bytes(&packet, version), bytes.len());
            prop_assert_eq!(decoded(&bytes, version), packet);
        }
    }

    #[test]
    fn sealed_payloads_open_and_only_with_their_own_packet(
        parts in parts(), secrets in any::<[[u8; 32]; 2]>(), salt in "[A-Za-z0-9]{16}",
    ) {
        let salt: [u8; 16] = salt.as_bytes().try_into().unwrap();
        let pairs = secrets.map(KeyPair::new);
        let publics = [0, 1].map(|n| parse_public_key(pairs[n].public_text().as_str()).unwrap());
        let ours = pairs[0].agree(&publics[1], salt).unwrap();
        let theirs = pairs[1].agree(&publics[0], salt).unwrap();
        let mut scratch = CipherScratch::default();
        let (mut wire, mut plain) = (Vec::new(), Vec::new());
        ours.seal_payload(&parts.payload, &mut scratch, &mut wire);
        prop_assert_eq!(wire.len(), jindou::format::packet_cipher::sealed_bytes(parts.payload.len()));
        let recv = Recv { payload: &wire, ..parts.recv(5) };
        let key = ours.recv_msg_key(&recv, &wire, &mut scratch);
        let recv = Recv { msg_key: std::str::from_utf8(&key).unwrap(), ..recv };
        prop_assert_eq!(theirs.open_recv(&recv, &mut scratch, &mut plain), Ok(()));
        prop_assert_eq!(&plain, &parts.payload);
        let moved = Recv { message_seq: recv.message_seq ^ 1, ..recv };
        prop_assert!(theirs.open_recv(&moved, &mut scratch, &mut plain).is_err());
    }

    #[test]
    fn websocket_payloads_in_any_pieces(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        masks in prop::collection::vec(any::<[u8; 4]>(), 6),
        chunk in 1usize..40,
    ) {
        for role in [Role::Server, Role::Client] {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (message, mask) in messages.iter().zip(&masks) {
                let mask = (role == Role::Server).then_some(*mask);
                websocket::put_frame(Opcode::Binary, message, mask, &mut bytes);
                expected.extend_from_slice(message);
            }
            let mut reader = FrameReader::new(role);
            let (mut stream, mut reply) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(chunk) {
                prop_assert_eq!(reader.feed(piece, masks[5], &mut stream, &mut reply), Ok(()));
            }
            prop_assert_eq!(&stream, &expected);
            prop_assert!(reply.is_empty());
        }
    }

    #[test]
    fn stored_messages(parts in parts()) {
        let fields = MessageFields {
            message_id: parts.numbers[0] as i64,
            unix_ms: parts.numbers[1],
            expire_s: parts.numbers[2] as u32,
            flags: parts.flags(),
            setting: Setting(parts.byte(3)),
            device_tag: parts.numbers[4],
            from: &"alice"[..parts.texts[0].len() % 6],
            to: "bob",
            client_msg_no: parts.text(0),
            topic: parts.text(1),
            payload: &parts.payload,
        };
        let mut bytes = Vec::new();
        fields.encode(&mut bytes);
        let message = StoredMessage::take(&Bytes::from(bytes)).unwrap();
        prop_assert_eq!(
            MessageFields {
                message_id: message.message_id(),
                unix_ms: message.unix_ms(),
                expire_s: message.expire_s(),
                flags: message.flags(),
                setting: message.setting(),
                device_tag: message.device_tag(),
                from: message.from(),
                to: message.to(),
                client_msg_no: message.client_msg_no(),
                topic: message.topic(),
                payload: message.payload(),
            },
            fields
        );
    }
}
