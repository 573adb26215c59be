//! Which servers are left alone because they failed, and when one is probed. Pure; time is given.
//!
//! ```text
//!   healthy ── FAILURES_MAX failures in a row ──▶ ejected until t ── t passes: one probe ──┬─ success ─▶ healthy
//!                                                     ▲                                    │
//!                                                     └── twice as long ────── failure ────┘
//! ```

use std::time::Duration;

/// Failures in a row after which a server is ejected.
const FAILURES_MAX: u32 = 3;
/// How long the first ejection lasts; each one after a failed probe lasts twice as long.
const EJECTED_FIRST: Duration = Duration::from_millis(500);
/// The longest ejection.
const EJECTED_MAX: Duration = Duration::from_secs(30);

/// How a server has done lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    failures: u32,
    /// Until when it is ejected, if it is.
    until: Option<Duration>,
    lasts: Duration,
}

impl Health {
    /// Whether the server may be asked at `now`. Once an ejection has passed one caller is told so, and the others
    /// wait until it has come back with news, or as long again.
    pub(crate) fn admit(&mut self, now: Duration) -> bool {
        match self.until {
            Some(until) if now < until => false,
            Some(_) => {
                self.until = Some(now + self.lasts);
                true
            }
            None => true,
        }
    }

    /// Whether it is ejected at `now`; asking so changes nothing.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// It answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It failed, or took too long. `true` if this ejected it.
    pub(crate) fn failed(&mut self, now: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_MAX {
            return false;
        }
        let first = self.until.is_none();
        self.lasts = if first { EJECTED_FIRST } else { (self.lasts * 2).min(EJECTED_MAX) };
        self.until = Some(now + self.lasts);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_server_that_fails_now_and_then_stays() {
        let mut health = Health::default();
        for _ in 0..100 {
            assert!(!health.failed(MS) && !health.failed(MS));
            assert!(health.admit(MS));
            health.succeeded();
        }
    }

    #[test]
    fn a_dead_server_is_probed_by_one_call_at_a_time_and_ever_less_often() {
        let mut health = Health::default();
        assert!(!health.failed(MS) && !health.failed(MS) && health.failed(MS), "the third failure ejects");
        let mut now = MS;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let since = now;
            while !health.admit(now) {
                now += MS;
            }
            assert!(!health.admit(now) && health.is_ejected(now), "one probe only");
            waits.push((now - since).as_millis());
            assert!(!health.failed(now), "it was ejected already");
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        health.succeeded();
        assert!(health.admit(now));
        assert!(!health.failed(now), "it begins afresh");
    }
}
