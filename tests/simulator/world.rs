//! A whole cluster in one thread: nodes with their shards and disks, devices, the network between them, and a queue of what
//! happens next under virtual time. Everything that happens is dispatched here, one thing at a time, and recorded; how
//! each is carried out is in `node`, `gateway`, `people`, `backend` and `rest`.
//!
//! The network between nodes is `links`, what goes wrong on it `outages`, what an operator does `operator`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use jindou::engine::event::Event;
use jindou::format::frame::Frame;
use jindou::ids::{Place, SessionId};

use crate::backend::Backend;
use crate::chance::{Chance, Chances};
use crate::checkers::{Checkers, Promise, Violation};
use crate::client::Device;
use crate::coverage::Coverage;
use crate::disk::Request;
use crate::faults::Plan;
use crate::ledger::Ledger;
use crate::links::{LinkStep, Links};
use crate::network::Connection;
use crate::node::{Node, NodeFault};
use crate::operator::Order;
use crate::outages::{Outage, Outages};
use crate::sabotage::Sabotage;
use crate::shard_host::GateSession;
use crate::trace::Trace;

/// Most things that may happen in a simulation: more is a loop.
const DISPATCHED_MAX: u64 = 20_000_000;

/// A shard of a node, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRef {
    /// Index of the node.
    pub node: usize,
    /// Index of the shard.
    pub shard: usize,
}

impl std::fmt::Display for HostRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} shard {}", self.node, self.shard)
    }
}

/// Something due at a time.
pub enum Action {
    /// A shard's turn.
    Turn(HostRef, u64),
    /// A disk request finishes.
    DiskDone(HostRef, u64, Request),
    /// Frames arrive over the mesh.
    Mesh(HostRef, u64, Place, Vec<Frame>),
    /// A session arrives from another shard.
    MoveIn(HostRef, u64, Box<GateSession>),
    /// A connection reaches its node.
    Accept(usize),
    /// Bytes reach the node.
    ToServer(usize, Vec<u8>),
    /// The client's end reaches the node.
    ToServerEnd(usize),
    /// Bytes reach the client.
    ToClient(usize, Vec<u8>),
    /// The node's end reaches the client.
    ToClientEnd(usize),
    /// The node's socket has room again.
    Drain(usize),
    /// A closing session has had its time to be written out.
    CloseNow(HostRef, u64, SessionId),
    /// A device looks at what is to be done.
    DeviceTick(usize),
    /// A backend does something.
    BackendTick,
    /// Somebody talks rubbish.
    RubbishTick,
    /// Something goes wrong with a node.
    Fault(usize, NodeFault),
    /// It ends.
    FaultEnds(HostRef, NodeFault),
    /// A node that is down starts.
    Start(usize),
    /// Something on the network between nodes.
    Link(LinkStep),
    /// Something goes wrong between nodes.
    OutageTick,
    /// As planned.
    OutageBegins(Outage),
    /// It ends.
    OutageEnds(Outage),
    /// An operator does something.
    Operate(Order),
    /// Checks that need only be made now and then.
    Watch,
}

struct Scheduled {
    at_ns: u64,
    order: u64,
    action: Action,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at_ns, self.order) == (other.at_ns, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

/// Whether anything is wrong at the moment, and since when nothing has been.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    active: u32,
    well_since_ns: u64,
}

/// The simulation.
pub struct World {
    /// What was drawn.
    pub plan: Plan,
    /// Virtual time.
    pub now_ns: u64,
    /// Streams of draws.
    pub chances: Chances,
    /// The history's number.
    pub trace: Trace,
    /// What is true.
    pub ledger: Ledger,
    /// Who judges.
    pub checkers: Checkers,
    /// Machines.
    pub nodes: Vec<Node>,
    /// The network between nodes.
    pub links: Links,
    /// What is wrong with it, and with whole nodes.
    pub outages: Outages,
    /// Connections, past and present.
    pub connections: Vec<Connection>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Users' names, by index.
    pub uids: Vec<String>,
    /// Backends.
    pub backend: Backend,
    /// What the simulator breaks on purpose.
    pub sabotage: Option<Sabotage>,
    /// When it does so.
    pub saboteur: Chance,
    /// What has happened.
    pub coverage: Coverage,
    /// Faults are over.
    pub healed: bool,
    /// Nobody acts by themselves: a script does.
    pub scripted: bool,
    /// RECVs that devices have taken.
    pub receipts: u64,
    /// What goes straight from a leader to a session on the same node is lost.
    pub loses_straight: bool,
    /// History may have been lost on purpose (damage that was reported).
    pub damaged: bool,
    trouble: Trouble,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    dispatched: u64,
}

impl World {
    /// Everything in place, nothing started.
    pub fn new(plan: Plan, sabotage: Option<Sabotage>, verbose: bool) -> World {
        let seed = plan.seed;
        let only = sabotage.map(Sabotage::caught_by).filter(|promise| *promise != Promise::Replay);
        let mut chances = Chances::new(seed);
        let count = plan.nodes + plan.cluster.spares;
        let nodes: Vec<Node> = (0..count).map(|index| Node::new(index, &plan, &mut chances)).collect();
        World {
            now_ns: 0,
            trace: Trace::new(verbose),
            ledger: Ledger::default(),
            checkers: Checkers::new(only, plan.limits.dedupe_window),
            links: Links::new(plan.cluster.links, nodes.len()),
            outages: Outages::default(),
            nodes,
            connections: Vec::new(),
            devices: Vec::new(),
            uids: Vec::new(),
            backend: Backend::default(),
            sabotage,
            saboteur: Chance::new(seed, "sabotage"),
            coverage: Coverage::default(),
            healed: false,
            scripted: false,
            receipts: 0,
            loses_straight: false,
            damaged: false,
            trouble: Trouble::default(),
            queue: BinaryHeap::new(),
            order: 0,
            dispatched: 0,
            chances,
            plan,
        }
    }

    /// Something is due after a span.
    pub fn after(&mut self, span: Duration, action: Action) {
        self.at(self.now_ns + span.as_nanos() as u64, action);
    }

    /// Something is due at a time.
    pub fn at(&mut self, at_ns: u64, action: Action) {
        self.order += 1;
        let at_ns = at_ns.max(self.now_ns);
        self.queue.push(Reverse(Scheduled { at_ns, order: self.order, action }));
    }

    /// A shard's turn is due at a time, or earlier if it already is.
    pub fn turn_at(&mut self, host: HostRef, at_ns: u64) {
        let at_ns = at_ns.max(self.now_ns);
        let life = self.nodes[host.node].life;
        let Some(target) = self.nodes[host.node].hosts.get_mut(host.shard) else { return };
        if target.turn_ns.is_none_or(|due_ns| at_ns < due_ns) {
            target.turn_ns = Some(at_ns);
            self.at(at_ns, Action::Turn(host, life));
        }
    }

    /// Something happened to a shard; its turn follows soon.
    pub fn happen(&mut self, host: HostRef, event: Event) {
        let Some(target) = self.nodes[host.node].hosts.get_mut(host.shard) else { return };
        if target.inbox.is_empty() {
            target.waits_since_ns = self.now_ns;
        }
        target.inbox.push_back(event);
        let pause_ns = self.chances.network.between(1_000, 20_000);
        self.turn_at(host, self.now_ns + pause_ns);
    }

    /// Lets time pass until `until_ns`, or until a promise is broken.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run_until(&mut self, until_ns: u64) -> Result<(), Violation> {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at_ns > until_ns {
                break;
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            assert!(next.at_ns >= self.now_ns, "time does not run backwards");
            self.now_ns = next.at_ns;
            self.dispatched += 1;
            self.dispatch(next.action);
            if self.dispatched > DISPATCHED_MAX {
                let text = format!("more than {DISPATCHED_MAX} things happened");
                self.judge(Promise::Rest, Err(text));
            }
            if let Some(violation) = self.checkers.violation.clone() {
                return Err(violation);
            }
        }
        self.now_ns = self.now_ns.max(until_ns);
        Ok(())
    }

    /// As [`World::run_until`], by span.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        self.run_until(self.now_ns + span.as_nanos() as u64)
    }

    /// Takes a verdict.
    pub fn judge(&mut self, promise: Promise, verdict: Result<(), String>) {
        self.checkers.judge(promise, self.now_ns, verdict);
    }

    /// A line for people.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        self.trace.say(self.now_ns, line);
    }

    /// True in about one of `count` cases, when this canary is on.
    pub fn sabotages(&mut self, sabotage: Sabotage, count: u64) -> bool {
        self.sabotage == Some(sabotage) && self.saboteur.one_in(count)
    }

    /// Something begins to be wrong.
    pub fn trouble_begins(&mut self) {
        self.trouble.active += 1;
    }

    /// Something that was wrong is over.
    pub fn trouble_ends(&mut self) {
        assert!(self.trouble.active > 0, "trouble ends that never began");
        self.trouble.active -= 1;
        self.trouble.well_since_ns = self.now_ns;
    }

    /// Something was wrong for a moment.
    pub fn trouble_strikes(&mut self) {
        self.trouble.well_since_ns = self.now_ns;
    }

    /// Since when nothing has been wrong; now, if something is.
    pub fn well_since_ns(&self) -> u64 {
        if self.trouble.active == 0 { self.trouble.well_since_ns } else { self.now_ns }
    }

    /// How many things have happened.
    pub fn dispatched(&self) -> u64 {
        self.dispatched
    }

    /// Plans what the network between nodes has begun, and tells shards what they hear of it.
    pub fn settle_links(&mut self) {
        for (at_ns, step) in std::mem::take(&mut self.links.due) {
            self.at(at_ns, Action::Link(step));
        }
        for (host, event) in std::mem::take(&mut self.links.heard) {
            match &event {
                Event::LinkBytes { bytes, .. } => self.trace.record(self.now_ns, "link", host.node as u64, bytes),
                Event::Datagram { .. } => {}
                other => self.trace.say(self.now_ns, || format!("{host} hears {other:?}")),
            }
            self.happen(host, event);
        }
    }

    fn dispatch(&mut self, action: Action) {
        let now_ns = self.now_ns;
        match action {
            Action::Turn(host, life) => self.turn(host, life),
            Action::DiskDone(host, life, request) => self.disk_done(host, life, request),
            Action::Mesh(host, life, from, frames) => {
                if self.nodes[host.node].life == life {
                    self.trace.record(now_ns, "mesh", host.shard as u64, &[frames.len() as u8]);
                    self.happen(host, Event::Frames { from, frames });
                }
            }
            Action::MoveIn(host, life, session) => self.move_in(host, life, *session),
            Action::Accept(connection) => self.accept(connection),
            Action::ToServer(connection, bytes) => {
                self.trace.record(now_ns, "in", connection as u64, &bytes);
                self.arrive(connection, bytes);
            }
            Action::ToServerEnd(connection) => {
                self.trace.record(now_ns, "in end", connection as u64, &[]);
                self.arrive_end(connection);
            }
            Action::ToClient(connection, bytes) => {
                self.trace.record(now_ns, "out", connection as u64, &bytes);
                self.reach_client(connection, bytes);
            }
            Action::ToClientEnd(connection) => {
                self.trace.record(now_ns, "out end", connection as u64, &[]);
                self.reach_client_end(connection);
            }
            Action::Drain(connection) => self.drain(connection),
            Action::CloseNow(host, life, session) => {
                if self.nodes[host.node].life == life {
                    self.close_session(host, session);
                }
            }
            Action::DeviceTick(device) => self.device_tick(device),
            Action::BackendTick => self.backend_tick(),
            Action::RubbishTick => self.rubbish_tick(),
            Action::Fault(node, fault) => self.strike(node, fault),
            Action::FaultEnds(host, fault) => self.fault_ends(host, fault),
            Action::Start(node) => self.start_node(node),
            Action::Link(step) => {
                self.links.step(now_ns, step, &mut self.chances.links);
                self.settle_links();
            }
            Action::OutageTick => self.outage_tick(),
            Action::OutageBegins(outage) => self.outage_begins(outage),
            Action::OutageEnds(outage) => self.outage_ends(outage),
            Action::Operate(order) => self.operate(order),
            Action::Watch => self.watch(),
        }
    }
}
