//! The shard's side of the cluster: who leads what, and what that means for what is under way here.

use crate::engine::effect::Effects;
use crate::engine::event::Event;
use crate::engine::routes::Learned;
use crate::format::frame::{Frame, LeaderOf, Leaders};
use crate::format::packet::Reason;
use crate::ids::{Place, ShardId, SlotId};
use crate::time::Now;

use super::Shard;

impl Shard {
    pub(super) fn handle_cluster_event(&mut self, _now: Now, _event: Event, _effects: &mut Effects) {}

    pub(super) fn handle_cluster_frame(&mut self, _now: Now, _from: Place, frame: Frame, effects: &mut Effects) {
        if let Frame::Leaders(leaders) = frame {
            for leader in leaders.known {
                self.learn_leader(leader, effects);
            }
        }
    }

    /// Tells a shard who leads a slot, as far as this one knows.
    pub(super) fn tell_leader(&mut self, slot: SlotId, to: Place) {
        let place = self.routes.leader(slot).map(|(_, place)| place);
        let known = vec![LeaderOf { slot, term: self.routes.term(slot), place }];
        self.out.frame(to, Frame::Leaders(Leaders { known, relay: false }));
    }

    /// Somebody leads, says somebody: what waits for that goes on.
    pub(super) fn learn_leader(&mut self, leader: LeaderOf, effects: &mut Effects) {
        if self.routes.learn(leader.slot, leader.term, leader.place) == Learned::NewLeader {
            self.send_again(leader.slot, effects);
        }
    }

    /// Slots that have begun to be led here, or ceased to.
    pub(super) fn follow_leaderships(&mut self, effects: &mut Effects) {
        let mut known = Vec::new();
        for (slot, led) in std::mem::take(&mut self.leadership_changes) {
            let Some(term) = led else { continue };
            let leader = LeaderOf { slot, term, place: Some(self.config.place) };
            self.learn_leader(leader, effects);
            known.push(leader);
        }
        if known.is_empty() {
            return;
        }
        for shard in (0..self.config.shard_count).map(ShardId).filter(|shard| *shard != self.config.place.shard) {
            let to = Place { shard, ..self.config.place };
            self.out.frame(to, Frame::Leaders(Leaders { known: known.clone(), relay: false }));
        }
    }

    /// Sends everything again that waits for a slot's leader.
    fn send_again(&mut self, slot: SlotId, effects: &mut Effects) {
        let Some((term, place)) = self.routes.leader(slot) else {
            return;
        };
        let (mut send, mut failed) = (Vec::new(), Vec::new());
        self.submits.send_again(slot, term, &mut send, &mut failed);
        for submission in send {
            self.out.frame(place, Frame::Submit(submission));
        }
        for origin in failed {
            self.answer_origin(origin, (0, 0, Reason::SystemError as u8), effects);
        }
        for number in self.asks.of_slot(slot) {
            self.send_ask(number);
        }
    }
}
