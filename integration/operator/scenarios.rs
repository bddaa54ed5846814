//! The operator in the life of a cluster.

use super::control_plane::{kubectl, run, wait_for};
use super::namespace::Namespace;
use super::world::{BROKEN_IMAGE, IMAGE, NEXT_IMAGE, World, condition};
use crate::harness::{READY_DEADLINE, SECRET_KEY, quiet, wait_until};
use crate::workload::{Plan, Workload};
use std::collections::BTreeSet;
use std::time::Duration;

async fn load(world: &World, replicas: u32) -> Workload {
    let plan = Plan { partitions: 6, producers: 6, pause: Duration::from_millis(50), ..Plan::new("ledger", 1) };
    let load = Workload::start_on(&world.addresses("orders", replicas), plan).await;
    load.wait_acks(20).await;
    load
}

/// A cluster of three brokers that serves, with its operator.
async fn serving(test: &str, more: &str) -> (World, super::world::Operator) {
    let mut world = World::real(test).await;
    world.make_secret().await;
    let operator = world.operator(true).await;
    world.ns.apply(&world.cluster("orders", 3, more)).await.unwrap();
    world.wait_rolled("orders", 3, IMAGE).await;
    (world, operator)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_defaults() {
    let _quiet = quiet().await;
    let (world, mut operator) = serving("install", "").await;
    let cluster = world.ns.get("kafscalecluster/orders").await.unwrap();
    let status = &cluster["status"];
    assert_eq!(status["readyReplicas"], 3);
    assert_eq!(status["brokersReady"], "3/3");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["etcd"]["mode"], "Operator");
    assert_eq!(status["bootstrapServers"], format!("orders-broker.{}.svc:9092", world.ns.name()));
    let states: Vec<&str> =
        status["brokers"].as_array().unwrap().iter().map(|b| b["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Serving"; 3]);
    for (kind, wanted) in
        [("SecretsReady", "True"), ("EtcdAvailable", "True"), ("S3Access", "True"), ("Degraded", "False")]
    {
        assert_eq!(condition(&cluster, kind).map(|(status, _)| status), Some(wanted), "{kind}");
    }
    world.ns.wait_object("pdb/orders-broker", "one may go", |b| b["status"]["disruptionsAllowed"] == 1).await;
    let load = load(&world, 3).await;
    load.finish().await.assert_clean();
    let topic = format!(
        "apiVersion: kafscale.io/v1alpha1
kind: KafscaleTopic
metadata: {{name: shop, namespace: {}}}
spec: {{clusterRef: orders, partitions: 6, retentionMs: 60000, deletionPolicy: Delete}}
",
        world.ns.name()
    );
    world.ns.apply(&topic).await.unwrap();
    let live = |topic: &serde_json::Value| {
        condition(topic, "Ready").is_some_and(|(status, _)| status == "True") && topic["status"]["partitions"] == 6
    };
    world.ns.wait_object("kafscaletopic/shop", "the topic is live", live).await;
    world.ns.kubectl(&["delete", "kafscaletopic", "shop", "--wait=true", "--timeout=60s"]).await.unwrap();
    let shown = operator.metrics().await;
    for line in ["kafscale_operator_leader 1.0", "kafscale_operator_clusters 1.0"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let ready = format!(
        "kafscale_cluster_condition{{namespace=\"{}\",name=\"orders\",type=\"Ready\",status=\"True\"}} 1.0",
        world.ns.name()
    );
    assert!(shown.contains(&ready), "{shown}");
    operator.process.signal(libc::SIGTERM);
    assert!(operator.process.wait_exit(READY_DEADLINE).await.success(), "{}", operator.process.log_tail());
    // What belongs to it goes with it; nothing waits for an operator.
    world.ns.kubectl(&["delete", "kafscalecluster", "orders", "--wait=true", "--timeout=60s"]).await.unwrap();
    world.ns.wait_gone("statefulset/orders-broker").await;
    world.ns.wait_gone("service/orders-broker-headless").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_corrected() {
    let mut world = World::played("drift").await;
    world.make_secret().await;
    let _operator = world.operator(true).await;
    world.ns.apply(&world.cluster("orders", 3, "")).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "three pods", |s| s["status"]["replicas"] == 3).await;
    let map = world.ns.get("statefulset/orders-broker").await.unwrap()["spec"]["template"]["spec"]["containers"][0]
        ["envFrom"][0]["configMapRef"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    for object in
        ["service/orders-broker", "pdb/orders-broker", "networkpolicy/orders-broker", &format!("configmap/{map}")]
    {
        let before = world.ns.get(object).await.unwrap()["metadata"]["uid"].clone();
        world.ns.kubectl(&["delete", object]).await.unwrap();
        wait_for(&format!("another {object}"), async || {
            let found = world.ns.get(object).await?;
            if found["metadata"]["uid"] == before { Err(String::new()) } else { Ok(()) }
        })
        .await;
    }
    let merge = async |object: &str, patch: &str| {
        world.ns.kubectl(&["patch", object, "--type=merge", "-p", patch]).await.unwrap();
    };
    merge("pdb/orders-broker", r#"{"spec":{"maxUnavailable":3}}"#).await;
    world.ns.wait_object("pdb/orders-broker", "as it was", |b| b["spec"]["maxUnavailable"] == 1).await;
    merge("statefulset/orders-broker", r#"{"spec":{"replicas":5}}"#).await;
    world.ns.wait_object("statefulset/orders-broker", "as it was", |s| s["spec"]["replicas"] == 3).await;
    // What the operator does not say is not its.
    merge("service/orders-broker", r#"{"metadata":{"annotations":{"mine":"stays"}},"spec":{"type":"NodePort"}}"#).await;
    let service =
        world.ns.wait_object("service/orders-broker", "as it was", |s| s["spec"]["type"] == "ClusterIP").await;
    assert_eq!(service["metadata"]["annotations"]["mine"], "stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_unpause() {
    let mut world = World::played("pause").await;
    world.make_secret().await;
    let _operator = world.operator(true).await;
    world.ns.apply(&world.cluster("orders", 3, "")).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "three pods", |s| s["status"]["replicas"] == 3).await;
    world.ns.kubectl(&["annotate", "kafscalecluster", "orders", "kafscale.io/paused=true"]).await.unwrap();
    world.wait_condition("orders", "Paused", "True", "Annotation").await;
    world.patch("orders", r#"{"spec":{"brokers":{"replicas":4}}}"#).await;
    // The operator has seen the change, and says so.
    world
        .ns
        .wait_object("kafscalecluster/orders", "the new generation is seen", |c| {
            c["status"]["observedGeneration"] == c["metadata"]["generation"] && c["spec"]["brokers"]["replicas"] == 4
        })
        .await;
    assert_eq!(world.ns.get("statefulset/orders-broker").await.unwrap()["spec"]["replicas"], 3);
    world.ns.kubectl(&["annotate", "kafscalecluster", "orders", "kafscale.io/paused-"]).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "four pods", |s| s["status"]["replicas"] == 4).await;
    world.wait_condition("orders", "Paused", "False", "NotPaused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_secret() {
    let mut world = World::played("secret").await;
    let _operator = world.operator(true).await;
    world.ns.apply(&world.cluster("orders", 3, "")).await.unwrap();
    let found = world.wait_condition("orders", "SecretsReady", "False", "SecretsMissing").await;
    assert!(found["status"]["conditions"].to_string().contains(r#"make the secret \"s3\""#), "{found}");
    assert!(world.ns.get("statefulset/orders-broker").await.unwrap_err().contains("NotFound"));
    wait_for("an event", async || {
        let events = world.events("orders").await;
        if events.iter().any(|reason| reason == "SecretsMissing") { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    world.make_secret().await;
    world.wait_condition("orders", "SecretsReady", "True", "Found").await;
    world.ns.wait_object("statefulset/orders-broker", "there", |s| s["spec"]["replicas"] == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_one_etcd() {
    let mut world = World::played("twice").await;
    world.make_secret().await;
    let _operator = world.operator(true).await;
    world.ns.apply(&world.cluster("orders", 1, "")).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "there", |s| s["status"]["replicas"] == 1).await;
    let created = world.ns.get("kafscalecluster/orders").await.unwrap()["metadata"]["creationTimestamp"].clone();
    // Ages are in whole seconds.
    wait_for("a younger cluster", async || {
        world.ns.kubectl(&["delete", "kafscalecluster", "twin", "--ignore-not-found"]).await?;
        world.ns.apply(&world.cluster("twin", 1, "")).await?;
        let younger = world.ns.get("kafscalecluster/twin").await?["metadata"]["creationTimestamp"] != created;
        if younger { Ok(()) } else { Err("of the same second".to_owned()) }
    })
    .await;
    world.wait_condition("twin", "Degraded", "True", "NamespaceTaken").await;
    assert!(world.ns.get("statefulset/twin-broker").await.unwrap_err().contains("NotFound"));
    // When the older one is gone, the place is free.
    world.ns.kubectl(&["delete", "kafscalecluster", "orders"]).await.unwrap();
    world.ns.wait_object("statefulset/twin-broker", "there", |s| s["spec"]["replicas"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_image_under_load() {
    let _quiet = quiet().await;
    let (world, _operator) = serving("roll", "").await;
    let before = world.uids("orders", 3).await;
    let load = load(&world, 3).await;
    load.fault("rollout", true);
    let image = r#"{"spec":{"brokers":{"image":{"tag":"next"}}}}"#;
    world.patch("orders", image).await;
    world.wait_condition("orders", "Progressing", "True", "Draining").await;
    world.wait_rolled("orders", 3, NEXT_IMAGE).await;
    load.fault("rollout", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    let after: BTreeSet<String> = world.uids("orders", 3).await.into_iter().collect();
    assert!(before.iter().all(|uid| !after.contains(uid)));
    let events = world.events("orders").await;
    for reason in ["BrokerDraining", "BrokerDrained", "BrokerReplaced"] {
        assert!(events.iter().any(|event| event == reason), "{reason}: {events:?}");
    }
    assert!(!events.iter().any(|event| event == "DrainIncomplete"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_out_in_under_load() {
    let _quiet = quiet().await;
    let (world, _operator) = serving("scale", "").await;
    let load = load(&world, 3).await;
    world.ns.kubectl(&["scale", "kafscalecluster", "orders", "--replicas=4"]).await.unwrap();
    world.wait_rolled("orders", 4, IMAGE).await;
    load.wait_acks(20).await;
    load.fault("scale-in", true);
    world.ns.kubectl(&["scale", "kafscalecluster", "orders", "--replicas=2"]).await.unwrap();
    world.wait_rolled("orders", 2, IMAGE).await;
    load.fault("scale-in", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    let events = world.events("orders").await;
    assert!(events.iter().any(|event| event == "ScaledIn"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_with_broken_image() {
    let _quiet = quiet().await;
    let (world, _operator) = serving("broken", "rollout: {readyTimeoutSec: 15}").await;
    let before = world.uids("orders", 3).await;
    let load = load(&world, 3).await;
    load.fault("rollout", true);
    world.patch("orders", r#"{"spec":{"brokers":{"image":{"tag":"broken"}}}}"#).await;
    world.wait_condition("orders", "Degraded", "True", "RolloutFailed").await;
    world.wait_condition("orders", "Ready", "True", "Serving").await;
    load.fault("rollout", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    assert_eq!(world.images().await, [IMAGE; 3], "it went back from {BROKEN_IMAGE}");
    assert_eq!(world.uids("orders", 3).await[..2], before[..2], "the others were never touched");
    // The next change is rolled out.
    world.patch("orders", r#"{"spec":{"brokers":{"image":{"tag":"next"}}}}"#).await;
    world.wait_condition("orders", "Degraded", "False", "AsExpected").await;
    world.wait_rolled("orders", 3, NEXT_IMAGE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_rotation_rolls() {
    let _quiet = quiet().await;
    let mut world = World::real("rotation").await;
    world.make_secret().await;
    let endpoint = world.etcd.endpoint();
    let etcdctl = async |args: &str| {
        let args: Vec<String> = format!("--endpoints={endpoint} {args}").split(' ').map(str::to_owned).collect();
        run("etcdctl", &args, &[], "").await.unwrap();
    };
    for user in ["root:first", "other:second"] {
        etcdctl(&format!("user add {user}")).await;
    }
    etcdctl("user grant-role root root").await;
    etcdctl("user grant-role other root").await;
    etcdctl("auth enable").await;
    let secret = |user: &str, password: &str| {
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: etcd}}
stringData: {{KAFSCALE_ETCD_USERNAME: {user}, KAFSCALE_ETCD_PASSWORD: {password}}}
"
        )
    };
    world.ns.apply(&secret("root", "first")).await.unwrap();
    let _operator = world.operator(false).await;
    let etcd = format!("etcd: {{endpoints: ['{endpoint}'], credentialsSecretRef: etcd}}");
    world.ns.apply(&world.cluster("orders", 3, &etcd)).await.unwrap();
    world.wait_rolled("orders", 3, IMAGE).await;
    let before = world.uids("orders", 3).await;
    let load = load(&world, 3).await;
    load.fault("rotation", true);
    world.ns.apply(&secret("other", "second")).await.unwrap();
    wait_for("other pods that serve", async || {
        let cluster = world.ns.get("kafscalecluster/orders").await?;
        let mut old = 0;
        for (n, uid) in before.iter().enumerate() {
            let pod = world.ns.get(&format!("pod/orders-broker-{n}")).await?;
            old += usize::from(pod["metadata"]["uid"] == **uid);
        }
        let serves = condition(&cluster, "Ready") == Some(("True", "Serving"));
        if old == 0 && serves { Ok(()) } else { Err(format!("{old} are left; {}", cluster["status"]["conditions"])) }
    })
    .await;
    load.fault("rotation", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

/// A secret that brokers cannot work with stops the rollout at the first of them; repaired, it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_takes_one_broker_and_a_repaired_one_brings_it_back() {
    let _quiet = quiet().await;
    let (world, _operator) = serving("wrong-secret", "").await;
    let before = world.uids("orders", 3).await;
    let set = async |secret: &str| {
        let patch = format!(r#"{{"stringData":{{"KAFSCALE_S3_SECRET_KEY":"{secret}"}}}}"#);
        world.ns.kubectl(&["patch", "secret", "s3", "--type=merge", "-p", &patch]).await.unwrap();
    };
    set("wrong").await;
    world
        .ns
        .wait_object("pod/orders-broker-2", "in back-off", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(2)
        })
        .await;
    let cluster = world.wait_condition("orders", "Ready", "False", "BrokersNotServing").await;
    assert_eq!(cluster["status"]["brokersReady"], "2/3");
    set(SECRET_KEY).await;
    world.wait_rolled("orders", 3, IMAGE).await;
    assert_eq!(world.uids("orders", 3).await[..2], before[..2], "the others were never touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_killed_mid_roll() {
    let _quiet = quiet().await;
    let (mut world, mut operator) = serving("killed", "").await;
    let load = load(&world, 3).await;
    load.fault("rollout", true);
    world.patch("orders", r#"{"spec":{"brokers":{"image":{"tag":"next"}}}}"#).await;
    world
        .ns
        .wait_object("kafscalecluster/orders", "a broker is replaced", |c| {
            c["status"]["rollout"]["phase"] == "Replacing" || c["status"]["rollout"]["phase"] == "Starting"
        })
        .await;
    operator.process.kill9();
    let _second = world.operator(true).await;
    world.wait_rolled("orders", 3, NEXT_IMAGE).await;
    load.fault("rollout", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

/// Who leads of two operators, and that one who has slept changes nothing when it wakes up.
async fn two_operators(test: &str, with_etcd: bool) {
    let mut world = World::played(test).await;
    world.make_secret().await;
    let mut first = world.operator(with_etcd).await;
    wait_until("the first leads", READY_DEADLINE, async || first.leads().await).await;
    let second = world.operator(with_etcd).await;
    let etcd = format!("etcd: {{endpoints: ['{}']}}", world.etcd.endpoint());
    world.ns.apply(&world.cluster("orders", 1, &etcd)).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "there", |s| s["status"]["replicas"] == 1).await;
    assert!(!second.leads().await);
    first.process.pause();
    wait_until("the second leads", READY_DEADLINE, async || second.leads().await).await;
    world.patch("orders", r#"{"spec":{"brokers":{"replicas":2}}}"#).await;
    world.ns.wait_object("statefulset/orders-broker", "as the second says", |s| s["spec"]["replicas"] == 2).await;
    first.process.resume();
    wait_until("the first knows", READY_DEADLINE, async || first.metric("kafscale_operator_leader").await == Some(0.0))
        .await;
    assert!(second.leads().await);
    let written = first.metrics().await;
    assert!(written.contains("kafscale_operator_clusters 1.0"), "it goes on watching: {written}");
    // Told to stop, the leader lets the other one begin at once.
    let mut second = second;
    second.process.signal(libc::SIGTERM);
    assert!(second.process.wait_exit(READY_DEADLINE).await.success());
    wait_until("the first leads again", READY_DEADLINE, async || first.leads().await).await;
    world.patch("orders", r#"{"spec":{"brokers":{"replicas":3}}}"#).await;
    world.ns.wait_object("statefulset/orders-broker", "as the first says", |s| s["spec"]["replicas"] == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_split_brain() {
    two_operators("split", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_split_brain_with_a_lease() {
    two_operators("lease", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_drain_two_brokers() {
    let _quiet = quiet().await;
    let (world, _operator) = serving("nodes", "").await;
    let load = load(&world, 3).await;
    load.fault("node drain", true);
    for broker in ["orders-broker-0", "orders-broker-1"] {
        let node = world.ns.node_of(broker).await.unwrap();
        world.ns.drain(&node, 90).await.unwrap();
        world.wait_rolled("orders", 3, IMAGE).await;
        world.ns.uncordon(&node).await;
    }
    load.fault("node drain", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
}

/// The autoscaler of Kubernetes changes the cluster's scale, the operator follows, and neither undoes what the other does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hpa_owns_replicas() {
    let mut world = World::played("hpa").await;
    world.make_secret().await;
    let _operator = world.operator(true).await;
    let manifest = |more: &str| world.cluster("orders", 1, more);
    let scaling = "autoscaling: {minReplicas: 3, maxReplicas: 5}";
    world.ns.apply(&manifest(scaling)).await.unwrap();
    // There are no metrics here, so it does what it can without: it sees to the least.
    world.ns.wait_object("kafscalecluster/orders", "it is scaled", |c| c["spec"]["brokers"]["replicas"] == 3).await;
    world.ns.wait_object("statefulset/orders-broker", "three pods", |s| s["status"]["replicas"] == 3).await;
    let able = |found: &serde_json::Value| condition(found, "AbleToScale").is_some_and(|(status, _)| status == "True");
    world.ns.wait_object("hpa/orders-broker", "it can scale", able).await;
    // As it does when there is load.
    world.ns.kubectl(&["scale", "kafscalecluster", "orders", "--replicas=4"]).await.unwrap();
    world.ns.wait_object("statefulset/orders-broker", "four pods", |s| s["status"]["replicas"] == 4).await;
    // Who leaves the number to the autoscaler does not say it, and changes something else.
    let without = manifest(scaling).replace("brokers: {replicas: 1}", "brokers: {pod: {labels: {team: a}}}");
    let args = ["apply", "--server-side", "--field-manager=gitops", "-f", "-"];
    let args = [&["-n", world.ns.name()][..], &args].concat();
    kubectl(&world.ns.plane().kubeconfig(), &args, &without).await.unwrap();
    let labelled = |s: &serde_json::Value| s["spec"]["template"]["metadata"]["labels"]["team"] == "a";
    let set = world.ns.wait_object("statefulset/orders-broker", "the change is there", labelled).await;
    assert_eq!(set["spec"]["replicas"], 4);
    assert_eq!(world.ns.get("kafscalecluster/orders").await.unwrap()["spec"]["brokers"]["replicas"], 4);
    // Without it the number is the user's again.
    world.patch("orders", r#"{"spec":{"autoscaling":null}}"#).await;
    world.ns.wait_gone("hpa/orders-broker").await;
    assert_eq!(world.ns.get("statefulset/orders-broker").await.unwrap()["spec"]["replicas"], 4);
}

/// One operator for some namespaces: it works in those, with a role in each, and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multi_namespace() {
    let (blue, green) = (Namespace::new("blue").await, Namespace::new("green").await);
    let names = format!("[{}, {}]", blue.name(), green.name());
    let mut world = World::installed("system", &format!("watchNamespaces: {names}")).await;
    let watched = ("KAFSCALE_OPERATOR_WATCH_NAMESPACES", format!("{},{}", blue.name(), green.name()));
    let operator = world.operator_with(true, &[watched]).await;
    // Its own namespace is not among them.
    world.make_secret().await;
    world.ns.apply(&world.cluster("mine", 1, "")).await.unwrap();
    let topic =
        "apiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {name: t}\nspec: {clusterRef: orders}\n";
    for namespace in [&blue, &green] {
        world.make_secret_in(namespace).await;
        namespace.apply(&world.cluster("orders", 1, "")).await.unwrap();
        namespace.wait_object("statefulset/orders-broker", "there", |s| s["status"]["replicas"] == 1).await;
        namespace.apply(topic).await.unwrap();
        let waits = |t: &serde_json::Value| condition(t, "Ready") == Some(("False", "Pending"));
        namespace.wait_object("kafscaletopic/t", "it is seen", waits).await;
    }
    assert_eq!(operator.metric("kafscale_operator_clusters").await, Some(2.0));
    assert!(world.ns.get("kafscalecluster/mine").await.unwrap()["status"].is_null());
    assert!(world.ns.get("statefulset/mine-broker").await.unwrap_err().contains("NotFound"));
    // One of them goes with everything in it; the other does not notice.
    blue.kubectl(&["delete", "kafscalecluster,kafscaletopic", "--all"]).await.unwrap();
    blue.delete().await;
    let patch = r#"{"spec":{"brokers":{"replicas":2}}}"#;
    green.kubectl(&["patch", "kafscalecluster", "orders", "--type=merge", "-p", patch]).await.unwrap();
    green.wait_object("statefulset/orders-broker", "two pods", |s| s["status"]["replicas"] == 2).await;
}

/// The next version of the operator brings the next image: brokers whose cluster names none follow, one after the other. One that only
/// starts again finds nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_operator() {
    let _quiet = quiet().await;
    let (mut world, mut first) = serving("upgrade", "").await;
    let load = load(&world, 3).await;
    load.fault("upgrade", true);
    first.process.signal(libc::SIGTERM);
    assert!(first.process.wait_exit(READY_DEADLINE).await.success(), "{}", first.process.log_tail());
    let image = ("KAFSCALE_OPERATOR_BROKER_IMAGE", NEXT_IMAGE.to_owned());
    let mut second = world.operator_with(true, std::slice::from_ref(&image)).await;
    world.wait_condition("orders", "Progressing", "True", "Draining").await;
    world.wait_rolled("orders", 3, NEXT_IMAGE).await;
    load.fault("upgrade", false);
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    let before = world.uids("orders", 3).await;
    second.process.kill9();
    let third = world.operator_with(true, &[image]).await;
    let looks = r#"controller_runtime_reconcile_total{controller="kafscalecluster",result="success"}"#;
    // Once: a roll would have begun, and what has been written by then may be no reason to look again for minutes.
    let looked = async || third.metric(looks).await.is_some_and(|looks| looks >= 1.0);
    wait_until("the cluster has been looked at again", READY_DEADLINE, looked).await;
    world.wait_rolled("orders", 3, NEXT_IMAGE).await;
    assert_eq!(world.uids("orders", 3).await, before);
}
