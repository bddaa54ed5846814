//! What values.schema.json refuses, and that it knows exactly the values that there are.

use crate::chart::helm::{Helm, Render};
use crate::chart::{read, values};
use serde_json::Value;

#[test]
fn mistakes_are_refused_with_their_place() {
    let mistakes = [
        ("operater: {replicaCount: 3}", "operater"),
        ("operator: {replicas: 3}", "replicas"),
        ("operator: {etcdEndpoint: 'http://etcd:2379'}", "etcdEndpoint"),
        ("operator: {etcdEndpoints: 'http://etcd:2379'}", "etcdEndpoints"),
        ("operator: {etcdEndpoints: [etcd]}", "etcdEndpoints"),
        ("operator: {etcdEndpoints: ['http://a:1,http://b:1']}", "etcdEndpoints"),
        ("operator: {image: {tags: v1}}", "tags"),
        ("operator: {image: {tag: 1.1}}", "tag"),
        ("operator: {image: {pullPolicy: always}}", "pullPolicy"),
        ("operator: {image: {digest: 'sha256:12'}}", "digest"),
        ("operator: {brokerImage: {useLatest: 'yes'}}", "useLatest"),
        ("operator: {etcd: {storagesize: 1Gi}}", "storagesize"),
        ("operator: {etcd: {storageSize: 10 GB}}", "storageSize"),
        ("operator: {etcdSnapshot: {schedule: hourly}}", "schedule"),
        ("operator: {etcdSnapshot: {staleAfterSec: 59}}", "staleAfterSec"),
        ("operator: {etcdSnapshot: {prefix: /etcd/}}", "prefix"),
        ("operator: {s3Namespace: a/b}", "s3Namespace"),
        ("operator: {etcdSnapshot: {createBucket: '1'}}", "createBucket"),
        ("operator: {segmentBytes: 4MiB}", "segmentBytes"),
        ("operator: {flushIntervalMs: 0}", "flushIntervalMs"),
        ("operator: {leaderKey: /kafscale/leader}", "leaderKey"),
        ("operator: {logLevel: verbose}", "logLevel"),
        ("operator: {metrics: {port: 99999}}", "port"),
        ("operator: {metrics: {serviceMonitor: {enable: true}}}", "enable"),
        ("operator: {resources: {limit: {memory: 1Gi}}}", "limit"),
        ("operator: {podSecurityContext: {runAsNonroot: true}}", "runAsNonroot"),
        ("operator: {extraEnv: [{name: A, valeu: b}]}", "valeu"),
        ("operator: {extraEnv: [{name: A, value: 1}]}", "value"),
        ("operator: {podLabels: {app.kubernetes.io/component: x}}", "app.kubernetes.io/component"),
        ("commonLabels: {helm.sh/chart: x}", "helm.sh/chart"),
        ("operator: {affinity: {podAffinty: {}}}", "podAffinty"),
        ("operator: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone}]}", "whenUnsatisfiable"),
        ("console: {auth: {user: admin}}", "user"),
        ("console: {cookieSecure: never}", "cookieSecure"),
        ("console: {service: {type: ExternalName}}", "type"),
        ("console: {ingress: {hosts: [ui.example.com]}}", "hosts"),
        ("rbac: {scope: global}", "scope"),
        ("watchNamespaces: '*'", "watchNamespaces"),
        ("watchNamespaces: ['*']", "watchNamespaces"),
        ("networkPolicy: {metricsFrom: [{}]}", "metricsFrom"),
        ("networkPolicy: {etcdPorts: []}", "etcdPorts"),
        ("crds: {keep: true}", "keep"),
    ];
    for (index, (yaml, place)) in mistakes.into_iter().enumerate() {
        let helm = Helm::BOTH[index % 2];
        let error = Render::new().helm(helm).values(yaml).text().expect_err(yaml);
        assert!(error.contains("schema") && error.contains(place), "{helm:?}, {yaml}: {error}");
    }
}

#[test]
fn contradictions_are_refused_with_what_to_do() {
    let contradictions = [
        ("console: {auth: {username: admin}}", "set both username and password"),
        ("console: {auth: {password: secret}}", "set both username and password"),
        ("console: {auth: {username: a, password: b, existingSecret: c}}", "either existingSecret"),
        ("console: {httpRoute: {enabled: true}}", "name the Gateway"),
        (
            "operator: {extraEnv: [{name: KAFSCALE_LOG_LEVEL, value: debug}]}",
            "the chart sets KAFSCALE_LOG_LEVEL itself",
        ),
        ("console: {extraEnv: [{name: A, value: b}, {name: A, value: c}]}", "console.extraEnv"),
    ];
    for (yaml, advice) in contradictions {
        let error = Render::new().values(yaml).text().expect_err(yaml);
        assert!(error.contains(advice), "{yaml}: {error}");
    }
}

#[test]
fn a_cluster_that_is_too_old_is_refused() {
    for helm in Helm::BOTH {
        let error =
            Render::new().helm(helm).flag("--kube-version").flag("1.25.16").text().expect_err("1.25 is too old");
        assert!(error.contains("1.26"), "{error}");
        for version in ["1.26.0", "1.27.3-eks-a5565ad", "1.36.3"] {
            Render::new().helm(helm).flag("--kube-version").flag(version).manifests();
        }
    }
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let Some(reference) = schema["$ref"].as_str() else { return schema };
    root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} is not there"))
}

/// Paths of the properties, down to the values that are documented.
fn known(schema: &Value, root: &Value, path: &str, ends: &[String], found: &mut Vec<String>) {
    match resolve(schema, root)["properties"].as_object() {
        Some(properties) if !ends.iter().any(|end| end == path) => {
            for (key, schema) in properties {
                known(schema, root, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, ends, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    let schema: Value = serde_json::from_str(&read("helm/kafscale/values.schema.json")).expect("JSON");
    let mut documented: Vec<String> = values::documented().into_iter().map(|value| value.path).collect();
    let mut found = Vec::new();
    known(&schema, &schema, "", &documented, &mut found);
    found.sort();
    documented.sort();
    assert_eq!(found, documented);
}

/// Places of schemas of objects that let in what they do not name.
fn open(schema: &Value, place: &str, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if map.get("type").is_some_and(|kind| kind == "object")
                && map.get("additionalProperties") != Some(&false.into())
            {
                found.push(place.to_owned());
            }
            for (key, schema) in map {
                open(schema, &format!("{place}/{key}"), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| open(item, &format!("{place}/{i}"), found))
        }
        _ => {}
    }
}

#[test]
fn what_the_schema_leaves_open_is_written_down() {
    let schema: Value = serde_json::from_str(&read("helm/kafscale/values.schema.json")).expect("JSON");
    let mut found = Vec::new();
    open(&schema, "", &mut found);
    // Maps of the user's own names, and parts of Kubernetes' types that the API server checks itself.
    let wanted = [
        "/definitions/affinity/properties/nodeAffinity",
        "/definitions/affinity/properties/podAffinity",
        "/definitions/affinity/properties/podAntiAffinity",
        "/definitions/env/properties/valueFrom/properties/configMapKeyRef",
        "/definitions/env/properties/valueFrom/properties/fieldRef",
        "/definitions/env/properties/valueFrom/properties/resourceFieldRef",
        "/definitions/env/properties/valueFrom/properties/secretKeyRef",
        "/definitions/labels",
        "/definitions/podSecurityContext/properties/seLinuxOptions",
        "/definitions/podSecurityContext/properties/sysctls/items",
        "/definitions/quantities",
        "/definitions/resources/properties/claims/items",
        "/definitions/securityContext/properties/seLinuxOptions",
        "/definitions/strings",
        "/properties/console/properties/extraVolumes/items",
        "/properties/global",
        "/properties/networkPolicy/properties/extraEgress/items/properties/ports/items",
        "/properties/operator/properties/extraVolumes/items",
        "/properties/operator/properties/metrics/properties/serviceMonitor/properties/metricRelabelings/items",
    ];
    found.sort();
    assert_eq!(found, wanted);
}
