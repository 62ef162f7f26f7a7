//! What replicas of one group say to each other, as plain values: raft-rs' message with our own layout on the wire, so that no byte of a
//! peer reaches raft's general parser. Knows nothing of what an entry contains.

use bytes::Bytes;

use crate::ids::{ReplicaId, SlotId};

/// One message of one group. Sent without promise: raft repeats what matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftMessage {
    /// Whose group.
    pub slot: SlotId,
    /// raft-rs' `MessageType` as its number. Only those that travel between replicas are legal: its receiver checks.
    pub kind: u8,
    /// Who said it.
    pub from: ReplicaId,
    /// To whom.
    pub to: ReplicaId,
    /// Sender's term.
    pub term: u64,
    /// Term of the entry at `index`.
    pub log_term: u64,
    /// Where `entries` go on, or what is acknowledged.
    pub index: u64,
    /// Sender's commit index.
    pub commit: u64,
    /// Term of that entry; 0 where it does not matter.
    pub commit_term: u64,
    /// Ascending, without holes.
    pub entries: Vec<RaftEntry>,
    /// An append or a vote was refused.
    pub reject: bool,
    /// The furthest entry that may match.
    pub reject_hint: u64,
    /// Sender wants a snapshot at least as new as this.
    pub request_snapshot: u64,
    /// Of a candidate.
    pub priority: i64,
    /// raft's own words for what the message is about.
    pub context: Bytes,
    /// A snapshot's head: only in messages of kind MsgSnapshot.
    pub snapshot: Option<SnapshotHead>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftEntry {
    /// Its term.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// 0 commands, 1 a change of the group's members.
    pub kind: u8,
    /// Opaque here; a slice of the buffer it arrived in.
    pub data: Bytes,
}

/// What raft must know of a snapshot beside its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Last entry it covers.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Who is in the group as of that entry.
    pub members: GroupMembers,
    /// The whole state, for the metadata group; empty for slots, whose state travels apart, in parts.
    pub data: Bytes,
}

/// raft's `ConfState`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMembers {
    /// Who votes.
    pub voters: Vec<ReplicaId>,
    /// Who only follows.
    pub learners: Vec<ReplicaId>,
    /// In the midst of a change: who voted before it.
    pub voters_outgoing: Vec<ReplicaId>,
    /// In the midst of a change: who will only follow after it.
    pub learners_next: Vec<ReplicaId>,
    /// The group leaves the change by itself.
    pub auto_leave: bool,
}
