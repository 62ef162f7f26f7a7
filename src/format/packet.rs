//! The client's packets (WKProto) as values, borrowed from the buffer they came in. What each field means is in
//! the protocol sheet; byte layouts live in [`super::packet_codec`], secrecy in [`super::packet_cipher`].

/// Header bits of SEND, RECV, RECVACK and SENDACK (byte 0, low nibble).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderFlags(pub u8);

impl HeaderFlags {
    /// Do not store, or was not stored.
    pub const NO_PERSIST: HeaderFlags = HeaderFlags(1);
    /// Counts as unread.
    pub const RED_DOT: HeaderFlags = HeaderFlags(2);
    /// A command message, consumed once.
    pub const SYNC_ONCE: HeaderFlags = HeaderFlags(4);
    /// A client marks a resend; nobody relies on it.
    pub const DUP: HeaderFlags = HeaderFlags(8);

    /// True when every bit of `other` is set.
    #[must_use]
    pub fn contains(self, other: HeaderFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub fn with(self, other: HeaderFlags) -> HeaderFlags {
        HeaderFlags(self.0 | other.0)
    }

    /// These bits less those of `other`.
    #[must_use]
    pub fn without(self, other: HeaderFlags) -> HeaderFlags {
        HeaderFlags(self.0 & !other.0)
    }
}

/// First body byte of SEND and RECV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Setting(pub u8);

impl Setting {
    /// A read receipt is wanted.
    pub const RECEIPT: u8 = 0x80;
    /// A topic string is present.
    pub const TOPIC: u8 = 0x08;
    /// Stream fields are present in versions 2 to 4; never sent by us.
    pub const STREAM: u8 = 0x02;
    /// What may reach a receiver (sheet, section 0 item 9): old SDKs misread the rest.
    pub const FAN_OUT_MASK: u8 = Setting::RECEIPT | Setting::TOPIC;

    /// True when the topic field is on the wire.
    #[must_use]
    pub fn has_topic(self) -> bool {
        self.0 & Setting::TOPIC != 0
    }
}

/// Why something was refused, as SENDACK, CONNACK, SUBACK and DISCONNECT carry it (sheet, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the protocol's own words
pub enum Reason {
    Success = 1,
    AuthFailed = 2,
    PayloadDecodeError = 9,
    NotAllowedToSend = 11,
    Kicked = 12,
    SystemError = 15,
    BadChannelId = 16,
    NodeNotMatch = 18,
    Banned = 19,
    ClientKeyEmpty = 21,
    RateLimit = 22,
    ChannelTypeNotSupported = 23,
    IdempotencyConflict = 28,
}

impl Reason {
    /// The reason of a byte, if it is one that we give.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Reason> {
        Some(match byte {
            1 => Reason::Success,
            2 => Reason::AuthFailed,
            9 => Reason::PayloadDecodeError,
            11 => Reason::NotAllowedToSend,
            12 => Reason::Kicked,
            15 => Reason::SystemError,
            16 => Reason::BadChannelId,
            18 => Reason::NodeNotMatch,
            19 => Reason::Banned,
            21 => Reason::ClientKeyEmpty,
            22 => Reason::RateLimit,
            23 => Reason::ChannelTypeNotSupported,
            28 => Reason::IdempotencyConflict,
            _ => return None,
        })
    }
}

/// Any packet of either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the struct of its name
pub enum Packet<'a> {
    Connect(Connect<'a>),
    Connack(Connack<'a>),
    Send(Send<'a>),
    Sendack(Sendack<'a>),
    Recv(Recv<'a>),
    Recvack(Recvack),
    Ping,
    Pong,
    Disconnect(Disconnect<'a>),
    Sub(Sub<'a>),
    Suback(Suback<'a>),
    Event(EventPacket<'a>),
}

/// Client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Protocol version the client speaks; 0 means newest.
    pub version: u8,
    /// 0 app, 1 web, 2 PC, 99 system.
    pub device_flag: u8,
    /// Client-chosen.
    pub device_id: &'a str,
    /// Who.
    pub uid: &'a str,
    /// May be empty.
    pub token: &'a str,
    /// Milliseconds since 1970 by the client's clock.
    pub client_timestamp_ms: i64,
    /// Padded base64 of an X25519 public key; may be empty.
    pub client_key: &'a str,
}

/// Answer to CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Present (with the header flag) iff the client's version is above 3; the negotiated version.
    pub server_version: Option<u8>,
    /// Server clock minus client clock.
    pub time_diff_ms: i64,
    /// 1 is success. A raw byte: clients must cope with codes we do not know.
    pub reason: u8,
    /// base64 of the server's public key; empty on failure.
    pub server_key: &'a str,
    /// The AES IV as 16 ASCII characters; empty on failure.
    pub salt: &'a str,
    /// On the wire iff the session's version is at least 4.
    pub node_id: u64,
}

/// A message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send<'a> {
    /// Header bits.
    pub flags: HeaderFlags,
    /// First body byte.
    pub setting: Setting,
    /// Echoed in SENDACK.
    pub client_seq: u32,
    /// Unique per client; the key of deduplication.
    pub client_msg_no: &'a str,
    /// Versions 2 to 4 with the stream bit; carried for the codec, otherwise ignored.
    pub stream_no: &'a str,
    /// Person: the peer's uid.
    pub channel_id: &'a str,
    /// 1 person, 2 group, …
    pub channel_type: u8,
    /// Seconds, 0 is never; on the wire from version 3.
    pub expire: u32,
    /// Integrity tag, 32 hex characters; empty in plain mode.
    pub msg_key: &'a str,
    /// On the wire iff the topic bit is set.
    pub topic: &'a str,
    /// base64 text of the ciphertext, or plain bytes in plain mode.
    pub payload: &'a [u8],
}

/// Answer to SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sendack<'a> {
    /// Echo of the SEND's bits.
    pub flags: HeaderFlags,
    /// Server's id of the message.
    pub message_id: i64,
    /// Echo.
    pub client_seq: u32,
    /// 0 if not stored or refused.
    pub message_seq: u64,
    /// 1 is success; see [`Reason`].
    pub reason: u8,
    /// Some servers append it and clients skip it; on the wire iff it is not empty. We leave it empty.
    pub client_msg_no: &'a str,
}

/// A message to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recv<'a> {
    /// Header bits.
    pub flags: HeaderFlags,
    /// First body byte, already masked.
    pub setting: Setting,
    /// Integrity tag; empty in plain mode.
    pub msg_key: &'a str,
    /// Sender.
    pub from_uid: &'a str,
    /// The channel as this receiver sees it.
    pub channel_id: &'a str,
    /// 1 person, …
    pub channel_type: u8,
    /// Seconds; on the wire from version 3.
    pub expire: u32,
    /// As the sender gave it.
    pub client_msg_no: &'a str,
    /// Only in versions 2 to 4 with the stream bit, which we never send; kept so that vectors decode.
    pub stream: Option<StreamFields<'a>>,
    /// Server's id.
    pub message_id: i64,
    /// Position in the channel, from 1.
    pub message_seq: u64,
    /// Seconds since 1970.
    pub timestamp_s: i32,
    /// On the wire iff the topic bit is set.
    pub topic: &'a str,
    /// base64 text of the ciphertext, or plain bytes in plain mode.
    pub payload: &'a [u8],
}

/// Stream fields of RECV in versions 2 to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFields<'a> {
    /// 0 start, 1 middle, 2 end.
    pub stream_flag: u8,
    /// Stream's name.
    pub stream_no: &'a str,
    /// Position in the stream.
    pub stream_id: u64,
}

/// A client has taken a RECV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recvack {
    /// Copied from the RECV by most SDKs.
    pub flags: HeaderFlags,
    /// Of the RECV.
    pub message_id: i64,
    /// Of the RECV.
    pub message_seq: u64,
}

/// Kick notice (to the client) or farewell (from it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// 12 when kicked.
    pub reason: u8,
    /// For people.
    pub text: &'a str,
}

/// Only the JS SDK sends it; answered, otherwise ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub<'a> {
    /// First body byte.
    pub setting: Setting,
    /// Client's number.
    pub sub_no: &'a str,
    /// Channel.
    pub channel_id: &'a str,
    /// Its type.
    pub channel_type: u8,
    /// 0 subscribe, 1 unsubscribe.
    pub action: u8,
    /// Free text.
    pub param: &'a str,
}

/// Answer to SUB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suback<'a> {
    /// Echo.
    pub sub_no: &'a str,
    /// Echo.
    pub channel_id: &'a str,
    /// Echo.
    pub channel_type: u8,
    /// Echo.
    pub action: u8,
    /// 1 is success.
    pub reason: u8,
}

/// Server event, never enciphered; only for sessions of version 5 and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPacket<'a> {
    /// May be empty.
    pub id: &'a str,
    /// Name of the event.
    pub kind: &'a str,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// UTF-8 JSON.
    pub data: &'a [u8],
}
