//! What a seed draws before anything runs: how many nodes and their shape, its limits, the people and their habits, and which faults exist at
//! what rate (a swarm: each fault is there in about half of the seeds, so that each also meets the absence of the
//! others). The plan is printed at the top of every failure. When a fault strikes is drawn later, from the same stream.

use std::time::Duration;

use jindou::engine::gossip::GossipLimits;
use jindou::engine::link::LinkLimits;
use jindou::engine::shard::{Durability, JournalGeometry, OfflineMode, Retention};
use jindou::engine::steward::StewardLimits;
use jindou::limits::Limits;

use crate::chance::Chance;
use crate::disk::Wounds;
use crate::links::LinkPlan;

/// Everything drawn for a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Nodes. Each holds `shards` shards.
    pub nodes: u16,
    /// Shards of a node.
    pub shards: u16,
    /// log2 of the slots.
    pub slot_depth: u8,
    /// Bounds.
    pub limits: Limits,
    /// Shape of the journal.
    pub geometry: JournalGeometry,
    /// History kept.
    pub retention: Retention,
    /// Tokens are demanded.
    pub token_auth: bool,
    /// What a device gets that was away.
    pub offline: OfflineMode,
    /// What an answer promises.
    pub durability: Durability,
    /// How long faults last.
    pub safety: Duration,
    /// People and their doings.
    pub workload: WorkloadPlan,
    /// The network.
    pub network: NetworkPlan,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Several nodes.
    pub cluster: ClusterPlan,
}

/// People and their doings.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadPlan {
    /// How many.
    pub users: usize,
    /// Most device families of one.
    pub families_max: u8,
    /// Every fifth family has two apps on one flag.
    pub twin_apps: bool,
    /// Mean pause between two SENDs of one device.
    pub send_every: Duration,
    /// Most SENDs of a device at a time without an answer.
    pub send_window: usize,
    /// Largest payload.
    pub payload_bytes_max: usize,
    /// Of a thousand messages.
    pub transient_permille: u32,
    /// Of a thousand messages.
    pub command_permille: u32,
    /// Of a thousand messages: the number of an earlier one with another payload.
    pub conflict_permille: u32,
    /// Of a thousand: the same SEND twice on one connection.
    pub double_send_permille: u32,
    /// Of a thousand: something that must be refused.
    pub odd_send_permille: u32,
    /// Pause between API requests; zero for none.
    pub api_every: Duration,
    /// Families whose devices are masters exist.
    pub masters: bool,
    /// Of a thousand devices: keeps one device id (mobile); the rest makes a new one per connection (browser).
    pub steady_device_id_permille: u32,
}

/// The network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPlan {
    /// Least and most latency between client and node, microseconds.
    pub client_us: (u64, u64),
    /// Least and most latency between shards, microseconds.
    pub mesh_us: (u64, u64),
    /// What a socket takes that the client has not read.
    pub socket_bytes: usize,
    /// Bytes arrive in arbitrary pieces.
    pub split: bool,
    /// WebSocket for this many of a thousand devices.
    pub websocket_permille: u32,
    /// No cipher for anybody (a plain listener).
    pub plain: bool,
    /// Frames between shards go through the codec that links use, and must come out as they went in.
    pub frames_as_bytes: bool,
}

/// What goes wrong. A zero rate means never.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// Mean time between crashes of a node.
    pub crash_every: Duration,
    /// Mean time between orderly restarts.
    pub stop_every: Duration,
    /// What a crash leaves.
    pub wounds: Wounds,
    /// Mean time between slow spells of a disk.
    pub slow_disk_every: Duration,
    /// Mean time between full spells of a disk.
    pub full_disk_every: Duration,
    /// Mean time between I/O errors.
    pub disk_error_every: Duration,
    /// Reads that fail, of a thousand.
    pub read_error_permille: u32,
    /// Mean time between bits flipped in finished data.
    pub damage_every: Duration,
    /// Mean time between jumps of the wall clock.
    pub clock_jump_every: Duration,
    /// Mean time for a device between leaving without a word.
    pub vanish_every: Duration,
    /// Mean time for a device between orderly leaves.
    pub leave_every: Duration,
    /// Devices that read slowly, of a thousand.
    pub slow_reader_permille: u32,
    /// Devices that acknowledge late, of a thousand.
    pub late_acker_permille: u32,
    /// Devices that leave out acknowledgements, of a thousand.
    pub forgetful_acker_permille: u32,
    /// Devices that acknowledge twice, of a thousand.
    pub double_acker_permille: u32,
    /// Connections of rubbish: mean time between two.
    pub rubbish_every: Duration,
}

/// Several nodes: what is between them, and what goes wrong there. With one node nothing of it is used.
#[derive(Clone, Copy, Debug)]
pub struct ClusterPlan {
    /// Replicas that a slot is to have.
    pub replicas: u8,
    /// Nodes that are not there at the beginning and may join.
    pub spares: u16,
    /// The network between nodes.
    pub links: LinkPlan,
    /// Mean time between outages; zero for none.
    pub outage_every: Duration,
    /// Which kinds of them exist.
    pub kinds: OutageKinds,
    /// Mean time between connections that break by themselves.
    pub reset_every: Duration,
    /// Crashes of a thousand that are power cuts: nobody hears of them, and what knocks meanwhile waits.
    pub dark_permille: u32,
    /// Crashes of a thousand after which a node stays away for seconds.
    pub long_permille: u32,
    /// Clocks of nodes run up to this much too fast or too slow, of a million.
    pub drift_ppm: u64,
    /// Data directories that may be lost, one after the other has been rebuilt.
    pub wipes: u32,
    /// Mean time between an operator's doings.
    pub order_every: Duration,
    /// Half of them are asked over the HTTP API, as the command line does: nodes are replaced, slots transferred, replicas changed.
    pub orders_by_api: bool,
    /// Bounds of who looks after the cluster, among them how long a node must be gone before its replicas are rebuilt elsewhere.
    pub steward: StewardLimits,
    /// Bounds of gossip.
    pub gossip: GossipLimits,
    /// Bounds of links.
    pub link_limits: LinkLimits,
}

/// Which kinds of outages exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutageKinds {
    /// A node hears nobody.
    pub isolate: bool,
    /// Two nodes do not hear each other.
    pub pair: bool,
    /// One does not hear the other, but the other does.
    pub one_way: bool,
    /// One direction is slow.
    pub clog: bool,
    /// Two nodes lose and find each other again and again.
    pub flap: bool,
    /// A node's processes stand still.
    pub hang: bool,
    /// All nodes lose their power at once.
    pub site: bool,
}

impl Plan {
    /// Draws everything; with a number of nodes if it is not to be drawn.
    pub fn draw(seed: u64, nodes: Option<u16>) -> Plan {
        let mut plan = Plan::draw_node(seed);
        let chance = &mut Chance::new(seed, "cluster plan");
        let drawn = *chance.pick(&[1, 1, 3, 3, 3, 3, 3, 3, 5, 5]);
        plan.nodes = nodes.unwrap_or(drawn);
        plan.cluster = draw_cluster(plan.nodes, chance);
        draw_cluster_limits(&mut plan, &mut Chance::new(seed, "cluster limits"));
        // Seeds that are kept go on to mean what they meant when they found something.
        let is_kept = crate::REGRESSION_SEEDS.iter().any(|(kept, ..)| *kept == seed);
        plan.cluster.orders_by_api = !is_kept && Chance::new(seed, "operator plan").one_in(2);
        if plan.nodes > 1 {
            plan.shards = *chance.pick(&[1, 2, 2, 3]);
            plan.slot_depth = *chance.pick(&[1, 2, 2, 3, 4]);
            plan.safety = chance.span_ms(8_000, 20_000);
            // One after the other is bad enough; all the time nothing would ever be agreed.
            let slower = |every: Duration| every * u32::from(plan.nodes);
            plan.faults.crash_every = slower(plan.faults.crash_every) * 2;
            plan.faults.stop_every = slower(plan.faults.stop_every);
            plan.faults.slow_disk_every = slower(plan.faults.slow_disk_every);
            plan.faults.full_disk_every = slower(plan.faults.full_disk_every);
            plan.faults.disk_error_every = slower(plan.faults.disk_error_every);
            plan.faults.damage_every = slower(plan.faults.damage_every);
            if plan.cluster.kinds.site || plan.cluster.wipes > 0 {
                plan.durability = Durability::Fsync;
            }
        }
        plan
    }

    /// What there is to be drawn with one node.
    fn draw_node(seed: u64) -> Plan {
        let chance = &mut Chance::new(seed, "plan");
        let limits = draw_limits(chance);
        let workload = draw_workload(chance);
        let faults = draw_faults(chance);
        let segment_kib = *chance.pick(&[32u32, 64, 128]);
        Plan {
            seed,
            nodes: 1,
            shards: *chance.pick(&[1, 2, 2, 3, 4]),
            slot_depth: *chance.pick(&[1, 2, 3, 4, 6]),
            limits,
            geometry: JournalGeometry {
                identity: seed,
                block_bytes: *chance.pick(&[512, 512, 1024, 4096]),
                segment_bytes: segment_kib << 10,
            },
            retention: if chance.one_in(12) {
                Retention { bytes: u64::from(segment_kib) << 12, age_ms: 0 }
            } else {
                Retention { bytes: 0, age_ms: 0 }
            },
            token_auth: workload.masters || chance.one_in(4),
            offline: if chance.one_in(8) { OfflineMode::Sync } else { OfflineMode::Push },
            // What is in memory only may be lost in a crash or at a flipped bit, and that is no bug.
            durability: if faults.crash_every.is_zero() && faults.damage_every.is_zero() && chance.one_in(8) {
                Durability::Memory
            } else {
                Durability::Fsync
            },
            safety: chance.span_ms(4_000, 14_000),
            network: draw_network(chance),
            workload,
            faults,
            cluster: quiet_cluster(),
        }
    }

    /// A quiet plan for scripts: nothing fails, nobody acts by themselves.
    pub fn quiet(seed: u64) -> Plan {
        let mut plan = Plan::draw(seed, Some(1));
        plan.shards = 2;
        plan.slot_depth = 3;
        plan.limits = tiny();
        plan.geometry = JournalGeometry { identity: seed, block_bytes: 512, segment_bytes: 64 << 10 };
        plan.retention = Retention { bytes: 0, age_ms: 0 };
        plan.token_auth = false;
        plan.offline = OfflineMode::Push;
        plan.durability = Durability::Fsync;
        plan.safety = Duration::ZERO;
        plan.faults = FaultPlan::default();
        plan.workload.users = 0;
        plan.workload.masters = false;
        plan.workload.api_every = Duration::ZERO;
        plan.workload.steady_device_id_permille = 1000;
        plan.network.plain = false;
        plan.network.websocket_permille = 0;
        plan.network.socket_bytes = 64 << 10;
        plan.cluster = quiet_cluster();
        plan
    }

    /// The bounds as an observer with a true clock may see them: a node whose clock is fast does things a little early.
    pub fn limits_by_true_time(&self) -> Limits {
        let fast = 1_000_000 + self.cluster.drift_ppm as u32;
        let sooner = |span: Duration| span * 1_000_000 / fast;
        let (redeliver_after, idle_timeout) = (sooner(self.limits.redeliver_after), sooner(self.limits.idle_timeout));
        Limits { redeliver_after, idle_timeout, ..self.limits }
    }

    /// True when history may be dropped on purpose, so that a device that was away may miss some.
    pub fn forgets(&self) -> bool {
        self.retention.bytes != 0 || self.retention.age_ms != 0
    }
}

/// A good network, and nothing goes wrong.
pub fn quiet_cluster() -> ClusterPlan {
    ClusterPlan {
        replicas: 3,
        spares: 0,
        links: LinkPlan {
            us: (50, 200),
            split: true,
            clogged_bytes_per_ms: 20,
            lose_permille: 0,
            double_permille: 0,
            late_permille: 0,
        },
        outage_every: Duration::ZERO,
        kinds: OutageKinds::default(),
        reset_every: Duration::ZERO,
        dark_permille: 500,
        long_permille: 0,
        drift_ppm: 0,
        wipes: 0,
        order_every: Duration::ZERO,
        orders_by_api: false,
        steward: StewardLimits::PRODUCTION,
        gossip: GossipLimits::PRODUCTION,
        link_limits: LinkLimits::TINY,
    }
}

fn draw_cluster(nodes: u16, chance: &mut Chance) -> ClusterPlan {
    let mut kind = || chance.one_in(2);
    let kinds = OutageKinds {
        isolate: kind(),
        pair: kind(),
        one_way: kind(),
        clog: kind(),
        flap: kind(),
        hang: kind(),
        site: kind() && kind() && kind(),
    };
    let least = *chance.pick(&[20, 50, 200, 2_000]);
    let some = |chance: &mut Chance, most: u32| if chance.one_in(2) { most } else { 0 };
    ClusterPlan {
        replicas: 3,
        spares: if nodes > 1 && chance.one_in(4) { 1 } else { 0 },
        links: LinkPlan {
            us: (least, least * chance.between(1, 20)),
            split: chance.one_in(2),
            clogged_bytes_per_ms: *chance.pick(&[2, 20, 200]),
            lose_permille: some(chance, 200),
            double_permille: some(chance, 100),
            late_permille: some(chance, 100),
        },
        outage_every: maybe(chance, 500, 4_000),
        kinds,
        reset_every: maybe(chance, 300, 3_000),
        dark_permille: *chance.pick(&[0, 500, 1_000]),
        long_permille: some(chance, 250),
        drift_ppm: if chance.one_in(2) { 50_000 } else { 0 },
        wipes: if chance.one_in(4) { 2 } else { 0 },
        order_every: if chance.one_in(4) { chance.span_ms(2_000, 8_000) } else { Duration::ZERO },
        orders_by_api: false,
        steward: StewardLimits {
            replace_after: *chance.pick(&[Duration::from_secs(4), Duration::from_secs(12), Duration::from_secs(300)]),
            ..StewardLimits::PRODUCTION
        },
        gossip: GossipLimits::PRODUCTION,
        link_limits: LinkLimits::PRODUCTION,
    }
}

/// Bounds of what there is with several nodes only: tiny ones in half of the seeds, each by itself.
fn draw_cluster_limits(plan: &mut Plan, chance: &mut Chance) {
    if plan.limits.sessions_max < Limits::PRODUCTION.sessions_max {
        plan.cluster.link_limits = LinkLimits::TINY;
    }
    let steward = &mut plan.cluster.steward;
    if chance.one_in(2) {
        *steward = StewardLimits { replace_after: steward.replace_after, ..StewardLimits::TINY };
    }
    if chance.one_in(3) {
        steward.moves_under_way_max = *chance.pick(&[1, 4, 16]);
    }
    if chance.one_in(3) {
        steward.listen_first = *chance.pick(&[Duration::from_millis(500), Duration::from_secs(2)]);
        steward.silent_after = *chance.pick(&[Duration::from_secs(2), Duration::from_secs(3)]);
    }
    if chance.one_in(3) {
        steward.propose_again_after = Duration::from_millis(200);
    }
    if chance.one_in(2) {
        plan.cluster.gossip = GossipLimits::TINY;
    }
}

/// The tiny bounds, with the idle timeout below the time of all redeliveries: else a message would count as taken by a
/// device whose cable was cut before anybody noticed.
pub fn tiny() -> Limits {
    Limits { idle_timeout: Duration::from_secs(6), ..Limits::TINY }
}

fn draw_limits(chance: &mut Chance) -> Limits {
    let mut limits = if chance.one_in(8) { Limits::PRODUCTION } else { tiny() };
    if chance.one_in(3) {
        limits.recv_window = *chance.pick(&[1, 2, 8, 32]);
    }
    if chance.one_in(3) {
        limits.recent_bytes_max = *chance.pick(&[512, 2 << 10, 64 << 10]);
    }
    if chance.one_in(3) {
        limits.replay_bytes_max = *chance.pick(&[48 << 10, 256 << 10]);
    }
    if chance.one_in(3) {
        limits.dedupe_window = 1024;
    }
    if chance.one_in(4) {
        limits.flush_bytes_max = *chance.pick(&[4 << 10, 16 << 10]);
    }
    if chance.one_in(4) {
        limits.commands_per_proposal_max = 1;
    }
    limits
}

/// A mean time between faults, or zero in about half of the draws.
fn maybe(chance: &mut Chance, low_ms: u64, high_ms: u64) -> Duration {
    let span = chance.span_ms(low_ms, high_ms);
    if chance.one_in(2) { span } else { Duration::ZERO }
}

fn draw_workload(chance: &mut Chance) -> WorkloadPlan {
    WorkloadPlan {
        users: chance.between(2, 6) as usize,
        families_max: chance.between(1, 3) as u8,
        twin_apps: chance.one_in(3),
        send_every: chance.span_ms(20, 400),
        send_window: chance.between(1, 8) as usize,
        payload_bytes_max: *chance.pick(&[40, 200, 200, 1000, 3000]),
        transient_permille: if chance.one_in(3) { 100 } else { 0 },
        command_permille: if chance.one_in(3) { 100 } else { 0 },
        conflict_permille: if chance.one_in(3) { 20 } else { 0 },
        double_send_permille: if chance.one_in(2) { 50 } else { 0 },
        odd_send_permille: if chance.one_in(3) { 20 } else { 0 },
        api_every: maybe(chance, 20, 500),
        masters: chance.one_in(4),
        steady_device_id_permille: *chance.pick(&[0, 500, 1000]),
    }
}

fn draw_network(chance: &mut Chance) -> NetworkPlan {
    let least = *chance.pick(&[20, 200, 2_000]);
    NetworkPlan {
        client_us: (least, least * chance.between(1, 20)),
        mesh_us: (1, *chance.pick(&[5, 50, 500])),
        socket_bytes: *chance.pick(&[1 << 10, 4 << 10, 64 << 10]),
        split: chance.one_in(2),
        websocket_permille: *chance.pick(&[0, 300, 1000]),
        plain: chance.one_in(3),
        frames_as_bytes: chance.one_in(4),
    }
}

fn draw_faults(chance: &mut Chance) -> FaultPlan {
    let some = |chance: &mut Chance| if chance.one_in(2) { 250 } else { 0 };
    FaultPlan {
        crash_every: maybe(chance, 300, 4_000),
        stop_every: if chance.one_in(4) { chance.span_ms(2_000, 8_000) } else { Duration::ZERO },
        wounds: Wounds { tear: chance.one_in(2), flip: chance.one_in(2), unremove: chance.one_in(2) },
        slow_disk_every: maybe(chance, 1_000, 4_000),
        full_disk_every: maybe(chance, 1_000, 6_000),
        disk_error_every: maybe(chance, 500, 4_000),
        read_error_permille: if chance.one_in(3) { 50 } else { 0 },
        damage_every: if chance.one_in(6) { chance.span_ms(1_000, 4_000) } else { Duration::ZERO },
        clock_jump_every: maybe(chance, 500, 4_000),
        vanish_every: maybe(chance, 1_000, 8_000),
        leave_every: maybe(chance, 500, 6_000),
        slow_reader_permille: some(chance),
        late_acker_permille: some(chance),
        forgetful_acker_permille: some(chance),
        double_acker_permille: some(chance),
        rubbish_every: maybe(chance, 300, 2_000),
    }
}
