//! What people were told lately, so that what goes on and on is said once a minute. Does not say anything itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;

/// Different things that are remembered. At it: further ones are not told.
pub const TELLINGS_MAX: usize = 64;

/// Between two tellings of one thing.
pub const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What was told, and when.
#[derive(Debug)]
pub struct Tellings<K> {
    told: BTreeMap<K, Instant>,
}

impl<K> Default for Tellings<K> {
    fn default() -> Tellings<K> {
        Tellings { told: BTreeMap::new() }
    }
}

impl<K: Ord> Tellings<K> {
    /// Whether it is to be told now; then it is not for a while.
    pub fn is_due(&mut self, now: Instant, key: K) -> bool {
        self.told.retain(|_, told| now.since(*told) < TOLD_EVERY);
        let due = self.told.len() < TELLINGS_MAX && !self.told.contains_key(&key);
        if due {
            self.told.insert(key, now);
        }
        due
    }

    /// What must always hold between two calls.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        assert!(self.told.len() <= TELLINGS_MAX, "what is remembered is bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_once_a_minute_and_only_so_many() {
        let mut tellings = Tellings::default();
        let at = |seconds: u64| Instant(0) + Duration::from_secs(seconds);
        assert!(tellings.is_due(at(1), 7) && !tellings.is_due(at(60), 7) && tellings.is_due(at(61), 7));
        let told = (0..1000).filter(|key| tellings.is_due(at(62), *key)).count();
        assert_eq!(told, TELLINGS_MAX - 1);
        tellings.check_invariants();
        assert!(tellings.is_due(at(200), 2000));
    }
}
