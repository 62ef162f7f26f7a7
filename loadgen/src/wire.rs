//! One connection as bytes: what is to be written, what was read, and the driver between them. It does not know what the messages are
//! about.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use crate::drivers::{Driver, Heard, Outgoing, Scratch};

/// What an inbox begins with: enough for an idle session. It doubles whenever a read fills it.
const INBOX_BYTES: usize = 2048;

/// An inbox does not grow beyond this for speed, only for a packet that needs it.
const INBOX_BYTES_FOR_SPEED: usize = 64 * 1024;

/// A connection.
pub struct Wire {
    /// The socket; registered with the poll by its owner.
    pub socket: TcpStream,
    driver: Box<dyn Driver>,
    inbox: Vec<u8>,
    from: usize,
    to: usize,
    outbox: Vec<u8>,
    written: usize,
}

impl Wire {
    /// On a socket that connects or is connected.
    pub fn new(socket: TcpStream, mut driver: Box<dyn Driver>) -> Wire {
        let mut outbox = Vec::new();
        driver.hello(&mut outbox);
        Wire { socket, driver, inbox: vec![0; INBOX_BYTES], from: 0, to: 0, outbox, written: 0 }
    }

    /// Queues a message.
    pub fn send(&mut self, scratch: &mut Scratch, message: Outgoing<'_>) {
        self.driver.send(message, scratch, &mut self.outbox);
    }

    /// Queues a ping.
    pub fn ping(&mut self) {
        self.driver.ping(&mut self.outbox);
    }

    /// Queues the last words.
    pub fn goodbye(&mut self) {
        self.driver.goodbye(&mut self.outbox);
    }

    /// True when something waits to be written.
    pub fn has_output(&self) -> bool {
        self.written < self.outbox.len()
    }

    /// Reads what the socket has; `false` when there may be more.
    pub fn fill(&mut self) -> Result<bool, String> {
        self.inbox.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        if self.to == self.inbox.len() {
            self.inbox.resize(self.inbox.len() * 2, 0);
        }
        let room = self.inbox.len() - self.to;
        match self.socket.read(&mut self.inbox[self.to..]) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(bytes) => {
                self.to += bytes;
                if bytes == room && room < INBOX_BYTES_FOR_SPEED {
                    self.inbox.resize(self.inbox.len() * 2, 0);
                }
                Ok(bytes < room)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// The next whole thing of what was read.
    pub fn next<'a>(&'a mut self, scratch: &'a mut Scratch) -> Result<Option<Heard<'a>>, String> {
        if self.from == self.to {
            return Ok(None);
        }
        let next = self.driver.next(&self.inbox[self.from..self.to], scratch, &mut self.outbox)?;
        Ok(next.map(|(taken, heard)| {
            self.from += taken;
            heard
        }))
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), String> {
        self.driver.before_flush(&mut self.outbox);
        while self.written < self.outbox.len() {
            match self.socket.write(&self.outbox[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(fault) => return Err(fault.to_string()),
            }
        }
        self.outbox.clear();
        self.written = 0;
        Ok(())
    }
}
