//! The worker: takes up tasks, one at a time, and carries each through plan, build and publish.
//!
//! ```text
//!   view ─ pick ─▶ start (queued ─▶ running) ─▶ claim (lock, token, attempt + 1) ─▶ attempt
//!                                                attempt: plan ─▶ build ─▶ publish ─▶ the aligner takes over
//! ```
//!
//! Workers are equal and keep nothing: when one dies its lease ends, the lock goes, and any other claims the task. An
//! attempt that did not end well may leave a lock behind, or one that is still on its way when its answer was lost:
//! the worker then ends its own lease, and with it every such lock, and goes on under a new one.

mod attempt;
pub(crate) mod hold;
mod pick;

use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, timeout};
use fkv_formats::id::TaskId;
use fkv_meta::lease::LeaseKeeper;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{TaskError, WorkerRecord};
use fkv_meta::store::LeaseId;
use fkv_meta::txn::{self, Retry};
use fkv_meta::{ChangeError, Meta, View};
use fkv_store::Store;
use tokio_util::sync::CancellationToken;

use self::hold::{Claim, Hold, pause};
use self::pick::{Pick, pick};
use crate::config::DataConfig;
use crate::error::AttemptError;

/// Longest message of an error that is kept on a task, in bytes.
const MESSAGE_BYTES_MAX: usize = 4000;

/// What came of looking for something to do.
enum Taken {
    /// Something was done: there may be more.
    Up,
    /// There is nothing, but something may be due after this time.
    Nothing(Option<Duration>),
    /// A lock may be left on the lease, or still come to be: the lease has to end.
    Leftover,
}

/// Works on tasks until told to stop.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) env: Env,
    pub(crate) meta: Meta,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) store: Store,
    pub(crate) config: Arc<DataConfig>,
    /// Where others reach the control API.
    pub(crate) addr: String,
    pub(crate) stop: CancellationToken,
}

impl Worker {
    /// Runs until told to stop; then gives its lease back, and with it its lock, so that another worker goes on at
    /// once.
    pub(crate) async fn run(self) {
        let start = || LeaseKeeper::start(&self.env, Arc::clone(&self.meta.store), self.config.lease_ttl);
        let mut keeper = start();
        let started_ms = self.env.clock.unix_ms();
        // The table looked at last; kept over leases, so that one whose loads all fail does not keep others waiting.
        let mut after = String::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                lease = keeper.held() => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => break,
                    () = keeper.lost(lease) => {
                        tracing::warn!(worker = %self.config.worker, "the worker's lease was lost; what it was doing is dropped");
                        keeper.regrant();
                    }
                    () = self.serve(lease, started_ms, &mut after) => {
                        // If metadata does not answer, the lease ends by itself.
                        let ended = timeout(&*self.env.clock, self.config.lease_ttl, keeper.revoke());
                        tokio::select! {
                            biased;
                            () = self.stop.cancelled() => return,
                            _ = ended => keeper = start(),
                        }
                    }
                },
            }
        }
        keeper.revoke().await;
    }

    /// Announces itself and takes up one task after the other; ends when the lease has to.
    async fn serve(&self, lease: LeaseId, started_ms: u64, after: &mut String) {
        if let Err(error) = self.announce(lease, started_ms).await {
            tracing::warn!(worker = %self.config.worker, %error, "the worker could not announce itself");
            pause(&self.env, 5).await;
            return;
        }
        let mut views = self.mirror.subscribe();
        loop {
            // The mirror says that there may be something to do; what is done is decided from a view read just now,
            // which shows what this worker itself has done before.
            let view = Arc::clone(&views.borrow_and_update());
            let due = match self.pick(&view, after) {
                Pick::Nothing(due) => due,
                _ => match self.take_up(after, lease).await {
                    Ok(Taken::Up) => continue,
                    Ok(Taken::Nothing(due)) => due,
                    Ok(Taken::Leftover) => return,
                    Err(error) => {
                        tracing::warn!(worker = %self.config.worker, table = %after, %error, "a task could not be taken up");
                        pause(&self.env, 5).await;
                        continue;
                    }
                },
            };
            let due = due.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    // The mirror ends with the runtime.
                    std::future::pending::<()>().await;
                },
                () = self.env.clock.sleep(due) => {}
            }
        }
    }

    fn pick(&self, view: &View, after: &str) -> Pick {
        let jitter = self.env.entropy.below(1000) as f64 / 1000.0;
        pick(view, self.env.clock.unix_ms(), self.config.retry_pause, jitter, after)
    }

    /// Does the next thing there is to do, if there is something.
    async fn take_up(&self, after: &mut String, lease: LeaseId) -> Result<Taken, AttemptError> {
        let picked = self.pick(&self.meta.view().await?, after);
        let table = match &picked {
            Pick::Start(table, _) | Pick::Skip(table, _) | Pick::Claim(table, _) | Pick::GiveUp(table, _) => table,
            Pick::Nothing(due) => return Ok(Taken::Nothing(*due)),
        };
        after.clone_from(table);
        match picked {
            Pick::Start(table, task) => return self.start(&table, task, lease).await,
            Pick::Claim(table, task) => return Ok(self.claim(&table, task, lease).await),
            Pick::Skip(table, task) => self.skip(&table, task).await?,
            Pick::GiveUp(table, task) => self.give_up(&table, task).await?,
            Pick::Nothing(_) => {}
        }
        Ok(Taken::Up)
    }

    async fn announce(&self, lease: LeaseId, started_ms: u64) -> Result<(), AttemptError> {
        let record = WorkerRecord { addr: self.addr.clone(), started_ms };
        let txn = txn::put_worker(&self.meta.keys, &self.config.worker, &record, lease)?;
        self.meta.run(txn).await?;
        Ok(())
    }

    /// Moves a task from the queue to work and claims it.
    async fn start(&self, table: &str, task: TaskId, lease: LeaseId) -> Result<Taken, AttemptError> {
        let now_ms = self.env.clock.unix_ms();
        if !self.settle(self.meta.change(|view| txn::start_task(view, table, task, now_ms)).await)? {
            return Ok(Taken::Up);
        }
        tracing::info!(table, task = %task, "task started");
        Ok(self.claim(table, task, lease).await)
    }

    async fn skip(&self, table: &str, task: TaskId) -> Result<(), AttemptError> {
        let now_ms = self.env.clock.unix_ms();
        if self.settle(self.meta.change(|view| txn::skip_task(view, table, task, now_ms)).await)? {
            tracing::info!(table, task = %task, "increment skipped: a full load has overtaken it");
        }
        Ok(())
    }

    /// Whether a change was made. Refused means: another worker was faster, or it was cancelled.
    fn settle<T>(&self, changed: Result<T, ChangeError>) -> Result<bool, AttemptError> {
        match changed {
            Ok(_) => Ok(true),
            Err(ChangeError::Refused(_)) => Ok(false),
            Err(ChangeError::Contended) => Err(AttemptError::Contended),
            Err(ChangeError::Meta(error)) => Err(error.into()),
        }
    }

    /// Claims a task and works on it.
    async fn claim(&self, table: &str, task: TaskId, lease: LeaseId) -> Taken {
        let worker = &self.config.worker;
        let hold = match hold::claim(&self.env, &self.meta, table, task, worker, lease).await {
            Ok(Claim::Held(hold)) => hold,
            Ok(Claim::NotOurs) => return Taken::Up,
            Ok(Claim::MayCome) => return Taken::Leftover,
            Err(error) => {
                tracing::warn!(worker, table, task = %task, %error, "a task could not be claimed");
                pause(&self.env, 5).await;
                return Taken::Leftover;
            }
        };
        tracing::info!(table, task = %task, attempt = hold.attempt, worker, "task claimed");
        let Err(error) = self.attempt(&hold).await else {
            return match hold.release(&self.meta).await {
                Ok(()) => Taken::Up,
                Err(error) => {
                    tracing::debug!(table, task = %task, %error, "locks go with their lease");
                    Taken::Leftover
                }
            };
        };
        if let Err(error) = self.end_attempt(&hold, &error).await {
            tracing::warn!(worker, table, task = %task, %error, "the end of an attempt could not be recorded");
            pause(&self.env, 5).await;
        }
        Taken::Leftover
    }

    /// Records why an attempt ended; the task fails, or waits for the next attempt.
    async fn end_attempt(&self, hold: &Hold, error: &AttemptError) -> Result<(), AttemptError> {
        let Some(retry) = error.retry() else {
            tracing::info!(table = %hold.table, task = %hold.task, attempt = hold.attempt, reason = %error, "attempt dropped");
            return Ok(());
        };
        let record = self.task_error(hold.attempt, &error.to_string());
        let made = hold
            .change(&self.env, &self.meta, None, |read| {
                if read.task.value.errors.contains(&record) {
                    return Ok(hold::Step::Done(()));
                }
                txn::fail_task(&self.meta.keys, &read.table, &read.task, Some(hold.token), record.clone(), retry)
                    .map(|planned| hold::Step::Run(Box::new(planned)))
                    .map_err(hold::refused)
            })
            .await;
        match made {
            Ok(_) => {
                let again = retry == Retry::MayHelp;
                tracing::warn!(table = %hold.table, task = %hold.task, attempt = hold.attempt, %error, again, "attempt failed");
                Ok(())
            }
            Err(AttemptError::Lost(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Fails a task whose last allowed attempt ended without a word.
    async fn give_up(&self, table: &str, task: TaskId) -> Result<(), AttemptError> {
        let (Some(table), keys) = (self.meta.table(table).await?, &self.meta.keys) else { return Ok(()) };
        let Some(task) = self.meta.task(table.uid(), task).await? else { return Ok(()) };
        let message = format!(
            "the worker of attempt {} is gone, and no attempt is left; the log of that worker may say why",
            task.value.attempt
        );
        let error = self.task_error(task.value.attempt, &message);
        match txn::fail_task(keys, &table, &task, None, error, Retry::MayHelp) {
            Ok(planned) => {
                self.meta.run(planned.txn).await?;
            }
            Err(refusal) => {
                tracing::debug!(table = %table.value.name, %refusal, "task not given up");
            }
        }
        Ok(())
    }

    fn task_error(&self, attempt: u32, message: &str) -> TaskError {
        let mut message = message.to_owned();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        let (at_ms, worker) = (self.env.clock.unix_ms(), self.config.worker.clone());
        TaskError { at_ms, attempt, worker, message }
    }
}
