//! Opening: the frozen files, each with what its beginning or its end says about it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use fkv_meta::record::InputFormat;
use futures::stream::{StreamExt, TryStreamExt};

use super::bind::{Binding, bind};
use super::decode::Load;
use super::error::InputError;
use super::file::InputFile;
use super::footer::{self, Footer, chunk_range};
use super::inflate::Compression;
use super::text::layout::TextLayout;
use super::unit::{Unit, UnitKind};
use crate::budget::Budget;
use crate::build::rows::RowShape;

/// Files opened at once.
const REQUESTS: usize = 8;

/// How the rows of a file are found.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    /// By its footer.
    Parquet {
        /// The footer.
        footer: Arc<Footer>,
        /// The columns of the load.
        binding: Arc<Binding>,
    },
    /// From its beginning on.
    Text(Arc<TextLayout>),
}

/// A file with its columns found.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The file.
    pub(crate) file: InputFile,
    /// How its rows are found.
    pub(crate) layout: Layout,
}

/// All files of a load, opened.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// The files in frozen order.
    pub(crate) files: Vec<OpenFile>,
    /// Rows in all of them; 0 if they are not known before they are read.
    pub(crate) rows: u64,
    /// Bytes that will be read.
    pub(crate) bytes: u64,
}

/// Opens every file, finds the columns, and counts the rows where that is possible.
///
/// # Errors
/// Something is wrong with a file, or the rows are too many.
pub(crate) async fn open(files: &[InputFile], load: &Load, budget: &Budget) -> Result<OpenFiles, InputError> {
    let opened: Vec<OpenFile> = futures::stream::iter(files.iter().cloned())
        .map(|file| async move {
            let layout = match load.spec.format {
                InputFormat::Parquet => open_parquet(&file, load, budget).await?,
                InputFormat::Csv | InputFormat::Tsv | InputFormat::Jsonl => {
                    Layout::Text(Arc::new(TextLayout::read(&file, &load.spec).await?))
                }
            };
            Ok::<_, InputError>(OpenFile { file, layout })
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    let mut all = OpenFiles { files: opened, rows: 0, bytes: 0 };
    for open in &all.files {
        match &open.layout {
            Layout::Parquet { footer, binding } => {
                for number in 0..footer.rows.len() {
                    let ranges = column_ranges(&open.file, footer, binding, number)?;
                    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
                    all.bytes = all.bytes.saturating_add(bytes);
                }
                all.rows = all.rows.saturating_add(footer.rows_total());
            }
            Layout::Text(_) => all.bytes = all.bytes.saturating_add(open.file.meta.len),
        }
    }
    let max = u64::from(u32::MAX);
    if all.rows > max {
        return Err(InputError::TooManyRows { rows: all.rows, max });
    }
    let shape = RowShape::of(&load.schema);
    budget.check("holding all rows of the input", all.rows.saturating_mul(shape.row_bytes_min()))?;
    Ok(all)
}

async fn open_parquet(file: &InputFile, load: &Load, budget: &Budget) -> Result<Layout, InputError> {
    let footer = footer::read(file, budget).await?;
    let binding = bind(&file.url, footer.arrow.schema(), &load.spec, &load.schema)?;
    let footer = footer.with_views(&binding.roots).map_err(|error| {
        let reason = format!("its columns cannot be read: {error}");
        InputError::Damaged { file: file.url.clone(), reason }
    })?;
    Ok(Layout::Parquet { footer: Arc::new(footer), binding: Arc::new(binding) })
}

impl OpenFiles {
    /// The units of all files in frozen order. Text that may be cut anywhere comes in ranges of `range_bytes`.
    ///
    /// # Errors
    /// A file is damaged.
    pub(crate) fn units(&self, range_bytes: u64) -> Result<Vec<Unit>, InputError> {
        let mut units = Vec::new();
        for (at, open) in self.files.iter().enumerate() {
            match &open.layout {
                Layout::Parquet { footer, binding } => {
                    for (number, rows) in footer.rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                        let ranges = column_ranges(&open.file, footer, binding, number)?;
                        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
                        let kind = UnitKind::RowGroup { number };
                        units.push(Unit { file: at, kind, bytes, rows: Some(*rows) });
                    }
                }
                Layout::Text(text) if text.compression == Compression::None => {
                    let (mut start, len) = (text.begin.byte, open.file.meta.len);
                    while start < len {
                        let end = start.saturating_add(range_bytes.max(1)).min(len);
                        let kind = UnitKind::Range { start, end };
                        units.push(Unit { file: at, kind, bytes: end - start, rows: None });
                        start = end;
                    }
                }
                Layout::Text(_) => {
                    units.push(Unit { file: at, kind: UnitKind::Whole, bytes: open.file.meta.len, rows: None });
                }
            }
        }
        Ok(units)
    }
}

/// Where the columns of a row group lie in the file.
pub(crate) fn column_ranges(
    file: &InputFile,
    footer: &Footer,
    binding: &Binding,
    number: usize,
) -> Result<Vec<Range<u64>>, InputError> {
    let group = footer.parquet().row_group(number);
    let schema = group.schema_descr();
    let mut ranges = Vec::new();
    for (leaf, column) in group.columns().iter().enumerate() {
        if binding.roots.contains(&schema.get_column_root_idx(leaf)) {
            let (start, len) = chunk_range(file, column)?;
            ranges.push(start..start + len);
        }
    }
    Ok(ranges)
}

/// Which rows of which files the places in the frozen input are.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Ascending by the first place.
    stretches: Mutex<Vec<Stretch>>,
}

/// Rows of a file that follow each other, as their places do.
#[derive(Clone, Debug)]
struct Stretch {
    first: u64,
    url: String,
    /// The first one's number in the file, if it is known.
    row: Option<u64>,
}

impl Places {
    /// The places from `first` on are the rows of `url` from `row` on.
    pub(crate) fn begin(&self, first: u64, url: &str, row: Option<u64>) {
        let stretch = Stretch { first, url: url.to_owned(), row };
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner).push(stretch);
    }

    /// The file and the row number within it of a place in the frozen input, for a message.
    pub(crate) fn locate(&self, index: u32) -> String {
        let index = u64::from(index);
        let stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        let after = stretches.partition_point(|stretch| stretch.first <= index);
        match after.checked_sub(1).and_then(|at| stretches.get(at)) {
            Some(Stretch { first, url, row: Some(row) }) => format!("row {} of {url}", row + (index - first)),
            Some(Stretch { url, .. }) => url.clone(),
            None => format!("row {index} of the input"),
        }
    }
}
