//! Where partitions are: ElectLeaders, ListPartitionReassignments, AlterPartitionReassignments.
//!
//! A partition has one replica, the broker that leads it: the object store keeps the copies. Its preferred one is the broker
//! that the topic names for it, and a reassignment names another. Nothing is copied when a partition moves, so that it
//! takes about as long as a flush; it is in progress from the moment the other broker is named until that one leads.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, duplicates, refuse};
use super::topics;
use crate::ids::{BrokerId, PartitionIndex};
use crate::metadata::image::{ClusterImage, Topic};
use crate::metadata::placement::Candidates;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest, ElectLeadersResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::time::Instant;

/// Election types of the protocol.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub(super) async fn elect_leaders(
    ctx: Rc<ConnectionContext>,
    request: ElectLeadersRequest,
    call: Call,
) -> ElectLeadersResponse {
    let kind = request.election_type;
    if kind != PREFERRED && kind != UNCLEAN {
        return ElectLeadersResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    // A partition whose preferred broker is there moves to it without being asked; who asks may wait for it.
    let deadline = call.deadline(request.timeout_ms, topics::WAIT_MAX);
    let under_way = || {
        let image = ctx.broker.image.load();
        let asked = request.topic_partitions.as_deref().unwrap_or_default();
        let asked = asked.iter().flat_map(|t| t.partitions.iter().map(|index| (t.topic.as_str(), *index)));
        asked
            .filter_map(|(name, index)| find(&image, name, index).ok())
            .any(|(topic, index)| is_moving(&ctx, &image, topic, index))
    };
    common::wait_until(deadline, || !under_way()).await;
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

fn find<'a>(image: &'a ClusterImage, name: &str, index: i32) -> Result<(&'a Topic, i32), Refusal> {
    let topic = common::find_topic(image, name)?;
    if common::has_partition(topic, index) {
        return Ok((topic, index));
    }
    refuse(ErrorCode::UnknownTopicOrPartition, format!("topic {name} has no partition {index}"))
}

/// The broker that should lead a partition, if one was named for it.
fn preferred(topic: &Topic, index: i32) -> Option<BrokerId> {
    topic.value.placement.get(index as usize).copied()
}

fn leader(ctx: &ConnectionContext, image: &ClusterImage, topic: &Topic, index: i32) -> Option<BrokerId> {
    common::leader(&ctx.broker, image, &common::partition_key(topic, index)).0
}

/// True if the broker that should lead a partition can, and does not yet.
fn is_moving(ctx: &ConnectionContext, image: &ClusterImage, topic: &Topic, index: i32) -> bool {
    let able = preferred(topic, index).filter(|node| Candidates::of(image).contains(*node));
    able.is_some_and(|node| leader(ctx, image, topic, index) != Some(node))
}

/// Why there is no election; there never is one.
fn elect(ctx: &ConnectionContext, image: &ClusterImage, name: &str, index: i32, kind: i8) -> Refusal {
    let topic = match find(image, name, index) {
        Ok((topic, _)) => topic,
        Err(refusal) => return refusal,
    };
    let preferred = preferred(topic, index);
    match (leader(ctx, image, topic, index), kind) {
        (Some(leader), PREFERRED) if preferred.is_some_and(|node| node != leader) => Refusal {
            code: ErrorCode::PreferredLeaderNotAvailable,
            message: "the preferred broker is away or draining; it leads again when it is back".to_owned(),
        },
        (Some(leader), _) => Refusal {
            code: ErrorCode::ElectionNotNeeded,
            message: format!("broker {leader} leads the partition already"),
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
    ctx: Rc<ConnectionContext>,
    request: ListPartitionReassignmentsRequest,
    _call: Call,
) -> ListPartitionReassignmentsResponse {
    let image = ctx.broker.image.load_full();
    let row = |topic: &Topic, index: i32| {
        let wire = |node: BrokerId| kafka_protocol::messages::BrokerId(node.0);
        let adding: Vec<_> = preferred(topic, index).map(wire).into_iter().collect();
        let removing: Vec<_> = leader(&ctx, &image, topic, index).map(wire).into_iter().collect();
        OngoingPartitionReassignment::default()
            .with_partition_index(index)
            .with_replicas(adding.iter().chain(&removing).copied().collect())
            .with_adding_replicas(adding)
            .with_removing_replicas(removing)
    };
    let rows = |topic: &Topic, indexes: &mut dyn Iterator<Item = i32>| {
        let moving = indexes.filter(|i| common::has_partition(topic, *i) && is_moving(&ctx, &image, topic, *i));
        let partitions: Vec<_> = moving.map(|index| row(topic, index)).collect();
        let name = common::topic_name(&topic.name);
        let topic = OngoingTopicReassignment::default().with_name(name);
        (!partitions.is_empty()).then(|| topic.with_partitions(partitions))
    };
    let topics: Vec<_> = match request.topics {
        Some(asked) => {
            let known = asked.iter().filter_map(|t| Some((image.topic(&t.name)?, &t.partition_indexes)));
            known.filter_map(|(topic, indexes)| rows(topic, &mut indexes.iter().copied())).collect()
        }
        None => image.topics().filter_map(|topic| rows(topic, &mut (0..topic.value.partitions))).collect(),
    };
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

pub(super) async fn alter_partition_reassignments(
    ctx: Rc<ConnectionContext>,
    request: AlterPartitionReassignmentsRequest,
    call: Call,
) -> AlterPartitionReassignmentsResponse {
    let image = ctx.broker.image.load_full();
    let deadline = call.deadline(request.timeout_ms, topics::WAIT_MAX);
    let twice = duplicates(request.topics.iter().map(|t| t.name.as_str()));
    let mut rows = Vec::new();
    for topic in &request.topics {
        let mut moves = BTreeMap::new();
        let checked: Vec<Result<(), Refusal>> = topic
            .partitions
            .iter()
            .map(|asked| {
                if twice.contains(topic.name.as_str()) {
                    return refuse(ErrorCode::InvalidRequest, "the request names this topic more than once");
                }
                let node = target(&ctx, &image, &topic.name, asked)?;
                moves.insert(PartitionIndex(asked.partition_index), node);
                Ok(())
            })
            .collect();
        let stored = match image.topic(&topic.name).filter(|_| !moves.is_empty()) {
            Some(found) => place(&ctx, found, &moves, deadline).await,
            None => Ok(()),
        };
        let partitions = topic.partitions.iter().zip(checked).map(|(asked, checked)| {
            let row = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
            match checked.and_then(|()| stored.clone()) {
                Ok(()) => row.with_error_message(None),
                Err(refusal) => {
                    row.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
                }
            }
        });
        let row = ReassignableTopicResponse::default().with_name(topic.name.clone());
        rows.push(row.with_partitions(partitions.collect()));
    }
    AlterPartitionReassignmentsResponse::default().with_error_message(None).with_responses(rows)
}

/// Names other brokers for partitions of a topic, and waits until this broker's image has it.
async fn place(
    ctx: &ConnectionContext,
    topic: &Topic,
    moves: &BTreeMap<PartitionIndex, BrokerId>,
    deadline: Instant,
) -> Result<(), Refusal> {
    let admin = &ctx.broker.admin;
    let revision = admin.place_partitions(&topic.name, topic.value.id, moves, ctx.broker.node).await?;
    common::wait_until(deadline, || ctx.broker.image.load().revision >= revision).await;
    Ok(())
}

/// The broker that a partition is to be moved to; for a cancelled move the one that leads it now.
fn target(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    name: &str,
    asked: &ReassignablePartition,
) -> Result<BrokerId, Refusal> {
    let (topic, index) = find(image, name, asked.partition_index)?;
    let Some(replicas) = &asked.replicas else {
        return match leader(ctx, image, topic, index).filter(|_| is_moving(ctx, image, topic, index)) {
            Some(leader) => Ok(leader),
            None => refuse(ErrorCode::NoReassignmentInProgress, "no reassignment of this partition is in progress"),
        };
    };
    match &replicas[..] {
        [only] if common::are_live(image, replicas) => Ok(BrokerId(only.0)),
        [_, _, ..] => {
            let message = "a partition has one replica, its leader, since the object store keeps the copies: name one \
                           broker for each partition";
            refuse(ErrorCode::InvalidReplicaAssignment, message)
        }
        _ => refuse(ErrorCode::InvalidReplicaAssignment, "name a live broker for each partition"),
    }
}
