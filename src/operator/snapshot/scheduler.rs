//! The actor that tries buckets, and remembers what came of it.

use super::state::{Access, Tried, is_due};
use super::{SnapshotSettings, access};
use crate::actors::supervisor::{ActorRef, ActorRegistry, Escalation, RestartPolicy, Supervision, supervise};
use crate::clock::Clock;
use crate::operator::etcd::metrics::ClusterKey;
use crate::storage::s3::StaticCredentials;
use crate::trace;
use actix::{Actor, ActorFutureExt, Context, Handler, Message, MessageResult, ResponseActFuture, WrapFuture};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tracing::Instrument;

/// Messages that wait; one for each look at a cluster.
const MAILBOX: usize = 256;
/// Pause after it has failed too often.
const ESCALATED_MS: u64 = 60_000;

/// See the module's documentation. One per operator.
#[derive(Debug)]
pub struct SnapshotScheduler {
    clock: Clock,
    tried: BTreeMap<ClusterKey, Tried>,
}

impl SnapshotScheduler {
    /// Starts it, on the arbiter of the caller. Whenever it has to start again it has tried nothing.
    pub fn start(clock: Clock, registry: Arc<ActorRegistry>) -> ActorRef<Self> {
        let supervision = Supervision {
            name: "snapshots".to_owned(),
            policy: RestartPolicy::default(),
            registry,
            on_escalate: Box::new(|_| Escalation::RetryAfterMs(ESCALATED_MS)),
        };
        supervise(supervision, MAILBOX, move |_| {
            let scheduler = Self { clock, tried: BTreeMap::new() };
            Box::pin(async move { Ok(scheduler) })
        })
    }
}

impl Actor for SnapshotScheduler {
    type Context = Context<Self>;
}

/// Can snapshots of this cluster be written? Tries it if the last try is too old or was another one's.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Access")]
pub struct Check {
    /// Which cluster.
    pub cluster: ClusterKey,
    /// Where they are to be written.
    pub settings: SnapshotSettings,
    /// Who writes; `None` is who the operator is to AWS.
    pub credentials: Option<StaticCredentials>,
}

impl Check {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.settings.hash(&mut hasher);
        let credentials = self.credentials.as_ref();
        credentials.map(|c| (&c.access_key, &c.secret_key, &c.session_token)).hash(&mut hasher);
        hasher.finish()
    }
}

impl Handler<Check> for SnapshotScheduler {
    type Result = ResponseActFuture<Self, Access>;

    fn handle(&mut self, check: Check, _context: &mut Context<Self>) -> Self::Result {
        let (fingerprint, now_ms) = (check.fingerprint(), self.clock.monotonic_ms());
        let last = self.tried.get(&check.cluster);
        let known = match last {
            _ if check.settings.skip_preflight => Some(Access::Skipped),
            Some(last) if !is_due(Some(last), fingerprint, now_ms) => Some(last.access.clone()),
            _ => None,
        };
        if let Some(access) = known {
            return Box::pin(std::future::ready(access).into_actor(self));
        }
        let attempt = async move {
            let span = trace::snapshot_check(&check.settings.bucket);
            let access = access::attempt(&check.settings, check.credentials).instrument(span).await;
            (check.cluster, access)
        };
        Box::pin(attempt.into_actor(self).map(move |(cluster, access), actor, _| {
            let at_ms = actor.clock.monotonic_ms();
            actor.tried.insert(cluster, Tried { fingerprint, at_ms, access: access.clone() });
            access
        }))
    }
}

/// A cluster is gone, or has no snapshots any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Forget(pub ClusterKey);

impl Handler<Forget> for SnapshotScheduler {
    type Result = MessageResult<Forget>;

    fn handle(&mut self, Forget(cluster): Forget, _context: &mut Context<Self>) -> Self::Result {
        self.tried.remove(&cluster);
        MessageResult(())
    }
}
