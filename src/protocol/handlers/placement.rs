//! Where partitions are: ElectLeaders, ListPartitionReassignments, AlterPartitionReassignments.
//!
//! A partition has one replica, the broker that leads it, which therefore is the preferred one at any time. Nothing is
//! copied when a partition moves, so there never is a reassignment in progress; moving on request is not built yet.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, duplicates, refuse};
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest, ElectLeadersResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use std::rc::Rc;

/// Election types of the protocol.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub(super) async fn elect_leaders(
    ctx: Rc<ConnectionContext>,
    request: ElectLeadersRequest,
    _call: Call,
) -> ElectLeadersResponse {
    let kind = request.election_type;
    if kind != PREFERRED && kind != UNCLEAN {
        return ElectLeadersResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    let image = ctx.broker.image.load_full();
    let outcome = |name: &str, index: i32| {
        let Refusal { code, message } = elect(&ctx, &image, name, index, kind);
        PartitionResult::default()
            .with_partition_id(index)
            .with_error_code(code.code())
            .with_error_message(Some(message.into()))
    };
    let topics = match request.topic_partitions {
        Some(topics) => topics
            .into_iter()
            .map(|topic| {
                let results = topic.partitions.iter().map(|index| outcome(&topic.topic, *index)).collect();
                ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(results)
            })
            .collect(),
        // Who asks for all partitions hears, as from Kafka, only of those that have not the wanted leader already.
        None => {
            let needless = ErrorCode::ElectionNotNeeded.code();
            let rows = image.topics().filter_map(|topic| {
                let results = (0..topic.value.partitions).map(|index| outcome(&topic.name, index));
                let results: Vec<_> = results.filter(|r| r.error_code != needless).collect();
                let name = common::topic_name(&topic.name);
                let row = ReplicaElectionResult::default().with_topic(name);
                (!results.is_empty()).then(|| row.with_partition_result(results))
            });
            rows.collect()
        }
    };
    ElectLeadersResponse::default().with_replica_election_results(topics)
}

/// Why there is no election; there never is one.
fn elect(ctx: &ConnectionContext, image: &ClusterImage, name: &str, index: i32, kind: i8) -> Refusal {
    let topic = match common::find_topic(image, name) {
        Ok(topic) => topic,
        Err(refusal) => return refusal,
    };
    if !common::has_partition(topic, index) {
        let message = format!("topic {name} has no partition {index}");
        return Refusal { code: ErrorCode::UnknownTopicOrPartition, message };
    }
    match (common::leader(&ctx.broker, image, &common::partition_key(topic, index)).0, kind) {
        (Some(leader), _) => Refusal {
            code: ErrorCode::ElectionNotNeeded,
            message: format!("broker {leader} leads the partition and is its preferred replica"),
        },
        (None, UNCLEAN) => Refusal {
            code: ErrorCode::EligibleLeadersNotAvailable,
            message: "no broker can lead the partition now; any will when it is up, without loss".to_owned(),
        },
        (None, _) => Refusal {
            code: ErrorCode::PreferredLeaderNotAvailable,
            message: "no broker can lead the partition now; any will when it is up".to_owned(),
        },
    }
}

pub(super) async fn list_partition_reassignments(
    _ctx: Rc<ConnectionContext>,
    _request: ListPartitionReassignmentsRequest,
    _call: Call,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}

pub(super) async fn alter_partition_reassignments(
    ctx: Rc<ConnectionContext>,
    request: AlterPartitionReassignmentsRequest,
    _call: Call,
) -> AlterPartitionReassignmentsResponse {
    let image = ctx.broker.image.load_full();
    let twice = duplicates(request.topics.iter().map(|t| t.name.as_str()));
    let rows = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let row = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
            let outcome = if twice.contains(topic.name.as_str()) {
                refuse(ErrorCode::InvalidRequest, "the request names this topic more than once")
            } else {
                reassign(&ctx, &image, &topic.name, asked)
            };
            match outcome {
                Ok(()) => row.with_error_message(None),
                Err(refusal) => {
                    row.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
                }
            }
        });
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    let rows = rows.collect();
    AlterPartitionReassignmentsResponse::default().with_error_message(None).with_responses(rows)
}

/// Succeeds if there is nothing to do.
fn reassign(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    name: &str,
    asked: &ReassignablePartition,
) -> Result<(), Refusal> {
    let topic = common::find_topic(image, name)?;
    let index = asked.partition_index;
    if !common::has_partition(topic, index) {
        return refuse(ErrorCode::UnknownTopicOrPartition, format!("topic {name} has no partition {index}"));
    }
    let Some(replicas) = &asked.replicas else {
        return refuse(ErrorCode::NoReassignmentInProgress, "no reassignment of this partition is in progress");
    };
    if !common::are_live(image, replicas) {
        return refuse(ErrorCode::InvalidReplicaAssignment, "replicas must be different live brokers, at least one");
    }
    let leader = common::leader(&ctx.broker, image, &common::partition_key(topic, index)).0;
    match (leader, &replicas[..]) {
        (Some(leader), [only]) if only.0 == leader.0 => Ok(()),
        (leader, _) => {
            let leader = leader.map_or_else(|| "nobody now".to_owned(), |id| format!("broker {id}"));
            let message = format!(
                "a partition has one replica, its leader ({leader}); the object store keeps the copies, and moving a \
                 partition to another broker is not supported yet"
            );
            refuse(ErrorCode::InvalidReplicaAssignment, message)
        }
    }
}
