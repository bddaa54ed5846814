//! A namespace with the operator in it, with the rights that the chart gives it and no others, and the services around it: etcd, S3,
//! and either real brokers behind pods or pods that kwok plays.

use super::control_plane::wait_for;
use super::kubelet::{Image, Kubelet};
use super::namespace::{Namespace, label_pods};
use super::rights::Rights;
use crate::harness::{
    ACCESS_KEY, BUCKET, Etcd, READY_DEADLINE, REGION, S3Server, SECRET_KEY, binary, http, tool, wait_until,
};
use crate::process::{Process, free_port};
use kafscale::operator::crd;
use serde_json::Value;

/// The image of brokers.
pub const IMAGE: &str = "kafscale:test";
/// The same program under another name.
pub const NEXT_IMAGE: &str = "kafscale:next";
/// An image whose program ends at once.
pub const BROKEN_IMAGE: &str = "kafscale:broken";

/// The image of managed etcd that operators take by default.
pub const ETCD_IMAGE: &str = "quay.io/coreos/etcd:v3.5.12";
/// The same of what uploads snapshots.
pub const AWS_IMAGE: &str = "amazon/aws-cli:2.15.0";

/// An operator's process.
#[derive(Debug)]
pub struct Operator {
    /// It.
    pub process: Process,
    metrics: String,
}

impl Operator {
    /// 1 if it says that it leads.
    pub async fn leads(&self) -> bool {
        self.metric("kafscale_operator_leader").await == Some(1.0)
    }

    /// A gauge or counter without labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = http("GET", &self.metrics, "/metrics", "").await.ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1)?.parse().ok()
    }

    /// Everything that it shows.
    pub async fn metrics(&self) -> String {
        http("GET", &self.metrics, "/metrics", "").await.unwrap_or_default()
    }

    /// Waits until `/readyz` is fine.
    pub async fn wait_ready(&mut self) {
        let metrics = self.metrics.clone();
        wait_until("the operator is ready", READY_DEADLINE, async || {
            assert_eq!(self.process.exited(), None, "it ended: {}", self.process.log_tail());
            http("GET", &metrics, "/readyz", "").await.is_ok()
        })
        .await;
    }
}

/// See the module's documentation.
pub struct World {
    /// The namespace.
    pub ns: Namespace,
    /// Etcd of the clusters.
    pub etcd: Etcd,
    /// Their bucket.
    pub s3: S3Server,
    /// What runs brokers, if they are real.
    pub kubelet: Option<Kubelet>,
    /// What the operators may do.
    pub rights: Rights,
    operators: u32,
}

impl World {
    /// With brokers that are real processes.
    pub async fn real(test: &str) -> Self {
        let mut world = Self::played(test).await;
        label_pods(&world.ns, "app.kubernetes.io/component", "broker").await;
        let broken = Image::program(std::path::Path::new("/bin/false"));
        let images = [(IMAGE, Image::kafscale()), (NEXT_IMAGE, Image::kafscale()), (BROKEN_IMAGE, broken)];
        world.kubelet = Some(Kubelet::start(&world.ns, &images, &[]).await);
        world
    }

    /// With brokers, members of managed etcd, and jobs of snapshots that are real processes.
    pub async fn managed(test: &str) -> Self {
        let mut world = Self::played(test).await;
        label_pods(&world.ns, "kafscale.io/cluster", "orders").await;
        let etcd = Image { keeps_names: true, ..Image::program(&tool("etcd")) };
        // A shell, and `aws` where it finds it.
        let path = std::env::var("PATH").expect("there is a PATH");
        let folder = tool("aws").parent().expect("it is in a folder").display().to_string();
        let aws = Image { envs: vec![("PATH".to_owned(), format!("{folder}:{path}"))], ..Image::program(&tool("aws")) };
        let images = [(IMAGE, Image::kafscale()), (ETCD_IMAGE, etcd), (AWS_IMAGE, aws)];
        world.kubelet = Some(Kubelet::with_names(&world.ns, &images).await);
        world
    }

    /// With pods that are ready at once and behind which nobody answers.
    pub async fn played(test: &str) -> Self {
        Self::installed(test, "").await
    }

    /// The same, with the rights that the chart gives with these values.
    pub async fn installed(test: &str, values: &str) -> Self {
        let ns = Namespace::new(test).await;
        let definitions = crd::definitions().each_ref().map(crd::yaml).join("---\n");
        wait_for("the definitions", async || ns.plane().apply(&definitions).await).await;
        let (etcd, s3) = (Etcd::start(ns.dir()).await, S3Server::start(ns.dir()).await);
        let rights = Rights::of_chart(&ns, values).await;
        Self { ns, etcd, s3, kubelet: None, rights, operators: 0 }
    }

    /// Makes the secret that clusters name.
    pub async fn make_secret(&self) {
        self.make_secret_in(&self.ns).await;
    }

    /// The same in another namespace.
    pub async fn make_secret_in(&self, namespace: &Namespace) {
        let access = format!("--from-literal=KAFSCALE_S3_ACCESS_KEY={ACCESS_KEY}");
        let secret = format!("--from-literal=KAFSCALE_S3_SECRET_KEY={SECRET_KEY}");
        namespace.kubectl(&["create", "secret", "generic", "s3", &access, &secret]).await.expect("a secret");
    }

    /// Starts an operator. With `with_etcd` clusters that name no etcd get this world's, and the election is there.
    pub async fn operator(&mut self, with_etcd: bool) -> Operator {
        self.operator_with(with_etcd, &[]).await
    }

    /// The same, with more variables.
    pub async fn operator_with(&mut self, with_etcd: bool, more: &[(&str, String)]) -> Operator {
        let metrics = format!("127.0.0.1:{}", free_port());
        let name = format!("operator-{}", self.operators);
        self.operators += 1;
        let mut envs = vec![
            ("KUBECONFIG".to_owned(), self.rights.kubeconfig().display().to_string()),
            ("KAFSCALE_OPERATOR_BROKER_IMAGE".to_owned(), IMAGE.to_owned()),
            ("KAFSCALE_OPERATOR_METRICS_ADDR".to_owned(), metrics.clone()),
            ("KAFSCALE_OPERATOR_POD_NAME".to_owned(), name.clone()),
            ("KAFSCALE_OPERATOR_NAMESPACE".to_owned(), self.ns.name().to_owned()),
        ];
        if with_etcd {
            envs.push(("KAFSCALE_OPERATOR_ETCD_ENDPOINTS".to_owned(), self.etcd.endpoint()));
        }
        envs.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let log = self.ns.dir().join(format!("{name}.log"));
        let args = ["operator".to_owned()];
        let (program, args) = match &self.kubelet {
            Some(kubelet) => kubelet.wrap(&binary(), &args),
            None => (binary(), args.to_vec()),
        };
        let process = Process::spawn(&name, &program, &args, &envs, &log);
        let mut operator = Operator { process, metrics };
        operator.wait_ready().await;
        operator
    }

    /// A cluster whose spec has `more` in it.
    pub fn cluster(&self, name: &str, replicas: u32, more: &str) -> String {
        format!(
            "apiVersion: kafscale.io/v1alpha1
kind: KafscaleCluster
metadata: {{name: {name}}}
spec:
  brokers: {{replicas: {replicas}}}
  s3: {{bucket: {BUCKET}, region: {REGION}, endpoint: 'http://{}', credentialsSecretRef: s3}}
  config: {{flushIntervalMs: 20, brokerLeaseSec: 30}}
  {more}
",
            self.s3.address()
        )
    }

    /// Changes a cluster by a merge patch, written as YAML or JSON.
    pub async fn patch(&self, cluster: &str, patch: &str) {
        let args = ["patch", "kafscalecluster", cluster, "--type=merge", "-p", patch];
        self.ns.kubectl(&args).await.expect("the patch is right");
    }

    /// Waits until a condition of a cluster has this status and reason.
    pub async fn wait_condition(&self, cluster: &str, kind: &str, status: &str, reason: &str) -> Value {
        let object = format!("kafscalecluster/{cluster}");
        let what = format!("{kind} is {status}: {reason}");
        self.ns.wait_object(&object, &what, |found| condition(found, kind) == Some((status, reason))).await
    }

    /// Waits until nothing is under way and all brokers serve with the image.
    pub async fn wait_rolled(&self, cluster: &str, replicas: usize, image: &str) {
        let object = format!("kafscalecluster/{cluster}");
        self.ns
            .wait_object(&object, "all brokers serve and nothing is under way", |found| {
                found["status"]["observedGeneration"] == found["metadata"]["generation"]
                    && condition(found, "Ready") == Some(("True", "Serving"))
                    && condition(found, "Progressing").is_some_and(|(status, _)| status == "False")
                    && found["status"]["replicas"] == replicas
            })
            .await;
        let images = self.images().await;
        assert_eq!(images, vec![image; replicas]);
    }

    /// The images of all broker pods.
    pub async fn images(&self) -> Vec<String> {
        let path = "jsonpath={.items[*].spec.containers[0].image}";
        let args = ["get", "pods", "-l", "app.kubernetes.io/component=broker", "-o", path];
        let text = self.ns.kubectl(&args).await.expect("pods can be listed");
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Uids of all broker pods, by ordinal.
    pub async fn uids(&self, cluster: &str, replicas: u32) -> Vec<String> {
        let mut uids = Vec::new();
        for n in 0..replicas {
            let pod = self.ns.get(&format!("pod/{cluster}-broker-{n}")).await.expect("the pod is there");
            uids.push(pod["metadata"]["uid"].as_str().expect("a pod has a uid").to_owned());
        }
        uids
    }

    /// Where brokers listen.
    pub fn addresses(&self, cluster: &str, replicas: u32) -> Vec<String> {
        let kubelet = self.kubelet.as_ref().expect("brokers are real");
        (0..replicas).map(|n| format!("{}:9092", kubelet.address(&format!("{cluster}-broker-{n}")))).collect()
    }

    /// Reasons of the events about a cluster.
    pub async fn events(&self, cluster: &str) -> Vec<String> {
        let path = "jsonpath={.items[*].reason}";
        let about = format!("--field-selector=involvedObject.name={cluster}");
        let text = self.ns.kubectl(&["get", "events", &about, "-o", path]).await.unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// Status and reason of a condition.
pub fn condition<'a>(found: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let list = found["status"]["conditions"].as_array()?;
    let one = list.iter().find(|one| one["type"] == kind)?;
    Some((one["status"].as_str()?, one["reason"].as_str()?))
}
