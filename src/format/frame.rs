//! What shards say to each other, on one node through the mesh and between nodes over links: the same values, so one
//! node takes the same path as many. Bytes are [`super::frame_codec`]'s affair. A frame names the shard's session or
//! slot it is for; its receiver checks that it is still the right one.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::message::StoredMessage;
use super::packet::{HeaderFlags, Setting};
use super::raft_message::RaftMessage;
use super::request::{ApiAnswer, ApiRequest};
use crate::ids::{
    ChannelKey, DeviceFlag, DeviceLevel, NodeId, Place, ReplicaId, SessionAddress, SessionId, SlotId, Uid,
};

/// Everything one shard can ask of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Gateway → channel's slot: take this message. Answered by [`Frame::Submitted`].
    Submit(Submission),
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
    /// Home, or straight from the channel's slot → gateway: something for this session.
    Deliver(Deliver),
    /// Home → channel's slot: where a member's sessions are.
    Whereabouts(Box<Whereabouts>),
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
    /// Replica → replica of the same group. Not repeated when it is lost.
    Raft(Box<RaftMessage>),
    /// Who leads what, as far as the sender knows.
    Leaders(Leaders),
    /// Anybody → replica of a slot: who leads it? Answered by [`Frame::Leaders`].
    WhoLeads(WhoLeads),
    /// Gateway → new leader: these sessions are here. All of a gateway's, none of them left out.
    Present(Box<Present>),
    /// Shard with an HTTP request → the key's leader. Answered by [`Frame::Answered`].
    Ask(Box<Ask>),
    /// The answer.
    Answered(Box<Answered>),
    /// Newcomer → any member: I want to be one of you. Answered by [`Frame::Joined`].
    Join(Box<Join>),
    /// Member → newcomer: what became of that.
    Joined(Box<Joined>),
    /// Any shard → leader of the metadata group: this should be agreed on. Answered by [`Frame::Proposed`].
    Propose(Propose),
    /// What became of that.
    Proposed(Proposed),
    /// Slot's leader → leader of the metadata group: how the slot's group stands.
    SlotReports(SlotReports),
    /// Node's first shard → leader of the metadata group, again and again: alive. Also another shard → its node's first, when its part of
    /// that has changed.
    Alive(Alive),
    /// Node's first shard → its other shards: a node is said to be up or down.
    Rumour(Rumour),
    /// Slot's leader → replica that is too far behind: here comes the state, in parts.
    SnapshotOffer(Box<SnapshotOffer>),
    /// Replica → leader: go on, I have this much already.
    SnapshotWant(SnapshotWant),
    /// One part.
    SnapshotPart(SnapshotPart),
    /// Replica → leader: the part is in my journal.
    SnapshotTaken(SnapshotTaken),
    /// Replica → another replica: my copy of these messages is damaged, give me yours.
    Repair(Repair),
    /// The copy.
    Repaired(Repaired),
}

/// Who waits for what became of a message. Stays with the shard that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's SEND.
    Session {
        /// Whose, on the shard that asks.
        session: SessionId,
        /// Echoed in SENDACK.
        client_seq: u32,
        /// Echoed in SENDACK.
        flags: HeaderFlags,
    },
    /// An HTTP request of the shard that asks.
    Api {
        /// The request.
        ticket: u64,
    },
    /// Nobody waits.
    Nobody,
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

/// A message on its way to one leader of its channel's slot. Taken only by the leader of exactly this term: so whatever is sent again
/// to a later one cannot be overtaken by an older copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The channel's slot, as the sender's table has it.
    pub slot: SlotId,
    /// Of the leader that is meant.
    pub term: u64,
    /// What. Shared with the sender, which keeps it until it is answered.
    pub submit: Arc<Submit>,
}

/// A message on its way to its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// Who waits.
    pub place: Place,
    /// The sender's number for it; rises.
    pub ticket: u64,
    /// The channel.
    pub channel: ChannelKey,
    /// Sender.
    pub from: Uid,
    /// What the sender named.
    pub to: Uid,
    /// Names the sending device, which does not get it back; 0 for HTTP.
    pub device_tag: u64,
    /// Names this send among those of its channel: two with the same one are the same message. Never 0.
    pub fingerprint: u64,
    /// Header bits; NO_PERSIST means: pass on, do not store.
    pub flags: HeaderFlags,
    /// First body byte.
    pub setting: Setting,
    /// Seconds.
    pub expire_s: u32,
    /// The rest.
    pub body: SendBody,
}

/// Outcome of a [`Submit`]. Reason [`super::packet::Reason::NodeNotMatch`]: not taken here, or not certain; to be sent again to the slot's
/// leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Of [`Submit`].
    pub ticket: u64,
    /// Of the [`Submission`] that this answers.
    pub term: u64,
    /// 0 when refused.
    pub message_id: i64,
    /// 0 when refused or not stored.
    pub message_seq: u32,
    /// A [`super::packet::Reason`].
    pub reason: u8,
}

impl Submitted {
    /// The `reason` that says: not taken, and never will be, because the channel belongs to another slot since a split. Not a word of the
    /// clients' protocol: the gateway sends the message to the other slot when it knows of it.
    pub const MOVED: u8 = 255;
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
    /// Who brings it to the member's sessions.
    pub pusher: Pusher,
}

/// Who brings what a [`Notify`] tells of to the member's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pusher {
    /// The home, to all of them.
    Home,
    /// The same; and the channel's leader wants to hear where they are, in a [`Whereabouts`].
    HomeTells,
    /// The channel's leader has sent it straight to those on other nodes than the home's, as the home named them under this mark. If the mark
    /// is not the home's any more, the home sends it to all and tells where they are now.
    Leader(u32),
}

impl Pusher {
    /// The smallest mark.
    pub const MARK_MIN: u32 = 2;

    /// As one number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Pusher::Home => 0,
            Pusher::HomeTells => 1,
            Pusher::Leader(mark) => mark.max(Pusher::MARK_MIN),
        }
    }

    /// What [`Pusher::number`] says.
    #[must_use]
    pub fn of_number(number: u32) -> Pusher {
        match number {
            0 => Pusher::Home,
            1 => Pusher::HomeTells,
            mark => Pusher::Leader(mark),
        }
    }
}

/// Where a member's sessions are, as the home knows at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Whose.
    pub uid: Uid,
    /// In which channel it was asked.
    pub channel: ChannelKey,
    /// Names this state of the home, not below [`Pusher::MARK_MIN`]; another one follows when the next session comes or goes.
    pub mark: u32,
    /// Sessions on other nodes than the home's; at most `limits.straight_sessions_max`, none if there are more.
    pub away: Vec<SessionAddress>,
    /// There are others, to which the home sends.
    pub others: bool,
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

/// Answer to [`Register`]. When accepted, [`Backlog`] frames follow. Reason NodeNotMatch: not led here, ask the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Which session of the receiving shard.
    pub session: SessionId,
    /// A [`super::packet::Reason`]; success or why not.
    pub reason: u8,
    /// From the stored device row.
    pub level: DeviceLevel,
    /// Larger than of any connection of this user that was accepted before.
    pub order: u64,
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
    /// The device has everything up to here; where to begin if the session does not follow the channel yet. `None`: it comes straight from the
    /// channel's leader, which does not know; a session that does not follow the channel gets it by way of its home.
    pub cursor: Option<u32>,
    /// Of the home's leader, whose cursor it is. One that has been followed by another knows less than the session by now. 0: none.
    pub term: u64,
    /// Which slot that one leads: terms of another one say nothing.
    pub slot: SlotId,
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
    /// Names the question; not 0.
    pub question: u32,
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
    /// Which [`Resume`] it answers; 0: none.
    pub question: u32,
    /// Of the home's leader, whose cursors these are.
    pub term: u64,
    /// Which slot that one leads.
    pub slot: SlotId,
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

/// Who leads what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders {
    /// At most `limits.leaders_per_frame_max`.
    pub known: Vec<LeaderOf>,
    /// True: for the other shards of the receiving node too, which get it from there.
    pub relay: bool,
    /// True: the leaders themselves say so, and want to hear which sessions are here.
    pub announced: bool,
}

/// Who leads one slot. A higher term is newer; at the same term a known place is newer than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderOf {
    /// Which.
    pub slot: SlotId,
    /// raft's.
    pub term: u64,
    /// `None`: being elected.
    pub place: Option<Place>,
}

/// Who leads this?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WhoLeads {
    /// Which.
    pub slot: SlotId,
    /// Who asks.
    pub place: Place,
}

/// Every session that one gateway shard has for some slots, told to a leader that has not heard of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The gateway shard.
    pub place: Place,
    /// For which slots, each with the term of the leader that is meant.
    pub slots: Vec<(SlotId, u64)>,
    /// At most `limits.present_sessions_max`, of any of those slots.
    pub sessions: Vec<PresentSession>,
    /// The first frame of the statement: what was known of this gateway for these slots is void.
    pub first: bool,
    /// The last one: now it is whole.
    pub last: bool,
}

/// One session of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentSession {
    /// On the gateway shard.
    pub session: SessionId,
    /// Whose.
    pub uid: Uid,
    /// Device family.
    pub flag: DeviceFlag,
    /// From the device row at CONNECT.
    pub level: DeviceLevel,
    /// Client-chosen.
    pub device_id: Box<str>,
    /// As in [`Registered`].
    pub order: u64,
}

/// An HTTP request on its way to the key's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who waits.
    pub place: Place,
    /// The sender's number for it.
    pub ticket: u64,
    /// The key's slot.
    pub slot: SlotId,
    /// In which term the asked one leads, as far as the sender knows: in another one somebody else may have done it since, and more.
    pub term: u64,
    /// What.
    pub request: ApiRequest,
}

/// An HTTP request's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Of [`Ask`].
    pub ticket: u64,
    /// `None`: not led here, or lost with a change of leader; to be asked again.
    pub answer: Option<ApiAnswer>,
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

/// A node wants in, or says where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Its number.
    pub node: u16,
    /// Names its data directory.
    pub identity: u64,
    /// Names its process.
    pub boot: u64,
    /// How many shards it has.
    pub shards: u16,
    /// It belongs to the cluster, as far as it knows, and asks for the way.
    pub belongs: bool,
    /// Where it is.
    pub addresses: Addresses,
    /// Program version, for people.
    pub version: Box<str>,
}

/// What became of a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Agreed on. The cluster's number, and the newcomer's replica of the metadata group.
    Accepted {
        /// Never changes.
        cluster: u64,
        /// Who was let in: the data directory, not whoever has that number and place by now.
        identity: u64,
        /// Follows from the leader's messages.
        replica: ReplicaId,
    },
    /// Ask that one; `None`: nobody leads now, try again soon.
    Elsewhere {
        /// Its first shard's address.
        leader: Option<SocketAddr>,
    },
    /// No, and why: one line for people.
    Refused {
        /// Names whose fault it is.
        why: Box<str>,
    },
}

/// Something the metadata group should agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propose {
    /// Who waits.
    pub place: Place,
    /// The sender's number for it.
    pub ticket: u64,
    /// A command of `engine::metadata`.
    pub command: Bytes,
}

/// What became of a [`Propose`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Of [`Propose`].
    pub ticket: u64,
    /// What.
    pub outcome: ProposeOutcome,
}

/// What the metadata group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeOutcome {
    /// Agreed and applied; the version of the table that has it.
    Applied(u64),
    /// Not led here, or uncertain: ask again.
    NotLeader,
    /// It makes no sense (any more), and why.
    Refused(Box<str>),
}

/// How some slots' groups stand, from their leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotReports {
    /// The leader's shard.
    pub place: Place,
    /// One each.
    pub reports: Vec<SlotReport>,
}

/// How one slot's group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotReport {
    /// Which.
    pub slot: SlotId,
    /// The row that the leader works by.
    pub epoch: u64,
    /// raft's.
    pub term: u64,
    /// Who votes. In the midst of a change: those of before and after.
    pub voters: Vec<ReplicaId>,
    /// Who only follows.
    pub learners: Vec<ReplicaId>,
    /// In the midst of a change.
    pub joint: bool,
    /// Entries agreed on.
    pub committed: u64,
    /// Each replica's last known entry.
    pub matched: Vec<(ReplicaId, u64)>,
    /// Bytes of messages that a new replica would be sent.
    pub bytes: u64,
}

/// A node is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Who.
    pub node: u16,
    /// Names its process.
    pub boot: u64,
    /// Of its copy of the table.
    pub table_version: u64,
    /// Slots it leads.
    pub slots_led: u32,
    /// Clients connected, those that are still on their way in left out.
    pub sessions: u32,
    /// It is about to stop: its leaderships go elsewhere.
    pub stopping: bool,
}

/// What gossip says of a node. A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rumour {
    /// Who.
    pub node: NodeId,
    /// It seems to be there.
    pub up: bool,
}

/// A snapshot is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// raft's MsgSnapshot, which counts once everything else is there.
    pub message: RaftMessage,
    /// Names this transfer, on the leader's shard.
    pub transfer: u64,
    /// Messages, at most, that will be sent.
    pub messages: u64,
    /// The last plan of a split or merge in that state: each numbers the slot's channels anew.
    pub plan: u64,
}

/// What of a snapshot is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotWant {
    /// Of the offer.
    pub transfer: u64,
    /// Which slot.
    pub slot: SlotId,
    /// Who asks.
    pub from: ReplicaId,
    /// Number of the last message that is there, by channel in the order in which they appeared in the slot. Channels that are not named
    /// have nothing.
    pub have: Vec<u32>,
    /// False: not now.
    pub accepted: bool,
}

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Of the offer.
    pub transfer: u64,
    /// Which slot.
    pub slot: SlotId,
    /// From 0, without holes.
    pub number: u32,
    /// Nothing follows.
    pub last: bool,
    /// As `engine::transfer` lays it out.
    pub body: Bytes,
}

/// A part has arrived and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotTaken {
    /// Of the offer.
    pub transfer: u64,
    /// Which slot.
    pub slot: SlotId,
    /// Who took it.
    pub from: ReplicaId,
    /// Which.
    pub number: u32,
    /// False: the transfer is void, begin anew.
    pub good: bool,
}

/// Messages whose copy here is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Who asks.
    pub place: Place,
    /// Which channel.
    pub channel: ChannelKey,
    /// Which messages.
    pub seqs: Vec<u32>,
}

/// Good copies of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Which channel.
    pub channel: ChannelKey,
    /// Those that are there.
    pub messages: Vec<(u32, StoredMessage)>,
}
