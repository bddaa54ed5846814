//! The broker's metrics: what its parts count, under stable names. Labels come from fixed sets, so the number of series
//! does not grow with topics, partitions or clients.

use super::stores::Stores;
use crate::actors::context::NodeContext;
use crate::actors::follower::Followers;
use crate::actors::s3_health::S3Health;
use crate::actors::s3_health::state::Level;
use crate::broker::{Broker, FetchSource};
use crate::metrics::{Families, Metrics};
use crate::protocol::server::EdgeContext;
use crate::storage::measured::{ERROR_KINDS, OPS, OpStats, StoreStats};
use crate::storage::replica::ReplicaStore;
use crate::storage::retry::RetryStats;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds the broker's parts to every scrape.
pub fn register(
    metrics: &Metrics,
    context: &Arc<NodeContext>,
    broker: &Arc<Broker>,
    edge: &Arc<EdgeContext>,
    stores: &Stores,
) {
    let shared = context.clone();
    metrics.register("writer", move |families| writer(families, &shared));
    let shared = broker.clone();
    metrics.register("groups", move |families| groups(families, &shared));
    let shared = edge.clone();
    metrics.register("edge", move |families| connections(families, &shared));
    let shared = edge.broker.clone();
    metrics.register("requests", move |families| requests(families, &shared));
    let (objects, retries) = (stores.object_stats.clone(), stores.retry_stats.clone());
    metrics.register("object-store", move |families| {
        object_store(families, &objects)?;
        object_store_retries(families, &retries)
    });
    let shared = stores.health.clone();
    metrics.register("object-store-health", move |families| health(families, &shared));
    if let Some(followers) = broker.followers.clone() {
        metrics.register("followers", move |families| followed(families, &followers));
    }
    if let Some(replica) = stores.replica.clone() {
        metrics.register("read-replica", move |families| read_replica(families, &replica));
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn writer(families: &mut Families<'_>, context: &NodeContext) -> fmt::Result {
    let stats = &context.stats;
    let counters = [
        ("kafscale_flushes", "Segments cut by the WAL writer", &stats.flushes),
        ("kafscale_flushed_bytes", "Bytes of record batches in flushed segments", &stats.flushed_bytes),
        ("kafscale_flushed_batches", "Record batches in flushed segments", &stats.flushed_batches),
        ("kafscale_flushed_records", "Records in flushed segments", &stats.flushed_records),
        ("kafscale_commits", "Commits of the writer's head to the metadata store", &stats.commits),
        ("kafscale_commit_path_retries", "Uploads and commits that had to be repeated", &stats.retries),
        ("kafscale_checkpoints", "Checkpoints written", &stats.checkpoints),
        ("kafscale_merges", "Merged objects written", &stats.merges),
        ("kafscale_merged_bytes", "Bytes of merged objects written", &stats.merged_bytes),
        ("kafscale_compactions", "Passes of key compaction over a partition", &stats.compactions),
        ("kafscale_compacted_bytes", "Bytes of objects written by key compaction", &stats.compacted_bytes),
        ("kafscale_compacted_records", "Records dropped by key compaction", &stats.compacted_records),
        ("kafscale_deleted_objects", "Objects deleted because nothing refers to them", &stats.deleted_objects),
        ("kafscale_scrub_listed_objects", "Objects that the scrub looked at", &stats.scrub_listed_objects),
        (
            "kafscale_scrub_orphaned_objects",
            "Objects that nothing ever referred to, put on the garbage list by the scrub",
            &stats.scrub_orphaned_objects,
        ),
        (
            "kafscale_scrub_orphaned_bytes",
            "Bytes of objects that nothing ever referred to, put on the garbage list by the scrub",
            &stats.scrub_orphaned_bytes,
        ),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, load(value))?;
    }
    let histograms = [
        (
            "kafscale_append_durable_duration_seconds",
            "From the arrival of a batch at the WAL writer until it is committed",
            stats.durable.sample(),
        ),
        (
            "kafscale_metadata_commit_duration_seconds",
            "Commits of the writer's head, until the outcome is known",
            stats.commit.sample(),
        ),
        ("kafscale_flush_size_bytes", "Bytes of record batches in a segment at its cut", stats.flush_bytes.sample()),
        ("kafscale_flush_age_seconds", "Age of the oldest batch in a segment at its cut", stats.flush_age.sample()),
    ];
    for (name, help, sample) in histograms {
        families.histogram(name, help, &sample)?;
    }
    let waited = stats.oldest.waited(context.clock.monotonic()).as_secs_f64();
    families.gauge("kafscale_oldest_batch_wait_seconds", "Wait of the oldest batch that is not durable yet", waited)?;
    families.gauge("kafscale_writer_head", "Last committed WAL slot", load(&stats.head) as f64)?;
    let pending = context.budget.bytes() as f64;
    families.gauge("kafscale_pipeline_bytes", "Bytes of record batches that are not durable yet", pending)?;
    let tail = load(&stats.tail_bytes) as f64;
    families.gauge("kafscale_tail_bytes", "Bytes of the newest committed record batches that are in memory", tail)?;
    families.gauge("kafscale_partitions_led", "Partitions this broker serves", context.directory.all().len() as f64)?;
    let suspended = f64::from(u8::from(context.standing.is_doubted()));
    families.gauge(
        "kafscale_appends_suspended",
        "1 while appends are refused because the lease is in doubt",
        suspended,
    )?;
    families.counter("kafscale_actor_restarts", "Actors restarted after a failure", context.registry.restarts())
}

fn requests(families: &mut Families<'_>, broker: &Broker) -> fmt::Result {
    let latencies = &broker.latencies;
    let produce = latencies.produce.sample();
    families.histogram("kafscale_produce_ack_duration_seconds", "Produce requests until they are acked", &produce)?;
    let labels = FetchSource::ALL.map(|(_, name)| [("source", name)]);
    let samples = labels.iter().zip(&latencies.fetch).map(|(label, fetch)| (&label[..], fetch.sample()));
    let help = "Fetch requests until they are answered, waiting for records included, by where records came from";
    families.histograms("kafscale_fetch_duration_seconds", help, samples)?;
    let held = broker.reader.cache_bytes_held() as f64;
    families.gauge("kafscale_cache_bytes", "Bytes in the block cache", held)?;
    let reads = broker.reader.stats();
    let results = [(&[("result", "hit")][..], load(&reads.hits)), (&[("result", "miss")], load(&reads.misses))];
    families.counters("kafscale_cache_reads", "Chunks looked for in the block cache", results)?;
    let help = "Chunks and indexes that came damaged and were read again";
    families.counter("kafscale_damaged_reads", help, load(&reads.damaged))?;
    let help = "Partitions of fetches that were answered with a broker of the client's rack to read from";
    families.counter("kafscale_fetch_preferred_replicas", help, load(&broker.sent_away))
}

fn health(families: &mut Families<'_>, health: &S3Health) -> fmt::Result {
    let (verdict, labels) = (health.verdict(), Level::ALL.map(|(_, name)| [("state", name)]));
    let states = labels.iter().zip(Level::ALL);
    let is = states.clone().map(|(l, (level, _))| (&l[..], f64::from(u8::from(level == verdict.level))));
    families.gauges("kafscale_s3_health_state", "1 for how the object store does, 0 for the others", is)?;
    let changes = states.map(|(l, (level, _))| (&l[..], health.transitions_to(level)));
    families.counters("kafscale_s3_health_transitions", "Changes to each state of the object store", changes)?;
    let lasted = health.lasted(&verdict).as_secs_f64();
    families.gauge(
        "kafscale_s3_state_duration_seconds",
        "How long the state of the object store has lasted",
        lasted,
    )?;
    let seen = &verdict.seen;
    let rates = [("create", seen.creates.rate()), ("read", seen.reads.rate())];
    let rate_labels = rates.map(|(operation, _)| [("operation", operation)]);
    let values = rate_labels.iter().zip(rates).map(|(l, (_, rate))| (&l[..], rate));
    families.gauges("kafscale_s3_error_rate", "Failed attempts per attempt in the window", values)?;
    let quantiles = [("0.5", seen.p50_ms), ("0.9", seen.p90_ms), ("0.99", seen.p99_ms)];
    let quantile_labels = quantiles.map(|(quantile, _)| [("quantile", quantile)]);
    let values = quantile_labels.iter().zip(quantiles).map(|(l, (_, ms))| (&l[..], ms / 1e3));
    let help = "Quantiles of the time of successful creates in the window; the state goes by 0.9";
    families.gauges("kafscale_s3_latency_seconds", help, values)?;
    families.gauge("kafscale_s3_latency_ms_avg", "Mean of the same in milliseconds", seen.mean_ms)?;
    let throttle = health.throttle_ms() as f64 / 1e3;
    families.gauge(
        "kafscale_s3_throttle_seconds",
        "What producers are asked to wait for the object store",
        throttle,
    )?;
    let help = "Batches refused because the object store is unavailable";
    families.counter("kafscale_s3_refused_batches", help, health.refused())
}

fn read_replica(families: &mut Families<'_>, replica: &ReplicaStore) -> fmt::Result {
    let stats = replica.stats();
    let results = [
        ("hit", &stats.hits),
        ("miss", &stats.misses),
        ("error", &stats.errors),
        ("timeout", &stats.timeouts),
        ("skipped", &stats.skipped),
    ];
    let labels = results.map(|(result, _)| [("result", result)]);
    let values = labels.iter().zip(results).map(|(l, (_, n))| (&l[..], load(n)));
    families.counters("kafscale_replica_reads", "Reads by what the read replica had to do with them", values)?;
    families.counter("kafscale_replica_read_bytes", "Bytes read from the read replica", load(&stats.bytes))?;
    let help = "1 while reads go to the read replica first, 0 while it is left alone because it failed";
    families.gauge("kafscale_replica_used", help, f64::from(u8::from(replica.is_used())))?;
    let help = "Reads that the read replica served";
    families.histogram("kafscale_replica_read_duration_seconds", help, &stats.hit_durations.sample())
}

fn followed(families: &mut Families<'_>, followers: &Followers) -> fmt::Result {
    let stats = followers.stats();
    let counters = [
        ("kafscale_follower_fetches", "Fetches answered with records of partitions that others lead", &stats.fetches),
        ("kafscale_follower_bytes", "Bytes of records of partitions that others lead", &stats.bytes),
        (
            "kafscale_follower_refreshes",
            "Looks at a writer that brought followed partitions up to date",
            &stats.refreshes,
        ),
        ("kafscale_follower_loads", "Looks for which the writer's checkpoint was read", &stats.loads),
        ("kafscale_follower_failures", "Looks that failed", &stats.failures),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, load(value))?;
    }
    let (views, bytes) = followers.size();
    families.gauge("kafscale_follower_partitions", "Partitions that are followed now", views as f64)?;
    families.gauge("kafscale_follower_view_bytes", "About what followed partitions take in memory", bytes as f64)
}

fn groups(families: &mut Families<'_>, broker: &Broker) -> fmt::Result {
    let stats = broker.groups.stats();
    families.gauge("kafscale_groups", "Consumer groups, those without members included", load(&stats.groups) as f64)?;
    families.gauge("kafscale_group_members", "Members of consumer groups", load(&stats.members) as f64)?;
    families.counter("kafscale_group_writes", "Transactions with groups and their offsets", load(&stats.writes))?;
    families.counter("kafscale_group_keys_written", "Keys in these transactions", load(&stats.keys_written))
}

fn connections(families: &mut Families<'_>, context: &EdgeContext) -> fmt::Result {
    let stats = &context.edge.stats;
    let open = stats.connections_open.load(Ordering::Relaxed) as f64;
    families.gauge("kafscale_connections_open", "Open client connections", open)?;
    let unwritten = stats.reply_bytes.load(Ordering::Relaxed) as f64;
    families.gauge("kafscale_reply_bytes", "Bytes of replies that are ready but not written", unwritten)?;
    let budget = &context.edge.budget;
    let unanswered = budget.used_bytes() as f64;
    families.gauge(
        "kafscale_request_bytes",
        "Bytes of requests that are being read or not answered yet",
        unanswered,
    )?;
    families.counter("kafscale_request_waits", "Waits of connections for memory for a request", budget.waits())?;
    let counters = [
        ("kafscale_connections_accepted", "Client connections accepted", &stats.connections_accepted),
        (
            "kafscale_connections_refused",
            "Client connections refused because there were too many",
            &stats.connections_refused,
        ),
        ("kafscale_connections_stalled", "Connections closed because the peer stalled", &stats.connections_stalled),
        ("kafscale_accept_errors", "Failed accept calls", &stats.accept_errors),
        ("kafscale_network_in_bytes", "Bytes of requests read", &stats.bytes_in),
        ("kafscale_network_out_bytes", "Bytes of replies written", &stats.bytes_out),
        (
            "kafscale_protocol_errors",
            "Connections closed because of bytes that are no valid request",
            &stats.protocol_errors,
        ),
        ("kafscale_handler_panics", "Panics of request handlers", &stats.handler_panics),
        ("kafscale_throttled_replies", "Replies that asked the client to wait", &stats.throttles),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, load(value))?;
    }
    let throttle = load(&stats.throttle_ms) as f64 / 1e3;
    families.counter_f64("kafscale_throttle_seconds", "How long clients were asked to wait", throttle)?;
    let requests: Vec<_> = stats.requests().into_iter().map(|(key, n)| (format!("{key:?}"), n)).collect();
    let labels: Vec<[(&str, &str); 1]> = requests.iter().map(|(key, _)| [("api", key.as_str())]).collect();
    let values = labels.iter().zip(&requests).map(|(label, (_, n))| (&label[..], *n));
    families.counters("kafscale_requests", "Requests by API", values)
}

fn object_store(families: &mut Families<'_>, stats: &StoreStats) -> fmt::Result {
    let labels = OPS.map(|(_, name)| [("operation", name)]);
    let ops = OPS.map(|(op, _)| stats.op(op));
    let each = |value: fn(&OpStats) -> u64| labels.iter().zip(ops).map(move |(l, op)| (&l[..], value(op)));
    families.counters(
        "kafscale_s3_requests",
        "Requests to the object store, every attempt",
        each(|o| load(&o.calls)),
    )?;
    families.counters(
        "kafscale_s3_bytes",
        "Bytes sent to or received from the object store",
        each(|o| load(&o.bytes)),
    )?;
    let error_labels: Vec<[(&str, &str); 2]> = OPS
        .iter()
        .flat_map(|(_, operation)| ERROR_KINDS.map(|kind| [("operation", *operation), ("kind", kind)]))
        .collect();
    let errors = ops.iter().flat_map(|op| op.errors.iter().map(load));
    let values = error_labels.iter().map(|l| &l[..]).zip(errors);
    families.counters("kafscale_s3_errors", "Failed requests to the object store by kind", values)?;
    let outcome_labels: Vec<[(&str, &str); 2]> = OPS
        .iter()
        .flat_map(|(_, operation)| {
            ["success", "failure"].map(|outcome| [("operation", *operation), ("outcome", outcome)])
        })
        .collect();
    let samples = ops.iter().flat_map(|op| [op.succeeded.sample(), op.failed.sample()]);
    let samples = outcome_labels.iter().map(|l| &l[..]).zip(samples);
    let help = "Duration of requests to the object store, every attempt";
    families.histograms("kafscale_s3_request_duration_seconds", help, samples)
}

fn object_store_retries(families: &mut Families<'_>, stats: &RetryStats) -> fmt::Result {
    let counters = [
        ("kafscale_s3_retries", "Attempts after the first, hedges not included", &stats.retries),
        ("kafscale_s3_retries_denied", "Retries that the retry budget did not allow", &stats.retries_denied),
        ("kafscale_s3_hedges", "Second attempts sent while the first was under way", &stats.hedges),
        ("kafscale_s3_hedges_won", "Hedges that answered first", &stats.hedges_won),
        ("kafscale_s3_creates_resolved", "Failed PUTs that turned out to have succeeded", &stats.creates_resolved),
    ];
    counters.into_iter().try_for_each(|(name, help, value)| families.counter(name, help, load(value)))
}
