//! Chance of the generator: one seed gives the same choices again on every machine. It is no cryptography, and servers never see it.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The same seed and stream give the same numbers; other streams of a seed are independent of it.
    pub fn new(seed: u64, stream: u64) -> Chance {
        let mut chance = Chance(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        chance.next();
        chance
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `count` - 1; `count` is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    /// From 0 to almost 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Time to the next arrival of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// Draws an index by weight.
#[derive(Clone, Debug)]
pub struct Weighted {
    cumulative: Vec<f64>,
}

impl Weighted {
    /// Weights are not negative, and not all 0.
    pub fn new(weights: impl Iterator<Item = f64>) -> Weighted {
        let sum = |sum: &mut f64, weight: f64| {
            *sum += weight;
            Some(*sum)
        };
        Weighted { cumulative: weights.scan(0.0, sum).collect() }
    }

    /// Rank r, from 1, has the weight 1 / r^skew.
    pub fn zipf(ranks: usize, skew: f64) -> Weighted {
        Weighted::new((1..=ranks).map(|rank| (rank as f64).powf(-skew)))
    }

    /// An index.
    pub fn draw(&self, chance: &mut Chance) -> usize {
        let all = self.cumulative.last().copied().unwrap_or(0.0);
        let at = chance.unit() * all;
        self.cumulative.partition_point(|sum| *sum <= at).min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draw = |seed, stream| {
            let mut chance = Chance::new(seed, stream);
            [chance.next(), chance.next()]
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert!(draw(1, 1) != draw(2, 1) && draw(1, 1) != draw(1, 2));
    }

    #[test]
    fn draws_have_the_mean_that_they_should() {
        let mut chance = Chance::new(7, 0);
        let count = 100_000;
        let mean = (0..count).map(|_| chance.exponential()).sum::<f64>() / f64::from(count);
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let mean = (0..count).map(|_| chance.below(11) as f64).sum::<f64>() / f64::from(count);
        assert!((mean - 5.0).abs() < 0.05, "{mean}");
    }

    #[test]
    fn zipf_gives_the_first_rank_its_share() {
        let (zipf, mut chance) = (Weighted::zipf(3, 1.0), Chance::new(3, 0));
        let mut seen = [0u32; 3];
        (0..110_000).for_each(|_| seen[zipf.draw(&mut chance)] += 1);
        // 1 : 1/2 : 1/3 is 60 : 30 : 20 of 110.
        for (seen, expected) in seen.iter().zip([60_000.0f64, 30_000.0, 20_000.0]) {
            assert!((f64::from(*seen) / expected - 1.0).abs() < 0.05, "{seen} instead of {expected}");
        }
    }
}
