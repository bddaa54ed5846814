//! What every administrative API answers to nonsense: Kafka's code, and a message wherever the response has room for one.
//! What may not be answered ends the connection: versions that do not exist, and requests that are too large.

use super::refusals::ends_the_connection;
use super::{dev, is_alive, topic};
use crate::client::{Client, text, topic_name};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

/// An API and its codes for an unknown entity, one entity twice, too long a name, and a negative number.
type Row = (ApiKey, &'static [i16], &'static [i16], &'static [i16], &'static [i16]);

/// Error codes of a response's rows. Panics if a row with a code lacks a message although `rows` have messages.
fn with_messages<'a>(rows: impl Iterator<Item = (i16, &'a Option<StrBytes>)>) -> Vec<i16> {
    rows.map(|(code, message)| {
        let text = message.as_ref().map_or("", |m| m.as_str());
        assert_eq!(code != 0, text.len() > 10, "{code} {text:?}");
        code
    })
    .collect()
}

/// Codes that `key` answers when it is asked about these entities: topics with `count` partitions, or with a partition
/// or an offset `count`.
async fn codes(client: &mut Client, key: ApiKey, names: &[&str], count: i32) -> Vec<i16> {
    let topics = names.iter();
    match key {
        ApiKey::CreateTopics => {
            let topics = topics.map(|n| {
                CreatableTopic::default().with_name(topic_name(n)).with_num_partitions(count).with_replication_factor(1)
            });
            let request = CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = client.call(7, &request).await.unwrap();
            with_messages(response.topics.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::DeleteTopics => {
            let topics = topics.map(|n| DeleteTopicState::default().with_name(Some(topic_name(n))));
            let request = DeleteTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = client.call(6, &request).await.unwrap();
            with_messages(response.responses.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::CreatePartitions => {
            let topics = topics.map(|n| {
                CreatePartitionsTopic::default().with_name(topic_name(n)).with_count(count).with_assignments(None)
            });
            let request = CreatePartitionsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = client.call(3, &request).await.unwrap();
            with_messages(response.results.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::DeleteRecords => {
            let partition = DeleteRecordsPartition::default().with_offset(i64::from(count));
            let topics = topics.map(|n| {
                DeleteRecordsTopic::default().with_name(topic_name(n)).with_partitions(vec![partition.clone()])
            });
            let response =
                client.call(2, &DeleteRecordsRequest::default().with_topics(topics.collect())).await.unwrap();
            response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        ApiKey::DescribeConfigs => {
            let resources = topics.map(|n| {
                DescribeConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(n))
                    .with_configuration_keys(None)
            });
            let response =
                client.call(4, &DescribeConfigsRequest::default().with_resources(resources.collect())).await.unwrap();
            with_messages(response.results.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::AlterConfigs => {
            let config = alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.bytes"))
                .with_value(Some(text(&count.to_string())));
            let resources = topics.map(|n| {
                alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(n))
                    .with_configs(vec![config.clone()])
            });
            let response =
                client.call(2, &AlterConfigsRequest::default().with_resources(resources.collect())).await.unwrap();
            with_messages(response.responses.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = incremental_alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text(&count.to_string())));
            let resources = topics.map(|n| {
                incremental_alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(n))
                    .with_configs(vec![config.clone()])
            });
            let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect());
            let response = client.call(1, &request).await.unwrap();
            with_messages(response.responses.iter().map(|t| (t.error_code, &t.error_message)))
        }
        _ => placement_codes(client, key, names, count).await,
    }
}

/// The same for the APIs that ask for partitions of topics.
async fn placement_codes(client: &mut Client, key: ApiKey, names: &[&str], index: i32) -> Vec<i16> {
    let topics = names.iter();
    match key {
        ApiKey::ElectLeaders => {
            let topics = topics.map(|n| {
                elect_leaders_request::TopicPartitions::default().with_topic(topic_name(n)).with_partitions(vec![index])
            });
            let request = ElectLeadersRequest::default().with_topic_partitions(Some(topics.collect()));
            let response = client.call(2, &request).await.unwrap();
            let rows = response.replica_election_results.iter().flat_map(|t| &t.partition_result);
            with_messages(rows.map(|p| (p.error_code, &p.error_message)))
        }
        ApiKey::AlterPartitionReassignments => {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default()
                .with_partition_index(index)
                .with_replicas(Some(vec![1.into()]));
            let topics = topics.map(|n| {
                alter_partition_reassignments_request::ReassignableTopic::default()
                    .with_name(topic_name(n))
                    .with_partitions(vec![partition.clone()])
            });
            let request = AlterPartitionReassignmentsRequest::default().with_topics(topics.collect());
            let response = client.call(1, &request).await.unwrap();
            let rows = response.responses.iter().flat_map(|t| &t.partitions);
            with_messages(rows.map(|p| (p.error_code, &p.error_message)))
        }
        ApiKey::AlterReplicaLogDirs => {
            let topics = topics.map(|n| {
                alter_replica_log_dirs_request::AlterReplicaLogDirTopic::default()
                    .with_name(topic_name(n))
                    .with_partitions(vec![index])
            });
            let dir = alter_replica_log_dirs_request::AlterReplicaLogDir::default()
                .with_path(text("s3://bucket/test"))
                .with_topics(topics.collect());
            let response = client.call(2, &AlterReplicaLogDirsRequest::default().with_dirs(vec![dir])).await.unwrap();
            response.results.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        ApiKey::DescribeProducers => {
            let topics = topics.map(|n| {
                describe_producers_request::TopicRequest::default()
                    .with_name(topic_name(n))
                    .with_partition_indexes(vec![index])
            });
            let response =
                client.call(0, &DescribeProducersRequest::default().with_topics(topics.collect())).await.unwrap();
            let rows = response.topics.iter().flat_map(|t| &t.partitions);
            with_messages(rows.map(|p| (p.error_code, &p.error_message)))
        }
        ApiKey::UpdateFeatures => {
            let updates = names.iter().map(|n| {
                update_features_request::FeatureUpdateKey::default()
                    .with_feature(text(n))
                    .with_max_version_level(index as i16)
            });
            let request = UpdateFeaturesRequest::default().with_feature_updates(updates.collect());
            let response = client.call(1, &request).await.unwrap();
            with_messages(response.results.iter().map(|r| (r.error_code, &r.error_message)))
        }
        other => panic!("{other:?} is no administrative API"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_administrative_api() {
    let stack = dev("refused-admin", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 2, &[]).await;
    let apis = client.api_versions().await.unwrap();
    let long = "x".repeat(250);
    // An empty list is an empty list, everywhere.
    let table: &[Row] = &[
        (ApiKey::CreateTopics, &[0], &[42], &[17], &[37]),
        (ApiKey::CreatePartitions, &[3], &[42], &[3], &[37]),
        (ApiKey::DeleteRecords, &[3], &[1, 1], &[3], &[1]),
        (ApiKey::DescribeConfigs, &[3], &[0, 0], &[17], &[0]),
        (ApiKey::AlterConfigs, &[3], &[42], &[17], &[0]),
        (ApiKey::IncrementalAlterConfigs, &[3], &[42], &[17], &[40]),
        (ApiKey::ElectLeaders, &[3], &[3, 3], &[3], &[3]),
        (ApiKey::AlterPartitionReassignments, &[3], &[42, 42], &[3], &[3]),
        (ApiKey::AlterReplicaLogDirs, &[3], &[3], &[3], &[3]),
        (ApiKey::DescribeProducers, &[3], &[3, 3], &[3], &[3]),
        (ApiKey::UpdateFeatures, &[95], &[42, 42], &[95], &[95]),
        (ApiKey::DeleteTopics, &[3], &[42], &[3], &[0]),
    ];
    for (key, unknown, twice, too_long, negative) in table {
        let mut codes = async |names: &[&str], count| codes(&mut client, *key, names, count).await;
        assert_eq!(codes(&["none"], 7).await, *unknown, "{key:?}: unknown");
        assert_eq!(codes(&["t", "t"], 7).await, *twice, "{key:?}: twice");
        assert_eq!(codes(&[&long], 7).await, *too_long, "{key:?}: too long a name");
        let negative_of = if *key == ApiKey::CreateTopics { "new" } else { "t" };
        assert_eq!(codes(&[negative_of], -2).await, *negative, "{key:?}: negative");
        assert_eq!(codes(&[], 7).await, [0i16; 0], "{key:?}: nothing");
        let api = apis.iter().find(|api| api.api_key == *key as i16).expect("it is advertised");
        ends_the_connection(&stack, api).await;
        if *key == ApiKey::CreateTopics {
            let deleted = self::codes(&mut client, ApiKey::DeleteTopics, &["none"], 0).await;
            assert_eq!(deleted, [0], "it was new");
        }
    }
    is_alive(&stack).await;
}
