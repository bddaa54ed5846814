//! CreatePartitions: topics grow, they never shrink.
//!
//! As with a new topic, the answer comes when the new partitions are led, at the latest after the client's time-out.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, duplicates, refuse};
use super::topics::WAIT_MAX;
use crate::ids::{BrokerId, TopicId};
use crate::metadata::admin::PARTITIONS_MAX;
use crate::metadata::image::{ClusterImage, Topic};
use crate::metadata::placement;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use std::collections::BTreeSet;
use std::rc::Rc;

pub(super) async fn create_partitions(
    ctx: Rc<ConnectionContext>,
    request: CreatePartitionsRequest,
    call: Call,
) -> CreatePartitionsResponse {
    let deadline = call.deadline(request.timeout_ms, WAIT_MAX);
    let twice = duplicates(request.topics.iter().map(|t| t.name.as_str()));
    let mut answered: BTreeSet<&str> = BTreeSet::new();
    let (mut results, mut grown) = (Vec::with_capacity(request.topics.len()), Vec::new());
    for topic in &request.topics {
        let name = topic.name.as_str();
        let outcome = if !twice.contains(name) {
            grow(&ctx, topic, request.validate_only).await
        } else if answered.insert(name) {
            refuse(ErrorCode::InvalidRequest, "the request names this topic more than once")
        } else {
            continue; // like Kafka: one row for a name that was sent more than once
        };
        grown.extend(outcome.iter().copied().flatten().map(|id| (name, id)));
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match outcome {
            Ok(_) => result.with_error_message(None),
            Err(refusal) => {
                result.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
            }
        });
    }
    if !grown.is_empty() {
        let led = || grown.iter().all(|(name, id)| common::is_led(&ctx.broker, name, *id));
        common::wait_until(deadline, led).await;
    }
    CreatePartitionsResponse::default().with_results(results)
}

/// Lets a topic grow; its id, or `None` if it was only to be checked.
async fn grow(
    ctx: &ConnectionContext,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<Option<TopicId>, Refusal> {
    let image = ctx.broker.image.load_full();
    let found = check(&image, topic)?;
    if validate_only {
        return Ok(None);
    }
    let (id, new) = (found.value.id, topic.count - found.value.partitions);
    let placed = match &topic.assignments {
        Some(assignments) => assignments.iter().map(|a| BrokerId(a.broker_ids[0].0)).collect(),
        None => placement::spread(&image, new),
    };
    let (_, revision) = ctx.broker.admin.create_partitions(&topic.name, id, topic.count, &placed).await?;
    // Only an image that has the new number can say whether all partitions are led.
    common::wait_until(common::soon(), || ctx.broker.image.load().revision >= revision).await;
    Ok(Some(id))
}

fn check<'a>(image: &'a ClusterImage, topic: &CreatePartitionsTopic) -> Result<&'a Topic, Refusal> {
    let name = topic.name.as_str();
    let found = common::find_topic(image, name)?;
    let (has, wanted) = (found.value.partitions, topic.count);
    if wanted <= has {
        let message = format!("topic {name} has {has} partition(s) already; {wanted} would not be more");
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    if wanted > PARTITIONS_MAX {
        let message = format!("{wanted} partitions are too many, the limit is {PARTITIONS_MAX}");
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    let Some(assignments) = &topic.assignments else { return Ok(found) };
    let new = wanted - has;
    if assignments.len() as i64 != i64::from(new) {
        let message = format!("{new} partition(s) are new, and {} assignment(s) are given", assignments.len());
        return refuse(ErrorCode::InvalidReplicaAssignment, message);
    }
    if let Some(wrong) = assignments.iter().position(|a| !common::are_live(image, &a.broker_ids)) {
        let message = format!("assignment {wrong} must name different live brokers");
        return refuse(ErrorCode::InvalidReplicaAssignment, message);
    }
    Ok(found)
}
