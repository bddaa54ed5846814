//! What becomes of deleted topics: a tombstone names each until nobody has anything of it.

use super::{Maintenance, MaintenanceError};
use crate::ids::{TopicId, WriterId};
use crate::metadata::keys::ParsedKey;
use crate::metadata::model::{self, DeletedTopicValue, FORMAT, TopicValue, WriterState};
use crate::metadata::{Compare, Entry, Op, Txn};
use std::collections::BTreeSet;

impl Maintenance {
    /// Finishes the deletion of topics. Each broker forgets the partitions it had, once a checkpoint without them is
    /// committed; the `controller` those that have no owner, and the tombstone when nothing is left.
    pub async fn bury_topics(&mut self, controller: bool) -> Result<(), MaintenanceError> {
        let context = self.context.clone();
        let (tombstones, _) = context.metadata.get_prefix(&context.keys.deleted_topics()).await?;
        let of = |entry: &Entry| match context.keys.parse(&entry.key) {
            Some(ParsedKey::Deleted(topic)) => Some(topic),
            _ => None,
        };
        let topics: BTreeSet<TopicId> = tombstones.iter().filter_map(of).collect();
        if controller {
            self.bury_again(&topics).await?;
        }
        if topics.is_empty() || context.owned_partitions().iter().any(|(key, _)| topics.contains(&key.topic)) {
            return Ok(());
        }
        self.held.retain(|key, _| !topics.contains(&key.topic));
        self.checkpoint().await?;
        let me = context.registration.writer;
        let writers = context.ownership.writers().await?;
        let active = |w: WriterId| writers.get(&w).is_some_and(|(v, _)| v.state == WriterState::Active);
        for topic in topics {
            let partitions = context.ownership.partitions_of(topic).await?;
            let mine = |owner: Option<WriterId>| match owner {
                Some(owner) if owner == me => true,
                Some(owner) => controller && !active(owner),
                None => controller,
            };
            let count = partitions.len();
            let gone: Vec<_> =
                partitions.into_iter().filter(|(_, (v, _))| mine(v.owner)).map(|(key, (_, r))| (key, r)).collect();
            let all = gone.len() == count && context.ownership.forget_partitions(&context.registration, &gone).await?;
            if controller && all {
                let ops = vec![Op::Delete(context.keys.deleted(topic))]; // last: until then it is tried again
                context.metadata.txn(Txn { compares: Vec::new(), ops }).await?;
            }
        }
        Ok(())
    }

    /// A claim that was on its way when a topic's last key went, and is applied after that, leaves a partition of a topic that
    /// neither exists nor has a tombstone (`known` do). It gets its tombstone again, so that everybody forgets it as before.
    async fn bury_again(&self, known: &BTreeSet<TopicId>) -> Result<(), MaintenanceError> {
        let image = self.feed.current();
        let mut left = image.topics_of_partitions();
        left.retain(|topic| image.topic_by_id(*topic).is_none() && !known.contains(topic));
        if left.is_empty() {
            return Ok(());
        }
        // An id is never used again, and a topic is there before anybody claims its partitions: what does not exist now is gone.
        let context = &self.context;
        let (topics, _) = context.metadata.get_prefix(&context.keys.topics()).await?;
        for entry in &topics {
            left.remove(&model::decode::<TopicValue>(entry)?.id);
        }
        for id in left {
            let partitions = context.ownership.partitions_of(id).await?.len() as i32;
            if partitions == 0 {
                continue; // the image is older
            }
            tracing::info!(%id, partitions, "a deleted topic has partitions again: a claim came late");
            let deleted_ms = context.clock.wall_ms();
            let value = DeletedTopicValue { v: FORMAT, name: String::new(), id, partitions, deleted_ms };
            let key = context.keys.deleted(id);
            let compares = vec![Compare::ModRevision(key.clone(), 0)];
            context.metadata.txn(Txn { compares, ops: vec![Op::Put(key, model::encode(&value), None)] }).await?;
        }
        Ok(())
    }
}
