//! What a task's record becomes, and which task is next.

use fkv_formats::id::{TableUid, TaskId};
use fkv_formats::schema::{Schema, ValueType};

use crate::record::{LoadMode, LoadSpec, TableRecord, TaskError, TaskRecord, TaskState};
use crate::refusal::Refusal;
use crate::stamped::Stamped;
use crate::state::table::check_normal;
use crate::view::View;

/// The most input URLs of a task.
const INPUTS_MAX: usize = 1000;
/// The most bytes of a spec's JSON.
const SPEC_BYTES_MAX: usize = 128 << 10;

/// What to do with a table's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTask {
    /// Start this task.
    Start(TaskId),
    /// Skip this increment: a full load has overtaken it.
    Skip(TaskId),
}

/// What can be done now with a table's queue, if anything.
#[must_use]
pub fn next_task(view: &View, table: &Stamped<TableRecord>) -> Option<NextTask> {
    let legal = |task: &TaskId| {
        let record = view.task(table.uid(), *task)?;
        match check_start(view, table, &record.value) {
            Ok(()) => Some(NextTask::Start(*task)),
            Err(Refusal::Overtaken { .. }) => Some(NextTask::Skip(*task)),
            Err(_) => None,
        }
    };
    table.value.queue.iter().find_map(legal)
}

/// Checks that a queued task may start.
pub(crate) fn check_start(view: &View, table: &Stamped<TableRecord>, task: &TaskRecord) -> Result<(), Refusal> {
    let (uid, table) = (table.uid(), &table.value);
    check_normal(table)?;
    let name = || table.name.clone();
    if task.state != TaskState::Queued || !table.queue.contains(&task.task) {
        return Err(is(table, task, "only queued tasks can start"));
    }
    if let Some(running) = table.running {
        return Err(Refusal::TaskRunning { table: name(), running });
    }
    check_increment(table, task)?;
    let before = table.queue.iter().take_while(|queued| **queued != task.task);
    match before.into_iter().find(|queued| !gives_way(view, uid, table, task, **queued)) {
        Some(first) => Err(Refusal::NotItsTurn { table: name(), task: task.task, first: *first }),
        None => Ok(()),
    }
}

/// Whether a queued task lets a later one start before it: an increment that cannot start lets a full load by.
fn gives_way(view: &View, uid: TableUid, table: &TableRecord, later: &TaskRecord, queued: TaskId) -> bool {
    later.spec.mode == LoadMode::Full
        && view.task(uid, queued).is_some_and(|queued| check_increment(table, &queued.value).is_err())
}

/// Checks what an increment needs beyond its turn.
fn check_increment(table: &TableRecord, task: &TaskRecord) -> Result<(), Refusal> {
    if task.spec.mode == LoadMode::Full {
        return Ok(());
    }
    let name = || table.name.clone();
    check_not_overtaken(table, task)?;
    if needs_full(table) {
        return Err(Refusal::FullRequired(name()));
    }
    match table.blocked_by {
        Some(by) if by != task.task => Err(Refusal::Blocked { table: name(), task: task.task, by }),
        _ => Ok(()),
    }
}

/// Checks that no full load submitted later was committed before this increment.
pub(crate) fn check_not_overtaken(table: &TableRecord, task: &TaskRecord) -> Result<(), Refusal> {
    if task.spec.mode == LoadMode::Incremental && task.task < table.last_full {
        return Err(Refusal::Overtaken { table: table.name.clone(), task: task.task, by: table.last_full });
    }
    Ok(())
}

/// Whether only a full load may be committed next.
pub(crate) fn needs_full(table: &TableRecord) -> bool {
    table.head.0 == 0 || table.full_required
}

/// The refusal that names a task's state.
pub(crate) fn is(table: &TableRecord, task: &TaskRecord, advice: &'static str) -> Refusal {
    Refusal::TaskIs { table: table.name.clone(), task: task.task, state: task.state, advice }
}

/// The task in another state.
pub(crate) fn moved(task: &TaskRecord, state: TaskState, now_ms: u64) -> TaskRecord {
    debug_assert!(may_follow(task.state, state), "{:?} does not lead to {state:?}", task.state);
    TaskRecord { state, changed_ms: now_ms, ..task.clone() }
}

/// Whether a task may go from one state to another.
pub(crate) const fn may_follow(from: TaskState, to: TaskState) -> bool {
    use TaskState::{Aligning, Cancelled, Failed, Finished, Queued, Running, Skipped};
    matches!(
        (from, to),
        (Queued, Running | Cancelled | Skipped)
            | (Running, Aligning | Failed | Cancelled)
            | (Aligning, Finished | Failed | Cancelled)
            | (Failed, Queued | Skipped)
    )
}

/// Adds an error to a bounded list.
pub(crate) fn note_error(errors: &mut Vec<TaskError>, mut error: TaskError) {
    let mut end = error.message.len().min(TaskRecord::ERROR_BYTES_MAX);
    while !error.message.is_char_boundary(end) {
        end -= 1;
    }
    error.message.truncate(end);
    errors.push(error);
    let surplus = errors.len().saturating_sub(TaskRecord::ERRORS_MAX);
    errors.drain(..surplus);
}

/// Checks what can be known of a spec without looking at the input.
pub(crate) fn check_spec(schema: &Schema, spec: &LoadSpec) -> Result<(), Refusal> {
    let invalid = |reason: String| Err(Refusal::Invalid(reason));
    if spec.inputs.is_empty() || spec.inputs.len() > INPUTS_MAX || spec.inputs.iter().any(String::is_empty) {
        return invalid(format!("a load needs 1 to {INPUTS_MAX} inputs, none of them empty"));
    }
    if spec.key_column.is_empty() {
        return invalid("a load needs the name of the key column".to_owned());
    }
    let columns = spec.value_columns.len();
    let (fits, expected) = match schema.value {
        ValueType::F32(d) | ValueType::F16(d) => {
            (columns == 1 || columns == usize::from(d), format!("one value column, or {d}: one per dimension"))
        }
        ValueType::Bytes | ValueType::I64 => (columns == 1, "one value column".to_owned()),
    };
    if !fits || spec.value_columns.iter().any(String::is_empty) {
        return invalid(format!("values of type {} need {expected}, not {columns}", schema.value));
    }
    if spec.expiry_column.is_some() && !schema.ttl {
        return invalid("the table was created without TTL, so that a load cannot name an expiry column".to_owned());
    }
    if spec.expiry_column.as_ref().is_some_and(String::is_empty) {
        return invalid("the name of the expiry column is empty".to_owned());
    }
    if spec.delete_column.as_ref().is_some_and(String::is_empty) {
        return invalid("the name of the delete column is empty".to_owned());
    }
    if serde_json::to_vec(spec).map_or(usize::MAX, |json| json.len()) > SPEC_BYTES_MAX {
        return invalid(format!("the load's description is longer than {SPEC_BYTES_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Duplicates, InputFormat, NullPolicy};
    use crate::state::table::tests::schema;

    #[test]
    fn ended_tasks_stay_ended_but_for_retry_and_skip_of_failed_ones() {
        use TaskState::{Aligning, Cancelled, Failed, Finished, Queued, Running, Skipped};
        let all = [Queued, Running, Aligning, Finished, Failed, Cancelled, Skipped];
        for from in all {
            for to in all {
                let legal = may_follow(from, to);
                assert!(!(legal && from == to), "{from:?} again");
                if from.is_terminal() && legal {
                    assert_eq!(from, Failed, "to {to:?}");
                }
                if from == Aligning && legal {
                    assert!(to.is_terminal(), "a committed version is not built again: {to:?}");
                }
            }
        }
    }

    #[test]
    fn errors_are_bounded_in_number_and_length() {
        let mut errors = Vec::new();
        for attempt in 0..100 {
            let message = "é".repeat(5000);
            note_error(&mut errors, TaskError { at_ms: 1, attempt, worker: "w".into(), message });
        }
        assert_eq!(errors.len(), TaskRecord::ERRORS_MAX);
        assert_eq!(errors.last().map(|error| error.attempt), Some(99));
        assert!(errors.iter().all(|error| error.message.len() <= TaskRecord::ERROR_BYTES_MAX));
    }

    #[test]
    fn a_spec_that_cannot_fit_the_schema_is_refused_at_submit() {
        let good = LoadSpec {
            inputs: vec!["file:///in".into()],
            mode: LoadMode::Full,
            format: InputFormat::Parquet,
            key_column: "id".into(),
            value_columns: vec!["score".into()],
            expiry_column: None,
            delete_column: None,
            nulls: NullPolicy::Skip,
            duplicates: Duplicates::Last,
            max_bad_rows: 0,
            require_success: false,
        };
        let wide = Schema { value: ValueType::F32(3), ..schema() };
        let columns = |count: usize| LoadSpec { value_columns: vec!["c".into(); count], ..good.clone() };
        assert_eq!(check_spec(&schema(), &good), Ok(()));
        assert_eq!(check_spec(&wide, &columns(3)), Ok(()));
        assert_eq!(check_spec(&wide, &columns(1)), Ok(()));
        for (schema, bad) in [
            (schema(), LoadSpec { inputs: vec![], ..good.clone() }),
            (schema(), LoadSpec { inputs: vec!["x".repeat(SPEC_BYTES_MAX)], ..good.clone() }),
            (schema(), LoadSpec { key_column: String::new(), ..good.clone() }),
            (schema(), LoadSpec { expiry_column: Some("ttl".into()), ..good.clone() }),
            (schema(), LoadSpec { delete_column: Some(String::new()), ..good.clone() }),
            (schema(), columns(0)),
            (schema(), columns(2)),
            (wide.clone(), columns(2)),
        ] {
            assert!(matches!(check_spec(&schema, &bad), Err(Refusal::Invalid(_))), "{bad:?}");
        }
    }
}
