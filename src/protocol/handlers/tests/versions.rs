//! Every advertised version of every API gives a response that decodes, for what succeeds and for what fails. (The
//! codec refuses fields that a version does not have, so that a handler that sets one is found here.)

use super::*;
use crate::protocol::api;
use kafka_protocol::messages::api_versions_request::ApiVersionsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::*;

fn versions<R: KafkaRequest>() -> std::ops::RangeInclusive<i16> {
    let api = api::find(R::KEY).unwrap();
    api.min..=api.max
}

#[test]
fn produce_and_fetch() {
    run(|| async {
        let bed = Bed::new(false).await;
        let id = bed.topic("t", 2, &[("cleanup.policy", "compact")]).await;
        let no_key = crate::protocol::records::BatchBuilder::new().record(NOW_MS, None, None).build();
        let mut stored = 0;
        for version in versions::<ProduceRequest>() {
            // Stored; null key; unknown partition.
            let batches = vec![(0, batch_of(b"x")), (0, no_key.clone()), (7, batch_of(b"x"))];
            let mut request = produce_request("t", -1, batches);
            if version >= 13 {
                request.topic_data[0] = request.topic_data[0].clone().with_topic_id(id).with_name(name(""));
            }
            let response = bed.call(version, &request).await;
            let topic = &response.responses[0];
            if version >= 13 {
                assert_eq!(topic.topic_id, id);
            } else {
                assert_eq!(topic.name.as_str(), "t");
            }
            let rows: Vec<_> = topic.partition_responses.iter().map(|p| (p.error_code, p.base_offset)).collect();
            assert_eq!(rows, [(0, stored), (87, -1), (3, -1)], "version {version}");
            assert_eq!(topic.partition_responses[1].record_errors.len(), usize::from(version >= 8));
            stored += 1;
        }
        bed.partition("t", 1).view.close();
        for version in versions::<FetchRequest>() {
            // Records; no leader; unknown partition.
            let mut request = fetch_request("t", &[(0, 0), (1, 0), (7, 0)], 0).with_isolation_level(1);
            let topic = request.topics[0].clone();
            request.topics[0] = if version >= 13 { topic.with_topic_id(id).with_topic(name("")) } else { topic };
            request.replica_id = (-1).into();
            request.session_epoch = if version >= 7 { 0 } else { -1 };
            let response = bed.call(version, &request).await;
            let topic = &response.responses[0];
            let rows: Vec<_> = topic.partitions.iter().map(|p| (p.error_code, p.high_watermark)).collect();
            assert_eq!(rows, [(0, stored), (6, -1), (3, -1)], "version {version}");
            assert_eq!(response.session_id > 0, version >= 7);
        }
    });
}

#[test]
fn the_rest() {
    run(|| async {
        let bed = Bed::new(true).await;
        bed.topic("t", 2, &[]).await;
        bed.partition("t", 1).view.close();
        for version in versions::<ListOffsetsRequest>() {
            let partition = |index| {
                ListOffsetsPartition::default()
                    .with_partition_index(index)
                    .with_timestamp(-1)
                    .with_current_leader_epoch(-1)
            };
            let topic =
                ListOffsetsTopic::default().with_name(name("t")).with_partitions((0..3).map(partition).collect());
            let response = bed.call(version, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
            let codes: Vec<_> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [0, 6, 3], "version {version}");
        }
        for version in versions::<OffsetForLeaderEpochRequest>() {
            let partition = |index| OffsetForLeaderPartition::default().with_partition(index);
            let topic =
                OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions((0..3).map(partition).collect());
            let response = bed.call(version, &OffsetForLeaderEpochRequest::default().with_topics(vec![topic])).await;
            let codes: Vec<_> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [0, 6, 3], "version {version}");
        }
        for version in versions::<MetadataRequest>() {
            let topics = ["t", "unknown", "a/b"].map(|t| MetadataRequestTopic::default().with_name(Some(name(t))));
            let request = MetadataRequest::default()
                .with_topics(Some(topics.to_vec()))
                .with_allow_auto_topic_creation(version < 4)
                .with_include_topic_authorized_operations(version >= 8)
                .with_include_cluster_authorized_operations((8..=10).contains(&version));
            let response = bed.call(version, &request).await;
            let codes: Vec<_> = response.topics.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [0, 0, 17], "version {version}");
        }
        for version in versions::<ApiVersionsRequest>() {
            let named = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("c"))
                .with_client_software_version(StrBytes::from_static_str("1"));
            let request = if version >= 3 { named } else { ApiVersionsRequest::default() };
            assert_eq!(bed.call(version, &request).await.api_keys.len(), api::APIS.len());
        }
        for version in versions::<DescribeClusterRequest>() {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            assert_eq!(bed.call(version, &request).await.brokers.len(), 1);
        }
        for version in versions::<InitProducerIdRequest>() {
            assert_eq!(
                bed.call(version, &InitProducerIdRequest::default().with_transactional_id(None)).await.error_code,
                0
            );
        }
        let topics = ["t", "none"].map(|t| TopicRequest::default().with_name(name(t))).to_vec();
        let request = DescribeTopicPartitionsRequest::default().with_topics(topics).with_response_partition_limit(9);
        let response = bed.call(0, &request).await;
        let rows: Vec<_> = response.topics.iter().map(|t| (t.error_code, t.partitions.len())).collect();
        assert_eq!(rows, [(3, 0), (0, 2)], "in name order");
    });
}

#[test]
fn topics_and_configs() {
    run(|| async {
        let bed = Bed::new(false).await;
        for version in versions::<CreateTopicsRequest>() {
            let config = |value: &'static str| {
                CreatableTopicConfig::default()
                    .with_name(StrBytes::from_static_str("retention.ms"))
                    .with_value(Some(StrBytes::from_static_str(value)))
            };
            let topic = |topic: &str, value| {
                CreatableTopic::default()
                    .with_name(name(topic))
                    .with_num_partitions(1)
                    .with_replication_factor(1)
                    .with_configs(vec![config(value)])
            };
            let topics = vec![topic(&format!("t{version}"), "1"), topic("bad", "x")];
            let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(1_000);
            let codes: Vec<_> = bed.call(version, &request).await.topics.iter().map(|t| t.error_code).collect();
            assert_eq!(codes, [0, 40], "version {version}");
        }
        for version in versions::<DescribeConfigsRequest>() {
            let resource = |kind, of: &'static str| {
                DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(StrBytes::from_static_str(of))
                    .with_configuration_keys(None)
            };
            let resources = vec![resource(2, "t2"), resource(4, "1"), resource(2, "none")];
            let request = DescribeConfigsRequest::default()
                .with_resources(resources)
                .with_include_synonyms(true)
                .with_include_documentation(version >= 3);
            let codes: Vec<_> = bed.call(version, &request).await.results.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 0, 3], "version {version}");
        }
        for version in versions::<DeleteTopicsRequest>() {
            let names = vec![name(&format!("t{}", version + 1)), name("none")];
            let request = DeleteTopicsRequest::default().with_timeout_ms(1_000);
            let request = if version >= 6 {
                let state = |n| DeleteTopicState::default().with_name(Some(n));
                request.with_topics(names.into_iter().map(state).collect())
            } else {
                request.with_topic_names(names)
            };
            let codes: Vec<_> = bed.call(version, &request).await.responses.iter().map(|t| t.error_code).collect();
            assert_eq!(codes, [0, 3], "version {version}");
        }
    });
}
