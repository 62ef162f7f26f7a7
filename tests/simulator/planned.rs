//! What users notice of what is planned: nodes that are restarted in order, nodes that join and leave, slots that become two. Everybody talks
//! all the time from every node; whoever is disconnected goes to the next node at once, as an SDK does. Measured is from the moment
//! at which somebody wants to say something to the answer.

use jindou::engine::link::LinkLimits;
use jindou::engine::metadata::{Cluster, MemberState};
use jindou::limits::Limits;

use crate::faults::Plan;
use crate::ledger::Number;
use crate::operator::Order;
use crate::stage::{Done, Script, Stage};
use crate::world::World;

/// All of them by name.
pub const ALL: [(&str, Script); 5] = [
    ("restarts-in-order-are-hardly-noticed", restarts_in_order_are_hardly_noticed),
    ("a-join-is-hardly-noticed", a_join_is_hardly_noticed),
    ("a-drain-is-hardly-noticed", a_drain_is_hardly_noticed),
    ("a-split-is-hardly-noticed", a_split_is_hardly_noticed),
    ("the-first-word-waits-for-nothing", the_first_word_waits_for_nothing),
];

const USERS: [&str; 6] = ["ana", "bo", "cem", "dia", "eli", "fay"];

/// Nobody waits longer.
const BAR_US: u64 = 50_000;

/// Each says something so often.
const PACE_NS: u64 = 10_000_000;

/// Between the end of a connection and the next one.
const PAUSE_NS: u64 = 20_000_000;

/// Histories of each scenario: chance differs.
const HISTORIES: u64 = 4;

/// Users who never stop talking.
struct Crowd {
    devices: Vec<usize>,
    next_ns: Vec<u64>,
    said: Vec<(usize, Number, u64)>,
}

impl Stage {
    /// So many nodes that run with what production runs with, and users on all of them.
    fn crowd(&mut self, seed: u64, nodes: u16, spares: u16) -> Done<Crowd> {
        let mut plan = Plan::quiet(seed);
        (plan.nodes, plan.cluster.spares) = (nodes, spares);
        plan.limits = Limits { sends_per_second: 100_000, ..Limits::PRODUCTION };
        plan.cluster.link_limits = LinkLimits::PRODUCTION;
        plan.workload.send_window = 64;
        // What a user's own network costs is not the cluster's doing.
        plan.network.client_us = (50, 500);
        self.renew(plan);
        self.begin(&USERS)?;
        self.whole()?;
        let devices = self.everybody_connects(USERS.len(), usize::from(nodes))?;
        // A device that is new takes its time before it looks at what is to be sent.
        self.wait(350)?;
        let next_ns = vec![self.world.now_ns; devices.len()];
        Ok(Crowd { devices, next_ns, said: Vec::new() })
    }

    /// Everybody talks until something is so, and for so long at least.
    fn talk_until(&mut self, crowd: &mut Crowd, ms: u64, so: impl Fn(&World) -> bool) -> Done {
        let least_ns = self.world.now_ns + ms * 1_000_000;
        let most_ns = least_ns + 60_000_000_000;
        while self.world.now_ns < least_ns || !so(&self.world) {
            if self.world.now_ns > most_ns {
                let unrest = self.world.unrest_of_cluster();
                return self.fail(&format!("the cluster comes to rest while users talk: {unrest:?}"));
            }
            let now_ns = self.world.now_ns;
            for at in 0..crowd.devices.len() {
                let device = crowd.devices[at];
                let known = &mut self.world.devices[device];
                if known.link.is_none() && now_ns >= known.lost_ns + PAUSE_NS {
                    known.address += usize::from(known.lost_ns > 0);
                    self.world.connect(device);
                }
                if now_ns >= crowd.next_ns[at] {
                    crowd.next_ns[at] = now_ns + PACE_NS;
                    let peer = (at + 1 + (now_ns / PACE_NS) as usize % (USERS.len() - 1)) % USERS.len();
                    crowd.said.push((at, self.send(device, peer), now_ns));
                }
            }
            self.wait(2)?;
        }
        Ok(())
    }

    fn keep_talking(&mut self, crowd: &mut Crowd, ms: u64) -> Done {
        self.talk_until(crowd, ms, |_| true)
    }

    /// Everything was answered well, and nobody has waited long since this was asked last.
    fn hardly_noticed(&mut self, crowd: &mut Crowd, what: &str) -> Done {
        for device in crowd.devices.clone() {
            self.answered(device)?;
        }
        let mut worst = vec![(0, 0); crowd.devices.len()];
        for (at, number, wanted_ns) in std::mem::take(&mut crowd.said) {
            let Some(accepted) = self.world.ledger.sent.get(&number).and_then(|sent| sent.accepted) else {
                return self.fail("every SEND is taken");
            };
            worst[at] = worst[at].max((accepted.at_ns.saturating_sub(wanted_ns) / 1_000, wanted_ns / 1_000));
        }
        let (most_us, at_us) = worst.iter().copied().max().unwrap_or_default();
        let each: Vec<u64> = worst.iter().map(|(us, _)| us / 1_000).collect();
        println!("{what}: {each:?} ms");
        if most_us > BAR_US {
            return self
                .fail(&format!("{what} costs no more than {BAR_US} us: {most_us} us for what was said at {at_us} us"));
        }
        Ok(())
    }
}

fn is_whole(world: &World) -> bool {
    world.unrest_of_cluster().is_none()
}

fn restarts_in_order_are_hardly_noticed(stage: &mut Stage) -> Done {
    for seed in 0..HISTORIES {
        let mut crowd = stage.crowd(seed, 3, 0)?;
        stage.keep_talking(&mut crowd, 300)?;
        stage.hardly_noticed(&mut crowd, "nothing")?;
        for node in [0, 1, 2, 0] {
            stage.world.stop_node(node);
            stage.talk_until(&mut crowd, 1_000, |world| world.nodes[node].up && !world.nodes[node].stopping)?;
            stage.hardly_noticed(&mut crowd, "a stop")?;
            stage.talk_until(&mut crowd, 3_000, is_whole)?;
            stage.hardly_noticed(&mut crowd, "a node that comes back")?;
        }
        stage.conclude()?;
    }
    Ok(())
}

fn a_join_is_hardly_noticed(stage: &mut Stage) -> Done {
    for seed in 0..HISTORIES {
        let mut crowd = stage.crowd(seed, 3, 1)?;
        stage.keep_talking(&mut crowd, 300)?;
        stage.world.operate(Order::Join(3));
        stage.talk_until(&mut crowd, 6_000, is_whole)?;
        stage.hardly_noticed(&mut crowd, "a join")?;
        stage.conclude()?;
    }
    Ok(())
}

fn a_drain_is_hardly_noticed(stage: &mut Stage) -> Done {
    for seed in 0..HISTORIES {
        let mut crowd = stage.crowd(seed, 4, 0)?;
        stage.keep_talking(&mut crowd, 300)?;
        let id = stage.world.nodes[seed as usize % 4].id;
        stage.world.operate(Order::Drain(seed as usize % 4));
        let empty = |cluster: &Cluster| {
            let drains = cluster.members.get(&id).is_some_and(|one| one.state == MemberState::Draining);
            drains && cluster.rows.values().all(|row| row.named().all(|replica| replica.place().node != id))
        };
        stage.talk_until(&mut crowd, 1_000, |world| world.newest_cluster().is_some_and(|cluster| empty(cluster)))?;
        // Then its sessions are let go.
        stage.keep_talking(&mut crowd, 2_000)?;
        stage.hardly_noticed(&mut crowd, "a drain")?;
        stage.conclude()?;
    }
    Ok(())
}

fn a_split_is_hardly_noticed(stage: &mut Stage) -> Done {
    for seed in 0..HISTORIES {
        let mut crowd = stage.crowd(seed, 3, 0)?;
        stage.keep_talking(&mut crowd, 300)?;
        let before = stage.world.newest_cluster().map_or(0, |cluster| cluster.rows.len());
        for turn in 1..=2 {
            stage.world.operate(Order::Split);
            stage.talk_until(&mut crowd, 300, |world| {
                world.newest_cluster().is_some_and(|cluster| {
                    cluster.rows.len() == before << turn && cluster.rows.values().all(|row| row.reshape.is_none())
                })
            })?;
            stage.keep_talking(&mut crowd, 300)?;
            stage.hardly_noticed(&mut crowd, "a split")?;
            stage.talk_until(&mut crowd, 300, is_whole)?;
            stage.hardly_noticed(&mut crowd, "leaders after a split")?;
        }
        stage.conclude()?;
    }
    Ok(())
}

/// Whoever comes to a node right after it has come back, and says the first thing there is to say in a slot, need not wait until
/// the node has asked who leads.
fn the_first_word_waits_for_nothing(stage: &mut Stage) -> Done {
    for seed in 0..HISTORIES {
        let mut crowd = stage.crowd(seed, 3, 0)?;
        stage.hardly_noticed(&mut crowd, "nothing")?;
        for (user, device) in crowd.devices.clone().into_iter().enumerate() {
            for peer in (0..USERS.len()).filter(|peer| *peer != user) {
                let now_ns = stage.world.now_ns;
                crowd.said.push((user, stage.send(device, peer), now_ns));
                stage.wait(15)?;
            }
        }
        stage.hardly_noticed(&mut crowd, "a first word")?;
        stage.conclude()?;
    }
    Ok(())
}
