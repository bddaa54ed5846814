//! Which numbers of brokers the console shows, and how they follow from two readings of their metrics.

use super::ring::Fold;
use crate::node::quantile;
use crate::web::exposition::{self, Numbers, Series};
use std::collections::BTreeMap;

const NONE: &[(&str, &str)] = &[];

const fn plain(name: &'static str) -> Series {
    Series { name, labels: NONE, without: NONE }
}

const fn with(name: &'static str, labels: &'static [(&'static str, &'static str)]) -> Series {
    Series { name, labels, without: NONE }
}

/// Numbers that are read, by the names that [`METRICS`] know them by.
pub const SCALARS: &[(&str, Series)] = &[
    ("bytes_in", plain("kafscale_network_in_bytes_total")),
    ("bytes_out", plain("kafscale_network_out_bytes_total")),
    ("records", plain("kafscale_flushed_records_total")),
    ("flushes", plain("kafscale_flushes_total")),
    ("flushed_bytes", plain("kafscale_flushed_bytes_total")),
    ("requests", plain("kafscale_requests_total")),
    ("s3_puts", with("kafscale_s3_requests_total", &[("operation", "create")])),
    ("s3_ranges", with("kafscale_s3_requests_total", &[("operation", "get_range")])),
    ("s3_suffixes", with("kafscale_s3_requests_total", &[("operation", "get_suffix")])),
    ("s3_heads", with("kafscale_s3_requests_total", &[("operation", "head")])),
    ("s3_deletes", with("kafscale_s3_requests_total", &[("operation", "delete")])),
    ("s3_lists", with("kafscale_s3_requests_total", &[("operation", "list")])),
    ("s3_throttled", with("kafscale_s3_errors_total", &[("kind", "throttled")])),
    ("s3_unavailable", with("kafscale_s3_errors_total", &[("kind", "unavailable")])),
    ("s3_refused", with("kafscale_s3_errors_total", &[("kind", "refused")])),
    ("s3_corrupt", with("kafscale_s3_errors_total", &[("kind", "corrupt")])),
    ("s3_healthy", with("kafscale_s3_health_state", &[("state", "healthy")])),
    ("s3_degraded", with("kafscale_s3_health_state", &[("state", "degraded")])),
    ("s3_down", with("kafscale_s3_health_state", &[("state", "unavailable")])),
    ("s3_state_sec", plain("kafscale_s3_state_duration_seconds")),
    ("connections", plain("kafscale_connections_open")),
    ("partitions", plain("kafscale_partitions_led")),
    ("restarts", plain("kafscale_actor_restarts_total")),
    ("hits", with("kafscale_cache_reads_total", &[("result", "hit")])),
    ("misses", with("kafscale_cache_reads_total", &[("result", "miss")])),
    ("groups", plain("kafscale_groups")),
    ("started_sec", plain("process_start_time_seconds")),
];

/// Histograms that are read.
pub const HISTOGRAMS: &[(&str, Series)] = &[
    ("produce", plain("kafscale_produce_ack_duration_seconds")),
    // A poll that waits for records is no slow one.
    ("fetch", Series { name: "kafscale_fetch_duration_seconds", labels: NONE, without: &[("source", "nothing")] }),
    ("durable", plain("kafscale_append_durable_duration_seconds")),
    ("commit", plain("kafscale_metadata_commit_duration_seconds")),
    ("s3_put", with("kafscale_s3_request_duration_seconds", &[("operation", "create"), ("outcome", "success")])),
];

/// How a metric is computed.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Growth of a sum of counters per second.
    Rate(&'static [&'static str]),
    /// A number as it is.
    Gauge(&'static str),
    /// Quantile of what was observed in between, ms.
    Quantile(&'static str, f64),
    /// Share of the first counter's growth of that of both.
    Share(&'static str, &'static str),
    /// 0, 1 or 2 for healthy, degraded, unavailable.
    S3State,
}

/// A metric of the history.
#[derive(Debug)]
pub struct Metric {
    /// Name in the API.
    pub name: &'static str,
    /// Unit in the API.
    pub unit: &'static str,
    /// For people.
    pub help: &'static str,
    /// How steps become one.
    pub fold: Fold,
    how: How,
}

const fn metric(name: &'static str, unit: &'static str, help: &'static str, how: How) -> Metric {
    let fold = match how {
        How::Quantile(..) | How::S3State => Fold::Max,
        How::Rate(_) | How::Gauge(_) | How::Share(..) => Fold::Mean,
    };
    Metric { name, unit, help, fold, how }
}

/// All metrics of the history.
pub const METRICS: &[Metric] = &[
    metric("bytes_in_per_sec", "bytes/s", "Bytes of requests of Kafka clients", How::Rate(&["bytes_in"])),
    metric("bytes_out_per_sec", "bytes/s", "Bytes of answers to Kafka clients", How::Rate(&["bytes_out"])),
    metric("records_in_per_sec", "records/s", "Records that became durable", How::Rate(&["records"])),
    metric("requests_per_sec", "requests/s", "Requests of Kafka clients", How::Rate(&["requests"])),
    metric("produce_p50_ms", "ms", "Produce until it is acked, median", How::Quantile("produce", 0.5)),
    metric("produce_p99_ms", "ms", "Produce until it is acked, 99th percentile", How::Quantile("produce", 0.99)),
    metric("fetch_p99_ms", "ms", "Fetch that got records, 99th percentile", How::Quantile("fetch", 0.99)),
    metric(
        "flush_p99_ms",
        "ms",
        "From a batch's arrival until it is durable, 99th percentile",
        How::Quantile("durable", 0.99),
    ),
    metric("s3_put_per_sec", "requests/s", "PUTs to the object store", How::Rate(&["s3_puts"])),
    metric("s3_get_per_sec", "requests/s", "GETs from the object store", How::Rate(&["s3_ranges", "s3_suffixes"])),
    metric("s3_get_range_per_sec", "requests/s", "GETs of a range of an object", How::Rate(&["s3_ranges"])),
    metric("s3_get_suffix_per_sec", "requests/s", "GETs of the end of an object", How::Rate(&["s3_suffixes"])),
    metric("s3_delete_per_sec", "requests/s", "DELETEs of objects", How::Rate(&["s3_deletes"])),
    metric("s3_head_per_sec", "requests/s", "HEADs to the object store", How::Rate(&["s3_heads"])),
    metric("s3_list_per_sec", "requests/s", "LISTs of the object store", How::Rate(&["s3_lists"])),
    metric("flushes_per_sec", "flushes/s", "Segments of the write-ahead log", How::Rate(&["flushes"])),
    metric("bytes_durable_per_sec", "bytes/s", "Bytes of records that became durable", How::Rate(&["flushed_bytes"])),
    metric("s3_p99_ms", "ms", "Successful PUTs, 99th percentile", How::Quantile("s3_put", 0.99)),
    metric(
        "s3_errors_per_sec",
        "errors/s",
        "Failed requests to the object store",
        How::Rate(&["s3_throttled", "s3_unavailable", "s3_refused", "s3_corrupt"]),
    ),
    metric("s3_state", "state", "Object store: 0 healthy, 1 degraded, 2 unavailable", How::S3State),
    metric("connections", "connections", "Open connections of Kafka clients", How::Gauge("connections")),
    metric("partitions_led", "partitions", "Partitions that the broker serves", How::Gauge("partitions")),
    metric("actor_restarts", "restarts", "Actors restarted since the process began", How::Gauge("restarts")),
    metric("etcd_commit_p99_ms", "ms", "Commits to etcd, 99th percentile", How::Quantile("commit", 0.99)),
    metric("cache_hit_ratio", "ratio", "Reads that the block cache answered", How::Share("hits", "misses")),
    metric("groups", "groups", "Consumer groups that the broker coordinates", How::Gauge("groups")),
];

/// Position of a metric in [`METRICS`].
pub fn position(name: &str) -> Option<usize> {
    METRICS.iter().position(|metric| metric.name == name)
}

/// What of [`METRICS`] follows from the readings `before` and `now`, `elapsed_sec` apart.
pub fn derive(before: Option<(&Numbers, f64)>, now: &Numbers) -> BTreeMap<&'static str, f64> {
    METRICS.iter().filter_map(|metric| Some((metric.name, value(metric.how, before, now)?))).collect()
}

fn value(how: How, before: Option<(&Numbers, f64)>, now: &Numbers) -> Option<f64> {
    let growth = |name: &str| {
        let (before, _) = before?;
        let (b, n) = (before.scalars.get(name).copied().unwrap_or(0.0), now.scalars.get(name)?);
        // Less than before: the process began anew, and nobody knows what it did in between.
        (*n >= b).then_some(n - b)
    };
    match how {
        How::Gauge(name) => now.scalars.get(name).copied(),
        How::Rate(names) => {
            let (_, elapsed_sec) = before.filter(|(_, elapsed_sec)| *elapsed_sec > 0.0)?;
            let grown: Option<f64> = names.iter().map(|name| growth(name)).sum();
            grown.map(|grown| grown / elapsed_sec)
        }
        How::Share(part, other) => {
            let (part, other) = (growth(part)?, growth(other)?);
            (part + other > 0.0).then(|| part / (part + other))
        }
        How::Quantile(name, share) => {
            let (before, _) = before?;
            let now = now.histograms.get(name)?;
            let between = match before.histograms.get(name) {
                Some(before) => exposition::observed(before, now)?,
                None => now.clone(),
            };
            quantile(&between, share).map(|sec| sec * 1e3)
        }
        How::S3State => {
            let states = ["s3_healthy", "s3_degraded", "s3_down"];
            let is = |name: &&str| now.scalars.get(name).is_some_and(|value| *value > 0.5);
            states.iter().position(is).map(|state| state as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::HistogramSample;

    fn numbers(scalars: &[(&'static str, f64)], produce: [u64; 2]) -> Numbers {
        let buckets = [0.1, f64::INFINITY].into_iter().zip(produce).collect();
        Numbers {
            scalars: scalars.iter().copied().collect(),
            histograms: BTreeMap::from([("produce", HistogramSample { sum: 0.0, buckets })]),
        }
    }

    #[test]
    fn rates_and_quantiles_are_of_the_time_in_between() {
        let before = numbers(&[("bytes_in", 100.0), ("s3_ranges", 5.0), ("hits", 1.0), ("misses", 1.0)], [90, 0]);
        let now = numbers(
            &[
                ("bytes_in", 300.0),
                ("s3_ranges", 7.0),
                ("s3_suffixes", 2.0),
                ("hits", 4.0),
                ("misses", 2.0),
                ("s3_degraded", 1.0),
            ],
            [100, 0],
        );
        let derived = derive(Some((&before, 10.0)), &now);
        assert_eq!(derived["bytes_in_per_sec"], 20.0);
        assert_eq!(derived["s3_get_per_sec"], 0.4);
        assert_eq!(derived["cache_hit_ratio"], 0.75);
        assert_eq!(derived["produce_p50_ms"], 50.0);
        assert_eq!(derived["s3_state"], 1.0);
        assert!(!derived.contains_key("connections"), "what the broker does not say is not known");
    }

    #[test]
    fn without_two_readings_of_one_process_there_are_no_rates() {
        let now = numbers(&[("bytes_in", 50.0), ("connections", 3.0)], [1, 0]);
        let derived = derive(None, &now);
        assert_eq!(derived, BTreeMap::from([("connections", 3.0)]));
        let before = numbers(&[("bytes_in", 100.0)], [9, 0]);
        assert_eq!(derive(Some((&before, 10.0)), &now), BTreeMap::from([("connections", 3.0)]));
        let idle = numbers(&[("bytes_in", 50.0)], [1, 0]);
        let derived = derive(Some((&idle, 10.0)), &now);
        assert_eq!(derived.get("bytes_in_per_sec"), Some(&0.0));
        assert!(!derived.contains_key("produce_p99_ms"), "nothing was produced: no latency is invented");
    }

    #[test]
    fn every_name_that_is_computed_with_is_read() {
        let scalar = |name: &&str| SCALARS.iter().any(|(key, _)| key == name);
        for metric in METRICS {
            let known = match metric.how {
                How::Rate(names) => names.iter().all(scalar),
                How::Gauge(name) => scalar(&name),
                How::Share(one, other) => scalar(&one) && scalar(&other),
                How::Quantile(name, _) => HISTOGRAMS.iter().any(|(key, _)| *key == name),
                How::S3State => true,
            };
            assert!(known, "{}", metric.name);
        }
    }
}
