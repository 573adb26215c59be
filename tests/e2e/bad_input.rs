//! Bad input: clear words, the right status, nothing half done.

use std::time::Duration;

use fkv_client::{Client, ClientConfig, ClientError, Keys, ReadOptions, TableRead};
use fkv_env::{ChannelOptions, channel};
use fkv_formats::id::Version;
use fkv_formats::schema::ValueType;
use fkv_rpc::control::{LoadSpec, SectSpec, ServerSpec};
use fkv_rpc::kv::BatchGetRequest;
use fkv_rpc::kv::kv_client::KvClient;
use fkv_rpc::status::{ErrorKind, Failure};
use fkv_tests::cluster::Cluster;
use fkv_tests::control::full_load;
use fkv_tests::model::{Model, Shape};
use fkv_tests::reads::answer_at;
use tonic::{Code, Status};

/// Insists on a status, and on words of its message.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &[&str]) {
    let status = result.expect_err("this must be refused");
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "`{}` lacks `{word}`", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_named() {
    let cluster = Cluster::start(1, 1).await;
    let control = &cluster.control;
    refused(control.try_table("nobody").await, Code::NotFound, &["nobody"]);
    refused(control.drop_table("nobody").await, Code::NotFound, &["nobody"]);
    refused(control.submit("nobody", full_load(["file:///x".into()]), "").await, Code::NotFound, &["nobody"]);
    refused(control.versions("nobody").await, Code::NotFound, &["nobody"]);
    refused(control.rollback("nobody", 1, false).await, Code::NotFound, &["nobody"]);
    refused(control.release("nobody", false).await, Code::NotFound, &["nobody"]);

    let model = Model::new(1, 100, Shape::I64);
    control.create("somebody", &model.schema()).await;
    refused(control.task("somebody", 7).await, Code::NotFound, &["somebody", "7"]);
    refused(control.cancel("somebody", 7).await, Code::NotFound, &["somebody", "7"]);
    refused(control.rollback("somebody", 0, false).await, Code::FailedPrecondition, &["somebody"]);
    refused(control.release("somebody", false).await, Code::FailedPrecondition, &["not rolled back"]);
    control.load("somebody", cluster.model_load("somebody", &model, Version(1))).await;
    refused(control.rollback("somebody", 9, false).await, Code::NotFound, &["somebody", "9"]);
    refused(control.rollback("somebody", 1, false).await, Code::FailedPrecondition, &["already", "1"]);

    let client = cluster.client().await;
    let unknown = client.get("nobody", Keys::U64(&[1]), &ReadOptions::default()).await.expect_err("no such table");
    assert_eq!(unknown, ClientError::UnknownTable { table: "nobody".into() });
    assert!(unknown.to_string().contains("nobody"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_cannot_be_are_refused() {
    let cluster = Cluster::start(1, 1).await;
    let control = &cluster.control;
    let schema = Model::new(1, 1, Shape::Bytes).schema();
    for name in ["", "a/b", "..", "-x", "a b", "ä"] {
        refused(control.try_create(name, &schema).await, Code::InvalidArgument, &["table"]);
    }
    control.create("taken", &schema).await;
    refused(control.try_create("taken", &schema).await, Code::AlreadyExists, &["taken"]);
    let f16_of_bytes = fkv_formats::schema::Schema { storage: fkv_formats::schema::Storage::F16, ..schema.clone() };
    refused(control.try_create("narrow", &f16_of_bytes).await, Code::InvalidArgument, &["f32"]);
    let no_dimension = fkv_formats::schema::Schema { value: ValueType::F32(0), ..schema.clone() };
    refused(control.try_create("flat", &no_dimension).await, Code::InvalidArgument, &["f32[0]"]);
    for gone in ["narrow", "flat"] {
        refused(control.try_table(gone).await, Code::NotFound, &[gone]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_that_cannot_be_are_refused_at_once() {
    let cluster = Cluster::start(1, 1).await;
    let control = &cluster.control;
    let model = Model::new(1, 10, Shape::Bytes);
    control.create("t", &model.schema()).await;
    let good = cluster.model_load("t", &model, Version(1));
    let with = |change: &dyn Fn(&mut LoadSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    for (spec, code, words) in [
        (with(&|s| s.mode = "incremental".into()), Code::Unimplemented, ["increment", "full"]),
        (with(&|s| s.mode = "sometimes".into()), Code::InvalidArgument, ["sometimes", "full"]),
        (with(&|s| s.format = "xml".into()), Code::InvalidArgument, ["xml", "parquet"]),
        (with(&|s| s.nulls = "maybe".into()), Code::InvalidArgument, ["maybe", "skip"]),
        (with(&|s| s.duplicates = "some".into()), Code::InvalidArgument, ["some", "last"]),
        (with(&|s| s.inputs.clear()), Code::InvalidArgument, ["input", ""]),
        (with(&|s| s.inputs = vec!["relative/path".into()]), Code::InvalidArgument, ["relative/path", "URL"]),
        (with(&|s| s.inputs = vec!["http://host/x".into()]), Code::InvalidArgument, ["http", "s3"]),
        (with(&|s| s.inputs = vec!["file:///a/../b".into()]), Code::InvalidArgument, ["..", ""]),
        (with(&|s| s.inputs = vec!["s3://key:secret@bucket/x".into()]), Code::InvalidArgument, ["credentials", ""]),
        (with(&|s| s.key_column.clear()), Code::InvalidArgument, ["key", ""]),
        (with(&|s| s.value_columns = vec!["a".into(), "b".into()]), Code::InvalidArgument, ["2", "one"]),
        (with(&|s| s.expiry_column = "until".into()), Code::InvalidArgument, ["expiry", "TTL"]),
    ] {
        let given = format!("{spec:?}");
        let status = control.submit("t", spec, "").await.expect_err(&given);
        assert_eq!(status.code(), code, "{given}: {status}");
        assert!(words.iter().all(|word| status.message().contains(word)), "{given}: {status}");
        assert!(!status.message().contains("secret"), "{status}");
    }
    assert!(control.tasks("t").await.expect("listed").is_empty(), "nothing was submitted");
    assert_eq!(control.load("t", good).await.version, 1, "the table is as good as new");
}

/// The same submit id gives the same task, whatever state it is in; another spec under it is a conflict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submit_repeated_is_the_same_task() {
    let cluster = Cluster::start(1, 1).await;
    let control = &cluster.control;
    let model = Model::new(1, 1_000, Shape::Bytes);
    control.create("t", &model.schema()).await;
    let spec = cluster.model_load("t", &model, Version(1));
    // Many at once, as an impatient scheduler does.
    let submits = (0..8).map(|_| control.submit("t", spec.clone(), "daily-2024-05-01"));
    let replies = futures::future::join_all(submits).await;
    let replies: Vec<_> = replies.into_iter().map(|reply| reply.expect("submitted")).collect();
    assert_eq!(replies.iter().filter(|reply| reply.created).count(), 1, "one of them made the task");
    assert!(replies.iter().all(|reply| reply.task.as_ref().is_some_and(|task| task.task == 1)), "{replies:?}");
    control.wait_for("t", 1, &["finished"]).await;
    let again = control.submit("t", spec.clone(), "daily-2024-05-01").await.expect("the same");
    assert!(!again.created);
    assert_eq!(again.task.map(|task| (task.task, task.state)), Some((1, "finished".into())));

    let other = LoadSpec { max_bad_rows: 5, ..spec };
    refused(control.submit("t", other, "daily-2024-05-01").await, Code::AlreadyExists, &["daily-2024-05-01", "task 1"]);
    assert_eq!(control.tasks("t").await.expect("listed").len(), 1);
    assert_eq!(control.table("t").await.head, 1, "loaded once");
}

/// A cancel works while nothing of the task is shown, is refused with advice afterwards, and leaves nothing half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_in_every_state() {
    let mut cluster = Cluster::start(1, 2).await;
    let model = Model::new(1, 1_000, Shape::Bytes);
    let control = cluster.control.clone();
    control.create("t", &model.schema()).await;
    let load = |cluster: &Cluster, version| cluster.model_load("t", &model, Version(version));

    // One server is away, so the first task cannot end: it aligns, and the second waits behind it.
    cluster.crash("a/1");
    let aligning = control.start_load("t", load(&cluster, 1)).await;
    control.wait_for("t", aligning, &["aligning"]).await;
    let queued = control.start_load("t", load(&cluster, 2)).await;
    assert_eq!(control.cancel("t", queued).await.expect("a queued task can be cancelled").state, "cancelled");
    refused(control.cancel("t", queued).await, Code::FailedPrecondition, &["cancelled"]);
    // There is nothing to roll back to yet: then a cancel is the way out.
    assert_eq!(control.cancel("t", aligning).await.expect("nothing was ever shown").state, "cancelled");
    let table = control.table("t").await;
    assert_eq!((table.head, table.target, table.aligned), (1, None, None));
    cluster.restart("a/1").await;
    cluster.all_claimed().await;
    assert_eq!(control.load("t", load(&cluster, 3)).await.version, 2, "version 1 was committed and never shown");

    // Once something is shown, a committed version is rolled back, not cancelled.
    cluster.crash("a/1");
    let aligning = control.start_load("t", load(&cluster, 4)).await;
    control.wait_for("t", aligning, &["aligning"]).await;
    refused(control.cancel("t", aligning).await, Code::FailedPrecondition, &["committed", "roll"]);
    cluster.restart("a/1").await;
    control.wait_for("t", aligning, &["finished"]).await;
    refused(control.cancel("t", aligning).await, Code::FailedPrecondition, &["finished"]);
    assert_eq!(control.task("t", queued).await.expect("kept").state, "cancelled", "it never started");

    // Failed.
    let failed = control.start_load("t", full_load(["file:///nowhere/at/all".into()])).await;
    control.wait_for("t", failed, &["failed"]).await;
    refused(control.cancel("t", failed).await, Code::FailedPrecondition, &["failed"]);

    // Running: large enough to be caught at work, larger if it was not.
    let mut caught = false;
    for keys in [500_000, 2_000_000, 4_000_000] {
        let large = Model::new(2, keys, Shape::I64);
        let table = format!("large-{keys}");
        control.create(&table, &large.schema()).await;
        let task = control.start_load(&table, cluster.model_load(&table, &large, Version(1))).await;
        control.wait_for(&table, task, &["running", "aligning", "finished"]).await;
        if let Ok(cancelled) = control.cancel(&table, task).await {
            assert_eq!(cancelled.state, "cancelled");
            assert_eq!((cancelled.version, control.table(&table).await.head), (0, 0), "no version of it");
            // The next load of the table takes its place.
            let small = Model::new(3, 100, Shape::I64);
            let loaded = control.load(&table, cluster.model_load(&table, &small, Version(2))).await;
            assert_eq!(loaded.version, 1);
            assert_eq!(control.task(&table, task).await.expect("kept").state, "cancelled");
            caught = true;
            break;
        }
        control.wait_end(&table, task).await;
    }
    assert!(caught, "even the largest load was over before it could be cancelled");

    let last = control.load("t", load(&cluster, 5)).await;
    assert_eq!(last.version, 4, "versions are dense: what failed or was cancelled before its commit took none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_batches_that_cannot_be_are_refused() {
    let cluster = Cluster::start(1, 2).await;
    let model = Model::new(1, 30_000, Shape::I64);
    cluster.control.create("t", &model.schema()).await;
    cluster.control.load("t", cluster.model_load("t", &model, Version(1))).await;
    let client = cluster.client().await;
    let options = ReadOptions::default();

    let wrong = client.get("t", Keys::Bytes(&[b"1"]), &options).await.expect_err("keys are numbers");
    assert!(matches!(wrong, ClientError::WrongKeyType { .. }), "{wrong}");
    let long = vec![b'x'; 2_000];
    let wrong = client.get("t", Keys::Bytes(&[&long]), &options).await.expect_err("no key is that long");
    assert!(matches!(wrong, ClientError::BadRequest(_)), "{wrong}");
    let twice = [TableRead { table: "t", keys: Keys::U64(&[1]) }, TableRead { table: "t", keys: Keys::U64(&[2]) }];
    let wrong = client.batch_get(&twice, &options).await.expect_err("one read per table");
    assert!(matches!(wrong, ClientError::BadRequest(_)), "{wrong}");

    // Beyond the client's limit: refused; within it, though beyond one request's: answered.
    let narrow = ClientConfig { keys_per_call_max: 1_000, ..cluster.client_config() };
    let narrow = Client::connect(cluster.env.clone(), narrow).await.expect("connects");
    let keys: Vec<u64> = (0..150_000).map(|n| model.key(n % 31_000)).collect();
    let wrong = narrow.get("t", Keys::U64(&keys), &options).await.expect_err("over the limit");
    assert!(matches!(&wrong, ClientError::BatchTooLarge(text) if text.contains("1000")), "{wrong}");
    let answer = client.get("t", Keys::U64(&keys), &options).await.expect("split over several requests");
    for (position, n) in (0..150_000u64).enumerate() {
        assert_eq!(answer_at(&answer, position), model.answer(Version(1), 0, n % 31_000, 0));
    }

    // A body by hand, as a faulty client may send it.
    let channel = channel(cluster.env.net.clone(), &cluster.addresses()[0], ChannelOptions::default()).expect("valid");
    let mut server = KvClient::new(channel);
    let send = async |body: Vec<u8>| {
        let request = BatchGetRequest { body: body.into() };
        let status = server.clone().batch_get(request).await.expect_err("no reply to that");
        Failure::of(&status)
    };
    let too_many = body(70_000, 70_000);
    assert_eq!(send(too_many).await.kind, ErrorKind::BatchTooLarge);
    for (what, malformed) in [
        ("nothing", Vec::new()),
        ("noise", vec![0xa5; 500]),
        ("half a header", body(1, 1)[..20].to_vec()),
        ("fewer keys than counted", body(10, 9)),
        ("more keys than counted", body(9, 10)),
        ("a count of four billion", body(u32::MAX, 1)),
    ] {
        let failure = send(malformed).await;
        assert!(matches!(failure.kind, ErrorKind::BadRequest | ErrorKind::BatchTooLarge), "{what}: {failure:?}");
    }
    server.batch_get(BatchGetRequest { body: body(3, 3).into() }).await.expect("a whole body is answered");
}

/// A request body with one section that says it has `count` u64 keys and has `keys`.
fn body(count: u32, keys: usize) -> Vec<u8> {
    let mut body = b"FKVQ\0\0\0\0".to_vec();
    body.extend([0; 16]);
    body.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    body.extend([0; 12]);
    body.extend(count.to_le_bytes());
    body.extend([0; 48]);
    body.extend(vec![0; keys * 8]);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_illegal_number_of_roles_lists_the_legal_ones() {
    let cluster = Cluster::undeclared().await;
    let servers = |count: u16| {
        (0..count)
            .map(|n| ServerSpec { server: format!("a-{n}"), address: format!("127.0.0.1:{}", 9000 + n) })
            .collect()
    };
    let sect = |servers| vec![SectSpec { name: "a".into(), servers }];
    for count in [0, 7, 97] {
        let refusal = cluster.control.init_cluster(sect(servers(count))).await;
        refused(refusal, Code::InvalidArgument, &["1, 2, 3, 4, 5, 6, 8, 10, 12", "96"]);
    }
    refused(cluster.control.init_cluster(vec![]).await, Code::InvalidArgument, &["sect"]);
    let twice = vec![sect(servers(1)).remove(0), sect(servers(1)).remove(0)];
    refused(cluster.control.init_cluster(twice).await, Code::InvalidArgument, &["a"]);
    let shared = vec![
        ServerSpec { server: "a-0".into(), address: "127.0.0.1:9000".into() },
        ServerSpec { server: "a-1".into(), address: "nonsense".into() },
    ];
    refused(cluster.control.init_cluster(sect(shared)).await, Code::InvalidArgument, &["nonsense"]);
    let declared = cluster.control.init_cluster(sect(servers(2))).await.expect("two are fine");
    let again = cluster.control.init_cluster(sect(servers(2))).await.expect("the same again changes nothing");
    assert_eq!((again.generation, &again.sects), (declared.generation, &declared.sects));
    refused(cluster.control.init_cluster(sect(servers(3))).await, Code::AlreadyExists, &["already"]);
}

/// Where nothing answers, a client says so before its deadline and a half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_servers_says_so() {
    let cluster = Cluster::undeclared().await;
    let config = ClientConfig { deadline: Duration::from_secs(2), ..ClientConfig::new(["127.0.0.1:1"]) };
    let error = Client::connect(cluster.env.clone(), config).await.expect_err("nobody listens there");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    let error = Client::connect(cluster.env.clone(), ClientConfig::new(Vec::<String>::new())).await;
    assert!(matches!(error.expect_err("no endpoints"), ClientError::BadRequest(_)));
}
