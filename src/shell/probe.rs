//! What this machine gives a node, tried out and not looked up: a socket ring as a shard makes it, and the writes of a journal in
//! the data directory. For `jindou probe`, which operators and `tuning/check` call.
//!
//! It judges nothing, changes nothing, is bounded in time, and removes the one file that it writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::mesh::Doorbell;
use super::socket_ring::{RingConfig, SocketRing};

/// Size of the file that is written over, again and again: small enough for any disk.
const FILE_BYTES: usize = 16 << 20;

/// One write; also what direct writes are aligned to.
const WRITE_BYTES: usize = 4 << 10;

/// Writes the answers, one line each: a name, then what was found.
///
/// # Errors
/// Those of `out`; what the machine refuses is an answer.
pub fn run(directory: &Path, span: Duration, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "io_uring {}", ring())?;
    let half = span / 2;
    // As the journal writes: each write is synchronous by itself.
    writeln!(out, "direct_dsync {}", disk(directory, libc::O_DIRECT | libc::O_DSYNC, half))?;
    // As others write: a write to the page cache and a sync of its own.
    writeln!(out, "fdatasync {}", disk(directory, 0, half))
}

fn ring() -> String {
    let made = Doorbell::new()
        .map_err(|error| error.to_string())
        .and_then(|bell| SocketRing::new(RingConfig::PRODUCTION, bell.raw()).map(drop));
    match made {
        Ok(()) => "ok".to_owned(),
        Err(line) => format!("refused: {line}"),
    }
}

fn disk(directory: &Path, flags: i32, span: Duration) -> String {
    match write_for(directory, flags, span) {
        Ok(times) => format!(
            "ok writes={} p50_us={} p99_us={} max_us={}",
            times.len(),
            times.value_at_quantile(0.5),
            times.value_at_quantile(0.99),
            times.max()
        ),
        Err(error) => format!("refused: {error}"),
    }
}

/// A file that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The directory may have gone meanwhile, and nobody is left to be told.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn write_for(directory: &Path, flags: i32, span: Duration) -> io::Result<Histogram<u64>> {
    let scratch = Scratch(directory.join(format!("jindou-probe-{}.tmp", std::process::id())));
    let memory = vec![0u8; FILE_BYTES + WRITE_BYTES];
    let start = memory.as_ptr().align_offset(WRITE_BYTES);
    let zeroes = &memory[start..start + FILE_BYTES];
    // Written once before: what is measured is the write, not the file system finding room.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(&scratch.0)?;
    file.write_all(zeroes)?;
    file.sync_all()?;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(&scratch.0)?;
    time_writes(&file, &zeroes[..WRITE_BYTES], flags & libc::O_DSYNC == 0, span)
}

fn time_writes(file: &File, block: &[u8], sync: bool, span: Duration) -> io::Result<Histogram<u64>> {
    // A minute in microseconds; what takes longer counts as that.
    let mut times = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other)?;
    let began = Instant::now();
    let mut offset = 0;
    while began.elapsed() < span {
        let before = Instant::now();
        file.write_all_at(block, offset as u64)?;
        if sync {
            file.sync_data()?;
        }
        times.saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        offset = (offset + WRITE_BYTES) % FILE_BYTES;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_answers_and_no_file_left() {
        let directory = std::env::temp_dir().join(format!("jindou-probe-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut out = Vec::new();
        run(&directory, Duration::from_millis(60), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["io_uring", "direct_dsync", "fdatasync"], "{text}");
        assert!(text.lines().nth(2).unwrap().starts_with("fdatasync ok writes="), "{text}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_an_answer() {
        let mut out = Vec::new();
        run(Path::new("/nonexistent/data"), Duration::from_millis(10), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("fdatasync refused: No such file or directory"));
    }
}
