//! What is stored and what moves, as JSON on the metrics listener: sizes of topics, the objects behind a partition, and which topics
//! are busy.
//!
//! A broker tells of the partitions that it leads, from the extents that it has in memory: nothing is read from the object store.
//! Pages are bounded; who wants more asks again with the cursor of the last answer.

use crate::actors::partition::view::{Extent, LogState};
use crate::broker::Broker;
use crate::http::{HttpState, PageError};
use crate::ids::{Offset, PartitionIndex, PartitionKey, TopicId};
use crate::storage::ObjectKey;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Topics of a page.
const TOPICS_MAX: usize = 500;
/// Partitions that are looked at for a page.
const PARTITIONS_MAX: usize = 10_000;
/// Extents of a page.
const EXTENTS_MAX: usize = 500;
/// Topics of which rates are told: the busiest.
const BUSY_MAX: usize = 5_000;
/// Bytes per second below which a topic counts as still.
const STILL_BYTES_PER_SEC: f64 = 0.5;
/// Objects of up to this level hold what was written a short time ago: whatever is rewritten later gets a higher one.
const RECENT_LEVEL_MAX: u8 = 1;
/// What counts as recent, ms.
const RECENT_MS: i64 = 3_600_000;
/// Longest value of the query, bytes; names of topics have at most 249 characters and none that is escaped.
const VALUE_BYTES_MAX: usize = 512;

/// Adds the pages.
pub(super) fn register(state: &Arc<HttpState>, broker: &Arc<Broker>) {
    let shared = broker.clone();
    state.pages.register("/v1/topics", move |query| {
        let page = topics(&shared, &query);
        Box::pin(async move { page })
    });
    let shared = broker.clone();
    state.pages.register("/v1/storage", move |query| {
        let page = storage(&shared, &query);
        Box::pin(async move { page })
    });
    let shared = broker.clone();
    state.pages.register("/v1/rates", move |_| {
        let page = rates(&shared);
        Box::pin(async move { Ok(page) })
    });
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
    (!value.is_empty() && value.len() <= VALUE_BYTES_MAX).then_some(value)
}

fn number<T: std::str::FromStr>(query: &str, name: &str) -> Result<Option<T>, PageError> {
    let parse = |text: &str| text.parse().map_err(|_| PageError::invalid(format!("{name} is a number")));
    parameter(query, name).map(parse).transpose()
}

/// What a partition, or several, have stored.
#[derive(Debug, Default)]
struct Sizes {
    bytes: u64,
    bytes_recent: u64,
    records: i64,
    extents: usize,
    /// Distinct ones, if somebody wants to know.
    objects: Option<BTreeSet<ObjectKey>>,
    led: usize,
}

impl Sizes {
    fn add(&mut self, log: &LogState, now_ms: i64) {
        for extent in &log.extents {
            self.bytes += extent.len;
            let object = &extent.object;
            if object.level <= RECENT_LEVEL_MAX && now_ms.saturating_sub(object.created_ms) <= RECENT_MS {
                self.bytes_recent += extent.len;
            }
        }
        if let Some(objects) = &mut self.objects {
            objects.extend(log.extents.iter().map(|extent| extent.object.key.clone()));
        }
        self.extents += log.extents.len();
        self.led += 1;
    }
}

/// Sizes per topic, of the partitions led here, in the order of names after `cursor`. With `topic` of that one alone.
fn topics(broker: &Broker, query: &str) -> Result<Value, PageError> {
    let image = broker.image.load_full();
    let now_ms = broker.clock.wall_ms();
    let after = parameter(query, "cursor").map_or(Bound::Unbounded, Bound::Excluded);
    let only = parameter(query, "topic");
    let is_wanted = |name: &str| match (only, after) {
        (Some(only), _) => name == only,
        (None, Bound::Excluded(after)) => name > after,
        (None, _) => true,
    };
    let (mut items, mut looked_at, mut next_cursor) = (Vec::new(), 0, None);
    let mut last: Option<String> = None;
    for topic in image.topics().filter(|topic| is_wanted(&topic.name)) {
        if items.len() >= TOPICS_MAX || looked_at >= PARTITIONS_MAX {
            next_cursor = last;
            break;
        }
        let mut sizes = Sizes { objects: only.map(|_| BTreeSet::new()), ..Sizes::default() };
        for partition in 0..topic.value.partitions {
            let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(partition) };
            if let Some(led) = broker.directory.get(&key) {
                led.view.with_log(|log| sizes.add(log, now_ms));
                sizes.records += led.view.high_watermark().0 - led.view.log_start().0;
            }
        }
        looked_at += topic.value.partitions.max(1) as usize;
        last = Some(topic.name.to_string());
        if sizes.led > 0 {
            items.push(json!({
                "topic": &*topic.name,
                "partitions_led": sizes.led,
                "bytes": sizes.bytes.to_string(),
                "bytes_recent": sizes.bytes_recent.to_string(),
                "records": sizes.records.to_string(),
                "extents": sizes.extents.to_string(),
                "objects": sizes.objects.as_ref().map(|objects| objects.len().to_string()),
            }));
        }
    }
    Ok(json!({
        "as_of_ms": now_ms,
        "broker": broker.node.0,
        "recent_ms": RECENT_MS,
        "items": items,
        "next_cursor": next_cursor,
    }))
}

/// Extents of a partition from the offset `cursor` on, and how much all of them are.
fn storage(broker: &Broker, query: &str) -> Result<Value, PageError> {
    let name = parameter(query, "topic").ok_or_else(|| PageError::invalid("topic=<name> is missing"))?;
    let index =
        number::<i32>(query, "partition")?.ok_or_else(|| PageError::invalid("partition=<number> is missing"))?;
    let from = Offset(number::<i64>(query, "cursor")?.unwrap_or(0));
    let limit = number::<usize>(query, "limit")?.unwrap_or(EXTENTS_MAX).clamp(1, EXTENTS_MAX);
    let image = broker.image.load_full();
    let topic = image.topic(name).ok_or_else(|| PageError::not_found(format!("there is no topic {name:?}")))?;
    let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(index) };
    let led = broker.directory.get(&key);
    let led =
        led.ok_or_else(|| PageError::not_found(format!("this broker does not lead partition {index} of {name}")))?;
    let (page, total_bytes, objects) = led.view.with_log(|log| {
        let first = log.extents.partition_point(|extent| extent.next <= from);
        let page: Vec<Extent> = log.extents.range(first..).take(limit + 1).cloned().collect();
        let objects: BTreeSet<&ObjectKey> = log.extents.iter().map(|extent| &extent.object.key).collect();
        (page, log.extents.iter().map(|extent| extent.len).sum::<u64>(), objects.len())
    });
    let next_cursor = page.get(limit).map(|extent| extent.base.0.to_string());
    let items: Vec<Value> = page.iter().take(limit).map(extent).collect();
    Ok(json!({
        "as_of_ms": broker.clock.wall_ms(),
        "broker": broker.node.0,
        "topic": name,
        "partition": index,
        "log_start": led.view.log_start().0.to_string(),
        "high_watermark": led.view.high_watermark().0.to_string(),
        "bytes": total_bytes.to_string(),
        "objects": objects.to_string(),
        "items": items,
        "next_cursor": next_cursor,
    }))
}

/// Per second, of the partitions of a topic that are led here.
#[derive(Debug, Default)]
struct Rates {
    bytes_in: f64,
    bytes_out: f64,
    records_in: f64,
}

/// The busiest topics, and whether others are left out.
fn rates(broker: &Broker) -> Value {
    let now_ms = broker.clock.monotonic_ms();
    let mut topics: HashMap<TopicId, Rates> = HashMap::new();
    for led in broker.directory.all() {
        let traffic = &led.view.traffic;
        let rates = topics.entry(led.key.topic).or_default();
        rates.bytes_in += traffic.bytes_in.per_sec(now_ms);
        rates.bytes_out += traffic.bytes_out.per_sec(now_ms);
        rates.records_in += traffic.records_in.per_sec(now_ms);
    }
    let mut busy: Vec<(TopicId, Rates)> =
        topics.into_iter().filter(|(_, rates)| rates.bytes_in + rates.bytes_out >= STILL_BYTES_PER_SEC).collect();
    let left_out = busy.len().saturating_sub(BUSY_MAX);
    if left_out > 0 {
        let all = |rates: &Rates| rates.bytes_in + rates.bytes_out;
        busy.select_nth_unstable_by(BUSY_MAX, |a, b| all(&b.1).total_cmp(&all(&a.1)));
        busy.truncate(BUSY_MAX);
    }
    let image = broker.image.load_full();
    let item = |(id, rates): (TopicId, Rates)| {
        Some(json!({
            "topic": &*image.topic_by_id(id)?.name,
            "bytes_in_per_sec": rates.bytes_in,
            "bytes_out_per_sec": rates.bytes_out,
            "records_in_per_sec": rates.records_in,
        }))
    };
    let items: Vec<Value> = busy.into_iter().filter_map(item).collect();
    json!({ "as_of_ms": broker.clock.wall_ms(), "broker": broker.node.0, "items": items, "left_out": left_out })
}

fn extent(extent: &Extent) -> Value {
    let object = &extent.object;
    json!({
        "object": object.key.to_string(),
        "kind": match object.level { 0 => "wal", 1 | 2 => "merged", _ => "compacted" },
        "level": object.level,
        "object_bytes": object.len.to_string(),
        "created_ms": object.created_ms,
        "base_offset": extent.base.0.to_string(),
        "last_offset": (extent.next.0 - 1).to_string(),
        "position": extent.position.to_string(),
        "bytes": extent.len.to_string(),
        "last_timestamp_ms": (extent.max_timestamp >= 0).then_some(extent.max_timestamp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken_apart() {
        let query = "topic=a.b&partition=3&cursor=&x";
        assert_eq!(
            (parameter(query, "topic"), parameter(query, "cursor"), parameter(query, "x")),
            (Some("a.b"), None, None)
        );
        assert_eq!(number::<i32>(query, "partition"), Ok(Some(3)));
        assert!(number::<i32>("partition=z", "partition").is_err());
        let long = format!("topic={}", "a".repeat(VALUE_BYTES_MAX + 1));
        assert_eq!(parameter(&long, "topic"), None);
    }
}
