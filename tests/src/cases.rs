//! The input files that `tests/python/make_inputs.py` writes, and what must come of loading them.

use std::path::{Path, PathBuf};

use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use serde::Deserialize;

/// One load to try and what must come of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name; also that of its file or directory.
    pub name: String,
    /// Format of its files.
    pub format: String,
    key_type: KeyType,
    value_type: ValueType,
    storage: Storage,
    f16_overflow: F16Overflow,
    ttl: bool,
    /// The key column.
    pub key_column: String,
    /// The value columns.
    pub value_columns: Vec<String>,
    /// The expiry column, if any.
    pub expiry_column: Option<String>,
    /// The policy for null values.
    pub nulls: String,
    /// The policy for duplicates.
    pub duplicates: String,
    /// Bad rows tolerated.
    pub max_bad_rows: u64,
    /// Read timestamp of the comparison; the present if none.
    pub read_ts: Option<u32>,
    /// What to submit, below the directory of the cases.
    pub inputs: Vec<String>,
    /// Words that the failure's message must contain; none if the load succeeds.
    pub error: Option<Vec<String>>,
    /// Counts that the finished task must show.
    #[serde(default)]
    pub stats: Counts,
    expected: Option<PathBuf>,
}

/// Counts of a finished task; only those given are compared.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rows read.
    pub rows_read: Option<u64>,
    /// Records written.
    pub records: Option<u64>,
    /// Rows replaced by another of the same key.
    pub duplicates: Option<u64>,
    /// Rows without a value.
    pub nulls: Option<u64>,
    /// Rows that could not be used.
    pub bad_rows: Option<u64>,
    /// Records expired when built.
    pub expired: Option<u64>,
}

/// What a key must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No record.
    Absent,
    /// Exactly these bytes.
    Found(Vec<u8>),
    /// An expired record.
    Expired,
}

impl Case {
    /// The schema of the case's table.
    #[must_use]
    pub fn schema(&self) -> Schema {
        Schema {
            kind: TableKind::Mem,
            key: self.key_type,
            value: self.value_type,
            storage: self.storage,
            f16_overflow: self.f16_overflow,
            ttl: self.ttl,
        }
    }

    /// Every key of the case, as its stored bytes (8, little-endian, for u64), with what it must answer.
    ///
    /// # Panics
    /// The file is not what the Python side writes.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "reads what a script of this test wrote")]
    pub fn expected(&self, dir: &Path) -> Vec<(Vec<u8>, Wanted)> {
        let path = dir.join(self.expected.as_ref().expect("a load that succeeds has an expected content"));
        let bytes = std::fs::read(&path).expect("the expected content can be read");
        let mut rest = bytes.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let status = take(&mut rest, 1)[0];
            let key = take_sized(&mut rest);
            let value = take_sized(&mut rest);
            entries.push((
                key,
                match status {
                    0 => Wanted::Absent,
                    1 => Wanted::Found(value),
                    2 => Wanted::Expired,
                    other => panic!("{}: unknown status {other}", path.display()),
                },
            ));
        }
        entries
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len);
    *rest = left;
    taken
}

fn take_sized(rest: &mut &[u8]) -> Vec<u8> {
    let len = u32::from_le_bytes(take(rest, 4).try_into().expect("four bytes"));
    take(rest, usize::try_from(len).expect("lengths fit")).to_vec()
}

/// Has Python write all cases of a group into `dir`, as of `now` (Unix seconds).
///
/// # Panics
/// Python or a package is missing, or the script fails.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "reads what a script of this test wrote")]
pub fn make(group: &str, dir: &Path, now: u64) -> Vec<Case> {
    crate::python::run("make_inputs.py", [group.as_ref(), dir.as_os_str(), now.to_string().as_ref()]);
    let listing = std::fs::read_to_string(dir.join("cases.jsonl")).expect("the script lists its cases");
    listing.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_python_side_writes_cases_this_side_understands() {
        for (group, good_min, bad_min) in [("parquet", 60, 30), ("text", 80, 45), ("json", 25, 30)] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let cases = make(group, dir.path(), 1_700_000_000);
            let (good, bad): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.error.is_none());
            assert!(good.len() > good_min && bad.len() > bad_min, "{} good and {} bad cases", good.len(), bad.len());
            for case in good {
                check(case, dir.path());
            }
        }
    }

    fn check(case: &Case, dir: &Path) {
        assert_eq!(case.schema().validate(), Ok(()), "{}", case.name);
        let entries = case.expected(dir);
        let found = entries.iter().filter(|(_, wanted)| matches!(wanted, Wanted::Found(_))).count();
        let some = found > 0 || ["no_rows", "csv_header_only"].contains(&case.name.as_str());
        assert!(some && found < entries.len(), "{}: {found} of {} found", case.name, entries.len());
        if let Some(width) = case.schema().value.fixed_width() {
            let fits = |wanted: &Wanted| !matches!(wanted, Wanted::Found(value) if value.len() != width);
            assert!(entries.iter().all(|(_, wanted)| fits(wanted)), "{}", case.name);
        }
    }
}
