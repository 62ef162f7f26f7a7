//! How a message finds its recipient's sessions: a home is told that a channel has grown and sends to the sessions that are there, or leaves that
//! to the channel's leader, which has sent it straight to them. What is kept for that, and for how long, is in
//! [`crate::engine::route_cache`] and with the slot; this file only passes it on.

use crate::engine::delivery::Arrival;
use crate::engine::marks::Point;
use crate::engine::session::Session;
use crate::engine::slot;
use crate::format::frame::{Deliver, Frame, Notify, Pusher, Whereabouts};
use crate::ids::{Place, SessionId, SlotId, Uid};
use crate::time::Now;

use super::Shard;

impl Shard {
    pub(super) fn handle_notify(&mut self, now: Now, from: Place, notify: &Notify) {
        let key = notify.uid.key_hash();
        let Some(place) = self.leading_of(key) else {
            self.tell_leader(self.routes.slot(key), from);
            return;
        };
        if let Some(message) = &notify.message {
            slot::mark(&mut self.out.marks, now.instant, Point::Noticed, message);
        }
        let (here, limits) = (self.config.place, self.config.limits);
        self.with_slot(place, now, |slot, _, around| slot.handle_notify(notify, around));
        let straight = self.hosted[place].slot.leaves_to_leader(notify, now.instant, &limits);
        let stale = !straight && matches!(notify.pusher, Pusher::Leader(_));
        let (slot, term) = (self.hosted[place].slot.id(), self.hosted[place].slot.group().term());
        if let Some(home) = self.hosted[place].slot.home(&notify.uid) {
            let row = home.row(&notify.channel);
            for online in home.online().iter().filter(|online| !straight || online.address.place.node == here.node) {
                let deliver = Deliver {
                    session: online.address.session,
                    channel: notify.channel.clone(),
                    seq: notify.seq,
                    cursor: Some(row.map_or(0, |row| row.cursor(online.flag))),
                    term,
                    slot,
                    message: notify.message.clone(),
                };
                self.out.frame(online.address.place, Frame::Deliver(deliver));
            }
        }
        self.out.counters.deliveries_stale += u64::from(stale);
        if stale || notify.pusher == Pusher::HomeTells {
            let told = self.hosted[place].slot.whereabouts(&notify.uid, &notify.channel, here, &limits);
            self.out.frame(from, Frame::Whereabouts(Box::new(told)));
        }
    }

    /// A home says where a member of a channel that is led here has its sessions.
    pub(super) fn handle_whereabouts(&mut self, from: Place, mut told: Whereabouts) {
        let Some(place) = self.leading_of(told.channel.key_hash()) else { return };
        let here = self.config.place.node;
        let reached = |gateway: Place| gateway.node == here || !self.links.is_broken(gateway);
        let bound = self.config.limits.straight_sessions_max;
        if told.away.len() > bound || !told.away.iter().all(|address| reached(address.place)) {
            told.away.clear();
        }
        self.hosted[place].slot.learn_whereabouts(from, told);
    }

    /// What goes straight to a gateway shard may not arrive, or not soon.
    pub(super) fn forget_routes(&mut self, gateway: Place) {
        for place in 0..self.hosted.len() {
            if self.hosted[place].slot.leads() {
                self.hosted[place].slot.forget_routes(gateway);
                self.count_routes(place);
            }
        }
    }

    /// A slot's cached routes have become fewer outside of its turn.
    fn count_routes(&mut self, place: usize) {
        let hosted = &mut self.hosted[place];
        self.routes_cached = self.routes_cached - hosted.routes_counted + hosted.slot.routes_known();
        hosted.routes_counted = hosted.slot.routes_known();
    }

    /// When there is no room for another route, the slot that has the most makes some.
    pub(super) fn spread_routes(&mut self, now: Now) {
        if self.routes_cached < self.config.limits.cached_routes_shard_max {
            return;
        }
        let most = (0..self.hosted.len()).max_by_key(|place| self.hosted[*place].routes_counted);
        if let Some(place) = most {
            self.hosted[place].slot.yield_routes(now.instant, &self.config.limits);
            self.count_routes(place);
        }
    }

    /// Homes here look whether what went straight to their sessions has come.
    pub(super) fn look_again(&mut self, now: Now) {
        for place in 0..self.hosted.len() {
            if self.hosted[place].slot.watches() {
                self.with_slot(place, now, |slot, _, around| slot.look_again(around));
            }
        }
    }

    pub(super) fn handle_deliver(&mut self, now: Now, deliver: Deliver) {
        let limits = self.config.limits;
        if deliver.cursor.is_none() {
            let Some(identity) = self.session(deliver.session).and_then(Session::live) else { return };
            if !identity.delivery.follows(&deliver.channel) {
                let (uid, behind) = (identity.uid.clone(), identity.delivery.is_behind());
                self.pass_to_home(uid, deliver, behind);
                return;
            }
        }
        if deliver.seq > 0 && deliver.cursor.is_some() && self.is_outdated(deliver.session, deliver.slot, deliver.term)
        {
            return;
        }
        let mut deferred = false;
        self.push_with(deliver.session, |delivery, out| {
            let Deliver { channel, seq, cursor, message, .. } = deliver;
            match (seq, message) {
                (0, Some(message)) => deferred = !delivery.handle_transient(message, &limits, out),
                (0, None) => {}
                (seq, message) => {
                    let arrival = Arrival { channel: &channel, seq, cursor: cursor.unwrap_or(0), message };
                    deferred = !delivery.handle_arrival(now.instant, arrival, &limits, out);
                }
            }
        });
        self.out.counters.deliveries_deferred += u64::from(deferred);
    }

    /// A home's leader has been followed by another, which was told what the session has taken since: what the former still says was long under
    /// way, and where it would have the session begin was passed. What it has missed the other one says.
    pub(super) fn is_outdated(&mut self, session: SessionId, slot: SlotId, term: u64) -> bool {
        let identity = self.session(session).and_then(|session| session.identity.as_deref());
        let Some((home, taken_in)) = identity.map(|identity| (identity.slot, identity.taken_in)) else { return false };
        // Of a slot that was taken in by its sibling, whose terms are others.
        taken_in == Some(slot) || self.routes.leader(home).is_some_and(|(newest, _)| term < newest)
    }

    /// What came straight to a session that does not follow the channel: only its home knows where it begins. Not for one that will ask
    /// its home what else lags, which is told of this too.
    fn pass_to_home(&mut self, uid: Uid, deliver: Deliver, behind: bool) {
        let (first, second) = deliver.channel.members();
        // The session that was meant may have ended, with its node, and this one have its number.
        let member = uid.as_str() == first || uid.as_str() == second;
        if behind || !member || deliver.seq == 0 {
            return;
        }
        self.out.counters.deliveries_strayed += 1;
        let to = self.routes.guess(self.routes.slot(uid.key_hash()));
        let Deliver { channel, seq, message, .. } = deliver;
        self.out.frame(to, Frame::Notify(Notify { uid, channel, seq, message, pusher: Pusher::Home }));
    }
}
