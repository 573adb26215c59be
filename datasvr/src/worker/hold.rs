//! Holding a task: the lock, its token, and changes that only its holder may make.
//!
//! A change is planned from fresh records and run; if it is refused because other records moved (a submit touched the
//! table), it is planned anew while the lock still has our token. If its answer was lost, it is read back: nothing is
//! assumed and nothing is undone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::id::{TableUid, TaskId};
use fkv_meta::key::TASK_LOCK;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{JobRecord, LockRecord, TableRecord, TaskRecord, TaskState};
use fkv_meta::store::{LeaseId, MetaError, Revision, TxnOutcome};
use fkv_meta::{Meta, Planned, Refusal, Stamped, txn};

use crate::error::AttemptError;

/// How often a change is tried while others touch the same records.
const TRIES: usize = 32;

/// A task's lock, held.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The table's name.
    pub(crate) table: String,
    /// The table.
    pub(crate) uid: TableUid,
    /// The task.
    pub(crate) task: TaskId,
    /// The lock's create revision.
    pub(crate) token: Revision,
    /// Which attempt this is, from 1.
    pub(crate) attempt: u32,
    /// The lease the lock hangs on.
    pub(crate) lease: LeaseId,
    /// Locks of jobs claimed under this hold, with their tokens.
    pub(crate) jobs: Mutex<Vec<(String, Revision)>>,
}

/// The records a change starts from.
pub(crate) struct Read {
    pub(crate) table: Stamped<TableRecord>,
    pub(crate) task: Stamped<TaskRecord>,
    pub(crate) job: Option<Stamped<JobRecord>>,
    pub(crate) job_lock: Option<Stamped<LockRecord>>,
}

/// What to do next, decided from fresh records.
pub(crate) enum Step<T, P> {
    /// The change is made already, by an earlier try whose answer was lost.
    Done(T),
    /// Run this.
    Run(Box<Planned<P>>),
}

/// A change that was made: by the transaction at this revision, or by an earlier try.
pub(crate) enum Made<T, P> {
    /// By an earlier try.
    Before(T),
    /// Now.
    Now(Revision, P),
}

/// Waits a little, so that workers that were refused together do not come back together.
pub(crate) async fn pause(env: &Env, round: usize) {
    let base_ms = 20u64 << round.min(6);
    let jitter = env.entropy.below(base_ms);
    env.clock.sleep(Duration::from_millis(base_ms / 2 + jitter)).await;
}

/// What came of asking for a task's lock.
pub(crate) enum Claim {
    /// It is ours.
    Held(Hold),
    /// Another worker was faster, or there is nothing to claim any more.
    NotOurs,
    /// The answer was lost, and the lock is not there: it may still come to be, hung on our lease.
    MayCome,
}

/// Claims a task's lock. After an error, too, the lock may still come to be.
pub(crate) async fn claim(
    env: &Env,
    meta: &Meta,
    table: &str,
    task: TaskId,
    worker: &str,
    lease: LeaseId,
) -> Result<Claim, AttemptError> {
    let Some(table) = meta.table(table).await? else { return Ok(Claim::NotOurs) };
    let uid = table.uid();
    let Some(task) = meta.task(uid, task).await? else { return Ok(Claim::NotOurs) };
    let planned = match txn::claim_task(&meta.keys, &table, &task, worker, lease) {
        Ok(planned) => planned,
        Err(refusal) => {
            tracing::debug!(table = %table.value.name, task = %task.value.task, %refusal, "claim not possible");
            return Ok(Claim::NotOurs);
        }
    };
    let attempt = planned.after.attempt;
    let hold = |token| Hold {
        table: table.value.name.clone(),
        uid,
        task: task.value.task,
        token,
        attempt,
        lease,
        jobs: Mutex::default(),
    };
    match meta.run(planned.txn).await {
        Ok(TxnOutcome::Committed(revision)) => Ok(Claim::Held(hold(revision))),
        // Refused too: by itself, if a layer below has sent it twice.
        outcome @ (Ok(TxnOutcome::Refused) | Err(MetaError::Ambiguous(_))) => {
            tracing::debug!(table = %table.value.name, task = %task.value.task, ?outcome, "reading a claim back");
            let is_lost = outcome.is_err();
            for round in 0.. {
                if is_lost || round > 0 {
                    pause(env, round).await;
                }
                match meta.lock(uid, task.value.task, TASK_LOCK).await {
                    // Attempts are numbered once, so a lock of this attempt under this name is the one asked for.
                    Ok(Some(lock)) if lock.value.worker == worker && lock.value.attempt == attempt => {
                        return Ok(Claim::Held(hold(lock.created)));
                    }
                    Ok(Some(_)) => return Ok(Claim::NotOurs),
                    Ok(None) if is_lost => return Ok(Claim::MayCome),
                    Ok(None) => return Ok(Claim::NotOurs),
                    Err(error) if error.is_transient() && round < TRIES => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Claim::MayCome)
        }
        Err(error) => Err(error.into()),
    }
}

impl Hold {
    /// Makes a change that only the holder of this lock may make. `job` names the job whose record the change needs.
    pub(crate) async fn change<T, P>(
        &self,
        env: &Env,
        meta: &Meta,
        job: Option<&str>,
        mut step: impl FnMut(&Read) -> Result<Step<T, P>, AttemptError>,
    ) -> Result<Made<T, P>, AttemptError> {
        let mut last = None;
        for round in 0..TRIES {
            if round > 0 {
                pause(env, round).await;
            }
            match self.attempt_change(meta, job, &mut step).await {
                Ok(Some(made)) => return Ok(made),
                Ok(None) => last = None,
                Err(AttemptError::Meta(error)) if error.is_transient() => {
                    tracing::warn!(table = %self.table, task = %self.task, %error, "reading a change back");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.map_or(AttemptError::Contended, AttemptError::Meta))
    }

    async fn attempt_change<T, P>(
        &self,
        meta: &Meta,
        job: Option<&str>,
        step: &mut impl FnMut(&Read) -> Result<Step<T, P>, AttemptError>,
    ) -> Result<Option<Made<T, P>>, AttemptError> {
        let read = self.read(meta, job).await?;
        let planned = match step(&read)? {
            Step::Done(done) => return Ok(Some(Made::Before(done))),
            Step::Run(planned) => *planned,
        };
        if let TxnOutcome::Committed(revision) = meta.run(planned.txn).await? {
            return Ok(Some(Made::Now(revision, planned.after)));
        }
        // Refused: because the lock is gone, or because a record moved that we do not own.
        match meta.lock(self.uid, self.task, TASK_LOCK).await? {
            Some(lock) if lock.created == self.token => Ok(None),
            _ => {
                // An ambiguous try before this one may have ended our hold by succeeding: look once more.
                match step(&self.read(meta, job).await?)? {
                    Step::Done(done) => Ok(Some(Made::Before(done))),
                    Step::Run(_) => Err(AttemptError::Lost("another attempt at the task has begun")),
                }
            }
        }
    }

    /// Gives back what locks are left. If this fails they stay until the lease ends.
    pub(crate) async fn release(&self, meta: &Meta) -> Result<(), MetaError> {
        let table = meta.table(&self.table).await?;
        let Some(table) = table.filter(|table| table.uid() == self.uid) else { return Ok(()) };
        let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner));
        for (job, token) in jobs.into_iter().chain([(TASK_LOCK.to_owned(), self.token)]) {
            meta.run(txn::release_lock(&meta.keys, &table, self.task, &job, token)).await?;
        }
        Ok(())
    }

    /// Remembers a job's lock, to be given back at the end of the attempt.
    pub(crate) fn holds_job(&self, job: &str, token: Revision) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push((job.to_owned(), token));
    }

    /// The records as they are now.
    pub(crate) async fn read(&self, meta: &Meta, job: Option<&str>) -> Result<Read, AttemptError> {
        let table = meta.table(&self.table).await?.filter(|table| table.uid() == self.uid);
        let table = table.ok_or(AttemptError::Lost("the table was dropped"))?;
        let task = meta.task(self.uid, self.task).await?;
        let task = task.ok_or(AttemptError::Lost("the task's record is gone"))?;
        let (job, job_lock) = match job {
            Some(job) => (meta.job(self.uid, self.task, job).await?, meta.lock(self.uid, self.task, job).await?),
            None => (None, None),
        };
        Ok(Read { table, task, job, job_lock })
    }

    /// Waits until the task is visibly no longer ours to work on.
    pub(crate) async fn lost(&self, mirror: &Mirror) -> &'static str {
        let mut why = "";
        mirror
            .wait_for(|view| {
                if view.revision() < self.token {
                    return false;
                }
                why = match view.task(self.uid, self.task).map(|task| task.value.state) {
                    None => "the task's record is gone",
                    Some(TaskState::Cancelled) => "the task was cancelled",
                    Some(state) if state != TaskState::Running => "the task has ended",
                    Some(_) => match view.lock(self.uid, self.task, TASK_LOCK) {
                        Some(lock) if lock.created == self.token => return false,
                        Some(_) => "another attempt at the task has begun",
                        None => "the task's lock is gone",
                    },
                };
                true
            })
            .await;
        why
    }
}

/// A refusal that a worker can meet because the task is no longer its own.
pub(crate) fn refused(refusal: Refusal) -> AttemptError {
    match refusal {
        Refusal::TaskIs { .. } | Refusal::RolledBack { .. } | Refusal::JobEnded(_) => {
            AttemptError::Lost("the task was stopped")
        }
        other => AttemptError::Refused(other),
    }
}
