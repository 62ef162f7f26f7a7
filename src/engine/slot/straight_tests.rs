//! A home that leaves sending to a channel's leader: as long as it has the sessions it named, and not without looking again.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::engine::chance::Chance;
use crate::engine::raft_group::GroupState;
use crate::engine::routes::Table;
use crate::ids::{NodeId, SessionId, ShardId};
use crate::time::UnixMillis;

const HOME: Place = Place { node: NodeId(1), shard: ShardId(0) };
const APP: DeviceFlag = DeviceFlag(0);
const LIMITS: Limits = Limits::TINY;

struct Bench {
    slot: Slot,
    out: Outbox,
    uid: Uid,
    channel: ChannelKey,
}

impl Bench {
    fn new() -> Bench {
        let map_state = Chance::new([3; 32], 0).map_state();
        let group = GroupState::begin(ReplicaId::new(HOME, 1), &[]);
        let (channels, homes) = (Vec::new(), Vec::new());
        let state = SlotState { group, message_ids_last: 7, reshaped: Reshaped::default(), channels, homes };
        let mut slot = Slot::restore(SlotId(0), state, map_state, 0, Chance::new([4; 32], 0)).unwrap();
        slot.begin_marks();
        let (uid, other) = (Uid::parse("bo").unwrap(), Uid::parse("ana").unwrap());
        let channel = ChannelKey::pair(&uid, &other);
        Bench { slot, out: Outbox::new(HOME, crate::engine::marks::Marks::new(0)), uid, channel }
    }

    fn online(&mut self, node: u16, flag: DeviceFlag) -> SessionAddress {
        let place = Place { node: NodeId(node), shard: ShardId(0) };
        let address = SessionAddress { place, session: SessionId { index: u32::from(flag.0), generation: 1 } };
        let online = Online { address, flag, level: DeviceLevel::Slave, device_id: "d".into(), order: 1, named: true };
        self.slot.home_or_new(&self.uid).register(online);
        address
    }

    fn told(&mut self) -> Whereabouts {
        self.slot.whereabouts(&self.uid, &self.channel, HOME, &LIMITS)
    }

    fn around<R>(&mut self, at: Instant, work: impl FnOnce(&mut Slot, &mut Surroundings<'_>) -> R) -> R {
        let routes = Routes::new(Arc::new(Table::alone(NodeId(1), 1, 0)));
        let (mut raft_out, mut recent) = (Vec::new(), Recent::new(1 << 20));
        let now = Now { instant: at, unix: UnixMillis(1_700_000_000_000) };
        let (raft_out, recent) = (&mut raft_out, &mut recent);
        let mut around = Surroundings { now, limits: &LIMITS, routes: &routes, out: &mut self.out, raft_out, recent };
        work(&mut self.slot, &mut around)
    }

    /// The leader has sent `seq` straight, under this mark; whether the home leaves it at that.
    fn straight(&mut self, seq: u32, mark: u32) -> bool {
        let (uid, channel) = (self.uid.clone(), self.channel.clone());
        let notify = Notify { uid, channel, seq, message: None, pusher: Pusher::Leader(mark) };
        self.around(Instant(1), |slot, around| slot.handle_notify(&notify, around));
        self.slot.leaves_to_leader(&notify, Instant(1), &LIMITS)
    }

    /// Who is told, when the home looks again after so long: session's number, cursor and last message.
    fn look(&mut self, after: Duration) -> Vec<(u32, Option<u32>, u32)> {
        self.around(Instant(1) + after, |slot, around| slot.look_again(around));
        let mut effects = super::super::super::effect::Effects::default();
        self.out.flush(&mut 0, &mut effects);
        let frames = self.out.take_remote().into_iter().flat_map(|(_, frames)| frames);
        let mut told: Vec<_> = frames
            .filter_map(|frame| match frame {
                Frame::Deliver(deliver) => Some((deliver.session.index, deliver.cursor, deliver.seq)),
                _ => None,
            })
            .collect();
        told.sort_unstable();
        told
    }
}

#[test]
fn a_mark_holds_as_long_as_the_sessions_it_names() {
    let mut bench = Bench::new();
    let away = bench.online(2, APP);
    let told = bench.told();
    assert_eq!((told.away.clone(), told.others), (vec![away], false));
    assert!(bench.straight(1, told.mark) && bench.straight(2, told.mark));
    assert_eq!(bench.told().mark, told.mark, "nobody came or went");
    bench.online(1, DeviceFlag(1));
    assert!(!bench.straight(3, told.mark), "there is one of whom the leader does not know");
    let newer = bench.told();
    assert_eq!((newer.away, newer.others), (vec![away], true));
    assert!(newer.mark != told.mark && bench.straight(3, newer.mark));
    bench.slot.forget_gateway(Place { node: NodeId(3), shard: ShardId(0) });
    assert!(bench.straight(4, newer.mark), "it had no session there");
    bench.slot.forget_gateway(away.place);
    assert!(!bench.straight(5, newer.mark));
    let last = bench.told();
    bench.slot.home_or_new(&bench.uid.clone()).cease_leading();
    assert!(!bench.straight(6, last.mark), "another leader knows other sessions");
}

#[test]
fn more_sessions_than_are_told_stay_the_homes() {
    let mut bench = Bench::new();
    for flag in 0..=LIMITS.straight_sessions_max as u8 {
        bench.online(2, DeviceFlag(flag));
    }
    let told = bench.told();
    assert!(told.away.is_empty() && told.others);
}

#[test]
fn the_home_looks_again_once() {
    let mut bench = Bench::new();
    bench.online(2, APP);
    bench.online(3, DeviceFlag(1));
    bench.online(1, DeviceFlag(2));
    let (mark, channel, uid) = (bench.told().mark, bench.channel.clone(), bench.uid.clone());
    assert!(bench.straight(5, mark) && bench.straight(6, mark));
    bench.slot.home_or_new(&uid).receive(&channel, APP, 6);
    bench.slot.home_or_new(&uid).receive(&channel, DeviceFlag(1), 4);
    assert_eq!(bench.look(LIMITS.look_again_after - Duration::from_millis(1)), []);
    assert_eq!(bench.look(LIMITS.look_again_after), [(1, Some(4), 6)], "to whom it has sent itself it need not");
    assert_eq!(bench.look(LIMITS.look_again_after * 9), []);
    assert!(bench.straight(7, mark), "and it looks again for the next ones");
    assert_eq!(bench.look(LIMITS.look_again_after), [(0, Some(6), 7), (1, Some(4), 7)]);
}

#[test]
fn what_cannot_be_watched_is_not_left_to_the_leader() {
    let mut bench = Bench::new();
    bench.online(2, APP);
    let mark = bench.told().mark;
    for other in 0..=LIMITS.watched_rows_max {
        bench.channel = ChannelKey::pair(&bench.uid, &Uid::parse(&format!("other-{other}")).unwrap());
        assert_eq!(bench.straight(1, mark), other < LIMITS.watched_rows_max);
    }
}
