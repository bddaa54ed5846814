//! DeleteRecords: the log start rises, in the metadata store before the answer.

use super::ConnectionContext;
use super::common::{self, Call};
use crate::broker::RaiseError;
use crate::ids::{Offset, PartitionKey};
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::{self, ErrorCode};
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Stands for the high watermark.
const UP_TO_THE_END: i64 = -1;

pub(super) async fn delete_records(
    ctx: Rc<ConnectionContext>,
    request: DeleteRecordsRequest,
    _call: Call,
) -> DeleteRecordsResponse {
    let image = ctx.broker.image.load_full();
    let mut raises: BTreeMap<PartitionKey, Offset> = BTreeMap::new();
    let mut planned = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let target = target(&ctx, &image, &topic.name, asked);
            if let Ok((key, Some(to))) = target {
                let highest = raises.entry(key).or_insert(to);
                *highest = to.max(*highest);
            }
            partitions.push((asked.partition_index, target));
        }
        planned.push((topic.name, partitions));
    }
    let failed = raise(&ctx, &raises).await;
    let topics = planned.into_iter().map(|(name, partitions)| {
        let rows = partitions.into_iter().map(|(index, target)| {
            let row = DeleteRecordsPartitionResult::default().with_partition_index(index).with_low_watermark(-1);
            let code = match target {
                Ok((key, _)) => match (failed.get(&key), ctx.broker.directory.get(&key)) {
                    (Some(code), _) => *code,
                    (None, Some(led)) => return row.with_low_watermark(led.view.log_start().0),
                    (None, None) => ErrorCode::NotLeaderOrFollower,
                },
                Err(code) => code,
            };
            row.with_error_code(code.code())
        });
        DeleteRecordsTopicResult::default().with_name(name).with_partitions(rows.collect())
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// Where a partition's log is to start; `None` if it starts there or later already.
fn target(
    ctx: &ConnectionContext,
    image: &ClusterImage,
    topic: &str,
    asked: &DeleteRecordsPartition,
) -> Result<(PartitionKey, Option<Offset>), ErrorCode> {
    let topic = common::find_topic(image, topic).map_err(|refusal| refusal.code)?;
    let partition = common::led(&ctx.broker, topic, asked.partition_index)?;
    if topic.config.compact && !topic.config.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let high_watermark = partition.view.high_watermark();
    let to = if asked.offset == UP_TO_THE_END { high_watermark } else { Offset(asked.offset) };
    if to.0 < 0 || to > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    Ok((partition.key, (to > partition.view.log_start()).then_some(to)))
}

/// Raises log starts, all together; each alone if that fails, so that one lost partition does not stop the others.
/// Returns what failed.
async fn raise(ctx: &ConnectionContext, raises: &BTreeMap<PartitionKey, Offset>) -> BTreeMap<PartitionKey, ErrorCode> {
    let all: Vec<(PartitionKey, Offset)> = raises.iter().map(|(key, to)| (*key, *to)).collect();
    let mut failed = BTreeMap::new();
    let error = match ctx.broker.partitions.raise_log_starts(&all).await {
        Ok(()) => return failed,
        Err(error) => error,
    };
    for raise in all {
        let error = match &error {
            RaiseError::NotOwned => ctx.broker.partitions.raise_log_starts(&[raise]).await.err(),
            RaiseError::Metadata(error) => Some(RaiseError::Metadata(error.clone())),
        };
        if let Some(error) = error {
            tracing::warn!(partition = %raise.0, log_start = %raise.1, %error, "records could not be deleted");
            failed.insert(raise.0, error_code::of_raise(&error));
        }
    }
    failed
}
