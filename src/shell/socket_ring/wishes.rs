//! The first half of a ring's turn: what the kernel does for a socket is brought in line with what is wanted of it. The states
//! are drawn in the ring's head. Waits for nothing.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::read_buffers::GROUP;
use super::socket::{GENERATION_MASK, Phase, Reading, Request, Socket, user_data};
use super::{EndReason, LINGER_SWEEPS, RingEvent, SocketRing, Token};

impl SocketRing {
    pub(super) fn attend_all(&mut self, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        if self.attention.is_empty() {
            return true;
        }
        let mut attending = std::mem::replace(&mut self.attention, std::mem::take(&mut self.attending));
        let mut go_on = true;
        for index in attending.drain(..) {
            self.sockets[index as usize].attention = false;
            // What is reported here is bounded by the sockets that the caller touched; none is left out.
            go_on &= self.attend(index as usize, sink);
        }
        self.attending = attending;
        go_on
    }

    /// Brings what the kernel does for a socket in line with what is wanted of it.
    pub(super) fn attend(&mut self, index: usize, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        let config = self.config;
        let socket = &mut self.sockets[index];
        if socket.fd.is_none() {
            return true;
        }
        let token = Token { index: index as u32, generation: socket.generation };
        let unsent_bytes = socket.unsent_bytes();
        if unsent_bytes > config.outbound_bytes_max && socket.phase != Phase::Draining {
            socket.drain(EndReason::TooSlow);
            self.counters.closed_slow += 1;
        }
        let mut go_on = true;
        if socket.phase == Phase::Open {
            if !socket.full && unsent_bytes >= config.outbound_high_bytes {
                socket.full = true;
                go_on = sink(RingEvent::Backlogged { token, full: true });
            } else if socket.full && unsent_bytes <= config.outbound_low_bytes {
                socket.full = false;
                go_on = sink(RingEvent::Backlogged { token, full: false });
            }
        }
        self.attend_dialing(index);
        self.attend_sending(index);
        self.attend_reading(index);
        self.attend_end(index, token, sink) && go_on
    }

    fn attend_dialing(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        if socket.dialed.is_some() && socket.phase == Phase::Draining && !socket.cancelling {
            socket.cancelling = true;
            let target = user_data(Request::Connect, socket.generation, index as u32);
            self.cancel(target);
        }
    }

    fn attend_sending(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        if socket.sending || matches!(socket.phase, Phase::Connecting | Phase::Draining) {
            return;
        }
        if !socket.queue.is_empty() {
            socket.flight = std::mem::take(&mut socket.queue);
            socket.sent = 0;
            self.send(index);
        } else if socket.phase == Phase::Flushing {
            if let Some(fd) = &socket.fd {
                // An error means that the connection is gone; the read below will say so.
                let _ = socket2::SockRef::from(fd).shutdown(std::net::Shutdown::Write);
            }
            socket.phase = Phase::Lingering;
            socket.sweeps_left = LINGER_SWEEPS;
            if socket.end_of_stream {
                socket.drain(EndReason::Closed);
            }
        }
    }

    fn attend_reading(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let desired = match socket.phase {
            Phase::Open => socket.wanted,
            // Read and thrown away: a close with unread bytes would be a reset, which may cost the peer our last ones.
            Phase::Flushing | Phase::Lingering if !socket.end_of_stream => Reading::Many,
            _ => Reading::Nothing,
        };
        match (socket.in_flight, desired) {
            (Reading::Nothing, Reading::Nothing) => {}
            (Reading::Nothing, _) => self.recv(index, desired),
            (_, Reading::Nothing) if !socket.cancelling && socket.phase != Phase::Draining => {
                socket.cancelling = true;
                let target = user_data(Request::Recv, socket.generation, index as u32);
                self.cancel(target);
            }
            _ => {}
        }
    }

    fn attend_end(&mut self, index: usize, token: Token, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        let socket = &mut self.sockets[index];
        if socket.in_flight != Reading::Nothing || socket.sending || socket.dialed.is_some() {
            return true;
        }
        let why = socket.why;
        match socket.phase {
            Phase::Draining => {
                drop(self.remove(index));
                sink(RingEvent::Ended { token, why })
            }
            Phase::Leaving if socket.queue.is_empty() => {
                let fd = self.remove(index).expect("a socket that leaves is open");
                sink(RingEvent::Detached { token, fd })
            }
            _ => true,
        }
    }

    fn remove(&mut self, index: usize) -> Option<OwnedFd> {
        let socket = &mut self.sockets[index];
        let fd = socket.fd.take();
        let generation = (socket.generation + 1) & GENERATION_MASK;
        *socket = Socket::vacant(generation);
        self.free.push(index as u32);
        fd
    }

    pub(super) fn connect(&mut self, index: usize) {
        let socket = &self.sockets[index];
        let (Some(fd), Some(address)) = (&socket.fd, &socket.dialed) else { return };
        let entry = opcode::Connect::new(Fd(fd.as_raw_fd()), address.as_ptr().cast(), address.len())
            .build()
            .user_data(user_data(Request::Connect, socket.generation, index as u32));
        self.push(&entry);
    }

    fn recv(&mut self, index: usize, how: Reading) {
        let length = self.buffers().each_bytes();
        let socket = &mut self.sockets[index];
        let Some(fd) = &socket.fd else { return };
        let fd = Fd(fd.as_raw_fd());
        let entry = match how {
            Reading::Many => opcode::RecvMulti::new(fd, GROUP).build(),
            _ => opcode::Recv::new(fd, std::ptr::null_mut(), length)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        socket.in_flight = how;
        socket.cancelling = false;
        let entry = entry.user_data(user_data(Request::Recv, socket.generation, index as u32));
        self.push(&entry);
    }

    pub(super) fn send(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let Some(fd) = &socket.fd else { return };
        let rest = &socket.flight[socket.sent as usize..];
        let entry = opcode::Send::new(Fd(fd.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(user_data(Request::Send, socket.generation, index as u32));
        socket.sending = true;
        self.counters.writes += 1;
        self.push(&entry);
    }
}
