//! Two DataSvr processes share a load on etcd and S3, while they are killed and paused all the time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fkv_client::{Client, ReadOptions};
use fkv_env::{Entropy, Env, SeededEntropy};
use fkv_formats::id::{TableUid, TaskId, Version};
use fkv_meta::key::Keys;
use fkv_meta::record::{JobState, TaskState};
use fkv_meta::testing::EtcdProcess;
use fkv_meta::{Meta, View};
use fkv_rpc::control::{LoadSpec, SectSpec, ServerSpec};
use fkv_store::testing::S3Process;
use fkv_tests::audit::{Audit, Reader};
use fkv_tests::cluster::client_config;
use fkv_tests::control::{Control, full_load};
use fkv_tests::model::{Model, Shape};
use fkv_tests::process::{Server, binary, free_ports};
use fkv_tests::reads::observe;
use fkv_tests::{rows, wait};
use tempfile::TempDir;

const MODULE: &str = "workers";
const WORKERS: [&str; 2] = ["worker-0", "worker-1"];
/// Files of the input. All are CSV, which may be cut anywhere.
const FILES: u64 = 3;
/// After so many deaths and pauses the load is left alone.
const DISTURBANCES_MAX: u32 = 24;

struct Deployment {
    env: Env,
    meta: Meta,
    workers: BTreeMap<&'static str, Server>,
    kv: Server,
    ports: Vec<u16>,
    etcd: EtcdProcess,
    s3: S3Process,
    // Last: the processes write into it.
    dir: TempDir,
}

impl Deployment {
    async fn start() -> Self {
        let env = Env::real(2).expect("threads start");
        let (etcd, s3) = (EtcdProcess::start().await, S3Process::start(&env).await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports(&env, 1 + WORKERS.len());
        let meta = Meta::new(Arc::new(etcd.store(&env)), Keys::new(MODULE).expect("a good name"));
        let kv = start_kvsvr(&etcd, &s3, dir.path(), ports[0]);
        let mut deployment = Self { env, meta, workers: BTreeMap::new(), kv, ports, etcd, s3, dir };
        for worker in WORKERS {
            deployment.start_worker(worker);
        }
        deployment
    }

    fn start_worker(&mut self, worker: &'static str) {
        let at = WORKERS.iter().position(|name| *name == worker).expect("one of them");
        let arguments = [
            ("--module", MODULE.to_owned()),
            ("--worker", worker.to_owned()),
            ("--listen", format!("127.0.0.1:{}", self.ports[1 + at])),
            ("--metadata", self.etcd.url()),
            ("--store", self.s3.url("store")),
            ("--allow-file-inputs", self.dir.path().join("in").display().to_string()),
            ("--build-memory", "64MiB".to_owned()),
            ("--slice-size", "1MiB".to_owned()),
        ];
        let mut variables = s3_variables(&self.s3);
        variables.extend([
            ("FKV_DATASVR_S3__ENDPOINT", self.s3.endpoint()),
            ("FKV_DATASVR_LEASE_TTL_S", "2".to_owned()),
            ("FKV_DATASVR_PACK_SIZE", "256KiB".to_owned()),
        ]);
        let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let started = Server::start(worker, &binary("datasvr"), arguments, &variables, self.dir.path());
        self.workers.insert(worker, started);
    }

    fn control(&self) -> Control {
        Control::new(&self.env, &format!("127.0.0.1:{}", self.ports[1]))
    }

    /// Puts the rows of the model into several files, and gives the load of them.
    fn load(&self, model: &Model) -> LoadSpec {
        let dir = self.dir.path().join("in");
        for file in 0..FILES {
            let (from, to) = (model.keys * file / FILES, model.keys * (file + 1) / FILES);
            rows::write_csv(model, Version(1), from..to, &dir.join(format!("part-{file}.csv")));
        }
        LoadSpec { format: "csv".into(), ..full_load([format!("file://{}", dir.display())]) }
    }

    async fn view(&self) -> View {
        wait::until(&self.env, "metadata", async || self.meta.view().await.map_err(|error| error.to_string())).await
    }
}

fn s3_variables(s3: &S3Process) -> Vec<(&'static str, String)> {
    let (key, secret) = s3.keys();
    vec![("AWS_ACCESS_KEY_ID", key.to_owned()), ("AWS_SECRET_ACCESS_KEY", secret.to_owned())]
}

/// One server that holds everything.
fn start_kvsvr(etcd: &EtcdProcess, s3: &S3Process, dir: &Path, port: u16) -> Server {
    let arguments = [
        ("--module", MODULE.to_owned()),
        ("--server", "kv".to_owned()),
        ("--listen", format!("127.0.0.1:{port}")),
        ("--metadata", etcd.url()),
        ("--store", s3.url("store")),
        ("--data-dir", dir.join("kv").display().to_string()),
    ];
    let mut variables = s3_variables(s3);
    variables.push(("FKV_KVSVR_S3_ENDPOINT", s3.endpoint()));
    variables.push(("FKV_KVSVR_MEMORY_BYTES_MAX", (1u64 << 30).to_string()));
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    Server::start("kv", &binary("kvsvr"), arguments, &variables, dir)
}

/// How many slice and part jobs of a task are done.
fn jobs_done(view: &View, uid: TableUid, task: TaskId) -> (usize, usize) {
    let done = |prefix: &str| {
        let jobs = view.jobs(uid, task).filter(|(name, _)| name.starts_with(prefix));
        jobs.filter(|(_, job)| matches!(job.value.state, JobState::Done { .. })).count()
    };
    (done("slice-"), done("part-"))
}

/// Reads every key, and checks every value.
async fn check_all(env: &Env, port: u16, table: &str, model: &Model) {
    let audit = Audit::new(*model);
    let config = client_config(vec![format!("127.0.0.1:{port}")]);
    let client = Client::connect(env.clone(), config).await.expect("connects");
    let indices: Vec<u64> = (0..model.keys + 1000).collect();
    for some in indices.chunks(20_000) {
        let observed = observe(&client, table, model, some, ReadOptions::default(), env.clock.unix_ms()).await;
        let observed = observed.expect("read");
        assert_eq!(observed.version, Version(1));
        audit.check(&mut Reader::default(), &observed).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// Workers that die without a word, and workers that come back as zombies, at any job: one version comes of it, once, and it
/// has every row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_that_are_killed_and_paused_share_a_load() {
    let mut deployment = Deployment::start().await;
    let (env, control) = (deployment.env.clone(), deployment.control());
    control.ready().await;
    let server = ServerSpec { server: "kv".into(), address: format!("127.0.0.1:{}", deployment.ports[0]) };
    let sect = SectSpec { name: "a".into(), servers: vec![server] };
    control.init_cluster(vec![sect]).await.expect("the cluster can be declared");
    let model = Model::new(11, 400_000, Shape::I64);
    control.create("users", &model.schema()).await;
    let load = deployment.load(&model);
    let task = TaskId(control.start_load("users", load).await);
    let uid = deployment.view().await.table("users").expect("just created").uid();

    let random = SeededEntropy::new(3);
    // Deaths and pauses while slices were made, and while parts were built.
    let (mut while_slices, mut while_parts, mut pauses, mut seen) = (0, 0, 0, 0);
    while while_slices + while_parts < DISTURBANCES_MAX {
        let got_on = wait::until(&env, "some jobs to be done", async || {
            let view = deployment.meta.view().await.map_err(|error| error.to_string())?;
            let state = view.task(uid, task).map(|task| task.value.state);
            if !matches!(state, Some(TaskState::Queued | TaskState::Running)) {
                return Ok(None);
            }
            let (slices, parts) = jobs_done(&view, uid, task);
            wait::check(slices + parts >= seen + 3, || format!("{slices} slices and {parts} parts"))?;
            Ok(Some((slices, parts)))
        });
        let Some((slices, parts)) = got_on.await else { break };
        seen = slices + parts;
        *(if parts > 0 { &mut while_parts } else { &mut while_slices }) += 1;
        let worker = WORKERS[usize::from(random.below(2) == 1)];
        if random.below(3) == 0 {
            pauses += 1;
            deployment.workers[worker].pause();
            // Past its leases: whatever it held is another's by now, or is to be had.
            wait::until(&env, "the leases of a paused worker to end", async || {
                let view = deployment.meta.view().await.map_err(|error| error.to_string())?;
                wait::check(view.workers().all(|(name, _)| name != worker), || "it is still announced".into())
            })
            .await;
            deployment.workers[worker].resume();
        } else {
            deployment.workers.get_mut(worker).expect("one of them").kill();
            deployment.start_worker(worker);
        }
    }
    assert!(while_slices >= 3 && while_parts >= 3 && pauses >= 2, "{while_slices} {while_parts} {pauses}");

    control.ready().await;
    let ended = control.wait_end("users", task.0).await;
    assert_eq!((ended.state.as_str(), ended.version), ("finished", 1), "{ended:?}");
    assert!(ended.errors.is_empty(), "a lost worker is no error: {:?}", ended.errors);
    let stats = ended.stats.expect("stats");
    let present = (0..model.keys).filter(|index| model.row(Version(1), *index).is_some()).count() as u64;
    assert_eq!((stats.rows_read, stats.records), (present, present));
    let view = deployment.view().await;
    assert_eq!(view.table("users").map(|table| (table.value.head.0, table.value.epoch.0)), Some((1, 1)), "one commit");
    assert_eq!(control.versions("users").await.expect("listed").len(), 1);
    check_all(&env, deployment.ports[0], "users", &model).await;

    for (name, server) in &mut deployment.workers {
        let status = server.stop(&env).await;
        assert_eq!(status.code(), Some(0), "{name}: {status}\n{}", server.log_tail());
    }
    let status = deployment.kv.stop(&env).await;
    assert_eq!(status.code(), Some(0), "kv: {status}\n{}", deployment.kv.log_tail());
}
