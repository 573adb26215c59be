//! `file://`: durability, links, what crashes leave behind.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fkv_env::{Env, Spawn, TaskHandle, TokioSpawn};
use fkv_store::{ObjectMeta, Store, StoreError, StoreOptions, open};
use futures::StreamExt;
use futures::future::BoxFuture;
use tempfile::TempDir;

use crate::recording_files::RecordingFiles;

fn env() -> Env {
    Env::real(1).expect("threads start")
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open_in(env: &Env, dir: &Path) -> Store {
    open(env, &format!("file://{}", dir.display()), &StoreOptions::default()).expect("a store")
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What the temporary folder of the store in `dir` holds.
fn leftovers(dir: &Path) -> usize {
    std::fs::read_dir(dir.join(".fkv-tmp")).map_or(0, Iterator::count)
}

/// The objects and the errors of a listing, sorted.
async fn listed(store: &Store) -> (Vec<String>, Vec<String>) {
    let all: Vec<Result<ObjectMeta, StoreError>> = store.list("").collect().await;
    let mut objects: Vec<String> = all.iter().flatten().map(|meta| meta.path.clone()).collect();
    let mut errors: Vec<String> =
        all.iter().filter_map(|found| found.as_ref().err()).map(ToString::to_string).collect();
    objects.sort();
    errors.sort();
    (objects, errors)
}

/// Renaming a file whose bytes are not on disk can show an empty object after a power cut; a folder that is not synced
/// can lose the whole object.
#[tokio::test]
async fn an_object_is_on_disk_before_it_shows_and_its_name_before_the_write_returns() {
    let dir = temporary();
    let (env, files) = RecordingFiles::world(dir.path());
    let store = open_in(&env, &dir.path().join("new/root"));
    store.put("a/b/x", bytes("1")).await.expect("written");
    let expected = [
        // The root, with what was missing above it.
        "sync-dir ",
        "sync-dir new",
        "create new/root/TMP",
        "write new/root/TMP",
        "sync new/root/TMP",
        "sync-dir new/root",
        "sync-dir new/root/a",
        "rename new/root/TMP new/root/a/b/x",
        "sync-dir new/root/a/b",
    ];
    assert_eq!(files.take_log(), expected);

    let mut writer = store.writer("a/b/y").await.expect("a writer");
    writer.write(bytes("2")).await.expect("written");
    writer.finish().await.expect("finished");
    let expected = [
        "create new/root/TMP",
        "write new/root/TMP",
        "sync new/root/TMP",
        "rename new/root/TMP new/root/a/b/y",
        "sync-dir new/root/a/b",
    ];
    assert_eq!(files.take_log(), expected, "known folders are not synced again");
}

/// A folder that was emptied, removed and made again must be synced again.
#[tokio::test]
async fn a_folder_made_again_is_synced_again() {
    let dir = temporary();
    let (env, files) = RecordingFiles::world(dir.path());
    let store = open_in(&env, dir.path());
    store.put("a/x", bytes("1")).await.expect("written");
    store.delete("a/x").await.expect("deleted");
    assert!(!dir.path().join("a").exists(), "the empty folder went");
    files.take_log();
    store.put("a/x", bytes("1")).await.expect("written");
    assert!(files.take_log().contains(&"sync-dir ".to_owned()));

    // Removed by somebody else, unknown to this store.
    std::fs::remove_dir_all(dir.path().join("a")).expect("removed");
    store.put("a/y", bytes("2")).await.expect("written");
    let log = files.take_log();
    let synced = log.iter().rposition(|line| line == "sync-dir ").expect("synced");
    let renamed = log.iter().rposition(|line| line.starts_with("rename")).expect("renamed");
    assert!(synced < renamed, "{log:?}");
}

#[tokio::test]
async fn a_write_that_fails_shows_nothing_and_leaves_nothing() {
    for (line, kind) in [
        ("create TMP", io::ErrorKind::PermissionDenied),
        ("rename TMP a/x", io::ErrorKind::StorageFull),
        ("sync-dir ", io::ErrorKind::StorageFull),
    ] {
        let dir = temporary();
        let (env, files) = RecordingFiles::world(dir.path());
        let store = open_in(&env, dir.path());
        files.fail(line, kind);
        let error = store.put("a/x", bytes("1")).await.expect_err(line);
        assert!(error.to_string().contains("/a/x") && error.to_string().contains("injected"), "{error}");
        assert_eq!(matches!(error, StoreError::Denied { .. }), kind == io::ErrorKind::PermissionDenied, "{error:?}");
        assert!(matches!(store.get("a/x").await, Err(StoreError::NotFound { .. })), "{line}");
        assert_eq!(leftovers(dir.path()), 0, "{line}");
    }
}

/// After the rename the object shows, so saying that it failed would be wrong, and that it is safe would be too.
#[tokio::test]
async fn a_name_that_cannot_be_synced_is_an_unknown_outcome() {
    let dir = temporary();
    let (env, files) = RecordingFiles::world(dir.path());
    let store = open_in(&env, dir.path());
    files.fail("sync-dir a", io::ErrorKind::StorageFull);
    let error = store.put("a/x", bytes("1")).await.expect_err("not synced");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(store.get("a/x").await.expect("it shows"), "1");
}

#[tokio::test]
async fn a_crash_leaves_only_temporary_files_and_old_ones_are_swept() {
    let dir = temporary();
    let store = open_in(&env(), dir.path());
    store.put("x", bytes("1")).await.expect("written");
    let mut writer = store.writer("y").await.expect("a writer");
    writer.write(Bytes::from(vec![7; 2 << 20])).await.expect("written");
    // A crash runs no destructor.
    std::mem::forget(writer);
    assert_eq!(leftovers(dir.path()), 1);

    let store = open_in(&env(), dir.path());
    assert_eq!(listed(&store).await, (vec!["x".to_owned()], vec![]));
    assert!(matches!(store.get("y").await, Err(StoreError::NotFound { .. })));
    store.put("z", bytes("2")).await.expect("written");
    assert_eq!(leftovers(dir.path()), 1, "it may belong to a living writer");

    let leftover = std::fs::read_dir(dir.path().join(".fkv-tmp")).expect("readable").next().expect("one").expect("one");
    let file = std::fs::File::options().write(true).open(leftover.path()).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).expect("set");
    let store = open_in(&env(), dir.path());
    store.put("z", bytes("3")).await.expect("written");
    assert_eq!(leftovers(dir.path()), 0, "it belongs to nobody");
}

/// Starts blocking calls at once, or holds them until they are let go.
#[derive(Default)]
struct HeldCalls {
    holding: AtomicBool,
    held: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl HeldCalls {
    fn let_go(&self) {
        self.holding.store(false, Ordering::SeqCst);
        for call in self.held.lock().expect("no panic while held").drain(..) {
            TokioSpawn.blocking(call);
        }
    }
}

impl std::fmt::Debug for HeldCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldCalls").field("holding", &self.holding).finish_non_exhaustive()
    }
}

impl Spawn for HeldCalls {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        TokioSpawn.spawn(name, future)
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        if self.holding.load(Ordering::SeqCst) {
            self.held.lock().expect("no panic while held").push(work);
        } else {
            TokioSpawn.blocking(work);
        }
    }
}

/// The future of a write may be dropped at any point, by a time limit for instance.
#[tokio::test]
async fn a_write_given_up_half_way_spoils_the_writer_and_leaves_nothing() {
    let dir = temporary();
    let calls = Arc::new(HeldCalls::default());
    let store = open_in(&Env { spawn: calls.clone(), ..env() }, dir.path());
    let mut writer = store.writer("x").await.expect("a writer");
    calls.holding.store(true, Ordering::SeqCst);
    {
        let mut write = writer.write(Bytes::from(vec![7; 8 << 20]));
        assert!(futures::poll!(&mut write).is_pending(), "it has gone to another thread");
    }
    calls.let_go();
    let error = writer.write(bytes("more")).await.expect_err("bytes may be missing");
    assert!(error.to_string().contains("given up"), "{error}");
    let error = writer.finish().await.expect_err("bytes may be missing");
    assert!(error.to_string().contains("given up"), "{error}");
    assert!(matches!(store.get("x").await, Err(StoreError::NotFound { .. })));
    // The thread that wrote removes the file when it is done.
    let clock = env().clock;
    while leftovers(dir.path()) > 0 {
        clock.sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_link_out_of_the_store_is_refused_for_reading_writing_listing_and_deleting() {
    let (dir, outside) = (temporary(), temporary());
    std::fs::write(outside.path().join("secret"), "s").expect("written");
    std::fs::create_dir(dir.path().join("d")).expect("made");
    symlink(outside.path(), dir.path().join("out")).expect("linked");
    symlink(outside.path().join("secret"), dir.path().join("d/file")).expect("linked");
    let store = open_in(&env(), dir.path());

    for path in ["out/secret", "d/file"] {
        for error in [
            store.get(path).await.map(drop).expect_err(path),
            store.get_range(path, 0..1).await.map(drop).expect_err(path),
            store.head(path).await.map(drop).expect_err(path),
        ] {
            assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
            assert!(error.to_string().contains("leads out of the store"), "{error}");
        }
    }
    for path in ["out/new", "out/deeper/new"] {
        assert!(matches!(store.put(path, bytes("x")).await, Err(StoreError::Denied { .. })), "{path}");
    }
    assert!(matches!(store.delete("out/secret").await, Err(StoreError::Denied { .. })));
    assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 1, "nothing made, nothing removed");

    store.put("good", bytes("g")).await.expect("written");
    let (objects, errors) = listed(&store).await;
    assert_eq!(objects, ["good"], "the listing goes on");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("leads out of the store")), "{errors:?}");

    // A link itself can be replaced and removed; what it leads to stays.
    store.put("d/file", bytes("mine")).await.expect("written");
    assert_eq!(store.get("d/file").await.expect("read"), "mine");
    store.delete("out").await.expect("removed");
    assert_eq!(std::fs::read(outside.path().join("secret")).expect("there"), b"s");
}

#[tokio::test]
async fn links_within_the_store_are_read_but_no_folder_is_found_twice() {
    let dir = temporary();
    let store = open_in(&env(), dir.path());
    store.put("a/x", bytes("1")).await.expect("written");
    symlink("a/x", dir.path().join("same")).expect("linked");
    symlink("a", dir.path().join("b")).expect("linked");
    symlink(".", dir.path().join("a/loop")).expect("linked");
    symlink("nowhere", dir.path().join("dangling")).expect("linked");
    assert_eq!(store.get("same").await.expect("read"), "1");
    assert_eq!(store.get("b/x").await.expect("read"), "1");
    let (objects, errors) = listed(&store).await;
    assert_eq!(objects, ["a/x", "same"]);
    let said = |text: &str| errors.iter().filter(|error| error.contains(text)).count();
    assert_eq!((said("not followed"), said("leads nowhere"), errors.len()), (2, 1, 3), "{errors:?}");
}

#[tokio::test]
async fn the_root_itself_may_be_a_link() {
    let (dir, real) = (temporary(), temporary());
    symlink(real.path(), dir.path().join("root")).expect("linked");
    let store = open_in(&env(), &dir.path().join("root"));
    store.put("a/x", bytes("1")).await.expect("written");
    assert_eq!(listed(&store).await.0, ["a/x"]);
    assert!(real.path().join("a/x").exists());
}

/// Opening a pipe waits for whoever writes into it.
#[tokio::test]
async fn what_is_no_regular_file_is_refused_at_once() {
    let dir = temporary();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    let store = open_in(&env(), dir.path());
    let error = store.get("pipe").await.expect_err("a pipe");
    assert!(error.to_string().contains("not a regular file"), "{error}");
    let (objects, errors) = listed(&store).await;
    assert_eq!(objects, [""; 0]);
    assert!(errors[0].contains("not a regular file"), "{errors:?}");
    store.put("folder/x", bytes("1")).await.expect("written");
    assert!(matches!(store.get("folder").await, Err(StoreError::NotFound { .. })), "a folder is no object");
    store.delete("folder").await.expect("a folder is no object");
    assert_eq!(store.get("folder/x").await.expect("still there"), "1");
}

#[tokio::test]
async fn a_name_that_is_no_path_is_reported_and_not_left_out() {
    let dir = temporary();
    let store = open_in(&env(), dir.path());
    store.put("good", bytes("1")).await.expect("written");
    std::fs::write(dir.path().join("back\\slash"), "x").expect("written");
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"latin-\xe9")), "x").expect("written");
    let (objects, errors) = listed(&store).await;
    assert_eq!(objects, ["good"]);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("backslash")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("not UTF-8")), "{errors:?}");
}

#[tokio::test]
async fn an_object_below_an_object_is_refused_with_a_reason() {
    let dir = temporary();
    let store = open_in(&env(), dir.path());
    store.put("a", bytes("1")).await.expect("written");
    for path in ["a/b", "a/b/c"] {
        let error = store.put(path, bytes("2")).await.expect_err(path);
        assert!(error.to_string().contains("`a` on the way is an object"), "{error}");
        assert!(matches!(store.get(path).await, Err(StoreError::NotFound { .. })));
    }
    store.put("d/x", bytes("1")).await.expect("written");
    let error = store.put("d", bytes("2")).await.expect_err("a folder");
    assert!(error.to_string().contains("a folder of this name"), "{error}");
    assert_eq!(leftovers(dir.path()), 0);
}

/// Same length, same millisecond even: the tag tells.
#[tokio::test]
async fn a_file_rewritten_in_place_or_replaced_is_noticed() {
    let dir = temporary();
    let store = open_in(&env(), dir.path());
    let file = dir.path().join("x");
    std::fs::write(&file, "one").expect("written");
    let noted = store.head("x").await.expect("known");

    let modified = std::fs::metadata(&file).expect("known").modified().expect("known");
    std::fs::write(dir.path().join("y"), "two").expect("written");
    std::fs::rename(dir.path().join("y"), &file).expect("renamed");
    std::fs::File::options().write(true).open(&file).expect("opened").set_modified(modified).expect("set");
    let error = store.get_range_of(&noted, 0..3).await.expect_err("another file");
    assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");

    let noted = store.head("x").await.expect("known");
    assert_eq!(store.get_range_of(&noted, 0..3).await.expect("as noted"), "two");
    let file = std::fs::File::options().write(true).open(&file).expect("opened");
    file.set_modified(modified + Duration::from_nanos(1000)).expect("set");
    assert!(store.get_range_of(&noted, 0..3).await.is_err());
}
