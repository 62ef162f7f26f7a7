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
    /// The last one that others are asked for.
    to: u32,
    asked: Option<(Place, Instant)>,
    /// Who was not asked yet.
    left: VecDeque<Place>,
    /// Somebody who was asked has not answered: there may be a good copy.
    unanswered: bool,
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
        mut range: RangeRead,
        key: &ChannelKey,
        others: VecDeque<Place>,
        limits: &Limits,
    ) -> Result<(), Box<RangeRead>> {
        let first = range.damaged.iter().copied().filter(|seq| *seq > range.repaired_to).min();
        let Some(first) = first.filter(|_| !others.is_empty()) else {
            return Err(Box::new(range));
        };
        if self.waiting() >= limits.repairs_max {
            // Nobody was asked: there may be good copies.
            range.unsure = true;
            return Err(Box::new(range));
        }
        let same = |known: &&mut Repairing| known.slot == range.slot && known.channel == range.channel;
        if let Some(known) = self.repairing.iter_mut().find(same) {
            known.ranges.push(range);
            return Ok(());
        }
        let near = |seq: &u32| *seq >= first && seq - first < limits.repair_messages_max;
        let seqs: Vec<u32> = range.damaged.iter().copied().filter(near).collect();
        let to = seqs.iter().copied().max().unwrap_or(first);
        let (slot, channel, key) = (range.slot, range.channel, key.clone());
        self.repairing.push(Repairing {
            slot,
            channel,
            key,
            seqs,
            to,
            asked: None,
            left: others,
            unanswered: false,
            ranges: vec![range],
        });
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
            repairing.unanswered |= repairing.asked.take().is_some();
            let next = if repairing.seqs.is_empty() { None } else { repairing.left.pop_front() };
            let Some(place) = next else {
                let Repairing { mut ranges, unanswered, to, .. } = self.repairing.remove(index);
                if let Some(first) = ranges.first_mut() {
                    first.repaired_to = to;
                    first.unsure |= unanswered;
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
            repairing.unanswered |= repairing.asked.take_if(|(asked, _)| *asked == place).is_some();
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::channel::{ChannelParts, HOLE};
    use crate::engine::reads::Purpose;
    use crate::format::message::MessageFields;
    use crate::format::packet::{HeaderFlags, Setting};
    use crate::ids::{NodeId, ShardId, Uid};

    fn place(node: u16) -> Place {
        Place { node: NodeId(node), shard: ShardId(0) }
    }

    fn uids() -> (Uid, Uid) {
        (Uid::parse("al").unwrap(), Uid::parse("bo").unwrap())
    }

    fn key() -> ChannelKey {
        ChannelKey::pair(&uids().0, &uids().1)
    }

    fn message(from: &str) -> StoredMessage {
        let mut out = Vec::new();
        let (flags, setting) = (HeaderFlags(0), Setting(0));
        let (client_msg_no, topic, payload) = ("", "", &b"x"[..]);
        let (message_id, unix_ms, expire_s, device_tag, to) = (1, 0, 0, 0, "bo");
        let fields = MessageFields {
            message_id,
            unix_ms,
            expire_s,
            flags,
            setting,
            device_tag,
            from,
            to,
            client_msg_no,
            topic,
            payload,
        };
        fields.encode(&mut out);
        StoredMessage::trusted(Bytes::from(out))
    }

    fn channel() -> Channel {
        Channel::restore(ChannelParts { last_seq: 9, positions: vec![HOLE; 9], ..ChannelParts::default() })
    }

    fn range(damaged: &[u32]) -> RangeRead {
        let asker = place(1);
        let mut range =
            RangeRead::new((SlotId(1), 0), 1..=9, Purpose::Api { asker, ticket: 1, more: false, newest: false });
        (range.damaged, range.next) = (damaged.to_vec(), 10);
        range.messages = vec![(1, message("al")), (9, message("al"))];
        range
    }

    fn asked(repairs: &mut Repairs, now: Instant) -> Option<(Place, Vec<u32>)> {
        match repairs.next(now, place(1), &Limits::TINY)? {
            Move::Ask(to, repair) => Some((to, repair.seqs)),
            Move::Read(ranges) => panic!("{ranges:?}"),
        }
    }

    #[test]
    fn one_after_the_other_is_asked_for_what_is_still_missing() {
        let (mut repairs, channel, limits) = (Repairs::default(), channel(), Limits::TINY);
        let others: VecDeque<Place> = [place(2), place(3), place(4)].into();
        repairs.hold(range(&[2, 3, 7]), &key(), others, &limits).expect("there is room");
        let mut now = Instant(5);
        assert_eq!(repairs.deadline(), Some(Instant(0)));
        assert_eq!(asked(&mut repairs, now), Some((place(2), vec![2, 3])), "no more than the limit");
        assert_eq!(asked(&mut repairs, now), None);
        let repaired = |from: &str| Repaired { channel: key(), messages: vec![(2, message(from)), (9, message(from))] };
        assert_eq!(repairs.handle_repaired(place(3), &repaired("al"), |_, _| Some(&channel)).len(), 0, "not asked");
        assert_eq!(repairs.handle_repaired(place(2), &repaired("eve"), |_, _| Some(&channel)).len(), 0, "not of it");
        assert_eq!(asked(&mut repairs, now), Some((place(3), vec![2, 3])));
        let good = repairs.handle_repaired(place(3), &repaired("al"), |_, _| Some(&channel));
        assert_eq!(good.iter().map(|good| good.seq).collect::<Vec<_>>(), [2]);
        assert_eq!(asked(&mut repairs, now), Some((place(4), vec![3])));
        now = repairs.deadline().expect("it waits");
        assert_eq!(now, Instant(5) + limits.transfer_patience);
        let Some(Move::Read(ranges)) = repairs.next(now, place(1), &limits) else { panic!("nobody is left") };
        let back = &ranges[0];
        assert_eq!((back.next, back.messages.len(), back.repaired_to, back.damaged.len()), (2, 1, 3, 0));
        // What is damaged beyond that is asked for in its turn.
        let on = RangeRead { damaged: vec![3, 7], ..range(&[]) };
        let on = RangeRead { repaired_to: 3, ..on };
        let mut further = Repairs::default();
        further.hold(on, &key(), [place(2)].into(), &limits).expect("there is room");
        assert_eq!(asked(&mut further, now), Some((place(2), vec![7])));
        assert!(back.unsure, "the last one was asked and has said nothing");
        assert_eq!((repairs.waiting(), repairs.deadline()), (0, None));
        repairs.check_invariants(&limits);
    }

    #[test]
    fn nobody_says_that_a_body_is_gone_before_all_others_have() {
        let none = || Repaired { channel: key(), messages: vec![] };
        for silent in [None, Some(2), Some(3)] {
            let (mut repairs, channel, limits) = (Repairs::default(), channel(), Limits::TINY);
            repairs.hold(range(&[2]), &key(), [place(2), place(3)].into(), &limits).expect("there is room");
            let mut now = Instant(1);
            for node in [2, 3] {
                assert_eq!(asked(&mut repairs, now), Some((place(node), vec![2])));
                match silent {
                    // Its link is lost, or it does not answer in time.
                    Some(2) if node == 2 => repairs.abandon_place(place(2)),
                    Some(3) if node == 3 => now = repairs.deadline().expect("it waits"),
                    _ => drop(repairs.handle_repaired(place(node), &none(), |_, _| Some(&channel))),
                }
            }
            let Some(Move::Read(ranges)) = repairs.next(now, place(1), &limits) else { panic!("nobody is left") };
            assert_eq!((ranges[0].repaired_to, ranges[0].unsure), (2, silent.is_some()), "{silent:?}");
        }
    }

    #[test]
    fn what_cannot_wait_comes_back_and_what_waits_for_a_lost_link_goes_on() {
        let (mut repairs, limits) = (Repairs::default(), Limits::TINY);
        let others = || VecDeque::from([place(2), place(3)]);
        assert!(repairs.hold(range(&[2]), &key(), VecDeque::new(), &limits).is_err(), "nobody to ask");
        let again = RangeRead { repaired_to: 2, ..range(&[2]) };
        assert!(repairs.hold(again, &key(), others(), &limits).is_err(), "asked for before");
        assert!(repairs.hold(range(&[]), &key(), others(), &limits).is_err(), "nothing is damaged");
        for _ in 0..limits.repairs_max {
            repairs.hold(range(&[2]), &key(), others(), &limits).expect("there is room");
        }
        let back = repairs.hold(range(&[2]), &key(), others(), &limits).expect_err("the limit");
        assert!(back.unsure, "nobody was asked");
        assert_eq!(asked(&mut repairs, Instant(1)), Some((place(2), vec![2])));
        repairs.abandon_place(place(2));
        assert_eq!(asked(&mut repairs, Instant(1)), Some((place(3), vec![2])));
        assert_eq!(repairs.forget_slot(SlotId(2)).len(), 0);
        assert_eq!(repairs.forget_slot(SlotId(1)).len(), limits.repairs_max);
        for n in 0..=limits.repairs_max {
            assert_eq!(repairs.begin_answer(&limits), n < limits.repairs_max);
        }
        repairs.end_answer();
        assert!(repairs.begin_answer(&limits));
    }
}
