//! The frames by which nodes agree who belongs to the cluster and who leads what.

use bytes::Bytes;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::{ArchivedWireSocket, BadValue, Each, WirePlace, WireReplica, WireSocket, clip, each, node, slot, text};
use crate::format::frame::{
    Addresses, Alive, Join, Joined, LeaderOf, Leaders, Propose, ProposeOutcome, Proposed, Rumour, SlotReport,
    SlotReports, WhoLeads,
};
use crate::ids::ReplicaId;
use crate::limits::FRAME_TEXT_BYTES_MAX;

// Who leads.

#[derive(Archive, Serialize)]
pub(super) struct WireLeaders<'a> {
    known: Each<'a, LeaderOf, WireLeaderOf>,
    relay: bool,
    announced: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct WireLeaderOf {
    term: u64,
    slot: u16,
    place: Option<WirePlace>,
}

impl From<&LeaderOf> for WireLeaderOf {
    fn from(leader: &LeaderOf) -> WireLeaderOf {
        let place = leader.place.as_ref().map(WirePlace::from);
        WireLeaderOf { term: leader.term, slot: leader.slot.0, place }
    }
}

impl<'a> From<&'a Leaders> for WireLeaders<'a> {
    fn from(frame: &'a Leaders) -> WireLeaders<'a> {
        WireLeaders { known: Each::new(&frame.known), relay: frame.relay, announced: frame.announced }
    }
}

impl ArchivedWireLeaders<'_> {
    pub(super) fn read(&self) -> Result<Leaders, BadValue> {
        let leader = |wire: &ArchivedWireLeaderOf| {
            Ok(LeaderOf {
                slot: slot(wire.slot.to_native())?,
                term: wire.term.to_native(),
                place: wire.place.as_ref().map(|place| place.read()).transpose()?,
            })
        };
        Ok(Leaders { known: each(&self.known, leader)?, relay: self.relay, announced: self.announced })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireWhoLeads {
    place: WirePlace,
    slot: u16,
}

impl From<&WhoLeads> for WireWhoLeads {
    fn from(frame: &WhoLeads) -> WireWhoLeads {
        WireWhoLeads { place: (&frame.place).into(), slot: frame.slot.0 }
    }
}

impl ArchivedWireWhoLeads {
    pub(super) fn read(&self) -> Result<WhoLeads, BadValue> {
        Ok(WhoLeads { slot: slot(self.slot.to_native())?, place: self.place.read()? })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireRumour {
    node: u16,
    up: bool,
}

impl From<&Rumour> for WireRumour {
    fn from(frame: &Rumour) -> WireRumour {
        WireRumour { node: frame.node.0, up: frame.up }
    }
}

impl ArchivedWireRumour {
    pub(super) fn read(&self) -> Result<Rumour, BadValue> {
        Ok(Rumour { node: node(self.node.to_native())?, up: self.up })
    }
}

// Who belongs to it.

#[derive(Archive, Serialize)]
pub(super) struct WireAddresses<'a> {
    cluster: WireSocket,
    #[rkyv(with = InlineAsBox)]
    tcp: &'a str,
    #[rkyv(with = InlineAsBox)]
    ws: &'a str,
    #[rkyv(with = InlineAsBox)]
    wss: &'a str,
    #[rkyv(with = InlineAsBox)]
    http: &'a str,
}

impl<'a> From<&'a Addresses> for WireAddresses<'a> {
    fn from(addresses: &'a Addresses) -> WireAddresses<'a> {
        let Addresses { cluster, tcp, ws, wss, http } = addresses;
        WireAddresses { cluster: cluster.into(), tcp, ws, wss, http }
    }
}

impl ArchivedWireAddresses<'_> {
    fn read(&self) -> Result<Addresses, BadValue> {
        Ok(Addresses {
            cluster: self.cluster.read()?,
            tcp: text(&self.tcp, FRAME_TEXT_BYTES_MAX)?,
            ws: text(&self.ws, FRAME_TEXT_BYTES_MAX)?,
            wss: text(&self.wss, FRAME_TEXT_BYTES_MAX)?,
            http: text(&self.http, FRAME_TEXT_BYTES_MAX)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireJoin<'a> {
    identity: u64,
    boot: u64,
    addresses: WireAddresses<'a>,
    #[rkyv(with = InlineAsBox)]
    version: &'a str,
    node: u16,
    shards: u16,
    belongs: bool,
}

impl<'a> From<&'a Join> for WireJoin<'a> {
    fn from(frame: &'a Join) -> WireJoin<'a> {
        WireJoin {
            identity: frame.identity,
            boot: frame.boot,
            addresses: (&frame.addresses).into(),
            version: clip(&frame.version, FRAME_TEXT_BYTES_MAX),
            node: frame.node,
            shards: frame.shards,
            belongs: frame.belongs,
        }
    }
}

impl ArchivedWireJoin<'_> {
    pub(super) fn read(&self) -> Result<Join, BadValue> {
        let shards = self.shards.to_native();
        if shards == 0 {
            return Err(BadValue::Shards);
        }
        Ok(Join {
            node: node(self.node.to_native())?.0,
            identity: self.identity.to_native(),
            boot: self.boot.to_native(),
            shards,
            belongs: self.belongs,
            addresses: self.addresses.read()?,
            version: text(&self.version, FRAME_TEXT_BYTES_MAX)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) enum WireJoined<'a> {
    Accepted {
        cluster: u64,
        identity: u64,
        replica: WireReplica,
    },
    Elsewhere {
        leader: Option<WireSocket>,
    },
    Refused {
        #[rkyv(with = InlineAsBox)]
        why: &'a str,
    },
}

impl<'a> From<&'a Joined> for WireJoined<'a> {
    fn from(frame: &'a Joined) -> WireJoined<'a> {
        match frame {
            Joined::Accepted { cluster, identity, replica } => {
                WireJoined::Accepted { cluster: *cluster, identity: *identity, replica: replica.into() }
            }
            Joined::Elsewhere { leader } => WireJoined::Elsewhere { leader: leader.as_ref().map(WireSocket::from) },
            Joined::Refused { why } => WireJoined::Refused { why: clip(why, FRAME_TEXT_BYTES_MAX) },
        }
    }
}

impl ArchivedWireJoined<'_> {
    pub(super) fn read(&self) -> Result<Joined, BadValue> {
        Ok(match self {
            ArchivedWireJoined::Accepted { cluster, identity, replica } => {
                let (cluster, identity) = (cluster.to_native(), identity.to_native());
                Joined::Accepted { cluster, identity, replica: replica.read()? }
            }
            ArchivedWireJoined::Elsewhere { leader } => {
                Joined::Elsewhere { leader: leader.as_ref().map(ArchivedWireSocket::read).transpose()? }
            }
            ArchivedWireJoined::Refused { why } => Joined::Refused { why: text(why, FRAME_TEXT_BYTES_MAX)? },
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireAlive {
    boot: u64,
    table_version: u64,
    slots_led: u32,
    sessions: u32,
    node: u16,
    stopping: bool,
}

impl From<&Alive> for WireAlive {
    fn from(frame: &Alive) -> WireAlive {
        let Alive { node, boot, table_version, slots_led, sessions, stopping } = *frame;
        WireAlive { boot, table_version, slots_led, sessions, node, stopping }
    }
}

impl ArchivedWireAlive {
    pub(super) fn read(&self) -> Result<Alive, BadValue> {
        Ok(Alive {
            node: node(self.node.to_native())?.0,
            boot: self.boot.to_native(),
            table_version: self.table_version.to_native(),
            slots_led: self.slots_led.to_native(),
            sessions: self.sessions.to_native(),
            stopping: self.stopping,
        })
    }
}

// What it agrees on.

#[derive(Archive, Serialize)]
pub(super) struct WirePropose<'a> {
    ticket: u64,
    place: WirePlace,
    #[rkyv(with = InlineAsBox)]
    command: &'a [u8],
}

impl<'a> From<&'a Propose> for WirePropose<'a> {
    fn from(frame: &'a Propose) -> WirePropose<'a> {
        WirePropose { ticket: frame.ticket, place: (&frame.place).into(), command: &frame.command }
    }
}

impl ArchivedWirePropose<'_> {
    pub(super) fn read(&self, buffer: &Bytes) -> Result<Propose, BadValue> {
        Ok(Propose {
            place: self.place.read()?,
            ticket: self.ticket.to_native(),
            command: buffer.slice_ref(&self.command),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct WireProposed<'a> {
    ticket: u64,
    outcome: WireOutcome<'a>,
}

#[derive(Archive, Serialize)]
pub(super) enum WireOutcome<'a> {
    Applied(u64),
    NotLeader,
    Refused(#[rkyv(with = InlineAsBox)] &'a str),
}

impl<'a> From<&'a Proposed> for WireProposed<'a> {
    fn from(frame: &'a Proposed) -> WireProposed<'a> {
        let outcome = match &frame.outcome {
            ProposeOutcome::Applied(version) => WireOutcome::Applied(*version),
            ProposeOutcome::NotLeader => WireOutcome::NotLeader,
            ProposeOutcome::Refused(why) => WireOutcome::Refused(clip(why, FRAME_TEXT_BYTES_MAX)),
        };
        WireProposed { ticket: frame.ticket, outcome }
    }
}

impl ArchivedWireProposed<'_> {
    pub(super) fn read(&self) -> Result<Proposed, BadValue> {
        let outcome = match &self.outcome {
            ArchivedWireOutcome::Applied(version) => ProposeOutcome::Applied(version.to_native()),
            ArchivedWireOutcome::NotLeader => ProposeOutcome::NotLeader,
            ArchivedWireOutcome::Refused(why) => ProposeOutcome::Refused(text(why, FRAME_TEXT_BYTES_MAX)?),
        };
        Ok(Proposed { ticket: self.ticket.to_native(), outcome })
    }
}

// How the slots' groups stand.

#[derive(Archive, Serialize)]
pub(super) struct WireSlotReports<'a> {
    place: WirePlace,
    reports: Each<'a, SlotReport, WireSlotReport<'a>>,
}

#[derive(Archive, Serialize)]
pub(super) struct WireSlotReport<'a> {
    epoch: u64,
    term: u64,
    committed: u64,
    bytes: u64,
    voters: Each<'a, ReplicaId, WireReplica>,
    learners: Each<'a, ReplicaId, WireReplica>,
    matched: Each<'a, (ReplicaId, u64), WireMatched>,
    slot: u16,
    joint: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct WireMatched {
    replica: WireReplica,
    index: u64,
}

impl From<&(ReplicaId, u64)> for WireMatched {
    fn from((replica, index): &(ReplicaId, u64)) -> WireMatched {
        WireMatched { replica: replica.into(), index: *index }
    }
}

impl<'a> From<&'a SlotReport> for WireSlotReport<'a> {
    fn from(report: &'a SlotReport) -> WireSlotReport<'a> {
        WireSlotReport {
            epoch: report.epoch,
            term: report.term,
            committed: report.committed,
            bytes: report.bytes,
            voters: Each::new(&report.voters),
            learners: Each::new(&report.learners),
            matched: Each::new(&report.matched),
            slot: report.slot.0,
            joint: report.joint,
        }
    }
}

impl<'a> From<&'a SlotReports> for WireSlotReports<'a> {
    fn from(frame: &'a SlotReports) -> WireSlotReports<'a> {
        WireSlotReports { place: (&frame.place).into(), reports: Each::new(&frame.reports) }
    }
}

impl ArchivedWireSlotReports<'_> {
    pub(super) fn read(&self) -> Result<SlotReports, BadValue> {
        Ok(SlotReports { place: self.place.read()?, reports: each(&self.reports, ArchivedWireSlotReport::read)? })
    }
}

impl ArchivedWireSlotReport<'_> {
    fn read(&self) -> Result<SlotReport, BadValue> {
        let matched = |wire: &ArchivedWireMatched| Ok((wire.replica.read()?, wire.index.to_native()));
        Ok(SlotReport {
            slot: slot(self.slot.to_native())?,
            epoch: self.epoch.to_native(),
            term: self.term.to_native(),
            voters: each(&self.voters, |wire| wire.read())?,
            learners: each(&self.learners, |wire| wire.read())?,
            joint: self.joint,
            committed: self.committed.to_native(),
            matched: each(&self.matched, matched)?,
            bytes: self.bytes.to_native(),
        })
    }
}
