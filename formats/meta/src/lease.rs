//! Keeps a lease alive and says when it is lost.

use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, TaskHandle, timeout};
use futures::FutureExt;
use tokio::sync::{Notify, watch};

use crate::store::{LeaseId, MetaError, MetaStore};

/// Where a kept lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// None is held yet: the first is being granted, or the next after a loss.
    Pending,
    /// It was renewed within its time to live.
    Held(LeaseId),
    /// It has ended, or may have: it was not renewed in time. What hung on it is gone, or will be.
    Lost(LeaseId),
}

/// Grants a lease, renews it at a third of its time to live, and signals its loss. Dropping the keeper stops the
/// renewals; the lease then ends by itself.
#[derive(Debug)]
pub struct LeaseKeeper {
    state: watch::Receiver<LeaseState>,
    regrant: Arc<Notify>,
    store: Arc<dyn MetaStore>,
    task: TaskHandle,
}

impl LeaseKeeper {
    /// Starts a keeper for a lease of `ttl`. It keeps trying while the store is unavailable.
    #[must_use]
    pub fn start(env: &Env, store: Arc<dyn MetaStore>, ttl: Duration) -> Self {
        let (sender, state) = watch::channel(LeaseState::Pending);
        let regrant = Arc::new(Notify::new());
        let renewer = Renewer {
            env: env.clone(),
            store: Arc::clone(&store),
            ttl: ttl.max(Duration::from_secs(1)),
            state: sender,
            regrant: Arc::clone(&regrant),
        };
        Self { state, regrant, store, task: env.spawn.spawn("lease keeper", Box::pin(renewer.run())) }
    }

    /// The state, now and as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Waits until a lease is held. After a loss, [`LeaseKeeper::regrant`] asks for one.
    pub async fn held(&self) -> LeaseId {
        let mut state = self.state.clone();
        loop {
            if let LeaseState::Held(lease) = *state.borrow_and_update() {
                return lease;
            }
            if state.changed().await.is_err() {
                // The runtime is going down with the task.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until `lease` is not the one held.
    pub async fn lost(&self, lease: LeaseId) {
        let mut state = self.state.clone();
        while *state.borrow_and_update() == LeaseState::Held(lease) {
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks for a new lease after a loss. Nothing happens while one is held.
    pub fn regrant(&self) {
        self.regrant.notify_one();
    }

    /// Ends the lease at once, for a graceful shutdown: what hangs on it goes now, not when its time is over.
    pub async fn revoke(self) {
        let held = *self.state.borrow();
        drop(self.task);
        if let LeaseState::Held(lease) = held
            && let Err(error) = self.store.revoke(lease).await
        {
            tracing::warn!(lease = lease.0, %error, "lease could not be ended; it will end by itself");
        }
    }
}

struct Renewer {
    env: Env,
    store: Arc<dyn MetaStore>,
    ttl: Duration,
    state: watch::Sender<LeaseState>,
    regrant: Arc<Notify>,
}

impl Renewer {
    async fn run(self) {
        loop {
            let (lease, deadline) = self.grant().await;
            self.state.send_replace(LeaseState::Held(lease));
            self.renew_until_lost(lease, deadline).await;
            // A request made while the lease was held is void; whoever sees the loss asks again.
            let _ = self.regrant.notified().now_or_never();
            self.state.send_replace(LeaseState::Lost(lease));
            self.regrant.notified().await;
            self.state.send_replace(LeaseState::Pending);
            // It may still live in the store, and hold what the new one is wanted for.
            let _ = timeout(&*self.env.clock, self.ttl / 3, self.store.revoke(lease)).await;
        }
    }

    /// Grants a lease, and gives the time by which it must have been renewed, counted from before the request.
    async fn grant(&self) -> (LeaseId, Duration) {
        let mut failures = 0_u32;
        loop {
            let asked = self.env.clock.monotonic();
            match self.store.grant(self.ttl).await {
                Ok(lease) => return (lease, asked.saturating_add(self.ttl)),
                Err(error) if failures == 0 => tracing::warn!(%error, "no lease can be had; trying on"),
                Err(error) => tracing::debug!(%error, "still no lease can be had"),
            }
            failures = failures.saturating_add(1);
            self.pause(Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(self.ttl)).await;
        }
    }

    async fn renew_until_lost(&self, lease: LeaseId, mut deadline: Duration) {
        let mut wait = self.ttl / 3;
        loop {
            self.pause(wait).await;
            let asked = self.env.clock.monotonic();
            let left = deadline.saturating_sub(asked);
            if left.is_zero() {
                tracing::warn!(lease = lease.0, "lease was not renewed in time");
                return;
            }
            match timeout(&*self.env.clock, left, self.store.renew(lease)).await {
                Ok(Ok(())) => {
                    deadline = asked.saturating_add(self.ttl);
                    wait = self.ttl / 3;
                }
                Ok(Err(MetaError::LeaseGone)) => {
                    tracing::warn!(lease = lease.0, "lease has ended");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::debug!(lease = lease.0, %error, "lease could not be renewed; trying on");
                    wait = (self.ttl / 10).min(deadline.saturating_sub(self.env.clock.monotonic()));
                }
                Err(_) => wait = Duration::ZERO,
            }
        }
    }

    /// Sleeps for `about` that long, less up to a fifth, so that many keepers do not renew in step.
    async fn pause(&self, about: Duration) {
        let jitter = self.env.entropy.below(u64::try_from(about.as_millis() / 5).unwrap_or(u64::MAX));
        self.env.clock.sleep(about.saturating_sub(Duration::from_millis(jitter))).await;
    }
}
