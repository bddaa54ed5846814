//! Three brokers with very many partitions: what the death of one costs, and what it takes to have them at all; and what a
//! broker costs alone and beside two others. CI: 600 partitions; `make scale PARTITIONS=50000` is the full size.

use crate::client::{Batch, Client, PRODUCE_VERSION, topic_name};
use crate::cluster::Cluster;
use crate::harness::{Broker, Etcd, http, quiet, size, wait_until};
use crate::spread::Spread;
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, ProduceRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TOPICS: u64 = 50;
/// Partitions in a request.
const REQUEST_PARTITIONS: usize = 2_000;
const DEADLINE: Duration = Duration::from_secs(300);
/// The database of etcd, with all versions that it keeps, stays below this.
const ETCD_BYTES_MAX: u64 = 200 << 20;
/// One partition in so many is read back.
const SAMPLE: usize = 97;

/// Topic and partition, by the broker that leads them; -1 for those that nobody leads.
type Leaders = BTreeMap<i32, BTreeSet<(String, i32)>>;

async fn leaders(address: &str) -> Leaders {
    let mut leaders = Leaders::new();
    let Ok(metadata) = Client::new(address).metadata(None, false).await else { return leaders };
    for topic in &metadata.topics {
        let name = topic.name.as_ref().expect("topics have names");
        for partition in &topic.partitions {
            let of_leader = leaders.entry(partition.leader_id.0).or_default();
            of_leader.insert((name.to_string(), partition.partition_index));
        }
    }
    leaders
}

fn request(partitions: &[(String, i32)], batch: &Bytes) -> ProduceRequest {
    let mut topics: BTreeMap<&str, Vec<PartitionProduceData>> = BTreeMap::new();
    for (topic, partition) in partitions {
        let data = PartitionProduceData::default().with_index(*partition).with_records(Some(batch.clone()));
        topics.entry(topic).or_default().push(data);
    }
    let topic = |(name, data)| TopicProduceData::default().with_name(topic_name(name)).with_partition_data(data);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(60_000)
        .with_topic_data(topics.into_iter().map(topic).collect())
}

/// Writes one record to each partition, where it is led, again where that has just changed.
async fn write_all(address: &str, addresses: &[String], count: usize) {
    let batch = Batch::of(&[b"value"]).encode();
    let mut written: BTreeSet<(String, i32)> = BTreeSet::new();
    wait_until("every partition takes a record", DEADLINE, async || {
        for (node, partitions) in leaders(address).await {
            let Some(leader) = usize::try_from(node - 1).ok().and_then(|n| addresses.get(n)) else { continue };
            let missing: Vec<(String, i32)> = partitions.into_iter().filter(|p| !written.contains(p)).collect();
            let mut client = Client::new(leader);
            for chunk in missing.chunks(REQUEST_PARTITIONS) {
                let Ok(answer) = client.call(PRODUCE_VERSION, &request(chunk, &batch)).await else { break };
                for topic in &answer.responses {
                    let good = topic.partition_responses.iter().filter(|p| p.error_code == 0);
                    written.extend(good.map(|p| (topic.name.to_string(), p.index)));
                }
            }
        }
        written.len() == count
    })
    .await;
}

/// Bytes of etcd's database.
async fn etcd_bytes(etcd: &Etcd) -> u64 {
    let answer = http("POST", &etcd.address(), "/v3/maintenance/status", "{}").await.expect("etcd status");
    let status: serde_json::Value = serde_json::from_str(&answer).expect("etcd answers JSON");
    status["dbSize"].as_str().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_a_dead_broker_is_taken_over() {
    let _quiet = quiet().await;
    let partitions = size("PARTITIONS", 600).next_multiple_of(TOPICS);
    let mut cluster = Cluster::start("scale", "500").await;
    let addresses = cluster.addresses();
    let started = kafscale::clock::monotonic();
    let mut client = Client::new(&addresses[0]);
    for n in 0..TOPICS {
        client.ensure_topic(&format!("many-{n}"), (partitions / TOPICS) as i32).await;
    }
    let count = partitions as usize;
    let share = count / 3;
    wait_until("every broker leads its share", DEADLINE, async || {
        let now = leaders(&addresses[0]).await;
        now.keys().eq(&[1, 2, 3]) && now.values().all(|led| led.len().abs_diff(share) <= share / 5 + 1)
    })
    .await;
    eprintln!("{count} partitions are created and led after {:.1} s", started.elapsed().as_secs_f64());
    write_all(&addresses[0], &addresses, count).await;
    eprintln!("each has a record after {:.1} s", started.elapsed().as_secs_f64());

    let rest = Duration::from_secs(size("DURATION_SEC", 5));
    let before: Vec<f64> = (0..3).map(|n| cluster.broker(n).process.cpu_ms()).collect();
    tokio::time::sleep(rest).await;
    for (n, before) in before.into_iter().enumerate() {
        let process = &cluster.broker(n).process;
        let percent = (process.cpu_ms() - before) / rest.as_millis() as f64 * 100.0;
        eprintln!("at rest broker {} uses {percent:.1}% of a core, RSS {} MiB", n + 1, process.rss_bytes() >> 20);
    }

    let of_third = leaders(&addresses[0]).await[&3].len();
    cluster.broker(2).kill9();
    let killed = kafscale::clock::monotonic();
    let mut first = None;
    wait_until("the others lead everything", DEADLINE, async || {
        let now = leaders(&addresses[0]).await;
        let moved = now.get(&3).map_or(of_third, |left| of_third - left.len());
        if moved > 0 && first.is_none() {
            first = Some(killed.elapsed());
        }
        now.keys().eq(&[1, 2])
    })
    .await;
    let first = first.unwrap_or_default().as_secs_f64();
    let last = killed.elapsed().as_secs_f64();
    eprintln!(
        "{of_third} partitions of the dead broker: the first has left it after {first:.1} s, all are led after {last:.1} s"
    );

    write_all(&addresses[1], &addresses, count).await;
    for (node, led) in leaders(&addresses[0]).await {
        let mut client = Client::new(&addresses[node as usize - 1]);
        for (topic, partition) in led.iter().step_by(SAMPLE) {
            let offsets: Vec<i64> = client.read_all(topic, *partition).await.iter().map(|r| r.offset).collect();
            assert!(offsets.len() >= 2 && offsets[..2] == [0, 1], "{topic}-{partition} has {offsets:?}");
        }
    }
    let bytes = etcd_bytes(cluster.stack.etcd()).await;
    eprintln!("etcd's database has {:.1} MiB", bytes as f64 / 1_048_576.0);
    assert!(bytes <= ETCD_BYTES_MAX, "etcd's database has {bytes} bytes");
}

const FLUSH_MS: u64 = 200;
/// A broker's PUTs per second may be so many times what its interval allows: merges and checkpoints are PUTs as well.
const PUT_RATIO_MAX: f64 = 1.15;
/// Partitions of each broker that are written to.
const BUSY_PARTITIONS: i32 = 4;
const BYTES_PER_S: f64 = 2_500_000.0;
const REQUESTS_PER_S: u64 = 50;
/// The default of `KAFSCALE_SEGMENT_BYTES`.
const SEGMENT_BYTES: f64 = 4_194_304.0;

/// A topic whose partitions are all led by `node` while it lives.
async fn topic_on(address: &str, node: i32) -> String {
    let name = format!("on-{node}");
    let assignment =
        |n| CreatableReplicaAssignment::default().with_partition_index(n).with_broker_ids(vec![BrokerId(node)]);
    let topic = CreatableTopic::default()
        .with_name(topic_name(&name))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments((0..BUSY_PARTITIONS).map(assignment).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer = Client::new(address).call(7, &request).await.expect("an answer");
    assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
    name
}

#[derive(Debug)]
struct Share {
    puts_per_s: f64,
    cpu_ms_per_mb: f64,
}

async fn puts(broker: &Broker) -> f64 {
    let samples = broker.metrics().await;
    let put = |name: &str| name.starts_with("kafscale_s3_requests_total") && name.contains("\"create\"");
    samples.iter().filter(|(name, _)| put(name)).map(|(_, value)| value).sum()
}

/// [`BYTES_PER_S`] for one broker's partitions.
async fn loaded(broker: &Broker, topic: String, duration: Duration) -> Share {
    let load = Spread {
        topics: vec![topic],
        partitions_per_topic: BUSY_PARTITIONS,
        connections: 1,
        requests_per_s: REQUESTS_PER_S,
        partitions_per_request: BUSY_PARTITIONS as usize,
        value_bytes_per_request: (BYTES_PER_S / REQUESTS_PER_S as f64) as usize,
        duration,
    };
    // Around a move small segments are sent twice for a second: what is measured begins later.
    let warm = Spread { duration: Duration::from_secs(3), topics: load.topics.clone(), ..load };
    assert_eq!(warm.run(&broker.address()).await.failed, 0);
    let (before, cpu) = (puts(broker).await, broker.process.cpu_ms());
    let started = kafscale::clock::monotonic();
    let outcome = load.run(&broker.address()).await;
    let (puts, cpu, seconds) =
        (puts(broker).await - before, broker.process.cpu_ms() - cpu, started.elapsed().as_secs_f64());
    assert_eq!(outcome.failed, 0, "code {}", outcome.last_code);
    let mb = BYTES_PER_S * duration.as_secs_f64() / 1e6;
    Share { puts_per_s: puts / seconds, cpu_ms_per_mb: cpu / mb }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_beside_others_needs_no_more_puts() {
    let _quiet = quiet().await;
    let mut cluster = Cluster::start("scale-out", &FLUSH_MS.to_string()).await;
    let addresses = cluster.addresses();
    let duration = Duration::from_secs(size("DURATION_SEC", 8));
    let mut topics = Vec::new();
    for node in 1..=3 {
        topics.push(topic_on(&addresses[0], node).await);
    }
    for n in [1, 2] {
        assert!(cluster.broker(n).terminate().await.success());
    }
    let alone = loaded(cluster.broker(0), topics[0].clone(), duration).await;
    eprintln!("one broker alone: {alone:.2?}");
    for n in [1, 2] {
        cluster.broker(n).relaunch();
        cluster.broker(n).wait_ready().await;
    }
    wait_until("every broker leads its own", DEADLINE, async || {
        let now = leaders(&addresses[0]).await;
        now.keys().eq(&[1, 2, 3])
            && (1..=3).all(|node| now[&node].iter().all(|(topic, _)| *topic == topics[node as usize - 1]))
    })
    .await;
    let (first, others) = (&cluster.stack.broker, &cluster.others);
    let (a, b, c) = tokio::join!(
        loaded(first, topics[0].clone(), duration),
        loaded(&others[0], topics[1].clone(), duration),
        loaded(&others[1], topics[2].clone(), duration),
    );
    // One PUT per interval, and one that every half segment of data pays for.
    let allowed = 1000.0 / FLUSH_MS as f64 + BYTES_PER_S / SEGMENT_BYTES * 2.0;
    let all = [a, b, c];
    let cpu = all.iter().map(|s| s.cpu_ms_per_mb).sum::<f64>() / 3.0;
    eprintln!(
        "three brokers: {all:.2?}; {allowed:.2} PUTs/s are allowed each; {:.2} times the CPU per MB",
        cpu / alone.cpu_ms_per_mb
    );
    for share in [alone].iter().chain(&all) {
        assert!(share.puts_per_s > 0.0 && share.puts_per_s <= allowed * PUT_RATIO_MAX, "{share:?}");
    }
}
