//! At rest a step allocates nothing: a shard with many sessions and nothing to do must cost no more than its clock. A
//! counting allocator tells; it counts this thread only, so the test harness does not disturb it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use jindou::engine::effect::{Effect, Effects};
use jindou::engine::event::{ClientKey, ClientPacket, ConnectPacket, Event, EventBatch, Opened, SendPacket};
use jindou::engine::shard::{Durability, JournalGeometry, OfflineMode, Recovery, Retention, Shard, ShardConfig};
use jindou::format::frame::SendBody;
use jindou::format::packet::{HeaderFlags, Setting};
use jindou::ids::{NodeId, Place, SessionId, ShardId};
use jindou::limits::Limits;
use jindou::time::{Instant, Now, UnixMillis};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system allocator unchanged; counting touches only a thread-local number that
// needs no allocation itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct World {
    shard: Shard,
    now: Now,
    events: EventBatch,
    effects: Effects,
}

impl World {
    fn new() -> World {
        let config = ShardConfig {
            place: Place { node: NodeId(1), shard: ShardId(0) },
            shard_count: 1,
            slot_depth: 8,
            limits: Limits::PRODUCTION,
            token_auth: false,
            offline: OfflineMode::Push,
            durability: Durability::Fsync,
            geometry: JournalGeometry { identity: 1, block_bytes: 4096, segment_bytes: 1 << 20 },
            retention: Retention { bytes: 0, age_ms: 0 },
            seed: [1; 32],
        };
        let now = Now { instant: Instant(1), unix: UnixMillis(1_700_000_000_000) };
        let shard = Recovery::new(config).finish(now, None).expect("nothing on disk is nothing wrong");
        let mut world = World { shard, now, events: Vec::new(), effects: Effects::default() };
        world.run();
        world
    }

    /// Steps until nothing more happens, on a perfect disk and with clients that take every RECV.
    fn run(&mut self) {
        loop {
            self.shard.step(self.now, &mut self.events, &mut self.effects);
            for effect in self.effects.list.drain(..) {
                match effect {
                    Effect::JournalWrite(write) => {
                        let (flush, bytes) = (write.flush, write.bytes);
                        self.events.push(Event::JournalWritten { flush, bytes, result: Ok(()) });
                    }
                    Effect::JournalSegment { segment } => {
                        self.events.push(Event::SegmentReady { segment, result: Ok(()) });
                    }
                    Effect::Send {
                        session,
                        packet: jindou::engine::effect::ServerPacket::Recv { message, seq, .. },
                    } => {
                        let packet =
                            ClientPacket::Recvack { message_id: message.message_id(), message_seq: u64::from(seq) };
                        self.events.push(Event::Packet { session, packet });
                    }
                    _ => {}
                }
            }
            if self.events.is_empty() && self.shard.next_deadline() > Some(self.now.instant) {
                return;
            }
        }
    }

    fn connect(&mut self, index: u32) {
        let session = SessionId { index, generation: 1 };
        self.events.push(Event::Opened(Opened { session, handed_over: false }));
        let connect = ConnectPacket {
            uid: format!("user-{index}").into(),
            device_id: "d".into(),
            device_flag: 0,
            token: "".into(),
            client_timestamp_ms: 0,
            key: ClientKey::Usable,
        };
        self.events.push(Event::Packet { session, packet: ClientPacket::Connect(Box::new(connect)) });
    }

    fn send(&mut self, index: u32, number: u64) {
        let send = SendPacket {
            flags: HeaderFlags(0),
            setting: Setting(0),
            client_seq: number as u32,
            channel_type: 1,
            expire_s: 0,
            channel_id: Bytes::from(format!("user-{}", index ^ 1)),
            body: SendBody::new(&number.to_string(), "", &[7; 128]),
        };
        let session = SessionId { index, generation: 1 };
        self.events.push(Event::Packet { session, packet: ClientPacket::Send(send) });
    }

    fn wait(&mut self, span: Duration) {
        self.now.instant = self.now.instant + span;
        self.now.unix.0 += span.as_millis() as u64;
    }
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn at_rest_a_step_allocates_nothing() {
    let mut world = World::new();
    for index in 0..200 {
        world.connect(index);
    }
    world.run();
    for round in 0..50 {
        for index in 0..200 {
            world.send(index, round * 1000 + u64::from(index));
        }
        world.run();
    }
    for _ in 0..50 {
        world.wait(Duration::from_millis(20));
        world.run();
    }
    assert_eq!(world.shard.view().counters.messages_stored, 50 * 200, "{:#?}", world.shard.view());
    let before = allocations();
    let mut steps = 0;
    // Ten seconds of beats, sweeps and retries; the last 30 s of the idle follows are not over, timeouts are far away.
    for _ in 0..1000 {
        world.wait(Duration::from_millis(10));
        world.shard.step(world.now, &mut world.events, &mut world.effects);
        assert!(world.effects.list.is_empty(), "a shard at rest wants nothing: {:?}", world.effects.list);
        steps += 1;
    }
    assert_eq!(allocations() - before, 0, "allocations in {steps} steps at rest");
    // The counter counts: the same steps with one message in them do allocate.
    world.send(0, 999_999);
    world.run();
    assert!(allocations() > before);
}
