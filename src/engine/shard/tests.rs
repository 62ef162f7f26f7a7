//! A shard alone, driven by hand: the paths a reader wants to see in one place. Faults and many shards are the simulator's.

use super::*;
use crate::engine::event::{ClientKey, ClientPacket, ConnectPacket, Opened, SendPacket};
use crate::format::frame::{Frame, Registered, SendBody};
use crate::format::packet::{HeaderFlags, Reason, Setting};
use crate::ids::{DeviceLevel, NodeId};
use crate::limits::Limits;
use crate::time::UnixMillis;
use bytes::Bytes;
use std::time::Duration;

/// One shard whose disk is perfect and instant.
pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) now: Now,
    pub(super) events: EventBatch,
    effects: Effects,
    sent: Vec<(u32, ServerPacket)>,
    pub(super) others: Vec<Effect>,
}

pub(super) fn config() -> ShardConfig {
    ShardConfig {
        place: Place { node: NodeId(1), shard: ShardId(0) },
        shard_count: 1,
        slot_depth: 2,
        limits: Limits::PRODUCTION,
        token_auth: false,
        offline: OfflineMode::Push,
        durability: Durability::Fsync,
        geometry: JournalGeometry { identity: 7, block_bytes: 512, segment_bytes: 1 << 20 },
        retention: Retention { bytes: 0, age_ms: 0 },
        seed: [3; 32],
        boot: 5,
        cluster: ClusterSettings::alone(9),
    }
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::with(Limits::PRODUCTION)
    }

    pub(super) fn with(limits: Limits) -> Bench {
        let now = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        let shard = Recovery::new(ShardConfig { limits, ..config() })
            .finish(now, None)
            .expect("nothing on disk is nothing wrong");
        let mut bench =
            Bench { shard, now, events: Vec::new(), effects: Effects::default(), sent: Vec::new(), others: Vec::new() };
        bench.run();
        assert_eq!(bench.shard.view().slots_led, 4);
        bench
    }

    /// Steps until nothing more happens; the disk answers at once.
    pub(super) fn run(&mut self) {
        for _ in 0..100 {
            self.step();
            if self.events.is_empty() && self.shard.next_deadline() > Some(self.now.instant) {
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// One step, and what the disk says to it comes with the next.
    fn step(&mut self) {
        self.shard.step(self.now, &mut self.events, &mut self.effects);
        self.shard.check_invariants();
        for effect in std::mem::take(&mut self.effects.list) {
            match effect {
                Effect::Send { session, packet } => self.sent.push((session.index, packet)),
                Effect::JournalWrite(write) => {
                    let (flush, bytes) = (write.flush, write.bytes);
                    self.events.push(Event::JournalWritten { flush, bytes, result: Ok(()) });
                }
                Effect::JournalSegment { segment } => {
                    self.events.push(Event::SegmentReady { segment, result: Ok(()) });
                }
                other => self.others.push(other),
            }
        }
    }

    /// One step a little later.
    pub(super) fn step_once(&mut self, span: Duration) {
        self.now.instant = self.now.instant + span;
        self.now.unix.0 += span.as_millis() as u64;
        self.step();
    }

    pub(super) fn wait(&mut self, span: Duration) {
        self.now.instant = self.now.instant + span;
        self.now.unix.0 += span.as_millis() as u64;
        self.run();
    }

    pub(super) fn connect(&mut self, index: u32, uid: &str, device_id: &str) {
        let session = SessionId { index, generation: 1 };
        self.events.push(Event::Opened(Opened { session, handed_over: false }));
        let connect = ConnectPacket {
            uid: uid.into(),
            device_id: device_id.into(),
            device_flag: 0,
            token: "".into(),
            client_timestamp_ms: 0,
            key: ClientKey::Usable,
        };
        self.packet(index, ClientPacket::Connect(Box::new(connect)));
    }

    fn packet(&mut self, index: u32, packet: ClientPacket) {
        self.events.push(Event::Packet { session: SessionId { index, generation: 1 }, packet });
        self.run();
    }

    fn send(&mut self, index: u32, to: &str, number: &str, payload: &str, flags: HeaderFlags) {
        let send = SendPacket {
            flags,
            setting: Setting(0),
            client_seq: 9,
            channel_type: 1,
            expire_s: 0,
            channel_id: Bytes::copy_from_slice(to.as_bytes()),
            body: SendBody::new(number, "", payload.as_bytes()),
        };
        self.packet(index, ClientPacket::Send(send));
    }

    fn take(&mut self) -> Vec<(u32, ServerPacket)> {
        std::mem::take(&mut self.sent)
    }

    /// What a session received, as (seq, payload, own), acknowledged.
    fn take_recvs(&mut self, index: u32) -> Vec<(u32, String, bool)> {
        let mut seen = Vec::new();
        for (to, packet) in self.take() {
            if let (true, ServerPacket::Recv { message, seq, own }) = (to == index, packet) {
                seen.push((seq, String::from_utf8_lossy(message.payload()).into_owned(), own));
                let (message_id, message_seq) = (message.message_id(), u64::from(seq));
                self.packet(index, ClientPacket::Recvack { message_id, message_seq });
            }
        }
        seen
    }
}

fn sendack(sent: &[(u32, ServerPacket)]) -> (i64, u32, u8) {
    let found = sent.iter().find_map(|(_, packet)| match packet {
        ServerPacket::Sendack { message_id, message_seq, reason, .. } => Some((*message_id, *message_seq, *reason)),
        _ => None,
    });
    found.expect("no SENDACK")
}

#[test]
fn two_users_talk() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    bench.connect(1, "bob", "b");
    let connacks = bench.take();
    assert_eq!(connacks.len(), 2, "{connacks:?}");
    bench.send(0, "bob", "n1", "hi", HeaderFlags::RED_DOT);
    assert_eq!(sendack(&bench.sent).1, 1);
    assert_eq!(bench.take_recvs(1), [(1, "hi".into(), false)]);
    bench.send(1, "alice", "n2", "ho", HeaderFlags::RED_DOT);
    assert_eq!(bench.take_recvs(0), [(2, "ho".into(), false)]);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.take(), [], "nothing is sent again once it was taken");
}

#[test]
fn a_repeat_gets_the_same_answer_and_another_payload_a_conflict() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    bench.connect(1, "bob", "b");
    bench.send(0, "bob", "n1", "hi", HeaderFlags(0));
    let first = sendack(&bench.take());
    bench.send(0, "bob", "n1", "hi", HeaderFlags(0));
    let again = bench.take();
    assert_eq!(sendack(&again), first);
    assert!(!again.iter().any(|(_, packet)| matches!(packet, ServerPacket::Recv { .. })), "delivered twice");
    bench.send(0, "bob", "n1", "other", HeaderFlags(0));
    assert_eq!(sendack(&bench.take()), (0, 0, Reason::IdempotencyConflict as u8));
}

#[test]
fn what_came_while_away_is_pushed_in_order_at_connect() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    for n in 1..=300 {
        bench.send(0, "bob", &format!("n{n}"), &format!("m{n}"), HeaderFlags(0));
    }
    bench.wait(Duration::from_millis(50));
    bench.take();
    bench.connect(1, "bob", "b");
    let mut seen = Vec::new();
    loop {
        let more = bench.take_recvs(1);
        if more.is_empty() {
            break;
        }
        seen.extend(more.into_iter().map(|(seq, _, _)| seq));
    }
    assert_eq!(seen, (1..=300).collect::<Vec<u32>>());
    bench.wait(Duration::from_secs(2));
    bench.events.push(Event::Closed { session: SessionId { index: 1, generation: 1 } });
    bench.run();
    bench.connect(2, "bob", "b");
    assert_eq!(bench.take_recvs(2), [], "a device is not sent again what it has taken");
}

#[test]
fn own_messages_reach_other_devices_and_never_the_one_that_sent() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    bench.connect(1, "alice", "a2");
    bench.take();
    bench.send(0, "bob", "n1", "hi", HeaderFlags(0));
    let sent = bench.take();
    let recvs: Vec<_> = sent.iter().filter(|(_, p)| matches!(p, ServerPacket::Recv { .. })).collect();
    assert!(matches!(recvs[..], [(1, ServerPacket::Recv { own: true, .. })]), "{recvs:?}");
}

#[test]
fn commands_go_through_the_recipients_queue_and_transients_are_not_stored() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    bench.send(0, "bob", "c1", "cmd", HeaderFlags::SYNC_ONCE);
    assert_eq!(sendack(&bench.take()).1, 1);
    bench.send(0, "bob", "t1", "gone", HeaderFlags::NO_PERSIST);
    assert_eq!(sendack(&bench.take()).1, 0);
    bench.connect(1, "bob", "b");
    assert_eq!(bench.take_recvs(1), [(1, "cmd".into(), false)]);
    bench.send(0, "bob", "t2", "typing", HeaderFlags::NO_PERSIST);
    assert_eq!(bench.take_recvs(1), [(0, "typing".into(), false)]);
}

#[test]
fn an_unacked_recv_is_sent_again_a_bounded_number_of_times() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    bench.connect(1, "bob", "b");
    bench.send(0, "bob", "n1", "hi", HeaderFlags(0));
    let mut times = 0;
    for _ in 0..600 {
        times += bench.take().iter().filter(|(_, p)| matches!(p, ServerPacket::Recv { .. })).count();
        bench.packet(1, ClientPacket::Ping);
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(times, 1 + usize::from(Limits::PRODUCTION.redeliver_tries));
}

#[test]
fn who_does_not_say_who_it_is_goes_however_much_it_says() {
    let mut bench = Bench::new();
    let session = SessionId { index: 0, generation: 1 };
    bench.events.push(Event::Opened(Opened { session, handed_over: false }));
    bench.run();
    let closes = |bench: &Bench| bench.others.iter().filter(|effect| matches!(effect, Effect::Close { .. })).count();
    for _ in 0..Limits::PRODUCTION.connect_timeout.as_secs() {
        assert_eq!(closes(&bench), 0);
        bench.wait(Duration::from_secs(1));
        bench.packet(0, ClientPacket::Ping);
    }
    bench.wait(Limits::PRODUCTION.sweep_every);
    assert_eq!(closes(&bench), 1);
}

#[test]
fn of_two_leaders_answers_the_later_ones_number_counts() {
    let mut bench = Bench::new();
    bench.connect(0, "alice", "a");
    let session = SessionId { index: 0, generation: 1 };
    let known = bench.shard.session_order(session).expect("alice is online");
    for (order, counts) in [(known + 7, known + 7), (known + 3, known + 7)] {
        let registered = Registered { session, reason: Reason::Success as u8, level: DeviceLevel::Slave, order };
        let (from, effects) = (bench.shard.config.place, &mut Effects::default());
        bench.shard.handle_frame(bench.now, from, Frame::Registered(registered), effects);
        assert_eq!(bench.shard.session_order(session), Some(counts));
        assert!(effects.list.is_empty(), "it is let in once");
    }
}
