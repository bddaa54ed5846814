//! The autoscaler of a cluster. It changes the resource's own scale, and the operator follows: one writer per level.

use super::{BROKER, build};
use crate::operator::crd::GROUP;
use crate::operator::view::ClusterView;
use kube::api::DynamicObject;
use serde_json::json;

/// How long a lower number has to be right before brokers are taken away: moving partitions has its price.
const STABLE_SEC: i32 = 600;
/// At most one broker is taken away in this time.
const ONE_PER_SEC: i32 = 120;

/// A HorizontalPodAutoscaler if the resource asks for one.
pub fn autoscaler(view: &ClusterView<'_>) -> Option<DynamicObject> {
    let scaling = view.resource.spec.autoscaling.as_ref()?;
    let target = json!({ "type": "Utilization", "averageUtilization": scaling.target_cpu_utilization_percentage });
    let spec = json!({
        "scaleTargetRef": {
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "KafscaleCluster",
            "name": view.name(),
        },
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": target } }],
        "behavior": { "scaleDown": {
            "stabilizationWindowSeconds": STABLE_SEC,
            "policies": [{ "type": "Pods", "value": 1, "periodSeconds": ONE_PER_SEC }],
        } },
    });
    let kind = ("autoscaling/v2", "HorizontalPodAutoscaler");
    Some(build(view, kind, view.brokers_name(), BROKER, json!({ "spec": spec })))
}
