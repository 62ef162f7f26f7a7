//! Scenarios about who is online: many sessions of one leader, and sessions that are to go while the way to them is bad. Told as those in
//! `scenarios`.

use jindou::ids::{SlotId, Uid};

use crate::faults::Plan;
use crate::ledger::Family;
use crate::links::Machine;
use crate::operator::Order;
use crate::outages::Outage;
use crate::stage::{Done, Script, Stage};
use crate::world::HostRef;

const ANA: usize = 0;

/// All of them by name.
pub const ALL: [(&str, Script); 4] = [
    ("who-stays-is-never-said-to-be-away", who_stays_is_never_said_to_be_away),
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

/// So many users of one slot, connected to one node that does not lead it. Returns who leads, and that node.
fn crowd(stage: &mut Stage, count: usize) -> Done<(usize, usize)> {
    let mut plan = Plan::quiet(1);
    plan.nodes = 3;
    plan.limits.sessions_max = count;
    plan.network.client_us = (50, 500);
    let (depth, slot) = (plan.slot_depth, SlotId(0));
    stage.renew(plan);
    let names = (0u32..).map(|number| format!("{number}-{}", "of-many-who-have-a-long-name".repeat(4)));
    let ours = names.filter(|name| Uid::parse(name).is_ok_and(|uid| uid.key_hash().slot(depth) == slot));
    let names: Vec<String> = ours.take(count).collect();
    stage.begin(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    stage.whole()?;
    let leader = stage.leader(ANA);
    let gateway = (leader + 1) % 3;
    for user in 0..count {
        let device = stage.device(user, 0);
        stage.world.devices[device].address = gateway;
        stage.connect(device)?;
    }
    Ok((leader, gateway))
}

/// The names of all sessions of a leader are more than a link takes: said at once they would reset it again and again.
fn many_sessions_of_one_leader(stage: &mut Stage) -> Done {
    let (leader, _) = crowd(stage, CROWD)?;
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

/// Leaders stop and die, slots are split and merged: a backend that asks at any node meanwhile hears that who stays is online, or nothing yet.
fn who_stays_is_never_said_to_be_away(stage: &mut Stage) -> Done {
    let (leader, gateway) = crowd(stage, CROWD / 2)?;
    let mut turn = 0;
    let mut asks_for = |stage: &mut Stage, ms: u64| -> Done {
        for _ in 0..ms / 3 {
            for node in 0..3 {
                turn += 1;
                stage.world.ask_whether_online(HostRef { node, shard: turn % 2 }, turn * 7 % (CROWD / 2));
            }
            stage.wait(3)?;
        }
        Ok(())
    };
    let other = 3 - leader - gateway;
    asks_for(stage, 200)?;
    for node in [leader, other] {
        stage.world.stop_node(node);
        asks_for(stage, 3_000)?;
        stage.is_back(node)?;
        asks_for(stage, 2_000)?;
        stage.kill(node, Machine::Refuses, 500);
        asks_for(stage, 4_000)?;
    }
    stage.world.operate(Order::Split);
    asks_for(stage, 3_000)?;
    stage.world.operate(Order::Merge);
    asks_for(stage, 6_000)?;
    stage.expect("most were answered", |world| world.backend.said_online > 7_000)?;
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
