//! Whole shards on real sockets and disk, in this process. Every wait has an end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;
use crate::engine::shard::{ClusterSettings, Durability, JournalGeometry, OfflineMode, Retention, shard_of};
use crate::format::pipeline::Transport;
use crate::ids::{NodeId, SlotId, Uid};
use crate::limits::Limits;
use crate::shell::mesh::{MeshSender, build_mesh};
use crate::shell::metronome::Metronome;
use crate::shell::seed::kernel_seed;
use crate::shell::test_client::{Dial, Heard, PATIENCE, TestClient};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("jindou-loop-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node of unpinned shards.
struct Node {
    mesh: MeshSender,
    threads: Vec<JoinHandle<()>>,
    metronome: Option<Metronome>,
    tcp: SocketAddr,
    websocket: SocketAddr,
    plain: SocketAddr,
    /// Where other nodes reach each shard.
    cluster: Vec<SocketAddr>,
}

fn bound(address: SocketAddr) -> (std::os::fd::OwnedFd, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket.into(), address)
}

fn config(shard: u16, shards: u16, directory: &Path, clock: Clock) -> ShardRuntimeConfig {
    let directory = directory.join(shard.to_string());
    std::fs::create_dir_all(&directory).unwrap();
    ShardRuntimeConfig {
        engine: ShardConfig {
            place: Place { node: NodeId(1), shard: ShardId(shard) },
            shard_count: shards,
            slot_depth: 4,
            limits: Limits::PRODUCTION,
            token_auth: false,
            offline: OfflineMode::Push,
            durability: Durability::Fsync,
            geometry: JournalGeometry { block_bytes: 4096, segment_bytes: 1 << 20, identity: u64::from(shard) + 7 },
            retention: Retention { bytes: 0, age_ms: 0 },
            seed: kernel_seed().unwrap(),
            boot: 5,
            cluster: ClusterSettings::alone(9),
        },
        sessions_per_address_max: 0,
        cpu: None,
        io_memory_bytes: 64 << 10,
        directory,
        clock,
    }
}

impl Node {
    fn start(shards: u16, directory: &Path) -> Node {
        let endpoints = build_mesh(shards).unwrap();
        let mesh = endpoints[0].sender.clone();
        let clock = Clock::start();
        let metronome = Some(Metronome::start(mesh.clone()).unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut addresses = [any; 3];
        let (mut threads, mut cluster) = (Vec::new(), Vec::new());
        let (ready, readiness) = flume::bounded(usize::from(shards));
        for endpoint in endpoints {
            let config = config(endpoint.shard.0, shards, directory, clock);
            let kinds = [(Transport::Tcp, false), (Transport::WebSocket, false), (Transport::Tcp, true)];
            let mut listeners = Vec::new();
            for (address, (transport, plain)) in addresses.iter_mut().zip(kinds) {
                let (socket, found) = bound(*address);
                *address = found;
                listeners.push(Listener { socket, transport, plain });
            }
            let (listener, address) = bound(any);
            let gossip = (endpoint.shard.0 == 0).then(|| std::net::UdpSocket::bind(address).unwrap());
            cluster.push(address);
            let sockets = ShardSockets { clients: listeners, cluster: Some(ClusterSockets { listener, gossip }) };
            threads.push(run_shard(config, endpoint, sockets, ready.clone()).unwrap());
        }
        for _ in 0..shards {
            readiness.recv_timeout(PATIENCE).expect("an answer").expect("a shard that serves");
        }
        let [tcp, websocket, plain] = addresses;
        let node = Node { mesh, threads, metronome, tcp, websocket, plain, cluster };
        node.until("slots have leaders", |snapshots| {
            snapshots.iter().all(|snapshot| snapshot.engine.slots_led == snapshot.engine.slots_hosted)
        });
        for shard in 0..shards {
            let (reply, answer) = flume::bounded(1);
            node.mesh.send(ShardId(shard), MeshMessage::Serve { reply }).expect("a shard that runs");
            answer.recv_timeout(PATIENCE).expect("an answer").expect("its listeners");
        }
        node
    }

    fn tcp(&self) -> Dial {
        Dial { address: self.tcp, transport: Transport::Tcp, plain: false }
    }

    fn websocket(&self) -> Dial {
        Dial { address: self.websocket, transport: Transport::WebSocket, plain: false }
    }

    fn plain(&self) -> Dial {
        Dial { address: self.plain, transport: Transport::Tcp, plain: true }
    }

    fn snapshots(&self) -> Vec<ShardSnapshot> {
        (0..self.mesh.shard_count())
            .map(|shard| {
                let (reply, answer) = flume::bounded(1);
                self.mesh.send(ShardId(shard), MeshMessage::Snapshot { reply }).expect("a shard that runs");
                *answer.recv_timeout(PATIENCE).expect("its numbers")
            })
            .collect()
    }

    fn until(&self, what: &str, found: impl Fn(&[ShardSnapshot]) -> bool) {
        let began = Instant::now();
        while !found(&self.snapshots()) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops every shard and gives how long that took.
    fn stop(mut self) -> Duration {
        let began = Instant::now();
        for shard in 0..self.mesh.shard_count() {
            self.mesh.send(ShardId(shard), MeshMessage::Stop).expect("a shard that runs");
        }
        self.metronome = None;
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread that ends in order");
        }
        began.elapsed()
    }
}

/// A uid whose home is on this shard.
fn uid_on(shard: u16, shards: u16, name: &str) -> String {
    (0..)
        .map(|n| format!("{name}{n}"))
        .find(|uid| shard_of(&Uid::parse(uid).unwrap(), 4, shards) == ShardId(shard))
        .expect("some uid lives there")
}

fn talk(ana: &mut TestClient, bo: &mut TestClient, to: &str, from: &str, count: u32, first_seq: u64) {
    for n in 1..=count {
        let text = format!("{from} says {n}");
        ana.send(to, n, text.as_bytes());
        let Heard::Sendack { client_seq, message_id, message_seq, reason: 1 } = ana.hear("SENDACK") else {
            panic!("no SENDACK")
        };
        assert_eq!((client_seq, message_seq), (n, first_seq + u64::from(n) - 1));
        let expected = Heard::Recv { from: from.to_owned(), payload: text.into_bytes(), message_id, message_seq };
        assert_eq!(bo.hear("RECV"), expected);
        bo.acknowledge(message_id, message_seq);
    }
}

#[test]
fn two_users_talk_over_every_transport_and_across_shards() {
    let scratch = Scratch::new("talk");
    let node = Node::start(2, &scratch.0);
    for (round, dial) in [node.tcp(), node.websocket(), node.plain()].into_iter().enumerate() {
        for (home_a, home_b) in [(0, 0), (0, 1), (1, 0)] {
            let ana = uid_on(home_a, 2, &format!("ana{round}{home_a}{home_b}x"));
            let bo = uid_on(home_b, 2, &format!("bo{round}{home_a}{home_b}x"));
            let mut ana_client = TestClient::connect(dial, &ana);
            let mut bo_client = TestClient::connect(dial, &bo);
            talk(&mut ana_client, &mut bo_client, &bo, &ana, 10, 1);
            talk(&mut bo_client, &mut ana_client, &ana, &bo, 10, 11);
        }
    }
    // All eighteen live at once, each on its home's shard; with a listener of the kernel's choice some had to move.
    let snapshots = node.snapshots();
    assert_eq!(snapshots.iter().map(|snapshot| snapshot.counters.messages_stored).sum::<u64>(), 180);
    for stage in [Stage::Read, Stage::Decode, Stage::Step, Stage::JournalWait, Stage::WholePath, Stage::Turn] {
        assert!(snapshots[0].stages[stage as usize].count > 0, "{stage:?} was not timed");
    }
    assert!(node.stop() < STOP_WITHIN);
}

#[test]
fn a_connection_moves_to_its_home_with_everything_it_said() {
    let scratch = Scratch::new("move");
    let node = Node::start(2, &scratch.0);
    let mut clients = Vec::new();
    for n in 0..40 {
        let mut client = TestClient::open([node.plain(), node.websocket()][n % 2], &format!("mover{n}"));
        // Behind CONNECT in the same or the next segment, whether or not the connection moves.
        if n % 2 == 0 {
            client.say(&crate::format::packet::Packet::Ping);
        }
        clients.push(client);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut heard = vec![client.hear("the first answer")];
        if n % 2 == 0 {
            heard.push(client.hear("the second answer"));
            assert!(heard.contains(&Heard::Pong), "{heard:?}");
        }
        assert!(heard.contains(&Heard::Connack { reason: 1 }), "{heard:?}");
    }
    let snapshots = node.snapshots();
    let moved: u64 = snapshots.iter().map(|snapshot| snapshot.counters.sessions_handed_over).sum();
    assert!(moved > 0, "the kernel spread forty connections so that none had to move: nothing was tested");
    assert_eq!(snapshots.iter().map(|snapshot| snapshot.engine.sessions_live).sum::<usize>(), 40);
    for (shard, snapshot) in snapshots.iter().enumerate() {
        let at_home =
            (0..40).filter(|n| shard_of(&Uid::parse(&format!("mover{n}")).unwrap(), 4, 2).0 == shard as u16).count();
        assert_eq!(snapshot.engine.sessions_live, at_home);
        assert_eq!(snapshot.shell.sockets, at_home as u64);
    }
    drop(clients);
    node.until("all sockets have ended", |snapshots| snapshots.iter().all(|snapshot| snapshot.shell.sockets == 0));
    assert!(node.stop() < STOP_WITHIN);
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let scratch = Scratch::new("restart");
    let (ana, bo) = (uid_on(0, 2, "ana"), uid_on(1, 2, "bo"));
    let node = Node::start(2, &scratch.0);
    let mut client = TestClient::connect(node.tcp(), &ana);
    for n in 1..=50u32 {
        client.send(&bo, n, &n.to_le_bytes());
    }
    for _ in 0..50 {
        assert!(matches!(client.hear("SENDACK"), Heard::Sendack { reason: 1, .. }));
    }
    assert!(node.stop() < STOP_WITHIN);
    client.hear_end();
    let node = Node::start(2, &scratch.0);
    let mut client = TestClient::connect(node.tcp(), &bo);
    for n in 1..=50u32 {
        let Heard::Recv { payload, message_id, message_seq, .. } = client.hear("RECV") else { panic!("no RECV") };
        assert_eq!((payload.as_slice(), message_seq), (n.to_le_bytes().as_slice(), u64::from(n)));
        client.acknowledge(message_id, message_seq);
    }
    assert!(node.stop() < STOP_WITHIN);
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let scratch = Scratch::new("garbage");
    let node = Node::start(1, &scratch.0);
    let mut good = TestClient::connect(node.tcp(), "good");
    let mut bad = TestClient::connect(node.tcp(), "bad");
    bad.say_raw(&[0xff; 3000]);
    bad.hear_end();
    let mut early = TestClient::open(node.plain(), "early");
    early.say_raw(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]);
    early.hear_end();
    good.say(&crate::format::packet::Packet::Ping);
    assert_eq!(good.hear("PONG"), Heard::Pong);
    node.until("one socket is left", |snapshots| snapshots[0].shell.sockets == 1);
    assert!(node.stop() < STOP_WITHIN);
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_stop() {
    let scratch = Scratch::new("deaf");
    let node = Node::start(1, &scratch.0);
    let mut deaf = TestClient::connect(node.plain(), "deaf");
    let mut ana = TestClient::connect(node.plain(), "ana");
    for n in 1..=100 {
        ana.send("deaf", n, &[7; 30_000]);
        assert!(matches!(ana.hear("SENDACK"), Heard::Sendack { reason: 1, .. }));
    }
    let took = node.stop();
    assert!(took < STOP_WITHIN + Duration::from_secs(1), "{took:?}");
    // What it was sent before the end is whole packets, in order.
    deaf.hear_end();
    let mut last = 0;
    while let Some(heard) = deaf.try_hear() {
        let Heard::Recv { message_seq, .. } = heard else { panic!("{heard:?}") };
        assert_eq!(message_seq, last + 1);
        last = message_seq;
    }
}

#[test]
fn other_nodes_come_in_and_are_let_go_at_the_end() {
    let scratch = Scratch::new("links");
    let node = Node::start(2, &scratch.0);
    let mut link = std::net::TcpStream::connect(node.cluster[1]).unwrap();
    link.set_read_timeout(Some(PATIENCE)).unwrap();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"not gossip", node.cluster[0]).unwrap();
    node.until("both have come", |snapshots| {
        let links: Vec<u64> = snapshots.iter().map(|snapshot| snapshot.shell.links).collect();
        links == [0, 1] && snapshots[0].shell.datagrams_received == 1
    });
    assert!(node.stop() < STOP_WITHIN);
    let end = std::io::Read::read_to_end(&mut link, &mut Vec::new());
    assert!(end.is_ok(), "{end:?}");
}

#[test]
fn an_idle_shard_sleeps() {
    let scratch = Scratch::new("idle");
    let node = Node::start(1, &scratch.0);
    let _client = TestClient::connect(node.tcp(), "ana");
    std::thread::sleep(Duration::from_millis(300));
    let before = node.snapshots()[0].shell;
    std::thread::sleep(Duration::from_secs(1));
    let after = node.snapshots()[0].shell;
    // Twenty beats of the metronome, ten ticks of raft, one sweep, and the two questions; each may cost a second look.
    let (turns, sleeps) = (after.turns - before.turns, after.sleeps - before.sleeps);
    assert!(turns <= 120, "{turns} turns in an idle second");
    assert!(sleeps >= 15, "{sleeps} sleeps in an idle second");
    assert!(node.stop() < STOP_WITHIN);
}

#[test]
fn a_shard_that_cannot_start_says_why_in_one_line() {
    let scratch = Scratch::new("refused");
    let endpoint = build_mesh(1).unwrap().remove(0);
    let config = config(0, 1, &scratch.0, Clock::start());
    std::fs::remove_dir_all(&config.directory).unwrap();
    std::fs::write(&config.directory, b"a file where a directory should be").unwrap();
    let (ready, readiness) = flume::bounded(1);
    let sockets = ShardSockets { clients: Vec::new(), cluster: None };
    let thread = run_shard(config, endpoint, sockets, ready).unwrap();
    let line = readiness.recv_timeout(PATIENCE).unwrap().expect_err("a shard without a directory");
    assert!(line.contains("journal") && line.lines().count() == 1, "{line}");
    thread.join().unwrap();
}

const CHILD: &str = "JINDOU_TEST_SHARD_THAT_FAILS";

#[test]
fn a_panic_in_a_shard_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        guarded(ShardId(3), || -> () { panic!("on purpose") });
    }
    let name = "shell::shard_loop::tests::a_panic_in_a_shard_ends_the_process";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(101));
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("jindou: shard 3 has failed"), "{said}");
}

/// With a preempt timer far below the fifty milliseconds that are safe, glommio parks with runnable tasks again and again. The
/// metronome ends each of these parks, also in the executor's first pass and also when the knock's reader is among the tasks.
#[test]
fn the_beat_ends_a_park_with_runnable_tasks() {
    let endpoint = build_mesh(1).unwrap().remove(0);
    let metronome = Metronome::start(endpoint.sender.clone()).unwrap();
    let watch = metronome.watch();
    let stuck = std::thread::spawn(move || {
        let began = Instant::now();
        endpoint.doorbell.enter_thread();
        let executor = loop {
            let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
                .io_memory(64 << 10)
                .preempt_timer(Duration::from_micros(20));
            match builder.make() {
                Ok(executor) => break executor,
                Err(error) => assert!(began.elapsed() < PATIENCE, "no executor: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        executor.run(async move {
            let knock = glommio::spawn_local(listen_to_knock(make_knock().unwrap(), Rc::default()));
            while began.elapsed() < Duration::from_secs(4) {
                endpoint.doorbell.count_turn();
                while endpoint.inbox.try_recv().is_ok() {}
                glommio::executor().yield_task_queue_now().await;
            }
            knock.cancel().await;
        });
    });
    stuck.join().unwrap();
    let longest = watch.longest(ShardId(0));
    assert!(longest > Duration::ZERO, "the executor never parked wrongly: nothing was tested");
    assert!(longest < Duration::from_secs(3), "parked for {longest:?} in spite of the beat");
}

/// A WebSocket's own pings give the engine nothing to do: on an idle node the next read must not wait for somebody else's deadline. So many
/// took 12 s when it did.
#[test]
fn who_has_not_said_connect_yet_is_read_at_once() {
    use std::io::{Read, Write};
    let scratch = Scratch::new("fresh");
    let node = Node::start(1, &scratch.0);
    let mut client = std::net::TcpStream::connect(node.websocket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let pings = [0x89, 0x80, 1, 2, 3, 4].repeat(350_000);
    let mut writer = client.try_clone().unwrap();
    let began = Instant::now();
    let writing = std::thread::spawn(move || writer.write_all(&pings));
    let mut pongs = vec![0; 2 * 350_000];
    client.read_exact(&mut pongs).unwrap();
    writing.join().unwrap().unwrap();
    assert!(pongs.chunks(2).all(|pong| pong == [0x8a, 0]), "nothing but pongs");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    node.stop();
}

/// A shard may not sleep in its executor for as long as a segment or a checkpoint takes (see [`waking`]): nothing of the executor is asked for
/// them, and the shard is woken by its bell.
#[test]
fn the_files_thread_is_waited_for_without_the_executor() {
    use crate::shell::journal_file::JournalFiles;
    let scratch = Scratch::new("files");
    std::fs::create_dir_all(&scratch.0).unwrap();
    let config = config(0, 1, &scratch.0, Clock::start()).engine;
    let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).io_memory(64 << 10).ring_depth(64);
    builder.make().unwrap().run(async {
        let files = JournalFiles::open(&scratch.0, config.geometry, config.durability).await.unwrap();
        let (bell, rung) = flume::unbounded();
        files.tell(move || bell.send(()).unwrap_or_default());
        let mut desk = DiskDesk::new(files, Rc::new(Alarm::default()));
        desk.prepare_segment(1);
        desk.checkpoint(SlotId(3), vec![1; 100]);
        assert_eq!((desk.tasks(), desk.under_way()), (0, 2));
        let mut events = Vec::new();
        while events.len() < 2 {
            rung.recv_timeout(PATIENCE).expect("a bell for each answer");
            assert!(desk.has_outcomes());
            desk.collect(&mut events, Clock::start(), &mut Stages::new(false));
        }
        assert!(matches!(
            events[..],
            [
                Event::SegmentReady { segment: 1, result: Ok(()) },
                Event::CheckpointWritten { slot: SlotId(3), result: Ok(()) }
            ] | [
                Event::CheckpointWritten { slot: SlotId(3), result: Ok(()) },
                Event::SegmentReady { segment: 1, result: Ok(()) }
            ]
        ));
        assert_eq!((desk.under_way(), desk.has_outcomes()), (0, false));
    });
}
