//! The operator's own metrics. Those of reconciling have the names that controllers of Kubernetes have in common.

use super::context::Key;
use super::leader::Leadership;
use super::watch::Seen;
use crate::actors::supervisor::ActorRegistry;
use crate::metrics::{Families, Histogram, Labels, Metrics, Seconds};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Controllers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Of KafscaleClusters.
    Cluster,
    /// Of KafscaleTopics.
    Topic,
}

impl Controller {
    const ALL: [Self; 2] = [Self::Cluster, Self::Topic];

    /// As in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "kafscalecluster",
            Self::Topic => "kafscaletopic",
        }
    }
}

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be.
    Success,
    /// There is more to do soon.
    Requeue,
    /// It failed.
    Error,
}

#[derive(Debug, Default)]
struct PerController {
    success: AtomicU64,
    requeue: AtomicU64,
    error: AtomicU64,
    took: Histogram<Seconds>,
}

/// What one cluster shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterGauges {
    /// Type and status of its conditions.
    pub conditions: Vec<(String, String)>,
    /// Wanted brokers.
    pub brokers_wanted: i32,
    /// Brokers that serve.
    pub brokers_ready: i32,
    /// A rollout goes on.
    pub rolling: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct OperatorMetrics {
    controllers: [PerController; 2],
    clusters: Mutex<BTreeMap<Key, ClusterGauges>>,
    drains: Histogram<Seconds>,
}

impl OperatorMetrics {
    /// A reconcile ended.
    pub fn reconciled(&self, controller: Controller, outcome: Outcome, took: Duration) {
        let one = &self.controllers[controller as usize];
        match outcome {
            Outcome::Success => &one.success,
            Outcome::Requeue => &one.requeue,
            Outcome::Error => &one.error,
        }
        .fetch_add(1, Ordering::Relaxed);
        one.took.record_duration(took);
    }

    /// A drain ended.
    pub fn drained(&self, took: Duration) {
        self.drains.record_duration(took);
    }

    /// What a cluster shows from now on.
    pub fn show(&self, cluster: &Key, gauges: ClusterGauges) {
        self.clusters.lock().expect("no panic under the lock").insert(cluster.clone(), gauges);
    }

    /// A cluster is gone, or another operator looks after it.
    pub fn forget(&self, cluster: &Key) {
        self.clusters.lock().expect("no panic under the lock").remove(cluster);
    }

    /// Shows everything.
    pub fn register(
        self: &Arc<Self>,
        metrics: &Metrics,
        leadership: Arc<Leadership>,
        seen: Arc<Seen>,
        registry: Arc<ActorRegistry>,
    ) {
        let this = self.clone();
        metrics.register("operator", move |families| {
            let leads = if leadership.token().is_ok() { 1.0 } else { 0.0 };
            families.gauge("kafscale_operator_leader", "1 if this operator leads", leads)?;
            let clusters = seen.clusters().len() as f64;
            families.gauge("kafscale_operator_clusters", "KafscaleClusters that are looked after", clusters)?;
            let restarts = registry.restarts();
            families.counter("kafscale_operator_actor_restarts", "Restarts of actors that failed", restarts)?;
            this.reconciles(families)?;
            this.clusters(families)
        });
    }

    fn reconciles(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut counts = Vec::new();
        for controller in Controller::ALL {
            let one = &self.controllers[controller as usize];
            for (result, count) in [("success", &one.success), ("requeue_after", &one.requeue), ("error", &one.error)] {
                counts.push(([("controller", controller.name()), ("result", result)], count.load(Ordering::Relaxed)));
            }
        }
        let totals = counts.iter().map(|(labels, count)| (labels as Labels<'_>, *count));
        families.counters("controller_runtime_reconcile", "Reconciles by how they ended", totals)?;
        let errors = counts.iter().filter(|(labels, _)| labels[1].1 == "error");
        let errors = errors.map(|(labels, count)| (&labels[..1] as Labels<'_>, *count));
        families.counters("controller_runtime_reconcile_errors", "Reconciles that failed", errors)?;
        let labels = Controller::ALL.map(|controller| [("controller", controller.name())]);
        let took = Controller::ALL.map(|controller| self.controllers[controller as usize].took.sample());
        let took = labels.iter().zip(took).map(|(labels, sample)| (labels as Labels<'_>, sample));
        families.histograms("controller_runtime_reconcile_time_seconds", "Time that reconciles take", took)?;
        let help = "Time that brokers took to give away what they had";
        families.histogram("kafscale_operator_drain_duration_seconds", help, &self.drains.sample())
    }

    fn clusters(&self, families: &mut Families<'_>) -> fmt::Result {
        let clusters = self.clusters.lock().expect("no panic under the lock").clone();
        let mut conditions = Vec::new();
        let (mut wanted, mut ready, mut rolling) = (Vec::new(), Vec::new(), Vec::new());
        for (key, shown) in &clusters {
            let of = [("namespace", key.namespace.as_str()), ("name", key.name.as_str())];
            for (kind, status) in &shown.conditions {
                for one in ["True", "False", "Unknown"] {
                    let labels = [of[0], of[1], ("type", kind.as_str()), ("status", one)];
                    conditions.push((labels, if status == one { 1.0 } else { 0.0 }));
                }
            }
            wanted.push((of, f64::from(shown.brokers_wanted)));
            ready.push((of, f64::from(shown.brokers_ready)));
            rolling.push((of, if shown.rolling { 1.0 } else { 0.0 }));
        }
        let help = "1 for the status that a condition of a KafscaleCluster has";
        let all = conditions.iter().map(|(labels, value)| (labels as Labels<'_>, *value));
        families.gauges("kafscale_cluster_condition", help, all)?;
        let gauges = [
            ("kafscale_cluster_brokers_desired", "Brokers that a KafscaleCluster wants", &wanted),
            ("kafscale_cluster_brokers_ready", "Brokers of a KafscaleCluster that serve", &ready),
            ("kafscale_cluster_rollout_in_progress", "1 while brokers are replaced", &rolling),
        ];
        for (name, help, values) in gauges {
            families.gauges(name, help, values.iter().map(|(labels, value)| (labels as Labels<'_>, *value)))?;
        }
        Ok(())
    }
}
