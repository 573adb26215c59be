//! Tables: many at once, several in one call, and one made again under the name of one dropped.

use fkv_client::{ClientError, Keys, ReadOptions, TableRead};
use fkv_formats::id::Version;
use fkv_formats::schema::{Schema, TableKind};
use fkv_tests::cluster::Cluster;
use fkv_tests::model::{Answer, Model, Shape};
use fkv_tests::reads::answer_at;
use fkv_tests::wait;

/// Tables whose records are on SSD answer every key of every version as those in memory do, also when a server has come
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_on_ssd_answer_like_those_in_memory() {
    let mut cluster = Cluster::start(2, 2).await;
    let control = cluster.control.clone();
    let model = Model::new(7, 3_000, Shape::I64);
    let kinds = [("m", TableKind::Mem), ("i", TableKind::Idx), ("b", TableKind::Blk)];
    let client = cluster.client().await;
    let keys: Vec<u64> = (0..model.keys).map(|index| model.key(index)).collect();
    for (name, kind) in kinds {
        control.create(name, &Schema { kind, ..model.schema() }).await;
    }
    for version in [Version(1), Version(2)] {
        for (name, _) in kinds {
            control.load(name, cluster.model_load(name, &model, version)).await;
        }
        if version == Version(2) {
            cluster.crash("a/1");
            cluster.restart("a/1").await;
        }
        for (name, kind) in kinds {
            let answer = client.get(name, Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
            assert_eq!(answer.label.version, version, "{kind}");
            for (position, index) in (0..model.keys).enumerate() {
                assert_eq!(
                    answer_at(&answer, position),
                    model.answer(version, 0, index, 0),
                    "{kind} {version} {index}"
                );
            }
        }
    }
}

/// A table dropped and made again under its name shares nothing with the old one: not its versions, its tasks, its
/// submit ids, its epochs; and no client is given values of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_shares_nothing_with_the_dropped_one() {
    let cluster = Cluster::start(2, 2).await;
    let control = &cluster.control;
    let (old, new) = (Model::new(1, 2_000, Shape::Bytes), Model::new(2, 2_000, Shape::I64));
    let first = control.create("features", &old.schema()).await;
    let spec = cluster.model_load("features-old", &old, Version(1));
    let task = control.submit("features", spec, "daily").await.expect("submitted").task.expect("a task");
    control.wait_for("features", task.task, &["finished"]).await;
    let client = cluster.client().await;
    let keys: Vec<u64> = (0..old.keys).map(|index| old.key(index)).collect();
    let answer = client.get("features", Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
    assert!(answer.found_count() > 1_000);

    control.drop_table("features").await.expect("dropped");
    let gone = control.try_table("features").await.expect_err("gone");
    assert_eq!(gone.code(), tonic::Code::NotFound, "{gone}");
    wait::until(&cluster.env, "clients to hear that the table is gone", async || {
        match client.get("features", Keys::U64(&keys), &ReadOptions::default()).await {
            Err(ClientError::UnknownTable { .. }) => Ok(()),
            other => Err(format!("{:?}", other.map(|answer| answer.label))),
        }
    })
    .await;

    let second = control.create("features", &new.schema()).await;
    assert_ne!(second.uid, first.uid);
    assert_eq!((second.head, second.epoch), (0, 0));
    assert!(control.versions("features").await.expect("listed").is_empty());
    assert!(control.tasks("features").await.expect("listed").is_empty());
    // Before its first load it answers nothing: neither values of the old table nor "absent".
    wait::until(&cluster.env, "the new table to be known, and not loaded", async || {
        match client.get("features", Keys::U64(&keys), &ReadOptions::default()).await {
            Err(ClientError::NotLoaded { .. }) => Ok(()),
            Ok(answer) => panic!("a table without a version answered: {:?}", answer.label),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;

    // The submit id is free again, also for another spec.
    let spec = cluster.model_load("features-new", &new, Version(1));
    let reply = control.submit("features", spec, "daily").await.expect("submitted");
    assert!(reply.created, "{reply:?}");
    let task = reply.task.expect("a task");
    assert_eq!(task.task, 1, "tasks are counted anew");
    control.wait_for("features", task.task, &["finished"]).await;
    let answer = client.get("features", Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
    assert_eq!((answer.label.version, answer.found_count()), (Version(1), 0), "keys of the old table");
    assert_eq!(answer.label.table.0, second.uid);
    let keys: Vec<u64> = (0..new.keys).map(|index| new.key(index)).collect();
    let answer = client.get("features", Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
    for (position, index) in (0..new.keys).enumerate() {
        assert_eq!(answer_at(&answer, position), new.answer(Version(1), 0, index, 0));
    }
}

/// A table dropped in the middle of a load takes its task with it; servers, name and store are free for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_while_it_aligns_leaves_nothing_in_the_way() {
    let mut cluster = Cluster::start(1, 2).await;
    let control = cluster.control.clone();
    let model = Model::new(4, 1_000, Shape::Bytes);
    for round in 1..=2 {
        control.create("t", &model.schema()).await;
        cluster.crash("a/1");
        let task = control.start_load("t", cluster.model_load("t", &model, Version(round))).await;
        control.wait_for("t", task, &["aligning"]).await;
        let waiting = control.start_load("t", cluster.model_load("t", &model, Version(round + 10))).await;
        assert_eq!(waiting, task + 1);
        control.drop_table("t").await.expect("a table can be dropped at any time");
        cluster.restart("a/1").await;
        cluster.all_claimed().await;
    }
    control.create("t", &model.schema()).await;
    let task = control.load("t", cluster.model_load("t", &model, Version(3))).await;
    assert_eq!((task.task, task.version), (1, 1));
    let client = cluster.client().await;
    let keys: Vec<u64> = (0..model.keys).map(|index| model.key(index)).collect();
    let answer = client.get("t", Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
    for (position, index) in (0..model.keys).enumerate() {
        assert_eq!(answer_at(&answer, position), model.answer(Version(3), 0, index, 0));
    }
}

/// The client of programs without an asynchronous runtime gives the same answers.
#[test]
fn the_blocking_client_reads_what_the_other_one_reads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    let model = Model::new(6, 2_000, Shape::I64);
    let cluster = runtime.block_on(async {
        let cluster = Cluster::start(2, 2).await;
        cluster.control.create("t", &model.schema()).await;
        cluster.control.load("t", cluster.model_load("t", &model, Version(1))).await;
        cluster
    });
    let client = fkv_client::blocking::Client::connect(cluster.env.clone(), cluster.client_config()).expect("connects");
    let keys: Vec<u64> = (0..model.keys).map(|index| model.key(index)).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let answer = client.get("t", Keys::U64(&keys), &ReadOptions::default()).expect("loaded");
                for (position, index) in (0..model.keys).enumerate() {
                    assert_eq!(answer_at(&answer, position), model.answer(Version(1), 0, index, 0));
                }
            });
        }
    });
    drop(client);
    runtime.block_on(cluster.shutdown());
}

/// One call reads several tables of other shapes, in the caller's order, repeated and absent keys included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_over_several_tables_keeps_every_key_in_its_place() {
    let cluster = Cluster::start(2, 3).await;
    let models =
        [Model::new(7, 3_000, Shape::Bytes), Model::new(8, 1_000, Shape::I64), Model::new(9, 10, Shape::Bytes)];
    let names = ["wide", "narrow", "tiny"];
    for (name, model) in names.iter().zip(&models) {
        cluster.control.create(name, &model.schema()).await;
        let spec = cluster.model_load(name, model, Version(1));
        cluster.control.load(name, spec).await;
    }
    let client = cluster.client().await;
    let indices: Vec<Vec<u64>> = vec![
        (0..4_000).map(|n| (n * 7919) % 3_500).collect(), // beyond the keys, too
        vec![5; 300],                                     // one key, again and again
        Vec::new(),
    ];
    let keys: Vec<Vec<u64>> =
        models.iter().zip(&indices).map(|(model, at)| at.iter().map(|index| model.key(*index)).collect()).collect();
    let reads: Vec<TableRead<'_>> =
        names.iter().zip(&keys).map(|(table, keys)| TableRead { table, keys: Keys::U64(keys) }).collect();
    let answer = client.batch_get(&reads, &ReadOptions::default()).await.expect("all are loaded");
    assert_eq!(answer.tables.len(), 3);
    for ((table, model), indices) in answer.tables.iter().zip(&models).zip(&indices) {
        assert_eq!((table.len(), table.mixed), (indices.len(), false));
        for (position, index) in indices.iter().enumerate() {
            let wanted = model.answer(table.label.version, 0, *index, 0);
            assert_eq!(answer_at(table, position), wanted, "position {position}, index {index}");
        }
    }
    let absent = (0..answer.tables[0].len()).filter(|at| answer_at(&answer.tables[0], *at) == Answer::Absent).count();
    assert!(absent > 500, "{absent} absent");
}

/// A pinned read gets the version asked for while servers hold it, and an error, never another version, afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_read_never_gets_another_version() {
    let cluster = Cluster::start(2, 2).await;
    let model = Model::new(3, 500, Shape::Bytes);
    cluster.control.create("pinned", &model.schema()).await;
    for version in 1..=3 {
        cluster.control.load("pinned", cluster.model_load("pinned", &model, Version(version))).await;
    }
    let client = cluster.client().await;
    let keys: Vec<u64> = (0..model.keys).map(|index| model.key(index)).collect();
    for version in [3, 2, 3] {
        let options =
            ReadOptions { consistency: fkv_client::Consistency::Pinned(Version(version)), ..ReadOptions::default() };
        let answer = client.get("pinned", Keys::U64(&keys), &options).await.expect("one of the two images");
        assert_eq!(answer.label.version, Version(version));
        for (position, index) in (0..model.keys).enumerate() {
            assert_eq!(answer_at(&answer, position), model.answer(Version(version), 0, index, 0));
        }
    }
    let options = ReadOptions {
        consistency: fkv_client::Consistency::Pinned(Version(1)),
        deadline: Some(std::time::Duration::from_secs(5)),
        ..ReadOptions::default()
    };
    let refused =
        client.get("pinned", Keys::U64(&keys), &options).await.expect_err("no server holds version 1 any more");
    assert!(matches!(refused, ClientError::NoCommonVersion { .. }), "{refused}");
    // The default read was not taken back by any of that.
    let answer = client.get("pinned", Keys::U64(&keys), &ReadOptions::default()).await.expect("loaded");
    assert_eq!(answer.label.version, Version(3));
}
