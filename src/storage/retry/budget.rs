//! Token buckets for extra attempts: what a call earns is a fraction of what an extra attempt costs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Cost of one extra attempt.
const COST: u64 = 100;
/// A call earns this much of a retry: at most 20 % extra load in the long run.
const RETRY_EARNED: u64 = 20;
/// A call earns this much of a hedge: at most 5 % extra load in the long run.
const HEDGE_EARNED: u64 = 5;
/// Retries in a full bucket.
const RETRY_BURST: u64 = 100;
/// Hedges in a full bucket.
const HEDGE_BURST: u64 = 4;

/// Extra attempts left. A hedge is paid from both buckets, so that hedges and retries share one budget.
#[derive(Debug)]
pub struct Budget {
    retry: AtomicU64,
    hedge: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { retry: AtomicU64::new(RETRY_BURST * COST), hedge: AtomicU64::new(COST) }
    }
}

fn earn(bucket: &AtomicU64, amount: u64, max: u64) {
    let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |has| Some((has + amount).min(max)));
}

fn spend(bucket: &AtomicU64) -> bool {
    bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |has| has.checked_sub(COST)).is_ok()
}

impl Budget {
    /// A call begins.
    pub fn earn(&self) {
        earn(&self.retry, RETRY_EARNED, RETRY_BURST * COST);
        earn(&self.hedge, HEDGE_EARNED, HEDGE_BURST * COST);
    }

    /// Pays for a retry; false if there is nothing left.
    pub fn spend_retry(&self) -> bool {
        spend(&self.retry)
    }

    /// Pays for a hedge; false if there is nothing left.
    pub fn spend_hedge(&self) -> bool {
        if !spend(&self.retry) {
            return false;
        }
        let paid = spend(&self.hedge);
        if !paid {
            earn(&self.retry, COST, RETRY_BURST * COST);
        }
        paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_attempts_are_a_bounded_share_of_calls() {
        let budget = Budget::default();
        let (mut hedges, mut retries) = (0, 0);
        for _ in 0..10_000 {
            budget.earn();
            hedges += u64::from(budget.spend_hedge());
            retries += u64::from(budget.spend_retry());
        }
        assert!((450..=500 + HEDGE_BURST).contains(&hedges), "{hedges} hedges");
        assert!((1_400..=1_600).contains(&retries), "{retries} retries beside the hedges");
    }
}
