//! The real files under a real executor: small segments in a directory of their own.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant as Clock};

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::*;
use crate::engine::effect::{Effect, Effects};
use crate::engine::journal::{Journal, Position, Record, Replay};
use crate::limits::Limits;
use crate::shell::socket_ring::{RingConfig, RingEvent, SocketRing};
use crate::time::Instant;

const GEOMETRY: JournalGeometry = JournalGeometry { block_bytes: 4096, segment_bytes: 1 << 18, identity: 42 };

/// An executor that takes little locked memory; the kernel gives back that of earlier ones a little late.
fn test_executor() -> LocalExecutor {
    let give_up = Clock::now() + Duration::from_secs(10);
    loop {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(64);
        match builder.make() {
            Ok(executor) => return executor,
            Err(error) => assert!(Clock::now() < give_up, "no executor: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("jindou-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn open(scratch: &Scratch) -> JournalFiles {
    JournalFiles::open(&scratch.0, GEOMETRY, Durability::Fsync).await.unwrap()
}

/// Waits for the files thread.
fn taken(answer: Answer) -> Result<(), DiskFault> {
    let give_up = Clock::now() + Duration::from_secs(10);
    loop {
        if let Some(result) = answer.take() {
            return result;
        }
        assert!(Clock::now() < give_up, "no answer of the files thread");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn some_write(segment: u32, offset: u32, fill: u8) -> JournalWrite {
    JournalWrite { flush: 1, segment, offset, bytes: vec![fill; 8192] }
}

/// Carries out a journal write as a shard does, but waits for it.
fn write(files: &JournalFiles, write: JournalWrite) -> (Vec<u8>, Result<(), DiskFault>) {
    let aligned = AlignedBytes::default();
    let wanted = match files.begin_write(&write, aligned) {
        Ok(wanted) => wanted,
        Err(fault) => return (write.bytes, Err(fault)),
    };
    let written = ring_write(wanted);
    let result = files.end_write(&write, &written);
    (write.bytes, result)
}

fn ring_write(wanted: FileWrite) -> FileWritten {
    // SAFETY: no pointers; the result is checked before it is owned.
    let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(bell >= 0);
    // SAFETY: just made, known to nobody else.
    let bell = unsafe { OwnedFd::from_raw_fd(bell) };
    let give_up = Clock::now() + Duration::from_secs(10);
    let config = RingConfig { read_buffers: 2, read_buffer_bytes: 4096, ..RingConfig::LINKS };
    let mut ring = loop {
        match SocketRing::new(config, bell.as_raw_fd()) {
            Ok(ring) => break ring,
            // Locked memory of earlier rings is given back a little late.
            Err(why) => assert!(Clock::now() < give_up, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ring.write_file(wanted);
    let mut answer = None;
    while answer.is_none() {
        assert!(Clock::now() < give_up, "the kernel does not answer");
        ring.turn(&mut |event| {
            let RingEvent::FileWritten(written) = event else { panic!("{event:?}") };
            answer = Some(written);
            true
        });
    }
    answer.expect("the loop waits for it")
}

fn names(directory: PathBuf) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits for what the files thread does without an answer.
async fn until(what: &str, done: impl Fn() -> bool) {
    let give_up = Clock::now() + Duration::from_secs(10);
    while !done() {
        assert!(Clock::now() < give_up, "never happened: {what}");
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
}

/// Without the cure, glommio takes the new and empty file as proof that the device can be polled, and on a device that
/// cannot the read fails with EOPNOTSUPP.
#[test]
fn a_new_file_may_be_opened_after_the_probe() {
    let scratch = Scratch::new("probe");
    test_executor().run(async {
        defuse_polling(&scratch.0).await.unwrap();
        let file = DmaFile::create(scratch.0.join("new")).await.unwrap();
        let mut buffer = file.alloc_dma_buffer(4096);
        buffer.as_bytes_mut().fill(7);
        file.write_at(buffer, 0).await.unwrap();
        file.close().await.unwrap();
        let file = DmaFile::open(scratch.0.join("new")).await.unwrap();
        assert_eq!(file.read_at(100, 50).await.unwrap()[..], [7; 50]);
        file.close().await.unwrap();
    });
    assert!(names(scratch.0.clone()) == ["new"], "the probe leaves nothing behind");
}

#[test]
fn a_fresh_directory_is_written_and_read_back() {
    let scratch = Scratch::new("fresh");
    test_executor().run(async {
        let files = open(&scratch).await;
        assert_eq!(files.segments_blocking(0).unwrap(), None);
        let missing = files.segments_blocking(40).unwrap_err().to_string();
        assert!(
            missing.contains("is missing, and all others"),
            "checkpoints are there, their journal is not: {missing}"
        );
        taken(files.prepare_segment(1)).unwrap();
        assert_eq!(fs::metadata(scratch.0.join("journal/00000001.seg")).unwrap().len(), 1 << 18);
        let (bytes, result) = write(&files, some_write(1, 4096, 7));
        assert_eq!((bytes.len(), result), (8192, Ok(())));
        let read = files.read(1, 4000, 200).await.unwrap();
        assert_eq!(read[..96], [0; 96]);
        assert_eq!(read[96..], [7; 104]);
        assert_eq!(files.read(1, (1 << 18) - 10, 100).await.unwrap().len(), 10);
        assert_eq!(files.read(1, 1 << 18, 100).await.unwrap().len(), 0);
        assert_eq!(files.read(9, 0, 1).await, Err(DiskFault::Io(libc::ENOENT)));
    });
}

#[test]
fn journal_writes_are_direct_and_synchronous() {
    let scratch = Scratch::new("flags");
    for (durability, synchronous) in [(Durability::Fsync, true), (Durability::Memory, false)] {
        test_executor().run(async {
            let files = JournalFiles::open(&scratch.0, GEOMETRY, durability).await.unwrap();
            taken(files.prepare_segment(1)).unwrap();
            write(&files, some_write(1, 0, 1)).1.unwrap();
            let fd = { files.inner.writer.borrow().as_ref().unwrap().1.as_raw_fd() };
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & libc::O_DSYNC != 0, synchronous);
            assert_ne!(flags & libc::O_DIRECT, 0);
        });
    }
}

#[test]
fn old_segments_are_used_again_and_the_rest_is_removed() {
    let scratch = Scratch::new("recycle");
    let journal = scratch.0.join("journal");
    test_executor().run(async {
        let files = open(&scratch).await;
        for segment in 1..=5 {
            taken(files.prepare_segment(segment)).unwrap();
            write(&files, some_write(segment, 0, segment as u8)).1.unwrap();
        }
        files.trim(4);
        until("segments 1 to 3 are gone", || names(journal.clone()).len() == 4).await;
        assert_eq!(names(journal.clone()), ["00000004.seg", "00000005.seg", "retired-00000001", "retired-00000002"]);
        let found = |replay_first| Some(Segments { oldest: 4, replay_first, last: 5 });
        assert_eq!(files.segments_blocking(0).unwrap(), found(4));
        assert_eq!(files.segments_blocking(5).unwrap(), found(5));
        assert_eq!(files.segments_blocking(6).unwrap(), found(5), "the last says where writing goes on");
        let missing = files.segments_blocking(3).unwrap_err().to_string();
        assert!(missing.ends_with("00000003.seg is missing"), "{missing}");
        assert_eq!(files.read(2, 0, 1).await, Err(DiskFault::Io(libc::ENOENT)));
        taken(files.prepare_segment(6)).unwrap();
        assert_eq!(names(journal.clone()).len(), 4);
        let recycled = files.read(6, 0, 1).await.unwrap()[0];
        assert!(recycled == 1 || recycled == 2, "segment 6 is a file that was used before");
    });
    // A crash may leave any of these; a gap is what an interrupted trim leaves.
    fs::write(journal.join("preparing"), "half").unwrap();
    fs::write(journal.join("retired-00000009"), "of another size").unwrap();
    fs::write(journal.join("00000002.seg"), "").unwrap();
    fs::write(scratch.0.join("slots/0003.ckpt.tmp"), "half").unwrap();
    test_executor().run(async {
        let files = open(&scratch).await;
        assert_eq!(files.segments_blocking(4).unwrap(), Some(Segments { oldest: 4, replay_first: 4, last: 6 }));
        assert!(files.read_checkpoints_blocking().unwrap().is_empty());
        files.trim(5);
        until("what is left over is gone", || names(journal.clone()).len() == 4).await;
        assert_eq!(names(journal.clone())[..2], ["00000005.seg", "00000006.seg"]);
    });
}

#[test]
fn a_segment_that_is_read_is_not_retired_under_the_reader() {
    let scratch = Scratch::new("reading");
    let journal = scratch.0.join("journal");
    test_executor().run(async {
        let files = open(&scratch).await;
        for segment in 1..=2 {
            taken(files.prepare_segment(segment)).unwrap();
            write(&files, some_write(segment, 0, segment as u8)).1.unwrap();
        }
        let mut read = Box::pin(files.read(1, 0, 4));
        assert!(futures_lite::future::poll_once(&mut read).await.is_none(), "the file has to be opened first");
        files.trim(2);
        taken(files.prepare_segment(3)).unwrap();
        assert_eq!(names(journal.clone()), ["00000001.seg", "00000002.seg", "00000003.seg"]);
        assert_eq!(read.await.unwrap()[..], [1; 4]);
        until("segment 1 is retired", || names(journal.clone())[0] == "00000002.seg").await;
        // A read that is given up lets go as well.
        let mut read = Box::pin(files.read(2, 0, 4));
        assert!(futures_lite::future::poll_once(&mut read).await.is_none());
        files.trim(3);
        drop(read);
        until("segment 2 is retired", || names(journal.clone())[0] == "00000003.seg").await;
    });
}

#[test]
fn a_checkpoint_is_removed_after_what_was_asked_before() {
    let scratch = Scratch::new("unhosted");
    test_executor().run(async {
        let files = open(&scratch).await;
        let written = files.write_checkpoint(SlotId(17), vec![1; 10]);
        files.remove_checkpoint(SlotId(17));
        files.remove_checkpoint(SlotId(18));
        taken(written).unwrap();
        taken(files.write_checkpoint(SlotId::METADATA, vec![2; 10])).unwrap();
        assert_eq!(files.read_checkpoints_blocking().unwrap(), [(SlotId::METADATA, vec![2; 10])]);
    });
}

#[test]
fn checkpoints_are_replaced_whole() {
    let scratch = Scratch::new("checkpoint");
    test_executor().run(async {
        let files = open(&scratch).await;
        taken(files.write_checkpoint(SlotId(17), vec![1; 100_000])).unwrap();
        taken(files.write_checkpoint(SlotId(3), vec![3; 10])).unwrap();
        taken(files.write_checkpoint(SlotId(16_000), vec![4; 10])).unwrap();
        taken(files.write_checkpoint(SlotId(17), vec![2; 50_000])).unwrap();
        assert_eq!(names(scratch.0.join("slots")), ["0003.ckpt", "0017.ckpt", "16000.ckpt"]);
        let found = files.read_checkpoints_blocking().unwrap();
        assert_eq!(found.iter().map(|(slot, _)| slot.0).collect::<Vec<_>>(), [3, 17, 16_000]);
        assert_eq!(found[1].1, vec![2; 50_000]);
        // A directory in the way of the temporary file stands for a disk that refuses.
        fs::create_dir(scratch.0.join("slots/0017.ckpt.tmp")).unwrap();
        let refused = taken(files.write_checkpoint(SlotId(17), vec![9; 10]));
        assert_eq!(refused, Err(DiskFault::Io(libc::EISDIR)));
        assert_eq!(files.read_checkpoints_blocking().unwrap()[1].1, vec![2; 50_000]);
        fs::remove_dir(scratch.0.join("slots/0017.ckpt.tmp")).unwrap();
    });
}

#[test]
fn a_failed_write_gives_its_bytes_back_and_can_be_tried_again() {
    let scratch = Scratch::new("retry");
    test_executor().run(async {
        let files = open(&scratch).await;
        let (bytes, result) = write(&files, some_write(1, 0, 5));
        assert_eq!(result, Err(DiskFault::Io(libc::ENOENT)));
        taken(files.prepare_segment(1)).unwrap();
        let again = JournalWrite { flush: 1, segment: 1, offset: 0, bytes };
        write(&files, again).1.unwrap();
        assert_eq!(files.read(1, 0, 8192).await.unwrap()[..], [5; 8192]);
    });
}

#[test]
fn full_disks_are_told_from_broken_ones() {
    let fault = |code| disk_fault(&io::Error::from_raw_os_error(code));
    assert_eq!(fault(libc::ENOSPC), DiskFault::Full);
    assert_eq!(fault(libc::EDQUOT), DiskFault::Full);
    assert_eq!(fault(libc::EIO), DiskFault::Io(libc::EIO));
    assert_eq!(disk_fault(&io::Error::other("glommio")), DiskFault::Io(libc::EIO));
}

#[test]
fn more_segments_than_open_readers_can_be_read() {
    let scratch = Scratch::new("readers");
    test_executor().run(async {
        let files = open(&scratch).await;
        let count = READERS_MAX as u32 + 4;
        for segment in 1..=count {
            taken(files.prepare_segment(segment)).unwrap();
            write(&files, some_write(segment, 0, segment as u8)).1.unwrap();
        }
        for segment in (1..=count).chain(1..=count) {
            assert_eq!(files.read(segment, 1, 1).await.unwrap()[0], segment as u8);
            assert!(files.inner.readers.borrow().len() <= READERS_MAX);
        }
    });
}

/// Carries out what the engine's journal asks for, until it asks for nothing.
async fn settle(journal: &mut Journal, files: &JournalFiles) {
    let mut effects = Effects::default();
    loop {
        journal.flush(Instant(0), &mut effects);
        if effects.list.is_empty() {
            return;
        }
        for effect in effects.list.drain(..) {
            match effect {
                Effect::JournalWrite(wanted) => {
                    let flush = wanted.flush;
                    let (bytes, result) = write(files, wanted);
                    journal.handle_written(Instant(0), flush, bytes, result);
                }
                Effect::JournalSegment { segment } => {
                    let result = taken(files.prepare_segment(segment));
                    journal.handle_segment_ready(Instant(0), segment, result);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn the_journal_over_real_files_survives_restarts() {
    let scratch = Scratch::new("whole");
    let mut expected: Vec<(u64, Vec<u8>, Position)> = Vec::new();
    for run in 0..3u64 {
        test_executor().run(async {
            let files = open(&scratch).await;
            let mut replay = Replay::new(GEOMETRY);
            let mut found = Vec::new();
            let mut bytes = Vec::new();
            if let Some(segments) = files.segments_blocking(0).unwrap() {
                for segment in segments.replay_first..=segments.last {
                    files.read_segment_blocking(segment, &mut bytes).unwrap();
                    let mut sink = |record: Record<'_>, place| {
                        let Record::Entry { index, data, .. } = record else { panic!("only entries were written") };
                        found.push((index, data.to_vec(), place));
                    };
                    replay.segment(segment, &bytes, &mut sink).unwrap();
                }
            }
            assert_eq!(found, expected);
            let mut journal = Journal::resume(GEOMETRY, &Limits::TINY, Durability::Fsync, replay.finish());
            for index in 0..300 {
                let data = vec![(run * 31 + index) as u8; 1 + (index as usize * 37) % 3000];
                let place = journal.append_entry(SlotId(1), run, index, 0, &data);
                expected.push((index, data, place));
                if index % 3 == 0 {
                    settle(&mut journal, &files).await;
                }
            }
            settle(&mut journal, &files).await;
            assert_eq!(journal.durable_flush() + 1, journal.next_flush());
            for (_, data, place) in expected.iter().step_by(7) {
                let read = files.read(place.segment, place.offset, data.len() as u32).await.unwrap();
                assert_eq!(&read[..], &data[..]);
            }
            assert!(journal.segments().1 > run as u32 + 1, "the test is to cross segments");
        });
    }
}
