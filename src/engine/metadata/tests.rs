//! The state machine against what it promises: refused commands change nothing, numbers are never used twice, every state that
//! commands reach adds up and survives its own bytes, and no bytes do harm.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn member(node: u16, identity: u64, shards: u16) -> NewMember {
    let addresses = Addresses {
        cluster: format!("127.0.0.{}:5000", node % 250).parse().unwrap(),
        tcp: "127.0.0.1:5100".into(),
        ws: "ws://127.0.0.1:5200".into(),
        wss: "".into(),
        http: "127.0.0.1:5001".into(),
    };
    NewMember { node: NodeId(node), identity, shards, addresses }
}

fn founded(depth: u8) -> Cluster {
    let mut cluster = Cluster::default();
    let found = MetadataCommand::Found {
        id: 7,
        name: "test".into(),
        replicas_wanted: 3,
        slot_depth: depth,
        member: member(1, 100, 2),
    };
    cluster.apply(&found).unwrap();
    cluster
}

fn place(node: u16, shard: u16) -> Place {
    Place { node: NodeId(node), shard: ShardId(shard) }
}

/// Slot 0 on nodes 1 to `nodes`, settled.
fn spread(nodes: u16) -> Cluster {
    let mut cluster = founded(2);
    for node in 2..=nodes {
        cluster.apply(&MetadataCommand::AddMember(member(node, 100 + u64::from(node), 2))).unwrap();
    }
    let places = (1..=nodes).map(|node| place(node, 0)).collect();
    cluster.apply(&MetadataCommand::SetTargets { moves: vec![(SlotId(0), 1, places)] }).unwrap();
    let voters = cluster.rows[&SlotId(0)].target.clone().unwrap();
    cluster.apply(&MetadataCommand::Settled { slot: SlotId(0), epoch: 1, voters }).unwrap();
    cluster
}

#[test]
fn a_founder_holds_everything() {
    let cluster = founded(3);
    assert_eq!((cluster.version, cluster.rows.len(), cluster.next_replica), (1, 8, 10));
    assert_eq!(cluster.members[&NodeId(1)].metadata_replica, ReplicaId::new(place(1, 0), 1));
    for (slot, row) in &cluster.rows {
        assert_eq!(row.preferred.place(), place(1, slot.0 % 2));
        assert!(row.founded && row.epoch == 1 && row.replicas == [row.preferred]);
    }
    assert_eq!(cluster.replicas_per_place()[&place(1, 1)], 4);
    assert_eq!(cluster.replicas_at(place(1, 1)).count(), 4);
    assert_eq!(cluster.metadata_voters_wanted(), [ReplicaId::new(place(1, 0), 1)]);
    let mut twice = cluster.clone();
    let again = MetadataCommand::Found {
        id: 8,
        name: "other".into(),
        replicas_wanted: 1,
        slot_depth: 0,
        member: member(2, 1, 1),
    };
    assert!(twice.apply(&again).unwrap_err().0.contains("founded already"));
    assert_eq!(twice, cluster);
    assert!(Cluster::default().apply(&MetadataCommand::RemoveMember { node: NodeId(1) }).is_err());
}

#[test]
fn a_cluster_may_get_another_name_and_stays_the_same() {
    let mut cluster = founded(2);
    let before = cluster.clone();
    let rename = |name: &str| MetadataCommand::Rename { name: name.into() };
    assert_eq!(MetadataCommand::decode(&rename("east").encode()), Ok(rename("east")));
    for name in ["", &"e".repeat(NAME_BYTES_MAX + 1)] {
        assert!(cluster.apply(&rename(name)).unwrap_err().0.contains("1 to 64 bytes"));
    }
    cluster.apply(&rename("test")).unwrap();
    assert_eq!(cluster, before, "it is called so already");
    cluster.apply(&rename("east")).unwrap();
    assert_eq!(cluster, Cluster { name: "east".into(), version: before.version + 1, ..before });
    assert!(Cluster::default().apply(&rename("east")).is_err(), "nothing is founded yet");
}

#[test]
fn a_member_may_move_but_not_change_its_shards() {
    let mut cluster = founded(2);
    let before = cluster.clone();
    assert!(cluster.apply(&MetadataCommand::AddMember(member(1, 100, 3))).is_err());
    cluster.apply(&MetadataCommand::AddMember(member(1, 100, 2))).unwrap();
    assert_eq!(cluster, before, "the same again is nothing new");
    let mut moved = member(1, 100, 2);
    moved.addresses.cluster = "127.0.0.9:6000".parse().unwrap();
    cluster.apply(&MetadataCommand::AddMember(moved.clone())).unwrap();
    assert_eq!(cluster.version, before.version + 1);
    assert_eq!(cluster.members[&NodeId(1)].addresses, moved.addresses);
    assert_eq!(cluster.rows, before.rows);
}

#[test]
fn a_lost_disk_is_rebuilt_in_place() {
    let mut cluster = spread(3);
    let (old, row) = (cluster.next_replica, cluster.rows[&SlotId(0)].clone());
    cluster.apply(&MetadataCommand::AddMember(member(1, 999, 2))).unwrap();
    let rebuilt = &cluster.rows[&SlotId(0)];
    let target = rebuilt.target.clone().unwrap();
    assert_eq!(rebuilt.replicas, row.replicas);
    assert_eq!(target[1..], row.replicas[1..]);
    assert!(target[0].place() == row.replicas[0].place() && target[0].number() >= old);
    assert_eq!(cluster.members[&NodeId(1)].since, old);
    assert!(cluster.members[&NodeId(1)].metadata_replica.number() >= old);
    let lost: Vec<SlotId> = cluster.lost_rows().collect();
    assert_eq!(lost, [SlotId(1), SlotId(2), SlotId(3)], "they had no replica elsewhere");
    assert!(lost.iter().all(|slot| cluster.rows[slot].target.is_none()));
    // Lost again before it was rebuilt: numbered once more.
    cluster.apply(&MetadataCommand::AddMember(member(1, 1000, 2))).unwrap();
    let again = cluster.rows[&SlotId(0)].target.clone().unwrap();
    assert!(again[0].number() > target[0].number() && again[1..] == target[1..]);
    let voters = vec![target[0], target[1], target[2]];
    assert!(cluster.apply(&MetadataCommand::Settled { slot: SlotId(0), epoch: 2, voters }).is_err());
    cluster.apply(&MetadataCommand::Settled { slot: SlotId(0), epoch: 2, voters: again.clone() }).unwrap();
    let row = &cluster.rows[&SlotId(0)];
    assert_eq!((row.epoch, row.founded, row.preferred, &row.target), (3, false, again[0], &None));
}

#[test]
fn targets_keep_what_stays_and_skip_what_is_stale() {
    let mut cluster = spread(3);
    let row = cluster.rows[&SlotId(0)].clone();
    let moves = vec![
        (SlotId(0), row.epoch, vec![place(2, 0), place(3, 1)]),
        (SlotId(1), 9, vec![place(2, 0)]),
        (SlotId(2), 1, vec![place(2, 0), place(2, 1)]),
        (SlotId(3), 1, vec![place(1, 1)]),
    ];
    let applied = cluster.apply(&MetadataCommand::SetTargets { moves: moves.clone() }).unwrap();
    let skipped: Vec<u16> = applied.skipped.iter().map(|(slot, _)| slot.0).collect();
    assert_eq!(skipped, [1, 2, 3]);
    let target = cluster.rows[&SlotId(0)].target.clone().unwrap();
    assert_eq!(target[0], row.replicas[1]);
    assert!(target[1].place() == place(3, 1) && !row.replicas.contains(&target[1]));
    let before = cluster.clone();
    assert!(cluster.apply(&MetadataCommand::SetTargets { moves }).is_err(), "there is a target already");
    assert_eq!(cluster, before);
    let remove = MetadataCommand::RemoveMember { node: NodeId(3) };
    cluster.apply(&MetadataCommand::SetMemberState { node: NodeId(3), state: MemberState::Draining }).unwrap();
    assert!(cluster.apply(&remove).unwrap_err().0.contains("still holds"));
    // Given up after the group had changed over: the group's word counts.
    cluster.apply(&MetadataCommand::CancelTarget { slot: SlotId(0), epoch: row.epoch }).unwrap();
    let given_up = cluster.rows[&SlotId(0)].clone();
    assert!(given_up.settling && given_up.target.is_none() && given_up.epoch == row.epoch + 1);
    let again = MetadataCommand::SetTargets { moves: vec![(SlotId(0), given_up.epoch, vec![place(3, 0)])] };
    assert!(cluster.apply(&again).is_err(), "who votes is to be known first");
    let says =
        |epoch, voters: &[ReplicaId]| MetadataCommand::Settled { slot: SlotId(0), epoch, voters: voters.to_vec() };
    let strange = [ReplicaId::new(place(3, 1), 4_000_000)];
    assert!(cluster.apply(&says(given_up.epoch, &strange)).is_err());
    assert!(cluster.apply(&says(row.epoch, &row.replicas)).is_err(), "a report from before it was given up");
    cluster.apply(&says(given_up.epoch, &row.replicas)).unwrap();
    assert!(!cluster.rows[&SlotId(0)].settling, "they stayed who they were");
    cluster.rows.insert(SlotId(0), given_up.clone());
    cluster.apply(&says(given_up.epoch, &target)).unwrap();
    assert_eq!(cluster.rows[&SlotId(0)].replicas, target);
}

#[test]
fn the_last_serving_member_stays() {
    let mut cluster = spread(2);
    let drain = |node| MetadataCommand::SetMemberState { node: NodeId(node), state: MemberState::Draining };
    cluster.apply(&drain(1)).unwrap();
    assert!(cluster.apply(&drain(2)).is_err());
    assert!(cluster.apply(&MetadataCommand::RemoveMember { node: NodeId(2) }).is_err());
    assert_eq!(cluster.metadata_voters_wanted(), [cluster.members[&NodeId(2)].metadata_replica]);
}

#[test]
fn metadata_voters_are_an_odd_number_of_the_oldest() {
    let mut cluster = founded(0);
    for (node, voters) in [(2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)] {
        cluster.apply(&MetadataCommand::AddMember(member(node, 5, 1))).unwrap();
        assert_eq!(cluster.metadata_voters_wanted().len(), voters);
    }
    cluster.apply(&MetadataCommand::AddMember(member(2, 6, 1))).unwrap();
    let nodes: Vec<u16> = cluster.metadata_voters_wanted().iter().map(|replica| replica.place().node.0).collect();
    assert_eq!(nodes, [1, 3, 4, 5, 6], "a new disk joins last");
}

#[test]
fn a_split_is_planned_carried_out_and_reported() {
    let mut cluster = spread(3);
    let parent = cluster.rows[&SlotId(0)].clone();
    cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), parent.epoch), (SlotId(1), 77)] }).unwrap();
    let Some(Reshape::Split { plan, child, replicas }) = cluster.rows[&SlotId(0)].reshape.clone() else { panic!() };
    assert_eq!(child, SlotId(4));
    assert!(replicas.iter().zip(&parent.replicas).all(|(new, old)| new.place() == old.place() && new > old));
    let target = MetadataCommand::SetTargets { moves: vec![(SlotId(0), parent.epoch, vec![place(2, 1)])] };
    assert!(
        cluster.apply(&target).is_err()
            && cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), 2)] }).is_err()
    );
    // A disk lost between plan and report: the child's replica there is lost too.
    cluster.apply(&MetadataCommand::AddMember(member(2, 999, 2))).unwrap();
    let renewed = cluster.rows[&SlotId(0)].target.clone().unwrap();
    let settled = MetadataCommand::Settled { slot: SlotId(0), epoch: parent.epoch, voters: renewed };
    assert!(cluster.apply(&settled).unwrap_err().0.contains("comes first"));
    assert!(cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan: plan + 1 }).is_err());
    cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
    assert!(cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).is_err(), "once is enough");
    let (low, high) = (&cluster.rows[&SlotId(0)], &cluster.rows[&child]);
    assert_eq!((low.depth, low.epoch, &low.reshape), (3, parent.epoch + 1, &None));
    assert_eq!((high.depth, high.epoch, high.founded, &high.replicas), (3, low.epoch, false, &replicas));
    assert_eq!(high.preferred.place(), low.preferred.place());
    let target = high.target.clone().unwrap();
    assert!(target[1].number() > replicas[1].number() && target[0] == replicas[0]);
    assert_eq!(cluster.fault(), None);
}

#[test]
fn siblings_merge_back() {
    let mut cluster = spread(3);
    cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), 2)] }).unwrap();
    let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
    cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
    let merge = MetadataCommand::Merge { slots: vec![(SlotId(0), 3, 3)] };
    let upper = MetadataCommand::Merge { slots: vec![(SlotId(4), 3, 3)] };
    let uneven = MetadataCommand::Merge { slots: vec![(SlotId(1), 1, 1)] };
    assert!(cluster.apply(&upper).unwrap_err().0.contains("upper sibling"));
    assert!(cluster.apply(&uneven).is_ok(), "1 and 3 are siblings on one place");
    cluster.apply(&merge).unwrap();
    assert!(cluster.apply(&merge).unwrap_err().0.contains("under way"));
    let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
    let begin = MetadataCommand::MergeBegin { slots: vec![(SlotId(0), plan)] };
    let done = MetadataCommand::MergeDone { slot: SlotId(0), plan };
    assert!(cluster.apply(&done).unwrap_err().0.contains("not begun"));
    // The lower one may still move; the upper one follows it.
    let away = |slot, epoch| MetadataCommand::SetTargets { moves: vec![(slot, epoch, vec![place(2, 0)])] };
    let settle = |cluster: &mut Cluster, slot: SlotId| {
        let row = cluster.rows[&slot].clone();
        let voters = row.target.unwrap();
        cluster.apply(&MetadataCommand::Settled { slot, epoch: row.epoch, voters }).unwrap();
    };
    cluster.apply(&away(SlotId(0), 3)).unwrap();
    assert!(cluster.apply(&begin).unwrap_err().0.contains("same places"));
    settle(&mut cluster, SlotId(0));
    assert!(cluster.apply(&begin).unwrap_err().0.contains("same places"));
    cluster.apply(&away(SlotId(4), 3)).unwrap();
    settle(&mut cluster, SlotId(4));
    cluster.apply(&begin).unwrap();
    let version = cluster.version;
    cluster.apply(&begin).unwrap();
    assert_eq!(cluster.version, version, "the same again is nothing new");
    assert!(cluster.apply(&away(SlotId(0), 4)).is_err(), "nothing moves any more");
    assert!(cluster.apply(&MetadataCommand::MergeDone { slot: SlotId(0), plan: plan + 1 }).is_err());
    let (low, high) = (cluster.rows[&SlotId(0)].clone(), cluster.rows[&SlotId(4)].clone());
    assert_eq!(high.preferred.place(), low.preferred.place());
    cluster.apply(&done).unwrap();
    let row = cluster.rows[&SlotId(0)].clone();
    assert_eq!((row.depth, row.epoch), (2, 5));
    let names = |replica: &ReplicaId| row.named().any(|named| named == *replica);
    assert!(high.replicas.iter().all(names), "who was taken in is needed for a while");
    assert!(!cluster.rows.contains_key(&SlotId(4)) && cluster.fault().is_none());
    let split = MetadataCommand::Split { slots: vec![(SlotId(0), 5)] };
    assert!(cluster.apply(&split).unwrap_err().0.contains("under way"));
    let said = |replica| MetadataCommand::MergeDigested { slot: SlotId(0), plan, replica };
    let version = cluster.version;
    cluster.apply(&said(high.replicas[0])).unwrap();
    cluster.apply(&done).unwrap();
    assert_eq!(cluster.version, version, "nobody waits for that, and what was said is known");
    cluster.apply(&said(low.replicas[0])).unwrap();
    assert_eq!(cluster.rows[&SlotId(0)].reshape, None);
    cluster.apply(&split).unwrap();
    // What is late of the upper one is not taken for a word of the one that has its number now.
    let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
    cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
    let again = &cluster.rows[&SlotId(4)];
    assert!(again.epoch > high.epoch, "{again:?} after {high:?}");
    let late = MetadataCommand::Settled { slot: SlotId(4), epoch: high.epoch, voters: high.replicas };
    assert!(cluster.apply(&late).is_err());
}

#[test]
fn a_merge_waits_for_nobody_who_has_left() {
    let mut cluster = spread(3);
    cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), 2)] }).unwrap();
    let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
    cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
    cluster.apply(&MetadataCommand::Merge { slots: vec![(SlotId(0), 3, 3)] }).unwrap();
    let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
    cluster.apply(&MetadataCommand::MergeBegin { slots: vec![(SlotId(0), plan)] }).unwrap();
    cluster.apply(&MetadataCommand::MergeDone { slot: SlotId(0), plan }).unwrap();
    let replicas = cluster.rows[&SlotId(0)].replicas.clone();
    assert_eq!(replicas.len(), 3);
    for replica in &replicas[..2] {
        let digested = MetadataCommand::MergeDigested { slot: SlotId(0), plan, replica: *replica };
        cluster.apply(&digested).unwrap();
    }
    let stay: Vec<Place> = replicas[..2].iter().map(|replica| replica.place()).collect();
    cluster.apply(&MetadataCommand::SetTargets { moves: vec![(SlotId(0), 4, stay)] }).unwrap();
    assert!(matches!(cluster.rows[&SlotId(0)].reshape, Some(Reshape::Digest { .. })));
    let voters = replicas[..2].to_vec();
    cluster.apply(&MetadataCommand::Settled { slot: SlotId(0), epoch: 4, voters }).unwrap();
    assert_eq!((&cluster.rows[&SlotId(0)].reshape, cluster.fault()), (&None, None));
}

#[test]
fn states_that_do_not_add_up_are_not_read() {
    let good = spread(3);
    let spoil: [&dyn Fn(&mut Cluster); 7] = [
        &|cluster| drop(cluster.rows.remove(&SlotId(2))),
        &|cluster| drop(cluster.rows.insert(SlotId(4), cluster.rows[&SlotId(0)].clone())),
        &|cluster| cluster.rows.entry(SlotId(1)).or_insert_with(|| unreachable!()).replicas.clear(),
        &|cluster| cluster.next_replica = 3,
        &|cluster| cluster.members.clear(),
        &|cluster| {
            let reshape = Reshape::Absorb { plan: 3, sibling: SlotId(2), gathered: true };
            cluster.rows.entry(SlotId(0)).and_modify(|row| row.reshape = Some(reshape));
        },
        &|cluster| {
            let replicas = cluster.rows[&SlotId(0)].replicas.clone();
            let reshape = Reshape::Split { plan: 3, child: SlotId(2), replicas };
            cluster.rows.entry(SlotId(0)).and_modify(|row| row.reshape = Some(reshape));
        },
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(bad.fault().is_some() && Cluster::decode(&bad.encode()).is_err(), "number {number}");
    }
}

#[test]
fn depth_has_an_end() {
    let mut cluster = founded(0);
    for depth in 0..SLOT_DEPTH_MAX {
        let epoch = cluster.rows[&SlotId(0)].epoch;
        cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), epoch)] }).unwrap();
        let plan = cluster.rows[&SlotId(0)].reshape.as_ref().unwrap().plan();
        cluster.apply(&MetadataCommand::SplitDone { slot: SlotId(0), plan }).unwrap();
        assert_eq!(cluster.rows[&SlotId(0)].depth, depth + 1);
    }
    let epoch = cluster.rows[&SlotId(0)].epoch;
    assert!(cluster.apply(&MetadataCommand::Split { slots: vec![(SlotId(0), epoch)] }).is_err());
    assert_eq!((cluster.rows.len(), cluster.fault()), (15, None));
}

/// A command that has a fair chance to fit the state.
fn command(cluster: &Cluster, draw: [u16; 5]) -> MetadataCommand {
    let [kind, a, b, c, d] = draw;
    let slot = cluster.rows.keys().nth(usize::from(a) % cluster.rows.len().max(1)).copied().unwrap_or_default();
    let row = &cluster.rows[&slot];
    let epoch = row.epoch - u64::from(b % 8 == 7);
    let node = NodeId(1 + b % 6);
    let plan = row.reshape.as_ref().map_or(0, Reshape::plan);
    match kind % 15 {
        0 => MetadataCommand::AddMember(member(node.0, u64::from(c % 3), 1 + d % 3)),
        1 => {
            let state = [MemberState::Serving, MemberState::Draining, MemberState::Dead][usize::from(c % 3)];
            MetadataCommand::SetMemberState { node, state }
        }
        2 => MetadataCommand::RemoveMember { node },
        3 | 4 => {
            let nodes = (0..1 + c % 3).map(|more| place(1 + (b + more) % 6, d % 2)).collect();
            MetadataCommand::SetTargets { moves: vec![(slot, epoch, nodes)] }
        }
        5 | 6 => {
            let voters = row.target.clone().unwrap_or_else(|| row.replicas.clone());
            MetadataCommand::Settled { slot, epoch, voters }
        }
        7 => MetadataCommand::CancelTarget { slot, epoch },
        8 => MetadataCommand::Prefer { choices: vec![(slot, row.replicas[usize::from(c) % row.replicas.len()])] },
        9 => MetadataCommand::SetReplicasWanted { replicas: (c % 9) as u8 },
        10 => MetadataCommand::Split { slots: vec![(slot, epoch), (SlotId(c % 8), 1)] },
        11 => MetadataCommand::SplitDone { slot, plan },
        12 if c % 4 == 0 => {
            let replica = row.replicas[usize::from(d) % row.replicas.len()];
            MetadataCommand::MergeDigested { slot, plan, replica }
        }
        12 => {
            let high = slot.sibling(row.depth.max(1));
            let sibling = cluster.rows.get(&high).map_or(0, |row| row.epoch);
            MetadataCommand::Merge { slots: vec![(slot, epoch, sibling)] }
        }
        13 => MetadataCommand::MergeBegin { slots: vec![(slot, plan)] },
        _ => MetadataCommand::MergeDone { slot, plan },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_reachable_state_adds_up(draws in prop::collection::vec(any::<[u16; 5]>(), 1..200)) {
        let mut cluster = founded(2);
        let mut numbers: BTreeSet<u32> = cluster.rows.values().flat_map(SlotRow::named).map(ReplicaId::number).collect();
        for draw in draws {
            let before = cluster.clone();
            let command = command(&cluster, draw);
            let decoded = MetadataCommand::decode(&command.encode());
            prop_assert_eq!(decoded.as_ref(), Ok(&command));
            match cluster.apply(&command) {
                Err(why) => {
                    prop_assert_eq!(&cluster, &before);
                    prop_assert!(why.0.contains(" is ") || why.0.contains(" asks "), "names nobody: {}", why);
                }
                Ok(_) => prop_assert_eq!(cluster.version > before.version, cluster != before),
            }
            prop_assert_eq!(cluster.fault(), None);
            prop_assert!(cluster.next_replica >= before.next_replica);
            for replica in cluster.rows.values().flat_map(SlotRow::named) {
                let fresh = numbers.insert(replica.number());
                prop_assert!(!fresh || replica.number() >= before.next_replica, "{} came back", replica);
            }
            prop_assert_eq!(Cluster::decode(&cluster.encode()), Ok(cluster.clone()));
        }
    }

    #[test]
    fn damaged_bytes_do_no_harm(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let cluster = spread(3);
        let moves = vec![(SlotId(0), 1, vec![place(1, 0), place(2, 1)])];
        let mut state = cluster.encode();
        let mut command = MetadataCommand::SetTargets { moves }.encode();
        prop_assert!(Cluster::decode(&state[..cut.index(state.len())]).is_err());
        prop_assert!(MetadataCommand::decode(&command[..cut.index(command.len())]).is_err());
        for bytes in [&mut state, &mut command] {
            let position = at.index(bytes.len());
            bytes[position] = byte;
        }
        if let Ok(read) = Cluster::decode(&state) {
            prop_assert_eq!(read.fault(), None);
        }
        if let Ok(read) = MetadataCommand::decode(&command) {
            let _ = cluster.clone().apply(&read);
        }
    }

    #[test]
    fn strange_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for version in [None, Some(1)] {
            if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                *first = version;
            }
            let _ = Cluster::decode(&bytes);
            let _ = MetadataCommand::decode(&bytes);
        }
    }
}
