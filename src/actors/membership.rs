//! Keeps the broker's lease alive, and says when the broker may have been sealed without knowing it.
//!
//! After `TTL - 3 s` without a confirmed renewal the broker stops accepting appends (readers go on with committed
//! data): somebody else may lead its partitions. Safety never depends on this, commits are fenced; it spares clients
//! the wait for acks that cannot come. When the store answers again and the writer is still active, the lease is made
//! anew and appends go on.

use crate::actors::writer::Fatal;
use crate::clock::Clock;
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, LiveValue, WriterState};
use crate::metadata::ownership::{Ownership, Registration};
use crate::metadata::{Compare, LeaseId, MetadataError, MetadataStore, Op, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time to live of a broker's lease.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
/// Renewal period.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Without a renewal for this long, appends are refused.
const SUSPEND_AFTER: Duration = Duration::from_secs(7);

/// Everything the loop needs.
pub struct Membership {
    /// The store.
    pub store: Arc<dyn MetadataStore>,
    /// Keys.
    pub keys: Keys,
    /// Reads of the writer's own key.
    pub ownership: Ownership,
    /// This writer.
    pub registration: Registration,
    /// What `live/{writer}` says.
    pub live: LiveValue,
    /// Refuses appends while set.
    pub suspended: Arc<AtomicBool>,
    /// Time.
    pub clock: Clock,
    /// Ends the process when the writer is sealed.
    pub on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

impl Membership {
    /// Renews until the process ends or the writer is sealed.
    pub async fn run(self) {
        let mut lease = self.registration.lease;
        let mut renewed = self.clock.monotonic();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            crate::failpoint::hit("membership.renew");
            let asked = self.clock.monotonic();
            match self.renew(&mut lease).await {
                Ok(true) => renewed = asked,
                Ok(false) => return,
                Err(error) => tracing::warn!(%error, "the broker's lease could not be renewed"),
            }
            let suspend = self.clock.monotonic() - renewed >= SUSPEND_AFTER;
            if self.suspended.swap(suspend, Ordering::AcqRel) != suspend {
                tracing::warn!(suspend, "appends are refused while the broker's lease is in doubt");
            }
        }
    }

    /// Returns false if the writer is sealed.
    async fn renew(&self, lease: &mut LeaseId) -> Result<bool, MetadataError> {
        match self.store.lease_keep_alive(*lease).await {
            Err(MetadataError::LeaseExpired { .. }) => {}
            other => return other.map(|()| true),
        }
        let writer = self.registration.writer;
        let found =
            self.ownership.writer(writer).await.map_err(|e| MetadataError::Unavailable { message: e.to_string() })?;
        let active = found.filter(|(v, _)| v.state == WriterState::Active && v.nonce == self.registration.nonce);
        let Some((_, revision)) = active else {
            (self.on_fatal)(Fatal::Fenced(format!("writer {writer} was sealed after its lease expired")));
            return Ok(false);
        };
        let fresh = self.store.lease_grant(LEASE_TTL).await?;
        let live = Op::Put(self.keys.live(writer), model::encode(&self.live), Some(fresh));
        // The head may move meanwhile, which is no reason to fail: compare the fence instead, which a seal deletes.
        let fence = Compare::CreateRevision(self.keys.fence(writer), self.registration.fence_revision);
        tracing::warn!(%writer, revision, "the broker's lease had expired; registering again");
        self.store.txn(Txn { compares: vec![fence], ops: vec![live] }).await?;
        *lease = fresh;
        Ok(true)
    }
}
