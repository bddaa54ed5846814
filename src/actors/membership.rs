//! Keeps the broker's lease alive, and tells [`Standing`] when that was confirmed last.
//!
//! Without a confirmed renewal the broker stops accepting appends (readers go on with committed data): somebody else may
//! lead its partitions. When the store answers again and the writer is still active, the lease is made anew and appends
//! go on.

use crate::actors::standing::Standing;
use crate::actors::writer::{Fatal, WriterStats};
use crate::clock::Clock;
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, LiveValue, WriterState};
use crate::metadata::ownership::{Ownership, OwnershipError, Registration};
use crate::metadata::{Compare, LeaseId, MetadataError, MetadataStore, Op, Txn};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time to live of a broker's lease, if nothing else is said.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
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
    /// Time to live of the lease; it is renewed three times in it.
    pub lease_ttl: Duration,
    /// What `live/{writer}` says.
    pub announcement: Arc<Announcement>,
    /// Hears of renewals.
    pub standing: Arc<Standing>,
    /// What was committed.
    pub stats: Arc<WriterStats>,
    /// Time.
    pub clock: Clock,
    /// Ends the process when the writer is sealed.
    pub on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

/// What the metadata store says of this broker while its lease lives.
#[derive(Debug)]
pub struct Announcement {
    told: Mutex<(LiveValue, LeaseId)>,
}

impl Announcement {
    /// As registered.
    pub fn new(live: LiveValue, lease: LeaseId) -> Self {
        Self { told: Mutex::new((live, lease)) }
    }

    /// The value, and the lease it is bound to.
    pub fn told(&self) -> (LiveValue, LeaseId) {
        self.told.lock().expect("no panic under the lock").clone()
    }

    /// It drains from now on, or does not any more: whenever it is told.
    pub fn set_draining(&self, draining: bool) {
        self.told.lock().expect("no panic under the lock").0.draining = draining;
    }

    fn set_lease(&self, lease: LeaseId) {
        self.told.lock().expect("no panic under the lock").1 = lease;
    }
}

impl Membership {
    /// Renews until the process ends or the writer is sealed.
    pub async fn run(self) {
        let awake = async {
            loop {
                self.standing.awake();
                tokio::time::sleep(self.lease_ttl / 20).await;
            }
        };
        // Whatever renewing waits for.
        tokio::select! {
            biased;
            () = awake => {}
            () = self.renew_all_the_time() => {}
        }
    }

    async fn renew_all_the_time(&self) {
        let mut was_doubted = false;
        let mut next = self.lease_ttl * 3 / 10;
        loop {
            tokio::time::sleep(next).await;
            crate::failpoint::hit("membership.renew");
            let asked = self.clock.monotonic();
            let renewed = self.renew().await;
            // While the store does not answer there is nothing to read there, and no time to lose.
            let may_answer = !matches!(renewed, Err(MetadataError::Unavailable { .. }));
            next = self.lease_ttl * 3 / 10;
            match renewed {
                Ok(true) => self.standing.renewed(asked),
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the broker's lease could not be renewed");
                    next = self.lease_ttl / 20; // another member of the store may answer
                }
            }
            let disowned = if may_answer { self.disowned().await } else { None };
            if let Some(fatal) = disowned {
                (self.on_fatal)(fatal);
                return;
            }
            let doubted = self.standing.is_doubted();
            if std::mem::replace(&mut was_doubted, doubted) != doubted {
                tracing::warn!(doubted, "appends are refused while the broker's lease is in doubt");
            }
        }
    }

    /// Reads the writer's own key: a broker without load would otherwise not notice for long that it was sealed, or that
    /// the metadata store was replaced by an older one in which its lease lives.
    async fn disowned(&self) -> Option<Fatal> {
        let writer = self.registration.writer;
        let written = self.stats.revision.load(Ordering::Acquire);
        match self.ownership.writer(writer).await {
            Ok(Some((value, at))) if value.state == WriterState::Active && value.nonce == self.registration.nonce => {
                (at < written).then(|| {
                    let message = format!("writer {writer} committed at revision {written}, the store says {at}");
                    Fatal::WentBack(MetadataError::WentBack { message }.to_string())
                })
            }
            Ok(_) => Some(Fatal::Fenced(format!("writer {writer} was sealed"))),
            Err(OwnershipError::Metadata(error @ MetadataError::WentBack { .. })) => {
                Some(Fatal::WentBack(error.to_string()))
            }
            Err(_) => None, // as unavailable as the renewal
        }
    }

    /// Returns false if the writer is sealed.
    async fn renew(&self) -> Result<bool, MetadataError> {
        let (live, lease) = self.announcement.told();
        match self.store.lease_keep_alive(lease).await {
            Err(MetadataError::LeaseExpired { .. }) => self.standing.lost(),
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
        let fresh = self.store.lease_grant(self.lease_ttl).await?;
        let live = Op::Put(self.keys.live(writer), model::encode(&live), Some(fresh));
        // The head may move meanwhile, which is no reason to fail: compare the fence instead, which a seal deletes.
        let fence = Compare::CreateRevision(self.keys.fence(writer), self.registration.fence_revision);
        tracing::warn!(%writer, revision, "the broker's lease had expired; registering again");
        self.store.txn(Txn { compares: vec![fence], ops: vec![live] }).await?;
        self.announcement.set_lease(fresh);
        Ok(true)
    }
}
