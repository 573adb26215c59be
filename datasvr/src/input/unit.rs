//! Units: the pieces of a file that can be read by themselves, in the frozen order.
//!
//! ```text
//!   Parquet            │ row group 0 │ row group 1 │ … │     as the writer cut it
//!   text               │ bytes 0..n  │ bytes n..2n │ … │     the records that begin in a range
//!   compressed text    │               all             │     can only be read from its beginning
//! ```

/// What a unit is of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitKind {
    /// A row group of a Parquet file.
    RowGroup {
        /// Which, from 0.
        number: usize,
    },
    /// The records that begin in a range of bytes, read to the end of the last one.
    Range {
        /// The first byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
    /// All of the file.
    Whole,
}

/// A unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
