//! A node's data directory: made at the first start, recognised at every other, held by one process at a time. Says no in
//! one clear line when it is somebody else's, somewhere unwritable, in use, or made differently from what is asked now.
//! Does not open what lies in it; that is each shard's business.
//!
//! ```text
//! DIR/LOCK                          held (flock) as long as the process lives
//! DIR/node.toml                     what was fixed when it was made; written once, whole or not at all
//! DIR/shard-0/journal/00000001.seg  the journal of shard 0
//! DIR/shard-0/slots/0017.ckpt       the checkpoint of slot 17
//! ```

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file_thread::{replace_file, sync_directory};
use crate::engine::shard::JournalGeometry;
use crate::ids::{SLOT_COUNT_MAX, ShardId};

/// The layout that this version reads and writes.
const FORMAT: u32 = 1;

/// Unit of journal writes: the physical sector of disks that have not said otherwise, so that a torn write never touches a
/// neighbour.
const BLOCK_BYTES: u32 = 4096;

const NODE_FILE: &str = "node.toml";
const LOCK_FILE: &str = "LOCK";

/// Why a node cannot start here: one line for the person who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// What a new directory is made with, and what an existing one is compared to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Shards that the configuration names; `None` takes what is there.
    pub shards: Option<u16>,
    /// Shards of a new directory when the configuration names none: one per core.
    pub shards_default: u16,
    /// log2 of the slots.
    pub slot_depth: u8,
    /// Unpredictable bytes for the names that a new directory gives itself.
    pub chance: [u8; 32],
}

/// `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    node: String,
    journal: String,
    shards: u16,
    slot_depth: u8,
    block_bytes: u32,
    created_by: String,
}

/// A directory that is ours for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    node: NodeFile,
    journal: u64,
    created: bool,
    _lock: File,
}

impl DataDirectory {
    /// Takes the directory, and makes it when it is missing or empty.
    ///
    /// # Errors
    /// One line that says what is in the way.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<DataDirectory, StartError> {
        let shown = path.display();
        fs::create_dir_all(path)
            .map_err(|error| StartError(format!("cannot make the data directory {shown}: {error}")))?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        let found = match fs::read_to_string(path.join(NODE_FILE)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(StartError(format!("cannot read {shown}/{NODE_FILE}: {error}")));
            }
        };
        let created = found.is_none();
        let node = match found {
            Some(text) => recognise(path, &text, wanted)?,
            None => create(path, wanted)?,
        };
        let journal = u64::from_str_radix(&node.journal, 16)
            .map_err(|_| StartError(format!("{shown}/{NODE_FILE} is damaged: journal is not 16 hexadecimal digits")))?;
        let directory = DataDirectory { path: path.to_owned(), node, journal, created, _lock: lock };
        directory
            .make_shards()
            .map_err(|error| StartError(format!("cannot write in the data directory {shown}: {error}")))?;
        Ok(directory)
    }

    /// Shards of this node, fixed when the directory was made.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.node.shards
    }

    /// log2 of the slots, fixed when the directory was made.
    #[must_use]
    pub fn slot_depth(&self) -> u8 {
        self.node.slot_depth
    }

    /// This node's name for itself: random, the same for the life of the directory.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.node.node
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A shard's own directory. Exists.
    #[must_use]
    pub fn shard_path(&self, shard: ShardId) -> PathBuf {
        self.path.join(format!("shard-{}", shard.0))
    }

    /// Shape of a shard's journal, with segments of the configured size. Each shard's journal has its own identity.
    #[must_use]
    pub fn geometry(&self, shard: ShardId, segment_bytes: u32) -> JournalGeometry {
        let identity = self.journal.wrapping_add(u64::from(shard.0));
        JournalGeometry { block_bytes: self.node.block_bytes, segment_bytes, identity }
    }

    fn make_shards(&self) -> io::Result<()> {
        for shard in 0..self.node.shards {
            fs::create_dir_all(self.shard_path(ShardId(shard)))?;
        }
        sync_directory(&self.path)
    }
}

/// A directory that has contents but no `node.toml` belongs to somebody else. What a start cut short leaves, and what a
/// file system has of its own, is no contents.
fn refuse_foreign(path: &Path) -> Result<(), StartError> {
    let shown = path.display();
    let unreadable = |error: io::Error| StartError(format!("cannot read the data directory {shown}: {error}"));
    if path.join(NODE_FILE).try_exists().map_err(unreadable)? {
        return Ok(());
    }
    let temporary = format!("{NODE_FILE}.tmp");
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if name != LOCK_FILE && name != "lost+found" && *name != *temporary {
            let name = name.to_string_lossy();
            return Err(StartError(format!(
                "{shown} is not a jindou data directory: it holds {name:?} and no {NODE_FILE}; name an empty directory"
            )));
        }
    }
    Ok(())
}

/// Takes the lock, which the kernel gives back when the process ends in whatever way.
fn lock(path: &Path) -> Result<File, StartError> {
    let shown = path.display();
    let unwritable = |error: io::Error| StartError(format!("cannot write in the data directory {shown}: {error}"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path.join(LOCK_FILE)).map_err(unwritable)?;
    // SAFETY: the descriptor belongs to `file`, which lives through the call.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(StartError(format!("cannot lock the data directory {shown}: {error}")));
        }
        let mut holder = String::new();
        // The number is for people only; the lock is what counts.
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        return Err(StartError(format!("the data directory {shown} is in use by process {holder}")));
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(unwritable)?;
    Ok(file)
}

fn create(path: &Path, wanted: &Wanted) -> Result<NodeFile, StartError> {
    let (node, journal) = wanted.chance.split_at(16);
    let node = NodeFile {
        format: FORMAT,
        node: hexadecimal(node),
        journal: hexadecimal(&journal[..8]),
        shards: wanted.shards.unwrap_or(wanted.shards_default),
        slot_depth: wanted.slot_depth,
        block_bytes: BLOCK_BYTES,
        created_by: format!("jindou {}", env!("CARGO_PKG_VERSION")),
    };
    let shown = path.display();
    let text = toml::to_string(&node).map_err(|error| StartError(format!("cannot form {NODE_FILE}: {error}")))?;
    let text =
        format!("# What this node's data was made with. Written once, by jindou; not a configuration file.\n{text}");
    replace_file(&path.join(NODE_FILE), text.as_bytes())
        .map_err(|error| StartError(format!("cannot write in the data directory {shown}: {error}")))?;
    Ok(node)
}

fn recognise(path: &Path, text: &str, wanted: &Wanted) -> Result<NodeFile, StartError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let shown = path.display();
    let damaged =
        |what: String| StartError(format!("{shown}/{NODE_FILE} is damaged: {}", what.trim().replace('\n', " ")));
    let Format { format } = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
    if format != FORMAT {
        return Err(StartError(format!(
            "the data in {shown} has format {format}, and this jindou knows only format {FORMAT}; use the version that made it"
        )));
    }
    let node: NodeFile = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
    let block_good = node.block_bytes.is_power_of_two() && (512..=4096).contains(&node.block_bytes);
    let slots_good = node.slot_depth <= SLOT_COUNT_MAX.ilog2() as u8;
    if node.shards == 0 || !block_good || !slots_good {
        return Err(damaged("shards, slot_depth or block_bytes cannot be".to_owned()));
    }
    if let Some(shards) = wanted.shards.filter(|shards| *shards != node.shards) {
        return Err(StartError(format!(
            "the data in {shown} was made for {} shards, and node.shards = {shards}; the number is fixed when the directory is \
             made",
            node.shards
        )));
    }
    if node.slot_depth != wanted.slot_depth {
        return Err(StartError(format!(
            "the data in {shown} was made with {} slots, and node.slots = {}; the number is fixed when the directory is made",
            1u32 << node.slot_depth,
            1u32 << wanted.slot_depth
        )));
    }
    Ok(node)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { shards: None, shards_default: 2, slot_depth: 8, chance: [0xab; 32] };

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("jindou-data-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refused(path: &Path, wanted: &Wanted) -> String {
        let line = DataDirectory::open(path, wanted).unwrap_err().to_string();
        assert!(!line.contains('\n'), "one line: {line}");
        line
    }

    #[test]
    fn a_new_directory_is_made_and_recognised_again() {
        let scratch = Scratch::new("new");
        let path = scratch.0.join("deep/data");
        let first = DataDirectory::open(&path, &WANTED).unwrap();
        assert!(first.created());
        assert_eq!((first.shards(), first.slot_depth()), (2, 8));
        assert_eq!(first.identity(), "ab".repeat(16));
        assert!(path.join("shard-1").is_dir());
        let (zero, one) = (first.geometry(ShardId(0), 1 << 20), first.geometry(ShardId(1), 1 << 20));
        assert_eq!((zero.block_bytes, zero.segment_bytes), (4096, 1 << 20));
        assert_ne!(zero.identity, one.identity);
        drop(first);
        let other = Wanted { shards_default: 7, chance: [1; 32], ..WANTED };
        let again = DataDirectory::open(&path, &other).unwrap();
        assert!(!again.created());
        assert_eq!((again.shards(), again.identity()), (2, "ab".repeat(16).as_str()));
        assert_eq!(again.geometry(ShardId(0), 1 << 20), zero);
    }

    #[test]
    fn a_second_process_is_told_who_has_it() {
        let scratch = Scratch::new("lock");
        let first = DataDirectory::open(&scratch.0, &WANTED).unwrap();
        let line = refused(&scratch.0, &WANTED);
        assert!(line.ends_with(&format!("is in use by process {}", std::process::id())), "{line}");
        drop(first);
        DataDirectory::open(&scratch.0, &WANTED).unwrap();
    }

    #[test]
    fn somebody_elses_directory_is_refused_and_left_as_it_was() {
        let scratch = Scratch::new("foreign");
        fs::create_dir_all(&scratch.0).unwrap();
        fs::write(scratch.0.join("thesis.tex"), "").unwrap();
        let line = refused(&scratch.0, &WANTED);
        assert!(line.contains("is not a jindou data directory: it holds \"thesis.tex\""), "{line}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn a_start_that_was_cut_short_is_repeated() {
        let scratch = Scratch::new("short");
        fs::create_dir_all(scratch.0.join("lost+found")).unwrap();
        fs::write(scratch.0.join("LOCK"), "1").unwrap();
        fs::write(scratch.0.join("node.toml.tmp"), "form").unwrap();
        assert!(DataDirectory::open(&scratch.0, &WANTED).unwrap().created());
        assert!(!scratch.0.join("node.toml.tmp").exists());
    }

    #[test]
    fn an_unusable_place_is_one_line() {
        let scratch = Scratch::new("file");
        fs::write(&scratch.0, "").unwrap();
        let line = refused(&scratch.0, &WANTED);
        assert!(line.starts_with("cannot make the data directory"), "{line}");
        fs::remove_file(&scratch.0).unwrap();
        // A directory in the lock's place stands for one that may not be written to; a test run by root may write anywhere.
        fs::create_dir_all(scratch.0.join("LOCK")).unwrap();
        let line = refused(&scratch.0, &WANTED);
        assert!(line.starts_with("cannot write in the data directory"), "{line}");
    }

    #[test]
    fn what_was_fixed_cannot_be_asked_differently() {
        let scratch = Scratch::new("fixed");
        drop(DataDirectory::open(&scratch.0, &WANTED).unwrap());
        let line = refused(&scratch.0, &Wanted { shards: Some(4), ..WANTED });
        assert!(line.contains("was made for 2 shards, and node.shards = 4"), "{line}");
        let line = refused(&scratch.0, &Wanted { slot_depth: 9, ..WANTED });
        assert!(line.contains("was made with 256 slots, and node.slots = 512"), "{line}");
        DataDirectory::open(&scratch.0, &Wanted { shards: Some(2), ..WANTED }).unwrap();
    }

    #[test]
    fn a_node_file_that_cannot_be_is_refused() {
        let scratch = Scratch::new("damaged");
        drop(DataDirectory::open(&scratch.0, &WANTED).unwrap());
        let file = scratch.0.join("node.toml");
        let good = fs::read_to_string(&file).unwrap();
        for (from, to, says) in [
            ("format = 1", "format = 2", "has format 2"),
            ("shards = 2", "shards = 0", "is damaged"),
            ("block_bytes = 4096", "block_bytes = 4095", "is damaged"),
            ("slot_depth = 8", "slot_depth = 15", "is damaged"),
            ("journal = \"ab", "journal = \"xy", "is damaged"),
            ("shards = 2", "shards = \"two\"", "is damaged"),
            ("created_by", "made_by", "is damaged"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            fs::write(&file, bad).unwrap();
            let line = refused(&scratch.0, &WANTED);
            assert!(line.contains(says), "{line}");
        }
        fs::write(&file, &good).unwrap();
        DataDirectory::open(&scratch.0, &WANTED).unwrap();
    }
}
