//! Versions.

use std::io::{self, Write};

use fkv_rpc::control;
use serde::Serialize;

use super::{short, some};
use crate::output::{Columns, bytes, count, moment, write_block};

#[derive(Clone, Debug, Serialize)]
struct FormView {
    kind: String,
    path: String,
    bytes: u64,
    sha256: String,
}

/// A version of a table.
#[derive(Clone, Debug, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field of the JSON")]
pub(crate) struct VersionView {
    pub(crate) version: u64,
    pub(crate) content_id: String,
    kind: String,
    of: Option<u64>,
    state: String,
    as_of_unix_s: u64,
    task: Option<u64>,
    created_unix_ms: u64,
    rows: u64,
    bytes: u64,
    forms: Vec<FormView>,
    pins: Vec<String>,
    is_head: bool,
    is_target: bool,
    is_aligned: bool,
    pub(crate) quarantined: bool,
}

impl From<control::Version> for VersionView {
    fn from(version: control::Version) -> Self {
        Self {
            version: version.version,
            content_id: version.content_id,
            kind: version.kind,
            of: some(version.of),
            state: version.state,
            as_of_unix_s: version.as_of_unix_s,
            task: some(version.task),
            created_unix_ms: version.created_unix_ms,
            rows: version.rows,
            bytes: version.bytes,
            forms: version
                .forms
                .into_iter()
                .map(|form| FormView { kind: form.kind, path: form.path, bytes: form.bytes, sha256: form.sha256 })
                .collect(),
            pins: version.pins,
            is_head: version.is_head,
            is_target: version.is_target,
            is_aligned: version.is_aligned,
            quarantined: version.quarantined,
        }
    }
}

impl VersionView {
    fn kind_text(&self) -> String {
        match (self.kind.as_str(), self.of) {
            ("increment", Some(base)) => format!("increment on {base}"),
            ("release", Some(of)) => format!("release of {of}"),
            (kind, _) => kind.to_owned(),
        }
    }

    /// What the version is to its table: shown, target, head, …
    fn marks(&self) -> String {
        let marks = [
            (self.is_aligned, "shown"),
            (self.is_target && !self.is_aligned, "target"),
            (self.is_head, "head"),
            (self.quarantined, "quarantined"),
            (self.state != "live", self.state.as_str()),
        ];
        marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect::<Vec<_>>().join(", ")
    }

    /// Writes everything about one version.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write_block(
            out,
            &[
                ("version", self.version.to_string()),
                ("content", self.content_id.clone()),
                ("kind", self.kind_text()),
                ("marks", self.marks()),
                ("task", self.task.map(|task| task.to_string()).unwrap_or_default()),
                ("created", moment(self.created_unix_ms)),
                ("as of", moment(self.as_of_unix_s.saturating_mul(1000))),
                ("records", count(self.rows)),
                ("size", bytes(self.bytes)),
                ("pins", self.pins.join(", ")),
            ],
        )?;
        for form in &self.forms {
            writeln!(out, "{} form: {} ({}, sha256 {})", form.kind, form.path, bytes(form.bytes), short(&form.sha256))?;
        }
        Ok(())
    }
}

/// Writes a line per version.
pub(crate) fn write_versions(versions: &[VersionView], out: &mut dyn Write) -> io::Result<()> {
    if versions.is_empty() {
        return writeln!(out, "no versions yet; load one with `fkv submit-load-task`");
    }
    let mut columns = Columns::new(&[">version", "content", "kind", ">records", ">size", ">task", "created", "marks"]);
    for version in versions {
        columns.row([
            version.version.to_string(),
            short(&version.content_id).to_owned(),
            version.kind_text(),
            count(version.rows),
            bytes(version.bytes),
            version.task.map_or_else(|| "-".to_owned(), |task| task.to_string()),
            moment(version.created_unix_ms),
            version.marks(),
        ]);
    }
    columns.write(out)
}
