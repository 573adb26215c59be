//! Why a change is not legal, and what to do instead.

use fkv_formats::id::{Epoch, Slot, TaskId, Version};

use crate::key::BadName;
use crate::record::TaskState;

/// What a caller can do about a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request itself is wrong; it will never be accepted.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// What it would create exists already.
    Exists,
    /// It is not legal in the present state; the message says what would make it so.
    Precondition,
    /// A bound is reached; it may be accepted later.
    Exhausted,
    /// The caller's knowledge is out of date; read again.
    Stale,
}

/// Why a change is refused. The messages are for users: they say what is refused and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A name that cannot stand in a key.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A request that is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// No such table.
    #[error("there is no table `{0}`")]
    NoTable(String),
    /// No such task.
    #[error("table `{table}` has no task {task}")]
    NoTask {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
    },
    /// No such version.
    #[error("table `{table}` has no version {version}")]
    NoVersion {
        /// The table.
        table: String,
        /// The version.
        version: Version,
    },
    /// No topology yet.
    #[error("the cluster has no topology yet: run `fkv cluster init`")]
    NoTopology,
    /// No such sect.
    #[error("there is no sect `{0}`")]
    NoSect(String),
    /// No such slot.
    #[error("the topology has no slot {0}")]
    NoSlot(Slot),
    /// A table of this name exists.
    #[error("table `{0}` exists already")]
    TableExists(String),
    /// The topology exists.
    #[error("the cluster is initialised already")]
    TopologyExists,
    /// A sect of this name exists.
    #[error("sect `{0}` exists already")]
    SectExists(String),
    /// The submit id stands for another spec.
    #[error("submit id `{submit_id}` stands for task {task} with another spec: use another id")]
    SubmitConflict {
        /// The id.
        submit_id: String,
        /// The task it stands for.
        task: TaskId,
    },
    /// Too many tasks wait.
    #[error("table `{table}` has {limit} tasks waiting already: wait until some have ended")]
    QueueFull {
        /// The table.
        table: String,
        /// The bound.
        limit: usize,
    },
    /// Writes are refused while a table is rolled back.
    #[error("table `{table}` is rolled back to version {to}: release it first")]
    RolledBack {
        /// The table.
        table: String,
        /// The version shown.
        to: Version,
    },
    /// A rollback that names no version, of a table that is rolled back: repeated, it would go forward again.
    #[error("table `{table}` is rolled back to version {to} already: name a version to go to another one")]
    RolledBackAlready {
        /// The table.
        table: String,
        /// The version rolled back to.
        to: Version,
    },
    /// Only a table that is rolled back can be released.
    #[error("table `{0}` is not rolled back: there is nothing to release")]
    NotRolledBack(String),
    /// The rollback's version is not shown yet.
    #[error("table `{table}` does not show version {to} yet: wait until its servers have loaded it, then release")]
    NotYetShown {
        /// The table.
        table: String,
        /// The version rolled back to.
        to: Version,
    },
    /// The table shows that already.
    #[error("table `{table}` already shows, or is loading, version {version}")]
    AlreadyTarget {
        /// The table.
        table: String,
        /// The version.
        version: Version,
    },
    /// Nothing was ever shown.
    #[error("table `{0}` has shown no version yet: there is nothing to roll back")]
    NeverShown(String),
    /// Nothing to roll back to.
    #[error("table `{0}` has shown no other version before: name the version to roll back to")]
    NoPrevious(String),
    /// The version is on its way out.
    #[error("version {version} of table `{table}` has been given to garbage collection")]
    NotLive {
        /// The table.
        table: String,
        /// The version.
        version: Version,
    },
    /// The version was left behind by a release.
    #[error("version {version} of table `{table}` was quarantined by a release and is never used again")]
    Quarantined {
        /// The table.
        table: String,
        /// The version.
        version: Version,
    },
    /// Something still needs the version.
    #[error("version {version} of table `{table}` is still in use: {why}")]
    InUse {
        /// The table.
        table: String,
        /// The version.
        version: Version,
        /// What needs it.
        why: &'static str,
    },
    /// The table has moved on.
    #[error("table `{table}` is at epoch {found}, not {expected}: look at it again")]
    Epoch {
        /// The table.
        table: String,
        /// What the caller saw.
        expected: Epoch,
        /// What it is.
        found: Epoch,
    },
    /// The task's state does not allow it.
    #[error("task {task} of table `{table}` {}: {advice}", state_words(.state))]
    TaskIs {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
        /// Where it stands.
        state: TaskState,
        /// What can be done instead, as a clause.
        advice: &'static str,
    },
    /// Tasks of one table are serial.
    #[error("task {running} of table `{table}` is still at work: tasks of one table run one after the other")]
    TaskRunning {
        /// The table.
        table: String,
        /// The running task.
        running: TaskId,
    },
    /// It is another task's turn.
    #[error("task {task} of table `{table}` has to wait for task {first}")]
    NotItsTurn {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
        /// The one before it.
        first: TaskId,
    },
    /// A failed increment blocks later ones.
    #[error(
        "increment {task} of table `{table}` waits behind failed increment {by}: retry or skip that one, or load in full"
    )]
    Blocked {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
        /// The failed one.
        by: TaskId,
    },
    /// A full load submitted later has replaced what the increment builds on.
    #[error("increment {task} of table `{table}` was overtaken by full load {by}: skip it")]
    Overtaken {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
        /// The full load.
        by: TaskId,
    },
    /// Only a full load may follow.
    #[error("table `{0}` needs a full load first: it has no version that all servers have shown")]
    FullRequired(String),
    /// Out of attempts.
    #[error("{what} of table `{table}` has used all its {attempts} attempts")]
    OutOfAttempts {
        /// The table.
        table: String,
        /// The task or job.
        what: String,
        /// How many.
        attempts: u32,
    },
    /// The task was planned anew.
    #[error("task {task} of table `{table}` has another plan by now")]
    OtherPlan {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
    },
    /// The job has ended.
    #[error("job `{0}` has ended")]
    JobEnded(String),
    /// The build is not one that may be committed now.
    #[error("the build of task {task} of table `{table}` cannot be committed: {why}")]
    BadBuild {
        /// The table.
        table: String,
        /// The task.
        task: TaskId,
        /// What is wrong.
        why: String,
    },
    /// Nothing to align.
    #[error("table `{0}` has nothing to align")]
    NothingToAlign(String),
    /// Some required slot does not hold the content.
    #[error(
        "{missing} of {required} required slots do not hold version {version} of table `{table}` yet, first {first}"
    )]
    NotHeld {
        /// The table.
        table: String,
        /// The version.
        version: Version,
        /// How many slots lack it.
        missing: usize,
        /// How many are required.
        required: usize,
        /// One that lacks it, and why.
        first: String,
    },
    /// Zero required slots never means all.
    #[error("no slot is required for table `{0}`: activate a sect first")]
    NoRequiredSlots(String),
    /// A canary holds the flip back.
    #[error("table `{0}` shows a canary: promote or abort it first")]
    CanarySet(String),
    /// No canary.
    #[error("table `{0}` shows no canary")]
    NoCanary(String),
    /// An exclusion or a topology change beyond the budget.
    #[error("that would leave part {part} of table `{table}` with {left} of {sects} sects, it needs {needed}")]
    OverBudget {
        /// The table.
        table: String,
        /// The first part that would suffer.
        part: u16,
        /// Non-excluded slots that would be left for it.
        left: usize,
        /// Active sects.
        sects: usize,
        /// Non-excluded slots it needs.
        needed: usize,
    },
    /// The slot is excluded already.
    #[error("slot {slot} is excluded for table `{table}` already")]
    Excluded {
        /// The table.
        table: String,
        /// The slot.
        slot: Slot,
    },
    /// The slot is not excluded.
    #[error("slot {slot} is not excluded for table `{table}`")]
    NotExcluded {
        /// The table.
        table: String,
        /// The slot.
        slot: Slot,
    },
    /// The slot does not hold what it must.
    #[error("slot {slot} does not hold version {version} of table `{table}`: {why}")]
    SlotLacks {
        /// The table.
        table: String,
        /// The slot.
        slot: Slot,
        /// The version.
        version: Version,
        /// Why not.
        why: String,
    },
    /// The sect's state does not allow it.
    #[error("sect `{sect}` {why}")]
    SectIs {
        /// The sect.
        sect: String,
        /// What it is and what can be done, as a clause.
        why: &'static str,
    },
    /// The slot is another server's.
    #[error("slot {slot} is assigned to server `{server}`")]
    NotAssigned {
        /// The slot.
        slot: Slot,
        /// Its server.
        server: String,
    },
    /// Another server holds the claim.
    #[error("slot {slot} is claimed by server `{server}`: it becomes free when that claim's lease ends")]
    ClaimHeld {
        /// The slot.
        slot: Slot,
        /// The holder.
        server: String,
    },
}

fn state_words(state: &TaskState) -> &'static str {
    match state {
        TaskState::Queued => "is still queued",
        TaskState::Running => "is running",
        TaskState::Aligning => "has committed its version",
        TaskState::Finished => "has finished",
        TaskState::Failed => "has failed",
        TaskState::Cancelled => "was cancelled",
        TaskState::Skipped => "was skipped",
    }
}

impl Refusal {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> RefusalKind {
        match self {
            Self::Name(_) | Self::Invalid(_) => RefusalKind::Invalid,
            Self::NoTable(_) | Self::NoTask { .. } | Self::NoVersion { .. } | Self::NoSect(_) | Self::NoSlot(_) => {
                RefusalKind::NotFound
            }
            Self::TableExists(_) | Self::TopologyExists | Self::SectExists(_) | Self::SubmitConflict { .. } => {
                RefusalKind::Exists
            }
            Self::QueueFull { .. } => RefusalKind::Exhausted,
            Self::Epoch { .. } | Self::OtherPlan { .. } => RefusalKind::Stale,
            _ => RefusalKind::Precondition,
        }
    }
}
