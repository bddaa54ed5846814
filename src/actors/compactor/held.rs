//! Partitions that do not run here and that this writer's checkpoint has to have all the same, because their ownership
//! names this writer, or is about to: those it has given away and nobody has taken yet, and those it is claiming.
//!
//! Whoever claims a partition has a committed checkpoint with all of it first, and from then on the partition's ownership
//! names only that writer. So at any moment the writer that is named has everything; a checkpoint of it that left the
//! partition out would lose it.

use super::{Maintenance, MaintenanceError};
use crate::actors::recovery::Seed;
use crate::ids::PartitionKey;
use crate::metadata::image::ClusterImage;
use crate::metadata::ownership::StoredPartition;

/// See the module's documentation.
#[derive(Debug)]
pub struct Held {
    /// All that is known of the partition.
    pub seed: Seed,
    /// Its ownership as read before the claim that is under way; `None` for one that was given away.
    pub claiming: Option<StoredPartition>,
}

impl Maintenance {
    /// Keeps a partition in this writer's checkpoints. Returns what was held of it before.
    pub fn hold(&mut self, seed: Seed, claiming: Option<StoredPartition>) -> Option<Held> {
        self.held.insert(seed.key, Held { seed, claiming })
    }

    /// Holds what was held before, if anything was.
    pub fn hold_as_before(&mut self, key: PartitionKey, before: Option<Held>) {
        match before {
            Some(before) => drop(self.held.insert(key, before)),
            None => drop(self.held.remove(&key)),
        }
    }

    /// Lets go of a partition that runs now or that somebody else has.
    pub fn let_go(&mut self, key: &PartitionKey) -> Option<Held> {
        self.held.remove(key)
    }

    /// The partition as it was given away, if nobody has been told of another state since.
    pub fn given_away(&self, key: &PartitionKey) -> Option<&Seed> {
        self.held.get(key).filter(|held| held.claiming.is_none()).map(|held| &held.seed)
    }

    /// Claims whose outcome is not known, with what they were based on.
    pub fn claiming(&self) -> Vec<(PartitionKey, Option<StoredPartition>)> {
        let claiming = self.held.iter().filter(|(_, held)| held.claiming.is_some());
        claiming.map(|(key, held)| (*key, held.claiming.clone())).collect()
    }

    /// Lets go of what was given away and is in somebody else's checkpoint by now.
    pub async fn let_go_of_taken(&mut self, image: &ClusterImage) -> Result<(), MaintenanceError> {
        let me = self.context.registration.writer;
        let taken = |key: &PartitionKey| image.partition(key).is_none_or(|v| !v.history.contains(&me));
        let likely: Vec<PartitionKey> =
            self.held.iter().filter(|(key, held)| held.claiming.is_none() && taken(key)).map(|(key, _)| *key).collect();
        if likely.is_empty() {
            return Ok(());
        }
        // The image may be older than what this writer did itself.
        let stored = self.context.ownership.partitions_among(&likely).await?;
        for key in likely {
            if stored.get(&key).is_none_or(|(v, _)| !v.history.contains(&me)) {
                self.held.remove(&key);
            }
        }
        Ok(())
    }
}
