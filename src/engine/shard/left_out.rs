//! What raft wanted to say to a shard of another node and found no room for, where words may be lost: the last of it waits for room, and goes
//! first then. All groups of a shard have something to say in the same moment, in the same order; without this the same ones would go without
//! again and again. Many entries at once do not wait: they come again when their leader hears that they are missing. Knows no links, and of
//! what a word says only whether it brings entries, or is about who is to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::engine::raft_group::{brings_entries, is_of_election};
use crate::format::raft_message::RaftMessage;
use crate::ids::{Place, SlotId};
use crate::time::Instant;

/// When everybody has found room for so long, nothing is remembered.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// A word with more bytes of entries does not wait.
const ENTRY_BYTES_MAX: usize = 4 << 10;

/// One group on the way to one place, with what brings entries or with the rest.
#[derive(Debug)]
struct Waiting {
    /// Which refusal was its first since it found room.
    since: u64,
    /// The last it had to say. None when that were too many entries, or when it is being said now.
    word: Option<RaftMessage>,
}

/// Whose words: those of a slot that bring entries, or the others.
type Whose = (SlotId, bool);

/// Groups that went without, by where their words were to go. At most two words for each slot that there can be and each shard of another node;
/// at it, a newer word takes the place of the older one.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    waiting: BTreeMap<Place, BTreeMap<Whose, Waiting>>,
    refusals: u64,
    last: Instant,
}

impl LeftOut {
    /// What waits for places that have room now joins what is said now, unless its group has something newer to say there. Elections go first,
    /// and then whoever has waited longest, in each group's own order. Where nobody waits everything stays as it is.
    pub(super) fn join(&mut self, now: Instant, messages: &mut Vec<RaftMessage>, has_room: impl Fn(Place) -> bool) {
        if self.waiting.is_empty() {
            return;
        }
        if now.since(self.last) >= FORGOTTEN_AFTER {
            return self.waiting.clear();
        }
        let newer: BTreeSet<_> = messages.iter().map(|message| (message.to.place(), whose(message))).collect();
        for (place, groups) in self.waiting.iter_mut().filter(|(place, _)| has_room(**place)) {
            for (whose, waiting) in groups {
                let word = waiting.word.take();
                messages.extend(word.filter(|word| is_of_election(word) || !newer.contains(&(*place, *whose))));
            }
        }
        let waiting = &self.waiting;
        let since = |message: &RaftMessage| Some(waiting.get(&message.to.place())?.get(&whose(message))?.since);
        messages.sort_by_cached_key(|message| (!is_of_election(message), since(message).unwrap_or(u64::MAX)));
    }

    /// A group's word to a place has found room, or no way leads there.
    pub(super) fn took(&mut self, place: Place, whose: Whose) {
        if let Some(groups) = self.waiting.get_mut(&place) {
            groups.remove(&whose);
            if groups.is_empty() {
                self.waiting.remove(&place);
            }
        }
    }

    /// A word has found no room.
    pub(super) fn refused(&mut self, now: Instant, message: RaftMessage) {
        self.refusals += 1;
        self.last = now;
        let groups = self.waiting.entry(message.to.place()).or_default();
        let since = self.refusals;
        let waiting = groups.entry(whose(&message)).or_insert(Waiting { since, word: None });
        let elects = waiting.word.as_ref().is_some_and(is_of_election);
        let entry_bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
        if entry_bytes > ENTRY_BYTES_MAX {
            waiting.word = None;
        } else if !elects || is_of_election(&message) {
            waiting.word = Some(message);
        }
    }
}

/// Whose words this one is of.
pub(super) fn whose(message: &RaftMessage) -> Whose {
    (message.slot, brings_entries(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::raft_message::RaftEntry;
    use crate::ids::{NodeId, ReplicaId, ShardId};

    const SLOTS: u16 = 100;
    const ROOM: usize = 7;
    const APPEND: u8 = 3;
    const HEARTBEAT: u8 = 8;
    const TIMEOUT_NOW: u8 = 14;

    fn to(node: u16) -> Place {
        Place { node: NodeId(node), shard: ShardId(0) }
    }

    fn word(slot: u16, node: u16, kind: u8) -> RaftMessage {
        let to = ReplicaId::new(to(node), u32::from(slot) + 1);
        RaftMessage { slot: SlotId(slot), to, kind, ..RaftMessage::default() }
    }

    /// What every slot says in one moment, to two nodes.
    fn all_speak() -> Vec<RaftMessage> {
        (0..SLOTS).flat_map(|slot| [word(slot, 2, HEARTBEAT), word(slot, 3, HEARTBEAT)]).collect()
    }

    /// What of this finds room, where so many words do.
    fn speak(left_out: &mut LeftOut, now: Instant, mut messages: Vec<RaftMessage>, room: usize) -> Vec<RaftMessage> {
        left_out.join(now, &mut messages, |_| room > 0);
        let mut went: BTreeMap<Place, usize> = BTreeMap::new();
        let mut said = Vec::new();
        for message in messages {
            let went = went.entry(message.to.place()).or_default();
            if *went < room {
                *went += 1;
                left_out.took(message.to.place(), whose(&message));
                said.push(message);
            } else {
                left_out.refused(now, message);
            }
        }
        said
    }

    fn slots_told(said: &[RaftMessage], node: u16) -> Vec<u16> {
        said.iter().filter(|message| message.to.place() == to(node)).map(|message| message.slot.0).collect()
    }

    #[test]
    fn what_finds_no_room_is_said_when_there_is_some() {
        let (mut left_out, now) = (LeftOut::default(), Instant(0));
        let mut said = speak(&mut left_out, now, all_speak(), ROOM);
        assert_eq!(speak(&mut left_out, now, Vec::new(), 0), []);
        while said.len() < 2 * usize::from(SLOTS) {
            let more = speak(&mut left_out, now, Vec::new(), ROOM);
            assert!(!more.is_empty());
            said.extend(more);
        }
        for node in [2, 3] {
            assert_eq!(slots_told(&said, node), (0..SLOTS).collect::<Vec<_>>(), "each once, in their order");
        }
        assert_eq!(speak(&mut left_out, now, all_speak(), 1_000), all_speak(), "and then all is as before");
    }

    #[test]
    fn whoever_went_without_goes_before_those_who_did_not() {
        // More is said than ever finds room, and too much to wait.
        let mut left_out = LeftOut::default();
        let entries = vec![RaftEntry { term: 1, index: 1, kind: 0, data: vec![7; ENTRY_BYTES_MAX + 1].into() }];
        let mut told = Vec::new();
        for turn in 0..u64::from(SLOTS) {
            let all = all_speak().into_iter();
            let all = all.map(|word| RaftMessage { entries: entries.clone(), kind: APPEND, ..word });
            told.extend(slots_told(&speak(&mut left_out, Instant(turn), all.collect(), ROOM), 2));
        }
        for slot in 0..SLOTS {
            let times = told.iter().filter(|one| **one == slot).count();
            assert!((ROOM - 1..=ROOM + 1).contains(&times), "slot {slot} found room {times} times");
        }
    }

    #[test]
    fn newer_words_take_the_place_of_older_ones_and_elections_stay() {
        let (mut left_out, now) = (LeftOut::default(), Instant(0));
        let later = RaftMessage { commit: 9, ..word(1, 2, HEARTBEAT) };
        let elects = word(2, 2, TIMEOUT_NOW);
        speak(&mut left_out, now, vec![word(1, 2, HEARTBEAT), elects.clone()], 0);
        speak(&mut left_out, now, vec![later.clone(), word(2, 2, HEARTBEAT)], 0);
        assert_eq!(speak(&mut left_out, now, Vec::new(), ROOM), [elects.clone(), later.clone()]);
        speak(&mut left_out, now, vec![word(1, 2, HEARTBEAT), elects.clone()], 0);
        let said = speak(&mut left_out, now, vec![later.clone(), word(2, 2, HEARTBEAT)], ROOM);
        assert_eq!(said, [elects, later.clone(), word(2, 2, HEARTBEAT)]);
        // What nobody has asked for in a long time is of no use.
        speak(&mut left_out, now, vec![later], 0);
        assert_eq!(speak(&mut left_out, now + FORGOTTEN_AFTER, Vec::new(), ROOM), []);
    }
}
