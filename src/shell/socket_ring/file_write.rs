//! One write to a file that rides on a socket ring: it goes to the kernel with the turn's sends and its answer comes with the
//! turn's reads, which spares a shard's journal the executor's own rings and a task per write.
//!
//! Deliberately one at a time, and nothing of what is written where: that is the caller's affair, as is whether the file
//! was opened direct and synchronous.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::types::Fd;

use super::SocketRing;
use super::socket::{Request, user_data};

/// What a direct write wants its memory aligned to; as much as any block device of today asks for.
const BLOCK_BYTES: usize = 4096;

/// A buffer that has grown over this is not kept for the next write.
const KEPT_BYTES_MAX: usize = 1 << 20;

#[repr(C, align(4096))]
#[derive(Clone)]
struct Block([u8; BLOCK_BYTES]);

/// Bytes whose memory begins at a multiple of 4096, as direct I/O wants it.
#[derive(Default)]
pub struct AlignedBytes {
    blocks: Vec<Block>,
    length: usize,
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBytes").field("length", &self.length).finish_non_exhaustive()
    }
}

impl AlignedBytes {
    /// Holds a copy of `bytes` and nothing else.
    pub fn fill(&mut self, bytes: &[u8]) {
        let blocks = bytes.len().div_ceil(BLOCK_BYTES);
        let kept_max = KEPT_BYTES_MAX / BLOCK_BYTES;
        if self.blocks.len() < blocks || self.blocks.len() > kept_max.max(blocks) {
            self.blocks.clear();
            self.blocks.shrink_to(blocks);
            self.blocks.resize(blocks, Block([0; BLOCK_BYTES]));
        }
        for (block, chunk) in self.blocks.iter_mut().zip(bytes.chunks(BLOCK_BYTES)) {
            block.0[..chunk.len()].copy_from_slice(chunk);
        }
        self.length = bytes.len();
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A write that is wanted.
#[derive(Debug)]
pub struct FileWrite {
    /// Kept open until the kernel has answered.
    pub file: Rc<File>,
    /// Where in it.
    pub at: u64,
    /// What; untouched until the kernel has answered.
    pub bytes: AlignedBytes,
}

/// What became of it.
#[derive(Debug)]
pub struct FileWritten {
    /// The memory, to be used again.
    pub bytes: AlignedBytes,
    /// How many bytes were written: fewer where there was no room for all.
    pub result: io::Result<usize>,
}

impl SocketRing {
    /// Writes to a file from the next turn on. [`super::RingEvent::FileWritten`] follows.
    ///
    /// # Panics
    /// While another one is under way.
    pub fn write_file(&mut self, write: FileWrite) {
        assert!(self.file_write.is_none(), "one file write at a time");
        self.push_file_write(&write);
        self.file_write = Some(write);
    }

    fn push_file_write(&mut self, write: &FileWrite) {
        let length = u32::try_from(write.bytes.length).expect("a write is far below 4 GiB");
        let entry = opcode::Write::new(Fd(write.file.as_raw_fd()), write.bytes.blocks.as_ptr().cast(), length)
            .offset(write.at)
            .build()
            .user_data(user_data(Request::FileWrite, 0, 0));
        self.push(&entry);
    }

    /// The kernel's answer; nothing if it is to be asked again.
    pub(super) fn file_write_answered(&mut self, answer: i32) -> Option<FileWritten> {
        let write = self.file_write.take().expect("the kernel answers what was asked");
        if matches!(-answer, libc::EAGAIN | libc::EINTR) {
            self.push_file_write(&write);
            self.file_write = Some(write);
            return None;
        }
        let result = usize::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer));
        Some(FileWritten { bytes: write.bytes, result })
    }
}
