//! A test's own part of the cluster: a namespace in which only restricted pods may run, and three nodes in three zones
//! that nobody else's pods get to.

use super::control_plane::{self, ControlPlane, apply, kubectl, run, wait_for};
use crate::harness::{TestDir, tool};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes of a namespace; node `n` is in zone `zone-n`.
pub const NODES: usize = 3;
/// The label of pods that a [`Kubelet`](super::kubelet::Kubelet) runs and that kwok leaves alone, and its value.
pub const KUBELET_LABEL: &str = "kafscale.io/test-kubelet";
/// See [`KUBELET_LABEL`].
pub const KUBELET_VALUE: &str = "process";

/// See the module's documentation. Deleted, without waiting for it, when dropped; what was in it is shown when the test fails.
#[derive(Debug)]
pub struct Namespace {
    plane: &'static ControlPlane,
    name: String,
    dir: TestDir,
}

impl Namespace {
    /// A new one; `test` is part of its name. There is a default service account in it, so pods can be made.
    pub async fn new(test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let plane = ControlPlane::get().await;
        let name = format!("{test}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut yaml = format!(
            "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
  annotations: {{scheduler.alpha.kubernetes.io/node-selector: kafscale.io/test={name}}}
"
        );
        for n in 0..NODES {
            yaml.push_str(&format!(
                "---
apiVersion: v1
kind: Node
metadata:
  name: {name}-{n}
  labels: {{kubernetes.io/hostname: {name}-{n}, kubernetes.io/os: linux, kubernetes.io/arch: amd64, topology.kubernetes.io/zone: zone-{n}, kafscale.io/test: {name}}}
status:
  allocatable: {{cpu: '64', memory: 256Gi, pods: '1000'}}
  capacity: {{cpu: '64', memory: 256Gi, pods: '1000'}}
"
            ));
        }
        plane.apply(&yaml).await.expect("the namespace and its nodes can be made");
        let namespace = Self { plane, dir: TestDir::new(&format!("k8s-{name}")), name };
        wait_for("the default service account", async || {
            namespace.kubectl(&["get", "serviceaccount", "default"]).await
        })
        .await;
        let ready = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
        wait_for("ready nodes", async || {
            let selector = format!("-l=kafscale.io/test={}", namespace.name);
            let states = plane.kubectl(&["get", "nodes", &selector, "-o", ready]).await?;
            if states.split_whitespace().filter(|s| *s == "True").count() == NODES { Ok(()) } else { Err(states) }
        })
        .await;
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its `n`th node.
    pub fn node(&self, n: usize) -> String {
        format!("{}-{n}", self.name)
    }

    /// A folder of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it is part of.
    pub fn plane(&self) -> &'static ControlPlane {
        self.plane
    }

    /// `kubectl` as an administrator, here.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.kubectl_as(&self.plane.kubeconfig(), args).await
    }

    /// `kubectl` as somebody else, here.
    pub async fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<String, String> {
        let all = [&["-n", self.name.as_str()], args].concat();
        kubectl(kubeconfig, &all, "").await
    }

    /// `helm` (program `helm` or `helm3`) as an administrator, here; nothing of the user's own configuration is read or written.
    pub async fn helm(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let home = self.dir().join("helm").display().to_string();
        let envs = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home.clone()));
        let mut all: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        all.push(format!("--namespace={}", self.name));
        all.push(format!("--kubeconfig={}", self.plane.kubeconfig().display()));
        run(program, &all, &envs, "").await
    }

    /// Creates or changes objects here, as an administrator. Unknown fields and wrong types are errors.
    pub async fn apply(&self, yaml: &str) -> Result<String, String> {
        apply(&self.plane.kubeconfig(), &["-n", &self.name], yaml).await
    }

    /// An object, e.g. `pod/a`.
    pub async fn get(&self, object: &str) -> Result<Value, String> {
        let json = self.kubectl(&["get", object, "-o", "json"]).await?;
        serde_json::from_str(&json).map_err(|e| format!("{object}: {e}"))
    }

    /// Waits until `holds` is true of an object, and returns it.
    pub async fn wait_object(&self, object: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{object}: {what}"), async || {
            let found = self.get(object).await?;
            if holds(&found) { Ok(found) } else { Err(found["status"].to_string()) }
        })
        .await
    }

    /// Waits until there is no such object.
    pub async fn wait_gone(&self, object: &str) {
        wait_for(&format!("the end of {object}"), async || {
            let found = self.kubectl(&["get", object, "--ignore-not-found", "-o", "name"]).await?;
            if found.is_empty() { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// A client of the API as an administrator, for the runtime of the caller.
    pub async fn client(&self) -> kube::Client {
        client(&self.plane.kubeconfig()).await
    }

    /// A service account with the given rules (YAML, a list as in a Role) and no others: a kubeconfig with its token.
    pub async fn service_account(&self, name: &str, rules: &str) -> PathBuf {
        let rules = rules.trim().replace('\n', "\n  ");
        let yaml = format!(
            "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}}}
rules:
  {rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {name}}}]
"
        );
        self.apply(&yaml).await.expect("the service account can be made");
        self.kubeconfig_of(name).await
    }

    /// A kubeconfig with a new token of a service account that exists here, e.g. one that a chart made.
    pub async fn kubeconfig_of(&self, service_account: &str) -> PathBuf {
        let token = self.kubectl(&["create", "token", service_account, "--duration=2h"]).await.expect("a token");
        let admin = std::fs::read_to_string(self.plane.kubeconfig()).expect("the kubeconfig is there");
        let (head, rest) = admin.split_once("token: \"").expect("written by scripts/control-plane.sh");
        let (_, tail) = rest.split_once('"').expect("written by scripts/control-plane.sh");
        let namespaced = tail.replace("namespace: default", &format!("namespace: {}", self.name));
        let file = self.dir().join(format!("{service_account}.kubeconfig"));
        std::fs::write(&file, format!("{head}token: \"{token}\"{namespaced}")).expect("the folder can be written");
        file
    }

    /// Deletes it and waits for the end.
    pub async fn delete(self) {
        self.plane.kubectl(&["delete", "namespace", &self.name, "--wait=false"]).await.expect("it can be deleted");
        wait_for("the end of the namespace", async || {
            match self
                .plane
                .kubectl(&["get", "namespace", &self.name, "--ignore-not-found", "-o", "yaml"])
                .await?
                .as_str()
            {
                "" => Ok(()),
                left => Err(left.to_owned()),
            }
        })
        .await;
    }
}

/// A client with the rights of a kubeconfig, for the runtime of the caller.
pub async fn client(kubeconfig: &Path) -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
    let config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await;
    kube::Client::try_from(config.expect("the kubeconfig is right")).expect("a client can be made")
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let kubectl = |args: &[&str]| {
            let mut command = Command::new(tool("kubectl"));
            command.arg(format!("--kubeconfig={}", self.plane.kubeconfig().display())).args(args);
            command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        if std::thread::panicking() {
            eprintln!("--- namespace {} ---", self.name);
            eprintln!("{}", kubectl(&["-n", &self.name, "get", "all,pdb,pvc", "-o", "wide"]));
            eprintln!("{}", kubectl(&["-n", &self.name, "get", "events", "--sort-by=.lastTimestamp"]));
        }
        kubectl(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        kubectl(&["delete", "nodes", "-l", &format!("kafscale.io/test={}", self.name), "--wait=false"]);
    }
}

/// Lets every pod of a namespace that has the label `name=value` get [`KUBELET_LABEL`] when it is made, whoever makes it: an operator
/// does not know that it is tested.
pub async fn label_pods(namespace: &Namespace, name: &str, value: &str) {
    let plane: &ControlPlane = namespace.plane();
    let ns = namespace.name();
    let yaml = format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {ns}}}
spec:
  matchConstraints:
    resourceRules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {ns}}}}}
    objectSelector: {{matchLabels: {{{name}: '{value}'}}}}
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: '[JSONPatch{{op: \"add\", path: \"/metadata/labels/\" + jsonpatch.escapeKey(\"{KUBELET_LABEL}\"), value: \"{KUBELET_VALUE}\"}}]'
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {ns}}}
spec: {{policyName: {ns}}}
"
    );
    plane.apply(&yaml).await.expect("the policy can be made");
    // The API server learns of it a moment later. A pod that is only tried shows when.
    let probe = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: probe, labels: {{{name}: '{value}'}}}}
spec:
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers: [{{name: c, image: none, securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]
"
    );
    control_plane::wait_for("the policy that labels pods", async || {
        let args = ["-n", ns, "create", "--dry-run=server", "-o", "yaml", "-f", "-"];
        let made = kubectl(&plane.kubeconfig(), &args, &probe).await?;
        if made.contains(KUBELET_LABEL) { Ok(()) } else { Err(made) }
    })
    .await;
}
