//! KafscaleTopics: what they say becomes the document of topics in their cluster's etcd, and what the brokers answer becomes
//! their status.
//!
//! [`TopicsHandle::start`] is called by whoever begins to lead, with the token of that leadership, and told of all clusters and all
//! topics whenever any of them changes; nothing else is asked of Kubernetes. Each cluster has a task of its own
//! ([`publisher`]), with a connection to its etcd. Decisions are in [`publish`] and [`status`], which are pure.

pub mod publish;
mod publisher;
mod session;
pub mod status;
mod writes;

use super::crd::{KafscaleCluster, KafscaleTopic};
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::{ActorRegistry, supervise_loop};
use crate::clock::Clock;
use crate::config::operator::OperatorConfig;
use crate::ids::FencingToken;
use crate::metrics::Metrics;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt};
use publisher::Publisher;
use status::{Orphan, Trouble};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use writes::Write;

/// Changes that come within this time of each other are handed on together.
const GATHER: Duration = Duration::from_millis(20);
/// Pause before what could not be written about topics without a cluster is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Counts.
#[derive(Debug, Default)]
pub struct TopicStats {
    /// Documents that were written.
    pub published: AtomicU64,
}

impl TopicStats {
    /// Adds them to what is scraped.
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        let stats = self.clone();
        metrics.register("operator-topics", move |families| {
            let help = "Documents of desired topics that were written to etcd";
            families.counter("kafscale_operator_topics_published", help, stats.published.load(Ordering::Relaxed))
        });
    }
}

/// What is needed to look after topics.
pub struct TopicsConfig {
    /// Kubernetes.
    pub client: Client,
    /// What clusters get that do not say otherwise.
    pub defaults: Arc<OperatorConfig>,
    /// Says in Kubernetes what was decided.
    pub recorder: Recorder,
    /// The clock.
    pub clock: Clock,
    /// Where tasks run.
    pub io: IoPool,
    /// Supervised actors.
    pub registry: Arc<ActorRegistry>,
    /// Of this operator's leadership.
    pub token: FencingToken,
    /// Whether it still leads; asked before every write.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Counts.
    pub stats: Arc<TopicStats>,
}

impl fmt::Debug for TopicsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicsConfig(token {})", self.token)
    }
}

/// A cluster and its topics.
#[derive(Debug, Clone)]
struct Input {
    cluster: Arc<KafscaleCluster>,
    topics: Vec<Arc<KafscaleTopic>>,
    /// Why nothing may be written on behalf of the cluster, if so.
    held: Option<Trouble>,
}

impl Input {
    fn is(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<KafscaleTopic>, &Arc<KafscaleTopic>)| Arc::ptr_eq(a, b);
        Arc::ptr_eq(&self.cluster, &other.cluster)
            && self.held == other.held
            && self.topics.len() == other.topics.len()
            && self.topics.iter().zip(&other.topics).all(same)
    }
}

type Told<K> = Option<Vec<Arc<K>>>;

/// Looks after topics until it is stopped or dropped.
#[derive(Debug)]
pub struct TopicsHandle {
    clusters: watch::Sender<Told<KafscaleCluster>>,
    topics: watch::Sender<Told<KafscaleTopic>>,
    stop: CancellationToken,
}

impl TopicsHandle {
    /// Begins. Nothing happens until all clusters and all topics have been told.
    pub fn start(config: TopicsConfig) -> Self {
        let (clusters, topics) = (watch::Sender::new(None), watch::Sender::new(None));
        let stop = CancellationToken::new();
        let (config, heard) = (Arc::new(config), (clusters.subscribe(), topics.subscribe()));
        let (io, registry, ended) = (config.io.clone(), config.registry.clone(), stop.clone());
        supervise_loop("topics", &registry, &io, move || {
            let dispatcher = Dispatcher {
                config: config.clone(),
                clusters: heard.0.clone(),
                topics: heard.1.clone(),
                running: BTreeMap::new(),
                stop: ended.clone(),
            };
            dispatcher.run()
        });
        Self { clusters, topics, stop }
    }

    /// All clusters that are looked after, whenever one of them changes. Only once all are known.
    pub fn clusters_changed(&self, clusters: Vec<Arc<KafscaleCluster>>) {
        self.clusters.send_replace(Some(clusters));
    }

    /// All topics in the namespaces that are looked after, whenever one of them changes. Only once all are known.
    pub fn topics_changed(&self, topics: Vec<Arc<KafscaleTopic>>) {
        self.topics.send_replace(Some(topics));
    }

    /// Ends: nothing is begun any more.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for TopicsHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Namespace and name.
type Name = (String, String);

struct Running {
    uid: Option<String>,
    input: watch::Sender<Input>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Hands every cluster's topics to its publisher, and looks after those that have none.
struct Dispatcher {
    config: Arc<TopicsConfig>,
    clusters: watch::Receiver<Told<KafscaleCluster>>,
    topics: watch::Receiver<Told<KafscaleTopic>>,
    running: BTreeMap<Name, Running>,
    stop: CancellationToken,
}

impl Dispatcher {
    async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(mut self) {
        loop {
            let clusters = self.clusters.borrow_and_update().clone();
            let topics = self.topics.borrow_and_update().clone();
            let mut again = None;
            if let (Some(clusters), Some(topics)) = (clusters, topics) {
                let orphans = self.dispatch(clusters, topics);
                if let Err(error) = self.look_after(&orphans).await {
                    tracing::warn!(%error, "topics without a cluster cannot be told so; trying again");
                    again = Some(RETRY_AFTER);
                }
            }
            let retry = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                changed = self.clusters.changed() => changed.is_ok(),
                changed = self.topics.changed() => changed.is_ok(),
                () = retry => true,
            };
            if !alive {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Returns the topics that no publisher has.
    fn dispatch(
        &mut self,
        clusters: Vec<Arc<KafscaleCluster>>,
        topics: Vec<Arc<KafscaleTopic>>,
    ) -> Vec<(Arc<KafscaleTopic>, Orphan)> {
        let mut by_cluster: BTreeMap<Name, Vec<Arc<KafscaleTopic>>> = BTreeMap::new();
        for topic in topics {
            let name = (topic.namespace().unwrap_or_default(), topic.spec.cluster_ref.clone());
            by_cluster.entry(name).or_default().push(topic);
        }
        let mut orphans = Vec::new();
        let mut kept = BTreeMap::new();
        let held: Vec<_> =
            clusters.iter().map(|cluster| status::held(cluster, &clusters, &self.config.defaults)).collect();
        for (cluster, held) in clusters.into_iter().zip(held) {
            let name = (cluster.namespace().unwrap_or_default(), cluster.name_any());
            let topics = by_cluster.remove(&name).unwrap_or_default();
            if cluster.metadata.deletion_timestamp.is_some() {
                orphans.extend(topics.into_iter().map(|topic| (topic, Orphan::ClusterDeleting)));
                continue;
            }
            let running = self.running.remove(&name).filter(|running| running.uid == cluster.metadata.uid);
            let input = Input { cluster, topics, held };
            let running = match running {
                Some(running) => {
                    running.input.send_if_modified(|old| !std::mem::replace(old, input.clone()).is(&input));
                    running
                }
                None => self.publish(input),
            };
            kept.insert(name, running);
        }
        self.running = kept; // the others end
        let rest = by_cluster.into_values().flatten().map(|topic| (topic, Orphan::ClusterNotFound));
        orphans.extend(rest);
        orphans
    }

    fn publish(&self, input: Input) -> Running {
        let (uid, stop) = (input.cluster.metadata.uid.clone(), self.stop.child_token());
        let (sender, receiver) = watch::channel(input);
        let (config, stopped) = (self.config.clone(), stop.clone());
        supervise_loop("topics-of-cluster", &self.config.registry, &self.config.io, move || {
            Publisher { config: config.clone(), input: receiver.clone(), stop: stopped.clone() }.run()
        });
        Running { uid, input: sender, stop }
    }

    async fn look_after(&self, orphans: &[(Arc<KafscaleTopic>, Orphan)]) -> Result<(), kube::Error> {
        let now = time(self.config.clock);
        for (topic, orphan) in orphans {
            let finalizer = status::orphan_finalizer(topic, *orphan);
            let status = Some(status::orphaned(topic, *orphan, &now));
            let status = status.filter(|status| !publish::is_deleting(topic) && topic.status.as_ref() != Some(status));
            Write { topic: topic.clone(), status, finalizer }.run(&self.config).await?;
        }
        Ok(())
    }
}

/// Wall time as Kubernetes writes it.
fn time(clock: Clock) -> Time {
    Time(Timestamp::from_second(clock.wall_ms() / 1000).unwrap_or_default())
}
