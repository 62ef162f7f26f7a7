//! Where unpredictable bytes come from: the kernel once per shard, stretched by `ChaCha20`. Keys and salts of client sessions are
//! drawn here; the engine gets a seed of its own. Deliberately no access from the engine, whose chance must replay.

use std::io::{self, Read};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// What a salt is made of. WKProto's salts are letters and digits.
const SALT_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Secrets of one shard.
pub struct Secrets {
    stream: ChaCha20Rng,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// 32 bytes from the kernel.
///
/// # Errors
/// When `/dev/urandom` cannot be read.
pub fn kernel_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

impl Secrets {
    /// A stream of its own, seeded by the kernel.
    ///
    /// # Errors
    /// As [`kernel_seed`].
    pub fn from_kernel() -> io::Result<Secrets> {
        Ok(Secrets { stream: ChaCha20Rng::from_seed(kernel_seed()?) })
    }

    /// Fills a key.
    #[must_use]
    pub fn key(&mut self) -> [u8; 32] {
        let mut key = [0u8; 32];
        self.stream.fill_bytes(&mut key);
        key
    }

    /// 16 letters and digits, as CONNACK carries the initial vector.
    #[must_use]
    pub fn salt(&mut self) -> [u8; 16] {
        let mut salt = [0u8; 16];
        let mut filled = 0;
        while filled < salt.len() {
            // Six bits choose; the two values without a letter are thrown away, so that no letter is likelier.
            let choice = (self.stream.next_u32() & 63) as usize;
            if let Some(&letter) = SALT_ALPHABET.get(choice) {
                salt[filled] = letter;
                filled += 1;
            }
        }
        salt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_salts_are_letters_and_digits() {
        let mut a = Secrets::from_kernel().unwrap();
        let mut b = Secrets::from_kernel().unwrap();
        assert_ne!(a.key(), b.key());
        assert_ne!(a.key(), a.key());
        for _ in 0..100 {
            assert!(a.salt().iter().all(u8::is_ascii_alphanumeric));
        }
    }
}
