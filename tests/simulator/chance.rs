//! Chance by purpose: each part of the simulation draws from a stream of its own, so that a new draw in one does not
//! move the others. A stream is named by the seed and a salt. Nothing else here is random.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One stream of draws.
pub struct Chance {
    stream: ChaCha8Rng,
}

impl Chance {
    /// The stream of a seed for one purpose.
    pub fn new(seed: u64, purpose: &str) -> Chance {
        let mut key = [0u8; 32];
        for (index, part) in key.chunks_exact_mut(8).enumerate() {
            let salted = xxh3_64_with_seed(purpose.as_bytes(), seed.wrapping_add((index as u64) << 56));
            part.copy_from_slice(&salted.to_le_bytes());
        }
        Chance { stream: ChaCha8Rng::from_seed(key) }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // The bias of the multiplication is below 2^-32 for the small bounds of a simulation.
        ((u128::from(self.stream.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has nothing to draw");
        low + self.below(high - low + 1)
    }

    /// True in `permille` of a thousand draws.
    pub fn permille(&mut self, permille: u32) -> bool {
        self.below(1000) < u64::from(permille)
    }

    /// True once in `count` draws.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A span from `low` to `high` microseconds.
    pub fn span_us(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_nanos(self.between(low * 1000, high * 1000))
    }

    /// A span from `low` to `high` milliseconds.
    pub fn span_ms(&mut self, low: u64, high: u64) -> Duration {
        self.span_us(low * 1000, high * 1000)
    }

    /// Thirty-two bytes, for seeds and keys.
    pub fn bytes32(&mut self) -> [u8; 32] {
        let mut out = [0u8; 32];
        self.stream.fill_bytes(&mut out);
        out
    }

    /// Bytes of no meaning.
    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut out = vec![0u8; length];
        self.stream.fill_bytes(&mut out);
        out
    }
}

/// The streams of one simulation.
pub struct Chances {
    /// Latency, splitting, which shard accepts.
    pub network: Chance,
    /// Latency and what a crash leaves.
    pub disk: Chance,
    /// When what goes wrong.
    pub faults: Chance,
    /// What users do.
    pub workload: Chance,
    /// Seeds of the shards.
    pub engine: Chance,
    /// What happens on the network between nodes.
    pub links: Chance,
    /// When what goes wrong between nodes.
    pub outages: Chance,
    /// What an operator asks over the HTTP API.
    pub operator: Chance,
}

impl Chances {
    /// All of them, from the one seed.
    pub fn new(seed: u64) -> Chances {
        Chances {
            network: Chance::new(seed, "network"),
            disk: Chance::new(seed, "disk"),
            faults: Chance::new(seed, "faults"),
            workload: Chance::new(seed, "workload"),
            engine: Chance::new(seed, "engine"),
            links: Chance::new(seed, "links"),
            outages: Chance::new(seed, "outages"),
            operator: Chance::new(seed, "operator"),
        }
    }
}
