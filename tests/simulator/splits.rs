//! Slots that become two while everything runs: the operator's doing, and scenarios of it, told as those of one node in `scenarios`.

use std::time::Duration;

use jindou::engine::metadata::{Cluster, MetadataCommand, SlotRow};
use jindou::ids::SlotId;

use crate::ledger::Number;
use crate::links::Machine;
use crate::stage::{Done, Script, Stage};
use crate::world::World;

/// All of them by name.
pub const ALL: [(&str, Script); 6] = [
    ("split-one-slot-under-load", split_one_slot_under_load),
    ("split-all-under-load", split_all_under_load),
    ("split-a-lonely-node", split_a_lonely_node),
    ("split-while-the-leader-dies", split_while_the_leader_dies),
    ("split-while-followers-die", split_while_followers_die),
    ("split-beyond-a-lagging-replica", split_beyond_a_lagging_replica),
];

/// Slots at most that random orders make.
const SLOTS_MAX: usize = 64;

/// Who talks in these scenarios.
pub const USERS: [&str; 8] = ["ana", "bo", "cem", "dia", "eli", "fay", "gus", "hal"];

impl World {
    /// Slots become two: the one of this number modulo all, or every one.
    pub fn split(&mut self, which: Option<usize>) {
        let Some(cluster) = self.newest_cluster().cloned() else { return };
        if cluster.rows.len() > SLOTS_MAX / 2 {
            return;
        }
        let rows = cluster.rows.iter().map(|(slot, row)| (*slot, row.epoch));
        let slots: Vec<(SlotId, u64)> = match which {
            Some(one) => rows.skip(one % cluster.rows.len()).take(1).collect(),
            None => rows.collect(),
        };
        self.propose(&MetadataCommand::Split { slots });
    }
}

impl Stage {
    /// Splits until every slot is named by so many bits, as the operator's tool does: a slot that was at work is asked for again.
    pub fn split_to(&mut self, depth: u8) -> Done {
        self.until_asked("every slot is as deep as wanted, and none is at work", |world| {
            let Some(cluster) = world.newest_cluster().cloned() else { return false };
            let resting = |row: &SlotRow| row.reshape.is_none() && row.target.is_none();
            let rows = cluster.rows.iter().filter(|(_, row)| row.depth < depth && resting(row));
            let slots: Vec<(SlotId, u64)> = rows.map(|(slot, row)| (*slot, row.epoch)).collect();
            if !slots.is_empty() {
                world.propose(&MetadataCommand::Split { slots });
            }
            cluster.rows.values().all(|row| row.depth >= depth && row.reshape.is_none())
        })
    }
}

/// By how many bits the smallest slot is named.
pub fn depth(world: &World) -> u8 {
    world.newest_cluster().map_or(0, |cluster| cluster.rows.values().map(|row| row.depth).fold(0, u8::max))
}

/// How many slots there are.
pub fn slots(world: &World) -> usize {
    world.newest_cluster().map_or(0, |cluster| cluster.rows.len())
}

fn splits_under_way(cluster: &Cluster) -> bool {
    cluster.rows.values().any(|row| row.reshape.is_some())
}

impl Stage {
    /// Three nodes, users who talk with each other from some of them.
    pub fn gathering(&mut self, at: &[usize]) -> Done<Vec<usize>> {
        self.cluster(3, 0);
        self.begin(&USERS)?;
        self.until("the cluster is whole", |world| world.unrest_of_cluster().is_none())?;
        (0..USERS.len())
            .map(|user| {
                let device = self.device(user, 0);
                self.world.devices[device].address = at[user % at.len()];
                self.connect(device)?;
                Ok(device)
            })
            .collect()
    }

    /// Everybody sends to the next ones, for so many rounds of some milliseconds.
    pub fn talk(&mut self, devices: &[usize], rounds: usize, ms: u64) -> Done<Vec<(usize, Number)>> {
        let mut sent = Vec::new();
        for round in 0..rounds {
            for user in 0..devices.len() {
                let to = (user + 1 + round % 3) % devices.len();
                sent.push((devices[to], self.send(devices[user], to)));
            }
            self.wait(ms)?;
        }
        Ok(sent)
    }

    pub fn all_see(&mut self, sent: &[(usize, Number)]) -> Done {
        for (device, number) in sent {
            self.sees(*device, *number)?;
        }
        Ok(())
    }

    fn split_until(&mut self, wanted: usize) -> Done {
        self.until("the slots have become two", |world| {
            slots(world) == wanted && world.newest_cluster().is_some_and(|cluster| !splits_under_way(cluster))
        })
    }

    pub fn nobody_refused(&mut self) -> Done {
        self.expect("nobody was refused", |world| world.devices.iter().all(|device| device.given_up == 0))
    }
}

fn split_one_slot_under_load(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1, 2])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    for turn in 0..4 {
        stage.world.split(Some(3 * turn));
        sent.extend(stage.talk(&devices, 30, 10)?);
        stage.split_until(before + turn + 1)?;
    }
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.conclude()
}

fn split_all_under_load(stage: &mut Stage) -> Done {
    let devices = stage.gathering(&[0, 1, 2])?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    for turn in 1..=2 {
        stage.world.split(None);
        sent.extend(stage.talk(&devices, 50, 10)?);
        stage.split_until(before << turn)?;
    }
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.conclude()
}

fn split_a_lonely_node(stage: &mut Stage) -> Done {
    stage.begin(&USERS)?;
    let devices = stage.everybody_connects(USERS.len(), 1)?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    stage.world.split(None);
    sent.extend(stage.talk(&devices, 30, 10)?);
    stage.split_until(before * 2)?;
    stage.all_see(&sent)?;
    stage.nobody_refused()?;
    stage.crash()?;
    stage.conclude()
}

/// The power of a node fails so many milliseconds after a split was ordered.
fn split_and_kill(stage: &mut Stage, nodes: &[usize], after_ms: u64) -> Done {
    let alive: Vec<usize> = (0..3).filter(|node| !nodes.contains(node)).collect();
    let devices = stage.gathering(&alive)?;
    let mut sent = stage.talk(&devices, 10, 10)?;
    let before = slots(&stage.world);
    stage.world.split(None);
    stage.wait(after_ms)?;
    for node in nodes {
        stage.world.crash_node_for(*node, Machine::Refuses, Duration::from_secs(3));
    }
    sent.extend(stage.talk(&devices, 30, 20)?);
    stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
    stage.split_until(before * 2)?;
    stage.all_see(&sent)?;
    stage.conclude()
}

fn split_while_the_leader_dies(stage: &mut Stage) -> Done {
    for after_ms in [1, 20, 60, 110, 170, 210, 230, 260, 300, 350, 400, 500, 700] {
        split_and_kill(stage, &[0], after_ms)?;
    }
    Ok(())
}

fn split_while_followers_die(stage: &mut Stage) -> Done {
    for after_ms in [5, 40, 90, 150, 220, 250, 280, 330, 450, 600] {
        split_and_kill(stage, &[1, 2], after_ms)?;
    }
    Ok(())
}

fn split_beyond_a_lagging_replica(stage: &mut Stage) -> Done {
    stage.cluster(3, 0);
    stage.limits(|limits| limits.replay_bytes_max = 64 << 10);
    stage.begin(&USERS)?;
    stage.until("the cluster is whole", |world| world.unrest_of_cluster().is_none())?;
    let devices = stage.everybody_connects(USERS.len(), 2)?;
    let mut sent = stage.talk(&devices, 5, 10)?;
    let before = slots(&stage.world);
    stage.world.crash_node_for(2, Machine::Refuses, Duration::from_secs(20));
    stage.wait(2_000)?;
    stage.world.split(None);
    stage.split_until(before * 2)?;
    for _ in 0..20 {
        for (user, device) in devices.iter().enumerate() {
            let to = (user + 1) % devices.len();
            let number = stage.world.send(*device, to, crate::ledger::Kind::Stored, 3_000, None);
            sent.push((devices[to], number));
        }
        stage.answered(devices[0])?;
    }
    stage.until("the node is back", |world| world.nodes[2].up)?;
    stage.all_see(&sent)?;
    stage.conclude()
}
