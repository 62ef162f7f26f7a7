//! A slot's state that is read in portions while everything happens to the slot that may.

use super::super::split::tests::{Bench, filled, keys, uid};
use super::*;
use crate::engine::chance::Chance;
use crate::engine::channel::Fingerprint;
use crate::engine::checkpoint::{self, CheckpointState, Cover, Encoding};
use crate::engine::command::{self, RowCommand};
use crate::engine::home::Online;
use crate::format::record::Position;
use crate::ids::{DeviceFlag, DeviceLevel, NodeId, Place, SessionAddress, SessionId, ShardId, SlotId};

const COVER: Cover = Cover { depth: 0, replay_segment: 1 };
const PLACE: Place = Place { node: NodeId(1), shard: ShardId(0) };

fn row(bench: &mut Bench, uid: &Uid, key: &ChannelKey, last_seq: u32) {
    let cursors = vec![(DeviceFlag(0), last_seq / 2)];
    let row = RowCommand { uid: uid.as_str(), kind: key.kind, id: &key.id, last_seq, read_seq: 1, cursors };
    let mut data = Vec::new();
    command::encode_row(&row, &mut data);
    bench.apply(data);
}

/// Something that happens to a slot: entries of its log, and what its leader learns without them.
fn happen(bench: &mut Bench, chance: &mut Chance, number: u64) {
    // Users and channels that were there before, and others.
    let user = uid(chance.between(0, 30) as usize);
    let key = match chance.between(0, 3) {
        0 => ChannelKey::command(&user),
        _ => ChannelKey::pair(&user, &uid(chance.between(0, 30) as usize)),
    };
    let mut data = Vec::new();
    match chance.between(0, 9) {
        0 | 1 => return bench.append(&key, number),
        2 | 3 => return row(bench, &user, &key, number as u32),
        4 => command::encode_token(user.as_str(), DeviceFlag(number as u8 % 4), DeviceLevel::Slave, "new", &mut data),
        5 => command::encode_quit(user.as_str(), None, &mut data),
        6 => command::encode_new_flag(user.as_str(), DeviceFlag(number as u8 % 8), &mut data),
        7 => {
            let home = bench.slot.home_or_new(&user);
            home.notice(&key, number as u32);
            home.receive(&key, DeviceFlag(1), number as u32);
            return;
        }
        _ => {
            let session = SessionId { index: number as u32, generation: 1 };
            let address = SessionAddress { place: PLACE, session };
            let (flag, level) = (DeviceFlag(0), DeviceLevel::Slave);
            bench.slot.home_or_new(&user).register(Online {
                address,
                flag,
                level,
                device_id: "d".into(),
                order: 1,
                named: true,
            });
            if chance.between(0, 2) == 0 {
                bench.slot.forget_gateway(PLACE);
            }
            return;
        }
    }
    bench.apply(data);
}

fn with_rows() -> Bench {
    let mut bench = filled();
    for (n, key) in keys().iter().enumerate() {
        for other in 0..3 {
            row(&mut bench, &uid(n % 20), &keys()[(n + other * 7) % 40], 3);
        }
        row(&mut bench, &uid(n % 25), key, 2);
    }
    bench
}

#[test]
fn what_is_read_in_portions_is_what_was_there_at_first() {
    for seed in 0..300 {
        let mut chance = Chance::new([seed as u8; 32], seed);
        let mut bench = with_rows();
        let group = bench.slot.group().state();
        let whole = checkpoint::encode(&mut bench.slot, &group, COVER);
        let mut encoding = Encoding::begin(&mut bench.slot, &group, COVER);
        let mut number = 1000;
        let bytes = loop {
            let work = chance.between(1, 12) as usize;
            match encoding.go_on(&mut bench.slot, work) {
                ReadOn::More(done) => assert!(done >= work),
                ReadOn::All(_) => break encoding.finish(),
                ReadOn::Void => panic!("nothing made it void"),
            }
            for _ in 0..chance.between(0, 6) {
                number += 1;
                happen(&mut bench, &mut chance, number);
                bench.slot.homes.check_invariants();
                bench.slot.moments.check_invariants(bench.slot.channels.len());
            }
        };
        assert!(bytes == whole, "seed {seed}: the checkpoint is of another moment");
        assert!(bench.slot.moments.open.is_empty());
        let after = checkpoint::encode(&mut bench.slot, &group, COVER);
        assert!(after != whole, "seed {seed}: nothing has happened");
    }
}

#[test]
fn two_moments_do_not_disturb_each_other() {
    let mut bench = with_rows();
    let group = bench.slot.group().state();
    let first = checkpoint::encode(&mut bench.slot, &group, COVER);
    let mut early = Encoding::begin(&mut bench.slot, &group, COVER);
    assert!(matches!(early.go_on(&mut bench.slot, 30), ReadOn::More(_)));
    for (n, key) in keys().iter().enumerate() {
        bench.append(key, 500 + n as u64);
    }
    let second = checkpoint::encode(&mut bench.slot, &group, COVER);
    let mut late = Encoding::begin(&mut bench.slot, &group, COVER);
    for n in 0..25 {
        row(&mut bench, &uid(n), &keys()[n], 4);
    }
    assert!(matches!(late.go_on(&mut bench.slot, usize::MAX), ReadOn::All(_)));
    assert!(matches!(early.go_on(&mut bench.slot, usize::MAX), ReadOn::All(_)));
    assert!(early.finish() == first && late.finish() == second && first != second);
}

#[test]
fn a_portion_reads_so_much_and_one_more_at_most() {
    struct Count(usize);
    impl MomentReader for Count {
        fn channel(&mut self, _: &ChannelKey, _: &Channel) {
            self.0 += 1;
        }
        fn home(&mut self, _: &Uid, _: &Home) {
            self.0 += 1;
        }
    }
    let mut bench = with_rows();
    let moment = bench.slot.begin_moment();
    let mut portions = 0;
    let mut all = Count(0);
    loop {
        let before = all.0;
        let read = bench.slot.read_moment(moment, 5, &mut all);
        assert!(all.0 - before <= 5, "{} at once", all.0 - before);
        portions += 1;
        match read {
            ReadOn::More(done) => assert!((5..5 + 20).contains(&done)),
            ReadOn::All(_) => break,
            ReadOn::Void => panic!("nothing made it void"),
        }
    }
    let (channels, homes) = (bench.slot.channels().len(), bench.slot.home_count());
    assert_eq!(all.0, channels + homes);
    assert!(portions > all.0 / 5, "rows count too");
}

#[test]
fn a_split_makes_it_void() {
    let mut bench = with_rows();
    let group = bench.slot.group().state();
    let mut encoding = Encoding::begin(&mut bench.slot, &group, COVER);
    assert!(matches!(encoding.go_on(&mut bench.slot, 10), ReadOn::More(_)));
    bench.split(0);
    assert_eq!(encoding.go_on(&mut bench.slot, 10), ReadOn::Void);
}

#[test]
fn where_bodies_lie_and_what_is_gone_of_them_may_be_of_later() {
    let mut bench = with_rows();
    let group = bench.slot.group().state();
    let mut encoding = Encoding::begin(&mut bench.slot, &group, COVER);
    let moved = Position { segment: 7, offset: 64 };
    assert!(bench.slot.set_position(0, 1, moved));
    bench.append(&keys()[0], 999);
    bench.slot.channels[1].channel.announced(2);
    assert!(matches!(encoding.go_on(&mut bench.slot, usize::MAX), ReadOn::All(_)));
    let map_state = Chance::new([9; 32], 0).map_state();
    let read = checkpoint::decode(SlotId(0), &encoding.finish(), map_state).unwrap();
    let CheckpointState::Slot(state) = read.state else { panic!("a slot's") };
    let (first, second) = (&state.channels[0].1, &state.channels[1].1);
    assert_eq!((first.last_seq(), first.position(1)), (3, Some(moved)), "not the entry that came after it");
    assert_eq!((second.last_seq(), second.announced_seq()), (3, 2));
    assert_eq!(first.fingerprints().collect::<Vec<_>>(), [1, 101, 201].map(Fingerprint));
}
