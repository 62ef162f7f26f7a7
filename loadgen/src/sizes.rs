//! How big payloads are: one size, or a mix by weight (`64:70,512:25,4096:5`).

use std::str::FromStr;

use crate::chance::{Chance, Weighted};
use crate::verify::PAYLOAD_BYTES_MIN;

/// The mix.
#[derive(Clone, Debug)]
pub struct Sizes {
    sizes: Vec<usize>,
    weights: Weighted,
}

impl Sizes {
    /// Bytes of the next payload.
    pub fn draw(&self, chance: &mut Chance) -> usize {
        match self.sizes[..] {
            [only] => only,
            _ => self.sizes[self.weights.draw(chance)],
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let most = jindou::limits::PAYLOAD_BYTES_MAX;
        let (mut sizes, mut weights) = (Vec::new(), Vec::new());
        for one in text.split(',') {
            let (size, weight) = one.split_once(':').unwrap_or((one, "1"));
            let fault =
                || format!("--size {text}: write bytes, or bytes:weight with commas between, such as 64:70,512:30");
            let size: usize = size.trim().parse().map_err(|_| fault())?;
            let weight: f64 = weight.trim().parse().ok().filter(|weight| *weight > 0.0).ok_or_else(fault)?;
            if !(PAYLOAD_BYTES_MIN..=most).contains(&size) {
                return Err(format!("--size {size}: allowed are {PAYLOAD_BYTES_MIN} to {most} bytes"));
            }
            sizes.push(size);
            weights.push(weight);
        }
        Ok(Sizes { sizes, weights: Weighted::new(weights.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_the_shares_that_it_says() {
        let sizes: Sizes = "64:3,512".parse().expect("it is right");
        let mut chance = Chance::new(1, 0);
        let small = (0..40_000).filter(|_| sizes.draw(&mut chance) == 64).count();
        assert!((29_000..31_000).contains(&small), "{small}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (text, word) in
            [("4", "allowed are"), ("99999", "allowed are"), ("x", "write bytes"), ("64:-1", "write bytes")]
        {
            let fault = text.parse::<Sizes>().expect_err("it is wrong");
            assert!(fault.contains(word), "{fault}");
        }
    }
}
