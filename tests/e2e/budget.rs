//! A load of many times the memory that a worker may use, in a process of its own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, PrimitiveArray, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field};
use fkv_env::Env;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_rpc::control::LoadSpec;
use fkv_tests::control::{Control, full_load};
use fkv_tests::process::{Server, binary, free_ports};
use fkv_tests::wait;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

const MIB: u64 = 1 << 20;
/// What `--build-memory` allows.
const BUDGET: u64 = 32 * MIB;
/// The rows take so many times as much.
const TIMES: u64 = 20;
/// Memory of the process beside the budget: code, threads, batches of decoded rows, bytes on their way to the store, footers,
/// directories of slices, and what the allocator keeps.
const BESIDE: u64 = 224 * MIB;
const DIMENSION: u64 = 64;
const ROW_BYTES: u64 = 12 + 4 * DIMENSION;
const ROWS: u64 = BUDGET * TIMES / ROW_BYTES + 1;
const FILES: u64 = 4;

/// Writes the rows of one file in row groups of half a megabyte, with keys in no order.
#[allow(clippy::disallowed_methods, reason = "writes the input of a test, as a user's job would")]
fn write(path: &Path, rows: std::ops::Range<u64>) {
    const GROUP: u64 = 2048;
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(usize::try_from(GROUP).expect("small")))
        .set_dictionary_enabled(false)
        .build();
    let mut writer: Option<ArrowWriter<File>> = None;
    for start in rows.clone().step_by(usize::try_from(GROUP).expect("small")) {
        let rows = start..rows.end.min(start + GROUP);
        let keys = UInt64Array::from_iter_values(rows.clone().map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let numbers = rows.flat_map(|n| (0..DIMENSION).map(move |at| (n * DIMENSION + at) as f32));
        let numbers: PrimitiveArray<Float32Type> = PrimitiveArray::from_iter_values(numbers);
        let width = i32::try_from(DIMENSION).expect("small");
        let values = FixedSizeListArray::new(Arc::clone(&item), width, Arc::new(numbers), None);
        let columns: Vec<(&str, ArrayRef)> = vec![("key", Arc::new(keys)), ("value", Arc::new(values))];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let writer = writer.get_or_insert_with(|| {
            let file = File::create(path).expect("the input can be created");
            ArrowWriter::try_new(file, batch.schema(), Some(properties.clone())).expect("the schema can be written")
        });
        writer.write(&batch).expect("the rows can be written");
    }
    writer.expect("some rows").close().expect("the file can be finished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "makes the directory of the input, as a user's job would")]
async fn input_of_twenty_times_the_budget_loads_within_it() {
    let env = Env::real(2).expect("threads start");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = dir.path().join("in");
    std::fs::create_dir_all(&input).expect("the directory can be made");
    for file in 0..FILES {
        write(&input.join(format!("{file}.parquet")), ROWS * file / FILES..ROWS * (file + 1) / FILES);
    }
    let port = free_ports(&env, 1)[0];
    let arguments = [
        ("--metadata", "embedded".to_owned()),
        ("--metadata-dir", dir.path().display().to_string()),
        ("--store", format!("file://{}", dir.path().join("store").display())),
        ("--allow-file-inputs", input.display().to_string()),
        ("--listen", format!("127.0.0.1:{port}")),
        ("--build-memory", BUDGET.to_string()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let mut server = Server::start("datasvr", &binary("datasvr"), arguments, &[], dir.path());
    let control = Control::new(&env, &format!("127.0.0.1:{port}"));
    control.ready().await;
    let schema = Schema {
        kind: TableKind::Mem,
        key: KeyType::U64,
        value: ValueType::F32(u16::try_from(DIMENSION).expect("small")),
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    };
    control.create("t", &schema).await;
    let load: LoadSpec = full_load([format!("file://{}", input.display())]);
    let id = control.start_load("t", load).await;
    let mut before = None;
    let task = loop {
        // However long all of it takes, it goes on.
        let task = wait::until(&env, "the load to get on", async || {
            let task = control.task("t", id).await.map_err(|status| status.to_string())?;
            let now = Some((task.state.clone(), task.progress.clone().map(|at| (at.stage, at.bytes_done))));
            wait::check(now != before, || format!("{now:?}"))?;
            before = now;
            Ok(task)
        })
        .await;
        if !matches!(task.state.as_str(), "queued" | "running") {
            break task;
        }
    };
    // There are no servers that could show it.
    assert_eq!(task.state, "aligning", "{task:?}\n{}", server.log_tail());
    let stats = task.stats.expect("stats");
    assert_eq!((stats.rows_read, stats.records, stats.duplicates), (ROWS, ROWS, 0));
    let peak = server.memory_peak();
    assert!(peak <= BUDGET + BESIDE, "{} MiB were held at once", peak / MIB);
    println!("{} MiB were held at once, for {} MiB of rows", peak / MIB, ROWS * ROW_BYTES / MIB);
    let status = server.stop(&env).await;
    assert_eq!(status.code(), Some(0), "{status}\n{}", server.log_tail());
}
