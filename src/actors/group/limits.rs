//! Settings and bounds of a coordinator, where a group belongs, and what is stored of groups.

use super::classic::GroupLimits;
use super::consumer::types::ConsumerLimits;
use super::consumer::value::ConsumerValue;
use super::offsets::{Block, BlockKey, Retention};
use super::value::GroupValue;

/// Coordinator shards of a cluster. Part of the format: a group's shard must be the same for all brokers.
pub const SHARDS: u32 = 50;
/// Groups of one coordinator.
pub const GROUPS_MAX: usize = 200_000;
/// Bytes of members and offsets of one coordinator.
pub const BYTES_MAX: usize = 512 << 20;
/// Longest group id, bytes.
pub const GROUP_ID_LEN_MAX: usize = 1_024;
/// A reply waits no longer than this for its change to become durable, ms.
pub const DURABLE_WAIT_MS_MAX: u64 = 10_000;

/// Settings of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorLimits {
    /// Of groups of the classic protocol.
    pub groups: GroupLimits,
    /// Of groups of the consumer protocol.
    pub consumer: ConsumerLimits,
    /// Longest metadata string of an offset, bytes.
    pub offset_metadata_bytes_max: usize,
    /// When offsets expire.
    pub retention: Retention,
}

impl Default for CoordinatorLimits {
    fn default() -> Self {
        Self {
            groups: GroupLimits::default(),
            consumer: ConsumerLimits::default(),
            offset_metadata_bytes_max: 4_096,
            retention: Retention { retention_ms: 7 * 86_400_000 },
        }
    }
}

/// The shard of a group: as Kafka finds the partition of `__consumer_offsets`.
pub fn shard_of(group: &str) -> u32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) as u32 % SHARDS
}

/// The value of a key of a group, as read from the metadata store.
#[derive(Debug, Clone)]
pub enum Loaded {
    /// Its members.
    Group(GroupValue),
    /// Its members, with the consumer protocol.
    Consumer(ConsumerValue),
    /// A block of its offsets.
    Block(BlockKey, Block),
}
