//! The processes behind pods come and go as they would on a node.

use super::control_plane_tests::{CONTAINER_SECURITY, POD_SECURITY};
use super::kubelet::{Image, Kubelet};
use super::namespace::{KUBELET_LABEL, KUBELET_VALUE, NODES, Namespace, label_pods};
use crate::client::Client;
use crate::cluster::leaders;
use crate::harness::{ACCESS_KEY, BUCKET, Etcd, READY_DEADLINE, REGION, S3Server, SECRET_KEY, wait_until};
use crate::workload::{Plan, Workload};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const BROKERS: usize = 3;

/// Three brokers as an operator would run them: variables from fields, a secret and a config map, probes, a hook.
fn brokers(etcd: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: brokers}}
data:
  KAFSCALE_ETCD_ENDPOINTS: {etcd}
  KAFSCALE_S3_ENDPOINT: http://s3.example.test
  KAFSCALE_S3_BUCKET: {BUCKET}
  KAFSCALE_S3_REGION: {REGION}
  KAFSCALE_S3_PATH_STYLE: 'true'
  KAFSCALE_FLUSH_INTERVAL_MS: '20'
  # Longer than the test waits for a takeover: what moves has been given away.
  KAFSCALE_BROKER_LEASE_SEC: '60'
---
apiVersion: v1
kind: Secret
metadata: {{name: s3}}
stringData: {{access: {ACCESS_KEY}, secret: {SECRET_KEY}}}
---
apiVersion: v1
kind: Service
metadata: {{name: brokers}}
spec: {{clusterIP: None, selector: {{app: broker}}, ports: [{{name: kafka, port: 9092}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: broker}}
spec:
  replicas: {BROKERS}
  serviceName: brokers
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: broker}}}}
  template:
    metadata: {{labels: {{app: broker}}}}
    spec:
      {POD_SECURITY}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      volumes: [{{name: cache, emptyDir: {{}}}}]
      containers:
        - name: broker
          image: kafscale:test
          args: [broker]
          envFrom: [{{configMapRef: {{name: brokers}}}}]
          env:
            - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
            - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
            - {{name: KAFSCALE_BROKER_HOST, value: $(POD_NAME).brokers.$(NAMESPACE).svc.cluster.local}}
            - {{name: KAFSCALE_BROKER_ADDR, value: '0.0.0.0:9092'}}
            - {{name: KAFSCALE_S3_NAMESPACE, value: test}}
            - {{name: KAFSCALE_S3_ACCESS_KEY, valueFrom: {{secretKeyRef: {{name: s3, key: access}}}}}}
            - {{name: KAFSCALE_S3_SECRET_KEY, valueFrom: {{secretKeyRef: {{name: s3, key: secret}}}}}}
          ports: [{{name: kafka, containerPort: 9092}}, {{name: metrics, containerPort: 9093}}]
          readinessProbe: {{httpGet: {{path: /readyz, port: metrics}}, periodSeconds: 1, failureThreshold: 1}}
          livenessProbe: {{httpGet: {{path: /livez, port: metrics}}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 10}}
          lifecycle: {{preStop: {{exec: {{command: [/bin/sh, -c, 'echo $POD_NAME > /cache/stopping']}}}}}}
          volumeMounts: [{{name: cache, mountPath: /cache}}]
          {CONTAINER_SECURITY}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_behind_pods_serve_clients_and_one_that_is_deleted_is_drained_and_replaced() {
    let ns = Namespace::new("brokers").await;
    let (etcd, s3) = (Etcd::start(ns.dir()).await, S3Server::start(ns.dir()).await);
    label_pods(&ns, "app", "broker").await;
    let replacements = [("s3.example.test", s3.address())];
    let kubelet = Kubelet::start(&ns, &[("kafscale:test", Image::kafscale())], &replacements).await;
    ns.apply(&brokers(&etcd.endpoint())).await.unwrap();
    ns.wait_rollout("statefulset/broker").await;
    let addresses: Vec<String> =
        (0..BROKERS).map(|n| format!("{}:9092", kubelet.address(&format!("broker-{n}")))).collect();
    let pod = ns.get("pod/broker-1").await.unwrap();
    assert_eq!(pod["status"]["podIP"], kubelet.address("broker-1").to_string());

    let plan = Plan { partitions: 6, producers: 6, pause: Duration::from_millis(20), ..Plan::new("ledger", 1) };
    let load = Workload::start_on(&addresses, plan).await;
    load.wait_acks(20).await;
    let told = Client::new(&addresses[0]).metadata(None, false).await.unwrap();
    let told: BTreeSet<String> = told.brokers.iter().map(|b| format!("{}:{}", b.host.as_str(), b.port)).collect();
    assert_eq!(told, addresses.iter().cloned().collect(), "what clients are told is where brokers are");

    // No node takes the next pod yet, so that it cannot take the partitions back before they were seen elsewhere.
    let nodes: Vec<String> = (0..NODES).map(|n| ns.node(n)).collect();
    for node in &nodes {
        ns.plane().kubectl(&["cordon", node]).await.unwrap();
    }
    load.fault("deletion", true);
    ns.kubectl(&["delete", "pod", "broker-1", "--wait=false"]).await.unwrap();
    let uid = pod["metadata"]["uid"].clone();
    let replaced = |p: &serde_json::Value| p["metadata"]["uid"] != uid;
    wait_until("others have claimed what it gave away", READY_DEADLINE, async || {
        let now = leaders(&addresses[0], "ledger").await;
        now.values().map(BTreeSet::len).sum::<usize>() == 6 && !now.contains_key(&1) && !now.contains_key(&-1)
    })
    .await;
    for node in &nodes {
        ns.uncordon(node).await;
    }
    ns.wait_object("pod/broker-1", "replaced and ready", |p| {
        let mut conditions = p["status"]["conditions"].as_array().into_iter().flatten();
        replaced(p) && conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
    .await;
    load.fault("deletion", false);
    let hook = ns.dir().join("volumes").join(uid.as_str().unwrap()).join("cache/stopping");
    assert_eq!(std::fs::read_to_string(hook).unwrap(), "broker-1\n", "the hook ran, in its volume");
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    for n in 0..BROKERS {
        let pod = ns.get(&format!("pod/broker-{n}")).await.unwrap();
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "broker-{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_reach_its_store_or_dies_is_not_ready() {
    let ns = Namespace::new("unready").await;
    let (mut etcd, s3) = (Etcd::start(ns.dir()).await, S3Server::start(ns.dir()).await);
    label_pods(&ns, "app", "broker").await;
    let replacements = [("s3.example.test", s3.address())];
    let kubelet = Kubelet::start(&ns, &[("kafscale:test", Image::kafscale())], &replacements).await;
    etcd.process.pause();
    ns.apply(&brokers(&etcd.endpoint())).await.unwrap();
    ns.wait_object("pod/broker-0", "running, but not ready by its probe", |p| {
        let container = &p["status"]["containerStatuses"][0];
        let message = p["status"]["conditions"].to_string();
        container["ready"] == false && !container["state"]["running"].is_null() && message.contains("503")
    })
    .await;
    etcd.process.resume();
    ns.wait_rollout("statefulset/broker").await;
    let before = kubelet.running("broker-2", "broker").unwrap().pid;
    let restarts = |p: &serde_json::Value| p["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap();
    let restarts_before = restarts(&ns.get("pod/broker-2").await.unwrap());
    kubelet.signal("broker-2", "broker", libc::SIGKILL).await;
    ns.wait_object("pod/broker-2", "restarted in the same pod", |p| {
        let container = &p["status"]["containerStatuses"][0];
        restarts(p) == restarts_before + 1
            && container["ready"] == true
            && container["lastState"]["terminated"]["exitCode"] == 128 + libc::SIGKILL
    })
    .await;
    assert_ne!(kubelet.running("broker-2", "broker").unwrap().pid, before);
}

/// A pod of one container that runs a shell.
fn shell_pod(name: &str, image: &str, of_container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{KUBELET_LABEL}: {KUBELET_VALUE}}}}}
spec:
  {POD_SECURITY}
  terminationGracePeriodSeconds: 1
  volumes: [{{name: work, emptyDir: {{}}}}]
  containers:
    - name: c
      image: {image}
      volumeMounts: [{{name: work, mountPath: /work}}]
      {CONTAINER_SECURITY}
      {of_container}
---
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_a_pod_is_in_its_status() {
    let ns = Namespace::new("wrong").await;
    let shell = Image::program(Path::new("/bin/sh"));
    let images = [("shell", shell), ("broken", Image::program(Path::new("/bin/false")))];
    let kubelet = Kubelet::start(&ns, &images, &[]).await;
    let waits = "command: [sh, -c, 'echo $SECRET; exec sleep 1000']";
    let secret = format!("{waits}\n      env: [{{name: SECRET, valueFrom: {{secretKeyRef: {{name: s, key: k}}}}}}]");
    let pods = [
        shell_pod("crashes", "broken", ""),
        shell_pod("unknown", "nobody/has:this", ""),
        shell_pod("lacks", "shell", &secret),
        shell_pod("good", "shell", waits),
    ];
    ns.apply(&pods.concat()).await.unwrap();
    let state = |p: &serde_json::Value| p["status"]["containerStatuses"][0].clone();
    let waiting = |reason: &'static str| {
        move |p: &serde_json::Value| state(p)["state"]["waiting"]["reason"] == reason && state(p)["ready"] == false
    };
    ns.wait_object("pod/crashes", "in back-off", |p| {
        let crashed = &state(p)["lastState"]["terminated"];
        waiting("CrashLoopBackOff")(p) && state(p)["restartCount"].as_u64() >= Some(2) && crashed["exitCode"] == 1
    })
    .await;
    ns.wait_object("pod/unknown", "without image", waiting("ErrImagePull")).await;
    ns.wait_object("pod/lacks", "without secret", waiting("CreateContainerConfigError")).await;
    let good = ns.wait_object("pod/good", "ready", |p| state(p)["ready"] == true).await;
    assert_eq!(good["status"]["phase"], "Running");
    // A secret that comes later, and an image that is mended.
    ns.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=hush"]).await.unwrap();
    ns.wait_object("pod/lacks", "ready", |p| state(p)["ready"] == true).await;
    wait_until("it printed the secret", READY_DEADLINE, async || kubelet.log("lacks", "c") == "hush\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_ends_with_its_hook_its_grace_and_its_processes() {
    let ns = Namespace::new("ends").await;
    let kubelet = Kubelet::start(&ns, &[("shell", Image::program(Path::new("/bin/sh")))], &[]).await;
    let kept = ns.dir().join("kept");
    let says = |word: &str| format!("'echo {word} >> {}'", kept.display());
    // The first ends when it is asked to, the second never.
    let hook = format!("lifecycle: {{preStop: {{exec: {{command: [sh, -c, {}]}}}}}}", says("hook"));
    let trap = |on_term: &str| format!("\"trap '{on_term}' TERM; while :; do sleep 0.05; done\"");
    let polite =
        format!("command: [sh, -c, {}]\n      {hook}", trap(&format!("echo term >> {}; exit 0", kept.display())));
    let stubborn = format!("command: [sh, -c, {}]", trap(":"));
    ns.apply(&[shell_pod("polite", "shell", &polite), shell_pod("stubborn", "shell", &stubborn)].concat())
        .await
        .unwrap();
    let mut pids = Vec::new();
    for pod in ["polite", "stubborn"] {
        ns.wait_object(&format!("pod/{pod}"), "ready", |p| p["status"]["containerStatuses"][0]["ready"] == true).await;
        pids.push(kubelet.running(pod, "c").unwrap().pid);
        ns.kubectl(&["delete", "pod", pod, "--wait=false"]).await.unwrap();
        ns.wait_gone(&format!("pod/{pod}")).await;
        assert!(kubelet.running(pod, "c").is_none());
    }
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "hook\nterm\n");
    for pid in pids {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(command.is_empty(), "process {pid} is left: {}", String::from_utf8_lossy(&command));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_limits_are_told_to_a_pod_and_an_init_container_comes_first() {
    let ns = Namespace::new("env").await;
    let kubelet = Kubelet::start(&ns, &[("shell", Image::program(Path::new("/bin/sh")))], &[]).await;
    ns.apply("apiVersion: v1\nkind: Service\nmetadata: {name: my-svc}\nspec: {clusterIP: 10.0.77.7, ports: [{name: web, port: 80}]}\n")
        .await
        .unwrap();
    let spec = "resources: {limits: {memory: 64Mi, cpu: 1500m}}
      env:
        - {name: MIB, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
        - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
        - {name: OF, value: 'pod $(IP)'}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: SAME, value: '$(IP)'}
      command: [sh, -c, 'cat /work/first; echo $MIB $CPUS $OF $SAME $MY_SVC_SERVICE_HOST $MY_SVC_PORT $MY_SVC_SERVICE_PORT_WEB; exec sleep 1000']
  initContainers:
    - name: init
      image: shell
      volumeMounts: [{name: work, mountPath: /work}]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      command: [sh, -c, 'echo init > /work/first']";
    ns.apply(&shell_pod("env", "shell", spec)).await.unwrap();
    let ip = kubelet.address("env");
    let expected = format!("init\n64 2 pod $(IP) {ip} 10.0.77.7 tcp://10.0.77.7:80 80\n");
    wait_until("it printed its variables", READY_DEADLINE, async || {
        let log = kubelet.log("env", "c");
        assert!(log.is_empty() || expected.starts_with(&log), "{log}");
        log == expected
    })
    .await;
}
