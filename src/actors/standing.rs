//! Whether this broker may still believe that it is one.
//!
//! After seven tenths of its lease's time without a confirmed renewal somebody else may lead what it led. It is the time that
//! says so, whenever somebody asks, and not a loop that ticks: a process that was stopped for half a minute knows with the
//! first request that it handles. Safety never depends on it; commits are fenced. It spares clients answers that are out of
//! date: waits for acks that cannot come, and sequences that are wrong only here.

use crate::clock::{self, Clock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// No lease is needed.
const CERTAIN: u64 = u64::MAX;
/// There is no lease any more.
const LOST: u64 = u64::MAX - 1;

/// See the module's documentation. Cheap to ask.
#[derive(Debug)]
pub struct Standing {
    clock: Clock,
    origin: Instant,
    doubted_after: Duration,
    /// When the lease was renewed, µs after `origin`.
    renewed_us: AtomicU64,
}

impl Default for Standing {
    /// Never in doubt.
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            origin: clock::monotonic(),
            doubted_after: Duration::MAX,
            renewed_us: AtomicU64::new(CERTAIN),
        }
    }
}

impl Standing {
    /// In doubt when most of `lease_ttl` has passed, unless [`Self::renewed`] says otherwise.
    pub fn new(clock: Clock, lease_ttl: Duration) -> Self {
        let doubted_after = lease_ttl * 7 / 10;
        Self { clock, origin: clock.monotonic(), doubted_after, renewed_us: AtomicU64::new(0) }
    }

    /// The lease was renewed by a request that was sent at `asked`.
    pub fn renewed(&self, asked: Instant) {
        self.renewed_us.store(asked.saturating_duration_since(self.origin).as_micros() as u64, Ordering::Release);
    }

    /// The lease has ended.
    pub fn lost(&self) {
        self.renewed_us.store(LOST, Ordering::Release);
    }

    /// True while somebody else may have taken over without this broker's knowing.
    pub fn is_doubted(&self) -> bool {
        match self.renewed_us.load(Ordering::Acquire) {
            CERTAIN => false,
            LOST => true,
            us => self.clock.monotonic() >= self.origin + Duration::from_micros(us) + self.doubted_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn doubt_comes_with_time_and_goes_with_a_renewal() {
        const DOUBTED_AFTER: Duration = Duration::from_secs(7);
        let standing = Standing::new(Clock::simulated(0), Duration::from_secs(10));
        let certain = Standing::default();
        tokio::time::advance(DOUBTED_AFTER - Duration::from_millis(1)).await;
        assert!(!standing.is_doubted());
        let asked = clock::monotonic();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(standing.is_doubted() && !certain.is_doubted());
        standing.renewed(asked);
        assert!(!standing.is_doubted());
        tokio::time::advance(DOUBTED_AFTER).await;
        standing.renewed(clock::monotonic());
        standing.lost();
        assert!(standing.is_doubted());
        standing.renewed(asked);
        assert!(standing.is_doubted(), "it counts from the request, not from the answer");
    }
}
