//! Nodes: start from their disks, turns of their shards, disk requests, and what goes wrong with them: crashes, orderly
//! restarts, slow, full and failing disks, flipped bits, clocks that jump. All shards of a node live and die together.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jindou::engine::effect::Effect;
use jindou::engine::event::Event;
use jindou::engine::shard::{Recovery, Shard, ShardConfig};
use jindou::format::frame::Frame;
use jindou::format::frame_codec::{self, LinkNumbers};
use jindou::ids::{NodeId, Place, ShardId};
use jindou::time::{Instant, Now, UnixMillis};

use crate::chance::Chances;
use crate::checkers::Promise;
use crate::disk::{Damage, Disk, Lie, Request, Wounds};
use crate::faults::Plan;
use crate::sabotage::Sabotage;
use crate::shard_host::ShardHost;
use crate::world::{Action, HostRef, World};

/// The wall clock when a simulation begins: 2026-01-01.
const UNIX_START_MS: u64 = 1_767_225_600_000;

/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

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

/// A machine.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// It runs.
    pub up: bool,
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
    origin_ns: u64,
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
            up: false,
            stopping: false,
            life: 0,
            hosts: Vec::new(),
            disks: disks.collect(),
            slow: vec![false; usize::from(plan.shards)],
            ends: (0, 0),
            damages_named: 0,
            damages: Vec::new(),
            origin_ns: 0,
            skew_ms: chances.faults.below(2_000) as i64 - 1_000,
            mesh_ns: BTreeMap::new(),
        }
    }

    /// Both clocks of the node.
    pub fn now(&self, now_ns: u64) -> Now {
        let unix_ms = (UNIX_START_MS + now_ns / 1_000_000).saturating_add_signed(self.skew_ms);
        Now { instant: Instant(now_ns - self.origin_ns), unix: UnixMillis(unix_ms) }
    }

    /// A point on the node's monotonic clock in virtual time.
    pub fn virtual_ns(&self, instant: Instant) -> u64 {
        instant.0.saturating_add(self.origin_ns)
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

    /// True when nothing is under way in any shard or disk.
    pub fn is_idle(&self) -> bool {
        self.hosts.iter().all(|host| host.inbox.is_empty()) && self.disks.iter().all(|disk| !disk.is_busy())
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
            limits: plan.limits,
            token_auth: plan.token_auth,
            offline: plan.offline,
            durability: plan.durability,
            geometry: plan.geometry,
            retention: plan.retention,
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
        self.say(|| format!("shard {} names its damage: {named}", host.shard));
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
        let now = node.now(self.now_ns);
        let target = &mut node.hosts[host.shard];
        target.turn_ns = None;
        self.trace.record(self.now_ns, "turn", host.shard as u64, &(target.inbox.len() as u32).to_le_bytes());
        let effects = target.turn(self.now_ns, now, self.plan.limits.events_per_step_max);
        let view = target.shard.view();
        let verdict = crate::checkers::limits::view_holds(&view, &self.plan.limits, &mut self.checkers.limits);
        self.judge(Promise::Limits, verdict);
        let mut list = match effects {
            Ok(list) => list,
            Err(text) => {
                let text = format!("shard {} turns without end: {text}", host.shard);
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
        }
    }

    fn send_mesh(&mut self, host: HostRef, to: Place, frames: Vec<Frame>) {
        let node = &mut self.nodes[host.node];
        let from = Place { node: node.id, shard: ShardId(host.shard as u16) };
        assert_eq!(to.node, node.id, "there is one node");
        assert_ne!(to, from, "frames to the own shard do not leave it");
        assert!(!frames.is_empty(), "an empty batch of frames");
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
            self.say(|| format!("shard {}: {what} fails: {fault:?}", host.shard));
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
                self.trouble_strikes();
                self.nodes[index].disks[shard].fail_next = true;
            }
            NodeFault::Damage => {
                if let Some(damage) = self.nodes[index].disks[shard].damage(&mut self.chances.faults) {
                    self.nodes[index].expect_damage(shard, damage);
                    self.damaged = true;
                    self.say(|| format!("shard {shard}: a bit flips, {damage:?}"));
                }
            }
            NodeFault::ClockJump => {
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
        self.say(|| format!("shard {}: {fault:?} begins", host.shard));
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
            self.say(|| format!("shard {}: {fault:?} ends", host.shard));
        }
    }

    /// The power goes, with the wounds that were drawn; the node starts again after a while.
    pub fn crash_node(&mut self, index: usize) {
        let wounds = self.plan.faults.wounds;
        self.say(|| format!("node {index} crashes"));
        self.nodes[index].ends.0 += 1;
        self.checkers.order.crashed = true;
        self.checkers.order.gaps = self.damaged || self.plan.forgets();
        self.end_node(index, wounds);
        for disk in &mut self.nodes[index].disks {
            if self.sabotage == Some(Sabotage::LoseSegment) {
                let _ = disk.damage(&mut self.saboteur);
            }
        }
        let span = self.chances.faults.span_ms(5, 1_500);
        self.after(span, Action::Start(index));
    }

    /// Adds what the shards of a node have counted to the totals, at the end of their life.
    pub fn count_shards(&mut self, index: usize) {
        for host in &self.nodes[index].hosts {
            self.coverage.add_counters(host.shard.view().counters);
        }
    }

    fn end_node(&mut self, index: usize, wounds: Wounds) {
        self.trouble_begins();
        self.count_shards(index);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.up = false;
        node.hosts.clear();
        for disk in &mut node.disks {
            disk.crash(wounds, &mut self.chances.disk);
        }
        self.connections_die(index);
        self.api_dies(index);
    }

    /// Tells a node to stop.
    pub fn stop_node(&mut self, index: usize) {
        self.say(|| format!("node {index} is told to stop"));
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
        self.end_node(host.node, Wounds::default());
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
