//! Frames between nodes: round trips wherever a batch lies in its buffer, and damage with and without a right checksum.

use super::*;
use jindou::format::frame::{
    Backlog, BacklogRow, Deliver, Fetch, Fetched, Frame, Kick, KickNotice, Notified, Notify, Origin, Received,
    Register, Registered, Resume, SendBody, Submit, Submitted, Unregister,
};
use jindou::format::frame_codec::{ALIGN_BYTES, BadFrames, FrameBatch, LinkNumbers, decode, encode};
use jindou::format::frame_wire::BadValue;
use jindou::ids::{
    BadUid, ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, NodeId, Place, SessionAddress, SessionId, ShardId, Uid,
};

const NUMBERS: LinkNumbers = LinkNumbers { sequence: 0x1122_3344_5566_7788, acknowledged: u64::MAX };

fn uid() -> impl Strategy<Value = Uid> {
    "[a-zäö0-9_]{1,20}".prop_map(|text| Uid::parse(&text).unwrap())
}

fn channel() -> impl Strategy<Value = ChannelKey> {
    (uid(), uid(), any::<bool>())
        .prop_map(|(a, b, pair)| if pair { ChannelKey::pair(&a, &b) } else { ChannelKey::command(&a) })
}

fn place() -> impl Strategy<Value = Place> {
    any::<(u16, u16)>().prop_map(|(node, shard)| Place { node: NodeId(node), shard: ShardId(shard) })
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<(u32, u32)>().prop_map(|(index, generation)| SessionId { index, generation })
}

fn address() -> impl Strategy<Value = SessionAddress> {
    (place(), session()).prop_map(|(place, session)| SessionAddress { place, session })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (address(), any::<u32>(), any::<u8>()).prop_map(|(address, client_seq, flags)| Origin::Session {
            address,
            client_seq,
            flags: HeaderFlags(flags)
        }),
        (place(), any::<u64>()).prop_map(|(place, ticket)| Origin::Api { place, ticket }),
        Just(Origin::Nobody),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..100)
}

fn message() -> impl Strategy<Value = StoredMessage> {
    (payload(), "\\PC{0,9}", any::<u64>()).prop_map(|(payload, text, number)| {
        let mut bytes = Vec::new();
        let fields = MessageFields {
            message_id: number as i64,
            unix_ms: number,
            expire_s: number as u32,
            flags: HeaderFlags(2),
            setting: Setting(8),
            device_tag: number,
            from: "alice",
            to: "bob",
            client_msg_no: &text,
            topic: &text,
            payload: &payload,
        };
        fields.encode(&mut bytes);
        StoredMessage::take(&Bytes::from(bytes)).unwrap()
    })
}

fn submission() -> impl Strategy<Value = Frame> {
    let submit = (origin(), channel(), uid(), uid(), any::<(u64, u8, u8, u32)>(), "\\PC{0,9}", "\\PC{0,9}", payload())
        .prop_map(|(origin, channel, from, to, numbers, number, topic, payload)| {
            Frame::Submit(Box::new(Submit {
                origin,
                channel,
                from,
                to,
                device_tag: numbers.0,
                flags: HeaderFlags(numbers.1),
                setting: Setting(numbers.2),
                expire_s: numbers.3,
                body: SendBody::new(&number, &topic, &payload),
            }))
        });
    let submitted = (origin(), any::<(i64, u32, u8)>()).prop_map(|(origin, (message_id, message_seq, reason))| {
        Frame::Submitted(Submitted { origin, message_id, message_seq, reason })
    });
    prop_oneof![submit, submitted]
}

fn session_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (address(), uid(), any::<u8>(), "\\PC{0,40}", "\\PC{0,40}").prop_map(|(address, uid, flag, id, token)| {
            Frame::Register(Box::new(Register {
                address,
                uid,
                flag: DeviceFlag(flag),
                device_id: id.into(),
                token: token.into(),
            }))
        }),
        (session(), any::<u8>(), any::<bool>()).prop_map(|(session, reason, master)| {
            let level = if master { DeviceLevel::Master } else { DeviceLevel::Slave };
            Frame::Registered(Registered { session, reason, level })
        }),
        (address(), uid()).prop_map(|(address, uid)| Frame::Unregister(Unregister { address, uid })),
        (address(), uid()).prop_map(|(address, uid)| Frame::Resume(Resume { address, uid })),
        (session(), prop::option::of((any::<u8>(), "\\PC{0,20}"))).prop_map(|(session, notice)| {
            let notice = notice.map(|(reason, text)| KickNotice { reason, text: text.into() });
            Frame::Kick(Kick { session, notice })
        }),
    ]
}

fn channel_frame() -> impl Strategy<Value = Frame> {
    let row = (channel(), any::<(u32, u32)>()).prop_map(|(channel, (cursor, last_seq))| BacklogRow {
        channel,
        cursor,
        last_seq,
    });
    prop_oneof![
        (uid(), channel(), any::<u32>(), prop::option::of(message()), place())
            .prop_map(|(uid, channel, seq, message, from)| Frame::Notify(Notify { uid, channel, seq, message, from })),
        (uid(), channel(), any::<u32>()).prop_map(|(uid, channel, seq)| Frame::Notified(Notified {
            uid,
            channel,
            seq
        })),
        (session(), channel(), any::<(u32, u32)>(), prop::option::of(message())).prop_map(
            |(session, channel, (seq, cursor), message)| Frame::Deliver(Deliver {
                session,
                channel,
                seq,
                cursor,
                message
            })
        ),
        (uid(), any::<u8>(), channel(), any::<u32>()).prop_map(|(uid, flag, channel, seq)| {
            Frame::Received(Received { uid, flag: DeviceFlag(flag), channel, seq })
        }),
        (session(), prop::collection::vec(row, 0..4), any::<bool>())
            .prop_map(|(session, rows, more)| Frame::Backlog(Backlog { session, rows, more })),
        (address(), channel(), any::<(u32, u32)>()).prop_map(|(address, channel, (from_seq, messages_max))| {
            Frame::Fetch(Fetch { address, channel, from_seq, messages_max })
        }),
        (session(), channel(), prop::collection::vec((any::<u32>(), message()), 0..4), any::<(u32, u32)>()).prop_map(
            |(session, channel, messages, (next_seq, last_seq))| Frame::Fetched(Fetched {
                session,
                channel,
                messages,
                next_seq,
                last_seq
            })
        ),
    ]
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    prop::collection::vec(prop_oneof![submission(), session_frame(), channel_frame()], 0..6)
}

fn batch(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frames, NUMBERS, &mut out);
    out
}

/// Makes the checksum right again, as a hostile peer would.
fn resign(batch: &mut [u8]) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&batch[..12]);
    hasher.update(&batch[16..]);
    batch[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
}

fn submit_of(channel: ChannelKey) -> Frame {
    let alice = Uid::parse("alice").unwrap();
    Frame::Submit(Box::new(Submit {
        origin: Origin::Nobody,
        channel,
        from: alice.clone(),
        to: alice,
        device_tag: 1,
        flags: HeaderFlags(0),
        setting: Setting(0),
        expire_s: 0,
        body: SendBody::new("number", "topic", b"a payload that is carried through"),
    }))
}

fn pair() -> ChannelKey {
    ChannelKey::pair(&Uid::parse("alice").unwrap(), &Uid::parse("bob").unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn frames_come_back_from_any_offset(frames in frames(), before in 0usize..17, behind in 0usize..9) {
        let mut raw = vec![0xee; before];
        encode(&frames, NUMBERS, &mut raw);
        let batch_bytes = raw.len() - before;
        raw.resize(raw.len() + behind, 0xee);
        let buffer = Bytes::from(raw).slice(before..);
        let expected = FrameBatch { numbers: NUMBERS, frames, batch_bytes };
        prop_assert_eq!(decode(&buffer), Ok(expected));
        prop_assert_eq!(batch_bytes % ALIGN_BYTES, 0);
    }

    #[test]
    fn cut_batches_say_what_they_need(frames in frames(), cut in any::<prop::sample::Index>()) {
        let whole = batch(&frames);
        let cut = cut.index(whole.len());
        match decode(&Bytes::from(whole[..cut].to_vec())) {
            Err(BadFrames::Cut { need }) => prop_assert!(cut < need && need <= whole.len()),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_flipped_bit_is_seen(frames in frames(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = batch(&frames);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&Bytes::from(bytes)).is_err(), "byte {at} bit {bit}");
    }

    #[test]
    fn a_hostile_peer_with_a_right_checksum_gets_an_error_or_frames(
        frames in frames(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = batch(&frames);
        for (at, mask) in flips {
            // Behind the magic: what is before is covered by other tests.
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] ^= mask;
        }
        resign(&mut bytes);
        if let Ok(FrameBatch { frames, .. }) = decode(&Bytes::from(bytes)) {
            // Whatever was let in is well-formed enough to be said again.
            let again = decode(&Bytes::from(batch(&frames)));
            prop_assert_eq!(again.map(|batch| batch.frames), Ok(frames));
        }
    }

    #[test]
    fn random_bodies_with_a_right_header(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = batch(&[]);
        bytes.truncate(32);
        bytes[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend(&body);
        bytes.resize(bytes.len().next_multiple_of(ALIGN_BYTES), 0);
        resign(&mut bytes);
        let _ = decode(&Bytes::from(bytes));
    }
}

#[test]
fn payloads_are_slices_of_an_aligned_buffer() {
    let buffer = Bytes::from(batch(&[submit_of(pair())]));
    assert!(buffer.as_ptr().addr().is_multiple_of(ALIGN_BYTES), "the allocator gave an odd address");
    let batch = decode(&buffer).unwrap();
    let Frame::Submit(submit) = &batch.frames[0] else { panic!("{batch:?}") };
    let inside = buffer.as_ptr_range();
    assert!(inside.contains(&submit.body.bytes.as_ptr()), "the payload was copied");
    assert_eq!((submit.body.client_msg_no(), submit.body.topic()), ("number", "topic"));
}

#[test]
fn what_a_peer_gets_wrong_is_named() {
    let first_error = |frames: &[Frame], damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = batch(frames);
        damage(&mut bytes);
        resign(&mut bytes);
        decode(&Bytes::from(bytes)).unwrap_err()
    };
    let replace = |from: &'static [u8], to: &'static [u8]| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    };
    let good = [submit_of(pair())];
    assert_eq!(first_error(&good, &|bytes| bytes[0] ^= 1), BadFrames::NotFrames);
    assert_eq!(first_error(&good, &|bytes| bytes[4] = 9), BadFrames::Version(9));
    assert_eq!(first_error(&good, &|bytes| bytes[11] = 1), BadFrames::TooLarge);
    let bad_uid = BadFrames::Value(BadValue::Uid(BadUid::ForbiddenCharacter));
    assert_eq!(
        first_error(&[submit_of(ChannelKey::command(&Uid::parse("carol").unwrap()))], &replace(b"carol", b"ca@ol")),
        bad_uid
    );
    assert_eq!(first_error(&good, &replace(b"bob@alice", b"b#b@alice")), bad_uid);
    let no_pair = ChannelKey { kind: ChannelKind::Pair, id: "alice".into() };
    assert_eq!(first_error(&[submit_of(no_pair)], &|_| {}), BadFrames::Value(BadValue::Uid(BadUid::Empty)));
    assert_eq!(first_error(&good, &replace(b"number", b"numb\xff\xff")), BadFrames::Value(BadValue::SendBody));
    assert_eq!(first_error(&good, &|bytes| bytes.truncate(24)), BadFrames::Cut { need: 32 });
    let text = first_error(&good, &replace(b"bob@alice", b"b#b@alice")).to_string();
    assert_eq!(text, "peer sends a frame with a bad uid: uid contains '@', '#', '&' or a control character");
}
