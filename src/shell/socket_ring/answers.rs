//! The second half of a ring's turn: what the kernel has answered, one completion after the other. The states are drawn in the
//! ring's head. What follows from an answer is done by the next turn's first half.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::socket::{Phase, Reading, Request, request_of};
use super::{Completion, EndReason, RingEvent, SPARE_BYTES_MAX, SPARE_COUNT_MAX, SocketRing, Token};

impl SocketRing {
    pub(super) fn handle(&mut self, completion: Completion, sink: &mut impl FnMut(RingEvent<'_>) -> bool) -> bool {
        if !cqueue::more(completion.flags) {
            self.outstanding -= 1;
        }
        let (request, generation, index) = request_of(completion.user_data);
        match request {
            Request::Accept => self.handle_accept(completion, index as usize, sink),
            Request::Recv => self.handle_recv(completion, Token { index, generation }, sink),
            Request::Send => self.handle_send(completion, Token { index, generation }, sink),
            Request::Cancel => true,
            Request::Timer => {
                if generation == self.timer.generation {
                    self.timer.armed_nanos = None;
                }
                true
            }
            Request::Connect => self.handle_connect(completion, Token { index, generation }, sink),
            Request::Watch => {
                self.watched[index as usize].armed = false;
                // An error is for the reader to find.
                sink(RingEvent::Readable { watched: index as u16 })
            }
            Request::FileWrite => match self.file_write_answered(completion.result) {
                Some(written) => sink(RingEvent::FileWritten(written)),
                None => true,
            },
            Request::Doorbell => {
                if !cqueue::more(completion.flags) {
                    self.arm_doorbell();
                }
                true
            }
        }
    }

    fn handle_accept(
        &mut self,
        completion: Completion,
        number: usize,
        sink: &mut impl FnMut(RingEvent<'_>) -> bool,
    ) -> bool {
        if !cqueue::more(completion.flags) {
            self.listeners[number].armed = false;
        }
        if completion.result < 0 {
            if self.listeners[number].fd.is_some() {
                // Most likely too many open files. Armed again by the next sweep, not at once: it would spin.
                let error = io::Error::from_raw_os_error(-completion.result);
                tracing::warn!(%error, "a connection could not be accepted");
            }
            return true;
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(completion.result) };
        if !self.listeners[number].armed {
            self.arm_accept(number);
        }
        let address = socket2::SockRef::from(&fd).peer_addr().ok().and_then(|peer| peer.as_socket());
        // No address: the peer has left already.
        let Some(address) = address else { return true };
        sink(RingEvent::Accepted { listener: number as u16, fd, peer: address.ip() })
    }

    fn handle_connect(
        &mut self,
        completion: Completion,
        token: Token,
        sink: &mut impl FnMut(RingEvent<'_>) -> bool,
    ) -> bool {
        let index = self.find(token).expect("an index is free only when nothing is in flight");
        self.attend_to(index);
        let socket = &mut self.sockets[index];
        socket.dialed = None;
        socket.cancelling = false;
        if socket.phase != Phase::Connecting {
            return true;
        }
        if completion.result < 0 {
            socket.drain(EndReason::Failed(-completion.result));
            return true;
        }
        socket.phase = Phase::Open;
        sink(RingEvent::Connected { token })
    }

    fn handle_recv(
        &mut self,
        completion: Completion,
        token: Token,
        sink: &mut impl FnMut(RingEvent<'_>) -> bool,
    ) -> bool {
        let index = self.find(token).expect("an index is free only when nothing is in flight");
        let mut go_on = true;
        let socket = &mut self.sockets[index];
        if !cqueue::more(completion.flags) {
            if socket.wanted == Reading::Once && completion.result > 0 {
                socket.wanted = Reading::Nothing;
            }
            socket.in_flight = Reading::Nothing;
            socket.cancelling = false;
        }
        let reported = matches!(socket.phase, Phase::Open | Phase::Leaving);
        let buffer = cqueue::buffer_select(completion.flags);
        match completion.result {
            length if length > 0 => {
                self.counters.bytes_read += length as u64;
                let id = buffer.expect("bytes lie in a buffer");
                if reported {
                    let bytes = self.buffers.as_ref().expect("taken only by drop").bytes(id, length as usize);
                    go_on = sink(RingEvent::Received { token, bytes });
                }
            }
            0 => {
                socket.end_of_stream = true;
                if socket.phase != Phase::Flushing {
                    let why = if reported { EndReason::PeerClosed } else { EndReason::Closed };
                    socket.drain(why);
                }
            }
            error => match -error {
                // Nothing was taken and the wish stands: armed again when this turn has returned its buffers.
                libc::ENOBUFS => self.counters.read_buffers_exhausted += 1,
                libc::ECANCELED | libc::EAGAIN | libc::EINTR => {}
                errno => socket.drain(EndReason::Failed(errno)),
            },
        }
        if let Some(id) = buffer {
            self.buffers().give_back(id);
        }
        if !cqueue::more(completion.flags) {
            self.attend_to(index);
        }
        go_on
    }

    fn handle_send(
        &mut self,
        completion: Completion,
        token: Token,
        sink: &mut impl FnMut(RingEvent<'_>) -> bool,
    ) -> bool {
        let index = self.find(token).expect("an index is free only when nothing is in flight");
        let socket = &mut self.sockets[index];
        socket.sending = false;
        if completion.result < 0 {
            let again = matches!(-completion.result, libc::EAGAIN | libc::EINTR);
            if again && socket.phase != Phase::Draining {
                self.send(index);
            } else {
                socket.drain(EndReason::Failed(-completion.result));
                self.attend_to(index);
            }
            return true;
        }
        socket.sent += completion.result as u32;
        self.counters.bytes_written += completion.result as u64;
        if (socket.sent as usize) < socket.flight.len() {
            if socket.phase == Phase::Draining {
                self.attend_to(index);
            } else {
                self.send(index);
            }
            return true;
        }
        let mut flight = std::mem::take(&mut socket.flight);
        socket.sent = 0;
        flight.clear();
        if flight.capacity() <= SPARE_BYTES_MAX && self.spare.len() < SPARE_COUNT_MAX {
            self.spare.push(flight);
        }
        if !socket.queue.is_empty() || socket.full || socket.phase != Phase::Open {
            self.attend_to(index);
        }
        sink(RingEvent::Sent { token })
    }
}
