//! Rows that delete their key: in a full load such a row is no record, and leaves none.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use fkv_datasvr::DataConfig;
use fkv_rpc::control as rpc;

use crate::parquet_files::{file, ids};
use crate::world::{OwnedKey, World, load, run, table, with};

/// Key, value, and whether the row deletes its key.
const ROWS: [(i64, Option<&str>, Option<bool>); 9] = [
    (1, Some("one"), Some(false)),
    (2, Some("two"), None),
    (3, Some("three"), Some(false)),
    // A row without a value may delete.
    (3, None, Some(true)),
    (4, None, Some(true)),
    (4, Some("four again"), Some(false)),
    // What never was may be deleted.
    (5, Some("five"), Some(true)),
    (6, Some("six"), Some(true)),
    // No value and no deletion: left out, as if it were not there.
    (6, None, None),
];

fn parquet() -> Vec<u8> {
    file(vec![
        ("id", ids(ROWS.iter().map(|row| row.0))),
        ("v", Arc::new(StringArray::from_iter(ROWS.iter().map(|row| row.1))) as ArrayRef),
        ("gone", Arc::new(BooleanArray::from_iter(ROWS.iter().map(|row| row.2)))),
    ])
}

fn csv() -> Vec<u8> {
    let flag = |gone: Option<bool>, at: usize| match gone {
        None => "",
        Some(true) => ["true", "1", "TRUE"][at % 3],
        Some(false) => ["false", "0", "False"][at % 3],
    };
    let rows = ROWS.iter().enumerate();
    let rows = rows.map(|(at, (id, v, gone))| format!("{id},{},{}\n", v.unwrap_or_default(), flag(*gone, at)));
    format!("id,v,gone\n{}", rows.collect::<String>()).into_bytes()
}

fn jsonl() -> Vec<u8> {
    let rows = ROWS.iter().map(|(id, v, gone)| {
        let v = v.map_or_else(String::new, |v| format!(", \"v\": \"{v}\""));
        let gone = gone.map_or_else(String::new, |gone| format!(", \"gone\": {gone}"));
        format!("{{\"id\": {id}{v}{gone}}}\n")
    });
    rows.collect::<String>().into_bytes()
}

fn request(world: &World, name: &str, format: &str, duplicates: &str) -> rpc::SubmitLoadRequest {
    with(load("t", world.url(name)), |spec| {
        spec.format = format.into();
        spec.duplicates = duplicates.into();
        spec.delete_column = "gone".into();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_row_deletes_it_is_absent_in_every_format() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "bytes")).await.expect("created");
    world.put("a.parquet", &parquet());
    world.put("a.csv", &csv());
    world.put("a.jsonl", &jsonl());
    let last: &[(u64, &str)] = &[(1, "one"), (2, "two"), (4, "four again")];
    let first: &[(u64, &str)] = &[(1, "one"), (2, "two"), (3, "three")];
    let mut version = 0;
    for (name, format) in [("a.parquet", "parquet"), ("a.csv", "csv"), ("a.jsonl", "jsonl")] {
        for (duplicates, expected) in [("last", last), ("first", first)] {
            let task = run(&world, &mut client, request(&world, name, format, duplicates)).await;
            version += 1;
            assert_eq!((task.state.as_str(), task.version), ("finished", version), "{name}: {task:?}");
            let stats = task.stats.expect("stats");
            let counts = (stats.rows_read, stats.records, stats.duplicates, stats.nulls, stats.deleted);
            assert_eq!(counts, (9, 3, 2, 1, 3), "{name}, {duplicates}");
            let found = world.decode("t", version).await;
            let expected = expected.iter().map(|(key, v)| (OwnedKey::U64(*key), (0, v.as_bytes().to_vec())));
            assert!(found.into_iter().eq(expected), "{name}, {duplicates}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_in_a_later_slice_deletes_what_an_earlier_one_has() {
    let world = World::new().await;
    let config = DataConfig { slice_bytes: Some(64 << 10), ..world.config("w") };
    let server = world.server_with(config).await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "i64")).await.expect("created");
    let file_of = |keys: std::ops::Range<i64>, gone: fn(i64) -> bool| {
        file(vec![
            ("id", ids(keys.clone())),
            ("v", Arc::new(Int64Array::from_iter_values(keys.clone())) as ArrayRef),
            ("gone", Arc::new(BooleanArray::from_iter(keys.map(|key| Some(gone(key)))))),
        ])
    };
    world.put("in/0.parquet", &file_of(0..10_000, |_| false));
    world.put("in/1.parquet", &file_of(5000..15_000, |key| key % 2 == 0));
    let task = run(&world, &mut client, request(&world, "in", "parquet", "last")).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let stats = task.stats.expect("stats");
    assert_eq!((stats.records, stats.duplicates, stats.deleted), (10_000, 5000, 5000));
    let found = world.decode("t", 1).await;
    let there = |key: u64| found.contains_key(&OwnedKey::U64(key));
    assert!(there(4998) && there(5001) && !there(5002) && !there(14_998) && there(14_999));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_column_of_another_type_is_refused() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    client.create_table(table("t", "bytes")).await.expect("created");
    let gone = StringArray::from_iter_values(["yes"]);
    let v = StringArray::from_iter_values(["x"]);
    world.put("a.parquet", &file(vec![("id", ids([1])), ("v", Arc::new(v) as ArrayRef), ("gone", Arc::new(gone))]));
    world.put("a.csv", b"id,v,gone\n1,x,yes\n");
    for (name, format, named) in [
        ("a.parquet", "parquet", "delete column `gone` has type string; "),
        ("a.csv", "csv", "row 0 (line 2), column `gone`: `yes` is neither true nor false"),
    ] {
        let task = run(&world, &mut client, request(&world, name, format, "last")).await;
        assert_eq!((task.state.as_str(), task.errors.len()), ("failed", 1), "{task:?}");
        assert!(task.errors[0].message.contains(named), "{}", task.errors[0].message);
    }
}
