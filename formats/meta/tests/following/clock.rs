//! Time that moves only when a test says so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fkv_env::Clock;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct ManualClock {
    now: watch::Sender<Duration>,
    sleeping: Mutex<Vec<Duration>>,
    changed: watch::Sender<()>,
}

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        let now = watch::Sender::new(Duration::from_secs(1000));
        Arc::new(Self { now, sleeping: Mutex::new(Vec::new()), changed: watch::Sender::new(()) })
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }

    /// Waits until somebody sleeps until some time after now.
    pub(crate) async fn until_somebody_sleeps(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let now = *self.now.borrow();
            if self.sleeping.lock().expect("unpoisoned").iter().any(|until| *until > now) {
                return;
            }
            changed.changed().await.expect("the clock lives");
        }
    }
}

/// Forgets a sleep when it is over or given up.
struct Sleep<'a>(&'a ManualClock, Duration);

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        let mut sleeping = self.0.sleeping.lock().expect("unpoisoned");
        if let Some(index) = sleeping.iter().position(|until| *until == self.1) {
            sleeping.swap_remove(index);
        }
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        u64::try_from(self.monotonic().as_millis()).expect("small")
    }

    fn monotonic(&self) -> Duration {
        *self.now.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        let _sleep = Sleep(self, until);
        self.sleeping.lock().expect("unpoisoned").push(until);
        self.changed.send_replace(());
        let mut now = self.now.subscribe();
        now.wait_for(|now| *now >= until).await.expect("the clock lives");
    }
}
