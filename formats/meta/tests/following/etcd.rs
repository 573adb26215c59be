use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::Env;
use fkv_meta::etcd::EtcdStore;
use fkv_meta::key::Keys;
use fkv_meta::mirror::Mirror;
use fkv_meta::store::{MetaError, MetaStore, Op, Txn, TxnOutcome};
use fkv_meta::testing::EtcdProcess;
use fkv_meta::{Meta, OpenError, View, open, txn};

fn env() -> Env {
    Env::real(1).expect("threads start")
}

fn put(key: &str) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Put { key: key.into(), value: Bytes::from_static(b"x"), lease: None }] }
}

/// An address where nobody listens: bound and given up again.
fn nobody() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_never_sent_is_not_ambiguous() {
    let store = EtcdStore::connect(&env(), &[&nobody()]).expect("good endpoints");
    let unavailable = |error: Option<MetaError>| matches!(error, Some(MetaError::Unavailable(_)));
    let outcome = store.txn(put("/a")).await;
    assert!(unavailable(outcome.clone().err()), "{outcome:?}");
    assert!(unavailable(store.get("/a").await.err()));
    assert!(unavailable(store.list("/", None).await.err()));
    assert!(unavailable(store.grant(std::time::Duration::from_secs(5)).await.err()));
    assert!(unavailable(store.watch("/", fkv_meta::store::Revision(1)).await.err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_ambiguous() {
    // A server that takes connections and never says a word.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let silent = listener.local_addr().expect("bound").to_string();
    let store = EtcdStore::connect(&env(), &[&silent]).expect("good endpoints");
    let (write, read) = tokio::join!(store.txn(put("/a")), store.get("/a"));
    assert!(matches!(write, Err(MetaError::Ambiguous(_))), "{write:?}");
    assert!(matches!(read, Err(MetaError::Unavailable(_))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_endpoint_is_asked_when_one_is_down() {
    let process = EtcdProcess::start().await;
    let store = EtcdStore::connect(&env(), &[&nobody(), &process.endpoint()]).expect("good endpoints");
    let TxnOutcome::Committed(revision) = store.txn(put("/a")).await.expect("the other one is up") else {
        panic!("no condition");
    };
    assert_eq!(store.get("/a").await.expect("read").map(|entry| entry.modified), Some(revision));
    assert!(store.watch("/", revision).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_survives_the_death_of_etcd_and_goes_on() {
    let env = env();
    let mut process = EtcdProcess::start().await;
    let store = open(&env, &process.url(), Path::new("/unused")).await.expect("opened");
    let meta = Meta::new(Arc::clone(&store), Keys::new("m").expect("a good name"));
    let table = |name: &str| {
        let (meta, name) = (meta.clone(), name.to_owned());
        async move {
            let schema = fkv_formats::schema::Schema {
                kind: fkv_formats::schema::TableKind::Mem,
                key: fkv_formats::schema::KeyType::U64,
                value: fkv_formats::schema::ValueType::I64,
                storage: fkv_formats::schema::Storage::Native,
                f16_overflow: fkv_formats::schema::F16Overflow::Reject,
                ttl: false,
            };
            let retain_old = fkv_meta::record::RetainOld::Ram;
            let new = txn::NewTable { name, schema, retain_versions: 1, retain_old, filter: Default::default() };
            meta.change(|view| txn::create_table(view, new.clone(), 1)).await
        }
    };
    table("one").await.expect("created");
    let mirror = Mirror::start(&env, store, meta.keys.clone());
    mirror.wait_for(|view| view.connected() && view.table("one").is_some()).await;
    process.kill();
    let view = mirror.wait_for(|view| !view.connected()).await;
    assert!(view.table("one").is_some(), "what is known stays in use");
    assert!(table("two").await.is_err());
    process.restart().await.expect("started again");
    mirror.wait_for(View::connected).await;
    table("three").await.expect("created");
    let view = mirror.wait_for(|view| view.table("three").is_some()).await;
    assert!(view.table("one").is_some());
}

#[tokio::test]
async fn a_url_of_something_else_is_refused_with_what_is_expected() {
    let env = env();
    for bad in ["", "etcd://", "etcd://host", "etcd://host:x", "etcd://a:1,", "http://a:1", "embeded"] {
        let error = open(&env, bad, Path::new("/unused")).await.expect_err("refused");
        assert!(matches!(error, OpenError::BadUrl { .. }), "{bad}");
        assert!(error.to_string().contains("expected `embedded` or `etcd://"), "{error}");
    }
}
