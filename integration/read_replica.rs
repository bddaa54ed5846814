//! A broker that reads from a copy of its bucket: what the copy has comes from there, everything else from the primary,
//! and a copy that is damaged or gone costs consumers nothing but time.

use crate::client::{Client, check};
use crate::harness::{
    ACCESS_KEY, BUCKET, Broker, Etcd, READY_DEADLINE, REGION, S3Proxy, S3Server, SECRET_KEY, TestDir, s3_envs,
    wait_until,
};
use kafscale::storage::s3::{S3Config, S3Store, StaticCredentials};
use kafscale::storage::{ObjectKey, ObjectStore, Payload};

/// The bucket that copies go to.
const COPY: &str = "kafscale-copy";
const TOPIC: &str = "far-away";
/// Batches of one record, each in an object of its own.
const BATCHES: usize = 12;
/// More than the newest batches may take in memory, so that all but one batch is read from the store.
const VALUE_LEN: usize = 300_000;

struct World {
    broker: Broker,
    /// Before the copy; dropped when it is to be gone.
    replica: Option<S3Proxy>,
    server: S3Server,
    _primary: S3Proxy,
    _etcd: Etcd,
    _dir: TestDir,
}

/// What the broker counts of reads, by result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
struct Reads {
    hits: u64,
    misses: u64,
    failures: u64,
    skipped: u64,
}

impl World {
    async fn start() -> Self {
        let dir = TestDir::new("read-replica");
        let etcd = Etcd::start(dir.path()).await;
        let server = S3Server::start(dir.path()).await;
        std::fs::create_dir_all(dir.path().join("s3/data").join(COPY)).expect("folder can be made");
        let primary = S3Proxy::start(dir.path(), &server.address(), 1, "profile=none").await;
        let replica = S3Proxy::start(dir.path(), &server.address(), 2, "profile=none").await;
        let mut envs = s3_envs(&etcd, &primary.address());
        envs.extend([
            ("KAFSCALE_S3_READ_BUCKET", COPY.into()),
            ("KAFSCALE_S3_READ_ENDPOINT", format!("http://{}", replica.address())),
            ("KAFSCALE_BROKER_RACK", "far-away-1".into()),
            ("KAFSCALE_FLUSH_INTERVAL_MS", "20".into()),
            ("KAFSCALE_CACHE_BYTES", (1 << 20).to_string()),
            ("KAFSCALE_READAHEAD_SEGMENTS", "0".into()),
        ]);
        let mut broker = Broker::spawn("broker", &envs, &dir.path().join("broker.log"));
        broker.wait_ready().await;
        Self { broker, replica: Some(replica), server, _primary: primary, _etcd: etcd, _dir: dir }
    }

    /// Copies WAL objects of which `wanted` says so of their number in order, as replication between buckets does.
    async fn copy(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let (from, to) = (self.bucket(BUCKET).await, self.bucket(COPY).await);
        let mut objects = self.server.objects();
        objects.retain(|(key, len)| key.contains("/wal/") && *len > VALUE_LEN as u64);
        objects.sort();
        let mut copied = 0;
        for (_, (key, len)) in objects.iter().enumerate().filter(|(n, _)| wanted(*n)) {
            let key = ObjectKey::new(key.as_str());
            let body = from.get_range(&key, 0..*len).await.expect("the primary has it");
            to.create(&key, &Payload::new(vec![body], 1)).await.expect("the copy takes it");
            copied += 1;
        }
        copied
    }

    async fn bucket(&self, bucket: &str) -> S3Store {
        let credentials = StaticCredentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
        };
        let config = S3Config {
            bucket: bucket.to_owned(),
            region: REGION.to_owned(),
            endpoint: Some(format!("http://{}", self.server.address())),
            path_style: true,
            credentials: Some(credentials),
            kms_key_arn: None,
        };
        S3Store::connect(config).await.expect("fixed credentials need no source")
    }

    async fn reads(&self) -> Reads {
        let samples = self.broker.metrics().await;
        let of = |results: &[&str]| {
            let named = |r: &&str| format!("kafscale_replica_reads_total{{result=\"{r}\"}}");
            let value = |name: String| samples.iter().find(|(n, _)| *n == name).expect("it is counted").1 as u64;
            results.iter().map(named).map(value).sum()
        };
        Reads {
            hits: of(&["hit"]),
            misses: of(&["miss"]),
            failures: of(&["error", "timeout"]),
            skipped: of(&["skipped"]),
        }
    }

    async fn gauge(&self, name: &str) -> u64 {
        self.broker.metric_sum(name).await.unwrap_or_else(|| panic!("there is no metric {name}")) as u64
    }

    /// Reads each batch by itself; every byte must be right.
    async fn read_everything(&self) {
        let mut client = Client::new(&self.broker.address());
        for n in 0..BATCHES {
            let records = client
                .retry("fetch", async |c| {
                    let answer = c.fetch(TOPIC, 0, n as i64, 1_000, 1).await?;
                    check(answer.error_code)?;
                    let records = answer.records.unwrap_or_default();
                    // A read that takes long is answered without records; the next fetch finds what it has read.
                    if records.is_empty() { Err(crate::client::ClientError::Code(-1)) } else { Ok(records) }
                })
                .await;
            let records = crate::client::read_records(&records).expect("whole batches");
            assert_eq!(records.len(), 1, "batch {n}");
            assert!(records[0].value.as_deref() == Some(&value(n)[..]), "batch {n} is not what was produced");
        }
    }
}

fn value(n: usize) -> Vec<u8> {
    (0..VALUE_LEN).map(|i| (i * 31 + n * 7 + (i >> 8)) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_are_served_from_the_copy_and_never_depend_on_it() {
    let mut world = World::start().await;
    let mut client = Client::new(&world.broker.address());
    client.ensure_topic(TOPIC, 1).await;
    for n in 0..BATCHES {
        assert_eq!(client.produce_values(TOPIC, 0, &[&value(n)]).await, n as i64);
    }
    let racks: Vec<_> = client.metadata(None, false).await.unwrap().brokers.into_iter().map(|b| b.rack).collect();
    assert_eq!(racks.iter().flatten().map(|r| r.as_str()).collect::<Vec<_>>(), ["far-away-1"]);

    // Nothing is copied yet.
    world.read_everything().await;
    let empty = world.reads().await;
    assert_eq!((empty.hits, empty.failures, empty.skipped), (0, 0, 0), "{empty:?}");
    assert!(empty.misses >= BATCHES as u64 - 2, "all but what is in memory: {empty:?}");

    // Half of the objects are. A broker that was started again has nothing in memory, and recovers from the primary.
    let copied = world.copy(|n| n % 2 == 0).await as u64;
    assert!(copied >= BATCHES as u64 / 2, "{copied} objects");
    world.broker.restart().await;
    assert_eq!(world.reads().await, Reads { hits: 0, misses: 0, failures: 0, skipped: 0 }, "nobody has read");
    world.read_everything().await;
    let half = world.reads().await;
    assert_eq!((half.hits, half.failures, half.skipped), (copied, 0, 0), "{half:?}");
    assert_eq!(half.misses, BATCHES as u64 - copied, "{half:?}");
    assert_eq!(world.gauge("kafscale_replica_read_bytes").await / VALUE_LEN as u64, copied);

    // All of them, but what comes from there is damaged.
    world.copy(|n| n % 2 == 1).await;
    world.replica.as_ref().expect("it is there").set("corrupt=1").await;
    world.broker.restart().await;
    world.read_everything().await;
    let damaged = world.reads().await;
    assert_eq!((damaged.hits, damaged.misses), (BATCHES as u64, 0), "{damaged:?}");
    assert_eq!(world.gauge("kafscale_damaged_reads").await, BATCHES as u64);

    // Gone: reads go on at once, and after a few of them nobody tries it. (Now and then one is in the cache.)
    drop(world.replica.take());
    wait_until("reads leave the copy alone", READY_DEADLINE, async || {
        world.read_everything().await;
        world.reads().await.skipped >= BATCHES as u64
    })
    .await;
    let gone = world.reads().await;
    assert!(gone.failures >= 5 && gone.hits == damaged.hits, "{gone:?}");
    assert_eq!(world.gauge("kafscale_replica_used").await, 0);

    // A start does not depend on it.
    world.broker.restart().await;
    assert_eq!(world.gauge("kafscale_replica_used").await, 0);
    world.read_everything().await;
    let without = world.reads().await;
    assert_eq!((without.hits, without.misses), (0, 0), "{without:?}");
}
