//! The demo's data: every value encodes its key and its generation, so that any answer can be judged alone.
//!
//! ```text
//!   index ─ bijective mix ─▶ user id
//!   f32 value = 24 bits, exact:  ┌ 22 bits of mix(user id, dimension) ┬ 2 bits: generation ┐
//!   generation g holds the indexes [g·shift, g·shift + rows), so that presence encodes the generation too
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use fkv_env::{Env, FileWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::failure::{Context as _, Failure, Outcome};

/// Name of the key column.
pub(super) const KEY_COLUMN: &str = "user_id";
/// Files a generation is written to.
const FILES: u64 = 2;
/// Rows given to the writer at a time.
const CHUNK_ROWS: u64 = 64 * 1024;
/// The generation takes this many low bits of a value.
const GENERATION_BITS: u32 = 2;

/// What a version contains: the first load is generation 1, the second is 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(pub(super) u32);

/// One of the demo's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Name of the table.
    pub(super) table: &'static str,
    /// Users in every generation.
    pub(super) rows: u64,
    /// Features per user.
    pub(super) dimension: u16,
}

impl Shape {
    /// How far a generation's users are ahead of those of the one before: one in a hundred leaves, one in a hundred
    /// joins.
    fn shift(&self) -> u64 {
        self.rows / 100
    }

    fn first_index(&self, generation: Generation) -> u64 {
        self.shift() * u64::from(generation.0)
    }

    /// Indexes that any generation of the demo holds, and some that none does.
    pub(super) fn index_bound(&self) -> u64 {
        self.rows + self.shift() * 4
    }

    /// The key of an index.
    pub(super) fn key(index: u64) -> u64 {
        mix(index)
    }

    /// Whether a generation holds an index.
    pub(super) fn holds(&self, generation: Generation, index: u64) -> bool {
        let first = self.first_index(generation);
        (first..first + self.rows).contains(&index)
    }

    /// The value of one feature of a user.
    #[allow(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
    pub(super) fn feature(key: u64, dimension: u16, generation: Generation) -> f32 {
        let place = mix(key ^ (u64::from(dimension) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let random = u32::try_from(place >> (64 - 24 + GENERATION_BITS)).unwrap_or(0);
        ((random << GENERATION_BITS) | (generation.0 & 3)) as f32
    }

    /// Names of the value columns.
    pub(super) fn value_columns(&self) -> Vec<String> {
        if self.dimension == 1 {
            return vec!["score".to_owned()];
        }
        (0..self.dimension).map(|dimension| format!("f{dimension}")).collect()
    }

    /// The table's value type.
    pub(super) fn value_type(&self) -> String {
        if self.dimension == 1 { "f32".to_owned() } else { format!("f32[{}]", self.dimension) }
    }
}

/// The finaliser of splitmix64, a bijection.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Writes a generation of a table as Parquet files below `dir`, on all cores. Gives the bytes written.
pub(super) async fn write(env: &Env, dir: &Path, shape: Shape, generation: Generation) -> Outcome<u64> {
    let files = env.files.clone();
    let folder = dir.to_owned();
    let create = move || files.create_dir_all(&folder);
    env.blocking(create)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
        .context(|| format!("create {}", dir.display()))?;
    let work = (0..FILES).map(|file| {
        let path = dir.join(format!("part-{file:05}.parquet"));
        let files = env.files.clone();
        let name = path.display().to_string();
        let (first, rows) = (shape.first_index(generation), shape.rows);
        let range = first + rows * file / FILES..first + rows * (file + 1) / FILES;
        let job = env.compute(move || write_file(&*files, &path, shape, generation, range));
        async move { job.await.map_err(|error| Failure::failed(error.to_string()))?.context(|| format!("write {name}")) }
    });
    let written = futures::future::try_join_all(work).await?;
    Ok(written.iter().sum())
}

fn write_file(
    files: &dyn fkv_env::Files,
    path: &Path,
    shape: Shape,
    generation: Generation,
    indexes: std::ops::Range<u64>,
) -> io::Result<u64> {
    let mut fields = vec![Field::new(KEY_COLUMN, DataType::UInt64, false)];
    fields.extend(shape.value_columns().into_iter().map(|name| Field::new(name, DataType::Float32, false)));
    let schema = Arc::new(Schema::new(fields));
    // What Spark and pyarrow write by default, but for the dictionary of the keys, which are all different.
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_column_dictionary_enabled(ColumnPath::from(KEY_COLUMN), false)
        .build();
    let file: Box<dyn FileWriter> = files.create(path)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
    let mut next = indexes.start;
    while next < indexes.end {
        let end = indexes.end.min(next + CHUNK_ROWS);
        let keys: Vec<u64> = (next..end).map(Shape::key).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(keys.clone()))];
        for dimension in 0..shape.dimension {
            let values: Vec<f32> = keys.iter().map(|&key| Shape::feature(key, dimension, generation)).collect();
            columns.push(Arc::new(Float32Array::from(values)));
        }
        writer.write(&RecordBatch::try_new(schema.clone(), columns).map_err(io::Error::other)?)?;
        next = end;
    }
    writer.finish()?;
    let bytes = u64::try_from(writer.bytes_written()).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { table: "t", rows: 10_000, dimension: 16 };

    #[test]
    fn a_value_tells_its_generation_and_most_often_its_key() {
        for index in 0..1000 {
            let key = Shape::key(index);
            for dimension in [0, 1, 15] {
                for generation in [Generation(1), Generation(2)] {
                    let value = Shape::feature(key, dimension, generation);
                    assert!(value < 16_777_216.0 && value.fract() == 0.0, "{value} is exact");
                    assert_eq!(value % 4.0, if generation == Generation(1) { 1.0 } else { 2.0 });
                    let other = Shape::feature(Shape::key(index + 1), dimension, generation);
                    assert_ne!(value.to_bits(), other.to_bits(), "index {index}, dimension {dimension}");
                }
            }
        }
    }

    #[test]
    fn presence_tells_the_generation_too() {
        let held = |generation| (0..SHAPE.index_bound()).filter(|&i| SHAPE.holds(Generation(generation), i)).count();
        assert_eq!((held(1), held(2)), (10_000, 10_000));
        let only = |a, b| {
            (0..SHAPE.index_bound())
                .filter(|&i| SHAPE.holds(Generation(a), i) && !SHAPE.holds(Generation(b), i))
                .count()
        };
        assert_eq!((only(1, 2), only(2, 1)), (100, 100));
        assert!(!SHAPE.holds(Generation(2), SHAPE.index_bound() - 1), "some are in no generation");
    }
}
