//! The frames between replicas of one group: raft's messages, snapshots in parts, good copies of damaged messages.

use bytes::Bytes;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

use super::{Apart, BadValue, Each, WireChannel, WireMessage, WirePlace, WireReplica, each, slot};
use crate::format::frame::{Repair, Repaired, SnapshotOffer, SnapshotPart, SnapshotTaken, SnapshotWant};
use crate::format::message::StoredMessage;
use crate::format::raft_message::{GroupMembers, RaftEntry, RaftMessage, SnapshotHead};
use crate::ids::ReplicaId;

/// The highest kind of entry there is.
const ENTRY_KIND_MAX: u8 = 1;

#[derive(Archive, Serialize)]
pub(super) struct WireRaft<'a> {
    from: WireReplica,
    to: WireReplica,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    commit_term: u64,
    reject_hint: u64,
    request_snapshot: u64,
    priority: i64,
    entries: Each<'a, RaftEntry, WireEntry<'a>>,
    #[rkyv(with = InlineAsBox)]
    context: &'a [u8],
    #[rkyv(with = Map<Apart<WireSnapshotHead<'a>>>)]
    snapshot: Option<&'a SnapshotHead>,
    slot: u16,
    kind: u8,
    reject: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct WireEntry<'a> {
    term: u64,
    index: u64,
    #[rkyv(with = InlineAsBox)]
    data: &'a [u8],
    kind: u8,
}

#[derive(Archive, Serialize)]
pub(super) struct WireSnapshotHead<'a> {
    index: u64,
    term: u64,
    voters: Each<'a, ReplicaId, WireReplica>,
    learners: Each<'a, ReplicaId, WireReplica>,
    voters_outgoing: Each<'a, ReplicaId, WireReplica>,
    learners_next: Each<'a, ReplicaId, WireReplica>,
    #[rkyv(with = InlineAsBox)]
    data: &'a [u8],
    auto_leave: bool,
}

impl<'a> From<&'a RaftMessage> for WireRaft<'a> {
    fn from(message: &'a RaftMessage) -> WireRaft<'a> {
        WireRaft {
            from: (&message.from).into(),
            to: (&message.to).into(),
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            commit_term: message.commit_term,
            reject_hint: message.reject_hint,
            request_snapshot: message.request_snapshot,
            priority: message.priority,
            entries: Each::new(&message.entries),
            context: &message.context,
            snapshot: message.snapshot.as_ref(),
            slot: message.slot.0,
            kind: message.kind,
            reject: message.reject,
        }
    }
}

impl<'a> From<&'a RaftEntry> for WireEntry<'a> {
    fn from(entry: &'a RaftEntry) -> WireEntry<'a> {
        WireEntry { term: entry.term, index: entry.index, data: &entry.data, kind: entry.kind }
    }
}

impl<'a> From<&'a SnapshotHead> for WireSnapshotHead<'a> {
    fn from(head: &'a SnapshotHead) -> WireSnapshotHead<'a> {
        WireSnapshotHead {
            index: head.index,
            term: head.term,
            voters: Each::new(&head.members.voters),
            learners: Each::new(&head.members.learners),
            voters_outgoing: Each::new(&head.members.voters_outgoing),
            learners_next: Each::new(&head.members.learners_next),
            data: &head.data,
            auto_leave: head.members.auto_leave,
        }
    }
}

impl ArchivedWireRaft<'_> {
    /// What `kind` may be and what a message of it must have is its receiver's to say: it knows raft.
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Box<RaftMessage>, BadValue> {
        // Made in its box at once, and what can fail is read before: a message is large, and most have no snapshot.
        let (slot, from, to) = (slot(self.slot.to_native())?, self.from.read()?, self.to.read()?);
        let entries = self.read_entries(buffer)?;
        let mut message = Box::new(RaftMessage {
            slot,
            kind: self.kind,
            from,
            to,
            term: self.term.to_native(),
            log_term: self.log_term.to_native(),
            index: self.index.to_native(),
            commit: self.commit.to_native(),
            commit_term: self.commit_term.to_native(),
            entries,
            reject: self.reject,
            reject_hint: self.reject_hint.to_native(),
            request_snapshot: self.request_snapshot.to_native(),
            priority: self.priority.to_native(),
            context: buffer.slice_ref(&self.context),
            snapshot: None,
        });
        if let Some(head) = self.snapshot.as_ref() {
            message.snapshot = Some(head.read(buffer)?);
        }
        Ok(message)
    }

    fn read_entries(&self, buffer: &Bytes) -> Result<Vec<RaftEntry>, BadValue> {
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut expected = self.entries.first().map(|first| first.index.to_native());
        for wire in self.entries.iter() {
            let index = wire.index.to_native();
            if wire.kind > ENTRY_KIND_MAX || expected != Some(index) {
                return Err(BadValue::Entries);
            }
            expected = index.checked_add(1);
            let data = buffer.slice_ref(&wire.data);
            entries.push(RaftEntry { term: wire.term.to_native(), index, kind: wire.kind, data });
        }
        Ok(entries)
    }
}

impl ArchivedWireSnapshotHead<'_> {
    fn read(&self, buffer: &Bytes) -> Result<SnapshotHead, BadValue> {
        let members = GroupMembers {
            voters: each(&self.voters, |wire| wire.read())?,
            learners: each(&self.learners, |wire| wire.read())?,
            voters_outgoing: each(&self.voters_outgoing, |wire| wire.read())?,
            learners_next: each(&self.learners_next, |wire| wire.read())?,
            auto_leave: self.auto_leave,
        };
        let data = buffer.slice_ref(&self.data);
        Ok(SnapshotHead { index: self.index.to_native(), term: self.term.to_native(), members, data })
    }
}

// Snapshots in parts.

#[derive(Archive, Serialize)]
pub(super) struct WireSnapshotOffer<'a> {
    message: WireRaft<'a>,
    transfer: u64,
    messages: u64,
    plan: u64,
}

impl<'a> From<&'a SnapshotOffer> for WireSnapshotOffer<'a> {
    fn from(frame: &'a SnapshotOffer) -> WireSnapshotOffer<'a> {
        let SnapshotOffer { message, transfer, messages, plan } = frame;
        WireSnapshotOffer { message: message.into(), transfer: *transfer, messages: *messages, plan: *plan }
    }
}

impl ArchivedWireSnapshotOffer<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<SnapshotOffer, BadValue> {
        Ok(SnapshotOffer {
            message: *self.message.read(buffer)?,
            transfer: self.transfer.to_native(),
            messages: self.messages.to_native(),
            plan: self.plan.to_native(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSnapshotWant<'a> {
    transfer: u64,
    from: WireReplica,
    #[rkyv(with = InlineAsBox)]
    have: &'a [u32],
    slot: u16,
    accepted: bool,
}

impl<'a> From<&'a SnapshotWant> for WireSnapshotWant<'a> {
    fn from(frame: &'a SnapshotWant) -> WireSnapshotWant<'a> {
        WireSnapshotWant {
            transfer: frame.transfer,
            from: (&frame.from).into(),
            have: &frame.have,
            slot: frame.slot.0,
            accepted: frame.accepted,
        }
    }
}

impl ArchivedWireSnapshotWant<'_> {
    pub(super) fn read(&self) -> Result<SnapshotWant, BadValue> {
        Ok(SnapshotWant {
            transfer: self.transfer.to_native(),
            slot: slot(self.slot.to_native())?,
            from: self.from.read()?,
            have: self.have.iter().map(|seq| seq.to_native()).collect(),
            accepted: self.accepted,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSnapshotPart<'a> {
    transfer: u64,
    #[rkyv(with = InlineAsBox)]
    body: &'a [u8],
    number: u32,
    slot: u16,
    last: bool,
}

impl<'a> From<&'a SnapshotPart> for WireSnapshotPart<'a> {
    fn from(frame: &'a SnapshotPart) -> WireSnapshotPart<'a> {
        WireSnapshotPart {
            transfer: frame.transfer,
            body: &frame.body,
            number: frame.number,
            slot: frame.slot.0,
            last: frame.last,
        }
    }
}

impl ArchivedWireSnapshotPart<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<SnapshotPart, BadValue> {
        Ok(SnapshotPart {
            transfer: self.transfer.to_native(),
            slot: slot(self.slot.to_native())?,
            number: self.number.to_native(),
            last: self.last,
            body: buffer.slice_ref(&self.body),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSnapshotTaken {
    transfer: u64,
    from: WireReplica,
    number: u32,
    slot: u16,
    good: bool,
}

impl From<&SnapshotTaken> for WireSnapshotTaken {
    fn from(frame: &SnapshotTaken) -> WireSnapshotTaken {
        WireSnapshotTaken {
            transfer: frame.transfer,
            from: (&frame.from).into(),
            number: frame.number,
            slot: frame.slot.0,
            good: frame.good,
        }
    }
}

impl ArchivedWireSnapshotTaken {
    pub(super) fn read(&self) -> Result<SnapshotTaken, BadValue> {
        Ok(SnapshotTaken {
            transfer: self.transfer.to_native(),
            slot: slot(self.slot.to_native())?,
            from: self.from.read()?,
            number: self.number.to_native(),
            good: self.good,
        })
    }
}

// Damaged messages.

#[derive(Archive, Serialize)]
pub(super) struct WireRepair<'a> {
    place: WirePlace,
    channel: WireChannel<'a>,
    #[rkyv(with = InlineAsBox)]
    seqs: &'a [u32],
}

impl<'a> From<&'a Repair> for WireRepair<'a> {
    fn from(frame: &'a Repair) -> WireRepair<'a> {
        WireRepair { place: (&frame.place).into(), channel: (&frame.channel).into(), seqs: &frame.seqs }
    }
}

impl ArchivedWireRepair<'_> {
    pub(super) fn read(&self) -> Result<Repair, BadValue> {
        Ok(Repair {
            place: self.place.read()?,
            channel: self.channel.read()?,
            seqs: self.seqs.iter().map(|seq| seq.to_native()).collect(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireRepaired<'a> {
    channel: WireChannel<'a>,
    messages: Each<'a, (u32, StoredMessage), WireMessage<'a>>,
}

impl<'a> From<&'a Repaired> for WireRepaired<'a> {
    fn from(frame: &'a Repaired) -> WireRepaired<'a> {
        WireRepaired { channel: (&frame.channel).into(), messages: Each::new(&frame.messages) }
    }
}

impl ArchivedWireRepaired<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Repaired, BadValue> {
        Ok(Repaired { channel: self.channel.read()?, messages: each(&self.messages, |wire| wire.read(buffer))? })
    }
}
