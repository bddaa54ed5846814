//! Where the console finds the cluster: its image, followed from etcd or shared with the broker of `kafscale dev`, and how etcd
//! itself does.

use super::source::BrokerSource;
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::{ActorRegistry, supervise_loop};
use crate::clock::Clock;
use crate::config::MetadataConfig;
use crate::metadata::etcd::members::{MemberStatus, Members};
use crate::metadata::etcd::{EtcdSettings, EtcdStore};
use crate::metadata::image::ClusterImage;
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, ClusterValue, LiveValue};
use crate::metadata::watcher::{self, ImageFeed};
use crate::metadata::{MetadataError, MetadataStore, Revision, desired};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pause between attempts to reach etcd for the first time.
const CONNECT_AGAIN: Duration = Duration::from_secs(2);
/// How often etcd is asked how it is.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How etcd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdLevel {
    /// All members are well.
    Healthy,
    /// It answers, and something is wrong.
    Degraded,
    /// It does not answer.
    Unavailable,
    /// There is none: `kafscale dev` keeps its metadata in a file.
    Embedded,
    /// Nobody has asked yet, or none is configured.
    Unknown,
}

impl EtcdLevel {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::Embedded => "embedded",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of etcd.
#[derive(Debug, Clone)]
pub struct EtcdView {
    /// How it does.
    pub level: EtcdLevel,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
    /// Why it is not well.
    pub reasons: Vec<String>,
    /// Its members.
    pub members: Vec<MemberStatus>,
    /// When it was asked, Unix milliseconds.
    pub as_of_ms: i64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Cluster {
    clock: Clock,
    feed: ImageFeed,
    etcd: Option<EtcdSettings>,
    namespace: String,
    /// Metrics of brokers that do not say where theirs are.
    metrics_url: Option<String>,
    cluster_id: ArcSwapOption<String>,
    view: ArcSwap<EtcdView>,
    is_connected: AtomicBool,
    /// What follows the image.
    store: Mutex<Option<Arc<dyn MetadataStore>>>,
    /// Topics of the operator's document, at its revision.
    managed: tokio::sync::Mutex<(Revision, Arc<BTreeSet<String>>)>,
    started_ms: i64,
}

impl Cluster {
    /// A cluster that is followed in etcd, if one is configured. Nothing is asked before [`Self::start`].
    pub fn remote(
        clock: Clock,
        metadata: Option<MetadataConfig>,
        namespace: String,
        metrics_url: Option<String>,
    ) -> Self {
        let etcd = metadata.and_then(|metadata| match metadata {
            MetadataConfig::Etcd { endpoints, username, password, tls } => Some(EtcdSettings {
                username,
                password: password.map(|password| password.expose().to_owned()),
                tls_ca_pem: tls.ca_pem.map(String::into_bytes),
                tls_identity_pem: tls
                    .identity
                    .map(|(chain, key)| (chain.into_bytes(), key.expose().as_bytes().to_vec())),
                ..EtcdSettings::new(endpoints)
            }),
            MetadataConfig::Embedded { .. } => None,
        });
        let reasons = match &etcd {
            Some(_) => Vec::new(),
            None => vec!["KAFSCALE_CONSOLE_ETCD_ENDPOINTS is not set".to_owned()],
        };
        let is_connected = AtomicBool::new(false);
        Self::new(clock, ImageFeed::default(), etcd, namespace, metrics_url, is_connected, EtcdLevel::Unknown, reasons)
    }

    /// The cluster of a broker in this process.
    pub fn beside(clock: Clock, feed: ImageFeed, namespace: String, cluster_id: String) -> Self {
        let is_connected = AtomicBool::new(true);
        let cluster = Self::new(clock, feed, None, namespace, None, is_connected, EtcdLevel::Embedded, Vec::new());
        cluster.cluster_id.store(Some(Arc::new(cluster_id)));
        cluster
    }

    #[allow(clippy::too_many_arguments)] // the fields
    fn new(
        clock: Clock,
        feed: ImageFeed,
        etcd: Option<EtcdSettings>,
        namespace: String,
        metrics_url: Option<String>,
        is_connected: AtomicBool,
        level: EtcdLevel,
        reasons: Vec<String>,
    ) -> Self {
        let started_ms = clock.wall_ms();
        let view = EtcdView { level, since_ms: started_ms, reasons, members: Vec::new(), as_of_ms: started_ms };
        Self {
            clock,
            feed,
            etcd,
            namespace,
            metrics_url,
            cluster_id: ArcSwapOption::empty(),
            view: ArcSwap::from_pointee(view),
            is_connected,
            store: Mutex::default(),
            managed: tokio::sync::Mutex::default(),
            started_ms,
        }
    }

    /// Follows etcd from now on.
    pub fn start(self: &Arc<Self>, registry: &Arc<ActorRegistry>, io: &IoPool) {
        if self.etcd.is_none() {
            return;
        }
        let cluster = self.clone();
        supervise_loop("cluster-watch", registry, io, move || cluster.clone().follow());
        let cluster = self.clone();
        supervise_loop("etcd-probe", registry, io, move || cluster.clone().probe());
    }

    async fn follow(self: Arc<Self>) {
        let settings = self.etcd.clone().expect("started with etcd");
        let store = loop {
            match EtcdStore::connect(settings.clone()).await {
                Ok(store) => break store,
                Err(error) => tracing::debug!(%error, "etcd cannot be reached"),
            }
            tokio::time::sleep(CONNECT_AGAIN).await;
        };
        let store: Arc<dyn MetadataStore> = Arc::new(store);
        *self.store.lock().expect("no panic under the lock") = Some(store.clone());
        watcher::run(store, Keys::new(&self.namespace), self.feed.clone()).await;
    }

    async fn probe(self: Arc<Self>) {
        let settings = self.etcd.clone().expect("started with etcd");
        let cluster_key = Keys::new(&self.namespace).cluster();
        let members = match Members::new(&settings) {
            Ok(members) => members,
            Err(error) => return tracing::error!(%error, "etcd cannot be asked how it is"),
        };
        let mut store = None;
        loop {
            if store.is_none() {
                store = EtcdStore::connect(settings.clone()).await.ok();
            }
            let statuses = members.status().await;
            // A linearizable read: only a quorum answers it.
            let read = match &store {
                Some(store) => store.get(&cluster_key).await,
                None => Err(MetadataError::Unavailable { message: "no member can be reached".to_owned() }),
            };
            if matches!(read, Err(MetadataError::WentBack { .. })) {
                store = None; // it was restored from a backup: that is for brokers to refuse
            }
            let read = read.map_err(|e| e.to_string());
            let mut reasons = Vec::new();
            let level = match &read {
                Err(error) => {
                    reasons.push(error.clone());
                    EtcdLevel::Unavailable
                }
                Ok(_) => {
                    reasons.extend(statuses.iter().filter_map(MemberStatus::problem));
                    if reasons.is_empty() { EtcdLevel::Healthy } else { EtcdLevel::Degraded }
                }
            };
            if let Ok(Some(entry)) = &read
                && let Ok(value) = model::decode::<ClusterValue>(entry)
            {
                self.cluster_id.store(Some(Arc::new(value.cluster_id)));
            }
            self.is_connected.store(read.is_ok(), Ordering::Relaxed);
            self.publish(level, reasons, statuses);
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    fn publish(&self, level: EtcdLevel, reasons: Vec<String>, members: Vec<MemberStatus>) {
        let (before, now_ms) = (self.view.load(), self.clock.wall_ms());
        let since_ms = if before.level == level { before.since_ms } else { now_ms };
        self.view.store(Arc::new(EtcdView { level, since_ms, reasons, members, as_of_ms: now_ms }));
    }

    /// The cluster's image; `None` before the first one has come.
    pub fn image(&self) -> Option<Arc<ClusterImage>> {
        let image = self.feed.current();
        (image.revision > 0).then_some(image)
    }

    /// Topics that resources of the operator describe, or why they are not known.
    pub async fn managed(&self) -> Result<Arc<BTreeSet<String>>, String> {
        let revision = self.image().map_or(0, |image| image.desired());
        let store = self.store.lock().expect("no panic under the lock").clone();
        // Without a document there is no operator, and beside a broker of `kafscale dev` there never is.
        let Some(store) = store.filter(|_| revision > 0) else { return Ok(Arc::default()) };
        let mut managed = self.managed.lock().await;
        if managed.0 != revision {
            let found = desired::read(&*store, &Keys::new(&self.namespace)).await.map_err(|e| e.to_string())?;
            let (names, at) = found.map_or_else(Default::default, |(document, at)| {
                (document.topics.into_keys().collect::<BTreeSet<_>>(), at)
            });
            *managed = (at, Arc::new(names));
        }
        Ok(managed.1.clone())
    }

    /// How etcd does.
    pub fn etcd(&self) -> Arc<EtcdView> {
        self.view.load_full()
    }

    /// Whether etcd is there, or the metadata are in a file.
    pub fn kind(&self) -> &'static str {
        if self.view.load().level == EtcdLevel::Embedded { "embedded" } else { "etcd" }
    }

    /// The cluster's id, if somebody has said it.
    pub fn cluster_id(&self) -> Option<Arc<String>> {
        self.cluster_id.load_full()
    }

    /// The cluster's name in etcd.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Why the image may be old, and since when; `None` if it is not.
    pub fn stale(&self) -> Option<(String, i64)> {
        if self.is_connected.load(Ordering::Relaxed) {
            return None;
        }
        let view = self.view.load();
        match view.level {
            EtcdLevel::Unknown if self.etcd.is_some() => Some(("not asked yet".to_owned(), self.started_ms)),
            _ => Some((view.reasons.join("; "), view.since_ms)),
        }
    }

    /// Live brokers.
    pub fn brokers(&self) -> Vec<Arc<LiveValue>> {
        self.image().map(|image| image.brokers().into_values().collect()).unwrap_or_default()
    }
}

impl BrokerSource for Cluster {
    fn bootstrap(&self) -> Vec<String> {
        self.brokers().iter().map(|live| address(&live.host, live.port)).collect()
    }

    fn metrics_urls(&self) -> Vec<(i32, String)> {
        let told = |live: &Arc<LiveValue>| {
            let url = live.metrics.as_ref().map(|address| format!("http://{address}"));
            // One URL for all is right only if it is one broker, or a load balancer of several of which each answers for itself.
            let url = url.or_else(|| self.metrics_url.as_deref().map(base_url));
            Some((live.node.0, url?))
        };
        let found: Vec<_> = self.brokers().iter().filter_map(told).collect();
        match &self.metrics_url {
            Some(url) if found.is_empty() => vec![(super::scrape::UNKNOWN_BROKER, base_url(url))],
            _ => found,
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The guide's variable names the whole page of metrics.
fn base_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/metrics").unwrap_or(url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_url_may_name_the_page() {
        for url in ["http://a:1", "http://a:1/", "http://a:1/metrics", "http://a:1/metrics/"] {
            assert_eq!(base_url(url), "http://a:1");
        }
        assert_eq!((address("h", 1), address("::1", 1)), ("h:1".to_owned(), "[::1]:1".to_owned()));
    }
}
