//! Users and their devices in the world: who there is, when devices connect, send, read and leave, and the judgement of what they
//! receive. Also strangers who talk rubbish. What a device does by itself is in `client`.

use jindou::engine::shard::OfflineMode;
use jindou::format::packet::HeaderFlags;

use crate::checkers::{Promise, Seen, intact};
use crate::client::{Device, Habits, Oddity, Outgoing, TICK_MS};
use crate::ledger::{self, Kind, Sent};
use crate::network::{self, Connection};
use crate::wire::{TakenRecv, Told, Transport};
use crate::world::{Action, World};

/// Names that have made trouble elsewhere.
const NAMES: [&str; 8] = ["ana", "bo", "u_10000", "1001", "49", "爱丽丝", "fileHelper", "x-y.z~"];

/// The beginning of a request that never ends; on TCP, the beginning of a packet that never does.
pub const HALF_UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n";

impl World {
    /// Draws users and devices.
    pub fn populate(&mut self) {
        let workload = self.plan.workload;
        for user in 0..workload.users {
            self.uids.push(NAMES[user % NAMES.len()].to_owned());
            let families = self.chances.workload.between(1, u64::from(workload.families_max));
            for flag in 0..families as u8 {
                self.add_device(user, flag);
                if workload.twin_apps && self.chances.workload.one_in(5) {
                    self.add_device(user, flag);
                }
                if workload.masters && self.chances.workload.one_in(2) {
                    self.backend.make_master(&self.uids[user], flag);
                }
            }
        }
    }

    /// Adds a device with drawn habits; it begins to act.
    pub fn add_device(&mut self, user: usize, flag: u8) -> usize {
        let habits = self.draw_habits();
        let index = self.devices.len();
        let mut device = Device::new(index, user, self.uids[user].clone(), flag, habits);
        if self.plan.token_auth {
            device.token = None;
        }
        self.say(|| format!("device {index} is of user {user}, flag {flag}: {habits:?}"));
        self.devices.push(device);
        let pause = self.chances.workload.span_ms(1, 300);
        self.after(pause, Action::DeviceTick(index));
        index
    }

    fn draw_habits(&mut self) -> Habits {
        let chance = &mut self.chances.workload;
        let faults = &self.plan.faults;
        let ping_ms = (self.plan.limits.idle_timeout.as_millis() as u64 / 3).min(2_000);
        Habits {
            transport: if chance.permille(self.plan.network.websocket_permille) {
                Transport::WebSocket
            } else {
                Transport::Tcp
            },
            version: *chance.pick(&[2, 3, 4, 5, 5]),
            ping_every_ns: chance.between(ping_ms / 2, ping_ms) * 1_000_000,
            ack_delay_ns: if chance.permille(faults.late_acker_permille) {
                chance.between(1, 3_000) * 1_000_000
            } else {
                0
            },
            forget_permille: if chance.permille(faults.forgetful_acker_permille) { 200 } else { 0 },
            double_permille: if chance.permille(faults.double_acker_permille) { 300 } else { 0 },
            read_bytes: if chance.permille(faults.slow_reader_permille) { chance.between(20, 400) as usize } else { 0 },
            steady_id: chance.permille(self.plan.workload.steady_device_id_permille),
            eager: chance.one_in(6),
        }
    }

    /// A device looks at what is to be done.
    pub fn device_tick(&mut self, index: usize) {
        let pause = self.chances.workload.span_us(TICK_MS * 1_000, TICK_MS * 1_200);
        self.after(pause, Action::DeviceTick(index));
        let now_ns = self.now_ns;
        self.slow_read(index);
        if self.devices[index].gives_up(now_ns) {
            self.client_closes(index, 200);
        }
        if self.devices[index].wants_to_connect(now_ns) && !self.scripted {
            self.connect(index);
        }
        if self.devices[index].is_live() && !self.scripted && !self.devices[index].calm {
            self.perhaps_leave(index);
            self.perhaps_send(index);
        }
        self.write_due(index);
    }

    fn happens_within_tick(&mut self, every: std::time::Duration) -> bool {
        !every.is_zero() && self.chances.workload.below(every.as_millis() as u64 / TICK_MS + 1) == 0
    }

    fn perhaps_leave(&mut self, index: usize) {
        if self.happens_within_tick(self.plan.faults.vanish_every) {
            self.vanish(index);
            let pause_ms = self.chances.workload.between(10, 4_000);
            self.devices[index].lost(self.now_ns, pause_ms * 1_000_000);
        } else if self.happens_within_tick(self.plan.faults.leave_every) {
            let pause_ms = self.chances.workload.between(10, 4_000);
            self.client_closes(index, pause_ms);
        }
    }

    fn perhaps_send(&mut self, index: usize) {
        let workload = self.plan.workload;
        if self.uids.len() < 2 || !self.happens_within_tick(workload.send_every) {
            return;
        }
        if self.devices[index].queue.len() >= 4 * workload.send_window {
            return;
        }
        let user = self.devices[index].user;
        let chance = &mut self.chances.workload;
        let peer = (user + 1 + chance.below(self.uids.len() as u64 - 1) as usize) % self.uids.len();
        let kind = if chance.permille(workload.transient_permille) {
            Kind::Transient
        } else if chance.permille(workload.command_permille) {
            Kind::Command
        } else {
            Kind::Stored
        };
        let bytes = chance.between(30, workload.payload_bytes_max as u64) as usize;
        let odd = chance.permille(workload.odd_send_permille).then(|| {
            let all = [Oddity::GroupChannel, Oddity::BadPeer, Oddity::WrongKey];
            *chance.pick(if self.plan.network.plain { &all[..2] } else { &all })
        });
        let conflict = chance.permille(workload.conflict_permille);
        self.send(index, peer, kind, bytes, odd);
        // With a short memory the router may have forgotten the first by then, and rightly takes the second.
        if conflict && odd.is_none() && self.plan.limits.dedupe_window >= 1_024 {
            self.send_conflict(index);
        }
    }

    /// Queues a message; returns its number.
    pub fn send(&mut self, index: usize, peer: usize, kind: Kind, bytes: usize, odd: Option<Oddity>) -> u32 {
        let number = self.ledger.next_number();
        self.devices[index].enqueue(Outgoing {
            number,
            client_seq: 0,
            kind,
            to: peer,
            payload_bytes: bytes,
            conflict: false,
            odd,
            sent: false,
            not_before_ns: 0,
            refusals: 0,
        });
        number
    }

    /// Queues another payload under the number of this device's last accepted message.
    pub fn send_conflict(&mut self, index: usize) {
        let last = self
            .ledger
            .sent
            .iter()
            .rev()
            .take(200)
            .find(|(_, sent)| sent.device == Some(index) && sent.kind == Kind::Stored && sent.accepted.is_some());
        let Some((number, sent)) = last else { return };
        let outgoing = Outgoing {
            number: *number,
            client_seq: 0,
            kind: sent.kind,
            to: sent.to,
            payload_bytes: sent.payload_bytes,
            conflict: true,
            odd: None,
            sent: false,
            not_before_ns: 0,
            refusals: 0,
        };
        self.devices[index].enqueue(outgoing);
    }

    fn write_due(&mut self, index: usize) {
        let mut out = Vec::new();
        let now_ns = self.now_ns;
        let device = &mut self.devices[index];
        let left = device.write_due(now_ns, &self.plan.workload, &self.uids, &mut self.chances.workload, &mut out);
        let (user, flag) = (device.user, device.flag);
        let Some(connection) = device.link.as_ref().map(|link| link.connection) else { return };
        for outgoing in left {
            if outgoing.odd.is_some() || outgoing.conflict || self.ledger.sent.contains_key(&outgoing.number) {
                continue;
            }
            let sent = Sent {
                from: user,
                to: outgoing.to,
                kind: outgoing.kind,
                payload_bytes: outgoing.payload_bytes,
                device: Some(index),
                accepted: None,
                wanted_by: Default::default(),
                seen_by: Default::default(),
                abandoned_by: Default::default(),
            };
            self.ledger.note_sent(outgoing.number, sent, Some(flag));
        }
        self.towards_server(connection, out);
    }

    /// Opens a connection for a device.
    pub fn connect(&mut self, index: usize) {
        let node = self.address_of(index);
        let transport = self.devices[index].habits.transport;
        let connection = self.connections.len();
        self.connections.push(Connection::new(Some(index), node, 0, transport));
        let latency_ns = self.client_latency_ns();
        let at_ns = self.connections[connection].arrives_at_server(self.now_ns, latency_ns);
        self.at(at_ns, Action::Accept(connection));
        let plain = self.plan.network.plain;
        let bytes = self.devices[index].opened(connection, self.now_ns, plain, &mut self.chances.workload);
        self.say(|| format!("device {index} opens connection {connection}"));
        self.towards_server(connection, bytes);
    }

    /// Which node a device tries: the one it was at last, the next after a failure, now and then any.
    fn address_of(&mut self, index: usize) -> usize {
        let there: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].present).collect();
        let device = &mut self.devices[index];
        if there.len() > 1 && !self.scripted && self.chances.network.one_in(4) {
            device.address = self.chances.network.below(there.len() as u64) as usize;
        }
        there.get(device.address % there.len().max(1)).copied().unwrap_or(0)
    }

    fn client_latency_ns(&mut self) -> u64 {
        let (low, high) = self.plan.network.client_us;
        self.chances.network.between(low * 1_000, high * 1_000)
    }

    fn towards_server(&mut self, index: usize, bytes: Vec<u8>) {
        if bytes.is_empty() || !self.connections[index].client_open {
            return;
        }
        for piece in network::pieces(bytes, self.plan.network.split, &mut self.chances.network) {
            let latency_ns = self.client_latency_ns();
            let at_ns = self.connections[index].arrives_at_server(self.now_ns, latency_ns);
            self.at(at_ns, Action::ToServer(index, piece));
        }
    }

    /// A device closes its connection in order and stays away for a while.
    pub fn client_closes(&mut self, index: usize, pause_ms: u64) {
        let Some(connection) = self.devices[index].link.as_ref().map(|link| link.connection) else { return };
        self.say(|| format!("device {index} closes connection {connection}"));
        self.close_client_end(connection);
        self.devices[index].lost(self.now_ns, pause_ms * 1_000_000);
    }

    fn close_client_end(&mut self, index: usize) {
        let latency_ns = self.client_latency_ns();
        let connection = &mut self.connections[index];
        if connection.client_open {
            connection.client_open = false;
            let at_ns = connection.arrives_at_server(self.now_ns, latency_ns);
            self.at(at_ns, Action::ToServerEnd(index));
        }
    }

    /// A device is gone without a word: the node hears nothing any more.
    pub fn vanish(&mut self, index: usize) {
        let Some(link) = self.devices[index].link.as_ref() else { return };
        let connection = link.connection;
        self.connections[connection].cut = true;
        self.connections[connection].client_open = false;
        self.coverage.add("fault: client gone without a word", 1);
        self.say(|| format!("device {index} vanishes from connection {connection}"));
    }

    /// Bytes reach a client.
    pub fn reach_client(&mut self, index: usize, bytes: Vec<u8>) {
        let connection = &mut self.connections[index];
        if connection.cut || !connection.client_open {
            return;
        }
        connection.arrived.extend_from_slice(&bytes);
        let Some(device) = connection.device else {
            connection.arrived.clear();
            return;
        };
        let reads_slowly = self.devices[device].habits.read_bytes > 0 && !self.devices[device].calm;
        if !reads_slowly {
            self.read_client(index, usize::MAX);
        }
    }

    /// The node's end reaches a client.
    pub fn reach_client_end(&mut self, index: usize) {
        if self.connections[index].cut {
            return;
        }
        self.connections[index].arrived_end = true;
        self.read_client(index, 0);
        if self.connections[index].device.is_none() {
            self.close_client_end(index);
        }
    }

    fn slow_read(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(connection) = device.link.as_ref().map(|link| link.connection) else { return };
        let bytes = if device.calm { usize::MAX } else { device.habits.read_bytes };
        if bytes > 0 && !self.connections[connection].arrived.is_empty() {
            self.read_client(connection, bytes);
        }
    }

    /// A client reads at most so many bytes, and acts on what they tell.
    fn read_client(&mut self, index: usize, bytes_max: usize) {
        let connection = &mut self.connections[index];
        let Some(device) = connection.device else { return };
        let taken = connection.arrived.len().min(bytes_max);
        let rest = connection.arrived.split_off(taken);
        let bytes = std::mem::replace(&mut connection.arrived, rest);
        let ended = connection.arrived_end && connection.arrived.is_empty();
        connection.unread = connection.unread.saturating_sub(taken);
        if self.devices[device].link.as_ref().is_none_or(|link| link.connection != index) {
            return;
        }
        if taken > 0 {
            let latency_ns = self.client_latency_ns();
            self.at(self.now_ns + latency_ns, Action::Drain(index));
            let mut out = Vec::new();
            let told = self.devices[device].read(&bytes, self.now_ns, &mut out, &mut self.chances.workload);
            self.towards_server(index, out);
            for one in told {
                self.hear(device, one);
            }
            self.write_due(device);
        }
        if ended && self.devices[device].link.as_ref().is_some_and(|link| link.connection == index) {
            self.close_client_end(index);
            let pause_ms = self.chances.workload.between(5, 500);
            self.devices[device].lost(self.now_ns, pause_ms * 1_000_000);
        }
    }

    /// A device was told something.
    fn hear(&mut self, device: usize, told: Told) {
        match told {
            Told::Connack { reason: 1 } => {
                let family = self.devices[device].family();
                let now_ns = self.now_ns;
                self.ledger.families.entry(family).or_insert(now_ns);
            }
            Told::Connack { reason } => {
                self.say(|| format!("device {device} is refused with {reason}"));
                if reason == 2 {
                    self.backend_token_void(device);
                }
                self.client_closes(device, 300);
            }
            Told::Recv(recv) => self.judge_recv(device, &recv),
            Told::Disconnect { reason } => {
                self.say(|| format!("device {device} is told to go: {reason}"));
                let pause_ms = self.chances.workload.between(500, 2_000);
                if !self.healed {
                    self.devices[device].away_until_ns = self.now_ns + pause_ms * 1_000_000;
                }
            }
            Told::Wrong(what) => {
                let text = format!("device {device} got {what}");
                self.judge(Promise::Intact, Err(text));
            }
            Told::Sendack { .. } | Told::Pong => {}
        }
    }

    fn judge_recv(&mut self, device: usize, recv: &TakenRecv) {
        let verdict = self.examine_recv(device, recv);
        match verdict {
            Ok(seen) => {
                let family = self.devices[device].family();
                if let Some(sent) = self.ledger.sent.get_mut(&seen.number) {
                    sent.seen_by.insert(family);
                    let echo = seen.own && seen.seq > 0 && self.devices[device].habits.steady_id;
                    let verdict = if echo {
                        Err(format!("message {} came back to device {device}, which sent it", seen.number))
                    } else {
                        Ok(())
                    };
                    self.judge(Promise::Once, verdict);
                }
                self.receipts += u64::from(self.checkers.seen(&seen));
            }
            Err(text) => self.judge(Promise::Intact, Err(format!("device {device}: {text}"))),
        }
    }

    fn examine_recv(&self, device: usize, recv: &TakenRecv) -> Result<Seen, String> {
        let number = ledger::parse_number(&recv.client_msg_no)
            .ok_or_else(|| format!("a message with the number {:?}", recv.client_msg_no))?;
        let sent = self.ledger.sent.get(&number).ok_or_else(|| format!("message {number}, which nobody sent"))?;
        let copy = intact::Copy { number, from: &recv.from, payload: &recv.payload };
        intact::body(&copy, sent, &self.uids[sent.from])?;
        let viewer = self.devices[device].user;
        let channel = self.uids.iter().position(|uid| *uid == recv.channel);
        let channel = channel.ok_or_else(|| format!("message {number} in the channel {:?}", recv.channel))?;
        let log = intact::view(number, sent, viewer, channel)?;
        let stored = sent.kind != Kind::Transient;
        if stored != (recv.seq > 0) || stored == recv.flags.contains(HeaderFlags::NO_PERSIST) {
            return Err(format!("message {number} is {:?} and has position {}", sent.kind, recv.seq));
        }
        let seq = u32::try_from(recv.seq).map_err(|_| format!("message {number} at position {}", recv.seq))?;
        let own = sent.device == Some(device);
        let family = self.devices[device].family();
        let alone = self.devices.iter().filter(|other| other.family() == family).count() == 1;
        let link = self.devices[device].link.as_ref();
        let alone = alone && self.plan.offline == OfflineMode::Push;
        let seat = if alone { 0 } else { link.map_or(0, |link| link.connection + 1) };
        let connection = link.map(|link| link.connection);
        Ok(Seen { at_ns: self.now_ns, device, log, message_id: recv.message_id, seq, number, own, seat, connection })
    }

    /// Somebody connects and talks rubbish: noise, the beginning of something, or a CONNECT that cannot be right.
    pub fn rubbish_tick(&mut self) {
        let every = self.plan.faults.rubbish_every;
        if self.healed || every.is_zero() {
            return;
        }
        let mean_us = every.as_micros() as u64;
        let span = self.chances.faults.span_us(mean_us / 4, mean_us * 7 / 4);
        self.after(span, Action::RubbishTick);
        self.coverage.add("fault: rubbish from a stranger", 1);
        let chance = &mut self.chances.workload;
        let transport = if chance.one_in(2) { Transport::Tcp } else { Transport::WebSocket };
        let length = chance.between(1, 400) as usize;
        let bytes = match chance.below(4) {
            0 => chance.noise(length),
            1 => HALF_UPGRADE.to_vec(),
            2 => vec![0x10, 0xff, 0xff, 0xff, 0x7f],
            _ => {
                let mut noise = chance.noise(length);
                noise[0] = 0x10;
                noise
            }
        };
        let node =
            if self.nodes.len() > 1 { self.chances.workload.below(u64::from(self.plan.nodes)) as usize } else { 0 };
        let index = self.talk_rubbish(node, transport, bytes);
        if self.chances.workload.one_in(2) {
            self.close_client_end(index);
        }
    }

    /// Somebody connects to a node, says that, and waits.
    pub fn talk_rubbish(&mut self, node: usize, transport: Transport, bytes: Vec<u8>) -> usize {
        let index = self.connections.len();
        self.connections.push(Connection::new(None, node, 0, transport));
        let latency_ns = self.client_latency_ns();
        let at_ns = self.connections[index].arrives_at_server(self.now_ns, latency_ns);
        self.at(at_ns, Action::Accept(index));
        self.connections[index].opened_ran_ns = self.nodes[node].ran_ns(self.now_ns);
        self.towards_server(index, bytes);
        index
    }
}
