//! Who talks to whom: streams, one for each user and each of its partners. Pure; the same seed gives the same conversations.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::chance::{Chance, Weighted};
use crate::spread::Placed;

/// Draws tried for one partner before a user has fewer of them.
const TRIES_MAX: usize = 64;

/// How partners are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Users 2k and 2k + 1 talk to each other.
    Pairs,
    /// Everybody has some partners, drawn evenly.
    Random,
    /// Everybody has some partners; users of a low number are everybody's partners.
    Zipf {
        /// Rank r has the weight 1 / r^skew.
        skew: f64,
    },
}

/// One user's messages to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Sender.
    pub from: u32,
    /// Recipient.
    pub to: u32,
}

/// All streams, ordered by sender.
#[derive(Clone, Debug, Default)]
pub struct Conversations {
    /// By number.
    pub streams: Vec<Stream>,
    begins: Vec<u32>,
}

impl Conversations {
    fn new(mut streams: Vec<Stream>, users: usize) -> Conversations {
        streams.sort_by_key(|stream| (stream.from, stream.to));
        let begin = |user: usize| streams.partition_point(|stream| (stream.from as usize) < user) as u32;
        let begins = (0..=users).map(begin).collect();
        Conversations { streams, begins }
    }

    /// Numbers of the streams that a user sends.
    pub fn of(&self, user: u32) -> Range<usize> {
        self.begins[user as usize] as usize..self.begins[user as usize + 1] as usize
    }

    /// Nobody says anything.
    pub fn silence(users: usize) -> Conversations {
        Conversations::new(Vec::new(), users)
    }

    /// Each of the first half sends to one of the second half, who never answers.
    pub fn one_way(senders: usize) -> Conversations {
        let stream = |user: usize| Stream { from: user as u32, to: (senders + user) as u32 };
        Conversations::new((0..senders).map(stream).collect(), 2 * senders)
    }

    /// By pattern. `peers` is for all but pairs; `cross` is the share of partners that are at another address, where it matters.
    pub fn draw(pattern: Pattern, users: &[Placed], peers: usize, cross: Option<f64>, seed: u64) -> Conversations {
        let count = users.len();
        let weights = match pattern {
            Pattern::Pairs => {
                let stream = |user: usize| Stream { from: user as u32, to: (user ^ 1) as u32 };
                return Conversations::new((0..count).map(stream).collect(), count);
            }
            Pattern::Random => None,
            Pattern::Zipf { skew } => Some(Weighted::zipf(count, skew)),
        };
        let mut chance = Chance::new(seed, 1);
        let mut streams = Vec::new();
        for user in 0..count {
            let mut partners = BTreeSet::new();
            for _ in 0..peers {
                let crosses = cross.map(|share| chance.unit() < share);
                for _ in 0..TRIES_MAX {
                    let partner = match &weights {
                        None => chance.below(count),
                        Some(weights) => weights.draw(&mut chance),
                    };
                    let fits = crosses.is_none_or(|crosses| crosses == (users[partner].address != users[user].address));
                    if partner != user && fits && partners.insert(partner) {
                        break;
                    }
                }
            }
            streams.extend(partners.into_iter().map(|to| Stream { from: user as u32, to: to as u32 }));
        }
        Conversations::new(streams, count)
    }

    /// Streams between two addresses.
    pub fn crossing(&self, users: &[Placed]) -> usize {
        let crosses = |stream: &&Stream| users[stream.from as usize].address != users[stream.to as usize].address;
        self.streams.iter().filter(crosses).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn users(count: usize) -> Vec<Placed> {
        let address = |number: usize| SocketAddr::from(([127, 0, 0, 1 + (number % 2) as u8], 1));
        (0..count).map(|number| Placed { name: format!("u{number}"), address: address(number) }).collect()
    }

    #[test]
    fn pairs_talk_to_each_other() {
        let talks = Conversations::draw(Pattern::Pairs, &users(4), 9, None, 1);
        assert_eq!(
            talks.streams.iter().map(|stream| (stream.from, stream.to)).collect::<Vec<_>>(),
            [(0, 1), (1, 0), (2, 3), (3, 2)]
        );
        assert_eq!(talks.of(2), 2..3);
    }

    #[test]
    fn everybody_has_partners_and_none_is_itself() {
        let users = users(200);
        let talks = Conversations::draw(Pattern::Random, &users, 8, None, 1);
        assert_eq!(talks.streams.len(), 1600);
        assert!(talks.streams.iter().all(|stream| stream.from != stream.to));
        assert!(
            (0..200)
                .all(|user| talks.of(user).len() == 8
                    && talks.streams[talks.of(user)].iter().all(|one| one.from == user))
        );
        assert_eq!(talks.streams, Conversations::draw(Pattern::Random, &users, 8, None, 1).streams, "the seed decides");
        assert_ne!(talks.streams, Conversations::draw(Pattern::Random, &users, 8, None, 2).streams);
    }

    #[test]
    fn zipf_makes_some_popular_and_cross_is_the_share_asked_for() {
        let users = users(200);
        let talks = Conversations::draw(Pattern::Zipf { skew: 1.0 }, &users, 8, None, 1);
        let to = |user: u32| talks.streams.iter().filter(|stream| stream.to == user).count();
        assert!(to(0) > 4 * to(50), "{} and {}", to(0), to(50));
        let talks = Conversations::draw(Pattern::Random, &users, 8, Some(0.25), 1);
        let share = talks.crossing(&users) as f64 / talks.streams.len() as f64;
        assert!((0.2..0.3).contains(&share), "{share}");
    }
}
