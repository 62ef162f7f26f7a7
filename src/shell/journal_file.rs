//! A shard's files: what a journal write needs, reads on the shard's executor, and, through [`super::file_thread`], segments and
//! checkpoints. Belongs to one glommio executor. Decides nothing: which bytes go where and when is the engine's word, and
//! what a fault means is too. Does not look into what it carries.
//!
//! Why it is made this way (each measured on the machine that built it):
//! - Journal writes go to a file opened with `O_DIRECT` and `O_DSYNC`: write and sync are one request. A separate fdatasync is
//!   always handed to a kernel worker thread and more than doubles the time.
//! - They ride on the clients' socket ring ([`super::socket_ring`]): the same write as a task of the executor cost more
//!   than twice the CPU, as the executor has to look through its three rings again and again until it has ended.
//! - glommio decides from the first file it opens on a device whether that device can be polled, and an empty or
//!   never-written file makes it decide wrongly: 4 ms a write and reads that fail. So [`JournalFiles::open`] has it open a
//!   file with contents first.
//! - Its `open` of a path that vanishes between two of its own steps panics. So a segment is only retired when no read of
//!   it is under way, which also keeps a read from meeting a file that is already being used again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::DmaFile;

use super::file_thread::{
    FileTask, FileThread, disk_fault, list_segments, remove_leftovers, segment_path, sync_directory,
};
use super::socket_ring::{AlignedBytes, FileWrite, FileWritten};
use crate::engine::effect::JournalWrite;
use crate::engine::event::DiskFault;
use crate::engine::shard::{Durability, JournalGeometry};
use crate::ids::SlotId;

/// Segments kept open for reading. At it: the one used longest ago is closed.
const READERS_MAX: usize = 16;

/// Handle to the files; clones are the same files. The futures it returns may be held and polled in any order.
#[derive(Clone)]
pub struct JournalFiles {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for JournalFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JournalFiles({})", self.inner.journal.display())
    }
}

/// The journal's files as a start finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The oldest.
    pub oldest: u32,
    /// The first to be replayed.
    pub replay_first: u32,
    /// The newest: usually prepared and empty.
    pub last: u32,
}

/// An open segment.
struct Reader {
    file: DmaFile,
    bytes: u64,
}

struct Inner {
    journal: PathBuf,
    slots: PathBuf,
    write_flags: i32,
    /// The segment being written.
    writer: RefCell<Option<(u32, Rc<File>)>>,
    /// Open for reading, the one used last at the end.
    readers: RefCell<Vec<(u32, Rc<Reader>)>>,
    /// Reads under way by segment.
    reading: RefCell<BTreeMap<u32, usize>>,
    /// Segments below this one are not needed any more.
    first_kept: Cell<u32>,
    /// What the thread was told of that.
    first_trimmed: Cell<u32>,
    thread: FileThread,
}

impl JournalFiles {
    /// Opens the files of a shard whose directory exists: `journal/` and `slots/` in it are made when missing. To be called
    /// on the shard's executor before it opens any other `DmaFile`.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn open(shard: &Path, geometry: JournalGeometry, durability: Durability) -> io::Result<JournalFiles> {
        let (journal, slots) = (shard.join("journal"), shard.join("slots"));
        fs::create_dir_all(&journal)?;
        fs::create_dir_all(&slots)?;
        sync_directory(shard)?;
        remove_leftovers(&journal, &slots)?;
        defuse_polling(&journal).await?;
        let thread = FileThread::start(&journal, &slots, geometry.segment_bytes)?;
        let write_flags = match durability {
            Durability::Fsync => libc::O_DSYNC,
            Durability::Memory => 0,
        };
        Ok(JournalFiles {
            inner: Rc::new(Inner {
                journal,
                slots,
                write_flags,
                writer: RefCell::new(None),
                readers: RefCell::new(Vec::new()),
                reading: RefCell::new(BTreeMap::new()),
                first_kept: Cell::new(0),
                first_trimmed: Cell::new(0),
                thread,
            }),
        })
    }

    /// The segments there are and where a replay begins that needs those from `first_needed` on (0: all there are). When
    /// checkpoints cover even the last segment, the replay still begins with that one: it says where writing goes on.
    /// Blocks.
    ///
    /// # Errors
    /// What the file system said, or that a needed segment is missing.
    pub fn segments_blocking(&self, first_needed: u32) -> io::Result<Option<Segments>> {
        let segments = list_segments(&self.inner.journal)?;
        let Some(last) = segments.last().copied() else {
            if first_needed == 0 {
                return Ok(None);
            }
            // What was acknowledged since the checkpoints was in them.
            let missing = segment_path(&self.inner.journal, first_needed);
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is missing, and all others", missing.display()),
            ));
        };
        // Files before a gap were left by a trim that the power cut short; the next trim removes them.
        let run = segments.iter().rev().zip(0..).take_while(|(segment, n)| **segment == last - n);
        let oldest = run.last().map_or(last, |(oldest, _)| *oldest);
        if first_needed > 0 && first_needed < oldest {
            let missing = segment_path(&self.inner.journal, oldest - 1);
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", missing.display())));
        }
        Ok(Some(Segments { oldest, replay_first: first_needed.clamp(oldest, last), last }))
    }

    /// Reads a whole segment into `bytes` for a replay, and makes sure that what was read is on disk before it is
    /// believed. Blocks.
    ///
    /// # Errors
    /// What the file system said.
    pub fn read_segment_blocking(&self, segment: u32, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(segment_path(&self.inner.journal, segment))?;
        // Changes nothing, but the kernel lets direct writes under way finish first. A process killed a moment ago may
        // have left one, and it must not land on top of what is written after this.
        let length = file.metadata()?.len();
        file.set_len(length)?;
        // What a killed process wrote may be in the device's cache only. A vote read from there and acted upon could be
        // forgotten by a power cut.
        file.sync_all()?;
        bytes.clear();
        file.read_to_end(bytes)?;
        Ok(())
    }

    /// Every checkpoint there is, by slot. Blocks.
    ///
    /// # Errors
    /// What the file system said.
    pub fn read_checkpoints_blocking(&self) -> io::Result<Vec<(SlotId, Vec<u8>)>> {
        let mut checkpoints = Vec::new();
        for entry in fs::read_dir(&self.inner.slots)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".ckpt"));
            if let Some(slot) = number.and_then(|number| number.parse().ok()) {
                let file = File::open(entry.path())?;
                file.sync_all()?;
                checkpoints.push((SlotId(slot), fs::read(entry.path())?));
            }
        }
        checkpoints.sort_by_key(|(slot, _)| *slot);
        Ok(checkpoints)
    }

    /// What the ring needs for a journal write, in `aligned`'s memory. With [`Durability::Fsync`] the write is on disk when
    /// the ring says that it has ended.
    ///
    /// # Errors
    /// The segment cannot be opened.
    pub fn begin_write(&self, write: &JournalWrite, mut aligned: AlignedBytes) -> Result<FileWrite, DiskFault> {
        let file = self.inner.writer(write.segment).map_err(|error| self.failed(write, &error))?;
        aligned.fill(&write.bytes);
        Ok(FileWrite { file, at: u64::from(write.offset), bytes: aligned })
    }

    /// What the ring's answer to it means.
    ///
    /// # Errors
    /// It failed, wholly or in part.
    pub fn end_write(&self, write: &JournalWrite, written: &FileWritten) -> Result<(), DiskFault> {
        match &written.result {
            Ok(bytes) if *bytes == write.bytes.len() => Ok(()),
            // A write that stops short says that the device has no more room.
            Ok(_) => Err(self.failed(write, &io::Error::from_raw_os_error(libc::ENOSPC))),
            Err(error) => Err(self.failed(write, error)),
        }
    }

    fn failed(&self, write: &JournalWrite, error: &io::Error) -> DiskFault {
        tracing::warn!("journal write to segment {} offset {} failed: {error}", write.segment, write.offset);
        // The next try opens the file anew.
        self.inner.writer.replace(None);
        disk_fault(error)
    }

    /// Makes a segment, over the file of that name if there is one. Answered when it can be written to.
    pub fn prepare_segment(&self, segment: u32) -> Answer {
        let (answer, answered) = flume::bounded(1);
        self.inner.thread.send(FileTask::Prepare { segment, answer });
        Answer { answered, made: Some((Rc::clone(&self.inner), segment)) }
    }

    /// Writes a slot's checkpoint, atomically. Answered when it is on disk under its name.
    pub fn write_checkpoint(&self, slot: SlotId, bytes: Vec<u8>) -> Answer {
        let (answer, answered) = flume::bounded(1);
        self.inner.thread.send(FileTask::Checkpoint { slot, bytes, answer });
        Answer { answered, made: None }
    }

    /// Who is told, on another thread, whenever an [`Answer`] can be taken.
    pub fn tell(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.inner.thread.tell(Box::new(listener));
    }

    /// Removes a slot's checkpoint, after what was asked of it before. One that stays behind after a fault is reported in the log.
    pub fn remove_checkpoint(&self, slot: SlotId) {
        self.inner.thread.send(FileTask::RemoveCheckpoint { slot });
    }

    /// Retires the segments below `first`, as soon as nobody reads them. From now on they cannot be read.
    pub fn trim(&self, first: u32) {
        let inner = &self.inner;
        inner.first_kept.set(inner.first_kept.get().max(first));
        inner.readers.borrow_mut().retain(|(open, _)| *open >= first);
        inner.writer.borrow_mut().take_if(|(open, _)| *open < first);
        inner.trim_unread();
    }

    /// Reads a range; what lies behind the end of the file is left out.
    pub fn read(
        &self,
        segment: u32,
        offset: u32,
        length: u32,
    ) -> impl Future<Output = Result<Bytes, DiskFault>> + use<> {
        let inner = Rc::clone(&self.inner);
        async move {
            if segment < inner.first_kept.get() {
                return Err(DiskFault::Io(libc::ENOENT));
            }
            let guard = Reading::begin(Rc::clone(&inner), segment);
            let result = inner.read(segment, offset, length).await;
            drop(guard);
            result.map_err(|error| {
                tracing::warn!("journal read of segment {segment} offset {offset} failed: {error}");
                disk_fault(&error)
            })
        }
    }
}

impl Inner {
    /// The segment being written, opened when it is the first write to it: a system call without I/O, as the file thread
    /// has just made the file, or recovery read it.
    fn writer(&self, segment: u32) -> io::Result<Rc<File>> {
        if let Some((open, file)) = &*self.writer.borrow()
            && *open == segment
        {
            return Ok(Rc::clone(file));
        }
        let path = segment_path(&self.journal, segment);
        let open = |direct: i32| OpenOptions::new().write(true).custom_flags(self.write_flags | direct).open(&path);
        let file = match open(libc::O_DIRECT) {
            // A file system in memory may know no direct writes.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0)?,
            other => other?,
        };
        let file = Rc::new(file);
        self.writer.replace(Some((segment, Rc::clone(&file))));
        Ok(file)
    }

    async fn read(&self, segment: u32, offset: u32, length: u32) -> io::Result<Bytes> {
        let reader = self.reader(segment).await?;
        let offset = u64::from(offset);
        let length = u64::from(length).min(reader.bytes.saturating_sub(offset));
        if length == 0 {
            return Ok(Bytes::new());
        }
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let read = reader.file.read_at(offset, length).await.map_err(plain)?;
        Ok(Bytes::copy_from_slice(&read))
    }

    async fn reader(&self, segment: u32) -> io::Result<Rc<Reader>> {
        {
            let mut readers = self.readers.borrow_mut();
            if let Some(at) = readers.iter().position(|(open, _)| *open == segment) {
                readers[at..].rotate_left(1);
                if let Some((_, reader)) = readers.last() {
                    return Ok(Rc::clone(reader));
                }
            }
        }
        let file = DmaFile::open(segment_path(&self.journal, segment)).await.map_err(plain)?;
        let bytes = file.file_size().await.map_err(plain)?;
        let reader = Rc::new(Reader { file, bytes });
        let mut readers = self.readers.borrow_mut();
        // Another read may have opened it meanwhile, or a trim given it up.
        readers.retain(|(open, _)| *open != segment);
        if segment >= self.first_kept.get() {
            if readers.len() == READERS_MAX {
                readers.remove(0);
            }
            readers.push((segment, Rc::clone(&reader)));
        }
        Ok(reader)
    }

    /// Has the segments that nobody needs or reads any more retired.
    fn trim_unread(&self) {
        let oldest_read = self.reading.borrow().keys().next().copied().unwrap_or(u32::MAX);
        let first = self.first_kept.get().min(oldest_read);
        if first > self.first_trimmed.get() {
            self.first_trimmed.set(first);
            self.thread.send(FileTask::Trim { first });
        }
    }
}

/// A read under way; its segment is not retired before it ends.
struct Reading {
    inner: Rc<Inner>,
    segment: u32,
}

impl Reading {
    fn begin(inner: Rc<Inner>, segment: u32) -> Reading {
        *inner.reading.borrow_mut().entry(segment).or_insert(0) += 1;
        Reading { inner, segment }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reading = self.inner.reading.borrow_mut();
        if let Some(count) = reading.get_mut(&self.segment) {
            *count -= 1;
            if *count == 0 {
                reading.remove(&self.segment);
            }
        }
        drop(reading);
        self.inner.trim_unread();
    }
}

/// What the files thread is to answer. Taken without waiting: an executor that waits for it would have to be slept in meanwhile.
pub struct Answer {
    answered: flume::Receiver<io::Result<()>>,
    /// The segment that is being made.
    made: Option<(Rc<Inner>, u32)>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Answer").field("is_there", &self.is_there()).finish_non_exhaustive()
    }
}

impl Answer {
    /// It can be taken.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.answered.is_empty() || self.answered.is_disconnected()
    }

    /// What the thread answered, once; none yet. A thread that is gone is a fault.
    pub fn take(&self) -> Option<Result<(), DiskFault>> {
        let result = match self.answered.try_recv() {
            Err(flume::TryRecvError::Empty) => return None,
            Ok(result) => result.map_err(|error| disk_fault(&error)),
            Err(flume::TryRecvError::Disconnected) => Err(DiskFault::Io(libc::EIO)),
        };
        if let Some((inner, segment)) = &self.made {
            // There may have been a file of that name.
            inner.readers.borrow_mut().retain(|(open, _)| open != segment);
            inner.writer.borrow_mut().take_if(|(open, _)| open == segment);
        }
        Some(result)
    }
}

/// Has glommio open a file with contents first; see the top of this file.
async fn defuse_polling(journal: &Path) -> io::Result<()> {
    let path = journal.join("probe");
    let mut file = File::create(&path)?;
    file.write_all(&[1u8; 4096])?;
    file.sync_all()?;
    let probed = DmaFile::open(&path).await.map_err(plain)?;
    probed.close().await.map_err(plain)?;
    fs::remove_file(&path)
}

/// glommio's error as the system's, with its number where it has one.
fn plain(error: glommio::GlommioError<()>) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests;
