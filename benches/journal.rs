//! The journal: records put together and sealed in memory, then the same with a real file whose every write is a sync, as a
//! shard does it. The file lies in the build directory, so the figure is that of its disk.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use criterion::{Criterion, Throughput};
use jindou::engine::effect::{Effect, Effects, JournalWrite};
use jindou::engine::journal::{Journal, Position, ResumePoint};
use jindou::engine::shard::{Durability, JournalGeometry};
use jindou::ids::SlotId;
use jindou::limits::Limits;
use jindou::time::Instant;

const SEGMENT_BYTES: u32 = 4 << 20;

/// Bytes of one raft entry that holds one 128-byte message.
const ENTRY: [u8; 256] = [7; 256];

/// The engine's journal, and what carries out its wishes.
struct Bench {
    journal: Journal,
    effects: Effects,
    file: Option<File>,
    index: u64,
}

impl Bench {
    fn new(file: Option<File>) -> Bench {
        let geometry = JournalGeometry { identity: 1, block_bytes: 4096, segment_bytes: SEGMENT_BYTES };
        let from = ResumePoint {
            position: Position { segment: 1, offset: 0 },
            flush: 1,
            link: 0,
            first_segment: 1,
            ready_segment: 1,
        };
        let journal = Journal::resume(geometry, &Limits::PRODUCTION, Durability::Fsync, from);
        Bench { journal, effects: Effects::default(), file, index: 0 }
    }

    /// Appends entries of so many messages and brings them to disk.
    fn commit(&mut self, entries: usize) {
        for _ in 0..entries {
            self.index += 1;
            self.journal.append_entry(SlotId(3), 1, self.index, 1, &ENTRY);
        }
        let last = self.journal.next_flush();
        while self.journal.durable_flush() < last {
            self.journal.flush(Instant(0), &mut self.effects);
            for effect in std::mem::take(&mut self.effects.list) {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::JournalWrite(JournalWrite { flush, offset, bytes, .. }) => {
                if let Some(file) = &self.file {
                    file.write_all_at(&bytes, u64::from(offset)).expect("the file is as large as a segment");
                }
                self.journal.handle_written(Instant(0), flush, bytes, Ok(()));
            }
            Effect::JournalSegment { segment } => self.journal.handle_segment_ready(Instant(0), segment, Ok(())),
            other => panic!("a journal asks for nothing else: {other:?}"),
        }
    }
}

/// One segment, written with zeroes once; every later write is on disk when it returns.
fn segment_file() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-journal-segment");
    std::fs::write(&path, vec![0u8; SEGMENT_BYTES as usize]).expect("the build directory can be written");
    File::open(&path).and_then(|file| file.sync_all()).expect("it was just written");
    File::options().write(true).custom_flags(libc::O_DSYNC).open(&path).expect("it was just written")
}

/// Append alone, then append and sync.
pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for entries in [1usize, 10, 100] {
        group.throughput(Throughput::Elements(entries as u64));
        let mut bench = Bench::new(None);
        group.bench_function(format!("append {entries}, no disk"), |bencher| bencher.iter(|| bench.commit(entries)));
    }
    for entries in [1usize, 10, 100] {
        group.throughput(Throughput::Elements(entries as u64));
        let mut bench = Bench::new(Some(segment_file()));
        group.bench_function(format!("append {entries} and sync"), |bencher| bencher.iter(|| bench.commit(entries)));
    }
    group.finish();
}
