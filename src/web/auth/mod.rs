//! Signing in and out.
//!
//! A session is an opaque token of 256 bits in a cookie that scripts cannot read; the console keeps only its hash. Whoever
//! signs in gets a new one. Writing also needs a second token, which follows from the first and which only a page of this
//! site can have read.

pub mod actor;
pub mod limiter;
pub mod password;
pub mod sessions;

use super::client::{Client, is_loopback_host};
use super::problem::Problem;
use super::state::ConsoleState;
use crate::config::console::CookieSecure;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use actor::{Begin, Close, CloseAll, Open};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use limiter::Locked;
use password::INPUT_BYTES_MAX;
use serde::Deserialize;
use serde_json::json;
use sessions::{Session, TokenHash};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Name of the cookie over https; browsers take it only with Secure, for this host and the whole of it.
const COOKIE: &str = "__Host-kafscale_session";
/// Name of the cookie over plain HTTP.
const PLAIN_COOKIE: &str = "kafscale_session";
/// Passwords that are compared at the same time; a hash costs memory and a core.
pub const VERIFYING_MAX: usize = 2;
/// Logins that wait for that.
pub const WAITING_MAX: usize = 16;
/// How long they wait.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/auth/config", web::get().to(config_of))
        .route("/auth/login", web::post().to(login))
        .route("/auth/session", web::get().to(session))
        .route("/auth/logout", web::post().to(logout))
        .route("/auth/logout-everywhere", web::post().to(logout_everywhere));
}

/// What the gate has found out about the one who asks.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The session.
    pub session: Session,
    /// Its key.
    pub token: TokenHash,
    /// What writing needs besides.
    pub csrf_token: String,
}

/// The token in a request's cookie.
pub fn token_of(request: &HttpRequest) -> Option<String> {
    let cookie = request.cookie(COOKIE).or_else(|| request.cookie(PLAIN_COOKIE))?;
    Some(cookie.value().to_owned()).filter(|token| token.len() <= 64)
}

/// The token that writing needs in a session: only who has the session's own can make it.
pub fn csrf_token(token: &str) -> String {
    let digest = Sha256::new_with_prefix(b"kafscale csrf\0").chain_update(token.as_bytes()).finalize();
    URL_SAFE_NO_PAD.encode(digest)
}

/// What is said where nobody can sign in.
pub const NOT_CONFIGURED: &str = "Nobody can sign in yet. Set KAFSCALE_UI_USERNAME and KAFSCALE_UI_PASSWORD (or KAFSCALE_UI_PASSWORD_HASH) and start the console again.";

async fn config_of(state: web::Data<ConsoleState>) -> HttpResponse {
    let configured = state.logins.is_configured();
    let message = (!configured).then_some(NOT_CONFIGURED);
    let viewer = state.logins.has_viewer();
    HttpResponse::Ok().json(json!({ "configured": configured, "message": message, "viewer": viewer }))
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

async fn login(
    state: web::Data<ConsoleState>,
    request: HttpRequest,
    body: web::Json<Login>,
) -> Result<HttpResponse, Problem> {
    let Login { username, password } = body.into_inner();
    if !state.logins.is_configured() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_configured", NOT_CONFIGURED));
    }
    if username.len() > INPUT_BYTES_MAX || password.len() > INPUT_BYTES_MAX {
        return Err(Problem::invalid(format!("user name and password have at most {INPUT_BYTES_MAX} bytes")));
    }
    let secure = cookie_is_secure(&state, &request);
    if secure && request.headers().get("origin").is_some_and(|o| o.as_bytes().starts_with(b"http://")) {
        return Err(Problem::invalid(
            "this page came over plain http, and the session's cookie is sent over https only: use https, or open the \
             console as http://localhost, or set KAFSCALE_CONSOLE_COOKIE_SECURE=false",
        ));
    }
    let address = Client::of(&request).address;
    let known = state.logins.knows(&username);
    let begin = Begin { username: username.clone(), known, address };
    if let Err(locked) = state.ask_sessions(begin).await? {
        let (who, remote) = (username.as_str(), address.to_string());
        tracing::warn!(target: "kafscale::audit", who, remote, wait_ms = locked.wait_ms, "sign-in held off");
        return Err(locked_out(locked));
    }
    let Some(role) = verify(&state, username.clone(), password).await? else {
        let (who, remote) = (username.as_str(), address.to_string());
        tracing::warn!(target: "kafscale::audit", who, remote, "sign-in failed");
        state.auth_stats.failures.fetch_add(1, Ordering::Relaxed);
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "user name or password is wrong"));
    };
    let token = URL_SAFE_NO_PAD.encode(crate::rng::secret());
    let former = token_of(&request).map(|token| sessions::hash(&token));
    let open = Open { token: sessions::hash(&token), former, username, role, address };
    let session = state.ask_sessions(open).await?;
    let (who, remote) = (session.username.as_str(), address.to_string());
    tracing::info!(target: "kafscale::audit", who, role = role.name(), remote, "signed in");
    let answer = session_json(&session, &csrf_token(&token));
    Ok(HttpResponse::Ok().cookie(cookie(token, secure)).json(answer))
}

/// Compares on another thread, a few at a time.
async fn verify(
    state: &web::Data<ConsoleState>,
    username: String,
    password: String,
) -> Result<Option<sessions::Role>, Problem> {
    let busy = || {
        let mut problem = Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "locked_out",
            "too many people sign in at once: try again in 2 s",
        );
        problem.retry_after_sec = Some(2);
        problem
    };
    let Ok(_place) = state.login_places.try_acquire() else { return Err(busy()) };
    let permit = tokio::time::timeout(WAIT_MAX, state.verifying.acquire()).await;
    let Ok(Ok(_permit)) = permit else { return Err(busy()) };
    let logins: Arc<_> = state.logins.clone();
    let verified = web::block(move || logins.verify(&username, &password)).await;
    verified.map_err(|_| Problem::unavailable("the password could not be compared: try again"))
}

fn locked_out(Locked { wait_ms }: Locked) -> Problem {
    let seconds = (wait_ms.max(1) as u64).div_ceil(1_000);
    let wait = if seconds >= 120 { format!("{} minutes", seconds.div_ceil(60)) } else { format!("{seconds} s") };
    let detail = format!("too many wrong passwords from this address or for this user: try again in {wait}");
    let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "locked_out", detail);
    problem.retry_after_sec = Some(seconds);
    problem
}

fn cookie_is_secure(state: &ConsoleState, request: &HttpRequest) -> bool {
    match state.config.cookie_secure {
        CookieSecure::Always => true,
        CookieSecure::Never => false,
        CookieSecure::Auto => Client::of(request).is_https || !is_loopback_host(request),
    }
}

/// It lives as long as the browser; how long the session lives is decided here.
fn cookie(token: String, secure: bool) -> Cookie<'static> {
    let name = if secure { COOKIE } else { PLAIN_COOKIE };
    Cookie::build(name, token).path("/").secure(secure).http_only(true).same_site(SameSite::Strict).finish()
}

fn removals() -> [Cookie<'static>; 2] {
    [(COOKIE, true), (PLAIN_COOKIE, false)].map(|(name, secure)| {
        let mut cookie =
            Cookie::build(name, "").path("/").secure(secure).http_only(true).same_site(SameSite::Strict).finish();
        cookie.make_removal();
        cookie
    })
}

fn session_json(session: &Session, csrf_token: &str) -> serde_json::Value {
    json!({
        "username": session.username,
        "role": session.role.name(),
        "csrf_token": csrf_token,
        "idle_expires_at_ms": session.idle_expires_ms(),
        "expires_at_ms": session.expires_ms(),
    })
}

fn signed_in(request: &HttpRequest) -> SignedIn {
    request.extensions().get::<SignedIn>().cloned().expect("the gate lets nobody else in")
}

async fn session(request: HttpRequest) -> HttpResponse {
    let SignedIn { session, csrf_token, .. } = signed_in(&request);
    HttpResponse::Ok().json(session_json(&session, &csrf_token))
}

fn ended() -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    for cookie in removals() {
        response.cookie(cookie);
    }
    response.finish()
}

async fn logout(state: web::Data<ConsoleState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    state.ask_sessions(Close(signed_in(&request).token)).await?;
    Ok(ended())
}

async fn logout_everywhere(state: web::Data<ConsoleState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let SignedIn { session, .. } = signed_in(&request);
    let ended_count = state.ask_sessions(CloseAll(session.username.clone())).await?;
    tracing::info!(target: "kafscale::audit", who = session.username, sessions = ended_count, "signed out everywhere");
    Ok(ended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_token_follows_from_the_first_but_not_the_other_way() {
        assert_eq!(csrf_token("a"), csrf_token("a"));
        assert_ne!(csrf_token("a"), csrf_token("b"));
        assert_ne!(csrf_token("a").as_bytes(), sessions::hash("a"));
        assert_eq!(csrf_token("a").len(), 43);
    }

    #[test]
    fn waiting_times_are_said_in_words() {
        assert!(locked_out(Locked { wait_ms: 30_000 }).detail.ends_with("in 30 s"));
        assert!(locked_out(Locked { wait_ms: 899_001 }).detail.ends_with("in 15 minutes"));
        assert_eq!(locked_out(Locked { wait_ms: 1 }).retry_after_sec, Some(1));
    }
}
