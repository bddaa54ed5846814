//! What a cluster's actor remembers between two looks. All of it can be lost: the status and what is there say the rest.

use crate::metadata::MetadataError;
use crate::metadata::etcd::{EtcdSettings, EtcdStore};
use crate::operator::rollout::drain::Drains;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time-out of questions to etcd: a look at a cluster must not wait long for one that is away.
const ETCD_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Memory {
    /// Drains under way.
    pub drains: Drains,
    /// Since when pods, by their uid, do not serve; by the own monotonic clock.
    pub not_serving_since_ms: BTreeMap<String, i64>,
    /// Fingerprints of objects that were applied, by kind and name.
    pub applied: BTreeMap<String, String>,
    /// Events that were told last, by condition.
    pub told: BTreeMap<&'static str, (Option<bool>, &'static str)>,
    etcd: Option<(EtcdAccess, EtcdStore)>,
}

/// How a cluster's etcd is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdAccess {
    /// Members.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EtcdAccess({})", self.endpoints.join(","))
    }
}

impl Memory {
    /// The store of a cluster; the connection is kept.
    pub async fn etcd(&mut self, access: EtcdAccess) -> Result<EtcdStore, MetadataError> {
        if let Some((_, store)) = self.etcd.as_ref().filter(|(known, _)| *known == access) {
            return Ok(store.clone());
        }
        let mut settings = EtcdSettings::new(access.endpoints.clone());
        settings.request_timeout = ETCD_TIMEOUT;
        if let Some((username, password)) = access.user.clone() {
            (settings.username, settings.password) = (Some(username), Some(password));
        }
        let store = EtcdStore::connect(settings).await?;
        self.etcd = Some((access, store.clone()));
        Ok(store)
    }

    /// The next look connects again.
    pub fn forget_etcd(&mut self) {
        self.etcd = None;
    }
}
