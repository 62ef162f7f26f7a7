//! Reads the two clocks, once per turn, for an engine that never does. Deliberately nothing else: no timers, no ticks.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::{Instant, Now, UnixMillis};

/// Both clocks of one process. Copies of one clock agree, so stamps of one shard can be read by another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// Starts counting; one per process.
    #[must_use]
    pub fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// Nanoseconds since the start: for stages.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Both clocks. The monotonic one begins at one second, so that subtracting a short span from it stays positive.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { instant: Clock::instant(self.nanos()), unix: UnixMillis(unix_ms()) }
    }

    /// Processor time of the calling thread.
    #[must_use]
    pub fn thread_cpu() -> std::time::Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec that is ours.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
        if failed {
            std::time::Duration::ZERO
        } else {
            std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        }
    }

    /// The engine's form of a reading of [`Clock::nanos`].
    #[must_use]
    pub fn instant(nanos: u64) -> Instant {
        Instant(nanos.saturating_add(1_000_000_000))
    }

    /// Nanoseconds from `from` (a reading of [`Clock::nanos`]) to the engine's `deadline`; zero when it has passed.
    #[must_use]
    pub fn until(from: u64, deadline: Instant) -> u64 {
        deadline.0.saturating_sub(Clock::instant(from).0)
    }
}

/// Wall-clock milliseconds; zero for a machine whose clock is before 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_agree_and_time_goes_on() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.nanos();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = copy.nanos();
        assert!(second >= first + 2_000_000);
        let deadline = Clock::instant(first) + std::time::Duration::from_millis(1);
        assert_eq!(Clock::until(first, deadline), 1_000_000);
        assert_eq!(Clock::until(second, deadline), 0);
        assert!(clock.now().unix.0 > 1_600_000_000_000, "the wall clock is in this century");
    }
}
