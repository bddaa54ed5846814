//! A compacted topic of a real broker, as clients see it: written with every codec, compacted, killed and read again.

use crate::client::{Client as Own, EARLIEST, LATEST};
use crate::clients::{Client, Running};
use crate::group_client::fetch_offsets;
use crate::harness::{Backend, Stack, wait_until};
use crate::tools::Tools;
use bytes::Bytes;
use kafscale::protocol::batch::BatchHeader;
use kafscale::protocol::compression::Codec;
use kafscale::protocol::records::{BatchBuilder, Records, records_bytes};
use std::collections::BTreeMap;
use std::time::Duration;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const TOPIC: &str = "state";
const KEYS: usize = 100;
const UPDATES: usize = 10_000;
const BATCH_RECORDS: usize = 20;
/// Long enough for several looks of the broker's maintenance, which are 15 s apart on S3.
const DEADLINE: Duration = Duration::from_secs(120);
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONFIGS: &str = "kafka.admin.ConfigCommand";

/// What a key should have: its offset and value.
type Last = BTreeMap<String, (i64, String)>;

/// An idempotent producer that knows what each key should have.
struct Writer {
    own: Own,
    producer: (i64, i16),
    sequence: i32,
    version: usize,
    last: Last,
}

impl Writer {
    async fn new(address: &str) -> Self {
        let mut own = Own::new(address);
        let producer = own.init_producer_id().await.expect("a producer id");
        Self { own, producer, sequence: 0, version: 0, last: Last::new() }
    }

    async fn send(&mut self, batch: &Bytes) -> i64 {
        let sent = self.own.retry("produce", async |c| {
            let answer = c.produce(TOPIC, 0, batch.clone()).await?;
            crate::client::check(answer.error_code).map(|()| answer.base_offset)
        });
        sent.await
    }

    /// Writes a batch and sends it a second time, as a client does that got no answer.
    async fn write(&mut self, codec: Codec, records: &[(String, Option<String>)]) {
        let (id, epoch) = self.producer;
        let mut builder = BatchBuilder::new().codec(codec).producer(id, epoch, self.sequence);
        for (key, value) in records {
            let now_ms = kafscale::clock::Clock::system().wall_ms();
            builder.push(now_ms, Some(key.as_bytes()), value.as_ref().map(String::as_bytes));
        }
        let batch = builder.build();
        let base = self.send(&batch).await;
        self.sequence += records.len() as i32;
        assert_eq!(self.send(&batch).await, base, "a batch that is sent again has its old offset");
        for (offset, (key, value)) in (base..).zip(records) {
            match value {
                Some(value) => drop(self.last.insert(key.clone(), (offset, value.clone()))),
                None => drop(self.last.remove(key)),
            }
        }
    }

    /// Updates of keys one after the other, with one codec after the other.
    async fn update(&mut self, count: usize) {
        for batch in 0..count / BATCH_RECORDS {
            let records: Vec<_> = (0..BATCH_RECORDS)
                .map(|_| {
                    self.version += 1;
                    let key = format!("key-{:03}", self.version * 7 % KEYS);
                    (key.clone(), Some(format!("{key}-{}", self.version)))
                })
                .collect();
            self.write(CODECS[batch % CODECS.len()], &records).await;
        }
    }

    /// Lines `OFFSET VALUE` of what should be left.
    fn lines(&self) -> Vec<String> {
        let mut left: Vec<_> = self.last.values().collect();
        left.sort();
        left.iter().map(|(offset, value)| format!("{offset} {value}")).collect()
    }
}

/// Everything from `from` on, tombstones included; each answer has to lead further.
async fn read(own: &mut Own, from: i64) -> Vec<(i64, String, Option<String>)> {
    let end = own.retry("latest", async |c| c.list_offset(TOPIC, 0, LATEST).await).await;
    let (mut next, mut out) = (from, Vec::new());
    while next < end {
        let answer = own.retry("fetch", async |c| {
            let answer = c.fetch(TOPIC, 0, next, 500, 1 << 20).await?;
            crate::client::check(answer.error_code).map(|()| answer.records.unwrap_or_default())
        });
        let mut records = answer.await;
        while let Ok(header) = BatchHeader::parse(&records) {
            let len = header.total_len() as usize;
            if len > records.len() {
                break;
            }
            let batch = records.split_to(len);
            let plain = records_bytes(&header, &batch).expect("readable");
            for record in Records::stored(&plain, &header).map(|r| r.expect("readable")) {
                let text = |range: std::ops::Range<usize>| String::from_utf8(plain[range].to_vec()).expect("text");
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                out.push((offset, text(record.key.expect("a key")), record.value.map(text)));
            }
            next = header.next_offset().0;
        }
    }
    out.retain(|(offset, ..)| *offset >= from);
    assert!(out.windows(2).all(|w| w[0].0 < w[1].0), "offsets rise");
    out
}

fn last(records: &[(i64, String, Option<String>)]) -> Last {
    let mut last = Last::new();
    for (offset, key, value) in records {
        match value {
            Some(value) => drop(last.insert(key.clone(), (*offset, value.clone()))),
            None => drop(last.remove(key)),
        }
    }
    last
}

/// Waits until nothing is left but each key's last value. Meanwhile no read may show anything else at the end.
async fn wait_compacted(writer: &mut Writer) {
    let expected = writer.last.clone();
    let own = &mut writer.own;
    wait_until("each key has one record", DEADLINE, async || {
        let records = read(own, 0).await;
        assert_eq!(last(&records), expected, "after {} records", records.len());
        records.len() == expected.len()
    })
    .await;
}

async fn create(own: &mut Own) {
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.ms", "500"),
        ("delete.retention.ms", "1000"),
    ];
    own.retry("create", async |c| c.create_topic(TOPIC, 1, &configs).await).await;
    own.ensure_topic(TOPIC, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_reads_what_is_left() {
    let stack = Stack::start("compaction", Backend::Dev, &[]).await;
    let bootstrap = stack.address();
    let mut writer = Writer::new(&bootstrap).await;
    create(&mut writer.own).await;
    writer.update(UPDATES / 2).await;
    let reading = Running::start(&Client::franz(), &bootstrap, TOPIC, "readers", &[]);
    reading.has_read(1_000.min(KEYS)).await;
    let read_before = reading.stop().await;
    writer.update(UPDATES / 2).await;
    wait_compacted(&mut writer).await;
    assert_eq!(writer.last.len(), KEYS);

    // Somebody who stopped in the middle goes on there, and misses nothing.
    let committed = fetch_offsets(&mut writer.own, "readers").await.expect("offsets")[0].2;
    let after: Vec<String> = writer.lines().into_iter().filter(|l| offset_of(l) >= committed).collect();
    assert!(!after.is_empty() && !read_before.is_empty());
    let reading = Running::start(&Client::franz(), &bootstrap, TOPIC, "readers", &[]);
    reading.has_read(after.len()).await;
    let went_on = reading.stop().await;
    let seen: Vec<String> = went_on.iter().filter_map(|l| l.split_once(' ')).map(|(_, l)| l.to_owned()).collect();
    assert_eq!(seen, after);
    let middle = UPDATES as i64 / 2;
    assert!(read(&mut writer.own, middle).await.iter().all(|r| r.0 >= middle));

    // Half of the keys are deleted, with the last records of the log, which are gone after a while.
    let deleted: Vec<_> = (0..KEYS / 2).map(|n| (format!("key-{:03}", 2 * n), None)).collect();
    for (records, codec) in deleted.chunks(BATCH_RECORDS).zip(CODECS) {
        writer.write(codec, records).await;
    }
    wait_compacted(&mut writer).await;
    let expected = writer.lines();
    assert_eq!(expected.len(), KEYS / 2);
    let count = expected.len().to_string();
    for client in [Client::franz(), Client::python("python/confluent.py"), Client::python("python/kafka_python.py")] {
        assert_eq!(client.run(&["consume", &bootstrap, TOPIC, "0", &count]).await, expected, "{client:?}");
    }
    assert_eq!(Client::java().run(&["consume", &bootstrap, TOPIC, "0", &count]).await, expected);
    // To the end, where nothing is left: clients come there all the same.
    let kcat = ["-C", "-b", &bootstrap, "-t", TOPIC, "-p", "0", "-o", "beginning", "-e", "-f", "%o %s\\n"];
    let output = tokio::process::Command::new("kcat").args(kcat).output().await.expect("kcat is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), expected);
    let mut tools = Tools::start(&bootstrap);
    let args = ["--topic", TOPIC, "--group", "console", "--from-beginning", "--timeout-ms", "5000"];
    let (_, text) = tools.run(CONSOLE_CONSUMER, &args).await;
    assert!(text.contains(&format!("Processed a total of {count} messages")), "{text}");
    let end = writer.own.list_offset(TOPIC, 0, LATEST).await.expect("the end");
    assert_eq!(fetch_offsets(&mut writer.own, "console").await.expect("offsets")[0].2, end);
    assert_eq!(writer.own.list_offset(TOPIC, 0, EARLIEST).await.expect("the start"), 0);

    let describe = ["--describe", "--all", "--entity-type", "topics", "--entity-name", TOPIC];
    let (_, described) = tools.run(CONFIGS, &describe).await;
    for config in ["cleanup.policy=compact", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=1000"] {
        assert!(described.contains(&format!("  {config} ")), "{config} is not in\n{described}");
    }
}

fn offset_of(line: &str) -> i64 {
    line.split_once(' ').and_then(|(offset, _)| offset.parse().ok()).expect("OFFSET VALUE")
}

async fn killed(backend: Backend, updates: usize, kills: usize) {
    // A producer that waits for each ack is not what is tested.
    let mut stack = Stack::start("compaction-kills", backend, &[("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
    let mut writer = Writer::new(&stack.address()).await;
    create(&mut writer.own).await;
    for kill in 0..kills {
        let dropped = "kafscale_compacted_records";
        let before = stack.broker.metric_sum(dropped).await.unwrap_or(0.0);
        writer.update(updates).await;
        // Groups of extents have been replaced, and perhaps no checkpoint says so.
        wait_until("records are dropped", DEADLINE, async || {
            stack.broker.metric_sum(dropped).await.is_some_and(|now| now > before)
        })
        .await;
        stack.broker.restart().await;
        assert_eq!(last(&read(&mut writer.own, 0).await), writer.last, "after kill {kill}");
    }
    wait_compacted(&mut writer).await;
    // The checkpoint of an orderly end says what was compacted.
    assert!(stack.broker.terminate().await.success());
    stack.broker.restart().await;
    let records = read(&mut writer.own, 0).await;
    assert_eq!((records.len(), last(&records)), (KEYS, writer.last.clone()));
    stack.broker.restart().await;
    assert_eq!(read(&mut writer.own, 0).await, records, "a kill after it changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_bring_nothing_back_and_lose_nothing_on_a_folder() {
    killed(Backend::Dev, 2_000, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_bring_nothing_back_and_lose_nothing_on_s3() {
    killed(Backend::S3, 2_000, 2).await;
}
