//! The operator's scripts in `tuning/`, run as an operator runs them, over a made-up machine in a folder: a server with four cores, a
//! card with four queues and an NVMe disk, on which nearly nothing is as it should be. Nothing of the real machine is changed. What a
//! knob does to a real machine is `tuning/measure`'s to say, not this file's.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Files of the machine with one value each.
const FILES: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.1.0-18-amd64"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("proc/sys/kernel/numa_balancing", "1"),
    ("proc/sys/fs/nr_open", "1048576"),
    ("proc/sys/fs/file-max", "9223372036854775807"),
    ("proc/sys/net/core/somaxconn", "128"),
    ("proc/sys/net/core/netdev_max_backlog", "1000"),
    ("proc/sys/net/core/busy_poll", "0"),
    ("proc/sys/net/core/rps_sock_flow_entries", "0"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
    ("proc/sys/net/ipv4/tcp_mem", "1000\t2000\t3000"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1"),
    ("proc/sys/vm/swappiness", "60"),
    ("proc/sys/vm/dirty_background_ratio", "10"),
    ("proc/sys/vm/dirty_ratio", "5"),
    ("proc/self/cgroup", "0::/system.slice/jindou.service"),
    ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000"),
    ("proc/self/status", "Name:\tbash\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-3"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 524288               files\n\
         Max locked memory         8388608              8388608              bytes",
    ),
    (
        "proc/self/mountinfo",
        "22 1 0:5 / / rw - overlay overlay rw\n30 22 259:1 / /srv/data rw,noatime shared:1 - xfs /dev/nvme0n1p1 rw",
    ),
    ("proc/net/route", "Iface\tDestination\tGateway\neth0\t0002000A\t0\neth0\t00000000\t0102000A"),
    ("proc/swaps", "Filename Type Size\n/dev/nvme0n1p2 partition 8388604"),
    (
        "proc/interrupts",
        "     CPU0 CPU1\n 40: 0 0 PCI-MSI eth0-TxRx-0\n 41: 0 0 PCI-MSI eth0-TxRx-1\n 42: 0 0 PCI-MSI eth0-TxRx-2\n \
         43: 0 0 PCI-MSI eth0-TxRx-3\n 44: 0 0 PCI-MSI eth0-config",
    ),
    ("proc/900/comm", "cron"),
    ("sys/devices/pci0000:00/0000:00:03.0/numa_node", "1"),
    ("sys/devices/pci0000:00/0000:00:03.0/net/eth0/mtu", "9000"),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/queue/scheduler", "none [mq-deadline] kyber"),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/queue/write_cache", "write through"),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/nvme0n1p1/partition", "1"),
    ("sys/devices/system/node/online", "0-1"),
    ("sys/devices/system/node/node0/cpulist", "0-3"),
    ("sys/devices/system/node/node1/cpulist", "4-7"),
    ("sys/devices/system/cpu/isolated", ""),
    ("sys/kernel/debug/sched/preempt", "(none) voluntary full lazy"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
];

/// Files that each core, queue or interrupt has, with `N` for its number.
const FILES_OF_EACH: &[(&str, &str)] = &[
    ("sys/devices/system/cpu/cpuN/cpufreq/scaling_governor", "powersave"),
    ("sys/devices/system/cpu/cpuN/cpuidle/state0/latency", "0"),
    ("sys/devices/system/cpu/cpuN/cpuidle/state0/disable", "0"),
    ("sys/devices/system/cpu/cpuN/cpuidle/state2/latency", "133"),
    ("sys/devices/system/cpu/cpuN/cpuidle/state2/disable", "0"),
    ("sys/devices/system/cpu/cpuN/topology/thread_siblings_list", "N"),
    ("sys/devices/pci0000:00/0000:00:03.0/net/eth0/queues/rx-N/rps_cpus", "00000000,0000000f"),
    ("sys/devices/pci0000:00/0000:00:03.0/net/eth0/queues/rx-N/rps_flow_cnt", "0"),
    ("sys/devices/pci0000:00/0000:00:03.0/net/eth0/queues/tx-N/xps_cpus", "00000000,00000000"),
    ("sys/devices/pci0000:00/0000:00:03.0/msi_irqs/4N", "msix"),
    ("proc/irq/4N/smp_affinity_list", "0-7"),
];

struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(test: &str) -> Machine {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tuning-{test}-{}", std::process::id()));
        let machine = Machine { root };
        for (path, value) in FILES {
            machine.write(path, value);
        }
        for number in ["0", "1", "2", "3"] {
            for (path, value) in FILES_OF_EACH {
                machine.write(&path.replace('N', number), &value.replace('N', number));
            }
        }
        machine.write("sys/devices/pci0000:00/0000:00:03.0/msi_irqs/44", "msix");
        machine.write("proc/irq/44/smp_affinity_list", "0-7");
        let link = |to: &str, at: &str| {
            let at = machine.root.join(at);
            fs::create_dir_all(at.parent().expect("it is below the root")).expect("the folder can be written");
            symlink(to, at).expect("the folder can be written");
        };
        link("../../devices/pci0000:00/0000:00:03.0/net/eth0", "sys/class/net/eth0");
        link("../..", "sys/devices/pci0000:00/0000:00:03.0/net/eth0/device");
        link("../../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/nvme0n1p1", "sys/dev/block/259:1");
        machine
    }

    fn write(&self, path: &str, value: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("the folder can be written");
        fs::write(path, format!("{value}\n")).expect("the folder can be written");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|fault| panic!("{path}: {fault}")).trim().to_owned()
    }

    /// Exit code and what was printed; nothing may go to standard error.
    fn run(&self, script: &str, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(Path::new(REPOSITORY).join("tuning").join(script));
        command.args(words).arg("--root").arg(&self.root);
        if script != "undo" {
            command.args(["--data", "/srv/data/jindou", "--sessions", "200000"]);
        }
        let output = command.output().expect("bash is here");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty(), "{script} {words:?} complains: {errors}");
        let said = String::from_utf8(output.stdout).expect("it prints text");
        (output.status.code().expect("it ends by itself"), said)
    }

    fn verdicts(&self) -> BTreeMap<String, (String, String)> {
        let (_, said) = self.run("check", &["--json"]);
        let answer: Value = serde_json::from_str(&said).unwrap_or_else(|fault| panic!("{fault}:\n{said}"));
        let knobs = answer["knobs"].as_array().expect("knobs is a list");
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        knobs.iter().map(|knob| (text(&knob["name"]), (text(&knob["verdict"]), text(&knob["now"])))).collect()
    }

    fn everything(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the folder can be read") {
                let entry = entry.expect("the folder can be read");
                let kind = entry.file_type().expect("a file has a kind");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    found.insert(entry.path(), fs::read_to_string(entry.path()).expect("it is text"));
                }
            }
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.root).ok();
        }
    }
}

#[test]
fn check_sees_what_is_there_and_changes_nothing() {
    let machine = Machine::new("check");
    let before = machine.everything();
    let verdicts = machine.verdicts();
    for (knob, verdict, now) in [
        ("kernel", "ok", "6.1.0-18-amd64"),
        ("io_uring_ring", "unsupported", "-"),
        ("memlock", "ok", "8192 KiB, this shell"),
        ("nofile", "ok", "524288, this shell"),
        ("somaxconn", "change", "128"),
        ("syn_backlog", "ok", "4096"),
        ("port_range", "note", "32768 60999"),
        ("conntrack", "unsupported", "-"),
        ("tcp_mem", "change", "1000 2000 3000"),
        ("nic_queues", "ok", "4 of eth0"),
        ("nic_irq", "change", "0-7"),
        ("rps", "change", "f"),
        ("xps", "note", "0"),
        ("rfs", "ok", "0"),
        ("mtu", "ok", "9000 of eth0"),
        ("rtt", "note", "-"),
        ("governor", "change", "powersave"),
        ("energy", "unsupported", "-"),
        ("c_states", "change", "0"),
        ("halt_poll", "unsupported", "-"),
        ("turbo", "note", "1"),
        ("preempt", "note", "none"),
        ("base_slice", "unsupported", "-"),
        ("smt", "ok", "4 shards, 4 cores"),
        ("cpuset", "ok", "4 cores (0-3)"),
        ("cpu_quota", "cannot", "150 % of a core"),
        ("numa_nic", "cannot", "eth0 on node 1"),
        ("numa_balancing", "change", "1"),
        ("clocksource", "change", "hpet"),
        ("clock_sync", "cannot", "no time daemon runs"),
        ("thp", "change", "always"),
        ("swap", "cannot", "1 areas"),
        ("dirty", "ok", "5"),
        ("disk_scheduler", "change", "mq-deadline"),
        ("file_system", "ok", "xfs"),
        ("disk_latency", "unsupported", "-"),
        ("power_loss", "ok", "nvme0n1: write through"),
    ] {
        assert_eq!(verdicts[knob], (verdict.to_owned(), now.to_owned()), "{knob}");
    }
    let (code, said) = machine.run("check", &[]);
    assert_eq!(code, 3, "a quota is a must that is not met\n{said}");
    for line in said.lines() {
        assert!(line.chars().count() <= 120 || line.starts_with("planned: "), "{line}");
    }
    assert!(said.lines().last().is_some_and(|line| line.starts_with(&format!("{} knobs: ", verdicts.len()))), "{said}");
    assert_eq!(machine.everything(), before, "check only reads");
    machine.write("proc/901/comm", "irqbalance");
    let (code, said) = machine.run("check", &["nic_irq"]);
    assert!(code == 1 && said.contains("tuning/apply nic_irq; irqbalance runs"), "{said}");
    let (code, said) = machine.run("check", &["kernel", "mtu"]);
    assert_eq!((code, said.lines().filter(|line| line.starts_with("  ")).count()), (0, 4), "{said}");
}

#[test]
fn apply_sets_what_should_be_and_undo_brings_everything_back() {
    let machine = Machine::new("round");
    let (before, files) = (machine.verdicts(), machine.everything());
    let (code, said) = machine.run("apply", &["--dry-run"]);
    assert!(code == 0 && said.contains("/proc/sys/net/core/somaxconn: 128 -> 4096 (not done)"), "{said}");
    assert_eq!(machine.everything(), files, "a dry run changes nothing");

    let (code, said) = machine.run("apply", &[]);
    assert!(code == 0 && said.contains("/proc/sys/net/core/somaxconn: 128 -> 4096\n"), "{said}");
    let after = machine.verdicts();
    for (knob, (verdict, _)) in &before {
        let wanted = if verdict == "change" { "ok" } else { verdict };
        assert_eq!(after[knob].0, wanted, "{knob}: what was not to be changed stays\n{said}");
    }
    assert_eq!(machine.read("proc/sys/net/ipv4/tcp_mem"), "1000 2000 400000");
    assert_eq!(machine.read("proc/irq/42/smp_affinity_list"), "2");
    assert_eq!(machine.read("proc/irq/44/smp_affinity_list"), "0-7", "that one is no queue's");
    assert_eq!(machine.read("sys/devices/system/cpu/cpu3/cpuidle/state2/disable"), "1");
    assert_eq!(machine.read("sys/devices/system/cpu/cpu3/cpuidle/state0/disable"), "0", "a shallow state stays");
    assert_eq!(machine.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "00000000,00000000", "it was not named");

    let (code, said) = machine.run("apply", &[]);
    assert!(code == 0 && said == "0 set, 0 refused\n", "twice is as once: {said}");
    let (code, said) = machine.run("apply", &["xps", "kernel"]);
    assert!(code == 0 && said.contains("xps_cpus: 0 -> 2\n") && said.contains("kernel"), "{said}");

    // Applied anew for another plan, it still remembers what was there at first; what others have changed is theirs.
    machine.write("proc/sys/net/core/somaxconn", "1000");
    assert_eq!(machine.run("apply", &["somaxconn"]).0, 0);
    machine.write("proc/sys/vm/swappiness", "33");
    let (code, said) = machine.run("undo", &[]);
    assert!(code == 1 && said.contains("/proc/sys/vm/swappiness: 33, changed by somebody else since"), "{said}");
    assert!(said.contains("/proc/sys/net/core/somaxconn: 4096 -> 128\n"), "{said}");
    let (code, said) = machine.run("undo", &["--force"]);
    assert!(code == 0 && said.contains("swappiness: 33 -> 60") && said.ends_with("1 brought back, 0 left\n"), "{said}");
    assert_eq!(machine.verdicts(), before);
    let (code, said) = machine.run("undo", &[]);
    assert!(code == 0 && said.starts_with("nothing to undo"), "{said}");
}

#[test]
fn what_the_kernel_does_not_take_is_told_and_the_rest_is_set() {
    let machine = Machine::new("refused");
    let path = machine.root.join("proc/sys/vm/swappiness");
    fs::remove_file(&path).expect("it is ours");
    // Nobody can write that one, whoever runs this.
    symlink("/proc/sys/kernel/ostype", &path).expect("the folder can be written");
    let (code, said) = machine.run("apply", &["swappiness", "thp"]);
    assert!(code == 1 && said.contains("swappiness: Linux, and the kernel does not take 1"), "{said}");
    assert!(said.contains("1 set, 1 refused"), "{said}");
    let (code, said) = machine.run("undo", &["thp"]);
    assert!(code == 0 && said.contains("/enabled: madvise -> always\n"), "{said}");
}

#[test]
fn a_machine_that_shows_nothing_is_no_failure() {
    let machine = Machine::new("empty");
    fs::remove_dir_all(&machine.root).expect("it is ours");
    fs::create_dir_all(&machine.root).expect("the folder can be written");
    let verdicts = machine.verdicts();
    let unsupported = verdicts.values().filter(|(verdict, _)| verdict == "unsupported").count();
    assert!(unsupported > 30, "{verdicts:?}");
    assert_eq!(machine.run("apply", &[]).1, "0 set, 0 refused\n");
}

#[test]
fn limits_are_those_of_the_unit_where_there_is_one() {
    let machine = Machine::new("unit");
    let unit = fs::read_to_string(Path::new(REPOSITORY).join("tuning/jindou.service")).expect("there is a unit");
    machine.write("etc/systemd/system/jindou.service", &unit);
    let verdicts = machine.verdicts();
    assert_eq!(verdicts["nofile"], ("ok".to_owned(), "1048576, the unit".to_owned()));
    assert_eq!(verdicts["memlock"], ("ok".to_owned(), "65536 KiB, the unit".to_owned()));
    machine.write("etc/systemd/system/jindou.service", "[Service]\nLimitNOFILE=4096\nLimitMEMLOCK=64K");
    let verdicts = machine.verdicts();
    assert_eq!((verdicts["nofile"].0.as_str(), verdicts["memlock"].0.as_str()), ("cannot", "cannot"));
}

#[test]
fn wrong_words_are_refused_in_one_line() {
    for (script, words, wanted) in [
        ("check", &["somaxcon"][..], "there is no knob somaxcon; known: kernel"),
        ("check", &["--shards", "many"], "--shards many is not a number"),
        ("check", &["--root"], "--root needs a value"),
        ("apply", &["--now"], "unknown option --now"),
        ("apply", &["nothing"], "there is no knob nothing"),
        ("undo", &["--now"], "unknown option --now"),
        ("measure", &["memlock"], "memlock must be as it is"),
        ("measure", &[], "which knob?"),
    ] {
        let output = Command::new(Path::new(REPOSITORY).join("tuning").join(script)).args(words).output();
        let output = output.expect("bash is here");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(wanted), "{script} {words:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// The bounds are the third ratio from either end of twelve, the first of six: those that hold the true median in 95 of 100 cases.
#[test]
fn an_effect_is_claimed_only_when_both_bounds_say_so() {
    for (ratios, wanted) in [
        ("90 80 70 60 95 84", "x0.82, between x0.60 and x0.95: less with it"),
        ("90 80 70 60 101 84", "x0.82, between x0.60 and x1.01: no effect seen"),
        ("90 80 70 60 95", "x0.80, between x0.60 and x0.95: too few pairs to tell"),
        ("101 102 103 105 105 106 107 108 109 110 99 98", "x1.05, between x1.01 and x1.08: more with it"),
        ("101 102 103 103 105 106 107 108 109 97 99 98", "x1.03, between x0.99 and x1.07: no effect seen"),
    ] {
        let pairs: Vec<String> = ratios.split(' ').map(|ratio| format!("100 {ratio}\n")).collect();
        let mut command = Command::new(Path::new(REPOSITORY).join("tuning/measure"));
        let mut child =
            command.arg("--judge").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash is here");
        child.stdin.take().expect("it was piped").write_all(pairs.concat().as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends by itself");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted);
    }
}

#[test]
fn the_readmes_table_is_the_tables() {
    let output =
        Command::new(Path::new(REPOSITORY).join("tuning/check")).arg("--table").output().expect("bash is here");
    let table = String::from_utf8(output.stdout).expect("it prints text");
    assert!(table.matches("\n| `").count() > 40, "{table}");
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("tuning/README.md")).expect("there is one");
    assert!(readme.contains(table.trim()), "paste the output of `tuning/check --table`:\n{table}");
}

/// Files below 800 lines and functions below 70, as in the rest of the repository.
#[test]
fn the_scripts_stay_small() {
    for script in ["check", "apply", "undo", "measure", "table.bash", "probes.bash"] {
        let text = fs::read_to_string(Path::new(REPOSITORY).join("tuning").join(script)).expect("there is one");
        assert!(text.lines().count() < 800, "{script}");
        let mut began = None;
        for (number, line) in text.lines().enumerate() {
            if line.ends_with("() {") && !line.starts_with(' ') {
                began = Some(number);
            } else if line == "}"
                && let Some(began) = began.take()
            {
                assert!(number - began < 70, "{script}:{}", began + 1);
            }
        }
    }
}
