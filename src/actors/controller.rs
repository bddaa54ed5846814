//! Keeps the brokers' shares even: names brokers for partitions whose broker is gone for good, and lets a broker that
//! is new, or much less loaded than the others, have its part. Who does it is [`ClusterImage::controller`].
//!
//! It moves nothing itself. It changes which broker a topic names, by compare-and-swap; the brokers do the rest
//! ([`leadership`](super::leadership)). It is never in the way of a failover, for which nobody waits for it.

use crate::actors::context::NodeContext;
use crate::broker::Broker;
use crate::ids::BrokerId;
use crate::metadata::image::ClusterImage;
use crate::metadata::placement::{self, Candidates};
use crate::metadata::watcher::ImageFeed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The brokers must have been the same for this long before anything moves to even shares out.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// A broker that is away for this long is gone: its partitions are not kept for it.
const GONE_AFTER: Duration = Duration::from_secs(600);

/// What has been seen of the brokers.
#[derive(Debug, Default)]
pub struct Sight {
    candidates: Option<(Candidates, Instant)>,
    away_since: BTreeMap<BrokerId, Instant>,
}

impl Sight {
    /// Looks at an image. Returns the brokers that are gone, once it is time to even shares out.
    pub fn look(&mut self, image: &ClusterImage, now: Instant) -> Option<BTreeSet<BrokerId>> {
        let candidates = Candidates::of(image);
        let live = image.brokers();
        let named = image.topics().flat_map(|t| t.value.placement.iter().copied());
        let away: BTreeSet<BrokerId> = named.filter(|node| !live.contains_key(node)).collect();
        self.away_since.retain(|node, _| away.contains(node));
        for node in away {
            self.away_since.entry(node).or_insert(now);
        }
        if self.candidates.as_ref().is_none_or(|(known, _)| *known != candidates) {
            self.candidates = Some((candidates, now));
        }
        let settled = self.candidates.as_ref().is_some_and(|(_, since)| now - *since >= SETTLED_AFTER);
        let gone = self.away_since.iter().filter(|(_, since)| now - **since >= GONE_AFTER).map(|(node, _)| *node);
        settled.then(|| gone.collect())
    }
}

/// Looks after the shares until the process ends.
pub async fn run(context: Arc<NodeContext>, broker: Arc<Broker>, feed: ImageFeed) {
    let mut sight = Sight::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        crate::failpoint::hit("controller.look");
        let image = feed.current();
        let gone = sight.look(&image, context.clock.monotonic());
        if image.controller() != Some(context.registration.writer) {
            continue;
        }
        let Some(gone) = gone else { continue };
        for (name, moves) in placement::balance(&image, &gone) {
            let Some(topic) = image.topic(&name) else { continue };
            tracing::info!(topic = name, partitions = moves.len(), "partitions are given to other brokers");
            let node = context.registration.value.node;
            if let Err(error) = broker.admin.place_partitions(&name, topic.value.id, &moves, node).await {
                tracing::warn!(topic = name, %error, "partitions could not be given to other brokers; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{TopicId, WriterId};
    use crate::metadata::keys::Keys;
    use crate::metadata::model::{self, LiveValue, TopicState, TopicValue};
    use crate::metadata::{Entry, WatchEvent};

    #[test]
    fn shares_are_evened_out_when_brokers_have_settled_and_the_gone_are_given_up_later() {
        let (keys, mut image) = (Keys::new("test"), ClusterImage::default());
        let entry = |key, value| WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 });
        image.apply(&keys, entry(keys.live(WriterId(1)), model::encode(&LiveValue::sample(1))));
        let topic = TopicValue {
            v: 1,
            id: TopicId(uuid::Uuid::from_u128(1)),
            partitions: 2,
            configs: BTreeMap::new(),
            state: TopicState::Live,
            placement: vec![BrokerId(1), BrokerId(2)],
        };
        image.apply(&keys, entry(keys.topic("a"), model::encode(&topic)));
        let (mut sight, start) = (Sight::default(), crate::clock::monotonic());
        assert_eq!(sight.look(&image, start), None);
        assert_eq!(sight.look(&image, start + SETTLED_AFTER), Some(BTreeSet::new()));
        assert_eq!(sight.look(&image, start + GONE_AFTER), Some(BTreeSet::from([BrokerId(2)])));
        image.apply(&keys, entry(keys.live(WriterId(2)), model::encode(&LiveValue::sample(2))));
        assert_eq!(sight.look(&image, start + GONE_AFTER), None, "it is back: wait and see");
        assert_eq!(sight.look(&image, start + GONE_AFTER + SETTLED_AFTER), Some(BTreeSet::new()));
    }
}
