//! Pages about what carries the cluster: actors, the object store, etcd, and the console itself.

use super::audit::Audit;
use super::fetch;
use super::list::{PageQuery, list};
use super::problem::Problem;
use super::source::BrokerSource;
use super::state::{ConsoleState, Missing};
use crate::ids::TopicId;
use crate::metadata::image::ClusterImage;
use actix_web::{HttpResponse, web};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// How long all brokers together may take to tell of themselves; who does not is missing in the answer.
const WITHIN: Duration = Duration::from_millis(1_500);
/// Longest answer of a broker, bytes: tens of thousands of actors.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Brokers that are asked at a time.
const AT_A_TIME_MAX: usize = 64;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/actors", web::get().to(actors))
        .route("/s3", web::get().to(s3))
        .route("/etcd", web::get().to(etcd))
        .route("/audit", web::get().to(audit))
        .route("/settings", web::get().to(settings));
}

/// Asks every broker for a page.
async fn ask_all(state: &ConsoleState, page: &'static str) -> (Vec<(i32, Value)>, Vec<Missing>) {
    let deadline = state.clock.monotonic() + WITHIN;
    let asked = state.cluster.metrics_urls().into_iter().map(|(broker, url)| async move {
        let left = deadline.saturating_duration_since(crate::clock::monotonic());
        let body = fetch::get(&format!("{url}{page}"), left, PAGE_BYTES_MAX).await;
        let value = body.and_then(|body| serde_json::from_slice(&body).map_err(|e| format!("{page} is no JSON: {e}")));
        (broker, value)
    });
    let mut answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_A_TIME_MAX).collect().await;
    answers.sort_by_key(|(broker, _)| *broker);
    let stale = state.cluster.stale();
    let mut missing: Vec<Missing> = stale
        .map(|(reason, since_ms)| Missing { source: "etcd".to_owned(), reason, since_ms: Some(since_ms) })
        .into_iter()
        .collect();
    let readings = state.scraped.readings.load();
    let mut values = Vec::new();
    for (broker, answer) in answers {
        match answer {
            Ok(value) => values.push((broker, value)),
            Err(reason) => {
                let known = readings.brokers.get(&broker).filter(|reading| reading.error.is_some());
                let since_ms = known.map(|reading| reading.since_ms);
                missing.push(Missing { source: format!("broker {broker}"), reason, since_ms });
            }
        }
    }
    for live in state.cluster.brokers().iter().filter(|live| live.metrics.is_none()) {
        let reason = "its version does not tell where its metrics are".to_owned();
        missing.push(Missing { source: format!("broker {}", live.node), reason, since_ms: None });
    }
    (values, missing)
}

async fn actors(state: web::Data<ConsoleState>) -> HttpResponse {
    let (answers, partial) = ask_all(&state, "/v1/actors").await;
    let now_ms = state.clock.wall_ms();
    let image = state.cluster.image();
    let mut systems: Vec<Value> = answers
        .into_iter()
        .map(|(broker, mut page)| {
            for actor in page["actors"].as_array_mut().into_iter().flatten() {
                actor["subject"] = json!(image.as_deref().and_then(|image| subject(image, actor["path"].as_str()?)));
            }
            json!({ "system": format!("broker {broker}"), "as_of_ms": page["as_of_ms"], "actors": page["actors"] })
        })
        .collect();
    let mut own = crate::node::actors(&state.registry);
    own.iter_mut().for_each(|actor| actor["subject"] = Value::Null);
    systems.push(json!({ "system": "console", "as_of_ms": now_ms, "actors": own }));
    HttpResponse::Ok().json(json!({ "systems": systems, "as_of_ms": now_ms, "partial": partial }))
}

/// The topic and partition that an actor is for: its name has the topic's id.
fn subject(image: &ClusterImage, path: &str) -> Option<String> {
    let (id, partition) = path.strip_prefix("partition/")?.split_once('/')?;
    let topic = image.topic_by_id(TopicId(id.parse().ok()?))?;
    Some(format!("{} {partition}", topic.name))
}

async fn s3(state: web::Data<ConsoleState>) -> HttpResponse {
    let (answers, partial) = ask_all(&state, "/v1/s3").await;
    let readings = state.scraped.readings.load();
    let brokers: Vec<Value> = answers
        .into_iter()
        .map(|(broker, mut page)| {
            let reading = readings.brokers.get(&broker);
            // Rates need two readings, which the console has.
            for request in page["requests"].as_array_mut().into_iter().flatten() {
                let metric = match request["op"].as_str() {
                    Some("create") => "s3_put_per_sec",
                    Some("get_range") => "s3_get_range_per_sec",
                    Some("get_suffix") => "s3_get_suffix_per_sec",
                    Some("head") => "s3_head_per_sec",
                    Some("delete") => "s3_delete_per_sec",
                    Some("list") => "s3_list_per_sec",
                    _ => continue,
                };
                request["per_sec"] = json!(reading.and_then(|reading| reading.get(metric)));
            }
            page["get_per_sec"] = json!(reading.and_then(|reading| reading.get("s3_get_per_sec")));
            page["broker"] = json!(broker);
            page
        })
        .collect();
    let now_ms = state.clock.wall_ms();
    HttpResponse::Ok().json(json!({ "brokers": brokers, "as_of_ms": now_ms, "partial": partial }))
}

async fn etcd(state: web::Data<ConsoleState>) -> HttpResponse {
    let view = state.cluster.etcd();
    let (snapshots, untold) = state.snapshots.now(state.clock).await;
    let partial = state.cluster.stale().map(|(reason, since_ms)| Missing {
        source: "etcd".to_owned(),
        reason,
        since_ms: Some(since_ms),
    });
    HttpResponse::Ok().json(json!({
        "kind": state.cluster.kind(),
        "state": view.level.name(),
        "since_ms": view.since_ms,
        "reasons": view.reasons,
        "members": view.members,
        "snapshots": snapshots,
        "as_of_ms": view.as_of_ms,
        "partial": partial.into_iter().chain(untold).collect::<Vec<_>>(),
    }))
}

async fn audit(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    query: web::Query<PageQuery>,
) -> Result<HttpResponse, Problem> {
    let limit = query.limit()?;
    let mut entries = audit.page(query.number()?, &query.q, limit + 1);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = more.then(|| entries.last().map(|entry| entry.id.to_string())).flatten();
    Ok(HttpResponse::Ok().json(list(entries, next, None, state.clock.wall_ms(), Vec::new())))
}

async fn settings(state: web::Data<ConsoleState>) -> HttpResponse {
    use super::{auth, gate, history, live};
    let config: Vec<_> = state
        .config
        .shown
        .iter()
        .map(|setting| json!({ "name": setting.name, "value": setting.value, "source": setting.source }))
        .collect();
    let links = &state.config.links;
    HttpResponse::Ok().json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "component": state.component,
        "cluster_name": state.cluster.namespace(),
        "config": config,
        "links": {
            "grafana": links.grafana,
            "traces": links.traces,
            "metrics": "/metrics",
            "docs": "https://github.com/kafscale/kafscale/tree/main/docs",
        },
        "history_hours": history::ring::STEP_MS * history::ring::STEPS_MAX as i64 / 3_600_000,
        "limits": {
            "sessions": auth::sessions::SESSIONS_MAX,
            "session_idle_sec": auth::sessions::IDLE_MS / 1_000,
            "session_sec": auth::sessions::ABSOLUTE_MS / 1_000,
            "login_failures_per_address": auth::limiter::ADDRESS_FAILURES_FREE,
            "login_failures_per_user": auth::limiter::USER_FAILURES_FREE,
            "requests": gate::REQUESTS_MAX,
            "streams": gate::STREAMS_MAX,
            "history_series": history::ring::SERIES_MAX,
            "live_every_ms": live::EVERY.as_millis() as u64,
        },
        "as_of_ms": state.clock.wall_ms(),
        "partial": [],
    }))
}
