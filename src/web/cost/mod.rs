//! What the object store costs, per topic and month, from requests that were counted.
//!
//! Rates are means over the last day at most, as the history has them. Objects that several topics share are charged to them by
//! their shares of the bytes. What is not known is left out and said, not guessed.

pub mod model;

use super::history::catalogue;
use super::history::ring::STEP_MS;
use super::problem::Problem;
use super::segments::{ask, count};
use super::source::BrokerSource;
use super::state::{ConsoleState, Missing};
use actix_web::{HttpResponse, web};
use futures::StreamExt;
use model::{Flushing, Measured, Month, Prices, TopicBytes, WhatIf};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is measured if nobody says how long, and at most: what the history has.
const WINDOW_SEC_MAX: i64 = 86_400;
/// How long a broker may take for a page.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// How long brokers are asked for their topics altogether.
const TOPICS_WITHIN: Duration = Duration::from_secs(3);
/// Brokers that are asked at a time.
const AT_A_TIME_MAX: usize = 8;
/// Pages of topics of a broker.
const PAGES_MAX: usize = 200;
/// Topics of an answer: those that cost most.
const TOPICS_SHOWN_MAX: usize = 1_000;
/// Kafscale's own defaults, where no broker says what it has.
const FLUSH_INTERVAL_MS: f64 = 500.0;
const SEGMENT_BYTES: f64 = 4_194_304.0;

/// Rates of the history that are added up.
const RATES: [&str; 7] = [
    "s3_put_per_sec",
    "flushes_per_sec",
    "s3_get_per_sec",
    "s3_head_per_sec",
    "s3_list_per_sec",
    "bytes_durable_per_sec",
    "bytes_out_per_sec",
];

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/cost", web::get().to(cost)).route("/cost/estimate", web::post().to(estimate));
}

#[derive(Deserialize)]
struct Query {
    window_sec: Option<i64>,
}

#[derive(Deserialize)]
struct Estimate {
    #[serde(default)]
    prices: Prices,
    #[serde(default)]
    what_if: WhatIf,
    window_sec: Option<i64>,
}

/// GET `/cost`.
async fn cost(state: web::Data<ConsoleState>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    answer(&state, query.window_sec, &Prices::default(), &WhatIf::default()).await
}

/// POST `/cost/estimate`: changes nothing.
async fn estimate(state: web::Data<ConsoleState>, body: web::Json<Estimate>) -> Result<HttpResponse, Problem> {
    if !body.prices.are_valid() {
        return Err(Problem::invalid("prices are dollars: numbers from 0 to 1,000,000"));
    }
    if !body.what_if.is_valid() {
        return Err(Problem::invalid(
            "what_if has flush_interval_ms (up to an hour), retention_ms (up to a century) and mb_per_day, greater than 0",
        ));
    }
    answer(&state, body.window_sec, &body.prices, &body.what_if).await
}

async fn answer(
    state: &ConsoleState,
    window_sec: Option<i64>,
    prices: &Prices,
    what_if: &WhatIf,
) -> Result<HttpResponse, Problem> {
    let window_sec = window_sec.unwrap_or(WINDOW_SEC_MAX);
    if !(10..=WINDOW_SEC_MAX).contains(&window_sec) {
        return Err(Problem::invalid(format!("window_sec is from 10 to {WINDOW_SEC_MAX}")));
    }
    let now_ms = state.clock.wall_ms();
    let urls = state.cluster.metrics_urls();
    let (stored, flushing) = tokio::join!(topics(&urls), flushing(&urls));
    let (topics, mut partial) = stored;
    if urls.is_empty() {
        let reason = "no live broker is known: what is stored is not known".to_owned();
        partial.push(Missing { source: "brokers".to_owned(), reason, since_ms: None });
    }
    let leaderless = state.cluster.image().map(|image| state.tally.counts(&image).leaderless);
    let is_stored_known = partial.is_empty() && leaderless == Some(0);
    let measured = measured(state, now_ms, window_sec);
    partial.extend(state.partial().into_iter().filter(|missing| missing.source.starts_with("broker")));
    partial.dedup_by(|a, b| a.source == b.source);
    let Some(mut measured) = measured else {
        let reason = "nothing is measured yet: look again in half a minute".to_owned();
        partial.push(Missing { source: "history".to_owned(), reason, since_ms: None });
        return Ok(HttpResponse::Ok().json(json!({
            "measured": null, "prices": prices, "topics": [], "total": null, "calculation": [], "what_if": null,
            "as_of_ms": now_ms, "partial": partial,
        })));
    };
    // A sum without some of its parts would look like a loss of data; 0.0 is added since the sum of nothing is -0.
    measured.bytes_stored = is_stored_known.then(|| topics.iter().map(|topic| topic.stored).sum::<f64>() + 0.0);
    let month = model::month(&measured, prices);
    let (shares, basis) = model::shares(&topics);
    let mut calculation = vec![format!(
        "measured: {} broker(s), {:.0} s; rates are means of what each broker counted in that time",
        measured.brokers, measured.window_sec
    )];
    calculation.extend(month.calculation.iter().cloned());
    calculation.push(format!(
        "topics: requests and what is sent by their shares of the {basis}; storage by the bytes they have"
    ));
    Ok(HttpResponse::Ok().json(json!({
        "measured": measurement(&measured),
        "prices": prices,
        "topics": by_topic(&topics, &shares, &month, prices),
        "total": dollars(&month),
        "calculation": calculation,
        "what_if": what_if.is_something().then(|| otherwise(&measured, flushing, prices, what_if)),
        "as_of_ms": now_ms,
        "partial": partial,
    })))
}

fn otherwise(measured: &Measured, flushing: Flushing, prices: &Prices, what_if: &WhatIf) -> Value {
    let (rates, mut lines) = model::estimate(measured, flushing, what_if);
    let month = model::month(&rates, prices);
    lines.extend(month.calculation.iter().cloned());
    json!({
        "flush_interval_ms": what_if.flush_interval_ms,
        "retention_ms": what_if.retention_ms,
        "mb_per_day": what_if.mb_per_day,
        "requests": month.requests,
        "storage": month.storage,
        "egress": month.egress,
        "total": month.total(),
        "requests_per_month": requests(&month, 1.0),
        "calculation": lines,
    })
}

fn whole(number: f64) -> String {
    format!("{:.0}", number.max(0.0))
}

fn requests(month: &Month, share: f64) -> Value {
    json!({ "put": whole(month.puts * share), "get": whole(month.gets * share), "list": whole(month.lists * share) })
}

fn dollars(month: &Month) -> Value {
    json!({ "requests": month.requests, "storage": month.storage, "egress": month.egress, "total": month.total() })
}

fn measurement(measured: &Measured) -> Value {
    let counted = |rate: f64| whole(rate * measured.window_sec);
    let op = |op: &str, class: &str, rate: f64| json!({ "op": op, "price_class": class, "count": counted(rate) });
    json!({
        "window_sec": measured.window_sec,
        "brokers": measured.brokers,
        "requests": [
            op("PUT", "put", measured.puts),
            op("GET and HEAD", "get", measured.gets),
            op("LIST", "list", measured.lists),
        ],
        "flushes": counted(measured.flushes),
        "bytes_stored": measured.bytes_stored.map(whole),
        "bytes_in": counted(measured.bytes_in),
        "bytes_out": counted(measured.bytes_out),
    })
}

fn by_topic(topics: &[TopicBytes], shares: &[f64], month: &Month, prices: &Prices) -> Vec<Value> {
    let mut costs: Vec<(f64, Value)> = topics
        .iter()
        .zip(shares)
        .map(|(topic, share)| {
            let storage = topic.stored / 1e9 * prices.storage_gb_month;
            let (for_requests, egress) = (month.requests * share, month.egress * share);
            let total = for_requests + storage + egress;
            let cost = json!({
                "topic": topic.topic,
                "share_in": share,
                "bytes_stored": whole(topic.stored),
                "requests_per_month": requests(month, *share),
                "dollars": { "requests": for_requests, "storage": storage, "egress": egress, "total": total },
            });
            (total, cost)
        })
        .collect();
    costs.sort_by(|a, b| b.0.total_cmp(&a.0));
    costs.into_iter().take(TOPICS_SHOWN_MAX).map(|(_, cost)| cost).collect()
}

/// What the history has counted; `None` if it has nothing yet. A broker that was there for a part of the time counts for that part.
fn measured(state: &ConsoleState, now_ms: i64, window_sec: i64) -> Option<Measured> {
    let mut steps = 0;
    let sums: BTreeMap<&str, f64> = state.with_history(|ring| {
        let sum = |name: &&'static str| {
            let known = ring.sums(catalogue::position(name)?, now_ms - window_sec * 1_000, now_ms);
            steps = known.iter().map(|(_, _, known)| *known).fold(steps, usize::max);
            Some((*name, known.iter().map(|(_, sum, _)| sum).sum()))
        };
        RATES.iter().filter_map(sum).collect()
    });
    let answering = state.scraped.readings.load().brokers.values().filter(|reading| reading.error.is_none()).count();
    let rate = |name: &str| sums.get(name).copied().unwrap_or(0.0) / steps as f64;
    (steps > 0).then(|| Measured {
        brokers: answering,
        window_sec: steps as f64 * STEP_MS as f64 / 1e3,
        puts: rate("s3_put_per_sec"),
        flushes: rate("flushes_per_sec"),
        gets: rate("s3_get_per_sec") + rate("s3_head_per_sec"),
        lists: rate("s3_list_per_sec"),
        bytes_in: rate("bytes_durable_per_sec"),
        bytes_out: rate("bytes_out_per_sec"),
        bytes_stored: None,
    })
}

/// Bytes of all topics, from all brokers, and who did not say.
async fn topics(urls: &[(i32, String)]) -> (Vec<TopicBytes>, Vec<Missing>) {
    let asked = urls.iter().map(|(broker, url)| async move {
        let mut pages = Vec::new();
        let told = tokio::time::timeout(TOPICS_WITHIN, topics_of(url, &mut pages)).await;
        let told = told.unwrap_or_else(|_| Err(format!("not all of its topics within {} s", TOPICS_WITHIN.as_secs())));
        (*broker, pages, told.err())
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_A_TIME_MAX).collect().await;
    let (mut topics, mut partial) = (BTreeMap::<String, TopicBytes>::new(), Vec::new());
    for (broker, pages, error) in answers {
        for item in pages {
            let name = item["topic"].as_str().unwrap_or_default();
            let topic = topics
                .entry(name.to_owned())
                .or_insert_with(|| TopicBytes { topic: name.to_owned(), ..TopicBytes::default() });
            topic.stored += count(&item["bytes"]) as f64;
            topic.recent += count(&item["bytes_recent"]) as f64;
        }
        partial.extend(error.map(|reason| Missing { source: format!("broker {broker}"), reason, since_ms: None }));
    }
    (topics.into_values().collect(), partial)
}

async fn topics_of(url: &str, items: &mut Vec<Value>) -> Result<(), String> {
    let mut cursor = String::new();
    for _ in 0..PAGES_MAX {
        let mut page = ask(url, &format!("/v1/topics?cursor={cursor}"), ASK_WITHIN).await?;
        if let Value::Array(some) = page["items"].take() {
            items.extend(some);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(()),
        }
    }
    Err(format!("it has more topics than {PAGES_MAX} pages hold"))
}

/// What one of the brokers is configured with.
async fn flushing(urls: &[(i32, String)]) -> Flushing {
    let mut flushing = Flushing { interval_ms: FLUSH_INTERVAL_MS, segment_bytes: SEGMENT_BYTES };
    for (_, url) in urls.iter().take(AT_A_TIME_MAX) {
        let Ok(page) = ask(url, "/v1/broker", ASK_WITHIN).await else { continue };
        for config in page["configs"].as_array().into_iter().flatten() {
            let value =
                || config["value"].as_str().and_then(|value| value.parse::<f64>().ok()).filter(|value| *value > 0.0);
            match config["name"].as_str() {
                Some("kafscale.flush.interval.ms") => flushing.interval_ms = value().unwrap_or(flushing.interval_ms),
                Some("kafscale.segment.bytes") => flushing.segment_bytes = value().unwrap_or(flushing.segment_bytes),
                _ => {}
            }
        }
        break;
    }
    flushing
}
