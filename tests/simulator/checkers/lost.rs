//! What was acknowledged is never lost: at rest every family that it is for has seen it, and the log holds it.

use std::collections::BTreeSet;

use crate::ledger::{Kind, Ledger, LogKey, Number};

/// Most messages named in a report.
const NAMED_MAX: usize = 8;

/// Every family has seen what it must.
pub fn arrived(ledger: &Ledger) -> Result<(), String> {
    let missing: Vec<String> = ledger
        .missing()
        .take(NAMED_MAX)
        .map(|(number, sent, family)| {
            format!(
                "message {number} ({:?} user {} → user {}, {:?}) never reached user {} flag {}",
                sent.kind, sent.from, sent.to, sent.accepted, family.user, family.flag
            )
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("{} acknowledged messages are missing: {}", ledger.missing().count(), missing.join("; ")))
}

/// A log that was read as a whole holds every accepted message at its place.
pub fn in_log(log: LogKey, found: &[(u32, i64, Number)], ledger: &Ledger) -> Result<(), String> {
    let held: BTreeSet<(u32, i64, Number)> = found.iter().copied().collect();
    for (number, sent) in &ledger.sent {
        let Some(accepted) = sent.accepted else { continue };
        if sent.kind != Kind::Stored || sent.log() != log {
            continue;
        }
        if !held.contains(&(accepted.seq, accepted.message_id, *number)) {
            return Err(format!("message {number}, acknowledged as {accepted:?}, is not in {log:?}"));
        }
    }
    Ok(())
}
