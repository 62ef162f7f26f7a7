//! Who is online, asked at every node all the time while nodes die, hang and come back. At each node some users sit who say nothing and whose
//! connections stand until a test touches their node. Whatever else happens, no answer may leave one of them out; an answer that there is
//! no answer now is allowed. Nothing here knows what is done to a node.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ensemble::Ensemble;
use super::tell;
use crate::client::{Client, Login};
use crate::http;

/// Users at each node: their homes are led everywhere.
const SITTERS: usize = 4;

/// Between two questions to one node.
const PAUSE: Duration = Duration::from_millis(15);

/// How long everybody may take to know those who have just come (back).
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// Wrong answers that are kept.
const WRONG_MAX: usize = 10;

/// Those who sit at one node.
struct Bench {
    uids: Vec<String>,
    /// Odd while their node is touched; else their connections stand, and have since it became so.
    touches: AtomicU64,
}

struct World {
    name: String,
    benches: Vec<Bench>,
    finish: AtomicBool,
    answers: AtomicU64,
    no_answers: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl World {
    fn everybody(&self) -> Value {
        json!(self.benches.iter().flat_map(|bench| &bench.uids).collect::<Vec<_>>())
    }

    fn touches(&self) -> Vec<u64> {
        self.benches.iter().map(|bench| bench.touches.load(Ordering::SeqCst)).collect()
    }

    /// Asks one node until the end.
    fn watch(&self, asked: usize, address: SocketAddr) {
        let everybody = self.everybody();
        while !self.finish.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            let before = self.touches();
            let Some(online) = online(address, &everybody) else {
                self.no_answers.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let after = self.touches();
            self.answers.fetch_add(1, Ordering::Relaxed);
            for (at, bench) in self.benches.iter().enumerate() {
                if before[at] % 2 == 1 || before[at] != after[at] {
                    continue;
                }
                let missing: Vec<&String> = bench.uids.iter().filter(|uid| !online.contains(*uid)).collect();
                if !missing.is_empty() {
                    let others = format!("touched or not: {before:?}");
                    self.note(format!(
                        "node {asked} says offline of {missing:?}, who sit at node {}; {others}",
                        at + 1
                    ));
                }
            }
        }
    }

    fn note(&self, sentence: String) {
        let mut wrong = self.wrong.lock().expect("nobody panics with it");
        if wrong.len() < WRONG_MAX {
            wrong.push(sentence);
        }
    }
}

/// Who of them is online as a node says it; `None` when it gives no answer now.
fn online(address: SocketAddr, uids: &Value) -> Option<Vec<String>> {
    let answer = http::post(address, "/user/onlinestatus", uids).ok().filter(|answer| answer.status == 200)?;
    let list: Value = serde_json::from_str(&answer.body).ok()?;
    let uid = |entry: &Value| (entry["online"] == 1).then(|| entry["uid"].as_str().map(str::to_owned))?;
    Some(list.as_array()?.iter().filter_map(uid).collect())
}

/// Users who sit, and those who ask for them.
pub struct Sitters {
    world: Arc<World>,
    clients: Vec<Vec<Client>>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl Sitters {
    /// Sits down at every node of a whole cluster, and begins to ask once they are known everywhere.
    pub fn begin(name: &str, cluster: &Ensemble) -> Sitters {
        let bench = |id: usize| Bench {
            uids: (0..SITTERS).map(|at| format!("{name}-sits-{id}-{at}")).collect(),
            touches: AtomicU64::new(0),
        };
        let world = Arc::new(World {
            name: name.to_owned(),
            benches: cluster.ids().map(bench).collect(),
            finish: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            no_answers: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let clients = cluster.ids().map(|id| connect(&world, cluster, id)).collect();
        let addresses: Vec<SocketAddr> = cluster.ids().map(|id| cluster.node(id).http()).collect();
        let mut sitters = Sitters { world, clients, addresses, threads: Vec::new() };
        sitters.wait_known();
        for (at, address) in sitters.addresses.iter().enumerate() {
            let (world, address) = (Arc::clone(&sitters.world), *address);
            sitters.threads.push(std::thread::spawn(move || world.watch(at + 1, address)));
        }
        sitters
    }

    /// From now on something is done to this node. Its users' connections have stood so far.
    pub fn touch(&mut self, id: usize) {
        self.clients[id - 1].iter_mut().for_each(Client::lives);
        let touches = self.world.benches[id - 1].touches.fetch_add(1, Ordering::SeqCst);
        assert_eq!(touches % 2, 0, "touched once");
    }

    /// The node is well again: its users sit down anew, and are judged as soon as every node knows them.
    pub fn back(&mut self, cluster: &Ensemble, id: usize) {
        self.clients[id - 1].clear();
        self.clients[id - 1] = connect(&self.world, cluster, id);
        self.wait_known();
        let touches = self.world.benches[id - 1].touches.fetch_add(1, Ordering::SeqCst);
        assert_eq!(touches % 2, 1, "it was touched");
    }

    fn wait_known(&self) {
        let everybody = self.world.everybody();
        let deadline = Instant::now() + KNOWN_WITHIN;
        let count = self.world.benches.len() * SITTERS;
        for address in &self.addresses {
            let mut last = None;
            while last.as_ref().is_none_or(|online: &Vec<String>| online.len() < count) {
                assert!(Instant::now() < deadline, "{address} knows only {last:?} of {everybody}");
                std::thread::sleep(PAUSE);
                last = online(*address, &everybody);
            }
        }
    }

    /// Demands that every connection has stood, and that no answer was wrong.
    pub fn end(mut self, logs: impl FnOnce() -> String) {
        self.world.finish.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("who asks does not panic"));
        self.clients.iter_mut().flatten().for_each(Client::lives);
        let World { name, answers, no_answers, wrong, .. } = &*self.world;
        let (answers, no_answers) = (answers.load(Ordering::Relaxed), no_answers.load(Ordering::Relaxed));
        tell(&format!("{name}: asked who is online {answers} times with an answer, {no_answers} times without"));
        let wrong = wrong.lock().expect("nobody panics with it");
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), logs());
        assert!(answers > 100, "hardly ever an answer: {answers}");
    }
}

fn connect(world: &World, cluster: &Ensemble, id: usize) -> Vec<Client> {
    world.benches[id - 1].uids.iter().map(|uid| Client::connect(cluster.node(id), &Login::tcp(uid))).collect()
}
