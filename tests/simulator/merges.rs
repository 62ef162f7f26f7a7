//! Slots that become one again while everything runs: the operator's doing, and scenarios of it, told as those of one node in `scenarios`.

use std::time::Duration;

use jindou::engine::metadata::{MetadataCommand, Reshape};
use jindou::ids::{Place, SlotId};

use crate::links::Machine;
use crate::operator::Order;
use crate::outages::Outage;
use crate::splits::{USERS, depth, slots};
use crate::stage::{Done, Script, Stage};
use crate::world::World;

/// All of them by name.
pub const ALL: [(&str, Script); 14] = [
    ("merge-one-pair-under-load", merge_one_pair_under_load),
    ("merge-all-under-load", merge_all_under_load),
    ("merge-split-merge", merge_split_merge),
    ("merge-on-a-lonely-node", merge_on_a_lonely_node),
    ("merge-slots-that-live-apart", merge_slots_that_live_apart),
    ("merge-before-a-gateway-knows", merge_before_a_gateway_knows),
    ("merge-of-a-split-that-a-node-missed", merge_of_a_split_that_a_node_missed),
    ("merge-while-the-leader-dies", merge_while_the_leader_dies),
    ("merge-while-followers-die", merge_while_followers_die),
    ("merge-while-everybody-dies", merge_while_everybody_dies),
    ("merge-beside-a-lost-disk", merge_beside_a_lost_disk),
    ("merge-while-a-node-goes-for-good", merge_while_a_node_goes_for_good),
    ("merge-and-split-beside-the-dead", merge_and_split_beside_the_dead),
    ("merge-without-anybody-to-replace-the-dead", merge_without_anybody_to_replace_the_dead),
];

impl World {
    /// Siblings become one: the pair of this number modulo all, or every pair.
    pub fn merge(&mut self, which: Option<usize>) {
        let Some(cluster) = self.newest_cluster().cloned() else { return };
        let pairs = cluster.rows.iter().filter(|(_, row)| row.depth > 0).filter_map(|(low, row)| {
            let high = low.sibling(row.depth);
            let other = cluster.rows.get(&high).filter(|other| high > *low && other.depth == row.depth)?;
            Some((*low, row.epoch, other.epoch))
        });
        let mut pairs: Vec<(SlotId, u64, u64)> = pairs.collect();
        if let Some(one) = which.filter(|_| !pairs.is_empty()) {
            pairs = vec![pairs[one % pairs.len()]];
        }
        if !pairs.is_empty() {
            self.propose(&MetadataCommand::Merge { slots: pairs });
        }
    }
}

impl Stage {
    fn merges_begin(&mut self, before: usize) -> Done {
        self.until("the merges begin", |world| {
            let begun = |reshape: &Reshape| matches!(reshape, Reshape::Absorb { gathered: true, .. });
            let rows = || world.newest_cluster().into_iter().flat_map(|cluster| cluster.rows.values());
            slots(world) < before || rows().any(|row| row.reshape.as_ref().is_some_and(begun))
        })
    }

    fn reshaped_until(&mut self, wanted: usize) -> Done {
        self.until("the slots are as many as wanted, and nothing is under way", |world| {
            let rests = |cluster: &&std::sync::Arc<jindou::engine::metadata::Cluster>| {
                cluster.rows.values().all(|row| row.reshape.is_none())
            };
            slots(world) == wanted && world.newest_cluster().filter(rests).is_some()
        })
    }
}

fn merge_one_pair_under_load(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1, 2])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    stage.world.merge(Some(0));
    sent.extend(stage.talk(&devices, 100, 10)?);
    stage.reshaped_until(before - 1)?;
    sent.extend(stage.talk(&devices, 10, 10)?);
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.conclude()
}

fn merge_all_under_load(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1, 2])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let mut count = slots(&stage.world);
    while count > 1 {
        stage.world.merge(None);
        sent.extend(stage.talk(&devices, 60, 10)?);
        stage.reshaped_until(count / 2)?;
        count /= 2;
    }
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.conclude()
}

fn merge_split_merge(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    for turn in 0..3 {
        stage.world.merge(None);
        sent.extend(stage.talk(&devices, 20, 10)?);
        stage.reshaped_until(before / 2)?;
        stage.world.split(None);
        sent.extend(stage.talk(&devices, 20, 10)?);
        stage.reshaped_until(before)?;
        if turn == 1 {
            // Whoever begins anew reads of slots that came, went and came again.
            stage.world.crash_node_for(2, Machine::Refuses, Duration::from_secs(1));
            sent.extend(stage.talk(&devices, 20, 20)?);
        }
    }
    stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
    stage.all_see(&sent)?;
    stage.conclude()
}

fn merge_on_a_lonely_node(stage: &mut Stage) -> Done {
    stage.begin(&USERS)?;
    let devices = stage.everybody_connects(USERS.len(), 1)?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    stage.world.split(None);
    sent.extend(stage.talk(&devices, 30, 10)?);
    stage.reshaped_until(before * 2)?;
    stage.world.merge(None);
    sent.extend(stage.talk(&devices, 30, 10)?);
    stage.reshaped_until(before)?;
    stage.all_see(&sent)?;
    for after_ms in [1, 2, 4, 8, 16, 40, 200] {
        stage.world.split(None);
        stage.reshaped_until(before * 2)?;
        stage.world.merge(None);
        stage.wait(after_ms)?;
        stage.crash()?;
        stage.reshaped_until(before)?;
        for device in &devices {
            stage.connect(*device)?;
        }
        let sent = stage.talk(&devices, 3, 10)?;
        stage.all_see(&sent)?;
    }
    stage.crash()?;
    stage.conclude()
}

/// Five nodes, so that siblings have few places in common before.
fn merge_slots_that_live_apart(stage: &mut Stage) -> Done {
    stage.cluster(5, 0);
    stage.begin(&USERS)?;
    stage.until("the cluster is whole", |world| world.unrest_of_cluster().is_none())?;
    let devices = stage.everybody_connects(USERS.len(), 5)?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    let places = |world: &World, slot: u16| -> Vec<Place> {
        let row = world.newest_cluster().and_then(|cluster| cluster.rows.get(&SlotId(slot)).cloned());
        row.map_or(Vec::new(), |row| row.places_wanted())
    };
    let half = before as u16 / 2;
    let apart = (0..half).any(|slot| {
        let here = places(&stage.world, slot);
        !places(&stage.world, slot + half).iter().all(|place| here.contains(place))
    });
    stage.expect("some siblings live apart", |_| apart)?;
    stage.world.merge(None);
    sent.extend(stage.talk(&devices, 60, 20)?);
    stage.reshaped_until(before / 2)?;
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.conclude()
}

/// A node's disk takes nothing while slots merge, so it learns of that last: what its devices have taken meanwhile was told to leaders that knew
/// it ahead of their groups. Whoever leads afterwards is not to answer what lags before it has heard that again.
fn merge_before_a_gateway_knows(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    stage.world.links.plan.us = (15_000, 30_000);
    stage.begin(&USERS)?;
    stage.until("the cluster is whole", |world| world.unrest_of_cluster().is_none())?;
    let devices = stage.everybody_connects(USERS.len(), 3)?;
    let (there, elsewhere): (Vec<usize>, Vec<usize>) = (0..devices.len()).partition(|user| user % 3 == 2);
    // What is acknowledged in the first moments of a leader may come again.
    stage.wait(8_000)?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let mut count = slots(&stage.world);
    while count > 1 {
        stage.world.merge(None);
        stage.merges_begin(count)?;
        stage.world.trouble_begins();
        stage.world.nodes[2].disks.iter_mut().for_each(|disk| disk.full = true);
        let mut rounds_after = 20;
        for round in 0..400 {
            rounds_after -= usize::from(slots(&stage.world) < count);
            if rounds_after == 0 {
                break;
            }
            for user in &elsewhere {
                let to = there[(user + round) % there.len()];
                sent.push((devices[to], stage.send(devices[*user], to)));
            }
            stage.wait(25)?;
        }
        stage.world.nodes[2].disks.iter_mut().for_each(|disk| disk.full = false);
        stage.world.trouble_ends();
        stage.reshaped_until(count / 2)?;
        count /= 2;
        stage.wait(8_000)?;
    }
    sent.retain(|(_, number)| stage.world.is_accepted(*number));
    stage.all_see(&sent)?;
    stage.conclude()
}

/// The power of some nodes fails so many milliseconds after the merges have begun.
fn merge_and_kill(stage: &mut Stage, nodes: &[usize], after_ms: u64) -> Done {
    let alive: Vec<usize> = (0..3).filter(|node| !nodes.contains(node)).collect();
    let devices = stage.gathering(if alive.is_empty() { &[0, 1, 2] } else { &alive })?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    if alive.is_empty() {
        // What was not answered may be lost with whoever was to answer.
        stage.all_see(&std::mem::take(&mut sent))?;
    }
    let before = slots(&stage.world);
    stage.world.merge(None);
    stage.merges_begin(before)?;
    stage.wait(after_ms)?;
    for node in nodes {
        stage.world.crash_node_for(*node, Machine::Refuses, Duration::from_secs(3));
    }
    if !alive.is_empty() {
        sent.extend(stage.talk(&devices, 30, 20)?);
    }
    stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
    stage.reshaped_until(before / 2)?;
    stage.all_see(&sent)?;
    stage.conclude()
}

/// Seed 30894: whoever was away while a slot became two and one again hears of the upper one only when it is being taken in, and has yet to get
/// what it held.
fn merge_of_a_split_that_a_node_missed(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    let outage = Outage::Isolated(2);
    stage.world.outage_begins(outage);
    // What it led is led by the others before anything is planned.
    stage.wait(3_000)?;
    stage.world.split(None);
    stage.reshaped_until(2 * before)?;
    sent.extend(stage.talk(&devices, 10, 10)?);
    stage.world.merge(None);
    stage.until("nothing but what was held is left to be taken in", |world| slots(world) == before)?;
    sent.extend(stage.talk(&devices, 10, 10)?);
    stage.world.outage_ends(outage);
    stage.reshaped_until(before)?;
    sent.extend(stage.talk(&devices, 10, 10)?);
    stage.all_see(&sent)?;
    stage.conclude()
}

fn merge_while_the_leader_dies(stage: &mut Stage) -> Done {
    for after_ms in [0, 2, 4, 6, 8, 10, 13, 16, 20, 25, 32, 40, 60, 100, 170, 210, 230, 300, 450, 700, 1100, 2100] {
        for node in 0..3 {
            merge_and_kill(stage, &[node], after_ms)?;
        }
    }
    Ok(())
}

fn merge_while_followers_die(stage: &mut Stage) -> Done {
    for after_ms in [1, 5, 9, 14, 22, 40, 90, 150, 220, 250, 280, 330, 450, 600, 1500] {
        merge_and_kill(stage, &[1, 2], after_ms)?;
    }
    Ok(())
}

fn merge_while_everybody_dies(stage: &mut Stage) -> Done {
    for after_ms in [0, 3, 7, 12, 18, 30, 50, 120, 200, 230, 260, 400, 800, 1300] {
        merge_and_kill(stage, &[0, 1, 2], after_ms)?;
    }
    Ok(())
}

fn merge_beside_a_lost_disk(stage: &mut Stage) -> Done {
    for after_ms in [0, 5, 15, 40, 120, 230, 400] {
        let devices = stage.gathering(&[0, 1])?;
        let mut sent = stage.talk(&devices, 10, 10)?;
        let before = slots(&stage.world);
        stage.world.merge(None);
        stage.wait(after_ms)?;
        stage.world.wipe_node(2);
        sent.extend(stage.talk(&devices, 30, 20)?);
        stage.until("the node is back", |world| world.nodes.iter().all(|node| node.up))?;
        stage.reshaped_until(before / 2)?;
        stage.all_see(&sent)?;
        stage.conclude()?;
    }
    Ok(())
}

/// Four nodes, of which one that is silent for so many seconds is judged dead; everybody talks by way of the first two.
fn four_nodes(stage: &mut Stage, replace_after_s: u64) -> Done<Vec<usize>> {
    stage.cluster(4, 0);
    stage.world.plan.cluster.steward.replace_after = Duration::from_secs(replace_after_s);
    stage.begin(&USERS)?;
    stage.until("the cluster is whole", |world| world.unrest_of_cluster().is_none())?;
    stage.everybody_connects(USERS.len(), 2)
}

/// Its power fails, and it never comes back.
fn goes_for_good(stage: &mut Stage, node: usize) {
    stage.world.crash_node_for(node, Machine::Dark, Duration::from_secs(36_000));
    stage.world.nodes[node].present = false;
}

/// No row names a node any more.
fn nothing_names(stage: &mut Stage, node: usize) -> Done {
    let id = stage.world.nodes[node].id;
    stage.until("the dead are replaced", |world| {
        let named = |replica: jindou::ids::ReplicaId| replica.place().node == id;
        world.newest_cluster().is_some_and(|cluster| cluster.rows.values().all(|row| !row.named().any(named)))
    })
}

fn merge_while_a_node_goes_for_good(stage: &mut Stage) -> Done {
    for after_ms in [0, 20, 100, 200, 300, 600] {
        let devices = four_nodes(stage, 8)?;
        let mut sent = stage.talk(&devices, 10, 10)?;
        let before = slots(&stage.world);
        stage.world.merge(None);
        stage.merges_begin(before)?;
        stage.wait(after_ms)?;
        goes_for_good(stage, 3);
        sent.extend(stage.talk(&devices, 60, 20)?);
        stage.reshaped_until(before / 2)?;
        nothing_names(stage, 3)?;
        stage.all_see(&sent)?;
        stage.conclude()?;
    }
    Ok(())
}

fn merge_and_split_beside_the_dead(stage: &mut Stage) -> Done {
    for after_ms in [0, 3_000] {
        let devices = four_nodes(stage, 12)?;
        let mut sent = stage.talk(&devices, 10, 10)?;
        let before = slots(&stage.world);
        goes_for_good(stage, 3);
        stage.wait(after_ms)?;
        stage.world.merge(None);
        sent.extend(stage.talk(&devices, 60, 20)?);
        stage.reshaped_until(before / 2)?;
        nothing_names(stage, 3)?;
        let depth = depth(&stage.world);
        goes_for_good(stage, 2);
        stage.world.split(None);
        sent.extend(stage.talk(&devices, 60, 20)?);
        stage.split_to(depth + 1)?;
        stage.reshaped_until(before)?;
        stage.all_see(&sent)?;
        stage.world.nodes[2].present = true;
        stage.world.start_node(2);
        stage.conclude()?;
    }
    Ok(())
}

/// With as many nodes as replicas nobody takes the place of one that is gone: slots merge without it, and wait for it to digest that. An
/// operator who gives it up ends the waiting.
fn merge_without_anybody_to_replace_the_dead(stage: &mut Stage) -> Done {
    for after_ms in [0, 50, 200, 300] {
        let devices = stage.gathering(&[0, 1])?;
        let mut sent = stage.talk(&devices, 10, 10)?;
        let before = slots(&stage.world);
        stage.world.merge(None);
        stage.merges_begin(before)?;
        stage.wait(after_ms)?;
        goes_for_good(stage, 2);
        sent.extend(stage.talk(&devices, 60, 20)?);
        stage.all_see(&sent)?;
        stage.world.operate(Order::Drain(2));
        nothing_names(stage, 2)?;
        stage.reshaped_until(before / 2)?;
        stage.world.operate(Order::Forget(2));
        let id = stage.world.nodes[2].id;
        stage.until("it is forgotten", |world| {
            world.newest_cluster().is_some_and(|cluster| !cluster.members.contains_key(&id))
        })?;
        sent.extend(stage.talk(&devices, 10, 20)?);
        stage.all_see(&sent)?;
        stage.conclude()?;
    }
    Ok(())
}
