//! Faults happen as they were ordered, so that tests built on them mean something.

use bytes::Bytes;
use fkv_env::Env;
use fkv_store::testing::{Fault, Faults, Operation};
use fkv_store::{StoreError, StoreOptions, open};
use futures::StreamExt;

#[tokio::test]
async fn a_fault_hits_the_calls_it_was_ordered_for_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let env = Env::real(1).expect("threads start");
    let url = format!("file://{}", dir.path().display());
    let faults = Faults::over(open(&env, &url, &StoreOptions::default()).expect("a store"));
    let store = faults.store();

    faults.fail(Operation::Put, "packs/", Fault::Unavailable, 1);
    store.put("other/x", Bytes::from_static(b"abc")).await.expect("another path");
    let error = store.put("packs/x", Bytes::from_static(b"abc")).await.expect_err("ordered");
    assert!(error.is_transient(), "{error:?}");
    assert!(matches!(store.get("packs/x").await, Err(StoreError::NotFound { .. })), "nothing was done");
    store.put("packs/x", Bytes::from_static(b"abc")).await.expect("once only");

    faults.fail(Operation::Put, "", Fault::AnswerLost, 1);
    let error = store.put("packs/y", Bytes::from_static(b"abc")).await.expect_err("ordered");
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(store.get("packs/y").await.expect("it was done"), "abc");

    faults.fail(Operation::Get, "packs/y", Fault::BitFlip, 2);
    let flipped = store.get("packs/y").await.expect("a silent fault");
    assert_eq!((flipped.len(), flipped == "abc"), (3, false));
    assert_ne!(store.get_range("packs/y", 0..2).await.expect("a silent fault"), "ab");
    assert_eq!(store.get_range("packs/y", 0..2).await.expect("healthy"), "ab");

    faults.fail(Operation::Finish, "", Fault::Denied, usize::MAX);
    let mut writer = store.writer("packs/z").await.expect("a writer");
    writer.write(Bytes::from_static(b"abc")).await.expect("written");
    assert!(matches!(writer.finish().await, Err(StoreError::Denied { .. })));
    assert!(matches!(store.get("packs/z").await, Err(StoreError::NotFound { .. })));
    faults.heal();
    store.writer("packs/z").await.expect("a writer").finish().await.expect("healed");

    faults.fail(Operation::List, "packs", Fault::Unavailable, 1);
    let listed: Vec<_> = store.list("packs").collect().await;
    assert!(matches!(listed.as_slice(), [Err(StoreError::Unavailable { .. })]), "{listed:?}");
    assert_eq!(faults.calls(Operation::List), ["packs"]);
    assert_eq!(faults.calls(Operation::Put), ["other/x", "packs/x", "packs/x", "packs/y"]);
}
