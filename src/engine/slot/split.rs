//! A slot becomes two: what belongs to the other half is taken out of the agreed state, when the split is applied, in the same way on every
//! replica. Where the half goes is the shard's affair (`engine::shard::reshapes`).
//!
//! ```text
//!  propose_split ─► log ─► apply_split ─┬─► this slot, one bit deeper: keys whose next bit is not set
//!                                       └─► Half: the others, without anything that only this leader knew
//! ```
//!
//! The depth and the last plan are part of what is agreed on: a split counts only at the depth for which it was written, and each plan once, so one
//! that comes again does nothing. What the leader had written into the log behind the split for keys that are gone by then is passed over by every
//! replica, and who waits for it is told that it was not taken.

use super::{ChannelEntry, Home, Homes, Reshaped, Slot, Surroundings, Waiter};
use crate::engine::chance::{Chance, MapState};
use crate::engine::command::{self, Command, SplitCommand};
use crate::engine::raft_group::GroupState;
use crate::format::frame::{Answered, Frame, Registered, Submitted};
use crate::format::packet::Reason;
use crate::ids::{ChannelKind, DeviceLevel, KeyHash, Uid, uid_hash};
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
    /// Homes, in the order of their uids.
    homes: Vec<(Uid, Home)>,
}

impl Half {
    /// The child, as its group begins.
    #[must_use]
    pub fn into_slot(self, group: GroupState, map_state: MapState, log_tail_bytes_max: usize, chance: Chance) -> Slot {
        // Its own terms are those that its parent's were lifted to.
        let reshaped = Reshaped { plan: self.split.plan, ..Reshaped::default() };
        let agreed = (self.message_ids_last, reshaped);
        let mut slot = Slot::empty(self.split.child, group, agreed, map_state, (log_tail_bytes_max, chance));
        slot.depth = self.split.depth + 1;
        slot.channels_by_key.reserve(self.channels.len());
        slot.channels.reserve_exact(self.channels.len());
        self.channels.into_iter().for_each(|entry| slot.add_channel(entry));
        slot.homes = Homes::of(self.homes, map_state);
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
        let pending = self.pending(limits);
        command::encode_split(split, &mut pending.bytes);
        pending.waiters.push(Waiter::Nobody);
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
        let homes = self.split_homes();
        let (depth, id) = (self.depth, self.id);
        self.resumes.retain(|held| held.uid.key_hash().slot(depth) == id.at(depth));
        let message_ids_last = self.message_ids.last();
        // The child cannot begin before a majority has split.
        self.group.tell_commit();
        self.halves.push(Half { split, term, numbers, message_ids_last, channels, homes });
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
        let mut gone: Vec<ChannelEntry> = self.channels.extract_if(.., goes).collect();
        for entry in &mut gone {
            self.messages -= entry.channel.readable() as u64;
            entry.forget_what_is_local();
        }
        self.channels_by_key.retain(|_, number| {
            let stays = numbers[*number as usize];
            *number = stays.unwrap_or_default();
            stays.is_some()
        });
        assert_eq!(self.channels.len(), self.channels_by_key.len(), "every channel has its name");
        (gone, numbers)
    }

    fn split_homes(&mut self) -> Vec<(Uid, Home)> {
        let (depth, id) = (self.depth, self.id);
        let stays = |uid: &Uid| uid.key_hash().slot(depth) == id.at(depth);
        let mut gone = self.homes.take_out(stays);
        for (_, home) in &mut gone {
            home.cease_leading();
        }
        gone.retain(|(_, home)| !home.is_empty());
        self.dirty_rows.retain(|(uid, _)| stays(uid));
        if self.dirty_rows.is_empty() {
            self.rows_due = None;
        }
        gone
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
