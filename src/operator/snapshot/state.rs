//! When the bucket is tried, and what is said about snapshots. Pure; messages are stable.

use crate::operator::crd::status::{ConditionType, Finding};
use std::time::Duration;

/// Between two tries while the bucket can be written, ms.
pub const RETRY_FINE_MS: i64 = 3_600_000;
/// Between two tries while it cannot, ms.
pub const RETRY_FAILING_MS: i64 = 30_000;

/// What a try came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Not tried, since the cluster says so.
    Skipped,
    /// Not tried, since nothing is written on behalf of a cluster that is paused.
    Paused,
    /// The bucket can be written.
    Fine,
    /// It cannot.
    Failing {
        /// One word.
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

/// The last try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Of settings and credentials with this fingerprint.
    pub fingerprint: u64,
    /// When, on the monotonic clock, ms.
    pub at_ms: i64,
    /// What came of it.
    pub access: Access,
}

/// Whether the bucket has to be tried (again).
pub fn is_due(last: Option<&Tried>, fingerprint: u64, now_ms: i64) -> bool {
    let Some(last) = last else { return true };
    let every_ms = match last.access {
        Access::Failing { .. } => RETRY_FAILING_MS,
        Access::Fine | Access::Skipped | Access::Paused => RETRY_FINE_MS,
    };
    last.fingerprint != fingerprint || now_ms - last.at_ms >= every_ms
}

/// What the CronJob says of itself; times in ms since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// When the last job ended well.
    pub last_success_ms: Option<i64>,
    /// When the last job was started.
    pub last_schedule_ms: Option<i64>,
}

impl History {
    /// Whether the last success is too long ago.
    pub fn is_stale(&self, stale_after: Duration, now_ms: i64) -> bool {
        self.last_success_ms.is_some_and(|at_ms| now_ms - at_ms > stale_after.as_millis() as i64)
    }
}

/// About the snapshots.
pub fn snapshot(namespace: &str, job: &str, history: &History, stale_after: Duration, now_ms: i64) -> Finding {
    let kind = ConditionType::EtcdSnapshot;
    let see = format!("kubectl -n {namespace} get cronjob,job,pod -l app.kubernetes.io/component=snapshot");
    if history.last_success_ms.is_none() {
        let message = format!("no snapshot of etcd has succeeded yet; if one should have: {see}");
        return Finding::no(kind, "SnapshotNeverSucceeded", message);
    }
    if history.is_stale(stale_after, now_ms) {
        let seconds = stale_after.as_secs();
        let message =
            format!("the last snapshot of etcd is older than {seconds} s; see why {job} does not succeed: {see}");
        return Finding::no(kind, "SnapshotStale", message);
    }
    Finding::yes(kind, "SnapshotHealthy", "the last snapshot of etcd is there and not too old")
}

/// About the bucket.
pub fn access(access: &Access) -> Finding {
    let kind = ConditionType::EtcdSnapshotAccess;
    match access {
        Access::Skipped => Finding::unknown(
            kind,
            "PreflightSkipped",
            "nobody has tried whether snapshots can be written: skipPreflight",
        ),
        Access::Paused => {
            let message = "the bucket is not tried while the annotation kafscale.io/paused is there";
            Finding::unknown(kind, "ClusterPaused", message)
        }
        Access::Fine => Finding::yes(kind, "PreflightSucceeded", "snapshots can be written"),
        Access::Failing { reason, message } => Finding::no(kind, reason, message.clone()),
    }
}
