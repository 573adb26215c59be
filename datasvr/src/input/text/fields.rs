//! Records of separated values: where they end, and their fields.
//!
//! ```text
//!   1001,"a ""quoted"" field, with a
//!   line break",,\N⏎
//!   ────            plain: up to the delimiter or the end of the line
//!        ─────────  quoted: begins with a quote, may hold delimiters, line ends and quotes written twice
//!                   empty, or \N: null; "" is the empty string
//! ```
//!
//! As RFC 4180 has it, and as most programs write it. A quote that is not the first character of a field stands for
//! itself. A line ends with `\n` or `\r\n`; a line without anything in it is no record.

use memchr::{memchr, memchr_iter, memchr2, memmem, memrchr};

use super::super::bad::Reason;
use super::cell::Cells;

/// How fields are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// The character between two fields.
    pub(crate) delimiter: u8,
}

const QUOTE: u8 = b'"';
const NULL: &[u8] = b"\\N";

/// The end of a quoted field.
enum Closing {
    /// The quote that ends it is at this place.
    At(usize),
    /// There is none.
    Missing,
}

/// Finds the quote that ends the field whose content begins at `from`. Whether quotes stand twice in it.
fn closing_quote(data: &[u8], mut from: usize) -> (Closing, bool) {
    let mut doubled = false;
    while let Some(offset) = memchr(QUOTE, &data[from..]) {
        let at = from + offset;
        if data.get(at + 1) != Some(&QUOTE) {
            return (Closing::At(at), doubled);
        }
        doubled = true;
        from = at + 2;
    }
    (Closing::Missing, doubled)
}

/// The whole lines in `data`, each of which is a record.
pub(crate) fn whole_lines(data: &[u8]) -> Whole {
    let Some(last) = memrchr(b'\n', data) else { return Whole::default() };
    let end = last + 1;
    let lines = memchr_iter(b'\n', &data[..end]).count() as u64;
    Whole { end, records: lines - empty_lines(&data[..end]), lines }
}

/// Whether a line, with its end, has nothing in it.
fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

/// How many lines have nothing in them.
fn empty_lines(lines: &[u8]) -> u64 {
    let mut count = u64::from(matches!(lines, [b'\n', ..] | [b'\r', b'\n', ..]));
    for pattern in [&b"\n\n"[..], b"\n\r\n"] {
        let mut rest = lines;
        while let Some(at) = memmem::find(rest, pattern) {
            count += 1;
            // The end of an empty line may be what is before the next one.
            rest = &rest[at + pattern.len() - 1..];
        }
    }
    count
}

/// Whole records at the beginning of some text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Where the last of them ends.
    pub(crate) end: usize,
    /// How many there are, not counting empty lines.
    pub(crate) records: u64,
    /// Line ends in them.
    pub(crate) lines: u64,
}

impl Dialect {
    /// The whole records in `data`, which begins with one. A record is whole once the end of its line is there.
    pub(crate) fn whole(self, data: &[u8]) -> Whole {
        // Without quotes a line is a record.
        if memchr(QUOTE, data).is_none() {
            return whole_lines(data);
        }
        let mut whole = Whole::default();
        while let Some(end) = self.record_end(data, whole.end) {
            whole.lines += memchr_iter(b'\n', &data[whole.end..end]).count() as u64;
            whole.records += u64::from(!is_empty_line(&data[whole.end..end]));
            whole.end = end;
        }
        whole
    }

    /// The record that `data` begins with, if it is whole.
    pub(crate) fn first(self, data: &[u8]) -> Option<Whole> {
        let end = self.record_end(data, 0)?;
        let records = u64::from(!is_empty_line(&data[..end]));
        Some(Whole { end, records, lines: memchr_iter(b'\n', &data[..end]).count() as u64 })
    }

    /// Where the record that begins at `start` ends, if its end is there.
    fn record_end(self, data: &[u8], start: usize) -> Option<usize> {
        let mut from = start;
        loop {
            let at = from + memchr2(QUOTE, b'\n', &data[from..])?;
            if data[at] == b'\n' {
                return Some(at + 1);
            }
            from = at + 1;
            if at == start || data[at - 1] == self.delimiter {
                // What looks like the end of the field may be the first of two quotes, of which the second is not
                // there yet; then there is no end of a line behind it either.
                from = match closing_quote(data, from) {
                    (Closing::At(end), _) => end + 1,
                    (Closing::Missing, _) => return None,
                };
            }
        }
    }
}

/// Which columns are wanted, and for which slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Column and slot, ascending by column.
    pairs: Vec<(usize, usize)>,
    /// How many columns there are.
    columns: usize,
}

impl Wanted {
    /// Column and slot of each wanted cell, of `columns` columns.
    #[must_use]
    pub(crate) fn new(mut pairs: Vec<(usize, usize)>, columns: usize) -> Self {
        pairs.sort_unstable();
        Self { pairs, columns }
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Its cells are set.
    Cells,
    /// An empty line.
    Blank,
    /// It is malformed.
    Bad(Reason),
}

/// Reads the records of a block one after the other.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    data: &'a [u8],
    at: usize,
    dialect: Dialect,
}

impl<'a> Records<'a> {
    /// The records in `data`, which holds whole ones; the last one may lack its line end.
    pub(crate) const fn new(data: &'a [u8], dialect: Dialect) -> Self {
        Self { data, at: 0, dialect }
    }

    /// Where the next record begins; `None` at the end.
    pub(crate) const fn next_start(&self) -> Option<usize> {
        if self.at < self.data.len() { Some(self.at) } else { None }
    }

    /// Reads the next record into `cells`.
    pub(crate) fn read(&mut self, wanted: &Wanted, cells: &mut Cells) -> Record {
        let (data, start) = (self.data, self.at);
        match data[start..] {
            [b'\n', ..] => {
                self.at += 1;
                return Record::Blank;
            }
            [b'\r', b'\n', ..] => {
                self.at += 2;
                return Record::Blank;
            }
            [b'\r'] => {
                self.at += 1;
                return Record::Blank;
            }
            _ => {}
        }
        cells.clear();
        let (mut column, mut stray) = (0, false);
        let mut pairs = wanted.pairs.as_slice();
        loop {
            let begin = self.at;
            let mut quoted = None;
            if data.get(begin) == Some(&QUOTE) {
                let (closing, doubled) = closing_quote(data, begin + 1);
                // Blocks hold whole records, so that there is an end; if not, the field ends with the block.
                let end = match closing {
                    Closing::At(end) => end,
                    Closing::Missing => data.len(),
                };
                quoted = Some((end, doubled));
                self.at = data.len().min(end + 1);
            }
            let behind = self.at;
            let end = memchr2(self.dialect.delimiter, b'\n', &data[behind..]).map_or(data.len(), |at| behind + at);
            let last = data.get(end) != Some(&self.dialect.delimiter);
            self.at = data.len().min(end + 1);
            let content_end = if last && end > behind && data[end - 1] == b'\r' { end - 1 } else { end };
            if quoted.is_some() && content_end > behind {
                stray = true;
            }
            if let [(first, slot), rest @ ..] = pairs
                && *first == column
            {
                let slot = *slot;
                match quoted {
                    Some((end, false)) => cells.set_text(slot, begin + 1, end),
                    Some((end, true)) => cells.set_unescaped(slot, |out| unescape(&data[begin + 1..end], out)),
                    None if begin == content_end || &data[begin..content_end] == NULL => {}
                    None => cells.set_text(slot, begin, content_end),
                }
                pairs = rest;
                // A column may serve for several slots.
                while let [(same, another), rest @ ..] = pairs
                    && *same == column
                {
                    cells.copy(slot, *another);
                    pairs = rest;
                }
            }
            column += 1;
            if last {
                break;
            }
        }
        if stray {
            Record::Bad(Reason::StrayQuote)
        } else if column != wanted.columns {
            Record::Bad(Reason::FieldCount { found: column, expected: wanted.columns })
        } else {
            Record::Cells
        }
    }
}

/// Appends the content of a quoted field in which quotes stand twice.
fn unescape(mut content: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr(QUOTE, content) {
        out.extend_from_slice(&content[..=at]);
        content = content.get(at + 2..).unwrap_or_default();
    }
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cell::{Cell, Slots};
    use super::super::split::{Framing, Position, SplitError, Splitter};
    use super::*;

    const CSV: Dialect = Dialect { delimiter: b',' };
    const TSV: Dialect = Dialect { delimiter: b'\t' };

    type Row = Vec<Option<Vec<u8>>>;

    /// Reads all records of a text that comes in pieces, all columns wanted; a record that is bad as its reason.
    fn read(
        text: &[u8],
        piece: usize,
        columns: usize,
        dialect: Dialect,
    ) -> Result<Vec<Result<Row, Reason>>, SplitError> {
        let mut splitter = Splitter::new(Framing::Separated(dialect), Position::default());
        let mut blocks = Vec::new();
        for piece in text.chunks(piece.max(1)) {
            blocks.extend(splitter.push(piece)?);
        }
        blocks.extend(splitter.finish()?);
        let slots = Slots::new(columns - 1, false, false);
        let wanted = Wanted::new((0..columns).map(|column| (column, column)).collect(), columns);
        let mut cells = Cells::new(slots);
        let mut rows = Vec::new();
        for block in blocks {
            let before = rows.len();
            let mut records = Records::new(&block.bytes, dialect);
            while records.next_start().is_some() {
                match records.read(&wanted, &mut cells) {
                    Record::Blank => {}
                    Record::Bad(reason) => rows.push(Err(reason)),
                    Record::Cells => {
                        let cell = |slot| match cells.get(&block.bytes, slot) {
                            Cell::Null => None,
                            Cell::Text(text) => Some(text.to_vec()),
                            other => panic!("separated values have no {other:?}"),
                        };
                        rows.push(Ok((0..columns).map(cell).collect()));
                    }
                }
            }
            assert_eq!((rows.len() - before) as u64, block.records, "records are counted as they are read");
        }
        Ok(rows)
    }

    fn one(text: &str, columns: usize) -> Result<Row, Reason> {
        let mut rows = read(text.as_bytes(), 3, columns, CSV).expect("whole");
        assert_eq!(rows.len(), 1, "{text:?}");
        rows.remove(0)
    }

    fn texts(row: &[Option<&str>]) -> Row {
        row.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn nothing_and_backslash_n_are_null_unless_they_stand_in_quotes() {
        assert_eq!(
            one(",\\N,\"\",\"\\N\",\\n, \n", 6),
            Ok(texts(&[None, None, Some(""), Some("\\N"), Some("\\n"), Some(" ")]))
        );
    }

    #[test]
    fn a_quote_counts_at_the_beginning_of_a_field_only() {
        assert_eq!(one("5\" disk,a\"b\"\n", 2), Ok(texts(&[Some("5\" disk"), Some("a\"b\"")])));
        assert_eq!(one("\"a,\"\"b\"\"\n\",\"\"\"\"", 2), Ok(texts(&[Some("a,\"b\"\n"), Some("\"")])));
        assert_eq!(one(" \"a\",b\n", 2), Ok(texts(&[Some(" \"a\""), Some("b")])));
        for stray in ["\"a\"b,c\n", "\"a\" ,c\n", "c,\"a\"b\r\n"] {
            assert_eq!(one(stray, 2), Err(Reason::StrayQuote), "{stray:?}");
        }
    }

    #[test]
    fn a_record_with_other_fields_than_the_header_says_how_many() {
        assert_eq!(one("1,2,3\n", 2), Err(Reason::FieldCount { found: 3, expected: 2 }));
        assert_eq!(one("1\n", 2), Err(Reason::FieldCount { found: 1, expected: 2 }));
        assert_eq!(one("1,", 2), Ok(texts(&[Some("1"), None])));
        assert_eq!(one("\"1\n2,3\"\r\n", 2), Err(Reason::FieldCount { found: 1, expected: 2 }));
    }

    #[test]
    fn unwanted_columns_are_stepped_over_and_one_may_serve_twice() {
        let mut cells = Cells::new(Slots::new(2, false, false));
        let wanted = Wanted::new(vec![(3, 0), (1, 1), (3, 2)], 4);
        let text = b"\"x,\"\"\",one,skipped,\"th\"\"ree\"\n";
        assert_eq!(Records::new(text, CSV).read(&wanted, &mut cells), Record::Cells);
        let get = |slot| cells.get(text, slot);
        assert_eq!((get(0), get(1), get(2)), (Cell::Text(b"th\"ree"), Cell::Text(b"one"), Cell::Text(b"th\"ree")));
    }

    /// A field, and how it is written.
    fn field() -> impl Strategy<Value = (Option<String>, bool)> {
        let text = proptest::collection::vec(
            prop::sample::select(vec!["a", "b", "\"", ",", "\t", "\n", "\r\n", " ", "\\N", "\\", "é"]),
            0..6,
        );
        (proptest::option::weighted(0.9, text.prop_map(|parts| parts.concat())), any::<bool>())
    }

    /// Writes a field as RFC 4180 has it, in quotes where it must be, and where `quote` wants it.
    fn write_field(out: &mut String, field: &Option<String>, quote: bool, delimiter: char) {
        let Some(text) = field else { return };
        let must = text.is_empty() || text == "\\N" || text.contains(['"', '\n', '\r', delimiter]);
        if quote || must {
            out.push('"');
            out.push_str(&text.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_by_the_rules_is_read_back(
            rows in proptest::collection::vec(proptest::collection::vec(field(), 3), 1..12),
            piece in 1usize..40,
            crlf in any::<bool>(),
            ended in any::<bool>(),
            tabs in any::<bool>(),
            empty_lines in 0usize..3,
        ) {
            let (dialect, delimiter) = if tabs { (TSV, '\t') } else { (CSV, ',') };
            let end = if crlf { "\r\n" } else { "\n" };
            let mut text = String::new();
            for (at, row) in rows.iter().enumerate() {
                for (column, (field, quote)) in row.iter().enumerate() {
                    if column > 0 {
                        text.push(delimiter);
                    }
                    write_field(&mut text, field, *quote, delimiter);
                }
                if at + 1 < rows.len() || ended {
                    text.push_str(end);
                    text.push_str(&end.repeat(empty_lines));
                }
            }
            let expected: Vec<Result<Row, Reason>> = rows
                .iter()
                .map(|row| Ok(row.iter().map(|(field, _)| field.as_ref().map(|text| text.as_bytes().to_vec())).collect()))
                .collect();
            prop_assert_eq!(read(text.as_bytes(), piece, 3, dialect), Ok(expected), "{:?}", text);
        }

        #[test]
        fn any_text_is_read_as_another_reader_does_or_refused(
            parts in proptest::collection::vec(prop::sample::select(vec!["a", "1", "\"", "\"", ",", ",", "\n", "\r\n", " "]), 0..40),
            piece in 1usize..20,
        ) {
            let text = parts.concat();
            // A file that ends within quotes is refused as a whole.
            if let Ok(rows) = read(text.as_bytes(), piece, 2, CSV) {
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
                let other: Vec<csv::ByteRecord> = reader.byte_records().map(|record| record.expect("in memory")).collect();
                prop_assert_eq!(rows.len(), other.len(), "{:?}", text);
                for (row, other) in rows.into_iter().zip(other) {
                    match row {
                        Ok(row) => {
                            let row: Vec<Vec<u8>> = row.into_iter().map(Option::unwrap_or_default).collect();
                            prop_assert_eq!(row, other.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), "{:?}", text);
                        }
                        Err(Reason::FieldCount { found, .. }) => prop_assert_eq!(found, other.len(), "{:?}", text),
                        Err(reason) => prop_assert_eq!(reason, Reason::StrayQuote),
                    }
                }
            }
        }

        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
            let _ = read(&noise, piece, 2, CSV);
        }
    }
}
