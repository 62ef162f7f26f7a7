//! Connections between devices and nodes as the network sees them: bytes in order, late, in arbitrary pieces, bounded by what
//! the reader's socket takes; closed in order, or cut so that neither end is told. What the bytes mean is not known here.

use jindou::ids::SessionId;

use crate::chance::Chance;
use crate::wire::Transport;

/// One connection, from its opening for ever; indices are never used again.
pub struct Connection {
    /// Whose; `None` for one that talks rubbish.
    pub device: Option<usize>,
    /// To which node.
    pub node: usize,
    /// Which life of that node took it.
    pub life: u64,
    /// TCP or WebSocket.
    pub transport: Transport,
    /// Where its session is; `None` before accepting, while it moves, and after the end.
    pub at: Option<(usize, SessionId)>,
    /// The node's end is open.
    pub server_open: bool,
    /// The client's end is open.
    pub client_open: bool,
    /// The cable is cut: nothing arrives any more, neither bytes nor endings.
    pub cut: bool,
    /// It is on its way to another shard; what arrives meanwhile waits here.
    pub moving: bool,
    /// Bytes that arrived while moving.
    pub held: Vec<u8>,
    /// The client's end was announced while moving.
    pub held_end: bool,
    /// Bytes written by the node that the client has not read, on the way or arrived.
    pub unread: usize,
    /// Those that have arrived.
    pub arrived: Vec<u8>,
    /// The node's end has closed, once everything arrived is read.
    pub arrived_end: bool,
    /// When it was begun, by [`crate::node::Node::ran_ns`] of its node.
    pub opened_ran_ns: u64,
    /// When the node has heard something last.
    pub heard_ns: u64,
    to_server_ns: u64,
    to_client_ns: u64,
}

impl Connection {
    /// On its way to be accepted.
    pub fn new(device: Option<usize>, node: usize, life: u64, transport: Transport) -> Connection {
        Connection {
            device,
            node,
            life,
            transport,
            at: None,
            server_open: true,
            client_open: true,
            cut: false,
            moving: false,
            held: Vec::new(),
            held_end: false,
            unread: 0,
            arrived: Vec::new(),
            arrived_end: false,
            opened_ran_ns: 0,
            heard_ns: 0,
            to_server_ns: 0,
            to_client_ns: 0,
        }
    }

    /// When something sent now towards the node arrives: never before what was sent earlier.
    pub fn arrives_at_server(&mut self, now_ns: u64, latency_ns: u64) -> u64 {
        self.to_server_ns = self.to_server_ns.max(now_ns + latency_ns);
        self.to_server_ns
    }

    /// When something sent now towards the client arrives.
    pub fn arrives_at_client(&mut self, now_ns: u64, latency_ns: u64) -> u64 {
        self.to_client_ns = self.to_client_ns.max(now_ns + latency_ns);
        self.to_client_ns
    }
}

/// Cuts bytes into the pieces in which they arrive.
pub fn pieces(bytes: Vec<u8>, split: bool, chance: &mut Chance) -> Vec<Vec<u8>> {
    if !split || bytes.len() < 2 || !chance.one_in(3) {
        return vec![bytes];
    }
    let mut rest = bytes;
    let mut out = Vec::new();
    for _ in 0..chance.between(1, 3) {
        if rest.len() < 2 {
            break;
        }
        let tail = rest.split_off(chance.between(1, rest.len() as u64 - 1) as usize);
        out.push(std::mem::replace(&mut rest, tail));
    }
    out.push(rest);
    out
}
