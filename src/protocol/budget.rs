//! Byte permits: how much memory the requests of all connections may take together.
//!
//! A permit is taken before the bytes are read and held until the reply is written. There are three pools, and a
//! connection that holds from one waits only for a later one, so that no two connections wait for each other:
//!
//! 1. *small*: requests up to [`SMALL_LEN_MAX`], and the first bytes of longer ones. A peer that announces a long request
//!    and sends nothing holds only this much.
//! 2. *large*: longer requests, once their first bytes are there. Small requests use it too when it is free, and then
//!    wait for nothing else but *decoded*.
//! 3. *decoded*: what decoding allocates beyond the frame, when it is much.

use super::limits::EdgeLimits;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest small request, bytes.
pub const SMALL_LEN_MAX: usize = 32 * 1024;
/// Permits count in units of this many bytes.
const UNIT: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct RequestBudget {
    small: Pool,
    large: Pool,
    decoded: Pool,
    waiting: AtomicUsize,
    waits: AtomicU64,
}

#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    units: usize,
}

/// Bytes that are accounted for; dropping it gives them back.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code)] OwnedSemaphorePermit); // held for its Drop

impl Pool {
    fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, u32::MAX as usize);
        Self { permits: Arc::new(Semaphore::new(units)), units }
    }

    /// More than the whole pool is granted as the whole pool: the limit of a single request is checked elsewhere.
    fn units_of(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT).clamp(1, self.units) as u32
    }

    fn try_take(&self, bytes: usize) -> Option<Permit> {
        self.permits.clone().try_acquire_many_owned(self.units_of(bytes)).ok().map(Permit)
    }

    async fn take(&self, bytes: usize) -> Permit {
        let permit = self.permits.clone().acquire_many_owned(self.units_of(bytes)).await;
        Permit(permit.expect("the semaphore is never closed"))
    }

    fn used(&self) -> usize {
        (self.units - self.permits.available_permits()) * UNIT
    }
}

/// Counts a waiter while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(budget: &'a RequestBudget) -> Self {
        budget.waits.fetch_add(1, Ordering::Relaxed);
        budget.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&budget.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestBudget {
    /// Pools of the configured sizes.
    pub fn new(limits: &EdgeLimits) -> Self {
        Self {
            small: Pool::new(limits.inflight_small_bytes_max),
            large: Pool::new(limits.inflight_bytes_max),
            decoded: Pool::new(limits.decoded_bytes_max),
            waiting: AtomicUsize::new(0),
            waits: AtomicU64::new(0),
        }
    }

    /// For a request of `len` bytes, at most [`SMALL_LEN_MAX`].
    pub async fn small(&self, len: usize) -> Permit {
        if let Some(permit) = self.small.try_take(len).or_else(|| self.large.try_take(len)) {
            return permit;
        }
        let _waiting = Waiting::new(self);
        tokio::select! {
            permit = self.small.take(len) => permit,
            permit = self.large.take(len) => permit,
        }
    }

    /// For the first [`SMALL_LEN_MAX`] bytes of a longer request. Only from the small pool, because its holder goes on
    /// to wait for the large one.
    pub async fn head(&self) -> Permit {
        self.take(&self.small, SMALL_LEN_MAX).await
    }

    /// For a request of `len` bytes whose first bytes are there.
    pub async fn large(&self, len: usize) -> Permit {
        self.take(&self.large, len).await
    }

    /// For `bytes` that decoding a request allocates.
    pub async fn decoded(&self, bytes: usize) -> Permit {
        self.take(&self.decoded, bytes).await
    }

    async fn take(&self, pool: &Pool, bytes: usize) -> Permit {
        if let Some(permit) = pool.try_take(bytes) {
            return permit;
        }
        let _waiting = Waiting::new(self);
        pool.take(bytes).await
    }

    /// True while a connection waits for a permit.
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// How often a connection had to wait for a permit since start.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Bytes of requests that are accounted for now.
    pub fn used_bytes(&self) -> usize {
        self.small.used() + self.large.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn budget() -> RequestBudget {
        RequestBudget::new(&EdgeLimits {
            inflight_bytes_max: 1 << 20,
            inflight_small_bytes_max: 2 * SMALL_LEN_MAX,
            decoded_bytes_max: 1 << 20,
            ..EdgeLimits::default()
        })
    }

    #[test]
    fn permits_are_taken_and_returned() {
        let budget = budget();
        let one = budget.small(1).now_or_never().unwrap();
        let two = budget.large(10_000).now_or_never().unwrap();
        assert_eq!(budget.used_bytes(), 1024 + 10 * 1024);
        drop((one, two));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn small_requests_pass_while_large_ones_wait() {
        let budget = budget();
        let all = budget.large(usize::MAX).now_or_never().unwrap();
        assert!(budget.large(40_000).now_or_never().is_none());
        let small = budget.small(SMALL_LEN_MAX).now_or_never().expect("the small pool is free");
        let head = budget.head().now_or_never().expect("the small pool is free");
        assert!(budget.small(1).now_or_never().is_none() && budget.head().now_or_never().is_none());
        assert!(!budget.is_contended(), "nobody waits any more");
        drop(all);
        assert!(budget.head().now_or_never().is_none(), "heads never use the large pool");
        budget.small(1).now_or_never().expect("small requests use the large pool");
        drop((small, head));
    }

    #[tokio::test]
    async fn a_waiting_small_request_takes_whichever_pool_frees_first() {
        let budget = budget();
        let large = budget.large(usize::MAX).await;
        let heads = [budget.head().await, budget.head().await];
        let mut waiting = Box::pin(budget.small(5));
        assert!(futures::poll!(&mut waiting).is_pending() && budget.is_contended());
        drop(large);
        waiting.await;
        drop(heads);
        assert!(!budget.is_contended() && budget.used_bytes() == 0);
        assert_eq!(budget.waits(), 1);
    }
}
