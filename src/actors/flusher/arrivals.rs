//! What the writer remembers of the batches of a segment for observers: when they came, and from which requests.
//!
//! Pure. Times are microseconds from any origin. Batches that came at about the same time are counted together, so that
//! the memory depends on how long a segment is open and not on the number of its batches.

use crate::trace::{Links, TraceContext};

/// Batches that came within this time after the first of a run are counted in it, µs.
const RUN_US: u64 = 250;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Time of the first batch and number of batches, oldest first.
    runs: Vec<(u64, u64)>,
    /// Requests that brought the batches.
    pub links: Links,
}

impl Arrivals {
    /// A batch came.
    pub fn add(&mut self, now_us: u64, trace: TraceContext) {
        match self.runs.last_mut() {
            Some((since_us, count)) if now_us.saturating_sub(*since_us) < RUN_US => *count += 1,
            _ => self.runs.push((now_us, 1)),
        }
        self.links.add(trace, now_us);
    }

    /// When the first batch came.
    pub fn oldest_us(&self) -> Option<u64> {
        self.runs.first().map(|(since_us, _)| *since_us)
    }

    /// How long the batches have waited at `now_us`, µs, and how many of them.
    pub fn waits(&self, now_us: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(move |(since_us, count)| (now_us.saturating_sub(*since_us), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_come_together_are_counted_together() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.oldest_us(), None);
        for at in [1_000, 1_100, 1_249, 1_250, 5_000] {
            arrivals.add(at, TraceContext::NONE);
        }
        assert_eq!(arrivals.oldest_us(), Some(1_000));
        assert_eq!(arrivals.waits(6_000).collect::<Vec<_>>(), [(5_000, 3), (4_750, 1), (1_000, 1)]);
    }
}
