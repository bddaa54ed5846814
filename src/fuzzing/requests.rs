//! A stream of requests, from the length prefix to the decoded body.

use crate::protocol::api::Api;
use crate::protocol::budget::RequestBudget;
use crate::protocol::frame::{self, FrameReader, ReadProgress};
use crate::protocol::guard;
use crate::protocol::limits::EdgeLimits;
use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Longest request that is read, bytes: enough for both ways in which frames are read, and cheap.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a peer sends: length-prefixed requests. Accepted if there is one, and every one of them decodes.
pub fn request(stream: &[u8]) -> bool {
    let budget = RequestBudget::new(&EdgeLimits::default());
    let progress = ReadProgress::new();
    let mut reader = FrameReader::new(stream, REQUEST_BYTES_MAX);
    let mut decoded = 0;
    loop {
        let next = at_once(reader.next(&budget, &progress));
        match next {
            Ok(Some(frame)) if one(&frame.bytes) => decoded += 1,
            Ok(None) => return decoded > 0,
            Ok(Some(_)) | Err(_) => return false, // either ends the connection
        }
    }
}

/// The output of a future that waits for nothing: all bytes are there, and so are all permits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a reader with all bytes and permits at hand waits"),
    }
}

fn one(frame: &Bytes) -> bool {
    let Ok(header) = frame::read_header(frame) else { return false };
    assert!(header.len <= frame.len() && header.api.serves(header.version));
    let body = frame.slice(header.len..);
    let Ok(walk) = guard::check(header.api.key as i16, header.version, &body) else { return false };
    assert!(walk.consumed <= body.len());
    // An element takes a byte of the body at least, so the estimate cannot run away.
    assert!(walk.decoded_bytes <= 1_024 + 1_024 * body.len(), "estimate {} of {}", walk.decoded_bytes, body.len());
    let Some(used) = decode(header.api, header.version, &body) else { return false };
    assert_eq!(used, walk.consumed, "guard and codec read different bytes of {:?} v{}", header.api.key, header.version);
    true
}

/// Decodes as the handlers do; the bytes it took, or `None` if the codec refuses.
fn decode(api: &Api, version: i16, body: &Bytes) -> Option<usize> {
    fn whole<M: Decodable>(version: i16, body: &Bytes) -> Option<(M, usize)> {
        let mut rest = body.clone();
        let message = M::decode(&mut rest, version).ok()?;
        Some((message, body.len() - rest.len()))
    }
    fn len<M: Decodable>(version: i16, body: &Bytes) -> Option<usize> {
        whole::<M>(version, body).map(|(_, len)| len)
    }
    match api.key {
        ApiKey::Produce => {
            let (request, len) = whole::<ProduceRequest>(version, body)?;
            let partitions = request.topic_data.iter().flat_map(|t| &t.partition_data);
            for records in partitions.filter_map(|p| p.records.as_ref()) {
                super::batch(records);
            }
            Some(len)
        }
        ApiKey::Fetch => len::<FetchRequest>(version, body),
        ApiKey::ListOffsets => len::<ListOffsetsRequest>(version, body),
        ApiKey::Metadata => len::<MetadataRequest>(version, body),
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
        ApiKey::FindCoordinator => len::<FindCoordinatorRequest>(version, body),
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
        other => panic!("{other:?} is served and has no case here"),
    }
}
