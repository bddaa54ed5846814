//! The chart in the life of a release, with both Helms, on a cluster that has never seen it.

use super::control_plane::{ControlPlane, kubectl, run, wait_for};
use crate::chart::samples::samples;
use crate::harness::TestDir;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Namespace and release.
const NAME: &str = "kafscale";
/// A column of `kubectl get kafscaletopics` that an earlier chart did not have.
const COLUMN: &str = "Partitions";

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

    /// Whether the definition of topics has the column, and how many replicas of the operator are there.
    async fn state(&self) -> (bool, u64) {
        let crd = self.get("crd/kafscaletopics.kafscale.io").await;
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].to_string();
        let operator = self.get("deployment/kafscale-operator").await;
        (columns.contains(COLUMN), operator["spec"]["replicas"].as_u64().expect("a number"))
    }
}

/// The chart as it was before the definition got its newest column: what is in the repository, without it.
fn earlier(dir: &Path) -> PathBuf {
    let chart = dir.join("earlier");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/kafscale"), &chart);
    let file = chart.join("files/crds.yaml");
    let now = std::fs::read_to_string(&file).expect("it can be read");
    let lines: Vec<&str> = now.lines().collect();
    let at = lines.iter().position(|line| line.trim() == format!("name: {COLUMN}")).expect("there is such a column");
    let begin = (0..=at).rev().find(|n| lines[*n].trim_start().starts_with("- ")).expect("an item of a list");
    let indent = lines[begin].len() - lines[begin].trim_start().len();
    let inside = |line: &&&str| line.len() - line.trim_start().len() > indent;
    let length = 1 + lines[begin + 1..].iter().take_while(inside).count();
    let before = [&lines[..begin], &lines[begin + length..]].concat();
    std::fs::write(&file, before.join("\n") + "\n").expect("it can be written");
    chart
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
    let args = ["-n", NAME, "apply", "-f", "-"];
    kubectl(&cluster.plane.kubeconfig(), &args, &objects.join("\n---\n")).await.expect("the samples are right");
    let uids = async || {
        let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        cluster.kubectl(&["get", "kfs,kt", "-o", path]).await.expect("they are served")
    };
    let users = uids().await;
    assert!(users.lines().count() >= 2, "{users}");

    cluster.helm(&[&["upgrade", NAME, &now, "--set=operator.replicaCount=3"], &wait[..]].concat()).await;
    assert_eq!(cluster.state().await, (true, 3), "{helm}: the definitions are upgraded, too");
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
