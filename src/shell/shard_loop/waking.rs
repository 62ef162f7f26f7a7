//! What wakes a sleeping shard.
//!
//! ```text
//! doorbell (other threads, the links' ring) ──poll──┐
//! sockets, journal write, timeouts ─────────────────┴─► clients' ring ──► its own wait: nothing is asked of the executor
//!                                                           └─ knock ──► a task's read ─► alarm ─► the loop's wait: a read of
//!                                                          a read's end ──────────────────┘         the disk is under way
//! ```
//!
//! The clients' ring hears everything but the end of a read of the disk, which only the executor does. So without one the
//! shard sleeps in the ring's own system call, which submits what the turn wants and waits in one. With one it sleeps in the
//! executor, and the ring knocks there. Only for reads, which end soon: the kernel does not ring an eventfd (the knock) from within
//! another one's ring (the doorbell), but puts it off for an RCU grace period, and rings for nothing else meanwhile. Segments that took 75 ms
//! to make were waited for like that once, and the shard stood still for up to 80. Deliberately nothing of when to sleep: that is the loop's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes the loop from tasks of its own executor. A ring before the wait is not lost.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    rung: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
}

impl Alarm {
    pub(super) fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }

    /// Forgets rings so far; true if there were any.
    pub(super) fn take(&self) -> bool {
        self.rung.take()
    }

    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.take() {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// An eventfd for a task of the executor to read. Blocking on purpose: io_uring answers a read of a non-blocking one with
/// EAGAIN instead of waiting.
pub(super) fn make_knock() -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers; the result is checked below before it is owned.
    let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just made and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Keeps a read of the knock in the kernel, and rings the alarm when it comes.
pub(super) async fn listen_to_knock(knock: OwnedFd, alarm: Rc<Alarm>) {
    // SAFETY: the descriptor is given away whole.
    let file = unsafe { glommio::io::BufferedFile::from_raw_fd(knock.into_raw_fd()) };
    loop {
        file.read_at(0, 8).await.expect("an eventfd can be read");
        alarm.ring();
    }
}
