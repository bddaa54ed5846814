//! What a broker's request handlers stand on: the cluster image, the led partitions, reads and administrative changes.

use crate::actors::follower::Followers;
use crate::actors::group::handle::Groups;
use crate::actors::partition::handle::PartitionRef;
use crate::actors::partition::producers::ProducerSnapshot;
use crate::actors::s3_health::S3Health;
use crate::actors::standing::Standing;
use crate::clock::Clock;
use crate::ids::{BrokerId, Offset, PartitionKey};
use crate::metadata::MetadataError;
use crate::metadata::admin::Admin;
use crate::metadata::image::ClusterImage;
use crate::metrics::{Histogram, Seconds};
use crate::protocol::group_config::GroupBounds;
use crate::storage::reader::LogReader;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};

/// Settings that handlers need, from the configuration.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Create a topic when a client asks for an unknown one (`KAFSCALE_AUTO_CREATE_TOPICS`).
    pub auto_create_topics: bool,
    /// Partitions of topics created without a count (`KAFSCALE_AUTO_CREATE_PARTITIONS`).
    pub default_partitions: i32,
    /// What groups of the consumer protocol fall back to, and what they may set instead.
    pub group_bounds: GroupBounds,
    /// What DescribeLogDirs calls the place where this cluster's objects are.
    pub log_dir: String,
    /// Broker configs shown by DescribeConfigs that come from the environment: Kafka or `kafscale.` name, value.
    pub shown_configs: Vec<(String, String)>,
}

/// The led partitions of this process.
#[derive(Debug, Default)]
pub struct Directory {
    partitions: RwLock<HashMap<PartitionKey, PartitionRef>>,
}

impl Directory {
    /// The partition, if this broker leads it and serves it now.
    pub fn get(&self, key: &PartitionKey) -> Option<PartitionRef> {
        let partitions = self.partitions.read().expect("no panic under the lock");
        partitions.get(key).filter(|p| !p.view.is_closed()).cloned()
    }

    /// Publishes a partition that is ready to serve.
    pub fn insert(&self, partition: PartitionRef) {
        self.partitions.write().expect("no panic under the lock").insert(partition.key, partition);
    }

    /// Withdraws a partition.
    pub fn remove(&self, key: &PartitionKey) -> Option<PartitionRef> {
        self.partitions.write().expect("no panic under the lock").remove(key)
    }

    /// All partitions, by key: what background work does follows from what there is, not from how it was hashed.
    pub fn all(&self) -> Vec<PartitionRef> {
        let mut all: Vec<_> = self.partitions.read().expect("no panic under the lock").values().cloned().collect();
        all.sort_unstable_by_key(|partition| partition.key);
        all
    }
}

/// Why a log start was not raised, or why that is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RaiseError {
    /// Another process owns a partition now, or its actor is restarting.
    #[error("this broker does not serve the partition now; refresh metadata and retry")]
    NotOwned,
    /// The metadata store failed; the log start may have been raised.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What handlers ask of led partitions besides appending.
#[async_trait]
pub trait PartitionControl: Send + Sync + std::fmt::Debug {
    /// Raises log starts (each at most to the high watermark): in the metadata store first, then for readers. Both have
    /// happened when it returns. Each partition is named once.
    async fn raise_log_starts(&self, raises: &[(PartitionKey, Offset)]) -> Result<(), RaiseError>;

    /// What a partition remembers of idempotent producers, committed batches only; `None` if it is not running here.
    async fn producers(&self, key: &PartitionKey) -> Option<Vec<ProducerSnapshot>>;
}

/// Shared by all connections of a broker.
#[derive(Debug)]
pub struct Broker {
    /// Kafka's cluster id.
    pub cluster_id: String,
    /// This broker.
    pub node: BrokerId,
    /// Settings.
    pub settings: BrokerSettings,
    /// Time.
    pub clock: Clock,
    /// What the cluster looks like.
    pub image: Arc<ArcSwap<ClusterImage>>,
    /// Led partitions.
    pub directory: Arc<Directory>,
    /// Changes of led partitions.
    pub partitions: Arc<dyn PartitionControl>,
    /// Reads of committed data.
    pub reader: LogReader,
    /// Topics and producer ids.
    pub admin: Admin,
    /// Consumer groups.
    pub groups: Groups,
    /// How long requests take.
    pub latencies: RequestLatencies,
    /// How the object store does.
    pub health: Arc<S3Health>,
    /// Whether somebody else may lead what this broker believes it leads.
    pub standing: Arc<Standing>,
    /// What other brokers lead, for consumers of this broker's rack; `None` if it does not follow.
    pub followers: Option<Arc<Followers>>,
    /// Partitions of fetches that were answered with another broker to read from.
    pub sent_away: AtomicU64,
}

/// How long requests took, from the last byte of a request until its response is ready to be written.
#[derive(Debug, Default)]
pub struct RequestLatencies {
    /// Produce, if it is acked.
    pub produce: Histogram<Seconds>,
    /// Fetch, waiting for records included, by [`FetchSource`].
    pub fetch: [Histogram<Seconds>; FetchSource::ALL.len()],
}

/// Where the records of a Fetch came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchSource {
    /// The partitions' tails in memory, all of them.
    Memory,
    /// Some from the block cache or the object store.
    Store,
    /// There were none: nothing came in time, or something is wrong.
    Nothing,
}

impl FetchSource {
    /// Each with the name its metrics carry, in order.
    pub const ALL: [(Self, &str); 3] = [(Self::Memory, "memory"), (Self::Store, "store"), (Self::Nothing, "nothing")];
}
