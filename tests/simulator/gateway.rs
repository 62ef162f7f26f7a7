//! What stands between sockets and a shard, as the shell's gateway does it: bytes to events, effects to bytes, back-pressure both
//! ways, moves between shards. Everything that leaves a shard towards a client passes [`World::write_packet`], so the
//! checkers of what leaves are called there, and most canaries sit there.

use std::time::Duration;

use jindou::engine::effect::ServerPacket;
use jindou::engine::event::{ClientPacket, Event, Opened};
use jindou::engine::shard::Durability;
use jindou::format::message::StoredMessage;
use jindou::format::packet::{HeaderFlags, Reason};
use jindou::ids::{SessionId, ShardId};

use crate::checkers::kicks::Due;
use crate::checkers::limits::Fate;
use crate::checkers::{Promise, same_answer};
use crate::ledger::{self, Accepted, Family, Kind};
use crate::network;
use crate::sabotage::Sabotage;
use crate::shard_host::{GateSession, Member, PendingSend};
use crate::wire::ServerWire;
use crate::world::{Action, HostRef, World};

/// A shard is told that a session is full above this many waiting bytes, and that it has drained below the other.
const BACKLOG_MARKS: (usize, usize) = (8 << 10, 2 << 10);

/// Beyond the mark only answers and what is in the RECV window may still come.
const BACKLOG_BYTES_MAX: usize = 8 << 20;

/// How long a closing session may take to be written out.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

impl World {
    /// A connection reaches its node: one of the shards takes it.
    pub fn accept(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let node = &mut self.nodes[connection.node];
        let gone = connection.cut || !connection.client_open;
        if !node.up || node.stopping || gone {
            connection.server_open = false;
            self.end_to_client(index);
            return;
        }
        connection.life = node.life;
        let shard = self.chances.network.below(u64::from(self.plan.shards)) as usize;
        let wire = ServerWire::new(connection.transport, self.plan.network.plain);
        let session = node.hosts[shard].gate.insert(GateSession::new(index, wire));
        connection.at = Some((shard, session));
        let host = HostRef { node: connection.node, shard };
        self.say(|| format!("connection {index} is session {session} of {host}"));
        self.happen(host, Event::Opened(Opened { session, handed_over: false }));
    }

    fn host_of(&self, connection: usize) -> Option<(HostRef, SessionId)> {
        let connection = &self.connections[connection];
        let (shard, session) = connection.at?;
        Some((HostRef { node: connection.node, shard }, session))
    }

    fn session(&mut self, host: HostRef, session: SessionId) -> Option<&mut GateSession> {
        self.nodes[host.node].hosts.get_mut(host.shard)?.gate.find(session)
    }

    /// Bytes reach the node.
    pub fn arrive(&mut self, index: usize, bytes: Vec<u8>) {
        let connection = &mut self.connections[index];
        if connection.cut || !connection.server_open {
            return;
        }
        connection.heard_ns = self.now_ns;
        if connection.moving {
            connection.held.extend_from_slice(&bytes);
            return;
        }
        let Some((host, id)) = self.host_of(index) else { return };
        if let Some(session) = self.session(host, id) {
            session.inbox.extend_from_slice(&bytes);
            self.decode(host, id);
        }
    }

    /// The client's end reaches the node.
    pub fn arrive_end(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.cut || !connection.server_open {
            return;
        }
        if connection.moving {
            connection.held_end = true;
            return;
        }
        let Some((host, id)) = self.host_of(index) else { return };
        if let Some(session) = self.session(host, id) {
            session.ended = true;
            self.decode(host, id);
        }
    }

    /// Turns waiting bytes into events, unless the shard has asked to wait or CONNECT is under way; the end of the client
    /// comes after the last byte.
    fn decode(&mut self, host: HostRef, id: SessionId) {
        let forge = self.sabotages(Sabotage::ForgeAck, 20);
        let unreadable_max = self.plan.limits.bad_payloads_max;
        let Some(session) = self.session(host, id) else { return };
        if session.closing {
            session.inbox.clear();
        } else if session.paused || session.awaiting {
            return;
        }
        if !session.inbox.is_empty() {
            let bytes = std::mem::take(&mut session.inbox);
            let mut reply = Vec::new();
            let (packets, result) = session.wire.feed(&bytes, &mut reply);
            session.out.extend_from_slice(&reply);
            for packet in packets {
                if let Some(session) = self.session(host, id) {
                    session.note_fault(&packet, unreadable_max);
                }
                if let Some(session) = self.session(host, id)
                    && session.awaiting
                {
                    session.early.push(packet);
                    continue;
                }
                if let ClientPacket::Connect(connect) = &packet
                    && let Some(session) = self.session(host, id)
                {
                    session.awaiting = true;
                    session.connect = Some(connect.clone());
                }
                if let ClientPacket::Send(send) = &packet
                    && forge
                {
                    self.forge_ack(host, id, send.client_seq, send.body.client_msg_no());
                    continue;
                }
                self.happen(host, Event::Packet { session: id, packet });
            }
            self.pump(host, id);
            if let Err(what) = result {
                self.session(host, id).into_iter().for_each(|session| session.at_fault = true);
                self.happen(host, Event::Malformed { session: id, what });
                if let Some(session) = self.session(host, id) {
                    session.inbox.clear();
                }
            }
        }
        let Some(session) = self.session(host, id) else { return };
        if session.ended {
            let index = session.connection;
            self.connections[index].server_open = false;
            self.forget_session(host, id, index);
            self.checkers.kicks.forget(index);
        }
    }

    /// Takes a session out and tells the shard.
    fn forget_session(&mut self, host: HostRef, id: SessionId, connection: usize) {
        self.connections[connection].at = None;
        let gate = &mut self.nodes[host.node].hosts[host.shard].gate;
        if self.sabotage == Some(Sabotage::SwallowClosed) && self.saboteur.one_in(3) {
            return gate.lose(id);
        }
        gate.remove(id);
        self.happen(host, Event::Closed { session: id });
    }

    /// A shard wants a session's socket to be read, or not.
    pub fn set_reading(&mut self, host: HostRef, id: SessionId, paused: bool) {
        if let Some(session) = self.session(host, id) {
            session.paused = paused;
            if !paused {
                self.decode(host, id);
            }
        }
    }

    /// A shard wants a session closed once everything is written.
    pub fn begin_close(&mut self, host: HostRef, id: SessionId) {
        let life = self.nodes[host.node].life;
        let Some(session) = self.session(host, id) else { return };
        session.closing = true;
        if session.out.is_empty() {
            self.close_session(host, id);
        } else {
            self.after(CLOSE_PATIENCE, Action::CloseNow(host, life, id));
        }
    }

    /// Closes a session now.
    pub fn close_session(&mut self, host: HostRef, id: SessionId) {
        let Some(session) = self.session(host, id) else { return };
        let index = session.connection;
        // One that has been silent for so long ends by itself, and so do all of a node that stops; from another node the word of a master may
        // come later. Whoever has done what ends a connection does not hear of a master any more, wherever that came.
        let at_fault = session.at_fault;
        let silent_ns = self.now_ns - self.connections[index].heard_ns;
        let idle = u128::from(silent_ns) >= self.plan.limits_by_true_time().idle_timeout.as_nanos();
        if at_fault || self.plan.nodes > 1 && (idle || self.nodes[host.node].stopping) {
            self.checkers.kicks.forget(index);
        }
        self.release_kicks();
        self.say(|| format!("{host} closes connection {index}"));
        self.connections[index].server_open = false;
        self.end_to_client(index);
        let verdict = self.checkers.kicks.closed(index);
        self.judge(Promise::Kicks, verdict);
        self.forget_session(host, id, index);
    }

    /// Masters that have gone are remembered by who led their homes when they came: where another leads by now, nobody has to end for them. Who has
    /// been told to go is not named to a new leader, however long its socket is open.
    pub fn release_kicks(&mut self) {
        let is_void = |due: &Due| {
            let slot = self.slot_of_user(due.user);
            let since_ns = self.checkers.leaders.since_ns(slot);
            let led_anew = slot != due.slot || since_ns.is_some_and(|since_ns| since_ns > due.since_ns);
            let told_to_go = self.checkers.kicks.is_noticed(due.newcomer);
            (told_to_go || !self.connections[due.newcomer].server_open) && (led_anew || !due.master)
        };
        let void: Vec<usize> =
            self.checkers.kicks.due().filter(|(_, due)| is_void(due)).map(|(_, due)| due.newcomer).collect();
        void.into_iter().for_each(|newcomer| self.checkers.kicks.release(newcomer));
    }

    /// A session moves to another shard of the node, with what it was and what was read.
    pub fn hand_over(&mut self, host: HostRef, id: SessionId, to: ShardId) {
        let node = &mut self.nodes[host.node];
        let life = node.life;
        assert_ne!(usize::from(to.0), host.shard, "a session is handed over to another shard");
        let Some(session) = node.hosts[host.shard].gate.remove(id) else { return };
        let connection = &mut self.connections[session.connection];
        connection.at = None;
        connection.moving = true;
        let (low, high) = self.plan.network.mesh_us;
        let span = self.chances.network.span_us(low, high);
        let target = HostRef { node: host.node, shard: usize::from(to.0) };
        self.after(span, Action::MoveIn(target, life, Box::new(session)));
    }

    /// A session arrives from another shard.
    pub fn move_in(&mut self, host: HostRef, life: u64, session: GateSession) {
        let node = &mut self.nodes[host.node];
        if node.life != life {
            return;
        }
        let index = session.connection;
        if node.hosts[host.shard].stopped {
            // Nobody takes it any more: its socket ends with the process, or a little before.
            let connection = &mut self.connections[index];
            (connection.moving, connection.server_open) = (false, false);
            self.checkers.kicks.forget(index);
            return self.end_to_client(index);
        }
        let connect = session.connect.clone();
        let id = node.hosts[host.shard].gate.insert(session);
        let connection = &mut self.connections[index];
        connection.moving = false;
        connection.at = Some((host.shard, id));
        let held = std::mem::take(&mut connection.held);
        let held_end = std::mem::take(&mut connection.held_end);
        self.happen(host, Event::Opened(Opened { session: id, handed_over: true }));
        let connect = connect.expect("only a session that has said CONNECT moves");
        self.happen(host, Event::Packet { session: id, packet: ClientPacket::Connect(connect) });
        self.coverage.add("seen moves to another shard", 1);
        self.say(|| format!("connection {index} moved: session {id} of {host}"));
        self.pump(host, id);
        if !held.is_empty() {
            self.arrive(index, held);
        }
        if held_end {
            self.arrive_end(index);
        }
    }

    /// Writes a packet to a session; a session that is gone is no error.
    pub fn write_packet(&mut self, host: HostRef, id: SessionId, packet: ServerPacket) {
        if self.session(host, id).is_none() {
            return;
        }
        match packet {
            ServerPacket::Sendack { client_seq, .. } => {
                if let Some(packet) = self.judge_sendack(host, id, client_seq, packet) {
                    self.encode(host, id, &packet);
                }
            }
            ServerPacket::Recv { message, seq, own } => self.write_recv(host, id, message, seq, own),
            ServerPacket::Connack { reason, .. } => {
                let written = self.encode(host, id, &packet);
                let verdict = if written == reason {
                    Ok(())
                } else {
                    Err(format!("CONNACK {reason} left as {written}: the shard took a key that it was told is bad"))
                };
                self.judge(Promise::Endings, verdict);
                self.connacked(host, id, reason);
                let early = self.session(host, id).map(|session| std::mem::take(&mut session.early));
                for packet in early.unwrap_or_default() {
                    self.happen(host, Event::Packet { session: id, packet });
                }
                self.decode(host, id);
            }
            ServerPacket::Disconnect { reason, .. } => {
                if self.sabotages(Sabotage::SwallowKick, 1) {
                    return;
                }
                let index = self.session(host, id).map(|session| session.connection);
                index.into_iter().for_each(|index| self.checkers.kicks.notice(index, reason));
                self.encode(host, id, &packet);
            }
            packet => {
                self.encode(host, id, &packet);
            }
        }
    }

    fn encode(&mut self, host: HostRef, id: SessionId, packet: &ServerPacket) -> u8 {
        let node = &mut self.nodes[host.node];
        let Some(session) = node.hosts[host.shard].gate.find(id) else { return 0 };
        let connection = session.connection;
        let reason = session.wire.encode(packet, &mut self.chances.engine, &mut session.out);
        self.say(|| format!("{host} → connection {connection}: {packet:?}"));
        self.pump(host, id);
        reason
    }

    /// CONNACK was written: who is it, and whose time is over?
    fn connacked(&mut self, host: HostRef, id: SessionId, reason: u8) {
        let now_ns = self.now_ns;
        let Some(session) = self.session(host, id) else { return };
        session.awaiting = false;
        session.connect_ns = None;
        if reason != Reason::Success as u8 {
            return;
        }
        let Some(connect) = session.connect.as_ref() else { return };
        let member = Member {
            uid: connect.uid.to_string(),
            flag: connect.device_flag,
            device_id: connect.device_id.to_string(),
            since_ns: now_ns,
        };
        session.member = Some(member.clone());
        let newcomer = session.connection;
        let limits = &self.plan.limits;
        let grace = limits.kick_close_after + 2 * limits.sweep_every + CLOSE_PATIENCE + Duration::from_millis(200);
        let master = self.backend.is_master(&member.uid, member.flag);
        let at_ns = now_ns + grace.as_nanos() as u64;
        let user = self.uids.iter().position(|known| *known == member.uid);
        let shard = &self.nodes[host.node].hosts[host.shard].shard;
        let order = shard.session_order(id).expect("a session is forgotten when its gateway says so");
        for other_host in self.nodes.iter().flat_map(|node| &node.hosts) {
            for (other_id, other, was) in other_host.gate.members() {
                let same_family = was.uid == member.uid && was.flag == member.flag && other.connection != newcomer;
                let same_device = was.device_id == member.device_id;
                // One that ends already may end for this newcomer, whose CONNACK is written after that.
                let ends_for_nobody = other.closing && !self.checkers.kicks.is_due(other.connection);
                if !same_family || ends_for_nobody || !master && !same_device {
                    continue;
                }
                let user = user.expect("only users are let in");
                let slot = self.slot_of_user(user);
                let due = Due { at_ns, notice: !same_device, newcomer, order, since_ns: now_ns, user, slot, master };
                // Its home has let it in later all the same: what ends this one is on its way.
                match other_host.shard.session_order(other_id).filter(|theirs| *theirs > order) {
                    Some(order) => {
                        let due = Due { newcomer: other.connection, order, since_ns: was.since_ns, ..due };
                        self.checkers.kicks.expect(newcomer, due);
                    }
                    None => self.checkers.kicks.expect(other.connection, due),
                }
            }
        }
    }

    /// Judges a SENDACK as it leaves; gives it back as it is to be written.
    fn judge_sendack(
        &mut self,
        host: HostRef,
        id: SessionId,
        client_seq: u32,
        packet: ServerPacket,
    ) -> Option<ServerPacket> {
        let ServerPacket::Sendack { flags, mut message_id, mut message_seq, reason, .. } = packet else {
            return Some(packet);
        };
        if self.sabotages(Sabotage::SwallowSendack, 10) {
            return None;
        }
        let pending = self.session(host, id).and_then(|session| {
            let waiting = session.sends.get_mut(&client_seq)?;
            let pending = waiting.pop_front();
            if waiting.is_empty() {
                session.sends.remove(&client_seq);
            }
            pending
        });
        let Some(pending) = pending else {
            let text = format!("session {id} got a SENDACK for {client_seq}, which it has not sent");
            self.judge(Promise::Endings, Err(text));
            return None;
        };
        if self.sabotage == Some(Sabotage::OtherAnswer)
            && pending.number.and_then(|number| self.ledger.sent.get(&number)).is_some_and(|s| s.accepted.is_some())
        {
            message_seq += 1;
        }
        if self.sabotage == Some(Sabotage::ReuseId) && message_seq > 1 {
            message_id = 1;
        }
        if reason == Reason::Success as u8 {
            self.judge_success(pending, message_id, message_seq);
        }
        Some(ServerPacket::Sendack { flags, message_id, client_seq, message_seq, reason })
    }

    /// Whether a repeat's answer is what may be said when the first body is gone: its position is still known, id and payload are not.
    pub fn names_no_more_than_a_position(&self, sent: &ledger::Sent, message_id: i64, seq: u32) -> bool {
        let gone = (self.plan.forgets() || self.damaged) && message_id == 0 && seq > 0;
        let window = self.plan.limits.dedupe_window;
        let known = |first: Accepted| first.seq == seq || first.seq.abs_diff(seq) as usize >= window;
        gone && sent.accepted.is_none_or(known)
    }

    fn judge_success(&mut self, pending: PendingSend, message_id: i64, seq: u32) {
        let Some(number) = pending.number else {
            return self.judge(Promise::Endings, Err("a SEND that must be refused was taken".to_owned()));
        };
        let Some(sent) = self.ledger.sent.get(&number) else {
            let text = format!("message {number}, which must be refused, was taken");
            return self.judge(Promise::Endings, Err(text));
        };
        if self.names_no_more_than_a_position(sent, message_id, seq) {
            return;
        }
        if pending.conflict {
            let verdict = same_answer::conflict(number);
            return self.judge(Promise::SameAnswer, verdict);
        }
        let log = sent.log();
        let stored = sent.kind != Kind::Transient;
        if stored != (seq > 0) {
            let text = format!("message {number} is {:?} and was answered with position {seq}", sent.kind);
            self.judge(Promise::SameAnswer, Err(text));
        }
        if stored {
            self.judge_durable(number);
        }
        self.checkers.accepted(self.now_ns, log, number, message_id, seq);
        let accepted = Accepted { message_id, seq, at_ns: self.now_ns };
        if let Some(sent) = self.ledger.sent.get_mut(&number) {
            sent.accepted.get_or_insert(accepted);
        }
    }

    /// An acknowledgement of a stored message leaves: it is on a disk.
    pub fn judge_durable(&mut self, number: ledger::Number) {
        let holds = self.nodes.iter().filter(|node| node.disks.iter().any(|disk| disk.holds(number))).count();
        let needed = self.ledger.sent.get(&number).map_or(1, |sent| self.copies_needed(sent.log()));
        let verdict = if holds >= needed || self.plan.durability == Durability::Memory {
            Ok(())
        } else {
            Err(format!("message {number} was acknowledged and is on the disks of {holds} nodes, not of {needed}"))
        };
        self.judge(Promise::Durable, verdict);
    }

    fn forge_ack(&mut self, host: HostRef, id: SessionId, client_seq: u32, number: &str) {
        let accepted = Accepted { message_id: 1, seq: 1, at_ns: self.now_ns };
        if let Some(sent) = ledger::parse_number(number).and_then(|number| self.ledger.sent.get_mut(&number)) {
            sent.accepted.get_or_insert(accepted);
        }
        let packet = ServerPacket::Sendack {
            flags: HeaderFlags::default(),
            message_id: 1,
            client_seq,
            message_seq: 1,
            reason: Reason::Success as u8,
        };
        self.encode(host, id, &packet);
    }

    /// Since when the home of a session's user has had its leader, if it can have had another.
    fn home_led_anew_ns(&mut self, host: HostRef, id: SessionId) -> Option<u64> {
        if self.plan.nodes == 1 {
            return None;
        }
        let uid = self.session(host, id)?.member.as_ref()?.uid.clone();
        let user = self.uids.iter().position(|known| *known == uid)?;
        self.checkers.leaders.since_ns(self.slot_of_user(user))
    }

    fn write_recv(&mut self, host: HostRef, id: SessionId, message: StoredMessage, seq: u32, own: bool) {
        let now_ns = self.now_ns;
        let limits = self.plan.limits_by_true_time();
        let step = self.nodes[host.node].hosts[host.shard].steps;
        let forge = self.sabotages(Sabotage::ForgeRecvack, 2);
        if seq > 0 {
            let (led_anew_ns, well_since_ns) = (self.home_led_anew_ns(host, id), self.well_since_ns());
            let Some(session) = self.session(host, id) else { return };
            let bytes = message.payload().len();
            (session.window.led_anew_ns, session.window.well_since_ns) = (led_anew_ns, well_since_ns);
            let fate = session.window.write(now_ns, step, message.message_id(), bytes, &limits);
            let held = session.window.check(&limits);
            let again = std::mem::take(&mut session.window.again);
            let member = session.member.clone();
            self.coverage.add("seen RECVs again after their RECVACK", again);
            match fate {
                Ok(Fate::LastTry) => self.abandoned(&message, member.as_ref()),
                Ok(Fate::Waits) => {}
                Err(text) => self.judge(Promise::Once, Err(format!("session {id}: {text}"))),
            }
            self.judge(Promise::Limits, held.map_err(|text| format!("session {id}: {text}")));
        }
        if forge {
            let packet = ClientPacket::Recvack { message_id: message.message_id(), message_seq: u64::from(seq) };
            self.nodes[host.node].hosts[host.shard].forge(id, packet);
            let pause_ns = 1_000;
            self.turn_at(host, now_ns + pause_ns);
        }
        let message = self.sabotage_message(message);
        self.encode(host, id, &ServerPacket::Recv { message: message.clone(), seq, own });
        if seq > 0 && self.sabotages(Sabotage::SecondId, 20) {
            let message = with_changes(&message, message.message_id() + 1, false);
            self.encode(host, id, &ServerPacket::Recv { message, seq: seq + 1, own });
        }
        if seq > 1 && self.sabotages(Sabotage::SwapRecvs, 20) {
            let message = with_changes(&message, message.message_id() + 1, false);
            self.encode(host, id, &ServerPacket::Recv { message, seq: seq - 1, own });
        }
    }

    fn sabotage_message(&mut self, message: StoredMessage) -> StoredMessage {
        let changed = self.sabotages(Sabotage::ChangePayload, 20);
        if changed { with_changes(&message, message.message_id(), true) } else { message }
    }

    fn abandoned(&mut self, message: &StoredMessage, member: Option<&Member>) {
        let Some(number) = ledger::parse_number(message.client_msg_no()) else { return };
        let Some(member) = member else { return };
        let Some(user) = self.uids.iter().position(|uid| *uid == member.uid) else { return };
        if let Some(sent) = self.ledger.sent.get_mut(&number) {
            sent.abandoned_by.insert(Family { user, flag: member.flag });
        }
    }

    /// Gives the socket what it takes, and tells the shard when a mark is passed.
    fn pump(&mut self, host: HostRef, id: SessionId) {
        let Some(session) = self.session(host, id) else { return };
        let index = session.connection;
        let waiting_before = session.out.len();
        let room = self.plan.network.socket_bytes.saturating_sub(self.connections[index].unread);
        let Some(session) = self.session(host, id) else { return };
        let taken = waiting_before.min(room);
        let rest = session.out.split_off(taken);
        let bytes = std::mem::replace(&mut session.out, rest);
        let left = session.out.len();
        let was_full = session.full;
        session.full = if was_full { left > BACKLOG_MARKS.1 } else { left > BACKLOG_MARKS.0 };
        let full = session.full;
        let closing = session.closing;
        if !bytes.is_empty() {
            self.towards_client(index, bytes);
        }
        if full != was_full {
            self.happen(host, Event::Backlogged { session: id, full });
        }
        if left > BACKLOG_BYTES_MAX {
            self.judge(Promise::Limits, Err(format!("{left} bytes wait for session {id}")));
        }
        if closing && left == 0 {
            self.close_session(host, id);
        }
    }

    fn towards_client(&mut self, index: usize, bytes: Vec<u8>) {
        self.connections[index].unread += bytes.len();
        let (low, high) = self.plan.network.client_us;
        for piece in network::pieces(bytes, self.plan.network.split, &mut self.chances.network) {
            let latency_ns = self.chances.network.between(low * 1_000, high * 1_000);
            let at_ns = self.connections[index].arrives_at_client(self.now_ns, latency_ns);
            self.at(at_ns, Action::ToClient(index, piece));
        }
    }

    /// The node's end travels to the client.
    fn end_to_client(&mut self, index: usize) {
        let latency_ns = self.plan.network.client_us.1 * 1_000;
        let at_ns = self.connections[index].arrives_at_client(self.now_ns, latency_ns);
        self.at(at_ns, Action::ToClientEnd(index));
    }

    /// The client has read something: the node's socket has room.
    pub fn drain(&mut self, index: usize) {
        if let Some((host, id)) = self.host_of(index) {
            self.pump(host, id);
        }
    }

    /// A node's sockets are gone with it; half of the clients hear of it, the others find out by silence.
    pub fn connections_die(&mut self, node: usize) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.node != node || !connection.server_open {
                continue;
            }
            let accepted = connection.at.is_some() || connection.moving;
            connection.at = None;
            connection.moving = false;
            if !accepted {
                continue;
            }
            connection.server_open = false;
            self.checkers.kicks.forget(index);
            if self.chances.network.one_in(2) {
                self.end_to_client(index);
            } else {
                self.connections[index].cut = true;
            }
        }
    }
}

/// The same message under another id, or with another payload, for canaries.
fn with_changes(message: &StoredMessage, message_id: i64, change_payload: bool) -> StoredMessage {
    let mut payload = message.payload().to_vec();
    if change_payload && let Some(last) = payload.last_mut() {
        *last ^= 1;
    }
    let mut bytes = Vec::new();
    jindou::format::message::MessageFields {
        message_id,
        unix_ms: message.unix_ms(),
        expire_s: message.expire_s(),
        flags: message.flags(),
        setting: message.setting(),
        device_tag: message.device_tag(),
        from: message.from(),
        to: message.to(),
        client_msg_no: message.client_msg_no(),
        topic: message.topic(),
        payload: &payload,
    }
    .encode(&mut bytes);
    StoredMessage::trusted(bytes::Bytes::from(bytes))
}
