//! Pages of records, and single ones.

use super::decode::SINGLE_TEXT_BYTES_MAX;
use super::query::Query;
use super::record::{Matcher, Shown};
use super::scan::{From, Plan, Scan};
use crate::web::kafka::within;
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::{HttpResponse, web};
use serde_json::json;
use std::time::Duration;

/// Time of a page that is searched, and of a single record.
const SEARCH_WITHIN: Duration = Duration::from_secs(10);

/// GET `/topics/{name}/messages`.
pub async fn messages(
    state: web::Data<ConsoleState>,
    path: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Problem> {
    let (limit, shown) = (query.limit()?, query.shown()?);
    let plan = query.plan(&path, From::Newest, limit)?;
    let deadline = within(SEARCH_WITHIN);
    let mut scan = Scan::open(state.kafka.clone(), plan, deadline).await?;
    let (records, stopped_by) = scan.page(limit, deadline).await;
    let (next_cursor, partial) = (scan.cursor(), scan.partial());
    // To show them costs as much as to find them.
    let items = web::block(move || records.iter().map(|record| record.item(&shown)).collect::<Vec<_>>()).await;
    let items = items.map_err(|_| Problem::unavailable("the console is busy: try again in a moment"))?;
    Ok(HttpResponse::Ok().json(json!({
        "items": items,
        "scanned_records": scan.scanned_records.to_string(),
        "scanned_bytes": scan.scanned_bytes.to_string(),
        "stopped_by": stopped_by.name(),
        "next_cursor": next_cursor,
        "as_of_ms": state.clock.wall_ms(),
        "partial": partial,
    })))
}

/// GET `/topics/{name}/messages/{partition}/{offset}`.
pub async fn message(
    state: web::Data<ConsoleState>,
    path: web::Path<(String, i32, i64)>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Problem> {
    let (topic, partition, offset) = path.into_inner();
    let shown = Shown { text_bytes_max: SINGLE_TEXT_BYTES_MAX, ..query.shown()? };
    let deadline = within(SEARCH_WITHIN);
    let (name, matcher) = (topic.clone(), Matcher::default());
    let plan = Plan { topic: name, partition: Some(partition), from: From::Offset(offset), limit: 1, matcher };
    let mut scan = Scan::open(state.kafka.clone(), plan, deadline).await?;
    let (records, _) = scan.page(1, deadline).await;
    if let Some(failed) = scan.partial().first() {
        return Err(Problem::unavailable(format!("{}: {}", failed.source, failed.reason)));
    }
    let Some(record) = records.into_iter().next().filter(|record| record.offset == offset) else {
        return Err(Problem::not_found(format!(
            "partition {partition} of topic {topic} has no record at offset {offset}: it was never written, was deleted, or \
             was compacted away"
        )));
    };
    let bytes = match query.raw.as_deref() {
        None => {
            let mut item = record.item(&shown);
            item["as_of_ms"] = json!(state.clock.wall_ms());
            item["partial"] = json!([]);
            return Ok(HttpResponse::Ok().json(item));
        }
        Some("key") => record.key,
        Some("value") => record.value,
        Some(_) => return Err(Problem::invalid("raw is key or value")),
    };
    let bytes = bytes.ok_or_else(|| Problem::not_found("it is null: there are no bytes"))?;
    let what = query.raw.as_deref().unwrap_or_default();
    // Names of topics have no characters that mean something here.
    let name = format!("attachment; filename=\"{topic}-{partition}-{offset}.{what}.bin\"");
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/octet-stream"))
        .insert_header((CONTENT_DISPOSITION, name))
        .body(bytes))
}
