//! Operator and console take what the chart tells them, and have the same defaults.

use crate::chart::golden::{CASES, case};
use crate::chart::helm::{Render, find};
use crate::chart::read;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// The variables of the operator's container; those that Kubernetes fills in are `filled-in`.
fn environment(manifests: &[Value]) -> BTreeMap<String, String> {
    environment_of("Deployment/kafscale-operator", manifests)
}

/// The same of any deployment.
pub fn environment_of(deployment: &str, manifests: &[Value]) -> BTreeMap<String, String> {
    let deployment = find(manifests, deployment).expect("the deployment");
    let env = deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("variables");
    let text = |value: &Value| value.as_str().unwrap_or("filled-in").to_owned();
    env.iter().map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
}

/// What the operator would use: setting and value. An error is one of the chart.
fn settings(environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    settings_of("operator", environment)
}

fn settings_of(component: &str, environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kafscale"))
        .args(["check-config", "--component", component])
        .env_clear()
        .envs(environment)
        .output()
        .expect("kafscale starts");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let columns = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    Ok(text.lines().map(columns).map(|words| (words[0].clone(), words[1].clone())).collect())
}

#[test]
fn the_operator_knows_and_accepts_every_variable() {
    for name in CASES {
        let environment = environment(&case(name).manifests());
        let settings = settings(&environment).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (variable, value) in &environment {
            assert_eq!(settings.get(variable), Some(value), "{name}: {variable}");
        }
    }
}

#[test]
fn the_console_knows_and_accepts_every_variable() {
    for name in CASES {
        let manifests = case(name).manifests();
        if find(&manifests, "Deployment/kafscale-console").is_none() {
            continue;
        }
        let environment = environment_of("Deployment/kafscale-console", &manifests);
        let settings = settings_of("console", &environment).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (variable, value) in &environment {
            let shown = if value == "filled-in" { "" } else { value };
            assert!(settings.get(variable).is_some_and(|used| used.contains(shown)), "{name}: {variable}");
        }
    }
}

#[test]
fn a_variable_that_the_operator_does_not_know_is_noticed() {
    let values = "operator: {extraEnv: [{name: KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUKET, value: a}]}";
    let error = settings(&environment(&Render::new().values(values).manifests())).expect_err("it does not start");
    assert!(error.contains("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUKET"), "{error}");
}

#[test]
fn defaults_of_the_chart_are_those_of_the_operator() {
    let of_the_operator = settings(&BTreeMap::new()).expect("it needs nothing");
    let of_the_chart = settings(&environment(&Render::new().manifests())).expect("it starts");
    let differ = of_the_chart.iter().filter(|(name, value)| of_the_operator[*name] != **value);
    let names: Vec<_> = differ.map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["KAFSCALE_OPERATOR_NAMESPACE", "KAFSCALE_OPERATOR_POD_NAME"], "Kubernetes says these");
}

/// What the operations guide says of defaults, name by name.
#[test]
fn defaults_are_those_of_the_guide() {
    let none = BTreeMap::new();
    let of_the_operator = settings(&none).expect("it needs nothing");
    let switches = ["CREATE_BUCKET", "PROTECT_BUCKET", "SKIP_PREFLIGHT"]
        .map(|name| format!("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_{name}"));
    for (name, default) in [
        ("KAFSCALE_OPERATOR_ETCD_ENDPOINTS", "(unset)"),
        ("KAFSCALE_OPERATOR_ETCD_IMAGE", "quay.io/coreos/etcd:v3.5.12"),
        ("KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE", "10Gi"),
        ("KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS", "(unset)"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET", "(unset)"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX", "etcd-snapshots"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE", "0 * * * *"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_ETCDCTL_IMAGE", "quay.io/coreos/etcd:v3.5.12"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_IMAGE", "amazon/aws-cli:2.15.0"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT", "(unset)"),
        ("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC", "7200"),
        ("KAFSCALE_OPERATOR_LEADER_KEY", "kafscale-operator"),
        ("KAFSCALE_OPERATOR_METRICS_ADDR", "0.0.0.0:8080"),
        ("KAFSCALE_S3_NAMESPACE", "(unset)"),
        ("KAFSCALE_SEGMENT_BYTES", "4194304"),
        ("KAFSCALE_FLUSH_INTERVAL_MS", "500"),
    ] {
        assert_eq!(of_the_operator.get(name).map(String::as_str), Some(default), "{name}");
    }
    for name in switches {
        assert_eq!(of_the_operator[&name], "false");
        // What it does then is a matter of the operator's own tests.
        settings(&[(name, "1".to_owned())].into()).expect("the guide sets it to 1");
    }
    let of_the_console = settings_of("console", &none).expect("it needs nothing");
    for name in [
        "KAFSCALE_CONSOLE_HTTP_ADDR",
        "KAFSCALE_CONSOLE_ETCD_ENDPOINTS",
        "KAFSCALE_CONSOLE_ETCD_USERNAME",
        "KAFSCALE_CONSOLE_ETCD_PASSWORD",
        "KAFSCALE_CONSOLE_BROKER_METRICS_URL",
        "KAFSCALE_UI_USERNAME",
        "KAFSCALE_UI_PASSWORD",
    ] {
        assert!(of_the_console.contains_key(name), "{name}");
    }
    let chart = super::values::defaults();
    for (value, default) in [
        ("/operator/replicaCount", serde_json::json!(2)),
        ("/operator/etcdEndpoints", serde_json::json!([])),
        ("/operator/leaderKey", serde_json::json!("kafscale-operator")),
        ("/operator/metrics/port", serde_json::json!(8080)),
        ("/operator/image/useLatest", serde_json::json!(false)),
        ("/operator/brokerImage/useLatest", serde_json::json!(false)),
        ("/console/image/useLatest", serde_json::json!(false)),
        ("/console/image/tag", serde_json::json!("")),
        ("/console/auth/username", serde_json::json!("")),
        ("/console/auth/password", serde_json::json!("")),
        ("/console/ingress/enabled", serde_json::json!(false)),
        ("/imagePullSecrets", serde_json::json!([])),
    ] {
        assert_eq!(chart.pointer(value), Some(&default), "{value}");
    }
}

#[test]
fn every_setting_of_the_operator_has_a_value_of_the_chart() {
    let template = read("helm/kafscale/templates/operator/_env.tpl");
    for name in
        settings(&BTreeMap::new()).expect("it needs nothing").keys().filter(|name| name.starts_with("KAFSCALE_"))
    {
        assert!(template.contains(name), "{name}");
    }
}
