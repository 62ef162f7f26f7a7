//! `/profile` and `/profile/watch`: what `jindou profile`, `jindou trace` and `jindou top` read. Everything is as the shards hold it, times turned
//! into nanoseconds since 1970 so that the marks of several shards and nodes can be laid side by side; nothing is computed here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::shapes::{ApiError, Asked, DONE, DoneWith, Reply, or_default};
use crate::engine::marks::{Mark, Named};
use crate::ids::ShardId;
use crate::shell::clock::Clock;
use crate::shell::mesh::MeshMessage;
use crate::shell::stages::{ShardProfile, Stage};
use crate::shell::turns::{TurnPicture, Work};

/// A watch ends by itself after this.
const WATCH_SECONDS_MAX: u64 = 600;

/// Query of `/profile`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ProfileQuery {
    /// By shard, separated by commas: marks from this serial number on. A shard that is not named shows none.
    after: String,
}

/// `GET /profile?after=N,N`: histograms, long turns, counters and depths of every shard, and marks.
pub async fn profile(State(api): State<Arc<Api>>, Query(query): Query<ProfileQuery>) -> Result<Response, ApiError> {
    let mut after = Vec::new();
    for word in query.after.split(',').filter(|word| !word.is_empty()) {
        let number = word.parse().map_err(|_| ApiError::bad(format!("after={word:?} is not a number")))?;
        after.push(number);
    }
    let from = |shard: ShardId| after.get(usize::from(shard.0)).copied().unwrap_or(u64::MAX);
    let profiles = api.ask_shards(|shard, reply| MeshMessage::Profile { after: from(shard), reply }).await;
    let Some(first) = profiles.first() else {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no shard shows its numbers"));
    };
    let node = first.place.node.0;
    let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_nanos() as u64);
    let shards = profiles.iter().map(|profile| ShardShape::of(profile, unix_ns)).collect();
    Ok(Reply(DoneWith { status: 200, data: NodeShape { node, unix_ns, shards } }).into_response())
}

/// Body of `/profile/watch`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct WatchWish {
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    seconds: u64,
}

/// `POST /profile/watch {"uid":…,"seconds":…}`: every message of this user is marked on this node, for so long.
pub async fn watch(State(api): State<Arc<Api>>, Asked(wish): Asked<WatchWish>) -> Result<Response, ApiError> {
    let uid = super::shapes::uid("uid", &wish.uid)?;
    if !(1..=WATCH_SECONDS_MAX).contains(&wish.seconds) {
        let said = wish.seconds;
        return Err(ApiError::bad(format!("seconds {said} is not allowed; allowed: 1 to {WATCH_SECONDS_MAX}")));
    }
    let span = Duration::from_secs(wish.seconds);
    let taken: Vec<bool> = api.ask_shards(|_, reply| MeshMessage::Watch { uid: uid.clone(), span, reply }).await;
    if taken.is_empty() || taken.contains(&false) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "too many users are watched already; their watches end by themselves",
        ));
    }
    Ok(DONE.into_response())
}

#[derive(Serialize)]
struct NodeShape {
    node: u16,
    unix_ns: u64,
    shards: Vec<ShardShape>,
}

#[derive(Serialize)]
struct ShardShape {
    shard: u16,
    cpu_ns: u64,
    stages: Vec<StageShape>,
    turns: Vec<TurnShape>,
    counters: serde_json::Map<String, serde_json::Value>,
    gauges: serde_json::Map<String, serde_json::Value>,
    links: Vec<LinkShape>,
    marks_next: u64,
    /// Message id, point, time, sampled or not.
    marks: Vec<(i64, &'static str, u64, bool)>,
    named: Vec<NamedShape>,
}

#[derive(Serialize)]
struct StageShape {
    stage: &'static str,
    /// Nanoseconds, times seen.
    buckets: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct TurnShape {
    unix_ns: u64,
    whole_ns: u64,
    gather_ns: u64,
    step_ns: u64,
    carry_ns: u64,
    events: usize,
    effects: usize,
    journal_bytes: usize,
    checkpoint_bytes: usize,
    sends: u64,
    messages_stored: u64,
    recvs: u64,
    recvacks: u64,
    frames_received: u64,
    proposals: u64,
}

#[derive(Serialize)]
struct LinkShape {
    peer: String,
    up: bool,
    unacknowledged_bytes: usize,
    unacknowledged_batches: usize,
    round_trip_ns: Option<u64>,
}

#[derive(Serialize)]
struct NamedShape {
    message_id: i64,
    seq: u32,
    payload_bytes: usize,
    from: String,
    to: String,
}

impl ShardShape {
    fn of(profile: &ShardProfile, unix_ns: u64) -> ShardShape {
        let (nanos, engine) = (profile.now_nanos, Clock::instant(profile.now_nanos));
        let stage =
            |(stage, buckets): &(Stage, Vec<(u64, u64)>)| StageShape { stage: stage.name(), buckets: buckets.clone() };
        let turn =
            |turn: &TurnPicture| TurnShape::of(turn, unix_ns.saturating_sub(nanos.saturating_sub(turn.began_nanos)));
        let mark = |mark: &Mark| {
            let at = unix_ns.saturating_sub(engine.since(mark.at).as_nanos() as u64);
            (mark.message_id, mark.point.name(), at, mark.sampled)
        };
        ShardShape {
            shard: profile.place.shard.0,
            cpu_ns: profile.cpu.as_nanos() as u64,
            stages: profile.buckets.iter().map(stage).collect(),
            turns: profile.turns.iter().map(turn).collect(),
            counters: counters(profile),
            gauges: gauges(profile),
            links: links(profile),
            marks_next: profile.marks_next,
            marks: profile.marks.iter().map(mark).collect(),
            named: profile.named.iter().map(NamedShape::of).collect(),
        }
    }
}

impl TurnShape {
    fn of(turn: &TurnPicture, unix_ns: u64) -> TurnShape {
        let Work { sends, messages_stored, recvs, recvacks, frames_received, proposals } = turn.work;
        TurnShape {
            unix_ns,
            whole_ns: turn.whole_nanos,
            gather_ns: turn.gather_nanos,
            step_ns: turn.step_nanos,
            carry_ns: turn.carry_nanos(),
            events: turn.events,
            effects: turn.effects,
            journal_bytes: turn.journal_bytes,
            checkpoint_bytes: turn.checkpoint_bytes,
            sends,
            messages_stored,
            recvs,
            recvacks,
            frames_received,
            proposals,
        }
    }
}

impl NamedShape {
    fn of(named: &Named) -> NamedShape {
        NamedShape {
            message_id: named.message_id,
            seq: named.seq,
            payload_bytes: named.payload_bytes,
            from: named.from.clone(),
            to: named.to.clone(),
        }
    }
}

fn counters(profile: &ShardProfile) -> serde_json::Map<String, serde_json::Value> {
    let mut all = serde_json::Map::new();
    profile.snapshot.counters.each(|name, _, value| {
        all.insert(name.to_owned(), value.into());
    });
    profile.snapshot.shell.each(|name, _, total, value| {
        if total {
            all.insert(name.to_owned(), value.into());
        }
    });
    all
}

fn gauges(profile: &ShardProfile) -> serde_json::Map<String, serde_json::Value> {
    let mut all = serde_json::Map::new();
    profile.snapshot.shell.each(|name, _, total, value| {
        if !total {
            all.insert(name.to_owned(), value.into());
        }
    });
    for (name, _, value) in super::metrics::GAUGES {
        all.insert(name.to_owned(), value(&profile.snapshot).into());
    }
    all
}

fn links(profile: &ShardProfile) -> Vec<LinkShape> {
    let shape = |(row, _): &(crate::engine::link::LinkRow, Duration)| LinkShape {
        peer: row.peer.to_string(),
        up: row.state == crate::engine::link::LinkState::Up,
        unacknowledged_bytes: row.unacknowledged_bytes,
        unacknowledged_batches: row.unacknowledged_batches,
        round_trip_ns: row.round_trip.map(|span| span.as_nanos() as u64),
    };
    profile.snapshot.links.iter().map(shape).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, get, post};

    #[test]
    fn a_profile_shows_times_since_1970_and_marks_that_were_asked_for() {
        let (status, answer) = get(&Fake::default(), "/profile?after=0,1");
        assert_eq!(status, 200, "{answer}");
        let data = &answer["data"];
        assert_eq!((data["node"].as_u64(), data["shards"].as_array().map(Vec::len)), (Some(4), Some(2)));
        let unix_ns = data["unix_ns"].as_u64().unwrap();
        let (first, second) = (&data["shards"][0], &data["shards"][1]);
        assert_eq!(first["marks"][0], serde_json::json!([77, "arrived", unix_ns - 2_000, true]));
        assert_eq!(first["marks"].as_array().map(Vec::len), Some(2));
        assert_eq!(second["marks"].as_array().map(Vec::len), Some(1), "from serial number 1 on");
        assert_eq!((first["marks_next"].as_u64(), first["named"][0]["seq"].as_u64()), (Some(2), Some(3)));
        assert_eq!(first["turns"][0]["unix_ns"].as_u64(), Some(unix_ns - 5_000));
        assert_eq!((first["turns"][0]["carry_ns"].as_u64(), first["cpu_ns"].as_u64()), (Some(200), Some(3_000_000)));
        assert_eq!((first["counters"]["sends"].as_u64(), first["gauges"]["sessions"].as_u64()), (Some(11), Some(3)));
        assert_eq!(first["links"][0]["round_trip_ns"].as_u64(), Some(250_000));
        let step = first["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "step").unwrap();
        assert_eq!(step["buckets"][0][1].as_u64(), Some(1));
    }

    #[test]
    fn without_a_number_no_marks_are_shown() {
        let (status, answer) = get(&Fake::default(), "/profile");
        assert_eq!((status, answer["data"]["shards"][0]["marks"].as_array().map(Vec::len)), (200, Some(0)));
        assert_eq!(get(&Fake::default(), "/profile?after=x").0, 400);
        assert_eq!(get(&Fake { ready: 0, ..Fake::default() }, "/profile").0, 503);
    }

    #[test]
    fn a_watch_is_bounded_and_may_be_refused() {
        let watch = |fake: &Fake, body: &str| post(fake, "/profile/watch", body).0;
        assert_eq!(watch(&Fake::default(), r#"{"uid":"bob","seconds":60}"#), 200);
        for bad in [r#"{"uid":"bob"}"#, r#"{"uid":"bob","seconds":601}"#, r#"{"uid":"","seconds":5}"#, "no JSON"] {
            assert_eq!(watch(&Fake::default(), bad), 400, "{bad}");
        }
        let full = Fake { watches_full: true, ..Fake::default() };
        assert_eq!(watch(&full, r#"{"uid":"bob","seconds":60}"#), 409);
        let guarded = Fake { token: "secret", ..Fake::default() };
        assert_eq!(watch(&guarded, r#"{"uid":"bob","seconds":60}"#), 401);
        assert_eq!(get(&guarded, "/profile").0, 401);
    }
}
