//! Wall time, monotonic time and sleeping.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;

/// A source of time. Wall time may jump; monotonic time never goes back.
#[async_trait]
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// Time since some fixed point of this process; for durations and deadlines.
    fn monotonic(&self) -> Duration;
    /// Waits for at least `duration` of monotonic time.
    async fn sleep(&self, duration: Duration);
}

/// The time limit given to [`timeout`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time limit passed")]
pub struct Elapsed;

/// Waits for `future` for at most `limit`, by `clock`.
///
/// # Errors
/// [`Elapsed`] when the limit passes first; the future is dropped.
pub async fn timeout<F: Future>(clock: &dyn Clock, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = clock.sleep(limit) => Err(Elapsed),
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's monotonic clock")]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's wall clock")]
    fn unix_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that sleeps by the system's clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_that_never_ends_is_cut_off() {
        let clock = SystemClock::new();
        let never = std::future::pending::<()>();
        assert_eq!(timeout(&clock, Duration::from_millis(1), never).await, Err(Elapsed));
        assert_eq!(timeout(&clock, Duration::from_secs(60), async { 7 }).await, Ok(7));
    }
}
