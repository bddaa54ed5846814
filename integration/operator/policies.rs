//! What NetworkPolicies let through. Nothing enforces them here, since no node has a network: they are read as a network plugin reads
//! them, as far as the operator and the chart use them.

use serde_json::Value;

/// Which side of a connection a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connects.
    Egress,
    /// Who is connected to.
    Ingress,
}

/// True if `labels` has everything that the selector wants. An absent selector is none at all.
fn selects(selector: &Value, labels: &Value) -> bool {
    assert!(selector.get("matchExpressions").is_none(), "not known here: {selector}");
    selector["matchLabels"].as_object().into_iter().flatten().all(|(name, value)| labels[name] == *value)
}

/// True if `policy` is about `pod`.
pub fn is_about(policy: &Value, pod: &Value) -> bool {
    policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
}

/// Whether `policy` lets its pods have a TCP connection with `peer` on `port`, which is that of who is connected to.
pub fn lets(policy: &Value, side: Side, peer: &Value, port: u64) -> bool {
    let (word, peers) = match side {
        Side::Egress => ("Egress", "to"),
        Side::Ingress => ("Ingress", "from"),
    };
    if !policy["spec"]["policyTypes"].as_array().is_some_and(|types| types.iter().any(|one| one == word)) {
        return true;
    }
    let namespace = &peer["metadata"]["namespace"];
    let is_meant = |one: &Value| {
        assert!(one.get("ipBlock").is_none(), "not known here: {one}");
        let there = match one.get("namespaceSelector") {
            Some(selector) => selects(selector, &serde_json::json!({"kubernetes.io/metadata.name": namespace})),
            None => *namespace == policy["metadata"]["namespace"],
        };
        there && one.get("podSelector").is_none_or(|selector| selects(selector, &peer["metadata"]["labels"]))
    };
    let is_port = |one: &Value| one["port"] == port && one["protocol"].as_str().unwrap_or("TCP") == "TCP";
    let any = |list: &Value, holds: &dyn Fn(&Value) -> bool| {
        list.as_array().filter(|list| !list.is_empty()).is_none_or(|list| list.iter().any(holds))
    };
    let rules = policy["spec"][word.to_ascii_lowercase()].as_array().into_iter().flatten();
    rules.into_iter().any(|rule| any(&rule["ports"], &is_port) && any(&rule[peers], &is_meant))
}

#[test]
fn policies_are_read_as_kubernetes_means_them() {
    let pod =
        |namespace: &str, app: &str| serde_json::json!({"metadata": {"namespace": namespace, "labels": {"app": app}}});
    let policy = serde_json::json!({
        "metadata": {"namespace": "a"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "x"}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": 1}], "from": [{"podSelector": {"matchLabels": {"app": "y"}}}]},
                {"ports": [{"port": 2}], "from": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}},
                    "podSelector": {"matchLabels": {"app": "y"}},
                }]},
                {"ports": [{"port": 3}]},
                {"ports": [{"port": 4, "protocol": "UDP"}]},
            ],
        },
    });
    let lets = |peer: &Value, port| lets(&policy, Side::Ingress, peer, port);
    let (ours, theirs, other) = (pod("a", "y"), pod("b", "y"), pod("a", "z"));
    assert_eq!([1, 2, 3, 4, 5].map(|port| lets(&ours, port)), [true, false, true, false, false]);
    assert_eq!([1, 2, 3, 4, 5].map(|port| lets(&theirs, port)), [false, true, true, false, false]);
    assert_eq!([1, 2, 3, 4, 5].map(|port| lets(&other, port)), [false, false, true, false, false]);
    assert!(super::policies::lets(&policy, Side::Egress, &other, 5), "it says nothing of that");
    assert!(is_about(&policy, &pod("a", "x")) && !is_about(&policy, &pod("b", "x")) && !is_about(&policy, &ours));
}
