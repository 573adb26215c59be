//! What a table shows: flip, rollback, release, canary, exclusions.

use std::collections::BTreeSet;

use fkv_formats::id::{Epoch, Slot, TaskId, Version};

use super::{named, put, put_alignments, referred, version_of};
use crate::key::TASK_LOCK;
use crate::record::{
    Canary, Exclusion, Label, LoadMode, SectState, TablePhase, TableRecord, TaskError, TaskRecord, TaskState,
    VersionRecord, VersionState,
};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::state::table::{
    aligned, check_epoch, check_live, check_normal, check_usable, release_of, released, rolled_back, unaligned_target,
    without_target,
};
use crate::state::task::{moved, note_error};
use crate::state::{Standing, budget, lack};
use crate::store::{Compare, Op};
use crate::view::View;

/// The most characters kept of why a slot is excluded.
const CAUSE_CHARS_MAX: usize = 500;

/// The records after a flip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aligned {
    /// The table: aligned is its target.
    pub table: TableRecord,
    /// The task that ended with it, if it was a load's.
    pub task: Option<TaskRecord>,
}

/// The records after a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The table.
    pub table: TableRecord,
    /// Whether every required slot holds the version already, so that it is shown at once.
    pub at_once: bool,
    /// Who holds the version and who has still to load it.
    pub standing: Standing,
    /// The task that was stopped.
    pub stopped: Option<TaskId>,
}

/// The records after a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The table.
    pub table: TableRecord,
    /// The new version, with the content of the version rolled back to.
    pub version: VersionRecord,
}

/// Shows a table's target, once every required slot has reported its content at the view's revision.
///
/// # Errors
/// `NoTable`, `NoTopology`, `NothingToAlign`, `CanarySet`, `NoRequiredSlots`, `NotHeld`.
pub fn flip(view: &View, table: &str, now_ms: u64) -> Result<Planned<Aligned>, Refusal> {
    let table = named(view, table)?;
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    let name = || table.value.name.clone();
    let target = unaligned_target(&table.value).ok_or_else(|| Refusal::NothingToAlign(name()))?;
    if table.value.canary.is_some() {
        return Err(Refusal::CanarySet(name()));
    }
    let standing = Standing::of(view, table, target.content);
    if standing.required.is_empty() {
        return Err(Refusal::NoRequiredSlots(name()));
    }
    if let Some((slot, lack)) = standing.missing.first() {
        return Err(Refusal::NotHeld {
            table: name(),
            version: target.version,
            missing: standing.missing.len(),
            required: standing.required.len(),
            first: format!("{slot}: {lack}"),
        });
    }
    let mut after = aligned(&table.value);
    let mut compares = vec![table.unchanged(), topology.unchanged()];
    let mut ops = vec![put_alignments(view.keys())];
    let mut finished = None;
    if let Some(task) = aligning_task(view, table, target) {
        let record = moved(&task.value, TaskState::Finished, now_ms);
        after.running = None;
        compares.push(task.unchanged());
        ops.push(task.put(&record));
        ops.push(Op::Delete { key: view.keys().lock(table.uid(), record.task, TASK_LOCK) });
        finished = Some(record);
    }
    ops.push(table.put(&after));
    Ok(Planned::new(compares, ops, Aligned { table: after, task: finished }))
}

/// Gives up aligning a commit: the table is rolled back to what it shows; if it shows nothing yet, its target becomes
/// none and only a full load may follow. The task fails with `cause`. [`cancel_task`](super::cancel_task) does the latter
/// by hand.
///
/// # Errors
/// `NoTable`, `NothingToAlign`, `NoVersion`, `NotLive`; `RolledBack`: a rollback never fails this way.
pub fn fail_alignment(view: &View, table: &str, cause: &str, now_ms: u64) -> Result<Planned<RolledBack>, Refusal> {
    let table = named(view, table)?;
    check_normal(&table.value)?;
    let nothing = || Refusal::NothingToAlign(table.value.name.clone());
    let target = unaligned_target(&table.value).ok_or_else(nothing)?;
    let task = aligning_task(view, table, target).ok_or_else(nothing)?;
    let why = format!("version {} could not be aligned: {cause}", target.version);
    if let Some(shown) = table.value.aligned {
        let version = version_of(view, table, shown.version)?;
        check_live(&table.value, &version.value)?;
        return Ok(roll_back(view, table, version, &why, now_ms));
    }
    let mut after = without_target(&table.value);
    after.running = None;
    let failed = failed(&task.value, &why, now_ms);
    let ops = vec![
        table.put(&after),
        task.put(&failed),
        Op::Delete { key: view.keys().lock(table.uid(), failed.task, TASK_LOCK) },
        put_alignments(view.keys()),
    ];
    let stopped = Some(failed.task);
    let after = RolledBack { table: after, at_once: false, standing: Standing::default(), stopped };
    Ok(Planned::new(vec![table.unchanged(), task.unchanged()], ops, after))
}

/// Rolls a table back (or, while rolled back, forward) to a version. Without `to` it goes back by one: to what is shown
/// while a commit is still being aligned, otherwise to what was shown before; while rolled back that is refused, so that
/// a rollback repeated after its answer was lost does not undo itself. The plan's `after` is also the answer of a dry run.
///
/// # Errors
/// `NoTable`, `Epoch`, `NeverShown`, `RolledBackAlready`, `NoPrevious`, `NoVersion`, `NotLive`, `Quarantined`,
/// `AlreadyTarget`.
pub fn rollback(
    view: &View,
    table: &str,
    to: Option<Version>,
    expected: Option<Epoch>,
    now_ms: u64,
) -> Result<Planned<RolledBack>, Refusal> {
    let table = named(view, table)?;
    check_epoch(&table.value, expected)?;
    let Some(shown) = table.value.aligned else {
        // Rolled back to something that may never be shown, the table could neither be released nor loaded again.
        return Err(Refusal::NeverShown(table.value.name.clone()));
    };
    let to = match (to, table.value.phase) {
        (Some(to), _) => to,
        (None, TablePhase::RolledBack { to, .. }) => {
            return Err(Refusal::RolledBackAlready { table: table.value.name.clone(), to });
        }
        (None, TablePhase::Normal) => {
            let before = if unaligned_target(&table.value).is_some() { Some(shown) } else { table.value.previous };
            before.ok_or_else(|| Refusal::NoPrevious(table.value.name.clone()))?.version
        }
    };
    let version = version_of(view, table, to)?;
    check_usable(&table.value, &version.value)?;
    if table.value.target.is_some_and(|target| target.version == to) {
        return Err(Refusal::AlreadyTarget { table: table.value.name.clone(), version: to });
    }
    Ok(roll_back(view, table, version, &format!("the table was rolled back to version {to}"), now_ms))
}

/// Ends a rollback: the version rolled back to becomes the newest one under a new number, the versions after it are
/// quarantined, and loads go on.
///
/// # Errors
/// `NoTable`, `Epoch`, `NotRolledBack`, `NotYetShown`, `NoVersion`, `NotLive`.
pub fn release(view: &View, table: &str, expected: Option<Epoch>, now_ms: u64) -> Result<Planned<Released>, Refusal> {
    let table = named(view, table)?;
    check_epoch(&table.value, expected)?;
    let name = || table.value.name.clone();
    let TablePhase::RolledBack { to, head } = table.value.phase else {
        return Err(Refusal::NotRolledBack(name()));
    };
    let of = version_of(view, table, to)?;
    check_live(&table.value, &of.value)?;
    if table.value.aligned.is_none_or(|shown| shown.content != of.value.content) {
        return Err(Refusal::NotYetShown { table: name(), to });
    }
    let version = release_of(&table.value, &of.value, now_ms);
    let live = view.versions(table.uid()).map(|version| &version.value);
    let live: Vec<&VersionRecord> = live.filter(|version| version.state == VersionState::Live).collect();
    let mut after = released(&table.value, &version, (to, head), live.iter().copied());
    let key = view.keys().version(table.uid(), version.version);
    let mut compares = vec![table.unchanged(), of.unchanged(), Compare::Absent(key.clone())];
    if let (Some(topology), true) = (view.topology(), Standing::of(view, table, version.content).is_held()) {
        after = aligned(&after);
        compares.push(topology.unchanged());
    }
    let ops = vec![put(key, &version), of.put(&referred(&of.value)), table.put(&after), put_alignments(view.keys())];
    Ok(Planned::new(compares, ops, Released { table: after, version }))
}

/// Lets some sects show the target to requests flagged canary; holds the flip back until promoted or aborted.
///
/// # Errors
/// `NoTable`, `NoTopology`, `NoSect`, `SectIs`, `NothingToAlign`, `RolledBack`, `Invalid`.
pub fn set_canary(view: &View, table: &str, sects: &[String]) -> Result<Planned<TableRecord>, Refusal> {
    let table = named(view, table)?;
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    check_normal(&table.value)?;
    let nothing = || Refusal::NothingToAlign(table.value.name.clone());
    let target = unaligned_target(&table.value).ok_or_else(nothing)?;
    if sects.is_empty() {
        return Err(Refusal::Invalid("a canary needs at least one sect".to_owned()));
    }
    for sect in sects {
        let found = topology.value.sects.get(sect).ok_or_else(|| Refusal::NoSect(sect.clone()))?;
        if found.state != SectState::Active {
            return Err(Refusal::SectIs { sect: sect.clone(), why: "is not active: only active sects show a canary" });
        }
    }
    let sects: BTreeSet<String> = sects.iter().cloned().collect();
    let canary = Canary { epoch: target.epoch, content: target.content, sects: sects.into_iter().collect() };
    let after = TableRecord { canary: Some(canary), ..table.value.clone() };
    Ok(Planned::new(vec![table.unchanged()], vec![table.put(&after)], after))
}

/// Ends the canary well: the target may be flipped to.
///
/// # Errors
/// `NoTable`, `NoCanary`.
pub fn promote_canary(view: &View, table: &str) -> Result<Planned<TableRecord>, Refusal> {
    let table = named(view, table)?;
    if table.value.canary.is_none() {
        return Err(Refusal::NoCanary(table.value.name.clone()));
    }
    let after = TableRecord { canary: None, ..table.value.clone() };
    Ok(Planned::new(vec![table.unchanged()], vec![table.put(&after)], after))
}

/// Ends the canary badly: as [`fail_alignment`].
///
/// # Errors
/// `NoCanary`, and as [`fail_alignment`].
pub fn abort_canary(view: &View, table: &str, cause: &str, now_ms: u64) -> Result<Planned<RolledBack>, Refusal> {
    let record = named(view, table)?;
    if record.value.canary.is_none() {
        return Err(Refusal::NoCanary(record.value.name.clone()));
    }
    fail_alignment(view, table, &format!("its canary was aborted: {cause}"), now_ms)
}

/// Excludes a slot for a table: it is not required for alignment and gets no reads of the table.
///
/// # Errors
/// `NoTable`, `NoTopology`, `NoSlot`, `SectIs`, `Excluded`, `OverBudget`.
pub fn exclude(
    view: &View,
    table: &str,
    slot: &Slot,
    cause: &str,
    now_ms: u64,
) -> Result<Planned<TableRecord>, Refusal> {
    let table = named(view, table)?;
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    topology.value.assignment(slot).ok_or_else(|| Refusal::NoSlot(slot.clone()))?;
    if topology.value.sects.get(&slot.sect).is_none_or(|sect| sect.state != SectState::Active) {
        let why = "is not active: its slots are not required anyway";
        return Err(Refusal::SectIs { sect: slot.sect.clone(), why });
    }
    if table.value.exclusions.contains_key(slot) {
        return Err(Refusal::Excluded { table: table.value.name.clone(), slot: slot.clone() });
    }
    let mut after = table.value.clone();
    after.exclusions.retain(|slot, _| topology.value.assignment(slot).is_some());
    let cause = cause.chars().take(CAUSE_CHARS_MAX).collect();
    after.exclusions.insert(slot.clone(), Exclusion { cause, since_ms: now_ms });
    budget::check(&topology.value, &after)?;
    let ops = vec![table.put(&after), put_alignments(view.keys())];
    Ok(Planned::new(vec![table.unchanged(), topology.unchanged()], ops, after))
}

/// Takes an excluded slot back, once it holds what the table shows and what it is to show.
///
/// # Errors
/// `NoTable`, `NoTopology`, `NotExcluded`, `SlotLacks`.
pub fn readmit(view: &View, table: &str, slot: &Slot) -> Result<Planned<TableRecord>, Refusal> {
    let table = named(view, table)?;
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    if !table.value.exclusions.contains_key(slot) {
        return Err(Refusal::NotExcluded { table: table.value.name.clone(), slot: slot.clone() });
    }
    if topology.value.assignment(slot).is_some() {
        check_holds(view, table, slot)?;
    }
    let mut after = table.value.clone();
    after.exclusions.remove(slot);
    let ops = vec![table.put(&after), put_alignments(view.keys())];
    Ok(Planned::new(vec![table.unchanged(), topology.unchanged()], ops, after))
}

/// Checks that a slot holds what a table shows and what it is to show.
pub(super) fn check_holds(view: &View, table: &Stamped<TableRecord>, slot: &Slot) -> Result<(), Refusal> {
    for label in [table.value.aligned, table.value.target].into_iter().flatten() {
        if let Some(lack) = lack(view, table, label.content, slot) {
            return Err(Refusal::SlotLacks {
                table: table.value.name.clone(),
                slot: slot.clone(),
                version: label.version,
                why: lack.to_string(),
            });
        }
    }
    Ok(())
}

/// The task whose commit made `target`, while it aligns.
pub(super) fn aligning_task<'a>(
    view: &'a View,
    table: &Stamped<TableRecord>,
    target: Label,
) -> Option<&'a Stamped<TaskRecord>> {
    let task = view.task(table.uid(), table.value.running?)?;
    (task.value.state == TaskState::Aligning && task.value.version == Some(target.version)).then_some(task)
}

fn failed(task: &TaskRecord, why: &str, now_ms: u64) -> TaskRecord {
    let mut failed = moved(task, TaskState::Failed, now_ms);
    let error = TaskError { at_ms: now_ms, attempt: task.attempt, worker: String::new(), message: why.to_owned() };
    note_error(&mut failed.errors, error);
    failed
}

/// The rollback to a version that may be shown; the task at work is stopped.
fn roll_back(
    view: &View,
    table: &Stamped<TableRecord>,
    to: &Stamped<VersionRecord>,
    why: &str,
    now_ms: u64,
) -> Planned<RolledBack> {
    let standing = Standing::of(view, table, to.value.content);
    let mut after = rolled_back(&table.value, &to.value);
    let mut compares = vec![table.unchanged(), to.unchanged()];
    let mut ops = vec![to.put(&referred(&to.value)), put_alignments(view.keys())];
    let at_once = match view.topology() {
        Some(topology) if standing.is_held() => {
            after = aligned(&after);
            compares.push(topology.unchanged());
            true
        }
        _ => false,
    };
    let stopped = after.running.take();
    if let Some(task) = stopped.and_then(|task| view.task(table.uid(), task)) {
        if task.value.state == TaskState::Running && task.value.spec.mode == LoadMode::Incremental {
            // Its rows are in no version: later increments must not build over the gap unasked.
            after.blocked_by = Some(task.value.task);
        }
        compares.push(task.unchanged());
        ops.push(task.put(&failed(&task.value, why, now_ms)));
        ops.push(Op::Delete { key: view.keys().lock(table.uid(), task.value.task, TASK_LOCK) });
    }
    ops.push(table.put(&after));
    Planned::new(compares, ops, RolledBack { table: after, at_once, standing, stopped })
}
