//! What a broker's request handlers stand on: the cluster image, the led partitions, reads and administrative changes.

use crate::actors::group::handle::Groups;
use crate::actors::partition::handle::PartitionRef;
use crate::clock::Clock;
use crate::ids::{BrokerId, PartitionKey};
use crate::metadata::admin::Admin;
use crate::metadata::image::ClusterImage;
use crate::storage::reader::LogReader;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// Settings that handlers need, from the configuration.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Create a topic when a client asks for an unknown one (`KAFSCALE_AUTO_CREATE_TOPICS`).
    pub auto_create_topics: bool,
    /// Partitions of topics created without a count (`KAFSCALE_AUTO_CREATE_PARTITIONS`).
    pub default_partitions: i32,
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

    /// All partitions, in no order.
    pub fn all(&self) -> Vec<PartitionRef> {
        self.partitions.read().expect("no panic under the lock").values().cloned().collect()
    }
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
    /// Reads of committed data.
    pub reader: LogReader,
    /// Topics and producer ids.
    pub admin: Admin,
    /// Consumer groups.
    pub groups: Groups,
}
