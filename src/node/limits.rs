//! What a broker's kind of storage means for its bounds: requests to S3 cost money, files in a folder cost time.

use crate::actors::compactor::MaintenanceLimits;
use crate::actors::compactor::plan::MergeLimits;
use crate::actors::flusher::state::FlushLimits;
use crate::config::{NodeConfig, StorageConfig};
use std::time::Duration;

/// What a file is worth in time under a steady trickle, ms: a flush costs about 1 ms of CPU in creating and syncing.
const LOCAL_INTERVAL_MS: u64 = 55;
/// How often a folder is looked after.
const LOCAL_LOOK_EVERY: Duration = Duration::from_secs(3);
/// How much is gathered in a folder before it is merged.
const LOCAL_MERGE_BYTES: u64 = 16 << 20;
/// Up to this interval the time of a PUT is most of the latency, and what the interval allows is better spent on sending
/// segments twice than on sending them earlier.
const TWICE_INTERVAL_MS_MAX: u64 = 100;
/// Uploads in flight to a store with request latency.
const UPLOADS_MAX: usize = 8;

/// The clients of `kafscale dev` run on the same machine and take their part of it. And a request whose connection is on
/// the writer's thread wakes nobody on its way, which is most of what a small one costs.
pub(super) fn dev_shards(cores: usize) -> usize {
    (cores / 2).max(1)
}

/// Memory grows by 4 KiB at a time, not by huge pages of 2 MiB. A virtual machine whose host takes back what is free pays up
/// to 4 ms for each huge page it has not had lately, and memory that is used here and there counts whole ones. Where huge
/// pages pay, they are asked for (`storage/local/write.rs`).
pub(super) fn take_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay as they are");
    }
}

/// A folder has no price per request, so that smaller merged files do: what they are made of is still in memory then.
pub(super) fn maintenance_limits(config: &NodeConfig) -> MaintenanceLimits {
    let limits = MaintenanceLimits::default();
    if !matches!(config.storage, StorageConfig::Local { .. }) {
        return limits;
    }
    let merge =
        MergeLimits { window_bytes: LOCAL_MERGE_BYTES, segment_bytes_min: LOCAL_MERGE_BYTES / 8, ..limits.merge };
    MaintenanceLimits { merge, look_every: LOCAL_LOOK_EVERY, ..limits }
}

/// A request to S3 costs money, a file in a folder costs system calls and syncs, memory costs nothing: the same rule
/// bounds all three, with the configured interval for the first and a short one for the second.
pub(super) fn flush_limits(config: &NodeConfig) -> FlushLimits {
    let interval_ms = (config.flush_interval.as_millis() as u64).max(1);
    let charged = FlushLimits {
        segment_bytes: config.segment_bytes,
        interval_ms,
        linger_ms: 3,
        stall_ms: 8,
        full_ms: 1,
        lone_ms: None,
        uploads_max: UPLOADS_MAX,
        burst: 4,
        cost_bounded: true,
        twice: interval_ms <= TWICE_INTERVAL_MS_MAX,
    };
    match config.storage {
        StorageConfig::S3 { .. } => charged,
        StorageConfig::Local { .. } => FlushLimits {
            interval_ms: interval_ms.min(LOCAL_INTERVAL_MS),
            linger_ms: 1,
            stall_ms: 2,
            lone_ms: Some(8),
            uploads_max: 3,
            twice: false,
            ..charged
        },
        StorageConfig::Memory => {
            FlushLimits { linger_ms: 0, uploads_max: 2, cost_bounded: false, twice: false, ..charged }
        }
    }
}
