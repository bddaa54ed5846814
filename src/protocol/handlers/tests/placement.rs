//! DescribeLogDirs, AlterReplicaLogDirs, ElectLeaders, reassignments, DescribeProducers, UpdateFeatures.

use super::*;
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeProducersRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest, UpdateFeaturesRequest,
};

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// Topics `a` with two partitions, of which only the first is served, and `b` with one.
async fn bed() -> Bed {
    let bed = Bed::new(false).await;
    bed.topic("a", 2, &[]).await;
    bed.topic("b", 1, &[]).await;
    bed.partition("a", 1).view.close();
    bed
}

#[test]
fn sizes_are_those_of_the_extents() {
    run(|| async {
        let bed = bed().await;
        let batch = batch_of(&[7; 1000]);
        let len = batch.len() as i64;
        for _ in 0..3 {
            assert_eq!(bed.produce("a", 0, batch.clone()).await.0, 0);
        }
        let rows = |response: &DescribeLogDirsResponse| {
            let topics = response.results[0].topics.iter();
            let rows = topics
                .flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p.partition_index, p.partition_size)));
            rows.collect::<Vec<_>>()
        };
        let row = |n: &str, index, size| (n.to_owned(), index, size);
        for version in 1..=4 {
            let response = bed.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
            let dir = &response.results[0];
            assert_eq!((response.error_code, response.results.len(), dir.error_code), (0, 1, 0));
            assert_eq!((dir.log_dir.as_str(), dir.total_bytes, dir.usable_bytes), ("s3://bucket/test", -1, -1));
            assert_eq!(rows(&response), [row("a", 0, 3 * len), row("b", 0, 0)], "version {version}");
        }
        let asked = |topic: &str, partitions: &[i32]| {
            DescribableLogDirTopic::default().with_topic(name(topic)).with_partitions(partitions.to_vec())
        };
        let topics = vec![asked("a", &[0, 1, 7, 0]), asked("none", &[0])];
        let response = bed.call(4, &DescribeLogDirsRequest::default().with_topics(Some(topics))).await;
        assert_eq!(rows(&response), [row("a", 0, 3 * len)], "no word on what is not here");
        let response = bed.call(4, &DescribeLogDirsRequest::default().with_topics(Some(vec![]))).await;
        assert_eq!((rows(&response).len(), response.results.len()), (0, 1));
    });
}

#[test]
fn there_is_one_log_directory() {
    run(|| async {
        let bed = bed().await;
        let dir = |path: &str, topic: &str, partitions: &[i32]| {
            let topic = AlterReplicaLogDirTopic::default().with_name(name(topic)).with_partitions(partitions.to_vec());
            AlterReplicaLogDir::default().with_path(text(path)).with_topics(vec![topic])
        };
        for version in 1..=2 {
            let dirs = vec![
                dir("/elsewhere", "a", &[0, 1, 2, 0]),
                dir("/elsewhere", "none", &[0]),
                dir("s3://bucket/test", "b", &[0]),
            ];
            let response = bed.call(version, &AlterReplicaLogDirsRequest::default().with_dirs(dirs)).await;
            let rows: Vec<_> = response
                .results
                .iter()
                .flat_map(|t| t.partitions.iter().map(|p| (t.topic_name.to_string(), p.partition_index, p.error_code)))
                .collect();
            let row = |n: &str, index, code| (n.to_owned(), index, code);
            let expected = [row("a", 0, 57), row("a", 1, 6), row("a", 2, 3), row("b", 0, 0), row("none", 0, 3)];
            assert_eq!(rows, expected, "version {version}");
        }
        let response = bed.call(2, &AlterReplicaLogDirsRequest::default()).await;
        assert!(response.results.is_empty());
    });
}

#[test]
fn the_preferred_leader_leads() {
    run(|| async {
        let bed = bed().await;
        let asked = |topic: &str, partitions: &[i32]| {
            TopicPartitions::default().with_topic(name(topic)).with_partitions(partitions.to_vec())
        };
        let elect = async |version: i16, kind: i8, topics: Option<Vec<TopicPartitions>>| {
            let request = ElectLeadersRequest::default().with_election_type(kind).with_topic_partitions(topics);
            let response = bed.call(version, &request).await;
            let rows = response
                .replica_election_results
                .iter()
                .flat_map(|t| t.partition_result.iter().map(|p| (t.topic.to_string(), p.partition_id, p.error_code)));
            (response.error_code, rows.collect::<Vec<_>>())
        };
        let row = |n: &str, index, code| (n.to_owned(), index, code);
        for version in 0..=2 {
            // Case 21, and a partition without leader, one that does not exist, topics that do not.
            let topics = vec![asked("a", &[0, 1, 2]), asked("none", &[0]), asked("a/b", &[0])];
            let expected = vec![row("a", 0, 84), row("a", 1, 80), row("a", 2, 3), row("none", 0, 3), row("a/b", 0, 3)];
            assert_eq!(elect(version, 0, Some(topics)).await, (0, expected), "version {version}");
            assert_eq!(elect(version, 0, Some(vec![])).await, (0, vec![]));
        }
        assert_eq!(elect(2, 1, Some(vec![asked("a", &[0, 1])])).await, (0, vec![row("a", 0, 84), row("a", 1, 83)]));
        assert_eq!(elect(2, 0, None).await, (0, vec![row("a", 1, 80)]), "of all, only what has not its leader");
        assert_eq!(elect(2, 7, Some(vec![asked("a", &[0])])).await, (42, vec![]));
    });
}

#[test]
fn nothing_is_being_reassigned() {
    run(|| async {
        let bed = bed().await;
        let topic = ListPartitionReassignmentsTopics::default().with_name(name("a")).with_partition_indexes(vec![0]);
        for topics in [None, Some(vec![topic]), Some(vec![])] {
            let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
            let response = bed.call(0, &request).await;
            assert_eq!((response.error_code, response.topics.len()), (0, 0));
        }
        let partition = |index, replicas: Option<&[i32]>| {
            let replicas = replicas.map(|r| r.iter().map(|id| (*id).into()).collect());
            ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
        };
        let topic = |n: &str, partitions| ReassignableTopic::default().with_name(name(n)).with_partitions(partitions);
        let alter = async |version: i16, topics: Vec<ReassignableTopic>| {
            let response = bed.call(version, &AlterPartitionReassignmentsRequest::default().with_topics(topics)).await;
            let partitions = response.responses.iter().flat_map(|t| &t.partitions);
            let row = |p: &kafka_protocol::messages::alter_partition_reassignments_response::ReassignablePartitionResponse| {
                assert_eq!(p.error_message.is_some(), p.error_code != 0);
                (p.partition_index, p.error_code)
            };
            (response.error_code, partitions.map(row).collect::<Vec<_>>())
        };
        for version in 0..=1 {
            let partitions = vec![
                partition(0, Some(&[1])),
                partition(0, Some(&[1, 2])),
                partition(0, Some(&[2])),
                partition(0, Some(&[1, 1])),
                partition(0, Some(&[])),
                partition(0, None),
                partition(1, Some(&[1])),
                partition(2, Some(&[1])),
            ];
            let expected = vec![(0, 0), (0, 39), (0, 39), (0, 39), (0, 39), (0, 85), (1, 0), (2, 3)];
            assert_eq!(alter(version, vec![topic("a", partitions)]).await, (0, expected), "version {version}");
        }
        assert_eq!(alter(1, vec![topic("none", vec![partition(0, None)])]).await, (0, vec![(0, 3)]));
        let twice = vec![topic("a", vec![partition(0, None)]), topic("a", vec![partition(0, None)])];
        assert_eq!(alter(1, twice).await, (0, vec![(0, 42), (0, 42)]));
        assert_eq!(alter(1, vec![]).await, (0, vec![]));
    });
}

#[test]
fn producers_are_described() {
    run(|| async {
        let bed = bed().await;
        bed.produce("a", 0, batch_of(b"x")).await;
        let asked = |topic: &str, partitions: &[i32]| {
            TopicRequest::default().with_name(name(topic)).with_partition_indexes(partitions.to_vec())
        };
        let topics = vec![asked("a", &[0, 1, 2]), asked("b", &[0]), asked("none", &[0]), asked("..", &[0])];
        let response = bed.call(0, &DescribeProducersRequest::default().with_topics(topics)).await;
        let partitions: Vec<_> = response.topics.iter().flat_map(|t| &t.partitions).collect();
        let codes: Vec<_> = partitions.iter().map(|p| (p.error_code, p.active_producers.len())).collect();
        assert_eq!(codes, [(0, 1), (6, 0), (3, 0), (0, 0), (3, 0), (3, 0)]);
        assert!(partitions.iter().all(|p| p.error_message.is_some() == (p.error_code != 0)));
        let producer = &partitions[0].active_producers[0];
        assert_eq!((producer.producer_id.0, producer.producer_epoch, producer.last_sequence), (9, 2, 7));
        assert_eq!((producer.coordinator_epoch, producer.current_txn_start_offset), (-1, -1));
    });
}

#[test]
fn features_cannot_be_set_to_another_level() {
    run(|| async {
        let bed = Bed::new(false).await;
        let update = FeatureUpdateKey::default().with_feature(text("metadata.version")).with_max_version_level(27);
        for version in 0..=2 {
            let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update.clone()]);
            let response = bed.call(version, &request).await;
            let code = if version >= 2 { response.error_code } else { response.results[0].error_code };
            assert_eq!(code, 95, "version {version}");
            assert_eq!(bed.call(version, &UpdateFeaturesRequest::default()).await.error_code, 0);
        }
    });
}
