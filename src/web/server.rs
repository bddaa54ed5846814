//! The console's HTTP server: which address answers what.

use super::problem::Problem;
use super::state::ConsoleState;
use super::{
    auth, brokers, cost, gate, groups, history, insight, live, messages, openapi, overview, probes, segments, topics,
};
use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use socket2::SockRef;
use std::net::TcpListener;
use std::time::Duration;

/// Threads that serve.
const WORKERS: usize = 2;
/// Connections of each of them.
const CONNECTIONS_MAX: usize = 1_024;
/// A client that sends its request more slowly than this is cut off.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests in flight get this long when the process stops.
const SHUTDOWN_SEC_MAX: u64 = 1;
/// Longest JSON body, bytes, unless a route says otherwise.
const JSON_BYTES_MAX: usize = 64 << 10;
/// What the system keeps for a browser that does not read, bytes (Linux takes twice as many).
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A server on `listener`, not running yet.
pub fn serve(listener: TcpListener, state: web::Data<ConsoleState>) -> std::io::Result<(Server, ServerHandle)> {
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(gate::frame))
            .configure(app_data(&state))
            .route("/livez", web::get().to(probes::live))
            .route("/readyz", web::get().to(probes::ready))
            .route("/metrics", web::get().to(probes::metrics))
            .service(web::scope("/api/v1").wrap(from_fn(gate::admit)).configure(api).default_service(web::to(no_route)))
            .service(
                web::scope("/ui/api").wrap(from_fn(gate::admit)).configure(guide).default_service(web::to(no_route)),
            )
            .default_service(web::to(page))
    });
    let server = server
        .workers(WORKERS)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(SHUTDOWN_SEC_MAX)
        .disable_signals()
        .on_connect(|connection, _| {
            if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                // Best effort: with the system's own size a browser that does not read costs more memory.
                let _larger = SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES);
            }
        })
        .listen(listener)?
        .run();
    let handle = server.handle();
    Ok((server, handle))
}

/// What handlers find in the application's data.
fn app_data(state: &web::Data<ConsoleState>) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let state = state.clone();
    move |config| {
        let json = web::JsonConfig::default().limit(JSON_BYTES_MAX);
        config.app_data(web::Data::from(state.audit.clone())).app_data(state).app_data(json);
    }
}

/// Everything below `/api/v1`.
fn api(config: &mut web::ServiceConfig) {
    config
        .configure(auth::routes)
        .configure(overview::routes)
        .configure(history::routes)
        .configure(brokers::routes)
        .configure(insight::routes)
        .configure(topics::routes)
        .configure(groups::routes)
        .configure(messages::routes)
        .configure(segments::routes)
        .configure(cost::routes)
        .configure(openapi::routes)
        .route("/live", web::get().to(live::live));
}

/// Paths of the operations guide, below `/ui/api`.
fn guide(config: &mut web::ServiceConfig) {
    config
        .configure(auth::routes)
        .route("/status", web::get().to(overview::overview))
        .route("/metrics", web::get().to(live::live));
}

async fn no_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("there is no such address in this API: see /api/v1/openapi.json"))
}

/// The pages; the path is for them to understand.
async fn page(state: web::Data<ConsoleState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), actix_web::http::Method::GET | actix_web::http::Method::HEAD) {
        return Err(Problem::not_found("there is no such address; the API is below /api/v1"));
    }
    Ok(state.assets.answer(&request))
}
