//! Quantiles of the latest creates, by size: what "slow" means now.

use std::sync::Mutex;
use std::time::Duration;

/// Samples kept per size class.
const SAMPLES: usize = 128;
/// Below this number of samples there is no estimate.
const SAMPLES_MIN: usize = 24;
/// Upper bounds of the size classes in bytes; one more class takes the rest.
const CLASS_BOUNDS: [u64; 4] = [64 << 10, 512 << 10, 2 << 20, 8 << 20];

/// Latencies of recent creates.
#[derive(Debug, Default)]
pub struct Latencies {
    classes: [Mutex<Ring>; CLASS_BOUNDS.len() + 1],
}

/// The latest samples in microseconds.
#[derive(Debug, Default)]
struct Ring {
    samples_us: Vec<u32>,
    next: usize,
}

impl Latencies {
    fn class(&self, len: u64) -> &Mutex<Ring> {
        &self.classes[CLASS_BOUNDS.partition_point(|bound| *bound < len)]
    }

    /// A create of `len` bytes took `elapsed`.
    pub fn record(&self, len: u64, elapsed: Duration) {
        let us = elapsed.as_micros().min(u128::from(u32::MAX)) as u32;
        let mut ring = self.class(len).lock().expect("no panic under the lock");
        let next = ring.next;
        if ring.samples_us.len() < SAMPLES {
            ring.samples_us.push(us);
        } else {
            ring.samples_us[next] = us;
        }
        ring.next = (next + 1) % SAMPLES;
    }

    /// The `quantile` (0 to 1) of recent creates of about `len` bytes, if there are enough.
    pub fn quantile(&self, len: u64, quantile: f64) -> Option<Duration> {
        let mut samples = {
            let ring = self.class(len).lock().expect("no panic under the lock");
            if ring.samples_us.len() < SAMPLES_MIN {
                return None;
            }
            ring.samples_us.clone()
        };
        let rank = ((samples.len() - 1) as f64 * quantile.clamp(0.0, 1.0)).ceil() as usize;
        let (_, value, _) = samples.select_nth_unstable(rank);
        Some(Duration::from_micros(u64::from(*value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_latest_samples_of_the_size() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile(1_000, 0.95), None);
        for i in 1..=10_000u64 {
            latencies.record(1_000, Duration::from_millis(if i > 9_872 { i - 9_872 } else { 9_999 }));
            latencies.record(1 << 20, Duration::from_secs(1));
        }
        assert_eq!(latencies.quantile(1_000, 0.0), Some(Duration::from_millis(1)));
        assert_eq!(latencies.quantile(1_000, 0.95), Some(Duration::from_millis(122)));
        assert_eq!(latencies.quantile(2 << 20, 0.5), Some(Duration::from_secs(1)));
        assert_eq!(latencies.quantile(9 << 20, 0.5), None);
    }
}
