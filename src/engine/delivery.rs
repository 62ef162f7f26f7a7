//! What one session has been sent and has taken, channel by channel: RECVs leave in order, inside a window; what does not fit
//! stays in the log and is fetched when there is room. Knows nothing of homes, sockets or how a fetch is answered:
//! it says what to send, what to fetch and how far the device is.
//!
//! ```text
//!  per channel:
//!            Deliver(sent + 1, body, room)              RECVACK
//!  idle ───────────────────────────────► in flight ───────────────► idle   (cursor moves, reported to the home)
//!   │  Deliver(later, or no body, or no room)              │ 60 s, at most 5 times
//!   └────────► lagging ──fetch──► fetching ──Fetched──►────┘ RECV again
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::format::message::StoredMessage;
use crate::ids::ChannelKey;
use crate::limits::Limits;
use crate::time::Instant;

/// How long a followed channel with nothing to do is kept, so that a home's cursor that is a moment old cannot make
/// us send anything again.
const IDLE_FOLLOW: Duration = Duration::from_secs(30);

/// A RECV that is not acknowledged for so long is kept by itself. Until then it lies where it came, with many others that would all stay as long
/// as the slowest device takes.
const APART_AFTER: Duration = Duration::from_secs(1);

/// One channel this session follows.
#[derive(Debug)]
struct Follow {
    channel: ChannelKey,
    /// Everything up to here was sent, or was this device's own, or is gone.
    sent: u32,
    /// What the home was told.
    reported: u32,
    /// The channel's last message as far as known.
    last: u32,
    in_flight: u32,
    fetching: bool,
    /// When it was asked for.
    fetching_since: Instant,
    /// Nothing has happened since the home was asked what else lags: it gives way when the answer comes.
    quiet: bool,
    used_at: Instant,
}

/// A RECV without RECVACK.
#[derive(Debug)]
struct Unacked {
    message: StoredMessage,
    follow: u32,
    seq: u32,
    tries: u8,
    sent_at: Instant,
    /// The message lies by itself.
    apart: bool,
}

/// What the shard has to do for a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Push {
    /// Write a RECV.
    Recv {
        /// The message.
        message: StoredMessage,
        /// Its position; 0 when not stored.
        seq: u32,
    },
    /// Ask the channel's slot for messages.
    Fetch {
        /// Which channel.
        channel: ChannelKey,
        /// First wanted.
        from_seq: u32,
        /// At most this many.
        messages_max: u32,
    },
    /// Tell the home how far the device is.
    Report {
        /// Which channel.
        channel: ChannelKey,
        /// Up to here.
        seq: u32,
    },
    /// Ask the home what else lags.
    Resume {
        /// Names the question.
        question: u32,
    },
}

/// A session's deliveries.
#[derive(Debug)]
pub struct Delivery {
    /// Names this device: its own messages are passed over.
    device_tag: u64,
    follows: slab::Slab<Follow>,
    unacked: VecDeque<Unacked>,
    unacked_bytes: u32,
    /// The home knows lagging channels that are not followed.
    behind: bool,
    /// The home has been asked and has not answered.
    asked: bool,
    /// Names the last time it was asked: what it says without that, or said before, is no answer.
    question: u32,
    /// The socket has too many unwritten bytes.
    congested: bool,
    /// In the shard's list of sessions to be settled at the end of the round.
    pub unsettled: bool,
}

/// What arrived for a channel.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Which.
    pub channel: &'a ChannelKey,
    /// The channel's last message.
    pub seq: u32,
    /// Where to begin if the channel is not followed yet.
    pub cursor: u32,
    /// The body of `seq`.
    pub message: Option<StoredMessage>,
}

impl Delivery {
    /// Nothing followed.
    #[must_use]
    pub fn new(device_tag: u64) -> Delivery {
        Delivery {
            device_tag,
            follows: slab::Slab::new(),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            behind: false,
            asked: false,
            question: 0,
            congested: false,
            unsettled: false,
        }
    }

    /// RECVs without RECVACK.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.unacked.len()
    }

    /// True when [`Delivery::sweep`] has something to look at.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.unacked.is_empty() || self.follows.iter().any(|(_, follow)| follow.fetching)
    }

    /// True when what comes for a channel has its place in order.
    #[must_use]
    pub fn follows(&self, channel: &ChannelKey) -> bool {
        self.find(channel).is_some()
    }

    /// True when the home will be asked what else lags.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    fn room(&self, limits: &Limits) -> bool {
        !self.congested
            && self.unacked.len() < limits.recv_window as usize
            && self.unacked_bytes < limits.recv_window_bytes
    }

    fn find(&self, channel: &ChannelKey) -> Option<usize> {
        let same = |known: &ChannelKey| {
            known.kind == channel.kind && (std::sync::Arc::ptr_eq(&known.id, &channel.id) || known.id == channel.id)
        };
        self.follows.iter().find(|(_, follow)| same(&follow.channel)).map(|(key, _)| key)
    }

    fn follow(&mut self, now: Instant, channel: &ChannelKey, cursor: u32, limits: &Limits) -> Option<usize> {
        if let Some(key) = self.find(channel) {
            return Some(key);
        }
        if self.follows.len() >= limits.delivery_channels_max && !self.forget_one_idle(now) {
            self.behind = true;
            return None;
        }
        let follow = Follow {
            channel: channel.clone(),
            sent: cursor,
            reported: cursor,
            last: cursor,
            in_flight: 0,
            fetching: false,
            fetching_since: now,
            quiet: false,
            used_at: now,
        };
        Some(self.follows.insert(follow))
    }

    fn forget_one_idle(&mut self, now: Instant) -> bool {
        let idle = |follow: &Follow| {
            follow.in_flight == 0
                && !follow.fetching
                && follow.sent >= follow.last
                && follow.reported == follow.sent
                && now.since(follow.used_at) >= IDLE_FOLLOW
        };
        let oldest = self.follows.iter().filter(|(_, f)| idle(f)).min_by_key(|(_, f)| f.used_at).map(|(key, _)| key);
        match oldest {
            Some(key) => {
                self.follows.remove(key);
                true
            }
            None => false,
        }
    }

    /// A message that is not stored: sent if there is room, else lost, as its sender asked for.
    pub fn handle_transient(&mut self, message: StoredMessage, limits: &Limits, out: &mut Vec<Push>) -> bool {
        let own = message.device_tag() != 0 && message.device_tag() == self.device_tag;
        let fits = !own && self.room(limits);
        if fits {
            out.push(Push::Recv { message, seq: 0 });
        }
        fits
    }

    /// A channel has grown. Returns false when the message was left in the log for later.
    pub fn handle_arrival(&mut self, now: Instant, arrival: Arrival<'_>, limits: &Limits, out: &mut Vec<Push>) -> bool {
        let Some(key) = self.follow(now, arrival.channel, arrival.cursor, limits) else {
            return false;
        };
        let room = self.room(limits);
        let follow = &mut self.follows[key];
        follow.used_at = now;
        follow.quiet = false;
        follow.last = follow.last.max(arrival.seq);
        if arrival.seq <= follow.sent {
            return true;
        }
        let next = arrival.seq == follow.sent + 1 && !follow.fetching;
        match arrival.message {
            Some(message) if next && (room || message.device_tag() == self.device_tag) => {
                self.send(now, key, arrival.seq, message, out);
                true
            }
            _ => {
                self.fetch(now, key, limits, out);
                false
            }
        }
    }

    /// Sends one message of a followed channel, or passes over it if this device sent it.
    fn send(&mut self, now: Instant, key: usize, seq: u32, message: StoredMessage, out: &mut Vec<Push>) {
        let follow = &mut self.follows[key];
        assert!(seq > follow.sent, "a message is sent once");
        follow.sent = seq;
        if message.device_tag() != 0 && message.device_tag() == self.device_tag {
            return;
        }
        follow.in_flight += 1;
        follow.quiet = false;
        self.unacked_bytes += message.bytes().len() as u32;
        let (follow, kept) = (key as u32, message.clone());
        let unacked = Unacked { message: kept, follow, seq, tries: 0, sent_at: now, apart: false };
        self.unacked.push_back(unacked);
        out.push(Push::Recv { message, seq });
    }

    fn fetch(&mut self, now: Instant, key: usize, limits: &Limits, out: &mut Vec<Push>) {
        if !self.room(limits) {
            return;
        }
        let space = limits.recv_window.saturating_sub(self.unacked.len() as u32);
        let follow = &mut self.follows[key];
        if follow.fetching || follow.sent >= follow.last {
            return;
        }
        follow.fetching = true;
        follow.fetching_since = now;
        follow.quiet = false;
        out.push(Push::Fetch {
            channel: follow.channel.clone(),
            from_seq: follow.sent + 1,
            messages_max: space.min(limits.fetch_messages_max).max(1),
        });
    }

    /// A fetch was answered.
    pub fn handle_fetched(
        &mut self,
        now: Instant,
        channel: &ChannelKey,
        fetched: (Vec<(u32, StoredMessage)>, u32, u32),
        limits: &Limits,
        out: &mut Vec<Push>,
    ) {
        let (messages, next_seq, last_seq) = fetched;
        let Some(key) = self.find(channel) else {
            return;
        };
        self.follows[key].fetching = false;
        self.follows[key].used_at = now;
        let mut all = true;
        for (seq, message) in messages {
            if seq <= self.follows[key].sent {
                continue;
            }
            if !self.room(limits) && message.device_tag() != self.device_tag {
                all = false;
                break;
            }
            self.send(now, key, seq, message, out);
        }
        let follow = &mut self.follows[key];
        follow.last = follow.last.max(last_seq);
        if all {
            // What is missing between is gone for good: pass over it.
            follow.sent = follow.sent.max(next_seq - 1);
        }
        self.fetch(now, key, limits, out);
    }

    /// The home names channels that lag.
    pub fn handle_backlog(
        &mut self,
        now: Instant,
        rows: &[(ChannelKey, u32, u32)],
        (more, question): (bool, u32),
        limits: &Limits,
        out: &mut Vec<Push>,
    ) {
        let answers = self.asked && question == self.question;
        self.behind = more || (self.behind && !answers);
        // Not when the home was asked: what it sent before it heard of our last reports carries older cursors, and has come by now.
        // Not for what it says unasked either: a new leader of the home may know less than we do.
        if answers {
            self.asked = false;
            self.follows.retain(|_, follow| !follow.quiet);
        }
        for (channel, cursor, last_seq) in rows {
            let Some(key) = self.follow(now, channel, *cursor, limits) else {
                break;
            };
            let follow = &mut self.follows[key];
            follow.last = follow.last.max(*last_seq);
            follow.used_at = now;
            self.fetch(now, key, limits, out);
        }
    }

    /// The home has a new leader, which may know less than its predecessor: it hears again how far the device is.
    pub fn report_again(&mut self, out: &mut Vec<Push>) {
        self.asked = false;
        for (_, follow) in &self.follows {
            if follow.reported > 0 {
                out.push(Push::Report { channel: follow.channel.clone(), seq: follow.reported });
            }
        }
    }

    /// What was asked of some channels will not be answered: their slot's leader is another one.
    pub fn fetch_again(
        &mut self,
        now: Instant,
        limits: &Limits,
        concerns: impl Fn(&ChannelKey) -> bool,
        out: &mut Vec<Push>,
    ) {
        let stuck: Vec<usize> =
            self.follows.iter().filter(|(_, f)| f.fetching && concerns(&f.channel)).map(|(key, _)| key).collect();
        for key in stuck {
            self.follows[key].fetching = false;
            self.fetch(now, key, limits, out);
        }
    }

    /// A RECV was taken. Returns false for an id that is not awaited.
    pub fn handle_recvack(&mut self, now: Instant, message_id: i64, limits: &Limits, out: &mut Vec<Push>) -> bool {
        let Some(place) = self.unacked.iter().position(|u| u.message.message_id() == message_id) else {
            return false;
        };
        self.forget_unacked(place);
        self.pump(now, limits, out);
        true
    }

    fn forget_unacked(&mut self, place: usize) {
        let Some(taken) = self.unacked.remove(place) else {
            return;
        };
        self.unacked_bytes -= taken.message.bytes().len() as u32;
        let key = taken.follow as usize;
        self.follows[key].in_flight -= 1;
        if self.unacked.is_empty() {
            self.unacked.shrink_to(16);
        }
    }

    /// How far the device is in a channel: everything before the first RECV that is still unacked.
    fn cursor(&self, key: usize) -> u32 {
        let follow = &self.follows[key];
        if follow.in_flight == 0 {
            return follow.sent;
        }
        // RECVs of one channel leave in order, so the first one found is the smallest.
        let first = self.unacked.iter().find(|unacked| unacked.follow as usize == key);
        first.map_or(follow.sent, |unacked| unacked.seq - 1)
    }

    /// Ends a step: tells the home how far the device is, once per channel however many RECVACKs came, and asks for
    /// what else lags once everything followed is done.
    pub fn settle(&mut self, out: &mut Vec<Push>) {
        let mut busy = false;
        for key in 0..self.follows.capacity() {
            if !self.follows.contains(key) {
                continue;
            }
            let cursor = self.cursor(key);
            let follow = &mut self.follows[key];
            busy |= follow.sent < follow.last || follow.fetching || follow.in_flight > 0;
            if cursor > follow.reported {
                follow.reported = cursor;
                out.push(Push::Report { channel: follow.channel.clone(), seq: cursor });
            }
        }
        if self.behind && !self.asked && !busy {
            self.follows.iter_mut().for_each(|(_, follow)| follow.quiet = true);
            self.asked = true;
            self.question = self.question.wrapping_add(1).max(1);
            out.push(Push::Resume { question: self.question });
        }
    }

    /// Uses room that has come free: lagging channels first, then what the home knows beyond them.
    pub fn pump(&mut self, now: Instant, limits: &Limits, out: &mut Vec<Push>) {
        if !self.room(limits) {
            return;
        }
        let lagging: Vec<usize> =
            self.follows.iter().filter(|(_, f)| f.sent < f.last && !f.fetching).map(|(key, _)| key).collect();
        for key in &lagging {
            self.fetch(now, *key, limits, out);
        }
    }

    /// The socket's unwritten bytes passed a mark.
    pub fn handle_congestion(&mut self, now: Instant, congested: bool, limits: &Limits, out: &mut Vec<Push>) {
        self.congested = congested;
        self.pump(now, limits, out);
    }

    /// Sends again what was not taken in time; what was sent often enough counts as taken. Returns (sent again, given
    /// up).
    pub fn sweep(&mut self, now: Instant, limits: &Limits, out: &mut Vec<Push>) -> (u64, u64) {
        let (mut again, mut given_up) = (0, 0);
        let mut place = 0;
        while place < self.unacked.len() {
            let unacked = &mut self.unacked[place];
            if !unacked.apart && now.since(unacked.sent_at) >= APART_AFTER {
                unacked.message = unacked.message.apart();
                unacked.apart = true;
            }
            if now.since(unacked.sent_at) < limits.redeliver_after {
                place += 1;
            } else if unacked.tries >= limits.redeliver_tries {
                self.forget_unacked(place);
                given_up += 1;
            } else {
                if !self.congested {
                    unacked.tries += 1;
                    unacked.sent_at = now;
                    out.push(Push::Recv { message: unacked.message.clone(), seq: unacked.seq });
                    again += 1;
                }
                place += 1;
            }
        }
        let patience = limits.answer_patience;
        let late: Vec<usize> = self
            .follows
            .iter()
            .filter(|(_, f)| f.fetching && now.since(f.fetching_since) >= patience)
            .map(|(k, _)| k)
            .collect();
        for key in late {
            self.follows[key].fetching = false;
        }
        self.pump(now, limits, out);
        (again, given_up)
    }

    /// Asserts what must hold between steps.
    pub fn check_invariants(&self, limits: &Limits) {
        assert!(self.unacked.len() <= limits.recv_window as usize, "the RECV window is overrun");
        assert!(self.follows.len() <= limits.delivery_channels_max, "too many channels are followed");
        let bytes: usize = self.unacked.iter().map(|u| u.message.bytes().len()).sum();
        assert_eq!(bytes, self.unacked_bytes as usize);
        for (key, follow) in &self.follows {
            let in_flight = self.unacked.iter().filter(|u| u.follow as usize == key).count();
            assert_eq!(in_flight, follow.in_flight as usize);
            assert!(follow.reported <= follow.sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::message::MessageFields;
    use crate::format::packet::{HeaderFlags, Setting};
    use crate::ids::Uid;
    use bytes::Bytes;

    #[test]
    fn a_device_that_is_slow_keeps_its_message_and_not_what_that_came_with() {
        let mut bytes = Vec::new();
        let (header, setting) = (HeaderFlags(0), Setting(0));
        let (from, to, client_msg_no, topic, payload) = ("ana", "bo", "", "", &b"hello"[..]);
        let fields = MessageFields {
            message_id: 8,
            unix_ms: 1,
            expire_s: 0,
            flags: header,
            setting,
            device_tag: 0,
            from,
            to,
            client_msg_no,
            topic,
            payload,
        };
        fields.encode(&mut bytes);
        let length = bytes.len();
        bytes.resize(60_000, 0);
        let batch = Bytes::from(bytes);
        let channel = ChannelKey::pair(&Uid::parse("ana").unwrap(), &Uid::parse("bo").unwrap());
        let limits = Limits::PRODUCTION;
        let (mut delivery, mut out) = (Delivery::new(1), Vec::new());
        let message = Some(StoredMessage::trusted(batch.slice(..length)));
        let arrival = Arrival { channel: &channel, seq: 1, cursor: 0, message };
        assert!(delivery.handle_arrival(Instant(0), arrival, &limits, &mut out));
        out.clear();
        delivery.sweep(Instant(0) + APART_AFTER / 2, &limits, &mut out);
        assert!(!batch.is_unique(), "most devices are quicker than a copy");
        delivery.sweep(Instant(0) + APART_AFTER, &limits, &mut out);
        assert!(batch.is_unique() && out.is_empty());
        delivery.sweep(Instant(0) + limits.redeliver_after, &limits, &mut out);
        assert!(matches!(&out[..], [Push::Recv { message, seq: 1 }] if message.payload() == b"hello"));
    }
}
