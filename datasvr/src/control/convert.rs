//! Records as messages, and messages as what a load shall be.

use fkv_formats::id::{Slot, TableUid, Version};
use fkv_meta::record::{
    Duplicates, Filter, FormKind, InputFormat, Label, LoadMode, LoadSpec, NullPolicy, Progress, RetainOld, SectState,
    TablePhase, TableRecord, TaskRecord, TaskState, VersionKind, VersionRecord, VersionState,
};
use fkv_meta::state::is_quarantined;
use fkv_rpc::control as rpc;
use tonic::Status;

use super::failure::{bad_request, unsupported};

fn label(label: &Label) -> rpc::Label {
    rpc::Label { version: label.version.0, content_id: label.content.to_string(), epoch: label.epoch.0 }
}

pub(super) fn table(uid: TableUid, table: &TableRecord) -> rpc::Table {
    let (phase, rolled_back_to, rolled_back_head) = match table.phase {
        TablePhase::Normal => ("normal", Version(0), Version(0)),
        TablePhase::RolledBack { to, head } => ("rolled_back", to, head),
    };
    rpc::Table {
        name: table.name.clone(),
        uid: uid.0,
        kind: table.schema.kind.to_string(),
        key_type: table.schema.key.to_string(),
        value_type: table.schema.value.to_string(),
        storage: table.schema.storage.to_string(),
        f16_overflow: table.schema.f16_overflow.to_string(),
        ttl: table.schema.ttl,
        retain_versions: table.retain_versions,
        retain_old: match table.retain_old {
            RetainOld::Ram => "ram".to_owned(),
            RetainOld::Disk => "disk".to_owned(),
        },
        filter: match table.filter {
            Filter::None => "none".to_owned(),
            Filter::Fuse8 => "fuse8".to_owned(),
        },
        created_unix_ms: table.created_ms,
        head: table.head.0,
        epoch: table.epoch.0,
        phase: phase.to_owned(),
        rolled_back_to: rolled_back_to.0,
        rolled_back_head: rolled_back_head.0,
        target: table.target.as_ref().map(label),
        aligned: table.aligned.as_ref().map(label),
        running_task: table.running.map_or(0, |task| task.0),
        queued_tasks: table.queue.iter().map(|task| task.0).collect(),
        exclusions: table
            .exclusions
            .iter()
            .map(|(slot, exclusion)| rpc::Exclusion {
                slot: slot.to_string(),
                cause: exclusion.cause.clone(),
                since_unix_ms: exclusion.since_ms,
            })
            .collect(),
        quarantine: table
            .quarantine
            .iter()
            .map(|range| rpc::Quarantine {
                after: range.after.0,
                through: range.through.0,
                exempt_content_id: range.exempt.to_string(),
            })
            .collect(),
    }
}

pub(super) const fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Queued => "queued",
        TaskState::Running => "running",
        TaskState::Aligning => "aligning",
        TaskState::Finished => "finished",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::Skipped => "skipped",
    }
}

fn spec(spec: &LoadSpec) -> rpc::LoadSpec {
    rpc::LoadSpec {
        inputs: spec.inputs.clone(),
        mode: match spec.mode {
            LoadMode::Full => "full".to_owned(),
            LoadMode::Incremental => "incremental".to_owned(),
        },
        format: spec.format.name().to_owned(),
        key_column: spec.key_column.clone(),
        value_columns: spec.value_columns.clone(),
        expiry_column: spec.expiry_column.clone().unwrap_or_default(),
        nulls: match spec.nulls {
            NullPolicy::Skip => "skip".to_owned(),
            NullPolicy::Zero => "zero".to_owned(),
        },
        duplicates: match spec.duplicates {
            Duplicates::Last => "last".to_owned(),
            Duplicates::First => "first".to_owned(),
            Duplicates::Error => "error".to_owned(),
        },
        max_bad_rows: spec.max_bad_rows,
        require_success: spec.require_success,
        delete_column: spec.delete_column.clone().unwrap_or_default(),
    }
}

/// What a message asks to be loaded.
pub(super) fn load_spec(message: rpc::LoadSpec) -> Result<LoadSpec, Status> {
    let unknown = |field: &str, value: &str, expected: &str| {
        let value: String = value.chars().take(100).collect();
        bad_request(format!("unknown value `{value}` for {field}: expected {expected}"))
    };
    match message.mode.as_str() {
        "full" | "" => {}
        "incremental" => {
            return Err(unsupported("incremental loads are not built in this release: use mode full"));
        }
        other => return Err(unknown("mode", other, "`full` or `incremental`")),
    }
    let format = match message.format.as_str() {
        "parquet" | "" => InputFormat::Parquet,
        "csv" => InputFormat::Csv,
        "tsv" => InputFormat::Tsv,
        "jsonl" => InputFormat::Jsonl,
        other => return Err(unknown("format", other, "`parquet`, `csv`, `tsv` or `jsonl`")),
    };
    let nulls = match message.nulls.as_str() {
        "skip" | "" => NullPolicy::Skip,
        "zero" => NullPolicy::Zero,
        other => return Err(unknown("nulls", other, "`skip` or `zero`")),
    };
    let duplicates = match message.duplicates.as_str() {
        "last" | "" => Duplicates::Last,
        "first" => Duplicates::First,
        "error" => Duplicates::Error,
        other => return Err(unknown("duplicates", other, "`last`, `first` or `error`")),
    };
    Ok(LoadSpec {
        inputs: message.inputs,
        mode: LoadMode::Full,
        format,
        key_column: message.key_column,
        value_columns: message.value_columns,
        expiry_column: (!message.expiry_column.is_empty()).then_some(message.expiry_column),
        delete_column: (!message.delete_column.is_empty()).then_some(message.delete_column),
        nulls,
        duplicates,
        max_bad_rows: message.max_bad_rows,
        require_success: message.require_success,
    })
}

pub(super) fn task(uid: TableUid, task: &TaskRecord, progress: Option<&Progress>) -> rpc::Task {
    let stats = &task.stats;
    rpc::Task {
        table: task.table.clone(),
        table_uid: uid.0,
        task: task.task.0,
        submit_id: task.submit_id.clone(),
        spec: Some(spec(&task.spec)),
        state: state(task.state).to_owned(),
        submitted_unix_ms: task.submitted_ms,
        changed_unix_ms: task.changed_ms,
        attempt: task.attempt,
        version: task.version.map_or(0, |version| version.0),
        stats: Some(rpc::TaskStats {
            rows_read: stats.rows_read,
            records: stats.records,
            duplicates: stats.duplicates,
            nulls: stats.nulls,
            bad_rows: stats.bad_rows,
            expired: stats.expired,
            saturated: stats.saturated,
            bytes_read: stats.bytes_read,
            bytes_written: stats.bytes_written,
            deleted: stats.deleted,
        }),
        errors: task
            .errors
            .iter()
            .map(|error| rpc::TaskError {
                at_unix_ms: error.at_ms,
                attempt: error.attempt,
                worker: error.worker.clone(),
                message: error.message.clone(),
            })
            .collect(),
        progress: progress.map(|progress| rpc::TaskProgress {
            stage: progress.stage.clone(),
            rows_done: progress.rows_done,
            rows_total: progress.rows_total.unwrap_or(0),
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            stage_since_unix_ms: progress.stage_since_ms,
            waiting_for: if task.state.is_terminal() { String::new() } else { progress.waiting_for.clone() },
            jobs_done: progress.jobs_done,
            jobs_running: progress.jobs_running,
            jobs_total: progress.jobs_total,
        }),
    }
}

pub(super) fn version(table: &TableRecord, version: &VersionRecord) -> rpc::Version {
    let (kind, of) = match version.kind {
        VersionKind::Full => ("full", Version(0)),
        VersionKind::Increment { base } => ("increment", base),
        VersionKind::Release { of } => ("release", of),
    };
    let is = |label: Option<Label>| label.is_some_and(|label| label.version == version.version);
    rpc::Version {
        version: version.version.0,
        content_id: version.content.to_string(),
        kind: kind.to_owned(),
        of: of.0,
        state: match version.state {
            VersionState::Live => "live".to_owned(),
            VersionState::Tombstoned => "tombstoned".to_owned(),
        },
        as_of_unix_s: u64::from(version.as_of),
        task: version.task.map_or(0, |task| task.0),
        created_unix_ms: version.created_ms,
        rows: version.rows,
        bytes: version.bytes,
        forms: version
            .forms
            .iter()
            .map(|form| rpc::Form {
                kind: match form.kind {
                    FormKind::Chain => "chain".to_owned(),
                    FormKind::Full => "full".to_owned(),
                },
                path: form.object.path.clone(),
                bytes: form.object.len,
                sha256: form.object.sha256.to_string(),
            })
            .collect(),
        pins: version.pins.clone(),
        is_head: table.head == version.version,
        is_target: is(table.target),
        is_aligned: is(table.aligned),
        quarantined: is_quarantined(table, version.version, version.content),
    }
}

pub(super) const fn sect_state(state: SectState) -> &'static str {
    match state {
        SectState::Joining => "joining",
        SectState::Active => "active",
        SectState::Shielded => "shielded",
        SectState::Retired => "retired",
    }
}

pub(super) fn slots(slots: impl Iterator<Item = Slot>) -> Vec<String> {
    slots.map(|slot| slot.to_string()).collect()
}
