//! The Kubernetes operator: makes the cluster look as the `KafscaleCluster` and `KafscaleTopic` resources say.
//!
//! Decisions are pure functions from what is wanted and what is there to what should be; only the actors talk to Kubernetes,
//! etcd, S3 and brokers. Every object is written by server-side apply with one field manager, so that only what the operator
//! says is compared and corrected.

pub mod crd;
pub mod topics;
pub mod view;

use crate::cli::exit;
use crate::config::operator::OperatorConfig;
use std::process::ExitCode;

/// Runs the operator until it is told to stop.
pub fn run(_config: OperatorConfig) -> ExitCode {
    eprintln!("error: this version has no operator yet");
    ExitCode::from(exit::SOFTWARE)
}
