//! Restarts, outages and damage: what is loaded stays served, and what is broken is repaired or said.

mod cluster;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use fkv_formats::hash::hash_u64;
use fkv_formats::id::Version;
use fkv_formats::route::part_of;
use fkv_formats::schema::{KeyType, ValueType};
use fkv_kvsvr::{IoConfig, KvServer, StartError};
use fkv_meta::record::{Assignment, RetainOld, SectState};
use fkv_meta::store::{Op, Txn, TxnOutcome};
use fkv_meta::txn;
use fkv_rpc::packed::{KeyStatus, SectionStatus, Selector};

use self::cluster::{Cluster, check_integers, rows, schema, table_status};

const COUNT: u64 = 20_000;

/// Image files of a server by the end of their names.
fn files(cluster: &Cluster, server: &str, end: &str) -> Vec<PathBuf> {
    let dir = cluster.data_dir(server).join("images");
    let entries = cluster.env.files.list(&dir).expect("listed");
    entries.into_iter().filter(|entry| entry.name.ends_with(end)).map(|entry| dir.join(entry.name)).collect()
}

/// Changes one byte of a file.
fn damage(cluster: &Cluster, path: &Path, at: usize) {
    let mut bytes = cluster.env.files.read(path).expect("read");
    bytes[at] ^= 0x40;
    cluster.env.files.write_durably(path, &bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_metadata_and_store_down_serves_what_was_shown() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..COUNT + 100).step_by(7).collect();
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    let (second_version, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, second).await;
    let before = server.get(uid, &keys).await.section(0).expect("one section").label();
    server.shutdown().await;

    cluster.meta_switch.set(false);
    cluster.store_switch.set(false);
    let server = cluster.start("a-0").await;
    server.server.ready().await;
    let reply = server.get(uid, &keys).await;
    assert_eq!(check_integers(&reply, &keys, COUNT), second_version);
    let label = reply.section(0).expect("one section").label();
    assert_eq!((label.served, label.aligned), (before.served, before.aligned));
    assert_eq!(reply.header().generation, 1);
    // The image kept for a rollback comes back, too.
    let status = server
        .wait_status("both images", |status| table_status(status, uid).is_some_and(|table| table.other.is_some()))
        .await;
    assert!(!status.metadata_connected);
    assert_eq!(status.slots, ["a/0"]);
    let reply = server.get_at(uid, Selector::Content(first), &keys).await;
    assert_eq!(check_integers(&reply, &keys, COUNT), Version(1));
    // Metadata comes back: the slot is claimed and reported again.
    cluster.meta_switch.set(true);
    cluster.wait_meta("the report", |view| Cluster::reported(view, "a/0", uid).len() == 2).await;
    server.wait_status("the connection", |status| status.metadata_connected).await;
}

/// Stopped without a goodbye, the server's claims stand until their lease ends and its last words are STATE.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_with_what_its_state_says() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let mut config = cluster.config("a-0");
    config.lease_ttl_s = 3600;
    let server = cluster.start_with(config.clone()).await;
    let keys: Vec<u64> = (0..1000).collect();
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let state = cluster.data_dir("a-0").join("STATE");
    let shown = format!("\"shown\":{{\"version\":1,\"content\":\"{content}\"");
    server
        .wait_status("STATE to say what is shown", |_| {
            cluster.env.files.read(&state).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&shown))
        })
        .await;
    let slot = "a/0".parse().expect("a slot");
    let before = cluster.mirror.view().claim(&slot).expect("claimed").created;
    drop(server);

    cluster.store_switch.set(false);
    let server = cluster.start_with(config).await;
    server.wait_serving(uid, content).await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
    // The claim it left behind is its own: it does not wait for the lease to end.
    let view = cluster.wait_meta("a new report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    assert_ne!(view.claim(&slot).expect("claimed").created, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_load_leaves_the_old_version_and_no_litter() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..1000).collect();
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    server.shutdown().await;
    let litter = cluster.data_dir("a-0").join("images").join("0000-half-a-load.pack.tmp");
    cluster.env.files.write_durably(&litter, b"half").expect("written");
    let server = cluster.start("a-0").await;
    server.wait_serving(uid, first).await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
    assert!(files(&cluster, "a-0", ".tmp").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_local_part_is_refetched_and_heals() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..COUNT).collect();
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    server.shutdown().await;
    let packs = files(&cluster, "a-0", ".pack");
    assert_eq!(packs.len(), 1);
    // Data of the first part begins behind the header of 64 bytes.
    damage(&cluster, &packs[0], 64 + 5);

    // With the store down only that part is missing, and its keys are not said to be absent.
    cluster.store_switch.set(false);
    let server = cluster.start("a-0").await;
    server
        .wait_status("a partial image", |status| {
            table_status(status, uid).and_then(|table| table.serving.as_ref()).is_some_and(|image| !image.complete)
        })
        .await;
    let reply = server.get(uid, &keys[..5000]).await;
    let section = reply.section(0).expect("one section");
    let missing: Vec<u16> = (0..5000)
        .filter(|index| section.key_status(*index) == KeyStatus::NotHere)
        .map(|index| part_of(hash_u64(keys[index])).0)
        .collect();
    assert!(!missing.is_empty() && missing.iter().all(|part| *part == missing[0]), "{missing:?}");
    assert!((0..5000).all(|index| section.key_status(index) != KeyStatus::Absent));
    cluster
        .wait_meta("a report without it", |view| {
            view.valid_report(&"a/0".parse().expect("a slot")).is_some_and(|report| report.problems.contains_key(&uid))
                && Cluster::reported(view, "a/0", uid).is_empty()
        })
        .await;

    // With the store back it heals, in memory and on disk.
    cluster.store_switch.set(true);
    server
        .wait_status("the whole image", |status| {
            table_status(status, uid).and_then(|table| table.serving.as_ref()).is_some_and(|image| image.complete)
        })
        .await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
    cluster.wait_meta("the report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    server.shutdown().await;
    cluster.store_switch.set(false);
    let server = cluster.start("a-0").await;
    server
        .wait_status("the whole image from disk", |status| {
            table_status(status, uid).and_then(|table| table.serving.as_ref()).is_some_and(|image| image.complete)
        })
        .await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_directories_forms_and_state_are_fetched_anew() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..1000).collect();
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    server.shutdown().await;
    for (name, from_end) in [(".pack", 10), (".pack", 100), (".form", 1000)] {
        let damaged = files(&cluster, "a-0", name);
        let len = cluster.env.files.read(&damaged[0]).expect("read").len();
        damage(&cluster, &damaged[0], len - from_end);
        let server = cluster.start("a-0").await;
        server.wait_serving(uid, content).await;
        check_integers(&server.get(uid, &keys).await, &keys, COUNT);
        server.shutdown().await;
        assert_eq!(files(&cluster, "a-0", ".pack").len(), 1, "the damaged file is gone, a good one is there");
    }
    let state = cluster.data_dir("a-0").join("STATE");
    damage(&cluster, &state, 20);
    let server = cluster.start("a-0").await;
    server.wait_serving(uid, content).await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
    server.shutdown().await;
    let server = cluster.start("a-0").await;
    server.wait_serving(uid, content).await;
    assert_eq!(files(&cluster, "a-0", ".pack").len(), 1, "files that no state names are gone after another start");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_in_the_store_never_becomes_an_answer() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..1000).collect();
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    // The store loses a byte of the second version before the server gets to read it.
    let (server, second) = {
        server.shutdown().await;
        let (_, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
        let pack = cluster.dir.path().join(format!("store/tables/{:016x}/2/pack-0", uid.0));
        damage(&cluster, &pack, 64 + 100);
        let server = cluster.start("a-0").await;
        server
            .wait_status("the problem", |status| {
                table_status(status, uid).is_some_and(|table| table.problem.contains("damaged"))
            })
            .await;
        let view = cluster
            .wait_meta("the problem to be reported", |view| {
                view.valid_report(&"a/0".parse().expect("a slot"))
                    .is_some_and(|report| report.problems.contains_key(&uid))
            })
            .await;
        assert!(!Cluster::reported(&view, "a/0", uid).contains(&second));
        check_integers(&server.get(uid, &keys).await, &keys, COUNT);
        damage(&cluster, &pack, 64 + 100);
        (server, second)
    };
    // Repaired, it is loaded at the next try.
    cluster.align("t").await;
    server.wait_serving(uid, second).await;
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), Version(2));
    assert_eq!(table_status(&server.status().await, uid).expect("known").problem, "");
}

/// Once, the aligned version was tried again and again, and nothing else had a turn: the next version could never be
/// aligned anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_disk_loads_the_next_version_though_the_aligned_one_is_damaged() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..1000).collect();
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    server.shutdown().await;
    cluster.env.files.remove_dir_all(&cluster.data_dir("a-0")).expect("removed");
    damage(&cluster, &cluster.dir.path().join(format!("store/tables/{:016x}/1/pack-0", uid.0)), 64 + 100);

    let server = cluster.start("a-0").await;
    server
        .wait_status("the problem", |status| {
            table_status(status, uid).is_some_and(|table| table.problem.contains("damaged"))
        })
        .await;
    let (_, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, second).await;
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), Version(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_whose_answers_are_lost_come_right() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let mut contents = Vec::new();
    for version in 1..=4 {
        cluster.meta_switch.lost_reports.store(5, Ordering::SeqCst);
        let (_, content) = cluster.publish("t", 0, &rows(version, COUNT)).await;
        contents.push(content);
        // Needs a report that counts.
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
    }
    assert_eq!(cluster.meta_switch.lost_reports.load(Ordering::SeqCst), 0, "answers were lost");
    let last = [contents[2], contents[3]];
    cluster
        .wait_meta("the two newest contents and no older one in the report", |view| {
            let mut reported = Cluster::reported(view, "a/0", uid);
            reported.sort_unstable();
            let mut expected = last;
            expected.sort_unstable();
            reported == expected
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_metadata_lost_is_written_again() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let slot = "a/0".parse().expect("a slot");
    let view = cluster.wait_meta("the report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    // As a store would do that was restored from a snapshot taken before the report.
    let standing = view.report(&slot).expect("reported").modified;
    let mut older = view.valid_report(&slot).expect("reported").clone();
    older.tables.clear();
    let overwrite = txn::report(&cluster.meta.keys, &slot, Some(standing), &older);
    let outcome = cluster.meta.run(overwrite).await.expect("answered");
    let TxnOutcome::Committed(at) = outcome else { panic!("the claim is gone, or another report stands") };
    cluster
        .wait_meta("the report to be back", |view| {
            view.revision() > at && Cluster::reported(view, "a/0", uid) == [content]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_does_not_fit_is_refused_and_leaves_the_serving_image_alone() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let mut config = cluster.config("a-0");
    // Three mebibytes for images.
    config.io = IoConfig { buffer_bytes: 1 << 20, long_buffer_bytes_max: 0, ..IoConfig::default() };
    config.memory_bytes_max = 4 << 20;
    let server = cluster.start_with(config).await;
    let keys: Vec<u64> = (0..2000).collect();
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    let (version, _) = cluster.publish("t", 0, &rows(2, 300_000)).await;
    let status = server
        .wait_status("the refusal", |status| {
            table_status(status, uid).is_some_and(|table| table.problem.contains("does not fit"))
        })
        .await;
    assert!(status.memory_bytes_used < status.memory_bytes_max);
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), Version(1));
    cluster
        .wait_meta("the problem to be reported", |view| {
            view.valid_report(&"a/0".parse().expect("a slot")).is_some_and(|report| report.problems.contains_key(&uid))
        })
        .await;
    // Given up, the problem is gone, and a version that fits is loaded.
    let fail = |view: &_| txn::fail_alignment(view, "t", "it does not fit", 3);
    cluster.meta.change(fail).await.expect("given up");
    server
        .wait_status("no problem", |status| table_status(status, uid).is_some_and(|table| table.problem.is_empty()))
        .await;
    cluster.meta.change(|view| txn::release(view, "t", None, 4)).await.expect("released");
    let (third, content) = cluster.publish("t", 0, &rows(version.0 + 2, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), third);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_outage_and_a_lost_lease_do_not_stop_reads() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..2000).collect();
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let slot = "a/0".parse().expect("a slot");
    let before = cluster.mirror.view().claim(&slot).expect("claimed").created;

    cluster.meta_switch.set(false);
    server.wait_status("the outage to be noticed", |status| !status.metadata_connected).await;
    // The lease of one second ends while the server cannot renew it.
    cluster.wait_meta("the claim to end", |view| view.claim(&slot).is_none()).await;
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), Version(1));
    cluster.meta_switch.set(true);
    let view = cluster.wait_meta("a new report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    assert_ne!(view.claim(&slot).expect("claimed").created, before, "another incarnation");
    assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), Version(1));
    server.wait_status("the connection", |status| status.metadata_connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_gives_the_slot_up_at_once() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let mut config = cluster.config("a-0");
    config.lease_ttl_s = 3600;
    let server = cluster.start_with(config).await;
    let slot = "a/0".parse().expect("a slot");
    cluster.wait_meta("the claim", |view| view.claim(&slot).is_some()).await;
    server.shutdown().await;
    cluster.wait_meta("no claim", |view| view.claim(&slot).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_on_disk_only_is_reloaded_without_the_store() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table_with("t", &schema(KeyType::U64, ValueType::I64), RetainOld::Disk).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..2000).collect();
    let (one, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    let alone = server.status().await.memory_bytes_used;
    let (_, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, second).await;
    server.wait_status("the old image to leave memory", |status| status.memory_bytes_used == alone).await;
    cluster.wait_meta("its withdrawal", |view| Cluster::reported(view, "a/0", uid) == [second]).await;
    let reads = cluster.store_switch.reads.load(Ordering::Relaxed);
    assert!(!cluster.rollback("t", one).await, "it is not held: it is loaded first");
    cluster.align("t").await;
    server.wait_serving(uid, first).await;
    check_integers(&server.get(uid, &keys).await, &keys, COUNT);
    assert_eq!(cluster.store_switch.reads.load(Ordering::Relaxed), reads, "loaded from local files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joining_sect_preloads_and_a_server_with_two_slots_serves_both() {
    let cluster = Cluster::new(&[("a", 2)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let (zero, one) = (cluster.start("a-0").await, cluster.start("a-1").await);
    let keys: Vec<u64> = (0..COUNT).collect();
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    zero.wait_serving(uid, content).await;
    let partial = zero.get(uid, &keys).await;
    let found = partial.section(0).expect("one section").found_count();
    assert!(found > 0 && (found as u64) < COUNT);

    // A sect of one role joins, on a server that holds half of its parts already.
    let all = Assignment { server: "a-0".into(), addr: "127.0.0.1:1".into() };
    let reads = cluster.store_switch.reads.load(Ordering::Relaxed);
    cluster.meta.change(|view| txn::add_sect(view, "b", vec![all.clone()])).await.expect("added");
    cluster.wait_meta("the joining slot's report", |view| Cluster::reported(view, "b/0", uid) == [content]).await;
    assert_eq!(Cluster::reported(&cluster.mirror.view(), "a/0", uid), [content], "the old slot never lost it");
    let status = zero.status().await;
    assert_eq!(status.slots, ["a/0", "b/0"]);
    assert!(cluster.store_switch.reads.load(Ordering::Relaxed) > reads);
    check_integers(&zero.get(uid, &keys).await, &keys, COUNT);

    // A server that the topology does not name is there, but has nothing to say about any key.
    let spare = cluster.start("spare-0").await;
    spare.server.ready().await;
    spare.wait_status("the table", |status| !status.tables.is_empty() && status.slots.is_empty()).await;
    let reply = spare.get(uid, &keys).await;
    assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::WrongTopology);

    // The old sect retires: its other server goes on answering what it has, and gets nothing new.
    let changes = [("b".to_owned(), SectState::Active), ("a".to_owned(), SectState::Retired)].into();
    cluster.meta.change(|view| txn::change_sects(view, &changes)).await.expect("changed");
    let (_, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
    cluster.align("t").await;
    zero.wait_serving(uid, second).await;
    check_integers(&zero.get(uid, &keys).await, &keys, COUNT);
    let late = one.get(uid, &keys).await;
    let section = late.section(0).expect("one section");
    assert_eq!(section.status(), SectionStatus::Ok);
    assert_eq!(section.label().served.map(|shown| shown.content), Some(content), "labelled as what it is");
}

/// Once, both evicted the other's claim for ever, as fast as metadata answered.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_of_one_server_id_the_older_one_yields_until_the_other_is_gone() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let keys: Vec<u64> = (0..1000).collect();
    let (version, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    let slot = "a/0".parse().expect("a slot");
    let start = async |data_dir: &str| {
        let mut config = cluster.config("a-0");
        // Leases play no part.
        (config.lease_ttl_s, config.data_dir) = (3600, cluster.data_dir(data_dir));
        let server = cluster.start_with(config).await;
        let addr = server.server.addr().to_string();
        cluster.wait_meta("the claim", |view| view.claim(&slot).is_some_and(|claim| claim.value.addr == addr)).await;
        server
    };
    let older = start("older").await;
    cluster.align("t").await;
    older.wait_serving(uid, content).await;
    let newer = start("newer").await;
    cluster.wait_meta("the newer's report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    let claimed = cluster.mirror.view().claim(&slot).expect("claimed").created;

    // The older one looks at the claim again and again, and leaves it.
    let reads = cluster.meta_switch.claim_reads.load(Ordering::SeqCst);
    older.wait_status("more looks", |_| cluster.meta_switch.claim_reads.load(Ordering::SeqCst) >= reads + 3).await;
    assert_eq!(cluster.mirror.view().claim(&slot).expect("claimed").created, claimed, "the newer's claim stands");
    assert_eq!(check_integers(&older.get(uid, &keys).await, &keys, COUNT), version, "it serves what it has");

    newer.shutdown().await;
    let addr = older.server.addr().to_string();
    cluster
        .wait_meta("the older's claim and report", |view| {
            let is_claimed = view.claim(&slot).is_some_and(|claim| claim.value.addr == addr);
            is_claimed && Cluster::reported(view, "a/0", uid) == [content]
        })
        .await;
    // It is the only one now: it is as good as any. The next one takes its turn all the same.
    let newest = start("newest").await;
    newest.shutdown().await;
    older.shutdown().await;
}

/// Whoever evicts a claim makes its own right behind it: the process that lost it must not be quicker.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_taken_away_is_not_made_again_at_once() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let server = cluster.start("a-0").await;
    let slot = "a/0".parse().expect("a slot");
    let claimed = cluster.wait_meta("the claim", |view| view.claim(&slot).is_some()).await;
    let before = claimed.claim(&slot).expect("claimed").created;
    let gone_at = cluster.env.clock.monotonic();
    let evict = Txn { compares: vec![], ops: vec![Op::Delete { key: cluster.meta.keys.claim(&slot) }] };
    cluster.meta.run(evict).await.expect("answered");
    cluster.wait_meta("another claim", |view| view.claim(&slot).is_some_and(|claim| claim.created != before)).await;
    assert!(cluster.env.clock.monotonic() - gone_at >= Duration::from_secs(1));
    server.shutdown().await;
}

/// Once, a load that took a damaged pack out of use left the parts in it without a file, though they were reported as held:
/// the next start had to fetch them.
#[tokio::test(flavor = "multi_thread")]
async fn parts_in_memory_whose_pack_cannot_be_opened_any_more_are_on_disk_again_after_the_next_load() {
    let cluster = Cluster::new(&[("a", 2)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let (zero, one) = (cluster.start("a-0").await, cluster.start("a-1").await);
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    zero.wait_serving(uid, content).await;
    let pack = files(&cluster, "a-0", ".pack").remove(0);
    let len = cluster.env.files.read(&pack).expect("read").len();
    damage(&cluster, &pack, len - 1);
    // Another slot wants the other half of the parts.
    let all = Assignment { server: "a-0".into(), addr: "127.0.0.1:1".into() };
    cluster.meta.change(|view| txn::add_sect(view, "b", vec![all.clone()])).await.expect("added");
    cluster.wait_meta("the joining slot's report", |view| Cluster::reported(view, "b/0", uid) == [content]).await;
    zero.shutdown().await;
    one.shutdown().await;
    assert!(!files(&cluster, "a-0", ".pack").contains(&pack));

    cluster.store_switch.set(false);
    let zero = cluster.start("a-0").await;
    cluster
        .wait_meta("both reports", |view| {
            ["a/0", "b/0"].iter().all(|slot| Cluster::reported(view, slot, uid) == [content])
        })
        .await;
    let keys: Vec<u64> = (0..COUNT).collect();
    check_integers(&zero.get(uid, &keys).await, &keys, COUNT);
}

/// Two processes on one directory would remove each other's files as leftovers.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_a_running_server_uses_is_refused() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let server = cluster.start("a-0").await;
    let again =
        KvServer::start(cluster.env.clone(), cluster.config("a-0"), cluster.meta_switch.clone(), cluster.store());
    let refused = again.await.expect_err("it is in use");
    assert!(matches!(refused, StartError::DataDir { .. }), "{refused}");
    assert!(refused.to_string().contains("another process"), "{refused}");
    server.shutdown().await;
    cluster.start("a-0").await.shutdown().await;
}
