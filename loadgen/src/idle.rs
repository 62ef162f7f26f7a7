//! `loadgen idle`: opens many sessions that do nothing, reads what each costs the server in memory, keeps them alive with PINGs
//! and checks at the end that every one still answers.

use std::io;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::process::Memory;
use crate::spread::Placed;
use crate::wire::Heard;

/// Clients in the field ping once a minute.
const PING_EVERY: Duration = Duration::from_secs(60);

/// What the server may still be tidying up after the last CONNECT.
const SETTLE: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who, and where.
    pub sessions: Vec<Placed>,
    /// Without the cipher.
    pub plain: bool,
    /// How long to hold them.
    pub hold: Duration,
    /// The servers' processes.
    pub pids: Vec<u32>,
}

/// Runs the plan; `Ok(true)` when every session is alive at its end.
pub fn run(plan: &Plan) -> io::Result<bool> {
    let memory = || Memory::of_all(&plan.pids);
    let before = memory();
    let began = Instant::now();
    let mut fleet = Fleet::connect(&plan.sessions, plan.plain)?;
    let took = began.elapsed().as_secs_f64();
    let sessions = plan.sessions.len();
    println!("{sessions} sessions open in {took:.1} s, {:.0} per second", sessions as f64 / took);
    std::thread::sleep(SETTLE);
    if let (Some(before), Some(after)) = (before, memory()) {
        let per_session = |from: u64, to: u64| (to as f64 - from as f64) / sessions as f64;
        println!(
            "server memory    {:.0} bytes per session (resident), {:.0} anonymous; from {:.1} to {:.1} MiB",
            per_session(before.resident, after.resident),
            per_session(before.anonymous, after.anonymous),
            before.resident as f64 / 1048576.0,
            after.resident as f64 / 1048576.0
        );
    }
    let until = Instant::now() + plan.hold;
    while Instant::now() + PING_EVERY < until {
        std::thread::sleep(PING_EVERY);
        answers(&mut fleet)?;
    }
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    let alive = answers(&mut fleet)?;
    println!("alive            {alive} of {sessions} sessions answer a PING");
    Ok(alive == sessions)
}

/// Pings every session; how many answer within ten seconds.
fn answers(fleet: &mut Fleet) -> io::Result<usize> {
    let count = fleet.wires.len();
    for number in 0..count {
        fleet.wires[number].ping();
        fleet.mark_dirty(number);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut answered = vec![false; count];
    let mut alive = 0;
    while alive < count && Instant::now() < deadline {
        let ready = fleet.turn(Duration::from_millis(50))?;
        for number in &ready {
            let wire = &mut fleet.wires[*number];
            if wire.fill().is_err() {
                continue; // It is gone, and will not count as alive.
            }
            while let Some(heard) = wire.next(&mut fleet.scratch)? {
                if matches!(heard, Heard::Other) && !answered[*number] {
                    answered[*number] = true;
                    alive += 1;
                }
            }
        }
        fleet.turned(ready);
    }
    Ok(alive)
}
