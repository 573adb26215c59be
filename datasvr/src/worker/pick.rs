//! What a worker does next: decided from the view alone.
//!
//! ```text
//!   tasks   start, skip or claim one, or give one up          light: a worker looks after several at once
//!   jobs    of all running tasks, one table after the other   heavy: a worker does one at a time
//! ```

use std::time::Duration;

use fkv_formats::id::{TableUid, TaskId};
use fkv_meta::View;
use fkv_meta::key::TASK_LOCK;
use fkv_meta::record::{JobRecord, JobState, TaskError, TaskRecord, TaskState};
use fkv_meta::state::{NextTask, next_task};

use super::plans::{Plans, TaskPlan};
use crate::config::DataConfig;
use crate::plan::{JobStage, PlannedJob};

/// What to do for a task next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Start this queued task.
    Start(String, TaskId),
    /// Skip this queued increment, which a full load has overtaken.
    Skip(String, TaskId),
    /// Claim this running task, which nobody holds.
    Claim(String, TaskId),
    /// Fail this task: nobody holds it and its attempts are used up.
    GiveUp(String, TaskId),
    /// Nothing at present; something may be due after this time even if nothing changes.
    Nothing(Option<Duration>),
}

/// Which job to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobPick {
    /// One of these jobs of this task.
    Jobs(String, TaskId, Vec<String>),
    /// This task's plan has to be read first.
    Plan(String, TaskId),
    /// Nothing at present; something may be due after this time even if nothing changes.
    Nothing(Option<Duration>),
}

/// The pause before an attempt, by the number of attempts made.
pub(crate) fn retry_pause(first: Duration, attempts_made: u32) -> Duration {
    let doubled = first.saturating_mul(1u32 << attempts_made.saturating_sub(1).min(16));
    doubled.min(DataConfig::RETRY_PAUSE_MAX)
}

/// When the next attempt is due, in Unix milliseconds, after attempt number `attempt`. An attempt that ended without an error
/// of its own (its worker died) is followed up at once.
fn due_ms(last: Option<&TaskError>, attempt: u32, failures: u32, first_pause: Duration, jitter: f64) -> u64 {
    match last {
        Some(error) if error.attempt == attempt => {
            let pause = retry_pause(first_pause, failures.max(1)).mul_f64(1.0 + jitter);
            error.at_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
        }
        _ => 0,
    }
}

fn task_due_ms(task: &TaskRecord, first_pause: Duration, jitter: f64) -> u64 {
    // Errors of jobs are on the task too; only one of the task's own counts as its last.
    let own = if task.failures == 0 { None } else { task.errors.last() };
    due_ms(own, task.attempt, task.failures, first_pause, jitter)
}

fn job_due_ms(job: &JobRecord, first_pause: Duration, jitter: f64) -> u64 {
    due_ms(job.errors.last(), job.attempt, job.errors.len() as u32, first_pause, jitter)
}

/// The least of the times at which something is due, from now on.
struct Due {
    now_ms: u64,
    next_ms: Option<u64>,
}

impl Due {
    /// Whether something due at `at_ms` is due now; if not, it is remembered.
    fn is_now(&mut self, at_ms: u64) -> bool {
        if at_ms <= self.now_ms {
            return true;
        }
        self.next_ms = Some(self.next_ms.map_or(at_ms, |other| other.min(at_ms)));
        false
    }

    fn wait(&self) -> Option<Duration> {
        self.next_ms.map(|at_ms| Duration::from_millis(at_ms - self.now_ms))
    }
}

/// How a worker picks: the time, and how long it waits between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) now_ms: u64,
    pub(crate) first_pause: Duration,
    /// 0 to 1: spreads retries.
    pub(crate) jitter: f64,
}

/// Tables in the order of names that begins behind `after`, so that one busy table does not keep the others waiting.
fn in_turn<'a>(view: &'a View, after: &str) -> Vec<&'a fkv_meta::Stamped<fkv_meta::record::TableRecord>> {
    let (first, last): (Vec<_>, Vec<_>) = view.tables().partition(|table| table.value.name.as_str() > after);
    first.into_iter().chain(last).collect()
}

/// Picks a task. `mine` are those that this worker looks after already.
pub(crate) fn pick(view: &View, timing: Timing, after: &str, mine: &[(TableUid, TaskId)]) -> Pick {
    let mut due = Due { now_ms: timing.now_ms, next_ms: None };
    for table in in_turn(view, after) {
        let (name, uid) = (&table.value.name, table.uid());
        let Some(running) = table.value.running else {
            match next_task(view, table) {
                Some(NextTask::Start(task)) => return Pick::Start(name.clone(), task),
                Some(NextTask::Skip(task)) => return Pick::Skip(name.clone(), task),
                None => continue,
            }
        };
        let Some(task) = view.task(uid, running) else { continue };
        if task.value.state != TaskState::Running
            || view.lock(uid, running, TASK_LOCK).is_some()
            || mine.contains(&(uid, running))
        {
            continue;
        }
        if task.value.attempt >= task.value.attempts_max() {
            return Pick::GiveUp(name.clone(), running);
        }
        if due.is_now(task_due_ms(&task.value, timing.first_pause, timing.jitter)) {
            return Pick::Claim(name.clone(), running);
        }
    }
    Pick::Nothing(due.wait())
}

/// Whether a job is done.
fn is_done(view: &View, plan: &TaskPlan, job: &PlannedJob) -> bool {
    let record = view.job(plan.plan.uid, plan.plan.task, &job.name);
    record.is_some_and(|record| matches!(record.value.state, JobState::Done { .. }))
}

/// The jobs of a plan whose turn it is, done or not; none if all are done.
pub(crate) fn jobs_in_turn<'a>(view: &View, plan: &'a TaskPlan) -> Vec<&'a PlannedJob> {
    let of = |stage| plan.plan.jobs.iter().filter(move |job| job.stage() == stage);
    let stages = [JobStage::First, JobStage::Second].into_iter();
    let mut open = stages.filter(|stage| of(*stage).any(|job| !is_done(view, plan, job)));
    open.next().map_or_else(Vec::new, |stage| of(stage).collect())
}

/// Picks jobs, of the first task in turn that has one. `wait_for` holds back tasks whose plan could not be read of late.
pub(crate) fn pick_job(
    view: &View,
    plans: &Plans,
    timing: Timing,
    after: &str,
    held_back: impl Fn(TableUid, TaskId) -> Option<u64>,
) -> JobPick {
    let mut due = Due { now_ms: timing.now_ms, next_ms: None };
    for table in in_turn(view, after) {
        let (name, uid) = (&table.value.name, table.uid());
        let Some(task) = table.value.running.and_then(|running| view.task(uid, running)) else { continue };
        let (Some(pin), TaskState::Running) = (&task.value.plan, task.value.state) else { continue };
        let id = task.value.task;
        if held_back(uid, id).is_some_and(|until_ms| !due.is_now(until_ms)) {
            continue;
        }
        let Some(plan) = plans.known(pin) else { return JobPick::Plan(name.clone(), id) };
        let mut open = Vec::new();
        for job in jobs_in_turn(view, &plan) {
            if view.lock(uid, id, &job.name).is_some() {
                continue;
            }
            let is_claimable = match view.job(uid, id, &job.name).map(|record| &record.value) {
                None => true,
                Some(record) if record.state == JobState::Open && !record.is_spent() => {
                    due.is_now(job_due_ms(record, timing.first_pause, timing.jitter))
                }
                Some(_) => false,
            };
            if is_claimable {
                open.push(job.name.clone());
            }
        }
        if !open.is_empty() {
            return JobPick::Jobs(name.clone(), id, open);
        }
    }
    JobPick::Nothing(due.wait())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let first = Duration::from_secs(1);
        assert_eq!(retry_pause(first, 1), Duration::from_secs(1));
        assert_eq!(retry_pause(first, 2), Duration::from_secs(2));
        assert_eq!(retry_pause(first, 4), Duration::from_secs(8));
        assert_eq!(retry_pause(first, 1000), DataConfig::RETRY_PAUSE_MAX);
    }

    #[test]
    fn only_an_error_of_the_last_attempt_makes_the_next_one_wait() {
        let error = |attempt| TaskError { at_ms: 1000, attempt, worker: "w".into(), message: "x".into() };
        let job = |attempt, errors| JobRecord { state: JobState::Open, attempt, errors };
        let first = Duration::from_millis(100);
        assert_eq!(job_due_ms(&job(1, vec![]), first, 0.5), 0, "its worker is gone");
        assert_eq!(job_due_ms(&job(1, vec![error(1)]), first, 0.5), 1150);
        assert_eq!(job_due_ms(&job(2, vec![error(1)]), first, 0.5), 0);
        assert_eq!(job_due_ms(&job(5, vec![error(1), error(5)]), first, 0.0), 1200, "by errors, not by lost workers");
    }
}
