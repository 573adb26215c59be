//! From what a user names to files, on disk and on S3.

use bytes::Bytes;
use fkv_env::Env;
use fkv_store::inputs::resolve;
use fkv_store::testing::S3Process;
use fkv_store::{Inputs, Store, StoreError, StoreOptions, open};

/// What a data directory really looks like.
const TREE: [&str; 14] = [
    "day/part-0.parquet",
    "day/part-10.parquet",
    "day/part-2.parquet",
    "day/_SUCCESS",
    "day/.part-0.parquet.crc",
    "day/part-3.parquet._COPYING_",
    "day/_temporary/0/part-0.parquet",
    "day/.ipynb/part-9.parquet",
    "day/dt=2024-01-01/a.parquet",
    "day/dt=2024-01-02/b.parquet",
    "day/_year=2024/c.parquet",
    "day/notes.csv",
    "daybreak/x.parquet",
    "hidden/_only",
];

fn env() -> Env {
    Env::real(1).expect("threads start")
}

async fn plant(store: &Store) {
    for path in TREE {
        store.put(path, Bytes::from_static(b"data")).await.expect("written");
    }
    store.put("day/empty.parquet", Bytes::new()).await.expect("written");
}

fn names(inputs: &Inputs) -> Vec<&str> {
    inputs.files.iter().map(|file| file.path.as_str()).collect()
}

/// Runs everything below `root`, a URL where [`TREE`] is planted.
async fn check(root: &str, options: &StoreOptions) {
    let env = env();
    plant(&open(&env, root, options).expect("a store")).await;
    let all = [
        "_year=2024/c.parquet",
        "dt=2024-01-01/a.parquet",
        "dt=2024-01-02/b.parquet",
        "empty.parquet",
        "notes.csv",
        "part-0.parquet",
        "part-10.parquet",
        "part-2.parquet",
    ];
    for (input, below, expected) in [
        ("day", "day", &all[..]),
        ("day/", "day", &all[..]),
        ("day/part-2.parquet", "day", &["part-2.parquet"]),
        ("day/_SUCCESS", "day", &["_SUCCESS"]),
        ("day/part-*.parquet", "day", &["part-0.parquet", "part-10.parquet", "part-2.parquet"]),
        ("day/part-?.parquet", "day", &["part-0.parquet", "part-2.parquet"]),
        ("day/part-[1-9]*", "day", &["part-10.parquet", "part-2.parquet"]),
        ("day/{notes.csv,part-0.*}", "day", &["notes.csv", "part-0.parquet"]),
        ("day/dt=*", "day", &["dt=2024-01-01/a.parquet", "dt=2024-01-02/b.parquet"]),
        ("day/*/", "day", &all[..3]),
        ("day/dt=2024-01-0[2-9]/*.parquet", "day", &["dt=2024-01-02/b.parquet"]),
        ("day*/*0.parquet", "", &["day/part-0.parquet", "day/part-10.parquet"]),
        ("day/_temp*/0/part-0.parquet", "day", &["_temporary/0/part-0.parquet"]),
        ("day/empty.parquet", "day", &["empty.parquet"]),
    ] {
        let asked = format!("{root}/{input}");
        let inputs = resolve(&env, &asked, options).await.unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(names(&inputs), expected, "{asked}");
        let url_root = if below.is_empty() { root.to_owned() } else { format!("{root}/{below}") };
        for file in &inputs.files {
            assert_eq!((file.url_root.as_str(), inputs.store.url()), (url_root.as_str(), url_root.as_str()));
            assert_eq!(file.len, if file.path == "empty.parquet" { 0 } else { 4 }, "{}", file.path);
            assert!(file.modified_ms > 1_600_000_000_000);
            let read = inputs.store.get_range_of(&file.meta(), 0..file.len).await;
            assert_eq!(read.expect("as it was found").len() as u64, file.len, "{}", file.url());
        }
    }

    for (input, named) in [
        ("day/*.orc", "*.orc"),
        ("nothing", "no such file"),
        ("nothing/", "no such file"),
        ("nothing/*.parquet", "nothing below"),
        ("day/part-0.parquet/", "no such file"),
        ("hidden", "1 hidden files"),
        ("day/_S*x", "matches the pattern"),
    ] {
        let asked = format!("{root}/{input}");
        let error = resolve(&env, &asked, options).await.expect_err(input);
        assert!(matches!(error, StoreError::NoFiles { .. }), "{asked}: {error:?}");
        assert!(error.to_string().contains(&asked) && error.to_string().contains(named), "{error}");
    }
    for (input, named) in [
        ("day/../day", "`..`"),
        ("day/*/../x", "`..`"),
        ("day//x", "empty segment"),
        ("day/[x", "character class"),
        ("day/%2e%2e/x", "`%2E`"),
        ("day/*\\x", "backslash"),
    ] {
        let asked = format!("{root}/{input}");
        let error = resolve(&env, &asked, options).await.expect_err(input);
        assert!(matches!(error, StoreError::BadUrl { .. }), "{asked}: {error:?}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn inputs_are_found_on_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    check(&format!("file://{}", dir.path().display()), &StoreOptions::default()).await;
    let plain = format!("{}/day/part-?.parquet", dir.path().display());
    let inputs = resolve(&env(), &plain, &StoreOptions::default()).await.expect("an absolute path");
    assert_eq!(names(&inputs), ["part-0.parquet", "part-2.parquet"]);
}

#[tokio::test]
async fn inputs_are_found_on_s3() {
    let server = S3Process::start(&env()).await;
    check(&server.url(""), &server.options()).await;
}

#[tokio::test]
async fn inputs_are_found_on_s3_below_a_prefix() {
    let server = S3Process::start(&env()).await;
    check(&server.url("lake/raw"), &server.options()).await;
}

/// Checks which folder below `root` is found to be unfinished.
async fn check_unfinished(root: &str, options: &StoreOptions) {
    let env = env();
    let store = open(&env, root, options).expect("a store");
    let tree = ["done/_SUCCESS", "done/a", "done/deep/b", "open/c", "some/x=1/_SUCCESS", "some/x=1/d", "some/x=2/e"];
    for path in tree {
        store.put(path, Bytes::new()).await.expect("written");
    }
    for (input, expected) in [
        ("done", None),
        ("done/", None),
        ("done/a", None),
        ("done/deep/*", Some("done/deep")),
        ("open", Some("open")),
        ("open/c", Some("open")),
        ("some", Some("some/x=2")),
        ("some/x=1", None),
        ("some/x=*", Some("some/x=2")),
        ("{done,open}/*", Some("open")),
        ("{done,some}/**/[abd]", None),
    ] {
        let inputs = resolve(&env, &format!("{root}/{input}"), options).await.expect("found");
        let found = inputs.unfinished().await.expect("known");
        assert_eq!(found, expected.map(|folder| format!("{root}/{folder}")), "{input}");
    }
}

#[tokio::test]
async fn folders_without_success_are_found_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    check_unfinished(&format!("file://{}", dir.path().display()), &StoreOptions::default()).await;
}

#[tokio::test]
async fn folders_without_success_are_found_on_s3() {
    let s3 = S3Process::start(&env()).await;
    check_unfinished(&s3.url("lake"), &s3.options()).await;
}

#[tokio::test]
async fn markers_for_folders_are_no_files() {
    let server = S3Process::start(&env()).await;
    let store = open(&env(), &server.url("t"), &server.options()).expect("a store");
    store.put("d/x", Bytes::from_static(b"data")).await.expect("written");
    store.put("d_$folder$", Bytes::new()).await.expect("written");
    store.put("empty", Bytes::new()).await.expect("written");
    let inputs = resolve(&env(), &server.url("t"), &server.options()).await.expect("files");
    assert_eq!(names(&inputs), ["d/x", "empty"]);
}

/// A file that cannot be read is not left out; one that was not asked for disturbs nobody.
#[tokio::test]
async fn a_link_out_of_the_folder_fails_the_input_unless_it_is_hidden_or_no_match() {
    let (dir, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::fs::write(outside.path().join("x.parquet"), "s").expect("written");
    std::fs::write(dir.path().join("a.parquet"), "d").expect("written");
    let url = format!("file://{}", dir.path().display());
    let options = StoreOptions::default();

    std::os::unix::fs::symlink(outside.path().join("x.parquet"), dir.path().join("_x")).expect("linked");
    let inputs = resolve(&env(), &url, &options).await.expect("a hidden link is skipped");
    assert_eq!(names(&inputs), ["a.parquet"]);

    std::os::unix::fs::symlink(outside.path().join("x.parquet"), dir.path().join("x.parquet")).expect("linked");
    for input in [url.clone(), format!("{url}/*.parquet"), format!("{url}/x.parquet"), format!("{url}/**/y")] {
        let error = resolve(&env(), &input, &options).await.expect_err(&input);
        assert!(matches!(error, StoreError::Denied { .. }), "{input}: {error:?}");
        assert!(error.to_string().contains("x.parquet"), "{error}");
    }
    let inputs = resolve(&env(), &format!("{url}/a*.parquet"), &options).await.expect("not asked for");
    assert_eq!(names(&inputs), ["a.parquet"]);
}

#[tokio::test]
async fn a_special_character_in_a_name_is_written_in_brackets() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a*b", "axb", "{x}"] {
        std::fs::write(dir.path().join(name), "d").expect("written");
    }
    let url = format!("file://{}", dir.path().display());
    for (pattern, expected) in [("a[*]b", ["a*b"]), ("[{]x[}]", ["{x}"])] {
        let inputs = resolve(&env(), &format!("{url}/{pattern}"), &StoreOptions::default()).await.expect(pattern);
        assert_eq!(names(&inputs), expected);
    }
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_found_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("x.csv"), "1,2").expect("written");
    let url = format!("file://{}/x.csv", dir.path().display());
    let inputs = resolve(&env(), &url, &StoreOptions::default()).await.expect("found");
    std::fs::write(dir.path().join("x.csv"), "1,2,3").expect("written");
    let error = inputs.store.get_range_of(&inputs.files[0].meta(), 0..3).await.expect_err("changed");
    assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_url_says_which_are() {
    for (input, named) in [
        ("day/x.parquet", "not a URL"),
        ("hdfs://name/x", "known are"),
        ("s3://key:secret@bucket/x", "do not belong"),
        ("s3://*/x", "no bucket name"),
    ] {
        let error = resolve(&env(), input, &StoreOptions::default()).await.expect_err(input);
        assert!(error.to_string().contains(named) && !error.to_string().contains("secret@"), "{error}");
    }
}
