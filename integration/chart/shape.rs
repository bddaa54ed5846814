//! What the API server asks of objects that are applied on the server's side: lists without doubles, names that are
//! unique and legal, selectors that select.

use crate::chart::golden::{CASES, case};
use crate::chart::helm::{Helm, Render, documents, find, title};
use crate::chart::{assert_file, read};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Lists that are merged by a key, which must not be there twice.
const KEYED: [(&str, &[&str]); 7] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("ports", &["port", "containerPort", "protocol"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

fn doubles(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                if let (Some((_, keys)), Some(items)) = (KEYED.iter().find(|(name, _)| name == field), value.as_array())
                {
                    let mut seen = BTreeSet::new();
                    for item in items {
                        let key = keys.iter().map(|key| item[*key].to_string()).collect::<String>();
                        if !seen.insert(key.clone()) {
                            found.push(format!("{field}: {key}"));
                        }
                    }
                }
                doubles(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| doubles(item, found)),
        _ => {}
    }
}

#[test]
fn objects_can_be_applied_on_the_server() {
    for name in CASES {
        let manifests = case(name).manifests(); // a key that is there twice is an error already
        let mut titles = BTreeSet::new();
        for manifest in &manifests {
            let mut found = Vec::new();
            doubles(manifest, &mut found);
            assert_eq!(found, Vec::<String>::new(), "{name}: {}", title(manifest));
            assert!(titles.insert(title(manifest)), "{name}: {} is there twice", title(manifest));
            let labels = &manifest["metadata"]["labels"];
            for label in ["name", "instance", "component", "version", "part-of", "managed-by"] {
                let label = format!("app.kubernetes.io/{label}");
                assert!(labels[&label].is_string(), "{name}: {} has no {label}", title(manifest));
            }
            let cluster_wide = manifest["kind"].as_str().expect("a kind").starts_with("ClusterRole");
            assert_eq!(manifest["metadata"]["namespace"].is_null(), cluster_wide, "{name}: {}", title(manifest));
        }
    }
}

#[test]
fn a_double_is_noticed() {
    let mut found = Vec::new();
    doubles(&serde_json::json!({"spec": {"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}}), &mut found);
    assert_eq!(found, ["env: \"A\""]);
}

#[test]
fn services_select_the_pods_of_one_component() {
    let manifests = case("everything").manifests();
    let templates: Vec<_> = manifests.iter().filter(|m| m["kind"] == "Deployment").collect();
    assert_eq!(templates.len(), 2);
    let selectors = ["/spec/selector/matchLabels", "/spec/podSelector/matchLabels", "/spec/selector"];
    let kinds = ["Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"];
    for object in manifests.iter().filter(|m| kinds.iter().any(|kind| m["kind"] == *kind)) {
        let selector =
            selectors.iter().find_map(|at| object.pointer(at)).and_then(Value::as_object).expect("a selector");
        let selected = templates.iter().filter(|template| {
            let labels = &template["spec"]["template"]["metadata"]["labels"];
            selector.iter().all(|(key, value)| labels[key] == *value)
        });
        assert_eq!(selected.count(), 1, "{}", title(object));
    }
}

#[test]
fn names_stay_legal_whatever_the_release_is_called() {
    let long = "a".repeat(53);
    for release in ["kafscale", "k", "prod-kafscale-eu", &long] {
        let manifests = Render::new()
            .release(release, "kafscale")
            .values(&read("integration/chart/values/everything.yaml"))
            .manifests();
        for manifest in &manifests {
            let name = manifest["metadata"]["name"].as_str().expect("a name");
            assert!(name.len() <= 63 && !name.ends_with('-') && !name.contains("--"), "{name}");
        }
    }
    let manifests = Render::new().release("prod", "kafscale").manifests();
    assert!(manifests.iter().any(|m| title(m) == "Deployment/prod-kafscale-operator"));
}

#[test]
fn definitions_are_what_the_program_prints_and_stay_when_the_release_goes() {
    let output = Command::new(env!("CARGO_BIN_EXE_kafscale")).arg("crd").output().expect("kafscale starts");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert_file("helm/kafscale/files/crds.yaml", &printed);
    let definitions = documents(&printed);
    assert_eq!(definitions.len(), 2);
    let manifests = Render::new().manifests();
    for mut expected in definitions {
        let mut rendered = find(&manifests, &title(&expected)).expect("the definition").clone();
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        assert_eq!(rendered["metadata"]["labels"]["app.kubernetes.io/component"], "crds");
        rendered["metadata"].take();
        expected["metadata"].take();
        assert_eq!(rendered, expected);
    }
}

#[test]
fn a_budget_says_about_unready_pods_what_the_version_understands() {
    let place = "/spec/unhealthyPodEvictionPolicy";
    for (version, wanted) in
        [("1.26.15", Value::Null), ("1.27.0", "AlwaysAllow".into()), ("1.36.3", "AlwaysAllow".into())]
    {
        let manifests = Render::new().flag("--kube-version").flag(version).manifests();
        let budget = manifests.iter().find(|m| m["kind"] == "PodDisruptionBudget").expect("a budget");
        assert_eq!(budget.pointer(place).cloned().unwrap_or_default(), wanted, "{version}");
    }
}

#[test]
fn another_release_with_the_same_values_shares_no_cluster_wide_name() {
    let values = read("integration/chart/values/cluster-scope.yaml");
    let names = |namespace: &str| -> BTreeSet<String> {
        let manifests =
            Render::new().release("kafscale", namespace).values(&values).set("crds.install=false").manifests();
        let cluster_wide = manifests.iter().filter(|m| m["metadata"]["namespace"].is_null());
        cluster_wide.map(title).collect()
    };
    let (blue, green) = (names("blue"), names("green"));
    assert_eq!(blue.len(), 4);
    assert!(blue.is_disjoint(&green), "{blue:?} {green:?}");
}

#[test]
fn the_chart_can_be_a_part_of_another_one() {
    // Helm hands `global` down to it, with whatever else the parent has there.
    Render::new().values("global: {storageClass: ssd, other: {a: 1}}").manifests();
}

#[test]
fn notes_name_what_was_installed() {
    let notes = |values: &str| {
        let args = ["install", "prod", "helm/kafscale", "--namespace", "streams", "--dry-run=client", "--values", "-"];
        let text = Helm::Four.run(&args, values).expect("a dry run needs no cluster");
        text.split_once("NOTES:").expect("there are notes").1.to_owned()
    };
    let usual = notes("{}");
    for part in [
        "kubectl -n streams rollout status deployment/prod-kafscale-operator",
        "port-forward service/prod-kafscale-console 8080:80",
        "Nobody can log in yet",
        "helm test prod --namespace streams",
        "runs one of three members",
        "credentialsSecretRef: kafscale-s3-creds",
        "It knows no etcd",
        "console.etcdEndpoints[0]=$(kubectl -n streams get kafscalecluster demo",
    ] {
        assert!(usual.contains(part), "{part}: {usual}");
    }
    for part in ["needs https", "set console.clusterName"] {
        assert!(!usual.contains(part), "{part}: {usual}");
    }
    let other = notes(
        "{operator: {etcdEndpoints: ['http://etcd:2379']}, watchNamespaces: [blue], console: {auth: {existingSecret: x}}, crds: {install: false}}",
    );
    for (part, there) in [
        ("http://etcd:2379", true),
        ("kubectl -n blue apply", true),
        ("crds.install=false", true),
        ("Nobody can log in yet", false),
        ("runs one of three members", false),
        ("It knows no etcd", false),
        ("a cluster in blue is called blue", true),
    ] {
        assert_eq!(other.contains(part), there, "{part}: {other}");
    }
    let https = |console: &str| notes(&format!("console: {{{console}}}")).contains("Signing in needs https");
    assert!(https("service: {type: LoadBalancer}") && https("ingress: {enabled: true}"));
    assert!(!https("service: {type: LoadBalancer}, cookieSecure: false"));
    assert!(!https("ingress: {enabled: true, tls: [{hosts: [a.b], secretName: c}]}"));
}
