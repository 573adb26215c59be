//! Version consistency: while versions come and go, every answer is of one version, and no reader is ever taken back.

use std::sync::Arc;

use fkv_formats::id::Version;
use fkv_tests::audit::Audit;
use fkv_tests::cluster::Cluster;
use fkv_tests::model::{Model, Shape};
use fkv_tests::reads::Readers;

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
