//! Version consistency: while versions come and go, every answer is of one version, and no reader is ever taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use fkv_env::{Entropy as _, SeededEntropy};
use fkv_formats::id::Version;
use fkv_tests::audit::Audit;
use fkv_tests::cluster::Cluster;
use fkv_tests::model::{Model, Shape};
use fkv_tests::reads::Readers;
use fkv_tests::wait;

/// Batches that every reader reads in each state: enough to see it, and the way there.
const BATCHES: u64 = 25;

/// Loads, flips, cancels, rollbacks and releases under `readers` readers; every state is read before the next.
async fn tour(shape: Shape, sects: u8, roles: u16) {
    let cluster = Cluster::start(sects, roles).await;
    let control = &cluster.control;
    let model = Model::new(41, 20_000, shape);
    let audit = Arc::new(Audit::new(model));
    control.create("audited", &model.schema()).await;
    let load = |version| cluster.model_load("audited", &model, Version(version));
    control.load("audited", load(1)).await;
    let readers = Readers::start(&cluster.env, &cluster.client_config(), "audited", &audit, 3).await;
    readers.progress(BATCHES).await;

    for version in 2..=4 {
        let task = control.load("audited", load(version)).await;
        assert_eq!(task.version, version);
        readers.progress(BATCHES).await;
    }

    // A load that is cancelled while it waits or runs never shows.
    let (running, waiting) =
        (control.start_load("audited", load(5)).await, control.start_load("audited", load(6)).await);
    assert_eq!(control.cancel("audited", waiting).await.expect("waiting tasks can be cancelled").state, "cancelled");
    let running = control.wait_end("audited", running).await;
    assert_eq!((running.state.as_str(), running.version), ("finished", 5));
    readers.progress(BATCHES).await;

    // Back to 4, which every server still holds: at once.
    let reply = control.rollback("audited", 4, false).await.expect("version 4 can be shown again");
    assert!(reply.flips_at_once, "version 4 is the other image everywhere: {reply:?}");
    assert_eq!(control.wait_aligned("audited").await.aligned.map(|label| label.version), Some(4));
    readers.progress(BATCHES).await;
    // Further back to 2, which nobody holds any more: it is loaded while 4 is shown.
    let reply = control.rollback("audited", 2, false).await.expect("version 2 can be shown again");
    assert!(!reply.flips_at_once, "version 2 has to be loaded: {reply:?}");
    assert_eq!(control.wait_aligned("audited").await.aligned.map(|label| label.version), Some(2));
    readers.progress(BATCHES).await;

    let refused = control.submit("audited", load(6), "").await.expect_err("no loads while rolled back");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");

    let released = control.release("audited", false).await.expect("a rolled back table can be released");
    assert_eq!(released.version, 6, "the content of version 2 under the next number");
    let table = control.wait_aligned("audited").await;
    assert_eq!((table.phase.as_str(), table.head), ("normal", 6));
    readers.progress(BATCHES).await;

    // What was rolled back from is never shown again.
    let refused = control.rollback("audited", 5, false).await.expect_err("version 5 is quarantined");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");

    control.load("audited", load(7)).await;
    readers.progress(BATCHES).await;

    let errors = readers.stop().await;
    assert!(errors.is_empty(), "every read succeeds while all servers run: {errors:?}");
    let figures = audit.figures();
    let data: Vec<(u64, u64)> = figures.versions.iter().map(|(version, data)| (version.0, data.0)).collect();
    assert_eq!(data, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 2), (7, 7)], "shown versions and their data");
    assert!(figures.answers > 8 * 3 * BATCHES, "{figures:?}");

    // The control API tells the same story.
    let versions = control.versions("audited").await.expect("versions can be listed");
    for version in &versions {
        let of = figures.versions[&Version(version.version)].0;
        assert_eq!(version.of, if version.kind == "release" { of } else { 0 }, "{version:?}");
    }
    let content = |number: u64| versions.iter().find(|v| v.version == number).map(|v| v.content_id.as_str());
    assert_eq!(content(6), content(2), "a release has the content id of what it releases");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_mixes_versions_with_two_sects_of_three_roles() {
    tour(Shape::Bytes, 2, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_mixes_versions_with_one_sect_of_eight_roles() {
    tour(Shape::I64, 1, 8).await;
}

/// What a random tour does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Load,
    Rollback,
    Release,
    CrashOrRestart,
    RestartDataSvr,
}

/// Loads, rollbacks, releases and crashes in random order, without waiting for one to settle before the next. One
/// server at most is away at a time, so every read must succeed; and whatever happens, no promise may be broken.
/// Gives how often each kind of step was permitted.
async fn random_tour(seed: u64) -> BTreeMap<Step, usize> {
    let entropy = SeededEntropy::new(seed);
    let mut cluster = Cluster::start(2, 2).await;
    let control = cluster.control.clone();
    let model = Model::new(seed, 4_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));
    control.create("t", &model.schema()).await;
    control.load("t", cluster.model_load("t", &model, Version(1))).await;
    let readers = Readers::start(&cluster.env, &cluster.client_config(), "t", &audit, 2).await;
    let (mut loads, mut done) = (1, BTreeMap::new());
    for step in 0..30 {
        let next = match entropy.below(10) {
            0..=3 => Step::Load,
            4..=5 => Step::Rollback,
            6 => Step::Release,
            7..=8 => Step::CrashOrRestart,
            _ => Step::RestartDataSvr,
        };
        let outcome = match next {
            Step::Load => {
                let spec = cluster.model_load("t", &model, Version(loads + 1));
                let submitted = control.submit("t", spec, "").await.map(|_| ());
                loads += u64::from(submitted.is_ok());
                submitted
            }
            Step::Rollback => {
                let head = control.table("t").await.head;
                control.rollback("t", 1 + entropy.below(head), false).await.map(|_| ())
            }
            Step::Release => control.release("t", false).await.map(|_| ()),
            Step::CrashOrRestart => {
                let away = cluster.slots().find(|(_, running)| !running).map(|(slot, _)| slot.to_owned());
                if let Some(slot) = away {
                    cluster.restart(&slot).await;
                    cluster.all_ready().await;
                } else {
                    let at = usize::try_from(entropy.below(4)).expect("four slots");
                    let slot = cluster.slots().nth(at).expect("four slots").0.to_owned();
                    cluster.crash(&slot);
                }
                Ok(())
            }
            Step::RestartDataSvr => {
                cluster.crash_data();
                cluster.restart_data().await;
                Ok(())
            }
        };
        // What the present state does not permit is refused; anything else is a fault.
        match outcome {
            Ok(()) => *done.entry(next).or_default() += 1,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::FailedPrecondition, "seed {seed}, step {step}: {status}");
            }
        }
        readers.progress(4).await;
    }

    // Once faults stop, everything settles.
    let away: Vec<String> = cluster.slots().filter(|(_, running)| !running).map(|(slot, _)| slot.to_owned()).collect();
    for slot in &away {
        cluster.restart(slot).await;
    }
    if control.table("t").await.phase == "rolled_back" {
        control.wait_aligned("t").await;
        control.release("t", false).await.expect("what is rolled back and shown can be released");
    }
    for task in control.tasks("t").await.expect("listed") {
        control.wait_end("t", task.task).await;
    }
    let shown = control.wait_aligned("t").await.aligned.expect("something is shown");
    wait::until(&cluster.env, "all readers to see the last version", async || {
        readers.progress(2).await;
        let newest = audit.figures().shown.iter().map(|(_, epoch)| epoch.0).max();
        wait::check(newest == Some(shown.epoch), || format!("seed {seed}: epoch {newest:?} of {shown:?}"))
    })
    .await;
    let errors = readers.stop().await;
    assert!(errors.is_empty(), "seed {seed}: one server at most was away: {errors:?}");

    // Every version that was read is one that was committed, under its content id.
    let versions = control.versions("t").await.expect("listed");
    assert!(versions.iter().map(|version| version.version).eq(1..=versions.len() as u64), "versions are dense");
    let figures = audit.figures();
    for (version, data) in &figures.versions {
        let listed = versions.iter().find(|listed| listed.version == version.0).expect("a committed version");
        if listed.kind == "release" {
            assert_eq!(figures.versions.get(&Version(listed.of)).unwrap_or(data), data, "seed {seed}: {listed:?}");
        } else {
            let task = control.task("t", listed.task).await.expect("the task of a version is kept");
            let input = task.spec.expect("a task has its spec").inputs.remove(0);
            assert!(input.ends_with(&format!("t-{data}.parquet")), "seed {seed}: {version} is of {data}, not {input}");
        }
    }
    cluster.shutdown().await;
    done
}

/// Kinds of steps.
const STEPS: usize = 5;
/// Tours at most beyond those asked for.
const EXTRA_TOURS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_mixed_or_taken_back_whatever_happens_in_whatever_order() {
    // FKV_TEST_SEEDS=100-500 for a long soak, or for one seed that failed.
    let seeds = std::env::var("FKV_TEST_SEEDS").unwrap_or_else(|_| "1-3".to_owned());
    let (first, last) = seeds.split_once('-').unwrap_or((&seeds, &seeds));
    let seed = |text: &str| text.parse::<u64>().expect("FKV_TEST_SEEDS is first-last");
    let (first, last) = (seed(first), seed(last));
    let mut done: BTreeMap<Step, usize> = BTreeMap::new();
    // What a tour comes to depends on how busy the machine is: where a kind of step is missing, a few more tours follow.
    for seed in first..=last + EXTRA_TOURS {
        if seed > last && (done.len() == STEPS || first == last) {
            break;
        }
        for (step, count) in random_tour(seed).await {
            *done.entry(step).or_default() += count;
        }
        println!("seed {seed}; so far {done:?}");
    }
    assert!(done.len() == STEPS || first == last, "tours do all kinds of steps: {done:?}");
}

/// Servers that keep the replaced image on disk only: a rollback loads it while the present one is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_retained_on_disk_comes_back_by_loading() {
    let cluster = Cluster::start(2, 2).await;
    let control = &cluster.control;
    let model = Model::new(13, 5_000, Shape::Bytes);
    let audit = Arc::new(Audit::new(model));
    control.create_retaining_on_disk("t", &model.schema()).await.expect("created");
    control.load("t", cluster.model_load("t", &model, Version(1))).await;
    let readers = Readers::start(&cluster.env, &cluster.client_config(), "t", &audit, 2).await;
    control.load("t", cluster.model_load("t", &model, Version(2))).await;
    readers.progress(BATCHES).await;
    // The replaced image leaves memory once all servers have flipped and said so.
    wait::until(&cluster.env, "version 1 to leave memory", async || {
        let reply = control.rollback("t", 1, true).await.map_err(|status| status.to_string())?;
        wait::check(reply.slots_to_load.len() == 4, || format!("{:?} do not hold it", reply.slots_to_load))
    })
    .await;
    let reply = control.rollback("t", 1, false).await.expect("version 1 can be shown again");
    assert!(!reply.flips_at_once, "{reply:?}");
    assert_eq!(control.wait_aligned("t").await.aligned.map(|label| label.version), Some(1));
    readers.progress(BATCHES).await;
    let errors = readers.stop().await;
    assert!(errors.is_empty(), "{errors:?}");
    let shown: Vec<u64> = audit.figures().shown.iter().map(|(version, _)| version.0).collect();
    assert_eq!(shown, [1, 1, 2], "version 1 at two epochs");
}

/// Records expire between a version's `as_of` and the read timestamp: the same instant gives the same answer at every
/// server and in every batch, whatever the clock says meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_is_judged_alike_by_all_servers() {
    let cluster = Cluster::start(2, 2).await;
    let now_s = u32::try_from(cluster.env.clock.unix_ms() / 1000).expect("the present fits");
    let model = Model { expiring_around: Some(now_s + 30), ..Model::new(5, 5_000, Shape::Bytes) };
    cluster.control.create("expiring", &model.schema()).await;
    cluster.control.load("expiring", cluster.model_load("expiring", &model, Version(1))).await;
    let audit = Audit::new(model);
    let clients = [cluster.client().await, cluster.client().await];
    let indices: Vec<u64> = (0..model.keys + 100).collect();
    let mut differences = 0;
    let mut before = None;
    // Expiry is read at whole seconds from the past to just inside the five minutes that clocks may differ.
    for offset in [0, 1, 60, 120, 240, 290] {
        let read_ts_ms = u64::from(now_s + offset) * 1000;
        for client in &clients {
            let options = fkv_client::ReadOptions { read_ts_ms: Some(read_ts_ms), ..Default::default() };
            let observed = fkv_tests::reads::observe(client, "expiring", &model, &indices, options, read_ts_ms).await;
            let observed = observed.expect("the table is loaded");
            audit.check(&mut Default::default(), &observed).unwrap_or_else(|violation| panic!("{violation}"));
            differences += usize::from(before.as_ref().is_some_and(|before| *before != observed.answers));
            before = Some(observed.answers);
        }
    }
    assert!(differences >= 3, "later reads find more expired: {differences}");

    // Beyond five minutes a server refuses rather than guesses.
    let read_ts_ms = u64::from(now_s + 3600) * 1000;
    let options = fkv_client::ReadOptions { read_ts_ms: Some(read_ts_ms), ..Default::default() };
    let refused = fkv_tests::reads::observe(&clients[0], "expiring", &model, &[1], options, read_ts_ms).await;
    assert!(refused.is_err(), "a read an hour ahead: {refused:?}");
}
