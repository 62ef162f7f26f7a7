//! Users in pairs who never stop talking, each over whatever node answers: one goes to the next node when its own is gone or
//! silent, and says again what was not answered, under the same number, as the SDKs do. Both ends write down what they were
//! told, and at the end it is compared: whatever was acknowledged has arrived, once, in order, under the number that its
//! sender was told, and the numbers have no holes.
//!
//! An outage is what a user sees of a fault: from the moment it wanted to say the first thing that was not answered within
//! [`LATE`] to the first good answer. Nothing here knows what a fault is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jindou::format::packet::HeaderFlags;

use crate::client::{Ack, Client, Login, Received, Said};

/// An answer that takes longer is an outage.
pub const LATE: Duration = Duration::from_millis(50);

/// How long a user waits for an answer, or to be let in, before it tries the next node.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries to be let in.
const PAUSE: Duration = Duration::from_millis(20);

/// Unanswered SENDs of a user. At it, nothing new is said.
const WINDOW: usize = 64;

/// After the last fault, how long until everything must have been answered and arrived.
const COMES_TO_REST_WITHIN: Duration = Duration::from_secs(40);

/// Sentences about faults that are kept.
const SENTENCES_MAX: usize = 20;

/// What the threads share.
struct World {
    began: Instant,
    name: String,
    addresses: Mutex<Vec<SocketAddr>>,
    pace: Duration,
    stop_sending: AtomicBool,
    finish: AtomicBool,
    /// How often everybody was sent back to the node where it began.
    spread: AtomicU64,
    acknowledged: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    /// When the oldest unanswered SEND was wanted, in µs of the world; none: `u64::MAX`.
    waiting_since_us: Vec<AtomicU64>,
    /// What each is doing, for people.
    doing: Vec<Mutex<String>>,
}

impl World {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn name_of(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn does(&self, number: usize, what: String) {
        *self.doing[number].lock().expect("nobody panics with it") = what;
    }
}

/// A message that a user wanted to say.
#[derive(Clone, Copy)]
struct Wanted {
    at: Duration,
    /// When it was answered, and what its sender was told.
    answered: Option<(Duration, Ack)>,
}

/// One user's history.
struct Talker {
    number: usize,
    /// Message `n` is at `n - 1`.
    wanted: Vec<Wanted>,
    next_at: Duration,
    unanswered: VecDeque<u64>,
    in_flight: BTreeMap<u32, (u64, Instant)>,
    refused_until: Option<Instant>,
    by_id: BTreeMap<i64, u64>,
    by_number: BTreeMap<u64, (i64, u64)>,
    last_seq: u64,
    counts: Counts,
    sentences: Vec<String>,
}

/// What happened to a user, or to all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages that were wanted.
    pub wanted: u64,
    /// Of these, answered well.
    pub acknowledged: u64,
    /// Never answered: whether they are stored is not known.
    pub unknown: u64,
    /// Received for the first time.
    pub received: u64,
    /// Acknowledged, never received.
    pub lost: u64,
    /// Stored twice.
    pub doubled: u64,
    /// Received after a later one.
    pub reordered: u64,
    /// Not what was sent, or told to both ends differently.
    pub damaged: u64,
    /// Numbers of a channel that nobody has.
    pub holes: u64,
    /// Received again and recognised, which is allowed.
    pub repeats: u64,
    /// Answers that were no success; said again.
    pub refusals: u64,
    /// Connections.
    pub connections: u64,
    /// Connections given up because nothing was answered.
    pub silences: u64,
}

impl Counts {
    /// True when every promise was kept.
    pub fn is_good(&self) -> bool {
        self.lost + self.doubled + self.reordered + self.damaged + self.holes == 0
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        self.wanted += other.wanted;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.holes += other.holes;
        self.repeats += other.repeats;
        self.refusals += other.refusals;
        self.connections += other.connections;
        self.silences += other.silences;
    }
}

fn partner_of(number: usize) -> usize {
    number ^ 1
}

fn payload_of(user: usize, message: u64) -> Vec<u8> {
    let mut payload = format!("from {user} message {message} ").into_bytes();
    payload.resize(48 + (message % 5) as usize * 40, b'.');
    payload
}

impl Talker {
    fn new(number: usize) -> Talker {
        Talker {
            number,
            wanted: Vec::new(),
            next_at: Duration::ZERO,
            unanswered: VecDeque::new(),
            in_flight: BTreeMap::new(),
            refused_until: None,
            by_id: BTreeMap::new(),
            by_number: BTreeMap::new(),
            last_seq: 0,
            counts: Counts::default(),
            sentences: Vec::new(),
        }
    }

    /// Lives until the world says to finish. Partners begin on different nodes.
    fn live(mut self, world: &World) -> Talker {
        let (mut at, mut spread) = (self.number, 0);
        while !world.finish.load(Ordering::Relaxed) {
            if spread != world.spread.load(Ordering::Relaxed) {
                (at, spread) = (self.number, world.spread.load(Ordering::Relaxed));
            }
            let address = {
                let addresses = world.addresses.lock().expect("nobody panics with it");
                addresses[at % addresses.len()]
            };
            if let Err(why) = self.one_connection(world, address) {
                let unanswered = self.unanswered.len();
                world.does(self.number, format!("has left {address}: {why}; {unanswered} unanswered"));
                at += 1;
                self.want_more(world);
                std::thread::sleep(PAUSE);
            }
        }
        self
    }

    fn one_connection(&mut self, world: &World, address: SocketAddr) -> io::Result<()> {
        let mut client = Client::open_within(address, &Login::tcp(&world.name_of(self.number)), PATIENCE)?;
        match client.try_next(PATIENCE)? {
            Some(Said::Connack(1)) => {}
            other => return Err(io::Error::other(format!("instead of CONNACK: {other:?}"))),
        }
        self.counts.connections += 1;
        let spread = world.spread.load(Ordering::Relaxed);
        world.does(self.number, format!("is at {address}"));
        self.in_flight.clear();
        self.refused_until = None;
        let again: Vec<u64> = self.unanswered.iter().copied().collect();
        let outcome = self.send(&mut client, world, &again).and_then(|()| self.talk(&mut client, world, spread));
        // The client has acknowledged what it has read: that counts as received, however the connection has ended.
        while let Ok(Some(said)) = client.try_next(Duration::ZERO) {
            let _ = self.take(said, world);
        }
        outcome
    }

    fn talk(&mut self, client: &mut Client, world: &World, spread: u64) -> io::Result<()> {
        while !world.finish.load(Ordering::Relaxed) {
            if spread != world.spread.load(Ordering::Relaxed) {
                return Err(io::Error::other("sent back"));
            }
            let fresh = self.want_more(world);
            self.send(client, world, &fresh)?;
            self.say_refused_again(client, world)?;
            let wait =
                self.next_at.saturating_sub(world.now()).clamp(Duration::from_millis(1), Duration::from_millis(20));
            if let Some(said) = client.try_next(wait)? {
                self.take(said, world)?;
            }
            if self.in_flight.values().next().is_some_and(|(_, sent)| sent.elapsed() > PATIENCE) {
                self.counts.silences += 1;
                return Err(io::Error::other("a SEND is not answered"));
            }
        }
        Ok(())
    }

    /// What has become due meanwhile, connected or not.
    fn want_more(&mut self, world: &World) -> Vec<u64> {
        let now = world.now();
        let mut fresh = Vec::new();
        while self.next_at <= now && self.unanswered.len() < WINDOW && !world.stop_sending.load(Ordering::Relaxed) {
            self.wanted.push(Wanted { at: self.next_at, answered: None });
            self.unanswered.push_back(self.wanted.len() as u64);
            fresh.push(self.wanted.len() as u64);
            self.next_at += world.pace;
        }
        self.next_at = self.next_at.max(now.saturating_sub(world.pace));
        self.tell_waiting(world);
        fresh
    }

    fn tell_waiting(&self, world: &World) {
        let oldest = self.unanswered.front().map(|message| self.wanted[*message as usize - 1].at);
        let since_us = oldest.map_or(u64::MAX, |at| at.as_micros() as u64);
        world.waiting_since_us[self.number].store(since_us, Ordering::Relaxed);
    }

    fn send(&mut self, client: &mut Client, world: &World, messages: &[u64]) -> io::Result<()> {
        let to = world.name_of(partner_of(self.number));
        let mut out = Vec::new();
        for message in messages {
            let payload = payload_of(self.number, *message);
            let client_seq = client.encode_send(&to, &message.to_string(), &payload, HeaderFlags::RED_DOT, &mut out);
            self.in_flight.insert(client_seq, (*message, Instant::now()));
        }
        if out.is_empty() { Ok(()) } else { client.say_raw(&out) }
    }

    fn say_refused_again(&mut self, client: &mut Client, world: &World) -> io::Result<()> {
        if self.refused_until.is_none_or(|until| Instant::now() < until) {
            return Ok(());
        }
        self.refused_until = None;
        let under_way: BTreeSet<u64> = self.in_flight.values().map(|(message, _)| *message).collect();
        let again: Vec<u64> = self.unanswered.iter().copied().filter(|message| !under_way.contains(message)).collect();
        self.send(client, world, &again)
    }

    fn fault(&mut self, sentence: String) {
        if self.sentences.len() < SENTENCES_MAX {
            self.sentences.push(format!("user {}: {sentence}", self.number));
        }
    }

    fn take(&mut self, said: Said, world: &World) -> io::Result<()> {
        match said {
            Said::Sendack(ack) => self.answered(ack, world),
            Said::Recv(received) => self.received(received, world),
            Said::BadRecv => {
                self.counts.damaged += 1;
                self.fault("a RECV that does not decipher".to_owned());
            }
            Said::Disconnect(reason, text) => return Err(io::Error::other(format!("DISCONNECT {reason} {text}"))),
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, ack: Ack, world: &World) {
        let Some((message, _)) = self.in_flight.remove(&ack.client_seq) else {
            self.counts.damaged += 1;
            return self.fault(format!("an answer to nothing: {ack:?}"));
        };
        if ack.reason != 1 {
            self.counts.refusals += 1;
            self.refused_until = Some(Instant::now() + PAUSE);
            return;
        }
        self.unanswered.retain(|other| *other != message);
        self.wanted[message as usize - 1].answered = Some((world.now(), ack));
        self.counts.acknowledged += 1;
        world.acknowledged[self.number].store(self.counts.acknowledged, Ordering::Relaxed);
        self.tell_waiting(world);
    }

    fn received(&mut self, received: Received, world: &World) {
        let message: u64 = received.number.parse().unwrap_or(0);
        if self.by_id.contains_key(&received.message_id) {
            self.counts.repeats += 1;
            return;
        }
        self.by_id.insert(received.message_id, message);
        let partner = partner_of(self.number);
        let name = world.name_of(partner);
        if received.from != name || received.channel != name || received.payload != payload_of(partner, message) {
            self.counts.damaged += 1;
            self.fault(format!("not what was sent: {received:?}"));
        }
        if let Some(earlier) = self.by_number.insert(message, (received.message_id, received.message_seq)) {
            self.counts.doubled += 1;
            self.fault(format!("message {message} was stored as {earlier:?} and as {:?}", self.by_number[&message]));
        }
        if received.message_seq <= self.last_seq {
            self.counts.reordered += 1;
            self.fault(format!("{} came after {}", received.message_seq, self.last_seq));
        }
        self.last_seq = self.last_seq.max(received.message_seq);
        self.counts.received += 1;
        world.received[self.number].store(self.counts.received, Ordering::Relaxed);
    }

    /// Everything that this user was promised about what its partner has said.
    fn judge(&mut self, sender: &Talker) {
        let mut lost = Vec::new();
        for (message, wanted) in (1..).zip(&sender.wanted) {
            let Some((_, ack)) = wanted.answered else { continue };
            match self.by_number.get(&message) {
                None => lost.push((message, ack.message_seq)),
                Some(got) if *got != (ack.message_id, ack.message_seq) => {
                    self.counts.damaged += 1;
                    self.fault(format!("message {message} came as {got:?}, and its sender was told {ack:?}"));
                }
                Some(_) => {}
            }
        }
        self.counts.lost += lost.len() as u64;
        if !lost.is_empty() {
            let some = &lost[..lost.len().min(5)];
            self.fault(format!(
                "{} acknowledged messages are lost, the first (number, message_seq) {some:?}",
                lost.len()
            ));
        }
    }
}

/// A talk under way.
pub struct Talk {
    world: Arc<World>,
    threads: Vec<JoinHandle<Talker>>,
}

impl Talk {
    /// `users` (an even number) begin to talk, each wanting to say something once per `pace`.
    pub fn begin(name: &str, addresses: Vec<SocketAddr>, users: usize, pace: Duration) -> Talk {
        let numbers = |value: u64| (0..users).map(|_| AtomicU64::new(value)).collect();
        let world = Arc::new(World {
            began: Instant::now(),
            name: name.to_owned(),
            addresses: Mutex::new(addresses),
            pace,
            stop_sending: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            spread: AtomicU64::new(0),
            acknowledged: numbers(0),
            received: numbers(0),
            waiting_since_us: numbers(u64::MAX),
            doing: (0..users).map(|_| Mutex::default()).collect(),
        });
        let live = |number: usize| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || Talker::new(number).live(&world))
        };
        let threads = (0..users).map(live).collect();
        Talk { world, threads }
    }

    /// A further node that users may go to.
    pub fn add(&self, address: SocketAddr) {
        self.world.addresses.lock().expect("nobody panics with it").push(address);
    }

    /// Sends every user back to the node where it began, so that the next fault meets them as evenly as the first.
    pub fn spread(&self) {
        self.world.spread.fetch_add(1, Ordering::Relaxed);
    }

    /// The last one that was added is gone for good.
    pub fn forget_last(&self) {
        self.world.addresses.lock().expect("nobody panics with it").pop();
    }

    /// The time, to name a moment by.
    pub fn now(&self) -> Duration {
        self.world.now()
    }

    /// Answers so far.
    pub fn acknowledged(&self) -> u64 {
        self.world.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Waits until every user gets answers again, and none has waited long for `quiet`; false when it does not come to that.
    pub fn calm_for(&self, quiet: Duration, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let acknowledged =
            || -> Vec<u64> { self.world.acknowledged.iter().map(|n| n.load(Ordering::Relaxed)).collect() };
        let mut since = Instant::now();
        let mut before = acknowledged();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let now_us = self.world.now().as_micros() as u64;
            let late = |since_us: &AtomicU64| {
                now_us.saturating_sub(since_us.load(Ordering::Relaxed)) > LATE.as_micros() as u64
            };
            if self.world.waiting_since_us.iter().any(late) {
                since = Instant::now();
                before = acknowledged();
            }
            if since.elapsed() >= quiet && acknowledged().iter().zip(&before).all(|(now, before)| now > before) {
                return true;
            }
        }
        false
    }

    /// Waits until every user has had an answer to something that it wanted to say after now.
    pub fn wait_answers(&self, within: Duration) {
        let asked_us = self.world.now().as_micros() as u64;
        let deadline = Instant::now() + within;
        let before: Vec<u64> = self.world.acknowledged.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let lags = |number: usize| {
            self.world.acknowledged[number].load(Ordering::Relaxed) <= before[number] + 1
                || self.world.waiting_since_us[number].load(Ordering::Relaxed) < asked_us
        };
        while (0..before.len()).any(lags) {
            if Instant::now() > deadline {
                let of_one = |number: usize| format!("user {number} {}", self.world.doing[number].lock().unwrap());
                let lagging: Vec<String> = (0..before.len()).filter(|number| lags(*number)).map(of_one).collect();
                panic!("within {within:?} these get no answers: {lagging:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nobody says anything new; waits until everything is answered and has arrived, or the bound; and judges.
    pub fn end(self) -> Verdict {
        let world = &self.world;
        world.stop_sending.store(true, Ordering::Relaxed);
        let total = |counts: &[AtomicU64]| -> u64 { counts.iter().map(|count| count.load(Ordering::Relaxed)).sum() };
        let deadline = Instant::now() + COMES_TO_REST_WITHIN;
        let mut rests_since = Instant::now();
        // A little longer than until the numbers agree: whatever is doubled comes late.
        while Instant::now() < deadline && rests_since.elapsed() < Duration::from_secs(1) {
            let waits = world.waiting_since_us.iter().any(|since| since.load(Ordering::Relaxed) != u64::MAX);
            if waits || total(&world.acknowledged) > total(&world.received) {
                rests_since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        world.finish.store(true, Ordering::Relaxed);
        let talkers = self.threads.into_iter().map(|thread| thread.join().expect("a user panicked")).collect();
        Verdict::of(talkers)
    }
}

/// What came of a talk.
pub struct Verdict {
    /// Of all users.
    pub counts: Counts,
    /// What went wrong, for people.
    pub sentences: Vec<String>,
    talkers: Vec<Talker>,
}

impl Verdict {
    fn of(mut talkers: Vec<Talker>) -> Verdict {
        for pair in talkers.chunks_mut(2) {
            let [one, other] = pair else { panic!("users come in pairs") };
            one.judge(other);
            other.judge(one);
            one.counts.holes += holes(one, other);
        }
        let mut counts = Counts::default();
        for talker in &mut talkers {
            talker.counts.wanted = talker.wanted.len() as u64;
            talker.counts.unknown = talker.unanswered.len() as u64;
            counts.add(&talker.counts);
        }
        let sentences = talkers.iter().flat_map(|talker| talker.sentences.clone()).take(SENTENCES_MAX).collect();
        Verdict { counts, sentences, talkers }
    }

    /// Demands that every promise was kept and everything was answered.
    pub fn must_be_good(&self, logs: impl FnOnce() -> String) {
        let good = self.counts.is_good() && self.counts.unknown == 0 && self.counts.acknowledged > 0;
        assert!(good, "{:?}\n{}\n{}", self.counts, self.sentences.join("\n"), logs());
    }

    /// What each user of some saw of a fault at `from`, if anything: the longest wait for an answer that came before `until`. A user of number n was
    /// last spread to node n, modulo all.
    pub fn outages(&self, from: Duration, until: Duration, of: impl Fn(usize) -> bool) -> Vec<Duration> {
        let of_one = |talker: &Talker| {
            let answered = talker.wanted.iter().filter_map(|wanted| Some((wanted.at, wanted.answered?.0)));
            let in_time = answered.filter(|(at, answered)| *answered >= from && *at < until);
            in_time.map(|(at, answered)| answered.saturating_sub(at)).filter(|wait| *wait > LATE).max()
        };
        self.talkers.iter().filter(|talker| of(talker.number)).filter_map(of_one).collect()
    }

    /// How many users there were.
    pub fn users(&self) -> usize {
        self.talkers.len()
    }
}

/// Both directions of a pair together number the channel 1, 2, 3…; what was never answered may have numbers too.
fn holes(one: &Talker, other: &Talker) -> u64 {
    let of = |talker: &Talker| -> Vec<u64> {
        let told = talker.wanted.iter().filter_map(|wanted| Some(wanted.answered?.1.message_seq));
        told.chain(talker.by_number.values().map(|(_, seq)| *seq)).collect()
    };
    let seqs: BTreeSet<u64> = of(one).into_iter().chain(of(other)).collect();
    let unknown = (one.unanswered.len() + other.unanswered.len()) as u64;
    (seqs.last().copied().unwrap_or(0) - seqs.len() as u64).saturating_sub(unknown)
}
