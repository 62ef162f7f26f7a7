//! Probes, the addresses that clients dial, and the answers to paths and methods that do not exist.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::shapes::{ApiError, Asked, DONE, Reply};
use crate::engine::event::{ApiAnswer, ApiRequest};
use crate::format::cluster_status::UserRoute;
use crate::ids::Uid;

/// `GET /healthz`: the process runs and this thread answers.
pub async fn healthz() -> Response {
    DONE.into_response()
}

/// `GET /readyz`: every shard has its data back, leads its slots and may write.
pub async fn readyz(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let count = api.shards().count();
    let ready = api.shards().filter(|shard| api.node.is_ready(*shard)).count();
    let unavailable = |msg: String| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, msg));
    if ready < count {
        return unavailable(format!("{ready} of {count} shards are ready"));
    }
    let snapshots = api.snapshots().await;
    if snapshots.len() < count {
        return unavailable(format!("{} of {count} shards answer", snapshots.len()));
    }
    let waiting: usize = snapshots.iter().map(|snapshot| snapshot.engine.slots_waiting).sum();
    if waiting > 0 {
        return unavailable(format!("{waiting} slots have no leader that is known here"));
    }
    let blocked = snapshots.iter().filter(|snapshot| !snapshot.engine.writable).count();
    if blocked > 0 {
        return unavailable(format!("the journal of {blocked} of {count} shards refuses writes"));
    }
    Ok(DONE.into_response())
}

/// Users in one question about where they are to go. Over it: 400; the caller splits.
const ROUTE_UIDS_MAX: usize = 10_000;

/// Query of `/route`.
#[derive(Deserialize)]
pub struct RouteQuery {
    #[serde(default)]
    uid: String,
}

#[derive(Serialize)]
struct Route {
    tcp_addr: String,
    ws_addr: String,
    wss_addr: String,
}

#[derive(Serialize)]
struct RouteOfMany {
    uids: Vec<String>,
    #[serde(flatten)]
    route: Route,
}

impl Route {
    /// This node: it serves everybody, if not with the shortest way.
    fn own(api: &Api) -> Route {
        let addresses = &api.addresses;
        Route { tcp_addr: addresses.tcp.clone(), ws_addr: addresses.ws.clone(), wss_addr: addresses.wss.clone() }
    }

    fn of(route: &UserRoute) -> Route {
        Route { tcp_addr: route.tcp.to_string(), ws_addr: route.ws.to_string(), wss_addr: route.wss.to_string() }
    }
}

/// Where each of these is to go; empty when no shard says.
async fn routes_of(api: &Api, uids: Vec<Uid>) -> Vec<UserRoute> {
    let Some(first) = uids.first() else { return Vec::new() };
    let shard = api.shard_for(first.key_hash());
    match api.ask(shard, ApiRequest::Route { uids }).await {
        Ok(ApiAnswer::Routes(routes)) => routes.into_iter().filter(|route| route.node.is_some()).collect(),
        _ => Vec::new(),
    }
}

/// `GET /route?uid=`: the node that leads the user's home. Without a uid, or one that can be nobody's: this node.
pub async fn route(State(api): State<Arc<Api>>, Query(query): Query<RouteQuery>) -> Response {
    let uids: Vec<Uid> = Uid::parse(&query.uid).into_iter().collect();
    let routes = routes_of(&api, uids).await;
    Reply(routes.first().map_or_else(|| Route::own(&api), Route::of)).into_response()
}

/// `POST /route/batch`: the uids of an array, grouped by the node that leads their homes.
pub async fn route_batch(
    State(api): State<Arc<Api>>,
    Asked(asked): Asked<Option<Vec<String>>>,
) -> Result<Response, ApiError> {
    let asked = asked.unwrap_or_default();
    if asked.len() > ROUTE_UIDS_MAX {
        return Err(ApiError::bad(format!("{} uids in one call; allowed: {ROUTE_UIDS_MAX}", asked.len())));
    }
    let good = asked.iter().enumerate().filter_map(|(at, text)| Some((at, Uid::parse(text).ok()?)));
    let (places, uids): (Vec<usize>, Vec<Uid>) = good.unzip();
    let mut left: Vec<Option<String>> = asked.into_iter().map(Some).collect();
    let mut groups = Vec::new();
    for route in routes_of(&api, uids).await {
        let named = route.users.iter().filter_map(|user| left.get_mut(*places.get(*user as usize)?)?.take());
        groups.push(RouteOfMany { uids: named.collect(), route: Route::of(&route) });
    }
    let rest: Vec<String> = left.into_iter().flatten().collect();
    if !rest.is_empty() {
        groups.push(RouteOfMany { uids: rest, route: Route::own(&api) });
    }
    Ok(Reply(groups).into_response())
}

/// Every other path.
pub async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}

/// A path that exists, asked in the wrong way.
pub async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not answer to {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, get, post};
    use crate::engine::event::{ApiAnswer, ApiRequest};
    use crate::format::cluster_status::UserRoute;
    use crate::ids::NodeId;
    use serde_json::json;

    /// Users whose names end in an odd digit are led by node 1, the others by node 2.
    fn two_nodes(request: &ApiRequest) -> ApiAnswer {
        let ApiRequest::Route { uids } = request else { panic!("{request:?}") };
        let led = |odd: bool| {
            let named = uids.iter().enumerate();
            let named = named.filter(|(_, uid)| (uid.as_str().as_bytes().last().unwrap() % 2 == 1) == odd);
            named.map(|(at, _)| at as u32).collect::<Vec<u32>>()
        };
        let route = |node: u16, users: Vec<u32>| UserRoute {
            node: Some(NodeId(node)),
            tcp: format!("n{node}:5100").into(),
            ws: format!("ws://n{node}:5200").into(),
            wss: "".into(),
            users,
        };
        ApiAnswer::Routes(
            [route(1, led(true)), route(2, led(false))].into_iter().filter(|r| !r.users.is_empty()).collect(),
        )
    }

    #[test]
    fn users_go_to_the_node_that_leads_their_home() {
        let fake = Fake { answer: |_, request| two_nodes(request), ..Fake::default() };
        let second = json!({"tcp_addr": "n2:5100", "ws_addr": "ws://n2:5200", "wss_addr": ""});
        assert_eq!(get(&fake, "/route?uid=u2"), (200, second));
        let (status, groups) = post(&fake, "/route/batch", r#"["u1","u2","not@uid","u3"]"#);
        assert_eq!(status, 200);
        let uids: Vec<_> =
            groups.as_array().unwrap().iter().map(|group| (&group["tcp_addr"], &group["uids"])).collect();
        let wanted = json!([["n1:5100", ["u1", "u3"]], ["n2:5100", ["u2"]], ["h:5100", ["not@uid"]]]);
        assert_eq!(json!(uids), wanted);
        assert_eq!(post(&fake, "/route/batch", "[]"), (200, json!([])));
        let many = serde_json::to_string(&vec!["u"; 10_001]).unwrap();
        assert_eq!(post(&fake, "/route/batch", &many).0, 400);
    }

    #[test]
    fn probes_and_routes() {
        let fake = Fake::default();
        assert_eq!(get(&fake, "/healthz"), (200, json!({"status": 200})));
        assert_eq!(get(&fake, "/readyz"), (200, json!({"status": 200})));
        let route = json!({"tcp_addr": "h:5100", "ws_addr": "ws://h:5200", "wss_addr": ""});
        assert_eq!(get(&fake, "/route?uid=u1"), (200, route.clone()));
        assert_eq!(get(&fake, "/route"), (200, route));
        assert_eq!(
            post(&fake, "/route/batch", r#"["u1","u2"]"#),
            (200, json!([{"uids": ["u1", "u2"], "tcp_addr": "h:5100", "ws_addr": "ws://h:5200", "wss_addr": ""}]))
        );
    }

    #[test]
    fn what_is_not_there_says_so_in_json() {
        let fake = Fake::default();
        assert_eq!(get(&fake, "/nowhere"), (404, json!({"msg": "no such path: /nowhere", "status": 404})));
        let (status, body) = get(&fake, "/user/token");
        assert_eq!((status, &body["status"]), (405, &json!(405)));
        let (status, body) = post(&fake, "/user/token", &format!("\"{}\"", "x".repeat(1 << 20)));
        assert_eq!((status, &body["status"]), (413, &json!(413)));
        let (status, body) = post(&fake, "/user/token", "{");
        assert_eq!((status, &body["status"]), (400, &json!(400)));
        assert!(body["msg"].as_str().unwrap().starts_with("the body is not the JSON this path expects"));
    }

    #[test]
    fn a_node_is_ready_only_with_all_its_shards_and_a_journal_that_takes_writes() {
        let fake = Fake { ready: 1, ..Fake::default() };
        assert_eq!(get(&fake, "/readyz"), (503, json!({"msg": "1 of 2 shards are ready", "status": 503})));
        let fake = Fake { slots_waiting: 1, ..Fake::default() };
        assert_eq!(
            get(&fake, "/readyz"),
            (503, json!({"msg": "2 slots have no leader that is known here", "status": 503}))
        );
        let fake = Fake { writable: false, ..Fake::default() };
        assert_eq!(get(&fake, "/readyz").0, 503);
        assert_eq!(get(&fake, "/healthz").0, 200);
    }

    #[test]
    fn a_token_guards_calls_but_not_probes() {
        let fake = Fake { token: "secret", ..Fake::default() };
        assert_eq!(get(&fake, "/route").0, 401);
        assert_eq!(post(&fake, "/user/onlinestatus", "[]").0, 401);
        assert_eq!(get(&fake, "/readyz").0, 200);
        let fake = Fake { token: "secret", sent_token: "secret", ..Fake::default() };
        assert_eq!(get(&fake, "/route").0, 200);
    }
}
