//! Asynchronous tasks and blocking calls.

use std::fmt::Debug;

use futures::future::BoxFuture;

/// Starts tasks.
pub trait Spawn: Send + Sync + Debug {
    /// Starts `future` as a task named `name` (for logs and traces).
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle;
    /// Runs `work`, which may block, off the asynchronous threads.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);
}

/// A running task. Dropping the handle aborts the task, so that a component takes its tasks with it.
#[derive(Debug)]
#[must_use = "dropping the handle aborts the task; call detach() to let it run on"]
pub struct TaskHandle {
    handle: Option<tokio::task::JoinHandle<()>>,
}

impl TaskHandle {
    /// Wraps a tokio task.
    pub fn new(handle: tokio::task::JoinHandle<()>) -> Self {
        Self { handle: Some(handle) }
    }

    /// Lets the task run on without an owner.
    pub fn detach(mut self) {
        self.handle = None;
    }

    /// Asks the task to stop at its next await.
    pub fn abort(&self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }

    /// Waits for the task's end; `false` if it panicked or was aborted.
    pub async fn join(mut self) -> bool {
        match &mut self.handle {
            Some(handle) => handle.await.is_ok(),
            None => true,
        }
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Tasks on the current tokio runtime.
#[derive(Clone, Copy, Debug)]
pub struct TokioSpawn;

#[allow(clippy::disallowed_methods, reason = "the one place that starts tasks")]
impl Spawn for TokioSpawn {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        tracing::trace!(task = name, "task started");
        TaskHandle::new(tokio::spawn(future))
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_handle_ends_the_task() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let handle = TokioSpawn.spawn(
            "holder",
            Box::pin(async move {
                let _held = sender;
                std::future::pending::<()>().await;
            }),
        );
        drop(handle);
        assert!(receiver.await.is_err(), "the task dropped its sender");
    }

    #[tokio::test]
    async fn a_detached_task_runs_on() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<u32>();
        let task = TokioSpawn.spawn(
            "sender",
            Box::pin(async move {
                tokio::task::yield_now().await;
                let _ = sender.send(5);
            }),
        );
        task.detach();
        assert_eq!(receiver.await, Ok(5));
    }
}
