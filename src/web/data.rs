//! What pages about topics and groups keep between two requests.

use super::cluster::Cluster;
use super::groups::{GroupIndex, LagWatch, Previews};
use super::kafka::KafkaClient;
use super::topics::{RateIndex, SizeIndex};
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::{ActorRegistry, supervise_loop};
use crate::clock::Clock;
use std::sync::Arc;

/// See the module's documentation.
pub struct DataState {
    /// Sizes of topics.
    pub sizes: SizeIndex,
    /// How busy topics are.
    pub rates: RateIndex,
    /// Groups.
    pub groups: Arc<GroupIndex>,
    /// Lag of groups that somebody looks at.
    pub lags: Arc<LagWatch>,
    /// Resets that were shown.
    pub previews: Previews,
}

impl DataState {
    /// Empty, and two loops that fill it while somebody looks.
    pub fn start(
        clock: Clock,
        kafka: &Arc<KafkaClient>,
        cluster: &Arc<Cluster>,
        registry: &Arc<ActorRegistry>,
        io: &IoPool,
    ) -> Self {
        let (groups, lags) = (Arc::new(GroupIndex::new(clock)), Arc::new(LagWatch::new(clock)));
        let (index, client, cluster) = (groups.clone(), kafka.clone(), cluster.clone());
        supervise_loop("group-index", registry, io, move || index.clone().run(client.clone(), cluster.clone()));
        let (watch, client) = (lags.clone(), kafka.clone());
        supervise_loop("lag-watch", registry, io, move || watch.clone().run(client.clone()));
        Self { sizes: SizeIndex::default(), rates: RateIndex::default(), groups, lags, previews: Previews::new(clock) }
    }
}
