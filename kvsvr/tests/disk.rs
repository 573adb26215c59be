//! Tables whose records are on SSD: loaded, read, restarted, damaged and healed.

mod cluster;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fkv_formats::hash::hash_u64;
use fkv_formats::id::{Part, Version};
use fkv_formats::pack::{DirectoryRead, PackDirectory, PackPart};
use fkv_formats::route::part_of;
use fkv_formats::schema::{KeyType, Schema, TableKind, ValueType};
use fkv_kvsvr::{IoConfig, IoEngine, KvConfig};
use fkv_rpc::packed::{KeyStatus, SectionStatus, Selector, ValueForm};

use self::cluster::{Cluster, Row, check_integers, request, rows, schema, table_status, value_of, values};

const COUNT: u64 = 20_000;
const KINDS: [TableKind; 2] = [TableKind::Idx, TableKind::Blk];

fn on_disk(kind: TableKind, key: KeyType, value: ValueType) -> Schema {
    Schema { kind, ..schema(key, value) }
}

/// With each engine, so that what is true of one is true of the other.
fn config(cluster: &Cluster, engine: IoEngine) -> KvConfig {
    let io = IoConfig { engine, rings: 1, buffer_bytes: 1 << 20, ..IoConfig::default() };
    KvConfig { io, ..cluster.config("a-0") }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_every_version_is_found_where_it_is() {
    for (kind, engine) in KINDS.into_iter().flat_map(|kind| [(kind, IoEngine::Auto), (kind, IoEngine::Pread)]) {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start_with(config(&cluster, engine)).await;
        let (first_version, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, first).await;
        // More keys than there are buffers, every fourth absent, some twice.
        let keys: Vec<u64> = (0..COUNT + COUNT / 3).chain(0..100).collect();
        assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), first_version, "{kind} {engine:?}");
        let before = server.status().await;
        assert_eq!(before.block_read_failures, 0);
        if engine == IoEngine::Pread {
            assert_eq!(before.io_engine, "pread");
        }

        let (second_version, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, second).await;
        assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), second_version);
        let pinned = server.get_at(uid, Selector::Content(first), &keys).await;
        assert_eq!(check_integers(&pinned, &keys, COUNT), first_version, "the image before is still read");
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_found_key_takes_one_read_and_an_absent_one_none() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        // A kilobyte each: a handful to a block.
        let wide = ValueType::F32(256);
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, wide)).await;
        // What the cache would answer is not read.
        let uncached = KvConfig { record_cache_bytes: 0, ..cluster.config("a-0") };
        let server = cluster.start_with(uncached).await;
        let row = |key: u64| Row::u64(key, (key as f32).to_le_bytes().repeat(256));
        let (_, content) = cluster.publish("t", 0, &(0..COUNT).map(row).collect::<Vec<_>>()).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        let reads = async || server.status().await.block_reads;

        let begun = reads().await;
        let one = server.get(uid, &[77]).await;
        assert_eq!(values(&one.section(0).expect("one section")), [Some(&77f32.to_le_bytes().repeat(256)[..])]);
        assert_eq!(reads().await - begun, 1, "{kind}");
        // The same key many times, and keys of one block, share their read.
        let begun = reads().await;
        server.get(uid, &[77; 500]).await;
        assert_eq!(reads().await - begun, 1, "{kind}");
        let begun = reads().await;
        let all: Vec<u64> = (0..COUNT).collect();
        server.get(uid, &all).await;
        let all_reads = reads().await - begun;
        assert!(all_reads < COUNT / 2, "{kind}: {all_reads} reads for {COUNT} keys, three to a block");
        let begun = reads().await;
        let absent: Vec<u64> = (COUNT..2 * COUNT).collect();
        let reply = server.get(uid, &absent).await;
        assert!(values(&reply.section(0).expect("one section")).iter().all(Option::is_none));
        let taken = reads().await - begun;
        match kind {
            // One in 10^6 by chance.
            TableKind::Idx => assert!(taken <= 2, "{taken} reads for {COUNT} absent keys"),
            // Without a filter: those that fall into a block.
            _ => assert!(taken <= all_reads + 2400, "{taken} reads"),
        }
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_answered_from_the_cache_and_never_for_another_version() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start("a-0").await;
        let keys: Vec<u64> = (0..3000).map(|key| key * 9).collect();
        for version in 1..=3 {
            let (_, content) = cluster.publish("t", 0, &rows(version, COUNT)).await;
            cluster.align("t").await;
            server.wait_serving(uid, content).await;
            let before = server.status().await.block_reads;
            check_integers(&server.get(uid, &keys).await, &keys, COUNT);
            let read = server.status().await.block_reads;
            assert!(read > before, "{kind}: a new version is read, whatever the cache has of the one before");
            check_integers(&server.get(uid, &keys).await, &keys, COUNT);
            assert_eq!(server.status().await.block_reads, read, "{kind}: the second time nothing is read");
        }
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_text_keys_and_expiry_come_back_as_written() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let declared = Schema { ttl: true, ..on_disk(kind, KeyType::Bytes, ValueType::Bytes) };
        let uid = cluster.create_table("t", &declared).await;
        let server = cluster.start("a-0").await;
        let now_s = u32::try_from(cluster.env.clock.unix_ms() / 1000).expect("this century");
        let lengths = [0, 1, 1000, 1024, 3000, 4080, 4096, 5000, 70_000, 3 << 20];
        let mut written: Vec<Row> = Vec::new();
        for (index, len) in lengths.into_iter().cycle().take(200).enumerate() {
            // Only a few of the longest.
            let len = if index > 20 && len > 1 << 20 { 10 } else { len };
            let value: Vec<u8> = (0..len).map(|at| (at * 31 + index) as u8).collect();
            let expiry = if index % 7 == 3 { now_s + 3600 } else { 0 };
            written.push(Row { expiry, ..Row::bytes(&format!("key {index}"), value) });
        }
        written.push(Row { expiry: now_s - 10, ..Row::bytes("gone", "old") });
        let (_, content) = cluster.publish("t", 1, &written).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;

        let names: Vec<String> = (0..200).map(|index| format!("key {index}")).collect();
        let mut keys: Vec<&str> = names.iter().map(String::as_str).collect();
        keys.extend(["gone", "never"]);
        let reply = server.get_bytes(uid, 0, &keys).await;
        let section = reply.section(0).expect("one section");
        assert_eq!(section.status(), SectionStatus::Ok);
        let answers: Vec<(KeyStatus, &[u8])> = section.answers().collect();
        for (row, (status, value)) in written.iter().zip(&answers).take(200) {
            assert_eq!((*status, *value), (KeyStatus::Found, &row.value[..]), "{kind}");
        }
        assert_eq!(answers[201].0, KeyStatus::Absent);
        // Time is the reader's: what has expired by then is said to have.
        let later = server.get_bytes(uid, cluster.env.clock.unix_ms(), &keys).await;
        let later: Vec<_> = later.section(0).expect("one section").answers().map(|(status, _)| status).collect();
        assert_eq!((later[200], later[3]), (KeyStatus::Expired, KeyStatus::Found));
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_mixes_versions_while_loads_flip() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = Arc::new(cluster.start("a-0").await);
        let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2_u64)
            .map(|reader| {
                let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
                #[allow(clippy::disallowed_methods, reason = "a client of the server, with a thread of the test's own")]
                tokio::spawn(async move {
                    let keys: Vec<u64> = (0..1500).map(|index| (index * 13 + reader * 7) % (COUNT + 50)).collect();
                    let (mut answers, mut newest) = (0, Version(0));
                    while !stop.load(Ordering::SeqCst) {
                        let version = check_integers(&server.get(uid, &keys).await, &keys, COUNT);
                        assert!(version >= newest, "{version} after {newest}");
                        (answers, newest) = (answers + 1, version);
                    }
                    answers
                })
            })
            .collect();
        for version in 2..=5 {
            let (_, content) = cluster.publish("t", 0, &rows(version, COUNT)).await;
            cluster.align("t").await;
            server.wait_serving(uid, content).await;
        }
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.await.expect("no reader fails") > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_metadata_and_store_down_reads_on() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start("a-0").await;
        let keys: Vec<u64> = (0..COUNT + 100).collect();
        let (version, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        server.shutdown().await;

        cluster.meta_switch.set(false);
        cluster.store_switch.set(false);
        let server = cluster.start("a-0").await;
        server.server.ready().await;
        assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), version, "{kind}");
        server.shutdown().await;
    }
}

/// Changes one byte of a file where it is, as a failing device would.
#[allow(clippy::disallowed_methods, reason = "the test plays a failing device")]
fn rot(path: &std::path::Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
    file.sync_all().expect("durable");
}

fn only_pack(cluster: &Cluster) -> PathBuf {
    let mut packs = packs(cluster);
    assert_eq!(packs.len(), 1);
    packs.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_rots_is_never_an_answer_and_its_part_is_fetched_again() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start("a-0").await;
        let keys: Vec<u64> = (0..COUNT).collect();
        let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        // In the middle of the first block of the first part.
        rot(&only_pack(&cluster), 4096 + 100);
        // With the store down nothing can replace it.
        cluster.store_switch.set(false);
        let reply = server.get(uid, &keys).await;
        assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::DataFault, "{kind}");
        cluster.wait_meta("a report without the content", |view| Cluster::reported(view, "a/0", uid).is_empty()).await;
        let reply = server.get(uid, &keys).await;
        let section = reply.section(0).expect("one section");
        let missing: Vec<u16> = (0..keys.len())
            .filter(|index| section.key_status(*index) == KeyStatus::NotHere)
            .map(|index| part_of(hash_u64(keys[index])).0)
            .collect();
        assert!(!missing.is_empty() && missing.iter().all(|part| *part == missing[0]), "one part: {missing:?}");
        assert!((0..keys.len()).all(|index| section.key_status(index) != KeyStatus::Absent));

        cluster.store_switch.set(true);
        cluster.wait_meta("the report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
        check_integers(&server.get(uid, &keys).await, &keys, COUNT);
        // On disk too: the next start does not need the store.
        server.shutdown().await;
        cluster.store_switch.set(false);
        let server = cluster.start("a-0").await;
        server.server.ready().await;
        check_integers(&server.get(uid, &keys).await, &keys, COUNT);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_resident_section_is_noticed_at_the_start_and_fetched_again() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start("a-0").await;
        let keys: Vec<u64> = (0..COUNT).collect();
        let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        server.shutdown().await;
        // The first part has one block; its resident section is behind.
        rot(&only_pack(&cluster), 2 * 4096 + 1);
        let server = cluster.start("a-0").await;
        server
            .wait_status("the whole image", |status| {
                let serving = table_status(status, uid).and_then(|table| table.serving.as_ref());
                serving.is_some_and(|image| image.complete)
            })
            .await;
        check_integers(&server.get(uid, &keys).await, &keys, COUNT);
        server.shutdown().await;
    }
}

/// Packs of a server.
fn packs(cluster: &Cluster) -> Vec<PathBuf> {
    let dir = cluster.data_dir("a-0").join("images");
    let entries = cluster.env.files.list(&dir).expect("listed");
    entries.into_iter().filter(|entry| entry.name.ends_with(".pack")).map(|entry| dir.join(entry.name)).collect()
}

/// Where a part is on the server's disk: the pack and the part's entry in it.
fn place_of(cluster: &Cluster, part: u16) -> (PathBuf, PackPart) {
    let mut found = packs(cluster).into_iter().filter_map(|path| {
        let bytes = cluster.env.files.read(&path).expect("read");
        match PackDirectory::parse(&bytes, bytes.len() as u64).expect("a good pack") {
            DirectoryRead::Ready(directory) => directory.part(Part(part)).cloned().map(|part| (path, part)),
            DirectoryRead::NeedTail(_) => unreachable!("all of it is there"),
        }
    });
    let place = found.next().expect("it is on disk");
    assert_eq!(found.next(), None, "once");
    place
}

/// So many keys of these parts.
fn keys_in(parts: &[u16], count: usize) -> Vec<u64> {
    (0..).filter(|key| parts.contains(&part_of(hash_u64(*key)).0)).take(count).collect()
}

fn rows_of(version: u64, keys: &[u64]) -> Vec<Row> {
    keys.iter().map(|key| Row::u64(*key, value_of(Version(version), *key).to_le_bytes())).collect()
}

/// Once, the files of parts that had been fetched again stayed, open and in the ledger, until the content went.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_damaged_again_and_again_takes_no_more_room_than_one() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        // A pack for each part, and nothing from the cache.
        let mut config = KvConfig { group_bytes: 1, record_cache_bytes: 0, ..cluster.config("a-0") };
        let server = cluster.start_with(config.clone()).await;
        let keys = keys_in(&[7, 100, 2000], 300);
        let (_, content) = cluster.publish("t", 0, &rows_of(1, &keys)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        server.shutdown().await;

        // Room for what is there and for two parts more.
        let dir = cluster.data_dir("a-0").join("images");
        let used: u64 = cluster.env.files.list(&dir).expect("listed").iter().map(|entry| entry.len).sum();
        config.disk_bytes_max = used + (30 << 10);
        let server = cluster.start_with(config).await;
        server.server.ready().await;
        assert_eq!(packs(&cluster).len(), 3);
        for _ in 0..6 {
            check_integers(&server.get(uid, &keys).await, &keys, u64::MAX);
            let (damaged, part) = place_of(&cluster, 100);
            rot(&damaged, part.offset + 100);
            let reply = server.get(uid, &keys).await;
            assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::DataFault, "{kind}");
            server.wait_status("the damaged file to go", |_| !packs(&cluster).contains(&damaged)).await;
            assert_eq!(packs(&cluster).len(), 3);
        }
        check_integers(&server.get(uid, &keys).await, &keys, u64::MAX);
        server.shutdown().await;
        cluster.store_switch.set(false);
        let server = cluster.start("a-0").await;
        server.server.ready().await;
        check_integers(&server.get(uid, &keys).await, &keys, u64::MAX);
        server.shutdown().await;
    }
}

/// Once, a pack that was damaged as a whole healed part by part, each after a request for its keys had failed.
#[tokio::test(flavor = "multi_thread")]
async fn what_else_is_damaged_in_a_pack_is_found_before_anybody_asks_for_it() {
    for (kind, engine) in KINDS.into_iter().flat_map(|kind| [(kind, IoEngine::Auto), (kind, IoEngine::Pread)]) {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start_with(KvConfig { record_cache_bytes: 0, ..config(&cluster, engine) }).await;
        // The last part is good, the first is asked for; of the others one block, and one resident section, are damaged.
        let parts = [7, 100, 1000, 2000];
        let keys: Vec<Vec<u64>> = parts.iter().map(|part| keys_in(&[*part], 500)).collect();
        let all = keys.concat();
        let (_, content) = cluster.publish("t", 0, &rows_of(1, &all)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        cluster.store_switch.set(false);
        for (part, resident) in [(7, false), (100, false), (1000, true)] {
            let (pack, entry) = place_of(&cluster, part);
            let at = if resident { entry.resident_range().end - 1 } else { entry.offset + entry.block_len() - 1 };
            rot(&pack, at);
        }
        // Its last key is in its last block.
        let reply = server.get(uid, &keys[0]).await;
        assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::DataFault, "{kind}");
        server
            .wait_status("only the good part to be served", |status| {
                let serving = table_status(status, uid).and_then(|table| table.serving.as_ref());
                serving.is_some_and(|image| image.records == 500 && !image.complete)
            })
            .await;
        check_integers(&server.get(uid, &keys[3]).await, &keys[3], u64::MAX);

        cluster.store_switch.set(true);
        server
            .wait_status("the whole image", |status| {
                let serving = table_status(status, uid).and_then(|table| table.serving.as_ref());
                serving.is_some_and(|image| image.complete)
            })
            .await;
        check_integers(&server.get(uid, &all).await, &all, u64::MAX);
        server.shutdown().await;
        cluster.store_switch.set(false);
        let server = cluster.start("a-0").await;
        server.server.ready().await;
        check_integers(&server.get(uid, &all).await, &all, u64::MAX);
        server.shutdown().await;
    }
}

/// Once, a repair dropped a pack whose directory was damaged, and left the parts in it without a file: the next start
/// missed what this one had reported to hold.
#[tokio::test(flavor = "multi_thread")]
async fn parts_whose_pack_cannot_be_opened_any_more_are_on_disk_again_after_a_repair() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        let server = cluster.start_with(KvConfig { record_cache_bytes: 0, ..cluster.config("a-0") }).await;
        let keys = keys_in(&[7, 100, 2000], 300);
        let (_, content) = cluster.publish("t", 0, &rows_of(1, &keys)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        let (pack, part) = place_of(&cluster, 100);
        rot(&pack, part.offset + 100);
        let len = cluster.env.files.stat(&pack).expect("there").len;
        rot(&pack, len - 1);
        let reply = server.get(uid, &keys).await;
        assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::DataFault, "{kind}");
        server.wait_status("the damaged file to go", |_| !packs(&cluster).contains(&pack)).await;
        check_integers(&server.get(uid, &keys).await, &keys, u64::MAX);
        server.shutdown().await;
        cluster.store_switch.set(false);
        let server = cluster.start("a-0").await;
        server.server.ready().await;
        check_integers(&server.get(uid, &keys).await, &keys, u64::MAX);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_does_not_fit_the_disk_leaves_the_serving_image_alone() {
    for kind in KINDS {
        let cluster = Cluster::new(&[("a", 1)]).await;
        let uid = cluster.create_table("t", &on_disk(kind, KeyType::U64, ValueType::I64)).await;
        // Room for one version: 2400 parts of a block and a little more each.
        let server = cluster.start_with(KvConfig { disk_bytes_max: 30 << 20, ..cluster.config("a-0") }).await;
        let keys: Vec<u64> = (0..COUNT).collect();
        let (version, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
        cluster.publish("t", 0, &rows(2, COUNT)).await;
        server
            .wait_status("the refusal", |status| {
                table_status(status, uid).is_some_and(|table| table.problem.contains("bytes of disk are needed"))
            })
            .await;
        assert_eq!(check_integers(&server.get(uid, &keys).await, &keys, COUNT), version);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_do_not_fit_a_reply_are_refused_without_reading_on() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &on_disk(TableKind::Idx, KeyType::U64, ValueType::Bytes)).await;
    let mut config = cluster.config("a-0");
    config.limits.reply_bytes_max = 1 << 20;
    let server = cluster.start_with(config).await;
    let rows: Vec<Row> = (0..100).map(|key| Row::u64(key, vec![7; 100_000])).collect();
    let (_, content) = cluster.publish("t", 0, &rows).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let keys: Vec<u64> = (0..100).collect();
    let reply = server.get(uid, &keys).await;
    assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::ReplyTooLarge);
    let few =
        server.try_get(request(uid, Selector::Aligned, ValueForm::Native, 0, &keys[..5])).await.expect("answered");
    assert!(
        values(&few.section(0).expect("one section")).iter().all(|value| value.is_some_and(|v| v.len() == 100_000))
    );
}
