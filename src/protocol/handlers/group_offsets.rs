//! Committed offsets of groups: commit, fetch, delete.

use super::ConnectionContext;
use super::common::{Call, has_partition, text, topic_name};
use crate::actors::group::call::{Answer, Call as GroupCall, Caller, FetchTopic, FetchedOffset};
use crate::actors::group::error::GroupError;
use crate::actors::group::offsets::{Committed, OffsetToCommit};
use crate::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::{self, ErrorCode};
use futures::future::join_all;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::*;
use std::rc::Rc;
use std::sync::Arc;

/// Versions whose `retention_time_ms` is a client's own retention; -1 for none.
const VERSIONS_WITH_RETENTION: std::ops::RangeInclusive<i16> = 2..=4;

/// Of a topic that does not exist: nothing was committed for it.
const NO_TOPIC: TopicId = TopicId(uuid::Uuid::nil());

/// OffsetCommit.
pub(super) async fn offset_commit(
    ctx: Rc<ConnectionContext>,
    request: OffsetCommitRequest,
    call: Call,
) -> OffsetCommitResponse {
    let image = ctx.broker.image.load_full();
    let now_ms = ctx.broker.clock.wall_ms();
    let own_retention = VERSIONS_WITH_RETENTION.contains(&call.version).then_some(request.retention_time_ms);
    let expire_ms = own_retention.filter(|ms| *ms >= 0).map(|ms| now_ms.saturating_add(ms));
    let mut offsets = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    // Partitions that do not exist are answered here, the others in the order in which they are sent on.
    for topic in request.topics {
        let found = image.topic(topic.name.as_str());
        let name: Arc<str> = topic.name.as_str().into();
        let mut sent = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let known = found.filter(|t| has_partition(t, partition.partition_index));
            sent.push((partition.partition_index, known.is_some()));
            offsets.extend(known.map(|t| OffsetToCommit {
                topic: name.clone(),
                topic_id: t.value.id,
                partition: PartitionIndex(partition.partition_index),
                committed: committed(partition, now_ms, expire_ms),
            }));
        }
        topics.push((topic.name, sent));
    }
    let caller = Caller {
        member_id: request.member_id.to_string(),
        instance: request.group_instance_id.map(|i| i.to_string()),
        generation: request.generation_id_or_member_epoch,
        knows_epochs: call.version >= 9,
    };
    let count = offsets.len();
    let group: Arc<str> = request.group_id.as_str().into();
    let mut outcomes = match ctx.broker.groups.call(GroupCall::Commit(group, caller, offsets)).await {
        Ok(Answer::Committed(outcomes)) => outcomes,
        Ok(other) => unreachable!("{other:?} to a commit"),
        Err(error) => vec![Err(commit_error(error, call.version)); count],
    }
    .into_iter();
    let topics = topics.into_iter().map(|(name, sent)| {
        let partitions = sent.into_iter().map(|(index, known)| {
            let error = match known {
                true => outcomes.next().expect("an outcome for each").err().map(error_code::of_group),
                false => Some(ErrorCode::UnknownTopicOrPartition),
            };
            let row = OffsetCommitResponsePartition::default().with_partition_index(index);
            row.with_error_code(error_code::number(error))
        });
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn committed(partition: OffsetCommitRequestPartition, commit_ms: i64, expire_ms: Option<i64>) -> Committed {
    Committed {
        offset: Offset(partition.committed_offset),
        leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
        metadata: partition.committed_metadata.map(|m| m.to_string()).unwrap_or_default(),
        commit_ms,
        expire_ms,
    }
}

/// Older clients do not expect to hear that a group does not exist.
fn commit_error(error: GroupError, version: i16) -> GroupError {
    match error {
        GroupError::GroupIdNotFound if version < 9 => GroupError::IllegalGeneration,
        other => other,
    }
}

/// OffsetFetch.
pub(super) async fn offset_fetch(
    ctx: Rc<ConnectionContext>,
    request: OffsetFetchRequest,
    call: Call,
) -> OffsetFetchResponse {
    let image = ctx.broker.image.load_full();
    if call.version < 8 {
        let asked = request.topics.as_ref().map(|topics| {
            let topics = topics.iter();
            topics.map(|t| fetch_topic(&image, t.name.as_str(), &t.partition_indexes)).collect()
        });
        let fetched = fetch(&ctx, &image, &request.group_id, None, asked).await;
        let named = request.topics.iter().flatten().map(|t| (t.name.clone(), t.partition_indexes.len()));
        let named: Option<Vec<_>> = request.topics.is_some().then(|| named.collect());
        return match fetched {
            Ok(offsets) => single_response(by_topic(named, offsets), call.version),
            Err(error) => single_error(error, request.topics.unwrap_or_default(), call.version),
        };
    }
    let fetches = request.groups.iter().map(|group| {
        let topics = group
            .topics
            .as_ref()
            .map(|topics| topics.iter().map(|t| fetch_topic(&image, t.name.as_str(), &t.partition_indexes)).collect());
        let id = group.member_id.as_ref().map(|id| id.to_string());
        let is_member = id.is_some() || group.member_epoch >= 0;
        let member = is_member.then(|| (id.unwrap_or_default(), group.member_epoch));
        fetch(&ctx, &image, &group.group_id, member, topics)
    });
    let fetched = join_all(fetches).await;
    let groups = request.groups.iter().zip(fetched).map(|(group, fetched)| {
        let response = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
        match fetched {
            Ok(offsets) => {
                let named = group
                    .topics
                    .as_ref()
                    .map(|topics| topics.iter().map(|t| (t.name.clone(), t.partition_indexes.len())).collect());
                response.with_topics(by_topic(named, offsets).into_iter().map(group_topic).collect())
            }
            Err(error) => response.with_error_code(error_code::of_group(error).code()),
        }
    });
    OffsetFetchResponse::default().with_groups(groups.collect())
}

fn fetch_topic(image: &ClusterImage, name: &str, partitions: &[i32]) -> FetchTopic {
    FetchTopic {
        topic: name.into(),
        id: image.topic(name).map_or(NO_TOPIC, |t| t.value.id),
        partitions: partitions.iter().map(|p| PartitionIndex(*p)).collect(),
    }
}

async fn fetch(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    group: &GroupId,
    member: Option<(String, i32)>,
    topics: Option<Vec<FetchTopic>>,
) -> Result<Vec<FetchedOffset>, GroupError> {
    let of_all = topics.is_none();
    let answer = ctx.broker.groups.call(GroupCall::Fetch(group.as_str().into(), member, topics)).await;
    match answer.map_err(fetch_error)? {
        Answer::Fetched(mut offsets) => {
            // Offsets of a topic that was deleted are forgotten a little later.
            let exists = |o: &FetchedOffset| image.topic(&o.topic).is_some_and(|t| t.value.id == o.id);
            offsets.retain(|o| !of_all || exists(o));
            Ok(offsets)
        }
        other => unreachable!("{other:?} to a fetch"),
    }
}

/// Java's consumers before 3.9 give up when the answer is that the coordinator is not available. Looking for it again is
/// what they should do, and do if it is said to be elsewhere.
fn fetch_error(error: GroupError) -> GroupError {
    match error {
        GroupError::NotAvailable => GroupError::NotCoordinator,
        other => other,
    }
}

/// The offsets of each topic that was named, with the number of its partitions, in the order of the request; if none were
/// named, of each topic that there is.
fn by_topic(
    named: Option<Vec<(TopicName, usize)>>,
    offsets: Vec<FetchedOffset>,
) -> Vec<(TopicName, Vec<FetchedOffset>)> {
    if let Some(named) = named {
        let mut offsets = offsets.into_iter();
        // Also a topic of which no partitions were named has its place in the answer.
        return named.into_iter().map(|(name, count)| (name, offsets.by_ref().take(count).collect())).collect();
    }
    let mut topics: Vec<(TopicName, Vec<FetchedOffset>)> = Vec::new();
    for offset in offsets {
        match topics.last_mut() {
            Some((name, offsets)) if name.as_str() == &*offset.topic => offsets.push(offset),
            _ => topics.push((topic_name(&offset.topic), vec![offset])),
        }
    }
    topics
}

/// Offset, leader epoch and metadata as the protocol has them; -1 and nothing where nothing is committed.
fn shown(fetched: &FetchedOffset) -> (i64, i32, &str) {
    let committed = fetched.committed.as_ref();
    committed.map_or((-1, -1, ""), |c| (c.offset.0, c.leader_epoch.0, &c.metadata))
}

fn group_topic((name, offsets): (TopicName, Vec<FetchedOffset>)) -> OffsetFetchResponseTopics {
    let partitions = offsets.iter().map(|fetched| {
        let (offset, epoch, metadata) = shown(fetched);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(fetched.partition.0)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
}

/// Before version 8 the fields of the only group are those of the response.
fn single_response(topics: Vec<(TopicName, Vec<FetchedOffset>)>, version: i16) -> OffsetFetchResponse {
    let topics = topics.into_iter().map(|(name, offsets)| {
        let partitions = offsets.iter().map(|fetched| {
            let (offset, epoch, metadata) = shown(fetched);
            OffsetFetchResponsePartition::default()
                .with_partition_index(fetched.partition.0)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(if version >= 5 { epoch } else { -1 })
                .with_metadata(Some(text(metadata)))
        });
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// Version 1 has no place for an error of the group; there every partition has it.
fn single_error(error: GroupError, asked: Vec<OffsetFetchRequestTopic>, version: i16) -> OffsetFetchResponse {
    let code = error_code::of_group(error).code();
    if version >= 2 {
        return OffsetFetchResponse::default().with_error_code(code);
    }
    let topics = asked.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.into_iter().map(|index| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(-1)
                .with_metadata(Some(text("")))
                .with_error_code(code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// OffsetDelete.
pub(super) async fn offset_delete(
    ctx: Rc<ConnectionContext>,
    request: OffsetDeleteRequest,
    _: Call,
) -> OffsetDeleteResponse {
    let image = ctx.broker.image.load_full();
    let known = |name: &TopicName, index: i32| image.topic(name.as_str()).is_some_and(|t| has_partition(t, index));
    let topics = request.topics.iter().map(|topic| {
        let indexes = topic.partitions.iter().map(|p| p.partition_index).filter(|p| known(&topic.name, *p));
        (Arc::from(topic.name.as_str()), indexes.map(PartitionIndex).collect())
    });
    let call = GroupCall::DeleteOffsets(request.group_id.as_str().into(), topics.collect());
    let outcomes = match ctx.broker.groups.call(call).await {
        Ok(Answer::OffsetsDeleted(outcomes)) => outcomes,
        Ok(other) => unreachable!("{other:?} to a deletion"),
        Err(error) => return OffsetDeleteResponse::default().with_error_code(error_code::of_group(error).code()),
    };
    let topics = request.topics.iter().zip(outcomes).map(|(topic, outcome)| {
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let error = match known(&topic.name, index) {
                true => outcome.err().map(error_code::of_group),
                false => Some(ErrorCode::UnknownTopicOrPartition),
            };
            let row = OffsetDeleteResponsePartition::default().with_partition_index(index);
            row.with_error_code(error_code::number(error))
        });
        let response = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
        response.with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
