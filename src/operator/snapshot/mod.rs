//! Backups of managed etcd: a CronJob that takes snapshots to S3, and the `SnapshotScheduler` that sees to it.
//!
//! Objects in the bucket: `{prefix}/{namespace}/{cluster}/{YYYYMMDDThhmmssZ}.db` (UTC, when the upload began) and the same with
//! `.sha256`, in the format of sha256sum. The checksum is uploaded last and deleted first: a snapshot without one is not
//! complete. `{prefix}/{namespace}/{cluster}/.preflight` is what the operator writes to see whether it can.
//!
//! The operator tries the bucket before it lets the CronJob run, and goes on trying: a backup that fails at three in the
//! morning is noticed before.

pub mod access;
mod kube_side;
pub mod metrics;
pub mod objects;
pub mod restore;
pub mod scheduler;
pub mod settings;
pub mod state;

pub use kube_side::{SnapshotReport, SnapshotWatch};
pub use objects::objects;
pub use scheduler::SnapshotScheduler;
pub use settings::SnapshotSettings;

/// The script that runs in the image with the AWS command line.
pub const SCRIPT: &str = include_str!("snapshot.sh");
/// Component label.
pub const COMPONENT: &str = "snapshot";

#[cfg(test)]
mod tests;
