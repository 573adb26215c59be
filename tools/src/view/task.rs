//! Load tasks.

use std::io::{self, Write};
use std::time::Duration;

use fkv_rpc::control;
use serde::Serialize;

use super::some;
use crate::output::{Columns, bytes, count, counted, duration, moment, write_block};

#[derive(Clone, Debug, Default, Serialize)]
struct SpecView {
    inputs: Vec<String>,
    mode: String,
    format: String,
    key_column: String,
    value_columns: Vec<String>,
    expiry_column: Option<String>,
    delete_column: Option<String>,
    nulls: String,
    duplicates: String,
    max_bad_rows: u64,
    require_success: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
struct StatsView {
    rows_read: u64,
    records: u64,
    duplicates: u64,
    nulls: u64,
    bad_rows: u64,
    expired: u64,
    deleted: u64,
    saturated: u64,
    bytes_read: u64,
    bytes_written: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ErrorView {
    at_unix_ms: u64,
    attempt: u32,
    worker: String,
    message: String,
}

#[derive(Clone, Debug, Serialize)]
struct ProgressView {
    stage: String,
    rows_done: u64,
    rows_total: Option<u64>,
    bytes_done: u64,
    bytes_total: Option<u64>,
    stage_since_unix_ms: u64,
    waiting_for: String,
    jobs_done: u32,
    jobs_running: u32,
    jobs_total: u32,
}

/// A load task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TaskView {
    pub(crate) table: String,
    table_uid: u64,
    pub(crate) task: u64,
    pub(crate) submit_id: String,
    spec: SpecView,
    pub(crate) state: String,
    submitted_unix_ms: u64,
    changed_unix_ms: u64,
    attempt: u32,
    pub(crate) version: Option<u64>,
    stats: StatsView,
    errors: Vec<ErrorView>,
    progress: Option<ProgressView>,
}

impl From<control::Task> for TaskView {
    fn from(task: control::Task) -> Self {
        let spec = task.spec.unwrap_or_default();
        let stats = task.stats.unwrap_or_default();
        Self {
            table: task.table,
            table_uid: task.table_uid,
            task: task.task,
            submit_id: task.submit_id,
            spec: SpecView {
                inputs: spec.inputs,
                mode: spec.mode,
                format: spec.format,
                key_column: spec.key_column,
                value_columns: spec.value_columns,
                expiry_column: Some(spec.expiry_column).filter(|column| !column.is_empty()),
                delete_column: Some(spec.delete_column).filter(|column| !column.is_empty()),
                nulls: spec.nulls,
                duplicates: spec.duplicates,
                max_bad_rows: spec.max_bad_rows,
                require_success: spec.require_success,
            },
            state: task.state,
            submitted_unix_ms: task.submitted_unix_ms,
            changed_unix_ms: task.changed_unix_ms,
            attempt: task.attempt,
            version: some(task.version),
            stats: StatsView {
                rows_read: stats.rows_read,
                records: stats.records,
                duplicates: stats.duplicates,
                nulls: stats.nulls,
                bad_rows: stats.bad_rows,
                expired: stats.expired,
                deleted: stats.deleted,
                saturated: stats.saturated,
                bytes_read: stats.bytes_read,
                bytes_written: stats.bytes_written,
            },
            errors: task
                .errors
                .into_iter()
                .map(|e| ErrorView {
                    at_unix_ms: e.at_unix_ms,
                    attempt: e.attempt,
                    worker: e.worker,
                    message: e.message,
                })
                .collect(),
            progress: task.progress.map(|p| ProgressView {
                stage: p.stage,
                rows_done: p.rows_done,
                rows_total: some(p.rows_total),
                bytes_done: p.bytes_done,
                bytes_total: some(p.bytes_total),
                stage_since_unix_ms: p.stage_since_unix_ms,
                waiting_for: p.waiting_for,
                jobs_done: p.jobs_done,
                jobs_running: p.jobs_running,
                jobs_total: p.jobs_total,
            }),
        }
    }
}

impl TaskView {
    /// Whether the task has ended.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "failed" | "cancelled" | "skipped")
    }

    /// Whether the task's version is shown everywhere.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == "finished"
    }

    /// The newest error, if any.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.errors.last().map(|error| error.message.as_str())
    }

    /// What is being done now, with how much of it is done and the total where it is known.
    pub(crate) fn progress(&self) -> (String, u64, Option<u64>) {
        match &self.progress {
            Some(progress) if !self.is_ended() => {
                let waiting =
                    if progress.waiting_for.is_empty() { String::new() } else { format!(": {}", progress.waiting_for) };
                // Once all rows are read, what follows is not measured in rows.
                let total = progress.rows_total.filter(|&total| progress.rows_done < total);
                let jobs = match progress.jobs_total {
                    0 | 1 => String::new(),
                    total => format!(", {} of {total} jobs done", progress.jobs_done),
                };
                (format!("{}{jobs}{waiting}", progress.stage), progress.rows_done, total)
            }
            _ => (self.state.clone(), 0, None),
        }
    }

    /// One line: where the task stands and what it did.
    pub(crate) fn line(&self) -> String {
        let name = format!("task {} of table {}", self.task, self.table);
        match (self.state.as_str(), self.version) {
            ("finished", Some(version)) => format!(
                "{name} finished: version {version} is shown, {} of {} in {}",
                counted(self.stats.records, "record"),
                counted(self.stats.rows_read, "row"),
                duration(Duration::from_millis(self.changed_unix_ms.saturating_sub(self.submitted_unix_ms))),
            ),
            ("queued", _) => format!("{name} is queued"),
            ("running" | "aligning", _) => format!("{name} is {} ({})", self.state, self.progress().0),
            (state, _) => format!("{name} {state}"),
        }
    }

    /// Writes everything about one task.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let spec = &self.spec;
        let nonzero =
            |number: u64, what: &str| if number == 0 { String::new() } else { format!("{} {what}", count(number)) };
        let dropped: Vec<String> = [
            nonzero(self.stats.duplicates, "duplicates"),
            nonzero(self.stats.nulls, "nulls"),
            nonzero(self.stats.bad_rows, "bad rows"),
            nonzero(self.stats.expired, "expired"),
            nonzero(self.stats.deleted, "deleted"),
            nonzero(self.stats.saturated, "saturated"),
        ]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
        let progress = match self.progress() {
            _ if self.is_ended() || self.progress.is_none() => String::new(),
            (what, done, Some(total)) => format!("{what}, {} of {} rows", count(done), count(total)),
            (what, done, None) => format!("{what}, {} rows", count(done)),
        };
        write_block(
            out,
            &[
                ("task", format!("{} of table {} (uid {})", self.task, self.table, self.table_uid)),
                ("submit id", self.submit_id.clone()),
                ("state", self.state.clone()),
                ("progress", progress),
                ("version", self.version.map(|version| version.to_string()).unwrap_or_default()),
                ("submitted", moment(self.submitted_unix_ms)),
                ("changed", moment(self.changed_unix_ms)),
                ("attempts", self.attempt.to_string()),
                ("input", spec.inputs.join("\n       ")),
                (
                    "columns",
                    format!(
                        "{} -> {}{}{}",
                        spec.key_column,
                        spec.value_columns.join(", "),
                        match &spec.expiry_column {
                            Some(column) => format!(", expiry {column}"),
                            None => String::new(),
                        },
                        match &spec.delete_column {
                            Some(column) => format!(", delete {column}"),
                            None => String::new(),
                        }
                    ),
                ),
                (
                    "rules",
                    format!(
                        "{} {} load, nulls {}, duplicates {}, at most {} bad rows{}",
                        spec.mode,
                        spec.format,
                        spec.nulls,
                        spec.duplicates,
                        spec.max_bad_rows,
                        if spec.require_success { ", with _SUCCESS" } else { "" }
                    ),
                ),
                ("rows read", format!("{} ({})", count(self.stats.rows_read), bytes(self.stats.bytes_read))),
                ("records", format!("{} ({})", count(self.stats.records), bytes(self.stats.bytes_written))),
                ("not records", dropped.join(", ")),
            ],
        )?;
        for error in &self.errors {
            writeln!(
                out,
                "error at {}, attempt {} on {}: {}",
                moment(error.at_unix_ms),
                error.attempt,
                error.worker,
                error.message
            )?;
        }
        Ok(())
    }
}

/// Writes a line per task.
pub(crate) fn write_tasks(tasks: &[TaskView], out: &mut dyn Write) -> io::Result<()> {
    if tasks.is_empty() {
        return writeln!(out, "no tasks");
    }
    let mut columns = Columns::new(&["table", ">task", "state", ">version", ">rows", ">records", "submitted", "note"]);
    for task in tasks {
        let note = match task.last_error() {
            Some(error) => error.lines().next().unwrap_or_default().to_owned(),
            None if task.is_ended() => String::new(),
            None => task.progress().0,
        };
        columns.row([
            task.table.clone(),
            task.task.to_string(),
            task.state.clone(),
            task.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            count(task.stats.rows_read),
            count(task.stats.records),
            moment(task.submitted_unix_ms),
            note,
        ]);
    }
    columns.write(out)
}
