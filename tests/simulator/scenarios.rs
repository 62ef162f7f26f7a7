//! Hand-written scenarios: each a short story about one promise, told in the words of `stage`.

use jindou::limits::Limits;

use crate::client::Oddity;
use crate::disk::Wounds;
use crate::ledger::{Family, Kind};
use crate::stage::{Done, Script, Stage};
use crate::wire::Transport;

const ANA: usize = 0;
const BO: usize = 1;
const PHONE: u8 = 0;
const WEB: u8 = 1;

/// All of them by name.
pub const ALL: [(&str, Script); 26] = [
    ("two-phones-talk", two_phones_talk),
    ("websocket-and-old-versions", websocket_and_old_versions),
    ("what-came-while-away", what_came_while_away),
    ("senders-other-devices", senders_other_devices),
    ("crash-after-answer", crash_after_answer),
    ("crash-with-torn-write", crash_with_torn_write),
    ("many-crashes-in-a-row", many_crashes_in_a_row),
    ("orderly-restart", orderly_restart),
    ("resend-after-vanishing", resend_after_vanishing),
    ("other-payload-same-number", other_payload_same_number),
    ("wrong-sends-are-refused", wrong_sends_are_refused),
    ("transient-is-for-who-is-there", transient_is_for_who_is_there),
    ("commands-have-their-own-queue", commands_have_their_own_queue),
    ("a-deaf-device-blocks-nobody", a_deaf_device_blocks_nobody),
    ("full-disk-and-space-again", full_disk_and_space_again),
    ("one-io-error", one_io_error),
    ("a-master-ends-the-others", a_master_ends_the_others),
    ("wrong-token", wrong_token),
    ("a-new-family-is-remembered", a_new_family_is_remembered),
    ("a-shard-full-of-sessions", a_shard_full_of_sessions),
    ("too-fast-is-refused", too_fast_is_refused),
    ("damage-is-named", damage_is_named),
    ("history-is-bounded", history_is_bounded),
    ("the-largest-message", the_largest_message),
    ("an-entry-ends-before-a-segment", an_entry_ends_before_a_segment),
    ("a-send-behind-connect", a_send_behind_connect),
];

fn pair(stage: &mut Stage) -> Done<(usize, usize)> {
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let bo = stage.device(BO, PHONE);
    stage.connect(ana)?;
    stage.connect(bo)?;
    Ok((ana, bo))
}

fn two_phones_talk(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    for _ in 0..10 {
        let to_bo = stage.send(ana, BO);
        let to_ana = stage.send(bo, ANA);
        stage.sees(bo, to_bo)?;
        stage.sees(ana, to_ana)?;
    }
    stage.conclude()
}

fn websocket_and_old_versions(stage: &mut Stage) -> Done {
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let bo = stage.device(BO, PHONE);
    stage.world.plan.network.split = true;
    for version in 1..=5 {
        stage.world.devices[ana].habits.version = version;
        stage.world.devices[bo].habits.version = 6 - version;
        stage.world.devices[bo].habits.transport = Transport::WebSocket;
        stage.connect(ana)?;
        stage.connect(bo)?;
        let to_bo = stage.send(ana, BO);
        let to_ana = stage.send(bo, ANA);
        stage.sees(bo, to_bo)?;
        stage.sees(ana, to_ana)?;
        stage.leave(ana)?;
        stage.leave(bo)?;
    }
    stage.conclude()
}

fn what_came_while_away(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    stage.leave(bo)?;
    let numbers: Vec<_> = (0..30).map(|_| stage.send(ana, BO)).collect();
    stage.answered(ana)?;
    stage.connect(bo)?;
    for number in numbers {
        stage.sees(bo, number)?;
    }
    stage.conclude()
}

fn senders_other_devices(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let browser = stage.device(ANA, WEB);
    stage.connect(browser)?;
    let live = stage.send(ana, BO);
    stage.sees(browser, live)?;
    stage.leave(browser)?;
    let missed = stage.send(ana, BO);
    stage.sees(bo, missed)?;
    stage.connect(browser)?;
    stage.sees(browser, missed)?;
    stage.expect("the sending device does not get its own", |world| !world.has_seen(ana, missed))?;
    stage.conclude()
}

fn crash_after_answer(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    stage.leave(bo)?;
    let numbers: Vec<_> = (0..5).map(|_| stage.send(ana, BO)).collect();
    stage.answered(ana)?;
    stage.crash()?;
    stage.connect(bo)?;
    for number in numbers {
        stage.sees(bo, number)?;
    }
    stage.conclude()
}

fn crash_with_torn_write(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    stage.world.plan.faults.wounds = Wounds { tear: true, flip: true, unremove: true };
    for round in 0..12 {
        for _ in 0..4 {
            stage.send(ana, BO);
            stage.send(bo, ANA);
        }
        // At another moment of the write each time.
        stage.world.run_for(std::time::Duration::from_micros(10_000 + 150 * round))?;
        stage.crash()?;
        stage.world.client_closes(ana, 0);
        stage.world.client_closes(bo, 0);
        stage.connect(ana)?;
        stage.connect(bo)?;
    }
    stage.conclude()
}

fn many_crashes_in_a_row(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    stage.leave(bo)?;
    let numbers: Vec<_> = (0..4).map(|_| stage.send(ana, BO)).collect();
    stage.answered(ana)?;
    for _ in 0..10 {
        stage.crash()?;
        stage.wait(1)?;
    }
    stage.connect(bo)?;
    for number in numbers {
        stage.sees(bo, number)?;
    }
    stage.conclude()
}

fn orderly_restart(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let before = stage.send(ana, BO);
    stage.sees(bo, before)?;
    stage.restart()?;
    stage.world.client_closes(ana, 0);
    stage.world.client_closes(bo, 0);
    stage.connect(ana)?;
    stage.connect(bo)?;
    let after = stage.send(bo, ANA);
    stage.sees(ana, after)?;
    stage.conclude()
}

fn resend_after_vanishing(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    for _ in 0..6 {
        let number = stage.send(ana, BO);
        stage.wait(11)?;
        stage.vanish(ana);
        stage.connect(ana)?;
        stage.answered(ana)?;
        stage.sees(bo, number)?;
    }
    stage.conclude()
}

fn other_payload_same_number(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let number = stage.send(ana, BO);
    stage.sees(bo, number)?;
    stage.answered(ana)?;
    let refused = stage.world.devices[ana].answers.1;
    stage.world.send_conflict(ana);
    stage.answered(ana)?;
    stage.expect("another payload is refused", |world| world.devices[ana].answers.1 == refused + 1)?;
    stage.conclude()
}

fn wrong_sends_are_refused(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    for odd in [Oddity::GroupChannel, Oddity::BadPeer, Oddity::WrongKey] {
        stage.send_as(ana, BO, Kind::Stored, Some(odd));
        stage.answered(ana)?;
    }
    stage.expect("each is refused", |world| world.devices[ana].answers == (0, 3))?;
    let good = stage.send(ana, BO);
    stage.sees(bo, good)?;
    stage.conclude()
}

fn transient_is_for_who_is_there(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let there = stage.send_as(ana, BO, Kind::Transient, None);
    stage.sees(bo, there)?;
    stage.leave(bo)?;
    let away = stage.send_as(ana, BO, Kind::Transient, None);
    stage.answered(ana)?;
    stage.connect(bo)?;
    let stored = stage.send(ana, BO);
    stage.sees(bo, stored)?;
    stage.expect("what is not stored does not wait", |world| !world.has_seen(bo, away))?;
    stage.conclude()
}

fn commands_have_their_own_queue(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let first = stage.send(ana, BO);
    let command = stage.send_as(ana, BO, Kind::Command, None);
    stage.sees(bo, first)?;
    stage.sees(bo, command)?;
    stage.leave(bo)?;
    let missed = stage.send_as(ana, BO, Kind::Command, None);
    stage.answered(ana)?;
    stage.connect(bo)?;
    stage.sees(bo, missed)?;
    stage.conclude()
}

fn a_deaf_device_blocks_nobody(stage: &mut Stage) -> Done {
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let deaf = stage.device(BO, PHONE);
    let browser = stage.device(BO, WEB);
    stage.world.devices[deaf].habits.forget_permille = 1000;
    stage.connect(ana)?;
    stage.connect(deaf)?;
    stage.connect(browser)?;
    let numbers: Vec<_> = (0..10).map(|_| stage.send(ana, BO)).collect();
    for number in &numbers {
        stage.sees(browser, *number)?;
    }
    stage.answered(ana)?;
    // Its window is three: it sees the rest only as the router gives up on what it never acknowledges.
    let last = numbers[4];
    stage.sees(deaf, last)?;
    stage.conclude()
}

fn full_disk_and_space_again(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    let before = stage.send(ana, BO);
    stage.sees(bo, before)?;
    for disk in &mut stage.world.nodes[0].disks {
        disk.full = true;
    }
    stage.world.trouble_begins();
    let during = stage.send(ana, BO);
    stage.wait(2_000)?;
    stage.expect("nothing is acknowledged on a full disk", |world| !world.is_accepted(during))?;
    let read = stage.world.read_log(ANA, BO)?;
    if read.len() != 1 {
        return stage.fail("reads go on while the disk is full");
    }
    for disk in &mut stage.world.nodes[0].disks {
        disk.full = false;
    }
    stage.world.trouble_ends();
    stage.sees(bo, during)?;
    stage.conclude()
}

fn one_io_error(stage: &mut Stage) -> Done {
    let (ana, bo) = pair(stage)?;
    for _ in 0..5 {
        for disk in &mut stage.world.nodes[0].disks {
            disk.fail_next = true;
        }
        stage.world.trouble_strikes();
        let number = stage.send(ana, BO);
        stage.sees(bo, number)?;
        stage.answered(ana)?;
    }
    stage.conclude()
}

fn a_master_ends_the_others(stage: &mut Stage) -> Done {
    stage.world.plan.token_auth = true;
    stage.begin(&["ana", "bo"])?;
    stage.world.backend.make_master("ana", PHONE);
    let old = stage.device(ANA, PHONE);
    let new = stage.device(ANA, PHONE);
    stage.world.devices[old].token = None;
    stage.world.devices[new].token = None;
    stage.until("the token is stored", |world| world.devices.iter().all(|device| device.token.is_some()))?;
    stage.connect(old)?;
    stage.connect(new)?;
    stage.until("the old connection ends", |world| world.devices[old].link.is_none())?;
    stage.expect("with notice", |world| world.checkers.kicks.carried_out == 1)?;
    stage.conclude()
}

fn wrong_token(stage: &mut Stage) -> Done {
    stage.world.plan.token_auth = true;
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    stage.connect_in_vain(ana)?;
    stage.expect("no family came to be", |world| {
        !world.ledger.families.contains_key(&Family { user: ANA, flag: PHONE })
    })?;
    stage.until("the token is stored", |world| world.devices[ana].token.is_some())?;
    stage.connect(ana)?;
    stage.conclude()
}

fn a_new_family_is_remembered(stage: &mut Stage) -> Done {
    // A sender whose shard holds the pair's log, and is not that of bo's home: one is fast and the other slow.
    let sender = (0..100).map(|n| format!("ana-{n}")).find(|name| {
        stage.world.uids = vec![name.clone(), "bo".to_owned()];
        stage.world.home_shard(ANA) != stage.world.home_shard(BO)
            && stage.world.log_shard(ANA, BO) == stage.world.home_shard(ANA)
    });
    stage.begin(&[&sender.unwrap_or_default(), "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let phone = stage.device(BO, PHONE);
    let browser = stage.device(BO, WEB);
    for sender in [ana, phone] {
        stage.connect(sender)?;
    }
    let first = stage.send(ana, BO);
    stage.sees(phone, first)?;
    stage.wait(100)?;
    let home = stage.world.home_shard(BO);
    stage.world.nodes[0].slow[home] = true;
    stage.world.trouble_begins();
    stage.connect(browser)?;
    let second = stage.send(ana, BO);
    // Until the message is on disk where its log is; if that is the slow disk too, the family is there before it.
    stage.until("the message is answered", |world| world.is_accepted(second))?;
    stage.vanish(browser);
    stage.world.nodes[0].slow[home] = false;
    stage.world.trouble_ends();
    stage.crash()?;
    stage.world.client_closes(phone, 0);
    stage.connect(phone)?;
    stage.sees(phone, second)?;
    stage.wait(100)?;
    stage.connect(browser)?;
    stage.sees(browser, second)?;
    stage.world.client_closes(ana, 0);
    stage.conclude()
}

fn a_shard_full_of_sessions(stage: &mut Stage) -> Done {
    stage.limits(|limits| limits.sessions_max = 2);
    stage.begin(&["ana", "bo"])?;
    stage.world.plan.shards = 2;
    let flags = [0, 1, 2];
    let devices: Vec<_> = [ANA, BO].into_iter().flat_map(|user| flags.map(|flag| (user, flag))).collect();
    let devices: Vec<_> = devices.into_iter().map(|(user, flag)| stage.device(user, flag)).collect();
    for device in &devices {
        stage.world.connect(*device);
        stage.wait(100)?;
    }
    stage.expect("not more than there is room for", |world| {
        world.devices.iter().filter(|device| device.is_live()).count() <= 4
    })?;
    stage
        .expect("and those are served", |world| world.devices.iter().filter(|device| device.is_live()).count() >= 2)?;
    for device in &devices[2..] {
        stage.world.client_closes(*device, 0);
        stage.world.devices[*device].retired = true;
    }
    stage.wait(1_000)?;
    stage.conclude()
}

fn too_fast_is_refused(stage: &mut Stage) -> Done {
    stage.limits(|limits| limits.sends_per_second = 5);
    let (ana, bo) = pair(stage)?;
    stage.world.plan.workload.send_window = 20;
    let numbers: Vec<_> = (0..20).map(|_| stage.send(ana, BO)).collect();
    stage.wait(400)?;
    stage.expect("some are refused", |world| world.devices[ana].answers.1 > 0)?;
    for number in numbers {
        stage.sees(bo, number)?;
    }
    stage.conclude()
}

fn fill_segments(stage: &mut Stage, device: usize, to: usize, count: u32) -> Done {
    for _ in 0..count {
        for _ in 0..8 {
            stage.world.send(device, to, Kind::Stored, 3_000, None);
        }
        stage.answered(device)?;
    }
    Ok(())
}

fn damage_is_named(stage: &mut Stage) -> Done {
    stage.limits(|limits| limits.replay_bytes_max = 8 << 20);
    let (ana, bo) = pair(stage)?;
    fill_segments(stage, ana, BO, 10)?;
    for shard in 0..2 {
        let chance = &mut stage.world.chances.faults;
        if let Some(damage) = stage.world.nodes[0].disks[shard].damage(chance) {
            stage.world.nodes[0].expect_damage(shard, damage);
        }
    }
    stage.crash()?;
    stage
        .expect("recovery names the damage and goes on once it is mended", |world| world.nodes[0].damages_named > 0)?;
    stage.world.client_closes(ana, 0);
    stage.world.client_closes(bo, 0);
    stage.conclude()
}

fn history_is_bounded(stage: &mut Stage) -> Done {
    stage.world.plan.retention.bytes = (3 * 64) << 10;
    stage.limits(|limits| limits.replay_bytes_max = 64 << 10);
    let (ana, bo) = pair(stage)?;
    fill_segments(stage, ana, BO, 25)?;
    stage.wait(3_000)?;
    stage.expect("old segments are gone", |world| world.nodes[0].disks.iter().any(|disk| disk.trimmed > 0))?;
    let log = stage.world.read_log(ANA, BO)?;
    if log.first().is_none_or(|(seq, ..)| *seq == 1) {
        return stage.fail("the oldest messages are gone, the newest are there");
    }
    let last = stage.send(ana, BO);
    stage.sees(bo, last)?;
    stage.crash()?;
    stage.world.client_closes(ana, 0);
    stage.world.client_closes(bo, 0);
    stage.conclude()
}

fn the_largest_message(stage: &mut Stage) -> Done {
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let bo = stage.device(BO, PHONE);
    stage.world.devices[bo].habits.transport = Transport::WebSocket;
    stage.connect(ana)?;
    stage.connect(bo)?;
    for (from, to, other) in [(ana, BO, bo), (bo, ANA, ana)] {
        let number = stage.world.send(from, to, Kind::Stored, jindou::limits::PAYLOAD_BYTES_MAX, None);
        stage.sees(other, number)?;
    }
    stage.conclude()
}

/// What comes at once is more than a segment takes.
fn an_entry_ends_before_a_segment(stage: &mut Stage) -> Done {
    (stage.world.plan.shards, stage.world.plan.slot_depth) = (1, 0);
    stage.world.plan.limits = Limits::PRODUCTION;
    stage.world.plan.geometry.segment_bytes = 32 << 10;
    stage.world.plan.workload.send_window = 64;
    let (ana, bo) = pair(stage)?;
    for _ in 0..10 {
        let sent: Vec<_> = (0..64).map(|_| stage.world.send(ana, BO, Kind::Stored, 3_000, None)).collect();
        stage.answered(ana)?;
        for number in sent {
            stage.sees(bo, number)?;
        }
    }
    stage.conclude()
}

fn a_send_behind_connect(stage: &mut Stage) -> Done {
    stage.begin(&["ana", "bo"])?;
    let ana = stage.device(ANA, PHONE);
    let bo = stage.device(BO, PHONE);
    stage.world.devices[ana].habits.eager = true;
    stage.connect(bo)?;
    // Often enough that some of the connections move to another shard.
    for round in 1..=6 {
        stage.connect(ana)?;
        stage.answered(ana)?;
        stage.expect("it is refused", |world| world.devices[ana].answers.1 == round)?;
        let number = stage.send(ana, BO);
        stage.sees(bo, number)?;
        stage.answered(ana)?;
        stage.leave(ana)?;
    }
    stage.conclude()
}
