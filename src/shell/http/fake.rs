//! Shards that answer as a test says: threads at the other end of a real mesh. Calls go through the real router, without
//! sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use tower::ServiceExt;

use super::{Api, NodeState, PublicAddresses, router};
use crate::engine::counters::Counters;
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::engine::link::{LinkRow, LinkState};
use crate::engine::marks::{Marked, Marks, Point};
use crate::engine::shard::{ClusterView, ShardView};
use crate::format::message::{MessageFields, StoredMessage};
use crate::format::packet::{HeaderFlags, Setting};
use crate::ids::{KeyHash, NodeId, Place, ShardId, Uid};
use crate::shell::clock::Clock;
use crate::shell::mesh::{MeshEndpoint, MeshMessage, build_mesh};
use crate::shell::seed::Secrets;
use crate::shell::stages::{ShardProfile, ShardSnapshot, ShellCounters, Stage, Stages};
use crate::shell::turns::TurnPicture;
use crate::time::Instant;

pub const SLOT_DEPTH: u8 = 4;
const SHARD_COUNT: u16 = 2;

type Answer = fn(ShardId, &ApiRequest) -> ApiAnswer;

/// A node of two shards.
pub struct Fake {
    pub answer: Answer,
    pub ready: u16,
    pub writable: bool,
    pub slots_led: usize,
    pub slots_waiting: usize,
    /// No more users can be watched.
    pub watches_full: bool,
    /// The shards have ended.
    pub gone: bool,
    pub token: &'static str,
    pub sent_token: &'static str,
    /// Read through [`Fake::requests`].
    pub seen: Mutex<Vec<(ShardId, ApiRequest)>>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            answer: usual_answer,
            ready: SHARD_COUNT,
            writable: true,
            slots_led: 8,
            slots_waiting: 0,
            watches_full: false,
            gone: false,
            token: "",
            sent_token: "",
            seen: Mutex::default(),
        }
    }
}

fn usual_answer(_: ShardId, request: &ApiRequest) -> ApiAnswer {
    match request {
        ApiRequest::Send { .. } => ApiAnswer::Sent { message_id: 7_000_000_000_000_000_001, message_seq: 9 },
        _ => ApiAnswer::Done,
    }
}

/// What a log of so many messages answers, by the words of the API's description and none of its code.
pub fn log_answer(length: u32, request: &ApiRequest) -> ApiAnswer {
    let ApiRequest::MessageSync { start_seq, end_seq, limit, newer, .. } = request else {
        panic!("only history is asked: {request:?}")
    };
    let all: Vec<u32> = if (*start_seq, *end_seq) == (0, 0) {
        (1..=length).collect()
    } else if *newer {
        (1..=length).filter(|seq| seq >= start_seq && (*end_seq == 0 || seq < end_seq)).collect()
    } else {
        (1..=length).filter(|seq| seq > end_seq && seq <= start_seq).collect()
    };
    let many = *limit as usize;
    let more = all.len() > many;
    let forward = *newer && (*start_seq, *end_seq) != (0, 0);
    let chosen: Vec<u32> = if forward {
        all.into_iter().take(many).collect()
    } else {
        let skip = all.len().saturating_sub(many);
        all.into_iter().skip(skip).collect()
    };
    let messages = chosen.into_iter().map(|seq| (seq, stored(seq))).collect();
    ApiAnswer::Messages { messages, more }
}

fn stored(seq: u32) -> StoredMessage {
    let mut bytes = Vec::new();
    MessageFields {
        message_id: 7_000_000_000_000_000_000 + i64::from(seq),
        unix_ms: 1_700_000_000_000 + u64::from(seq) * 1000,
        expire_s: 0,
        flags: HeaderFlags::RED_DOT,
        setting: Setting(0),
        from: "____system",
        device_tag: 0,
        to: "bob",
        client_msg_no: &format!("n{seq}"),
        topic: "",
        payload: b"hi",
    }
    .encode(&mut bytes);
    StoredMessage::take(&Bytes::from(bytes)).unwrap()
}

/// The shard that is asked about a key.
pub fn shard_of(key: KeyHash) -> ShardId {
    ShardId(key.slot(SLOT_DEPTH).0 % SHARD_COUNT)
}

fn link_row() -> LinkRow {
    LinkRow {
        peer: Place { node: NodeId(2), shard: ShardId(0) },
        member: true,
        state: LinkState::Up,
        since: Instant(0),
        unacknowledged_bytes: 10,
        unacknowledged_batches: 1,
        lossy_bytes: 0,
        round_trip: Some(Duration::from_micros(250)),
        attempts: 0,
    }
}

impl Fake {
    /// What has reached shards so far.
    pub fn requests(&self) -> Vec<(ShardId, ApiRequest)> {
        self.seen.lock().unwrap().clone()
    }

    fn snapshot(&self, shard: ShardId) -> ShardSnapshot {
        let counters = Counters { sends: 11 + u64::from(shard.0), ..Counters::default() };
        let engine = ShardView {
            sessions: 3,
            sessions_live: 2,
            slots_led: self.slots_led,
            slots_waiting: self.slots_waiting,
            slots_hosted: 8,
            reads_waiting: 0,
            channels: 1,
            homes: 1,
            messages_indexed: 5,
            recent_bytes: 100,
            journal_pending_bytes: 0,
            journal_segments: (1, 2),
            writable: self.writable,
        };
        let cluster = ClusterView { table_version: 7, members_serving: 3, ..ClusterView::default() };
        let mut stages = Stages::new(true);
        stages.record(Stage::Step, 1500);
        ShardSnapshot {
            shard,
            counters,
            engine,
            cluster,
            shell: ShellCounters::default(),
            stages: stages.summaries(),
            links: vec![(link_row(), Duration::from_millis(1500))],
        }
    }

    fn profile(&self, shard: ShardId, after: u64) -> ShardProfile {
        let mut marks = Marks::new(1);
        let bob = Marked { message_id: 77, from: "alice", to: "bob" };
        marks.watch(Instant(0), Uid::parse("bob").unwrap(), Clock::instant(8_000)).unwrap();
        marks.mark(Clock::instant(4_000), Point::Arrived, bob);
        marks.mark(Clock::instant(5_000), Point::Proposed, bob);
        marks.name(Clock::instant(5_000), bob, 3, 12);
        let mut stages = Stages::new(true);
        stages.record(Stage::Step, 1500);
        let turn = TurnPicture { began_nanos: 1_000, whole_nanos: 500, step_nanos: 300, ..TurnPicture::default() };
        let (seen, marks_next) = marks.since(after);
        ShardProfile {
            place: Place { node: NodeId(4), shard },
            snapshot: self.snapshot(shard),
            buckets: stages.buckets(),
            turns: vec![turn],
            marks: seen,
            marks_next,
            named: marks.named(),
            now_nanos: 6_000,
            cpu: Duration::from_millis(3),
        }
    }

    /// One shard until the mesh is dropped.
    fn serve(&self, endpoint: &MeshEndpoint) {
        loop {
            match endpoint.inbox.recv() {
                Ok(MeshMessage::Api { request, reply }) => {
                    let answer = (self.answer)(endpoint.shard, &request);
                    self.seen.lock().unwrap().push((endpoint.shard, request));
                    let _ = reply.send(answer);
                }
                Ok(MeshMessage::Snapshot { reply }) => {
                    let _ = reply.send(Box::new(self.snapshot(endpoint.shard)));
                }
                Ok(MeshMessage::Profile { after, reply }) => {
                    let _ = reply.send(Box::new(self.profile(endpoint.shard, after)));
                }
                Ok(MeshMessage::Watch { reply, .. }) => {
                    let _ = reply.send(!self.watches_full);
                }
                Ok(MeshMessage::Stop) | Err(_) => return,
                Ok(other) => panic!("{other:?}"),
            }
        }
    }

    fn call(&self, request: Request<Body>) -> (u16, String) {
        let mut endpoints = build_mesh(SHARD_COUNT).unwrap();
        let mesh = endpoints[0].sender.clone();
        let node = Arc::new(NodeState::new(SHARD_COUNT));
        (0..self.ready).for_each(|shard| node.set_ready(ShardId(shard), true));
        let addresses = PublicAddresses { tcp: "h:5100".to_owned(), ws: "ws://h:5200".to_owned(), wss: String::new() };
        let token = self.token.to_owned();
        let api = Api::new(mesh.clone(), node, SLOT_DEPTH, addresses, token, Secrets::from_kernel().unwrap());
        if self.gone {
            endpoints.clear();
        }
        std::thread::scope(|scope| {
            for endpoint in &endpoints {
                scope.spawn(|| self.serve(endpoint));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let answer = runtime.block_on(async {
                let response = router(api).oneshot(request).await.unwrap();
                let status = response.status().as_u16();
                let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
                (status, String::from_utf8(body.to_vec()).unwrap())
            });
            for endpoint in &endpoints {
                mesh.send(endpoint.shard, MeshMessage::Stop).unwrap();
            }
            answer
        })
    }

    fn json(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (status, text) = self.call(request(self, method, path, body));
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        (status, body)
    }
}

fn request(fake: &Fake, method: &str, path: &str, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !fake.sent_token.is_empty() {
        request = request.header("token", fake.sent_token);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Status and JSON.
pub fn get(fake: &Fake, path: &str) -> (u16, serde_json::Value) {
    fake.json("GET", path, "")
}

/// Status and JSON.
pub fn post(fake: &Fake, path: &str, body: &str) -> (u16, serde_json::Value) {
    fake.json("POST", path, body)
}

/// Status and text.
pub fn get_text(fake: &Fake, path: &str) -> (u16, String) {
    fake.call(request(fake, "GET", path, ""))
}
