//! What every store does, as tests: [`contract_tests!`](crate::contract_tests) runs them against one.
//!
//! Each is given an empty store of its own.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::StoreError;
use crate::object::{ObjectMeta, Store};

/// Declares one test per contract. `$open` is an async function that returns an empty store and whatever must live as
/// long.
#[macro_export]
macro_rules! contract_tests {
    ($open:path) => {
        $crate::contract_tests! { $open:
            an_object_is_read_back_as_it_was_written
            what_is_known_of_an_object_is_the_same_by_head_and_by_list
            a_missing_object_is_not_found_and_names_its_url
            a_range_is_whole_or_an_error
            a_range_of_a_changed_object_is_refused
            listing_goes_by_whole_segments
            listing_pages_through_many_objects
            the_last_write_stands
            a_deleted_object_is_gone_and_deleting_none_is_fine
            a_bad_path_is_refused_by_every_call
            odd_names_survive
            a_writer_shows_nothing_until_it_finished
            a_writer_takes_pieces_of_any_size
            an_aborted_or_dropped_writer_leaves_nothing
            writers_and_deletes_in_one_folder_do_not_disturb_each_other
        }
    };
    ($open:path: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (store, _keep) = $open().await;
                $crate::testing::suite::$name(store).await;
            }
        )*
    };
}

/// `len` bytes that repeat nowhere near.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Bytes {
    // SplitMix64.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    Bytes::from(bytes)
}

async fn put(store: &Store, path: &str, bytes: impl Into<Bytes>) {
    store.put(path, bytes.into()).await.unwrap_or_else(|error| panic!("put {path}: {error}"));
}

async fn get(store: &Store, path: &str) -> Bytes {
    store.get(path).await.unwrap_or_else(|error| panic!("get {path}: {error}"))
}

async fn head(store: &Store, path: &str) -> ObjectMeta {
    store.head(path).await.unwrap_or_else(|error| panic!("head {path}: {error}"))
}

/// The paths in a folder, sorted.
async fn paths(store: &Store, prefix: &str) -> Vec<String> {
    let listed: Result<Vec<ObjectMeta>, StoreError> = store.list(prefix).try_collect().await;
    let listed = listed.unwrap_or_else(|error| panic!("list `{prefix}`: {error}"));
    let mut paths: Vec<String> = listed.into_iter().map(|meta| meta.path).collect();
    paths.sort();
    paths
}

async fn assert_missing(store: &Store, path: &str) {
    match store.get(path).await {
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => panic!("{path}: {error}"),
        Ok(bytes) => panic!("{path} is there with {} bytes", bytes.len()),
    }
}

/// An object is read back as it was written, the empty one too.
pub async fn an_object_is_read_back_as_it_was_written(store: Store) {
    for len in [0, 1, 63, 4096, 3_000_001] {
        let (path, bytes) = (format!("a/b/{len}"), noise(len, 1));
        put(&store, &path, bytes.clone()).await;
        assert_eq!(get(&store, &path).await, bytes, "{len} bytes");
    }
}

/// `head` and `list` agree on length and time, and on the tag where both have one.
pub async fn what_is_known_of_an_object_is_the_same_by_head_and_by_list(store: Store) {
    put(&store, "folder/x", noise(1234, 2)).await;
    let known = head(&store, "folder/x").await;
    assert_eq!((known.path.as_str(), known.len), ("folder/x", 1234));
    assert!(known.modified_ms > 1_600_000_000_000, "milliseconds, not seconds: {known:?}");
    let listed: Vec<ObjectMeta> = store.list("").try_collect().await.expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].difference(&known), None, "{listed:?} {known:?}");
    assert_eq!(known.difference(&listed[0]), None);
}

/// Reading what is not there is `NotFound`, with the whole URL.
pub async fn a_missing_object_is_not_found_and_names_its_url(store: Store) {
    let meta = ObjectMeta { path: "no/such".into(), len: 5, etag: None, modified_ms: 0 };
    for round in 0..2 {
        for error in [
            store.get("no/such").await.map(drop).expect_err("get"),
            store.get_range("no/such", 0..1).await.map(drop).expect_err("get_range"),
            store.get_range("no/such", 0..0).await.map(drop).expect_err("an empty range"),
            store.get_range_of(&meta, 0..1).await.map(drop).expect_err("get_range_of"),
            store.head("no/such").await.map(drop).expect_err("head"),
        ] {
            assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
            assert_eq!(error.path(), format!("{}/no/such", store.url()));
        }
        assert_eq!(paths(&store, "no").await, [""; 0], "round {round}");
        // Again in a store that is not empty.
        put(&store, "yes/such", "x").await;
    }
}

/// A range has all its bytes, or there is an error: never less.
pub async fn a_range_is_whole_or_an_error(store: Store) {
    let bytes = noise(100_000, 3);
    put(&store, "x", bytes.clone()).await;
    for range in [0..1, 0..100_000, 99_999..100_000, 4095..70_001, 0..0, 500..500, 100_000..100_000] {
        let read = store.get_range("x", range.clone()).await.unwrap_or_else(|error| panic!("{range:?}: {error}"));
        assert_eq!(read, bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    let upside_down = Range { start: 7, end: 3 };
    for range in [0..100_001, 99_999..100_001, 100_000..100_001, 100_001..100_001, 200_000..200_001, upside_down] {
        let error = store.get_range("x", range.clone()).await.map(drop).expect_err("it goes past the end");
        assert!(matches!(error, StoreError::Other { .. }), "{range:?}: {error:?}");
    }
    put(&store, "empty", "").await;
    assert_eq!(store.get_range("empty", 0..0).await.expect("nothing of nothing"), "");
    assert!(store.get_range("empty", 0..1).await.is_err());
}

/// `get_range_of` reads what it was told to read or nothing.
pub async fn a_range_of_a_changed_object_is_refused(store: Store) {
    put(&store, "x", noise(1000, 4)).await;
    let noted = head(&store, "x").await;
    assert_eq!(store.get_range_of(&noted, 10..20).await.expect("as noted"), noise(1000, 4)[10..20]);
    assert_eq!(store.get_range_of(&noted, 0..0).await.expect("as noted"), "");
    assert!(store.get_range_of(&noted, 990..1001).await.is_err(), "past the end");

    for changed in [noise(1001, 4), noise(1000, 5)] {
        put(&store, "x", changed).await;
        for range in [10..20, 0..0] {
            let error = store.get_range_of(&noted, range).await.map(drop).expect_err("another object by now");
            assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");
        }
    }
}

/// A folder is neither a longer name that begins alike nor an object of its name.
pub async fn listing_goes_by_whole_segments(store: Store) {
    for path in ["a/b/1", "a/b/c/2", "a/bc/3", "a/b.d", "ab", "z"] {
        put(&store, path, path.to_owned()).await;
    }
    assert_eq!(paths(&store, "").await, ["a/b.d", "a/b/1", "a/b/c/2", "a/bc/3", "ab", "z"]);
    assert_eq!(paths(&store, "a").await, ["a/b.d", "a/b/1", "a/b/c/2", "a/bc/3"]);
    assert_eq!(paths(&store, "a/b").await, ["a/b/1", "a/b/c/2"]);
    assert_eq!(paths(&store, "a/b/c").await, ["a/b/c/2"]);
    for nothing in ["z", "a/b.d", "nothing", "a/b/c/2/x"] {
        assert_eq!(paths(&store, nothing).await, [""; 0], "{nothing}");
    }
}

/// More objects than a service returns at once.
pub async fn listing_pages_through_many_objects(store: Store) {
    let count = 1100;
    let names: Vec<String> = (0..count).map(|n| format!("many/{}/{n}", n % 7)).collect();
    stream::iter(&names).for_each_concurrent(16, |name| put(&store, name, name.clone())).await;
    put(&store, "other", "x").await;
    let listed: BTreeSet<String> = paths(&store, "many").await.into_iter().collect();
    assert_eq!(listed, names.into_iter().collect());
}

/// A second write replaces the first, by `put` and by `writer`.
pub async fn the_last_write_stands(store: Store) {
    put(&store, "x", "the first, longer").await;
    put(&store, "x", "second").await;
    assert_eq!(get(&store, "x").await, "second");
    let mut writer = store.writer("x").await.expect("a writer");
    writer.write(Bytes::from_static(b"third")).await.expect("written");
    assert_eq!(get(&store, "x").await, "second", "still");
    writer.finish().await.expect("finished");
    assert_eq!(get(&store, "x").await, "third");
    assert_eq!(paths(&store, "").await, ["x"]);
}

/// Deleting removes one object and nothing else.
pub async fn a_deleted_object_is_gone_and_deleting_none_is_fine(store: Store) {
    store.delete("x").await.expect("an empty store");
    for path in ["a/b/x", "a/b/y", "a/z"] {
        put(&store, path, "1").await;
    }
    store.delete("a/b/none").await.expect("none in a folder");
    store.delete("none/x").await.expect("none in no folder");
    store.delete("a/b/x").await.expect("deleted");
    assert_missing(&store, "a/b/x").await;
    store.delete("a/b/x").await.expect("deleted again");
    assert_eq!(paths(&store, "").await, ["a/b/y", "a/z"]);
    store.delete("a/b/y").await.expect("deleted");
    store.delete("a/z").await.expect("deleted");
    assert_eq!(paths(&store, "").await, [""; 0]);
    put(&store, "a/b/x", "2").await;
    assert_eq!(get(&store, "a/b/x").await, "2", "in a folder that was emptied");
}

/// No call takes a path that could mean something else.
pub async fn a_bad_path_is_refused_by_every_call(store: Store) {
    for path in ["", "/x", "x/", "a//b", "..", "a/../b", "./a", "a/.", "a\\b", "a\0b", "a/%2e%2e/b", "a%2Fb", "a\nb"] {
        let meta = ObjectMeta { path: path.into(), len: 1, etag: None, modified_ms: 0 };
        let refused = [
            store.get(path).await.map(drop),
            store.get_range(path, 0..1).await.map(drop),
            store.get_range(path, 0..0).await.map(drop),
            store.get_range_of(&meta, 0..1).await.map(drop),
            store.head(path).await.map(drop),
            store.put(path, Bytes::from_static(b"x")).await,
            store.writer(path).await.map(drop),
            store.delete(path).await,
        ];
        for (call, refused) in refused.into_iter().enumerate() {
            assert!(matches!(refused, Err(StoreError::BadUrl { .. })), "{path:?}, call {call}: {refused:?}");
        }
        if !path.is_empty() {
            let listed: Vec<_> = store.list(path).collect().await;
            assert!(matches!(listed.as_slice(), [Err(StoreError::BadUrl { .. })]), "{path:?}: {listed:?}");
        }
    }
    assert_eq!(paths(&store, "").await, [""; 0]);
}

/// Names mean themselves: nothing in them is decoded, encoded twice or cut.
pub async fn odd_names_survive(store: Store) {
    let names = [
        "dt=2024-01-01 00%3A00/part-0.parquet",
        "100%",
        "%zz",
        "a b+c&d",
        "q?x=1#y",
        "é/日本/😀",
        "*[x]{y}",
        "...",
        ".hidden/_x",
        "'quoted'\"<&amp;>",
        "a~b!c@d$e^f(g)h,i;j:k=l|m",
    ];
    for name in names {
        put(&store, name, name.to_owned()).await;
    }
    for name in names {
        assert_eq!(get(&store, name).await, name);
        assert_eq!(head(&store, name).await.path, name);
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    assert_eq!(paths(&store, "").await, sorted);
    assert_eq!(paths(&store, "é").await, ["é/日本/😀"]);
    for name in names {
        store.delete(name).await.expect("deleted");
    }
    assert_eq!(paths(&store, "").await, [""; 0]);
}

/// Not a byte, not a name before `finish` returned.
pub async fn a_writer_shows_nothing_until_it_finished(store: Store) {
    let bytes = noise(12 << 20, 6);
    let mut writer = store.writer("a/large").await.expect("a writer");
    for piece in [0..6 << 20, 6 << 20..12 << 20] {
        writer.write(bytes.slice(piece)).await.expect("written");
        assert_missing(&store, "a/large").await;
        assert_eq!(paths(&store, "").await, [""; 0]);
    }
    writer.finish().await.expect("finished");
    assert_eq!(get(&store, "a/large").await, bytes);
    assert_eq!(paths(&store, "").await, ["a/large"]);
    let range = store.get_range("a/large", (5 << 20) - 1..(5 << 20) + 1).await.expect("across parts");
    assert_eq!(range, bytes[(5 << 20) - 1..(5 << 20) + 1]);
    assert_eq!(head(&store, "a/large").await.len, 12 << 20);
}

/// None at all, many small ones, and one of many parts.
pub async fn a_writer_takes_pieces_of_any_size(store: Store) {
    store.writer("empty").await.expect("a writer").finish().await.expect("finished");
    assert_eq!(get(&store, "empty").await, "");

    let bytes = noise(17_000_003, 7);
    let mut writer = store.writer("small-pieces").await.expect("a writer");
    let mut rest = bytes.clone();
    for size in [0usize, 1, 7, 4095, 65_537].iter().cycle() {
        if rest.is_empty() {
            break;
        }
        writer.write(rest.split_to(rest.len().min(*size))).await.expect("written");
    }
    writer.finish().await.expect("finished");
    assert!(get(&store, "small-pieces").await == bytes, "small pieces");

    let mut writer = store.writer("one-piece").await.expect("a writer");
    writer.write(bytes.clone()).await.expect("written");
    writer.finish().await.expect("finished");
    assert!(get(&store, "one-piece").await == bytes, "one piece");
}

/// What was given up never appears, small or large.
pub async fn an_aborted_or_dropped_writer_leaves_nothing(store: Store) {
    put(&store, "kept", "as it was").await;
    for size in [0, 10, 11 << 20] {
        for path in ["x", "kept"] {
            let mut writer = store.writer(path).await.expect("a writer");
            writer.write(noise(size, 8)).await.expect("written");
            writer.abort().await;

            let mut writer = store.writer(path).await.expect("a writer");
            writer.write(noise(size, 8)).await.expect("written");
            drop(writer);
        }
    }
    assert_eq!(paths(&store, "").await, ["kept"]);
    assert_eq!(get(&store, "kept").await, "as it was");
}

/// Folders come and go with their objects; a writer never loses its object to that.
pub async fn writers_and_deletes_in_one_folder_do_not_disturb_each_other(store: Store) {
    let rounds = (0..40).flat_map(|round| (0..4).map(move |writer| (round, writer)));
    stream::iter(rounds)
        .for_each_concurrent(8, |(round, writer)| {
            let store = &store;
            async move {
                // Every folder is empty again and again.
                let path = format!("deep/{}/folder/{writer}-{round}", round % 2);
                put(store, &path, path.clone()).await;
                assert_eq!(get(store, &path).await, path);
                store.delete(&path).await.expect("deleted");
                assert_missing(store, &path).await;
            }
        })
        .await;
    assert_eq!(paths(&store, "").await, [""; 0]);
}
