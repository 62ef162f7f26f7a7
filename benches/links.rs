//! Two ends of a link without a network between: what it costs to send batches of frames, take them on the other end, and
//! acknowledge them.

use std::net::SocketAddr;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use jindou::engine::chance::Chance;
use jindou::engine::link::{LinkLimits, LinkNews, LinkWish, Links, LinksConfig};
use jindou::format::frame::{Frame, Notify, Pusher};
use jindou::ids::{ChannelKey, LinkConn, NodeId, Place, ShardId, Uid};
use jindou::time::Instant;

use crate::packets::stored;

fn place(node: u16) -> Place {
    Place { node: NodeId(node), shard: ShardId(0) }
}

/// Both ends, and the socket between them.
struct Pair {
    ends: [Links; 2],
    conns: [LinkConn; 2],
    wishes: Vec<LinkWish>,
    news: Vec<LinkNews>,
    now: Instant,
}

impl Pair {
    fn new() -> Pair {
        let config = |node: u16| LinksConfig {
            here: place(node),
            cluster_name: "bench".into(),
            secret: "a secret".into(),
            identity: u64::from(node),
            boot: 1,
            limits: LinkLimits::PRODUCTION,
        };
        let links = |node: u16| Links::new(config(node), Chance::new([node as u8; 32], 0));
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let conns = [LinkConn::dialed(1), LinkConn::accepted(1)];
        let mut pair =
            Pair { ends: [links(1), links(2)], conns, wishes: Vec::new(), news: Vec::new(), now: Instant(1) };
        pair.ends[0].set_nodes(&[(NodeId(2), 2, address, 1)]);
        pair.ends[1].set_nodes(&[(NodeId(1), 1, address, 1)]);
        pair.ends[0].dial_address(pair.now, address);
        pair.ends[0].handle_dialed(pair.now, conns[0], true);
        pair.ends[1].handle_accepted(pair.now, conns[1], None);
        for _ in 0..4 {
            pair.carry(0);
            pair.carry(1);
        }
        assert!(pair.news.iter().any(|news| matches!(news, LinkNews::Up { .. })), "the link is up");
        pair
    }

    /// One end's step: what it writes is what the other reads at once. Bytes written.
    fn carry(&mut self, from: usize) -> usize {
        self.ends[from].flush(self.now, &mut self.wishes);
        let mut bytes_written = 0;
        for wish in self.wishes.drain(..) {
            let LinkWish::Write { bytes, .. } = wish else { continue };
            bytes_written += bytes.len();
            self.ends[1 - from].handle_bytes(self.now, self.conns[1 - from], Bytes::from(bytes));
        }
        self.ends[1 - from].drain_news(&mut self.news);
        bytes_written
    }
}

fn frames(count: usize) -> Vec<Frame> {
    let (alice, bob) = (Uid::parse("alice").expect("a good uid"), Uid::parse("bob").expect("a good uid"));
    let channel = ChannelKey::pair(&alice, &bob);
    let notify = |number: usize| {
        let seq = number as u32 + 1;
        let message = Some(stored(i64::from(seq)));
        Frame::Notify(Notify { uid: bob.clone(), channel: channel.clone(), seq, message, pusher: Pusher::Home })
    };
    (0..count).map(notify).collect()
}

/// Registers all.
pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("link");
    for count in [1usize, 10, 100] {
        let mut pair = Pair::new();
        let batch = frames(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("send, take and acknowledge {count} frames"), |bencher| {
            bencher.iter(|| {
                pair.ends[0].send(place(2), batch.clone()).expect("the window is empty");
                pair.carry(0);
                // The time after which an acknowledgement goes by itself.
                pair.now = pair.now + LinkLimits::PRODUCTION.ack_after;
                assert!(pair.carry(1) > 0, "the acknowledgement");
                pair.news.clear();
            });
        });
        assert_eq!(pair.ends[0].rows()[0].unacknowledged_bytes, 0, "everything was acknowledged");
    }
    group.throughput(Throughput::Elements(1));
    let mut pair = Pair::new();
    group.bench_function("an empty batch, given and taken", |bencher| {
        bencher.iter(|| {
            pair.now = pair.now + LinkLimits::PRODUCTION.silent_after;
            assert!(pair.carry(0) > 0, "a sign of life");
            pair.carry(1);
        });
    });
    group.finish();
}
