//! Cases 18, 20 and 35: what administrators change while a topic is in use.

use super::{dev, end, topic};
use crate::client::{Batch, Client, EARLIEST, text, topic_name};
use crate::harness::{Backend, Stack, wait_until};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteRecordsRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, IncrementalAlterConfigsRequest,
};
use std::time::Duration;

/// Code per topic of asking for so many partitions.
async fn grow(client: &mut Client, topics: &[(&str, i32)]) -> Vec<i16> {
    let topics = topics.iter().map(|(name, count)| {
        CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(*count).with_assignments(None)
    });
    let request = CreatePartitionsRequest::default().with_topics(topics.collect()).with_timeout_ms(30_000);
    client.call(3, &request).await.unwrap().results.iter().map(|r| r.error_code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_grow() {
    let mut stack = dev("grow-cases", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 3, &[]).await;
    client.produce_values("t", 2, &[b"before"]).await;

    // 18. More, fewer, and of a topic that does not exist: a row for each.
    assert_eq!(grow(&mut client, &[("t", 5)]).await, [0]);
    let answer = client.produce("t", 4, Batch::of(&[b"after"]).encode()).await.unwrap();
    assert_eq!((answer.error_code, answer.base_offset), (0, 0), "the new partition is led when the answer comes");
    assert_eq!(grow(&mut client, &[("t", 2), ("none", 4)]).await, [37, 3]);

    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 5).await;
    assert_eq!(client.read_all("t", 2).await.len(), 1);
    assert_eq!(client.read_all("t", 4).await.len(), 1);
}

/// Code and low watermark of deleting what is below `offset` in partition 0.
async fn delete(client: &mut Client, topic: &str, offset: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer = client.call(2, &request).await.unwrap();
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

async fn records_go(backend: Backend) {
    let mut stack = Stack::start("delete-cases", backend, &[("KAFSCALE_FLUSH_INTERVAL_MS", "10")]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let (id, epoch) = client.init_producer_id().await.unwrap();
    for sequence in 0..4 {
        let batch = Batch::of(&[b"a", b"b"]).idempotent(id, epoch, sequence * 2).encode();
        assert_eq!(client.produce("t", 0, batch).await.unwrap().base_offset, i64::from(sequence) * 2);
    }
    // Inside a batch; again; too far; at the end. The log start is there for everybody when the answer comes.
    for (offset, expected) in [(3, (0, 3)), (2, (0, 3)), (9, (1, -1)), (-2, (1, -1)), (5, (0, 5))] {
        assert_eq!(delete(&mut client, "t", offset).await, expected, "{offset}");
        if expected.0 == 0 {
            assert_eq!(client.list_offset("t", 0, EARLIEST).await.unwrap(), expected.1);
        }
    }
    assert_eq!(client.fetch("t", 0, 4, 0, 1 << 20).await.unwrap().error_code, 1);
    let offsets: Vec<i64> = client.read_all("t", 0).await.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [5, 6, 7]);

    // What was answered survives SIGKILL.
    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 1).await;
    assert_eq!(client.list_offset("t", 0, EARLIEST).await.unwrap(), 5);

    // 35. Everything, then the producer's next sequence.
    assert_eq!(delete(&mut client, "t", -1).await, (0, 8));
    assert_eq!(client.read_all("t", 0).await, []);
    let batch = Batch::of(&[b"c"]).idempotent(id, epoch, 8).encode();
    let answer = client.produce("t", 0, batch).await.unwrap();
    assert_eq!((answer.error_code, answer.base_offset, answer.log_start_offset), (0, 8, 8));
    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 1).await;
    assert_eq!(client.list_offset("t", 0, EARLIEST).await.unwrap(), 8);
    assert_eq!(end(&mut client, "t").await, 9);
    let batch = Batch::of(&[b"d"]).idempotent(id, epoch, 9).encode();
    assert_eq!(client.produce("t", 0, batch).await.unwrap().base_offset, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_deleted_in_a_folder() {
    records_go(Backend::Dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_deleted_in_s3() {
    records_go(Backend::S3).await;
}

/// Code of one change of a config: 0 sets, 1 forgets, 2 appends, 3 subtracts.
async fn alter(client: &mut Client, kind: i8, of: &str, name: &str, operation: i8, value: &str) -> i16 {
    let config = AlterableConfig::default()
        .with_name(text(name))
        .with_config_operation(operation)
        .with_value((operation != 1).then(|| text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    client.call(1, &request).await.unwrap().responses[0].error_code
}

/// Value and source of a config.
async fn config(client: &mut Client, kind: i8, of: &str, name: &str) -> (String, i8) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configuration_keys(Some(vec![text(name)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(4, &request).await.unwrap();
    let config = &answer.results[0].configs[0];
    (config.value.as_ref().map_or_else(String::new, |v| v.to_string()), config.config_source)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_take_effect_and_stay() {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    let mut stack = dev("alter-cases", &[("KAFSCALE_MESSAGE_MAX_BYTES", "5000")]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let large = Batch::of(&[&[1; 6_000]]).encode();
    assert_eq!(client.produce("t", 0, large.clone()).await.unwrap().error_code, 10, "the variable counts");
    assert_eq!(alter(&mut client, BROKER, "", "message.max.bytes", 0, "7000").await, 0);
    assert_eq!(client.produce("t", 0, large.clone()).await.unwrap().error_code, 0, "changed at run time");
    assert_eq!(alter(&mut client, TOPIC, "t", "max.message.bytes", 0, "100").await, 0);
    assert_eq!(client.produce("t", 0, large.clone()).await.unwrap().error_code, 10, "the topic's own comes first");

    // 20. A list that is not set starts from its default.
    assert_eq!(alter(&mut client, TOPIC, "t", "cleanup.policy", 2, "compact").await, 0);
    assert_eq!(config(&mut client, TOPIC, "t", "cleanup.policy").await, ("delete,compact".to_owned(), 1));
    assert_eq!(alter(&mut client, TOPIC, "t", "cleanup.policy", 3, "compact").await, 0);

    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 1).await;
    assert_eq!(config(&mut client, TOPIC, "t", "cleanup.policy").await, ("delete".to_owned(), 1));
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes").await, ("100".to_owned(), 1));
    assert_eq!(alter(&mut client, TOPIC, "t", "max.message.bytes", 1, "").await, 0);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes").await, ("7000".to_owned(), 3));
    assert_eq!(alter(&mut client, BROKER, "", "message.max.bytes", 1, "").await, 0);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes").await, ("5000".to_owned(), 4));

    // Retention that is set for the whole cluster reaches the log.
    assert_eq!(alter(&mut client, BROKER, "", "log.retention.bytes", 0, "0").await, 0);
    wait_until("retention deletes the record", Duration::from_secs(90), async || {
        client.list_offset("t", 0, EARLIEST).await.is_ok_and(|start| start == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_and_producers_are_the_partitions() {
    let stack = Stack::start("describe-cases", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "10")]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 2, &[]).await;
    let (id, epoch) = client.init_producer_id().await.unwrap();
    let mut bytes = 0;
    for sequence in 0..3 {
        let batch = Batch::of(&[&[3; 2_000]]).idempotent(id, epoch, sequence).encode();
        bytes += batch.len() as i64;
        assert_eq!(client.produce("t", 1, batch).await.unwrap().error_code, 0);
    }
    let answer = client.call(4, &DescribeLogDirsRequest::default().with_topics(None)).await.unwrap();
    let dir = &answer.results[0];
    assert_eq!((answer.results.len(), dir.log_dir.as_str()), (1, "s3://kafscale-test/test"));
    let sizes: Vec<_> = dir.topics[0].partitions.iter().map(|p| (p.partition_index, p.partition_size)).collect();
    assert_eq!(sizes, [(0, 0), (1, bytes)]);

    let asked = TopicRequest::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 1]);
    let answer = client.call(0, &DescribeProducersRequest::default().with_topics(vec![asked])).await.unwrap();
    let partitions = &answer.topics[0].partitions;
    assert!(partitions[0].active_producers.is_empty());
    let producer = &partitions[1].active_producers[0];
    assert_eq!((producer.producer_id.0, producer.producer_epoch), (id, i32::from(epoch)));
    assert_eq!((producer.last_sequence, producer.last_timestamp > 0), (2, true));
}
