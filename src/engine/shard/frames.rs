//! The shard's side of frames: each is handed to the one machine it is for. A frame for a slot that is not led here is dropped: its sender
//! repeats what matters.

use crate::engine::devices::{self, Conflict};
use crate::engine::effect::{Effect, Effects, ServerPacket};
use crate::engine::event::ApiAnswer;
use crate::engine::home::Online;
use crate::engine::marks::{Marked, Point};
use crate::engine::session::Phase;
use crate::engine::slot::{self, Asker};
use crate::engine::submits::Answer;
use crate::format::frame::{
    Backlog, BacklogRow, Fetch, Fetched, Frame, Kick, Origin, Received, Register, Registered, Resume, Submission,
    Submitted, Unregister,
};
use crate::format::packet::{HeaderFlags, Reason};
use crate::ids::{ChannelKey, DeviceFlag, DeviceLevel, Place, SessionAddress, Uid};
use crate::time::Now;

use super::{OfflineMode, Shard};

impl Shard {
    pub(super) fn handle_frame(&mut self, now: Now, from: Place, frame: Frame, effects: &mut Effects) {
        match frame {
            Frame::Submit(submission) => self.handle_submit(now, &submission),
            Frame::Submitted(submitted) => self.handle_submitted(now, submitted, effects),
            Frame::Notify(notify) => self.handle_notify(now, from, &notify),
            Frame::Notified(notified) => {
                if let Some(place) = self.leading_of(notified.channel.key_hash()) {
                    self.hosted[place].slot.handle_notified(&notified);
                }
            }
            Frame::Register(register) => self.handle_register(now, &register),
            Frame::Registered(registered) => self.handle_registered(now, registered, effects),
            Frame::Unregister(unregister) => self.handle_unregister(&unregister),
            Frame::Deliver(deliver) => self.handle_deliver(now, deliver),
            Frame::Whereabouts(told) => self.handle_whereabouts(from, *told),
            Frame::Received(received) => self.handle_received(now, &received),
            Frame::Resume(resume) => self.handle_resume(&resume),
            Frame::Backlog(backlog) => self.handle_backlog(now, backlog),
            Frame::Fetch(fetch) => self.handle_fetch(fetch, effects),
            Frame::Fetched(fetched) => self.handle_fetched(now, fetched),
            Frame::Kick(kick) => self.handle_kick(now, kick, effects),
            Frame::Ask(ask) => self.handle_ask(now, *ask, effects),
            Frame::Answered(answered) => self.handle_answered(*answered),
            Frame::Leaders(leaders) => self.handle_leaders(leaders, effects),
            Frame::WhoLeads(asked) => self.handle_who_leads(asked),
            Frame::Present(present) => self.handle_present(now, &present),
            Frame::Raft(message) if !self.left => self.handle_raft(now, *message, effects),
            // This node is as good as stopped.
            Frame::Raft(_) => {}
            Frame::Join(join) => self.handle_join(now, from, *join),
            Frame::Joined(joined) => self.handle_joined(now, *joined),
            Frame::Propose(propose) => self.handle_propose(propose),
            Frame::Proposed(proposed) => self.handle_proposed(now, proposed),
            Frame::SlotReports(reports) => self.handle_slot_reports(reports),
            Frame::Alive(alive) => self.handle_alive(now, from, alive),
            Frame::Rumour(rumour) => self.hear_of_node(rumour.node, rumour.up),
            Frame::SnapshotOffer(offer) => self.handle_snapshot_offer(now, from, *offer),
            Frame::SnapshotWant(want) => self.handle_snapshot_want(now, from, want),
            Frame::SnapshotPart(part) => self.handle_snapshot_part(now, from, &part, effects),
            Frame::SnapshotTaken(taken) => self.handle_snapshot_taken(now, from, taken, effects),
            Frame::Repair(repair) => self.handle_repair(from, repair, effects),
            Frame::Repaired(repaired) => self.handle_repaired(from, &repaired),
        }
    }

    fn handle_submit(&mut self, now: Now, submission: &Submission) {
        let submit = &*submission.submit;
        let asker = Asker { place: submit.place, ticket: submit.ticket, term: submission.term };
        let place = self.leading(submission.slot);
        let Some(place) = place.filter(|place| self.hosted[*place].slot.group().term() == submission.term) else {
            slot::refuse(asker, Reason::NodeNotMatch, &mut self.out);
            self.tell_leader(submission.slot, submit.place);
            return;
        };
        if !self.hosted[place].slot.owns(submit.channel.key_hash()) {
            let (ticket, term, reason) = (asker.ticket, asker.term, Submitted::MOVED);
            let moved = Submitted { ticket, term, message_id: 0, message_seq: 0, reason };
            self.out.frame(asker.place, Frame::Submitted(moved));
            return;
        }
        // Asked here too: the journal that matters is the channel's, not the sender's.
        let stored = !submit.flags.contains(HeaderFlags::NO_PERSIST);
        if stored && !self.journal.writable() {
            slot::refuse(asker, Reason::SystemError, &mut self.out);
            return;
        }
        if stored && self.journal.pending_bytes() >= self.config.limits.journal_refuse_bytes {
            slot::refuse(asker, Reason::RateLimit, &mut self.out);
            return;
        }
        self.with_slot(place, now, |slot, _, around| slot.handle_submit(submission, around));
    }

    fn handle_submitted(&mut self, now: Now, submitted: Submitted, effects: &mut Effects) {
        self.mark_answered(now, &submitted);
        let Answer::Final(origin) = self.submits.answer(&submitted) else {
            if submitted.reason == Submitted::MOVED {
                self.move_submits();
            }
            return;
        };
        let Submitted { message_id, message_seq, reason, .. } = submitted;
        self.answer_origin(origin, (message_id, message_seq, reason), effects);
    }

    /// The sender's shard hears what became of a message, and says when it had taken it.
    fn mark_answered(&mut self, now: Now, submitted: &Submitted) {
        if !self.out.marks.may_want(submitted.message_id) {
            return;
        }
        let Some((submit, since)) = self.submits.asked(submitted.ticket) else { return };
        let message_id = submitted.message_id;
        let marked = Marked { message_id, from: submit.from.as_str(), to: submit.to.as_str() };
        if message_id != 0 && self.out.marks.wants(now.instant, marked) {
            self.out.marks.push(since, Point::Taken, message_id);
            self.out.marks.push(now.instant, Point::Answered, message_id);
        }
    }

    /// Says to whoever waits what became of a message.
    pub(super) fn answer_origin(
        &mut self,
        origin: Origin,
        (message_id, message_seq, reason): (i64, u32, u8),
        effects: &mut Effects,
    ) {
        match origin {
            Origin::Session { session, client_seq, flags } => {
                self.answer_send(session, client_seq, flags, (message_id, message_seq, reason), effects);
            }
            Origin::Api { ticket } if reason == Reason::Success as u8 => {
                self.out.answer(ticket, ApiAnswer::Sent { message_id, message_seq });
            }
            Origin::Api { ticket } if reason == Reason::IdempotencyConflict as u8 => {
                let text = "client_msg_no was used before with another payload";
                self.out.answer(ticket, ApiAnswer::Refused { reason, text: text.into() });
            }
            Origin::Api { ticket } => self.out.answer(ticket, ApiAnswer::Busy),
            Origin::Nobody => {}
        }
    }

    // ---- the home's part ----

    fn handle_register(&mut self, now: Now, register: &Register) {
        let Register { address, uid, flag, device_id, token } = register;
        let refused = |reason: Reason| Registered {
            session: address.session,
            reason: reason as u8,
            level: DeviceLevel::Slave,
            order: 0,
        };
        let Some(place) = self.leading_of(uid.key_hash()) else {
            self.out.frame(address.place, Frame::Registered(refused(Reason::NodeNotMatch)));
            self.tell_leader(self.routes.slot(uid.key_hash()), address.place);
            return;
        };
        if let Some(kick) = self.hosted[place].endings.asks_twice(*address, uid) {
            // It was let in when it asked first, and was to end since.
            self.out.frame(address.place, Frame::Kick(kick));
            return;
        }
        let home = self.hosted[place].slot.home_or_new(uid);
        let level = match devices::admit(home.devices(), *flag, token, self.config.token_auth) {
            Ok(level) => level,
            Err(devices::WrongToken) => {
                self.hosted[place].slot.forget_empty_home(uid);
                self.out.frame(address.place, Frame::Registered(refused(Reason::AuthFailed)));
                return;
            }
        };
        if !home.flags().contains(flag) {
            let limits = self.config.limits;
            self.with_slot(place, now, |slot, _, _| slot.propose_new_flag(register, &limits));
            return;
        }
        // It may have asked twice, because the answer was late: then it came when it asked first, and whoever has come since came later.
        let same = |known: &&Online| known.address == *address && known.flag == *flag && known.device_id == *device_id;
        let first = home.online().iter().find(same).map(|known| known.order);
        if first.is_none() {
            self.end_conflicting(place, register, level);
        }
        let home = self.hosted[place].slot.home_or_new(uid);
        if self.config.offline == OfflineMode::Sync {
            let limits = self.config.limits;
            for channel in home.pass_over_missed(*flag) {
                self.with_slot(place, now, |slot, _, _| slot.row_dirtied(uid, &channel, now.instant, &limits));
            }
        }
        let order = first.unwrap_or_else(|| self.hosted[place].slot.next_order());
        let home = self.hosted[place].slot.home_or_new(uid);
        let online = Online { address: *address, flag: *flag, level, device_id: device_id.clone(), order, named: true };
        home.register(online);
        // Another process of the gateway calls it so, if one of that name was to end.
        self.session_has_ended(place, *address);
        let registered = Registered { session: address.session, reason: Reason::Success as u8, level, order };
        self.out.frame(address.place, Frame::Registered(registered));
        if self.config.offline == OfflineMode::Push {
            self.send_backlog(place, *address, uid, *flag);
        }
    }

    /// Ends the connections that a new one replaces or kicks, and the oldest one when there are too many.
    fn end_conflicting(&mut self, place: usize, register: &Register, level: DeviceLevel) {
        let home = self.hosted[place].slot.home_or_new(&register.uid);
        let new = (register.flag, level, &*register.device_id);
        let mut ended: Vec<(SessionAddress, Option<&'static str>)> = Vec::new();
        // A connection is not its own rival.
        for known in home.online().iter().filter(|known| known.address != register.address) {
            match devices::conflict(new, (known.flag, &known.device_id)) {
                Conflict::None => {}
                Conflict::Replaced => ended.push((known.address, None)),
                Conflict::Kicked => ended.push((known.address, Some("login in other device"))),
            }
        }
        let others = home.online().iter().filter(|known| known.address != register.address).count();
        let staying = others - ended.len();
        if staying >= self.config.limits.sessions_per_user_max {
            let oldest = home.online().iter().find(|known| ended.iter().all(|(address, _)| *address != known.address));
            if let Some(oldest) = oldest {
                ended.push((oldest.address, Some("too many connections of this user")));
            }
        }
        for (address, text) in ended {
            self.end_session(place, &register.uid, address, text);
        }
    }

    pub(super) fn send_backlog(&mut self, place: usize, address: SessionAddress, uid: &Uid, flag: DeviceFlag) {
        let Some(home) = self.hosted[place].slot.home(uid) else {
            return;
        };
        let (rows, more) = home.lagging(flag, self.config.limits.backlog_rows_max);
        if rows.is_empty() {
            return;
        }
        let rows =
            rows.into_iter().map(|(channel, cursor, last_seq)| BacklogRow { channel, cursor, last_seq }).collect();
        let (slot, term) = (self.hosted[place].slot.id(), self.hosted[place].slot.group().term());
        let backlog = Backlog { session: address.session, rows, more, question: 0, term, slot };
        self.out.frame(address.place, Frame::Backlog(backlog));
    }

    fn handle_unregister(&mut self, unregister: &Unregister) {
        let Some(place) = self.leading_of(unregister.uid.key_hash()) else {
            return;
        };
        self.session_has_ended(place, unregister.address);
        let slot = &mut self.hosted[place].slot;
        slot.cancel_register(unregister.address);
        if slot.home(&unregister.uid).is_some() {
            slot.home_or_new(&unregister.uid).unregister(unregister.address);
            slot.forget_empty_home(&unregister.uid);
        }
    }

    fn handle_received(&mut self, now: Now, received: &Received) {
        let Received { uid, flag, channel, seq } = received;
        let Some(place) = self.leading_of(uid.key_hash()) else {
            return;
        };
        let limits = self.config.limits;
        self.with_slot(place, now, |slot, _, _| {
            if slot.home(uid).is_some() && slot.home_or_new(uid).receive(channel, *flag, *seq) {
                slot.row_dirtied(uid, channel, now.instant, &limits);
            }
        });
    }

    fn handle_resume(&mut self, resume: &Resume) {
        let Some(place) = self.leading_of(resume.uid.key_hash()) else {
            return;
        };
        let Some(home) = self.hosted[place].slot.home(&resume.uid) else {
            return;
        };
        // One that its gateway is yet to name asks again when that is done: what it has reported may have been lost with a merge, and it forgets
        // what the answer covers.
        let known = home.online().iter().find(|online| online.address == resume.address && online.named);
        let Some(flag) = known.map(|online| online.flag) else {
            return;
        };
        if home.runs_ahead(flag) {
            self.hosted[place].slot.hold_resume(resume.clone());
            return;
        }
        let (rows, more) = home.lagging(flag, self.config.limits.backlog_rows_max);
        let rows =
            rows.into_iter().map(|(channel, cursor, last_seq)| BacklogRow { channel, cursor, last_seq }).collect();
        let (slot, term) = (self.hosted[place].slot.id(), self.hosted[place].slot.group().term());
        let backlog = Backlog { session: resume.address.session, rows, more, question: resume.question, term, slot };
        self.out.frame(resume.address.place, Frame::Backlog(backlog));
    }

    // ---- the gateway's part ----

    fn handle_registered(&mut self, now: Now, registered: Registered, effects: &mut Effects) {
        let Some(session) = self.session(registered.session) else {
            return;
        };
        if session.phase == Phase::Live {
            // It was asked twice, and this is another leader's answer: the later leader knows the session by the greater number.
            let identity = session.identity.as_deref_mut().expect("who is live has said who it is");
            identity.order = identity.order.max(registered.order);
            return;
        }
        if session.phase != Phase::Registering {
            return;
        }
        let Some(identity) = session.identity.as_deref_mut() else {
            return;
        };
        let client_timestamp_ms = identity.client_timestamp_ms;
        if registered.reason == Reason::NodeNotMatch as u8 {
            // Its home's leader is another one, or being elected: asked again when that is known, until the client's patience ends.
            return;
        }
        if registered.reason != Reason::Success as u8 {
            let auth = registered.reason == Reason::AuthFailed as u8;
            // It is unregistered when it closes all the same: its home may have taken it in when it was asked the first time, with an answer
            // that is late or lost, and have refused it when it was asked again.
            let reason = if auth { Reason::AuthFailed } else { Reason::SystemError };
            self.refuse_connect(now, registered.session, client_timestamp_ms, reason, effects);
            return;
        }
        identity.level = registered.level;
        identity.order = registered.order;
        identity.token = "".into();
        session.phase = Phase::Live;
        session.counted_live = true;
        self.live_count += 1;
        self.out.counters.connects_accepted += 1;
        let packet = ServerPacket::Connack {
            reason: Reason::Success as u8,
            time_diff_ms: (now.unix.0 as i64).wrapping_sub(client_timestamp_ms),
            node_id: u64::from(self.config.place.node.0),
        };
        effects.push(Effect::Send { session: registered.session, packet });
    }

    fn handle_backlog(&mut self, now: Now, backlog: Backlog) {
        if self.is_outdated(backlog.session, backlog.slot, backlog.term) {
            return;
        }
        let limits = self.config.limits;
        let rows: Vec<(ChannelKey, u32, u32)> =
            backlog.rows.into_iter().map(|row| (row.channel, row.cursor, row.last_seq)).collect();
        self.push_with(backlog.session, |delivery, out| {
            delivery.handle_backlog(now.instant, &rows, (backlog.more, backlog.question), &limits, out);
        });
    }

    fn handle_fetched(&mut self, now: Now, fetched: Fetched) {
        let limits = self.config.limits;
        let Fetched { session, channel, messages, next_seq, last_seq } = fetched;
        self.push_with(session, |delivery, out| {
            delivery.handle_fetched(now.instant, &channel, (messages, next_seq, last_seq), &limits, out);
        });
    }

    fn handle_kick(&mut self, now: Now, kick: Kick, effects: &mut Effects) {
        let close_at = now.instant + self.config.limits.kick_close_after;
        let Some(session) = self.session(kick.session) else {
            return;
        };
        if session.phase == Phase::Closing {
            return;
        }
        let whose = session.identity.as_ref().map(|identity| (identity.uid.clone(), identity.slot));
        self.out.counters.sessions_kicked += 1;
        if let Some((uid, slot)) = whose {
            // As far as its home is concerned it has ended, however long it takes the client to hear of it.
            let home = self.routes.guess(slot);
            let address = SessionAddress { place: self.config.place, session: kick.session };
            self.out.frame(home, Frame::Unregister(Unregister { address, uid }));
        }
        match kick.notice {
            None => self.close(kick.session, effects),
            Some(notice) => {
                let session = self.session(kick.session).expect("it was just seen");
                session.close_later(close_at);
                let packet = ServerPacket::Disconnect { reason: notice.reason, text: notice.text };
                effects.push(Effect::Send { session: kick.session, packet });
            }
        }
    }

    // ---- the channel's part ----

    fn handle_fetch(&mut self, fetch: Fetch, effects: &mut Effects) {
        let slot = self.routes.slot(fetch.channel.key_hash());
        let Some(place) = self.leading_of(fetch.channel.key_hash()) else {
            // The session asks again when it hears who leads, or loses patience.
            self.tell_leader(slot, fetch.address.place);
            return;
        };
        match self.hosted[place].slot.channel_index(&fetch.channel) {
            Some(channel) => self.read_for_fetch(place, channel, fetch, effects),
            None => {
                let next_seq = fetch.from_seq;
                self.answer_fetch(&fetch, Vec::new(), next_seq, 0);
            }
        }
    }

    pub(super) fn answer_fetch(
        &mut self,
        fetch: &Fetch,
        messages: Vec<(u32, crate::format::message::StoredMessage)>,
        next_seq: u32,
        last_seq: u32,
    ) {
        let fetched =
            Fetched { session: fetch.address.session, channel: fetch.channel.clone(), messages, next_seq, last_seq };
        let frame = Frame::Fetched(fetched);
        // When many sessions of a shard catch up at once, what they fetch may be more than its link takes. Who gets nothing asks again
        // after its patience.
        if self.takes_bytes(fetch.address.place, frame.weight()) {
            self.out.frame(fetch.address.place, frame);
        } else {
            self.out.counters.fetches_put_off += 1;
        }
    }
}
