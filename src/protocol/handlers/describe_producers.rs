//! DescribeProducers: what a partition remembers of idempotent producers, committed batches only.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, refuse};
use crate::actors::partition::producers::ProducerSnapshot;
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};
use std::rc::Rc;

pub(super) async fn describe_producers(
    ctx: Rc<ConnectionContext>,
    request: DescribeProducersRequest,
    _call: Call,
) -> DescribeProducersResponse {
    let image = ctx.broker.image.load_full();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let row = PartitionResponse::default().with_partition_index(index);
            partitions.push(match producers(&ctx, &image, &topic.name, index).await {
                Ok(producers) => row
                    .with_error_message(None)
                    .with_active_producers(producers.into_iter().filter_map(state).collect()),
                Err(refusal) => {
                    row.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
                }
            });
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

async fn producers(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    name: &str,
    index: i32,
) -> Result<Vec<ProducerSnapshot>, Refusal> {
    let topic = common::find_topic(image, name)?;
    let not_here = || Refusal {
        code: ErrorCode::NotLeaderOrFollower,
        message: format!("this broker does not serve partition {index} of topic {name} now"),
    };
    match common::led(&ctx.broker, topic, index) {
        Ok(partition) => ctx.broker.partitions.producers(&partition.key).await.ok_or_else(not_here),
        Err(ErrorCode::NotLeaderOrFollower) => Err(not_here()),
        Err(code) => refuse(code, format!("topic {name} has no partition {index}")),
    }
}

/// A producer as the protocol shows it. Without transactions there is neither a coordinator nor an open one.
fn state(producer: ProducerSnapshot) -> Option<ProducerState> {
    let last = producer.batches.last()?;
    let state = ProducerState::default()
        .with_producer_id(producer.id.0.into())
        .with_producer_epoch(i32::from(last.epoch.0))
        .with_last_sequence(last.last_sequence)
        .with_last_timestamp(producer.last_append_ms)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1);
    Some(state)
}
