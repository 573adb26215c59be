//! The whole path: submit → plan → build → publish → align, and what the version holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, UInt32Array};
use fkv_rpc::control as rpc;

use crate::parquet_files::{file, floats, ids, lists, numbered, strings};
use crate::world::{OwnedKey, World, load, run, table, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_becomes_a_version_that_holds_exactly_the_rows() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(50_000, |id| id as f32 * 0.5));

    let task = run(&world, &mut client, load("t", world.url("a.parquet"))).await;
    assert_eq!((task.state.as_str(), task.version, task.attempt), ("finished", 1, 1), "{task:?}");
    let stats = task.stats.expect("stats");
    assert_eq!((stats.rows_read, stats.records, stats.duplicates, stats.bad_rows), (50_000, 50_000, 0, 0));
    assert!(stats.bytes_read > 0 && stats.bytes_written > 0);

    let records = world.decode("t", 1).await;
    assert_eq!(records.len(), 50_000);
    for id in 0..50_000u64 {
        assert_eq!(records[&OwnedKey::U64(id)], (0, (id as f32 * 0.5).to_le_bytes().to_vec()));
    }
    let shown = client.show_table(rpc::ShowTableRequest { table: "t".into() }).await.expect("shown").into_inner();
    let aligned = shown.aligned.expect("aligned");
    assert_eq!((shown.head, shown.epoch, aligned.version, shown.running_task), (1, 1, 1, 0));
    let versions = client.list_versions(rpc::ListVersionsRequest { table: "t".into() }).await.expect("listed");
    let versions = versions.into_inner().versions;
    assert_eq!(versions.len(), 1);
    assert!(versions[0].is_head && versions[0].is_target && versions[0].is_aligned && !versions[0].quarantined);
    assert_eq!((versions[0].rows, versions[0].content_id.clone()), (50_000, aligned.content_id));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_input_makes_equal_parts_whatever_threads_files_and_row_groups() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    let (count, value) = (30_000, |id: i64| (id * 7) as f32);
    world.put("one/a.parquet", &numbered(count, value));
    for (at, start) in (0..count).step_by(1000).enumerate() {
        let (ids, values) = (ids(start..start + 1000), floats((start..start + 1000).map(value)));
        let properties =
            parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(130)).build();
        let bytes = crate::parquet_files::file_with(vec![("id", ids), ("v", values)], properties);
        world.put(&format!("many/part-{at:03}.parquet"), &bytes);
    }
    client.create_table(table("t", "f32")).await.expect("created");
    let one = run(&world, &mut client, load("t", world.url("one"))).await;
    let many = run(&world, &mut client, load("t", world.url("many"))).await;
    assert_eq!((one.state.as_str(), many.state.as_str()), ("finished", "finished"), "{many:?}");
    server.shutdown().await;

    // Another worker with another number of threads and other limits, and a pack cut after every few parts.
    let env = fkv_env::Env::real(1).expect("threads start");
    let config = fkv_datasvr::DataConfig { pack_bytes: 20_000, ..world.config("w2") };
    let server = fkv_datasvr::DataServer::start(env, config, Arc::clone(&world.meta), Arc::clone(&world.store))
        .await
        .expect("started");
    let mut client = world.client(&server);
    let single = run(&world, &mut client, load("t", world.url("many"))).await;
    assert_eq!(single.state, "finished", "{single:?}");

    let [first, second, third] = [world.decode("t", 1).await, world.decode("t", 2).await, world.decode("t", 3).await];
    assert!(first == second && second == third);
    // Digests carry the origin version in their seeds, so data is compared through them only within a version; the
    // bytes of two versions are compared as images.
    let (uid, _) = world.table("t").await;
    let images = |version: u64| {
        let world = &world;
        async move {
            let record = world.meta().version(uid, fkv_formats::id::Version(version)).await.expect("answers");
            let form = world.store.get(&record.expect("a version").value.forms[0].object.path).await.expect("a form");
            let form = fkv_formats::manifest::Form::decode(&form).expect("decodes");
            let mut images = Vec::new();
            for part in form.layers[0].parts.iter().filter(|part| !part.is_empty()) {
                let object = &form.layers[0].objects[part.object as usize];
                let range = part.offset..part.offset + part.len;
                images.push(world.store.get_range(&object.path, range).await.expect("a part"));
            }
            (form.layers[0].objects.len(), images)
        }
    };
    let ((packs_1, one), (_, two), (packs_3, three)) = (images(1).await, images(2).await, images(3).await);
    assert!(one == two && two == three, "part bytes depend only on rows");
    assert_eq!(packs_1, 1);
    assert!(packs_3 > 10, "small packs are cut: {packs_3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_nulls_and_expiry_follow_their_policies() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(rpc::CreateTableRequest { ttl: true, ..table("t", "i64") }).await.expect("created");
    let far = 4_000_000_000u32;
    let columns = |rows: &[(i32, Option<i64>, Option<u32>)]| -> Vec<(&'static str, ArrayRef)> {
        vec![
            ("until", Arc::new(UInt32Array::from_iter(rows.iter().map(|row| row.2)))),
            ("v", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1)))),
            ("id", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ]
    };
    // The second file comes later in the frozen order, whatever the order of submitting.
    world.put("a.parquet", &file(columns(&[(1, Some(10), None), (-1, Some(5), None), (2, Some(20), Some(far))])));
    world.put(
        "b.parquet",
        &file(columns(&[(1, Some(11), None), (3, None, None), (4, Some(40), Some(1)), (2, None, None)])),
    );
    let request = |duplicates: &str, nulls: &str| {
        with(load("t", world.url("b.parquet")), |spec| {
            spec.inputs.push(world.url("a.parquet"));
            spec.expiry_column = "until".into();
            spec.duplicates = duplicates.into();
            spec.nulls = nulls.into();
        })
    };
    let expect = |rows: &[(i64, i64, u32)]| -> BTreeMap<OwnedKey, (u32, Vec<u8>)> {
        rows.iter()
            .map(|(key, value, expiry)| (OwnedKey::U64(*key as u64), (*expiry, value.to_le_bytes().to_vec())))
            .collect()
    };

    let task = run(&world, &mut client, request("last", "skip")).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let stats = task.stats.expect("stats");
    assert_eq!((stats.rows_read, stats.records, stats.duplicates, stats.nulls, stats.expired), (7, 3, 1, 2, 1));
    // A null is no record and replaces none; a signed key is sign-extended; key 4 has long expired.
    assert_eq!(world.decode("t", 1).await, expect(&[(1, 11, 0), (-1, 5, 0), (2, 20, far)]));

    let task = run(&world, &mut client, request("first", "zero")).await;
    assert_eq!(task.state, "finished", "{task:?}");
    assert_eq!(world.decode("t", 2).await, expect(&[(1, 10, 0), (-1, 5, 0), (2, 20, far), (3, 0, 0)]));

    let task = run(&world, &mut client, request("error", "skip")).await;
    let message = &task.errors[0].message;
    assert_eq!(task.state, "failed");
    assert!(message.contains("key 1 stands in row 0 of") && message.contains("a.parquet and in row 0 of"), "{message}");
    let shown = client.show_table(rpc::ShowTableRequest { table: "t".into() }).await.expect("shown").into_inner();
    assert_eq!((shown.head, shown.aligned.expect("aligned").version), (2, 2), "a failed load leaves the table alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_type_is_stored_as_declared() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;

    // bytes → bytes
    client
        .create_table(rpc::CreateTableRequest { key_type: "bytes".into(), ..table("text", "bytes") })
        .await
        .expect("created");
    let blobs: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"one".as_slice()), Some(b""), None]));
    world.put("text.parquet", &file(vec![("id", strings(["a", "", "c"])), ("v", blobs)]));
    let task =
        run(&world, &mut client, with(load("text", world.url("text.parquet")), |spec| spec.nulls = "zero".into()))
            .await;
    assert_eq!(task.state, "finished", "{task:?}");
    let text = world.decode("text", 1).await;
    let key = |key: &str| OwnedKey::Bytes(key.as_bytes().to_vec());
    assert_eq!((text[&key("a")].1.as_slice(), text[&key("")].1.as_slice()), (&b"one"[..], &b""[..]));
    assert_eq!(text[&key("c")].1, b"");

    // Lists and columns → f32[3]; stored as f16 where the table says so.
    let vector = |numbers: [f32; 3]| Some(numbers.iter().map(|n| Some(*n)).collect::<Vec<_>>());
    let list = lists(vec![vector([1.0, 2.0, 3.0]), None, vector([-1.0, 70000.0, 0.5])]);
    world.put("lists.parquet", &file(vec![("v", list), ("id", ids([7, 8, 9]))]));
    let columns = vec![
        ("x", floats([1.0, 4.0, 7.0])),
        ("id", ids([1, 2, 3])),
        ("y", Arc::new(Int32Array::from(vec![2, 5, 8])) as ArrayRef),
        ("z", floats([3.0, 6.0, 9.0])),
    ];
    world.put("columns.parquet", &file(columns));
    client.create_table(table("vectors", "f32[3]")).await.expect("created");
    let task = run(&world, &mut client, load("vectors", world.url("lists.parquet"))).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let bytes = |numbers: [f32; 3]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let lists = world.decode("vectors", 1).await;
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[&OwnedKey::U64(9)].1, bytes([-1.0, 70000.0, 0.5]));
    let task = run(
        &world,
        &mut client,
        with(load("vectors", world.url("columns.parquet")), |spec| {
            spec.value_columns = vec!["z".into(), "y".into(), "x".into()];
        }),
    )
    .await;
    assert_eq!(task.state, "finished", "{task:?}");
    assert_eq!(world.decode("vectors", 2).await[&OwnedKey::U64(2)].1, bytes([6.0, 5.0, 4.0]));

    for (name, overflow, outcome) in [("narrow", "saturate", "finished"), ("strict", "reject", "failed")] {
        let request =
            rpc::CreateTableRequest { storage: "f16".into(), f16_overflow: overflow.into(), ..table(name, "f32[3]") };
        client.create_table(request).await.expect("created");
        let task = run(&world, &mut client, load(name, world.url("lists.parquet"))).await;
        assert_eq!(task.state, outcome, "{task:?}");
        if outcome == "finished" {
            assert_eq!(task.stats.expect("stats").saturated, 1);
            let stored = &world.decode(name, 1).await[&OwnedKey::U64(9)].1;
            let halves: Vec<u16> = stored.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            assert_eq!(halves, [0xbc00, 0x7bff, 0x3800]);
        } else {
            let message = &task.errors[0].message;
            assert!(message.contains("row 2, column `v`: 70000 does not fit into f16"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_without_rows_is_a_version_without_records() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("none.parquet", &numbered(0, |_| 0.0));
    let task = run(&world, &mut client, load("t", world.url("none.parquet"))).await;
    assert_eq!((task.state.as_str(), task.version), ("finished", 1), "{task:?}");
    assert!(world.decode("t", 1).await.is_empty());
    assert_eq!(world.digests("t", 1).await.len(), 2400);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_table_holds_the_rows_and_blk_has_the_filter_it_was_given() {
    let world = World::new().await;
    let server = world.server("w1").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    world.put("a.parquet", &numbered(30_000, |id| id as f32 * 0.5));
    for (name, kind, asked, filter) in [
        ("m", "mem", "", 0),
        ("i", "idx", "", 0),
        ("b", "blk", "", 1),
        ("n", "blk", "none", 0),
        ("f", "blk", "fuse8", 1),
    ] {
        let request = rpc::CreateTableRequest { kind: kind.into(), filter: asked.into(), ..table(name, "f32") };
        let made = client.create_table(request).await.expect("created").into_inner();
        assert_eq!(made.filter, if filter == 1 { "fuse8" } else { "none" }, "{name}");
        let task = run(&world, &mut client, load(name, world.url("a.parquet"))).await;
        assert_eq!((task.state.as_str(), task.version), ("finished", 1), "{name}: {task:?}");
        let records = world.decode(name, 1).await;
        assert_eq!(records.len(), 30_000, "{name}");
        for id in (0..30_000u64).step_by(97) {
            assert_eq!(records[&OwnedKey::U64(id)], (0, (id as f32 * 0.5).to_le_bytes().to_vec()), "{name}");
        }
        assert_eq!(world.form(name, 1).await.profile.filter, filter, "{name}");
    }
    server.shutdown().await;
}
