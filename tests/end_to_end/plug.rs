//! The promise itself: users send to each other without pause while the node is killed again and again with SIGKILL, at moments
//! nobody chose. Clients come back and resend what was not acknowledged under the same number, as the SDKs do. In the end every
//! acknowledged message must have been received, under the id and number that its sender was told, once, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jindou::format::packet::HeaderFlags;

use crate::client::{Client, Login, Received, Said};
use crate::node::Node;

const KILLS: u32 = 20;
const USERS: usize = 8;
const WINDOW: usize = 16;
/// After the last kill, how long until everything must have arrived.
const COMES_TO_REST_WITHIN: Duration = Duration::from_secs(30);

/// What the threads share.
struct World {
    address: SocketAddr,
    stop_sending: AtomicBool,
    finish: AtomicBool,
    acknowledged: [AtomicU64; USERS],
    received: [AtomicU64; USERS],
}

/// One user's history.
struct User {
    number: usize,
    next: u64,
    unacknowledged: VecDeque<u64>,
    in_flight: BTreeMap<u32, u64>,
    acks: BTreeMap<u64, (i64, u64)>,
    received: Vec<Received>,
    known_ids: BTreeSet<i64>,
    repeats: u64,
    connections: u64,
}

fn name_of(number: usize) -> String {
    format!("user{number}")
}

fn partner_of(number: usize) -> usize {
    number ^ 1
}

fn payload_of(user: usize, message: u64) -> Vec<u8> {
    let mut payload = format!("from {user} message {message} ").into_bytes();
    payload.resize(64 + (message % 7) as usize * 50, b'.');
    payload
}

impl User {
    fn new(number: usize) -> User {
        User {
            number,
            next: 1,
            unacknowledged: VecDeque::new(),
            in_flight: BTreeMap::new(),
            acks: BTreeMap::new(),
            received: Vec::new(),
            known_ids: BTreeSet::new(),
            repeats: 0,
            connections: 0,
        }
    }

    /// Lives until the world says to finish: connects, talks, loses the connection, connects again.
    fn live(mut self, world: &World) -> User {
        let login = Login::tcp(&name_of(self.number));
        while !world.finish.load(Ordering::Relaxed) {
            if self.one_connection(world, &login).is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self
    }

    fn one_connection(&mut self, world: &World, login: &Login) -> io::Result<()> {
        let mut client = Client::open_at(world.address, login)?;
        match client.try_next(Duration::from_secs(5))? {
            Some(Said::Connack(1)) => {}
            other => return Err(io::Error::other(format!("instead of CONNACK: {other:?}"))),
        }
        self.connections += 1;
        self.in_flight.clear();
        let again: Vec<u64> = self.unacknowledged.iter().copied().collect();
        self.send(&mut client, &again)?;
        while !world.finish.load(Ordering::Relaxed) {
            let mut fresh = Vec::new();
            while self.unacknowledged.len() < WINDOW && !world.stop_sending.load(Ordering::Relaxed) {
                fresh.push(self.next);
                self.unacknowledged.push_back(self.next);
                self.next += 1;
            }
            self.send(&mut client, &fresh)?;
            if let Some(said) = client.try_next(Duration::from_millis(20))? {
                self.take(said, world);
            }
        }
        Ok(())
    }

    fn send(&mut self, client: &mut Client, messages: &[u64]) -> io::Result<()> {
        let to = name_of(partner_of(self.number));
        let mut out = Vec::new();
        for message in messages {
            let payload = payload_of(self.number, *message);
            let client_seq = client.encode_send(&to, &message.to_string(), &payload, HeaderFlags::RED_DOT, &mut out);
            self.in_flight.insert(client_seq, *message);
        }
        if out.is_empty() { Ok(()) } else { client.say_raw(&out) }
    }

    fn take(&mut self, said: Said, world: &World) {
        match said {
            Said::Sendack(ack) => {
                assert_eq!(ack.reason, 1, "user {}: {ack:?}", self.number);
                let message = self.in_flight.remove(&ack.client_seq).expect("an answer to what was sent");
                self.unacknowledged.retain(|other| *other != message);
                let told = self.acks.insert(message, (ack.message_id, ack.message_seq));
                assert!(told.is_none(), "user {}: message {message} was acknowledged twice", self.number);
                world.acknowledged[self.number].store(self.acks.len() as u64, Ordering::Relaxed);
            }
            Said::Recv(received) => {
                if self.known_ids.insert(received.message_id) {
                    self.received.push(received);
                    world.received[self.number].store(self.received.len() as u64, Ordering::Relaxed);
                } else {
                    self.repeats += 1;
                }
            }
            other => panic!("user {}: the server said {other:?}", self.number),
        }
    }

    /// Everything that this user's partner was promised.
    fn check_against(&self, sender: &User) {
        let who = format!("{} → {}", name_of(sender.number), name_of(self.number));
        assert!(sender.unacknowledged.is_empty(), "{who}: {} SENDs never answered", sender.unacknowledged.len());
        assert_eq!(sender.acks.len() as u64, sender.next - 1, "{who}");
        let mut by_number = BTreeMap::new();
        for received in &self.received {
            assert_eq!(
                (received.from.as_str(), received.channel.as_str()),
                (&*name_of(sender.number), &*name_of(sender.number))
            );
            let message: u64 = received.number.parse().expect("numbers are decimal");
            let doubled = by_number.insert(message, received);
            assert!(doubled.is_none(), "{who}: message {message} was stored twice: {doubled:?} and {received:?}");
        }
        for (message, (message_id, message_seq)) in &sender.acks {
            let received =
                by_number.get(message).unwrap_or_else(|| panic!("{who}: acknowledged message {message} is lost"));
            assert_eq!(
                (received.message_id, received.message_seq),
                (*message_id, *message_seq),
                "{who}: message {message}"
            );
            assert_eq!(received.payload, payload_of(sender.number, *message), "{who}: message {message}");
        }
        let in_order = self.received.windows(2).all(|pair| pair[0].message_seq < pair[1].message_seq);
        assert!(in_order, "{who}: received out of order");
        let numbers: Vec<u64> = self.received.iter().map(|received| received.number.parse().unwrap_or(0)).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{who}: not in the order in which they were sent");
    }
}

/// Both directions of a pair together number the channel 1, 2, 3… without holes.
fn numbers_are_dense(one: &User, other: &User) {
    let mut seqs: Vec<u64> = one.acks.values().chain(other.acks.values()).map(|(_, seq)| *seq).collect();
    seqs.sort_unstable();
    let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
    assert_eq!(seqs, expected, "the numbers of {} and {} have holes", name_of(one.number), name_of(other.number));
}

/// Kills and restarts at drawn moments.
fn pull_the_plug(node: &mut Node, world: &World, seed: u64) -> u64 {
    let mut chance = seed;
    let mut acknowledged_before = 0;
    for kill in 0..KILLS {
        // A kill that finds nothing acknowledged since the last one proves nothing: wait for some first.
        let deadline = Instant::now() + COMES_TO_REST_WITHIN;
        while total(&world.acknowledged) < acknowledged_before + 20 {
            assert!(Instant::now() < deadline, "no progress before kill {kill}\n{}", node.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        std::thread::sleep(Duration::from_millis(chance % 300));
        acknowledged_before = total(&world.acknowledged);
        node.kill();
        node.launch();
        node.wait_ready();
    }
    acknowledged_before
}

fn total(counts: &[AtomicU64; USERS]) -> u64 {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

#[test]
fn killed_twenty_times_under_load_nothing_acknowledged_is_lost() {
    let mut node = Node::start("plug", &["node.shards=2"]);
    let seed = u64::from(std::process::id()) * 0x9e37_79b9 + 1;
    let world = Arc::new(World {
        address: node.tcp(),
        stop_sending: AtomicBool::new(false),
        finish: AtomicBool::new(false),
        acknowledged: Default::default(),
        received: Default::default(),
    });
    let threads: Vec<_> = (0..USERS)
        .map(|number| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || User::new(number).live(&world))
        })
        .collect();
    pull_the_plug(&mut node, &world, seed);
    world.stop_sending.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + COMES_TO_REST_WITHIN;
    let mut last = (0, 0);
    let mut quiet_since = Instant::now();
    while Instant::now() < deadline && quiet_since.elapsed() < Duration::from_secs(2) {
        let counts = (total(&world.acknowledged), total(&world.received));
        if counts != last || counts.0 != counts.1 {
            quiet_since = Instant::now();
        }
        last = counts;
        std::thread::sleep(Duration::from_millis(20));
    }
    world.finish.store(true, Ordering::Relaxed);
    let users: Vec<User> = threads.into_iter().map(|thread| thread.join().expect("a user panicked")).collect();
    let repeats: u64 = users.iter().map(|user| user.repeats).sum();
    let connections: u64 = users.iter().map(|user| user.connections).sum();
    println!(
        "{KILLS} kills (seed {seed}): {} acknowledged, {} received once, {repeats} repeats recognised, {connections} connections",
        last.0, last.1
    );
    for user in &users {
        user.check_against(&users[partner_of(user.number)]);
    }
    for pair in users.chunks(2) {
        numbers_are_dense(&pair[0], &pair[1]);
    }
}
