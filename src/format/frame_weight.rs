//! How much room a frame takes on the wire, estimated without writing it, so that a link can bound its batches and windows; and what of it can be
//! left out when that is too much.
//! Never less than the truth ([`super::frame_codec`] with [`super::frame_wire`]'s layout; the tests compare them), and near it
//! for whatever carries much. Knows nothing of memory.

use super::cluster_status::{ClusterRequest, ClusterStatus};
use super::frame::{Addresses, Frame, Joined, ProposeOutcome, SlotReport};
use super::message::StoredMessage;
use super::raft_message::{GroupMembers, RaftMessage};
use super::request::{ApiAnswer, ApiRequest};
use crate::ids::{ChannelKey, Uid};

/// A frame's place in its batch, and what alignment may cost.
const FRAME_BYTES: usize = 16;

/// What alignment may cost a list, or something that lies apart.
const ALIGN_BYTES: usize = 8;

/// The fixed part of a raft message, and of a snapshot's head.
const RAFT_BYTES: usize = 112;
const SNAPSHOT_HEAD_BYTES: usize = 64;

/// The fixed part of one item of a list, the longest of several kinds.
const ENTRY_BYTES: usize = 32;
const ROW_BYTES: usize = 20;
const PRESENT_SESSION_BYTES: usize = 40;
const SLOT_REPORT_BYTES: usize = 64;
const PAIR_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 12;
const MESSAGE_BYTES: usize = 12;
const ROUTE_BYTES: usize = 40;
const STATUS_BYTES: usize = 192;
const STATUS_MEMBER_BYTES: usize = 104;
const STATUS_MOVE_BYTES: usize = 64;
const STATUS_WAIT_BYTES: usize = 24;
const STATUS_SLOT_BYTES: usize = 64;
const PLACE_BYTES: usize = 4;

impl Frame {
    /// Leaves out a message's body, where whoever is told of the message can do without. True when there was one.
    pub fn leave_body(&mut self) -> bool {
        match self {
            Frame::Deliver(frame) => frame.message.take().is_some(),
            Frame::Notify(frame) => frame.message.take().is_some(),
            _ => false,
        }
    }

    /// It is about a message that is not stored, and does not bring it.
    #[must_use]
    pub fn tells_nothing(&self) -> bool {
        match self {
            Frame::Deliver(frame) => frame.seq == 0 && frame.message.is_none(),
            Frame::Notify(frame) => frame.seq == 0 && frame.message.is_none(),
            _ => false,
        }
    }

    /// Bytes that this frame adds to a batch, at most; a batch takes [`super::frame_codec::FRAMES_EMPTY_BYTES_MAX`] more. Exact but for some
    /// bytes of alignment where it carries messages, entries or parts of a snapshot.
    #[must_use]
    pub fn weight(&self) -> usize {
        FRAME_BYTES
            + match self {
                Frame::Submit(frame) => {
                    let submit = &*frame.submit;
                    88 + channel(&submit.channel) + uid(&submit.from) + uid(&submit.to) + submit.body.bytes.len()
                }
                Frame::Submitted(_) => 32,
                Frame::Notify(frame) => 44 + uid(&frame.uid) + channel(&frame.channel) + body(frame.message.as_ref()),
                Frame::Notified(frame) => 24 + uid(&frame.uid) + channel(&frame.channel),
                Frame::Register(frame) => 40 + uid(&frame.uid) + frame.device_id.len() + frame.token.len(),
                Frame::Registered(_) => 24,
                Frame::Unregister(frame) => 20 + uid(&frame.uid),
                Frame::Deliver(frame) => 44 + channel(&frame.channel) + body(frame.message.as_ref()),
                Frame::Received(frame) => 28 + uid(&frame.uid) + channel(&frame.channel),
                Frame::Resume(frame) => 24 + uid(&frame.uid),
                Frame::Backlog(frame) => 32 + list(&frame.rows, |row| ROW_BYTES + channel(&row.channel)),
                Frame::Fetch(frame) => 32 + channel(&frame.channel),
                Frame::Fetched(frame) => 36 + channel(&frame.channel) + messages(&frame.messages),
                Frame::Whereabouts(frame) => {
                    32 + uid(&frame.uid) + channel(&frame.channel) + list(&frame.away, |_| ADDRESS_BYTES)
                }
                Frame::Kick(frame) => 24 + frame.notice.as_ref().map_or(0, |notice| notice.text.len()),
                other => other.cluster_weight(),
            }
    }

    /// The frames that one node alone has no need of, and those that only HTTP requests cause.
    fn cluster_weight(&self) -> usize {
        match self {
            Frame::Raft(message) => raft(message),
            Frame::Leaders(frame) => 12 + list(&frame.known, |_| PAIR_BYTES),
            Frame::WhoLeads(_) | Frame::Rumour(_) => 8,
            Frame::Present(frame) => {
                24 + list(&frame.slots, |_| PAIR_BYTES)
                    + list(&frame.sessions, |session| {
                        PRESENT_SESSION_BYTES + uid(&session.uid) + session.device_id.len()
                    })
            }
            Frame::Ask(frame) => 64 + request(&frame.request),
            Frame::Answered(frame) => 48 + frame.answer.as_ref().map_or(0, answer),
            Frame::Join(frame) => 80 + addresses(&frame.addresses) + frame.version.len(),
            Frame::Joined(frame) => 32 + if let Joined::Refused { why } = &**frame { why.len() } else { 0 },
            Frame::Propose(frame) => 24 + frame.command.len(),
            Frame::Proposed(frame) => {
                24 + if let ProposeOutcome::Refused(why) = &frame.outcome { why.len() } else { 0 }
            }
            Frame::SlotReports(frame) => 12 + list(&frame.reports, report),
            Frame::Alive(_) => 32,
            Frame::SnapshotOffer(frame) => 16 + raft(&frame.message),
            Frame::SnapshotWant(frame) => 32 + 4 * frame.have.len(),
            Frame::SnapshotPart(frame) => 24 + frame.body.len(),
            Frame::SnapshotTaken(_) => 24,
            Frame::Repair(frame) => 32 + channel(&frame.channel) + 4 * frame.seqs.len(),
            Frame::Repaired(frame) => 20 + channel(&frame.channel) + messages(&frame.messages),
            // What `weight` has.
            Frame::Submit(_)
            | Frame::Submitted(_)
            | Frame::Notify(_)
            | Frame::Notified(_)
            | Frame::Register(_)
            | Frame::Registered(_)
            | Frame::Unregister(_)
            | Frame::Deliver(_)
            | Frame::Received(_)
            | Frame::Resume(_)
            | Frame::Backlog(_)
            | Frame::Fetch(_)
            | Frame::Fetched(_)
            | Frame::Whereabouts(_)
            | Frame::Kick(_) => 0,
        }
    }
}

fn uid(uid: &Uid) -> usize {
    uid.as_str().len()
}

fn channel(channel: &ChannelKey) -> usize {
    channel.id.len()
}

fn body(message: Option<&StoredMessage>) -> usize {
    message.map_or(0, |message| message.bytes().len())
}

fn list<T>(items: &[T], weight: impl Fn(&T) -> usize) -> usize {
    ALIGN_BYTES + items.iter().map(weight).sum::<usize>()
}

fn messages(messages: &[(u32, StoredMessage)]) -> usize {
    list(messages, |(_, message)| MESSAGE_BYTES + message.bytes().len())
}

fn raft(message: &RaftMessage) -> usize {
    let head = |members: &GroupMembers| {
        let numbers = [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next];
        SNAPSHOT_HEAD_BYTES + ALIGN_BYTES + numbers.iter().map(|list| ALIGN_BYTES + 8 * list.len()).sum::<usize>()
    };
    let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| head(&snapshot.members) + snapshot.data.len());
    let entries = list(&message.entries, |entry| ENTRY_BYTES + entry.data.len());
    RAFT_BYTES + entries + message.context.len() + snapshot
}

fn report(report: &SlotReport) -> usize {
    let replicas = list(&report.voters, |_| 8) + list(&report.learners, |_| 8);
    SLOT_REPORT_BYTES + replicas + list(&report.matched, |_| PAIR_BYTES)
}

fn addresses(addresses: &Addresses) -> usize {
    addresses.tcp.len() + addresses.ws.len() + addresses.wss.len() + addresses.http.len()
}

fn request(request: &ApiRequest) -> usize {
    match request {
        ApiRequest::SetToken { uid: whose, token, .. } => uid(whose) + token.len(),
        ApiRequest::QuitDevice { uid: whose, .. } => uid(whose),
        ApiRequest::OnlineStatus { uids } | ApiRequest::Route { uids } => list(uids, |whose| 8 + uid(whose)),
        ApiRequest::Send { from, to, body, .. } => uid(from) + uid(to) + body.bytes.len(),
        ApiRequest::MessageSync { login, peer, .. } => uid(login) + uid(peer),
        ApiRequest::Cluster(ClusterRequest::Split { slots, .. } | ClusterRequest::Merge { slots, .. }) => {
            list(slots, |_| 2)
        }
        ApiRequest::Cluster(_) => 0,
    }
}

fn answer(answer: &ApiAnswer) -> usize {
    match answer {
        ApiAnswer::Online(online) => list(online, |(whose, _)| 12 + uid(whose)),
        ApiAnswer::Messages { messages: found, .. } => messages(found),
        ApiAnswer::Routes(routes) => list(routes, |route| {
            ROUTE_BYTES + route.tcp.len() + route.ws.len() + route.wss.len() + list(&route.users, |_| 4)
        }),
        ApiAnswer::Cluster(found) => status(found),
        ApiAnswer::Refused { text, .. } => text.len(),
        ApiAnswer::Done | ApiAnswer::Sent { .. } | ApiAnswer::Busy => 0,
    }
}

fn status(status: &ClusterStatus) -> usize {
    let members = list(&status.members, |member| STATUS_MEMBER_BYTES + member.http.len() + member.tcp.len());
    let moves = list(&status.moves, |one| {
        STATUS_MOVE_BYTES + list(&one.from, |_| PLACE_BYTES) + list(&one.to, |_| PLACE_BYTES) + one.stage.len()
    });
    let waits = list(&status.waits, |wait| STATUS_WAIT_BYTES + wait.why.len());
    let slots = list(&status.slots, |row| {
        STATUS_SLOT_BYTES + list(&row.replicas, |_| 8) + list(&row.target, |_| 8) + row.stage.len()
    });
    let short = list(&status.metadata_voters, |_| 2) + list(&status.lost, |_| 2);
    STATUS_BYTES + status.name.len() + members + moves + waits + slots + short
}
