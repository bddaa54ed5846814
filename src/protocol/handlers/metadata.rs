//! Metadata, DescribeTopicPartitions and DescribeCluster: what exists and who leads.
//!
//! All of it is answered from the cluster image. The object store is the replica, so every partition has one: its
//! leader. Metadata, which consumers ask for, adds the brokers that serve it to consumers of other racks, behind the leader:
//! some clients read from replicas only. DescribeTopicPartitions, which administrators' tools ask for, says where a
//! partition is placed, and that is one broker. Any broker does the controller's work; each names itself, which clients can
//! certainly reach.

use super::common::{self, Call, Node, text};
use super::{ConnectionContext, topics};
use crate::ids::{BrokerId, PartitionKey, TopicId};
use crate::metadata::image::{ClusterImage, Topic};
use crate::metadata::placement::{self, Candidates};
use crate::metadata::read_replicas::ReadReplicas;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::topic_name;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId as WireBrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, MetadataRequest, MetadataResponse,
};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Topics that one Metadata request may create; the rest is answered LEADER_NOT_AVAILABLE and asked for again.
const AUTO_CREATE_MAX: usize = 100;
/// How long Metadata waits for the partitions of topics that it created.
const AUTO_CREATE_WAIT: Duration = Duration::from_millis(500);
/// Partitions in one DescribeTopicPartitions response (Kafka's `max.request.partition.size.limit`).
const DESCRIBE_PARTITIONS_MAX: i32 = 2_000;
/// Without an authorizer everything is allowed: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE and the two for configs.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, the two for configs and IDEMPOTENT_WRITE.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// "Not asked for".
const NO_OPERATIONS: i32 = i32::MIN;

pub(super) async fn metadata(ctx: Rc<ConnectionContext>, request: MetadataRequest, call: Call) -> MetadataResponse {
    let may_create = request.allow_auto_topic_creation && ctx.broker.settings.auto_create_topics;
    let wanted = request.topics.filter(|topics| call.version > 0 || !topics.is_empty());
    if let Some(wanted) = wanted.as_ref().filter(|_| may_create) {
        create_missing(&ctx, wanted).await;
    }
    let image = ctx.broker.image.load_full();
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS };
    let (replicas, candidates) = (ReadReplicas::of(&image), Candidates::of(&image));
    let describe = |topic: &Arc<Topic>| {
        describe_topic(&ctx, &image, &replicas, &candidates, topic).with_topic_authorized_operations(operations)
    };
    let topics = match wanted {
        None => image.topics().map(describe).collect(),
        Some(wanted) => wanted
            .into_iter()
            .map(|wanted| match find(&image, &wanted, call.version, may_create) {
                Ok(topic) => describe(topic),
                Err(code) => MetadataResponseTopic::default()
                    .with_error_code(code.code())
                    .with_name(wanted.name.or_else(|| (call.version < 12).then(Default::default)))
                    .with_topic_id(wanted.topic_id),
            })
            .collect(),
    };
    let nodes = common::nodes(&ctx, &image);
    let mut response = MetadataResponse::default()
        .with_brokers(nodes.into_iter().map(metadata_broker).collect())
        .with_cluster_id(Some(text(&ctx.broker.cluster_id)))
        .with_controller_id(ctx.broker.node.0.into())
        .with_topics(topics);
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

fn find<'a>(
    image: &'a ClusterImage,
    wanted: &MetadataRequestTopic,
    version: i16,
    created: bool,
) -> Result<&'a Arc<Topic>, ErrorCode> {
    let by_id = !wanted.topic_id.is_nil();
    match &wanted.name {
        // Versions 10 and 11 have the field, but Kafka looks topics up by id from 12 on only.
        _ if by_id && version < 12 => Err(ErrorCode::InvalidRequest),
        None if !by_id => Err(ErrorCode::InvalidRequest),
        None => image.topic_by_id(TopicId(wanted.topic_id)).ok_or(ErrorCode::UnknownTopicId),
        Some(name) => match (image.topic(name), topic_name::check(name)) {
            (Some(topic), _) => Ok(topic),
            (None, Err(_)) => Err(ErrorCode::InvalidTopicException),
            (None, Ok(())) if created && topics::colliding(image, name).is_some() => {
                Err(ErrorCode::InvalidTopicException)
            }
            (None, Ok(())) if created => Err(ErrorCode::LeaderNotAvailable),
            (None, Ok(())) => Err(ErrorCode::UnknownTopicOrPartition),
        },
    }
}

/// Creates the valid ones of the topics that do not exist, and waits a little for their leaders, so that most clients
/// get their answer without a second round. Failures are not told: the topic is still missing, and the client asks again.
async fn create_missing(ctx: &ConnectionContext, wanted: &[MetadataRequestTopic]) {
    let image = ctx.broker.image.load_full();
    let names: BTreeSet<&str> = wanted
        .iter()
        .filter(|topic| topic.topic_id.is_nil())
        .filter_map(|topic| topic.name.as_ref().map(|name| name.as_str()))
        .filter(|name| image.topic(name).is_none() && topic_name::check(name).is_ok())
        .filter(|name| topics::colliding(&image, name).is_none())
        .take(AUTO_CREATE_MAX)
        .collect();
    if names.is_empty() {
        return;
    }
    let partitions = ctx.broker.settings.default_partitions;
    let spread = placement::spread(&image, partitions.saturating_mul(names.len() as i32));
    let mut places = spread.chunks(partitions.max(1) as usize).map(<[_]>::to_vec);
    let creations = names.into_iter().map(|name| (name, places.next().unwrap_or_default()));
    let creations = creations.map(|(name, places)| async move {
        match ctx.broker.admin.create_topic(name, partitions, Default::default(), places).await {
            Ok(value) => Some((name, value.id)),
            Err(error) => {
                tracing::warn!(topic = name, %error, "topic is not created automatically");
                None
            }
        }
    });
    let created: Vec<_> = futures::future::join_all(creations).await.into_iter().flatten().collect();
    let deadline = crate::clock::monotonic() + AUTO_CREATE_WAIT;
    common::wait_until(deadline, || created.iter().all(|(name, id)| common::is_led(&ctx.broker, name, *id))).await;
}

fn metadata_broker(node: Node) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(node.id.0.into())
        .with_host(node.host)
        .with_port(node.port)
        .with_rack(node.rack)
}

/// One partition, as both APIs say it.
struct Described {
    error_code: i16,
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<WireBrokerId>,
}

fn describe_partition(ctx: &ConnectionContext, image: &ClusterImage, key: &PartitionKey) -> Described {
    let (leader, epoch) = common::leader(&ctx.broker, image, key);
    let error = if leader.is_none() { Some(ErrorCode::LeaderNotAvailable) } else { None };
    Described {
        error_code: crate::protocol::error_code::number(error),
        leader: leader.map_or(-1, |BrokerId(id)| id),
        leader_epoch: epoch.0,
        replicas: leader.map(|BrokerId(id)| id.into()).into_iter().collect(),
    }
}

fn describe_topic(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    read: &ReadReplicas,
    candidates: &Candidates,
    topic: &Topic,
) -> MetadataResponseTopic {
    let partitions = (0..topic.value.partitions).map(|index| {
        let key = common::partition_key(topic, index);
        let mut described = describe_partition(ctx, image, &key);
        // Between two leaders those of the next one: consumers with a rack join their groups anew when racks change (KIP-881).
        let next = || candidates.leader(topic.value.placement.get(index as usize).copied(), &key);
        let leader = if described.leader >= 0 { Some(BrokerId(described.leader)) } else { next() };
        let all = leader.map(|leader| read.all(&key, leader)).unwrap_or_default();
        described.replicas = all.into_iter().map(|BrokerId(id)| id.into()).collect();
        MetadataResponsePartition::default()
            .with_error_code(described.error_code)
            .with_partition_index(index)
            .with_leader_id(described.leader.into())
            .with_leader_epoch(described.leader_epoch)
            .with_replica_nodes(described.replicas.clone())
            .with_isr_nodes(described.replicas)
    });
    MetadataResponseTopic::default()
        .with_name(Some(common::topic_name(&topic.name)))
        .with_topic_id(topic.value.id.0)
        .with_partitions(partitions.collect())
}

pub(super) async fn describe_topic_partitions(
    ctx: Rc<ConnectionContext>,
    request: DescribeTopicPartitionsRequest,
    _call: Call,
) -> DescribeTopicPartitionsResponse {
    let image = ctx.broker.image.load_full();
    let limit = request.response_partition_limit.clamp(1, DESCRIBE_PARTITIONS_MAX);
    let all = request.topics.is_empty();
    let names: BTreeSet<String> = match all {
        true => image.topics().map(|t| t.name.to_string()).collect(),
        false => request.topics.iter().map(|t| t.name.to_string()).collect(),
    };
    let start = request.cursor.map(|c| (c.topic_name.to_string(), c.partition_index));
    let is_of_these = |(name, index): &(String, i32)| *index >= 0 && (all || names.contains(name));
    if !start.as_ref().is_none_or(is_of_these) {
        // No page ended there; as in Kafka, every topic that was named says so.
        let topics = request.topics.iter().map(|t| not_described(&t.name, ErrorCode::InvalidRequest));
        return DescribeTopicPartitionsResponse::default().with_topics(topics.collect());
    }
    let sizes = names.into_iter().map(|name| {
        let partitions = image.topic(&name).map(|t| t.value.partitions);
        (name, partitions)
    });
    let (page, next) = page(sizes, start, limit);
    let topics = page.into_iter().map(|(name, partitions)| match image.topic(&name) {
        Some(topic) => {
            let partitions = partitions.map(|index| {
                let described = describe_partition(&ctx, &image, &common::partition_key(topic, index));
                DescribeTopicPartitionsResponsePartition::default()
                    .with_error_code(described.error_code)
                    .with_partition_index(index)
                    .with_leader_id(described.leader.into())
                    .with_leader_epoch(described.leader_epoch)
                    .with_replica_nodes(described.replicas.clone())
                    .with_isr_nodes(described.replicas)
                    .with_eligible_leader_replicas(Some(Vec::new()))
                    .with_last_known_elr(Some(Vec::new()))
            });
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(common::topic_name(&name)))
                .with_topic_id(topic.value.id.0)
                .with_partitions(partitions.collect())
                .with_topic_authorized_operations(TOPIC_OPERATIONS)
        }
        None => match topic_name::check(&name) {
            Ok(()) => not_described(&name, ErrorCode::UnknownTopicOrPartition),
            Err(_) => not_described(&name, ErrorCode::InvalidTopicException),
        },
    });
    let cursor = |(name, index): (String, i32)| {
        Cursor::default().with_topic_name(common::topic_name(&name)).with_partition_index(index)
    };
    DescribeTopicPartitionsResponse::default().with_topics(topics.collect()).with_next_cursor(next.map(cursor))
}

fn not_described(name: &str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(common::topic_name(name)))
}

/// Topics with the partitions to describe, and where the next page starts.
type Page = (Vec<(String, std::ops::Range<i32>)>, Option<(String, i32)>);

/// The page of at most `limit` partitions that starts at `start`; `topics` are in name order, `None` is unknown.
fn page(topics: impl Iterator<Item = (String, Option<i32>)>, start: Option<(String, i32)>, limit: i32) -> Page {
    let mut page = Vec::new();
    let mut left = limit;
    for (name, partitions) in topics {
        let first = match &start {
            Some((topic, _)) if name < *topic => continue,
            Some((topic, partition)) if name == *topic => *partition,
            _ => 0,
        };
        if left == 0 {
            return (page, Some((name, first)));
        }
        let Some(partitions) = partitions else {
            page.push((name, 0..0));
            continue;
        };
        let end = partitions.min(first.saturating_add(left));
        left -= (end - first).max(0);
        page.push((name.clone(), first..end));
        if end < partitions {
            return (page, Some((name, end)));
        }
    }
    (page, None)
}

pub(super) async fn describe_cluster(
    ctx: Rc<ConnectionContext>,
    request: DescribeClusterRequest,
    call: Call,
) -> DescribeClusterResponse {
    const BROKERS: i8 = 1;
    const CONTROLLERS: i8 = 2;
    let response = DescribeClusterResponse::default().with_error_message(None);
    if call.version >= 1 && request.endpoint_type != BROKERS {
        let code = match request.endpoint_type {
            CONTROLLERS => ErrorCode::MismatchedEndpointType,
            _ => ErrorCode::UnsupportedEndpointType,
        };
        let message = text("this listener describes brokers (endpoint type 1)");
        return response.with_error_code(code.code()).with_error_message(Some(message));
    }
    let image = ctx.broker.image.load_full();
    let brokers = common::nodes(&ctx, &image).into_iter().map(|node| {
        DescribeClusterBroker::default()
            .with_broker_id(node.id.0.into())
            .with_host(node.host)
            .with_port(node.port)
            .with_rack(node.rack)
    });
    let asked = request.include_cluster_authorized_operations;
    response
        .with_cluster_id(text(&ctx.broker.cluster_id))
        .with_controller_id(ctx.broker.node.0.into())
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(if asked { CLUSTER_OPERATIONS } else { NO_OPERATIONS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(topics: &[(&str, Option<i32>)], start: Option<(&str, i32)>, limit: i32) -> Page {
        let topics = topics.iter().map(|(n, p)| ((*n).to_owned(), *p));
        page(topics, start.map(|(n, p)| (n.to_owned(), p)), limit)
    }

    #[test]
    fn operations() {
        let bits = |ops: &[u32]| ops.iter().fold(0, |all, op| all | 1 << op);
        assert_eq!(TOPIC_OPERATIONS, bits(&[3, 4, 5, 6, 7, 8, 10, 11]));
        assert_eq!(CLUSTER_OPERATIONS, bits(&[5, 7, 8, 9, 10, 11, 12]));
    }

    #[test]
    fn pages() {
        let topics = [("a", Some(3)), ("b", None), ("c", Some(2))];
        let name = str::to_owned;
        assert_eq!(run(&topics, None, 10), (vec![(name("a"), 0..3), (name("b"), 0..0), (name("c"), 0..2)], None));
        assert_eq!(run(&topics, None, 2), (vec![(name("a"), 0..2)], Some((name("a"), 2))));
        assert_eq!(run(&topics, Some(("a", 2)), 2).1, Some((name("c"), 1)));
        assert_eq!(run(&topics, None, 3), (vec![(name("a"), 0..3)], Some((name("b"), 0))));
        assert_eq!(run(&topics, Some(("c", 1)), 2), (vec![(name("c"), 1..2)], None));
        assert_eq!(run(&topics, Some(("d", 0)), 2), (vec![], None));
        assert_eq!(run(&topics, Some(("a", i32::MAX)), 9).1, None);
    }

    #[test]
    fn pages_cover_everything_once() {
        let topics: Vec<_> = (0..7).map(|i| (format!("t{i}"), Some(i * 3 % 5))).collect();
        let mut seen = Vec::new();
        let mut start = None;
        loop {
            let (found, next) = page(topics.iter().cloned(), start, 2);
            seen.extend(found.into_iter().flat_map(|(n, r)| r.map(move |p| (n.clone(), p))));
            match next {
                Some(next) => start = Some(next),
                None => break,
            }
        }
        let all: Vec<_> = topics.iter().flat_map(|(n, c)| (0..c.unwrap()).map(move |p| (n.clone(), p))).collect();
        assert_eq!(seen, all);
    }
}
