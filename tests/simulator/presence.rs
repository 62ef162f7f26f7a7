//! Scenarios about who is online: many sessions of one leader, and sessions that are to go while the way to them is bad. Told as those in
//! `scenarios`.

use jindou::ids::{SlotId, Uid};

use crate::faults::Plan;
use crate::ledger::Family;
use crate::links::Machine;
use crate::outages::Outage;
use crate::stage::{Done, Script, Stage};
use crate::world::HostRef;

const ANA: usize = 0;

/// All of them by name.
pub const ALL: [(&str, Script); 3] = [
    ("datagrams-are-only-hints", datagrams_are_only_hints),
    ("many-sessions-of-one-leader", many_sessions_of_one_leader),
    ("a-quit-outlives-the-leader", a_quit_outlives_the_leader),
];

/// Their names alone are three times what a link takes at once.
const CROWD: usize = 400;

impl Stage {
    /// How often a link was given more than it takes.
    pub fn overflows(&self) -> u64 {
        let hosts = self.world.nodes.iter().flat_map(|node| &node.hosts);
        hosts.map(|host| host.shard.cluster_view().links.overflows).sum()
    }
}

/// The names of all sessions of a leader are more than a link takes: said at once they would reset it again and again.
fn many_sessions_of_one_leader(stage: &mut Stage) -> Done {
    let mut plan = Plan::quiet(1);
    plan.nodes = 3;
    plan.limits.sessions_max = CROWD;
    plan.network.client_us = (50, 500);
    let (depth, slot) = (plan.slot_depth, SlotId(0));
    stage.renew(plan);
    let names = (0u32..).map(|number| format!("{number}-{}", "of-many-who-have-a-long-name".repeat(4)));
    let ours = names.filter(|name| Uid::parse(name).is_ok_and(|uid| uid.key_hash().slot(depth) == slot));
    let names: Vec<String> = ours.take(CROWD).collect();
    stage.begin(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    stage.whole()?;
    let leader = stage.leader(ANA);
    for user in 0..CROWD {
        let device = stage.device(user, 0);
        stage.world.devices[device].address = (leader + 1) % 3;
        stage.connect(device)?;
    }
    let before = stage.overflows();
    // Leadership goes, and comes back.
    stage.world.stop_node(leader);
    stage.until("the node is down", |world| !world.nodes[leader].up)?;
    stage.is_back(leader)?;
    stage.whole()?;
    stage.wait(2_000)?;
    if stage.overflows() > before {
        return stage.fail("no link was given more than it takes");
    }
    stage.conclude()
}

/// The way to the gateway is cut when a device is told to go, and then the leader that told it so dies.
fn a_quit_outlives_the_leader(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let leader = stage.leader(ANA);
    let (gateway, asked) = ((leader + 1) % 3, (leader + 2) % 3);
    let ana = stage.phone_at(ANA, gateway)?;
    stage.world.devices[ana].retired = true;
    stage.outage(Outage::Apart(leader, gateway), 3_000);
    let family = Family { user: ANA, flag: 0 };
    stage.world.quit_at(HostRef { node: asked, shard: 0 }, family);
    stage.wait(300)?;
    stage.expect("it has not heard yet", |world| world.devices[ana].is_live())?;
    stage.kill(leader, Machine::Refuses, 10_000);
    stage.until("the device has gone", |world| world.devices[ana].link.is_none())?;
    stage.is_back(leader)?;
    stage.conclude()
}

/// No datagram arrives, so gossip says of everybody that they are down. Their links say otherwise, and who is online does not change.
fn datagrams_are_only_hints(stage: &mut Stage) -> Done {
    let mut plan = Plan::quiet(1);
    plan.nodes = 3;
    plan.cluster.links.lose_permille = 1_000;
    stage.renew(plan);
    stage.begin(&["ana", "bo", "cem", "dia", "eli", "fay"])?;
    stage.whole()?;
    for user in 0..6 {
        stage.phone_at(user, user % 3)?;
    }
    stage.wait(15_000)?;
    stage.conclude()
}
