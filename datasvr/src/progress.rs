//! How far a task is: its stages, and what a running job has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use fkv_meta::record::Progress;

/// The stages of a task, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The input list is frozen and the plan made.
    Plan,
    /// One job reads all rows and builds all parts.
    Build,
    /// Slice jobs read the input.
    Slice,
    /// Part jobs build parts from slices.
    Part,
    /// The version is committed.
    Publish,
    /// Servers load the version.
    Align,
}

impl Stage {
    /// Its name in metadata, logs and output.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Build => "build",
            Self::Slice => "slice",
            Self::Part => "part",
            Self::Publish => "publish",
            Self::Align => "align",
        }
    }
}

/// Counts of a running job; cheap to add to from any thread.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    rows_done: AtomicU64,
    rows_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl Meter {
    /// How much there is to do.
    pub(crate) fn expect(&self, rows: u64, bytes: u64) {
        self.rows_total.store(rows, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Rows were read.
    pub(crate) fn add_rows(&self, rows: u64) {
        self.rows_done.fetch_add(rows, Ordering::Relaxed);
    }

    /// Bytes of input or of slices were read.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read so far.
    pub(crate) fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Rows and bytes done so far, as a share of what there is to do.
    pub(crate) fn share(&self) -> (f64, u64) {
        let (done, total) = (self.bytes_done(), self.bytes_total.load(Ordering::Relaxed));
        let share = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
        (share, self.rows_done.load(Ordering::Relaxed))
    }
}

/// What of a stage is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Rows read, or records built.
    pub(crate) rows: u64,
    /// Rows in all; 0 if that is not known.
    pub(crate) rows_total: u64,
    /// Bytes of jobs done.
    pub(crate) bytes: u64,
    /// Bytes of all jobs.
    pub(crate) bytes_total: u64,
    /// Jobs done.
    pub(crate) jobs: u32,
    /// Jobs at work.
    pub(crate) jobs_running: u32,
    /// All jobs.
    pub(crate) jobs_total: u32,
}

/// How far a task is, as who holds it sees it.
#[derive(Debug)]
pub(crate) struct TaskMeter {
    now: Mutex<(Stage, u64, Done)>,
}

impl TaskMeter {
    /// A task that begins to be planned.
    #[must_use]
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { now: Mutex::new((Stage::Plan, now_ms, Done::default())) }
    }

    /// The task is in a stage, of which so much is done. What was done before it began does not count.
    pub(crate) fn set(&self, stage: Stage, done: Done, now_ms: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let since_ms = if now.0 == stage { now.1 } else { now_ms };
        *now = (stage, since_ms, done);
    }

    /// The task is in another stage; what was done stays to be seen.
    pub(crate) fn enter(&self, stage: Stage, now_ms: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (stage, now_ms, now.2);
    }

    /// The record for metadata. `more` is what the worker's own job has done beside the jobs that are done: rows and bytes.
    #[must_use]
    pub(crate) fn snapshot(&self, now_ms: u64, more: (u64, u64)) -> Progress {
        let (stage, since_ms, done) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            stage: stage.name().to_owned(),
            rows_done: done.rows.saturating_add(more.0),
            rows_total: (done.rows_total > 0).then_some(done.rows_total),
            bytes_done: done.bytes.saturating_add(more.1),
            bytes_total: done.bytes_total,
            stage_since_ms: since_ms,
            at_ms: now_ms,
            waiting_for: String::new(),
            jobs_done: done.jobs,
            jobs_running: done.jobs_running,
            jobs_total: done.jobs_total,
        }
    }
}
