//! The table of faults: each is given to a running cluster at least twenty times, and what users saw of it is put into a row.
//! Not part of the usual run, because it measures: the machine must be idle. One command, bounded by [`GIVES_UP_AFTER`] per
//! fault; a row is kept in the target's temporary folder, so that faults may be measured one at a time:
//!
//! ```text
//! JINDOU_FAULTS=killed,hung cargo test --release --test end_to_end -- --ignored --nocapture fault_table
//! ```
//! `JINDOU_FAULTS_TIMES` is another number of repetitions. Without `JINDOU_FAULTS` every fault is measured, one after the other, each
//! in two to five minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::alone;
use super::ensemble::Ensemble;
use super::separate::Separate;
use super::talkers::{Counts, Talk};

/// Repetitions of a fault.
const TIMES: usize = 20;

/// A fault that is not repeated so often by then is reported with what there is.
const GIVES_UP_AFTER: Duration = Duration::from_secs(300);

const USERS: usize = 12;
const PACE: Duration = Duration::from_millis(10);

/// Nothing is late for so long before the next fault.
const CALM: Duration = Duration::from_millis(700);
const CALM_WITHIN: Duration = Duration::from_secs(20);

/// How long a node hangs or is cut off.
const LASTS: Duration = Duration::from_secs(3);

/// What can be done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL, and a new start when users are served again.
    Killed,
    /// SIGSTOP, later SIGCONT.
    Hung,
    /// SIGTERM, and a new start at once: one step of a rolling restart.
    Restarted,
    /// SIGKILL, and a new start with an empty directory.
    Wiped,
    /// A fourth node joins.
    Joined,
    /// The fourth node is drained.
    Drained,
    /// Every slot is split in two.
    Split,
    /// Every slot is merged with its sibling.
    Merged,
    /// Every slot is led by another node.
    Transferred,
    /// The node's packets reach no other node; theirs reach it.
    CutOneWay,
    /// No packet passes between the node and the others.
    CutBothWays,
}

const ALL: [(Fault, &str, &str); 11] = [
    (Fault::Killed, "killed", "node killed (SIGKILL), restarted"),
    (Fault::Hung, "hung", "node hung for 3 s (SIGSTOP)"),
    (Fault::Restarted, "restarted", "node restarted in order (SIGTERM), as in a rolling restart"),
    (Fault::Wiped, "wiped", "node killed, its disk lost, rebuilt from the others"),
    (Fault::Joined, "joined", "fourth node joins and takes its share"),
    (Fault::Drained, "drained", "node drained"),
    (Fault::Split, "split", "every slot split in two"),
    (Fault::Merged, "merged", "every slot merged with its sibling"),
    (Fault::Transferred, "transferred", "every slot transferred to another leader"),
    (Fault::CutOneWay, "cut_one_way", "node cut off from the others one way for 3 s"),
    (Fault::CutBothWays, "cut_both_ways", "node cut off from the others both ways for 3 s"),
];

impl Fault {
    /// What must be before.
    fn prepare(self, cluster: &mut Ensemble, talk: &Talk) {
        if self == Fault::Drained {
            let id = cluster.join();
            talk.add(cluster.node(id).tcp());
            cluster.wait_whole();
        }
        if self == Fault::Merged {
            cluster.split_all();
        }
    }

    /// Makes the cluster what it was.
    fn undo(self, cluster: &mut Ensemble, talk: &Talk) {
        if self == Fault::Joined {
            cluster.drain(cluster.addresses().len());
        }
        if matches!(self, Fault::Joined | Fault::Drained) {
            cluster.forget_last();
            talk.forget_last();
        }
        if self == Fault::Split {
            cluster.merge_all();
        }
    }

    /// The struck node keeps its users' connections and serves them badly or not at all: how long these take is up to their patience, so they have
    /// a row of their own.
    fn keeps_users(self) -> bool {
        matches!(self, Fault::Hung | Fault::CutOneWay | Fault::CutBothWays)
    }

    fn needs_network(self) -> bool {
        matches!(self, Fault::CutOneWay | Fault::CutBothWays)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault-table")
}

/// Gives the fault to node `id`, waits until its cause is gone and the cluster is whole.
fn strike(fault: Fault, cluster: &mut Ensemble, talk: &Talk, id: usize, network: Option<&Separate>) {
    let served_again = |talk: &Talk| talk.calm_for(Duration::from_millis(200), CALM_WITHIN);
    match fault {
        Fault::Killed => {
            cluster.node_mut(id).kill();
            served_again(talk);
            cluster.restart(id);
        }
        Fault::Hung => {
            cluster.node(id).signal("STOP");
            std::thread::sleep(LASTS);
            cluster.node(id).signal("CONT");
        }
        Fault::Restarted => {
            cluster.stop(id);
            cluster.restart(id);
        }
        Fault::Wiped => {
            cluster.node_mut(id).kill();
            cluster.wipe(id);
            served_again(talk);
            cluster.restart(id);
        }
        Fault::Joined => {
            let id = cluster.join();
            talk.add(cluster.node(id).tcp());
        }
        Fault::Drained => return cluster.drain(cluster.addresses().len()),
        Fault::Split => cluster.split_all(),
        Fault::Merged => cluster.merge_all(),
        Fault::Transferred => cluster.transfer_all(),
        Fault::CutOneWay | Fault::CutBothWays => {
            let network = network.expect("looked for before");
            network.cut(id, fault == Fault::CutBothWays);
            std::thread::sleep(LASTS);
            network.heal(id);
        }
    }
    cluster.wait_whole();
}

#[derive(Default)]
struct Measured {
    times: usize,
    /// Of those who saw one: of all, or of those at other nodes than the struck one.
    outages: Vec<Duration>,
    users: usize,
    /// Of those at the struck node, where it keeps them.
    outages_there: Vec<Duration>,
    users_there: usize,
    counts: Counts,
}

/// The same fault again and again; the nodes in turn.
fn measure(fault: Fault, times: usize, network: Option<&Separate>) -> Measured {
    let deadline = Instant::now() + GIVES_UP_AFTER;
    let mut all = Measured::default();
    while all.times < times && Instant::now() < deadline {
        let one = measure_one(fault, times - all.times, network, deadline);
        all.times += one.times;
        all.users += one.users;
        all.users_there += one.users_there;
        all.outages.extend(one.outages);
        all.outages_there.extend(one.outages_there);
        all.counts.add(&one.counts);
    }
    all.outages.sort_unstable();
    all.outages_there.sort_unstable();
    all
}

/// One cluster.
fn measure_one(fault: Fault, times: usize, network: Option<&Separate>, deadline: Instant) -> Measured {
    let mut cluster = match network {
        Some(network) => Ensemble::form_in(network, 3),
        None => Ensemble::form("table", 3),
    };
    let talk = Talk::begin("table", cluster.addresses(), USERS, PACE);
    let mut moments = Vec::new();
    while moments.len() < times && Instant::now() < deadline {
        fault.prepare(&mut cluster, &talk);
        talk.spread();
        if !talk.calm_for(CALM, CALM_WITHIN) {
            println!("no calm before repetition {}: is the machine idle?", moments.len() + 1);
        }
        // Any moment between two beats of the cluster.
        std::thread::sleep(Duration::from_millis(talk.acknowledged() * 37 % 500));
        let id = moments.len() % 3 + 1;
        let from = talk.now();
        strike(fault, &mut cluster, &talk, id, network);
        talk.calm_for(Duration::from_millis(200), CALM_WITHIN);
        moments.push((from, talk.now()));
        fault.undo(&mut cluster, &talk);
    }
    let verdict = talk.end();
    if !verdict.sentences.is_empty() {
        println!("{}\n{}", verdict.sentences.join("\n"), cluster.logs());
    }
    let mut measured = Measured { times: moments.len(), counts: verdict.counts, ..Measured::default() };
    for (turn, (from, until)) in moments.into_iter().enumerate() {
        let is_there = |user: usize| fault.keeps_users() && user % 3 == turn % 3;
        measured.outages.extend(verdict.outages(from, until, |user| !is_there(user)));
        measured.outages_there.extend(verdict.outages(from, until, is_there));
        let there = (0..verdict.users()).filter(|user| is_there(*user)).count();
        measured.users_there += there;
        measured.users += verdict.users() - there;
    }
    measured
}

/// Of those who saw an outage, sorted.
fn at(outages: &[Duration], share: f64) -> String {
    let rank = (outages.len() as f64 * share).ceil() as usize;
    let found = outages.get(rank.max(1) - 1);
    found.map_or("none".to_owned(), |outage| format!("{} ms", outage.as_millis()))
}

impl Measured {
    fn row(&self, what: &str) -> String {
        if self.users_there == 0 {
            return self.row_of(what, &self.outages, self.users);
        }
        let there = format!("{what}: users at that node, who wait 1 s and go elsewhere");
        let others = format!("{what}: users at the other nodes");
        let there = self.row_of(&there, &self.outages_there, self.users_there);
        format!("{there}\n{}", self.row_of(&others, &self.outages, self.users))
    }

    fn row_of(&self, what: &str, outages: &[Duration], users: usize) -> String {
        let at = |share| at(outages, share);
        let Counts { lost, doubled, reordered, damaged, holes, unknown, refusals, acknowledged, .. } = self.counts;
        format!(
            "| {what} | {} | {} of {} | {} | {} | {} | {lost} | {doubled} | {reordered} | {} | {unknown} | {refusals} | {acknowledged} |",
            self.times,
            outages.len(),
            users,
            at(0.5),
            at(0.99),
            at(1.0),
            damaged + holes,
        )
    }
}

const HEADING: &str = "| fault | times | users who saw it | outage p50 | p99 | max | lost | doubled | reordered | damaged | unknown | refused, said again | acknowledged |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

#[test]
#[ignore = "measures: minutes on an idle machine"]
fn fault_table() {
    let _alone = alone();
    let wanted = std::env::var("JINDOU_FAULTS").unwrap_or_default();
    let times = std::env::var("JINDOU_FAULTS_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(TIMES);
    let named: Vec<&str> = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    for name in &named {
        assert!(
            ALL.iter().any(|(_, known, _)| known == name),
            "no fault {name:?}; there are {:?}",
            ALL.map(|fault| fault.1)
        );
    }
    fs::create_dir_all(folder()).expect("the target's temporary folder can be written");
    let mut bad = Vec::new();
    for (fault, name, what) in ALL {
        if !named.is_empty() && !named.contains(&name) {
            continue;
        }
        let network = match fault.needs_network().then(|| Separate::make(3)) {
            None => None,
            Some(Ok(network)) => Some(network),
            Some(Err(why)) => {
                println!("{name}: skipped: {why}");
                continue;
            }
        };
        let began = Instant::now();
        let measured = measure(fault, times, network.as_ref());
        let row = measured.row(what);
        println!("{row}\n({name}: {:.0} s; {:?})", began.elapsed().as_secs_f64(), measured.counts);
        for outages in [&measured.outages_there, &measured.outages] {
            println!("{:?}", outages.iter().map(Duration::as_millis).collect::<Vec<u128>>());
        }
        fs::write(folder().join(name), row).expect("the target's temporary folder can be written");
        if !measured.counts.is_good() {
            bad.push((name, measured.counts));
        }
    }
    println!("\n{HEADING}");
    for (_, name, _) in ALL {
        if let Ok(row) = fs::read_to_string(folder().join(name)) {
            println!("{row}");
        }
    }
    assert!(bad.is_empty(), "promises were broken: {bad:?}");
}

#[test]
fn a_node_cut_off_by_the_network_comes_back() {
    let _alone = alone();
    let network = match Separate::make(3) {
        Ok(network) => network,
        Err(why) => {
            super::tell(&format!("a_node_cut_off_by_the_network_comes_back: skipped: {why}"));
            return;
        }
    };
    let mut cluster = Ensemble::form_in(&network, 3);
    let talk = Talk::begin("cut", cluster.addresses(), super::USERS, super::PACE);
    talk.wait_answers(super::ANSWERED_WITHIN);
    for (id, both) in [(1, false), (2, true)] {
        network.cut(id, both);
        talk.wait_answers(super::ANSWERED_WITHIN);
        std::thread::sleep(Duration::from_secs(1));
        network.heal(id);
        cluster.wait_whole();
    }
    let verdict = talk.end();
    super::tell_counts("cut one way and both ways", &verdict);
    verdict.must_be_good(|| cluster.logs());
}
