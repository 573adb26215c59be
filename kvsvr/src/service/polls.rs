//! Runs futures on a CPU pool: what one computes between two waits is a job of the pool, and while it waits it takes no
//! thread.
//!
//! ```text
//!            ┌── woken ──▶ end of the queue ──▶ polled on the pool ──┬─ ready ──▶ the outcome, to whoever waits
//!   waiting ─┘                  ▲                                    ├─ pending, woken meanwhile ─┐
//!      ▲                        └──────────────────────────────────────────────────────────────┘
//!      └──────────────────────────────────────────────────────────── pending
//! ```
//!
//! The queue is ours, and each entry of it has a job of the pool, which polls whatever is first by then: a pool may run
//! its jobs in any order, and what wakes itself again and again would come first for ever.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use fkv_env::{CpuPool, JobPanicked};
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// Nothing is to be done before somebody wakes it.
const WAITING: u8 = 0;
/// It is in the queue.
const QUEUED: u8 = 1;
/// It is being polled.
const POLLED: u8 = 2;
/// It is being polled, and was woken since that began.
const POLLED_AND_WOKEN: u8 = 3;

/// A pool that polls futures.
pub(crate) struct Polls {
    pool: Arc<dyn CpuPool>,
    /// Those to be polled, in the order in which they were woken.
    queue: Mutex<VecDeque<Arc<Task>>>,
}

impl fmt::Debug for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polls").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// A future on a pool.
struct Task {
    /// Gone once it is ready. Only the one job that polls it ever takes the lock.
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    state: AtomicU8,
    cancelled: AtomicBool,
    polls: Arc<Polls>,
}

/// The outcome of a future on a pool. Dropping it drops the future, on the pool.
pub(crate) struct OnPool<T> {
    task: Arc<Task>,
    outcome: oneshot::Receiver<T>,
}

impl Polls {
    pub(crate) fn new(pool: Arc<dyn CpuPool>) -> Arc<Self> {
        Arc::new(Self { pool, queue: Mutex::default() })
    }

    /// Starts a future.
    pub(crate) fn start<T, F>(self: &Arc<Self>, future: F) -> OnPool<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, outcome) = oneshot::channel();
        let whole = async move {
            // Whoever waited may have given up.
            let _ = sender.send(future.await);
        };
        let task = Arc::new(Task {
            future: Mutex::new(Some(Box::pin(whole))),
            state: AtomicU8::new(WAITING),
            cancelled: AtomicBool::new(false),
            polls: Arc::clone(self),
        });
        task.wake_by_ref();
        OnPool { task, outcome }
    }

    fn push(self: &Arc<Self>, task: Arc<Task>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
        let polls = Arc::clone(self);
        self.pool.execute(Box::new(move || {
            let first = polls.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(task) = first {
                task.poll();
            }
        }));
    }
}

impl<T> Future for OnPool<T> {
    type Output = Result<T, JobPanicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The sender goes without a word if the future panicked.
        Pin::new(&mut self.outcome).poll(context).map_err(|_| JobPanicked)
    }
}

impl<T> Drop for OnPool<T> {
    fn drop(&mut self) {
        self.task.cancelled.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = |state| match state {
            WAITING => Some(QUEUED),
            POLLED => Some(POLLED_AND_WOKEN),
            // A poll is still to come, and will see what this is about.
            _ => None,
        };
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, woken) == Ok(WAITING) {
            self.polls.push(Arc::clone(self));
        }
    }
}

impl Task {
    fn poll(self: Arc<Self>) {
        // What was done before a wake-up that came until now is seen by the poll.
        self.state.swap(POLLED, Ordering::AcqRel);
        let mut future = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cancelled.load(Ordering::Acquire) {
            *future = None;
        }
        // Should the poll panic, the future is gone with it.
        let Some(mut polled) = future.take() else { return };
        let waker = Waker::from(Arc::clone(&self));
        if polled.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        *future = Some(polled);
        drop(future);
        let rested = self.state.compare_exchange(POLLED, WAITING, Ordering::AcqRel, Ordering::Acquire);
        if rested.is_err() {
            self.state.store(QUEUED, Ordering::Release);
            let polls = Arc::clone(&self.polls);
            polls.push(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread::ThreadId;

    use fkv_env::RayonPool;

    use super::*;

    fn polls(threads: usize) -> Arc<Polls> {
        Polls::new(Arc::new(RayonPool::new(threads).expect("threads start")))
    }

    /// Gives the others their turn, once.
    async fn step_aside() {
        let mut has = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut has, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn no_wake_up_is_lost_and_no_poll_is_on_the_threads_of_the_caller() {
        let polls = polls(4);
        let here = std::thread::current().id();
        // Each future is woken by the one before it, from another thread, while it may be polled itself.
        for _ in 0..50 {
            let mut before: Option<oneshot::Receiver<u64>> = None;
            let mut running = Vec::new();
            for _ in 0..100 {
                let (sender, next) = oneshot::channel();
                let before = before.replace(next);
                running.push(polls.start(async move {
                    assert_ne!(std::thread::current().id(), here);
                    step_aside().await;
                    let count = match before {
                        Some(before) => before.await.expect("the one before does not fail"),
                        None => 0,
                    };
                    let _ = sender.send(count + 1);
                }));
            }
            for outcome in futures::future::join_all(running).await {
                outcome.expect("none panics");
            }
            assert_eq!(before.expect("there was a last").await, Ok(100));
        }
    }

    #[tokio::test]
    async fn a_future_that_nobody_waits_for_any_more_is_dropped_though_nothing_wakes_it() {
        struct Flag(Option<oneshot::Sender<ThreadId>>);
        impl Drop for Flag {
            fn drop(&mut self) {
                let _ = self.0.take().map(|flag| flag.send(std::thread::current().id()));
            }
        }
        let polls = polls(1);
        let (sender, dropped) = oneshot::channel();
        let (polled, was_polled) = oneshot::channel();
        let flag = Flag(Some(sender));
        let running = polls.start(async move {
            let _flag = flag;
            let waker = std::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
            let _ = polled.send(waker);
            std::future::pending::<()>().await;
        });
        // As a device has it that never answers.
        let _waker = was_polled.await.expect("it began");
        drop(running);
        assert_ne!(dropped.await.expect("it says so"), std::thread::current().id(), "on the pool");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let polls = polls(1);
        let panicked = polls.start(async { panic!("on purpose") }).await;
        assert_eq!(panicked, Err::<(), _>(JobPanicked));
        assert_eq!(polls.start(async { 5 }).await, Ok(5));
    }

    /// One that always has something to do must not keep the others from the pool.
    #[tokio::test]
    async fn those_that_are_ready_take_turns() {
        let polls = polls(1);
        let turns = Arc::new(AtomicUsize::new(0));
        let busy = {
            let turns = Arc::clone(&turns);
            polls.start(async move {
                loop {
                    turns.fetch_add(1, Ordering::Relaxed);
                    step_aside().await;
                }
            })
        };
        for number in 0..100 {
            assert_eq!(polls.start(async move { number }).await, Ok(number));
        }
        assert!(turns.load(Ordering::Relaxed) > 1);
        drop::<OnPool<()>>(busy);
    }
}
