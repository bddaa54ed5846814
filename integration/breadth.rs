//! Many partitions on one broker, each with one record per second: memory stays bounded and no flush is missed.
//! CI: 1,000 partitions; `make breadth PARTITIONS=10000` is the full size.

use crate::client::Client;
use crate::harness::{Backend, Stack, quiet, size};
use crate::spread::Spread;
use std::time::Duration;

/// Resident memory of the broker with all partitions led and written to.
const RSS_BYTES_MAX: u64 = 1 << 30;
const PARTITIONS_PER_TOPIC: u64 = 500;
/// Every request is acked within this time from when it should have been sent. A flush takes the default interval and a
/// PUT; the rest is for a busy machine. A broker that falls behind fails by far more.
const ACK_MS_MAX: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_with_a_record_per_second_each() {
    let _quiet = quiet().await;
    let partitions = size("PARTITIONS", 1_000);
    let stack = Stack::start("breadth", Backend::S3, &[]).await;
    let mut client = Client::new(&stack.address());
    let topics: Vec<String> = (0..partitions.div_ceil(PARTITIONS_PER_TOPIC)).map(|n| format!("broad-{n}")).collect();
    for topic in &topics {
        client.ensure_topic(topic, PARTITIONS_PER_TOPIC as i32).await;
    }
    let seconds = size("DURATION_SEC", 10);
    let load = Spread {
        partitions_per_topic: PARTITIONS_PER_TOPIC as i32,
        connections: topics.len(),
        requests_per_s: partitions / 50,
        partitions_per_request: 50,
        value_bytes_per_request: 50 * 100,
        duration: Duration::from_secs(seconds),
        topics,
    };
    let outcome = load.run(&stack.address()).await;
    let rss_bytes = stack.broker.process.rss_peak_bytes();
    eprintln!(
        "{partitions} partitions, {} records acked in {seconds} s, ack p50 {} ms, p99 {} ms, max {} ms, peak RSS {} MiB",
        outcome.acked,
        outcome.percentile_ms(50.0),
        outcome.percentile_ms(99.0),
        outcome.percentile_ms(100.0),
        rss_bytes >> 20
    );
    assert_eq!((outcome.acked, outcome.failed), (partitions * seconds, 0), "code {}", outcome.last_code);
    assert!(outcome.percentile_ms(100.0) <= ACK_MS_MAX, "a flush was missed: {} ms", outcome.percentile_ms(100.0));
    assert!(rss_bytes <= RSS_BYTES_MAX, "{rss_bytes} bytes resident");
}
