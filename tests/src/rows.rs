//! Input files of modelled tables, with columns `key`, `value` and, where records expire, `until`.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use fkv_formats::id::Version;
use parquet::arrow::ArrowWriter;

use crate::model::{Model, Shape};

/// Writes the rows of `version` to `path`, creating directories. Gives the number of rows.
///
/// # Panics
/// The file cannot be written.
#[allow(clippy::disallowed_methods, reason = "writes the input of a test, as a user's job would")]
pub fn write_parquet(model: &Model, version: Version, path: &Path) -> u64 {
    std::fs::create_dir_all(path.parent().expect("an input lies in a directory")).expect("the directory can be made");
    let rows: Vec<_> = (0..model.keys).filter_map(|i| Some((model.key(i), model.row(version, i)?))).collect();
    let keys = UInt64Array::from_iter_values(rows.iter().map(|(key, _)| *key));
    let values: ArrayRef = match model.shape {
        Shape::Bytes => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, row)| &row.value))),
        Shape::I64 => Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|(_, row)| i64::from_le_bytes(row.value.as_slice().try_into().expect("eight bytes"))),
        )),
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![("key", Arc::new(keys)), ("value", values)];
    if model.expiring_around.is_some() {
        columns.push(("until", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(_, row)| row.expiry)))));
    }
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = File::create(path).expect("the input can be created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("the schema can be written");
    writer.write(&batch).expect("the rows can be written");
    writer.close().expect("the file can be finished");
    rows.len() as u64
}

/// Writes the rows of `version` with these indices to `path` as CSV, creating directories. The values are integers.
///
/// # Panics
/// The file cannot be written, or the model has other values.
#[allow(clippy::disallowed_methods, reason = "writes the input of a test, as a user's job would")]
pub fn write_csv(model: &Model, version: Version, indices: Range<u64>, path: &Path) {
    assert!(model.shape == Shape::I64 && model.expiring_around.is_none(), "{model:?}");
    std::fs::create_dir_all(path.parent().expect("an input lies in a directory")).expect("the directory can be made");
    let mut text = "key,value\n".to_owned();
    for (key, row) in indices.filter_map(|i| Some((model.key(i), model.row(version, i)?))) {
        let value = i64::from_le_bytes(row.value.as_slice().try_into().expect("eight bytes"));
        text += &format!("{key},{value}\n");
    }
    std::fs::write(path, text).expect("the input can be written");
}
