//! What lies in the object store for a topic, as the brokers that lead its partitions tell it.

use super::fetch;
use super::list::PageQuery;
use super::problem::Problem;
use super::source::BrokerSource;
use super::state::{ConsoleState, Missing};
use crate::clock::monotonic;
use crate::ids::{PartitionIndex, PartitionKey};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time of a page.
const WITHIN: Duration = Duration::from_secs(2);
/// Longest answer of a broker, bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Brokers that are asked at a time.
const AT_A_TIME_MAX: usize = 8;
/// Partitions that are asked for a page: most of a topic's may be empty.
const PARTITIONS_MAX: usize = 64;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/topics/{name}/segments", web::get().to(segments));
}

#[derive(Deserialize)]
struct Query {
    partition: Option<String>,
    #[serde(flatten)]
    page: Page,
}

// A flattened struct sees only text.
#[derive(Deserialize)]
struct Page {
    cursor: Option<String>,
    limit: Option<String>,
}

/// A page of a broker's JSON.
pub(super) async fn ask(url: &str, path: &str, within: Duration) -> Result<Value, String> {
    let body = fetch::get(&format!("{url}{path}"), within, PAGE_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|e| format!("the answer is no JSON: {e}"))
}

/// A number that is sent as text.
pub(super) fn count(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Where the page begins: partition and offset.
fn begin(cursor: Option<&str>) -> Result<(i32, i64), Problem> {
    let Some(cursor) = cursor.filter(|cursor| !cursor.is_empty()) else { return Ok((0, 0)) };
    let parse = || {
        let (partition, offset) = cursor.split_once('.')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    parse().ok_or_else(|| Problem::invalid("this cursor is not of this list: begin without one"))
}

/// The brokers that lead the partitions of a topic.
fn partitions(state: &ConsoleState, name: &str) -> Result<Vec<Option<i32>>, Problem> {
    let image = state.cluster.image();
    let image = image.ok_or_else(|| {
        Problem::unavailable("nothing is known of the cluster yet: see whether the console reaches etcd")
    })?;
    let topic = image.topic(name).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "UNKNOWN_TOPIC_OR_PARTITION", format!("there is no topic {name:?}"))
    })?;
    let key = |number| PartitionKey { topic: topic.value.id, partition: PartitionIndex(number) };
    Ok((0..topic.value.partitions).map(|number| image.leader(&key(number)).map(|broker| broker.0)).collect())
}

/// GET `/topics/{name}/segments`.
async fn segments(
    state: web::Data<ConsoleState>,
    path: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Problem> {
    let limit = match query.page.limit.as_deref().filter(|limit| !limit.is_empty()) {
        Some(limit) => Some(limit.parse().map_err(|_| Problem::invalid("limit is a number"))?),
        None => None,
    };
    let limit = PageQuery { limit, ..PageQuery::default() }.limit()?;
    let only = match query.partition.as_deref() {
        None | Some("" | "all") => None,
        Some(number) => Some(number.parse::<i32>().map_err(|_| Problem::invalid("partition is a number, or \"all\""))?),
    };
    let (first, offset) = begin(query.page.cursor.as_deref())?;
    let deadline = monotonic() + WITHIN;
    let partitions = partitions(&state, &path)?;
    if let Some(only) = only.filter(|only| !(0..partitions.len() as i32).contains(only)) {
        return Err(Problem::not_found(format!("topic {path} has no partition {only}")));
    }
    let urls: BTreeMap<i32, String> = state.cluster.metrics_urls().into_iter().collect();
    let (mut items, mut next_cursor, mut asked) = (Vec::new(), None, 0);
    let mut partial: Vec<Missing> = state.partial().into_iter().filter(|missing| missing.source == "etcd").collect();
    let all_are_led = partitions.iter().all(Option::is_some);
    let numbered = (0_i32..).zip(partitions);
    for (number, leader) in numbered.filter(|(number, _)| *number >= first && only.is_none_or(|only| only == *number)) {
        let from = if number == first { offset } else { 0 };
        if items.len() >= limit || asked >= PARTITIONS_MAX || monotonic() >= deadline {
            next_cursor = Some(format!("{number}.{from}"));
            break;
        }
        asked += 1;
        let missing = |reason: String| Missing { source: format!("partition {number}"), reason, since_ms: None };
        let Some(leader) = leader else {
            partial.push(missing("it has no leader at the moment".to_owned()));
            continue;
        };
        let Some(url) = urls.get(&leader) else {
            partial.push(missing(format!("broker {leader} has told no address of its metrics listener")));
            continue;
        };
        let left = limit - items.len();
        let at = format!("/v1/storage?topic={path}&partition={number}&cursor={from}&limit={left}");
        match ask(url, &at, deadline.saturating_duration_since(monotonic())).await {
            Ok(page) => {
                items.extend(page["items"].as_array().into_iter().flatten().map(|extent| item(number, extent)));
                if let Some(next) = page["next_cursor"].as_str() {
                    next_cursor = Some(format!("{number}.{next}"));
                    break;
                }
            }
            Err(reason) => partial.push(missing(format!("broker {leader}: {reason}"))),
        }
    }
    let (summary, silent) = summary(urls, &path, all_are_led).await;
    partial.extend(silent);
    Ok(HttpResponse::Ok().json(json!({
        "items": items,
        "next_cursor": next_cursor,
        "total": null,
        "summary": summary,
        "as_of_ms": state.clock.wall_ms(),
        "partial": partial,
    })))
}

fn item(partition: i32, extent: &Value) -> Value {
    json!({
        "partition": partition,
        "kind": extent["kind"],
        "object": extent["object"],
        "base_offset": extent["base_offset"],
        "last_offset": extent["last_offset"],
        "bytes": extent["bytes"],
        "object_bytes": extent["object_bytes"],
        "created_ms": extent["created_ms"],
        "last_timestamp_ms": extent["last_timestamp_ms"],
    })
}

/// Objects and bytes of the whole topic. An object that several brokers' partitions share is counted by each.
/// Unknown if a broker does not answer, or nobody leads a partition: a sum of the rest would look like a loss of data.
async fn summary(urls: BTreeMap<i32, String>, topic: &str, all_are_led: bool) -> (Value, Vec<Missing>) {
    let path = format!("/v1/topics?topic={topic}");
    let asked = urls.into_iter().map(|(broker, url)| {
        let path = path.clone();
        async move { (broker, ask(&url, &path, WITHIN).await) }
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_A_TIME_MAX).collect().await;
    let (mut objects, mut bytes, mut partial, asked) = (0, 0, Vec::new(), answers.len());
    for (broker, answer) in answers {
        match answer {
            Ok(page) => {
                for topic in page["items"].as_array().into_iter().flatten() {
                    objects += count(&topic["objects"]);
                    bytes += count(&topic["bytes"]);
                }
            }
            Err(reason) => partial.push(Missing { source: format!("broker {broker}"), reason, since_ms: None }),
        }
    }
    let is_known = all_are_led && asked > 0 && partial.is_empty();
    let known = |number: u64| is_known.then(|| number.to_string());
    (json!({ "objects": known(objects), "bytes": known(bytes) }), partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_partition_and_offset() {
        assert_eq!(begin(None), Ok((0, 0)));
        assert_eq!(begin(Some("3.9223372036854775807")), Ok((3, i64::MAX)));
        assert_eq!(begin(Some("x")).unwrap_err().code, "invalid");
    }
}
