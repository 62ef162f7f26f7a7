//! The steward against a toy cluster whose groups carry targets out in three steps and report. Every command that it names is applied at
//! once; after each second the bounds are looked at.

use super::*;
use crate::engine::metadata::NewMember;
use crate::format::frame::Addresses;

/// Few at a time, so that bounds are met by small clusters.
const FEW: StewardLimits = StewardLimits {
    moves_under_way_max: 8,
    moves_into_node_max: 2,
    merges_under_way_max: 3,
    ..StewardLimits::PRODUCTION
};

const SECOND: Duration = Duration::from_secs(1);

/// What a slot's group does by itself.
#[derive(Clone, Debug, Default)]
struct Group {
    voters: Vec<ReplicaId>,
    learners: Vec<ReplicaId>,
}

struct Toy {
    cluster: Cluster,
    steward: Steward,
    now: Instant,
    up: BTreeSet<NodeId>,
    groups: BTreeMap<SlotId, Group>,
    /// Moves seen to begin, in order.
    begun: Vec<SlotId>,
    /// Groups do not move while this is set.
    frozen: bool,
}

fn member(node: u16, shards: u16) -> NewMember {
    let addresses = Addresses {
        cluster: "127.0.0.1:5000".parse().unwrap(),
        tcp: "".into(),
        ws: "".into(),
        wss: "".into(),
        http: "".into(),
    };
    NewMember { node: NodeId(node), identity: 1, shards, addresses }
}

impl Toy {
    fn new(slot_depth: u8, replicas_wanted: u8) -> Toy {
        let mut cluster = Cluster::default();
        let found =
            MetadataCommand::Found { id: 1, name: "toy".into(), replicas_wanted, slot_depth, member: member(1, 2) };
        cluster.apply(&found).unwrap();
        let now = Instant(1);
        let group = |row: &SlotRow| Group { voters: row.replicas.clone(), learners: Vec::new() };
        Toy {
            groups: cluster.rows.iter().map(|(slot, row)| (*slot, group(row))).collect(),
            cluster,
            steward: Steward::new(FEW, now),
            now,
            up: BTreeSet::from([NodeId(1)]),
            begun: Vec::new(),
            frozen: false,
        }
    }

    /// So many nodes, everything even.
    fn grown(slot_depth: u8, replicas_wanted: u8, nodes: u16) -> Toy {
        let mut toy = Toy::new(slot_depth, replicas_wanted);
        (2..=nodes).for_each(|node| toy.join(node));
        toy.rest();
        toy
    }

    fn join(&mut self, node: u16) {
        self.cluster.apply(&MetadataCommand::AddMember(member(node, 2))).unwrap();
        self.up.insert(NodeId(node));
    }

    fn set(&mut self, node: u16, state: MemberState) {
        self.cluster.apply(&MetadataCommand::SetMemberState { node: NodeId(node), state }).unwrap();
    }

    fn state(&self, node: u16) -> MemberState {
        self.cluster.members[&NodeId(node)].state
    }

    fn tick(&mut self) -> Vec<MetadataCommand> {
        self.now = self.now + SECOND;
        for node in &self.up {
            self.steward.alive(*node, 1, self.now);
        }
        let slots: Vec<SlotId> = self.groups.keys().copied().collect();
        for slot in slots {
            self.step(slot);
        }
        let commands = self.steward.decide(self.now, &self.cluster);
        for command in &commands {
            let applied = self.cluster.apply(command).unwrap_or_else(|why| panic!("{command:?}: {why}"));
            assert!(applied.skipped.is_empty(), "{command:?}: {:?}", applied.skipped);
            if let MetadataCommand::SetTargets { moves } = command {
                self.begun.extend(moves.iter().map(|one| one.0));
            }
        }
        self.check();
        commands
    }

    /// One step of one group: take newcomers in as learners, change over, report.
    fn step(&mut self, slot: SlotId) {
        let (Some(row), Some(group)) = (self.cluster.rows.get(&slot), self.groups.get_mut(&slot)) else { return };
        let live = group.voters.iter().filter(|replica| self.up.contains(&replica.place().node)).count();
        if live * 2 <= group.voters.len() || self.frozen {
            return;
        }
        if let Some(target) = row.target.as_ref().filter(|target| !same(target, &group.voters)) {
            let newcomers: Vec<ReplicaId> =
                target.iter().filter(|replica| !group.voters.contains(replica)).copied().collect();
            if group.learners != newcomers {
                group.learners = newcomers;
            } else if group.learners.iter().all(|replica| self.up.contains(&replica.place().node)) {
                *group = Group { voters: target.clone(), learners: Vec::new() };
            }
        } else {
            group.learners.clear();
        }
        let matched =
            group.voters.iter().map(|replica| (*replica, 10)).chain(group.learners.iter().map(|one| (*one, 4)));
        self.steward.report(SlotReport {
            slot,
            epoch: row.epoch,
            term: 1,
            voters: group.voters.clone(),
            learners: group.learners.clone(),
            joint: false,
            committed: 10,
            matched: matched.collect(),
            bytes: 0,
        });
    }

    fn check(&self) {
        let limits = FEW;
        let moving: Vec<&SlotRow> = self.cluster.rows.values().filter(|row| row.target.is_some()).collect();
        assert!(moving.len() <= limits.moves_under_way_max);
        let mut into: BTreeMap<NodeId, usize> = BTreeMap::new();
        for row in moving {
            let to = row.places_wanted();
            coming(row, &to, &self.cluster).for_each(|place| *into.entry(place.node).or_insert(0) += 1);
        }
        assert!(into.values().all(|count| *count <= limits.moves_into_node_max), "{into:?}");
        assert_eq!(self.cluster.fault(), None);
    }

    fn progress(&self) -> Progress {
        self.steward.progress(self.now, &self.cluster)
    }

    fn run(&mut self, seconds: usize) {
        (0..seconds).for_each(|_| drop(self.tick()));
    }

    /// Until nothing happens for a while.
    fn rest(&mut self) {
        let mut quiet = 0;
        for _ in 0..5000 {
            quiet = if self.tick().is_empty() && self.progress().moves.is_empty() { quiet + 1 } else { 0 };
            if quiet > 10 {
                return;
            }
        }
        panic!("never at rest: {:?}", self.progress());
    }

    fn counts(&self, count: impl Fn(&SlotRow) -> Vec<Place>) -> Vec<usize> {
        let serving = self.cluster.members_in(MemberState::Serving);
        let all: Vec<Place> = self.cluster.rows.values().flat_map(count).collect();
        serving.map(|node| all.iter().filter(|place| place.node == node).count()).collect()
    }

    fn check_even(&self, replicas: usize) {
        let held = self.counts(|row| row.replicas.iter().map(|replica| replica.place()).collect());
        let led = self.counts(|row| vec![row.preferred.place()]);
        for counts in [&held, &led] {
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{held:?} {led:?}");
        }
        assert!(self.cluster.rows.values().all(|row| row.replicas.len() == replicas && row.target.is_none()));
    }
}

#[test]
fn a_cluster_grows_and_becomes_even() {
    let mut toy = Toy::new(5, 3);
    assert!((0..20).all(|_| toy.tick().is_empty()), "one node has nothing to do");
    for node in 2..=5 {
        toy.join(node);
        toy.rest();
        toy.check_even(usize::from(node).min(3));
        assert!(toy.progress().is_at_rest());
        assert_eq!(toy.progress().remaining, Some(Duration::ZERO));
    }
    let members = toy.progress().members;
    assert_eq!(members.iter().map(|member| member.slots).sum::<usize>(), 96);
    assert_eq!(members.iter().map(|member| member.leads).sum::<usize>(), 32);
    assert!(members.iter().all(|member| member.alive && member.silent == Duration::ZERO));
}

/// Leaderships that change places in turns, one a decision: each plan must come to its end before the next is made.
#[test]
fn it_comes_to_rest_one_choice_at_a_time() {
    for (depth, replicas) in [(2, 3), (3, 2), (4, 3), (5, 3), (5, 2)] {
        let mut toy = Toy::new(depth, replicas);
        toy.steward.limits = StewardLimits::TINY;
        for node in 2..=6 {
            toy.join(node);
            toy.rest();
        }
        for node in [3, 5, 2] {
            toy.set(node, MemberState::Draining);
            toy.rest();
            toy.set(node, MemberState::Serving);
            toy.rest();
            toy.check_even(usize::from(replicas));
        }
    }
}

#[test]
fn a_drained_node_becomes_empty_and_can_go() {
    let mut toy = Toy::grown(5, 3, 4);
    toy.set(2, MemberState::Draining);
    toy.tick();
    let progress = toy.progress();
    assert!(progress.moves_waiting > 0 && !progress.waits.is_empty() && progress.remaining.is_some(), "{progress:?}");
    toy.rest();
    toy.check_even(3);
    assert_eq!(toy.progress().members[1].slots, 0);
    toy.cluster.apply(&MetadataCommand::RemoveMember { node: NodeId(2) }).unwrap();
    toy.rest();
    assert!(toy.up.contains(&NodeId(2)));
    assert_eq!(toy.steward.heard.len(), 3, "who is no member is forgotten, whatever it says");
}

#[test]
fn a_dead_node_is_replaced_and_may_come_back() {
    let mut toy = Toy::grown(4, 3, 5);
    toy.up.remove(&NodeId(3));
    toy.run(200);
    assert_eq!(toy.state(3), MemberState::Serving);
    let waits = toy.progress().waits;
    assert!(waits[0].node == Some(NodeId(3)) && waits[0].why.contains("rebuilt in 100 s"), "{waits:?}");
    // Another leader has its own clock.
    toy.steward = Steward::new(FEW, toy.now);
    toy.run(299);
    assert_eq!(toy.state(3), MemberState::Serving);
    toy.run(2);
    assert_eq!(toy.state(3), MemberState::Dead);
    toy.rest();
    toy.check_even(3);
    assert_eq!(toy.progress().members[2].slots, 0);
    toy.up.insert(NodeId(3));
    toy.run(1);
    assert_eq!(toy.state(3), MemberState::Serving);
    toy.rest();
    toy.check_even(3);
}

#[test]
fn nobody_is_judged_whom_nobody_could_replace() {
    let mut toy = Toy::grown(3, 3, 3);
    toy.up.remove(&NodeId(3));
    toy.run(400);
    assert_eq!(toy.state(3), MemberState::Serving);
    assert!(toy.progress().waits[0].why.contains("drain it if"), "{:?}", toy.progress().waits);
    let mut toy = Toy::grown(3, 1, 4);
    toy.up.retain(|node| node.0 < 3);
    toy.run(400);
    assert_eq!((toy.state(3), toy.state(4)), (MemberState::Serving, MemberState::Serving));
    assert!(toy.progress().waits[0].why.contains("no majority"), "{:?}", toy.progress().waits);
    // A third one: one of the silent may go, the other one still counts.
    toy.join(5);
    toy.run(1);
    assert_eq!((toy.state(3), toy.state(4)), (MemberState::Dead, MemberState::Serving));
}

#[test]
fn a_move_towards_a_dead_newcomer_is_given_up() {
    let mut toy = Toy::grown(4, 3, 4);
    toy.join(5);
    toy.run(2);
    assert!(toy.cluster.rows.values().any(|row| row.target.is_some()));
    toy.up.remove(&NodeId(5));
    toy.run(10);
    let stages: Vec<_> = toy.progress().moves.into_iter().map(|one| one.stage).collect();
    assert!(!stages.is_empty() && stages.iter().all(|stage| stage.contains("n5 is silent")), "{stages:?}");
    toy.run(300);
    assert_eq!(toy.state(5), MemberState::Dead);
    toy.rest();
    toy.check_even(3);
    assert!(toy.progress().is_at_rest());
}

#[test]
fn a_move_after_which_most_would_be_dead_is_given_up() {
    let mut toy = Toy::grown(2, 2, 4);
    toy.frozen = true;
    let (slot, row) = toy.cluster.rows.first_key_value().map(|(slot, row)| (*slot, row.clone())).unwrap();
    let stays = row.replicas[0].place();
    let newcomer = (1..=4).map(NodeId).find(|node| row.replicas.iter().all(|one| one.place().node != *node)).unwrap();
    let to = vec![stays, Place { node: newcomer, shard: stays.shard }];
    toy.cluster.apply(&MetadataCommand::SetTargets { moves: vec![(slot, row.epoch, to)] }).unwrap();
    toy.up.remove(&stays.node);
    toy.run(10);
    assert!(toy.cluster.rows[&slot].target.is_some(), "it may come back");
    toy.set(stays.node.0, MemberState::Dead);
    assert!(toy.tick().contains(&MetadataCommand::CancelTarget { slot, epoch: row.epoch }));
}

#[test]
fn those_with_the_fewest_live_replicas_come_first() {
    let mut toy = Toy::grown(5, 3, 6);
    let weak: BTreeSet<SlotId> = toy
        .cluster
        .rows
        .iter()
        .filter(|(_, row)| row.replicas.iter().any(|replica| replica.place().node == NodeId(2)))
        .map(|(slot, _)| *slot)
        .collect();
    toy.up.remove(&NodeId(2));
    toy.begun.clear();
    toy.set(1, MemberState::Draining);
    toy.run(10);
    toy.begun.clear();
    toy.run(300);
    toy.rest();
    assert_eq!(toy.state(2), MemberState::Dead);
    assert!(toy.cluster.rows.values().all(|row| row.replicas.iter().all(|replica| replica.place().node.0 > 2)));
    // And at once when both are known from the beginning.
    let mut toy = Toy::grown(5, 3, 6);
    toy.up.remove(&NodeId(2));
    toy.run(10);
    toy.begun.clear();
    toy.set(2, MemberState::Dead);
    toy.set(1, MemberState::Draining);
    toy.run(1);
    assert!(!toy.begun.is_empty() && toy.begun.iter().all(|slot| weak.contains(slot)), "{:?} of {weak:?}", toy.begun);
}

#[test]
fn what_was_proposed_is_not_proposed_again_at_once() {
    let mut toy = Toy::grown(3, 3, 2);
    toy.join(3);
    toy.frozen = true;
    toy.now = toy.now + SECOND;
    toy.up.iter().for_each(|node| toy.steward.alive(*node, 1, toy.now));
    let first = toy.steward.decide(toy.now, &toy.cluster);
    assert_eq!(first.len(), 1);
    assert_eq!(toy.steward.decide(toy.now, &toy.cluster), []);
    assert_eq!(toy.steward.decide(toy.now + SECOND, &toy.cluster), first);
    toy.cluster.apply(&first[0]).unwrap();
    assert_eq!(toy.steward.decide(toy.now, &toy.cluster), [], "two at a time into one node");
    let progress = toy.progress();
    assert_eq!((progress.moves.len(), progress.moves_waiting), (2, 6));
    assert!(progress.waits.iter().all(|wait| wait.why.contains("n3 receives 2 slots already")), "{progress:?}");
    assert_eq!(&*progress.moves[0].stage, "its leader is about to begin");
    toy.frozen = false;
    toy.run(1);
    let one = &toy.progress().moves[0];
    assert_eq!((one.caught_up_percent, one.stage.contains("catching up")), (Some(40), true), "{one:?}");
}

#[test]
fn reports_of_the_past_and_hints_change_little() {
    let mut toy = Toy::grown(3, 2, 3);
    let slot = SlotId(0);
    let row = toy.cluster.rows[&slot].clone();
    let mut report = toy.steward.reports[&slot].clone();
    report.term = 9;
    report.voters = vec![row.replicas[0]];
    report.epoch = row.epoch - 1;
    toy.steward.report(report.clone());
    assert!(toy.tick().is_empty(), "of another epoch");
    (report.epoch, report.joint) = (row.epoch, true);
    toy.steward.report(report.clone());
    assert!(toy.tick().is_empty(), "not done");
    report.joint = false;
    toy.steward.report(report);
    assert!(matches!(&toy.tick()[..], [MetadataCommand::Settled { .. }, ..]), "the group knows who votes in it");
    toy.steward.hint(NodeId(2), 77, false);
    assert!(toy.progress().members[1].alive, "about another process");
    toy.steward.hint(NodeId(2), 1, false);
    assert!(!toy.progress().members[1].alive);
    toy.steward.alive(NodeId(2), 1, toy.now);
    assert!(toy.progress().members[1].alive, "its own word is stronger");
}

/// A node comes with an empty disk.
fn wipe(toy: &mut Toy, node: u16) {
    let wiped = NewMember { identity: 2, ..member(node, 2) };
    toy.cluster.apply(&MetadataCommand::AddMember(wiped)).unwrap();
}

#[test]
fn lost_slots_are_named_and_left_alone() {
    let mut toy = Toy::grown(3, 1, 2);
    wipe(&mut toy, 2);
    let lost: Vec<SlotId> = toy.cluster.lost_rows().collect();
    assert_eq!(lost.len(), 4);
    for slot in &lost {
        toy.groups.remove(slot);
    }
    toy.run(20);
    let progress = toy.progress();
    assert_eq!(progress.lost, lost);
    assert!(!progress.is_at_rest() && progress.waits.iter().any(|wait| wait.why.contains("lost")));
}

/// As that, and it is to be emptied before anything of it was rebuilt: those moves are given up, and each group says that it
/// stands as before, with a voter that is no more.
fn wiped_and_drained(toy: &mut Toy, node: u16) {
    wipe(toy, node);
    toy.set(node, MemberState::Draining);
    let rows: Vec<(SlotId, SlotRow)> = toy.cluster.rows.iter().map(|(slot, row)| (*slot, row.clone())).collect();
    for (slot, row) in rows.into_iter().filter(|(_, row)| row.target.is_some()) {
        toy.cluster.apply(&MetadataCommand::CancelTarget { slot, epoch: row.epoch }).unwrap();
        let settled = MetadataCommand::Settled { slot, epoch: row.epoch + 1, voters: row.replicas };
        toy.cluster.apply(&settled).unwrap();
        assert!(names_lost(&toy.cluster.rows[&slot], &toy.cluster));
    }
}

#[test]
fn who_lost_its_disk_is_taken_out_where_nobody_is_to_come_instead() {
    let mut toy = Toy::grown(3, 3, 3);
    wiped_and_drained(&mut toy, 2);
    toy.run(1);
    let progress = toy.progress();
    assert_eq!((progress.moves.len(), progress.moves_waiting), (FEW.moves_under_way_max, 0), "{progress:?}");
    toy.rest();
    toy.check_even(2);
    assert!(toy.progress().is_at_rest());
    toy.cluster.apply(&MetadataCommand::RemoveMember { node: NodeId(2) }).unwrap();
    // The steward does so also by itself: what it gives up it must not forget.
    let mut toy = Toy::grown(3, 3, 3);
    wipe(&mut toy, 2);
    toy.set(2, MemberState::Draining);
    toy.rest();
    toy.check_even(2);
    assert_eq!(toy.progress().members[1].slots, 0);
}

#[test]
fn what_waits_for_its_rebuilding_is_said_to_wait() {
    let mut toy = Toy::grown(4, 3, 3);
    wiped_and_drained(&mut toy, 2);
    // It serves again: the slots are at the right places already, by places alone.
    toy.set(2, MemberState::Serving);
    toy.frozen = true;
    toy.run(2);
    let progress = toy.progress();
    assert_eq!((progress.moves.len(), progress.moves_waiting), (FEW.moves_into_node_max, 14), "{progress:?}");
    let receives = format!("n2 receives {} slots already", FEW.moves_into_node_max);
    assert!(progress.waits.iter().all(|wait| *wait.why == *receives), "{progress:?}");
    toy.frozen = false;
    toy.rest();
    toy.check_even(3);
    assert!(toy.cluster.rows.values().all(|row| !names_lost(row, &toy.cluster)));
}

/// The groups do their part of every merge that has begun.
fn merge_on(toy: &mut Toy) -> usize {
    let rows: Vec<(SlotId, SlotRow)> = toy.cluster.rows.iter().map(|(slot, row)| (*slot, row.clone())).collect();
    let mut under_way = 0;
    for (slot, row) in rows {
        match row.reshape {
            Some(Reshape::Absorb { plan, sibling, gathered: true }) => {
                let places = |slot: SlotId| -> BTreeSet<Place> {
                    toy.cluster.rows[&slot].replicas.iter().map(|replica| replica.place()).collect()
                };
                assert_eq!(places(slot), places(sibling), "slot {slot} begins beside its sibling");
                toy.cluster.apply(&MetadataCommand::MergeDone { slot, plan }).unwrap();
                toy.groups.remove(&sibling);
            }
            Some(Reshape::Digest { plan, waits, .. }) => {
                // Those whose disk is lost never say so.
                let alive = |replica: &ReplicaId| !toy.cluster.is_lost(*replica);
                for replica in waits.into_iter().filter(alive).collect::<Vec<_>>() {
                    toy.cluster.apply(&MetadataCommand::MergeDigested { slot, plan, replica }).unwrap();
                }
            }
            _ => continue,
        }
        under_way += 1;
    }
    under_way
}

#[test]
fn siblings_that_are_to_merge_come_together_first_a_few_at_a_time() {
    let mut toy = Toy::grown(5, 3, 5);
    let pairs = |cluster: &Cluster| -> Vec<(SlotId, u64, u64)> {
        let lows = cluster.rows.iter().filter(|(low, row)| low.sibling(row.depth) > **low);
        lows.map(|(low, row)| (*low, row.epoch, cluster.rows[&low.sibling(row.depth)].epoch)).collect()
    };
    let all = pairs(&toy.cluster);
    let apart = |cluster: &Cluster, (low, ..): &(SlotId, u64, u64)| {
        let row = &cluster.rows[low];
        !cluster.is_gathered(row, &cluster.rows[&low.sibling(row.depth)])
    };
    assert!(all.iter().any(|pair| apart(&toy.cluster, pair)), "some live apart");
    toy.cluster.apply(&MetadataCommand::Merge { slots: all }).unwrap();
    let mut most = 0;
    for second in 0.. {
        toy.tick();
        most = most.max(merge_on(&mut toy));
        if toy.cluster.rows.values().all(|row| row.reshape.is_none()) {
            break;
        }
        // A node that goes in between takes its slots' siblings with it.
        if second == 10 {
            toy.set(2, MemberState::Draining);
        }
        assert!(second < 400, "it comes to an end: {:?}", toy.cluster.rows);
    }
    assert_eq!((toy.cluster.rows.len(), most), (16, FEW.merges_under_way_max));
    toy.rest();
    let left = toy.cluster.rows.values().flat_map(|row| &row.replicas).filter(|replica| replica.place().node.0 == 2);
    assert_eq!((left.count(), toy.cluster.fault()), (0, None));
}

#[test]
fn siblings_come_together_also_where_one_has_lost_a_disk() {
    for upper_too in [false, true] {
        let mut toy = Toy::grown(2, 3, 3);
        wiped_and_drained(&mut toy, 1);
        let [low, high] = [SlotId(0), SlotId(2)];
        if !upper_too {
            // The upper one's move came before.
            let row = toy.cluster.rows[&high].clone();
            let voters: Vec<ReplicaId> =
                row.replicas.iter().copied().filter(|replica| !toy.cluster.is_lost(*replica)).collect();
            toy.groups.insert(high, Group { voters: voters.clone(), learners: Vec::new() });
            let settled = MetadataCommand::Settled { slot: high, epoch: row.epoch, voters };
            toy.cluster.apply(&settled).unwrap();
        }
        let epoch = |slot: SlotId| toy.cluster.rows[&slot].epoch;
        let slots = vec![(low, epoch(low), epoch(high))];
        toy.cluster.apply(&MetadataCommand::Merge { slots }).unwrap();
        for second in 0.. {
            toy.tick();
            merge_on(&mut toy);
            if toy.cluster.rows.values().all(|row| row.reshape.is_none()) {
                break;
            }
            assert!(second < 100, "it comes to an end: {:?}", toy.cluster.rows);
        }
        toy.rest();
        toy.check_even(2);
    }
}
