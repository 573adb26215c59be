//! The output of a job: what it counted, and which slices or packs it wrote. A JSON object in the store, pinned in the
//! job's record; what it names counts only because the job was committed.

use fkv_meta::record::{BuildStats, ObjectRef};
use serde::{Deserialize, Serialize};

use crate::input::ends::Ends;
use crate::input::open::Stretch;
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

/// A slice that a job wrote, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SliceRef {
    /// Path below the store's root.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Its records.
    pub(crate) records: u64,
}

/// What a job made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobOutput {
    /// Format version.
    pub(crate) format: u32,
    /// What it counted.
    pub(crate) stats: BuildStats,
    /// The packs, in the order of their parts.
    #[serde(default)]
    pub(crate) packs: Vec<PackRef>,
    /// The pieces of its slice, in the order of the input.
    #[serde(default)]
    pub(crate) slices: Vec<SliceRef>,
    /// Which rows of which files the places in its slice are; kept where records keep their places.
    #[serde(default)]
    pub(crate) places: Vec<Stretch>,
    /// What a slice job saw of its files: it is checked over all slices together.
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    pub(crate) ends: Ends,
    /// Samples of the rows it could not use.
    #[serde(default)]
    pub(crate) bad_rows: Option<ObjectRef>,
}

impl Formatted for JobOutput {
    fn format(&self) -> u32 {
        self.format
    }
}
