//! One client connection from CONNECT to close: what it may send when, and how fast. Does not know where its user's home is, what
//! becomes of a message, or what a byte on the socket looks like.
//!
//! ```text
//!            CONNECT                 Registered(success)
//!  Fresh ─────────────► Registering ─────────────────────► Live
//!    │ timeout, other packet │ refused                       │ kick, idle, DISCONNECT, too many bad payloads
//!    └───────────────────────┴─────────► Closing ◄───────────┘ ──Closed──► (gone)
//! ```

use super::delivery::Delivery;
use super::event::{ClientKey, ConnectPacket, SendPacket};
use crate::format::packet::{HeaderFlags, Reason};
use crate::ids::{ChannelKey, DeviceFlag, DeviceLevel, SessionId, SlotId, Uid};
use crate::limits::{
    CLIENT_MSG_NO_BYTES_MAX, DEVICE_ID_BYTES_MAX, Limits, PAYLOAD_BYTES_MAX, TOKEN_BYTES_MAX, TOPIC_BYTES_MAX,
};
use crate::time::{Instant, Now};

/// Channels whose place a session remembers: pairs that talk often are not hashed again.
const ROUTES_MAX: usize = 4;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before CONNECT.
    Fresh,
    /// Its home has been asked.
    Registering,
    /// Sends and receives.
    Live,
    /// Being closed; everything it still says is ignored.
    Closing,
}

/// Who a session is, from its CONNECT on.
#[derive(Debug)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// Device family.
    pub flag: DeviceFlag,
    /// From the home.
    pub level: DeviceLevel,
    /// From the home: which of two connections is the later one.
    pub order: u64,
    /// Names the device within its user's messages; never 0.
    pub device_tag: u64,
    /// Of the user's home.
    pub slot: SlotId,
    /// The home's slot before its sibling took it in: what is said in its name is of the past.
    pub taken_in: Option<SlotId>,
    /// Client-chosen.
    pub device_id: Box<str>,
    /// As given; kept until the home has answered.
    pub token: Box<str>,
    /// Client's clock at CONNECT.
    pub client_timestamp_ms: i64,
    /// RECVs under way.
    pub delivery: Delivery,
    routes: Vec<Route>,
}

/// A channel this session talks in.
#[derive(Clone, Debug)]
pub struct Route {
    /// The peer as named in SEND.
    pub peer: Uid,
    /// The pair's channel.
    pub channel: ChannelKey,
    /// Its slot.
    pub slot: SlotId,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since CONNECT.
    pub identity: Option<Box<Identity>>,
    /// It came from another shard and stays here.
    pub handed_over: bool,
    /// Reading is paused.
    pub paused: bool,
    /// It has been live: the shard counts it.
    pub counted_live: bool,
    unacked_sends: u32,
    bad_payloads: u32,
    heard_at: Instant,
    close_at: Option<Instant>,
    tokens: u32,
    tokens_at: Instant,
}

/// What to do with a SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVerdict {
    /// Pass it to its channel.
    Accept,
    /// Answer with this reason.
    Refuse(Reason),
    /// Too fast: reason 22.
    TooFast,
    /// Not now and no answer: before CONNECT or while closing.
    Ignore,
}

impl Session {
    /// A connection that has just come.
    #[must_use]
    pub fn new(id: SessionId, now: Instant, handed_over: bool, limits: &Limits) -> Session {
        Session {
            id,
            phase: Phase::Fresh,
            identity: None,
            handed_over,
            paused: false,
            counted_live: false,
            unacked_sends: 0,
            bad_payloads: 0,
            heard_at: now,
            close_at: None,
            tokens: limits.sends_per_second,
            tokens_at: now,
        }
    }

    /// Who it is, once live.
    #[must_use]
    pub fn live(&mut self) -> Option<&mut Identity> {
        if self.phase == Phase::Live { self.identity.as_deref_mut() } else { None }
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Checks a CONNECT's form.
    ///
    /// # Errors
    /// The reason for CONNACK: the client's fault.
    pub fn check_connect(connect: &ConnectPacket) -> Result<Uid, Reason> {
        let uid = Uid::parse(&connect.uid).map_err(|_| Reason::AuthFailed)?;
        if connect.device_id.len() > DEVICE_ID_BYTES_MAX || connect.token.len() > TOKEN_BYTES_MAX {
            return Err(Reason::AuthFailed);
        }
        match connect.key {
            ClientKey::Usable => Ok(uid),
            ClientKey::Missing => Err(Reason::ClientKeyEmpty),
            ClientKey::Bad => Err(Reason::AuthFailed),
        }
    }

    /// CONNECT is well-formed; its home is being asked.
    pub fn begin(&mut self, uid: Uid, connect: &ConnectPacket, slot: SlotId) {
        assert_eq!(self.phase, Phase::Fresh, "a session connects once");
        let tag_of = xxhash_rust::xxh3::xxh3_64_with_seed;
        // With the user in it: one phone may hold two accounts, and what they send each other must arrive.
        let seed = uid.key_hash().0 ^ u64::from(connect.device_flag);
        let device_tag = tag_of(connect.device_id.as_bytes(), seed).max(1);
        self.phase = Phase::Registering;
        self.identity = Some(Box::new(Identity {
            uid,
            flag: DeviceFlag(connect.device_flag),
            level: DeviceLevel::Slave,
            order: 0,
            device_tag,
            slot,
            taken_in: None,
            device_id: connect.device_id.clone(),
            token: connect.token.clone(),
            client_timestamp_ms: connect.client_timestamp_ms,
            delivery: Delivery::new(device_tag),
            routes: Vec::new(),
        }));
    }

    /// Checks a SEND's form and pace; counts it when accepted.
    pub fn check_send(&mut self, now: Instant, send: &SendPacket, limits: &Limits) -> SendVerdict {
        if self.phase != Phase::Live {
            return SendVerdict::Ignore;
        }
        if !self.take_token(now, limits) {
            return SendVerdict::TooFast;
        }
        let body = &send.body;
        if body.payload().is_empty()
            || body.payload().len() > PAYLOAD_BYTES_MAX
            || body.client_msg_no().len() > CLIENT_MSG_NO_BYTES_MAX
            || body.topic().len() > TOPIC_BYTES_MAX
        {
            return SendVerdict::Refuse(Reason::PayloadDecodeError);
        }
        if send.channel_type != 1 {
            return SendVerdict::Refuse(Reason::ChannelTypeNotSupported);
        }
        self.unacked_sends += 1;
        SendVerdict::Accept
    }

    fn take_token(&mut self, now: Instant, limits: &Limits) -> bool {
        let waited = now.since(self.tokens_at).as_nanos();
        let earned = waited * u128::from(limits.sends_per_second) / 1_000_000_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(limits.sends_per_second);
            self.tokens_at = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }

    /// A SENDACK leaves for a SEND that was accepted.
    pub fn send_answered(&mut self) {
        assert!(self.unacked_sends > 0, "a SENDACK without a SEND");
        self.unacked_sends -= 1;
    }

    /// SENDs without SENDACK.
    #[must_use]
    pub fn unacked_sends(&self) -> u32 {
        self.unacked_sends
    }

    /// Whether reading should change: `Some(true)` pause, `Some(false)` go on.
    pub fn reading(&mut self, limits: &Limits, journal_behind: bool) -> Option<bool> {
        if !self.paused && (self.unacked_sends >= limits.send_window || (journal_behind && self.unacked_sends > 0)) {
            self.paused = true;
            return Some(true);
        }
        if self.paused && self.unacked_sends <= limits.send_window / 2 && !journal_behind {
            self.paused = false;
            return Some(false);
        }
        None
    }

    /// A payload that could not be opened. True when there were too many.
    pub fn bad_payload(&mut self, limits: &Limits) -> bool {
        self.bad_payloads += 1;
        self.bad_payloads >= limits.bad_payloads_max
    }

    /// Where a peer's channel is, if this session has talked to it lately.
    #[must_use]
    pub fn route(&self, peer: &[u8]) -> Option<&Route> {
        let identity = self.identity.as_ref()?;
        identity.routes.iter().find(|route| route.peer.as_str().as_bytes() == peer)
    }

    /// Remembers a route; the one used longest ago gives way.
    pub fn remember(&mut self, route: Route) {
        if let Some(identity) = self.identity.as_deref_mut() {
            if identity.routes.len() >= ROUTES_MAX {
                identity.routes.remove(0);
            }
            identity.routes.push(route);
        }
    }

    /// Slots have changed: where channels are is to be worked out again.
    pub fn forget_routes(&mut self) {
        if let Some(identity) = self.identity.as_deref_mut() {
            identity.routes = Vec::new();
        }
    }

    /// Closing begins; the socket is to be closed at `close_at`.
    pub fn close_later(&mut self, close_at: Instant) {
        self.phase = Phase::Closing;
        self.close_at = Some(self.close_at.map_or(close_at, |known| known.min(close_at)));
    }

    /// Whether the time to close has come, and if it is because nothing was heard.
    pub fn overdue(&mut self, now: Now, limits: &Limits) -> Option<Overdue> {
        let silent = now.instant.since(self.heard_at);
        match self.phase {
            Phase::Closing => {
                let due = self.close_at.is_some_and(|at| at <= now.instant);
                due.then(|| {
                    self.close_at = None;
                    Overdue::Close
                })
            }
            Phase::Fresh | Phase::Registering => (silent >= limits.connect_timeout).then_some(Overdue::Silent),
            // A paused socket cannot be heard: the pause is our doing.
            Phase::Live => (silent >= limits.idle_timeout && !self.paused).then_some(Overdue::Silent),
        }
    }

    /// Echo bits of a SEND for its SENDACK.
    #[must_use]
    pub fn echo(flags: HeaderFlags) -> HeaderFlags {
        HeaderFlags(flags.0 & 0x0f)
    }
}

/// Why a session is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// Its closing time has come.
    Close,
    /// Nothing was heard from it for too long.
    Silent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::SendBody;
    use crate::format::packet::Setting;
    use bytes::Bytes;
    use std::time::Duration;

    fn session() -> Session {
        let mut session = Session::new(SessionId { index: 0, generation: 1 }, Instant(0), false, &Limits::TINY);
        session.phase = Phase::Live;
        session
    }

    fn send(payload: &[u8], channel_type: u8) -> SendPacket {
        SendPacket {
            flags: HeaderFlags(0),
            setting: Setting(0),
            client_seq: 1,
            channel_type,
            expire_s: 0,
            channel_id: Bytes::from_static(b"bo"),
            body: SendBody::new("n", "", payload),
        }
    }

    #[test]
    fn sends_are_checked_for_form() {
        let mut session = session();
        let mut verdict = |send: &SendPacket| session.check_send(Instant(0), send, &Limits::TINY);
        assert_eq!(verdict(&send(b"hi", 1)), SendVerdict::Accept);
        assert_eq!(verdict(&send(b"", 1)), SendVerdict::Refuse(Reason::PayloadDecodeError));
        assert_eq!(verdict(&send(b"hi", 2)), SendVerdict::Refuse(Reason::ChannelTypeNotSupported));
        let long = vec![b'x'; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(verdict(&send(&long, 1)), SendVerdict::Refuse(Reason::PayloadDecodeError));
    }

    #[test]
    fn too_fast_is_refused_until_time_has_passed() {
        let mut session = session();
        let packet = send(b"hi", 1);
        for _ in 0..Limits::TINY.sends_per_second {
            assert_eq!(session.check_send(Instant(0), &packet, &Limits::TINY), SendVerdict::Accept);
        }
        assert_eq!(session.check_send(Instant(0), &packet, &Limits::TINY), SendVerdict::TooFast);
        let later = Instant(0) + Duration::from_millis(10);
        assert_eq!(session.check_send(later, &packet, &Limits::TINY), SendVerdict::Accept);
    }

    #[test]
    fn a_full_window_pauses_reading_and_half_of_it_goes_on() {
        let limits = Limits::TINY;
        let mut session = session();
        for _ in 0..limits.send_window {
            assert_eq!(session.reading(&limits, false), None);
            session.check_send(Instant(0), &send(b"hi", 1), &limits);
        }
        assert_eq!(session.reading(&limits, false), Some(true));
        session.send_answered();
        assert_eq!(session.reading(&limits, false), None);
        session.send_answered();
        assert_eq!(session.reading(&limits, false), Some(false));
    }
}
