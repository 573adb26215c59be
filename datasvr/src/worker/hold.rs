//! Holding a task or a job: the lock, its token, and changes that only its holder may make.
//!
//! A change is planned from fresh records and run; if it is refused because other records moved (a submit touched the
//! table), it is planned anew while the lock still has our token. If its answer was lost, it is read back: nothing is
//! assumed and nothing is undone.

use std::time::Duration;

use fkv_env::Env;
use fkv_formats::id::{TableUid, TaskId};
use fkv_formats::path::Attempt;
use fkv_meta::key::TASK_LOCK;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{JobRecord, ObjectRef, TableRecord, TaskRecord, TaskState};
use fkv_meta::store::{LeaseId, MetaError, Revision, TxnOutcome};
use fkv_meta::{Meta, Planned, Refusal, Stamped, View, txn};

use crate::error::AttemptError;

/// How often a change is tried while others touch the same records.
const TRIES: usize = 32;

/// A lock, held: of a task, or of one of its jobs.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// The table's name.
    pub(crate) table: String,
    /// The table.
    pub(crate) uid: TableUid,
    /// The task.
    pub(crate) task: TaskId,
    /// The job; [`TASK_LOCK`] if it is the task itself.
    pub(crate) job: String,
    /// The lock's create revision.
    pub(crate) token: Revision,
    /// Which attempt this is, from 1.
    pub(crate) attempt: u32,
}

/// The records a change starts from.
pub(crate) struct Read {
    pub(crate) table: Stamped<TableRecord>,
    pub(crate) task: Stamped<TaskRecord>,
    /// The record of the job, if a job is held.
    pub(crate) job: Option<Stamped<JobRecord>>,
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

/// What is to be claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// The task itself.
    Task,
    /// A job of a plan.
    Job(&'a str, &'a ObjectRef),
}

/// Claims a lock; `None` if another worker was faster, or there is nothing to claim any more. The lock hangs on `lease`:
/// also after `None` or an error it may still come to be, and has to be taken back by ending the lease.
pub(crate) async fn claim(
    env: &Env,
    meta: &Meta,
    table: &str,
    task: TaskId,
    wanted: Wanted<'_>,
    (worker, lease): (&str, LeaseId),
) -> Result<Option<Hold>, AttemptError> {
    let Some(table) = meta.table(table).await? else { return Ok(None) };
    let uid = table.uid();
    let Some(task) = meta.task(uid, task).await? else { return Ok(None) };
    let planned = match wanted {
        Wanted::Task => txn::claim_task(&meta.keys, &table, &task, worker, lease)
            .map(|Planned { txn, after }| (TASK_LOCK, after.attempt, txn)),
        Wanted::Job(name, plan) => {
            let job = meta.job(uid, task.value.task, name).await?;
            let claimant = txn::Claimant { worker, lease };
            txn::claim_job(&meta.keys, &table, &task, plan, name, job.as_ref(), claimant)
                .map(|Planned { txn, after }| (name, after.attempt, txn))
        }
    };
    let (job, attempt, txn) = match planned {
        Ok(planned) => planned,
        Err(refusal) => {
            tracing::debug!(table = %table.value.name, task = %task.value.task, %refusal, "claim not possible");
            return Ok(None);
        }
    };
    let hold = |token| {
        let (table, job) = (table.value.name.clone(), job.to_owned());
        Some(Hold { table, uid, task: task.value.task, job, token, attempt })
    };
    match meta.run(txn).await {
        Ok(TxnOutcome::Committed(revision)) => Ok(hold(revision)),
        // Refused too: by itself, if a layer below has sent it twice.
        outcome @ (Ok(TxnOutcome::Refused) | Err(MetaError::Ambiguous(_))) => {
            tracing::debug!(table = %table.value.name, task = %task.value.task, job, ?outcome, "reading a claim back");
            for round in 0..TRIES {
                if outcome.is_err() || round > 0 {
                    pause(env, round).await;
                }
                match meta.lock(uid, task.value.task, job).await {
                    // Attempts are numbered once, so a lock of this attempt under this name is the one asked for.
                    Ok(Some(lock)) if lock.value.worker == worker && lock.value.attempt == attempt => {
                        return Ok(hold(lock.created));
                    }
                    Ok(_) => return Ok(None),
                    Err(error) if error.is_transient() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

impl Hold {
    /// The attempt's place in the store.
    pub(crate) fn place(&self) -> Attempt<'_> {
        Attempt { uid: self.uid, task: self.task, job: &self.job, attempt: self.attempt, token: self.token.0 }
    }

    /// Makes a change that only the holder of this lock may make.
    pub(crate) async fn change<T, P>(
        &self,
        env: &Env,
        meta: &Meta,
        mut step: impl FnMut(&Read) -> Result<Step<T, P>, AttemptError>,
    ) -> Result<Made<T, P>, AttemptError> {
        let mut last = None;
        for round in 0..TRIES {
            if round > 0 {
                pause(env, round).await;
            }
            match self.attempt_change(meta, &mut step).await {
                Ok(Some(made)) => return Ok(made),
                Ok(None) => last = None,
                Err(AttemptError::Meta(error)) if error.is_transient() => {
                    tracing::warn!(table = %self.table, task = %self.task, job = %self.job, %error, "reading a change back");
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
        step: &mut impl FnMut(&Read) -> Result<Step<T, P>, AttemptError>,
    ) -> Result<Option<Made<T, P>>, AttemptError> {
        let read = self.read(meta).await?;
        let planned = match step(&read)? {
            Step::Done(done) => return Ok(Some(Made::Before(done))),
            Step::Run(planned) => *planned,
        };
        if let TxnOutcome::Committed(revision) = meta.run(planned.txn).await? {
            return Ok(Some(Made::Now(revision, planned.after)));
        }
        // Refused: because the lock is gone, or because a record moved that we do not own.
        match meta.lock(self.uid, self.task, &self.job).await? {
            Some(lock) if lock.created == self.token => Ok(None),
            _ => {
                // An ambiguous try before this one may have ended our hold by succeeding: look once more.
                match step(&self.read(meta).await?)? {
                    Step::Done(done) => Ok(Some(Made::Before(done))),
                    Step::Run(_) => Err(AttemptError::Lost("another attempt has begun")),
                }
            }
        }
    }

    /// The records as they are now.
    pub(crate) async fn read(&self, meta: &Meta) -> Result<Read, AttemptError> {
        let table = meta.table(&self.table).await?.filter(|table| table.uid() == self.uid);
        let table = table.ok_or(AttemptError::Lost("the table was dropped"))?;
        let task = meta.task(self.uid, self.task).await?;
        let task = task.ok_or(AttemptError::Lost("the task's record is gone"))?;
        let job = if self.job == TASK_LOCK { None } else { meta.job(self.uid, self.task, &self.job).await? };
        Ok(Read { table, task, job })
    }

    /// Why the task is visibly no longer ours to work on; `None` while it is.
    pub(crate) fn lost_in(&self, view: &View) -> Option<&'static str> {
        if view.revision() < self.token {
            return None;
        }
        match view.task(self.uid, self.task).map(|task| task.value.state) {
            None => Some("the task's record is gone"),
            Some(TaskState::Cancelled) => Some("the task was cancelled"),
            Some(state) if state != TaskState::Running => Some("the task has ended"),
            Some(_) => match view.lock(self.uid, self.task, &self.job) {
                Some(lock) if lock.created == self.token => None,
                Some(_) => Some("another attempt has begun"),
                None => Some("the lock is gone"),
            },
        }
    }

    /// Waits until the task is visibly no longer ours to work on.
    pub(crate) async fn lost(&self, mirror: &Mirror) -> &'static str {
        let mut why = "";
        mirror
            .wait_for(|view| match self.lost_in(view) {
                Some(reason) => {
                    why = reason;
                    true
                }
                None => false,
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
