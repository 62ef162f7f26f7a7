//! A fake device, pure: it keeps what an SDK keeps (SENDs without an answer, a counter, the ids that it has seen), is told what
//! arrived and what time it is, and says what it wants done. Its habits are drawn: how it acknowledges, how fast it reads,
//! which version it speaks. It re-sends what has no answer after every CONNACK, with the same number, as SDKs do.
//!
//! ```text
//! away ──open──▶ connecting ──CONNACK 1──▶ live
//!   ▲               │                       │
//!   └───────────────┴─ closed, cut, kicked, refused, silent
//! ```

use std::collections::VecDeque;

use jindou::format::packet::HeaderFlags;

use crate::chance::Chance;
use crate::faults::WorkloadPlan;
use crate::ledger::{Family, Kind, Number, UserIndex};
use crate::wire::{ClientWire, Introduction, Told, Transport};

/// How often a device looks at what is to be done.
pub const TICK_MS: u64 = 10;

/// Opening and CONNECT together may take this long before the device gives up and tries again.
const CONNECT_PATIENCE_NS: u64 = 4_000_000_000;

/// Numbers from here on are of messages that are sent too early, by connection: no log ever holds one.
const TOO_EARLY: Number = 0x8000_0000;

/// A refusal that may pass is tried again after this.
const REFUSED_PAUSE_NS: u64 = 200_000_000;

/// So often may a SEND be refused when everything is well; the disk is tried again every second, so a few are fair.
const REFUSALS_MAX: u32 = 40;

/// Drawn once for a device.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// TCP or WebSocket.
    pub transport: Transport,
    /// Protocol version in CONNECT.
    pub version: u8,
    /// Between two PINGs.
    pub ping_every_ns: u64,
    /// RECVACKs come up to this much later.
    pub ack_delay_ns: u64,
    /// RECVACKs left out, of a thousand.
    pub forget_permille: u32,
    /// RECVACKs sent twice, of a thousand.
    pub double_permille: u32,
    /// Reads at most this much per tick; zero for everything.
    pub read_bytes: usize,
    /// Keeps its device id over connections.
    pub steady_id: bool,
    /// Sends something right behind CONNECT, when it cannot be enciphered rightly yet; SDKs do that when they reconnect.
    pub eager: bool,
}

/// A SEND that has no final answer yet.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Of the message.
    pub number: Number,
    /// Echoed in the answer.
    pub client_seq: u32,
    /// How it is meant.
    pub kind: Kind,
    /// To whom.
    pub to: UserIndex,
    /// Length of the payload.
    pub payload_bytes: usize,
    /// Another payload under a number that was used before.
    pub conflict: bool,
    /// What is wrong with it, if anything: it must be refused.
    pub odd: Option<Oddity>,
    /// On the present connection already, or not before.
    pub sent: bool,
    /// Not before.
    pub not_before_ns: u64,
    /// Refused so often since everything is well.
    pub refusals: u32,
}

/// Ways for a SEND to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A channel type that is not served.
    GroupChannel,
    /// A uid that cannot be.
    BadPeer,
    /// The integrity tag does not fit.
    WrongKey,
    /// It was sent before the keys were agreed on. Not sent again.
    TooEarly,
}

/// A connection as the device knows it.
pub struct Link {
    /// Its index in the world.
    pub connection: usize,
    /// Packets and secrecy.
    pub wire: ClientWire,
    /// CONNACK 1 came.
    pub live: bool,
    since_ns: u64,
    heard_ns: u64,
    pinged_ns: u64,
    acks: VecDeque<Ack>,
}

#[derive(Clone, Copy)]
struct Ack {
    due_ns: u64,
    message_id: i64,
    seq: u64,
    flags: HeaderFlags,
}

/// One device.
pub struct Device {
    /// Its index in the world.
    pub index: usize,
    /// Whose.
    pub user: UserIndex,
    /// Their uid.
    pub uid: String,
    /// Device family.
    pub flag: u8,
    /// Drawn once.
    pub habits: Habits,
    /// Sends no new messages and stays connected.
    pub calm: bool,
    /// Never connects again (a second app of a master family, at rest).
    pub retired: bool,
    /// Does not connect before.
    pub away_until_ns: u64,
    /// When its last connection ended; 0 before any has.
    pub lost_ns: u64,
    /// Needs a token before it connects; set by the world.
    pub token: Option<String>,
    /// Present connection.
    pub link: Option<Link>,
    /// SENDs without a final answer, in order.
    pub queue: VecDeque<Outgoing>,
    /// Which address of its list it tries.
    pub address: usize,
    /// Connections it has opened.
    pub connections: u64,
    /// Answers it got, by success and refusal.
    pub answers: (u64, u64),
    /// SENDs it gave up because they were refused again and again in good times.
    pub given_up: u64,
    next_client_seq: u32,
}

impl Device {
    /// A device that has never connected.
    pub fn new(index: usize, user: UserIndex, uid: String, flag: u8, habits: Habits) -> Device {
        Device {
            index,
            user,
            uid,
            flag,
            habits,
            calm: false,
            retired: false,
            away_until_ns: 0,
            lost_ns: 0,
            token: Some(String::new()),
            link: None,
            queue: VecDeque::new(),
            address: index,
            connections: 0,
            answers: (0, 0),
            given_up: 0,
            next_client_seq: 1,
        }
    }

    /// The cursor it shares.
    pub fn family(&self) -> Family {
        Family { user: self.user, flag: self.flag }
    }

    /// Whether CONNACK 1 came on the present connection.
    pub fn is_live(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.live)
    }

    /// Queues a SEND; it leaves with the next tick on a live connection.
    pub fn enqueue(&mut self, mut outgoing: Outgoing) {
        outgoing.client_seq = self.next_client_seq;
        self.next_client_seq += 1;
        self.queue.push_back(outgoing);
    }

    /// The world has opened a connection for it; returns what to write at once.
    pub fn opened(&mut self, connection: usize, now_ns: u64, plain: bool, chance: &mut Chance) -> Vec<u8> {
        self.connections += 1;
        let device_id = if self.habits.steady_id {
            format!("steady-{}", self.index)
        } else {
            format!("fresh-{}-{}", self.index, self.connections)
        };
        let introduction = Introduction {
            version: self.habits.version,
            uid: &self.uid,
            flag: self.flag,
            device_id: &device_id,
            token: self.token.as_deref().unwrap_or(""),
            client_timestamp_ms: (now_ns / 1_000_000) as i64,
        };
        let mut out = Vec::new();
        let mut wire = ClientWire::open(self.habits.transport, plain, &introduction, chance, &mut out);
        if self.habits.eager && !plain && self.habits.transport == Transport::Tcp {
            let number = TOO_EARLY | connection as Number;
            let early = Outgoing {
                number,
                client_seq: self.next_client_seq,
                kind: Kind::Stored,
                to: self.user,
                payload_bytes: 40,
                conflict: false,
                odd: Some(Oddity::TooEarly),
                sent: true,
                not_before_ns: 0,
                refusals: 0,
            };
            self.next_client_seq += 1;
            wire.send(&early, "nobody", &mut out);
            self.queue.push_front(early);
        }
        self.link = Some(Link {
            connection,
            wire,
            live: false,
            since_ns: now_ns,
            heard_ns: now_ns,
            pinged_ns: now_ns,
            acks: VecDeque::new(),
        });
        out
    }

    /// The connection is gone, by whosever doing.
    pub fn lost(&mut self, now_ns: u64, pause_ns: u64) {
        // The next address, if this one did not work.
        if self.link.take().is_some_and(|link| !link.live) {
            self.address += 1;
        }
        self.queue.retain(|outgoing| outgoing.odd != Some(Oddity::TooEarly));
        self.lost_ns = now_ns;
        self.away_until_ns = self.away_until_ns.max(now_ns + pause_ns);
        for outgoing in &mut self.queue {
            outgoing.sent = false;
        }
    }

    /// Bytes were read; what they told is returned, and what must be answered at once is written to `out`.
    pub fn read(&mut self, bytes: &[u8], now_ns: u64, out: &mut Vec<u8>, chance: &mut Chance) -> Vec<Told> {
        let Some(link) = self.link.as_mut() else { return Vec::new() };
        link.heard_ns = now_ns;
        let told = link.wire.feed(bytes, out);
        for one in &told {
            match one {
                Told::Connack { reason: 1 } => link.live = true,
                Told::Recv(recv) => {
                    let keep = self.calm || !chance.permille(self.habits.forget_permille);
                    let delay_ns = if self.calm { 0 } else { chance.below(self.habits.ack_delay_ns + 1) };
                    let ack = Ack {
                        due_ns: now_ns + delay_ns,
                        message_id: recv.message_id,
                        seq: recv.seq,
                        flags: recv.flags.without(HeaderFlags::DUP),
                    };
                    if keep {
                        link.acks.push_back(ack);
                        if chance.permille(self.habits.double_permille) {
                            link.acks.push_back(ack);
                        }
                    }
                }
                Told::Sendack { client_seq, reason } => {
                    self.answers.0 += u64::from(*reason == 1);
                    self.answers.1 += u64::from(*reason != 1);
                    let calm = self.calm;
                    self.given_up += u64::from(answered(&mut self.queue, *client_seq, *reason, now_ns, calm));
                }
                _ => {}
            }
        }
        told
    }

    /// Writes what is due: acknowledgements, SENDs within the window, PING. Returns the numbers of SENDs written.
    pub fn write_due(
        &mut self,
        now_ns: u64,
        workload: &WorkloadPlan,
        uids: &[String],
        chance: &mut Chance,
        out: &mut Vec<u8>,
    ) -> Vec<Outgoing> {
        let mut left = Vec::new();
        let Some(link) = self.link.as_mut().filter(|link| link.live) else { return left };
        link.acks.retain(|ack| {
            if ack.due_ns > now_ns {
                return true;
            }
            link.wire.recvack(ack.message_id, ack.seq, ack.flags, out);
            false
        });
        let waiting = self.queue.iter().filter(|outgoing| outgoing.sent).count();
        let mut room = workload.send_window.saturating_sub(waiting);
        for outgoing in &mut self.queue {
            if room == 0 {
                break;
            }
            if outgoing.sent || outgoing.not_before_ns > now_ns {
                continue;
            }
            outgoing.sent = true;
            room -= 1;
            link.wire.send(outgoing, &uids[outgoing.to], out);
            left.push(outgoing.clone());
            if chance.permille(workload.double_send_permille) {
                link.wire.send(outgoing, &uids[outgoing.to], out);
            }
        }
        if now_ns - link.pinged_ns >= self.habits.ping_every_ns {
            link.pinged_ns = now_ns;
            link.wire.ping(out);
        }
        left
    }

    /// Whether the device gives its connection up: no CONNACK, or no answer to anything for long.
    pub fn gives_up(&self, now_ns: u64) -> bool {
        self.link.as_ref().is_some_and(|link| {
            (!link.live && now_ns - link.since_ns > CONNECT_PATIENCE_NS)
                || (link.live && now_ns - link.heard_ns > 3 * self.habits.ping_every_ns)
        })
    }

    /// Whether it should connect now.
    pub fn wants_to_connect(&self, now_ns: u64) -> bool {
        self.link.is_none() && !self.retired && now_ns >= self.away_until_ns && self.token.is_some()
    }

    /// Whether everything it sent has its answer.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty() && self.link.as_ref().is_none_or(|link| link.acks.is_empty())
    }
}

/// Takes a SENDACK off the queue; a refusal that may pass is tried again. True when it is given up in good times.
fn answered(queue: &mut VecDeque<Outgoing>, client_seq: u32, reason: u8, now_ns: u64, calm: bool) -> bool {
    let Some(at) = queue.iter().position(|outgoing| outgoing.client_seq == client_seq) else { return false };
    let passing = matches!(reason, 15 | 22) && queue[at].odd.is_none();
    if !passing {
        queue.remove(at);
        return false;
    }
    queue[at].sent = false;
    queue[at].not_before_ns = now_ns + REFUSED_PAUSE_NS;
    queue[at].refusals += u32::from(calm);
    let given_up = queue[at].refusals > REFUSALS_MAX;
    if given_up {
        queue.remove(at);
    }
    given_up
}
