//! What was agreed by the group, carried out on this replica: messages become part of their channels, rows of their homes, and whoever
//! waits for it here hears. The same on every replica; only a leader has anybody who waits.

use super::*;

impl Slot {
    pub(super) fn apply(&mut self, entry: &CommittedEntry, around: &mut Surroundings<'_>) {
        let committed = Committed(());
        let mut waiters = self.waiters_of(entry, around).into_iter();
        let times = self.flights.applied(entry.index);
        for parsed in Commands::new(&entry.data) {
            let command = parsed.expect("an entry whose checksum holds is one we have encoded");
            let waiter = waiters.next().unwrap_or(Waiter::Nobody);
            if !self.owns_command(&command) {
                // It was written down behind a split: the same on every replica.
                split::send_elsewhere(waiter, around);
                continue;
            }
            match command {
                Command::Split(split) => self.apply_split(split, entry.term, around),
                Command::Freeze(merge) => self.apply_freeze(merge, entry.term, around),
                Command::Absorb(merge) => self.apply_absorb(merge, entry.term, around),
                Command::Append { kind, id, announced, fingerprint, at, message } => {
                    let position = Position { offset: entry.position.offset + at, ..entry.position };
                    let asker = if let Waiter::Append(asker) = waiter { Some(asker) } else { None };
                    self.mark_applied(&message, times, around);
                    let what = (message, position, Fingerprint(fingerprint));
                    self.apply_append(&committed, (kind, id), announced, what, asker, around);
                }
                Command::Row(row) => self.apply_row(&row, around),
                Command::Token { uid, flag, level, token } => {
                    if let Ok(uid) = Uid::parse(uid) {
                        self.keep_home(&uid);
                        self.home_or_new(&uid).apply_token(flag, level, token);
                    }
                    answer(&waiter, around.out);
                }
                Command::Quit { uid, flag } => {
                    let Ok(uid) = Uid::parse(uid) else { continue };
                    if self.homes.home(uid.as_str()).is_some() {
                        self.keep_home(&uid);
                        self.home_or_new(&uid).apply_quit(flag);
                    }
                    if let Waiter::Api(place, ticket) = waiter {
                        self.quits.push(Quit { asker: (place, ticket), uid, flag });
                    }
                }
                Command::NewFlag { uid, flag } => {
                    if let Ok(uid) = Uid::parse(uid) {
                        self.keep_home(&uid);
                        self.home_or_new(&uid).apply_new_flag(flag);
                    }
                    if let Waiter::Register(register) = waiter {
                        around.out.frame(around.out.here, Frame::Register(register));
                    }
                }
            }
        }
    }

    /// The waiters of an applied entry, if it is one of ours. Earlier proposals that lost their place are refused.
    fn waiters_of(&mut self, entry: &CommittedEntry, around: &mut Surroundings<'_>) -> Vec<Waiter> {
        while let Some((proposed, _)) = self.in_flight.front() {
            if proposed.index > entry.index {
                break;
            }
            let (proposed, waiters) = self.in_flight.pop_front().expect("it was just seen");
            if proposed.index == entry.index && proposed.term == entry.term {
                return waiters;
            }
            self.refuse(waiters, around);
        }
        Vec::new()
    }

    /// A message was agreed on: when it came this far.
    fn mark_applied(
        &mut self,
        message: &StoredMessage,
        times: Option<(Instant, Option<Instant>)>,
        around: &mut Surroundings<'_>,
    ) {
        let (now, marks) = (around.now.instant, &mut around.out.marks);
        if !marks.may_want(message.message_id()) {
            return;
        }
        let message = marked(message);
        if !marks.wants(now, message) {
            return;
        }
        let Some((proposed, durable)) = times else {
            marks.push(now, Point::Applied, message.message_id);
            return;
        };
        marks.push(proposed, Point::Proposed, message.message_id);
        if let Some(durable) = durable {
            marks.push(durable, Point::Durable, message.message_id);
        }
        marks.push(now, Point::Committed, message.message_id);
    }

    fn apply_append(
        &mut self,
        committed: &Committed,
        (kind, id): (ChannelKind, &str),
        announced: u32,
        (message, position, fingerprint): (StoredMessage, Position, Fingerprint),
        asker: Option<Asker>,
        around: &mut Surroundings<'_>,
    ) {
        self.message_ids.observe(message.message_id());
        let Some(index) = self.channel_or_new(kind, id) else {
            return;
        };
        self.keep_channel(index);
        let entry = &mut self.channels[index as usize];
        entry.channel.announced(announced.min(entry.channel.last_seq()));
        match entry.channel.append(&message, position, fingerprint, around.limits.dedupe_window) {
            Appended::Stored(seq) => {
                self.messages += 1;
                around.out.counters.messages_stored += 1;
                around.recent.push(self.id, index, message.bytes().len(), position);
                if around.out.marks.may_want(message.message_id()) {
                    let (marked, payload_bytes) = (marked(&message), message.payload().len());
                    around.out.marks.name(around.now.instant, marked, seq, payload_bytes);
                }
                submitted(committed, asker, (message.message_id(), seq), around.out);
                if self.led_term.is_some() {
                    self.announce(index, Some(message), around);
                }
            }
            Appended::Repeat(seq) => {
                around.out.counters.sends_repeated += 1;
                let Some(asker) = asker else { return };
                match entry.channel.recent(seq) {
                    Some(first) => answer_repeat(committed, asker, (first, seq), &message, around.out),
                    None => self.repeats.push(RepeatCheck { asker, channel: index, seq, message }),
                }
            }
            Appended::Exhausted => {
                if let Some(asker) = asker {
                    refuse(asker, Reason::SystemError, around.out);
                }
            }
        }
    }

    fn channel_or_new(&mut self, kind: ChannelKind, id: &str) -> Option<u32> {
        let found = self
            .channels_by_key
            .raw_entry()
            .from_hash(self.hash_of(kind, id), |key| key.kind == kind && *key.id == *id);
        if let Some((_, index)) = found {
            return Some(*index);
        }
        let key = ChannelKey { kind, id: id.into() };
        let entry = ChannelEntry::new(key.clone(), Channel::default())?;
        let index = self.channels.len() as u32;
        self.channels.push(entry);
        self.channels_by_key.insert(key, index);
        Some(index)
    }

    /// The hash that `ChannelKey` derives, without making a key.
    fn hash_of(&self, kind: ChannelKind, id: &str) -> u64 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = self.map_state.build_hasher();
        kind.hash(&mut hasher);
        id.hash(&mut hasher);
        hasher.finish()
    }

    fn apply_row(&mut self, row: &RowCommand<'_>, around: &mut Surroundings<'_>) {
        let Ok(uid) = Uid::parse(row.uid) else { return };
        let agreed = Row::agreed_on(row.last_seq, row.read_seq, &row.cursors);
        let channel = ChannelKey { kind: row.kind, id: row.id.into() };
        let rows_max = around.limits.rows_per_user_max;
        self.keep_home(&uid);
        let (owed, dropped) = self.home_or_new(&uid).apply_row(channel.clone(), &agreed, rows_max);
        around.out.counters.rows_dropped += u64::from(dropped);
        let here = around.out.here;
        for resume in self.resumes.extract_if(.., |held| held.uid == uid) {
            around.out.frame(here, Frame::Resume(resume));
        }
        if let Some(seq) = owed {
            tell_settled(Notified { uid, channel, seq }, around);
        }
    }
}
