//! The start-up gate: the object store can be written, and it belongs to the cluster that the metadata store describes. Whoever
//! is through becomes a writer whose id nobody had before.

use super::NodeError;
use super::stores::Stores;
use crate::clock::Clock;
use crate::metadata::admin;
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, ClusterValue, LiveValue};
use crate::metadata::ownership::{Ownership, OwnershipError, Registration};
use crate::metadata::{MetadataError, MetadataStore};
use crate::sabotage::{self, Sabotage};
use crate::storage::layout::Layout;
use crate::storage::registered::Registered;
use crate::storage::{ObjectStore, Payload, StoreError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Writes, reads back and deletes a probe object.
pub async fn probe(stores: &Stores, layout: &Layout, clock: Clock) -> Result<(), NodeError> {
    let key = layout.probe(crate::rng::ulid(clock.wall_ms()));
    let payload = Payload::new(vec![Bytes::from_static(b"kafscale start-up probe")], crate::rng::u64());
    let failed = |e: StoreError| NodeError::new("the object store does not pass the start-up probe", e);
    stores.objects.create(&key, &payload).await.map_err(failed)?;
    let read = stores.objects.get_range(&key, 0..payload.len).await.map_err(failed)?;
    if crate::storage::crc32c(&read) != payload.crc32c {
        return Err(NodeError::new("the object store does not pass the start-up probe", "it returned other bytes"));
    }
    if let Err(error) = stores.objects.delete(&[key]).await {
        // Deleting is not needed to serve; garbage collection will say so again.
        tracing::warn!(%error, "the probe object could not be deleted; grant the delete permission");
    }
    Ok(())
}

/// The cluster's id, agreed between metadata store and object store. A bucket that knows another cluster, or a cluster
/// although the metadata store is empty, is refused: starting over would overwrite nothing but lose sight of the data.
pub async fn establish(
    metadata: &dyn MetadataStore,
    objects: &dyn ObjectStore,
    keys: &Keys,
    layout: &Layout,
    namespace: &str,
) -> Result<ClusterValue, NodeError> {
    let metadata_failed = |e: crate::metadata::MetadataError| NodeError::new("the metadata store cannot be read", e);
    let store_failed = |e: StoreError| NodeError::new("the object store cannot be read", e);
    let object = layout.cluster();
    let found = match objects.get_suffix(&object, 4_096).await {
        Ok((bytes, _)) => Some(
            model::decode_bytes::<ClusterValue>(&bytes)
                .map_err(|e| NodeError::unavailable(format!("object {object} is not readable: {e}")))?,
        ),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(store_failed(error)),
    };
    // After the object, which is written last: several brokers of a new cluster may be starting.
    let known = metadata.get(&keys.cluster()).await.map_err(metadata_failed)?;
    if known.is_none()
        && let Some(found) = &found
    {
        return Err(NodeError::went_back(format!(
            "the object store has data of cluster {} under {namespace}/ but the metadata store knows no cluster: rebuild \
             the metadata store with `kafscale recover` or restore it, or use another KAFSCALE_S3_NAMESPACE or an empty \
             bucket for a new cluster",
            found.cluster_id
        )));
    }
    let cluster = admin::ensure_cluster(metadata, keys).await.map_err(metadata_failed)?;
    let cluster_id = cluster.cluster_id.as_str();
    match found {
        Some(found) if found.cluster_id == cluster_id => {}
        Some(found) => {
            return Err(NodeError::unavailable(format!(
                "the object store belongs to cluster {} but the metadata store to cluster {cluster_id}: check the \
                 bucket, KAFSCALE_S3_NAMESPACE and KAFSCALE_ETCD_ENDPOINTS",
                found.cluster_id
            )));
        }
        None => {
            let value = ClusterValue { v: model::FORMAT, cluster_id: cluster_id.to_owned(), generation: 0 };
            let payload = Payload::new(vec![model::encode(&value)], crate::rng::u64());
            match objects.create(&object, &payload).await {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => {} // another broker of the new cluster was first
                Err(error) => return Err(NodeError::new("the cluster's identity cannot be written", error)),
            }
        }
    }
    Ok(cluster)
}

/// Registers the process as a writer with an id that nobody had before.
pub async fn register(
    metadata: &Arc<dyn MetadataStore>,
    objects: &dyn ObjectStore,
    keys: &Keys,
    layout: &Layout,
    cluster_id: &str,
    live: &LiveValue,
    lease_ttl: Duration,
) -> Result<Registration, NodeError> {
    const CANNOT: &str = "the broker cannot register in the metadata store";
    let writer = admin::allocate_writer_id(&**metadata, keys).await.map_err(|e| NodeError::new(CANNOT, e))?;
    let (nonce, key) = (crate::rng::u64(), layout.registered(writer));
    let registered = Registered::new(cluster_id, live.node, writer, nonce);
    match objects.create(&key, &registered.encode()).await {
        Ok(()) => {}
        Err(StoreError::AlreadyExists { .. }) if sabotage::is(Sabotage::OverlookRollback) => {}
        Err(StoreError::AlreadyExists { .. }) => {
            let message = format!("it gives writer id {writer} away, which somebody had before (object {key})");
            return Err(NodeError::went_back(MetadataError::WentBack { message }.to_string()));
        }
        Err(error) => return Err(NodeError::new("the writer's registration cannot be written", error)),
    }
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    ownership.register(writer, nonce, live, lease_ttl).await.map_err(|error| match error {
        OwnershipError::Metadata(error @ MetadataError::WentBack { .. }) => NodeError::went_back(error.to_string()),
        error => NodeError::new(CANNOT, error),
    })
}
