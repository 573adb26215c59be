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

use crate::input::unit::{Unit, UnitKind};

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

impl FrozenFile {
    /// The file as it was listed.
    fn listed(&self) -> InputFile {
        InputFile {
            url_root: self.url_root.clone(),
            path: self.path.clone(),
            len: self.len,
            etag: self.etag.clone(),
            modified_ms: self.modified_ms,
        }
    }
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
    /// What of it.
    pub(crate) extent: Extent,
}

/// How far a span reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Extent {
    /// Row groups of a Parquet file.
    Groups {
        /// The first one.
        first: u32,
        /// The one behind the last one.
        end: u32,
    },
    /// The records that begin in a range of bytes.
    Bytes {
        /// The first byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
    /// A file that is read from its beginning to its end.
    Whole,
}

impl Extent {
    /// That of one unit.
    pub(crate) fn of(kind: &UnitKind) -> Self {
        match *kind {
            UnitKind::RowGroup { number } => {
                let first = u32::try_from(number).unwrap_or(u32::MAX);
                Self::Groups { first, end: first.saturating_add(1) }
            }
            UnitKind::Range { start, end } => Self::Bytes { start, end },
            UnitKind::Whole => Self::Whole,
        }
    }

    /// This one with what comes behind it in the file. Row groups without rows may lie between.
    pub(crate) const fn to(self, next: Self) -> Self {
        match (self, next) {
            (Self::Groups { first, .. }, Self::Groups { end, .. }) => Self::Groups { first, end },
            (Self::Bytes { start, .. }, Self::Bytes { end, .. }) => Self::Bytes { start, end },
            (_, next) => next,
        }
    }

    /// What of a unit of the file lies in it.
    pub(crate) fn cut(&self, unit: &Unit) -> Option<Unit> {
        match (*self, unit.kind) {
            (Self::Groups { first, end }, UnitKind::RowGroup { number }) => {
                u32::try_from(number).is_ok_and(|number| (first..end).contains(&number)).then_some(*unit)
            }
            (Self::Bytes { start, end }, UnitKind::Range { start: from, end: to }) => {
                let (start, end) = (start.max(from), end.min(to));
                (start < end).then(|| Unit { kind: UnitKind::Range { start, end }, bytes: end - start, ..*unit })
            }
            (Self::Whole, UnitKind::Whole) => Some(*unit),
            _ => None,
        }
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
        /// What it reads of which files: all of them that have rows, but of the first and the last one maybe a part.
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

    /// The URL of a file, for messages.
    #[must_use]
    pub(crate) fn url(&self, file: usize) -> String {
        self.files.get(file).map_or_else(String::new, |file| file.listed().url())
    }

    /// The files as they were listed.
    #[must_use]
    pub(crate) fn listed(&self) -> Vec<InputFile> {
        self.files.iter().map(FrozenFile::listed).collect()
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
