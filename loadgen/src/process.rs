//! What the kernel says about a process: CPU time and memory, from /proc. Nothing is sampled in between: a figure is the
//! difference of two readings.

use std::fs;

/// The kernel reports CPU time in hundredths of a second (USER_HZ) on every architecture that jindou runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of user and of system time that a process has used, all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// In the program.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

impl Cpu {
    /// Of `/proc/NAME`, where the name is a process id or `self`.
    pub fn of(name: &str) -> Option<Cpu> {
        let text = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold spaces.
        let rest = &text[text.rfind(')')? + 2..];
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
        Some(Cpu { user: ticks(11)? / TICKS_PER_SECOND, system: ticks(12)? / TICKS_PER_SECOND })
    }

    /// Of several processes together; `None` when one is not there or none is named.
    pub fn of_all(pids: &[u32]) -> Option<Cpu> {
        let each = pids.iter().map(|pid| Cpu::of(&pid.to_string())).collect::<Option<Vec<Cpu>>>()?;
        each.into_iter().reduce(|one, other| Cpu { user: one.user + other.user, system: one.system + other.system })
    }

    /// What was used since.
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }

    /// Both together.
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident, everything.
    pub resident: u64,
    /// Resident, without files and shared memory: what the program itself has asked for.
    pub anonymous: u64,
}

impl Memory {
    /// Of `/proc/NAME`.
    pub fn of(name: &str) -> Option<Memory> {
        let text = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
        let kib = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Some(Memory { resident: kib("VmRSS:")? * 1024, anonymous: kib("RssAnon:")? * 1024 })
    }
}

impl Memory {
    /// Of several processes together; `None` when one is not there or none is named.
    pub fn of_all(pids: &[u32]) -> Option<Memory> {
        let each = pids.iter().map(|pid| Memory::of(&pid.to_string())).collect::<Option<Vec<Memory>>>()?;
        each.into_iter().reduce(|one, other| Memory {
            resident: one.resident + other.resident,
            anonymous: one.anonymous + other.anonymous,
        })
    }
}

/// Time of the calling thread, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThreadTime {
    /// Seconds on a core.
    pub running: f64,
    /// Seconds in which it could have run, but no core was free.
    pub starved: f64,
}

impl ThreadTime {
    /// Until now; `None` where the kernel does not tell.
    pub fn now() -> Option<ThreadTime> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse::<f64>().ok().map(|ns| ns / 1e9));
        Some(ThreadTime { running: fields.next()??, starved: fields.next()?? })
    }

    /// What was used since.
    pub fn since(self, earlier: ThreadTime) -> ThreadTime {
        ThreadTime { running: self.running - earlier.running, starved: self.starved - earlier.starved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let began = Cpu::of("self").expect("/proc is there");
        let mut sum = 0u64;
        while Cpu::of("self").expect("/proc is there").since(began).total() < 0.02 {
            for number in 0..100_000u64 {
                sum = std::hint::black_box(sum.wrapping_add(number));
            }
        }
        assert!(ThreadTime::now().expect("/proc is there").running > 0.0);
        let memory = Memory::of("self").expect("/proc is there");
        assert!(memory.anonymous > 0 && memory.anonymous <= memory.resident);
        assert!(Cpu::of("no such process").is_none());
        let own = std::process::id();
        assert!(Cpu::of_all(&[own, own]).expect("/proc is there").total() >= 2.0 * began.total());
        assert!(Cpu::of_all(&[]).is_none() && Memory::of_all(&[]).is_none());
    }
}
