//! The walk against the codec: on populated requests, on their mutations, and on inputs that crash the codec.

use super::*;
use crate::protocol::api::APIS;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use std::mem::size_of;
use uuid::Uuid;

fn text(s: &'static str) -> StrBytes {
    StrBytes::from_static_str(s)
}

fn topic(s: &'static str) -> TopicName {
    TopicName(text(s))
}

fn group(s: &'static str) -> GroupId {
    GroupId(text(s))
}

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn encoded<M: Encodable>(message: M, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).unwrap();
    bytes.freeze()
}

/// The codec's verdict: bytes it consumed, or nothing if it rejects them.
fn decoded_len(key: ApiKey, version: i16, body: &Bytes) -> Option<usize> {
    fn len<M: Decodable>(version: i16, body: &Bytes) -> Option<usize> {
        let mut rest = body.clone();
        M::decode(&mut rest, version).ok()?;
        Some(body.len() - rest.len())
    }
    match key {
        ApiKey::Produce => len::<ProduceRequest>(version, body),
        ApiKey::Fetch => len::<FetchRequest>(version, body),
        ApiKey::ListOffsets => len::<ListOffsetsRequest>(version, body),
        ApiKey::Metadata => len::<MetadataRequest>(version, body),
        ApiKey::FindCoordinator => len::<FindCoordinatorRequest>(version, body),
        ApiKey::OffsetCommit => len::<OffsetCommitRequest>(version, body),
        ApiKey::OffsetFetch => len::<OffsetFetchRequest>(version, body),
        ApiKey::JoinGroup => len::<JoinGroupRequest>(version, body),
        ApiKey::Heartbeat => len::<HeartbeatRequest>(version, body),
        ApiKey::LeaveGroup => len::<LeaveGroupRequest>(version, body),
        ApiKey::SyncGroup => len::<SyncGroupRequest>(version, body),
        ApiKey::DescribeGroups => len::<DescribeGroupsRequest>(version, body),
        ApiKey::ListGroups => len::<ListGroupsRequest>(version, body),
        ApiKey::DeleteGroups => len::<DeleteGroupsRequest>(version, body),
        ApiKey::ConsumerGroupHeartbeat => len::<ConsumerGroupHeartbeatRequest>(version, body),
        ApiKey::ConsumerGroupDescribe => len::<ConsumerGroupDescribeRequest>(version, body),
        ApiKey::OffsetDelete => len::<OffsetDeleteRequest>(version, body),
        ApiKey::ApiVersions => len::<ApiVersionsRequest>(version, body),
        ApiKey::CreateTopics => len::<CreateTopicsRequest>(version, body),
        ApiKey::DeleteTopics => len::<DeleteTopicsRequest>(version, body),
        ApiKey::DeleteRecords => len::<DeleteRecordsRequest>(version, body),
        ApiKey::InitProducerId => len::<InitProducerIdRequest>(version, body),
        ApiKey::OffsetForLeaderEpoch => len::<OffsetForLeaderEpochRequest>(version, body),
        ApiKey::DescribeConfigs => len::<DescribeConfigsRequest>(version, body),
        ApiKey::AlterConfigs => len::<AlterConfigsRequest>(version, body),
        ApiKey::AlterReplicaLogDirs => len::<AlterReplicaLogDirsRequest>(version, body),
        ApiKey::DescribeLogDirs => len::<DescribeLogDirsRequest>(version, body),
        ApiKey::CreatePartitions => len::<CreatePartitionsRequest>(version, body),
        ApiKey::ElectLeaders => len::<ElectLeadersRequest>(version, body),
        ApiKey::IncrementalAlterConfigs => len::<IncrementalAlterConfigsRequest>(version, body),
        ApiKey::AlterPartitionReassignments => len::<AlterPartitionReassignmentsRequest>(version, body),
        ApiKey::ListPartitionReassignments => len::<ListPartitionReassignmentsRequest>(version, body),
        ApiKey::UpdateFeatures => len::<UpdateFeaturesRequest>(version, body),
        ApiKey::DescribeCluster => len::<DescribeClusterRequest>(version, body),
        ApiKey::DescribeProducers => len::<DescribeProducersRequest>(version, body),
        ApiKey::ListConfigResources => len::<ListConfigResourcesRequest>(version, body),
        ApiKey::DescribeTopicPartitions => len::<DescribeTopicPartitionsRequest>(version, body),
        other => panic!("{other:?} has a schema but no case here"),
    }
}

fn produce(version: i16) -> ProduceRequest {
    let data = |index, records| PartitionProduceData::default().with_index(index).with_records(records);
    let base = TopicProduceData::default().with_partition_data(vec![
        data(0, Some(Bytes::from(vec![7; 300]))),
        data(1, None),
        data(2, Some(Bytes::new())),
    ]);
    let topics = match version {
        13.. => vec![base.with_topic_id(ID)],
        _ => vec![base.with_name(topic("orders")), TopicProduceData::default().with_name(topic("x"))],
    };
    ProduceRequest::default().with_transactional_id(Some(TransactionalId(text("tx")))).with_topic_data(topics)
}

fn fetch(version: i16) -> FetchRequest {
    let mut partition = FetchPartition::default().with_partition(3).with_fetch_offset(99);
    if version >= 17 {
        partition = partition.with_replica_directory_id(ID);
    }
    if version >= 18 {
        partition = partition.with_high_watermark(5);
    }
    if version >= 12 {
        partition = partition.with_unknown_tagged_field(9, Bytes::from_static(b"abc"));
    }
    let base = FetchTopic::default().with_partitions(vec![partition.clone(), partition]);
    let forgotten = ForgottenTopic::default().with_partitions(vec![1, 2, 3]);
    let (base, forgotten) = match version {
        13.. => (base.with_topic_id(ID), forgotten.with_topic_id(ID)),
        _ => (base.with_topic(topic("orders")), forgotten.with_topic(topic("gone"))),
    };
    let mut request = FetchRequest::default().with_topics(vec![base.clone(), base]).with_max_wait_ms(500);
    if version >= 7 {
        request = request.with_forgotten_topics_data(vec![forgotten]).with_session_id(4);
    }
    if version >= 11 {
        request = request.with_rack_id(text("rack-a"));
    }
    if version >= 12 {
        request = request.with_cluster_id(Some(text("cluster")));
    }
    if version >= 15 {
        request = request.with_replica_state(ReplicaState::default().with_replica_id(BrokerId(4)));
    }
    request
}

fn create_topics() -> CreateTopicsRequest {
    let config = |value| CreatableTopicConfig::default().with_name(text("cleanup.policy")).with_value(value);
    let assignment =
        CreatableReplicaAssignment::default().with_partition_index(1).with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
    let creatable = CreatableTopic::default()
        .with_name(topic("orders"))
        .with_assignments(vec![assignment])
        .with_configs(vec![config(Some(text("compact"))), config(None)]);
    CreateTopicsRequest::default().with_topics(vec![creatable.clone(), creatable])
}

/// A request with something in every field that `version` has.
pub(crate) fn populated(key: ApiKey, version: i16) -> Bytes {
    match key {
        ApiKey::Produce => encoded(produce(version), version),
        ApiKey::Fetch => encoded(fetch(version), version),
        ApiKey::ListOffsets => {
            let partitions = vec![ListOffsetsPartition::default().with_timestamp(-1); 3];
            let topics = vec![ListOffsetsTopic::default().with_name(topic("orders")).with_partitions(partitions)];
            encoded(ListOffsetsRequest::default().with_topics(topics), version)
        }
        ApiKey::Metadata => {
            let asked = MetadataRequestTopic::default().with_name(Some(topic("orders")));
            let mut topics = vec![asked.clone(), asked];
            if version >= 10 {
                topics.push(MetadataRequestTopic::default().with_name(None).with_topic_id(ID));
            }
            encoded(MetadataRequest::default().with_topics(Some(topics)), version)
        }
        ApiKey::FindCoordinator => {
            let base = FindCoordinatorRequest::default();
            let request = match version {
                4.. => base.with_coordinator_keys(vec![text("a"), text("group")]),
                _ => base.with_key(text("group")),
            };
            encoded(request, version)
        }
        ApiKey::ApiVersions => {
            let mut request = ApiVersionsRequest::default().with_client_software_name(text("client"));
            if version >= 3 {
                request = request.with_unknown_tagged_field(5, Bytes::from_static(b"x"));
            }
            encoded(request, version)
        }
        ApiKey::CreateTopics => encoded(create_topics(), version),
        ApiKey::DeleteTopics => {
            let state = DeleteTopicState::default();
            let base = DeleteTopicsRequest::default();
            let request = match version {
                6.. => base.with_topics(vec![state.clone().with_name(Some(topic("a"))), state.with_topic_id(ID)]),
                _ => base.with_topic_names(vec![topic("a"), topic("orders")]),
            };
            encoded(request, version)
        }
        ApiKey::DeleteRecords => {
            let partitions = vec![DeleteRecordsPartition::default().with_partition_index(1).with_offset(-1); 2];
            let asked = DeleteRecordsTopic::default().with_name(topic("orders")).with_partitions(partitions);
            encoded(DeleteRecordsRequest::default().with_topics(vec![asked]), version)
        }
        ApiKey::InitProducerId => {
            let request = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
            encoded(request, version)
        }
        ApiKey::OffsetForLeaderEpoch => {
            let partitions = vec![OffsetForLeaderPartition::default().with_leader_epoch(4); 2];
            let asked = OffsetForLeaderTopic::default().with_topic(topic("orders")).with_partitions(partitions);
            encoded(OffsetForLeaderEpochRequest::default().with_topics(vec![asked]), version)
        }
        ApiKey::DescribeConfigs => {
            let resource = DescribeConfigsResource::default().with_resource_name(text("orders"));
            let keys = Some(vec![text("retention.ms"), text("cleanup.policy")]);
            let resources =
                vec![resource.clone().with_configuration_keys(keys), resource.with_configuration_keys(None)];
            encoded(DescribeConfigsRequest::default().with_resources(resources), version)
        }
        ApiKey::AlterConfigs => {
            let config =
                |value| alter_configs_request::AlterableConfig::default().with_name(text("a")).with_value(value);
            let resource = alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("orders"))
                .with_configs(vec![config(Some(text("1"))), config(None)]);
            encoded(AlterConfigsRequest::default().with_resources(vec![resource; 2]), version)
        }
        ApiKey::AlterReplicaLogDirs => {
            let asked = alter_replica_log_dirs_request::AlterReplicaLogDirTopic::default()
                .with_name(topic("orders"))
                .with_partitions(vec![1, 2]);
            let dir = alter_replica_log_dirs_request::AlterReplicaLogDir::default()
                .with_path(text("/logs"))
                .with_topics(vec![asked; 2]);
            encoded(AlterReplicaLogDirsRequest::default().with_dirs(vec![dir; 2]), version)
        }
        ApiKey::DescribeLogDirs => {
            let asked = describe_log_dirs_request::DescribableLogDirTopic::default()
                .with_topic(topic("orders"))
                .with_partitions(vec![1, 2]);
            encoded(DescribeLogDirsRequest::default().with_topics(Some(vec![asked; 2])), version)
        }
        ApiKey::CreatePartitions => {
            let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
            let asked = CreatePartitionsTopic::default().with_name(topic("orders")).with_count(3);
            let topics = vec![asked.clone().with_assignments(Some(vec![assignment])), asked.with_assignments(None)];
            encoded(CreatePartitionsRequest::default().with_topics(topics), version)
        }
        ApiKey::ElectLeaders => {
            let asked = elect_leaders_request::TopicPartitions::default()
                .with_topic(topic("orders"))
                .with_partitions(vec![1, 2]);
            let kind = i8::from(version >= 1);
            let request = ElectLeadersRequest::default().with_election_type(kind);
            encoded(request.with_topic_partitions(Some(vec![asked; 2])), version)
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = incremental_alter_configs_request::AlterableConfig::default().with_name(text("a"));
            let configs =
                vec![config.clone().with_config_operation(2).with_value(Some(text("b"))), config.with_value(None)];
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("orders"))
                .with_configs(configs);
            encoded(IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 2]), version)
        }
        ApiKey::AlterPartitionReassignments => {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default();
            let partitions =
                vec![partition.clone().with_replicas(Some(vec![BrokerId(1)])), partition.with_replicas(None)];
            let asked = alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(topic("orders"))
                .with_partitions(partitions);
            encoded(AlterPartitionReassignmentsRequest::default().with_topics(vec![asked; 2]), version)
        }
        ApiKey::ListPartitionReassignments => {
            let asked = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
                .with_name(topic("orders"))
                .with_partition_indexes(vec![1, 2]);
            encoded(ListPartitionReassignmentsRequest::default().with_topics(Some(vec![asked])), version)
        }
        ApiKey::UpdateFeatures => {
            let update = update_features_request::FeatureUpdateKey::default().with_feature(text("group.version"));
            encoded(UpdateFeaturesRequest::default().with_feature_updates(vec![update; 2]), version)
        }
        ApiKey::DescribeCluster => encoded(DescribeClusterRequest::default(), version),
        ApiKey::DescribeProducers => {
            let asked = describe_producers_request::TopicRequest::default()
                .with_name(topic("orders"))
                .with_partition_indexes(vec![1, 2]);
            encoded(DescribeProducersRequest::default().with_topics(vec![asked; 2]), version)
        }
        ApiKey::ListConfigResources => {
            let types = if version >= 1 { vec![2, 4] } else { vec![] };
            encoded(ListConfigResourcesRequest::default().with_resource_types(types), version)
        }
        ApiKey::DescribeTopicPartitions => {
            let cursor = Cursor::default().with_topic_name(topic("orders")).with_partition_index(4);
            let topics = vec![TopicRequest::default().with_name(topic("orders")); 2];
            let request = DescribeTopicPartitionsRequest::default().with_topics(topics).with_cursor(Some(cursor));
            encoded(request, version)
        }
        ApiKey::OffsetCommit => encoded(offset_commit(version), version),
        ApiKey::OffsetFetch => encoded(offset_fetch(version), version),
        ApiKey::JoinGroup => encoded(join_group(version), version),
        ApiKey::Heartbeat => {
            let request = HeartbeatRequest::default().with_group_id(group("g")).with_member_id(text("m"));
            encoded(request.with_group_instance_id((version >= 3).then(|| text("i"))), version)
        }
        ApiKey::LeaveGroup => encoded(leave_group(version), version),
        ApiKey::SyncGroup => encoded(sync_group(version), version),
        ApiKey::DescribeGroups | ApiKey::ListGroups | ApiKey::DeleteGroups | ApiKey::OffsetDelete => {
            populated_group_admin(key, version)
        }
        ApiKey::ConsumerGroupHeartbeat => encoded(consumer_group_heartbeat(version), version),
        ApiKey::ConsumerGroupDescribe => {
            let groups = vec![group("g"), group("h")];
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(groups);
            encoded(request.with_include_authorized_operations(true), version)
        }
        other => panic!("{other:?} has a schema but no case here"),
    }
}

fn consumer_group_heartbeat(version: i16) -> ConsumerGroupHeartbeatRequest {
    use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
    let owned = TopicPartitions::default().with_topic_id(uuid::Uuid::from_u128(7)).with_partitions(vec![0, 1, 5]);
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text("m"))
        .with_member_epoch(3)
        .with_instance_id(Some(text("i")))
        .with_rack_id(None)
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(vec![topic("orders"), topic("payments")]))
        .with_server_assignor(Some(text("uniform")))
        .with_topic_partitions(Some(vec![owned; 2]));
    if version >= 1 { request.with_subscribed_topic_regex(Some(text("or.*"))) } else { request }
}

fn offset_commit(version: i16) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_committed_metadata(Some(text("note")));
    let partitions = vec![partition.clone(), partition.with_committed_metadata(None)];
    let asked = OffsetCommitRequestTopic::default().with_name(topic("orders")).with_partitions(partitions);
    let request =
        OffsetCommitRequest::default().with_group_id(group("g")).with_member_id(text("m")).with_topics(vec![asked]);
    let instance = (version >= 7).then(|| text("i"));
    request.with_group_instance_id(instance)
}

fn offset_fetch(version: i16) -> OffsetFetchRequest {
    if version < 8 {
        let asked = OffsetFetchRequestTopic::default().with_name(topic("orders")).with_partition_indexes(vec![1, 2]);
        return OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![asked]));
    }
    let asked = OffsetFetchRequestTopics::default().with_name(topic("orders")).with_partition_indexes(vec![1, 2]);
    let mut one = OffsetFetchRequestGroup::default().with_group_id(group("g"));
    if version >= 9 {
        one = one.with_member_id(Some(text("m"))).with_member_epoch(3);
    }
    let groups = vec![one.clone().with_topics(Some(vec![asked])), one.with_topics(None)];
    OffsetFetchRequest::default().with_groups(groups).with_require_stable(true)
}

fn join_group(version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let protocols = vec![protocol.clone().with_metadata(Bytes::from_static(b"abc")), protocol];
    let request = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text("m"))
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols);
    let request = request.with_group_instance_id((version >= 5).then(|| text("i")));
    request.with_reason((version >= 8).then(|| text("because")))
}

fn leave_group(version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group("g"));
    if version < 3 {
        return request.with_member_id(text("m"));
    }
    let member = MemberIdentity::default().with_member_id(text("m")).with_group_instance_id(Some(text("i")));
    request.with_members(vec![member.clone(), member.with_reason((version >= 5).then(|| text("because")))])
}

fn sync_group(version: i16) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default().with_member_id(text("m"));
    let request = SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text("m"))
        .with_assignments(vec![assignment.clone().with_assignment(Bytes::from_static(b"abc")), assignment]);
    let request = request.with_group_instance_id((version >= 3).then(|| text("i")));
    let named = (version >= 5).then(|| text("range"));
    request.with_protocol_type(named.clone()).with_protocol_name(named)
}

fn populated_group_admin(key: ApiKey, version: i16) -> Bytes {
    let groups = vec![group("a"), group("orders")];
    match key {
        ApiKey::DescribeGroups => encoded(DescribeGroupsRequest::default().with_groups(groups), version),
        ApiKey::ListGroups => {
            let mut request = ListGroupsRequest::default();
            if version >= 4 {
                request = request.with_states_filter(vec![text("Stable"), text("Empty")]);
            }
            if version >= 5 {
                request = request.with_types_filter(vec![text("classic")]);
            }
            encoded(request, version)
        }
        ApiKey::DeleteGroups => encoded(DeleteGroupsRequest::default().with_groups_names(groups), version),
        _ => {
            let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(4); 2];
            let asked = OffsetDeleteRequestTopic::default().with_name(topic("orders")).with_partitions(partitions);
            let request = OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(vec![asked]);
            encoded(request, version)
        }
    }
}

fn every_version() -> impl Iterator<Item = (ApiKey, i16)> {
    SCHEMAS.iter().flat_map(|s| {
        let codec = s.key.valid_versions();
        // The codec claims InitProducerId 6 but encodes only up to 5.
        let (min, max) = APIS.iter().find(|a| a.key == s.key).map_or((codec.min, codec.max), |a| (a.min, a.max));
        (min..=max).map(|v| (s.key, v))
    })
}

#[test]
fn the_walk_consumes_exactly_what_the_codec_writes() {
    for (key, version) in every_version() {
        let body = populated(key, version);
        let walk = check(key as i16, version, &body).unwrap_or_else(|e| panic!("{key:?} v{version}: {e}"));
        assert_eq!(walk.consumed, body.len(), "{key:?} v{version}");
        assert_eq!(decoded_len(key, version, &body), Some(body.len()), "{key:?} v{version}");
    }
}

#[test]
fn every_truncation_is_refused() {
    for (key, version) in every_version() {
        let body = populated(key, version);
        for len in 0..body.len() {
            assert!(check(key as i16, version, &body[..len]).is_err(), "{key:?} v{version} cut to {len}");
        }
    }
}

#[test]
fn every_advertised_api_has_a_schema() {
    for api in APIS {
        let schema = SCHEMAS.iter().find(|s| s.key == api.key).unwrap_or_else(|| panic!("{:?}", api.key));
        assert_eq!(schema.flexible, api.flexible, "{:?}", api.key);
    }
    assert!(matches!(check(999, 0, &[]), Err(GuardError::Unknown { .. })));
}

#[test]
fn inputs_that_crash_the_codec_are_refused() {
    let metadata = [0x7f, 0xff, 0xff, 0xff];
    assert_eq!(check(3, 1, &metadata), Err(GuardError::ArrayTooLong { count: i32::MAX as usize, available: 0 }));
    // Null transactional id, acks, timeout, then 2^31-1 topics.
    let produce = [0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff];
    assert!(matches!(check(0, 3, &produce), Err(GuardError::ArrayTooLong { .. })));
    // The same in the compact form.
    assert!(matches!(check(3, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(GuardError::ArrayTooLong { .. })));
    assert_eq!(check(3, 9, &[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(GuardError::Varint));
    assert_eq!(check(3, 1, &[0xff, 0xff, 0xff, 0xfe]), Err(GuardError::NegativeLength(-2)));
}

#[test]
fn long_strings_are_refused() {
    let name = StrBytes::from_string("x".repeat(STRING_LEN_MAX + 1));
    let body = encoded(ApiVersionsRequest::default().with_client_software_name(name), 3);
    assert_eq!(check(18, 3, &body), Err(GuardError::StringTooLong(STRING_LEN_MAX + 1)));
}

#[test]
fn known_tags_must_have_their_size() {
    let plain = FetchRequest::default().with_cluster_id(Some(text("cluster")));
    let mut body = BytesMut::from(&encoded(plain, 12)[..]);
    let size = body.len() - 9; // tag 0, size 8, then a compact string of 7 characters
    assert_eq!(body[size], 8);
    body[size] = 7;
    assert_eq!(check(1, 12, &body), Err(GuardError::TagSize { tag: 0, size: 7, used: 8 }));
}

#[test]
fn the_estimate_covers_the_codecs_structures() {
    let sizes = [
        size_of::<TopicProduceData>(),
        size_of::<PartitionProduceData>(),
        size_of::<FetchTopic>(),
        size_of::<FetchPartition>(),
        size_of::<ForgottenTopic>(),
        size_of::<ListOffsetsTopic>(),
        size_of::<ListOffsetsPartition>(),
        size_of::<MetadataRequestTopic>(),
        size_of::<CreatableTopic>(),
        size_of::<CreatableTopicConfig>(),
        size_of::<CreatableReplicaAssignment>(),
        size_of::<DeleteTopicState>(),
        size_of::<CreatePartitionsTopic>(),
        size_of::<CreatePartitionsAssignment>(),
        size_of::<DeleteRecordsTopic>(),
        size_of::<DeleteRecordsPartition>(),
        size_of::<OffsetForLeaderTopic>(),
        size_of::<OffsetForLeaderPartition>(),
        size_of::<DescribeConfigsResource>(),
        size_of::<alter_configs_request::AlterConfigsResource>(),
        size_of::<alter_configs_request::AlterableConfig>(),
        size_of::<alter_replica_log_dirs_request::AlterReplicaLogDir>(),
        size_of::<alter_replica_log_dirs_request::AlterReplicaLogDirTopic>(),
        size_of::<describe_log_dirs_request::DescribableLogDirTopic>(),
        size_of::<elect_leaders_request::TopicPartitions>(),
        size_of::<alter_partition_reassignments_request::ReassignableTopic>(),
        size_of::<alter_partition_reassignments_request::ReassignablePartition>(),
        size_of::<list_partition_reassignments_request::ListPartitionReassignmentsTopics>(),
        size_of::<update_features_request::FeatureUpdateKey>(),
        size_of::<describe_producers_request::TopicRequest>(),
        size_of::<incremental_alter_configs_request::AlterConfigsResource>(),
        size_of::<incremental_alter_configs_request::AlterableConfig>(),
        size_of::<TopicRequest>(),
        size_of::<OffsetCommitRequestTopic>(),
        size_of::<OffsetCommitRequestPartition>(),
        size_of::<OffsetFetchRequestTopic>(),
        size_of::<OffsetFetchRequestTopics>(),
        size_of::<OffsetFetchRequestGroup>(),
        size_of::<JoinGroupRequestProtocol>(),
        size_of::<MemberIdentity>(),
        size_of::<SyncGroupRequestAssignment>(),
        size_of::<OffsetDeleteRequestTopic>(),
        size_of::<OffsetDeleteRequestPartition>(),
    ];
    assert!(sizes.iter().all(|s| *s <= STRUCT_BYTES), "{sizes:?}");
    assert!(size_of::<StrBytes>() <= STRING_BYTES && size_of::<TopicName>() <= STRING_BYTES);

    let topics = vec![MetadataRequestTopic::default().with_name(Some(topic(""))); 1000];
    let body = encoded(MetadataRequest::default().with_topics(Some(topics)), 9);
    let walk = check(3, 9, &body).unwrap();
    assert_eq!(walk.decoded_bytes, 1000 * STRUCT_BYTES);
}

/// What the guard accepts, the codec reads from the same bytes or rejects; it must not panic.
fn agree(key: ApiKey, version: i16, body: Vec<u8>) -> Result<(), TestCaseError> {
    let body = Bytes::from(body);
    if let Ok(walk) = check(key as i16, version, &body) {
        prop_assert!(walk.consumed <= body.len());
        if let Some(len) = decoded_len(key, version, &body) {
            prop_assert_eq!(len, walk.consumed, "{:?} v{}", key, version);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_requests_agree(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let all: Vec<_> = every_version().collect();
        let (key, version) = all[pick.index(all.len())];
        let mut body = populated(key, version).to_vec();
        for (at, byte) in edits {
            if body.is_empty() {
                break; // ApiVersions before version 3
            }
            let at = at.index(body.len());
            body[at] = byte;
        }
        agree(key, version, body)?;
    }

    #[test]
    fn random_bytes_agree(
        pick in any::<prop::sample::Index>(),
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff), any::<u8>()], 0..60),
    ) {
        let all: Vec<_> = every_version().collect();
        let (key, version) = all[pick.index(all.len())];
        agree(key, version, body)?;
    }
}
