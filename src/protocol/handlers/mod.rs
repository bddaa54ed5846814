//! One file per API family; [`dispatch`] is what a connection calls for each request that passed the guard.
//!
//! Order: a connection creates the future of request n+1, and polls it for the first time, only after the future of
//! request n was polled for the first time. What a handler does before its first `await` therefore happens in request
//! order; **produce handlers append to their partitions before they await anything**. Replies are written in request
//! order whatever order the futures finish in. A connection that closes drops its unfinished futures.

mod alter_configs;
mod api_versions;
mod common;
mod configs;
mod consumer_groups;
mod delete_records;
mod describe_producers;
mod failures;
mod features;
mod fetch;
pub mod fetch_session;
mod group_offsets;
mod groups;
mod log_dirs;
mod metadata;
mod offsets;
mod partitions;
mod placement;
pub mod preferred;
mod produce;
mod producer_ids;
#[cfg(test)]
mod tests;
mod topics;

use crate::trace::TraceContext;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use kafka_protocol::messages::ApiKey;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A request whose header is read and whose body passed the guard for its key and version.
#[derive(Debug, Clone)]
pub struct Request {
    /// API key; advertised.
    pub api_key: i16,
    /// Version; inside the advertised range of the key.
    pub api_version: i16,
    /// Correlation id; the connection puts it into the response header.
    pub correlation_id: i32,
    /// Client id.
    pub client_id: Option<String>,
    /// Everything after the header. Decoding shares these bytes.
    pub body: Bytes,
    /// When the last byte of the frame was read.
    pub received: Instant,
    /// Requests of the connection before this one whose replies are not written.
    pub ahead: usize,
    /// Its trace.
    pub trace: TraceContext,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    /// The encoded response body, without length and header.
    Body(Vec<Bytes>),
    /// No response (Produce with acks=0).
    None,
    /// As [`Reply::Body`], or as [`Reply::None`] without one; afterwards the connection reads nothing for this long.
    Throttled(Option<Vec<Bytes>>, Duration),
    /// The connection is closed after the replies to earlier requests; the reason is logged.
    Close(String),
}

/// What handlers know about the connection and the process.
pub struct ConnectionContext {
    /// The broker.
    pub broker: Arc<crate::broker::Broker>,
    /// The other end.
    pub peer: SocketAddr,
    /// Host and port of this listener as clients are told to use them.
    pub advertised: (String, u16),
    /// Incremental fetch sessions of this process.
    pub sessions: Arc<fetch_session::SessionCache>,
    /// True while replies of the process wait for slow peers: fetches are then answered with less, so that those who do
    /// not read hold little and nobody has to wait for them.
    pub crowded: Rc<dyn Fn() -> bool>,
    /// Partitions that the client was sent elsewhere for.
    pub sent_away: RefCell<preferred::SentAway>,
}

/// Starts the handler of `request`.
pub fn dispatch(ctx: Rc<ConnectionContext>, request: Request) -> LocalBoxFuture<'static, Reply> {
    use common::serve;
    match ApiKey::try_from(request.api_key) {
        Ok(ApiKey::Produce) => Box::pin(produce::handle(ctx, request)),
        Ok(ApiKey::Fetch) => Box::pin(fetch::handle(ctx, request)),
        Ok(ApiKey::ListOffsets) => serve(ctx, request, offsets::list_offsets),
        Ok(ApiKey::OffsetForLeaderEpoch) => serve(ctx, request, offsets::offset_for_leader_epoch),
        Ok(ApiKey::Metadata) => serve(ctx, request, metadata::metadata),
        Ok(ApiKey::DescribeTopicPartitions) => serve(ctx, request, metadata::describe_topic_partitions),
        Ok(ApiKey::DescribeCluster) => serve(ctx, request, metadata::describe_cluster),
        Ok(ApiKey::ApiVersions) => serve(ctx, request, api_versions::api_versions),
        Ok(ApiKey::InitProducerId) => serve(ctx, request, producer_ids::init_producer_id),
        Ok(ApiKey::CreateTopics) => serve(ctx, request, topics::create_topics),
        Ok(ApiKey::DeleteTopics) => serve(ctx, request, topics::delete_topics),
        Ok(ApiKey::DeleteRecords) => serve(ctx, request, delete_records::delete_records),
        Ok(ApiKey::AlterConfigs) => serve(ctx, request, alter_configs::alter_configs),
        Ok(ApiKey::CreatePartitions) => serve(ctx, request, partitions::create_partitions),
        Ok(ApiKey::DescribeConfigs) => serve(ctx, request, configs::describe_configs),
        Ok(ApiKey::AlterReplicaLogDirs) => serve(ctx, request, log_dirs::alter_replica_log_dirs),
        Ok(ApiKey::DescribeLogDirs) => serve(ctx, request, log_dirs::describe_log_dirs),
        Ok(ApiKey::ElectLeaders) => serve(ctx, request, placement::elect_leaders),
        Ok(ApiKey::IncrementalAlterConfigs) => serve(ctx, request, alter_configs::incremental_alter_configs),
        Ok(ApiKey::AlterPartitionReassignments) => serve(ctx, request, placement::alter_partition_reassignments),
        Ok(ApiKey::ListPartitionReassignments) => serve(ctx, request, placement::list_partition_reassignments),
        Ok(ApiKey::UpdateFeatures) => serve(ctx, request, features::update_features),
        Ok(ApiKey::DescribeProducers) => serve(ctx, request, describe_producers::describe_producers),
        Ok(ApiKey::ListConfigResources) => serve(ctx, request, configs::list_config_resources),
        Ok(ApiKey::FindCoordinator) => serve(ctx, request, groups::find_coordinator),
        Ok(ApiKey::JoinGroup) => {
            let client_id = request.client_id.clone();
            serve(ctx, request, move |ctx, join, call| groups::join_group(ctx, client_id, join, call))
        }
        Ok(ApiKey::ConsumerGroupHeartbeat) => {
            let client_id = request.client_id.clone();
            serve(ctx, request, move |ctx, beat, call| consumer_groups::heartbeat(ctx, client_id, beat, call))
        }
        Ok(ApiKey::ConsumerGroupDescribe) => serve(ctx, request, consumer_groups::describe),
        Ok(ApiKey::SyncGroup) => serve(ctx, request, groups::sync_group),
        Ok(ApiKey::Heartbeat) => serve(ctx, request, groups::heartbeat),
        Ok(ApiKey::LeaveGroup) => serve(ctx, request, groups::leave_group),
        Ok(ApiKey::DescribeGroups) => serve(ctx, request, groups::describe_groups),
        Ok(ApiKey::ListGroups) => serve(ctx, request, groups::list_groups),
        Ok(ApiKey::DeleteGroups) => serve(ctx, request, groups::delete_groups),
        Ok(ApiKey::OffsetCommit) => serve(ctx, request, group_offsets::offset_commit),
        Ok(ApiKey::OffsetFetch) => serve(ctx, request, group_offsets::offset_fetch),
        Ok(ApiKey::OffsetDelete) => serve(ctx, request, group_offsets::offset_delete),
        _ => Box::pin(async move { Reply::Close(format!("api key {} has no handler", request.api_key)) }),
    }
}
