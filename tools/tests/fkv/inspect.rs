//! `fkv inspect` on what a real load wrote, whole and damaged.

use std::path::{Path, PathBuf};

use fkv_env::{Files, OsFiles};
use serde_json::json;

use crate::harness::{Place, Up, fkv, text, write_scores};

/// All files below `dir`.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = OsFiles.list(dir).expect("a directory");
    entries
        .into_iter()
        .flat_map(|entry| {
            let path = dir.join(&entry.name);
            if entry.is_dir { files_below(&path) } else { vec![path] }
        })
        .collect()
}

fn named(files: &[PathBuf], name: &str) -> PathBuf {
    let found = files.iter().find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
    found.unwrap_or_else(|| panic!("no {name} among {files:?}")).clone()
}

#[test]
fn packs_and_forms_of_a_load_can_be_looked_into_and_damage_is_found() {
    let place = Place::new();
    let up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "1"]);
    up.fkv(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"]).exits(0);
    let input = place.file("in.parquet");
    write_scores(&input, (0..50_000u64).map(|user| (user, 0.5)));
    up.fkv(&[
        "submit-load-task",
        "--table",
        "scores",
        "--input",
        text(&input),
        "--key",
        "user_id",
        "--value",
        "score",
        "--wait",
    ])
    .exits(0);
    let version = up.json(&["version", "show", "scores", "1"]);
    assert_eq!(up.terminate(), 0);

    let files = files_below(&place.cluster().join("store"));
    let (pack, form) = (named(&files, "pack-"), named(&files, "form"));
    let seen = fkv(&["inspect", text(&form), "--output", "json"]).exits(0).json();
    assert_eq!((&seen["format"], &seen["content_id"]), (&json!("form"), &version["content_id"]));
    assert_eq!(seen["layers"][0]["records"], 50_000);
    let shown = fkv(&["inspect", text(&form)]).exits(0).stdout;
    assert!(shown.contains("pack-") && shown.contains("50,000 records"), "{shown}");

    let seen = fkv(&["inspect", text(&pack), "--output", "json", "--records", "3"]).exits(0).json();
    assert_eq!((&seen["format"], &seen["sound"], &seen["records"]), (&json!("pack"), &json!(true), &json!(50_000)));
    assert_eq!(seen["displacement"].as_array().expect("a list").iter().filter_map(|n| n.as_u64()).sum::<u64>(), 50_000);
    assert_eq!(seen["first_records"].as_array().map(Vec::len), Some(3));
    assert_eq!(seen["first_records"][0]["value"], 0.5);
    let shown = fkv(&["inspect", text(&pack)]).exits(0).stdout;
    for word in ["mem table, u64 -> f32", "50,000", "lines from home", "HASH"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(fkv(&["inspect", text(&pack), "--verify"]).exits(0).stdout.contains("checksums"));

    // A flipped bit in the data of the first part.
    let mut bytes = OsFiles.read(&pack).expect("readable");
    bytes[100] ^= 1;
    let damaged = place.file("damaged");
    OsFiles.write_durably(&damaged, &bytes).expect("written");
    fkv(&["inspect", text(&damaged), "--verify"]).refuses(1, &["damaged", "1 parts of"]);
    let seen = fkv(&["inspect", text(&damaged), "--output", "json"]).exits(1).json();
    assert_eq!(seen["sound"], false);

    // Half a file, another file, no file.
    OsFiles.write_durably(&damaged, &bytes[..bytes.len() / 2]).expect("written");
    fkv(&["inspect", text(&damaged)]).refuses(1, &["damaged"]);
    fkv(&["inspect", text(&input)]).refuses(1, &["in.parquet"]);
    fkv(&["inspect", text(&place.file("none"))]).refuses(1, &["none"]);
}
