//! A stage for hand-written scenarios: a quiet world in which nothing happens but what the script says. Its verbs read as a story
//! and end it at the first broken promise.

use std::time::Duration;

use jindou::limits::Limits;

use crate::checkers::{Promise, Violation};
use crate::client::Oddity;
use crate::faults::Plan;
use crate::ledger::{Kind, Number};
use crate::wire::Transport;
use crate::world::World;

/// What a scenario is.
pub type Script = fn(&mut Stage) -> Result<(), Violation>;

/// How long something that a script waits for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The world of a script.
pub struct Stage {
    /// Everything else.
    pub world: World,
    verbose: bool,
}

/// Outcome of a verb.
pub type Done<T = ()> = Result<T, Violation>;

impl Stage {
    /// One node with two shards, tiny limits, no faults; not yet begun.
    pub fn new(verbose: bool) -> Stage {
        let mut world = World::new(Plan::quiet(1), None, verbose);
        world.scripted = true;
        Stage { world, verbose }
    }

    /// So many nodes instead of one, and some that may join. To be said first.
    pub fn cluster(&mut self, nodes: u16, spares: u16) {
        let mut plan = Plan::quiet(1);
        plan.nodes = nodes;
        plan.cluster.spares = spares;
        self.renew(plan);
    }

    /// Another world, not yet begun.
    pub fn renew(&mut self, plan: Plan) {
        self.world = World::new(plan, None, self.verbose);
        self.world.scripted = true;
    }

    /// Changes bounds before the beginning; the shards take them with them.
    pub fn limits(&mut self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.world.plan.limits);
    }

    /// Names users and starts the node.
    pub fn begin(&mut self, users: &[&str]) -> Done {
        self.world.uids = users.iter().map(|name| (*name).to_owned()).collect();
        self.world.begin();
        self.wait(100)
    }

    /// Adds a device of a user with plain habits: TCP, version 5, acknowledges and reads at once, one device id.
    pub fn device(&mut self, user: usize, flag: u8) -> usize {
        let index = self.world.add_device(user, flag);
        let habits = &mut self.world.devices[index].habits;
        habits.transport = Transport::Tcp;
        habits.version = 5;
        habits.steady_id = true;
        habits.ack_delay_ns = 0;
        habits.forget_permille = 0;
        habits.double_permille = 0;
        habits.read_bytes = 0;
        habits.eager = false;
        self.world.devices[index].token = Some(String::new());
        index
    }

    /// Lets milliseconds pass.
    pub fn wait(&mut self, ms: u64) -> Done {
        self.world.run_for(Duration::from_millis(ms))
    }

    /// Waits until something is so.
    pub fn until(&mut self, what: &str, so: impl Fn(&World) -> bool) -> Done {
        self.wait_for(what, 5, |world| so(world))
    }

    /// Asks for something each second until it is so.
    pub fn until_asked(&mut self, what: &str, ask: impl FnMut(&mut World) -> bool) -> Done {
        self.wait_for(what, 1000, ask)
    }

    fn wait_for(&mut self, what: &str, every_ms: u64, mut so: impl FnMut(&mut World) -> bool) -> Done {
        let patience = PATIENCE * if self.world.plan.nodes > 1 { 3 } else { 1 };
        let until_ns = self.world.now_ns + patience.as_nanos() as u64;
        while self.world.now_ns < until_ns {
            if so(&mut self.world) {
                return Ok(());
            }
            self.wait(every_ms)?;
        }
        self.fail(what)
    }

    /// What the script expected is not so.
    pub fn fail(&mut self, what: &str) -> Done {
        let unrest = self.world.unrest_of_cluster().unwrap_or_default();
        let text = format!("the script waits in vain: {what}: {unrest}");
        Err(Violation { promise: Promise::Rest, text, at_ns: self.world.now_ns })
    }

    /// Demands that something is so now.
    pub fn expect(&mut self, what: &str, so: impl Fn(&World) -> bool) -> Done {
        if so(&self.world) { Ok(()) } else { self.fail(what) }
    }

    /// Connects a device and waits until it is live.
    pub fn connect(&mut self, device: usize) -> Done {
        self.world.connect(device);
        self.until("a device connects", |world| world.devices[device].is_live())
    }

    /// A device of each of the first so many users connects, to one of the first so many nodes in turn.
    pub fn everybody_connects(&mut self, users: usize, nodes: usize) -> Done<Vec<usize>> {
        let mut devices = Vec::new();
        for user in 0..users {
            let device = self.device(user, 0);
            self.world.devices[device].address = user % nodes;
            self.connect(device)?;
            devices.push(device);
        }
        Ok(devices)
    }

    /// Connects a device that is to be refused, and waits for that.
    pub fn connect_in_vain(&mut self, device: usize) -> Done {
        self.world.connect(device);
        self.until("a device is refused", |world| world.devices[device].link.is_none())
    }

    /// A device closes its connection.
    pub fn leave(&mut self, device: usize) -> Done {
        self.world.client_closes(device, 0);
        self.wait(50)
    }

    /// A device is gone without a word.
    pub fn vanish(&mut self, device: usize) {
        self.world.vanish(device);
        let now_ns = self.world.now_ns;
        self.world.devices[device].lost(now_ns, 0);
    }

    /// Sends a stored message.
    pub fn send(&mut self, device: usize, to: usize) -> Number {
        self.world.send(device, to, Kind::Stored, 60, None)
    }

    /// Sends a message of another kind, or a wrong one.
    pub fn send_as(&mut self, device: usize, to: usize, kind: Kind, odd: Option<Oddity>) -> Number {
        self.world.send(device, to, kind, 60, odd)
    }

    /// Waits until every SEND of a device has its answer.
    pub fn answered(&mut self, device: usize) -> Done {
        self.until("every SEND is answered", |world| world.devices[device].is_done())
    }

    /// Waits until a device's family has seen a message.
    pub fn sees(&mut self, device: usize, number: Number) -> Done {
        self.until("a device sees a message", |world| world.has_seen(device, number))
    }

    /// Cuts the power; the node is back when this returns.
    pub fn crash(&mut self) -> Done {
        self.world.crash_node(0);
        self.until("the node is back", |world| world.nodes[0].is_ready())
    }

    /// Stops the node in order; it is back when this returns.
    pub fn restart(&mut self) -> Done {
        self.world.stop_node(0);
        self.until("the node is down", |world| !world.nodes[0].up)?;
        self.until("the node is back", |world| world.nodes[0].is_ready())
    }

    /// Everybody connects, everything comes to rest, and the last questions are asked.
    pub fn conclude(&mut self) -> Done {
        self.world.scripted = false;
        self.world.conclude()
    }
}

impl World {
    /// Whether a device's family has seen a message.
    pub fn has_seen(&self, device: usize, number: Number) -> bool {
        let family = self.devices[device].family();
        self.ledger.sent.get(&number).is_some_and(|sent| sent.seen_by.contains(&family))
    }

    /// Whether a message was answered with success.
    pub fn is_accepted(&self, number: Number) -> bool {
        self.ledger.sent.get(&number).is_some_and(|sent| sent.accepted.is_some())
    }
}
