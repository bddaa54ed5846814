//! The control plane behaves like a cluster where an operator needs it to.

use super::control_plane::wait_for;
use super::namespace::{NODES, Namespace};
use crate::harness::READY_DEADLINE;
use crate::harness::{TestDir, tool, wait_until};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a pod must say of itself where Pod Security enforces `restricted`: of the pod, and of each container.
pub const POD_SECURITY: &str = "securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}";
/// See [`POD_SECURITY`].
pub const CONTAINER_SECURITY: &str = "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";

/// Three pods that kwok plays, with their service and disruption budget.
fn stateful_set(budget: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: app}}
spec: {{clusterIP: None, selector: {{app: app}}, ports: [{{name: kafka, port: 9092}}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: app}}
spec: {{maxUnavailable: {budget}, selector: {{matchLabels: {{app: app}}}}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: app}}
spec:
  replicas: 3
  serviceName: app
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata: {{labels: {{app: app}}}}
    spec:
      {POD_SECURITY}
      topologySpreadConstraints:
        - {{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: app}}}}}}
      containers:
        - name: c
          image: none
          volumeMounts: [{{name: data, mountPath: /data}}]
          {CONTAINER_SECURITY}
  volumeClaimTemplates:
    - metadata: {{name: data}}
      spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_becomes_ready_in_three_zones_and_pods_are_steered() {
    let ns = Namespace::new("stateful").await;
    ns.apply(&stateful_set("1")).await.unwrap();
    ns.wait_rollout("statefulset/app").await;
    let mut nodes = BTreeSet::new();
    for n in 0..3 {
        nodes.insert(ns.node_of(&format!("app-{n}")).await.unwrap());
        ns.wait_object(&format!("pvc/data-app-{n}"), "bound", |c| c["status"]["phase"] == "Bound").await;
    }
    assert_eq!(nodes, (0..NODES).map(|n| ns.node(n)).collect(), "one on each of its own nodes, none elsewhere");
    ns.set_ready("app-1", false).await;
    ns.wait_object("statefulset/app", "two are ready", |s| s["status"]["readyReplicas"] == 2).await;
    wait_for("two ready endpoints", async || {
        let path = "jsonpath={.items[*].endpoints[*].conditions.ready}";
        let args = ["get", "endpointslices", "-l", "kubernetes.io/service-name=app", "-o", path];
        let mut ready: Vec<String> = ns.kubectl(&args).await?.split_whitespace().map(str::to_owned).collect();
        ready.sort();
        if ready == ["false", "true", "true"] { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    ns.set_ready("app-1", true).await;
    ns.wait_rollout("statefulset/app").await;
    ns.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_the_disruption_budget() {
    let ns = Namespace::new("drain").await;
    ns.apply(&stateful_set("0")).await.unwrap();
    ns.wait_rollout("statefulset/app").await;
    ns.wait_object("pdb/app", "all are counted", |b| b["status"]["currentHealthy"] == 3).await;
    let before = ns.get("pod/app-0").await.unwrap()["metadata"]["uid"].clone();
    let node = ns.node_of("app-0").await.unwrap();
    let refused = ns.drain(&node, 5).await.unwrap_err();
    assert!(refused.contains("violate the pod's disruption budget"), "{refused}");
    assert_eq!(ns.get("pod/app-0").await.unwrap()["metadata"]["uid"], before);
    ns.kubectl(&["patch", "pdb", "app", "--type=merge", "-p", r#"{"spec":{"maxUnavailable":1}}"#]).await.unwrap();
    ns.drain(&node, 60).await.unwrap();
    // Its zone has no node left, and the spread allows no other.
    ns.wait_object("pod/app-0", "replaced, but on no node", |p| {
        p["metadata"]["uid"] != before && p["spec"]["nodeName"].is_null()
    })
    .await;
    ns.uncordon(&node).await;
    ns.wait_rollout("statefulset/app").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_right_is_refused() {
    let ns = Namespace::new("refused").await;
    let pod = |name: &str, of_pod: &str, of_container: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {of_pod}
  containers: [{{name: c, image: none, {of_container}}}]
"
        )
    };
    let bad = ns.apply(&pod("bad", "hostNetwork: true", CONTAINER_SECURITY)).await.unwrap_err();
    assert!(bad.contains("violates PodSecurity \"restricted"), "{bad}");
    let unknown = format!("{CONTAINER_SECURITY}, liveProbe: {{}}");
    let unknown = ns.apply(&pod("unknown", POD_SECURITY, &unknown)).await.unwrap_err();
    assert!(unknown.contains("liveProbe"), "{unknown}");
    let mistyped = format!("{CONTAINER_SECURITY}, ports: [{{containerPort: nine}}]");
    let mistyped = ns.apply(&pod("mistyped", POD_SECURITY, &mistyped)).await.unwrap_err();
    assert!(mistyped.contains("containerPort"), "{mistyped}");
    ns.apply(&pod("good", POD_SECURITY, CONTAINER_SECURITY)).await.unwrap();
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/good", "--timeout=60s"]).await.unwrap();
    assert_eq!(ns.kubectl(&["get", "pods", "-o", "name"]).await.unwrap(), "pod/good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_a_custom_resource_hold() {
    let ns = Namespace::new("rules").await;
    let crd = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.kafscale.io}
spec:
  group: test.kafscale.io
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            status: {type: object, properties: {ready: {type: boolean}}}
            spec:
              type: object
              properties: {min: {type: integer}, max: {type: integer}, name: {type: string, maxLength: 20}}
              x-kubernetes-validations:
                - {rule: "self.min <= self.max", message: "min must not exceed max"}
                - {rule: "self.name == oldSelf.name", message: "name cannot be changed"}
"#;
    ns.plane().apply(crd).await.unwrap();
    let widget = |min: u32, max: u32, name: &str| {
        format!(
            "apiVersion: test.kafscale.io/v1\nkind: Widget\nmetadata: {{name: w}}\nspec: {{min: {min}, max: {max}, name: {name}}}\n"
        )
    };
    // A new kind is served a moment after it is there.
    wait_for("the new kind", async || ns.apply(&widget(1, 3, "a")).await).await;
    let wrong = ns.apply(&widget(5, 3, "a")).await.unwrap_err();
    assert!(wrong.contains("min must not exceed max"), "{wrong}");
    let renamed = ns.apply(&widget(1, 3, "b")).await.unwrap_err();
    assert!(renamed.contains("name cannot be changed"), "{renamed}");
    let status = ["patch", "widget", "w", "--subresource=status", "--type=merge", "-p", r#"{"status":{"ready":true}}"#];
    ns.kubectl(&status).await.unwrap();
    let kept = ns.get("widget/w").await.unwrap();
    assert_eq!((&kept["spec"]["min"], &kept["status"]["ready"]), (&1.into(), &true.into()));
    ns.plane().kubectl(&["delete", "crd", "widgets.test.kafscale.io"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_may_do_what_its_role_says_and_nothing_else() {
    let ns = Namespace::new("account").await;
    let rules = "- {apiGroups: [''], resources: [configmaps], verbs: [get, list, create]}\n\
                 - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}";
    let account = ns.service_account("limited", rules).await;
    // The authoriser learns of a role a moment later.
    wait_for("the role", async || ns.kubectl_as(&account, &["get", "configmaps"]).await).await;
    ns.kubectl_as(&account, &["create", "configmap", "made", "--from-literal=a=1"]).await.unwrap();
    for args in [
        vec!["delete", "configmap", "made"],
        vec!["get", "pods"],
        vec!["get", "secrets"],
        vec!["get", "configmaps", "-n", "default"],
        vec!["get", "nodes"],
    ] {
        let denied = ns.kubectl_as(&account, &args).await.unwrap_err();
        assert!(denied.contains("Forbidden"), "{args:?}: {denied}");
    }
    let client = super::namespace::client(&account).await;
    let maps = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::default_namespaced(client);
    assert!(maps.get("made").await.is_ok(), "the client of a kubeconfig is in its namespace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_helms_install_upgrade_and_remove() {
    let ns = Namespace::new("helm").await;
    let chart = ns.dir().join("chart");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: tiny\nversion: 0.1.0\n").unwrap();
    std::fs::write(chart.join("values.yaml"), "replicas: 1\n").unwrap();
    let template = format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {{{{ .Release.Name }}}}}}
spec:
  replicas: {{{{ .Values.replicas }}}}
  selector: {{matchLabels: {{r: {{{{ .Release.Name }}}} }}}}
  template:
    metadata: {{labels: {{r: {{{{ .Release.Name }}}} }}}}
    spec:
      {POD_SECURITY}
      containers: [{{name: c, image: none, {CONTAINER_SECURITY}}}]
"
    );
    std::fs::write(chart.join("templates/deployment.yaml"), template).unwrap();
    let chart = chart.display().to_string();
    for (program, major) in [("helm", "v4."), ("helm3", "v3.")] {
        let version = ns.helm(program, &["version", "--short"]).await.unwrap();
        assert!(version.starts_with(major), "{program}: {version}");
        let (release, deployment) = (format!("tiny-{program}"), format!("deployment/tiny-{program}"));
        let wait = ["--wait", "--timeout=60s"];
        ns.helm(program, &[&["install", &release, &chart], &wait[..]].concat()).await.unwrap();
        assert_eq!(ns.get(&deployment).await.unwrap()["status"]["readyReplicas"], 1);
        ns.helm(program, &[&["upgrade", &release, &chart, "--set=replicas=3"], &wait[..]].concat()).await.unwrap();
        assert_eq!(ns.get(&deployment).await.unwrap()["status"]["readyReplicas"], 3);
        ns.helm(program, &[&["uninstall", &release], &wait[..]].concat()).await.unwrap();
        ns.wait_gone(&deployment).await;
    }
}

/// A control plane of its own, told to start by a process that then ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_ends_with_who_started_it() {
    let dir = TestDir::new("k8s-ends");
    let folder = dir.path().join("plane");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/control-plane.sh");
    let mut child = Command::new(script)
        .arg("run")
        .arg(&folder)
        .env("KAFSCALE_TOOLS", tool("kubectl").parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"];
    let runs = |pid: &String| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty());
    let mut pids: Vec<String> = Vec::new();
    wait_until("all of it was started", READY_DEADLINE * 3, async || {
        let read = |program: &&str| std::fs::read_to_string(folder.join(format!("{program}.pid"))).ok();
        pids = programs.iter().filter_map(read).map(|pid| pid.trim().to_owned()).collect();
        pids.len() == programs.len() && pids.iter().all(runs)
    })
    .await;
    drop(child.stdin.take()); // what the kernel does with the pipe of a process that ends
    wait_until("all of it has ended", READY_DEADLINE, async || !pids.iter().any(runs) && !folder.exists()).await;
    child.wait().unwrap();
}
