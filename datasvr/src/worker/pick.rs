//! Which task a free worker takes up next: decided from the view alone.

use std::time::Duration;

use fkv_formats::id::TaskId;
use fkv_meta::View;
use fkv_meta::key::TASK_LOCK;
use fkv_meta::record::{TaskRecord, TaskState};
use fkv_meta::state::{NextTask, next_task};

use crate::config::DataConfig;

/// What to do next.
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

/// The pause before an attempt, by the number of attempts made.
pub(crate) fn retry_pause(first: Duration, attempts_made: u32) -> Duration {
    let doubled = first.saturating_mul(1u32 << attempts_made.saturating_sub(1).min(16));
    doubled.min(DataConfig::RETRY_PAUSE_MAX)
}

/// When the next attempt at a task is due, in Unix milliseconds. An attempt that ended without an error of its own
/// (its worker died) is followed up at once.
fn due_ms(task: &TaskRecord, first_pause: Duration, jitter: f64) -> u64 {
    match task.errors.last() {
        Some(error) if error.attempt == task.attempt => {
            let pause = retry_pause(first_pause, task.attempt).mul_f64(1.0 + jitter);
            error.at_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
        }
        _ => 0,
    }
}

/// Picks a task, looking at tables in the order of names that begins behind `after`, so that one busy table does not
/// keep the others waiting. `jitter` in 0..1 spreads retries.
pub(crate) fn pick(view: &View, now_ms: u64, first_pause: Duration, jitter: f64, after: &str) -> Pick {
    let (first, last): (Vec<_>, Vec<_>) = view.tables().partition(|table| table.value.name.as_str() > after);
    let mut next_due = None;
    for table in first.into_iter().chain(last) {
        let (name, uid) = (&table.value.name, table.uid());
        let Some(running) = table.value.running else {
            match next_task(view, table) {
                Some(NextTask::Start(task)) => return Pick::Start(name.clone(), task),
                Some(NextTask::Skip(task)) => return Pick::Skip(name.clone(), task),
                None => continue,
            }
        };
        let Some(task) = view.task(uid, running) else { continue };
        if task.value.state != TaskState::Running || view.lock(uid, running, TASK_LOCK).is_some() {
            continue;
        }
        if task.value.attempt >= task.value.attempts_max() {
            return Pick::GiveUp(name.clone(), running);
        }
        let due = due_ms(&task.value, first_pause, jitter);
        if due <= now_ms {
            return Pick::Claim(name.clone(), running);
        }
        next_due = Some(next_due.map_or(due, |other: u64| other.min(due)));
    }
    Pick::Nothing(next_due.map(|due| Duration::from_millis(due - now_ms)))
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
}
