//! How large topics are in the object store: each broker is asked for the partitions that it leads.

use crate::ids::{PartitionIndex, PartitionKey};
use crate::metadata::image::{ClusterImage, Topic};
use crate::web::kafka::{KafkaClient, KafkaError, PartitionOf, Target, topic_name};
use crate::web::state::Missing;
use futures::future::join_all;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A list that is sorted by size may be so old.
const AGE_MAX: Duration = Duration::from_secs(30);
/// Partitions that brokers are asked about at a time for it.
const PARTITIONS_AT_A_TIME: i32 = 5_000;

/// Bytes of each partition of these that its leader tells; partitions are given by leader.
pub async fn of_partitions(
    kafka: &KafkaClient,
    by_leader: BTreeMap<i32, Vec<PartitionOf>>,
    deadline: Instant,
) -> (HashMap<PartitionOf, u64>, Vec<Missing>) {
    let asked = by_leader.into_iter().map(|(leader, partitions)| async move {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics.entry(topic).or_default().push(partition);
        }
        let topic = |(name, partitions): (String, Vec<i32>)| {
            DescribableLogDirTopic::default().with_topic(topic_name(&name)).with_partitions(partitions)
        };
        let request = DescribeLogDirsRequest::default().with_topics(Some(topics.into_iter().map(topic).collect()));
        (leader, kafka.call(Target::Node(leader), request, deadline).await)
    });
    let (mut sizes, mut missing) = (HashMap::new(), Vec::new());
    for (leader, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => read(&answer, |topic, partition, bytes| {
                sizes.insert((topic.to_owned(), partition), bytes);
            }),
            Err(error) => missing.push(of_broker(leader, &error)),
        }
    }
    (sizes, missing)
}

/// That a broker did not answer.
pub fn of_broker(broker: i32, error: &KafkaError) -> Missing {
    Missing { source: format!("broker {broker}"), reason: error.to_string(), since_ms: None }
}

fn read(answer: &DescribeLogDirsResponse, mut take: impl FnMut(&str, i32, u64)) {
    for topic in answer.results.iter().flat_map(|dir| &dir.topics) {
        for p in topic.partitions.iter().filter(|p| p.partition_size >= 0) {
            take(&topic.name, p.partition_index, p.partition_size as u64);
        }
    }
}

/// Bytes of each topic, for lists in this order.
#[derive(Debug, Default)]
pub struct Sizes {
    /// By topic.
    pub topics: HashMap<Arc<str>, u64>,
    /// When they were asked for, Unix milliseconds.
    pub as_of_ms: i64,
    /// Brokers that did not answer.
    pub missing: Vec<Missing>,
}

/// All topics' sizes, asked for when somebody wants them and kept for a while. Who comes while they are asked for waits for the
/// same answer.
#[derive(Default)]
pub struct SizeIndex(Mutex<Option<(Instant, Arc<Sizes>)>>);

impl SizeIndex {
    /// Sizes that are not too old. Brokers are asked about so many partitions at a time that answers need little memory.
    pub async fn get(&self, kafka: &KafkaClient, image: &ClusterImage, now_ms: i64, deadline: Instant) -> Arc<Sizes> {
        let mut known = self.0.lock().await;
        if let Some((at, sizes)) = &*known
            && at.elapsed() < AGE_MAX
            && sizes.missing.is_empty()
        {
            return sizes.clone();
        }
        let mut sizes = Sizes { as_of_ms: now_ms, ..Sizes::default() };
        let mut portion: Vec<&Arc<Topic>> = Vec::new();
        let mut partitions = 0;
        for topic in image.topics() {
            portion.push(topic);
            partitions += topic.value.partitions;
            if partitions >= PARTITIONS_AT_A_TIME {
                measure(kafka, image, &std::mem::take(&mut portion), &mut sizes, deadline).await;
                partitions = 0;
            }
        }
        measure(kafka, image, &portion, &mut sizes, deadline).await;
        let sizes = Arc::new(sizes);
        *known = Some((crate::clock::monotonic(), sizes.clone()));
        sizes
    }
}

/// Adds the sizes of these topics.
async fn measure(
    kafka: &KafkaClient,
    image: &ClusterImage,
    topics: &[&Arc<Topic>],
    sizes: &mut Sizes,
    deadline: Instant,
) {
    let mut by_leader: BTreeMap<i32, Vec<PartitionOf>> = BTreeMap::new();
    for topic in topics {
        for partition in 0..topic.value.partitions {
            let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(partition) };
            if let Some(leader) = image.leader(&key) {
                by_leader.entry(leader.0).or_default().push((topic.name.to_string(), partition));
            }
        }
    }
    if by_leader.is_empty() {
        return;
    }
    let (bytes, missing) = of_partitions(kafka, by_leader, deadline).await;
    for topic in topics {
        let each = (0..topic.value.partitions).map(|partition| (topic.name.to_string(), partition));
        let known: Vec<u64> = each.filter_map(|at| bytes.get(&at).copied()).collect();
        if !known.is_empty() {
            sizes.topics.insert(topic.name.clone(), known.iter().sum());
        }
    }
    for one in missing {
        if !sizes.missing.iter().any(|known| known.source == one.source) {
            sizes.missing.push(one);
        }
    }
}
