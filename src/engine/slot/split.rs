//! A slot becomes two: what belongs to the other half is taken out of the agreed state, when the split is applied, in the same way on every
//! replica. Where the half goes is the shard's affair (`engine::shard::reshapes`).
//!
//! ```text
//!  propose_split ─► log ─► apply_split ─┬─► this slot, one bit deeper: keys whose next bit is not set
//!                                       └─► Half: the others ──go_on, in portions──► without anything that only this leader knew
//! ```
//!
//! The depth and the last plan are part of what is agreed on: a split counts only at the depth for which it was written, and each plan once, so one
//! that comes again does nothing. What the leader had written into the log behind the split for keys that are gone by then is passed over by every
//! replica, and who waits for it is told that it was not taken.

use super::homes::Leaving;
use super::{ChannelEntry, Reshaped, Slot, Surroundings, Waiter};
use crate::engine::chance::{Chance, MapState, SeededMap};
use crate::engine::command::{self, Command, SplitCommand};
use crate::engine::raft_group::GroupState;
use crate::format::frame::{Answered, Frame, Registered, Submitted};
use crate::format::packet::Reason;
use crate::ids::{ChannelKey, ChannelKind, DeviceLevel, KeyHash, SlotId, uid_hash};
use crate::limits::Limits;

/// What has split off.
#[derive(Debug)]
pub struct Half {
    /// The split.
    pub split: SplitCommand,
    /// Of its entry, lifted. The half's group begins with it, so that whatever is ordered by terms (who leads, which connection came later) goes
    /// on rising.
    pub term: u64,
    /// The new number of each channel that stays, by its old one.
    pub numbers: Vec<Option<u32>>,
    /// Last message id of the slot it comes from: ids of its channels go on from there.
    pub message_ids_last: u64,
    /// Channels, in the order in which they appeared; their bodies lie where they lay.
    channels: Vec<ChannelEntry>,
    /// Those of them that are found by their names, from the first on, and messages of them that can be read.
    channels_by_key: SeededMap<ChannelKey, u32>,
    messages: u64,
    homes: Leaving,
}

impl Half {
    /// Puts more of it together, without what only the leader here knew; about so much. Returns how much that was: nothing when it is done.
    pub fn go_on(&mut self, work: usize) -> usize {
        let mut done = 0;
        while done < work {
            let number = self.channels_by_key.len();
            if let Some(entry) = self.channels.get_mut(number) {
                entry.forget_what_is_local();
                self.messages += entry.channel.readable() as u64;
                self.channels_by_key.insert(entry.key.clone(), number as u32);
                done += 1;
            } else if let Some(rows) = self.homes.go_on() {
                done += 1 + rows;
            } else {
                break;
            }
        }
        done
    }

    /// It is put together.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.channels_by_key.len() == self.channels.len() && self.homes.is_through()
    }

    /// The child, as its group begins.
    #[must_use]
    pub fn into_slot(mut self, group: GroupState, map_state: MapState, tail_max: usize, chance: Chance) -> Slot {
        self.go_on(usize::MAX);
        // Its own terms are those that its parent's were lifted to.
        let reshaped = Reshaped { plan: self.split.plan, ..Reshaped::default() };
        let agreed = (self.message_ids_last, reshaped);
        let mut slot = Slot::empty(self.split.child, group, agreed, map_state, (tail_max, chance));
        slot.depth = self.split.depth + 1;
        slot.channels = self.channels;
        slot.channels_by_key = self.channels_by_key;
        slot.messages = self.messages;
        slot.homes = self.homes.settle();
        slot
    }
}

impl Slot {
    /// Bits of the hash that name it.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Says how many bits of the hash name it.
    pub fn set_depth(&mut self, depth: u8) {
        self.depth = depth;
    }

    /// A key is this slot's. A frozen slot has none any more.
    #[must_use]
    pub fn owns(&self, key: KeyHash) -> bool {
        key.slot(self.depth) == self.id.at(self.depth) && !self.is_frozen()
    }

    pub(super) fn owns_command(&self, command: &Command<'_>) -> bool {
        let key = match command {
            Command::Append { kind: ChannelKind::Pair, id, .. } => id.split_once('@').map_or(*id, |(first, _)| first),
            Command::Append { kind: ChannelKind::Command, id, .. } => id,
            Command::Row(row) => row.uid,
            Command::Token { uid, .. } | Command::Quit { uid, .. } | Command::NewFlag { uid, .. } => uid,
            Command::Split(_) | Command::Freeze(_) | Command::Absorb(_) => return true,
        };
        self.owns(uid_hash(key))
    }

    /// The slot is to become two.
    pub fn propose_split(&mut self, split: &SplitCommand, limits: &Limits) {
        self.gather(limits, |bytes| command::encode_split(split, bytes)).push(Waiter::Nobody);
    }

    /// What has split off since the last call.
    pub fn take_halves(&mut self) -> Vec<Half> {
        std::mem::take(&mut self.halves)
    }

    pub(super) fn apply_split(&mut self, split: SplitCommand, term: u64, around: &mut Surroundings<'_>) {
        let due = split.plan > self.reshaped.plan && split.depth == self.depth && !self.is_frozen();
        if !due || split.child != self.id.sibling(self.depth + 1) {
            return;
        }
        self.depth += 1;
        self.reshaped.plan = split.plan;
        let term = self.lifted(term);
        self.send_notices(around);
        self.route_cache.clear();
        self.moments.forget();
        let (channels, numbers) = self.split_channels();
        around.recent.renumber(self.id, |channel| numbers[channel as usize]);
        for mut check in std::mem::take(&mut self.repeats) {
            match numbers[check.channel as usize] {
                Some(channel) => {
                    check.channel = channel;
                    self.repeats.push(check);
                }
                None => send_elsewhere(Waiter::Append(check.asker), around),
            }
        }
        self.unannounced = self.unannounced.iter().filter_map(|index| numbers[*index as usize]).collect();
        let homes = self.split_homes(split.child);
        let (depth, id) = (self.depth, self.id);
        self.resumes.retain(|held| held.uid.key_hash().slot(depth) == id.at(depth));
        let message_ids_last = self.message_ids.last();
        // The child cannot begin before a majority has split.
        self.group.tell_commit();
        let channels_by_key = SeededMap::with_capacity_and_hasher(channels.len(), self.map_state);
        let messages = 0;
        let half = Half { split, term, numbers, message_ids_last, channels, channels_by_key, messages, homes };
        self.halves.push(half);
    }

    /// Takes out the channels that are not this slot's any more. Also returned: the new number of each channel by its old one.
    fn split_channels(&mut self) -> (Vec<ChannelEntry>, Vec<Option<u32>>) {
        let (depth, id) = (self.depth, self.id.at(self.depth));
        let (mut numbers, mut stay) = (Vec::with_capacity(self.channels.len()), 0);
        let goes = |entry: &mut ChannelEntry| {
            let stays = entry.hashes[0].slot(depth) == id;
            numbers.push(stays.then_some(stay));
            stay += u32::from(stays);
            !stays
        };
        let gone: Vec<ChannelEntry> = self.channels.extract_if(.., goes).collect();
        self.messages -= gone.iter().map(|entry| entry.channel.readable() as u64).sum::<u64>();
        self.channels_by_key.retain(|_, number| {
            let stays = numbers[*number as usize];
            *number = stays.unwrap_or_default();
            stays.is_some()
        });
        assert_eq!(self.channels.len(), self.channels_by_key.len(), "every channel has its name");
        (gone, numbers)
    }

    fn split_homes(&mut self, child: SlotId) -> Leaving {
        let (depth, id) = (self.depth, self.id);
        self.dirty_rows.retain(|(uid, _)| uid.key_hash().slot(depth) == id.at(depth));
        if self.dirty_rows.is_empty() {
            self.rows_due = None;
        }
        self.homes.take_out(child)
    }
}

/// What was asked for is another slot's to do: who waits asks there.
pub(super) fn send_elsewhere(waiter: Waiter, around: &mut Surroundings<'_>) {
    match waiter {
        Waiter::Append(asker) => {
            let (ticket, term, reason) = (asker.ticket, asker.term, Submitted::MOVED);
            around.out.frame(
                asker.place,
                Frame::Submitted(Submitted { ticket, term, message_id: 0, message_seq: 0, reason }),
            );
        }
        Waiter::Api(place, ticket) => {
            around.out.frame(place, Frame::Answered(Box::new(Answered { ticket, answer: None })));
        }
        Waiter::Register(register) => {
            let session = register.address.session;
            let (reason, level) = (Reason::NodeNotMatch as u8, DeviceLevel::Slave);
            let refused = Registered { session, reason, level, order: 0 };
            around.out.frame(register.address.place, Frame::Registered(refused));
        }
        // The home has taken its rows with it, and their channels announce themselves again.
        Waiter::Row(..) | Waiter::Nobody => {}
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
pub(super) mod tests;
