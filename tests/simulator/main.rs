//! The simulator: the main test of jindou. Real shards, real codecs and the real journal over fake disks, sockets and clocks, a
//! whole node in one thread under virtual time. See `world` for how it is put together, `faults` for what a seed
//! draws, `checkers` for what is promised, `sabotage` for how each checker is itself checked.
//!
//! ```text
//! cargo test --release --test simulator                        scenarios, canaries, and the usual seeds
//! cargo test --release --test simulator -- --seed N            one seed, as a failure says
//! cargo test --release --test simulator -- --seeds A..B        many
//! cargo test --release --test simulator -- --count N --from S  many
//! cargo test --release --test simulator -- --sabotage NAME [--seed N]
//! cargo test --release --test simulator -- --scenario NAME
//! cargo test --release --test simulator -- --list
//! with any: --nodes N (so many, instead of what is drawn), --verbose (the whole history), --keep-going (all seeds, not to the first failure), --coverage (what happened),
//!           --test-threads N (instead of one per core)
//! ```
//! Exit codes: 127 a panic, 128 no rest, 129 a broken promise, 0 none of them.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

mod backend;
mod chance;
mod checkers;
mod client;
mod cluster;
mod cluster_scenarios;
mod coverage;
mod crew;
mod disk;
mod faults;
mod gateway;
mod ledger;
mod link_tests;
mod links;
mod merges;
mod network;
mod node;
mod operator;
mod outages;
mod people;
mod planned;
mod presence;
mod processes;
mod replica_scenarios;
mod rest;
mod sabotage;
mod scenarios;
mod self_test;
mod shard_host;
mod splits;
mod stage;
mod straight;
mod trace;
mod trial;
mod wire;
mod world;

use std::process::exit;
use std::time::Instant;

use sabotage::Sabotage;
use trial::{Verdict, run_seed};

/// Seeds of an ordinary run.
const SEEDS: u64 = 900;

/// Every so many of them runs twice, to compare histories.
const TWICE_EVERY: u64 = 20;

/// Seeds in which a canary may find its occasion.
const CANARY_SEEDS: u64 = 30;

/// Seeds with so many nodes that have found something once, with what it was. Plans change, and then a seed meets something else;
/// kept because what was hard once is hard again.
const REGRESSION_SEEDS: &[(u64, u16, &str)] = &[
    (2, 3, "an entry larger than the queue for lossy frames never left"),
    (29, 3, "an answer larger than a link's window reset the link for ever"),
    (23, 3, "a backlog that nobody had asked for was taken for the answer to a question"),
    (16, 3, "what a session had forgotten as done was sent again by the home's next leader"),
    (27, 3, "what a home's leader had learnt ahead of its group stayed when it ceased to lead"),
    (46, 3, "what was written over a slow network came long after the network had become fast"),
    (
        38,
        3,
        "the end of a connection that a master had ended was lost, and a new leader did not know who had come later",
    ),
    (3, 3, "a channel was forgotten with RECVs in flight"),
    (26, 3, "a replica without anything became a voter"),
    (
        72,
        3,
        "a new leader could agree on nothing without a replica that needed a snapshot, which only agreed leaders sent",
    ),
    (54, 3, "messages that waited for a leader were more than its link takes, and reset it again and again"),
    (99, 3, "a connection that asked twice to be let in ended itself"),
    (308, 3, "rest was looked for in step with raft's beat, and a shard had always just heard something"),
    (343, 3, "rest was looked for in step with raft's beat, by short limits"),
    (429, 3, "gossip that had lost its way took leadership from a leader that everybody heard"),
    (270, 3, "gossip that had lost its way made leaders forget who is online at a node that lived, at rest"),
    (70, 3, "gossip that had lost its way made a shard forget the sessions of a node that lived"),
    (411, 3, "what many sessions fetched at once was more than their link takes, and reset it again and again"),
    (638, 3, "all was taken to rest before who looks after the cluster had begun to"),
    (90, 3, "half of an exchange of leaders was taken back by the next plan, for ever"),
    (
        12816,
        3,
        "what a device had passed over because the leader had dropped it came from the next leader, which had not",
    ),
    (15370, 3, "a disk that took nothing was no reason for a replica to take less, where memory counted as durable"),
    (15428, 3, "a connection that asked twice, and was let in and then refused, stayed online for ever"),
    (25739, 3, "a write that a crash left whole was on no disk for the checker, and the next run acknowledged it"),
    (
        20210,
        3,
        "a master came and went while an older connection's node was cut off, and its own device had come back too",
    ),
    (21117, 3, "a master came and went while an older connection's node was hung, and the older one stayed"),
    (23799, 3, "a connection ended for its own fault just before it was to hear of a master"),
    (20686, 3, "what a device had taken while slots merged was forgotten, and the session was told that it lagged"),
    (21159, 3, "what was proposed at once was more than a segment of the journal takes"),
    (20657, 3, "a leader with a slower clock dealt out its predecessor's ids again, to messages that are not stored"),
    (
        30894,
        3,
        "a node that had missed a split heard of the slot only when it was being taken in, and did not begin it",
    ),
    (38431, 3, "who was away did not know the metadata leader, a newcomer, as a member, and heard nothing from it"),
    (
        36689,
        5,
        "a move was given up when its newcomer led already: all forgot the leader, itself too, and nobody heard of it again",
    ),
    (1205, 3, "a snapshot of the metadata counted when a checkpoint begun before it was on disk, and its own was not"),
    (21127, 3, "all leaders spoke in one moment, and the link had no room for the same ones each time"),
    (21808, 3, "all leaders spoke in one moment, and the link had no room for the same ones each time"),
    (
        22862,
        3,
        "the network took the end of a dead process's connection for that of its successor's of the same number",
    ),
    (21556, 3, "what was to be delivered over a link at once was more than it takes, and reset it again and again"),
    (33186, 3, "a connection that never said CONNECT stayed open at a node that stood still for eleven seconds"),
    (60262, 3, "who was told later that it is let in was taken for the one that came later"),
    (43926, 3, "a master that was told to go, and is not named to the next leader, was still expected to end others"),
    (54157, 3, "an acknowledgement on its way was judged by a disk that had been lost meanwhile"),
    (
        57136,
        3,
        "an answer to what an earlier process of the node had asked was taken by the next one for an answer to its own",
    ),
    (
        60911,
        5,
        "what a node said before another knew that it was a member was lost: nobody told its sessions who leads their home",
    ),
    (60206, 3, "a node was wiped and then drained, and what it had lost was a voter of its slots for ever"),
    (102273, 3, "what a backend was told of a repeat whose first body was gone was taken for another message"),
    (163553, 3, "a repeat whose first body the disks refused to read was confirmed, and its payload was another"),
];

/// What the command line asks for.
#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    nodes: Option<u16>,
    from: Option<u64>,
    count: Option<u64>,
    sabotage: Option<String>,
    scenario: Option<String>,
    list: bool,
    verbose: bool,
    self_test: bool,
    keep_going: bool,
    threads: Option<usize>,
    coverage: bool,
    filter: Option<String>,
}

impl Arguments {
    /// Whether a part of the ordinary run is meant; as with the standard harness, a word picks those whose name holds it.
    fn picks(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }
}

fn parse_arguments() -> Arguments {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse().ok());
        match word.as_str() {
            "--seed" => arguments.seed = number(),
            "--nodes" => arguments.nodes = number().and_then(|nodes| u16::try_from(nodes).ok()),
            "--from" => arguments.from = number(),
            "--count" => arguments.count = number(),
            "--seeds" => {
                let range = words.next().unwrap_or_default();
                if let Some((from, to)) = range.split_once("..") {
                    arguments.from = from.parse().ok();
                    arguments.count =
                        to.parse::<u64>().ok().zip(arguments.from).map(|(to, from)| to.saturating_sub(from));
                }
            }
            "--sabotage" => arguments.sabotage = words.next(),
            "--scenario" => arguments.scenario = words.next(),
            "--list" => arguments.list = true,
            "--verbose" => arguments.verbose = true,
            "--self-test" => arguments.self_test = true,
            "--keep-going" => arguments.keep_going = true,
            "--coverage" => arguments.coverage = true,
            // What else the standard test harness understands (`--nocapture`, `--exact`) has no meaning here.
            "--test-threads" => arguments.threads = words.next().and_then(|text| text.parse().ok()),
            "--format" | "--color" | "--skip" | "--logfile" | "-Z" => drop(words.next()),
            word if !word.starts_with('-') => arguments.filter = Some(word.to_owned()),
            _ => {}
        }
    }
    arguments
}

/// Totals of a run.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    exit: i32,
    seeds: u64,
    virtual_ns: u128,
    dispatched: u64,
    coverage: coverage::Coverage,
}

impl Totals {
    fn take(&mut self, verdict: &Verdict) -> bool {
        self.seeds += 1;
        self.virtual_ns += u128::from(verdict.virtual_ns);
        self.dispatched += verdict.dispatched;
        self.coverage.merge(&verdict.coverage);
        if verdict.failure.is_none() {
            self.passed += 1;
            return true;
        }
        self.failed += 1;
        self.exit = self.exit.max(verdict.exit_code());
        verdict.report();
        false
    }

    fn note(&mut self, what: &str, result: Result<String, String>) {
        match result {
            Ok(text) => {
                self.passed += 1;
                println!("ok      {what}: {text}");
            }
            Err(text) => {
                self.failed += 1;
                self.exit = self.exit.max(129);
                println!("FAILED  {what}: {text}");
            }
        }
    }

    /// What a run has done, in figures.
    fn print(&self, real_s: f64, cpu_s: f64) {
        let hours = self.virtual_ns as f64 / 3.6e12;
        let count = |name| self.coverage.count(name);
        println!(
            "{} seeds: {hours:.2} h simulated in {real_s:.0} s, {cpu_s:.0} s of CPU time: {:.0} h per CPU-hour; {} things happened",
            self.seeds,
            hours / (cpu_s.max(0.01) / 3600.0),
            self.dispatched
        );
        println!("{}", self.coverage.faults());
        println!(
            "checked: {} messages, {} RECVs of them, {} positions of logs, {} comparisons of replicas",
            count("checked messages"),
            count("checked RECVs"),
            count("checked log positions"),
            count("checked comparisons of replicas")
        );
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

fn main() {
    let arguments = parse_arguments();
    trial::quiet_panics();
    if arguments.list {
        all_scenarios().for_each(|(name, _)| println!("scenario {name}"));
        Sabotage::ALL.iter().for_each(|one| println!("sabotage {} (caught by {})", one.name(), one.caught_by().name()));
        return;
    }
    let began = Instant::now();
    let mut totals = Totals::default();
    run(&arguments, &mut totals);
    if arguments.coverage {
        totals.coverage.print();
    }
    totals.print(began.elapsed().as_secs_f64(), crew::cpu_seconds());
    exit(totals.exit);
}

/// One piece of a run.
enum Piece {
    SelfTest(&'static str, fn()),
    Scenario(&'static str, stage::Script),
    Canary(Sabotage),
    /// A seed, its number of nodes if it is not to be drawn, and what it has found once.
    Seed(u64, Option<u16>, Option<&'static str>),
}

/// What came of it.
enum Done {
    Text(String, Result<String, String>),
    /// And whether a second run of the seed had another history.
    Verdict(Box<Verdict>, Option<String>),
}

impl Piece {
    fn work(&self, verbose: bool) -> Done {
        match *self {
            Piece::SelfTest(name, test) => {
                let result = std::panic::catch_unwind(test).map_err(|_| trial::last_panic());
                Done::Text(format!("self-test {name}"), result.map(|()| "holds".to_owned()))
            }
            Piece::Scenario(name, script) => Done::Text(format!("scenario {name}"), trial::run_script(script, verbose)),
            Piece::Canary(sabotage) => {
                let result = trial::canary(sabotage, CANARY_SEEDS);
                Done::Text(format!("canary {}", sabotage.name()), result)
            }
            Piece::Seed(seed, nodes, once) => {
                let verdict = run_seed(seed, nodes, None, verbose);
                let twice = once.is_none() && seed.is_multiple_of(TWICE_EVERY);
                let differs = twice.then(|| trial::differs(&verdict, &run_seed(seed, nodes, None, false)));
                Done::Verdict(Box::new(verdict), differs.flatten())
            }
        }
    }

    fn take(&self, done: Done, totals: &mut Totals) -> bool {
        match (self, done) {
            (_, Done::Text(what, result)) => {
                totals.note(&what, result);
                true
            }
            (Piece::Seed(seed, nodes, once), Done::Verdict(verdict, differs)) => {
                let holds = totals.take(&verdict);
                if let Some(what) = once.filter(|_| !holds) {
                    println!("seed {seed} with {nodes:?} nodes once met: {what}");
                }
                if let Some(text) = differs {
                    totals.note(&format!("replay of seed {seed}"), Err(text));
                }
                holds
            }
            _ => unreachable!("only seeds have verdicts"),
        }
    }
}

fn run(arguments: &Arguments, totals: &mut Totals) {
    let nodes = arguments.nodes;
    let mut pieces = Vec::new();
    let named = |name: &str, pieces: &[Piece], totals: &mut Totals| {
        if pieces.is_empty() {
            totals.note(name, Err("nothing is called so".to_owned()));
        }
    };
    if let Some(name) = &arguments.sabotage {
        let sabotage = Sabotage::parse(name);
        if let (Some(sabotage), Some(seed)) = (sabotage, arguments.seed) {
            totals.take(&run_seed(seed, nodes, Some(sabotage), arguments.verbose));
            return;
        }
        pieces.extend(sabotage.map(Piece::Canary));
        named(name, &pieces, totals);
    } else if let Some(name) = &arguments.scenario {
        pieces.extend(
            all_scenarios().filter(|(known, _)| known == name).map(|(name, script)| Piece::Scenario(name, script)),
        );
        named(name, &pieces, totals);
    } else if let Some(seed) = arguments.seed {
        let verdict = run_seed(seed, nodes, None, arguments.verbose);
        println!("seed {seed} has the history {:016x}", verdict.history());
        totals.take(&verdict);
        return;
    } else if arguments.self_test {
        pieces.extend(self_tests());
    } else if arguments.count.is_some() || arguments.from.is_some() {
        let from = arguments.from.unwrap_or(0);
        pieces.extend((from..from + arguments.count.unwrap_or(SEEDS)).map(|seed| Piece::Seed(seed, nodes, None)));
    } else {
        return run_everything(arguments, totals);
    }
    run_pieces(&pieces, arguments, totals);
}

fn run_pieces(pieces: &[Piece], arguments: &Arguments, totals: &mut Totals) {
    let threads = arguments.threads.unwrap_or_else(crew::threads_by_default);
    crew::run(
        threads,
        pieces,
        |piece| piece.work(arguments.verbose),
        |piece, done| piece.take(done, totals) || arguments.keep_going,
    );
}

/// The ordinary run.
fn run_everything(arguments: &Arguments, totals: &mut Totals) {
    let mut pieces: Vec<Piece> = self_tests().collect();
    pieces.extend(all_scenarios().map(|(name, script)| Piece::Scenario(name, script)));
    pieces.extend(Sabotage::ALL.into_iter().map(Piece::Canary));
    pieces.extend(REGRESSION_SEEDS.iter().map(|(seed, nodes, once)| Piece::Seed(*seed, Some(*nodes), Some(once))));
    pieces.extend((0..SEEDS).map(|seed| Piece::Seed(seed, None, None)));
    pieces.retain(|piece| match piece {
        Piece::SelfTest(name, _) | Piece::Scenario(name, _) => arguments.picks(name),
        Piece::Canary(sabotage) => arguments.picks(sabotage.name()),
        Piece::Seed(_, _, Some(once)) => arguments.picks(once),
        Piece::Seed(..) => arguments.picks("seeds"),
    });
    run_pieces(&pieces, arguments, totals);
    if arguments.picks("seeds") {
        let complete = totals.coverage.complete();
        totals.note("coverage", complete);
    }
}

fn self_tests() -> impl Iterator<Item = Piece> {
    self_test::ALL.iter().chain(&link_tests::ALL).map(|(name, test)| Piece::SelfTest(name, *test))
}

/// Name and script.
fn all_scenarios() -> impl Iterator<Item = (&'static str, stage::Script)> {
    let several = cluster_scenarios::ALL
        .into_iter()
        .chain(replica_scenarios::ALL)
        .chain(splits::ALL)
        .chain(merges::ALL)
        .chain(straight::ALL)
        .chain(planned::ALL)
        .chain(presence::ALL)
        .chain(processes::ALL);
    scenarios::ALL.into_iter().chain(several)
}
