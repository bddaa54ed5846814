//! Topics: which there are, what is in them, and changing them.
//!
//! Lists come from the cluster's image, which is here anyway; brokers are asked only about the page that is shown.

mod change;
mod configs;
mod detail;
mod list;
mod rates;
mod sizes;

use super::audit::{Actor, Audit, Outcome};
use super::problem::Problem;
use super::state::Missing;
use actix_web::web;
use serde_json::Value;
use std::time::Duration;

pub use rates::RateIndex;
pub use sizes::SizeIndex;

/// How long a page may take.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// How long a change may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// What brokers get of it, so that their answer still comes, ms.
const CHANGE_TIMEOUT_MS: i32 = 8_000;
/// Longest name of a topic, bytes.
const NAME_BYTES_MAX: usize = 249;
/// Reasons that one answer gives for what it is without.
const MISSING_MAX: usize = 16;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/topics", web::get().to(list::topics))
        .route("/topics", web::post().to(change::create))
        .route("/topics/{name}", web::get().to(detail::topic))
        .route("/topics/{name}", web::delete().to(change::delete))
        .route("/topics/{name}/configs", web::get().to(configs::configs))
        .route("/topics/{name}/configs", web::patch().to(configs::alter))
        .route("/topics/{name}/partitions", web::post().to(change::partitions))
        .route("/topics/{name}/records/delete", web::post().to(change::delete_records));
}

/// Kafka's tools do not list topics of this kind by default; it is a custom of names.
fn is_internal(name: &str) -> bool {
    name.starts_with("__")
}

/// Writes down a change and how it went.
pub(super) fn record<T>(
    audit: &Audit,
    actor: &Actor,
    action: &'static str,
    resource: String,
    (before, after): (Value, Value),
    done: &Result<T, Problem>,
) {
    let (outcome, detail) = match done {
        Ok(_) => (Outcome::Ok, String::new()),
        Err(problem) if problem.code == "confirm_mismatch" => (Outcome::Refused, "not confirmed".to_owned()),
        Err(problem) if problem.code == "conflict" => (Outcome::Refused, problem.detail.clone()),
        Err(problem) => (Outcome::Failed, problem.detail.clone()),
    };
    audit.record(actor, action, resource, before, after, outcome, detail);
}

/// What was typed must be the name.
pub(super) fn confirmed(typed: &str, name: &str) -> Result<(), Problem> {
    if typed == name { Ok(()) } else { Err(Problem::confirm_mismatch(name)) }
}

/// Each reason once, and not too many.
pub(super) fn distinct(missing: impl IntoIterator<Item = Missing>) -> Vec<Missing> {
    let mut found: Vec<Missing> = Vec::new();
    for one in missing {
        if found.len() < MISSING_MAX && !found.iter().any(|m| (&m.source, &m.reason) == (&one.source, &one.reason)) {
            found.push(one);
        }
    }
    found
}

/// A topic's name as Kafka wants it; whatever else is asked for is not sent anywhere.
pub(super) fn legal_name(name: &str) -> Result<(), Problem> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(legal) && name != "." && name != ".." {
        return Ok(());
    }
    let detail = format!("a topic's name has 1 to {NAME_BYTES_MAX} letters, digits, dots, underscores or hyphens");
    Err(Problem::new(actix_web::http::StatusCode::BAD_REQUEST, "INVALID_TOPIC_EXCEPTION", detail))
}
