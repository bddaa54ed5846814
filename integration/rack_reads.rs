//! Consumers read from the broker of their own rack (KIP-392): two racks, two buckets, and a copier between them that is
//! always behind. Whatever happens to the leaders and to the follower, consumers get every record once and in order.

use crate::client::{Batch, Client, EARLIEST, FETCH_VERSION, LATEST, check, fetch_request, text, topic_name};
use crate::clients::java_options;
use crate::harness::{
    ACCESS_KEY, BUCKET, Broker, Etcd, REGION, S3Proxy, S3Server, SECRET_KEY, TestDir, s3_envs, wait_until,
};
use crate::process::Process;
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, DeleteRecordsRequest, delete_records_request};
use kafscale::storage::s3::{S3Config, S3Store, StaticCredentials};
use kafscale::storage::{ObjectKey, ObjectStore, Payload};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(90);
/// The bucket of the other region.
const COPY: &str = "kafscale-copy";
/// How far it is behind.
const COPY_DELAY: Duration = Duration::from_secs(2);
const HOME: &str = "home-1";
const AWAY: &str = "away-1";
const TOPIC: &str = "travels";
/// Half of them are named for broker 1, the others for broker 2.
const PARTITIONS: i32 = 6;
/// The broker in the other rack, by number.
const FOLLOWER: usize = 2;

/// Brokers 1 and 2 at home, broker 3 away with a bucket of its own.
struct World {
    brokers: Vec<Broker>,
    copier: Copier,
    _proxy: S3Proxy,
    _server: Arc<S3Server>,
    _etcd: Etcd,
    dir: TestDir,
}

/// Copies each object some time after it has appeared, as replication between buckets does.
struct Copier {
    copied: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Copier {
    async fn start(server: &Arc<S3Server>) -> Self {
        let (from, to) = (bucket(server, BUCKET).await, bucket(server, COPY).await);
        let (copied, server) = (Arc::new(AtomicUsize::new(0)), server.clone());
        let counted = copied.clone();
        let running = tokio::spawn(async move {
            let mut seen: HashMap<String, Option<Instant>> = HashMap::new();
            loop {
                for (key, len) in server.objects() {
                    // The server writes to a temporary file first.
                    if !key.starts_with("test/") {
                        continue;
                    }
                    let first = seen.entry(key.clone()).or_insert_with(|| Some(Instant::now()));
                    if first.is_none_or(|first| first.elapsed() < COPY_DELAY) {
                        continue;
                    }
                    *first = None;
                    let key = ObjectKey::new(key.as_str());
                    if let Ok(body) = from.get_range(&key, 0..len).await {
                        to.create(&key, &Payload::new(vec![body], 1)).await.expect("the copy takes it");
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { copied, running }
    }
}

async fn bucket(server: &S3Server, bucket: &str) -> S3Store {
    let credentials =
        StaticCredentials { access_key: ACCESS_KEY.to_owned(), secret_key: SECRET_KEY.to_owned(), session_token: None };
    let config = S3Config {
        bucket: bucket.to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(format!("http://{}", server.address())),
        path_style: true,
        credentials: Some(credentials),
        kms_key_arn: None,
    };
    S3Store::connect(config).await.expect("fixed credentials need no source")
}

impl World {
    async fn start(name: &str) -> Self {
        let dir = TestDir::new(name);
        let etcd = Etcd::start(dir.path()).await;
        let server = Arc::new(S3Server::start(dir.path()).await);
        std::fs::create_dir_all(dir.path().join("s3/data").join(COPY)).expect("folder can be made");
        let proxy = S3Proxy::start(dir.path(), &server.address(), 1, "profile=none").await;
        let mut brokers = Vec::new();
        for id in 1..=3 {
            let mut envs = s3_envs(&etcd, &proxy.address());
            envs.extend([
                ("KAFSCALE_BROKER_ID", id.to_string()),
                ("KAFSCALE_BROKER_LEASE_SEC", "2".into()),
                ("KAFSCALE_FLUSH_INTERVAL_MS", "20".into()),
                ("KAFSCALE_BROKER_RACK", if id == 3 { AWAY } else { HOME }.into()),
            ]);
            if id == 3 {
                let endpoint = format!("http://{}", server.address());
                envs.extend([("KAFSCALE_S3_READ_BUCKET", COPY.into()), ("KAFSCALE_S3_READ_ENDPOINT", endpoint)]);
            }
            let mut broker = Broker::spawn("broker", &envs, &dir.path().join(format!("broker-{id}.log")));
            broker.wait_ready().await;
            brokers.push(broker);
        }
        let copier = Copier::start(&server).await;
        Self { brokers, copier, _proxy: proxy, _server: server, _etcd: etcd, dir }
    }

    fn addresses(&self) -> Vec<String> {
        self.brokers.iter().map(Broker::address).collect()
    }

    /// Makes the topic, each partition on the broker that `leader` says.
    async fn topic(&self, partitions: i32, leader: impl Fn(i32) -> i32) {
        let assignment = |p| {
            CreatableReplicaAssignment::default().with_partition_index(p).with_broker_ids(vec![BrokerId(leader(p))])
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(TOPIC))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments((0..partitions).map(assignment).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer = Client::new(&self.brokers[0].address()).call(7, &request).await.expect("an answer");
        check(answer.topics[0].error_code).expect("the topic is made");
        self.led_as_named(partitions, leader).await;
    }

    async fn led_as_named(&self, partitions: i32, leader: impl Fn(i32) -> i32) {
        wait_until("every partition is led by the broker it is named for", DEADLINE, async || {
            for broker in &self.brokers {
                let Ok(metadata) = Client::new(&broker.address()).metadata(Some(&[TOPIC]), false).await else {
                    return false;
                };
                let topic = &metadata.topics[0];
                let led = topic.partitions.iter().filter(|p| p.leader_id.0 == leader(p.partition_index)).count();
                if led != partitions as usize {
                    return false;
                }
            }
            true
        })
        .await;
    }

    async fn sum(&self, broker: usize, metric: &str) -> u64 {
        self.brokers[broker].metric_sum(metric).await.unwrap_or_else(|| panic!("there is no metric {metric}")) as u64
    }

    /// Fetches that the follower has answered with records.
    async fn followed(&self) -> u64 {
        self.sum(FOLLOWER, "kafscale_follower_fetches_total").await
    }

    /// Waits until the follower has answered more of them.
    async fn follower_serves(&self, what: &str) {
        let before = self.followed().await;
        wait_until(what, DEADLINE, async || self.followed().await > before + 20).await;
    }
}

fn named(partition: i32) -> i32 {
    1 + partition % 2
}

/// Writes to all partitions, at whoever leads them, until it is told to stop.
struct Load {
    /// Acked records by partition: the offset after the last one.
    ends: Arc<Vec<AtomicI64>>,
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(addresses: &[String]) -> Self {
        let ends: Arc<Vec<_>> = Arc::new((0..PARTITIONS).map(|_| AtomicI64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let running = (0..PARTITIONS).map(|p| tokio::spawn(produce(addresses.to_vec(), p, ends.clone(), stop.clone())));
        Self { running: running.collect(), ends, stop }
    }

    fn ends(&self) -> Vec<i64> {
        self.ends.iter().map(|end| end.load(Ordering::SeqCst)).collect()
    }

    /// Waits until more is written to every partition.
    async fn goes_on(&self) {
        let before = self.ends();
        let more = || self.ends().iter().zip(&before).all(|(now, before)| *now >= before + 20);
        wait_until("more is written", DEADLINE, async || more()).await;
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for running in self.running {
            running.await.expect("it ends");
        }
    }
}

async fn produce(addresses: Vec<String>, partition: i32, ends: Arc<Vec<AtomicI64>>, stop: Arc<AtomicBool>) {
    let (mut at, mut n) = (0, 0);
    let mut client = Client::new(&addresses[at]);
    while !stop.load(Ordering::SeqCst) {
        let value = format!("{partition}-{n}");
        match client.produce(TOPIC, partition, Batch::of(&[value.as_bytes()]).encode()).await {
            Ok(answer) if answer.error_code == 0 => {
                ends[partition as usize].store(answer.base_offset + 1, Ordering::SeqCst);
                n += 1;
            }
            // It may be written, and is then written twice: readers are compared with the log, not with this.
            _ => {
                at = (at + 1) % addresses.len();
                client = Client::new(&addresses[at]);
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Somebody's unmodified consumer that reads everything, and prints `PARTITION OFFSET VALUE`.
struct Reader {
    name: &'static str,
    process: Process,
}

impl Reader {
    /// librdkafka.
    fn kcat(bootstrap: &str, rack: Option<&str>, log: &Path) -> Self {
        let rack = rack.map(|rack| format!("client.rack={rack}"));
        let mut args =
            vec!["-C", "-u", "-q", "-b", bootstrap, "-t", TOPIC, "-o", "beginning", "-f", "READ %p %o %s\\n"];
        args.extend(rack.iter().flat_map(|rack| ["-X", rack]));
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let program = ["/usr/bin/kcat", "/usr/local/bin/kcat"].map(Path::new);
        let program = program.into_iter().find(|p| p.exists()).expect("kcat is installed by `make test`");
        Self { name: "kcat", process: Process::spawn("kcat", program, &args, &[], log) }
    }

    /// Kafka's own console consumer, with the protocol that keeps its place: one of the classic protocol joins its group anew
    /// whenever the racks of replicas change (KIP-881), and begins where it has last committed.
    fn java(bootstrap: &str, rack: &str, log: &Path) -> Self {
        let rack = format!("client.rack={rack}");
        let args = [
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "--bootstrap-server",
            bootstrap,
            "--topic",
            TOPIC,
            "--from-beginning",
            "--consumer-property",
            &rack,
            "--consumer-property",
            "group.protocol=consumer",
            "--property",
            "print.partition=true",
            "--property",
            "print.offset=true",
        ];
        let args: Vec<String> = java_options().into_iter().chain(args.into_iter().map(str::to_owned)).collect();
        let path = std::env::var_os("PATH").expect("there is a path");
        let java = std::env::split_paths(&path)
            .map(|p| p.join("java"))
            .find(|p| p.exists())
            .expect("Java is installed by `make test`");
        Self { name: "Java", process: Process::spawn("java", &java, &args, &[], log) }
    }

    /// Partition, offset and value of everything it has read, by partition.
    fn read(&self) -> Vec<Vec<(i64, String)>> {
        let mut read = vec![Vec::new(); PARTITIONS as usize];
        let log = self.process.log();
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines() {
            let parts: Vec<&str> = match line.strip_prefix("READ ") {
                Some(line) => line.split(' ').collect(),
                None if line.starts_with("Partition:") => {
                    line.split('\t').map(|part| part.rsplit(':').next().expect("a part")).collect()
                }
                None => continue,
            };
            let [partition, offset, value] = parts[..] else { panic!("{}: {line}", self.name) };
            let partition: usize = partition.parse().unwrap_or_else(|_| panic!("{}: {line}", self.name));
            read[partition].push((offset.parse().expect("an offset"), value.to_owned()));
        }
        read
    }

    /// Waits until it has read up to `ends`.
    async fn reads(&mut self, ends: &[i64], what: &str) {
        let name = self.name;
        wait_until(&format!("{name} reads everything {what}"), DEADLINE, async || {
            let status = self.process.exited();
            assert!(status.is_none(), "{name} ended with {status:?}:\n{}", self.process.log_tail());
            let read = self.read();
            read.iter().zip(ends).all(|(read, end)| read.last().map_or(0, |(offset, _)| offset + 1) >= *end)
        })
        .await;
    }
}

/// What the leaders have of each partition.
async fn written(addresses: &[String]) -> Vec<Vec<(i64, String)>> {
    let mut all = Vec::new();
    let leaders = crate::cluster::leaders(&addresses[1], TOPIC).await;
    for partition in 0..PARTITIONS {
        let leader = leaders.iter().find(|(_, led)| led.contains(&partition)).expect("somebody leads it").0;
        let mut client = Client::new(&addresses[*leader as usize - 1]);
        let records = client.read_all(TOPIC, partition).await;
        let value = |v: Option<Bytes>| String::from_utf8(v.expect("a value").to_vec()).expect("text");
        all.push(records.into_iter().map(|r| (r.offset, value(r.value))).collect());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_read_nearby_whatever_happens_to_leaders_and_followers() {
    let mut world = World::start("rack-reads").await;
    let addresses = world.addresses();
    world.topic(PARTITIONS, named).await;
    let load = Load::start(&addresses);
    let folder = world.dir.path().to_owned();
    let log = |name: &str| folder.join(name);
    let bootstrap = addresses.join(",");
    let mut plain = Reader::kcat(&bootstrap, None, &log("plain.log"));
    wait_until("there is something to read", DEADLINE, async || load.ends().iter().all(|end| *end >= 30)).await;

    // A consumer without a rack reads from the leaders.
    plain.reads(&load.ends(), "without a rack").await;
    assert_eq!(world.followed().await, 0);
    for broker in 0..2 {
        assert_eq!(world.sum(broker, "kafscale_fetch_preferred_replicas_total").await, 0);
    }
    wait_until("the first objects are copied", DEADLINE, async || world.copier.copied.load(Ordering::SeqCst) > 20)
        .await;

    let mut readers =
        [Reader::java(&bootstrap, AWAY, &log("java.log")), Reader::kcat(&bootstrap, Some(AWAY), &log("kcat.log"))];
    for reader in &mut readers {
        reader.reads(&load.ends(), "from the beginning").await;
    }
    world.follower_serves("the follower serves both").await;
    let samples = world.brokers[FOLLOWER].metrics().await;
    let hits = samples.iter().find(|(name, _)| name == "kafscale_replica_reads_total{result=\"hit\"}");
    assert!(hits.expect("it is counted").1 > 0.0, "the copy is read");
    for broker in 0..2 {
        assert!(world.sum(broker, "kafscale_fetch_preferred_replicas_total").await > 0, "broker {}", broker + 1);
    }

    // A leader is killed: others take its partitions. It comes back, and gets what is named for it.
    world.brokers[0].kill9();
    wait_until("others lead what it led", DEADLINE, async || {
        let leaders = crate::cluster::leaders(&addresses[1], TOPIC).await;
        !leaders.is_empty() && !leaders.contains_key(&1) && !leaders.contains_key(&-1)
    })
    .await;
    for reader in &mut readers {
        reader.reads(&load.ends(), "while a leader is dead").await;
    }
    world.follower_serves("the follower serves while a leader is dead").await;
    world.brokers[0].restart().await;
    wait_until("it leads again", DEADLINE, async || {
        crate::cluster::leaders(&addresses[1], TOPIC).await.contains_key(&1)
    })
    .await;
    for reader in &mut readers {
        reader.reads(&load.ends(), "after leaders have moved").await;
    }
    world.follower_serves("the follower serves after leaders have moved").await;

    // The follower is stopped, and later killed: Java's consumer goes to the leaders. librdkafka waits for a broker that is
    // gone until it is back.
    assert!(world.brokers[FOLLOWER].terminate().await.success());
    load.goes_on().await;
    readers[0].reads(&load.ends(), "from the leaders while the follower is stopped").await;
    world.brokers[FOLLOWER].restart().await;
    world.follower_serves("consumers have come back to the follower").await;
    for reader in &mut readers {
        reader.reads(&load.ends(), "after the follower was stopped").await;
    }
    world.brokers[FOLLOWER].kill9();
    load.goes_on().await;
    readers[0].reads(&load.ends(), "from the leaders while the follower is dead").await;
    world.brokers[FOLLOWER].restart().await;
    world.follower_serves("consumers have come back once more").await;

    load.finish().await;
    let written = written(&addresses).await;
    let ends: Vec<i64> = written.iter().map(|records| records.last().map_or(0, |(offset, _)| offset + 1)).collect();
    for reader in readers.iter_mut().chain([&mut plain]) {
        reader.reads(&ends, "to the end").await;
        let read = reader.read();
        for (partition, (read, written)) in read.iter().zip(&written).enumerate() {
            assert!(read == written, "{}, partition {partition}: {} of {}", reader.name, read.len(), written.len());
        }
    }
    let failures = world.sum(FOLLOWER, "kafscale_follower_failures_total").await;
    eprintln!("rack reads: {} records, {failures} failed looks", ends.iter().sum::<i64>());
}

async fn fetch(
    address: &str,
    rack: &str,
    offset: i64,
    epoch: i32,
    isolation: i8,
) -> (i16, i64, Option<usize>, PartitionData) {
    let mut request = fetch_request(TOPIC, 0, offset, 1_000, 1 << 20).with_rack_id(text(rack));
    request = request.with_isolation_level(isolation);
    request.topics[0].partitions[0].current_leader_epoch = epoch;
    let mut answer = Client::new(address).call(FETCH_VERSION, &request).await.expect("an answer");
    let data = answer.responses.pop().and_then(|mut t| t.partitions.pop()).expect("the partition");
    let aborted = data.aborted_transactions.as_ref().map(Vec::len);
    (data.error_code, data.high_watermark, aborted, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_follower_answers() {
    const OUT_OF_RANGE: i16 = 1;
    const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    const FENCED_LEADER_EPOCH: i16 = 74;
    const UNKNOWN_LEADER_EPOCH: i16 = 75;
    const OFFSET_NOT_AVAILABLE: i16 = 78;
    let world = World::start("follower-answers").await;
    world.topic(1, |_| 1).await;
    let (leader, follower) = (world.brokers[0].address(), world.brokers[FOLLOWER].address());
    let mut client = Client::new(&leader);
    for n in 0..10 {
        assert_eq!(client.produce_values(TOPIC, 0, &[format!("{n}").as_bytes()]).await, n);
    }
    let metadata = client.metadata(Some(&[TOPIC]), false).await.expect("an answer");
    let partition = &metadata.topics[0].partitions[0];
    let ids: Vec<i32> = partition.replica_nodes.iter().map(|b| b.0).collect();
    assert_eq!((partition.leader_id.0, ids), (1, vec![1, 3]));
    let epoch = partition.leader_epoch;

    let code = async |rack: &str, offset, epoch| fetch(&follower, rack, offset, epoch, 0).await.0;
    assert_eq!(code("", 0, -1).await, NOT_LEADER_OR_FOLLOWER, "a client without a rack looks for the leader");
    let (error, high_watermark, aborted, data) = fetch(&follower, AWAY, 3, epoch, 1).await;
    assert_eq!((error, high_watermark, aborted, data.last_stable_offset), (0, 10, Some(0), 10));
    let records = crate::client::read_records(&data.records.expect("records")).expect("whole batches");
    assert_eq!(records.first().map(|r| (r.offset, r.value.clone())), Some((3, Some(Bytes::from_static(b"3")))));
    assert_eq!(code(AWAY, 0, epoch + 1).await, UNKNOWN_LEADER_EPOCH);
    if epoch > 0 {
        assert_eq!(code(AWAY, 0, epoch - 1).await, FENCED_LEADER_EPOCH);
    }
    assert_eq!(code(AWAY, 99, -1).await, OFFSET_NOT_AVAILABLE, "that is for the leader to judge");
    for (believed, error, records) in [(epoch, 0, true), (epoch + 1, NOT_LEADER_OR_FOLLOWER, false)] {
        let mut request = fetch_request(TOPIC, 0, 3, 1_000, 1 << 20).with_rack_id(text(AWAY));
        request.topics[0].partitions[0].last_fetched_epoch = believed;
        let answer = Client::new(&follower).call(FETCH_VERSION, &request).await.expect("an answer");
        let data = &answer.responses[0].partitions[0];
        let has_records = data.records.as_ref().is_some_and(|r| !r.is_empty());
        assert_eq!((data.error_code, has_records, data.diverging_epoch.epoch), (error, records, -1));
    }
    let listed = Client::new(&follower).list_offset(TOPIC, 0, LATEST).await;
    assert!(matches!(listed, Err(crate::client::ClientError::Code(NOT_LEADER_OR_FOLLOWER))), "{listed:?}");

    // What the leader has shown is there, although the follower has not looked yet.
    for n in 10..30 {
        assert_eq!(client.produce_values(TOPIC, 0, &[b"more"]).await, n);
        let (error, high_watermark, ..) = fetch(&follower, AWAY, n + 1, epoch, 0).await;
        assert_eq!((error, high_watermark), (0, n + 1));
    }

    // Below the log start.
    let partition = delete_records_request::DeleteRecordsPartition::default().with_partition_index(0).with_offset(5);
    let topic = delete_records_request::DeleteRecordsTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer = client.call(2, &request).await.expect("an answer");
    check(answer.topics[0].partitions[0].error_code).expect("records are deleted");
    assert_eq!(client.list_offset(TOPIC, 0, EARLIEST).await.expect("an offset"), 5);
    wait_until("the follower knows the new log start", DEADLINE, async || {
        let (error, .., data) = fetch(&follower, AWAY, 4, epoch, 0).await;
        assert!([0, OUT_OF_RANGE].contains(&error), "{error}");
        error == OUT_OF_RANGE && data.log_start_offset == 5
    })
    .await;
    assert_eq!(code(AWAY, 5, epoch).await, 0);
}
