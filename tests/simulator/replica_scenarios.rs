//! Scenarios about replicas: where they are, how they move, what becomes of them when disks and nodes are lost, who leads them, and who
//! votes on the metadata. Told as those in `scenarios`.

use std::collections::BTreeSet;
use std::time::Duration;

use jindou::engine::metadata::{Cluster, MemberState};
use jindou::engine::shard::Durability;
use jindou::ids::{Place, ReplicaId, SlotId};

use crate::ledger::{Kind, Number, pair_log};
use crate::links::Machine;
use crate::operator::Order;
use crate::outages::Outage;
use crate::stage::{Done, Script, Stage};
use crate::world::World;

const ANA: usize = 0;
const BO: usize = 1;

/// Longer than any scenario.
const FOR_EVER_MS: u64 = 3_600_000;

/// All of them by name.
pub const ALL: [(&str, Script); 28] = [
    ("a-join-moves-its-share", a_join_moves_its_share),
    ("a-drained-node-is-forgotten", a_drained_node_is_forgotten),
    ("the-dead-are-replaced-and-return", the_dead_are_replaced_and_return),
    ("a-follower-loses-its-disk", a_follower_loses_its_disk),
    ("the-metadata-leader-loses-its-disk", the_metadata_leader_loses_its_disk),
    ("at-rest-the-next-disk-may-be-lost", at_rest_the_next_disk_may_be_lost),
    ("the-receiver-dies-while-it-receives", the_receiver_dies_while_it_receives),
    ("the-sender-dies-while-it-sends", the_sender_dies_while_it_sends),
    ("receivers-die-again-and-again", receivers_die_again_and_again),
    ("a-replica-comes-to-a-busy-slot", a_replica_comes_to_a_busy_slot),
    ("the-metadata-leader-dies-during-moves", the_metadata_leader_dies_during_moves),
    ("members-change-on-the-majority-side", members_change_on_the_majority_side),
    ("members-cannot-change-on-the-minority-side", members_cannot_change_on_the_minority_side),
    ("a-newcomer-dies-and-comes-back", a_newcomer_dies_and_comes_back),
    ("a-number-taken-twice-is-refused", a_number_taken_twice_is_refused),
    ("a-copied-data-directory-is-refused", a_copied_data_directory_is_refused),
    ("strangers-are-refused", strangers_are_refused),
    ("a-member-changes-its-address", a_member_changes_its_address),
    ("all-members-change-their-addresses", all_members_change_their_addresses),
    ("a-damaged-node-is-rebuilt", a_damaged_node_is_rebuilt),
    ("damaged-bodies-are-fetched-from-others", damaged_bodies_are_fetched_from_others),
    ("stops-cost-little", stops_cost_little),
    ("leaders-come-back", leaders_come_back),
    ("voters-come-with-members", voters_come_with_members),
    ("two-of-five-voters-are-lost", two_of_five_voters_are_lost),
    ("a-dead-voter-is-replaced", a_dead_voter_is_replaced),
    ("a-drained-voter-is-replaced", a_drained_voter_is_replaced),
    ("a-disk-that-takes-nothing-is-not-flooded", a_disk_that_takes_nothing_is_not_flooded),
];

impl Stage {
    /// The cluster as it is agreed now.
    fn agreed(&self) -> Cluster {
        self.world.newest_cluster().map(|cluster| Cluster::clone(cluster)).unwrap_or_default()
    }

    /// Who leads the metadata group, as a node.
    fn metadata_leader(&self) -> usize {
        metadata_leader(&self.world).unwrap_or(0)
    }

    fn refused(&self) -> u64 {
        let hosts = self.world.nodes.iter().flat_map(|node| &node.hosts);
        hosts.map(|host| host.shard.counters().sends_refused).sum()
    }

    /// A member is in a state, as everybody knows.
    fn member_is(&mut self, node: usize, state: MemberState) -> Done {
        let id = self.world.nodes[node].id;
        self.until("a member is in another state", |world| {
            world.newest_cluster().is_some_and(|cluster| cluster.members.get(&id).is_some_and(|one| one.state == state))
        })
    }

    /// A node holds nothing, by the table.
    fn holds_nothing(&mut self, node: usize) -> Done {
        let id = self.world.nodes[node].id;
        self.until("a node holds nothing", |world| {
            world.newest_cluster().is_some_and(|cluster| {
                cluster.rows.values().all(|row| row.named().all(|replica| replica.place().node != id))
            })
        })
    }

    /// A node runs again.
    pub fn is_back(&mut self, node: usize) -> Done {
        self.until("a node is back", |world| world.nodes[node].up && !world.nodes[node].stopping)
    }

    /// So many bytes of messages.
    fn much(&mut self, device: usize, rounds: usize) -> Done {
        for _ in 0..rounds {
            for _ in 0..8 {
                self.world.send(device, BO, Kind::Stored, 500, None);
            }
            self.answered(device)?;
        }
        Ok(())
    }
}

fn metadata_leader(world: &World) -> Option<usize> {
    let terms = world.nodes.iter().enumerate().filter_map(|(index, node)| {
        let term = node.hosts.first()?.shard.metadata_term()?;
        Some((term, index))
    });
    terms.max().map(|(_, index)| index)
}

fn replicas_of(cluster: &Cluster) -> BTreeSet<(SlotId, ReplicaId)> {
    let rows = cluster.rows.iter();
    rows.flat_map(|(slot, row)| row.replicas.iter().map(|replica| (*slot, *replica))).collect()
}

fn a_join_moves_its_share(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let before = replicas_of(&stage.agreed());
    stage.world.operate(Order::Join(3));
    let sent = stage.chat(ana, bo, 60, 50)?;
    stage.all_arrive(&sent)?;
    stage.until("the newcomer holds its share", |world| {
        let id = world.nodes[3].id;
        let held = |cluster: &Cluster| {
            cluster.rows.values().filter(|row| row.replicas.iter().any(|replica| replica.place().node == id)).count()
        };
        world.newest_cluster().is_some_and(|cluster| held(cluster) == cluster.rows.len() * 3 / 4)
    })?;
    stage.whole()?;
    let after = replicas_of(&stage.agreed());
    let id = stage.world.nodes[3].id;
    let new: Vec<_> = after.difference(&before).collect();
    // A quarter of all replicas, and nothing between the others.
    if new.len() != 6 || new.iter().any(|(_, replica)| replica.place().node != id) {
        return stage.fail(&format!("only the newcomer's share moves: {new:?}"));
    }
    if stage.refused() > 0 {
        return stage.fail("no SEND is refused");
    }
    stage.conclude()
}

fn a_drained_node_is_forgotten(stage: &mut Stage) -> Done {
    stage.found(4, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.world.operate(Order::Drain(leader));
    let sent = stage.chat(ana, bo, 60, 50)?;
    stage.all_arrive(&sent)?;
    stage.holds_nothing(leader)?;
    stage.until("nothing is left on it", |world| {
        world.nodes[leader].hosts.iter().all(|host| host.shard.replicas().next().is_none())
    })?;
    if stage.refused() > 0 {
        return stage.fail("no SEND is refused");
    }
    stage.kill(leader, Machine::Refuses, FOR_EVER_MS);
    stage.world.nodes[leader].present = false;
    stage.world.operate(Order::Forget(leader));
    let id = stage.world.nodes[leader].id;
    stage.until("it is forgotten", |world| {
        world.newest_cluster().is_some_and(|cluster| !cluster.members.contains_key(&id))
    })?;
    let sent = stage.chat(ana, bo, 5, 50)?;
    stage.all_arrive(&sent)?;
    stage.whole()?;
    stage.conclude()
}

fn the_dead_are_replaced_and_return(stage: &mut Stage) -> Done {
    stage.cluster(4, 0);
    stage.world.plan.cluster.steward.replace_after = Duration::from_secs(8);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    let before = stage.chat(ana, bo, 10, 20)?;
    stage.kill(leader, Machine::Dark, 60_000);
    stage.member_is(leader, MemberState::Dead)?;
    stage.holds_nothing(leader)?;
    let during = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&before)?;
    stage.all_arrive(&during)?;
    stage.is_back(leader)?;
    // What it had belonged to replicas that are no more; it gets new ones.
    stage.member_is(leader, MemberState::Serving)?;
    stage.whole()?;
    let after = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&after)?;
    stage.conclude()
}

fn a_follower_loses_its_disk(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    let before = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&before)?;
    stage.world.wipe_node((leader + 1) % 3);
    stage.is_back((leader + 1) % 3)?;
    let during = stage.chat(ana, bo, 10, 50)?;
    stage.whole()?;
    stage.world.client_closes(ana, 0);
    stage.connect(ana)?;
    stage.all_arrive(&during)?;
    stage.kill((leader + 2) % 3, Machine::Refuses, 3_000);
    stage.conclude()
}

fn the_metadata_leader_loses_its_disk(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let lost = stage.metadata_leader();
    let (ana, bo) = (stage.phone_at(ANA, (lost + 1) % 3)?, stage.phone_at(BO, (lost + 2) % 3)?);
    let before = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&before)?;
    stage.world.wipe_node(lost);
    let during = stage.chat(ana, bo, 10, 50)?;
    stage.all_arrive(&during)?;
    stage.is_back(lost)?;
    stage.whole()?;
    stage.conclude()
}

/// An operator who changes disks node by node looks at nothing but whether the cluster is at rest.
fn at_rest_the_next_disk_may_be_lost(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, bo) = (stage.phone_at(ANA, 0)?, stage.phone_at(BO, 1)?);
    let before = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&before)?;
    for lost in [2, 1, 0, 1, 2, 0] {
        stage.world.wipe_node(lost);
        stage.is_back(lost)?;
        stage.until("it is a member", |world| world.nodes[lost].cluster.is_some())?;
        stage.whole()?;
    }
    stage.conclude()
}

/// Three nodes, one of them so far behind that only a snapshot helps it. It is the one that led ana's home, and is up again.
fn far_behind(stage: &mut Stage) -> Done<(usize, usize)> {
    stage.cluster(3, 0);
    stage.limits(|limits| limits.transfer_bytes_per_second = 32 << 10);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, _, leader) = stage.pair_away_from_leader()?;
    stage.kill(leader, Machine::Refuses, 10_000);
    stage.much(ana, 50)?;
    stage.is_back(leader)?;
    stage.until("a transfer is under way", |world| transfers(world, leader) > 0)?;
    stage.wait(700)?;
    stage.expect("it is still under way", |world| transfers(world, leader) > 0)?;
    Ok((ana, leader))
}

/// States on their way into a node.
fn transfers(world: &World, node: usize) -> usize {
    world.nodes[node].hosts.iter().map(|host| host.shard.transfers_coming()).sum()
}

fn the_receiver_dies_while_it_receives(stage: &mut Stage) -> Done {
    let (_, behind) = far_behind(stage)?;
    stage.kill(behind, Machine::Refuses, 500);
    stage.is_back(behind)?;
    stage.whole()?;
    stage.conclude()
}

fn the_sender_dies_while_it_sends(stage: &mut Stage) -> Done {
    let (ana, behind) = far_behind(stage)?;
    let slot = stage.world.slot_of_user(ANA);
    let sender = stage.world.leader_of(slot).map_or(0, |host| host.node);
    stage.kill(sender, Machine::Dark, 4_000);
    stage.is_back(sender)?;
    stage.whole()?;
    stage.expect("it is up", |world| world.nodes[behind].up)?;
    stage.world.client_closes(ana, 0);
    stage.conclude()
}

/// At any moment: in the middle of parts, between the last part and the checkpoint, between the checkpoint and its use.
fn receivers_die_again_and_again(stage: &mut Stage) -> Done {
    let (_, behind) = far_behind(stage)?;
    for round in 0..40u64 {
        stage.kill(behind, Machine::Refuses, 20);
        stage.is_back(behind)?;
        stage.wait(150 + round * 97 % 2_400)?;
    }
    stage.whole()?;
    stage.conclude()
}

/// While the state is on its way more is written than the usual tail of the log holds, and so it goes on: it arrives all the same, once.
fn a_replica_comes_to_a_busy_slot(stage: &mut Stage) -> Done {
    let (ana, behind) = far_behind(stage)?;
    let mut rounds = 0;
    let mut until = None;
    while until != Some(rounds) {
        let arrived = transfers(&stage.world, behind) == 0;
        match until {
            None if arrived => until = Some(rounds + 200),
            Some(_) if !arrived => return stage.fail("a state that has arrived is not sent again"),
            _ => {}
        }
        rounds += 1;
        stage.world.send(ana, BO, Kind::Stored, 500, None);
        stage.wait(25)?;
    }
    stage.answered(ana)?;
    stage.whole()?;
    stage.conclude()
}

fn the_metadata_leader_dies_during_moves(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    stage.world.operate(Order::Join(3));
    stage.until("something moves", |world| {
        world.newest_cluster().is_some_and(|cluster| cluster.rows.values().any(|row| row.target.is_some()))
    })?;
    let leader = stage.metadata_leader();
    stage.kill(leader, Machine::Dark, 5_000);
    stage.wait(2_000)?;
    let sent = stage.chat(ana, bo, 20, 50)?;
    stage.is_back(leader)?;
    stage.whole()?;
    for device in [ana, bo] {
        stage.world.client_closes(device, 0);
        stage.connect(device)?;
    }
    stage.all_arrive(&sent)?;
    stage.until("the newcomer leads its share", |world| {
        world.nodes[3].hosts.iter().any(|host| host.shard.led().next().is_some())
    })?;
    stage.conclude()
}

fn members_change_on_the_majority_side(stage: &mut Stage) -> Done {
    stage.found(5, 0)?;
    let leader = stage.metadata_leader();
    let drained = (leader + 1) % 5;
    stage.outage(Outage::Isolated(leader), 20_000);
    stage.until("the others have a leader", |world| metadata_leader(world).is_some_and(|other| other != leader))?;
    stage.world.operate(Order::Drain(drained));
    stage.member_is(drained, MemberState::Draining)?;
    stage.wait(21_000)?;
    stage.holds_nothing(drained)?;
    stage.whole()?;
    stage.conclude()
}

fn members_cannot_change_on_the_minority_side(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let leader = stage.metadata_leader();
    // The newcomer reaches only him who is alone.
    for other in (0..3).filter(|other| *other != leader) {
        stage.outage(Outage::Apart(leader, other), 10_000);
        stage.outage(Outage::Apart(3, other), 10_000);
    }
    stage.wait(4_000)?;
    stage.world.operate(Order::Join(3));
    stage.wait(5_000)?;
    let id = stage.world.nodes[3].id;
    stage.expect("it is not let in", |world| {
        world.newest_cluster().is_some_and(|cluster| !cluster.members.contains_key(&id))
    })?;
    stage.wait(2_000)?;
    stage.until("it is let in", |world| {
        world.newest_cluster().is_some_and(|cluster| cluster.members.contains_key(&id))
    })?;
    stage.whole()?;
    stage.conclude()
}

fn a_newcomer_dies_and_comes_back(stage: &mut Stage) -> Done {
    stage.cluster(3, 1);
    stage.world.plan.cluster.steward.replace_after = Duration::from_secs(8);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    stage.world.operate(Order::Join(3));
    stage.until("something moves", |world| {
        world.newest_cluster().is_some_and(|cluster| cluster.rows.values().any(|row| row.target.is_some()))
    })?;
    stage.kill(3, Machine::Dark, 30_000);
    stage.member_is(3, MemberState::Dead)?;
    // What was to come to it stays where it was.
    stage.until("moves are given up", |world| {
        world.newest_cluster().is_some_and(|cluster| cluster.rows.values().all(|row| row.target.is_none()))
    })?;
    let sent = stage.chat(ana, bo, 20, 50)?;
    stage.all_arrive(&sent)?;
    stage.is_back(3)?;
    stage.member_is(3, MemberState::Serving)?;
    stage.whole()?;
    stage.conclude()
}

/// Everything that was reported on a node contains this at least once.
fn reported(world: &World, node: usize, what: &str) -> bool {
    world.nodes[node].reports.iter().any(|line| line.contains(what))
}

fn a_number_taken_twice_is_refused(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let taken = stage.world.nodes[1].id;
    stage.world.nodes[3].id = taken;
    let before = stage.agreed();
    stage.world.operate(Order::Join(3));
    stage.until("the newcomer is told", |world| reported(world, 3, "not let into the cluster"))?;
    stage.wait(5_000)?;
    if stage.agreed().members != before.members {
        return stage.fail("the members are who they were");
    }
    stage.kill(3, Machine::Refuses, FOR_EVER_MS);
    stage.world.nodes[3].present = false;
    stage.whole()?;
    stage.conclude()
}

/// A second process with the number, the identity and the disks of a member that is alive.
fn a_copied_data_directory_is_refused(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let before = stage.agreed();
    stage.kill(1, Machine::Refuses, 1_000);
    let disks: Vec<_> = stage.world.nodes[1].disks.iter().map(|disk| disk.copy()).collect();
    let (id, identity) = (stage.world.nodes[1].id, stage.world.nodes[1].identity);
    stage.is_back(1)?;
    stage.whole()?;
    let copy = &mut stage.world.nodes[3];
    (copy.id, copy.identity, copy.disks) = (id, identity, disks);
    // A later start than any of the member's; the world counts the end before it.
    copy.life += 1_000;
    stage.world.trouble_begins();
    stage.world.nodes.iter_mut().for_each(|node| node.reports.clear());
    stage.world.operate(Order::Join(3));
    stage.until("the copy is told", |world| !world.nodes[3].reports.is_empty())?;
    stage.until("so are the members", |world| (0..3).any(|node| !world.nodes[node].reports.is_empty()))?;
    let sent = stage.chat(ana, bo, 20, 100)?;
    stage.expect("it leads nothing", |world| {
        world.nodes[3].hosts.iter().all(|host| host.shard.led().next().is_none())
    })?;
    stage.kill(3, Machine::Refuses, FOR_EVER_MS);
    stage.world.nodes[3].present = false;
    stage.whole()?;
    if stage.agreed().members != before.members {
        return stage.fail("the members are who they were");
    }
    for device in [ana, bo] {
        stage.world.client_closes(device, 0);
        stage.connect(device)?;
    }
    stage.all_arrive(&sent)?;
    stage.conclude()
}

fn strangers_are_refused(stage: &mut Stage) -> Done {
    stage.found(3, 1)?;
    let before = stage.agreed();
    for wrong in 0..2 {
        let guise = &mut stage.world.nodes[3].guise;
        (guise.secret, guise.cluster) =
            if wrong == 0 { ("what nobody knows", "jindou") } else { ("what members know", "another") };
        stage.world.operate(Order::Join(3));
        stage.until("the stranger is told", |world| !world.nodes[3].reports.is_empty())?;
        stage.until("so are the members", |world| (0..3).any(|node| !world.nodes[node].reports.is_empty()))?;
        stage.wait(3_000)?;
        if stage.agreed().members != before.members {
            return stage.fail("the members are who they were");
        }
        let lines = stage.world.nodes[3].reports.len();
        stage.expect("once in a while", |_| lines <= 12)?;
        stage.kill(3, Machine::Refuses, FOR_EVER_MS);
        stage.world.nodes.iter_mut().for_each(|node| node.reports.clear());
    }
    stage.world.nodes[3].present = false;
    stage.whole()?;
    stage.conclude()
}

fn a_member_changes_its_address(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    for node in 0..3 {
        stage.kill(node, Machine::Refuses, 1_000);
        stage.world.links.move_machine(node);
        stage.is_back(node)?;
        let here = stage.world.links.address_of(node);
        let id = stage.world.nodes[node].id;
        stage.until("everybody knows where it is now", |world| {
            let knows = |cluster: &Cluster| cluster.members[&id].addresses.cluster == here;
            world.nodes.iter().all(|node| node.cluster.as_ref().is_some_and(|cluster| knows(cluster)))
        })?;
        stage.whole()?;
    }
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let sent = stage.chat(ana, bo, 10, 20)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

/// The machines move to another network: nobody is where the table says, and only the seeds are right. The first has none, the others know only the
/// first, and whoever comes late is waited for by nobody.
fn all_members_change_their_addresses(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    [1, 2].into_iter().for_each(|node: usize| stage.world.nodes[node].guise.seeds = Some(&[0]));
    let (ana, bo, _) = stage.pair_away_from_leader()?;
    let mut sent = stage.chat(ana, bo, 10, 20)?;
    for late in [0, 1, 2, 0, 1, 2] {
        for node in 0..3 {
            stage.kill(node, Machine::Refuses, if node == late { 9_000 } else { 2_000 });
            stage.world.links.move_machine(node);
        }
        (0..3).try_for_each(|node| stage.is_back(node))?;
        stage.until("everybody knows where everybody is now", |world| {
            let there = |node: usize| world.links.address_of(node);
            let knows = |cluster: &Cluster| {
                (0..3).all(|node| cluster.members[&world.nodes[node].id].addresses.cluster == there(node))
            };
            world.nodes.iter().all(|node| node.cluster.as_ref().is_some_and(|cluster| knows(cluster)))
        })?;
        stage.whole()?;
    }
    [ana, bo].into_iter().try_for_each(|device| stage.connect(device))?;
    sent.extend(stage.chat(ana, bo, 10, 20)?);
    stage.all_arrive(&sent)?;
    stage.conclude()
}

/// A node whose journal is damaged names it and does not start. Its operator puts the data directory away and starts it with nothing: it
/// counts as a lost disk.
fn a_damaged_node_is_rebuilt(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    // What is damaged is needed: there is no checkpoint yet.
    stage.limits(|limits| limits.replay_bytes_max = 64 << 20);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let (ana, bo, leader) = stage.pair_away_from_leader()?;
    stage.much(ana, 60)?;
    let mut chance = crate::chance::Chance::new(7, "damage");
    // Many bits: one may lie in what only fills a block up.
    for shard in [0, 1].repeat(20) {
        if let Some(damage) = stage.world.nodes[leader].disks[shard].damage(&mut chance) {
            stage.world.nodes[leader].expect_damage(shard, damage);
        }
    }
    stage.kill(leader, Machine::Refuses, 1_000);
    stage.is_back(leader)?;
    if stage.world.nodes[leader].damages_named == 0 {
        return stage.fail("the damage is named");
    }
    stage.world.wipe_node(leader);
    stage.is_back(leader)?;
    stage.whole()?;
    let sent = stage.chat(ana, bo, 5, 50)?;
    stage.all_arrive(&sent)?;
    stage.conclude()
}

/// Bits flip under a leader that runs. Whoever reads its history gets every message whole, from another replica where its own copy is bad.
fn damaged_bodies_are_fetched_from_others(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    let (ana, _, _) = stage.pair_away_from_leader()?;
    stage.much(ana, 60)?;
    let Some(host) = stage.world.leader_of(stage.world.slot_of_log(pair_log(ANA, BO))) else {
        return stage.fail("somebody leads");
    };
    let mut chance = crate::chance::Chance::new(7, "damage");
    let disk = &mut stage.world.nodes[host.node].disks[host.shard];
    let flipped = (0..40).filter_map(|_| disk.damage(&mut chance)).count();
    if flipped < 40 {
        return stage.fail("there is something to damage");
    }
    // Everything is read again at the end.
    stage.conclude()?;
    let repaired = stage.world.nodes[host.node].hosts[host.shard].shard.counters().messages_repaired;
    if repaired == 0 { stage.fail("copies of others were used") } else { Ok(()) }
}

/// One message each few milliseconds while nodes stop in order, one after the other: how long the slowest waited.
fn stops_cost_little(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    stage.limits(|limits| {
        *limits = jindou::limits::Limits::PRODUCTION;
        limits.sends_per_second = 100_000;
    });
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    // What was sent just after leaders had come back, and what was sent while a node stopped.
    let mut waits_us = [Vec::new(), Vec::new()];
    for round in 0..6 {
        let stops = stage.leader(ANA);
        let ana = stage.phone_at(ANA, (stops + 1) % 3)?;
        // A device that is new takes its time before it looks at what is to be sent.
        stage.wait(350)?;
        let first: Vec<(Number, u64)> = pace(stage, ana, 20)?;
        stage.world.stop_node(stops);
        let second = pace(stage, ana, 100)?;
        stage.answered(ana)?;
        for (sent, waits_us) in [first, second].into_iter().zip(&mut waits_us) {
            for (number, at_ns) in sent {
                let Some(accepted) = stage.world.ledger.sent[&number].accepted else {
                    return stage.fail("every SEND is taken");
                };
                waits_us.push((accepted.at_ns - at_ns) / 1_000);
            }
        }
        stage.is_back(stops)?;
        stage.whole()?;
        stage.leave(ana)?;
        stage.world.devices[ana].retired = round < 5;
    }
    if stage.refused() > 0 {
        return stage.fail("no SEND is refused");
    }
    for ((what, bar_us), waits_us) in
        [("leaders that come back", 100_000), ("stops", 100_000)].into_iter().zip(&mut waits_us)
    {
        waits_us.sort_unstable();
        let at = |permille: usize| waits_us[(waits_us.len() - 1) * permille / 1000];
        let (p50, p99, most) = (at(500), at(990), at(1000));
        println!("planned {what}: of {} SENDs p50 {p50} us, p99 {p99} us, slowest {most} us", waits_us.len());
        if most > bar_us {
            return stage.fail(&format!("{what} cost no more than {bar_us} us: {most} us"));
        }
    }
    stage.conclude()
}

/// A message each ten milliseconds, each with the time when it was sent.
fn pace(stage: &mut Stage, device: usize, count: usize) -> Done<Vec<(Number, u64)>> {
    let mut sent = Vec::new();
    for _ in 0..count {
        sent.push((stage.send(device, BO), stage.world.now_ns));
        stage.wait(10)?;
    }
    Ok(sent)
}

fn leaders_come_back(stage: &mut Stage) -> Done {
    stage.found(3, 0)?;
    // `whole` asks that the preferred ones lead, and that they are even.
    for node in 0..3 {
        stage.kill(node, Machine::Refuses, 4_000);
        stage.wait(3_500)?;
        stage.expect("others lead meanwhile", |world| {
            let others = world.nodes.iter().flat_map(|node| &node.hosts);
            others.map(|host| host.shard.led().count()).sum::<usize>() == 8
        })?;
        stage.is_back(node)?;
        stage.whole()?;
    }
    stage.conclude()
}

fn voters(world: &World) -> usize {
    metadata_leader(world).map_or(0, |node| world.nodes[node].hosts[0].shard.metadata_voters().len())
}

fn voters_come_with_members(stage: &mut Stage) -> Done {
    stage.found(3, 3)?;
    stage.until("three vote", |world| voters(world) == 3)?;
    for (newcomer, wanted) in [(3, 3), (4, 5), (5, 5)] {
        stage.world.operate(Order::Join(newcomer));
        let id = stage.world.nodes[newcomer].id;
        stage.until("it is a member", |world| {
            world.newest_cluster().is_some_and(|cluster| cluster.members.contains_key(&id))
        })?;
        stage.whole()?;
        stage.until("as many vote as should", |world| voters(world) == wanted)?;
    }
    stage.conclude()
}

fn two_of_five_voters_are_lost(stage: &mut Stage) -> Done {
    stage.found(5, 1)?;
    stage.until("five vote", |world| voters(world) == 5)?;
    let leader = stage.metadata_leader();
    stage.kill(leader, Machine::Dark, 15_000);
    stage.kill((leader + 1) % 5, Machine::Refuses, 15_000);
    stage.until("another one leads", |world| metadata_leader(world).is_some())?;
    // What is agreed on goes on.
    stage.world.operate(Order::Join(5));
    let id = stage.world.nodes[5].id;
    stage.until("a newcomer is let in", |world| {
        world.newest_cluster().is_some_and(|cluster| cluster.members.contains_key(&id))
    })?;
    stage.expect("two are down", |world| world.nodes.iter().filter(|node| !node.up).count() == 2)?;
    stage.is_back(leader)?;
    stage.is_back((leader + 1) % 5)?;
    stage.whole()?;
    stage.conclude()
}

/// Whether a node's replica votes on the metadata.
fn votes(world: &World, node: usize) -> bool {
    let id = world.nodes[node].id;
    let leader = metadata_leader(world);
    leader.is_some_and(|leader| {
        let voters = world.nodes[leader].hosts[0].shard.metadata_voters();
        voters.iter().any(|replica: &ReplicaId| Place { ..replica.place() }.node == id)
    })
}

fn a_dead_voter_is_replaced(stage: &mut Stage) -> Done {
    stage.cluster(4, 0);
    stage.world.plan.cluster.steward.replace_after = Duration::from_secs(8);
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let dead = stage.metadata_leader();
    let spare = (0..4).find(|node| !votes(&stage.world, *node)).unwrap_or(0);
    stage.kill(dead, Machine::Dark, 60_000);
    stage.member_is(dead, MemberState::Dead)?;
    stage.until("the fourth votes in its place", |world| votes(world, spare) && !votes(world, dead))?;
    // Now one more may go, when all know it.
    stage.wait(2_000)?;
    let next = stage.metadata_leader();
    stage.kill(next, Machine::Refuses, 5_000);
    stage.until("there is a leader", |world| metadata_leader(world).is_some_and(|other| other != next))?;
    stage.is_back(next)?;
    stage.is_back(dead)?;
    stage.whole()?;
    stage.conclude()
}

fn a_drained_voter_is_replaced(stage: &mut Stage) -> Done {
    stage.found(4, 0)?;
    let drained = stage.metadata_leader();
    stage.world.operate(Order::Drain(drained));
    stage.holds_nothing(drained)?;
    stage.until("it votes no more", |world| voters(world) == 3 && !votes(world, drained))?;
    stage.expect("it leads no more", |world| metadata_leader(world) != Some(drained))?;
    stage.world.operate(Order::Undrain(drained));
    stage.member_is(drained, MemberState::Serving)?;
    stage.whole()?;
    stage.conclude()
}

/// Where memory counts as durable two of three go on while the third one's disk takes nothing. It takes no more entries than it has room for.
fn a_disk_that_takes_nothing_is_not_flooded(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    (stage.world.plan.shards, stage.world.plan.slot_depth) = (1, 0);
    stage.world.plan.durability = Durability::Memory;
    stage.begin(&["ana", "bo"])?;
    stage.whole()?;
    let leader = stage.leader(BO);
    let third = (leader + 1) % 3;
    let ana = stage.phone_at(ANA, leader)?;
    stage.world.nodes[third].disks[0].full = true;
    stage.much(ana, 40)?;
    stage.until("entries are put off", |world| world.nodes[third].hosts[0].shard.counters().raft_put_off > 0)?;
    stage.world.nodes[third].disks[0].full = false;
    stage.whole()?;
    stage.conclude()
}
