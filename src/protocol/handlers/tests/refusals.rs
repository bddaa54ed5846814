//! What every administrative API answers to nonsense: Kafka's code, and a message wherever the response has room for one.
//!
//! Wrong versions and requests that are too large never reach a handler; `integration/protocol/refusals.rs` sends
//! them, and what groups and lists are asked in vain.

use super::*;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::*;

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
async fn codes(bed: &Bed, key: ApiKey, names: &[&str], count: i32) -> Vec<i16> {
    let text = |s: &str| StrBytes::from_string(s.to_owned());
    let topics = names.iter();
    match key {
        ApiKey::CreateTopics => {
            let topics = topics.map(|n| {
                CreatableTopic::default().with_name(name(n)).with_num_partitions(count).with_replication_factor(1)
            });
            let request = CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = bed.call(7, &request).await;
            with_messages(response.topics.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::DeleteTopics => {
            let topics = topics.map(|n| DeleteTopicState::default().with_name(Some(name(n))));
            let request = DeleteTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = bed.call(6, &request).await;
            with_messages(response.responses.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::CreatePartitions => {
            let topics = topics
                .map(|n| CreatePartitionsTopic::default().with_name(name(n)).with_count(count).with_assignments(None));
            let request = CreatePartitionsRequest::default().with_topics(topics.collect()).with_timeout_ms(9_000);
            let response = bed.call(3, &request).await;
            with_messages(response.results.iter().map(|t| (t.error_code, &t.error_message)))
        }
        ApiKey::DeleteRecords => {
            let partition = DeleteRecordsPartition::default().with_offset(i64::from(count));
            let topics = topics
                .map(|n| DeleteRecordsTopic::default().with_name(name(n)).with_partitions(vec![partition.clone()]));
            let response = bed.call(2, &DeleteRecordsRequest::default().with_topics(topics.collect())).await;
            response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        ApiKey::DescribeConfigs => {
            let resources = topics.map(|n| {
                DescribeConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(n))
                    .with_configuration_keys(None)
            });
            let response = bed.call(4, &DescribeConfigsRequest::default().with_resources(resources.collect())).await;
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
            let response = bed.call(2, &AlterConfigsRequest::default().with_resources(resources.collect())).await;
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
            let response = bed.call(1, &request).await;
            with_messages(response.responses.iter().map(|t| (t.error_code, &t.error_message)))
        }
        _ => placement_codes(bed, key, names, count).await,
    }
}

/// The same for the APIs that ask for partitions of topics.
async fn placement_codes(bed: &Bed, key: ApiKey, names: &[&str], index: i32) -> Vec<i16> {
    let text = |s: &str| StrBytes::from_string(s.to_owned());
    let topics = names.iter();
    match key {
        ApiKey::ElectLeaders => {
            let topics = topics.map(|n| {
                elect_leaders_request::TopicPartitions::default().with_topic(name(n)).with_partitions(vec![index])
            });
            let request = ElectLeadersRequest::default().with_topic_partitions(Some(topics.collect()));
            let response = bed.call(2, &request).await;
            let rows = response.replica_election_results.iter().flat_map(|t| &t.partition_result);
            with_messages(rows.map(|p| (p.error_code, &p.error_message)))
        }
        ApiKey::AlterPartitionReassignments => {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default()
                .with_partition_index(index)
                .with_replicas(Some(vec![1.into()]));
            let topics = topics.map(|n| {
                alter_partition_reassignments_request::ReassignableTopic::default()
                    .with_name(name(n))
                    .with_partitions(vec![partition.clone()])
            });
            let request = AlterPartitionReassignmentsRequest::default().with_topics(topics.collect());
            let response = bed.call(1, &request).await;
            let rows = response.responses.iter().flat_map(|t| &t.partitions);
            with_messages(rows.map(|p| (p.error_code, &p.error_message)))
        }
        ApiKey::AlterReplicaLogDirs => {
            let topics = topics.map(|n| {
                alter_replica_log_dirs_request::AlterReplicaLogDirTopic::default()
                    .with_name(name(n))
                    .with_partitions(vec![index])
            });
            let dir = alter_replica_log_dirs_request::AlterReplicaLogDir::default()
                .with_path(text("s3://bucket/test"))
                .with_topics(topics.collect());
            let response = bed.call(2, &AlterReplicaLogDirsRequest::default().with_dirs(vec![dir])).await;
            response.results.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        ApiKey::DescribeProducers => {
            let topics = topics.map(|n| {
                describe_producers_request::TopicRequest::default()
                    .with_name(name(n))
                    .with_partition_indexes(vec![index])
            });
            let response = bed.call(0, &DescribeProducersRequest::default().with_topics(topics.collect())).await;
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
            let response = bed.call(1, &request).await;
            with_messages(response.results.iter().map(|r| (r.error_code, &r.error_message)))
        }
        other => panic!("{other:?} is no administrative API"),
    }
}

#[test]
fn every_administrative_api() {
    run(|| async {
        let bed = Bed::new(false).await;
        bed.topic("t", 2, &[]).await;
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
            assert_eq!(codes(&bed, *key, &["none"], 7).await, *unknown, "{key:?}: unknown");
            assert_eq!(codes(&bed, *key, &["t", "t"], 7).await, *twice, "{key:?}: twice");
            assert_eq!(codes(&bed, *key, &[&long], 7).await, *too_long, "{key:?}: too long a name");
            let negative_of = if *key == ApiKey::CreateTopics { "new" } else { "t" };
            assert_eq!(codes(&bed, *key, &[negative_of], -2).await, *negative, "{key:?}: negative");
            assert_eq!(codes(&bed, *key, &[], 7).await, [0i16; 0], "{key:?}: nothing");
            if *key == ApiKey::CreateTopics {
                assert_eq!(codes(&bed, ApiKey::DeleteTopics, &["none"], 0).await, [0], "it was new");
            }
        }
    });
}
