//! What a flush costs does not depend on how many partitions it carries: PUTs and etcd writes at one and at many active
//! partitions, with the same bytes per second. CI: 200 partitions; `make cost PARTITIONS=2000` is the full size.

use crate::client::Client;
use crate::harness::{Backend, Stack, quiet, size};
use crate::spread::Spread;
use std::time::Duration;

/// How much dearer many partitions may be.
const RATIO_MAX: f64 = 1.1;
/// Comparisons, of which one must be good.
const ATTEMPTS_MAX: u32 = 3;
const REQUESTS_PER_S: u64 = 20;
const VALUE_BYTES_PER_REQUEST: usize = 32 * 1024;

#[derive(Debug)]
struct Cost {
    puts_per_s: f64,
    etcd_writes_per_s: f64,
}

async fn measure(stack: &mut Stack, topic: &str, partitions: i32, window: Duration) -> Cost {
    let address = stack.address();
    Client::new(&address).ensure_topic(topic, partitions).await;
    let mut load = Spread {
        topics: vec![topic.into()],
        partitions_per_topic: partitions,
        connections: 1,
        requests_per_s: REQUESTS_PER_S,
        partitions_per_request: (partitions as usize).div_ceil(REQUESTS_PER_S as usize), // each partition once a second
        value_bytes_per_request: VALUE_BYTES_PER_REQUEST,
        duration: Duration::from_secs(5),
    };
    load.run(&address).await; // uses up the burst of the flush budget, and claims every partition
    let started = kafscale::clock::monotonic();
    let (puts, revision) = (stack.proxy().count("PUT requests").await, stack.etcd().revision().await);
    load.duration = window;
    let outcome = load.run(&address).await;
    let (puts, revision) = (stack.proxy().count("PUT requests").await - puts, stack.etcd().revision().await - revision);
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(outcome.failed, 0, "code {}", outcome.last_code);
    assert!(puts > 0 && revision > 0, "{puts} PUTs and {revision} etcd writes: nothing was counted");
    let cost = Cost { puts_per_s: puts as f64 / seconds, etcd_writes_per_s: revision as f64 / seconds };
    eprintln!("{partitions} active partitions, {} batches in {seconds:.1} s: {cost:.2?}", outcome.acked);
    cost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_etcd_writes_do_not_grow_with_partitions() {
    let _quiet = quiet().await;
    let partitions = size("PARTITIONS", 200) as i32;
    let window = Duration::from_secs(size("DURATION_SEC", 15));
    // A short interval gives enough flushes in a short window for one more or less not to matter.
    let mut stack = Stack::start("cost", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "100")]).await;
    // A moment in which something else took the machine spoils one comparison, not all of them.
    for attempt in 1.. {
        let one = measure(&mut stack, "one", 1, window).await;
        let many = measure(&mut stack, "many", partitions, window).await;
        let put_ratio = many.puts_per_s / one.puts_per_s;
        let etcd_ratio = many.etcd_writes_per_s / one.etcd_writes_per_s;
        eprintln!("{partitions} partitions to 1: {put_ratio:.3} times the PUTs, {etcd_ratio:.3} times the etcd writes");
        if put_ratio <= RATIO_MAX && etcd_ratio <= RATIO_MAX {
            return;
        }
        assert!(attempt < ATTEMPTS_MAX, "PUTs {put_ratio:.3}, etcd writes {etcd_ratio:.3}");
    }
}
