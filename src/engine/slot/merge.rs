//! Two slots become one: the upper sibling's log ends with a freeze, and when the lower one's group applies the absorb, each of its replicas takes
//! in what its neighbour's frozen replica holds. Which replicas are neighbours, and when, is the shard's affair (`engine::shard::merges`).
//!
//! ```text
//!  upper:  taking ──propose_freeze ─► log ─► apply──► frozen: everything later in the log is passed over, who waits is told "moved"
//!  lower:  absorb ─► log ─► agreed ──(no portion yet)──► stalled ──give──► applied, one bit shallower
//!                             └───────(portion given)─────────────────────►┘
//! ```
//!
//! Frozen means for ever: a frozen replica's state is the same whenever it is looked at, so all replicas of the lower slot take in the same,
//! whenever each of them gets to it. It is a copy of what the upper group has agreed on; the frozen replica stays whole, for other replicas of its
//! group that need a snapshot. Each plan counts once: a freeze or absorb of a plan that is not newer than the last one does nothing.
//!
//! What orders things by terms goes on rising. The upper group's terms have nothing to do with the lower one's, so the lower slot counts
//! `term_lift` on top of its own from then on; and what splits off later begins with the lifted term, so that a number of a slot never sees
//! an earlier term than before.

use super::{Channel, ChannelEntry, Home, Pending, Slot, Surroundings, Waiter};
use crate::engine::command::{self, MergeCommand};
use crate::engine::devices::PastMasters;
use crate::engine::home::Online;
use crate::ids::{ChannelKey, SlotId, Uid};
use crate::limits::{Breach, Limits};

/// What splits and merges have left in the agreed state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reshaped {
    /// The last plan that was carried out.
    pub plan: u64,
    /// To be counted on top of the group's terms.
    pub term_lift: u64,
    /// The lifted term of the freeze, once there was one.
    pub frozen: Option<u64>,
}

/// What a slot hands to its lower sibling.
#[derive(Debug)]
pub struct Portion {
    /// Whose it is.
    pub from: SlotId,
    /// The plan by which it was frozen.
    pub plan: u64,
    /// The lifted term in which it was frozen: nothing that it has said is of a later one.
    pub term: u64,
    /// Last message id.
    pub message_ids_last: u64,
    /// Channels, in the order in which they appeared; their bodies lie where they lay.
    pub channels: Vec<(ChannelKey, Channel)>,
    /// Homes.
    pub homes: Vec<(Uid, Home)>,
}

/// What has become of a slot in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeNews {
    /// It is frozen.
    Froze,
    /// It has taken its sibling in.
    Absorbed,
}

impl Slot {
    /// What splits and merges have left in the agreed state.
    #[must_use]
    pub fn reshaped(&self) -> Reshaped {
        self.reshaped
    }

    /// Nothing more is taken here: the lower sibling takes it in.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.reshaped.frozen.is_some()
    }

    /// The term of this slot, over all merges.
    pub(super) fn lifted(&self, term: u64) -> u64 {
        term + self.reshaped.term_lift
    }

    /// The lower sibling takes this slot in; what changed lately goes before it.
    pub fn propose_freeze(&mut self, plan: u64, limits: &Limits) {
        self.flush_rows(limits);
        let merge = MergeCommand { plan, depth: self.depth };
        self.gather(limits, |bytes| command::encode_freeze(merge, bytes)).push(Waiter::Nobody);
    }

    /// The upper sibling, frozen, is to be taken in.
    pub fn propose_absorb(&mut self, plan: u64) {
        let merge = MergeCommand { plan, depth: self.depth };
        let mut pending = Pending::default();
        command::encode_absorb(merge, &mut pending.bytes);
        pending.waiters.push(Waiter::Nobody);
        self.pending.push_back(pending);
    }

    /// The plan of the merge that the next agreed entry waits for: it cannot be applied before [`Slot::give`].
    #[must_use]
    pub fn stalled(&self) -> Option<u64> {
        let next = self.committed.first().and_then(|entry| command::absorb_of(&entry.data));
        next.filter(|merge| self.is_due(merge) && !self.has_portion(merge.plan)).map(|merge| merge.plan)
    }

    fn is_due(&self, merge: &MergeCommand) -> bool {
        merge.plan > self.reshaped.plan && merge.depth == self.depth && merge.depth > 0 && !self.is_frozen()
    }

    fn has_portion(&self, plan: u64) -> bool {
        self.portion.as_ref().is_some_and(|portion| portion.plan == plan)
    }

    /// Nothing has to be waited for before this entry is applied.
    pub(super) fn can_apply(&self, data: &bytes::Bytes) -> bool {
        command::absorb_of(data).is_none_or(|merge| !self.is_due(&merge) || self.has_portion(merge.plan))
    }

    /// What this slot held when it was frozen.
    #[must_use]
    pub fn portion(&self) -> Option<Portion> {
        let term = self.reshaped.frozen?;
        let channels = self.channels.iter().map(|entry| (entry.key.clone(), entry.channel.without_bodies()));
        let homes = self.sorted_homes().map(|(uid, home)| (uid.clone(), home.agreed_copy(self.map_state)));
        Some(Portion {
            from: self.id,
            plan: self.reshaped.plan,
            term,
            message_ids_last: self.message_ids.last(),
            channels: channels.collect(),
            homes: homes.filter(|(_, home)| !home.is_empty()).collect(),
        })
    }

    /// Here is what the stalled entry waits for.
    pub fn give(&mut self, portion: Portion) {
        self.portion = Some(portion);
    }

    /// What has become of it since the last call.
    pub fn take_merge_news(&mut self) -> Option<MergeNews> {
        self.merge_news.take()
    }

    /// Who is online here, and which masters were, for whoever takes it in; only a leader knows.
    #[must_use]
    pub fn everybody_online(&self) -> Vec<(Uid, Vec<Online>, PastMasters)> {
        let known = |home: &Home| !home.online().is_empty() || !home.past_masters().is_empty();
        let homes = self.sorted_homes().filter(|(_, home)| known(home));
        homes.map(|(uid, home)| (uid.clone(), home.online().to_vec(), home.past_masters().clone())).collect()
    }

    pub(super) fn apply_freeze(&mut self, merge: MergeCommand, term: u64, around: &mut Surroundings<'_>) {
        if !self.is_due(&merge) {
            return;
        }
        self.reshaped.plan = merge.plan;
        self.reshaped.frozen = Some(self.lifted(term));
        self.merge_news = Some(MergeNews::Froze);
        self.send_notices(around);
        self.route_cache.clear();
        self.resumes.clear();
        self.dirty_rows.clear();
        self.rows_due = None;
        for index in std::mem::take(&mut self.unannounced) {
            self.channels[index as usize].listed = false;
        }
        for check in std::mem::take(&mut self.repeats) {
            super::split::send_elsewhere(Waiter::Append(check.asker), around);
        }
    }

    pub(super) fn apply_absorb(&mut self, merge: MergeCommand, term: u64, around: &mut Surroundings<'_>) {
        if !self.is_due(&merge) {
            return;
        }
        self.moments.forget();
        let portion = self.portion.take().expect("an entry that waits for its portion is not applied without");
        assert_eq!((portion.plan, portion.from), (merge.plan, self.id.sibling(self.depth)), "its sibling's portion");
        self.depth -= 1;
        self.reshaped.plan = merge.plan;
        if around.limits.breach != Some(Breach::TermsNotLifted) {
            self.reshaped.term_lift = self.reshaped.term_lift.max((portion.term + 1).saturating_sub(term));
        }
        self.message_ids.resume_beyond(portion.message_ids_last);
        self.merge_news = Some(MergeNews::Absorbed);
        for (key, channel) in portion.channels {
            self.messages += channel.readable() as u64;
            let mut entry = ChannelEntry::new(key.clone(), channel).expect("its slot knew it by this name");
            let number = self.channels.len() as u32;
            if self.led_term.is_some() && entry.channel.announced_seq() < entry.channel.last_seq() {
                entry.listed = true;
                self.unannounced.push(number);
            }
            let before = self.channels_by_key.insert(key, number);
            assert!(before.is_none(), "no channel is in two slots");
            self.channels.push(entry);
        }
        for (uid, home) in portion.homes {
            assert!(self.homes.insert(uid, home), "no home is in two slots");
        }
        self.retry_announcements(around);
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
