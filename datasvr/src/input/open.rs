//! Opening: the frozen files, each with what its beginning or its end says about it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use fkv_meta::record::InputFormat;
use futures::stream::{StreamExt, TryStreamExt};
use parquet::file::metadata::RowGroupMetaData;
use serde::{Deserialize, Serialize};

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

/// Files of a load, opened.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// The files in frozen order.
    pub(crate) files: Vec<OpenFile>,
}

/// Opens files and finds the columns.
///
/// # Errors
/// Something is wrong with a file.
pub(crate) async fn open(files: &[InputFile], load: &Load, budget: &Budget) -> Result<OpenFiles, InputError> {
    let files = futures::stream::iter(files.iter().cloned())
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
    Ok(OpenFiles { files })
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
    /// The units of all files in frozen order; `file` counts the files opened. Text that may be cut anywhere comes in ranges of
    /// `range_bytes`.
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

    /// About how much memory the rows of a unit take. Whoever reads more than that does well: it is what jobs are cut by.
    ///
    /// Values of Parquet that vary in length are taken to be as long as the file says they are before compression, which a
    /// dictionary makes too little. Of text nobody knows before it is read.
    pub(crate) fn memory(&self, unit: &Unit, shape: RowShape) -> u64 {
        let Some(open) = self.files.get(unit.file) else { return 0 };
        match (&open.layout, unit.kind) {
            (Layout::Parquet { footer, binding }, UnitKind::RowGroup { number }) => {
                let group = footer.parquet().row_groups().get(number);
                let varying = group.map_or(0, |group| varying_bytes(group, binding, shape));
                unit.rows.unwrap_or(0).saturating_mul(shape.row_bytes_min()).saturating_add(varying)
            }
            (Layout::Parquet { .. }, UnitKind::Range { .. } | UnitKind::Whole) => 0,
            (Layout::Text(text), _) => unit.bytes.saturating_mul(match text.compression {
                Compression::None => TEXT_MEMORY,
                Compression::Gzip | Compression::Zstd => TEXT_MEMORY * TEXT_COMPRESSION,
            }),
        }
    }
}

/// Bytes of rows for one of text. A row that says little, such as `123456789,0.123456`, takes about as many bytes in memory,
/// with its hash and its place; a vector in text takes more than its floats.
const TEXT_MEMORY: u64 = 1;
/// How many times its size a compressed file expands to.
const TEXT_COMPRESSION: u64 = 4;

/// Bytes of the keys and values of a row group that vary in length.
fn varying_bytes(group: &RowGroupMetaData, binding: &Binding, shape: RowShape) -> u64 {
    let varies = |root: usize| {
        let is = |place: usize| binding.roots.get(place) == Some(&root);
        (shape.has_varying_keys() && is(binding.key))
            || (shape.width.is_none() && binding.values.iter().any(|place| is(*place)))
    };
    let schema = group.schema_descr();
    let columns = group.columns().iter().enumerate();
    let varying = columns.filter(|(leaf, _)| varies(schema.get_column_root_idx(*leaf)));
    varying.map(|(_, column)| u64::try_from(column.uncompressed_size()).unwrap_or(0)).fold(0, u64::saturating_add)
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

/// Which rows of which files the places in the input of a job are.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Ascending by the first place.
    stretches: Mutex<Vec<Stretch>>,
}

/// Rows of a file that follow each other, as their places do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    first: u64,
    url: String,
    /// The first one's number in the file, if it is known.
    row: Option<u64>,
}

impl Places {
    /// Those that were noted before.
    pub(crate) const fn of(stretches: Vec<Stretch>) -> Self {
        Self { stretches: Mutex::new(stretches) }
    }

    /// The places from `first` on are the rows of `url` from `row` on.
    pub(crate) fn begin(&self, first: u64, url: &str, row: Option<u64>) {
        let stretch = Stretch { first, url: url.to_owned(), row };
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner).push(stretch);
    }

    /// All that was noted.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file and the row number within it of a place in the input, for a message.
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
