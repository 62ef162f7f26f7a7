//! Messages that go straight from their channel's leader to a session, not by way of the home: that they do where it pays, and that every device
//! has everything once and in order whatever moves or dies meanwhile. Told as the scenarios of `cluster_scenarios`.

use jindou::engine::counters::Counters;
use jindou::format::frame::Frame;
use jindou::ids::{ChannelKey, Uid};

use crate::ledger::{LogKey, Number};
use crate::links::Machine;
use crate::sabotage::Sabotage;
use crate::stage::{Done, Script, Stage};
use crate::world::World;

/// All of them by name.
pub const ALL: [(&str, Script); 10] = [
    ("straight-to-a-third-node", straight_to_a_third_node),
    ("straight-to-the-leaders-node", straight_to_the_leaders_node),
    ("straight-to-several-sessions", straight_to_several_sessions),
    ("straight-while-the-recipient-moves", straight_while_the_recipient_moves),
    ("straight-while-the-home-dies", straight_while_the_home_dies),
    ("straight-while-the-gateway-dies", straight_while_the_gateway_dies),
    ("straight-while-the-leader-dies", straight_while_the_leader_dies),
    ("straight-while-links-break", straight_while_links_break),
    ("straight-while-slots-split", straight_while_slots_split),
    ("straight-and-lost", straight_and_lost),
];

const USERS: [&str; 8] = ["ana", "bo", "cem", "dia", "eli", "fay", "gus", "hal"];

/// Two users who talk, and where it happens: nodes by number.
struct Far {
    /// Who sends, and its phone, on the channel leader's node.
    ana: (usize, usize),
    /// Who receives, and its phone.
    bo: (usize, usize),
    leader: usize,
    home: usize,
    third: usize,
}

impl World {
    /// What all shards that live now have counted of something.
    pub fn counted(&self, which: fn(&Counters) -> u64) -> u64 {
        let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        hosts.map(|host| which(host.shard.counters())).sum()
    }

    /// Takes out of a batch what a network that loses things would: what goes straight from a leader to a session, if that is to be lost.
    pub fn lose_straight(&mut self, frames: &mut Vec<Frame>) {
        let straight = |frame: &Frame| matches!(frame, Frame::Deliver(deliver) if deliver.cursor.is_none());
        if !frames.iter().any(straight) || !(self.loses_straight || self.sabotages(Sabotage::LoseStraight, 1)) {
            return;
        }
        let before = frames.len();
        frames.retain(|frame| !straight(frame));
        self.coverage.add("fault: straight delivery lost", (before - frames.len()) as u64);
    }
}

impl Stage {
    /// Three nodes, and two users of whom the second one's home is led on another node than their conversation. The second one's phone
    /// connects where `at` says.
    fn far(&mut self, at: fn(&Far) -> usize) -> Done<Far> {
        self.cluster(3, 0);
        self.begin(&USERS)?;
        self.whole()?;
        let uid = |user: usize| Uid::parse(USERS[user]).expect("a good uid");
        let pairs = (0..USERS.len()).flat_map(|a| (0..USERS.len()).map(move |b| (a, b)));
        let mut pairs = pairs.filter(|(a, b)| {
            a != b
                && ChannelKey::pair(&uid(*a), &uid(*b)).members().0 == USERS[*a]
                && self.leader(*a) != self.leader(*b)
        });
        let Some((ana, bo)) = pairs.next() else {
            self.fail("two homes on two nodes")?;
            unreachable!("it has failed");
        };
        let (leader, home) = (self.leader(ana), self.leader(bo));
        let mut far = Far { ana: (ana, 0), bo: (bo, 0), leader, home, third: 3 - leader - home };
        far.ana.1 = self.phone_at(ana, leader)?;
        far.bo.1 = self.phone_at(bo, at(&far))?;
        Ok(far)
    }

    /// The first one sends so many messages, one every so many milliseconds.
    fn tell(&mut self, far: &Far, count: usize, ms: u64) -> Done<Vec<(usize, Number)>> {
        let mut sent = Vec::new();
        for _ in 0..count {
            sent.push((far.bo.1, self.send(far.ana.1, far.bo.0)));
            self.wait(ms)?;
        }
        Ok(sent)
    }

    fn went_straight(&mut self, at_least: u64) -> Done {
        let text = format!("{at_least} messages have gone straight");
        self.expect(&text, |world| world.counted(|counters| counters.deliveries_straight) >= at_least)
    }
}

fn straight_to_a_third_node(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.third)?;
    let sent = stage.tell(&far, 30, 20)?;
    stage.all_arrive(&sent)?;
    stage.went_straight(25)?;
    stage.wait(1_000)?;
    stage.expect("nothing was amiss", |world| {
        world.counted(|all| all.deliveries_stale + all.deliveries_checked + all.deliveries_strayed) == 0
    })?;
    stage.conclude()
}

fn straight_to_the_leaders_node(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.leader)?;
    let sent = stage.tell(&far, 30, 20)?;
    stage.all_arrive(&sent)?;
    stage.went_straight(25)?;
    // At its home there is nothing to gain.
    stage.leave(far.bo.1)?;
    stage.world.devices[far.bo.1].address = far.home;
    stage.connect(far.bo.1)?;
    let sent = stage.tell(&far, 3, 50)?;
    stage.all_arrive(&sent)?;
    let before = stage.world.counted(|counters| counters.deliveries_straight);
    let sent = stage.tell(&far, 10, 20)?;
    stage.all_arrive(&sent)?;
    let text = "at its home everything comes by the home";
    stage.expect(text, |world| world.counted(|counters| counters.deliveries_straight) == before)?;
    stage.conclude()
}

fn straight_to_several_sessions(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.third)?;
    let mut sent = stage.tell(&far, 10, 20)?;
    for (flag, node) in [(1, far.leader), (2, far.home), (0, far.home)] {
        let other = stage.device(far.bo.0, flag);
        stage.world.devices[other].address = node;
        stage.connect(other)?;
        for (_, number) in stage.tell(&far, 10, 10)? {
            sent.push((other, number));
            sent.push((far.bo.1, number));
        }
    }
    stage.all_arrive(&sent)?;
    stage.went_straight(15)?;
    stage.conclude()
}

fn straight_while_the_recipient_moves(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.third)?;
    let mut sent = stage.tell(&far, 5, 20)?;
    for round in 0..9 {
        if round % 2 == 0 {
            stage.vanish(far.bo.1)
        } else {
            stage.leave(far.bo.1)?
        }
        sent.extend(stage.tell(&far, 3, 7)?);
        stage.world.devices[far.bo.1].address = (far.third + round) % 3;
        stage.connect(far.bo.1)?;
        sent.extend(stage.tell(&far, 8, 7)?);
    }
    stage.all_arrive(&sent)?;
    stage.went_straight(10)?;
    stage.expect("the home was asked for what it knows now", |world| {
        world.counted(|counters| counters.deliveries_stale) > 0
    })?;
    stage.conclude()
}

/// Sends while a node is killed, once its machine with it.
fn while_one_dies(stage: &mut Stage, at: fn(&Far) -> usize, which: fn(&Far) -> usize) -> Done {
    let far = stage.far(at)?;
    let mut sent = Vec::new();
    for machine in [Machine::Refuses, Machine::Dark] {
        sent.extend(stage.tell(&far, 10, 20)?);
        stage.kill(which(&far), machine, 3_000);
        sent.extend(stage.tell(&far, 40, 25)?);
        stage.until("the nodes are back", |world| world.nodes.iter().all(|node| node.up))?;
        stage.whole()?;
        for device in [far.ana.1, far.bo.1] {
            stage.world.client_closes(device, 0);
            stage.connect(device)?;
        }
    }
    stage.all_arrive(&sent)?;
    stage.went_straight(5)?;
    stage.conclude()
}

fn straight_while_the_home_dies(stage: &mut Stage) -> Done {
    while_one_dies(stage, |far| far.leader, |far| far.home)
}

fn straight_while_the_gateway_dies(stage: &mut Stage) -> Done {
    while_one_dies(stage, |far| far.third, |far| far.third)
}

fn straight_while_the_leader_dies(stage: &mut Stage) -> Done {
    while_one_dies(stage, |far| far.third, |far| far.leader)
}

fn straight_while_links_break(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.third)?;
    let mut sent = stage.tell(&far, 10, 20)?;
    for (one, other) in [(far.leader, far.third), (far.leader, far.home), (far.home, far.third)] {
        stage.world.flap(one, other);
        sent.extend(stage.tell(&far, 40, 20)?);
        stage.wait(1_500)?;
        for _ in 0..5 {
            stage.world.break_connection();
            sent.extend(stage.tell(&far, 5, 5)?);
        }
    }
    stage.all_arrive(&sent)?;
    stage.went_straight(20)?;
    stage.conclude()
}

fn straight_while_slots_split(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.third)?;
    let mut sent = stage.tell(&far, 10, 20)?;
    stage.world.split(None);
    sent.extend(stage.tell(&far, 100, 10)?);
    stage.whole()?;
    sent.extend(stage.tell(&far, 20, 10)?);
    stage.all_arrive(&sent)?;
    stage.went_straight(30)?;
    stage.conclude()
}

fn straight_and_lost(stage: &mut Stage) -> Done {
    let far = stage.far(|far| far.leader)?;
    // Until it sits on another shard than the conversation: only between shards of one node can the simulator lose a frame.
    for _ in 0..20 {
        stage.world.loses_straight = false;
        let sent = stage.tell(&far, 5, 30)?;
        stage.all_arrive(&sent)?;
        stage.world.loses_straight = true;
        let lost = stage.tell(&far, 3, 30)?;
        stage.all_arrive(&lost)?;
        if stage.world.counted(|counters| counters.deliveries_checked) > 0 {
            stage.world.loses_straight = false;
            return stage.conclude();
        }
        stage.leave(far.bo.1)?;
        stage.connect(far.bo.1)?;
    }
    let log = LogKey::Pair(far.ana.0.min(far.bo.0), far.ana.0.max(far.bo.0));
    stage.fail(&format!("something is lost on its way from the leader of {:?}", stage.world.slot_of_log(log)))
}
