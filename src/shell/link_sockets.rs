//! The connections between this shard and shards of other nodes, on a socket ring of their own, and the node's gossip socket:
//! bytes in, bytes out. What the engine writes to one connection in a turn leaves in one send; what one connection brings in a
//! turn becomes one event.
//!
//! It deliberately understands no byte of it. Who the other end is, whether it may speak, what is sent again after a new
//! connection and how many links there are to be is the engine's link machine. The only refusal here is a count of
//! connections, because an unauthenticated flood must not reach the engine.
//!
//! ```text
//! dial ─→ Dialing ── LinkDialed { made: true } ──→ Open ── end of stream, error, too much unsent, hang up ──→ LinkClosed
//!            └── LinkDialed { made: false }         ▲
//! accepted ── LinkAccepted ─────────────────────────┘
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::gossip_socket::GossipSocket;
use super::socket_ring::{RingEvent, SocketRing, Token};
use super::stages::ShellCounters;
use crate::engine::event::Event;
use crate::ids::LinkConn;

#[cfg(test)]
mod tests;

/// Connections of one shard. At it: an accepted one is closed at once and counted, and a dial is not made. A cluster of 64
/// nodes with 16 shards each needs a thousand.
const CONNECTIONS_MAX: usize = 4096;

/// A connection whose other end acknowledges nothing for so long is dead; a silent one is asked after two seconds, then every
/// second.
const DEAD_AFTER: Duration = Duration::from_secs(5);
const ASK_AFTER: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A buffer for what one connection brings in a turn is kept for the next turn up to this size.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Frames are read where they lie, as numbers of up to 8 bytes.
const ALIGN_BYTES: usize = 8;

/// What a shard gets of its node's cluster address, bound.
#[derive(Debug)]
pub struct ClusterSockets {
    /// Where other nodes' shards connect to this one.
    pub listener: OwnedFd,
    /// The node's gossip, for its first shard.
    pub gossip: Option<UdpSocket>,
}

/// The links' sockets of one shard.
pub struct LinkSockets {
    ring: SocketRing,
    desk: Desk,
    gossip: Option<GossipSocket>,
    tokens: HashMap<LinkConn, Token>,
    accepted_count: u64,
    /// Dials that could not even begin.
    failed: Vec<LinkConn>,
    refused: u64,
}

/// What the ring's reports are worked on with; apart from the ring, which is busy reporting.
#[derive(Default)]
struct Desk {
    /// By the index of their token.
    connections: Vec<Option<Connection>>,
    /// Whoever has brought bytes in this turn.
    heard: Vec<Token>,
    accepted: Vec<OwnedFd>,
    ended: Vec<LinkConn>,
    gossip_waits: Option<u16>,
}

struct Connection {
    conn: LinkConn,
    generation: u32,
    made: bool,
    /// What it has brought in this turn.
    inbound: Vec<u8>,
}

impl std::fmt::Debug for LinkSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSockets").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl LinkSockets {
    /// Serves these sockets on a ring of the calling thread, shaped as `RingConfig::LINKS`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(mut ring: SocketRing, sockets: ClusterSockets) -> io::Result<LinkSockets> {
        ring.listen(sockets.listener)?;
        let gossip = sockets.gossip.map(GossipSocket::new).transpose()?;
        if let Some(gossip) = &gossip {
            ring.watch(gossip.descriptor()?);
        }
        Ok(LinkSockets {
            ring,
            desk: Desk::default(),
            gossip,
            tokens: HashMap::new(),
            accepted_count: 0,
            failed: Vec::new(),
            refused: 0,
        })
    }

    /// The first half of a turn: sends what the last one left, takes what has come, adds it to `events`.
    pub fn gather(&mut self, events: &mut Vec<Event>) {
        events.extend(self.failed.drain(..).map(|conn| Event::LinkDialed { conn, made: false }));
        let desk = &mut self.desk;
        self.ring.turn(&mut |event| {
            match event {
                RingEvent::Received { token, bytes } => desk.received(token, bytes),
                RingEvent::Connected { token } => desk.connected(token, events),
                RingEvent::Ended { token, .. } => desk.ended(token, events),
                RingEvent::Accepted { fd, .. } => desk.accepted.push(fd),
                RingEvent::Readable { watched } => desk.gossip_waits = Some(watched),
                RingEvent::Sent { .. }
                | RingEvent::Backlogged { .. }
                | RingEvent::Detached { .. }
                | RingEvent::FileWritten(_) => {}
            }
            // Bounded by the ring's read buffers and completions.
            true
        });
        for token in std::mem::take(&mut self.desk.heard) {
            self.desk.report(token, events);
        }
        for conn in self.desk.ended.drain(..) {
            self.tokens.remove(&conn);
        }
        for fd in std::mem::take(&mut self.desk.accepted) {
            self.admit(fd, events);
        }
        if let (Some(gossip), Some(watched)) = (&mut self.gossip, self.desk.gossip_waits.take()) {
            gossip.receive(events);
            self.ring.watch_again(watched);
        }
    }

    fn admit(&mut self, fd: OwnedFd, events: &mut Vec<Event>) {
        let socket = SockRef::from(&fd);
        if self.ring.len() >= CONNECTIONS_MAX || prepare(&socket).is_err() {
            self.refused += 1;
            return;
        }
        let from = socket
            .peer_addr()
            .ok()
            .and_then(|from| from.as_socket())
            .map(|from| SocketAddr::new(from.ip().to_canonical(), from.port()));
        self.accepted_count += 1;
        let conn = LinkConn::accepted(self.accepted_count);
        let token = self.ring.adopt(fd);
        self.desk.place(token, conn, true);
        self.tokens.insert(conn, token);
        self.ring.read_on(token);
        events.push(Event::LinkAccepted { conn, from });
    }

    /// Carries out the engine's `Dial`.
    pub fn dial(&mut self, conn: LinkConn, to: SocketAddr) {
        if self.ring.len() >= CONNECTIONS_MAX {
            self.failed.push(conn);
            return;
        }
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP));
        match socket.and_then(|socket| prepare(&SockRef::from(&socket)).map(|()| socket)) {
            Ok(socket) => {
                let token = self.ring.dial(socket.into(), to);
                self.desk.place(token, conn, false);
                self.tokens.insert(conn, token);
                self.ring.read_on(token);
            }
            Err(error) => {
                tracing::warn!(%error, "no socket can be made for a link");
                self.failed.push(conn);
            }
        }
    }

    /// Carries out the engine's `LinkWrite`.
    pub fn write(&mut self, conn: LinkConn, bytes: Vec<u8>) {
        if let Some(token) = self.tokens.get(&conn) {
            self.ring.append(*token, bytes);
        }
    }

    /// Carries out the engine's `Hangup`.
    pub fn hang_up(&mut self, conn: LinkConn) {
        if let Some(token) = self.tokens.get(&conn) {
            self.ring.close(*token);
        }
    }

    /// Carries out the engine's `Datagram`.
    pub fn send_datagram(&mut self, to: SocketAddr, bytes: &[u8]) {
        if let Some(gossip) = &mut self.gossip {
            gossip.send(to, bytes);
        }
    }

    /// Accepts nobody any more and hangs up on everybody.
    pub fn close_all(&mut self) {
        self.ring.stop_listening();
        for token in self.tokens.values() {
            self.ring.close(*token);
        }
    }

    /// Once per beat of the metronome.
    pub fn sweep(&mut self) {
        self.ring.sweep();
    }

    /// True when the next turn has something to do at once.
    #[must_use]
    pub fn has_work(&mut self) -> bool {
        !self.failed.is_empty() || self.ring.has_work()
    }

    /// The ring, for what concerns sleeping and waking.
    pub fn ring(&mut self) -> &mut SocketRing {
        &mut self.ring
    }

    /// Sockets that have not ended.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.ring.len()
    }

    /// Adds these numbers to a shard's.
    pub fn count_into(&self, counters: &mut ShellCounters) {
        let ring = self.ring.counters();
        counters.links = self.ring.len() as u64;
        counters.link_bytes_read = ring.bytes_read;
        counters.link_bytes_written = ring.bytes_written;
        counters.link_writes = ring.writes;
        counters.links_closed_slow = ring.closed_slow;
        counters.links_refused = self.refused;
        counters.link_outbound_bytes = self.ring.outbound_bytes() as u64;
        let gossip = self.gossip.as_ref().map(GossipSocket::counters).unwrap_or_default();
        counters.datagrams_received = gossip.received;
        counters.datagrams_sent = gossip.sent;
        counters.datagrams_dropped = gossip.dropped;
    }
}

/// A link's socket sends at once and finds out soon when its other end is gone.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))
}

/// A copy that begins at a multiple of [`ALIGN_BYTES`] and is no longer than it must be: it may be kept for long.
fn aligned(bytes: &[u8]) -> Bytes {
    let mut copy = Vec::<u8>::with_capacity(bytes.len() + ALIGN_BYTES - 1);
    let lead = copy.as_ptr().align_offset(ALIGN_BYTES);
    copy.resize(lead, 0);
    copy.extend_from_slice(bytes);
    Bytes::from(copy).slice(lead..)
}

impl Desk {
    fn find(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(token.index as usize)?.as_mut()?;
        (connection.generation == token.generation).then_some(connection)
    }

    fn place(&mut self, token: Token, conn: LinkConn, made: bool) {
        let index = token.index as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        let connection = Connection { conn, generation: token.generation, made, inbound: Vec::new() };
        assert!(self.connections[index].replace(connection).is_none(), "an index has one connection at a time");
    }

    fn connected(&mut self, token: Token, events: &mut Vec<Event>) {
        if let Some(connection) = self.find(token) {
            connection.made = true;
            events.push(Event::LinkDialed { conn: connection.conn, made: true });
        }
    }

    fn received(&mut self, token: Token, bytes: &[u8]) {
        let Some(connection) = self.find(token) else { return };
        let first = connection.inbound.is_empty();
        connection.inbound.extend_from_slice(bytes);
        if first {
            self.heard.push(token);
        }
    }

    /// Hands on what a connection has brought in this turn.
    fn report(&mut self, token: Token, events: &mut Vec<Event>) {
        // One that has ended was reported by its end.
        let Some(connection) = self.find(token).filter(|connection| !connection.inbound.is_empty()) else { return };
        events.push(Event::LinkBytes { conn: connection.conn, bytes: aligned(&connection.inbound) });
        connection.inbound.clear();
        if connection.inbound.capacity() > KEPT_BYTES_MAX {
            connection.inbound = Vec::new();
        }
    }

    fn ended(&mut self, token: Token, events: &mut Vec<Event>) {
        self.report(token, events);
        if self.find(token).is_none() {
            return;
        }
        if let Some(Connection { conn, made, .. }) = self.connections[token.index as usize].take() {
            self.ended.push(conn);
            events.push(if made { Event::LinkClosed { conn } } else { Event::LinkDialed { conn, made: false } });
        }
    }
}
