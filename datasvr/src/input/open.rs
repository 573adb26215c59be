//! Opening: the frozen files, each with what its end says about it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{StreamExt, TryStreamExt};
use parquet::file::metadata::RowGroupMetaData;
use serde::{Deserialize, Serialize};

use super::bind::{Binding, bind};
use super::decode::Load;
use super::error::InputError;
use super::file::InputFile;
use super::footer::{self, Footer, chunk_range};
use super::unit::{Unit, UnitKind};
use crate::budget::Budget;
use crate::build::rows::RowShape;

/// Files opened at once.
const REQUESTS: usize = 8;

/// A file with its footer, its columns found.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The file.
    pub(crate) file: InputFile,
    /// Its footer.
    pub(crate) footer: Arc<Footer>,
    /// The columns of the load.
    pub(crate) binding: Arc<Binding>,
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
            let footer = footer::read(&file, budget).await?;
            let binding = bind(&file.url, footer.arrow.schema(), &load.spec, &load.schema)?;
            let footer = footer.with_views(&binding.roots).map_err(|error| {
                let reason = format!("its columns cannot be read: {error}");
                InputError::Damaged { file: file.url.clone(), reason }
            })?;
            Ok::<_, InputError>(OpenFile { file, footer: Arc::new(footer), binding: Arc::new(binding) })
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    Ok(OpenFiles { files })
}

impl OpenFiles {
    /// The units of all files in frozen order; `file` counts the files opened.
    ///
    /// # Errors
    /// A file is damaged.
    pub(crate) fn units(&self) -> Result<Vec<Unit>, InputError> {
        let mut units = Vec::new();
        for (at, open) in self.files.iter().enumerate() {
            for (number, rows) in open.footer.rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                let ranges = column_ranges(&open.file, &open.footer, &open.binding, number)?;
                let bytes = ranges.iter().map(|range| range.end - range.start).sum();
                units.push(Unit { file: at, kind: UnitKind::RowGroup { number }, bytes, rows: Some(*rows) });
            }
        }
        Ok(units)
    }

    /// About how much memory the rows of a unit take. Values that vary in length are taken to be as long as the file says
    /// they are before compression, which a dictionary makes too little.
    pub(crate) fn memory(&self, unit: &Unit, shape: RowShape) -> u64 {
        let Some(open) = self.files.get(unit.file) else { return 0 };
        let UnitKind::RowGroup { number } = unit.kind;
        let group = open.footer.parquet().row_groups().get(number);
        let varying = group.map_or(0, |group| varying_bytes(group, &open.binding, shape));
        unit.rows.unwrap_or(0).saturating_mul(shape.row_bytes_min()).saturating_add(varying)
    }
}

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
