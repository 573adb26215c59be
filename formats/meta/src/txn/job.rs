//! Jobs: claimed under a leased lock, committed by its token.

use super::task::check_running;
use super::{put, put_leased};
use crate::key::{Keys, TASK_LOCK, check_name};
use crate::record::{JobRecord, JobState, LockRecord, ObjectRef, TableRecord, TaskError, TaskRecord};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::state::task::note_error;
use crate::store::{Compare, LeaseId, Op, Revision};

/// The lock of a task as the worker that claims a job of it holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHold<'a> {
    /// The lock's create revision.
    pub token: Revision,
    /// The worker.
    pub worker: &'a str,
    /// The lease that the job's lock shall hang on.
    pub lease: LeaseId,
}

/// Claims a job of a running task whose lock is held. `job` is its record, if it was ever claimed. The token is the
/// lock's create revision: the revision at which the transaction commits.
///
/// # Errors
/// `TaskIs`, `JobEnded`, `OutOfAttempts`, `Name`.
pub fn claim_job(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    name: &str,
    job: Option<&Stamped<JobRecord>>,
    hold: TaskHold<'_>,
) -> Result<Planned<JobRecord>, Refusal> {
    check_name("job", name)?;
    check_running(&table.value, &task.value)?;
    let (uid, record) = (table.uid(), task);
    let task = record.value.task;
    let key = keys.job(uid, task, name);
    let mut after = match job {
        Some(job) => job.value.clone(),
        None => JobRecord { state: JobState::Open, attempt: 0, errors: Vec::new() },
    };
    check_open(name, &after)?;
    if after.attempt >= TaskRecord::ATTEMPTS {
        return Err(Refusal::OutOfAttempts {
            table: table.value.name.clone(),
            what: format!("job `{name}` of task {task}"),
            attempts: after.attempt,
        });
    }
    after.attempt += 1;
    let lock = keys.lock(uid, task, name);
    let holder = LockRecord { worker: hold.worker.to_owned(), attempt: after.attempt };
    let as_read = job.map_or_else(|| Compare::Absent(key.clone()), Stamped::unchanged);
    let held = Compare::CreatedAt(keys.lock(uid, task, TASK_LOCK), hold.token);
    let compares = vec![as_read, Compare::Absent(lock.clone()), record.unchanged(), held];
    Ok(Planned::new(compares, vec![put_leased(lock, &holder, hold.lease), put(key, &after)], after))
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

/// Ends an attempt of a job with an error; the job fails when its attempts are used up.
///
/// # Errors
/// `JobEnded`.
pub fn fail_job(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    name: &str,
    job: &Stamped<JobRecord>,
    token: Revision,
    error: TaskError,
) -> Result<Planned<JobRecord>, Refusal> {
    check_open(name, &job.value)?;
    let mut after = job.value.clone();
    note_error(&mut after.errors, error);
    if after.attempt >= TaskRecord::ATTEMPTS {
        after.state = JobState::Failed;
    }
    let lock = keys.lock(table.uid(), task.value.task, name);
    let compares = vec![job.unchanged(), Compare::CreatedAt(lock.clone(), token), task.unchanged()];
    Ok(Planned::new(compares, vec![job.put(&after), Op::Delete { key: lock }], after))
}

fn check_open(name: &str, job: &JobRecord) -> Result<(), Refusal> {
    match job.state {
        JobState::Open => Ok(()),
        JobState::Done { .. } | JobState::Failed => Err(Refusal::JobEnded(name.to_owned())),
    }
}
