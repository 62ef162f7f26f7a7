//! What operators ask of a cluster, and what they are told of it. Values only: what a request changes is the metadata group's affair, what
//! may be asked is checked by whoever leads it.
//!
//! Each request says what is to be true afterwards, so that asking twice does no harm.

use std::net::SocketAddr;

use crate::ids::{NodeId, Place, ReplicaId, SlotId};

/// Rows of slots in one [`ClusterStatus`] at most; a larger wish is taken as this.
pub const STATUS_SLOTS_MAX: u16 = 1024;

/// Moves, and slots that are lost, shown in one [`ClusterStatus`] at most; the others are only counted.
pub const STATUS_MOVES_MAX: usize = 64;

/// What an operator wants. All but [`ClusterRequest::Status`] are agreed on by the metadata group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterRequest {
    /// How everything stands.
    Status {
        /// Rows of slots from this number on.
        from: SlotId,
        /// At most so many; none is a good number.
        max: u16,
        /// True: what the asked shard itself knows, whoever leads. For when nobody does.
        here: bool,
    },
    /// This node shall hold nothing.
    Drain {
        /// Whom.
        node: NodeId,
    },
    /// This node shall hold its share.
    Serve {
        /// Whom.
        node: NodeId,
    },
    /// This node, which holds nothing, shall be forgotten.
    Remove {
        /// Whom.
        node: NodeId,
    },
    /// This node shall hold nothing, another one, which is a serving member and alive, takes its share.
    Replace {
        /// Who goes.
        node: NodeId,
        /// Who stays.
        by: NodeId,
    },
    /// Everything is planned anew, leaders too.
    Rebalance,
    /// So many replicas a slot.
    SetReplicas {
        /// When there are as many nodes.
        replicas: u8,
    },
    /// Slots shall be named by at least so many bits, one more at a time.
    Split {
        /// Which; none named: all.
        slots: Vec<SlotId>,
        /// Those that have fewer bits are split.
        depth: u8,
    },
    /// Slots shall be named by at most so many bits, one less at a time: each is merged with its sibling.
    Merge {
        /// Which; none named: all.
        slots: Vec<SlotId>,
        /// Those that have more bits are merged.
        depth: u8,
    },
    /// A node that has a replica of a slot shall lead it, as long as the leaders of all slots are evenly spread.
    Transfer {
        /// Which.
        slot: SlotId,
        /// Who.
        node: NodeId,
    },
}

/// How a cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Drawn when it was founded.
    pub id: u64,
    /// The operator's name for it.
    pub name: Box<str>,
    /// Of the agreed state.
    pub version: u64,
    /// Who says this.
    pub told_by: Place,
    /// Whether that one leads the metadata group. If not, what the table says is here, and of who is alive what that one's gossip has.
    pub complete: bool,
    /// Replicas a slot is to have.
    pub replicas_wanted: u8,
    /// Who leads the metadata group, as far as known, and in which term.
    pub metadata_leader: Option<Place>,
    /// That term.
    pub metadata_term: u64,
    /// Who votes in it.
    pub metadata_voters: Vec<NodeId>,
    /// By number.
    pub members: Vec<MemberStatus>,
    /// How many slots there are.
    pub slots_total: u32,
    /// Of those, how many nobody is known to lead.
    pub slots_leaderless: u32,
    /// Of those, how many are led by another than is preferred.
    pub slots_misled: u32,
    /// Of those, how many have fewer replicas than are wanted.
    pub slots_thin: u32,
    /// Splits and merges under way.
    pub reshapes: u32,
    /// Moves under way.
    pub moves_total: u32,
    /// Of those, the first ones.
    pub moves: Vec<MoveStatus>,
    /// Moves planned and not begun.
    pub moves_waiting: u32,
    /// Until nothing moves any more, by the moves before; `None` while none was measured.
    pub remaining_ms: Option<u64>,
    /// What does not go on by itself at once, and why.
    pub waits: Vec<WaitStatus>,
    /// Reasons that found no room there.
    pub waits_omitted: u32,
    /// Slots of which no disk has a replica any more, the first ones.
    pub lost: Vec<SlotId>,
    /// The rows that were asked for.
    pub slots: Vec<SlotStatus>,
    /// Where the next page begins; `None` after the last row.
    pub next: Option<SlotId>,
}

impl ClusterStatus {
    /// Nothing moves, waits or is lost, and every slot is led by whom it should be.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.complete
            && self.moves_total == 0
            && self.moves_waiting == 0
            && self.reshapes == 0
            && self.waits.is_empty()
            && self.lost.is_empty()
            && self.slots_leaderless == 0
            && self.slots_misled == 0
    }
}

/// Whether a member may hold slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStanding {
    /// It holds its share.
    Serving,
    /// An operator wants it empty.
    Draining,
    /// Judged dead: its replicas are rebuilt elsewhere.
    Dead,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub node: NodeId,
    /// As agreed.
    pub standing: MemberStanding,
    /// It can be counted on; `None` where that is not known.
    pub alive: Option<bool>,
    /// Since it was heard.
    pub silent_ms: u64,
    /// How many shards it has.
    pub shards: u16,
    /// Where other nodes reach it.
    pub cluster: SocketAddr,
    /// Where backends and operators do.
    pub http: Box<str>,
    /// Where clients do, over TCP.
    pub tcp: Box<str>,
    /// Slots of which it has a replica, or shall have one.
    pub slots: u32,
    /// Slots that it should lead.
    pub preferred: u32,
    /// Slots that it is known to lead.
    pub leads: u32,
    /// The table's version that it had when it was heard last; 0 where that is not known.
    pub table_version: u64,
    /// Clients connected to it, as it said last; `None` where that is not known.
    pub sessions: Option<u32>,
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveStatus {
    /// Which slot.
    pub slot: SlotId,
    /// Where it is.
    pub from: Vec<Place>,
    /// Where it shall be.
    pub to: Vec<Place>,
    /// How far the slowest newcomer has read the log.
    pub percent: Option<u8>,
    /// Since the leader saw it begin.
    pub under_way_ms: u64,
    /// As long as others took, less what has passed.
    pub remaining_ms: Option<u64>,
    /// What it does or waits for now.
    pub stage: Box<str>,
}

/// Something that does not go on by itself at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitStatus {
    /// Which slot, when it is about one.
    pub slot: Option<SlotId>,
    /// Which member, when it is about one.
    pub node: Option<NodeId>,
    /// For people.
    pub why: Box<str>,
}

/// A row of the slot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// Which.
    pub slot: SlotId,
    /// Bits that name it.
    pub depth: u8,
    /// Of the row.
    pub epoch: u64,
    /// Who votes.
    pub replicas: Vec<ReplicaId>,
    /// Who shall, during a move; else empty.
    pub target: Vec<ReplicaId>,
    /// Who should lead.
    pub preferred: ReplicaId,
    /// Who is known to.
    pub leader: Option<Place>,
    /// What is under way, for people; empty at rest.
    pub stage: Box<str>,
}

/// Users whose home is led by one node, and where clients reach that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRoute {
    /// The node; `None` where the cluster is not known yet.
    pub node: Option<NodeId>,
    /// Over TCP.
    pub tcp: Box<str>,
    /// Over WebSocket.
    pub ws: Box<str>,
    /// Over TLS; may be empty.
    pub wss: Box<str>,
    /// The users, as places in the list that was asked.
    pub users: Vec<u32>,
}
