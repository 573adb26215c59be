//! The contract of `ObjectStore`, for every store.

use fkv_env::Env;
use fkv_store::testing::S3Process;
use fkv_store::{Limits, Store, StoreOptions, WriteOptions, limited, open};
use tempfile::TempDir;

/// Small parts, so that a few megabytes are several.
const WRITE: WriteOptions = WriteOptions { part_bytes: 5 << 20, parts_in_flight: 2 };

fn env() -> Env {
    Env::real(1).expect("threads start")
}

async fn file_store() -> (Store, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("file://{}/not/made/yet", dir.path().display());
    (open(&env(), &url, &StoreOptions::default()).expect("a store"), dir)
}

async fn s3_store() -> (Store, S3Process) {
    let server = S3Process::start(&env()).await;
    let options = StoreOptions { write: WRITE, ..server.options() };
    (open(&env(), &server.url("some/prefix"), &options).expect("a store"), server)
}

async fn s3_bucket() -> (Store, S3Process) {
    let server = S3Process::start(&env()).await;
    let options = StoreOptions { write: WRITE, ..server.options() };
    (open(&env(), &server.url(""), &options).expect("a store"), server)
}

async fn limited_file_store() -> (Store, TempDir) {
    let (store, dir) = file_store().await;
    // As tight as can be: what waits for itself would wait for ever.
    (limited(store, Limits { requests_max: 1, bytes_max: 1 }), dir)
}

mod file {
    fkv_store::contract_tests! { super::file_store }
}

mod file_limited {
    fkv_store::contract_tests! { super::limited_file_store }
}

mod s3_prefix {
    fkv_store::contract_tests! { super::s3_store }
}

mod s3_whole_bucket {
    fkv_store::contract_tests! { super::s3_bucket }
}
