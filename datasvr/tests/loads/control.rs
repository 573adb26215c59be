//! The control API: what is refused and how, what may be repeated, and rollback and release.

use std::sync::Arc;
use std::time::Duration;

use fkv_datasvr::{DataConfig, DataServer, FileInputs, StartError};
use fkv_rpc::control as rpc;
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::Status;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::gates::{Gate, GatedStore};
use crate::parquet_files::numbered;
use crate::world::{World, load, run, table, with};

/// Asserts the kind of a failed call and that its message names something.
fn assert_fails<T: std::fmt::Debug>(result: Result<T, Status>, kind: ErrorKind, named: &str) {
    let failure = Failure::of(&result.expect_err(named));
    assert_eq!(failure.kind, kind, "{failure:?}");
    assert!(failure.message.contains(named), "{} does not name {named}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_what_is_wrong_and_change_nothing() {
    use ErrorKind::{AlreadyExists, BadRequest, NotFound, Unsupported};
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let mut create = async |change: &dyn Fn(&mut rpc::CreateTableRequest)| {
        let mut request = table("t", "f32");
        change(&mut request);
        client.create_table(request).await
    };
    assert_fails(create(&|r| r.filter = "bloom".into()).await, BadRequest, "`bloom`");
    assert_fails(create(&|r| r.filter = "fuse8".into()).await, BadRequest, "only blk tables");
    assert_fails(create(&|r| r.kind = "ram".into()).await, BadRequest, "`ram`");
    assert_fails(create(&|r| r.key_type = "i32".into()).await, BadRequest, "`i32`");
    assert_fails(create(&|r| r.key_type = String::new()).await, BadRequest, "key type");
    assert_fails(create(&|r| r.value_type = "f64".into()).await, BadRequest, "`f64`");
    assert_fails(create(&|r| r.value_type = "f32[0]".into()).await, BadRequest, "f32[0]");
    assert_fails(create(&|r| r.storage = "f8".into()).await, BadRequest, "`f8`");
    assert_fails(create(&|r| r.f16_overflow = "wrap".into()).await, BadRequest, "`wrap`");
    assert_fails(create(&|r| r.retain_old = "tape".into()).await, BadRequest, "`tape`");
    assert_fails(create(&|r| r.name = "a/b".into()).await, BadRequest, "`a/b`");
    create(&|_| {}).await.expect("created");
    assert_fails(create(&|_| {}).await, AlreadyExists, "`t`");

    let task = rpc::ShowTaskRequest { table: "t".into(), task: 9 };
    assert_fails(client.show_task(task.clone()).await, NotFound, "task 9");
    assert_fails(client.watch_task(task).await.map(|_| ()), NotFound, "task 9");
    assert_fails(client.show_table(rpc::ShowTableRequest { table: "no".into() }).await, NotFound, "`no`");
    assert_fails(
        client.show_version(rpc::ShowVersionRequest { table: "t".into(), version: 1 }).await,
        NotFound,
        "version 1",
    );
    assert_fails(client.cancel_task(rpc::CancelTaskRequest { table: "t".into(), task: 1 }).await, NotFound, "task 1");

    let good = load("t", world.url("a.parquet"));
    let mut submit = async |change: &dyn Fn(&mut rpc::LoadSpec)| client.submit_load(with(good.clone(), change)).await;
    assert_fails(submit(&|s| s.mode = "incremental".into()).await, Unsupported, "use mode full");
    assert_fails(submit(&|s| s.mode = "upsert".into()).await, BadRequest, "`upsert`");
    assert_fails(submit(&|s| s.format = "xml".into()).await, BadRequest, "`xml`");
    assert_fails(submit(&|s| s.nulls = "drop".into()).await, BadRequest, "`drop`");
    assert_fails(submit(&|s| s.duplicates = "any".into()).await, BadRequest, "`any`");
    assert_fails(submit(&|s| s.inputs.clear()).await, BadRequest, "input");
    assert_fails(submit(&|s| s.key_column.clear()).await, BadRequest, "key column");
    assert_fails(submit(&|s| s.value_columns.push("w".into())).await, BadRequest, "value column");
    assert_fails(submit(&|s| s.expiry_column = "e".into()).await, BadRequest, "TTL");
    assert_fails(submit(&|s| s.inputs[0] = "ftp://h/x".into()).await, BadRequest, "`ftp`");
    assert_fails(submit(&|s| s.inputs[0] = "file:///a/../b".into()).await, BadRequest, "`..`");
    let output = format!("{}/tables/x", world.store.url());
    assert_fails(submit(&|s| s.inputs[0].clone_from(&output)).await, BadRequest, "versions are written to");
    let unknown = rpc::SubmitLoadRequest { table: "no".into(), ..good.clone() };
    assert_fails(client.submit_load(unknown).await, NotFound, "`no`");
    assert_fails(client.submit_load(rpc::SubmitLoadRequest { spec: None, ..good }).await, BadRequest, "spec");

    let listed = client.list_tasks(rpc::ListTasksRequest::default()).await.expect("listed").into_inner();
    assert!(listed.tasks.is_empty(), "nothing half-done: {listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_files_are_read_only_where_configured() {
    let world = World::new().await;
    let mut config = world.config("w");
    config.sources.files = FileInputs::Refused;
    let server = world.server_with(config).await;
    let mut client = world.client(&server);
    client.create_table(table("t", "f32")).await.expect("created");
    let refused = client.submit_load(load("t", world.url("a.parquet"))).await;
    assert_fails(refused, ErrorKind::BadRequest, "--allow-file-inputs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_id_stands_for_one_task() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(10, |id| id as f32));
    let request = rpc::SubmitLoadRequest { submit_id: "daily/2024-01-01".into(), ..load("t", world.url("a.parquet")) };
    let first = client.submit_load(request.clone()).await.expect("accepted").into_inner();
    let again = client.submit_load(request.clone()).await.expect("accepted").into_inner();
    assert!(first.created && !again.created);
    let (first, again) = (first.task.expect("a task"), again.task.expect("a task"));
    assert_eq!(first.task, again.task);
    world.finish(&mut client, &first).await;
    let later = client.submit_load(request.clone()).await.expect("accepted").into_inner();
    assert!(!later.created);
    assert_eq!(later.task.expect("a task").state, "finished");
    let other = client.submit_load(with(request, |spec| spec.max_bad_rows = 1)).await;
    assert_fails(other, ErrorKind::AlreadyExists, "daily/2024-01-01");
    let listed = client.list_tasks(rpc::ListTasksRequest::default()).await.expect("listed").into_inner();
    assert_eq!(listed.tasks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_every_state_is_clear() {
    let world = World::new().await;
    let gate = Gate::new(false);
    let store = GatedStore::new(&world.store, &gate);
    let config = world.config("w");
    let server = DataServer::start(world.env.clone(), config, Arc::clone(&world.meta), store).await.expect("started");
    let mut client = world.client(&server);
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(10, |id| id as f32));
    world.put("bad.parquet", b"not parquet at all");
    let mut submit = async |name: &str| {
        let reply = client.submit_load(load("t", world.url(name))).await.expect("accepted").into_inner();
        reply.task.expect("a task")
    };
    let (running, queued, next, bad) =
        (submit("a.parquet").await, submit("a.parquet").await, submit("a.parquet").await, submit("bad.parquet").await);
    let cancel = |task: &rpc::Task| rpc::CancelTaskRequest { table: "t".into(), task: task.task };

    gate.reached().await;
    let cancelled = client.cancel_task(cancel(&queued)).await.expect("a queued task").into_inner();
    assert_eq!(cancelled.state, "cancelled");
    let cancelled = client.cancel_task(cancel(&running)).await.expect("a running task").into_inner();
    assert_eq!((cancelled.state.as_str(), cancelled.version), ("cancelled", 0));
    assert_fails(client.cancel_task(cancel(&running)).await, ErrorKind::Refused, "nothing left to cancel");
    assert_fails(client.cancel_task(cancel(&queued)).await, ErrorKind::Refused, "was cancelled");

    // The worker has dropped what it was doing and takes up the next task; no slot holds its version yet, and none was
    // ever shown that the table could be rolled back to.
    gate.set(true);
    let aligning = world.until(&mut client, &next, |task| task.state == "aligning").await;
    assert_eq!(aligning.version, 1);
    let waiting =
        world.until(&mut client, &next, |task| task.progress.as_ref().is_some_and(|p| !p.waiting_for.is_empty())).await;
    assert!(waiting.progress.expect("progress").waiting_for.contains("cluster init"));

    let cancelled = client.cancel_task(cancel(&next)).await.expect("nothing was shown yet").into_inner();
    assert_eq!((cancelled.state.as_str(), cancelled.version), ("cancelled", 1));

    let _slots = world.slots(&mut client).await;
    let finished = run(&world, &mut client, load("t", world.url("a.parquet"))).await;
    assert_eq!((finished.state.as_str(), finished.version), ("finished", 2));
    assert_fails(client.cancel_task(cancel(&finished)).await, ErrorKind::Refused, "has finished");
    let failed = world.finish(&mut client, &bad).await;
    assert_eq!(failed.state, "failed");
    assert_fails(client.cancel_task(cancel(&bad)).await, ErrorKind::Refused, "has failed");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_and_release_move_what_is_shown() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    let rollback = |to: u64, expected_epoch: Option<u64>, dry_run: bool| rpc::RollbackRequest {
        table: "t".into(),
        to,
        expected_epoch,
        dry_run,
    };
    let release = |dry_run: bool| rpc::ReleaseRequest { table: "t".into(), expected_epoch: None, dry_run };
    assert_fails(client.rollback(rollback(0, None, false)).await, ErrorKind::Refused, "has shown no version yet");
    for (name, factor) in [("a", 1.0), ("b", 2.0)] {
        world.put(&format!("{name}.parquet"), &numbered(100, |id| id as f32 * factor));
        let task = run(&world, &mut client, load("t", world.url(&format!("{name}.parquet")))).await;
        assert_eq!(task.state, "finished");
    }
    assert_fails(client.rollback(rollback(1, Some(7), false)).await, ErrorKind::Conflict, "epoch 2");
    assert_fails(client.rollback(rollback(9, None, false)).await, ErrorKind::NotFound, "version 9");
    assert_fails(client.release(release(false)).await, ErrorKind::Refused, "not rolled back");

    let asked = client.rollback(rollback(0, Some(2), true)).await.expect("a dry run").into_inner();
    assert!(asked.dry_run && asked.table.expect("a table").rolled_back_to == 1);
    let (_, untouched) = world.table("t").await;
    assert_eq!(untouched.epoch.0, 2);

    let done = client.rollback(rollback(0, Some(2), false)).await.expect("rolled back").into_inner();
    let shown = done.table.expect("a table");
    assert_eq!(
        (shown.phase.as_str(), shown.rolled_back_to, shown.rolled_back_head, shown.epoch),
        ("rolled_back", 1, 2, 3)
    );
    let (uid, _) = world.table("t").await;
    world
        .wait("version 1 is shown", |view| {
            view.table_by_uid(uid).and_then(|table| table.value.aligned).is_some_and(|label| label.version.0 == 1)
        })
        .await;
    assert_fails(client.submit_load(load("t", world.url("a.parquet"))).await, ErrorKind::Refused, "release it first");

    let asked = client.release(release(true)).await.expect("a dry run").into_inner();
    assert_eq!((asked.dry_run, asked.version), (true, 3));
    let released = client.release(release(false)).await.expect("released").into_inner();
    assert_eq!((released.version, released.table.expect("a table").phase.as_str()), (3, "normal"));
    let version = client.show_version(rpc::ShowVersionRequest { table: "t".into(), version: 3 }).await.expect("shown");
    let version = version.into_inner();
    assert_eq!((version.kind.as_str(), version.of), ("release", 1));
    let versions = client.list_versions(rpc::ListVersionsRequest { table: "t".into() }).await.expect("listed");
    let quarantined: Vec<bool> = versions.into_inner().versions.iter().map(|version| version.quarantined).collect();
    assert_eq!(quarantined, [false, true, false]);
    let task = run(&world, &mut client, load("t", world.url("b.parquet"))).await;
    assert_eq!((task.state.as_str(), task.version), ("finished", 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_stops_the_task_at_work() {
    let world = World::new().await;
    let gate = Gate::new(true);
    let store = GatedStore::new(&world.store, &gate);
    let server = DataServer::start(world.env.clone(), world.config("w"), Arc::clone(&world.meta), store).await;
    let server = server.expect("started");
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "f32")).await.expect("created");
    world.put("a.parquet", &numbered(100, |id| id as f32));
    for _ in 0..2 {
        assert_eq!(run(&world, &mut client, load("t", world.url("a.parquet"))).await.state, "finished");
    }
    gate.set(false);
    let reply = client.submit_load(load("t", world.url("a.parquet"))).await.expect("accepted").into_inner();
    let task = reply.task.expect("a task");
    gate.reached().await;
    let request = rpc::RollbackRequest { table: "t".into(), to: 1, expected_epoch: None, dry_run: false };
    let rolled_back = client.rollback(request).await.expect("rolled back").into_inner();
    assert_eq!(rolled_back.stopped_task, task.task);
    let stopped = world.finish(&mut client, &task).await;
    assert!(matches!(stopped.state.as_str(), "cancelled" | "failed"), "{stopped:?}");
    gate.set(true);
    let (_, record) = world.table("t").await;
    assert_eq!((record.head.0, record.running), (2, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_made_once_and_with_legal_roles() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let empty = client.show_cluster(rpc::ShowClusterRequest {}).await.expect("shown").into_inner();
    assert_eq!((empty.module.as_str(), empty.generation, empty.sects.len()), ("test", 0, 0));
    let sect = |name: &str, roles: usize| rpc::SectSpec {
        name: name.into(),
        servers: (0..roles)
            .map(|role| rpc::ServerSpec {
                server: format!("{name}{role}"),
                address: format!("127.0.0.1:{}", 9000 + role),
            })
            .collect(),
    };
    let seven = client.init_cluster(rpc::InitClusterRequest { sects: vec![sect("a", 7)] }).await;
    let failure = Failure::of(&seven.expect_err("2400 is no multiple of 7"));
    assert_eq!(failure.kind, ErrorKind::BadRequest);
    assert!(failure.message.contains("1, 2, 3, 4, 5, 6, 8, 10, 12"), "the legal ones are listed: {}", failure.message);
    let twice = rpc::InitClusterRequest { sects: vec![sect("a", 1), sect("a", 2)] };
    assert_fails(client.init_cluster(twice).await, ErrorKind::BadRequest, "`a` is given twice");

    let request = rpc::InitClusterRequest { sects: vec![sect("a", 3), sect("b", 2)] };
    let made = client.init_cluster(request.clone()).await.expect("made").into_inner();
    let again = client.init_cluster(request).await.expect("the same again").into_inner();
    assert_eq!((made.generation, again.generation), (1, 1));
    assert_eq!(made.sects.iter().map(|sect| sect.slots.len()).collect::<Vec<_>>(), [3, 2]);
    let other = client.init_cluster(rpc::InitClusterRequest { sects: vec![sect("a", 3)] }).await;
    assert_fails(other, ErrorKind::AlreadyExists, "initialised already");
    world.wait("the worker announces itself", |view| view.workers().next().is_some()).await;
    let shown = client.show_cluster(rpc::ShowClusterRequest {}).await.expect("shown").into_inner();
    assert_eq!(shown.workers.len(), 1);
    assert_eq!((shown.workers[0].worker.as_str(), shown.workers[0].address.clone()), ("w", server.addr().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_dropped_only_as_it_was_seen() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let made = client.create_table(table("t", "f32")).await.expect("created").into_inner();
    let drop = |expected_epoch, dry_run| rpc::DropTableRequest { table: "t".into(), expected_epoch, dry_run };
    assert_fails(client.drop_table(drop(Some(5), false)).await, ErrorKind::Conflict, "epoch");
    assert!(client.drop_table(drop(Some(0), true)).await.expect("a dry run").into_inner().dry_run);
    client.show_table(rpc::ShowTableRequest { table: "t".into() }).await.expect("still there");
    client.drop_table(drop(Some(0), false)).await.expect("dropped");
    assert_fails(client.drop_table(drop(None, false)).await, ErrorKind::NotFound, "`t`");
    let again = client.create_table(table("t", "f32")).await.expect("created").into_inner();
    assert_ne!(made.uid, again.uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_can_ask_what_is_served_and_whether_it_works() {
    let world = World::new().await;
    let server = world.server("w").await;
    let channel = || {
        let address = server.addr().to_string();
        fkv_env::channel(Arc::clone(&world.env.net), &address, fkv_env::ChannelOptions::default()).expect("an address")
    };
    let request = tonic_health::pb::HealthCheckRequest { service: "featurekv.control.v1.Control".into() };
    let health = HealthClient::new(channel()).check(request).await.expect("answers").into_inner();
    assert_eq!(health.status, 1);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let stream = futures::stream::once(std::future::ready(request));
    let mut replies =
        ServerReflectionClient::new(channel()).server_reflection_info(stream).await.expect("answers").into_inner();
    let reply = format!("{:?}", replies.message().await.expect("a reply"));
    assert!(reply.contains("featurekv.control.v1.Control"), "{reply}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_unsafe_or_senseless_does_not_start() {
    let world = World::new().await;
    let start = async |change: &dyn Fn(&mut DataConfig)| {
        let mut config = world.config("w");
        change(&mut config);
        let started = DataServer::start(world.env.clone(), config, Arc::clone(&world.meta), Arc::clone(&world.store));
        started.await.map(|_| ()).expect_err("does not start")
    };
    let anywhere = |config: &mut DataConfig| config.listen = "0.0.0.0:0".parse().expect("an address");
    assert!(matches!(start(&anywhere).await, StartError::Insecure(_)));
    assert!(matches!(start(&|config| config.module = "a/b".into()).await, StartError::Name(_)));
    assert!(matches!(start(&|config| config.worker = "-".into()).await, StartError::Name(_)));
    assert!(matches!(start(&|config| config.lease_ttl = Duration::ZERO).await, StartError::Config(_)));
    let taken = world.server("other").await;
    let error = start(&|config| config.listen = taken.addr()).await;
    assert!(error.to_string().contains(&taken.addr().to_string()), "{error}");
}
