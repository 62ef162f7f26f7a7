//! Any bytes as a gossip datagram whose seal has been taken off, and as one that arrives at a node, sealed rightly and not:
//! refused or not, never a panic, and never more nodes remembered than allowed.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz gossip`.
#![no_main]

use std::net::SocketAddr;

use jindou::engine::chance::Chance;
use jindou::engine::gossip::wire::{SEAL_BYTES, Seal, decode};
use jindou::engine::gossip::{Gossip, GossipConfig, GossipLimits};
use jindou::ids::NodeId;
use jindou::time::Instant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let decoded = decode(input);
    let address = SocketAddr::from(([127, 0, 0, 1], 7000));
    let limits = GossipLimits { members_max: 4, ..GossipLimits::PRODUCTION };
    let config = GossipConfig {
        here: NodeId(1),
        boot: 0,
        address,
        seeds: Vec::new(),
        cluster_name: "fuzz".to_owned(),
        secret: b"fuzz".to_vec(),
        limits,
    };
    let seal = Seal::new(&config.secret, &config.cluster_name);
    let mut gossip = Gossip::new(config, Chance::new([1; 32], 0));
    gossip.handle_datagram(Instant(1), address, input);
    let mut sealed = vec![0; SEAL_BYTES];
    sealed.extend_from_slice(input);
    seal.close(&mut sealed);
    gossip.handle_datagram(Instant(2), address, &sealed);
    gossip.fire(Instant(3_000_000_000));
    let counters = gossip.counters();
    assert!(decoded.is_ok() || counters.taken == 0, "what cannot be read is not taken");
    assert!(gossip.view().len() <= limits.members_max);
});
