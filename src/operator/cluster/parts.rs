//! Where other parts of the operator come in: topics, and etcd for clusters that have none.

use super::plan::Added;
use crate::actors::runtime::IoPool;
use crate::ids::FencingToken;
use crate::operator::context::OperatorContext;
use crate::operator::crd::status::{ConditionType, Finding};
use crate::operator::topics::{TopicsConfig, TopicsHandle};
use crate::operator::view::{ClusterView, EtcdMode};
use std::sync::Arc;

/// What works as long as this operator leads, and ends when it is dropped.
#[derive(Debug)]
pub struct Leading {
    token: FencingToken,
    topics: TopicsHandle,
}

impl Leading {
    /// This operator begins to lead.
    pub fn start(context: &Arc<OperatorContext>, token: FencingToken) -> Self {
        let leadership = context.leadership.clone();
        let topics = TopicsHandle::start(TopicsConfig {
            client: context.client.clone(),
            defaults: Arc::new(context.config.clone()),
            recorder: context.recorder.clone(),
            clock: context.clock,
            io: IoPool::current(),
            registry: context.registry.clone(),
            token,
            leads: Arc::new(move || leadership.token() == Ok(token)),
            stats: context.topics.clone(),
        });
        let leading = Self { token, topics };
        if context.seen.is_complete() {
            leading.changed(context);
        }
        leading
    }

    /// Of this leadership.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Clusters or topics have changed; all of them are known.
    pub fn changed(&self, context: &OperatorContext) {
        self.topics.clusters_changed(context.seen.clusters().into_values().collect());
        self.topics.topics_changed(context.seen.topics().into_values().collect());
    }
}

/// What they add to a cluster. Asked once per look, before anything is applied.
pub async fn added(_context: &OperatorContext, view: &ClusterView<'_>) -> Added {
    let mut added = Added::default();
    if view.etcd_mode() == EtcdMode::Managed {
        let message = "this version does not run etcd itself: name etcd of yours in spec.etcd.endpoints, or in \
                       KAFSCALE_OPERATOR_ETCD_ENDPOINTS of the operator";
        added.findings.push(Finding::no(ConditionType::EtcdAvailable, "NotManaged", message));
    }
    added
}
