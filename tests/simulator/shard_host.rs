//! One shard with what surrounds it on its thread: its inbox, its sessions, its reusable batches. The pure equivalent of the
//! shell's turn: at most so many events go in, the shard steps once, its invariants are checked, and its effects come out for
//! the world to carry out. Disks are elsewhere, because they outlive a shard.

use std::collections::{BTreeMap, VecDeque};

use jindou::engine::effect::{Effect, Effects};
use jindou::engine::event::{ClientPacket, ConnectPacket, Event, EventBatch};
use jindou::engine::shard::Shard;
use jindou::ids::SessionId;
use jindou::time::Now;

use crate::checkers::limits::Window;
use crate::ledger::{self, Number};
use crate::wire::ServerWire;

/// A SEND that a shard has taken in and not answered.
#[derive(Clone, Copy, Debug)]
pub struct PendingSend {
    /// What it carries, if it carries a number.
    pub number: Option<Number>,
    /// Its payload is another than that of the number's first SEND, or it must be refused for another reason.
    pub conflict: bool,
    /// When it was handed to the shard.
    pub at_ns: u64,
}

/// Who a session turned out to be.
#[derive(Clone, Debug)]
pub struct Member {
    /// As in CONNECT.
    pub uid: String,
    /// As in CONNECT.
    pub flag: u8,
    /// As in CONNECT.
    pub device_id: String,
    /// When CONNACK was written.
    pub since_ns: u64,
}

/// A session as the gateway knows it.
pub struct GateSession {
    /// The world's connection.
    pub connection: usize,
    /// Packets and secrecy.
    pub wire: ServerWire,
    /// Bytes that arrived and are not decoded.
    pub inbox: Vec<u8>,
    /// The shard wants no more for now.
    pub paused: bool,
    /// CONNECT is with the shard: nothing after it is decoded or handed over before its answer.
    pub awaiting: bool,
    /// Packets that came in one read with CONNECT.
    pub early: Vec<ClientPacket>,
    /// For a move to another shard.
    pub connect: Option<Box<ConnectPacket>>,
    /// Encoded and not yet taken by the socket.
    pub out: Vec<u8>,
    /// The shard was told that too much waits.
    pub full: bool,
    /// The shard has asked to close it.
    pub closing: bool,
    /// The client's end has come; acted on when nothing undecoded is before it.
    pub ended: bool,
    /// CONNACK with success was written.
    pub member: Option<Member>,
    /// SENDs without an answer.
    pub sends: BTreeMap<u32, VecDeque<PendingSend>>,
    /// RECVs written.
    pub window: Window,
    /// When CONNECT was handed over, until it is answered.
    pub connect_ns: Option<u64>,
    /// SENDs that nobody can read.
    pub unreadable: u32,
    /// Its client has done what ends a connection.
    pub at_fault: bool,
}

impl GateSession {
    /// Fresh from accept.
    pub fn new(connection: usize, wire: ServerWire) -> GateSession {
        GateSession {
            connection,
            wire,
            inbox: Vec::new(),
            paused: false,
            awaiting: false,
            early: Vec::new(),
            connect: None,
            out: Vec::new(),
            full: false,
            closing: false,
            ended: false,
            member: None,
            sends: BTreeMap::new(),
            window: Window::default(),
            unreadable: 0,
            at_fault: false,
            connect_ns: None,
        }
    }

    /// A packet is handed over. Some end the connection: what can only come once or not at all, and one too many that nobody can read.
    pub fn note_fault(&mut self, packet: &ClientPacket, unreadable_max: u32) {
        let ends = match packet {
            ClientPacket::Connect(_) => self.connect.is_some(),
            ClientPacket::Disconnect | ClientPacket::Unexpected => true,
            ClientPacket::BadSend { .. } => {
                self.unreadable += 1;
                self.unreadable >= unreadable_max
            }
            _ => false,
        };
        self.at_fault |= ends;
    }
}

/// Sessions of a shard by index; an index is used again with the next generation.
pub struct Gate {
    sessions: Vec<(u32, Option<GateSession>)>,
    free: Vec<u32>,
    first_generation: u32,
}

impl Gate {
    /// Of a process that names its sessions from this generation on.
    fn new(first_generation: u32) -> Gate {
        Gate { sessions: Vec::new(), free: Vec::new(), first_generation }
    }

    /// Takes a session in and names it.
    pub fn insert(&mut self, session: GateSession) -> SessionId {
        if let Some(index) = self.free.pop() {
            let place = &mut self.sessions[index as usize];
            place.0 = place.0.wrapping_add(1);
            place.1 = Some(session);
            return SessionId { index, generation: place.0 };
        }
        self.sessions.push((self.first_generation, Some(session)));
        SessionId { index: self.sessions.len() as u32 - 1, generation: self.first_generation }
    }

    /// The session, if it still is.
    pub fn find(&mut self, id: SessionId) -> Option<&mut GateSession> {
        let (generation, session) = self.sessions.get_mut(id.index as usize)?;
        if *generation == id.generation { session.as_mut() } else { None }
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: SessionId) -> Option<GateSession> {
        self.find(id)?;
        let session = self.sessions[id.index as usize].1.take();
        self.free.push(id.index);
        session
    }

    /// Takes a session out without a trace: its index is not used again, because the shard does not know.
    pub fn lose(&mut self, id: SessionId) {
        if self.find(id).is_some() {
            self.sessions[id.index as usize].1 = None;
        }
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &GateSession)> {
        self.sessions.iter().enumerate().filter_map(|(index, (generation, session))| {
            let id = SessionId { index: index as u32, generation: *generation };
            session.as_ref().map(|session| (id, session))
        })
    }

    /// All sessions that turned out to be somebody.
    pub fn members(&self) -> impl Iterator<Item = (SessionId, &GateSession, &Member)> {
        self.iter().filter_map(|(id, session)| session.member.as_ref().map(|member| (id, session, member)))
    }
}

/// A running shard.
pub struct ShardHost {
    /// The router.
    pub shard: Shard,
    /// Its sessions.
    pub gate: Gate,
    /// What has happened and was not yet handed over.
    pub inbox: VecDeque<Event>,
    /// Since when something has been in the inbox.
    pub waits_since_ns: u64,
    /// When its next turn is due, as scheduled.
    pub turn_ns: Option<u64>,
    /// Steps so far.
    pub steps: u64,
    /// It has said that it is stopped.
    pub stopped: bool,
    batch: EventBatch,
    effects: Effects,
    forged: Vec<Event>,
    steps_in_ms: (u64, u32),
}

impl ShardHost {
    /// Around a shard that has just begun.
    pub fn new(shard: Shard) -> ShardHost {
        ShardHost {
            gate: Gate::new(shard.first_number() as u32),
            shard,
            inbox: VecDeque::new(),
            waits_since_ns: 0,
            turn_ns: None,
            steps: 0,
            stopped: false,
            batch: Vec::new(),
            effects: Effects::default(),
            forged: Vec::new(),
            steps_in_ms: (0, 0),
        }
    }

    /// One turn. Returns what the shard asked for, to be given back through [`ShardHost::recycle`].
    ///
    /// # Errors
    /// When it turns without end.
    pub fn turn(&mut self, at_ns: u64, now: Now, events_max: usize) -> Result<Vec<Effect>, String> {
        let count = self.inbox.len().min(events_max);
        self.batch.extend(self.inbox.drain(..count));
        self.waits_since_ns = at_ns;
        for index in 0..self.batch.len() {
            self.note_incoming(index, at_ns);
        }
        self.batch.append(&mut self.forged);
        self.shard.step(now, &mut self.batch, &mut self.effects);
        assert!(self.batch.is_empty(), "a step takes its whole batch");
        self.shard.check_invariants();
        self.steps += 1;
        let ms = at_ns / 1_000_000;
        self.steps_in_ms = if self.steps_in_ms.0 == ms { (ms, self.steps_in_ms.1 + 1) } else { (ms, 1) };
        if self.steps_in_ms.1 > 5_000 {
            return Err(format!("more than {} steps in one millisecond", self.steps_in_ms.1));
        }
        Ok(std::mem::take(&mut self.effects.list))
    }

    /// Gives the list back, so that its memory is used again.
    pub fn recycle(&mut self, mut list: Vec<Effect>) {
        list.clear();
        self.effects.list = list;
    }

    /// Tells the shard of a packet that no client has sent, past all bookkeeping: for a canary.
    pub fn forge(&mut self, session: SessionId, packet: ClientPacket) {
        self.forged.push(Event::Packet { session, packet });
    }

    fn note_incoming(&mut self, index: usize, at_ns: u64) {
        let Event::Packet { session, packet } = &self.batch[index] else { return };
        let step = self.steps;
        let Some(session) = self.gate.find(*session) else { return };
        match packet {
            ClientPacket::Send(send) => {
                let number = ledger::parse_number(send.body.client_msg_no());
                let conflict = number.is_some_and(|number| {
                    send.body.payload() != ledger::payload(number, send.body.payload().len(), false)
                });
                let pending = PendingSend { number, conflict, at_ns };
                session.sends.entry(send.client_seq).or_default().push_back(pending);
            }
            ClientPacket::BadSend { client_seq, .. } => {
                let pending = PendingSend { number: None, conflict: true, at_ns };
                session.sends.entry(*client_seq).or_default().push_back(pending);
            }
            ClientPacket::Recvack { message_id, .. } => session.window.ack(at_ns, *message_id, step),
            ClientPacket::Connect(_) => session.connect_ns = Some(at_ns),
            _ => {}
        }
    }
}
