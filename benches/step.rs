//! A whole shard's turn: so many SENDs go in at once, and every one is acknowledged, delivered and acknowledged back. The time
//! is the engine's share of a message's life; bytes, sockets and disk come on top.

use criterion::{BatchSize, Criterion, Throughput};

use crate::one_shard::OneShard;

/// Enough users that a batch is spread over many channels.
const USERS: u32 = 64;

/// Steps of 1, 10, 100 and 1000 messages.
pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard step");
    for messages in [1u32, 10, 100, 1000] {
        group.throughput(Throughput::Elements(u64::from(messages)));
        let shard = std::cell::RefCell::new(OneShard::with_users(USERS));
        group.bench_function(format!("{messages} messages"), |bencher| {
            bencher.iter_batched(
                || shard.borrow_mut().queue_sends(messages),
                |()| {
                    let mut shard = shard.borrow_mut();
                    let before = (shard.delivered, shard.acknowledged);
                    shard.turns_until_rest();
                    let expected = u64::from(messages);
                    assert_eq!((shard.delivered - before.0, shard.acknowledged - before.1), (expected, expected));
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}
