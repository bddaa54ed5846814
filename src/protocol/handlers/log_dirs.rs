//! DescribeLogDirs and AlterReplicaLogDirs.
//!
//! A broker has one log directory: the part of the object store that belongs to the cluster. A partition's size is that
//! of its extents there, whichever objects they share; each broker answers for the partitions that it leads.

use super::ConnectionContext;
use super::common::{self, Call, text, topic_name};
use crate::actors::partition::view::PartitionView;
use crate::broker::Broker;
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Partitions by topic name.
type Partitions = BTreeMap<String, BTreeMap<i32, i64>>;

pub(super) async fn describe_log_dirs(
    ctx: Rc<ConnectionContext>,
    request: DescribeLogDirsRequest,
    _call: Call,
) -> DescribeLogDirsResponse {
    let image = ctx.broker.image.load_full();
    let sizes = match &request.topics {
        None => all_sizes(&ctx.broker, &image),
        Some(topics) => asked_sizes(&ctx.broker, &image, topics),
    };
    let topics = sizes.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, bytes)| {
            DescribeLogDirsPartition::default().with_partition_index(index).with_partition_size(bytes)
        });
        DescribeLogDirsTopic::default().with_name(topic_name(&name)).with_partitions(partitions.collect())
    });
    // An object store has no size that it could be full at.
    let dir = DescribeLogDirsResult::default()
        .with_log_dir(text(&ctx.broker.settings.log_dir))
        .with_topics(topics.collect())
        .with_total_bytes(-1)
        .with_usable_bytes(-1);
    DescribeLogDirsResponse::default().with_results(vec![dir])
}

fn all_sizes(broker: &Broker, image: &ClusterImage) -> Partitions {
    let mut sizes = Partitions::new();
    for partition in broker.directory.all().iter().filter(|p| !p.view.is_closed()) {
        if let Some(topic) = image.topic_by_id(partition.key.topic) {
            let partitions = sizes.entry(topic.name.to_string()).or_default();
            partitions.insert(partition.key.partition.0, size(&partition.view));
        }
    }
    sizes
}

/// As Kafka, without a word on partitions that are not here.
fn asked_sizes(broker: &Broker, image: &ClusterImage, topics: &[DescribableLogDirTopic]) -> Partitions {
    let mut sizes = Partitions::new();
    for asked in topics {
        let Some(topic) = image.topic(&asked.topic) else { continue };
        for index in &asked.partitions {
            if let Ok(partition) = common::led(broker, topic, *index) {
                sizes.entry(topic.name.to_string()).or_default().insert(*index, size(&partition.view));
            }
        }
    }
    sizes
}

fn size(view: &PartitionView) -> i64 {
    view.with_log(|log| log.extents.iter().map(|e| e.len as i64).sum())
}

pub(super) async fn alter_replica_log_dirs(
    ctx: Rc<ConnectionContext>,
    request: AlterReplicaLogDirsRequest,
    _call: Call,
) -> AlterReplicaLogDirsResponse {
    let image = ctx.broker.image.load_full();
    let mut rows: BTreeMap<String, BTreeMap<i32, i16>> = BTreeMap::new();
    for dir in &request.dirs {
        let is_here = dir.path.as_str() == ctx.broker.settings.log_dir;
        for topic in &dir.topics {
            let partitions = rows.entry(topic.name.to_string()).or_default();
            let indexes: BTreeSet<i32> = topic.partitions.iter().copied().collect();
            for index in indexes {
                let found = common::find_topic(&image, &topic.name).map_err(|refusal| refusal.code);
                let code = match found.and_then(|topic| common::led(&ctx.broker, topic, index)) {
                    Err(code) => code.code(),
                    Ok(_) if is_here => 0,
                    Ok(_) => ErrorCode::LogDirNotFound.code(),
                };
                partitions.insert(index, code);
            }
        }
    }
    let results = rows.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, code)| {
            AlterReplicaLogDirPartitionResult::default().with_partition_index(index).with_error_code(code)
        });
        AlterReplicaLogDirTopicResult::default()
            .with_topic_name(topic_name(&name))
            .with_partitions(partitions.collect())
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}
