//! Jobs: claimed under a leased lock, committed by its token.

use super::task::{Retry, check_running};
use super::{put, put_leased};
use crate::key::{Keys, check_name};
use crate::record::{JobRecord, JobState, LockRecord, ObjectRef, TableRecord, TaskError, TaskRecord};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::state::task::note_error;
use crate::store::{Compare, LeaseId, Op, Revision};

/// Who claims a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The worker.
    pub worker: &'a str,
    /// The lease that the job's lock shall hang on.
    pub lease: LeaseId,
}

/// Claims a job of the plan of a running task: any worker may, whoever holds the lock of the task. `job` is its record, if it
/// was ever claimed. The token is the lock's create revision: the revision at which the transaction commits.
///
/// # Errors
/// `TaskIs`, `OtherPlan`, `JobEnded`, `OutOfAttempts`, `Name`.
pub fn claim_job(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    plan: &ObjectRef,
    name: &str,
    job: Option<&Stamped<JobRecord>>,
    claimant: Claimant<'_>,
) -> Result<Planned<JobRecord>, Refusal> {
    check_name("job", name)?;
    check_running(&table.value, &task.value)?;
    let (uid, record) = (table.uid(), task);
    let task = record.value.task;
    if record.value.plan.as_ref() != Some(plan) {
        return Err(Refusal::OtherPlan { table: table.value.name.clone(), task });
    }
    let key = keys.job(uid, task, name);
    let mut after = match job {
        Some(job) => job.value.clone(),
        None => JobRecord { state: JobState::Open, attempt: 0, errors: Vec::new() },
    };
    check_open(name, &after)?;
    if after.is_spent() {
        return Err(Refusal::OutOfAttempts {
            table: table.value.name.clone(),
            what: format!("job `{name}` of task {task}"),
            attempts: after.attempt,
        });
    }
    after.attempt += 1;
    let lock = keys.lock(uid, task, name);
    let holder = LockRecord { worker: claimant.worker.to_owned(), attempt: after.attempt };
    let as_read = job.map_or_else(|| Compare::Absent(key.clone()), Stamped::unchanged);
    let compares = vec![as_read, Compare::Absent(lock.clone()), record.unchanged()];
    Ok(Planned::new(compares, vec![put_leased(lock, &holder, claimant.lease), put(key, &after)], after))
}

/// Commits a job's output. After an ambiguous answer read the job back: its output names the attempt that won.
///
/// # Errors
/// `TaskIs`, `JobEnded`.
pub fn commit_job(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    name: &str,
    job: &Stamped<JobRecord>,
    token: Revision,
    output: ObjectRef,
) -> Result<Planned<JobRecord>, Refusal> {
    check_running(&table.value, &task.value)?;
    check_open(name, &job.value)?;
    let after = JobRecord { state: JobState::Done { output }, ..job.value.clone() };
    let lock = keys.lock(table.uid(), task.value.task, name);
    let compares = vec![job.unchanged(), Compare::CreatedAt(lock.clone(), token), task.unchanged()];
    Ok(Planned::new(compares, vec![job.put(&after), Op::Delete { key: lock }], after))
}

/// The records after a job's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailed {
    /// The job.
    pub job: JobRecord,
    /// The task, which keeps the error too.
    pub task: TaskRecord,
}

/// Ends an attempt of a job with an error, which stays on the job and on its task. The job fails when another attempt is
/// pointless or none is left; its task is failed by whoever holds it.
///
/// # Errors
/// `TaskIs`, `JobEnded`.
pub fn fail_job(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    (name, job): (&str, &Stamped<JobRecord>),
    token: Revision,
    error: TaskError,
    retry: Retry,
) -> Result<Planned<JobFailed>, Refusal> {
    check_running(&table.value, &task.value)?;
    check_open(name, &job.value)?;
    let (mut after, mut blamed) = (job.value.clone(), task.value.clone());
    note_error(&mut blamed.errors, error.clone());
    note_error(&mut after.errors, error);
    if retry == Retry::Pointless || after.is_spent() {
        after.state = JobState::Failed;
    }
    let lock = keys.lock(table.uid(), task.value.task, name);
    let compares = vec![job.unchanged(), Compare::CreatedAt(lock.clone(), token), task.unchanged()];
    let ops = vec![job.put(&after), task.put(&blamed), Op::Delete { key: lock }];
    Ok(Planned::new(compares, ops, JobFailed { job: after, task: blamed }))
}

fn check_open(name: &str, job: &JobRecord) -> Result<(), Refusal> {
    match job.state {
        JobState::Open => Ok(()),
        JobState::Done { .. } | JobState::Failed => Err(Refusal::JobEnded(name.to_owned())),
    }
}
