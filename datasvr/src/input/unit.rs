//! Units: the pieces of a file that can be read by themselves, in the frozen order.
//!
//! ```text
//!   Parquet   │ row group 0 │ row group 1 │ … │     as the writer cut it
//! ```

use serde::{Deserialize, Serialize};

/// What a unit is of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnitKind {
    /// A row group of a Parquet file.
    RowGroup {
        /// Which, from 0.
        number: usize,
    },
}

/// A unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// The file's place in the frozen list.
    pub(crate) file: usize,
    /// What it is of the file.
    pub(crate) kind: UnitKind,
    /// Bytes of the file that are read for it, about.
    pub(crate) bytes: u64,
    /// Its rows, where that is known before it is read.
    pub(crate) rows: Option<u64>,
}
