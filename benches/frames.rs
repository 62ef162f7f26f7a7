//! What shards say to each other: frames to bytes and back, as links will carry them, and a hop over the mesh inside a node.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use jindou::format::frame::{Deliver, Frame, Notify, Pusher, SendBody, Submission, Submit, Submitted};
use jindou::format::frame_codec::{self, LinkNumbers};
use jindou::format::packet::{HeaderFlags, Reason, Setting};
use jindou::format::raft_message::{RaftEntry, RaftMessage};
use jindou::ids::{ChannelKey, NodeId, Place, ReplicaId, SessionId, ShardId, SlotId, Uid};
use jindou::shell::clock::Clock;
use jindou::shell::mesh::{MeshEndpoint, MeshMessage, Outbox, build_mesh};

use crate::packets::{PAYLOAD, stored};

fn place(shard: u16) -> Place {
    Place { node: NodeId(1), shard: ShardId(shard) }
}

/// Frames of a turn with so many messages: each is a notice to a home and a delivery to a session.
fn turn(messages: usize) -> Vec<Frame> {
    (0..messages).flat_map(|number| [notify(number), deliver(number)]).collect()
}

fn pair() -> (Uid, Uid, ChannelKey) {
    let (alice, bob) = (Uid::parse("alice").expect("a good uid"), Uid::parse("bob").expect("a good uid"));
    let channel = ChannelKey::pair(&alice, &bob);
    (alice, bob, channel)
}

fn notify(number: usize) -> Frame {
    let (_, uid, channel) = pair();
    let seq = number as u32 + 1;
    Frame::Notify(Notify { uid, channel, seq, message: Some(stored(i64::from(seq))), pusher: Pusher::Home })
}

fn deliver(number: usize) -> Frame {
    let (_, _, channel) = pair();
    let seq = number as u32 + 1;
    let session = SessionId { index: 7, generation: 1 };
    Frame::Deliver(Deliver {
        session,
        channel,
        seq,
        cursor: Some(0),
        term: 1,
        slot: SlotId(0),
        message: Some(stored(i64::from(seq))),
    })
}

fn submit(number: usize) -> Frame {
    let (from, to, channel) = pair();
    let submit = Submit {
        place: place(0),
        ticket: number as u64,
        channel,
        from,
        to,
        device_tag: 77,
        fingerprint: 1,
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        expire_s: 0,
        body: SendBody::new(&format!("number-{number}"), "", &PAYLOAD),
    };
    Frame::Submit(Submission { slot: SlotId(3), term: 7, submit: Arc::new(submit) })
}

fn submitted(number: usize) -> Frame {
    let ticket = number as u64;
    Frame::Submitted(Submitted { ticket, term: 7, message_id: 1 << 40, message_seq: 9, reason: Reason::Success as u8 })
}

/// An append of so many entries of 200 bytes.
fn append(number: usize, entries: u64) -> Frame {
    let entry = |index| RaftEntry { term: 7, index: 1000 + index, kind: 0, data: Bytes::from(vec![7; 200]) };
    Frame::Raft(Box::new(RaftMessage {
        slot: SlotId(number as u16),
        kind: 3,
        from: ReplicaId::new(place(0), 1),
        to: ReplicaId::new(place(1), 2),
        term: 7,
        log_term: 7,
        index: 999,
        commit: 999,
        entries: (1..=entries).map(entry).collect(),
        ..RaftMessage::default()
    }))
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    type Kind = (&'static str, fn(usize) -> Frame);
    let kinds: [Kind; 7] = [
        ("append of 1 entry", |number| append(number, 1)),
        ("append of 10 entries", |number| append(number, 10)),
        ("append's answer", |number| append(number, 0)),
        ("submit", submit),
        ("submitted", submitted),
        ("notify", notify),
        ("deliver", deliver),
    ];
    for (kind, make) in kinds {
        for count in [1usize, 10, 100] {
            let frames: Vec<Frame> = (0..count).map(make).collect();
            group.throughput(Throughput::Elements(count as u64));
            let numbers = LinkNumbers { sequence: 1, acknowledged: 0 };
            let mut out = Vec::new();
            group.bench_function(format!("encode, {kind}, {count}"), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    frame_codec::encode(black_box(&frames), numbers, &mut out);
                });
            });
            out.clear();
            frame_codec::encode(&frames, numbers, &mut out);
            let bytes = Bytes::from(out);
            group.bench_function(format!("decode, {kind}, {count}"), |bencher| {
                bencher.iter(|| frame_codec::decode(black_box(&bytes)).expect("what was just encoded"));
            });
        }
    }
    group.finish();
}

/// Takes what lies in an inbox and sends it back.
fn send_back(endpoint: &MeshEndpoint, outbox: &mut Outbox, clock: Clock) -> bool {
    let Ok(MeshMessage::Frames { from, frames, .. }) = endpoint.inbox.try_recv() else { return false };
    outbox.push(from.shard, frames);
    assert!(outbox.flush(&endpoint.sender, clock), "one batch finds room");
    true
}

fn mesh(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mesh");
    let clock = Clock::start();
    for messages in [1usize, 100] {
        let mut endpoints = build_mesh(2).expect("the kernel gives two doorbells");
        let (right, left) = (endpoints.remove(1), endpoints.remove(0));
        let mut outboxes = [Outbox::new(place(0), 2), Outbox::new(place(1), 2)];
        outboxes[0].push(ShardId(1), turn(messages));
        assert!(outboxes[0].flush(&left.sender, clock), "an empty inbox");
        group.throughput(Throughput::Elements(2));
        group.bench_function(format!("two hops of {} frames, one thread", messages * 2), |bencher| {
            bencher.iter(|| {
                let there = send_back(&right, &mut outboxes[1], clock);
                let back = send_back(&left, &mut outboxes[0], clock);
                assert!(there && back, "the batch goes round");
            });
        });
    }
    group.finish();
}

/// Frame codec, mesh hop.
pub fn benches(criterion: &mut Criterion) {
    codec(criterion);
    mesh(criterion);
}
