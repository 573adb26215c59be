//! The memory a build may use: one number for a worker, charged before buffers grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A build needs more memory than the worker may use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the input needs more than the {limit} bytes of memory this worker may use for a build (at least {needed} while {what}): \
     load less input in one task, or raise --build-memory"
)]
pub(crate) struct OverBudget {
    /// What was being done.
    pub(crate) what: &'static str,
    /// Bytes that would have been in use, at least.
    pub(crate) needed: u64,
    /// Bytes that may be in use.
    pub(crate) limit: u64,
}

/// A limit and what is used of it. Cheap to clone; clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

/// Bytes charged to a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Budget,
    bytes: u64,
    what: &'static str,
}

impl Budget {
    /// A budget of `limit` bytes, all free.
    #[must_use]
    pub(crate) fn new(limit: u64) -> Self {
        Self { shared: Arc::new(Shared { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0) }) }
    }

    /// The limit.
    #[must_use]
    pub(crate) fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// The most that was in use at once.
    #[must_use]
    pub(crate) fn peak(&self) -> u64 {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// Charges nothing yet, for `what`.
    #[must_use]
    pub(crate) fn charge(&self, what: &'static str) -> Charge {
        Charge { budget: self.clone(), bytes: 0, what }
    }
}

impl Charge {
    /// Makes this charge stand for `bytes`.
    ///
    /// # Errors
    /// [`OverBudget`]; the charge then stands as before.
    pub(crate) fn set(&mut self, bytes: u64) -> Result<(), OverBudget> {
        let shared = &self.budget.shared;
        if bytes <= self.bytes {
            shared.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.bytes;
            let used = shared.used.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if used > shared.limit {
                shared.used.fetch_sub(more, Ordering::Relaxed);
                return Err(OverBudget { what: self.what, needed: used, limit: shared.limit });
            }
            shared.peak.fetch_max(used, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.shared.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_charge_leaves_the_count_as_it_was() {
        let budget = Budget::new(100);
        let mut a = budget.charge("reading");
        a.set(60).expect("fits");
        let mut b = budget.charge("building");
        let refused = b.set(50).expect_err("110 of 100");
        assert_eq!((refused.needed, refused.limit), (110, 100));
        assert!(refused.to_string().contains("--build-memory"), "{refused}");
        b.set(40).expect("exactly full");
        drop(a);
        b.set(100).expect("the other charge is back");
        b.set(1).expect("shrinks");
        assert_eq!(budget.peak(), 100);
    }
}
