//! Cuts what a socket brings into messages of the handshake and batches of frames. What lies whole in one read is decoded
//! where it lies; only what is cut over several reads is gathered in a buffer of its own, once. Holds at most one message or
//! batch, and decides nothing about it.

use bytes::{Buf, Bytes};

use crate::format::frame_codec::{self, BadFrames, FrameBatch};
use crate::format::link_hello::{self, BadHello, LinkMessage};

/// The unread bytes of one socket.
#[derive(Debug, Default)]
pub struct Gather {
    /// What was read last and is not decoded yet.
    fresh: Bytes,
    /// The beginning of something cut; then `fresh` follows it.
    held: Vec<u8>,
    /// How much must be held before decoding is worth trying again.
    need: usize,
}

/// Why nothing could be decoded.
enum Undecoded<E> {
    Cut(usize),
    Bad(E),
}

impl Gather {
    /// More has been read. Everything before has been asked for, until there was nothing whole.
    pub fn feed(&mut self, bytes: Bytes) {
        debug_assert!(self.fresh.is_empty(), "what came before was taken");
        self.fresh = bytes;
    }

    /// The first byte of what comes next.
    #[must_use]
    pub fn first_byte(&self) -> Option<u8> {
        self.held.first().or(self.fresh.first()).copied()
    }

    /// The next message of the handshake, if it is whole, and its bytes.
    ///
    /// # Errors
    /// The other end's fault; hang up.
    pub fn next_message(&mut self) -> Result<Option<(LinkMessage, Bytes)>, BadHello> {
        self.next(|bytes| {
            link_hello::decode(bytes).map_err(|bad| match bad {
                BadHello::Cut { need } => Undecoded::Cut(need),
                bad => Undecoded::Bad(bad),
            })
        })
    }

    /// The next batch of frames, if it is whole.
    ///
    /// # Errors
    /// The other end's fault; hang up.
    pub fn next_frames(&mut self) -> Result<Option<FrameBatch>, BadFrames> {
        let next = self.next(|bytes| {
            let batch = frame_codec::decode(bytes).map_err(|bad| match bad {
                BadFrames::Cut { need } => Undecoded::Cut(need),
                bad => Undecoded::Bad(bad),
            })?;
            let batch_bytes = batch.batch_bytes;
            Ok((batch, batch_bytes))
        });
        Ok(next?.map(|(batch, _)| batch))
    }

    /// Bytes kept between reads.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.capacity() + self.fresh.len()
    }

    fn next<T, E>(
        &mut self,
        decode: impl Fn(&Bytes) -> Result<(T, usize), Undecoded<E>>,
    ) -> Result<Option<(T, Bytes)>, E> {
        if self.held.is_empty() {
            if self.fresh.is_empty() {
                return Ok(None);
            }
            match decode(&self.fresh) {
                Ok((value, bytes)) => return Ok(Some((value, self.fresh.split_to(bytes)))),
                Err(Undecoded::Bad(bad)) => return Err(bad),
                Err(Undecoded::Cut(need)) => self.hold(need, &Bytes::new()),
            }
        }
        // Twice at most: once for the header, which says how much the whole needs.
        loop {
            let more = (self.need - self.held.len()).min(self.fresh.len());
            self.held.extend_from_slice(&self.fresh[..more]);
            self.fresh.advance(more);
            if self.held.len() < self.need {
                self.fresh = Bytes::new();
                return Ok(None);
            }
            let whole = Bytes::from(std::mem::take(&mut self.held));
            match decode(&whole) {
                Ok((value, bytes)) => {
                    debug_assert_eq!(bytes, whole.len(), "no more was gathered than was needed");
                    return Ok(Some((value, whole)));
                }
                Err(Undecoded::Bad(bad)) => return Err(bad),
                Err(Undecoded::Cut(need)) => self.hold(need, &whole),
            }
        }
    }

    /// Begins to gather: a header at most is copied here.
    fn hold(&mut self, need: usize, beginning: &[u8]) {
        debug_assert!(need > beginning.len(), "more is needed than what was too little");
        self.held = Vec::with_capacity(need);
        self.held.extend_from_slice(beginning);
        self.need = need;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::{Frame, SendBody, Submission, Submit};
    use crate::format::frame_codec::LinkNumbers;
    use crate::format::link_hello::{RefusedWhy, encode_refuse};
    use crate::format::packet::{HeaderFlags, Setting};
    use crate::ids::{ChannelKey, NodeId, Place, ShardId, SlotId, Uid};
    use std::sync::Arc;

    #[test]
    fn payloads_are_not_copied_from_whole_batches() {
        let uid = Uid::parse("alice").unwrap();
        let submit = Submit {
            place: Place { node: NodeId(1), shard: ShardId(0) },
            ticket: 1,
            channel: ChannelKey::command(&uid),
            from: uid.clone(),
            to: uid,
            device_tag: 0,
            fingerprint: 1,
            flags: HeaderFlags(0),
            setting: Setting(0),
            expire_s: 0,
            body: SendBody::new("number", "", &[7; 1000]),
        };
        let submit = Frame::Submit(Submission { slot: SlotId(0), term: 1, submit: Arc::new(submit) });
        let mut bytes = Vec::new();
        for sequence in 1..3 {
            frame_codec::encode(std::slice::from_ref(&submit), LinkNumbers { sequence, acknowledged: 0 }, &mut bytes);
        }
        let bytes = Bytes::from(bytes);
        let range = bytes.as_ptr_range();
        let mut gather = Gather::default();
        gather.feed(bytes.clone());
        for _ in 0..2 {
            let batch = gather.next_frames().unwrap().expect("both are whole");
            let [Frame::Submit(submit)] = &batch.frames[..] else { panic!("one frame went in") };
            assert!(range.contains(&submit.submit.body.bytes.as_ptr()), "it lies where it was read");
        }
        assert_eq!(gather.next_frames(), Ok(None));
    }

    #[test]
    fn any_cut_gives_the_same_messages() {
        let mut bytes = encode_refuse(RefusedWhy::Busy, "busy");
        let hello_bytes = bytes.len();
        for sequence in 1..4 {
            frame_codec::encode(&[], LinkNumbers { sequence, acknowledged: 9 }, &mut bytes);
        }
        let bytes = Bytes::from(bytes);
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let mut gather = Gather::default();
                let (mut messages, mut sequences) = (0, Vec::new());
                for part in [bytes.slice(..first), bytes.slice(first..second), bytes.slice(second..)] {
                    gather.feed(part);
                    if messages == 0
                        && let Some((_, raw)) = gather.next_message().unwrap()
                    {
                        messages += 1;
                        assert_eq!(raw.len(), hello_bytes);
                    }
                    if messages == 0 {
                        continue;
                    }
                    while let Some(batch) = gather.next_frames().unwrap() {
                        sequences.push(batch.numbers.sequence);
                    }
                }
                assert_eq!((messages, sequences), (1, vec![1, 2, 3]), "cut at {first} and {second}");
                assert_eq!(gather.held_bytes(), 0);
            }
        }
    }
}
