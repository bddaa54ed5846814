//! Histograms that are cheap to record into: two atomics per observation, no lock, no allocation.
//!
//! The bounds of all histograms are chosen here, so that those of the same kind can be compared and added up.

use super::HistogramSample;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a histogram measures: the unit it is recorded in, and the base unit it is shown in.
pub trait Scale {
    /// Inclusive upper bounds in the recorded unit, rising; one more bucket takes the rest.
    const BOUNDS: &'static [u64];
    /// How much of the recorded unit is one of the base unit.
    const PER_UNIT: f64;
}

/// Durations: recorded in microseconds, shown in seconds. Close around what a store and an ack take, 10 to 500 ms.
#[derive(Debug, Default)]
pub struct Seconds;

impl Scale for Seconds {
    const BOUNDS: &'static [u64] = &[
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 250_000, 500_000,
        1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
    ];
    const PER_UNIT: f64 = 1e6;
}

/// Sizes in bytes, up to the largest segment that can be configured.
#[derive(Debug, Default)]
pub struct Bytes;

impl Scale for Bytes {
    const BOUNDS: &'static [u64] = &[
        1 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        512 << 10,
        1 << 20,
        2 << 20,
        4 << 20,
        8 << 20,
        16 << 20,
        64 << 20,
        512 << 20,
    ];
    const PER_UNIT: f64 = 1.0;
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Histogram<S> {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        let buckets = (0..=S::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum: AtomicU64::new(0), scale: PhantomData }
    }
}

impl<S: Scale> Histogram<S> {
    /// Adds one observation.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Adds `count` observations of the same value.
    pub fn record_many(&self, value: u64, count: u64) {
        let bucket = S::BOUNDS.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        self.sum.fetch_add(value.saturating_mul(count), Ordering::Relaxed);
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }

    /// The present state, in the base unit.
    pub fn sample(&self) -> HistogramSample {
        let bounds = S::BOUNDS.iter().map(|bound| *bound as f64 / S::PER_UNIT).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|b| b.load(Ordering::Relaxed));
        HistogramSample {
            sum: self.sum.load(Ordering::Relaxed) as f64 / S::PER_UNIT,
            buckets: bounds.zip(counts).collect(),
        }
    }
}

impl Histogram<Seconds> {
    /// Adds a duration.
    pub fn record_duration(&self, duration: Duration) {
        self.record(duration.as_micros() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_the_last_bucket_takes_the_rest() {
        let histogram = Histogram::<Seconds>::default();
        histogram.record_duration(Duration::from_millis(1));
        histogram.record_many(1_001, 3);
        histogram.record(u64::MAX / 2);
        let sample = histogram.sample();
        let filled: Vec<_> = sample.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(filled, [(0.001, 1), (0.0025, 3), (f64::INFINITY, 1)]);
        assert_eq!((sample.buckets.len(), histogram.count()), (Seconds::BOUNDS.len() + 1, 5));
        let sizes = Histogram::<Bytes>::default();
        sizes.record(5 << 20);
        assert_eq!(sizes.sample().sum, (5 << 20) as f64);
    }

    #[test]
    fn bounds_rise() {
        for bounds in [Seconds::BOUNDS, Bytes::BOUNDS] {
            assert!(bounds.windows(2).all(|w| w[0] < w[1]));
        }
    }
}
