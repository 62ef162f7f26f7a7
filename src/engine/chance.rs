//! All randomness of a shard, drawn from one seed that the shell (or the simulator) gives. Also the seeded hasher for
//! maps whose keys strangers choose: with the seed unknown, nobody can aim keys at one bucket. Such maps are looked
//! up, never walked where the order would show.

use std::hash::{BuildHasher, Hasher};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A stream of chance.
#[derive(Debug)]
pub struct Chance {
    stream: ChaCha8Rng,
}

impl Chance {
    /// A stream of its own for each `purpose`, so that a draw more in one does not shift the others.
    #[must_use]
    pub fn new(seed: [u8; 32], purpose: u64) -> Chance {
        let mut stream = ChaCha8Rng::from_seed(seed);
        stream.set_stream(purpose);
        Chance { stream }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number from `low` to below `high`.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "an empty range has no number");
        low + self.stream.next_u64() % (high - low)
    }

    /// A hasher state for one map.
    pub fn map_state(&mut self) -> MapState {
        MapState(self.number())
    }
}

/// Builds [`KeyHasher`]s.
#[derive(Clone, Copy, Debug)]
pub struct MapState(u64);

impl BuildHasher for MapState {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

/// xxh3 over what is written, chained.
#[derive(Debug)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    // `str` ends with one byte and enums begin with one word: mixing is enough, another xxh3 round would be waste.
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        // The table takes its tag from the top bits and its bucket from the low ones: fold them.
        self.0 ^ (self.0 >> 32)
    }
}

/// A map with keys from outside.
pub type SeededMap<K, V> = hashbrown::HashMap<K, V, MapState>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_do_not_shift_each_other() {
        let seed = [7; 32];
        let mut one = Chance::new(seed, 1);
        let first = one.number();
        let mut two = Chance::new(seed, 2);
        assert_ne!(first, two.number());
        assert_eq!(first, Chance::new(seed, 1).number());
    }

    #[test]
    fn a_borrowed_key_finds_what_an_owned_one_stored() {
        let mut map = SeededMap::with_hasher(Chance::new([1; 32], 0).map_state());
        map.insert(crate::ids::Uid::parse("alice").unwrap(), 1);
        assert_eq!(map.get("alice"), Some(&1));
        assert_eq!(map.get("bob"), None);
    }
}
