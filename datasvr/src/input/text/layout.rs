//! The beginning of a text file ─▶ how it is compressed, where its columns are and where its records begin.
//!
//! ```text
//!   (BOM) header ⏎ record ⏎ record ⏎ …
//!                  └ begin
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use fkv_meta::record::{InputFormat, LoadSpec};

use super::super::bad::Reason;
use super::super::bind::available;
use super::super::error::InputError;
use super::super::file::InputFile;
use super::super::inflate::{Compression, Inflate};
use super::super::sniff::Looks;
use super::cell::{Cell, Cells, Slots};
use super::fields::{Dialect, Record, Records, Wanted};
use super::json::{Names, member_names};
use super::split::{Framing, Position};

/// The longest header in bytes.
const HEADER_BYTES_MAX: usize = 4 << 20;
/// Bytes of the file read at first to find it.
const HEAD_BYTES: u64 = 64 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What is known of a text file once its beginning has been read.
#[derive(Debug)]
pub(crate) struct TextLayout {
    /// How the file is compressed.
    pub(crate) compression: Compression,
    /// Where its records end.
    pub(crate) framing: Framing,
    /// Where the first of them begins.
    pub(crate) begin: Position,
    /// How its records are read.
    pub(crate) reads: Reads,
    /// The slots that cells go to.
    pub(crate) slots: Slots,
}

/// How records are read.
#[derive(Debug)]
pub(crate) enum Reads {
    /// As separated fields.
    Fields {
        /// How they are separated.
        dialect: Dialect,
        /// Which of them are wanted.
        wanted: Wanted,
    },
    /// As JSON objects.
    Objects {
        /// The members that are wanted.
        names: Names,
        /// Which of the slots some object had a member for.
        seen: Vec<AtomicBool>,
        /// The members of the first object, for a message.
        first: Vec<String>,
    },
}

/// The name of a format, for people.
const fn title(format: InputFormat) -> &'static str {
    match format {
        InputFormat::Parquet => "Parquet",
        InputFormat::Csv => "CSV",
        InputFormat::Tsv => "TSV",
        InputFormat::Jsonl => "JSON lines",
    }
}

impl TextLayout {
    /// Reads the beginning of `file`.
    ///
    /// # Errors
    /// It is something else, or its header lacks a column of the load.
    pub(crate) async fn read(file: &InputFile, spec: &LoadSpec) -> Result<Self, InputError> {
        let mut want = HEAD_BYTES;
        loop {
            let end = want.min(file.meta.len);
            let head = file.read(0..end).await?;
            let compression = Compression::of(&head);
            let text = expand(file, compression, &head)?;
            let whole = end == file.meta.len && text.len() < HEADER_BYTES_MAX;
            if let Some(layout) = Self::of(file, spec, compression, &text, whole)? {
                return Ok(layout);
            }
            if text.len() >= HEADER_BYTES_MAX || end == file.meta.len {
                let reason =
                    format!("the header does not end within {HEADER_BYTES_MAX} bytes: lines end with \\n or \\r\\n");
                return Err(InputError::BadHeader { file: file.url.clone(), reason });
            }
            want *= 8;
        }
    }

    /// The layout of a file that begins with `text`, and is no more than it if `whole`; `None` if there is too little.
    fn of(
        file: &InputFile,
        spec: &LoadSpec,
        compression: Compression,
        text: &[u8],
        whole: bool,
    ) -> Result<Option<Self>, InputError> {
        let objects = spec.format == InputFormat::Jsonl;
        if text.is_empty() && !whole {
            return Ok(None);
        }
        if text.is_empty() && !objects {
            return Err(InputError::Empty { file: file.url.clone(), lacks: "it has no header" });
        }
        check_looks(file, spec.format, text)?;
        let slots = Slots::of(spec);
        let roles = std::iter::once(&spec.key_column)
            .chain(&spec.value_columns)
            .chain(&spec.expiry_column)
            .chain(&spec.delete_column);
        let (mut at, mut line) = (if text.starts_with(BOM) { BOM.len() } else { 0 }, 1);
        if objects {
            let begin = Position { row: 0, line, byte: at as u64 };
            let first = text[at..].trim_ascii_start();
            let end = memchr::memchr(b'\n', first).unwrap_or(first.len());
            let reads = Reads::Objects {
                names: Names::new(roles),
                seen: (0..slots.count()).map(|_| AtomicBool::new(false)).collect(),
                first: member_names(&first[..end]),
            };
            return Ok(Some(Self { compression, framing: Framing::Lines, begin, reads, slots }));
        }
        let dialect = Dialect { delimiter: if spec.format == InputFormat::Tsv { b'\t' } else { b',' } };
        // Empty lines before the header do not matter.
        loop {
            match text[at..] {
                [b'\n', ..] => at += 1,
                [b'\r', b'\n', ..] => at += 2,
                _ => break,
            }
            line += 1;
        }
        let (end, lines) = match dialect.first(&text[at..]) {
            Some(header) => (at + header.end, header.lines),
            // A file of one line that nothing ends.
            None if whole => (text.len(), 1),
            None => return Ok(None),
        };
        let begin = Position { row: 0, line: line + lines, byte: end as u64 };
        let names = names(file, &text[at..end], dialect)?;
        let mut pairs = Vec::with_capacity(slots.count());
        for (slot, name) in roles.enumerate() {
            pairs.push((find(file, spec.format, &names, name)?, slot));
        }
        let reads = Reads::Fields { dialect, wanted: Wanted::new(pairs, names.len()) };
        Ok(Some(Self { compression, framing: Framing::Separated(dialect), begin, reads, slots }))
    }

    /// Of JSON lines: for the key column and each value column, whether some object read so far had a member for it, and the
    /// members of the first object, for a message.
    pub(crate) fn seen(&self, spec: &LoadSpec) -> Option<(Vec<bool>, String)> {
        let Reads::Objects { seen, first, .. } = &self.reads else { return None };
        let needed = 1 + spec.value_columns.len();
        let columns = seen.iter().take(needed).map(|seen| seen.load(Ordering::Relaxed)).collect();
        Some((columns, available(first.iter().map(String::as_str))))
    }
}

/// Refuses what does not look like text of this format.
fn check_looks(file: &InputFile, format: InputFormat, text: &[u8]) -> Result<(), InputError> {
    let objects = format == InputFormat::Jsonl;
    let reason = match Looks::of(&text[..text.len().min(4096)]) {
        Looks::JsonObjects if objects => return Ok(()),
        Looks::Text if !objects || text.trim_ascii().is_empty() => return Ok(()),
        Looks::Unknown if text.is_empty() => return Ok(()),
        Looks::JsonObjects => "it looks like JSON; say so if it is, with format `jsonl`".to_owned(),
        Looks::Text => "it looks like text of another kind: expected is one JSON object a line".to_owned(),
        Looks::Like(other @ "a JSON array") if objects => {
            format!("it looks like {other}: expected is one JSON object a line")
        }
        Looks::Like(other) => format!("it looks like {other}"),
        Looks::Unknown => "it is not text in UTF-8".to_owned(),
    };
    Err(InputError::WrongFormat { file: file.url.clone(), format: title(format), reason })
}

/// The text that `head` expands to, as far as a header may reach.
fn expand(file: &InputFile, compression: Compression, head: &[u8]) -> Result<Vec<u8>, InputError> {
    let explain = |error| file.inflate_error(compression, error);
    let Some(mut inflate) = Inflate::new(compression, file.expansion).map_err(explain)? else {
        return Ok(head[..head.len().min(HEADER_BYTES_MAX)].to_vec());
    };
    let mut text = vec![0; HEADER_BYTES_MAX];
    let (_, given) = inflate.step(head, &mut text).map_err(explain)?;
    text.truncate(given);
    if head.len() as u64 == file.meta.len && given < HEADER_BYTES_MAX {
        inflate.finish().map_err(explain)?;
    }
    Ok(text)
}

/// The column names of a header.
fn names(file: &InputFile, header: &[u8], dialect: Dialect) -> Result<Vec<String>, InputError> {
    let bad = |reason: String| InputError::BadHeader { file: file.url.clone(), reason };
    // Reading it as a record of one wanted column tells how many there are; then all of them are wanted.
    let mut count = 1;
    loop {
        let slots = Slots::new(count, false, false);
        let wanted = Wanted::new((0..count).map(|column| (column, column)).collect(), count);
        let mut cells = Cells::new(slots);
        match Records::new(header, dialect).read(&wanted, &mut cells) {
            Record::Cells => {
                let name = |slot| match cells.get(header, slot) {
                    Cell::Text(text) => std::str::from_utf8(text).map(str::to_owned),
                    _ => Ok(String::new()),
                };
                let names: Result<Vec<String>, _> = (0..count).map(name).collect();
                let names = names.map_err(|_| bad("the header is not valid UTF-8".to_owned()))?;
                if names.iter().any(|name| name.replace("\r\n", "").contains('\r')) {
                    return Err(bad("the header has a \\r in it: lines must end with \\n or \\r\\n".to_owned()));
                }
                return Ok(names);
            }
            Record::Bad(Reason::FieldCount { found, .. }) if found != count => count = found,
            Record::Bad(reason) => return Err(bad(format!("the header cannot be read: {reason}"))),
            Record::Blank => return Err(bad("the header is an empty line".to_owned())),
        }
    }
}

fn find(file: &InputFile, format: InputFormat, names: &[String], name: &str) -> Result<usize, InputError> {
    let mut found = names.iter().enumerate().filter(|(_, column)| *column == name).map(|(at, _)| at);
    let (file, column) = (file.url.clone(), name.to_owned());
    match (found.next(), found.count()) {
        (Some(at), 0) => Ok(at),
        (Some(_), more) => Err(InputError::AmbiguousColumn { file, column, count: more + 1 }),
        (None, _) => {
            let mut available = available(names.iter().map(String::as_str));
            // One column with separators in it: the file has others than the load says.
            let other = if format == InputFormat::Tsv { ',' } else { '\t' };
            if let [only] = names
                && let Some(separator) = [other, ';', '|'].into_iter().find(|separator| only.contains(*separator))
            {
                available +=
                    &format!(" (is the file separated by {separator:?}, and not {} as it should be?)", title(format));
            }
            Err(InputError::MissingColumn { file, column, available })
        }
    }
}
