//! `/livez`, `/readyz` and `/metrics` of the console, for whoever runs it: open, and without anything of the cluster's data.

use super::state::ConsoleState;
use crate::metrics::{CONTENT_TYPE, Metrics};
use actix_web::{HttpResponse, web};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the console counts.
#[derive(Debug, Default)]
pub struct ConsoleStats {
    /// Requests.
    pub requests: AtomicU64,
    /// Answers of 500 and above.
    pub errors: AtomicU64,
    /// Live pages that are open.
    pub live_pages: AtomicU64,
    /// States that slow browsers did not get.
    pub dropped_ticks: AtomicU64,
    /// Questions to brokers' metrics listeners.
    pub scrapes: AtomicU64,
    /// Of these, without an answer.
    pub scrape_failures: AtomicU64,
}

/// The process can answer at all.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("ok\n")
}

/// It serves. What of the cluster cannot be reached is for the pages to say, and no reason to send nobody here any more.
pub async fn ready(state: web::Data<ConsoleState>) -> HttpResponse {
    let configured = state.logins.is_configured();
    HttpResponse::Ok().json(json!({ "ready": true, "login_configured": configured, "failing": {} }))
}

/// Metrics of the console itself.
pub async fn metrics(state: web::Data<ConsoleState>) -> HttpResponse {
    match state.metrics.render() {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(_) => HttpResponse::InternalServerError().body("a collector failed"),
    }
}

/// Adds what the console counts.
pub fn register(metrics: &Metrics, state: &Arc<ConsoleState>) {
    let shared = Arc::downgrade(state);
    metrics.register("console", move |families| {
        let Some(state) = shared.upgrade() else { return Ok(()) };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (stats, auth) = (&state.stats, &state.auth_stats);
        for (name, help, counter) in [
            ("kafscale_console_requests", "HTTP requests", &stats.requests),
            ("kafscale_console_errors", "Answers with a status of 500 or above", &stats.errors),
            ("kafscale_console_logins", "Logins that succeeded", &auth.logins),
            ("kafscale_console_login_failures", "Logins with a wrong name or password", &auth.failures),
            (
                "kafscale_console_logins_locked_out",
                "Logins that were not looked at, after too many failures",
                &auth.locked_out,
            ),
            (
                "kafscale_console_dropped_ticks",
                "States of the live feed that slow browsers did not get",
                &stats.dropped_ticks,
            ),
            ("kafscale_console_scrapes", "Questions to the metrics listeners of brokers", &stats.scrapes),
            ("kafscale_console_scrape_failures", "Questions to brokers without an answer", &stats.scrape_failures),
        ] {
            families.counter(name, help, load(counter))?;
        }
        families.gauge("kafscale_console_sessions", "Sessions", load(&auth.sessions) as f64)?;
        families.gauge("kafscale_console_live_pages", "Live pages that are open", load(&stats.live_pages) as f64)?;
        families.counter("kafscale_actor_restarts", "Actors restarted after a failure", state.registry.restarts())
    });
}
