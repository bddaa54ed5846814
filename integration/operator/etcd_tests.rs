//! Managed etcd on Kubernetes: real members behind the pods of the operator's objects.

use super::control_plane::wait_for;
use super::kubelet::{Image, Kubelet};
use super::namespace::{NODES, Namespace, label_pods};
use crate::harness::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY, TestDir, tool};
use kafscale::clock::Clock;
use kafscale::config::Component;
use kafscale::config::operator::{self, OperatorConfig};
use kafscale::metrics::Metrics;
use kafscale::operator::crd::status::Finding;
use kafscale::operator::crd::{self, KafscaleCluster};
use kafscale::operator::etcd::metrics::EtcdMetrics;
use kafscale::operator::etcd::{self, EtcdKeeper, api};
use kafscale::operator::snapshot::access;
use kafscale::operator::snapshot::state::Access;
use kafscale::operator::snapshot::{self, SnapshotSettings};
use kafscale::operator::view::ClusterView;
use kube::api::DynamicObject;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

/// A cluster with managed etcd, the processes behind its pods, and what looks after it in an operator.
pub struct Managed {
    /// Where it is.
    pub ns: Namespace,
    /// The processes.
    pub kubelet: Kubelet,
    /// The bucket.
    pub s3: S3Server,
    /// The resource as the API server has it.
    pub resource: KafscaleCluster,
    /// The operator's configuration.
    pub defaults: OperatorConfig,
    /// Looks after etcd.
    pub keeper: EtcdKeeper,
    /// What an operator shows of it.
    pub metrics: Metrics,
    /// How far the operator's clock is ahead, ms.
    pub ahead_ms: &'static AtomicI64,
}

impl Managed {
    /// Makes the resource and everything that it needs; etcd is not there yet. `spec` are further lines of the spec.
    pub async fn new(test: &str, spec: &str) -> Self {
        let ns = Namespace::new(test).await;
        let s3 = S3Server::start(ns.dir()).await;
        for definition in crd::definitions() {
            ns.plane().apply(&crd::yaml(&definition)).await.expect("the definition can be made");
        }
        ns.plane()
            .kubectl(&["wait", "--for=condition=Established", "crd/kafscaleclusters.kafscale.io", "--timeout=60s"])
            .await
            .expect("the definition is established");
        label_pods(&ns, "kafscale.io/cluster", "demo").await;
        let endpoint = format!("http://{}", s3.address());
        let yaml = format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: s3-keys}}
stringData: {{KAFSCALE_S3_ACCESS_KEY: {ACCESS_KEY}, KAFSCALE_S3_SECRET_KEY: {SECRET_KEY}}}
---
apiVersion: kafscale.io/v1alpha1
kind: KafscaleCluster
metadata: {{name: demo}}
spec:
  s3: {{bucket: {BUCKET}, region: {REGION}, endpoint: '{endpoint}', credentialsSecretRef: s3-keys, namespace: test}}
{spec}"
        );
        wait_for("the resource is made", async || ns.apply(&yaml).await).await;
        let got = ns.get("kafscalecluster/demo").await.expect("it was made");
        let resource = serde_json::from_value(got).expect("it is one");
        let images = [
            ("quay.io/coreos/etcd:v3.5.12", Image::program(&tool("etcd"))),
            ("kafscale:test", Image::kafscale()),
            ("amazon/aws-cli:2.15.0", Self::aws()),
        ];
        let mut images: Vec<(&str, Image)> = images.into();
        images.retain(|(_, image)| image.program.exists());
        let kubelet = Kubelet::start(&ns, &images, &Self::replacements(ns.name())).await;
        let metrics = Metrics::new();
        // The kubelet puts addresses where names of pods are.
        let addresses = [0, 1, 2].map(|n| kubelet.address(&format!("demo-etcd-{n}")));
        let ahead_ms: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(0)));
        let clock = Clock::simulated(Clock::system().wall_ms()).shifted(ahead_ms);
        let keeper = EtcdKeeper::new(ns.client().await, clock, EtcdMetrics::register(&metrics))
            .with_peer_urls(move |_, n| format!("http://{}:2380", addresses[n as usize]));
        let command = Component::Operator.command().mut_args(|argument| argument.env(None::<&str>));
        let arguments = ["operator", "--operator-broker-image=kafscale:test", "--operator-pod-name=operator-0"];
        let matches = command.try_get_matches_from(arguments).expect("flags are known");
        let defaults = operator::resolve(&matches, &Vec::new()).outcome.expect("flags are valid");
        Self { ns, kubelet, s3, resource, defaults, keeper, metrics, ahead_ms }
    }

    /// The image with the AWS command line: a shell, and `aws` where it finds it.
    fn aws() -> Image {
        let path = std::env::var("PATH").expect("there is a PATH");
        let folder = tool("aws").parent().expect("it is in a folder").display().to_string();
        Image { envs: vec![("PATH".to_owned(), format!("{folder}:{path}"))], ..Image::program(&tool("aws")) }
    }

    /// What stands for the Service of clients: the first member.
    fn replacements(namespace: &str) -> [(&'static str, String); 1] {
        let service: &'static str = Box::leak(format!("demo-etcd-client.{namespace}.svc").into_boxed_str());
        [(service, format!("demo-etcd-0.demo-etcd.{namespace}.svc"))]
    }

    /// As builders see it.
    pub fn view(&self) -> ClusterView<'_> {
        ClusterView { resource: &self.resource, defaults: &self.defaults }
    }

    /// Applies objects as YAML; unknown fields and wrong types are errors.
    pub async fn apply(&self, objects: &[DynamicObject]) {
        for object in objects {
            let yaml = serde_json::to_string(object).expect("an object is plain data");
            self.ns.apply(&yaml).await.unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        }
    }

    /// Starts etcd, and waits until all members serve.
    pub async fn start(&self) {
        self.keeper.observe(&self.view(), false).await;
        self.apply(&etcd::objects(&self.view())).await;
        self.wait_finding("QuorumHealthy").await;
    }

    /// Looks again and again, as an operator does, until etcd is said to be so.
    pub async fn wait_finding(&self, reason: &str) -> Finding {
        wait_for(&format!("etcd is {reason}"), async || {
            let report = self.keeper.observe(&self.view(), false).await;
            let finding = report.finding;
            if finding.reason == reason { Ok(finding) } else { Err(format!("{finding:?} {:?}", report.error)) }
        })
        .await
    }

    /// URL of a member for clients.
    pub fn member(&self, ordinal: u32) -> String {
        format!("http://{}:2379", self.kubelet.address(&format!("demo-etcd-{ordinal}")))
    }

    /// URLs of all members, as brokers are told them.
    pub fn endpoints(&self) -> String {
        [0, 1, 2].map(|n| self.member(n)).join(",")
    }

    /// `etcdctl` with one member.
    pub fn etcdctl(&self, ordinal: u32, arguments: &[&str]) -> String {
        let output = std::process::Command::new(tool("etcdctl"))
            .arg(format!("--endpoints={}", self.member(ordinal)))
            .args(arguments)
            .output()
            .expect("etcdctl can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Data of a ConfigMap.
    pub async fn config_map(&self, name: &str) -> BTreeMap<String, String> {
        let map = self.ns.get(&format!("configmap/{name}")).await.expect("it is there");
        serde_json::from_value(map["data"].clone()).expect("data are texts")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_loses_its_volume_joins_anew_and_one_that_is_restarted_stays_who_it_is() {
    let managed = Managed::new("etcd-member", "").await;
    managed.start().await;
    assert_eq!(managed.config_map("demo-etcd-state").await["phase"], "Formed");
    managed.etcdctl(0, &["put", "a", "b"]);
    let id_of = |name: &str| {
        let list = managed.etcdctl(0, &["member", "list"]);
        let line = list.lines().find(|line| line.contains(name)).map(str::to_owned);
        line.and_then(|line| line.split(',').next().map(str::to_owned)).unwrap_or_default()
    };
    let (before, other) = (id_of("demo-etcd-1"), id_of("demo-etcd-2"));

    // Restarted with its data: nothing changes, although its initial cluster says nothing any more.
    managed.ns.kubectl(&["delete", "pod", "demo-etcd-1"]).await.unwrap();
    managed.wait_finding("QuorumHealthy").await;
    assert_eq!(id_of("demo-etcd-1"), before);

    // The volume is lost, while no node takes the next pod.
    for n in 0..NODES {
        managed.ns.plane().kubectl(&["cordon", &managed.ns.node(n)]).await.unwrap();
    }
    managed.ns.kubectl(&["delete", "pvc", "data-demo-etcd-1", "--wait=false"]).await.unwrap();
    let old = managed.ns.get("pod/demo-etcd-1").await.unwrap()["metadata"]["uid"].clone();
    managed.ns.kubectl(&["delete", "pod", "demo-etcd-1"]).await.unwrap();
    let is_new = |pod: &serde_json::Value| pod["metadata"]["uid"] != old;
    managed.ns.wait_object("pod/demo-etcd-1", "made again", is_new).await;
    std::fs::remove_dir_all(managed.ns.dir().join("claims/data-demo-etcd-1")).expect("the volume can be removed");
    for n in 0..NODES {
        managed.ns.uncordon(&managed.ns.node(n)).await;
    }
    let replaced = wait_for("the member is replaced", async || {
        managed.ahead_ms.fetch_add(30_000, Ordering::Relaxed);
        let report = managed.keeper.observe(&managed.view(), false).await;
        let id = id_of("demo-etcd-1");
        match report.finding.reason {
            "QuorumHealthy" if !id.is_empty() && id != before => Ok(id),
            _ => Err(format!("{report:?}, member {id}, log {}", managed.kubelet.log("demo-etcd-1", "etcd"))),
        }
    })
    .await;
    assert_ne!(replaced, before, "a new member, not the old one without its memory");
    assert_eq!(id_of("demo-etcd-2"), other, "the others stay who they are");
    assert_eq!(managed.etcdctl(1, &["get", "a", "--print-value-only"]), "b\n");
    assert_eq!(managed.config_map("demo-etcd-state").await["phase"], "Formed", "the door is shut again");
    let shown = managed.metrics.render().unwrap();
    assert!(shown.contains("kafscale_operator_etcd_members_healthy"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_without_space_gets_it_back() {
    let quota = "  etcd: {managed: {quotaBytes: 67108864}}\n";
    let managed = Managed::new("etcd-space", quota).await;
    managed.start().await;
    // One key all the time: it is the history that takes the space.
    let file = managed.ns.dir().join("value");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let fill = || {
        std::process::Command::new(tool("etcdctl"))
            .arg(format!("--endpoints={}", managed.member(0)))
            .args(["put", "filler"])
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
            .expect("etcdctl can be run")
    };
    let mut refused = String::new();
    for _ in 0..200 {
        let output = fill();
        if !output.status.success() {
            refused = String::from_utf8_lossy(&output.stderr).into_owned();
            break;
        }
    }
    assert!(refused.contains("database space exceeded"), "{refused}");
    managed.wait_finding("QuorumHealthy").await;
    assert!(fill().status.success(), "it takes writes again");
}

fn settings(address: &str, bucket: &str) -> SnapshotSettings {
    SnapshotSettings {
        bucket: bucket.to_owned(),
        prefix: "etcd-snapshots/shop/demo".to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(format!("http://{address}")),
        path_style: true,
        kms_key_arn: None,
        secret: None,
        schedule: "0 * * * *".to_owned(),
        stale_after: std::time::Duration::from_secs(7200),
        retention_days: 14,
        create_bucket: false,
        protect_bucket: false,
        skip_preflight: false,
    }
}

#[tokio::test]
async fn the_preflight_writes_one_object_and_says_what_is_wrong() {
    let dir = TestDir::new("preflight");
    let server = S3Server::start(dir.path()).await;
    let keys = |secret: &str| {
        let (access_key, secret_key) = (ACCESS_KEY.to_owned(), secret.to_owned());
        Some(kafscale::storage::s3::StaticCredentials { access_key, secret_key, session_token: None })
    };
    let good = settings(&server.address(), BUCKET);
    for _ in 0..2 {
        assert_eq!(access::attempt(&good, keys(SECRET_KEY)).await, Access::Fine);
    }
    let written: Vec<String> = server.objects().into_iter().map(|(key, _)| key).collect();
    assert_eq!(written, ["etcd-snapshots/shop/demo/.preflight"]);
    let reason = |access: Access| match access {
        Access::Failing { reason, message } => (reason, message),
        other => panic!("{other:?}"),
    };
    let (code, message) = reason(access::attempt(&good, keys("wrong")).await);
    assert!(code == "PreflightRefused" && message.contains("KAFSCALE_S3_SECRET_KEY"), "{message}");
    let absent = settings(&server.address(), "absent-bucket");
    let (code, message) = reason(access::attempt(&absent, keys(SECRET_KEY)).await);
    assert!(code == "PreflightRefused" && message.contains("createBucket"), "{message}");
    let made = SnapshotSettings { create_bucket: true, protect_bucket: true, ..absent };
    for _ in 0..2 {
        assert_eq!(access::attempt(&made, keys(SECRET_KEY)).await, Access::Fine, "made, then found");
    }
    let (code, _) = reason(access::attempt(&settings("127.0.0.1:1", BUCKET), keys(SECRET_KEY)).await);
    assert_eq!(code, "PreflightFailed");
    assert!(snapshot::SCRIPT.starts_with("#!/bin/sh"));
    let (seen, refusal) = api::look(&BTreeMap::new(), None).await;
    assert!(seen.listed.is_none() && refusal.is_some());
}
