//! Between raft-rs' values and ours, without copying payloads. Decides which kinds of message may come from another replica.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use crate::format::raft_message::{GroupMembers, RaftEntry, RaftMessage, SnapshotHead};
use crate::ids::{ReplicaId, SlotId};

/// What replicas say to each other. Never a proposal: raft would forward it without telling its author. Never what raft says to
/// itself.
const TRAVELLING: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// The kind of a message from another replica, if it is one that travels.
pub(super) fn kind_of(message: &RaftMessage) -> Option<MessageType> {
    TRAVELLING.into_iter().find(|kind| *kind as u8 == message.kind)
}

/// It brings entries, or asks whether its receiver is ready for some.
#[must_use]
pub fn brings_entries(message: &RaftMessage) -> bool {
    message.kind == MessageType::MsgAppend as u8
}

/// It says whether its sender votes for somebody, or would.
pub(super) fn answers_candidate(message: &RaftMessage) -> bool {
    matches!(kind_of(message), Some(MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse))
}

/// It asks its receiver to stand for election at once.
#[must_use]
pub fn makes_leader(message: &RaftMessage) -> bool {
    message.kind == MessageType::MsgTimeoutNow as u8
}

/// It is about who is to lead. Such a thing is said once, and not again for as long as an election takes.
#[must_use]
pub fn is_of_election(message: &RaftMessage) -> bool {
    let asks = [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote].map(|kind| kind as u8);
    asks.contains(&message.kind) || answers_candidate(message) || makes_leader(message)
}

pub(super) fn travels(message: &Message) -> bool {
    TRAVELLING.contains(&message.get_msg_type())
}

pub(super) fn entry_kind(entry: &Entry) -> u8 {
    u8::from(entry.get_entry_type() != EntryType::EntryNormal)
}

pub(super) fn entry_type(kind: u8) -> EntryType {
    if kind == 0 { EntryType::EntryNormal } else { EntryType::EntryConfChangeV2 }
}

pub(super) fn conf_state(members: &GroupMembers) -> ConfState {
    let numbers = |members: &[ReplicaId]| members.iter().map(|member| member.0).collect();
    ConfState {
        voters: numbers(&members.voters),
        learners: numbers(&members.learners),
        voters_outgoing: numbers(&members.voters_outgoing),
        learners_next: numbers(&members.learners_next),
        auto_leave: members.auto_leave,
        ..ConfState::default()
    }
}

/// Ascending, so that the same members always look the same.
pub(super) fn group_members(state: &ConfState) -> GroupMembers {
    let replicas = |numbers: &[u64]| {
        let mut replicas: Vec<ReplicaId> = numbers.iter().map(|number| ReplicaId(*number)).collect();
        replicas.sort_unstable();
        replicas
    };
    GroupMembers {
        voters: replicas(&state.voters),
        learners: replicas(&state.learners),
        voters_outgoing: replicas(&state.voters_outgoing),
        learners_next: replicas(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

pub(super) fn outward(slot: SlotId, mut message: Message) -> RaftMessage {
    let entries = message.take_entries().into_iter().map(|entry| {
        let kind = entry_kind(&entry);
        RaftEntry { term: entry.term, index: entry.index, kind, data: entry.data }
    });
    let entries = entries.collect();
    let snapshot = message.has_snapshot().then(|| {
        let snapshot = message.take_snapshot();
        let head = snapshot.get_metadata();
        let members = group_members(head.get_conf_state());
        SnapshotHead { index: head.index, term: head.term, members, data: snapshot.data.clone() }
    });
    RaftMessage {
        slot,
        kind: message.get_msg_type() as u8,
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        entries,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        priority: message.priority,
        context: message.context,
        snapshot,
    }
}

/// The state itself does not go into raft, which would only keep it.
pub(super) fn inward(kind: MessageType, message: RaftMessage) -> Message {
    let mut inner = Message {
        from: message.from.0,
        to: message.to.0,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        priority: message.priority,
        context: message.context,
        ..Message::default()
    };
    inner.set_msg_type(kind);
    let entries = message.entries.into_iter().map(|entry| {
        let RaftEntry { term, index, kind, data } = entry;
        let mut inner = Entry { term, index, data, ..Entry::default() };
        inner.set_entry_type(entry_type(kind));
        inner
    });
    inner.set_entries(entries.collect::<Vec<_>>().into());
    if let Some(head) = message.snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = head.index;
        snapshot.mut_metadata().term = head.term;
        snapshot.mut_metadata().set_conf_state(conf_state(&head.members));
        inner.set_snapshot(snapshot);
    }
    inner
}
