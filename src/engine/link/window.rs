//! The reliable frames on their way to one peer: numbered batches, kept until the peer has them all. Does not know of
//! sockets or time-outs; it is told when there is a new socket and where to go on.
//!
//! ```text
//!  batches:  | written on this socket | written on an earlier one | never written |
//!              first_sequence ..        .. numbered                  still grows
//!  acknowledged: gone from the front
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::format::frame::Frame;
use crate::format::frame_codec::FRAMES_BODY_BYTES_MAX;
use crate::time::Instant;

/// What a batch weighs beside its frames.
const BATCH_WEIGHT: usize = 64;

/// A frame above this could burst a batch that holds nothing else.
pub(super) const FRAME_WEIGHT_MAX: usize = FRAMES_BODY_BYTES_MAX - FRAMES_BODY_BYTES_MAX / 16;

/// How many bytes a frame takes at most.
#[must_use]
pub fn weight(frame: &Frame) -> usize {
    frame.weight()
}

/// No room, or a frame that no batch can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The peer claims to have what was never sent, or not to have what it had acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible;

#[derive(Debug)]
struct Batch {
    frames: Vec<Frame>,
    weight: usize,
    /// When it was written last; `None` once it was written twice, for then an answer says nothing about the way.
    written: Option<Instant>,
    /// Lossy bytes that went before it on this socket.
    lossy_before: u64,
}

/// A batch to write now.
#[derive(Debug)]
pub struct NextBatch<'a> {
    /// Its number.
    pub sequence: u64,
    /// Its frames; none for a mark.
    pub frames: &'a [Frame],
    /// It was written before, on another socket.
    pub again: bool,
}

/// What an acknowledgement tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// There and back, of the last batch of those.
    pub round_trip: Option<Duration>,
    /// Lossy bytes that have arrived or never will.
    pub lossy_arrived: Option<u64>,
}

/// Frames that the peer may not have.
#[derive(Debug)]
pub struct Window {
    batches: VecDeque<Batch>,
    first_sequence: u64,
    written: usize,
    numbered: usize,
    weight: usize,
    bytes_max: usize,
    batch_bytes: usize,
}

impl Window {
    /// Empty, the next batch is number 1.
    #[must_use]
    pub fn new(bytes_max: usize, batch_bytes: usize) -> Window {
        Window {
            batches: VecDeque::new(),
            first_sequence: 1,
            written: 0,
            numbered: 0,
            weight: 0,
            bytes_max,
            batch_bytes,
        }
    }

    /// Bytes that may still be pushed.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.weight)
    }

    /// Bytes held.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Batches held.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Adds frames behind the others. Frames of one call stay one vector where they fit a batch.
    ///
    /// # Errors
    /// Nothing was taken; the caller resets the link.
    pub fn push(&mut self, frames: Vec<Frame>) -> Result<(), Overflow> {
        let mut sum = 0;
        for frame in &frames {
            let weight = weight(frame);
            if weight > FRAME_WEIGHT_MAX {
                return Err(Overflow);
            }
            sum += weight;
        }
        // What every batch adds is known only when it is cut; twice as many as full ones is the most there can be.
        let batches = 2 * (sum / self.batch_bytes) + 1;
        if sum + batches * BATCH_WEIGHT > self.room() {
            return Err(Overflow);
        }
        if sum <= self.batch_bytes {
            self.push_chunk(frames, sum);
            return Ok(());
        }
        let (mut chunk, mut chunk_weight) = (Vec::new(), 0);
        for frame in frames {
            let weight = weight(&frame);
            if !chunk.is_empty() && chunk_weight + weight > self.batch_bytes {
                self.push_chunk(std::mem::take(&mut chunk), std::mem::take(&mut chunk_weight));
            }
            chunk.push(frame);
            chunk_weight += weight;
        }
        self.push_chunk(chunk, chunk_weight);
        Ok(())
    }

    /// A batch without frames whose acknowledgement tells what arrived before it.
    pub fn push_mark(&mut self) {
        self.batches.push_back(Batch { frames: Vec::new(), weight: BATCH_WEIGHT, written: None, lossy_before: 0 });
        self.weight += BATCH_WEIGHT;
    }

    fn push_chunk(&mut self, mut frames: Vec<Frame>, weight: usize) {
        let open = self.batches.len() > self.numbered;
        if let Some(last) = self.batches.back_mut().filter(|last| open && last.weight + weight <= self.batch_bytes) {
            last.frames.append(&mut frames);
            last.weight += weight;
            self.weight += weight;
            return;
        }
        let weight = weight + BATCH_WEIGHT;
        self.weight += weight;
        self.batches.push_back(Batch { frames, weight, written: None, lossy_before: 0 });
    }

    /// The next batch that has not been written on this socket; it counts as written.
    pub fn next(&mut self, now: Instant, lossy_before: u64) -> Option<NextBatch<'_>> {
        let at = self.written;
        let batch = self.batches.get_mut(at)?;
        let again = at < self.numbered;
        batch.written = if again { None } else { Some(now) };
        batch.lossy_before = lossy_before;
        self.written += 1;
        self.numbered = self.numbered.max(self.written);
        Some(NextBatch { sequence: self.first_sequence + at as u64, frames: &batch.frames, again })
    }

    /// What is left to write on this socket, in bytes.
    #[must_use]
    pub fn unwritten_weight(&self) -> usize {
        self.batches.range(self.written..).map(|batch| batch.weight).sum()
    }

    /// Whether a peer that has everything up to `received` can go on from there.
    #[must_use]
    pub fn covers(&self, received: u64) -> bool {
        received + 1 >= self.first_sequence && received < self.first_sequence + self.numbered as u64
    }

    /// The peer has everything up to `received`.
    ///
    /// # Errors
    /// It cannot: that was never sent.
    pub fn acknowledge(&mut self, received: u64, now: Instant) -> Result<Acknowledged, Impossible> {
        let mut told = Acknowledged::default();
        // Smaller than what is known is merely late.
        if received < self.first_sequence {
            return Ok(told);
        }
        if !self.covers(received) {
            return Err(Impossible);
        }
        while self.first_sequence <= received {
            let Some(batch) = self.batches.pop_front() else { break };
            self.first_sequence += 1;
            self.weight -= batch.weight;
            self.numbered -= 1;
            // What only an earlier socket carried says nothing about this one.
            if self.written > 0 {
                self.written -= 1;
                told.lossy_arrived = Some(batch.lossy_before);
                told.round_trip = batch.written.map(|written| now.since(written));
            }
        }
        Ok(told)
    }

    /// There is a new socket, and the peer has everything up to `received`: the rest is written again.
    ///
    /// # Errors
    /// See [`Window::covers`]; nothing has changed then.
    pub fn rewind(&mut self, received: u64, now: Instant) -> Result<(), Impossible> {
        if !self.covers(received) {
            return Err(Impossible);
        }
        self.written = 0;
        self.acknowledge(received, now)?;
        Ok(())
    }

    /// Forgets everything; the next batch is number 1.
    pub fn reset(&mut self) {
        *self = Window::new(self.bytes_max, self.batch_bytes);
    }

    /// What must always hold.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        assert!(self.written <= self.numbered, "what is written has a number");
        assert!(self.numbered <= self.batches.len(), "what has a number is kept");
        assert_eq!(self.weight, self.batches.iter().map(|batch| batch.weight).sum::<usize>(), "the sum is right");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Propose;
    use crate::format::frame_codec::{FRAMES_HEADER_BYTES, LinkNumbers, encode};
    use crate::ids::{NodeId, Place, ShardId};

    fn said(index: u32, bytes: usize) -> Frame {
        let place = Place { node: NodeId(1), shard: ShardId(0) };
        Frame::Propose(Propose { place, ticket: u64::from(index), command: vec![b'x'; bytes].into() })
    }

    fn written(window: &mut Window) -> Vec<(u64, usize, bool)> {
        let mut list = Vec::new();
        while let Some(next) = window.next(Instant(5), 0) {
            list.push((next.sequence, next.frames.len(), next.again));
        }
        list
    }

    #[test]
    fn batches_are_cut_kept_and_written_again_from_where_the_peer_is() {
        let mut window = Window::new(1 << 20, 4096);
        window.push((0..30).map(|index| said(index, 240)).collect()).unwrap();
        assert_eq!(written(&mut window), [(1, 14, false), (2, 14, false), (3, 2, false)]);
        window.push(vec![said(30, 1)]).unwrap();
        window.push(vec![said(31, 1)]).unwrap();
        assert_eq!(window.acknowledge(1, Instant(9)).unwrap().round_trip, Some(Duration::from_nanos(4)));
        assert_eq!(window.acknowledge(1, Instant(9)), Ok(Acknowledged::default()));
        assert_eq!(window.acknowledge(4, Instant(9)), Err(Impossible));
        assert!(!window.covers(0), "what is acknowledged is gone");
        window.rewind(2, Instant(9)).unwrap();
        assert_eq!(written(&mut window), [(3, 2, true), (4, 2, false)]);
        window.acknowledge(4, Instant(9)).unwrap();
        window.check_invariants();
        assert_eq!((window.weight(), window.batches(), window.room()), (0, 0, 1 << 20));
        window.reset();
        assert!(window.covers(0) && !window.covers(1));
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut window = Window::new(4096, 1024);
        assert_eq!(window.push(vec![said(0, 2000), said(1, 2000)]), Err(Overflow));
        assert!(window.is_empty());
        window.push(vec![said(0, 2000)]).unwrap();
        assert_eq!(window.push(vec![said(1, 2000)]), Err(Overflow));
        assert_eq!(Window::new(usize::MAX, 1024).push(vec![said(0, FRAMES_BODY_BYTES_MAX)]), Err(Overflow));
    }

    #[test]
    fn weight_is_not_less_than_what_the_codec_makes() {
        let frames: Vec<Frame> = (0..20).map(|index| said(index, index as usize * 7)).collect();
        let mut out = Vec::new();
        encode(&frames, LinkNumbers { sequence: 1, acknowledged: 0 }, &mut out);
        assert!(out.len() - FRAMES_HEADER_BYTES <= frames.iter().map(weight).sum::<usize>(), "{}", out.len());
    }
}
