//! A load spread over many partitions at a fixed rate, for the tests of cost and breadth.
//!
//! Open loop: a request is sent when its time has come, whether or not earlier ones were answered, and its latency counts
//! from that time.

use crate::client::{Batch, Connection, PRODUCE_VERSION, topic_name};
use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use std::sync::Arc;
use std::time::Duration;

/// Requests a connection may have unanswered before the sender waits: brokers bound what they read ahead.
const UNANSWERED_MAX: usize = 1000;

/// A fixed-rate load.
#[derive(Debug, Clone)]
pub struct Spread {
    /// Topics that exist.
    pub topics: Vec<String>,
    /// Partitions of each.
    pub partitions_per_topic: i32,
    /// Connections, each with its share of the partitions.
    pub connections: usize,
    /// Requests per second over all connections.
    pub requests_per_s: u64,
    /// Partitions in each request; each gets one batch of one record.
    pub partitions_per_request: usize,
    /// Bytes of values per request, over all its partitions.
    pub value_bytes_per_request: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Batches acked without an error.
    pub acked: u64,
    /// Batches answered with an error code, and the last one.
    pub failed: u64,
    /// The last error code.
    pub last_code: i16,
    /// Latency of each request from the time it should have been sent, ms, unsorted.
    pub latencies_ms: Vec<u64>,
}

impl Outcome {
    /// The latency that `percent` of the requests did not exceed, ms.
    pub fn percentile_ms(&self, percent: f64) -> u64 {
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

impl Spread {
    /// Runs the load against the broker at `address` and waits for all answers.
    pub async fn run(&self, address: &str) -> Outcome {
        let all: Vec<(usize, i32)> = (0..self.topics.len())
            .flat_map(|topic| (0..self.partitions_per_topic).map(move |partition| (topic, partition)))
            .collect();
        let share = all.len().div_ceil(self.connections);
        let tasks: Vec<_> = all
            .chunks(share)
            .map(|chunk| {
                let (spread, address, chunk) = (Arc::new(self.clone()), address.to_string(), chunk.to_vec());
                tokio::spawn(async move { spread.run_connection(&address, &chunk).await })
            })
            .collect();
        let mut total = Outcome::default();
        for task in tasks {
            let outcome = task.await.expect("load task");
            total.acked += outcome.acked;
            total.failed += outcome.failed;
            total.last_code = if outcome.failed > 0 { outcome.last_code } else { total.last_code };
            total.latencies_ms.extend(outcome.latencies_ms);
        }
        total
    }

    async fn run_connection(&self, address: &str, partitions: &[(usize, i32)]) -> Outcome {
        let mut connection = Connection::open(address).await.expect("broker accepts connections");
        connection.deadline = Duration::from_secs(120);
        let value = vec![b'x'; self.value_bytes_per_request / self.partitions_per_request];
        let batch = Batch::of(&[&value]).encode();
        let interval = Duration::from_secs_f64(self.connections as f64 / self.requests_per_s as f64);
        let count = (self.duration.as_secs_f64() / interval.as_secs_f64()).round() as usize;
        let started = kafscale::clock::monotonic();
        let (mut sent, mut outcome) = (0, Outcome::default());
        let mut next_partition = 0;
        while outcome.latencies_ms.len() < count {
            let answered = outcome.latencies_ms.len();
            let due = started + interval * sent as u32;
            let may_send = sent < count && sent - answered < UNANSWERED_MAX;
            if may_send && (kafscale::clock::monotonic() >= due || sent == answered) {
                tokio::time::sleep_until(due).await;
                let request = self.request(partitions, &mut next_partition, &batch);
                connection.send(PRODUCE_VERSION, &request).await.expect("broker reads requests");
                sent += 1;
                continue;
            }
            // Something is unanswered: wait for the answer, but not beyond the time of the next request.
            let due = if may_send { due } else { started + Duration::from_secs(3600) };
            tokio::select! {
                biased;
                answer = connection.wait_readable() => answer.expect("broker answers"),
                () = tokio::time::sleep_until(due) => continue,
            }
            let answer = connection.receive::<ProduceRequest>(PRODUCE_VERSION).await.expect("broker answers");
            let intended = started + interval * answered as u32;
            outcome.latencies_ms.push(intended.elapsed().as_millis() as u64);
            for answered in answer.responses.iter().flat_map(|t| &t.partition_responses) {
                if answered.error_code == 0 {
                    outcome.acked += 1;
                } else {
                    outcome.failed += 1;
                    outcome.last_code = answered.error_code;
                }
            }
        }
        outcome
    }

    fn request(&self, partitions: &[(usize, i32)], next: &mut usize, batch: &Bytes) -> ProduceRequest {
        let mut topics: Vec<(usize, Vec<PartitionProduceData>)> = Vec::new();
        for _ in 0..self.partitions_per_request.min(partitions.len()) {
            let (topic, partition) = partitions[*next];
            *next = (*next + 1) % partitions.len();
            let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone()));
            match topics.iter_mut().find(|(t, _)| *t == topic) {
                Some((_, list)) => list.push(data),
                None => topics.push((topic, vec![data])),
            }
        }
        let topic = |(topic, data): (usize, Vec<PartitionProduceData>)| {
            TopicProduceData::default().with_name(topic_name(&self.topics[topic])).with_partition_data(data)
        };
        ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(60_000)
            .with_topic_data(topics.into_iter().map(topic).collect())
    }
}
