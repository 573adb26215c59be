//! What can be wrong with the input of a task. Every message names the file, and the column or row where there is one.

use fkv_store::StoreError;

use super::bad::{RowPlace, TooManyBadRows};
use crate::budget::OverBudget;

/// A column of a type that cannot become what the table declares.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {role} column `{column}` has type {found}; a table with {declared} accepts {accepted}")]
pub(crate) struct WrongType {
    /// URL of the file.
    pub(crate) file: String,
    /// What the column is used as: key, value or expiry.
    pub(crate) role: &'static str,
    /// Name of the column.
    pub(crate) column: String,
    /// The type of the column in the file.
    pub(crate) found: String,
    /// What the table declares, as in `key type u64`.
    pub(crate) declared: String,
    /// The types that are accepted.
    pub(crate) accepted: &'static str,
}

/// Something is wrong with the input, or it could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// A file of 0 bytes.
    #[error("{file}: the file is empty (0 bytes), so {lacks}")]
    Empty {
        /// URL of the file.
        file: String,
        /// What it therefore is not, or has not.
        lacks: &'static str,
    },
    /// A file that is something else.
    #[error("{file}: not a {format} file: {reason}")]
    WrongFormat {
        /// URL of the file.
        file: String,
        /// What the load says it is.
        format: &'static str,
        /// What it looks like instead.
        reason: String,
    },
    /// A text file whose header cannot be used.
    #[error("{file}: {reason}")]
    BadHeader {
        /// URL of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record of a text file that does not end.
    #[error("{file}, {place}: {reason}")]
    BadRecord {
        /// URL of the file.
        file: String,
        /// Where it begins.
        place: RowPlace,
        /// What is wrong with it.
        reason: String,
    },
    /// A text file with a line break within quotes, cut there for several readers.
    #[error(
        "{file}: a line break stands within quotes about where the file was cut for several workers, at byte {byte}: \
         compress the file, or write several smaller ones"
    )]
    CutInQuotes {
        /// URL of the file.
        file: String,
        /// Where the reader before the cut ended.
        byte: u64,
    },
    /// A compressed file that expands to more than it may.
    #[error("{file}: the {compression} file {reason}")]
    Expands {
        /// URL of the file.
        file: String,
        /// How it is compressed.
        compression: &'static str,
        /// Which limit it passes.
        reason: String,
    },
    /// A file that begins well and ends too early.
    #[error("{file}: the file is truncated: {reason}")]
    Truncated {
        /// URL of the file.
        file: String,
        /// What is missing.
        reason: String,
    },
    /// A file whose bytes make no sense.
    #[error("{file}: the file is damaged: {reason}")]
    Damaged {
        /// URL of the file.
        file: String,
        /// What the decoder said.
        reason: String,
    },
    /// A file with an encrypted footer.
    #[error("{file}: the file is encrypted; encrypted Parquet is not read")]
    Encrypted {
        /// URL of the file.
        file: String,
    },
    /// A column that the load names and the file does not have.
    #[error("{file}: there is no column `{column}`; the columns are {available}")]
    MissingColumn {
        /// URL of the file.
        file: String,
        /// Name of the column.
        column: String,
        /// The columns there are.
        available: String,
    },
    /// Several columns with the name that the load gives.
    #[error("{file}: there are {count} columns named `{column}`, so it is not clear which one is meant")]
    AmbiguousColumn {
        /// URL of the file.
        file: String,
        /// Name of the columns.
        column: String,
        /// How many there are.
        count: usize,
    },
    /// A column of a type that cannot become what the table declares.
    #[error(transparent)]
    WrongType(Box<WrongType>),
    /// A file that is no longer the one in the frozen list.
    #[error("{file}: the file has changed since the task was planned: {reason}; submit the load again")]
    Changed {
        /// URL of the file.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The inputs hold more rows than one task can number.
    #[error("the input has {rows} rows, one task can load at most {max}: split it into several tables or loads")]
    TooManyRows {
        /// Rows in all files.
        rows: u64,
        /// The most.
        max: u64,
    },
    /// Two rows with one key where the task allows none.
    #[error("key {key} stands in {first} and in {second}, and the task's policy for duplicates is `error`")]
    DuplicateKey {
        /// The key, as text.
        key: String,
        /// Where it stands first.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// More bad rows than tolerated.
    #[error(transparent)]
    BadRows(#[from] TooManyBadRows),
    /// The input is too large for this worker.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The decoder ran into a fault of its own; the log has its message.
    #[error("{file}: the file made its decoder crash; it is probably damaged")]
    Crashed {
        /// URL of the file.
        file: String,
    },
    /// The build was given up for another cause.
    #[error("the build was stopped")]
    Stopped,
    /// The store of the input failed.
    #[error(transparent)]
    Store(StoreError),
}
