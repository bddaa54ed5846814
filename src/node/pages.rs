//! What a broker tells the console of itself, as JSON on the metrics listener: its configs, its actors, and how the object store
//! does.

use super::stores::Stores;
use crate::actors::context::NodeContext;
use crate::actors::s3_health::S3Health;
use crate::actors::supervisor::{ActorRegistry, ActorStatus, ExitReason};
use crate::broker::Broker;
use crate::config::NodeConfig;
use crate::http::{HttpState, PageError};
use crate::metrics::HistogramSample;
use crate::protocol::broker_config::{self, BrokerConfig};
use crate::protocol::config_defaults::Source;
use crate::storage::measured::{OPS, StoreStats};
use crate::storage::replica::ReplicaStore;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds the broker's pages.
pub(super) fn register(
    state: &Arc<HttpState>,
    config: &NodeConfig,
    context: &Arc<NodeContext>,
    broker: &Arc<Broker>,
    stores: &Stores,
) {
    let pages = &state.pages;
    // The state has this page: held strongly it would keep itself alive.
    let (own, described, clock) = (Arc::downgrade(state), broker.clone(), context.clock);
    pages.register("/v1/broker", move |_| {
        let failing = own.upgrade().map(|state| state.readiness.failing()).unwrap_or_default();
        let page = json!({
            "as_of_ms": clock.wall_ms(),
            "broker": described.node.0,
            "readiness": { "ready": failing.is_empty(), "failing": failing },
            "configs": configs(&described),
        });
        Box::pin(async move { Ok(page) })
    });
    let shared = context.clone();
    pages.register("/v1/actors", move |_| {
        let actors = actors(&shared.registry);
        let now_ms = shared.clock.wall_ms();
        Box::pin(async move { Ok::<_, PageError>(json!({ "as_of_ms": now_ms, "actors": actors })) })
    });
    let (health, stats, replica) = (stores.health.clone(), stores.object_stats.clone(), stores.replica.clone());
    let (clock, limits) = (context.clock, config.s3_health);
    pages.register("/v1/s3", move |_| {
        let now_ms = clock.wall_ms();
        let never = |threshold: f64| threshold.is_finite().then_some(threshold);
        let mut page = object_store(&health, now_ms);
        page["as_of_ms"] = json!(now_ms);
        page["window_sec"] = json!(limits.window_ms as f64 / 1e3);
        page["thresholds"] = json!({
            "latency_warn_ms": never(limits.latency_ms.warn),
            "latency_crit_ms": never(limits.latency_ms.crit),
            "error_rate_warn": never(limits.error_rate.warn),
            "error_rate_crit": never(limits.error_rate.crit),
        });
        page["requests"] = requests(&stats);
        page["replica"] = self::replica(replica.as_deref());
        Box::pin(async move { Ok(page) })
    });
}

/// Supervised actors and loops as the console shows them.
pub fn actors(registry: &ActorRegistry) -> Vec<Value> {
    let mut all = registry.all();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.iter().map(|status| actor(status)).collect()
}

fn actor(status: &ActorStatus) -> Value {
    let (parent, name) = match status.name.rsplit_once('/') {
        Some((parent, name)) => (Some(parent), name),
        None => (None, status.name.as_str()),
    };
    json!({
        "path": status.name,
        "name": name,
        "parent": parent,
        "running": status.is_running(),
        "restarts": status.restarts(),
        "mailbox_depth": status.waiting(),
        "mailbox_capacity": status.mailbox_capacity,
        "last_exit": status.last_exit().map(|reason| match reason {
            ExitReason::Stopped => "stopped".to_owned(),
            ExitReason::Panicked(message) => format!("panicked: {message}"),
            ExitReason::FactoryFailed(message) => format!("could not be started: {message}"),
        }),
        "last_exit_at_ms": status.last_exit_ms(),
        "started_at_ms": status.started_ms(),
    })
}

/// As DescribeConfigs shows them, with the words of Kafka's tools.
fn configs(broker: &Broker) -> Vec<Value> {
    let image = broker.image.load();
    let shown = |config: &BrokerConfig, value: &str| (!config.is_sensitive).then(|| value.to_owned());
    let item = |(name, config): (String, BrokerConfig)| {
        let synonyms = config.layers.iter().map(|(name, value, source)| {
            json!({ "name": name, "value": shown(&config, value), "source": source_name(*source) })
        });
        json!({
            "name": name,
            "value": shown(&config, &config.value),
            "source": source_name(config.source),
            "default": config.layers.iter().find(|(_, _, source)| *source == Source::Default).map(|(_, value, _)| value),
            "read_only": !config.is_dynamic,
            "sensitive": config.is_sensitive,
            "type": format!("{:?}", config.kind).to_lowercase(),
            "documentation": config.doc,
            "synonyms": synonyms.collect::<Vec<_>>(),
        })
    };
    broker_config::all(broker, image.defaults()).into_iter().map(item).collect()
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Topic => "DYNAMIC_TOPIC_CONFIG",
        Source::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
        Source::DynamicDefault => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        Source::StaticBroker => "STATIC_BROKER_CONFIG",
        Source::Default => "DEFAULT_CONFIG",
        Source::Group => "DYNAMIC_GROUP_CONFIG",
    }
}

fn object_store(health: &S3Health, now_ms: i64) -> Value {
    let verdict = health.verdict();
    let since_ms = now_ms - health.lasted(&verdict).as_millis() as i64;
    let timed = verdict.seen.timed > 0;
    json!({
        "state": verdict.level.name(),
        "since_ms": since_ms,
        "reasons": verdict.cause.map(|cause| cause.to_string()).into_iter().collect::<Vec<_>>(),
        "latency_ms": timed.then_some(verdict.seen.p90_ms),
        "error_rate": verdict.seen.creates.rate().max(verdict.seen.reads.rate()),
    })
}

/// Since the start; rates are for who asks more than once.
fn requests(stats: &StoreStats) -> Value {
    let of = |(op, name): (_, &str)| {
        let stats = stats.op(op);
        let sample = stats.succeeded.sample();
        json!({
            "op": name,
            "total": load(&stats.calls).to_string(),
            // "Is there already" and "is not there" are answers.
            "errors": stats.errors[2..].iter().map(load).sum::<u64>().to_string(),
            "bytes": load(&stats.bytes).to_string(),
            "p50_ms": quantile(&sample, 0.5).map(|sec| sec * 1e3),
            "p99_ms": quantile(&sample, 0.99).map(|sec| sec * 1e3),
        })
    };
    OPS.map(of).into_iter().collect()
}

fn replica(replica: Option<&ReplicaStore>) -> Value {
    let Some(replica) = replica else { return json!({ "configured": false, "hits": "0", "fallbacks": "0" }) };
    let stats = replica.stats();
    let fallbacks: u64 = [&stats.misses, &stats.errors, &stats.timeouts, &stats.skipped].into_iter().map(load).sum();
    json!({
        "configured": true,
        "used": replica.is_used(),
        "hits": load(&stats.hits).to_string(),
        "fallbacks": fallbacks.to_string(),
    })
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The bound below which `share` of the observations are, with a straight line inside of a bucket; of none there is none.
pub fn quantile(sample: &HistogramSample, share: f64) -> Option<f64> {
    let total: u64 = sample.buckets.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    let wanted = share * total as f64;
    let (mut below, mut lower) = (0_u64, 0.0);
    for (upper, count) in &sample.buckets {
        if *count > 0 && (below + count) as f64 >= wanted {
            // Above the last finite bound nothing is known but that.
            let upper = if upper.is_finite() { *upper } else { lower };
            return Some(lower + (upper - lower) * (wanted - below as f64) / *count as f64);
        }
        below += count;
        if upper.is_finite() {
            lower = *upper;
        }
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_inside_of_buckets() {
        let sample = |counts: [u64; 3]| HistogramSample {
            sum: 0.0,
            buckets: [0.1, 0.2, f64::INFINITY].into_iter().zip(counts).collect(),
        };
        assert_eq!(quantile(&sample([0, 0, 0]), 0.5), None);
        assert_eq!(quantile(&sample([10, 0, 0]), 0.5), Some(0.05));
        assert_eq!(quantile(&sample([0, 10, 0]), 1.0), Some(0.2));
        assert_eq!(quantile(&sample([5, 0, 5]), 0.99), Some(0.2), "no invented latency above the last bound");
    }
}
