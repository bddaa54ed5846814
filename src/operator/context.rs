//! What all parts of the operator share.

use super::etcd::EtcdKeeper;
use super::leader::Leadership;
use super::metrics::OperatorMetrics;
use super::snapshot::SnapshotWatch;
use super::topics::TopicStats;
use super::watch::Seen;
use crate::actors::supervisor::ActorRegistry;
use crate::clock::Clock;
use crate::config::operator::{OperatorConfig, Watched};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt};
use std::fmt;
use std::sync::Arc;

/// Namespace and name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Of a resource.
    pub fn of<K: ResourceExt>(resource: &K) -> Self {
        Self { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// See the module's documentation.
pub struct OperatorContext {
    /// Kubernetes.
    pub client: Client,
    /// Settings.
    pub config: OperatorConfig,
    /// Namespace of the operator itself.
    pub namespace: String,
    /// Whether this operator may write.
    pub leadership: Arc<Leadership>,
    /// What watches have seen.
    pub seen: Arc<Seen>,
    /// Says in Kubernetes what was decided.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<OperatorMetrics>,
    /// Counts of topics.
    pub topics: Arc<TopicStats>,
    /// Looks after managed etcd.
    pub etcd: EtcdKeeper,
    /// Looks after its snapshots.
    pub snapshots: SnapshotWatch,
    /// Supervised actors.
    pub registry: Arc<ActorRegistry>,
    /// The clock.
    pub clock: Clock,
}

impl OperatorContext {
    /// Whose resources are looked after.
    pub fn watched(&self) -> Watched {
        self.config.watched.clone().unwrap_or_else(|| Watched::Namespaces(vec![self.namespace.clone()]))
    }

    /// A cluster is gone, or another operator looks after it.
    pub fn forget(&self, cluster: &Key) {
        self.metrics.forget(cluster);
        let key = (cluster.namespace.clone(), cluster.name.clone());
        self.etcd.forget(&key);
        self.snapshots.forget(&key);
    }

    /// Wall time as Kubernetes writes it.
    pub fn now(&self) -> Time {
        Time(Timestamp::from_second(self.clock.wall_ms() / 1000).unwrap_or_default())
    }
}
