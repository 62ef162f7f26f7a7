//! Commands that are gathered into entries: none is longer than may be, however much there is to be said at once.

use super::super::split::tests::{Bench, uid};
use super::*;
use crate::ids::{SessionId, ShardId};
use crate::limits::ENTRY_BYTES_MAX;

const PHONE: DeviceFlag = DeviceFlag(0);
const WEB: DeviceFlag = DeviceFlag(1);

/// What would be proposed, and how many wait for it.
fn gathered(slot: &mut Slot) -> Vec<(Vec<u8>, usize)> {
    slot.pending.drain(..).map(|pending| (pending.bytes, pending.waiters.len())).collect()
}

fn register(user: &Uid) -> Register {
    let place = Place { node: NodeId(1), shard: ShardId(0) };
    let address = SessionAddress { place, session: SessionId { index: 0, generation: 1 } };
    Register { address, uid: user.clone(), flag: WEB, device_id: "w".into(), token: "".into() }
}

#[test]
fn a_new_device_family_of_a_user_with_very_many_rows_needs_no_long_entry() {
    const ROWS: usize = 5_000;
    let limits = Limits { commands_per_proposal_max: 2 * ROWS, ..Limits::PRODUCTION };
    let mut bench = Bench::new();
    let user = uid(0);
    let row = |n: usize| ChannelKey::pair(&user, &Uid::parse(&format!("{n:0120}")).unwrap());
    for n in 0..ROWS {
        let home = bench.slot.home_or_new(&user);
        home.notice(&row(n), 5);
        home.receive(&row(n), PHONE, 3);
        bench.slot.row_dirtied(&user, &row(n), Instant(1), &limits);
    }
    bench.slot.propose_new_flag(&register(&user), &limits);
    bench.slot.home_or_new(&user).receive(&row(ROWS - 1), PHONE, 4);
    let entries = gathered(&mut bench.slot);
    assert!(entries.len() > 1, "it is more than one entry takes");
    assert!(entries.iter().all(|(bytes, _)| bytes.len() <= ENTRY_BYTES_MAX));
    assert_eq!(entries.iter().map(|(_, waiters)| waiters).sum::<usize>(), ROWS + 1, "somebody waits for each command");
    entries.into_iter().for_each(|(bytes, _)| bench.apply(bytes));
    let known = bench.slot.home(&user).and_then(|home| home.row(&row(ROWS - 1)).cloned()).expect("the last one stays");
    assert_eq!((known.cursor(WEB), known.cursor(PHONE)), (3, 4), "it begins where the phone was when it was proposed");
}

#[test]
fn entries_end_before_they_are_too_long_and_a_long_command_goes_alone() {
    let limits = Limits { commands_per_proposal_max: 4, entry_bytes_max: 100, ..Limits::TINY };
    let mut bench = Bench::new();
    let mut gather = |bytes: usize| {
        let waiters = bench.slot.gather(&limits, |out| out.extend(std::iter::repeat_n(9, bytes)));
        waiters.push(Waiter::Nobody);
    };
    [60, 40, 1, 300, 99, 1, 2, 1, 1, 1, 1, 1].into_iter().for_each(&mut gather);
    let sizes: Vec<(usize, usize)> =
        gathered(&mut bench.slot).into_iter().map(|(bytes, waiters)| (bytes.len(), waiters)).collect();
    assert_eq!(sizes, [(100, 2), (1, 1), (300, 1), (100, 2), (5, 4), (2, 2)]);
}
