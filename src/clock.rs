//! The only module that reads a clock.
//!
//! Wall time is for record timestamps and ages that people see; monotonic time is for everything that waits. Both are
//! derived from tokio's clock in tests with paused time, so that a simulated hour is a real millisecond.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
pub type WallMs = i64;

/// A source of wall and monotonic time; cheap to clone.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    simulated: Option<Simulated>,
}

#[derive(Debug, Clone, Copy)]
struct Simulated {
    /// Wall time at `origin`.
    wall_ms: WallMs,
    origin: Instant,
    /// How far this clock is from what it should say, ms.
    shift_ms: Option<&'static AtomicI64>,
}

impl Clock {
    /// The machine's clocks.
    pub const fn system() -> Self {
        Self { simulated: None }
    }

    /// Wall time starts at `wall_ms` now and moves with tokio's (possibly paused) clock.
    pub fn simulated(wall_ms: WallMs) -> Self {
        Self { simulated: Some(Simulated { wall_ms, origin: monotonic(), shift_ms: None }) }
    }

    /// The same clock, wrong by `shift_ms`, which may change at any time: one machine's among others. Monotonic time does not
    /// jump.
    pub fn shifted(self, shift_ms: &'static AtomicI64) -> Self {
        Self { simulated: self.simulated.map(|s| Simulated { shift_ms: Some(shift_ms), ..s }) }
    }

    /// Wall time in milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> WallMs {
        match self.simulated {
            Some(Simulated { wall_ms, origin, shift_ms }) => {
                let shift_ms = shift_ms.map_or(0, |shift_ms| shift_ms.load(Ordering::Relaxed));
                wall_ms + (monotonic() - origin).as_millis() as i64 + shift_ms
            }
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
