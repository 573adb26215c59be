//! Load, report, flip, answer.

mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fkv_formats::id::{ContentId, Version};
use fkv_formats::route::{RoleTable, part_of};
use fkv_formats::schema::{KeyType, Storage, ValueType};
use fkv_rpc::packed::{KeyStatus, Reply, SectionStatus, Selector, ValueForm};
use fkv_rpc::status::ErrorKind;

use self::cluster::{Cluster, Row, check_integers, request, rows, schema, table_status, value_of, values};

const COUNT: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_loaded_reported_flipped_and_answered() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..4000).map(|i| i * 7).collect();

    let unknown = server.get(fkv_formats::id::TableUid(999), &keys).await;
    assert_eq!(unknown.section(0).expect("one section").status(), SectionStatus::UnknownTable);

    let (version, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.wait_meta("the report", |view| Cluster::reported(view, "a/0", uid) == [content]).await;
    let early = server.get(uid, &keys).await;
    let section = early.section(0).expect("one section");
    assert_eq!(section.status(), SectionStatus::NotLoaded, "an unaligned target is not shown");
    assert_eq!(section.label().other.map(|held| held.content), Some(content), "but held, and had on request");
    let asked = server.get_at(uid, Selector::Content(content), &keys).await;
    assert_eq!(check_integers(&asked, &keys, COUNT), version);

    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let reply = server.get(uid, &keys).await;
    assert_eq!(check_integers(&reply, &keys, COUNT), version);
    let label = reply.section(0).expect("one section").label();
    assert_eq!(label.served, label.aligned);
    assert_eq!(label.other, None);
    assert_eq!(reply.header().generation, 1);

    // A batch that is looked up on the CPU pool.
    let many: Vec<u64> = (0..30_000).collect();
    assert_eq!(check_integers(&server.get(uid, &many).await, &many, COUNT), version);
    let wrong_key = server.get_bytes(uid, 0, &["x"]).await;
    assert_eq!(wrong_key.section(0).expect("one section").status(), SectionStatus::WrongKeyType);
    let lost = server.get_at(uid, Selector::Content(ContentId([9; 32])), &keys).await;
    assert_eq!(lost.section(0).expect("one section").status(), SectionStatus::ContentNotHeld);
    let pinned = server.get_at(uid, Selector::Version(version), &keys).await;
    assert_eq!(check_integers(&pinned, &keys, COUNT), version);
    server.shutdown().await;
}

/// Readers ask all the time while versions come and go: within one answer all values are of the version it is labelled
/// with, and a server never goes back to an older one.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_mixes_versions_while_loads_flip() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = Arc::new(cluster.start("a-0").await);
    let buffers = server.status().await.memory_bytes_used;
    let (_, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, first).await;

    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|reader| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            async move {
                let keys: Vec<u64> = (0..2000).map(|i| (i * 13 + reader) % (COUNT + 500)).collect();
                let (mut last, mut flips, mut reads) = (Version(1), 0, 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    let version = check_integers(&server.get(uid, &keys).await, &keys, COUNT);
                    assert!(version >= last, "from {last} back to {version}");
                    flips += u64::from(version > last);
                    last = version;
                    reads += 1;
                }
                (last, flips, reads)
            }
        })
        .collect();
    let writer = async {
        for version in 2..=5 {
            let (_, content) = cluster.publish("t", 0, &rows(version, COUNT)).await;
            cluster.align("t").await;
            server.wait_serving(uid, content).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (outcomes, ()) = futures::join!(futures::future::join_all(readers), writer);
    for (last, flips, reads) in outcomes {
        assert!(last >= Version(4) && flips >= 3 && reads > 8, "{last} {flips} {reads}");
    }
    let status = server.status().await;
    let table = table_status(&status, uid).expect("known");
    assert_eq!(table.flips, 4);
    let image = table.serving.as_ref().expect("served").memory_bytes;
    // Two images at most: what was replaced twice is gone.
    server.wait_status("old images to be freed", |status| status.memory_bytes_used <= buffers + 2 * image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buffers_and_cache_are_in_the_books_from_the_start() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let mut config = cluster.config("a-0");
    let buffers = config.io.buffer_bytes + config.io.long_buffer_bytes_max;
    let used = async |config| {
        let server = cluster.start_with(config).await;
        let used = server.status().await.memory_bytes_used;
        server.shutdown().await;
        used
    };
    let with_cache = used(config.clone()).await;
    config.record_cache_bytes = 0;
    let without = used(config).await;
    assert!(without <= buffers && without > buffers - (1 << 20), "whole blocks of {buffers}: {without}");
    // A sixteenth of a gibibyte, less what does not make a whole chain.
    let cache = with_cache - without;
    assert!(cache <= 64 << 20 && cache > 63 << 20, "{cache}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_the_image_still_held_loads_nothing() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let keys: Vec<u64> = (0..100).collect();
    let (one, first) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    let (_, second) = cluster.publish("t", 0, &rows(2, COUNT)).await;
    cluster.align("t").await;
    server.wait_serving(uid, second).await;
    let reads = cluster.store_switch.reads.load(Ordering::Relaxed);
    assert!(cluster.rollback("t", one).await, "it is held, so it is shown at once");
    server.wait_serving(uid, first).await;
    let reply = server.get(uid, &keys).await;
    assert_eq!(check_integers(&reply, &keys, COUNT), one);
    let label = reply.section(0).expect("one section").label();
    assert_eq!(label.served.expect("served").epoch.0, 3, "a rollback makes the content newest");
    assert_eq!(label.other.map(|held| held.content), Some(second));
    assert_eq!(cluster.store_switch.reads.load(Ordering::Relaxed), reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_role_is_not_here_and_never_absent() {
    let cluster = Cluster::new(&[("a", 2)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let (zero, one) = (cluster.start("a-0").await, cluster.start("a-1").await);
    let (_, content) = cluster.publish("t", 0, &rows(1, COUNT)).await;
    cluster.align("t").await;
    zero.wait_serving(uid, content).await;
    one.wait_serving(uid, content).await;

    let roles = RoleTable::new(2).expect("legal");
    // Half of the keys do not exist, in either role.
    let keys: Vec<u64> = (COUNT - 1000..COUNT + 1000).collect();
    for (role, server) in [(0, &zero), (1, &one)] {
        let reply = server.get(uid, &keys).await;
        let section = reply.section(0).expect("one section");
        for (index, key) in keys.iter().enumerate() {
            let mine = roles.role_of(part_of(fkv_formats::hash::hash_u64(*key))).0 == role;
            let expected = match (mine, *key < COUNT) {
                (false, _) => KeyStatus::NotHere,
                (true, true) => KeyStatus::Found,
                (true, false) => KeyStatus::Absent,
            };
            assert_eq!(section.key_status(index), expected, "role {role}, key {key}");
        }
        let others: Vec<u64> = keys
            .iter()
            .copied()
            .filter(|key| roles.role_of(part_of(fkv_formats::hash::hash_u64(*key))).0 != role)
            .collect();
        let reply = server.get(uid, &others).await;
        assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::WrongTopology);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_records_are_told_from_absent_ones() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let mut with_ttl = schema(KeyType::Bytes, ValueType::Bytes);
    with_ttl.ttl = true;
    let uid = cluster.create_table("t", &with_ttl).await;
    let server = cluster.start("a-0").await;
    let record = |key: &str, expiry| Row { expiry, ..Row::bytes(key, format!("value of {key}")) };
    let rows = [
        record("never", 0),
        record("long ago", 900),
        record("by as_of", 1000),
        record("later", 1500),
        record("empty", 0),
    ];
    let (_, content) = cluster.publish("t", 1000, &rows).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;

    let keys = ["never", "long ago", "by as_of", "later", "nowhere"];
    let statuses = |reply: &Reply| {
        let section = reply.section(0).expect("one section");
        (0..keys.len()).map(|index| section.key_status(index)).collect::<Vec<_>>()
    };
    use KeyStatus::{Absent, Expired, Found};
    let before = server.get_bytes(uid, 0, &keys).await;
    assert_eq!(statuses(&before), [Found, Absent, Absent, Found, Absent]);
    let section = before.section(0).expect("one section");
    assert_eq!(values(&section)[0], Some(&b"value of never"[..]));
    assert_eq!((values(&section)[3], section.label().as_of_s), (Some(&b"value of later"[..]), 1000));
    let after = server.get_bytes(uid, 1_500_000, &keys).await;
    assert_eq!(statuses(&after), [Found, Absent, Absent, Expired, Absent]);

    let now = cluster.env.clock.unix_ms();
    let ahead = server.get_bytes(uid, now + 6 * 60 * 1000, &keys).await;
    assert_eq!(ahead.section(0).expect("one section").status(), SectionStatus::ReadTsAhead);
    let near = server.get_bytes(uid, now + 4 * 60 * 1000, &keys).await;
    assert_eq!(near.section(0).expect("one section").status(), SectionStatus::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn floats_stored_narrow_travel_in_the_width_asked_for() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let mut narrow = schema(KeyType::U64, ValueType::F32(16));
    narrow.storage = Storage::F16;
    let uid = cluster.create_table("t", &narrow).await;
    let server = cluster.start("a-0").await;
    let numbers = |key: u64| (0..16).map(move |i| (key % 100) as f32 + i as f32 / 16.0);
    let halves = |key: u64| numbers(key).flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>();
    let singles = |key: u64| numbers(key).flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let rows: Vec<Row> = (0..5000).map(|key| Row::u64(key, halves(key))).collect();
    let (_, content) = cluster.publish("t", 0, &rows).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let keys: Vec<u64> = (0..1000).map(|i| i * 7).collect();
    for (form, value_type) in [
        (ValueForm::Native, ValueType::F32(16)),
        (ValueForm::F32, ValueType::F32(16)),
        (ValueForm::F16, ValueType::F16(16)),
    ] {
        let reply = server.try_get(request(uid, Selector::Aligned, form, 0, &keys)).await.expect("answered");
        let section = reply.section(0).expect("one section");
        assert_eq!(section.value_type(), Some(value_type));
        for (key, found) in keys.iter().zip(values(&section)) {
            let expected = if form == ValueForm::F16 { halves(*key) } else { singles(*key) };
            assert_eq!(found, (*key < 5000).then_some(expected.as_slice()), "{form:?} {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_limits_is_refused_with_a_clear_status() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let mut config = cluster.config("a-0");
    config.limits.keys_max = 100;
    config.limits.reply_bytes_max = 65 * 1024;
    let server = cluster.start_with(config).await;
    let keys: Vec<u64> = (0..101).collect();
    let refused = server.try_get(request(uid, Selector::Aligned, ValueForm::Native, 0, &keys)).await;
    let refused = refused.expect_err("too many keys");
    assert_eq!(refused.kind, ErrorKind::BatchTooLarge);
    assert!(refused.message.contains("101 keys"), "{refused}");
    let garbage = server.try_get(bytes::Bytes::from_static(b"hello")).await.expect_err("no packed body");
    assert_eq!(garbage.kind, ErrorKind::BadRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_leaves_nothing_behind() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let server = cluster.start("a-0").await;
    let buffers = server.status().await.memory_bytes_used;
    for version in 1..=2 {
        let (_, content) = cluster.publish("t", 0, &rows(version, COUNT)).await;
        cluster.align("t").await;
        server.wait_serving(uid, content).await;
    }
    assert!(server.status().await.memory_bytes_used > buffers);
    cluster.meta.change(|view| fkv_meta::txn::drop_table(view, "t", None, 2)).await.expect("dropped");
    server
        .wait_status("the table to be unloaded", |status| {
            status.tables.is_empty() && status.memory_bytes_used == buffers
        })
        .await;
    let reply = server.get(uid, &[1]).await;
    assert_eq!(reply.section(0).expect("one section").status(), SectionStatus::UnknownTable);
    cluster.wait_meta("the report to be empty", |view| Cluster::reported(view, "a/0", uid).is_empty()).await;
    // The same name again shares nothing with it.
    let again = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    assert_ne!(again, uid);
    let (_, content) = cluster.publish("t", 0, &rows(1, 100)).await;
    cluster.align("t").await;
    server.wait_serving(again, content).await;
    server.shutdown().await;
    let names: Vec<String> = cluster
        .env
        .files
        .list(&cluster.data_dir("a-0").join("images"))
        .expect("listed")
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with(&format!("{:016x}-", again.0))), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_learnt_from_any_server() {
    let cluster = Cluster::new(&[("a", 2), ("b", 3)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::F32(4))).await;
    let server = cluster.start("b-1").await;
    let status = server.wait_status("the table", |status| !status.tables.is_empty()).await;
    assert_eq!((status.slots, status.metadata_connected), (vec!["b/1".to_owned()], true));
    let reply = server.client().topology(fkv_rpc::kv::TopologyRequest {}).await.expect("answered").into_inner();
    let view = fkv_rpc::topology::TopologyView::try_from(reply).expect("a good topology");
    assert_eq!((view.module.as_str(), view.generation), ("test", 1));
    assert_eq!(view.sects["b"].addresses.len(), 3);
    assert_eq!(view.tables["t"].uid, uid);
    assert_eq!(view.tables["t"].value, ValueType::F32(4));
}

/// Small groups and reads: parts of several reads, reads of several parts, groups written to disk while the next is
/// read, and all of it again from local files.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_many_groups_and_pieces_is_whole() {
    let cluster = Cluster::new(&[("a", 1)]).await;
    let uid = cluster.create_table("t", &schema(KeyType::U64, ValueType::I64)).await;
    let mut config = cluster.config("a-0");
    config.group_bytes = 200 << 10;
    config.load_read_bytes = 100_000;
    config.load_reads = 3;
    let server = cluster.start_with(config.clone()).await;
    let crowded = (COUNT..).filter(|key| part_of(fkv_formats::hash::hash_u64(*key)).0 == 1500).take(15_000);
    let numbers: Vec<u64> = (0..COUNT).chain(crowded).collect();
    let rows: Vec<Row> = numbers.iter().map(|key| Row::u64(*key, value_of(Version(1), *key).to_le_bytes())).collect();
    let (_, content) = cluster.publish("t", 0, &rows).await;
    cluster.align("t").await;
    server.wait_serving(uid, content).await;
    let check = async |server: &cluster::Running| {
        for keys in numbers.chunks(10_000) {
            check_integers(&server.get(uid, keys).await, keys, u64::MAX);
        }
    };
    check(&server).await;
    server.shutdown().await;
    let entries = cluster.env.files.list(&cluster.data_dir("a-0").join("images")).expect("listed");
    let packs = entries.iter().filter(|entry| entry.name.ends_with(".pack")).count();
    assert!(packs >= 4, "{entries:?}");
    cluster.store_switch.set(false);
    let server = cluster.start_with(config).await;
    server.wait_serving(uid, content).await;
    check(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let cluster = Cluster::new(&[("a", 1)]).await;
    cluster.meta_switch.set(false);
    let server = cluster.start("a-0").await;
    let mut health = HealthClient::new(server.channel());
    let request = HealthCheckRequest { service: "featurekv.kv.v1.Kv".into() };
    let mut watch = health.watch(request).await.expect("watched").into_inner();
    let first = watch.message().await.expect("a status").expect("a status").status();
    assert_eq!(first, tonic_health::pb::health_check_response::ServingStatus::NotServing, "it knows nothing yet");
    cluster.meta_switch.set(true);
    let second = watch.message().await.expect("a status").expect("a status").status();
    assert_eq!(second, tonic_health::pb::health_check_response::ServingStatus::Serving);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(server.channel())
        .server_reflection_info(futures::stream::iter([list]))
        .await
        .expect("answered")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("another answer: {answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"featurekv.kv.v1.Kv".to_owned()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
}

/// One table's sections go with another's: each has its own label and its own fate.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_several_tables_answers_each_by_itself() {
    use fkv_rpc::packed::{RequestHeader, RequestWriter, SectionHeader, u64_section_bytes};
    let cluster = Cluster::new(&[("a", 1)]).await;
    let one = cluster.create_table("one", &schema(KeyType::U64, ValueType::I64)).await;
    let two = cluster.create_table("two", &schema(KeyType::U64, ValueType::Bytes)).await;
    let empty = cluster.create_table("empty", &schema(KeyType::U64, ValueType::F16(3))).await;
    let server = cluster.start("a-0").await;
    let (_, first) = cluster.publish("one", 0, &rows(1, 1000)).await;
    let texts: Vec<Row> = (0..1000).map(|key| Row::u64(key, format!("{key}").repeat(key as usize % 9))).collect();
    let (_, second) = cluster.publish("two", 0, &texts).await;
    cluster.align("one").await;
    cluster.align("two").await;
    server.wait_serving(one, first).await;
    server.wait_serving(two, second).await;
    let keys: Vec<u64> = (0..1200).collect();
    let mut writer = RequestWriter::new(RequestHeader::default(), 3 * u64_section_bytes(keys.len()));
    for table in [one, empty, two] {
        let header = SectionHeader { table, selector: Selector::Aligned, form: ValueForm::Native };
        writer.u64_section(header, keys.iter().copied());
    }
    let reply = server.try_get(writer.finish()).await.expect("answered");
    check_integers(&reply, &keys, 1000);
    assert_eq!(reply.section(1).expect("three sections").status(), SectionStatus::NotLoaded);
    let section = reply.section(2).expect("three sections");
    assert_eq!(section.label().served.map(|shown| shown.content), Some(second));
    for (key, found) in keys.iter().zip(values(&section)) {
        let expected = (*key < 1000).then(|| format!("{key}").repeat(*key as usize % 9));
        assert_eq!(found, expected.as_ref().map(|text| text.as_bytes()), "key {key}");
    }
}
