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
    /// Text where an integer should be.
    NotInteger {
        /// The text.
        text: String,
    },
    /// Text where a number should be.
    NotNumber {
        /// The text.
        text: String,
    },
    /// Text where true or false should be.
    NotFlag {
        /// The text.
        text: String,
    },
    /// Text that is no UTF-8.
    NotUtf8,
    /// A row with more or fewer fields than the header.
    FieldCount {
        /// Its fields.
        found: usize,
        /// Those of the header.
        expected: usize,
    },
    /// Something behind the quote that ends a field.
    StrayQuote,
    /// A JSON object without a member that it must have.
    NoMember,
    /// A line that is no JSON object.
    NotJson {
        /// What the parser says.
        what: String,
        /// Where in the line, from 1; 0 if it cannot be said.
        column: usize,
    },
    /// A JSON value of another kind than is wanted.
    WrongKind {
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
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
            Self::NotInteger { text } => write!(f, "`{text}` is not an integer"),
            Self::NotNumber { text } => write!(f, "`{text}` is not a number"),
            Self::NotFlag { text } => write!(f, "`{text}` is neither true nor false"),
            Self::NotUtf8 => f.write_str("the text is not valid UTF-8"),
            Self::FieldCount { found, expected } => {
                let fields = if *found == 1 { "field" } else { "fields" };
                write!(f, "the row has {found} {fields}, the header has {expected}")
            }
            Self::StrayQuote => {
                f.write_str("text follows the quote that ends a field; a quote within quotes is written twice")
            }
            Self::NoMember => f.write_str("the object has no member of this name"),
            Self::NotJson { what, column: 0 } => write!(f, "the line is not a JSON object: {what}"),
            Self::NotJson { what, column } => write!(f, "the line is not a JSON object: {what} (column {column})"),
            Self::WrongKind { found, expected } => write!(f, "it is {found}, expected is {expected}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Where a row is in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowPlace {
    /// Its number, from 0, if the rows before it were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) row: Option<u64>,
    /// In text: the number of its first line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// In text of which not all was read: how many bytes come before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) byte: Option<u64>,
}

impl RowPlace {
    /// A row by its number.
    #[must_use]
    pub(crate) const fn row(row: u64) -> Self {
        Self { row: Some(row), line: None, byte: None }
    }
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.row, self.line, self.byte) {
            (Some(row), Some(line), _) => write!(f, "row {row} (line {line})"),
            (Some(row), None, _) => write!(f, "row {row}"),
            (None, _, byte) => write!(f, "the row at byte {}", byte.unwrap_or(0)),
        }
    }
}

/// One bad row, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BadRow {
    /// URL of the file.
    pub(crate) file: String,
    /// Where it is in the file.
    #[serde(flatten)]
    pub(crate) place: RowPlace,
    /// Name of the column that is wrong; none if the row as a whole is.
    pub(crate) column: Option<String>,
    /// What is wrong.
    pub(crate) reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, column, reason } = self;
        match column {
            Some(column) => write!(f, "{file}, {place}, column `{column}`: {reason}"),
            None => write!(f, "{file}, {place}: {reason}"),
        }
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

    /// Notes a bad row of the file with this place in the frozen list; `row` orders it among the rows of its file, and
    /// `describe` describes it. The samples kept are the first ones in input order of those noted.
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

    /// The samples of a file that are known by their byte only, ascending.
    pub(crate) fn unnumbered(&self, file: u32) -> Vec<u64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let of_file = samples.range((file, 0)..=(file, u64::MAX));
        of_file.filter_map(|(_, sample)| sample.place.byte).collect()
    }

    /// Gives a sample that is known by its byte its number.
    pub(crate) fn set_place(&self, file: u32, byte: u64, place: RowPlace) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sample) = samples.get_mut(&(file, byte)) {
            sample.place = place;
        }
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
        let (place, column) = (RowPlace::row(row), Some("id".into()));
        BadRow { file: "a.parquet".into(), place, column, reason: Reason::NullKey.to_string() }
    }

    #[test]
    fn the_samples_are_the_first_rows_whatever_order_they_come_in() {
        let bad = BadRows::new(1000);
        for n in (0..500).rev() {
            bad.note(0, n, || row(n));
        }
        let samples = bad.samples();
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert!(samples.iter().enumerate().all(|(at, sample)| sample.place == RowPlace::row(at as u64)));
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
        let place = RowPlace { line: Some(9), ..RowPlace::row(7) };
        let reason = Reason::FieldCount { found: 1, expected: 2 }.to_string();
        let ragged = BadRow { file: "a.csv".into(), place, column: None, reason };
        assert_eq!(ragged.to_string(), "a.csv, row 7 (line 9): the row has 1 field, the header has 2");
        let json = serde_json::to_string(&ragged).expect("plain data");
        assert!(json.starts_with(r#"{"file":"a.csv","row":7,"line":9,"column":null,"#), "{json}");
        let read: BadRow = serde_json::from_str(&json).expect("what was just written");
        assert_eq!(read, ragged, "whoever looks after the task shows the samples of its jobs");
    }
}
