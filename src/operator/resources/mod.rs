//! The objects of a cluster's brokers, as they should be: pure functions of the resource, the operator's defaults and what
//! secrets hold.
//!
//! Everything that a broker is told stands in its pod template, directly or in a ConfigMap whose name is made of its
//! content. So a template says for ever the same, and going back to an earlier one is to apply it again.

pub mod access;
pub mod autoscaling;
pub mod environment;
pub mod hash;
pub mod pods;
pub mod services;

use super::view::ClusterView;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Component label of everything that belongs to brokers.
pub const BROKER: &str = "broker";
/// Port of Kafka in pods and Services.
pub const KAFKA_PORT: u16 = 9092;
/// Port of metrics and probes.
pub const METRICS_PORT: u16 = 9093;
/// Port of the control plane.
pub const CONTROL_PORT: u16 = 9094;

/// An object of `component` with what `fields` says, without what is null in it.
pub fn build(
    view: &ClusterView<'_>,
    (api_version, kind): (&str, &str),
    name: impl Into<String>,
    component: &str,
    fields: Value,
) -> DynamicObject {
    let mut object = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": view.metadata(name, component),
    });
    let Value::Object(fields) = fields else { unreachable!("fields are an object") };
    object.as_object_mut().expect("it is one").extend(fields);
    prune(&mut object);
    serde_json::from_value(object).expect("every object has a kind and metadata")
}

/// Takes out what is null: nobody says nothing on purpose.
pub fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Everything of the brokers except what depends on how far a rollout is.
pub fn around(view: &ClusterView<'_>, operator_namespace: &str) -> Vec<DynamicObject> {
    let mut objects = vec![services::headless(view), services::client(view), access::disruption_budget(view)];
    objects.extend(access::service_account(view));
    objects.extend(access::network_policy(view, operator_namespace));
    objects.extend(autoscaling::autoscaler(view));
    objects
}

#[cfg(test)]
pub(in crate::operator) mod tests;
