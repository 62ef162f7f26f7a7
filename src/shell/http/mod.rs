//! The HTTP API that backends call and probes read, in the shapes of WuKongIM v2. It runs on its own thread, never on a
//! data shard; what it needs of a shard it asks through the mesh and waits for a bounded time. It decides nothing about
//! messages, users or the cluster: it checks form, hands the question to a shard, and puts the answer into JSON.
//!
//! It has no users and no roles (at most one shared token), as the backends that call it send no credentials: where it
//! listens is the protection.

mod connections;
mod history;
mod messages;
mod metrics;
mod operators;
mod profile;
mod routes;
mod shapes;
mod shard_door;
mod users;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use shard_door::NodeState;

use shapes::ApiError;

use super::mesh::MeshSender;
use super::seed::Secrets;

/// Largest body of a request. Over it: 413.
const BODY_BYTES_MAX: usize = 1 << 20;

/// From a request's head to its answer, the body's arrival included. Over it: 503. Longer than a shard may take
/// (`shard_door::SHARD_ANSWERS_WITHIN`), so that the more telling error comes first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// After a stop, requests under way may go on for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// What `/route` tells clients to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicAddresses {
    /// `HOST:PORT`.
    pub tcp: String,
    /// `ws://HOST:PORT`.
    pub ws: String,
    /// `wss://HOST:PORT` or empty.
    pub wss: String,
}

/// Everything the handlers share.
pub struct Api {
    mesh: MeshSender,
    node: Arc<NodeState>,
    slot_depth: u8,
    addresses: PublicAddresses,
    token: String,
    secrets: Mutex<Secrets>,
    started: Instant,
    responses: [AtomicU64; 5],
}

impl Api {
    /// `token` empty: none is asked for. `secrets` feeds the `client_msg_no` of messages whose caller gave none.
    #[must_use]
    pub fn new(
        mesh: MeshSender,
        node: Arc<NodeState>,
        slot_depth: u8,
        addresses: PublicAddresses,
        token: String,
        secrets: Secrets,
    ) -> Arc<Api> {
        Arc::new(Api {
            mesh,
            node,
            slot_depth,
            addresses,
            token,
            secrets: Mutex::new(secrets),
            started: Instant::now(),
            responses: Default::default(),
        })
    }

    /// A number for a message that came without: 32 hex digits, and one that says that it was made here.
    fn fresh_client_msg_no(&self) -> String {
        let mut secrets = self.secrets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut drawn = [0; 16];
        drawn.copy_from_slice(&secrets.key()[..16]);
        format!("{:032x}0", u128::from_le_bytes(drawn))
    }
}

/// The paths and what answers them.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/route", get(routes::route))
        .route("/route/batch", post(routes::route_batch))
        .route("/user/token", post(users::set_token))
        .route("/user/device_quit", post(users::quit_device))
        .route("/user/onlinestatus", post(users::online_status))
        .route("/message/send", post(messages::send))
        .route("/channel/messagesync", post(history::message_sync))
        .route("/cluster/status", get(operators::status))
        .route("/cluster/links", get(operators::links))
        .route("/cluster/drain", post(operators::drain))
        .route("/cluster/serve", post(operators::serve))
        .route("/cluster/remove", post(operators::remove))
        .route("/cluster/replace", post(operators::replace))
        .route("/cluster/rebalance", post(operators::rebalance))
        .route("/cluster/replicas", post(operators::replicas))
        .route("/cluster/split", post(operators::split))
        .route("/cluster/merge", post(operators::merge))
        .route("/cluster/transfer", post(operators::transfer))
        .route("/profile", get(profile::profile))
        .route("/profile/watch", post(profile::watch))
        .route_layer(from_fn_with_state(api.clone(), check_token));
    let open = Router::new()
        .route("/healthz", get(routes::healthz))
        .route("/readyz", get(routes::readyz))
        .route("/metrics", get(metrics::metrics));
    guarded
        .merge(open)
        .fallback(routes::no_such_path)
        .method_not_allowed_fallback(routes::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(api.clone(), bounded_and_counted))
        .with_state(api)
}

/// Ends a request that takes too long and counts answers by class.
async fn bounded_and_counted(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the request took too long").into_response(),
    };
    let class = usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1;
    api.responses[class].fetch_add(1, Ordering::Relaxed);
    response
}

/// Asks for the token where one is configured.
async fn check_token(State(api): State<Arc<Api>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    if api.token.is_empty() {
        return next.run(request).await;
    }
    let given = headers.get("token").map_or(&b""[..], |value| value.as_bytes());
    if same_bytes(given, api.token.as_bytes()) {
        next.run(request).await
    } else {
        ApiError::new(StatusCode::UNAUTHORIZED, "the header `token` is missing or wrong").into_response()
    }
}

/// Compares without stopping at the first difference, so that the time taken tells nothing about how much was right.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// The running API.
pub struct HttpThread {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: std::thread::JoinHandle<()>,
}

impl HttpThread {
    /// Serves on a listener until [`HttpThread::stop`].
    ///
    /// # Errors
    /// What the kernel said no to.
    pub fn start(listener: TcpListener, api: Arc<Api>) -> std::io::Result<HttpThread> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            runtime.block_on(async move {
                if let Err(error) = serve(listener, api, stopped).await {
                    tracing::error!(%error, "the HTTP API has stopped");
                }
            });
        })?;
        Ok(HttpThread { stop: Some(stop), thread })
    }

    /// Takes no new connections, lets requests under way end for a bounded time, and waits for the thread.
    pub fn stop(mut self) {
        drop(self.stop.take());
        if self.thread.join().is_err() {
            tracing::error!("the HTTP thread has panicked");
        }
    }
}

async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = connections::BoundedListener::new(tokio::net::TcpListener::from_std(listener)?);
    let (stopping, mut draining) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router(api)).with_graceful_shutdown(async move {
        let _ = stopped.await;
        let _ = stopping.send(true);
    });
    let bound = async move {
        let _ = draining.changed().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        result = server.into_future() => result,
        () = bound => Ok(()),
    }
}

#[cfg(test)]
mod fake;
