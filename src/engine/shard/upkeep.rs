//! What a shard does by the clock and for its disk: raft's beats, changed rows, announcements, retention, and the
//! journal's answers.

use crate::engine::effect::Effects;
use crate::engine::event::DiskFault;
use crate::time::Now;

use super::Shard;

impl Shard {
    pub(super) fn fire_timers(&mut self, now: Now, effects: &mut Effects) {
        self.flush_due_rows(now);
        self.follow_done_splits(now);
        self.office_timers(now, effects);
        if now.instant >= self.tick_at {
            self.tick_at = now.instant + self.config.limits.raft_tick;
            let turning = if self.left { 0 } else { self.hosted.len() };
            for place in 0..turning {
                self.with_slot(place, now, |slot, _, _| slot.tick());
            }
            if !self.left {
                self.tick_council();
            }
            self.urge_children(now);
        }
        if now.instant >= self.chase_at {
            let limits = &self.config.limits;
            // A node that stops keeps nobody waiting.
            let every = if self.stopping { limits.raft_tick.min(limits.chase_every) } else { limits.chase_every };
            self.chase_at = now.instant + every;
            self.chase_leaders(now, effects);
            self.steer_groups(now);
            self.look_again(now);
            self.let_sessions_go(now, effects);
            let everything = now.instant >= self.report_at;
            if everything {
                self.report_at = now.instant + self.config.limits.report_every;
            }
            self.report_slots(everything && self.node_shards.len() > 1);
            self.report_digested(now);
            self.say_part();
        }
        if now.instant >= self.retry_at {
            self.retry_at = now.instant + self.config.limits.announce_retry_after;
            for place in 0..self.hosted.len() {
                self.with_slot(place, now, |slot, _, around| slot.retry_announcements(around));
            }
        }
        if now.instant >= self.sweep_at {
            self.sweep_at = now.instant + self.config.limits.sweep_every;
            self.sweep_sessions(now, effects);
            self.spread_routes(now);
            self.ask_homes_again();
            self.reads.retry_refused();
            self.transfers.incoming.sweep(now.instant, &self.config.limits);
            self.note_closed_segments(now);
            self.segment_wanted = self.segment_wanted_first(now);
            self.choose_checkpoints();
            self.checkpoint_council(effects);
            self.remove_checkpoints(effects);
            self.apply_retention(now, effects);
        }
    }

    fn flush_due_rows(&mut self, now: Now) {
        let limits = self.config.limits;
        let first = self.row_slots.front().and_then(|place| self.hosted[*place as usize].slot.rows_due());
        // A stop does not wait for more rows to go with these: what devices have taken is known after it.
        if !self.stopping && first.is_some_and(|due| due > now.instant) {
            return;
        }
        // Who would be due soon goes with who is: else each slot's rows wake the shard and its disk for themselves.
        let soon = now.instant + limits.row_flush_after / 4;
        while let Some(place) = self.row_slots.front().copied() {
            let hosted = &mut self.hosted[place as usize];
            if !self.stopping && hosted.slot.rows_due().is_some_and(|due| due > soon) {
                break;
            }
            self.row_slots.pop_front();
            hosted.rows_listed = false;
            self.with_slot(place as usize, now, |slot, _, _| slot.flush_rows(&limits));
        }
    }

    pub(super) fn handle_written(&mut self, now: Now, flush: u64, bytes: Vec<u8>, result: Result<(), DiskFault>) {
        match result {
            Ok(()) => {
                self.out.counters.journal_flushes += 1;
                self.out.counters.journal_bytes += bytes.len() as u64;
            }
            Err(_) => self.out.counters.journal_faults += 1,
        }
        self.journal.handle_written(now.instant, flush, bytes, result);
        self.take_durable(now);
    }

    /// Tells the groups whose entries are durable now. True when there was one.
    pub(super) fn take_durable(&mut self, now: Now) -> bool {
        let durable = self.journal.durable_flush();
        let mut any = false;
        while let Some((flush, slot)) = self.awaiting.front().copied() {
            if flush > durable {
                break;
            }
            self.awaiting.pop_front();
            any = true;
            let Some(place) = self.place_of(slot) else {
                // The metadata group's, or that of a replica that has ended.
                self.council_durable(durable);
                continue;
            };
            let hosted = &mut self.hosted[place];
            hosted.slot.handle_durable(durable, now.instant);
            if !hosted.dirty {
                hosted.dirty = true;
                self.dirty_slots.push(place as u32);
            }
        }
        any
    }

    /// After a start every slot is as if checkpointed now: what was replayed once is not written down for that alone.
    pub(super) fn count_replay_from_here(&mut self) {
        let mark = self.journal_mark();
        for hosted in &mut self.hosted {
            hosted.checkpoint_mark = mark;
        }
    }

    /// Bytes that the journal has taken in its whole life.
    pub(super) fn journal_mark(&self) -> u64 {
        let position = self.journal.position();
        u64::from(position.segment) * u64::from(self.config.geometry.segment_bytes) + u64::from(position.offset)
    }

    fn note_closed_segments(&mut self, now: Now) {
        let open = self.journal.position().segment;
        let mut next = self.segment_times.back().map_or(self.journal.segments().0, |(segment, _)| segment + 1);
        while next < open {
            self.segment_times.push_back((next, now.unix.0));
            next += 1;
        }
    }

    /// A closed segment of which retention wants to be rid, with so many bytes to spare.
    fn is_too_much(&self, now: Now, (segment, closed_ms): (u32, u64), spare_bytes: u64) -> bool {
        let retention = self.config.retention;
        let last = self.journal.segments().1;
        let held = u64::from(last - segment + 1) * u64::from(self.config.geometry.segment_bytes);
        let too_many = retention.bytes > 0 && held > retention.bytes.saturating_add(spare_bytes);
        let too_old = retention.age_ms > 0 && now.unix.0.saturating_sub(closed_ms) > retention.age_ms;
        too_many || too_old
    }

    /// The first segment that would stay if no replay needed the ones before. Checkpoints made by the clock come within half of
    /// `replay_bytes_max`; nobody is hurried before that much is too much.
    fn segment_wanted_first(&self, now: Now) -> u32 {
        let spare_bytes = self.config.limits.replay_bytes_max / 2;
        let surplus = self.segment_times.iter().take_while(|closed| self.is_too_much(now, **closed, spare_bytes));
        surplus.last().map_or(0, |(segment, _)| segment + 1)
    }

    /// Gives up the oldest segments that are too old or too many and that no replay needs.
    fn apply_retention(&mut self, now: Now, effects: &mut Effects) {
        let (first, _) = self.journal.segments();
        let kept = self.hosted.iter().map(|hosted| hosted.kept_segment).chain(self.council_keeps_segment());
        let needed = kept.min().unwrap_or(first);
        let mut keep = first;
        while let Some((segment, closed_ms)) = self.segment_times.front().copied() {
            if segment >= needed || !self.is_too_much(now, (segment, closed_ms), 0) {
                break;
            }
            self.segment_times.pop_front();
            keep = segment + 1;
        }
        if keep > first {
            for hosted in &mut self.hosted {
                hosted.slot.drop_below(keep);
            }
            self.journal.trim(keep, effects);
        }
    }
}
