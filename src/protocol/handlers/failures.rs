//! Which errors a response tells, for the span of its request: in the order in which a client reads them.
//!
//! Asked only while a span is recorded. Produce and Fetch mark their spans themselves, from what they know before
//! records are spliced in.

use kafka_protocol::messages::*;
use std::iter::once;

/// A response with error codes in it.
pub(super) trait ErrorCodes {
    /// All of them; 0 is success.
    fn error_codes(&self) -> impl Iterator<Item = i16>;

    /// The first that is not success.
    fn failure(&self) -> Option<i16> {
        self.error_codes().find(|code| *code != 0)
    }
}

macro_rules! error_codes {
    ($($response:ty: |$r:ident| $codes:expr;)*) => {$(
        impl ErrorCodes for $response {
            fn error_codes(&self) -> impl Iterator<Item = i16> {
                let $r = self;
                $codes
            }
        }
    )*};
}

/// The codes of rows, and of rows in rows.
macro_rules! rows {
    ($rows:expr) => {
        $rows.iter().map(|row| row.error_code)
    };
    ($rows:expr, $inner:ident) => {
        $rows.iter().flat_map(|row| row.$inner.iter().map(|row| row.error_code))
    };
}

error_codes! {
    AlterConfigsResponse: |r| rows!(r.responses);
    AlterPartitionReassignmentsResponse: |r| once(r.error_code).chain(rows!(r.responses, partitions));
    AlterReplicaLogDirsResponse: |r| rows!(r.results, partitions);
    ApiVersionsResponse: |r| once(r.error_code);
    ConsumerGroupDescribeResponse: |r| rows!(r.groups);
    ConsumerGroupHeartbeatResponse: |r| once(r.error_code);
    CreatePartitionsResponse: |r| rows!(r.results);
    CreateTopicsResponse: |r| rows!(r.topics);
    DeleteGroupsResponse: |r| rows!(r.results);
    DeleteRecordsResponse: |r| rows!(r.topics, partitions);
    DeleteTopicsResponse: |r| rows!(r.responses);
    DescribeClusterResponse: |r| once(r.error_code);
    DescribeConfigsResponse: |r| rows!(r.results);
    DescribeGroupsResponse: |r| rows!(r.groups);
    DescribeLogDirsResponse: |r| once(r.error_code).chain(rows!(r.results));
    DescribeProducersResponse: |r| rows!(r.topics, partitions);
    DescribeTopicPartitionsResponse: |r| r.topics.iter().flat_map(|t| once(t.error_code).chain(rows!(t.partitions)));
    ElectLeadersResponse: |r| once(r.error_code).chain(rows!(r.replica_election_results, partition_result));
    FindCoordinatorResponse: |r| once(r.error_code).chain(rows!(r.coordinators));
    HeartbeatResponse: |r| once(r.error_code);
    IncrementalAlterConfigsResponse: |r| rows!(r.responses);
    InitProducerIdResponse: |r| once(r.error_code);
    JoinGroupResponse: |r| once(r.error_code);
    LeaveGroupResponse: |r| once(r.error_code).chain(rows!(r.members));
    ListConfigResourcesResponse: |r| once(r.error_code);
    ListGroupsResponse: |r| once(r.error_code);
    ListOffsetsResponse: |r| rows!(r.topics, partitions);
    ListPartitionReassignmentsResponse: |r| once(r.error_code);
    MetadataResponse: |r| {
        let topics = r.topics.iter().flat_map(|t| once(t.error_code).chain(rows!(t.partitions)));
        once(r.error_code).chain(topics)
    };
    OffsetCommitResponse: |r| rows!(r.topics, partitions);
    OffsetDeleteResponse: |r| once(r.error_code).chain(rows!(r.topics, partitions));
    OffsetFetchResponse: |r| {
        let groups = r.groups.iter().flat_map(|g| once(g.error_code).chain(rows!(g.topics, partitions)));
        once(r.error_code).chain(rows!(r.topics, partitions)).chain(groups)
    };
    OffsetForLeaderEpochResponse: |r| rows!(r.topics, partitions);
    SyncGroupResponse: |r| once(r.error_code);
    UpdateFeaturesResponse: |r| once(r.error_code).chain(rows!(r.results));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
    use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;

    #[test]
    fn the_first_error_counts_wherever_it_is() {
        assert_eq!(MetadataResponse::default().failure(), None);
        let partition = |code| MetadataResponsePartition::default().with_error_code(code);
        let good = MetadataResponseTopic::default().with_partitions(vec![partition(0)]);
        let bad = MetadataResponseTopic::default().with_partitions(vec![partition(0), partition(5), partition(9)]);
        let response = MetadataResponse::default().with_topics(vec![good.clone()]);
        assert_eq!(response.failure(), None);
        let response = response.with_topics(vec![good, bad, MetadataResponseTopic::default().with_error_code(3)]);
        assert_eq!(response.failure(), Some(5));
        let group = |code| OffsetFetchResponseGroup::default().with_error_code(code);
        let response = OffsetFetchResponse::default().with_groups(vec![group(0), group(15)]);
        assert_eq!(response.failure(), Some(15));
    }
}
