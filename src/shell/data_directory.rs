//! A node's data directory: made at the first start, recognised at every other, held by one process at a time. Says no in
//! one clear line when it is somebody else's or another node's, somewhere unwritable, in use, incomplete, or made differently
//! from what is asked now.
//! Does not open what lies in it; that is each shard's business.
//!
//! ```text
//! DIR/LOCK                          held (flock) as long as the process lives
//! DIR/node.toml                     what was fixed when it was made; written once, last, whole or not at all
//! DIR/boot                          number of the last process that used it
//! DIR/shard-0/shard.toml            whose part it is: a shard's directory may lie on a disk of its own
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
const FORMAT: u32 = 2;

/// Unit of journal writes: the physical sector of disks that have not said otherwise, so that a torn write never touches a
/// neighbour.
const BLOCK_BYTES: u32 = 4096;

const NODE_FILE: &str = "node.toml";
const BOOT_FILE: &str = "boot";
const SHARD_FILE: &str = "shard.toml";
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
    /// This node's number.
    pub node_id: u16,
    /// Shards that the configuration names; `None` takes what is there.
    pub shards: Option<u16>,
    /// Shards of a new directory when the configuration names none: one per core.
    pub shards_default: u16,
    /// log2 of the slots.
    pub slot_depth: u8,
    /// Unpredictable bytes for the names that a new directory gives itself.
    pub chance: [u8; 32],
    /// The time: what a process is numbered by, unless the clock was set back.
    pub unix_us: u64,
}

/// `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    node_id: u16,
    identity: String,
    journal: String,
    shards: u16,
    slot_depth: u8,
    block_bytes: u32,
    created_by: String,
}

/// `shard.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardFile {
    identity: String,
    shard: u16,
}

/// A directory that is ours for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    node: NodeFile,
    identity: u64,
    journal: u64,
    boot: u64,
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
        let number = |key: &str, digits: &str| {
            u64::from_str_radix(digits, 16)
                .map_err(|_| StartError(format!("{shown}/{NODE_FILE} is damaged: {key} is not 16 hexadecimal digits")))
        };
        let (identity, journal) = (number("identity", &node.identity)?, number("journal", &node.journal)?);
        (0..node.shards).try_for_each(|shard| check_shard(path, &node, shard))?;
        let boot = next_boot(path, wanted.unix_us)?;
        Ok(DataDirectory { path: path.to_owned(), node, identity, journal, boot, created, _lock: lock })
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

    /// Names this directory: random, the same for its whole life. Never 0.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Names this process: larger than at any earlier start with this directory, and, as far as the clock goes, with one that
    /// this node has lost.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
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
        shard_path(&self.path, shard.0)
    }

    /// Shape of a shard's journal, with segments of the configured size. Each shard's journal has its own identity.
    #[must_use]
    pub fn geometry(&self, shard: ShardId, segment_bytes: u32) -> JournalGeometry {
        let identity = self.journal.wrapping_add(u64::from(shard.0));
        JournalGeometry { block_bytes: self.node.block_bytes, segment_bytes, identity }
    }
}

fn shard_path(path: &Path, shard: u16) -> PathBuf {
    path.join(format!("shard-{shard}"))
}

/// A directory that has contents but no `node.toml` belongs to somebody else. What a start cut short leaves, and what a
/// file system has of its own, is no contents.
fn refuse_foreign(path: &Path) -> Result<(), StartError> {
    let shown = path.display();
    let unreadable = |error: io::Error| StartError(format!("cannot read the data directory {shown}: {error}"));
    if path.join(NODE_FILE).try_exists().map_err(unreadable)? {
        return Ok(());
    }
    let temporaries = [format!("{NODE_FILE}.tmp"), format!("{BOOT_FILE}.tmp")];
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let ours = [LOCK_FILE, BOOT_FILE, "lost+found"].iter().any(|own| name == *own)
            || temporaries.iter().any(|own| *name == **own);
        if !ours && !is_empty_shard(&entry.path()).map_err(unreadable)? {
            let name = name.to_string_lossy();
            return Err(StartError(format!(
                "{shown} is not a jindou data directory: it holds {name:?} and no {NODE_FILE}; name an empty directory"
            )));
        }
    }
    Ok(())
}

/// A shard's directory without data in it: a start that was cut short leaves such ones.
fn is_empty_shard(path: &Path) -> io::Result<bool> {
    let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("shard-"));
    if number.is_none_or(|number| number.parse::<u16>().is_err()) || !path.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != SHARD_FILE && *name != *format!("{SHARD_FILE}.tmp") && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses a shard's directory that is not there or not this node's: with a part of its journals a node would forget what it
/// has promised to others.
fn check_shard(path: &Path, node: &NodeFile, shard: u16) -> Result<(), StartError> {
    let (shown, part) = (path.display(), shard_path(path, shard));
    let remedy = format!(
        "put the right one back, or empty {shown} wholly: the node then begins anew and takes its share from the other nodes"
    );
    let refused = |what: String| StartError(format!("{} {what}; {remedy}", part.display()));
    let text = match fs::read_to_string(part.join(SHARD_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused("is missing, or is not a shard's directory".to_owned()));
        }
        Err(error) => return Err(refused(format!("cannot be read ({error})"))),
    };
    let found: ShardFile = toml::from_str(&text).map_err(|_| refused(format!("has a damaged {SHARD_FILE}")))?;
    if found != (ShardFile { identity: node.identity.clone(), shard }) {
        return Err(refused(format!(
            "belongs to another data directory (shard {} of {})",
            found.shard, found.identity
        )));
    }
    Ok(())
}

/// Numbers this process. The number is on disk before it is used.
fn next_boot(path: &Path, unix_us: u64) -> Result<u64, StartError> {
    let file = path.join(BOOT_FILE);
    let last = match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| {
            StartError(format!("{} is damaged: it is not a number; remove it if the clock is right", file.display()))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(StartError(format!("cannot read {}: {error}", file.display()))),
    };
    let boot = unix_us.max(last.saturating_add(1));
    replace_file(&file, format!("{boot}\n").as_bytes())
        .map_err(|error| StartError(format!("cannot write in the data directory {}: {error}", path.display())))?;
    Ok(boot)
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
    let (identity, journal) = (&wanted.chance[..8], &wanted.chance[16..24]);
    let mut identity = identity.to_vec();
    // Zero means nobody.
    identity[7] |= 1;
    let node = NodeFile {
        format: FORMAT,
        node_id: wanted.node_id,
        identity: hexadecimal(&identity),
        journal: hexadecimal(journal),
        shards: wanted.shards.unwrap_or(wanted.shards_default),
        slot_depth: wanted.slot_depth,
        block_bytes: BLOCK_BYTES,
        created_by: format!("jindou {}", env!("CARGO_PKG_VERSION")),
    };
    let shown = path.display();
    let text = toml::to_string(&node).map_err(|error| StartError(format!("cannot form {NODE_FILE}: {error}")))?;
    let text =
        format!("# What this node's data was made with. Written once, by jindou; not a configuration file.\n{text}");
    let write = || {
        for shard in 0..node.shards {
            make_shard(path, &node, shard)?;
        }
        sync_directory(path)?;
        // Last: from now on a shard's directory that is missing is missing.
        replace_file(&path.join(NODE_FILE), text.as_bytes())
    };
    write().map_err(|error| StartError(format!("cannot write in the data directory {shown}: {error}")))?;
    Ok(node)
}

fn make_shard(path: &Path, node: &NodeFile, shard: u16) -> io::Result<()> {
    let part = shard_path(path, shard);
    fs::create_dir_all(&part)?;
    let file = ShardFile { identity: node.identity.clone(), shard };
    let text = toml::to_string(&file).map_err(io::Error::other)?;
    replace_file(&part.join(SHARD_FILE), text.as_bytes())
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
    if node.node_id != wanted.node_id {
        return Err(StartError(format!(
            "the data in {shown} is that of node {}, and node.id = {}; set the right number, or name a directory of its own",
            node.node_id, wanted.node_id
        )));
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

    const WANTED: Wanted =
        Wanted { node_id: 3, shards: None, shards_default: 2, slot_depth: 8, chance: [0xab; 32], unix_us: 1000 };

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
        assert_eq!(first.identity(), 0xabab_abab_abab_abab);
        assert!(path.join("shard-1").is_dir());
        let (zero, one) = (first.geometry(ShardId(0), 1 << 20), first.geometry(ShardId(1), 1 << 20));
        assert_eq!((zero.block_bytes, zero.segment_bytes), (4096, 1 << 20));
        assert_ne!(zero.identity, one.identity);
        drop(first);
        let other = Wanted { shards_default: 7, chance: [1; 32], ..WANTED };
        let again = DataDirectory::open(&path, &other).unwrap();
        assert!(!again.created());
        assert_eq!((again.shards(), again.identity()), (2, 0xabab_abab_abab_abab));
        assert_eq!(again.geometry(ShardId(0), 1 << 20), zero);
    }

    #[test]
    fn each_process_has_a_larger_number_also_when_the_clock_is_set_back() {
        let scratch = Scratch::new("boot");
        let boot = |unix_us| DataDirectory::open(&scratch.0, &Wanted { unix_us, ..WANTED }).map(|found| found.boot());
        for (unix_us, expected) in [(1000, 1000), (2000, 2000), (2000, 2001), (5, 2002), (3000, 3000)] {
            assert_eq!(boot(unix_us), Ok(expected));
        }
        fs::write(scratch.0.join("boot"), "soon").unwrap();
        assert!(boot(4000).unwrap_err().to_string().contains("is damaged: it is not a number"));
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
        fs::create_dir_all(scratch.0.join("shard-0")).unwrap();
        fs::write(scratch.0.join("shard-0/shard.toml"), "identity = \"1\"\nshard = 0\n").unwrap();
        fs::create_dir_all(scratch.0.join("shard-1")).unwrap();
        fs::write(scratch.0.join("shard-1/shard.toml.tmp"), "iden").unwrap();
        assert!(DataDirectory::open(&scratch.0, &WANTED).unwrap().created());
        assert!(!scratch.0.join("node.toml.tmp").exists());
        assert!(!DataDirectory::open(&scratch.0, &WANTED).unwrap().created());
    }

    #[test]
    fn shards_without_their_node_file_are_not_written_over() {
        let scratch = Scratch::new("beheaded");
        drop(DataDirectory::open(&scratch.0, &WANTED).unwrap());
        fs::create_dir_all(scratch.0.join("shard-1/journal")).unwrap();
        fs::remove_file(scratch.0.join("node.toml")).unwrap();
        let line = refused(&scratch.0, &WANTED);
        assert!(line.contains("it holds \"shard-1\" and no node.toml"), "{line}");
    }

    #[test]
    fn a_shard_that_is_missing_or_of_another_directory_is_refused_with_what_to_do() {
        let (scratch, other) = (Scratch::new("parts"), Scratch::new("parts-other"));
        drop(DataDirectory::open(&scratch.0, &WANTED).unwrap());
        drop(DataDirectory::open(&other.0, &Wanted { chance: [7; 32], ..WANTED }).unwrap());
        let (mine, away) = (scratch.0.join("shard-1"), scratch.0.join("away"));
        fs::rename(&mine, &away).unwrap();
        let line = refused(&scratch.0, &WANTED);
        let remedy = format!("put the right one back, or empty {} wholly", scratch.0.display());
        assert!(line.contains("shard-1 is missing") && line.contains(&remedy), "{line}");
        for (stranger, says) in [
            (other.0.join("shard-1"), "belongs to another data directory (shard 1 of 0707070707070707)"),
            (scratch.0.join("shard-0"), "belongs to another data directory (shard 0 of abababababababab)"),
        ] {
            fs::create_dir_all(&mine).unwrap();
            fs::copy(stranger.join("shard.toml"), mine.join("shard.toml")).unwrap();
            let line = refused(&scratch.0, &WANTED);
            assert!(line.contains(says) && line.contains(&remedy), "{line}");
        }
        fs::write(mine.join("shard.toml"), "shard").unwrap();
        assert!(refused(&scratch.0, &WANTED).contains("has a damaged shard.toml"));
        fs::remove_dir_all(&mine).unwrap();
        fs::rename(&away, &mine).unwrap();
        DataDirectory::open(&scratch.0, &WANTED).unwrap();
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
        let line = refused(&scratch.0, &Wanted { node_id: 4, ..WANTED });
        assert!(line.contains("is that of node 3, and node.id = 4; set the right number"), "{line}");
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
            ("format = 2", "format = 1", "has format 1"),
            ("identity = \"ab", "identity = \"xy", "is damaged"),
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
