//! What Kafka clients demand of a broker, as raw requests against the real binary. The numbers are those of the list of
//! cases that this broker was designed with. What needs no socket is tested beside the handlers, too, in every version.

mod admin;
mod changes;
mod connection;
mod fetch;
mod groups;
mod produce;
mod refusals;
mod refused_admin;

use crate::client::{Client, Connection, text, topic_name};
use crate::harness::{Backend, Stack};
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{CreateTopicsRequest, ProduceRequest};
use kafscale::protocol::records::BatchBuilder;

/// A `kafscale dev` that flushes at once.
async fn dev(name: &str, envs: &[(&str, &str)]) -> Stack {
    let mut all = vec![("KAFSCALE_FLUSH_INTERVAL_MS", "10")];
    all.extend(envs);
    Stack::start(name, Backend::Dev, &all).await
}

/// The broker's wall time is this process's.
fn now_ms() -> i64 {
    kafscale::clock::Clock::system().wall_ms()
}

/// A batch of values with keys and the current time.
fn batch(values: &[&[u8]]) -> Bytes {
    values.iter().fold(BatchBuilder::new(), |b, v| b.record(now_ms(), Some(b"key"), Some(v))).build()
}

/// A topic to create; a replication factor and, with -1, a number of partitions of the broker's choice.
fn new_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.collect())
}

/// The answers to creating `topics`, in order.
async fn create(client: &mut Client, topics: Vec<CreatableTopic>, validate_only: bool) -> Vec<CreatableTopicResult> {
    let request =
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000).with_validate_only(validate_only);
    client.call(7, &request).await.expect("CreateTopics is answered").topics
}

/// Creates a topic that can be used at once.
async fn topic(client: &mut Client, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let created = create(client, vec![new_topic(name, partitions, configs)], false).await;
    assert_eq!(created[0].error_code, 0, "{:?}", created[0]);
    client.ensure_topic(name, partitions).await;
}

/// A Produce request of one batch per partition.
fn produce_request(topic: &str, acks: i16, batches: &[(i32, Bytes)]) -> ProduceRequest {
    let partitions = batches
        .iter()
        .map(|(index, batch)| PartitionProduceData::default().with_index(*index).with_records(Some(batch.clone())));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(partitions.collect());
    ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// The answer for partition 0 to one batch.
async fn produce(client: &mut Client, topic: &str, batch: Bytes) -> PartitionProduceResponse {
    client.produce(topic, 0, batch).await.expect("Produce is answered")
}

/// Error code and base offset of one batch to partition 0.
async fn outcome(client: &mut Client, topic: &str, batch: Bytes) -> (i16, i64) {
    let answer = produce(client, topic, batch).await;
    (answer.error_code, answer.base_offset)
}

/// First offset that is not committed in partition 0.
async fn end(client: &mut Client, topic: &str) -> i64 {
    client.list_offset(topic, 0, crate::client::LATEST).await.expect("ListOffsets is answered")
}

/// The broker still answers.
async fn is_alive(stack: &Stack) {
    let mut connection = Connection::open(&stack.address()).await.expect("the broker accepts");
    let request = kafka_protocol::messages::ApiVersionsRequest::default();
    connection.call(0, &request).await.expect("the broker answers");
}
