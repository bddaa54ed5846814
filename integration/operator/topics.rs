//! KafscaleTopics on a real API server, with the part of the operator that looks after them, a real etcd and a real broker. The
//! cluster's resource names that etcd; nobody makes pods of it.

use super::control_plane::wait_for;
use super::namespace::Namespace;
use super::rights::Rights;
use crate::client::Client as Kafka;
use crate::desired_topics::{configs_of, led_partitions, pairs, set_config};
use crate::harness::{Backend, Stack, size};
use futures::StreamExt;
use kafscale::actors::runtime::IoPool;
use kafscale::actors::supervisor::ActorRegistry;
use kafscale::clock::Clock;
use kafscale::config::Component;
use kafscale::config::operator::OperatorConfig;
use kafscale::ids::FencingToken;
use kafscale::metadata::etcd::{EtcdSettings, EtcdStore};
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::desired::pack;
use kafscale::metadata::{MetadataStore, Op, Txn, desired};
use kafscale::operator::crd::{KafscaleCluster, KafscaleTopic, TOPIC_FINALIZER};
use kafscale::operator::topics::{TopicStats, TopicsConfig, TopicsHandle};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinHandle;

mod paused;

/// The condition Ready of a topic: status and reason.
fn ready(topic: &Value) -> (String, String) {
    let conditions = topic["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn says(topic: &Value, status: &str, reason: &str) -> bool {
    ready(topic) == (status.to_owned(), reason.to_owned())
        && topic["status"]["observedGeneration"] == topic["metadata"]["generation"]
}

fn message(topic: &Value) -> String {
    let conditions = topic["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    found.and_then(|found| found["message"].as_str()).unwrap_or_default().to_owned()
}

/// Tells of all resources of a kind, whenever one of them changes and all are known.
fn follow<K>(api: Api<K>, tell: impl Fn(Vec<Arc<K>>) + Send + Sync + 'static) -> JoinHandle<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    tokio::spawn(async move {
        let (reader, writer) = reflector::store();
        let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(reflector::reflector(writer, events));
        while let Some(event) = events.next().await {
            if let Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) = event {
                tell(reader.state());
            }
        }
    })
}

fn defaults() -> OperatorConfig {
    let command = Component::Operator.command().mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(["operator", "--operator-pod-name=op-0"]).expect("flags");
    kafscale::config::operator::resolve(&matches, &Default::default()).outcome.expect("defaults are valid")
}

/// The part of the operator that looks after topics, leading with a token.
struct Operator {
    handle: Arc<TopicsHandle>,
    leads: Arc<AtomicBool>,
    /// How often it was asked whether it leads: before every write.
    asked: Arc<AtomicU64>,
    stats: Arc<TopicStats>,
    watches: Vec<JoinHandle<()>>,
}

impl Operator {
    fn start(client: &Client, namespace: &str, token: u64) -> Self {
        let (leads, stats) = (Arc::new(AtomicBool::new(true)), Arc::new(TopicStats::default()));
        let reporter = Reporter { controller: "kafscale-operator".into(), instance: None };
        let asked = Arc::new(AtomicU64::new(0));
        let told = (leads.clone(), asked.clone());
        let handle = Arc::new(TopicsHandle::start(TopicsConfig {
            client: client.clone(),
            defaults: Arc::new(defaults()),
            recorder: Recorder::new(client.clone(), reporter),
            clock: Clock::system(),
            io: IoPool::current(),
            registry: Arc::new(ActorRegistry::default()),
            token: FencingToken(token),
            leads: Arc::new(move || {
                told.1.fetch_add(1, Ordering::Relaxed);
                told.0.load(Ordering::Relaxed)
            }),
            stats: stats.clone(),
        }));
        let (of_clusters, of_topics) = (handle.clone(), handle.clone());
        let clusters: Api<KafscaleCluster> = Api::namespaced(client.clone(), namespace);
        let topics: Api<KafscaleTopic> = Api::namespaced(client.clone(), namespace);
        let watches = vec![
            follow(clusters, move |all| of_clusters.clusters_changed(all)),
            follow(topics, move |all| of_topics.topics_changed(all)),
        ];
        Self { handle, leads, asked, stats, watches }
    }

    fn published(&self) -> u64 {
        self.stats.published.load(Ordering::Relaxed)
    }

    /// It leads no more, and has noticed.
    fn stop(&self) {
        self.leads.store(false, Ordering::Relaxed);
        self.handle.stop();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop();
        self.watches.iter().for_each(JoinHandle::abort);
    }
}

struct World {
    operator: Operator,
    namespace: Namespace,
    client: Client,
    rights: Rights,
    stack: Stack,
}

impl World {
    async fn start(name: &str) -> Self {
        Self::start_with(name, "").await
    }

    /// With the rights that the chart gives with these values.
    async fn start_with(name: &str, values: &str) -> Self {
        let mut stack = Stack::start(name, Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
        let namespace = Namespace::new(name).await;
        super::define(&namespace).await;
        let endpoint = stack.etcd().endpoint();
        let cluster = format!(
            "apiVersion: kafscale.io/v1alpha1
kind: KafscaleCluster
metadata: {{name: demo}}
spec: {{s3: {{bucket: records, region: us-east-1, namespace: test}}, etcd: {{endpoints: ['{endpoint}']}}}}
"
        );
        namespace.apply(&cluster).await.expect("a cluster");
        let rights = Rights::of_chart(&namespace, values).await;
        let client = rights.client().await;
        let operator = Operator::start(&client, namespace.name(), 3);
        Self { operator, namespace, client, rights, stack }
    }

    fn address(&self) -> String {
        self.stack.address()
    }

    /// Applies a topic.
    async fn apply(&self, name: &str, spec: &str) -> Result<String, String> {
        let yaml = format!(
            "apiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {{name: {name}}}\nspec: {{clusterRef: demo, {spec}}}\n"
        );
        self.namespace.apply(&yaml).await
    }

    async fn wait(&self, name: &str, status: &str, reason: &str) -> Value {
        let what = format!("{status} {reason}");
        self.namespace.wait_object(&format!("kt/{name}"), &what, |topic| says(topic, status, reason)).await
    }

    async fn wait_led(&self, topic: &str, partitions: Option<usize>) {
        let address = self.address();
        wait_for(&format!("{topic} with {partitions:?} partitions"), async || {
            let found = led_partitions(&address, topic).await;
            if found == partitions { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    async fn wait_configs(&self, topic: &str, expected: &[(&str, &str)]) {
        let address = self.address();
        wait_for(&format!("{topic} with {expected:?}"), async || {
            let found = configs_of(&address, topic).await;
            if found == pairs(expected) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    async fn delete(&self, name: &str) {
        self.namespace.kubectl(&["delete", "kt", name, "--wait=false"]).await.expect("it can be deleted");
    }

    async fn wait_event(&self, reason: &str, part: &str) {
        wait_for(&format!("an event {reason}"), async || {
            let selector = format!("--field-selector=reason={reason}");
            let events = self
                .namespace
                .kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}", selector.as_str()])
                .await?;
            if events.contains(part) { Ok(()) } else { Err(events) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_create_partition_increase_decrease_rejected() {
    let world = World::start("topic-create").await;
    world.apply("orders", "partitions: 2, retentionMs: 5000, config: {cleanup.policy: compact}").await.expect("valid");
    let topic = world.wait("orders", "True", "Live").await;
    assert_eq!((&topic["status"]["partitions"], &topic["status"]["adopted"]), (&Value::from(2), &Value::from(false)));
    assert_eq!(topic["status"]["topicName"], "orders");
    assert!(topic["status"]["topicId"].as_str().is_some_and(|id| id.len() == 36));
    assert_eq!(topic["metadata"]["finalizers"], Value::Null, "a topic that stays needs no finalizer");
    world.wait_led("orders", Some(2)).await;
    world.wait_configs("orders", &[("cleanup.policy", "compact"), ("retention.ms", "5000")]).await;
    let refused = world.apply("orders", "partitions: 1, retentionMs: 5000").await.expect_err("partitions only grow");
    assert!(refused.contains("partitions only grow"), "{refused}");
    world.apply("orders", "partitions: 4, retentionMs: 5000, config: {cleanup.policy: compact}").await.expect("valid");
    let topic = world.wait("orders", "True", "Live").await;
    assert_eq!(topic["status"]["partitions"], 4);
    world.wait_led("orders", Some(4)).await;
    // What says the same is not written again.
    let (version, published) = (topic["metadata"]["resourceVersion"].clone(), world.operator.published());
    world.apply("other", "topicName: Other_Topic").await.expect("valid");
    world.wait("other", "True", "Live").await;
    world.wait_led("Other_Topic", Some(1)).await;
    let after = world.namespace.get("kt/orders").await.expect("it is there");
    assert_eq!(after["metadata"]["resourceVersion"], version);
    assert_eq!(world.operator.published(), published + 1);
    let row = world.namespace.kubectl(&["get", "kt", "orders"]).await.expect("a row");
    for word in ["demo", "orders", "4", "5000", "True", "Live"] {
        assert!(row.contains(word), "{word} in {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_drift() {
    let world = World::start("config-drift").await;
    world.apply("t", "config: {retention.ms: '5000'}").await.expect("valid");
    world.wait("t", "True", "Live").await;
    set_config(&world.address(), "t", "retention.ms", "1").await;
    set_config(&world.address(), "t", "segment.ms", "12").await;
    world.wait_configs("t", &[("retention.ms", "5000"), ("segment.ms", "12")]).await;
    // Named no more, it is the default again; what a client set stays.
    world.apply("t", "config: {max.message.bytes: '5000'}").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.wait_configs("t", &[("max.message.bytes", "5000"), ("segment.ms", "12")]).await;
    world.apply("t", "config: {max.message.bytes: 'some'}").await.expect("valid for Kubernetes");
    let topic = world.wait("t", "False", "Refused").await;
    assert!(message(&topic).contains("invalid value some for configuration max.message.bytes"), "{}", message(&topic));
    // Paused: nothing happens, and it says so.
    let annotate = async |value: &str| world.namespace.kubectl(&["annotate", "kt", "t", value, "--overwrite"]).await;
    annotate("kafscale.io/paused=true").await.expect("annotated");
    let paused = |topic: &Value| {
        topic["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Paused" && c["status"] == "True"))
    };
    world.namespace.wait_object("kt/t", "paused", paused).await;
    world.apply("t", "config: {max.message.bytes: '7000'}").await.expect("valid");
    world.apply("mark", "partitions: 1").await.expect("valid");
    world.wait("mark", "True", "Live").await;
    world.wait_configs("t", &[("max.message.bytes", "5000"), ("segment.ms", "12")]).await;
    annotate("kafscale.io/paused-").await.expect("annotated");
    world.wait("t", "True", "Live").await;
    world.wait_configs("t", &[("max.message.bytes", "7000"), ("segment.ms", "12")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_existing_and_conflict() {
    let world = World::start("topic-adopt").await;
    let mut kafka = Kafka::new(&world.address());
    kafka.ensure_topic("existing", 3).await;
    kafka.ensure_topic("clients", 1).await;
    world.apply("a", "topicName: existing, partitions: 3, retentionMs: 5000").await.expect("valid");
    let topic = world.wait("a", "True", "Live").await;
    assert_eq!((&topic["status"]["adopted"], &topic["status"]["partitions"]), (&Value::from(true), &Value::from(3)));
    world.wait_configs("existing", &[("retention.ms", "5000")]).await;
    // The younger of two waits for the older to go.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await; // creation times have seconds
    world.apply("b", "topicName: existing, partitions: 5, deletionPolicy: Delete").await.expect("valid");
    let topic = world.wait("b", "False", "Conflict").await;
    assert!(message(&topic).contains("KafscaleTopic a describes topic existing already"), "{}", message(&topic));
    world.wait("a", "True", "Live").await;
    world.delete("a").await;
    world.namespace.wait_gone("kt/a").await;
    world.wait("b", "True", "Live").await;
    world.wait_led("existing", Some(5)).await;
    // Fewer partitions than there are, and names that cannot be told apart.
    world.apply("c", "topicName: clients.x").await.expect("valid");
    world.wait("c", "True", "Live").await;
    world.apply("d", "topicName: clients_x").await.expect("valid");
    let topic = world.wait("d", "False", "Refused").await;
    assert!(message(&topic).contains("collides with clients.x"), "{}", message(&topic));
    kafka.ensure_topic("large", 6).await;
    world.apply("large", "partitions: 2").await.expect("valid");
    let topic = world.wait("large", "False", "Refused").await;
    assert!(message(&topic).contains("set spec.partitions to 6 or more"), "{}", message(&topic));
    assert_eq!(topic["status"]["partitions"], 6);
    world.wait_led("clients", Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_retain_and_delete_delete() {
    let mut world = World::start("topic-delete").await;
    for (name, policy) in [("kept", "Retain"), ("gone", "Delete"), ("forced", "Delete")] {
        world.apply(name, &format!("partitions: 1, deletionPolicy: {policy}")).await.expect("valid");
    }
    for name in ["kept", "gone", "forced"] {
        world.wait(name, "True", "Live").await;
        world.wait_led(name, Some(1)).await;
    }
    let gone = world.namespace.get("kt/gone").await.expect("it is there");
    assert_eq!(gone["metadata"]["finalizers"], serde_json::json!([TOPIC_FINALIZER]));
    world.delete("kept").await;
    world.namespace.wait_gone("kt/kept").await;
    world.delete("gone").await;
    world.namespace.wait_gone("kt/gone").await;
    world.wait_led("gone", None).await;
    world.wait_event("TopicDeleted", "topic gone was deleted").await;
    world.wait_led("kept", Some(1)).await;
    // No broker, nobody to confirm: only force helps.
    world.stack.broker.kill9();
    world.delete("forced").await;
    world.wait("forced", "False", "Deleting").await;
    world.namespace.kubectl(&["annotate", "kt", "forced", "kafscale.io/force-delete=true"]).await.expect("annotated");
    world.namespace.wait_gone("kt/forced").await;
    world.wait_event("CleanupSkipped", "topic forced may still be there").await;
    world.stack.broker.relaunch();
    world.stack.broker.wait_ready().await;
    world.wait_led("forced", Some(1)).await;
    world.wait_led("kept", Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_gone() {
    let world = World::start("cluster-gone").await;
    world.apply("t", "partitions: 1, deletionPolicy: Delete").await.expect("valid");
    world.apply("u", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.wait("u", "True", "Live").await;
    world.namespace.kubectl(&["delete", "kfs", "demo"]).await.expect("it can be deleted");
    let topic = world.wait("t", "False", "ClusterNotFound").await;
    assert!(message(&topic).contains("there is no KafscaleCluster demo"), "{}", message(&topic));
    world.delete("t").await;
    world.namespace.wait_gone("kt/t").await;
    world.wait_event("CleanupSkipped", "KafscaleCluster demo is gone").await;
    world.delete("u").await;
    world.namespace.wait_gone("kt/u").await;
    world.wait_led("t", Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_terminating() {
    // Roles go with their namespace: only one for the whole cluster lets the operator clean up (docs/topics.md).
    let mut world = World::start_with("namespace-ends", "rbac: {scope: cluster}").await;
    world.apply("t", "partitions: 1, deletionPolicy: Delete").await.expect("valid");
    world.wait("t", "True", "Live").await;
    // Nobody could delete the topic.
    world.stack.broker.kill9();
    let World { operator, namespace, client, rights, stack } = world;
    namespace.delete().await;
    drop((operator, client, rights, stack));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_are_few_writes() {
    let count = size("KUBERNETES_TOPICS", 500);
    let world = World::start("many-topics").await;
    world.apply("first", "partitions: 1").await.expect("valid");
    world.wait("first", "True", "Live").await;
    let before = world.operator.published();
    let all: String = (0..count)
        .map(|n| {
            format!("---\napiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {{name: t-{n}}}\nspec: {{clusterRef: demo, retentionMs: 86400000}}\n")
        })
        .collect();
    let began = kafscale::clock::monotonic();
    world.namespace.apply(&all).await.expect("valid");
    let applied = began.elapsed();
    wait_for("all are live", async || {
        let jsonpath = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].reason}{\"\\n\"}{end}";
        let reasons = world.namespace.kubectl(&["get", "kt", "-o", jsonpath]).await?;
        let live = reasons.lines().filter(|reason| *reason == "Live").count() as u64;
        if live == count + 1 { Ok(()) } else { Err(format!("{live}")) }
    })
    .await;
    let writes = world.operator.published() - before;
    eprintln!("{count} topics: applied after {applied:?}, all live after {:?}, {writes} documents", began.elapsed());
    // The document is not written more often than the API server takes seconds to take the topics, and a few times.
    assert!(writes <= applied.as_secs() + 4, "{writes} documents within {applied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_leader_publishes_nothing() {
    let world = World::start("former-leader").await;
    world.apply("t", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    let next = Operator::start(&world.client, world.namespace.name(), 4);
    wait_for("the next leader's first document", async || match next.published() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    // The former one still believes that it leads.
    let before = world.operator.published();
    world.apply("t", "partitions: 2").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(2)).await;
    assert_eq!((world.operator.published(), next.published()), (before, 2));
}

/// A leader that could not confirm its leadership for a while, and does again before anybody else began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_again_goes_on() {
    let world = World::start("leads-again").await;
    world.apply("t", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    let (operator, before) = (&world.operator, world.operator.published());
    operator.leads.store(false, Ordering::Relaxed);
    let asked = operator.asked.load(Ordering::Relaxed);
    world.apply("t", "partitions: 2").await.expect("valid");
    wait_for("it wants to write", async || match operator.asked.load(Ordering::Relaxed) {
        now if now > asked => Ok(()),
        _ => Err(String::new()),
    })
    .await;
    assert_eq!(operator.published(), before);
    operator.leads.store(true, Ordering::Relaxed);
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(2)).await;
}

/// Leadership moves from etcd to a Lease, the Lease is deleted, etcd is replaced: its token begins again, below what is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_that_has_forgotten_publishes_nevertheless() {
    let mut world = World::start("forgotten").await;
    let endpoint = world.stack.etcd().endpoint();
    let store = EtcdStore::connect(EtcdSettings::new(vec![endpoint])).await.expect("etcd answers");
    let keys = Keys::new("test");
    let token = async || desired::read(&store, &keys).await.expect("etcd answers").expect("it is there").0.token.0;
    world.apply("t", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    assert_eq!(token().await, 3);
    world.operator.stop();
    world.operator = Operator::start(&world.client, world.namespace.name(), 1);
    let next = async || if token().await == 4 { Ok(()) } else { Err("the token of the one before".to_owned()) };
    wait_for("the next operator publishes", next).await;
    world.apply("t", "partitions: 2").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(2)).await;
    assert_eq!((token().await, world.operator.published()), (4, 2), "it took a token once");

    // Somebody else writes, and this operator leads: it does not fight, and says so.
    let (mut document, _) = desired::read(&store, &keys).await.expect("etcd answers").expect("it is there");
    document.token = FencingToken(1_000);
    let put = Op::Put(keys.desired(), pack(&document), None);
    store.txn(Txn { compares: vec![], ops: vec![put] }).await.expect("etcd answers");
    world.apply("t", "partitions: 3").await.expect("valid");
    let topic = world.wait("t", "Unknown", "Superseded").await;
    assert!(message(&topic).contains("restart this operator"), "{}", message(&topic));
    assert_eq!(topic["status"]["partitions"], 2, "what is known stays");
    world.wait_event("TopicsNotPublished", "Superseded").await;
    assert_eq!((token().await, world.operator.published()), (1_000, 2));
    world.wait_led("t", Some(2)).await;

    // What it says to do helps.
    world.operator.stop();
    world.operator = Operator::start(&world.client, world.namespace.name(), 2);
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(3)).await;
    assert_eq!(token().await, 1_001);
}
