//! The footer of a Parquet file: what row groups and columns it has, checked before anything trusts it.
//!
//! ```text
//!   PAR1 | column chunks of row group 0, 1, … | footer (thrift) | length of the footer, u32 LE | PAR1
//! ```

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use super::error::InputError;
use super::file::InputFile;
use super::sniff::Looks;
use crate::budget::Budget;

/// Bytes read from the end of a file at first: most footers fit.
const TAIL_BYTES: u64 = 64 << 10;
/// Magic, footer length, magic.
const FILE_BYTES_MIN: u64 = 12;
const MAGIC: &[u8] = b"PAR1";
const MAGIC_ENCRYPTED: &[u8] = b"PARE";

/// A file's footer.
#[derive(Clone, Debug)]
pub(crate) struct Footer {
    /// The metadata, with the columns as Arrow types. Types come from Parquet's own schema alone: the Arrow schema
    /// that some writers embed says nothing more about the values, only how that writer held them in memory.
    pub(crate) arrow: ArrowReaderMetadata,
    /// Rows of each row group.
    pub(crate) rows: Vec<u64>,
}

impl Footer {
    /// Parquet's metadata.
    #[must_use]
    pub(crate) fn parquet(&self) -> &Arc<ParquetMetaData> {
        self.arrow.metadata()
    }
}

impl Footer {
    /// The same footer, with strings and bytes among the columns `roots` read as views into the pages they come from:
    /// a long value that a dictionary page holds once is not copied for each row that has it.
    ///
    /// # Errors
    /// As the decoder says; the schema has been read before, so that this is a fault of ours.
    pub(crate) fn with_views(self, roots: &[usize]) -> Result<Self, ParquetError> {
        let mut fields: Vec<FieldRef> = self.arrow.schema().fields().iter().cloned().collect();
        for root in roots {
            let Some(field) = fields.get_mut(*root) else { continue };
            let view = match field.data_type() {
                DataType::Utf8 => DataType::Utf8View,
                DataType::Binary => DataType::BinaryView,
                _ => continue,
            };
            *field = Arc::new(field.as_ref().clone().with_data_type(view));
        }
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_schema(Arc::new(Schema::new(fields)));
        let arrow = ArrowReaderMetadata::try_new(Arc::clone(self.parquet()), options)?;
        Ok(Self { arrow, rows: self.rows })
    }
}

/// Where a column chunk lies in its file.
pub(crate) fn chunk_range(file: &InputFile, column: &ColumnChunkMetaData) -> Result<(u64, u64), InputError> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let damaged = || InputError::Damaged {
        file: file.url.clone(),
        reason: format!("column `{}` lies outside of the file", column.column_path().string()),
    };
    let start = u64::try_from(start).map_err(|_| damaged())?;
    let len = u64::try_from(column.compressed_size()).map_err(|_| damaged())?;
    match start.checked_add(len) {
        Some(end) if end <= file.meta.len => Ok((start, len)),
        _ => Err(damaged()),
    }
}

/// Reads and checks the footer of `file`.
///
/// # Errors
/// Says what is wrong with the file.
pub(crate) async fn read(file: &InputFile, budget: &Budget) -> Result<Footer, InputError> {
    let len = file.meta.len;
    if len == 0 {
        return Err(InputError::Empty { file: file.url.clone(), lacks: "it is not a Parquet file" });
    }
    if len < FILE_BYTES_MIN {
        let reason = format!("it has {len} bytes, the smallest Parquet file has {FILE_BYTES_MIN}");
        return Err(InputError::WrongFormat { file: file.url.clone(), format: "Parquet", reason });
    }
    let tail_start = len.saturating_sub(TAIL_BYTES);
    let tail = file.read(tail_start..len).await?;
    let footer_len = match footer_len(&tail) {
        Ok(footer_len) => footer_len,
        Err(NoFooter::Encrypted) => return Err(InputError::Encrypted { file: file.url.clone() }),
        Err(NoFooter::Other) => {
            let head = if tail_start == 0 { tail } else { file.read(0..FILE_BYTES_MIN).await? };
            return Err(explain(file, &head));
        }
    };
    if footer_len > len - FILE_BYTES_MIN {
        let reason = format!("its footer should have {footer_len} bytes, the whole file has {len}");
        return Err(InputError::Truncated { file: file.url.clone(), reason });
    }
    let mut charge = budget.charge("reading the footer of a Parquet file");
    charge.set(footer_len)?;
    let footer_start = len - 8 - footer_len;
    let bytes = if footer_start >= tail_start {
        let skip = usize::try_from(footer_start - tail_start).unwrap_or(usize::MAX);
        tail.slice(skip..tail.len() - 8)
    } else {
        file.read(footer_start..len - 8).await?
    };
    parse(file, &bytes)
}

enum NoFooter {
    Encrypted,
    Other,
}

/// The footer's length, from the last bytes of a file.
fn footer_len(tail: &Bytes) -> Result<u64, NoFooter> {
    let end = tail.last_chunk::<8>().ok_or(NoFooter::Other)?;
    match &end[4..] {
        MAGIC => Ok(u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]))),
        MAGIC_ENCRYPTED => Err(NoFooter::Encrypted),
        _ => Err(NoFooter::Other),
    }
}

/// What a file that does not end like Parquet looks like.
fn explain(file: &InputFile, head: &[u8]) -> InputError {
    let file = file.url.clone();
    if head.starts_with(MAGIC) {
        return InputError::Truncated { file, reason: "it begins like a Parquet file but has no footer".into() };
    }
    let reason = match Looks::of(head) {
        Looks::Like(other) => format!("it looks like {other}"),
        Looks::JsonObjects => "it looks like JSON; say so if it is, with format `jsonl`".to_owned(),
        Looks::Text => "it looks like text; say so if it is, with format `csv`, `tsv` or `jsonl`".to_owned(),
        Looks::Unknown => "it neither begins nor ends with PAR1".to_owned(),
    };
    InputError::WrongFormat { file, format: "Parquet", reason }
}

fn parse(file: &InputFile, bytes: &[u8]) -> Result<Footer, InputError> {
    let damaged = |reason: String| InputError::Damaged { file: file.url.clone(), reason };
    let metadata = ParquetMetaDataReader::decode_metadata(bytes)
        .map_err(|error| damaged(format!("its footer cannot be read: {error}")))?;
    let mut rows = Vec::with_capacity(metadata.num_row_groups());
    for group in metadata.row_groups() {
        rows.push(u64::try_from(group.num_rows()).map_err(|_| damaged("a row group has fewer than 0 rows".into()))?);
    }
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let arrow = ArrowReaderMetadata::try_new(Arc::new(metadata), options)
        .map_err(|error| damaged(format!("its schema cannot be read: {error}")))?;
    Ok(Footer { arrow, rows })
}
