//! Whether this broker may still believe that it is one.
//!
//! After seven tenths of its lease's time without a confirmed renewal somebody else may lead what it led. It is the time that
//! says so, whenever somebody asks, and not a loop that ticks: a process that was stopped for half a minute knows with the
//! first request that it handles. Safety never depends on it; commits are fenced. It spares clients answers that are out of
//! date: waits for acks that cannot come, and sequences that are wrong only here.
//!
//! A broker that ran all the time and cannot reach the metadata store may be one of many, with nobody to take over from it:
//! it goes on serving what is committed. One that did not run for so long that its lease is in doubt has missed what others
//! did meanwhile: it serves nothing until its lease is confirmed.

use crate::actors::membership::LEASE_TTL;
use crate::clock::Clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// No lease is needed.
const CERTAIN: u64 = u64::MAX;
/// There is no lease any more.
const LOST: u64 = u64::MAX - 1;
/// Nobody says whether the process runs.
const UNWATCHED: u64 = u64::MAX;

/// See the module's documentation. Cheap to ask.
#[derive(Debug)]
pub struct Standing {
    clock: Clock,
    origin: Instant,
    doubted_after: Duration,
    /// When the lease was renewed, µs after `origin`.
    renewed_us: AtomicU64,
    /// When the process last said that it runs, µs after `origin`.
    awake_us: AtomicU64,
    /// When it last did after it had not for too long, µs after `origin`; 0 if never.
    woken_us: AtomicU64,
}

impl Default for Standing {
    /// Never in doubt, as long as nothing is said of a lease.
    fn default() -> Self {
        Self { renewed_us: AtomicU64::new(CERTAIN), ..Self::new(Clock::system(), LEASE_TTL) }
    }
}

impl Standing {
    /// In doubt when most of `lease_ttl` has passed, unless [`Self::renewed`] says otherwise.
    pub fn new(clock: Clock, lease_ttl: Duration) -> Self {
        let doubted_after = lease_ttl * 7 / 10;
        Self {
            clock,
            origin: clock.monotonic(),
            doubted_after,
            renewed_us: AtomicU64::new(0),
            awake_us: AtomicU64::new(UNWATCHED),
            woken_us: AtomicU64::new(0),
        }
    }

    /// The lease was renewed by a request that was sent at `asked`.
    pub fn renewed(&self, asked: Instant) {
        self.renewed_us.store(self.us(asked), Ordering::Release);
    }

    /// The lease has ended.
    pub fn lost(&self) {
        self.renewed_us.store(LOST, Ordering::Release);
    }

    /// The process runs. To be said again and again, whatever the metadata store does; from the first time on, silence is
    /// taken for sleep.
    pub fn awake(&self) {
        let now_us = self.us(self.clock.monotonic());
        if self.is_too_long(now_us) {
            self.woken_us.store(now_us, Ordering::Release);
        }
        self.awake_us.store(now_us, Ordering::Release);
    }

    /// True if the process slept until its lease was in doubt, and no renewal that it has asked for since is confirmed.
    pub fn has_slept(&self) -> bool {
        let woken_us = self.woken_us.load(Ordering::Acquire);
        let unconfirmed = match self.renewed_us.load(Ordering::Acquire) {
            CERTAIN => return false,
            LOST => woken_us > 0,
            us => woken_us > us,
        };
        unconfirmed || self.is_too_long(self.us(self.clock.monotonic()))
    }

    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_micros() as u64
    }

    /// True if by now nothing was heard of the process for too long.
    fn is_too_long(&self, now_us: u64) -> bool {
        let awake_us = self.awake_us.load(Ordering::Acquire);
        awake_us != UNWATCHED && now_us.saturating_sub(awake_us) >= self.doubted_after.as_micros() as u64
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
    use crate::clock;

    #[tokio::test(start_paused = true)]
    async fn who_slept_for_too_long_has_slept_until_a_renewal_of_since_is_confirmed() {
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let standing = Standing::new(Clock::simulated(0), Duration::from_secs(10));
        pass(60).await;
        assert!(standing.is_doubted() && !standing.has_slept(), "nobody says whether it runs");
        standing.awake();
        for _ in 0..30 {
            pass(2).await;
            standing.awake();
        }
        assert!(standing.is_doubted() && !standing.has_slept(), "it runs, and the store does not answer");
        let before = clock::monotonic();
        pass(30).await;
        assert!(standing.has_slept(), "the first request knows");
        standing.renewed(before);
        assert!(standing.has_slept(), "an answer that waited while it slept");
        standing.awake();
        standing.renewed(before);
        assert!(standing.has_slept());
        standing.lost();
        assert!(standing.has_slept());
        pass(1).await;
        standing.renewed(clock::monotonic());
        assert!(!standing.has_slept());
        pass(5).await;
        assert!(!standing.has_slept(), "not for long enough to be in doubt");
        assert!(!Standing::default().has_slept());
    }

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
