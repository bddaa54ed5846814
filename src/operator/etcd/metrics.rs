//! Numbers about managed etcd, per cluster; what a cluster no longer has is not shown.

use super::maintenance::state::Seen;
use crate::metrics::{Families, Labels, Metrics};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Namespace and name of a cluster.
pub type ClusterKey = (String, String);

#[derive(Debug, Clone, Default)]
struct Numbers {
    /// Database size by member.
    db_bytes: BTreeMap<String, u64>,
    healthy: usize,
    no_space: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct EtcdMetrics {
    clusters: Mutex<BTreeMap<ClusterKey, Numbers>>,
}

impl EtcdMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Arc<Self> {
        let own = Arc::new(Self::default());
        let shown = own.clone();
        metrics.register("operator_etcd", move |families| shown.encode(families));
        own
    }

    /// Takes what was seen of a cluster whose members are called `{etcd}-{ordinal}`.
    pub fn set(&self, key: &ClusterKey, etcd: &str, seen: &Seen) {
        let db_bytes = seen.serving.iter().map(|(n, member)| (format!("{etcd}-{n}"), member.db_bytes)).collect();
        let numbers = Numbers { db_bytes, healthy: seen.healthy(), no_space: !seen.no_space.is_empty() };
        self.clusters.lock().expect("no panic under the lock").insert(key.clone(), numbers);
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &ClusterKey) {
        self.clusters.lock().expect("no panic under the lock").remove(key);
    }

    fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        let clusters = self.clusters.lock().expect("no panic under the lock").clone();
        let sizes: Vec<([(&str, &str); 3], f64)> = clusters
            .iter()
            .flat_map(|((namespace, cluster), numbers)| {
                numbers.db_bytes.iter().map(move |(member, bytes)| {
                    let labels = [("namespace", &**namespace), ("cluster", &**cluster), ("member", &**member)];
                    (labels, *bytes as f64)
                })
            })
            .collect();
        families.gauges(
            "kafscale_operator_etcd_db_size_bytes",
            "Size of the database of a member of managed etcd",
            sizes.iter().map(|(labels, value)| (labels as Labels<'_>, *value)),
        )?;
        let rows: Vec<([(&str, &str); 2], &Numbers)> = clusters
            .iter()
            .map(|((namespace, cluster), numbers)| ([("namespace", &**namespace), ("cluster", &**cluster)], numbers))
            .collect();
        families.gauges(
            "kafscale_operator_etcd_nospace_alarm",
            "1 while managed etcd is out of space and takes no writes",
            rows.iter().map(|(labels, n)| (labels as Labels<'_>, f64::from(u8::from(n.no_space)))),
        )?;
        families.gauges(
            "kafscale_operator_etcd_members_healthy",
            "Members of managed etcd that serve",
            rows.iter().map(|(labels, n)| (labels as Labels<'_>, n.healthy as f64)),
        )
    }
}
