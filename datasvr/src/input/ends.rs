//! What can only be said of files when all of them has been read, by whichever readers.
//!
//! ```text
//!   a file of text   │ stretch 0 │ stretch 1 │ stretch 2 │     read apart, each with what it saw
//!                                ▲ does the one begin where the other ended?   CSV, JSON lines
//!                    └─ did any row have a member for each column? ──────┘     JSON lines
//! ```

use std::collections::BTreeMap;

use fkv_meta::record::LoadSpec;
use serde::{Deserialize, Serialize};

use super::error::InputError;

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

/// Which columns the objects of a stretch of JSON lines had members for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The file's place in the frozen list.
    pub(crate) file: usize,
    /// For the key column and each value column, whether some object had it.
    pub(crate) columns: Vec<bool>,
    /// The members of the file's first object, for a message.
    pub(crate) first: String,
}

/// What a reader saw of the files that it read a stretch of, in the order of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ends {
    /// Of ranges of text.
    #[serde(default)]
    pub(crate) edges: Vec<Edges>,
    /// Of JSON lines.
    #[serde(default)]
    pub(crate) seen: Vec<Seen>,
}

impl Ends {
    /// Whether there is nothing to say.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.seen.is_empty()
    }

    /// The same, of files that come `files` later in the frozen list.
    #[must_use]
    pub(crate) fn moved_by(mut self, files: usize) -> Self {
        self.edges.iter_mut().for_each(|edges| edges.file += files);
        self.seen.iter_mut().for_each(|seen| seen.file += files);
        self
    }

    /// Adds what the next reader saw.
    pub(crate) fn extend(&mut self, next: Self) {
        self.edges.extend(next.edges);
        self.seen.extend(next.seen);
    }

    /// Checks that all stretches together are the files; `url` gives the name of a file.
    ///
    /// # Errors
    /// `CutInQuotes`, `MissingColumn`.
    pub(crate) fn check(&self, spec: &LoadSpec, url: impl Fn(usize) -> String) -> Result<(), InputError> {
        check_edges(&self.edges, &url)?;
        let mut files: BTreeMap<usize, (Vec<bool>, &str)> = BTreeMap::new();
        for seen in &self.seen {
            let (columns, _) =
                files.entry(seen.file).or_insert_with(|| (vec![false; seen.columns.len()], seen.first.as_str()));
            columns.iter_mut().zip(&seen.columns).for_each(|(column, seen)| *column |= seen);
        }
        for (file, (columns, first)) in files {
            // Without any of them there was no object at all; what there was instead has been noted.
            if !columns.contains(&true) {
                continue;
            }
            let names = std::iter::once(&spec.key_column).chain(&spec.value_columns);
            // A name that is mistyped would otherwise be a column of nulls.
            if let Some((column, _)) = names.zip(columns).find(|(_, seen)| !seen) {
                return Err(InputError::MissingColumn {
                    file: url(file),
                    column: column.clone(),
                    available: format!("{first} in the first row"),
                });
            }
        }
        Ok(())
    }
}

/// Checks that ranges of files, in order, have taken each record once. A range that begins within a quoted field takes
/// the line end in it for the end of a record; then what it read does not begin where the range before it ended. The
/// first range of a file begins behind its header, so that by induction all ranges that join up are right.
fn check_edges(edges: &[Edges], url: impl Fn(usize) -> String) -> Result<(), InputError> {
    for pair in edges.windows(2) {
        if pair[0].file == pair[1].file && pair[0].after != pair[1].first {
            return Err(InputError::CutInQuotes { file: url(pair[0].file), byte: pair[0].after });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fkv_meta::record::{Duplicates, InputFormat, LoadMode, NullPolicy};

    use super::*;

    fn check(ends: &Ends) -> Result<(), InputError> {
        let spec = LoadSpec {
            inputs: Vec::new(),
            mode: LoadMode::Full,
            format: InputFormat::Jsonl,
            key_column: "id".into(),
            value_columns: vec!["v".into(), "w".into()],
            expiry_column: None,
            delete_column: None,
            nulls: NullPolicy::Skip,
            duplicates: Duplicates::Last,
            max_bad_rows: 0,
            require_success: false,
        };
        ends.check(&spec, |file| format!("file:///{file}"))
    }

    #[test]
    fn ranges_that_do_not_join_up_are_found() {
        let edge = |file, first, after| Edges { file, first, after };
        let ends = |edges: &[Edges]| Ends { edges: edges.to_vec(), seen: Vec::new() };
        assert!(check(&ends(&[edge(0, 5, 90), edge(0, 90, 200), edge(1, 5, 60)])).is_ok());
        let error = check(&ends(&[edge(0, 5, 90), edge(0, 97, 200)])).expect_err("a gap").to_string();
        assert!(error.starts_with("file:///0: ") && error.contains("byte 90"), "{error}");
    }

    #[test]
    fn a_column_is_missing_if_no_stretch_of_a_file_has_it() {
        let seen = |file, columns: [bool; 3]| Seen { file, columns: columns.to_vec(), first: "`id`, `x`".into() };
        let (none, all) = ([false; 3], [true; 3]);
        let mut ends = Ends { edges: Vec::new(), seen: vec![seen(0, none), seen(1, [true, true, false])] };
        ends.extend(Ends { edges: Vec::new(), seen: vec![seen(0, [false, true, true]), seen(0, none)] }.moved_by(1));
        assert!(check(&ends).is_ok(), "a stretch may lack what another has, and a file may be empty");
        ends.extend(Ends { edges: Vec::new(), seen: vec![seen(2, [true, false, true]), seen(3, all)] });
        let error = check(&ends).expect_err("no stretch has it").to_string();
        assert!(
            error.contains("file:///2") && error.contains("`v`") && error.contains("`x` in the first row"),
            "{error}"
        );
    }
}
