//! Scenarios of what is said to a process that is not there any more, and arrives at the next one in its place. Told as those in `scenarios`.

use jindou::ids::SlotId;

use crate::faults::Plan;
use crate::ledger::pair_log;
use crate::links::Machine;
use crate::outages::Outage;
use crate::stage::{Done, Script, Stage};

const ANA: usize = 0;
const BO: usize = 1;
const PHONE: u8 = 0;

/// All of them by name.
pub const ALL: [(&str, Script); 2] = [
    ("an-answer-to-an-earlier-process", an_answer_to_an_earlier_process),
    ("a-welcome-to-an-earlier-process", a_welcome_to_an_earlier_process),
];

/// How long a leader can agree on nothing: less than it takes to be missed.
const HESITATION_MS: u64 = 300;

/// Four nodes of one shard, so that one of them holds nothing of a slot, and some users.
fn four_nodes(stage: &mut Stage, token_auth: bool) -> Done {
    let mut plan = Plan::quiet(1);
    (plan.nodes, plan.shards, plan.token_auth) = (4, 1, token_auth);
    stage.renew(plan);
    stage.begin(&["ana", "bo", "cem", "dia", "eli", "fay"])?;
    stage.whole()
}

/// Who leads a slot, and who holds nothing of it.
fn leader_and_outsider(stage: &Stage, slot: SlotId) -> (usize, usize) {
    let leader = stage.world.leader_of(slot).map_or(0, |host| host.node);
    let row = stage.world.newest_cluster().map(|cluster| cluster.rows[&slot].clone());
    let holds = |node: usize| {
        let id = stage.world.nodes[node].id;
        row.as_ref().is_some_and(|row| row.replicas.iter().any(|replica| replica.place().node == id))
    };
    (leader, (0..4).find(|node| !holds(*node)).expect("three replicas on four nodes"))
}

/// A leader hears only one other node for a while.
fn hesitates(stage: &mut Stage, leader: usize, gateway: usize) {
    for other in (0..4).filter(|node| *node != leader && *node != gateway) {
        stage.outage(Outage::Apart(leader, other), HESITATION_MS);
    }
}

/// A node dies, and is there again as another process that knows its cluster.
fn begins_again(stage: &mut Stage, node: usize) -> Done {
    stage.kill(node, Machine::Refuses, 20);
    stage.is_back(node)?;
    stage.until("it knows its cluster", |world| world.nodes[node].cluster.is_some())?;
    stage.wait(20)
}

/// Ana's message is taken by the leader, and agreed on when her node is another process, in which bo has sent one, as the first there too.
fn an_answer_to_an_earlier_process(stage: &mut Stage) -> Done {
    four_nodes(stage, false)?;
    let (leader, gateway) = leader_and_outsider(stage, stage.world.slot_of_log(pair_log(ANA, BO)));
    let (ana, bo) = (stage.phone_at(ANA, gateway)?, stage.phone_at(BO, gateway)?);
    stage.leave(bo)?;
    hesitates(stage, leader, gateway);
    let first = stage.send(ana, BO);
    stage.world.devices[ana].retired = true;
    stage.wait(20)?;
    begins_again(stage, gateway)?;
    stage.connect(bo)?;
    let second = stage.send(bo, ANA);
    stage.wait(20)?;
    stage.expect("nothing is agreed on yet", |world| !world.is_accepted(second) && !world.has_seen(bo, first))?;
    stage.until("it is answered", |world| world.is_accepted(second))?;
    stage.sees(bo, first)?;
    stage.world.devices[ana].retired = false;
    stage.conclude()
}

/// The same with a CONNECT: what is said to ana is heard by whoever has her session's number in the next process, and has a wrong token. His home
/// is silent meanwhile.
fn a_welcome_to_an_earlier_process(stage: &mut Stage) -> Done {
    four_nodes(stage, true)?;
    let (leader, gateway) = leader_and_outsider(stage, stage.world.slot_of_user(ANA));
    let other = (1..6).find(|user| ![leader, gateway].contains(&stage.leader(*user)));
    let Some(other) = other else { return stage.fail("somebody's home is led elsewhere") };
    let (ana, stranger) = (stage.device(ANA, PHONE), stage.device(other, PHONE));
    for device in [ana, stranger] {
        stage.world.devices[device].token = None;
        stage.world.devices[device].address = gateway;
    }
    stage.until("tokens are stored", |world| world.devices.iter().all(|device| device.token.is_some()))?;
    hesitates(stage, leader, gateway);
    stage.world.connect(ana);
    stage.wait(20)?;
    stage.expect("she waits", |world| world.devices[ana].link.is_some() && !world.devices[ana].is_live())?;
    stage.world.devices[ana].retired = true;
    stage.outage(Outage::Apart(gateway, stage.leader(other)), 3_000);
    begins_again(stage, gateway)?;
    stage.world.devices[stranger].token = Some("of somebody else".to_owned());
    stage.world.connect(stranger);
    for _ in 0..1_000 {
        stage.wait(1)?;
        stage.expect("a stranger is not let in", |world| !world.devices[stranger].is_live())?;
    }
    stage.world.devices[stranger].retired = true;
    stage.until("he is refused", |world| world.devices[stranger].link.is_none())?;
    stage.conclude()
}
