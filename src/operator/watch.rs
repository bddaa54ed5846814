//! Follows resources and what belongs to them, and says which cluster to look at again. Nothing is decided here.

use super::context::{Key, OperatorContext};
use super::crd::{CLUSTER_LABEL, KafscaleCluster, KafscaleTopic};
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::supervise_loop;
use crate::config::operator::Watched;
use futures::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Kinds that the operator makes, or that come of what it makes: group, version, kind.
const OWNED: [(&str, &str, &str); 9] = [
    ("apps", "v1", "StatefulSet"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "ServiceAccount"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("batch", "v1", "CronJob"),
];

/// What is read of clusters.
const CLUSTERS: &str = "clusters";
/// What is read of topics.
const TOPICS: &str = "topics";

/// Why a cluster is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Why {
    /// Something it consists of does differently, or it is time.
    #[default]
    Look,
    /// It or an object of its has changed: everything is applied again.
    Changed,
}

/// Clusters that are to be looked at. One entry per cluster, however much happens.
#[derive(Debug, Default)]
pub struct Queue {
    dirty: Mutex<BTreeMap<Key, Why>>,
    notify: Notify,
}

impl Queue {
    /// Asks for a look.
    pub fn push(&self, key: Key, why: Why) {
        let mut dirty = self.dirty.lock().expect("no panic under the lock");
        let old = dirty.entry(key).or_default();
        *old = (*old).max(why);
        self.notify.notify_one();
    }

    /// Those that were asked for, once there are any.
    pub async fn take(&self) -> BTreeMap<Key, Why> {
        loop {
            let dirty = std::mem::take(&mut *self.dirty.lock().expect("no panic under the lock"));
            if !dirty.is_empty() {
                return dirty;
            }
            self.notify.notified().await;
        }
    }
}

/// The resources of one kind, by namespace and name. What is behind the watch by a moment, as every cache.
#[derive(Debug)]
struct Resources<K>(Mutex<BTreeMap<Key, Arc<K>>>);

impl<K> Default for Resources<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K> Resources<K> {
    fn all(&self) -> BTreeMap<Key, Arc<K>> {
        self.0.lock().expect("no panic under the lock").clone()
    }
}

/// What watches have seen.
#[derive(Debug, Default)]
pub struct Seen {
    clusters: Resources<KafscaleCluster>,
    topics: Resources<KafscaleTopic>,
    /// Lists that have not been read once yet.
    unread: Mutex<BTreeSet<(&'static str, Option<String>)>>,
    /// Clusters to be looked at.
    pub queue: Queue,
}

impl Seen {
    /// All clusters that are looked after.
    pub fn clusters(&self) -> BTreeMap<Key, Arc<KafscaleCluster>> {
        self.clusters.all()
    }

    /// All topics in the namespaces that are looked after.
    pub fn topics(&self) -> BTreeMap<Key, Arc<KafscaleTopic>> {
        self.topics.all()
    }

    /// Everything has been read once. Before that, what is not there may only not be known.
    pub fn is_complete(&self) -> bool {
        self.unread.lock().expect("no panic under the lock").is_empty()
    }

    fn expect(&self, what: &'static str, scope: Option<&str>) {
        self.unread.lock().expect("no panic under the lock").insert((what, scope.map(str::to_owned)));
    }

    fn read(&self, what: &'static str, scope: Option<&str>) {
        let mut unread = self.unread.lock().expect("no panic under the lock");
        if unread.remove(&(what, scope.map(str::to_owned))) && unread.is_empty() {
            drop(unread);
            self.clusters().into_keys().for_each(|key| self.queue.push(key, Why::Changed));
        }
    }
}

/// Starts all watches; they go on until the process ends.
pub fn start(context: &Arc<OperatorContext>, io: &IoPool) {
    let scopes: Vec<Option<String>> = match context.watched() {
        Watched::All => vec![None],
        Watched::Namespaces(names) => names.into_iter().map(Some).collect(),
    };
    for scope in &scopes {
        context.seen.expect(CLUSTERS, scope.as_deref());
        context.seen.expect(TOPICS, scope.as_deref());
    }
    for scope in scopes {
        let (shared, namespace) = (context.clone(), scope.clone());
        supervise_loop("watch-clusters", &context.registry, io, move || {
            let (context, namespace) = (shared.clone(), namespace.clone());
            async move {
                let api: Api<KafscaleCluster> = api(&context.client, namespace.as_deref());
                let events = watcher::watcher(api, watcher::Config::default());
                let tell = |key: &Key, _: &KafscaleCluster| context.seen.queue.push(key.clone(), Why::Changed);
                let read = || context.seen.read(CLUSTERS, namespace.as_deref());
                follow(events, namespace.as_deref(), &context.seen.clusters, tell, read).await;
            }
        });
        let (shared, namespace) = (context.clone(), scope.clone());
        supervise_loop("watch-topics", &context.registry, io, move || {
            let (context, namespace) = (shared.clone(), namespace.clone());
            async move {
                let api: Api<KafscaleTopic> = api(&context.client, namespace.as_deref());
                let events = watcher::watcher(api, watcher::Config::default());
                let tell = |key: &Key, topic: &KafscaleTopic| {
                    let cluster = Key { namespace: key.namespace.clone(), name: topic.spec.cluster_ref.clone() };
                    context.seen.queue.push(cluster, Why::Look);
                };
                let read = || context.seen.read(TOPICS, namespace.as_deref());
                follow(events, namespace.as_deref(), &context.seen.topics, tell, read).await;
            }
        });
        for (group, version, kind) in OWNED {
            let (shared, namespace) = (context.clone(), scope.clone());
            supervise_loop("watch-owned", &context.registry, io, move || {
                follow_owned(shared.clone(), namespace.clone(), GroupVersionKind::gvk(group, version, kind))
            });
        }
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn key_of<K: ResourceExt>(object: &K) -> Key {
    Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// Keeps `into` as the events say, as far as `scope` goes, tells of every change, and when everything has been read.
async fn follow<K: ResourceExt + Clone + Debug>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    scope: Option<&str>,
    into: &Resources<K>,
    tell: impl Fn(&Key, &K),
    read: impl Fn(),
) {
    let mut listed = BTreeSet::new();
    let mut events = std::pin::pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let key = key_of(&object);
                listed.insert(key.clone());
                tell(&key, &object);
                into.0.lock().expect("no panic under the lock").insert(key, Arc::new(object));
            }
            Ok(Event::InitDone) => {
                let mut all = into.0.lock().expect("no panic under the lock");
                let mine = |key: &Key| scope.is_none_or(|scope| key.namespace == scope);
                let gone: Vec<Key> = all.keys().filter(|key| mine(key) && !listed.contains(*key)).cloned().collect();
                for key in gone {
                    if let Some(object) = all.remove(&key) {
                        tell(&key, &object);
                    }
                }
                drop(all);
                read();
            }
            Ok(Event::Delete(object)) => {
                let key = key_of(&object);
                into.0.lock().expect("no panic under the lock").remove(&key);
                tell(&key, &object);
            }
            Err(error) => tracing::warn!(%error, "a watch failed; it begins again"),
        }
    }
}

/// Tells the cluster that an object belongs to of every change; keeps nothing.
async fn follow_owned(context: Arc<OperatorContext>, namespace: Option<String>, gvk: GroupVersionKind) {
    let resource = ApiResource::from_gvk(&gvk);
    let client = context.client.clone();
    let api: Api<PartialObjectMeta<DynamicObject>> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    // What a pod does changes often and is no drift.
    let why = if gvk.kind == "Pod" { Why::Look } else { Why::Changed };
    let ours = watcher::Config::default().labels(CLUSTER_LABEL);
    let mut events = std::pin::pin!(watcher::watcher(api, ours).default_backoff());
    while let Some(event) = events.next().await {
        let (object, why) = match event {
            Ok(Event::Apply(object)) => (object, why),
            Ok(Event::InitApply(object)) => (object, Why::Look),
            Ok(Event::Delete(object)) => (object, why),
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::warn!(%error, kind = gvk.kind, "a watch failed; it begins again");
                continue;
            }
        };
        let namespace = object.namespace().unwrap_or_default();
        if let Some(name) = object.labels().get(CLUSTER_LABEL) {
            context.seen.queue.push(Key { namespace, name: name.clone() }, why);
        }
    }
}
