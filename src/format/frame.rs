//! What shards say to each other, on one node through the mesh and between nodes over links: the same values, so one
//! node takes the same path as many. Bytes are [`super::frame_codec`]'s affair. A frame names the shard's session or
//! slot it is for; its receiver checks that it is still the right one.

use std::net::SocketAddr;

use bytes::Bytes;

use super::message::StoredMessage;
use super::packet::{HeaderFlags, Setting};
use crate::ids::{ChannelKey, DeviceFlag, DeviceLevel, Place, SessionAddress, SessionId, Uid};

/// Everything one shard can ask of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Gateway → channel's slot: take this message. Answered by [`Frame::Submitted`].
    Submit(Box<Submit>),
    /// Channel's slot → gateway: what became of it.
    Submitted(Submitted),
    /// Channel's slot → member's home: the channel has grown. Answered by [`Frame::Notified`] once durable.
    Notify(Notify),
    /// Home → channel's slot: the row covers this.
    Notified(Notified),
    /// Gateway → home: a connection wants to be this user's. Answered by [`Frame::Registered`].
    Register(Box<Register>),
    /// Home → gateway: accepted or refused, with what the device has missed.
    Registered(Registered),
    /// Gateway → home: the connection is gone.
    Unregister(Unregister),
    /// Home → gateway: something for this session.
    Deliver(Deliver),
    /// Gateway → home: the device has everything up to here.
    Received(Received),
    /// Gateway → home: I have room again, what else lags?
    Resume(Resume),
    /// Home → gateway: channels that lag. Also part of the answer to Register.
    Backlog(Backlog),
    /// Gateway → channel's slot: read these.
    Fetch(Fetch),
    /// Channel's slot → gateway: here they are.
    Fetched(Fetched),
    /// Home → gateway: end this session.
    Kick(Kick),
}

/// Whom an answer to [`Submit`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's SEND.
    Session {
        /// Whose.
        address: SessionAddress,
        /// Echoed in SENDACK.
        client_seq: u32,
        /// Echoed in SENDACK.
        flags: HeaderFlags,
    },
    /// An HTTP request.
    Api {
        /// Shard that holds the ticket.
        place: Place,
        /// The request.
        ticket: u64,
    },
    /// Nobody waits.
    Nobody,
}

impl Origin {
    /// The shard that waits for the answer.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self {
            Origin::Session { address, .. } => Some(address.place),
            Origin::Api { place, .. } => Some(*place),
            Origin::Nobody => None,
        }
    }
}

/// The variable part of a SEND in one run of bytes: `client_msg_no`, topic, payload, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendBody {
    /// All three.
    pub bytes: Bytes,
    /// End of `client_msg_no`.
    pub client_msg_no_end: u16,
    /// End of the topic; the payload follows.
    pub topic_end: u16,
}

impl SendBody {
    /// Puts the parts together.
    ///
    /// # Panics
    /// When the texts exceed `limits::CLIENT_MSG_NO_BYTES_MAX` and `limits::TOPIC_BYTES_MAX` by far; callers check before.
    #[must_use]
    pub fn new(client_msg_no: &str, topic: &str, payload: &[u8]) -> SendBody {
        let mut bytes = Vec::with_capacity(client_msg_no.len() + topic.len() + payload.len());
        bytes.extend_from_slice(client_msg_no.as_bytes());
        bytes.extend_from_slice(topic.as_bytes());
        bytes.extend_from_slice(payload);
        SendBody {
            client_msg_no_end: u16::try_from(client_msg_no.len()).expect("checked by the caller"),
            topic_end: u16::try_from(client_msg_no.len() + topic.len()).expect("checked by the caller"),
            bytes: Bytes::from(bytes),
        }
    }

    /// As the client gave it.
    #[must_use]
    pub fn client_msg_no(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.client_msg_no_end)]).unwrap_or("")
    }

    /// Empty when there is none.
    #[must_use]
    pub fn topic(&self) -> &str {
        let range = usize::from(self.client_msg_no_end)..usize::from(self.topic_end);
        std::str::from_utf8(&self.bytes[range]).unwrap_or("")
    }

    /// Plain bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.topic_end)..]
    }
}

/// A message on its way to its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// Who waits.
    pub origin: Origin,
    /// The channel.
    pub channel: ChannelKey,
    /// Sender.
    pub from: Uid,
    /// What the sender named.
    pub to: Uid,
    /// Names the sending device, which does not get it back; 0 for HTTP.
    pub device_tag: u64,
    /// Header bits; NO_PERSIST means: pass on, do not store.
    pub flags: HeaderFlags,
    /// First body byte.
    pub setting: Setting,
    /// Seconds.
    pub expire_s: u32,
    /// The rest.
    pub body: SendBody,
}

/// Outcome of a [`Submit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Who waits.
    pub origin: Origin,
    /// 0 when refused.
    pub message_id: i64,
    /// 0 when refused or not stored.
    pub message_seq: u32,
    /// A [`super::packet::Reason`].
    pub reason: u8,
}

/// A channel has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Whose home.
    pub uid: Uid,
    /// Which channel.
    pub channel: ChannelKey,
    /// Its last message; 0 for one that is not stored.
    pub seq: u32,
    /// The body, when it is the message `seq` and worth carrying; else it can be fetched.
    pub message: Option<StoredMessage>,
    /// Where to send [`Notified`].
    pub from: Place,
}

/// A row covers a channel's growth, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notified {
    /// Whose row.
    pub uid: Uid,
    /// Which channel.
    pub channel: ChannelKey,
    /// Up to here.
    pub seq: u32,
}

/// A connection wants to be a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The connection.
    pub address: SessionAddress,
    /// The user.
    pub uid: Uid,
    /// Device family.
    pub flag: DeviceFlag,
    /// Client-chosen, decides between kick and silent close.
    pub device_id: Box<str>,
    /// As given in CONNECT.
    pub token: Box<str>,
}

/// Answer to [`Register`]. When accepted, [`Backlog`] frames follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// A [`super::packet::Reason`]; success or why not.
    pub reason: u8,
    /// From the stored device row.
    pub level: DeviceLevel,
}

/// A connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unregister {
    /// The connection.
    pub address: SessionAddress,
    /// Its user.
    pub uid: Uid,
}

/// Something for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// Which channel.
    pub channel: ChannelKey,
    /// The channel's last message; 0 for one that is not stored.
    pub seq: u32,
    /// The device has everything up to here; where to begin if the session does not follow the channel yet.
    pub cursor: u32,
    /// The body of `seq`, else it is fetched.
    pub message: Option<StoredMessage>,
}

/// A device has everything up to `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Whose device.
    pub uid: Uid,
    /// Device family.
    pub flag: DeviceFlag,
    /// Which channel.
    pub channel: ChannelKey,
    /// Up to here.
    pub seq: u32,
}

/// A session has room for lagging channels again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The session.
    pub address: SessionAddress,
    /// Its user.
    pub uid: Uid,
}

/// Channels in which a device lags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// At most `limits.backlog_rows_max`.
    pub rows: Vec<BacklogRow>,
    /// There are others; ask again when these have caught up.
    pub more: bool,
}

/// One lagging channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogRow {
    /// Which.
    pub channel: ChannelKey,
    /// The device has everything up to here.
    pub cursor: u32,
    /// The channel's last message.
    pub last_seq: u32,
}

/// Read from a channel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Who asks.
    pub address: SessionAddress,
    /// Which channel.
    pub channel: ChannelKey,
    /// First wanted.
    pub from_seq: u32,
    /// At most this many.
    pub messages_max: u32,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// Which channel.
    pub channel: ChannelKey,
    /// Ascending; a number that is missing is gone for good (retention, or damage that was reported).
    pub messages: Vec<(u32, StoredMessage)>,
    /// Where to go on; everything before it is in `messages` or gone.
    pub next_seq: u32,
    /// The channel's last message at the time.
    pub last_seq: u32,
}

/// End a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// Why; `None` closes without DISCONNECT.
    pub notice: Option<KickNotice>,
}

/// What DISCONNECT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KickNotice {
    /// A [`super::packet::Reason`].
    pub reason: u8,
    /// For people.
    pub text: Box<str>,
}

/// Where a node can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// By other nodes: shard 0 here, shard n at the port n higher. Gossip on the same port over UDP.
    pub cluster: SocketAddr,
    /// By clients over TCP, as `/route` tells it.
    pub tcp: Box<str>,
    /// By clients over WebSocket.
    pub ws: Box<str>,
    /// By clients over TLS; may be empty.
    pub wss: Box<str>,
    /// The HTTP API.
    pub http: Box<str>,
}
