//! What the metadata group agrees on: members, the slot table with its epochs, planned moves. Every node holds a copy. Decides
//! nothing: [`super::steward`] does; this says what a command changes and refuses one that no longer makes sense.

use std::collections::BTreeMap;

use crate::format::frame::Addresses;
use crate::ids::{NodeId, ReplicaId, SlotId};

/// The agreed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Drawn when the cluster was founded; never changes.
    pub id: u64,
    /// The operator's name for it.
    pub name: Box<str>,
    /// Rises with every change.
    pub version: u64,
    /// Replicas a slot is to have when there are as many nodes.
    pub replicas_wanted: u8,
    /// Everybody, those that are gone for good left out.
    pub members: BTreeMap<NodeId, Member>,
    /// Every slot.
    pub rows: BTreeMap<SlotId, SlotRow>,
    /// The next replica's number.
    pub next_replica: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Names its data directory: another one under the same number is another node.
    pub identity: u64,
    /// Replicas numbered below this were those of a data directory that is lost.
    pub since: u32,
    /// How many shards it has.
    pub shards: u16,
    /// Where it is.
    pub addresses: Addresses,
    /// Its replica of the metadata group.
    pub metadata_replica: ReplicaId,
    /// Whether it may hold slots.
    pub state: MemberState,
}

/// Whether a node may hold slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Holds its share.
    Serving,
    /// An operator wants it empty.
    Draining,
    /// Judged dead: its replicas are rebuilt elsewhere.
    Dead,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Bits of the hash that name it.
    pub depth: u8,
    /// Rises with every change of `replicas`.
    pub epoch: u64,
    /// Who votes, as last agreed.
    pub replicas: Vec<ReplicaId>,
    /// Who should lead when it can.
    pub preferred: ReplicaId,
    /// Who shall vote instead, while a move is under way.
    pub target: Option<Vec<ReplicaId>>,
    /// `replicas` began together, with each other as voters and nothing in their logs. False: each later one begins empty and is sent a
    /// snapshot.
    pub founded: bool,
}
