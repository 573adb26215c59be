//! Crashes, damage and absence inside one process: reads go on, tasks end by themselves, damage is never answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fkv_client::ReadOptions;
use fkv_formats::id::Version;
use fkv_tests::audit::{Audit, Reader};
use fkv_tests::cluster::Cluster;
use fkv_tests::model::{Model, Shape};
use fkv_tests::reads::{Readers, observe};
use fkv_tests::wait;

/// Reads every key once and checks it.
async fn read_all(cluster: &Cluster, table: &str, audit: &Audit) -> Result<Version, String> {
    let model = *audit.model();
    let indices: Vec<u64> = (0..model.keys + 50).collect();
    let client = cluster.client().await;
    let now_ms = cluster.env.clock.unix_ms();
    let observed = observe(&client, table, &model, &indices, ReadOptions::default(), now_ms).await;
    let observed = observed.map_err(|error| error.to_string())?;
    audit.check(&mut Reader::default(), &observed).unwrap_or_else(|violation| panic!("{violation}"));
    Ok(observed.version)
}

async fn wait_version(cluster: &Cluster, table: &str, audit: &Audit, version: u64) {
    wait::until(&cluster.env, &format!("version {version} to be read"), async || {
        let found = read_all(cluster, table, audit).await?;
        wait::check(found == Version(version), || format!("version {found}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_server_fails_no_read_and_holds_up_only_the_flip() {
    let mut cluster = Cluster::start(2, 2).await;
    let control = cluster.control.clone();
    let model = Model::new(9, 5_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));
    control.create("t", &model.schema()).await;
    control.load("t", cluster.model_load("t", &model, Version(1))).await;
    let readers = Readers::start(&cluster.env, &cluster.client_config(), "t", &audit, 3).await;
    readers.progress(20).await;
    cluster.crash("a/0");
    readers.progress(20).await;
    // The next version is built, but not shown: one required slot lacks it.
    let task = control.start_load("t", cluster.model_load("t", &model, Version(2))).await;
    control.wait_for("t", task, &["aligning"]).await;
    readers.progress(20).await;
    assert_eq!(control.table("t").await.aligned.map(|label| label.version), Some(1));
    cluster.restart("a/0").await;
    control.wait_for("t", task, &["finished"]).await;
    readers.progress(20).await;
    // Down to one server of each role, of different sects.
    cluster.crash("a/1");
    cluster.crash("b/0");
    readers.progress(20).await;
    let errors = readers.stop().await;
    assert!(errors.is_empty(), "some server of every role was up all the time: {errors:?}");
    let shown = audit.figures().versions;
    assert_eq!(shown.keys().map(|version| version.0).collect::<Vec<_>>(), [1, 2]);
}

/// A DataSvr that dies while it builds: another (here: the next) takes the task up when the lock's lease has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_the_datasvr_that_worked_on_it() {
    let mut cluster = Cluster::start(1, 2).await;
    let control = cluster.control.clone();
    let mut interrupted = false;
    for keys in [300_000, 1_000_000, 3_000_000] {
        let model = Model::new(keys, keys, Shape::I64);
        let table = format!("t-{keys}");
        control.create(&table, &model.schema()).await;
        let task = control.start_load(&table, cluster.model_load(&table, &model, Version(1))).await;
        let state = control.wait_for(&table, task, &["running", "aligning", "finished"]).await.state;
        cluster.crash_data();
        cluster.restart_data().await;
        let ended = control.wait_end(&table, task).await;
        assert_eq!(ended.state, "finished", "{ended:?}");
        assert_eq!(control.versions(&table).await.expect("listed").len(), 1, "committed once");
        let audit = Audit::new(Model { keys: 20_000, ..model });
        // Keys beyond the audited ones are there, too; only the first are compared.
        assert_eq!(read_some(&cluster, &table, &audit).await, Ok(Version(1)));
        interrupted = state == "running" && ended.attempt > 1;
        if interrupted {
            break;
        }
    }
    assert!(interrupted, "no build was caught at work");
}

async fn read_some(cluster: &Cluster, table: &str, audit: &Audit) -> Result<Version, String> {
    let model = *audit.model();
    let indices: Vec<u64> = (0..model.keys).collect();
    let client = cluster.client().await;
    let observed = observe(&client, table, &model, &indices, ReadOptions::default(), cluster.env.clock.unix_ms()).await;
    let observed = observed.map_err(|error| error.to_string())?;
    audit.check(&mut Reader::default(), &observed).unwrap_or_else(|violation| panic!("{violation}"));
    Ok(observed.version)
}

/// All files below `dir`, largest first.
#[allow(clippy::disallowed_methods, reason = "looks at what the servers left")]
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of the cluster") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |metadata| metadata.len())));
    found
}

/// Flips one bit in the middle of a file; doing it again undoes it.
#[allow(clippy::disallowed_methods, reason = "damages a file on purpose")]
fn flip_bit(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).expect("written");
}

#[allow(clippy::disallowed_methods, reason = "takes the store away on purpose")]
fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).expect("renamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_servers_serve_from_local_files_without_the_store() {
    let mut cluster = Cluster::start(1, 3).await;
    let model = Model::new(21, 5_000, Shape::Bytes);
    let audit = Audit::new(model);
    cluster.control.create("t", &model.schema()).await;
    for version in 1..=2 {
        cluster.control.load("t", cluster.model_load("t", &model, Version(version))).await;
    }
    let (store, away) = (cluster.dir().join("store"), cluster.dir().join("store-away"));
    for slot in ["a/0", "a/1", "a/2"] {
        cluster.crash(slot);
    }
    rename(&store, &away);
    for slot in ["a/0", "a/1", "a/2"] {
        cluster.restart(slot).await;
    }
    wait_version(&cluster, "t", &audit, 2).await;
    rename(&away, &store);
    cluster.control.load("t", cluster.model_load("t", &model, Version(3))).await;
    wait_version(&cluster, "t", &audit, 3).await;
}

/// A bit that flipped in a server's local files is found at the restart and the data pulled again: no read is ever
/// given the damaged bytes, and a missing record would be one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_local_files_are_repaired_and_never_answered_from() {
    for which in 0..3 {
        let mut cluster = Cluster::start(1, 1).await;
        let model = Model::new(22, 5_000, Shape::Bytes);
        let audit = Audit::new(model);
        cluster.control.create("t", &model.schema()).await;
        cluster.control.load("t", cluster.model_load("t", &model, Version(1))).await;
        cluster.crash("a/0");
        let files = files_below(&cluster.dir().join("kv/a-0"));
        let Some(victim) = files.get(which) else { break };
        flip_bit(victim);
        cluster.restart("a/0").await;
        wait_version(&cluster, "t", &audit, 1).await;
    }
}

/// A version whose stored bytes are damaged is never shown; what is shown stays, and the slot says what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_version_is_not_loaded_and_the_shown_one_stays() {
    let mut cluster = Cluster::start(1, 1).await;
    let control = cluster.control.clone();
    let model = Model::new(23, 5_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));
    control.create("t", &model.schema()).await;
    control.load("t", cluster.model_load("t", &model, Version(1))).await;
    let before = files_below(&cluster.dir().join("store"));
    cluster.crash("a/0");
    let task = control.start_load("t", cluster.model_load("t", &model, Version(2))).await;
    control.wait_for("t", task, &["aligning"]).await;
    let new: Vec<PathBuf> =
        files_below(&cluster.dir().join("store")).into_iter().filter(|file| !before.contains(file)).collect();
    let pack = new.first().expect("version 2 has objects");
    flip_bit(pack);
    cluster.restart("a/0").await;
    let problem = wait::until(&cluster.env, "the slot to say that version 2 is damaged", async || {
        let cluster = control.try_cluster().await.map_err(|status| status.to_string())?;
        let slots = cluster.sects.iter().flat_map(|sect| &sect.slots);
        let problem = slots.flat_map(|slot| &slot.tables).map(|table| table.problem.clone()).find(|p| !p.is_empty());
        problem.ok_or_else(|| format!("{cluster:?}"))
    })
    .await;
    assert!(!problem.is_empty());
    wait_version(&cluster, "t", &audit, 1).await;
    let task = control.task("t", task).await.expect("the task is there");
    assert_eq!(task.state, "aligning", "not shown: {task:?}");
    // Once the bytes are whole again, it goes on by itself.
    flip_bit(pack);
    control.wait_for("t", task.task, &["finished"]).await;
    wait_version(&cluster, "t", &audit, 2).await;
}
