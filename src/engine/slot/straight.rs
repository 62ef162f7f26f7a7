//! What goes straight from a channel's leader to its members' sessions, and what the home makes of it. The leader asks the home of a member
//! who talks often where the sessions are ([`RouteCache`]), sends the next messages straight to those on other nodes than the home's, and
//! tells the home so once a turn, without bodies. The home keeps the rows as ever; it leaves the sending to the leader only while its sessions
//! are the ones that it named, and looks again a little later whether the devices have what they should: so whatever is lost on
//! the straight way, by whomever's fault, comes by the home.
//!
//! ```text
//!  leader:  Notify(HomeTells) ─► home ─► Whereabouts(mark) ─► leader: Deliver ─► session ─RECVACK─► home: cursor
//!                                                              └─ Notify(Leader(mark)) ─► home: mark is mine? ─┬─ yes: row, look again later
//!                                                                                                              └─ no: Deliver, Whereabouts
//! ```

use super::*;
use crate::engine::route_cache::{Advice, Member};
use crate::format::frame::{Deliver, Pusher, Whereabouts};
use crate::limits::Breach;

/// What is announced, of which channel, to whom.
pub(super) struct Announcement<'a> {
    pub channel: &'a ChannelKey,
    pub member: Member,
    /// Where the member's home is led.
    pub home: Place,
    pub seq: u32,
    pub message: &'a StoredMessage,
    /// The channel has had another message lately.
    pub often: bool,
}

/// Sends a message straight where that is known to do. Returns who sends it to the sessions, as the home is to be told with the message;
/// `None` when the home is told later in this turn, without it.
pub(super) fn send_straight(
    routes: &mut RouteCache,
    notices: &mut Vec<Member>,
    what: &Announcement<'_>,
    around: &mut Surroundings<'_>,
) -> Option<Pusher> {
    let Announcement { channel, member, home, seq, message, often } = *what;
    let route = match routes.advice(member, (home, often), around.now.instant, around.limits) {
        Advice::ByHome => return Some(Pusher::Home),
        Advice::Ask => return Some(Pusher::HomeTells),
        Advice::Straight(route) => route,
    };
    for SessionAddress { place, session } in route.away.iter().copied() {
        around.out.counters.deliveries_straight += 1;
        let (channel, message) = (channel.clone(), Some(message.clone()));
        around.out.frame(
            place,
            Frame::Deliver(Deliver { session, channel, seq, cursor: None, term: 0, slot: SlotId(0), message }),
        );
    }
    if route.others {
        return Some(Pusher::Leader(route.mark));
    }
    if !route.noticing {
        route.noticing = true;
        notices.push(member);
    }
    None
}

impl Slot {
    /// Tells homes what has gone straight in this turn: once each, however many messages it were.
    pub(super) fn send_notices(&mut self, around: &mut Surroundings<'_>) {
        for member in std::mem::take(&mut self.notices) {
            let entry = &self.channels[member.channel as usize];
            let place = usize::from(member.place);
            let home = around.routes.guess(around.routes.slot(entry.hashes[place]));
            let pusher = self.route_cache.route_mut(member).map_or(Pusher::Home, |route| {
                route.noticing = false;
                Pusher::Leader(route.mark)
            });
            let (uid, channel, seq) = (entry.members[place].clone(), entry.key.clone(), entry.channel.last_seq());
            around.out.frame(home, Frame::Notify(Notify { uid, channel, seq, message: None, pusher }));
        }
    }

    /// A home says where a member's sessions are.
    pub fn learn_whereabouts(&mut self, from: Place, told: Whereabouts) {
        let Some(index) = self.channels_by_key.get(&told.channel) else { return };
        let entry = &self.channels[*index as usize];
        if let Some(place) = entry.members.iter().position(|member| *member == told.uid) {
            let member = Member { channel: *index, place: place as u8 };
            self.route_cache.learn(member, from, (told.mark, told.away, told.others));
        }
    }

    /// Nothing more goes straight to a gateway shard until its sessions are asked for again.
    pub fn forget_routes(&mut self, gateway: Place) {
        self.route_cache.forget_gateway(gateway);
    }

    /// Members of whom is remembered where their sessions are.
    #[must_use]
    pub fn routes_known(&self) -> usize {
        self.route_cache.len()
    }

    /// From now on so many more may be remembered.
    pub fn allow_routes(&mut self, more: usize) {
        self.route_cache.allow(more);
    }

    /// Other slots need room: half of what is old is forgotten.
    pub fn yield_routes(&mut self, now: Instant, limits: &Limits) {
        self.route_cache.yield_half(now, limits);
    }

    // ---- the home's part ----

    /// Whether the home may leave it to the channel's leader to send what it was told of: its sessions are the ones under this mark, and it
    /// will look again whether they have it.
    pub fn leaves_to_leader(&mut self, notify: &Notify, now: Instant, limits: &Limits) -> bool {
        let Pusher::Leader(mark) = notify.pusher else { return false };
        let room = self.watched.len() < limits.watched_rows_max;
        let counts = |home: &&mut Home| home.mark() == Some(mark) || limits.breach == Some(Breach::AnyMark);
        let Some(home) = self.homes.home_mut(notify.uid.as_str()).filter(counts) else { return false };
        match home.watch(&notify.channel, room) {
            Watch::Begun => {
                self.watched.push_back((now + limits.look_again_after, notify.uid.clone(), notify.channel.clone()));
                true
            }
            Watch::UnderWay => true,
            Watch::NoRoom => false,
        }
    }

    /// Where a user's sessions are, as seen from the home's node.
    pub fn whereabouts(&mut self, uid: &Uid, channel: &ChannelKey, here: Place, limits: &Limits) -> Whereabouts {
        let home = self.homes.home_mut(uid.as_str());
        let online = home.as_ref().map_or(&[][..], |home| home.online());
        let is_away = |online: &&Online| online.address.place.node != here.node;
        let mut away: Vec<SessionAddress> = online.iter().filter(is_away).map(|online| online.address).collect();
        let others = away.len() < online.len() || away.len() > limits.straight_sessions_max;
        if away.len() > limits.straight_sessions_max {
            away.clear();
        }
        self.marks = self.marks.wrapping_add(1).max(Pusher::MARK_MIN);
        let mark = home.map_or(self.marks, |home| home.marked(self.marks));
        Whereabouts { uid: uid.clone(), channel: channel.clone(), mark, away, others }
    }

    /// Marks of this leader's life: none that an earlier leader has given is likely to be among them.
    pub(super) fn begin_marks(&mut self) {
        let life = [self.replica().0, self.led_term.unwrap_or_default()].map(u64::to_le_bytes).concat();
        self.marks = xxhash_rust::xxh3::xxh3_64(&life) as u32;
    }

    /// Asserts what must hold between steps of what goes straight.
    pub fn check_straight(&self, limits: &Limits) {
        self.route_cache.check_invariants(limits);
        assert!(self.watched.len() <= limits.watched_rows_max, "too many rows are watched");
        assert!(self.notices.is_empty(), "homes hear in the same turn what went straight");
        let idle = self.route_cache.is_empty() && self.watched.is_empty();
        assert!(self.leads() || idle, "only a leader sends straight, or leaves it to another");
    }

    /// Rows that wait to be looked at again, for whoever takes this slot in.
    #[must_use]
    pub fn watched_rows(&self) -> Vec<(Instant, Uid, ChannelKey)> {
        self.watched.iter().cloned().collect()
    }

    /// These homes are here now, and so is looking again at their rows. What there is no room for is looked at now.
    pub fn go_on_watching(&mut self, rows: Vec<(Instant, Uid, ChannelKey)>, around: &mut Surroundings<'_>) {
        for (due, uid, channel) in rows {
            let room = self.watched.len() < around.limits.watched_rows_max;
            let Some(home) = self.homes.home_mut(uid.as_str()) else { continue };
            match home.watch(&channel, room) {
                Watch::Begun => self.watched.push_back((due, uid, channel)),
                Watch::UnderWay => {}
                Watch::NoRoom => self.look_at_row(&uid, &channel, around),
            }
        }
        self.watched.make_contiguous().sort_by_key(|(due, ..)| *due);
    }

    /// Rows wait to be looked at again.
    #[must_use]
    pub fn watches(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Looks whether what went straight has come to the devices. Who has not taken it yet is told that there is something to fetch: a session
    /// that has it in flight pays no heed.
    pub fn look_again(&mut self, around: &mut Surroundings<'_>) {
        while self.watched.front().is_some_and(|(due, ..)| *due <= around.now.instant) {
            let Some((_, uid, channel)) = self.watched.pop_front() else { break };
            if let Some(home) = self.homes.home_mut(uid.as_str()) {
                home.unwatch(&channel);
                self.look_at_row(&uid, &channel, around);
            }
        }
    }

    fn look_at_row(&self, uid: &Uid, channel: &ChannelKey, around: &mut Surroundings<'_>) {
        let Some(home) = self.homes.home(uid.as_str()) else { return };
        let Some(row) = home.row(channel) else { return };
        let (here, term, slot) = (around.out.here, self.group.term(), self.id());
        for online in home.online().iter().filter(|online| online.address.place.node != here.node) {
            // What one session has taken says nothing of another one of its family.
            let shared = home.online().iter().filter(|other| other.flag == online.flag).count() > 1;
            let cursor = row.cursor(online.flag);
            if cursor >= row.last_seq && !shared {
                continue;
            }
            around.out.counters.deliveries_checked += 1;
            let (session, channel, seq) = (online.address.session, channel.clone(), row.last_seq);
            let deliver = Deliver { session, channel, seq, cursor: Some(cursor), term, slot, message: None };
            around.out.frame(online.address.place, Frame::Deliver(deliver));
        }
    }
}

#[cfg(test)]
#[path = "straight_tests.rs"]
mod tests;
