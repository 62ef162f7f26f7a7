//! What shards say to each other: frames to bytes and back, as links will carry them, and a hop over the mesh inside a node.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use jindou::format::frame::{Deliver, Frame, Notify};
use jindou::format::frame_codec::{self, LinkNumbers};
use jindou::ids::{ChannelKey, NodeId, Place, SessionId, ShardId, Uid};
use jindou::shell::clock::Clock;
use jindou::shell::mesh::{MeshEndpoint, MeshMessage, Outbox, build_mesh};

use crate::packets::stored;

fn place(shard: u16) -> Place {
    Place { node: NodeId(1), shard: ShardId(shard) }
}

/// Frames of a turn with so many messages: each is a notice to a home and a delivery to a session.
fn turn(messages: usize) -> Vec<Frame> {
    let (alice, bob) = (Uid::parse("alice").expect("a good uid"), Uid::parse("bob").expect("a good uid"));
    let channel = ChannelKey::pair(&alice, &bob);
    let both = |number: usize| {
        let seq = number as u32 + 1;
        let message = Some(stored(i64::from(seq)));
        let notify =
            Notify { uid: bob.clone(), channel: channel.clone(), seq, message: message.clone(), from: place(0) };
        let session = SessionId { index: 7, generation: 1 };
        let deliver = Deliver { session, channel: channel.clone(), seq, cursor: 0, message };
        [Frame::Notify(notify), Frame::Deliver(deliver)]
    };
    (0..messages).flat_map(both).collect()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for messages in [1usize, 100] {
        let frames = turn(messages);
        group.throughput(Throughput::Elements(frames.len() as u64));
        let numbers = LinkNumbers { sequence: 1, acknowledged: 0 };
        let mut out = Vec::new();
        group.bench_function(format!("encode {} frames", frames.len()), |bencher| {
            bencher.iter(|| {
                out.clear();
                frame_codec::encode(black_box(&frames), numbers, &mut out);
            });
        });
        let bytes = Bytes::from(out.clone());
        group.bench_function(format!("decode {} frames", frames.len()), |bencher| {
            bencher.iter(|| frame_codec::decode(black_box(&bytes)).expect("what was just encoded"));
        });
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
