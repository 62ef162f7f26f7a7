//! `/cluster/…`: what operators ask of the whole cluster, on every node. It is carried out by whoever leads the metadata group; this side checks
//! form and puts the picture into JSON. Every call says what is to be true afterwards, so that repeating one does no harm.
//!
//! | answer | when |
//! | --- | --- |
//! | 200 | agreed on, or so already; what follows from it (moves) goes on by itself and shows in the status |
//! | 400 | the body or the query is not what the path expects |
//! | 409 | refused; `msg` says why |
//! | 503 | nobody is known to lead the metadata group, or there was no answer in time; ask again |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::messages::internal;
use super::shapes::{ApiError, Asked, DONE, DoneWith, Reply, or_default};
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::engine::link::{LinkRow, LinkState};
use crate::format::cluster_status::{
    ClusterRequest, ClusterStatus, MemberStanding, MemberStatus, MoveStatus, SlotStatus,
};
use crate::ids::{NodeId, Place, ReplicaId, ShardId, SlotId};

/// Query of `/cluster/status`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StatusQuery {
    from: u16,
    max: u16,
}

/// `GET /cluster/status?from=SLOT&max=ROWS`: everything, and a page of the slot table when `max` is not 0. When nobody leads the metadata group:
/// what this node knows, with `complete` false.
pub async fn status(State(api): State<Arc<Api>>, Query(query): Query<StatusQuery>) -> Result<Response, ApiError> {
    let from = SlotId(query.from);
    if query.from >= crate::ids::SLOT_COUNT_MAX as u16 {
        return Err(ApiError::bad(format!("from {from} is not allowed: slots are numbered below 16384")));
    }
    let request = |here| ApiRequest::Cluster(ClusterRequest::Status { from, max: query.max, here });
    let answer = match api.operate(request(false)).await {
        Err(error) if error.status() == StatusCode::SERVICE_UNAVAILABLE => api.operate(request(true)).await?,
        answer => answer?,
    };
    let ApiAnswer::Cluster(status) = answer else { return Err(internal()) };
    Ok(Reply(DoneWith { status: 200, data: StatusShape::of(&status) }).into_response())
}

/// Body of every `POST /cluster/…`: each path reads its own fields.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Wish {
    #[serde(deserialize_with = "or_default")]
    node: u16,
    #[serde(deserialize_with = "or_default")]
    by: u16,
    slot: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    slots: Vec<u16>,
    depth: Option<u8>,
    #[serde(deserialize_with = "or_default")]
    replicas: u8,
}

fn node(field: &str, number: u16) -> Result<NodeId, ApiError> {
    if number == 0 {
        return Err(ApiError::bad(format!("{field} is missing; allowed: 1 to 65535")));
    }
    Ok(NodeId(number))
}

fn slot(number: u16) -> Result<SlotId, ApiError> {
    if usize::from(number) >= crate::ids::SLOT_COUNT_MAX {
        return Err(ApiError::bad(format!("slot {number} is not allowed: slots are numbered below 16384")));
    }
    Ok(SlotId(number))
}

impl Wish {
    fn depth(&self) -> Result<u8, ApiError> {
        self.depth.ok_or_else(|| ApiError::bad("depth is missing: the bits that are to name a slot afterwards"))
    }

    fn slots(&self) -> Result<Vec<SlotId>, ApiError> {
        self.slots.iter().map(|number| slot(*number)).collect()
    }
}

async fn carry_out(api: &Api, request: ClusterRequest) -> Result<Response, ApiError> {
    match api.operate(ApiRequest::Cluster(request)).await? {
        ApiAnswer::Done => Ok(DONE.into_response()),
        _ => Err(internal()),
    }
}

type Asking = State<Arc<Api>>;

/// `POST /cluster/drain` `{"node":N}`.
pub async fn drain(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Drain { node: node("node", wish.node)? }).await
}

/// `POST /cluster/serve` `{"node":N}`: takes a drain back.
pub async fn serve(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Serve { node: node("node", wish.node)? }).await
}

/// `POST /cluster/remove` `{"node":N}`: forgets a member that holds nothing.
pub async fn remove(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Remove { node: node("node", wish.node)? }).await
}

/// `POST /cluster/replace` `{"node":N,"by":M}`: drains N once M serves.
pub async fn replace(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    let (node, by) = (node("node", wish.node)?, node("by", wish.by)?);
    carry_out(&api, ClusterRequest::Replace { node, by }).await
}

/// `POST /cluster/rebalance` `{}`.
pub async fn rebalance(State(api): Asking, Asked(_): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Rebalance).await
}

/// `POST /cluster/replicas` `{"replicas":R}`.
pub async fn replicas(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    if wish.replicas == 0 {
        return Err(ApiError::bad("replicas is missing; allowed: 1 to 7"));
    }
    carry_out(&api, ClusterRequest::SetReplicas { replicas: wish.replicas }).await
}

/// `POST /cluster/split` `{"slots":[…],"depth":D}`: those of fewer bits are split; no slots named: all.
pub async fn split(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Split { slots: wish.slots()?, depth: wish.depth()? }).await
}

/// `POST /cluster/merge` `{"slots":[…],"depth":D}`: those of more bits are merged with their siblings; no slots named: all.
pub async fn merge(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    carry_out(&api, ClusterRequest::Merge { slots: wish.slots()?, depth: wish.depth()? }).await
}

/// `POST /cluster/transfer` `{"slot":S,"node":N}`.
pub async fn transfer(State(api): Asking, Asked(wish): Asked<Wish>) -> Result<Response, ApiError> {
    let which = wish.slot.ok_or_else(|| ApiError::bad("slot is missing"))?;
    carry_out(&api, ClusterRequest::Transfer { slot: slot(which)?, node: node("node", wish.node)? }).await
}

/// `GET /cluster/links`: how this node's links with other nodes stand.
pub async fn links(State(api): Asking) -> Response {
    let snapshots = api.snapshots().await;
    let rows = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.links.iter().map(|(row, stands)| LinkShape::of(snapshot.shard, row, *stands)));
    Reply(DoneWith { status: 200, data: rows.collect::<Vec<LinkShape>>() }).into_response()
}

// Shapes.

#[derive(Serialize)]
struct StatusShape {
    /// As text: it has more digits than some readers of JSON keep.
    id: String,
    name: String,
    version: u64,
    at_rest: bool,
    complete: bool,
    told_by: String,
    replicas_wanted: u8,
    metadata: MetadataShape,
    members: Vec<MemberShape>,
    slots: SlotsShape,
    moves: MovesShape,
    waits: Vec<WaitShape>,
    waits_omitted: u32,
    rows: Vec<RowShape>,
    next: Option<u16>,
}

#[derive(Serialize)]
struct MetadataShape {
    leader: Option<u16>,
    term: u64,
    voters: Vec<u16>,
}

#[derive(Serialize)]
struct SlotsShape {
    total: u32,
    leaderless: u32,
    led_elsewhere: u32,
    short_of_replicas: u32,
    reshaping: u32,
    lost: Vec<u16>,
}

#[derive(Serialize)]
struct MovesShape {
    under_way: u32,
    waiting: u32,
    remaining_ms: Option<u64>,
    list: Vec<MoveShape>,
}

#[derive(Serialize)]
struct MemberShape {
    node: u16,
    state: &'static str,
    alive: Option<bool>,
    silent_ms: u64,
    shards: u16,
    cluster_addr: String,
    http_addr: String,
    tcp_addr: String,
    slots: u32,
    preferred: u32,
    leads: u32,
    sessions: Option<u32>,
    table_version: u64,
}

#[derive(Serialize)]
struct MoveShape {
    slot: u16,
    from: Vec<String>,
    to: Vec<String>,
    percent: Option<u8>,
    under_way_ms: u64,
    remaining_ms: Option<u64>,
    stage: String,
}

#[derive(Serialize)]
struct WaitShape {
    slot: Option<u16>,
    node: Option<u16>,
    why: String,
}

#[derive(Serialize)]
struct RowShape {
    slot: u16,
    depth: u8,
    epoch: u64,
    replicas: Vec<String>,
    target: Vec<String>,
    preferred: String,
    leader: Option<String>,
    stage: String,
}

#[derive(Serialize)]
struct LinkShape {
    shard: u16,
    peer: String,
    member: bool,
    state: &'static str,
    for_ms: u64,
    unacknowledged_bytes: usize,
    unacknowledged_batches: usize,
    lossy_bytes: usize,
    round_trip_us: Option<u64>,
    attempts: u32,
}

fn places(places: &[Place]) -> Vec<String> {
    places.iter().map(Place::to_string).collect()
}

fn homes(replicas: &[ReplicaId]) -> Vec<String> {
    replicas.iter().map(|replica| replica.place().to_string()).collect()
}

impl StatusShape {
    fn of(status: &ClusterStatus) -> StatusShape {
        StatusShape {
            id: format!("{:016x}", status.id),
            name: status.name.to_string(),
            version: status.version,
            at_rest: status.is_at_rest(),
            complete: status.complete,
            told_by: status.told_by.to_string(),
            replicas_wanted: status.replicas_wanted,
            metadata: MetadataShape {
                leader: status.metadata_leader.map(|place| place.node.0),
                term: status.metadata_term,
                voters: status.metadata_voters.iter().map(|node| node.0).collect(),
            },
            members: status.members.iter().map(MemberShape::of).collect(),
            slots: SlotsShape {
                total: status.slots_total,
                leaderless: status.slots_leaderless,
                led_elsewhere: status.slots_misled,
                short_of_replicas: status.slots_thin,
                reshaping: status.reshapes,
                lost: status.lost.iter().map(|slot| slot.0).collect(),
            },
            moves: MovesShape {
                under_way: status.moves_total,
                waiting: status.moves_waiting,
                remaining_ms: status.remaining_ms,
                list: status.moves.iter().map(MoveShape::of).collect(),
            },
            waits: status
                .waits
                .iter()
                .map(|wait| WaitShape {
                    slot: wait.slot.map(|slot| slot.0),
                    node: wait.node.map(|node| node.0),
                    why: wait.why.to_string(),
                })
                .collect(),
            waits_omitted: status.waits_omitted,
            rows: status.slots.iter().map(RowShape::of).collect(),
            next: status.next.map(|slot| slot.0),
        }
    }
}

impl MemberShape {
    fn of(member: &MemberStatus) -> MemberShape {
        MemberShape {
            node: member.node.0,
            state: match member.standing {
                MemberStanding::Serving => "serving",
                MemberStanding::Draining => "draining",
                MemberStanding::Dead => "dead",
            },
            alive: member.alive,
            silent_ms: member.silent_ms,
            shards: member.shards,
            cluster_addr: member.cluster.to_string(),
            http_addr: member.http.to_string(),
            tcp_addr: member.tcp.to_string(),
            slots: member.slots,
            preferred: member.preferred,
            leads: member.leads,
            sessions: member.sessions,
            table_version: member.table_version,
        }
    }
}

impl MoveShape {
    fn of(one: &MoveStatus) -> MoveShape {
        MoveShape {
            slot: one.slot.0,
            from: places(&one.from),
            to: places(&one.to),
            percent: one.percent,
            under_way_ms: one.under_way_ms,
            remaining_ms: one.remaining_ms,
            stage: one.stage.to_string(),
        }
    }
}

impl RowShape {
    fn of(row: &SlotStatus) -> RowShape {
        RowShape {
            slot: row.slot.0,
            depth: row.depth,
            epoch: row.epoch,
            replicas: homes(&row.replicas),
            target: homes(&row.target),
            preferred: row.preferred.place().to_string(),
            leader: row.leader.map(|place| place.to_string()),
            stage: row.stage.to_string(),
        }
    }
}

impl LinkShape {
    fn of(shard: ShardId, row: &LinkRow, stands: Duration) -> LinkShape {
        LinkShape {
            shard: shard.0,
            peer: row.peer.to_string(),
            member: row.member,
            state: match row.state {
                LinkState::Waiting => "waiting",
                LinkState::Dialing => "dialing",
                LinkState::Up => "up",
            },
            for_ms: u64::try_from(stands.as_millis()).unwrap_or(u64::MAX),
            unacknowledged_bytes: row.unacknowledged_bytes,
            unacknowledged_batches: row.unacknowledged_batches,
            lossy_bytes: row.lossy_bytes,
            round_trip_us: row.round_trip.map(|span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
            attempts: row.attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, get, post};
    use super::*;
    use serde_json::json;

    /// A cluster of three of which the third is to be emptied, with one move and one wait.
    pub fn picture(here: bool) -> ClusterStatus {
        let place = |node| Place { node: NodeId(node), shard: ShardId(0) };
        let replica = |node, number| ReplicaId::new(place(node), number);
        let member = |node, standing| MemberStatus {
            node: NodeId(node),
            standing,
            alive: (!here).then_some(true),
            silent_ms: 120,
            shards: 2,
            cluster: format!("10.0.0.{node}:5300").parse().unwrap(),
            http: format!("10.0.0.{node}:5001").into(),
            tcp: format!("10.0.0.{node}:5100").into(),
            slots: 2,
            preferred: 1,
            leads: 1,
            table_version: 41,
            sessions: (node != 3).then_some(9),
        };
        let serving = MemberStanding::Serving;
        ClusterStatus {
            id: 0xabc,
            name: "east".into(),
            version: 41,
            told_by: place(1),
            complete: !here,
            replicas_wanted: 3,
            metadata_leader: (!here).then(|| place(1)),
            metadata_term: 4,
            metadata_voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            members: vec![member(1, serving), member(2, serving), member(3, MemberStanding::Draining)],
            slots_total: 2,
            slots_leaderless: 0,
            slots_misled: 1,
            slots_thin: 0,
            reshapes: 0,
            moves_total: 1,
            moves: vec![MoveStatus {
                slot: SlotId(1),
                from: vec![place(1), place(3)],
                to: vec![place(1), place(2)],
                percent: Some(40),
                under_way_ms: 900,
                remaining_ms: Some(1300),
                stage: "n2/s0 is catching up".into(),
            }],
            moves_waiting: 1,
            remaining_ms: Some(2600),
            waits: vec![crate::format::cluster_status::WaitStatus {
                slot: Some(SlotId(0)),
                node: None,
                why: "n2 receives 1 slots already".into(),
            }],
            waits_omitted: 0,
            lost: Vec::new(),
            slots: vec![SlotStatus {
                slot: SlotId(1),
                depth: 1,
                epoch: 3,
                replicas: vec![replica(1, 5), replica(3, 6)],
                target: vec![replica(1, 5), replica(2, 9)],
                preferred: replica(1, 5),
                leader: Some(place(3)),
                stage: "n2/s0 is catching up".into(),
            }],
            next: None,
        }
    }

    fn asked(fake: &Fake) -> Vec<ClusterRequest> {
        let request = |(_, request)| match request {
            ApiRequest::Cluster(request) => request,
            other => panic!("{other:?}"),
        };
        fake.requests().into_iter().map(request).collect()
    }

    #[test]
    fn the_picture_is_json_with_names_that_say_what_they_are() {
        let fake = Fake { answer: |_, _| ApiAnswer::Cluster(Box::new(picture(false))), ..Fake::default() };
        let (status, body) = get(&fake, "/cluster/status?from=1&max=2");
        assert_eq!(status, 200, "{body}");
        let data = &body["data"];
        assert_eq!(
            (&data["id"], &data["version"], &data["at_rest"]),
            (&json!("0000000000000abc"), &json!(41), &json!(false))
        );
        assert_eq!(data["metadata"], json!({"leader": 1, "term": 4, "voters": [1, 2, 3]}));
        assert_eq!(
            (&data["members"][2]["state"], &data["members"][0]["http_addr"]),
            (&json!("draining"), &json!("10.0.0.1:5001"))
        );
        assert_eq!((&data["members"][1]["sessions"], &data["members"][2]["sessions"]), (&json!(9), &json!(null)));
        assert_eq!(data["moves"]["list"][0]["to"], json!(["n1/s0", "n2/s0"]));
        assert_eq!((&data["rows"][0]["leader"], &data["rows"][0]["depth"]), (&json!("n3/s0"), &json!(1)));
        assert_eq!(asked(&fake), [ClusterRequest::Status { from: SlotId(1), max: 2, here: false }]);
        assert_eq!(get(&fake, "/cluster/status?from=16384").0, 400);
    }

    #[test]
    fn without_a_leader_a_node_says_what_it_knows() {
        let answer = |_, request: &ApiRequest| match request {
            ApiRequest::Cluster(ClusterRequest::Status { here: true, .. }) => {
                ApiAnswer::Cluster(Box::new(picture(true)))
            }
            _ => ApiAnswer::Busy,
        };
        let fake = Fake { answer, ..Fake::default() };
        let (status, body) = get(&fake, "/cluster/status");
        assert_eq!((status, &body["data"]["complete"]), (200, &json!(false)));
        assert_eq!(
            (&body["data"]["members"][0]["alive"], &body["data"]["metadata"]["leader"]),
            (&json!(null), &json!(null))
        );
        assert_eq!(post(&fake, "/cluster/rebalance", "{}").0, 503);
    }

    #[test]
    fn every_wish_is_passed_on_as_it_is() {
        let node = NodeId;
        for (path, body, wanted) in [
            ("drain", r#"{"node":3}"#, ClusterRequest::Drain { node: node(3) }),
            ("serve", r#"{"node":3}"#, ClusterRequest::Serve { node: node(3) }),
            ("remove", r#"{"node":3,"new":1}"#, ClusterRequest::Remove { node: node(3) }),
            ("replace", r#"{"node":3,"by":4}"#, ClusterRequest::Replace { node: node(3), by: node(4) }),
            ("rebalance", "{}", ClusterRequest::Rebalance),
            ("replicas", r#"{"replicas":5}"#, ClusterRequest::SetReplicas { replicas: 5 }),
            (
                "split",
                r#"{"slots":[0,7],"depth":9}"#,
                ClusterRequest::Split { slots: vec![SlotId(0), SlotId(7)], depth: 9 },
            ),
            ("merge", r#"{"slots":null,"depth":0}"#, ClusterRequest::Merge { slots: vec![], depth: 0 }),
            ("transfer", r#"{"slot":0,"node":2}"#, ClusterRequest::Transfer { slot: SlotId(0), node: node(2) }),
        ] {
            let fake = Fake::default();
            assert_eq!(post(&fake, &format!("/cluster/{path}"), body), (200, json!({"status": 200})), "{path}");
            assert_eq!(asked(&fake), [wanted]);
        }
    }

    #[test]
    fn what_is_missing_is_400_and_what_is_refused_409() {
        let fake = Fake::default();
        for (path, body, word) in [
            ("drain", "{}", "node is missing"),
            ("replace", r#"{"node":1}"#, "by is missing"),
            ("replicas", "{}", "replicas is missing"),
            ("split", r#"{"slots":[1]}"#, "depth is missing"),
            ("merge", r#"{"slots":[60000],"depth":1}"#, "slot 60000"),
            ("transfer", r#"{"node":1}"#, "slot is missing"),
        ] {
            let (status, answer) = post(&fake, &format!("/cluster/{path}"), body);
            assert_eq!(status, 400, "{path}");
            assert!(answer["msg"].as_str().unwrap().contains(word), "{answer} without {word}");
        }
        assert!(fake.requests().is_empty());
        let fake = Fake { answer: |_, _| REFUSED, ..Fake::default() };
        let (status, answer) = post(&fake, "/cluster/drain", r#"{"node":3}"#);
        assert_eq!((status, answer), (409, json!({"msg": "n3 is no member of this cluster", "status": 409})));
        let fake = Fake { token: "secret", ..Fake::default() };
        assert_eq!((post(&fake, "/cluster/drain", "{}").0, get(&fake, "/cluster/status").0), (401, 401));
    }

    const REFUSED: ApiAnswer =
        ApiAnswer::Refused { reason: 1, text: std::borrow::Cow::Borrowed("n3 is no member of this cluster") };

    #[test]
    fn links_are_listed_by_shard() {
        let fake = Fake::default();
        let (status, body) = get(&fake, "/cluster/links");
        assert_eq!(status, 200);
        let row = json!({"shard": 0, "peer": "n2/s0", "member": true, "state": "up", "for_ms": 1500,
            "unacknowledged_bytes": 10, "unacknowledged_batches": 1, "lossy_bytes": 0, "round_trip_us": 250, "attempts": 0});
        assert_eq!(body["data"][0], row);
        assert_eq!(body["data"].as_array().unwrap().len(), 2);
    }
}
