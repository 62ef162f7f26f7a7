//! Canaries: each breaks one promise on purpose, in the simulator's own parts or, where nothing outside could, by a breach that the engine
//! is told to commit; and the checker of that promise, with all others muted, must say so. A check that cannot fail is no check.

use std::time::Duration;

use jindou::engine::shard::{Durability, OfflineMode};
use jindou::limits::{Breach, Limits};

use crate::checkers::Promise;
use crate::faults::{ClusterPlan, FaultPlan, Plan, quiet_cluster};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A SEND never reaches the shard; the gateway forges a SENDACK.
    ForgeAck,
    /// A RECV is written a second time under another id.
    SecondId,
    /// A RECV waits until the next one has been written.
    SwapRecvs,
    /// The answer to a repeated SEND names another position.
    OtherAnswer,
    /// A RECV carries the id of the one before.
    ReuseId,
    /// The disk says that journal writes are done and never does them.
    ForgetWrites,
    /// The shard is told of RECVACKs that no device has sent.
    ForgeRecvack,
    /// A SENDACK is swallowed, and the device believes that it came.
    SwallowSendack,
    /// The shard is not told that a connection has ended.
    SwallowClosed,
    /// DISCONNECT is swallowed.
    SwallowKick,
    /// A byte of a payload is changed between the shard and the device.
    ChangePayload,
    /// The node stays down when everything should heal.
    StayDown,
    /// A shard's seed comes from outside of the simulation.
    OutsideChance,
    /// The disk loses a finished segment at a crash.
    LoseSegment,
    /// A shard's leadership is taken for that of another.
    SecondLeader,
    /// A replica is taken to hold something else.
    OtherReplica,
    /// A node is told of a cluster that was not agreed on.
    ForkTable,
    /// A node is cut off when everything should heal.
    StayCut,
    /// What goes straight from a leader to a session is lost, and homes do not look again.
    LoseStraight,
    /// The upper one of two merged slots is told to end before everybody has what it held.
    EndUpperEarly,
    /// A merged slot's terms are not lifted over those of what it took in.
    KeepTerms,
    /// A home leaves the sending to a leader that knows other sessions than there are, and does not look again.
    AnyMark,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Sabotage; 22] = [
        Sabotage::ForgeAck,
        Sabotage::SecondId,
        Sabotage::SwapRecvs,
        Sabotage::OtherAnswer,
        Sabotage::ReuseId,
        Sabotage::ForgetWrites,
        Sabotage::ForgeRecvack,
        Sabotage::SwallowSendack,
        Sabotage::SwallowClosed,
        Sabotage::SwallowKick,
        Sabotage::ChangePayload,
        Sabotage::StayDown,
        Sabotage::OutsideChance,
        Sabotage::LoseSegment,
        Sabotage::SecondLeader,
        Sabotage::OtherReplica,
        Sabotage::ForkTable,
        Sabotage::StayCut,
        Sabotage::LoseStraight,
        Sabotage::EndUpperEarly,
        Sabotage::KeepTerms,
        Sabotage::AnyMark,
    ];

    /// As the command line says it.
    pub fn name(self) -> &'static str {
        match self {
            Sabotage::ForgeAck => "forge-ack",
            Sabotage::SecondId => "second-id",
            Sabotage::SwapRecvs => "swap-recvs",
            Sabotage::OtherAnswer => "other-answer",
            Sabotage::ReuseId => "reuse-id",
            Sabotage::ForgetWrites => "forget-writes",
            Sabotage::ForgeRecvack => "forge-recvack",
            Sabotage::SwallowSendack => "swallow-sendack",
            Sabotage::SwallowClosed => "swallow-closed",
            Sabotage::SwallowKick => "swallow-kick",
            Sabotage::ChangePayload => "change-payload",
            Sabotage::StayDown => "stay-down",
            Sabotage::OutsideChance => "outside-chance",
            Sabotage::LoseSegment => "lose-segment",
            Sabotage::SecondLeader => "second-leader",
            Sabotage::OtherReplica => "other-replica",
            Sabotage::ForkTable => "fork-table",
            Sabotage::StayCut => "stay-cut",
            Sabotage::LoseStraight => "lose-straight",
            Sabotage::EndUpperEarly => "end-upper-early",
            Sabotage::KeepTerms => "keep-terms",
            Sabotage::AnyMark => "any-mark",
        }
    }

    /// How many nodes it needs.
    pub fn nodes(self) -> u16 {
        match self {
            Sabotage::ForkTable | Sabotage::StayCut | Sabotage::LoseStraight | Sabotage::EndUpperEarly => 3,
            Sabotage::KeepTerms | Sabotage::AnyMark => 3,
            _ => 1,
        }
    }

    /// The name's canary.
    pub fn parse(name: &str) -> Option<Sabotage> {
        Sabotage::ALL.into_iter().find(|sabotage| sabotage.name() == name)
    }

    /// Who must catch it.
    pub fn caught_by(self) -> Promise {
        match self {
            Sabotage::ForgeAck => Promise::AckedNeverLost,
            Sabotage::SecondId => Promise::Once,
            Sabotage::SwapRecvs => Promise::Order,
            Sabotage::OtherAnswer => Promise::SameAnswer,
            Sabotage::ReuseId => Promise::Ids,
            Sabotage::ForgetWrites => Promise::Durable,
            Sabotage::ForgeRecvack => Promise::Limits,
            Sabotage::SwallowSendack => Promise::Endings,
            Sabotage::SwallowClosed => Promise::Presence,
            Sabotage::SwallowKick => Promise::Kicks,
            Sabotage::ChangePayload => Promise::Intact,
            Sabotage::StayDown => Promise::Rest,
            Sabotage::OutsideChance => Promise::Replay,
            Sabotage::LoseSegment => Promise::Recovery,
            Sabotage::SecondLeader => Promise::OneLeader,
            Sabotage::OtherReplica => Promise::Replicas,
            Sabotage::ForkTable => Promise::Table,
            Sabotage::StayCut => Promise::Rest,
            Sabotage::LoseStraight => Promise::AckedNeverLost,
            Sabotage::EndUpperEarly => Promise::Rest,
            Sabotage::KeepTerms => Promise::Soundness,
            Sabotage::AnyMark => Promise::AckedNeverLost,
        }
    }

    /// What a shard that finds itself unsound must say.
    pub fn assertion(self) -> Option<&'static str> {
        (self == Sabotage::KeepTerms).then_some("terms go on rising over a merge")
    }

    /// Makes sure that a drawn plan gives the canary its occasion, and the checker no excuse.
    pub fn prepare(self, plan: &mut Plan) {
        plan.faults.damage_every = Duration::ZERO;
        plan.retention.bytes = 0;
        plan.offline = OfflineMode::Push;
        plan.durability = Durability::Fsync;
        plan.safety = Duration::from_secs(5);
        plan.workload.send_every = Duration::from_millis(50);
        match self {
            Sabotage::OtherAnswer => plan.workload.double_send_permille = 500,
            Sabotage::ForgeRecvack => {
                plan.limits.recv_window = 2;
                plan.faults.late_acker_permille = 1000;
            }
            Sabotage::SwallowClosed => plan.faults.leave_every = Duration::from_secs(1),
            Sabotage::SwallowKick => {
                plan.workload.masters = true;
                plan.workload.twin_apps = true;
                plan.token_auth = true;
                plan.workload.users = 6;
                plan.faults = FaultPlan::default();
            }
            Sabotage::StayDown | Sabotage::LoseSegment => plan.faults.crash_every = Duration::from_millis(700),
            Sabotage::SwallowSendack => plan.faults = FaultPlan::default(),
            Sabotage::LoseStraight => {
                plan.faults = FaultPlan::default();
                much_goes_straight(plan);
            }
            Sabotage::AnyMark => {
                let leave_every = Duration::from_secs(2);
                plan.faults = FaultPlan { leave_every, ..FaultPlan::default() };
                much_goes_straight(plan);
                plan.limits.breach = Some(Breach::AnyMark);
            }
            Sabotage::EndUpperEarly => much_is_merged(plan),
            Sabotage::KeepTerms => {
                much_is_merged(plan);
                plan.limits.breach = Some(Breach::TermsNotLifted);
            }
            Sabotage::StayCut => {
                plan.faults = FaultPlan::default();
                plan.cluster = quiet_cluster();
                // Long enough for the cluster to have formed.
                plan.safety = Duration::from_secs(15);
            }
            _ => {}
        }
        if self == Sabotage::LoseSegment {
            plan.geometry.segment_bytes = 16 << 10;
            plan.limits.replay_bytes_max = 256 << 10;
        }
    }
}

/// Whoever talks does so straight, and nobody looks again.
fn much_goes_straight(plan: &mut Plan) {
    plan.shards = 2;
    plan.limits.look_again_after = Duration::from_secs(100_000);
    plan.limits.cached_routes_max = 64;
    plan.limits.cached_routes_shard_max = 1024;
    plan.limits.watched_rows_max = 64;
    // After a while in which the cluster forms, and leaders move to where they should be.
    plan.safety = Duration::from_secs(20);
}

/// Slots are split and merged all the time, while nodes are away for seconds. What they miss comes by the log.
fn much_is_merged(plan: &mut Plan) {
    let crash_every = Duration::from_secs(4);
    plan.faults = FaultPlan { crash_every, ..FaultPlan::default() };
    plan.cluster = ClusterPlan { order_every: Duration::from_millis(500), long_permille: 1000, ..quiet_cluster() };
    plan.slot_depth = 3;
    plan.limits.log_tail_bytes_max = Limits::PRODUCTION.log_tail_bytes_max;
    plan.safety = Duration::from_secs(30);
}
