//! Servers that fail, hang, move and change: what a client makes of it.

mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use fake::*;
use fkv_client::{ClientError, KeyStatus, Keys, ReadOptions, SectState, TableRead, ValueForm, blocking};
use fkv_env::Env;
use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::TableUid;
use fkv_formats::schema::{KeyType, ValueType};
use fkv_rpc::packed::{SectionStatus, Selector};
use fkv_rpc::status::ErrorKind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_role_is_replaced_by_another_sect() {
    let module = Module::start(&[("a", 3), ("b", 2)]).await;
    let client = module.client().await;
    for mood in [
        Mood::Fails(ErrorKind::Unavailable),
        Mood::Fails(ErrorKind::Overloaded),
        Mood::Fails(ErrorKind::Internal),
        Mood::Refuses(SectionStatus::NotLoaded),
        Mood::Refuses(SectionStatus::DataFault),
        Mood::Refuses(SectionStatus::ReadTsAhead),
        Mood::Babbles,
        Mood::Foreign,
    ] {
        module.server("a", 1).state().mood = mood.clone();
        let answer = read(&client, &keys()).await.unwrap_or_else(|error| panic!("{mood:?}: {error}"));
        assert_eq!(answer.label.content, content(1));
        module.clock.push(Duration::from_secs(60));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_role_is_replaced_after_the_time_of_a_request() {
    let module = Module::start(&[("a", 2), ("b", 2)]).await;
    let mut config = module.config();
    config.rpc_timeout = Duration::from_millis(100);
    let client = module.client_with(config).await;
    module.server("a", 0).state().mood = Mood::Hangs;
    read(&client, &keys()).await.expect("sect b answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_role_is_hedged_long_before_that() {
    let module = Module::start(&[("a", 2), ("b", 3)]).await;
    let mut config = module.config();
    config.hedge_after = Some(Duration::from_millis(20));
    config.hedge_percent_max = 100;
    let client = module.client_with(config).await;
    // A few calls earn what three requests in the place of one cost.
    for _ in 0..4 {
        read(&client, &keys()).await.expect("all is well");
    }
    module.server("a", 0).state().mood = Mood::Hangs;
    let keys = keys();
    let read = [TableRead { table: TABLE, keys: Keys::U64(&keys) }];
    let answer = client.batch_get(&read, &ReadOptions::default()).await.expect("sect b answers");
    check(&answer.tables[0], &keys);
    assert!(answer.effort.hedges > 0, "the request timeout is longer than this test waits");
    assert_eq!(answer.effort.retries, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_server_is_left_alone_and_probed_back() {
    let module = Module::start(&[("a", 2), ("b", 2)]).await;
    let client = module.client().await;
    let sick = module.server("a", 0);
    sick.state().mood = Mood::Fails(ErrorKind::Unavailable);
    for _ in 0..10 {
        read(&client, &keys()).await.expect("sect b stands in");
    }
    assert_eq!(sick.state().asked.len(), 3, "after three failures it is left alone");

    module.clock.push(Duration::from_secs(1));
    for _ in 0..10 {
        read(&client, &keys()).await.expect("sect b stands in");
    }
    assert_eq!(sick.state().asked.len(), 4, "one probe found it still sick");

    sick.state().mood = Mood::Well;
    module.clock.push(Duration::from_secs(2));
    for _ in 0..10 {
        read(&client, &keys()).await.expect("all is well");
    }
    assert_eq!(sick.state().asked.len(), 14, "the probe found it well, and all calls use it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_else_at_a_servers_address_is_left_alone() {
    let module = Module::start(&[("a", 2), ("b", 2)]).await;
    let client = module.client().await;
    module.server("a", 0).state().mood = Mood::Foreign;
    for _ in 0..10 {
        read(&client, &keys()).await.expect("sect b stands in");
    }
    assert_eq!(module.server("a", 0).state().asked.len(), 3, "after three failures it is left alone");
    // Whereas a server that states that the call makes no sense speaks for all.
    module.server("a", 1).state().mood = Mood::Fails(ErrorKind::Unsupported);
    let error = read(&client, &keys()).await.expect_err("it is told so");
    assert!(matches!(error, ClientError::BadRequest(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impatient_calls_do_not_eject_a_healthy_server() {
    let module = Module::start(&[("a", 1), ("b", 1)]).await;
    let client = module.client().await;
    let slow = module.server("a", 0);
    slow.state().mood = Mood::Hangs;
    let deadline = Duration::from_millis(20);
    let options = ReadOptions { deadline: Some(deadline), ..ReadOptions::default() };
    for _ in 0..6 {
        let error = client.get(TABLE, Keys::U64(&keys()), &options).await.expect_err("it takes longer");
        assert_eq!(error, ClientError::DeadlineExceeded(deadline));
    }
    slow.state().mood = Mood::Well;
    module.take_asked();
    read(&client, &keys()).await.expect("all is well");
    assert_eq!(module.take_asked().into_keys().collect::<Vec<_>>(), ["a/0"], "the preferred server is still in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_that_cannot_be_paid_uses_up_no_probe() {
    let module = Module::start(&[("a", 1), ("b", 1)]).await;
    let mut config = module.config();
    config.hedge_after = Some(Duration::from_millis(20));
    config.hedge_percent_max = 0;
    let client = module.client_with(config).await;
    let (sick, stand_in) = (module.server("a", 0), module.server("b", 0));
    sick.state().mood = Mood::Fails(ErrorKind::Unavailable);
    // Failed probes make its ejection long enough for what follows.
    for seconds in [0, 0, 0, 1, 2, 4, 8] {
        module.clock.push(Duration::from_secs(seconds));
        read(&client, &keys()).await.expect("sect b stands in");
    }
    sick.state().mood = Mood::Well;
    stand_in.state().mood = Mood::Hangs;
    module.take_asked();
    let deadline = Duration::from_millis(300);
    let options = ReadOptions { deadline: Some(deadline), ..ReadOptions::default() };
    let slow_call = async { client.get(TABLE, Keys::U64(&keys()), &options).await.expect_err("it hangs") };
    let time_passes = async {
        while stand_in.state().asked.is_empty() {
            tokio::task::yield_now().await;
        }
        module.clock.push(Duration::from_secs(10));
    };
    let (error, ()) = tokio::join!(slow_call, time_passes);
    assert_eq!(error, ClientError::DeadlineExceeded(deadline));
    stand_in.state().mood = Mood::Well;
    module.take_asked();
    read(&client, &keys()).await.expect("all is well");
    assert_eq!(module.take_asked().into_keys().collect::<Vec<_>>(), ["a/0"], "this call is the probe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sick_servers_are_asked_when_there_is_nobody_else() {
    let module = Module::start(&[("a", 1)]).await;
    let client = module.client().await;
    module.server("a", 0).state().mood = Mood::Fails(ErrorKind::Unavailable);
    for _ in 0..5 {
        let error = read(&client, &keys()).await.expect_err("the only server fails");
        assert!(
            matches!(&error, ClientError::Unavailable(message) if message.contains("as the test wishes")),
            "{error}"
        );
    }
    module.server("a", 0).state().mood = Mood::Well;
    read(&client, &keys()).await.expect("it is asked although ejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_its_deadline() {
    let module = Module::start(&[("a", 1)]).await;
    let client = module.client().await;
    module.server("a", 0).state().mood = Mood::Hangs;
    let deadline = Duration::from_millis(50);
    let options = ReadOptions { deadline: Some(deadline), ..ReadOptions::default() };
    let error = client.get(TABLE, Keys::U64(&keys()), &options).await.expect_err("it hangs");
    assert_eq!(error, ClientError::DeadlineExceeded(deadline));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excluded_slots_and_inactive_sects_get_no_reads() {
    let mut module = Module::start(&[("a", 2), ("b", 2), ("c", 2)]).await;
    let mut topology = module.topology.clone();
    topology.tables.get_mut(TABLE).expect("it is there").excluded.insert(slot("a", 1));
    topology.sects.get_mut("b").expect("it is there").state = SectState::Joining;
    module.topology = topology;
    module.tell(&module.topology);
    let client = module.client().await;
    read(&client, &keys()).await.expect("sect c stands in");
    let asked = module.take_asked();
    assert_eq!(asked.keys().map(String::as_str).collect::<Vec<_>>(), ["a/0", "c/1"]);
}

/// Sect a is replaced by one of other servers and another number of roles. The client still routes by the old topology,
/// where old servers answer for a part of their former keys or for none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_topology_is_fetched_when_servers_disown_keys() {
    let module = Module::start(&[("a", 2), ("n", 3)]).await;
    let mut old = module.topology.clone();
    old.sects.get_mut("n").expect("it is there").state = SectState::Joining;
    module.tell(&old);
    let client = module.client().await;
    read(&client, &keys()).await.expect("sect a answers");
    module.take_asked();

    let mut new = module.topology.clone();
    new.generation = 2;
    new.sects.get_mut("a").expect("it is there").state = SectState::Retired;
    module.tell(&new);
    // Its first server keeps some of its parts for a while, its second has none left.
    module.server("a", 0).state().owns = vec![(8, 0)];
    module.server("a", 1).state().owns.clear();
    read(&client, &keys()).await.expect("sect n answers");
    assert_eq!(client.topology().generation, 2);
    module.take_asked();
    read(&client, &keys()).await.expect("sect n answers");
    let asked: Vec<String> = module.take_asked().into_keys().collect();
    assert_eq!(asked, ["n/0", "n/1", "n/2"], "the retired sect is not asked any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_generation_in_a_reply_has_the_topology_fetched_in_the_background() {
    let module = Module::start(&[("a", 1)]).await;
    let client = module.client().await;
    let mut newer = module.topology.clone();
    newer.generation = 7;
    module.tell(&newer);
    read(&client, &keys()).await.expect("nothing else has changed");
    while client.topology().generation != 7 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_the_others_does_not_take_the_topology_back() {
    let module = Module::start(&[("a", 1)]).await;
    let mut newer = module.topology.clone();
    newer.generation = 5;
    module.tell(&newer);
    let client = module.client().await;
    module.tell(&module.topology);
    assert_eq!(client.refresh().await.expect("a server answers").generation, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_table_is_looked_for_and_then_named() {
    let module = Module::start(&[("a", 1), ("b", 1)]).await;
    let client = module.client().await;
    let options = ReadOptions::default();
    let error = client.get("nowhere", Keys::U64(&[1]), &options).await.expect_err("there is none");
    assert_eq!(error, ClientError::UnknownTable { table: "nowhere".to_owned() });

    // Created since the topology was fetched, and so far known to one server only.
    let mut newer = module.topology.clone();
    let view = newer.tables[TABLE].clone();
    newer.tables.insert("nowhere".to_owned(), fkv_client::TableView { uid: TableUid(77), ..view });
    module.server("b", 0).state().topology = newer;
    for server in module.servers() {
        server.state().tables.insert(77, Holding { aligned: Some(shown(4, 4)), held: vec![shown(4, 4)] });
    }
    let answer = client.get("nowhere", Keys::U64(&keys()), &options).await.expect("found at the second server");
    check_content(&answer, &keys(), content(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_is_read_under_its_new_uid_without_the_old_floor() {
    let module = Module::start(&[("a", 2)]).await;
    module.show_all(shown(9, 9), &[]);
    let client = module.client().await;
    read(&client, &keys()).await.expect("the old table");
    let mut newer = module.topology.clone();
    newer.tables.get_mut(TABLE).expect("it is there").uid = TableUid(11);
    module.tell(&newer);
    for server in module.servers() {
        let made_again = Holding { aligned: Some(shown(1, 1)), held: vec![shown(1, 1)] };
        server.state().tables = BTreeMap::from([(11, made_again)]);
    }
    let answer = read(&client, &keys()).await.expect("the new table");
    assert_eq!((answer.label.table, answer.label.content), (TableUid(11), content(1)));

    let mut gone = newer.clone();
    gone.tables.clear();
    module.tell(&gone);
    module.servers().for_each(|server| server.state().tables.clear());
    let error = read(&client, &keys()).await.expect_err("it is gone");
    assert_eq!(error, ClientError::UnknownTable { table: TABLE.to_owned() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_nobody_has_loaded_is_said_to_be_so() {
    let module = Module::start(&[("a", 2), ("b", 1)]).await;
    module.servers().for_each(|server| drop(server.state().tables.insert(UID, Holding::default())));
    let client = module.client().await;
    let error = read(&client, &keys()).await.expect_err("nothing is loaded");
    assert!(matches!(&error, ClientError::NotLoaded { table, .. } if table == TABLE), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_would_be_too_large_are_asked_for_in_halves() {
    let module = Module::start(&[("a", 2)]).await;
    let client = module.client().await;
    module.servers().for_each(|server| server.state().mood = Mood::Sparing(7));
    let keys: Vec<u64> = (0..200).collect();
    read(&client, &keys).await.expect("seven at a time");
    module.servers().for_each(|server| server.state().mood = Mood::Allows(7));
    read(&client, &keys).await.expect("seven at a time");
    module.servers().for_each(|server| server.state().mood = Mood::Sparing(0));
    let error = read(&client, &keys).await.expect_err("not even one fits");
    assert!(matches!(error, ClientError::BatchTooLarge(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_does_not_fit_beside_a_large_section_is_asked_for_alone() {
    let module = Module::start(&[("a", 1)]).await;
    let mut topology = module.topology.clone();
    let view = topology.tables[TABLE].clone();
    topology.tables.insert("second".to_owned(), fkv_client::TableView { uid: TableUid(21), ..view });
    let holding = Holding { aligned: Some(shown(2, 2)), held: vec![shown(2, 2)] };
    module.server("a", 0).state().tables.insert(21, holding);
    module.tell(&topology);
    let client = module.client().await;
    let keys = keys();
    module.server("a", 0).state().mood = Mood::Cramped(keys.len());
    let reads = [
        TableRead { table: TABLE, keys: Keys::U64(&keys) },
        TableRead { table: "second", keys: Keys::U64(&keys[..1]) },
    ];
    let answer = client.batch_get(&reads, &ReadOptions::default()).await.expect("each fits alone");
    check_content(&answer.tables[0], &keys, content(1));
    check_content(&answer.tables[1], &keys[..1], content(2));
    assert_eq!(answer.effort.requests, 2, "the second table was asked for again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_groups_are_divided_and_small_ones_travel_together() {
    let module = Module::start(&[("a", 1)]).await;
    let mut topology = module.topology.clone();
    for (name, uid) in [("second", 21), ("third", 22)] {
        let view = topology.tables[TABLE].clone();
        topology.tables.insert(name.to_owned(), fkv_client::TableView { uid: TableUid(uid), ..view });
        let holding = Holding { aligned: Some(shown(2, 2)), held: vec![shown(2, 2)] };
        module.server("a", 0).state().tables.insert(uid, holding);
    }
    module.tell(&topology);
    let mut config = module.config();
    config.keys_per_rpc_max = 100;
    let client = module.client_with(config).await;
    let keys: Vec<u64> = (0..250).collect();
    let reads = [
        TableRead { table: TABLE, keys: Keys::U64(&keys) },
        TableRead { table: "second", keys: Keys::U64(&keys[..30]) },
        TableRead { table: "third", keys: Keys::U64(&[]) },
    ];
    let answer = client.batch_get(&reads, &ReadOptions::default()).await.expect("all is well");
    check_content(&answer.tables[0], &keys, content(1));
    check_content(&answer.tables[1], &keys[..30], content(2));
    assert!(answer.tables[2].is_empty());
    assert_eq!(answer.tables[2].label.content, content(2), "no keys, but a label");
    assert_eq!(answer.effort.requests, 3, "100, 100, and 50 with the other tables");
    let asked: Vec<_> = module.take_asked().remove("a/0").expect("asked").iter().map(|asked| asked.keys).collect();
    assert_eq!(asked.iter().sum::<usize>(), 280);
    assert!(asked.iter().all(|keys| *keys <= 100), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_make_no_sense_are_refused_before_anything_is_sent() {
    let module = Module::start(&[("a", 1)]).await;
    let mut config = module.config();
    config.keys_per_call_max = 10;
    let client = module.client_with(config).await;
    let options = ReadOptions::default();
    let error = client.get(TABLE, Keys::Bytes(&[b"x"]), &options).await.expect_err("keys are u64");
    assert_eq!(error, ClientError::WrongKeyType { table: TABLE.to_owned(), declared: KeyType::U64 });
    let error = client.get(TABLE, Keys::U64(&[0; 11]), &options).await.expect_err("11 keys");
    assert!(matches!(error, ClientError::BatchTooLarge(_)), "{error}");
    let twice = [TableRead { table: TABLE, keys: Keys::U64(&[1]) }, TableRead { table: TABLE, keys: Keys::U64(&[2]) }];
    assert!(matches!(client.batch_get(&twice, &options).await, Err(ClientError::BadRequest(_))));
    assert!(matches!(client.batch_get(&[], &options).await, Err(ClientError::BadRequest(_))));
    let long = vec![0; 2000];
    let error = client.get(TABLE, Keys::Bytes(&[&long]), &options).await.expect_err("a key of 2000 bytes");
    assert!(matches!(error, ClientError::BadRequest(_)), "{error}");
    assert!(module.take_asked().is_empty());
    module.server("a", 0).state().mood = Mood::Refuses(SectionStatus::WrongValueForm);
    let options = ReadOptions { form: ValueForm::F16, ..options };
    let error = client.get(TABLE, Keys::U64(&[1]), &options).await.expect_err("bytes are no floats");
    assert!(matches!(error, ClientError::BadRequest(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_keys_and_vectors_come_back_in_order() {
    let value = ValueType::F32(3);
    let module = Module::start_with(&[("a", 3)], KeyType::Bytes, value).await;
    let client = module.client().await;
    let names: Vec<String> = (0..100).map(|number| format!("user:{number}")).collect();
    let keys: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    let answer = client.get(TABLE, Keys::Bytes(&keys), &ReadOptions::default()).await.expect("all is well");
    let rows = answer.f32_rows().expect("vectors of f32");
    assert_eq!(rows.len(), keys.len() * 3);
    for (position, key) in keys.iter().enumerate() {
        let row: Vec<u8> =
            rows[position * 3..position * 3 + 3].iter().flat_map(|number| number.to_le_bytes()).collect();
        let h = hash_bytes(key);
        if answer.status(position) == KeyStatus::Found {
            assert_eq!(row, value_of(content(1), h, value));
            assert_eq!(answer.f32s(position).expect("found").len(), 3);
        } else {
            assert_eq!(row, [0; 12], "zeros where there is no value");
            assert_eq!(answer.f32s(position), None);
        }
        let found = status_of(h) == fkv_rpc::packed::KeyStatus::Found;
        assert_eq!(answer.status(position) == KeyStatus::Found, found);
    }
    assert!(answer.found_count() > 0 && answer.i64(0).is_none() && answer.bytes(0).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_preference_calls_spread_over_sects() {
    let module = Module::start(&[("a", 1), ("b", 1)]).await;
    let mut config = module.config();
    config.sect = None;
    let client = module.client_with(config).await;
    for _ in 0..40 {
        read(&client, &keys()).await.expect("all is well");
    }
    let asked = module.take_asked();
    assert_eq!(asked.len(), 2, "both were asked: {asked:?}");
    assert!(asked.values().flatten().all(|asked| asked.selector == Selector::Aligned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_needs_one_endpoint_that_answers() {
    let module = Module::start(&[("a", 1)]).await;
    let mut config = module.config();
    config.endpoints.insert(0, "127.0.0.1:1".to_owned());
    let client = module.client_with(config.clone()).await;
    read(&client, &keys()).await.expect("all is well");
    config.endpoints.truncate(1);
    let error = fkv_client::Client::connect(module.env.clone(), config.clone()).await.expect_err("nobody there");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    config.endpoints = vec!["not an address".to_owned()];
    assert!(fkv_client::Client::connect(module.env.clone(), config.clone()).await.is_err());
    config.endpoints.clear();
    let error = fkv_client::Client::connect(module.env.clone(), config).await.expect_err("no endpoints");
    assert!(matches!(error, ClientError::BadRequest(_)), "{error}");
}

#[test]
fn the_blocking_client_reads_from_several_threads() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime for the servers");
    let module = runtime.block_on(Module::start(&[("a", 2)]));
    let client = blocking::Client::connect(Env::real(1).expect("a pool"), module.config()).expect("it connects");
    let keys = keys();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let answer = client.get(TABLE, Keys::U64(&keys), &ReadOptions::default()).expect("all is well");
                check(&answer, &keys);
                assert_eq!(answer.status(0) == KeyStatus::Found, hash_u64(keys[0]) % 5 > 1);
            });
        }
    });
    assert_eq!(client.topology().module, "test");
}
