//! One broker process, from configuration to shutdown.

use crate::config::NodeConfig;
use std::process::ExitCode;

/// Runs the node until it is asked to stop.
pub fn run(_config: NodeConfig) -> ExitCode {
    tracing::error!("this build has no broker yet");
    ExitCode::FAILURE
}
