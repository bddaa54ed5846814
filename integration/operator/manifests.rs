//! Everything that is made by the chart, by the operator, or by a user who takes the samples: the API server takes it, in a namespace in
//! which only restricted pods may run, without a warning. Nothing of it is made for it.

use super::control_plane::{kubectl, wait_for};
use super::namespace::Namespace;
use crate::chart::golden::{CASES, case};
use crate::chart::helm::{documents, title};
use crate::chart::samples::samples;
use crate::harness::tool;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kinds that are in no namespace.
const CLUSTER_WIDE: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];

/// A namespace that refuses and warns of everything that is not restricted, where all custom resources are known.
async fn restricted() -> Namespace {
    let namespace = Namespace::new("manifests").await;
    super::define(&namespace).await;
    let plane = namespace.plane();
    let others = tool("definitions.yaml").display().to_string();
    plane.kubectl(&["apply", "--server-side", "-f", &others]).await.expect("the definitions of other projects");
    for kind in ["servicemonitors", "prometheusrules", "httproutes"] {
        wait_for(kind, async || plane.kubectl(&["get", kind, "-A"]).await).await;
    }
    let label = "pod-security.kubernetes.io/warn=restricted";
    plane.kubectl(&["label", "namespace", namespace.name(), label]).await.expect("a namespace takes labels");
    namespace
}

/// Asks the API server whether it would take the objects. A warning is an error, and so is a field that it does not know.
async fn try_all(namespace: &Namespace, objects: &[Value]) -> Result<(), String> {
    let here = |object: &Value| {
        let mut object = object.clone();
        let kind = object["kind"].as_str().unwrap_or_default();
        if !CLUSTER_WIDE.contains(&kind) {
            object["metadata"]["namespace"] = Value::from(namespace.name());
        }
        object.to_string()
    };
    let yaml = objects.iter().map(here).collect::<Vec<_>>().join("\n---\n");
    let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-"];
    kubectl(&namespace.plane().kubeconfig(), &args, &yaml).await.map(drop)
}

/// Files of the folders called `golden` below `folder`.
fn golden(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            golden(&path, into);
        } else if path.parent().is_some_and(|parent| parent.ends_with("golden")) {
            into.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pss_restricted() {
    let namespace = restricted().await;
    let mut all: Vec<(String, Vec<Value>)> = Vec::new();
    for name in CASES {
        all.push((format!("chart with values/{name}.yaml"), case(name).set("crds.install=true").manifests()));
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    golden(&repository.join("src/operator"), &mut files);
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        all.push((file.display().to_string(), documents(&text)));
    }
    for (file, object) in samples() {
        all.push((file, vec![object]));
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (what, objects) in &all {
        for object in objects {
            *kinds.entry(object["kind"].as_str().expect("a kind").to_owned()).or_default() += 1;
        }
        if let Err(error) = try_all(&namespace, objects).await {
            let titles: Vec<String> = objects.iter().map(title).collect();
            panic!("{what}: {error}\n{titles:?}");
        }
    }
    eprintln!("{} sets of objects: {kinds:?}", all.len());
    for kind in ["StatefulSet", "Deployment", "Pod", "KafscaleCluster", "KafscaleTopic", "ServiceMonitor", "HTTPRoute"]
    {
        assert!(kinds.contains_key(kind), "no {kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_restricted_or_not_known_is_noticed() {
    let namespace = restricted().await;
    let manifests = case("defaults").manifests();
    let changed = |kind: &str, path: &str, value: Value| {
        let found = manifests.iter().find(|manifest| manifest["kind"] == kind).expect("it is there");
        let mut object = found.clone();
        *object.pointer_mut(path).unwrap_or_else(|| panic!("{path} in {found}")) = value;
        object
    };
    let escalates = "spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation";
    let escalating = changed("Deployment", &format!("/{escalates}"), true.into());
    let mut pod = escalating.pointer("/spec/template").cloned().expect("a template");
    pod["spec"]["serviceAccountName"] = "default".into();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "escalating".into();
    let mut misspelt = changed("Deployment", "/spec/replicas", 1.into());
    misspelt["spec"]["replica"] = 1.into();
    let table = [
        (escalating, "would violate PodSecurity"),
        (pod, "is forbidden: violates PodSecurity"),
        (misspelt, ".spec.replica: field not declared in schema"),
        (changed("Deployment", "/spec/selector/matchLabels", serde_json::json!({"a": "b"})), "does not match template"),
    ];
    for (object, expected) in table {
        let error = try_all(&namespace, &[object]).await.expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
