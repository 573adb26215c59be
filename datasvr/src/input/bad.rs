//! Bad rows: rows that cannot become a record. They are counted, the first ones kept as samples; beyond the task's
//! limit the build stops.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// How many samples a build keeps.
pub(crate) const SAMPLES_MAX: usize = 100;

/// How many samples an error message shows.
const SAMPLES_SHOWN: usize = 5;

/// Why a row cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The key is null.
    NullKey,
    /// The key is longer than a key may be.
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The value is longer than a value may be.
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A list has another length than the table's dimension.
    WrongLength {
        /// Its length.
        found: usize,
        /// The dimension.
        expected: usize,
    },
    /// An element of a vector is null.
    NullElement {
        /// Which, from 0.
        at: usize,
    },
    /// A number is too large for the type it is stored in.
    OutOfRange {
        /// The number.
        number: String,
        /// The type.
        stored: &'static str,
    },
    /// An expiry time that is not a Unix time in seconds.
    BadExpiry {
        /// What the column holds.
        number: String,
    },
    /// Anything else, as a clause.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NullKey => f.write_str("the key is null"),
            Self::KeyTooLong { len, max } => write!(f, "the key has {len} bytes, at most {max} are allowed"),
            Self::ValueTooLong { len, max } => write!(f, "the value has {len} bytes, at most {max} are allowed"),
            Self::WrongLength { found, expected } => write!(f, "the list has {found} elements instead of {expected}"),
            Self::NullElement { at } => write!(f, "element {at} of the vector is null"),
            Self::OutOfRange { number, stored } => write!(f, "{number} does not fit into {stored}"),
            Self::BadExpiry { number } => {
                write!(f, "{number} is not an expiry time: expected Unix seconds, 0 to {}", u32::MAX)
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// One bad row, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BadRow {
    /// URL of the file.
    pub(crate) file: String,
    /// The row's number in the file, from 0.
    pub(crate) row: u64,
    /// Name of the column that is wrong.
    pub(crate) column: String,
    /// What is wrong.
    pub(crate) reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, row {}, column `{}`: {}", self.file, self.row, self.column, self.reason)
    }
}

/// More bad rows than the task tolerates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooManyBadRows {
    /// Bad rows seen when the build stopped.
    pub(crate) count: u64,
    /// How many the task tolerates.
    pub(crate) max: u64,
    /// The first of them.
    pub(crate) samples: Vec<BadRow>,
    /// URL of the object that keeps the samples, once they are written.
    pub(crate) kept_at: Option<String>,
}

impl std::error::Error for TooManyBadRows {}

impl fmt::Display for TooManyBadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.count == 1 { "row" } else { "rows" };
        write!(f, "{} bad {rows}, max_bad_rows is {}", self.count, self.max)?;
        for sample in self.samples.iter().take(SAMPLES_SHOWN) {
            write!(f, "; {sample}")?;
        }
        if self.samples.len() > SAMPLES_SHOWN {
            f.write_str("; …")?;
        }
        if let Some(url) = &self.kept_at {
            write!(f, "; samples are kept in {url}")?;
        }
        Ok(())
    }
}

/// The bad rows of one build, noted from several threads.
#[derive(Debug)]
pub(crate) struct BadRows {
    max: u64,
    count: AtomicU64,
    samples: Mutex<BTreeMap<(u32, u64), BadRow>>,
}

impl BadRows {
    /// None yet; `max` are tolerated.
    #[must_use]
    pub(crate) const fn new(max: u64) -> Self {
        Self { max, count: AtomicU64::new(0), samples: Mutex::new(BTreeMap::new()) }
    }

    /// Notes a bad row of the file with this place in the frozen list; `row` describes it. The samples kept are the
    /// first ones in input order of those noted.
    pub(crate) fn note(&self, file: u32, row: u64, describe: impl FnOnce() -> BadRow) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let full = samples.len() >= SAMPLES_MAX;
        if full && samples.last_key_value().is_some_and(|(last, _)| *last <= (file, row)) {
            return;
        }
        samples.insert((file, row), describe());
        if full {
            samples.pop_last();
        }
    }

    /// How many were noted.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The samples, in input order.
    #[must_use]
    pub(crate) fn samples(&self) -> Vec<BadRow> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Fails once more were noted than are tolerated.
    ///
    /// # Errors
    /// [`TooManyBadRows`].
    pub(crate) fn check(&self) -> Result<(), TooManyBadRows> {
        let count = self.count();
        if count > self.max {
            return Err(TooManyBadRows { count, max: self.max, samples: self.samples(), kept_at: None });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: u64) -> BadRow {
        BadRow { file: "a.parquet".into(), row, column: "id".into(), reason: Reason::NullKey.to_string() }
    }

    #[test]
    fn the_samples_are_the_first_rows_whatever_order_they_come_in() {
        let bad = BadRows::new(1000);
        for n in (0..500).rev() {
            bad.note(0, n, || row(n));
        }
        let samples = bad.samples();
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert!(samples.iter().enumerate().all(|(at, sample)| sample.row == at as u64));
        assert_eq!(bad.count(), 500);
        assert!(bad.check().is_ok());
    }

    #[test]
    fn the_error_names_file_row_and_column() {
        let bad = BadRows::new(0);
        assert!(bad.check().is_ok());
        bad.note(0, 7, || row(7));
        assert_eq!(
            bad.check().expect_err("one too many").to_string(),
            "1 bad row, max_bad_rows is 0; a.parquet, row 7, column `id`: the key is null"
        );
    }
}
