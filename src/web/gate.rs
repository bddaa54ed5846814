//! The choke point: every request passes [`frame`], and everything of the API passes [`admit`].
//!
//! `frame` gives a request its id, bounds how many are answered at a time and for how long, turns every error into problem
//! details, and puts the headers on that tell browsers what not to do. `admit` wants a session, and for whatever is not GET the
//! second token, the same origin, JSON, and an administrator. It is wrapped around the scopes of the API and not around
//! paths, so that no spelling of a path goes round it; what is open to everybody is listed here by name.

use super::audit::Actor;
use super::auth::sessions::Role;
use super::auth::{self, NOT_CONFIGURED, SignedIn};
use super::client::Client;
use super::problem::Problem;
use super::state::ConsoleState;
use crate::trace;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, Span};

/// An answer begins within this time, whatever it is about; pages have shorter budgets of their own.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Requests of the API that are answered at a time, streams not counted.
pub const REQUESTS_MAX: usize = 256;
/// Streams (live pages, tails, exports) at a time.
pub const STREAMS_MAX: usize = 512;
/// Longest id that is taken from a client or a proxy.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Open to everybody. Exactly these spellings.
const OPEN: [&str; 4] = ["/api/v1/auth/config", "/api/v1/auth/login", "/ui/api/auth/config", "/ui/api/auth/login"];
/// For sessions of whatever role, since they change nothing but the session, or nothing at all.
const FOR_VIEWERS: [&str; 5] = [
    "/api/v1/auth/logout",
    "/api/v1/auth/logout-everywhere",
    "/ui/api/auth/logout",
    "/ui/api/auth/logout-everywhere",
    "/api/v1/cost/estimate",
];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CSRF_TOKEN: &str = "x-csrf-token";
const CSP: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
const PERMISSIONS: &str = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), \
     microphone=(), midi=(), payment=(), usb=()";

/// The id of a request.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// Nobody is signed in.
pub fn unauthenticated() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "sign in: there is no session, or it is over")
}

/// See the module's documentation.
pub async fn frame(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<Data<ConsoleState>>().expect("the server has it").clone();
    let client = Client::find(&request, &state.config.trusted_proxies);
    let id = request_id(request.headers());
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(RequestId(id.clone()));
    state.stats.requests.fetch_add(1, Ordering::Relaxed);
    let span = span_of(&request, &id);
    let answered = tokio::time::timeout(HEAD_WITHIN, next.call(request)).instrument(span.clone()).await;
    let mut response = match answered {
        Ok(answered) => answered?.map_into_boxed_body(),
        Err(_) => return Err(OverBudget { id, is_https: client.is_https }.into()),
    };
    if let Some(problem) = response.response().error().map(problem_of) {
        response = response.into_response(problem.response(Some(&id)).map_into_boxed_body());
    }
    if response.status().is_server_error() {
        state.stats.errors.fetch_add(1, Ordering::Relaxed);
    }
    finish(response.headers_mut(), &id, client.is_https);
    tell(&span, &response);
    Ok(response)
}

/// The span of a request, unless it is one of those that ask all the time how the console does.
fn span_of(request: &ServiceRequest, id: &str) -> Span {
    if matches!(request.path(), "/livez" | "/readyz" | "/metrics") {
        return Span::none();
    }
    let span = trace::console(request.method().as_str(), request.path());
    span.record("kafscale.request_id", id);
    span
}

fn tell(span: &Span, response: &ServiceResponse<BoxBody>) {
    if span.is_disabled() {
        return;
    }
    let (request, status) = (response.request(), response.status());
    let route = request.match_pattern().unwrap_or_else(|| "page".to_owned());
    span.record("otel.name", format!("{} {route}", request.method()));
    span.record("http.route", route).record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

fn request_id(headers: &HeaderMap) -> Arc<str> {
    let legal = |id: &&str| {
        let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(byte)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(legal);
    given.map_or_else(|| format!("{:016x}", crate::rng::u64()).into(), Into::into)
}

/// What is not a problem of ours becomes one: bodies that are no JSON, paths that do not parse.
fn problem_of(error: &Error) -> Problem {
    if let Some(problem) = error.as_error::<Problem>() {
        return problem.clone();
    }
    let status = error.as_response_error().status_code();
    match status {
        StatusCode::NOT_FOUND => Problem::not_found("there is no such address in this API: see /api/v1/openapi.json"),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "invalid", "the body is too large"),
        _ if status.is_client_error() => Problem::new(status, "invalid", error.to_string()),
        _ => Problem::new(status, "unavailable", "the console failed; its log says more under this request's id"),
    }
}

/// Puts on what every answer has.
fn finish(headers: &mut HeaderMap, id: &str, is_https: bool) {
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, CSP);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("permissions-policy"), PERMISSIONS);
    if is_https {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// No answer in time. The request is gone with what should have answered it, so that this answers for itself.
#[derive(Debug)]
struct OverBudget {
    id: Arc<str>,
    is_https: bool,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer in time")
    }
}

impl ResponseError for OverBudget {
    fn status_code(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }

    fn error_response(&self) -> HttpResponse {
        let detail = format!("no answer within {} s; ask for less, or try again", HEAD_WITHIN.as_secs());
        let mut response = Problem::new(self.status_code(), "budget", detail).response(Some(&self.id));
        finish(response.headers_mut(), &self.id, self.is_https);
        response
    }
}

/// See the module's documentation.
pub async fn admit(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<Data<ConsoleState>>().expect("the server has it").clone();
    let admitted = match is_open(&request) {
        true => same_origin(&request),
        false => signed_in(&state, &request).await,
    };
    let place = admitted.and_then(|()| take_place(&state, &request));
    let place = match place {
        Ok(place) => place,
        // As an error, so that `frame` puts the request's id in.
        Err(problem) => return Ok(request.error_response(problem)),
    };
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| BoxBody::new(Held { body: body.boxed(), _place: place })))
}

fn is_open(request: &ServiceRequest) -> bool {
    OPEN.contains(&request.path())
}

fn take_place(state: &ConsoleState, request: &ServiceRequest) -> Result<OwnedSemaphorePermit, Problem> {
    let is_stream = ["/live", "/tail", "/export", "/ui/api/metrics"].iter().any(|end| request.path().ends_with(end));
    let places = if is_stream { &state.stream_places } else { &state.request_places };
    places.clone().try_acquire_owned().map_err(|_| {
        let what = if is_stream { "live pages and exports are open" } else { "requests are being answered" };
        let mut problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "budget",
            format!("too many {what}: close some, or try again in a moment"),
        );
        problem.retry_after_sec = Some(2);
        problem
    })
}

/// Finds the session, and what writing needs besides.
async fn signed_in(state: &ConsoleState, request: &ServiceRequest) -> Result<(), Problem> {
    if !state.logins.is_configured() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_configured", NOT_CONFIGURED));
    }
    let token = auth::token_of(request.request()).ok_or_else(unauthenticated)?;
    let hash = auth::sessions::hash(&token);
    // A page that asks by itself would keep a session alive for ever: it says so.
    let counts = !request.headers().contains_key("x-background");
    let check = auth::actor::Check { token: hash, counts };
    let session = state.ask_sessions(check).await?.ok_or_else(unauthenticated)?;
    let csrf_token = auth::csrf_token(&token);
    same_origin(request)?;
    if is_writing(request.method()) {
        let given = request.headers().get(CSRF_TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
        if !bool::from(given.ct_eq(csrf_token.as_bytes())) {
            return Err(csrf("X-CSRF-Token is missing or of another session: take it from /api/v1/auth/session"));
        }
        if session.role != Role::Admin && !FOR_VIEWERS.contains(&request.path()) {
            let detail = format!("{} may look but not change anything: sign in as an administrator", session.username);
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
    }
    let remote = Client::of(request.request()).address.to_string();
    let mut extensions = request.extensions_mut();
    extensions.insert(Actor { who: session.username.clone(), role: session.role.name(), remote });
    extensions.insert(SignedIn { session, token: hash, csrf_token });
    Ok(())
}

fn is_writing(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn csrf(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "csrf", detail)
}

/// What other sites make a browser send is refused, and so is what a form could send.
fn same_origin(request: &ServiceRequest) -> Result<(), Problem> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let other = "this request came from a page of another site: open the console itself";
    if let Some(site) = text("sec-fetch-site") {
        if !matches!(site, "same-origin" | "none") {
            return Err(csrf(other));
        }
    } else if let Some(origin) = text("origin").filter(|_| is_writing(request.method())) {
        let host = text("host").unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none_or(|authority| !authority.eq_ignore_ascii_case(host)) {
            return Err(csrf(other));
        }
    }
    let is_json = |value: &str| {
        value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    };
    if is_writing(request.method()) && !text("content-type").is_some_and(is_json) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid",
            "send Content-Type: application/json, also without a body",
        ));
    }
    Ok(())
}

/// A body that has a place until it is sent.
struct Held {
    body: BoxBody,
    _place: OwnedSemaphorePermit,
}

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
