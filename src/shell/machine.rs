//! What the machine under the node allows: kernel, locked memory, open files, cores. Asked once at the start, so that what
//! is missing is one clear line with its remedy and not an error deep inside.
//!
//! It changes one thing only: this process's own soft limits, up to what is allowed anyway.

use std::io;

use super::data_directory::StartError;

/// Oldest kernel that has what the socket ring needs (multishot receive, rings of provided buffers, deferred task work).
const KERNEL_MIN: (u32, u32) = (6, 1);

/// The runtime does not start with less, whoever runs it.
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// What one shard pins: its executor registers [`IO_MEMORY_BYTES`] with each of three rings, and the rings take about
/// 50 KiB themselves.
const MEMLOCK_PER_SHARD_BYTES: u64 = 3 * IO_MEMORY_BYTES as u64 + (64 << 10);

/// Memory of an executor for its own disk buffers: the least it takes, as the journal has its own buffers.
pub const IO_MEMORY_BYTES: usize = 64 << 10;

/// The capability that lifts the bound on locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// Open files that are enough for any node this process may be told to be.
const OPEN_FILES_WISHED: u64 = 1 << 20;

/// Refuses a kernel that is too old.
///
/// # Errors
/// One line.
pub fn check_kernel() -> Result<(), StartError> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| StartError(format!("cannot read the kernel's version: {error}")))?;
    kernel_is_new_enough(release.trim())
}

fn kernel_is_new_enough(release: &str) -> Result<(), StartError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(StartError(format!("cannot read the kernel's version {release:?}")));
    };
    if (major, minor) < KERNEL_MIN {
        return Err(StartError(format!(
            "Linux {release} is too old: {}.{} or newer is needed",
            KERNEL_MIN.0, KERNEL_MIN.1
        )));
    }
    Ok(())
}

/// Raises the bound on locked memory as far as allowed and refuses to go on with too little for so many shards.
///
/// # Errors
/// One line with the remedy.
pub fn check_locked_memory(shards: u16) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError(format!("cannot read the limit of locked memory: {error}"));
    let needed_bytes = locked_memory_needed(shards);
    let allowed_bytes = raise_limit(libc::RLIMIT_MEMLOCK, needed_bytes).map_err(failed)?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    locked_memory_is_enough(shards, allowed_bytes, has_capability(&status, CAP_IPC_LOCK))
}

fn locked_memory_needed(shards: u16) -> u64 {
    (u64::from(shards) * MEMLOCK_PER_SHARD_BYTES).max(MEMLOCK_MIN_BYTES)
}

fn locked_memory_is_enough(shards: u16, allowed_bytes: u64, unbounded: bool) -> Result<(), StartError> {
    let needed_bytes = if unbounded { MEMLOCK_MIN_BYTES } else { locked_memory_needed(shards) };
    if allowed_bytes >= needed_bytes {
        return Ok(());
    }
    Err(StartError(format!(
        "{} KiB of locked memory are allowed and {shards} shards need {needed} KiB: `ulimit -l {needed}` in the shell, \
         LimitMEMLOCK={needed}K in a systemd unit, --ulimit memlock={needed_bytes} for docker, or fewer shards",
        allowed_bytes >> 10,
        needed = needed_bytes >> 10
    )))
}

/// Whether `/proc/self/status` shows an effective capability.
fn has_capability(status: &str, number: u32) -> bool {
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

/// Raises the bound on open files as far as allowed: each connection is one. Gives the bound.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<u64> {
    raise_limit(libc::RLIMIT_NOFILE, OPEN_FILES_WISHED)
}

/// Raises a soft limit to at least `wished`, or to the hard limit if that is less. Gives what is allowed after.
fn raise_limit(resource: libc::__rlimit_resource_t, wished: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type that lives through the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wished || limit.rlim_cur >= limit.rlim_max {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit { rlim_cur: wished.min(limit.rlim_max), rlim_max: limit.rlim_max };
    // SAFETY: the pointer is to a value of the right type that lives through the call.
    if unsafe { libc::setrlimit(resource, &raw const raised) } != 0 {
        // Not allowed after all: what was allowed before still is.
        return Ok(limit.rlim_cur);
    }
    Ok(raised.rlim_cur)
}

/// The processors that this process may use, by the kernel's numbers; empty when it does not say.
#[must_use]
pub fn processors() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_named() {
        for release in ["6.1.0-18-amd64", "6.18.44", "7.0.0-rc1", "10.2"] {
            assert_eq!(kernel_is_new_enough(release), Ok(()), "{release}");
        }
        let line = kernel_is_new_enough("5.15.0-91-generic").unwrap_err().to_string();
        assert_eq!(line, "Linux 5.15.0-91-generic is too old: 6.1 or newer is needed");
        assert!(kernel_is_new_enough("linux").is_err());
        assert_eq!(check_kernel(), Ok(()), "the tests run where a node can");
    }

    #[test]
    fn too_little_locked_memory_is_one_line_with_the_remedy() {
        assert_eq!(locked_memory_is_enough(2, 8 << 20, false), Ok(()));
        assert_eq!(locked_memory_is_enough(64, 512 << 10, true), Ok(()));
        let line = locked_memory_is_enough(64, 8 << 20, false).unwrap_err().to_string();
        assert!(
            line.starts_with("8192 KiB of locked memory are allowed and 64 shards need 16384 KiB: `ulimit -l 16384`")
        );
        assert!(locked_memory_is_enough(1, 400 << 10, true).is_err());
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000004000\n", CAP_IPC_LOCK));
        assert!(!has_capability("CapEff:\t0000000000002000\n", CAP_IPC_LOCK));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    #[test]
    fn limits_only_rise() {
        let before = raise_limit(libc::RLIMIT_NOFILE, 0).unwrap();
        let after = raise_open_files().unwrap();
        assert!(after >= before);
        assert_eq!(raise_limit(libc::RLIMIT_NOFILE, 0).unwrap(), after);
    }
}
