//! At rest a step allocates nothing: a shard with live sessions, conversations and an idle disk is turned for a simulated minute under
//! an allocator that counts. Timers, raft's ticks and sweeps are part of that; clients are silent, as at night.

#[path = "../benches/one_shard.rs"]
mod one_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use one_shard::OneShard;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is handed on unchanged to the system's allocator, which keeps the contract; counting touches a
// thread-local without a destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the layout is handed on.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as for `alloc`.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about pointer and layout is handed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    // SAFETY: as for `alloc`.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about pointer and layout is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 10]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn an_idle_shard_allocates_nothing() {
    const TURN_NS: u64 = 10_000_000;
    let mut one = OneShard::with_users(64);
    one.queue_sends(5000);
    one.turns_until_rest();
    assert_eq!(one.delivered, 5000);
    // What the last messages left to do: rows to agree on, announcements to settle. Below the idle timeout of 180 s.
    for _ in 0..3000 {
        one.idle_turn(TURN_NS);
        one.answer_wishes();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..6000 {
        one.idle_turn(TURN_NS);
        assert!(one.effects.list.is_empty(), "at rest nothing is asked for: {:?}", one.effects.list);
    }
    assert_eq!(one.shard.view().sessions_live, 64, "the sessions were there all the time");
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations in one simulated minute at rest");
}
