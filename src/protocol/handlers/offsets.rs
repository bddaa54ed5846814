//! ListOffsets and OffsetForLeaderEpoch.

use super::ConnectionContext;
use super::common::{self, Call};
use crate::actors::partition::view::PartitionView;
use crate::broker::Broker;
use crate::ids::{LeaderEpoch, Offset};
use crate::metadata::image::ClusterImage;
use crate::protocol::batch::{BatchHeader, StoredBatch};
use crate::protocol::error_code::{self, ErrorCode};
use crate::protocol::records::{self, RecordError, Records};
use bytes::Bytes;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};
use std::rc::Rc;
use std::sync::Arc;

/// ListOffsets' special timestamps, with the first version that knows them.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// An answer to ListOffsets; -1 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    offset: i64,
    timestamp_ms: i64,
    epoch: i32,
}

const NOTHING: Found = Found { offset: -1, timestamp_ms: -1, epoch: -1 };

pub(super) async fn list_offsets(
    ctx: Rc<ConnectionContext>,
    request: ListOffsetsRequest,
    call: Call,
) -> ListOffsetsResponse {
    let image = ctx.broker.image.load_full();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match find(&ctx.broker, &image, &topic.name, asked, call.version).await {
                Ok(found) => response
                    .with_offset(found.offset)
                    .with_timestamp(found.timestamp_ms)
                    .with_leader_epoch(if call.version >= 4 { found.epoch } else { -1 }),
                Err(code) => response.with_error_code(code.code()),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn view(
    broker: &Broker,
    image: &ClusterImage,
    name: &str,
    index: i32,
    believed_epoch: i32,
) -> Result<Arc<PartitionView>, ErrorCode> {
    let topic = image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = common::led(broker, topic, index)?;
    common::check_epoch(&partition.view, believed_epoch)?;
    Ok(partition.view)
}

async fn find(
    broker: &Broker,
    image: &ClusterImage,
    name: &str,
    asked: &ListOffsetsPartition,
    version: i16,
) -> Result<Found, ErrorCode> {
    let view = view(broker, image, name, asked.partition_index, asked.current_leader_epoch)?;
    match asked.timestamp {
        // Without transactions the last stable offset is the high watermark.
        LATEST => Ok(Found { offset: view.high_watermark().0, epoch: view.leader_epoch.0, ..NOTHING }),
        EARLIEST => Ok(earliest(&view)),
        MAX_TIMESTAMP if version >= 7 => max_timestamp(broker, &view).await,
        // Nothing is tiered in Kafka's sense: all of the log counts as local.
        EARLIEST_LOCAL if version >= 8 => Ok(earliest(&view)),
        LATEST_TIERED if version >= 9 => Ok(NOTHING),
        timestamp if timestamp < 0 => Err(ErrorCode::UnsupportedVersion),
        timestamp => by_timestamp(broker, &view, timestamp).await,
    }
}

fn earliest(view: &PartitionView) -> Found {
    let offset = view.log_start();
    Found { offset: offset.0, epoch: epoch_at(view, offset).0, ..NOTHING }
}

/// The epoch under which `offset` was written, -1 if nothing is known to be there.
fn epoch_at(view: &PartitionView, offset: Offset) -> LeaderEpoch {
    view.with_log(|log| {
        let after = log.epochs.partition_point(|e| e.start <= offset);
        log.epochs[..after].last().map_or(LeaderEpoch(-1), |e| e.epoch)
    })
}

async fn max_timestamp(broker: &Broker, view: &Arc<PartitionView>) -> Result<Found, ErrorCode> {
    let batch = broker.reader.batch_of_max_timestamp(view).await.map_err(|e| error_code::of_read(&e))?;
    let Some(batch) = batch else {
        return Ok(NOTHING);
    };
    if batch.is_hole() {
        return Ok(NOTHING);
    }
    let target = batch.max_timestamp;
    Ok(search(view, batch, target).await)
}

async fn by_timestamp(broker: &Broker, view: &Arc<PartitionView>, target: i64) -> Result<Found, ErrorCode> {
    let batch = broker.reader.first_batch_at_or_after(view, target).await.map_err(|e| error_code::of_read(&e))?;
    match batch {
        Some(batch) => Ok(search(view, batch, target).await),
        None => Ok(NOTHING),
    }
}

/// The first record of `batch` at or above the log start whose timestamp is at least `target`.
async fn search(view: &PartitionView, batch: StoredBatch, target: i64) -> Found {
    let log_start = view.log_start();
    let (base, max_timestamp) = (batch.base, batch.max_timestamp);
    // A compressed batch can hold 128 MiB: the shard goes on with its other connections meanwhile.
    let searched = tokio::task::spawn_blocking(move || first_at_or_after(&batch, target, log_start));
    let record = match searched.await {
        Ok(Ok(found)) => found,
        Err(error) => {
            tracing::error!(partition = %view.key, %base, %error, "search by timestamp failed");
            None
        }
        Ok(Err(error)) => {
            // Compressed records are stored unread, so that a producer may have sent nonsense. The batch is the answer
            // that can be given: a consumer that starts there misses nothing.
            tracing::warn!(partition = %view.key, %base, %error, "batch cannot be searched by timestamp");
            None
        }
    };
    let (offset, timestamp_ms) = record.unwrap_or((base.max(log_start), max_timestamp));
    Found { offset: offset.0, timestamp_ms, epoch: epoch_at(view, offset).0 }
}

fn first_at_or_after(
    batch: &StoredBatch,
    target: i64,
    log_start: Offset,
) -> Result<Option<(Offset, i64)>, RecordError> {
    let whole = if batch.tail.is_empty() {
        batch.head.clone()
    } else {
        Bytes::from([&batch.head[..], &batch.tail[..]].concat())
    };
    let Ok(header) = BatchHeader::parse(&whole) else {
        return Ok(None);
    };
    if header.is_log_append_time() {
        return Ok(Some((batch.base.max(log_start), header.max_timestamp)));
    }
    let bytes = records::records_bytes(&header, &whole)?;
    for record in Records::stored(&bytes, &header) {
        let record = record?;
        let offset = batch.base.plus(i64::from(record.offset_delta));
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        if timestamp >= target && offset >= log_start {
            return Ok(Some((offset, timestamp)));
        }
    }
    Ok(None)
}

pub(super) async fn offset_for_leader_epoch(
    ctx: Rc<ConnectionContext>,
    request: OffsetForLeaderEpochRequest,
    _call: Call,
) -> OffsetForLeaderEpochResponse {
    let image = ctx.broker.image.load_full();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let response = EpochEndOffset::default().with_partition(asked.partition);
            match view(&ctx.broker, &image, &topic.topic, asked.partition, asked.current_leader_epoch) {
                Ok(view) => {
                    let (epoch, end) = epoch_end(&view, LeaderEpoch(asked.leader_epoch));
                    response.with_leader_epoch(epoch.0).with_end_offset(end.0)
                }
                Err(code) => response.with_error_code(code.code()),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// The largest epoch not above `epoch` and where it ends (KIP-320). An epoch before everything known ends where the
/// first known one starts; one above the leader's is unknown: (-1, -1).
pub(super) fn epoch_end(view: &PartitionView, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
    if epoch == view.leader_epoch {
        return (epoch, view.high_watermark());
    }
    if epoch > view.leader_epoch || epoch.0 < 0 {
        return (LeaderEpoch(-1), Offset(-1));
    }
    view.epoch_end(epoch).unwrap_or_else(|| {
        let first = view.with_log(|log| log.epochs.first().map(|e| e.start));
        (epoch, first.unwrap_or_else(|| view.high_watermark()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::partition::view::{EpochStart, LogState};
    use crate::ids::{PartitionIndex, PartitionKey, TopicId};
    use crate::protocol::compression::Codec;
    use crate::protocol::records::BatchBuilder;
    use uuid::Uuid;

    fn search(view: &PartitionView, batch: &StoredBatch, target: i64) -> Found {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(super::search(view, batch.clone(), target))
    }

    fn some_view(log_start: i64, high_watermark: i64, leader_epoch: i32, epochs: &[(i32, i64)]) -> PartitionView {
        let key = PartitionKey { topic: TopicId(Uuid::nil()), partition: PartitionIndex(0) };
        let epochs = epochs.iter().map(|(e, s)| EpochStart { epoch: LeaderEpoch(*e), start: Offset(*s) }).collect();
        let log = LogState { epochs, ..LogState::default() };
        PartitionView::new(key, LeaderEpoch(leader_epoch), Offset(log_start), Offset(high_watermark), log)
    }

    fn stored(builder: BatchBuilder, base: i64) -> StoredBatch {
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).unwrap();
        StoredBatch::assign(&bytes, &header, Offset(base), LeaderEpoch(3))
    }

    #[test]
    fn records_are_searched_by_timestamp() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let batch = BatchBuilder::new().codec(codec);
            let batch = [2, 4, 6, 8].iter().fold(batch, |b, ts| b.record(*ts, None, Some(b"v")));
            let batch = stored(batch, 10);
            let view = some_view(0, 14, 3, &[(3, 0)]);
            let table = [(1, 10, 2), (2, 10, 2), (3, 11, 4), (8, 13, 8)];
            for (target, offset, timestamp_ms) in table {
                assert_eq!(search(&view, &batch, target), Found { offset, timestamp_ms, epoch: 3 }, "{codec:?}");
            }
            let trimmed = some_view(12, 14, 3, &[(3, 0)]);
            assert_eq!(search(&trimmed, &batch, 1), Found { offset: 12, timestamp_ms: 6, epoch: 3 });
        }
    }

    #[test]
    fn the_greatest_timestamp_may_be_in_the_middle() {
        let batch = BatchBuilder::new().record(100, None, None).record(400, None, None).record(200, None, None);
        let batch = stored(batch, 0);
        let view = some_view(0, 3, 0, &[(0, 0)]);
        assert_eq!(search(&view, &batch, batch.max_timestamp), Found { offset: 1, timestamp_ms: 400, epoch: 0 });
    }

    #[test]
    fn log_append_time_is_the_batchs() {
        let batch = stored(BatchBuilder::new().record(5, None, None).record(900, None, None).attributes(0x08), 7);
        let view = some_view(0, 9, 0, &[(0, 0)]);
        assert_eq!(search(&view, &batch, 800), Found { offset: 7, timestamp_ms: 900, epoch: 0 });
    }

    #[test]
    fn unreadable_batches_are_answered_with_their_start() {
        let good = BatchBuilder::new().codec(Codec::Zstd).record(5, None, Some(b"value")).build();
        let mut bytes = bytes::BytesMut::from(&good[..]);
        bytes[61..].fill(0xff);
        let header = BatchHeader::parse(&bytes).unwrap();
        let batch = StoredBatch::assign(&bytes.freeze(), &header, Offset(7), LeaderEpoch(0));
        let view = some_view(0, 8, 0, &[(0, 0)]);
        assert_eq!(search(&view, &batch, 1), Found { offset: 7, timestamp_ms: 5, epoch: 0 });
    }

    #[test]
    fn epochs_end_where_the_next_begins() {
        let view = some_view(0, 100, 9, &[(2, 10), (5, 40), (7, 60)]);
        let table = [
            (-1, (-1, -1)),
            (1, (1, 10)),
            (2, (2, 40)),
            (3, (2, 40)),
            (5, (5, 60)),
            (7, (7, 100)),
            (8, (7, 100)),
            (9, (9, 100)),
            (10, (-1, -1)),
        ];
        for (asked, (epoch, end)) in table {
            assert_eq!(epoch_end(&view, LeaderEpoch(asked)), (LeaderEpoch(epoch), Offset(end)), "{asked}");
        }
        let empty = some_view(0, 0, 1, &[]);
        assert_eq!(epoch_end(&empty, LeaderEpoch(0)), (LeaderEpoch(0), Offset(0)));
    }

    #[test]
    fn the_earliest_offset_has_its_epoch() {
        let view = some_view(45, 100, 9, &[(2, 10), (5, 40), (7, 60)]);
        assert_eq!(earliest(&view), Found { offset: 45, timestamp_ms: -1, epoch: 5 });
    }
}
