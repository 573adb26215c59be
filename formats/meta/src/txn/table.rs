//! Creating and dropping tables.

use std::collections::BTreeMap;

use fkv_formats::id::{Epoch, TaskId, Version};
use fkv_formats::schema::{Schema, TableKind};

use super::{named, put};
use crate::key::{TASK_LOCK, check_name};
use crate::record::{DroppedTable, Filter, RetainOld, TablePhase, TableRecord, TaskError, TaskState};
use crate::refusal::Refusal;
use crate::stamped::Planned;
use crate::state::table::check_epoch;
use crate::state::task::{may_follow, moved, note_error};
use crate::store::{Compare, Op};
use crate::view::View;

/// What a new table shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTable {
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// How many versions stay in the store beside those in use; at least 1.
    pub retain_versions: u32,
    /// What servers keep of a replaced image.
    pub retain_old: RetainOld,
    /// The filter its versions are built with; only `blk` tables have one.
    pub filter: Filter,
}

/// Creates a table. Its uid is the revision at which the transaction commits.
///
/// # Errors
/// `Name`, `Invalid`, `TableExists`.
pub fn create_table(view: &View, new: NewTable, now_ms: u64) -> Result<Planned<TableRecord>, Refusal> {
    check_name("table", &new.name)?;
    new.schema.validate().map_err(Refusal::Invalid)?;
    if new.retain_versions == 0 {
        return Err(Refusal::Invalid("a table keeps at least 1 version beside those in use".to_owned()));
    }
    if new.filter != Filter::None && new.schema.kind != TableKind::Blk {
        let kind = new.schema.kind;
        return Err(Refusal::Invalid(format!(
            "only blk tables have a filter: an {kind} table finds absent keys without"
        )));
    }
    let key = view.keys().table(&new.name);
    if view.table(&new.name).is_some() || view.unreadable().any(|unreadable| unreadable.key == key) {
        return Err(Refusal::TableExists(new.name));
    }
    let table = TableRecord {
        name: new.name,
        schema: new.schema,
        retain_versions: new.retain_versions,
        retain_old: new.retain_old,
        filter: new.filter,
        created_ms: now_ms,
        head: Version(0),
        epoch: Epoch(0),
        phase: TablePhase::Normal,
        target: None,
        aligned: None,
        previous: None,
        next_task: TaskId(1),
        queue: Vec::new(),
        running: None,
        blocked_by: None,
        last_full: TaskId(0),
        full_required: false,
        exclusions: BTreeMap::new(),
        canary: None,
        quarantine: Vec::new(),
    };
    let ops = vec![put(key.clone(), &table)];
    Ok(Planned::new(vec![Compare::Absent(key)], ops, table))
}

/// Drops a table; a task at work is cancelled. What GC has to remove stays under `dropped/`.
///
/// # Errors
/// `NoTable`, `Epoch`.
pub fn drop_table(
    view: &View,
    table: &str,
    expected: Option<Epoch>,
    now_ms: u64,
) -> Result<Planned<DroppedTable>, Refusal> {
    let table = named(view, table)?;
    check_epoch(&table.value, expected)?;
    let (keys, uid) = (view.keys(), table.uid());
    let dropped = DroppedTable { name: table.value.name.clone(), dropped_ms: now_ms };
    let mut compares = vec![table.unchanged()];
    let mut ops = vec![Op::Delete { key: table.key.clone() }, put(keys.dropped(uid), &dropped)];
    if let Some(running) = table.value.running.and_then(|task| view.task(uid, task)) {
        let mut ended = running.value.clone();
        let state = if ended.state == TaskState::Running { TaskState::Cancelled } else { TaskState::Failed };
        if may_follow(ended.state, state) {
            ended = moved(&ended, state, now_ms);
            note_error(
                &mut ended.errors,
                TaskError {
                    at_ms: now_ms,
                    attempt: ended.attempt,
                    worker: String::new(),
                    message: "the table was dropped".to_owned(),
                },
            );
            compares.push(running.unchanged());
            ops.push(running.put(&ended));
            ops.push(Op::Delete { key: keys.lock(uid, ended.task, TASK_LOCK) });
        }
    }
    Ok(Planned::new(compares, ops, dropped))
}
