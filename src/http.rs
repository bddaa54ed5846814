//! The HTTP side door of a process: `/metrics`, `/livez`, `/readyz`, and what its parts tell of themselves below `/v1`.
//!
//! It runs in its own actix `System` on its own thread, so that a busy or stuck shard can still be seen. `/livez` says
//! that the process can answer at all; `/readyz` answers 503 with the reasons until every named check of [`Readiness`]
//! has passed. The address is bound before anything else is started, so that a taken one is an error at once.

use crate::metrics::{CONTENT_TYPE, Metrics};
use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections that are served at once; scrapers and probes need a handful.
const CONNECTIONS_MAX: usize = 256;
/// Requests in flight get this long when the process stops.
const SHUTDOWN_SEC_MAX: u64 = 1;
/// A client that sends its request more slowly than this is cut off.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr} for metrics: {source}; free it or set KAFSCALE_METRICS_ADDR")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The thread or its server could not be started.
    #[error("cannot start the metrics server on {addr}: {message}")]
    Start {
        /// The address.
        addr: SocketAddr,
        /// What went wrong.
        message: String,
    },
}

/// Whether the process can do its work: named checks, each passed or with the reason why not.
#[derive(Debug, Default)]
pub struct Readiness {
    checks: Mutex<BTreeMap<&'static str, Result<(), String>>>,
}

impl Readiness {
    /// Checks that have to pass; none has yet.
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        let checks = names.into_iter().map(|name| (name, Err("starting".to_owned()))).collect();
        Self { checks: Mutex::new(checks) }
    }

    /// The check passes from now on.
    pub fn pass(&self, name: &'static str) {
        self.checks.lock().expect("no panic under the lock").insert(name, Ok(()));
    }

    /// The check fails from now on.
    pub fn fail(&self, name: &'static str, reason: impl Into<String>) {
        self.checks.lock().expect("no panic under the lock").insert(name, Err(reason.into()));
    }

    /// The checks that do not pass, with their reasons; ready means none.
    pub fn failing(&self) -> BTreeMap<&'static str, String> {
        let checks = self.checks.lock().expect("no panic under the lock");
        checks.iter().filter_map(|(name, result)| Some((*name, result.clone().err()?))).collect()
    }
}

/// Why a page cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PageError {
    /// HTTP status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub message: String,
}

impl PageError {
    /// The query makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: 404, message: message.into() }
    }
}

type Page = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Value, PageError>> + Send + Sync>;

/// What parts of the process tell of themselves as JSON, for the console. They are added as the parts start.
#[derive(Default)]
pub struct Pages {
    pages: RwLock<BTreeMap<&'static str, Page>>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.pages.read().expect("no panic under the lock").keys()).finish()
    }
}

impl Pages {
    /// GET `path` (below `/v1/`) answers what `page` makes of the query string from now on.
    pub fn register<F>(&self, path: &'static str, page: F)
    where
        F: Fn(String) -> BoxFuture<'static, Result<Value, PageError>> + Send + Sync + 'static,
    {
        self.pages.write().expect("no panic under the lock").insert(path, Arc::new(page));
    }

    fn get(&self, path: &str) -> Option<Page> {
        self.pages.read().expect("no panic under the lock").get(path).cloned()
    }
}

/// What the server shows.
#[derive(Debug, Default)]
pub struct HttpState {
    /// Metrics.
    pub metrics: Metrics,
    /// Readiness.
    pub readiness: Readiness,
    /// JSON pages.
    pub pages: Pages,
}

/// A running server.
#[derive(Debug)]
pub struct HttpHandle {
    addr: SocketAddr,
    server: ServerHandle,
    thread: JoinHandle<()>,
}

impl HttpHandle {
    /// The address that is listened on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops the server and waits for its thread; requests in flight get about a second.
    pub fn stop(self) {
        // The command is queued when `stop` is called; the future only waits for the end, which `join` does.
        drop(self.server.stop(true));
        if self.thread.join().is_err() {
            tracing::error!("the metrics server panicked");
        }
    }
}

/// Starts the server on `addr`.
pub fn spawn(addr: SocketAddr, state: Arc<HttpState>) -> Result<HttpHandle, HttpError> {
    let listener = TcpListener::bind(addr).map_err(|source| HttpError::Bind { addr, source })?;
    let addr = listener.local_addr().map_err(|source| HttpError::Bind { addr, source })?;
    let failed = move |message: String| HttpError::Start { addr, message };
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("metrics-http".to_owned())
        .spawn(move || serve(listener, state, &started))
        .map_err(|e| failed(e.to_string()))?;
    let server = outcome.recv().map_err(|_| failed("its thread ended".to_owned()))?.map_err(failed)?;
    Ok(HttpHandle { addr, server, thread })
}

fn serve(listener: TcpListener, state: Arc<HttpState>, started: &mpsc::SyncSender<Result<ServerHandle, String>>) {
    let state = web::Data::from(state);
    actix_rt::System::new().block_on(async move {
        let app = move || {
            App::new()
                .app_data(state.clone())
                .route("/metrics", web::get().to(metrics))
                .route("/livez", web::get().to(live))
                .route("/readyz", web::get().to(ready))
                .route("/v1/{page:.*}", web::get().to(page))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .max_connections(CONNECTIONS_MAX)
            .client_request_timeout(REQUEST_TIMEOUT)
            .shutdown_timeout(SHUTDOWN_SEC_MAX)
            .disable_signals()
            .listen(listener);
        let server = match server {
            Ok(server) => server.run(),
            Err(error) => return drop(started.send(Err(error.to_string()))),
        };
        // The receiver waits for exactly this message.
        let _ = started.send(Ok(server.handle()));
        if let Err(error) = server.await {
            tracing::error!(%error, "the metrics server failed");
        }
    });
}

async fn metrics(state: web::Data<HttpState>) -> HttpResponse {
    match state.metrics.render() {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(_) => HttpResponse::InternalServerError().body("a collector failed"),
    }
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("ok\n")
}

async fn ready(state: web::Data<HttpState>) -> HttpResponse {
    let failing = state.readiness.failing();
    let body = serde_json::json!({ "ready": failing.is_empty(), "failing": failing });
    if failing.is_empty() { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

async fn page(state: web::Data<HttpState>, request: HttpRequest) -> HttpResponse {
    let Some(page) = state.pages.get(request.path()) else {
        let message = "there is no such page; brokers that are starting have none yet";
        return HttpResponse::NotFound().json(serde_json::json!({ "message": message }));
    };
    match page(request.query_string().to_owned()).await {
        Ok(value) => HttpResponse::Ok().json(value),
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            HttpResponse::build(status).json(serde_json::json!({ "message": error.message }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;

    #[test]
    fn is_ready_when_every_check_passed_and_says_why_not() {
        let readiness = Readiness::new(["metadata", "storage"]);
        assert_eq!(readiness.failing().len(), 2);
        readiness.pass("metadata");
        readiness.fail("storage", "no bucket");
        assert_eq!(readiness.failing(), BTreeMap::from([("storage", "no bucket".to_owned())]));
        readiness.pass("storage");
        assert!(readiness.failing().is_empty());
        readiness.fail("lease", "expired");
        assert_eq!(readiness.failing().len(), 1);
    }

    #[test]
    fn readyz_answers_503_with_reasons_and_then_200() {
        actix_rt::System::new().block_on(async {
            let state = web::Data::new(HttpState { readiness: Readiness::new(["metadata"]), ..HttpState::default() });
            let response = ready(state.clone()).await;
            assert_eq!(response.status(), 503);
            let body: serde_json::Value =
                serde_json::from_slice(&to_bytes(response.into_body()).await.unwrap()).unwrap();
            assert_eq!(body, serde_json::json!({ "ready": false, "failing": { "metadata": "starting" } }));
            state.readiness.pass("metadata");
            assert_eq!(ready(state).await.status(), 200);
        });
    }
}
