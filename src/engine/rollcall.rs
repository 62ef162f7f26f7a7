//! A new leader's question to every gateway: which sessions of my slot do you have? Until all have answered, or are down, or have taken too
//! long, it does not say who is online. Knows no sessions.
//!
//! ```text
//!  begin ──► open ──(every gateway has answered or is down)──► complete
//!              └──(rollcall_patience)───────────────────────────►┘
//!   complete ──(a gateway begins to say all once more, or its link was reset)──► open
//! ```

use std::collections::BTreeSet;

use crate::ids::{NodeId, Place};
use crate::time::Instant;

/// One slot's.
#[derive(Debug, Default)]
pub struct Rollcall {
    missing: BTreeSet<Place>,
    until: Option<Instant>,
}

impl Rollcall {
    /// Asks everybody anew.
    pub fn begin(&mut self, gateways: impl Iterator<Item = Place>, until: Instant) {
        self.missing = gateways.collect();
        assert!(!self.missing.is_empty(), "the leader's own shard is a gateway too");
        self.until = Some(until);
    }

    /// A gateway begins to say everything once more, or is to: what it had said is forgotten.
    pub fn begins_again(&mut self, gateway: Place, until: Instant) {
        self.missing.insert(gateway);
        self.until = Some(until);
    }

    /// A gateway has said everything.
    pub fn answered(&mut self, gateway: Place) {
        self.missing.remove(&gateway);
    }

    /// A node is down: it has no sessions.
    pub fn down(&mut self, node: NodeId) {
        self.missing.retain(|place| place.node != node);
    }

    /// True when the leader knows who is online.
    #[must_use]
    pub fn is_complete(&self, now: Instant) -> bool {
        self.missing.is_empty() || self.until.is_none_or(|until| now >= until)
    }

    /// Gateways that have not answered.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    #[test]
    fn it_is_complete_when_everybody_has_spoken_or_cannot() {
        let place = |node, shard| Place { node: NodeId(node), shard: ShardId(shard) };
        let mut rollcall = Rollcall::default();
        assert!(rollcall.is_complete(Instant(0)));
        rollcall.begin([place(1, 0), place(2, 0), place(2, 1)].into_iter(), Instant(100));
        rollcall.answered(place(1, 0));
        assert!(!rollcall.is_complete(Instant(99)) && rollcall.is_complete(Instant(100)));
        rollcall.down(NodeId(2));
        assert!(rollcall.is_complete(Instant(1)) && rollcall.missing() == 0);
        rollcall.begins_again(place(1, 0), Instant(200));
        assert!(!rollcall.is_complete(Instant(199)) && rollcall.is_complete(Instant(200)));
        rollcall.answered(place(1, 0));
        assert!(rollcall.is_complete(Instant(1)));
    }
}
