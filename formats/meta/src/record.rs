//! Every metadata value. Records are JSON objects with a format version `v`, so that an operator can read them with
//! any etcd client and old ones stay readable: a field added later has a default, a changed meaning raises `v`.

use std::collections::BTreeMap;

use bytes::Bytes;
use fkv_formats::id::{ContentId, Digest, Epoch, Role, Slot, TableUid, TaskId, Version};
use fkv_formats::schema::Schema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A value that can stand under a metadata key.
pub trait Record: Serialize + DeserializeOwned {
    /// The newest format version this build writes; it reads all up to this one.
    const FORMAT: u32;
    /// The noun for error messages.
    const NOUN: &'static str;
}

/// A stored value that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {noun} record cannot be read: {reason}")]
pub struct BadRecord {
    /// What kind of record it should be.
    pub noun: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Serialize)]
struct Writing<'a, T> {
    v: u32,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct FormatOnly {
    v: u32,
}

/// The stored bytes of `record`.
#[must_use]
pub fn encode<T: Record>(record: &T) -> Bytes {
    let bytes = serde_json::to_vec(&Writing { v: T::FORMAT, record }).expect("our own records always serialise");
    Bytes::from(bytes)
}

/// Reads a record back.
///
/// # Errors
/// [`BadRecord`] if the bytes are not such a record, or of a newer format than this build knows.
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, BadRecord> {
    let bad = |reason: String| BadRecord { noun: T::NOUN, reason };
    let format: FormatOnly = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if format.v == 0 || format.v > T::FORMAT {
        return Err(bad(format!("format {} is unknown, this build reads 1 to {}", format.v, T::FORMAT)));
    }
    serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))
}

macro_rules! records {
    ($($name:ident => $noun:literal),+ $(,)?) => {
        $(impl Record for $name {
            const FORMAT: u32 = 1;
            const NOUN: &'static str = $noun;
        })+
    };
}

records! {
    Topology => "topology",
    TableRecord => "table",
    DroppedTable => "dropped table",
    VersionRecord => "version",
    TaskRecord => "task",
    SubmitRecord => "submit",
    JobRecord => "job",
    LockRecord => "lock",
    Progress => "progress",
    SlotClaim => "slot claim",
    Report => "report",
    WorkerRecord => "worker",
}

/// An object in the store, pinned by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Path below the store's root.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of the bytes.
    pub sha256: Digest,
}

/// What a table shows or shall show: one version with its content and the epoch that made it newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The version.
    pub version: Version,
    /// Its content.
    pub content: ContentId,
    /// The epoch of the commit, rollback or release.
    pub epoch: Epoch,
}

/// Whether a table follows its head or was rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum TablePhase {
    /// Commits are allowed; the target is the head.
    #[default]
    Normal,
    /// Rolled back: commits are refused until a release.
    RolledBack {
        /// The version shown instead.
        to: Version,
        /// The head at the first rollback; `(to, head]` is quarantined by a release.
        head: Version,
    },
}

/// Why and since when a slot is excluded for a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The cause, as a sentence.
    pub cause: String,
    /// When, in Unix milliseconds.
    pub since_ms: u64,
}

/// Sects that may show content that is not aligned, to requests flagged canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The epoch of the canary content.
    pub epoch: Epoch,
    /// The canary content.
    pub content: ContentId,
    /// The sects that may show it.
    pub sects: Vec<String>,
}

/// Versions in `(after, through]` never become a base, a pin or a rollback's goal, unless their content is `exempt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Exclusive lower end.
    pub after: Version,
    /// Inclusive upper end.
    pub through: Version,
    /// Content that stays usable although it lies in the range.
    pub exempt: ContentId,
}

/// What a server keeps of the image that a flip replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetainOld {
    /// The image stays in memory: a rollback is a pointer flip.
    #[default]
    Ram,
    /// Only its local files stay: a rollback reloads them.
    Disk,
}

/// How a server tells absent keys of a `blk` table without reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// It reads the block where the key would be.
    #[default]
    None,
    /// A binary fuse filter of 8-bit fingerprints in memory: about 9 bits per key, and one absent key in 256 is read for.
    Fuse8,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its name, as in its key.
    pub name: String,
    /// Its declared schema.
    pub schema: Schema,
    /// How many versions stay in the store beside those in use; at least 1.
    pub retain_versions: u32,
    /// What servers keep of a replaced image.
    #[serde(default)]
    pub retain_old: RetainOld,
    /// The filter that its versions are built with.
    #[serde(default)]
    pub filter: Filter,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// The newest committed version; 0 before the first.
    #[serde(default)]
    pub head: Version,
    /// The newest epoch; 0 before the first commit.
    #[serde(default)]
    pub epoch: Epoch,
    /// Normal or rolled back.
    #[serde(default)]
    pub phase: TablePhase,
    /// What servers shall load.
    #[serde(default)]
    pub target: Option<Label>,
    /// What servers show.
    #[serde(default)]
    pub aligned: Option<Label>,
    /// What servers showed before `aligned` with another content: the default goal of a rollback.
    #[serde(default)]
    pub previous: Option<Label>,
    /// The number the next task gets.
    pub next_task: TaskId,
    /// Tasks waiting, oldest first.
    #[serde(default)]
    pub queue: Vec<TaskId>,
    /// The one task that runs or aligns.
    #[serde(default)]
    pub running: Option<TaskId>,
    /// A failed increment that blocks later increments.
    #[serde(default)]
    pub blocked_by: Option<TaskId>,
    /// The newest full load committed; increments submitted before it are overtaken and never start.
    #[serde(default)]
    pub last_full: TaskId,
    /// Set when an alignment failed with nothing aligned before: only a full load may follow.
    #[serde(default)]
    pub full_required: bool,
    /// Slots that are not required for this table and get no reads for it.
    #[serde(default)]
    pub exclusions: BTreeMap<Slot, Exclusion>,
    /// The canary, if one is set.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// Ranges never to be used again.
    #[serde(default)]
    pub quarantine: Vec<Quarantine>,
}

impl TableRecord {
    /// The most tasks that may wait.
    pub const QUEUE_MAX: usize = 64;
}

/// A table that was dropped: what GC has still to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedTable {
    /// Its name then.
    pub name: String,
    /// When, in Unix milliseconds.
    pub dropped_ms: u64,
}

/// How a version came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum VersionKind {
    /// A full load.
    Full,
    /// An increment on a base.
    Increment {
        /// The version it builds on.
        base: Version,
    },
    /// A release: the content of an older version under a new number.
    Release {
        /// The version whose content it is.
        of: Version,
    },
}

/// Whether a version may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Its objects are durable; it may be loaded and referred to.
    Live,
    /// GC has marked it; its objects go after a grace.
    Tombstoned,
}

/// How a version is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormKind {
    /// A full form plus increments.
    Chain,
    /// One full layer.
    Full,
}

/// A form of a version: an object that lists its layers (`fkv_formats::manifest`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormRef {
    /// Chain or full.
    pub kind: FormKind,
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number, as in its key.
    pub version: Version,
    /// What it answers.
    pub content: ContentId,
    /// How it came to be.
    pub kind: VersionKind,
    /// Live or on its way out.
    pub state: VersionState,
    /// The schema it was built under.
    pub schema: Schema,
    /// Records that expire at or before this Unix second are absent.
    pub as_of: u32,
    /// The task that built it; none for a release.
    #[serde(default)]
    pub task: Option<TaskId>,
    /// When it was committed, in Unix milliseconds.
    pub created_ms: u64,
    /// Records.
    pub rows: u64,
    /// Bytes of its parts in the store.
    pub bytes: u64,
    /// How it is stored; at least one.
    pub forms: Vec<FormRef>,
    /// Named pins that keep it from GC.
    #[serde(default)]
    pub pins: Vec<String>,
    /// Bumped whenever something else comes to refer to it.
    #[serde(default)]
    pub references: u64,
}

impl VersionRecord {
    /// The most pins of one version.
    pub const PINS_MAX: usize = 32;
    /// The most forms of one version.
    pub const FORMS_MAX: usize = 8;
}

/// Full load or increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadMode {
    /// Replaces everything.
    Full,
    /// Upserts and deletes on the newest version.
    Incremental,
}

/// Format of the input files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputFormat {
    /// Apache Parquet.
    Parquet,
    /// Text: a header, then a record a line, fields separated by commas.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Text: a JSON object a line.
    Jsonl,
}

impl InputFormat {
    /// Its name in metadata, in the control API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
        }
    }
}

/// What a null value in the input means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NullPolicy {
    /// No record for the key.
    #[default]
    Skip,
    /// A zero (or an empty byte string) in its place.
    Zero,
}

/// Which of several rows with one key wins within a task, by the order of the frozen input list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// The last.
    #[default]
    Last,
    /// The first.
    First,
    /// None: the task fails.
    Error,
}

/// What a user asks to be loaded. Equal specs of one submit id are one task: they are compared by the SHA-256 of their
/// JSON, so that a field added later must be left out of it while it has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// Input URLs: files, directories or globs.
    pub inputs: Vec<String>,
    /// Full or incremental.
    pub mode: LoadMode,
    /// Format of the files.
    pub format: InputFormat,
    /// Name of the key column.
    pub key_column: String,
    /// Names of the value columns: one, or one per dimension.
    pub value_columns: Vec<String>,
    /// Name of the column of expiry times (Unix seconds), if any.
    #[serde(default)]
    pub expiry_column: Option<String>,
    /// Name of the column that says which rows delete their key, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_column: Option<String>,
    /// What a null value means.
    #[serde(default)]
    pub nulls: NullPolicy,
    /// Which of several rows with one key wins.
    #[serde(default)]
    pub duplicates: Duplicates,
    /// How many bad rows the task tolerates.
    #[serde(default)]
    pub max_bad_rows: u64,
    /// Whether all folders of input must say that they are complete, by a `_SUCCESS` in them or above.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_success: bool,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its table.
    Queued,
    /// Its jobs run.
    Running,
    /// Its version is committed; servers load it.
    Aligning,
    /// Its version is shown everywhere.
    Finished,
    /// It gave up; nothing of it is shown.
    Failed,
    /// It was cancelled before its version was committed.
    Cancelled,
    /// A failed increment that was given up on purpose.
    Skipped,
}

impl TaskState {
    /// Whether the task has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled | Self::Skipped)
    }
}

/// One error of a task or job, kept for the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Which worker.
    pub worker: String,
    /// What went wrong and what to do.
    pub message: String,
}

/// Counts of a finished build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildStats {
    /// Rows read.
    pub rows_read: u64,
    /// Records written.
    pub records: u64,
    /// Rows that a later (or earlier) row with the same key replaced.
    pub duplicates: u64,
    /// Rows without a value.
    pub nulls: u64,
    /// Rows that could not be used.
    pub bad_rows: u64,
    /// Records dropped because they had expired by `as_of`.
    pub expired: u64,
    /// Keys left out because the row that won deletes them.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub deleted: u64,
    /// Values saturated on narrowing.
    pub saturated: u64,
    /// Input bytes.
    pub bytes_read: u64,
    /// Output bytes.
    pub bytes_written: u64,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its number, as in its key.
    pub task: TaskId,
    /// The table's name, for people.
    pub table: String,
    /// The submit id that stands for it.
    pub submit_id: String,
    /// What to load.
    pub spec: LoadSpec,
    /// Where it stands.
    pub state: TaskState,
    /// When it was submitted, in Unix milliseconds.
    pub submitted_ms: u64,
    /// When its state last changed, in Unix milliseconds.
    pub changed_ms: u64,
    /// Records that expire at or before this Unix second are left out; fixed when the plan is made.
    #[serde(default)]
    pub as_of: Option<u32>,
    /// The frozen input list.
    #[serde(default)]
    pub inputs: Option<ObjectRef>,
    /// The plan.
    #[serde(default)]
    pub plan: Option<ObjectRef>,
    /// How often the task itself was claimed.
    #[serde(default)]
    pub attempt: u32,
    /// How many of these attempts ended with an error, since the task was queued last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// How often it was queued again after it had failed; each time brings new attempts.
    #[serde(default)]
    pub retries: u32,
    /// The version it committed.
    #[serde(default)]
    pub version: Option<Version>,
    /// Counts of its build.
    #[serde(default)]
    pub stats: BuildStats,
    /// The last errors, newest last; at most [`TaskRecord::ERRORS_MAX`].
    #[serde(default)]
    pub errors: Vec<TaskError>,
}

impl TaskRecord {
    /// How many errors a task keeps.
    pub const ERRORS_MAX: usize = 16;
    /// How many bytes of an error's message are kept.
    pub const ERROR_BYTES_MAX: usize = 4096;
    /// How many errors of its own a task may have before it fails, and each job of its plan; a retry allows as many again,
    /// of a new plan.
    pub const ATTEMPTS: u32 = 4;
    /// How often a task may be claimed for one plan, whatever became of those who did: workers come and go, but a task
    /// must not go through workers for ever.
    pub const CLAIMS: u32 = 64;

    /// The number of the last attempt that may be made of this task.
    #[must_use]
    pub const fn attempts_max(&self) -> u32 {
        Self::CLAIMS.saturating_mul(self.retries.saturating_add(1))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

/// What a submit id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitRecord {
    /// The task.
    pub task: TaskId,
    /// SHA-256 of the spec's JSON: the same id with another spec is a conflict.
    pub spec_sha256: Digest,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum JobState {
    /// Claimed at least once, not done.
    Open,
    /// Done.
    Done {
        /// Its output.
        output: ObjectRef,
    },
    /// Out of attempts.
    Failed,
}

/// A job of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Where it stands.
    pub state: JobState,
    /// How often it was claimed.
    pub attempt: u32,
    /// The last errors, newest last; at most [`TaskRecord::ERRORS_MAX`].
    #[serde(default)]
    pub errors: Vec<TaskError>,
}

impl JobRecord {
    /// How often a job may be claimed. One that ends its workers without a word, by using up their memory for instance, must
    /// not do so for ever.
    pub const CLAIMS: u32 = 16;

    /// Whether no further attempt may be made.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.attempt >= Self::CLAIMS || self.errors.len() >= TaskRecord::ATTEMPTS as usize
    }
}

/// The lock of a job or task; leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The worker that holds it.
    pub worker: String,
    /// The attempt it stands for.
    pub attempt: u32,
}

/// How far a task is; written often, never compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The stage: `plan`, `build`, `slice`, `part`, `publish` or `align`.
    pub stage: String,
    /// Rows read so far.
    pub rows_done: u64,
    /// Rows in all, as far as known.
    pub rows_total: Option<u64>,
    /// Input bytes read so far.
    pub bytes_done: u64,
    /// Input bytes in all.
    pub bytes_total: u64,
    /// When the stage began, in Unix milliseconds.
    pub stage_since_ms: u64,
    /// When this was written, in Unix milliseconds.
    pub at_ms: u64,
    /// What the stage waits for, as a sentence; empty if nothing.
    #[serde(default)]
    pub waiting_for: String,
    /// Jobs of the stage that are done.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jobs_done: u32,
    /// Jobs of the stage at work.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jobs_running: u32,
    /// Jobs of the stage.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jobs_total: u32,
}

/// A server's claim of a slot; leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClaim {
    /// The server's id, as in the topology.
    pub server: String,
    /// The address it serves on.
    pub addr: String,
}

/// One content a slot holds whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The content.
    pub content: ContentId,
    /// A version that has it.
    pub version: Version,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The claim's create revision: the report counts while that claim exists.
    pub incarnation: u64,
    /// The topology generation it was made under.
    pub generation: u64,
    /// Per table, the contents held whole; at most two.
    pub tables: BTreeMap<TableUid, Vec<Held>>,
    /// Per table that cannot be loaded, why.
    #[serde(default)]
    pub problems: BTreeMap<TableUid, String>,
}

/// A worker's presence; leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The address of its control API.
    pub addr: String,
    /// When it started, in Unix milliseconds.
    pub started_ms: u64,
}

/// Whether a sect takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectState {
    /// Loads, but is neither required nor routed to.
    Joining,
    /// Required and routed to.
    Active,
    /// Taken out by an operator: neither required nor routed to, but kept.
    Shielded,
    /// On its way out.
    Retired,
}

/// Which server holds a slot, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The server's id.
    pub server: String,
    /// `host:port` of its gRPC service.
    pub addr: String,
}

/// A sect: a full replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sect {
    /// Whether it takes part.
    pub state: SectState,
    /// The server of each role; the length is the number of roles, fixed for the sect's life.
    pub slots: Vec<Assignment>,
}

/// The durable topology of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Bumped by every change.
    pub generation: u64,
    /// The sects by name.
    pub sects: BTreeMap<String, Sect>,
}

impl Topology {
    /// Which server holds a slot; `None` if there is no such slot.
    #[must_use]
    pub fn assignment(&self, slot: &Slot) -> Option<&Assignment> {
        self.sects.get(&slot.sect)?.slots.get(usize::from(slot.role.0))
    }

    /// All slots of a sect, in the order of roles; none if there is no such sect.
    pub fn slots_of<'a>(&'a self, sect: &'a str) -> impl Iterator<Item = Slot> + 'a {
        let roles = self.sects.get(sect).map_or(0, |found| found.slots.len());
        (0..roles).filter_map(move |role| Some(Slot { sect: sect.to_owned(), role: Role(u16::try_from(role).ok()?) }))
    }

    /// All slots of active sects: what is required of every table, less its exclusions.
    pub fn active_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.sects.iter().filter(|(_, sect)| sect.state == SectState::Active).flat_map(|(name, _)| self.slots_of(name))
    }
}
