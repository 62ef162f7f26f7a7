//! Commands on their way into a slot's log: what is asked of it, gathered into entries. Proposes nothing: the slot's turn does.

use super::*;

/// Devices have quit: their tokens are blank. Their connections are to end before it is answered.
#[derive(Debug)]
pub struct Quit {
    /// Who waits: a shard and its number for it.
    pub asker: (Place, u64),
    /// Whose.
    pub uid: Uid,
    /// Of one flag, or all.
    pub flag: Option<DeviceFlag>,
}
use crate::format::frame::Pusher;

impl Slot {
    /// A command goes into the entry that is being gathered, or into the next one where that is full. Returns who waits for that entry's commands:
    /// whoever waits for this one is to be put there.
    pub(super) fn gather(&mut self, limits: &Limits, encode: impl FnOnce(&mut Vec<u8>)) -> &mut Vec<Waiter> {
        if self.pending.back().is_none_or(|last| last.waiters.len() >= limits.commands_per_proposal_max) {
            self.pending.push_back(Pending::default());
        }
        let last = self.pending.back_mut().expect("one was just pushed");
        let before = last.bytes.len();
        encode(&mut last.bytes);
        if last.bytes.len() > limits.entry_bytes_max && before > 0 {
            let bytes = last.bytes.split_off(before);
            self.pending.push_back(Pending { bytes, waiters: Vec::new() });
        }
        &mut self.pending.back_mut().expect("it is there").waiters
    }

    /// True when something waits to be proposed or the group has work.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (!self.pending.is_empty() && !self.held_back) || self.group.has_work() || self.portion.is_some()
    }

    /// Takes a message in: stored after the group agreed, or passed on at once when it is not to be stored.
    pub fn handle_submit(&mut self, submission: &Submission, around: &mut Surroundings<'_>) {
        let submit = &*submission.submit;
        let asker = Asker { place: submit.place, ticket: submit.ticket, term: submission.term };
        let transient = submit.flags.contains(HeaderFlags::NO_PERSIST);
        let message_id = if transient {
            let term = self.lifted(self.led_term.unwrap_or_default());
            self.message_ids.next_transient(around.now.unix, term)
        } else {
            self.message_ids.next(around.now.unix)
        };
        let marked = Marked { message_id, from: submit.from.as_str(), to: submit.to.as_str() };
        around.out.marks.mark(around.now.instant, Point::Arrived, marked);
        let fields = MessageFields {
            message_id,
            unix_ms: around.now.unix.0,
            expire_s: submit.expire_s,
            flags: submit.flags,
            setting: submit.setting,
            device_tag: submit.device_tag,
            from: submit.from.as_str(),
            to: submit.to.as_str(),
            client_msg_no: submit.body.client_msg_no(),
            topic: submit.body.topic(),
            payload: submit.body.payload(),
        };
        if transient {
            self.pass_on(&fields, submit, asker, around);
            return;
        }
        let known = self.channels_by_key.get(&submit.channel);
        let announced = known.map_or(0, |index| self.channels[*index as usize].channel.announced_seq());
        let waiters = self.gather(around.limits, |bytes| {
            command::encode_append_head(&submit.channel, announced, submit.fingerprint, bytes);
            fields.encode(bytes);
        });
        waiters.push(Waiter::Append(asker));
    }

    /// A message that is not stored: to whoever is online.
    pub(super) fn pass_on(
        &mut self,
        fields: &MessageFields<'_>,
        submit: &Submit,
        asker: Asker,
        around: &mut Surroundings<'_>,
    ) {
        let mut bytes = Vec::new();
        fields.encode(&mut bytes);
        let message = StoredMessage::trusted(Bytes::from(bytes));
        around.out.counters.messages_transient += 1;
        around.out.marks.name(around.now.instant, marked(&message), 0, fields.payload.len());
        let (first, second) = submit.channel.members();
        for uid in [first, second].into_iter().take(if first == second { 1 } else { 2 }) {
            let Ok(uid) = Uid::parse(uid) else { continue };
            let to = around.routes.guess(around.routes.slot(uid.key_hash()));
            // By the home always: two ways could bring it twice, and it has no number by which to tell.
            let (channel, message, pusher) = (submit.channel.clone(), Some(message.clone()), Pusher::Home);
            let notice = Notify { uid, channel, seq: 0, message, pusher };
            around.out.frame(to, Frame::Notify(notice));
        }
        tell(asker, (fields.message_id, 0), Reason::Success, around.out);
    }

    /// Devices that have quit since the last call.
    pub fn take_quits(&mut self) -> Vec<Quit> {
        std::mem::take(&mut self.quits)
    }

    /// Stores a device's token.
    pub fn propose_token(
        &mut self,
        asker: (Place, u64),
        device: (&Uid, DeviceFlag, DeviceLevel, &str),
        limits: &Limits,
    ) {
        let (uid, flag, level, token) = device;
        let waiters = self.gather(limits, |bytes| command::encode_token(uid.as_str(), flag, level, token, bytes));
        waiters.push(Waiter::Api(asker.0, asker.1));
    }

    /// Blanks tokens.
    pub fn propose_quit(&mut self, asker: (Place, u64), uid: &Uid, flag: Option<DeviceFlag>, limits: &Limits) {
        let waiters = self.gather(limits, |bytes| command::encode_quit(uid.as_str(), flag, bytes));
        waiters.push(Waiter::Api(asker.0, asker.1));
    }

    /// A device of a flag that the home has never seen wants in. The group must agree on the flag first, else a crash would make it
    /// begin once more where the user's furthest device is by then, past messages that were promised to it. The connection is
    /// registered when that is done. What the leader knows beyond its group goes before it: so everybody knows where the flag begins, and a user with
    /// many rows needs no long command.
    pub fn propose_new_flag(&mut self, register: &Register, limits: &Limits) {
        self.flush_rows(limits);
        let waiters =
            self.gather(limits, |bytes| command::encode_new_flag(register.uid.as_str(), register.flag, bytes));
        waiters.push(Waiter::Register(Box::new(register.clone())));
    }

    /// A number for a connection that is accepted now: larger than all that were given by earlier leaders, and by this one.
    pub fn next_order(&mut self) -> u64 {
        let term = self.lifted(self.led_term.unwrap_or_default());
        self.order_last = (self.order_last + 1).max(term << ORDER_TERM_SHIFT);
        self.order_last
    }

    /// A connection has this number from an earlier leader, or from the slot that this one was part of.
    pub fn observe_order(&mut self, order: u64) {
        self.order_last = self.order_last.max(order);
    }

    /// A connection that may be waiting for its flag is gone.
    pub fn cancel_register(&mut self, address: SessionAddress) {
        self.cancel_registers(|register| register.address == address);
    }

    pub(super) fn cancel_registers(&mut self, ended: impl Fn(&Register) -> bool) {
        let pending = self.pending.iter_mut().map(|pending| &mut pending.waiters);
        let in_flight = self.in_flight.iter_mut().map(|(_, waiters)| waiters);
        for waiter in pending.chain(in_flight).flatten() {
            if matches!(waiter, Waiter::Register(register) if ended(register)) {
                *waiter = Waiter::Nobody;
            }
        }
    }

    /// A row of a home here has changed and is to be proposed with others before long.
    pub fn row_dirtied(&mut self, uid: &Uid, channel: &ChannelKey, now: Instant, limits: &Limits) {
        self.dirty_rows.push((uid.clone(), channel.clone()));
        self.rows_due.get_or_insert(now + limits.row_flush_after);
    }

    /// When changed rows must be proposed.
    #[must_use]
    pub fn rows_due(&self) -> Option<Instant> {
        self.rows_due
    }

    /// A session asks what lags, and what it has reported is not agreed on yet: answered when it is, because a session forgets what the
    /// answer covers, and the next leader would send that again.
    pub fn hold_resume(&mut self, resume: Resume) {
        self.resumes.retain(|held| held.address != resume.address);
        self.resumes.push(resume);
    }

    /// Turns changed rows into commands.
    pub fn flush_rows(&mut self, limits: &Limits) {
        self.rows_due = None;
        for (uid, channel) in std::mem::take(&mut self.dirty_rows) {
            let Some(row) = self.homes.home_mut(uid.as_str()).and_then(|home| home.take_dirty(&channel)) else {
                continue;
            };
            let (last_seq, read_seq, cursors) = (row.last_seq, row.read_seq, row.known_cursors().collect());
            let row =
                RowCommand { uid: uid.as_str(), kind: channel.kind, id: &channel.id, last_seq, read_seq, cursors };
            self.gather(limits, |bytes| command::encode_row(&row, bytes)).push(Waiter::Row(uid, channel));
        }
    }
}

#[cfg(test)]
#[path = "taking_tests.rs"]
mod tests;
