//! A shard with nothing around it: sessions are numbers, the disk answers at once, time moves when told to. It carries
//! messages from SEND to RECVACK, so that a step can be timed (or watched) without sockets and files.

use jindou::engine::effect::{Effect, Effects, ServerPacket};
use jindou::engine::event::{ClientKey, ClientPacket, ConnectPacket, Event, EventBatch, Opened, SendPacket};
use jindou::engine::shard::{
    ClusterSettings, Durability, JournalGeometry, OfflineMode, Recovery, Retention, Shard, ShardConfig, ShardView,
};
use jindou::format::frame::SendBody;
use jindou::format::packet::{HeaderFlags, Setting};
use jindou::ids::{NodeId, Place, SessionId, ShardId};
use jindou::limits::Limits;
use jindou::time::{Instant, Now, UnixMillis};

/// Time between two turns: about a journal write.
const TURN_NS: u64 = 100_000;

/// Payload of every message.
const PAYLOAD: [u8; 128] = [b'x'; 128];

/// Turns that the carrying of one batch may take at most.
const TURNS_MAX: usize = 100;

/// The shard and its surroundings.
pub struct OneShard {
    /// The engine.
    pub shard: Shard,
    /// What happens next.
    pub events: EventBatch,
    /// What was asked for last.
    pub effects: Effects,
    now_ns: u64,
    users: u32,
    sent: u32,
    /// RECVs so far.
    pub delivered: u64,
    /// SENDACKs with success so far.
    pub acknowledged: u64,
}

fn config() -> ShardConfig {
    ShardConfig {
        place: Place { node: NodeId(1), shard: ShardId(0) },
        shard_count: 1,
        slot_depth: 8,
        limits: Limits { sends_per_second: 1_000_000_000, send_window: 4096, recv_window: 4096, ..Limits::PRODUCTION },
        token_auth: false,
        offline: OfflineMode::Push,
        durability: Durability::Fsync,
        geometry: JournalGeometry { identity: 1, block_bytes: 4096, segment_bytes: 16 << 20 },
        retention: Retention { bytes: 128 << 20, age_ms: 0 },
        seed: [3; 32],
        boot: 1,
        cluster: ClusterSettings::alone(1),
    }
}

fn session(index: u32) -> SessionId {
    SessionId { index, generation: 1 }
}

fn connect(number: u32) -> ClientPacket {
    ClientPacket::Connect(Box::new(ConnectPacket {
        uid: format!("user-{number}").into(),
        device_id: format!("device-{number}").into(),
        device_flag: 0,
        token: "".into(),
        client_timestamp_ms: 0,
        key: ClientKey::Usable,
    }))
}

/// The SEND of this number.
pub fn send(number: u32, to: &str) -> ClientPacket {
    ClientPacket::Send(SendPacket {
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        client_seq: number,
        channel_type: 1,
        expire_s: 0,
        channel_id: to.to_owned().into(),
        body: SendBody::new(&format!("{number:x}"), "", &PAYLOAD),
    })
}

impl OneShard {
    /// A fresh shard on which so many users are live.
    pub fn with_users(users: u32) -> OneShard {
        let start = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        let shard = Recovery::new(config()).finish(start, None).expect("an empty journal is no damage");
        let (events, effects) = (Vec::new(), Effects::default());
        let mut one = OneShard { shard, events, effects, now_ns: 1, users, sent: 0, delivered: 0, acknowledged: 0 };
        one.until("every slot has a leader", |view| view.slots_led == 1 << config().slot_depth);
        for number in 0..users {
            one.events.push(Event::Opened(Opened { session: session(number), handed_over: false }));
            one.events.push(Event::Packet { session: session(number), packet: connect(number) });
        }
        one.until("everybody is in", |view| view.sessions_live == users as usize);
        one
    }

    fn until(&mut self, what: &str, reached: impl Fn(&ShardView) -> bool) {
        for _ in 0..TURNS_MAX {
            self.turns_until_rest();
            if reached(&self.shard.view()) {
                return;
            }
            self.now_ns += 100_000_000;
        }
        panic!("it never came to this: {what}");
    }

    /// The time.
    pub fn now(&self) -> Now {
        Now { instant: Instant(self.now_ns), unix: UnixMillis(1_700_000_000_000 + self.now_ns / 1_000_000) }
    }

    /// Lets time pass without any event.
    pub fn idle_turn(&mut self, span_ns: u64) {
        self.now_ns += span_ns;
        let now = self.now();
        self.shard.step(now, &mut self.events, &mut self.effects);
    }

    /// Queues SENDs, each user to its neighbour.
    pub fn queue_sends(&mut self, count: u32) {
        for _ in 0..count {
            self.sent += 1;
            let from = self.sent % self.users;
            let packet = send(self.sent, &format!("user-{}", from ^ 1));
            self.events.push(Event::Packet { session: session(from), packet });
        }
    }

    /// Steps until nothing is left to do at once: the disk answers, receivers acknowledge.
    pub fn turns_until_rest(&mut self) {
        for _ in 0..TURNS_MAX {
            self.idle_turn(TURN_NS);
            self.answer_wishes();
            if self.events.is_empty() && self.shard.view().journal_pending_bytes == 0 {
                return;
            }
        }
        panic!("not at rest after {TURNS_MAX} turns");
    }

    /// Carries out what was asked for; the answers are events of the next turn.
    pub fn answer_wishes(&mut self) {
        let mut wishes = std::mem::take(&mut self.effects.list);
        for wish in wishes.drain(..) {
            self.carry_out(wish);
        }
        self.effects.list = wishes;
    }

    fn carry_out(&mut self, wish: Effect) {
        match wish {
            Effect::Send { session, packet: ServerPacket::Recv { message, seq, .. } } => {
                self.delivered += 1;
                let packet = ClientPacket::Recvack { message_id: message.message_id(), message_seq: u64::from(seq) };
                self.events.push(Event::Packet { session, packet });
            }
            Effect::Send { packet: ServerPacket::Sendack { reason: 1, .. }, .. } => self.acknowledged += 1,
            Effect::Send { packet: ServerPacket::Sendack { reason, .. }, .. } => panic!("refused with reason {reason}"),
            Effect::JournalWrite(write) => {
                self.events.push(Event::JournalWritten { flush: write.flush, bytes: write.bytes, result: Ok(()) });
            }
            Effect::JournalSegment { segment } => self.events.push(Event::SegmentReady { segment, result: Ok(()) }),
            Effect::Checkpoint { slot, .. } => self.events.push(Event::CheckpointWritten { slot, result: Ok(()) }),
            Effect::Read { .. } => panic!("everything is recent here"),
            _ => {}
        }
    }
}
