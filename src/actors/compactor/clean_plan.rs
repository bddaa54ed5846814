//! When a partition is compacted by key, and how its extents are taken: pure decisions.
//!
//! What is compacted already needs no bookkeeping: it is the run of compacted extents (level 3 or 4) from the log start on.
//! What follows is dirty, up to the first extent that is too young. A small extent of the WAL that waits to be merged is left
//! to merging until it is `segment.ms` old.

use crate::actors::partition::view::Extent;
use crate::ids::Offset;
use crate::protocol::topic_config::{CompactionConfig, RATIO_PPM};
use crate::storage::segment::{LEVEL_COMPACTED, LEVEL_COMPACTED_TOMBSTONES};

/// Bounds of key compaction.
#[derive(Debug, Clone, Copy)]
pub struct CleanLimits {
    /// Keys that one pass remembers; what has more takes several passes. An entry takes about 25 bytes.
    pub keys_max: usize,
    /// Dirty bytes below which a partition waits until they are `segment.ms` old.
    pub dirty_bytes_min: u64,
    /// WAL extents below this length are left to merging, bytes.
    pub small_bytes: u64,
    /// Extents that are read, cleaned and replaced together, bytes; also the greatest length of what becomes of them.
    pub group_bytes_max: u64,
    /// Bytes read by one GET.
    pub read_bytes: u64,
    /// Pause after a pass that failed, ms.
    pub retry_ms: i64,
}

impl Default for CleanLimits {
    fn default() -> Self {
        Self {
            keys_max: 1_800_000,
            dirty_bytes_min: 1 << 20,
            small_bytes: 1 << 20,
            group_bytes_max: 64 << 20,
            read_bytes: 8 << 20,
            retry_ms: 60_000,
        }
    }
}

/// What is to be done with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Everything up to `end` is compacted.
    All {
        /// Where the dirty part begins.
        dirty: Offset,
        /// Where it ends.
        end: Offset,
        /// Its share, in millionths.
        dirty_ppm: u32,
    },
    /// Tombstones below `end` are dropped whose delete horizons have passed.
    Tombstones {
        /// Where the compacted part ends.
        end: Offset,
    },
}

impl Due {
    /// The greater, the sooner.
    pub fn urgency(&self) -> u32 {
        match self {
            Self::All { dirty_ppm, .. } => 1 + dirty_ppm,
            Self::Tombstones { .. } => 0,
        }
    }
}

/// The extents from the first on that are compacted.
fn compacted(extents: &[Extent]) -> usize {
    extents.iter().take_while(|e| e.object.level >= LEVEL_COMPACTED).count()
}

/// What is due for a partition with these extents. `horizon_ms` is when the next of its tombstones may go, if that is known
/// (`i64::MAX` for never).
pub fn due(
    extents: &[Extent],
    config: &CompactionConfig,
    limits: &CleanLimits,
    horizon_ms: Option<i64>,
    now_ms: i64,
) -> Option<Due> {
    let (clean, rest) = extents.split_at(compacted(extents));
    let roll_ms = config.segment_ms.min(config.lag_ms_max);
    let is_active = |e: &Extent| {
        let waits_for_merging = e.object.level == 0 && e.len < limits.small_bytes;
        let young = config.lag_ms_min > 0 && e.max_timestamp > now_ms.saturating_sub(config.lag_ms_min);
        young || (waits_for_merging && now_ms - e.object.created_ms < roll_ms)
    };
    let dirty = &rest[..rest.iter().position(is_active).unwrap_or(rest.len())];
    let bytes = |extents: &[Extent]| extents.iter().map(|e| e.len).sum::<u64>();
    let (clean_bytes, dirty_bytes) = (bytes(clean), bytes(dirty));
    if let (Some(first), Some(last)) = (dirty.first(), dirty.last()) {
        let oldest_ms = dirty.iter().map(|e| e.object.created_ms).min().unwrap_or(now_ms);
        let age_ms = now_ms.saturating_sub(oldest_ms);
        let share = u128::from(dirty_bytes) * u128::from(RATIO_PPM) / u128::from((clean_bytes + dirty_bytes).max(1));
        let dirty_ppm = share as u32; // at most a million
        let enough = dirty_bytes >= limits.dirty_bytes_min || age_ms >= config.segment_ms;
        if (enough && dirty_ppm > config.dirty_ratio_min_ppm) || age_ms >= config.lag_ms_max {
            return Some(Due::All { dirty: first.base, end: last.next, dirty_ppm });
        }
    }
    let with_tombstones = clean.iter().filter(|e| e.object.level == LEVEL_COMPACTED_TOMBSTONES);
    // Until a pass has seen them: they were given horizons when their segment was written, or before.
    let first_ms = with_tombstones.map(|e| e.object.created_ms).min()?.saturating_add(config.delete_retention_ms);
    let passed = horizon_ms.unwrap_or(first_ms) <= now_ms;
    passed.then(|| Due::Tombstones { end: clean[clean.len() - 1].next })
}

/// The extents from offset `from` on that are taken together: as many as fit, at least one; none at or above `end`.
pub fn group(extents: &[Extent], from: Offset, end: Offset, bytes_max: u64) -> &[Extent] {
    let first = extents.partition_point(|e| e.next <= from);
    let candidates = &extents[first..];
    let mut bytes = 0;
    let fits = |e: &&Extent| {
        bytes += e.len;
        e.base < end && bytes <= bytes_max
    };
    let count = candidates.iter().take_while(fits).count();
    let at_least_one = usize::from(candidates.first().is_some_and(|e| e.base < end));
    &candidates[..count.max(at_least_one)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::partition::view::ObjectRef;
    use crate::ids::LeaderEpoch;
    use crate::protocol::topic_config::TopicConfig;
    use crate::storage::ObjectKey;
    use std::sync::Arc;

    /// Level, length, and time of writing and of the newest record; ten offsets each.
    fn extents(specs: &[(u8, u64, i64)]) -> Vec<Extent> {
        let make = |(i, (level, len, created_ms)): (usize, &(u8, u64, i64))| {
            let key = ObjectKey::new(format!("o{i}"));
            let object = Arc::new(ObjectRef { key, level: *level, len: *len, created_ms: *created_ms });
            let (base, next) = (Offset(10 * i as i64), Offset(10 * i as i64 + 10));
            let (max_timestamp, leader_epoch) = (*created_ms, LeaderEpoch(0));
            Extent { base, next, object, position: 0, len: *len, max_timestamp, leader_epoch }
        };
        specs.iter().enumerate().map(make).collect()
    }

    const LIMITS: CleanLimits = CleanLimits {
        keys_max: 100,
        dirty_bytes_min: 100,
        small_bytes: 50,
        group_bytes_max: 1_000,
        read_bytes: 100,
        retry_ms: 1,
    };

    fn config() -> CompactionConfig {
        CompactionConfig { segment_ms: 1_000, delete_retention_ms: 500, ..TopicConfig::default().compaction }
    }

    fn all(dirty: i64, end: i64, dirty_ppm: u32) -> Option<Due> {
        Some(Due::All { dirty: Offset(dirty), end: Offset(end), dirty_ppm })
    }

    #[test]
    fn a_partition_is_compacted_when_enough_of_it_is_dirty() {
        let due = |specs: &[(u8, u64, i64)], now_ms| due(&extents(specs), &config(), &LIMITS, None, now_ms);
        assert_eq!(due(&[], 0), None);
        assert_eq!(due(&[(1, 99, 0)], 999), None, "too little");
        assert_eq!(due(&[(1, 99, 0)], 1_000), all(0, 10, 1_000_000), "old enough");
        assert_eq!(due(&[(1, 100, 0)], 0), all(0, 10, 1_000_000));
        assert_eq!(due(&[(3, 100, 0), (1, 100, 0)], 5_000), None, "not above half");
        assert_eq!(due(&[(3, 100, 0), (2, 101, 0), (0, 99, 0)], 0), all(10, 30, 666_666));
        assert_eq!(due(&[(3, 10, 0), (1, 100, 0), (4, 100, 0)], 0), all(10, 30, 952_380), "only a prefix is clean");
    }

    #[test]
    fn what_waits_for_merging_or_is_too_young_is_left_alone_and_all_behind_it() {
        let log = extents(&[(1, 200, 0), (0, 49, 0), (1, 200, 0)]);
        assert_eq!(due(&log, &config(), &LIMITS, None, 999), all(0, 10, 1_000_000));
        assert_eq!(due(&log, &config(), &LIMITS, None, 1_000), all(0, 30, 1_000_000));
        let hurried = CompactionConfig { lag_ms_max: 10, ..config() };
        assert_eq!(due(&log, &hurried, &LIMITS, None, 10), all(0, 30, 1_000_000));
        let log = extents(&[(1, 200, 0), (1, 200, 100)]);
        let lagging = CompactionConfig { lag_ms_min: 50, ..config() };
        assert_eq!(due(&log, &lagging, &LIMITS, None, 49), None);
        assert_eq!(due(&log, &lagging, &LIMITS, None, 149), all(0, 10, 1_000_000));
        assert_eq!(due(&log, &lagging, &LIMITS, None, 150), all(0, 20, 1_000_000));
    }

    #[test]
    fn the_greatest_lag_counts_whatever_the_share() {
        let log = extents(&[(3, 10_000, 0), (1, 1, 0)]);
        assert_eq!(due(&log, &config(), &LIMITS, None, 1 << 40), None);
        let hurried = CompactionConfig { lag_ms_max: 700, ..config() };
        assert_eq!(due(&log, &hurried, &LIMITS, None, 699), None);
        assert_eq!(due(&log, &hurried, &LIMITS, None, 700), all(10, 20, 99));
    }

    #[test]
    fn a_ratio_of_one_is_never_exceeded_and_one_of_zero_by_anything() {
        let log = extents(&[(3, 10_000_000_000, 0), (1, 10_100, 0)]);
        let with = |dirty_ratio_min_ppm| {
            let config = CompactionConfig { dirty_ratio_min_ppm, ..config() };
            due(&log, &config, &LIMITS, None, 0).is_some()
        };
        assert!(with(0) && !with(1));
        let config = CompactionConfig { dirty_ratio_min_ppm: RATIO_PPM, ..config() };
        assert_eq!(due(&extents(&[(1, 1_000, 0)]), &config, &LIMITS, None, 1 << 40), None);
    }

    #[test]
    fn tombstones_are_looked_for_when_their_horizon_has_passed() {
        let log = extents(&[(3, 10, 0), (4, 1_000, 100), (3, 10, 0)]);
        let due = |horizon, now_ms| due(&log, &config(), &LIMITS, horizon, now_ms);
        let tombstones = Some(Due::Tombstones { end: Offset(30) });
        assert_eq!((due(None, 599), due(None, 600)), (None, tombstones));
        assert_eq!((due(Some(300), 299), due(Some(300), 300)), (None, tombstones));
        assert_eq!(due(Some(i64::MAX), 1 << 50), None);
    }

    #[test]
    fn groups_cover_everything_up_to_the_end() {
        let log = extents(&[(1, 400, 0), (1, 600, 0), (1, 1, 0), (1, 5_000, 0), (1, 7, 0)]);
        let (mut from, mut sizes) = (Offset(0), Vec::new());
        loop {
            let group = group(&log, from, Offset(41), 1_000);
            let Some(last) = group.last() else { break };
            sizes.push(group.len());
            from = last.next;
        }
        assert_eq!((sizes, from), (vec![2, 1, 1, 1], Offset(50)));
        assert_eq!(group(&log, Offset(0), Offset(10), 10_000).len(), 1);
    }
}
