//! The console as the chart runs it: the Deployment that Helm renders, on a real API server, with the real program behind its pod,
//! beside brokers that the operator made.

use super::kubelet::{Image, Kubelet};
use super::namespace::label_pods;
use super::policies::{Side, is_about, lets};
use super::world::{IMAGE, World};
use crate::chart::helm::Render;
use crate::console::browser::{Browser, until};
use crate::harness::{binary, quiet, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

/// Brokers.
const BROKERS: u32 = 2;
const LOGIN: (&str, &str) = ("ann", "correct horse battery");
const NEXT_LOGIN: (&str, &str) = ("bea", "another one");
/// What the chart's console has its image from.
const DEPLOYMENT: &str = "deployment/kafscale-console";
const DEADLINE: Duration = Duration::from_secs(60);

impl World {
    /// With brokers and a console that are real processes.
    async fn with_console(test: &str) -> Self {
        let mut world = Self::played(test).await;
        label_pods(&world.ns, "app.kubernetes.io/part-of", "kafscale").await;
        world.kubelet = Some(Kubelet::start(&world.ns, &[(IMAGE, Image::kafscale())], &[]).await);
        world
    }

    /// Applies what the chart has of the console, with these values, and waits for its pod; its name.
    async fn install_console(&self, values: &str) -> String {
        let rendered = Render::new().release("kafscale", self.ns.name()).values(values).set("crds.install=false");
        let is_its = |one: &&Value| {
            one["metadata"]["labels"]["app.kubernetes.io/component"] == "console"
                && one["metadata"]["annotations"]["helm.sh/hook"].is_null()
        };
        let manifests: Vec<Value> = rendered.manifests().iter().filter(is_its).cloned().collect();
        let deployment = manifests.iter().find(|one| one["kind"] == "Deployment").expect("there is one");
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image");
        // Nothing but the program: where it listens and whatever else it needs, it has from the chart.
        self.kubelet.as_ref().expect("it is real").set_image(image, Image::program(&binary()));
        let yaml: Vec<String> = manifests.iter().map(Value::to_string).collect();
        self.ns.apply(&yaml.join("\n---\n")).await.expect("the API server takes it");
        self.documented(&format!("rollout status {DEPLOYMENT} --timeout=90s")).await;
        let path = "jsonpath={.items[?(@.status.phase==\"Running\")].metadata.name}";
        let pods = ["get", "pods", "-l", "app.kubernetes.io/component=console", "-o", path];
        let mut name = String::new();
        wait_until("one pod of the console is left", DEADLINE, async || {
            name = self.ns.kubectl(&pods).await.unwrap_or_default();
            !name.is_empty() && !name.contains(' ')
        })
        .await;
        name
    }

    /// One who has forwarded a port to the pod (`kubectl port-forward`), so that it is called by the name of the own machine.
    fn browser(&self, pod: &str) -> Browser {
        let address = self.kubelet.as_ref().expect("it is real").address(pod);
        Browser { host: "127.0.0.1:8080".to_owned(), ..Browser::new(&format!("{address}:8080")) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_console_shows_the_operators_cluster() {
    let _quiet = quiet().await;
    let mut world = World::with_console("console").await;
    world.make_secret().await;
    let _operator = world.operator(true).await;
    // Only the shop's pods may reach the brokers, besides those of Kafscale itself.
    let shop = "[{podSelector: {matchLabels: {app: shop}}}]";
    let policy = format!("networkPolicy: {{enabled: true, kafkaPeers: {shop}, metricsPeers: {shop}}}");
    world.ns.apply(&world.cluster("orders", BROKERS, &policy)).await.unwrap();
    let topic = "apiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {name: shop}\nspec: {clusterRef: orders, partitions: 6}\n";
    world.ns.apply(topic).await.unwrap();
    world.wait_rolled("orders", BROKERS as usize, IMAGE).await;

    // As the guide has it: etcd of the operator, a secret of one's own for the login.
    let (name, password) = LOGIN;
    let (name, password) = (
        format!("--from-literal=KAFSCALE_UI_USERNAME={name}"),
        format!("--from-literal=KAFSCALE_UI_PASSWORD={password}"),
    );
    world.ns.kubectl(&["create", "secret", "generic", "kafscale-console-login", &name, &password]).await.unwrap();
    let endpoint = world.etcd.endpoint();
    let port: u64 = endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let values = |auth: &str| {
        format!(
            "operator: {{etcdEndpoints: ['{endpoint}']}}
networkPolicy: {{enabled: true, etcdPorts: [{port}]}}
console:
  auth: {auth}
  brokerMetricsUrl: http://orders-broker-0.orders-broker-headless.{}.svc:9093/metrics
",
            world.ns.name()
        )
    };
    let pod = world.install_console(&values("{existingSecret: kafscale-console-login}")).await;
    let mut ann = world.browser(&pod);
    assert_eq!(ann.get("/api/v1/overview").await.status, 401);
    assert_eq!(ann.login(LOGIN.0, "wrong").await.status, 401);
    assert_eq!(ann.login(LOGIN.0, LOGIN.1).await.status, 200);
    let is_well = |o: &Value| {
        let is_known = o["rates"]["bytes_in_per_sec"].is_number() && o["partial"] == json!([]);
        is_known && o["health"]["level"] == "ok" && o["topics"] == 1
    };
    let overview = until(&ann, "everything of the cluster is known", "/overview", is_well).await;
    assert_eq!(overview["brokers"], json!({"total": BROKERS, "live": BROKERS, "draining": 0}));
    assert_eq!(overview["partitions"], 6);
    assert_eq!((&overview["etcd"]["state"], &overview["s3"]["state"]), (&json!("healthy"), &json!("healthy")));
    let brokers = ann.api("/brokers").await;
    let items = brokers["items"].as_array().unwrap();
    assert!(items.iter().all(|b| b["metrics"] == "ok" && b["control"] == "ok"), "{brokers}");
    let topics = ann.api("/topics").await;
    assert_eq!(topics["items"][0]["name"], "shop", "{topics}");

    // It reaches brokers on all of their ports, also where only some may.
    let policies =
        [world.ns.get("networkpolicy/kafscale-console").await, world.ns.get("networkpolicy/orders-broker").await];
    let [console_policy, broker_policy] = policies.map(|policy| policy.expect("it is there"));
    let (console, broker) =
        (world.ns.get(&format!("pod/{pod}")).await.unwrap(), world.ns.get("pod/orders-broker-1").await.unwrap());
    assert!(is_about(&console_policy, &console) && is_about(&broker_policy, &broker));
    for port in [9092, 9093, 9094] {
        assert!(lets(&console_policy, Side::Egress, &broker, port), "{port}: {console_policy}");
        assert!(lets(&broker_policy, Side::Ingress, &console, port), "{port}: {broker_policy}");
    }
    let mut stranger = console.clone();
    stranger["metadata"]["labels"] = json!({"app": "stranger"});
    assert_eq!([9092, 9093, 9094].map(|port| lets(&broker_policy, Side::Ingress, &stranger, port)), [false; 3]);
    assert!(lets(&console_policy, Side::Egress, &stranger, port), "etcd may be anywhere");
    assert!(!lets(&console_policy, Side::Egress, &stranger, 443), "it needs neither Kubernetes nor S3");
    assert!(lets(&console_policy, Side::Ingress, &stranger, 8080), "who opens it has to sign in");
    assert_eq!(console["spec"]["automountServiceAccountToken"], false);

    // A change goes through to a broker's control plane.
    let accepted = ann.post("/brokers/1/drain", &json!({"confirm": "1"})).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    until(&ann, "it is drained", "/brokers/1/drain", |d| d["state"] == "drained").await;
    assert_eq!(ann.post("/brokers/1/undrain", &json!({})).await.status, 200);

    // Another login, this time in a secret of the chart's: other pods.
    let next =
        world.install_console(&values(&format!("{{username: {}, password: {}}}", NEXT_LOGIN.0, NEXT_LOGIN.1))).await;
    assert_ne!(next, pod);
    let mut bea = world.browser(&next);
    assert_eq!(bea.login(LOGIN.0, LOGIN.1).await.status, 401);
    assert_eq!(bea.login(NEXT_LOGIN.0, NEXT_LOGIN.1).await.status, 200);
    until(&bea, "everything of the cluster is known", "/overview", is_well).await;
}
