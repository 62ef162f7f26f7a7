//! Many connections on one thread: opening them (from several loopback addresses when ports would run short), waiting for
//! readiness, writing what was queued. Edge-triggered, one read and one write per connection and wake-up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::spread::Placed;
use crate::wire::{Scratch, Wire};

/// Connections from one source address: well below the kernel's range of about 28 000 ports and the server's default bound
/// of 10 000 connections per address.
const CONNECTIONS_PER_ADDRESS: usize = 4000;

/// Users that wait for their CONNACK at a time.
const CONNECTING_AT_ONCE: usize = 256;

/// Connections and what is shared between them.
pub struct Fleet {
    /// By number.
    pub wires: Vec<Wire>,
    /// Shared working memory.
    pub scratch: Scratch,
    poll: Poll,
    events: Events,
    ready: Vec<usize>,
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
}

impl Fleet {
    /// Connects these users, [`CONNECTING_AT_ONCE`] at a time.
    pub fn connect(users: &[Placed], plain: bool) -> io::Result<Fleet> {
        let count = users.len();
        allow_open_files(count as u64 + 64)?;
        let poll = Poll::new()?;
        let mut wires: Vec<Wire> = Vec::with_capacity(count);
        while wires.len() < count {
            let first = wires.len();
            let at = |number: usize| {
                let Placed { name, address } = &users[number];
                move |fault: io::Error| {
                    io::Error::new(fault.kind(), format!("user {number} ({name}) at {address}: {fault}"))
                }
            };
            let begin = |number: usize| {
                let socket = open_socket(users[number].address, number)?;
                Wire::begin(socket, &users[number].name, (!plain).then(|| secret_of(number)))
            };
            let numbers = first..count.min(first + CONNECTING_AT_ONCE);
            let begun = numbers.map(|number| begin(number).map_err(at(number))).collect::<io::Result<Vec<_>>>()?;
            for (connecting, number) in begun.into_iter().zip(first..) {
                let mut wire = connecting.finish().map_err(at(number))?;
                poll.registry().register(&mut wire.socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
                wires.push(wire);
            }
        }
        Ok(Fleet {
            wires,
            scratch: Scratch::default(),
            poll,
            events: Events::with_capacity(1024),
            ready: Vec::new(),
            dirty: Vec::new(),
            is_dirty: vec![false; count],
        })
    }

    /// Remembers that a connection has something queued.
    pub fn mark_dirty(&mut self, number: usize) {
        if !self.is_dirty[number] {
            self.is_dirty[number] = true;
            self.dirty.push(number);
        }
    }

    /// Writes everything queued, then waits; returns the connections that can be read.
    pub fn turn(&mut self, wait: Duration) -> io::Result<Vec<usize>> {
        for number in self.dirty.drain(..) {
            self.is_dirty[number] = false;
            self.wires[number].flush()?;
        }
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            outcome => outcome?,
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        for event in &self.events {
            let number = event.token().0;
            if event.is_writable() {
                self.wires[number].flush()?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                ready.push(number);
            }
        }
        Ok(ready)
    }

    /// Gives the list of [`Fleet::turn`] back, so that its memory is used again.
    pub fn turned(&mut self, ready: Vec<usize>) {
        self.ready = ready;
    }
}

/// A secret for the key agreement: different for each connection, and no secret to anybody.
fn secret_of(number: usize) -> [u8; 32] {
    let mut secret = [0x5a; 32];
    secret[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    secret
}

fn open_socket(address: SocketAddr, number: usize) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let group = number / CONNECTIONS_PER_ADDRESS;
    if group > 0 && address.ip().is_loopback() && address.is_ipv4() {
        let source = Ipv4Addr::new(127, 0, 1 + (group / 250) as u8, 1 + (group % 250) as u8);
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
    }
    socket.connect(&address.into())?;
    Ok(socket.into())
}

fn allow_open_files(wanted: u64) -> io::Result<()> {
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
    if soft >= wanted {
        return Ok(());
    }
    rlimit::setrlimit(rlimit::Resource::NOFILE, wanted, hard.max(wanted)).map_err(|fault| {
        io::Error::new(fault.kind(), format!("{wanted} open files are needed, {hard} are allowed: {fault}"))
    })
}
