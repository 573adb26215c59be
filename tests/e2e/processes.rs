//! The whole tour with real parts: etcd, an S3 server, one `datasvr` and six `kvsvr`, each a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fkv_client::{Client, ClientConfig, ReadOptions};
use fkv_env::Env;
use fkv_formats::id::Version;
use fkv_meta::testing::EtcdProcess;
use fkv_rpc::control::{LoadSpec, SectSpec, ServerSpec};
use fkv_store::testing::S3Process;
use fkv_tests::audit::{Audit, Reader};
use fkv_tests::cluster::{client_config, model_load};
use fkv_tests::control::{Control, full_load};
use fkv_tests::model::{Model, Shape};
use fkv_tests::process::{Server, binary, free_ports};
use fkv_tests::reads::{Readers, observe};
use fkv_tests::{rows, wait};
use tempfile::TempDir;

const MODULE: &str = "tour";
const SECTS: [&str; 2] = ["a", "b"];
const ROLES: usize = 3;

/// These tests want the cores for themselves: one at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Deployment {
    env: Env,
    control: Control,
    data: Server,
    kv: BTreeMap<String, Server>,
    ports: BTreeMap<String, u16>,
    etcd: EtcdProcess,
    s3: S3Process,
    // Last: the processes write into it.
    dir: TempDir,
}

impl Deployment {
    /// Starts everything and declares two sects of three roles.
    async fn start() -> Self {
        let env = Env::real(2).expect("threads start");
        let (etcd, s3) = (EtcdProcess::start().await, S3Process::start(&env).await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let names = SECTS.iter().flat_map(|sect| (0..ROLES).map(move |role| format!("{sect}-{role}")));
        let names: Vec<String> = std::iter::once("datasvr".to_owned()).chain(names).collect();
        let ports: BTreeMap<String, u16> = names.into_iter().zip(free_ports(&env, 1 + SECTS.len() * ROLES)).collect();
        let control = Control::new(&env, &format!("127.0.0.1:{}", ports["datasvr"]));
        let data = start_datasvr(&etcd, &s3, dir.path(), ports["datasvr"]);
        let mut deployment = Self { env, control, data, kv: BTreeMap::new(), ports, etcd, s3, dir };
        for sect in SECTS {
            for role in 0..ROLES {
                deployment.start_kv(&format!("{sect}-{role}"));
            }
        }
        let spec = |sect: &str| SectSpec {
            name: sect.to_owned(),
            servers: (0..ROLES).map(|role| deployment.server_spec(&format!("{sect}-{role}"))).collect(),
        };
        let sects = SECTS.map(spec).to_vec();
        deployment.control_ready().await;
        let cluster = deployment.control.init_cluster(sects).await.expect("the cluster can be declared");
        assert_eq!((cluster.sects.len(), cluster.module.as_str()), (2, MODULE));
        deployment.all_claimed().await;
        deployment
    }

    fn server_spec(&self, server: &str) -> ServerSpec {
        ServerSpec { server: server.to_owned(), address: format!("127.0.0.1:{}", self.ports[server]) }
    }

    fn start_kv(&mut self, server: &str) {
        let data_dir = self.dir.path().join("kv").join(server);
        let arguments = [
            ("--module", MODULE.to_owned()),
            ("--server", server.to_owned()),
            ("--listen", format!("127.0.0.1:{}", self.ports[server])),
            ("--metadata", self.etcd.url()),
            ("--store", self.s3.url("store")),
            ("--data-dir", data_dir.display().to_string()),
        ];
        let (key, secret) = self.s3.keys();
        let variables = [
            ("FKV_KVSVR_S3_ENDPOINT", self.s3.endpoint()),
            ("FKV_KVSVR_LEASE_TTL_S", "3".to_owned()),
            ("FKV_KVSVR_MEMORY_BYTES_MAX", (1u64 << 30).to_string()),
            ("AWS_ACCESS_KEY_ID", key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ];
        let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let started = Server::start(server, &binary("kvsvr"), arguments, &variables, self.dir.path());
        self.kv.insert(server.to_owned(), started);
    }

    fn restart_datasvr(&mut self) {
        self.data = start_datasvr(&self.etcd, &self.s3, self.dir.path(), self.ports["datasvr"]);
    }

    async fn control_ready(&mut self) {
        let (env, control, data) = (self.env.clone(), self.control.clone(), &mut self.data);
        wait::until(&env, "the control API", async || {
            if let Some(death) = data.death() {
                panic!("{death}");
            }
            control.try_cluster().await.map_err(|status| status.to_string())
        })
        .await;
    }

    async fn all_claimed(&mut self) {
        let (env, control, kv) = (self.env.clone(), self.control.clone(), &mut self.kv);
        wait::until(&env, "all slots to be claimed", async || {
            if let Some(death) = kv.values_mut().find_map(Server::death) {
                panic!("{death}");
            }
            let cluster = control.try_cluster().await.map_err(|status| status.to_string())?;
            let slots: Vec<_> = cluster.sects.iter().flat_map(|sect| &sect.slots).collect();
            let claimed = slots.iter().filter(|slot| slot.claimed).count();
            wait::check(claimed == SECTS.len() * ROLES, || format!("{claimed} claimed of {slots:?}"))
        })
        .await;
    }

    fn client_config(&self) -> ClientConfig {
        let servers = self.ports.iter().filter(|(name, _)| *name != "datasvr");
        client_config(servers.map(|(_, port)| format!("127.0.0.1:{port}")).collect())
    }

    /// Writes the rows of `version` into a local directory that tasks may read, and gives the load of them.
    fn local_load(&self, model: &Model, version: u64) -> LoadSpec {
        model_load(&self.input(&format!("{}-{version}.parquet", model.seed)), model, Version(version))
    }

    fn input(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    /// Puts the rows of `version` onto S3, as a user's job would, and gives the load of them.
    #[allow(clippy::disallowed_methods, reason = "reads back the input it has just written")]
    async fn s3_load(&self, model: &Model, version: u64) -> LoadSpec {
        let path = self.input(&format!("s3-{version}.parquet"));
        rows::write_parquet(model, Version(version), &path);
        let user = fkv_store::open(&self.env, &self.s3.url("user/day"), &self.s3.options()).expect("opens");
        user.put("part-0.parquet", std::fs::read(&path).expect("read").into()).await.expect("stored");
        user.put("_SUCCESS", Vec::new().into()).await.expect("stored");
        full_load([self.s3.url("user/day")])
    }

    /// Asks every process to stop: each ends with exit code 0.
    async fn stop(mut self) {
        for (name, server) in &mut self.kv {
            let status = server.stop(&self.env).await;
            assert_eq!(status.code(), Some(0), "{name}: {status}\n{}", server.log_tail());
        }
        let status = self.data.stop(&self.env).await;
        assert_eq!(status.code(), Some(0), "datasvr: {status}\n{}", self.data.log_tail());
    }
}

fn start_datasvr(etcd: &EtcdProcess, s3: &S3Process, dir: &Path, port: u16) -> Server {
    let arguments = [
        ("--module", MODULE.to_owned()),
        ("--listen", format!("127.0.0.1:{port}")),
        ("--metadata", etcd.url()),
        ("--store", s3.url("store")),
        ("--allow-file-inputs", dir.join("in").display().to_string()),
        ("--build-memory", "1GiB".to_owned()),
    ];
    let (key, secret) = s3.keys();
    let variables = [
        ("FKV_DATASVR_S3__ENDPOINT", s3.endpoint()),
        ("FKV_DATASVR_LEASE_TTL_S", "3".to_owned()),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    Server::start("datasvr", &binary("datasvr"), arguments, &variables, dir)
}

/// Reads every key of the model with a new client and checks it.
async fn read_all(env: &Env, config: &ClientConfig, table: &str, audit: &Audit) -> Result<Version, String> {
    let client = Client::connect(env.clone(), config.clone()).await.map_err(|error| error.to_string())?;
    let indices: Vec<u64> = (0..audit.model().keys + 100).collect();
    let now_ms = env.clock.unix_ms();
    let observed = observe(&client, table, audit.model(), &indices, ReadOptions::default(), now_ms).await;
    let observed = observed.map_err(|error| error.to_string())?;
    audit.check(&mut Reader::default(), &observed).unwrap_or_else(|violation| panic!("{violation}"));
    Ok(observed.version)
}

async fn wait_version(env: &Env, config: &ClientConfig, table: &str, audit: &Audit, version: u64) {
    wait::until(env, &format!("version {version} to be read"), async || {
        let found = read_all(env, config, table, audit).await?;
        wait::check(found == Version(version), || format!("version {found}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_tour_on_etcd_and_s3() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let deployment = Deployment::start().await;
    let (env, control, config) = (&deployment.env, &deployment.control, deployment.client_config());
    let model = Model::new(6, 30_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));

    control.create("users", &model.schema()).await;
    let first = control.load("users", deployment.s3_load(&model, 1).await).await;
    assert_eq!(first.version, 1);
    assert_eq!(read_all(env, &config, "users", &audit).await, Ok(Version(1)));

    let readers = Readers::start(env, &config, "users", &audit, 2).await;
    readers.progress(20).await;
    let second = control.load("users", deployment.local_load(&model, 2)).await;
    assert_eq!(second.version, 2);
    readers.progress(20).await;
    assert_eq!(read_all(env, &config, "users", &audit).await, Ok(Version(2)));

    let versions = control.versions("users").await.expect("listed");
    let told: Vec<_> = versions.iter().map(|v| (v.version, v.kind.as_str(), v.is_head, v.is_aligned)).collect();
    assert_eq!(told, [(1, "full", false, false), (2, "full", true, true)]);
    let present = (0..model.keys).filter(|index| model.row(Version(1), *index).is_some()).count();
    assert_eq!(versions[0].rows, present as u64);

    let dry = control.rollback("users", 1, true).await.expect("a dry run");
    assert!(dry.dry_run && dry.flips_at_once, "{dry:?}");
    assert_eq!(control.table("users").await.phase, "normal", "nothing happened");
    control.rollback("users", 1, false).await.expect("rolled back");
    control.wait_aligned("users").await;
    readers.progress(20).await;
    assert_eq!(read_all(env, &config, "users", &audit).await, Ok(Version(1)));

    let released = control.release("users", false).await.expect("released");
    assert_eq!(released.version, 3);
    control.wait_aligned("users").await;
    readers.progress(20).await;
    assert_eq!(read_all(env, &config, "users", &audit).await, Ok(Version(3)));
    let versions = control.versions("users").await.expect("listed");
    assert_eq!(versions[2].content_id, versions[0].content_id);
    assert!(versions[1].quarantined && !versions[0].quarantined && !versions[2].quarantined, "{versions:?}");

    let errors = readers.stop().await;
    assert!(errors.is_empty(), "every read succeeds: {errors:?}");
    let shown = audit.figures().versions;
    let shown: Vec<_> = shown.iter().map(|(version, data)| (version.0, data.0)).collect();
    assert_eq!(shown, [(1, 1), (2, 2), (3, 1)]);
    deployment.stop().await;
}

/// `kill -9` of servers while loads go on: no read fails, no task is lost, what was shown is shown again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut deployment = Deployment::start().await;
    let (env, control, config) = (deployment.env.clone(), deployment.control.clone(), deployment.client_config());
    let model = Model::new(7, 20_000, Shape::I64);
    let audit = Arc::new(Audit::new(model));
    control.create("users", &model.schema()).await;
    control.load("users", deployment.local_load(&model, 1)).await;
    let readers = Readers::start(&env, &config, "users", &audit, 2).await;
    readers.progress(20).await;

    // A KVSvr dies while a version loads: the flip waits for it, reads do not.
    let task = control.start_load("users", deployment.local_load(&model, 2)).await;
    deployment.kv.get_mut("b-1").expect("a server").kill();
    readers.progress(20).await;
    deployment.start_kv("b-1");
    control.wait_for("users", task, &["finished"]).await;
    readers.progress(20).await;
    assert_eq!(read_all(&env, &config, "users", &audit).await, Ok(Version(2)));

    // The DataSvr dies while it builds: started again, it takes the task up where the lock's lease has ended.
    let mut interrupted = false;
    for keys in [500_000, 2_000_000, 4_000_000] {
        let large = Model::new(keys, keys, Shape::I64);
        let table = format!("large-{keys}");
        control.create(&table, &large.schema()).await;
        let task = control.start_load(&table, deployment.local_load(&large, 1)).await;
        let state = control.wait_for(&table, task, &["running", "aligning", "finished"]).await.state;
        deployment.data.kill();
        readers.progress(10).await;
        deployment.restart_datasvr();
        deployment.control_ready().await;
        let ended = control.wait_end(&table, task).await;
        assert_eq!((ended.state.as_str(), ended.version), ("finished", 1), "{ended:?}");
        assert_eq!(control.versions(&table).await.expect("listed").len(), 1, "committed once");
        let sample = Audit::new(Model { keys: 50_000, ..large });
        let client = Client::connect(env.clone(), config.clone()).await.expect("connects");
        let indices: Vec<u64> = (0..50_000).collect();
        let observed = observe(&client, &table, &large, &indices, ReadOptions::default(), env.clock.unix_ms()).await;
        sample
            .check(&mut Reader::default(), &observed.expect("read"))
            .unwrap_or_else(|violation| panic!("{violation}"));
        interrupted = state == "running" && ended.attempt > 1;
        if interrupted {
            break;
        }
    }
    assert!(interrupted, "no build was caught at work");

    let errors = readers.stop().await;
    assert!(errors.is_empty(), "some server of every role was up all the time: {errors:?}");
    deployment.stop().await;
}

/// With etcd and the store away, loaded versions are served, also by servers that start anew; when they are back,
/// everything goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_without_etcd_and_without_the_store() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut deployment = Deployment::start().await;
    let (env, control, config) = (deployment.env.clone(), deployment.control.clone(), deployment.client_config());
    let model = Model::new(8, 20_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));
    control.create("users", &model.schema()).await;
    for version in 1..=2 {
        control.load("users", deployment.local_load(&model, version)).await;
    }
    let readers = Readers::start(&env, &config, "users", &audit, 2).await;
    readers.progress(20).await;

    deployment.etcd.kill();
    deployment.s3.stop();
    readers.progress(50).await;
    let errors = readers.stop().await;
    assert!(errors.is_empty(), "no server went away: {errors:?}");
    // All servers die and start again, with nothing but their own files.
    for server in deployment.kv.values_mut() {
        server.kill();
    }
    let servers: Vec<String> = deployment.kv.keys().cloned().collect();
    for server in &servers {
        deployment.start_kv(server);
    }
    wait_version(&env, &config, "users", &audit, 2).await;

    deployment.etcd.restart().await.expect("etcd starts again");
    deployment.s3.start_again(&env).await;
    deployment.control_ready().await;
    deployment.all_claimed().await;
    control.load("users", deployment.local_load(&model, 3)).await;
    wait_version(&env, &config, "users", &audit, 3).await;
    deployment.stop().await;
}

/// A process that is told nonsense says so and ends with code 2; it does not listen beyond loopback unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_end_a_process_with_code_2() {
    let env = Env::real(1).expect("threads start");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = format!("file://{}", dir.path().join("store").display());
    let data_dir = dir.path().join("kv").display().to_string();
    let common = ["--module", "m", "--metadata", "etcd://127.0.0.1:1", "--store", &store];
    let kv = ["--server", "s", "--data-dir", &data_dir];
    let cases: [(&str, &str, Vec<&str>, &str); 8] = [
        ("kvsvr", "open", [&common[..], &kv, &["--listen", "0.0.0.0:0"]].concat(), "insecure"),
        (
            "kvsvr",
            "embedded",
            [&["--module", "m", "--metadata", "embedded", "--store", &store][..], &kv].concat(),
            "etcd",
        ),
        ("kvsvr", "nothing", vec![], "--metadata"),
        ("kvsvr", "unknown", vec!["--no-such-flag"], "--no-such-flag"),
        (
            "kvsvr",
            "scheme",
            [&["--module", "m", "--metadata", "etcd://127.0.0.1:1", "--store", "ftp://x/y"][..], &kv].concat(),
            "ftp",
        ),
        ("datasvr", "open", [&common[..], &["--listen", "0.0.0.0:0"]].concat(), "--insecure"),
        ("datasvr", "nothing", vec![], "--metadata"),
        ("datasvr", "memory", [&common[..], &["--build-memory", "lots"]].concat(), "lots"),
    ];
    for (name, case, arguments, word) in cases {
        let log = format!("{name}-{case}");
        let mut server = Server::start(&log, &binary(name), &arguments, &[], dir.path());
        let status =
            wait::until(&env, &format!("{log} to end"), async || server.exited().ok_or_else(String::new)).await;
        let said = server.log_tail();
        assert_eq!(status.code(), Some(2), "{log}: {said}");
        assert!(said.contains(word), "{log} does not name {word}: {said}");
    }
}
