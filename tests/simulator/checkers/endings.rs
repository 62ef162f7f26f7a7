//! Every request ends: a SEND that a shard has taken in is answered while its connection lives, and so are CONNECTs and API requests,
//! within a time that is generous when nothing is wrong.

use std::time::Duration;

/// How long a request may take while everything has been well all the time.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A request that may take so long began at `since_ns`; everything has been well since `well_since_ns`.
pub fn in_time(
    what: impl FnOnce() -> String,
    patience: Duration,
    now_ns: u64,
    since_ns: u64,
    well_since_ns: u64,
) -> Result<(), String> {
    let waited_ns = now_ns.saturating_sub(since_ns.max(well_since_ns));
    if u128::from(waited_ns) <= patience.as_nanos() {
        return Ok(());
    }
    Err(format!("{} has waited {:.3} s in good times", what(), waited_ns as f64 / 1e9))
}
