//! What the operator may do: named verbs on named kinds, in the namespaces that were asked for.

use crate::chart::golden::{CASES, case};
use crate::chart::helm::{find, title};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn words(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().map(|word| word.as_str().expect("a word")).collect()
}

/// `verb group/resource` of every rule.
fn rights(role: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                found.extend(words(&rule["verbs"]).into_iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    found
}

#[test]
fn nothing_is_granted_by_a_wildcard_or_for_the_whole_cluster_unless_asked_for() {
    for name in CASES {
        for manifest in case(name).manifests() {
            let kind = manifest["kind"].as_str().expect("a kind");
            if !["Role", "ClusterRole"].contains(&kind) {
                continue;
            }
            for right in rights(&manifest) {
                assert!(!right.contains('*'), "{name}: {}: {right}", title(&manifest));
            }
            let asked = ["cluster-scope", "everything"].contains(&name);
            assert!(kind == "Role" || asked, "{name}: {}", title(&manifest));
        }
    }
}

#[test]
fn secrets_are_only_read_by_their_name() {
    for (name, role, names) in [
        ("defaults", "Role/kafscale-operator", Value::Null),
        ("namespaces", "Role/blue/kafscale-operator", json!(["s3-blue", "s3-green"])),
        ("cluster-scope", "ClusterRole/kafscale-kafscale-operator", Value::Null),
    ] {
        let manifests = case(name).manifests();
        let role = find(&manifests, role).expect("the role");
        let rules = role["rules"].as_array().expect("rules").iter();
        let secrets: Vec<_> = rules.filter(|rule| words(&rule["resources"]).contains("secrets")).collect();
        assert_eq!(secrets.len(), 1, "{name}");
        assert_eq!(secrets[0]["verbs"], json!(["get"]), "{name}");
        assert_eq!(secrets[0]["resourceNames"], names, "{name}");
    }
}

#[test]
fn the_role_is_what_the_operator_needs() {
    let manifests = case("defaults").manifests();
    let found = rights(find(&manifests, "Role/kafscale-operator").expect("the role"));
    let all = ["get", "list", "watch", "create", "patch", "update", "delete"];
    let mut wanted = BTreeSet::new();
    let mut grant = |verbs: &[&str], resources: &[&str]| {
        wanted.extend(resources.iter().flat_map(|resource| verbs.iter().map(move |verb| format!("{verb} {resource}"))));
    };
    grant(
        &["get", "list", "watch", "patch", "update"],
        &["kafscale.io/kafscaleclusters", "kafscale.io/kafscaletopics"],
    );
    grant(&["get", "patch", "update"], &["kafscale.io/kafscaleclusters/status", "kafscale.io/kafscaletopics/status"]);
    grant(&["patch", "update"], &["kafscale.io/kafscaleclusters/finalizers", "kafscale.io/kafscaletopics/finalizers"]);
    grant(&all, &["apps/statefulsets", "/services", "/configmaps", "/serviceaccounts", "policy/poddisruptionbudgets"]);
    grant(
        &all,
        &["networking.k8s.io/networkpolicies", "batch/cronjobs", "batch/jobs", "autoscaling/horizontalpodautoscalers"],
    );
    grant(&["get", "list", "watch", "patch", "delete"], &["/pods", "/persistentvolumeclaims"]);
    grant(&["create"], &["/pods/eviction"]);
    grant(&["create", "patch"], &["events.k8s.io/events"]);
    grant(&["get"], &["/secrets", "/namespaces"]);
    assert_eq!(found, wanted);
}

#[test]
fn every_binding_binds_a_role_that_is_there_to_the_operator() {
    for name in CASES {
        let manifests = case(name).manifests();
        for binding in manifests.iter().filter(|m| m["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")))
        {
            let role = title(binding).replace("Binding", "");
            assert!(find(&manifests, &role).is_some(), "{name}: {role}");
            assert_eq!(role.rsplit('/').next(), binding["roleRef"]["name"].as_str(), "{name}");
            let subject = &binding["subjects"][0];
            assert_eq!(
                (&subject["kind"], &subject["namespace"]),
                (&json!("ServiceAccount"), &json!("kafscale")),
                "{name}"
            );
            assert!(
                find(&manifests, &format!("ServiceAccount/{}", subject["name"].as_str().expect("a name"))).is_some()
            );
        }
    }
}
