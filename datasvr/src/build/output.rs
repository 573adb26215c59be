//! The output of a job: what it counted and which packs it wrote. A JSON object in the store, pinned in the job's
//! record; what it names counts only because the job was committed.

use fkv_meta::record::{BuildStats, ObjectRef};
use serde::{Deserialize, Serialize};

use crate::plan::Formatted;

/// A pack that a job wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackRef {
    /// Path below the store's root.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) len: u64,
    /// How many of its last bytes hold directory and footer.
    pub(crate) tail_len: u64,
}

/// What a job made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobOutput {
    format: u32,
    /// What it counted.
    pub(crate) stats: BuildStats,
    /// The packs, in the order of their parts.
    pub(crate) packs: Vec<PackRef>,
    /// Samples of the rows it could not use.
    #[serde(default)]
    pub(crate) bad_rows: Option<ObjectRef>,
}

impl JobOutput {
    /// The output of a job without bad rows.
    #[must_use]
    pub(crate) const fn new(stats: BuildStats, packs: Vec<PackRef>) -> Self {
        Self { format: 0, stats, packs, bad_rows: None }
    }
}

impl Formatted for JobOutput {
    fn format(&self) -> u32 {
        self.format
    }
}
