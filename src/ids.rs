//! Newtypes for identities, offsets and epochs.
//!
//! Exclusive ends are called `next` or `end`; an [`Offset`] named `high_watermark` is exclusive too (the first
//! offset a reader may not see), as in Kafka.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

newtype!(/** Kafka broker (node) id. */ BrokerId(i32));
newtype!(/** Partition number inside a topic, from 0. */ PartitionIndex(i32));
newtype!(/** Offset of a record in a partition. */ Offset(i64));
newtype!(/** Leader epoch of a partition; rises by one with every claim. */ LeaderEpoch(i32));
newtype!(/** Producer id of an idempotent producer. */ ProducerId(i64));
newtype!(/** Epoch of a producer id. */ ProducerEpoch(i16));
newtype!(/** One incarnation of a WAL writer; allocated from a counter, never reused. */ WriterId(u64));
newtype!(/** Slot in a writer's WAL, from 1, dense. 0 means "nothing yet". */ Seq(u64));
newtype!(/** Rises whenever another operator leads; what a former leader writes is told by it. */ FencingToken(u64));
newtype!(/** Topic id (random UUID, never reused). */ TopicId(uuid::Uuid));

impl Offset {
    /// The offset `count` records further.
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl Seq {
    /// The slot after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A partition, named by topic id, so that a deleted and re-created topic shares nothing with its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionKey {
    /// The topic's id.
    pub topic: TopicId,
    /// The partition number.
    pub partition: PartitionIndex,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
