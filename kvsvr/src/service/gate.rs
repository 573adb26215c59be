//! How many requests run and wait at once. Beyond that a request is refused at once: a client is better served by
//! another sect than by a queue that grows without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fkv_rpc::status::{ErrorKind, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(crate) struct Gate {
    /// Which requests it is for.
    what: &'static str,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    concurrent_max: usize,
    queue_max: usize,
}

/// One place in the queue, given up on every way out: also when the caller's deadline passes and its future is
/// dropped.
struct Waiting<'g>(&'g AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    pub(crate) fn new(what: &'static str, concurrent_max: usize, queue_max: usize) -> Self {
        let concurrent_max = concurrent_max.min(Semaphore::MAX_PERMITS);
        Self {
            what,
            running: Arc::new(Semaphore::new(concurrent_max)),
            waiting: AtomicUsize::new(0),
            concurrent_max,
            queue_max,
        }
    }

    /// Waits for a turn, in order of arrival. The turn lasts as long as what is returned lives: whoever does the work
    /// keeps it, wherever that is.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = {
            let before = self.waiting.fetch_add(1, Ordering::AcqRel);
            let place = Waiting(&self.waiting);
            if before >= self.queue_max {
                return Err(self.full());
            }
            place
        };
        let turn = Arc::clone(&self.running).acquire_owned().await;
        turn.map_err(|_| Failure::new(ErrorKind::Unavailable, "the server is going down"))
    }

    fn full(&self) -> Failure {
        let message = format!(
            "the server answers {} {} at once and {} more wait: ask another sect",
            self.concurrent_max, self.what, self.queue_max
        );
        Failure::new(ErrorKind::Overloaded, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_refused_and_a_caller_that_gives_up_frees_its_place() {
        let gate = Gate::new("requests", 1, 1);
        let running = gate.enter().await.expect("the first runs");
        let mut waiting = Box::pin(gate.enter());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        let refused = gate.enter().await.expect_err("the queue is full");
        assert_eq!(refused.kind, ErrorKind::Overloaded);
        drop(waiting);
        let mut waiting = Box::pin(gate.enter());
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "the place is free again");
        drop(running);
        assert!(waiting.await.is_ok());
    }
}
