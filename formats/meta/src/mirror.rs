//! Keeps a [`View`] of a module: list once, then watch; list again when the watch cannot go on.

use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, TaskHandle};
use futures::StreamExt;
use tokio::sync::watch;

use crate::key::Keys;
use crate::store::{MetaError, MetaStore, Revision, WatchStream};
pub use crate::view::{Unreadable, View};

/// How long to wait after the first failure; doubled with each further one up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often everything is listed although the watch is silent; half of it is jitter.
const POLL: Duration = Duration::from_secs(60);

/// A view that follows the store. Dropping it ends the watch.
#[derive(Debug)]
pub struct Mirror {
    views: watch::Receiver<Arc<View>>,
    _task: TaskHandle,
}

impl Mirror {
    /// Starts following the module of `keys`. The first view is empty and not connected.
    #[must_use]
    pub fn start(env: &Env, store: Arc<dyn MetaStore>, keys: Keys) -> Self {
        let (sender, views) = watch::channel(Arc::new(View::empty(keys.clone())));
        let follower = Follower { env: env.clone(), store, keys, views: sender, failures: 0 };
        Self { views, _task: env.spawn.spawn("metadata mirror", Box::pin(follower.run())) }
    }

    /// The views, newest always at hand.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// The newest view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Waits until something has been read, and gives the view.
    pub async fn ready(&self) -> Arc<View> {
        self.wait_for(|view| view.revision().0 > 0).await
    }

    /// Waits until a view satisfies `condition`, and gives it.
    pub async fn wait_for(&self, mut condition: impl FnMut(&View) -> bool) -> Arc<View> {
        let mut views = self.views.clone();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            if condition(&view) {
                return view;
            }
            if views.changed().await.is_err() {
                // The runtime is going down with the task; nothing will ever change again.
                std::future::pending::<()>().await;
            }
        }
    }
}

struct Follower {
    env: Env,
    store: Arc<dyn MetaStore>,
    keys: Keys,
    views: watch::Sender<Arc<View>>,
    failures: u32,
}

impl Follower {
    async fn run(mut self) {
        let mut relist = true;
        while !self.views.is_closed() {
            let error = match self.follow(relist).await {
                Ok(()) => {
                    // Time for the poll: the watch starts anew behind it.
                    relist = true;
                    continue;
                }
                Err(error) => error,
            };
            // A compacted watch has lost events; anything else can go on from the revision it reached.
            relist = matches!(error, MetaError::Compacted(_) | MetaError::Corrupt { .. });
            if matches!(error, MetaError::Compacted(_)) {
                tracing::info!(%error, "metadata is listed again");
                continue;
            }
            if self.failures == 0 {
                tracing::warn!(%error, "metadata store lost; what is known stays in use");
            }
            self.disconnected();
            self.back_off().await;
        }
    }

    /// Lists if asked to or never done, then applies what the watch brings until it is time to list again.
    async fn follow(&mut self, relist: bool) -> Result<(), MetaError> {
        if relist || self.revision().0 == 0 {
            self.list().await?;
        }
        let from = Revision(self.revision().0 + 1);
        let mut batches: WatchStream = self.store.watch(self.keys.all(), from).await?;
        self.connected();
        let jitter = self.env.entropy.below(u64::try_from(POLL.as_millis()).unwrap_or(u64::MAX) / 2);
        let clock = Arc::clone(&self.env.clock);
        let mut poll = clock.sleep(POLL / 2 + Duration::from_millis(jitter));
        loop {
            tokio::select! {
                biased;
                batch = batches.next() => {
                    let ended = || MetaError::Unavailable("the watch ended".to_owned());
                    let batch = batch.ok_or_else(ended)??;
                    let mut view = View::clone(&self.views.borrow());
                    view.apply(batch);
                    self.show(view);
                }
                () = &mut poll => return Ok(()),
            }
        }
    }

    async fn list(&mut self) -> Result<(), MetaError> {
        let snapshot = self.store.list(self.keys.all(), None).await?;
        let known = self.revision();
        if snapshot.revision < known {
            tracing::error!(
                known = known.0,
                found = snapshot.revision.0,
                "the metadata store has gone back in time, as after a restore from a snapshot: run `fkv cluster recover`"
            );
        }
        if snapshot.revision != known {
            self.show(View::of(self.keys.clone(), snapshot));
        }
        Ok(())
    }

    fn revision(&self) -> Revision {
        self.views.borrow().revision()
    }

    fn show(&self, view: View) {
        let before = Arc::clone(&self.views.borrow());
        for unreadable in view.unreadable() {
            if !before.unreadable().any(|known| known == unreadable) {
                tracing::error!(key = %unreadable.key, reason = %unreadable.reason, "metadata value cannot be read");
            }
        }
        self.views.send_replace(Arc::new(view));
    }

    fn connected(&mut self) {
        if self.failures > 0 {
            tracing::info!("metadata store is back");
        }
        self.failures = 0;
        self.set_connected(true);
    }

    fn disconnected(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.set_connected(false);
    }

    fn set_connected(&self, connected: bool) {
        self.views.send_if_modified(|view| {
            let changed = view.connected() != connected;
            if changed {
                Arc::make_mut(view).set_connected(connected);
            }
            changed
        });
    }

    async fn back_off(&self) {
        let longest = BACKOFF_MIN.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        let jitter = self.env.entropy.below(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX) / 2);
        self.env.clock.sleep(longest / 2 + Duration::from_millis(jitter)).await;
    }
}
