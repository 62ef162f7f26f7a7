//! What foca wants done, collected while it runs, its timers, and the window against datagrams that come twice. Carries
//! nothing out and knows no clock: a timer is due when the caller says that it is late enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foca::{Notification, Runtime, Timer};

use super::identity::Identity;
use crate::ids::NodeId;
use crate::time::Instant;

/// Filled during one call of foca, emptied right after it.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Messages with their receivers.
    pub sent: Vec<(Identity, Vec<u8>)>,
    /// Timers to start.
    pub started: Vec<(Timer<Identity>, Duration)>,
    /// Nodes of which something changed.
    pub touched: BTreeSet<NodeId>,
}

impl Runtime<Identity> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(member) | Notification::MemberDown(member) | Notification::Rename(_, member) => {
                self.touched.insert(member.node);
            }
            Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sent.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.started.push((event, after));
    }
}

/// Timers in the order in which they are due.
#[derive(Debug)]
pub struct Timers {
    queue: BTreeMap<(Instant, u64), Timer<Identity>>,
    started: u64,
    max: usize,
}

impl Timers {
    /// None yet; at `max` the one due last is given up, which is one that forgets a node that is long down.
    #[must_use]
    pub fn new(max: usize) -> Timers {
        assert!(max >= 16, "the timers that foca keeps for itself must always fit");
        Timers { queue: BTreeMap::new(), started: 0, max }
    }

    /// Starts one. The same one twice is the earlier of both: foca suspects a member again while its suspicion runs.
    pub fn start(&mut self, at: Instant, timer: Timer<Identity>) {
        if self.queue.values().any(|waiting| *waiting == timer) {
            return;
        }
        self.started += 1;
        self.queue.insert((at, self.started), timer);
        if self.queue.len() > self.max {
            self.queue.pop_last();
        }
    }

    /// When the next is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// One that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer<Identity>> {
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now { None } else { Some(entry.remove()) }
    }

    /// Moves all of them: the process was not running, so the time did not pass for its questions either.
    pub fn delay(&mut self, by: Duration) {
        let moved = std::mem::take(&mut self.queue);
        self.queue = moved.into_iter().map(|((at, number), timer)| ((at + by, number), timer)).collect();
    }
}

/// Which sequence numbers of one process have been seen: the highest and the [`Window::WIDTH`] below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    boot: u64,
    highest: u64,
    seen: u128,
}

impl Window {
    /// Numbers below the highest that may still come late; older ones count as seen.
    pub const WIDTH: u64 = 128;

    /// Whether it is new; it is not afterwards. A later process starts a new window, an earlier one is never new.
    pub fn admit(&mut self, boot: u64, sequence: u64) -> bool {
        if boot > self.boot {
            *self = Window { boot, highest: sequence, seen: 1 };
            return true;
        }
        if boot < self.boot {
            return false;
        }
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead < Window::WIDTH { self.seen << ahead | 1 } else { 1 };
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= Window::WIDTH || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once_and_only_for_a_while() {
        let mut window = Window::default();
        assert!(window.admit(5, 10));
        assert!(!window.admit(5, 10));
        assert!(window.admit(5, 9));
        assert!(!window.admit(5, 9));
        assert!(window.admit(5, 200));
        assert!(!window.admit(5, 10), "out of the window");
        assert!(window.admit(5, 73));
        assert!(!window.admit(5, 72));
        assert!(!window.admit(4, 1000), "an earlier process");
        assert!(window.admit(6, 1));
    }

    #[test]
    fn timers_are_bounded_ordered_and_never_twice() {
        let mut timers = Timers::new(16);
        for n in 0..40u64 {
            timers.start(Instant(1000 - n), Timer::PeriodicGossip(n as u8));
            timers.start(Instant(5000), Timer::PeriodicGossip(n as u8));
        }
        assert_eq!(timers.queue.len(), 16);
        assert_eq!(timers.next(), Some(Instant(961)));
        timers.delay(Duration::from_nanos(10));
        assert_eq!(timers.pop(Instant(970)), None);
        assert_eq!(timers.pop(Instant(971)), Some(Timer::PeriodicGossip(39)));
    }
}
