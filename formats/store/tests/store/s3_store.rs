//! `s3://` against a real server that checks signatures.

use bytes::Bytes;
use fkv_env::Env;
use fkv_store::testing::S3Process;
use fkv_store::testing::suite::noise;
use fkv_store::{NetworkOptions, S3Options, Secret, StoreError, StoreOptions, WriteOptions, open};
use futures::StreamExt;

fn env() -> Env {
    Env::real(1).expect("threads start")
}

#[tokio::test]
async fn a_wrong_key_is_denied_and_not_repeated() {
    let server = S3Process::start(&env()).await;
    let good = server.options();
    let store = open(&env(), &server.url("p"), &good).expect("a store");
    store.put("x", Bytes::from_static(b"1")).await.expect("the right key");

    let wrong_secret = S3Options { secret_access_key: Some(Secret::new("guessed-secret")), ..good.s3.clone() };
    let wrong_id = S3Options { access_key_id: Some(Secret::new("GUESSED")), ..good.s3.clone() };
    for s3 in [wrong_secret, wrong_id] {
        let options = StoreOptions { s3, ..good.clone() };
        let store = open(&env(), &server.url("p"), &options).expect("a store");
        for error in [
            store.get("x").await.map(drop).expect_err("get"),
            store.get_range("x", 0..1).await.map(drop).expect_err("get_range"),
            store.put("x", Bytes::from_static(b"2")).await.expect_err("put"),
            store.delete("x").await.expect_err("delete"),
        ] {
            assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
            assert!(!error.to_string().contains("guessed"), "{error}");
        }
        assert!(!format!("{store:?} {options:?}").contains("guessed"), "{store:?}");
    }
    assert_eq!(store.get("x").await.expect("read"), "1");
    assert!(!format!("{store:?}").contains(server.keys().1), "{store:?}");
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_not_a_missing_object() {
    let server = S3Process::start(&env()).await;
    let store = open(&env(), "s3://no-such-bucket", &server.options()).expect("a store");
    let listed: Vec<_> = store.list("").collect().await;
    let [Err(error)] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    assert!(matches!(error, StoreError::Other { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_comes_back() {
    let mut server = S3Process::start(&env()).await;
    let network = NetworkOptions { retries_max: 1, ..server.options().network };
    let options = StoreOptions { network, ..server.options() };
    let store = open(&env(), &server.url("p"), &options).expect("a store");
    store.put("x", Bytes::from_static(b"1")).await.expect("written");
    server.stop();
    for error in [
        store.get("x").await.map(drop).expect_err("get"),
        store.put("x", Bytes::from_static(b"2")).await.expect_err("put"),
        store.head("x").await.map(drop).expect_err("head"),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
    server.start_again(&env()).await;
    assert_eq!(store.get("x").await.expect("read"), "1");
}

/// The server keeps the parts of unfinished uploads as files.
#[tokio::test]
async fn an_upload_given_up_leaves_no_parts_with_the_server() {
    let env = env();
    let server = S3Process::start(&env).await;
    let write = WriteOptions { part_bytes: 5 << 20, parts_in_flight: 2 };
    let options = StoreOptions { write, ..server.options() };
    let store = open(&env, &server.url("p"), &options).expect("a store");
    let parts = || {
        let entries = std::fs::read_dir(server.data_dir()).expect("readable");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("upload")).collect::<Vec<_>>()
    };
    let mut writer = store.writer("x").await.expect("a writer");
    writer.write(noise(11 << 20, 1)).await.expect("written");
    while parts().is_empty() {
        env.clock.sleep(std::time::Duration::from_millis(1)).await;
    }
    writer.abort().await;
    assert_eq!(parts(), [""; 0]);

    let mut writer = store.writer("x").await.expect("a writer");
    writer.write(noise(11 << 20, 1)).await.expect("written");
    writer.finish().await.expect("finished");
    assert_eq!(parts(), [""; 0]);
    assert_eq!(store.head("x").await.expect("known").len, 11 << 20);
}

#[tokio::test]
async fn options_that_do_not_fit_are_refused_when_opening() {
    let env = env();
    let keys = S3Options {
        endpoint: Some("http://127.0.0.1:1".into()),
        access_key_id: Some(Secret::new("id")),
        secret_access_key: Some(Secret::new("key")),
        ..S3Options::default()
    };
    let write = WriteOptions { part_bytes: 1 << 20, parts_in_flight: 4 };
    let options = StoreOptions { s3: keys, write, ..StoreOptions::default() };
    let error = open(&env, "s3://bucket", &options).expect_err("parts are too small");
    assert!(error.to_string().contains("5242880"), "{error}");
}
