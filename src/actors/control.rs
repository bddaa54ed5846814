//! What request handlers may do to led partitions: the node's side of [`PartitionControl`].

use crate::actors::context::NodeContext;
use crate::actors::partition::producers::ProducerSnapshot;
use crate::actors::partition::{ListProducers, Trimmed};
use crate::broker::{PartitionControl, RaiseError};
use crate::ids::{Offset, PartitionKey};
use crate::metadata::MetadataError;
use crate::metadata::ownership::OwnershipError;
use crate::sabotage::{self, Sabotage};
use async_trait::async_trait;
use std::collections::BTreeMap;

/// Attempts to raise log starts that somebody else's change of the same keys prevented.
const RAISE_ATTEMPTS_MAX: u32 = 10;

#[async_trait]
impl PartitionControl for NodeContext {
    async fn raise_log_starts(&self, raises: &[(PartitionKey, Offset)]) -> Result<(), RaiseError> {
        if sabotage::is(Sabotage::TrimFirst) {
            self.publish_log_starts(raises).await?;
        }
        let mut attempts = 0;
        // False can mean that retention and a client raise the same log start: look again.
        while !self.ownership.raise_log_starts(&self.registration, raises).await.map_err(raise_error)? {
            attempts += 1;
            if attempts >= RAISE_ATTEMPTS_MAX || raises.iter().any(|(key, _)| !self.owns(key)) {
                return Err(RaiseError::NotOwned);
            }
        }
        self.publish_log_starts(raises).await
    }

    async fn producers(&self, key: &PartitionKey) -> Option<Vec<ProducerSnapshot>> {
        let owned = self.owned.read().expect("no panic under the lock").get(key).cloned();
        owned?.actor.addr()?.send(ListProducers).await.ok()
    }
}

impl NodeContext {
    /// Tells partitions of log starts.
    async fn publish_log_starts(&self, raises: &[(PartitionKey, Offset)]) -> Result<(), RaiseError> {
        let owned: BTreeMap<_, _> = self.owned_partitions().into_iter().collect();
        let mut outcome = Ok(());
        for (key, log_start) in raises {
            let told = match owned.get(key).and_then(|o| o.actor.addr()) {
                Some(addr) => addr.send(Trimmed(*log_start)).await.is_ok(),
                None => false,
            };
            // A partition that restarts just now may have read the log start before it was raised; whoever asked hears
            // that it has to try again.
            if !told {
                outcome = Err(RaiseError::NotOwned);
            }
        }
        outcome
    }
}

fn raise_error(error: OwnershipError) -> RaiseError {
    match error {
        OwnershipError::Metadata(error) => RaiseError::Metadata(error),
        fenced @ OwnershipError::Fenced { .. } => {
            RaiseError::Metadata(MetadataError::Unavailable { message: fenced.to_string() })
        }
    }
}
