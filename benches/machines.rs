//! The engine's machines, one at a time, as a message meets them: where does it belong, is it a repeat, whose row moves.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use jindou::engine::chance::Chance;
use jindou::engine::channel::{Appended, Channel, Fingerprint};
use jindou::engine::home::Home;
use jindou::engine::journal::Position;
use jindou::engine::routes::Table;
use jindou::format::message::StoredMessage;
use jindou::ids::{ChannelKey, NodeId, Uid};
use jindou::limits::Limits;

use crate::packets::stored;

const DEDUPE_WINDOW: usize = Limits::PRODUCTION.dedupe_window;

fn uid(number: usize) -> Uid {
    Uid::parse(&format!("user-{number}")).expect("a good uid")
}

/// A channel whose window of remembered sends is full, with the messages that are in it.
fn full_channel() -> (Channel, Vec<StoredMessage>) {
    let mut channel = Channel::default();
    let messages: Vec<StoredMessage> = (1..=DEDUPE_WINDOW as i64).map(stored).collect();
    for message in &messages {
        let fingerprint = Fingerprint::new(message.from(), message.client_msg_no());
        let position = Position { segment: 1, offset: 4096 };
        assert!(matches!(channel.append(message, position, fingerprint, DEDUPE_WINDOW), Appended::Stored(_)));
        channel.evict_oldest();
    }
    (channel, messages)
}

/// Slot route, channel append and dedupe, home update.
pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    group.throughput(Throughput::Elements(1));
    let table = Table::alone(NodeId(1), 8, 8);
    let (alice, bob) = (uid(1), uid(2));
    group.bench_function("slot route of a pair", |bencher| {
        bencher.iter(|| {
            let channel = ChannelKey::pair(black_box(&alice), black_box(&bob));
            table.preferred(table.slot(channel.key_hash()))
        });
    });

    let (mut channel, messages) = full_channel();
    let mut next = 0u64;
    group.bench_function("channel append, window full", |bencher| {
        let message = &messages[0];
        bencher.iter(|| {
            next += 1;
            let fingerprint = Fingerprint::new("alice", black_box("0123456789abcdef0123456789abcdef_0_3"));
            let position = Position { segment: 1 + (next >> 18) as u32, offset: (next as u32 & 0x3ffff) * 256 };
            let fresh = Fingerprint(fingerprint.0.wrapping_add(next).max(1));
            let appended = channel.append(message, position, fresh, DEDUPE_WINDOW);
            channel.evict_oldest();
            channel.announced(channel.last_seq());
            appended
        });
    });
    let (mut channel, messages) = full_channel();
    group.bench_function("channel append, a repeat", |bencher| {
        let message = &messages[DEDUPE_WINDOW / 2];
        bencher.iter(|| {
            let fingerprint = Fingerprint::new(black_box(message.from()), black_box(message.client_msg_no()));
            channel.append(message, Position { segment: 1, offset: 0 }, fingerprint, DEDUPE_WINDOW)
        });
    });

    let map_state = Chance::new([1; 32], 1).map_state();
    let rows: Vec<ChannelKey> = (0..100).map(|number| ChannelKey::pair(&alice, &uid(number + 10))).collect();
    group.throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("home update, 100 rows", |bencher| {
        let home = || {
            let mut home = Home::new(map_state);
            for channel in &rows {
                home.notice(channel, 1);
            }
            home
        };
        let update = |mut home: Home| {
            for channel in &rows {
                home.notice(black_box(channel), 2);
            }
            home
        };
        bencher.iter_batched(home, update, BatchSize::SmallInput);
    });
    group.finish();
}
