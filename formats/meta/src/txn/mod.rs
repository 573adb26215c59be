//! The transactions: one function per legal change. Each takes records as read, asks [`crate::state`] whether the
//! change is legal, and gives the transaction that makes it, guarded by compares on everything the decision rests on.
//!
//! Changes by operators and the aligner start from a [`View`], which shows all records at one revision;
//! changes by workers and servers start from the few records they own.

use fkv_formats::id::{TaskId, Version};

use crate::key::Keys;
use crate::record::{self, Record, TableRecord, TaskRecord, VersionRecord};
use crate::refusal::Refusal;
use crate::stamped::Stamped;
use crate::store::{LeaseId, Op};
use crate::view::View;

mod align;
mod cluster;
mod job;
mod slot;
mod table;
mod task;
mod version;

pub use align::{
    Aligned, Released, RolledBack, abort_canary, exclude, fail_alignment, flip, promote_canary, readmit, release,
    rollback, set_canary,
};
pub use cluster::{add_sect, change_sects, init_cluster, reassign, remove_sect};
pub use job::{Claimant, JobFailed, claim_job, commit_job, fail_job};
pub use slot::{ClaimStep, claim_slot, put_progress, put_worker, report};
pub use table::{NewTable, create_table, drop_table};
pub use task::{
    Build, Published, Retry, Submitted, TaskChange, cancel_task, claim_task, fail_task, freeze_plan, publish,
    release_lock, retry_task, skip_task, start_task, submit,
};
pub use version::{add_form, forget_version, pin, tombstone, unpin};

fn put<T: Record>(key: String, value: &T) -> Op {
    Op::Put { key, value: record::encode(value), lease: None }
}

fn put_leased<T: Record>(key: String, value: &T, lease: LeaseId) -> Op {
    Op::Put { key, value: record::encode(value), lease: Some(lease) }
}

/// Lets a change of topology that was planned before see that an alignment has moved since.
fn put_alignments(keys: &Keys) -> Op {
    Op::Put { key: keys.alignments(), value: bytes::Bytes::new(), lease: None }
}

fn named<'a>(view: &'a View, table: &str) -> Result<&'a Stamped<TableRecord>, Refusal> {
    view.table(table).ok_or_else(|| Refusal::NoTable(table.to_owned()))
}

fn both<'a>(
    view: &'a View,
    table: &str,
    task: TaskId,
) -> Result<(&'a Stamped<TableRecord>, &'a Stamped<TaskRecord>), Refusal> {
    let table = named(view, table)?;
    let found = view.task(table.uid(), task);
    Ok((table, found.ok_or_else(|| Refusal::NoTask { table: table.value.name.clone(), task })?))
}

fn version_of<'a>(
    view: &'a View,
    table: &Stamped<TableRecord>,
    version: Version,
) -> Result<&'a Stamped<VersionRecord>, Refusal> {
    let found = view.version(table.uid(), version);
    found.ok_or_else(|| Refusal::NoVersion { table: table.value.name.clone(), version })
}

fn named_version<'a>(
    view: &'a View,
    table: &str,
    version: Version,
) -> Result<(&'a Stamped<TableRecord>, &'a Stamped<VersionRecord>), Refusal> {
    let table = named(view, table)?;
    Ok((table, version_of(view, table, version)?))
}

/// The version with its count of references bumped, so that a tombstone planned before is refused.
fn referred(version: &VersionRecord) -> VersionRecord {
    VersionRecord { references: version.references.wrapping_add(1), ..version.clone() }
}
