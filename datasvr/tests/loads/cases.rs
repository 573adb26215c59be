//! Loads of all kinds, whose input can be written as Parquet and as text.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field};
use fkv_datasvr::{DataConfig, DataServer};
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_rpc::control as rpc;
use parquet::file::properties::WriterProperties;

use crate::kills::SlowClock;
use crate::parquet_files::{file_with, ids};
use crate::world::{World, load, table, with};

/// A column of a file.
pub(crate) type Column = (&'static str, ArrayRef);

/// How the files of a case are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// As Parquet, in row groups of 300 rows.
    Parquet,
    /// As CSV.
    Csv,
    /// As JSON lines, every other file compressed as a whole.
    Jsonl,
}

/// A load of some kind of table, with the input for it.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) table: rpc::CreateTableRequest,
    policy: &'static str,
    written: Written,
    /// The least memory of the rows of a slice it is loaded with.
    pub(crate) slice_bytes_min: u64,
    /// Columns of each file.
    pub(crate) files: Vec<Vec<Column>>,
}

pub(crate) fn groups_of(rows: usize) -> WriterProperties {
    WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build()
}

/// Vectors of 16 floats, each id in several files.
pub(crate) fn vectors() -> Case {
    let files = (0..6i64).map(|file| {
        let ids: Vec<i64> = (0..2500).map(|n| n * 7 % 9000 + file * 500).collect();
        let values = ids.iter().flat_map(|id| (0..16).map(move |at| (*id * 100 + at + file * 10) as f32));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let values = FixedSizeListArray::new(item, 16, Arc::new(Float32Array::from_iter_values(values)), None);
        vec![("id", Arc::new(Int64Array::from(ids)) as ArrayRef), ("v", Arc::new(values) as ArrayRef)]
    });
    Case { name: "vectors", table: table("t", "f32[16]"), policy: "last", ..Case::new(files) }
}

/// Strings to strings with expiry times, some of which have passed; with nulls, rows that delete keys, and keys in several
/// files.
pub(crate) fn strings() -> Case {
    let files = (0..5u32).map(|file| {
        let keys: Vec<String> = (0..2000u32).map(|n| format!("user:{}", (n * 13 + file * 700) % 6000)).collect();
        let values = (0..2000u32).map(|n| (n % 19 != 0).then(|| format!("{file}-{n} ").repeat((n % 37) as usize)));
        let values: Vec<Option<String>> = values.collect();
        let until = (0..2000u32).map(|n| match n % 5 {
            0 => None,
            1 => Some(SlowClock::SECOND as u32 - 1000 + n),
            _ => Some(SlowClock::SECOND as u32 + 1_000_000 + n),
        });
        let values = BinaryArray::from_iter(values.iter().map(|value| value.as_ref().map(String::as_bytes)));
        vec![
            ("id", Arc::new(StringArray::from(keys)) as ArrayRef),
            ("v", Arc::new(values) as ArrayRef),
            ("until", Arc::new(UInt32Array::from_iter(until)) as ArrayRef),
            ("gone", Arc::new(BooleanArray::from_iter((0..2000u32).map(|n| (n % 3 != 0).then_some(n % 11 == 4))))),
        ]
    });
    let table = rpc::CreateTableRequest { key_type: "bytes".into(), ttl: true, ..table("t", "bytes") };
    Case { name: "strings", table, policy: "first", ..Case::new(files) }
}

/// All keys but a few in one part, which is more than the least memory of a job can build at once.
pub(crate) fn hot_part() -> Case {
    let width = u64::MAX / 2400;
    let key = |n: u64| unhash_u64(7 * width + 1000 + hash_u64(n % 16_000) % (width - 2000)).cast_signed();
    let files = (0..4u64).map(|file| {
        let range = file * 5000..file * 5000 + 5000;
        let keys = range.clone().map(|n| if n % 1000 == 0 { n.cast_signed() } else { key(n) });
        let values = range.clone().flat_map(|n| (0..64).map(move |at| (n * 64 + at) as f32));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let values = FixedSizeListArray::new(item, 64, Arc::new(Float32Array::from_iter_values(values)), None);
        vec![("id", ids(keys.collect::<Vec<_>>())), ("v", Arc::new(values) as ArrayRef)]
    });
    // More slices than these cannot be merged in the memory that this part is too large for.
    Case { name: "hot part", table: table("t", "f32[64]"), slice_bytes_min: 256 << 10, ..Case::new(files) }
}

impl Case {
    fn new(files: impl Iterator<Item = Vec<Column>>) -> Self {
        let files = files.collect();
        let (written, table) = (Written::Parquet, table("t", "f32"));
        Self { name: "", table, policy: "last", written, slice_bytes_min: 0, files }
    }

    pub(crate) fn of_kind(mut self, kind: &'static str) -> Self {
        self.table.kind = kind.into();
        if kind == "blk" {
            self.table.filter = "fuse8".into();
        }
        self
    }

    pub(crate) fn with_policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    pub(crate) fn written(self, written: Written) -> Self {
        Self { written, ..self }
    }

    pub(crate) fn is_text(&self) -> bool {
        self.written != Written::Parquet
    }

    pub(crate) fn request(&self, world: &World) -> rpc::SubmitLoadRequest {
        with(load("t", world.url("in")), |spec| {
            spec.duplicates = self.policy.into();
            spec.format = match self.written {
                Written::Parquet => "parquet",
                Written::Csv => "csv",
                Written::Jsonl => "jsonl",
            }
            .into();
            if self.table.ttl {
                spec.expiry_column = "until".into();
            }
            if self.files[0].iter().any(|(name, _)| *name == "gone") {
                spec.delete_column = "gone".into();
            }
        })
    }

    /// A world with the table and the input, and nobody who works. The table has the same uid in each.
    pub(crate) async fn world(&self) -> (World, DataServer) {
        let mut world = World::new().await;
        world.env.clock = Arc::new(SlowClock { inner: Arc::clone(&world.env.clock) });
        let server = world.server_with(DataConfig { work: false, ..world.config("api") }).await;
        world.client(&server).create_table(self.table.clone()).await.expect("created");
        self.put(&world);
        (world, server)
    }

    /// Writes the input.
    pub(crate) fn put(&self, world: &World) {
        for (at, columns) in self.files.iter().enumerate() {
            // Files without rows stand between the others, and have nothing that a job could read.
            let none: Vec<Column> = columns.iter().map(|(name, column)| (*name, column.slice(0, 0))).collect();
            for (kind, columns) in [("part", columns), ("part-empty", &none)] {
                let bytes = match self.written {
                    Written::Parquet => file_with(columns.clone(), groups_of(300)),
                    Written::Csv => csv(columns),
                    Written::Jsonl if at % 2 == 0 => jsonl(columns),
                    Written::Jsonl => gzip(&jsonl(columns)),
                };
                world.put(&format!("in/{at}-{kind}"), &bytes);
            }
        }
    }
}

/// A value of a column.
enum Cell {
    Null,
    Text(String),
    /// A number, true or false, or a list of numbers.
    Number(String),
}

fn cell(column: &ArrayRef, row: usize) -> Cell {
    fn numbers(list: &FixedSizeListArray, row: usize) -> Option<String> {
        let values = list.value(row);
        let values: &Float32Array = values.as_any().downcast_ref()?;
        let values: Vec<String> = values.values().iter().map(f32::to_string).collect();
        Some(format!("[{}]", values.join(", ")))
    }
    if column.is_null(row) {
        return Cell::Null;
    }
    let any = column.as_any();
    let number = any
        .downcast_ref::<Int64Array>()
        .map(|column| column.value(row).to_string())
        .or_else(|| any.downcast_ref::<BooleanArray>().map(|column| column.value(row).to_string()))
        .or_else(|| any.downcast_ref::<UInt32Array>().map(|column| column.value(row).to_string()))
        .or_else(|| any.downcast_ref::<FixedSizeListArray>().and_then(|column| numbers(column, row)));
    let text = any
        .downcast_ref::<StringArray>()
        .map(|column| column.value(row).to_owned())
        .or_else(|| any.downcast_ref::<BinaryArray>().map(|column| String::from_utf8_lossy(column.value(row)).into()));
    match (number, text) {
        (Some(number), _) => Cell::Number(number),
        (None, Some(text)) => Cell::Text(text),
        (None, None) => panic!("a column of type {}", column.data_type()),
    }
}

fn csv(columns: &[Column]) -> Vec<u8> {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut text = names.join(",") + "\n";
    for row in 0..columns[0].1.len() {
        let fields = columns.iter().map(|(_, column)| match cell(column, row) {
            Cell::Null => String::new(),
            Cell::Text(text) | Cell::Number(text) => format!("\"{text}\""),
        });
        text += &(fields.collect::<Vec<_>>().join(",") + "\n");
    }
    text.into_bytes()
}

fn jsonl(columns: &[Column]) -> Vec<u8> {
    let mut text = String::new();
    for row in 0..columns[0].1.len() {
        let members = columns.iter().filter_map(|(name, column)| match cell(column, row) {
            Cell::Null => None,
            Cell::Text(text) => Some(format!("\"{name}\": \"{text}\"")),
            Cell::Number(number) => Some(format!("\"{name}\": {number}")),
        });
        text += &format!("{{{}}}\n", members.collect::<Vec<_>>().join(", "));
    }
    text.into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}
