//! Frames between nodes: round trips wherever a batch lies in its buffer, and damage with and without a right checksum.

use std::sync::Arc;

use super::frame_strategies::frame;
use super::*;
use jindou::format::frame::*;
use jindou::format::frame_codec::{
    ALIGN_BYTES, BadFrames, FRAMES_EMPTY_BYTES_MAX, FrameBatch, LinkNumbers, decode, encode,
};
use jindou::format::frame_wire::BadValue;
use jindou::format::packet::Reason;
use jindou::format::raft_message::{RaftEntry, RaftMessage};
use jindou::format::request::{ApiAnswer, ApiRequest};
use jindou::ids::{
    BadUid, ChannelKey, ChannelKind, DeviceFlag, DeviceLevel, NodeId, Place, ReplicaId, SessionId, ShardId, SlotId, Uid,
};
use jindou::limits::{CLIENT_MSG_NO_BYTES_MAX, FRAME_TEXT_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};

const NUMBERS: LinkNumbers = LinkNumbers { sequence: 0x1122_3344_5566_7788, acknowledged: u64::MAX };

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    prop::collection::vec(frame(), 0..6)
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

const HERE: Place = Place { node: NodeId(1), shard: ShardId(0) };

fn submit_with(channel: ChannelKey, body: SendBody) -> Frame {
    let alice = Uid::parse("alice").unwrap();
    let submit = Submit {
        place: HERE,
        ticket: 5,
        channel,
        from: alice.clone(),
        to: alice,
        device_tag: 1,
        fingerprint: 1,
        flags: HeaderFlags(0),
        setting: Setting(0),
        expire_s: 0,
        body,
    };
    Frame::Submit(Submission { slot: SlotId(3), term: 7, submit: Arc::new(submit) })
}

fn submit_of(channel: ChannelKey) -> Frame {
    submit_with(channel, SendBody::new("number", "topic", b"a payload that is carried through"))
}

/// An append of entries with these indexes, each with so many bytes.
fn append(indexes: &[u64], bytes: usize) -> RaftMessage {
    let entry = |index: &u64| RaftEntry { term: 7, index: *index, kind: 0, data: Bytes::from(vec![7; bytes]) };
    RaftMessage {
        from: ReplicaId::new(HERE, 1),
        to: ReplicaId::new(HERE, 2),
        entries: indexes.iter().map(entry).collect(),
        ..RaftMessage::default()
    }
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
    fn a_frame_is_never_heavier_on_the_wire_than_it_says(frames in frames()) {
        let weight: usize = frames.iter().map(Frame::weight).sum();
        let bytes = batch(&frames).len();
        prop_assert!(bytes <= FRAMES_EMPTY_BYTES_MAX + weight, "{bytes} bytes of {weight}");
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
    let body = &submit.submit.body;
    assert!(inside.contains(&body.bytes.as_ptr()), "the payload was copied");
    assert_eq!((body.client_msg_no(), body.topic()), ("number", "topic"));
}

#[test]
fn entries_parts_and_commands_are_slices_too() {
    let body = Bytes::from_static(b"bytes that nobody copies");
    let part = SnapshotPart { transfer: 1, slot: SlotId(0), number: 0, last: true, body: body.clone() };
    let propose = Propose { place: HERE, ticket: 1, command: body };
    let frames = [Frame::Raft(Box::new(append(&[5, 6], 200))), Frame::SnapshotPart(part), Frame::Propose(propose)];
    let buffer = Bytes::from(batch(&frames));
    let decoded = decode(&buffer).unwrap().frames;
    let [Frame::Raft(message), Frame::SnapshotPart(part), Frame::Propose(propose)] = &decoded[..] else {
        panic!("{decoded:?}")
    };
    let inside = buffer.as_ptr_range();
    for slice in [&message.entries[0].data, &message.entries[1].data, &part.body, &propose.command] {
        assert!(inside.contains(&slice.as_ptr()), "{slice:?} was copied");
    }
}

#[test]
fn what_carries_much_weighs_little_more() {
    let part = SnapshotPart { transfer: 1, slot: SlotId(0), number: 0, last: true, body: vec![1; 100_000].into() };
    let refused = ProposeOutcome::Refused("x".repeat(1000).into());
    let loads = [
        submit_with(pair(), SendBody::new("number", "", &[1; 200])),
        Frame::Raft(Box::new(append(&[1], 200))),
        Frame::Raft(Box::new(append(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 200))),
        Frame::SnapshotPart(part),
        Frame::Proposed(Proposed { ticket: 1, outcome: refused }),
    ];
    for frame in loads {
        let frames = vec![frame; 20];
        let weight: usize = frames.iter().map(Frame::weight).sum();
        let bytes = batch(&frames).len();
        assert!(weight <= bytes + bytes / 10, "{weight} for {bytes} bytes of {:?}", frames[0]);
    }
}

#[test]
fn a_long_text_for_people_is_cut_where_it_is_sent() {
    let text: Box<str> = "ö".repeat(FRAME_TEXT_BYTES_MAX).into();
    let kick = |text: &str| {
        let notice = KickNotice { reason: Reason::Kicked as u8, text: text.into() };
        Frame::Kick(Kick { session: SessionId { index: 1, generation: 1 }, notice: Some(notice) })
    };
    let refused = |text: &str| Frame::Joined(Box::new(Joined::Refused { why: text.into() }));
    let frames = decode(&Bytes::from(batch(&[kick(&text), refused(&text)]))).unwrap().frames;
    let cut = &text[..FRAME_TEXT_BYTES_MAX];
    assert_eq!(frames, [kick(cut), refused(cut)]);
    let odd = format!("a{text}");
    let frames = decode(&Bytes::from(batch(&[refused(&odd)]))).unwrap().frames;
    assert_eq!(frames, [refused(&odd[..FRAME_TEXT_BYTES_MAX - 1])], "cut between letters");
}

/// Values that an honest node never has, but a hostile one can write.
#[test]
fn wrong_values_are_named() {
    let uid = || Uid::parse("alice").unwrap();
    let session = SessionId { index: 1, generation: 1 };
    let raft = |message: RaftMessage| Frame::Raft(Box::new(message));
    let member = |number| raft(RaftMessage { from: ReplicaId(number), ..append(&[], 0) });
    let who =
        |slot, node| Frame::WhoLeads(WhoLeads { slot: SlotId(slot), place: Place { node: NodeId(node), ..HERE } });
    let join = |node, shards, http: String| {
        let cluster = ([127, 0, 0, 1], 5100).into();
        let addresses = Addresses { cluster, tcp: "".into(), ws: "".into(), wss: "".into(), http: http.into() };
        let version = "1".into();
        Frame::Join(Box::new(Join { node, identity: 1, boot: 1, shards, belongs: false, addresses, version }))
    };
    let kind = |kind| {
        let mut message = append(&[1], 9);
        message.entries[0].kind = kind;
        raft(message)
    };
    let ask = |token: &str| {
        let (flag, level) = (DeviceFlag(0), DeviceLevel::Slave);
        let request = ApiRequest::SetToken { uid: uid(), flag, level, token: token.into() };
        Frame::Ask(Box::new(Ask { place: HERE, ticket: 1, slot: SlotId(1), term: 1, request }))
    };
    let refused = |reason| {
        let answer = Some(ApiAnswer::Refused { reason, text: "no".into() });
        Frame::Answered(Box::new(Answered { ticket: 1, answer }))
    };
    let registered = |reason| Frame::Registered(Registered { session, reason, level: DeviceLevel::Slave, order: 0 });
    let body = |number: usize, topic: usize, payload: usize| {
        submit_with(pair(), SendBody::new(&"n".repeat(number), &"t".repeat(topic), &vec![0; payload]))
    };
    let good = [
        member(1),
        who(16_383, 1),
        who(u16::MAX, 1),
        join(1, 1, "h".repeat(FRAME_TEXT_BYTES_MAX)),
        kind(1),
        raft(append(&[u64::MAX], 1)),
        ask("t"),
        refused(28),
        registered(1),
        body(CLIENT_MSG_NO_BYTES_MAX, TOPIC_BYTES_MAX, PAYLOAD_BYTES_MAX),
    ];
    assert_eq!(decode(&Bytes::from(batch(&good))).map(|batch| batch.frames), Ok(good.to_vec()));
    for (frame, expected) in [
        (member(0), BadValue::Replica),
        (who(16_384, 1), BadValue::Slot),
        (who(1, 0), BadValue::Node),
        (join(0, 1, String::new()), BadValue::Node),
        (join(1, 0, String::new()), BadValue::Shards),
        (join(1, 1, "h".repeat(FRAME_TEXT_BYTES_MAX + 1)), BadValue::Text),
        (kind(2), BadValue::Entries),
        (raft(append(&[1, 3], 9)), BadValue::Entries),
        (raft(append(&[2, 1], 9)), BadValue::Entries),
        (raft(append(&[u64::MAX, 0], 9)), BadValue::Entries),
        (ask(""), BadValue::Text),
        (ask(&"t".repeat(513)), BadValue::Text),
        (refused(3), BadValue::Reason),
        (registered(0), BadValue::Reason),
        (body(CLIENT_MSG_NO_BYTES_MAX + 1, 0, 0), BadValue::SendBody),
        (body(0, TOPIC_BYTES_MAX + 1, 0), BadValue::SendBody),
        (body(0, 0, PAYLOAD_BYTES_MAX + 1), BadValue::SendBody),
    ] {
        let fault = decode(&Bytes::from(batch(std::slice::from_ref(&frame)))).unwrap_err();
        assert_eq!(fault, BadFrames::Value(expected), "{frame:?}");
        assert!(fault.to_string().starts_with("peer sends a frame with "), "{fault}");
    }
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
    let leader = Some(([10, 0, 0, 9], 0x1234).into());
    let elsewhere = [Frame::Joined(Box::new(Joined::Elsewhere { leader }))];
    let strange = replace(b"\x34\x12\x04", b"\x34\x12\x05");
    assert_eq!(first_error(&elsewhere, &strange), BadFrames::Value(BadValue::SocketAddress));
    let text = first_error(&good, &replace(b"bob@alice", b"b#b@alice")).to_string();
    assert_eq!(text, "peer sends a frame with a bad uid: uid contains '@', '#', '&' or a control character");
}
