//! The worker: looks after tasks, and does jobs.
//!
//! ```text
//!   presence     that the worker is there
//!   coordinate   view ─ pick ─▶ start (queued ─▶ running) ─▶ claim the task ─▶ plan ─▶ see its jobs done ─▶ publish
//!   labour       view ─ pick ─▶ claim a job of any running task ─▶ build, slice or part ─▶ commit
//! ```
//!
//! Workers are equal and keep nothing: any may look after any task, and any may do any job of any task, whoever looks after
//! it. A worker looks after several tasks at once, which is little work, and does one job at a time, with all its cores.
//!
//! Everything claimed hangs on a lease of its own. When the work under it ends, the lease ends: with it goes whatever lock is
//! left, and one that is still on its way because its answer was lost cannot come to be. When a worker dies, its leases run
//! out, and others go on from what is done.

mod coordinate;
pub(crate) mod hold;
mod labour;
mod pick;
mod plans;

use std::sync::{Arc, Mutex};

use fkv_env::{Env, timeout};
use fkv_formats::id::{TableUid, TaskId};
use fkv_meta::Meta;
use fkv_meta::lease::LeaseKeeper;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{TaskError, WorkerRecord};
use fkv_meta::store::LeaseId;
use fkv_meta::txn;
use fkv_store::Store;
use tokio_util::sync::CancellationToken;

use self::hold::pause;
use self::pick::Timing;
use self::plans::Plans;
use crate::config::DataConfig;
use crate::error::AttemptError;
use crate::part::slices::Slices;
use crate::progress::Meter;

/// Longest message of an error that is kept on a task, in bytes.
const MESSAGE_BYTES_MAX: usize = 4000;

/// Works on tasks until told to stop.
#[derive(Debug)]
pub(crate) struct Worker {
    env: Env,
    meta: Meta,
    mirror: Arc<Mirror>,
    store: Store,
    config: Arc<DataConfig>,
    /// Where others reach the control API.
    addr: String,
    stop: CancellationToken,
    plans: Plans,
    /// The job at work, for the progress of its task.
    at_work: Mutex<Option<AtWork>>,
    /// The slices opened last, and the path of their plan: the part jobs of a task need the same ones.
    slices: Mutex<Option<(String, Arc<Slices>)>>,
}

/// A job at work.
#[derive(Clone, Debug)]
struct AtWork {
    uid: TableUid,
    task: TaskId,
    job: String,
    bytes: u64,
    rows: u64,
    meter: Arc<Meter>,
}

impl Worker {
    /// A worker that is yet to run. `addr` is where others reach the control API.
    pub(crate) fn new(
        env: Env,
        meta: Meta,
        mirror: Arc<Mirror>,
        store: Store,
        config: Arc<DataConfig>,
        addr: String,
        stop: CancellationToken,
    ) -> Self {
        let (plans, at_work, slices) = (Plans::default(), Mutex::default(), Mutex::default());
        Self { env, meta, mirror, store, config, addr, stop, plans, at_work, slices }
    }

    /// Runs until told to stop; then gives its leases back, and with them its locks, so that other workers go on at once.
    pub(crate) async fn run(self) {
        futures::future::join3(self.presence(), self.coordinate(), self.labour()).await;
    }

    /// Says that the worker is there, for as long as it is.
    async fn presence(&self) {
        let started_ms = self.env.clock.unix_ms();
        while !self.stop.is_cancelled() {
            self.under_lease(|lease| async move {
                match self.announce(lease, started_ms).await {
                    Ok(()) => std::future::pending::<()>().await,
                    Err(error) => {
                        tracing::warn!(worker = %self.config.worker, %error, "the worker could not announce itself");
                        pause(&self.env, 5).await;
                    }
                }
            })
            .await;
        }
    }

    async fn announce(&self, lease: LeaseId, started_ms: u64) -> Result<(), AttemptError> {
        let record = WorkerRecord { addr: self.addr.clone(), started_ms };
        let txn = txn::put_worker(&self.meta.keys, &self.config.worker, &record, lease)?;
        self.meta.run(txn).await?;
        Ok(())
    }

    /// Does some work under a lease of its own, which ends with it. The work is dropped when the lease is lost, or when the
    /// worker is told to stop; then there is no outcome.
    async fn under_lease<F: Future>(&self, work: impl FnOnce(LeaseId) -> F) -> Option<F::Output> {
        let ttl = self.config.lease_ttl;
        let keeper = LeaseKeeper::start(&self.env, Arc::clone(&self.meta.store), ttl);
        let done = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            lease = keeper.held() => tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                () = keeper.lost(lease) => {
                    tracing::warn!(worker = %self.config.worker, "a lease was lost; what was done under it is dropped");
                    None
                }
                done = work(lease) => Some(done),
            },
        };
        // If metadata does not answer, the lease ends by itself.
        let _ = timeout(&*self.env.clock, ttl, keeper.revoke()).await;
        done
    }

    fn timing(&self) -> Timing {
        let jitter = self.env.entropy.below(1000) as f64 / 1000.0;
        Timing { now_ms: self.env.clock.unix_ms(), first_pause: self.config.retry_pause, jitter }
    }

    /// An error for the record.
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
