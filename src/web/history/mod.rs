//! The last 24 hours of the brokers' metrics, so that there are charts without Prometheus.

pub mod catalogue;
pub mod ring;

use super::problem::Problem;
use super::state::ConsoleState;
use actix_web::{HttpResponse, web};
use catalogue::METRICS;
use serde::Deserialize;
use serde_json::json;

/// Metrics of one question.
const METRICS_PER_QUERY_MAX: usize = 32;
/// What is shown if nobody says from when, ms.
const DEFAULT_RANGE_MS: i64 = 3_600_000;
/// Longest range that makes sense, ms.
const RANGE_MS_MAX: i64 = ring::STEP_MS * ring::STEPS_MAX as i64;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/history", web::get().to(history)).route("/history/metrics", web::get().to(metrics));
}

async fn metrics(state: web::Data<ConsoleState>) -> HttpResponse {
    let items: Vec<_> = METRICS
        .iter()
        .map(|m| json!({ "metric": m.name, "unit": m.unit, "help": m.help, "labels": ["broker"] }))
        .collect();
    let total = items.len();
    let now_ms = state.clock.wall_ms();
    HttpResponse::Ok()
        .json(json!({ "items": items, "next_cursor": null, "total": total, "as_of_ms": now_ms, "partial": [] }))
}

#[derive(Deserialize)]
struct Query {
    metric: String,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    step_sec: Option<u32>,
}

async fn history(state: web::Data<ConsoleState>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let now_ms = state.clock.wall_ms();
    let names: Vec<&str> = query.metric.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > METRICS_PER_QUERY_MAX {
        return Err(Problem::invalid(format!("name 1 to {METRICS_PER_QUERY_MAX} metrics: metric=a,b")));
    }
    let mut wanted = Vec::new();
    for name in names {
        let position = catalogue::position(name);
        let position = position
            .ok_or_else(|| Problem::invalid(format!("there is no metric {name:?}: see /api/v1/history/metrics")))?;
        wanted.push((position, METRICS[position].fold));
    }
    let to_ms = query.to_ms.unwrap_or(now_ms).clamp(0, now_ms + ring::STEP_MS);
    let from_ms = query.from_ms.unwrap_or(to_ms - DEFAULT_RANGE_MS).clamp(to_ms - RANGE_MS_MAX, to_ms);
    let step_ms = i64::from(query.step_sec.unwrap_or(0)) * 1_000;
    let (lines, step_ms) = state.with_history(|ring| ring.query(&wanted, from_ms, to_ms, step_ms));
    let series: Vec<_> = lines
        .iter()
        .map(|line| {
            let (metric, broker) = line.key;
            let metric = &METRICS[metric];
            let labels = json!({ "broker": broker.to_string() });
            json!({ "metric": metric.name, "unit": metric.unit, "labels": labels, "points": line.points })
        })
        .collect();
    let mut partial = state.partial();
    let refused = state.with_history(|ring| ring.refused());
    if refused > 0 {
        let reason = format!("{refused} values did not fit into the memory for {} series", ring::SERIES_MAX);
        partial.push(super::state::Missing { source: "history".to_owned(), reason, since_ms: None });
    }
    Ok(HttpResponse::Ok().json(json!({
        "series": series,
        "step_sec": step_ms / 1_000,
        "as_of_ms": now_ms,
        "partial": partial,
    })))
}
