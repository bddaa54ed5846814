//! Numbers about snapshots; there are none of clusters that take no snapshots. Ages are those of the moment of the scrape.

use super::state::{Access, History};
use crate::clock::Clock;
use crate::metrics::{Families, Labels, Metrics};
use crate::operator::etcd::metrics::ClusterKey;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is known of one cluster's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Whether they can be written.
    pub access: Access,
    /// What the CronJob says.
    pub history: History,
    /// From when they are too old.
    pub stale_after: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct SnapshotMetrics {
    clock: Clock,
    clusters: Mutex<BTreeMap<ClusterKey, Numbers>>,
}

type Value = fn(&Numbers, i64) -> Option<f64>;

/// Name, help, and the value at a time; a cluster for which there is none has no such number.
const FAMILIES: [(&str, &str, Value); 6] = [
    ("kafscale_operator_etcd_snapshot_access_ok", "1 if snapshots of etcd can be written to S3", |n, _| {
        match n.access {
            Access::Skipped | Access::Paused => None,
            Access::Fine => Some(1.0),
            Access::Failing { .. } => Some(0.0),
        }
    }),
    ("kafscale_operator_etcd_snapshot_success", "1 if a snapshot of etcd has ever succeeded", |n, _| {
        Some(truth(n.history.last_success_ms.is_some()))
    }),
    ("kafscale_operator_etcd_snapshot_stale", "1 if the last snapshot of etcd is too old", |n, now_ms| {
        Some(truth(n.history.is_stale(n.stale_after, now_ms)))
    }),
    ("kafscale_operator_etcd_snapshot_age_seconds", "Age of the last snapshot of etcd", |n, now_ms| {
        n.history.last_success_ms.map(|at_ms| (now_ms - at_ms).max(0) as f64 / 1e3)
    }),
    (
        "kafscale_operator_etcd_snapshot_last_success_timestamp_seconds",
        "When the last snapshot of etcd succeeded",
        |n, _| n.history.last_success_ms.map(|at_ms| at_ms as f64 / 1e3),
    ),
    (
        "kafscale_operator_etcd_snapshot_last_schedule_timestamp_seconds",
        "When the last snapshot of etcd was begun",
        |n, _| n.history.last_schedule_ms.map(|at_ms| at_ms as f64 / 1e3),
    ),
];

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

impl SnapshotMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics, clock: Clock) -> Arc<Self> {
        let own = Arc::new(Self { clock, clusters: Mutex::default() });
        let shown = own.clone();
        metrics.register("operator_etcd_snapshot", move |families| shown.encode(families));
        own
    }

    /// Takes what is known of a cluster.
    pub fn set(&self, key: &ClusterKey, numbers: Numbers) {
        self.clusters.lock().expect("no panic under the lock").insert(key.clone(), numbers);
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &ClusterKey) {
        self.clusters.lock().expect("no panic under the lock").remove(key);
    }

    fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        let clusters = self.clusters.lock().expect("no panic under the lock").clone();
        let now_ms = self.clock.wall_ms();
        for (name, help, value) in FAMILIES {
            let rows: Vec<([(&str, &str); 2], f64)> = clusters
                .iter()
                .filter_map(|((namespace, cluster), numbers)| {
                    Some(([("namespace", &**namespace), ("cluster", &**cluster)], value(numbers, now_ms)?))
                })
                .collect();
            families.gauges(name, help, rows.iter().map(|(labels, value)| (labels as Labels<'_>, *value)))?;
        }
        Ok(())
    }
}
