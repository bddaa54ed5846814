//! The chart in the life of a release, with both Helms, on a cluster that has never seen it.

use super::control_plane::{ControlPlane, kubectl, run, wait_for};
use crate::chart::helm::{documents, title};
use crate::chart::samples::samples;
use crate::harness::TestDir;
use kafscale::operator::crd::{KafscaleCluster, KafscaleTopic, definitions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Namespace and release.
const NAME: &str = "kafscale";
/// The definitions that were committed first.
const OLDEST: &str = include_str!("oldest-definitions.yaml");
/// Part of a rule that they did not have.
const NEWER: &str = "without `managed` it is 3";
/// Most of what could be said when they were all there was.
const MOST: &str = "
apiVersion: kafscale.io/v1alpha1
kind: KafscaleCluster
metadata: {name: most}
spec:
  brokers:
    replicas: 5
    resources: {requests: {cpu: '1', memory: 2Gi}}
    advertisedHost: 'broker-{ordinal}.example.com'
    advertisedPort: 443
    image: {repository: example.com/kafscale, tag: v3, pullPolicy: Always}
    pod: {labels: {tier: data}, nodeSelector: {disk: ssd}, imagePullSecrets: [{name: registry}], env: [{name: TZ, value: UTC}]}
  s3: {bucket: most, region: eu-west-1, readBucket: most-copy, readRegion: us-east-1, namespace: team, credentialsSecretRef: s3}
  etcd: {managed: {replicas: 5, storageSize: 20Gi, storageClass: ssd, snapshot: {bucket: backups, schedule: '5 * * * *', retentionDays: 30}}}
  config: {segmentBytes: 8388608, flushIntervalMs: 100}
  networkPolicy: {enabled: true, kafkaPeers: [{podSelector: {matchLabels: {app: shop}}}]}
  rollout: {drainTimeoutSec: 30, readyTimeoutSec: 90}
  autoscaling: {minReplicas: 3, maxReplicas: 9}
---
apiVersion: kafscale.io/v1alpha1
kind: KafscaleTopic
metadata: {name: most}
spec: {clusterRef: most, topicName: Most_Topics, partitions: 12, retentionMs: 604800000, config: {cleanup.policy: 'compact,delete'}, deletionPolicy: Delete}
";

/// A folder's files, copied.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("it has a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("a file can be copied")),
        }
    }
}

struct Cluster {
    plane: ControlPlane,
    dir: TestDir,
    helm: &'static str,
}

impl Cluster {
    async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        kubectl(&self.plane.kubeconfig(), &[&["-n", NAME], args].concat(), "").await
    }

    async fn get(&self, object: &str) -> Value {
        let json = self.kubectl(&["get", object, "-o", "json"]).await.expect("it is there");
        serde_json::from_str(&json).expect("kubectl prints JSON")
    }

    async fn helm(&self, args: &[&str]) -> String {
        let home = self.dir.path().join("home").display().to_string();
        let envs = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home.clone()));
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend([format!("--namespace={NAME}"), format!("--kubeconfig={}", self.plane.kubeconfig().display())]);
        run(self.helm, &all, &envs, "").await.unwrap_or_else(|error| panic!("{}: {error}", self.helm))
    }

    /// Whether the definition of clusters has the newer rule, and how many replicas of the operator are there.
    async fn state(&self) -> (bool, u64) {
        let crd = self.get("crd/kafscaleclusters.kafscale.io").await.to_string();
        let operator = self.get("deployment/kafscale-operator").await;
        (crd.contains(NEWER), operator["spec"]["replicas"].as_u64().expect("a number"))
    }

    /// What people have written, by kind and name.
    async fn written(&self) -> BTreeMap<String, Value> {
        let json = self.kubectl(&["get", "kfs,kt", "-o", "json"]).await.expect("they are served");
        let list: Value = serde_json::from_str(&json).expect("kubectl prints JSON");
        let items = list["items"].as_array().expect("a list").clone();
        items.into_iter().map(|one| (title(&one), one)).collect()
    }

    async fn apply(&self, yaml: &str) -> Result<String, String> {
        let args = ["-n", NAME, "apply", "--server-side", "--validate=strict", "-f", "-"];
        kubectl(&self.plane.kubeconfig(), &args, yaml).await
    }
}

/// The chart with the definitions that were committed first.
fn earlier(dir: &Path) -> PathBuf {
    let chart = dir.join("earlier");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/kafscale"), &chart);
    std::fs::write(chart.join("files/crds.yaml"), OLDEST).expect("it can be written");
    chart
}

/// What was written under older definitions is there, says what it said, is understood, and can be changed.
async fn stays_valid(cluster: &Cluster, before: &BTreeMap<String, Value>, written: &str) {
    let after = cluster.written().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, old) in before {
        let new = &after[name];
        assert!(says_still(&old["spec"], &new["spec"]), "{name}: {} {}", old["spec"], new["spec"]);
        match old["kind"].as_str() {
            Some("KafscaleCluster") => drop(serde_json::from_value::<KafscaleCluster>(new.clone()).expect(name)),
            _ => drop(serde_json::from_value::<KafscaleTopic>(new.clone()).expect(name)),
        }
        let (kind, name) = name.split_once('/').expect("kind and name");
        let annotate = ["annotate", kind, name, "example.com/seen=yes", "--overwrite"];
        cluster.kubectl(&annotate).await.expect("today's rules let it be changed");
    }
    cluster.apply(written).await.expect("it can be applied again as it was written");
    for (name, new) in cluster.written().await {
        assert_eq!(new["metadata"]["generation"], before[&name]["metadata"]["generation"], "{name}: nothing is new");
    }
}

/// True if `new` has everything that `old` has; more there may be.
fn says_still(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(key, old)| new.get(key).is_some_and(|new| says_still(old, new)))
        }
        _ => old == new,
    }
}

/// Fields are only ever added: everything that the first definitions knew is known, is of the same type, and is required only if it was.
#[test]
fn whatever_the_first_definitions_knew_is_known() {
    let schema = |definition: &Value| definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    let first = documents(OLDEST);
    let today = definitions().map(|definition| serde_json::to_value(definition).expect("plain data"));
    assert_eq!((first.len(), today.len()), (2, 2));
    for (old, new) in first.iter().zip(&today) {
        assert_eq!(old["metadata"]["name"], new["metadata"]["name"]);
        let mut found = (0, Vec::new());
        compare(&schema(old), &schema(new), "", &mut found);
        assert!(found.0 > 10, "{} fields", found.0);
        assert_eq!(found.1, Vec::<String>::new(), "{}", old["metadata"]["name"]);
    }
    let mut changed = schema(&first[1]);
    changed["properties"]["spec"]["properties"]["partitions"]["type"] = "string".into();
    changed["properties"]["spec"]["required"] = serde_json::json!(["clusterRef", "partitions"]);
    changed["properties"]["spec"]["properties"].as_object_mut().expect("a map").remove("config");
    let mut found = (0, Vec::new());
    compare(&schema(&first[1]), &changed, "", &mut found);
    found.1.sort();
    let expected =
        [".spec requires partitions now", ".spec.config is not known any more", ".spec.partitions is of another type"];
    assert_eq!(found.1, expected);
}

/// Counts fields of `old`, and notes what of them `new` does not let in as before.
fn compare(old: &Value, new: &Value, place: &str, found: &mut (usize, Vec<String>)) {
    for word in ["type", "format", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "default"] {
        if old[word] != new[word] && !(word == "default" && old[word].is_null()) {
            let what = if word == "type" { "is of another type" } else { word };
            found.1.push(format!("{place} {what}"));
        }
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for name in list(&new["required"]).iter().filter(|name| !list(&old["required"]).contains(name)) {
        found.1.push(format!("{place} requires {} now", name.as_str().unwrap_or_default()));
    }
    for one in list(&old["enum"]).iter().filter(|one| !list(&new["enum"]).contains(one)) {
        found.1.push(format!("{place} may not be {one} any more"));
    }
    for (name, old) in old["properties"].as_object().into_iter().flatten() {
        found.0 += 1;
        let place = format!("{place}.{name}");
        match new["properties"].get(name) {
            Some(new) => compare(old, new, &place, found),
            None => found.1.push(format!("{place} is not known any more")),
        }
    }
    for inside in ["items", "additionalProperties"] {
        if old[inside].is_object() {
            compare(&old[inside], &new[inside], &format!("{place}[]"), found);
        }
    }
}

async fn life(helm: &'static str) {
    let dir = TestDir::new(&format!("release-{helm}"));
    let (now, before) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/kafscale"), earlier(dir.path()));
    let (now, before) = (now.display().to_string(), before.display().to_string());
    let cluster = Cluster { plane: ControlPlane::own().await, dir, helm };
    let wait = ["--wait", "--timeout=120s"];
    cluster.helm(&[&["install", NAME, &before, "--create-namespace"], &wait[..]].concat()).await;
    assert_eq!(cluster.state().await, (false, 2), "{helm}");
    // The samples, as the pages say; there is no operator behind the pods here.
    let is_simple = |(file, _): &&(String, Value)| Path::new(file).parent() == Some(Path::new("samples"));
    let objects: Vec<String> = samples().iter().filter(is_simple).map(|(_, object)| object.to_string()).collect();
    wait_for("the definitions are served", async || cluster.kubectl(&["get", "kfs,kt"]).await).await;
    let objects = format!("{}\n---{MOST}", objects.join("\n---\n"));
    cluster.apply(&objects).await.expect("the samples are right");
    let written = cluster.written().await;
    let uids = async || {
        let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        cluster.kubectl(&["get", "kfs,kt", "-o", path]).await.expect("they are served")
    };
    let users = uids().await;
    assert!(users.lines().count() >= 2, "{users}");

    cluster.helm(&[&["upgrade", NAME, &now, "--set=operator.replicaCount=3"], &wait[..]].concat()).await;
    assert_eq!(cluster.state().await, (true, 3), "{helm}: the definitions are upgraded, too");
    stays_valid(&cluster, &written, &objects).await;
    cluster.helm(&[&["rollback", NAME, "1"], &wait[..]].concat()).await;
    assert_eq!(cluster.state().await, (false, 2), "{helm}");
    assert_eq!(uids().await, users, "{helm}");

    cluster.helm(&["uninstall", NAME, "--wait"]).await;
    let left =
        cluster.kubectl(&["get", "deployments,roles,rolebindings,services", "-o", "name"]).await.expect("listed");
    assert_eq!(left, "", "{helm}");
    assert_eq!(uids().await, users, "{helm}: what is the user's stays");
    // And is looked after again.
    cluster.helm(&[&["install", NAME, &now], &wait[..]].concat()).await;
    assert_eq!(cluster.state().await, (true, 2), "{helm}");
    assert_eq!(uids().await, users, "{helm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_install_upgrade_rollback_uninstall() {
    for helm in ["helm3", "helm"] {
        life(helm).await;
    }
}
