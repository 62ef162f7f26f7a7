//! Scenarios of several nodes, told as those of one in `scenarios`.

use std::time::Duration;

use jindou::engine::metadata::MemberState;

use crate::client::Oddity;
use crate::ledger::{Kind, Number};
use crate::links::Machine;
use crate::operator::Order;
use crate::outages::Outage;
use crate::people::HALF_UPGRADE;
use crate::stage::{Done, Script, Stage};
use crate::wire::Transport;
use crate::world::{Action, World};

const ANA: usize = 0;
const BO: usize = 1;
const PHONE: u8 = 0;

/// All of them by name.
pub const ALL: [(&str, Script); 29] = [
    ("three-nodes-form-and-talk", three_nodes_form_and_talk),
    ("five-nodes-lose-two", five_nodes_lose_two),
    ("leader-killed-under-load", leader_killed_under_load),
    ("leader-hangs-and-comes-back", leader_hangs_and_comes_back),
    ("one-way-cut", one_way_cut),
    ("minority-and-majority", minority_and_majority),
    ("restart-with-some-lag", restart_with_some_lag),
    ("restart-with-much-lag", restart_with_much_lag),
    ("lost-disk-is-rebuilt", lost_disk_is_rebuilt),
    ("a-fourth-node-joins", a_fourth_node_joins),
    ("a-node-is-drained", a_node_is_drained),
    ("rolling-restart", rolling_restart),
    ("flaps-while-sending", flaps_while_sending),
    ("connections-break-while-sending", connections_break_while_sending),
    ("all-nodes-lose-their-power", all_nodes_lose_their_power),
    ("a-master-elsewhere-ends-the-others", a_master_elsewhere_ends_the_others),
    ("a-master-that-has-gone-ends-the-others", a_master_that_has_gone_ends_the_others),
    ("who-comes-back-too-hears-of-the-master", who_comes_back_too_hears_of_the_master),
    ("a-fault-of-its-own-before-the-master", a_fault_of_its_own_before_the_master),
    ("who-asks-twice-comes-once", who_asks_twice_comes_once),
    ("who-is-told-later-did-not-come-later", who_is_told_later_did_not_come_later),
    ("a-device-changes-its-node", a_device_changes_its_node),
    ("a-lonely-node-refuses", a_lonely_node_refuses),
    ("many-catch-up-over-one-link", many_catch_up_over_one_link),
    ("many-are-sent-to-over-one-link", many_are_sent_to_over_one_link),
    ("every-slot-has-its-say", every_slot_has_its_say),
    ("a-stranger-at-a-node-that-hangs", a_stranger_at_a_node_that_hangs),
    ("what-a-former-leader-delivers-comes-late", what_a_former_leader_delivers_comes_late),
    ("what-a-former-leader-knows-comes-late", what_a_former_leader_knows_comes_late),
];

impl Stage {
    /// So many nodes that have found each other, and some that may join.
    pub fn found(&mut self, nodes: u16, spares: u16) -> Done {
        self.cluster(nodes, spares);
        self.begin(&["ana", "bo"])?;
        self.whole()
    }

    /// Waits until the cluster is as it should be.
    pub fn whole(&mut self) -> Done {
        let whole = self.until("the cluster is whole", |world| world.unrest_of_cluster().is_none());
        whole.map_err(|mut violation| {
            violation.text.push_str(&self.world.unrest_of_cluster().map_or(String::new(), |why| format!(": {why}")));
            violation
        })
    }

    /// Who leads the home of a user, as a node.
    pub fn leader(&self, user: usize) -> usize {
        self.world.leader_of(self.world.slot_of_user(user)).map_or(0, |host| host.node)
    }

    /// A phone that is connected to a node.
    pub fn phone_at(&mut self, user: usize, node: usize) -> Done<usize> {
        let device = self.device(user, PHONE);
        self.world.devices[device].address = node;
        self.connect(device)?;
        Ok(device)
    }

    /// Ana and bo, connected to nodes that do not lead ana's home.
    pub fn pair_away_from_leader(&mut self) -> Done<(usize, usize, usize)> {
        let leader = self.leader(ANA);
        let nodes = usize::from(self.world.plan.nodes);
        let ana = self.phone_at(ANA, (leader + 1) % nodes)?;
        let bo = self.phone_at(BO, (leader + 2) % nodes)?;
        Ok((ana, bo, leader))
    }

    /// Both send to each other for so many rounds of some milliseconds.
    pub fn chat(&mut self, ana: usize, bo: usize, rounds: usize, ms: u64) -> Done<Vec<(usize, Number)>> {
        let mut sent = Vec::new();
        for _ in 0..rounds {
            sent.push((bo, self.send(ana, BO)));
            sent.push((ana, self.send(bo, ANA)));
            self.wait(ms)?;
        }
        Ok(sent)
    }

    /// Everything of a chat has arrived.
    pub fn all_arrive(&mut self, sent: &[(usize, Number)]) -> Done {
        for (device, number) in sent {
            self.sees(*device, *number)?;
        }
        Ok(())
    }

    /// A stranger connects to a node and says half of something.
    fn begins_a_request(&mut self, node: usize) -> usize {
        self.world.talk_rubbish(node, Transport::Tcp, HALF_UPGRADE.to_vec())
    }

    pub fn outage(&mut self, outage: Outage, ms: u64) {
        self.world.outage_begins(outage);
        self.world.after(Duration::from_millis(ms), Action::OutageEnds(outage));
    }

    pub fn kill(&mut self, node: usize, machine: Machine, ms: u64) {
        self.world.crash_node_for(node, machine, Duration::from_millis(ms));
    }
}

fn three_nodes_form_and_talk(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let ana = stage.phone_at(ANA, 0)?;
    for node in 0..3 {
        let bo = stage.phone_at(BO, node)?;
        let sent = stage.chat(ana, bo, 5, 20)?;
        stage.all_arrive(&sent)?;
        stage.leave(bo)?;
        stage.world.devices[bo].retired = true;
    }
    stage.conclude()
}

fn five_nodes_lose_two(stage: &mut Stage) -> Done {
    stage.found(5, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.kill(leader, Machine::Dark, 8_000);
    stage.kill((leader + 4) % 5, Machine::Refuses, 8_000);
    let sent = stage.chat(ana, bo, 20, 50)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

fn leader_killed_under_load(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    for machine in [Machine::Refuses, Machine::Dark] {
        let (ana, bo, leader) = stage.pair_away_from_leader()?;
        let before = stage.chat(ana, bo, 5, 10)?;
        stage.kill(leader, machine, 4_000);
        let during = stage.chat(ana, bo, 20, 50)?;
        stage.all_arrive(&before)?;
        stage.all_arrive(&during)?;
        stage.whole()?;
        stage.leave(ana)?;
        stage.leave(bo)?;
        stage.world.devices[ana].retired = true;
        stage.world.devices[bo].retired = true;
    }
    let (ana, bo) = (stage.phone_at(ANA, 0)?, stage.phone_at(BO, 1)?);
    let sent = stage.chat(ana, bo, 2, 10)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

fn leader_hangs_and_comes_back(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.outage(Outage::Hung(leader), 5_000);
    let sent = stage.chat(ana, bo, 50, 50)?;
    stage.all_arrive(&sent)?;
    stage.expect("somebody else leads while it hangs", |world| {
        world.leader_of(world.slot_of_user(ANA)).is_some_and(|host| host.node != leader)
    })?;
    stage.wait(4_000)?;
    let sent = stage.chat(ana, bo, 5, 10)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

fn one_way_cut(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    for (from, to) in [(leader, (leader + 1) % 3), ((leader + 1) % 3, leader), (leader, (leader + 2) % 3)] {
        stage.outage(Outage::Deaf(from, to), 5_000);
        let sent = stage.chat(ana, bo, 20, 50)?;
        stage.wait(5_000)?;
        stage.all_arrive(&sent)?;
    }
    stage.conclude()
}

fn minority_and_majority(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let leader = stage.leader(ANA);
    let lonely = stage.phone_at(ANA, leader)?;
    let bo = stage.phone_at(BO, (leader + 1) % 3)?;
    let ana = stage.device(ANA, 1);
    stage.world.devices[ana].address = (leader + 2) % 3;
    stage.connect(ana)?;
    stage.outage(Outage::Isolated(leader), 8_000);
    let during = stage.send(lonely, BO);
    // The majority finds another leader and goes on.
    stage.wait(4_000)?;
    let sent = stage.send(ana, BO);
    stage.sees(bo, sent)?;
    stage.expect("what the minority took is not acknowledged", |world| !world.is_accepted(during))?;
    stage.sees(bo, during)?;
    stage.conclude()
}

fn restart_with_some_lag(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.kill(leader, Machine::Refuses, 2_000);
    let sent = stage.chat(ana, bo, 30, 100)?;
    stage.all_arrive(&sent)?;
    stage.whole()?;
    stage.conclude()
}

fn restart_with_much_lag(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    stage.limits(|limits| limits.replay_bytes_max = 64 << 10);
    stage.world.plan.retention.bytes = (3 * 64) << 10;
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, _, leader) = stage.pair_away_from_leader()?;
    stage.kill(leader, Machine::Refuses, 20_000);
    for _ in 0..25 {
        for _ in 0..8 {
            stage.world.send(ana, BO, Kind::Stored, 3_000, None);
        }
        stage.answered(ana)?;
    }
    stage.until("the node is back", |world| world.nodes[leader].up)?;
    stage.whole()?;
    stage.conclude()
}

fn lost_disk_is_rebuilt(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    let before = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&before)?;
    stage.world.wipe_node(leader);
    let during = stage.chat(ana, bo, 10, 50)?;
    stage.all_arrive(&during)?;
    stage.until("the node is back", |world| world.nodes[leader].up)?;
    stage.whole()?;
    // Now another one: what the first has is what was rebuilt.
    stage.kill((leader + 1) % 3, Machine::Refuses, 3_000);
    stage.conclude()
}

fn a_fourth_node_joins(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    stage.world.operate(Order::Join(3));
    let sent = stage.chat(ana, bo, 30, 50)?;
    stage.all_arrive(&sent)?;
    stage.whole()?;
    stage.until("it holds its share", |world| {
        world.nodes[3].hosts.iter().any(|host| host.shard.led().next().is_some())
    })?;
    stage.conclude()
}

fn a_node_is_drained(stage: &mut Stage) -> Done {
    stage.found(4, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.world.operate(Order::Drain(leader));
    let sent = stage.chat(ana, bo, 30, 50)?;
    stage.all_arrive(&sent)?;
    let id = stage.world.nodes[leader].id;
    stage.until("it is draining and holds nothing", |world| {
        world.newest_cluster().is_some_and(|cluster| {
            cluster.members[&id].state == MemberState::Draining
                && cluster.rows.values().all(|row| row.replicas.iter().all(|replica| replica.place().node != id))
        })
    })?;
    stage.conclude()
}

fn rolling_restart(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    for node in 0..3 {
        let ana = stage.phone_at(ANA, (node + 1) % 3)?;
        let bo = stage.phone_at(BO, (node + 2) % 3)?;
        stage.world.stop_node(node);
        let sent = stage.chat(ana, bo, 20, 50)?;
        stage.all_arrive(&sent)?;
        stage.until("the node is back", |world| world.nodes[node].up && !world.nodes[node].stopping)?;
        stage.whole()?;
        stage.leave(ana)?;
        stage.leave(bo)?;
        stage.world.devices[ana].retired = node < 2;
        stage.world.devices[bo].retired = node < 2;
    }
    stage.conclude()
}

fn flaps_while_sending(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    for other in 1..3 {
        stage.world.flap(leader, (leader + other) % 3);
        let sent = stage.chat(ana, bo, 40, 50)?;
        stage.all_arrive(&sent)?;
    }
    stage.conclude()
}

fn connections_break_while_sending(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    for _ in 0..20 {
        let sent = stage.chat(ana, bo, 3, 5)?;
        stage.world.break_connection();
        stage.all_arrive(&sent)?;
    }
    stage.conclude()
}

fn all_nodes_lose_their_power(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let sent = stage.chat(ana, bo, 10, 20)?;
    stage.answered(ana)?;
    stage.world.site_fails();
    stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
    stage.whole()?;
    for device in [ana, bo] {
        stage.world.client_closes(device, 0);
        stage.connect(device)?;
    }
    stage.all_arrive(&sent)?;
    stage.conclude()
}

fn a_master_elsewhere_ends_the_others(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    let (old, new) = two_masters(stage)?;
    stage.world.devices[new].address = 1;
    stage.connect(old)?;
    stage.connect(new)?;
    stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
    stage.expect("with notice", |world| world.checkers.kicks.carried_out == 1)?;
    stage.conclude()
}

/// Two phones of ana in a cluster that is described already: each ends the other.
fn two_masters(stage: &mut Stage) -> Done<(usize, usize)> {
    stage.world.plan.token_auth = true;
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    stage.world.backend.make_master("ana", PHONE);
    let (old, new) = (stage.device(ANA, PHONE), stage.device(ANA, PHONE));
    for device in [old, new] {
        stage.world.devices[device].token = None;
        stage.world.devices[device].address = 0;
    }
    stage.until("the token is stored", |world| world.devices.iter().all(|device| device.token.is_some()))?;
    Ok((old, new))
}

/// One phone's node is cut off from the others, and their leader is a new one that has not heard of the phone. The other phone comes meanwhile.
fn a_master_unheard_of(stage: &mut Stage) -> Done<(usize, usize, Outage)> {
    stage.cluster(3, 0);
    let (old, new) = two_masters(stage)?;
    let leader = stage.leader(ANA);
    let away = (leader + 1) % 3;
    stage.world.devices[old].address = away;
    stage.connect(old)?;
    let outage = Outage::Isolated(away);
    stage.world.outage_begins(outage);
    stage.kill(leader, Machine::Refuses, 300);
    let slot = stage.world.slot_of_user(ANA);
    stage.until("the leader is gone", |world| world.leader_of(slot).is_none())?;
    stage.until("the others have a leader", |world| world.leader_of(slot).is_some_and(|host| host.node != away))?;
    stage.world.devices[new].address = stage.leader(ANA);
    stage.connect(new)?;
    Ok((old, new, outage))
}

fn a_master_that_has_gone_ends_the_others(stage: &mut Stage) -> Done {
    let (old, new, outage) = a_master_unheard_of(stage)?;
    stage.leave(new)?;
    stage.world.devices[new].retired = true;
    stage.world.outage_ends(outage);
    stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
    stage.expect("with notice", |world| world.checkers.kicks.carried_out == 1)?;
    stage.conclude()
}

fn who_comes_back_too_hears_of_the_master(stage: &mut Stage) -> Done {
    let (old, new, outage) = a_master_unheard_of(stage)?;
    stage.vanish(old);
    stage.world.connect(old);
    stage.leave(new)?;
    stage.world.devices[new].retired = true;
    stage.world.outage_ends(outage);
    stage.until("the device is back", |world| world.devices[old].is_live())?;
    stage.until("the old connection has ended", |world| world.checkers.kicks.carried_out == 1)?;
    stage.conclude()
}

/// The new phone is where their leader is, and what that says takes long to reach the old one.
fn masters_far_apart(stage: &mut Stage) -> Done<(usize, usize)> {
    const DISTANT_US: (u64, u64) = (30_000, 31_000);
    stage.cluster(3, 0);
    stage.world.links.plan.us = DISTANT_US;
    let (old, new) = two_masters(stage)?;
    let leader = stage.leader(ANA);
    stage.world.devices[old].address = (leader + 1) % 3;
    stage.world.devices[new].address = leader;
    Ok((old, new))
}

/// What ends a connection before the word of a master reaches it is what its own client has done.
fn a_fault_of_its_own_before_the_master(stage: &mut Stage) -> Done {
    let (old, new) = masters_far_apart(stage)?;
    stage.connect(old)?;
    stage.wait(500)?;
    stage.connect(new)?;
    for _ in 0..stage.world.plan.limits.bad_payloads_max {
        stage.send_as(old, BO, Kind::Stored, Some(Oddity::WrongKey));
    }
    stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
    stage.expect("before the word of the master", |world| world.checkers.kicks.carried_out == 0)?;
    stage.conclude()
}

/// A connection that waits to be let in asks again now and then. When the answer to the first question is on its way already, the second one may
/// come behind whoever has come meanwhile, and ends nobody.
fn who_asks_twice_comes_once(stage: &mut Stage) -> Done {
    let (old, new) = masters_far_apart(stage)?;
    // At every moment between two sweeps.
    for round in 1..=12 {
        stage.connect(old)?;
        stage.connect(new)?;
        stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
        stage.wait(1_000)?;
        stage.expect("the new one stays", |world| world.devices[new].is_live())?;
        stage.expect("one kick a round", |world| world.checkers.kicks.carried_out == round)?;
        stage.leave(new)?;
        stage.wait(125 + 21 * round)?;
    }
    stage.conclude()
}

/// Who came later is for the home to say: the one that came earlier may hear later that it is let in.
fn who_is_told_later_did_not_come_later(stage: &mut Stage) -> Done {
    let (old, new) = masters_far_apart(stage)?;
    stage.world.connect(old);
    // Its home has been asked, and the answer is on its way back.
    stage.wait(40)?;
    stage.connect(new)?;
    stage.expect("the old one has not heard yet", |world| !world.devices[old].is_live())?;
    stage.until("the old one is let in", |world| world.devices[old].is_live())?;
    stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
    stage.expect("with notice", |world| world.checkers.kicks.carried_out == 1)?;
    stage.wait(1_000)?;
    stage.expect("the new one stays", |world| world.devices[new].is_live())?;
    stage.conclude()
}

fn a_device_changes_its_node(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let ana = stage.phone_at(ANA, 0)?;
    let bo = stage.phone_at(BO, 1)?;
    for round in 0..6 {
        let live = stage.send(ana, BO);
        stage.sees(bo, live)?;
        stage.vanish(bo);
        let missed = stage.send(ana, BO);
        stage.world.devices[bo].address = 2 + round;
        stage.connect(bo)?;
        stage.sees(bo, missed)?;
    }
    stage.conclude()
}

fn a_lonely_node_refuses(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    for node in (0..3).filter(|node| *node != (leader + 1) % 3) {
        stage.kill(node, Machine::Dark, 6_000);
    }
    let sent = stage.send(ana, BO);
    stage.wait(5_000)?;
    stage.expect("one of three does not acknowledge", |world| !world.is_accepted(sent))?;
    stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
    stage.whole()?;
    stage.world.client_closes(bo, 0);
    stage.connect(bo)?;
    stage.sees(bo, sent)?;
    stage.conclude()
}

/// What the devices of one shard fetch at the same time is more than its link takes, which is also far.
fn many_catch_up_over_one_link(stage: &mut Stage) -> Done {
    const DISTANT_US: (u64, u64) = (5_000, 6_000);
    stage.cluster(3, 0);
    (stage.world.plan.shards, stage.world.plan.slot_depth) = (1, 0);
    stage.world.links.plan.us = DISTANT_US;
    stage.begin(&["ana", "bo", "cem", "dia"])?;
    stage.whole()?;
    let leader = stage.leader(BO);
    let away = (leader + 1) % 3;
    let ana = stage.phone_at(ANA, leader)?;
    let mut there = Vec::new();
    for (user, flag) in (1..4).flat_map(|user| (0..3).map(move |flag| (user, flag))) {
        let device = stage.device(user, flag);
        stage.world.devices[device].address = away;
        stage.connect(device)?;
        there.push((user, device));
    }
    stage.outage(Outage::Isolated(away), 1_500);
    let mut sent = Vec::new();
    for (user, device) in there {
        let number = stage.world.send(ana, user, Kind::Stored, 3_000, None);
        sent.push((device, number));
    }
    stage.answered(ana)?;
    stage.all_arrive(&sent)?;
    stage.expect("some had to ask again", |world| world.nodes[leader].hosts[0].shard.counters().fetches_put_off > 0)?;
    stage.conclude()
}

/// What goes to the devices of one shard in one turn is more than its link takes: bodies are fetched by and by, and what is not stored is
/// lost for some, as its sender asked for. The link stays.
fn many_are_sent_to_over_one_link(stage: &mut Stage) -> Done {
    const SENT: usize = 8;
    stage.cluster(3, 0);
    (stage.world.plan.shards, stage.world.plan.slot_depth) = (1, 0);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let leader = stage.leader(BO);
    let ana = stage.phone_at(ANA, leader)?;
    let mut there = Vec::new();
    for flag in 0..4 {
        let device = stage.device(BO, flag);
        stage.world.devices[device].address = (leader + 1) % 3;
        stage.connect(device)?;
        there.push(device);
    }
    let from_afar = stage.phone_at(ANA, (leader + 1) % 3)?;
    let before = stage.overflows();
    for kind in [Kind::Stored, Kind::Transient] {
        for sender in [ana, from_afar] {
            let sent: Vec<Number> = (0..SENT).map(|_| stage.world.send(sender, BO, kind, 3_000, None)).collect();
            stage.answered(sender)?;
            for number in sent.into_iter().filter(|_| kind == Kind::Stored) {
                for device in &there {
                    stage.sees(*device, number)?;
                }
            }
        }
    }
    if stage.overflows() > before {
        return stage.fail("no link was given more than it takes");
    }
    stage.conclude()
}

/// All leaders of a shard have something to say in the same moment, and that is more than a link takes. None of them is always the one that
/// goes without.
fn every_slot_has_its_say(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    (stage.world.plan.shards, stage.world.plan.slot_depth) = (1, 4);
    stage.world.plan.cluster.link_limits.lossy_queue_bytes = 1 << 10;
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let sent = stage.chat(ana, bo, 20, 10)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

/// Somebody begins a request and never ends it. Its node ends the connection in its time; one that stands still does it as soon as it goes on, however
/// often and long it stood still: what came meanwhile begins its time only then.
fn a_stranger_at_a_node_that_hangs(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (before, away) = (stage.begins_a_request(0), stage.begins_a_request(1));
    let is_open = |world: &World, connection: usize| world.connections[connection].server_open;
    stage.wait(1_000)?;
    stage.expect("both wait to be let in", |world| is_open(world, before) && is_open(world, away))?;
    for ms in [16_000, 9_000] {
        stage.world.outage_begins(Outage::Hung(0));
        let meanwhile = stage.begins_a_request(0);
        stage.wait(ms)?;
        stage.expect("it stands still", |world| is_open(world, meanwhile))?;
        stage.expect("another node does not", |world| !is_open(world, away))?;
        stage.world.outage_ends(Outage::Hung(0));
        stage.wait(500)?;
        stage.expect("the time of the first is over", |world| !is_open(world, before))?;
        stage.expect("that of the second begins", |world| is_open(world, meanwhile))?;
        stage.wait(3_500)?;
        stage.expect("and ends", |world| !is_open(world, meanwhile))?;
    }
    stage.conclude()
}

/// What the leader of bo's home says to bo's node waits in a cut link, while the others find another leader, who says it all again. When it comes at
/// last, bo's phone has taken the message, and its session has forgotten the conversation, because it follows few at a time.
fn a_former_leaders_word(stage: &mut Stage, comes_before: bool) -> Done {
    const OTHERS: [usize; 4] = [2, 3, 4, 5];
    stage.cluster(3, 0);
    stage.begin(&["ana", "bo", "cem", "dia", "eli", "fay"])?;
    stage.whole()?;
    let former = stage.leader(BO);
    let (away, third) = ((former + 1) % 3, (former + 2) % 3);
    let mut others = Vec::new();
    for user in OTHERS {
        others.push(stage.phone_at(user, third)?);
    }
    let bo = stage.device(BO, PHONE);
    stage.world.devices[bo].address = away;
    if comes_before {
        stage.connect(bo)?;
        stage.world.outage_begins(Outage::Deaf(former, away));
    }
    let early = stage.send(others[0], BO);
    stage.until("it is stored", |world| world.is_accepted(early))?;
    if !comes_before {
        stage.world.outage_begins(Outage::Deaf(former, away));
        stage.world.connect(bo);
    }
    stage.wait(100)?;
    stage.world.outage_begins(Outage::Isolated(former));
    let slot = stage.world.slot_of_user(BO);
    stage.until("another leads", |world| world.leader_of(slot).is_some_and(|host| host.node != former))?;
    stage.sees(bo, early)?;
    let mut sent = Vec::new();
    for _ in 0..3 {
        for other in &others[1..] {
            sent.push((bo, stage.send(*other, BO)));
        }
        stage.wait(50)?;
    }
    stage.all_arrive(&sent)?;
    stage.wait(300)?;
    stage.world.outage_ends(Outage::Isolated(former));
    stage.world.outage_ends(Outage::Deaf(former, away));
    stage.wait(3_000)?;
    stage.expect("nothing is sent again that was acknowledged", |world| {
        world.coverage.count("seen RECVs again after their RECVACK") == 0
    })?;
    stage.conclude()
}

fn what_a_former_leader_delivers_comes_late(stage: &mut Stage) -> Done {
    a_former_leaders_word(stage, true)
}

fn what_a_former_leader_knows_comes_late(stage: &mut Stage) -> Done {
    a_former_leaders_word(stage, false)
}
