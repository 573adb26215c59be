//! Workers that die, stall, meet faults or lose answers: one version comes of it, once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fkv_datasvr::DataServer;
use fkv_env::Env;
use fkv_formats::id::TaskId;
use fkv_meta::key::TASK_LOCK;
use fkv_meta::record::JobRecord;
use fkv_meta::store::{MetaStore, Op, Txn, TxnOutcome};
use fkv_rpc::control as rpc;
use fkv_store::Store;

use crate::gates::{Gate, GatedClock, GatedMeta, GatedStore};
use crate::parquet_files::numbered;
use crate::world::{OwnedKey, World, load, run, table};

/// A world with a table, an input and slots, all made through a server that does no work.
async fn prepared() -> (World, DataServer, crate::world::Slots) {
    let world = World::new().await;
    let server = world.server_with(fkv_datasvr::DataConfig { work: false, ..world.config("api") }).await;
    let mut client = world.client(&server);
    let slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(10_000, |id| id as f32));
    (world, server, slots)
}

async fn submit(world: &World, server: &DataServer) -> rpc::Task {
    let mut client = world.client(server);
    let reply = client.submit_load(load("t", world.url("a.parquet"))).await.expect("accepted");
    reply.into_inner().task.expect("a task")
}

async fn start(world: &World, name: &str, env: Env, meta: Arc<dyn MetaStore>, store: Store) -> DataServer {
    DataServer::start(env, world.config(name), meta, store).await.expect("started")
}

async fn assert_one_version(world: &World) {
    let (uid, record) = world.table("t").await;
    let versions = world.meta().versions(uid).await.expect("listed");
    assert_eq!((versions.len(), record.head.0, record.epoch.0), (1, 1, 1));
    let records = world.decode("t", 1).await;
    assert_eq!(records.len(), 10_000);
    assert_eq!(records[&OwnedKey::U64(77)].1, 77f32.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_finishes_what_a_killed_one_began() {
    let (world, api, _slots) = prepared().await;
    let gate = Gate::new(false);
    let store = GatedStore::new(&world.store, &gate);
    let first = start(&world, "first", world.env.clone(), Arc::clone(&world.meta), store).await;
    let task = submit(&world, &api).await;
    gate.reached().await;
    // As by kill -9: nothing is given back, the lease has to end.
    drop(first);
    let second = world.server("second").await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.attempt, done.version), ("finished", 2, 1), "{done:?}");
    assert_one_version(&world).await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_stop_hands_its_task_over_at_once() {
    let (world, api, _slots) = prepared().await;
    let gate = Gate::new(false);
    let store = GatedStore::new(&world.store, &gate);
    // A lease that would outlast the test: the handover must not wait for its end.
    let config = fkv_datasvr::DataConfig { lease_ttl: std::time::Duration::from_secs(3600), ..world.config("first") };
    let first = DataServer::start(world.env.clone(), config, Arc::clone(&world.meta), store).await.expect("started");
    let task = submit(&world, &api).await;
    gate.reached().await;
    first.shutdown().await;
    let _second = world.server("second").await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.attempt), ("finished", 2), "{done:?}");
    assert_one_version(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_writes_garbage_but_never_state() {
    let (world, api, _slots) = prepared().await;
    let writes = Gate::new(false);
    let store = GatedStore::new(&world.store, &writes);
    let meta = GatedMeta::new(&world.meta);
    let clock = Gate::new(true);
    let mut env = Env::real(1).expect("threads start");
    env.clock = Arc::new(GatedClock { inner: Arc::clone(&env.clock), gate: clock.clone() });
    let zombie = start(&world, "zombie", env, meta.clone(), store).await;
    let task = submit(&world, &api).await;
    writes.reached().await;
    // The worker is paused in the middle of its build: it renews nothing, sees nothing, and no timer of its wakes.
    clock.set(false);
    meta.calls.set(false);
    let second = world.server("second").await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.attempt), ("finished", 2), "{done:?}");
    let (uid, before) = world.table("t").await;
    let version = world.meta().version(uid, before.head).await.expect("answers");

    // It goes on where it stood, and still does not know: it writes its output and comes to its commit.
    writes.set(true);
    let build = format!("tables/{:016x}/tasks/{:020}/build", uid.0, task.task);
    while outputs(&world, &build).await < 2 {
        tokio::task::yield_now().await;
    }
    // Then it wakes, and ends whatever it still does.
    clock.set(true);
    meta.calls.set(true);
    zombie.shutdown().await;
    let (_, after) = world.table("t").await;
    assert_eq!(before, after);
    assert_eq!(world.meta().version(uid, before.head).await.expect("answers"), version);
    let shown = world.meta().task(uid, TaskId(task.task)).await.expect("answers").expect("a task");
    assert!(shown.value.errors.is_empty(), "a zombie leaves no word on the task: {:?}", shown.value.errors);
    assert_one_version(&world).await;
    second.shutdown().await;
}

/// How many attempts below `prefix` have written their output.
async fn outputs(world: &World, prefix: &str) -> usize {
    let listed: Vec<_> = futures::StreamExt::collect(world.store.list(prefix)).await;
    listed.into_iter().filter(|object| object.as_ref().is_ok_and(|object| object.path.ends_with("/output"))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_those_who_watch() {
    let (world, api, _slots) = prepared().await;
    let task = submit(&world, &api).await;
    let request = rpc::ShowTaskRequest { table: "t".into(), task: task.task };
    let mut stream = world.client(&api).watch_task(request).await.expect("watched").into_inner();
    assert_eq!(stream.message().await.expect("the first").expect("a task").state, "queued");
    let began = world.env.clock.monotonic();
    api.shutdown().await;
    // The server's own patience with calls that do not end is 10 s.
    assert!(world.env.clock.monotonic() - began < std::time::Duration::from_secs(8));
    let status = stream.message().await.expect_err("the watch ends with the server");
    assert_eq!(fkv_rpc::status::Failure::of(&status).kind, fkv_rpc::status::ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_retried_and_kept_on_the_task() {
    let (world, api, _slots) = prepared().await;
    let store = GatedStore::new(&world.store, &Gate::new(true));
    store.failures.store(2, Ordering::SeqCst);
    let worker = start(&world, "w", world.env.clone(), Arc::clone(&world.meta), store.clone()).await;
    let task = submit(&world, &api).await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.attempt), ("finished", 1), "{done:?}");
    let attempts: Vec<u32> = done.errors.iter().map(|error| error.attempt).collect();
    assert_eq!(attempts, [1, 2], "of its one job, which was done in the third");
    assert!(done.errors[0].message.contains("unavailable: on purpose"), "{:?}", done.errors[0]);
    assert_one_version(&world).await;

    store.failures.store(usize::MAX, Ordering::SeqCst);
    let task = submit(&world, &api).await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.errors.len()), ("failed", 4), "attempts are bounded: {done:?}");
    assert_one_version(&world).await;
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_every_worker_fails_its_task_in_the_end() {
    let (world, api, _slots) = prepared().await;
    let task = submit(&world, &api).await;
    let (uid, id) = (world.table("t").await.0, TaskId(task.task));
    for attempt in 1..=JobRecord::CLAIMS {
        let gate = Gate::new(false);
        let store = GatedStore::new(&world.store, &gate);
        let worker = start(&world, &format!("w{attempt}"), world.env.clone(), Arc::clone(&world.meta), store).await;
        gate.reached().await;
        if attempt % 8 == 0 {
            // As by kill -9: the lease has to end.
            drop(worker);
        } else {
            worker.shutdown().await;
        }
        let gone = |view: &fkv_meta::View| view.lock(uid, id, TASK_LOCK).or(view.lock(uid, id, "build")).is_none();
        world.wait("the locks go with their leases", gone).await;
    }
    let _last = world.server("last").await;
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.version), ("failed", 0), "{done:?}");
    assert!(done.errors.iter().any(|error| error.message.contains("no attempt is left")), "{:?}", done.errors);
    let job = world.meta().job(uid, id, "build").await.expect("answers").expect("claimed");
    assert_eq!((job.value.attempt, job.value.errors.len()), (JobRecord::CLAIMS, 0));
}

/// Whether a transaction writes a key with this in it.
fn writes(txn: &Txn, part: &str) -> bool {
    txn.ops.iter().any(|op| matches!(op, Op::Put { key, .. } if key.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_read_back_never_assumed() {
    // The claim of the task, the frozen plan, the claim and commit of the job, the version: each answer is lost once.
    for part in ["/@task", "/tasks/", "/jobs/", "/locks/", "/versions/"] {
        let (world, api, _slots) = prepared().await;
        let meta = GatedMeta::new(&world.meta);
        let once = std::sync::atomic::AtomicU64::new(0);
        *meta.lose.lock().expect("unpoisoned") =
            Some(Box::new(move |txn| writes(txn, part) && once.fetch_add(1, Ordering::SeqCst) < 3));
        let worker = start(&world, "w", world.env.clone(), meta.clone(), Store::clone(&world.store)).await;
        let task = submit(&world, &api).await;
        let done = world.finish(&mut world.client(&api), &task).await;
        assert_eq!((done.state.as_str(), done.version), ("finished", 1), "{part}: {done:?}");
        assert_eq!((done.attempt, done.errors.len()), (1, 0), "{part}: {done:?}");
        assert!(meta.lost.load(Ordering::SeqCst) > 0, "{part}: nothing was lost");
        assert_one_version(&world).await;
        worker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_arrives_after_it_was_given_up_leaves_no_lock_behind() {
    let (world, api, _slots) = prepared().await;
    let meta = GatedMeta::new(&world.meta);
    let once = std::sync::atomic::AtomicU64::new(0);
    *meta.delay.lock().expect("unpoisoned") =
        Some(Box::new(move |txn| writes(txn, "/@task") && once.fetch_add(1, Ordering::SeqCst) == 0));
    meta.revokes.set(false);
    // A lease that would outlast the test: a lock that hung on it would hold the task up for ever.
    let config = fkv_datasvr::DataConfig { lease_ttl: std::time::Duration::from_secs(3600), ..world.config("w") };
    let worker =
        DataServer::start(world.env.clone(), config, meta.clone(), Store::clone(&world.store)).await.expect("started");
    let task = submit(&world, &api).await;
    let held_up = meta.delayed.subscribe().wait_for(|held_up| !held_up.is_empty()).await.expect("alive")[0].clone();
    // The worker has read back that it has no lock, and stands before the end of its lease; now the claim arrives.
    meta.revokes.reached().await;
    let arrived = world.meta.txn(held_up).await;
    assert!(matches!(arrived, Ok(TxnOutcome::Committed(_))), "{arrived:?}");
    let (uid, id) = (world.table("t").await.0, TaskId(task.task));
    world.wait("the lock that nobody knows of", |view| view.lock(uid, id, TASK_LOCK).is_some()).await;
    meta.revokes.set(true);
    let done = world.finish(&mut world.client(&api), &task).await;
    assert_eq!((done.state.as_str(), done.attempt, done.version), ("finished", 2, 1), "{done:?}");
    assert_one_version(&world).await;
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_loads_all_fail_does_not_keep_others_waiting() {
    let (world, api, _slots) = prepared().await;
    let mut client = world.client(&api);
    client.create_table(table("a", "f32")).await.expect("created");
    // In front of `t` by name, and never without a load that waits: a worker that always began there would never be done.
    let mut submitting = client.clone();
    let endless = async {
        while world.env.clock.unix_ms() > 0 {
            match submitting.submit_load(load("a", world.url("none.parquet"))).await {
                Ok(_) => {}
                Err(full) => assert!(full.message().contains("waiting already"), "{full:?}"),
            }
        }
    };
    let finished = async {
        let task = submit(&world, &api).await;
        let worker = world.server("w").await;
        let done = world.finish(&mut client, &task).await;
        worker.shutdown().await;
        done
    };
    let done = tokio::select! {
        done = finished => done,
        () = endless => panic!("loads are submitted for ever"),
    };
    assert_eq!(done.state, "finished", "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_one_table_run_one_after_the_other_and_two_workers_share_tables() {
    let (world, api, _slots) = prepared().await;
    let mut client = world.client(&api);
    client.create_table(table("u", "f32")).await.expect("created");
    let (_one, _two) = (world.server("one").await, world.server("two").await);
    let mut tasks = Vec::new();
    for _ in 0..3 {
        for name in ["t", "u"] {
            let reply = client.submit_load(load(name, world.url("a.parquet"))).await.expect("accepted");
            tasks.push(reply.into_inner().task.expect("a task"));
        }
    }
    for task in &tasks {
        let done = world.finish(&mut client, task).await;
        assert_eq!((done.state.as_str(), done.version), ("finished", task.task), "{done:?}");
    }
    let _ = run(&world, &mut client, load("t", world.url("a.parquet"))).await;
    for name in ["t", "u"] {
        let first = world.decode(name, 1).await;
        assert!(first == world.decode(name, 3).await);
    }
}
