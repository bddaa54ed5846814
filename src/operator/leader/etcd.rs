//! Leadership as a key in etcd that vanishes with its lease. The token is the revision at which the key was created, and
//! whoever writes to the same etcd can compare it in the same transaction ([`LeaderKey`]).

use super::state::DURATION;
use super::{Attempted, Election};
use crate::ids::FencingToken;
use crate::metadata::etcd::{EtcdSettings, EtcdStore};
use crate::metadata::{Compare, LeaseId, MetadataError, MetadataStore, Op, Txn, TxnOutcome};
use async_trait::async_trait;

/// Where the leader of an election stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey(String);

impl LeaderKey {
    /// The key of the election `name`.
    pub fn new(name: &str) -> Self {
        Self(format!("/kafscale-operators/{name}"))
    }

    /// Holds while the leader with this token leads. Only for the etcd that the election is in.
    pub fn held(&self, token: FencingToken) -> Compare {
        Compare::CreateRevision(self.0.clone(), token.0 as i64)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct EtcdElection {
    settings: EtcdSettings,
    store: Option<EtcdStore>,
    key: LeaderKey,
    identity: String,
    held: Option<(LeaseId, FencingToken)>,
}

impl EtcdElection {
    /// Takes part in the election `name` as `identity`.
    pub fn new(endpoints: Vec<String>, name: &str, identity: &str) -> Self {
        let settings = EtcdSettings::new(endpoints);
        Self { settings, store: None, key: LeaderKey::new(name), identity: identity.to_owned(), held: None }
    }

    async fn store(&mut self) -> Result<EtcdStore, MetadataError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = EtcdStore::connect(self.settings.clone()).await?;
        Ok(self.store.insert(store).clone())
    }

    async fn renew_or_take(&mut self) -> Result<Attempted, MetadataError> {
        let store = self.store().await?;
        if let Some((lease, token)) = self.held {
            match store.lease_keep_alive(lease).await {
                Ok(()) => {}
                Err(MetadataError::LeaseExpired { .. }) => self.held = None,
                Err(error) => return Err(error),
            }
            // Somebody may have deleted the key by hand.
            let entry = store.get(&self.key.0).await?;
            if self.held.is_some() && entry.is_some_and(|entry| entry.create_revision == token.0 as i64) {
                return Ok(Attempted::Leading(token));
            }
            self.held = None;
        }
        if let Some(entry) = store.get(&self.key.0).await? {
            let leader = Some(String::from_utf8_lossy(&entry.value).into_owned());
            return Ok(Attempted::Standby { leader });
        }
        let lease = store.lease_grant(DURATION).await?;
        let put = Op::Put(self.key.0.clone(), self.identity.clone().into(), Some(lease));
        let free = Compare::CreateRevision(self.key.0.clone(), 0);
        match store.txn(Txn { compares: vec![free], ops: vec![put] }).await {
            Ok(TxnOutcome::Committed(revision)) => {
                let token = FencingToken(revision.unsigned_abs());
                self.held = Some((lease, token));
                Ok(Attempted::Leading(token))
            }
            Ok(TxnOutcome::Rejected(_)) => {
                // It ends by itself if this fails.
                drop(store.lease_revoke(lease).await);
                Ok(Attempted::Standby { leader: None })
            }
            Err(error) => {
                drop(store.lease_revoke(lease).await);
                Err(error)
            }
        }
    }
}

#[async_trait(?Send)]
impl Election for EtcdElection {
    async fn attempt(&mut self) -> Result<Attempted, String> {
        self.renew_or_take().await.map_err(|error| format!("etcd of KAFSCALE_OPERATOR_ETCD_ENDPOINTS: {error}"))
    }

    async fn release(&mut self) -> Result<(), String> {
        let (Some((lease, _)), Some(store)) = (self.held.take(), &self.store) else { return Ok(()) };
        store.lease_revoke(lease).await.map_err(|error| error.to_string())
    }
}
