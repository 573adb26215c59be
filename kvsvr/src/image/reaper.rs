//! Gives memory back late and in pieces.
//!
//! The last holder of an image may be a request. Unmapping gigabytes there would delay its answer, so a group that
//! nobody needs any more is sent to a task that unmaps one after the other, off the serving threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fkv_env::{Env, TaskHandle};
use tokio::sync::mpsc;

use super::Image;
use super::arena::Arena;
use crate::ledger::Reservation;

/// Memory with its share of the ledger.
type Carcass = (Arena, Reservation);

/// Where groups send their memory.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    sender: mpsc::UnboundedSender<Carcass>,
    queued: Arc<AtomicUsize>,
    retired: Arc<Mutex<Vec<Weak<Image>>>>,
}

impl Reaper {
    /// Between two pieces, so that other memory calls of the process get their turn.
    const PAUSE: Duration = Duration::from_millis(1);

    pub(crate) fn start(env: &Env) -> (Self, TaskHandle) {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Carcass>();
        let queued = Arc::new(AtomicUsize::new(0));
        let reaper = Self { sender, queued: Arc::clone(&queued), retired: Arc::default() };
        let clock = Arc::clone(&env.clock);
        let env_of_task = env.clone();
        let task = env.spawn.spawn(
            "reaper",
            Box::pin(async move {
                while let Some(carcass) = receiver.recv().await {
                    if env_of_task.blocking(move || drop(carcass)).await.is_err() {
                        tracing::error!("an arena could not be unmapped");
                    }
                    queued.fetch_sub(1, Ordering::AcqRel);
                    clock.sleep(Self::PAUSE).await;
                }
            }),
        );
        (reaper, task)
    }

    pub(crate) fn take(&self, arena: Arena, reservation: Reservation) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        // Without the task (the server is going down) the memory goes here and now.
        if self.sender.send((arena, reservation)).is_err() {
            self.queued.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Notes that the server has let go of an image; requests may still hold it.
    pub(crate) fn retire(&self, image: &Arc<Image>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|image| image.strong_count() > 0);
        retired.push(Arc::downgrade(image));
    }

    /// Whether memory is on its way back: a load that does not fit should wait for it.
    pub(crate) fn is_busy(&self) -> bool {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|image| image.strong_count() > 0);
        !retired.is_empty() || self.queued.load(Ordering::Acquire) > 0
    }
}
