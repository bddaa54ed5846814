//! Before a start writes anything: is the metadata store older than what brokers have done
//! ([`crate::metadata::rollback`])?
//!
//! It takes two LISTs (registrations from the counter on, which are none; checkpoints, a page per thousand) and a GET for each
//! writer that may still have something: usually of an object that is not there.

use super::NodeError;
use crate::ids::{Seq, TopicId, WriterId};
use crate::metadata::keys::{Keys, ParsedKey as MetadataKey};
use crate::metadata::model::{self, CounterValue, WriterState, WriterValue};
use crate::metadata::ownership::Ownership;
use crate::metadata::rollback::{Above, Covered, Evidence, Known, forgotten};
use crate::metadata::{Entry, MetadataError, MetadataStore};
use crate::storage::layout::{Layout, ParsedKey};
use crate::storage::segment::{self, HEADER_LEN};
use crate::storage::{Listed, ObjectStore, StoreError};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Writers whose slots are looked at at the same time.
const WRITERS_IN_FLIGHT_MAX: usize = 16;
/// Slots above a head that are looked at: one that was cut after a later commit is soon among them.
const SLOTS_MAX: u64 = 64;

/// Fails if the metadata store has forgotten something.
pub async fn check(
    metadata: &Arc<dyn MetadataStore>,
    objects: &dyn ObjectStore,
    keys: &Keys,
    layout: &Layout,
) -> Result<(), NodeError> {
    let metadata_failed = |e: &dyn std::fmt::Display| NodeError::new("the metadata store cannot be read", e);
    let store_failed = |e: StoreError| NodeError::new("the object store cannot be read", e);
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    let before = known(&**metadata, keys, &ownership).await.map_err(|e| metadata_failed(&e))?;
    let named = named(&**metadata, keys, &ownership).await.map_err(|e| metadata_failed(&e))?;
    let mut evidence = Evidence::default();
    // None of those is expected, so that the first page is all.
    let from = before.next_writer.checked_sub(1).map(|last| layout.registered(WriterId(last)));
    let registered = objects.list(&layout.all_registered(), from.as_ref()).await.map_err(store_failed)?;
    evidence.registered = registered.iter().filter_map(|o| registered_writer(layout, o)).collect();
    evidence.checkpoints = checkpoints(objects, layout).await.map_err(store_failed)?;
    let probed = before.writers.iter().filter(|(id, (v, _))| v.state == WriterState::Active || named.contains(id));
    let reads: Vec<_> = probed.map(|(id, (value, _))| above(objects, layout, *id, value)).collect();
    let found = futures::stream::iter(reads).buffer_unordered(WRITERS_IN_FLIGHT_MAX).try_collect::<Vec<_>>();
    evidence.above = found.await.map_err(store_failed)?.into_iter().flatten().collect();
    // Read again: others go on meanwhile.
    let after = known(&**metadata, keys, &ownership).await.map_err(|e| metadata_failed(&e))?;
    match forgotten(&after, &evidence) {
        None => Ok(()),
        Some(what) => Err(NodeError::went_back(MetadataError::WentBack { message: what.to_string() }.to_string())),
    }
}

/// Writers whose logs somebody may still read. Partitions of deleted topics name writers until their data is collected, also such as
/// a recovery has fenced, and above whose heads objects of before it may arrive at any time.
async fn named(
    metadata: &dyn MetadataStore,
    keys: &Keys,
    ownership: &Ownership,
) -> Result<BTreeSet<WriterId>, MetadataError> {
    let unavailable = |e: &dyn std::fmt::Display| MetadataError::Unavailable { message: e.to_string() };
    let partitions = ownership.partitions().await.map_err(|e| unavailable(&e))?;
    let (tombstones, _) = metadata.get_prefix(&keys.deleted_topics()).await?;
    let deleted = |entry: &Entry| match keys.parse(&entry.key) {
        Some(MetadataKey::Deleted(topic)) => Some(topic),
        _ => None,
    };
    let deleted: BTreeSet<TopicId> = tombstones.iter().filter_map(deleted).collect();
    let alive = partitions.iter().filter(|(key, _)| !deleted.contains(&key.topic));
    Ok(alive.flat_map(|(_, (value, _))| value.history.iter().chain(&value.owner).copied()).collect())
}

async fn known(store: &dyn MetadataStore, keys: &Keys, ownership: &Ownership) -> Result<Known, MetadataError> {
    let counter = store.get(&keys.next_writer()).await?;
    let next_writer = counter.map(|e| model::decode::<CounterValue>(&e)).transpose()?.map_or(1, |c| c.next);
    let unavailable = |e: &dyn std::fmt::Display| MetadataError::Unavailable { message: e.to_string() };
    let writers = ownership.writers().await.map_err(|e| unavailable(&e))?;
    // The counter was read first: a writer that registers now is not above it.
    let next_writer = next_writer.max(writers.keys().next_back().map_or(0, |w| w.0 + 1));
    Ok(Known { next_writer, writers })
}

fn registered_writer(layout: &Layout, object: &Listed) -> Option<WriterId> {
    match layout.parse(&object.key) {
        Some(ParsedKey::Registered(writer)) => Some(writer),
        _ => None,
    }
}

async fn checkpoints(store: &dyn ObjectStore, layout: &Layout) -> Result<Vec<Covered>, StoreError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&layout.checkpoints(), after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.key.clone());
        found.extend(page.iter().filter_map(|object| match layout.parse(&object.key) {
            Some(ParsedKey::Checkpoint { writer, nonce, seq, .. }) => Some(Covered { writer, nonce, seq }),
            _ => None,
        }));
    }
}

/// The objects right above the head, as far as there are any.
async fn above(
    store: &dyn ObjectStore,
    layout: &Layout,
    writer: WriterId,
    value: &WriterValue,
) -> Result<Vec<Above>, StoreError> {
    let mut found = Vec::new();
    for seq in value.head.0 + 1..=value.head.0 + SLOTS_MAX {
        let (nonce, seq) = (value.nonce, Seq(seq));
        let key = layout.wal(writer, nonce, seq);
        let bytes = match store.get_range(&key, 0..HEADER_LEN as u64).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => break,
            Err(error) => return Err(error),
        };
        let header = segment::parse_header(&key, &bytes)?;
        found.push(Above { writer, nonce, seq, revision_seen: header.revision_seen });
    }
    Ok(found)
}
