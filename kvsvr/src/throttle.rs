//! A limit of bytes per second for everything that loads read, over all tables of the server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fkv_env::Clock;

/// A token bucket that may run into debt: a read larger than a second's allowance is let through and paid off by
/// those after it, so that no read starves.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_s: u64,
    /// Monotonic time at which everything granted so far is paid for.
    paid_at: Mutex<Duration>,
}

impl Throttle {
    /// How much may be read at once after a pause, as time.
    const BURST: Duration = Duration::from_millis(100);

    /// A limit of `bytes_per_s`; 0 means none.
    pub(crate) const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, paid_at: Mutex::new(Duration::ZERO) }
    }

    /// Waits until `bytes` may be read.
    pub(crate) async fn take(&self, clock: &dyn Clock, bytes: u64) {
        let wait = self.grant(clock.monotonic(), bytes);
        if wait > Duration::ZERO {
            clock.sleep(wait).await;
        }
    }

    fn grant(&self, now: Duration, bytes: u64) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let price_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let price = Duration::from_nanos(u64::try_from(price_ns).unwrap_or(u64::MAX));
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*paid_at).max(now.saturating_sub(Self::BURST));
        *paid_at = begin.saturating_add(price);
        begin.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_spread_over_time_and_a_large_one_is_paid_off_by_the_next() {
        let throttle = Throttle::new(1000);
        let now = Duration::from_secs(100);
        assert_eq!(throttle.grant(now, 100), Duration::ZERO, "the burst");
        assert_eq!(throttle.grant(now, 5000), Duration::ZERO, "paid for up to now");
        assert_eq!(throttle.grant(now, 1), Duration::from_secs(5));
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.grant(later, 1), Duration::ZERO);
        assert_eq!(Throttle::new(0).grant(now, u64::MAX), Duration::ZERO);
    }
}
