//! One row group of a Parquet file ─▶ rows.
//!
//! ```text
//!   column chunks ─ Parquet decoder ─▶ record batch ─▶ fate of each row (keep, no value, bad)
//!                                                   ─▶ keys, stored values, expiry of the kept rows
//! ```
//!
//! A batch is sized by bytes, so that a row group of any size decodes in bounded memory beside its chunks.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use fkv_formats::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use fkv_formats::schema::{Schema, ValueType};
use fkv_formats::value::{ValueCodec, ValueError};
use fkv_meta::record::{LoadSpec, NullPolicy};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::bad::{BadRow, BadRows, Reason, RowPlace};
use super::bind::Binding;
use super::chunks::Chunks;
use super::error::InputError;
use super::floats::{Vector, Vectors};
use super::footer::Footer;
use crate::build::rows::{ByteColumn, KeyColumn, RowShape, Rows, ValueColumn};

/// Rows of a batch, at most.
const BATCH_ROWS_MAX: u64 = 8192;
/// Bytes of a batch aimed at, by the average row of its row group.
const BATCH_BYTES: u64 = 32 << 20;

/// What all row groups of a load are decoded by.
#[derive(Debug)]
pub(crate) struct Load {
    /// What to load.
    pub(crate) spec: LoadSpec,
    /// The table's schema.
    pub(crate) schema: Schema,
    /// Where bad rows are noted.
    pub(crate) bad: BadRows,
}

impl Load {
    /// What a row consists of.
    #[must_use]
    pub(crate) const fn shape(&self) -> RowShape {
        RowShape::of(&self.schema, self.spec.delete_column.is_some())
    }
}

/// A row group to decode, in memory.
#[derive(Debug)]
pub(crate) struct Group {
    /// URL of the file.
    pub(crate) url: String,
    /// The file's place in the frozen list.
    pub(crate) file: u32,
    /// The file's footer.
    pub(crate) footer: Arc<Footer>,
    /// Which row group.
    pub(crate) number: usize,
    /// Its column chunks.
    pub(crate) chunks: Chunks,
    /// The columns.
    pub(crate) binding: Arc<Binding>,
    /// Its first row's number in the file.
    pub(crate) first_row: u64,
    /// Its first row's place in the frozen input.
    pub(crate) first_index: u32,
}

/// What became of the rows of a row group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Rows read.
    pub(crate) rows: u64,
    /// Rows without a value.
    pub(crate) nulls: u64,
    /// Numbers saturated.
    pub(crate) saturated: u64,
}

impl Decoded {
    /// Adds what became of other rows.
    pub(crate) const fn add(&mut self, more: &Self) {
        self.rows += more.rows;
        self.nulls += more.nulls;
        self.saturated += more.saturated;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    /// It deletes its key; whatever else it has does not matter.
    Delete,
    Null,
    Bad,
}

impl Fate {
    /// Whether the row becomes a row of the table's.
    const fn is_kept(self) -> bool {
        matches!(self, Self::Keep | Self::Delete)
    }
}

/// Decodes a row group into `rows`, calling `after_batch` with the batch's row count after each batch, which may seal and
/// clear them.
pub(crate) fn decode(
    group: &Group,
    load: &Load,
    rows: &mut Rows,
    after_batch: &mut dyn FnMut(&mut Rows, u64) -> Result<(), InputError>,
) -> Result<Decoded, InputError> {
    let damaged = |reason: String| InputError::Damaged { file: group.url.clone(), reason };
    let parquet = group.footer.parquet();
    let mask = ProjectionMask::roots(parquet.file_metadata().schema_descr(), group.binding.roots.iter().copied());
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(group.chunks.clone(), group.footer.arrow.clone())
        .with_row_groups(vec![group.number])
        .with_projection(mask)
        .with_batch_size(batch_rows(group, load))
        .build()
        .map_err(|error| damaged(format!("row group {} cannot be read: {error}", group.number)))?;
    let mut decoded = Decoded::default();
    let mut batches =
        Batches { group, load, codec: ValueCodec::new(&load.schema), values: Vec::new(), fates: Vec::new() };
    for batch in reader {
        let batch = batch.map_err(|error| {
            let row = group.first_row + decoded.rows;
            damaged(format!("row group {} cannot be decoded from row {row} on: {error}", group.number))
        })?;
        for slice in batches.slices(batch)? {
            batches.append(&slice, &mut decoded, rows)?;
            load.bad.check()?;
            after_batch(rows, slice.num_rows() as u64)?;
        }
    }
    let expected = group.footer.rows.get(group.number).copied().unwrap_or(0);
    if decoded.rows != expected {
        return Err(damaged(format!(
            "row group {} has {} rows, its footer says {expected}",
            group.number, decoded.rows
        )));
    }
    Ok(decoded)
}

/// Rows of a batch for this row group.
fn batch_rows(group: &Group, load: &Load) -> usize {
    let metadata = group.footer.parquet().row_group(group.number);
    let schema = metadata.schema_descr();
    let bytes: u64 = metadata
        .columns()
        .iter()
        .enumerate()
        .filter(|(leaf, _)| group.binding.roots.contains(&schema.get_column_root_idx(*leaf)))
        .map(|(_, column)| u64::try_from(column.uncompressed_size()).unwrap_or(0))
        .sum();
    let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
    // A dictionary makes rows look smaller than they are; vectors have at least their own width.
    let width = load.schema.value.fixed_width().unwrap_or(0) as u64;
    let bytes = bytes.max(rows.saturating_mul(width)).max(1);
    let by_bytes = u128::from(BATCH_BYTES) * u128::from(rows) / u128::from(bytes);
    usize::try_from(by_bytes.clamp(1, u128::from(BATCH_ROWS_MAX))).unwrap_or(1)
}

/// Appends batches; its buffers live from one to the next.
struct Batches<'a> {
    group: &'a Group,
    load: &'a Load,
    codec: ValueCodec,
    /// Stored values of a batch, of all its rows, if they have one width.
    values: Vec<u8>,
    fates: Vec<Fate>,
}

impl<'a> Batches<'a> {
    /// Cuts a batch so that what is appended at once stays small, also where a few values are very long.
    fn slices(&self, batch: RecordBatch) -> Result<Vec<RecordBatch>, InputError> {
        if self.load.schema.value != ValueType::Bytes {
            return Ok(vec![batch]);
        }
        let column = self.group.binding.values.first().and_then(|at| batch.columns().get(*at));
        let strings = column.and_then(Strings::of).ok_or_else(|| self.unexpected("the value"))?;
        let (mut slices, mut start, mut bytes) = (Vec::new(), 0, 0);
        for at in 0..batch.num_rows() {
            bytes += strings.get(at).len();
            if bytes > Rows::BYTES_MAX && at > start {
                slices.push(batch.slice(start, at - start));
                (start, bytes) = (at, strings.get(at).len());
            }
        }
        slices.push(batch.slice(start, batch.num_rows() - start));
        Ok(slices)
    }

    fn append(&mut self, batch: &RecordBatch, decoded: &mut Decoded, rows: &mut Rows) -> Result<(), InputError> {
        let (binding, first) = (&self.group.binding, decoded.rows);
        let (count, columns) = (batch.num_rows(), batch.columns());
        decoded.rows += count as u64;
        self.fates.clear();
        self.fates.resize(count, Fate::Keep);
        let key = columns.get(binding.key).ok_or_else(|| self.unexpected("the key"))?;
        self.judge_keys(key, first)?;
        if let Some(at) = binding.deletes {
            self.judge_deletes(columns.get(at).ok_or_else(|| self.unexpected("deletes"))?)?;
        }
        let values: Vec<&ArrayRef> = binding.values.iter().filter_map(|at| columns.get(*at)).collect();
        self.judge_values(&values, first, decoded)?;
        let expiry = match binding.expiry {
            Some(at) => Some(self.judge_expiry(columns.get(at).ok_or_else(|| self.unexpected("expiry"))?, first)?),
            None => None,
        };
        let nulls = self.fates.iter().filter(|fate| **fate == Fate::Null).count();
        decoded.nulls += nulls as u64;

        let base = self.group.first_index.wrapping_add(u32::try_from(first).unwrap_or(u32::MAX));
        let all = self.fates.iter().all(|fate| fate.is_kept());
        let kept = Kept { fates: &self.fates, all };
        kept.extend(&mut rows.index, (0..count).map(|at| base.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX))));
        match &mut rows.keys {
            KeyColumn::U64(keys) => append_integers(&kept, key, keys).ok_or_else(|| self.unexpected("the key"))?,
            KeyColumn::Bytes(keys) => {
                let strings = Strings::of(key).ok_or_else(|| self.unexpected("the key"))?;
                kept.each(|at| keys.push(strings.get(at)));
            }
        }
        match &mut rows.values {
            ValueColumn::Fixed { width, data } => {
                if all {
                    data.extend_from_slice(&self.values);
                } else {
                    kept.each(|at| data.extend_from_slice(&self.values[at * *width..(at + 1) * *width]));
                }
            }
            ValueColumn::Bytes(out) => {
                let column = values.first().ok_or_else(|| self.unexpected("the value"))?;
                let strings = Strings::of(column).ok_or_else(|| self.unexpected("the value"))?;
                append_strings(&kept, &strings, column, out);
            }
        }
        if rows.shape.ttl {
            match &expiry {
                Some(expiry) => kept.extend(&mut rows.expiry, expiry.iter().copied()),
                None => kept.extend(&mut rows.expiry, std::iter::repeat_n(0, count)),
            }
        }
        if rows.shape.deletes {
            kept.extend(&mut rows.deletes, self.fates.iter().map(|fate| *fate == Fate::Delete));
        }
        Ok(())
    }

    fn judge_keys(&mut self, column: &ArrayRef, first: u64) -> Result<(), InputError> {
        if column.null_count() > 0 {
            for at in 0..column.len() {
                if column.is_null(at) {
                    self.bad(at, first, &self.load.spec.key_column, Reason::NullKey);
                }
            }
        }
        if matches!(self.load.schema.key, fkv_formats::schema::KeyType::Bytes) {
            let strings = Strings::of(column).ok_or_else(|| self.unexpected("the key"))?;
            for at in 0..column.len() {
                let len = strings.get(at).len();
                if len > KEY_BYTES_MAX && self.fates[at] == Fate::Keep {
                    self.bad(at, first, &self.load.spec.key_column, Reason::KeyTooLong { len, max: KEY_BYTES_MAX });
                }
            }
        }
        Ok(())
    }

    /// Finds the rows that delete their key. Null is false.
    fn judge_deletes(&mut self, column: &ArrayRef) -> Result<(), InputError> {
        let flags = column.as_boolean_opt().ok_or_else(|| self.unexpected("deletes"))?;
        for (at, fate) in self.fates.iter_mut().enumerate() {
            if *fate == Fate::Keep && flags.is_valid(at) && flags.value(at) {
                *fate = Fate::Delete;
            }
        }
        Ok(())
    }

    /// Decides what becomes of each row by its value, and leaves the stored values of all rows in `self.values` if
    /// they have one width (those of rows that are not kept are never used).
    fn judge_values(&mut self, columns: &[&ArrayRef], first: u64, decoded: &mut Decoded) -> Result<(), InputError> {
        self.values.clear();
        match (self.load.schema.value, columns) {
            (ValueType::Bytes, [column]) => self.judge_bytes(column, first),
            (ValueType::I64, [column]) => self.judge_i64(column, first),
            (ValueType::F32(d) | ValueType::F16(d), _) => {
                decoded.saturated += self.judge_vectors(columns, usize::from(d), first)?;
                Ok(())
            }
            _ => Err(self.unexpected("the value")),
        }
    }

    fn judge_bytes(&mut self, column: &ArrayRef, first: u64) -> Result<(), InputError> {
        let strings = Strings::of(column).ok_or_else(|| self.unexpected("the value"))?;
        for at in 0..column.len() {
            if self.fates[at] != Fate::Keep {
                continue;
            }
            let len = strings.get(at).len();
            if column.is_null(at) {
                self.null(at);
            } else if len > VALUE_BYTES_MAX {
                let reason = Reason::ValueTooLong { len, max: VALUE_BYTES_MAX };
                self.bad(at, first, self.value_column(0), reason);
            }
        }
        Ok(())
    }

    fn judge_i64(&mut self, column: &ArrayRef, first: u64) -> Result<(), InputError> {
        let mut bits = Vec::with_capacity(column.len());
        let everything = Kept { fates: &[], all: true };
        append_integers(&everything, column, &mut bits).ok_or_else(|| self.unexpected("the value"))?;
        if column.data_type() == &DataType::UInt64 {
            for (at, number) in bits.iter().enumerate() {
                if *number > i64::MAX as u64 && column.is_valid(at) && self.fates[at] == Fate::Keep {
                    let reason = Reason::OutOfRange { number: number.to_string(), stored: "i64" };
                    self.bad(at, first, self.value_column(0), reason);
                }
            }
        }
        if column.null_count() > 0 {
            for (at, number) in bits.iter_mut().enumerate() {
                if column.is_null(at) {
                    *number = 0;
                    if self.fates[at] == Fate::Keep {
                        self.null(at);
                    }
                }
            }
        }
        self.values.extend(bits.iter().flat_map(|number| number.to_le_bytes()));
        Ok(())
    }

    fn judge_vectors(&mut self, columns: &[&ArrayRef], dimension: usize, first: u64) -> Result<u64, InputError> {
        let vectors = Vectors::of(columns).ok_or_else(|| self.unexpected("the value"))?;
        let rows = self.fates.len();
        if let Some(numbers) = vectors.plain(rows, dimension) {
            let mut rejected = Vec::new();
            let saturated = self
                .codec
                .encode_f32_rows(numbers, &mut self.values, &mut rejected)
                .map_err(|_| self.unexpected("the value"))?;
            for at in rejected {
                if self.fates[at] == Fate::Keep {
                    let row = &numbers[at * dimension..(at + 1) * dimension];
                    let reason = match self.codec.encode_f32s(row, &mut Vec::new()) {
                        Err(ValueError::Overflow { number, .. }) => Reason::OutOfRange { number, stored: "f16" },
                        _ => continue,
                    };
                    self.bad(at, first, self.value_column(0), reason);
                }
            }
            return Ok(saturated);
        }
        let (mut saturated, mut patched) = (0, Vec::new());
        for at in 0..rows {
            let start = self.values.len();
            if self.fates[at] == Fate::Keep {
                match vectors.row(at, dimension).and_then(|vector| self.encode(&vector, &mut patched)) {
                    Ok(Some(count)) => saturated += count,
                    Ok(None) => self.null(at),
                    Err(reason) => {
                        let blamed = if let Reason::NullElement { at } = reason { at } else { 0 };
                        self.bad(at, first, self.value_column(blamed), reason);
                    }
                }
            }
            if self.values.len() == start {
                self.codec.encode_zero(&mut self.values);
            }
        }
        Ok(saturated)
    }

    /// Appends the stored form of one vector; `None` if there is none.
    fn encode(&mut self, vector: &Vector<'_>, patched: &mut Vec<f32>) -> Result<Option<u64>, Reason> {
        let elements = match vector {
            Vector::Null => return Ok(None),
            Vector::Elements(elements) => elements,
            Vector::WithNulls(elements, nulls) => {
                if self.load.spec.nulls == NullPolicy::Skip {
                    return Err(Reason::NullElement { at: nulls.first().copied().unwrap_or(0) });
                }
                patched.clear();
                patched.extend_from_slice(elements);
                for at in nulls {
                    patched[*at] = 0.0;
                }
                patched.as_slice()
            }
        };
        match self.codec.encode_f32s(elements, &mut self.values) {
            Ok(saturated) => Ok(Some(saturated)),
            Err(ValueError::Overflow { number, .. }) => Err(Reason::OutOfRange { number, stored: "f16" }),
            Err(other) => Err(Reason::Other(other.to_string())),
        }
    }

    fn judge_expiry(&mut self, column: &ArrayRef, first: u64) -> Result<Vec<u32>, InputError> {
        let mut seconds = Vec::with_capacity(column.len());
        let everything = Kept { fates: &[], all: true };
        append_integers(&everything, column, &mut seconds).ok_or_else(|| self.unexpected("expiry"))?;
        let name = self.load.spec.expiry_column.as_deref().unwrap_or_default();
        let mut expiry = Vec::with_capacity(column.len());
        for (at, bits) in seconds.into_iter().enumerate() {
            if column.is_null(at) {
                expiry.push(0);
                continue;
            }
            // A negative number came out sign-extended, so that it too is far beyond u32.
            let time = u32::try_from(bits);
            if time.is_err() && self.fates[at] == Fate::Keep {
                let signed = column.data_type().is_signed_integer();
                let number = if signed { bits.cast_signed().to_string() } else { bits.to_string() };
                self.bad(at, first, name, Reason::BadExpiry { number });
            }
            expiry.push(time.unwrap_or(0));
        }
        Ok(expiry)
    }

    /// A row without a value: no record, or a zero.
    fn null(&mut self, at: usize) {
        if self.load.spec.nulls == NullPolicy::Skip {
            self.fates[at] = Fate::Null;
        }
    }

    fn bad(&mut self, at: usize, first: u64, column: &str, reason: Reason) {
        self.fates[at] = Fate::Bad;
        let row = self.group.first_row + first + at as u64;
        self.load.bad.note(self.group.file, row, || BadRow {
            file: self.group.url.clone(),
            place: RowPlace::row(row),
            column: Some(column.to_owned()),
            reason: reason.to_string(),
        });
    }

    /// The value column to blame for a row: the one whose dimension it is, if they are several.
    fn value_column(&self, at: usize) -> &'a str {
        let columns = &self.load.spec.value_columns;
        columns.get(at).or(columns.first()).map_or("", String::as_str)
    }

    /// A column that is not what its binding promised: the file's schema and its data disagree.
    fn unexpected(&self, what: &str) -> InputError {
        let reason = format!("the column of {what} does not decode to the type that the schema names");
        InputError::Damaged { file: self.group.url.clone(), reason }
    }
}

/// The rows of a batch that are kept.
struct Kept<'a> {
    fates: &'a [Fate],
    all: bool,
}

impl Kept<'_> {
    fn deletes(&self, at: usize) -> bool {
        self.fates.get(at) == Some(&Fate::Delete)
    }

    fn extend<T>(&self, out: &mut Vec<T>, values: impl Iterator<Item = T>) {
        if self.all {
            out.extend(values);
        } else {
            out.extend(values.zip(self.fates).filter(|(_, fate)| fate.is_kept()).map(|(value, _)| value));
        }
    }

    /// Calls `keep` for each kept row.
    fn each(&self, mut keep: impl FnMut(usize)) {
        for (at, fate) in self.fates.iter().enumerate() {
            if fate.is_kept() {
                keep(at);
            }
        }
    }
}

/// Appends integers as 64 bits; signed ones are sign-extended. `None` if the column holds something else.
fn append_integers(kept: &Kept<'_>, column: &ArrayRef, out: &mut Vec<u64>) -> Option<()> {
    macro_rules! widen {
        ($type:ty, $wide:ty) => {
            kept.extend(
                out,
                column.as_primitive::<$type>().values().iter().map(|value| {
                    let wide = <$wide>::from(*value);
                    u64::from_ne_bytes(wide.to_ne_bytes())
                }),
            )
        };
    }
    match column.data_type() {
        DataType::Int8 => widen!(Int8Type, i64),
        DataType::Int16 => widen!(Int16Type, i64),
        DataType::Int32 => widen!(Int32Type, i64),
        DataType::Int64 => widen!(Int64Type, i64),
        DataType::UInt8 => widen!(UInt8Type, u64),
        DataType::UInt16 => widen!(UInt16Type, u64),
        DataType::UInt32 => widen!(UInt32Type, u64),
        DataType::UInt64 => widen!(UInt64Type, u64),
        _ => return None,
    }
    Some(())
}

fn append_strings(kept: &Kept<'_>, strings: &Strings<'_>, column: &ArrayRef, out: &mut ByteColumn) {
    // A null that is kept stands for the empty string. What a row that deletes has may be longer than a value can be.
    kept.each(|at| out.push(if column.is_null(at) || kept.deletes(at) { b"" } else { strings.get(at) }));
}

/// A column of strings or bytes.
enum Strings<'a> {
    Utf8(&'a arrow_array::StringArray),
    LargeUtf8(&'a arrow_array::LargeStringArray),
    Utf8View(&'a arrow_array::StringViewArray),
    Binary(&'a arrow_array::BinaryArray),
    BinaryView(&'a arrow_array::BinaryViewArray),
    LargeBinary(&'a arrow_array::LargeBinaryArray),
    Fixed(&'a arrow_array::FixedSizeBinaryArray),
}

impl<'a> Strings<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        Some(match column.data_type() {
            DataType::Utf8 => Self::Utf8(column.as_string_opt()?),
            DataType::LargeUtf8 => Self::LargeUtf8(column.as_string_opt()?),
            DataType::Utf8View => Self::Utf8View(column.as_string_view_opt()?),
            DataType::Binary => Self::Binary(column.as_binary_opt()?),
            DataType::BinaryView => Self::BinaryView(column.as_binary_view_opt()?),
            DataType::LargeBinary => Self::LargeBinary(column.as_binary_opt()?),
            DataType::FixedSizeBinary(_) => Self::Fixed(column.as_fixed_size_binary_opt()?),
            _ => return None,
        })
    }

    /// The bytes at `at`; what stands in a null place has no meaning.
    fn get(&self, at: usize) -> &'a [u8] {
        match self {
            Self::Utf8(column) => column.value(at).as_bytes(),
            Self::LargeUtf8(column) => column.value(at).as_bytes(),
            Self::Utf8View(column) => column.value(at).as_bytes(),
            Self::Binary(column) => column.value(at),
            Self::BinaryView(column) => column.value(at),
            Self::LargeBinary(column) => column.value(at),
            Self::Fixed(column) => column.value(at),
        }
    }
}
