//! Probes, the addresses that clients dial, and the answers to paths and methods that do not exist.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::shapes::{ApiError, Asked, DONE, Reply};

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

/// Query of `/route`. The user changes nothing while there is one node.
#[derive(Deserialize)]
pub struct RouteQuery {
    #[serde(default)]
    uid: String,
}

#[derive(Serialize)]
struct Route<'a> {
    tcp_addr: &'a str,
    ws_addr: &'a str,
    wss_addr: &'a str,
}

#[derive(Serialize)]
struct RouteOfMany<'a> {
    uids: Vec<String>,
    #[serde(flatten)]
    route: Route<'a>,
}

fn route_of(api: &Api) -> Route<'_> {
    let addresses = &api.addresses;
    Route { tcp_addr: &addresses.tcp, ws_addr: &addresses.ws, wss_addr: &addresses.wss }
}

/// `GET /route?uid=`.
pub async fn route(State(api): State<Arc<Api>>, Query(query): Query<RouteQuery>) -> Response {
    tracing::trace!(uid = query.uid, "route asked");
    Reply(route_of(&api)).into_response()
}

/// `POST /route/batch`: the uids of an array, grouped by the address they are to dial.
pub async fn route_batch(State(api): State<Arc<Api>>, Asked(uids): Asked<Vec<String>>) -> Response {
    Reply([RouteOfMany { uids, route: route_of(&api) }]).into_response()
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
    use serde_json::json;

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
