//! The only module that reads a clock.
//!
//! Wall time is for record timestamps and ages that people see; monotonic time is for everything that waits. Both are
//! derived from tokio's clock in tests with paused time, so that a simulated hour is a real millisecond.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
pub type WallMs = i64;

/// A source of wall and monotonic time; cheap to clone.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Set in simulations: wall time at `origin`.
    simulated: Option<(WallMs, Instant)>,
}

impl Clock {
    /// The machine's clocks.
    pub const fn system() -> Self {
        Self { simulated: None }
    }

    /// Wall time starts at `wall_ms` now and moves with tokio's (possibly paused) clock.
    pub fn simulated(wall_ms: WallMs) -> Self {
        Self { simulated: Some((wall_ms, monotonic())) }
    }

    /// Wall time in milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> WallMs {
        match self.simulated {
            Some((wall_ms, origin)) => wall_ms + (monotonic() - origin).as_millis() as i64,
            None => system_wall_ms(),
        }
    }

    /// Monotonic time.
    pub fn monotonic(&self) -> Instant {
        monotonic()
    }
}

/// Monotonic time, for measuring how long something took.
#[allow(clippy::disallowed_methods)] // the one owner of the clock
pub fn monotonic() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)] // the one owner of the clock
fn system_wall_ms() -> WallMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64
}
