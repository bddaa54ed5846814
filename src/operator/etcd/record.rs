//! What the operator has to remember of a managed etcd, and what its members are told: a ConfigMap `{cluster}-etcd-state`.
//!
//! It lives as long as the volumes do: with `deletion.etcd: Retain` it has no owner. If it is missing, the cluster has never
//! been formed, unless there are volumes older than the resource.

use super::super::view::ClusterView;
use super::{COMPONENT, member_name, peer_url, size};
use crate::operator::crd::etcd::VolumeDeletion;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Key: `--initial-cluster` of members.
pub const INITIAL_CLUSTER: &str = "initial-cluster";
/// Key: `--initial-cluster-state` of members.
pub const INITIAL_CLUSTER_STATE: &str = "initial-cluster-state";
/// Key: the phase.
const PHASE: &str = "phase";
/// Key: which volumes the members were last seen with.
const VOLUMES: &str = "volumes";
/// Key: when members were defragmented, ms since the Unix epoch.
const DEFRAGMENTED: &str = "defragmented-at-ms";
/// An initial cluster without any of our members: who has data does not read it, who has none refuses it.
const LOCKED: &str = "waits-for-the-operator=http://127.0.0.1:1";

/// Which members may start without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// All, to form a new cluster.
    Forming,
    /// None.
    Formed,
    /// This one, as a member that has just been added.
    Joining(u32),
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which members may start without data.
    pub phase: Phase,
    /// The uid of each member's volume claim when the member was last known to have its data there.
    pub volumes: BTreeMap<u32, String>,
    /// When each was defragmented, ms since the Unix epoch.
    pub defragmented_ms: BTreeMap<u32, i64>,
}

impl Record {
    /// Of a cluster that has not been formed.
    pub fn new(phase: Phase) -> Self {
        Self { phase, volumes: BTreeMap::new(), defragmented_ms: BTreeMap::new() }
    }

    /// As the ConfigMap has it; what cannot be read counts as a cluster that has been formed, since that does no harm.
    pub fn from_data(data: &BTreeMap<String, String>) -> Self {
        let phase = match data.get(PHASE).map(String::as_str) {
            Some("Forming") => Phase::Forming,
            Some(text) => match text.strip_prefix("Joining-").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Phase::Joining(ordinal),
                None => Phase::Formed,
            },
            None => Phase::Formed,
        };
        let table = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
        Self {
            phase,
            volumes: rows(table(VOLUMES)).collect(),
            defragmented_ms: rows(table(DEFRAGMENTED)).filter_map(|(n, ms)| Some((n, ms.parse().ok()?))).collect(),
        }
    }

    /// As the ConfigMap gets it.
    pub fn data(&self, view: &ClusterView<'_>) -> BTreeMap<String, String> {
        let peers: Vec<(String, String)> = (0..size(view)).map(|n| (member_name(view, n), peer_url(view, n))).collect();
        let (state, cluster) = self.initial_cluster(&peers);
        let phase = match self.phase {
            Phase::Forming => "Forming".to_owned(),
            Phase::Formed => "Formed".to_owned(),
            Phase::Joining(ordinal) => format!("Joining-{ordinal}"),
        };
        let volumes = lines(self.volumes.iter());
        let defragmented = lines(self.defragmented_ms.iter());
        let pairs = [
            (PHASE, phase),
            (INITIAL_CLUSTER_STATE, state.to_owned()),
            (INITIAL_CLUSTER, cluster),
            (VOLUMES, volumes),
            (DEFRAGMENTED, defragmented),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// State and initial cluster that members are started with; `peers` are all members' names and URLs, in order.
    ///
    /// A member without data compares the URLs of the initial cluster with those that etcd knows, and looks for its own
    /// name. Therefore the names of all others are wrong when one of them joins.
    pub fn initial_cluster(&self, peers: &[(String, String)]) -> (&'static str, String) {
        let join = |name: &dyn Fn(usize) -> String| {
            let list: Vec<String> =
                peers.iter().enumerate().map(|(n, (_, url))| format!("{}={url}", name(n))).collect();
            list.join(",")
        };
        match self.phase {
            Phase::Forming => ("new", join(&|n| peers[n].0.clone())),
            Phase::Formed => ("existing", LOCKED.to_owned()),
            Phase::Joining(ordinal) => {
                let name = |n: usize| match n == ordinal as usize {
                    true => peers[n].0.clone(),
                    false => format!("not-{}", peers[n].0),
                };
                ("existing", join(&name))
            }
        }
    }

    /// The ConfigMap.
    pub fn config_map(&self, view: &ClusterView<'_>) -> Value {
        let mut metadata = view.metadata(config_map_name(view), COMPONENT);
        if !is_owned(view) {
            metadata.owner_references = None;
        }
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": self.data(view)})
    }
}

fn rows(text: &str) -> impl Iterator<Item = (u32, String)> + '_ {
    text.lines().filter_map(|line| {
        let (ordinal, value) = line.split_once('=')?;
        Some((ordinal.parse().ok()?, value.to_owned()))
    })
}

fn lines<'a, T: std::fmt::Display + 'a>(rows: impl Iterator<Item = (&'a u32, &'a T)>) -> String {
    rows.map(|(ordinal, value)| format!("{ordinal}={value}\n")).collect()
}

/// Name of the ConfigMap.
pub fn config_map_name(view: &ClusterView<'_>) -> String {
    format!("{}-state", view.etcd_name())
}

/// Whether the ConfigMap goes with the cluster, as the volumes do.
pub fn is_owned(view: &ClusterView<'_>) -> bool {
    view.resource.spec.deletion.etcd == VolumeDeletion::Delete
}
