//! The targets of `tests/fuzz` without the fuzzer, which wants another compiler: so they are compiled with every change, and each takes
//! some bytes. What they promise is said in them.

use proptest::prelude::*;

#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/frame.rs"]
mod frame;
#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/gossip.rs"]
mod gossip;
#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/link_hello.rs"]
mod link_hello;
#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/packet.rs"]
mod packet;
#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/record.rs"]
mod record;
#[allow(unused_attributes)] // `no_main` is for the fuzzer.
#[path = "../fuzz/fuzz_targets/websocket.rs"]
mod websocket;

/// Random bytes, and the same ones again and again, which lengths of zero and of a lot are made of.
fn input() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..600usize).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

proptest! {
    #[test]
    fn every_fuzz_target_takes_any_bytes(input in input()) {
        frame::run(&input);
        gossip::run(&input);
        link_hello::run(&input);
        packet::run(&input);
        record::run(&input);
        websocket::run(&input);
    }
}
