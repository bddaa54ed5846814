//! What the broker costs and how fast it is: `make bench`, or `cargo bench --bench load -- --help`.
//!
//! Every row is one workload on a fresh broker with fresh stores, over loopback on this machine. MB are 10^6 bytes of
//! values. CPU is user and system time of the broker process (in brackets: with etcd and the S3 server). Latencies count
//! from when a record was due, so that a broker that stalls is charged for what it held back. PUT times are the proxy's.

// A load generator is its own process with its own threads and clock.
#![allow(clippy::disallowed_methods, dead_code)]

#[path = "../../integration/client.rs"]
mod client;
mod consumer;
#[path = "../../integration/harness.rs"]
mod harness;
#[path = "../../integration/process.rs"]
mod process;
mod producer;

use clap::Parser;
use client::{Batch, Client};
use harness::{Backend, Stack, TestDir};
use hdrhistogram::Histogram;
use kafscale::clock::monotonic;
use producer::{Load, Meter, VALUE_BYTES};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

const TOPIC: &str = "bench";
/// Values per second of the fixed-rate workloads: 5 MB/s.
const RATE_RECORDS_PER_S: f64 = 5e6 / VALUE_BYTES as f64;
const RATE_PARTITIONS: usize = 4;
const WARM_UP: Duration = Duration::from_secs(3);

/// Where the broker keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Store {
    /// `kafscale dev`: a folder and a redb file, with fsync.
    Dev,
    /// S3 server and etcd on this machine, nothing added.
    S3,
    /// The same, with latency as of S3 Standard (PUT p50 65 ms, p99 220 ms).
    Std,
    /// The same, with latency as of S3 Express One Zone (PUT p50 7 ms, p99 20 ms).
    Express,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Workload {
    /// One producer, one partition, five requests of 1 MB in flight.
    Full,
    /// 5 MB/s over four partitions, linger 5 ms.
    Rate,
    /// The same with one tailing consumer.
    Tail,
    /// A single record now and then.
    Sporadic,
}

#[derive(Debug, Parser)]
struct Args {
    /// Seconds measured per workload, after a warm-up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Stores.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Store::Dev, Store::S3, Store::Std, Store::Express])]
    stores: Vec<Store>,
    /// Workloads.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_values_t = [Workload::Rate, Workload::Tail, Workload::Sporadic, Workload::Full]
    )]
    workloads: Vec<Workload>,
    /// `KAFSCALE_FLUSH_INTERVAL_MS`, one or several; only the fixed-rate workloads are repeated for each.
    #[arg(long, value_delimiter = ',', default_values_t = [500, 50])]
    intervals_ms: Vec<u64>,
    /// MB of memory that are written to before each row, so that the machine has them; 0 to measure with what there is.
    #[arg(long, default_value_t = 2_000)]
    touch_mb: usize,
    /// Further variables of the broker, `NAME=VALUE`.
    #[arg(long)]
    env: Vec<String>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    store: String,
    workload: String,
    interval_ms: u64,
    mb_per_s: f64,
    ack: Histogram<u64>,
    end_to_end: Option<Histogram<u64>>,
    /// What an ack took beyond the one PUT that it waited for.
    beyond_put: Option<Histogram<u64>>,
    cpu_ms: f64,
    all_cpu_ms: f64,
    mb: f64,
    rss_peak_bytes: u64,
    puts: u64,
    gets: u64,
    etcd_writes: u64,
    seconds: f64,
}

/// Counters at one moment.
struct Snapshot {
    cpu_ms: f64,
    all_cpu_ms: f64,
    puts: u64,
    gets: u64,
    revision: u64,
    at: tokio::time::Instant,
}

async fn snapshot(stack: &mut Stack) -> Snapshot {
    let cpu_ms = stack.broker.process.cpu_ms();
    let at = monotonic();
    let (mut all_cpu_ms, mut puts, mut gets, mut revision) = (cpu_ms, 0, 0, 0);
    if let (Some(s3), Some(etcd), Some(proxy)) = (&stack.s3, &stack.etcd, &stack.proxy) {
        all_cpu_ms += s3.process.cpu_ms() + etcd.process.cpu_ms();
        puts = proxy.count("PUT requests").await;
        gets = proxy.count("GET requests").await;
        revision = etcd.revision().await;
    }
    Snapshot { cpu_ms, all_cpu_ms, puts, gets, revision, at }
}

/// The row, and the folder that was used.
async fn measure(args: &Args, store: Store, workload: Workload, interval_ms: u64) -> (Row, TestDir) {
    let backend = if store == Store::Dev { Backend::Dev } else { Backend::S3 };
    let interval = interval_ms.to_string();
    let mut envs = vec![("KAFSCALE_FLUSH_INTERVAL_MS", interval.as_str())];
    envs.extend(args.env.iter().map(|e| e.split_once('=').expect("--env takes NAME=VALUE")));
    // The disk below the S3 server and etcd is not what is measured; that of the embedded store is.
    let memory = Path::new("/dev/shm");
    let in_memory = backend == Backend::S3 && memory.is_dir();
    let dir = if in_memory { TestDir::new_in("bench", memory) } else { TestDir::new("bench") };
    let mut stack = Stack::start_in(dir, backend, &envs).await;
    if let Some(profile) = [(Store::Std, "std"), (Store::Express, "express")].iter().find(|(s, _)| *s == store) {
        stack.proxy().set(&format!("profile={}", profile.1)).await;
    }
    let partitions = if matches!(workload, Workload::Rate | Workload::Tail) { RATE_PARTITIONS } else { 1 };
    let mut client = Client::new(&stack.address());
    client.ensure_topic(TOPIC, partitions as i32).await;
    let mut row = match workload {
        Workload::Sporadic => sporadic(args, &mut stack, &mut client).await,
        _ => sustained(args, &mut stack, &mut client, workload, partitions).await,
    };
    row.rss_peak_bytes = stack.broker.process.rss_peak_bytes();
    row.store = format!("{store:?}").to_lowercase();
    row.workload = format!("{workload:?}").to_lowercase();
    row.interval_ms = interval_ms;
    (row, stack.dir)
}

fn row(before: &Snapshot, after: &Snapshot, records: u64, ack: Histogram<u64>) -> Row {
    let seconds = (after.at - before.at).as_secs_f64();
    let mb = records as f64 * VALUE_BYTES as f64 / 1e6;
    Row {
        store: String::new(),
        workload: String::new(),
        interval_ms: 0,
        mb_per_s: mb / seconds,
        ack,
        end_to_end: None,
        beyond_put: None,
        cpu_ms: after.cpu_ms - before.cpu_ms,
        all_cpu_ms: after.all_cpu_ms - before.all_cpu_ms,
        mb,
        rss_peak_bytes: 0,
        puts: after.puts - before.puts,
        gets: after.gets - before.gets,
        etcd_writes: after.revision - before.revision,
        seconds,
    }
}

async fn sustained(args: &Args, stack: &mut Stack, client: &mut Client, workload: Workload, partitions: usize) -> Row {
    let meter = Meter::new(partitions);
    let load = Load {
        address: stack.address(),
        topic: TOPIC.into(),
        partitions,
        records_per_s: (workload != Workload::Full).then_some(RATE_RECORDS_PER_S),
        producer: client.retry("init producer id", async |c| c.init_producer_id().await).await,
    };
    let (address, consumer_meter) = (stack.address(), meter.clone());
    let consumer = (workload == Workload::Tail)
        .then(|| std::thread::spawn(move || consumer::run(&address, TOPIC, &consumer_meter)));
    let producer_meter = meter.clone();
    let producer = std::thread::spawn(move || producer::run(load, producer_meter));
    tokio::time::sleep(WARM_UP).await;
    let before = snapshot(stack).await;
    let records = meter.records.load(Ordering::Relaxed);
    meter.measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = snapshot(stack).await;
    let records = meter.records.load(Ordering::Relaxed) - records;
    meter.measuring.store(false, Ordering::Relaxed);
    meter.stop.store(true, Ordering::Relaxed);
    let ack = producer.join().expect("the producer ends well");
    let mut row = row(&before, &after, records, ack);
    row.end_to_end = consumer.map(|c| c.join().expect("the consumer ends well"));
    row
}

/// PUTs and the time they took in the S3 server and the proxy, µs.
async fn put_times(stack: &Stack) -> (u64, u64) {
    match &stack.proxy {
        Some(proxy) => (proxy.count("PUT requests").await, proxy.count("PUT time_us").await),
        None => (0, 0),
    }
}

/// Single records at random times, so far apart that the flush budget is never used up.
async fn sporadic(args: &Args, stack: &mut Stack, client: &mut Client) -> Row {
    let batch = Batch::of(&[&[7; VALUE_BYTES]]).encode();
    let mut ack = producer::histogram();
    for _ in 0..3 {
        client.produce(TOPIC, 0, batch.clone()).await.expect("broker answers");
    }
    let mut beyond_put = producer::histogram();
    let before = snapshot(stack).await;
    let end = before.at + Duration::from_secs(args.seconds.max(10));
    while monotonic() < end {
        tokio::time::sleep(Duration::from_millis(500 + kafscale::rng::u64() % 200)).await;
        let puts = put_times(stack).await;
        let sent = monotonic();
        let answer = client.produce(TOPIC, 0, batch.clone()).await.expect("broker answers");
        let ack_us = sent.elapsed().as_micros() as u64;
        assert_eq!(answer.error_code, 0, "Produce was answered with an error");
        ack.saturating_record(ack_us);
        let puts_after = put_times(stack).await;
        if puts_after.0 == puts.0 + 1 {
            beyond_put.saturating_record(ack_us.saturating_sub(puts_after.1 - puts.1));
        }
    }
    let after = snapshot(stack).await;
    let records = ack.len();
    let beyond_put = (!beyond_put.is_empty()).then_some(beyond_put);
    Row { beyond_put, ..row(&before, &after, records, ack) }
}

fn quantiles(histogram: &Histogram<u64>) -> String {
    let ms = |q: f64| histogram.value_at_quantile(q) as f64 / 1000.0;
    format!("{:.1} / {:.1} / {:.1}", ms(0.5), ms(0.99), ms(0.999))
}

fn print_row(row: &Row) {
    let per_mb = |cpu: f64| if row.workload == "sporadic" { "–".into() } else { format!("{:.2}", cpu / row.mb) };
    let end_to_end = row.end_to_end.as_ref().map_or("–".into(), quantiles);
    let beyond_put = row.beyond_put.as_ref().map_or("–".into(), quantiles);
    println!(
        "| {} | {} | {} | {:.1} | {} | {} | {} | {} ({}) | {} | {:.1} | {:.1} | {:.1} |",
        row.store,
        row.workload,
        row.interval_ms,
        row.mb_per_s,
        quantiles(&row.ack),
        beyond_put,
        end_to_end,
        per_mb(row.cpu_ms),
        per_mb(row.all_cpu_ms),
        row.rss_peak_bytes >> 20,
        row.puts as f64 / row.seconds,
        row.gets as f64 / row.seconds,
        row.etcd_writes as f64 / row.seconds,
    );
}

/// What the generator itself can do, against a server that does nothing.
fn client_ceiling(seconds: u64) -> (f64, f64) {
    let meter = Meter::new(1);
    let address = producer::null_server();
    let load = Load { address, topic: TOPIC.into(), partitions: 1, records_per_s: None, producer: (1, 0) };
    let producer_meter = meter.clone();
    let producer = std::thread::spawn(move || producer::run(load, producer_meter));
    let (started, cpu) = (monotonic(), process::cpu_ms(std::process::id()));
    std::thread::sleep(Duration::from_secs(seconds));
    let mb = meter.records.load(Ordering::Relaxed) as f64 * VALUE_BYTES as f64 / 1e6;
    let result = (mb / started.elapsed().as_secs_f64(), (process::cpu_ms(std::process::id()) - cpu) / mb);
    meter.stop.store(true, Ordering::Relaxed);
    producer.join().expect("the producer ends well");
    result
}

fn machine() -> String {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or("").to_string();
        line.split(':').nth(1).unwrap_or("").trim().to_string()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{cores} cores of {}, {} memory, Linux {}, load average at the start {}",
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("?"),
    )
}

/// Writes to `mb` MB of memory and gives them back. In a virtual machine the first write to a page that the host has not
/// backed yet costs the guest up to 2 ms of CPU per MB (`clear_page` in a profile), twenty times as much as later ones; a
/// broker whose caches are filling would be charged for it.
fn touch_memory(mb: usize) {
    let mut memory = vec![0u8; mb * 1_000_000];
    memory.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

fn main() {
    let args = Args::parse();
    let date = std::process::Command::new("date").arg("+%F").output().map(|o| o.stdout).unwrap_or_default();
    let date = String::from_utf8_lossy(&date).trim().to_string();
    println!("{}; {date}; {} s per row\n", machine(), args.seconds);
    let (ceiling, client_cpu) = client_ceiling(args.seconds.min(5));
    println!(
        "The producer alone sends {ceiling:.0} MB/s at {client_cpu:.2} CPU ms/MB (to a server that does nothing).\n"
    );
    println!(
        "| store | workload | interval ms | MB/s | ack p50 / p99 / p99.9 ms | ack beyond its PUT ms | end to end ms | CPU ms/MB (all) | RSS MiB | \
         PUT/s | GET/s | etcd writes/s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("runtime starts");
    // Removing many files makes creating some dearer for a while, on some file systems for minutes: that waits for the end.
    let mut used = Vec::new();
    for store in args.stores.iter().copied() {
        for workload in &args.workloads {
            let repeated = matches!(workload, Workload::Rate | Workload::Tail);
            for interval_ms in args.intervals_ms.iter().take(if repeated { usize::MAX } else { 1 }) {
                touch_memory(args.touch_mb);
                let (row, dir) = runtime.block_on(measure(&args, store, *workload, *interval_ms));
                print_row(&row);
                used.extend((*workload != Workload::Full).then_some(dir)); // much larger than the others
            }
        }
    }
}
