//! What a workload costs on S3: requests are counted on their way to the S3 server, and multiplied by prices that are stated
//! here. `make cost-page` measures for eleven minutes, long enough for merging and checkpoints, and prints what
//! `docs/cost.md` shows; with every test run it is done for a few seconds.

use crate::client::{Client, LATEST};
use crate::harness::{Backend, Stack, quiet, size};
use crate::spread::Spread;
use std::time::Duration;

/// The example: bytes per day, days kept, brokers.
const BYTES_PER_DAY: f64 = 100e9;
const RETENTION_DAYS: f64 = 7.0;
const BROKERS: f64 = 3.0;
/// S3 Standard in us-east-1: dollars per 1,000 requests, and per GB (10^9 bytes) and month.
const DOLLARS_PER_1000_PUTS: f64 = 0.005;
const DOLLARS_PER_1000_GETS: f64 = 0.0004;
const DOLLARS_PER_GB_MONTH: f64 = 0.023;
const HOURS_PER_MONTH: f64 = 30.0 * 24.0;
const GIB: f64 = (1u64 << 30) as f64;

const PARTITIONS: i32 = 12;
const REQUESTS_PER_S: u64 = 12;
/// Each request carries records of so many partitions.
const PARTITIONS_PER_REQUEST: usize = 4;
/// As the proxy tells them apart; a HEAD is charged like a GET and counted as one, a DELETE is free.
const KINDS: [&str; 4] = ["PUT", "GET", "LIST", "DELETE"];

/// What one broker did.
#[derive(Debug)]
struct Measured {
    interval_ms: &'static str,
    seconds: f64,
    requests: [u64; KINDS.len()],
    /// GETs of a consumer that read everything again from S3.
    catch_up_gets: u64,
    ingested_bytes: f64,
    rewritten_bytes: f64,
}

impl Measured {
    fn per_hour(&self, kind: usize) -> f64 {
        self.requests[kind] as f64 * 3_600.0 / self.seconds
    }

    /// Dollars per month of all brokers: storage, PUTs and LISTs, GETs, and GETs of one consumer that reads everything from S3.
    fn dollars(&self) -> [f64; 4] {
        let month = |per_hour: f64| per_hour * HOURS_PER_MONTH * BROKERS / 1_000.0;
        let catch_up_per_month = self.catch_up_gets as f64 / self.ingested_bytes * BYTES_PER_DAY * 30.0 / 1_000.0;
        [
            BYTES_PER_DAY / 1e9 * RETENTION_DAYS * DOLLARS_PER_GB_MONTH,
            (month(self.per_hour(0)) + month(self.per_hour(2))) * DOLLARS_PER_1000_PUTS,
            month(self.per_hour(1)) * DOLLARS_PER_1000_GETS,
            catch_up_per_month * DOLLARS_PER_1000_GETS,
        ]
    }

    fn print(&self) {
        let gib = self.ingested_bytes / GIB;
        eprintln!("\nKAFSCALE_FLUSH_INTERVAL_MS={}, one of {BROKERS} brokers, {:.0} s", self.interval_ms, self.seconds);
        eprintln!(
            "  ingested {gib:.3} GiB; {:.2} bytes rewritten per byte",
            self.rewritten_bytes / self.ingested_bytes
        );
        for (kind, name) in KINDS.iter().enumerate() {
            let per_gib = self.requests[kind] as f64 / gib;
            eprintln!(
                "  {name}: {} counted, {:.0} per hour, {per_gib:.0} per GiB",
                self.requests[kind],
                self.per_hour(kind)
            );
        }
        eprintln!("  GET of a consumer that reads everything from S3: {:.0} per GiB", self.catch_up_gets as f64 / gib);
        let [storage, puts, gets, catch_up] = self.dollars();
        let sum = storage + puts + gets + catch_up;
        eprintln!(
            "  per month, {BROKERS} brokers: storage ${storage:.2}, PUT and LIST ${puts:.2}, GET and HEAD ${gets:.2},"
        );
        eprintln!("  that consumer ${catch_up:.2}; together ${sum:.2}");
    }
}

async fn counts(stack: &Stack) -> [u64; KINDS.len()] {
    let mut counted = [0; KINDS.len()];
    for (kind, count) in KINDS.iter().zip(&mut counted) {
        *count = stack.proxy().count(&format!("{kind} requests")).await;
    }
    counted
}

async fn measure(interval_ms: &'static str, window: Duration) -> Measured {
    let name = format!("cost-page-{interval_ms}");
    let mut stack = Stack::start(&name, Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", interval_ms)]).await;
    stack.proxy().set("profile=std").await;
    let address = stack.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", PARTITIONS).await;
    let bytes_per_s = BYTES_PER_DAY / BROKERS / 86_400.0;
    let load = Spread {
        topics: vec!["t".into()],
        partitions_per_topic: PARTITIONS,
        connections: 1,
        requests_per_s: REQUESTS_PER_S,
        partitions_per_request: PARTITIONS_PER_REQUEST,
        value_bytes_per_request: (bytes_per_s / REQUESTS_PER_S as f64) as usize,
        duration: window,
    };
    let started = kafscale::clock::monotonic();
    let before = counts(&stack).await;
    let outcome = load.run(&address).await;
    assert_eq!(outcome.failed, 0, "code {}", outcome.last_code);
    // Consumers that keep up are served from memory.
    for partition in 0..PARTITIONS {
        let end = client.retry("end", async |c| c.list_offset("t", partition, LATEST).await).await;
        client.fetch("t", partition, end - 1, 0, 1 << 20).await.expect("the newest record");
    }
    let after = counts(&stack).await;
    let seconds = started.elapsed().as_secs_f64();
    let requests = std::array::from_fn(|kind| after[kind] - before[kind]);
    let ingested_bytes = stack.broker.metric_sum("kafscale_flushed_bytes").await.expect("a metric");
    let rewritten = ["kafscale_merged_bytes", "kafscale_compacted_bytes"];
    let mut rewritten_bytes = 0.0;
    for metric in rewritten {
        rewritten_bytes += stack.broker.metric_sum(metric).await.expect("a metric");
    }
    // After a restart nothing is in memory.
    stack.broker.restart().await;
    let cold = stack.proxy().count("GET requests").await;
    for partition in 0..PARTITIONS {
        assert!(!client.read_all("t", partition).await.is_empty());
    }
    let catch_up_gets = stack.proxy().count("GET requests").await - cold;
    Measured { interval_ms, seconds, requests, catch_up_gets, ingested_bytes, rewritten_bytes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_example_of_the_operations_guide_costs() {
    let _quiet = quiet().await;
    let window = Duration::from_secs(size("DURATION_SEC", 15));
    let (default, rare) = tokio::join!(measure("500", window), measure("10000", window));
    let machine = std::process::Command::new("sh").args(["-c", "date -u +%F; uname -srm; nproc"]).output();
    let machine = String::from_utf8_lossy(&machine.expect("a shell").stdout).lines().collect::<Vec<_>>().join(", ");
    eprintln!("{machine} cores; {:.0} GB per day, {RETENTION_DAYS} days, {BROKERS} brokers", BYTES_PER_DAY / 1e9);
    default.print();
    rare.print();
    // One PUT per interval of which few are sent twice, a burst at the start, and what maintenance writes: all partitions
    // are looked at every 15 s, and one of four is worth a merge then.
    let maintenance = |m: &Measured| m.seconds / 15.0 * f64::from(PARTITIONS) / 2.0;
    let allowed = |m: &Measured, interval_s: f64| (m.seconds / interval_s * 1.1 + maintenance(m)) as u64 + 40;
    assert!(default.requests[0] > 0 && default.requests[0] <= allowed(&default, 0.5), "{default:?}");
    assert!(rare.requests[0] > 0 && rare.requests[0] <= allowed(&rare, 10.0), "{rare:?}");
    assert!(default.catch_up_gets > 0, "{default:?}");
}
