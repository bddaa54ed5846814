//! The only module that reads a clock.
//!
//! Wall time is for record timestamps and ages that people see; monotonic time is for everything that waits. Both are
//! derived from tokio's clock in tests with paused time, so that a simulated hour is a real millisecond.
//!
//! Nothing that must be right depends on wall time, but what is deleted for its age does: [`Clock::settled_ms`] is for that.
//! A clock that jumps ahead by an hour must not make everything an hour older at once.

use crate::config::Environment;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Names a file with the milliseconds by which a broker's wall clock is ahead, read again whenever the time is. Only debug
/// builds know it; to the others it is as unknown as any variable.
pub const OFFSET_FILE_VARIABLE: &str = "KAFSCALE_TEST_CLOCK_FILE";
/// Wall time may gain so much on monotonic time at once without being doubted: clocks are read one after the other.
const STEP_MS_MAX: i64 = 5_000;

static OFFSET_FILE: OnceLock<PathBuf> = OnceLock::new();
static SETTLED: Mutex<Settled> = Mutex::new(Settled::NEW);

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

    /// Wall time for decisions that delete: never later than [`Self::wall_ms`], and when that jumps ahead, the jump is
    /// believed only after it has lasted for as long as it is wide. Until then this goes on as time passes.
    pub fn settled_ms(&self) -> WallMs {
        match self.simulated {
            Some(_) => self.wall_ms(),
            None => SETTLED.lock().expect("no panic under the lock").at(system_wall_ms(), monotonic()),
        }
    }

    /// Monotonic time as milliseconds, for state that is pure; may be negative.
    pub fn monotonic_ms(&self) -> i64 {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let (origin, now) = (*ORIGIN.get_or_init(monotonic), monotonic());
        // Runtimes of tests with paused time began at different moments.
        match now.checked_duration_since(origin) {
            Some(since) => since.as_millis() as i64,
            None => -((origin - now).as_millis() as i64),
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

/// The machine's wall time, for what is told to others in their form (traces).
#[allow(clippy::disallowed_methods)] // the one owner of the clock
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

#[allow(clippy::disallowed_methods)] // the one owner of the clock
fn system_wall_ms() -> WallMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64 + offset_ms()
}

/// What [`Clock::settled_ms`] remembers.
#[derive(Debug)]
struct Settled {
    /// A wall time that is believed, and when it was.
    believed: Option<(WallMs, Instant)>,
    /// Since when wall time has been further ahead.
    ahead_since: Option<Instant>,
}

impl Settled {
    const NEW: Self = Self { believed: None, ahead_since: None };

    fn at(&mut self, wall_ms: WallMs, now: Instant) -> WallMs {
        let (believed_ms, at) = *self.believed.get_or_insert((wall_ms, now));
        let expected_ms = believed_ms + now.saturating_duration_since(at).as_millis() as i64;
        let ahead_ms = wall_ms - expected_ms;
        if ahead_ms > STEP_MS_MAX {
            let since = *self.ahead_since.get_or_insert(now);
            if (now.saturating_duration_since(since).as_millis() as i64) < ahead_ms {
                return expected_ms;
            }
        }
        *self = Self { believed: Some((wall_ms, now)), ahead_since: None };
        wall_ms
    }
}

/// True if this build knows the variable.
pub fn is_choice(name: &str) -> bool {
    cfg!(debug_assertions) && name == OFFSET_FILE_VARIABLE
}

/// Looks at the clock for the first time; takes [`OFFSET_FILE_VARIABLE`] from the environment, once per process.
pub fn start(environment: &Environment) {
    if let Some((_, file)) = environment.iter().find(|(name, _)| is_choice(name)) {
        OFFSET_FILE.get_or_init(|| file.into());
    }
    Clock::system().settled_ms();
}

fn offset_ms() -> i64 {
    if !cfg!(debug_assertions) {
        return 0;
    }
    let text = OFFSET_FILE.get().and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ahead_is_believed_when_it_has_lasted() {
        const HOUR: i64 = 3_600_000;
        let origin = monotonic();
        let table = [
            // Seconds that have passed, wall time, settled time.
            (0, 0, 0),
            (10, 10_000, 10_000),
            (20, 19_000, 19_000),                        // slewed
            (30, 33_000, 33_000),                        // a small step
            (40, 40_000 + HOUR, 43_000),                 // ahead by almost an hour, for 40 minutes
            (2_440, 2_440_000 + HOUR, 2_443_000),        //
            (2_450, 2_450_000, 2_450_000),               // set right
            (2_460, 2_460_000 - HOUR, 2_460_000 - HOUR), // back: at once, that deletes nothing
            (2_470, 2_470_000, 2_470_000 - HOUR),        // and ahead again
            (6_069, 6_069_000, 6_069_000 - HOUR),        //
            (6_070, 6_070_000, 6_070_000),               // for an hour
            (6_080, 6_080_000 + HOUR, 6_080_000),        //
            (6_090, 6_090_000 + 2 * HOUR, 6_090_000),    // two hours, not since long enough
            (9_680, 9_680_000 + 2 * HOUR, 9_680_000),    //
            (13_280, 13_280_000 + 2 * HOUR, 13_280_000 + 2 * HOUR),
        ];
        let mut settled = Settled::NEW;
        for (seconds, wall_ms, expected) in table {
            let at = settled.at(wall_ms, origin + Duration::from_secs(seconds));
            assert_eq!(at, expected, "after {seconds} s");
        }
    }

    #[test]
    fn only_debug_builds_know_the_switch() {
        assert_eq!(is_choice(OFFSET_FILE_VARIABLE), cfg!(debug_assertions));
        assert!(!is_choice("KAFSCALE_CLOCK_FILE"));
        assert_eq!(offset_ms(), 0, "nothing is moved unless it is asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn monotonic_milliseconds_follow_time() {
        let clock = Clock::simulated(0);
        let before = clock.monotonic_ms();
        tokio::time::advance(Duration::from_millis(7)).await;
        assert_eq!(clock.monotonic_ms() - before, 7);
    }
}
