//! Figures about the console that its documentation states: the first page of a long topic, many open pages, pages that nobody
//! reads, and the month of the operations guide's example.
//!
//! Small by default; `make console-proof` has them at full size. Times and shares of a core are printed, not asserted: they are the
//! machine's. Requests, memory and how often brokers are asked are the console's, and asserted.

use super::browser::{Browser, Events, until};
use super::process::{Console, beside};
use crate::client::{Batch, Client, check, topic_name};
use crate::cluster::{Cluster, leaders};
use crate::harness::{Backend, Stack, http, quiet, size, wait_until};
use crate::spread::Spread;
use bytes::Bytes;
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

const DEADLINE: Duration = Duration::from_secs(120);
/// Requests to the object store that the first page of a topic may take.
const FIRST_PAGE_REQUESTS_MAX: u64 = 8;
/// Memory that a browser which does not read may cost.
const STALLED_BYTES_MAX: u64 = 256 << 10;
/// What a browser that does not read takes from its socket by itself.
const RECEIVE_BYTES: u32 = 4 << 10;

async fn console(stack: &mut Stack, name: &str) -> Console {
    let etcd = stack.etcd().endpoint();
    Console::start(name, &[("KAFSCALE_CONSOLE_ETCD_ENDPOINTS", &etcd), ("KAFSCALE_S3_NAMESPACE", "test")]).await
}

/// Requests that read, as they reach the object store.
async fn reads(stack: &Stack) -> u64 {
    stack.proxy().count("GET requests").await + stack.proxy().count("HEAD requests").await
}

/// Waits until nothing is read for a while: a broker that begins, merges or cleans up reads, too.
async fn silence(stack: &Stack) -> u64 {
    let mut last = reads(stack).await;
    let mut same = 0;
    while same < 6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = reads(stack).await;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Fills a topic with batches of a MiB, 1 KiB each record.
async fn fill(address: &str, topic: &str, partitions: i32, mib: u64) {
    const VALUE: usize = 1_000;
    Client::new(address).ensure_topic(topic, partitions).await;
    let values: Vec<Vec<u8>> = (0..1_024_u32).map(|n| format!("{n:0>VALUE$}").into_bytes()).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let batch: Bytes = Batch::of(&values).encode();
    let batches = (mib / partitions as u64).max(1);
    let one = async |partition: i32| {
        let mut client = Client::new(address);
        for _ in 0..batches {
            client
                .retry("produce", async |c| {
                    let answer = c.produce(topic, partition, batch.clone()).await?;
                    check(answer.error_code)
                })
                .await;
        }
    };
    futures::future::join_all((0..partitions).map(one)).await;
}

/// Of topics of two sizes the first page takes as many requests, and few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes a GiB; run by `make console-proof`"]
async fn the_first_page_of_a_topic_takes_few_requests_however_long_it_is() {
    let _quiet = quiet().await;
    let (small, large, asked) = (size("SMALL_MIB", 64), size("LARGE_MIB", 1_024), size("FIRST_PAGES", 3));
    let partitions = size("PARTITIONS", 6) as i32;
    let mut stack = Stack::start("console-first-page", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "100")]).await;
    let console = console(&mut stack, "console-of-first-page").await;
    let viewer = console.viewer().await;
    for (topic, mib) in [("small", small), ("large", large)] {
        fill(&stack.address(), topic, partitions, mib).await;
    }
    // As far away as S3 is.
    stack.proxy().set("profile=std").await;
    for (topic, mib) in [("small", small), ("large", large)] {
        for begin in ["newest", "oldest"] {
            for _ in 0..asked {
                // After a start nothing is in the broker's memory.
                stack.broker.restart().await;
                let path = format!("/topics/{topic}/segments?limit=1");
                until(&viewer, "it is led", &path, |page| page["partial"] == json!([])).await;
                let summary = viewer.api(&path).await["summary"].clone();
                let before = silence(&stack).await;
                let at = kafscale::clock::monotonic();
                let page = viewer.api(&format!("/topics/{topic}/messages?from={begin}&limit=50")).await;
                let took = at.elapsed().as_secs_f64() * 1e3;
                let requests = reads(&stack).await - before;
                println!(
                    "{topic}: {mib} MiB in {partitions} partitions, {} objects; {begin} first page: {requests} requests to \
                     the object store, {took:.0} ms",
                    summary["objects"].as_str().unwrap_or("?"),
                );
                assert_eq!(page["items"].as_array().map(Vec::len), Some(50), "{page}");
                assert_eq!(page["partial"], json!([]));
                // Whoever begins at the oldest record has brokers read ahead, as any consumer does.
                assert!(begin == "oldest" || requests <= FIRST_PAGE_REQUESTS_MAX, "{requests} requests");
            }
        }
    }
}

/// A stream of which nothing is read.
async fn unread(browser: &Browser, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BYTES).expect("its buffer");
    let address = browser.address.parse().expect("host:port");
    let mut stream = socket.connect(address).await.expect("the console listens");
    browser.begin(&mut stream, path).await;
    stream
}

/// Bytes that wait in the system to be sent from a local port.
fn queued_bytes(address: &str) -> u64 {
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok())?;
        let queue = fields.get(4)?.split(':').next().and_then(|bytes| u64::from_str_radix(bytes, 16).ok())?;
        (local == port).then_some(queue)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

async fn scrapes(console: &Console) -> f64 {
    let page = http("GET", &console.address, "/metrics", "").await.expect("metrics");
    let line = page.lines().find(|line| line.starts_with("kafscale_console_scrapes_total "));
    line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse().ok()).expect("a counter")
}

struct Window {
    broker: f64,
    console: f64,
    scrapes: f64,
}

/// Percent of a core in this time.
async fn window(stack: &Stack, console: &Console, time: Duration) -> Window {
    let begin = kafscale::clock::monotonic();
    let before = (stack.broker.process.cpu_ms(), console.process.cpu_ms(), scrapes(console).await);
    tokio::time::sleep(time).await;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    Window {
        broker: (stack.broker.process.cpu_ms() - before.0) / ms * 100.0,
        console: (console.process.cpu_ms() - before.1) / ms * 100.0,
        scrapes: scrapes(console).await - before.2,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_open_pages_cost_the_broker_what_one_does() {
    let _quiet = quiet().await;
    let (pages, time) = (size("PAGES", 200) as usize, Duration::from_secs(size("PAGES_SEC", 6)));
    let mut stack = Stack::start("console-pages", Backend::S3, &[]).await;
    let console = console(&mut stack, "console-of-pages").await;
    let viewer = console.viewer().await;
    until(&viewer, "the broker is read", "/overview", |o| o["s3"]["state"] == "healthy").await;
    // When nobody has looked for a while brokers are read every 10 s.
    tokio::time::sleep(Duration::from_secs(size("SETTLE_SEC", 0))).await;
    let none = window(&stack, &console, time).await;
    let mut open: Vec<Events> = Vec::with_capacity(pages);
    for _ in 0..pages {
        open.push(viewer.events("/api/v1/live", &[]).await);
    }
    for events in &mut open {
        while events.next().await.expect("it goes on").name != "tick" {}
    }
    let readers: Vec<_> = open
        .into_iter()
        .map(|mut events| tokio::spawn(async move { while events.next().await.is_some() {} }))
        .collect();
    let many = window(&stack, &console, time).await;
    readers.iter().for_each(|reader| reader.abort());
    println!(
        "{pages} open pages, {:.0} s each: broker {:.2}% of a core without, {:.2}% with them ({:+.2}); console {:.2}% and \
         {:.2}%; the broker was read {:.0} and {:.0} times",
        time.as_secs_f64(),
        none.broker,
        many.broker,
        many.broker - none.broker,
        none.console,
        many.console,
        none.scrapes,
        many.scrapes,
    );
    // Every 2 s, however many look.
    assert!(many.scrapes <= time.as_secs_f64() / 2.0 + 2.0, "{}", many.scrapes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_does_not_read_costs_little() {
    let _quiet = quiet().await;
    let (stalled, time) = (size("STALLED", 50), Duration::from_secs(size("STALLED_SEC", 5)));
    let mut stack = Stack::start("console-stalled", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "100")]).await;
    let console = console(&mut stack, "console-of-stalled").await;
    let viewer = console.viewer().await;
    const PARTITIONS: i32 = 6;
    Client::new(&stack.address()).ensure_topic("t", PARTITIONS).await;
    let load = |duration| Spread {
        topics: vec!["t".into()],
        partitions_per_topic: PARTITIONS,
        connections: 1,
        requests_per_s: 50,
        partitions_per_request: 3,
        value_bytes_per_request: 30_000,
        duration,
    };
    let address = stack.address();
    let enough = time * 3 + Duration::from_secs(20);
    let writing = tokio::spawn(async move { load(enough).run(&address).await });
    // What any console needs for its first pages is nobody's share.
    for path in ["/api/v1/live", "/api/v1/topics/t/tail"] {
        let mut events = viewer.events(path, &[]).await;
        for _ in 0..3 {
            events.next().await.expect("it goes on");
        }
    }
    for path in ["/api/v1/live", "/api/v1/topics/t/tail"] {
        // As many before: threads and what their allocator keeps are there then, and what is left grows with browsers.
        let mut open = Vec::new();
        for _ in 0..stalled {
            open.push(unread(&viewer, path).await);
        }
        tokio::time::sleep(time).await;
        let (rss, queued) = (console.process.rss_bytes(), queued_bytes(&console.address));
        for _ in 0..stalled {
            open.push(unread(&viewer, path).await);
        }
        tokio::time::sleep(time).await;
        let own = console.process.rss_bytes().saturating_sub(rss) / stalled;
        let system = queued_bytes(&console.address).saturating_sub(queued) / stalled;
        println!(
            "{path}: {stalled} more browsers that do not read, after {:.0} s: {} KiB of the console's memory and {} KiB that wait \
             in the system, each",
            time.as_secs_f64(),
            own >> 10,
            system >> 10,
        );
        assert!(own + system <= STALLED_BYTES_MAX, "{own} and {system} bytes");
        drop(open);
        until(&viewer, "they are gone", "/settings", |_| true).await;
    }
    writing.abort();
}

async fn topic_on(address: &str, name: &str, broker: i32, partitions: i32) {
    let assignment =
        |n| CreatableReplicaAssignment::default().with_partition_index(n).with_broker_ids(vec![broker.into()]);
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments((0..partitions).map(assignment).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let mut client = Client::new(address);
    client
        .retry("the topic is created", async |c| {
            let answer = c.call(7, &request).await?;
            answer.topics.iter().filter(|t| t.error_code != 36).try_for_each(|t| check(t.error_code))
        })
        .await;
}

/// The guide's example, 100 GB a day and seven days on three brokers, at its own rate: the console's month and how it follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "eleven minutes; run by `make console-proof`"]
async fn the_month_of_the_guides_example_follows_from_requests_that_were_counted() {
    const PARTITIONS: i32 = 4;
    const BYTES_PER_DAY: f64 = 100e9;
    let _quiet = quiet().await;
    let time = Duration::from_secs(size("DURATION_SEC", 660));
    let mut cluster = Cluster::start("console-guide", "500").await;
    let console = beside(&mut cluster, "console-of-guide").await;
    let viewer = console.viewer().await;
    let addresses = cluster.addresses();
    for broker in 1..=3 {
        let name = format!("day-{broker}");
        topic_on(&addresses[0], &name, broker, PARTITIONS).await;
        wait_until("each broker leads its topic", DEADLINE, async || {
            let led = leaders(&addresses[0], &name).await;
            led.len() == 1 && led.get(&broker).is_some_and(|led| led.len() == PARTITIONS as usize)
        })
        .await;
    }
    cluster.stack.proxy().set("profile=std").await;
    let counted = |kind| cluster.stack.proxy().count(kind);
    let puts = counted("PUT requests").await;
    let loads: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(n, address)| {
            let load = Spread {
                topics: vec![format!("day-{}", n + 1)],
                partitions_per_topic: PARTITIONS,
                connections: 1,
                requests_per_s: 4,
                partitions_per_request: PARTITIONS as usize,
                value_bytes_per_request: (BYTES_PER_DAY / 86_400.0 / 3.0 / 4.0) as usize,
                duration: time,
            };
            let address = address.clone();
            tokio::spawn(async move { load.run(&address).await })
        })
        .collect();
    // The window is the load's, without its first and last seconds.
    tokio::time::sleep(time.saturating_sub(Duration::from_secs(5))).await;
    let window_sec = (time.as_secs() - 30) / 10 * 10;
    let estimate =
        json!({ "window_sec": window_sec, "what_if": { "mb_per_day": 100_000.0, "retention_ms": 604_800_000.0 } });
    let answer = viewer.post("/cost/estimate", &estimate).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let cost: Value = answer.json();
    for load in loads {
        assert_eq!(load.await.expect("the load ends").failed, 0);
    }
    println!("the proxy before the object store counted {} PUTs", counted("PUT requests").await - puts);
    println!("measured: {}", cost["measured"]);
    for (name, lines) in
        [("as measured", &cost["calculation"]), ("100 GB a day, 7 days", &cost["what_if"]["calculation"])]
    {
        println!("{name}:");
        for line in lines.as_array().into_iter().flatten() {
            println!("  {}", line.as_str().unwrap_or_default());
        }
    }
    let what_if = &cost["what_if"];
    println!(
        "per month: requests ${:.2}, storage ${:.2}, together ${:.2}",
        what_if["requests"].as_f64().expect("dollars"),
        what_if["storage"].as_f64().expect("dollars"),
        what_if["total"].as_f64().expect("dollars"),
    );
    assert_eq!(cost["partial"], json!([]));
}
