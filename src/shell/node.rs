//! A node from its start to its end: checks the machine, takes directory and addresses, starts one thread per shard beside
//! the metronome and the HTTP API, says when all are ready, and stops them in bounded time.
//!
//! ```text
//! Starting ──every shard ready──▶ Serving ──SIGTERM, SIGINT──▶ Stopping ──every shard ended──▶ exit 0
//!    │                               │                            │
//!    └── one line ──▶ exit 1 ◀── a shard has ended by itself      └── a second signal, or 10 s ──▶ exit at once, not 0
//! ```
//! It knows nothing of messages, users or sockets of clients.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::clock::Clock;
use super::cluster_settings::{cluster_settings, public_addresses};
use super::data_directory::{DataDirectory, StartError, Wanted};
use super::gateway::Listener;
use super::http::{Api, HttpThread, NodeState};
use super::link_sockets::ClusterSockets;
use super::listen::{BoundAddress, bind_cluster, bind_shared, listen_alone};
use super::machine;
use super::mesh::{MeshEndpoint, MeshMessage, MeshSender, build_mesh};
use super::metronome::Metronome;
use super::readiness::Readiness;
use super::seed::{Secrets, kernel_seed};
use super::shard_loop::{Ready, ShardRuntimeConfig, ShardSockets, run_shard};
use crate::config::{Config, ListenMode, ShardCount};
use crate::engine::shard::{ClusterSettings, Durability, ShardConfig};
use crate::format::pipeline::Transport;
use crate::ids::{NodeId, Place, ShardId};

/// From the first signal to the end. Beyond it the process goes without what is not flushed: nothing acknowledged, as
/// that is on disk already.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A full inbox may take so long to make room for what must arrive.
const DELIVERY: Duration = Duration::from_secs(1);

/// Signals so close to the first one are the same wish: `timeout` and terminals signal a process and its whole group.
const SAME_WISH_WITHIN: Duration = Duration::from_millis(300);

/// Exit code after a second signal: the shell's for SIGINT.
const EXIT_SECOND_SIGNAL: i32 = 130;

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why it cannot start, or what has broken.
pub fn run(config: &Config) -> Result<(), StartError> {
    let began = Instant::now();
    let readiness = Readiness::from_environment();
    machine::check_kernel()?;
    let processors = machine::processors();
    let directory = open_directory(config, processors.len())?;
    let shards = directory.shards();
    machine::check_locked_memory(shards)?;
    if let Err(error) = machine::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let tcp = bind_shared("listen.tcp", config.listen.tcp, shards)?;
    let ws = bind_shared("listen.ws", config.listen.ws, shards)?;
    let http = listen_alone("listen.http", config.listen.http)?;
    let http_address = http.local_addr().map_err(kernel_refused("the address of the HTTP API"))?;
    let endpoints = build_mesh(shards).map_err(kernel_refused("the queues between shards"))?;
    let mesh = endpoints[0].sender.clone();
    let happenings = flume::unbounded();
    watch_signals(&happenings.0)?;

    let state = Arc::new(NodeState::new(shards));
    let addresses = public_addresses(config, &tcp, &ws);
    let cluster = cluster_settings(config, &directory, &addresses, http_address)?;
    let cluster_sockets = config.cluster.listen.map(|listen| bind_cluster(listen, shards)).transpose()?;
    let secrets = Secrets::from_kernel().map_err(kernel_refused("random bytes"))?;
    let api =
        Api::new(mesh.clone(), state.clone(), directory.slot_depth(), addresses, config.http.token.clone(), secrets);
    let http = HttpThread::start(http, api).map_err(kernel_refused("the HTTP thread"))?;
    let banner = Banner {
        tcp: format!("{} ({})", tcp.address, mode_name(config.listen.tcp_mode)),
        ws: format!("{} ({})", ws.address, mode_name(config.listen.ws_mode)),
        http: http_address.to_string(),
    };
    // Before the shards: their executors may need a beat already in their first pass.
    let metronome = Metronome::start(mesh.clone()).map_err(kernel_refused("the metronome's thread"))?;
    state.set_watch(metronome.watch());
    let told = Told { config, directory: &directory, cluster };
    start_shards(&told, &processors, endpoints, Doors { tcp, ws, cluster: cluster_sockets }, &happenings.0)?;

    let node = Node { mesh, state, happenings: happenings.1, running: shards, metronome, http };
    let outcome = node.serve(&readiness, |messages, waits| {
        let mut text = banner.text(config, &directory, &Began { messages, waits, took: began.elapsed() });
        text.push('\n');
        print!("{text}");
        // Whoever waits for it may read through a pipe.
        let _ = std::io::Write::flush(&mut std::io::stdout());
        readiness.ready(&text);
    });
    // The lock of the directory is held until every shard has ended.
    drop(directory);
    outcome
}

/// Something that the node's main thread waits for.
enum Happening {
    Signal(i32),
    Ready(Result<Ready, String>),
    Ended { shard: ShardId, panicked: bool },
}

struct Node {
    mesh: MeshSender,
    state: Arc<NodeState>,
    happenings: flume::Receiver<Happening>,
    running: u16,
    /// Beats until the shards have ended.
    metronome: Metronome,
    http: HttpThread,
}

impl Node {
    /// Until the end. `announce` is called once, when clients may come, with the number of messages that are there, and whether
    /// the node still waits for others before it can serve.
    fn serve(mut self, readiness: &Readiness, announce: impl FnOnce(u64, bool)) -> Result<(), StartError> {
        let mut announce = Some(announce);
        let (mut ready, mut messages, mut waits) = (0, 0, false);
        let outcome = loop {
            match self.next(readiness) {
                Ok(Happening::Ready(Ok(shard))) => {
                    let replayed = shard.replayed_bytes;
                    tracing::debug!(shard = %shard.shard, replayed_bytes = replayed, took = ?shard.took, "recovered");
                    ready += 1;
                    messages += shard.messages;
                    waits |= shard.waits;
                    if ready == self.mesh.shard_count()
                        && let Some(announce) = announce.take()
                    {
                        if let Err(error) = self.open_doors() {
                            break Err(error);
                        }
                        (0..self.mesh.shard_count()).for_each(|shard| self.state.set_ready(ShardId(shard), true));
                        announce(messages, waits);
                    }
                }
                Ok(Happening::Ready(Err(line))) => break Err(StartError(line)),
                Ok(Happening::Signal(signal)) => {
                    tracing::info!(signal, "stopping");
                    break Ok(());
                }
                Ok(Happening::Ended { shard, panicked }) => {
                    self.running -= 1;
                    let how = if panicked { "has panicked" } else { "has ended by itself" };
                    break Err(StartError(format!(
                        "shard {shard} {how}: the node stops; the journal has what was acknowledged"
                    )));
                }
                Err(_) => {
                    break Err(StartError("nobody is left who could wake the node".to_owned()));
                }
            }
        };
        readiness.stopping();
        let left_behind = self.stop();
        if outcome.is_ok() && left_behind > 0 {
            return Err(StartError(format!("{left_behind} shards did not stop within {} s", STOP_WITHIN.as_secs())));
        }
        outcome
    }

    /// Waits for what happens next, and meanwhile says that the node lives as long as all its shards turn: one that hangs is
    /// better started anew by whoever watches this process.
    fn next(&self, readiness: &Readiness) -> Result<Happening, flume::RecvError> {
        let Some(patience) = readiness.patience() else {
            return self.happenings.recv();
        };
        let watch = self.metronome.watch();
        loop {
            match self.happenings.recv_timeout(patience / 4) {
                Ok(happening) => return Ok(happening),
                Err(flume::RecvTimeoutError::Disconnected) => return Err(flume::RecvError::Disconnected),
                Err(flume::RecvTimeoutError::Timeout) if watch.all_turn(patience / 2) => readiness.alive(),
                Err(flume::RecvTimeoutError::Timeout) => {
                    tracing::error!(
                        patience_s = patience.as_secs(),
                        "a shard stands still: the watchdog is not told that all is well"
                    );
                }
            }
        }
    }

    /// Lets clients in, on every shard.
    fn open_doors(&self) -> Result<(), StartError> {
        for shard in (0..self.mesh.shard_count()).map(ShardId) {
            let (reply, answer) = flume::bounded(1);
            let sent = self.mesh.send_within(shard, MeshMessage::Serve { reply }, DELIVERY).is_ok();
            let answer = sent.then(|| answer.recv_timeout(DELIVERY).ok()).flatten();
            answer
                .unwrap_or_else(|| Err("it does not answer".to_owned()))
                .map_err(|line| StartError(format!("shard {shard} cannot listen: {line}")))?;
        }
        Ok(())
    }

    /// Stops everything in bounded time; gives how many shards have not ended by then.
    fn stop(mut self) -> u16 {
        let deadline = Instant::now() + STOP_WITHIN;
        for shard in (0..self.mesh.shard_count()).map(ShardId) {
            self.state.set_ready(shard, false);
            if self.mesh.send_within(shard, MeshMessage::Stop, DELIVERY).is_err() {
                tracing::debug!(%shard, "the shard takes no message; it has ended, or will be left behind");
            }
        }
        self.http.stop();
        while self.running > 0 {
            match self.happenings.recv_deadline(deadline) {
                Ok(Happening::Ended { panicked, shard }) => {
                    self.running -= 1;
                    if panicked {
                        tracing::error!(%shard, "the shard has panicked while it stopped");
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.running
    }
}

fn kernel_refused(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |error| StartError(format!("the kernel does not give {what}: {error}"))
}

fn seed() -> Result<[u8; 32], StartError> {
    kernel_seed().map_err(kernel_refused("random bytes"))
}

fn open_directory(config: &Config, processors: usize) -> Result<DataDirectory, StartError> {
    let slots_max = u16::try_from(config.node.slots).unwrap_or(u16::MAX);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_us = u64::try_from(since_1970.as_micros()).unwrap_or(0);
    let wanted = Wanted {
        node_id: config.node.id,
        shards: match config.node.shards {
            ShardCount::Auto => None,
            ShardCount::Exactly(shards) => Some(shards),
        },
        shards_default: u16::try_from(processors).unwrap_or(u16::MAX).clamp(1, slots_max),
        slot_depth: config.slot_depth(),
        chance: seed()?,
        unix_us,
    };
    DataDirectory::open(&config.node.data_dir, &wanted)
}

/// One thread that turns signals into happenings. The second one ends the process whatever the others do.
fn watch_signals(happenings: &flume::Sender<Happening>) -> Result<(), StartError> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(kernel_refused("its signals"))?;
    let happenings = happenings.clone();
    let watch = move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match first {
                None => {
                    first = Some(Instant::now());
                    if happenings.send(Happening::Signal(signal)).is_ok() {
                        continue;
                    }
                }
                Some(first) if first.elapsed() < SAME_WISH_WITHIN => continue,
                Some(_) => eprintln!("jindou: a second signal: ending at once"),
            }
            std::process::exit(EXIT_SECOND_SIGNAL);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(kernel_refused("the signals' thread"))
}

/// What every shard is made from.
struct Told<'a> {
    config: &'a Config,
    directory: &'a DataDirectory,
    cluster: ClusterSettings,
}

/// Where the node can be reached.
struct Doors {
    tcp: BoundAddress,
    ws: BoundAddress,
    cluster: Option<Vec<ClusterSockets>>,
}

fn start_shards(
    told: &Told<'_>,
    processors: &[usize],
    endpoints: Vec<MeshEndpoint>,
    doors: Doors,
    happenings: &flume::Sender<Happening>,
) -> Result<(), StartError> {
    let clock = Clock::start();
    let &Told { config, directory, .. } = told;
    let Doors { tcp, ws, cluster } = doors;
    let mut cluster = cluster.into_iter().flatten();
    // Pinned only when each has a core of its own: two pinned to one would wait for each other.
    let pinned = endpoints.len() <= processors.len();
    for ((endpoint, tcp), ws) in endpoints.into_iter().zip(tcp.sockets).zip(ws.sockets) {
        let shard = endpoint.shard;
        let runtime = ShardRuntimeConfig {
            engine: shard_config(told, shard)?,
            sessions_per_address_max: config.limits.connections_per_address,
            cpu: pinned.then(|| processors[usize::from(shard.0)]),
            io_memory_bytes: machine::IO_MEMORY_BYTES,
            directory: directory.shard_path(shard),
            clock,
        };
        let listener = |socket: socket2::Socket, transport, mode| Listener {
            socket: OwnedFd::from(socket),
            transport,
            plain: mode == ListenMode::Plain,
        };
        let clients = vec![
            listener(tcp, Transport::Tcp, config.listen.tcp_mode),
            listener(ws, Transport::WebSocket, config.listen.ws_mode),
        ];
        let sockets = ShardSockets { clients, cluster: cluster.next() };
        let (ready, readiness) = flume::bounded(1);
        let thread = run_shard(runtime, endpoint, sockets, ready).map_err(kernel_refused("a shard's thread"))?;
        watch_shard(shard, thread, readiness, happenings.clone())?;
    }
    Ok(())
}

fn shard_config(told: &Told<'_>, shard: ShardId) -> Result<ShardConfig, StartError> {
    let &Told { config, directory, .. } = told;
    Ok(ShardConfig {
        place: Place { node: NodeId(config.node.id), shard },
        shard_count: directory.shards(),
        slot_depth: directory.slot_depth(),
        limits: config.engine_limits(),
        token_auth: config.auth.token,
        offline: config.delivery.offline,
        durability: config.journal.durability,
        geometry: directory.geometry(shard, config.segment_bytes()),
        retention: config.retention(directory.shards()),
        seed: seed()?,
        boot: directory.boot(),
        cluster: told.cluster.clone(),
    })
}

/// One thread per shard that waits for its two words: that it is ready, and that it has ended.
fn watch_shard(
    shard: ShardId,
    thread: JoinHandle<()>,
    readiness: flume::Receiver<Result<Ready, String>>,
    happenings: flume::Sender<Happening>,
) -> Result<(), StartError> {
    let watch = move || {
        if let Ok(ready) = readiness.recv() {
            let _ = happenings.send(Happening::Ready(ready));
        }
        let panicked = thread.join().is_err();
        let _ = happenings.send(Happening::Ended { shard, panicked });
    };
    std::thread::Builder::new()
        .name(format!("watch-{shard}"))
        .spawn(watch)
        .map(drop)
        .map_err(kernel_refused("a shard's watcher"))
}

fn mode_name(mode: ListenMode) -> &'static str {
    match mode {
        ListenMode::Cipher => "cipher",
        ListenMode::Plain => "plain",
    }
}

/// What is printed when the node is ready.
struct Banner {
    tcp: String,
    ws: String,
    http: String,
}

/// How a start has ended.
struct Began {
    messages: u64,
    waits: bool,
    took: Duration,
}

impl Banner {
    fn text(&self, config: &Config, directory: &DataDirectory, began: &Began) -> String {
        let contents = if directory.created() { "new".to_owned() } else { format!("{} messages", began.messages) };
        let durability = match config.journal.durability {
            Durability::Fsync => "fsync: what is acknowledged is on disk",
            Durability::Memory => "memory: a power cut or a crash loses the last moments",
        };
        let shards = format!("{}, {} slots", directory.shards(), 1u32 << directory.slot_depth());
        let cluster = config.cluster_address().map(|address| format!("{address} ({})", config.cluster.name));
        let waits = if began.waits { "for other nodes: it serves when /readyz says so" } else { "" };
        let lines: [(&str, &str); 8] = [
            ("tcp", &self.tcp),
            ("websocket", &self.ws),
            ("http", &self.http),
            ("cluster", cluster.as_deref().unwrap_or_default()),
            ("shards", &shards),
            ("data", &format!("{} ({contents})", directory.path().display())),
            ("durability", durability),
            ("waits", waits),
        ];
        let mut text = format!(
            "jindou {}, node {}, {} {:.2} s",
            env!("CARGO_PKG_VERSION"),
            config.node.id,
            if began.waits { "up after" } else { "ready in" },
            began.took.as_secs_f64()
        );
        for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
            // Writing into a string cannot fail.
            let _ = write!(text, "\n  {name:<11}{value}");
        }
        text
    }
}
