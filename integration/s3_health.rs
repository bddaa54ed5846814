//! S3 gets slow, fails and heals: the broker slows producers down, refuses them, and takes them again, and other people's
//! producers with their defaults come through all of it without losing a record.

use crate::client::{Batch, Client, Connection, PRODUCE_VERSION, produce_request};
use crate::clients::java_options;
use crate::harness::{Backend, Stack, http, quiet, size, wait_until};
use kafka_protocol::messages::ProduceResponse;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long the state may take to become what it should be.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long a producer may take to deliver what is left at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(120);
/// Pause of a producer between two lines.
const PAUSE: Duration = Duration::from_millis(20);
/// Kafka's NOT_ENOUGH_REPLICAS: refused, nothing was written.
const REFUSED: i16 = 19;

/// The gauge that says how S3 is.
async fn state(stack: &Stack) -> &'static str {
    let samples = stack.broker.metrics().await;
    let is = |state: &&&str| {
        let name = format!("kafscale_s3_health_state{{state=\"{state}\"}}");
        samples.iter().any(|(n, value)| *n == name && *value == 1.0)
    };
    ["healthy", "degraded", "unavailable"].iter().find(is).expect("it is one of them")
}

async fn becomes(stack: &Stack, wanted: &str) {
    wait_until(&format!("S3 is {wanted}"), DEADLINE, async || state(stack).await == wanted).await;
    eprintln!("S3 is {wanted}");
}

/// A program that produces each line of its input.
struct Producer {
    name: &'static str,
    child: Child,
    stop: watch::Sender<bool>,
    feed: JoinHandle<usize>,
}

impl Producer {
    fn start(name: &'static str, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}; run `make test`, which installs it"));
        let mut stdin = child.stdin.take().expect("piped");
        let (stop, stopped) = watch::channel(false);
        let feed = tokio::spawn(async move {
            let mut count = 0;
            while !*stopped.borrow() {
                stdin.write_all(format!("{name}-{count}\n").as_bytes()).await.expect("it reads its input");
                count += 1;
                tokio::time::sleep(PAUSE).await;
            }
            count
        });
        Self { name, child, stop, feed }
    }

    /// Lets it deliver the rest; everything that it was given.
    async fn finish(mut self) -> BTreeSet<String> {
        self.stop.send(true).expect("it is fed");
        let count = self.feed.await.expect("it took its input");
        let status = tokio::time::timeout(FLUSH_DEADLINE, self.child.wait()).await.expect("it ends").expect("it ran");
        assert!(status.success(), "{}: {status}", self.name);
        (0..count).map(|n| format!("{}-{n}", self.name)).collect()
    }
}

/// One Produce on a connection of its own: the whole response.
async fn produce(stack: &Stack, topic: &str) -> ProduceResponse {
    let mut connection = Connection::open(&stack.address()).await.expect("the broker takes connections");
    let request = produce_request(topic, 0, -1, Batch::of(&[b"raw"]).encode());
    connection.call(PRODUCE_VERSION, &request).await.expect("every Produce is answered")
}

fn code(response: &ProduceResponse) -> i16 {
    response.responses[0].partition_responses[0].error_code
}

async fn values(stack: &Stack, topic: &str) -> Vec<String> {
    let records = Client::new(&stack.address()).read_all(topic, 0).await;
    let text = |value: bytes::Bytes| String::from_utf8(value.to_vec()).expect("lines are text");
    records.into_iter().filter_map(|r| r.value).map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_are_slowed_down_refused_and_taken_again() {
    let _quiet = quiet().await;
    // At `std` the 90th percentile of PUTs is 127 ms, and every one of them is sent once at this interval.
    let envs = [
        ("KAFSCALE_FLUSH_INTERVAL_MS", "200"),
        ("KAFSCALE_S3_HEALTH_WINDOW_SEC", "10"),
        ("KAFSCALE_S3_LATENCY_WARN_MS", "100"),
        ("KAFSCALE_S3_LATENCY_CRIT_MS", "20000"),
    ];
    let stack = Stack::start("s3-health", Backend::S3, &envs).await;
    let (address, proxy) = (stack.address(), stack.proxy());
    for topic in ["raw", "librdkafka", "java"] {
        Client::new(&address).ensure_topic(topic, 1).await;
    }
    let kcat = Producer::start("librdkafka", "kcat", &["-P", "-b", &address, "-t", "librdkafka", "-p", "0"]);
    let class = "org.apache.kafka.tools.ConsoleProducer".to_owned();
    let args: Vec<String> = java_options().into_iter().chain([class]).collect();
    // The tool has defaults of its own, with which it gives up after three tries: these are the producer's.
    let defaults = ["--message-send-max-retries", "2147483647", "--request-timeout-ms", "30000"];
    let args =
        args.iter().map(String::as_str).chain(["--bootstrap-server", &address, "--topic", "java"]).chain(defaults);
    let java = Producer::start("java", "java", &args.collect::<Vec<_>>());
    becomes(&stack, "healthy").await;
    assert_eq!(code(&produce(&stack, "raw").await), 0);

    proxy.set("profile=std").await;
    becomes(&stack, "degraded").await;
    let slowed = produce(&stack, "raw").await;
    assert_eq!(code(&slowed), 0, "slow is not refused");
    assert!((1..=1_000).contains(&slowed.throttle_time_ms), "{} ms", slowed.throttle_time_ms);
    proxy.set("profile=none").await;
    becomes(&stack, "healthy").await;
    assert_eq!(produce(&stack, "raw").await.throttle_time_ms, 0);

    proxy.set("503=1").await;
    becomes(&stack, "unavailable").await;
    let refused = produce(&stack, "raw").await;
    assert_eq!(code(&refused), REFUSED);
    assert!((1..=1_000).contains(&refused.throttle_time_ms), "{} ms", refused.throttle_time_ms);
    // What is in memory is served, and the broker stays where clients find it.
    let newest = Client::new(&address).fetch("raw", 0, 2, 1_000, 1 << 20).await.expect("an answer");
    assert_eq!((newest.error_code, newest.records.is_some_and(|r| !r.is_empty())), (0, true));
    http("GET", &stack.broker.metrics_address(), "/readyz", "").await.expect("it is ready");
    tokio::time::sleep(Duration::from_secs(size("DURATION_SEC", 5))).await;
    assert_eq!(state(&stack).await, "unavailable");
    proxy.set("503=0").await;
    wait_until("a producer is served again", DEADLINE, async || code(&produce(&stack, "raw").await) == 0).await;
    becomes(&stack, "healthy").await;

    for (producer, topic) in [(kcat, "librdkafka"), (java, "java")] {
        let sent = producer.finish().await;
        let stored = values(&stack, topic).await;
        let found: BTreeSet<String> = stored.iter().cloned().collect();
        let lost: Vec<_> = sent.difference(&found).collect();
        assert!(lost.is_empty(), "{topic}: {} of {} are lost, {:?} first", lost.len(), sent.len(), lost[0]);
        assert!(found.is_subset(&sent), "{topic} has what was never sent");
        eprintln!("{topic}: {} records, {} of them more than once", sent.len(), stored.len() - sent.len());
    }
    // Kafka's own producer is idempotent: what it sent again is there once.
    let java = values(&stack, "java").await;
    assert_eq!(java.len(), java.iter().collect::<BTreeSet<_>>().len(), "nothing of java's is there twice");
    assert!(stack.broker.metric_sum("kafscale_throttled_replies").await > Some(0.0));
    assert!(stack.broker.metric_sum("kafscale_s3_refused_batches").await > Some(0.0));
}

/// Nobody else produces: what finds out that S3 is back is the producer that is let through now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_producer_finds_s3_again() {
    let _quiet = quiet().await;
    let stack = Stack::start("s3-probe", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "200")]).await;
    Client::new(&stack.address()).ensure_topic("raw", 1).await;
    stack.proxy().set("500=1").await;
    let attempts = async {
        let mut client = Client::new(&stack.address());
        client.produce_values("raw", 0, &[b"accepted before it is known"]).await
    };
    let outage = async {
        becomes(&stack, "unavailable").await;
        assert_eq!(code(&produce(&stack, "raw").await), REFUSED);
        stack.proxy().set("500=0").await;
    };
    assert_eq!(tokio::join!(attempts, outage).0, 0);
    wait_until("a producer is served again", DEADLINE, async || code(&produce(&stack, "raw").await) == 0).await;
    becomes(&stack, "healthy").await;
}
