//! One simulation from seed to verdict: runs it, catches panics, says everything that was drawn when it fails, and how to
//! run it again. Canaries are trials that must fail, by the right checker.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::checkers::{Promise, Violation};
use crate::coverage::Coverage;
use crate::faults::Plan;
use crate::sabotage::Sabotage;
use crate::stage::{Script, Stage};
use crate::world::World;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics for the report of the trial in which they happen.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<String>().cloned();
        let text = text.or_else(|| info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let place = info.location().map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
        let text = format!("{} at {place}", text.unwrap_or_default());
        LAST_PANIC.with_borrow_mut(|last| *last = text);
    }));
}

/// What the last panic of this thread said.
pub fn last_panic() -> String {
    LAST_PANIC.with_borrow(String::clone)
}

/// How a trial failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Something panicked.
    Panic(String),
    /// A promise was broken.
    Broken(Violation),
}

/// What came of a trial.
pub struct Verdict {
    seed: u64,
    plan: Plan,
    /// If it failed.
    pub failure: Option<Failure>,
    /// Virtual time it took.
    pub virtual_ns: u64,
    /// Things that happened.
    pub dispatched: u64,
    /// What happened.
    pub coverage: Coverage,
    digest: u64,
    tail: Vec<String>,
    facts: String,
}

impl Verdict {
    /// 127 a panic, 128 no rest, 129 a broken promise.
    pub fn exit_code(&self) -> i32 {
        match &self.failure {
            None => 0,
            Some(Failure::Panic(_)) => 127,
            Some(Failure::Broken(violation)) if violation.promise == Promise::Rest => 128,
            Some(Failure::Broken(_)) => 129,
        }
    }

    /// Says what was drawn, what happened last, what broke, and how to see it again.
    pub fn report(&self) {
        println!("{:#?}", self.plan);
        self.tail.iter().for_each(|line| println!("{line}"));
        println!("{}", self.facts);
        match &self.failure {
            Some(Failure::Panic(text)) => println!("FAILED  seed {}: panic: {text}", self.seed),
            Some(Failure::Broken(violation)) => println!(
                "FAILED  seed {}: {} broken at {:.6} s: {}",
                self.seed,
                violation.promise.name(),
                violation.at_ns as f64 / 1e9,
                violation.text
            ),
            None => {}
        }
        println!("replay: cargo test --release --test simulator -- --seed {} --nodes {}", self.seed, self.plan.nodes);
    }
}

/// Runs a seed, with a number of nodes if it is not to be drawn.
pub fn run_seed(seed: u64, nodes: Option<u16>, sabotage: Option<Sabotage>, verbose: bool) -> Verdict {
    let nodes = sabotage.map(Sabotage::nodes).or(nodes);
    let mut plan = Plan::draw(seed, nodes);
    if let Some(sabotage) = sabotage {
        sabotage.prepare(&mut plan);
    }
    run_plan(plan, sabotage, verbose)
}

/// The same without the sabotage: what a canary is judged against.
fn run_unharmed(seed: u64, sabotage: Sabotage) -> Verdict {
    let mut plan = Plan::draw(seed, Some(sabotage.nodes()));
    sabotage.prepare(&mut plan);
    plan.limits.breach = None;
    run_plan(plan, None, false)
}

fn run_plan(plan: Plan, sabotage: Option<Sabotage>, verbose: bool) -> Verdict {
    let seed = plan.seed;
    let mut world = World::new(plan.clone(), sabotage, verbose);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(Failure::Broken(violation)),
        Err(_) => Some(Failure::Panic(last_panic())),
    };
    (0..world.nodes.len()).for_each(|node| world.count_shards(node));
    let verdict = verdict_of(seed, plan, &world, failure);
    if verbose {
        println!("{}", verdict.facts);
    }
    if verdict.failure.is_some() {
        // A shard that panicked may not be fit to be dropped.
        std::mem::forget(world);
    }
    verdict
}

fn verdict_of(seed: u64, plan: Plan, world: &World, failure: Option<Failure>) -> Verdict {
    let accepted = world.ledger.sent.values().filter(|sent| sent.accepted.is_some()).count();
    let abandoned = world.ledger.sent.values().filter(|sent| !sent.abandoned_by.is_empty()).count();
    let ends: Vec<(u64, u64)> = world.nodes.iter().map(|node| node.ends).collect();
    let named: u64 = world.nodes.iter().map(|node| node.damages_named).sum();
    let disks = world.nodes.iter().flat_map(|node| &node.disks);
    let (writes, refusals) = disks.fold((0, 0), |(w, r), disk| (w + disk.writes, r + disk.refusals));
    let mut coverage = world.coverage.clone();
    coverage.add("seen damages named", named);
    coverage.add("fault: disk request refused", refusals);
    coverage.add("seen kicks", world.checkers.kicks.carried_out);
    coverage.add("seen messages abandoned", abandoned as u64);
    coverage.add("seen changes of leaders", world.checkers.leaders.changes);
    coverage.add("checked comparisons of replicas", world.checkers.replicas.compared);
    coverage.add("checked messages", accepted as u64);
    coverage.add("checked log positions", world.checkers.positions_read);
    coverage.add("checked RECVs", world.receipts);
    for (what, count) in &world.links.counts {
        coverage.add(what, *count);
    }
    for node in &world.nodes {
        coverage.add("fault: clock that drifts", u64::from(node.drifts()));
        for disk in &node.disks {
            coverage.add("fault: torn write", disk.torn);
            coverage.add("fault: read error", disk.read_errors);
            coverage.add("seen segments removed", disk.trimmed);
        }
    }
    let facts = format!(
        "{} sent, {accepted} accepted, {} connections, {ends:?} crashes and stops, {writes} journal writes, {refusals} refused, \
         {named} damages named, {} kicks, backend answers {:?}, peaks {:?}",
        world.ledger.sent.len(),
        world.connections.len(),
        world.checkers.kicks.carried_out,
        world.backend.answers,
        world.checkers.limits,
    );
    Verdict {
        seed,
        plan,
        virtual_ns: world.now_ns,
        dispatched: world.dispatched(),
        coverage,
        digest: world.trace.digest(),
        tail: if failure.is_some() { world.trace.tail().cloned().collect() } else { Vec::new() },
        failure,
        facts,
    }
}

impl Verdict {
    /// The number of the whole history, for comparing runs of different processes and machines.
    pub fn history(&self) -> u64 {
        self.digest
    }
}

/// Why two runs of a seed are not the same history, if they are not.
pub fn differs(one: &Verdict, other: &Verdict) -> Option<String> {
    (one.digest != other.digest || one.dispatched != other.dispatched).then(|| {
        format!(
            "the histories differ: {:016x} after {} things, {:016x} after {}",
            one.digest, one.dispatched, other.digest, other.dispatched
        )
    })
}

/// Runs a canary over some seeds until it is caught; another failure than the expected one does not count, nor one of a seed that fails
/// unharmed too.
///
/// # Errors
/// It was not caught.
pub fn canary(sabotage: Sabotage, seeds: u64) -> Result<String, String> {
    let expected = sabotage.caught_by();
    for seed in 0..seeds {
        let verdict = run_seed(seed, None, Some(sabotage), false);
        if expected == Promise::Replay {
            let again = run_seed(seed, None, Some(sabotage), false);
            return match differs(&verdict, &again) {
                Some(text) => Ok(format!("caught by replay, seed {seed}: {text}")),
                None => Err("two runs with chance from outside had the same history".to_owned()),
            };
        }
        let caught = match verdict.failure {
            Some(Failure::Broken(violation)) if violation.promise == expected => violation.text,
            Some(Failure::Panic(text)) if sabotage.assertion().is_some_and(|said| text.starts_with(said)) => text,
            Some(Failure::Panic(text)) => return Err(format!("seed {seed} panics: {text}")),
            _ => continue,
        };
        if run_unharmed(seed, sabotage).failure.is_none() {
            return Ok(format!("caught by {}, seed {seed}: {}", expected.name(), brief(&caught)));
        }
    }
    Err(format!("not caught by {} in {seeds} seeds", expected.name()))
}

fn brief(text: &str) -> String {
    text.chars().take(160).collect()
}

/// Runs a scenario.
///
/// # Errors
/// What happened last, and what broke.
pub fn run_script(script: Script, verbose: bool) -> Result<String, String> {
    let mut stage = Stage::new(verbose);
    let result = catch_unwind(AssertUnwindSafe(|| script(&mut stage)));
    let outcome = match result {
        Ok(Ok(())) => Ok("holds".to_owned()),
        Ok(Err(violation)) => Err(format!("{} broken: {}", violation.promise.name(), violation.text)),
        Err(_) => Err(format!("panic: {}", last_panic())),
    };
    outcome.map_err(|what| {
        let tail: Vec<&str> = stage.world.trace.tail().map(String::as_str).collect();
        let text = format!("{what}\n{}\n{what}", tail.join("\n"));
        std::mem::forget(stage);
        text
    })
}
