//! Tasks: from submit to the commit of a version.

use fkv_formats::id::{ContentId, Digest, TaskId, Version};
use sha2::{Digest as _, Sha256};

use super::align::aligning_task;
use super::{both, named, put, put_alignments, put_leased, referred};
use crate::key::{Keys, TASK_LOCK};
use crate::record::{
    BuildStats, FormRef, LoadMode, LoadSpec, LockRecord, ObjectRef, SubmitRecord, TableRecord, TaskError, TaskRecord,
    TaskState, VersionKind, VersionRecord, VersionState,
};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::state::table::{check_normal, check_usable, committed, without_target};
use crate::state::task::{check_not_overtaken, check_spec, check_start, is, moved, needs_full, note_error};
use crate::store::{Compare, LeaseId, Op, Revision, Txn};
use crate::view::View;

/// The most bytes of a submit id.
const SUBMIT_ID_BYTES_MAX: usize = 128;

/// A task and its table after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskChange {
    /// The table.
    pub table: TableRecord,
    /// The task.
    pub task: TaskRecord,
}

/// How a submit ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The submit id already stands for this task with the same spec.
    Already(TaskId),
    /// A new task, once the plan's transaction commits.
    New(Box<Planned<TaskChange>>),
}

/// Whether another attempt may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The fault may be gone next time: the task fails only when its attempts are used up.
    MayHelp,
    /// The input or the spec is at fault: the task fails at once.
    Pointless,
}

/// A finished build, ready to become a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version it was built as: the head + 1 of its plan.
    pub version: Version,
    /// Its content.
    pub content: ContentId,
    /// Its forms; at least one, their objects durable.
    pub forms: Vec<FormRef>,
    /// Records.
    pub rows: u64,
    /// Bytes of its parts in the store.
    pub bytes: u64,
    /// Counts for the task.
    pub stats: BuildStats,
}

/// The records after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The table: its head and target are the new version.
    pub table: TableRecord,
    /// The task, now aligning.
    pub task: TaskRecord,
    /// The version.
    pub version: VersionRecord,
}

/// Submits a load. `existing` is what the submit id stands for, read no earlier than `view`.
///
/// # Errors
/// `NoTable`, `Invalid`, `SubmitConflict`, `QueueFull`, `RolledBack`, `FullRequired`.
pub fn submit(
    view: &View,
    table: &str,
    existing: Option<&Stamped<SubmitRecord>>,
    submit_id: &str,
    spec: &LoadSpec,
    now_ms: u64,
) -> Result<Submitted, Refusal> {
    if !(1..=SUBMIT_ID_BYTES_MAX).contains(&submit_id.len()) {
        return Err(Refusal::Invalid(format!("a submit id has 1 to {SUBMIT_ID_BYTES_MAX} bytes")));
    }
    let table = named(view, table)?;
    let spec_sha256 = spec_digest(spec)?;
    if let Some(existing) = existing {
        let task = existing.value.task;
        return if existing.value.spec_sha256 == spec_sha256 {
            Ok(Submitted::Already(task))
        } else {
            Err(Refusal::SubmitConflict { submit_id: submit_id.to_owned(), task })
        };
    }
    check_normal(&table.value)?;
    check_spec(&table.value.schema, spec)?;
    let nothing_comes_first = table.value.running.is_none() && table.value.queue.is_empty();
    if spec.mode == LoadMode::Incremental && needs_full(&table.value) && nothing_comes_first {
        return Err(Refusal::FullRequired(table.value.name.clone()));
    }
    check_queue(&table.value)?;
    let task = TaskRecord {
        task: table.value.next_task,
        table: table.value.name.clone(),
        submit_id: submit_id.to_owned(),
        spec: spec.clone(),
        state: TaskState::Queued,
        submitted_ms: now_ms,
        changed_ms: now_ms,
        as_of: None,
        inputs: None,
        plan: None,
        attempt: 0,
        failures: 0,
        retries: 0,
        version: None,
        stats: BuildStats::default(),
        errors: Vec::new(),
    };
    let mut after = TableRecord { next_task: task.task.next(), ..table.value.clone() };
    after.queue.push(task.task);
    let (keys, uid) = (view.keys(), table.uid());
    let (task_key, submit_key) = (keys.task(uid, task.task), keys.submit(uid, submit_id));
    let record = SubmitRecord { task: task.task, spec_sha256 };
    let compares = vec![table.unchanged(), Compare::Absent(submit_key.clone()), Compare::Absent(task_key.clone())];
    let ops = vec![table.put(&after), put(task_key, &task), put(submit_key, &record)];
    Ok(Submitted::New(Box::new(Planned::new(compares, ops, TaskChange { table: after, task }))))
}

/// Starts a queued task: it leaves the queue and becomes the one running task of its table. A full load may overtake
/// increments that cannot start.
///
/// # Errors
/// `NoTable`, `NoTask`, `TaskIs`, `TaskRunning`, `NotItsTurn`, `Blocked`, `Overtaken`, `FullRequired`, `RolledBack`.
pub fn start_task(view: &View, table: &str, task: TaskId, now_ms: u64) -> Result<Planned<TaskChange>, Refusal> {
    let (table, task) = both(view, table, task)?;
    check_start(view, table, &task.value)?;
    let mut after = TableRecord { running: Some(task.value.task), ..table.value.clone() };
    after.queue.retain(|queued| *queued != task.value.task);
    Ok(change(table, task, after, moved(&task.value, TaskState::Running, now_ms), vec![], vec![]))
}

/// Claims the lock of a running task for a worker. The token is the lock's create revision: the revision at which
/// the transaction commits. The task's attempt goes up.
///
/// # Errors
/// `TaskIs`, `OutOfAttempts`.
pub fn claim_task(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    worker: &str,
    lease: LeaseId,
) -> Result<Planned<TaskRecord>, Refusal> {
    check_running(&table.value, &task.value)?;
    if task.value.attempt >= task.value.attempts_max() {
        return Err(Refusal::OutOfAttempts {
            table: table.value.name.clone(),
            what: format!("task {}", task.value.task),
            attempts: task.value.attempt,
        });
    }
    let after = TaskRecord { attempt: task.value.attempt + 1, ..task.value.clone() };
    let lock = keys.lock(table.uid(), after.task, TASK_LOCK);
    let holder = LockRecord { worker: worker.to_owned(), attempt: after.attempt };
    let compares = vec![task.unchanged(), Compare::Absent(lock.clone())];
    Ok(Planned::new(compares, vec![put_leased(lock, &holder, lease), task.put(&after)], after))
}

/// Freezes what a running task will read and build: its input list, its plan and its `as_of`. Once frozen they stay,
/// also over attempts.
///
/// # Errors
/// `TaskIs`; `Invalid` if something else is frozen already.
pub fn freeze_plan(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    token: Revision,
    as_of: u32,
    inputs: ObjectRef,
    plan: ObjectRef,
) -> Result<Planned<TaskRecord>, Refusal> {
    check_running(&table.value, &task.value)?;
    let after = TaskRecord { as_of: Some(as_of), inputs: Some(inputs), plan: Some(plan), ..task.value.clone() };
    if task.value.plan.is_some() && task.value != after {
        return Err(Refusal::Invalid(format!("the plan of task {} is frozen already", after.task)));
    }
    let lock = keys.lock(table.uid(), after.task, TASK_LOCK);
    let compares = vec![task.unchanged(), Compare::CreatedAt(lock, token)];
    Ok(Planned::new(compares, vec![task.put(&after)], after))
}

/// Commits a build as the table's next version. For an increment `base` is the head's record.
///
/// # Errors
/// `RolledBack`, `TaskIs`, `BadBuild`, `NotLive`, `FullRequired`.
pub fn publish(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    token: Revision,
    base: Option<&Stamped<VersionRecord>>,
    build: Build,
    now_ms: u64,
) -> Result<Planned<Published>, Refusal> {
    check_normal(&table.value)?;
    check_running(&table.value, &task.value)?;
    let mode = task.value.spec.mode;
    let bad = |why: String| Err(Refusal::BadBuild { table: table.value.name.clone(), task: task.value.task, why });
    if build.version != table.value.head.next() {
        return bad(format!("it was built as version {}, the next one is {}", build.version, table.value.head.next()));
    }
    if build.forms.is_empty() || build.forms.len() > VersionRecord::FORMS_MAX {
        return bad(format!("it has {} forms", build.forms.len()));
    }
    let Some(as_of) = task.value.as_of else {
        return bad("its plan was never frozen".to_owned());
    };
    let mut compares = vec![table.unchanged(), task.unchanged()];
    let mut ops = Vec::new();
    let kind = match (mode, base) {
        (LoadMode::Full, _) => VersionKind::Full,
        (LoadMode::Incremental, None) => return bad("its base was not read".to_owned()),
        (LoadMode::Incremental, Some(base)) => {
            if needs_full(&table.value) {
                return Err(Refusal::FullRequired(table.value.name.clone()));
            }
            check_not_overtaken(&table.value, &task.value)?;
            if base.value.version != table.value.head {
                return bad(format!("its base is version {}, the head is {}", base.value.version, table.value.head));
            }
            if base.value.schema != table.value.schema || as_of < base.value.as_of {
                return bad("its schema or as_of does not follow its base's".to_owned());
            }
            check_usable(&table.value, &base.value)?;
            compares.push(base.unchanged());
            ops.push(base.put(&referred(&base.value)));
            VersionKind::Increment { base: base.value.version }
        }
    };
    let version = VersionRecord {
        version: build.version,
        content: build.content,
        kind,
        state: VersionState::Live,
        schema: table.value.schema.clone(),
        as_of,
        task: Some(task.value.task),
        created_ms: now_ms,
        rows: build.rows,
        bytes: build.bytes,
        forms: build.forms,
        pins: Vec::new(),
        references: 0,
    };
    let after = committed(&table.value, task.value.task, mode, (version.version, version.content));
    let aligning = TaskRecord {
        version: Some(version.version),
        stats: build.stats,
        ..moved(&task.value, TaskState::Aligning, now_ms)
    };
    let version_key = keys.version(table.uid(), version.version);
    compares.push(Compare::CreatedAt(keys.lock(table.uid(), task.value.task, TASK_LOCK), token));
    compares.push(Compare::Absent(version_key.clone()));
    ops.extend([put(version_key, &version), table.put(&after), task.put(&aligning), put_alignments(keys)]);
    Ok(Planned::new(compares, ops, Published { table: after, task: aligning, version }))
}

/// Ends an attempt of a running task with an error: the error stays on the task, the lock goes, and the task fails if
/// another attempt is pointless or none is left. With `token` by the worker that holds the lock; without, by anybody
/// while nobody holds it (a worker died in the last attempt).
///
/// # Errors
/// `TaskIs`.
pub fn fail_task(
    keys: &Keys,
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    token: Option<Revision>,
    error: TaskError,
    retry: Retry,
) -> Result<Planned<TaskChange>, Refusal> {
    check_running(&table.value, &task.value)?;
    let lock = keys.lock(table.uid(), task.value.task, TASK_LOCK);
    let (mut compares, mut ops) = (vec![], vec![]);
    match token {
        Some(token) => {
            compares.push(Compare::CreatedAt(lock.clone(), token));
            ops.push(Op::Delete { key: lock });
        }
        None => compares.push(Compare::Absent(lock)),
    }
    let mut after = task.value.clone();
    let now_ms = error.at_ms;
    // The error of a job that failed for good is on the task already.
    if after.errors.last() != Some(&error) {
        note_error(&mut after.errors, error);
    }
    after.failures = after.failures.saturating_add(1);
    let is_spent = after.failures >= TaskRecord::ATTEMPTS || after.attempt >= after.attempts_max();
    if retry == Retry::MayHelp && !is_spent {
        return Ok(change(table, task, table.value.clone(), after, compares, ops));
    }
    after = moved(&after, TaskState::Failed, now_ms);
    let blocked_by = match after.spec.mode {
        LoadMode::Incremental => Some(after.task),
        LoadMode::Full => table.value.blocked_by,
    };
    let idle = TableRecord { running: None, blocked_by, ..table.value.clone() };
    Ok(change(table, task, idle, after, compares, ops))
}

/// Cancels a task that has not committed its version, or whose version is being aligned while the table has never shown
/// one: then there is nothing to roll back to, the table's target becomes none and only a full load may follow.
///
/// # Errors
/// `NoTable`, `NoTask`; `TaskIs` once it has ended, or has committed and can be rolled back.
pub fn cancel_task(view: &View, table: &str, task: TaskId, now_ms: u64) -> Result<Planned<TaskChange>, Refusal> {
    let (table, task) = both(view, table, task)?;
    let (mut after, mut ops) = (table.value.clone(), Vec::new());
    match task.value.state {
        TaskState::Queued => after.queue.retain(|queued| *queued != task.value.task),
        TaskState::Running => after.running = after.running.filter(|running| *running != task.value.task),
        TaskState::Aligning => {
            let aligning = table.value.target.and_then(|target| aligning_task(view, table, target));
            if table.value.aligned.is_some() || aligning.is_none() {
                return Err(is(&table.value, &task.value, "roll the table back instead"));
            }
            after = TableRecord { running: None, ..without_target(&after) };
            ops.push(put_alignments(view.keys()));
        }
        TaskState::Failed if after.blocked_by == Some(task.value.task) => {
            return Err(is(&table.value, &task.value, "skip it to let later increments start"));
        }
        TaskState::Finished | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {
            return Err(is(&table.value, &task.value, "there is nothing left to cancel"));
        }
    }
    after.blocked_by = after.blocked_by.filter(|by| *by != task.value.task);
    ops.push(Op::Delete { key: view.keys().lock(table.uid(), task.value.task, TASK_LOCK) });
    Ok(change(table, task, after, moved(&task.value, TaskState::Cancelled, now_ms), vec![], ops))
}

/// Gives up a failed increment, so that later ones may start, or a queued increment that a full load has overtaken.
///
/// # Errors
/// `NoTable`, `NoTask`, `TaskIs`.
pub fn skip_task(view: &View, table: &str, task: TaskId, now_ms: u64) -> Result<Planned<TaskChange>, Refusal> {
    let (table, task) = both(view, table, task)?;
    let mut after = table.value.clone();
    match task.value.state {
        TaskState::Failed if after.blocked_by == Some(task.value.task) => after.blocked_by = None,
        TaskState::Failed => return Err(is(&table.value, &task.value, "nothing waits behind it")),
        TaskState::Queued if check_not_overtaken(&table.value, &task.value).is_err() => {
            after.queue.retain(|queued| *queued != task.value.task);
            after.blocked_by = after.blocked_by.filter(|by| *by != task.value.task);
        }
        TaskState::Queued | TaskState::Running => {
            return Err(is(&table.value, &task.value, "only failed increments are skipped; cancel it instead"));
        }
        TaskState::Aligning | TaskState::Finished | TaskState::Cancelled | TaskState::Skipped => {
            return Err(is(&table.value, &task.value, "only failed increments are skipped"));
        }
    }
    Ok(change(table, task, after, moved(&task.value, TaskState::Skipped, now_ms), vec![], vec![]))
}

/// Queues a failed task again, with new attempts: the failed increment that blocks later ones at the front of the
/// queue, any other at its end. It is planned anew; names of jobs carry the number of retries, so that no job of the
/// older plan is taken for one of the new.
///
/// # Errors
/// `NoTable`, `NoTask`, `TaskIs`, `QueueFull`, `RolledBack`, `Overtaken`.
pub fn retry_task(view: &View, table: &str, task: TaskId, now_ms: u64) -> Result<Planned<TaskChange>, Refusal> {
    let (table, task) = both(view, table, task)?;
    check_normal(&table.value)?;
    if task.value.state != TaskState::Failed || task.value.version.is_some() {
        return Err(is(
            &table.value,
            &task.value,
            "only tasks that failed before their commit are retried; submit it anew",
        ));
    }
    check_not_overtaken(&table.value, &task.value)?;
    check_queue(&table.value)?;
    let mut after = table.value.clone();
    if after.blocked_by == Some(task.value.task) {
        after.queue.insert(0, task.value.task);
    } else {
        after.queue.push(task.value.task);
    }
    let queued = TaskRecord {
        retries: task.value.retries.saturating_add(1),
        failures: 0,
        as_of: None,
        inputs: None,
        plan: None,
        ..moved(&task.value, TaskState::Queued, now_ms)
    };
    Ok(change(table, task, after, queued, vec![], vec![]))
}

/// Gives a lock back without an error, for instance at shutdown. Job [`crate::key::TASK_LOCK`] is the task's own.
#[must_use]
pub fn release_lock(keys: &Keys, table: &Stamped<TableRecord>, task: TaskId, job: &str, token: Revision) -> Txn {
    let key = keys.lock(table.uid(), task, job);
    Txn { compares: vec![Compare::CreatedAt(key.clone(), token)], ops: vec![Op::Delete { key }] }
}

fn spec_digest(spec: &LoadSpec) -> Result<Digest, Refusal> {
    let json = serde_json::to_vec(spec).map_err(|error| Refusal::Invalid(error.to_string()))?;
    Ok(Digest(Sha256::digest(&json).into()))
}

fn check_queue(table: &TableRecord) -> Result<(), Refusal> {
    if table.queue.len() >= TableRecord::QUEUE_MAX {
        return Err(Refusal::QueueFull { table: table.name.clone(), limit: TableRecord::QUEUE_MAX });
    }
    Ok(())
}

/// Checks that the task is the one at work on its table.
pub(super) fn check_running(table: &TableRecord, task: &TaskRecord) -> Result<(), Refusal> {
    if task.state != TaskState::Running {
        return Err(is(table, task, "it is no longer built"));
    }
    match table.running {
        Some(running) if running == task.task => Ok(()),
        Some(running) => Err(Refusal::TaskRunning { table: table.name.clone(), running }),
        None => Err(is(table, task, "but its table does not know it as running; read both again")),
    }
}

/// A change of both records, guarded by both.
fn change(
    table: &Stamped<TableRecord>,
    task: &Stamped<TaskRecord>,
    table_after: TableRecord,
    task_after: TaskRecord,
    mut compares: Vec<Compare>,
    mut ops: Vec<Op>,
) -> Planned<TaskChange> {
    compares.extend([table.unchanged(), task.unchanged()]);
    if table.value != table_after {
        ops.push(table.put(&table_after));
    }
    ops.push(task.put(&task_after));
    Planned::new(compares, ops, TaskChange { table: table_after, task: task_after })
}
