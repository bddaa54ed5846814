//! What consumers are served with: the reader of committed batches, and what other brokers lead.

use super::NodeError;
use super::stores::Stores;
use crate::actors::context::NodeContext;
use crate::actors::follower::{FollowerLimits, Followers, Sources};
use crate::actors::recovery::Recovery;
use crate::actors::runtime::IoPool;
use crate::config::NodeConfig;
use crate::metadata::watcher::ImageFeed;
use crate::storage::ObjectStore;
use crate::storage::reader::{LogReader, ReaderLimits};
use std::sync::Arc;

/// The objects as consumers read them: the copy first, if there is one.
fn copy(stores: &Stores) -> Arc<dyn ObjectStore> {
    match &stores.replica {
        Some(replica) => replica.clone(),
        None => stores.objects.clone(),
    }
}

pub(super) async fn reader(config: &NodeConfig, stores: &Stores, io: &IoPool) -> Result<LogReader, NodeError> {
    let limits = ReaderLimits {
        cache_bytes: config.cache_bytes - config.cache_bytes / 4,
        readahead_segments: config.readahead_segments as usize,
    };
    let (copy, primary) = (copy(stores), stores.objects.clone());
    let reader = io.spawn(async move { LogReader::with_copy(copy, primary, limits) }).await;
    reader.map_err(|e| NodeError::new("the reader cannot start", e))
}

pub(super) fn followers(
    config: &NodeConfig,
    stores: &Stores,
    context: &NodeContext,
    feed: &ImageFeed,
) -> Arc<Followers> {
    // What was read ahead is for whoever takes over: it is handed out once.
    let primary = Recovery { ahead: Arc::default(), ..context.recovery() };
    let sources = Sources {
        ownership: context.ownership.clone(),
        metadata: context.metadata.clone(),
        keys: context.keys.clone(),
        copy: Recovery { store: copy(stores), ..primary.clone() },
        primary,
    };
    let (me, image, io) = (context.registration.writer, feed.image().clone(), context.io.clone());
    let limits = FollowerLimits::default();
    Arc::new(Followers::new(me, sources, image, io, context.clock, config.lease_ttl, limits))
}
