//! The course of a simulation: everything may fail for a while; then everything heals, every device connects and stays, and the
//! world must come to rest within a bound; then the last questions are asked. Coming to no rest is a failure, not a note.

use std::time::Duration;

use jindou::engine::shard::OfflineMode;

use crate::checkers::{Promise, Violation, endings, lost, presence};
use crate::node::NodeFault;
use crate::outages::Outage;
use crate::sabotage::Sabotage;
use crate::world::{Action, HostRef, World};

/// How often what is overdue is looked for.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// How often rest is looked for. Not in step with raft's beat, or it would always be the same moment between two of them.
const SETTLE_STEP: Duration = Duration::from_millis(47);

/// Rest is when nothing was open so often in a row.
const QUIET_STEPS: u32 = 10;

/// As that, with several nodes: leadership is handed over now and then, and states are sent in the background. Besides, who has begun to look
/// after the cluster listens for a while before anything is moved.
const QUIET_OF_CLUSTER: Duration = Duration::from_millis(3_500);

/// However much there is to be sent.
const SETTLE_MAX: Duration = Duration::from_secs(1_800);

/// Faults that come by themselves.
const FAULTS: [NodeFault; 7] = [
    NodeFault::Crash,
    NodeFault::Stop,
    NodeFault::SlowDisk,
    NodeFault::FullDisk,
    NodeFault::DiskError,
    NodeFault::Damage,
    NodeFault::ClockJump,
];

impl World {
    /// Starts every node, the watch, the backends and the faults.
    pub fn begin(&mut self) {
        // A home's leader may be lost at any time, and with it what it knew beyond its group.
        self.checkers.order.crashed = self.plan.nodes > 1;
        self.checkers.order.gaps = self.plan.nodes > 1 && self.plan.forgets();
        for node in 0..usize::from(self.plan.nodes) {
            self.start_node(node);
            for fault in FAULTS {
                self.plan_fault(node, fault);
            }
        }
        self.after(WATCH_EVERY, Action::Watch);
        self.after(Duration::from_millis(1), Action::BackendTick);
        self.after(Duration::from_millis(5), Action::RubbishTick);
        self.plan_outages();
        self.plan_orders();
    }

    /// A whole simulation as drawn.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn live(&mut self) -> Result<(), Violation> {
        self.populate();
        self.begin();
        self.run_for(self.plan.safety)?;
        self.conclude()
    }

    /// Everything heals, comes to rest and is questioned.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn conclude(&mut self) -> Result<(), Violation> {
        self.heal();
        self.settle()?;
        let limits = &self.plan.limits;
        self.run_for(2 * limits.announce_retry_after + 2 * limits.sweep_every)?;
        self.question()
    }

    /// Faults end; devices become calm and stay.
    pub fn heal(&mut self) {
        self.say(|| "everything heals".to_owned());
        self.end_outages();
        if self.sabotage == Some(Sabotage::StayCut) {
            let node = self.saboteur.below(self.nodes.len() as u64) as usize;
            self.outage_begins(Outage::Isolated(node));
        }
        self.healed = true;
        for node in 0..self.nodes.len() {
            for shard in 0..usize::from(self.plan.shards) {
                let host = HostRef { node, shard };
                self.fault_ends(host, NodeFault::SlowDisk);
                self.fault_ends(host, NodeFault::FullDisk);
                self.nodes[node].disks[shard].fail_next = false;
                self.nodes[node].disks[shard].read_error_permille = 0;
            }
        }
        let mut seats = std::collections::BTreeSet::new();
        for index in 0..self.devices.len() {
            let (uid, flag) = (self.devices[index].uid.clone(), self.devices[index].flag);
            // Two apps of a master family would end each other for ever, and so would too many of one user: one of each stays.
            let crowded =
                self.devices.iter().filter(|device| device.uid == uid).count() > self.plan.limits.sessions_per_user_max;
            let retired = (self.backend.is_master(&uid, flag) || crowded) && !seats.insert((uid, flag));
            let device = &mut self.devices[index];
            let retired = retired || device.retired;
            device.calm = true;
            device.away_until_ns = self.now_ns;
            device.retired = retired;
            if retired {
                self.client_closes(index, 0);
            }
        }
    }

    /// How long coming to rest may take.
    fn settle_bound(&self) -> Duration {
        let limits = &self.plan.limits;
        let redeliveries = limits.redeliver_after * (u32::from(limits.redeliver_tries) + 2);
        limits.idle_timeout + redeliveries + Duration::from_secs(if self.plan.nodes > 1 { 90 } else { 30 })
    }

    fn quiet_steps(&self) -> u32 {
        if self.plan.nodes == 1 {
            return QUIET_STEPS;
        }
        let quiet = QUIET_OF_CLUSTER.max(self.plan.cluster.steward.listen_first + Duration::from_secs(1));
        quiet.as_millis().div_ceil(SETTLE_STEP.as_millis()) as u32
    }

    /// Waits until nothing has moved for a while. As long as devices see new messages, replicas receive what they lack, and moves are agreed on, it goes on waiting,
    /// within reason: a long backlog over a slow network is no fault, nor are many moves of which one is made at a time.
    fn settle(&mut self) -> Result<(), Violation> {
        let bound_ns = self.settle_bound().as_nanos() as u64;
        let end_ns = self.now_ns + SETTLE_MAX.as_nanos() as u64;
        let quiet_steps = self.quiet_steps();
        let (mut until_ns, mut seen, mut quiet) = (self.now_ns + bound_ns, (0, 0, 0), 0);
        let mut open = String::new();
        while self.now_ns < until_ns.min(end_ns) {
            self.run_for(SETTLE_STEP)?;
            let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
            let coming = hosts.map(|host| host.shard.transfers_coming_bytes()).sum::<usize>();
            let version = self.checkers.tables.newest().map_or(0, |newest| newest.version);
            let progress = (self.receipts, version, coming);
            if progress != seen {
                (seen, quiet) = (progress, 0);
                until_ns = self.now_ns + bound_ns;
            }
            match self.unrest() {
                None => quiet += 1,
                Some(text) => (quiet, open) = (0, text),
            }
            if quiet >= quiet_steps {
                return Ok(());
            }
        }
        // If only messages are missing, say so by their promise.
        if self.unrest_besides_messages().is_none() {
            self.judge(Promise::AckedNeverLost, lost::arrived(&self.ledger));
        }
        self.judge(Promise::Rest, Err(format!("no rest after {:?}: {open}", self.settle_bound())));
        match self.checkers.violation.clone() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Whether devices must see everything that was acknowledged.
    fn pushes_everything(&self) -> bool {
        self.plan.offline == OfflineMode::Push && !self.plan.forgets() && !self.damaged
    }

    fn unrest(&self) -> Option<String> {
        self.unrest_besides_messages()
            .or_else(|| if self.pushes_everything() { lost::arrived(&self.ledger).err() } else { None })
    }

    fn unrest_besides_messages(&self) -> Option<String> {
        if let Some(text) = self.unrest_of_cluster() {
            return Some(text);
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.present) {
            if !node.up {
                return Some(format!("node {index} is down"));
            }
            if let Some(what) = node.under_way(self.now_ns, self.plan.nodes == 1) {
                return Some(format!("node {index} is busy: {what}"));
            }
            for host in &node.hosts {
                for (id, session) in host.gate.iter() {
                    if let Some(client_seq) = session.sends.keys().next() {
                        return Some(format!("SEND {client_seq} of session {id} has no answer"));
                    }
                    let device = self.connections[session.connection].device;
                    let waiting = session.window.waiting(&self.plan.limits).0;
                    if device.is_some() && waiting > 0 && !self.connections[session.connection].cut {
                        return Some(format!("{waiting} RECVs of session {id} have no RECVACK"));
                    }
                    if self.connections[session.connection].cut || session.closing {
                        return Some(format!("session {id} is dead and open"));
                    }
                }
            }
        }
        for device in self.devices.iter().filter(|device| !device.retired) {
            // One whose node died without a word believes for a while that it is connected.
            let reached = device.link.as_ref().is_some_and(|link| self.connections[link.connection].server_open);
            if !device.is_live() || !reached {
                return Some(format!("device {} has no connection", device.index));
            }
            if !device.is_done() {
                return Some(format!("device {} has {} SENDs without an answer", device.index, device.queue.len()));
            }
        }
        let calls = self.backend.calls().count();
        if calls > 0 { Some(format!("{calls} questions of backends are open")) } else { None }
    }

    /// The last questions, at rest.
    fn question(&mut self) -> Result<(), Violation> {
        // A PING may be on its way at any moment.
        for _ in 0..QUIET_STEPS {
            if self.unrest().is_some() {
                self.run_for(Duration::from_millis(1))?;
            }
        }
        if let Some(text) = self.unrest() {
            self.judge(Promise::Rest, Err(format!("rest did not last: {text}")));
        }
        let given_up = self.devices.iter().filter(|device| device.given_up > 0).count();
        // A repeat of a message that cannot be read back cannot be compared, so it is refused as long as that lasts.
        if given_up > 0 && !self.damaged && !self.plan.forgets() {
            self.judge(
                Promise::Endings,
                Err(format!("{given_up} devices had SENDs refused again and again in good times")),
            );
        }
        self.compare_replicas();
        let online = self.who_is_online()?;
        let real = self.really_online();
        self.judge(Promise::Presence, presence::agree(online, real));
        let whole = !self.plan.forgets() && !self.damaged;
        for a in 0..self.uids.len() {
            for b in a + 1..self.uids.len() {
                let found = self.read_log(a, b)?;
                let log = crate::ledger::pair_log(a, b);
                if whole {
                    self.checkers.log_read(self.now_ns, log, &found, false);
                    self.checkers.log_complete(self.now_ns, log, &found, &self.ledger);
                }
            }
        }
        for node in &self.nodes {
            for host in &node.hosts {
                host.shard.check_invariants();
            }
        }
        match self.checkers.violation.clone() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Live connections as their devices see them.
    fn really_online(&self) -> Vec<(usize, u8)> {
        self.devices.iter().filter(|device| device.is_live()).map(|device| (device.user, device.flag)).collect()
    }

    /// Looks for what is overdue.
    pub fn watch(&mut self) {
        self.after(WATCH_EVERY, Action::Watch);
        let (now_ns, well_ns) = (self.now_ns, self.well_since_ns());
        let patience = self.patience();
        let mut verdict = Ok(());
        for node in &self.nodes {
            for (id, session) in node.hosts.iter().flat_map(|host| host.gate.iter()) {
                if session.closing {
                    continue;
                }
                let send = session.sends.values().filter_map(|waiting| waiting.front()).min_by_key(|one| one.at_ns);
                if let Some(send) = send {
                    let what = || format!("a SEND of session {id} ({:?})", send.number);
                    verdict = verdict.and(endings::in_time(what, patience, now_ns, send.at_ns, well_ns));
                }
                if let Some(since_ns) = session.connect_ns {
                    let what = || format!("CONNECT of session {id}");
                    verdict = verdict.and(endings::in_time(what, patience, now_ns, since_ns, well_ns));
                }
            }
        }
        for call in self.backend.calls() {
            let what = || format!("a backend's question {call:?}");
            verdict = verdict.and(endings::in_time(what, patience, now_ns, call.since_ns, well_ns));
        }
        // Whoever talks rubbish is never let in, so that only the time for CONNECT counts, while the node is able to end anything.
        let patience = self.plan.limits.connect_timeout + endings::PATIENCE;
        let strangers = self.connections.iter().enumerate().filter(|(_, connection)| connection.device.is_none());
        for (index, connection) in strangers.filter(|(_, connection)| connection.at.is_some()) {
            let ran_ns = self.nodes[connection.node].ran_ns(now_ns) - connection.opened_ran_ns;
            if u128::from(ran_ns) > patience.as_nanos() {
                verdict = verdict.and(Err(format!("connection {index}, which talks rubbish, is still open")));
            }
        }
        self.judge(Promise::Endings, verdict);
        if now_ns - well_ns > 3_000_000_000 {
            self.release_kicks();
            let verdict = self.checkers.kicks.overdue(now_ns);
            self.judge(Promise::Kicks, verdict);
        }
    }
}
