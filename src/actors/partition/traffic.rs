//! How much comes into a partition and goes out of it: means of the last half minute, of which the newest counts most. Pure.
//!
//! A mean that fades needs no samples and no timer: it is two numbers per direction, so that brokers can keep it for every
//! partition and tell at any time which topics are busy.

use std::sync::Mutex;

/// What was so long ago counts e times less than what is now, ms.
const FADE_MS: f64 = 30_000.0;

/// A rate.
#[derive(Debug, Default)]
pub struct Fading(Mutex<(f64, i64)>);

impl Fading {
    /// Something happened, at a time of the monotonic clock.
    pub fn add(&self, amount: u64, now_ms: i64) {
        let mut state = self.0.lock().expect("no panic under the lock");
        let (sum, at_ms) = *state;
        // Threads may come in another order than they looked at the clock.
        let at = at_ms.max(now_ms);
        *state = (sum * faded(at - at_ms) + amount as f64, at);
    }

    /// Per second.
    pub fn per_sec(&self, now_ms: i64) -> f64 {
        let (sum, at_ms) = *self.0.lock().expect("no panic under the lock");
        sum * faded(now_ms.saturating_sub(at_ms).max(0)) / (FADE_MS / 1e3)
    }
}

fn faded(ms: i64) -> f64 {
    (-(ms as f64) / FADE_MS).exp()
}

/// Of one partition, since its leader began to lead it.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes that became durable.
    pub bytes_in: Fading,
    /// Records that became durable.
    pub records_in: Fading,
    /// Bytes sent to consumers.
    pub bytes_out: Fading,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_its_rate_and_fades_when_it_ends() {
        let rate = Fading::default();
        assert_eq!(rate.per_sec(5), 0.0);
        for second in 0..600 {
            rate.add(1_000, second * 1_000);
        }
        let steady = rate.per_sec(599_500);
        assert!((950.0..1_050.0).contains(&steady), "{steady}");
        let after_a_minute = rate.per_sec(660_000);
        assert!(after_a_minute < steady * 0.14, "{after_a_minute}");
        assert!(rate.per_sec(6_600_000) < 1e-9);
    }

    #[test]
    fn a_clock_that_was_read_too_early_does_no_harm() {
        let rate = Fading::default();
        rate.add(30_000, 1_000);
        rate.add(30_000, 400);
        assert!((rate.per_sec(1_000) - 2_000.0).abs() < 1e-6);
        assert!((rate.per_sec(0) - 2_000.0).abs() < 1e-6, "as if it were then");
    }
}
