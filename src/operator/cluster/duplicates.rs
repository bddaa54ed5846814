//! Two clusters with the same etcd or bucket and the same namespace inside would be one cluster with two owners. The older
//! one keeps it.

use crate::config::operator::OperatorConfig;
use crate::operator::context::Key;
use crate::operator::crd::KafscaleCluster;
use crate::operator::view::ClusterView;
use std::collections::BTreeSet;

/// What somebody else has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Who.
    pub by: Key,
    /// What of theirs: `etcd` or `bucket`.
    pub what: &'static str,
    /// The namespace inside.
    pub namespace: String,
}

/// Who has had the cluster's place before it, if anybody.
pub fn elder<'a>(
    me: &KafscaleCluster,
    all: impl Iterator<Item = (&'a Key, &'a KafscaleCluster)>,
    defaults: &OperatorConfig,
) -> Option<Taken> {
    let mine = ClusterView { resource: me, defaults };
    all.filter(|(_, other)| other.metadata.uid != me.metadata.uid && age(other) < age(me)).find_map(|(key, other)| {
        let theirs = ClusterView { resource: other, defaults };
        if theirs.kafscale_namespace() != mine.kafscale_namespace() {
            return None;
        }
        let what = match () {
            () if !endpoints(&theirs).is_disjoint(&endpoints(&mine)) => "etcd",
            () if bucket(other) == bucket(me) => "bucket",
            () => return None,
        };
        Some(Taken { by: key.clone(), what, namespace: mine.kafscale_namespace().to_owned() })
    })
}

/// Older ones are less.
fn age(cluster: &KafscaleCluster) -> (i64, &str) {
    let created = cluster.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    (created, cluster.metadata.uid.as_deref().unwrap_or_default())
}

fn endpoints(view: &ClusterView<'_>) -> BTreeSet<String> {
    let bare = |endpoint: String| {
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        host.trim_end_matches('/').to_ascii_lowercase()
    };
    view.etcd_endpoints().into_iter().map(bare).collect()
}

fn bucket(cluster: &KafscaleCluster) -> (Option<&str>, &str) {
    let s3 = &cluster.spec.s3;
    (s3.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/')), &s3.bucket)
}
