//! The shard's side of damaged messages: other replicas are asked for their copies, and asked by them for those here. Whoever leads.

use std::collections::{BTreeSet, VecDeque};

use crate::engine::effect::Effects;
use crate::engine::reads::{Purpose, RangeRead};
use crate::engine::repairs::Move;
use crate::format::frame::{Frame, Repair, Repaired};
use crate::format::message::StoredMessage;
use crate::ids::{ChannelKey, Place};
use crate::time::Now;

use super::Shard;

impl Shard {
    /// A range was read. `None`: something in it is damaged, and others are asked for it first.
    pub(super) fn repair_first(&mut self, place: usize, range: RangeRead) -> Option<RangeRead> {
        if range.damaged.is_empty() || matches!(range.purpose, Purpose::Repair { .. }) {
            return Some(range);
        }
        let slot = &self.hosted[place].slot;
        let key = slot.channels()[range.channel as usize].key.clone();
        let members = slot.group().members();
        let all = [&members.voters, &members.learners, &members.voters_outgoing].into_iter().flatten();
        let others: BTreeSet<_> = all.filter(|member| **member != slot.group().replica()).collect();
        // Those that are said to be down, last.
        let (up, down): (Vec<Place>, Vec<Place>) =
            others.into_iter().map(|member| member.place()).partition(|place| !self.nodes_down.contains(&place.node));
        let others: VecDeque<Place> = up.into_iter().chain(down).collect();
        self.repairs.hold(range, &key, others, &self.config.limits).err().map(|range| *range)
    }

    /// Asks who is to be asked next; reads again what was asked for in vain or not.
    pub(super) fn turn_repairs(&mut self, now: Now, effects: &mut Effects) {
        while let Some(next) = self.repairs.next(now.instant, self.config.place, &self.config.limits) {
            match next {
                Move::Ask(to, repair) => self.out.frame(to, Frame::Repair(repair)),
                Move::Read(ranges) => {
                    for range in ranges {
                        self.advance_range(range, effects);
                    }
                }
            }
        }
    }

    /// Another replica's copies are damaged: those here, as far as they are good.
    pub(super) fn handle_repair(&mut self, from: Place, repair: Repair, effects: &mut Effects) {
        let Repair { channel, seqs, .. } = repair;
        let place = self.place_of(self.routes.slot(channel.key_hash()));
        let index = place.and_then(|place| self.hosted[place].slot.channel_index(&channel));
        let bounds = seqs.iter().min().copied().zip(seqs.iter().max().copied());
        let near = bounds.filter(|(first, last)| *first > 0 && last - first < self.config.limits.repair_messages_max);
        let Some((first, last)) = near else {
            self.answer_repair(from, channel, Vec::new());
            return;
        };
        // Who has not come so far, or knows the channel by another slot, cannot say that there is no good copy: it says nothing.
        let (Some(place), Some(index)) = (place, index) else { return };
        if self.hosted[place].slot.channels()[index as usize].channel.last_seq() < last {
            return;
        }
        if !self.repairs.begin_answer(&self.config.limits) {
            // An empty answer would say that there is no good copy: whoever asks loses patience, and asks again.
            return;
        }
        let purpose = Purpose::Repair { asker: from, seqs };
        let range = RangeRead::new((self.hosted[place].slot.id(), index), first..=last, purpose);
        self.advance_range(range, effects);
    }

    pub(super) fn finish_repair(
        &mut self,
        (asker, seqs): (Place, &[u32]),
        key: ChannelKey,
        mut messages: Vec<(u32, StoredMessage)>,
    ) {
        self.repairs.end_answer();
        messages.retain(|(seq, _)| seqs.contains(seq));
        self.answer_repair(asker, key, messages);
    }

    fn answer_repair(&mut self, to: Place, channel: ChannelKey, messages: Vec<(u32, StoredMessage)>) {
        self.out.frame(to, Frame::Repaired(Repaired { channel, messages }));
    }

    /// Good copies: written anew, and read from there.
    pub(super) fn handle_repaired(&mut self, from: Place, repaired: &Repaired) {
        let (hosted, places) = (&self.hosted, &self.places);
        let good = self.repairs.handle_repaired(from, repaired, |slot, channel| {
            let place = *places.get(usize::from(slot.0))? as usize;
            Some(&hosted.get(place)?.slot.channels().get(channel as usize)?.channel)
        });
        for copy in good {
            let Some(place) = self.place_of(copy.slot) else {
                continue;
            };
            let slot = &mut self.hosted[place].slot;
            let position = self.journal.append_body(copy.slot, slot.group().replica(), copy.message.bytes());
            if slot.set_position(copy.channel, copy.seq, position) {
                self.out.counters.messages_repaired += 1;
            }
        }
    }
}
