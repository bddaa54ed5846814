//! What the process does about traces: set once when it starts, read everywhere.

use crate::config::telemetry::Share;
use crate::telemetry::pipeline::Pipeline;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What is done about traces, if any are made.
#[derive(Debug)]
pub struct Tracing {
    /// Requests that are traced from their beginning.
    pub share: Share,
    /// They link to the traces that their records name.
    pub peek_headers: bool,
    /// Where finished spans go.
    pub pipeline: Arc<Pipeline>,
}

static TRACING: OnceLock<Tracing> = OnceLock::new();
/// From when on a request is slow, µs; 0: never.
static SLOW_US: AtomicU64 = AtomicU64::new(0);

/// Traces are made from now on.
pub fn start(tracing: Tracing) {
    TRACING.get_or_init(|| tracing);
}

/// Requests that take so long are slow from now on.
pub fn slow_from(slow: Option<Duration>) {
    SLOW_US.store(slow.map_or(0, |slow| slow.as_micros() as u64), Ordering::Relaxed);
}

/// What is done about traces: one load if they are off.
pub(super) fn tracing() -> Option<&'static Tracing> {
    TRACING.get()
}

/// From when on a request is slow.
pub(super) fn slow() -> Option<Duration> {
    match SLOW_US.load(Ordering::Relaxed) {
        0 => None,
        us => Some(Duration::from_micros(us)),
    }
}
