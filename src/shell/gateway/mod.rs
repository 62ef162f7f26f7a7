//! The clients of one shard: sockets of the ring joined to pipelines, bytes turned into the engine's events, its effects
//! into bytes. Everything a turn says to one session leaves in one send.
//!
//! It deliberately judges nothing: who may connect, what a packet means and when a session ends is the engine's. Its own
//! refusals are two counts, sockets in all and sockets of one address, because an unauthenticated flood must not reach the
//! engine. Both are counts of this shard: shards share no state, and a session moves with its count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};

use crate::engine::effect::ServerPacket;
use crate::engine::event::{ClientPacket, Event, Opened};
use crate::format::pipeline::{ConnackAnswer, FaultKind, Inbound, Scratch, ServerPipeline};
use crate::ids::{SessionId, ShardId};

use super::clock::Clock;
use super::seed::Secrets;
use super::socket_ring::{FileWritten, RingConfig, RingEvent, SocketRing, Token};
use super::stages::{ShellCounters, Stage as Timed, Stages};

pub use crate::format::pipeline::Transport;
pub use connection::HandOver;
use connection::{Connection, Early, Stage, client_packet, encode};

mod connection;
#[cfg(test)]
mod tests;

/// A sample of a path that was not finished within this time is given up, so that another can be taken.
const SAMPLE_NANOS_MAX: u64 = 2_000_000_000;

/// A socket that is bound (listening or not yet), to be served by one shard. Made with SO_REUSEPORT where several shards
/// serve one address.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// What it speaks.
    pub transport: Transport,
    /// True: no key agreement and no cipher, for trusted networks and for measuring.
    pub plain: bool,
}

/// Bounds of one shard's gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Sockets of this shard. At it: an accepted one is closed at once.
    pub sessions_max: usize,
    /// Sockets of this shard from one address. At it: an accepted one is closed at once. 0 is no bound.
    pub sessions_per_address_max: u32,
    /// Events of one turn. At it: the rest waits for the next.
    pub events_max: usize,
    /// Shards of this node: with one, nobody moves and CONNECT is not kept.
    pub shard_count: u16,
}

/// The gateway of one shard.
pub struct Gateway {
    ring: SocketRing,
    desk: Desk,
    secrets: Secrets,
    /// As `SocketRing::listen` numbered them.
    listeners: Vec<(Transport, bool)>,
    /// Fresh connections that were read in this turn: after the step it is known whether they stay.
    fresh: Vec<Token>,
    /// Connections ready to travel.
    departures: Vec<(ShardId, Box<HandOver>)>,
    write_sample: Option<(Token, u64)>,
    /// The next RECV that is enciphered is timed with this.
    recv_sample: Option<Clock>,
    /// Until the loop takes it, in the same turn.
    file_written: Option<FileWritten>,
}

/// What the ring's reports are worked on with; apart from the ring, which is busy reporting.
struct Desk {
    limits: GatewayLimits,
    /// By the index of their token.
    connections: Vec<Option<Connection>>,
    addresses: HashMap<IpAddr, u32>,
    scratch: Scratch,
    /// What pipelines answer by themselves, and to whom.
    replies: Vec<u8>,
    replies_for: Vec<(Token, Range<usize>)>,
    accepted: Vec<(u16, OwnedFd, IpAddr)>,
    detached: Vec<(Token, OwnedFd)>,
    /// Connections that their peer closed in good order one layer above the socket.
    closed_in_order: Vec<Token>,
    read_fresh: Vec<Token>,
    /// Packets that came behind a CONNECT, for the step after the one that decided about it.
    held_back: Vec<Event>,
    path_sample: Option<PathSample>,
    counters: ShellCounters,
}

/// One SEND whose way is being timed.
#[derive(Clone, Copy, Debug)]
struct PathSample {
    session: SessionId,
    client_seq: u32,
    read_nanos: u64,
    /// Beginning of the step that took it.
    step_nanos: Option<u64>,
}

fn session(token: Token) -> SessionId {
    SessionId { index: token.index, generation: token.generation }
}

fn token(session: SessionId) -> Token {
    Token { index: session.index, generation: session.generation }
}

impl Gateway {
    /// A gateway on the calling thread, whose ring rings `bell` for who sleeps elsewhere.
    ///
    /// # Errors
    /// One line for people.
    pub fn new(limits: GatewayLimits, ring: RingConfig, bell: RawFd) -> Result<Gateway, String> {
        Ok(Gateway {
            ring: SocketRing::new(ring, bell)?,
            desk: Desk {
                limits,
                connections: Vec::new(),
                addresses: HashMap::new(),
                scratch: Scratch::default(),
                replies: Vec::new(),
                replies_for: Vec::new(),
                accepted: Vec::new(),
                detached: Vec::new(),
                closed_in_order: Vec::new(),
                read_fresh: Vec::new(),
                held_back: Vec::new(),
                path_sample: None,
                counters: ShellCounters::default(),
            },
            secrets: Secrets::from_kernel().map_err(|error| format!("/dev/urandom cannot be read: {error}"))?,
            listeners: Vec::new(),
            fresh: Vec::new(),
            departures: Vec::new(),
            write_sample: None,
            recv_sample: None,
            file_written: None,
        })
    }

    /// Accepts on a listener from the next turn on.
    ///
    /// # Errors
    /// One line for people.
    pub fn listen(&mut self, listener: Listener) -> Result<(), String> {
        let Listener { socket, transport, plain } = listener;
        self.ring.listen(socket).map_err(|error| format!("cannot listen: {error}"))?;
        self.listeners.push((transport, plain));
        Ok(())
    }

    /// Accepts nobody any more.
    pub fn stop_listening(&mut self) {
        self.ring.stop_listening();
    }

    /// The first half of a turn: sends what the last one left, takes what has come, adds it to `events`. True when there was
    /// anything.
    pub fn gather(&mut self, events: &mut Vec<Event>, clock: Clock, stages: &mut Stages) -> bool {
        let began = clock.nanos();
        let before = events.len();
        events.append(&mut self.desk.held_back);
        let desk = &mut self.desk;
        let write_sample = &mut self.write_sample;
        let (timed, mut decode_nanos) = (stages.timed(), 0);
        self.recv_sample = timed.then_some(clock);
        let file_written = &mut self.file_written;
        let handled = self.ring.turn(&mut |event| {
            match event {
                RingEvent::Received { token, bytes } => {
                    if !timed {
                        desk.received(token, bytes, events, began);
                        return events.len() < desk.limits.events_max;
                    }
                    let decoding = clock.nanos();
                    let enciphered = desk.received(token, bytes, events, began);
                    let took = clock.nanos() - decoding;
                    decode_nanos += took;
                    if enciphered {
                        stages.record(Timed::Decipher, took);
                    }
                }
                RingEvent::Sent { token } => {
                    if let Some((_, since)) = write_sample.take_if(|(sampled, _)| *sampled == token) {
                        stages.record(Timed::Write, clock.nanos().saturating_sub(since));
                    }
                }
                RingEvent::FileWritten(written) => *file_written = Some(written),
                RingEvent::Accepted { listener, fd, peer } => desk.accepted.push((listener, fd, peer)),
                RingEvent::Backlogged { token, full } => {
                    events.push(Event::Backlogged { session: session(token), full });
                }
                RingEvent::Detached { token, fd } => desk.detached.push((token, fd)),
                RingEvent::Ended { token, .. } => desk.ended(token, events),
                // Clients come by themselves, and nothing else is on this ring.
                RingEvent::Connected { .. } | RingEvent::Readable { .. } => {}
            }
            events.len() < desk.limits.events_max
        });
        if handled && timed {
            stages.record(Timed::Read, (clock.nanos() - began).saturating_sub(decode_nanos));
        }
        if decode_nanos > 0 {
            stages.record(Timed::Decode, decode_nanos);
        }
        self.write_replies();
        self.pack_departures();
        self.admit(events);
        handled || events.len() > before
    }

    fn write_replies(&mut self) {
        for (token, range) in self.desk.replies_for.drain(..) {
            if let Some(out) = self.ring.outbound(token) {
                out.extend_from_slice(&self.desk.replies[range]);
            }
        }
        self.desk.replies.clear();
        for token in self.desk.closed_in_order.drain(..) {
            self.ring.close(token);
        }
        self.fresh.append(&mut self.desk.read_fresh);
    }

    fn admit(&mut self, events: &mut Vec<Event>) {
        for (listener, fd, peer) in std::mem::take(&mut self.desk.accepted) {
            if self.ring.len() >= self.desk.limits.sessions_max {
                self.desk.counters.refused_by_total += 1;
                continue;
            }
            if !self.desk.count_address(peer) {
                self.desk.counters.refused_by_address += 1;
                continue;
            }
            let (transport, plain) = self.listeners[usize::from(listener)];
            let token = self.ring.adopt(fd);
            self.desk.place(token, Stage::Fresh, peer, ServerPipeline::new(transport, plain));
            self.ring.read_once(token);
            events.push(Event::Opened(Opened { session: session(token), handed_over: false }));
        }
    }

    fn pack_departures(&mut self) {
        for (token, fd) in std::mem::take(&mut self.desk.detached) {
            let Some(connection) = self.desk.remove(token) else { continue };
            let (Stage::Leaving(to), Some(early)) = (connection.stage, connection.early) else { continue };
            let Some(connect) = early.connect else { continue };
            let parcel = HandOver {
                fd,
                peer: connection.peer,
                pipeline: connection.pipeline,
                connect,
                packets: early.packets,
                bytes: early.bytes,
            };
            self.departures.push((to, Box::new(parcel)));
        }
    }

    /// Connections that are ready to go to other shards.
    pub fn departures(&mut self) -> &mut Vec<(ShardId, Box<HandOver>)> {
        &mut self.departures
    }

    /// Takes a connection in that another shard has handed over. It counts here from now on; over the total it is closed.
    pub fn arrive(&mut self, parcel: HandOver, events: &mut Vec<Event>, now_nanos: u64) {
        if self.ring.len() >= self.desk.limits.sessions_max {
            self.desk.counters.refused_by_total += 1;
            return;
        }
        let HandOver { fd, peer, pipeline, connect, packets, bytes } = parcel;
        let token = self.ring.adopt(fd);
        *self.desk.addresses.entry(peer).or_insert(0) += 1;
        self.desk.place(token, Stage::Settled, peer, pipeline);
        let session = session(token);
        events.push(Event::Opened(Opened { session, handed_over: true }));
        events.push(Event::Packet { session, packet: ClientPacket::Connect(connect) });
        events.extend(packets.into_iter().map(|packet| Event::Packet { session, packet }));
        if !bytes.is_empty() {
            self.desk.received(token, &bytes, events, now_nanos);
            self.write_replies();
        }
        self.ring.read_on(token);
    }

    /// The engine is about to step: for the sample whose SEND is among the events.
    pub fn note_step(&mut self, now_nanos: u64) {
        if let Some(sample) = &mut self.desk.path_sample {
            sample.step_nanos.get_or_insert(now_nanos);
        }
    }

    /// Carries out the engine's `Send`.
    pub fn send(&mut self, to: SessionId, packet: &ServerPacket, now_nanos: u64, stages: &mut Stages) {
        let token = token(to);
        let Desk { connections, scratch, .. } = &mut self.desk;
        let Some(Some(connection)) = connections.get_mut(token.index as usize) else { return };
        // The ring knows the generation: a token of an earlier connection gets nothing.
        let Some(out) = self.ring.outbound(token) else { return };
        if let &ServerPacket::Connack { reason, time_diff_ms, node_id } = packet {
            let (secret, salt) = (self.secrets.key(), self.secrets.salt());
            let answer = ConnackAnswer { reason, time_diff_ms, node_id, secret, salt };
            if connection.pipeline.encode_connack(&answer, out) != reason {
                // The engine was told that this key is unusable; a success without keys would leave the client deaf.
                self.ring.close(token);
            }
        } else {
            let sampled = matches!(packet, ServerPacket::Recv { .. }) && connection.pipeline.enciphers();
            let sample = if sampled { self.recv_sample.take() } else { None };
            let began = sample.map(|clock| (clock, clock.nanos()));
            encode(&connection.pipeline, packet, scratch, out);
            if let Some((clock, began)) = began {
                stages.record(Timed::Encipher, clock.nanos() - began);
            }
        }
        if self.write_sample.is_none_or(|(_, since)| now_nanos > since + SAMPLE_NANOS_MAX) {
            self.write_sample = Some((token, now_nanos));
        }
        if let &ServerPacket::Sendack { client_seq, .. } = packet {
            let ours = |sample: &mut PathSample| sample.session == to && sample.client_seq == client_seq;
            if let Some(sample) = self.desk.path_sample.take_if(ours) {
                stages.record(Timed::WholePath, now_nanos.saturating_sub(sample.read_nanos));
                if let Some(step_nanos) = sample.step_nanos {
                    stages.record(Timed::Commit, now_nanos.saturating_sub(step_nanos));
                }
            }
        }
    }

    /// Carries out the engine's `Close`.
    pub fn close(&mut self, session: SessionId) {
        self.ring.close(token(session));
    }

    /// Carries out the engine's `HandOver`: the engine has forgotten the session.
    pub fn hand_over(&mut self, session: SessionId, to: ShardId) {
        let token = token(session);
        let Some(connection) = self.desk.find(token) else { return };
        if connection.stage == Stage::Deaf {
            // It sent garbage behind its CONNECT: nothing to move.
            self.ring.close(token);
        } else {
            connection.stage = Stage::Leaving(to);
            self.ring.detach(token);
        }
    }

    /// Carries out the engine's `Reading`.
    pub fn reading(&mut self, session: SessionId, paused: bool) {
        let token = token(session);
        let Some(connection) = self.desk.find(token) else { return };
        connection.paused = paused;
        if connection.stage == Stage::Settled {
            if paused {
                self.ring.pause(token);
            } else {
                self.ring.read_on(token);
            }
        }
    }

    /// The second half of a turn, after the engine's effects: connections that the engine kept are read for good.
    pub fn settle(&mut self) {
        for token in self.fresh.drain(..) {
            let Some(connection) = self.desk.find(token) else { continue };
            if connection.stage != Stage::Fresh {
                continue;
            }
            let Some(early) = connection.early.take() else {
                self.ring.read_once(token);
                continue;
            };
            connection.stage = Stage::Settled;
            if !connection.paused {
                self.ring.read_on(token);
            }
            let session = session(token);
            self.desk.held_back.extend(early.packets.into_iter().map(|packet| Event::Packet { session, packet }));
        }
    }

    /// Once per beat of the metronome.
    pub fn sweep(&mut self) {
        self.ring.sweep();
    }

    /// The ring, for what concerns sleeping and waking.
    pub fn ring(&mut self) -> &mut SocketRing {
        &mut self.ring
    }

    /// Hands the kernel what the turn wants, with the next system call. True: nothing has come meanwhile, and the ring may
    /// wait.
    pub fn prepare_wait(&mut self) -> bool {
        let desk = &mut self.desk;
        let mut later = std::mem::take(&mut desk.held_back);
        let quiet = self.ring.prepare_wait(&mut |event| {
            match event {
                RingEvent::Backlogged { token, full } => {
                    later.push(Event::Backlogged { session: session(token), full });
                }
                RingEvent::Detached { token, fd } => desk.detached.push((token, fd)),
                RingEvent::Ended { token, .. } => desk.ended(token, &mut later),
                // Answers of the kernel, which none is asked for here.
                _ => {}
            }
            true
        });
        let quiet = quiet && later.is_empty() && desk.detached.is_empty();
        self.desk.held_back = later;
        quiet
    }

    /// The ring's file write was answered.
    pub fn take_file_written(&mut self) -> Option<FileWritten> {
        self.file_written.take()
    }

    /// True when something has come that the next turn is to look at. What the kernel is to be told does not count.
    #[must_use]
    pub fn has_news(&mut self) -> bool {
        !self.desk.held_back.is_empty() || self.ring.has_news()
    }

    /// Sockets that have not ended.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.ring.len()
    }

    /// Adds this gateway's numbers to a shard's.
    pub fn count_into(&self, counters: &mut ShellCounters) {
        let ring = self.ring.counters();
        counters.bytes_read = ring.bytes_read;
        counters.bytes_written = ring.bytes_written;
        counters.writes = ring.writes;
        counters.closed_slow = ring.closed_slow;
        counters.read_buffers_exhausted = ring.read_buffers_exhausted;
        counters.refused_by_address = self.desk.counters.refused_by_address;
        counters.refused_by_total = self.desk.counters.refused_by_total;
        counters.sockets = self.ring.len() as u64;
        counters.outbound_bytes = self.ring.outbound_bytes() as u64;
    }
}

impl Desk {
    fn find(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(token.index as usize)?.as_mut()?;
        (connection.generation == token.generation).then_some(connection)
    }

    fn place(&mut self, token: Token, stage: Stage, peer: IpAddr, pipeline: ServerPipeline) {
        let index = token.index as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        let generation = token.generation;
        let connection = Connection { generation, stage, paused: false, peer, pipeline, early: None };
        assert!(self.connections[index].replace(connection).is_none(), "an index has one connection at a time");
    }

    fn remove(&mut self, token: Token) -> Option<Connection> {
        self.find(token)?;
        let connection = self.connections[token.index as usize].take()?;
        if let Some(count) = self.addresses.get_mut(&connection.peer) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&connection.peer);
            }
        }
        Some(connection)
    }

    /// Counts a connection of an address; false, and not counted, when it has too many.
    fn count_address(&mut self, peer: IpAddr) -> bool {
        let most = self.limits.sessions_per_address_max;
        let count = self.addresses.entry(peer).or_insert(0);
        if most > 0 && *count >= most {
            return false;
        }
        *count += 1;
        true
    }

    fn ended(&mut self, token: Token, events: &mut Vec<Event>) {
        if let Some(connection) = self.remove(token) {
            // The engine has forgotten one that leaves.
            if !matches!(connection.stage, Stage::Leaving(_)) {
                events.push(Event::Closed { session: session(token) });
            }
        }
    }

    /// Turns bytes into events. True when they were enciphered.
    fn received(&mut self, token: Token, bytes: &[u8], events: &mut Vec<Event>, read_nanos: u64) -> bool {
        let Some(Some(connection)) = self.connections.get_mut(token.index as usize) else { return false };
        match connection.stage {
            Stage::Deaf => return false,
            Stage::Leaving(_) => {
                connection.early.get_or_insert_default().bytes.extend_from_slice(bytes);
                return false;
            }
            Stage::Fresh => self.read_fresh.push(token),
            Stage::Settled => {}
        }
        let Connection { pipeline, early, stage, .. } = connection;
        let session = session(token);
        let (shard_count, sample) = (self.limits.shard_count, &mut self.path_sample);
        let replies_from = self.replies.len();
        let outcome = pipeline.feed(bytes, &mut self.scratch, &mut self.replies, &mut |inbound| {
            if let Inbound::Send(send) = &inbound
                && sample.is_none_or(|taken| read_nanos > taken.read_nanos + SAMPLE_NANOS_MAX)
            {
                *sample = Some(PathSample { session, client_seq: send.client_seq, read_nanos, step_nanos: None });
            }
            let packet = client_packet(inbound);
            match (early.as_deref_mut(), &packet) {
                (Some(early), _) if *stage == Stage::Fresh => return early.packets.push(packet),
                (None, ClientPacket::Connect(connect)) if *stage == Stage::Fresh => {
                    let connect = (shard_count > 1).then(|| connect.clone());
                    *early = Some(Box::new(Early { connect, ..Early::default() }));
                }
                _ => {}
            }
            events.push(Event::Packet { session, packet });
        });
        if self.replies.len() > replies_from {
            self.replies_for.push((token, replies_from..self.replies.len()));
        }
        if let Err(fault) = outcome {
            *stage = Stage::Deaf;
            match fault.kind {
                FaultKind::Closed => self.closed_in_order.push(token),
                FaultKind::Malformed => events.push(Event::Malformed { session, what: fault.what }),
            }
        }
        pipeline.enciphers()
    }
}
