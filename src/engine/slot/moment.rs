//! What a slot's group had agreed on at one moment, read in portions while the slot goes on: so that no turn has to wait for all of it. What is about
//! to change and was not read yet is copied as it was; what changes later is read as it is.
//!
//! ```text
//!  begin ──► channels, as they appeared ──► homes ────────────► all read: it is over
//!              ▲ a channel or home behind that place changes: kept as it was     (a split, a merge or another state: it is void)
//! ```
//!
//! Only entries of the log change what is read, but for three things that are true of a channel whenever they are read, and which a moment may
//! therefore show as they became later, as long as no entry has changed the channel since: how far homes have confirmed it, where bodies lie
//! that were written anew, and which bodies retention has given up.

use std::collections::BTreeMap;

use super::homes::{Name, name_of, uid_of};
use super::{Channel, Home, Slot};
use crate::ids::{ChannelKey, Uid};

/// Positions and fingerprints of a channel that cost as much to read as a row.
const NUMBERS_A_UNIT: usize = 32;

/// Names a moment, within its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MomentId(u64);

/// How far a moment was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOn {
    /// So much work was done; there is more.
    More(usize),
    /// So much work was done, and that was all. The moment is over.
    All(usize),
    /// The slot is not what it was: what was read so far is of no use.
    Void,
}

/// Who reads a moment.
pub trait MomentReader {
    /// A channel, in the order in which they appeared.
    fn channel(&mut self, key: &ChannelKey, channel: &Channel);
    /// A home about which something is agreed on, after all channels, in the slot's order of homes.
    fn home(&mut self, uid: &Uid, home: &Home);
}

/// A moment that is being read.
#[derive(Debug)]
struct Moment {
    id: MomentId,
    /// Channels that there were.
    channels: u32,
    /// The next to be read.
    channel: u32,
    /// The last home that was read.
    home: Option<Name>,
    /// Channels that have changed since, as they were, without bodies.
    kept_channels: BTreeMap<u32, Channel>,
    /// Homes that have changed since, as they were; `None`: nothing was agreed on about them.
    kept_homes: BTreeMap<Uid, Option<Home>>,
}

impl Moment {
    fn keeps_channel(&self, index: u32) -> bool {
        (self.channel..self.channels).contains(&index) && !self.kept_channels.contains_key(&index)
    }

    fn keeps_home(&self, uid: &Uid) -> bool {
        self.home.as_ref().is_none_or(|last| name_of(uid) > *last) && !self.kept_homes.contains_key(uid)
    }
}

/// The moments of a slot that are being read: at most one of its checkpoint and one of each transfer.
#[derive(Debug, Default)]
pub(super) struct Moments {
    open: Vec<Moment>,
    last: u64,
}

impl Moments {
    /// The slot's channels and homes are others now.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    pub(super) fn check_invariants(&self, channels: usize) {
        for moment in &self.open {
            assert!(moment.channel <= moment.channels && moment.channels as usize <= channels);
            assert!(moment.kept_channels.keys().all(|index| (moment.channel..moment.channels).contains(index)));
            // One that only a leader knew of may be gone again.
            let to_come = |uid: &Uid| moment.home.as_ref().is_none_or(|last| name_of(uid) > *last);
            assert!(moment.kept_homes.iter().all(|(uid, kept)| kept.is_none() || to_come(uid)));
        }
    }
}

impl Slot {
    /// What is agreed on now is to be read with [`Slot::read_moment`].
    pub fn begin_moment(&mut self) -> MomentId {
        self.moments.last += 1;
        let id = MomentId(self.moments.last);
        let (kept_channels, kept_homes) = (BTreeMap::new(), BTreeMap::new());
        let channels = self.channels.len() as u32;
        self.moments.open.push(Moment { id, channels, channel: 0, home: None, kept_channels, kept_homes });
        id
    }

    /// Nobody reads it any more.
    pub fn end_moment(&mut self, id: MomentId) {
        self.moments.open.retain(|moment| moment.id != id);
    }

    /// Reads on, until `work` is done: one for each channel, home and row, and for so many numbers of a channel. The last channel or home may
    /// exceed it.
    pub fn read_moment(&mut self, id: MomentId, work: usize, reader: &mut impl MomentReader) -> ReadOn {
        let Some(place) = self.moments.open.iter().position(|moment| moment.id == id) else {
            return ReadOn::Void;
        };
        let moment = &mut self.moments.open[place];
        let mut done = 0;
        while moment.channel < moment.channels {
            if done >= work {
                return ReadOn::More(done);
            }
            let entry = &self.channels[moment.channel as usize];
            let kept = moment.kept_channels.remove(&moment.channel);
            let channel = kept.as_ref().unwrap_or(&entry.channel);
            reader.channel(&entry.key, channel);
            done += 1 + channel.readable() / NUMBERS_A_UNIT;
            moment.channel += 1;
        }
        let mut last = None;
        for (name, home) in self.homes.after(moment.home.as_ref()) {
            if done >= work {
                if let Some(last) = last {
                    moment.home = Some(Name::clone(last));
                }
                return ReadOn::More(done);
            }
            let uid = uid_of(name);
            last = Some(name);
            done += 1 + home.row_count();
            match moment.kept_homes.remove(uid) {
                Some(Some(kept)) => reader.home(uid, &kept),
                None if home.holds_agreed() => reader.home(uid, home),
                Some(None) | None => {}
            }
        }
        let lost = self.moments.open.swap_remove(place).kept_homes.into_values().flatten().count();
        assert_eq!(lost, 0, "a home about which something is agreed on stays");
        ReadOn::All(done)
    }

    /// An entry is about to change a channel.
    pub(super) fn keep_channel(&mut self, index: u32) {
        for moment in self.moments.open.iter_mut().filter(|moment| moment.keeps_channel(index)) {
            moment.kept_channels.insert(index, self.channels[index as usize].channel.without_bodies());
        }
    }

    /// An entry is about to change a home, or to make it.
    pub(super) fn keep_home(&mut self, uid: &Uid) {
        let map_state = self.map_state;
        for moment in self.moments.open.iter_mut().filter(|moment| moment.keeps_home(uid)) {
            let home = self.homes.home(uid.as_str()).filter(|home| home.holds_agreed());
            moment.kept_homes.insert(uid.clone(), home.map(|home| home.agreed_copy(map_state)));
        }
    }
}

#[cfg(test)]
#[path = "moment_tests.rs"]
mod tests;
