//! Sessions that are to end because their home says so: remembered by the home's leader until their gateway has said that they have. A kick that
//! was lost with a link is said again when the gateway names the session, instead of taking it in. Whoever has asked for it
//! (`/user/device_quit`) is answered when none of them is left, and asks the next leader if this one ceases to lead before that.
//!
//! ```text
//!  end_session ──► open ──(Unregister, or a whole statement of the gateway without it)──► over: askers are answered
//!                   │ ▲
//!                   └─┘ named by its gateway, or it asks to be let in as if it had not been: kicked again
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::event::ApiAnswer;
use crate::format::frame::{Answered, Frame, Kick, KickNotice};
use crate::format::packet::Reason;
use crate::ids::{DeviceFlag, Place, SessionAddress, Uid};

use super::Shard;

/// Sessions of one slot that are remembered. At it: the one whose gateway comes first is forgotten, and its askers answered; it
/// ends unless its kick was lost.
const ENDINGS_MAX: usize = 4096;

/// Who waits for the end of sessions: a shard and its number for it.
type Asker = (Place, u64);

#[derive(Debug)]
struct Ending {
    /// Whose it is, and its number: another process of the gateway may call another session so.
    uid: Uid,
    order: u64,
    notice: Option<KickNotice>,
    askers: BTreeSet<Asker>,
    /// In the statement that its gateway is making.
    named: bool,
    /// Its gateway may be another process by now.
    doubtful: bool,
}

/// Those of one slot's homes.
#[derive(Debug, Default)]
pub(super) struct Endings {
    open: BTreeMap<SessionAddress, Ending>,
}

impl Endings {
    /// A session is to end. Returns whoever waits for nothing any more.
    fn begin(&mut self, address: SessionAddress, ending: Ending) -> Vec<Asker> {
        let full = self.open.len() >= ENDINGS_MAX && !self.open.contains_key(&address);
        let first = if full { self.open.keys().next().copied() } else { None };
        let over = first.map_or(Vec::new(), |first| self.over(first));
        let askers = self.open.remove(&address).map_or(BTreeSet::new(), |known| known.askers);
        self.open.insert(address, Ending { askers, ..ending });
        over
    }

    fn wait_for(&mut self, address: SessionAddress, asker: Asker) {
        if let Some(ending) = self.open.get_mut(&address) {
            ending.askers.insert(asker);
        }
    }

    /// A session has ended. Returns whoever waits for nothing any more.
    fn over(&mut self, address: SessionAddress) -> Vec<Asker> {
        let ended = self.open.remove(&address).map_or(BTreeSet::new(), |ending| ending.askers);
        self.without_rest(ended)
    }

    fn without_rest(&self, askers: BTreeSet<Asker>) -> Vec<Asker> {
        let waits = |asker: &Asker| self.open.values().any(|ending| ending.askers.contains(asker));
        askers.into_iter().filter(|asker| !waits(asker)).collect()
    }

    /// A gateway begins to name its sessions.
    pub(super) fn gateway_begins(&mut self, gateway: Place) {
        for (_, ending) in self.open.iter_mut().filter(|(address, _)| address.place == gateway) {
            ending.named = false;
        }
    }

    /// A gateway names a session. What to tell it, if that one is to end.
    pub(super) fn is_named(&mut self, address: SessionAddress, uid: &Uid, order: u64) -> Option<Kick> {
        let ending = self.open.get_mut(&address).filter(|ending| ending.uid == *uid && order <= ending.order)?;
        ending.named = true;
        ending.doubtful = false;
        Some(Kick { session: address.session, notice: ending.notice.clone() })
    }

    /// A session asks to be let in that is to end: it has been let in, and has asked twice. What to tell it, if it is that one for certain.
    pub(super) fn asks_twice(&self, address: SessionAddress, uid: &Uid) -> Option<Kick> {
        let ending = self.open.get(&address).filter(|ending| ending.uid == *uid && !ending.doubtful)?;
        Some(Kick { session: address.session, notice: ending.notice.clone() })
    }

    /// A gateway may be another process from now on: it calls other sessions so.
    pub(super) fn doubt(&mut self, gateway: Place) {
        for (_, ending) in self.open.iter_mut().filter(|(address, _)| address.place == gateway) {
            ending.doubtful = true;
        }
    }

    /// A gateway has named all its sessions: which of those that were to end have.
    fn gateway_ends(&self, gateway: Place) -> Vec<SessionAddress> {
        let ended = self.open.iter().filter(|(address, ending)| address.place == gateway && !ending.named);
        ended.map(|(address, _)| *address).collect()
    }

    /// A gateway is gone: nobody waits for it. Should its sessions be there after all, they are kicked when they are named.
    fn gateway_gone(&mut self, gateway: Place) -> Vec<Asker> {
        let there = self.open.iter_mut().filter(|(address, _)| address.place == gateway);
        let askers = there.flat_map(|(_, ending)| std::mem::take(&mut ending.askers)).collect();
        self.without_rest(askers)
    }

    /// Everybody who waits.
    fn take_askers(&mut self) -> BTreeSet<Asker> {
        std::mem::take(&mut self.open).into_values().flat_map(|ending| ending.askers).collect()
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.open.len() <= ENDINGS_MAX, "sessions that are to end are bounded");
    }
}

impl Shard {
    /// Takes a connection off its home and tells its gateway to end it, until that has.
    pub(super) fn end_session(&mut self, place: usize, uid: &Uid, address: SessionAddress, text: Option<&str>) {
        let home = self.hosted[place].slot.home_or_new(uid);
        let order = home.online().iter().find(|online| online.address == address).map_or(0, |online| online.order);
        home.unregister(address);
        let notice = text.map(|text| KickNotice { reason: Reason::Kicked as u8, text: text.into() });
        let ending = Ending {
            uid: uid.clone(),
            order,
            notice: notice.clone(),
            askers: BTreeSet::new(),
            named: true,
            doubtful: false,
        };
        let over = self.hosted[place].endings.begin(address, ending);
        self.out.frame(address.place, Frame::Kick(Kick { session: address.session, notice }));
        self.answer_quits(over);
    }

    /// Ends a user's connections of one flag or of all. Returns which.
    pub(super) fn end_devices(
        &mut self,
        place: usize,
        uid: &Uid,
        flag: Option<DeviceFlag>,
        text: &str,
    ) -> Vec<SessionAddress> {
        let Some(home) = self.hosted[place].slot.home(uid) else {
            return Vec::new();
        };
        let matching = home.online().iter().filter(|online| flag.is_none_or(|flag| flag == online.flag));
        let ended: Vec<SessionAddress> = matching.map(|online| online.address).collect();
        for address in &ended {
            self.end_session(place, uid, *address, Some(text));
        }
        ended
    }

    /// Tokens have been blanked, as their group has agreed: whoever came in with them goes.
    pub(super) fn follow_quits(&mut self, place: usize) {
        for quit in self.hosted[place].slot.take_quits() {
            let ended = self.end_devices(place, &quit.uid, quit.flag, "");
            if ended.is_empty() {
                self.answer_quits(vec![quit.asker]);
            }
            for address in ended {
                self.hosted[place].endings.wait_for(address, quit.asker);
            }
        }
    }

    /// A session has ended, as its gateway says.
    pub(super) fn session_has_ended(&mut self, place: usize, address: SessionAddress) {
        let over = self.hosted[place].endings.over(address);
        self.answer_quits(over);
    }

    /// A gateway has named all its sessions of a slot.
    pub(super) fn gateway_has_spoken(&mut self, place: usize, gateway: Place) {
        for address in self.hosted[place].endings.gateway_ends(gateway) {
            self.session_has_ended(place, address);
        }
    }

    /// A slot is not led here any more, or has given half of its homes away: whoever waits asks again.
    pub(super) fn drop_endings(&mut self, place: usize) {
        for (asker, ticket) in self.hosted[place].endings.take_askers() {
            self.out.frame(asker, Frame::Answered(Box::new(Answered { ticket, answer: None })));
        }
    }

    /// Nobody waits for a gateway that is gone.
    pub(super) fn end_sessions_of(&mut self, gateway: Place) {
        for place in 0..self.hosted.len() {
            let over = self.hosted[place].endings.gateway_gone(gateway);
            self.answer_quits(over);
        }
    }

    fn answer_quits(&mut self, askers: Vec<Asker>) {
        for (asker, ticket) in askers {
            self.answer_ask(asker, ticket, ApiAnswer::Done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, SessionId, ShardId};

    fn address(node: u16, index: u32) -> SessionAddress {
        let place = Place { node: NodeId(node), shard: ShardId(0) };
        SessionAddress { place, session: SessionId { index, generation: 1 } }
    }

    fn ending(order: u64) -> Ending {
        let uid = Uid::parse("ana").unwrap();
        Ending { uid, order, notice: None, askers: BTreeSet::new(), named: true, doubtful: false }
    }

    #[test]
    fn whoever_asked_is_answered_when_the_last_has_ended() {
        let asker = (address(9, 0).place, 7);
        let mut endings = Endings::default();
        for index in 0..3 {
            assert!(endings.begin(address(1, index), ending(5)).is_empty());
            endings.wait_for(address(1, index), asker);
        }
        assert!(endings.over(address(1, 1)).is_empty());
        endings.gateway_begins(address(1, 0).place);
        let ana = Uid::parse("ana").unwrap();
        assert!(endings.is_named(address(1, 0), &ana, 5).is_some(), "its kick was lost");
        assert_eq!(endings.gateway_ends(address(1, 0).place), [address(1, 2)]);
        assert!(endings.over(address(1, 2)).is_empty());
        assert_eq!(endings.over(address(1, 0)), [asker]);
        assert!(endings.over(address(1, 0)).is_empty());
    }

    #[test]
    fn a_session_of_another_process_is_left_alone() {
        let mut endings = Endings::default();
        endings.begin(address(1, 0), ending(5));
        endings.gateway_begins(address(1, 0).place);
        assert!(endings.is_named(address(1, 0), &Uid::parse("bo").unwrap(), 4).is_none());
        assert!(endings.is_named(address(1, 0), &Uid::parse("ana").unwrap(), 6).is_none(), "it came later");
        assert_eq!(endings.gateway_ends(address(1, 0).place), [address(1, 0)]);
    }

    #[test]
    fn who_is_to_end_and_asks_again_is_told_so_unless_it_may_be_another() {
        let (ana, bo) = (Uid::parse("ana").unwrap(), Uid::parse("bo").unwrap());
        let mut endings = Endings::default();
        endings.begin(address(1, 0), ending(5));
        assert!(endings.asks_twice(address(1, 0), &ana).is_some());
        assert!(endings.asks_twice(address(1, 0), &bo).is_none() && endings.asks_twice(address(1, 1), &ana).is_none());
        endings.doubt(address(2, 0).place);
        assert!(endings.asks_twice(address(1, 0), &ana).is_some(), "another gateway");
        endings.doubt(address(1, 0).place);
        assert!(endings.asks_twice(address(1, 0), &ana).is_none());
        assert!(endings.is_named(address(1, 0), &ana, 5).is_some());
        assert!(endings.asks_twice(address(1, 0), &ana).is_some(), "it is the same one");
    }

    #[test]
    fn nobody_waits_for_a_gateway_that_is_gone_and_the_list_is_bounded() {
        let asker = (address(9, 0).place, 7);
        let mut endings = Endings::default();
        for index in 0..ENDINGS_MAX as u32 {
            endings.begin(address(1, index), ending(5));
        }
        endings.wait_for(address(1, 0), asker);
        assert_eq!(endings.begin(address(2, 0), ending(5)), [asker], "the first is forgotten");
        endings.check_invariants();
        endings.wait_for(address(1, 5), asker);
        endings.wait_for(address(2, 0), asker);
        assert!(endings.gateway_gone(address(1, 0).place).is_empty());
        assert_eq!(endings.gateway_gone(address(2, 0).place), [asker]);
        assert!(endings.is_named(address(1, 5), &Uid::parse("ana").unwrap(), 5).is_some(), "it may come back");
    }
}
