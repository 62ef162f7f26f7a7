//! The shard's side of its clients: connections, their packets, and what is pushed to them.

use crate::engine::channel::Fingerprint;
use crate::engine::delivery::Push;
use crate::engine::effect::{Effect, Effects, ServerPacket};
use crate::engine::event::{ClientPacket, ConnectPacket, Opened, SendPacket, SubPacket};
use crate::engine::marks::{Marked, Point};
use crate::engine::session::{Overdue, Phase, Route, SendVerdict, Session};
use crate::engine::slot;
use crate::format::frame::{Fetch, Frame, Origin, Received, Register, Resume, Submit, Unregister};
use crate::format::packet::{HeaderFlags, Reason};
use crate::ids::{ChannelKey, SessionAddress, SessionId, SlotId, Uid};
use crate::time::Now;

use super::Shard;

impl Shard {
    pub(super) fn handle_opened(&mut self, now: Now, opened: Opened, effects: &mut Effects) {
        self.out.counters.sessions_opened += 1;
        let id = opened.session;
        if self.session_count >= self.config.limits.sessions_max || self.stopping {
            self.out.counters.sessions_refused += 1;
            effects.push(Effect::Close { session: id });
            return;
        }
        let index = id.index as usize;
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        assert!(self.sessions[index].is_none(), "the gateway uses an index again only after Closed");
        let session = Session::new(id, now.instant, opened.handed_over, &self.config.limits);
        self.sessions[index] = Some(Box::new(session));
        self.session_count += 1;
    }

    pub(super) fn handle_packet(&mut self, now: Now, id: SessionId, packet: ClientPacket, effects: &mut Effects) {
        let Some(session) = self.session(id) else {
            return;
        };
        // Before it is let in, nothing but CONNECT keeps a connection: its home may be silent for ever, and a stranger never say who it is.
        if session.phase == Phase::Live || matches!(packet, ClientPacket::Connect(_)) {
            session.heard(now.instant);
        }
        if session.phase == Phase::Closing {
            return;
        }
        match packet {
            ClientPacket::Send(send) => self.handle_send(now, id, send, effects),
            ClientPacket::Recvack { message_id, .. } => self.handle_recvack(now, id, message_id),
            ClientPacket::Ping => effects.push(Effect::Send { session: id, packet: ServerPacket::Pong }),
            ClientPacket::Connect(connect) => self.handle_connect(now, id, &connect, effects),
            ClientPacket::BadSend { client_seq, flags } => self.handle_bad_send(id, client_seq, flags, effects),
            ClientPacket::Sub(sub) => suback(id, sub, effects),
            ClientPacket::Disconnect => self.close(id, effects),
            ClientPacket::Unexpected => self.handle_malformed(id, effects),
        }
    }

    fn handle_connect(&mut self, now: Now, id: SessionId, connect: &ConnectPacket, effects: &mut Effects) {
        let here = self.config.place;
        let Some(session) = self.session(id) else {
            return;
        };
        if session.phase != Phase::Fresh {
            self.handle_malformed(id, effects);
            return;
        }
        let handed_over = session.handed_over;
        let uid = match Session::check_connect(connect) {
            Ok(uid) => uid,
            Err(reason) => {
                self.refuse_connect(now, id, connect.client_timestamp_ms, reason, effects);
                return;
            }
        };
        if self.cluster.is_none() {
            // No key has a place before the table is known; nodes let nobody in so early unless they are told to.
            self.refuse_connect(now, id, connect.client_timestamp_ms, Reason::SystemError, effects);
            return;
        }
        let slot = self.routes.slot(uid.key_hash());
        let home = self.routes.guess(slot);
        if home.node == here.node && home.shard != here.shard && !handed_over {
            self.out.counters.sessions_handed_over += 1;
            self.remove_session(id);
            effects.push(Effect::HandOver { session: id, to: home.shard });
            return;
        }
        let session = self.session(id).expect("it was just seen");
        session.begin(uid, connect, slot);
        self.ask_home(id);
    }

    /// Asks a session's home to take it in, again after a change of the home's leader.
    pub(super) fn ask_home(&mut self, id: SessionId) {
        let place = self.config.place;
        let Some(identity) = self.session(id).and_then(|session| session.identity.as_ref()) else {
            return;
        };
        let register = Register {
            address: SessionAddress { place, session: id },
            uid: identity.uid.clone(),
            flag: identity.flag,
            device_id: identity.device_id.clone(),
            token: identity.token.clone(),
        };
        let slot = identity.slot;
        self.out.frame(self.routes.guess(slot), Frame::Register(Box::new(register)));
    }

    pub(super) fn refuse_connect(
        &mut self,
        now: Now,
        id: SessionId,
        client_timestamp_ms: i64,
        reason: Reason,
        effects: &mut Effects,
    ) {
        self.out.counters.connects_refused += 1;
        let packet = ServerPacket::Connack {
            reason: reason as u8,
            time_diff_ms: (now.unix.0 as i64).wrapping_sub(client_timestamp_ms),
            node_id: u64::from(self.config.place.node.0),
        };
        effects.push(Effect::Send { session: id, packet });
        self.close(id, effects);
    }

    /// Closes a session after what is queued for it.
    pub(super) fn close(&mut self, id: SessionId, effects: &mut Effects) {
        if let Some(session) = self.session(id) {
            session.phase = Phase::Closing;
            effects.push(Effect::Close { session: id });
        }
    }

    pub(super) fn handle_malformed(&mut self, id: SessionId, effects: &mut Effects) {
        self.out.counters.packets_malformed += 1;
        self.close(id, effects);
    }

    fn handle_send(&mut self, now: Now, id: SessionId, send: SendPacket, effects: &mut Effects) {
        let limits = self.config.limits;
        let refuse_all = self.refusal(send.flags);
        let Some(session) = self.session(id) else {
            return;
        };
        let verdict = session.check_send(now.instant, &send, &limits);
        if verdict == SendVerdict::Ignore {
            return;
        }
        self.out.counters.sends += 1;
        let refused = match verdict {
            SendVerdict::Refuse(reason) => Some(reason),
            SendVerdict::TooFast => Some(Reason::RateLimit),
            _ => None,
        };
        if let Some(reason) = refused {
            self.refuse_send(id, send.client_seq, send.flags, reason, effects);
            return;
        }
        if let Some(reason) = refuse_all {
            self.answer_send(id, send.client_seq, send.flags, (0, 0, reason as u8), effects);
            return;
        }
        match self.route(id, &send.channel_id) {
            Some(route) => self.submit_for(now, id, send, route),
            None => {
                let refused = (0, 0, Reason::BadChannelId as u8);
                self.answer_send(id, send.client_seq, send.flags, refused, effects);
            }
        }
        self.check_reading(id, effects);
    }

    /// Why no message can be taken now, whoever sends it.
    fn refusal(&self, flags: HeaderFlags) -> Option<Reason> {
        if self.left {
            return Some(Reason::SystemError);
        }
        if flags.contains(HeaderFlags::NO_PERSIST) {
            return None;
        }
        if !self.journal.writable() {
            return Some(Reason::SystemError);
        }
        let behind = self.journal.pending_bytes() >= self.config.limits.journal_refuse_bytes;
        behind.then_some(Reason::RateLimit)
    }

    /// Where the channel with this peer is: from the session's memory, or worked out and remembered.
    fn route(&mut self, id: SessionId, peer: &[u8]) -> Option<Route> {
        let session = self.session(id)?;
        if let Some(route) = session.route(peer) {
            return Some(route.clone());
        }
        let peer = Uid::parse(std::str::from_utf8(peer).ok()?).ok()?;
        let channel = ChannelKey::pair(&session.identity.as_ref()?.uid, &peer);
        let slot = self.routes.slot(channel.key_hash());
        let route = Route { peer, channel, slot };
        self.session(id)?.remember(route.clone());
        Some(route)
    }

    fn submit_for(&mut self, now: Now, id: SessionId, send: SendPacket, route: Route) {
        let Some(identity) = self.session(id).and_then(|session| session.identity.as_ref()) else {
            return;
        };
        let (from, device_tag) = (identity.uid.clone(), identity.device_tag);
        let origin = Origin::Session { session: id, client_seq: send.client_seq, flags: send.flags };
        let mut submit = Submit {
            place: self.config.place,
            ticket: 0,
            fingerprint: 0,
            channel: route.channel,
            from,
            to: route.peer,
            device_tag,
            flags: send.flags,
            setting: send.setting,
            expire_s: send.expire_s,
            body: send.body,
        };
        if !send.flags.contains(HeaderFlags::SYNC_ONCE) {
            self.submit(now, origin, route.slot, submit);
            return;
        }
        // A command goes into the recipient's queue, and into the sender's own for its other devices.
        let (from, to) = (submit.from.clone(), submit.to.clone());
        submit.channel = ChannelKey::command(&to);
        let own =
            (from != to).then(|| (Origin::Nobody, Submit { channel: ChannelKey::command(&from), ..submit.clone() }));
        for (origin, submit) in [Some((origin, submit)), own].into_iter().flatten() {
            let slot = self.routes.slot(submit.channel.key_hash());
            self.submit(now, origin, slot, submit);
        }
    }

    /// Numbers a message, keeps it until it is answered, and sends it to its slot's leader if that is known.
    pub(super) fn submit(&mut self, now: Now, origin: Origin, slot: SlotId, mut submit: Submit) {
        submit.ticket = self.submits.ticket(slot);
        submit.fingerprint = self.fingerprint(&submit);
        let leader = self.routes.leader(slot);
        if leader.is_none() && self.submits.sent_term(slot).is_none() {
            // The first one that waits asks; after that the clock does.
            self.ask_who_leads(slot);
        }
        let room = leader.is_none_or(|(_, place)| self.takes_submit(place, &submit));
        let direct = self.submits.add(now.instant, origin, submit, (leader.map(|(term, _)| term), room));
        if let (Some(submission), Some((_, place))) = (direct, leader) {
            self.out.frame(place, Frame::Submit(submission));
        }
    }

    /// Names a message within its channel. One that its sender gave no number is named by who took it and when, so that only our own
    /// repetitions are recognised.
    fn fingerprint(&self, submit: &Submit) -> u64 {
        let named = Fingerprint::new(submit.from.as_str(), submit.body.client_msg_no());
        if named != Fingerprint::NONE {
            return named.0;
        }
        let mut taken = [0; 20];
        taken[..8].copy_from_slice(&self.config.boot.to_le_bytes());
        taken[8..16].copy_from_slice(&submit.ticket.to_le_bytes());
        taken[16..18].copy_from_slice(&submit.place.node.0.to_le_bytes());
        taken[18..].copy_from_slice(&submit.place.shard.0.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&taken).max(1)
    }

    /// Answers a SEND that never counted as accepted.
    fn refuse_send(
        &mut self,
        id: SessionId,
        client_seq: u32,
        flags: HeaderFlags,
        reason: Reason,
        effects: &mut Effects,
    ) {
        self.out.counters.sends_refused += 1;
        self.out.counters.sends_rate_limited += u64::from(reason == Reason::RateLimit);
        let packet = ServerPacket::Sendack {
            flags: Session::echo(flags),
            message_id: 0,
            client_seq,
            message_seq: 0,
            reason: reason as u8,
        };
        effects.push(Effect::Send { session: id, packet });
    }

    /// Answers a SEND that was accepted.
    pub(super) fn answer_send(
        &mut self,
        id: SessionId,
        client_seq: u32,
        flags: HeaderFlags,
        (message_id, message_seq, reason): (i64, u32, u8),
        effects: &mut Effects,
    ) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.send_answered();
        let closing = session.phase == Phase::Closing;
        self.out.counters.sends_refused += u64::from(reason != Reason::Success as u8);
        self.out.counters.sends_rate_limited += u64::from(reason == Reason::RateLimit as u8);
        if !closing {
            let flags = Session::echo(flags);
            let packet = ServerPacket::Sendack { flags, message_id, client_seq, message_seq, reason };
            effects.push(Effect::Send { session: id, packet });
        }
        self.check_reading(id, effects);
    }

    fn check_reading(&mut self, id: SessionId, effects: &mut Effects) {
        let limits = self.config.limits;
        let behind = self.journal.pending_bytes() >= limits.journal_pause_bytes;
        let change = self.session(id).and_then(|session| session.reading(&limits, behind));
        if let Some(paused) = change {
            effects.push(Effect::Reading { session: id, paused });
        }
    }

    fn handle_bad_send(&mut self, id: SessionId, client_seq: u32, flags: HeaderFlags, effects: &mut Effects) {
        let limits = self.config.limits;
        let Some(session) = self.session(id) else {
            return;
        };
        let too_many = session.bad_payload(&limits);
        self.out.counters.payloads_bad += 1;
        self.refuse_send(id, client_seq, flags, Reason::PayloadDecodeError, effects);
        if too_many {
            self.close(id, effects);
        }
    }

    fn handle_recvack(&mut self, now: Now, id: SessionId, message_id: i64) {
        self.out.counters.recvacks += 1;
        if self.out.marks.may_want(message_id) {
            self.mark_acknowledged(now, id, message_id);
        }
        let limits = self.config.limits;
        self.push_with(id, |delivery, out| {
            delivery.handle_recvack(now.instant, message_id, &limits, out);
        });
    }

    fn mark_acknowledged(&mut self, now: Now, id: SessionId, message_id: i64) {
        let Some(uid) = self.session(id).and_then(Session::live).map(|identity| identity.uid.clone()) else {
            return;
        };
        // Only a recipient acknowledges.
        let marked = Marked { message_id, from: "", to: uid.as_str() };
        self.out.marks.mark(now.instant, Point::Acknowledged, marked);
    }

    pub(super) fn handle_backlogged(&mut self, now: Now, id: SessionId, full: bool) {
        let limits = self.config.limits;
        self.push_with(id, |delivery, out| delivery.handle_congestion(now.instant, full, &limits, out));
    }

    /// Lets a live session's delivery work and notes that it has to be settled at the end of the round.
    pub(super) fn push_with(
        &mut self,
        id: SessionId,
        work: impl FnOnce(&mut crate::engine::delivery::Delivery, &mut Vec<Push>),
    ) {
        let mut pushes = std::mem::take(&mut self.pushes);
        if let Some(identity) = self.session(id).and_then(Session::live) {
            work(&mut identity.delivery, &mut pushes);
            if !identity.delivery.unsettled {
                identity.delivery.unsettled = true;
                self.dirty_sessions.push(id.index);
            }
        }
        self.pushes = pushes;
        if !self.pushes.is_empty() {
            self.carry_out_pushes(id);
        }
    }

    /// Turns what a delivery wants into packets (kept until the round's end) and frames.
    fn carry_out_pushes(&mut self, id: SessionId) {
        let address = SessionAddress { place: self.config.place, session: id };
        let mut pushes = std::mem::take(&mut self.pushes);
        for push in pushes.drain(..) {
            let Some(identity) = self.session(id).and_then(|session| session.identity.as_ref()) else {
                break;
            };
            match push {
                Push::Recv { message, seq } => {
                    let own = message.is_from(&identity.uid);
                    self.out.counters.recvs += 1;
                    self.recvs.push((id, ServerPacket::Recv { message, seq, own }));
                }
                Push::Fetch { channel, from_seq, messages_max } => {
                    let to = self.routes.guess(self.routes.slot(channel.key_hash()));
                    self.out.frame(to, Frame::Fetch(Fetch { address, channel, from_seq, messages_max }));
                }
                Push::Report { channel, seq } => {
                    let (uid, flag, slot) = (identity.uid.clone(), identity.flag, identity.slot);
                    self.out.frame(self.routes.guess(slot), Frame::Received(Received { uid, flag, channel, seq }));
                }
                Push::Resume { question } => {
                    let (uid, slot) = (identity.uid.clone(), identity.slot);
                    self.out.frame(self.routes.guess(slot), Frame::Resume(Resume { address, uid, question }));
                }
            }
        }
        self.pushes = pushes;
    }

    /// Ends a round for the sessions that had something to do.
    pub(super) fn settle_sessions(&mut self, now: Now, effects: &mut Effects) {
        for index in std::mem::take(&mut self.dirty_sessions) {
            let Some(id) = self.sessions.get(index as usize).and_then(|s| s.as_ref()).map(|s| s.id) else {
                continue;
            };
            let mut pushes = std::mem::take(&mut self.pushes);
            if let Some(identity) = self.session(id).and_then(|session| session.identity.as_deref_mut()) {
                identity.delivery.unsettled = false;
                identity.delivery.settle(&mut pushes);
            }
            self.pushes = pushes;
            self.carry_out_pushes(id);
        }
        for (session, packet) in self.recvs.drain(..) {
            if let ServerPacket::Recv { message, .. } = &packet {
                slot::mark(&mut self.out.marks, now.instant, Point::Delivered, message);
            }
            effects.push(Effect::Send { session, packet });
        }
    }

    pub(super) fn handle_closed(&mut self, id: SessionId) {
        let Some(session) = self.remove_session(id) else {
            return;
        };
        self.out.counters.sessions_closed += 1;
        if let Some(identity) = session.identity {
            let address = SessionAddress { place: self.config.place, session: id };
            let home = self.routes.guess(identity.slot);
            self.out.frame(home, Frame::Unregister(Unregister { address, uid: identity.uid }));
        }
    }

    fn remove_session(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.session(id)?;
        let session = self.sessions[id.index as usize].take()?;
        self.session_count -= 1;
        self.live_count -= usize::from(session.counted_live);
        Some(session)
    }

    /// Looks at every session: who is overdue, what must be sent again.
    pub(super) fn sweep_sessions(&mut self, now: Now, effects: &mut Effects) {
        let limits = self.config.limits;
        for index in 0..self.sessions.len() {
            let Some(session) = self.sessions[index].as_deref_mut() else {
                continue;
            };
            let id = session.id;
            let waits = session.live().is_some_and(|identity| identity.delivery.waits());
            match session.overdue(now, &limits) {
                Some(Overdue::Close) => effects.push(Effect::Close { session: id }),
                Some(Overdue::Silent) => {
                    self.out.counters.sessions_idle_closed += 1;
                    self.close(id, effects);
                    continue;
                }
                None => {}
            }
            if waits {
                let mut counts = (0, 0);
                self.push_with(id, |delivery, out| counts = delivery.sweep(now.instant, &limits, out));
                self.out.counters.recvs_redelivered += counts.0;
                self.out.counters.recvs_abandoned += counts.1;
            }
            self.check_reading(id, effects);
        }
    }
}

fn suback(id: SessionId, sub: Box<SubPacket>, effects: &mut Effects) {
    effects.push(Effect::Send { session: id, packet: ServerPacket::Suback { sub, reason: Reason::Success as u8 } });
}
