//! What operators ask and what they are told, inside the frames of [`super::api`].

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::{Apart, BadValue, Each, WirePlace, WireReplica, WireSocket, clip, each, node, slot, text};
use crate::format::cluster_status::{
    ClusterRequest, ClusterStatus, MemberStanding, MemberStatus, MoveStatus, SlotStatus, UserRoute, WaitStatus,
};
use crate::ids::{NodeId, Place, ReplicaId, SlotId};
use crate::limits::FRAME_TEXT_BYTES_MAX;

// Requests.

#[derive(Archive, Serialize)]
pub(super) enum WireClusterRequest<'a> {
    Status { from: u16, max: u16, here: bool },
    Drain(u16),
    Serve(u16),
    Remove(u16),
    Replace { node: u16, by: u16 },
    Rebalance,
    SetReplicas(u8),
    Split { slots: Each<'a, SlotId, WireSlotId>, depth: u8 },
    Merge { slots: Each<'a, SlotId, WireSlotId>, depth: u8 },
    Transfer { slot: u16, node: u16 },
}

#[derive(Archive, Serialize)]
pub(super) struct WireSlotId(u16);

impl From<&SlotId> for WireSlotId {
    fn from(slot: &SlotId) -> WireSlotId {
        WireSlotId(slot.0)
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireNodeId(u16);

impl From<&NodeId> for WireNodeId {
    fn from(node: &NodeId) -> WireNodeId {
        WireNodeId(node.0)
    }
}

impl<'a> From<&'a ClusterRequest> for WireClusterRequest<'a> {
    fn from(request: &'a ClusterRequest) -> WireClusterRequest<'a> {
        match request {
            ClusterRequest::Status { from, max, here } => {
                WireClusterRequest::Status { from: from.0, max: *max, here: *here }
            }
            ClusterRequest::Drain { node } => WireClusterRequest::Drain(node.0),
            ClusterRequest::Serve { node } => WireClusterRequest::Serve(node.0),
            ClusterRequest::Remove { node } => WireClusterRequest::Remove(node.0),
            ClusterRequest::Replace { node, by } => WireClusterRequest::Replace { node: node.0, by: by.0 },
            ClusterRequest::Rebalance => WireClusterRequest::Rebalance,
            ClusterRequest::SetReplicas { replicas } => WireClusterRequest::SetReplicas(*replicas),
            ClusterRequest::Split { slots, depth } => {
                WireClusterRequest::Split { slots: Each::new(slots), depth: *depth }
            }
            ClusterRequest::Merge { slots, depth } => {
                WireClusterRequest::Merge { slots: Each::new(slots), depth: *depth }
            }
            ClusterRequest::Transfer { slot, node } => WireClusterRequest::Transfer { slot: slot.0, node: node.0 },
        }
    }
}

fn slots(list: &[ArchivedWireSlotId]) -> Result<Vec<SlotId>, BadValue> {
    each(list, |wire| slot(wire.0.to_native()))
}

impl ArchivedWireClusterRequest<'_> {
    pub(super) fn read(&self) -> Result<ClusterRequest, BadValue> {
        Ok(match self {
            ArchivedWireClusterRequest::Status { from, max, here } => {
                ClusterRequest::Status { from: slot(from.to_native())?, max: max.to_native(), here: *here }
            }
            ArchivedWireClusterRequest::Drain(whom) => ClusterRequest::Drain { node: node(whom.to_native())? },
            ArchivedWireClusterRequest::Serve(whom) => ClusterRequest::Serve { node: node(whom.to_native())? },
            ArchivedWireClusterRequest::Remove(whom) => ClusterRequest::Remove { node: node(whom.to_native())? },
            ArchivedWireClusterRequest::Replace { node: whom, by } => {
                ClusterRequest::Replace { node: node(whom.to_native())?, by: node(by.to_native())? }
            }
            ArchivedWireClusterRequest::Rebalance => ClusterRequest::Rebalance,
            ArchivedWireClusterRequest::SetReplicas(replicas) => ClusterRequest::SetReplicas { replicas: *replicas },
            ArchivedWireClusterRequest::Split { slots: which, depth } => {
                ClusterRequest::Split { slots: slots(which)?, depth: *depth }
            }
            ArchivedWireClusterRequest::Merge { slots: which, depth } => {
                ClusterRequest::Merge { slots: slots(which)?, depth: *depth }
            }
            ArchivedWireClusterRequest::Transfer { slot: which, node: whom } => {
                ClusterRequest::Transfer { slot: slot(which.to_native())?, node: node(whom.to_native())? }
            }
        })
    }
}

// Answers.

#[derive(Archive, Serialize)]
pub(super) struct WireUserRoute<'a> {
    #[rkyv(with = InlineAsBox)]
    tcp: &'a str,
    #[rkyv(with = InlineAsBox)]
    ws: &'a str,
    #[rkyv(with = InlineAsBox)]
    wss: &'a str,
    #[rkyv(with = InlineAsBox)]
    users: &'a [u32],
    node: Option<u16>,
}

impl<'a> From<&'a UserRoute> for WireUserRoute<'a> {
    fn from(route: &'a UserRoute) -> WireUserRoute<'a> {
        let UserRoute { node, tcp, ws, wss, users } = route;
        WireUserRoute { tcp, ws, wss, users, node: node.map(|node| node.0) }
    }
}

impl ArchivedWireUserRoute<'_> {
    pub(super) fn read(&self) -> Result<UserRoute, BadValue> {
        Ok(UserRoute {
            node: self.node.as_ref().map(|number| node(number.to_native())).transpose()?,
            tcp: text(&self.tcp, FRAME_TEXT_BYTES_MAX)?,
            ws: text(&self.ws, FRAME_TEXT_BYTES_MAX)?,
            wss: text(&self.wss, FRAME_TEXT_BYTES_MAX)?,
            users: self.users.iter().map(|user| user.to_native()).collect(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireStatus<'a> {
    id: u64,
    version: u64,
    metadata_term: u64,
    remaining_ms: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    name: &'a str,
    metadata_voters: Each<'a, NodeId, WireNodeId>,
    members: Each<'a, MemberStatus, WireMember<'a>>,
    moves: Each<'a, MoveStatus, WireMove<'a>>,
    waits: Each<'a, WaitStatus, WireWait<'a>>,
    lost: Each<'a, SlotId, WireSlotId>,
    slots: Each<'a, SlotStatus, WireSlotStatus<'a>>,
    slots_total: u32,
    slots_leaderless: u32,
    slots_misled: u32,
    slots_thin: u32,
    reshapes: u32,
    moves_total: u32,
    moves_waiting: u32,
    waits_omitted: u32,
    told_by: WirePlace,
    metadata_leader: Option<WirePlace>,
    next: Option<u16>,
    replicas_wanted: u8,
    complete: bool,
}

impl<'a> From<&'a ClusterStatus> for WireStatus<'a> {
    fn from(status: &'a ClusterStatus) -> WireStatus<'a> {
        WireStatus {
            id: status.id,
            version: status.version,
            metadata_term: status.metadata_term,
            remaining_ms: status.remaining_ms,
            name: &status.name,
            metadata_voters: Each::new(&status.metadata_voters),
            members: Each::new(&status.members),
            moves: Each::new(&status.moves),
            waits: Each::new(&status.waits),
            lost: Each::new(&status.lost),
            slots: Each::new(&status.slots),
            slots_total: status.slots_total,
            slots_leaderless: status.slots_leaderless,
            slots_misled: status.slots_misled,
            slots_thin: status.slots_thin,
            reshapes: status.reshapes,
            moves_total: status.moves_total,
            moves_waiting: status.moves_waiting,
            waits_omitted: status.waits_omitted,
            told_by: (&status.told_by).into(),
            metadata_leader: status.metadata_leader.as_ref().map(WirePlace::from),
            next: status.next.map(|slot| slot.0),
            replicas_wanted: status.replicas_wanted,
            complete: status.complete,
        }
    }
}

impl ArchivedWireStatus<'_> {
    pub(super) fn read(&self) -> Result<ClusterStatus, BadValue> {
        Ok(ClusterStatus {
            id: self.id.to_native(),
            name: text(&self.name, FRAME_TEXT_BYTES_MAX)?,
            version: self.version.to_native(),
            told_by: self.told_by.read()?,
            complete: self.complete,
            replicas_wanted: self.replicas_wanted,
            metadata_leader: self.metadata_leader.as_ref().map(|place| place.read()).transpose()?,
            metadata_term: self.metadata_term.to_native(),
            metadata_voters: each(&self.metadata_voters, |wire| node(wire.0.to_native()))?,
            members: each(&self.members, ArchivedWireMember::read)?,
            slots_total: self.slots_total.to_native(),
            slots_leaderless: self.slots_leaderless.to_native(),
            slots_misled: self.slots_misled.to_native(),
            slots_thin: self.slots_thin.to_native(),
            reshapes: self.reshapes.to_native(),
            moves_total: self.moves_total.to_native(),
            moves: each(&self.moves, ArchivedWireMove::read)?,
            moves_waiting: self.moves_waiting.to_native(),
            remaining_ms: self.remaining_ms.as_ref().map(|span| span.to_native()),
            waits: each(&self.waits, ArchivedWireWait::read)?,
            waits_omitted: self.waits_omitted.to_native(),
            lost: slots(&self.lost)?,
            slots: each(&self.slots, ArchivedWireSlotStatus::read)?,
            next: self.next.as_ref().map(|number| slot(number.to_native())).transpose()?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireMember<'a> {
    silent_ms: u64,
    table_version: u64,
    cluster: WireSocket,
    #[rkyv(with = InlineAsBox)]
    http: &'a str,
    #[rkyv(with = InlineAsBox)]
    tcp: &'a str,
    slots: u32,
    preferred: u32,
    leads: u32,
    node: u16,
    shards: u16,
    standing: u8,
    alive: Option<bool>,
    sessions: Option<u32>,
}

impl<'a> From<&'a MemberStatus> for WireMember<'a> {
    fn from(member: &'a MemberStatus) -> WireMember<'a> {
        WireMember {
            silent_ms: member.silent_ms,
            table_version: member.table_version,
            cluster: (&member.cluster).into(),
            http: &member.http,
            tcp: &member.tcp,
            slots: member.slots,
            preferred: member.preferred,
            leads: member.leads,
            node: member.node.0,
            shards: member.shards,
            standing: match member.standing {
                MemberStanding::Serving => 0,
                MemberStanding::Draining => 1,
                MemberStanding::Dead => 2,
            },
            alive: member.alive,
            sessions: member.sessions,
        }
    }
}

impl ArchivedWireMember<'_> {
    fn read(&self) -> Result<MemberStatus, BadValue> {
        Ok(MemberStatus {
            node: node(self.node.to_native())?,
            standing: match self.standing {
                0 => MemberStanding::Serving,
                1 => MemberStanding::Draining,
                2 => MemberStanding::Dead,
                _ => return Err(BadValue::Standing),
            },
            alive: self.alive.as_ref().copied(),
            silent_ms: self.silent_ms.to_native(),
            shards: self.shards.to_native(),
            cluster: self.cluster.read()?,
            http: text(&self.http, FRAME_TEXT_BYTES_MAX)?,
            tcp: text(&self.tcp, FRAME_TEXT_BYTES_MAX)?,
            slots: self.slots.to_native(),
            preferred: self.preferred.to_native(),
            leads: self.leads.to_native(),
            table_version: self.table_version.to_native(),
            sessions: self.sessions.as_ref().map(|count| count.to_native()),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireMove<'a> {
    under_way_ms: u64,
    remaining_ms: Option<u64>,
    from: Each<'a, Place, WirePlace>,
    to: Each<'a, Place, WirePlace>,
    #[rkyv(with = InlineAsBox)]
    stage: &'a str,
    slot: u16,
    percent: Option<u8>,
}

impl<'a> From<&'a MoveStatus> for WireMove<'a> {
    fn from(one: &'a MoveStatus) -> WireMove<'a> {
        WireMove {
            under_way_ms: one.under_way_ms,
            remaining_ms: one.remaining_ms,
            from: Each::new(&one.from),
            to: Each::new(&one.to),
            stage: clip(&one.stage, FRAME_TEXT_BYTES_MAX),
            slot: one.slot.0,
            percent: one.percent,
        }
    }
}

impl ArchivedWireMove<'_> {
    fn read(&self) -> Result<MoveStatus, BadValue> {
        Ok(MoveStatus {
            slot: slot(self.slot.to_native())?,
            from: each(&self.from, |place| place.read())?,
            to: each(&self.to, |place| place.read())?,
            percent: self.percent.as_ref().copied(),
            under_way_ms: self.under_way_ms.to_native(),
            remaining_ms: self.remaining_ms.as_ref().map(|span| span.to_native()),
            stage: text(&self.stage, FRAME_TEXT_BYTES_MAX)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireWait<'a> {
    #[rkyv(with = InlineAsBox)]
    why: &'a str,
    slot: Option<u16>,
    node: Option<u16>,
}

impl<'a> From<&'a WaitStatus> for WireWait<'a> {
    fn from(wait: &'a WaitStatus) -> WireWait<'a> {
        WireWait {
            why: clip(&wait.why, FRAME_TEXT_BYTES_MAX),
            slot: wait.slot.map(|slot| slot.0),
            node: wait.node.map(|node| node.0),
        }
    }
}

impl ArchivedWireWait<'_> {
    fn read(&self) -> Result<WaitStatus, BadValue> {
        Ok(WaitStatus {
            slot: self.slot.as_ref().map(|number| slot(number.to_native())).transpose()?,
            node: self.node.as_ref().map(|number| node(number.to_native())).transpose()?,
            why: text(&self.why, FRAME_TEXT_BYTES_MAX)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireSlotStatus<'a> {
    epoch: u64,
    preferred: WireReplica,
    replicas: Each<'a, ReplicaId, WireReplica>,
    target: Each<'a, ReplicaId, WireReplica>,
    #[rkyv(with = InlineAsBox)]
    stage: &'a str,
    leader: Option<WirePlace>,
    slot: u16,
    depth: u8,
}

impl<'a> From<&'a SlotStatus> for WireSlotStatus<'a> {
    fn from(row: &'a SlotStatus) -> WireSlotStatus<'a> {
        WireSlotStatus {
            epoch: row.epoch,
            preferred: (&row.preferred).into(),
            replicas: Each::new(&row.replicas),
            target: Each::new(&row.target),
            stage: clip(&row.stage, FRAME_TEXT_BYTES_MAX),
            leader: row.leader.as_ref().map(WirePlace::from),
            slot: row.slot.0,
            depth: row.depth,
        }
    }
}

impl ArchivedWireSlotStatus<'_> {
    fn read(&self) -> Result<SlotStatus, BadValue> {
        Ok(SlotStatus {
            slot: slot(self.slot.to_native())?,
            depth: self.depth,
            epoch: self.epoch.to_native(),
            replicas: each(&self.replicas, |replica| replica.read())?,
            target: each(&self.target, |replica| replica.read())?,
            preferred: self.preferred.read()?,
            leader: self.leader.as_ref().map(|place| place.read()).transpose()?,
            stage: text(&self.stage, FRAME_TEXT_BYTES_MAX)?,
        })
    }
}

/// Lies apart: an answer of another kind does not take its room.
pub(super) type StatusApart<'a> = Apart<WireStatus<'a>>;
