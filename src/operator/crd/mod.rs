//! The custom resources, `kafscale.io/v1alpha1`: what people write and what the operator answers.
//!
//! The schema is complete (nothing a user writes is pruned), defaults stand in it, and what can be checked without looking
//! at anything else is checked by the API server: bounds, patterns, and CEL rules with a message that says what to do.
//! Only functions that Kubernetes 1.26 has are used in rules. Every list, map and text is bounded: the API server refuses
//! rules whose cost it cannot bound.
//!
//! Fields are added, never changed in meaning and never removed: there is one version and no conversion.

pub mod cluster;
pub mod etcd;
pub mod pods;
pub mod status;
pub mod topic;

pub use cluster::{KafscaleCluster, KafscaleClusterSpec};
pub use topic::{KafscaleTopic, KafscaleTopicSpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;

/// API group of the resources; labels and annotations of ours begin with it too.
pub const GROUP: &str = "kafscale.io";
/// Label of what belongs to the cluster of this name.
pub const CLUSTER_LABEL: &str = "kafscale.io/cluster";
/// Annotation, with the value `true`, of a resource that the operator is to leave alone.
pub const PAUSED_ANNOTATION: &str = "kafscale.io/paused";
/// Annotation, with the value `true`, that lets go a topic whose cleaning up cannot be done.
pub const FORCE_DELETE_ANNOTATION: &str = "kafscale.io/force-delete";
/// Annotation that a restart of all brokers is asked for with: they are rolled whenever its value changes.
pub const RESTART_ANNOTATION: &str = "kafscale.io/restarted-at";
/// Finalizer of topics.
pub const TOPIC_FINALIZER: &str = "kafscale.io/topic-cleanup";
/// Finalizer of clusters.
pub const CLUSTER_FINALIZER: &str = "kafscale.io/cluster-cleanup";

/// True if the resource is to be left alone.
pub fn is_paused(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().and_then(|all| all.get(PAUSED_ANNOTATION)).is_some_and(|value| value == "true")
}

/// The definitions, in the order of their names.
pub fn definitions() -> [CustomResourceDefinition; 2] {
    [KafscaleCluster::crd(), KafscaleTopic::crd()]
}

/// One of them as a YAML document. JSON is YAML too, but nobody reads it.
pub fn yaml(definition: &CustomResourceDefinition) -> String {
    let value = serde_json::to_value(definition).expect("a definition is plain data");
    serde_saphyr::to_string(&value).expect("plain data has a YAML form")
}

#[cfg(test)]
mod tests;
