//! Text that several jobs read a range of each: what can only be said of a whole file is said of it.

use fkv_datasvr::{DataConfig, DataServer};
use fkv_rpc::control as rpc;

use crate::world::{OwnedKey, Slots, World, load, run, table, with};

/// A world with the table `t` of bytes, where slices hold about 64 KiB of text.
async fn prepared() -> (World, DataServer, Slots) {
    let world = World::new().await;
    let config = DataConfig { slice_bytes: Some(64 << 10), ..world.config("w") };
    let server = world.server_with(config).await;
    let mut client = world.client(&server);
    let slots = world.slots(&mut client).await;
    client.create_table(table("t", "bytes")).await.expect("created");
    (world, server, slots)
}

async fn load_text(world: &World, server: &DataServer, name: &str, format: &str, max_bad_rows: u64) -> rpc::Task {
    let request = with(load("t", world.url(name)), |spec| {
        spec.format = format.into();
        spec.max_bad_rows = max_bad_rows;
    });
    run(world, &mut world.client(server), request).await
}

fn filler(n: usize) -> String {
    "x".repeat(n % 90)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_only_some_ranges_have_is_no_missing_column() {
    let (world, server, _slots) = prepared().await;
    let lines = |name: &str, from: usize| {
        let line = |n| match n < from {
            true => format!("{{\"id\": {n}, \"other\": \"{}\"}}\n", filler(n)),
            false => format!("{{\"id\": {n}, \"{name}\": \"{}\"}}\n", filler(n)),
        };
        (0..6000).map(line).collect::<String>()
    };
    world.put("some.jsonl", lines("v", 5900).as_bytes());
    let task = load_text(&world, &server, "some.jsonl", "jsonl", 0).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let stats = task.stats.expect("stats");
    assert_eq!((stats.rows_read, stats.records, stats.nulls), (6000, 100, 5900));

    world.put("none.jsonl", lines("w", 5900).as_bytes());
    let task = load_text(&world, &server, "none.jsonl", "jsonl", 0).await;
    assert_eq!((task.state.as_str(), task.errors.len()), ("failed", 1), "{task:?}");
    let message = &task.errors[0].message;
    for part in ["none.jsonl", "there is no column `v`", "`id`, `other` in the first row"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_within_quotes_are_never_taken_for_rows() {
    let (world, server, _slots) = prepared().await;
    // Wherever the file is cut, what stands there looks like rows.
    let text: String = (0..40).map(|n| format!("{n},\"{}\"\n", "7,stray\n".repeat(1000 + n))).collect();
    world.put("quoted.csv", format!("id,v\n{text}").as_bytes());
    let task = load_text(&world, &server, "quoted.csv", "csv", 1_000_000).await;
    assert_eq!((task.state.as_str(), task.version), ("failed", 0), "{task:?}");
    let message = &task.errors.last().expect("an error").message;
    assert!(message.contains("quoted.csv") && message.contains("quote"), "{message}");

    // The same rows in a file that is not cut.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, format!("id,v\n{text}").as_bytes()).expect("into memory");
    world.put("whole.csv.gz", &gzip.finish().expect("into memory"));
    let task = load_text(&world, &server, "whole.csv.gz", "csv", 0).await;
    assert_eq!((task.state.as_str(), task.version), ("finished", 1), "{task:?}");
    let records = world.decode("t", 1).await;
    assert_eq!(records.len(), 40);
    assert_eq!(records[&OwnedKey::U64(7)].1, "7,stray\n".repeat(1007).into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_far_into_a_file_is_named_by_its_number_and_line() {
    let (world, server, _slots) = prepared().await;
    let line = |n: usize| if n == 7654 { "seven,x\n".to_owned() } else { format!("{n},{}\n", filler(n)) };
    let text: String = (0..8000).map(line).collect();
    world.put("bad.csv", format!("id,v\n{text}").as_bytes());
    let task = load_text(&world, &server, "bad.csv", "csv", 0).await;
    assert_eq!(task.state, "failed", "{task:?}");
    let message = &task.errors[0].message;
    assert!(message.contains("row 7654 (line 7656), column `id`: `seven` is not an integer"), "{message}");
}
