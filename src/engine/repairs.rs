//! Damaged messages for which other replicas are asked, and the ranges that wait for them. Reads and writes nothing: it says whom to
//! ask, what is good in an answer, and which ranges are to be read again.
//!
//! ```text
//!  hold ──► asking one replica ──all good──────────────────► read again
//!             ▲      │ not all, silent, link reset              ▲
//!             └──────┴── another one is left ── none is left ───┘
//! ```

use std::collections::VecDeque;

use super::channel::Channel;
use super::reads::{RangeRead, belongs};
use crate::format::frame::{Repair, Repaired};
use crate::format::message::StoredMessage;
use crate::ids::{ChannelKey, Place, SlotId};
use crate::limits::Limits;
use crate::time::Instant;

/// What is to be done next.
#[derive(Debug)]
pub enum Move {
    /// Ask this one.
    Ask(Place, Repair),
    /// Read these again; the first of them is not to be repaired once more.
    Read(Vec<RangeRead>),
}

/// A message with its place in a slot: whose copy here is damaged.
#[derive(Debug)]
pub struct Good {
    /// Which slot.
    pub slot: SlotId,
    /// Index of its channel.
    pub channel: u32,
    /// Its number.
    pub seq: u32,
    /// A good copy.
    pub message: StoredMessage,
}

#[derive(Debug)]
struct Repairing {
    slot: SlotId,
    channel: u32,
    key: ChannelKey,
    /// Still damaged.
    seqs: Vec<u32>,
    asked: Option<(Place, Instant)>,
    /// Who was not asked yet.
    left: VecDeque<Place>,
    ranges: Vec<RangeRead>,
}

/// Repairs under way.
#[derive(Debug, Default)]
pub struct Repairs {
    repairing: Vec<Repairing>,
    answering: usize,
}

impl Repairs {
    /// Ranges that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.repairing.iter().map(|repairing| repairing.ranges.len()).sum()
    }

    /// Keeps a range with damaged messages until others were asked for them.
    ///
    /// # Errors
    /// The range back: nobody can be asked, it was done before, or too many wait.
    pub fn hold(
        &mut self,
        range: RangeRead,
        key: &ChannelKey,
        others: VecDeque<Place>,
        limits: &Limits,
    ) -> Result<(), RangeRead> {
        let first = range.damaged.iter().min().copied();
        let Some(first) = first.filter(|_| !range.repaired && !others.is_empty()) else {
            return Err(range);
        };
        if self.waiting() >= limits.repairs_max {
            return Err(range);
        }
        let same = |known: &&mut Repairing| known.slot == range.slot && known.channel == range.channel;
        if let Some(known) = self.repairing.iter_mut().find(same) {
            known.ranges.push(range);
            return Ok(());
        }
        let near = |seq: &u32| seq - first < limits.repair_messages_max;
        let seqs = range.damaged.iter().copied().filter(near).collect();
        let (slot, channel, key) = (range.slot, range.channel, key.clone());
        self.repairing.push(Repairing { slot, channel, key, seqs, asked: None, left: others, ranges: vec![range] });
        Ok(())
    }

    /// An answer: what is good in it and was asked for. `channel` lends the channel as it is now.
    pub fn handle_repaired<'a>(
        &mut self,
        from: Place,
        repaired: &Repaired,
        channel: impl Fn(SlotId, u32) -> Option<&'a Channel>,
    ) -> Vec<Good> {
        let asked = |known: &&mut Repairing| {
            known.key == repaired.channel && known.asked.is_some_and(|(place, _)| place == from)
        };
        let Some(repairing) = self.repairing.iter_mut().find(asked) else {
            return Vec::new();
        };
        repairing.asked = None;
        let mut good = Vec::new();
        for (seq, message) in &repaired.messages {
            let Some(place) = repairing.seqs.iter().position(|wanted| wanted == seq) else {
                continue;
            };
            let there =
                channel(repairing.slot, repairing.channel).is_some_and(|channel| channel.position(*seq).is_some());
            if there && belongs(message, &repairing.key) {
                repairing.seqs.swap_remove(place);
                let (slot, channel) = (repairing.slot, repairing.channel);
                good.push(Good { slot, channel, seq: *seq, message: message.clone() });
            }
        }
        good
    }

    /// What is to be done next; `None`: nothing before something is heard, or [`Repairs::deadline`].
    pub fn next(&mut self, now: Instant, here: Place, limits: &Limits) -> Option<Move> {
        for index in 0..self.repairing.len() {
            let repairing = &mut self.repairing[index];
            if repairing.asked.is_some_and(|(_, until)| now < until) {
                continue;
            }
            repairing.asked = None;
            let next = if repairing.seqs.is_empty() { None } else { repairing.left.pop_front() };
            let Some(place) = next else {
                let mut ranges = self.repairing.remove(index).ranges;
                if let Some(first) = ranges.first_mut() {
                    first.repaired = true;
                }
                return Some(Move::Read(ranges.into_iter().map(RangeRead::again).collect()));
            };
            repairing.asked = Some((place, now + limits.transfer_patience));
            let repair = Repair { place: here, channel: repairing.key.clone(), seqs: repairing.seqs.clone() };
            return Some(Move::Ask(place, repair));
        }
        None
    }

    /// When [`Repairs::next`] has something to do although nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = |repairing: &Repairing| repairing.asked.map_or(Instant(0), |(_, until)| until);
        self.repairing.iter().map(due).min()
    }

    /// The link to a shard was reset: it will not answer.
    pub fn abandon_place(&mut self, place: Place) {
        for repairing in &mut self.repairing {
            repairing.asked.take_if(|(asked, _)| *asked == place);
        }
    }

    /// A slot's messages lie elsewhere now, or nowhere: the ranges that wait for them.
    pub fn forget_slot(&mut self, slot: SlotId) -> Vec<RangeRead> {
        let gone = self.repairing.extract_if(.., |repairing| repairing.slot == slot);
        gone.flat_map(|repairing| repairing.ranges).collect()
    }

    /// Another replica asks; false when too many do.
    pub fn begin_answer(&mut self, limits: &Limits) -> bool {
        let room = self.answering < limits.repairs_max;
        self.answering += usize::from(room);
        room
    }

    /// It was answered.
    pub fn end_answer(&mut self) {
        assert!(self.answering > 0, "nobody was being answered");
        self.answering -= 1;
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self, limits: &Limits) {
        assert!(self.waiting() <= limits.repairs_max && self.answering <= limits.repairs_max);
        assert!(self.repairing.iter().all(|repairing| !repairing.ranges.is_empty()));
    }
}
