//! The two Services of a cluster's brokers.

use super::{BROKER, CONTROL_PORT, KAFKA_PORT, METRICS_PORT, build};
use crate::operator::crd::pods::ServiceType;
use crate::operator::view::ClusterView;
use kube::api::DynamicObject;
use serde_json::{Value, json};

fn port(name: &str, port: u16, node_port: Option<i32>) -> Value {
    json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP", "nodePort": node_port })
}

/// Gives every broker pod its name in DNS, also while it is not ready: a broker that starts is found by its name too.
pub fn headless(view: &ClusterView<'_>) -> DynamicObject {
    let ports =
        [port("kafka", KAFKA_PORT, None), port("metrics", METRICS_PORT, None), port("control", CONTROL_PORT, None)];
    let spec = json!({
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": view.selector(BROKER),
        "ports": ports,
    });
    build(view, ("v1", "Service"), view.brokers_headless_name(), BROKER, json!({ "spec": spec }))
}

/// What clients begin with; it says nothing about who leads what.
pub fn client(view: &ClusterView<'_>) -> DynamicObject {
    let service = &view.resource.spec.brokers.service;
    let outside = service.type_ != ServiceType::ClusterIP;
    let node_port = |port: Option<i32>| port.filter(|_| outside);
    let ports = [
        port("kafka", KAFKA_PORT, node_port(service.kafka_node_port)),
        port("metrics", METRICS_PORT, node_port(service.metrics_node_port)),
    ];
    let spec = json!({
        "type": service.type_.name(),
        "selector": view.selector(BROKER),
        "ports": ports,
        "loadBalancerIP": service.load_balancer_ip,
        "loadBalancerSourceRanges": service.load_balancer_source_ranges,
        "externalTrafficPolicy": service.external_traffic_policy.filter(|_| outside).map(|policy| policy.name()),
    });
    let mut object = build(view, ("v1", "Service"), view.brokers_name(), BROKER, json!({ "spec": spec }));
    if !service.annotations.is_empty() {
        object.metadata.annotations = Some(service.annotations.clone());
    }
    object
}
