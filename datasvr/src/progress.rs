//! How far a task is: counted by the stages, written to metadata about once a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use fkv_meta::record::Progress;

/// The stages of a task, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The input list is frozen and the plan made.
    Plan,
    /// Rows are read, sorted and built into packs.
    Build,
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
            Self::Publish => "publish",
            Self::Align => "align",
        }
    }
}

#[derive(Debug)]
struct Now {
    stage: Stage,
    since_ms: u64,
    waiting_for: String,
}

/// Counts of a running task; cheap to add to from any thread.
#[derive(Debug)]
pub(crate) struct Meter {
    now: Mutex<Now>,
    rows_done: AtomicU64,
    rows_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl Meter {
    /// A task that begins to be planned.
    #[must_use]
    pub(crate) const fn new(now_ms: u64) -> Self {
        Self {
            now: Mutex::new(Now { stage: Stage::Plan, since_ms: now_ms, waiting_for: String::new() }),
            rows_done: AtomicU64::new(0),
            rows_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
        }
    }

    /// A stage begins.
    pub(crate) fn enter(&self, stage: Stage, now_ms: u64) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            Now { stage, since_ms: now_ms, waiting_for: String::new() };
    }

    /// How much there is to do.
    pub(crate) fn expect(&self, rows: u64, bytes: u64) {
        self.rows_total.store(rows, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
        self.rows_done.store(0, Ordering::Relaxed);
        self.bytes_done.store(0, Ordering::Relaxed);
    }

    /// Rows were read.
    pub(crate) fn add_rows(&self, rows: u64) {
        self.rows_done.fetch_add(rows, Ordering::Relaxed);
    }

    /// Input bytes were read.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Input bytes read so far.
    pub(crate) fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// The record for metadata.
    #[must_use]
    pub(crate) fn snapshot(&self, now_ms: u64) -> Progress {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let rows_total = self.rows_total.load(Ordering::Relaxed);
        Progress {
            stage: now.stage.name().to_owned(),
            rows_done: self.rows_done.load(Ordering::Relaxed),
            rows_total: (rows_total > 0).then_some(rows_total),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            stage_since_ms: now.since_ms,
            at_ms: now_ms,
            waiting_for: now.waiting_for.clone(),
        }
    }
}
