//! Keeps the process's [`ClusterImage`] up to date.
//!
//! [`run`] follows one watch over the whole cluster prefix: it takes all events that wait, applies them to one copy of
//! the image and publishes it once. [`ImageFeed`] is what everybody else holds: the current image, and ways to wait
//! for a change that one has just made oneself.

use super::image::ClusterImage;
use super::keys::{Keys, ParsedKey};
use super::{Entry, MetadataStore, Revision, WatchEvent};
use crate::protocol::config_defaults::Defaults;
use arc_swap::ArcSwap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Events applied to one copy of the image.
const BATCH_EVENTS_MAX: usize = 4096;

/// Distinct warnings that are remembered, so that each is logged once.
const WARNINGS_MAX: usize = 1000;

/// The current image and its revision; cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageFeed {
    image: Arc<ArcSwap<ClusterImage>>,
    published: Arc<Published>,
}

/// How often an image was published. Not tokio's `watch`, which wakes those who wait in random order: a simulation could not
/// be repeated.
#[derive(Debug, Default)]
struct Published {
    count: AtomicU64,
    more: Notify,
}

/// See [`ImageFeed::subscribe`].
#[derive(Debug)]
pub struct Publications {
    published: Arc<Published>,
    seen: u64,
}

impl Publications {
    /// Waits until an image was published after the last one that this has told of. Those who wait are woken in the order in
    /// which they came. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            let mut more = std::pin::pin!(self.published.more.notified());
            more.as_mut().enable(); // what is published from here on is heard of
            let count = self.published.count.load(Ordering::Acquire);
            if count != self.seen {
                self.seen = count;
                return;
            }
            more.await;
        }
    }
}

impl Default for ImageFeed {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl ImageFeed {
    /// A feed that publishes into `image`.
    pub fn new(image: Arc<ArcSwap<ClusterImage>>) -> Self {
        Self { image, published: Arc::default() }
    }

    /// A feed whose topics fall back to `defaults`.
    pub fn with_defaults(defaults: Defaults) -> Self {
        Self::new(Arc::new(ArcSwap::from_pointee(ClusterImage::with_defaults(defaults))))
    }

    /// Where the image is published.
    pub fn image(&self) -> &Arc<ArcSwap<ClusterImage>> {
        &self.image
    }

    /// The image as it is now.
    pub fn current(&self) -> Arc<ClusterImage> {
        self.image.load_full()
    }

    /// Tells when an image is published, from now on.
    pub fn subscribe(&self) -> Publications {
        let seen = self.published.count.load(Ordering::Acquire);
        Publications { published: self.published.clone(), seen }
    }

    /// Waits until `ready` holds for the image, for at most `timeout`. Returns whether it does.
    pub async fn wait_until(&self, timeout: Duration, ready: impl Fn(&ClusterImage) -> bool) -> bool {
        let mut publications = self.subscribe();
        let wait = async {
            while !ready(&self.image.load()) {
                publications.changed().await;
            }
        };
        tokio::time::timeout(timeout, wait).await.is_ok()
    }

    /// Waits until the image includes `revision` of a write below the cluster's prefix, for at most `timeout`.
    pub async fn wait_for(&self, timeout: Duration, revision: Revision) -> bool {
        self.wait_until(timeout, |image| image.revision >= revision).await
    }

    fn publish(&self, image: ClusterImage) {
        self.image.store(Arc::new(image));
        self.published.count.fetch_add(1, Ordering::AcqRel);
        self.published.more.notify_waiters();
    }
}

/// Follows the cluster until the store ends the watch. Safe to start again at any time: a watch opens with a snapshot.
pub async fn run(store: Arc<dyn MetadataStore>, keys: Keys, feed: ImageFeed) {
    let mut watch = store.watch_some(keys.root(), &keys.image_first(), &keys.writers());
    // The watch, not this function, keeps going; holding the store here would keep it alive for its own watcher.
    drop(store);
    let mut events = Vec::new();
    let mut warned = HashSet::new();
    while watch.recv_many(&mut events, BATCH_EVENTS_MAX).await > 0 {
        // A writer's head moves with every flush, groups change with commits; neither is part of the image: not worth a
        // copy, nor waking anybody.
        events.retain(|event| !is_busy(&keys, event));
        if events.is_empty() {
            continue;
        }
        let mut image = ClusterImage::clone(&feed.image.load());
        for event in events.drain(..) {
            for warning in image.apply(&keys, event) {
                if warned.len() < WARNINGS_MAX && warned.insert(warning.clone()) {
                    tracing::warn!("{warning}");
                }
            }
        }
        crate::failpoint::hit("watcher.publish");
        feed.publish(image);
    }
}

fn is_busy(keys: &Keys, event: &WatchEvent) -> bool {
    use ParsedKey::{DesiredStatus, Group, GroupOffsets, GroupWrites, Writer};
    match event {
        WatchEvent::Put(Entry { key, .. }) | WatchEvent::Delete { key, .. } => {
            matches!(keys.parse(key), Some(Writer(_) | Group(_) | GroupOffsets(..) | GroupWrites(_) | DesiredStatus))
        }
        WatchEvent::Snapshot { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::IoPool;
    use crate::metadata::admin::Admin;
    use crate::metadata::embedded::EmbeddedStore;
    use std::collections::BTreeMap;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn the_image_follows_the_store_and_waiters_wake() {
        let store: Arc<dyn MetadataStore> = Arc::new(EmbeddedStore::in_memory());
        let (keys, feed) = (Keys::new("test"), ImageFeed::default());
        let admin = Admin::new(store.clone(), keys.clone());
        let before = admin.create_topic("before", 1, BTreeMap::new(), Vec::new()).await.unwrap();
        let running = IoPool::current().spawn(run(store.clone(), keys, feed.clone()));
        assert!(feed.wait_until(LIMIT, |image| image.topic("before").is_some()).await);
        admin.create_topic("later", 1, BTreeMap::new(), Vec::new()).await.unwrap();
        admin.delete_topic("before", before.id).await.unwrap();
        let (_, revision) = store.get_prefix("").await.unwrap();
        assert!(feed.wait_for(LIMIT, revision).await);
        let names: Vec<_> = feed.current().topics().map(|topic| topic.name.to_string()).collect();
        assert_eq!(names, ["later"]);
        assert!(!feed.wait_for(LIMIT, revision + 1).await);
        drop((store, admin));
        running.await.unwrap();
    }
}
