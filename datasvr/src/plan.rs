//! The plan of a task: what is read, what is built from it and by which jobs; frozen before the first job runs.
//!
//! ```text
//!   inputs  FrozenInputs  the files in order, each with its length and its tag or time
//!   plan    Plan          origin version, as_of, schema, build profile, jobs
//! ```
//!
//! Both are JSON objects in the store, pinned by the hash in the task's record: every attempt builds the same bytes.

use fkv_formats::id::{TableUid, TaskId, Version};
use fkv_formats::schema::Schema;
use fkv_formats::table::Profile;
use fkv_meta::record::LoadMode;
use fkv_store::InputFile;
use serde::{Deserialize, Serialize};

/// Format version of both objects.
const FORMAT: u32 = 0;

/// Name of the job that builds everything in memory, in the plan made after `retries` retries of the task: a new plan
/// must not find the output of an older one.
fn build_job(retries: u32) -> String {
    if retries == 0 { "build".to_owned() } else { format!("build-{retries}") }
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

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobKind {
    /// Reads all its files into memory and builds all parts.
    Build,
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
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    format: u32,
    /// The table.
    pub(crate) uid: TableUid,
    /// The task.
    pub(crate) task: TaskId,
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
    /// A plan in which one job builds everything in memory; `task` comes with the number of its retries.
    #[must_use]
    pub(crate) fn in_memory(
        uid: TableUid,
        (task, retries): (TaskId, u32),
        version: Version,
        as_of: u32,
        schema: Schema,
        profile: Profile,
        inputs: &FrozenInputs,
    ) -> Self {
        let bytes = inputs.files.iter().map(|file| file.len).sum();
        let job = PlannedJob { name: build_job(retries), kind: JobKind::Build, bytes };
        Self { format: FORMAT, uid, task, version, as_of, mode: LoadMode::Full, schema, profile, jobs: vec![job] }
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
