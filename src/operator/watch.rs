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

    fn put(&self, key: Key, object: Arc<K>) {
        self.0.lock().expect("no panic under the lock").insert(key, object);
    }

    /// Removes and returns those that are meant.
    fn remove_if(&self, meant: impl Fn(&Key) -> bool) -> BTreeMap<Key, Arc<K>> {
        self.0.lock().expect("no panic under the lock").extract_if(.., |key, _| meant(key)).collect()
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

/// Keeps `into` as the events say, as far as `scope` goes, tells of every change, and when everything has been read. Whoever is told
/// finds in `into` what it was told of.
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
                let key = Key::of(&object);
                listed.insert(key.clone());
                let object = Arc::new(object);
                into.put(key.clone(), object.clone());
                tell(&key, &object);
            }
            Ok(Event::InitDone) => {
                let mine = |key: &Key| scope.is_none_or(|scope| key.namespace == scope);
                for (key, object) in into.remove_if(|key| mine(key) && !listed.contains(key)) {
                    tell(&key, &object);
                }
                read();
            }
            Ok(Event::Delete(object)) => {
                let key = Key::of(&object);
                into.remove_if(|other| *other == key);
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use std::cell::RefCell;

    fn object(namespace: &str, name: &str, version: u32) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn key(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn versions(into: &Resources<ConfigMap>) -> BTreeMap<Key, String> {
        let version = |object: &ConfigMap| object.metadata.resource_version.clone().unwrap();
        into.all().into_iter().map(|(key, object)| (key, version(&object))).collect()
    }

    /// Follows the events; what was told, and what was there at that moment.
    async fn told(into: &Resources<ConfigMap>, events: Vec<Event<ConfigMap>>) -> Vec<(Key, Option<String>)> {
        let told = RefCell::new(Vec::new());
        let tell = |key: &Key, _: &ConfigMap| told.borrow_mut().push((key.clone(), versions(into).remove(key)));
        let events = futures::stream::iter(events.into_iter().map(Ok));
        follow(events, Some("a"), into, tell, || {}).await;
        told.into_inner()
    }

    #[tokio::test]
    async fn who_is_told_of_a_change_finds_it() {
        let into = Resources::default();
        let events = vec![
            Event::Init,
            Event::InitApply(object("a", "x", 1)),
            Event::InitApply(object("a", "y", 2)),
            Event::InitDone,
            Event::Apply(object("a", "x", 3)),
            Event::Delete(object("a", "y", 4)),
        ];
        let at = |name, version: Option<&str>| (key("a", name), version.map(str::to_owned));
        let expected = [at("x", Some("1")), at("y", Some("2")), at("x", Some("3")), at("y", None)];
        assert_eq!(told(&into, events).await, expected);
        assert_eq!(versions(&into), [(key("a", "x"), "3".to_owned())].into());
    }

    #[tokio::test]
    async fn what_went_while_nobody_watched_is_told_when_it_is_gone_and_other_namespaces_stay() {
        let into = Resources::default();
        for (namespace, name) in [("a", "stays"), ("a", "gone"), ("b", "another's")] {
            into.put(key(namespace, name), Arc::new(object(namespace, name, 1)));
        }
        let events = vec![Event::Init, Event::InitApply(object("a", "stays", 1)), Event::InitDone];
        let expected = [(key("a", "stays"), Some("1".to_owned())), (key("a", "gone"), None)];
        assert_eq!(told(&into, events).await, expected);
        let left: Vec<Key> = into.all().into_keys().collect();
        assert_eq!(left, [key("a", "stays"), key("b", "another's")]);
    }
}
