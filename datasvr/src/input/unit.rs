//! Units: the pieces of a file that can be read by themselves, in the frozen order.
//!
//! ```text
//!   Parquet            │ row group 0 │ row group 1 │ … │     as the writer cut it
//!   text               │ bytes 0..n  │ bytes n..2n │ … │     the records that begin in a range
//!   compressed text    │               all             │     can only be read from its beginning
//! ```

use serde::{Deserialize, Serialize};

use super::error::InputError;

/// What a unit is of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Where the records of a range really lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edges {
    /// The file's place in the frozen list.
    pub(crate) file: usize,
    /// Where the first record of the range begins.
    pub(crate) first: u64,
    /// Where the last one ends.
    pub(crate) after: u64,
}

/// Checks that ranges of files, in order, have taken each record once. A range that begins within a quoted field takes
/// the line end in it for the end of a record; then what it read does not begin where the range before it ended. The
/// first range of a file begins behind its header, so that by induction all ranges that join up are right.
///
/// # Errors
/// `CutInQuotes`; `url` gives the name of a file.
pub(crate) fn check_edges(edges: &[Edges], url: impl Fn(usize) -> String) -> Result<(), InputError> {
    for pair in edges.windows(2) {
        if pair[0].file == pair[1].file && pair[0].after != pair[1].first {
            return Err(InputError::CutInQuotes { file: url(pair[0].file), byte: pair[0].after });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_do_not_join_up_are_found() {
        let edge = |file, first, after| Edges { file, first, after };
        let url = |file| format!("file:///{file}.csv");
        assert!(check_edges(&[edge(0, 5, 90), edge(0, 90, 200), edge(1, 5, 60)], url).is_ok());
        let error = check_edges(&[edge(0, 5, 90), edge(0, 97, 200)], url).expect_err("a gap").to_string();
        assert!(error.starts_with("file:///0.csv: ") && error.contains("byte 90"), "{error}");
    }
}
