//! The read buffers that one shard's sockets share (a provided-buffer ring of io_uring): the kernel picks one when bytes
//! have arrived, so that an idle connection holds none. Deliberately no accounting of who holds which: between a completion and its
//! return a buffer belongs to the turn that reads it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The kernel wants the ring of entries at the beginning of a page.
const PAGE_BYTES: usize = 4096;

/// The one group of this ring.
pub(super) const GROUP: u16 = 0;

/// Memory that the kernel writes into and the shard reads.
#[derive(Debug)]
pub(super) struct ReadBuffers {
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    memory: NonNull<u8>,
    memory_layout: Layout,
    count: u16,
    each_bytes: u32,
    tail: u16,
}

impl ReadBuffers {
    /// Makes `count` (a power of two) buffers of `each_bytes` and registers them with the ring.
    pub(super) fn register(ring: &IoUring, count: u16, each_bytes: u32) -> io::Result<ReadBuffers> {
        assert!(count.is_power_of_two() && each_bytes > 0, "the shape is a constant of ours");
        let bad = |_| io::Error::other("read buffers too large");
        let entries_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let entries_layout = Layout::from_size_align(entries_bytes, PAGE_BYTES).map_err(bad)?;
        let memory_layout =
            Layout::from_size_align(usize::from(count) * each_bytes as usize, PAGE_BYTES).map_err(bad)?;
        // SAFETY: both layouts have a size above zero (asserted above). Zeroed bytes are a valid `BufRingEntry`
        // (integers only) and valid `u8`s.
        let (entries, memory) = unsafe { (alloc_zeroed(entries_layout), alloc_zeroed(memory_layout)) };
        let Some(entries) = NonNull::new(entries.cast::<BufRingEntry>()) else { handle_alloc_error(entries_layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(memory_layout) };
        let mut buffers = ReadBuffers { entries, entries_layout, memory, memory_layout, count, each_bytes, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        // SAFETY: the entries are `count` long, aligned to a page and outlive the registration: the owner unregisters the
        // ring (or leaks this value) before it is dropped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0)?;
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Size of each.
    pub(super) fn each_bytes(&self) -> u32 {
        self.each_bytes
    }

    /// What the kernel wrote into a buffer. The caller has a completion that names it and has not given it back.
    pub(super) fn bytes(&self, id: u16, length: usize) -> &[u8] {
        assert!(id < self.count && length <= self.each_bytes as usize, "the kernel named a buffer of ours");
        // SAFETY: the range lies within `memory` (asserted). The kernel does not write to a buffer between its
        // completion and its return, and it is returned only through `&mut self`, after this borrow.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(usize::from(id) * self.each_bytes as usize), length)
        }
    }

    /// Puts a buffer back; the kernel sees it at the next [`ReadBuffers::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count, "the kernel named a buffer of ours");
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, and so is `id`: both pointers stay inside their allocations. The kernel reads
        // this entry only after the tail has been published behind it. The entry's last field, in which entry 0 keeps
        // the ring's tail, is not touched by these setters.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(slot);
            let address = self.memory.as_ptr().add(usize::from(id) * self.each_bytes as usize);
            entry.set_addr(address as u64);
            entry.set_len(self.each_bytes);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel have everything given back so far.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail lies in entry 0, which is valid and aligned; the kernel only reads it, so an atomic store with
        // release order is the agreed way to move it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for ReadBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with these layouts. The owner drops this only when the kernel can no longer
        // write into it.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), self.entries_layout);
            dealloc(self.memory.as_ptr(), self.memory_layout);
        }
    }
}
