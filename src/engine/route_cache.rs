//! Where a channel's leader was told that its members' sessions are, so that it can send them what they are to receive without the way round
//! by their homes. Kept where it saves that way: the home is on another node than the leader, and sessions are on other nodes than the home.
//! A hint, bounded, and never the truth, which is the home's: an entry is used under the mark that the home gave it, and a home whose mark is
//! another one by then sends for itself. Knows no frames, no rows and no sessions of its own.
//!
//! ```text
//!              talks often                told of some away              told of none away, gateway lost, home elsewhere
//!  unknown ───────────────────► asked ───────────────────► straight ─────────────────────────────────────► unknown or asked
//!     ▲                           │ told of none away, or no answer: asked again after `route_ask_every`
//!     └── at `cached_routes_max` the one asked for longest ago gives way, if that is `route_ask_every` ago; else nobody is asked
//! ```
//!
//! All slots of a shard together have `cached_routes_shard_max`. At it a slot's newcomer pushes out one of its own, and of the slot that
//! has the most, the older half of those asked for `route_ask_every` ago is given up every so often, so that others find room.

use std::collections::VecDeque;

use super::chance::{MapState, SeededMap};
use crate::ids::{Place, SessionAddress};
use crate::limits::Limits;
use crate::time::Instant;

/// A member of a channel: the channel's number in its slot, and which of its two members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// In its slot.
    pub channel: u32,
    /// First or second.
    pub place: u8,
}

impl Member {
    fn key(self) -> u64 {
        u64::from(self.channel) << 1 | u64::from(self.place & 1)
    }
}

/// What is known of one member.
#[derive(Debug)]
pub struct KnownRoute {
    /// Where the home was led when it was asked.
    pub home: Place,
    /// The home's name for what it said.
    pub mark: u32,
    /// Sessions on other nodes than the home's. None: the home is asked again some time.
    pub away: Vec<SessionAddress>,
    /// The home has sessions on its own node too, to which it sends.
    pub others: bool,
    /// The home is to be told at the end of the turn what was sent straight.
    pub noticing: bool,
    since: Instant,
}

/// What to do with a message for a member.
#[derive(Debug)]
pub enum Advice<'a> {
    /// The home sends it.
    ByHome,
    /// The home sends it, and is asked where the sessions are.
    Ask,
    /// It goes straight to those.
    Straight(&'a mut KnownRoute),
}

/// One slot's.
#[derive(Debug)]
pub struct RouteCache {
    known: SeededMap<u64, KnownRoute>,
    /// Every key of `known`, the one asked for longest ago first.
    order: VecDeque<u64>,
    /// So many there may be, for the sake of the shard's other slots.
    allowed: usize,
}

impl RouteCache {
    /// Nothing known.
    #[must_use]
    pub fn new(map_state: MapState) -> RouteCache {
        RouteCache { known: SeededMap::with_hasher(map_state), order: VecDeque::new(), allowed: usize::MAX }
    }

    /// Number of members of whom something is known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// From now on there may be so many more than there are.
    pub fn allow(&mut self, more: usize) {
        self.allowed = self.known.len().saturating_add(more);
    }

    /// Others need room: the older half of those that were not asked for lately is forgotten.
    pub fn yield_half(&mut self, now: Instant, limits: &Limits) {
        let late =
            |key: &&u64| self.known.get(*key).is_some_and(|route| now.since(route.since) >= limits.route_ask_every);
        let count = self.order.iter().take_while(late).count().div_ceil(2);
        for key in self.order.drain(..count) {
            self.known.remove(&key);
        }
    }

    /// How a message is to go to a member whose home is led at `home`. `often`: the channel has had another one lately.
    pub fn advice(
        &mut self,
        member: Member,
        (home, often): (Place, bool),
        now: Instant,
        limits: &Limits,
    ) -> Advice<'_> {
        let key = member.key();
        let usable = |route: &KnownRoute| route.home == home && !route.away.is_empty();
        if self.known.get(&key).is_some_and(usable) {
            return self.known.get_mut(&key).map_or(Advice::ByHome, Advice::Straight);
        }
        if !often || limits.cached_routes_max == 0 {
            return Advice::ByHome;
        }
        let late = |route: &KnownRoute| now.since(route.since) >= limits.route_ask_every;
        match self.known.get(&key) {
            Some(route) if route.home == home && !late(route) => return Advice::ByHome,
            Some(_) => self.order.retain(|known| *known != key),
            None if self.known.len() < limits.cached_routes_max.min(self.allowed) => {}
            None => {
                // Of more pairs than are remembered each would push out another one, and all of them would only ask.
                let oldest = self.order.front().copied();
                let Some(oldest) = oldest.filter(|oldest| self.known.get(oldest).is_some_and(late)) else {
                    return Advice::ByHome;
                };
                self.order.pop_front();
                self.known.remove(&oldest);
            }
        }
        let route = KnownRoute { home, mark: 0, away: Vec::new(), others: true, noticing: false, since: now };
        self.known.insert(key, route);
        self.order.push_back(key);
        Advice::Ask
    }

    /// A route as it is known; `None` when it is not.
    pub fn route_mut(&mut self, member: Member) -> Option<&mut KnownRoute> {
        self.known.get_mut(&member.key())
    }

    /// A home says where a member's sessions are. Counts for what it was asked, or has just been told under another mark.
    pub fn learn(&mut self, member: Member, home: Place, told: (u32, Vec<SessionAddress>, bool)) {
        let Some(route) = self.known.get_mut(&member.key()) else { return };
        if route.home == home {
            (route.mark, route.away, route.others) = told;
        }
    }

    /// What is sent to a gateway shard may be lost, or its sessions are gone: the way by the home is surer.
    pub fn forget_gateway(&mut self, gateway: Place) {
        let concerned = |route: &KnownRoute| route.away.iter().any(|address| address.place == gateway);
        if self.known.values().any(concerned) {
            self.known.retain(|_, route| !concerned(route));
            self.order.retain(|key| self.known.contains_key(key));
        }
    }

    /// Forgets everything: the slot is led anew, or its channels have other numbers.
    pub fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self, limits: &Limits) {
        assert!(self.known.len() <= limits.cached_routes_max, "too many routes are remembered");
        assert_eq!(self.known.len(), self.order.len(), "every route has its turn to give way");
        assert!(self.known.values().all(|route| !route.noticing), "who sends straight tells the home in the same turn");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::chance::Chance;
    use crate::ids::{NodeId, SessionId, ShardId};
    use std::time::Duration;

    fn place(node: u16) -> Place {
        Place { node: NodeId(node), shard: ShardId(0) }
    }

    fn session(node: u16) -> SessionAddress {
        SessionAddress { place: place(node), session: SessionId { index: 1, generation: 1 } }
    }

    fn cache() -> RouteCache {
        RouteCache::new(Chance::new([1; 32], 0).map_state())
    }

    fn member(channel: u32) -> Member {
        Member { channel, place: 1 }
    }

    fn straight(cache: &mut RouteCache, channel: u32, home: u16, now: Instant) -> Option<u32> {
        match cache.advice(member(channel), (place(home), false), now, &Limits::TINY) {
            Advice::Straight(route) => Some(route.mark),
            _ => None,
        }
    }

    fn asks(cache: &mut RouteCache, channel: u32, home: u16, now: Instant) -> bool {
        matches!(cache.advice(member(channel), (place(home), true), now, &Limits::TINY), Advice::Ask)
    }

    #[test]
    fn who_talks_often_is_asked_for_once_and_then_goes_straight() {
        let (mut cache, now) = (cache(), Instant(5));
        assert_eq!(straight(&mut cache, 0, 2, now), None, "once is not often");
        assert!(asks(&mut cache, 0, 2, now));
        assert!(!asks(&mut cache, 0, 2, now), "the question is under way");
        cache.learn(member(0), place(2), (7, vec![session(3)], false));
        assert_eq!(straight(&mut cache, 0, 2, now), Some(7));
        assert_eq!(straight(&mut cache, 0, 1, now), None, "the home is led elsewhere");
        cache.learn(member(0), place(2), (8, Vec::new(), true));
        assert_eq!(straight(&mut cache, 0, 2, now), None, "nobody is away");
        let later = now + Limits::TINY.route_ask_every + Duration::from_millis(1);
        assert!(!asks(&mut cache, 0, 2, now) && asks(&mut cache, 0, 2, later));
        cache.learn(member(0), place(3), (9, vec![session(1)], false));
        assert_eq!(straight(&mut cache, 0, 3, later), None, "only the home that was asked knows");
        cache.check_invariants(&Limits::TINY);
    }

    #[test]
    fn it_is_bounded_and_forgets_gateways() {
        let (mut cache, now) = (cache(), Instant(5));
        let most = Limits::TINY.cached_routes_max as u32;
        let later = now + Limits::TINY.route_ask_every;
        for channel in 0..=most {
            let newcomer = channel == most;
            assert_eq!(asks(&mut cache, channel, 2, now), !newcomer, "nobody gives way so soon");
            assert!(!newcomer || asks(&mut cache, channel, 2, later));
            cache.learn(member(channel), place(2), (7, vec![session(3 + channel as u16 % 2)], false));
            cache.check_invariants(&Limits::TINY);
        }
        assert_eq!(straight(&mut cache, 0, 2, now), None, "the one asked for longest ago has given way");
        assert_eq!(straight(&mut cache, most, 2, now), Some(7));
        assert_eq!(cache.len(), most as usize);
        cache.forget_gateway(place(3));
        cache.check_invariants(&Limits::TINY);
        for channel in 1..=most {
            assert_eq!(straight(&mut cache, channel, 2, now).is_some(), channel % 2 == 1);
        }
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn it_keeps_to_what_the_shard_has_left() {
        let (mut cache, now) = (cache(), Instant(5));
        let later = now + Limits::TINY.route_ask_every;
        cache.allow(0);
        assert!(!asks(&mut cache, 0, 2, now), "there is nothing left");
        cache.allow(2);
        assert!(asks(&mut cache, 0, 2, now) && asks(&mut cache, 1, 2, now) && !asks(&mut cache, 2, 2, now));
        cache.allow(0);
        assert!(asks(&mut cache, 2, 2, later), "one of its own gives way");
        assert_eq!(cache.len(), 2);
        cache.allow(2);
        assert!(asks(&mut cache, 3, 2, later));
        cache.yield_half(later, &Limits::TINY);
        assert_eq!(cache.len(), 2, "only one of them is old");
        assert!(cache.route_mut(member(1)).is_none() && cache.route_mut(member(2)).is_some());
        cache.check_invariants(&Limits::TINY);
    }
}
