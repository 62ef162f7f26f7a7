//! The node's gossip socket: UDP on the cluster's address, served by the node's first shard. Datagrams in and out, nothing else.
//! What does not fit, on either way, is dropped and counted: gossip repeats itself. It deliberately judges no contents; who
//! has really sent a datagram is the engine's to find out.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use crate::engine::event::Event;

/// Longest datagram. A longer one is dropped.
pub const DATAGRAM_BYTES_MAX: usize = 2048;

/// Datagrams taken in one turn; the rest waits in the kernel, which drops what is too much.
const PER_TURN_MAX: usize = 64;

/// The socket of one shard.
#[derive(Debug)]
pub struct GossipSocket {
    socket: UdpSocket,
    /// One byte more than allowed, so that what is too long is seen to be.
    buffer: Box<[u8; DATAGRAM_BYTES_MAX + 1]>,
    counters: GossipCounters,
}

/// What a gossip socket has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipCounters {
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams given to the kernel.
    pub sent: u64,
    /// Datagrams, coming or going, that were too long or that the kernel had no room for.
    pub dropped: u64,
}

impl GossipSocket {
    /// Takes a bound socket.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(socket: UdpSocket) -> io::Result<GossipSocket> {
        socket.set_nonblocking(true)?;
        let buffer = Box::new([0; DATAGRAM_BYTES_MAX + 1]);
        Ok(GossipSocket { socket, buffer, counters: GossipCounters::default() })
    }

    /// The socket once more, for whoever waits until it can be read.
    ///
    /// # Errors
    /// Too many open files.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Takes what has come, so much of it as one turn may.
    pub fn receive(&mut self, events: &mut Vec<Event>) {
        for _ in 0..PER_TURN_MAX {
            match self.socket.recv_from(&mut self.buffer[..]) {
                Ok((length, _)) if length > DATAGRAM_BYTES_MAX => self.counters.dropped += 1,
                Ok((length, from)) => {
                    self.counters.received += 1;
                    events.push(Event::Datagram { from, bytes: self.buffer[..length].to_vec() });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An earlier datagram could not be delivered, or a signal came: nothing of this one.
                Err(_) => {}
            }
        }
    }

    /// Sends one, or drops it.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        if bytes.len() <= DATAGRAM_BYTES_MAX && self.socket.send_to(bytes, to).is_ok() {
            self.counters.sent += 1;
        } else {
            self.counters.dropped += 1;
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> GossipCounters {
        self.counters
    }
}
