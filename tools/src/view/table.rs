//! Tables.

use std::io::{self, Write};

use fkv_rpc::control;
use serde::Serialize;

use super::{short, some};
use crate::output::{Columns, moment, write_block};

/// A version with its content and the epoch that made it newest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LabelView {
    pub(crate) version: u64,
    pub(crate) content_id: String,
    pub(crate) epoch: u64,
}

impl From<control::Label> for LabelView {
    fn from(label: control::Label) -> Self {
        Self { version: label.version, content_id: label.content_id, epoch: label.epoch }
    }
}

impl LabelView {
    /// `version 3 (epoch 4, content 0123456789ab)`.
    pub(crate) fn text(&self) -> String {
        format!("version {} (epoch {}, content {})", self.version, self.epoch, short(&self.content_id))
    }
}

#[derive(Clone, Debug, Serialize)]
struct RolledBackView {
    to: u64,
    head: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ExclusionView {
    slot: String,
    cause: String,
    since_unix_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
struct QuarantineView {
    after: u64,
    through: u64,
    exempt_content_id: String,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TableView {
    pub(crate) name: String,
    uid: u64,
    kind: String,
    key_type: String,
    value_type: String,
    storage: String,
    f16_overflow: String,
    ttl: bool,
    retain_versions: u32,
    retain_old: String,
    filter: String,
    created_unix_ms: u64,
    head: Option<u64>,
    epoch: u64,
    phase: String,
    rolled_back: Option<RolledBackView>,
    pub(crate) target: Option<LabelView>,
    pub(crate) aligned: Option<LabelView>,
    running_task: Option<u64>,
    queued_tasks: Vec<u64>,
    exclusions: Vec<ExclusionView>,
    quarantine: Vec<QuarantineView>,
}

impl From<control::Table> for TableView {
    fn from(table: control::Table) -> Self {
        Self {
            rolled_back: some(table.rolled_back_to).map(|to| RolledBackView { to, head: table.rolled_back_head }),
            name: table.name,
            uid: table.uid,
            kind: table.kind,
            key_type: table.key_type,
            value_type: table.value_type,
            storage: table.storage,
            f16_overflow: table.f16_overflow,
            ttl: table.ttl,
            retain_versions: table.retain_versions,
            retain_old: table.retain_old,
            filter: table.filter,
            created_unix_ms: table.created_unix_ms,
            head: some(table.head),
            epoch: table.epoch,
            phase: table.phase,
            target: table.target.map(Into::into),
            aligned: table.aligned.map(Into::into),
            running_task: some(table.running_task),
            queued_tasks: table.queued_tasks,
            exclusions: table
                .exclusions
                .into_iter()
                .map(|e| ExclusionView { slot: e.slot, cause: e.cause, since_unix_ms: e.since_unix_ms })
                .collect(),
            quarantine: table
                .quarantine
                .into_iter()
                .map(|q| QuarantineView { after: q.after, through: q.through, exempt_content_id: q.exempt_content_id })
                .collect(),
        }
    }
}

impl TableView {
    fn kind_text(&self) -> String {
        match self.filter.as_str() {
            "" | "none" => self.kind.clone(),
            filter => format!("{}, filter {filter}", self.kind),
        }
    }

    /// Writes everything about one table.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let label = |label: &Option<LabelView>| label.as_ref().map_or_else(|| "none yet".to_owned(), LabelView::text);
        let storage = match self.storage.as_str() {
            "" | "native" => String::new(),
            storage => format!(", stored as {storage} (too large: {})", self.f16_overflow),
        };
        let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        write_block(
            out,
            &[
                ("table", format!("{} (uid {})", self.name, self.uid)),
                ("kind", self.kind_text()),
                ("keys", self.key_type.clone()),
                ("values", format!("{}{storage}{}", self.value_type, if self.ttl { ", with expiry" } else { "" })),
                ("retained", format!("{} versions, the replaced one in {}", self.retain_versions, self.retain_old)),
                ("created", moment(self.created_unix_ms)),
                ("shown", label(&self.aligned)),
                ("target", if self.target == self.aligned { String::new() } else { label(&self.target) }),
                ("head", self.head.map_or_else(|| "none yet".to_owned(), |head| format!("version {head}"))),
                ("epoch", self.epoch.to_string()),
                ("phase", self.phase_text()),
                ("running task", self.running_task.map(|task| task.to_string()).unwrap_or_default()),
                ("queued tasks", numbers(&self.queued_tasks)),
            ],
        )?;
        for range in &self.quarantine {
            match range.after.saturating_add(1) {
                only if only == range.through => writeln!(out, "version {only} is never used again")?,
                first => writeln!(out, "versions {first} to {} are never used again", range.through)?,
            }
        }
        for exclusion in &self.exclusions {
            writeln!(
                out,
                "slot {} is excluded since {}: {}",
                exclusion.slot,
                moment(exclusion.since_unix_ms),
                exclusion.cause
            )?;
        }
        Ok(())
    }

    fn phase_text(&self) -> String {
        match &self.rolled_back {
            Some(pair) => {
                format!("rolled back from version {} to {}: loads are refused until a release", pair.head, pair.to)
            }
            None => self.phase.clone(),
        }
    }
}

/// Writes a line per table.
pub(crate) fn write_tables(tables: &[TableView], out: &mut dyn Write) -> io::Result<()> {
    if tables.is_empty() {
        return writeln!(out, "no tables; make one with `fkv table create`");
    }
    let mut columns =
        Columns::new(&["table", "kind", "keys", "values", ">shown", ">head", ">epoch", "phase", ">tasks"]);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for table in tables {
        columns.row([
            table.name.clone(),
            table.kind.clone(),
            table.key_type.clone(),
            table.value_type.clone(),
            number(table.aligned.as_ref().map(|label| label.version)),
            number(table.head),
            table.epoch.to_string(),
            table.phase.clone(),
            (table.queued_tasks.len() + usize::from(table.running_task.is_some())).to_string(),
        ]);
    }
    columns.write(out)
}
