//! The tour of the README through the real binary: what a user types, what a user sees.

use crate::harness::{Place, Up, text, wait_for, write_bytes, write_scores};
use serde_json::{Value, json};

const USERS: u64 = 20_000;

/// Version 1 gives user u the score u + 0.5, version 2 gives u + 0.25.
fn score(user: u64, version: u64) -> f64 {
    f64::from(u32::try_from(user).expect("small")) + if version == 1 { 0.5 } else { 0.25 }
}

fn write_version(place: &Place, version: u64) -> String {
    let path = place.file(&format!("v{version}.parquet"));
    #[allow(clippy::cast_possible_truncation, reason = "exact in f32")]
    write_scores(&path, (0..USERS).map(|user| (user, score(user, version) as f32)));
    text(&path).to_owned()
}

fn submit(up: &Up, input: &str) -> Value {
    up.json(&[
        "submit-load-task",
        "--table",
        "scores",
        "--input",
        input,
        "--mode",
        "full",
        "--format",
        "parquet",
        "--key",
        "user_id",
        "--value",
        "score",
        "--wait",
    ])
}

/// Reads a few users, and asserts that all answers are of one version, `content`'s, under label `version`.
#[track_caller]
fn assert_shows(up: &Up, version: u64, content: u64) -> u64 {
    let answer = up.json(&["batch-get", "scores", "0", "7", "19999", "20000", "123"]);
    assert_eq!(answer["label"]["version"], version, "{answer}");
    let expected = [0, 7, 19_999, 20_000, 123].map(|user| {
        if user < USERS {
            json!({ "key": user.to_string(), "status": "found", "value": score(user, content) })
        } else {
            json!({ "key": user.to_string(), "status": "absent", "value": null })
        }
    });
    assert_eq!(answer["answers"], json!(expected));
    answer["label"]["epoch"].as_u64().expect("a number")
}

#[test]
fn the_tour_of_the_readme_works_as_written() {
    let place = Place::new();
    let up = Up::start(&place.cluster());
    assert_eq!(up.ready["sects"], 2);
    assert_eq!(up.ready["roles"], 3);
    assert!(up.ready["seconds"].as_f64() < Some(2.0), "{}", up.ready);

    let table = up.json(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"]);
    assert_eq!((&table["name"], &table["value_type"], &table["head"]), (&json!("scores"), &json!("f32"), &Value::Null));
    up.fkv(&["get", "scores", "7"]).refuses(1, &["scores"]);

    let first = submit(&up, &write_version(&place, 1));
    assert_eq!(
        (&first["created"], &first["task"]["state"], &first["task"]["version"]),
        (&json!(true), &json!("finished"), &json!(1))
    );
    assert_eq!(first["task"]["stats"]["records"], USERS);
    let epoch_1 = assert_shows(&up, 1, 1);
    assert_eq!(up.fkv(&["get", "scores", "7"]).exits(0).stdout, "7.5\n");
    let absent = up.fkv(&["get", "scores", "20000"]).exits(1);
    assert!(absent.stdout.is_empty() && absent.stderr.contains("absent"), "{absent:?}");

    let second = submit(&up, &write_version(&place, 2));
    assert_eq!(second["task"]["version"], 2);
    let epoch_2 = assert_shows(&up, 2, 2);
    assert!(epoch_2 > epoch_1);
    let versions = up.json(&["version", "list", "scores"]);
    let marks = |index: usize| {
        let version = &versions["versions"][index];
        (version["version"].clone(), version["is_head"].clone(), version["is_aligned"].clone())
    };
    assert_eq!(marks(0), (json!(2), json!(true), json!(true)));
    assert_eq!(marks(1), (json!(1), json!(false), json!(false)));
    assert_ne!(versions["versions"][0]["content_id"], versions["versions"][1]["content_id"]);
    assert_eq!(up.json(&["version", "show", "scores", "1"])["rows"], USERS);

    // A dry run changes nothing; the rollback itself is a flip, since the old image is still held.
    let dry = up.json(&["rollback", "scores", "--dry-run"]);
    assert_eq!((&dry["dry_run"], &dry["flips_at_once"]), (&json!(true), &json!(true)), "{dry}");
    assert_shows(&up, 2, 2);
    up.fkv(&["rollback", "scores", "--expected-epoch", "999"]).refuses(1, &["epoch"]);
    let back = up.json(&["rollback", "scores", "--to", "1", "--wait"]);
    assert_eq!(back["table"]["phase"], "rolled_back");
    let epoch_3 = assert_shows(&up, 1, 1);
    assert!(epoch_3 > epoch_2, "the old content under a newer epoch");
    up.fkv(&["submit-load-task", "--table", "scores", "--input", "/nowhere", "--key", "user_id", "--value", "score"])
        .refuses(1, &["release"]);

    let released = up.json(&["release", "scores", "--wait"]);
    assert_eq!(released["version"], 3);
    assert_shows(&up, 3, 1);
    let versions = up.json(&["version", "list", "scores"]);
    assert_eq!(versions["versions"][0]["content_id"], versions["versions"][2]["content_id"]);
    assert_eq!(versions["versions"][1]["quarantined"], true, "what was rolled back is never used again");

    // Everything comes back on the same directory, on the same server ports.
    let servers = up.ready["servers"].clone();
    assert_eq!(up.terminate(), 0);
    let up = Up::start(&place.cluster());
    assert_eq!(up.ready["servers"], servers);
    assert_eq!(up.ready["tables"], 1);
    assert_shows(&up, 3, 1);

    up.fkv(&["table", "delete", "scores"]).refuses(2, &["--yes"]);
    assert_eq!(up.json(&["table", "delete", "scores", "--dry-run"])["deleted"], false);
    assert_eq!(up.json(&["table", "delete", "scores", "--yes"])["deleted"], true);
    assert_eq!(up.json(&["table", "list"])["tables"], json!([]));
    up.fkv(&["table", "show", "scores"]).refuses(1, &["scores"]);
}

#[test]
fn keys_come_from_arguments_a_file_or_standard_input() {
    let place = Place::new();
    let up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "2"]);
    up.fkv(&["table", "create", "names", "--key-type", "bytes", "--value-type", "bytes"]).exits(0);
    let input = place.file("names.parquet");
    write_bytes(&input, &[(b"ada", b"lovelace"), (&[0, 255], &[1, 254]), (b"0x61", b"literally"), (b"empty", b"")]);
    up.fkv(&[
        "submit-load-task",
        "--table",
        "names",
        "--input",
        text(&input),
        "--key",
        "name",
        "--value",
        "value",
        "--wait",
    ])
    .exits(0);

    let keys = "ada\n0x00ff\ntext:0x61\nempty\nnobody\n";
    let expected = json!([
        { "key": "ada", "status": "found", "value": "lovelace" },
        { "key": "0x00ff", "status": "found", "value": { "hex": "01fe" } },
        { "key": "text:0x61", "status": "found", "value": "literally" },
        { "key": "empty", "status": "found", "value": "" },
        { "key": "nobody", "status": "absent", "value": null },
    ]);
    let lines: Vec<&str> = keys.lines().collect();
    let from_arguments = up.json(&[["batch-get", "names"].as_slice(), &lines].concat());
    assert_eq!(from_arguments["answers"], expected);
    let piped = up.fkv_with_input(&["batch-get", "names", "-", "--output", "json"], keys).exits(0).json();
    assert_eq!(piped["answers"], expected);
    let file = place.file("keys.txt");
    fkv_env::Files::write_durably(&fkv_env::OsFiles, &file, keys.as_bytes()).expect("written");
    assert_eq!(up.json(&["batch-get", "names", "--keys-file", text(&file)])["answers"], expected);

    let shown = up.fkv(&["batch-get", "names", "ada", "nobody"]).exits(0).stdout;
    assert!(shown.contains("lovelace") && shown.contains("absent") && shown.contains("version 1"), "{shown}");
}

#[test]
fn the_cluster_and_its_tables_can_be_looked_at() {
    let place = Place::new();
    let up = Up::start_with(&place.cluster(), &["--sects", "2", "--roles", "2"]);
    let cluster = wait_for("all slots", || {
        let cluster = up.json(&["cluster", "show"]);
        let slots = cluster["sects"].as_array()?.iter().flat_map(|sect| sect["slots"].as_array().into_iter().flatten());
        slots.clone().all(|slot| slot["claimed"] == true).then(|| cluster.clone())
    });
    assert_eq!(cluster["sects"][1]["slots"][1]["slot"], "b/1");
    assert_eq!(cluster["workers"].as_array().map(Vec::len), Some(1));
    let shown = up.fkv(&["cluster", "show"]).exits(0).stdout;
    for word in ["a/0", "b/1", "active", "127.0.0.1:"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    for (verb, words) in [
        (&["table", "list"][..], "no tables"),
        (&["task", "list"], "no tasks"),
        (&["table", "create", "wide", "--key-type", "u64", "--value-type", "f32[16]", "--ttl"], "f32[16]"),
        (&["table", "list"], "wide"),
        (&["table", "show", "wide"], "with expiry"),
        (&["version", "list", "wide"], "no versions"),
    ] {
        let shown = up.fkv(verb).exits(0).stdout;
        assert!(shown.contains(words), "{verb:?}: {shown}");
    }
}
