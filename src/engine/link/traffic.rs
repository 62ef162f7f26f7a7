//! What passes over a link that is up, and what each link wants when it is looked at: batches and acknowledgements both ways,
//! dials, signs of life.

use super::entry::{AckDue, Link, Stage};
use super::{LinkNews, LinkState, LinkWish, Links, Timer, window};
use crate::format::frame::Frame;
use crate::format::frame_codec::{self, FRAMES_HEADER_BYTES, FrameBatch, LinkNumbers};
use crate::ids::{LinkConn, NodeId, Place};

/// A batch of lossy frames, or of none.
const UNNUMBERED: u64 = 0;

/// Memory that an empty batch takes.
const EMPTY_BATCH_BYTES: usize = 64;

/// What raft says takes about so much where it brings no entries.
const SMALL_BYTES: usize = 160;

/// Who gives way when a link does not take everything that may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Finds room as long as there is any.
    First,
    /// Leaves the last eighth to what goes first.
    Usual,
}

impl Links {
    /// Gives a frame to a shard if that is possible now, or when the first socket is there that is being made. A member that has no
    /// link gets one. Where no way leads now it is lost.
    ///
    /// # Errors
    /// It found no room: here it is again.
    pub fn send_lossy(&mut self, to: Place, frame: Frame, rank: Rank) -> Result<(), Frame> {
        let all = self.config.limits.lossy_queue_bytes;
        let limit = if rank == Rank::First { all } else { all - all / 8 };
        let weight = window::weight(&frame);
        match self.link_to(to).ok().filter(|link| link.may_bring()) {
            Some(link) if link.lossy.takes(weight, limit) => {
                link.lossy.pending.push(frame);
                link.lossy.pending_weight += weight;
                self.mark(to);
                Ok(())
            }
            Some(_) => {
                self.counters.lossy_dropped += 1;
                Err(frame)
            }
            None => {
                self.counters.lossy_dropped += 1;
                Ok(())
            }
        }
    }

    /// Something small that may be lost would find room on the way to a shard, or no way leads there and nothing need wait for it.
    #[must_use]
    pub fn has_lossy_room(&self, to: Place) -> bool {
        let all = self.config.limits.lossy_queue_bytes;
        let takes = |link: &Link| !link.may_bring() || link.lossy.takes(SMALL_BYTES, all - all / 8);
        self.links.get(&to).is_none_or(takes)
    }

    /// What may be lost and waits to be written, for tests of those who give it.
    #[cfg(test)]
    pub fn lossy_waiting(&self, to: Place) -> &[Frame] {
        self.links.get(&to).map_or(&[], |link| link.lossy.pending.as_slice())
    }

    /// True when a shard of this node has been heard over a link within the time in which one that lives says something.
    #[must_use]
    pub fn hears(&self, node: NodeId) -> bool {
        let lately = self.config.limits.silent_after * 3 / 2;
        let of_node = self.links.iter().filter(|(place, link)| place.node == node && link.state == LinkState::Up);
        of_node.into_iter().any(|(_, link)| self.now.since(link.heard) < lately)
    }

    /// There is a link, and nothing passes over it now.
    #[must_use]
    pub fn is_broken(&self, to: Place) -> bool {
        self.links.get(&to).is_some_and(|link| link.state != LinkState::Up)
    }

    /// Everything whole that a link's socket has brought.
    pub(super) fn take_batches(&mut self, conn: LinkConn) {
        while let Some(connection) = self.connections.get_mut(&conn) {
            let (Stage::Up, Some(place)) = (&connection.stage, connection.link) else { return };
            match connection.gather.next_frames() {
                Ok(Some(batch)) => self.take_batch(place, batch),
                Ok(None) => {
                    let cut = connection.gather.held_bytes() > 0;
                    let Some(link) = self.links.get_mut(&place) else { return };
                    // The beginning of a large batch is a sign of life too. But a length bent on the way would swallow
                    // whatever follows, so a batch must come to its end in time.
                    link.heard = self.now;
                    link.cut_since = if cut { link.cut_since.or(Some(self.now)) } else { None };
                    return self.set_timer(place);
                }
                Err(_) => return self.broken(conn),
            }
        }
    }

    /// Bytes that make no sense: the socket is given up, the link goes on with the next.
    pub(super) fn broken(&mut self, conn: LinkConn) {
        self.counters.broken += 1;
        self.wishes.push(LinkWish::Hangup { conn });
        self.lost(conn);
    }

    /// One batch for a link that is up.
    pub(super) fn take_batch(&mut self, place: Place, batch: FrameBatch) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&place) else { return };
        debug_assert_eq!(link.state, LinkState::Up, "{place}: batches come over a socket");
        link.heard = now;
        link.cut_since = None;
        let LinkNumbers { sequence, acknowledged } = batch.numbers;
        let Ok(told) = link.window.acknowledge(acknowledged, now) else { return self.reset(place) };
        if let Some(arrived) = told.lossy_arrived {
            link.lossy.arrived = link.lossy.arrived.max(arrived);
        }
        if let Some(sample) = told.round_trip {
            link.round_trip = Some(link.round_trip.map_or(sample, |smooth| (smooth * 7 + sample) / 8));
        }
        if sequence != UNNUMBERED {
            if sequence > link.received + 1 {
                // Nothing is lost on a socket: the other end has another idea of this run.
                return self.reset(place);
            }
            if sequence <= link.received {
                self.counters.batches_duplicate += 1;
                link.ack.now = true;
                return self.mark(place);
            }
            link.received = sequence;
            link.ack.frames += batch.frames.len().max(1);
            link.ack.bytes += batch.batch_bytes;
            link.ack.since.get_or_insert(now);
            self.mark(place);
        }
        if !batch.frames.is_empty() {
            self.counters.frames_in += batch.frames.len() as u64;
            let identity = self.links.get(&place).map_or(0, |link| link.identity);
            let member = self.is_member(place, identity);
            self.news.push(LinkNews::Frames { from: place, member, frames: batch.frames });
        }
    }

    /// Does what a link wants by now, and sets its timer.
    pub(super) fn look_at(&mut self, place: Place) {
        let Some(link) = self.links.get_mut(&place) else { return };
        link.dirty = false;
        match (link.state, link.conn) {
            (LinkState::Waiting, _) if link.dial_at <= self.now => self.dial_link(place),
            (LinkState::Up, Some(conn)) if link.is_dead(self.now, &self.config.limits) => {
                self.counters.silent += 1;
                self.wishes.push(LinkWish::Hangup { conn });
                self.lost(conn);
            }
            (LinkState::Up, Some(conn)) => self.write_batches(place, conn),
            _ => {}
        }
        self.set_timer(place);
    }

    fn dial_link(&mut self, place: Place) {
        let Some(address) = self.address(place) else {
            if self.links.get(&place).is_some_and(Link::holds_state) {
                self.reset(place);
            }
            return self.remove(place);
        };
        let conn = self.dial(Some(place), address);
        let now = self.now;
        if let Some(link) = self.links.get_mut(&place) {
            link.conn = Some(conn);
            link.enter(LinkState::Dialing, now);
        }
    }

    fn write_batches(&mut self, place: Place, conn: LinkConn) {
        let (now, limits) = (self.now, &self.config.limits);
        let Some(link) = self.links.get_mut(&place) else { return };
        let acknowledged = link.received;
        let expected = link.lossy.pending_weight + link.window.unwritten_weight() + EMPTY_BATCH_BYTES;
        let idle = now.since(link.wrote) >= limits.silent_after;
        if expected == EMPTY_BATCH_BYTES && !idle && !link.ack.is_due(now, limits) {
            return;
        }
        let mut bytes = Vec::with_capacity(expected + FRAMES_HEADER_BYTES);
        let mut rest = link.lossy.pending.as_slice();
        while !rest.is_empty() {
            let mut weight = 0;
            let fits = |frame: &&_| {
                weight += window::weight(frame);
                weight <= limits.batch_bytes
            };
            let (batch, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            frame_codec::encode(batch, LinkNumbers { sequence: UNNUMBERED, acknowledged }, &mut bytes);
            self.counters.frames_out += batch.len() as u64;
            rest = others;
        }
        link.lossy.pending.clear();
        link.lossy.pending_weight = 0;
        link.lossy.written += bytes.len() as u64;
        // Lossy frames are not acknowledged: a mark behind them tells when the socket has swallowed them.
        let unmarked = (link.lossy.written - link.lossy.marked) as usize;
        if unmarked > limits.lossy_queue_bytes / 4 {
            link.lossy.marked = link.lossy.written;
            link.window.push_mark();
        }
        while let Some(next) = link.window.next(now, link.lossy.written) {
            frame_codec::encode(next.frames, LinkNumbers { sequence: next.sequence, acknowledged }, &mut bytes);
            let frames = next.frames.len() as u64;
            if next.again {
                self.counters.frames_resent += frames;
            } else {
                self.counters.frames_out += frames;
            }
            link.lossy.marked = link.lossy.written;
        }
        if bytes.is_empty() {
            frame_codec::encode(&[], LinkNumbers { sequence: UNNUMBERED, acknowledged }, &mut bytes);
        }
        link.wrote = now;
        link.ack = AckDue::default();
        self.write(conn, bytes);
    }

    /// Rings no later than the link wants. One that rings early finds nothing to do and is set again, so that it need not
    /// be moved with every batch.
    fn set_timer(&mut self, place: Place) {
        let Some(link) = self.links.get_mut(&place) else { return };
        let Some(deadline) = link.deadline(&self.config.limits) else { return };
        if link.timer.is_some_and(|timer| timer <= deadline) {
            return;
        }
        if let Some(timer) = link.timer.replace(deadline) {
            self.timers.remove(&(timer, Timer::Link(place)));
        }
        self.timers.insert((deadline, Timer::Link(place)));
    }
}
