//! `loadgen fill`: stores many messages as fast as the server takes them, for users that are never there, so that a restart has
//! something to read. It checks that every SEND is answered well, and nothing else.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::spread::Placed;
use crate::verify::Mark;
use crate::wire::Heard;

/// A server that answers nothing for so long has failed.
const QUIET: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Senders, and where; each fills one channel.
    pub users: Vec<Placed>,
    /// Without the cipher.
    pub plain: bool,
    /// How many.
    pub messages: u64,
    /// Unanswered SENDs per sender.
    pub window: usize,
    /// Payload bytes.
    pub size: usize,
}

/// Runs the plan; `Ok(true)` when all are stored.
pub fn run(plan: &Plan) -> io::Result<bool> {
    let mut fleet = Fleet::connect(&plan.users, plan.plain)?;
    let mut payload = vec![0; plan.size];
    let mut number_text = String::new();
    let mut sent = 0u64;
    let mut next_sequence = vec![0u64; plan.users.len()];
    let mut send = |fleet: &mut Fleet, user: usize| {
        if sent == plan.messages {
            return;
        }
        sent += 1;
        next_sequence[user] += 1;
        Mark { sender: user as u32, sequence: next_sequence[user], at_ns: 0 }.write(&mut payload);
        number_text.clear();
        write!(number_text, "{:x}", next_sequence[user]).expect("writing to a string cannot fail");
        let to = format!("{}-away", plan.users[user].name);
        fleet.wires[user].send(&mut fleet.scratch, &to, &number_text, &payload);
        fleet.mark_dirty(user);
    };
    let began = Instant::now();
    for user in 0..plan.users.len() {
        for _ in 0..plan.window {
            send(&mut fleet, user);
        }
    }
    let (mut stored, mut refused, mut progress) = (0u64, 0u64, Instant::now());
    while stored + refused < plan.messages && progress.elapsed() < QUIET {
        let ready = fleet.turn(Duration::from_millis(50))?;
        for user in &ready {
            let mut drained = false;
            while !drained {
                drained = fleet.wires[*user].fill()?;
                while let Some(heard) = fleet.wires[*user].next(&mut fleet.scratch)? {
                    let Heard::Sendack { reason, .. } = heard else {
                        continue;
                    };
                    if reason == 1 {
                        stored += 1
                    } else {
                        refused += 1
                    }
                    progress = Instant::now();
                    send(&mut fleet, *user);
                }
            }
        }
        fleet.turned(ready);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "stored           {stored} of {} messages in {seconds:.1} s, {:.0} msg/s; refused {refused}",
        plan.messages,
        stored as f64 / seconds
    );
    Ok(stored == plan.messages)
}
