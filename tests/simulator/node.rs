//! Nodes: start from their disks, turns of their shards, disk requests, and what goes wrong with them: crashes, orderly
//! restarts, slow, full and failing disks, flipped bits, clocks that jump. All shards of a node live and die together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jindou::engine::effect::Effect;
use jindou::engine::event::Event;
use jindou::engine::journal::entry_data_bytes_max;
use jindou::engine::metadata::Cluster;
use jindou::engine::shard::{JournalGeometry, Recovery, Shard, ShardConfig};
use jindou::format::frame::Frame;
use jindou::format::frame_codec::{self, LinkNumbers};
use jindou::ids::{NodeId, Place, ShardId};
use jindou::limits::Limits;
use jindou::time::{Instant, Now, UnixMillis};

use crate::chance::Chances;
use crate::checkers::Promise;
use crate::disk::{Damage, Disk, Lie, Request, Wounds};
use crate::faults::Plan;
use crate::links::Machine;
use crate::sabotage::Sabotage;
use crate::shard_host::ShardHost;
use crate::world::{Action, HostRef, World};

/// The wall clock when a simulation begins: 2026-01-01.
const UNIX_START_MS: u64 = 1_767_225_600_000;

/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What has happened to a shard is heard by it within so long.
const HEARS_SOON_NS: u64 = 1_000_000;

/// What goes wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// The power goes.
    Crash,
    /// It is told to stop, and starts again.
    Stop,
    /// It was told to stop and has had its time.
    StopOverdue,
    /// A disk takes long.
    SlowDisk,
    /// A disk has no space.
    FullDisk,
    /// One write fails.
    DiskError,
    /// A bit flips in finished data.
    Damage,
    /// The wall clock jumps.
    ClockJump,
}

/// What a node's configuration says of its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Guise {
    /// Its name.
    pub cluster: &'static str,
    /// What its members know.
    pub secret: &'static str,
    /// Whom it asks first, when that is not everybody else.
    pub seeds: Option<&'static [usize]>,
}

/// A machine.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// It has been started once and is not gone for good.
    pub present: bool,
    /// It runs.
    pub up: bool,
    /// So many outages make it stand still.
    pub hung: u32,
    /// Since when, if any does, and how long it has stood still before.
    pub hung_ns: (u64, u64),
    /// The cluster as this process knows it.
    pub cluster: Option<Arc<Cluster>>,
    /// It was told to stop.
    pub stopping: bool,
    /// Rises with every start and every crash: what belongs to another life is void.
    pub life: u64,
    /// Running shards; empty while down.
    pub hosts: Vec<ShardHost>,
    /// They outlive the shards.
    pub disks: Vec<Disk>,
    /// Which of them are slow.
    pub slow: Vec<bool>,
    /// Crashes and orderly stops so far.
    pub ends: (u64, u64),
    /// Recoveries that named a damage.
    pub damages_named: u64,
    damages: Vec<(usize, Damage)>,
    /// Names its data directory.
    pub identity: u64,
    /// It has lost one.
    pub wiped: bool,
    /// What it is told of its cluster.
    pub guise: Guise,
    /// What its processes reported to their operator.
    pub reports: Vec<String>,
    origin_ns: u64,
    drift_ppm: i64,
    skew_ms: i64,
    mesh_ns: BTreeMap<(usize, usize), u64>,
}

impl Node {
    /// Never started, disks empty.
    pub fn new(index: u16, plan: &Plan, chances: &mut Chances) -> Node {
        let recycles = chances.disk.one_in(2);
        let disks = (0..plan.shards).map(|_| {
            let mut disk = Disk::new(plan.geometry);
            // What damage looks like among old bytes of no meaning cannot be said.
            disk.recycles = recycles && plan.faults.damage_every.is_zero();
            disk.read_error_permille = plan.faults.read_error_permille;
            disk
        });
        Node {
            id: NodeId(index + 1),
            present: false,
            up: false,
            hung: 0,
            hung_ns: (0, 0),
            cluster: None,
            stopping: false,
            life: 0,
            hosts: Vec::new(),
            disks: disks.collect(),
            slow: vec![false; usize::from(plan.shards)],
            ends: (0, 0),
            damages_named: 0,
            damages: Vec::new(),
            wiped: false,
            guise: Guise { cluster: "jindou", secret: "what members know", seeds: None },
            reports: Vec::new(),
            identity: plan.geometry.identity.wrapping_add(u64::from(index) << 40),
            origin_ns: 0,
            drift_ppm: draw_drift(plan.cluster.drift_ppm, chances),
            skew_ms: chances.faults.below(2_000) as i64 - 1_000,
            mesh_ns: BTreeMap::new(),
        }
    }

    /// The data directory is lost: the next start finds nothing, under a new identity.
    pub fn wipe(&mut self, plan: &Plan) {
        self.wiped = true;
        self.identity = self.identity.wrapping_add(1 << 56);
        self.damages.clear();
        for disk in &mut self.disks {
            let (recycles, read_error_permille, full) = (disk.recycles, disk.read_error_permille, disk.full);
            disk.lose(JournalGeometry { identity: self.identity, ..plan.geometry });
            (disk.recycles, disk.read_error_permille, disk.full) = (recycles, read_error_permille, full);
        }
    }

    /// Both clocks of the node.
    pub fn now(&self, now_ns: u64) -> Now {
        let unix_ms = (UNIX_START_MS + now_ns / 1_000_000).saturating_add_signed(self.skew_ms);
        let elapsed_ns = i128::from(now_ns - self.origin_ns);
        let shown_ns = elapsed_ns + elapsed_ns * i128::from(self.drift_ppm) / 1_000_000;
        Now { instant: Instant(shown_ns as u64), unix: UnixMillis(unix_ms) }
    }

    /// How long it has not stood still so far: a node that does ends nothing.
    pub fn ran_ns(&self, now_ns: u64) -> u64 {
        let (since_ns, before_ns) = self.hung_ns;
        let still_ns = if self.hung > 0 { now_ns - since_ns } else { 0 };
        now_ns - before_ns - still_ns
    }

    /// One more outage makes it stand still.
    pub fn hangs(&mut self, now_ns: u64) {
        if self.hung == 0 {
            self.hung_ns.0 = now_ns;
        }
        self.hung += 1;
    }

    /// One outage fewer does. True when it was the last.
    pub fn hangs_no_more(&mut self, now_ns: u64) -> bool {
        self.hung -= 1;
        if self.hung == 0 {
            self.hung_ns.1 += now_ns - self.hung_ns.0;
        }
        self.hung == 0
    }

    /// Its clock runs too fast or too slow.
    pub fn drifts(&self) -> bool {
        self.drift_ppm != 0
    }

    /// A point on the node's monotonic clock in virtual time.
    pub fn virtual_ns(&self, instant: Instant) -> u64 {
        if self.drift_ppm == 0 {
            return instant.0.saturating_add(self.origin_ns);
        }
        // Rounded up: at that time the node's clock shows at least the instant.
        let rate = 1_000_000 + i128::from(self.drift_ppm);
        let elapsed_ns = (i128::from(instant.0) * 1_000_000 + rate - 1) / rate + 1;
        u64::try_from(elapsed_ns).unwrap_or(u64::MAX).saturating_add(self.origin_ns)
    }

    /// It runs and leads all of its slots.
    pub fn is_ready(&self) -> bool {
        let leads_all = |host: &ShardHost| {
            let view = host.shard.view();
            view.slots_led == view.slots_hosted
        };
        self.up && self.hosts.iter().all(leads_all)
    }

    /// A damage that was done on purpose: recovery is to name it.
    pub fn expect_damage(&mut self, shard: usize, damage: Damage) {
        self.damages.push((shard, damage));
    }

    /// What is under way in a shard or a disk, if anything is. With other nodes, their heartbeats are always under way, and with them what
    /// a shard hears at this moment.
    pub fn under_way(&self, now_ns: u64, alone: bool) -> Option<String> {
        let soon_ns = if alone { 0 } else { HEARS_SOON_NS };
        self.hosts.iter().zip(&self.disks).enumerate().find_map(|(shard, (host, disk))| {
            let view = host.shard.cluster_view();
            let counts = [
                (host.inbox.len(), "events", now_ns - host.waits_since_ns >= soon_ns),
                (view.submits_waiting, "messages without a leader's answer", true),
                (view.asks_waiting, "questions without an answer", true),
                (view.transfers, "transfers", true),
            ];
            let waits = counts.into_iter().find(|(count, _, counts)| *count > 0 && *counts);
            let waits = waits.map(|(count, what, _)| format!("{count} {what}"));
            waits.or_else(|| disk.under_way()).map(|what| format!("shard {shard}: {what}"))
        })
    }
}

impl World {
    fn config(&mut self, host: HostRef) -> ShardConfig {
        let plan = &self.plan;
        let mut seed = self.chances.engine.bytes32();
        if self.sabotage == Some(Sabotage::OutsideChance) {
            let outside = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let outside = outside.map_or(0, |span| span.as_nanos() as u64);
            seed[..8].copy_from_slice(&outside.to_le_bytes());
            self.trace.record(self.now_ns, "seed", 0, &seed);
        }
        ShardConfig {
            place: Place { node: self.nodes[host.node].id, shard: ShardId(host.shard as u16) },
            shard_count: plan.shards,
            slot_depth: plan.slot_depth,
            // Tiny segments are less than what production would put into one entry.
            limits: Limits {
                entry_bytes_max: plan.limits.entry_bytes_max.min(entry_data_bytes_max(&plan.geometry)),
                ..plan.limits
            },
            token_auth: plan.token_auth,
            offline: plan.offline,
            durability: plan.durability,
            geometry: JournalGeometry { identity: self.nodes[host.node].identity, ..plan.geometry },
            retention: plan.retention,
            boot: self.nodes[host.node].life,
            cluster: self.cluster_settings(host.node),
            seed,
        }
    }

    /// Brings a node up from what its disks hold.
    pub fn start_node(&mut self, index: usize) {
        if self.nodes[index].up || (self.sabotage == Some(Sabotage::StayDown) && self.healed) {
            return;
        }
        self.nodes[index].life += 1;
        self.nodes[index].origin_ns = self.now_ns - self.chances.faults.below(self.now_ns / 2 + 1);
        self.nodes[index].mesh_ns.clear();
        self.nodes[index].present = true;
        let mut hosts = Vec::new();
        for shard in 0..usize::from(self.plan.shards) {
            match self.recover(HostRef { node: index, shard }) {
                Ok(recovered) => hosts.push(ShardHost::new(recovered)),
                Err(text) => {
                    let text = format!("node {index} shard {shard} does not start: {text}");
                    self.judge(Promise::Recovery, Err(text));
                    return;
                }
            }
        }
        let node = &mut self.nodes[index];
        node.hosts = hosts;
        node.up = true;
        node.stopping = false;
        if self.sabotage == Some(Sabotage::ForgetWrites) {
            node.disks.iter_mut().for_each(|disk| disk.lie = Lie::Forget);
        }
        if node.life > 1 {
            self.trouble_ends();
        }
        let (life, hung) = (self.nodes[index].life, self.nodes[index].hung > 0);
        self.links.process_begins(self.now_ns, index, life);
        if hung {
            self.links.set_hung(index, true, self.now_ns);
        }
        self.settle_links();
        self.say(|| format!("node {index} is up"));
        for shard in 0..usize::from(self.plan.shards) {
            self.turn_at(HostRef { node: index, shard }, self.now_ns);
        }
    }

    /// Recovers a shard; damage that this simulation did is to be named, is then mended, and recovery is tried again.
    fn recover(&mut self, host: HostRef) -> Result<Shard, String> {
        let first = self.recover_once(host);
        let damages = &mut self.nodes[host.node].damages;
        let known: Vec<Damage> =
            damages.iter().filter(|(shard, _)| *shard == host.shard).map(|(_, damage)| *damage).collect();
        let named = match first {
            Err(named) if !known.is_empty() => named,
            result => return result,
        };
        damages.retain(|(shard, _)| *shard != host.shard);
        self.nodes[host.node].damages_named += 1;
        for damage in known {
            self.nodes[host.node].disks[host.shard].mend(damage);
        }
        self.say(|| format!("{host} names its damage: {named}"));
        self.recover_once(host)
    }

    fn recover_once(&mut self, host: HostRef) -> Result<Shard, String> {
        let config = self.config(host);
        let node = &self.nodes[host.node];
        let disk = &node.disks[host.shard];
        let mut recovery = Recovery::new(config);
        for (slot, bytes) in disk.checkpoints() {
            recovery.checkpoint(*slot, bytes)?;
        }
        let segments = disk.segments();
        let from = recovery.first_segment();
        for (segment, bytes) in segments.range(from..) {
            recovery.segment(*segment, bytes)?;
        }
        recovery.finish(node.now(self.now_ns), segments.keys().next().copied())
    }

    /// A shard's turn.
    pub fn turn(&mut self, host: HostRef, life: u64) {
        let node = &mut self.nodes[host.node];
        if node.life != life || node.hosts.get(host.shard).is_none_or(|target| target.turn_ns != Some(self.now_ns)) {
            return;
        }
        node.hosts[host.shard].turn_ns = None;
        // One that has stopped turns no more, while its neighbours still do: what comes for it is heard by nobody.
        if node.hung > 0 || node.hosts[host.shard].stopped {
            return;
        }
        let now = node.now(self.now_ns);
        let target = &mut node.hosts[host.shard];
        let who = (host.node as u64) << 16 | host.shard as u64;
        self.trace.record(self.now_ns, "turn", who, &(target.inbox.len() as u32).to_le_bytes());
        let effects = target.turn(self.now_ns, now, self.plan.limits.events_per_step_max);
        let view = target.shard.view();
        let verdict = crate::checkers::limits::view_holds(&view, &self.plan.limits, &mut self.checkers.limits);
        self.judge(Promise::Limits, verdict);
        self.look_at_replicas(host);
        let mut list = match effects {
            Ok(list) => list,
            Err(text) => {
                let text = format!("{host} turns without end: {text}");
                return self.judge(Promise::Rest, Err(text));
            }
        };
        for effect in list.drain(..) {
            self.carry_out(host, effect);
        }
        let node = &mut self.nodes[host.node];
        let Some(target) = node.hosts.get_mut(host.shard) else { return };
        target.recycle(list);
        let deadline = target.shard.next_deadline();
        let more = !target.inbox.is_empty();
        if let Some(deadline) = deadline {
            let due_ns = self.nodes[host.node].virtual_ns(deadline).max(self.now_ns + 1_000);
            self.turn_at(host, due_ns);
        }
        if more {
            self.turn_at(host, self.now_ns + 2_000);
        }
    }

    /// Does what a shard asked for, as far as it concerns the node; sockets are the gateway's.
    fn carry_out(&mut self, host: HostRef, effect: Effect) {
        match effect {
            Effect::JournalWrite(write) => self.begin_disk(host, Request::Write(write)),
            Effect::JournalSegment { segment } => self.begin_disk(host, Request::Segment(segment)),
            Effect::JournalTrim { first } => self.nodes[host.node].disks[host.shard].trim(first),
            Effect::Read { ticket, segment, offset, length } => {
                self.begin_disk(host, Request::Read { ticket, segment, offset, length });
            }
            Effect::Checkpoint { slot, bytes } => self.begin_disk(host, Request::Checkpoint(slot, bytes)),
            Effect::Frames { to, frames } => self.send_mesh(host, to, frames),
            Effect::Answer { ticket, answer } => self.api_answered(host, ticket, answer),
            Effect::Stopped => self.shard_stopped(host),
            Effect::Send { session, packet } => self.write_packet(host, session, packet),
            Effect::Close { session } => self.begin_close(host, session),
            Effect::HandOver { session, to } => self.hand_over(host, session, to),
            Effect::Reading { session, paused } => self.set_reading(host, session, paused),
            Effect::RemoveCheckpoint { slot } => self.nodes[host.node].disks[host.shard].remove_checkpoint(slot),
            Effect::Report { warning, line } => {
                self.say(|| format!("{host} reports{}: {line}", if warning { " a warning" } else { "" }));
                if warning {
                    self.nodes[host.node].reports.push(line);
                }
            }
            Effect::Dial { .. } | Effect::LinkWrite { .. } | Effect::Hangup { .. } | Effect::Datagram { .. } => {
                self.carry_out_link(host, effect);
            }
            Effect::Cluster(cluster) => self.tell_cluster(host, cluster),
        }
    }

    fn send_mesh(&mut self, host: HostRef, to: Place, mut frames: Vec<Frame>) {
        assert!(!frames.is_empty(), "an empty batch of frames");
        self.lose_straight(&mut frames);
        if frames.is_empty() {
            return;
        }
        let node = &mut self.nodes[host.node];
        let from = Place { node: node.id, shard: ShardId(host.shard as u16) };
        assert_eq!(to.node, node.id, "what is for another node travels over a link");
        assert_ne!(to, from, "frames to the own shard do not leave it");
        let frames = if self.plan.network.frames_as_bytes { through_bytes(frames) } else { frames };
        let target = HostRef { node: host.node, shard: usize::from(to.shard.0) };
        let (low, high) = self.plan.network.mesh_us;
        let latency_ns = self.chances.network.between(low * 1_000, high * 1_000);
        let last = node.mesh_ns.entry((host.shard, target.shard)).or_insert(0);
        *last = (*last).max(self.now_ns + latency_ns);
        let (at_ns, life) = (*last, node.life);
        self.at(at_ns, Action::Mesh(target, life, from, frames));
    }

    fn begin_disk(&mut self, host: HostRef, request: Request) {
        let node = &mut self.nodes[host.node];
        node.disks[host.shard].begin(&request);
        let chance = &mut self.chances.disk;
        let span = match &request {
            Request::Write(write) => chance.span_us(40, 300 + write.bytes.len() as u64 / 64),
            Request::Segment(_) => chance.span_us(300, 3_000),
            Request::Read { .. } => chance.span_us(30, 400),
            Request::Checkpoint(..) => chance.span_us(200, 4_000),
        };
        let span = if node.slow[host.shard] { span * 200 } else { span };
        let life = node.life;
        self.after(span, Action::DiskDone(host, life, request));
    }

    /// A disk request finishes.
    pub fn disk_done(&mut self, host: HostRef, life: u64, request: Request) {
        let node = &mut self.nodes[host.node];
        if node.life != life {
            return;
        }
        let what = format!("{request:.100?}");
        let event = node.disks[host.shard].complete(request, &mut self.chances.disk);
        if let Event::ReadDone { result: Err(fault), .. } = &event {
            self.say(|| format!("{host}: {what} fails: {fault:?}"));
        }
        self.trace.record(self.now_ns, "disk", host.shard as u64, &[]);
        self.happen(host, event);
    }

    /// Mean time between faults of a kind; zero for never.
    fn fault_every(&self, fault: NodeFault) -> Duration {
        let faults = &self.plan.faults;
        match fault {
            NodeFault::Crash => faults.crash_every,
            NodeFault::Stop => faults.stop_every,
            NodeFault::SlowDisk => faults.slow_disk_every,
            NodeFault::FullDisk => faults.full_disk_every,
            NodeFault::DiskError => faults.disk_error_every,
            NodeFault::Damage => faults.damage_every,
            NodeFault::ClockJump => faults.clock_jump_every,
            NodeFault::StopOverdue => Duration::ZERO,
        }
    }

    /// Plans the next fault of a kind.
    pub fn plan_fault(&mut self, node: usize, fault: NodeFault) {
        let every = self.fault_every(fault);
        if every.is_zero() || self.healed {
            return;
        }
        let mean_us = every.as_micros() as u64;
        let span = self.chances.faults.span_us(mean_us / 4, mean_us * 7 / 4);
        self.after(span, Action::Fault(node, fault));
    }

    /// Something goes wrong.
    pub fn strike(&mut self, index: usize, fault: NodeFault) {
        self.plan_fault(index, fault);
        if self.healed && fault != NodeFault::StopOverdue {
            return;
        }
        let shard = self.chances.faults.below(u64::from(self.plan.shards)) as usize;
        let host = HostRef { node: index, shard };
        let up = self.nodes[index].up;
        match fault {
            NodeFault::Crash if up => self.crash_node(index),
            NodeFault::Stop if up && !self.nodes[index].stopping => self.stop_node(index),
            NodeFault::StopOverdue => self.stop_overdue(index),
            NodeFault::SlowDisk => self.spell(host, fault),
            NodeFault::FullDisk => self.spell(host, fault),
            NodeFault::DiskError => {
                self.coverage.add("fault: disk error", 1);
                self.trouble_strikes();
                self.nodes[index].disks[shard].fail_next = true;
            }
            NodeFault::Damage => {
                if let Some(damage) = self.nodes[index].disks[shard].damage(&mut self.chances.faults) {
                    self.coverage.add("fault: flipped bit", 1);
                    self.nodes[index].expect_damage(shard, damage);
                    self.damaged = true;
                    self.say(|| format!("{host}: a bit flips, {damage:?}"));
                }
            }
            NodeFault::ClockJump => {
                self.coverage.add("fault: clock jump", 1);
                self.checkers.ids.clock_went_back = true;
                self.nodes[index].skew_ms += self.chances.faults.below(20_000) as i64 - 10_000;
            }
            NodeFault::Crash | NodeFault::Stop => {}
        }
    }

    fn spell(&mut self, host: HostRef, fault: NodeFault) {
        let node = &mut self.nodes[host.node];
        let flag = match fault {
            NodeFault::SlowDisk => &mut node.slow[host.shard],
            _ => &mut node.disks[host.shard].full,
        };
        if std::mem::replace(flag, true) {
            return;
        }
        self.trouble_begins();
        let slow = fault == NodeFault::SlowDisk;
        self.coverage.add(if slow { "fault: slow disk" } else { "fault: full disk" }, 1);
        self.say(|| format!("{host}: {fault:?} begins"));
        let span = self.chances.faults.span_ms(50, 1_500);
        self.after(span, Action::FaultEnds(host, fault));
    }

    /// A spell is over; harmless when it already is.
    pub fn fault_ends(&mut self, host: HostRef, fault: NodeFault) {
        let node = &mut self.nodes[host.node];
        let flag = match fault {
            NodeFault::SlowDisk => &mut node.slow[host.shard],
            NodeFault::FullDisk => &mut node.disks[host.shard].full,
            _ => return,
        };
        if std::mem::replace(flag, false) {
            self.trouble_ends();
            self.say(|| format!("{host}: {fault:?} ends"));
        }
    }

    /// The power goes, or the process alone, with the wounds that were drawn; the node starts again after a while.
    pub fn crash_node(&mut self, index: usize) {
        let cluster = self.plan.cluster;
        let dark = self.plan.nodes > 1 && self.chances.outages.permille(cluster.dark_permille);
        let away = if self.plan.nodes > 1 && self.chances.outages.permille(cluster.long_permille) {
            self.chances.faults.span_ms(2_000, 8_000)
        } else {
            self.chances.faults.span_ms(5, 1_500)
        };
        self.crash_node_for(index, if dark { Machine::Dark } else { Machine::Refuses }, away);
    }

    /// As [`World::crash_node`], for so long.
    pub fn crash_node_for(&mut self, index: usize, machine: Machine, away: Duration) {
        let wounds = self.plan.faults.wounds;
        self.say(|| format!("node {index} crashes"));
        self.coverage.add(if machine == Machine::Dark { "fault: power cut" } else { "fault: crash" }, 1);
        self.nodes[index].ends.0 += 1;
        self.checkers.order.crashed = true;
        self.checkers.order.gaps = self.damaged || self.plan.forgets();
        self.end_node(index, wounds, machine);
        for disk in &mut self.nodes[index].disks {
            if self.sabotage == Some(Sabotage::LoseSegment) {
                let _ = disk.damage(&mut self.saboteur);
            }
        }
        self.after(away, Action::Start(index));
    }

    /// Adds what the shards of a node have counted to the totals, at the end of their life.
    pub fn count_shards(&mut self, index: usize) {
        for host in &self.nodes[index].hosts {
            self.coverage.add_counters(host.shard.counters());
            self.coverage.add_links(&host.shard.cluster_view().links);
        }
    }

    fn end_node(&mut self, index: usize, wounds: Wounds, machine: Machine) {
        self.trouble_begins();
        self.count_shards(index);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.up = false;
        node.hosts.clear();
        node.cluster = None;
        let life = node.life;
        for disk in &mut node.disks {
            disk.crash(wounds, &mut self.chances.disk);
        }
        self.links.process_ends(self.now_ns, index, machine, life, &mut self.chances.links);
        self.settle_links();
        self.connections_die(index);
        self.api_dies(index);
    }

    /// Tells a node to stop.
    pub fn stop_node(&mut self, index: usize) {
        self.say(|| format!("node {index} is told to stop"));
        self.coverage.add("fault: orderly stop", 1);
        self.nodes[index].stopping = true;
        for shard in 0..self.nodes[index].hosts.len() {
            self.happen(HostRef { node: index, shard }, Event::Stop);
        }
        self.after(STOP_PATIENCE, Action::Fault(index, NodeFault::StopOverdue));
    }

    fn shard_stopped(&mut self, host: HostRef) {
        let node = &mut self.nodes[host.node];
        assert!(node.stopping, "a shard stops that was not told to");
        node.hosts[host.shard].stopped = true;
        if !node.hosts.iter().all(|host| host.stopped) {
            return;
        }
        let left: usize = node.hosts.iter().map(|host| host.gate.iter().count()).sum();
        let verdict = if left == 0 { Ok(()) } else { Err(format!("the node stopped with {left} sessions open")) };
        self.judge(Promise::Endings, verdict);
        self.say(|| format!("node {} has stopped", host.node));
        self.nodes[host.node].ends.1 += 1;
        self.end_node(host.node, Wounds::default(), Machine::Refuses);
        let span = self.chances.faults.span_ms(5, 500);
        self.after(span, Action::Start(host.node));
    }

    fn stop_overdue(&mut self, index: usize) {
        let node = &self.nodes[index];
        if !node.up || !node.stopping {
            return;
        }
        if self.now_ns - self.well_since_ns() > STOP_PATIENCE.as_nanos() as u64 {
            let waiting = node.hosts.iter().filter(|host| !host.stopped).count();
            let text = format!("node {index} was told to stop and {waiting} of its shards have not");
            self.judge(Promise::Endings, Err(text));
        } else {
            // A disk was at fault: give it its time, and after that the power.
            self.after(STOP_PATIENCE, Action::Fault(index, NodeFault::StopOverdue));
        }
    }
}

/// Frames as another node would get them.
fn through_bytes(frames: Vec<Frame>) -> Vec<Frame> {
    let numbers = LinkNumbers { sequence: 1, acknowledged: 0 };
    let mut bytes = Vec::new();
    frame_codec::encode(&frames, numbers, &mut bytes);
    let decoded = frame_codec::decode(&Bytes::from(bytes)).expect("what was encoded is a batch");
    assert_eq!(decoded.frames, frames, "frames come out as they went in");
    decoded.frames
}

/// How much too fast a clock runs.
fn draw_drift(most_ppm: u64, chances: &mut Chances) -> i64 {
    if most_ppm == 0 {
        return 0;
    }
    chances.outages.between(0, 2 * most_ppm) as i64 - most_ppm as i64
}
