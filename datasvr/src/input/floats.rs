//! Numeric columns as vectors of `f32`.
//!
//! ```text
//!   one numeric column ─────────┐
//!   d numeric columns (tiles) ──┼─▶ flat f32 + a span per row ─▶ checks ─▶ `ValueCodec`
//!   one list column ────────────┘
//! ```

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;

use super::bad::Reason;

/// Rows of a tile when d columns are transposed: a tile of 128 rows × 64 columns is 32 KiB.
const TILE_ROWS: usize = 128;
const TILE_COLUMNS: usize = 64;

/// Where each row's elements lie in the flat column.
#[derive(Debug)]
enum Spans {
    /// Row `i` has `width` elements from `first + i · width` on.
    Even { first: usize, width: usize },
    /// Row `i` has the elements `ends[i]..ends[i + 1]`.
    Lists(Vec<usize>),
}

/// The vectors of a batch.
#[derive(Debug)]
pub(crate) struct Vectors {
    flat: Vec<f32>,
    spans: Spans,
    /// Rows without a value.
    null_rows: Option<NullBuffer>,
    /// Elements without a value, by place in `flat`.
    null_elements: Option<NullBuffer>,
    /// Places in `flat` of finite numbers that are too large for f32, ascending, with the number as it was.
    too_large: Vec<(usize, String)>,
}

/// One row's vector.
pub(crate) enum Vector<'a> {
    /// There is none.
    Null,
    /// Its elements.
    Elements(&'a [f32]),
    /// Its elements, of which some are null, by place within the row.
    WithNulls(&'a [f32], Vec<usize>),
}

impl Vectors {
    /// The vectors in `columns`: one column of numbers or lists, or one column of numbers per dimension.
    /// `None` if a column has a type that binding does not let through.
    pub(crate) fn of(columns: &[&ArrayRef]) -> Option<Self> {
        match columns {
            [column] => match column.data_type() {
                DataType::List(_) => {
                    let list = column.as_list::<i32>();
                    let ends = list.value_offsets().iter().map(|end| usize::try_from(*end).unwrap_or(0)).collect();
                    Self::flat(list.values(), Spans::Lists(ends), list.nulls())
                }
                DataType::LargeList(_) => {
                    let list = column.as_list::<i64>();
                    let ends = list.value_offsets().iter().map(|end| usize::try_from(*end).unwrap_or(0)).collect();
                    Self::flat(list.values(), Spans::Lists(ends), list.nulls())
                }
                DataType::FixedSizeList(_, _) => {
                    let list = column.as_fixed_size_list();
                    let width = usize::try_from(list.value_length()).ok()?;
                    let first = if list.is_empty() { 0 } else { list.value_offset_at(0) };
                    Self::flat(list.values(), Spans::Even { first, width }, list.nulls())
                }
                _ => {
                    let mut vectors = Self::flat(column, Spans::Even { first: 0, width: 1 }, column.nulls())?;
                    // A null number is a row without a value, not a vector with a null element.
                    vectors.null_elements = None;
                    Some(vectors)
                }
            },
            _ => Self::transposed(columns),
        }
    }

    fn flat(values: &ArrayRef, spans: Spans, null_rows: Option<&NullBuffer>) -> Option<Self> {
        let mut flat = Vec::new();
        let too_large = to_f32(values, &mut flat)?;
        Some(Self { flat, spans, null_rows: null_rows.cloned(), null_elements: values.nulls().cloned(), too_large })
    }

    /// d columns to rows of d elements, tile by tile so that both sides stay in cache.
    fn transposed(columns: &[&ArrayRef]) -> Option<Self> {
        let (width, rows) = (columns.len(), columns.first()?.len());
        let mut flat = vec![0f32; width * rows];
        let mut too_large = Vec::new();
        let mut group = vec![Vec::new(); TILE_COLUMNS];
        for (at, columns) in columns.chunks(TILE_COLUMNS).enumerate() {
            let left = at * TILE_COLUMNS;
            for (offset, column) in columns.iter().enumerate() {
                let found = to_f32(column, &mut group[offset])?;
                too_large.extend(found.into_iter().map(|(row, number)| (row * width + left + offset, number)));
            }
            for top in (0..rows).step_by(TILE_ROWS) {
                let bottom = rows.min(top + TILE_ROWS);
                for (offset, column) in group.iter().take(columns.len()).enumerate() {
                    for (row, value) in column[top..bottom].iter().enumerate() {
                        flat[(top + row) * width + left + offset] = *value;
                    }
                }
            }
        }
        too_large.sort_unstable();
        let (mut null_rows, mut null_elements) = (None, None);
        if columns.iter().any(|column| column.null_count() > 0) {
            let mut present = vec![true; width * rows];
            let mut some_present = vec![false; rows];
            for (c, column) in columns.iter().enumerate() {
                for row in 0..rows {
                    let valid = column.is_valid(row);
                    present[row * width + c] = valid;
                    some_present[row] |= valid;
                }
            }
            (null_rows, null_elements) = (Some(NullBuffer::from(some_present)), Some(NullBuffer::from(present)));
        }
        Some(Self { flat, spans: Spans::Even { first: 0, width }, null_rows, null_elements, too_large })
    }

    /// All elements of all rows, if there are `rows` rows that need no check of their own.
    pub(crate) fn plain(&self, rows: usize, dimension: usize) -> Option<&[f32]> {
        let clean = self.too_large.is_empty()
            && self.null_rows.as_ref().is_none_or(|nulls| nulls.null_count() == 0)
            && self.null_elements.as_ref().is_none_or(|nulls| nulls.null_count() == 0);
        if !clean {
            return None;
        }
        let first = match &self.spans {
            Spans::Even { first, width } if *width == dimension => *first,
            Spans::Lists(ends) if ends.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == dimension) => {
                *ends.first()?
            }
            _ => return None,
        };
        self.flat.get(first..first.checked_add(rows.checked_mul(dimension)?)?)
    }

    /// The vector of a row, which must have `dimension` elements.
    pub(crate) fn row(&self, row: usize, dimension: usize) -> Result<Vector<'_>, Reason> {
        if self.null_rows.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(Vector::Null);
        }
        let (start, end) = match &self.spans {
            Spans::Even { first, width } => (first + row * width, first + (row + 1) * width),
            Spans::Lists(ends) => (ends[row], ends[row + 1]),
        };
        if end.saturating_sub(start) != dimension {
            return Err(Reason::WrongLength { found: end.saturating_sub(start), expected: dimension });
        }
        let elements = &self.flat[start..end];
        let mut nulls = Vec::new();
        if let Some(buffer) = &self.null_elements {
            nulls.extend((start..end).filter(|at| buffer.is_null(*at)).map(|at| at - start));
        }
        let next = self.too_large.partition_point(|(at, _)| *at < start);
        if let Some((_, number)) =
            self.too_large[next..].iter().take_while(|(at, _)| *at < end).find(|(at, _)| !nulls.contains(&(at - start)))
        {
            return Err(Reason::OutOfRange { number: number.clone(), stored: "f32" });
        }
        Ok(if nulls.is_empty() { Vector::Elements(elements) } else { Vector::WithNulls(elements, nulls) })
    }
}

/// Replaces `out` by the numbers of `column`, rounded to f32, whatever stands in null places. Returns the places of
/// finite numbers that became infinite; `None` for a type that is no number.
fn to_f32(column: &ArrayRef, out: &mut Vec<f32>) -> Option<Vec<(usize, String)>> {
    macro_rules! rounded {
        ($type:ty) => {{
            out.extend(column.as_primitive::<$type>().values().iter().map(|value| *value as f32));
        }};
    }
    out.clear();
    out.reserve(column.len());
    let mut too_large = Vec::new();
    match column.data_type() {
        DataType::Float32 => out.extend_from_slice(column.as_primitive::<Float32Type>().values()),
        DataType::Float16 => {
            out.extend(column.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()));
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            #[allow(
                clippy::cast_possible_truncation,
                reason = "rounding is what is wanted; overflow is checked below"
            )]
            out.extend(values.iter().map(|value| *value as f32));
            // Almost no column has such a number: look for the places only if there is one.
            if out.iter().zip(values.iter()).any(|(narrow, wide)| narrow.is_infinite() && wide.is_finite()) {
                let places = out.iter().zip(values.iter()).enumerate();
                too_large = places
                    .filter(|(_, (narrow, wide))| narrow.is_infinite() && wide.is_finite())
                    .map(|(at, (_, wide))| (at, format!("{wide:e}")))
                    .collect();
            }
        }
        DataType::Int8 => rounded!(Int8Type),
        DataType::Int16 => rounded!(Int16Type),
        DataType::Int32 => rounded!(Int32Type),
        DataType::Int64 => rounded!(Int64Type),
        DataType::UInt8 => rounded!(UInt8Type),
        DataType::UInt16 => rounded!(UInt16Type),
        DataType::UInt32 => rounded!(UInt32Type),
        DataType::UInt64 => rounded!(UInt64Type),
        _ => return None,
    }
    Some(too_large)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float32Array, Float64Array, Int32Array, ListArray};

    use super::*;

    #[test]
    fn columns_transpose_across_tile_borders() {
        let (width, rows) = (TILE_COLUMNS + 3, TILE_ROWS * 2 + 5);
        let columns: Vec<ArrayRef> = (0..width)
            .map(|c| Arc::new(Int32Array::from_iter_values((0..rows).map(|r| (r * 100 + c) as i32))) as ArrayRef)
            .collect();
        let vectors = Vectors::of(&columns.iter().collect::<Vec<_>>()).expect("numbers");
        let plain = vectors.plain(rows, width).expect("nothing to check");
        for row in 0..rows {
            for c in 0..width {
                assert_eq!(plain[row * width + c], (row * 100 + c) as f32);
            }
        }
    }

    #[test]
    fn a_double_beyond_f32_is_found_and_an_infinity_is_kept() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), Some(1e39), Some(f64::INFINITY), None]));
        let vectors = Vectors::of(&[&column]).expect("numbers");
        assert!(vectors.plain(4, 1).is_none());
        assert!(matches!(vectors.row(0, 1), Ok(Vector::Elements(&[1.5]))));
        let Err(Reason::OutOfRange { number, stored: "f32" }) = vectors.row(1, 1) else { panic!("1e39 fits f32?") };
        assert_eq!(number, "1e39");
        assert!(matches!(vectors.row(2, 1), Ok(Vector::Elements(&[f32::INFINITY]))));
        assert!(matches!(vectors.row(3, 1), Ok(Vector::Null)));
    }

    #[test]
    fn lists_of_another_length_and_null_elements_are_told_apart() {
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
            Some(vec![Some(1.0), Some(2.0)]),
            Some(vec![Some(1.0)]),
            None,
            Some(vec![Some(1.0), None]),
        ]));
        let vectors = Vectors::of(&[&lists]).expect("lists");
        assert!(matches!(vectors.row(0, 2), Ok(Vector::Elements(&[1.0, 2.0]))));
        assert!(matches!(vectors.row(1, 2), Err(Reason::WrongLength { found: 1, expected: 2 })));
        assert!(matches!(vectors.row(2, 2), Ok(Vector::Null)));
        let Ok(Vector::WithNulls(_, nulls)) = vectors.row(3, 2) else { panic!("there is a null") };
        assert_eq!(nulls, [1]);
        let whole: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(
            (0..3u8).map(|n| Some(vec![Some(f32::from(n)), Some(-1.0)])),
        ));
        let sliced = whole.slice(1, 2);
        assert_eq!(Vectors::of(&[&sliced]).expect("lists").plain(2, 2), Some(&[1.0, -1.0, 2.0, -1.0][..]));
    }

    #[test]
    fn a_row_that_is_null_in_every_column_has_no_value() {
        let a: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, None]));
        let b: ArrayRef = Arc::new(Float32Array::from(vec![Some(2.0), Some(3.0), None]));
        let vectors = Vectors::of(&[&a, &b]).expect("numbers");
        assert!(matches!(vectors.row(0, 2), Ok(Vector::Elements(&[1.0, 2.0]))));
        assert!(matches!(vectors.row(1, 2), Ok(Vector::WithNulls(..))));
        assert!(matches!(vectors.row(2, 2), Ok(Vector::Null)));
    }
}
