//! Every pod satisfies the *restricted* Pod Security Standard, and what we ask beyond it.

use crate::chart::golden::{CASES, case};
use crate::chart::helm::{Render, title};
use serde_json::{Value, json};

/// The specification of the pod that an object is or makes.
pub fn pod(manifest: &Value) -> Option<&Value> {
    match manifest["kind"].as_str()? {
        "Pod" => Some(&manifest["spec"]),
        "CronJob" => manifest.pointer("/spec/jobTemplate/spec/template/spec"),
        _ => manifest.pointer("/spec/template/spec"),
    }
}

/// What of the restricted profile the pod violates.
pub fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut need = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        need(pod[field] != true, field.to_owned());
    }
    let allowed =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().expect("a volume").keys().filter(|key| *key != "name");
        kinds.for_each(|kind| need(allowed.contains(&kind.as_str()), format!("volume {kind}")));
    }
    let all = &pod["securityContext"];
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for container in lists.into_iter().flat_map(|list| pod[list].as_array().into_iter().flatten()) {
        let own = &container["securityContext"];
        let of_both = |field: &str| if own[field].is_null() { &all[field] } else { &own[field] };
        need(own["privileged"] != true, "privileged".to_owned());
        need(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation".to_owned());
        need(of_both("runAsNonRoot") == true, "runAsNonRoot".to_owned());
        need(of_both("runAsUser") != 0, "runAsUser".to_owned());
        let profile = of_both("seccompProfile")["type"].as_str();
        need(matches!(profile, Some("RuntimeDefault" | "Localhost")), "seccompProfile".to_owned());
        let drops = own.pointer("/capabilities/drop").and_then(Value::as_array);
        need(drops.is_some_and(|drops| drops.contains(&json!("ALL"))), "capabilities.drop".to_owned());
        let adds = own.pointer("/capabilities/add").and_then(Value::as_array);
        need(adds.is_none_or(|adds| adds.iter().all(|add| add == "NET_BIND_SERVICE")), "capabilities.add".to_owned());
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.for_each(|port| need(port["hostPort"].is_null() || port["hostPort"] == 0, "hostPort".to_owned()));
        need(own["procMount"].is_null() || own["procMount"] == "Default", "procMount".to_owned());
    }
    found
}

#[test]
fn all_pods_are_restricted_and_leave_their_image_alone() {
    let mut pods = 0;
    for name in CASES {
        for manifest in case(name).manifests() {
            let Some(pod) = pod(&manifest) else { continue };
            pods += 1;
            let title = format!("{name}: {}", title(&manifest));
            assert_eq!(violations(pod), Vec::<String>::new(), "{title}");
            assert_eq!(pod["enableServiceLinks"], false, "{title}: service links look like settings");
            for container in pod["containers"].as_array().expect("containers") {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{title}");
                assert!(container["resources"]["requests"]["memory"].is_string(), "{title}: no memory is requested");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{title}: memory is not limited");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten().filter(|v| !v["emptyDir"].is_null()) {
                assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{title}: {volume}");
            }
            let speaks_to_kubernetes = title.contains("operator") && manifest["kind"] == "Deployment";
            assert_eq!(pod["automountServiceAccountToken"] != false, speaks_to_kubernetes, "{title}");
        }
    }
    assert!(pods > 15, "{pods} pods");
}

#[test]
fn a_pod_that_is_not_restricted_is_noticed() {
    let breaches = [
        ("operator: {podSecurityContext: {runAsNonRoot: false}}", "runAsNonRoot"),
        ("operator: {podSecurityContext: {seccompProfile: {type: Unconfined}}}", "seccompProfile"),
        ("operator: {securityContext: {allowPrivilegeEscalation: true}}", "allowPrivilegeEscalation"),
        ("operator: {securityContext: {privileged: true}}", "privileged"),
        ("operator: {securityContext: {runAsUser: 0}}", "runAsUser"),
        ("operator: {securityContext: {capabilities: {drop: []}}}", "capabilities.drop"),
        ("operator: {securityContext: {capabilities: {add: [SYS_ADMIN]}}}", "capabilities.add"),
        ("operator: {extraVolumes: [{name: h, hostPath: {path: /}}]}", "volume hostPath"),
    ];
    for (yaml, violation) in breaches {
        let manifests = Render::new().values(yaml).manifests();
        let operator = manifests.iter().find(|m| title(m) == "Deployment/kafscale-operator").expect("the operator");
        assert_eq!(violations(pod(operator).expect("a pod")), [violation], "{yaml}");
    }
}

#[test]
fn probes_ask_the_port_that_is_open() {
    for manifest in case("everything").manifests().iter().filter(|manifest| manifest["kind"] == "Deployment") {
        let container = &pod(manifest).expect("a pod")["containers"][0];
        assert_eq!(container["ports"][0]["name"], "http");
        for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}), "{}", title(manifest));
        }
    }
}
