//! What to merge and what to trim: pure decisions over partitions' extents.
//!
//! Merging exists so that a reader of one partition does not read other partitions' bytes and so that small objects do
//! not pile up. An extent of at least `small_bytes` reads well where it is and is never rewritten. Small extents of
//! the WAL (level 0) are gathered into merged objects (level 1), or into a segment of their own (level 2) when one
//! partition has enough of them. A partition's level-1 extents become a level-2 segment when they are large or old
//! enough; before that, [`TIER_FANOUT`] neighbours of about the same size are merged into one level-1 extent, again in
//! objects shared by many partitions, so that neither requests nor the index grow with the number of slow partitions.
//! Only neighbours in offset order are merged, so that an extent stays one run of bytes.

use crate::actors::partition::view::Extent;
use crate::ids::{Offset, PartitionKey};

/// Bounds of merging and trimming.
#[derive(Debug, Clone, Copy)]
pub struct MergeLimits {
    /// Extents below this length are worth merging, bytes.
    pub small_bytes: u64,
    /// Small WAL extents that start a merge, bytes; also the most that one merged object holds.
    pub window_bytes: u64,
    /// Small WAL extents that start a merge, by number.
    pub window_extents: usize,
    /// Small WAL extents of one partition in one merged object, by number: each may be a request.
    pub run_extents_max: usize,
    /// Age of the oldest small WAL extent that starts a merge, ms.
    pub window_age_ms: i64,
    /// Least length of a segment of its own, bytes.
    pub segment_bytes_min: u64,
    /// Greatest length of a segment of its own, bytes.
    pub segment_bytes_max: u64,
    /// Age of a partition's oldest level-1 extent that makes a segment whatever its length, ms.
    pub merged_age_ms: i64,
}

impl Default for MergeLimits {
    fn default() -> Self {
        Self {
            small_bytes: 1 << 20,
            window_bytes: 64 << 20,
            window_extents: 200_000,
            run_extents_max: 2_000,
            window_age_ms: 600_000,
            segment_bytes_min: 8 << 20,
            segment_bytes_max: 64 << 20,
            merged_age_ms: 6 * 3_600_000,
        }
    }
}

/// Level-1 extents of about the same size that are merged into one; also the ratio between sizes.
pub const TIER_FANOUT: u64 = 8;

/// A run of one partition's neighbouring extents.
#[derive(Debug, Clone)]
pub struct Run {
    /// The partition.
    pub key: PartitionKey,
    /// The extents, contiguous in offsets.
    pub extents: Vec<Extent>,
}

impl Run {
    fn bytes(&self) -> u64 {
        self.extents.iter().map(|e| e.len).sum()
    }

    fn oldest_ms(&self) -> i64 {
        self.extents.iter().map(|e| e.object.created_ms).min().unwrap_or(i64::MAX)
    }
}

/// One object to write.
#[derive(Debug, Clone)]
pub enum Merge {
    /// A level-1 object with runs of several partitions, sorted by key.
    Merged(Vec<Run>),
    /// A level-2 segment of one partition.
    Segment(Run),
}

/// Neighbouring extents of `level` that are small, as runs of at most `bytes_max` bytes and `extents_max` extents.
pub fn small_runs(
    key: PartitionKey,
    extents: &[Extent],
    level: u8,
    small_bytes: u64,
    (bytes_max, extents_max): (u64, usize),
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut open, mut run_bytes) = (false, 0);
    for extent in extents {
        if extent.object.level != level || extent.len >= small_bytes {
            open = false;
            continue;
        }
        match runs.last_mut() {
            Some(run) if open && run_bytes + extent.len <= bytes_max && run.extents.len() < extents_max => {
                run.extents.push(extent.clone());
                run_bytes += extent.len;
            }
            _ => {
                runs.push(Run { key, extents: vec![extent.clone()] });
                run_bytes = extent.len;
            }
        }
        open = true;
    }
    runs
}

/// What to write now, given all partitions' extents (each partition's in offset order). Empty when nothing is due.
pub fn merges(partitions: &[(PartitionKey, Vec<Extent>)], limits: &MergeLimits, now_ms: i64) -> Vec<Merge> {
    let mut planned = Vec::new();
    let (mut wal, mut tiers): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
    for (key, extents) in partitions {
        wal.extend(small_runs(
            *key,
            extents,
            0,
            limits.small_bytes,
            (limits.segment_bytes_max, limits.run_extents_max),
        ));
        // A level-1 extent may be as large as a segment's minimum.
        for run in small_runs(*key, extents, 1, limits.segment_bytes_min, (limits.segment_bytes_max, usize::MAX)) {
            let aged = now_ms - run.oldest_ms() >= limits.merged_age_ms;
            if run.bytes() >= limits.segment_bytes_min || aged {
                planned.push(Merge::Segment(run));
            } else {
                tiers.extend(same_tier(run));
            }
        }
    }
    let bytes: u64 = wal.iter().map(Run::bytes).sum();
    let count: usize = wal.iter().map(|r| r.extents.len()).sum();
    let oldest_ms = wal.iter().map(Run::oldest_ms).min().unwrap_or(now_ms);
    let due =
        bytes >= limits.window_bytes || count >= limits.window_extents || now_ms - oldest_ms >= limits.window_age_ms;
    planned.extend(shared_objects(tiers, limits.window_bytes));
    if !due {
        return planned;
    }
    let (own, shared): (Vec<_>, Vec<_>) = wal.into_iter().partition(|r| r.bytes() >= limits.segment_bytes_min);
    planned.extend(own.into_iter().map(Merge::Segment));
    planned.extend(shared_objects(shared, limits.window_bytes));
    planned
}

/// The first [`TIER_FANOUT`] or more neighbours of `run` that are of about the same size, if there are so many.
fn same_tier(run: Run) -> Option<Run> {
    let tier = |e: &Extent| e.len.max(1).ilog(TIER_FANOUT);
    let mut groups = run.extents.chunk_by(|a, b| tier(a) == tier(b));
    let group = groups.find(|g| g.len() as u64 >= TIER_FANOUT)?;
    Some(Run { key: run.key, extents: group.to_vec() })
}

/// Packs runs into objects of at most `bytes_max`, each sorted by key with one run per partition.
fn shared_objects(mut shared: Vec<Run>, bytes_max: u64) -> Vec<Merge> {
    let mut planned = Vec::new();
    shared.sort_by_key(|r| (r.key, r.extents[0].base));
    let mut object: Vec<Run> = Vec::new();
    let mut object_bytes = 0;
    for run in shared {
        let repeats = object.last().is_some_and(|last| last.key == run.key);
        if repeats || object_bytes + run.bytes() > bytes_max {
            planned.push(Merge::Merged(std::mem::take(&mut object)));
            object_bytes = 0;
        }
        object_bytes += run.bytes();
        object.push(run);
    }
    if !object.is_empty() {
        planned.push(Merge::Merged(object));
    }
    planned.retain(|m| !matches!(m, Merge::Merged(runs) if runs.is_empty()));
    planned
}

/// The log start that retention asks for: whole extents from the front go while they are older than `retention_ms` or
/// the rest still has `retention_bytes`; -1 means without limit. `None` if nothing goes.
pub fn retained_log_start(
    extents: &[Extent],
    log_start: Offset,
    retention_ms: i64,
    retention_bytes: i64,
    now_ms: i64,
) -> Option<Offset> {
    let mut left: i64 = extents.iter().map(|e| e.len as i64).sum();
    let mut start = log_start;
    for extent in extents {
        let expired = retention_ms >= 0 && now_ms - extent.max_timestamp > retention_ms;
        let surplus = retention_bytes >= 0 && left - extent.len as i64 >= retention_bytes;
        if !expired && !surplus {
            break;
        }
        left -= extent.len as i64;
        start = extent.next;
    }
    (start > log_start).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::partition::view::ObjectRef;
    use crate::ids::{LeaderEpoch, PartitionIndex, TopicId};
    use crate::storage::ObjectKey;
    use std::sync::Arc;

    fn key(n: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(n) }
    }

    fn extents(specs: &[(u8, u64, i64)]) -> Vec<Extent> {
        let make = |(i, (level, len, created_ms)): (usize, &(u8, u64, i64))| {
            let object =
                ObjectRef { key: ObjectKey::new(format!("o{i}")), level: *level, len: *len, created_ms: *created_ms };
            Extent {
                base: Offset(i as i64),
                next: Offset(i as i64 + 1),
                object: Arc::new(object),
                position: 0,
                len: *len,
                max_timestamp: *created_ms,
                leader_epoch: LeaderEpoch(0),
            }
        };
        specs.iter().enumerate().map(make).collect()
    }

    const LIMITS: MergeLimits = MergeLimits {
        small_bytes: 100,
        window_bytes: 1_000,
        window_extents: 50,
        run_extents_max: 20,
        window_age_ms: 10_000,
        segment_bytes_min: 500,
        segment_bytes_max: 2_000,
        merged_age_ms: 100_000,
    };

    fn describe(merges: &[Merge]) -> Vec<(u8, Vec<(i32, usize)>)> {
        let runs = |rs: &[Run]| rs.iter().map(|r| (r.key.partition.0, r.extents.len())).collect();
        let one = |m: &Merge| match m {
            Merge::Merged(rs) => (1, runs(rs)),
            Merge::Segment(r) => (2, runs(std::slice::from_ref(r))),
        };
        merges.iter().map(one).collect()
    }

    #[test]
    fn nothing_is_due_while_the_window_is_small_and_young() {
        let partitions = vec![(key(0), extents(&[(0, 10, 0), (0, 10, 0)]))];
        assert!(merges(&partitions, &LIMITS, 9_999).is_empty());
        assert_eq!(describe(&merges(&partitions, &LIMITS, 10_000)), [(1, vec![(0, 2)])]);
    }

    #[test]
    fn a_merge_reads_a_bounded_number_of_objects() {
        let tiny = extents(&[(0, 1, 0); 50]);
        let planned = merges(&[(key(0), tiny)], &LIMITS, 0);
        assert_eq!(describe(&planned), [(1, vec![(0, 20)]), (1, vec![(0, 20)]), (1, vec![(0, 10)])]);
    }

    #[test]
    fn large_extents_stay_where_they_are_and_split_runs() {
        let partitions = vec![(key(0), extents(&[(0, 10, 0), (0, 100, 0), (0, 20, 0), (0, 30, 0)]))];
        let planned = merges(&partitions, &LIMITS, 10_000);
        assert_eq!(describe(&planned), [(1, vec![(0, 1)]), (1, vec![(0, 2)])]);
    }

    #[test]
    fn a_partition_with_enough_gets_a_segment_of_its_own() {
        let busy = extents(&[(0, 90, 0); 8]);
        let quiet = extents(&[(0, 90, 0); 4]);
        let planned = merges(&[(key(0), busy), (key(1), quiet)], &LIMITS, 0);
        assert_eq!(describe(&planned), [(2, vec![(0, 8)]), (1, vec![(1, 4)])]);
    }

    #[test]
    fn level_one_is_merged_in_tiers_and_becomes_a_segment_by_size_or_age() {
        let alike = extents(&[(1, 10, 0); 8]);
        let planned = merges(&[(key(0), alike.clone()), (key(1), alike.clone())], &LIMITS, 0);
        assert_eq!(describe(&planned), [(1, vec![(0, 8), (1, 8)])]);
        assert!(merges(&[(key(0), alike[..7].to_vec())], &LIMITS, 0).is_empty());
        let mut grown = vec![(1, 80, 0)];
        grown.extend([(1, 10, 0); 8]);
        let planned = merges(&[(key(0), extents(&grown))], &LIMITS, 0);
        assert_eq!(describe(&planned), [(1, vec![(0, 8)])], "the large one is left alone");
        let by_size = extents(&[(1, 260, 0), (1, 250, 0)]);
        assert_eq!(describe(&merges(&[(key(0), by_size)], &LIMITS, 0)), [(2, vec![(0, 2)])]);
        let by_age = extents(&[(1, 10, 0)]);
        assert!(merges(&[(key(0), by_age.clone())], &LIMITS, 99_999).is_empty());
        assert_eq!(describe(&merges(&[(key(0), by_age)], &LIMITS, 100_000)), [(2, vec![(0, 1)])]);
    }

    #[test]
    fn retention_by_time_and_size_takes_whole_extents_from_the_front() {
        let log = extents(&[(0, 100, 1_000), (0, 100, 3_000), (0, 100, 2_000)]);
        let start = |ms, bytes, now| retained_log_start(&log, Offset(0), ms, bytes, now).map(|o| o.0);
        assert_eq!(start(-1, -1, 1 << 40), None);
        assert_eq!(start(500, -1, 1_500), None);
        assert_eq!(start(500, -1, 1_501), Some(1));
        assert_eq!(start(500, -1, 3_400), Some(1), "an older record behind a newer one stays");
        assert_eq!(start(500, -1, 9_000), Some(3));
        assert_eq!(start(-1, 200, 0), Some(1));
        assert_eq!(start(-1, 201, 0), None);
        assert_eq!(start(-1, 0, 0), Some(3));
    }
}
