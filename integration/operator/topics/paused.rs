//! Topics of clusters for which nothing may be written: paused ones, and those whose place an older one has.

use super::*;
use crate::operator::rights::Request;

impl World {
    /// Annotates the cluster.
    async fn annotate_cluster(&self, annotation: &str) {
        self.namespace.kubectl(&["annotate", "kfs", "demo", annotation]).await.expect("it can be annotated");
    }

    /// What is stored in the cluster's etcd, for looks that nobody else has.
    async fn metadata(&self) -> EtcdStore {
        let endpoint = self.stack.etcd.as_ref().expect("etcd is real").endpoint();
        EtcdStore::connect(EtcdSettings::new(vec![endpoint])).await.expect("etcd answers")
    }
}

/// What `docs/etcd-restore.md` relies on: while the cluster is paused etcd may be away, and come back as an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_for_a_paused_cluster() {
    let world = World::start("paused").await;
    for (name, policy) in [("t", "Retain"), ("gone", "Delete")] {
        world.apply(name, &format!("partitions: 1, deletionPolicy: {policy}")).await.expect("valid");
        world.wait(name, "True", "Live").await;
    }
    world.annotate_cluster("kafscale.io/paused=true").await;
    let topic = world.wait("t", "Unknown", "ClusterPaused").await;
    assert!(message(&topic).contains("KafscaleCluster demo has the annotation"), "{}", message(&topic));
    assert_eq!(topic["status"]["partitions"], 1, "what is known stays");
    let (store, keys, before) = (world.metadata().await, Keys::new("test"), world.operator.published());

    // Whatever is asked of it now: the document stays, and even its absence.
    world.apply("t", "partitions: 2").await.expect("valid");
    world.apply("new", "partitions: 1, deletionPolicy: Delete").await.expect("valid");
    world.delete("gone").await;
    let new = world.wait("new", "Unknown", "ClusterPaused").await;
    assert_eq!(new["metadata"]["finalizers"], Value::Null);
    world.wait("t", "Unknown", "ClusterPaused").await;
    let gone = world.wait("gone", "False", "Deleting").await;
    assert!(message(&gone).contains("which waits: KafscaleCluster demo"), "{}", message(&gone));
    assert_eq!(gone["metadata"]["finalizers"], serde_json::json!([TOPIC_FINALIZER]));
    store.txn(Txn { compares: vec![], ops: vec![Op::Delete(keys.desired())] }).await.expect("etcd answers");
    world.apply("mark", "partitions: 1").await.expect("valid");
    world.wait("mark", "Unknown", "ClusterPaused").await;
    assert_eq!(desired::read(&store, &keys).await.expect("etcd answers"), None);
    assert_eq!(world.operator.published(), before);
    world.wait_led("t", Some(1)).await;
    world.wait_led("gone", Some(1)).await;
    let events =
        world.namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await.expect("listed");
    assert!(!events.contains("TopicsNotPublished"), "the cluster's own condition says it: {events}");

    world.annotate_cluster("kafscale.io/paused-").await;
    for name in ["t", "new", "mark"] {
        world.wait(name, "True", "Live").await;
    }
    world.wait_led("t", Some(2)).await;
    world.namespace.wait_gone("kt/gone").await;
    world.wait_led("gone", None).await;
}

/// Who pauses a cluster goes on at once, and the operator's watch may be behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_the_watch_has_not_shown_holds_too() {
    let world = World::start("paused-unseen").await;
    world.apply("t", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.operator.watches[0].abort();
    world.annotate_cluster("kafscale.io/paused=true").await;
    let looks = || {
        let is_look = |one: &&Request| one.verb == "get" && one.resource == "kafscaleclusters" && one.code == 200;
        world.rights.requests().iter().filter(is_look).count()
    };
    let (before, looked) = (world.operator.published(), looks());
    world.apply("t", "partitions: 2").await.expect("valid");
    wait_for("it looks at the cluster again and again", async || match looks() {
        now if now >= looked + 2 => Ok(()),
        now => Err(format!("{now} after {looked}")),
    })
    .await;
    assert_eq!(world.operator.published(), before);
    world.annotate_cluster("kafscale.io/paused-").await;
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(2)).await;
}

/// Two resources for one place in etcd would write over each other's topics for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_place_is_taken_publishes_nothing_until_it_is_free() {
    let world = World::start("twin-topics").await;
    world.apply("t", "partitions: 1").await.expect("valid");
    world.wait("t", "True", "Live").await;
    let demo = world.namespace.get("kfs/demo").await.expect("it is there");
    let twin = serde_json::json!({
        "apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleCluster", "metadata": {"name": "twin"}, "spec": demo["spec"],
    });
    // Ages are in whole seconds.
    wait_for("a younger cluster", async || {
        world.namespace.kubectl(&["delete", "kfs", "twin", "--ignore-not-found"]).await?;
        world.namespace.apply(&twin.to_string()).await?;
        let created = world.namespace.get("kfs/twin").await?["metadata"]["creationTimestamp"].clone();
        if created != demo["metadata"]["creationTimestamp"] { Ok(()) } else { Err("of the same second".to_owned()) }
    })
    .await;
    let topic = serde_json::json!({
        "apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleTopic", "metadata": {"name": "of-twin"},
        "spec": {"clusterRef": "twin", "partitions": 1},
    });
    let before = world.operator.published();
    world.namespace.apply(&topic.to_string()).await.expect("valid");
    let found = world.wait("of-twin", "Unknown", "ClusterNotLookedAfter").await;
    assert!(message(&found).contains("KafscaleCluster twin is not looked after"), "{}", message(&found));
    world.apply("t", "partitions: 2").await.expect("valid");
    world.wait("t", "True", "Live").await;
    world.wait_led("t", Some(2)).await;
    assert_eq!(world.operator.published(), before + 1, "one document, of the cluster that has the place");
    world.namespace.kubectl(&["delete", "kfs", "demo"]).await.expect("it can be deleted");
    world.wait("of-twin", "True", "Live").await;
    world.wait_led("of-twin", Some(1)).await;
}
