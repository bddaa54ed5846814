//! The list of topics.

use super::configs;
use super::rates::{Rate, Rates};
use super::sizes::{self, Sizes};
use super::{READ_WITHIN, distinct, is_internal};
use crate::ids::{PartitionIndex, PartitionKey};
use crate::metadata::image::{ClusterImage, Topic};
use crate::web::kafka::{Offsets, PartitionOf, Place, kafka_id, within};
use crate::web::keyset::{self, Key, Needle, Order};
use crate::web::list::{PageQuery, list};
use crate::web::problem::Problem;
use crate::web::source::BrokerSource;
use crate::web::state::{ConsoleState, Missing};
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Partitions of a page about which brokers are asked; topics beyond it are shown without sizes.
const PARTITIONS_MAX: i32 = 5_000;
const POLICY: &str = "cleanup.policy";
const RETENTION: &str = "retention.ms";
/// Configs that the list shows.
const CONFIGS: [&str; 2] = [POLICY, RETENTION];
/// How long brokers may take to tell of the page.
const WITHIN: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    #[default]
    Name,
    Partitions,
    Size,
    Rate,
}

#[derive(Debug, Deserialize)]
pub(super) struct Query {
    cursor: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    q: String,
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    internal: bool,
}

/// That nothing is known of the cluster.
pub(super) fn unknown(state: &ConsoleState) -> Problem {
    let why = state.cluster.stale().map(|(reason, _)| reason).unwrap_or_default();
    Problem::unavailable(format!("nothing is known of the cluster yet: {why}"))
}

/// GET `/topics`.
pub(super) async fn topics(state: web::Data<ConsoleState>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let Query { cursor, limit, q, sort, order, internal } = query.into_inner();
    let page = PageQuery { cursor, limit, q };
    let limit = page.limit()?;
    let image = state.cluster.image().ok_or_else(|| unknown(&state))?;
    let now_ms = state.clock.wall_ms();
    let mut missing: Vec<Missing> = state.partial().into_iter().filter(|m| m.source == "etcd").collect();
    let sizes = match sort {
        Sort::Size => {
            let sizes = state.data.sizes.get(&state.kafka, &image, now_ms, within(READ_WITHIN)).await;
            missing.extend(sizes.missing.iter().cloned());
            Some(sizes)
        }
        _ => None,
    };
    let rates = state.data.rates.get(state.cluster.metrics_urls()).await;
    missing.extend(rates.missing.iter().cloned());
    let needle = Needle::new(&page.q);
    let keys: Vec<Key> = image
        .topics()
        .filter(|topic| (internal || !is_internal(&topic.name)) && needle.is_in(&topic.name))
        .map(|topic| (number(topic, sort, sizes.as_deref(), &rates), topic.name.clone()))
        .collect();
    let total = keys.len();
    let (keys, next) = keyset::page(keys, order, page.cursor.as_deref(), limit)?;
    let shown: Vec<&Arc<Topic>> = keys.iter().filter_map(|(_, name)| image.topic(name)).collect();
    let (inside, unanswered) = look_inside(&state, &image, &shown).await;
    missing.extend(unanswered);
    let items = shown.iter().map(|topic| item(&image, topic, &inside, rates.of(&topic.name))).collect::<Vec<Value>>();
    Ok(HttpResponse::Ok().json(list(items, next, Some(total), now_ms, distinct(missing))))
}

fn number(topic: &Topic, sort: Sort, sizes: Option<&Sizes>, rates: &Rates) -> i64 {
    match sort {
        Sort::Name => 0,
        // By what is written; of those that are only read, by what is read.
        Sort::Rate => rates.topics.get(&topic.name).map_or(0, |rate| order_of(*rate)),
        Sort::Partitions => i64::from(topic.value.partitions),
        // Those that nobody has told stand together at one end.
        Sort::Size => sizes.and_then(|s| s.topics.get(&topic.name)).map_or(-1, |bytes| *bytes as i64),
    }
}

/// More bytes written is more, and with the same more bytes read.
fn order_of(rate: Rate) -> i64 {
    let whole = |bytes: f64| (bytes * 10.0).clamp(0.0, f64::from(i32::MAX)) as i64;
    (whole(rate.bytes_in) << 31) + whole(rate.bytes_out)
}

/// What brokers say of the partitions of a page.
#[derive(Default)]
struct Inside {
    sizes: HashMap<PartitionOf, u64>,
    starts: Offsets,
    ends: Offsets,
    configs: HashMap<(String, String), String>,
}

async fn look_inside(state: &ConsoleState, image: &ClusterImage, shown: &[&Arc<Topic>]) -> (Inside, Vec<Missing>) {
    let (mut left, mut partitions, mut missing) = (PARTITIONS_MAX, Vec::new(), Vec::new());
    let mut by_leader: BTreeMap<i32, Vec<PartitionOf>> = BTreeMap::new();
    for topic in shown {
        if topic.value.partitions > left {
            let reason =
                format!("the page has more than {PARTITIONS_MAX} partitions: sizes are on each topic's own page");
            missing.push(Missing { source: "this page".to_owned(), reason, since_ms: None });
            continue;
        }
        left -= topic.value.partitions;
        for partition in 0..topic.value.partitions {
            if let Some(leader) = leader(image, topic, partition) {
                let at = (topic.name.to_string(), partition);
                by_leader.entry(leader).or_default().push(at.clone());
                partitions.push(at);
            }
        }
    }
    let deadline = within(WITHIN);
    let names: Vec<&str> = shown.iter().map(|topic| &*topic.name).collect();
    let ((sizes, unanswered), starts, ends, configs) = futures::join!(
        sizes::of_partitions(&state.kafka, by_leader, deadline),
        state.kafka.offsets(&partitions, Place::Earliest, deadline),
        state.kafka.offsets(&partitions, Place::Latest, deadline),
        configs::values(&state.kafka, &names, &CONFIGS, deadline),
    );
    missing.extend(unanswered);
    let configs = configs.unwrap_or_else(|error| {
        missing.push(Missing { source: "configs".to_owned(), reason: error.to_string(), since_ms: None });
        HashMap::new()
    });
    missing.extend(reasons(starts.values().chain(ends.values())));
    (Inside { sizes, starts, ends, configs }, missing)
}

/// Why offsets are not known.
pub(super) fn reasons<'a, T: 'a>(
    answers: impl Iterator<Item = &'a Result<T, crate::web::kafka::KafkaError>>,
) -> Vec<Missing> {
    let missing = answers.filter_map(|answer| answer.as_ref().err()).map(|error| Missing {
        source: "offsets".to_owned(),
        reason: error.to_string(),
        since_ms: None,
    });
    distinct(missing)
}

fn leader(image: &ClusterImage, topic: &Topic, partition: i32) -> Option<i32> {
    let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(partition) };
    image.leader(&key).map(|broker| broker.0)
}

fn item(image: &ClusterImage, topic: &Topic, inside: &Inside, rate: Option<Rate>) -> Value {
    let partitions = topic.value.partitions;
    let each = || (0..partitions).map(move |p| (topic.name.to_string(), p));
    // A sum without some of its parts would look like a loss of data.
    let size: Option<u64> = each().map(|at| inside.sizes.get(&at).copied()).sum();
    let records: Option<i64> = each().map(|at| records(inside.starts.get(&at), inside.ends.get(&at))).sum();
    let config = |name: &str| inside.configs.get(&(topic.name.to_string(), name.to_owned())).map(String::as_str);
    json!({
        "name": &*topic.name,
        "id": kafka_id(&topic.value.id.0),
        "internal": is_internal(&topic.name),
        "partitions": partitions,
        "size_bytes": size.map(|n| n.to_string()),
        "records": records.map(|n| n.to_string()),
        "bytes_in_per_sec": rate.map(|rate| rate.bytes_in),
        "bytes_out_per_sec": rate.map(|rate| rate.bytes_out),
        "records_in_per_sec": rate.map(|rate| rate.records_in),
        "cleanup_policy": config(POLICY),
        "retention_ms": config(RETENTION).and_then(|text| text.parse::<i64>().ok()),
        "leaderless": (0..partitions).filter(|p| leader(image, topic, *p).is_none()).count(),
    })
}

type Answer = Result<Option<crate::web::kafka::At>, crate::web::kafka::KafkaError>;

/// Offsets between start and end: an upper bound of what can be read, and exact without compaction.
pub(super) fn records(start: Option<&Answer>, end: Option<&Answer>) -> Option<i64> {
    match (start, end) {
        (Some(Ok(Some(start))), Some(Ok(Some(end)))) => Some((end.offset - start.offset).max(0)),
        _ => None,
    }
}
