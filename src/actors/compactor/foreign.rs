//! What other writers refer to, and the end of writers that nothing refers to.
//!
//! Objects are shared: a partition that moves takes along extents in objects of its former writers, and several writers can
//! refer to one of them. Whoever drops its last reference puts the object on its garbage list; before it is deleted, one
//! read of all writers' keys, which is atomic, says which checkpoints are the truth at that moment. What none of them and no
//! WAL slot behind them refers to can never be referred to again, since every new reference comes from an old one: a
//! successor commits its checkpoint before the claim that ends its predecessor's being named (see [`super::held`]), and claims
//! only if the checkpoint it has read was still its predecessor's after that.

use super::{Maintenance, MaintenanceError};
use crate::actors::recovery::Recovery;
use crate::ids::WriterId;
use crate::metadata::image::ClusterImage;
use crate::metadata::model::{CheckpointRef, WriterState, WriterValue};
use crate::sabotage::{self, Sabotage};
use crate::storage::ObjectKey;
use crate::storage::checkpoint::Checkpoint;
use crate::storage::layout::{Layout, ParsedKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What other writers' checkpoints refer to, as read last.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    checkpoints: BTreeMap<WriterId, (String, HashSet<ObjectKey>)>,
}

/// What other writers refer to at one moment.
pub(super) struct Others<'a> {
    layout: &'a Layout,
    writers: BTreeMap<WriterId, WriterValue>,
    foreign: &'a Foreign,
}

impl Others<'_> {
    /// True if one of them may need the object.
    pub fn refer_to(&self, key: &ObjectKey) -> bool {
        if sabotage::is(Sabotage::CollectBlindly) {
            return false;
        }
        let is_pointer = |c: &CheckpointRef| c.key == key.as_str();
        if self.writers.values().filter_map(|w| w.checkpoint.as_ref()).any(is_pointer) {
            return true;
        }
        if let Some(ParsedKey::Wal { writer, nonce, seq }) = self.layout.parse(key)
            && let Some(value) = self.writers.get(&writer).filter(|value| value.nonce == nonce)
        {
            let after_checkpoint = value.checkpoint.as_ref().is_none_or(|c| seq > c.seq);
            // A writer that can commit may be about to.
            if after_checkpoint && (value.state == WriterState::Active || seq <= value.head) {
                return true;
            }
        }
        self.foreign.checkpoints.values().any(|(_, objects)| objects.contains(key))
    }
}

impl Maintenance {
    /// What others refer to now.
    pub(super) async fn others(&mut self) -> Result<Others<'_>, MaintenanceError> {
        let me = self.context.registration.writer;
        let writers = self.context.ownership.writers().await?;
        let writers: BTreeMap<WriterId, WriterValue> =
            writers.into_iter().filter(|(w, _)| *w != me).map(|(w, (value, _))| (w, value)).collect();
        self.foreign.checkpoints.retain(|writer, _| writers.contains_key(writer));
        for (writer, value) in &writers {
            let Some(pointer) = &value.checkpoint else {
                self.foreign.checkpoints.remove(writer);
                continue;
            };
            if self.foreign.checkpoints.get(writer).is_some_and(|(key, _)| *key == pointer.key) {
                continue;
            }
            let key = ObjectKey::new(pointer.key.as_str());
            let (bytes, _) = self.context.store.get_suffix(&key, u64::from(u32::MAX)).await?;
            let checkpoint = Checkpoint::decode(&key, &bytes)?;
            let objects = checkpoint.objects.iter().map(|o| ObjectKey::new(o.key.as_str())).collect();
            self.foreign.checkpoints.insert(*writer, (pointer.key.clone(), objects));
        }
        Ok(Others { layout: &self.context.layout, writers, foreign: &self.foreign })
    }

    /// True if this writer looks after what concerns nobody in particular.
    pub fn is_controller(&self, image: &ClusterImage) -> bool {
        image.controller() == Some(self.context.registration.writer)
    }

    /// Seals writers that have left, and forgets sealed ones that no partition names, after their garbage has found a new
    /// keeper.
    pub async fn forget_writers(&mut self) -> Result<(), MaintenanceError> {
        let context = self.context.clone();
        for (writer, (value, _)) in context.ownership.writers().await? {
            if value.state == WriterState::Active && writer != context.registration.writer {
                context.ownership.seal(writer, false).await?;
            }
        }
        let sealed: BTreeMap<WriterId, WriterValue> = context
            .ownership
            .writers()
            .await?
            .into_iter()
            .filter(|(_, (value, _))| value.state != WriterState::Active)
            .map(|(writer, (value, _))| (writer, value))
            .collect();
        if sealed.is_empty() {
            return Ok(());
        }
        // Read after the writers: who is sealed is not named anew.
        let partitions = context.ownership.partitions().await?;
        let named: BTreeSet<WriterId> =
            partitions.values().flat_map(|(v, _)| v.history.iter().chain(&v.owner).copied()).collect();
        let unnamed: Vec<WriterId> = sealed.keys().filter(|w| !named.contains(w)).copied().collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let recovery: Recovery = context.recovery();
        for writer in &unnamed {
            let log = recovery.load(*writer, &sealed[writer], i64::MAX).await?;
            self.inherit(&log);
        }
        self.checkpoint().await?;
        context.ownership.forget_writers(&unnamed).await?;
        tracing::info!(writers = unnamed.len(), "writers of the past are forgotten");
        Ok(())
    }
}
