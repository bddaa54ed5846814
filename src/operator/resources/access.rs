//! What may be done to broker pods, and who may connect to them.

use super::{BROKER, CONTROL_PORT, KAFKA_PORT, METRICS_PORT, build};
use crate::operator::view::ClusterView;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Component labels of the pods of the chart.
const OPERATOR: &str = "operator";
const CONSOLE: &str = "console";

/// One broker at a time may be evicted. One that is not ready always may: brokers keep no data, and waiting for one that
/// cannot become ready would keep a node from being emptied.
pub fn disruption_budget(view: &ClusterView<'_>) -> DynamicObject {
    let spec = json!({
        "maxUnavailable": 1,
        "selector": { "matchLabels": view.selector(BROKER) },
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    });
    build(view, ("policy/v1", "PodDisruptionBudget"), view.brokers_name(), BROKER, json!({ "spec": spec }))
}

/// An account that may do nothing, unless the user names another.
pub fn service_account(view: &ClusterView<'_>) -> Option<DynamicObject> {
    let own = view.resource.spec.brokers.pod.service_account_name.is_none();
    let fields = json!({ "automountServiceAccountToken": false });
    own.then(|| build(view, ("v1", "ServiceAccount"), view.brokers_name(), BROKER, fields))
}

/// Peers that let in the pods of the chart: the operator and the console. Their other labels follow the release's values.
pub fn chart_pods(operator_namespace: &str) -> [Value; 2] {
    [OPERATOR, CONSOLE].map(|component| {
        json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": operator_namespace } },
            "podSelector": { "matchLabels": { "app.kubernetes.io/component": component } },
        })
    })
}

/// Who may connect to brokers. Probes come from the node, which no policy keeps out.
///
/// What brokers connect to is left open. They need names, etcd, S3, and what gives them credentials; where these are behind
/// Services is not known here, and a policy sees pods' ports, not those of Services: a list of ports would break clusters.
pub fn network_policy(view: &ClusterView<'_>, operator_namespace: &str) -> Option<DynamicObject> {
    let policy = &view.resource.spec.network_policy;
    if !policy.enabled {
        return None;
    }
    let brokers = json!({ "podSelector": { "matchLabels": view.selector(BROKER) } });
    let [operator, console] = chart_pods(operator_namespace);
    let rule =
        |port: u16, from: Option<Vec<Value>>| json!({ "ports": [{ "port": port, "protocol": "TCP" }], "from": from });
    let chosen = |peers: &Option<Vec<NetworkPolicyPeer>>, also: &[&Value]| {
        let listed = peers.as_ref().map(|peers| peers.iter().map(|peer| json!(peer)));
        listed.map(|listed| listed.chain(also.iter().map(|one| (*one).clone())).collect::<Vec<Value>>())
    };
    let ingress = [
        rule(KAFKA_PORT, chosen(&policy.kafka_peers, &[&brokers, &console])),
        rule(METRICS_PORT, chosen(&policy.metrics_peers, &[&operator, &console])),
        // It is plain text and asks nobody who they are.
        rule(CONTROL_PORT, Some(vec![operator.clone(), console.clone(), brokers.clone()])),
    ];
    let spec = json!({
        "podSelector": { "matchLabels": view.selector(BROKER) },
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    });
    let kind = ("networking.k8s.io/v1", "NetworkPolicy");
    Some(build(view, kind, view.brokers_name(), BROKER, json!({ "spec": spec })))
}
