//! The shard's side of leadership: who leads what, and what that means for whatever is under way here: messages and requests that wait, sessions
//! whose homes have moved, homes whose gateways must be asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::cluster_news;
use crate::engine::devices::{self, Conflict};
use crate::engine::effect::Effects;
use crate::engine::home::Online;
use crate::engine::metadata::SlotRow;
use crate::engine::routes::Learned;
use crate::engine::session::Phase;
use crate::engine::submits;
use crate::format::frame::{Frame, LeaderOf, Leaders, Present, PresentSession, Submit, WhoLeads};
use crate::format::packet::Reason;
use crate::ids::{NodeId, Place, SessionAddress, ShardId, SlotId};
use crate::time::Now;

use super::{OfflineMode, Shard};

impl Shard {
    // ---- who leads ----

    /// Tells a shard who leads a slot, as far as this one knows.
    pub(super) fn tell_leader(&mut self, slot: SlotId, to: Place) {
        let known = vec![LeaderOf { slot, term: self.term_of(slot), place: self.leader_of(slot) }];
        self.out.frame(to, Frame::Leaders(Leaders { known, relay: false, announced: false }));
    }

    /// Whoever asks about the metadata group has just met this node: it has missed what leaders here have said before.
    pub(super) fn handle_who_leads(&mut self, asked: WhoLeads) {
        self.tell_leader(asked.slot, asked.place);
        if asked.slot == SlotId::METADATA {
            let relay = asked.place.node != self.config.place.node;
            self.announce_leaders(&self.led_here(), asked.place, (relay, false));
        }
    }

    /// This node and others have just met: makes the links by which both hear who leads what. Each shard asks those of whom it would
    /// hear on behalf of its node.
    pub(super) fn meet(&mut self, node: NodeId) {
        let (own, theirs) = (self.config.shard_count.max(1), self.node_shards.get(&node).copied().unwrap_or(1));
        let here = self.config.place.shard.0;
        let mut asked: BTreeSet<Place> = (0..theirs)
            .filter(|shard| shard % own == here)
            .map(|shard| Place { node, shard: ShardId(shard) })
            .collect();
        asked.insert(self.partner_on(node));
        for place in asked {
            self.out.frame(place, Frame::WhoLeads(WhoLeads { slot: SlotId::METADATA, place: self.config.place }));
        }
        self.announce_to_node(node);
    }

    /// Somebody says who leads. The leaders' own word is passed on to the other shards of this node if it is meant for them.
    pub(super) fn handle_leaders(&mut self, leaders: Leaders, effects: &mut Effects) {
        if leaders.relay {
            for shard in self.siblings() {
                let known = leaders.known.clone();
                let leaders = Leaders { known, relay: false, announced: leaders.announced };
                self.out.frame(shard, Frame::Leaders(leaders));
            }
        }
        for leader in leaders.known {
            self.learn_leader(leader, leaders.announced, effects);
        }
    }

    /// What waits for a slot's leader goes on. `announced`: the leader asks for the sessions that are here, known or not.
    fn learn_leader(&mut self, leader: LeaderOf, announced: bool, effects: &mut Effects) {
        if leader.slot == SlotId::METADATA {
            self.learn_metadata_leader(leader);
            return;
        }
        let learned = self.routes.learn(leader.slot, leader.term, leader.place);
        assert!(learned != Learned::Conflict, "two leaders of slot {} in term {}", leader.slot, leader.term);
        let current = self.routes.leader(leader.slot).is_some_and(|(term, _)| term == leader.term);
        if learned == Learned::NewLeader {
            self.send_again(leader.slot, effects);
            self.to_greet.insert(leader.slot);
        } else if announced && current {
            self.to_greet.insert(leader.slot);
        }
    }

    /// The first shard knows who leads the metadata group from the group itself, and tells the others.
    fn learn_metadata_leader(&mut self, leader: LeaderOf) {
        let (term, known) = self.metadata_leader;
        let says_less = leader.term == term && leader.place.is_none() && known.is_some();
        if self.office.is_some() || leader.term < term || says_less {
            return;
        }
        self.metadata_leader = (leader.term, leader.place);
        self.ask_metadata_again();
    }

    /// What operators have asked for goes to whoever leads the metadata group now.
    pub(super) fn ask_metadata_again(&mut self) {
        for number in self.asks.of_slot(SlotId::METADATA) {
            self.send_ask(number);
        }
    }

    /// Slots that have begun to be led here, or ceased to.
    pub(super) fn follow_leaderships(&mut self, now: Now, effects: &mut Effects) {
        let mut known = Vec::new();
        for (slot, led) in std::mem::take(&mut self.leadership_changes) {
            // Of a slot that a sibling takes in, nobody is to know.
            let frozen = self.place_of(slot).is_some_and(|place| self.hosted[place].slot.is_frozen());
            let Some(term) = led.filter(|_| !frozen) else { continue };
            let gateways: Vec<Place> = self.gateways().collect();
            if let Some(place) = self.place_of(slot) {
                let until = now.instant + self.config.limits.rollcall_patience;
                self.hosted[place].rollcall.begin(gateways.into_iter(), until);
            }
            self.out.counters.leaderships += 1;
            known.push(LeaderOf { slot, term, place: Some(self.config.place) });
        }
        if known.is_empty() {
            return;
        }
        for leader in &known {
            self.learn_leader(*leader, true, effects);
        }
        for shard in self.siblings() {
            self.announce_leaders(&known, shard, (false, true));
        }
        for node in self.other_nodes() {
            let partner = self.partner_on(node);
            self.announce_leaders(&known, partner, (true, true));
        }
    }

    /// Says to one node what is led here: its process is a new one, or it was thought to be down.
    pub(super) fn announce_to_node(&mut self, node: NodeId) {
        let partner = self.partner_on(node);
        self.announce_leaders(&self.led_here(), partner, (true, true));
    }

    pub(super) fn led_here(&self) -> Vec<LeaderOf> {
        let place = Some(self.config.place);
        // Of a slot that a sibling takes in, nobody is to know.
        let told = self.hosted.iter().filter(|hosted| !hosted.slot.is_frozen());
        let led = told.filter_map(|hosted| hosted.slot.led_term().map(|term| (hosted.slot.id(), term)));
        led.map(|(slot, term)| LeaderOf { slot, term, place }).collect()
    }

    fn announce_leaders(&mut self, known: &[LeaderOf], to: Place, (relay, announced): (bool, bool)) {
        for some in known.chunks(self.config.limits.leaders_per_frame_max) {
            let leaders = Leaders { known: some.to_vec(), relay, announced };
            self.out.frame(to, Frame::Leaders(leaders));
        }
    }

    /// The other shards of this node.
    pub(super) fn siblings(&self) -> impl Iterator<Item = Place> + use<> {
        let here = self.config.place;
        let shards = (0..self.config.shard_count).map(ShardId).filter(move |shard| *shard != here.shard);
        shards.map(move |shard| Place { shard, ..here })
    }

    /// The shard of another node through which this one speaks to all of its shards.
    pub(super) fn partner_on(&self, node: NodeId) -> Place {
        let shards = self.node_shards.get(&node).copied().unwrap_or(1).max(1);
        Place { node, shard: ShardId(self.config.place.shard.0 % shards) }
    }

    pub(super) fn other_nodes(&self) -> Vec<NodeId> {
        self.node_shards.keys().copied().filter(|node| *node != self.config.place.node).collect()
    }

    /// Every shard that may have sessions, this one included.
    pub(super) fn gateways(&self) -> impl Iterator<Item = Place> + '_ {
        let here = self.config.place;
        let own = (0..self.config.shard_count).map(move |shard| Place { shard: ShardId(shard), ..here });
        let nodes =
            self.node_shards.iter().filter(move |(node, _)| **node != here.node && !self.nodes_down.contains(node));
        own.chain(
            nodes.flat_map(|(node, shards)| (0..*shards).map(|shard| Place { node: *node, shard: ShardId(shard) })),
        )
    }

    // ---- what waits for a leader ----

    /// Sends everything again that waits for a slot's leader.
    fn send_again(&mut self, slot: SlotId, effects: &mut Effects) {
        let Some((term, place)) = self.routes.leader(slot) else {
            return;
        };
        let (mut send, mut failed) = (Vec::new(), Vec::new());
        let mut room = self.submit_room(place);
        self.submits.send_again(slot, (term, &mut room), &mut send, &mut failed);
        self.submit_rooms.insert(place, room);
        self.out.counters.submits_sent_again += send.len() as u64;
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

    /// Bytes of messages and answers that may go to a shard in this step. Half of what a link takes: were all that waits sent at once, it could be
    /// more than a link ever takes, and would reset it again and again.
    fn submit_room(&self, to: Place) -> usize {
        if to.node == self.config.place.node {
            return usize::MAX;
        }
        self.submit_rooms.get(&to).copied().unwrap_or_else(|| self.links.room(to) / 2)
    }

    /// Whether one more message may go to a shard in this step; it is counted.
    pub(super) fn takes_submit(&mut self, to: Place, submit: &Submit) -> bool {
        self.takes_bytes(to, submits::weight(submit))
    }

    /// Whether something of this weight, without which nothing is lost, may go to a shard in this step; it is counted.
    pub(super) fn takes_bytes(&mut self, to: Place, weight: usize) -> bool {
        if to.node == self.config.place.node {
            return true;
        }
        let room = self.submit_room(to);
        let fits = weight <= room;
        self.submit_rooms.insert(to, if fits { room - weight } else { room });
        fits
    }

    /// Messages that were held back for want of room go on.
    fn send_held(&mut self) {
        for (slot, term) in self.submits.held().collect::<Vec<_>>() {
            let Some((_, place)) = self.routes.leader(slot).filter(|(known, _)| *known == term) else { continue };
            let (mut room, mut send) = (self.submit_room(place), Vec::new());
            self.submits.send_more(slot, &mut room, &mut send);
            self.submit_rooms.insert(place, room);
            for submission in send {
                self.out.frame(place, Frame::Submit(submission));
            }
        }
    }

    /// Looks after what has waited too long for a leader to be known, or for an answer.
    pub(super) fn chase_leaders(&mut self, now: Now, effects: &mut Effects) {
        self.send_held();
        let mut unknown: BTreeSet<SlotId> =
            self.submits.leaderless(|slot| self.routes.leader(slot).is_some()).collect();
        // Also of questions that somebody has: it may be one who is forgotten since.
        unknown.extend(self.asks.slots().filter(|slot| self.leader_of(*slot).is_none()));
        for number in self.asks.idle() {
            self.send_ask(number);
        }
        // Not a walk over a quarter of a million sessions five times a second when all of them live.
        let any = self.session_count > self.live_count;
        let sessions = if any { &self.sessions[..] } else { &[] };
        let waiting = sessions.iter().flatten().filter(|session| session.phase == Phase::Registering);
        let slots = waiting.filter_map(|session| session.identity.as_ref().map(|identity| identity.slot));
        unknown.extend(slots.filter(|slot| self.routes.leader(*slot).is_none()));
        // A newcomer has missed what leaders said before it knew them for members.
        let unled = self.hosted.iter().map(|hosted| hosted.slot.id());
        unknown.extend(unled.filter(|slot| self.routes.leader(*slot).is_none()));
        for slot in unknown {
            self.ask_who_leads(slot);
        }
        let began = now.instant.before(self.config.limits.submit_give_up_after);
        let mut failed = Vec::new();
        self.submits.give_up(began, &mut failed);
        for origin in failed {
            self.answer_origin(origin, (0, 0, Reason::SystemError as u8), effects);
        }
        for ticket in self.asks.give_up(began) {
            self.out.answer(ticket, crate::engine::event::ApiAnswer::Busy);
        }
    }

    /// Sessions whose home has not answered for long: asked again, should the question or the answer have been lost.
    pub(super) fn ask_homes_again(&mut self) {
        let waiting = self.sessions.iter().flatten().filter(|session| session.phase == Phase::Registering);
        for id in waiting.map(|session| session.id).collect::<Vec<_>>() {
            self.ask_home(id);
        }
    }

    pub(super) fn ask_who_leads(&mut self, slot: SlotId) {
        let here = self.config.place;
        let asked: Vec<Place> = self
            .routes
            .table()
            .row(slot)
            .into_iter()
            // One that is to vote may lead already.
            .flat_map(SlotRow::voters_and_target)
            .map(|replica| replica.place())
            .filter(|place| *place != here)
            .collect();
        for place in asked {
            self.out.frame(place, Frame::WhoLeads(WhoLeads { slot, place: here }));
        }
    }

    // ---- the new leader's part ----

    /// A gateway names its sessions of slots that are led here.
    pub(super) fn handle_present(&mut self, now: Now, present: &Present) {
        let mut led = BTreeMap::new();
        for (slot, term) in &present.slots {
            if let Some(place) = self.leading(*slot).filter(|place| self.hosted[*place].slot.led_term() == Some(*term))
            {
                led.insert(*slot, place);
            }
        }
        if present.first {
            for place in led.values() {
                self.hosted[*place].slot.forget_gateway(present.place);
                // Until it has named the last one, nobody is said to be away.
                let until = now.instant + self.config.limits.rollcall_patience;
                self.hosted[*place].rollcall.begins_again(present.place, until);
                self.hosted[*place].endings.gateway_begins(present.place);
            }
        }
        for session in &present.sessions {
            let owner = self.leading_of(session.uid.key_hash());
            if let Some(place) = owner.filter(|place| led.contains_key(&self.hosted[*place].slot.id())) {
                self.take_present(place, present.place, session);
            }
        }
        if present.last {
            self.out.counters.rollcall_answers += 1;
            for place in led.values() {
                self.hosted[*place].rollcall.answered(present.place);
                self.gateway_has_spoken(*place, present.place);
            }
        }
    }

    fn take_present(&mut self, place: usize, gateway: Place, named: &PresentSession) {
        let address = SessionAddress { place: gateway, session: named.session };
        if let Some(kick) = self.hosted[place].endings.is_named(address, &named.uid, named.order) {
            // It was told to end, and has not heard.
            self.out.frame(gateway, Frame::Kick(kick));
            return;
        }
        let slot = &mut self.hosted[place].slot;
        slot.observe_order(named.order);
        // The end of a connection may have been told to its gateway and lost on the way there, so the later one ends the other once more.
        let mut ended: BTreeMap<SessionAddress, Option<&str>> = BTreeMap::new();
        for known in slot.home_or_new(&named.uid).online().iter().filter(|known| known.address != address) {
            let stays = named.order > known.order;
            let conflict = if stays {
                devices::conflict((named.flag, named.level, &named.device_id), (known.flag, &known.device_id))
            } else {
                devices::conflict((known.flag, known.level, &known.device_id), (named.flag, &named.device_id))
            };
            let loser = if stays { known.address } else { address };
            note_end(&mut ended, loser, conflict);
        }
        let (device_id, order) = (named.device_id.clone(), named.order);
        let online = Online { address, flag: named.flag, level: named.level, device_id, order, named: true };
        let home = slot.home_or_new(&named.uid);
        note_end(&mut ended, address, home.outlived(&online));
        home.register(online);
        let stays = !ended.contains_key(&address);
        for (loser, text) in ended {
            self.end_session(place, &named.uid, loser, text);
        }
        if !stays {
            return;
        }
        if self.config.offline == OfflineMode::Push {
            self.send_backlog(place, address, &named.uid, named.flag);
        }
    }

    /// A gateway shard is another process now, or what was on its way to it is lost: its sessions are gone until it names them.
    pub(super) fn forget_gateway(&mut self, gateway: Place) {
        self.forget_routes(gateway);
        for hosted in self.hosted.iter_mut().filter(|hosted| hosted.slot.leads()) {
            hosted.slot.forget_gateway(gateway);
            hosted.endings.doubt(gateway);
        }
    }

    // ---- links ----

    /// What was on its way to and from a shard of another node is lost.
    pub(super) fn handle_link_reset(&mut self, now: Now, peer: Place, effects: &mut Effects) {
        self.forget_gateway(peer);
        let until = now.instant + self.config.limits.rollcall_patience;
        for hosted in self.hosted.iter_mut().filter(|hosted| hosted.slot.leads()) {
            hosted.rollcall.begins_again(peer, until);
        }
        self.reset_transfers(peer);
        let led_there: Vec<SlotId> = self.routes.led_at(peer);
        for slot in led_there {
            self.send_again(slot, effects);
            self.to_greet.insert(slot);
        }
        if self.metadata_leader.1 == Some(peer) {
            self.ask_metadata_again();
        }
    }

    /// A node is said to be down.
    pub(super) fn handle_node_down(&mut self, node: NodeId) {
        let other = node != self.config.place.node && self.node_shards.contains_key(&node);
        if !other || !self.nodes_down.insert(node) {
            return;
        }
        self.tell_presence(node, false);
        let shards = self.node_shards.get(&node).copied().unwrap_or(0);
        for shard in (0..shards).map(ShardId) {
            self.forget_gateway(Place { node, shard });
            self.end_sessions_of(Place { node, shard });
        }
        for hosted in &mut self.hosted {
            hosted.rollcall.down(node);
            // Gossip loses its way more easily than raft: what it says of a leader that is heard is not true.
            if hosted.slot.group().misses_leader() {
                hosted.slot.hurry(node);
            }
        }
    }

    /// It is up again: as far as this shard is concerned with new eyes.
    pub(super) fn handle_node_up(&mut self, node: NodeId) {
        if self.nodes_down.remove(&node) {
            self.tell_presence(node, true);
            self.announce_to_node(node);
        }
    }

    /// One shard of each node says it for all.
    fn tell_presence(&mut self, node: NodeId, there: bool) {
        if self.config.place.shard == ShardId(0) {
            self.out.report(!there, cluster_news::presence(node, there));
        }
    }
}

/// A connection has lost to another one, if it has.
fn note_end(ended: &mut BTreeMap<SessionAddress, Option<&str>>, loser: SessionAddress, conflict: Conflict) {
    match conflict {
        Conflict::None => {}
        Conflict::Replaced => {
            ended.entry(loser).or_insert(None);
        }
        // Who lost to another device is told so, even when its own device has come back too.
        Conflict::Kicked => {
            ended.insert(loser, Some("login in other device"));
        }
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
