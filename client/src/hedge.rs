//! How many second requests a client may send: a few per hundred first ones, so that a slow cluster is not made slower.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one second request costs.
const COST: u64 = 100;
/// The most that is saved up: this many second requests at once.
const SAVED_MAX: u64 = 20 * COST;

/// Earned by first requests, spent on second ones.
#[derive(Debug)]
pub(crate) struct HedgeBudget {
    /// Earned by each first request.
    percent: u64,
    saved: AtomicU64,
}

impl HedgeBudget {
    /// A budget of `percent` second requests per hundred first ones.
    pub(crate) fn new(percent: u32) -> Self {
        let saved = if percent == 0 { 0 } else { COST };
        Self { percent: percent.into(), saved: AtomicU64::new(saved) }
    }

    /// A first request is sent.
    pub(crate) fn earn(&self) {
        let more = |saved: u64| Some((saved + self.percent).min(SAVED_MAX));
        // It always succeeds: the closure never refuses.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether `requests` second ones may be sent now; if so they are paid for.
    pub(crate) fn spend(&self, requests: usize) -> bool {
        let cost = u64::try_from(requests).unwrap_or(u64::MAX).saturating_mul(COST);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(cost)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_stay_a_few_per_hundred() {
        let budget = HedgeBudget::new(5);
        let mut sent = 0;
        for _ in 0..1000 {
            budget.earn();
            sent += u32::from(budget.spend(1));
        }
        assert_eq!(sent, 51, "5 per hundred and the one to begin with");
    }

    #[test]
    fn quiet_times_do_not_save_up_a_storm() {
        let budget = HedgeBudget::new(50);
        (0..10_000).for_each(|_| budget.earn());
        let sent = (0..10_000).filter(|_| budget.spend(1)).count();
        assert_eq!(sent, 20);
        assert!(!HedgeBudget::new(0).spend(1));
    }
}
