//! The plan of a task: what is read, what is built from it and by which jobs; frozen before the first job runs.
//!
//! ```text
//!   inputs  FrozenInputs  the files in order, each with its length and its tag or time
//!   plan    Plan          origin version, as_of, schema, build profile, jobs
//!
//!   jobs    small input   build                                          reads everything, builds everything
//!           otherwise     slice 0, slice 1 … ─▶ part 0–49, part 50–99 …  each reads a stretch, then each builds a range
//! ```
//!
//! Both are JSON objects in the store, pinned by the hash in the task's record: every attempt builds the same bytes.

pub(crate) mod size;

use std::ops::Range;

use fkv_formats::id::{TableUid, TaskId, Version};
use fkv_formats::schema::Schema;
use fkv_formats::table::Profile;
use fkv_meta::record::LoadMode;
use fkv_store::InputFile;
use serde::{Deserialize, Serialize};

use crate::input::unit::UnitKind;

/// Format version of both objects.
const FORMAT: u32 = 0;

/// Name of a job in the plan made after `retries` retries of the task: a new plan must not find the output of an older one.
fn job_name(name: String, retries: u32) -> String {
    if retries == 0 { name } else { format!("{name}-r{retries}") }
}

/// One file of the frozen list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenFile {
    /// URL of the store that the path is relative to.
    pub(crate) url_root: String,
    /// Path below it.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) len: u64,
    /// The store's tag of the content.
    #[serde(default)]
    pub(crate) etag: Option<String>,
    /// Time of the last change, in Unix milliseconds.
    pub(crate) modified_ms: u64,
}

/// The frozen input list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenInputs {
    format: u32,
    /// The files, in the order that decides between duplicates.
    pub(crate) files: Vec<FrozenFile>,
}

/// A stretch of one file: units that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// The file's place in the frozen list.
    pub(crate) file: u32,
    /// The first row group.
    pub(crate) first_group: u32,
    /// The row group behind the last one.
    pub(crate) end_group: u32,
}

impl Span {
    /// Whether a unit of the file is in it.
    pub(crate) fn holds(&self, kind: &UnitKind) -> bool {
        let UnitKind::RowGroup { number } = kind;
        u32::try_from(*number).is_ok_and(|number| (self.first_group..self.end_group).contains(&number))
    }
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobKind {
    /// Reads all files and builds all parts.
    Build,
    /// Reads a stretch of the input and writes a slice.
    Slice {
        /// Number of the slice, in the order of the input.
        number: u32,
        /// What it reads: files that follow each other, all but the first and the last one whole.
        input: Vec<Span>,
    },
    /// Builds parts from all slices.
    Part {
        /// The first part.
        first: u16,
        /// The part behind the last one.
        end: u16,
    },
}

/// When a job's turn comes: all jobs of a stage before those of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum JobStage {
    /// Jobs that read input.
    First,
    /// Jobs that read slices.
    Second,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedJob {
    /// Its name, as in its key.
    pub(crate) name: String,
    /// What it does.
    pub(crate) kind: JobKind,
    /// Bytes of its input.
    pub(crate) bytes: u64,
    /// Rows of its input, as far as known.
    #[serde(default)]
    pub(crate) rows: u64,
}

impl PlannedJob {
    /// When its turn comes.
    #[must_use]
    pub(crate) const fn stage(&self) -> JobStage {
        match self.kind {
            JobKind::Build | JobKind::Slice { .. } => JobStage::First,
            JobKind::Part { .. } => JobStage::Second,
        }
    }

    /// The files it reads, by their places in the frozen list; all if the range is `None`.
    #[must_use]
    pub(crate) fn files(&self) -> Option<Range<usize>> {
        match &self.kind {
            JobKind::Build => None,
            JobKind::Part { .. } => Some(0..0),
            JobKind::Slice { input, .. } => {
                let place = |span: &Span| usize::try_from(span.file).unwrap_or(usize::MAX);
                Some(input.first().map_or(0, place)..input.last().map_or(0, |span| place(span).saturating_add(1)))
            }
        }
    }
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    format: u32,
    /// The table.
    pub(crate) uid: TableUid,
    /// The task.
    pub(crate) task: TaskId,
    /// How often the task had been retried when the plan was made.
    #[serde(default)]
    pub(crate) retries: u32,
    /// The version to be built: the head when the plan was made, plus 1. Checksums of its parts are seeded with it.
    pub(crate) version: Version,
    /// Records that expire at or before this Unix second are left out.
    pub(crate) as_of: u32,
    /// Full or incremental.
    pub(crate) mode: LoadMode,
    /// The schema the version is built under.
    pub(crate) schema: Schema,
    /// How parts are built.
    pub(crate) profile: Profile,
    /// The jobs.
    pub(crate) jobs: Vec<PlannedJob>,
}

impl FrozenInputs {
    /// The list of `files`, in their order.
    #[must_use]
    pub(crate) fn new(files: &[InputFile]) -> Self {
        let files = files
            .iter()
            .map(|file| FrozenFile {
                url_root: file.url_root.clone(),
                path: file.path.clone(),
                len: file.len,
                etag: file.etag.clone(),
                modified_ms: file.modified_ms,
            })
            .collect();
        Self { format: FORMAT, files }
    }

    /// The files as they were listed.
    #[must_use]
    pub(crate) fn listed(&self) -> Vec<InputFile> {
        self.files
            .iter()
            .map(|file| InputFile {
                url_root: file.url_root.clone(),
                path: file.path.clone(),
                len: file.len,
                etag: file.etag.clone(),
                modified_ms: file.modified_ms,
            })
            .collect()
    }
}

impl Plan {
    /// A plan with these jobs; `task` comes with the number of its retries.
    #[must_use]
    pub(crate) fn new(
        uid: TableUid,
        (task, retries): (TaskId, u32),
        version: Version,
        as_of: u32,
        schema: Schema,
        profile: Profile,
        jobs: Vec<PlannedJob>,
    ) -> Self {
        Self { format: FORMAT, uid, task, retries, version, as_of, mode: LoadMode::Full, schema, profile, jobs }
    }
}

/// The format version of a JSON object of ours, checked before anything else is trusted.
pub(crate) trait Formatted {
    /// The format version read.
    fn format(&self) -> u32;
}

impl Formatted for FrozenInputs {
    fn format(&self) -> u32 {
        self.format
    }
}

impl Formatted for Plan {
    fn format(&self) -> u32 {
        self.format
    }
}

/// The bytes of such an object.
pub(crate) fn to_json<T: Serialize>(object: &T) -> Vec<u8> {
    serde_json::to_vec(object).expect("our own objects always serialise")
}

/// Reads such an object back.
///
/// # Errors
/// A sentence that says what is wrong with the bytes.
pub(crate) fn from_json<T: for<'a> Deserialize<'a> + Formatted>(bytes: &[u8]) -> Result<T, String> {
    let object: T = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if object.format() != FORMAT {
        return Err(format!("format {} is unknown, this build reads {FORMAT}", object.format()));
    }
    Ok(object)
}
