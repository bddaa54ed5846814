//! The objects of a few clusters, as text that people can read and compare.

use super::*;
use crate::config::Component;
use crate::config::operator::{self, OperatorConfig};
use crate::operator::crd::KafscaleCluster;
use crate::operator::snapshot::SnapshotSettings;
use crate::operator::{etcd, snapshot};
use kube::ResourceExt;
use std::path::PathBuf;

/// The operator's defaults with `flags`.
pub fn defaults(flags: &[&str]) -> OperatorConfig {
    let command = Component::Operator.command().mut_args(|arg| arg.env(None::<&str>));
    let image = "--operator-broker-image=registry.test/kafscale:v1";
    let own = flags.iter().any(|flag| flag.starts_with("--operator-broker-image"));
    let argv = ["operator", "--operator-pod-name=op-0"].into_iter().chain((!own).then_some(image));
    let matches = command.try_get_matches_from(argv.chain(flags.iter().copied())).unwrap();
    operator::resolve(&matches, &Vec::new()).outcome.unwrap()
}

/// A cluster whose spec is `spec` as YAML; in the namespace `shop`, called `orders`.
pub fn cluster(spec: &str) -> KafscaleCluster {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    serde_json::from_value(json!({
        "apiVersion": "kafscale.io/v1alpha1",
        "kind": "KafscaleCluster",
        "metadata": { "name": "orders", "namespace": "shop", "uid": "u-1", "generation": 3 },
        "spec": spec,
    }))
    .unwrap()
}

/// The least that a user has to say.
pub const LEAST: &str = "s3: {bucket: segments, region: eu-west-1}";

/// Most of what a user can say.
const MOST: &str = "
brokers:
  replicas: 5
  resources: {requests: {cpu: '1', memory: 2Gi}, limits: {memory: 2Gi}}
  advertisedHost: broker-{ordinal}.example.com
  advertisedPort: 443
  image: {tag: v2, pullPolicy: Always}
  rack: {podLabel: topology.kubernetes.io/zone}
  service:
    type: LoadBalancer
    annotations: {example.com/lb: internal}
    loadBalancerSourceRanges: [10.0.0.0/8]
    externalTrafficPolicy: Local
    kafkaNodePort: 30092
  pod:
    nodeSelector: {disk: none}
    tolerations: [{key: dedicated, operator: Exists}]
    priorityClassName: high
    labels: {team: orders}
    annotations: {example.com/note: x}
    env:
      - {name: KAFSCALE_GROUP_MAX_SIZE, value: '10'}
      - {name: KAFSCALE_CONTROL_ADDR, value: 'off'}
      - {name: KAFSCALE_BROKER_ID, value: '7'}
    imagePullSecrets: [{name: registry}]
    serviceAccountName: with-a-role
s3:
  bucket: segments
  region: eu-west-1
  endpoint: https://s3.example.com
  readBucket: copies
  readRegion: eu-central-1
  kmsKeyArn: arn:aws:kms:eu-west-1:1:key/k
  credentialsSecretRef: s3
  namespace: orders-1
etcd: {endpoints: ['https://etcd-0:2379', 'https://etcd-1:2379'], credentialsSecretRef: etcd}
config: {segmentBytes: 8388608, flushIntervalMs: 200, cacheSize: 1Gi, autoCreateTopics: false, logLevel: debug, brokerLeaseSec: 20}
autoscaling: {minReplicas: 3, maxReplicas: 9}
networkPolicy:
  kafkaPeers: [{namespaceSelector: {matchLabels: {team: orders}}}]
  metricsPeers: [{podSelector: {matchLabels: {app: prometheus}}}]
rollout: {drainTimeoutSec: 90}
";

fn objects(spec: &str, flags: &[&str]) -> Vec<DynamicObject> {
    let (resource, defaults) = (cluster(spec), defaults(flags));
    let view = ClusterView { resource: &resource, defaults: &defaults };
    let template = pods::template(&view, "secrets");
    let mut objects = around(&view, "kafscale-system");
    objects.push(environment::config_map(&view, &template.config_map, &template.variables));
    objects.push(pods::stateful_set(&view, &template, resource.spec.brokers.replicas));
    objects
}

fn yaml(objects: &[DynamicObject]) -> String {
    let text = |object: &DynamicObject| serde_saphyr::to_string(&serde_json::to_value(object).unwrap()).unwrap();
    objects.iter().map(text).collect::<Vec<_>>().join("---\n")
}

fn golden() -> Vec<(PathBuf, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/operator/resources/golden");
    let managed = format!("{LEAST}\nnetworkPolicy: {{enabled: false}}");
    [
        ("least.yaml", objects(LEAST, &["--operator-etcd-endpoints=http://etcd.infra.svc:2379"])),
        ("managed_etcd.yaml", objects(&managed, &["--s3-namespace=prod", "--segment-bytes=1048576"])),
        ("most.yaml", objects(MOST, &[])),
    ]
    .map(|(name, objects)| (dir.join(name), yaml(&objects)))
    .into()
}

/// A difference is either a mistake, or a change that rolls every broker at the operator's next upgrade: then write the files
/// anew (`cargo test --lib write_the_golden_objects -- --ignored`) and say so in the changelog.
#[test]
fn objects_are_as_written_down() {
    for (path, text) in golden() {
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        let first = known.lines().zip(text.lines()).find(|(known, now)| known != now);
        assert!(known == text, "{} differs, first at (known, now) {first:?}", path.display());
    }
}

#[test]
#[ignore = "writes files"]
fn write_the_golden_objects() {
    for (path, text) in golden() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn what_the_operator_sets_cannot_be_changed_by_pod_env() {
    let (resource, defaults) = (cluster(MOST), defaults(&[]));
    let view = ClusterView { resource: &resource, defaults: &defaults };
    let env = environment::container_env(&view, &environment::variables(&view));
    let names: Vec<&str> = env.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"KAFSCALE_GROUP_MAX_SIZE"));
    assert!(!names.contains(&"KAFSCALE_CONTROL_ADDR") && !names.contains(&"KAFSCALE_BROKER_ID"), "{names:?}");
}

#[test]
fn the_fingerprint_changes_with_what_rolls_brokers_and_with_nothing_else() {
    let defaults = defaults(&[]);
    let hash = |resource: &KafscaleCluster, secrets: &str| {
        pods::template(&ClusterView { resource, defaults: &defaults }, secrets).hash
    };
    let base = cluster(LEAST);
    let first = hash(&base, "a");
    let mut scaled = base.clone();
    scaled.spec.brokers.replicas = 9;
    scaled.metadata.generation = Some(4);
    assert_eq!(hash(&scaled, "a"), first, "more brokers are no other brokers");
    assert_ne!(hash(&base, "b"), first, "a rotated secret");
    let mut restarted = base.clone();
    let annotation = (crate::operator::crd::RESTART_ANNOTATION.to_owned(), "today".to_owned());
    restarted.metadata.annotations = Some([annotation].into());
    assert_ne!(hash(&restarted, "a"), first, "a restart that is asked for");
    let mut other = base;
    other.spec.config.flush_interval_ms = Some(100);
    assert_ne!(hash(&other, "a"), first, "another setting");
}

#[test]
fn images() {
    let table = [
        ("", "registry.test/kafscale:v1"),
        ("tag: v2", "registry.test/kafscale:v2"),
        ("repository: mine/k", "mine/k:v1"),
        ("repository: 'localhost:5000/k'", "localhost:5000/k:v1"),
        ("digest: 'sha256:00'", "registry.test/kafscale@sha256:00"),
    ];
    for (own, expected) in table {
        let resource = cluster(&format!("{LEAST}\nbrokers: {{image: {{{own}}}}}"));
        let defaults = defaults(&[]);
        assert_eq!(pods::image(&ClusterView { resource: &resource, defaults: &defaults }), expected, "{own}");
    }
    let pinned = defaults(&["--operator-broker-image=localhost:5000/k@sha256:11"]);
    let resource = cluster(&format!("{LEAST}\nbrokers: {{image: {{tag: v3}}}}"));
    assert_eq!(pods::image(&ClusterView { resource: &resource, defaults: &pinned }), "localhost:5000/k:v3");
}

/// Managed etcd's pods, those of its snapshots, and those of every manifest for a restore.
fn pods_beside_the_brokers(view: &ClusterView<'_>) -> Vec<(String, Value)> {
    let mut objects = etcd::objects(view, "kafscale");
    objects.extend(snapshot::objects(view, false));
    let settings = SnapshotSettings::of(view).expect("etcd is managed");
    for (_, documents) in snapshot::restore::documents(view, &settings) {
        objects.extend(documents.into_iter().map(etcd::objects::dynamic));
    }
    let mut pods = Vec::new();
    for object in objects {
        let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        let spec = &object.data["spec"];
        let template = if kind == "CronJob" { &spec["jobTemplate"]["spec"]["template"] } else { &spec["template"] };
        if template.is_object() {
            pods.push((format!("{kind} {}", object.name_any()), template["spec"].clone()));
        }
    }
    let found: Vec<&str> = pods.iter().map(|(what, _)| what.as_str()).collect();
    let wanted = [
        "StatefulSet orders-etcd",
        "CronJob orders-etcd-snapshot",
        "Job orders-etcd-snapshots",
        "Job orders-etcd-restore-0",
        "Job orders-etcd-restore-1",
        "Job orders-etcd-restore-2",
        "Job orders-recover-plan",
        "Job orders-recover-write",
    ];
    assert_eq!(found, wanted);
    pods
}

#[test]
fn pull_secrets_are_those_of_the_cluster_or_else_of_the_operator() {
    let table = [
        ("", "", Value::Null),
        ("", "ghcr, mirror", json!([{"name": "ghcr"}, {"name": "mirror"}])),
        ("imagePullSecrets: [{name: own}]", "ghcr", json!([{"name": "own"}])),
        ("imagePullSecrets: []", "ghcr", json!([{"name": "ghcr"}])),
    ];
    for (own, names, expected) in table {
        let resource = cluster(&format!("{LEAST}\nbrokers: {{pod: {{{own}}}}}"));
        let flag = format!("--operator-broker-image-pull-secrets={names}");
        let defaults = if names.is_empty() { defaults(&[]) } else { defaults(&[&flag]) };
        let view = ClusterView { resource: &resource, defaults: &defaults };
        let template = pods::template(&view, "");
        assert_eq!(template.pod["spec"]["imagePullSecrets"], expected, "{own} {names}");
        for (what, pod) in pods_beside_the_brokers(&view) {
            assert_eq!(pod["imagePullSecrets"], expected, "{own} {names}: {what}");
        }
    }
}

#[test]
fn pods_are_restricted() {
    for spec in [LEAST, MOST] {
        let (resource, defaults) = (cluster(spec), defaults(&[]));
        let template = pods::template(&ClusterView { resource: &resource, defaults: &defaults }, "");
        let pod = &template.pod["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"][0], "ALL");
        }
    }
}

/// Every variable that brokers are given is one that they know.
#[test]
fn brokers_know_every_variable() {
    let command = Component::Broker.command();
    let known: Vec<String> =
        command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())).collect();
    let (resource, defaults) = (cluster(MOST), defaults(&[]));
    let view = ClusterView { resource: &resource, defaults: &defaults };
    let variables = environment::variables(&view);
    let env = environment::container_env(&view, &variables);
    let named = env.iter().map(|one| one["name"].as_str().unwrap().to_owned());
    for name in variables.keys().cloned().chain(named).filter(|name| name != "POD_NAME") {
        assert!(known.contains(&name), "{name}");
    }
}
