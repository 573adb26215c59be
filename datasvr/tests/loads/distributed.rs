//! Loads by many jobs and many workers: the same bytes as by one, whatever the slices, the workers and their deaths.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array};
use fkv_datasvr::{DataConfig, DataServer};
use fkv_env::{Entropy, SeededEntropy};
use fkv_formats::id::{ContentId, Digest, TaskId};
use fkv_formats::manifest::content_id_full;
use fkv_meta::record::{BuildStats, TaskState};
use fkv_store::Store;

use crate::cases::{Case, Written, groups_of, hot_part, strings, vectors};
use crate::kills::{Life, MortalMeta, MortalStore};
use crate::parquet_files::{file_with, floats, ids};
use crate::world::{OwnedKey, World, load, run, table, with};

/// What a load came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    content: ContentId,
    digests: Vec<Digest>,
    /// Without what depends on how the work was cut: bytes of packs, whose number differs.
    stats: BuildStats,
}

async fn outcome(world: &World, task: TaskId) -> Outcome {
    let (uid, record) = world.table("t").await;
    assert_eq!((record.head.0, record.epoch.0), (1, 1), "one commit");
    let form = world.form("t", 1).await;
    let digests = form.layers[0].digests();
    assert_eq!(form.content, content_id_full(uid, &form.schema, form.as_of, &digests));
    let task = world.meta().task(uid, task).await.expect("answers").expect("a task").value;
    let stats = BuildStats { bytes_written: 0, ..task.stats };
    Outcome { content: form.content, digests, stats }
}

/// Submits the load and waits until its version is committed.
async fn submit(world: &World, api: &DataServer, case: &Case) -> TaskId {
    let reply = world.client(api).submit_load(case.request(world)).await.expect("accepted").into_inner();
    TaskId(reply.task.expect("a task").task)
}

async fn committed(world: &World, task: TaskId) {
    let (uid, _) = world.table("t").await;
    let view = world
        .wait("the version is committed", |view| {
            view.task(uid, task)
                .is_some_and(|task| task.value.state == TaskState::Aligning || task.value.state.is_terminal())
        })
        .await;
    let task = view.task(uid, task).expect("just seen");
    assert_eq!(task.value.state, TaskState::Aligning, "{:?}", task.value);
    assert!(task.value.errors.is_empty(), "{:?}", task.value.errors);
}

/// How the work of a case is cut and done.
#[derive(Clone, Copy, Debug)]
struct Way {
    workers: usize,
    slice_bytes: u64,
    pack_bytes: u64,
    build_memory: u64,
    kills: u64,
    seed: u64,
}

impl Way {
    fn config(&self, world: &World, name: &str) -> DataConfig {
        DataConfig {
            slice_bytes: Some(self.slice_bytes),
            pack_bytes: self.pack_bytes,
            build_memory: self.build_memory,
            // Deaths are no errors; nothing else should go wrong.
            retry_pause: Duration::ZERO,
            lease_ttl: Duration::from_secs(30),
            ..world.config(name)
        }
    }
}

/// Starts a worker that dies at call number `fatal`.
async fn start(world: &World, way: &Way, name: &str, fatal: u64) -> (DataServer, Arc<Life>) {
    let life = Life::new(fatal);
    let meta = Arc::new(MortalMeta { inner: Arc::clone(&world.meta), life: Arc::clone(&life) });
    let store: Store = Arc::new(MortalStore { inner: Arc::clone(&world.store), life: Arc::clone(&life) });
    let server = DataServer::start(world.env.clone(), way.config(world, name), meta, store).await.expect("started");
    (server, life)
}

/// Loads a case some way; gives what came of it.
async fn load_by(case: &Case, way: Way) -> Outcome {
    let (world, api) = case.world().await;
    let task = submit(&world, &api, case).await;
    let random = SeededEntropy::new(way.seed);
    let fatal = |left: u64| if left > 0 { 5 + random.below(120) } else { u64::MAX };
    let (mut left, mut workers) = (way.kills, Vec::new());
    for number in 0..way.workers {
        workers.push(start(&world, &way, &format!("w{number}"), fatal(left)).await);
        left = left.saturating_sub(1);
    }
    let mut done = Box::pin(committed(&world, task));
    let mut number = way.workers;
    loop {
        let deaths = workers.iter().map(|(_, life)| Box::pin(life.ended()));
        let died = match futures::future::select(&mut done, futures::future::select_all(deaths)).await {
            futures::future::Either::Left(((), _)) => break,
            futures::future::Either::Right((((), died, _), _)) => died,
        };
        let (server, life) = workers.remove(died);
        drop(server);
        life.end_leases(&world.meta).await;
        workers.push(start(&world, &way, &format!("w{number}"), fatal(left)).await);
        number += 1;
        left = left.saturating_sub(1);
    }
    drop(done);
    let outcome = outcome(&world, task).await;
    let (uid, _) = world.table("t").await;
    assert_eq!(world.meta().versions(uid).await.expect("listed").len(), 1, "{way:?}");
    outcome
}

/// The ways a case is loaded: by one worker in memory, and by many jobs.
fn ways(case: &Case, first_seed: u64) -> Vec<Way> {
    let whole =
        Way { workers: 1, slice_bytes: 64 << 20, pack_bytes: 1 << 30, build_memory: 512 << 20, kills: 0, seed: 0 };
    let mut ways = vec![whole, Way { pack_bytes: 50_000, ..whole }];
    let mut seed = first_seed;
    for workers in [1, 2, 7] {
        for (slice_bytes, pack_bytes, build_memory) in [(64 << 10, 60_000, 16 << 20), (300_000, 1 << 20, 64 << 20)] {
            let slice_bytes = case.slice_bytes_min.max(slice_bytes);
            for kills in [0, 2, 6] {
                seed += 1;
                ways.push(Way { workers, slice_bytes, pack_bytes, build_memory, kills, seed });
            }
        }
    }
    ways
}

async fn every_way_gives_the_same(case: &Case, ways: Vec<Way>) -> Outcome {
    let mut expected: Option<Outcome> = None;
    for way in ways {
        let mut found = load_by(case, way).await;
        if case.is_text() {
            // Where ranges meet, some bytes are read twice.
            found.stats.bytes_read = 0;
        }
        assert!(found.stats.records > 1000 && found.stats.duplicates > 0, "{:?}", found.stats);
        match &expected {
            None => expected = Some(found),
            Some(expected) => {
                assert!(found == *expected, "{}, {way:?}: {:?}, not {:?}", case.name, found.stats, expected.stats);
            }
        }
    }
    expected.expect("some way")
}

// Cases of 20 ways each: part digests, content id and counts are those of a load in memory by one worker.

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_the_same_bytes_however_many_workers_and_deaths() {
    let case = vectors();
    every_way_gives_the_same(&case, ways(&case, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_are_the_same_bytes_however_many_workers_and_deaths() {
    let case = strings().of_kind("blk");
    every_way_gives_the_same(&case, ways(&case, 200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_part_is_the_same_bytes_however_many_workers_and_deaths() {
    let case = hot_part().of_kind("idx");
    every_way_gives_the_same(&case, ways(&case, 300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_larger_than_memory_is_the_same_bytes_in_every_kind_of_table() {
    for kind in ["mem", "blk"] {
        let case = hot_part().of_kind(kind);
        let ways: Vec<Way> = ways(&case, 400).into_iter().filter(|way| way.kills == 0).collect();
        assert!(ways.iter().any(|way| way.build_memory == 16 << 20), "the part does not fit into it");
        every_way_gives_the_same(&case, ways).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_the_same_bytes_as_parquet_however_it_is_cut() {
    for (case, written, seed) in [(strings().of_kind("blk"), Written::Csv, 500), (vectors(), Written::Jsonl, 600)] {
        let whole = load_by(&case, ways(&case, seed)[0]).await;
        let text = case.written(written);
        let ways: Vec<Way> = ways(&text, seed).into_iter().filter(|way| way.kills != 2).collect();
        let found = every_way_gives_the_same(&text, ways).await;
        assert!(found.content == whole.content && found.digests == whole.digests, "{written:?}: not as from Parquet");
        assert_eq!((found.stats.rows_read, found.stats.records), (whole.stats.rows_read, whole.stats.records));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stands_twice_in_a_part_larger_than_memory_is_found() {
    let case = hot_part().with_policy("error");
    let (world, api) = case.world().await;
    let config = DataConfig { slice_bytes: Some(256 << 10), build_memory: 16 << 20, ..world.config("w") };
    let _worker = world.server_with(config).await;
    let task = run(&world, &mut world.client(&api), case.request(&world)).await;
    assert_eq!((task.state.as_str(), task.errors.len()), ("failed", 1), "{task:?}");
    let message = &task.errors[0].message;
    for part in ["row 1 of", "/0-part and in row 1001 of", "/3-part"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn distributed(world: &World, name: &str) -> DataConfig {
    DataConfig { slice_bytes: Some(64 << 10), pack_bytes: 60_000, ..world.config(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_make_a_version_that_holds_exactly_the_rows() {
    let world = World::new().await;
    let api = world.server_with(DataConfig { work: false, ..world.config("api") }).await;
    let mut client = world.client(&api);
    let _slots = world.slots(&mut client).await;
    let case = vectors();
    client.create_table(case.table.clone()).await.expect("created");
    let mut expected = BTreeMap::new();
    for (at, columns) in case.files.iter().enumerate() {
        world.put(&format!("in/part-{at}.parquet"), &file_with(columns.clone(), groups_of(300)));
        let keys: &Int64Array = columns[0].1.as_any().downcast_ref().expect("ids");
        for key in keys.values() {
            let value: Vec<u8> =
                (0..16).flat_map(|n| ((key * 100 + n + at as i64 * 10) as f32).to_le_bytes()).collect();
            expected.insert(OwnedKey::U64(key.cast_unsigned()), (0, value));
        }
    }
    let workers =
        [world.server_with(distributed(&world, "w0")).await, world.server_with(distributed(&world, "w1")).await];
    let task = run(&world, &mut client, case.request(&world)).await;
    assert_eq!((task.state.as_str(), task.attempt), ("finished", 1), "{task:?}");
    assert!(world.decode("t", 1).await == expected);
    let progress = task.progress.expect("progress");
    assert_eq!((progress.rows_done, progress.bytes_done), (progress.rows_total, progress.bytes_total), "{progress:?}");
    // Slices are gone: nothing needs them any more.
    let prefix = format!("tables/{:016x}", world.table("t").await.0.0);
    let listed: Vec<_> = futures::StreamExt::collect(world.store.list(&prefix)).await;
    let paths: Vec<String> = listed.into_iter().map(|object| object.expect("listed").path).collect();
    assert!(paths.iter().any(|path| path.contains("/slice-00003/")), "{paths:?}");
    assert!(!paths.iter().any(|path| path.ends_with("/slice-00000")), "{paths:?}");
    for worker in workers {
        worker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_two_slices_is_reported_with_both_rows_where_that_is_an_error() {
    let world = World::new().await;
    let server = world.server_with(distributed(&world, "w")).await;
    let mut client = world.client(&server);
    client.create_table(table("t", "f32[16]")).await.expect("created");
    let columns = |first: i64, again: Option<i64>| {
        let mut keys: Vec<i64> = (first..first + 2000).collect();
        keys[1234] = again.unwrap_or(keys[1234]);
        let names: Vec<String> = (0..16).map(|n| format!("v{n}")).collect();
        (keys, names)
    };
    let write = |name: &str, keys: Vec<i64>, names: &[String]| {
        let count = keys.len();
        let mut columns = vec![("id", ids(keys))];
        columns.extend(names.iter().map(|name| (name.as_str(), floats((0..count).map(|n| n as f32)))));
        world.put(name, &file_with(columns, groups_of(300)));
    };
    let names = columns(0, None).1;
    for (at, again) in [None, None, Some(77), None].into_iter().enumerate() {
        write(&format!("far/{at}.parquet"), columns(at as i64 * 2000, again).0, &names);
    }
    write("near/0.parquet", columns(0, Some(900)).0, &names);
    write("near/1.parquet", columns(5000, None).0, &names);
    for (input, first, second) in [
        ("far", "row 77 of", "far/0.parquet and in row 1234 of"),
        ("near", "row 900 of", "near/0.parquet and in row 1234 of"),
    ] {
        let request = with(load("t", world.url(input)), |spec| {
            spec.value_columns.clone_from(&names);
            spec.duplicates = "error".into();
        });
        let task = run(&world, &mut client, request).await;
        assert_eq!((task.state.as_str(), task.errors.len()), ("failed", 1), "{task:?}");
        let message = &task.errors[0].message;
        for part in [first, second, "policy for duplicates"] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_limited_over_all_slices_together() {
    let world = World::new().await;
    let server = world.server_with(distributed(&world, "w")).await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32[16]")).await.expect("created");
    let names: Vec<String> = (0..16).map(|n| format!("v{n}")).collect();
    for file in 0..4i64 {
        // One row in each file has no key.
        let keys = Int64Array::from_iter((0..1000).map(|n| (n != 500 + file).then_some(file * 1000 + n)));
        let mut columns = vec![("id", Arc::new(keys) as ArrayRef)];
        columns.extend(names.iter().map(|name| (name.as_str(), floats((0..1000).map(|n| n as f32)))));
        world.put(&format!("in/{file}.parquet"), &file_with(columns, groups_of(250)));
    }
    let request = |max: u64| {
        with(load("t", world.url("in")), |spec| {
            spec.value_columns.clone_from(&names);
            spec.max_bad_rows = max;
        })
    };
    let task = run(&world, &mut client, request(3)).await;
    assert_eq!((task.state.as_str(), task.version), ("failed", 0), "{task:?}");
    let message = &task.errors.last().expect("an error").message;
    assert!(message.contains("4 bad rows, max_bad_rows is 3"), "{message}");
    assert!(message.contains("row 500") && message.contains("0.parquet"), "{message}");
    let task = run(&world, &mut client, request(4)).await;
    assert_eq!(task.state, "finished", "{task:?}");
    let stats = task.stats.expect("stats");
    assert_eq!((stats.rows_read, stats.records, stats.bad_rows), (4000, 3996, 4));
}
