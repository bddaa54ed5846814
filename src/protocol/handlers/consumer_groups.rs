//! Groups of the consumer protocol: heartbeats, and what administrators see.

use super::ConnectionContext;
use super::common::{Call, text, topic_name};
use super::groups::{GROUP_OPERATIONS, NO_OPERATIONS};
use crate::actors::group::call::{Answer, Call as GroupCall, ConsumerDescription};
use crate::actors::group::consumer::types::HeartbeatRequest;
use crate::actors::group::consumer::value::{Assignment, ConsumerMember};
use crate::actors::group::error::GroupError;
use crate::ids::{PartitionIndex, TopicId};
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code;
use futures::future::join_all;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as ShownAssignment, DescribedGroup, Member, TopicPartitions as ShownTopic,
};
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment as SentAssignment, TopicPartitions};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Member types of ConsumerGroupDescribe.
const TYPE_CLASSIC: i8 = 0;
const TYPE_CONSUMER: i8 = 1;

fn owned(text: Option<StrBytes>) -> Option<String> {
    text.map(|t| t.to_string())
}

/// ConsumerGroupHeartbeat.
pub(super) async fn heartbeat(
    ctx: Rc<ConnectionContext>,
    client_id: Option<String>,
    request: ConsumerGroupHeartbeatRequest,
    call: Call,
) -> ConsumerGroupHeartbeatResponse {
    let group = request.group_id.as_str().into();
    let beat = HeartbeatRequest {
        member_id: request.member_id.to_string(),
        epoch: request.member_epoch,
        instance: owned(request.instance_id),
        rack: owned(request.rack_id),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        names: request.subscribed_topic_names.map(|names| names.iter().map(|n| n.to_string()).collect()),
        regex: owned(request.subscribed_topic_regex),
        assignor: owned(request.server_assignor),
        owned: request.topic_partitions.map(|topics| {
            let mut assignment = Assignment::new();
            for topic in topics.into_iter().filter(|t| !t.partitions.is_empty()) {
                let partitions = topic.partitions.into_iter().map(PartitionIndex);
                assignment.entry(TopicId(topic.topic_id)).or_default().extend(partitions);
            }
            assignment
        }),
        client_id: client_id.unwrap_or_default(),
        client_host: format!("/{}", ctx.peer.ip()),
        brings_id: call.version >= 1,
    };
    match ctx.broker.groups.call(GroupCall::Beat(group, Box::new(beat))).await {
        Ok(Answer::Beat(reply)) => ConsumerGroupHeartbeatResponse::default()
            .with_error_message(None)
            .with_member_id(Some(reply.member_id.into()))
            .with_member_epoch(reply.epoch)
            .with_heartbeat_interval_ms(reply.heartbeat_interval_ms)
            .with_assignment(reply.assignment.map(|assignment| {
                let topics = assignment.into_iter().map(|(topic, partitions)| {
                    let partitions = partitions.into_iter().map(|p| p.0).collect();
                    TopicPartitions::default().with_topic_id(topic.0).with_partitions(partitions)
                });
                SentAssignment::default().with_topic_partitions(topics.collect())
            })),
        Ok(other) => unreachable!("{other:?} to a heartbeat"),
        Err(error) => ConsumerGroupHeartbeatResponse::default()
            .with_error_code(error_code::of_group(error).code())
            .with_error_message(Some(text(&error.to_string())))
            .with_member_id(None)
            .with_assignment(None),
    }
}

/// ConsumerGroupDescribe.
pub(super) async fn describe(
    ctx: Rc<ConnectionContext>,
    request: ConsumerGroupDescribeRequest,
    call: Call,
) -> ConsumerGroupDescribeResponse {
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
    let image = ctx.broker.image.load_full();
    let ask = |group: &GroupId| ctx.broker.groups.call(GroupCall::DescribeConsumer(group.as_str().into()));
    let outcomes = join_all(request.group_ids.iter().map(ask)).await;
    let groups = request.group_ids.into_iter().zip(outcomes).map(|(group, outcome)| {
        let described = match outcome {
            Ok(Answer::ConsumerDescribed(description)) => described(*description, &image, call.version),
            Ok(other) => unreachable!("{other:?} to a describe"),
            Err(error) => DescribedGroup::default()
                .with_error_code(error_code::of_group(error).code())
                .with_error_message(Some(text(&undescribed(error, &group)))),
        };
        described.with_group_id(group).with_authorized_operations(operations)
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}

fn undescribed(error: GroupError, group: &GroupId) -> String {
    match error {
        GroupError::GroupIdNotFound => format!("Group {} not found.", group.as_str()),
        GroupError::NotConsumer => format!("Group {} is not a consumer group.", group.as_str()),
        other => other.to_string(),
    }
}

fn described(description: ConsumerDescription, image: &ClusterImage, version: i16) -> DescribedGroup {
    let members = description.members.into_iter().map(|member| shown_member(member, image, version));
    DescribedGroup::default()
        .with_error_message(None)
        .with_group_state(StrBytes::from_static_str(description.state))
        .with_group_epoch(description.epoch)
        .with_assignment_epoch(description.target_epoch)
        .with_assignor_name(StrBytes::from_static_str(description.assignor))
        .with_members(members.collect())
}

fn shown_member(member: ConsumerMember, image: &ClusterImage, version: i16) -> Member {
    let kind = if member.classic.is_some() { TYPE_CLASSIC } else { TYPE_CONSUMER };
    let names: BTreeSet<String> = member.names;
    Member::default()
        .with_member_id(member.id.into())
        .with_instance_id(member.instance.map(Into::into))
        .with_rack_id(member.rack.map(Into::into))
        .with_member_epoch(member.epoch)
        .with_client_id(member.client_id.into())
        .with_client_host(member.client_host.into())
        .with_subscribed_topic_names(names.iter().map(|n| topic_name(n)).collect())
        .with_subscribed_topic_regex(member.regex.map(Into::into))
        .with_assignment(shown_assignment(&member.assigned, image))
        .with_target_assignment(shown_assignment(&member.target, image))
        .with_member_type(if version >= 1 { kind } else { -1 })
}

/// Topics that do not exist any more are left out.
fn shown_assignment(assignment: &Assignment, image: &ClusterImage) -> ShownAssignment {
    let topics = assignment.iter().filter_map(|(id, partitions)| {
        let topic = image.topic_by_id(*id)?;
        let shown = ShownTopic::default().with_topic_id(id.0).with_topic_name(topic_name(&topic.name));
        Some(shown.with_partitions(partitions.iter().map(|p| p.0).collect()))
    });
    ShownAssignment::default().with_topic_partitions(topics.collect())
}
