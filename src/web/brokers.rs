//! Brokers: who is there, how they do, and taking one out of service.

use super::audit::{Actor, Audit, Outcome};
use super::drains::{self, DrainError};
use super::fetch;
use super::list::list;
use super::problem::Problem;
use super::scrape::Reading;
use super::state::{ConsoleState, Missing};
use crate::metadata::image::ClusterImage;
use crate::metadata::model::LiveValue;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a broker may take to tell of itself.
const WITHIN: Duration = Duration::from_millis(1_500);
/// Longest answer of a broker, bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/brokers", web::get().to(brokers))
        .route("/brokers/{id}", web::get().to(broker))
        .route("/brokers/{id}/drain", web::get().to(drain_state))
        .route("/brokers/{id}/drain", web::post().to(drain))
        .route("/brokers/{id}/undrain", web::post().to(undrain));
}

async fn brokers(state: web::Data<ConsoleState>) -> HttpResponse {
    let now_ms = state.clock.wall_ms();
    state.scraped.want(now_ms);
    let image = state.cluster.image();
    let items: Vec<Value> = match &image {
        Some(image) => image.brokers().values().map(|live| item(&state, image, live)).collect(),
        None => Vec::new(),
    };
    let total = image.map(|_| items.len());
    HttpResponse::Ok().json(list(items, None, total, now_ms, state.partial()))
}

fn item(state: &ConsoleState, image: &Arc<ClusterImage>, live: &LiveValue) -> Value {
    let (id, readings) = (live.node.0, state.scraped.readings.load());
    let (counts, reading) = (state.tally.counts(image), readings.brokers.get(&id));
    let number = |name: &str| reading.and_then(|reading| reading.get(name));
    json!({
        "id": id,
        "host": live.host,
        "port": live.port,
        "rack": live.rack,
        "version": live.version,
        "controller": is_controller(image, live),
        "draining": live.draining,
        "partitions_led": counts.led.get(&id).copied().unwrap_or(0),
        "connections": number("connections").map(|n| n as u64),
        "bytes_in_per_sec": number("bytes_in_per_sec"),
        "bytes_out_per_sec": number("bytes_out_per_sec"),
        "s3_state": reading.map_or("unknown", Reading::s3_state),
        "cache_hit_ratio": number("cache_hit_ratio"),
        "produce_p99_ms": number("produce_p99_ms"),
        "fetch_p99_ms": number("fetch_p99_ms"),
        "started_at_ms": reading.and_then(|reading| reading.started_ms),
        "metrics": match reading {
            None => "unknown",
            Some(reading) if reading.error.is_some() => "unreachable",
            Some(_) => "ok",
        },
        "metrics_read_at_ms": reading.and_then(|reading| reading.read_ms),
        "control": if live.control.is_some() { "ok" } else { "none" },
    })
}

fn is_controller(image: &ClusterImage, live: &LiveValue) -> bool {
    let controller = image.controller();
    image.lives().any(|(writer, other)| Some(writer) == controller && other.node == live.node)
}

/// What the live feed says of each broker.
pub fn live(state: &ConsoleState) -> Vec<Value> {
    let readings = state.scraped.readings.load();
    let item = |live: &Arc<LiveValue>| {
        let reading = readings.brokers.get(&live.node.0);
        let number = |name: &str| reading.and_then(|reading| reading.get(name));
        json!({
            "id": live.node.0,
            "bytes_in_per_sec": number("bytes_in_per_sec"),
            "bytes_out_per_sec": number("bytes_out_per_sec"),
            "s3_state": reading.map_or("unknown", Reading::s3_state),
            "draining": live.draining,
        })
    };
    state.cluster.brokers().iter().map(item).collect()
}

fn find(state: &ConsoleState, id: i32) -> Result<(Arc<ClusterImage>, Arc<LiveValue>), Problem> {
    let image = state.cluster.image().ok_or_else(|| {
        let why = state.cluster.stale().map(|(reason, _)| reason).unwrap_or_default();
        Problem::unavailable(format!("nothing is known of the cluster yet: {why}"))
    })?;
    let live = image.brokers().get(&crate::ids::BrokerId(id)).cloned();
    match live {
        Some(live) => Ok((image, live)),
        None => Err(Problem::not_found(format!("broker {id} is not live"))),
    }
}

async fn broker(state: web::Data<ConsoleState>, path: web::Path<i32>) -> Result<HttpResponse, Problem> {
    let id = path.into_inner();
    let (image, live) = find(&state, id)?;
    let now_ms = state.clock.wall_ms();
    state.scraped.want(now_ms);
    let mut item = item(&state, &image, &live);
    let mut partial: Vec<Missing> = state.partial().into_iter().filter(|missing| missing.source == "etcd").collect();
    let own = match &live.metrics {
        Some(address) => ask(address).await,
        None => Err("its version does not tell where its metrics are".to_owned()),
    };
    let [actors, page] = own.unwrap_or_else(|reason| {
        partial.push(Missing { source: format!("broker {id}"), reason, since_ms: None });
        [Value::Null, Value::Null]
    });
    let actors = actors["actors"].as_array();
    item["readiness"] = page["readiness"].clone();
    item["configs"] = page["configs"].clone();
    item["actors_running"] = json!(actors.map(|actors| actors.iter().filter(|actor| actor["running"] == true).count()));
    let readings = state.scraped.readings.load();
    item["actor_restarts"] =
        json!(readings.brokers.get(&id).and_then(|r| r.get("actor_restarts")).map(|n| (n as u64).to_string()));
    item["as_of_ms"] = json!(now_ms);
    item["partial"] = json!(partial);
    Ok(HttpResponse::Ok().json(item))
}

/// Its actors and what it says of itself.
async fn ask(address: &str) -> Result<[Value; 2], String> {
    let get = |page: &'static str| async move {
        let body = fetch::get(&format!("http://{address}{page}"), WITHIN, PAGE_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|e| format!("{page} is no JSON: {e}"))
    };
    let (actors, own) = futures::future::join(get("/v1/actors"), get("/v1/broker")).await;
    Ok([actors?, own?])
}

#[derive(Deserialize)]
struct Confirm {
    confirm: String,
}

fn control_of(live: &LiveValue) -> Result<String, Problem> {
    live.control.clone().ok_or_else(|| {
        let detail = format!(
            "broker {} has no control plane (KAFSCALE_CONTROL_ADDR is off): stop it with SIGTERM, which drains it too",
            live.node
        );
        Problem::new(StatusCode::CONFLICT, "conflict", detail)
    })
}

async fn drain(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<i32>,
    body: web::Json<Confirm>,
) -> Result<HttpResponse, Problem> {
    let id = path.into_inner();
    let (_, live) = find(&state, id)?;
    let resource = format!("broker/{id}");
    let before = json!({ "draining": live.draining });
    let record = |outcome, detail: &str| {
        audit.record(
            &actor,
            "broker.drain",
            resource.clone(),
            before.clone(),
            json!({ "draining": true }),
            outcome,
            detail,
        );
    };
    if body.confirm != id.to_string() {
        record(Outcome::Refused, "not confirmed");
        return Err(Problem::confirm_mismatch(&id.to_string()));
    }
    let started = match control_of(&live) {
        Ok(address) => state.drains.begin(id, address, state.shutdown.clone()).await.map_err(problem),
        Err(problem) => Err(problem),
    };
    match started {
        Ok(view) => {
            record(Outcome::Ok, "");
            Ok(HttpResponse::Accepted().json(view))
        }
        Err(problem) => {
            record(Outcome::Failed, &problem.detail);
            Err(problem)
        }
    }
}

fn problem(error: DrainError) -> Problem {
    match &error {
        DrainError::Unreachable { .. } => Problem::unavailable(error.to_string()),
        DrainError::Refused(_) => Problem::new(StatusCode::CONFLICT, "conflict", error.to_string()),
    }
}

async fn drain_state(state: web::Data<ConsoleState>, path: web::Path<i32>) -> Result<HttpResponse, Problem> {
    let id = path.into_inner();
    let (_, live) = find(&state, id)?;
    let view = state.drains.view(id, live.control.as_deref()).await;
    Ok(HttpResponse::Ok().json(view))
}

async fn undrain(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<i32>,
) -> Result<HttpResponse, Problem> {
    let id = path.into_inner();
    let (_, live) = find(&state, id)?;
    let undrained = match control_of(&live) {
        Ok(address) => drains::undrain(&address).await.map_err(problem),
        Err(problem) => Err(problem),
    };
    let (before, after) = (json!({ "draining": live.draining }), json!({ "draining": false }));
    let (outcome, detail) = match &undrained {
        Ok(_) => (Outcome::Ok, String::new()),
        Err(problem) => (Outcome::Failed, problem.detail.clone()),
    };
    audit.record(&actor, "broker.undrain", format!("broker/{id}"), before, after, outcome, detail);
    let was_draining = undrained?;
    state.drains.forget(id);
    Ok(HttpResponse::Ok().json(json!({ "was_draining": was_draining })))
}
