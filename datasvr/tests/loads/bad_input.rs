//! Bad input, row by row of the table in docs/loading.md: what is wrong ─▶ message ─▶ state of the task.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, StructArray, TimestampMillisecondArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field};
use fkv_datasvr::DataConfig;
use fkv_datasvr::DataServer;
use fkv_rpc::control as rpc;
use fkv_rpc::control::control_client::ControlClient;
use tonic::transport::Channel;

use crate::gates::{Gate, GatedStore};
use crate::parquet_files::{file, floats, ids, lists, numbered, strings};
use crate::world::{World, load, run, table, with};

struct Bench {
    world: World,
    client: ControlClient<Channel>,
    _server: DataServer,
    _slots: crate::world::Slots,
}

impl Bench {
    async fn new() -> Self {
        let world = World::new().await;
        let server = world.server("w").await;
        let mut client = world.client(&server);
        let slots = world.slots(&mut client).await;
        for (name, value) in [("numbers", "f32"), ("whole", "i64"), ("vectors", "f32[2]"), ("text", "bytes")] {
            client.create_table(rpc::CreateTableRequest { ttl: true, ..table(name, value) }).await.expect("created");
        }
        let named = rpc::CreateTableRequest { key_type: "bytes".into(), ..table("named", "f32") };
        client.create_table(named).await.expect("created");
        Self { world, client, _server: server, _slots: slots }
    }

    /// Loads `name` into `table` and asserts that the task fails at once with a message that names all of `named`.
    async fn fails(&mut self, table: &str, name: &str, named: &[&str]) {
        self.fails_with(load(table, self.world.url(name)), named).await;
    }

    async fn fails_with(&mut self, request: rpc::SubmitLoadRequest, named: &[&str]) {
        let table = request.table.clone();
        let task = run(&self.world, &mut self.client, request).await;
        assert_eq!(
            (task.state.as_str(), task.version, task.errors.len(), task.attempt),
            ("failed", 0, 1, 1),
            "{task:?}"
        );
        for word in named {
            assert!(task.errors[0].message.contains(word), "`{word}` is not in: {}", task.errors[0].message);
        }
        let shown = self.client.show_table(rpc::ShowTableRequest { table }).await.expect("shown").into_inner();
        assert_eq!((shown.head, shown.target, shown.running_task), (0, None, 0), "nothing goes live");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_success_is_refused_where_that_is_asked_for() {
    let mut bench = Bench::new().await;
    for file in ["days/1/a.parquet", "days/2/a.parquet"] {
        bench.world.put(file, &numbered(10, |id| id as f32));
    }
    bench.world.put("days/1/_SUCCESS", b"");
    let request = |input| with(load("numbers", input), |spec| spec.require_success = true);
    let (all, one) = (bench.world.url("days/*"), bench.world.url("days/1"));
    bench.fails_with(request(all.clone()), &["days/2 has no _SUCCESS file", "without require_success"]).await;
    for request in [request(one), load("numbers", all)] {
        let task = run(&bench.world, &mut bench.client, request).await;
        assert_eq!(task.state, "finished", "{task:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_whole_parquet_are_named() {
    let mut bench = Bench::new().await;
    let good = numbered(1000, |id| id as f32);
    bench.world.put("dir/part-0.parquet", &good);
    bench.world.put("dir/part-1.parquet", b"");
    bench.fails("numbers", "dir", &["dir/part-1.parquet", "empty (0 bytes)"]).await;
    bench.world.put("short.parquet", b"PAR1");
    bench.fails("numbers", "short.parquet", &["short.parquet", "4 bytes", "smallest"]).await;
    bench.world.put("cut.parquet", &good[..good.len() / 2]);
    bench.fails("numbers", "cut.parquet", &["cut.parquet", "truncated", "no footer"]).await;
    let tail = [&b"PAR1"[..], &good[good.len() - 300..]].concat();
    bench.world.put("tail.parquet", &tail);
    bench.fails("numbers", "tail.parquet", &["tail.parquet"]).await;
    bench.world.put("text.parquet", b"id,v\n1,2\n3,4\n5,6\n");
    bench.fails("numbers", "text.parquet", &["text.parquet", "not a Parquet file", "looks like text"]).await;
    bench.world.put("zip.parquet", &[&[0x1f, 0x8b, 8, 0][..], &[7; 40]].concat());
    bench.fails("numbers", "zip.parquet", &["looks like a gzip file"]).await;
    bench.world.put("noise.parquet", &[0xa5; 100]);
    bench.fails("numbers", "noise.parquet", &["neither begins nor ends with PAR1"]).await;
    let mut locked = good.clone();
    let end = locked.len();
    locked[end - 4..].copy_from_slice(b"PARE");
    bench.world.put("locked.parquet", &locked);
    bench.fails("numbers", "locked.parquet", &["encrypted"]).await;
    let mut footer = good.clone();
    let footer_len = u32::from_le_bytes(footer[end - 8..end - 4].try_into().expect("4 bytes")) as usize;
    for byte in &mut footer[end - 8 - footer_len..end - 8 - footer_len + 40] {
        *byte ^= 0x5a;
    }
    bench.world.put("footer.parquet", &footer);
    bench.fails("numbers", "footer.parquet", &["footer.parquet", "damaged"]).await;
    bench.fails("numbers", "missing.parquet", &["missing.parquet", "no such file"]).await;
    bench.world.put("marked/_SUCCESS", b"");
    bench.fails("numbers", "marked", &["marked", "no file"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_fails_the_task_and_never_the_server() {
    let mut bench = Bench::new().await;
    let good = numbered(1000, |id| id as f32);
    // Wherever the damage strikes, the task ends with the file's name, or the rows were not touched by it.
    for at in (4..good.len() - 400).step_by(211) {
        let mut damaged = good.clone();
        for byte in &mut damaged[at..at + 16] {
            *byte = !*byte;
        }
        bench.world.put("damaged.parquet", &damaged);
        let task = run(&bench.world, &mut bench.client, load("numbers", bench.world.url("damaged.parquet"))).await;
        if task.state == "failed" {
            assert!(task.errors[0].message.contains("damaged.parquet"), "{}", task.errors[0].message);
            assert_eq!(task.attempt, 1, "damage does not go away");
        }
    }
    let done = run(&bench.world, &mut bench.client, {
        bench.world.put("good.parquet", &good);
        load("numbers", bench.world.url("good.parquet"))
    })
    .await;
    assert_eq!(done.state, "finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_do_not_fit_are_named_with_what_would_do() {
    let mut bench = Bench::new().await;
    let moment: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, 2]));
    let flag: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Float64, true)),
        Arc::new(Float64Array::from(vec![1.0, 2.0])) as ArrayRef,
    )]));
    let columns = vec![
        ("id", ids([1, 2])),
        ("name", strings(["a", "b"])),
        ("v", floats([1.0, 2.0])),
        ("at", moment),
        ("flag", flag),
        ("nested", nested),
        ("list", lists(vec![Some(vec![Some(1.0)]), Some(vec![Some(2.0)])])),
    ];
    bench.world.put("a.parquet", &file(columns));
    let request = |table: &str, key: &str, value: &str, expiry: &str| {
        with(load(table, bench.world.url("a.parquet")), |spec| {
            spec.key_column = key.into();
            spec.value_columns = vec![value.into()];
            spec.expiry_column = expiry.into();
        })
    };
    let cases: Vec<(rpc::SubmitLoadRequest, Vec<&str>)> = vec![
        (request("numbers", "user", "v", ""), vec!["a.parquet", "no column `user`", "`id`, `name`, `v`"]),
        (request("numbers", "id", "x", ""), vec!["no column `x`"]),
        (request("numbers", "id", "v", "until"), vec!["no column `until`"]),
        (request("numbers", "name", "v", ""), vec!["key column `name` has type string", "int64"]),
        (request("numbers", "v", "v", ""), vec!["key column `v` has type float"]),
        (request("named", "id", "v", ""), vec!["key column `id` has type int64", "string"]),
        (request("numbers", "id", "name", ""), vec!["value column `name` has type string", "float, double"]),
        (request("numbers", "id", "flag", ""), vec!["value column `flag` has type bool"]),
        (request("numbers", "id", "nested", ""), vec!["value column `nested` has type struct<x: double>"]),
        (request("whole", "id", "v", ""), vec!["value column `v` has type float", "int64"]),
        (request("whole", "id", "at", ""), vec!["value column `at` has type timestamp[ms]"]),
        (request("text", "id", "v", ""), vec!["value column `v` has type float", "binary"]),
        (request("vectors", "id", "v", ""), vec!["value column `v` has type float", "a list"]),
        (request("numbers", "id", "v", "at"), vec!["expiry column `at` has type timestamp[ms]"]),
    ];
    for (request, named) in cases {
        bench.fails_with(request, &named).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_counted_sampled_and_limited() {
    let mut bench = Bench::new().await;
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), None]));
    bench.world.put("keys.parquet", &file(vec![("id", keys), ("v", floats([1.0, 2.0, 3.0, 4.0]))]));
    bench
        .fails(
            "numbers",
            "keys.parquet",
            &["2 bad rows", "max_bad_rows is 0", "row 1, column `id`: the key is null", "/bad-rows"],
        )
        .await;
    let big: ArrayRef = Arc::new(UInt64Array::from(vec![5, 1 << 63]));
    bench.world.put("big.parquet", &file(vec![("id", ids([1, 2])), ("v", big)]));
    bench.fails("whole", "big.parquet", &["row 1, column `v`: 9223372036854775808 does not fit into i64"]).await;
    let wide: ArrayRef = Arc::new(Float64Array::from(vec![Some(1e300), None]));
    bench.world.put("wide.parquet", &file(vec![("id", ids([1, 2])), ("v", wide)]));
    bench.fails("numbers", "wide.parquet", &["1 bad row", "row 0, column `v`: 1e300 does not fit into f32"]).await;
    let vectors = lists(vec![Some(vec![Some(1.0), Some(2.0)]), Some(vec![Some(1.0)]), Some(vec![Some(1.0), None])]);
    bench.world.put("vectors.parquet", &file(vec![("id", ids([1, 2, 3])), ("v", vectors)]));
    bench
        .fails(
            "vectors",
            "vectors.parquet",
            &["2 bad rows", "1 elements instead of 2", "row 2", "element 1 of the vector is null"],
        )
        .await;
    let until: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(-1), Some(1 << 40), None]));
    let columns = vec![("id", ids([1, 2, 3, 4])), ("v", floats([0.0; 4])), ("until", until)];
    bench.world.put("until.parquet", &file(columns));
    let request = with(load("numbers", bench.world.url("until.parquet")), |spec| spec.expiry_column = "until".into());
    bench
        .fails_with(request, &["2 bad rows", "row 1, column `until`: -1 is not an expiry time", "1099511627776"])
        .await;
    let long = "k".repeat(1025);
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["ok", long.as_str()]));
    bench.world.put("long.parquet", &file(vec![("id", keys), ("v", floats([1.0, 2.0]))]));
    bench.fails("named", "long.parquet", &["row 1, column `id`: the key has 1025 bytes, at most 1024"]).await;
    let huge = vec![0u8; (16 << 20) + 1];
    let values: ArrayRef = Arc::new(BinaryArray::from(vec![b"ok".as_slice(), &huge]));
    bench.world.put("huge.parquet", &file(vec![("id", ids([1, 2])), ("v", values)]));
    bench.fails("text", "huge.parquet", &["row 1, column `v`: the value has 16777217 bytes, at most 16777216"]).await;

    // Tolerated, they are left out, counted, and their samples kept.
    let request = with(load("numbers", bench.world.url("keys.parquet")), |spec| spec.max_bad_rows = 2);
    let task = run(&bench.world, &mut bench.client, request).await;
    let stats = task.stats.expect("stats");
    assert_eq!((task.state.as_str(), stats.records, stats.bad_rows), ("finished", 2, 2));
    assert_eq!(bench.world.decode("numbers", 1).await.len(), 2);
    let (uid, _) = bench.world.table("numbers").await;
    let mut listed = bench.world.store.list(&format!("tables/{:016x}/tasks/{:020}", uid.0, task.task));
    let mut samples = Vec::new();
    while let Some(object) = futures::StreamExt::next(&mut listed).await {
        let object = object.expect("listed");
        if object.path.ends_with("/bad-rows") {
            samples.push(bench.world.store.get(&object.path).await.expect("read"));
        }
    }
    assert_eq!(samples.len(), 1);
    let samples: serde_json::Value = serde_json::from_slice(&samples[0]).expect("JSON");
    assert_eq!((samples[0]["row"].as_u64(), samples[1]["row"].as_u64()), (Some(1), Some(3)));
    // With nulls as zeros, a null element is a zero too.
    let request = with(load("vectors", bench.world.url("vectors.parquet")), |spec| {
        spec.nulls = "zero".into();
        spec.max_bad_rows = 1;
    });
    assert_eq!(run(&bench.world, &mut bench.client, request).await.state, "finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_changes_after_planning_fails_the_task() {
    let world = World::new().await;
    let gate = Gate::new(false);
    let store = GatedStore::new(&world.store, &gate);
    // The first attempt stops in its build and fails in passing; the second one finds another file.
    store.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let server = DataServer::start(world.env.clone(), world.config("w"), Arc::clone(&world.meta), store).await;
    let server = server.expect("started");
    let mut client = world.client(&server);
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(1000, |id| id as f32));
    let reply = client.submit_load(load("t", world.url("a.parquet"))).await.expect("accepted").into_inner();
    gate.reached().await;
    world.put("a.parquet", &numbered(1001, |id| id as f32));
    gate.set(true);
    let task = world.finish(&mut client, &reply.task.expect("a task")).await;
    assert_eq!((task.state.as_str(), task.attempt), ("failed", 1), "{task:?}");
    let attempts: Vec<u32> = task.errors.iter().map(|error| error.attempt).collect();
    assert_eq!(attempts, [1, 2], "attempts at its job: {task:?}");
    let message = &task.errors[1].message;
    assert!(message.contains("a.parquet: the file has changed since the task was planned"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_beyond_the_memory_of_a_build_names_the_limit_and_the_flag() {
    let world = World::new().await;
    let server = world.server_with(DataConfig { build_memory: 16 << 20, ..world.config("w") }).await;
    let mut client = world.client(&server);
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("large.parquet", &numbered(1_500_000, |id| id as f32));
    let task = run(&world, &mut client, load("t", world.url("large.parquet"))).await;
    assert_eq!((task.state.as_str(), task.attempt), ("failed", 1), "{task:?}");
    let message = &task.errors[0].message;
    assert!(message.contains("16777216 bytes of memory") && message.contains("--build-memory"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_that_a_dictionary_holds_once_do_not_overrun_memory() {
    let world = World::new().await;
    let server = world.server_with(DataConfig { build_memory: 512 << 20, ..world.config("w") }).await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "bytes")).await.expect("created");
    let value = vec![7u8; 512 << 10];
    let file = |rows: i64| {
        let values = BinaryArray::from_iter_values((0..rows).map(|_| value.as_slice()));
        let bytes = file(vec![("id", ids(0..rows)), ("v", Arc::new(values) as ArrayRef)]);
        assert!(bytes.len() < 4 << 20, "the value stands in the file once: {}", bytes.len());
        bytes
    };
    // 150 MB of values fit, 1.5 GB do not, although both files are small.
    world.put("fits.parquet", &file(300));
    let task = run(&world, &mut client, load("t", world.url("fits.parquet"))).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let records = world.decode("t", 1).await;
    assert_eq!(records.len(), 300);
    assert!(records.values().all(|(_, found)| *found == value));
    world.put("large.parquet", &file(3000));
    let task = run(&world, &mut client, load("t", world.url("large.parquet"))).await;
    assert_eq!(task.state, "failed");
    assert!(task.errors[0].message.contains("--build-memory"), "{}", task.errors[0].message);
}
