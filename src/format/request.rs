//! What backends ask and get, as values: the HTTP thread asks a shard, and a shard that does not lead the key asks the one that does.
//! Decides nothing.

use std::borrow::Cow;

use super::cluster_status::{ClusterRequest, ClusterStatus, UserRoute};
use super::frame::SendBody;
use super::message::StoredMessage;
use super::packet::{HeaderFlags, Setting};
use crate::ids::{DeviceFlag, DeviceLevel, Uid};

/// What backends and operators ask over HTTP. Most are for the one slot that their key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiRequest {
    /// `POST /user/token`: store the device row; a master level ends the connections of that flag.
    SetToken {
        /// Whose.
        uid: Uid,
        /// Device family.
        flag: DeviceFlag,
        /// Stored with it.
        level: DeviceLevel,
        /// Not empty.
        token: Box<str>,
    },
    /// `POST /user/device_quit`: blank the tokens and end the connections.
    QuitDevice {
        /// Whose.
        uid: Uid,
        /// `None` is all flags.
        flag: Option<DeviceFlag>,
    },
    /// `POST /user/onlinestatus`, the part of the list that lives on this shard.
    OnlineStatus {
        /// Whose.
        uids: Vec<Uid>,
    },
    /// `POST /message/send` for one recipient; `from` is `None` for the built-in system identity.
    Send {
        /// Sender; `____system` when the caller left it empty.
        from: Uid,
        /// Recipient.
        to: Uid,
        /// Header bits: NO_PERSIST and SYNC_ONCE choose the form.
        flags: HeaderFlags,
        /// First body byte.
        setting: Setting,
        /// Seconds.
        expire_s: u32,
        /// The rest.
        body: SendBody,
    },
    /// `POST /channel/messagesync` for a person channel.
    MessageSync {
        /// Who asks.
        login: Uid,
        /// The other.
        peer: Uid,
        /// Sheet `wkapi.md`, section 3.6.
        start_seq: u32,
        /// Same.
        end_seq: u32,
        /// At most this many; the shell has capped it.
        limit: u32,
        /// False: older (down). True: newer (up).
        newer: bool,
    },
    /// `GET /route`, `POST /route/batch`: which nodes lead these users' homes. Any shard knows.
    Route {
        /// Whose.
        uids: Vec<Uid>,
    },
    /// `/cluster/…`: for whoever leads the metadata group.
    Cluster(ClusterRequest),
}

/// What they get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiAnswer {
    /// Done, durable.
    Done,
    /// Online devices, one entry per live connection.
    Online(Vec<(Uid, DeviceFlag)>),
    /// The message is stored (seq > 0) or passed on (seq 0).
    Sent {
        /// Server's id.
        message_id: i64,
        /// Position, 0 when not stored.
        message_seq: u32,
    },
    /// Messages, ascending.
    Messages {
        /// With their positions.
        messages: Vec<(u32, StoredMessage)>,
        /// There are others within the asked range.
        more: bool,
    },
    /// Users by the node that leads their homes; each one's place in the list that was asked is in exactly one group.
    Routes(Vec<UserRoute>),
    /// How the cluster stands.
    Cluster(Box<ClusterStatus>),
    /// Not done, and why: a [`super::packet::Reason`] and a sentence.
    Refused {
        /// Reason code.
        reason: u8,
        /// One line, naming whose fault.
        text: Cow<'static, str>,
    },
    /// Too much under way; try later.
    Busy,
}
