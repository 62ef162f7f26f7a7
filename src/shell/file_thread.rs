//! The slow half of a shard's files, on a thread of its own so that the shard never waits for it: making segments,
//! retiring those that are no longer needed, writing checkpoints. Plain blocking calls. Knows names and sizes, nothing
//! of what is in the files. Reading and the journal's own writes are in [`super::journal_file`].
//!
//! ```text
//! segment file:  (zeroes into "preparing") ──rename──► 00000007.seg ──trim──► retired-00000007 ──rename──► 00000010.seg
//!                                                                        └──► gone, when enough are retired
//! ```
//!
//! A name is only given to a file that is whole and synced, and the directory is synced after each change of names. So
//! whatever instant the power fails at, a segment under its name can be written to without any metadata to commit.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::engine::event::DiskFault;
use crate::ids::SlotId;

/// Files kept for reuse: one for the next spare, one for a burst. They are also what is left to live on when the disk
/// is full.
const RETIRED_MAX: usize = 2;

/// Bytes of zeroes in one write. Between two writes the disk belongs to the journal for as long as the write took.
const CHUNK_BYTES: usize = 1 << 20;

/// Memory alignment of direct writes; enough for every device whose logical block is at most as large.
const ALIGN_BYTES: usize = 4096;

const PREPARING: &str = "preparing";

/// What the disk said, as the engine understands it.
#[must_use]
pub fn disk_fault(error: &io::Error) -> DiskFault {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskFault::Full,
        Some(code) => DiskFault::Io(code),
        None => DiskFault::Io(libc::EIO),
    }
}

/// The file of a segment.
#[must_use]
pub(super) fn segment_path(journal: &Path, segment: u32) -> PathBuf {
    journal.join(format!("{segment:08}.seg"))
}

/// The segments under their names, ascending.
pub(super) fn list_segments(journal: &Path) -> io::Result<Vec<u32>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(journal)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(segment) = number.and_then(|number| number.parse().ok()) {
            segments.push(segment);
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The file of a slot's checkpoint.
#[must_use]
pub(super) fn checkpoint_path(slots: &Path, slot: SlotId) -> PathBuf {
    slots.join(format!("{:04}.ckpt", slot.0))
}

/// Makes changes of names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Puts `bytes` under `path`: all of them or none, whenever the power fails.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // Best effort: what is left over is removed at the next start in any case.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(directory)
}

/// One thing to do, in order. An answer that nobody waits for any more is no error.
pub(super) enum FileTask {
    /// Make a segment, over the file of that name if there is one.
    Prepare { segment: u32, answer: flume::Sender<io::Result<()>> },
    /// Retire the segments below this one.
    Trim { first: u32 },
    /// Write a checkpoint under its name.
    Checkpoint { slot: SlotId, bytes: Vec<u8>, answer: flume::Sender<io::Result<()>> },
    /// Remove a slot's checkpoint, if there is one.
    RemoveCheckpoint { slot: SlotId },
}

/// Told after each answer.
pub(super) type Listener = Box<dyn Fn() + Send + Sync>;

/// The running thread. Dropping it waits for the step under way, a few milliseconds, and forgets what is queued.
pub(super) struct FileThread {
    tasks: Option<flume::Sender<FileTask>>,
    stopping: Arc<AtomicBool>,
    listener: Arc<OnceLock<Listener>>,
    thread: Option<JoinHandle<()>>,
}

impl FileThread {
    /// Starts it for a journal's and a checkpoints' directory that exist.
    pub(super) fn start(journal: &Path, slots: &Path, segment_bytes: u32) -> io::Result<FileThread> {
        let (tasks, inbox) = flume::unbounded();
        let stopping = Arc::new(AtomicBool::new(false));
        let listener = Arc::new(OnceLock::new());
        let mut files = Files {
            tasks: inbox,
            later: VecDeque::new(),
            journal: journal.to_owned(),
            slots: slots.to_owned(),
            segment_bytes: segment_bytes as usize,
            stopping: Arc::clone(&stopping),
            listener: Arc::clone(&listener),
        };
        let thread = std::thread::Builder::new().name("jindou-files".to_owned()).spawn(move || {
            leave_pinned_core();
            while let Some(task) = files.next() {
                if files.stopping.load(Ordering::Relaxed) {
                    break;
                }
                files.carry_out(task);
            }
        })?;
        Ok(FileThread { tasks: Some(tasks), stopping, listener, thread: Some(thread) })
    }

    /// Who is to be told after each answer, once it can be taken. The first one counts.
    pub(super) fn tell(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// Queues something. The engine asks for one segment at a time and one checkpoint of a slot at a time, which bounds
    /// the queue.
    pub(super) fn send(&self, task: FileTask) {
        if let Some(tasks) = &self.tasks {
            // It fails only when the thread is gone; then the task's answer is dropped and its waiter sees a fault.
            let _ = tasks.send(task);
        }
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.tasks = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the files thread had panicked");
        }
    }
}

/// A new thread inherits the pinning of the shard that starts it. This one is to run where there is room.
fn leave_pinned_core() {
    // SAFETY: an all-zero cpu_set_t is the valid empty set.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: `cpu` is below CPU_SETSIZE, the capacity of the set.
        unsafe { libc::CPU_SET(cpu, &mut all) };
    }
    // SAFETY: 0 names the calling thread, and the set lives through the call. The kernel leaves out what is not allowed.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const all) };
    if result != 0 {
        tracing::debug!("the files thread stays on its shard's core: {}", io::Error::last_os_error());
    }
}

/// What the thread works with.
struct Files {
    tasks: flume::Receiver<FileTask>,
    /// What came while a segment was being made and is not urgent.
    later: VecDeque<FileTask>,
    journal: PathBuf,
    slots: PathBuf,
    segment_bytes: usize,
    stopping: Arc<AtomicBool>,
    listener: Arc<OnceLock<Listener>>,
}

impl Files {
    fn answer(&self, to: &flume::Sender<io::Result<()>>, result: io::Result<()>) {
        let _ = to.send(result);
        if let Some(tell) = self.listener.get() {
            tell();
        }
    }

    /// The next thing to do; none when nobody is left who could ask for any.
    fn next(&mut self) -> Option<FileTask> {
        self.later.pop_front().or_else(|| self.tasks.recv().ok())
    }

    /// Slots may stand still until their checkpoints are written; a segment is made long before it is needed, and takes long. What is about
    /// checkpoints keeps its order, and so does the rest.
    fn carry_out_urgent(&mut self) {
        while let Ok(task) = self.tasks.try_recv() {
            match task {
                FileTask::Checkpoint { .. } | FileTask::RemoveCheckpoint { .. } => self.carry_out(task),
                FileTask::Prepare { .. } | FileTask::Trim { .. } => self.later.push_back(task),
            }
        }
    }

    fn carry_out(&mut self, task: FileTask) {
        match task {
            FileTask::Prepare { segment, answer } => {
                let result = self.prepare(segment);
                if let Err(error) = &result {
                    tracing::warn!("journal segment {segment} cannot be made in {}: {error}", self.journal.display());
                }
                self.answer(&answer, result);
            }
            FileTask::Trim { first } => {
                if let Err(error) = self.trim(first) {
                    // Nothing depends on it; the next trim tries the same files again.
                    tracing::warn!("old journal segments stay in {}: {error}", self.journal.display());
                }
            }
            FileTask::Checkpoint { slot, bytes, answer } => {
                let path = checkpoint_path(&self.slots, slot);
                let result = replace_file(&path, &bytes);
                if let Err(error) = &result {
                    tracing::warn!("checkpoint {} cannot be written: {error}", path.display());
                }
                self.answer(&answer, result);
            }
            FileTask::RemoveCheckpoint { slot } => {
                let path = checkpoint_path(&self.slots, slot);
                match fs::remove_file(&path).and_then(|()| sync_directory(&self.slots)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!("checkpoint {} cannot be removed: {error}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }

    fn prepare(&mut self, segment: u32) -> io::Result<()> {
        let source = match self.retired()?.into_iter().next() {
            Some(path) => path,
            None => {
                let path = self.journal.join(PREPARING);
                self.fill(&path).inspect_err(|_| drop(fs::remove_file(&path)))?;
                path
            }
        };
        fs::rename(source, segment_path(&self.journal, segment))?;
        sync_directory(&self.journal)
    }

    /// Retired files that can be used again. Those of another size, from before a change of configuration, are removed.
    fn retired(&self) -> io::Result<Vec<PathBuf>> {
        let mut retired = Vec::new();
        for entry in fs::read_dir(&self.journal)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b"retired-") {
                continue;
            }
            if entry.metadata()?.len() == self.segment_bytes as u64 {
                retired.push(entry.path());
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(retired)
    }

    fn trim(&self, first: u32) -> io::Result<()> {
        let mut room = RETIRED_MAX.saturating_sub(self.retired()?.len());
        for segment in list_segments(&self.journal)?.into_iter().take_while(|segment| *segment < first) {
            let path = segment_path(&self.journal, segment);
            if room > 0 && fs::metadata(&path)?.len() == self.segment_bytes as u64 {
                fs::rename(&path, self.journal.join(format!("retired-{segment:08}")))?;
                room -= 1;
            } else {
                fs::remove_file(&path)?;
            }
        }
        sync_directory(&self.journal)
    }

    /// Writes a whole segment of zeroes and syncs it.
    fn fill(&mut self, path: &Path) -> io::Result<()> {
        match self.fill_with(path, libc::O_DIRECT) {
            // A file system or a block size that knows no direct writes: through the page cache then.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.fill_with(path, 0),
            other => other,
        }
    }

    fn fill_with(&mut self, path: &Path, flags: i32) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(flags);
        let mut file = options.open(path)?;
        let memory = vec![0u8; CHUNK_BYTES + ALIGN_BYTES];
        let start = memory.as_ptr().align_offset(ALIGN_BYTES);
        let zeroes = &memory[start..start + CHUNK_BYTES];
        let mut left = self.segment_bytes;
        while left > 0 {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let began = Instant::now();
            let chunk = left.min(CHUNK_BYTES);
            file.write_all(&zeroes[..chunk])?;
            left -= chunk;
            std::thread::sleep(began.elapsed());
            self.carry_out_urgent();
        }
        file.sync_all()
    }
}

/// Removes what an interrupted start or crash left half done.
pub(super) fn remove_leftovers(journal: &Path, slots: &Path) -> io::Result<()> {
    match fs::remove_file(journal.join(PREPARING)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for entry in fs::read_dir(slots)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_checkpoint_does_not_wait_for_a_segment() {
        let directory = std::env::temp_dir().join(format!("jindou-file-thread-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let files = FileThread::start(&directory, &directory, 64 << 20).unwrap();
        let (answer, segment) = flume::bounded(1);
        files.send(FileTask::Prepare { segment: 1, answer });
        let (answer, checkpoint) = flume::bounded(1);
        files.send(FileTask::Checkpoint { slot: SlotId(3), bytes: vec![7; 100], answer });
        let patience = Duration::from_secs(60);
        assert!(checkpoint.recv_timeout(patience).unwrap().is_ok());
        assert!(segment.try_recv().is_err(), "the segment is still being made");
        assert!(segment.recv_timeout(patience).unwrap().is_ok());
        assert_eq!(fs::read(checkpoint_path(&directory, SlotId(3))).unwrap(), [7; 100]);
        assert_eq!(list_segments(&directory).unwrap(), [1]);
        drop(files);
        fs::remove_dir_all(&directory).unwrap();
    }
}
